"""The figure of a report, as it is measured or from the CSV file that was kept of it."""

import csv
import math
from types import SimpleNamespace

from snntorch_bpsta._palette import COLOURS, VARIANTS

from . import QUESTIONS

_VALUES = {"p50_ms": "ms", "p50_us": "us", "p50_s": "s", "peak_MiB": "MiB", "saved_bytes": "bytes per neuron and step"}
_PARTS = {
    "convolution_ms": COLOURS["blue"], "neuron_ms": COLOURS["orange"], "pool_ms": COLOURS["green"],
    "memory_ms": COLOURS["violet"], "rest_ms": "0.7",
}  # fmt: skip
_COLOURS = {"floor": "0.8", "without": "0.8", "bpsta": COLOURS["blue"], "snntorch_bpsta": COLOURS["blue"]}
_COLOURS |= {"snntorch": COLOURS["grey"], "host": COLOURS["grey"]}


_WIDTH, _SMALL = 6.4, 8  # inches, points: on a page of the docs as large as its text, on a phone half of that


def _short(value):
    """Three digits."""
    return f"{value:.3g}" if value < 1000 else f"{float(f'{value:.3g}'):,.0f}"


def _colour(name):
    return next((colour for start, colour in _COLOURS.items() if name.startswith(start)), COLOURS["orange"])


def draw(report):
    """Bars, a panel per case; or lines over the size. A PNG beside the CSV file; returns its path."""
    from matplotlib.figure import Figure

    own = {"time": _lines, "neurons": _lines, "sparse": _rates, "network": _stacked, "loops": _gains}
    drawn = own.get(report.question, _bars)
    figure = drawn(Figure, report)
    e = report.environment
    figure.suptitle(f"{report.question}: {e['device']}, {e['threads']} thread(s), torch {e['torch']}", fontsize=9)
    path = report.file.with_suffix(".png")
    figure.savefig(path, dpi=150)
    return path


def redraw(file):
    """The figure of a CSV file that is there already. Returns its path; None if the rows are of no question."""
    with file.open(newline="", encoding="utf-8") as lines:
        about, *_ = cells = list(csv.DictReader(lines)) or [{}]
    rows = [{name: _number(cell) for name, cell in row.items() if cell} for row in cells]
    if {"gradient", "skip_zeros"} <= about.keys():
        return draw_clock(rows, file)
    if about.get("question") not in QUESTIONS:
        return None
    return draw(SimpleNamespace(question=about["question"], rows=rows, environment=about, file=file))


def _number(cell):
    """What a cell of a CSV file was."""
    try:
        return {"True": True, "False": False}[cell] if cell in ("True", "False") else float(cell)
    except ValueError:
        return cell


def _bars(new_figure, report):
    panels = {}
    for row in report.rows:
        value = next((name for name in _VALUES if isinstance(row.get(name), float)), None)
        if value:
            panels.setdefault((row["case"], value), []).append((row["competitor"], row[value]))
    lengths = [len(bars) + 2 for bars in panels.values()] or [3]
    figure = new_figure(figsize=(_WIDTH, 0.24 * sum(lengths) + 0.6), layout="constrained")
    axes = figure.subplots(len(lengths), squeeze=False, height_ratios=lengths)[:, 0]
    for axis, ((case, value), bars) in zip(axes, panels.items(), strict=False):
        names, values = zip(*reversed(bars), strict=True)
        drawn = axis.barh(names, values, color=[_colour(name) for name in names])
        axis.bar_label(drawn, [_short(value) for value in values], padding=3, fontsize=_SMALL)
        axis.set_title(f"{case}, {_VALUES[value]}", fontsize=_SMALL, loc="left")
        axis.tick_params(labelsize=_SMALL)
        axis.margins(x=0.12)
    return figure


def _stacked(new_figure, report):
    """A bar a competitor, of the parts of its step where they are known."""
    rows = [row for row in report.rows if "p50_ms" in row]
    parts = [name for name in _PARTS if any(name in row for row in rows)]
    figure = new_figure(figsize=(_WIDTH, 0.3 * len(rows) + 1.3), layout="constrained")
    axis, names = figure.subplots(), [row["competitor"] for row in rows]
    left = [0.0] * len(rows)
    for part in parts:
        values = [row.get(part, 0.0) for row in rows]
        axis.barh(names, values, left=left, color=_PARTS[part], label=part.removesuffix("_ms"))
        left = [a + b for a, b in zip(left, values, strict=True)]
    whole = [row["p50_ms"] for row in rows]
    unknown = [0.0 if any(part in row for part in parts) else row["p50_ms"] for row in rows]
    drawn = axis.barh(names, unknown, left=left, color="white", edgecolor="0.5", hatch="//", linewidth=0.5)
    axis.bar_label(drawn, [_short(value) for value in whole], padding=3, fontsize=_SMALL)
    axis.invert_yaxis()
    axis.set_xlabel("ms of a step, forward + backward", fontsize=_SMALL)
    axis.tick_params(labelsize=_SMALL)
    axis.margins(x=0.12)
    if parts:
        figure.legend(loc="outside lower center", ncols=len(parts), frameon=False, fontsize=_SMALL)
    return figure


def _rates(new_figure, report):
    """A panel a case, ms of a step over the firing rate."""
    cases = list(dict.fromkeys(row["case"].rpartition(", rate ")[0] for row in report.rows))
    figure = new_figure(figsize=(_WIDTH, 3.6), layout="constrained")
    for axis, case in zip(figure.subplots(1, len(cases), squeeze=False)[0], cases, strict=True):
        rows = [row for row in report.rows if row["case"].startswith(f"{case}, rate ") and "p50_ms" in row]
        for name in dict.fromkeys(row["competitor"] for row in rows):
            points = [(row["rate"], row["p50_ms"]) for row in rows if row["competitor"] == name]
            style = ":" if name in ("torch, NCHW", "bpsta, skip_zeros off") else "-"
            axis.plot(*zip(*points, strict=True), "o" + style, color=_colour(name), label=name, markersize=3)
        axis.set_title(case, fontsize=_SMALL, loc="left")
        axis.set(xlabel="firing rate", ylabel="ms of a training step")
        _from_zero(axis)
    axis.legend(frameon=False, fontsize=_SMALL)
    return figure


def _gains(new_figure, report):
    """How many times as fast as the first competitor of its case, in one panel."""
    rows = [row for row in reversed(report.rows) if isinstance(row.get("faster"), float) and row["faster"] != 1]
    figure = new_figure(figsize=(_WIDTH, 0.3 * len(rows) + 1.2), layout="constrained")
    axis = figure.subplots()
    gains = [row["faster"] for row in rows]
    drawn = axis.barh([row["case"] for row in rows], gains, color=[_colour(row["competitor"]) for row in rows])
    axis.bar_label(drawn, [_short(gain) for gain in gains], padding=3, fontsize=_SMALL)
    axis.axvline(1, color=_COLOURS["snntorch"], linewidth=1)
    axis.set_title("times as fast as the net's own loop, forward and backward", fontsize=_SMALL, loc="left")
    axis.tick_params(labelsize=_SMALL)
    axis.margins(x=0.12)
    return figure


def _lines(new_figure, report):
    figure = new_figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    over_time = report.question == "time"
    for name in dict.fromkeys(row["competitor"] for row in report.rows):
        points = [
            ([int(side) for side in row["case"].split("x")], row["ns_per_neuron_step"])
            for row in report.rows
            if row["competitor"] == name and "ns_per_neuron_step" in row
        ]
        xs = [shape[0] if over_time else math.prod(shape) for shape, _ in points]
        axis.plot(xs, [ns for _, ns in points], "o-", color=_colour(name), label=name)
    axis.set(xscale="log", yscale="log", xlabel="time steps T" if over_time else "neurons x steps")
    axis.set_ylabel("ns per neuron and step, forward + backward")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, fontsize=_SMALL)
    return figure


def _from_zero(axis):
    """A grid, and both axes from 0 to a little more than the largest point."""
    points = [point for line in axis.lines for point in line.get_xydata()]
    right, top = (1.08 * max(point[i] for point in points) for i in range(2))
    axis.set(xlim=(0, right), ylim=(0, top))
    axis.grid(alpha=0.3)


def draw_clock(rows, file):
    """Seconds an epoch over the firing rate of it, a line a run; a PNG beside the CSV file. Returns its path."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    for gradient in ("baseline", "bpsa"):
        for skipping, style in ((False, "o:"), (True, "o-")):
            own = [row for row in rows if (row["gradient"], row["skip_zeros"]) == (gradient, skipping)]
            rates, seconds = ([row[name] for row in own] for name in ("firing_rate", "process_seconds"))
            label = f"{'rectangle' if gradient == 'baseline' else 'BPSA'}, {'skipping zeros' if skipping else 'dense'}"
            axis.plot(rates, seconds, style, color=VARIANTS[gradient], label=label, markersize=3)
            for x, y, text in ((rates[0], seconds[0], "1"), (rates[-1], seconds[-1], str(len(own)))):
                axis.annotate(text, (x, y), textcoords="offset points", xytext=(3, 3), fontsize=_SMALL)
    axis.set(xlabel="firing rate after the epoch (its number at the ends)", ylabel="seconds of the processor, an epoch")
    _from_zero(axis)
    axis.legend(frameon=False, fontsize=_SMALL)
    path = file.with_suffix(".png")
    figure.savefig(path, dpi=150)
    return path
