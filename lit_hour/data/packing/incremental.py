"""Pack shards while their videos are still being made. `IncrementalPacker` is the entry point."""

from __future__ import annotations

from collections.abc import Iterator, Set
from contextlib import AbstractContextManager
from pathlib import Path

from lit_hour.config.schema import PackConfig, VideoConfig
from lit_hour.data.packing.decode_worker import DecodeRequest, EncodedImage, SampleSummary
from lit_hour.data.packing.pack import make_output_dir
from lit_hour.data.packing.shard_plan import group_samples, plan_shard
from lit_hour.data.packing.shard_writer import PackState, write_shard
from lit_hour.io.atomic import remove_temp_files
from lit_hour.io.file_lock import dir_lock
from lit_hour.media.jpeg_frames import JpegFrames


class IncrementalPacker(AbstractContextManager["IncrementalPacker"]):
    """Writes a shard as soon as the frames of all its videos are known.

    The shards equal those of `pack`, which has to run afterwards: it checks and counts the shards,
    and writes those that are missing. Shards that exist are never replaced. The folder of the
    shards is locked inside the context.
    """

    def __init__(
        self,
        folder: Path,
        questions: Path,
        out: Path,
        video: VideoConfig,
        config: PackConfig,
        files: Set[str] | None = None,
    ) -> None:
        """Group the samples of a question file.

        Args:
            folder: this and the following arguments are those of `pack`.
            questions: the question file.
            out: folder of the shards.
            video: how videos are read.
            config: how they are packed.
            files: names of the videos that will be added, if these are not all of the folder.

        Raises:
            QuestionError: the question file is invalid.
            ShardError: `out` cannot be created.
        """
        self._folder, self._out, self._video, self._config = folder, out, video, config
        self._groups, _ = group_samples(questions, config)
        self._missing = [
            {file for sample in samples for file in sample.files} for samples in self._groups
        ]
        self._number_of_file = {
            file: number for number, files in enumerate(self._missing) for file in files
        }
        self._frames: dict[str, JpegFrames] = {}
        if files is not None:  # frames of other shards would only be kept in memory
            self._number_of_file = {
                file: number
                for file, number in self._number_of_file.items()
                if self._missing[number] <= files
            }
        make_output_dir(out)
        self._lock = dir_lock(out)

    def __enter__(self) -> IncrementalPacker:
        self._lock.acquire()
        remove_temp_files(self._out)  # of a killed run
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def add(self, file: str, frames: JpegFrames) -> None:
        """Take the frames of a finished video, and write its shard if it was the last one of it.

        Args:
            file: its name in the folder.
            frames: as `read_jpeg_frames` gives them for the settings of this packer.

        Raises:
            ShardError: the shard cannot be written.
        """
        number = self._number_of_file.get(file)
        if number is None:
            return
        self._frames[file] = frames
        self._missing[number].discard(file)
        if not self._missing[number]:
            self._write(number)

    def _write(self, number: int) -> None:
        samples = self._groups[number]
        plan = plan_shard(
            self._folder, self._out, number, samples, self._video, self._config, stamps={}
        )
        if not plan.tar.exists() and not plan.index.exists():
            state = PackState(num_done=0, num_skipped=0, max_skipped=0)
            write_shard(plan, state, self._read)
        for sample in samples:
            for file in sample.files:
                self._frames.pop(file, None)

    def _read(self, request: DecodeRequest) -> Iterator[EncodedImage | SampleSummary]:
        frames = self._frames[request.sample.files[0]]
        for image in frames.images:
            yield EncodedImage("jpg", image)
        yield SampleSummary(frames.duration_seconds, tuple(frames.timestamps_seconds))
