"""Studies: the grids, the paired tests, the files; and the paper's tables as recipes."""

import csv
import json
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning", reason="lightning (extra: train) is missing")
from concurrent.futures import ThreadPoolExecutor  # noqa: E402

from snntorch_bpsta.cli import main  # noqa: E402
from snntorch_bpsta.training import RECIPES, VARIANTS, Recipe, compare, rate_cross_entropy_loss  # noqa: E402
from snntorch_bpsta.training.paper import beside, full_size, paper_rows  # noqa: E402
from snntorch_bpsta.training.studies import STUDIES, format_study, grid, paired_p, quick, study, tabulate  # noqa: E402

RECIPE = quick(RECIPES["digits"])
TABLES = Path(__file__).resolve().parents[2] / "shared" / "paper" / "tables.json"


def row(setting, variant, seed, accuracy, rate=0.2, name="warm_up", **others):
    return {
        "study": name, "setting": setting, "variant": variant, "seed": seed, "accuracy": accuracy, "firing_rate": rate,
        "energy_ratio": 5.0, "energy_ratio_counted": 3.0, "energy_ratio_counted_fp32_ac": 0.5,
        "history": [{"test_accuracy": accuracy + 0.01}, {"test_accuracy": accuracy}], **others,
    }  # fmt: skip


# --- the grids -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STUDIES)
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
        changed -= {"spatial_adj", "temporal_alpha"}
        assert len(changed) <= (3 if name == "readout" else 2), (setting, changed)


def test_settings_by_name():
    assert {recipe.num_steps for recipe in grid("latency", RECIPE, [0]).values()} == {4, 8, 16, 32}
    alphas = {key[0]: recipe.temporal_alpha for key, recipe in grid("alpha", RECIPE, [0]).items()}
    assert alphas == {f"alpha = {alpha:g}": alpha for alpha in (0, 0.2, 0.5, 0.8, 1)}
    warm_ups = {
        key[0]: (r.warm_up, r.warm_up_epochs) for key, r in grid("warm_up", replace(RECIPE, epochs=30), [0]).items()
    }
    assert warm_ups == {"none": ("none", 0), "identity": ("identity", 6), "surrogate": ("surrogate", 6)}
    artificial = [r for key, r in grid("energy", RECIPE, [0]).items() if key[0] == "artificial"]
    assert len(artificial) == 1 and artificial[0].warm_up_epochs == artificial[0].epochs
    assert set(STUDIES["ablation"].variants) == set(VARIANTS)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("speed", RECIPE, [0]), ValueError, "name must be one of 'ablation'"),
        (("alpha", "digits", [0]), TypeError, "recipe must be a Recipe, got str"),
        (("alpha", RECIPE, 3), ValueError, "seeds must be several integers"),
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
    text = format_study(table)
    assert len(text.splitlines()) == 6 and "+2.00" in text and "60.00 ± 10.00" in text and "-10.00" in text


def test_alpha_is_held_against_alpha_0():
    rows = [
        row(f"alpha = {a}", v, 0, x, name="alpha") for a, v, x in ((0, "bpsa", 0.5), (0, "bpta", 0.3), (1, "bpta", 0.4))
    ]
    assert [line["difference"] for line in tabulate(rows)] == [None, None, pytest.approx(10)]


# --- runs ----------------------------------------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch):
    """Stands in for the training; gives the (recipe, seed) of every call."""
    calls = []

    def run(recipe, seed, threads, options):
        calls.append((recipe, seed))
        done = row(
            None, None, seed, 0.5 + seed / 100, recipe=recipe.as_dict(), train_seconds=1.0, energy_ratio_fp32_ac=1.0
        )
        return {key: value for key, value in done.items() if key not in ("study", "setting", "variant")}

    monkeypatch.setattr(compare, "_run_one", run)
    monkeypatch.setattr(compare, "ProcessPoolExecutor", lambda jobs, mp_context: ThreadPoolExecutor(jobs))
    return calls


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


@pytest.mark.parametrize("name", STUDIES)
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
    from snntorch_bpsta.training import lightning

    seen = []

    def train(recipe, seed, out, **options):
        seen.append((recipe, str(out)))
        raise ValueError("stop")

    monkeypatch.setattr(lightning, "train", train)
    assert main(["train", "--recipe", "table9-T4-bpsa", "--epochs", "2"]) == 2
    assert seen == [(replace(paper_rows()["table9-T4-bpsa"].recipe, epochs=2), "runs/table9-T4-bpsa")]
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
