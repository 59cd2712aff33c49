"""Hour-LLaVA: memory repository, forgetting, memory augmentation and language model.

Start here: `HourLLaVA.forward` and `HourLLaVA.build_inputs` are the figure of the paper.

Source: Hour-LLaVA (arXiv:2506.05332).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from lit_hour.config.model import ModelConfig
from lit_hour.config.schema import Config
from lit_hour.config.training import Objective
from lit_hour.errors import ConfigError
from lit_hour.model.forgetting import CONTENT_BASED, choose_kept_tokens
from lit_hour.model.language_model import LanguageModel, LLMInputs
from lit_hour.model.memaug import MemoryAugmentation
from lit_hour.model.memory_repository import (
    MemoryRepository,
    add_time_embeddings,
    build_image_set_repository,
    build_tiled_image_repository,
    build_video_repository,
)
from lit_hour.model.multimodal_inputs import (
    EncodedText,
    build_memaug_query,
    embed_texts,
    merge_visual_tokens,
    pad_inputs,
)
from lit_hour.model.time_embedding import TimeEmbedding
from lit_hour.model.vision_encoder import Projector, VisionEncoder
from lit_hour.model.weights_hash import hash_weights
from lit_hour.types import Batch, ImageSet, TiledImage, Video, Visual


class HourLLaVAOutput(NamedTuple):
    """Result of `HourLLaVA.forward`.

    Attributes:
        loss: `()`.
        inputs: what the language model read; generation can continue from it.
    """

    loss: Tensor
    inputs: LLMInputs


class HourLLaVA(nn.Module):
    """The whole model, with random weights; load a checkpoint afterwards.

    A text without a visual gets a black dummy image, whose tokens are dropped. So the vision
    encoder, each block of MemAug and each layer of the language model run once per `forward` for
    any batch, which keeps the ranks of a sharded (FSDP) run in step.
    """

    def __init__(
        self,
        config: ModelConfig,
        num_tokens: int,
        *,
        image_size: int,
        max_tokens: int,
        max_tiles: int,
        has_time_embedding: bool = False,
    ) -> None:
        """Build the model; `from_config` does it from the settings of a run.

        Args:
            config: sizes and methods of the parts.
            num_tokens: number of tokens of the tokenizer.
            image_size: height and width of the images to come, in pixels.
            max_tokens: longest text with its visual tokens; the end of a longer one is dropped.
            max_tiles: an image with more tokens than this many tiles have is shrunk to them.
            has_time_embedding: add an embedding of seconds to the tokens of each frame of a video.

        Raises:
            ConfigError: the vision encoder takes images of another size, or the tokenizer does not
                fit the language model.
        """
        super().__init__()
        self.config, self.max_tokens, self.max_tiles = config, max_tokens, max_tiles
        self.vision = VisionEncoder(config.vision)
        if self.vision.image_size != image_size:
            raise ConfigError(
                f"video.image_size={image_size}, but {config.vision.name} takes"
                f" {self.vision.image_size}. Set video.image_size={self.vision.image_size}."
            )
        self.llm = LanguageModel(config.llm, num_tokens)
        dim = self.llm.dim
        self.projector = Projector(self.vision.dim, dim)
        self.frame_newline = nn.Parameter(init_frame_newline(dim))  # (dim,)
        self.time_embedding = TimeEmbedding(dim) if has_time_embedding else None
        self.memaug = MemoryAugmentation(
            dim,
            self.llm.num_heads,
            self.llm.num_key_value_heads,
            config.memaug.num_layers,
            self.llm.rope_theta,
            config.memaug.initializer_range,
            config.memaug.use_full_memory,
            config.memaug.initial_output_std,
        )

    @classmethod
    def from_config(cls, config: Config, num_tokens: int) -> HourLLaVA:
        """Build the model of a run; see `__init__`."""
        return cls(
            config.model,
            num_tokens,
            image_size=config.video.image_size,
            max_tokens=config.text.max_tokens,
            max_tiles=config.image.max_tiles,
            has_time_embedding=config.text.frame_times == "embedding",
        )

    def materialize(self, device: torch.device | str) -> None:
        """Allocate a model that was built on the meta device, with uninitialized parameters.

        Non-persistent buffers are recreated. Load all weights afterwards.
        """
        self.to_empty(device=device)
        self.llm.reset_nonpersistent_buffers()
        self.vision.reset_nonpersistent_buffers()

    def forward(
        self,
        batch: Batch,
        generators: Sequence[Generator] | None = None,
        objective: Objective = "next_token",
    ) -> HourLLaVAOutput:
        """Compute the loss of a batch: the cross-entropy of `LanguageModel.loss`.

        Args:
            batch: texts and the visuals that they are about.
            generators: see `build_inputs`.
            objective: with answer_words the loss is that of `LanguageModel.answer_words_loss`
                instead, and no decoder layer runs.
        """
        repositories = self.build_repositories(batch.visuals, lazy=True)
        texts, visual_tokens = self.augment(batch, repositories, generators)
        inputs = self._merge(texts, visual_tokens)
        if objective == "answer_words":
            means = torch.stack([torch.cat(tokens).mean(dim=0) for tokens in visual_tokens])
            labels = [text.labels for text in texts]
            return HourLLaVAOutput(self.llm.answer_words_loss(means, labels), inputs)
        return HourLLaVAOutput(self.llm.loss(inputs), inputs)

    def build_inputs(
        self,
        batch: Batch,
        repositories: Sequence[MemoryRepository],
        generators: Sequence[Generator] | None = None,
        run_memaug: Callable[..., list[Tensor]] | None = None,
    ) -> LLMInputs:
        """Forget most of the visual tokens, augment the others, and merge them with the texts.

        Args:
            batch: texts; its visuals are not used.
            repositories: of each visual of the batch.
            generators: in training one for each text, on the CPU, for the draws of forgetting.
                None for the forgetting of validation and answers, which is the same each time.
            run_memaug: in place of `self.memaug`, such as an `AugmentationCache`.
        """
        return self._merge(*self.augment(batch, repositories, generators, run_memaug))

    def augment(
        self,
        batch: Batch,
        repositories: Sequence[MemoryRepository],
        generators: Sequence[Generator] | None,
        run_memaug: Callable[..., list[Tensor]] | None = None,
    ) -> tuple[list[EncodedText], list[tuple[Tensor, ...]]]:
        """Forget most of the visual tokens and augment the others; see `build_inputs`.

        Returns:
            The embedded texts, and for each the tokens `(visual, dim)` of each placeholder.
        """
        memaug, queries = self.config.memaug, []
        texts = embed_texts(batch, self.llm.embed)
        for index, text in enumerate(texts):
            repository = repositories[text.visual_index]
            generator = None if generators is None else generators[index]
            num_placeholders = max(1, len(text.segments) - 1)
            kept = choose_kept_tokens(
                repository, text.question, memaug, generator, num_placeholders
            )
            queries.append(build_memaug_query(text, repository, kept))
        run_memaug = run_memaug or self.memaug
        augmented = run_memaug(queries, repositories, batch.visual_of_text)  # (visual, dim) each
        visual_tokens = [
            tokens.split(query.num_visual_tokens)
            for query, tokens in zip(queries, augmented, strict=True)
        ]
        return texts, visual_tokens

    def _merge(
        self, texts: Sequence[EncodedText], visual_tokens: Sequence[Sequence[Tensor]]
    ) -> LLMInputs:
        sequences = [
            merge_visual_tokens(text, tokens)
            for text, tokens in zip(texts, visual_tokens, strict=True)
        ]
        return pad_inputs(sequences, self.max_tokens, "right")

    def build_repositories(
        self, visuals: Sequence[Visual | None], lazy: bool = False
    ) -> list[MemoryRepository]:
        """Encode each visual once and build its memory repository.

        Args:
            visuals: videos, images, or None for a dummy image.
            lazy: do not project all tokens of a video where only MemAug reads them; for one use in
                `build_inputs`.

        Returns:
            One repository for each visual, with tokens of width `dim`, in order.
        """
        memaug = self.config.memaug
        needs_tokens = memaug.temporal_forgetting in CONTENT_BASED or not memaug.use_full_memory
        is_lazy = lazy and not needs_tokens
        inputs = [self._dummy_image() if visual is None else visual for visual in visuals]
        repositories = []
        for visual, features in zip(inputs, self.vision(inputs), strict=True):
            newline: Tensor = self.frame_newline  # (dim,)
            features = features.to(newline.dtype)  # (frames, tokens, vision_dim)
            times = self._embed_times(visual)  # (frames, dim)
            if times is not None and not isinstance(visual, Video):
                newline = newline + times.sum()  # 0; so every rank has a gradient of the embedding
            if isinstance(visual, Video):
                repository = build_video_repository(
                    features if is_lazy else self.projector(features),
                    newline,
                    visual.timestamps,
                    memaug.min_frames,
                    lazy_projector=self.projector if is_lazy else None,
                    time_embeddings=times,
                )
            elif isinstance(visual, TiledImage):
                repository = build_tiled_image_repository(
                    self.projector(features),
                    newline,
                    visual.grid,
                    visual.size_pixels,
                    self.max_tiles,
                )
            else:
                repository = build_image_set_repository(self.projector(features), newline)
            repositories.append(repository)
        return repositories

    def encode_frames(self, video: Video) -> Tensor:
        """Encode the frames of a video to projected tokens, `(frames, tokens, dim)`.

        They contain the embeddings of their times, if the model has any.
        """
        (features,) = self.vision([video])  # (frames, tokens, vision_dim)
        tokens = self.projector(features.to(self.frame_newline.dtype))  # (frames, tokens, dim)
        return add_time_embeddings(tokens, self._embed_times(video))

    def _embed_times(self, visual: Visual) -> Tensor | None:
        """Embed the times of frames: `(frames, dim)`, without frames of images; None for none."""
        if self.time_embedding is None:
            return None
        if isinstance(visual, Video):
            return self.time_embedding(visual.timestamps)
        return self.time_embedding(self.frame_newline.new_empty(0))

    def with_kv_cache(self, repository: MemoryRepository) -> MemoryRepository:
        """Add the KV caches of MemAug to a repository, so that several questions share them."""
        kv_caches = self.memaug.build_kv_caches(
            repository.memory, repository.positions, self.frame_newline.dtype
        )
        return replace(repository, kv_caches=kv_caches)

    def digest(self) -> str:
        """Return the SHA-256 of the weights that `build_repositories` depends on."""
        weights = {**self.projector.state_dict(), "frame_newline": self.frame_newline}
        if self.time_embedding is not None:
            weights |= self.time_embedding.state_dict(prefix="time_embedding.")
        return hash_weights(weights, self.vision.digest().encode())

    def _dummy_image(self) -> ImageSet:
        side, device = self.vision.image_size, self.frame_newline.device
        return ImageSet(torch.zeros(1, 3, side, side, dtype=torch.uint8, device=device))


def init_frame_newline(dim: int) -> Tensor:
    """Return a random newline token, `(dim,)`, about as long as the embedding of a text token."""
    return torch.randn(dim) * dim**-0.5
