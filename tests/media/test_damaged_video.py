"""Files that are damaged, cut short, or not videos."""

import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from lit_hour.config.schema import VideoConfig
from lit_hour.errors import VideoError
from lit_hour.media.packet_filter import FrameRole, parse_h264_packet
from lit_hour.media.video_probe import probe
from lit_hour.media.video_reader import DamagedVideoWarning, load_video
from tests.media.helpers import (
    encode_image,
    noise_image,
    numbered_image,
    numbered_images,
    numbers_in,
    read_all,
    write_video,
)


def damage_packets(path: Path, numbers: Iterable[int]) -> list[int]:
    """Overwrite the packets of these numbers in stored order, and return which frames they hold."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for packet in (chosen := [packets[number] for number in numbers]):
        data[packet.pos + 4 : packet.pos + packet.size] = b"\xff" * (packet.size - 4)
    path.write_bytes(data)
    return [packet.pts // packet.duration for packet in chosen]


def test_read_frames_of_a_damaged_clip_raises_or_truncates(real_videos: Path) -> None:
    path = real_videos / "corrupted.mp4"
    timestamps = [index / 10 for index in range(50)]
    message = r"2\.8 s of 5\.0 s \(last frame at 2\.7 s\).*video\.on_decode_error=truncate"
    with pytest.raises(VideoError, match=rf"corrupted\.mp4.*{message}"):
        read_all(path, timestamps)
    with pytest.warns(DamagedVideoWarning, match=r"mp4 is damaged: 1 of its packets cannot be"):
        frames = read_all(path, timestamps, on_decode_error="truncate")
    assert len(frames) == 50
    assert len(read_all(path, timestamps[:28])) == 28, "what lies before the damage can be read"


def test_damaged_end_is_left_out(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", numbered_images(100), encoder_options={"bf": "0"})
    damage_packets(path, range(60, 100))
    config = VideoConfig(min_frames=10, image_size=64, on_decode_error="truncate")
    message = r"up to 6\.0 s of 10\.0 s \(last frame at 5\.9 s\)\. 4 of 10 frames are missing"
    with pytest.warns(DamagedVideoWarning, match=message):
        frames, duration = load_video(path, config)
    assert numbers_in(frames.images) == [0, 10, 20, 30, 40, 50]
    assert duration == 10.0, "one duration, whatever can be decoded"
    assert frames.images.untyped_storage().nbytes() == 6 * 3 * 64 * 64


@pytest.mark.parametrize("suffix, audio_seconds", [("mp4", 0.0), ("mkv", 0.0), ("mkv", 20.0)])
def test_cut_file_is_refused_or_used_up_to_its_last_packet(
    tmp_path: Path, suffix: str, audio_seconds: float
) -> None:
    complete = write_video(
        tmp_path / f"complete.{suffix}",
        numbered_images(200),
        codec="mpeg4",
        audio_seconds=audio_seconds,
        container_options={"movflags": "faststart"} if suffix == "mp4" else None,
    )
    content, cut = complete.read_bytes(), tmp_path / f"cut.{suffix}"
    cut.write_bytes(content[: len(content) * 6 // 10])
    config = VideoConfig(fps=5, min_frames=1, max_frames=1000, image_size=64)
    message = rf"cut\.{suffix} is damaged or cut short: it ends after [\d,]+ of [\d,]+ bytes"
    with pytest.raises(VideoError, match=rf"{message}.*Download it again"):
        load_video(cut, config)
    with pytest.warns(DamagedVideoWarning, match=message):
        frames, duration = load_video(cut, replace(config, on_decode_error="truncate"))
    assert numbers_in(frames.images) == [2 * index for index in range(len(frames))]
    assert 20 < len(frames) < 90 and duration == pytest.approx(probe(cut).duration_seconds)
    assert frames.timestamps[-1] < duration <= frames.timestamps[-1] + 0.2 + 1e-6


def test_cut_ogg_is_refused_and_an_intact_one_is_not(tmp_path: Path) -> None:
    config = VideoConfig(min_frames=4, image_size=64)
    path = write_video(tmp_path / "video.ogv", numbered_images(50), codec="libvpx")
    assert numbers_in(load_video(path, config)[0].images)[0] == 0
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(VideoError, match=r"it ends after [\d,]+ of [\d,]+ bytes"):
        load_video(path, config)


@pytest.mark.parametrize("cut_share", [0.01, 0.02])
def test_file_without_its_last_bytes_is_not_damaged(tmp_path: Path, cut_share: float) -> None:
    """Behind the packets of an mkv are only an index and tags."""
    path = write_video(tmp_path / "video.mkv", numbered_images(50))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * (1 - cut_share))])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frames, duration = load_video(path, VideoConfig(fps=10, min_frames=1, image_size=64))
    assert numbers_in(frames.images) == list(range(50)) and duration == 5.0


def test_damaged_packet_costs_its_own_frame(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", numbered_images(100))
    with av.open(str(path)) as container:
        roles = [parse_h264_packet(memoryview(packet), 4)[0] for packet in container.demux(video=0)]
    (number,) = damage_packets(path, [roles.index(FrameRole.DISPOSABLE, 49)])
    timestamps = [index / 10 for index in range(100)]
    assert numbers_in(read_all(path, timestamps[:45]).images) == list(range(45))
    with pytest.raises(VideoError, match=r"video\.mp4 is damaged"):
        read_all(path, timestamps)
    with pytest.warns(DamagedVideoWarning, match="1 of its packets cannot be decoded"):
        frames = read_all(path, timestamps, on_decode_error="truncate")
    shown = numbers_in(frames.images)
    wrong = [index for index in range(100) if shown[index] != index]
    assert len(shown) == 100 and wrong == [number]
    assert probe(path).duration_seconds == 10.0


def test_read_frames_notices_damage_in_the_last_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", numbered_images(50))
    damage_packets(path, range(45, 50))
    assert numbers_in(read_all(path, [0.0, 4.0]).images) == [0, 40]
    with pytest.raises(VideoError, match="damaged or cut short"):
        read_all(path, [0.0, 4.9])


def test_probe_refuses_what_is_not_a_video(tmp_path: Path) -> None:
    concat = b"ffconcat version 1.0\nfile 'other.mp4'\n"
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nother.ts\n"
    complete = write_video(tmp_path / "complete.mp4", numbered_images(3)).read_bytes()
    cases = {
        "missing.mp4": (None, "does not exist"),
        "empty.mp4": (b"", "is empty"),
        "pointer.mp4": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4c\n", "Git LFS"),
        "page.mp4": (b"<!DOCTYPE html><html><body>Quota exceeded", "is a web page"),
        "denied.webm": (b"<?xml version='1.0'?><Error><Code>AccessDenied", "is a web page"),
        "photo.mp4": (encode_image(noise_image(32, 32), "JPEG"), "is a JPEG image"),
        "half.mp4": (complete[:400], r"ends after 400 of [\d,]+ bytes, before its index"),
        "unfinished.mp4": (complete[: complete.index(b"moov") - 4], "has no index"),
        "zeros.mp4": (bytes(5000), "download was interrupted"),
        "text.mp4": (b"once upon a time " * 100, "cannot be opened as a video"),
        "noise.mkv": (bytes(range(256)) * 40, "cannot be opened as a video"),
        "list.mp4": (concat, "cannot be opened as a video"),
        "playlist.mp4": (playlist, "cannot be opened as a video"),
    }
    write_video(tmp_path / "other.mp4", numbered_images(3))
    for name, (data, message) in cases.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(VideoError, match=f"{name}.*{message}"):
            probe(tmp_path / name)
    with pytest.raises(VideoError, match="is not a file"):
        probe(tmp_path)


def test_probe_and_load_video_refuse_files_without_video_frames(tmp_path: Path) -> None:
    song, silent, unknown = tmp_path / "song.mp4", tmp_path / "silent.avi", tmp_path / "unknown.mp4"
    with av.open(str(song), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        image = av.VideoFrame.from_ndarray(numbered_image(1), format="rgb24")
        image.pts = 0
        container.mux([*cover.encode(image), *cover.encode()])
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
        frame.sample_rate, frame.pts = 8000, 0
        container.mux([*stream.encode(frame), *stream.encode()])
    with av.open(str(silent), "w") as container:
        container.add_stream("mpeg4", rate=10).width = 64
        container.start_encoding()
    whole = write_video(tmp_path / "whole.mp4", numbered_images(3)).read_bytes()
    unknown.write_bytes(whole.replace(b"avc1", b"zzzz"))
    for path, message in [
        (song, "only audio"),
        (silent, "without frames"),
        (unknown, "Decoder not found"),
    ]:
        for read in (probe, lambda path: load_video(path, VideoConfig(on_decode_error="truncate"))):
            with pytest.raises(VideoError, match=f"{path.name}.*{message}"):
                read(path)


@pytest.mark.parametrize("timestamps", [[1.0, 0.5], [-0.1], [0.0, 2.0]])
def test_read_frames_refuses_timestamps_outside_the_video_or_out_of_order(
    tmp_path: Path, timestamps: list[float]
) -> None:
    path = write_video(tmp_path / "video.mp4", numbered_images(20))
    with pytest.raises(VideoError, match=r"video\.mp4.* in order, from 0 to less than 2\.0 s"):
        read_all(path, timestamps)
