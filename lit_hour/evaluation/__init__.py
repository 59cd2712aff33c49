"""Benchmark files and a model's answers in, scores that carry their whole protocol out. Nothing here needs torch."""
