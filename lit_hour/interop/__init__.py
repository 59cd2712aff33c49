"""Published checkpoints <-> runs of this project."""
