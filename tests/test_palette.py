"""One palette: the colours of all figures stand in one table."""

import re
from itertools import combinations
from pathlib import Path

import pytest

from snntorch_bpsta import _palette
from snntorch_bpsta.training.recipes import VARIANTS

ROOT = Path(__file__).resolve().parent.parent
TABLE = Path(_palette.__file__)
KINDS = {".py", ".js", ".css", ".md"}
SOURCES = [
    path
    for folder in ("snntorch_bpsta", "docs", "benchmarks", "examples", "results", "tests")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in KINDS and "_build" not in path.parts and path.resolve() != TABLE.resolve()
]
COLOUR = re.compile(
    r"(?i)(?<![\w/&(])#(?:[0-9a-f]{6}|[0-9a-f]{3})\b|(?:c|colou?rs?)=f?[\"']C[\d{]|\btab:\w+|\brgb\(\s*\d"
)


@pytest.mark.parametrize("text", ['"#1f77b4"', ": #abc;", "color='C0'", 'c=f"C{i}"', '"tab:blue"', "rgb(1, 2, 3)"])
def test_a_colour_is_found(text):
    assert COLOUR.search(text)


def test_no_colour_stands_anywhere_else():
    assert len(SOURCES) > 50
    own = Path(__file__).resolve()
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in SOURCES
        if path.resolve() != own
        for match in COLOUR.finditer(path.read_text(encoding="utf-8"))
    ]
    assert found == []


def luminance(colour):
    """As WCAG has it."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("name", sorted(_palette.COLOURS))
def test_a_colour_stands_out_on_white_and_on_black(name):
    light = luminance(_palette.COLOURS[name])
    assert (light + 0.05) / 0.057 >= 3  # the dark page of the docs
    assert name == "orange" or 1.05 / (light + 0.05) >= 3


def test_variants_have_colours_of_their_own():
    assert set(_palette.VARIANTS) <= set(VARIANTS)
    assert all(one != other for one, other in combinations(_palette.VARIANTS.values(), 2))
    assert _palette.colour("bpsa", 3) == _palette.VARIANTS["bpsa"]
    names = [_palette.colour("of my own", position) for position in range(len(_palette.COLOURS))]
    assert len(set(names)) == len(names) == len(_palette.COLOURS)
