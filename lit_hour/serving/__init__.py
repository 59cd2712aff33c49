"""Checkpoint, video and question -> a streamed answer."""
