from dataclasses import replace

import pytest
import torch

from lit_hour.config.schema import TextConfig
from lit_hour.errors import QuestionError
from lit_hour.processor import HourLLaVAProcessor, count_placeholders
from lit_hour.text.chat_template import build_conversation
from lit_hour.text.tokenizer import train_byte_level_tokenizer
from lit_hour.types import (
    IGNORE_INDEX,
    IMAGE_TOKEN_INDEX,
    Conversation,
    Features,
    Frames,
    ImageSet,
    Message,
    Question,
    Sample,
    Skipped,
    TiledImage,
    Visual,
)

SETTINGS = TextConfig(system_prompt="Look.")
PROCESSOR = HourLLaVAProcessor(train_byte_level_tokenizer([], 300), SETTINGS)
SHORT = Question("1", "", "open_ended", "What?", "red")
LONG = Question("2", "", "open_ended", "What happens after the door was closed?", "nothing at all")
FRAMES = Frames(torch.zeros(3, 3, 8, 8, dtype=torch.uint8), torch.arange(3).float())
FEATURES = Features(torch.zeros(4, 16, 6), torch.arange(4).float())
PICTURE = TiledImage(torch.zeros(7, 3, 8, 8, dtype=torch.uint8), (2, 3), (16, 24))
PICTURES = ImageSet(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
MARKED = Question("3", "", "open_ended", "<image> or <image>?", "neither")


def sample(key: str, visual: Visual | None, *conversations: tuple[Question, ...]) -> Sample:
    return Sample(
        key,
        "made",
        12.345,
        visual,
        tuple(build_conversation(questions, SETTINGS) for questions in conversations),
    )


def decode(ids: torch.Tensor) -> str:
    return "".join(
        "<video>" if number == IMAGE_TOKEN_INDEX else str(PROCESSOR.tokenizer.decode([number]))
        for number in ids.tolist()
    )


EXAMPLES = [
    PROCESSOR.build_example(sample("a", FRAMES, (SHORT,), (LONG, SHORT))),
    PROCESSOR.build_example(sample("b", None, (SHORT,))),
    PROCESSOR.build_example(sample("c", FEATURES, (LONG,))),
    PROCESSOR.build_example(sample("d", PICTURE, (SHORT,))),
    PROCESSOR.build_example(sample("e", PICTURES, (SHORT,), (MARKED,))),
]


def test_collate_pads_texts_on_the_right() -> None:
    batch = PROCESSOR.collate(EXAMPLES)
    texts = [text for example in EXAMPLES for text in example.texts]
    longest = max(len(text.input_ids) for text in texts)
    assert (
        batch.input_ids.shape
        == batch.labels.shape
        == batch.question_mask.shape
        == batch.attention_mask.shape
        == (7, longest)
    )
    for row, text in enumerate(texts):
        length = len(text.input_ids)
        assert batch.attention_mask[row].tolist() == [True] * length + [False] * (longest - length)
        assert torch.equal(batch.input_ids[row, :length], text.input_ids)
        assert torch.equal(batch.labels[row, :length], text.labels)
        assert torch.equal(batch.question_mask[row, :length], text.question_mask)
    padding = ~batch.attention_mask
    assert (batch.input_ids[padding] == PROCESSOR.tokenizer.pad_token_id).all()
    assert (batch.labels[padding] == IGNORE_INDEX).all()
    assert not batch.question_mask[padding].any()


def test_collate_maps_texts_to_visuals_and_questions() -> None:
    batch = PROCESSOR.collate(EXAMPLES, positions=(7, 8, 9, 1, 2))
    assert batch.keys == ("a", "b", "c", "d", "e")
    assert batch.visuals == (FRAMES, None, FEATURES, PICTURE, PICTURES)
    assert batch.visual_of_text == (0, 0, 1, 2, 3, 4, 4)
    assert batch.questions == (
        (SHORT,),
        (LONG, SHORT),
        (SHORT,),
        (LONG,),
        (SHORT,),
        (SHORT,),
        (MARKED,),
    )
    assert batch.positions == (7, 8, 9, 1, 2)


def test_collate_passes_on_skipped_samples() -> None:
    skipped = (Skipped("d", "no picture"), Skipped("e", "cut off"))
    assert PROCESSOR.collate(EXAMPLES, skipped=skipped).skipped == skipped
    assert PROCESSOR.collate([], skipped=skipped).skipped == skipped


def test_collate_without_examples_is_a_dummy_batch() -> None:
    batch = PROCESSOR.collate([])
    assert batch.visuals == (None,) and batch.visual_of_text == (0,) and batch.questions == ((),)
    assert batch.input_ids.shape[0] == 1 and batch.attention_mask.all()
    assert (batch.labels == IGNORE_INDEX).all()
    assert not (batch.input_ids == IMAGE_TOKEN_INDEX).any()


def test_video_has_one_placeholder_and_a_note() -> None:
    with_frames, without, with_features = (
        decode(example.texts[0].input_ids) for example in EXAMPLES[:3]
    )
    assert (
        "<video>\nThe video is 12.35 seconds long; 3 frames of it are shown.\nWhat?" in with_frames
    )
    assert "<video>\nThe video is 12.35 seconds long; 4 frames of it are shown.\n" in with_features
    assert "<video>" not in without and "seconds" not in without


def test_image_set_has_a_placeholder_per_image_and_no_note() -> None:
    (picture,), (unmarked, marked) = (
        [decode(text.input_ids) for text in example.texts] for example in EXAMPLES[3:]
    )
    assert "user\n<video>\nWhat?" in picture
    assert "user\n<video>\n<video>\nWhat?" in unmarked
    assert "user\n<video> or <video>?" in marked
    assert not any("seconds" in text for text in (picture, unmarked, marked))


@pytest.mark.parametrize(
    ("visual", "num_placeholders"),
    ((None, 0), (FRAMES, 1), (FEATURES, 1), (PICTURE, 1), (PICTURES, 2)),
)
def test_count_placeholders_matches_the_tokenized_text(
    visual: Visual | None, num_placeholders: int
) -> None:
    (text,) = PROCESSOR.build_example(sample("a", visual, (SHORT,))).texts
    assert (
        (text.input_ids == IMAGE_TOKEN_INDEX).sum()
        == count_placeholders(visual)
        == num_placeholders
    )


def test_wrong_number_of_placeholders_is_rejected() -> None:
    three = ImageSet(torch.zeros(3, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(QuestionError, match="2 times and 3 images"):
        PROCESSOR.build_example(sample("a", three, (MARKED,)))


def test_video_note_names_duration_and_number_of_frames() -> None:
    for seconds, num_frames, note in (
        (12.5, 13, "The video is 12.50 seconds long; 13 frames of it are shown."),
        (3600, 3600, "The video is 3600.00 seconds long; 3600 frames of it are shown."),
        (0.128, 1, "The video is 0.13 seconds long; 1 frames of it are shown."),
    ):
        assert PROCESSOR.video_note(seconds, num_frames) == note


def test_time_sentence_can_be_left_out() -> None:
    silent = HourLLaVAProcessor(PROCESSOR.tokenizer, replace(SETTINGS, time_sentence="none"))
    assert (PROCESSOR.video_note(12.345, 3) != "", silent.video_note(12.345, 3)) == (True, "")
    (text,) = silent.build_example(sample("a", FRAMES, (SHORT,))).texts
    assert "user\n<video>\nWhat?" in decode(text.input_ids)


def test_system_prompt_is_a_setting() -> None:
    assert build_conversation((SHORT,), SETTINGS).messages[0] == Message("system", "Look.")
    assert PROCESSOR.build_prompt("What?").messages[0] == Message("system", "Look.")


def test_build_prompt_puts_the_question_after_the_history() -> None:
    history = (Message("user", "Who?"), Message("assistant", "A man."))
    conversation = PROCESSOR.build_prompt("Where?", history)
    assert conversation == Conversation(
        (Message("system", "Look."), *history, Message("user", "Where?"))
    )


@pytest.mark.parametrize("question", ("", " \n"))
def test_build_prompt_rejects_an_empty_question(question: str) -> None:
    with pytest.raises(QuestionError, match="empty"):
        PROCESSOR.build_prompt(question)


def test_text_settings_change_labels_and_question_mask() -> None:
    for setting in ({"loss_on_template": True}, {"memaug_question_scope": "first"}):
        other = HourLLaVAProcessor(PROCESSOR.tokenizer, replace(SETTINGS, **setting))
        (text,), (plain,) = (
            processor.build_example(sample("a", FRAMES, (LONG, SHORT))).texts
            for processor in (other, PROCESSOR)
        )
        assert text.input_ids.tolist() == plain.input_ids.tolist()
        assert text.question_mask.sum() < plain.question_mask.sum()
        assert ((text.labels != IGNORE_INDEX).sum() > (plain.labels != IGNORE_INDEX).sum()) == (
            "loss_on_template" in setting
        )


def test_batch_to_moves_all_tensors() -> None:
    batch = PROCESSOR.collate(
        EXAMPLES, positions=(0, 1, 2, 3, 4), skipped=(Skipped("d", "no picture"),)
    )
    moved = batch.to(torch.device("meta"))
    frames, nothing, features, picture, pictures = moved.visuals
    assert isinstance(frames, Frames) and nothing is None and isinstance(features, Features)
    assert isinstance(picture, TiledImage) and isinstance(pictures, ImageSet)
    tensors = [
        moved.input_ids,
        moved.labels,
        moved.question_mask,
        moved.attention_mask,
        picture.tiles,
        pictures.images,
    ]
    tensors += [frames.images, frames.timestamps, features.tokens, features.timestamps]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert [len(visual) for visual in (frames, features, picture, pictures)] == [3, 4, 7, 2]
    assert (picture.grid, picture.size_pixels) == (PICTURE.grid, PICTURE.size_pixels)
    unmoved = ("keys", "positions", "visual_of_text", "questions", "skipped")
    assert [getattr(moved, name) for name in unmoved] == [getattr(batch, name) for name in unmoved]
    assert batch.input_ids.device.type == "cpu"
