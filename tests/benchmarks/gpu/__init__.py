"""`make gpu`: the tests marked `gpu`, then speed at the 3B sizes; see `command.py`."""
