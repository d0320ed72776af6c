"""The committed results: every run says where it comes from, and the page is what the runs say."""

import json
import runpy
from pathlib import Path

import pytest

from snntorch_bpsta.training import VARIANTS, Recipe

RESULTS = Path(__file__).parent.parent / "results"
FILES = sorted(RESULTS.glob("*.json"))

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


def test_the_page_is_what_the_runs_say():
    assert (RESULTS / "README.md").read_text() == runpy.run_path(str(RESULTS / "summary.py"))["text"]()
