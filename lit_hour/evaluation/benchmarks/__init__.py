"""The published files of each benchmark in, items out; one module for each benchmark."""
