"""Processor of an exported Hour-LLaVA: messages and pictures to the inputs of the model.

    inputs = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "video", "path": "VIDEO.mp4"},
                                      {"type": "text", "text": "What happens?"}]}],
        add_generation_prompt=True, tokenize=True, return_dict=True,
    )

A text has one video, one image (cut into tiles), several images, or none of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchFeature, ProcessorMixin
from transformers.image_utils import load_image

from .memory_hour_llava import MemorySettings, Visual, choose_kept_tokens
from .pixels_hour_llava import (
    SamplingSettings,
    cut_into_tiles,
    pad_to_squares,
    read_video,
    resize,
    to_image,
)

IMAGE_TOKEN = "<image>"
START_OF_TURN = "<|im_start|>"
INPUT_NAMES = (
    "input_ids",
    "attention_mask",
    "question_mask",
    "pixel_values",
    "num_images",
    "is_video",
    "tile_grids",
    "image_sizes",
)


class HourLlavaProcessor(ProcessorMixin):
    """Tokenizer, sampling of videos and tiles of images of one model.

    Attributes:
        auto_map: names of the classes of this code, for processor_config.json.
    """

    auto_map: dict[str, str]

    def __init__(
        self,
        tokenizer: Any = None,
        image_size: int = 384,
        max_grid: int = 6,
        max_tokens: int = 32768,
        memory: dict[str, Any] | None = None,
        video: dict[str, Any] | None = None,
        chat_template: str | None = None,
    ) -> None:
        """Set the values.

        Args:
            tokenizer: of the language model, with the token `<image>`.
            image_size: height and width that the vision tower takes, in pixels.
            max_grid: largest number of rows and columns of tiles of an image.
            max_tokens: longest prompt, visual tokens included.
            memory: values of `MemorySettings`.
            video: values of `SamplingSettings`; `note`, the sentence before the question, with
                `{seconds}` and `{num_frames}`; and `question_scope`, whether memory augmentation
                sees "all" questions of a conversation or the "first".
            chat_template: a Jinja template.
        """
        self.image_size, self.max_grid, self.max_tokens = image_size, max_grid, max_tokens
        self.memory, self.video = memory or {}, video or {}
        super().__init__(tokenizer, chat_template=chat_template)

    def apply_chat_template(self, conversation: Any, *args: Any, **kwargs: Any) -> Any:
        """Render messages, and tokenize them if `tokenize` is true.

        Special tokens in a message are then plain text, so that a question cannot end its turn.
        """
        kwargs.setdefault("sanitize_control_tokens", kwargs.get("tokenize", False))
        return super().apply_chat_template(conversation, *args, **kwargs)

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        videos: Any = None,
        durations_seconds: Sequence[float] | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Tokenize prompts with their videos or images.

        Args:
            images: paths, URLs or PIL images: a list for one text, or a list for each text.
            text: prompts, in which each video and each image has one `<image>`.
            videos: for each text a path, or a list of frames (PIL images or uint8 arrays).
            durations_seconds: of videos that are lists of frames; by default they were taken at
                `video["fps"]`.
            kwargs: `sanitize_control_tokens`, see `apply_chat_template`; others are ignored.

        Returns:
            The tensors that the model's `forward` takes, padded on the left.

        Raises:
            ValueError: there is no text; a text has a video and something else, or another number
                of `<image>` than videos and images; or it is too long.
        """
        if not text:
            raise ValueError("There is no text. Give a prompt as `text`.")
        texts = [text] if isinstance(text, str) else list(text)
        images_of = _by_text(images, len(texts), is_video=False)
        videos_of = _by_text(videos, len(texts), is_video=True)
        durations = iter(durations_seconds or ())
        ids, masks, pixels, visuals = [], [], [], []
        for prompt, text_images, text_videos in zip(texts, images_of, videos_of, strict=True):
            if len(text_videos) > 1 or (text_videos and text_images):
                raise ValueError(
                    f"A text has {len(text_videos)} videos and {len(text_images)} images. Give one"
                    " video, or images alone."
                )
            if text_videos:
                frames, seconds = self._read_frames(text_videos[0], next(durations, None))
                visual: Visual | None = Visual("video", len(frames))
                pixels.append(frames)  # (frames, 3, size, size)
                prompt = self._add_note(prompt, seconds, len(frames))
            else:
                tiles, visual = self._read_images([load_image(image) for image in text_images])
                pixels.append(tiles)  # (images, 3, size, size)
            visuals.append(visual)
            text_ids = self._expand(self._tokenize(prompt, **kwargs), visual)
            ids.append(torch.tensor(text_ids))  # (tokens,)
            masks.append(torch.tensor(self._question_mask(text_ids)))  # (tokens,)
        return BatchFeature(self._collate(ids, masks, pixels, visuals))

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors that `__call__` returns."""
        return list(INPUT_NAMES)

    def _read_frames(self, video: Any, duration_seconds: float | None) -> tuple[Tensor, float]:
        """Return frames `(frames, 3, size, size)` uint8, and the duration in seconds."""
        settings = SamplingSettings(
            *(self.video[name] for name in SamplingSettings._fields)  # no others, such as the note
        )
        if isinstance(video, str | Path):
            return read_video(video, self.image_size, settings)
        frames = torch.stack([resize(to_image(frame), self.image_size) for frame in video])
        return frames, duration_seconds or len(frames) / settings.fps

    def _read_images(self, images: Sequence[Image.Image]) -> tuple[Tensor, Visual | None]:
        """Return one image as tiles, or several as squares: `(images, 3, size, size)` uint8."""
        if not images:
            return torch.zeros(0, 3, self.image_size, self.image_size, dtype=torch.uint8), None
        if len(images) > 1:
            return pad_to_squares(images, self.image_size), Visual("images", len(images))
        tiles, grid = cut_into_tiles(images[0], self.image_size, self.max_grid)
        size = (images[0].height, images[0].width)
        return tiles, Visual("tiles", len(tiles), grid, size)

    def _add_note(self, prompt: str, seconds: float, num_frames: int) -> str:
        """Put the sentence on the length of a video behind its placeholder."""
        if not self.video["note"]:
            return prompt
        note = self.video["note"].format(seconds=seconds, num_frames=num_frames)
        return prompt.replace(f"{IMAGE_TOKEN}\n", f"{IMAGE_TOKEN}\n{note}\n", 1)

    def _tokenize(self, prompt: str, sanitize_control_tokens: bool = False, **_: Any) -> list[int]:
        encoded = self.tokenizer(
            [prompt], add_special_tokens=False, sanitize_control_tokens=sanitize_control_tokens
        )
        ids: list[int] = encoded["input_ids"][0]
        return ids

    def _expand(self, ids: list[int], visual: Visual | None) -> list[int]:
        """Replace each `<image>` by a placeholder for each token that the memory keeps.

        Raises:
            ValueError: there are more or fewer of them than videos and images, or too many tokens.
        """
        image_id = self.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        kept = choose_kept_tokens(visual, MemorySettings(**self.memory)) if visual else []
        if ids.count(image_id) != len(kept):
            raise ValueError(
                f"The text has {ids.count(image_id)} {IMAGE_TOKEN} for {len(kept)} videos and"
                " images. Write one for each."
            )
        lengths = iter(map(len, kept))
        expanded = [
            token for one in ids for token in [one] * (next(lengths) if one == image_id else 1)
        ]
        if len(expanded) >= self.max_tokens:
            raise ValueError(
                f"The prompt has {len(expanded)} tokens with its visual tokens, and may have"
                f" {self.max_tokens - 1}. Shorten the question."
            )
        return expanded

    def _question_mask(self, ids: list[int]) -> list[bool]:
        """Return which tokens memory augmentation sees: all but answers, by turns."""
        start, *user = self._tokenize(f"{START_OF_TURN}user\n")
        assistant = self._tokenize("assistant\n")
        starts = [index for index, token in enumerate(ids) if token == start]
        bounds = [*starts, len(ids)]
        mask, num_questions = [True] * bounds[0], 0
        for begin, end in pairwise(bounds):
            turn = ids[begin + 1 : end]
            num_questions += turn[: len(user)] == user
            is_seen = num_questions <= 1 or self.video["question_scope"] == "all"
            is_answer = turn[: len(assistant)] == assistant
            num_seen = 1 + (len(assistant) if is_answer else len(turn))
            mask += [is_seen] * num_seen + [False] * (end - begin - num_seen)
        return mask

    def _collate(
        self,
        ids: list[Tensor],
        masks: list[Tensor],
        pixels: list[Tensor],
        visuals: list[Visual | None],
    ) -> dict[str, Tensor]:
        pad_id = self.tokenizer.pad_token_id or 0
        data = {
            "input_ids": pad_sequence(ids, True, pad_id, "left"),  # (texts, tokens)
            "attention_mask": pad_sequence([torch.ones_like(one) for one in ids], True, 0, "left"),
        }
        if not any(visuals):
            return data
        none = Visual("images", 0)
        known = [visual or none for visual in visuals]
        return data | {
            "question_mask": pad_sequence(masks, True, False, "left"),  # (texts, tokens)
            "pixel_values": torch.cat(pixels),  # (images of all texts, 3, size, size)
            "num_images": torch.tensor([visual.num_images for visual in known]),  # (texts,)
            "is_video": torch.tensor([visual.kind == "video" for visual in known]),  # (texts,)
            "tile_grids": torch.tensor([visual.tile_grid for visual in known]),  # (texts, 2)
            "image_sizes": torch.tensor([visual.image_size for visual in known]),  # (texts, 2)
        }


def _by_text(given: Any, num_texts: int, is_video: bool) -> list[list[Any]]:
    """Return the videos or images of each text, from one, a list, or a list for each text.

    Raises:
        ValueError: they cannot be divided over the texts.
    """
    if given is None:
        return [[]] * num_texts
    is_one = _is_video if is_video else _is_image
    if is_one(given):
        given = [[given]]
    elif all(map(is_one, given)):
        given = [list(given)] if num_texts == 1 else [[one] for one in given]
    if len(given) != num_texts:
        raise ValueError(
            f"There are videos or images for {len(given)} texts, and {num_texts} texts. Give a list"
            " for each text."
        )
    return [list(one or ()) for one in given]


def _is_image(value: Any) -> bool:
    return isinstance(value, str | Path | Image.Image)


def _is_video(value: Any) -> bool:
    """Return True for a path, an array of frames, or a list of frames."""
    if isinstance(value, str | Path):
        return True
    if hasattr(value, "ndim"):
        return value.ndim == 4
    return bool(value) and all(
        isinstance(frame, Image.Image) or getattr(frame, "ndim", 0) == 3 for frame in value
    )
