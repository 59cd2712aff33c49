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
from lit_hour.model.image_repository import build_image_set_repository, build_tiled_image_repository
from lit_hour.model.language_model import LanguageModel
from lit_hour.model.memory_augmentation import MemoryAugmentation
from lit_hour.model.projector import Projector
from lit_hour.model.repository import build_repository
from lit_hour.model.splice import LanguageInputs, build_query, insert_visual, pad_inputs
from lit_hour.model.vision_encoder import VisionEncoder
from lit_hour.types import Batch, Features, Frames, ImageSet, Repository, TiledImage, Visual


class HourLLaVA(nn.Module):
    """The whole model.

    Weights are random; who has others loads them over these. A text may ask about nothing to see: a black picture then goes
    the same way and none of its tokens is read, so that all ranks of a sharded run do the same work.

    Attributes:
        num_cut_texts: texts that `forward` had to cut to `text.max_tokens`, by now.
    """

    def __init__(self, config: Config, vocabulary_size: int) -> None:
        super().__init__()
        self.settings = config.model.memory
        self.max_tokens = config.text.max_tokens
        self.num_cut_texts = 0
        self.max_tiles = config.image.max_tiles
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
        """The loss of a batch: `()`; for `generators` see `read`."""
        repositories = self.remember(batch.visuals)
        inputs = self.read(batch, repositories, generators)
        self.num_cut_texts += inputs.num_cut
        return self.language.loss(inputs)

    def remember(self, visuals: Sequence[Visual | None]) -> list[Repository]:
        """The memory of each video or picture, made once for all its questions."""
        return [self._remember(self._black_picture() if visual is None else visual) for visual in visuals]

    def read(
        self,
        batch: Batch,
        repositories: Sequence[Repository],
        generators: Sequence[Generator] | None = None,
    ) -> LanguageInputs:
        """What the language model reads: each text with the surviving tokens of what it asks about, after they looked back.

        `self.language.loss` learns from it; of `prompts_of` it, `self.language.generate` makes answers.

        Args:
            generators: in training one for each visual, on the CPU, from which forgetting draws. Without them forgetting is
                that of answers, the same each time.
        """
        sequences = []
        for text, place in enumerate(batch.visual_of_text):
            is_real = batch.attention_mask[text]  # (tokens,)
            input_ids, labels = batch.input_ids[text][is_real], batch.labels[text][is_real]  # (tokens,)
            embeddings = self.language.embed(input_ids)  # (tokens, dim)
            visual_tokens = self._look_back(
                repositories[place],
                input_ids,
                embeddings,
                batch.question_mask[text][is_real],
                None if generators is None else generators[place],
            )  # (kept, dim) for each placeholder
            sequences.append(insert_visual(input_ids, embeddings, labels, visual_tokens))
        return pad_inputs(sequences, self.max_tokens, "right")

    def _remember(self, visual: Visual) -> Repository:
        if isinstance(visual, Frames | Features):
            tokens = self.vision(visual.images) if isinstance(visual, Frames) else self.vision.pool(visual.tokens)
            tokens = self.projector(tokens.to(self.frame_end.dtype))  # (frames, tokens, dim)
            return build_repository(tokens, self.frame_end, visual.timestamps, self.settings.min_frames)
        if isinstance(visual, TiledImage):
            tokens = self.projector(self.vision(visual.tiles, pooled=False))  # (tiles, tokens, dim)
            return build_tiled_image_repository(tokens, self.frame_end, visual.grid, visual.size_pixels, self.max_tiles)
        tokens = self.projector(self.vision(visual.images, pooled=False))  # (images, tokens, dim)
        return build_image_set_repository(tokens, self.frame_end)

    def _look_back(
        self,
        repository: Repository,
        input_ids: Tensor,
        embeddings: Tensor,
        question_mask: Tensor,
        generator: Generator | None,
    ) -> list[Tensor]:
        answers_now = generator is None
        spatial = self.settings.answer_spatial_forgetting if answers_now else self.settings.spatial_forgetting
        question = embeddings[question_mask & (input_ids >= 0)]  # (question, dim)
        kept = forget(repository, question, spatial, self.settings, generator or Generator().manual_seed(0))
        query = build_query(
            input_ids,
            embeddings,
            question_mask,
            [repository.tokens[places] for places in kept],  # (kept, dim)
            [repository.positions[places] for places in kept],  # (kept,)
        )
        seen = self.memory(query.tokens, repository.tokens, query.positions, repository.positions)  # (query, dim)
        return list(seen[query.is_visual].split([len(places) for places in kept]))  # (kept, dim) for each placeholder

    def _black_picture(self) -> ImageSet:
        side = self.vision.size_pixels
        return ImageSet(torch.zeros(1, 3, side, side, dtype=torch.uint8, device=self.frame_end.device))
