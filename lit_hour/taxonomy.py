"""The 22 tasks of VideoMarathon in their 6 topics.

Source: Hour-LLaVA (arXiv:2506.05332), task taxonomy. Long-form tasks need evidence from distant
parts of the video; short-form tasks can be answered from one moment.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """A kind of question.

    Attributes:
        key: name in data files, TOPIC/NAME.
        long_form: whether the evidence is spread over the video.
    """

    key: str
    long_form: bool

    @property
    def topic(self) -> str:
        """One of `TOPICS`."""
        return self.key.partition("/")[0]

    @property
    def name(self) -> str:
        """Name of the task in words: "temporal order"."""
        return self.key.partition("/")[2].replace("_", " ")


TOPICS: tuple[str, ...] = ("temporality", "spatiality", "object", "action", "scene", "event")

TASKS: tuple[Task, ...] = (
    Task("temporality/temporal_perception", long_form=False),
    Task("temporality/duration_perception", long_form=True),
    Task("temporality/temporal_reasoning", long_form=True),
    Task("temporality/temporal_gap_estimation", long_form=True),
    Task("temporality/temporal_order", long_form=True),
    Task("spatiality/spatial_perception", long_form=False),
    Task("spatiality/spatial_reasoning", long_form=True),
    Task("object/object_recognition", long_form=False),
    Task("object/object_attribute", long_form=False),
    Task("object/object_interaction", long_form=False),
    Task("object/object_reasoning", long_form=True),
    Task("object/object_existence", long_form=True),
    Task("object/object_permanence", long_form=True),
    Task("action/action_recognition", long_form=False),
    Task("action/action_localization", long_form=True),
    Task("action/action_sequence", long_form=True),
    Task("action/action_reasoning", long_form=True),
    Task("scene/scene_recognition", long_form=False),
    Task("scene/scene_transition", long_form=True),
    Task("event/event_sequence", long_form=True),
    Task("event/key_event_extraction", long_form=True),
    Task("event/overall_summarization", long_form=True),
)

TASK_OF_KEY: dict[str, Task] = {task.key: task for task in TASKS}
