"""``bpsta study``, and ``bpsta compare``, which is one."""

from __future__ import annotations

import argparse
import textwrap
from dataclasses import fields
from pathlib import Path

from .._progress import Progress
from ._options import (
    add_also_test,
    add_recipe_options,
    add_run_options,
    fail,
    given,
    names,
    positive,
    recipe_of,
    seeds,
)


def study_options(parser: argparse.ArgumentParser) -> None:
    from ..training.studies import STUDIES

    parser.add_argument("name", choices=tuple(STUDIES), metavar="STUDY", help=", ".join(STUDIES))
    parser.add_argument(
        "--quick", action="store_true", default=None, help="tiny sizes, 2 seeds at most: to see that it works"
    )
    parser.add_argument(
        "--settings", type=names, metavar="NAMES", help="these of the settings alone: 'penalty 0,penalty 1'"
    )
    compare_options(parser)


def compare_options(parser: argparse.ArgumentParser) -> None:
    add_recipe_options(parser, skip=("spatial_adj", "spatial_leak", "temporal_alpha", "output_spike_grad"))
    add = parser.add_argument
    add("--seeds", type=seeds, help="how many (5), or which (3,7; one: 3,); default: as the study has it, 3 to compare")
    add("--variants", type=names, metavar="NAMES", help="these of the variants alone: baseline,bpsa")
    add("--jobs", type=positive, help="runs side by side (default: 1)")
    add(
        "--out", type=Path,
        help="folder of runs.json, table.csv and figure.png (default: runs/STUDY-DATASET), or a file NAME.json, beside "
        "which lie NAME.csv and NAME.png",
    )  # fmt: skip
    add_run_options(parser)
    add_also_test(parser)


def run_study(arguments: argparse.Namespace) -> int:
    from ..plots import study as draw
    from ..training.recipes import Recipe
    from ..training.studies import STUDIES, RunsFailed, format_study, quick, run_all, study, tabulate
    from ..training.studies.claims import used

    name, chosen = arguments.name, STUDIES[arguments.name]
    recipe = recipe_of(arguments) if "recipe" in chosen.uses else None
    options = ("seeds", "jobs", "quick", "data_root", "download", "accelerator", "also_test")
    own = given(arguments, *options, *(option.name for option in fields(Recipe)))
    if recipe is None:
        own |= given(arguments, "config")
    for option in own.keys() - used(name, recipe):
        raise ValueError(f"--{option.replace('_', '-')} is of no use to the study {name!r}: leave it out")
    wanted = own.get("seeds", range(min(2, chosen.seeds) if "quick" in own else chosen.seeds))
    recipe = quick(recipe) if recipe and "quick" in own else recipe
    title = f"{name}: {recipe.dataset}, {recipe.network} x {recipe.width:g}" if recipe else name
    out = arguments.out or Path("runs") / (f"{name}-{recipe.dataset}" if recipe else name)
    out = out if out.suffix == ".json" else out / "runs.json"
    print(textwrap.fill(chosen.claim, 100) + "\n")
    failed = None
    try:
        with Progress(name, "epochs") as progress:
            rows = study(
                name, recipe, wanted, out, jobs=own.get("jobs", 1), say=progress.say, progress=progress.at,
                **given(arguments, "variants", "settings", "data_root", "download", "accelerator", "also_test"),
            )  # fmt: skip
    except RunsFailed as error:
        failed, rows = error, error.rows
    if failed and not rows:
        return fail(failed, 1)
    print()
    mark = ["--quick: that it works, no result"] * ("quick" in own)
    if recipe:
        of = f"{recipe.dataset}, T = {recipe.num_steps}, {recipe.epochs} epochs, test set after the last one"
        print(f"{name}: {'; '.join([of, *mark])}\n")
    print(format_study(tabulate(rows)))
    draw(rows, "; ".join([title, *mark])).savefig(run_all.figure_file(out), dpi=150)
    print(f"\nruns: {out}\ntable: {run_all.table_file(out)}\nfigure: {run_all.figure_file(out)}")
    return fail(failed, 1) if failed else 0


def run_compare(arguments: argparse.Namespace) -> int:
    arguments.name = "compare"
    return run_study(arguments)
