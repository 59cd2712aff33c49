"""A video file in, sampled frames out: when to look (sampling), what is on screen then (decode), in which shape (transform)."""
