"""The plug-in for lmms-eval: its requests in, the answers and likelihoods of a run out. lmms-eval is optional."""
