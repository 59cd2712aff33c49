"""Find out which video files a run was trained on, by their content: `TrainingVideos`.

The shard indexes of `lit-hour pack` have the SHA-256 of each file. A file is read only if one of
the training files has its size. A video that was encoded anew is another file and is not found.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lit_hour.config.data import SourceConfig
from lit_hour.config.load import load_config
from lit_hour.config.schema import Config
from lit_hour.data.external.tar_files import names_tars
from lit_hour.data.shards.shard_index import SHARD_PATTERN, read_index
from lit_hour.errors import ConfigError, ShardError
from lit_hour.io.hashing import hash_path
from lit_hour.io.urls import is_url
from lit_hour.run_dir import RunDir

MISSING_FOLDER = "the folder is not there"


@dataclass(frozen=True)
class TrainingVideos:
    """The files of a run's training sources.

    Attributes:
        digests: SHA-256 of packed files.
        num_bytes: sizes of packed files.
        unpacked: size -> files that the run reads without packing.
        unknown: setting -> why the files of this source cannot be compared.
    """

    digests: frozenset[str]
    num_bytes: frozenset[int]
    unpacked: Mapping[int, tuple[Path, ...]]
    unknown: Mapping[str, str]

    @classmethod
    def of_run(cls, config: Config) -> TrainingVideos:
        """Read what the sources of a run record about their files.

        Args:
            config: settings with which the run was trained.
        """
        digests: dict[str, int] = {}
        unpacked: dict[int, tuple[Path, ...]] = {}
        unknown: dict[str, str] = {}
        for prefix, run_config in _iter_stages(config, unknown):
            for name, source in sorted(run_config.data.sources.items()):
                if source.weight == 0:
                    continue
                setting = f"{prefix}data.sources.{name}.shards={source.shards}"
                if (
                    is_url(source.shards)
                    or source.kind == "webdataset"
                    or names_tars(source.shards)
                ):
                    unknown[setting] = "its index has no digests of files"
                elif source.kind == "files" or (source.kind == "auto" and source.questions):
                    if not Path(source.shards).is_dir():
                        unknown[setting] = MISSING_FOLDER
                    for file in _list_files(Path(source.shards)):
                        size = file.stat().st_size
                        unpacked[size] = (*unpacked.get(size, ()), file)
                else:
                    found, reason = _packed_digests(source)
                    digests |= found
                    if reason:
                        unknown[setting] = reason
        return cls(frozenset(digests), frozenset(digests.values()), unpacked, unknown)

    def find(self, files: Iterable[Path]) -> set[Path]:
        """Return the files, out of the given ones, that the run was trained on."""
        return {file for file in files if self._contains(file)}

    def _contains(self, file: Path) -> bool:
        size = file.stat().st_size
        candidates = self.unpacked.get(size, ())
        if size not in self.num_bytes and not candidates:
            return False
        digest = hash_path(file)
        return digest in self.digests or any(
            file.samefile(other) or hash_path(other) == digest for other in candidates
        )


def _iter_stages(config: Config, unknown: dict[str, str]) -> Iterator[tuple[str, Config]]:
    """Iterate over the settings of a run and of the earlier runs behind its weights.

    Args:
        config: settings of the last run.
        unknown: filled with the reason if the settings of an earlier one are not known.
    """
    prefix, seen = "", {""}
    yield prefix, config
    while config.training.init_from not in seen:
        folder = config.training.init_from
        seen.add(folder)
        try:
            config = load_config(base=RunDir(Path(folder)).config)
        except ConfigError:
            unknown[f"training.init_from={folder}"] = "it has no settings of a run"
            return
        prefix = f"{folder}: "
        yield prefix, config


def _list_files(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.rglob("*")) if file.is_file()]


def _packed_digests(source: SourceConfig) -> tuple[dict[str, int], str]:
    """Return the size of each packed file by its SHA-256, and why some are missing."""
    paths = sorted(Path(source.shards).glob(SHARD_PATTERN + ".json"))
    if not paths:
        return {}, MISSING_FOLDER
    digests: dict[str, int] = {}
    num_without = 0
    for path in paths:
        try:
            stamps = read_index(path).files
        except ShardError as error:
            return digests, str(error)
        digests |= {stamp.sha256: stamp.num_bytes for stamp in stamps.values()}
        num_without += not stamps
    reason = f"{num_without} of {len(paths)} shards have no digests of their files"
    return digests, reason if num_without else ""
