"""Rounds in random order, percentiles, and the report: a table, a CSV file, and what they were measured on."""

import contextlib
import csv
import datetime
import importlib.metadata
import os
import platform
import random
import re
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import snntorch_bpsta

WARM_UPS = 2
MIN_ROUNDS = 3  # also of a competitor that is over its time limit
OURS = "bpsta"  # begins the names of our competitors
WRONG = "WRONG"  # begins the note of a competitor of ours that is not what it claims to be
_SHORT = 2.0  # ms; shorter calls are repeated within a round until they last this long
_LIBRARIES = (
    "torch", "triton", "numba", "snntorch", "spikingjelly", "norse", "sinabs", "spyx", "jax", "tetherpy",
)  # fmt: skip


@dataclass
class Settings:
    """The options of the command line."""

    device: str | torch.device = "auto"
    threads: int = 1
    rounds: int = 15
    seconds: float = 20.0
    quick: bool = False
    seed: int = 0
    compile_steps: int = 128
    skip: tuple = ()
    baseline: Any = None  # a folder, and then the Baseline of it
    out: Path = Path("runs/bench")
    plot: bool = False


class Turn:
    """What one competitor does in one round. `prepare`, which is not timed, gives each call its argument; the call is then
    not repeated within a round. `columns` say what it did, where a process of its own has to tell."""

    def __init__(self, call, prepare=None, columns=None):
        self.call, self.prepare, self.columns = call, prepare, columns

    def ms(self, device, number=1):
        argument = () if self.prepare is None else (self.prepare(),)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
        else:
            begin = time.perf_counter()
        for _ in range(number):
            self.call(*argument)
        if device.type == "cuda":
            end.record()
            torch.cuda.synchronize(device)
            return start.elapsed_time(end) / number
        return 1e3 * (time.perf_counter() - begin) / number


def measure(turns, settings):
    """``{name: {round: ms}}``: each competitor once per round, in random order, until its time is over."""
    order, device = random.Random(settings.seed), settings.device
    number, cost, times, spent = {}, {}, {name: {} for name in turns}, dict.fromkeys(turns, 0.0)
    for name, turn in turns.items():
        for _ in range(WARM_UPS):
            ms = turn.ms(device)
        number[name] = 1 if turn.prepare or settings.quick else min(max(round(_SHORT / max(ms, 1e-3)), 1), 200)
        cost[name] = ms * number[name]
    rounds = settings.rounds
    if not settings.quick:  # small sizes: more rounds, up to a second in all
        rounds = max(rounds, min(10 * rounds, round(1000 / max(sum(cost.values()), 1e-3))))
    for turn_of in range(rounds):
        names = [name for name in turns if turn_of < MIN_ROUNDS or spent[name] < 1e3 * settings.seconds]
        order.shuffle(names)
        for name in names:
            ms = turns[name].ms(device, number[name])
            times[name][turn_of] = ms
            spent[name] += ms * number[name]
    return times


def percentiles(values):
    """The 20th, 50th and 80th."""
    values = sorted(values)
    if len(values) == 1:
        return values * 3
    cuts = statistics.quantiles(values, n=10, method="inclusive")
    return [cuts[1], cuts[4], cuts[7]]


def ratio(these, those):
    """The median over the rounds of these / those, None without a common round."""
    common = these.keys() & those.keys()
    return statistics.median(these[i] / those[i] for i in common) if common else None


def figures(times, loop=None, floor=None, *, over="of_floor", baseline=None):
    """Times to columns, a dict by name: percentiles, times faster than `loop`, times the time of `floor` under the name
    `over` and, of ours, times faster than the other checkout `baseline`."""
    columns = {}
    for name, own in times.items():
        p20, p50, p80 = percentiles(own.values())
        columns[name] = {"p20_ms": p20, "p50_ms": p50, "p80_ms": p80}
        if loop in times:
            columns[name]["faster"] = ratio(times[loop], own)
        if baseline in times and name.startswith((OURS, baseline)):
            columns[name]["faster_than_baseline"] = ratio(times[baseline], own)
        if floor in times:
            columns[name][over] = ratio(own, times[floor])
        columns[name]["rounds"] = len(own)
    return columns


def device_name(device):
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        text = Path("/proc/cpuinfo").read_text()
        (model,) = set(re.findall(r"^model name\s*: (.*)$", text, re.MULTILINE))
        return f"{model}, {os.cpu_count()} cores"
    except (OSError, ValueError):
        return f"{platform.machine()} CPU, {os.cpu_count()} cores"


def environment(settings):
    """Columns that say what a row was measured on and with."""
    versions = {"snntorch-bpsta": snntorch_bpsta.__version__}
    versions["baseline"] = settings.baseline.commit if settings.baseline else "none"
    for library in _LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            versions[library] = "not installed"
    return {
        "device": device_name(settings.device),
        "threads": settings.threads,
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "python": platform.python_version(),
        **versions,
    }


@contextlib.contextmanager
def kept_memory():
    """:func:`snntorch_bpsta.keep_memory` for all competitors of this process; yields what its settings are."""
    try:
        snntorch_bpsta.keep_memory()
    except NotImplementedError:
        yield "as it is"
        return
    try:
        yield "kept"
    finally:
        snntorch_bpsta.keep_memory(False)


def _load():
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")


class Report:
    """The rows of one question. Each :meth:`add` brings the CSV file up to date, so that a run cut short keeps its rows."""

    def __init__(self, question, settings):
        self.question, self.settings = question, settings
        self.rows, self.wrong = [], []
        self.environment = environment(settings)
        self.load_start = self.load_end = _load()

    @property
    def file(self):
        """The CSV file."""
        device = "cpu" if self.settings.device.type == "cpu" else self.environment["device"]
        return self.settings.out / f"{self.question}-{re.sub('[^a-z0-9]+', '-', device.lower()).strip('-')}.csv"

    def add(self, case, competitor, **columns):
        """One row: `columns` are figures, or the note that says why there are none."""
        note = columns.pop("note", "")
        self.load_end = _load()
        self.rows.append({"case": case, "competitor": competitor, **columns, "note": note})
        if note.startswith(WRONG) or (competitor.startswith(OURS) and note.startswith("failed")):
            self.wrong.append(f"{competitor}, {case}: {note}")
        self._write()

    def _write(self):
        names = _columns(self.rows)
        load = {"load_start": self.load_start, "load_end": self.load_end, "busy": self.busy}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["question", *names, *load, *self.environment], restval="")
            writer.writeheader()
            for row in self.rows:
                cells = {name: short(value, 5) for name, value in row.items()}
                writer.writerow({"question": self.question, **cells, **load, **self.environment})

    @property
    def busy(self):
        return max(self.load_start, self.load_end) > self.settings.threads + 0.5

    def table(self):
        """Title, rows, and a warning if others were at work."""
        e = self.environment
        versions = ", ".join(f"{name} {e[name]}" for name in ("snntorch-bpsta", "baseline", *_LIBRARIES))
        lines = [
            f"{self.question}: {e['device']}, {e['threads']} thread(s), {e['date']}",
            versions,
            f"load {self.load_start:.2f} at the start, {self.load_end:.2f} at the end",
        ]
        if self.busy:
            lines.append(f"WARNING: the machine was busy (load above {self.settings.threads + 0.5:g})")
        names = _columns(self.rows)
        cells = [names] + [[short(row.get(name, ""), 4) for name in names] for row in self.rows]
        widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
        for line in cells:
            left = [cell.ljust(width) for cell, width in zip(line[:2], widths, strict=False)]
            right = [cell.rjust(width) for cell, width in zip(line[2:-1], widths[2:], strict=False)]
            lines.append("  ".join([*left, *right, line[-1]]).rstrip())
        return "\n".join(lines)


def _columns(rows):
    """Names of all columns in the order of their first row, the note last."""
    names = dict.fromkeys(name for row in rows for name in row)
    names.pop("note", None)
    return [*names, "note"]


def short(value, digits):
    if value is None:
        return ""
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)
