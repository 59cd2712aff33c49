"""Checkpoints of a run: reading and writing them, and finding the one to resume from."""
