"""Scenes of the two simple kinds of stories, easy and needle."""
