"""What is skipped never shows: the frames of a video read by its needed packets are those of all frames decoded."""

import warnings
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from lit_hour.media import video_reader as decode
from lit_hour.media.frame_iterator import FrameIterator, SelectiveFrameIterator
from lit_hour.media.packet_filter import FrameRole, PacketFilter, PacketInfo, parse_h264_packet
from lit_hour.media.video_probe import probe
from lit_hour.media.video_reader import KeyframeWarning, read_frames
from tests.media.written import numbered, numbers_of, write_video

SIZE_PIXELS = 32


def timestamps_of(path: Path, frames_per_second: float) -> list[float]:
    duration = probe(path).duration_seconds
    return [
        index / frames_per_second for index in range(300) if index / frames_per_second < duration
    ]


def assert_equal_to_every_frame_decoded(
    path: Path, frames_per_second: float, is_whole: bool = True
) -> None:
    info, timestamps = probe(path), timestamps_of(path, frames_per_second)
    plain = list(decode._pick_from_all(FrameIterator(info), timestamps, SIZE_PIXELS))
    fast = []
    for picture, num_times in SelectiveFrameIterator(
        info, timestamps, False, partial(decode._show, path, SIZE_PIXELS)
    ):
        fast += [picture] * num_times
    assert torch.equal(torch.stack(fast), torch.stack(plain[: len(fast)])) and len(fast) <= len(
        plain
    )
    assert len(fast) == len(timestamps) or not is_whole, "it gave up"


def write_moving(
    path: Path, num_frames: int, times: list[int] | None = None, **options: str
) -> Path:
    """A bright bar that moves over noise, encoded by x264."""
    noise = np.random.default_rng(0).integers(0, 120, (48, 64, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264", rate=25, options={"preset": "veryfast", "bf": "3", **options}
        )
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(num_frames):
            picture = noise.copy()
            picture[:, number % 56 : number % 56 + 8] += 100
            frame = av.VideoFrame.from_ndarray(
                np.roll(picture, number // 3, axis=0), format="rgb24"
            )
            frame.pts = times[number] if times else number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("options", [{"g": "250"}, {"g": "12", "bf": "5"}, {"g": "20", "x264-params": "open-gop=1"},
                                     {"g": "1"}, {"x264-params": "bframes=8:b-pyramid=none:keyint=40"},
                                     {"x264-params": "repeat-headers=1:keyint=30"},
                                     {"x264-params": "slices=3:keyint=infinite"}],
                         ids=str)  # fmt: skip
def test_frames_of_made_up_videos(tmp_path: Path, suffix: str, options: dict[str, str]) -> None:
    path = write_moving(tmp_path / f"video.{suffix}", 150, **options)
    for frames_per_second in (0.3, 3.7, 60.0):
        assert_equal_to_every_frame_decoded(path, frames_per_second)


def test_what_is_left_to_those_who_decode_all(tmp_path: Path) -> None:
    interlaced = write_moving(tmp_path / "fields.mp4", 20, **{"x264-params": "interlaced=1"})
    assert not list(SelectiveFrameIterator(probe(interlaced), [0.0], False, id))
    assert not SelectiveFrameIterator.supports(
        probe(write_moving(tmp_path / "video.avi", 20)), key_frames_only=True
    )


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_frames_at_a_variable_rate(tmp_path: Path, suffix: str) -> None:
    gaps = np.random.default_rng(1).choice([1, 1, 1, 2, 5, 40], 150)
    path = write_moving(
        tmp_path / f"video.{suffix}", 150, [int(tick) for tick in gaps.cumsum()], g="30"
    )
    for frames_per_second in (0.3, 1.0, 3.7):
        assert_equal_to_every_frame_decoded(path, frames_per_second, is_whole=False)


def test_frames_of_real_clips(real_videos: Path) -> None:
    names = [
        "animated_room.mp4",
        "asl_again.mkv",
        "cars.mp4",
        "nasa.mp4",
        "pancake.mkv",
        "peppers.mp4",
        "test_pattern_10bit.mp4",
    ]
    for name in names:
        for frames_per_second in (0.5, 3.0):
            assert_equal_to_every_frame_decoded(real_videos / name, frames_per_second)
    assert_equal_to_every_frame_decoded(real_videos / "corrupted.mp4", 7.3, is_whole=False)


def test_most_packets_are_not_decoded(tmp_path: Path) -> None:
    path = write_moving(tmp_path / "video.mp4", 250, g="25")
    info, num_decoded = probe(path), {}
    for frames_per_second in (0.2, 1.0):
        needed: PacketFilter[int] = PacketFilter(timestamps_of(path, frames_per_second))
        with av.open(str(path)) as container:
            packets = [packet for packet in container.demux(video=0) if packet.size]
        coded = [PacketInfo(number, float((packet.pts - info.first_pts) * packet.time_base), *parse_h264_packet(memoryview(packet), 4))
                 for number, packet in enumerate(packets)]  # fmt: skip
        num_decoded[frames_per_second] = sum(len(needed.push(each)) for each in coded) + len(
            needed.flush()
        )
        assert needed.done
    assert num_decoded == {0.2: 2, 1.0: 10}, "a key frame lies at each of these seconds"


def test_packets_of_parameters_reach_the_decoder() -> None:
    needed: PacketFilter[str] = PacketFilter([0.0, 9.0])
    roles = [("first", 0.0, FrameRole.IDR, False), ("parameters", 1.0, FrameRole.REFERENCE, True),
             ("rest", 2.0, FrameRole.REFERENCE, False), ("second", 9.0, FrameRole.IDR, False)]  # fmt: skip
    released = [[coded.packet for coded in needed.push(PacketInfo(*role))] for role in roles]
    assert released == [[], [], [], ["first", "parameters"]]
    assert [coded.packet for coded in needed.flush()] == ["second"]


UNITS = {b"\x09\x65": (FrameRole.IDR, False), b"\x67\x68\x65": (FrameRole.IDR, True), b"\x06\x41": (FrameRole.REFERENCE, False),
         b"\x01": (FrameRole.DISPOSABLE, False), b"\x06": (FrameRole.REFERENCE, True)}  # fmt: skip


@pytest.mark.parametrize("units", UNITS)
def test_headers_of_units(units: bytes) -> None:
    for length_bytes in (0, 1, 2, 4):
        bodies = [bytes([header]) + b"\x88\x80" for header in units]
        marks = [
            len(body).to_bytes(length_bytes, "big") if length_bytes else b"\0\0\1"
            for body in bodies
        ]
        data = b"".join(mark + body for mark, body in zip(marks, bodies, strict=True))
        assert parse_h264_packet(memoryview(data), length_bytes) == UNITS[units]
        assert parse_h264_packet(memoryview(data[:1]), length_bytes) == (FrameRole.REFERENCE, True)


# Key frames


@pytest.mark.parametrize(
    "codec, suffix", [("libx264", "mp4"), ("libvpx", "webm"), ("mpeg4", "mp4")]
)
def test_the_last_key_frame_and_how_late_it_is(tmp_path: Path, codec: str, suffix: str) -> None:
    path = write_video(tmp_path / f"video.{suffix}", numbered(120), codec=codec)
    with av.open(str(path)) as container:
        keys = [
            round(float(packet.pts * packet.time_base) * 10)
            for packet in container.demux(video=0)
            if packet.is_keyframe
        ]
    timestamps = [index / 2 for index in range(24)]
    with pytest.warns(
        KeyframeWarning, match=rf"video\.{suffix} .* s too early on average and .* s at most"
    ):
        chunks = list(read_frames(path, timestamps, 64, "raise", key_frames_only=True))
    shown = numbers_of(torch.cat([chunk.images for chunk in chunks]))
    first = keys[0]
    assert shown == [
        max(key for key in keys if key - first <= 5 * index) - first for index in range(24)
    ]


def test_key_frames_of_real_clips_are_frames_of_the_video(real_videos: Path) -> None:
    for name in ("nasa.mp4", "titles_vfr_vp8.webm", "frame_counter_h265.mp4", "pancake.mkv"):
        timestamps = timestamps_of(real_videos / name, 2.0)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            chunks = list(
                read_frames(
                    real_videos / name, timestamps, SIZE_PIXELS, "raise", key_frames_only=True
                )
            )
        assert (
            sum(len(chunk) for chunk in chunks) == len(timestamps)
            and caught[-1].category is KeyframeWarning
        )
