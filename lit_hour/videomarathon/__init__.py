"""Generate instruction data from videos with a teacher model, as for VideoMarathon.

Open `annotate.py` first (`annotate`), then `annotation.py`, which lists the steps for one video.
Import the modules themselves.
"""
