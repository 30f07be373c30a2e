"""What runs have come to, in pictures and tables."""
