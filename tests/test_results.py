"""The committed results: every run says where it comes from, and the page is what the runs say."""

import csv
import json
import runpy
from pathlib import Path

import pytest

from snntorch_bpsta.training import VARIANTS, Recipe
from snntorch_bpsta.training.studies import grid, tabulate

RESULTS = Path(__file__).parent.parent / "results"
FILES = sorted(RESULTS.glob("*.json"))
STUDIED = sorted(path for path in RESULTS.glob("studies/*.json") if "runs" in json.loads(path.read_text()))

pytestmark = pytest.mark.skipif(not RESULTS.exists(), reason="results/ is not part of the sdist")


@pytest.mark.parametrize("path", FILES, ids=[path.name for path in FILES])
def test_every_run_says_where_it_comes_from(path):
    runs = json.loads(path.read_text())["runs"]
    assert len({(row["variant"], row["seed"]) for row in runs}) == len(runs) > 0
    for row in runs:
        recipe = Recipe(**row["recipe"])
        assert recipe == recipe.variant(row["variant"]) and row["variant"] in VARIANTS
        assert row["commit"] and row["command"].startswith("bpsta compare")
        assert {"snntorch_bpsta", "snntorch", "torch", "lightning", "python"} <= set(row["versions"]) and row["device"]
        assert [epoch["epoch"] for epoch in row["history"]] == list(range(recipe.epochs))
        assert row["accuracy"] == row["history"][-1]["test_accuracy"]


@pytest.mark.parametrize("path", STUDIED, ids=[path.stem for path in STUDIED])
def test_a_study_is_whole(path):
    """Every run of the grid that the first one belongs to, with five seeds; and the table is that of the runs."""
    runs = json.loads(path.read_text())["runs"]
    name, first = runs[0]["study"], Recipe(**runs[0]["recipe"])
    seeds = sorted({row["seed"] for row in runs})
    wanted = grid(name, first, seeds)
    assert len(seeds) >= 5 and len(runs) == len(wanted)
    for row in runs:
        assert row["study"] == name and (row["setting"], row["variant"], row["seed"]) in wanted
        assert row["commit"] and "dirty" not in row["commit"] and row["command"].startswith(f"bpsta study {name}")
        assert [epoch["epoch"] for epoch in row["history"]] == list(range(row["recipe"]["epochs"]))
        assert row["accuracy"] == row["history"][-1]["test_accuracy"]
    with open(path.with_suffix(".csv"), newline="") as file:
        written = list(csv.DictReader(file))
    table = tabulate(runs)
    assert [float(line["accuracy"]) for line in written] == [line["accuracy"] for line in table]
    assert [line["firing_rate"] for line in written] == [str(line["firing_rate"] or "") for line in table]
    assert path.with_suffix(".png").is_file()


def test_the_page_is_what_the_runs_say():
    assert (RESULTS / "README.md").read_text() == runpy.run_path(str(RESULTS / "summary.py"))["text"]()
