"""Shards: indexed WebDataset tars on disk or behind a URL.

`reader.open_shards` is the entry point.
"""
