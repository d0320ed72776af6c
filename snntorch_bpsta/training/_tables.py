"""Tables for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
