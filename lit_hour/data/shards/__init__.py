"""Folders of tar shards: reading, caching and decoding stored samples."""
