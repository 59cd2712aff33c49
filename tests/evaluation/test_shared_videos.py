"""A video that is encoded as it comes, against one that is read as a whole."""

from pathlib import Path

import pytest
import torch

from lit_hour.evaluation.generate import FrameChunk, VideoFrameStream
from lit_hour.inference.predictor import VideoPredictor
from lit_hour.media.frame_sampling import SampledVideo
from lit_hour.run_dir import RunDir
from tests.helpers.toy_run import TrainedRun


def test_the_memory_is_the_same_to_the_bit(trained: TrainedRun, random_run: RunDir) -> None:
    video = trained.project.yaml.parent / "world/validation/videos/synthetic_00000.mp4"
    session = VideoPredictor.from_run(
        random_run.path, overrides=["model.vision.encode_batch_size=4", "video.max_frames=11"]
    )
    whole = session.encode_video(video)
    *chunks, end = VideoFrameStream([(7, video)], session.config.video, chunk_frames=4)
    recollection = session.memory_builder(num_frames=11)
    with torch.inference_mode():
        for seen in chunks:
            assert seen.frames is not None and seen.num_frames == 11
            recollection.add(seen.frames)
        memory = recollection.finalize(end.duration_seconds, "the video")
    assert [len(seen.frames) for seen in chunks if seen.frames] == [4, 4, 3]
    assert torch.equal(memory.repository.tokens, whole.repository.tokens)
    assert torch.equal(memory.repository.positions, whole.repository.positions)
    assert (memory.note, memory.num_frames, memory.num_placeholders) == (whole.note, 11, 1)
    timestamps = SampledVideo(video, session.config.video).timestamps
    assert [seconds for seconds, _ in recollection.thumbnails] == pytest.approx(
        [timestamps[place] for place in (0, 2, 4, 6, 8, 10)]
    )


def test_of_what_is_not_shown_there_is_only_the_end(tmp_path: Path, random_run: RunDir) -> None:
    config = VideoPredictor.from_run(random_run.path).config
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    nothing, broken = VideoFrameStream(
        [(0, None), (1, tmp_path / "broken.mp4")], config.video, chunk_frames=4
    )
    assert nothing == FrameChunk(0, None)
    assert (broken.video_index, broken.frames) == (1, None) and "broken.mp4" in broken.error
