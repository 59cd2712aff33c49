"""Generate questions about a video for each of the 22 tasks: `generate_questions`.

They are drafts as the teacher wrote them; `filters` checks them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from lit_hour.taxonomy import TASKS, Task
from lit_hour.types import QuestionFormat
from lit_hour.videomarathon.captions import ClipCaption, format_captions
from lit_hour.videomarathon.events import VideoEvent, format_events
from lit_hour.videomarathon.llm_client import gather_all
from lit_hour.videomarathon.task_prompts import TASK_PROMPTS
from lit_hour.videomarathon.teacher import Teacher, TeacherRequest, list_schema, object_schema
from lit_hour.videomarathon.video_clips import VideoFile

QUESTIONS_PROMPT = """\
Task: {task}
Definition: {definition}
Example question: {question}
Its answer: {answer}
Its wrong options: {wrong}

Write {number} open-ended and {number} multiple-choice questions of this task about the video above.
{scope}
Each question has one right answer, which follows from the descriptions above and cannot be guessed
without the video. An answer is short. There are three wrong options. They are of the same kind and
length as the right one, are wrong without doubt, and are best true of something else in the video.
Do not speak of descriptions, captions or parts: the question is about the video.
Give as evidence where in the video the answer is seen, in seconds. If the video has no material for
this task, write fewer questions or none."""

LONG_SCOPE = "Answering takes moments of the video that are far apart."
SHORT_SCOPE = "One moment of the video is enough to answer."

_TEXT = {"type": "string"}
_EVIDENCE = list_schema(
    object_schema(start_seconds={"type": "number"}, end_seconds={"type": "number"})
)
SCHEMA = object_schema(
    open_ended=list_schema(object_schema(question=_TEXT, answer=_TEXT, evidence=_EVIDENCE)),
    multiple_choice=list_schema(
        object_schema(
            question=_TEXT, answer=_TEXT, wrong_options=list_schema(_TEXT), evidence=_EVIDENCE
        )
    ),
)


@dataclass(frozen=True)
class Context:
    """Everything known about a video when questions about it are written and checked."""

    video: VideoFile
    captions: Sequence[ClipCaption]
    events: Sequence[VideoEvent]
    summary: str

    def to_prompt(self) -> str:
        """Return the context as text.

        Every request about the video's questions starts with it, so that servers can reuse the KV
        cache of this prefix.
        """
        return (
            f"{self.video.prompt_heading()}\nSummary: {self.summary}\n\n"
            f"Events\n{format_events(self.events)}\n\nParts\n{format_captions(self.captions)}"
        )


async def generate_questions(context: Context, teacher: Teacher) -> list[dict[str, Any]]:
    """Return drafts of questions for all tasks, as records of a question file without the video.

    Open-ended questions come first and multiple-choice ones after them, each in random order, so
    that questions in one conversation do not reveal each other's answers.

    Raises:
        InvalidResponseError, TeacherError: see `Teacher.request`.
    """
    answers = await gather_all(_generate_for_task(task, context, teacher) for task in TASKS)
    random = Random(f"{teacher.config.seed} {context.video.name}")
    formats: tuple[QuestionFormat, ...] = ("open_ended", "multiple_choice")
    drafts = []
    for question_format in formats:
        of_format = [
            _to_record(task, question_format, draft)
            for task, answer in zip(TASKS, answers, strict=True)
            for draft in answer[question_format]
        ]
        drafts += random.sample(of_format, len(of_format))
    for number, draft in enumerate(drafts):
        draft["id"] = f"{context.video.name}/{number}"
        random.shuffle(draft.get("options", []))
    return drafts


async def _generate_for_task(
    task: Task, context: Context, teacher: Teacher
) -> dict[str, list[dict[str, Any]]]:
    prompt = TASK_PROMPTS[task.key]
    instruction = QUESTIONS_PROMPT.format(
        task=task.key,
        definition=prompt.definition,
        question=prompt.question,
        answer=prompt.answer,
        wrong="; ".join(prompt.wrong_options),
        number=teacher.config.questions_per_task,
        scope=LONG_SCOPE if task.long_form else SHORT_SCOPE,
    )
    parts = (context.to_prompt(), instruction)
    return await teacher.request(TeacherRequest("questions", parts, SCHEMA), parse=dict)


def _to_record(
    task: Task, question_format: QuestionFormat, draft: dict[str, Any]
) -> dict[str, Any]:
    """Return a draft as a record of a question file; only multiple choice has options."""
    record = {"task": task.key, "format": question_format, "question": draft["question"].strip()}
    if question_format == "multiple_choice":
        record["options"] = [draft["answer"], *draft["wrong_options"]]
    record["answer"] = draft["answer"]
    record["evidence"] = [
        [interval["start_seconds"], interval["end_seconds"]] for interval in draft["evidence"]
    ]
    return record
