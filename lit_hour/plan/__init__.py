"""Plan a training run without its GPUs, weights or data: memory, operations and time of a step."""
