"""One module per published benchmark; each defines a `BENCHMARK` that `load_benchmark` uses."""
