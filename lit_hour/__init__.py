"""Hour-long video-language modelling on PyTorch Lightning: Hour-LLaVA and VideoMarathon.

Source: arXiv:2506.05332.
"""

__version__ = "0.1.0"
