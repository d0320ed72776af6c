"""Studies: one claim each, a grid of recipes over seeds, a table with paired tests."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from .._checks import check_choice, check_instance, check_int, check_path, check_positive_int, reading
from ._tables import markdown, number
from .recipes import COMPARED, VARIANTS, Recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .._typing import AnyPath, Result


@dataclass(frozen=True)
class Study:
    """One row of :data:`STUDIES`.

    Attributes:
        claim: what is asked, and where the paper says it.
        settings: label -> fields of the recipe that it changes, or a function of the recipe that returns them.
        variants: rows of ``VARIANTS``, each run in every setting.
        against: what a difference is to: the first "variant" of the same setting, or the first "setting" of a variant.
    """

    claim: str
    settings: dict[str, dict[str, Any] | Callable[[Recipe], dict[str, Any]]]
    variants: tuple[str, ...] = COMPARED
    against: str = "variant"


def _warm_up(kind):
    return lambda recipe: dict(warm_up=kind, warm_up_epochs=0 if kind == "none" else max(1, recipe.epochs // 5))


def _readout(readout, kind):
    return lambda recipe: {"readout": readout, **_warm_up(kind)(recipe)}


def _times(**changes):
    return lambda recipe: {name: change(getattr(recipe, name)) for name, change in changes.items()}


STUDIES = {
    "ablation": Study(
        "BPSA alone is more accurate than the baseline, and BPTA adds to it (Table 8, Fig. 6). BPTA alone is ours.",
        {"": {}},
        ("baseline", "bpsa", "bpta", "bpsa+bpta"),
    ),
    "latency": Study(
        "With few time steps BPSA+BPTA loses little, the baseline much (Table 9, Fig. 5).",
        {f"T = {steps}": {"num_steps": steps} for steps in (4, 8, 16, 32)},
    ),
    "energy": Study(
        "The adjusted network fires half as often as the baseline and needs half its energy (Table 6), the artificial "
        "network of the same structure many times that. (The row 'artificial' trains it: no neuron spikes.)",
        {"": {}, "artificial": lambda recipe: dict(warm_up="identity", warm_up_epochs=recipe.epochs)},
    ),
    "warm_up": Study(
        "A warm-up helps (the paper follows TSSL-BP in one sentence; the released code skips the neurons at first).",
        {kind: _warm_up(kind) for kind in ("none", "identity", "surrogate")},
    ),
    "alpha": Study(
        "The residual of Eq. 10 has a best size (the paper takes 0.8, the released code 0.2).",
        {f"alpha = {alpha:g}": {"temporal_alpha": alpha} for alpha in (0.0, 0.2, 0.5, 0.8, 1.0)},
        ("bpsa", "bpta"),
        against="setting",
    ),
    "readout": Study(
        "A spiking output layer falls silent under Eq. 9; with an output that cannot, BPSA needs no warm-up (ours).",
        {
            f"{readout}, {kind}": _readout(readout, kind)
            for readout in ("spikes", "current")
            for kind in ("none", "identity")
        },
    ),
    "causes": Study(
        "What else decides between the variants: loss, ReLU, width, length of training (ours).",
        {
            "as it is": {},
            "cross entropy": {"loss": "cross_entropy"},
            "without ReLU": {"relu": False},
            "twice as wide": _times(width=lambda width: 2 * width),
            "three times as long": _times(epochs=lambda epochs: 3 * epochs),
        },
    ),
    "learning_rate": Study(
        "The gradients differ in size; has each variant the learning rate that it needs? (ours)",
        {
            "a third": _times(lr=lambda lr: lr / 3),
            "as it is": {},
            "three times": _times(lr=lambda lr: 3 * lr),
        },
    ),
}


def grid(name: str, recipe: Recipe, seeds: Iterable[int]) -> dict[tuple[str, str, int], Recipe]:
    """The runs of a study: ``(setting, variant, seed)`` -> recipe.

    Args:
        name: a key of :data:`STUDIES`.
        recipe: what the settings and variants change.
        seeds: iterable of int.

    Raises:
        ValueError, TypeError: an argument out of range or of the wrong type.
    """
    check_choice("name", name, tuple(STUDIES))
    check_instance("recipe", recipe, Recipe, "a Recipe")
    with reading("seeds", "several integers"):
        seeds = list(seeds)
    for seed in seeds:
        check_int("seeds", seed, 0, 2**32)
    study, runs = STUDIES[name], {}
    for setting, changes in study.settings.items():
        changes = changes(recipe) if callable(changes) else changes
        for variant in study.variants:
            # what the setting is about goes before what the variant says
            changed = replace(recipe, **{**VARIANTS[variant], **changes})
            if setting == "artificial" and variant != study.variants[0]:
                continue  # without neurons all variants are one
            for seed in seeds:
                runs[setting, variant, seed] = changed
    return runs


def study(
    name: str,
    recipe: Recipe,
    seeds: Iterable[int],
    out_file: AnyPath,
    *,
    jobs: int = 1,
    say: Callable[[str], object] = print,
    **options: Any,
) -> list[Result]:
    """Run a study, and write its runs (JSON) and its table (CSV, beside it); runs that the file holds are not done again.

    Args:
        name: a key of :data:`STUDIES`.
        recipe: what its settings and variants change.
        seeds: iterable of int.
        out_file: the JSON file.
        jobs: runs side by side.
        say: called with one line per finished run.
        **options: of :func:`~snntorch_bpsta.training.lightning.train`.

    Returns:
        list: the rows, by setting, variant and seed.

    Raises:
        ValueError, TypeError: an argument out of range or of the wrong type; `out_file` is no such file.
    """
    from .compare import run_all  # Lightning, which takes its time to import

    check_path("out_file", out_file)
    check_positive_int("jobs", jobs)
    wanted = grid(name, recipe, seeds)
    labels = {key: {"study": name, "setting": key[0], "variant": key[1]} for key in wanted}
    rows = list(run_all(wanted, labels, out_file, jobs, say, options).values())
    table = tabulate(rows)
    with open(Path(out_file).with_suffix(".csv"), "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    return rows


def quick(recipe: Recipe) -> Recipe:
    """`recipe` so small that it only shows that a study runs."""
    warm_up: dict[str, Any] = {} if recipe.warm_up == "none" else {"warm_up_epochs": 1}
    return replace(recipe, epochs=2, width=1 / 32, num_steps=2, limit=64, test_limit=32, batch_size=32, **warm_up)


def tabulate(rows: Sequence[Result]) -> list[Result]:
    """One dict per setting and variant.

    Mean, standard deviation and number of seeds of the accuracy in percent; what the mean would be had every run been
    stopped at its best epoch on the test set, which must not be done; the difference with the same seeds to what the study
    holds it against, and the p-value of a paired t-test of that; firing rate; energy ratios by Eq. 11 (0.1 pJ) and by
    counted operations (0.1 and 0.9 pJ); and the accuracy on every data set of `also_test` that all runs were measured on.
    """
    check_instance("rows", rows, (list, tuple), "a list of rows of a results file")
    with reading("rows", "rows of a study"):
        return _tabulate(rows)


def _tabulate(rows):
    table, first = [], {}
    others = [
        name
        for name in (rows[0].get("also_test") or {} if rows else {})
        if all(name in (row.get("also_test") or {}) for row in rows)
    ]
    against = STUDIES[rows[0]["study"]].against if rows else "variant"
    for setting, variant in dict.fromkeys((row["setting"], row["variant"]) for row in rows):
        runs = {row["seed"]: row for row in rows if (row["setting"], row["variant"]) == (setting, variant)}
        accuracies = {seed: 100 * row["accuracy"] for seed, row in runs.items()}
        base = first.setdefault(variant if against == "setting" else setting, accuracies)
        both = [seed for seed in accuracies if seed in base]
        differences = [accuracies[seed] - base[seed] for seed in both]

        def average(key, runs=runs):
            values = [row[key] for row in runs.values() if row.get(key) is not None]
            return mean(values) if values else None

        table.append(
            {
                "setting": setting,
                "variant": variant,
                "seeds": len(runs),
                "accuracy": mean(accuracies.values()),
                "accuracy_std": stdev(accuracies.values()) if len(runs) > 1 else None,
                "accuracy_best_epoch": mean(100 * _best(row["history"]) for row in runs.values()),
                "difference": mean(differences) if differences and base is not accuracies else None,
                "p": None if base is accuracies else paired_p(differences),
                "firing_rate": average("firing_rate"),
                "energy_ratio": average("energy_ratio"),
                "energy_ratio_counted": average("energy_ratio_counted"),
                "energy_ratio_counted_fp32_ac": average("energy_ratio_counted_fp32_ac"),
            }
        )
        for name in others:
            found = [100 * row["also_test"][name]["accuracy"] for row in runs.values()]
            table[-1] |= {
                f"accuracy_{name}": mean(found),
                f"accuracy_{name}_std": stdev(found) if len(found) > 1 else None,
            }
    return table


def paired_p(differences: Sequence[float]) -> float | None:
    """The two-sided p-value of Student's t-test that the mean of paired `differences` is 0; None for fewer than two, or all
    the same."""
    if len(differences) < 2 or len(set(differences)) == 1:
        return None
    from scipy.stats import ttest_1samp

    return float(ttest_1samp(differences, 0).pvalue)


def format_study(table: Sequence[Result]) -> str:
    """What :func:`tabulate` returns as a Markdown table, which also reads well in a terminal."""
    check_instance("table", table, (list, tuple), "what tabulate returns")
    with reading("table", "what tabulate returns"):
        head = [
            "setting",
            "variant",
            "seeds",
            "accuracy %",
            "best epoch %",
            "difference",
            "p",
            "firing rate",
            "EE (Eq. 11)",
        ]
        head += ["EE (counted, 0.1 pJ)", "EE (counted, 0.9 pJ)"]
        others = [
            key for key in (table[0] if table else {}) if key.startswith("accuracy_") and f"{key}_std" in table[0]
        ]
        head += [f"% on {key.removeprefix('accuracy_')}" for key in others]
        cells = [
            [
                row["setting"] or "-",
                row["variant"],
                str(row["seeds"]),
                _percent(row, "accuracy"),
                f"{row['accuracy_best_epoch']:.2f}",
                number(row["difference"], "+.2f"),
                number(row["p"], ".3f"),
                number(row["firing_rate"], ".3f"),
                number(row["energy_ratio"], ".1f"),
                number(row["energy_ratio_counted"], ".1f"),
                number(row["energy_ratio_counted_fp32_ac"], ".2f"),
                *[_percent(row, key) for key in others],
            ]
            for row in table
        ]
        return markdown(head, cells)


def _best(history):
    """The best accuracy of an epoch with neurons, if there is one."""
    spiking = [epoch["test_accuracy"] for epoch in history if epoch.get("warm_up") != "identity"]
    return max(spiking or (epoch["test_accuracy"] for epoch in history))


def _percent(row, key):
    return f"{row[key]:.2f}" + (f" ± {row[f'{key}_std']:.2f}" if row[f"{key}_std"] is not None else "")
