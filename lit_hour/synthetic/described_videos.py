"""Conversations about made-up stories, with the words for what each kept frame shows.

Entry point: `DescribedVideos.draw`. Nothing is drawn or encoded: the words stand for the frames.
The last request of each conversation is for a table of the scenes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import get_args

import torch
from torch import Tensor

from lit_hour.config.model import num_kept_frames
from lit_hour.config.schema import Config
from lit_hour.io.sampling import evenly_spaced_indices
from lit_hour.processor import HourLLaVAProcessor
from lit_hour.synthetic.questions.generate import generate_questions
from lit_hour.synthetic.story import COLORS, SHAPES, Difficulty, Scene, Story
from lit_hour.synthetic.story_generator import generate_story
from lit_hour.text.answer_matching import label_options
from lit_hour.text.chat_template import McqFormat, build_conversation
from lit_hour.text.tokenizer import Tokenizer, train_byte_level_tokenizer
from lit_hour.types import Batch, Example, Question

SECONDS = (40, 80)  # of most stories, as in the default run
LONG_SECONDS = (80, 480)
LONG_SHARE = 1 / 16  # of the batches
HALVINGS = (0, 0, 0, 1, 2, 3)  # of the questions in a conversation; a validation has one of them
FRAME_WORDS = {"shape": SHAPES, "color": COLORS, "background": COLORS}  # of an easy story
TOKENIZER_DIFFICULTIES: tuple[Difficulty, ...] = ("easy", "needles", "full")
ROWS = {  # of a table, by the article before "first" and "last"
    "the": ("shape", "color", "background"),
    "a": ("background", "shape", "color"),
}
NUM_TOKENIZER_STORIES = 60  # of each difficulty


@dataclass(frozen=True)
class DescribedBatch:
    """A conversation about each of several stories.

    Attributes:
        texts: without visuals, each with one placeholder.
        frames: `(frames, labels)` int64 for each text: indices in the values of `FRAME_WORDS`.
        mcq_format: of its multiple-choice questions.
    """

    texts: Batch
    frames: tuple[Tensor, ...]
    mcq_format: McqFormat


def train_tokenizer(config: Config, seed: int) -> Tokenizer:
    """Train a tokenizer on prompts and answers about stories of all kinds."""
    return train_byte_level_tokenizer(_tokenizer_texts(config, seed), config.text.vocab_size)


def _tokenizer_texts(config: Config, seed: int) -> Iterator[str]:
    bytes_only = train_byte_level_tokenizer((), config.text.vocab_size)
    note = HourLLaVAProcessor(bytes_only, config.text).video_note
    for difficulty in TOKENIZER_DIFFICULTIES:
        for number in range(NUM_TOKENIZER_STORIES):
            seconds = float(SECONDS[0] + number)
            story = generate_story(seed + number, seconds, difficulty)
            for mcq_format in get_args(McqFormat):
                text = replace(config.text, mcq_format=mcq_format)
                questions = generate_questions(story, "story")
                if difficulty == "easy":
                    questions.append(list_scenes(story, Random(number)))
                    questions += [
                        list_options(one, Random(number)) for one in questions if one.options
                    ]
                for question in questions:
                    for message in build_conversation([question], text).messages:
                        yield f"{message.role}\n{message.text}"
            yield note(story.duration_seconds, int(story.duration_seconds))


class DescribedVideos:
    """Batches of conversations about new stories, in the prompts of a run."""

    def __init__(self, config: Config, tokenizer: Tokenizer, seed: int) -> None:
        """Begin with the story of a seed; the next ones have the seeds after it."""
        self.config, self.seed = config, seed
        self.processors = [
            HourLLaVAProcessor(tokenizer, replace(config.text, mcq_format=mcq_format))
            for mcq_format in get_args(McqFormat)
        ]

    def draw(self, num_texts: int) -> DescribedBatch:
        """Draw a batch of as many questions per conversation, in one of the formats."""
        random = Random(f"described videos from {self.seed}")
        processor = random.choice(self.processors)
        num_questions = max(1, self.config.data.questions_per_sample >> random.choice(HALVINGS))
        seconds = LONG_SECONDS if random.random() < LONG_SHARE else SECONDS
        examples, frames = [], []
        for seed in range(self.seed, self.seed + num_texts):
            story = generate_story(seed, float(random.randint(*seconds)), "easy")
            questions = generate_questions(story, "story")
            first = random.randint(0, max(0, len(questions) - num_questions))
            num_frames = max(int(story.duration_seconds), self.config.model.memaug.min_frames)
            asked = questions[first : first + num_questions]
            tables = [list_scenes(story, random)]
            if processor.config.mcq_format == "letter":
                tables += [list_options(one, random) for one in asked if one.options][-1:]
            texts = processor.tokenize(
                [build_conversation([*asked, *tables], processor.config)],
                num_placeholders=1,
                note=processor.video_note(story.duration_seconds, num_frames),
            )
            examples.append(Example(str(seed), None, texts))
            frames.append(self._describe(story, num_frames))
        self.seed += num_texts
        return DescribedBatch(
            processor.collate(examples), tuple(frames), processor.config.mcq_format
        )

    def _describe(self, story: Story, num_frames: int) -> Tensor:
        """Return the words of the frames that are kept: `(frames, labels)`."""
        num_kept = num_kept_frames(num_frames, self.config.model.memaug)
        kept = evenly_spaced_indices(num_frames, num_kept, "linspace")
        seconds_per_frame = story.duration_seconds / num_frames
        scenes = [story.scene_at(index * seconds_per_frame) for index in kept]
        return torch.tensor(
            [
                [FRAME_WORDS[label].index(word) for label, word in words_of(scene).items()]
                for scene in scenes
            ]
        )  # (frames, labels)


def words_of(scene: Scene) -> dict[str, str]:
    """Return the words for a scene of an easy story, by the names in `FRAME_WORDS`."""
    (actor,) = scene.actors
    words = {"shape": actor.shape, "color": actor.color, "background": scene.background.color}
    return {label: words[label] for label in FRAME_WORDS}


def list_scenes(story: Story, random: Random) -> Question:
    """Return the request for a table of the scenes, with rows in random order.

    No run is trained on tables. They teach to look things up: what a scene shows is predicted from
    the word before, while a question has to be read first.
    """
    words = [words_of(scene) for scene in story.scenes]
    rows = {_row(scene, order) for scene in words for order in ROWS.values()}
    for when, scene in (("first", words[0]), ("last", words[-1])):
        rows |= {f"{article} {when} {_row(scene, order)}" for article, order in ROWS.items()}
    return _table("List the scenes.", rows, random)


def list_options(question: Question, random: Random) -> Question:
    """Return the request for a table of the options of a question, with their letters."""
    options = label_options(question.options).items()
    return _table(
        "List the options.", {f"option {text} {letter}" for letter, text in options}, random
    )


def _row(scene: dict[str, str], order: tuple[str, ...]) -> str:
    return " ".join(scene[label] for label in order)


def _table(request: str, rows: set[str], random: Random) -> Question:
    return Question(
        "", "", "open_ended", request, "\n".join(random.sample(sorted(rows), len(rows)))
    )
