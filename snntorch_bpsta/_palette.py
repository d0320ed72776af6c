"""The colours of every figure: of plots.py, of the benchmarks, of the pictures in the docs and of their live page.

Each has a contrast of 3 and more on white and on the dark page of the docs, but for orange on white, which marks
spikes beside something else that says so.
"""

from __future__ import annotations

__all__: list[str] = []

COLOURS = {
    "grey": "#7a7a7a",
    "blue": "#1f77b4",
    "red": "#d62728",
    "green": "#2ca02c",
    "violet": "#9467bd",
    "orange": "#e0a458",
    "pink": "#cf4f9c",
}
TEXT = {"light": "#1b1f24", "dark": "#d8d8d8"}  # of pictures that stand on a light and on a dark page

VARIANTS = {
    "baseline": COLOURS["grey"],
    "bpsa": COLOURS["blue"],
    "bpsa+bpta": COLOURS["red"],
    "bpta": COLOURS["green"],
    "bpsa-hidden": COLOURS["violet"],
    "bpsa+leak": COLOURS["orange"],
    "atan": COLOURS["pink"],
}
POLARITIES = {"OFF": COLOURS["blue"], "ON": COLOURS["red"]}


def colour(variant: str, position: int = 0) -> str:
    """That of a variant; of another name, the colour at its position."""
    return VARIANTS.get(variant) or [*COLOURS.values()][(position + 1) % len(COLOURS)]
