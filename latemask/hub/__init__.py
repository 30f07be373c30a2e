"""Hugging Face folders, out and in."""
