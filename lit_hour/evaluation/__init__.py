"""Benchmark files and a model's answers in, scores that carry their whole protocol out. Only `lmms` needs torch."""
