"""The host side: documents, tokenizer, packed rows, batches."""
