"""The only home of Lightning's Trainer; start at `fit.py`, or at `module.py` for the LightningModule."""
