"""The committed results: every run says where it comes from, and the page is what the runs say."""

import csv
import json
import runpy
from pathlib import Path
from xml.etree import ElementTree

import pytest

from snntorch_bpsta.training import Recipe
from snntorch_bpsta.training.studies import grid, tabulate

RESULTS = Path(__file__).parent.parent / "results"
FOLDERS = sorted(path.parent for path in RESULTS.glob("*/runs.json"))
IDS = [folder.name for folder in FOLDERS]
SINGLE = ("gradients", "simulator")  # one seed each
THREE = ("compare", "pareto", "silent")

pytestmark = pytest.mark.skipif(not RESULTS.exists(), reason="results/ is not part of the sdist")


def read(folder):
    return json.loads((folder / "runs.json").read_text())["runs"]


def test_the_studies_were_found():
    assert {"ablation-nmnist", "compare-digits-spikes-none", "gradients-digits", "simulator-nmnist"} <= set(IDS)
    assert {path.name for path in RESULTS.iterdir() if path.is_dir()} <= {*IDS, "cuda", "figures", "__pycache__"}


@pytest.mark.parametrize("folder", FOLDERS, ids=IDS)
def test_a_study_is_whole(folder):
    """Every run of the grid that the first one belongs to, each with its origin. Beyond the seeds that every study has
    there may be more of some of its rows."""
    runs = read(folder)
    name, recipe = runs[0]["study"], runs[0]["recipe"] and Recipe(**runs[0]["recipe"])
    seeds = sorted({row["seed"] for row in runs})
    wanted = grid(
        name, recipe, seeds, *(list(dict.fromkeys(row[key] for row in runs)) for key in ("variant", "setting"))
    )
    once = name in SINGLE or folder.name.endswith("-validation")  # where something was chosen, not tested
    least = 1 if once else 3 if name in THREE or folder.name.startswith("alpha-nmnist") else 5
    found = [(row["setting"], row["variant"], row["seed"]) for row in runs]
    assert len(seeds) >= least and len(set(found)) == len(found) and set(found) <= set(wanted)
    assert {key for key in wanted if key[-1] in seeds[:least]} <= set(found)
    assert folder.name.startswith(f"{name}-")
    for row in runs:
        assert row["study"] == name and (wanted[row["setting"], row["variant"], row["seed"]] is None) == (
            not row["recipe"]
        )
        if row["recipe"] and name != "alpha":
            assert Recipe(**row["recipe"]) == Recipe(**row["recipe"]).variant(row["variant"])
        assert row["commit"] and row["command"].startswith(f"bpsta {'' if name == 'compare' else 'study '}{name}")
        assert name == "compare" or "dirty" not in row["commit"]
        assert {"snntorch_bpsta", "snntorch", "torch", "lightning", "python"} <= set(row["versions"]) and row["device"]
        if "accuracy" in row and row["recipe"]:
            assert [epoch["epoch"] for epoch in row["history"]] == list(range(row["recipe"]["epochs"]))
            assert row["accuracy"] == row["history"][-1]["test_accuracy"]
    assert (folder / "figure.png").is_file()


@pytest.mark.parametrize("folder", FOLDERS, ids=IDS)
def test_the_table_is_that_of_the_runs(folder):
    with open(folder / "table.csv", newline="") as file:
        written = {(line["setting"], line["variant"]): line for line in csv.DictReader(file)}
    table = tabulate(read(folder))
    assert len(written) == len(table) > 0
    for line in table:
        own = written[line["setting"], line["variant"]]
        # the order of runs that ended side by side is not that of the table: nothing differs but what is held against them
        for key in own.keys() - {"difference", "p"}:
            assert own[key] == ("" if line[key] is None else str(line[key])), key


def test_the_pages_are_what_the_runs_say():
    pages = runpy.run_path(str(RESULTS / "summary.py"))["pages"]()
    assert len(pages) == 2
    for name, text in pages.items():
        assert (RESULTS / name).read_text() == text, name


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", ["claims", "spikes", "credit", "alpha", "silence"])
def test_a_figure_shows_the_runs(name, theme):
    pytest.importorskip("matplotlib")
    figures = runpy.run_path(str(RESULTS / "figures.py"))["FIGURES"]
    path = RESULTS / "figures" / f"{name}-{theme}.svg"
    (about,) = ElementTree.parse(path).iter("{http://purl.org/dc/elements/1.1/}description")
    data = json.loads(json.dumps(figures[name]()[1]))
    assert json.loads(about.text) == data and len(data) > 1
    assert f"figures/{name}-{theme}.svg" in (RESULTS / "README.md").read_text()
    assert set(figures) == {path.name.partition("-")[0] for path in (RESULTS / "figures").iterdir()}


def test_accuracies_at_equal_operations():
    """Between the penalties on a line over the logarithm; beyond them nothing."""

    def row(variant, seed, setting, accumulates, accuracy):
        operations = {"first": {"ac": 7e9}, "second": {"ac": accumulates}}
        return {"variant": variant, "seed": seed, "setting": setting, "operations": operations, "accuracy": accuracy}

    rows = [row("baseline", seed, f"penalty {k}", 10.0 ** (6 - k), 0.9) for seed in (0, 1) for k in (0, 1)]
    rows += [row("bpsa", seed, f"penalty {k}", 10.0 ** (5.5 - k), 0.8 + 0.02 * seed) for seed in (0, 1) for k in (0, 1)]
    rows += [row("silent", 0, f"penalty {k}", 10.0 ** (3 - k), 0.5) for k in (0, 1)]
    text = runpy.run_path(RESULTS / "summary.py")["_at_equal_operations"](rows)
    assert "At 0.10 million" in text and "| 90.00" in text and "| 80.00" in text and "| 82.00" in text
    assert "-9.00" in text and "not reached" in text
