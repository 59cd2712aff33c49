"""What the published dataset would cost: python -m tests.benchmarks.dataset_cost [--help]

28,000 durations from 3 to 60 minutes are drawn, 9,700 hours in all. `month_plan` says what annotate asks about a video of a
duration, `month_time` what becomes of the requests in time. What is measured and what is assumed is printed with the numbers.
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
    Plans,
    Work,
    tokens_of_frame,
)
from tests.benchmarks.dataset_cost.simulation import DEAD_HOURS, Speed, hours_of

NUM_VIDEOS, NUM_HOURS = 28_000, 9_700
SHORTEST_MINUTES, LONGEST_MINUTES = 3.0, 60.0
CLUSTERS = (
    (1, 1),
    (8, 1),
    (64, 1),
    (64, 8),
)  # servers, and how many of them each process is told of
PATIENT = 100  # videomarathon.client.max_retries that outlast a server that is dead for an hour


def draw_minutes(seed: int = 0) -> list[float]:
    """Many short videos and few long ones: a beta distribution with the published mean, then scaled to the published sum."""
    mean = (60 * NUM_HOURS / NUM_VIDEOS - SHORTEST_MINUTES) / (LONGEST_MINUTES - SHORTEST_MINUTES)
    random = Random(seed)
    shares = [random.betavariate(1.0, 1 / mean - 1) for _ in range(NUM_VIDEOS)]
    scale = mean * NUM_VIDEOS / sum(shares)
    return [
        SHORTEST_MINUTES + (LONGEST_MINUTES - SHORTEST_MINUTES) * min(1.0, share * scale)
        for share in shares
    ]


def main(speed: Speed, height: int, width: int, most_videos: int) -> None:
    """Measure, count, simulate, and print it all."""
    settings = VideoMarathonConfig()
    frame_tokens = tokens_of_frame(height, width)
    plans_of, minutes = Plans(settings, frame_tokens), draw_minutes()
    plans = [plans_of.of(each) for each in minutes]
    print(
        f"{len(minutes):,} videos of {min(minutes):.1f} to {max(minutes):.1f} minutes, {sum(minutes) / 60:,.0f} hours;"
        f" measured at {', '.join(f'{each:g}' for each in MEASURED_MINUTES)} minutes;"
        f" {frame_tokens} tokens for a frame of {width} x {height} pixels"
    )
    print(
        "assumed: "
        + ", ".join(f"{each.name}={getattr(speed, each.name):g}" for each in fields(speed))
    )
    report_forms(plans)
    journal, others = sum(plans_of.bytes_on_disk(each) for each in minutes) / 1e9
    print(f"on disk: {journal:.1f} GB of journals, {others:.1f} GB of annotations and pages\n")
    print(
        f"{'servers':>8}{'of a process':>14}{'days':>8}{'hours of a server':>19}{'in flight':>11}{'simulated':>11}  failures"
    )
    for num_servers, num_of_process in CLUSTERS:
        report_cluster(
            plans,
            num_servers,
            num_of_process,
            replace_serving(settings, num_of_process),
            speed,
            most_videos,
        )


def replace_serving(settings: VideoMarathonConfig, num_servers: int) -> VideoMarathonConfig:
    """Settings of a process that is told of so many servers, and waits for them longer than one is dead."""
    serving = settings.client
    requests, videos = (
        serving.max_concurrent_requests * num_servers,
        serving.max_concurrent_videos * num_servers,
    )
    reading = serving.max_concurrent_reads * num_servers
    serving = replace(
        serving,
        max_concurrent_requests=requests,
        max_concurrent_videos=videos,
        max_concurrent_reads=reading,
        max_retries=PATIENT,
    )
    return replace(settings, client=serving)


def report_forms(plans: list[dict[str, Work]]) -> None:
    """Requests and tokens of each form, and of all."""
    columns = ("requests", "prompt tokens", "read before", "answer tokens")
    print(f"{'':>14}" + "".join(f"{column:>17}" for column in columns))
    rows = {
        form: np.array(
            [
                plan[form].num_requests
                * np.array(
                    [1, plan[form].prompt_tokens, plan[form].known_tokens, plan[form].answer_tokens]
                )
                for plan in plans
            ]
        ).sum(axis=0)
        for form in REQUEST_KINDS
    }
    for form, row in {**rows, "all": sum(rows.values())}.items():
        print(f"{form:>14}" + "".join(f"{number:17,.0f}" for number in row))


def report_cluster(
    plans: list[dict[str, Work]],
    num_servers: int,
    num_of_process: int,
    settings: VideoMarathonConfig,
    speed: Speed,
    most_videos: int,
) -> None:
    """Simulate the process whose share is the longest; of a long share only the first videos, which stand for the rest."""
    num_shares = num_servers // num_of_process
    shares = [
        [plans[index] for index in Share(number, num_shares).select(range(len(plans)))]
        for number in range(1, num_shares + 1)
    ]
    longest = max(shares, key=answer_tokens)
    chosen, started = longest[: most_videos * num_of_process], time.monotonic()
    hours, in_flight, failures = hours_of(chosen, num_of_process, settings, speed)
    lost_hours = (
        DEAD_HOURS[1] - DEAD_HOURS[0]
    ) / num_of_process  # once, however long the rest takes
    hours = (hours - lost_hours) * answer_tokens(longest) / answer_tokens(chosen) + lost_hours
    print(
        f"{num_servers:>8}{num_of_process:>14}{hours / 24:>8.2f}{hours:>19.1f}{in_flight / num_of_process:>11.1f}"
        f"{len(chosen) / len(longest):>11.0%}  {failures} ({time.monotonic() - started:.0f} s)",
        flush=True,
    )


def answer_tokens(plans: list[dict[str, Work]]) -> float:
    return sum(work.num_requests * work.answer_tokens for plan in plans for work in plan.values())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    for each in fields(Speed):
        parser.add_argument(
            f"--{each.name.replace('_', '-')}",
            type=float,
            default=each.default,
            help="of one server",
        )
    parser.add_argument("--height", type=int, default=216, help="of a frame, as it is sent")
    parser.add_argument("--width", type=int, default=384, help="of a frame, as it is sent")
    parser.add_argument(
        "--most-videos", type=int, default=1000, help="that are simulated for each server"
    )
    given = vars(parser.parse_args())
    main(
        Speed(**{each.name: given[each.name] for each in fields(Speed)}),
        given["height"],
        given["width"],
        given["most_videos"],
    )
