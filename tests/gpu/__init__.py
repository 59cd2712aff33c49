"""Tests for a GPU, `make gpu`; with `DEVICE=cpu` the same tests are rehearsed on a CPU."""
