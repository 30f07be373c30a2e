"""What of a model fine-tuning trains and stores."""
