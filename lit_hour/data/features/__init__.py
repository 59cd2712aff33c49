"""Precomputed vision features: the stored format, their source, and the writer of their shards."""
