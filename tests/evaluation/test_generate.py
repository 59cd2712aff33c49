"""The stream of frames gives the same memory as a video that is encoded in one call."""

from pathlib import Path

import pytest
import torch

from lit_hour.evaluation.generate import FrameChunk, VideoFrameStream
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.inference.video_memory import VideoMemoryBuilder
from lit_hour.media.video_reader import SampledVideo
from lit_hour.run_dir import RunDir
from tests.helpers.toy_run import TrainedRun


def test_memory_from_the_stream_is_bit_identical(trained: TrainedRun, random_run: RunDir) -> None:
    video = trained.project.yaml.parent / "world/validation/videos/synthetic_00000.mp4"
    predictor = VideoPredictor.from_run(
        random_run.path, overrides=["model.vision.encode_batch_size=4", "video.max_frames=11"]
    )
    expected = predictor.encode_video(video)
    *chunks, end = VideoFrameStream([(video, None)], predictor.config.video, chunk_frames=4)
    builder = VideoMemoryBuilder(predictor.model, predictor.processor, num_frames=11)
    with torch.inference_mode():
        for chunk in chunks:
            assert chunk.frames is not None and chunk.num_frames == 11
            builder.add(chunk.frames)
        memory = builder.finalize(end.duration_seconds, "the video")
    assert [len(chunk.frames) for chunk in chunks if chunk.frames] == [4, 4, 3]
    assert torch.equal(memory.repository.tokens, expected.repository.tokens)
    assert torch.equal(memory.repository.positions, expected.repository.positions)
    assert (memory.note, memory.num_frames, memory.num_placeholders) == (expected.note, 11, 1)
    timestamps = SampledVideo(video, predictor.config.video).timestamps
    assert [seconds for seconds, _ in builder.thumbnails] == pytest.approx(
        [timestamps[index] for index in (0, 2, 4, 6, 8, 10)]
    )


def test_a_video_without_frames_has_only_its_end(tmp_path: Path, random_run: RunDir) -> None:
    config = VideoPredictor.from_run(random_run.path).config
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    files = [None, tmp_path / "broken.mp4"]
    nothing, broken = VideoFrameStream(
        [(file, None) for file in files], config.video, chunk_frames=4
    )
    assert nothing == FrameChunk(0, None)
    assert (broken.video_index, broken.frames) == (1, None) and "broken.mp4" in broken.error
