"""``bpsta``: parse, call, print."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from ._signals import Stop
from ._version import __version__

__all__ = ["main"]


class _Parser(argparse.ArgumentParser):
    """One line per error, exit code 2."""

    def error(self, message):
        raise SystemExit(_fail(f"{message} (see {self.prog} --help)"))


def _fail(message, code=2):
    print(f"bpsta: error: {' '.join(str(message).split())}", file=sys.stderr)
    return code


# --- what options hold ----------------------------------------------------------------------------


def _seeds(text):
    """``5`` is seeds 0 to 4; ``3,7`` is those two."""
    try:
        seeds = [int(part) for part in text.split(",")] if "," in text else list(range(int(text)))
    except ValueError:
        seeds = []
    if not seeds or min(seeds) < 0:
        raise argparse.ArgumentTypeError(f"expected a number of seeds (5) or a list (3,7), got {text!r}")
    return seeds


def _positive(text):
    if not text.strip().isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer >= 1, got {text!r}")
    return int(text)


def _names(text):
    return tuple(filter(None, text.split(",")))


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
    parser.add_argument("--download", action="store_true", default=None, help="fetch a missing data set")
    parser.add_argument("--accelerator", choices=("auto", "cpu", "gpu"), help="where to run (default: auto)")


def _add_also_test(parser):
    parser.add_argument(
        "--also-test", type=_names, metavar="NAMES",
        help="measure the trained network on the test sets of these data sets as well: nmnist,nmnist_simulated",
    )  # fmt: skip


def _given(arguments, *names):
    """Those of the options that were given, by name."""
    return {name: value for name in names if (value := getattr(arguments, name, None)) is not None}


def _recipe(arguments):
    """The recipe that the arguments ask for."""
    from .training.recipes import RECIPES, Recipe

    given = _given(arguments, *(option.name for option in fields(Recipe) if option.name != "dataset"))
    if getattr(arguments, "recipe", None) is None:
        recipe = RECIPES[arguments.dataset or "digits"]
    else:
        from .training.paper import paper_rows

        recipe = paper_rows(given.get("preset", "paper"))[arguments.recipe].recipe
        if arguments.dataset not in (None, recipe.dataset):
            raise ValueError(f"--recipe {arguments.recipe} is of {recipe.dataset}: drop --dataset {arguments.dataset}")
    return replace(recipe, **given)


# --- train ----------------------------------------------------------------------------------------


def _train_options(parser):
    from .training.paper import paper_rows

    _add_recipe_options(parser)
    add = parser.add_argument
    add("--recipe", choices=tuple(paper_rows()), metavar="ROW", help="a row of the paper: see bpsta recipes")
    add("--seed", type=int, default=0, help="default: 0")
    add("--out", type=Path, help="folder for checkpoint, logs and result (default: runs/DATASET-VARIANT-SEED)")
    add("--resume", action="store_true", help="go on from OUT/last.ckpt")
    add("--extend", action="store_true", help="go on like that with more --epochs than the run was begun with")
    add("--overwrite", action="store_true", help="begin anew in a folder that holds a run, which is lost")
    add("--devices", type=_positive, default=1, help="processes per machine, by DDP; the batch size is per process")
    add("--num-nodes", type=_positive, default=1, help="machines; start it on each by torchrun or SLURM")
    add("--precision", choices=("32-true", "bf16-mixed", "16-mixed"), default="32-true")
    add("--num-workers", type=int, default=0, help="of the data loaders")
    _add_run_options(parser)
    _add_also_test(parser)


def _train(arguments):
    from .training._tables import print_result
    from .training.run import train

    recipe = _recipe(arguments)
    name = arguments.recipe or f"{recipe.dataset}-{recipe.variant_name()}"
    out = arguments.out or Path("runs") / f"{name}-{arguments.seed}"
    row = train(
        recipe, arguments.seed, out, resume=arguments.resume, extend=arguments.extend, overwrite=arguments.overwrite,
        devices=arguments.devices, num_nodes=arguments.num_nodes, precision=arguments.precision,
        num_workers=arguments.num_workers, **_given(arguments, "data_root", "download", "accelerator", "also_test"),
    )  # fmt: skip
    from lightning.pytorch.utilities import rank_zero_only

    if rank_zero_only.rank == 0:
        print_result(row)
        print(f"checkpoint, logs and result.json: {out}")


# --- evaluate -------------------------------------------------------------------------------------


def _evaluate_options(parser):
    add = parser.add_argument
    add("checkpoint", type=Path, help="OUT/last.ckpt of bpsta train")
    add("--test-limit", type=int, default=0, help="measure on this many samples")
    add("--dataset", metavar="NAME", help="measure on the test set of this data set")
    add(
        "--neurobench", nargs="?", const="", metavar="JSON",
        help="NeuroBench's metrics as well (extra neurobench), and all of it as JSON (default: neurobench.json beside the "
        "checkpoint)",
    )  # fmt: skip
    _add_run_options(parser)


def _evaluate(arguments):
    from .training._tables import print_result

    if arguments.neurobench is None:
        from .training.run import evaluate
    else:
        from .training.neurobench import evaluate

    options = _given(arguments, "data_root", "download", "accelerator")
    row = evaluate(arguments.checkpoint, test_limit=arguments.test_limit, dataset=arguments.dataset, **options)
    print_result(row)
    if arguments.neurobench is not None:
        from .training.results import write_json

        out = Path(arguments.neurobench or arguments.checkpoint.with_name("neurobench.json"))
        write_json(out, row)
        for name, value in row["neurobench"]["metrics"].items():
            values = value.items() if isinstance(value, dict) else [("", value)]
            print(
                f"  {name:22} "
                + ", ".join(f"{part} {number:g}".strip() for part, number in values if number is not None)
            )
        print(f"NeuroBench's report: {out}")


# --- study, and compare, which is one -------------------------------------------------------------


def _study_options(parser):
    from .training.studies import STUDIES

    parser.add_argument("name", choices=tuple(STUDIES), metavar="STUDY", help=", ".join(STUDIES))
    parser.add_argument(
        "--quick", action="store_true", default=None, help="tiny sizes, 2 seeds at most: to see that it works"
    )
    _compare_options(parser)


def _compare_options(parser):
    _add_recipe_options(parser, skip=("spatial_adj", "temporal_alpha", "output_spike_grad"))
    add = parser.add_argument
    add("--seeds", type=_seeds, help="how many (5), or which (3,7); default: as the study has it, 3 to compare")
    add("--variants", type=_names, metavar="NAMES", help="these of the variants alone: baseline,bpsa")
    add("--jobs", type=_positive, help="runs side by side (default: 1)")
    add(
        "--out", type=Path,
        help="folder of runs.json, table.csv and figure.png (default: runs/STUDY-DATASET), or a file NAME.json, beside "
        "which lie NAME.csv and NAME.png",
    )  # fmt: skip
    _add_run_options(parser)
    _add_also_test(parser)


def _study(arguments):
    from .plots import study as draw
    from .training.recipes import Recipe
    from .training.studies import STUDIES, RunsFailed, format_study, quick, run_all, study, tabulate
    from .training.studies.claims import used

    name, chosen = arguments.name, STUDIES[arguments.name]
    recipe = _recipe(arguments) if "recipe" in chosen.uses else None
    options = ("seeds", "jobs", "quick", "data_root", "download", "accelerator", "also_test")
    given = _given(arguments, *options, *(option.name for option in fields(Recipe)))
    for option in given.keys() - used(name, recipe):
        raise ValueError(f"--{option.replace('_', '-')} is of no use to the study {name!r}: leave it out")
    seeds = range(min(2, chosen.seeds) if "quick" in given else chosen.seeds)
    recipe = quick(recipe) if recipe and "quick" in given else recipe
    title = f"{name}: {recipe.dataset}, {recipe.network} x {recipe.width:g}" if recipe else name
    out = arguments.out or Path("runs") / (f"{name}-{recipe.dataset}" if recipe else name)
    out = out if out.suffix == ".json" else out / "runs.json"
    print(textwrap.fill(chosen.claim, 100) + "\n")
    failed = None
    try:
        rows = study(
            name, recipe, given.get("seeds", seeds), out, jobs=given.get("jobs", 1),
            **_given(arguments, "variants", "data_root", "download", "accelerator", "also_test"),
        )  # fmt: skip
    except RunsFailed as error:
        failed, rows = error, error.rows
    if failed and not rows:
        return _fail(failed, 1)
    print()
    if recipe:
        print(
            f"{name}: {recipe.dataset}, T = {recipe.num_steps}, {recipe.epochs} epochs, test set after the last one\n"
        )
    print(format_study(tabulate(rows)))
    draw(rows, title).savefig(run_all.figure_file(out), dpi=150)
    print(f"\nruns: {out}\ntable: {run_all.table_file(out)}\nfigure: {run_all.figure_file(out)}")
    return _fail(failed, 1) if failed else 0


def _compare(arguments):
    arguments.name = "compare"
    return _study(arguments)


# --- recipes --------------------------------------------------------------------------------------


def _recipes_options(parser):
    parser.add_argument("--preset", choices=("paper", "official_code"), default="paper", help="default: paper")
    parser.add_argument("--results", type=Path, help="folder of runs (default: results, if there is one)")


def _recipes(arguments):
    from .training.paper import beside, paper_rows, runs_below

    runs, others = runs_below(arguments.results or Path("results"), must_exist=arguments.results is not None)
    print(beside(paper_rows(arguments.preset), runs))
    print("\nbpsta train --recipe ROW runs a row; every option of it may be changed, and then it is another one.")
    for path, why in others.items():
        print(f"bpsta: left out {path}: {why}", file=sys.stderr)


# --- bench ----------------------------------------------------------------------------------------


def _bench(argv):
    """The benchmark of the clone that this package lies in; it is no part of the wheel."""
    root = Path(__file__).parent.parent
    if not (root / "benchmarks" / "__main__.py").is_file():
        raise FileNotFoundError(
            "the benchmark comes with the repository and not with the installed package: clone the repository, then "
            "`pip install --editable .` there and `bpsta bench` again, or `python -m benchmarks` in its root"
        )
    sys.path.insert(0, str(root))
    try:
        benchmark = importlib.import_module("benchmarks.__main__")
    finally:
        sys.path.remove(str(root))
    return benchmark.main(argv)


# --- all of them ----------------------------------------------------------------------------------


class _Command(NamedTuple):
    """A row of COMMANDS.

    Attributes:
        help: one line.
        text: what `bpsta COMMAND --help` begins with.
        options: adds its options to a parser; None: they are not ours to parse.
        run: takes the parsed arguments, or with `options` None the list of them, and may return an exit code.
    """

    help: str
    text: str
    options: Callable[[argparse.ArgumentParser], None] | None
    run: Callable[[Any], int | None]


COMMANDS = {
    "train": _Command("train one network", "Train one network.", _train_options, _train),
    "recipes": _Command(
        "the paper's tables, row by row, and ours beside them",
        "List every number of the paper's tables that bpsta train --recipe runs again, with runs of ours.",
        _recipes_options,
        _recipes,
    ),
    "compare": _Command(
        "baseline, BPSA and BPSA+BPTA side by side: bpsta study compare",
        "Train STBP's rectangle (baseline), BPSA, and BPSA+BPTA with the same seeds; print accuracy, firing rate, energy "
        "ratio (Eq. 11) and time; write all runs as JSON, the table as CSV, and a figure. Runs that the JSON file holds "
        "already are not done again.",
        _compare_options,
        _compare,
    ),
    "study": _Command(
        "one claim of the paper, tried over seeds",
        "Try one claim: train the variants in every setting of a study with the same seeds; print the table with paired "
        "tests; write all runs as JSON, the table as CSV, and a figure. Runs that the JSON file holds already are not done "
        "again. An option that changes nothing in a study is refused.",
        _study_options,
        _study,
    ),
    "evaluate": _Command("measure a checkpoint", "Measure a checkpoint on its test set.", _evaluate_options, _evaluate),
    "bench": _Command("speed and memory beside the floor and the peers (in a clone)", "", None, _bench),
}


def _parser(asked):
    """The argument parser, with the options of the command that is asked: those of others are not needed, and many import
    torch."""
    parser = _Parser(
        prog="bpsta", description="Train spiking networks whose gradients cross spikes (BPSA, BPTA) and compare them."
    )
    parser.add_argument("--version", action="version", version=f"snntorch-bpsta {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, command in COMMANDS.items():
        own = commands.add_parser(name, help=command.help, description=command.text)
        if name == asked and command.options is not None:
            command.options(own)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``bpsta``. Returns the exit code: 0; 1 where runs of a study have failed; 2 for wrong values, missing
    files and missing libraries; 130 and 143 where SIGINT (Ctrl-C) and SIGTERM stopped it."""
    argv = [*(sys.argv[1:] if argv is None else argv)]
    command = COMMANDS.get(argv[0] if argv else "")
    with Stop() as stop:
        try:
            if command is not None and command.options is None:
                return command.run(argv[1:]) or 0
            arguments = _parser(asked=argv[0] if argv else None).parse_args(argv)
            return COMMANDS[arguments.command].run(arguments) or 0
        except ModuleNotFoundError as error:
            if error.name not in ("lightning", "matplotlib", "torchmetrics"):
                raise
            return _fail(f"{error.name} is not installed: pip install 'snntorch-bpsta[train,plots]'")
        except (ValueError, OSError, ImportError) as error:
            if os.environ.get("BPSTA_TRACEBACK"):
                raise
            return _fail(error)
        except (KeyboardInterrupt, SystemExit) as error:  # Lightning turns the first into the second
            if stop.number is None and isinstance(error, SystemExit):
                raise
            print("stopped; go on with --resume (train) or the same command (compare, study)", file=sys.stderr)
            return 128 + (stop.number or 2)
