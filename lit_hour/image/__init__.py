"""The bytes of a picture file in, what the vision encoder reads out: a grid of tiles, or squares of several pictures."""
