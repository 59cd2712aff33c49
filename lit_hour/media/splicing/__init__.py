"""Assemble videos from parts of other videos, copying packets wherever no frame changes.

Open `splice.py` first (`splice_video`), then `footage.py` and `conform.py`. Nothing here imports
torch, so that processes that make videos start fast.
"""
