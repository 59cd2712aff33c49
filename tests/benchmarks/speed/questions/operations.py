"""Operations of an optimizer step of the 3B model, by the number of conversations in a sample."""

from __future__ import annotations

import math
from dataclasses import replace

from lit_hour.config.load import load_config
from lit_hour.config.schema import Config
from lit_hour.training.flops import Shapes, attention, dense, step_flops
from tests import published_stage

VOCAB_SIZE = 151_936
HOUR_FRAMES = 3600
NUM_QUESTIONS = 5  # of a conversation
TEXT_TOKENS, QUESTION_TOKENS, LABELS = 350, 250, 60  # of a conversation
# so400m up to its layer before the last one, at 384 pixels.
TOWER_BLOCKS, TOWER_DIM, TOWER_HIDDEN, TOWER_TOKENS = 26, 1152, 4304, 729


def operations(num_frames: int) -> dict[str, float]:
    """Return the operations of a step of stage 3 for a video and for a conversation about it.

    The vision encoder is frozen, and counts once for each frame.

    Returns:
        Operations of "encoding" a video, of its "repository" (projector, keys and values), and of
        each "conversation" (MemAug's query and the language model).
    """
    config = load_config(published_stage("3b", "s3"))
    shapes = shapes_of_video(config, num_frames)
    alone = replace(shapes, num_query=0, num_kept=0, num_language=0, num_labels=0)
    video = sum(step_flops(config, VOCAB_SIZE, alone).values())
    both = sum(step_flops(config, VOCAB_SIZE, shapes).values())
    block = 4 * TOWER_DIM**2 + 2 * TOWER_DIM * TOWER_HIDDEN  # weights
    frame = dense(TOWER_TOKENS, block, is_trained=False, needs_input_gradient=False)
    frame += attention(TOWER_TOKENS, TOWER_TOKENS, TOWER_DIM) / 3  # no backward pass
    return {
        "encoding": num_frames * TOWER_BLOCKS * frame,
        "repository": video,
        "conversation": both - video,
    }


def shapes_of_video(config: Config, num_frames: int) -> Shapes:
    """Return the numbers of tokens in each part for one conversation about a video."""
    memaug, per_frame = config.model.memaug, config.model.vision.grid**2
    kept_frames = min(memaug.max_kept_frames, num_frames // 4)
    num_kept = kept_frames * (math.ceil(memaug.spatial_keep_ratio * per_frame) + 1)
    return Shapes(
        vision_dim=TOWER_DIM,
        num_projected=num_frames * per_frame,
        num_memory=num_frames * (per_frame + 1),
        num_query=num_kept + QUESTION_TOKENS,
        num_kept=num_kept,
        num_language=num_kept + TEXT_TOKENS,
        num_labels=LABELS,
    )
