"""Plug-in for lmms-eval: lit_hour as a model that runs the tasks of lmms-eval."""
