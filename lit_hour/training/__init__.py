"""The only home of the Trainer. Start at fit.py."""
