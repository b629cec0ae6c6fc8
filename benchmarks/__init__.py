"""One question per file; results in ``results/``."""
