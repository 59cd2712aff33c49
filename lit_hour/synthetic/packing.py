"""Pack the synthetic data set of a run: `build_and_pack`, or `pack_build` for a started build."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from lit_hour.config.schema import Config
from lit_hour.data.packing.incremental import IncrementalPacker
from lit_hour.data.packing.pack import pack
from lit_hour.synthetic.dataset import DatasetBuild, SyntheticDataset, start_build
from lit_hour.synthetic.render_pool import FrameSampling


def build_and_pack(config: Config) -> SyntheticDataset:
    """Build both splits as far as they are missing, and pack them into `FOLDER/SPLIT/shards`.

    Raises:
        SyntheticDataError: see `start_build` and `DatasetBuild`.
        ShardError: the shards were made from something else, or cannot be written.
    """
    sampling = FrameSampling.from_config(config.video, config.pack)
    with start_build(config.synthetic, sampling) as build:
        return pack_build(build, config)


def pack_build(build: DatasetBuild, config: Config) -> SyntheticDataset:
    """Wait for the videos of a build, and pack each shard as soon as possible.

    Raises:
        SyntheticDataError: a video cannot be written.
        ShardError: the shards were made from something else, or cannot be written.
    """
    dataset = SyntheticDataset.in_folder(Path(config.synthetic.folder))
    if build.missing:
        with ExitStack() as stack:
            packers = {}
            for videos, questions in dataset.splits:
                shards = videos.parent / "shards"
                files = {path.name for path in build.missing if path.parent == videos}
                packer = IncrementalPacker(
                    videos, questions, shards, config.video, config.pack, files
                )
                packers[videos] = stack.enter_context(packer)
            for video in build.rendered():
                if video.frames is not None:
                    packers[video.path.parent].add(video.path.name, video.frames)
    build.finish()
    for videos, questions in dataset.splits:
        pack(videos, questions, videos.parent / "shards", config.video, config.pack)
    return dataset
