"""Studies: the grids, the paired tests, the files; and the paper's tables as recipes."""

import csv
import json
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
import snntorch
import torch

import snntorch_bpsta as snn

pytest.importorskip("lightning", reason="lightning (extra: train) is missing")
from snntorch_bpsta.cli import main  # noqa: E402
from snntorch_bpsta.training import RECIPES, VARIANTS, Recipe, rate_cross_entropy_loss  # noqa: E402
from snntorch_bpsta.training.paper import beside, full_size, paper_rows  # noqa: E402
from snntorch_bpsta.training.studies import STUDIES, RunsFailed, format_study, grid, quick, run_all, study, tabulate  # noqa: E402
from snntorch_bpsta.training.studies.claims import used  # noqa: E402
from snntorch_bpsta.training.studies.table import paired_p  # noqa: E402
from snntorch_bpsta.training.studies.workers import Failure  # noqa: E402

RECIPE = quick(RECIPES["digits"])
TRAINED = [name for name, each in STUDIES.items() if "recipe" in each.uses and not each.together]
TABLES = Path(__file__).resolve().parents[2] / "shared" / "paper" / "tables.json"


def row(setting, variant, seed, accuracy, rate=0.2, name="warm_up", **others):
    return {
        "study": name, "setting": setting, "variant": variant, "seed": seed, "accuracy": accuracy, "firing_rate": rate,
        "firing_rates": {"0.4": rate or 0.0}, "energy_ratio": 5.0,
        "energy_ratio_counted": 3.0, "energy_ratio_counted_fp32_ac": 0.5,
        "history": [{"test_accuracy": accuracy + 0.01, "warm_up": None}, {"test_accuracy": accuracy, "warm_up": None}],
        **others,
    }  # fmt: skip


# --- the grids -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRAINED)
def test_a_setting_changes_what_it_says_and_a_variant_what_it_says(name):
    runs = grid(name, RECIPE, [0, 3])
    assert len(set(runs)) == len(runs) and {seed for *_, seed in runs} == {0, 3}
    assert STUDIES[name].claim.endswith((".", ")"))
    recipes = {key[:2]: recipe for key, recipe in runs.items()}
    if name != "alpha" and "artificial" not in STUDIES[name].settings:
        assert set(recipes) == {(setting, v) for setting in STUDIES[name].settings for v in STUDIES[name].variants}
    assert len(set(recipes.values())) == len(recipes), "no two are the same run"
    for (setting, variant), recipe in recipes.items():
        assert recipe.spatial_adj == VARIANTS[variant]["spatial_adj"]
        if name != "alpha":
            assert recipe.temporal_alpha == VARIANTS[variant]["temporal_alpha"]
        changed = {f.name for f in fields(Recipe) if getattr(recipe, f.name) != getattr(RECIPE, f.name)}
        changed -= set(VARIANTS["baseline"])
        assert len(changed) <= (3 if name in ("readout", "silent") else 2), (setting, changed)


def test_settings_and_variants_can_be_chosen():
    chosen = grid("alpha", RECIPE, [4], ["bpta"], ("alpha = -0.5", "alpha = 0"))
    assert set(chosen) == {("alpha = 0", "bpta", 4), ("alpha = -0.5", "bpta", 4)}
    assert {recipe.temporal_alpha for recipe in chosen.values()} == {0, -0.5}


def test_a_penalty_is_on_what_its_setting_says():
    recipe = replace(RECIPE, rate_penalty=2.0, penalty_on="accumulates")
    found = {key[0]: (own.rate_penalty, own.penalty_on) for key, own in grid("pareto", recipe, [0]).items()}
    assert found["penalty 0"] == (0, "neurons") and found["penalty 3"] == (3, "neurons")
    assert found["on accumulates 0.3"] == (0.3, "accumulates") and len(found) == 9
    assert {"rate_penalty", "penalty_on"}.isdisjoint(used("pareto", RECIPE))


def test_settings_by_name():
    assert {recipe.num_steps for recipe in grid("latency", RECIPE, [0]).values()} == {4, 8, 16, 32}
    alphas = {key[0]: recipe.temporal_alpha for key, recipe in grid("alpha", RECIPE, [0]).items()}
    assert alphas == {f"alpha = {alpha:g}": alpha for alpha in (0, 0.2, 0.5, 0.8, 1, -0.2, -0.5)}
    warm_ups = {
        key[0]: (r.warm_up, r.warm_up_epochs) for key, r in grid("warm_up", replace(RECIPE, epochs=30), [0]).items()
    }
    assert warm_ups == {"none": ("none", 0), "identity": ("identity", 6), "surrogate": ("surrogate", 6)}
    artificial = [r for key, r in grid("energy", RECIPE, [0]).items() if key[0] == "artificial"]
    assert len(artificial) == 1 and artificial[0].warm_up_epochs == artificial[0].epochs
    assert set(STUDIES["ablation"].variants) == set(VARIANTS) - {"bpsa-hidden", "bpsa+leak", "atan"}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("speed", RECIPE, [0]), ValueError, "name must be one of 'compare', 'ablation'"),
        (("alpha", RECIPE, [0], ["baseline"]), ValueError, "variants must be one of 'bpsa', 'bpta'; got 'baseline'"),
        (("alpha", RECIPE, [0], None, ["alpha = 2"]), ValueError, "settings must be one of 'alpha = 0', 'alpha = 0.2'"),
        (("alpha", RECIPE, [0], None, "alpha = 1"), TypeError, "settings must be names of settings, got str"),
        (("alpha", RECIPE, [0], "bpsa"), TypeError, "variants must be names of variants, got str"),
        (("alpha", "digits", [0]), TypeError, "recipe must be a Recipe, got str"),
        (("alpha", RECIPE, 3), TypeError, "seeds must be a list, tuple or range of integers, got int"),
        (("simulator", RECIPE, [0]), ValueError, "recipe must be None for the study 'simulator'"),
        (("alpha", RECIPE, [-1]), ValueError, "seeds must be an integer >= 0"),
    ],
)
def test_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        grid(*arguments)


# --- tables --------------------------------------------------------------------------------------------------


def test_a_paired_test_by_hand():
    """t = mean / (s / sqrt(n)) of 1, 2, 3: 2 * sqrt(3); with 2 degrees of freedom p = 1 - t / sqrt(2 + t^2)."""
    t = 2 * 3**0.5
    assert paired_p([1.0, 2.0, 3.0]) == pytest.approx(1 - t / (2 + t * t) ** 0.5)
    assert paired_p([1.0]) is None and paired_p([2.0, 2.0]) is None and paired_p([]) is None


def test_differences_are_with_the_same_seeds():
    rows = [row("none", "baseline", s, a) for s, a in ((0, 0.5), (1, 0.6), (2, 0.7))]
    rows += [row("none", "bpsa", s, a, 0.1) for s, a in ((2, 0.73), (0, 0.51), (7, 0.0))]
    rows += [row("identity", "baseline", 0, 0.9), row("identity", "bpsa", 0, 0.8, None)]
    table = tabulate(rows)
    assert [(line["setting"], line["variant"], line["seeds"]) for line in table] == [
        ("none", "baseline", 3), ("none", "bpsa", 3), ("identity", "baseline", 1), ("identity", "bpsa", 1),
    ]  # fmt: skip
    assert table[0]["accuracy"] == pytest.approx(60) and table[0]["accuracy_std"] == pytest.approx(10)
    assert table[0]["accuracy_best_epoch"] == pytest.approx(61)
    rows[0]["history"].insert(0, {"test_accuracy": 1.0, "warm_up": "identity"})  # not an epoch of a spiking network
    assert tabulate(rows)[0]["accuracy_best_epoch"] == pytest.approx(61)
    assert table[0]["difference"] is None is table[0]["p"]
    assert table[1]["difference"] == pytest.approx(2.0) and table[1]["p"] == pytest.approx(paired_p([3.0, 1.0]))
    assert table[3]["difference"] == pytest.approx(-10) and table[3]["p"] is None and table[3]["firing_rate"] is None
    assert tabulate([]) == []
    text = format_study(table)
    assert len(text.splitlines()) == 6 and "+2.00" in text and "60.00 ± 10.00" in text and "-10.00" in text


def test_alpha_is_held_against_alpha_0():
    rows = [
        row(f"alpha = {a}", v, 0, x, name="alpha") for a, v, x in ((0, "bpsa", 0.5), (0, "bpta", 0.3), (1, "bpta", 0.4))
    ]
    assert [line["difference"] for line in tabulate(rows)] == [None, None, pytest.approx(10)]


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_is_markdown():
    rates = dict(energy_ratio_fp32_ac=2.0, train_seconds=10.0)
    rows = [row("", "bpsa", seed, 0.8 + seed / 10, 0.1 + seed / 10, **rates) for seed in range(3)]
    rows.append(row("", "baseline", 0, 0.1, 0.0, **rates | {"energy_ratio_fp32_ac": float("inf")}))
    head, rule, *lines = format_study(tabulate(rows)).split("\n")
    assert cells(head) == [
        "variant", "seeds", "accuracy %", "best epoch %", "difference", "firing rate", "EE (Eq. 11)", "EE (Eq. 11, 0.9 pJ)",
        "EE (counted, 0.1 pJ)", "EE (counted, 0.9 pJ)", "s per run",
    ], "no setting and no p: there is none"  # fmt: skip
    assert set(rule) == {"|", "-"} and len({len(line) for line in (head, rule, *lines)}) == 1, "columns stand in line"
    assert cells(lines[0]) == ["bpsa", "3", "90.00 ± 10.00", "91.00", "-", "0.200", "5.0", "2.0", "3.0", "0.50", "10"]
    assert cells(lines[1]) == ["baseline", "1", "10.00", "11.00", "-70.00", "0.000", "5.0", "inf", "3.0", "0.50", "10"]


def test_runs_without_a_firing_rate_are_left_out_of_its_mean():
    rows = [row("", "bpsa", 0, 0.9, None), row("", "bpsa", 1, 0.9, 0.2)]
    assert tabulate(rows)[0]["firing_rate"] == 0.2
    assert tabulate(rows[:1])[0]["firing_rate"] is None and "firing rate" not in format_study(tabulate(rows[:1]))


WRONG_ROWS = {
    "no-list": (3, TypeError, r"rows must be a list of rows"),
    "no-rows": ([1], TypeError, r"rows\[0\] must be a row"),
    "no-setting": ([{"study": "alpha"}], ValueError, r"rows\[0\] must have 'setting', got 'study'"),
    "accuracy-text": (
        [row("", "bpsa", 0, 0.5) | {"accuracy": "0.5"}],
        TypeError,
        r"'accuracy' of rows\[0\] must be of",
    ),
    "accuracy-percent": ([row("", "bpsa", 0, 50.0)], ValueError, r"accuracy must be from 0 to 1, got 50"),
    "rate-true": ([row("", "bpsa", 0, 0.5, True)], TypeError, "'firing_rate'"),
    "no-epochs": ([row("", "bpsa", 0, 0.5) | {"history": []}], ValueError, "history must hold an epoch"),
    "other-test": ([row("", "bpsa", 0, 0.5, also_test={"nmnist": 3})], TypeError, r"also_test of rows\[0\]"),
}


@pytest.mark.parametrize("name", WRONG_ROWS)
def test_rows_that_are_none_are_refused_by_the_column(name):
    rows, error, message = WRONG_ROWS[name]
    with pytest.raises(error, match=message):
        tabulate(rows)


def test_a_fault_of_our_own_is_not_called_the_users(monkeypatch):
    monkeypatch.setattr("snntorch_bpsta.training.studies.table.mean", lambda values: values.wrong)
    with pytest.raises(AttributeError, match="wrong"):
        tabulate([row("", "bpsa", 0, 0.5)])


# --- what a study uses ---------------------------------------------------------------------------------------


def test_what_every_setting_sets_is_of_no_use():
    own = {option.name for option in fields(Recipe)} - set(VARIANTS["baseline"])
    for name, unused in {
        "compare": set(), "latency": {"num_steps"}, "readout": {"readout", "warm_up", "warm_up_epochs"},
        "warm_up": {"warm_up", "warm_up_epochs"}, "causes": set(), "learning_rate": set(), "energy": set(),
    }.items():  # fmt: skip
        assert own - used(name, RECIPE) == unused, name
    assert "also_test" in used("alpha", RECIPE) and "also_test" not in used("gradients", RECIPE)
    assert used("simulator", None) == {"seeds", "jobs", "data_root"}


def test_a_field_that_settings_read_is_used(monkeypatch):
    from snntorch_bpsta.training.studies import Study

    halves = Study("(ours)", {"half": lambda r: {"lr": r.lr / 2}, "double": lambda r: {"lr": 2 * r.lr}})
    monkeypatch.setitem(STUDIES, "halves", halves)
    assert "lr" in used("halves", RECIPE)


UNUSED = {
    "latency": ["--num-steps", "4"],
    "warm_up": ["--warm-up", "none"],
    "readout": ["--readout", "current"],
    "gradients": ["--also-test", "digits"],
    "simulator": ["--epochs", "3"],
    "simulator-seeds": ["--dataset", "mnist"],
    "simulator-quick": ["--quick"],
    "credit": ["--epochs", "3"],
    "credit-data": ["--data-root", "."],
    "loop": ["--lr", "0.1"],
    "simulator-download": ["--download"],
    "simulator-accelerator": ["--accelerator", "cpu"],
    "simulator-also": ["--also-test", "nmnist"],
}


@pytest.mark.parametrize("case", UNUSED)
def test_an_option_of_no_use_is_refused_by_name(case, tmp_path, capsys):
    name, option = case.partition("-")[0], UNUSED[case][0]
    assert main(["study", name, *UNUSED[case], "--out", str(tmp_path / "out")]) == 2
    out, err = capsys.readouterr()
    assert f"{option} is of no use to the study {name!r}" in err and not out and not list(tmp_path.iterdir())


def test_an_option_of_no_use_is_refused_in_python(calls, tmp_path):
    with pytest.raises(ValueError, match="also_test is of no use to the study 'gradients'"):
        study("gradients", RECIPE, [0], tmp_path / "runs.json", also_test=("digits",))
    assert calls == []


# --- runs ----------------------------------------------------------------------------------------------------


class Here:
    """Stands in for the processes: does a task where it is."""

    def __init__(self, jobs, threads):
        self.jobs, self.tasks = jobs, []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    busy = property(lambda self: bool(self.tasks))
    free = property(lambda self: len(self.tasks) < self.jobs)

    def begin(self, task, function, *args):
        self.tasks.append((task, function, args))

    def wait(self, hear):
        task, function, args = self.tasks.pop(0)
        try:
            return task, function(*args)
        except Exception as error:
            return task, Failure(f"{type(error).__name__}: {error}", "where it was")


@pytest.fixture
def calls(monkeypatch):
    """Stands in for the training; gives the (recipe, seed, options) of every run."""
    calls = []

    def measure(runs, seed, folder, **options):
        found = {}
        for key, recipe in runs.items():
            calls.append((recipe, seed, options))
            found[key] = {
                name: value
                for name, value in row(None, None, seed, 0.5 + seed / 100, recipe=recipe.as_dict()).items()
                if name not in ("study", "setting", "variant")
            } | {"train_seconds": 1.0, "energy_ratio_fp32_ac": 1.0}  # fmt: skip
        return found

    for name in ("compare", "warm_up", "ablation", "gradients"):
        monkeypatch.setitem(STUDIES, name, replace(STUDIES[name], measure=measure))
    monkeypatch.setattr(run_all, "Workers", Here)
    return calls


def read(path):
    return json.loads(path.read_text())["runs"]


def silent(line):
    pass


def test_every_variant_with_every_seed_in_that_order(calls, tmp_path):
    out = tmp_path / "new" / "folder" / "runs.json"
    rows = study("compare", RECIPE, [3, 1], out, say=silent, data_root="somewhere")
    wanted = [(name, seed) for name in ("baseline", "bpsa", "bpsa+bpta") for seed in (3, 1)]
    assert [(r["variant"], r["seed"]) for r in rows] == wanted
    assert [r["recipe"] for r in rows] == [RECIPE.variant(name).as_dict() for name, _ in wanted]
    assert sorted((c[0].variant_name(), c[1]) for c in calls) == sorted(wanted)
    assert all(options == {"data_root": "somewhere"} for *_, options in calls)
    assert sorted(map(repr, read(out))) == sorted(map(repr, rows))


def test_how_far_it_is(calls, tmp_path):
    """In epochs of all runs; those that are in the file are done."""
    out, heard = tmp_path / "runs.json", []
    study("compare", RECIPE, [0], out, say=silent)
    study("compare", RECIPE, [0, 1], out, say=silent, progress=lambda *numbers: heard.append(numbers))
    epochs = RECIPE.epochs
    assert heard == [(3 * epochs, 6 * epochs), (4 * epochs, 6 * epochs), (5 * epochs, 6 * epochs), (6 * epochs,) * 2]
    with pytest.raises(TypeError, match="progress must be a function of two numbers or None, got bool"):
        study("compare", RECIPE, [0], out, say=silent, progress=True)


def test_a_variant_with_a_recipe_of_its_own(calls, tmp_path):
    out = tmp_path / "runs.json"
    study("compare", RECIPE, [0], out, say=silent, variants=["bpsa"], settings=[""])
    rows = study("compare", replace(RECIPE, lr=0.5), [0], out, say=silent, variants=("baseline", "bpsa+bpta"))
    assert [row["variant"] for row in rows] == ["baseline", "bpsa+bpta"]
    assert {(row["variant"], row["recipe"]["lr"]) for row in read(out)} == {
        ("bpsa", RECIPE.lr), ("baseline", 0.5), ("bpsa+bpta", 0.5),
    }  # fmt: skip


def test_runs_in_the_file_are_not_done_again(calls, tmp_path):
    out, said = tmp_path / "runs.json", []
    first = study("compare", RECIPE, [0], out, say=silent)
    assert len(calls) == 3
    again = study("compare", RECIPE, [0], out, say=said.append)
    assert len(calls) == 3 and again == first
    assert any("3 of 3" in line and str(out) in line for line in said)
    more = study("compare", RECIPE, [1, 0], out, say=silent)
    assert [seed for _, seed, _ in calls[3:]] == [1, 1, 1]
    assert [r["seed"] for r in more] == [1, 0] * 3 and len(read(out)) == 6


@pytest.mark.parametrize("change", [dict(epochs=3), dict(lr=1e-2), dict(num_steps=4), dict(test_limit=0)], ids=str)
def test_another_recipe_is_another_run_and_the_old_rows_stay(calls, tmp_path, change):
    out = tmp_path / "runs.json"
    first = study("compare", RECIPE, [0], out, say=silent)
    rows = study("compare", replace(RECIPE, **change), [0], out, say=silent)
    assert len(calls) == 6 and len(read(out)) == 6 and all(r in read(out) for r in first)
    assert all(r["recipe"][key] == value for r in rows for key, value in change.items())


def test_the_file_is_valid_after_every_run(calls, tmp_path):
    out, seen = tmp_path / "runs.json", []

    def say(line):
        seen.append(len(read(out)))  # fails on half a file
        assert sorted(path.name for path in tmp_path.iterdir()) == ["runs.json", "runs.unfinished"]
        assert not any((tmp_path / "runs.unfinished").iterdir()), "nothing of what is finished"

    study("compare", RECIPE, [0, 1], out, say=say)
    assert seen == [1, 2, 3, 4, 5, 6]


def test_every_finished_run_is_said_in_one_line(calls, tmp_path):
    said = []
    study("compare", RECIPE, [7], tmp_path / "runs.json", say=said.append)
    assert sorted(line.split()[0] for line in said) == ["baseline", "bpsa", "bpsa+bpta"]
    assert all("seed 7" in line and "57.00 %" in line and "\n" not in line for line in said)


def test_what_fails_is_on_record_and_the_others_go_on(calls, monkeypatch, tmp_path):
    out, said, measure = tmp_path / "runs.json", [], STUDIES["compare"].measure

    def third_fails(runs, seed, folder, **options):
        if len(calls) == 2:
            calls.append(None)
            raise RuntimeError("out of memory")
        return measure(runs, seed, folder, **options)

    monkeypatch.setitem(STUDIES, "compare", replace(STUDIES["compare"], measure=third_fails))
    with pytest.raises(
        RunsFailed, match=r"^1 run has failed: RuntimeError: out of memory\. Start the same again"
    ) as found:
        study("compare", RECIPE, [0, 1], out, say=said.append)
    assert found.value.rows == read(out) and len(read(out)) == 5 and len(calls) == 6
    failed = json.loads(out.read_text())["failed"]
    assert found.value.failed == failed and failed[0]["error"] == "RuntimeError: out of memory"
    assert failed[0]["traceback"] == "where it was" and failed[0]["versions"]["torch"]
    assert [line for line in said if "failed" in line] == [
        "bpsa       seed 0: failed: RuntimeError: out of memory (3 to go)"
    ]
    assert len(tabulate(read(out))) == 3 == len((tmp_path / "table.csv").read_text().splitlines()) - 1
    assert len(study("compare", RECIPE, [0, 1], out, say=silent)) == 6 and len(read(out)) == 6
    assert calls[-1][:2] == (RECIPE.variant("bpsa"), 0) and len(calls) == 7, "it alone is tried again"
    assert json.loads(out.read_text())["failed"] == failed  # it stays on record


def test_the_command_line_tells_that_runs_have_failed(calls, monkeypatch, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib (extra: plots) is missing")
    measure = STUDIES["compare"].measure

    def fails(runs, seed, folder, **options):
        if seed in bad:
            raise OSError(f"no data\nfor seed {seed}")
        return measure(runs, seed, folder, **options)

    monkeypatch.setitem(STUDIES, "compare", replace(STUDIES["compare"], measure=fails))
    for bad, printed in (((0, 1), False), ((1,), True)):
        assert main(["compare", "--seeds", "2", "--out", str(tmp_path)]) == 1
        out, err = capsys.readouterr()
        last = err.splitlines()[-1]
        assert f"error: {3 * len(bad)} runs have failed: OSError: no data for seed {bad[0]}" in last
        assert err.count(" to go)") == 6, "and a line a run"
        assert ("| baseline  |" in out) == printed == (tmp_path / "figure.png").exists()


def test_how_many_are_to_go(calls, tmp_path):
    said = []
    study("compare", RECIPE, [0, 1], tmp_path / "runs.json", say=said.append)
    assert [line.rpartition("(")[2] for line in said] == [f"{left} to go)" for left in range(5, -1, -1)]


DAMAGED = {
    "empty": "",
    "half": '{"runs": [{"variant": "bpsa", "se',
    "not-json": "accuracy 99 %",
    "binary": b"\xff\xfe\x00\x01",
    "list": "[]",
    "other-keys": '{"results": []}',
    "number": '{"runs": 3}',
    "text": '"runs"',
    "null": "null",
    "rows-of-something-else": '{"runs": [{"accuracy": 0.5}]}',
    "rows-that-are-no-rows": '{"runs": [1, 2]}',
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_refused_and_left_untouched(calls, tmp_path, name):
    out, content = tmp_path / "runs.json", DAMAGED[name]
    content = content if isinstance(content, bytes) else content.encode()
    out.write_bytes(content)
    with pytest.raises(ValueError, match=r"runs\.json is not a results file.*--out"):
        study("compare", RECIPE, [0], out, say=silent)
    assert calls == [] and out.read_bytes() == content
    assert list(tmp_path.iterdir()) == [out]


def test_a_study_writes_its_runs_and_its_table_and_goes_on_where_it_stopped(calls, tmp_path):
    out = tmp_path / "warm_up.json"
    rows = study("warm_up", RECIPE, [0, 1], out, say=lambda line: None)
    assert len(rows) == len(calls) == 3 * 3 * 2
    assert {(r["study"], r["setting"], r["variant"], r["seed"]) for r in rows} == {
        ("warm_up", *key) for key in grid("warm_up", RECIPE, [0, 1])
    }
    with open(out.with_suffix(".csv"), newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 9 and lines[0]["setting"] == "none" and float(lines[0]["accuracy"]) == pytest.approx(50.5)
    runs = json.loads(out.read_text())["runs"]
    out.write_text(json.dumps({"runs": runs[:5]}))
    again = study("warm_up", RECIPE, [0, 1], out, say=lambda line: None)
    assert len(calls) == 18 + 13 and again == rows


def test_a_run_of_an_older_version_without_a_field_is_not_done_again(calls, tmp_path):
    out = tmp_path / "runs.json"
    study("ablation", RECIPE, [0], out, say=lambda line: None)
    runs = json.loads(out.read_text())["runs"]
    for run in runs:
        del run["recipe"]["loss"]
    out.write_text(json.dumps({"runs": runs}))
    study("ablation", RECIPE, [0], out, say=lambda line: None)
    assert len(calls) == 4


def test_a_file_of_compare_of_0_1_0_goes_on(calls, tmp_path):
    """Its rows had neither study nor setting."""
    out = tmp_path / "runs.json"
    rows = study("compare", RECIPE, [0], out, say=silent)
    old = [{key: value for key, value in each.items() if key not in ("study", "setting")} for each in rows]
    out.write_text(json.dumps({"runs": old}))
    assert study("compare", RECIPE, [0, 1], out, say=silent)[::2] == rows and len(calls) == 6


def test_one_call_measures_all_of_a_seed_where_they_belong_together(calls, tmp_path, monkeypatch):
    measured, measure = [], STUDIES["gradients"].measure

    def noted(*args, **options):
        measured.append(args)
        return measure(*args, **options)

    monkeypatch.setitem(STUDIES, "gradients", replace(STUDIES["gradients"], measure=noted))
    said = []
    rows = study("gradients", RECIPE, [4, 7], tmp_path / "runs.json", say=said.append)
    assert [seed for _, seed, _ in measured] == [4, 7] and len(rows) == 2 * 12
    assert all(list(runs) == [key[:2] for key in grid("gradients", RECIPE, [0])] for runs, *_ in measured)
    assert said == ["gradients: 12 rows, seed 4 (1 to go)", "gradients: 12 rows, seed 7 (0 to go)"]


@pytest.mark.parametrize("where", ["folder", "file.json"])
def test_where_a_study_writes(where, calls, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib (extra: plots) is missing")
    out = tmp_path / where
    assert main(["study", "compare", "--seeds", "1", "--out", str(out)]) == 0
    if where == "folder":
        assert sorted(path.name for path in out.iterdir()) == ["figure.png", "runs.json", "table.csv"]
    else:
        assert sorted(path.name for path in tmp_path.iterdir()) == ["file.csv", "file.json", "file.png"]


def test_the_command_line_measures_gradients(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib (extra: plots) is missing")
    pytest.importorskip("sklearn", reason="scikit-learn (extra: data) is missing")
    assert main(["study", "gradients", "--quick", "--out", str(tmp_path)]) == 0
    runs = json.loads((tmp_path / "runs.json").read_text())["runs"]
    assert {(run["setting"], run["variant"], run["seed"]) for run in runs} == grid("gradients", RECIPE, [0]).keys()
    by_setting = {(run["setting"], run["variant"]): run for run in runs}
    assert (
        by_setting["one neuron", "bpta"]["error_first_step"] == 1 > by_setting["one neuron", "bpsa"]["error_first_step"]
    )
    first = by_setting["first weights", "baseline"]
    assert len(first["flow"]) == 5 and all(len(steps) == RECIPE.num_steps for steps in first["flow"].values())
    assert first["error_first_layer"] == pytest.approx(sum(next(iter(first["flow"].values()))) / RECIPE.num_steps)
    printed = capsys.readouterr().out
    assert "| one neuron    | bpsa+bpta |" in printed
    assert "test set after the last one; --quick: that it works, no result\n" in printed


def test_credit_crosses_a_reset_to_zero_by_the_residual_alone():
    from snntorch_bpsta.training.studies import credit

    rows = {
        (setting, variant): credit.measure_credit({(setting, variant): None}, 3, None)[setting, variant]
        for setting in ("reset to zero", "reset by subtraction")
        for variant in STUDIES["credit"].variants
    }
    for variant in ("baseline", "bpsa"):
        row = rows["reset to zero", variant]
        assert row["first_gradient"] == 0 and 0.4 < row["accuracy"] < 0.6 and row["firing_rate"] > 0.1
    for key, row in rows.items():
        if "bpta" in key[1] or "subtraction" in key[0]:
            assert row["first_gradient"] > 0 and row["accuracy"] > 0.95, key


def test_a_network_learns_the_same_by_its_loop_and_folded(monkeypatch):
    pytest.importorskip("sklearn", reason="scikit-learn (extra: data) is missing")
    from snntorch_bpsta.training.studies import loop

    monkeypatch.setattr(loop, "EPOCHS", 2)
    runs = dict.fromkeys((setting, variant) for setting in (loop.OWN, loop.FOLDED) for variant in ("baseline", "bpsa"))
    rows = loop.measure_loop(runs, 0, None)
    for variant in ("baseline", "bpsa"):
        own, folded = rows[loop.OWN, variant], rows[loop.FOLDED, variant]
        assert own["accuracy"] > 0.6 and own["accuracy"] == pytest.approx(folded["accuracy"], abs=0.03)
        assert own["firing_rate"] == pytest.approx(folded["firing_rate"], rel=0.01)
        assert [epoch["epoch"] for epoch in own["history"]] == [0, 1] and 0 < folded["history"][0]["seconds"]
    assert rows[loop.OWN, "bpsa"]["firing_rate"] != pytest.approx(rows[loop.OWN, "baseline"]["firing_rate"], rel=0.01)


@pytest.mark.filterwarnings("ignore:.*fired nowhere")
def test_the_networks_of_the_tutorials_learn_where_an_option_says_so(monkeypatch):
    pytest.importorskip("sklearn", reason="scikit-learn (extra: data) is missing")
    from snntorch_bpsta.training.studies import tutorials

    voted, followed = "population code", "regression"
    runs = dict.fromkeys(
        [(voted, variant) for variant in tutorials.VARIANTS] + [(followed, "baseline"), (followed, "bpsa")]
    )
    rows = tutorials.measure_tutorials(runs, 0, None)
    host = rows[voted, "baseline"]
    assert host["accuracy"] > 0.9 and host["firing_rate"] == host["firing_rates"]["layers.2"] > 0.1
    for variant in ("bpsa", "bpsa-hidden"):  # its output never fires: chance
        assert rows[voted, variant]["accuracy"] < 0.2 and rows[voted, variant]["firing_rate"] < 0.01
    for variant in ("bpsa+leak", "bpsa+leak-hidden", "bpsa+warm-up", "bpsa-hidden-later"):
        assert rows[voted, variant]["accuracy"] > host["accuracy"] - 0.1, variant
    assert {row["accuracy"] > 0.7 for key, row in rows.items() if key[0] == followed} == {True}
    assert len(rows[followed, "bpsa"]["history"]) == 100
    warm_ups = [epoch["warm_up"] for epoch in rows[voted, "bpsa+warm-up"]["history"]]
    assert warm_ups == 3 * ["surrogate"] + 7 * [None]


@pytest.mark.parametrize("setting", ["3 hidden", "convolutional"])
def test_an_option_reaches_every_neuron_of_a_tutorials_network(setting):
    from snntorch_bpsta.training.studies import tutorials

    own = tutorials.TASKS[setting].build()
    surrogates = [module.spike_grad for module in own.modules() if isinstance(module, snntorch.Leaky)]
    tutorials.adjust(own, "bpsa+leak-hidden")
    *hidden, last = [module for module in own.modules() if isinstance(module, snn.Leaky)]
    assert len(hidden) + 1 == len(surrogates) and last.spike_grad is surrogates[-1] and not last.spatial_adj
    assert {neuron.spatial_adj for neuron in hidden} == {snn.surrogate.spatial_adjustment(leak=tutorials.LEAK)}
    spikes, membranes = own(torch.rand(2, 1, 28, 28))
    assert spikes.shape == membranes.shape == (own.steps, 2, 10)


def test_the_command_line_measures_credit(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib (extra: plots) is missing")
    assert main(["study", "credit", "--seeds", "1", "--variants", "bpsa,bpta", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "| reset to zero          | bpta    | 1     | 100.00" in out, out
    assert (tmp_path / "figure.png").stat().st_size > 5_000


@pytest.mark.parametrize("name", TRAINED)
def test_the_command_line_runs_a_study(name, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib (extra: plots) is missing")
    pytest.importorskip("sklearn", reason="scikit-learn (extra: data) is missing")
    out = tmp_path / f"{name}.json"
    assert main(["study", name, "--quick", "--seeds", "1", "--out", str(out)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert STUDIES[name].claim in printed
    runs = json.loads(out.read_text())["runs"]
    wanted = grid(name, RECIPE, [0])
    assert {(run["setting"], run["variant"], run["seed"]) for run in runs} == wanted.keys()
    assert all(Recipe(**run["recipe"]) == wanted[run["setting"], run["variant"], 0] for run in runs)
    assert out.with_suffix(".png").stat().st_size > 5_000
    with open(out.with_suffix(".csv")) as file:
        assert len(list(csv.DictReader(file))) == len(runs)
    for run in runs:
        counted = run["operations"]
        if run["setting"] == "artificial":
            assert counted is None is run["energy_ratio_counted"] and "| artificial | baseline" in printed
        else:
            first, *rest = counted.values()
            assert first["mac"] > 0 == first["ac"]
            assert all(
                layer["mac"] == 0 and layer["ac"] <= layer["dense"] * run["recipe"]["num_steps"] for layer in rest
            )
            assert run["energy_ratio_counted"] > run["energy_ratio_counted_fp32_ac"] > 0


# --- the paper's tables ----------------------------------------------------------------------------------------


@pytest.mark.skipif(not TABLES.is_file(), reason="the paper's tables are not beside the repository")
def test_every_number_is_the_papers():
    tables, rows = json.loads(TABLES.read_text()), paper_rows()
    assert rows["table2"].accuracy == tables["table2_mnist"]["ours"]["mean"]
    for number, name in ((3, "cifar10"), (4, "nmnist"), (5, "dvs_gesture"), (7, "dvs_cifar10")):
        assert rows[f"table{number}"].accuracy == tables[f"table{number}_{name}"]["ours"]
    ours = {"MNIST": "mnist", "N-MNIST": "nmnist", "CIFAR10": "cifar10"}
    ours |= {"DVS-Gesture": "dvs_gesture", "DVS-CIFAR10": "cifar10_dvs"}
    for name, (accuracy, baseline, rate, baseline_rate, *_) in tables["table6_energy"]["rows"].items():
        found = rows[f"table6-{ours[name]}"], rows[f"table6-{ours[name]}-baseline"]
        assert [(r.accuracy, r.firing_rate) for r in found] == [(accuracy, rate), (baseline, baseline_rate)]
    for name, numbers in tables["table8_ablation"].items():
        for variant, accuracy in numbers.items():
            assert rows[f"table8-{ours[name]}-{variant.lower()}"].accuracy == accuracy
    table9 = tables["table9_latency_dvs_gesture"]
    for variant in ("BPSA+BPTA", "BPSA", "baseline"):
        for num_steps, accuracy in zip(table9["T"], table9[variant], strict=True):
            assert rows[f"table9-T{num_steps}-{variant.lower()}"].accuracy == accuracy
    assert len(rows) == 5 + 10 + 6 + 12


def test_rows_are_recipes():
    for name, found in paper_rows().items():
        recipe = found.recipe
        assert recipe.preset == "paper" and recipe.width == 1 and recipe.schedule == "sgdr" and recipe.epochs == 300
        assert recipe.spatial_adj == ("baseline" not in name) and recipe.limit == recipe.test_limit == 0
        assert recipe.temporal_alpha == (0.0 if name.endswith(("baseline", "-bpsa")) else 0.8)
        if name.startswith("table9"):
            assert name.startswith(f"table9-T{recipe.num_steps}-") and recipe.dataset == "dvs_gesture"
        else:
            assert recipe.num_steps == 16
    code = paper_rows("official_code")
    assert {r.recipe.temporal_alpha for r in code.values()} == {0.0, 0.2}
    assert full_size("cifar10", "official_code") == code["table3"].recipe
    assert (code["table3"].recipe.num_steps, code["table3"].recipe.epochs, code["table3"].recipe.warm_up_epochs) == (
        8,
        500,
        80,
    )
    with pytest.raises(ValueError, match="dataset must be one of 'mnist'"):
        full_size("digits")


def test_ours_stand_beside_the_papers(tmp_path, capsys):
    rows = paper_rows()
    recipe = rows["table6-mnist-baseline"].recipe
    runs = [{"recipe": recipe.as_dict(), "seed": s, "accuracy": 0.99 + s / 1000, "firing_rate": 0.2} for s in (0, 2)]
    runs.append({"recipe": replace(recipe, epochs=3).as_dict(), "seed": 0, "accuracy": 0.5, "firing_rate": 0.9})
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in beside(rows, runs).splitlines()]
    cells = {line[0]: line[5:] for line in lines}
    assert cells["table6-mnist-baseline"] == ["99.42", "0.183", "99.10 (2)", "0.200", "not reproduced"]
    assert cells["table6-mnist"][2:] == ["-", "-", "not run"], "another recipe is another run"
    better = [runs[0] | {"accuracy": 0.999}, *runs[1:]]
    assert re.search(r"99\.55 \(2\) +\| 0\.200 +\| reproduced", beside(rows, better))
    (tmp_path / "runs.json").write_text(json.dumps({"runs": runs}))
    (tmp_path / "other.json").write_text("[]")
    (tmp_path / "result.json").write_text(json.dumps(runs[0] | {"seed": 7, "accuracy": 0.9946}))  # of bpsta train
    assert main(["recipes", "--results", str(tmp_path)]) == 0
    assert "99.22 (3)" in capsys.readouterr().out
    (tmp_path / "result.json").unlink()
    assert main(["recipes", "--results", str(tmp_path)]) == 0
    assert "99.10 (2)" in (printed := capsys.readouterr().out) and "not reproduced" in printed


def test_train_takes_a_row(capsys, monkeypatch):
    from snntorch_bpsta.training import run

    seen = []

    def train(recipe, seed, out, **options):
        seen.append((recipe, str(out)))
        raise ValueError("stop")

    monkeypatch.setattr(run, "train", train)
    assert main(["train", "--recipe", "table9-T4-bpsa", "--epochs", "2"]) == 2
    assert seen == [(replace(paper_rows()["table9-T4-bpsa"].recipe, epochs=2), "runs/table9-T4-bpsa-0")]
    assert main(["train", "--recipe", "table3", "--preset", "official_code"]) == 2
    assert seen[1][0] == paper_rows("official_code")["table3"].recipe
    assert main(["train", "--recipe", "table3", "--dataset", "mnist"]) == 2
    assert "--recipe table3 is of cifar10: drop --dataset mnist" in capsys.readouterr().err and len(seen) == 2


# --- what the studies vary ---------------------------------------------------------------------------------------


def test_cross_entropy_of_rates_by_hand():
    out = torch.zeros(4, 2, 3, dtype=torch.float64)
    out[:, 0, 1] = 1  # the right class fires always: exp(10) against two of exp(0)
    loss = rate_cross_entropy_loss(out, torch.tensor([1, 0]))
    expected = (torch.log1p(2 * torch.exp(torch.tensor(-10.0, dtype=torch.float64))) + torch.log(torch.tensor(3.0))) / 2
    assert loss.item() == pytest.approx(expected.item())
    with pytest.raises(ValueError, match="targets must be class indices from 0 to 2"):
        rate_cross_entropy_loss(out, torch.tensor([1, 3]))


@pytest.mark.parametrize("relu", [True, False])
def test_without_relu(relu):
    net = replace(RECIPE, relu=relu).build_network()
    kinds = [type(module).__name__ for module in net.modules()]
    assert kinds.count("ReLU") == (4 if relu else 0) and kinds.count("Leaky") == 5


def test_other_test_sets_have_columns_of_their_own():
    own = [row("", "baseline", seed, 0.9, name="ablation") for seed in (0, 1)]
    for each, accuracy in zip(own, (0.5, 0.75), strict=True):
        each["also_test"] = {"nmnist": {"accuracy": accuracy}}
    (found,) = tabulate(own)
    assert found["accuracy_nmnist"] == 62.5 and found["accuracy_nmnist_std"] == pytest.approx(17.67767)
    head, _, line = format_study([found]).splitlines()
    assert "% on nmnist" in head and "62.50 ± 17.68" in line
    assert "accuracy_nmnist" not in tabulate(own + [row("", "baseline", 2, 0.9, name="ablation")])[0]
