"""``bpsta train`` and ``bpsta evaluate``."""

from __future__ import annotations

import argparse
from pathlib import Path

from ._options import add_also_test, add_recipe_options, add_run_options, given, positive, recipe_of


def train_options(parser: argparse.ArgumentParser) -> None:
    from ..training.paper import paper_rows

    add_recipe_options(parser)
    add = parser.add_argument
    add("--recipe", choices=tuple(paper_rows()), metavar="ROW", help="a row of the paper: see bpsta recipes")
    add("--seed", type=int, default=0, help="default: 0")
    add("--out", type=Path, help="folder for checkpoint, logs and result (default: runs/DATASET-VARIANT-SEED)")
    add("--resume", action="store_true", help="go on from OUT/last.ckpt")
    add("--extend", action="store_true", help="go on like that with more --epochs than the run was begun with")
    add("--overwrite", action="store_true", help="begin anew in a folder that holds a run, which is lost")
    add("--devices", type=positive, default=1, help="processes per machine, by DDP; the batch size is per process")
    add("--num-nodes", type=positive, default=1, help="machines; start it on each by torchrun or SLURM")
    add("--precision", choices=("32-true", "bf16-mixed", "16-mixed"), default="32-true")
    add("--num-workers", type=int, default=0, help="of the data loaders")
    add_run_options(parser)
    add_also_test(parser)


def run_train(arguments: argparse.Namespace) -> None:
    from ..training._tables import print_result
    from ..training.run import train

    recipe = recipe_of(arguments)
    name = arguments.recipe or f"{recipe.dataset}-{recipe.variant_name()}"
    out = arguments.out or Path("runs") / f"{name}-{arguments.seed}"
    row = train(
        recipe, arguments.seed, out, resume=arguments.resume, extend=arguments.extend, overwrite=arguments.overwrite,
        devices=arguments.devices, num_nodes=arguments.num_nodes, precision=arguments.precision,
        num_workers=arguments.num_workers, **given(arguments, "data_root", "download", "accelerator", "also_test"),
    )  # fmt: skip
    from ..training.folder import is_first

    if is_first():
        print_result(row)
        print(f"checkpoint, logs and result.json: {out}")


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
