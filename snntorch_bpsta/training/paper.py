"""The paper's tables, row by row, as recipes: what was reported, and the command that runs it again."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING

from .._checks import NUMBER, check_choice, check_instance, check_rows
from ..networks import NETWORKS
from ._tables import markdown, number
from .recipes import COMPARED, RECIPES, Recipe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._typing import Result

__all__ = ["Row", "beside", "full_size", "paper_rows", "variant"]

_MEASURED = {"seed": (int,), "recipe": (dict,), "accuracy": NUMBER, "firing_rate": (*NUMBER, type(None))}
DATASETS = ("mnist", "cifar10", "nmnist", "dvs_gesture", "cifar10_dvs")


@dataclass(frozen=True)
class Row:
    """One reported number.

    Attributes:
        recipe: what to train.
        accuracy: the paper's test accuracy, percent.
        firing_rate: the paper's spikes per neuron and step, or None where the table has none.
        seeds: how often the paper ran it.
    """

    recipe: Recipe
    accuracy: float
    firing_rate: float | None = None
    seeds: int = 1


# Tables 2 to 5 and 7; Table 6 as (accuracy, firing rate) of theirs and of the baseline; Tables 8 and 9 in the order of
# COMPARED.
_MAIN = {
    "table2": ("mnist", 99.58),
    "table3": ("cifar10", 92.15),
    "table4": ("nmnist", 99.71),
    "table5": ("dvs_gesture", 98.96),
    "table7": ("cifar10_dvs", 78.95),
}
_TABLE_6 = {
    "mnist": ((99.58, 0.082), (99.42, 0.183)),
    "nmnist": ((99.61, 0.097), (99.32, 0.176)),
    "cifar10": ((92.33, 0.108), (89.49, 0.214)),
    "dvs_gesture": ((98.26, 0.083), (93.92, 0.165)),
    "cifar10_dvs": ((77.76, 0.097), (71.40, 0.177)),
}
_TABLE_8 = {"dvs_gesture": (93.92, 97.56, 98.96), "cifar10_dvs": (71.40, 75.30, 78.95)}
_TABLE_9 = {4: (73.96, 89.58, 96.18), 8: (84.03, 94.44, 96.18), 16: (93.92, 97.56, 98.26), 32: (95.49, 96.53, 98.27)}


def full_size(dataset: str, preset: str = "paper") -> Recipe:
    """The recipe of a data set at the paper's size.

    Where the paper and its released code differ, the preset decides: "paper" has alpha = 0.8, T = 16, 300 epochs and SGDR;
    "official_code" its own networks, alpha = 0.2, one cosine, and on CIFAR-10 T = 8 and 500 epochs, the first 80 of them
    without neurons. What neither says is as in :class:`Recipe`. (The code also fires at u = threshold; snnTorch does not.)

    Args:
        dataset: "mnist", "cifar10", "nmnist", "dvs_gesture" or "cifar10_dvs".
        preset: "paper" or "official_code".

    Raises:
        ValueError: another name.
    """
    check_choice("dataset", dataset, DATASETS)
    check_choice("preset", preset, tuple(NETWORKS))
    if preset == "paper":
        return replace(RECIPES[dataset], schedule="sgdr")
    recipe = replace(RECIPES[dataset], preset=preset, temporal_alpha=0.2)
    if dataset == "cifar10":
        recipe = replace(recipe, num_steps=8, epochs=500, warm_up="identity", warm_up_epochs=80)
    return recipe


def _adjusted(recipe, variant):
    """`recipe` as a variant, with its own alpha."""
    changed = recipe.variant(variant)
    return replace(changed, temporal_alpha=recipe.temporal_alpha) if changed.temporal_alpha else changed


def paper_rows(preset: str = "paper") -> dict[str, Row]:
    """Name -> :class:`Row` of every number of ours and of the baseline in Tables 2 to 9.

    Args:
        preset: see :func:`full_size`.

    Example:
        >>> from snntorch_bpsta.training.paper import paper_rows
        >>> row = paper_rows()["table5"]
        >>> row.recipe.dataset, row.recipe.num_steps, row.accuracy
        ('dvs_gesture', 16, 98.96)
    """
    recipes = {dataset: full_size(dataset, preset) for dataset in DATASETS}
    rows = {}
    for name, (dataset, accuracy) in _MAIN.items():
        rows[name] = Row(recipes[dataset], accuracy, seeds=5 if dataset == "mnist" else 1)
    for dataset, (ours, baseline) in _TABLE_6.items():
        rows[f"table6-{dataset}"] = Row(recipes[dataset], *ours)
        rows[f"table6-{dataset}-baseline"] = Row(recipes[dataset].variant("baseline"), *baseline)
    for dataset, accuracies in _TABLE_8.items():
        for variant, accuracy in zip(COMPARED, accuracies, strict=True):
            rows[f"table8-{dataset}-{variant}"] = Row(_adjusted(recipes[dataset], variant), accuracy)
    for num_steps, accuracies in _TABLE_9.items():
        for variant, accuracy in zip(COMPARED, accuracies, strict=True):
            recipe = replace(_adjusted(recipes["dvs_gesture"], variant), num_steps=num_steps)
            rows[f"table9-T{num_steps}-{variant}"] = Row(recipe, accuracy)
    return rows


def beside(rows: dict[str, Row], runs: Sequence[Result]) -> str:
    """The paper's rows as a Markdown table, with the runs of ours that had the very same recipe beside them.

    The verdict is "reproduced" where our mean and two standard errors (half a point for a single run) reach the paper's
    accuracy, else "not reproduced", or "not run".

    Args:
        rows: what :func:`paper_rows` returns.
        runs: rows of results files.

    Raises:
        ValueError: `runs` are no such rows.
        TypeError: an argument of the wrong type.
    """
    check_instance("rows", rows, dict, "what paper_rows returns")
    for name, row in rows.items():
        check_instance(f"rows[{name!r}]", row, Row, "a Row of paper_rows")
    check_rows("runs", runs, _MEASURED)
    default = Recipe().as_dict()
    head = ["row", "data set", "variant", "T", "epochs", "paper, %", "paper, rate", "ours, % (seeds)", "ours, rate"]
    cells = []
    for name, row in rows.items():
        recipe = row.recipe
        own = {run["seed"]: run for run in runs if default | run["recipe"] == recipe.as_dict()}
        accuracy = rate = "-"
        verdict = "not run"
        if own:
            accuracies = [100 * run["accuracy"] for run in own.values()]
            rates = [run["firing_rate"] for run in own.values() if run["firing_rate"] is not None]
            accuracy = f"{mean(accuracies):.2f} ({len(own)})"
            rate = number(mean(rates) if rates else None, ".3f")
            error = stdev(accuracies) / len(own) ** 0.5 if len(own) > 1 else 0.25
            verdict = "reproduced" if mean(accuracies) + 2 * error >= row.accuracy else "not reproduced"
        cells.append(
            [
                name, recipe.dataset, variant(recipe), str(recipe.num_steps), str(recipe.epochs), f"{row.accuracy:.2f}",
                number(row.firing_rate, ".3f"), accuracy, rate, verdict,
            ]
        )  # fmt: skip
    return markdown([*head, "verdict"], cells)


def variant(recipe: Recipe) -> str:
    """The row of ``VARIANTS`` that a recipe is, with any alpha."""
    check_instance("recipe", recipe, Recipe, "a Recipe")
    if recipe.output_spike_grad != "same" or recipe.temporal_alpha < 0 or recipe.spatial_leak:  # which are ours
        return recipe.variant_name()
    return {(0, 0): "baseline", (1, 0): "bpsa", (0, 1): "bpta", (1, 1): "bpsa+bpta"}[
        recipe.spatial_adj, recipe.temporal_alpha > 0
    ]


def runs_below(folder: Path, must_exist: bool = True) -> tuple[list[Result], dict[Path, str]]:
    """The rows of all results files below a folder, of ``bpsta train`` and of studies; and the JSON files that cannot be
    read, with the reason. JSON that holds something else is passed over.

    Raises:
        ValueError: there is no such folder, or, with `must_exist`, no run in it.
    """
    runs: list[Result] = []
    others: dict[Path, str] = {}
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--results must be a folder of runs, got the file {folder}")
    if must_exist and not folder.exists():
        raise ValueError(f"--results must be a folder of runs: there is no {folder}")
    for path in sorted(folder.rglob("*.json")):
        if not path.is_file():
            continue
        try:
            content = json.loads(path.read_text())
        except (OSError, ValueError, RecursionError) as error:
            others[path] = f"{type(error).__name__}: {error}"
            continue
        rows = content.get("runs", [content]) if isinstance(content, dict) else None
        rows = [row for row in rows if isinstance(row, dict) and "accuracy" in row] if isinstance(rows, list) else []
        try:
            check_rows("runs", rows, _MEASURED)
        except (TypeError, ValueError) as error:
            others[path] = str(error)
        else:
            runs += rows
    if must_exist and not runs:
        raise ValueError(f"--results must be a folder of runs: none lies in {folder} or below it")
    return runs, others
