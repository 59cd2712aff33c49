"""Lower limits of the time to read a video: FFmpeg's decoder alone, on packets in memory.

Each CPU has one decoder with one thread, as in this project, and takes the next GOP when it is
idle. Nothing is converted. The limit is the CPU time over the number of CPUs, as if all of them
were busy all the time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from lit_hour.media import selective_decoding
from lit_hour.media.packet_filter import PacketFilter
from lit_hour.media.selective_decoding import VideoPacket, num_available_cpus
from lit_hour.media.video_probe import open_video, probe

# name: which packets are decoded, FFmpeg's skip_frame, whether PIL resizes as many images
LIMITS = {
    "decoder alone, all packets": ("all", "DEFAULT", False),
    "decoder alone, skip_frame NONREF": ("all", "NONREF", False),
    "decoder alone, needed packets": ("needed", "DEFAULT", False),
    "decoder and PIL's resize, needed packets": ("needed", "DEFAULT", True),
}
EXACT_LIMITS = [name for name, (kind, _, _) in LIMITS.items() if kind == "needed"]


@dataclass
class Gop:
    """Packets that can be decoded without others, and the number of wanted frames in them."""

    packets: list[VideoPacket] = field(default_factory=list)
    num_wanted: int = 0


def needed_gops(path: Path, timestamps: list[float]) -> Iterator[Gop]:
    """Yield the packets that this project decodes."""
    info, packet_filter, gop = probe(path), PacketFilter[VideoPacket](timestamps), Gop()
    with open_video(path) as (container, stream):
        packets = selective_decoding._needed_packets(
            info, container, stream, packet_filter, keyframes_only=False
        )
        for batch in selective_decoding._batch_packets(packets, packet_filter):
            gop.packets += batch.packets
            gop.num_wanted += len(batch.wanted_pts)
            if batch.ends_gop:
                yield gop
                gop = Gop()


def all_gops(path: Path, end_seconds: float) -> Iterator[Gop]:
    """Yield all packets that are decoded before a time."""
    gop = Gop()
    with open_video(path) as (container, stream):
        for packet in container.demux(stream):
            if packet.dts is None or packet.dts * (stream.time_base or 0) > end_seconds:
                break
            if packet.is_keyframe and gop.packets:
                yield gop
                gop = Gop()
            gop.packets.append(packet)
    yield gop


def decoder_seconds(path: Path, timestamps: list[float], name: str, size_pixels: int) -> float:
    """Return the CPU seconds per CPU of one of `LIMITS`; to be called in a new process."""
    kind, skip_frame, resizes = LIMITS[name]
    gops = list(
        needed_gops(path, timestamps) if kind == "needed" else all_gops(path, timestamps[-1])
    )
    info, queue = probe(path), iter(gops)  # next() of a list's iterator is atomic
    image = Image.effect_noise((info.width, info.height), 50).convert("RGB")

    def decode() -> None:
        with open_video(path) as (_, stream):
            context = stream.codec_context
            context.thread_type, context.thread_count = "FRAME", 1
            context.skip_frame = skip_frame
            for gop in queue:
                for packet in [*gop.packets, None]:
                    context.decode(packet)
                context.flush_buffers()
                for _ in range(gop.num_wanted if resizes else 0):
                    image.resize((size_pixels, size_pixels), Image.Resampling.BICUBIC)

    num_cpus = num_available_cpus()
    with ThreadPoolExecutor(num_cpus) as threads:
        started = time.process_time()
        for future in [threads.submit(decode) for _ in range(num_cpus)]:
            future.result()
        return (time.process_time() - started) / num_cpus
