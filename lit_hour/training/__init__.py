"""Training with Lightning: start at `fit.py`, or at `module.py` for the LightningModule."""
