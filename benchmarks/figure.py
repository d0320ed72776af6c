"""The figure of a report."""

import math

_VALUES = {"p50_ms": "ms", "p50_us": "us", "p50_s": "s", "peak_MiB": "MiB", "saved_bytes": "bytes per neuron and step"}
_COLOURS = {"floor": "0.8", "without": "0.8", "snntorch": "#7a7a7a", "host": "#7a7a7a", "bpsta": "#1f77b4"}


def _colour(name):
    return next((colour for start, colour in _COLOURS.items() if name.startswith(start)), "#e0a458")


def draw(report):
    """Bars, a panel per case; or lines over the size. A PNG beside the CSV file; returns its path."""
    from matplotlib.figure import Figure

    drawn = _lines if report.question in ("time", "neurons") else _bars
    figure = drawn(Figure, report)
    e = report.environment
    figure.suptitle(f"{report.question}: {e['device']}, {e['threads']} thread(s), torch {e['torch']}", fontsize=9)
    path = report.file.with_suffix(".png")
    figure.savefig(path, dpi=150)
    return path


def _bars(new_figure, report):
    panels = {}
    for row in report.rows:
        value = next((name for name in _VALUES if isinstance(row.get(name), float)), None)
        if value:
            panels.setdefault((row["case"], value), []).append((row["competitor"], row[value]))
    lengths = [len(bars) + 2 for bars in panels.values()] or [3]
    figure = new_figure(figsize=(8, 0.24 * sum(lengths) + 0.6), layout="constrained")
    axes = figure.subplots(len(lengths), squeeze=False, height_ratios=lengths)[:, 0]
    for axis, ((case, value), bars) in zip(axes, panels.items(), strict=False):
        names, values = zip(*reversed(bars), strict=True)
        drawn = axis.barh(names, values, color=[_colour(name) for name in names])
        axis.bar_label(drawn, [f"{value:.3g}" for value in values], padding=3, fontsize=7)
        axis.set_title(f"{case}, {_VALUES[value]}", fontsize=8, loc="left")
        axis.tick_params(labelsize=7)
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
    axis.legend(frameon=False, fontsize=8)
    return figure


def draw_clock(rows, file):
    """Seconds an epoch over the firing rate of it, a line a run; a PNG beside the CSV file. Returns its path."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    for gradient, colour in (("baseline", "#7a7a7a"), ("bpsa", "#1f77b4")):
        for skipping, style in ((False, "o:"), (True, "o-")):
            own = [row for row in rows if (row["gradient"], row["skip_zeros"]) == (gradient, skipping)]
            rates, seconds = ([row[name] for row in own] for name in ("firing_rate", "process_seconds"))
            label = f"{'rectangle' if gradient == 'baseline' else 'BPSA'}, {'skipping zeros' if skipping else 'dense'}"
            axis.plot(rates, seconds, style, color=colour, label=label, markersize=3)
            for x, y, text in ((rates[0], seconds[0], "1"), (rates[-1], seconds[-1], str(len(own)))):
                axis.annotate(text, (x, y), textcoords="offset points", xytext=(3, 3), fontsize=7)
    axis.set(xlabel="firing rate after the epoch (its number at the ends)", ylabel="seconds of the processor, an epoch")
    axis.set(xlim=(0, None), ylim=(0, None))
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, fontsize=8)
    path = file.with_suffix(".png")
    figure.savefig(path, dpi=150)
    return path
