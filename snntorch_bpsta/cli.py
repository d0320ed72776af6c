"""``bpsta``: parse, call, print."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ._version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence


class _Parser(argparse.ArgumentParser):
    """One line per error, exit code 2."""

    def error(self, message):
        raise SystemExit(_fail(f"{message} (see {self.prog} --help)"))


def _fail(message):
    print(f"bpsta: error: {' '.join(str(message).split())}", file=sys.stderr)
    return 2


def _seeds(text):
    """``5`` is seeds 0 to 4; ``3,7`` is those two."""
    try:
        seeds = [int(part) for part in text.split(",")] if "," in text else list(range(int(text)))
    except ValueError:
        seeds = []
    if not seeds or min(seeds) < 0:
        raise argparse.ArgumentTypeError(f"expected a number of seeds (5) or a list (3,7), got {text!r}")
    return seeds


def _add_recipe_options(parser, skip=()):
    from .training.recipes import RECIPES, Recipe

    group = parser.add_argument_group("recipe (default: the data set's row, see below)")
    for option in fields(Recipe):
        if option.name in ("dataset", *skip):
            continue
        name, metadata = "--" + option.name.replace("_", "-"), option.metadata
        if option.type is bool:
            group.add_argument(name, action=argparse.BooleanOptionalAction, default=None, help=metadata["help"])
        else:
            group.add_argument(
                name, type=option.type, choices=metadata["choices"], help=metadata["help"],
                metavar=None if metadata["choices"] else option.type.__name__.upper(),
            )  # fmt: skip
    parser.add_argument("--dataset", choices=tuple(RECIPES), metavar="NAME", help="data set (default: digits)")
    default = Recipe()
    own = ", ".join(f"{k}={v}" for k, v in default.as_dict().items() if k not in ("dataset", *skip))
    lines = [f"rows of the data sets, over the paper's values ({own}):"]
    for name, recipe in RECIPES.items():
        own = {k: v for k, v in recipe.as_dict().items() if k != "dataset" and v != getattr(default, k)}
        lines.append(f"  {name:12} " + (", ".join(f"{k}={v}" for k, v in own.items()) or "-"))
    parser.epilog = "\n".join(textwrap.fill(line, 79, subsequent_indent=" " * 14) for line in lines)
    parser.description = textwrap.fill(parser.description, 79)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter


def _add_run_options(parser):
    parser.add_argument(
        "--data-root", type=Path, help="folder with the data sets (default: $SNNTORCH_BPSTA_DATA, else the cache)"
    )
    parser.add_argument("--download", action="store_true", help="fetch a missing data set")
    parser.add_argument("--accelerator", choices=("auto", "cpu", "gpu"), default="auto", help="where to run")


def _names(text):
    return tuple(filter(None, text.split(",")))


def _recipe(arguments):
    from .training.recipes import RECIPES, Recipe

    given = {f.name: getattr(arguments, f.name, None) for f in fields(Recipe) if f.name != "dataset"}
    if getattr(arguments, "recipe", None) is None:
        arguments.dataset = arguments.dataset or "digits"
        recipe = RECIPES[arguments.dataset]
    else:
        from .training.paper import paper_rows

        recipe = paper_rows(given["preset"] or "paper")[arguments.recipe].recipe
        if arguments.dataset not in (None, recipe.dataset):
            raise ValueError(f"--recipe {arguments.recipe} is of {recipe.dataset}: drop --dataset {arguments.dataset}")
        arguments.dataset = recipe.dataset
    return replace(recipe, **{name: value for name, value in given.items() if value is not None})


def _train(arguments):
    from .training.lightning import train

    recipe = _recipe(arguments)
    out = arguments.out or Path("runs") / (arguments.recipe or arguments.dataset)
    row = train(
        recipe, arguments.seed, out, resume=arguments.resume, data_root=arguments.data_root,
        download=arguments.download, devices=arguments.devices, num_nodes=arguments.num_nodes,
        accelerator=arguments.accelerator, precision=arguments.precision, num_workers=arguments.num_workers,
        also_test=arguments.also_test,
    )  # fmt: skip
    from lightning.pytorch.utilities import rank_zero_only

    if rank_zero_only.rank == 0:
        _print_result(row)
        print(f"checkpoint, logs and result.json: {out}")


def _evaluate(arguments):
    if arguments.neurobench is None:
        from .training.lightning import evaluate
    else:
        from .training.neurobench import evaluate

    row = evaluate(
        arguments.checkpoint, data_root=arguments.data_root, download=arguments.download,
        accelerator=arguments.accelerator, test_limit=arguments.test_limit, dataset=arguments.dataset,
    )  # fmt: skip
    _print_result(row)
    if arguments.neurobench is not None:
        from .training.lightning import write_json

        out = Path(arguments.neurobench or arguments.checkpoint.with_name("neurobench.json"))
        write_json(out, row)
        for name, value in row["neurobench"]["metrics"].items():
            values = value.items() if isinstance(value, dict) else [("", value)]
            print(
                f"  {name:22} "
                + ", ".join(f"{part} {number:g}".strip() for part, number in values if number is not None)
            )
        print(f"NeuroBench's report: {out}")


def _print_result(row):
    for name, found in row.get("also_test", {}).items():
        print(f"{name}: test accuracy {100 * found['accuracy']:.2f} % of {found['samples']}")
    print(f"test accuracy {100 * row['accuracy']:.2f} %", end="")
    if row["firing_rate"] is None:
        print()
        return
    print(f", firing rate {row['firing_rate']:.4f} spikes per neuron and step")
    for layer, rate in row["firing_rates"].items():
        print(f"  layer {layer:8} {rate:.4f}")


def _compare(arguments):
    from .plots import comparison
    from .training.compare import compare, format_table, summarise

    recipe = _recipe(arguments)
    out = arguments.out or Path("runs") / f"compare-{arguments.dataset}.json"
    rows = compare(
        recipe, arguments.seeds, out, jobs=arguments.jobs, data_root=arguments.data_root,
        download=arguments.download, accelerator=arguments.accelerator, also_test=arguments.also_test,
    )  # fmt: skip
    print(f"\n{arguments.dataset}, T = {recipe.num_steps}, {recipe.epochs} epochs, test set after the last one:\n")
    print(format_table(summarise(rows)))
    figure = out.with_suffix(".png")
    title = (
        f"{arguments.dataset}: {recipe.network} x {recipe.width:g}, T = {recipe.num_steps}, readout {recipe.readout}"
    )
    comparison(rows, title).savefig(figure, dpi=150)
    print(f"\nruns: {out}\nfigure: {figure}")


def _recipes(arguments):
    import json

    from .training.paper import beside, paper_rows

    runs = []
    for path in sorted(arguments.results.rglob("*.json")):
        try:
            content = json.loads(path.read_text())
            runs += content["runs"] if "runs" in content else [content] if "accuracy" in content else []
        except (ValueError, KeyError, TypeError):
            continue  # no results file
    print(beside(paper_rows(arguments.preset), runs))
    print("\nbpsta train --recipe ROW runs a row; every option of it may be changed, and then it is another one.")


def _study(arguments):
    from .plots import study as draw
    from .training.studies import STUDIES, format_study, quick, study, tabulate

    if arguments.name == "simulator":
        _simulator(arguments)
        return
    recipe = quick(_recipe(arguments)) if arguments.quick else _recipe(arguments)
    if arguments.name == "gradients":
        _gradients(recipe, arguments)
        return
    seeds = arguments.seeds or list(range(2 if arguments.quick else 5))
    out = arguments.out or Path("runs") / f"study-{arguments.name}-{arguments.dataset}.json"
    print(textwrap.fill(STUDIES[arguments.name].claim, 100) + "\n")
    rows = study(
        arguments.name, recipe, seeds, out, jobs=arguments.jobs, data_root=arguments.data_root,
        download=arguments.download, accelerator=arguments.accelerator, also_test=arguments.also_test,
    )  # fmt: skip
    print(f"\n{arguments.name} on {arguments.dataset}, test set after the last epoch:\n")
    print(format_study(tabulate(rows)))
    figure = out.with_suffix(".png")
    draw(rows, f"{arguments.name}: {arguments.dataset}, {recipe.network} x {recipe.width:g}").savefig(figure, dpi=150)
    print(f"\nruns: {out}\ntable: {out.with_suffix('.csv')}\nfigure: {figure}")


def _gradients(recipe, arguments):
    from .plots import gradient_flow
    from .training.gradients import one_neuron, through_network
    from .training.lightning import environment, write_json

    out = arguments.out or Path("runs") / f"study-gradients-{arguments.dataset}.json"
    seed = (arguments.seeds or [0])[0]
    network = through_network(
        recipe, seed, data_root=arguments.data_root, download=arguments.download, accelerator=arguments.accelerator
    )
    neuron = one_neuron()
    write_json(out, {"recipe": recipe.as_dict(), "seed": seed, "neuron": neuron, "network": network, **environment()})
    figure = out.with_suffix(".png")
    title = f"{arguments.dataset}, {recipe.network} x {recipe.width:g}, T = {recipe.num_steps}"
    gradient_flow(neuron, network, title).savefig(figure, dpi=150)
    for row in network:
        share = " ".join(f"{value / max(max(row['flow']), 1e-30):.2f}" for value in row["flow"])
        print(
            f"{row['weights']:6} {row['variant']:10} {row['layer']:6} largest {max(row['flow']):.2e}, by step {share}"
        )
    print(f"\ngradients: {out}\nfigure: {figure}")


def _simulator(arguments):
    from .training.lightning import environment, write_json
    from .training.simulator import against_recordings, format_table

    out = arguments.out or Path("runs") / "study-simulator.json"
    rows = against_recordings(arguments.data_root)
    write_json(out, {"recordings": rows, **environment()})
    print("Simulated recordings of MNIST's images beside the real ones:\n")
    print(format_table(rows))
    print(f"\nrecordings: {out}")


def _bench(argv):
    """The benchmark is not installed: it stands beside the package in a clone."""
    root = Path(__file__).resolve().parent.parent
    if not (root / "benchmarks" / "__main__.py").is_file():
        return _fail("the benchmark is not installed: clone the repository and call python -m benchmarks there")
    sys.path.insert(0, str(root))
    from benchmarks.__main__ import main as bench

    return bench(argv)


def _parser(with_recipes):
    """The argument parser; recipes are only loaded for a command that takes them (they import torch)."""
    parser = _Parser(
        prog="bpsta", description="Train spiking networks whose gradients cross spikes (BPSA, BPTA) and compare them."
    )
    parser.add_argument("--version", action="version", version=f"snntorch-bpsta {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    train = commands.add_parser("train", help="train one network", description="Train one network.")
    train.set_defaults(run=_train)
    recipes = commands.add_parser(
        "recipes",
        help="the paper's tables, row by row, and ours beside them",
        description="List every number of the paper's tables that bpsta train --recipe runs again, with runs of ours.",
    )
    recipes.set_defaults(run=_recipes)
    recipes.add_argument("--preset", choices=("paper", "official_code"), default="paper", help="default: paper")
    recipes.add_argument("--results", type=Path, default=Path("results"), help="folder of runs (default: results)")
    compare = commands.add_parser(
        "compare",
        help="baseline, BPSA and BPSA+BPTA side by side",
        description="Train STBP's rectangle (baseline), BPSA, and BPSA+BPTA with the same seeds; print accuracy, firing "
        "rate, energy ratio (Eq. 11) and time; write all runs as JSON, and a figure. Runs that the JSON file holds "
        "already are not done again.",
    )
    compare.set_defaults(run=_compare)
    study = commands.add_parser(
        "study",
        help="one claim of the paper, tried over seeds",
        description="Try one claim: train the variants in every setting of a study with the same seeds; print the table "
        "with paired tests; write all runs as JSON, the table as CSV, and a figure. Runs that the JSON file holds already "
        "are not done again.",
    )
    study.set_defaults(run=_study)
    evaluate = commands.add_parser(
        "evaluate", help="measure a checkpoint", description="Measure a checkpoint on its test set."
    )
    evaluate.set_defaults(run=_evaluate)
    commands.add_parser("bench", help="measure speed and memory beside the floor and the peers (in a clone)")

    if with_recipes:
        _add_recipe_options(train)
        for command in (compare, study):
            _add_recipe_options(command, skip=("spatial_adj", "temporal_alpha"))
        from .training.paper import paper_rows
        from .training.studies import STUDIES

        train.add_argument(
            "--recipe", choices=tuple(paper_rows()), metavar="ROW", help="a row of the paper: see bpsta recipes"
        )
        names = (*STUDIES, "gradients", "simulator")
        study.add_argument("name", choices=names, metavar="STUDY", help=", ".join(names))
    train.add_argument("--seed", type=int, default=0, help="default: 0")
    train.add_argument("--out", type=Path, help="folder for checkpoint, logs and result (default: runs/DATASET)")
    train.add_argument("--resume", action="store_true", help="go on from OUT/last.ckpt")
    train.add_argument(
        "--devices", type=int, default=1, help="processes per machine, by DDP; the batch size is per process"
    )
    train.add_argument("--num-nodes", type=int, default=1, help="machines; start it on each by torchrun or SLURM")
    train.add_argument("--precision", choices=("32-true", "bf16-mixed", "16-mixed"), default="32-true")
    train.add_argument("--num-workers", type=int, default=0, help="of the data loaders")
    compare.add_argument("--seeds", type=_seeds, default=[0, 1, 2], help="how many (5), or which (3,7); default: 3")
    compare.add_argument("--jobs", type=int, default=1, help="runs side by side")
    compare.add_argument(
        "--out", type=Path, help="JSON file (default: runs/compare-DATASET.json); the figure lies beside it"
    )
    study.add_argument("--seeds", type=_seeds, help="how many (5), or which (3,7); default: 5")
    study.add_argument("--jobs", type=int, default=1, help="runs side by side")
    study.add_argument("--quick", action="store_true", help="tiny sizes, 2 seeds: to see that it works, not to quote")
    study.add_argument(
        "--out", type=Path, help="JSON file (default: runs/study-STUDY-DATASET.json); the rest lies beside it"
    )
    evaluate.add_argument("checkpoint", type=Path, help="OUT/last.ckpt of bpsta train")
    evaluate.add_argument("--test-limit", type=int, default=0, help="measure on this many samples")
    evaluate.add_argument(
        "--neurobench", nargs="?", const="", metavar="JSON",
        help="NeuroBench's metrics as well (extra neurobench), and all of it as JSON (default: neurobench.json beside the "
        "checkpoint)",
    )  # fmt: skip
    for command in (train, compare, study, evaluate):
        _add_run_options(command)
    for command in (train, compare, study):
        command.add_argument(
            "--also-test", type=_names, default=(), metavar="NAMES",
            help="measure the trained network on the test sets of these data sets as well: nmnist,nmnist_simulated",
        )  # fmt: skip
    evaluate.add_argument("--dataset", metavar="NAME", help="measure on the test set of this data set")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``bpsta``. Returns the exit code: 0, or 2 for wrong values, missing files and missing libraries."""
    argv = sys.argv[1:] if argv is None else argv
    if list(argv[:1]) == ["bench"]:
        return _bench(list(argv[1:]))
    try:
        arguments = _parser(with_recipes=bool({"train", "compare", "study"} & set(argv))).parse_args(argv)
        for name in ("devices", "num_nodes", "jobs"):
            if getattr(arguments, name, 1) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be >= 1, got {getattr(arguments, name)}")
        arguments.run(arguments)
    except ModuleNotFoundError as error:
        if error.name not in ("lightning", "matplotlib", "torchmetrics"):
            raise
        return _fail(f"{error.name} is not installed: pip install 'snntorch-bpsta[train,plots]'")
    except (ValueError, OSError, ImportError) as error:
        if os.environ.get("BPSTA_TRACEBACK"):
            raise
        return _fail(error)
    except KeyboardInterrupt:
        print("stopped; go on with --resume (train) or the same command (compare, study)", file=sys.stderr)
        return 130
    return 0
