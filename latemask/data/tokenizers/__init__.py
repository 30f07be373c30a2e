"""Tokenizers: special tokens, word starts, SentencePiece models."""
