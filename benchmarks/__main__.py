"""The command line: parse, ask, print."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from dataclasses import fields
from pathlib import Path

from . import QUESTIONS
from .questions import answer
from .timing import Settings

DRAW = """draw FILE ... draws the figures of CSV files that are there, and measures nothing;
a folder is all that are in it."""


def _fail(message):
    print(f"benchmarks: error: {' '.join(str(message).split())}", file=sys.stderr)
    return 2


class _Parser(argparse.ArgumentParser):
    """One line per error, exit code 2."""

    def error(self, message):
        raise SystemExit(_fail(f"{message} (see {self.prog} --help)"))


def _parser():
    lines = [textwrap.fill(f"  {name:10}{text}", 79, subsequent_indent=" " * 12) for name, text in QUESTIONS.items()]
    parser = _Parser(
        prog="python -m benchmarks",
        description=textwrap.fill(
            "Measure speed and memory of the neurons beside the floor (copies of the same bytes), snnTorch's own, those of "
            "other libraries that are installed and another checkout's. Every competitor is checked, then runs once per "
            "round, in random order; tables, and CSV files with device and versions.",
            79,
        ),
        epilog="\n".join(["questions:", *lines, "", DRAW]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "question",
        nargs="+",
        choices=(*QUESTIONS, "all"),
        metavar="question",
        help="one or more of those below, or all",
    )
    add("--quick", action="store_true", help="tiny sizes, 3 rounds: to see that it works, not to quote")
    add("--rounds", type=int, default=15, help="every competitor once in each (default: 15)")
    add("--seconds", type=float, default=20, help="time limit of a competitor at one size, from round 3 (default: 20)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to run")
    add("--threads", type=int, default=1, help="of torch (default: 1)")
    add("--skip", default="", help="competitors to leave out, by parts of their names: torch.compile,norse")
    add("--compile-steps", type=int, default=128, help="torch.compile loops of up to T steps (default: 128)")
    add("--seed", type=int, default=0, help="of the currents and of the order (default: 0)")
    add("--baseline", type=Path, metavar="PATH", help="another checkout of this repository, raced in the same rounds")
    add("--out", type=Path, default=Path("runs/bench"), help="folder of the CSV files (default: runs/bench)")
    add("--plot", action="store_true", help="a figure of each question as well")
    return parser


def _draw(argv):
    """Figures of what was measured before."""
    from .figure import redraw

    parser = _Parser(
        prog="python -m benchmarks draw", description="Draw the figures of CSV files; nothing is measured."
    )
    parser.add_argument(
        "file", nargs="+", type=Path, help="CSV file of a question or of the clock, or a folder of them"
    )
    for given in parser.parse_args(argv).file:
        for file in sorted(given.glob("*.csv")) if given.is_dir() else [given]:
            print(f"figure: {redraw(file) or f'none, {file} is of no question'}")


def main(argv: list[str] | None = None) -> int:
    """Answer questions. Returns the exit code: 0, or 2 for wrong values, a missing library, or one of ours that is wrong."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        if argv[:1] == ["draw"]:
            _draw(argv[1:])
            return 0
        arguments = _parser().parse_args(argv)
        for name in ("rounds", "threads"):
            if getattr(arguments, name) < 1:
                raise ValueError(f"--{name} must be >= 1, got {getattr(arguments, name)}")
        arguments.skip = tuple(part for part in arguments.skip.split(",") if part)
        answer(
            arguments.question, Settings(**{field.name: getattr(arguments, field.name) for field in fields(Settings)})
        )
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        return _fail("matplotlib is not installed: pip install matplotlib, or drop --plot")
    except (ValueError, OSError, ImportError) as error:
        if os.environ.get("BPSTA_TRACEBACK"):
            raise
        return _fail(error)
    except KeyboardInterrupt:
        print("stopped; the CSV files keep the rows so far", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
