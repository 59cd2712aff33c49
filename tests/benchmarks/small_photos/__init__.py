"""Photographs in real footage, read by real parts: `python -m tests.benchmarks.small_photos`.

Open `__main__.py` first. Its results are in conf/experiment/small/README.md.
"""
