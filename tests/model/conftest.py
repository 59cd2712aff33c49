"""Towers of the tests: one as small as possible, and one as wide as the published one."""

from pathlib import Path

import open_clip

open_clip.add_model_config(Path(__file__).parent / "towers")
