"""Synthetic videos with known ground truth, and questions about them.

Open `story.py` first, then `dataset.py`.
"""
