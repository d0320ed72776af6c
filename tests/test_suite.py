"""The tools of the tests."""

import itertools
import re
from pathlib import Path

import planted
import pytest
from _pairwise import pairwise
from _slow import SLOW, is_slow

GRIDS = {
    "one option": ({"a": (1, 2, 3)}, None),
    "switches": (dict.fromkeys("abcdefgh", (False, True)), None),
    "uneven": ({"kind": "uvwxyz", "reset": "123", "on": (False, True), "beta": (0.0, 0.5, 1.0, 2.0)}, None),
    "constrained": (
        {"kind": "uvwxyz", "reset": "123", "on": (False, True), "beta": (0.0, 0.5, 1.0, 2.0)},
        lambda row: (row["kind"] == "u" or row["reset"] != "3") and not (row["on"] and row["beta"] == 2.0),
    ),
}


@pytest.mark.parametrize("grid", GRIDS)
def test_every_pair_of_values_that_may_meet_meets(grid):
    options, allowed = GRIDS[grid]
    allowed = allowed or (lambda row: True)
    rows = pairwise(allowed, **options)
    product = [dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())]
    assert all(row in product and allowed(row) for row in rows)
    for a, b in itertools.combinations(options, 2):
        wanted = {(row[a], row[b]) for row in product if allowed(row)}
        assert {(row[a], row[b]) for row in rows} == wanted
    for name, values in options.items():
        assert {row[name] for row in rows} == set(values)
    assert rows == pairwise(allowed, **options), "the same in every run"


def test_the_rows_are_close_to_the_fewest():
    """Nothing can have fewer than the product of the two longest options."""
    assert len(pairwise(kind="uvwxyz", reset="123", beta="abcd", on=(False, True))) <= 26  # 24 at least
    assert len(pairwise(**dict.fromkeys("abcdefgh", (False, True)))) <= 8  # 6 at least


@pytest.mark.parametrize("word", SLOW)
def test_what_is_slow_exists(word):
    file, _, test = word.partition("::")
    text = (Path(__file__).parent / f"{file}.py").read_text(encoding="utf-8")
    assert re.search(rf"^def {test.partition('[')[0] or 'test_'}", text, re.MULTILINE)
    assert is_slow(f"tests/{file}.py::{test or 'test_any'}")


def test_the_rest_is_not_slow():
    assert not is_slow("tests/test_suite.py::test_the_rest_is_not_slow") and not is_slow(
        "tests/test_docs.py::test_x[a]"
    )


@pytest.mark.parametrize("name", planted.FAULTS)
def test_every_planted_fault_has_a_place(name):
    fault = planted.FAULTS[name]
    assert planted.find(fault) and fault.old != fault.new and fault.tests
    assert all((Path(__file__).parent / f"test_{test}.py").is_file() for test in fault.tests.split())


def test_a_planted_fault_without_a_place_is_an_error():
    fault = planted.FAULTS["spatial"]
    for old in ("a text that stands nowhere", "return"):
        with pytest.raises(ValueError, match="once in surrogate"):
            planted.find(fault._replace(old=old))


def test_every_room_has_a_planted_fault():
    """Every module of the package, and every folder of it at any depth."""
    package = planted.ROOT / planted.PACKAGE
    places = {planted.find(fault).relative_to(package) for fault in planted.FAULTS.values()}
    without = {path.name for path in package.glob("*.py")} - {place.name for place in places if len(place.parts) == 1}
    assert without == {"__init__.py", "__main__.py", "_typing.py", "_version.py"}, "nothing is computed in these"
    folders = {path.parent.relative_to(package) for path in package.rglob("*.py")}
    assert folders == {place.parent for place in places}
