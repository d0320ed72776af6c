"""``bpsta``: parse, call, print."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .._signals import Stop
from .._version import __version__
from . import _look, _studies, _train
from ._options import Parser, fail

__all__ = ["main"]


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
    "train": _Command("train one network", "Train one network.", _train.train_options, _train.run_train),
    "recipes": _Command(
        "the paper's tables, row by row, and ours beside them",
        "List every number of the paper's tables that bpsta train --recipe runs again, with runs of ours.",
        _look.recipes_options,
        _look.show_recipes,
    ),
    "compare": _Command(
        "baseline, BPSA and BPSA+BPTA side by side: bpsta study compare",
        "Train STBP's rectangle (baseline), BPSA, and BPSA+BPTA with the same seeds; print accuracy, firing rate, energy "
        "ratio (Eq. 11) and time; write all runs as JSON, the table as CSV, and a figure. Runs that the JSON file holds "
        "already are not done again.",
        _studies.compare_options,
        _studies.run_compare,
    ),
    "study": _Command(
        "one claim of the paper, tried over seeds",
        "Try one claim: train the variants in every setting of a study with the same seeds; print the table with paired "
        "tests; write all runs as JSON, the table as CSV, and a figure. Runs that the JSON file holds already are not done "
        "again. An option that changes nothing in a study is refused.",
        _studies.study_options,
        _studies.run_study,
    ),
    "evaluate": _Command(
        "measure a checkpoint", "Measure a checkpoint on its test set.", _train.evaluate_options, _train.run_evaluate
    ),
    "data": _Command(
        "the data sets: what is there, download, frames",
        "Show which data sets are there and where they are looked for; fetch those that are named, or count their events "
        "into frames. The exit code is 2 where one that is named is not there.",
        _look.data_options,
        _look.show_data,
    ),
    "info": _Command(
        "versions, device, kernels, data: for a report of a bug",
        "Show versions, device, the kernels that run on it, and which data sets are there.",
        _look.info_options,
        _look.show_info,
    ),
    "bench": _Command("speed and memory beside the floor and the peers (in a clone)", "", None, _look.run_bench),
}
EXAMPLES = """examples:
  bpsta train --epochs 10             a network on handwritten digits, without a download
  bpsta compare --seeds 3 --jobs 2    the paper's variants beside plain backpropagation: table and figure
  bpsta data                          which data sets are there, and where they are looked for"""


def _parser(asked):
    """The argument parser, with the options of the command that is asked: those of others are not needed, and many import
    torch."""
    parser = Parser(
        prog="bpsta", description="Train spiking networks whose gradients cross spikes (BPSA, BPTA) and compare them.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
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
            parser = _parser(asked=argv[0] if argv else None)
            if not argv:
                parser.print_help()
                return 0
            arguments = parser.parse_args(argv)
            return COMMANDS[arguments.command].run(arguments) or 0
        except ModuleNotFoundError as error:
            if error.name not in ("lightning", "matplotlib", "torchmetrics"):
                raise
            return fail(f"{error.name} is not installed: pip install 'snntorch-bpsta[train,plots]'")
        except (ValueError, OSError, ImportError) as error:
            if os.environ.get("BPSTA_TRACEBACK"):
                raise
            return fail(error)
        except (KeyboardInterrupt, SystemExit) as error:  # Lightning turns the first into the second
            if stop.number is None and isinstance(error, SystemExit):
                raise
            print("stopped; go on with --resume (train) or the same command (compare, study)", file=sys.stderr)
            return 128 + (stop.number or 2)
