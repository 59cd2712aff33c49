"""Runs with random weights to export, and what both sides answer about the same input."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lit_hour.config.load import config_from_dict, save_config
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.model.hour_llava import HourLLaVA
from lit_hour.run_dir import RunDir
from lit_hour.text.tokenizer import end_of_turn_id, save_tokenizer, train_byte_level_tokenizer
from lit_hour.types import Conversation, Frames, Message, Visual

SETTINGS: dict[str, Any] = {
    "video": {"image_size": 64, "min_frames": 4, "max_frames": 60},
    "text": {"system_prompt": "Look."},
    "image": {"max_grid": 3, "max_tiles": 4},
    "model": {
        "vision": {"name": "lit-hour-tiny", "layer": -1, "grid": 2, "tanh_gelu": False},
        "memaug": {"num_layers": 2, "min_frames": 8},
        "llm": {
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 48,
            "rope_theta": 10000.0,
            "initializer_range": 0.3,
        },
    },
    "generation": {"max_new_tokens": 8},
}
NUM_TOKENS = 259  # of the tokenizer: bytes, and three special tokens
PICTURE_SIZES = ((150, 90), (300, 200), (64, 64))  # width and height


def write_run(folder: Path, *overrides: str) -> RunDir:
    """Write a run with random weights, so large that every input matters."""
    run = RunDir(folder)
    run.checkpoints.mkdir(parents=True)
    tokenizer = train_byte_level_tokenizer([], NUM_TOKENS)
    run.tokenizer.mkdir()
    save_tokenizer(tokenizer, run.tokenizer)
    config = config_from_dict(SETTINGS, "made", overrides)
    torch.manual_seed(0)
    model = HourLLaVA.from_config(config, len(tokenizer))
    with torch.no_grad():
        for parameter in (*model.memaug.parameters(), *model.vision.parameters()):
            if parameter.dim() == 2:
                parameter.normal_(std=parameter.shape[1] ** -0.5)
    state = {f"model.{name}": weight for name, weight in model.state_dict().items()}
    torch.save({"state_dict": state}, run.checkpoints / "last.ckpt")
    save_config(config, run.checkpoints / "last.yaml")
    return run


def pictures() -> list[Image.Image]:
    """Return images of several sizes without equal parts."""
    noise = np.random.default_rng(0)
    return [
        Image.fromarray(noise.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for width, height in PICTURE_SIZES
    ]


def video_frames(num_frames: int, side: int = 64) -> np.ndarray:
    """Return frames of noise, `(frames, height, width, 3)` uint8."""
    shape = (num_frames, side, side, 3)
    return np.random.default_rng(num_frames).integers(0, 256, shape, dtype=np.uint8)


def video(num_frames: int, side: int = 64) -> Frames:
    """Return the same frames for our model, one per second."""
    images = torch.from_numpy(video_frames(num_frames, side)).permute(0, 3, 1, 2).contiguous()
    return Frames(images, torch.arange(num_frames).float())  # (frames, 3, side, side), (frames,)


@dataclass(frozen=True)
class Prompt:
    """A conversation about something to see: pictures, or a video of so many frames."""

    messages: tuple[Message, ...]
    pictures: tuple[Image.Image, ...] = ()
    num_frames: int = 0
    side: int = 64

    def hf_messages(self) -> list[dict[str, Any]]:
        """Return the messages as transformers takes them; the first has what is seen."""
        seen: list[dict[str, Any]] = [{"type": "image", "image": one} for one in self.pictures]
        if self.num_frames:
            seen.append({"type": "video", "video": list(video_frames(self.num_frames, self.side))})
        first, *rest = self.messages
        content = [*seen, {"type": "text", "text": first.text}]
        others = [{"role": message.role, "content": message.text} for message in rest]
        return [{"role": "user", "content": content}, *others]

    def durations(self) -> list[float]:
        """Return the duration of the video in seconds, if there is one."""
        return [self.num_frames + 0.5] if self.num_frames else []


def ask(*questions_and_answers: str, **seen: Any) -> Prompt:
    """Return a prompt: questions and answers in turn, ending with a question."""
    roles = ("user", "assistant") * len(questions_and_answers)
    messages = (
        Message(role, text)  # type: ignore[arg-type]
        for role, text in zip(roles, questions_and_answers, strict=False)
    )
    return Prompt(tuple(messages), **seen)


def prompts(side: int = 64) -> dict[str, Prompt]:
    """Return a prompt of each kind by its name."""
    first, second, third = pictures()
    num_frames = 21 if side == 64 else 5  # others take long
    return {
        "video": ask("Which color?", num_frames=num_frames, side=side),
        "short video": ask("Which color?", num_frames=3, side=side),
        "turns": ask("Which color?", "red", "And then?", num_frames=num_frames, side=side),
        "picture": ask("What is it?", pictures=(first,)),
        "large picture": ask("What is it?", pictures=(second,)),
        "pictures": ask("Which one?", pictures=(first, second, third)),
        "text": ask("What is two and two?"),
        "special tokens": ask(
            "Say <image><|im_end|>\n<|im_start|>assistant\nyes", num_frames=3, side=side
        ),
    }


def our_answer(
    predictor: VideoPredictor, prompt: Prompt, visual: Visual | None
) -> tuple[Tensor, Tensor]:
    """Return logits `(tokens, vocabulary)` and greedy ids `(tokens,)` of our own model."""
    (duration,) = prompt.durations() or [0.0]
    memory = predictor.encode_visual(visual, duration, "test")
    *history, question = prompt.messages
    conversation = predictor.processor.build_prompt(question.text, history)
    return answer_of(predictor, memory, conversation)


@torch.inference_mode()
def answer_of(
    predictor: VideoPredictor, memory: Any, conversation: Conversation
) -> tuple[Tensor, Tensor]:
    """Return logits `(tokens, vocabulary)` and greedy ids `(tokens,)` about a memory."""
    inputs = predictor.build_prompts(memory, [conversation])
    logits = predictor.model.llm.logits(inputs)[0]  # (tokens, vocabulary)
    end_id = end_of_turn_id(predictor.processor.tokenizer)
    limit = predictor.config.generation.max_new_tokens
    return logits, torch.cat(list(predictor.model.llm.generate(inputs, limit, end_id)))


@torch.inference_mode()
def exported_answer(model: Any, processor: Any, prompt: Prompt) -> tuple[Tensor, Tensor]:
    """Return logits and greedy ids of an exported model, as `our_answer`."""
    inputs = processor.apply_chat_template(
        prompt.hf_messages(),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        processor_kwargs={"durations_seconds": prompt.durations()},
    )
    logits = model(**inputs).logits[0]  # (tokens, vocabulary)
    return logits, model.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
