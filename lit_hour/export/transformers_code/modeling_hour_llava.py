"""Hour-LLaVA in plain transformers: memory, forgetting, memory augmentation, language model.

A video's frames, the tiles of an image or several images become a memory of tokens. The kept tokens
and the question attend to all of it (`MemoryAugmentation`); then the kept tokens stand at the
placeholders of the prompt.

Source: Hour-LLaVA (arXiv:2506.05332).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel, GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.utils.generic import ModelOutput

from .configuration_hour_llava import HourLlavaConfig
from .memaug_hour_llava import MemoryAugmentation
from .memory_hour_llava import MemorySettings, Visual, arrange_memory, choose_kept_tokens
from .vision_hour_llava import build_tower, pool_frames

VISUAL_INPUTS = (
    "pixel_values",
    "question_mask",
    "num_images",
    "is_video",
    "tile_grids",
    "image_sizes",
)


class Projector(nn.Module):
    """Two linear layers, from the width of the vision tower to that of the language model."""

    def __init__(self, vision_dim: int, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(vision_dim, dim), nn.GELU(), nn.Linear(dim, dim))

    def forward(self, features: Tensor) -> Tensor:
        """Project `(images, tokens, vision_dim)` to `(images, tokens, dim)`."""
        return self.layers(features)


class HourLlavaPreTrainedModel(PreTrainedModel):
    """What both model classes share with transformers."""

    config_class = HourLlavaConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012


class HourLlavaModel(HourLlavaPreTrainedModel):
    """Vision tower, memory augmentation and decoder, without the output layer."""

    def __init__(self, config: HourLlavaConfig) -> None:
        super().__init__(config)
        vision, text = config.vision_config, config.text_config
        self.settings = MemorySettings(**config.memory)
        self.vision_tower, vision_dim = build_tower(vision.tower, vision.sizes)
        self.projector = Projector(vision_dim, text.hidden_size)
        self.frame_newline = nn.Parameter(torch.zeros(text.hidden_size))  # (dim,)
        self.memaug = MemoryAugmentation(config)
        self.language_model = AutoModel.from_config(text)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the embedding of the language model."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the embedding of the language model."""
        self.language_model.set_input_embeddings(value)

    def encode_images(self, pixel_values: Tensor, is_video: bool) -> Tensor:
        """Encode images `(images, 3, size, size)`, 0 to 255, to `(images, tokens, dim)`."""
        vision, dtype = self.config.vision_config, self.frame_newline.dtype
        mean = torch.tensor(vision.image_mean, device=pixel_values.device).view(3, 1, 1)
        std = torch.tensor(vision.image_std, device=pixel_values.device).view(3, 1, 1)
        encoded = []
        for chunk in pixel_values.split(vision.encode_batch_size):
            tokens = self.vision_tower(((chunk / 255 - mean) / std).to(dtype))
            encoded.append(pool_frames(tokens, self.settings.frame_side) if is_video else tokens)
        return self.projector(torch.cat(encoded))  # (images, tokens, dim)

    def embed_prompts(
        self, input_ids: Tensor, attention_mask: Tensor, inputs: dict[str, Tensor | None]
    ) -> Tensor:
        """Embed texts `(texts, tokens)`, with the visual tokens at their placeholders.

        Args:
            input_ids: `(texts, tokens)`.
            attention_mask: `(texts, tokens)`.
            inputs: those of `VISUAL_INPUTS`, as the processor returns them.

        Raises:
            ValueError: a text has another number of placeholders than its video or images keep.
        """
        embeddings = self.get_input_embeddings()(input_ids)  # (texts, tokens, dim)
        pixel_values, num_images = inputs["pixel_values"], inputs["num_images"]
        if pixel_values is None or num_images is None:
            return embeddings
        is_placeholder = input_ids == self.config.image_token_id  # (texts, tokens)
        is_question = attention_mask.bool() & ~is_placeholder  # (texts, tokens)
        if (mask := inputs["question_mask"]) is not None:
            rest = input_ids.shape[1] - mask.shape[1]  # generated without a cache
            is_question = is_question & F.pad(mask.bool(), (0, rest))
        rows = []
        for text, images in enumerate(pixel_values.split(num_images.tolist())):
            row = embeddings[text]  # (tokens, dim)
            if len(images):
                visual = read_visual(inputs, text)
                kept = [one.to(row.device) for one in choose_kept_tokens(visual, self.settings)]
                if int(is_placeholder[text].sum()) != sum(map(len, kept)):
                    raise ValueError(
                        f"Text {text} has {int(is_placeholder[text].sum())} placeholders for"
                        f" {sum(map(len, kept))} visual tokens. Use the processor of this model."
                    )
                tokens = self.encode_images(images, visual.kind == "video")
                memory = arrange_memory(tokens, self.frame_newline, visual, self.settings)
                visual_tokens = self.memaug(
                    row, is_placeholder[text], is_question[text], *memory, kept
                )
                row = row.masked_scatter(is_placeholder[text][:, None], visual_tokens.to(row.dtype))
            rows.append(row)
        return torch.stack(rows)  # (texts, tokens, dim)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run the decoder on texts with their visual tokens, see the class below."""
        visual_inputs = {name: kwargs.pop(name, None) for name in VISUAL_INPUTS}
        if inputs_embeds is None:
            assert input_ids is not None
            mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            inputs_embeds = self.embed_prompts(input_ids, mask, visual_inputs)
        return self.language_model(
            inputs_embeds=inputs_embeds, attention_mask=attention_mask, **kwargs
        )


def read_visual(inputs: dict[str, Tensor | None], text: int) -> Visual:
    """Return what the processor has recorded about the video or images of one text."""
    num_images, is_video, tile_grids, image_sizes = (
        inputs[name] for name in ("num_images", "is_video", "tile_grids", "image_sizes")
    )
    assert num_images is not None and is_video is not None
    assert tile_grids is not None and image_sizes is not None
    rows, columns = tile_grids[text].tolist()
    height, width = image_sizes[text].tolist()
    kind = "video" if is_video[text] else "tiles" if rows else "images"
    return Visual(kind, int(num_images[text]), (rows, columns), (height, width))  # type: ignore[arg-type]


@dataclass
class HourLlavaOutput(ModelOutput):
    """Result of `HourLlavaForConditionalGeneration.forward`.

    Attributes:
        loss: `()`, if there are labels.
        logits: `(texts, tokens, vocabulary)`.
        past_key_values: the KV cache.
        hidden_states: of each layer, if they are wanted.
        attentions: of each layer, if they are wanted.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class HourLlavaForConditionalGeneration(HourLlavaPreTrainedModel, GenerationMixin):
    """Hour-LLaVA: answers questions about a video, one image, several images, or text alone."""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: HourLlavaConfig) -> None:
        super().__init__(config)
        text = config.text_config
        self.model = HourLlavaModel(config)
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the embedding of the language model."""
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the embedding of the language model."""
        self.model.set_input_embeddings(value)

    def forward(  # noqa: PLR0913
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        pixel_values: Tensor | None = None,
        question_mask: Tensor | None = None,
        num_images: Tensor | None = None,
        is_video: Tensor | None = None,
        tile_grids: Tensor | None = None,
        image_sizes: Tensor | None = None,
        **kwargs: Any,
    ) -> HourLlavaOutput:
        """Compute logits, and the loss if there are labels.

        Args:
            input_ids: `(texts, tokens)`; each visual token has a placeholder.
            attention_mask: `(texts, tokens)`.
            position_ids: `(texts, tokens)`.
            past_key_values: the KV cache.
            inputs_embeds: `(texts, tokens, dim)` in place of `input_ids`.
            labels: `(texts, tokens)`, -100 where nothing is learned.
            use_cache: return the KV cache.
            logits_to_keep: last tokens with logits; 0 for all.
            pixel_values: `(images of all texts, 3, size, size)`, 0 to 255.
            question_mask: `(texts, tokens)` bool, what memory augmentation may see; all if None.
            num_images: `(texts,)`, images or frames of each text.
            is_video: `(texts,)` bool.
            tile_grids: `(texts, 2)`, rows and columns of tiles; 0 without tiles.
            image_sizes: `(texts, 2)`, height and width of one image, in pixels.
            kwargs: of the language model.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            pixel_values=pixel_values,
            question_mask=question_mask,
            num_images=num_images,
            is_video=is_video,
            tile_grids=tile_grids,
            image_sizes=image_sizes,
            **kwargs,
        )
        hidden = outputs.last_hidden_state[:, -logits_to_keep:]  # (texts, tokens, dim)
        logits = self.lm_head(hidden)  # (texts, tokens, vocabulary)
        logits[..., self.config.image_token_id] = torch.finfo(logits.dtype).min
        vocab_size = self.config.text_config.vocab_size
        loss = None if labels is None else self.loss_function(logits, labels, vocab_size)
        return HourLlavaOutput(
            loss, logits, outputs.past_key_values, outputs.hidden_states, outputs.attentions
        )

    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> Any:
        """Return the inputs of one step; visual tokens are in the KV cache after the first."""
        inputs = super().prepare_inputs_for_generation(*args, **kwargs)  # type: ignore[misc]
        if kwargs.get("is_first_iteration") or not kwargs.get("use_cache", True):
            return inputs
        return {name: value for name, value in inputs.items() if name not in VISUAL_INPUTS}

    def _expand_inputs_for_generation(self, *args: Any, **kwargs: Any) -> Any:
        """Repeat each text for several beams or answers, with its images in order."""
        pixel_values, num_images = kwargs.pop("pixel_values", None), kwargs.get("num_images")
        input_ids, inputs = super()._expand_inputs_for_generation(*args, **kwargs)  # type: ignore[misc]
        if pixel_values is not None and num_images is not None:
            copies = range(kwargs.get("expand_size", 1))
            parts = pixel_values.split(num_images.tolist())
            inputs["pixel_values"] = torch.cat([part for part in parts for _ in copies])
            # (images of all texts, 3, size, size)
        return input_ids, inputs
