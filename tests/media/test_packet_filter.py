"""Selective decoding gives the same frames as decoding every packet."""

import contextlib
import warnings
from math import inf
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from lit_hour.errors import VideoError
from lit_hour.media.all_frames import images_of_all_frames
from lit_hour.media.frame_conversion import FrameConverter
from lit_hour.media.packet_filter import FrameRole, PacketFilter, PacketInfo, parse_h264_packet
from lit_hour.media.selective_decoding import decode_selected_frames
from lit_hour.media.video_probe import probe
from lit_hour.media.video_reader import KeyframeWarning, read_frames
from tests.media.helpers import numbered_images, numbers_in, write_moving, write_video

IMAGE_SIZE = 32


def timestamps_of(path: Path, fps: float) -> list[float]:
    duration = probe(path).duration_seconds
    return [index / fps for index in range(300) if index / fps < duration]


def assert_equal_to_every_frame_decoded(path: Path, fps: float, is_complete: bool = True) -> None:
    info, timestamps = probe(path), timestamps_of(path, fps)
    expected = []
    with contextlib.suppress(VideoError):  # the damaged clip ends early
        for image in images_of_all_frames(info, timestamps, 0, IMAGE_SIZE, "raise"):
            expected.append(image)
    convert = FrameConverter(path, IMAGE_SIZE)
    images = []
    for image, _, num_times in decode_selected_frames(info, timestamps, False, convert):
        images += [image] * num_times
    assert len(images) <= len(expected)
    assert torch.equal(torch.stack(images), torch.stack(expected[: len(images)]))
    assert len(images) == len(timestamps) or not is_complete, "it ended early"


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize(
    "options",
    [
        {"g": "250"},
        {"g": "12", "bf": "5"},
        {"g": "20", "x264-params": "open-gop=1"},
        {"g": "1"},
        {"x264-params": "bframes=8:b-pyramid=none:keyint=40"},
        {"x264-params": "repeat-headers=1:keyint=30"},
        {"x264-params": "slices=3:keyint=infinite"},
    ],
    ids=str,
)
def test_selected_frames_of_synthetic_videos_equal_decoding_every_frame(
    tmp_path: Path, suffix: str, options: dict[str, str]
) -> None:
    path = write_moving(tmp_path / f"video.{suffix}", 150, **options)
    for fps in (0.3, 3.7, 60.0):
        assert_equal_to_every_frame_decoded(path, fps)


def test_interlaced_and_avi_videos_are_not_decoded_selectively(tmp_path: Path) -> None:
    interlaced = write_moving(tmp_path / "fields.mp4", 20, **{"x264-params": "interlaced=1"})
    assert not list(decode_selected_frames(probe(interlaced), [0.0], False, id))
    avi = write_moving(tmp_path / "video.avi", 20)
    for keyframes_only in (True, False):
        assert not list(decode_selected_frames(probe(avi), [0.0], keyframes_only, id))


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_selected_frames_at_variable_rate_equal_decoding_every_frame(
    tmp_path: Path, suffix: str
) -> None:
    gaps = np.random.default_rng(1).choice([1, 1, 1, 2, 5, 40], 150)
    times = [int(tick) for tick in gaps.cumsum()]
    path = write_moving(tmp_path / f"video.{suffix}", 150, times, g="30")
    for fps in (0.3, 1.0, 3.7):
        assert_equal_to_every_frame_decoded(path, fps, is_complete=False)


def test_selected_frames_of_real_clips_equal_decoding_every_frame(real_videos: Path) -> None:
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
        for fps in (0.5, 3.0):
            assert_equal_to_every_frame_decoded(real_videos / name, fps)
    assert_equal_to_every_frame_decoded(real_videos / "corrupted.mp4", 7.3, is_complete=False)


def test_packet_filter_drops_most_packets(tmp_path: Path) -> None:
    path = write_moving(tmp_path / "video.mp4", 250, g="25")
    info, num_decoded = probe(path), {}
    for fps in (0.2, 1.0):
        packet_filter: PacketFilter[int] = PacketFilter(timestamps_of(path, fps))
        with av.open(str(path)) as container:
            packets = [packet for packet in container.demux(video=0) if packet.size]
        num_decoded[fps] = 0
        for number, packet in enumerate(packets):
            start_seconds = float((packet.pts - info.first_pts) * packet.time_base)
            role, has_parameters = parse_h264_packet(memoryview(packet), 4)
            needed = packet_filter.push(PacketInfo(number, start_seconds, role, has_parameters))
            num_decoded[fps] += len(needed)
        num_decoded[fps] += len(packet_filter.decide(inf))
        assert packet_filter.done
    assert num_decoded == {0.2: 2, 1.0: 10}, "there is a keyframe at each of these times"


def test_packet_filter_keeps_packets_with_parameter_sets() -> None:
    packet_filter: PacketFilter[str] = PacketFilter([0.0, 9.0])
    packets = [
        PacketInfo("first", 0.0, FrameRole.IDR, False),
        PacketInfo("parameters", 1.0, FrameRole.REFERENCE, True),
        PacketInfo("rest", 2.0, FrameRole.REFERENCE, False),
        PacketInfo("second", 9.0, FrameRole.IDR, False),
    ]
    needed = [[info.packet for info in packet_filter.push(packet)] for packet in packets]
    assert needed == [[], [], [], ["first", "parameters"]]
    assert [info.packet for info in packet_filter.decide(inf)] == ["second"]


NAL_UNIT_HEADERS = {
    b"\x09\x65": (FrameRole.IDR, False),
    b"\x67\x68\x65": (FrameRole.IDR, True),
    b"\x06\x41": (FrameRole.REFERENCE, False),
    b"\x01": (FrameRole.DISPOSABLE, False),
    b"\x06": (FrameRole.REFERENCE, True),
}


def test_parse_h264_packet_with_lengths_and_start_codes() -> None:
    for headers, expected in NAL_UNIT_HEADERS.items():
        for length_size in (0, 1, 2, 4):
            data = b""
            for header in headers:
                unit = bytes([header]) + b"\x88\x80"
                prefix = len(unit).to_bytes(length_size, "big") if length_size else b"\0\0\1"
                data += prefix + unit
            case = f"{headers!r} with length size {length_size}"
            assert parse_h264_packet(memoryview(data), length_size) == expected, case
            cut = memoryview(data[:1])
            assert parse_h264_packet(cut, length_size) == (FrameRole.REFERENCE, True), case


# Keyframes


@pytest.mark.parametrize(
    "codec, suffix", [("libx264", "mp4"), ("libvpx", "webm"), ("mpeg4", "mp4")]
)
def test_keyframes_only_returns_the_last_keyframe_and_reports_its_time_error(
    tmp_path: Path, codec: str, suffix: str
) -> None:
    path = write_video(tmp_path / f"video.{suffix}", numbered_images(120), codec=codec)
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
        chunks = list(read_frames(path, timestamps, 64, "raise", keyframes_only=True))
    shown = numbers_in(torch.cat([chunk.images for chunk in chunks]))
    first = keys[0]
    assert shown == [
        max(key for key in keys if key - first <= 5 * index) - first for index in range(24)
    ]


def test_keyframes_only_reads_real_clips_to_the_end(real_videos: Path) -> None:
    for name in ("nasa.mp4", "titles_vfr_vp8.webm", "frame_counter_h265.mp4", "pancake.mkv"):
        timestamps = timestamps_of(real_videos / name, 2.0)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            chunks = list(
                read_frames(
                    real_videos / name, timestamps, IMAGE_SIZE, "raise", keyframes_only=True
                )
            )
        assert (
            sum(len(chunk) for chunk in chunks) == len(timestamps)
            and caught[-1].category is KeyframeWarning
        )
