"""Descriptions of a video over its memory, and their files."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from lit_hour.cli.main import main
from lit_hour.errors import InputError, QuestionError
from lit_hour.inference.describe import (
    Description,
    DescriptionParams,
    describe,
    describe_steps,
)
from lit_hour.inference.description_formats import to_markdown, to_webvtt, write_description
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.inference.video_memory import VideoMemory
from lit_hour.text.chapters import SUMMARY_QUESTION, Passage, caption_question
from tests.inference.helpers import generate_text, make_predictor, random_frames, write_video

DESCRIPTION = Description(
    "film.mp4",
    3725.5,
    "A *film* about <cats> & dogs.",
    (Passage(0, 60.5, "Cats --> sleep & <b>purr</b>. They wake."), Passage(60.5, 3725.5, "")),
    (Passage(0, 60.5, "Cats sleep."), Passage(60.5, 3725.5, "")),
    (Passage(2, 5, "A cat sleeps."), Passage(3600, 3725.5, "It\n# wakes.")),
)


@pytest.fixture(scope="module")
def predictor() -> VideoPredictor:
    return make_predictor()


@pytest.fixture(scope="module")
def memory(predictor: VideoPredictor) -> VideoMemory:
    return predictor.encode_visual(random_frames(25), 25.0, "film.mp4")


def test_each_text_is_the_answer_to_its_question_alone(
    predictor: VideoPredictor, memory: VideoMemory
) -> None:
    params = DescriptionParams(part_seconds=10, batch_size=1)
    description = describe(predictor, memory, params)
    assert [(part.start_seconds, part.end_seconds) for part in description.captions] == [
        (0, 10),
        (10, 20),
        (20, 25),
    ]
    for part in description.captions:
        question = caption_question(part.start_seconds, part.end_seconds)
        assert part.text == " ".join(generate_text(predictor, memory, question).split())
    summary = generate_text(predictor, memory, SUMMARY_QUESTION)
    assert description.summary == " ".join(summary.split())
    assert description.chapters[0].start_seconds == 0
    assert description.chapters[-1].end_seconds == 25


def test_batches_give_the_same_description(predictor: VideoPredictor, memory: VideoMemory) -> None:
    one, four = (
        describe(predictor, memory, DescriptionParams(part_seconds=7, batch_size=size))
        for size in (1, 4)
    )
    assert one == four


def answering(
    predictor: VideoPredictor, answer: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let the language model generate given answers, token by token."""
    tokenizer, asked = predictor.processor.tokenizer, []
    build = predictor.build_prompts

    def build_prompts(memory, conversations):
        asked[:] = [conversation.messages[-1].text for conversation in conversations]
        return build(memory, conversations)

    def generate(prompts, limit, end_id):
        ids = [tokenizer.encode(answer(question)) for question in asked]
        for index in range(max(map(len, ids))):
            yield torch.tensor([one[index] if index < len(one) else end_id for one in ids])

    monkeypatch.setattr(predictor, "build_prompts", build_prompts)
    monkeypatch.setattr(predictor.model.llm, "generate", generate)


def test_events_get_the_times_that_the_model_writes(
    memory: VideoMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = make_predictor()
    events = {
        "00:00": "00:01 to 00:04: A star spins.\n00:08 to 00:12: A star leaves.\nnonsense",
        "00:10": "00:10 to 00:12: A star leaves.\n00:02 to 00:03: Too early.",
        "00:20": "00:21 to 09:00: The end.\n00:24 to 00:22: Reversed.",
    }

    def answer(question: str) -> str:
        if question.startswith("List"):
            return events[question.split()[4]]
        return "All of it." if question == SUMMARY_QUESTION else f"Part {question.split()[-1]}"

    answering(predictor, answer, monkeypatch)
    description = describe(predictor, memory, DescriptionParams(part_seconds=10))
    assert description.events == (
        Passage(1, 4, "A star spins."),
        Passage(8, 12, "A star leaves."),
        Passage(21, 25, "The end."),
    )
    assert description.summary == "All of it."
    assert description.captions[0].text == "Part 00:10."


def test_steps_can_be_stopped(predictor: VideoPredictor, memory: VideoMemory) -> None:
    steps = describe_steps(predictor, memory, DescriptionParams(part_seconds=10, batch_size=2))
    progress = [next(steps) for _ in range(12)]
    assert progress[0].num_answered == 0 and progress[-1].num_questions == 7
    steps.close()


def test_images_and_too_many_parts_are_refused(
    predictor: VideoPredictor, memory: VideoMemory, tmp_path: Path
) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "red.png")
    image = predictor.encode_video(tmp_path / "red.png")
    with pytest.raises(QuestionError, match=r"red\.png is not a video"):
        describe(predictor, image)
    week = replace(memory, duration_seconds=7 * 86400.0)
    with pytest.raises(QuestionError, match="has 10080 parts of 60 s, more than 1440"):
        describe(predictor, week)
    for values in ((0.5,), (float("nan"),), (60, 0), (60, 1, 0)):
        with pytest.raises(QuestionError, match="invalid"):
            DescriptionParams(*values)


def test_webvtt_has_a_cue_for_each_chapter() -> None:
    assert to_webvtt(DESCRIPTION) == (
        "WEBVTT\n\n"
        "1\n00:00:00.000 --> 00:01:00.500\nCats --&gt; sleep &amp; &lt;b&gt;purr&lt;/b&gt;\n\n"
        "2\n00:01:00.500 --> 01:02:05.500\n01:00\n"
    )


def test_ffmpeg_reads_the_webvtt_file(tmp_path: Path) -> None:
    import av

    write_description(tmp_path / "film.vtt", DESCRIPTION)
    with av.open(str(tmp_path / "film.vtt")) as file:
        packets = [packet for packet in file.demux() if packet.size]
    assert [float(packet.pts * packet.time_base) for packet in packets] == [0.0, 60.5]


def test_markdown_has_no_marks_of_the_model() -> None:
    text = to_markdown(DESCRIPTION)
    assert r"A \*film\* about \<cats\> & dogs." in text
    assert "\n## 00:00 Cats --\\> sleep" in text
    assert "\n- 00:02 to 00:05: A cat sleeps.\n" in text
    assert r"- 1:00:00 to 1:02:05: It \# wakes." in text


def test_json_has_everything(tmp_path: Path) -> None:
    write_description(tmp_path / "film.JSON", DESCRIPTION)
    fields = json.loads((tmp_path / "film.JSON").read_text())
    assert list(fields) == [
        "source",
        "duration_seconds",
        "summary",
        "chapters",
        "captions",
        "events",
    ]
    assert fields["events"][0] == {"start_seconds": 2, "end_seconds": 5, "text": "A cat sleeps."}
    assert fields["chapters"][0]["title"] == "Cats --> sleep & <b>purr</b>"


def test_a_file_is_complete_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "film.md"
    file.write_text("before")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space")))
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "x")))
    with pytest.raises(QuestionError, match=r"film\.md cannot be written"):
        write_description(file, DESCRIPTION)
    assert file.read_text() == "before"


def test_arguments_are_checked_before_the_model_loads(tmp_path: Path) -> None:
    video = write_video(tmp_path / "film.mp4", 3)
    Image.new("RGB", (64, 64)).save(tmp_path / "red.png")
    for words, message in (
        (["film.mp4", "--out", "x.txt"], r"x\.txt has no known form\. Give a file in \.json"),
        (["film.mp4", "--out", str(tmp_path / "no/x.md")], r"x\.md cannot be written"),
        (["film.mp4", "--seconds", "0"], "Parts of 0.0 s are invalid"),
        (["film.mp4", "--batch-size", "0"], "batch_size=0 is invalid"),
        (["none.mp4"], "none.mp4 does not exist"),
        (["red.png"], "is an image"),
        (["film.mp4"], "runs/none"),
    ):
        words[0] = str(video.with_name(words[0]))
        with pytest.raises(InputError, match=message):
            main(["describe", *words, "--run", str(tmp_path / "runs/none")])


def test_formats_take_any_text() -> None:
    texts = ["", "\n\n-->", "a" * 10_000, "\x00\ufffe", "<script>", "NOTE x\n\n00:01 --> 00:02"]
    chapters = tuple(Passage(n, n + 1, text) for n, text in enumerate(texts))
    odd = replace(DESCRIPTION, chapters=chapters, events=chapters, summary="\n# x")
    cues = to_webvtt(odd).split("\n\n")
    assert len(cues) == 1 + len(texts)
    assert all(len(re.findall("-->", cue)) == 1 for cue in cues[1:])
    assert "\n# x" not in to_markdown(odd)
