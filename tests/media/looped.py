"""An hour-long real video in a second: the packets of a clip, copied again and again with later times."""

from pathlib import Path

import av


def loop_video(source: Path, target: Path, duration_seconds: float) -> None:
    """Repeat the video stream of `source` in `target`, without re-encoding, until it lasts about `duration_seconds`.

    The last round stops at the first packet, in decoding order, that lies past the end: no frame misses one that it is
    predicted from. Decoding times are made anew, because some mkv files have none. Not for AV1, which PyAV cannot copy.
    """
    with av.open(str(source)) as clip, av.open(str(target), "w") as looped:
        stream = clip.streams.video[0]
        copy = looped.add_stream_from_template(stream)
        packets = [packet for packet in clip.demux(stream) if packet.pts is not None]
        time_base = packets[0].time_base
        first = min(packet.pts for packet in packets)
        shown = [packet.pts - first for packet in packets]
        durations = [packet.duration for packet in packets]
        length = max(pts + duration for pts, duration in zip(shown, durations, strict=True))
        delay = max(in_order - pts for in_order, pts in zip(sorted(shown), shown, strict=True))
        start, end = 0, round(duration_seconds / time_base)
        while start < end:
            for packet, pts, in_order, duration in zip(
                packets, shown, sorted(shown), durations, strict=True
            ):
                if start + pts >= end:
                    break
                packet.pts, packet.dts = start + pts, start + in_order - delay
                packet.duration, packet.time_base, packet.stream = (
                    duration,
                    time_base,
                    copy,
                )  # muxing rescaled them
                looped.mux(packet)
            start += length
