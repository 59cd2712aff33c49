"""Cost of annotating a data set of the published size: `python -m tests.benchmarks.dataset_cost`.

Draws 28,000 durations from 3 to 60 minutes, 9,700 hours in all. `request_counts` measures the
requests about a video of some duration, and `simulation` the time that they take. Assumptions are
printed with the results; `--help` lists their options.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import fields, replace
from random import Random

import numpy as np

from lit_hour.config.videomarathon import VideoMarathonConfig
from lit_hour.videomarathon.annotate import Share
from lit_hour.videomarathon.teacher import REQUEST_KINDS
from tests.benchmarks.dataset_cost.request_counts import (
    MEASURED_MINUTES,
    Workload,
    WorkloadTable,
    tokens_per_frame,
)
from tests.benchmarks.dataset_cost.simulation import DOWN_HOURS, Rates, simulate_process

NUM_VIDEOS, NUM_HOURS = 28_000, 9_700
SHORTEST_MINUTES, LONGEST_MINUTES = 3.0, 60.0
CLUSTERS = ((1, 1), (8, 1), (64, 1), (64, 8))  # servers, and how many of them a process uses
PATIENT_RETRIES = 100  # outlasts a server that is down for an hour

VideoWorkload = dict[str, Workload]


def draw_minutes(seed: int = 0) -> list[float]:
    """Draw durations from a beta distribution of the published mean, scaled to the published sum.

    Many videos are short and few are long.
    """
    mean = (60 * NUM_HOURS / NUM_VIDEOS - SHORTEST_MINUTES) / (LONGEST_MINUTES - SHORTEST_MINUTES)
    random = Random(seed)
    shares = [random.betavariate(1.0, 1 / mean - 1) for _ in range(NUM_VIDEOS)]
    scale = mean * NUM_VIDEOS / sum(shares)
    return [
        SHORTEST_MINUTES + (LONGEST_MINUTES - SHORTEST_MINUTES) * min(1.0, share * scale)
        for share in shares
    ]


def main(rates: Rates, height: int, width: int, max_videos: int) -> None:
    """Measure, simulate, and print the results."""
    config = VideoMarathonConfig()
    frame_tokens = tokens_per_frame(height, width)
    table, durations = WorkloadTable(config, frame_tokens), draw_minutes()
    workloads = [table.at(minutes) for minutes in durations]
    print(
        f"{len(durations):,} videos of {min(durations):.1f} to {max(durations):.1f} minutes,"
        f" {sum(durations) / 60:,.0f} hours; measured at"
        f" {', '.join(f'{minutes:g}' for minutes in MEASURED_MINUTES)} minutes;"
        f" {frame_tokens} tokens per frame of {width} x {height} pixels"
    )
    assumptions = (f"{item.name}={getattr(rates, item.name):g}" for item in fields(rates))
    print(f"assumed: {', '.join(assumptions)}")
    print_requests(workloads)
    responses, others = (
        np.sum([table.bytes_on_disk(minutes) for minutes in durations], axis=0) / 1e9
    )
    print(f"on disk: {responses:.1f} GB of responses, {others:.1f} GB of annotations and pages\n")
    print(
        f"{'servers':>8}{'per process':>14}{'days':>8}{'hours per server':>19}{'in flight':>11}"
        f"{'simulated':>11}  failures"
    )
    for num_servers, servers_per_process in CLUSTERS:
        process_config = scale_config(config, servers_per_process)
        print_cluster(
            workloads, num_servers, servers_per_process, process_config, rates, max_videos
        )


def scale_config(config: VideoMarathonConfig, num_servers: int) -> VideoMarathonConfig:
    """Scale the concurrency to the number of servers, and allow retries through an outage."""
    client = config.client
    scaled = replace(
        client,
        max_concurrent_requests=client.max_concurrent_requests * num_servers,
        max_concurrent_videos=client.max_concurrent_videos * num_servers,
        max_concurrent_reads=client.max_concurrent_reads * num_servers,
        max_retries=PATIENT_RETRIES,
    )
    return replace(config, client=scaled)


def print_requests(workloads: list[VideoWorkload]) -> None:
    """Print requests and tokens per kind, and in all."""
    columns = ("requests", "prompt tokens", "cached tokens", "answer tokens")
    print(f"{'':>14}" + "".join(f"{column:>17}" for column in columns))
    rows = {
        kind: np.sum([count_tokens(workload[kind]) for workload in workloads], axis=0)
        for kind in REQUEST_KINDS
    }
    rows["all"] = np.sum(list(rows.values()), axis=0)
    for kind, row in rows.items():
        print(f"{kind:>14}" + "".join(f"{number:17,.0f}" for number in row))


def count_tokens(workload: Workload) -> np.ndarray:
    """Return requests, prompt tokens, cached tokens and answer tokens in all, `(4,)`."""
    per_request = [1, workload.prompt_tokens, workload.cached_tokens, workload.answer_tokens]
    return workload.num_requests * np.array(per_request)


def print_cluster(
    workloads: list[VideoWorkload],
    num_servers: int,
    servers_per_process: int,
    config: VideoMarathonConfig,
    rates: Rates,
    max_videos: int,
) -> None:
    """Simulate the process with the largest share of the videos, and print a row.

    Of a large share only the first videos are simulated, and the time is extrapolated.
    """
    num_shares = num_servers // servers_per_process
    shares = [
        [workloads[index] for index in Share(number, num_shares).select(range(len(workloads)))]
        for number in range(1, num_shares + 1)
    ]
    largest = max(shares, key=answer_tokens)
    simulated, started = largest[: max_videos * servers_per_process], time.monotonic()
    hours, in_flight, failures = simulate_process(simulated, servers_per_process, config, rates)
    outage = (DOWN_HOURS[1] - DOWN_HOURS[0]) / servers_per_process  # happens once per process
    hours = (hours - outage) * answer_tokens(largest) / answer_tokens(simulated) + outage
    print(
        f"{num_servers:>8}{servers_per_process:>14}{hours / 24:>8.2f}{hours:>19.1f}"
        f"{in_flight / servers_per_process:>11.1f}{len(simulated) / len(largest):>11.0%}"
        f"  {failures} ({time.monotonic() - started:.0f} s)",
        flush=True,
    )


def answer_tokens(workloads: list[VideoWorkload]) -> float:
    """Return the answer tokens of all requests."""
    return sum(
        item.num_requests * item.answer_tokens
        for workload in workloads
        for item in workload.values()
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    for rate in fields(Rates):
        option = f"--{rate.name.replace('_', '-')}"
        parser.add_argument(option, type=float, default=rate.default, help="of one server")
    parser.add_argument("--height", type=int, default=216, help="of a frame, as it is sent")
    parser.add_argument("--width", type=int, default=384, help="of a frame, as it is sent")
    parser.add_argument(
        "--max-videos", type=int, default=1000, help="videos that are simulated per server"
    )
    arguments = vars(parser.parse_args())
    given_rates = Rates(**{rate.name: arguments[rate.name] for rate in fields(Rates)})
    main(given_rates, arguments["height"], arguments["width"], arguments["max_videos"])
