"""Files that are damaged, cut short, or not videos."""

from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from lit_hour.config.schema import VideoConfig
from lit_hour.errors import VideoError
from lit_hour.media.video_probe import probe
from lit_hour.media.video_reader import DamagedVideoWarning, load_video, sample_timestamps
from tests.media.helpers import numbered_image, numbered_images, numbers_in, read_all, write_video


def test_read_frames_of_a_damaged_clip_raises_or_truncates(real_videos: Path) -> None:
    path = real_videos / "corrupted.mp4"
    timestamps = [index / 10 for index in range(50)]
    message = r"2\.8 s of 5\.0 s \(last frame at 2\.7 s\).*video\.on_decode_error=truncate"
    with pytest.raises(VideoError, match=rf"corrupted\.mp4.*{message}"):
        read_all(path, timestamps)
    with pytest.warns(DamagedVideoWarning, match=r"2\.8 s of 5\.0 s.*22 of 50 frames are missing"):
        frames = read_all(path, timestamps, on_decode_error="truncate")
    assert len(frames) == 28 and frames.timestamps[-1] == pytest.approx(2.7)
    assert len(read_all(path, timestamps[:28])) == 28, "what lies before the damage can be read"


def test_load_video_returns_the_readable_part(real_videos: Path) -> None:
    config = VideoConfig(min_frames=10, image_size=32, on_decode_error="truncate")
    with pytest.warns(DamagedVideoWarning, match="4 of 10 frames are missing"):
        frames, duration = load_video(real_videos / "corrupted.mp4", config)
    assert frames.timestamps.tolist() == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
    assert duration == pytest.approx(2.8)
    assert frames.images.untyped_storage().nbytes() == 6 * 3 * 32 * 32


@pytest.mark.parametrize("suffix, audio_seconds", [("mp4", 0.0), ("mkv", 0.0), ("mkv", 20.0)])
def test_read_frames_of_a_truncated_file_raises_or_truncates(
    tmp_path: Path, suffix: str, audio_seconds: float
) -> None:
    whole = write_video(
        tmp_path / f"whole.{suffix}",
        numbered_images(200),
        codec="mpeg4",
        audio_seconds=audio_seconds,
        container_options={"movflags": "faststart"} if suffix == "mp4" else None,
    )
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    timestamps = sample_timestamps(probe(cut).duration_seconds, 5.0, 1, 1000)
    assert len(timestamps) == 100
    with pytest.raises(VideoError, match="cut short"):
        read_all(cut, timestamps)
    with pytest.warns(DamagedVideoWarning):
        frames = read_all(cut, timestamps, on_decode_error="truncate")
    assert numbers_in(frames.images) == [2 * index for index in range(len(frames))]
    assert 20 < len(frames) < 90


def test_read_frames_notices_damage_in_the_last_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", numbered_images(50))
    with av.open(str(path)) as container:
        packets = [
            (packet.pos, packet.size)
            for packet in container.demux(video=0)
            if packet.pos is not None
        ]
    data = bytearray(path.read_bytes())
    for offset, size in packets[-5:]:
        data[offset : offset + size] = b"\xff" * size
    path.write_bytes(data)
    assert numbers_in(read_all(path, [0.0, 4.0]).images) == [0, 40]
    with pytest.raises(VideoError, match="damaged or cut short"):
        read_all(path, [0.0, 4.9])


def test_probe_refuses_what_is_not_a_video(tmp_path: Path) -> None:
    concat = b"ffconcat version 1.0\nfile 'other.mp4'\n"
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nother.ts\n"
    cases = {
        "missing.mp4": (None, "does not exist"),
        "empty.mp4": (b"", "is empty"),
        "text.mp4": (b"once upon a time " * 100, "cannot be opened as a video"),
        "noise.mkv": (bytes(range(256)) * 40, "cannot be opened as a video"),
        "list.mp4": (concat, "cannot be opened as a video"),
        "playlist.mp4": (playlist, "cannot be opened as a video"),
    }
    write_video(tmp_path / "other.mp4", numbered_images(3))
    for name, (data, message) in cases.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(VideoError, match=f"{name}.* {message}"):
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
