"""The text of a plan."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lit_hour.plan.estimate import GIB, USABLE_MEMORY, Estimate
from lit_hour.plan.model_sizes import missing_sources, num_tokens
from lit_hour.plan.planning import Plan

PARTS = {
    "vision": "vision encoder",
    "projector": "projector",
    "memaug": "MemAug",
    "llm": "language model",
}
MIB = 2**20
NOTHING_LEFT = (
    "No other setting is tried. Plan for a smaller video.max_frames or text.max_tokens (--frames,"
    " --text-tokens)."
)
Row = Sequence[str]


def format_plan(plan: Plan) -> str:
    """Return the tables of a plan."""
    estimate = plan.estimate
    sections = [
        _headline(plan),
        _parameters(estimate),
        _memory(plan),
        _verdict(plan),
        _operations(estimate),
        _time(estimate),
    ]
    return "\n\n".join(sections)


def _headline(plan: Plan) -> str:
    estimate = plan.estimate
    config, cluster = estimate.config, estimate.cluster
    training = config.training
    num_samples = estimate.num_samples * estimate.num_micro_batches * cluster.num_ranks
    checkpointing = "on" if training.activation_checkpointing else "off"
    lines = [
        f"{config.run.name} on {cluster.describe()}: training.strategy={training.strategy},"
        f" training.precision={training.precision}, activation checkpointing {checkpointing}",
        f"a step: {num_samples} samples, of a rank {estimate.num_micro_batches} x"
        f" {estimate.num_samples}",
        f"the longest sample: {plan.sample.describe(config)}",
    ]
    lines += [
        f"{name} is not here: the sizes are the settings', the vocabulary has {num_tokens(config)}"
        " tokens"
        for name in missing_sources(config)
    ]
    if training.cpu_offload:
        lines.append("weights, gradients and optimizer state are in CPU memory, and not in peaks")
    if training.compile:
        lines.append("training.compile is not planned; it fuses operations and needs less memory")
    return "\n".join(lines)


def _parameters(estimate: Estimate) -> str:
    numbers = estimate.trace.num_parameters
    rows = [
        (PARTS[part], f"{count / 1e6:,.2f} M", f"{trained / 1e6:,.2f} M")
        for part, (count, trained) in numbers.items()
    ]
    total, trained = (sum(pair[index] for pair in numbers.values()) for index in range(2))
    rows.append(("all", f"{total / 1e6:,.2f} M", f"{trained / 1e6:,.2f} M"))
    return table(("parameters", "all", "trained"), rows)


def _memory(plan: Plan) -> str:
    trace, switched = plan.estimate.trace, plan.switched.trace
    is_on = plan.estimate.config.training.activation_checkpointing
    other = "without" if is_on else "with"
    held = [
        ("weights", trace.weights, switched.weights),
        ("optimizer state", trace.optimizer_state, switched.optimizer_state),
        ("gradients", trace.gradients, switched.gradients),
        ("data of a micro-batch", trace.data, switched.data),
        ("activations kept", trace.activations, switched.activations),
        ("  memory repository", trace.repository, switched.repository),
        ("  logits and loss", trace.logits, switched.logits),
    ]
    peaks = [
        (
            phase + (f" ({peak.moment})" if peak.moment else ""),
            peak.total_bytes,
            switched.peaks[phase].total_bytes,
        )
        for phase, peak in trace.peaks.items()
    ]
    name, size = memory_unit(plan)

    def format_row(label: str, *values: int) -> Row:
        return (label, *(f"{value / size:,.2f}" for value in values))

    header = ("as configured", f"{other} checkpointing")
    kinds = sorted(trace.peak.by_kind, key=lambda kind: -trace.peak.by_kind[kind])
    at_peak = [
        format_row(kind, trace.peak.by_kind[kind], switched.peak.by_kind.get(kind, 0))
        for kind in kinds
        if trace.peak.by_kind[kind]
    ]
    return "\n".join(
        [
            table((f"memory of a rank, {name}", *header), [format_row(*row) for row in held]),
            "",
            table((f"largest memory of a phase, {name}", *header), [format_row(*p) for p in peaks]),
            "",
            table((f"at the largest, in the {trace.peak_phase}, {name}", *header), at_peak),
            f"in CPU memory, of the data workers of a rank: up to {plan.estimate.arena_gib:.1f} GiB"
            " of decoded frames",
        ]
    )


def _verdict(plan: Plan) -> str:
    estimate = plan.estimate
    usable = USABLE_MEMORY * estimate.cluster.memory_gib
    limit = (
        f"{usable:.1f} GiB, {USABLE_MEMORY:.0%} of {estimate.cluster.memory_gib:g} GiB"
        f" ({estimate.cluster.gpu_name})"
    )
    if estimate.fits:
        return f"It fits: {estimate.peak_gib:.2f} of {limit}."
    lines = [f"It does not fit: {estimate.peak_gib:.2f} of {limit}."]
    if not plan.remedies:
        return f"{lines[0]} {NOTHING_LEFT}"
    rows = [
        (
            ("+ " if index else "") + remedy.change.name,
            f"{remedy.estimate.peak_gib:.2f}",
            f"{remedy.estimate.step_seconds / estimate.step_seconds:.2f}",
            "yes" if remedy.estimate.fits else "no",
            remedy.change.cost,
        )
        for index, remedy in enumerate(plan.remedies)
    ]
    lines.append(table(("change", "peak, GiB", "time of a step", "fits", "cost"), rows))
    if not plan.remedies[-1].estimate.fits:
        lines.append(NOTHING_LEFT)
    return "\n".join(lines)


def _operations(estimate: Estimate) -> str:
    flops, count = estimate.trace.flops, estimate.num_micro_batches
    total = max(1, sum(flops.values()))
    rows = [
        (part, f"{number * count / 1e12:,.4g}", f"{number / total:.1%}")
        for part, number in flops.items()
    ]
    rows.append(("all, recomputed ones included", f"{total * count / 1e12:,.4g}", "100.0%"))
    return table(("operations of a rank in a step", "TFLOP", "share"), rows)


def _time(estimate: Estimate) -> str:
    cluster, precision = estimate.cluster, estimate.config.training.precision
    rate = cluster.flops_per_second(precision) / 1e12
    rows = [
        (
            f"computation, {cluster.mfu:.0%} of {rate:,.0f} TFLOP/s (--mfu)",
            f"{estimate.compute_seconds:.3g} s",
        )
    ]
    for link, num_bytes in estimate.sent_bytes.items():
        speed = cluster.gb_per_second(link)
        where = "in a machine" if link == "link" else "between machines"
        rows.append(
            (
                f"communication {where}, {num_bytes / GIB:,.2f} GiB at {speed:g} GB/s (--{link})",
                f"{num_bytes / 1e9 / speed:.3g} s",
            )
        )
    rows += [
        ("a step, if they overlap", f"{estimate.step_seconds:.3g} s"),
        (
            "questions in a day, if every sample is the longest",
            f"{estimate.questions_per_day:,.0f}",
        ),
    ]
    return table(("time", ""), rows)


def memory_unit(plan: Plan) -> tuple[str, int]:
    """Return GiB, or MiB for a small model, and the bytes of it."""
    return ("GiB", GIB) if plan.estimate.trace.peak.total_bytes >= GIB else ("MiB", MIB)


def table(header: Row, rows: Iterable[Row]) -> str:
    """Format a table: the first column is aligned on the left, the others on the right."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 or header[column] == "cost" else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
