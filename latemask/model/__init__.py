"""`Masked` -> hidden states of the targets -> sums of the loss."""
