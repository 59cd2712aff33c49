"""Photographs in real footage, and questions about them, for `lit-hour synthesize --footage`.

Open `footage_story.py` first (what a video shows), then `build.py` (`synthesize_footage`).
"""
