"""Times of frames: the prompts of training and inference are equal, cached and saved alike."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lit_hour.config.sampling_params import SamplingParams
from lit_hour.errors import MemoryFileError
from lit_hour.evaluation.protocol import describe_protocol
from lit_hour.inference.answer import Answer
from lit_hour.inference.batching import stream_answers
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.inference.video_memory_io import load_memory, save_memory
from lit_hour.model.multimodal_inputs import left_pad_prompts
from lit_hour.text.chat_template import build_conversation
from lit_hour.types import Message, Question, Sample
from tests.inference.helpers import (
    CONFIG,
    assert_equal_memories,
    make_predictor,
    random_frames,
    slice_frames,
)

VIDEO = random_frames(37)
QUESTION = Question("1", "", "open_ended", "When is it red?", "3.0 s to 5.0 s")


def predictor_with(frame_times, frames_per_time: int = 1) -> VideoPredictor:
    memaug = replace(CONFIG.model.memaug, temporal_keep_ratio=0.5)
    text = replace(
        CONFIG.text,
        frame_times=frame_times,
        frames_per_time=frames_per_time,
        memaug_question_scope="first",
    )
    config = replace(CONFIG, text=text, model=replace(CONFIG.model, memaug=memaug))
    predictor = make_predictor(config)
    embedding = predictor.model.time_embedding
    if embedding is not None:
        embedding.weight.data.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
    return VideoPredictor(config, predictor.model, replace(predictor.processor, memaug=memaug))


@pytest.mark.parametrize(
    ("frame_times", "frames_per_time"), [("text", 1), ("text", 4), ("embedding", 1)]
)
def test_a_prompt_equals_that_of_training(frame_times, frames_per_time: int) -> None:
    predictor = predictor_with(frame_times, frames_per_time)
    processor, model = predictor.processor, predictor.model
    conversation = build_conversation([QUESTION], processor.config)
    for num_frames in (4, 37):  # a short video is repeated
        video = slice_frames(VIDEO, 0, num_frames)
        example = processor.build_example(
            Sample("key", "", float(num_frames), video, (conversation,))
        )
        batch = processor.collate([example])
        memory = predictor.encode_visual(video, float(num_frames), "video")
        with torch.inference_mode():
            trained = model.build_inputs(batch, model.build_repositories(batch.visuals, lazy=True))
            asked = predictor.build_prompts(memory, [processor.build_prompt(QUESTION.question)])
        expected = left_pad_prompts(trained).embeddings  # (1, tokens, dim)
        assert asked.embeddings.shape == expected.shape
        torch.testing.assert_close(asked.embeddings, expected, atol=1e-4, rtol=1e-4)
        piece = predictor.encode_visual(slice_frames(video, 0, 3), 3.0, "video")
        longer = predictor.extend(piece, slice_frames(video, 3, num_frames), float(num_frames))
        assert_equal_memories(longer, memory)
        assert longer.timestamps_seconds == memory.timestamps_seconds


def test_further_turns_read_their_own_tokens_alone() -> None:
    predictor = predictor_with("text")
    memory = predictor.encode_visual(VIDEO, 37.0, "video")
    turns: list[Message] = []
    for question in ("When is it red?", "And blue?"):
        turns.append(Message("user", question))
        conversation = predictor.processor.build_chat_prompt(turns)
        *_, answer = stream_answers(predictor, memory, conversation, SamplingParams())
        assert isinstance(answer, Answer)
        turns.append(Message("assistant", answer.text))
    assert predictor.augmentations.num_reused == 1
    assert predictor.prefixes.num_reused > 18 * 7  # at least the times of the kept frames
    empty = VideoPredictor(predictor.config, predictor.model, predictor.processor)
    *_, anew = stream_answers(empty, memory, conversation, SamplingParams())
    assert isinstance(anew, Answer) and anew.text == turns[-1].text


def test_a_saved_memory_has_the_times_and_needs_their_weights(tmp_path: Path) -> None:
    predictor = predictor_with("embedding")
    memory = predictor.encode_visual(VIDEO, 37.0, "video")
    save_memory(predictor, memory, tmp_path / "a.safetensors")
    assert_equal_memories(load_memory(predictor, tmp_path / "a.safetensors"), memory)
    with pytest.raises(MemoryFileError, match="other weights"):
        load_memory(predictor_with("off"), tmp_path / "a.safetensors")
    words = predictor_with("text")
    plain = predictor_with("off").encode_visual(VIDEO, 37.0, "video")
    save_memory(words, plain, tmp_path / "b.safetensors")  # words are of the prompt
    assert load_memory(words, tmp_path / "b.safetensors").timestamps_seconds == tuple(
        map(float, range(37))
    )


def test_the_protocol_of_an_evaluation_names_the_times(tmp_path: Path) -> None:
    checkpoint = tmp_path / "last.ckpt"
    for file in (checkpoint, checkpoint.with_suffix(".yaml")):
        file.touch()
    off, words = (
        describe_protocol(predictor_with(times).config, checkpoint, "cpu")["text"]
        for times in ("off", "text")
    )
    assert words == {**off, "frame_times": "text", "frames_per_time": 1}


def test_questions_with_and_without_texts_between_frames_share_a_batch() -> None:
    predictor = predictor_with("text", 4)
    memory = predictor.encode_visual(VIDEO, 37.0, "video")
    processor = predictor.processor
    texts = ("", *(f"Line {index}." for index in range(18)))
    conversations = [
        processor.build_prompt("When?"),
        processor.build_prompt("When?", frame_texts=texts),
    ]
    with torch.inference_mode():
        both = predictor.build_prompts(memory, conversations)
        for index, conversation in enumerate(conversations):
            (alone,) = predictor.build_prompts(memory, [conversation]).embeddings
            assert torch.equal(both.embeddings[index, -len(alone) :], alone)
