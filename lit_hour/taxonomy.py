"""The 22 tasks of VideoMarathon in their 6 topics.

Source: Hour-LLaVA (arXiv:2506.05332), task taxonomy. Long-form tasks need evidence from distant
parts of the video; short-form tasks can be answered from one moment.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """A kind of question.

    Attributes:
        topic: one of `TOPICS`.
        name: name of the task, with spaces.
        long_form: whether the evidence is spread over the video.
    """

    topic: str
    name: str
    long_form: bool

    @property
    def key(self) -> str:
        """Name in data files: `temporality/temporal_order`."""
        return f"{self.topic}/{self.name}".replace(" ", "_")


TASKS: tuple[Task, ...] = (
    Task("temporality", "temporal perception", long_form=False),
    Task("temporality", "duration perception", long_form=True),
    Task("temporality", "temporal reasoning", long_form=True),
    Task("temporality", "temporal gap estimation", long_form=True),
    Task("temporality", "temporal order", long_form=True),
    Task("spatiality", "spatial perception", long_form=False),
    Task("spatiality", "spatial reasoning", long_form=True),
    Task("object", "object recognition", long_form=False),
    Task("object", "object attribute", long_form=False),
    Task("object", "object interaction", long_form=False),
    Task("object", "object reasoning", long_form=True),
    Task("object", "object existence", long_form=True),
    Task("object", "object permanence", long_form=True),
    Task("action", "action recognition", long_form=False),
    Task("action", "action localization", long_form=True),
    Task("action", "action sequence", long_form=True),
    Task("action", "action reasoning", long_form=True),
    Task("scene", "scene recognition", long_form=False),
    Task("scene", "scene transition", long_form=True),
    Task("event", "event sequence", long_form=True),
    Task("event", "key event extraction", long_form=True),
    Task("event", "overall summarization", long_form=True),
)

TOPICS: tuple[str, ...] = tuple(dict.fromkeys(task.topic for task in TASKS))

TASK_OF_KEY: dict[str, Task] = {task.key: task for task in TASKS}
