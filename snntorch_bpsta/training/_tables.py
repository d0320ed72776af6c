"""Tables for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


def markdown(head: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """A Markdown table with its columns in line, which also reads well in a terminal; `head` and `cells` are texts."""
    widths = [max(len(line[i]) for line in [head, *cells]) for i in range(len(head))]

    def line(values):
        return "| " + " | ".join(value.ljust(width) for value, width in zip(values, widths, strict=True)) + " |"

    return "\n".join([line(head), "|" + "|".join("-" * (width + 2) for width in widths) + "|", *map(line, cells)])


def number(value: float | None, spec: str) -> str:
    """`value` in the format `spec`, or "-" for None."""
    return "-" if value is None else format(value, spec)


def print_result(row: Any) -> None:
    """A run, as the command line shows it."""
    for name, found in row.get("also_test", {}).items():
        print(f"{name}: test accuracy {100 * found['accuracy']:.2f} % of {found['samples']}")
    print(f"test accuracy {100 * row['accuracy']:.2f} %", end="")
    if row["firing_rate"] is None:
        print()
        return
    print(f", firing rate {row['firing_rate']:.4f} spikes per neuron and step")
    for place, (layer, rate) in enumerate(row["firing_rates"].items(), 1):
        print(f"  LIF {place:<3} {rate:.4f}  (layer {layer})")
    silent = [layer for layer, rate in row["firing_rates"].items() if not rate]
    if silent:
        print(
            f"layers without a spike: {', '.join(silent)}. Under spatial_adj (Eq. 9) nothing in front of them learns: "
            "--warm-up surrogate, --readout current or --spatial-leak 0.1 help"
        )
