"""The command `lit-hour`: `main.py` finds a command, the other files declare and run them."""
