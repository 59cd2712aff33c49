"""Put a needle into a user's own video at given depths and lengths, and test a run on it.

Open `run_needle.py` first, then `haystack.py`. The command is `lit-hour needle`.
"""
