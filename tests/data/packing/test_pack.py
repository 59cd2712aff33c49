import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from lit_hour.config.schema import PackConfig, VideoConfig
from lit_hour.data.datasets import load_frames
from lit_hour.data.packing.pack import pack
from lit_hour.data.packing.shard_plan import plan_shards
from lit_hour.data.shards.reader import open_shards
from lit_hour.errors import QuestionError, ShardError, VideoError
from tests import REPOSITORY
from tests.data.factories import PACK, VIDEO, VIDEO_NAMES, ask_about, shard_files, write_video
from tests.helpers.disk import limit_file_size

PROGRAM = """
import sys
from pathlib import Path
from lit_hour.config.schema import PackConfig, VideoConfig
from lit_hour.data.packing.pack import pack

if __name__ == "__main__":
    video = VideoConfig(min_frames=100, max_frames=100, image_size=64)
    pack(*map(Path, sys.argv[1:4]), video, PackConfig(videos_per_shard=1, num_workers=2))
"""
KILLED_VIDEO = VideoConfig(min_frames=100, max_frames=100, image_size=64)


def test_totals_are_the_sums_over_shards(frame_shards, tiny_videos, tiny_questions):
    summary = pack(tiny_videos, tiny_questions, frame_shards, VIDEO, PACK)
    assert (summary.num_shards, summary.num_questions) == (3, 15)
    assert summary.num_samples == {"video": 5, "image": 0, "images": 0, "text": 0}
    assert summary.num_frames == 4 + 4 + 5 + 6 + 6
    assert summary.duration_seconds == pytest.approx(3 + 4 + 5 + 6 + 7)
    assert summary.num_bytes == sum(path.stat().st_size for path in frame_shards.glob("*.tar"))
    assert summary.skipped == ()
    totals = json.loads((frame_shards / "index.json").read_text())
    assert totals == {"version": 3, **summary.__dict__, "skipped": []}


def test_index_has_the_sha256_of_the_tar(frame_shards):
    for index in open_shards(frame_shards).indexes:
        printed = subprocess.run(
            ["sha256sum", frame_shards / index.shard], capture_output=True, text=True, check=True
        ).stdout
        assert printed.split()[0] == index.sha256


def test_number_of_workers_does_not_change_bytes_or_budget(tiny_videos, tmp_path):
    videos = shutil.copytree(tiny_videos, tmp_path / "videos")
    (videos / "b.mp4").write_text("no video")
    (videos / "more/f.mp4").write_bytes((videos / "a.mp4").read_bytes()[:1000])
    questions = ask_about(VIDEO_NAMES, tmp_path / "q.json")
    for num_workers in (1, 2):
        settings = PackConfig(videos_per_shard=2, num_workers=num_workers, max_bad_samples=2)
        summary = pack(videos, questions, tmp_path / f"out{num_workers}", VIDEO, settings)
        assert [skipped.name for skipped in summary.skipped] == ["b.mp4", "more/f.mp4"]
    assert shard_files(tmp_path / "out1") == shard_files(tmp_path / "out2")
    with pytest.raises(VideoError, match=r"(b|f)\.mp4.*pack\.max_bad_samples \(now 1\)"):
        pack(
            videos,
            questions,
            tmp_path / "out",
            VIDEO,
            PackConfig(videos_per_shard=2, num_workers=2, max_bad_samples=1),
        )
    assert (
        not list((tmp_path / "out").glob("*.unfinished"))
        and not (tmp_path / "out/index.json").exists()
    )


def test_pack_rewrites_only_missing_and_truncated_shards(
    frame_shards, tiny_videos, tiny_questions, tmp_path
):
    out = shutil.copytree(frame_shards, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in out.glob("0*")}
    (out / "000001.json").unlink()
    (out / "000002.tar").write_bytes(b"cut off")
    (out / "000001.tar.77.unfinished").write_bytes(b"left by a killed run")
    pack(tiny_videos, tiny_questions, out, VIDEO, PACK)
    assert shard_files(out) == shard_files(frame_shards)
    changed = {path.name for path, moment in before.items() if path.stat().st_mtime_ns != moment}
    assert changed == {"000001.tar", "000001.json", "000002.tar", "000002.json"}


@pytest.mark.parametrize("what", ["settings", "questions", "video", "fewer videos"])
def test_shards_of_other_inputs_are_rejected(
    frame_shards, tiny_videos, tiny_questions, tmp_path, what
):
    videos, questions, video = tiny_videos, tmp_path / "questions.json", VIDEO
    records = json.loads(tiny_questions.read_text())
    if what == "settings":
        video = replace(VIDEO, image_size=40)
    elif what == "questions":
        records[0]["answer"] = "A"
    elif what == "fewer videos":
        records = [record for record in records if "more" not in record["video"]]
    else:
        videos = shutil.copytree(tiny_videos, tmp_path / "videos")
        write_video(videos / "a.mp4", num_seconds=9)
    questions.write_text(json.dumps(records))
    before = shard_files(frame_shards)
    with pytest.raises(
        ShardError, match=rf"{frame_shards} has shards made from other .*another folder, or delete"
    ):
        pack(videos, questions, frame_shards, video, PACK)
    assert shard_files(frame_shards) == before


def test_fingerprint_ignores_settings_that_do_not_change_shards(
    tiny_videos, tiny_questions, tmp_path
):
    def plan(**settings):
        return plan_shards(
            tiny_videos, tiny_questions, tmp_path, VideoConfig(**settings), PackConfig()
        )[0]

    stored = {
        "fps": 1.0,
        "min_frames": 128,
        "max_frames": 3600,
        "image_size": 384,
        "on_decode_error": "raise",
        "keyframes_only": False,
        "jpeg_quality": 90,
        "videos_per_shard": 16,
    }
    assert plan().config == stored == plan(frames="none").config
    assert (
        plan().fingerprint
        == plan(frames="none").fingerprint
        != plan(keyframes_only=True).fingerprint
    )
    assert plan(keyframes_only=True).config == {**stored, "keyframes_only": True}


def test_missing_videos_are_listed_before_writing(tiny_videos, tmp_path):
    questions = ask_about(
        [*VIDEO_NAMES, *(f"gone{number}.mp4" for number in range(7))], tmp_path / "q.json"
    )
    with pytest.raises(
        QuestionError,
        match=r"names 12 files, and 7 of them are not in .*gone0\.mp4, .*gone4\.mp4, and 2 more\.",
    ):
        pack(tiny_videos, questions, tmp_path / "out", VIDEO, PACK)
    assert not (tmp_path / "out").exists()


def test_two_videos_with_the_same_readable_key_get_two_keys(tmp_path):
    for name in ("x y.mp4", "x_y.mkv"):
        write_video(tmp_path / name, num_seconds=1)
    questions = ask_about(["x_y.mkv", "x y.mp4"], tmp_path / "q.json")
    assert pack(tmp_path, questions, tmp_path / "out", VIDEO, PACK).num_samples["video"] == 2
    first, second = (entry.key for entry in open_shards(tmp_path / "out").entries)
    assert first != second and {first[:4], second[:4]} == {"x_y-"}


def test_output_path_that_is_a_file_is_rejected(tiny_videos, tiny_questions):
    with pytest.raises(ShardError, match=r"Cannot use .* as a folder of shards"):
        pack(tiny_videos, tiny_questions, tiny_questions, VIDEO, PACK)


def descendants(pid: int) -> list[int]:
    threads = Path(f"/proc/{pid}/task")
    try:
        children = [
            int(child)
            for thread in threads.iterdir()
            for child in (thread / "children").read_text().split()
        ]
    except FileNotFoundError:  # a thread or the process has exited
        return descendants(pid) if threads.exists() else []
    return children + [pid for child in children for pid in descendants(child)]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.01)


@pytest.mark.slow
def test_pack_continues_after_sigkill_with_the_same_bytes(tmp_path):
    names = [f"{number}.mp4" for number in range(8)]
    for name in names:
        write_video(tmp_path / name, num_seconds=40, size_pixels=96)
    questions = ask_about(names, tmp_path / "q.json")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    out, undisturbed = tmp_path / "out", tmp_path / "undisturbed"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        [sys.executable, program, tmp_path, questions, out],
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: len(list(out.glob("0*.json"))) >= 2 and list(out.glob("*.tar.*.unfinished")))
    workers = descendants(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(
        lambda: not any(is_running(worker) for worker in workers)
    )  # none of them writes any more
    assert len(workers) >= 2
    finished = {path: path.stat().st_mtime_ns for path in out.glob("0*.json")}
    assert len(finished) < len(names) and list(out.glob("*.unfinished"))
    with pytest.raises(ShardError, match="is unfinished"):
        open_shards(out)

    for folder in (out, undisturbed):
        pack(
            tmp_path, questions, folder, KILLED_VIDEO, PackConfig(videos_per_shard=1, num_workers=1)
        )
    assert shard_files(out) == shard_files(undisturbed)
    assert all(path.stat().st_mtime_ns == moment for path, moment in finished.items())
    assert len(open_shards(out).entries) == len(names)


@pytest.fixture
def full_disk(tmp_path):
    """A disk with space for one shard only."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=36k", "tmpfs", folder]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a small disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_full_disk_is_reported_and_leaves_no_partial_file(
    full_disk, frame_shards, tiny_videos, tiny_questions
):
    with pytest.raises(
        ShardError,
        match=rf"{full_disk}/00000\d\.tar: No space left.*Free space in",
    ):
        pack(tiny_videos, tiny_questions, full_disk, VIDEO, PACK)
    left = shard_files(full_disk)
    assert {"000000.tar", "000000.json"} <= set(left) and "index.json" not in left
    assert all(content == (frame_shards / name).read_bytes() for name, content in left.items())
    with pytest.raises(ShardError, match="is unfinished"):
        open_shards(full_disk)
    subprocess.run(["mount", "-o", "remount,size=1m", full_disk], check=True)
    pack(tiny_videos, tiny_questions, full_disk, VIDEO, PACK)
    assert shard_files(full_disk) == shard_files(frame_shards)


def test_file_size_limit_leaves_no_partial_file(tiny_videos, tiny_questions, tmp_path):
    with (
        limit_file_size(9000),
        pytest.raises(ShardError, match=r"000000\.tar: File too large"),
    ):
        pack(tiny_videos, tiny_questions, tmp_path / "out", VIDEO, PACK)
    assert shard_files(tmp_path / "out") == {}


@pytest.fixture
def catalog(real_videos, tmp_path):
    """Three real clips with the damaged one in the middle, and the catalog of the clips."""
    what = {
        clip["file"]: clip["what"]
        for clip in json.loads((real_videos / "CATALOG.json").read_text())
    }
    names = ["asl_eat.mkv", "corrupted.mp4", "portrait_phone.mp4"]
    file = tmp_path / "catalog.json"
    file.write_text(
        json.dumps(
            [{"video": name, "question": "What is shown?", "answer": what[name]} for name in names]
        )
    )
    return file


def test_corrupt_clip_stops_packing(real_videos, catalog, tmp_path):
    with pytest.raises(
        VideoError, match=r"corrupted\.mp4.*2\.[78] s.*pack\.max_bad_samples \(now 0\)"
    ):
        pack(real_videos, catalog, tmp_path / "out", VIDEO, PACK)
    assert shard_files(tmp_path / "out") == {}


def test_corrupt_clip_within_the_budget_is_skipped_and_listed(real_videos, catalog, tmp_path):
    out, settings = (
        tmp_path / "out",
        PackConfig(videos_per_shard=2, num_workers=1, max_bad_samples=1),
    )
    summary = pack(real_videos, catalog, out, VIDEO, settings)
    assert [skipped.name for skipped in summary.skipped] == ["corrupted.mp4"]
    assert "damaged" in summary.skipped[0].reason
    shards = open_shards(out)
    assert [video.key for video in shards.entries] == ["asl_eat", "portrait_phone"]
    stored = [shards.read(video) for video in shards.entries]
    assert all(len(load_frames(video, 32, 100)) == len(video.images) for video in stored)
    assert stored[1].questions[0].answer.strip()
    with pytest.raises(
        ShardError, match=r"was packed without 1 samples, but pack\.max_bad_samples=0"
    ):
        pack(real_videos, catalog, out, VIDEO, PACK)


@pytest.mark.filterwarnings("ignore::lit_hour.media.video_reader.DamagedVideoWarning")
def test_damaged_clip_is_packed_with_on_decode_error_truncate(real_videos, catalog, tmp_path):
    video = replace(VIDEO, on_decode_error="truncate", fps=2, max_frames=10)
    pack(real_videos, catalog, tmp_path / "out", video, PACK)
    shards = open_shards(tmp_path / "out")
    stored = shards.read(shards.entries[1])
    assert stored.timestamps_seconds == tuple(index / 2 for index in range(10))
    assert stored.duration_seconds == 5.0
