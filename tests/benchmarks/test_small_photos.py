"""Splicing, alignment and scoring of `tests.benchmarks.small_photos`, on tiny stand-ins."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from lit_hour.config.schema import Config
from lit_hour.data.features.format import FeatureMetadata, feature_config
from lit_hour.data.shards.reader import open_shards
from lit_hour.media.splicing.footage import index_footage
from lit_hour.model.memaug import MemoryAugmentation
from lit_hour.model.memory_repository import DenseTokens
from lit_hour.model.vision_encoder import Projector
from lit_hour.synthetic.footage.photo_library import PhotoLibrary
from lit_hour.types import Question
from tests.benchmarks.small_photos import alignment
from tests.benchmarks.small_photos.alignment import (
    COPY_SCALE,
    Classifier,
    LabeledFrames,
    align,
    start_memory_attention,
)
from tests.benchmarks.small_photos.scoring import ScoredAnswer, accuracies, score
from tests.benchmarks.small_photos.spliced_videos import (
    Material,
    SplicedSet,
    draw_story,
    splice,
    write_spliced_set,
)
from tests.benchmarks.small_photos.stored_frames import FOOTAGE_FPS, StoredFrames
from tests.synthetic.footage.helpers import COLORS, write_footage

TOKENS, DIM = 4, 8
CONFIG = replace(Config(), video=replace(Config().video, min_frames=1))


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    """Frames that name themselves: clip and second of the footage, or minus the category."""
    folder = write_footage(tmp_path_factory.mktemp("footage"))
    clips = [index_footage(folder / name) for name in ("a.mp4", "more/b.mkv")]
    footage = [
        torch.arange(int(clip.end / 90_000 * FOOTAGE_FPS) + 1).view(-1, 1, 1)
        + torch.full((1, TOKENS, DIM), 1000.0 * (number + 1))
        for number, clip in enumerate(clips)
    ]
    photos = {name: (Path(f"{name}/0.png"),) for name in COLORS}
    showings = {
        str(photos[name][0]): [torch.full((3, TOKENS, DIM), -1.0 - number).bfloat16()]
        for number, name in enumerate(COLORS)
    }
    frames = StoredFrames([one.bfloat16() for one in footage], showings)
    return Material(clips, PhotoLibrary(photos, "digest"), frames)


def test_spliced_frames_are_those_of_the_story(material: Material) -> None:
    wanted = SplicedSet("set", 1, (60, 60))
    for number in range(5):
        story = draw_story(wanted, number, material, CONFIG)
        tokens, seconds = splice(story, material, CONFIG)
        assert tokens.shape == (len(seconds), TOKENS, DIM) and 58 <= len(seconds) <= 62
        is_shown = torch.zeros(len(seconds), dtype=torch.bool)
        for photo in story.photos:
            start, end = photo.interval
            shows = torch.tensor([start <= second < end for second in seconds])
            assert shows.any()
            assert (tokens[shows] == -1.0 - list(COLORS).index(photo.category)).all()
            is_shown |= shows
        assert (tokens[~is_shown] >= 1000).all()


def test_written_set_is_read_with_its_questions(material: Material, tmp_path: Path) -> None:
    wanted = SplicedSet("set", 3, (20, 30), 1, ("open_ended",), ("object/object_recognition",))
    metadata = FeatureMetadata("bf16", TOKENS, DIM, feature_config(CONFIG), "encoder")
    for _ in range(2):  # the second time it is complete
        write_spliced_set(tmp_path / "set", wanted, material, CONFIG, metadata)
    shards = open_shards(tmp_path / "set")
    assert len(shards.entries) == 3
    for number, entry in enumerate(shards.entries):
        stored = shards.read(entry)
        story = draw_story(wanted, number, material, CONFIG)
        assert stored.tokens is not None
        assert torch.equal(stored.tokens.tokens, splice(story, material, CONFIG)[0].bfloat16())
        (question,) = stored.questions
        assert question.answer == story.photos[0].category and not question.options


def test_aligned_projector_names_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alignment, "NUM_STEPS", 80)
    torch.manual_seed(0)
    categories = ["a bow", "a fig", "an ant"]
    prototypes = torch.randn(3, 1, 16)
    frames = StoredFrames(
        [torch.zeros(9, TOKENS, 16)],
        {
            f"{name}/0.jpg": [one.expand(5, TOKENS, -1)]
            for name, one in zip(categories, prototypes, strict=True)
        },
    )
    classifier = Classifier(torch.zeros(5, 16), torch.zeros(5), torch.zeros(3, 5))
    monkeypatch.setattr(alignment, "LABEL_WEIGHT", 1.0)  # this classifier knows nothing
    projector, words = Projector(16, 32), torch.nn.functional.normalize(torch.randn(4, 32), dim=1)
    align(projector, classifier, LabeledFrames(frames, categories), words)
    similarity = projector(torch.cat([prototypes[:, 0], torch.zeros(1, 16)])) @ words.T
    assert similarity.argmax(dim=1).tolist() == [0, 1, 2, 3]


def test_new_memaug_returns_the_word_in_its_memory_and_not_the_footage() -> None:
    dim = 32
    model: Any = SimpleNamespace(
        memaug=MemoryAugmentation(dim, 4, 2, 2, 1e4), frame_newline=nn.Parameter(torch.zeros(dim))
    )
    words = torch.nn.functional.normalize(torch.randn(5, dim), dim=1)
    start_memory_attention(model, words)
    memory = torch.cat([words[:1], words[-1:].expand(20, -1)]) * dim**0.5
    quarter = model.memaug.head_dim // 4
    for block in model.memaug.blocks:
        attention = block.cross_attention
        memory_rotary, query_rotary = (
            (torch.ones(num, quarter), torch.zeros(num, quarter)) for num in (len(memory), 1)
        )
        kv = attention.project_kv(DenseTokens(memory), memory_rotary)
        weights = attention.attention_weights(torch.zeros(1, dim), kv, query_rotary)
        assert weights[0] > 0.9  # of 21 tokens
        kv = attention.project_kv(DenseTokens(memory[:1]), query_rotary)
        output = attention(torch.zeros(1, dim), kv, query_rotary)
        torch.testing.assert_close(output, COPY_SCALE * memory[:1], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    "response, is_right",
    (("01:07", True), ("at 00:59", True), ("01:17", False), ("0:01:12", True), ("never", False)),
)
def test_time_may_be_five_seconds_off(response: str, is_right: bool) -> None:
    task = "temporality/temporal_perception"
    question = Question("1", task, "open_ended", "When?", "01:04", evidence=((64.0, 68.0),))
    assert score(question, response).is_right is is_right


def test_categories_count_equally() -> None:
    answers = [
        ScoredAnswer("what it shows, open", name, True, "", is_right)
        for name, is_right in (("a bow", True), ("a bow", True), ("a bow", True), ("a fig", False))
    ]
    assert accuracies(answers)["what it shows, open"] == (0.5, 4)
