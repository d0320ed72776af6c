"""Baseline, BPSA and BPSA+BPTA with the same seeds: runs, rows, table."""

from __future__ import annotations

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

import torch

from .._checks import check_choice, check_instance, check_int, check_path, check_positive_int, reading
from ._tables import markdown, number
from .lightning import environment, train, write_json
from .recipes import COMPARED, VARIANTS, Recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from .._typing import AnyPath, Result

    Key = tuple[Any, ...]


def _run_one(recipe, seed, threads, options):
    torch.set_num_threads(threads)
    return train(recipe, seed, progress=False, **options)


def compare(
    recipe: Recipe,
    seeds: Iterable[int],
    out_file: AnyPath,
    *,
    jobs: int = 1,
    say: Callable[[str], object] = print,
    variants: Sequence[str] = COMPARED,
    **options: Any,
) -> list[Result]:
    """Train `recipe` as each of `variants` with each of `seeds`, and keep every run in one JSON file.

    The file is written whole after every run; runs that it holds already, with the same recipe and seed, are not done
    again, so that a comparison that was killed goes on where it stopped. A run that fails is kept, under "failed", with its
    error, and ends the comparison.

    Args:
        recipe: a :class:`~snntorch_bpsta.training.Recipe`; its `spatial_adj` and `temporal_alpha` are the variants'.
        seeds: iterable of int.
        out_file: the JSON file, ``{"runs": [row, ...]}``; see ``result_row`` for a row.
        jobs: runs side by side, each in a process of its own with its share of torch's threads.
        say: called with one line per finished run.
        variants: rows of ``VARIANTS``.
        **options: of :func:`~snntorch_bpsta.training.lightning.train`.

    Returns:
        list: the rows of this comparison, by variant, then seed.

    Raises:
        ValueError: `out_file` exists and is no such file; a row of `variants` is unknown.
        TypeError: an argument of the wrong type.
    """
    check_instance("recipe", recipe, Recipe, "a Recipe")
    check_path("out_file", out_file)
    check_positive_int("jobs", jobs)
    with reading("seeds", "several integers"):
        seeds = list(seeds)
    for seed in seeds:
        check_int("seeds", seed, 0, 2**32)
    check_instance("variants", variants, (list, tuple), "rows of VARIANTS")
    for name in variants:
        check_choice("variants: each variant", name, tuple(VARIANTS))
    if not callable(say):
        raise TypeError(f"say must be a function of a line, got {type(say).__name__}")
    wanted = {(name, seed): recipe.variant(name) for name in variants for seed in seeds}
    labels = {key: {"variant": key[0]} for key in wanted}
    return list(run_all(wanted, labels, out_file, jobs, say, options).values())


def run_all(
    wanted: Mapping[Key, Recipe],
    labels: Mapping[Key, Result],
    out_file: AnyPath,
    jobs: int,
    say: Callable[[str], object],
    options: Mapping[str, Any],
) -> dict[Key, Result]:
    """Train the recipes of `wanted`, a dict of them by (..., seed), unless `out_file` holds the run; see :func:`compare`.

    Args:
        wanted: key -> recipe; the last part of a key is the seed.
        labels: key -> what goes first into the row.
        out_file, jobs, say, options: as in :func:`compare`.

    Returns:
        dict: key -> row.
    """
    out_file = Path(out_file)
    done, failed = _read_runs(out_file)
    found, default = {}, Recipe().as_dict()  # a file may be older than a field
    for row in done:
        for key, recipe in wanted.items():
            same = all(row.get(name) == value for name, value in labels[key].items())
            if same and row["seed"] == key[-1] and default | row["recipe"] == recipe.as_dict():
                found[key] = row
    todo = [key for key in wanted if key not in found]
    if found:
        say(f"{len(found)} of {len(wanted)} runs are in {out_file} already")
    threads = max(1, torch.get_num_threads() // jobs)
    context = multiprocessing.get_context("spawn")  # forking a process that has used torch's threads can hang
    with ProcessPoolExecutor(min(jobs, max(1, len(todo))), mp_context=context) as pool:
        futures = {pool.submit(_run_one, wanted[key], key[-1], threads, options): key for key in todo}
        for future in as_completed(futures):
            key = futures[future]
            try:
                row = {**labels[key], **future.result()}
            except BaseException as error:
                pool.shutdown(cancel_futures=True)
                if isinstance(error, Exception):
                    row = {**labels[key], "seed": key[-1], "recipe": wanted[key].as_dict()}
                    failed.append({**row, "error": f"{type(error).__name__}: {error}", **environment()})
                    _write_runs(out_file, done, failed)
                raise
            found[key] = row
            done.append(row)
            _write_runs(out_file, done, failed)
            rate = "-" if row["firing_rate"] is None else f"{row['firing_rate']:.3f}"
            name = ", ".join(filter(None, map(str, key[:-1])))
            say(
                f"{name:10} seed {key[-1]}: accuracy {100 * row['accuracy']:.2f} %, rate {rate}, "
                f"{row['train_seconds']:.0f} s"
            )
    return {key: found[key] for key in wanted}


def _write_runs(path, runs, failed):
    write_json(path, {"runs": runs, **({"failed": failed} if failed else {})})


def _read_runs(path):
    """The finished runs of a results file, and the failed ones."""
    if not path.exists():
        return [], []
    try:
        content = json.loads(path.read_text())
        runs, failed = list(content["runs"]), list(content.get("failed", []))
        for row in runs:
            row["seed"], dict(row["recipe"])
        summarise(runs)
        return runs, failed
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path} is not a results file of `bpsta compare`: move it away or choose another --out"
        ) from error


def summarise(rows: Sequence[Result]) -> list[Result]:
    """One dict per variant, in order: seeds, mean and standard deviation of the accuracy in percent, mean firing rate,
    mean energy ratios of Eq. 11, mean seconds of training."""
    check_instance("rows", rows, (list, tuple), "a list of rows of a results file")
    with reading("rows", "rows of a results file"):
        return _summarise(rows)


def _summarise(rows):
    table = []
    for name in dict.fromkeys(row["variant"] for row in rows):
        runs = [row for row in rows if row["variant"] == name]
        accuracies = [100 * row["accuracy"] for row in runs]

        def average(key, runs=runs):
            values = [row[key] for row in runs if row[key] is not None]
            return mean(values) if values else None

        table.append(
            {
                "variant": name,
                "seeds": len(runs),
                "accuracy": mean(accuracies),
                "accuracy_std": stdev(accuracies) if len(runs) > 1 else 0.0,
                "firing_rate": average("firing_rate"),
                "energy_ratio": average("energy_ratio"),
                "energy_ratio_fp32_ac": average("energy_ratio_fp32_ac"),
                "train_seconds": average("train_seconds"),
            }
        )
    return table


def format_table(table: Sequence[Result]) -> str:
    """The summary as a Markdown table, which also reads well in a terminal."""
    check_instance("table", table, (list, tuple), "what summarise returns")
    with reading("table", "what summarise returns"):
        return _format(table)


def _format(table):
    head = ["variant", "seeds", "accuracy %", "firing rate", "energy ratio (AC 0.1 pJ)", "(AC 0.9 pJ)", "time per run"]

    cells = [
        [
            row["variant"],
            str(row["seeds"]),
            f"{row['accuracy']:.2f} ± {row['accuracy_std']:.2f}",
            number(row["firing_rate"], ".3f"),
            number(row["energy_ratio"], ".1f"),
            number(row["energy_ratio_fp32_ac"], ".1f"),
            f"{row['train_seconds']:.0f} s",
        ]
        for row in table
    ]
    return markdown(head, cells)
