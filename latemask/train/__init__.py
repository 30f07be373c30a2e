"""Pre-training: THE train step, THE loop, a run."""
