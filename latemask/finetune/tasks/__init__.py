"""The tasks: files, labels, metrics, submissions."""
