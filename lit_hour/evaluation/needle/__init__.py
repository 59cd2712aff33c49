"""Put a needle into a user's own video at given depths and lengths, and ask a run about it.

Open `run_needle.py` first, then `haystack.py`. The command is `lit-hour needle`.
"""
