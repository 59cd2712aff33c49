"""Export of a run as a folder that plain transformers loads. Open `to_transformers.py` first."""
