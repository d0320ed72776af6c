"""What options hold, and what is said of one that is wrong."""

from __future__ import annotations

import argparse
import json
import re
import sys
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from .._meant import alike, did_you_mean

if TYPE_CHECKING:
    from ..training.recipes import Recipe


class Parser(argparse.ArgumentParser):
    """One line per error, exit code 2."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, others = super().parse_known_args(args, namespace)
        if others:  # here, and not in the parser of all commands: here it is known which options there are
            options = [option.partition("=")[0] for option in others if option.startswith("-")]
            meant = [near for option in options for near in alike(option, self._option_string_actions)]
            self.error(f"unrecognized arguments: {' '.join(others)}{did_you_mean(meant)}")
        return found, others

    def error(self, message: str) -> NoReturn:
        wrong = re.search(r"invalid choice: '?(.*?)'? \(choose from (.*)\)", message)
        if wrong:
            message += did_you_mean(alike(wrong[1], re.findall(r"[^\s,']+", wrong[2])))
        raise SystemExit(fail(f"{message} (see {self.prog} --help)"))


def fail(message: object, code: int = 2) -> int:
    """Say what is wrong; the exit code."""
    print(f"bpsta: error: {' '.join(str(message).split())}", file=sys.stderr)
    return code


def seeds(text: str) -> list[int]:
    """``5`` is seeds 0 to 4; ``3,7`` is those two, and ``3,`` that one."""
    try:
        found = [int(part) for part in text.removesuffix(",").split(",")] if "," in text else list(range(int(text)))
    except ValueError:
        found = []
    if not found or min(found) < 0:
        raise argparse.ArgumentTypeError(f"expected a number of seeds (5) or a list (3,7; of one: 3,), got {text!r}")
    return found


def positive(text: str) -> int:
    """An integer >= 1."""
    if not text.strip().isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer >= 1, got {text!r}")
    return int(text)


def names(text: str) -> tuple[str, ...]:
    """``a,b`` is the two."""
    return tuple(filter(None, text.split(",")))


_METAVARS = {"network": "NAME", "sensor_size": "HxW", "frame_size": "HxW"}


def add_recipe_options(parser: argparse.ArgumentParser, skip: Sequence[str] = ()) -> None:
    """An option for every field of a recipe but those to `skip`."""
    from ..training.recipes import RECIPES, Recipe

    group = parser.add_argument_group("recipe (default: the data set's row, see below)")
    for option in fields(Recipe):
        if option.name in ("dataset", *skip):
            continue
        name, metadata = "--" + option.name.replace("_", "-"), option.metadata
        kind: Any = option.type
        if kind is bool:
            group.add_argument(name, action=argparse.BooleanOptionalAction, default=None, help=metadata["help"])
        else:
            group.add_argument(
                name, type=kind, choices=metadata["choices"], help=metadata["help"],
                metavar=None if metadata["choices"] else _METAVARS.get(option.name, kind.__name__.upper()),
            )  # fmt: skip
    parser.add_argument("--dataset", choices=tuple(RECIPES), metavar="NAME", help="data set (default: digits)")
    parser.add_argument(
        "--config", type=Path, metavar="FILE",
        help="begin with the recipe that a run had, in place of the data set's row: its result.json, or its last.ckpt",
    )  # fmt: skip
    default = Recipe()
    own = ", ".join(f"{k}={v}" for k, v in default.as_dict().items() if k not in ("dataset", *skip))
    lines = [f"rows of the data sets, over the paper's values ({own}):"]
    for name, recipe in RECIPES.items():
        own = {k: v for k, v in recipe.as_dict().items() if k != "dataset" and v != getattr(default, k)}
        lines.append(f"  {name:12} " + (", ".join(f"{k}={v}" for k, v in own.items()) or "-"))
    note = "with fewer --epochs than its row has, a warm-up is shorter in proportion, unless --warm-up-epochs is given"
    rows = [textwrap.fill(line, 79, subsequent_indent=" " * 14) for line in lines]
    parser.epilog = "\n".join([*rows, "", textwrap.fill(note, 79)])
    parser.description = textwrap.fill(parser.description or "", 79)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Where the data are, and where it runs."""
    add_data_root(parser)
    add_download(parser)
    parser.add_argument("--accelerator", choices=("auto", "cpu", "gpu"), help="where to run (default: auto)")


def add_data_root(parser: argparse.ArgumentParser) -> None:
    """Where the data are."""
    parser.add_argument(
        "--data-root", type=Path, help="folder with the data sets (default: $SNNTORCH_BPSTA_DATA, else the cache)"
    )


def add_download(parser: argparse.ArgumentParser) -> None:
    """Whether to fetch them."""
    parser.add_argument("--download", action="store_true", default=None, help="fetch a missing data set")


def add_also_test(parser: argparse.ArgumentParser) -> None:
    """Other test sets."""
    parser.add_argument(
        "--also-test", type=names, metavar="NAMES",
        help="measure the trained network on the test sets of these data sets as well: nmnist,nmnist_simulated",
    )  # fmt: skip


def given(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Those of the options that were given, by name."""
    return {name: value for name in names if (value := getattr(arguments, name, None)) is not None}


def run_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Recipe, seed and precision of the run that --config names; nothing without it."""
    path = arguments.config
    if path is None:
        return {}
    from ..training.recipes import Recipe

    if path.suffix == ".ckpt":
        from ..training.checkpoints import load_checkpoint

        saved, recipe = load_checkpoint(path)
        return {**saved["bpsta"], "recipe": recipe}
    try:
        row = json.loads(path.read_text())
        return {"seed": row["seed"], "precision": row["precision"], "recipe": Recipe(**row["recipe"])}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"--config must be result.json or last.ckpt of a run, got {path} ({error!r})") from error


def recipe_of(arguments: argparse.Namespace) -> Recipe:
    """The recipe that the arguments ask for."""
    from ..data import folders
    from ..training.recipes import AUGMENTATIONS, RECIPES, Recipe

    own = given(arguments, *(option.name for option in fields(Recipe) if option.name != "dataset"))
    named, config = getattr(arguments, "recipe", None), arguments.config
    if named and config:
        raise ValueError("--recipe and --config both give a recipe: leave one of them out")
    if config:
        row = run_of(arguments)["recipe"]
    elif named:
        from ..training.paper import paper_rows

        row = paper_rows(own.get("preset", "paper"))[named].recipe
    else:
        row = RECIPES[arguments.dataset or _dataset_of(arguments)]
    if arguments.dataset not in (None, row.dataset):
        source = f"--recipe {named}" if named else f"--config {config}"
        raise ValueError(f"{source} is of {row.dataset}: drop --dataset {arguments.dataset}")
    epochs = own.get("epochs", 0)
    if 0 < epochs < row.epochs and row.warm_up_epochs and "warm_up_epochs" not in own:
        own["warm_up_epochs"] = max(1, row.warm_up_epochs * epochs // row.epochs)
        if epochs == 1 and "warm_up" not in own:  # the warm-up would be all of it
            own |= {"warm_up": "none", "warm_up_epochs": 0}
    recipe = replace(row, **own)
    if own.get("augment") and recipe.dataset.removesuffix("_simulated") not in AUGMENTATIONS:
        raise ValueError(
            f"--augment is known of {', '.join(AUGMENTATIONS)}, and what simulates them: leave it out for {recipe.dataset}"
        )
    if recipe.dataset == folders.NAME:
        if arguments.data_root is None:
            raise ValueError(f"--dataset {folders.NAME} needs --data-root, the folder with one folder for each class")
        if not recipe.num_classes:
            recipe = replace(recipe, num_classes=len(folders.find(arguments.data_root).classes))
    recipe.spec()
    return recipe


def _dataset_of(arguments):
    """The data set that is meant where none is named: recordings of one's own, where their sensor is given."""
    from ..data import folders

    if arguments.sensor_size:
        return folders.NAME
    classes: tuple[str, ...] = ()
    if arguments.data_root:
        with suppress(ValueError, OSError):
            classes = folders.find(arguments.data_root).classes
    if classes:
        raise ValueError(
            f"--data-root {arguments.data_root} has recordings of your own, of the classes {', '.join(classes)}: give the "
            "sensor of their camera, --sensor-size HxW; or name another data set with --dataset"
        )
    return "digits"
