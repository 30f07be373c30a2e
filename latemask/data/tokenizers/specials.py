"""The special tokens of a tokenizer that is trained here: names and ids."""

SPECIALS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
BOS, PAD, EOS, UNK, MASK = range(len(SPECIALS))
NUM_SPECIALS = len(SPECIALS)
