"""The small tower of the model's tests."""

import open_clip

from tests import REPOSITORY

open_clip.add_model_config(REPOSITORY / "tests/model/towers")
