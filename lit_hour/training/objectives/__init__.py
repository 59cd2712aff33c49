"""Objectives of a training step; `table.build_objective` is the entry point."""
