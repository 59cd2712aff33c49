"""Bounds of the tokens of samples, against the tokens that the model reads."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator

from lit_hour.config.model import MemAugConfig
from lit_hour.config.schema import Config
from lit_hour.data.packing.pack import pack
from lit_hour.data.sample_lengths import (
    TemplateLengths,
    bound_kept_tokens,
    bound_sample_lengths,
    describe_long_samples,
)
from lit_hour.data.shards.reader import open_shards
from lit_hour.data.shards.shard_index import IndexEntry, read_index, write_index
from lit_hour.data.training_samples import locate_sample, samples_per_shard
from lit_hour.errors import ShardError
from lit_hour.media.anyres import choose_grid
from lit_hour.model.forgetting import choose_kept_tokens
from lit_hour.model.memory_repository import (
    MemoryRepository,
    build_image_set_repository,
    build_tiled_image_repository,
    build_video_repository,
)
from lit_hour.processor import HourLLaVAProcessor
from lit_hour.text.chat_template import build_conversation, count_text_bytes
from lit_hour.text.tokenizer import train_byte_level_tokenizer
from lit_hour.types import Question
from tests.data.factories import PACK, VIDEO, conversation, write_records
from tests.model.toy_model import config_with

SIDE = 27  # tokens of an image's side, in the published model
SPATIAL = ("random", "uniform", "none")
NEWLINE = torch.zeros(1)  # (1,)


def entry_of(modality, num_frames: int) -> IndexEntry:
    return IndexEntry("000000.tar", "a", modality, 0, 512, 0.0, num_frames, 1, text_bytes=(9,))


def num_kept(repository: MemoryRepository, memaug: MemAugConfig, seed: int = 0) -> int:
    kept = choose_kept_tokens(repository, torch.zeros(1, 1), memaug, Generator().manual_seed(seed))
    return sum(map(len, kept))


@pytest.mark.parametrize("spatial", SPATIAL)
@pytest.mark.parametrize("temporal", ["uniform", "keyframe", "none"])
@pytest.mark.parametrize("num_frames", [1, 7, 20, 101, 400])
def test_kept_tokens_of_a_video_are_exact(spatial, temporal, num_frames: int) -> None:
    memaug = MemAugConfig(
        spatial_forgetting=spatial,
        temporal_forgetting=temporal,
        spatial_keep_ratio=1 / 9,
        temporal_keep_ratio=1 / 3,
        min_frames=20,
        max_kept_frames=64,
    )
    config = config_with(memaug, Config())
    tokens = torch.randn(num_frames, 64, 1)  # (frames, tokens, 1)
    repository = build_video_repository(tokens, NEWLINE, torch.arange(num_frames), 20)
    assert bound_kept_tokens(entry_of("video", num_frames), config) == num_kept(repository, memaug)


@pytest.mark.parametrize("spatial", SPATIAL)
def test_kept_tokens_of_images_are_bounded(spatial) -> None:
    memaug = MemAugConfig(spatial_forgetting=spatial)
    config = config_with(memaug, Config())
    random = np.random.default_rng(0)
    sizes = [(2304, 2304), (384, 384), (10, 900), (5000, 60), (2000, 1700), (500, 375), (385, 384)]
    sizes += [tuple(random.integers(50, 4000, 2).tolist()) for _ in range(30)]
    ratios = []
    for seed, (height, width) in enumerate(sizes):
        grid = choose_grid(width, height, config.video.image_size, config.image.max_grid)
        tokens = torch.zeros(1 + grid[0] * grid[1], SIDE**2, 1)  # (tiles, tokens, 1)
        repository = build_tiled_image_repository(
            tokens, NEWLINE, grid, (height, width), config.image.max_tiles
        )
        bound = bound_kept_tokens(
            replace(entry_of("image", 1), size_pixels=(height, width)), config
        )
        kept = num_kept(repository, memaug, seed)
        assert kept <= bound, (height, width)
        ratios.append(bound / kept)
    assert max(ratios) == 1 or (spatial == "random" and max(ratios) < 1.2)
    repository = build_image_set_repository(torch.zeros(3, SIDE**2, 1), NEWLINE)
    assert bound_kept_tokens(entry_of("images", 3), config) == num_kept(repository, memaug)


@pytest.mark.parametrize("mcq_format", ["letter", "text"])
@pytest.mark.parametrize("time_sentence", ["own", "published", "none"])
@pytest.mark.parametrize("min_bytes_per_token", [1, 2])
def test_bound_holds_for_every_text(
    mixed_shards: Path, frame_shards: Path, mcq_format, time_sentence, min_bytes_per_token: int
) -> None:
    """The tokenizer has a token for each byte and for the most frequent pairs."""
    config = Config()
    config = replace(
        config,
        text=replace(config.text, mcq_format=mcq_format, time_sentence=time_sentence),
        data=replace(
            config.data,
            questions_per_sample=2,
            conversations_per_video=2,
            min_bytes_per_token=min_bytes_per_token,
        ),
    )
    texts = [] if min_bytes_per_token == 1 else ["Answer with the letter of the right option."] * 9
    tokenizer = train_byte_level_tokenizer(texts, 600)
    processor = HourLLaVAProcessor(tokenizer, config.text)
    template = TemplateLengths.measure(processor)
    for folder in (mixed_shards, frame_shards):
        shards = open_shards(folder)
        lengths = bound_sample_lengths(shards, config, template)
        number = 0
        for shard, num_samples in enumerate(samples_per_shard(shards, config)):
            for sample in range(num_samples):
                entry, groups = locate_sample(shards, shard, sample, config)
                found = texts_of(shards.read(entry), groups, processor)
                if entry.modality != "text":
                    kept = bound_kept_tokens(entry, config)
                    placeholders = entry.num_frames if entry.modality == "images" else 1
                    found = [length + kept - placeholders for length in found]
                assert lengths.num_texts[number] == len(found)
                longest, total = lengths.longest[number], lengths.total[number]
                if min_bytes_per_token == 1:
                    assert max(found) <= longest and sum(found) <= total
                assert longest < 2 * max(found) + 400
                number += 1
        assert number == len(lengths.cost)


def texts_of(stored, groups: list[slice], processor: HourLLaVAProcessor) -> list[int]:
    """Return the tokens of each conversation of a sample, with its placeholders."""
    num_placeholders = {"images": len(stored.images), "text": 0}.get(stored.modality, 1)
    note = ""
    if stored.modality == "video":
        note = processor.video_note(stored.duration_seconds, len(stored.images))
    conversations = [
        build_conversation(stored.questions[group], processor.config) for group in groups
    ]
    texts = processor.tokenize(conversations, num_placeholders=num_placeholders, note=note)
    return [len(text.input_ids) for text in texts]


def test_text_bytes_are_in_the_index_of_frames_and_features(
    frame_shards: Path, feature_shards: Path, mixed_shards: Path
) -> None:
    for folder in (frame_shards, feature_shards, mixed_shards):
        shards = open_shards(folder)
        for entry in shards.entries:
            questions = shards.read(entry).questions
            assert entry.text_bytes == tuple(map(count_text_bytes, questions))
    question = Question("", "", "multiple_choice", "Où?", "là", ("ici", "là"))
    prompts = ("Où?\nici\nlà\nAnswer with one of these options.",
               "Où?\nA. ici\nB. là\nAnswer with the letter of the right option.")  # fmt: skip
    assert count_text_bytes(question) == max(len(prompt.encode()) for prompt in prompts) + 3


def test_size_of_an_upright_image_is_in_the_index(
    mixed_files: Path, mixed_shards: Path, tmp_path: Path
) -> None:
    sizes = {entry.key: entry.size_pixels for entry in open_shards(mixed_shards).entries}
    assert {key: size for key, size in sizes.items() if size} == {
        "photo": (60, 100),
        "more/chart": (90, 40),
    }
    turned = Image.open(mixed_files / "photo.jpg")
    exif = turned.getexif()
    exif[0x0112] = 6  # lies on its side
    turned.save(tmp_path / "turned.jpg", exif=exif)
    questions = write_records(tmp_path / "q.json", [conversation("What?", image="turned.jpg")])
    pack(tmp_path, questions, tmp_path / "shards", VIDEO, PACK)
    (entry,) = open_shards(tmp_path / "shards").entries
    assert entry.size_pixels == (100, 60)


def test_older_shards_are_read_but_have_no_lengths(frame_shards: Path, tmp_path: Path) -> None:
    index = read_index(frame_shards / "000000.json")
    older = replace(index, entries=tuple(replace(one, text_bytes=()) for one in index.entries))
    file = tmp_path / "000000.json"
    write_index(file, older)
    record = json.loads(file.read_text())
    for entry in record["entries"]:
        del entry["text_bytes"], entry["size_pixels"]
    file.write_text(json.dumps(record))
    assert "text_bytes" not in file.read_text() and read_index(file) == older
    shards = replace(open_shards(frame_shards), indexes=(older,))
    with pytest.raises(
        ShardError, match=r"000000.*video.*lacks text_bytes or size_pixels.*Pack again"
    ):
        bound_sample_lengths(shards, Config(), TemplateLengths(1, 1, 1, 1, 1))


def test_long_samples_are_counted_and_the_longest_is_named(
    mixed_files: Path, tmp_path: Path
) -> None:
    records = [conversation("Why? " * n) for n in (1, 300, 2, 900)]
    pack(mixed_files, write_records(tmp_path / "q.json", records), tmp_path / "shards", VIDEO, PACK)
    shards = open_shards(tmp_path / "shards")

    def describe(budget: int) -> str:
        config = replace(Config(), data=replace(Config().data, tokens_per_batch=budget))
        lengths = bound_sample_lengths(shards, config, TemplateLengths(10, 5, 0, 1, 0))
        return describe_long_samples(shards, lengths, config)

    assert describe(10**6) == ""
    assert describe(500).startswith("2 of 4 samples of ")
    assert "000001.tar: text 'record_00000004', has up to 22" in describe(500)


@pytest.mark.parametrize("frames_per_time", [1, 3])
def test_times_of_frames_are_bounded(frame_shards: Path, frames_per_time: int) -> None:
    text = replace(Config().text, frame_times="text", frames_per_time=frames_per_time)
    config = replace(Config(), text=text)
    processor = HourLLaVAProcessor(train_byte_level_tokenizer([], 300), text, config.model.memaug)
    template, shards = TemplateLengths.measure(processor), open_shards(frame_shards)
    lengths = bound_sample_lengths(shards, config, template)
    plain = bound_sample_lengths(shards, replace(config, text=Config().text), template)
    assert len(shards.entries) == 5 and len(lengths.longest) >= 5
    number = 0
    for shard, num_samples in enumerate(samples_per_shard(shards, config)):
        for sample in range(num_samples):
            entry, _ = locate_sample(shards, shard, sample, config)
            seconds = shards.read(entry).timestamps_seconds
            prompt = processor.build_prompt("When?")
            (timed,), (untimed,) = (
                processor.tokenize([prompt], num_placeholders=1, timestamps_seconds=times)
                for times in (seconds, ())
            )
            num_groups = -(-32 // frames_per_time)  # a quarter of the 128 repeated frames
            num_words = len(timed.input_ids) - len(untimed.input_ids) - (num_groups - 1)
            bound = lengths.longest[number] - plain.longest[number]
            assert 7 * num_groups <= num_words <= bound <= 3 * num_words
            number += 1
