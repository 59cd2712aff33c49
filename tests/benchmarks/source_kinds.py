"""Processor time of reading a video in training: from its file, a tar of videos, frames, features.

    python -m tests.benchmarks.source_kinds VIDEO [MINUTES] [ROUNDS]

The video is repeated to the given length, without encoding it again. Frames are one per second at
384 pixels; features are stand-ins of so400m's size (64 tokens of 1,152 numbers per frame, bf16).
Kinds alternate in rounds, and the best round counts. Processor time counts all threads.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import torch

from lit_hour.config.load import load_config
from lit_hour.config.schema import Config
from lit_hour.data.datasets import load_visual
from lit_hour.data.features.format import FeatureMetadata, encode_tokens, feature_config
from lit_hour.data.features.source import FrameChunkDataset, FrameShardSource
from lit_hour.data.features.writer import FeatureWriter
from lit_hour.data.packing.pack import pack
from lit_hour.data.shards.reader import Shards
from lit_hour.data.sources import open_sources
from lit_hour.media.video_probe import probe
from lit_hour.types import Features, Frames
from tests.data.external.tars import write_shards
from tests.data.factories import write_records

RECORD = {"question": "What?", "answer": "It."}
TOKENS, DIM = 64, 1152


def repeat(video: Path, target: Path, minutes: float) -> None:
    """Write the packets of a video again and again, with rising times."""
    with av.open(str(video)) as source, av.open(str(target), "w") as out:
        stream = source.streams.video[0]
        copy = out.add_stream_from_template(stream)
        length = stream.duration or 0
        num_repeats = max(1, round(minutes * 60 / float(length * stream.time_base)))
        for number in range(num_repeats):
            source.seek(0)
            for packet in source.demux(stream):
                if packet.dts is None:
                    continue
                packet.dts, packet.pts = packet.dts + number * length, packet.pts + number * length
                packet.stream = copy
                out.mux(packet)


def write_features(frames: Path, out: Path, config: Config) -> None:
    """Write features of the right size for packed frames."""
    metadata = FeatureMetadata("bf16", TOKENS, DIM, feature_config(config), "a" * 64)
    source = FrameShardSource(str(frames), config)
    writer = FeatureWriter(out, source, metadata, 0)
    writer.open()
    for chunk in FrameChunkDataset(source, writer.missing_videos()):
        if chunk.metadata:
            tokens = torch.rand(chunk.num_frames, TOKENS, DIM)  # (frames, tokens, vision_dim)
            writer.save(chunk.ref, encode_tokens(tokens, "bf16"), chunk.metadata)
    writer.write_shard(0)
    writer.write_totals()


def best_seconds(readers: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Return the lowest processor time of each reader."""
    best = dict.fromkeys(readers, float("inf"))
    for _ in range(rounds):
        for name, read in readers.items():
            started = time.process_time()
            read()
            best[name] = min(best[name], time.process_time() - started)
    return best


def reader(shards: Shards, config: Config) -> Callable[[], None]:
    """Return a function that reads and decodes the first sample of a source."""

    def read() -> None:
        visual = load_visual(shards.read(shards.entries[0]), config.video, config.image)
        assert isinstance(visual, Frames | Features)
        (visual.images if isinstance(visual, Frames) else visual.tokens).sum()  # touches each page

    return read


def main(video: Path, minutes: float, rounds: int) -> None:
    """Measure, and print a table."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "videos").mkdir()
        repeat(video, folder / "videos/a.mp4", minutes)
        content = (folder / "videos/a.mp4").read_bytes()
        questions = write_records(folder / "questions.json", [{"video": "a.mp4", **RECORD}])
        config = load_config(None, [f"data.cache_folder={folder}/cache"])
        pack(folder / "videos", questions, folder / "frames", config.video, config.pack)
        write_features(folder / "frames", folder / "features", config)
        locations = {
            "file": [f"shards={folder}/videos", f"questions={questions}"],
            "tar of videos": [
                f"shards={write_shards(folder / 'tars', [('a', content, RECORD)], 1)}"
            ],
            "packed frames": [f"shards={folder}/frames"],
            "features": [f"shards={folder}/features"],
        }
        readers = {}
        for number, (kind, settings) in enumerate(locations.items()):
            named = [f"data.sources.s{number}.{setting}" for setting in settings]
            opened = load_config(None, [*named, f"data.cache_folder={folder}/cache"])
            readers[kind] = reader(open_sources(opened)[f"s{number}"], opened)
        sizes = {
            "file": len(content),
            "tar of videos": len(content),
            "packed frames": (folder / "frames/000000.tar").stat().st_size,
            "features": (folder / "features/000000.tar").stat().st_size,
        }
        seconds = probe(folder / "videos/a.mp4").duration_seconds
        print(f"{video.name}, {seconds / 60:.1f} minutes")
        for kind, best in best_seconds(readers, rounds).items():
            print(f"{kind}: {best:.3f} processor s, {sizes[kind] / 1e6:.1f} MB")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), float((sys.argv[2:] or ["3"])[0]), int((sys.argv[3:] or ["5"])[0]))
