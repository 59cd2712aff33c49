"""Training data: question files and shards in, batches in a resumable order out.

Start with `datamodule.VideoQADataModule`, `shards.reader.open_shards` and `packing.pack.pack`. This
file imports nothing, so that reading questions does not import torch.
"""
