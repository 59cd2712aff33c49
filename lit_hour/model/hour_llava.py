"""Hour-LLaVA: frames -> repository -> forgetting -> memory augmentation -> language model.

Source: Hour-LLaVA (arXiv:2506.05332).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor, nn

from lit_hour.config.schema import Config
from lit_hour.errors import ConfigError, QuestionError
from lit_hour.io.hashing import hash_weights
from lit_hour.model.forgetting import CONTENT_BASED, forget
from lit_hour.model.language_model import LanguageModel
from lit_hour.model.memaug import MemoryAugmentation, PreparedMemory
from lit_hour.model.memory_repository import (
    AnyRepository,
    CachedRepository,
    MemoryRepository,
    MemoryTokens,
    build_image_set_repository,
    build_lazy_repository,
    build_tiled_image_repository,
    build_video_repository,
)
from lit_hour.model.multimodal_inputs import (
    LLMInputs,
    MemAugQuery,
    build_memaug_query,
    merge_visual_tokens,
    pad_inputs,
    truncate_to_prompts,
)
from lit_hour.model.projector import Projector
from lit_hour.model.vision_encoder import VisionEncoder
from lit_hour.types import Batch, ImageSet, TiledImage, Video, Visual


class HourLLaVA(nn.Module):
    """The whole model.

    Weights are random; who has others loads them over these. A text may ask about nothing to see: a black picture then goes
    the same way and none of its tokens is read. Whatever a batch holds, `forward` and `examine` call the vision encoder,
    each block of MemAug and each layer of the language model once, so that all ranks of a sharded run stay in step.

    Attributes:
        num_cut_texts: texts that `forward` had to cut to `text.max_tokens`, by now.
    """

    def __init__(self, config: Config, vocabulary_size: int) -> None:
        super().__init__()
        self.settings = config.model.memaug
        self.max_tokens = config.text.max_tokens
        self.num_cut_texts = 0
        self.max_tiles = config.image.max_tiles
        self.vision = VisionEncoder(config.model.vision)
        if self.vision.image_size != config.video.image_size:
            raise ConfigError(
                f"video.image_size={config.video.image_size}, but {config.model.vision.name} takes"
                f" {self.vision.image_size}: set video.image_size={self.vision.image_size}"
            )
        self.llm = LanguageModel(config.model.llm, vocabulary_size)
        dim = self.llm.dim
        self.projector = Projector(self.vision.dim, dim)
        self.frame_newline = nn.Parameter(init_frame_newline(dim))  # (dim,)
        self.memaug = MemoryAugmentation(
            dim,
            self.llm.num_heads,
            self.llm.num_key_value_heads,
            self.settings.num_layers,
            self.llm.rope_theta,
            self.settings.initializer_range,
        )

    def forward(self, batch: Batch, generators: Sequence[Generator] | None = None) -> Tensor:
        """The loss of a batch: `()`; for `generators` see `read`."""
        inputs = self.build_inputs(batch, self.build_lazy_repositories(batch.visuals), generators)
        self.num_cut_texts += inputs.num_truncated
        return self.llm.loss(inputs)

    def examine(
        self,
        batch: Batch,
        max_new_tokens: int,
        end_id: int,
        any_rank: Callable[[bool], bool] = bool,
    ) -> tuple[Tensor, Tensor]:
        """The loss `()` and the answers `(texts, tokens)` of a batch; each visual is remembered once for both.

        For `end_id` and `any_rank` see `LanguageModel.generate`.

        Raises:
            QuestionError: a question and its answer do not fit beside the visual tokens.
        """
        inputs = self.build_inputs(batch, self.build_lazy_repositories(batch.visuals))
        if inputs.num_truncated:
            raise QuestionError(
                f"{inputs.num_truncated} questions about {batch.keys[0]} do not fit beside its tokens in"
                f" text.max_tokens={self.max_tokens}: raise it, or forget more (model.memaug)"
            )
        loss = self.llm.loss(inputs)  # ()
        answers = list(
            self.llm.generate(truncate_to_prompts(inputs), max_new_tokens, end_id, any_rank)
        )  # (texts,) for each
        return loss, torch.stack(answers, dim=1)  # (), (texts, tokens)

    def build_repositories(self, visuals: Sequence[Visual | None]) -> list[MemoryRepository]:
        """The memory of each video or picture, made once for all its questions."""
        shown = [self._black_picture() if visual is None else visual for visual in visuals]
        return [
            self._lay_out(visual, tokens)
            for visual, tokens in zip(shown, self.encode_visuals(shown), strict=True)
        ]

    def build_lazy_repositories(self, visuals: Sequence[Visual | None]) -> list[AnyRepository]:
        """As `remember`, for `read` alone: the tokens of a video are not made, where nothing but MemAug looks at them all."""
        if not self.settings.use_full_memory or self.settings.temporal_forgetting in CONTENT_BASED:
            return list(self.build_repositories(visuals))
        shown = [self._black_picture() if visual is None else visual for visual in visuals]
        encoded = [
            tokens.to(self.frame_newline.dtype) for tokens in self.vision.forward_many(shown)
        ]  # (frames, tokens, vision_dim)
        return [
            build_lazy_repository(
                tokens,
                self.projector,
                self.frame_newline,
                visual.timestamps,
                self.settings.min_frames,
            )
            if isinstance(visual, Video)
            else self._lay_out(visual, self.projector(tokens))
            for visual, tokens in zip(shown, encoded, strict=True)
        ]

    def encode_visuals(self, visuals: Sequence[Visual]) -> list[Tensor]:
        """The tokens of each video or picture as the language model reads them: `(frames, tokens, dim)`."""
        encoded = self.vision.forward_many(visuals)  # (frames, tokens, vision_dim) for each
        return [
            self.projector(tokens.to(self.frame_newline.dtype)) for tokens in encoded
        ]  # (frames, tokens, dim) for each

    def with_kv_cache(self, repository: MemoryRepository) -> MemoryRepository:
        """The same memory with all that its questions have in common, so that each costs its own tokens and no more."""
        if not self.settings.use_full_memory:
            return repository
        keys_values = self.memaug.build_kv_caches(
            repository.tokens, repository.positions, self.frame_newline.dtype
        )
        return CachedRepository(**vars(repository), kv_caches=keys_values)

    def digest(self) -> str:
        """SHA-256 of the weights that decide what `remember` gives: not of those that prepare it, ask it and answer."""
        weights = {**self.projector.state_dict(), "frame_newline": self.frame_newline}
        return hash_weights(weights, self.vision.digest().encode())

    def build_inputs(
        self,
        batch: Batch,
        repositories: Sequence[AnyRepository],
        generators: Sequence[Generator] | None = None,
    ) -> LLMInputs:
        """What the language model reads: each text with the surviving tokens of what it asks about, after they looked back.

        `self.llm.loss` learns from it; of `truncate_to_prompts` it, `self.llm.generate` makes answers.

        Args:
            generators: in training one for each visual, on the CPU, from which forgetting draws. Without them forgetting is
                that of answers, the same each time.
        """
        texts, queries = [], []
        for text, place in enumerate(batch.visual_of_text):
            is_real = batch.attention_mask[text]  # (tokens,)
            input_ids, labels = (
                batch.input_ids[text][is_real],
                batch.labels[text][is_real],
            )  # (tokens,)
            embeddings = self.llm.embed(input_ids)  # (tokens, dim)
            generator = None if generators is None else generators[place]
            texts.append((input_ids, embeddings, labels))
            queries.append(
                self._ask(
                    repositories[place],
                    input_ids,
                    embeddings,
                    batch.question_mask[text][is_real],
                    generator,
                )
            )
        memories = [self._looked_into(repository) for repository in repositories]
        seen = self.memaug.forward_many(
            [query.tokens for query in queries],
            [memory for memory, _ in memories],
            batch.visual_of_text,
            [query.positions for query in queries],
            [positions for _, positions in memories],
        )  # (query, dim) for each text
        sequences = [
            merge_visual_tokens(*text, tokens[query.is_visual].split(query.num_visual_tokens))
            for text, query, tokens in zip(texts, queries, seen, strict=True)
        ]
        return pad_inputs(sequences, self.max_tokens, "right")

    def _looked_into(
        self, repository: AnyRepository
    ) -> tuple[MemoryTokens | PreparedMemory | None, Tensor | None]:
        """What MemAug is given of a repository, and its positions if they are still needed."""
        if not self.settings.use_full_memory:
            return None, None
        if isinstance(repository, CachedRepository):
            return repository.kv_caches, None
        return repository.tokens, repository.positions  # (memory, dim), (memory,)

    def _lay_out(self, visual: Visual, tokens: Tensor) -> MemoryRepository:
        """Projected tokens `(frames, tokens, dim)` -> the repository."""
        if isinstance(visual, TiledImage):
            return build_tiled_image_repository(
                tokens, self.frame_newline, visual.grid, visual.size_pixels, self.max_tiles
            )
        if isinstance(visual, ImageSet):
            return build_image_set_repository(tokens, self.frame_newline)
        return build_video_repository(
            tokens, self.frame_newline, visual.timestamps, self.settings.min_frames
        )

    def _ask(
        self,
        repository: AnyRepository,
        input_ids: Tensor,
        embeddings: Tensor,
        question_mask: Tensor,
        generator: Generator | None,
    ) -> MemAugQuery:
        """What a text asks the memory: the question, and what survives of what was seen."""
        answers_now = generator is None
        spatial = (
            self.settings.eval_spatial_forgetting
            if answers_now
            else self.settings.spatial_forgetting
        )
        question = embeddings[question_mask & (input_ids >= 0)]  # (question, dim)
        kept = forget(
            repository, question, spatial, self.settings, generator or Generator().manual_seed(0)
        )
        return build_memaug_query(
            input_ids,
            embeddings,
            question_mask,
            [_tokens_at(repository, places) for places in kept],  # (kept, dim)
            [repository.positions[places] for places in kept],  # (kept,)
        )

    def _black_picture(self) -> ImageSet:
        side = self.vision.image_size
        return ImageSet(
            torch.zeros(1, 3, side, side, dtype=torch.uint8, device=self.frame_newline.device)
        )


def _tokens_at(repository: AnyRepository, places: Tensor) -> Tensor:
    tokens = repository.tokens
    return tokens[places] if isinstance(tokens, Tensor) else tokens.gather(places)  # (kept, dim)


def init_frame_newline(dim: int) -> Tensor:
    """A random end token, about as long as a word's embedding: `(dim,)`."""
    return torch.randn(dim) * dim**-0.5  # (dim,)
