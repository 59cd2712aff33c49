"""Have a language model grade responses that no rule can score: `Judge`.

The judge runs on any OpenAI-compatible server. Every answer of it is journaled before it is used,
so a run that is stopped asks for none of them again. Its prompts are in `judge_prompts.json`, in
the project's own words, since the published ones come without a license that allows copying; a
user who has them can name a file with them, in the same form.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_hour.config.schema import Config
from lit_hour.errors import ConfigError, InvalidResponseError
from lit_hour.evaluation.item import Item, JudgePrompt
from lit_hour.evaluation.scoring import Judgment
from lit_hour.io.hashing import hash_path
from lit_hour.text.answer_matching import match_option
from lit_hour.videomarathon.llm_client import ClientPool, gather_all
from lit_hour.videomarathon.response_cache import ResponseCache

PROMPTS = Path(__file__).with_name("judge_prompts.json")
SCORES: Mapping[JudgePrompt, tuple[str, str]] = {  # the grades in a judge's answer
    "sub_scene": ("score_accuracy", "score_relevance"),
    "summary": ("score_completeness", "score_reliability"),
}
MIN_SCORE, MAX_SCORE = 1.0, 5.0
MAX_ATTEMPTS = 3  # with another seed each time, until an answer has the grades
MAX_NEW_TOKENS = 1024
TOTAL = "total"  # the sum of both grades

_NO_STATEMENT = re.compile(r"answer\W*none\b", re.IGNORECASE)
_STATEMENT = re.compile(r"([A-Z])\. (.*)", re.DOTALL)


@dataclass(frozen=True)
class Prompt:
    """System and user message with {question}, {answer}, {scoring_points} and {response}."""

    system: str
    user: str


class Judge:
    """A model on one or more servers that grades responses.

    Attributes:
        description: for the protocol of the report.
    """

    def __init__(self, config: Config) -> None:
        """Read the prompts; nothing is connected yet.

        Raises:
            ConfigError: `evaluation.judge` is not a URL, `evaluation.judge_model` is missing, or
                the file of prompts cannot be used.
        """
        settings = config.evaluation
        self._urls = [url.strip() for url in settings.judge.split(",") if url.strip()]
        if not self._urls or not all(url.startswith(("http://", "https://")) for url in self._urls):
            raise ConfigError(
                f"evaluation.judge={settings.judge} is not a URL. Give the URL of a chat server,"
                " such as http://localhost:8000/v1."
            )
        if not settings.judge_model:
            raise ConfigError(
                "evaluation.judge_model is empty. Set it to the name of the model on"
                " evaluation.judge."
            )
        file = Path(settings.judge_prompts) if settings.judge_prompts else PROMPTS
        self._prompts = read_prompts(file)
        self._model, self._client_config = settings.judge_model, config.videomarathon.client
        self.description = {
            "model": self._model,
            "prompts": settings.judge_prompts or "lit_hour's own: not comparable with published",
            "prompts SHA-256": hash_path(file),
            "temperature": 0,
        }

    def judge(
        self, items: Sequence[Item], responses: Mapping[str, str], journal: Path
    ) -> dict[str, Judgment]:
        """Grade the responses to the questions that have a judge's prompt.

        Args:
            items: questions of the benchmark.
            responses: question id -> text that the model generated.
            journal: JSON lines file of the judge's answers; those that it has are used.

        Returns:
            Question id -> judgment, without those for which the judge gave no valid answer.

        Raises:
            TeacherError: no server answers, or one refuses every request.
            JsonlError: the journal is damaged or cannot be written.
        """
        judged = [item for item in items if item.judge_prompt and item.id in responses]
        return asyncio.run(self._judge_all(judged, responses, journal)) if judged else {}

    async def _judge_all(
        self, items: Sequence[Item], responses: Mapping[str, str], journal: Path
    ) -> dict[str, Judgment]:
        clients = ClientPool(self._urls, self._client_config)
        try:
            with ResponseCache(journal) as cache:
                coroutines = [
                    self._judge(item, responses[item.id], clients, cache) for item in items
                ]
                judgments = await gather_all(coroutines)
        finally:
            await clients.close()
        pairs = zip(items, judgments, strict=True)
        return {item.id: judgment for item, judgment in pairs if judgment is not None}

    async def _judge(
        self, item: Item, response: str, clients: ClientPool, cache: ResponseCache
    ) -> Judgment | None:
        """Request answers until one is valid; None if none is."""
        prompt = self._prompts[item.judge_prompt]
        for seed in range(MAX_ATTEMPTS):
            body = {
                "model": self._model,
                "messages": [
                    {"role": "system", "content": prompt.system},
                    {"role": "user", "content": fill_prompt(prompt.user, item, response)},
                ],
                "temperature": 0,
                "max_tokens": MAX_NEW_TOKENS,
                "seed": seed,
            }
            try:
                answer = await clients.cached_chat(body, cache)
            except InvalidResponseError:
                return None
            if judgment := parse_judgment(item, answer.text):
                return judgment
        return None


def read_prompts(file: Path) -> dict[JudgePrompt, Prompt]:
    """Read the prompts of the judge.

    Raises:
        ConfigError: the file cannot be read, or lacks a prompt.
    """
    try:
        content: Any = json.loads(file.read_text(encoding="utf-8"))
        return {
            name: Prompt(str(content[name]["system"]), str(content[name]["user"]))
            for name in (*SCORES, "caption")
        }
    except (OSError, ValueError) as error:
        raise ConfigError(f"evaluation.judge_prompts: {file} cannot be read: {error}.") from error
    except (LookupError, TypeError) as error:
        raise ConfigError(
            f"evaluation.judge_prompts: {file} lacks {error}. It must have the form of {PROMPTS}."
        ) from error


def fill_prompt(text: str, item: Item, response: str) -> str:
    """Put a question and its response into the user message of a prompt."""
    separator = "\n" if item.judge_prompt == "caption" else "; "
    values = {
        "question": item.question,
        "answer": item.answer,
        "scoring_points": separator.join(item.scoring_points or (item.answer,)),
        "response": response,
    }
    names = "|".join(values)
    return re.sub(rf"\{{({names})\}}", lambda match: values[match[1]], text)


def parse_judgment(item: Item, text: str) -> Judgment | None:
    """Read a judge's answer; None if it has no valid grades or names no statement."""
    if item.judge_prompt == "caption":
        if _NO_STATEMENT.search(text):
            return Judgment({}, False, text)
        found = map(_STATEMENT.fullmatch, item.scoring_points)
        statements = {match[1]: match[2] for match in found if match}
        true_label = item.answer[:1]
        label = match_option(text, statements, true_label)
        return Judgment({}, label == true_label, text) if label else None
    scores = {}
    for name in SCORES[item.judge_prompt]:
        grades = re.findall(rf"{name}[\"'*]*\s*[:=]\s*[\"'*]*(\d+(?:\.\d+)?)", text)
        if not grades or not MIN_SCORE <= float(grades[-1]) <= MAX_SCORE:
            return None
        scores[name.removeprefix("score_")] = float(grades[-1])
    return Judgment({**scores, TOTAL: sum(scores.values())}, None, text)
