from dataclasses import replace

import pytest
import torch

from lit_hour.config.schema import TextConfig
from lit_hour.errors import QuestionError
from lit_hour.processor import Processor
from lit_hour.text.tokenizer import learn_byte_level_tokenizer
from lit_hour.types import (
    IGNORED_LABEL,
    VIDEO_PLACEHOLDER,
    Conversation,
    Features,
    Frames,
    Message,
    Question,
    Sample,
    Skipped,
    Video,
)

SETTINGS = TextConfig(system_prompt="Look.")
PROCESSOR = Processor(learn_byte_level_tokenizer([], 300), SETTINGS)
SHORT = Question("1", "", "open_ended", "What?", "red")
LONG = Question("2", "", "open_ended", "What happens after the door was closed?", "nothing at all")
FRAMES = Frames(torch.zeros(3, 3, 8, 8, dtype=torch.uint8), torch.arange(3).float())
FEATURES = Features(torch.zeros(4, 16, 6), torch.arange(4).float())


def sample(key: str, video: Video | None, *conversations: tuple[Question, ...]) -> Sample:
    return Sample(key, "made", 12.345, video, tuple(map(PROCESSOR.converse, conversations)))


def decode(ids: torch.Tensor) -> str:
    return "".join(
        "<video>" if number == VIDEO_PLACEHOLDER else str(PROCESSOR.tokenizer.decode([number])) for number in ids.tolist()
    )


EXAMPLES = [
    PROCESSOR.example(sample("a", FRAMES, (SHORT,), (LONG, SHORT))),
    PROCESSOR.example(sample("b", None, (SHORT,))),
    PROCESSOR.example(sample("c", FEATURES, (LONG,))),
]


def test_texts_are_padded_on_the_right_and_keep_what_they_were() -> None:
    batch = PROCESSOR.batch(EXAMPLES)
    texts = [text for example in EXAMPLES for text in example.texts]
    longest = max(len(text.input_ids) for text in texts)
    assert (
        batch.input_ids.shape == batch.labels.shape == batch.question_mask.shape == batch.attention_mask.shape == (4, longest)
    )
    for row, text in enumerate(texts):
        length = len(text.input_ids)
        assert batch.attention_mask[row].tolist() == [True] * length + [False] * (longest - length)
        assert torch.equal(batch.input_ids[row, :length], text.input_ids)
        assert torch.equal(batch.labels[row, :length], text.labels)
        assert torch.equal(batch.question_mask[row, :length], text.question_mask)
    padding = ~batch.attention_mask
    assert (batch.input_ids[padding] == PROCESSOR.tokenizer.pad_token_id).all()
    assert (batch.labels[padding] == IGNORED_LABEL).all()
    assert not batch.question_mask[padding].any()


def test_each_text_knows_its_video_and_its_questions() -> None:
    batch = PROCESSOR.batch(EXAMPLES, positions=(7, 8, 9))
    assert batch.keys == ("a", "b", "c")
    assert batch.videos == (FRAMES, None, FEATURES)
    assert batch.video_of_text == (0, 0, 1, 2)
    assert batch.questions == ((SHORT,), (LONG, SHORT), (SHORT,), (LONG,))
    assert batch.positions == (7, 8, 9)


def test_skipped_samples_are_handed_on() -> None:
    skipped = (Skipped("d", "no picture"), Skipped("e", "cut off"))
    assert PROCESSOR.batch(EXAMPLES, skipped=skipped).skipped == skipped
    assert PROCESSOR.batch([], skipped=skipped).skipped == skipped


def test_a_batch_of_nothing_keeps_step_and_teaches_nothing() -> None:
    batch = PROCESSOR.batch([])
    assert batch.videos == (None,) and batch.video_of_text == (0,) and batch.questions == ((),)
    assert batch.input_ids.shape[0] == 1 and batch.attention_mask.all()
    assert (batch.labels == IGNORED_LABEL).all()
    assert not (batch.input_ids == VIDEO_PLACEHOLDER).any()


def test_only_a_text_with_a_video_has_its_placeholder_and_time() -> None:
    with_frames, without, with_features = (decode(example.texts[0].input_ids) for example in EXAMPLES)
    assert "<video>\nThe video is 12.35 seconds long; 3 frames of it are shown.\nWhat?" in with_frames
    assert "<video>\nThe video is 12.35 seconds long; 4 frames of it are shown.\n" in with_features
    assert "<video>" not in without and "seconds" not in without


def test_the_time_instruction_can_be_turned_off() -> None:
    silent = Processor(PROCESSOR.tokenizer, replace(SETTINGS, time_instruction=False))
    (text,) = silent.example(sample("a", FRAMES, (SHORT,))).texts
    assert "user\n<video>\nWhat?" in decode(text.input_ids)


def test_the_system_prompt_is_a_setting() -> None:
    assert PROCESSOR.converse((SHORT,)).messages[0] == Message("system", "Look.")
    assert PROCESSOR.ask("What?").messages[0] == Message("system", "Look.")


def test_a_question_waits_behind_its_history() -> None:
    history = (Message("user", "Who?"), Message("assistant", "A man."))
    conversation = PROCESSOR.ask("Where?", history)
    assert conversation == Conversation((Message("system", "Look."), *history, Message("user", "Where?")))


@pytest.mark.parametrize("question", ("", " \n"))
def test_an_empty_question_is_refused(question: str) -> None:
    with pytest.raises(QuestionError, match="empty"):
        PROCESSOR.ask(question)


def test_a_batch_moves_to_a_device_with_everything_in_it() -> None:
    batch = PROCESSOR.batch(EXAMPLES, positions=(0, 1, 2), skipped=(Skipped("d", "no picture"),))
    moved = batch.to(torch.device("meta"))
    frames, nothing, features = moved.videos
    assert isinstance(frames, Frames) and nothing is None and isinstance(features, Features)
    tensors = [moved.input_ids, moved.labels, moved.question_mask, moved.attention_mask]
    tensors += [frames.images, frames.timestamps, features.tokens, features.timestamps]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert [len(video) for video in (frames, features)] == [3, 4]
    unmoved = ("keys", "positions", "video_of_text", "questions", "skipped")
    assert [getattr(moved, name) for name in unmoved] == [getattr(batch, name) for name in unmoved]
    assert batch.input_ids.device.type == "cpu"
