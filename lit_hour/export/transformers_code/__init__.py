"""Code that the export puts beside the weights; it imports nothing of lit_hour."""
