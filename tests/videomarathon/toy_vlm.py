"""A toy vision-language model in LLaVA's architecture, as model servers load it, and its training.

`build` makes it with random weights. `train` makes it reproduce the answers of examples, which
`collect_examples` takes from real requests of `annotate`.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
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

from lit_hour.config.videomarathon import FilterConfig, VideoMarathonConfig
from lit_hour.videomarathon.annotate import annotate
from lit_hour.videomarathon.captions import CAPTION_FIELDS
from tests.videomarathon.chat_server import ChatServer

IMAGE_SIZE, PATCH_SIZE = 32, 16
TOKENS_PER_IMAGE = (IMAGE_SIZE // PATCH_SIZE) ** 2
END, PADDING, IMAGE = SPECIAL_TOKENS = ("<end>", "<padding>", "<image>")
NUM_TOKENS = 2048
MAX_TOKEN_CHARS = 64  # long tokens over several words keep prompts, and so the tests, short
IGNORED_LABEL = -100

CHAT_TEMPLATE = (
    "{% for message in messages %}[{{ message['role'] }}]\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}\n"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}[assistant]\n"
    "{% endif %}"
)

CONFIG = VideoMarathonConfig(
    image_size=32,
    max_new_tokens=64,
    response_format="prompt",
    filters=FilterConfig(blind_trials=2),
)
ALL_STAGES_CONFIG = replace(CONFIG, min_events=1)  # the model always answers with one event

_INTERVAL = {"start_seconds": 0, "end_seconds": 1}
_OPEN_ENDED = {
    "question": "What is seen at the beginning?",
    "answer": "a room",
    "evidence": [_INTERVAL],
}
_CHOICE = {
    "question": "Which color has the door on the left?",
    "answer": "green",
    "wrong_options": ["red", "blue", "gray"],
    "evidence": [_INTERVAL],
}
ANSWERS: tuple[dict[str, Any], ...] = (  # one for each kind of request
    {name: f"the {name} of it" for name in CAPTION_FIELDS},
    {"events": [{**_INTERVAL, "text": "Something is seen."}]},
    {"summary": "A short clip."},
    {"open_ended": [_OPEN_ENDED], "multiple_choice": [_CHOICE]},
    {"verdicts": [{"number": 1, "verdict": "supported"}, {"number": 2, "verdict": "supported"}]},
    {"letter": "B"},
)
GRAY_OF_COLOR = {"black": 0, "white": 255}


@dataclass(frozen=True)
class Example:
    """The body of a chat request and the expected answer."""

    body: dict[str, Any]
    answer: str

    def text(self) -> str:
        """Return the texts of the request and the answer."""
        parts = self.body["messages"][-1]["content"]
        return "\n".join(part["text"] for part in parts if "text" in part) + self.answer


@dataclass(frozen=True)
class ToyVLM:
    """A model and its processor."""

    model: LlavaForConditionalGeneration
    processor: LlavaProcessor

    def save(self, folder: Path, do_sample: bool) -> None:
        """Write the files that `from_pretrained` reads; without sampling, seeds have no effect."""
        self.model.generation_config = GenerationConfig(
            do_sample=do_sample, **special_ids(self.processor.tokenizer)
        )
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)


def answer_by_schema(body: dict[str, Any]) -> str:
    """Return the answer that fits the schema at the end of a request's prompt."""
    text = body["messages"][-1]["content"][-1]["text"]
    properties = json.loads(text[text.index("{") :])["properties"]
    return json.dumps(next(answer for answer in ANSWERS if answer.keys() == properties.keys()))


def color_question(color: str) -> dict[str, Any]:
    """Return the body of a request that can only be answered from its image."""
    file = io.BytesIO()
    Image.new("L", (48, 32), GRAY_OF_COLOR[color]).save(file, "JPEG")
    url = f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
    parts = [
        {"type": "text", "text": "Is it black or white?"},
        {"type": "image_url", "image_url": {"url": url}},
    ]
    return {"messages": [{"role": "user", "content": parts}], "max_tokens": 64}


def collect_examples(clips: Path, few_clips: Path, out: Path) -> list[Example]:
    """Return color questions, and the requests that `annotate` sends.

    Requests about `clips` stop after the events; those about `few_clips` are complete.
    """
    with ChatServer(answer_by_schema) as server:
        for folder, config in ((clips, CONFIG), (few_clips, ALL_STAGES_CONFIG)):
            tolerant = replace(config, max_failed_videos=1)
            annotate(folder, out / folder.name, [server.url], "scripted", tolerant)
    bodies = [json.loads(text) for text in sorted(request.body for request in server.answered)]
    examples = [Example(color_question(color), color) for color in GRAY_OF_COLOR]
    return examples + [Example(body, answer_by_schema(body)) for body in bodies]


def build(examples: Sequence[Example]) -> ToyVLM:
    """Return a model with random weights; its tokens come from one example per answer."""
    texts = [
        example.text() for example in {example.answer: example for example in examples}.values()
    ]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=train_tokenizer(texts), eos_token=END, pad_token=PADDING
    )
    processor = LlavaProcessor(
        CLIPImageProcessor(
            size={"shortest_edge": IMAGE_SIZE},
            crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        ),
        tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
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
        return ToyVLM(LlavaForConditionalGeneration(config), processor)


def train_tokenizer(texts: Sequence[str]) -> Tokenizer:
    """Train byte-level BPE with tokens that may span several words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=NUM_TOKENS,
        special_tokens=[*SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=MAX_TOKEN_CHARS,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def special_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Return the ids of special tokens by the names that every config uses."""
    return {
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def train(toy: ToyVLM, examples: Sequence[Example], num_steps: int, learning_rate: float) -> None:
    """Train until the model reproduces the answers; each step takes one example per answer."""
    by_answer: dict[str, list[dict[str, Tensor]]] = {}
    for example in examples:
        by_answer.setdefault(example.answer, []).append(encode(toy.processor, example))
    optimizer = torch.optim.AdamW(toy.model.parameters(), lr=learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=num_steps)
    random = Random(0)
    for _ in range(num_steps):
        optimizer.zero_grad()
        for encoded in by_answer.values():
            toy.model(**random.choice(encoded)).loss.backward()
        optimizer.step()
        schedule.step()


def encode(processor: LlavaProcessor, example: Example) -> dict[str, Tensor]:
    """Return the model's inputs for an example; only the answer has labels."""
    messages = [
        {**message, "content": to_processor_parts(message["content"])}
        for message in example.body["messages"]
    ]
    prompt: Any = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    answer = processor.tokenizer(example.answer + END, return_tensors="pt")
    prompt_ids, answer_ids = prompt["input_ids"], answer["input_ids"]  # (1, tokens) each
    input_ids = torch.cat([prompt_ids, answer_ids], dim=1)  # (1, tokens)
    labels = input_ids.clone()  # (1, tokens)
    labels[:, : prompt_ids.shape[1]] = IGNORED_LABEL
    inputs = {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "labels": labels,
    }
    if "pixel_values" in prompt:
        inputs["pixel_values"] = prompt["pixel_values"]
    return inputs


def to_processor_parts(content: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the content of a chat message in the form that processors take."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    parts: list[dict[str, Any]] = []
    for part in content:
        if part["type"] == "text":
            parts.append(part)
        else:
            data = base64.b64decode(part["image_url"]["url"].partition(",")[2])
            parts.append({"type": "image", "image": Image.open(io.BytesIO(data))})
    return parts
