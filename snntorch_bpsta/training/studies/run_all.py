"""All runs of a study, in one results file that is whole after every run, also where several commands write to it."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..._checks import check_instance, check_path, check_positive_int, check_rows
from ..._files import check_writable, locked, write_whole
from ..recipes import Recipe
from .claims import STUDIES, grid, used
from .table import check_study_rows, tabulate
from .workers import Failure, Workers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..._typing import AnyPath, Result

__all__ = ["RunsFailed", "study"]

HELD = "held by another command"


class RunsFailed(RuntimeError):
    """Some runs of a study have failed. The others are done and in the file.

    Args:
        rows: those of the runs that are done.
        failed: those of the runs that are not: who they are, and ``error``.

    Raises:
        TypeError: they are no lists.
    """

    def __init__(self, rows: list[Result], failed: list[Result]) -> None:
        check_instance("rows", rows, list, "a list of rows")
        check_instance("failed", failed, list, "a list of rows")
        check_rows("failed", failed, {"error": (str,)})
        super().__init__(rows, failed)
        self.rows, self.failed = rows, failed

    def __str__(self) -> str:
        errors = "; ".join(dict.fromkeys(row["error"] for row in self.failed))
        return (
            f"{len(self.failed)} {'run has' if len(self.failed) == 1 else 'runs have'} failed: {errors}. Start the same "
            "again: what is done is not done again, and what has failed is tried again"
        )


def study(
    name: str,
    recipe: Recipe | None,
    seeds: Sequence[int],
    out_file: AnyPath,
    *,
    variants: Sequence[str] | None = None,
    settings: Sequence[str] | None = None,
    jobs: int = 1,
    say: Callable[[str], object] = print,
    progress: Callable[[int, int], object] | None = None,
    **options: Any,
) -> list[Result]:
    """Run a study, and write its runs (JSON) and its table (CSV): ``table.csv`` beside ``runs.json``, NAME.csv beside any
    other NAME.json.

    Every run is written into the file as soon as it is done, and a run that the file holds already, with the same recipe
    and seed, is not done again. A run that is not done yet has a folder in ``NAME.unfinished`` beside the file, with its
    checkpoint: a study that was killed goes on there, when it is started again, and ends with the same rows. (To the bit
    with the same `jobs`, which decide how many threads a run has.) Several commands may write into one file at the same
    time, also from other machines where their file system has locks: they share the runs out, and no run is done twice.

    A run that fails, or whose process is killed, is written under "failed" with its error, and the others go on.

    Args:
        name: a key of :data:`STUDIES`.
        recipe: what its settings and variants change; None for a study that trains nothing.
        seeds: list, tuple or range of int.
        out_file: the JSON file, ``{"runs": [row, ...]}``. A row has ``study``, ``setting``, ``variant``, ``seed`` and
            ``recipe``, what was measured, and where it ran.
        variants, settings: those of the study's that are run; None for all. So each can have a recipe of its own, with
            the learning rate that it needs, in one file.
        jobs: runs side by side, each in a process of its own with its share of torch's threads. The processes end with this
            one.
        say: called with one line per run that is done or has failed.
        progress: called with how many epochs are done, and how many there are, of all runs.
        **options: of :func:`~snntorch_bpsta.training.run.train`, those that the study uses.

    Returns:
        list: the rows, by setting, variant and seed.

    Raises:
        RunsFailed: at the end, where runs have failed; it has the rows of the others.
        OSError: `out_file` cannot be written, which is tried before the first run.
        ValueError, TypeError: an argument out of range or of the wrong type, an option that the study does not use;
            `out_file` is there and no such file.
    """
    check_path("out_file", out_file)
    check_positive_int("jobs", jobs)
    if not callable(say):
        raise TypeError(f"say must be a function of a line, got {type(say).__name__}")
    if progress is not None and not callable(progress):
        raise TypeError(f"progress must be a function of two numbers or None, got {type(progress).__name__}")
    wanted = grid(name, recipe, seeds, variants, settings)
    for option in options.keys() - used(name, recipe):
        raise ValueError(f"{option} is of no use to the study {name!r}: leave it out")
    out_file = Path(out_file)
    _try_to_write(out_file)
    failed = _run_all(name, wanted, out_file, jobs, say, progress, options)
    found = _found(name, wanted, read_runs(out_file)[0])
    rows = [found[key] for key in wanted if key in found]
    _write_table(table_file(out_file), tabulate(rows))
    if failed:
        raise RunsFailed(rows, failed)
    return rows


def _try_to_write(out_file):
    """Refuse a file that cannot be written, or is none of ours, before anything is run."""
    if not out_file.name:
        raise ValueError(f"out_file (--out) must be the path of a file, got {str(out_file)!r}")
    for path in (out_file, table_file(out_file)):
        if path.exists() and not path.is_file():
            raise ValueError(f"out_file (--out): {path} is to be a file, and is there as something else")
    check_writable("out_file (--out)", out_file)
    with locked(out_file):
        read_runs(out_file)


def _write_table(path, table):
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(table[0]) if table else [])
    writer.writeheader()
    writer.writerows(table)
    write_whole(path, [text.getvalue().encode()])


def table_file(out_file: Path) -> Path:
    """The CSV file of a JSON file: ``table.csv`` beside ``runs.json``, NAME.csv beside any other NAME.json."""
    return out_file.with_name("table.csv") if out_file.name == "runs.json" else out_file.with_suffix(".csv")


def figure_file(out_file: Path) -> Path:
    """The figure of a JSON file, as :func:`table_file`."""
    return out_file.with_name("figure.png") if out_file.name == "runs.json" else out_file.with_suffix(".png")


def _run_all(name, wanted, out_file, jobs, say, progress, options):
    """Do what the file does not hold of `wanted`, a dict of recipes by (setting, variant, seed). What has failed."""
    chosen = STUDIES[name]
    found = _found(name, wanted, read_runs(out_file)[0])
    if found:
        say(f"{len(found)} of {len(wanted)} runs are in {out_file} already")
    calls = {}  # what one call of `measure` gives: one run, or all of a seed
    for key, recipe in wanted.items():
        calls.setdefault(key[-1] if chosen.together else key, {})[key] = recipe
    waiting, held, failed = [], [], []
    epochs = {
        call: max(recipe.epochs if recipe else chosen.parts for recipe in runs.values()) for call, runs in calls.items()
    }
    done = dict.fromkeys(calls, 0)

    def reach(call, epochs_done):
        done[call] = epochs_done
        if progress is not None:
            progress(sum(done.values()), sum(epochs.values()))

    for call, runs in calls.items():
        if runs.keys() <= found.keys():
            done[call] = epochs[call]
            _forget(_folder(name, runs, out_file))
        else:
            waiting.append(call)
    to_go = len(waiting)
    if waiting:
        reach(waiting[0], 0)
    with Workers(min(jobs, max(1, to_go)), max(1, torch.get_num_threads() // jobs)) as workers:
        while waiting or held or workers.busy:
            if not waiting and not workers.busy:
                say(f"{len(held)} {'run is' if len(held) == 1 else 'runs are'} {HELD}: waiting")
                while all(_is_held(_folder(name, calls[call], out_file)) for call in held):
                    time.sleep(0.5)
                waiting, held = held, []
            while waiting and workers.free:
                call = waiting.pop(0)
                workers.begin(call, _do, name, chosen.measure, calls[call], out_file, options)
            call, answer = workers.wait(reach)
            if answer == HELD:
                held.append(call)
                continue
            to_go -= 1
            reach(call, epochs[call])
            if isinstance(answer, Failure):
                rows = [_failed_row(name, *run, answer) for run in calls[call].items()]
                _add(out_file, failed=rows)
                failed += rows
                line = f"{_label(rows)}: failed: {answer.error}"
            else:
                line = _said(name, answer)
            say(f"{line} ({to_go} to go)")
    with suppress(OSError):
        _work(out_file).rmdir()  # if nothing is left to go on with
    return failed


def _do(name, measure, runs, out_file, options):
    """Do the runs of one call of `measure`, in a process that is killed at any time; their rows, which are in the file."""
    folder = _folder(name, runs, out_file)
    with locked(folder, wait=False) as mine:
        if not mine:
            return HELD
        found = _found(name, runs, read_runs(out_file)[0])
        if found.keys() != runs.keys():
            seed = next(iter(runs))[-1]
            measured = measure({key[:-1]: recipe for key, recipe in runs.items()}, seed, folder, **options)
            rows = [{"study": name, "setting": key[0], "variant": key[1], **row} for key, row in measured.items()]
            _add(out_file, rows)
            found = _found(name, runs, rows)
        shutil.rmtree(folder, ignore_errors=True)
        return [*found.values()]


def _work(out_file):
    """The folder of the runs that are not finished."""
    return out_file.with_suffix(".unfinished")


def _folder(name, runs, out_file):
    """Where a call of `measure` keeps what it goes on from: another one for another recipe, setting, variant or seed."""
    setting, variant, seed = next(iter(runs))
    identity = json.dumps([name, [[*key, recipe and recipe.as_dict()] for key, recipe in runs.items()]], sort_keys=True)
    words = [name, setting, variant, f"seed{seed}"] if len(runs) == 1 else [name, f"seed{seed}"]
    label = re.sub(r"[^\w.+-]+", "-", "_".join(filter(None, words)))[:80]
    return _work(out_file) / f"{label}_{hashlib.sha256(identity.encode()).hexdigest()[:12]}"


def _is_held(folder):
    with locked(folder, wait=False) as mine:
        return not mine


def _forget(folder):
    """Remove the folder of a run that is in the file, unless another command is about to."""
    if folder.exists():
        with locked(folder, wait=False) as mine:
            if mine:
                shutil.rmtree(folder, ignore_errors=True)


def _found(name, wanted, rows):
    """The rows of a study that are of runs of `wanted`, by (setting, variant, seed)."""
    found, default = {}, Recipe().as_dict()  # a file may be older than a field
    for row in rows:
        key = row["setting"], row["variant"], row["seed"]
        own, recipe = row["recipe"], wanted.get(key)
        if row["study"] == name and key in wanted and (own and default | own) == (recipe and recipe.as_dict()):
            found.setdefault(key, row)
    return found


def _failed_row(name, key, recipe, failure):
    from ..results import environment  # Lightning, which takes its time to import

    return {
        **{"study": name, "setting": key[0], "variant": key[1], "seed": key[-1], "recipe": recipe and recipe.as_dict()},
        **{"error": failure.error, "traceback": failure.traceback, **environment()},
    }


def _add(out_file, rows=(), failed=()):
    """Add rows to the file. No other process writes to it meanwhile, and a run that is in it stays as it is."""
    from ..results import write_json

    with locked(out_file):
        runs, before = read_runs(out_file)
        held = [_identity(run) for run in runs]
        runs += [row for row in rows if _identity(row) not in held]
        before += failed
        write_json(out_file, {"runs": runs, **({"failed": before} if before else {})})


def _identity(row):
    return [row[name] for name in ("study", "setting", "variant", "seed", "recipe")]


def _label(rows):
    """Whose line it is."""
    row = rows[0]
    if len(rows) != 1:
        return f"{row['study']}: {len(rows)} rows, seed {row['seed']}"
    return f"{', '.join(filter(None, (row['setting'], row['variant']))):10} seed {row['seed']}"


def _said(name, rows):
    """The line of what is done."""
    if len(rows) != 1 or "accuracy" not in rows[0]:
        return _label(rows) if rows else f"{name}: 0 rows"
    (row,) = rows
    rate = "-" if row["firing_rate"] is None else f"{row['firing_rate']:.3f}"
    return f"{_label(rows)}: accuracy {100 * row['accuracy']:.2f} %, rate {rate}, {row['train_seconds']:.0f} s"


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
