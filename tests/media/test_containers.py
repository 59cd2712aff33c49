"""Every container and codec that FFmpeg can write is read as an independent decoder reads it.

`CONTAINERS` lists them, `NOT_COMPARED` the others, and `test_table_is_complete` finds those that
are in neither.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lit_hour.config.schema import VideoConfig
from lit_hour.errors import VideoError
from lit_hour.media.all_frames import images_of_all_frames
from lit_hour.media.jpeg_frames import read_jpeg_frames
from lit_hour.media.video_probe import probe
from lit_hour.media.video_reader import DamagedVideoWarning, read_frames
from tests.media.helpers import join_files, numbered_image

NUM_FRAMES = 30
RATE = 25
IMAGE_SIZE = 48
MAX_LOST_AT_END = 4  # frames of a cut file: reordered, or inside the last packet
OPTIONS = {  # of encoders that would be slow or log
    "libx265": {"x265-params": "log-level=none"},
    "libsvtav1": {"preset": "12"},
    "libvpx": {"cpu-used": "8", "deadline": "realtime"},
    "libvpx-vp9": {"cpu-used": "8", "deadline": "realtime"},
}
# Seconds by which a duration may differ: h261 and h263 have a frame rate of 29.97 of their own, and
# of others FFmpeg does not know the duration of the last frame.
TOLERANCES = {"h261": 0.21, "h263": 0.21, "gxf": 0.05, "asf": 0.03}
SIZES = {"dvvideo": (720, 576), "gxf": (720, 576), "dnxhd": (1920, 1080)}  # others are 176 x 144

_H264 = "libx264 libx264rgb"
_MPEG = "mpeg1video mpeg2video mpeg4"
_MICROSOFT = "msmpeg4 msmpeg4v2 wmv1"
_LOSSLESS = "ffv1 ffvhuff huffyuv magicyuv png snow utvideo zlib"
_RAW = "r10k r210 v210 v308 v408 v410 y41p yuv4"
_AVI = (
    f"amv asv1 asv2 cfhd cinepak cljr dpx dvvideo flashsv flv h261 h263 h263p jpeg2000 jpegls"
    f" libsvtav1 libvpx libvpx-vp9 ljpeg mjpeg msvideo1 rawvideo rpza speedhq svq1 targa wmv2"
    f" {_H264} {_MPEG} {_MICROSOFT} {_LOSSLESS} {_RAW}"
)
_PRORES = "prores prores_aw prores_ks"
# Suffix and encoders by FFmpeg's name of the format.
CONTAINERS = {
    "3g2": ("3g2", f"h263 mpeg4 {_H264}"),
    "3gp": ("3gp", f"h263 mpeg4 {_H264}"),
    "apng": ("apng", "apng"),
    "asf": ("wmv", _AVI),
    "avm2": ("swf", "flv"),
    "avi": ("avi", _AVI),
    "dv": ("dv", "dvvideo"),
    "dvd": ("vob", "mpeg2video"),
    "f4v": ("f4v", _H264),
    "film_cpk": ("cpk", "cinepak"),
    "flv": ("flv", f"flashsv flashsv2 flv libsvtav1 libvpx-vp9 libx265 {_H264}"),
    "gif": ("gif", "gif"),
    "gxf": ("gxf", "mpeg2video"),
    "h261": ("h261", "h261"),
    "h263": ("h263", "h263"),
    "h264": ("h264", _H264),
    "hevc": ("hevc", "libx265"),
    "ipod": ("m4v", f"mpeg4 {_H264}"),
    "ismv": ("ismv", f"ffv1 jpeg2000 libx265 mjpeg png {_H264} {_MPEG}"),
    "ivf": ("ivf", "libsvtav1 libvpx libvpx-vp9"),
    "m4v": ("m4v", "mpeg4"),
    "matroska": (
        "mkv",
        f"ffv1 jpeg2000 libsvtav1 libvpx libvpx-vp9 libx265 mjpeg msmpeg4 rawvideo snow {_H264}"
        f" {_MPEG} {_PRORES}",
    ),
    "mjpeg": ("mjpeg", "mjpeg"),
    "mov": (
        "mov",
        f"avrp cfhd cinepak dpx dvvideo dxv exr gif h263 jpeg2000 libx265 magicyuv mjpeg msmpeg4"
        f" png qtrle rpza sgi svq1 targa tiff {_H264} {_MPEG} {_PRORES} {_RAW}",
    ),
    "mp4": (
        "mp4",
        f"ffv1 jpeg2000 libsvtav1 libvpx-vp9 libx265 mjpeg png {_H264} {_MPEG}",
    ),
    "mpeg": ("mpg", "mpeg1video mpeg2video"),
    "mpeg1video": ("m1v", "mpeg1video"),
    "mpeg2video": ("m2v", "mpeg2video"),
    "mpegts": ("ts", f"libx265 {_H264} {_MPEG}"),
    "mxf": ("mxf", f"ffv1 jpeg2000 libx264 mpeg2video {_PRORES}"),
    "nut": ("nut", f"gif libx265 {_AVI}"),
    "obu": ("obu", "libsvtav1"),
    "ogv": ("ogv", "libvpx"),
    "rm": ("rm", "rv10 rv20"),
    "svcd": ("mpg", "mpeg2video"),
    "swf": ("swf", "flv"),
    "vcd": ("mpg", "mpeg1video"),
    "vob": ("vob", "mpeg2video"),
    "webm": ("webm", "libsvtav1 libvpx libvpx-vp9"),
    "wtv": ("wtv", "cinepak flv h263 jpeg2000 libsvtav1 libvpx-vp9 svq1 libx264"),
}
NOT_COMPARED = {
    "no files of video": "crc framecrc framehash framemd5 hash md5 mkvtimestamp_v2 rtp rtp_mpegts"
    " streamhash uncodedframecrc",
    "pictures and sound": "aiff avif fits flac ico image2pipe mp3",
    "without a size": "rawvideo",
    "FFmpeg has no encoder for them": "amv apv avs2 avs3 cavsvideo dirac dnxhd evc filmstrip"
    " mxf_d10 mxf_opatom ogg psp vc1 vc1test vvc yuv4mpegpipe",
    "FFmpeg does not read what it writes": "a64 asf_stream mpjpeg roq smjpeg webp",
}
JOINABLE = (
    "avi dv dvd gif gxf h261 h263 h264 hevc ismv m4v matroska mjpeg mpeg mpeg1video mpeg2video"
    " mpegts mxf obu ogv svcd vcd vob webm"
)
PAIRS = [(name, codec) for name, (_, codecs) in CONTAINERS.items() for codec in codecs.split()]
USUAL_CODECS = ("libx264", "mpeg2video", "libvpx", "libsvtav1")
FAST_PAIRS = [
    ("avi", "mpeg4"),
    ("flv", "libx264"),
    ("gif", "gif"),
    ("h264", "libx264"),
    ("ivf", "libvpx"),
    ("mp4", "libx264"),
    ("mpeg", "mpeg2video"),
    ("mpegts", "libx264"),
    ("mxf", "mpeg2video"),
    ("webm", "libvpx-vp9"),
]


def write_counter(
    folder: Path, container_format: str, codec: str, start_frame: int = 0, rotation_degrees: int = 0
) -> Path:
    """Write frames that show their numbers, the first one some frames after time zero."""
    path = folder / f"counter.{CONTAINERS[container_format][0]}"
    encoder = av.Codec(codec, "w")
    names = [pixel_format.name for pixel_format in encoder.video_formats or []]
    pixel_format = "yuv420p" if "yuv420p" in names or not names else names[0]
    width, height = SIZES.get(codec, SIZES.get(container_format, (176, 144)))
    with av.open(str(path), "w", format=container_format) as container:
        stream = container.add_stream(
            codec, rate=RATE, options={"strict": "-2", **OPTIONS.get(codec, {})}
        )
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        if rotation_degrees:
            stream.set_display_rotation(rotation_degrees)
        for number in range(NUM_FRAMES):
            image = numbered_image(number, width, height)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pixel_format)
            frame.pts, frame.time_base = start_frame + number, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def decode_independently(path: Path, stream_index: int | None = None) -> list[Tensor]:
    """Return every frame as FFmpeg decodes it, upright: `(3, size, size)` uint8."""
    images: list[Tensor] = []
    with av.open(str(path)) as container:
        stream = container.streams[stream_index or container.streams.video[0].index]
        stream.codec_context.thread_count = 1
        for packet in container.demux(stream):
            with contextlib.suppress(av.FFmpegError):
                for frame in packet.decode():
                    image = frame.to_image().rotate(frame.rotation, expand=True)
                    image = image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
                    images.append(torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy()))
    return images


def assert_equals_independent_decode(
    path: Path, num_frames: int = NUM_FRAMES, tolerance_seconds: float = 0.002
) -> None:
    expected = decode_independently(path)
    assert len(expected) == num_frames
    info = probe(path)
    assert info.duration_seconds == pytest.approx(num_frames / RATE, abs=tolerance_seconds)
    frame_seconds = info.duration_seconds / num_frames
    timestamps = [(number + 0.5) * frame_seconds for number in range(num_frames)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fast = [
            image
            for chunk in read_frames(info, timestamps, IMAGE_SIZE, "raise")
            for image in chunk.images
        ]
        every = list(images_of_all_frames(info, timestamps, 0, IMAGE_SIZE, "raise"))
    for images in (fast, every):
        wrong = [k for k in range(num_frames) if not torch.equal(images[k], expected[k])]
        assert not wrong
    if info.transpose is None:
        config = VideoConfig(min_frames=5, max_frames=5, image_size=IMAGE_SIZE)
        jpegs = read_jpeg_frames(path, config, 100)
        assert len(jpegs.images) == 5 and jpegs.duration_seconds == info.duration_seconds


@pytest.mark.parametrize("name, codec", FAST_PAIRS)
def test_usual_containers_equal_an_independent_decode(
    tmp_path: Path, name: str, codec: str
) -> None:
    assert_equals_independent_decode(write_counter(tmp_path, name, codec))


@pytest.mark.slow
@pytest.mark.exhaustive
def test_every_frame_of_real_clips_equals_an_independent_decode(real_videos: Path) -> None:
    catalog = json.loads((real_videos / "CATALOG.json").read_text())
    for clip in catalog:
        path = real_videos / clip["file"]
        if path.name == "corrupted.mp4":  # `test_damaged_video` has it
            continue
        info = probe(path)
        expected = decode_independently(path, info.stream_index)  # nasa.mp4 has two
        assert len(expected) >= clip["frames_decodable"]
        with av.open(str(path)) as container:
            starts = sorted(
                float((frame.pts or 0) * frame.time_base)
                for frame in container.decode(container.streams[info.stream_index])
            )
        ends = [*starts[1:], starts[0] + info.duration_seconds]
        middles = [(a + b) / 2 - starts[0] for a, b in zip(starts, ends, strict=True)]
        for images in (
            [
                one
                for chunk in read_frames(info, middles, IMAGE_SIZE, "raise")
                for one in chunk.images
            ],
            list(images_of_all_frames(info, middles, 0, IMAGE_SIZE, "raise")),
        ):
            wrong = [k for k, image in enumerate(images) if not torch.equal(image, expected[k])]
            assert (len(images), wrong) == (len(expected), []), path.name


def usual_codec(name: str) -> str:
    codecs = CONTAINERS[name][1].split()
    return next((codec for codec in USUAL_CODECS if codec in codecs), codecs[0])


def tolerance_of(name: str, codec: str) -> float:
    return TOLERANCES.get(codec, TOLERANCES.get(name, 0.002))


@pytest.mark.slow
@pytest.mark.parametrize("name", CONTAINERS)
def test_every_container_and_codec_equals_an_independent_decode(tmp_path: Path, name: str) -> None:
    for codec in CONTAINERS[name][1].split():
        path = write_counter(tmp_path, name, codec)
        try:
            assert_equals_independent_decode(path, NUM_FRAMES, tolerance_of(name, codec))
        except (AssertionError, VideoError, UserWarning) as error:
            pytest.fail(f"{name} with {codec}: {error}")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CONTAINERS.keys() - {"avi"}))
def test_late_start_equals_an_independent_decode(tmp_path: Path, name: str) -> None:
    """FFmpeg fills an avi that starts late with empty frames."""
    codec = usual_codec(name)
    path = write_counter(tmp_path, name, codec, start_frame=90_000)
    assert_equals_independent_decode(path, NUM_FRAMES, tolerance_of(name, codec))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["3gp", "mp4", "mov", "ismv", "matroska", "webm"])
@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_rotation_equals_an_independent_decode(tmp_path: Path, name: str, degrees: int) -> None:
    path = write_counter(tmp_path, name, usual_codec(name), rotation_degrees=degrees)
    assert probe(path).transpose is not None
    assert_equals_independent_decode(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", JOINABLE.split())
def test_joined_files_equal_an_independent_decode(tmp_path: Path, name: str) -> None:
    codec = usual_codec(name)
    part = write_counter(tmp_path, name, codec)
    path = join_files(tmp_path / f"joined{part.suffix}", part, part)
    tolerance_seconds = 2 * tolerance_of(name, codec)
    assert_equals_independent_decode(path, 2 * NUM_FRAMES, tolerance_seconds)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CONTAINERS.keys() - set(JOINABLE.split())))
def test_joined_files_that_are_not_read_are_reported(tmp_path: Path, name: str) -> None:
    part = write_counter(tmp_path, name, usual_codec(name))
    path = join_files(tmp_path / f"joined{part.suffix}", part, part)
    fault = probe(path).fault
    assert "another video is joined" in fault or "as one video" in fault or "inside a fr" in fault


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, is_noticed",
    [
        *(
            (name, True)
            for name in ("apng", "asf", "flv", "ismv", "ivf", "matroska", "mxf", "webm")
        ),
        *((name, False) for name in ("mpeg", "mpegts", "nut", "obu", "vob")),  # they have no end
    ],
)
def test_cut_file_is_read_to_its_end(tmp_path: Path, name: str, is_noticed: bool) -> None:
    path = write_counter(tmp_path, name, usual_codec(name))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    expected = decode_independently(path)
    info = probe(path)
    assert bool(info.fault) == is_noticed
    num_frames = round(info.duration_seconds * RATE)
    timestamps = [(number + 0.5) / RATE for number in range(num_frames)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DamagedVideoWarning)
        images = [
            image
            for chunk in read_frames(info, timestamps, IMAGE_SIZE, "truncate")
            for image in chunk.images
        ]
    assert len(expected) > 3 and len(images) >= len(expected) - 1
    numbers = [
        next((k for k, known in enumerate(expected) if torch.equal(image, known)), -1)
        for image in images
    ]
    assert numbers[0] == 0 and numbers == sorted(numbers)
    assert len(set(numbers)) >= len(expected) - MAX_LOST_AT_END


@pytest.mark.slow
def test_table_is_complete(tmp_path: Path) -> None:
    """Every muxer of this FFmpeg that takes video is in `CONTAINERS` or in `NOT_COMPARED`."""
    names = set()
    for name in av.formats_available:
        try:
            container_format = av.format.ContainerFormat(name, "w")
        except ValueError:  # only a demuxer
            continue
        if not container_format.no_file:
            with av.open(str(tmp_path / "file"), "w", format=name) as container:
                names |= {name} if container.default_video_codec != "none" else set()
    listed = {name for group in NOT_COMPARED.values() for name in group.split()}
    assert names - CONTAINERS.keys() == listed
