"""Captions, events and a summary in, questions of each task out, as the teacher wrote them: nothing is checked here yet."""

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
from lit_hour.videomarathon.task_prompts import TASK_PROMPTS, TaskPrompt
from lit_hour.videomarathon.teacher import Teacher, TeacherRequest, list_schema, object_schema
from lit_hour.videomarathon.video_clips import VideoFile

INSTRUCTION = """Task: {task}
Definition: {definition}
Example question: {question}
Its answer: {answer}
Its wrong options: {wrong}

Write {number} open-ended and {number} multiple-choice questions of this task about the video above. {reach}
Each question has one right answer, which follows from the descriptions above and cannot be guessed without the video. An
answer is short. Wrong options are three, are of the same kind and length as the right one, are wrong without doubt, and are
best true of something else in the video. Do not speak of descriptions, captions or parts: the question is about the video.
Give as evidence where in the video the answer is seen, in seconds. If the video has no material for this task, write fewer
questions or none."""

REACH = {
    True: "Whoever answers has to have seen moments that are far apart.",
    False: "One moment of the video is enough to answer.",
}

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
    """What is known of a video when questions about it are written and checked."""

    video: VideoFile
    captions: Sequence[ClipCaption]
    events: Sequence[VideoEvent]
    summary: str

    def to_prompt(self) -> str:
        """All of it. Every request about the questions of a video begins with it, so that servers can keep what they read."""
        return (
            f"{self.video.prompt_heading()}\nSummary: {self.summary}\n\nEvents\n{format_events(self.events)}\n\n"
            f"Parts\n{format_captions(self.captions)}"
        )


async def generate_questions(material: Context, teacher: Teacher) -> list[dict[str, Any]]:
    """The questions of all tasks as records of a question file, without the video's name.

    Open-ended ones come first and the multiple-choice ones after them, each in random order, so that questions that share a
    conversation do not give one another away.

    Raises:
        InvalidResponseError, TeacherError: as `Teacher.request`.
    """
    written = await gather_all(_ask_task(task, material, teacher) for task in TASKS)
    random = Random(f"{teacher.settings.seed} {material.video.name}")
    formats: tuple[QuestionFormat, ...] = ("open_ended", "multiple_choice")
    drafts = []
    for form in formats:
        of_format = [
            _record(task, form, draft)
            for task, answer in zip(TASKS, written, strict=True)
            for draft in answer[form]
        ]
        drafts += random.sample(of_format, len(of_format))
    for number, draft in enumerate(drafts):
        draft["id"] = f"{material.video.name}/{number}"
        random.shuffle(draft.get("options", []))
    return drafts


async def _ask_task(
    task: Task, material: Context, teacher: Teacher
) -> dict[str, list[dict[str, Any]]]:
    instruction = _instruct(task, TASK_PROMPTS[task.key], teacher.settings.questions_per_task)
    return await teacher.request(
        TeacherRequest("questions", (material.to_prompt(), instruction), SCHEMA), read=dict
    )


def _instruct(task: Task, guide: TaskPrompt, number: int) -> str:
    return INSTRUCTION.format(
        task=task.key,
        definition=guide.definition,
        question=guide.question,
        answer=guide.answer,
        wrong="; ".join(guide.wrong_options),
        number=number,
        reach=REACH[task.long_form],
    )


def _record(task: Task, form: QuestionFormat, draft: dict[str, Any]) -> dict[str, Any]:
    """A draft in the form of a question file; only a multiple-choice question has options."""
    options = (
        {"options": [draft["answer"], *draft["wrong_options"]]} if form == "multiple_choice" else {}
    )
    evidence = [
        [interval["start_seconds"], interval["end_seconds"]] for interval in draft["evidence"]
    ]
    return {
        "task": task.key,
        "format": form,
        "question": draft["question"],
        **options,
        "answer": draft["answer"],
        "evidence": evidence,
    }
