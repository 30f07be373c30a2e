"""Where documents come from: text files, TFDS, the running Python."""
