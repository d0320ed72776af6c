"""``bpsta train`` and ``bpsta evaluate``."""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ._options import add_also_test, add_recipe_options, add_run_options, given, positive, recipe_of, run_of


def train_options(parser: argparse.ArgumentParser) -> None:
    from ..training.paper import paper_rows

    add_recipe_options(parser)
    add = parser.add_argument
    add("--recipe", choices=tuple(paper_rows()), metavar="ROW", help="a row of the paper: see bpsta recipes")
    add("--seed", type=int, help="default: 0")
    add("--out", type=Path, help="folder for checkpoint, logs and result (default: runs/DATASET-VARIANT-SEED)")
    add("--resume", action="store_true", help="go on from OUT/last.ckpt")
    add("--extend", action="store_true", help="go on like that with more --epochs than the run was begun with")
    add("--overwrite", action="store_true", help="begin anew in a folder that holds a run, which is lost")
    add("--devices", type=positive, default=1, help="processes per machine, by DDP; the batch size is per process")
    add("--num-nodes", type=positive, default=1, help="machines; start it on each by torchrun or SLURM")
    add("--precision", choices=("32-true", "bf16-mixed", "16-mixed"), help="default: 32-true")
    add("--num-workers", type=int, default=0, help="of the data loaders")
    add_run_options(parser)
    add_also_test(parser)


def run_train(arguments: argparse.Namespace) -> None:
    from ..training._tables import print_result
    from ..training.run import train

    recipe, was = recipe_of(arguments), run_of(arguments)
    seed = was.get("seed", 0) if arguments.seed is None else arguments.seed
    precision = arguments.precision or was.get("precision", "32-true")
    name = arguments.recipe or f"{recipe.dataset}-{recipe.variant_name()}"
    out = arguments.out or Path("runs") / f"{name}-{seed}"
    if arguments.extend and arguments.warm_up_epochs is None:
        recipe = replace(recipe, **_warm_up_in(out))
    row = train(
        recipe, seed, out, resume=arguments.resume, extend=arguments.extend, overwrite=arguments.overwrite,
        devices=arguments.devices, num_nodes=arguments.num_nodes, precision=precision,
        num_workers=arguments.num_workers, **given(arguments, "data_root", "download", "accelerator", "also_test"),
    )  # fmt: skip
    from ..training.folder import is_first

    if is_first():
        print_result(row)
        print(f"checkpoint, logs and result.json: {out}")
        _draw(row, recipe, out)


def _warm_up_in(out):
    """The warm-up of the run in a folder, which had fewer epochs."""
    from ..training.checkpoints import CHECKPOINT, PREVIOUS, load_checkpoint

    for name in (CHECKPOINT, PREVIOUS):
        with suppress(ValueError, OSError):
            was = load_checkpoint(out / name)[1]
            return {"warm_up": was.warm_up, "warm_up_epochs": was.warm_up_epochs}
    return {}


def _draw(row, recipe, out):
    """The figure of a run, where there is what draws it."""
    from ..training.folder import FIGURE

    try:
        from ..plots import study
    except ModuleNotFoundError as error:
        print(f"no figure: {error.name} is not installed (pip install 'snntorch-bpsta[plots]')", file=sys.stderr)
        return
    title = f"{recipe.dataset}, {recipe.network} x {recipe.width:g}, seed {row['seed']}"
    study([{"setting": "", "variant": recipe.variant_name(), **row}], title).savefig(out / FIGURE, dpi=150)
    print(f"figure: {out / FIGURE}")


def evaluate_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("checkpoint", type=Path, help="OUT/last.ckpt of bpsta train")
    add("--test-limit", type=int, default=0, help="measure on this many samples")
    add("--dataset", metavar="NAME", help="measure on the test set of this data set")
    add(
        "--neurobench", nargs="?", const="", metavar="JSON",
        help="NeuroBench's metrics as well (extra neurobench), and all of it as JSON (default: neurobench.json beside the "
        "checkpoint)",
    )  # fmt: skip
    add_run_options(parser)


def run_evaluate(arguments: argparse.Namespace) -> None:
    from ..training._tables import print_result

    if arguments.neurobench is None:
        from ..training.run import evaluate
    else:
        from ..training.neurobench import evaluate

    options = given(arguments, "data_root", "download", "accelerator")
    row = evaluate(arguments.checkpoint, test_limit=arguments.test_limit, dataset=arguments.dataset, **options)
    print_result(row)
    if arguments.neurobench is not None:
        from ..training.results import write_json

        out = Path(arguments.neurobench or arguments.checkpoint.with_name("neurobench.json"))
        write_json(out, row)
        for name, value in row["neurobench"]["metrics"].items():
            values = value.items() if isinstance(value, dict) else [("", value)]
            print(
                f"  {name:22} "
                + ", ".join(f"{part} {number:g}".strip() for part, number in values if number is not None)
            )
        print(f"NeuroBench's report: {out}")
