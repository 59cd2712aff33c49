"""Packing of files and questions into shards. `pack.pack` is the entry point."""
