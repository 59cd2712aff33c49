"""Every setting, once: type, default, unit, range and meaning (schema.py), and how files and words change it (load.py)."""
