"""Answer and train at the published sizes on a CPU; see `__main__.py`."""
