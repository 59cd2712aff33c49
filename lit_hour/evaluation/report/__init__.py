"""Scores of a model on a benchmark: `report` builds them, `compare` sets two side by side."""
