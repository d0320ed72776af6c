"""Comparisons over seeds, the paper's loss, and recipes as data."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError, fields, replace

import pytest
import torch
from _tolerance import assert_close

pytest.importorskip("lightning", reason="lightning (extra: train) is missing")
from snntorch_bpsta.training import RECIPES, VARIANTS, Recipe, compare, rate_mse_loss  # noqa: E402
from snntorch_bpsta.training.compare import format_table, summarise  # noqa: E402

F64 = torch.float64
RECIPE = Recipe(epochs=1, num_steps=2, width=1 / 32, limit=128, test_limit=64)


# --- summarise and format_table ------------------------------------------------------------------------------


def row(variant, accuracy, rate=0.1, ratio=20.0, ratio_fp32=2.0, seconds=10.0, **others):
    return {
        "variant": variant,
        "accuracy": accuracy,
        "firing_rate": rate,
        "energy_ratio": ratio,
        "energy_ratio_fp32_ac": ratio_fp32,
        "train_seconds": seconds,
        **others,
    }


ROWS = [
    row("bpsa", 0.9, 0.1, 20.0, 2.0, 10.0),
    row("baseline", 0.5, 0.3, 10.0, 1.0, 4.0),
    row("bpsa", 0.8, 0.2, 30.0, 4.0, 20.0),
    row("bpsa", 1.0, 0.3, 40.0, 6.0, 60.0),
]


def test_means_and_the_sample_standard_deviation():
    bpsa, baseline = summarise(ROWS)
    assert bpsa == {
        "variant": "bpsa",
        "seeds": 3,
        "accuracy": pytest.approx(90.0),
        "accuracy_std": pytest.approx(10.0),  # sqrt(200 / 2); over n it would be 8.16
        "firing_rate": pytest.approx(0.2),
        "energy_ratio": pytest.approx(30.0),
        "energy_ratio_fp32_ac": pytest.approx(4.0),
        "train_seconds": pytest.approx(30.0),
    }
    assert baseline["variant"] == "baseline" and baseline["seeds"] == 1


def test_one_seed_has_no_deviation():
    (table,) = summarise([row("bpsa", 0.875)])
    assert (table["accuracy"], table["accuracy_std"], table["seeds"]) == (87.5, 0.0, 1)


def test_runs_without_a_firing_rate_are_left_out_of_its_mean():
    missing = row("bpsa", 0.9, None, None, None)
    (table,) = summarise([missing, row("bpsa", 0.9, 0.2, 20.0, 2.0)])
    assert (table["firing_rate"], table["energy_ratio"], table["energy_ratio_fp32_ac"]) == (0.2, 20.0, 2.0)
    (table,) = summarise([missing])
    assert table["firing_rate"] is table["energy_ratio"] is table["energy_ratio_fp32_ac"] is None


def test_nothing_gives_nothing():
    assert summarise([]) == []


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_is_markdown():
    head, rule, *lines = format_table(summarise(ROWS)).split("\n")
    assert cells(head)[:4] == ["variant", "seeds", "accuracy %", "firing rate"]
    assert "0.1 pJ" in head and "0.9 pJ" in head
    assert set(rule) == {"|", "-"} and len({len(line) for line in (head, rule, *lines)}) == 1, "columns stand in line"
    assert cells(lines[0]) == ["bpsa", "3", "90.00 ± 10.00", "0.200", "30.0", "4.0", "30 s"]
    assert cells(lines[1]) == ["baseline", "1", "50.00 ± 0.00", "0.300", "10.0", "1.0", "4 s"]
    assert len(lines) == 2 and all(line.count("|") == 8 for line in (head, rule, *lines))


def test_the_table_of_runs_without_a_firing_rate():
    *_, line = format_table(summarise([row("bpsa", 0.5, None, None, None)])).split("\n")
    assert cells(line) == ["bpsa", "1", "50.00 ± 0.00", "-", "-", "-", "10 s"]


def test_a_silent_network_has_an_infinite_ratio():
    *_, line = format_table(summarise([row("bpsa", 0.1, 0.0, float("inf"), float("inf"))])).split("\n")
    assert cells(line)[3:6] == ["0.000", "inf", "inf"]


# --- compare: what is run, and what is kept --------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch):
    """Runs in a thread, by a stand-in for the training; gives the (recipe, seed, options) of every call."""
    calls = []

    def run(recipe, seed, threads, options):
        calls.append((recipe, seed, options))
        result = row(None, 0.5 + seed / 100, recipe=recipe.as_dict(), seed=seed)
        del result["variant"]  # which the training does not know
        return result

    monkeypatch.setattr(compare, "_run_one", run)
    monkeypatch.setattr(compare, "ProcessPoolExecutor", lambda jobs, mp_context: ThreadPoolExecutor(jobs))
    return calls


def read(path):
    return json.loads(path.read_text())["runs"]


def silent(line):
    pass


def test_every_variant_with_every_seed_in_that_order(calls, tmp_path):
    out = tmp_path / "new" / "folder" / "runs.json"
    rows = compare.compare(RECIPE, [3, 1], out, say=silent, data_root="somewhere")
    wanted = [(name, seed) for name in ("baseline", "bpsa", "bpsa+bpta") for seed in (3, 1)]
    assert [(r["variant"], r["seed"]) for r in rows] == wanted
    assert [r["recipe"] for r in rows] == [RECIPE.variant(name).as_dict() for name, _ in wanted]
    assert sorted((c[0].spatial_adj, c[0].temporal_alpha, c[1]) for c in calls) == sorted(
        (*VARIANTS[name].values(), seed) for name, seed in wanted
    )
    assert all(options == {"data_root": "somewhere"} for *_, options in calls)
    assert sorted(map(repr, read(out))) == sorted(map(repr, rows))


def test_runs_in_the_file_are_not_done_again(calls, tmp_path):
    out, said = tmp_path / "runs.json", []
    first = compare.compare(RECIPE, [0], out, say=silent)
    assert len(calls) == 3
    again = compare.compare(RECIPE, [0], out, say=said.append)
    assert len(calls) == 3 and again == first
    assert any("3 of 3" in line and str(out) in line for line in said)
    more = compare.compare(RECIPE, [1, 0], out, say=silent)
    assert [seed for _, seed, _ in calls[3:]] == [1, 1, 1]
    assert [r["seed"] for r in more] == [1, 0] * 3 and len(read(out)) == 6


@pytest.mark.parametrize("change", [dict(epochs=2), dict(lr=1e-2), dict(num_steps=4), dict(test_limit=0)], ids=str)
def test_another_recipe_is_another_run_and_the_old_rows_stay(calls, tmp_path, change):
    out = tmp_path / "runs.json"
    first = compare.compare(RECIPE, [0], out, say=silent)
    rows = compare.compare(replace(RECIPE, **change), [0], out, say=silent)
    assert len(calls) == 6 and len(read(out)) == 6 and all(r in read(out) for r in first)
    assert all(r["recipe"][key] == value for r in rows for key, value in change.items())


def test_only_the_variants_asked_for(calls, tmp_path):
    rows = compare.compare(RECIPE, [0, 1], tmp_path / "runs.json", say=silent, variants=("bpsa",))
    assert [r["variant"] for r in rows] == ["bpsa", "bpsa"] and len(calls) == 2
    with pytest.raises(ValueError, match="variant must be one of"):
        compare.compare(RECIPE, [0], tmp_path / "other.json", variants=("stbp",))
    assert not (tmp_path / "other.json").exists()


def test_the_file_is_valid_after_every_run(calls, tmp_path):
    out, seen = tmp_path / "runs.json", []

    def say(line):
        seen.append(len(read(out)))  # fails on half a file
        assert [path.name for path in tmp_path.iterdir()] == ["runs.json"], "nothing unfinished lies about"

    compare.compare(RECIPE, [0, 1], out, say=say)
    assert seen == [1, 2, 3, 4, 5, 6]


def test_every_finished_run_is_said_in_one_line(calls, tmp_path):
    said = []
    compare.compare(RECIPE, [7], tmp_path / "runs.json", say=said.append)
    assert sorted(line.split()[0] for line in said) == ["baseline", "bpsa", "bpsa+bpta"]
    assert all("seed 7" in line and "57.00 %" in line and "\n" not in line for line in said)


def test_a_comparison_that_broke_goes_on_where_it_stopped(calls, monkeypatch, tmp_path):
    out, two_written = tmp_path / "runs.json", threading.Event()
    run, written = compare._run_one, []

    def third_fails(*args):
        if len(calls) == 2:
            assert two_written.wait(20)
            raise RuntimeError("out of memory")
        return run(*args)

    def say(line):
        written.append(line)
        if len(written) == 2:
            two_written.set()

    monkeypatch.setattr(compare, "_run_one", third_fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        compare.compare(RECIPE, [0, 1], out, say=say)
    assert len(calls) == 2 and len(read(out)) == 2
    (failed,) = json.loads(out.read_text())["failed"]
    assert failed["error"] == "RuntimeError: out of memory" and failed["commit"] and failed["versions"]["torch"]
    assert (failed["variant"], failed["seed"]) not in [(row["variant"], row["seed"]) for row in read(out)]
    monkeypatch.setattr(compare, "_run_one", run)
    assert len(compare.compare(RECIPE, [0, 1], out, say=silent)) == 6
    assert len(calls) == 6 and len(read(out)) == 6
    assert json.loads(out.read_text())["failed"] == [failed]  # it stays on record


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
        compare.compare(RECIPE, [0], out, say=silent)
    assert calls == [] and out.read_bytes() == content
    assert list(tmp_path.iterdir()) == [out]


# --- Eq. 5 ----------------------------------------------------------------------------------------------------


def test_the_loss_by_hand():
    # Two samples, three classes, two steps: rates (1, 0.5, 0) and (0, 0, 0.5), labels 0 and 2.
    out_rec = torch.tensor([[[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    assert rate_mse_loss(out_rec, torch.tensor([0, 2])) == pytest.approx(((0 + 0.25 + 0) + (0 + 0 + 0.25)) / 2)
    assert rate_mse_loss(out_rec, torch.tensor([1, 2])) == pytest.approx(((1 + 0.25 + 0) + (0 + 0 + 0.25)) / 2)


def test_the_loss_is_eq_5():
    generator = torch.Generator().manual_seed(0)
    out_rec = torch.rand(7, 5, 4, generator=generator, dtype=F64).requires_grad_()
    targets = torch.tensor([0, 3, 1, 1, 2])
    loss = rate_mse_loss(out_rec, targets)
    expected = 0.0
    for s in range(5):
        for c in range(4):
            rate = sum(out_rec[t, s, c].item() for t in range(7)) / 7
            expected += ((targets[s] == c).item() - rate) ** 2
    assert loss.shape == () and loss.item() == pytest.approx(expected / 5, rel=1e-12)
    loss.backward()
    label = torch.nn.functional.one_hot(targets, 4)
    by_hand = 2 * (out_rec.detach().mean(0) - label) / (5 * 7)
    assert_close(out_rec.grad, by_hand.expand(7, 5, 4), F64, 1.0)


def test_the_loss_of_a_perfect_output_is_zero():
    targets = torch.tensor([2, 0])
    out_rec = torch.nn.functional.one_hot(targets, 3).float().expand(4, 2, 3)
    assert rate_mse_loss(out_rec, targets) == 0
    assert rate_mse_loss(torch.zeros(4, 2, 3), targets) == 1, "silence costs one per sample"


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.float32, torch.float32), (F64, F64)],
    ids=str,
)
def test_the_loss_is_at_least_float32(dtype, expected):
    out_rec = (torch.rand(4, 3, 5) * 8).round().div(8).to(dtype).requires_grad_()
    loss = rate_mse_loss(out_rec, torch.tensor([0, 1, 4]))
    assert loss.dtype == expected
    loss.backward()
    assert out_rec.grad.dtype == dtype and out_rec.grad.count_nonzero() > 0
    exact = rate_mse_loss(out_rec.detach().to(F64), torch.tensor([0, 1, 4]))
    assert loss.item() == pytest.approx(exact.item(), rel=1e-6)


SHAPES = {
    "no-time": ((3, 5), (3,)),
    "no-voting": ((4, 3, 5, 2), (3,)),
    "batch": ((4, 3, 5), (4,)),
    "one-hot": ((4, 3, 5), (3, 5)),
    "scalar": ((4, 3, 5), ()),
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_loss_refuses(name):
    out, targets = SHAPES[name]
    with pytest.raises(ValueError, match=r"expected out_rec \[T, B, num_classes\] and targets \[B\], got"):
        rate_mse_loss(torch.rand(out), torch.zeros(targets, dtype=torch.int64))


# --- recipes --------------------------------------------------------------------------------------------------

REFUSED = {
    "dataset": (dict(dataset="imagenet"), ValueError, "dataset must be one of 'digits'.*'imagenet'"),
    "network": (dict(network="huge"), ValueError, "network must be one of"),
    "preset": (dict(preset="code"), ValueError, "preset must be one of"),
    "readout": (dict(readout="mem"), ValueError, "readout must be one of"),
    "warm_up": (dict(warm_up="ann"), ValueError, "warm_up must be one of"),
    "warm_up-None": (dict(warm_up=None), ValueError, "warm_up must be one of"),
    "schedule": (dict(schedule="step"), ValueError, "schedule must be one of"),
    "num_steps-0": (dict(num_steps=0), ValueError, "num_steps must be an integer >= 1"),
    "num_steps-float": (dict(num_steps=4.0), TypeError, "num_steps must be an integer >= 1"),
    "num_steps-bool": (dict(num_steps=True), TypeError, "num_steps must be an integer >= 1"),
    "epochs": (dict(epochs=0), ValueError, "epochs must be an integer >= 1"),
    "batch_size": (dict(batch_size=-1), ValueError, "batch_size must be an integer >= 1"),
    "width": (dict(width=0), ValueError, "width must be a finite number > 0"),
    "width-nan": (dict(width=float("nan")), ValueError, "width"),
    "width-bool": (dict(width=True), TypeError, "width must be a finite number > 0"),
    "lr": (dict(lr=-1e-3), ValueError, "lr must be a finite number >= 0"),
    "lr-text": (dict(lr="fast"), (ValueError, TypeError), "lr"),
    "weight_decay": (dict(weight_decay=-1), ValueError, "weight_decay must be a finite number >= 0"),
    "warm_up_epochs": (dict(warm_up_epochs=-1), ValueError, "warm_up_epochs must be an integer >= 0"),
    "lr_warm_up_epochs": (dict(lr_warm_up_epochs=-1), ValueError, "lr_warm_up_epochs must be an integer >= 0"),
    "limit": (dict(limit=-1), ValueError, "limit must be an integer >= 0"),
    "limit-float": (dict(limit=2.5), (ValueError, TypeError), "limit"),
    "test_limit": (dict(test_limit=-1), ValueError, "test_limit must be an integer >= 0"),
    "temporal_alpha-high": (
        dict(temporal_alpha=1.01),
        ValueError,
        r"temporal_alpha must be a finite number in \[0, 1\]",
    ),
    "temporal_alpha-low": (dict(temporal_alpha=-0.1), ValueError, "temporal_alpha"),
    "temporal_alpha-nan": (dict(temporal_alpha=float("nan")), ValueError, "temporal_alpha"),
    "dropout": (dict(dropout=1.5), ValueError, r"dropout must be in \[0, 1\], got 1.5"),
    "warm-up-without-epochs": (
        dict(warm_up="identity"),
        ValueError,
        "needs warm_up_epochs from 1 to epochs=300, got 0",
    ),
    "warm-up-too-long": (
        dict(warm_up="surrogate", warm_up_epochs=6, epochs=5),
        ValueError,
        "warm_up='surrogate' needs warm_up_epochs from 1 to epochs=5, got 6",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_recipes_refuse(name):
    options, error, match = REFUSED[name]
    with pytest.raises(error, match=match):
        Recipe(**options)


def test_the_defaults_are_the_papers():
    recipe = Recipe()
    assert (recipe.lr, recipe.epochs, recipe.num_steps, recipe.temporal_alpha) == (1e-3, 300, 16, 0.8)
    assert (recipe.spatial_adj, recipe.width, recipe.preset, recipe.readout) == (True, 1.0, "paper", "spikes")
    assert recipe.weight_decay == 1e-4 and recipe.lr_warm_up_epochs == 5, "the released code's"


def test_the_limits_of_what_is_allowed():
    Recipe(temporal_alpha=0, dropout=0, lr=0, weight_decay=0, warm_up_epochs=0, limit=0)
    Recipe(temporal_alpha=1, dropout=1, warm_up="identity", warm_up_epochs=300, num_steps=1, batch_size=1)


def test_a_recipe_is_plain_frozen_data():
    recipe = RECIPES["digits"]
    with pytest.raises(FrozenInstanceError):
        recipe.lr = 1.0
    plain = json.loads(json.dumps(recipe.as_dict()))
    assert Recipe(**plain) == recipe and list(plain) == [field.name for field in fields(Recipe)]
    assert all(field.metadata["help"] for field in fields(Recipe))


def test_the_variants():
    assert VARIANTS == {
        "baseline": {"spatial_adj": False, "temporal_alpha": 0.0},
        "bpsa": {"spatial_adj": True, "temporal_alpha": 0.0},
        "bpsa+bpta": {"spatial_adj": True, "temporal_alpha": 0.8},
        "bpta": {"spatial_adj": False, "temporal_alpha": 0.8},
    }
    for name, options in VARIANTS.items():
        assert RECIPE.variant(name) == replace(RECIPE, **options)
    with pytest.raises(
        ValueError, match="variant must be one of 'baseline', 'bpsa', 'bpsa\\+bpta', 'bpta'; got 'stbp'"
    ):
        RECIPE.variant("stbp")


def test_one_row_per_data_set_with_the_papers_network():
    networks = {name: recipe.network for name, recipe in RECIPES.items()}
    assert networks == {
        "digits": "small",
        "mnist": "small",
        "cifar10": "middle",
        "nmnist": "middle",
        "dvs_gesture": "large",
        "cifar10_dvs": "large",
        "digits_simulated": "middle",
        "nmnist_simulated": "middle",
        "cifar10_dvs_simulated": "large",
    }
    assert all(recipe.dataset == name for name, recipe in RECIPES.items())
    sizes = {name: recipe.batch_size for name, recipe in RECIPES.items()}
    simulated = dict(digits_simulated=64, nmnist_simulated=64, cifar10_dvs_simulated=64)
    assert sizes == dict(digits=64, mnist=64, cifar10=128, nmnist=64, dvs_gesture=16, cifar10_dvs=64, **simulated)


def test_the_network_of_a_recipe_takes_its_options():
    recipe = replace(RECIPE, readout="current", preset="official_code", dropout=0.25, temporal_alpha=0.4, num_steps=3)
    net = recipe.build_network()
    assert (net.readout, net.fold, net.input_shape, net.num_classes) == ("current", False, (1, 8, 8), 10)
    assert net(torch.rand(2, 1, 8, 8)).shape == (3, 2, 10)
    modules = {type(module).__name__: module for module in net.modules()}
    assert modules["NeuronDropout"].p == 0.25 and modules["Leaky"].temporal_alpha == 0.4
    assert modules["Conv2d"].out_channels == 8
