"""The host: documents -> ids -> packed rows -> global batches."""
