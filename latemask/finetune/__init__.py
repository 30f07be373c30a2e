"""From a pre-trained encoder to a task."""
