"""The rows of a study as a table, with paired tests."""

from __future__ import annotations

from statistics import mean, stdev
from typing import TYPE_CHECKING

from ..._checks import NUMBER, check_rows
from .._tables import markdown, number
from .claims import STUDIES, measure_training

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..._typing import Result

__all__ = ["format_study", "tabulate"]

# What a row measures: its name there and in the CSV file -> the heading and the format of the table. A column is the mean
# over the seeds. Of training:
COLUMNS = {
    "accuracy": ("accuracy %", ".2f"),
    "accuracy_best_epoch": ("best epoch %", ".2f"),
    "difference": ("difference", "+.2f"),
    "p": ("p", ".3f"),
    "firing_rate": ("firing rate", ".3f"),
    "energy_ratio": ("EE (Eq. 11)", ".1f"),
    "energy_ratio_fp32_ac": ("EE (Eq. 11, 0.9 pJ)", ".1f"),
    "energy_ratio_counted": ("EE (counted, 0.1 pJ)", ".1f"),
    "energy_ratio_counted_fp32_ac": ("EE (counted, 0.9 pJ)", ".2f"),
    "train_seconds": ("s per run", ".3g"),
    "first_gradient": ("dL/dw, first", ".1e"),  # of "credit"
    # of "gradients"
    "error_first_layer": ("dL/du, first layer", ".1e"),
    "error_last_layer": ("dL/du, last layer", ".1e"),
    "error_first_step": ("at step 1 / largest", ".2f"),
    # of "simulator"
    "recordings": ("recordings", ".0f"),
    "events_simulated": ("events, simulated", ".0f"),
    "events_real": ("events, real", ".0f"),
    "events_ratio": ("simulated / real", ".3f"),
    "events_correlation": ("correlation of the counts", ".3f"),
    "on_simulated": ("ON, simulated", ".3f"),
    "on_real": ("ON, real", ".3f"),
    **{
        f"correlation_{saccade}_{polarity}": (f"correlation of frames: saccade {saccade}, {polarity}", ".3f")
        for saccade in (1, 2, 3)
        for polarity in ("OFF", "ON")
    },
    "correlation_control": ("with another image's recording", ".3f"),
}
_OF_RATE = ("energy_ratio", "energy_ratio_fp32_ac")  # infinite in a silent network, which JSON writes as null
_LABELS = {"study": (str,), "setting": (str,), "variant": (str,), "seed": (int,)}
_MAYBE = (*NUMBER, type(None))


def check_study_rows(name: str, rows: Sequence[Result]) -> None:
    """Refuse what are no rows of a study: who they are, and every number that a table takes."""
    check_rows(name, rows, _LABELS)
    trained = any("accuracy" in row or _trains(row["study"]) for row in rows)
    if trained:
        check_rows(name, rows, {"accuracy": NUMBER, "firing_rate": _MAYBE, "history": (list,)})
    for i, row in enumerate(rows):
        check_rows(f"{name}[{i}:]", [row], {key: _MAYBE for key in COLUMNS if key in row})
        if trained:
            if not 0 <= row["accuracy"] <= 1:
                raise ValueError(f"{name}[{i}]: accuracy must be from 0 to 1, got {row['accuracy']}")
            check_rows(f"history of {name}[{i}]", row["history"], {"test_accuracy": NUMBER})
            if not row["history"]:
                raise ValueError(f"{name}[{i}]: history must hold an epoch at least")
        for measured in _others(name, i, row).values():
            check_rows(f"also_test of {name}[{i}]", [measured], {"accuracy": NUMBER})


def _trains(study):
    """Whether every run of a study is a training."""
    return study in STUDIES and STUDIES[study].measure is measure_training


def _others(name, i, row):
    """What a run measured on other test sets."""
    found = row.get("also_test") or {}
    if not isinstance(found, dict):
        raise TypeError(f"also_test of {name}[{i}] must be a dict, got {type(found).__name__}")
    return found


def tabulate(rows: Sequence[Result]) -> list[Result]:
    """One dict per setting and variant of the rows of a study.

    How many seeds, and the mean over them of everything measured. Of trained networks: mean and standard deviation of
    the accuracy in percent; what the mean would be had every run been stopped at its best epoch on the test set, which
    must not be done; the difference with the same seeds to what the study holds it against, and the p-value of a paired
    t-test of that; firing rate; energy ratios by Eq. 11 and by counted operations, with an accumulate of 0.1 and 0.9 pJ;
    seconds of training; and the accuracy on every data set of `also_test` that all runs were measured on.

    Raises:
        ValueError, TypeError: `rows` are no rows of a study.
    """
    check_study_rows("rows", rows)
    table: list[Result] = []
    if not rows:
        return table
    trained, study = "accuracy" in rows[0], STUDIES.get(rows[0]["study"])
    first: dict[str, dict[int, float]] = {}
    columns = [key for key in COLUMNS if any(key in row for row in rows)]
    others = [
        name for name in rows[0].get("also_test") or {} if all(name in (row.get("also_test") or {}) for row in rows)
    ]
    for setting, variant in dict.fromkeys((row["setting"], row["variant"]) for row in rows):
        runs = {row["seed"]: row for row in rows if (row["setting"], row["variant"]) == (setting, variant)}
        line: Result = {"setting": setting, "variant": variant, "seeds": len(runs)}
        if trained:
            line |= _accuracies(runs, first, variant if study and study.against == "setting" else setting)
        line |= {key: _mean(runs, key) for key in columns if key not in line}
        for name in others:
            line |= _spread(f"accuracy_{name}", [100 * row["also_test"][name]["accuracy"] for row in runs.values()])
        table.append(line)
    return table


def _accuracies(runs, first, group):
    """What a table says of accuracies; `first` has those of the first line of every group."""
    accuracies = {seed: 100 * row["accuracy"] for seed, row in runs.items()}
    base = first.setdefault(group, accuracies)
    differences = [accuracies[seed] - base[seed] for seed in accuracies if seed in base]
    return {
        **_spread("accuracy", accuracies.values()),
        "accuracy_best_epoch": mean(100 * _best(row["history"]) for row in runs.values()),
        "difference": mean(differences) if differences and base is not accuracies else None,
        "p": None if base is accuracies else paired_p(differences),
    }


def _spread(name, values):
    return {name: mean(values), f"{name}_std": stdev(values) if len(values) > 1 else None}


def _mean(runs, key):
    values = [row[key] for row in runs.values() if row.get(key) is not None]
    if key in _OF_RATE and any(row.get(key, 0) is None and row["firing_rate"] == 0 for row in runs.values()):
        return float("inf")
    return mean(values) if values else None


def _best(history):
    """The best accuracy of an epoch with neurons, if there is one."""
    spiking = [epoch["test_accuracy"] for epoch in history if epoch.get("warm_up") != "identity"]
    return max(spiking or (epoch["test_accuracy"] for epoch in history))


def paired_p(differences: Sequence[float]) -> float | None:
    """The two-sided p-value of Student's t-test that the mean of paired `differences` is 0; None for fewer than two, or all
    the same."""
    if len(differences) < 2 or len(set(differences)) == 1:
        return None
    from scipy.stats import ttest_1samp

    return float(ttest_1samp(differences, 0).pvalue)


def format_study(table: Sequence[Result]) -> str:
    """What :func:`tabulate` returns as a Markdown table, which also reads well in a terminal. A column without a value is
    left out.

    Raises:
        ValueError, TypeError: `table` is not that.
    """
    check_rows("table", table, {"setting": (str,), "variant": (str,), "seeds": (int,)})
    others = [key for key in (table[0] if table else {}) if f"{key}_std" in table[0] and key not in COLUMNS]
    columns = COLUMNS | {key: (f"% on {key.removeprefix('accuracy_')}", ".2f") for key in others}
    columns = {key: shown for key, shown in columns.items() if any(row.get(key) is not None for row in table)}
    for row in table:
        check_rows("table", [row], {key: _MAYBE for name in columns for key in (name, f"{name}_std") if key in row})
    named = any(row["setting"] for row in table)
    cells = [
        [
            *([row["setting"] or "-"] if named else []),
            row["variant"],
            str(row["seeds"]),
            *(
                number(row.get(key), spec)
                + (f" ± {row[f'{key}_std']:.2f}" if row.get(f"{key}_std") is not None else "")
                for key, (_, spec) in columns.items()
            ),
        ]
        for row in table
    ]
    head = ["setting"] * named + ["variant", "seeds", *(heading for heading, _ in columns.values())]
    return markdown(head, cells)
