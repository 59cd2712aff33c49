"""Batch -> loss or answer. Plain torch: no Lightning, no files, no tokenizer. Start at hour_llava.py."""
