"""Pretrain a small vision tower on single frames of made-up stories.

Entry point: `pretrain_tower`. Each token has to tell linearly what is in the frame and what lies at
it: the tower is trained together with a linear head for each label, and the heads are dropped.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

from lit_hour.config.schema import Config
from lit_hour.errors import ConfigError
from lit_hour.io.atomic import atomic_path
from lit_hour.model.vision_encoder import VisionEncoder
from lit_hour.synthetic.labeled_frames import (
    FRAME_CLASSES,
    POSE_DIM,
    TOKEN_CLASSES,
    LabeledFrames,
    draw_labeled_frames,
)
from lit_hour.synthetic.pretraining import first_story_seeds, train, write_report

REPORT_SUFFIX = ".figures.json"  # of the file beside the weights
POSE_WEIGHT = 10.0  # of the mean distance, in fractions of the frame, in the loss
EMPTY_WEIGHT = 0.25  # of tokens at which nothing lies
POSE_TOLERANCE = 0.05  # of the frame's side; a pose as near as this is correct


class FrameReader(nn.Module):
    """A linear head for each label, which reads it from one token."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        sizes = {**FRAME_CLASSES, **TOKEN_CLASSES}
        self.heads = nn.ModuleDict({name: nn.Linear(dim, size) for name, size in sizes.items()})
        self.pose = nn.Linear(dim, POSE_DIM)

    def loss(self, tokens: Tensor, frames: LabeledFrames) -> Tensor:
        """Compute the sum of the losses of all labels, read from each token.

        Args:
            tokens: `(frames, tokens, dim)`.
            frames: their labels.

        Returns:
            `()`.
        """
        losses = []
        for name in FRAME_CLASSES:
            labels = frames.classes[name][:, None].expand(tokens.shape[:2])  # (frames, tokens)
            losses.append(F.cross_entropy(self.heads[name](tokens).flatten(0, 1), labels.flatten()))
        for name in TOKEN_CLASSES:
            labels = frames.classes[name].flatten()  # (frames * tokens,)
            weights = torch.where(labels > 0, 1.0, EMPTY_WEIGHT)  # (frames * tokens,)
            scores = self.heads[name](tokens).flatten(0, 1)  # (frames * tokens, classes)
            loss = F.cross_entropy(scores, labels, reduction="none")  # (frames * tokens,)
            losses.append((loss * weights).sum() / weights.sum())
        errors = self.pose(tokens) - frames.poses[:, None]  # (frames, tokens, 3), or NaN
        losses.append(POSE_WEIGHT * errors.abs().nanmean())
        return torch.stack([loss for loss in losses if not loss.isnan()]).sum()

    @torch.no_grad()
    def accuracy(self, tokens: Tensor, frames: LabeledFrames) -> dict[str, float]:
        """Compute the share of correct readings, 0 to 1, of each label that the frames have.

        What is true of a frame is read from the mean of its tokens. Of the labels of tokens only
        those count at which something lies.
        """
        mean, correct = tokens.mean(dim=1), {}  # (frames, dim)
        for name in FRAME_CLASSES:
            labels = frames.classes[name]  # (frames,)
            correct[name] = (self.heads[name](mean).argmax(dim=-1) == labels)[labels >= 0]
        for name in TOKEN_CLASSES:
            labels = frames.classes[name]  # (frames, tokens)
            correct[name] = (self.heads[name](tokens).argmax(dim=-1) == labels)[labels > 0]
        errors = (self.pose(mean) - frames.poses).abs()  # (frames, 3)
        errors = errors[~errors.isnan().any(dim=1)]  # (figures, 3)
        correct["position"] = errors[:, :2].amax(dim=1) < POSE_TOLERANCE
        correct["radius"] = errors[:, 2] < POSE_TOLERANCE / 2
        return {name: hits.float().mean().item() for name, hits in correct.items() if len(hits)}


def pretrain_tower(config: Config, out: Path) -> dict[str, float]:
    """Train a tower, and write its weights and how well it reads unseen frames.

    Args:
        config: `model.vision`, `video`, `pack.jpeg_quality` and `pretrain_tower` are used.
        out: file of the weights, in float16; the figures are written beside it.

    Returns:
        Accuracy of each label on unseen frames, 0 to 1.

    Raises:
        ConfigError: `out` is not a .safetensors file in an existing folder.
    """
    if out.suffix != ".safetensors" or not out.parent.is_dir():
        raise ConfigError(
            f"Cannot write the weights to {out}. Name a .safetensors file in an existing folder"
        )
    settings = config.pretrain_tower
    torch.manual_seed(settings.seed)
    vision = replace(config.model.vision, weights="", max_trainable_frames=settings.batch_size)
    encoder = VisionEncoder(vision)
    first, first_unseen = first_story_seeds(settings.seed)
    frames = draw_frames(config, encoder, settings.num_frames, first)
    unseen = draw_frames(config, encoder, settings.num_val_frames, first_unseen)
    reader = train_tower(encoder, frames, config)
    with torch.no_grad():  # rounded as in the file
        for parameter in encoder.parameters():
            parameter.copy_(parameter.half())
        accuracy = reader.accuracy(encoder.encode_images(unseen.images), unseen)
    state = {name: weight.half() for name, weight in encoder.open_clip_state_dict().items()}
    with atomic_path(out) as file:
        file.write_bytes(save(state))
    write_report(out.with_suffix(REPORT_SUFFIX), config.model.vision.name, settings, accuracy)
    return accuracy


def draw_frames(
    config: Config, encoder: VisionEncoder, num_frames: int, seed: int
) -> LabeledFrames:
    """Draw frames as the made-up videos of these settings show them to this encoder."""
    return draw_labeled_frames(
        num_frames,
        seed,
        config.synthetic.image_size,
        encoder.image_size,
        config.pack.jpeg_quality,
        math.isqrt(encoder.tokens_per_frame),
    )


def train_tower(encoder: VisionEncoder, frames: LabeledFrames, config: Config) -> FrameReader:
    """Train an encoder in place, and return the heads that were trained with it."""
    settings = config.pretrain_tower
    reader = FrameReader(encoder.dim)
    generator = torch.Generator().manual_seed(settings.seed)

    def compute_loss() -> Tensor:
        indices = torch.randint(len(frames.images), (settings.batch_size,), generator=generator)
        batch = frames.select(indices)
        return reader.loss(encoder.encode_images(batch.images), batch)

    parameters = [*encoder.parameters(), *reader.parameters()]
    train([{"params": parameters, "lr": settings.learning_rate}], settings, compute_loss)
    return reader
