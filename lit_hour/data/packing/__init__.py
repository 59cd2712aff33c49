"""Packing of media files and questions into tar shards. Start with `pack.pack`."""
