"""Training data: packing into shards, features, and batches in a resumable order.

Start with `datamodule.VideoQADataModule`, `shards.reader.open_shards` and `packing.pack.pack`. This
file imports nothing, so that reading questions does not import torch.
"""
