"""A memory on disk: the same when it comes back, and refused when it is damaged or does not fit."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lit_hour.config.schema import Config
from lit_hour.errors import MemoryFileError
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.inference.video_memory import VideoMemory
from lit_hour.inference.video_memory_io import load_memory, save_memory
from lit_hour.io.atomic import UNFINISHED_SUFFIX
from tests import REPOSITORY
from tests.inference.babbling import (
    CONFIG,
    assert_same,
    cut,
    make_predictor,
    noise,
    say,
    with_precision,
    write_video,
)

KILLED = """
import sys, torch
from pathlib import Path
from tests.inference.babbling import noise, make_predictor
from lit_hour.inference import video_memory_io as memory_file
predictor = make_predictor()
memory = predictor.encode_visual(noise(20), 20, "live")
def save_for_ever(tensors, path, metadata):
    Path(path).write_bytes(b"half")
    print("writing", flush=True)
    import time; time.sleep(60)
memory_file.save_file = save_for_ever
memory_file.save_memory(predictor, memory, Path(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def predictor() -> VideoPredictor:
    return make_predictor()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seen")
    for name, colour in (("red.png", "red"), ("blue.png", "blue")):
        Image.new("RGB", (90, 60), colour).save(folder / name)
    write_video(folder / "walk.mp4", 9)
    write_video(folder / "other.mp4", 9, seed=1)
    return folder


@pytest.mark.parametrize("names", (["walk.mp4"], ["red.png"], ["red.png", "blue.png"], []), ids=str)
def test_what_comes_back_is_the_same_to_the_bit(
    predictor: VideoPredictor, folder: Path, tmp_path: Path, names: list[str]
) -> None:
    files, place = [folder / name for name in names], tmp_path / "deep" / "memory.safetensors"
    memory = (
        predictor.encode_video(files) if files else predictor.encode_visual(None, 0.0, "nothing")
    )
    save_memory(predictor, memory, place)
    found = load_memory(predictor, place, files)
    assert_same(found, memory)
    assert (found.thumbnails, found.files_digest, found.seconds) == (
        memory.thumbnails,
        memory.files_digest,
        memory.seconds,
    )
    assert say(predictor, found, "What is it?") == say(predictor, memory, "What is it?")
    assert [each.name for each in place.parent.iterdir()] == [place.name]


@pytest.mark.parametrize("num_frames", (3, 20))
def test_a_video_goes_on_after_it_came_back(
    predictor: VideoPredictor, tmp_path: Path, num_frames: int
) -> None:
    video = noise(30)
    memory = predictor.encode_visual(cut(video, 0, num_frames), num_frames, "live")
    longer = predictor.extend(memory, cut(video, num_frames, 30), 30)
    save_memory(
        predictor, memory, tmp_path / "memory"
    )  # whose rows lie in the room of the longer one by now
    found = load_memory(predictor, tmp_path / "memory")
    assert_same(found, memory)
    assert_same(predictor.extend(found, cut(video, num_frames, 30), 30), longer)


def test_any_reader_of_safetensors_can_open_it(
    predictor: VideoPredictor, folder: Path, tmp_path: Path
) -> None:
    memory = predictor.encode_video(folder / "walk.mp4")
    save_memory(predictor, memory, tmp_path / "memory")
    tensors = load_file(tmp_path / "memory")
    assert tensors["tokens"].shape == (9, 4, 32) and torch.equal(
        tensors["timestamps"], memory.repository.timestamps
    )


@pytest.mark.parametrize(
    ("precision", "share", "error"),
    (("exact", 1, 0), ("bf16", 0.5, 2**-8), ("int8", 9 / 32, 2**-7)),
)
def test_precision_decides_size_and_error(
    tmp_path: Path, precision: Literal["exact", "bf16", "int8"], share: float, error: float
) -> None:
    predictor = make_predictor(with_precision(precision))
    memory = predictor.encode_visual(noise(50), 50, "live")
    save_memory(predictor, memory, tmp_path / "memory")
    found = load_memory(predictor, tmp_path / "memory").repository.tokens
    tensors = load_file(tmp_path / "memory")
    stored = sum(tensor.nbytes for name, tensor in tensors.items() if name in ("tokens", "scales"))
    assert stored == share * 50 * 4 * 32 * 4  # frames, tokens, dim, bytes
    tokens = memory.repository.tokens
    assert float((found - tokens).abs().max() / tokens.abs().max()) <= error
    assert torch.equal(
        found[4::5], tokens[4::5]
    )  # the ends of the frames are the model's, and not stored
    assert torch.equal(found, tokens) == (precision == "exact")


def changed(**video: Any) -> Config:
    return replace(CONFIG, video=replace(CONFIG.video, **video))


@pytest.mark.parametrize(
    ("config", "reason"),
    (
        (
            changed(fps=2.0),
            r"does not fit: video\.fps was 1\.0, is 2\.0\. Remember the video again",
        ),
        (
            changed(min_frames=3, max_frames=50),
            r"video\.min_frames was 2, is 3; video\.max_frames was 100, is 50\.",
        ),
    ),
)
def test_other_settings_are_refused_by_name(
    predictor: VideoPredictor, tmp_path: Path, config: Config, reason: str
) -> None:
    save_memory(predictor, predictor.encode_visual(noise(9), 9, "live"), tmp_path / "memory")
    with pytest.raises(MemoryFileError, match=reason):
        load_memory(
            VideoPredictor(config, predictor.model, predictor.processor), tmp_path / "memory"
        )


def test_another_model_is_refused_but_not_one_that_answers_otherwise(
    predictor: VideoPredictor, tmp_path: Path
) -> None:
    save_memory(predictor, predictor.encode_visual(noise(9), 9, "live"), tmp_path / "memory")
    with pytest.raises(
        MemoryFileError, match=r"the model had other weights \(SHA-256 \w{12}, now \w{12}\)"
    ):
        load_memory(make_predictor(seed=1), tmp_path / "memory")
    other = make_predictor()
    with torch.no_grad():
        other.model.memory.blocks[0].cross_attention.key.weight.mul_(2)  # type: ignore[union-attr, operator]
    found = load_memory(other, tmp_path / "memory")
    assert_same(found, other.encode_visual(noise(9), 9, "live"))


def test_another_file_is_refused(predictor: VideoPredictor, folder: Path, tmp_path: Path) -> None:
    save_memory(predictor, predictor.encode_video(folder / "walk.mp4"), tmp_path / "memory")
    with pytest.raises(
        MemoryFileError,
        match=r"it is the memory of .*walk\.mp4, and .*other\.mp4 holds something else",
    ):
        load_memory(predictor, tmp_path / "memory", [folder / "other.mp4"])


def saved(predictor: VideoPredictor, tmp_path: Path) -> Path:
    save_memory(predictor, predictor.encode_visual(noise(9), 9, "live"), tmp_path / "memory")
    return tmp_path / "memory"


def test_every_flipped_byte_is_noticed(predictor: VideoPredictor, tmp_path: Path) -> None:
    file = saved(predictor, tmp_path)
    whole = file.read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // 150)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(MemoryFileError, match="memory"):
            load_memory(predictor, file)
    file.write_bytes(whole)
    load_memory(predictor, file)


@pytest.mark.parametrize("content", (b"", b"x", b"\0" * 100, b"\xff" * 100))
def test_what_is_no_memory_is_refused(
    predictor: VideoPredictor, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "memory").write_bytes(content)
    with pytest.raises(MemoryFileError, match=r"memory is missing, cut off or no safetensors file"):
        load_memory(predictor, tmp_path / "memory")


def test_what_is_missing_cut_or_something_else_is_refused(
    predictor: VideoPredictor, tmp_path: Path
) -> None:
    file = saved(predictor, tmp_path)
    for length in (1, 100, file.stat().st_size - 1):
        (tmp_path / "cut").write_bytes(file.read_bytes()[:length])
        with pytest.raises(MemoryFileError, match="cut is missing, cut off"):
            load_memory(predictor, tmp_path / "cut")
    for place in (tmp_path / "none", tmp_path):
        with pytest.raises(MemoryFileError, match="is missing"):
            load_memory(predictor, place)
    save_file({"tokens": torch.zeros(1)}, tmp_path / "weights")
    with pytest.raises(MemoryFileError, match="weights is no memory: it does not say of what"):
        load_memory(predictor, tmp_path / "weights")


@pytest.mark.parametrize("spoil", ("tokens", "timestamps", "pictures", "about"))
def test_parts_that_do_not_belong_together_are_refused(
    predictor: VideoPredictor, tmp_path: Path, spoil: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = saved(predictor, tmp_path)
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors, about = load_file(file), json.loads(metadata["about"])
    if spoil == "tokens":
        tensors["tokens"] = tensors["tokens"][:, :3, :16].contiguous()
    elif spoil == "timestamps":
        tensors["timestamps"] = torch.zeros(4, 2)
    elif spoil == "pictures":
        about["picture_seconds"] = [1.0]
    else:
        del about["rasters"]
    monkeypatch.setattr(
        "lit_hour.inference.video_memory_io._checksum", lambda *_: metadata["crc32"]
    )
    save_file(tensors, file, {**metadata, "about": json.dumps(about)})
    with pytest.raises(
        MemoryFileError, match=r"parts do not belong together|written by another version"
    ):
        load_memory(predictor, file)


def test_a_killed_process_leaves_the_file_of_before(
    predictor: VideoPredictor, tmp_path: Path
) -> None:
    file = saved(predictor, tmp_path)
    before = file.read_bytes()
    words = [sys.executable, "-c", KILLED, str(file)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, cwd=REPOSITORY)
    assert process.stdout is not None and process.stdout.readline() == b"writing\n"
    process.kill()
    process.wait()
    process.stdout.close()
    assert file.read_bytes() == before
    assert len(list(tmp_path.glob(f"*{UNFINISHED_SUFFIX}"))) == 1


def test_a_full_disk_is_told(predictor: VideoPredictor) -> None:
    memory = predictor.encode_visual(noise(9), 9, "live")
    with pytest.raises(MemoryFileError, match=r"/dev/full.* could not be written"):
        save_memory(predictor, memory, Path("/dev/full/memory"))


def test_it_counts_its_bytes(predictor: VideoPredictor, folder: Path) -> None:
    def expected(memory: VideoMemory, num_frames: int) -> int:
        prepared = 2 * 2 * 2 * 8 * 4  # layers, keys and values, heads, head_dim, bytes
        return num_frames * (5 * (32 * 4 + 8 + prepared) + 4) + sum(
            len(jpeg) for _, jpeg in memory.thumbnails
        )

    memory = predictor.encode_video(folder / "walk.mp4")
    assert memory.num_bytes == expected(memory, 9)
    video = noise(21)
    grown = predictor.encode_visual(cut(video, 0, 10), 10, "live")
    grown = predictor.extend(grown, cut(video, 10, 21), 21)
    assert (
        grown.num_bytes == expected(grown, 40) - 19 * 4
    )  # its room has doubled twice, that of the 21 timestamps once
