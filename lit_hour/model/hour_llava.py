"""Hour-LLaVA: frames -> repository -> forgetting -> memory augmentation -> language model.

Source: Hour-LLaVA (arXiv:2506.05332).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

from lit_hour.config.schema import Config
from lit_hour.errors import ConfigError
from lit_hour.model.forgetting import forget
from lit_hour.model.language_model import LanguageModel
from lit_hour.model.memory_augmentation import MemoryAugmentation
from lit_hour.model.projector import Projector
from lit_hour.model.repository import build_repository
from lit_hour.model.splice import LanguageInputs, build_query, insert_video, pad_inputs
from lit_hour.model.vision_encoder import VisionEncoder
from lit_hour.types import Batch, Frames, Repository, Video


class HourLLaVA(nn.Module):
    """The whole model.

    A text may be asked without a video: a black frame then goes the same way and none of its tokens is read, so that all
    ranks of a sharded run do the same work.
    """

    def __init__(self, config: Config, vocabulary_size: int) -> None:
        super().__init__()
        self.settings = config.model.memory
        self.max_tokens = config.text.max_tokens
        self.vision = VisionEncoder(config.model.vision)
        if self.vision.size_pixels != config.video.size_pixels:
            raise ConfigError(
                f"video.size_pixels={config.video.size_pixels}, but {config.model.vision.name} takes"
                f" {self.vision.size_pixels}: set video.size_pixels={self.vision.size_pixels}"
            )
        self.language = LanguageModel(config.model.language, vocabulary_size)
        dim = self.language.dim
        self.projector = Projector(self.vision.dim, dim)
        self.frame_end = nn.Parameter(torch.randn(dim) * dim**-0.5)  # (dim,)
        self.memory = MemoryAugmentation(
            dim, self.language.num_heads, self.language.num_key_value_heads, self.settings.num_layers, self.language.rope_theta
        )

    def forward(self, batch: Batch, generators: Sequence[Generator] | None = None) -> Tensor:
        """The loss of a batch: `()`.

        Args:
            generators: one for each video, for random forgetting; None for uniform forgetting.
        """
        repositories = self.remember(batch.videos)
        return self.language.loss(self.read(batch, repositories, generators))

    def remember(self, videos: Sequence[Video | None]) -> list[Repository]:
        """The memory of each video, made once for all its questions."""
        return [self._remember(self._black_frame() if video is None else video) for video in videos]

    def read(
        self,
        batch: Batch,
        repositories: Sequence[Repository],
        generators: Sequence[Generator] | None = None,
    ) -> LanguageInputs:
        """What the language model reads: each text with its video's surviving tokens, after they looked back.

        `self.language.loss` learns from it; of `prompts_of` it, `self.language.generate` makes answers.
        """
        sequences = []
        for text, place in enumerate(batch.video_of_text):
            is_real = batch.attention_mask[text]  # (tokens,)
            input_ids, labels = batch.input_ids[text][is_real], batch.labels[text][is_real]  # (tokens,)
            embeddings = self.language.embed(input_ids)  # (tokens, dim)
            video_tokens = self._look_back(
                repositories[place],
                input_ids,
                embeddings,
                batch.question_mask[text][is_real],
                None if generators is None else generators[place],
            )  # (kept, dim)
            sequences.append(insert_video(input_ids, embeddings, labels, video_tokens))
        return pad_inputs(sequences, self.max_tokens, "right")

    def _remember(self, video: Video) -> Repository:
        tokens = self.vision(video.images) if isinstance(video, Frames) else video.tokens  # (frames, tokens, vision_dim)
        tokens = self.projector(tokens)  # (frames, tokens, dim)
        return build_repository(tokens, self.frame_end, video.timestamps, self.settings.min_frames)

    def _look_back(
        self,
        repository: Repository,
        input_ids: Tensor,
        embeddings: Tensor,
        question_mask: Tensor,
        generator: Generator | None,
    ) -> Tensor:
        kept = forget(repository, self.settings, generator)  # (kept,)
        query = build_query(input_ids, embeddings, question_mask, repository.tokens[kept], repository.positions[kept])
        seen = self.memory(query.tokens, repository.tokens, query.positions, repository.positions)  # (query, dim)
        return seen[query.is_video]  # (kept, dim)

    def _black_frame(self) -> Frames:
        device, side = self.frame_end.device, self.vision.size_pixels
        images = torch.zeros(1, 3, side, side, dtype=torch.uint8, device=device)  # (1, 3, height, width)
        return Frames(images, torch.zeros(1, device=device))
