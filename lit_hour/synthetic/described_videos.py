"""Conversations about made-up stories, with the words for what each kept frame shows.

Entry points: `DescribedVideos.draw` and the other methods that draw a batch. Nothing is drawn as a
picture or encoded: the words stand for the frames.

Two things make look-ups quick to learn. Short questions are the ends of the questions' wordings
with their answers, without the chat template, so that a hundred tokens ask for a dozen facts. And
most stories have more scenes than those of the default run, so that guessing one of the scenes is
seldom right.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import NamedTuple, get_args

import torch
from torch import Tensor

from lit_hour.config.model import num_kept_frames
from lit_hour.config.schema import Config
from lit_hour.io.sampling import evenly_spaced_indices
from lit_hour.processor import HourLLaVAProcessor
from lit_hour.synthetic.questions import easy
from lit_hour.synthetic.questions.generate import generate_questions
from lit_hour.synthetic.stories.easy import generate_easy_scenes
from lit_hour.synthetic.story import COLORS, SHAPES, Difficulty, Scene, Story
from lit_hour.synthetic.story_generator import generate_story
from lit_hour.text.answer_matching import label_options
from lit_hour.text.chat_template import McqFormat, build_conversation
from lit_hour.text.tokenizer import Tokenizer, train_byte_level_tokenizer
from lit_hour.types import (
    IGNORE_INDEX,
    IMAGE_TOKEN_INDEX,
    Batch,
    Example,
    Question,
    TokenizedText,
)

SECONDS = (40, 80)  # of the default run's stories
SHORT_SECONDS = (24, 48)  # of most stories that are trained on
LONG_SECONDS = (80, 480)
LONG_SHARE = 1 / 16  # of the batches of conversations
DEFAULT_RUN_SHARE = 1 / 4  # of these batches: as many tokens as in the default run
LETTER_SHARE = 1 / 4  # of the batches of conversations: with letters as answers
MAX_QUESTIONS = 4  # of a conversation
MAX_SCENES = 5  # of a story that is trained on; one of the default run has at most three
FRAME_WORDS = {"shape": SHAPES, "color": COLORS, "background": COLORS}  # of an easy story
WORDINGS = ("What colour is the background", "Which shape is seen", "What colour is")
TOKENIZER_DIFFICULTIES: tuple[Difficulty, ...] = ("easy", "needles", "full")
NUM_TOKENIZER_STORIES = 60  # of each difficulty


@dataclass(frozen=True)
class DescribedBatch:
    """A text about each of several stories.

    Attributes:
        texts: without visuals, each with one placeholder.
        frames: `(frames, labels)` int64 for each text: indices in the values of `FRAME_WORDS`.
        tokens_per_frame: visual tokens of a frame, without the newline token.
    """

    texts: Batch
    frames: tuple[Tensor, ...]
    tokens_per_frame: int


class ShortQuestion(NamedTuple):
    """The end of a question's wording, and its answer."""

    wording: str
    answer: str


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
                for question in generate_questions(story, "story"):
                    for message in build_conversation([question], text).messages:
                        yield f"{message.role}\n{message.text}"
            yield note(story.duration_seconds, int(story.duration_seconds))


class DescribedVideos:
    """Batches of texts about new stories, in the prompts of a run."""

    def __init__(self, config: Config, tokenizer: Tokenizer, seed: int) -> None:
        """Begin with the story of a seed; the next ones have the seeds after it."""
        self.config, self.tokenizer, self.seed = config, tokenizer, seed
        self.processors: dict[McqFormat, HourLLaVAProcessor] = {
            mcq_format: HourLLaVAProcessor(tokenizer, replace(config.text, mcq_format=mcq_format))
            for mcq_format in get_args(McqFormat)
        }

    def draw(self, num_texts: int) -> DescribedBatch:
        """Draw a batch of conversations in one of the formats, with short questions at their end.

        With letters as answers all questions are multiple-choice.
        """
        random = self._random()
        mcq_format: McqFormat = "letter" if random.random() < LETTER_SHARE else "text"
        num_questions = random.randint(1, MAX_QUESTIONS)
        tokens_per_frame, seconds = 1, SHORT_SECONDS
        if random.random() < DEFAULT_RUN_SHARE:
            tokens_per_frame = self.config.pretrain_language.tokens_per_frame
            seconds = LONG_SECONDS if random.random() < LONG_SHARE else SECONDS
        texts, stories = [], self._draw_stories(num_texts, seconds, random)
        for story in stories:
            questions = generate_questions(story, "story")
            if mcq_format == "letter":
                questions = [question for question in questions if question.options]
            questions = random.sample(questions, min(num_questions, len(questions)))
            text = self._converse(story, questions, mcq_format)
            short = [*short_questions(story, random)]
            if mcq_format == "letter":
                short += short_questions_about_options(questions, random)
            texts.append(self._append(text, short))
        return self._batch(stories, texts, tokens_per_frame)

    def draw_short(self, num_texts: int) -> DescribedBatch:
        """Draw a batch of short questions alone, a token for each frame."""
        random = self._random()
        stories = self._draw_stories(num_texts, SHORT_SECONDS, random)
        start = torch.tensor([IMAGE_TOKEN_INDEX])  # (1,)
        placeholder = TokenizedText(start, torch.full_like(start, IGNORE_INDEX), start > 0)
        texts = [self._append(placeholder, short_questions(story, random)) for story in stories]
        return self._batch(stories, texts, tokens_per_frame=1)

    def draw_default_run(self, num_texts: int, mcq_format: McqFormat) -> DescribedBatch:
        """Draw a batch of stories of the default run, with one question each as in validation."""
        random = self._random()
        texts, stories = [], []
        for _ in range(num_texts):
            stories.append(generate_story(self.seed, float(random.randint(*SECONDS)), "easy"))
            self.seed += 1
            question = random.choice(generate_questions(stories[-1], "story"))
            texts.append(self._converse(stories[-1], [question], mcq_format))
        return self._batch(stories, texts, self.config.pretrain_language.tokens_per_frame)

    def _random(self) -> Random:
        return Random(f"described videos from {self.seed}")

    def _draw_stories(
        self, num_stories: int, seconds: tuple[int, int], random: Random
    ) -> list[Story]:
        first, self.seed = self.seed, self.seed + num_stories
        return [
            draw_story(seed, float(random.randint(*seconds)), random.randint(1, MAX_SCENES))
            for seed in range(first, self.seed)
        ]

    def _converse(
        self, story: Story, questions: Sequence[Question], mcq_format: McqFormat
    ) -> TokenizedText:
        processor = self.processors[mcq_format]
        note = processor.video_note(story.duration_seconds, self._num_frames(story))
        conversation = build_conversation(questions, processor.config)
        (text,) = processor.tokenize([conversation], num_placeholders=1, note=note)
        return text

    def _append(self, text: TokenizedText, questions: Iterable[ShortQuestion]) -> TokenizedText:
        """Append short questions to a text, with labels at their answers, a token each."""
        ids, labels = [text.input_ids], [text.labels]
        for question in questions:
            wording, answer = self._ids(f" {question.wording}\n"), self._ids(question.answer)
            ids.append(torch.tensor([*wording, *answer, *self._ids("\n")]))  # (question,)
            labels.append(torch.full_like(ids[-1], IGNORE_INDEX))
            labels[-1][len(wording)] = answer[0]
        input_ids = torch.cat(ids)  # (tokens,)
        question_mask = torch.zeros_like(input_ids, dtype=torch.bool)  # (tokens,)
        question_mask[: len(text.question_mask)] = text.question_mask
        return TokenizedText(input_ids, torch.cat(labels), question_mask, text.questions)

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def _batch(
        self, stories: Sequence[Story], texts: Sequence[TokenizedText], tokens_per_frame: int
    ) -> DescribedBatch:
        examples = [
            Example(str(story.seed), None, (text,))
            for story, text in zip(stories, texts, strict=True)
        ]
        batch = self.processors["text"].collate(examples)
        return DescribedBatch(batch, tuple(map(self._describe, stories)), tokens_per_frame)

    def _num_frames(self, story: Story) -> int:
        return max(int(story.duration_seconds), self.config.model.memaug.min_frames)

    def _describe(self, story: Story) -> Tensor:
        """Return the words of the frames that are kept: `(frames, labels)`."""
        num_frames = self._num_frames(story)
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


def draw_story(seed: int, seconds: float, num_scenes: int) -> Story:
    """Draw an easy story with a number of scenes of equal length."""
    boundaries = [float(round(seconds * index / num_scenes)) for index in range(num_scenes + 1)]
    scenes = generate_easy_scenes(Random(seed), boundaries)
    return Story(seed, seconds, tuple(scenes), "easy")


def short_questions(story: Story, random: Random) -> list[ShortQuestion]:
    """Return short questions about all facts of an easy story, in random order."""
    facts = [fact for generate in easy.FACT_GENERATORS.values() for fact in generate(story)]
    return [
        ShortQuestion(shorten(fact.question), fact.answer)
        for fact in random.sample(facts, len(facts))
    ]


def shorten(question: str) -> str:
    """Return the end of a question's wording: "behind the star?".

    Raises:
        ValueError: it is no question about an easy story.
    """
    for wording in WORDINGS:
        if question.startswith(wording):
            return question.removeprefix(wording).strip()
    raise ValueError(f"{question!r} begins with none of {', '.join(WORDINGS)}.")


def short_questions_about_options(
    questions: Sequence[Question], random: Random
) -> Iterator[ShortQuestion]:
    """Iterate over the options of multiple-choice questions, with their letters."""
    for question in questions:
        options = list(label_options(question.options).items())
        for letter, option in random.sample(options, len(options)):
            yield ShortQuestion(f"option {option}", letter)
