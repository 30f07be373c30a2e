"""What users type, a command a file; nobody imports them."""
