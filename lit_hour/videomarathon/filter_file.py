"""Apply the filters of `annotate` to any question file: `filter_file`, for `lit-hour filter`.

    OUT/questions.json     the questions that are kept, in this project's format
    OUT/dropped.jsonl      the others, each with the filter that dropped it and its reason
    OUT/responses.jsonl    every response of the teacher; the same command goes on from there

Without captions the filters are those that need the questions alone, and the teacher's guesses.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lit_hour.config.videomarathon import VideoMarathonConfig
from lit_hour.data.questions.file import QuestionFile, read_question_file
from lit_hour.data.questions.record import (
    SampleSpec,
    drop_partial_placeholders,
    question_record,
    sample_record,
)
from lit_hour.errors import QuestionError
from lit_hour.io.atomic import atomic_write
from lit_hour.io.file_lock import dir_lock
from lit_hour.types import Question
from lit_hour.videomarathon.annotation import CACHE_NAME
from lit_hour.videomarathon.filters import (
    FilterResult,
    find_answered_blindly,
    find_given_away_by_length,
    find_given_away_by_wording,
    find_near_duplicates,
    find_repeated_options,
)
from lit_hour.videomarathon.llm_client import ClientPool, gather_all
from lit_hour.videomarathon.response_cache import ResponseCache
from lit_hour.videomarathon.teacher import Teacher


@dataclass(frozen=True)
class FilterSummary:
    """Numbers of questions: kept, and dropped by each filter; and of invalid records."""

    num_kept: int
    num_dropped: Mapping[str, int]
    num_invalid: int


def filter_file(
    file: Path, out: Path, urls: Sequence[str], model: str, config: VideoMarathonConfig
) -> FilterSummary:
    """Filter the questions of a file, sample by sample.

    Args:
        file: question file of any form that `pack` reads.
        out: folder to create.
        urls: of the teacher's servers; none for the filters that need no teacher.
        model: name of the teacher on the servers.
        config: section `videomarathon`.

    Raises:
        QuestionError: the file cannot be used, or `out` cannot be written.
        TeacherError: no server answers.
        InvalidResponseError: responses of the teacher stay invalid.
    """
    content = read_question_file(
        file, config.max_invalid_records, "videomarathon.max_invalid_records"
    )
    try:
        out.mkdir(parents=True, exist_ok=True)
        with dir_lock(out), ResponseCache(out / CACHE_NAME) as cache:
            results = asyncio.run(_filter_all(content.samples, urls, model, config, cache))
            return _write(content, results, out)
    except OSError as error:
        raise QuestionError(f"Cannot write to {out}: {error}.") from error


def format_filter_report(out: Path, summary: FilterSummary) -> str:
    """Return how many questions are left, and why the others are not."""
    total = summary.num_kept + sum(summary.num_dropped.values())
    lines = [f"{out}/questions.json: {summary.num_kept} of {total} questions are kept"]
    lines += [f"  {name}: {count} dropped" for name, count in summary.num_dropped.items()]
    if summary.num_invalid:
        lines.append(f"  {summary.num_invalid} invalid records, see {out / 'dropped.jsonl'}")
    return "\n".join(lines)


async def _filter_all(
    samples: Sequence[SampleSpec],
    urls: Sequence[str],
    model: str,
    config: VideoMarathonConfig,
    cache: ResponseCache,
) -> list[FilterResult]:
    """Return the result of each sample. The teacher gets the questions of several at a time."""
    if not urls:
        return [_filter_by_text(sample, config) for sample in samples]
    clients = ClientPool(urls, config.client)
    slots = asyncio.Semaphore(config.client.max_concurrent_videos)

    async def filter_one(index: int, sample: SampleSpec) -> FilterResult:
        async with slots:
            result = _filter_by_text(sample, config)
            teacher = Teacher(clients, model, config, cache, index)
            result.drop("answered_blindly", await find_answered_blindly(result.kept, teacher))
            return result

    try:
        return await gather_all(filter_one(*numbered) for numbered in enumerate(samples))
    finally:
        await clients.close()


def _filter_by_text(sample: SampleSpec, config: VideoMarathonConfig) -> FilterResult:
    """Apply the filters that need the questions of one sample alone."""
    result = FilterResult(list(sample.questions))
    repeated = {
        question.id: reason
        for question in result.kept
        if (reason := find_repeated_options(question.options))
    }
    result.drop("repeated_options", repeated)
    filters = config.filters
    result.drop("given_away_by_length", find_given_away_by_length(result.kept, filters))
    result.drop("given_away_by_wording", find_given_away_by_wording(result.kept))
    result.drop("near_duplicate", find_near_duplicates(result.kept, filters))
    return result


def _write(content: QuestionFile, results: Sequence[FilterResult], out: Path) -> FilterSummary:
    kept = [
        record
        for sample, result in zip(content.samples, results, strict=True)
        for record in _kept_records(sample, result.kept)
    ]
    dropped = [
        {**_about(sample), **asdict(one)}
        for sample, result in zip(content.samples, results, strict=True)
        for one in result.dropped
    ]
    with atomic_write(out / "dropped.jsonl") as stream:
        for line in dropped:
            stream.write(json.dumps(line, ensure_ascii=False) + "\n")
        for invalid in content.invalid:
            reason = {"filter": "wrong_format", "reason": f"{invalid.location}: {invalid.reason}"}
            stream.write(json.dumps(reason, ensure_ascii=False) + "\n")
    with atomic_write(out / "questions.json") as stream:
        lines = ",\n".join(json.dumps(record, ensure_ascii=False) for record in kept)
        stream.write(f"[\n{lines}\n]\n")
    counts = Counter(line["filter"] for line in dropped)
    num_kept = sum(len(result.kept) for result in results)
    return FilterSummary(num_kept, dict(counts), len(content.invalid))


def _kept_records(sample: SampleSpec, questions: Sequence[Question]) -> list[dict[str, Any]]:
    """Return a record per question; several about one text or image set stay a conversation."""
    if not sample.record or len(questions) < 2:
        return [{**_about(sample), **question_record(question)} for question in questions]
    turns = [
        {"from": role, "value": text}
        for question in drop_partial_placeholders(questions, len(sample.files))
        for role, text in (("human", question.question), ("gpt", question.answer))
    ]
    return [{**_about(sample), "conversations": turns}]


def _about(sample: SampleSpec) -> dict[str, Any]:
    return sample_record(sample.modality, sample.files, sample.clip_seconds, sample.system_prompt)
