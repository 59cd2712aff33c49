"""What a training step learns; `table.build_objective` is the entry point."""
