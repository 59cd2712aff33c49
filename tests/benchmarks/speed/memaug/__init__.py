"""Target 3: MemAug and the repository at the shapes of the 3B model, against the plain formula.

Both run forward and backward, with gradients of all weights. On a GPU an hour and more of video is
measured at the full shapes in bf16. On a CPU the real widths are measured in float32 with one layer
(four for the memory) and fewer frames, and the growth of time with length at a small width. First
both are checked to be equal.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import accumulate
from multiprocessing import get_context
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from tests.benchmarks.speed.harness.outcome import Goal, Outcome
from tests.benchmarks.speed.memaug.reference import (
    Implementation,
    Shape,
    Work,
    build,
    check_equal,
    forward_backward,
    mixed,
    ours,
    plain,
)

TARGET = 3
TIME, MEMORY, LINEAR = Goal("at most", 0.6), Goal("at most", 0.5), Goal("at most", 1.1)
PLAIN = "the plain formula, heads repeated for torch's scaled_dot_product_attention"
GROUPED = "the plain formula with enable_gqa=True"
MIXED, PLAIN_MIXED = "bf16-mixed", "the plain formula in bf16-mixed"
HOUR = Shape(num_frames=3600, num_layers=4)
SHORT = Shape(320, 1, query_frames=46)  # the proportions of an hour, fast enough for two cores
SMALL = Shape(60, 1, query_frames=51, dim=128, num_heads=1, num_key_value_heads=1, vision_dim=64)
CPU_LENGTHS = (60, 360, 3600)  # a tenth of ten minutes, of an hour and of ten hours
NUM_ROUNDS, NUM_TEXTS = 3, 5


def measure() -> Iterator[Outcome]:
    """Measure time, memory, several texts about one video, and growth with the length."""
    check_equal()
    shape = HOUR if torch.cuda.is_available() else SHORT
    yield from time_rows(shape)
    yield from memory_rows(replace(shape, num_layers=4))
    yield from _attention(shape)
    yield from _texts(replace(shape, num_frames=shape.num_frames // 2, num_layers=1))
    yield from _growth()
    if not torch.cuda.is_available():
        yield Outcome(
            TARGET,
            f"forward and backward, {HOUR}, bf16 on a GPU",
            "s",
            why="needs a GPU with about 40 GB of memory; the same code then measures it there",
        )


def time_rows(shape: Shape) -> Iterator[Outcome]:
    """Measure forward and backward against the plain formulas and the rate of products."""
    work = build(shape)
    implementations = {"ours": ours, PLAIN: plain, GROUPED: partial(plain, grouped=True)}
    if not torch.cuda.is_available():  # a GPU computes in bf16 anyway
        implementations |= {MIXED: partial(mixed, ours), PLAIN_MIXED: partial(mixed, plain)}
    seconds = time_alternately(work, implementations)
    limit = _operations(work) / _matrix_rate(work)
    what, unit = f"MemAug and repository, forward and backward, {shape}", _unit()
    rate_name = "its products at the rate of a large product"
    yield Outcome(
        TARGET,
        what,
        unit,
        seconds["ours"],
        seconds[PLAIN],
        PLAIN,
        limit,
        rate_name,
        TIME,
        "Keys and values come straight from the projector's hidden layer and the heads of a group"
        " share one product; what is left are matrix products that exact arithmetic needs: at their"
        f" full rate they alone take {limit / seconds[PLAIN]:.2f} of the plain formula's time.",
    )
    yield Outcome(TARGET, what, unit, seconds["ours"], seconds[GROUPED], GROUPED, limit, rate_name)
    roofline = f"roofline: only the products of these, at the rate of a large product, {shape}"
    yield Outcome(TARGET, roofline, unit, limit, seconds[PLAIN], PLAIN)
    if MIXED in seconds:
        for peer in (PLAIN, PLAIN_MIXED):
            yield Outcome(TARGET, f"{what}, {MIXED}", unit, seconds[MIXED], seconds[peer], peer)


def memory_rows(shape: Shape) -> Iterator[Outcome]:
    """Measure the peak memory of forward and backward against the plain formula."""
    peak, plain_peak = (peak_megabytes(shape, implementation) for implementation in (ours, plain))
    print("peak memory, ours and the plain formula:", peak, plain_peak)
    for name, goal in (("allocated", MEMORY), ("resident", None)):
        if name in peak:
            what = f"peak memory beside weights, gradients and inputs, {name}; {shape}"
            why = (
                "what is left is the hidden layer with its gradient, keys and values, and the"
                " activations of the queries' own layers"
            )
            yield Outcome(
                TARGET, what, "MB", peak[name], plain_peak[name], PLAIN, goal=goal, why=why
            )


def _attention(shape: Shape) -> Iterator[Outcome]:
    """Measure the cross-attention alone, which takes most of the time of an hour."""
    like = build(replace(shape, num_layers=1, num_frames=8)).features
    head_dim = shape.dim // shape.num_heads
    num_queries = 17 * min(shape.query_frames, shape.num_frames // 4)
    num_memory = 65 * shape.num_frames
    query_size = (shape.num_heads, num_queries)
    memory_size = (shape.num_key_value_heads, num_memory)
    query, key, value = (
        like.new_empty(1, *size, head_dim).normal_().requires_grad_()
        for size in (query_size, memory_size, memory_size)
    )
    group = shape.num_heads // shape.num_key_value_heads

    def side_by_side() -> None:
        # (1, key_value_heads, group * query, head_dim)
        rows = query.unflatten(1, (-1, group)).flatten(2, 3)
        F.scaled_dot_product_attention(rows, key, value).sum().backward()

    def repeated() -> None:
        # (1, heads, memory, head_dim)
        keys, values = (heads.repeat_interleave(group, dim=1) for heads in (key, value))
        F.scaled_dot_product_attention(query, keys, values).sum().backward()

    rounds = [(seconds_of(side_by_side), seconds_of(repeated)) for _ in range(NUM_ROUNDS)]
    side_by_side_seconds, repeated_seconds = (min(seconds) for seconds in zip(*rounds, strict=True))
    what = f"cross-attention alone, {num_queries:,} queries and {num_memory:,} memory tokens"
    yield Outcome(TARGET, what, _unit(), side_by_side_seconds, repeated_seconds, "heads repeated")


def _texts(shape: Shape) -> Iterator[Outcome]:
    work = build(shape, NUM_TEXTS)
    seconds = time_alternately(work, {"ours": ours, PLAIN: plain})
    what = f"{NUM_TEXTS} texts about one video in one step, {shape}"
    yield Outcome(
        TARGET, what, _unit(), seconds["ours"], seconds[PLAIN], f"{PLAIN}, once for each text"
    )


def _growth() -> Iterator[Outcome]:
    """Measure the growth with length, for a fixed number of queries and for the model's number."""
    lengths, shape = (
        ((600, 3600, 36_000), HOUR) if torch.cuda.is_available() else (CPU_LENGTHS, SMALL)
    )
    listed = ", ".join(f"{length:,}" for length in lengths)
    named = f"width {shape.dim:,}, {shape.num_layers} layers, {listed} frames"
    short, middle, long = _seconds_of_lengths(replace(shape, query_frames=lengths[0] // 4), lengths)
    yield Outcome(
        TARGET,
        f"each further 1,000 frames, the queries fixed; {named}",
        _unit(),
        (long - middle) / (lengths[2] - lengths[1]) * 1e3,
        (middle - short) / (lengths[1] - lengths[0]) * 1e3,
        "each of the first thousands",
        goal=LINEAR,
        why="The arithmetic is proportional to the frames. The hidden layer of the projector, which"
        " is computed again for a long video, is not the cause: without that the growth is the"
        " same. Presumably larger tensors exceed the caches",
    )
    short, middle, long = (
        seconds / length * 1e3
        for seconds, length in zip(_seconds_of_lengths(shape, lengths), lengths, strict=True)
    )
    bound = f"queries of a quarter of the frames, {shape.query_frames} at most"
    yield Outcome(
        TARGET,
        f"1,000 frames of the longest, {bound}; {named}",
        _unit(),
        long,
        middle,
        "1,000 frames of the middle one",
        goal=LINEAR,
        why="Both lengths have as many queries, so the arithmetic is proportional; larger tensors"
        " exceed the caches.",
    )
    what = f"1,000 frames of the middle one, {bound}; {named}"
    yield Outcome(
        TARGET,
        what,
        _unit(),
        middle,
        short,
        "1,000 frames of the shortest, which has fewer queries",
    )


def _seconds_of_lengths(shape: Shape, lengths: tuple[int, ...]) -> list[float]:
    """Return the time of each length, the best of several rounds."""
    best = [float("inf")] * len(lengths)
    for _ in range(NUM_ROUNDS):
        for index, num_frames in enumerate(lengths):
            work = build(replace(shape, num_frames=num_frames))
            best[index] = min(best[index], seconds_of(partial(forward_backward, work, ours)))
            del work
    print(
        f"growth, {shape.query_frames} frames of queries at most:",
        dict(zip(lengths, best, strict=True)),
    )
    return best


def _operations(work: Work) -> float:
    """Return the operations of forward and backward in the folded form.

    Nothing is recomputed but the scores in the backward pass of the attention, which are too large
    to be kept.
    """
    shape, dim = work.shape, work.shape.dim
    num_kept = 17 * min(shape.query_frames, shape.num_frames // 4)
    rows = num_kept + len(work.texts[0])  # of the query; the last layer has `num_kept`
    all_rows = (shape.num_layers - 1) * rows + num_kept
    patches = shape.num_frames * shape.grid**2
    keys_and_values = 2 * dim // shape.num_heads * shape.num_key_value_heads
    num_products = 2 + 5  # forward and backward
    attentions = 2 * num_products * all_rows * (patches + shape.num_frames + rows) * dim
    linear = 6 * all_rows * 12 * dim * dim
    # of the query and of the memory; fused weights included
    linear += 6 * shape.num_layers * (rows + patches + dim) * dim * keys_and_values
    return 4 * patches * shape.vision_dim * dim + 6 * num_kept * dim**2 + attentions + linear


def _matrix_rate(work: Work) -> float:
    """Return the operations per second of a large matrix product."""
    side, weight = 2048, work.features
    matrix = weight.new_empty(side, side).normal_()
    return 2 * side**3 / min(seconds_of(lambda: matrix @ matrix) for _ in range(5 * NUM_ROUNDS))


def _unit() -> str:
    return "s" if torch.cuda.is_available() else "core seconds"


def seconds_of(run: Callable[[], object]) -> float:
    """Return the time on a GPU, or the CPU time of all threads, which other work hardly affects."""
    if not torch.cuda.is_available():
        started = time.process_time()
        run()
        return time.process_time() - started
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3


def time_alternately(work: Work, implementations: dict[str, Implementation]) -> dict[str, float]:
    """Return the best time of each implementation, measured in alternating rounds."""
    best = dict.fromkeys(implementations, float("inf"))
    for number in range(1, NUM_ROUNDS + 1):
        for name, implementation in implementations.items():
            best[name] = min(
                best[name], seconds_of(partial(forward_backward, work, implementation))
            )
        print(
            f"{work.shape}, {len(work.texts)} texts, round {number}:",
            {name: round(seconds, 2) for name, seconds in best.items()},
        )
    return best


def peak_megabytes(shape: Shape, implementation: Implementation) -> dict[str, float]:
    """Return the peak memory of forward and backward besides weights, gradients and inputs.

    On a CPU it is measured in a new process. "allocated" is the size of the tensors, as torch
    counts it on a GPU; "resident" is the memory of the process, with the gaps of the allocator.
    """
    if torch.cuda.is_available():
        work = build(shape)
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        forward_backward(work, implementation)
        return {"allocated": (torch.cuda.max_memory_allocated() - before) / 1e6}
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(_peak_of_process, shape, implementation).result()


def _peak_of_process(shape: Shape, implementation: Implementation) -> dict[str, float]:
    forward_backward(
        build(replace(shape, num_frames=8)), implementation
    )  # loads code and starts threads
    work = build(shape)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = _status_kilobytes("VmRSS")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        forward_backward(work, implementation)
    resident = (_status_kilobytes("VmHWM") - before) / 1e3
    # The public list of events does not have the sizes.
    events = sorted(trace.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    # Sizes are negative where memory is freed.
    sizes = [event.nbytes() for event in events if event.name() == "[memory]"]
    return {"allocated": max(accumulate(sizes)) / 1e6, "resident": resident}


def _status_kilobytes(name: str) -> int:
    (line,) = (
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith(f"{name}:")
    )
    return int(line.split()[1])
