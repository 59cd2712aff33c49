"""Format many weight names for a message, equal layers in one line: `group_layers`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping


def group_layers(remarks: Mapping[str, str]) -> Iterator[str]:
    """Yield names with their remarks, equal layers in one line: `layers.{0-25}.norm.weight`."""
    layers_of: dict[tuple[str, str, str], list[int]] = {}
    for name, remark in remarks.items():
        prefix, layer, suffix = _split_at_layer(name)
        layers_of.setdefault((prefix, suffix, remark), []).extend([] if layer is None else [layer])
    for (prefix, suffix, remark), layers in layers_of.items():
        yield f"{prefix}{_format_ranges(sorted(layers))}{suffix}{remark}"


def _split_at_layer(name: str) -> tuple[str, int | None, str]:
    """Split `a.3.b.c` at its layer number into `a.`, 3 and `.b.c`."""
    parts = name.split(".")
    for index in range(1, len(parts) - 1):
        if parts[index].isdecimal():
            before, after = parts[:index], parts[index + 1 :]
            return ".".join(before) + ".", int(parts[index]), "." + ".".join(after)
    return name, None, ""


def _format_ranges(numbers: list[int]) -> str:
    """Format sorted numbers: `3` for one, `{0-2,5}` for several, nothing for none."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    text = ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
    return f"{{{text}}}" if len(numbers) > 1 else text
