"""Memory files: exact round trips, and errors for corrupt files and other models."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lit_hour.config.serving import ServingConfig
from lit_hour.errors import MemoryFileError
from lit_hour.inference import video_memory_io
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.inference.video_memory import VideoMemory
from lit_hour.inference.video_memory_io import load_memory, save_memory
from lit_hour.io.atomic import TEMP_SUFFIX
from tests.helpers.fork import FORK
from tests.inference.helpers import (
    CONFIG,
    assert_equal_memories,
    generate_text,
    make_predictor,
    random_frames,
    slice_frames,
    write_video,
)

TIMEOUT_SECONDS = 30


@pytest.fixture(scope="module")
def predictor() -> VideoPredictor:
    return make_predictor()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    for color in ("red", "blue"):
        Image.new("RGB", (90, 60), color).save(folder / f"{color}.png")
    write_video(folder / "walk.mp4", 9)
    write_video(folder / "other.mp4", 9, seed=1)
    return folder


def save_nine_frames(predictor: VideoPredictor, folder: Path) -> Path:
    memory = predictor.encode_visual(random_frames(9), 9, "live")
    save_memory(predictor, memory, folder / "memory")
    return folder / "memory"


def test_load_memory_equals_the_saved_memory(
    predictor: VideoPredictor, folder: Path, tmp_path: Path
) -> None:
    for names in (["walk.mp4"], ["red.png"], ["red.png", "blue.png"], []):
        files = [folder / name for name in names]
        path = tmp_path / "deep" / f"{len(names)}.safetensors"
        if files:
            memory = predictor.encode_video(files)
        else:
            memory = predictor.encode_visual(None, 0.0, "nothing")
        save_memory(predictor, memory, path)
        loaded = load_memory(predictor, path, files)
        assert_equal_memories(loaded, memory)
        assert loaded.thumbnails == memory.thumbnails, names
        assert loaded.files_digest == memory.files_digest, names
        assert loaded.seconds == memory.seconds, names
        texts = [generate_text(predictor, each, "What is it?") for each in (loaded, memory)]
        assert texts[0] == texts[1], names
        assert not list(path.parent.glob(f"*{TEMP_SUFFIX}"))


def test_a_loaded_memory_can_be_extended(predictor: VideoPredictor, tmp_path: Path) -> None:
    video = random_frames(30)
    for num_frames in (3, 20):
        start = slice_frames(video, 0, num_frames)
        rest = slice_frames(video, num_frames, 30)
        memory = predictor.encode_visual(start, num_frames, "live")
        longer = predictor.extend(memory, rest, 30)  # shares the buffers of `memory`
        save_memory(predictor, memory, tmp_path / "memory")
        loaded = load_memory(predictor, tmp_path / "memory")
        assert_equal_memories(loaded, memory)
        assert_equal_memories(predictor.extend(loaded, rest, 30), longer)


def test_memory_file_is_plain_safetensors(
    predictor: VideoPredictor, folder: Path, tmp_path: Path
) -> None:
    memory = predictor.encode_video(folder / "walk.mp4")
    save_memory(predictor, memory, tmp_path / "memory")
    tensors = load_file(tmp_path / "memory")
    assert tensors["tokens"].shape == (9, 4, 32)
    assert torch.equal(tensors["timestamps"], memory.repository.timestamps)


def test_memory_precision_determines_file_size_and_error(tmp_path: Path) -> None:
    cases: tuple[tuple[Literal["exact", "bf16", "int8"], float, float], ...] = (
        ("exact", 1, 0),
        ("bf16", 0.5, 2**-8),
        ("int8", 9 / 32, 2**-7),
    )
    for precision, share, max_error in cases:
        serving = ServingConfig(memory_precision=precision)
        predictor = make_predictor(replace(CONFIG, serving=serving))
        memory = predictor.encode_visual(random_frames(50), 50, "live")
        tokens = memory.repository.tokens
        save_memory(predictor, memory, tmp_path / "memory")
        loaded = load_memory(predictor, tmp_path / "memory").repository.tokens
        stored = load_file(tmp_path / "memory")
        num_bytes = sum(stored[name].nbytes for name in ("tokens", "scales") if name in stored)
        assert num_bytes == share * 50 * 4 * 32 * 4, precision  # frames, tokens, dim, bytes
        error = float((loaded - tokens).abs().max() / tokens.abs().max())
        assert error <= max_error, precision
        newlines = slice(4, None, 5)  # parameters of the model, not stored in the file
        assert torch.equal(loaded[newlines], tokens[newlines]), precision
        assert torch.equal(loaded, tokens) == (precision == "exact")


def test_load_memory_rejects_other_settings_by_name(
    predictor: VideoPredictor, tmp_path: Path
) -> None:
    path = save_nine_frames(predictor, tmp_path)
    for video, message in (
        (
            replace(CONFIG.video, fps=2.0),
            r"does not fit: video\.fps was 1\.0, is 2\.0\. Encode the video again\.",
        ),
        (
            replace(CONFIG.video, min_frames=3, max_frames=50),
            r"video\.min_frames was 2, is 3; video\.max_frames was 100, is 50\.",
        ),
    ):
        config = replace(CONFIG, video=video)
        with pytest.raises(MemoryFileError, match=message):
            load_memory(VideoPredictor(config, predictor.model, predictor.processor), path)


def test_load_memory_rejects_other_weights_only_if_they_determine_it(
    predictor: VideoPredictor, tmp_path: Path
) -> None:
    path = save_nine_frames(predictor, tmp_path)
    message = r"the model had other weights \(SHA-256 \w{12}, now \w{12}\)"
    with pytest.raises(MemoryFileError, match=message):
        load_memory(make_predictor(seed=1), path)
    other = make_predictor()
    with torch.no_grad():  # MemAug reads a memory, and does not determine its tokens
        other.model.memaug.blocks[0].cross_attention.key.weight.mul_(2)  # type: ignore[union-attr, operator]
    loaded = load_memory(other, path)
    assert_equal_memories(loaded, other.encode_visual(random_frames(9), 9, "live"))


def test_load_memory_rejects_the_memory_of_another_file(
    predictor: VideoPredictor, folder: Path, tmp_path: Path
) -> None:
    save_memory(predictor, predictor.encode_video(folder / "walk.mp4"), tmp_path / "memory")
    message = r"it is the memory of .*walk\.mp4, and .*other\.mp4 differs from that"
    with pytest.raises(MemoryFileError, match=message):
        load_memory(predictor, tmp_path / "memory", [folder / "other.mp4"])


def test_load_memory_detects_every_flipped_byte(predictor: VideoPredictor, tmp_path: Path) -> None:
    file = save_nine_frames(predictor, tmp_path)
    content = file.read_bytes()
    for index in range(0, len(content), max(1, len(content) // 150)):
        file.write_bytes(content[:index] + bytes([content[index] ^ 1]) + content[index + 1 :])
        with pytest.raises(MemoryFileError, match="memory"):
            load_memory(predictor, file)
    file.write_bytes(content)
    load_memory(predictor, file)


def test_load_memory_rejects_missing_truncated_and_foreign_files(
    predictor: VideoPredictor, tmp_path: Path
) -> None:
    content = save_nine_frames(predictor, tmp_path).read_bytes()
    truncated = [content[:length] for length in (1, 100, len(content) - 1)]
    for damaged in (b"", b"x", b"\0" * 100, b"\xff" * 100, *truncated):
        (tmp_path / "damaged").write_bytes(damaged)
        message = r"damaged is missing, truncated or not a safetensors file"
        with pytest.raises(MemoryFileError, match=message):
            load_memory(predictor, tmp_path / "damaged")
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(MemoryFileError, match="is missing"):
            load_memory(predictor, path)
    save_file({"tokens": torch.zeros(1)}, tmp_path / "weights")
    with pytest.raises(MemoryFileError, match="weights is not a memory of this version"):
        load_memory(predictor, tmp_path / "weights")


def test_load_memory_rejects_inconsistent_parts(
    predictor: VideoPredictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = save_nine_frames(predictor, tmp_path)
    with safe_open(file, "pt") as opened:
        header = opened.metadata()
    monkeypatch.setattr(video_memory_io, "_checksum", lambda *_: header["crc32"])
    tensors, metadata = load_file(file), json.loads(header["memory"])
    without_grids = {name: value for name, value in metadata.items() if name != "grids"}
    for changed_tensors, changed_metadata in (
        ({"tokens": tensors["tokens"][:, :3, :16].contiguous()}, metadata),
        ({"timestamps": torch.zeros(4, 2)}, metadata),
        ({}, {**metadata, "thumbnail_seconds": [1.0]}),
        ({}, without_grids),
    ):
        changed_header = {**header, "memory": json.dumps(changed_metadata)}
        save_file({**tensors, **changed_tensors}, file, changed_header)
        with pytest.raises(
            MemoryFileError, match=r"is not a valid memory|written by another version"
        ):
            load_memory(predictor, file)


def test_save_memory_killed_midway_leaves_the_previous_file(
    predictor: VideoPredictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = save_nine_frames(predictor, tmp_path)
    content = file.read_bytes()

    def write_half_and_die(tensors: object, path: Path, header: object) -> None:
        path.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(video_memory_io, "save_file", write_half_and_die)
    memory = predictor.encode_visual(random_frames(20), 20, "live")
    process = FORK.Process(target=save_memory, args=(predictor, memory, file))
    process.start()
    process.join(TIMEOUT_SECONDS)
    assert process.exitcode == -signal.SIGKILL
    assert file.read_bytes() == content
    assert len(list(tmp_path.glob(f"*{TEMP_SUFFIX}"))) == 1


def test_save_memory_reports_a_full_disk(predictor: VideoPredictor) -> None:
    memory = predictor.encode_visual(random_frames(9), 9, "live")
    with pytest.raises(MemoryFileError, match=r"/dev/full.* could not be written"):
        save_memory(predictor, memory, Path("/dev/full/memory"))


def test_num_bytes_counts_all_tensors_and_thumbnails(
    predictor: VideoPredictor, folder: Path
) -> None:
    def expected_bytes(memory: VideoMemory, num_frames: int) -> int:
        caches = 2 * 2 * 2 * 8 * 4  # layers, keys and values, heads, head_dim, bytes
        thumbnails = sum(len(jpeg) for _, jpeg in memory.thumbnails)
        return num_frames * (5 * (32 * 4 + 8 + caches) + 4) + thumbnails

    memory = predictor.encode_video(folder / "walk.mp4")
    assert memory.num_bytes == expected_bytes(memory, 9)
    video = random_frames(21)
    longer = predictor.encode_visual(slice_frames(video, 0, 10), 10, "live")
    longer = predictor.extend(longer, slice_frames(video, 10, 21), 21)
    # the token buffers have doubled twice, the buffer of the 21 timestamps once
    assert longer.num_bytes == expected_bytes(longer, 40) - 19 * 4
