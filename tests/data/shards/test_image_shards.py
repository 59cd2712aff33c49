"""Reading of images, image sets and texts from shards."""

import json
import shutil

import pytest
import torch
import webdataset

from lit_hour.config.schema import ImageConfig
from lit_hour.data.datasets import load_visual
from lit_hour.data.shards.reader import open_shards
from lit_hour.errors import ShardError
from lit_hour.media.anyres import load_image_set, load_tiled_image
from lit_hour.types import Frames, ImageSet, TiledImage
from tests.data.factories import MIXED_KEYS, VIDEO


def test_each_modality_is_loaded_as_its_type(mixed_shards, mixed_files):
    shards = open_shards(mixed_shards)
    stored = [shards.read(entry) for entry in shards.entries]
    visuals = [load_visual(sample, VIDEO, ImageConfig(max_grid=2)) for sample in stored]
    assert [type(visual) for visual in visuals] == [
        Frames,
        TiledImage,
        TiledImage,
        ImageSet,
        type(None),
        ImageSet,
        type(None),
    ]
    expected = load_tiled_image(
        (mixed_files / "photo.jpg").read_bytes(),
        "photo",
        VIDEO.image_size,
        ImageConfig(max_grid=2),
    )
    assert torch.equal(visuals[2].tiles, expected.tiles)
    assert (visuals[2].grid, visuals[2].size_pixels) == (expected.grid, (60, 100))
    names = ("map.webp", "dot.bmp", "photo.jpg")
    files = [(name, (mixed_files / name).read_bytes()) for name in names]
    assert torch.equal(visuals[5].images, load_image_set(files, VIDEO.image_size).images)
    assert [", ".join(sample.files) for sample in stored[:4]] == [
        "clip.mp4",
        "more/chart.png",
        "photo.jpg",
        "photo.jpg, more/chart.png",
    ]
    assert [question.question for question in stored[4].questions] == [
        "How are you?",
        "And you?",
        "And they?",
    ]
    assert stored[3].questions[0].question == "Is <image> larger than <image>?"


def test_webdataset_reads_images_and_texts(mixed_shards, mixed_files):
    samples = [
        sample
        for index in open_shards(mixed_shards).indexes
        for sample in webdataset.WebDataset(
            str(mixed_shards / index.shard), shardshuffle=False, empty_check=False
        )
    ]
    assert [sample["__key__"] for sample in samples] == MIXED_KEYS
    assert samples[1]["000000.png"] == (mixed_files / "more/chart.png").read_bytes()
    assert samples[5]["000001.bmp"] == (mixed_files / "dot.bmp").read_bytes()
    assert json.loads(samples[6]["json"])["modality"] == "text"


@pytest.fixture
def damaged(mixed_shards, tmp_path):
    """Return a function that copies the shards and replaces some bytes of a file."""

    def damage(name, old, new):
        folder = shutil.copytree(mixed_shards, tmp_path / "damaged")
        content = (folder / name).read_bytes()
        assert old in content
        (folder / name).write_bytes(
            content.replace(old, new.ljust(len(old)) if name.endswith(".tar") else new)
        )
        return open_shards(folder)

    return damage


@pytest.mark.parametrize(
    ("shard", "number", "old", "location"),
    [
        (
            0,
            1,
            b"\x89PNG",
            r"image 'more/chart': more/chart\.000000\.png \(\d+ bytes\) is not a JPEG",
        ),
        (
            0,
            1,
            b"IDAT",
            r"image 'more/chart': more/chart\.000000\.png \(\d+ bytes\) is (not|damaged)",
        ),
        (
            1,
            2,
            b"RIFF",
            r"images 'record_00000006': record_00000006\.000000\.webp \(\d+ bytes\) is not",
        ),
    ],
)
def test_undecodable_image_is_rejected(damaged, shard, number, old, location):
    shards = damaged(f"00000{shard}.tar", old, b"????")
    stored = shards.read(shards.indexes[shard].entries[number])
    with pytest.raises(ShardError, match=rf"00000{shard}\.tar: {location}"):
        load_visual(stored, VIDEO, ImageConfig())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"more/chart.000000.png", b"more/chart.000000.gif", "(missing|damaged)"),
        (
            b'"modality": "image"',
            b'"modality": "text"',
            r"more/chart\.json has .*'text', 1, 1\), which does not match the index",
        ),
        (
            b'"files": ["more/chart.png"]',
            b'"files": []',
            r"more/chart\.json has .* 0, 1\), which does not match",
        ),
        (b'"files": ["more/chart.png"]', b'"files": 7', r"more/chart\.json is corrupt"),
        (b'"modality": "image"', b'"modes": "image"', r"more/chart\.json is corrupt"),
    ],
)
def test_metadata_that_does_not_match_an_image_is_rejected(damaged, old, new, message):
    shards = damaged("000000.tar", old, new)
    with pytest.raises(ShardError, match=rf"000000\.tar: image 'more/chart': .*{message}"):
        shards.read(shards.entries[1])


def test_unknown_modality_is_rejected(damaged):
    with pytest.raises(
        ShardError,
        match=r"000001\.json has the unknown modality 'sound'\. "
        r"The modalities are video, image, images, text",
    ):
        damaged("000001.json", b'"modality": "images"', b'"modality": "sound"')


def test_index_of_an_old_version_is_rejected_with_the_command(damaged):
    with pytest.raises(
        ShardError,
        match=r"format version 2\. This program reads version 3\. "
        r"Delete .*damaged and make it anew: frames with `lit-hour pack",
    ):
        damaged("000000.json", b'"version": 3', b'"version": 2')
