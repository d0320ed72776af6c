"""All runs of a study, in one results file that is whole after every run."""

from __future__ import annotations

import csv
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..._checks import check_path, check_positive_int, check_rows
from ..recipes import Recipe
from .claims import STUDIES, grid, used
from .table import check_study_rows, tabulate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..._typing import AnyPath, Result

__all__ = ["study"]


def study(
    name: str,
    recipe: Recipe | None,
    seeds: Sequence[int],
    out_file: AnyPath,
    *,
    jobs: int = 1,
    say: Callable[[str], object] = print,
    **options: Any,
) -> list[Result]:
    """Run a study, and write its runs (JSON) and its table (CSV): ``table.csv`` beside ``runs.json``, NAME.csv beside any
    other NAME.json.

    The file of runs is written whole after every run; runs that it holds already, with the same recipe and seed, are not
    done again, so that a study that was killed goes on where it stopped. A run that fails is kept, under "failed", with
    its error, and ends the study.

    Args:
        name: a key of :data:`STUDIES`.
        recipe: what its settings and variants change; None for a study that trains nothing.
        seeds: list, tuple or range of int.
        out_file: the JSON file, ``{"runs": [row, ...]}``. A row has ``study``, ``setting``, ``variant``, ``seed`` and
            ``recipe``, what was measured, and where it ran.
        jobs: runs side by side, each in a process of its own with its share of torch's threads.
        say: called with one line per finished run.
        **options: of :func:`~snntorch_bpsta.training.run.train`, those that the study uses.

    Returns:
        list: the rows, by setting, variant and seed.

    Raises:
        ValueError, TypeError: an argument out of range or of the wrong type, an option that the study does not use;
            `out_file` is there and no such file.
    """
    check_path("out_file", out_file)
    check_positive_int("jobs", jobs)
    if not callable(say):
        raise TypeError(f"say must be a function of a line, got {type(say).__name__}")
    wanted = grid(name, recipe, seeds)
    for option in options.keys() - used(name, recipe):
        raise ValueError(f"{option} is of no use to the study {name!r}: leave it out")
    out_file = Path(out_file)
    rows = _run_all(name, wanted, out_file, jobs, say, options)
    table = tabulate(rows)
    with open(table_file(out_file), "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(table[0]) if table else [])
        writer.writeheader()
        writer.writerows(table)
    return rows


def table_file(out_file: Path) -> Path:
    """The CSV file of a JSON file: ``table.csv`` beside ``runs.json``, NAME.csv beside any other NAME.json."""
    return out_file.with_name("table.csv") if out_file.name == "runs.json" else out_file.with_suffix(".csv")


def figure_file(out_file: Path) -> Path:
    """The figure of a JSON file, as :func:`table_file`."""
    return out_file.with_name("figure.png") if out_file.name == "runs.json" else out_file.with_suffix(".png")


def _run_all(name, wanted, out_file, jobs, say, options):
    """The rows of `wanted`, a dict of recipes by (setting, variant, seed): out of the file, or made."""
    chosen, (done, failed) = STUDIES[name], read_runs(out_file)
    found, default = {}, Recipe().as_dict()  # a file may be older than a field
    for row in done:
        key = row["setting"], row["variant"], row["seed"]
        own, recipe = row["recipe"], wanted.get(key)
        if row["study"] == name and key in wanted and (own and default | own) == (recipe and recipe.as_dict()):
            found[key] = row
    if found:
        say(f"{len(found)} of {len(wanted)} runs are in {out_file} already")
    calls = {}  # what one call of `measure` gives: one run, or all of a seed
    for key in wanted:
        if key not in found:
            calls.setdefault(key[-1] if chosen.together else key, []).append(key)
    threads = max(1, torch.get_num_threads() // jobs)
    context = multiprocessing.get_context("spawn")  # forking a process that has used torch's threads can hang
    with ProcessPoolExecutor(min(jobs, max(1, len(calls))), mp_context=context) as pool:
        futures = {}
        for keys in calls.values():
            runs = {key[:-1]: wanted[key] for key in keys}
            futures[pool.submit(_measure, chosen.measure, runs, keys[0][-1], threads, options)] = keys
        for future in as_completed(futures):
            keys = futures[future]
            labels = {key: {"study": name, "setting": key[0], "variant": key[1]} for key in keys}
            try:
                rows = {(*key, keys[0][-1]): row for key, row in future.result().items()}
            except BaseException as error:
                pool.shutdown(cancel_futures=True)
                if isinstance(error, Exception):
                    from ..results import environment

                    why = {"error": f"{type(error).__name__}: {error}", **environment()}
                    for key in keys:
                        recipe = wanted[key] and wanted[key].as_dict()
                        failed.append({**labels[key], "seed": key[-1], "recipe": recipe, **why})
                    _write_runs(out_file, done, failed)
                raise
            for key, row in rows.items():
                found[key] = {**labels[key], **row}
                done.append(found[key])
            _write_runs(out_file, done, failed)
            say(_said(name, [found[key] for key in rows]))
    return [found[key] for key in wanted if key in found]


def _measure(measure, runs, seed, threads, options):
    torch.set_num_threads(threads)
    return measure(runs, seed, **options)


def _said(name, rows):
    """The line of a finished run."""
    if len(rows) != 1 or "accuracy" not in rows[0]:
        return f"{name}: {len(rows)} rows" + (f", seed {rows[0]['seed']}" if rows else "")
    (row,) = rows
    rate = "-" if row["firing_rate"] is None else f"{row['firing_rate']:.3f}"
    label, accuracy = ", ".join(filter(None, (row["setting"], row["variant"]))), f"{100 * row['accuracy']:.2f} %"
    return f"{label:10} seed {row['seed']}: accuracy {accuracy}, rate {rate}, {row['train_seconds']:.0f} s"


def _write_runs(path, runs, failed):
    from ..results import write_json

    write_json(path, {"runs": runs, **({"failed": failed} if failed else {})})


def read_runs(path: Path) -> tuple[list[Result], list[Result]]:
    """The finished runs of a results file, and the failed ones."""
    if not path.exists():
        return [], []
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict):
            raise TypeError(f"it holds a {type(content).__name__}")
        if "runs" not in content:
            raise ValueError("it has no 'runs'")
        runs, failed = content["runs"], content.get("failed", [])
        check_rows("runs", runs, {"seed": (int,), "recipe": (dict, type(None))})
        check_rows("failed", failed, {})
        runs = [{"study": "compare", "setting": "", **row} for row in runs]  # `bpsta compare` of 0.1.0 wrote neither
        check_study_rows("runs", runs)
        return runs, list(failed)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path} is not a results file of `bpsta study`: move it away or choose another --out ({error})"
        ) from error
