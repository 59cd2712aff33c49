"""Answer the questions about a set of features, and summarize the answers: `answer_set`."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean

import torch
import torch.nn.functional as F

from lit_hour.data.datasets import load_timed_visual
from lit_hour.data.shards.reader import StoredSample, open_shards
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.io.atomic import atomic_write_text
from lit_hour.model.language_model import COSINE_SCALE
from lit_hour.model.multimodal_inputs import left_pad_prompts
from lit_hour.text.answer_matching import is_correct
from lit_hour.text.chat_template import build_conversation
from lit_hour.text.tokenizer import end_of_turn_id
from lit_hour.types import Batch, Question, Sample

TEXTS_AT_ONCE = 32
MAX_SECONDS_OFF = 5.0  # of an answer about a time
KINDS = {
    "object/object_recognition": "what it shows",
    "object/object_existence": "whether it is there",
    "object/object_reasoning": "how many",
    "temporality/temporal_order": "which of two comes first or last",
    "temporality/temporal_perception": "when",
}
CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d\d)")


@dataclass(frozen=True)
class ScoredAnswer:
    """An answer; `kind` is a row of the table, `answer` the true one."""

    kind: str
    answer: str
    is_only_photo: bool
    response: str
    is_right: bool


Answerer = Callable[[VideoPredictor, StoredSample, Sequence[str]], Iterator[ScoredAnswer]]


def answer_set(
    predictor: VideoPredictor,
    shards: Path,
    out: Path,
    answer_video: Answerer,
    categories: Sequence[str],
) -> list[ScoredAnswer]:
    """Answer the questions of a set, or read the answers of an earlier run from `out`."""
    if out.exists():
        return [ScoredAnswer(**record) for record in json.loads(out.read_text())]
    folder = open_shards(shards)
    answers: list[ScoredAnswer] = []
    for entry in folder.entries:
        answers += answer_video(predictor, folder.read(entry), categories)
    atomic_write_text(out, json.dumps([asdict(answer) for answer in answers], indent=0))
    return answers


@torch.inference_mode()
def answer_in_words(
    predictor: VideoPredictor, stored: StoredSample, categories: Sequence[str]
) -> Iterator[ScoredAnswer]:
    """Answer by the language model, which generates."""
    model, processor = predictor.model, predictor.processor
    limit, end_id = predictor.config.generation.max_new_tokens, end_of_turn_id(processor.tokenizer)
    for questions in _batched(stored.questions):
        batch = _batch(predictor, stored, questions)
        with torch.autocast("cpu", torch.bfloat16):
            inputs = model.build_inputs(batch, model.build_repositories(batch.visuals))
            ids = list(model.llm.generate(left_pad_prompts(inputs), limit, end_id))
        responses = processor.tokenizer.batch_decode(
            torch.stack(ids, dim=1), skip_special_tokens=True
        )
        for question, response in zip(questions, responses, strict=True):
            yield score(question, response)


@torch.inference_mode()
def answer_by_similarity(
    predictor: VideoPredictor, stored: StoredSample, categories: Sequence[str]
) -> Iterator[ScoredAnswer]:
    """Choose the option, or else the category, with the words nearest to the mean visual token.

    The language model is not asked: this is what the objective `answer_words` trains, and shows
    what MemAug brings. MemAug reads no options.
    """
    model, processor = predictor.model, predictor.processor
    embedding = F.normalize(model.llm.network.get_input_embeddings().weight, dim=-1)
    questions = [one for one in stored.questions if one.answer in categories]
    shown = [one.answer for one in questions if one.task.endswith("recognition")]
    if not questions:
        return
    plain = [replace(one, options=(), format="open_ended") for one in questions]
    batch = _batch(predictor, stored, plain)
    with torch.autocast("cpu", torch.bfloat16):
        _, tokens = model.augment(batch, model.build_repositories(batch.visuals), None)
    for question, visual in zip(questions, tokens, strict=True):
        mean = F.normalize(torch.cat(list(visual)).float().mean(dim=0), dim=0)  # (dim,)
        log_probabilities = (COSINE_SCALE * (embedding @ mean)).log_softmax(dim=0)  # (vocabulary,)
        found = {
            option: float(log_probabilities[processor.answer_ids(option)[:-1]].mean())
            for option in question.options or categories
        }
        response = max(found, key=lambda option: found[option])
        yield score(question, response)
        if question.task.endswith("recognition") and not question.options:
            yield ScoredAnswer(
                "any photograph of the video, open",
                question.answer,
                "only" in question.question,
                response,
                response in shown,
            )


def _batched(questions: Sequence[Question]) -> Iterator[Sequence[Question]]:
    for first in range(0, len(questions), TEXTS_AT_ONCE):
        yield questions[first : first + TEXTS_AT_ONCE]


def _batch(predictor: VideoPredictor, stored: StoredSample, questions: Sequence[Question]) -> Batch:
    config, processor = predictor.config, predictor.processor
    visual, duration = load_timed_visual(stored, config.video, config.image)
    texts = tuple(build_conversation([one], config.text) for one in questions)
    sample = Sample(stored.key, stored.key, duration, visual, texts)
    return processor.collate([processor.build_example(sample)])


def score(question: Question, response: str) -> ScoredAnswer:
    """Score a response; a time counts if it is near the moments that show the photograph."""
    kind = KINDS[question.task]
    if question.task.endswith("order") and "photograph right" in question.question:
        kind = "what comes right before or after"
    kind += ", options" if question.options else ", open"
    is_right = is_correct(question, response)
    if kind == "when, open":
        is_right = any(_is_near(response, interval) for interval in question.evidence)
    return ScoredAnswer(kind, question.answer, "only" in question.question, response, is_right)


def _is_near(response: str, interval: tuple[float, float]) -> bool:
    found = CLOCK.search(response)
    if not found:
        return False
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    answer = 3600 * hours + 60 * minutes + seconds
    return interval[0] - MAX_SECONDS_OFF <= answer <= interval[1] + MAX_SECONDS_OFF


def accuracies(answers: list[ScoredAnswer]) -> dict[str, tuple[float, int]]:
    """Return accuracy and number of answers by kind; categories count equally in what it shows."""
    groups: dict[str, list[ScoredAnswer]] = defaultdict(list)
    for answer in answers:
        groups[answer.kind].append(answer)
        if answer.kind.startswith("what it shows"):
            number = "one photograph" if answer.is_only_photo else "two to four"
            groups[f"{answer.kind}, {number}"].append(answer)
    return {kind: (_balanced(members), len(members)) for kind, members in sorted(groups.items())}


def _balanced(answers: list[ScoredAnswer]) -> float:
    by_category: dict[str, list[bool]] = defaultdict(list)
    for answer in answers:
        key = answer.answer if answer.kind.startswith("what") else ""
        by_category[key].append(answer.is_right)
    return mean(mean(hits) for hits in by_category.values())
