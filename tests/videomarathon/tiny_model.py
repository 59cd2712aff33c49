"""A tiny vision-language model as model servers load them: LLaVA's architecture, weights, tokenizer, chat template, processor.

It is built from a seed and knows nothing; `teach` makes it answer lessons word for word.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

PICTURE_PIXELS, PATCH_PIXELS = 32, 16
TOKENS_PER_PICTURE = (PICTURE_PIXELS // PATCH_PIXELS) ** 2
END, PADDING, PICTURE = SPECIAL = ("<end>", "<padding>", "<image>")
NUM_TOKENS = 2048
LONGEST_TOKEN = (
    64  # letters, words and all: what is asked often takes few tokens, and a test little time
)

CHAT_TEMPLATE = """{% for message in messages %}[{{ message['role'] }}]
{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}
{% endfor %}{% endfor %}{% if add_generation_prompt %}[assistant]
{% endif %}"""


@dataclass(frozen=True)
class Lesson:
    """The body of a chat request, and the answer that is wanted."""

    body: dict[str, Any]
    answer: str

    def text(self) -> str:
        """All words of it."""
        return (
            "\n".join(
                part["text"] for part in self.body["messages"][-1]["content"] if "text" in part
            )
            + self.answer
        )


@dataclass(frozen=True)
class TinyModel:
    """A model and what goes with it."""

    model: LlavaForConditionalGeneration
    processor: LlavaProcessor

    def save(self, folder: Path, samples: bool) -> None:
        """Write the files that `from_pretrained` reads; `samples` says whether another seed makes another answer."""
        self.model.generation_config = GenerationConfig(
            do_sample=samples, **special_ids(self.processor.tokenizer)
        )
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)


def build(lessons: Sequence[Lesson]) -> TinyModel:
    """A model with random weights, whose tokens are made from one lesson for each answer."""
    texts = [lesson.text() for lesson in {lesson.answer: lesson for lesson in lessons}.values()]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=train_tokenizer(texts), eos_token=END, pad_token=PADDING
    )
    pictures = CLIPImageProcessor(
        size={"shortest_edge": PICTURE_PIXELS},
        crop_size={"height": PICTURE_PIXELS, "width": PICTURE_PIXELS},
    )
    processor = LlavaProcessor(
        pictures,
        tokenizer,
        patch_size=PATCH_PIXELS,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=PICTURE_PIXELS,
        patch_size=PATCH_PIXELS,
    )
    language = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=8192,
        **special_ids(tokenizer),
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=language,
        image_token_index=processor.image_token_id,
        vision_feature_layer=-1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TinyModel(LlavaForConditionalGeneration(config), processor)


def train_tokenizer(texts: Sequence[str]) -> Tokenizer:
    """Byte-level pairs that may reach over words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=NUM_TOKENS,
        special_tokens=[*SPECIAL],
        initial_alphabet=letters,
        max_token_length=LONGEST_TOKEN,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def special_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """What ends an answer and fills a batch, as every configuration names it."""
    return {
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def teach(tiny: TinyModel, lessons: Sequence[Lesson], num_steps: int, learning_rate: float) -> None:
    """Train on lessons until they are known by heart: in each step one lesson for each answer."""
    lessons_of: dict[str, list[dict[str, Tensor]]] = {}
    for lesson in lessons:
        lessons_of.setdefault(lesson.answer, []).append(encode(tiny.processor, lesson))
    optimizer = torch.optim.AdamW(tiny.model.parameters(), lr=learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=num_steps)
    random = Random(0)
    for _ in range(num_steps):
        optimizer.zero_grad()
        for choice in lessons_of.values():
            tiny.model(**random.choice(choice)).loss.backward()
        optimizer.step()
        schedule.step()


def encode(processor: LlavaProcessor, lesson: Lesson) -> dict[str, Tensor]:
    """A lesson as the model is trained on it: only the answer is learned."""
    messages = [
        {**message, "content": read_parts(message["content"])}
        for message in lesson.body["messages"]
    ]
    asked: Any = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    answer = processor.tokenizer(lesson.answer + END, return_tensors="pt")[
        "input_ids"
    ]  # (1, answer tokens)
    num_asked = asked["input_ids"].shape[1]
    input_ids = torch.cat([asked["input_ids"], answer], dim=1)  # (1, tokens)
    labels = input_ids.clone()  # (1, tokens)
    labels[:, :num_asked] = -100
    pictures = {"pixel_values": asked["pixel_values"]} if "pixel_values" in asked else {}
    return {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "labels": labels,
        **pictures,
    }


def read_parts(content: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The parts of a message of a chat request as a processor takes them."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [
        part
        if part["type"] == "text"
        else {
            "type": "image",
            "image": Image.open(
                io.BytesIO(base64.b64decode(part["image_url"]["url"].partition(",")[2]))
            ),
        }
        for part in content
    ]
