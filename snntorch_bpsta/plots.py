"""Rows of results to figures. No file access."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.figure import Figure

from . import _palette
from ._checks import NUMBER, REAL, as_events, check_instance, check_positive_int, check_rows, check_tensor

if TYPE_CHECKING:
    from matplotlib.animation import FuncAnimation
    from torch import Tensor

    from ._typing import Events, Result

__all__ = ["animation", "raster", "samples", "study"]

_NONE = type(None)


def study(rows: Sequence[Result], title: str = "") -> Figure:
    """The figure of a study.

    Of trained networks in one setting: test accuracy over the epochs (mean, with the range over the seeds) and firing rate
    by layer; in several settings: test accuracy (mean, standard deviation and every seed) and firing rate by setting. Of
    the study "gradients" how far the error comes, of "simulator" the films beside the real recordings, of "loop" the
    accuracy over the seconds, and seconds and spikes of each run.

    Args:
        rows: those of a results file, of one study.
        title: of the figure.

    Returns:
        matplotlib.figure.Figure

    Raises:
        ValueError: there are no rows, or a column is missing or holds a value that cannot be.
        TypeError: `rows` is no list of dicts, `title` no string, or a column holds something else than it should.
    """
    check_rows("rows", rows, {"setting": (str,), "variant": (str,)})
    check_instance("title", title, str, "a string")
    if not rows:
        raise ValueError("there are no rows to draw")
    settings = list(dict.fromkeys(row["setting"] for row in rows))
    if "flow" in rows[0]:
        figure = _draw_flow(rows, settings)
    elif "films" in rows[0]:
        figure = _draw_films(rows)
    elif rows[0].get("study") == "loop":
        figure = _draw_loop(rows, settings)
    elif len(settings) == 1:
        figure = _draw_curves(rows)
    else:
        figure = _draw_settings(rows, settings)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def _check_alike(rows, column, what, value):
    """Refuse rows of one variant that differ in a value that is drawn over."""
    first = {}
    for row in rows:
        if first.setdefault(row["variant"], value(row)) != value(row):
            raise ValueError(f"{column} of rows: runs of the variant {row['variant']!r} have different {what}")


def _draw_curves(rows):
    check_rows("rows", rows, {"history": (list,), "firing_rates": (dict, _NONE)})
    for i, row in enumerate(rows):
        check_rows(f"history of rows[{i}]", row["history"], {"test_accuracy": NUMBER, "warm_up": (str, _NONE)})
        rates = row["firing_rates"] or {}
        check_rows(f"firing_rates of rows[{i}]", [rates], dict.fromkeys(rates, NUMBER))
    _check_alike(rows, "history", "epochs", lambda row: len(row["history"]))
    _check_alike(
        [row for row in rows if row["firing_rates"]], "firing_rates", "layers", lambda row: [*row["firing_rates"]]
    )
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    curves, bars = figure.subplots(1, 2, width_ratios=(3, 2))
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    for position, variant in enumerate(variants):
        runs = [row for row in rows if row["variant"] == variant]
        colour = _palette.colour(variant, position)
        by_epoch = list(zip(*([100 * epoch["test_accuracy"] for epoch in run["history"]] for run in runs), strict=True))
        epochs = range(1, len(by_epoch) + 1)
        curves.plot(epochs, [sum(values) / len(values) for values in by_epoch], color=colour, label=variant)
        curves.fill_between(epochs, list(map(min, by_epoch)), list(map(max, by_epoch)), color=colour, alpha=0.15, lw=0)
        rates = [run["firing_rates"] for run in runs if run["firing_rates"]]
        if rates:
            layers = list(rates[0])
            means = [sum(rate[layer] for rate in rates) / len(rates) for layer in layers]
            width = 0.8 / len(variants)
            places = [layer + (position - (len(variants) - 1) / 2) * width for layer in range(len(layers))]
            bars.bar(places, means, width, color=colour, label=variant)
            bars.set_xticks(range(len(layers)), [f"LIF {number}" for number in range(1, len(layers) + 1)])
    warm = sum(epoch["warm_up"] is not None for epoch in rows[0]["history"])
    if warm:
        curves.axvspan(0.5, warm + 0.5, color="0.93", zorder=0)
        curves.text(warm / 2 + 0.5, 0.02, "warm-up", transform=curves.get_xaxis_transform(), ha="center", color="0.4")
    curves.set(xlabel="epoch", ylabel="test accuracy, %")
    curves.grid(alpha=0.3)
    curves.legend(frameon=False)
    bars.set(ylabel="spikes per neuron and step")
    bars.grid(alpha=0.3, axis="y")
    return figure


def _draw_loop(rows, settings):
    check_rows("rows", rows, {"history": (list,), "train_seconds": NUMBER, "firing_rate": NUMBER})
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    curves, seconds, spikes = figure.subplots(1, 3, width_ratios=(4, 2, 2))
    styles = dict(zip(settings, (":", "-", "--"), strict=False))
    names, places = [], 0
    for variant in dict.fromkeys(row["variant"] for row in rows):
        colour, slowest = _palette.colour(variant), None
        for setting in settings:
            runs = [row for row in rows if (row["setting"], row["variant"]) == (setting, variant)]
            for i, run in enumerate(runs):
                check_rows("history of rows", run["history"], {"test_accuracy": NUMBER, "seconds": NUMBER})
                curves.plot(
                    [epoch["seconds"] for epoch in run["history"]], [100 * e["test_accuracy"] for e in run["history"]],
                    styles.get(setting, "-"), color=colour, label=None if i else f"{variant}, {setting}", lw=1.4,
                )  # fmt: skip
            took = mean(run["train_seconds"] for run in runs)
            slowest = slowest or took
            bar = seconds.barh(places, took, color=colour, alpha=0.45 if took == slowest else 1)
            seconds.bar_label(
                bar, [f" {took:.1f} s" + ("" if took == slowest else f", {slowest / took:.1f} x")], fontsize=8
            )
            bar = spikes.barh(places, mean(run["firing_rate"] for run in runs), color=colour)
            names.append(f"{variant},\n{setting}")
            places += 1
    curves.set(xlabel="seconds of training", ylabel="test accuracy, %")
    curves.legend(frameon=False, fontsize=8)
    seconds.set(xlabel="seconds of training", yticks=range(places))
    seconds.set_yticklabels(names, fontsize=8)
    spikes.set(xlabel="spikes / hidden neuron, step", yticks=[])
    seconds.margins(x=0.45)
    for axes in (seconds, spikes):
        axes.invert_yaxis()
    for axes in (curves, seconds, spikes):
        axes.grid(alpha=0.3, axis="both" if axes is curves else "x")
    return figure


def _draw_settings(rows, settings):
    check_rows("rows", rows, {"accuracy": NUMBER, "firing_rate": (*NUMBER, _NONE)})
    if not all(0 <= row["accuracy"] <= 1 and 0 <= (row["firing_rate"] or 0) <= 1 for row in rows):
        raise ValueError("accuracy and firing_rate of rows must be from 0 to 1")
    figure = Figure(figsize=(max(8, 1.6 * len(settings) + 4), 3.8), layout="constrained")
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    for axes, key, factor, label in zip(
        figure.subplots(1, 2), ("accuracy", "firing_rate"), (100, 1), ("test accuracy, %", "spikes per neuron and step"),
        strict=True,
    ):  # fmt: skip
        for position, variant in enumerate(variants):
            colour, shift = _palette.colour(variant, position), (position - (len(variants) - 1) / 2) * 0.12
            places, means, spread = [], [], []
            for place, setting in enumerate(settings):
                runs = [row for row in rows if (row["setting"], row["variant"]) == (setting, variant)]
                values = [factor * row[key] for row in runs if row[key] is not None]
                if values:
                    places.append(place + shift)
                    means.append(mean(values))
                    spread.append(stdev(values) if len(values) > 1 else 0)
                    axes.plot([place + shift] * len(values), values, ".", color=colour, alpha=0.35, ms=4)
            axes.errorbar(places, means, spread, color=colour, marker="o", ms=5, lw=1.2, capsize=3, label=variant)
        axes.set_xticks(range(len(settings)), settings, rotation=20 if max(map(len, settings)) > 8 else 0)
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


def _draw_flow(rows, settings):
    check_rows("rows", rows, {"flow": (dict,)})
    for i, row in enumerate(rows):
        columns = row["flow"] | {key: row[key] for key in "uo" if key in row}
        check_rows(f"flow of rows[{i}]", [columns], dict.fromkeys(columns, (list,)))
        for key, steps in columns.items():
            check_rows(f"{key!r} of rows[{i}]", [dict(enumerate(steps))], dict.fromkeys(range(len(steps)), NUMBER))
    lines = [[row for row in rows if row["setting"] == setting and row["flow"]] for setting in settings]
    columns = max(2, *(len(group[0]["flow"]) if group else 0 for group in lines))
    figure = Figure(figsize=(1.9 * columns, 2.2 * len(lines)), layout="constrained")
    grid = figure.add_gridspec(len(lines), columns)
    for i, (setting, group) in enumerate(zip(settings, lines, strict=True)):
        if group and "u" in group[0]:
            half = columns // 2
            _draw_neuron(group, setting, figure.add_subplot(grid[i, :half]), figure.add_subplot(grid[i, half:]))
            continue
        first = None
        for j, layer in enumerate(group[0]["flow"] if group else ()):
            axes = figure.add_subplot(grid[i, j], sharey=first)
            for row in group:
                steps = row["flow"].get(layer, [])
                axes.semilogy(range(1, len(steps) + 1), steps, color=_palette.colour(row["variant"]), marker=".")
            axes.set(title=f"{setting}, LIF {j + 1}", xlabel="step")
            axes.tick_params(labelleft=first is None)
            if first is None:
                first = axes
                axes.set_ylabel("mean |dL/du|")
    for axes in figure.axes:
        axes.grid(alpha=0.3)
        axes.title.set_fontsize(9)
    return figure


def _draw_neuron(rows, setting, membrane, error):
    u, o = rows[0]["u"], rows[0].get("o", [])
    membrane.plot(range(1, len(u) + 1), u, color="0.3", marker=".")
    membrane.vlines([t for t, spike in enumerate(o, 1) if spike], 0, max(u, default=0), color="0.8", zorder=0)
    membrane.set(title=f"{setting}: membrane, spikes", xlabel="step", ylabel="u")
    for row in rows:
        for steps in row["flow"].values():
            colour, label = _palette.colour(row["variant"]), row["variant"]
            error.plot(range(1, len(steps) + 1), steps, color=colour, marker=".", label=label)
    error.set(title=f"{setting}: dL/du", xlabel="step")
    error.legend(frameon=False, fontsize=8)


def _draw_films(rows):
    check_rows("rows", rows, {"films": (list,)})
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    counts, likeness = figure.subplots(1, 2)
    pairs = []
    for i, row in enumerate(rows):
        name, films, colour = f"films of rows[{i}]", row["films"], _palette.colour("", i)
        check_rows(name, films, {"events": (list,), "correlation": (list,)})
        for film in films:
            numbers = dict(enumerate(film["events"] + film["correlation"]))
            if len(film["events"]) != 2 or not film["correlation"]:
                raise ValueError(f"{name} must have events (simulated, real) and a correlation, got {film['events']}")
            check_rows(name, [numbers], dict.fromkeys(numbers, NUMBER))
        pairs += [film["events"] for film in films]
        own = [film["events"] for film in films]
        counts.scatter(
            [real for _, real in own], [ours for ours, _ in own], 4, colour, label=row["setting"], zorder=9 - i
        )
        likeness.hist([mean(film["correlation"]) for film in films], 20, color=colour, histtype="step", density=True)
    largest = max((max(pair) for pair in pairs), default=1)
    counts.axline((0, 0), (largest, largest), color="0.7", lw=0.8)
    counts.set(xlabel="events, real", ylabel="events, simulated")
    counts.legend(frameon=False)
    likeness.set(xlabel="correlation of the frames", ylabel="density")
    return figure


def samples(data: Sequence[tuple[Tensor, Any]] | torch.utils.data.Dataset, count: int = 8) -> Figure:
    """What a data set shows: pictures, or the frames of recordings, one recording a row.

    Args:
        data: of :func:`snntorch_bpsta.data.load`.
        count: how many.

    Returns:
        matplotlib.figure.Figure

    Raises:
        TypeError, ValueError: `count` is no integer >= 1; there are no samples.
    """
    check_positive_int("count", count)
    check_instance("data", data, (Sequence, torch.utils.data.Dataset), "samples with labels, by position")
    found = [_sample(i, data[i]) for i in range(min(count, len(data)))]  # type: ignore[arg-type]
    if not found:
        raise ValueError("data must hold a sample at least, got none")
    shape = found[0][0].shape
    frames = len(shape) == 4
    if any(len(x.shape) != len(shape) or (frames and len(x) != len(found[0][0])) for x, _ in found):
        raise ValueError("data must be all images [C, H, W], or all recordings [T, 2, H, W] of one T")
    columns = shape[0] if frames else len(found)
    rows = len(found) if frames else 1
    figure = Figure(figsize=(min(1.2 * columns, 14), 1.35 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for i, (x, label) in enumerate(found):
        for axes, picture in zip(grid[i] if frames else [grid[0, i]], x if frames else [x], strict=True):
            axes.imshow(_picture(picture, float(x.max())), cmap="gray", vmin=0, vmax=1)
            axes.set_axis_off()
        (grid[i, 0] if frames else grid[0, i]).set_title(str(label), fontsize=8)
    return figure


def _sample(i, pair):
    """(picture or frames, label), checked."""
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise TypeError(f"data[{i}] must be a tensor and its label, got {type(pair).__name__}")
    x, label = pair
    check_tensor(f"data[{i}]", x, 3, "[C, H, W] or [T, 2, H, W]", REAL)
    if x.is_meta or not x.numel() or x.dim() > 4 or not 1 <= x.shape[-3] <= 4 or (x.dim() == 4 and x.shape[1] != 2):
        raise ValueError(f"data[{i}] must be [C, H, W] of 1 to 4 channels, or [T, 2, H, W], got {tuple(x.shape)}")
    return x.detach().cpu().float().resolve_neg(), label


def _picture(x, largest):
    """[C, H, W] as something to show: grey, RGB, or events on white: OFF blue, ON red."""
    x = x.numpy() / max(largest, 1e-9)
    if len(x) != 2:
        return x[0] if len(x) == 1 else x.transpose(1, 2, 0)
    off, on = x**0.5
    return 1 - np.stack([off, np.maximum(off, on), on], -1)


def animation(frames: Tensor, interval: int = 120) -> FuncAnimation:
    """The frames of a recording, one after the other.

    Args:
        frames: ``[T, 2, H, W]``.
        interval: ms between two.

    Returns:
        matplotlib.animation.FuncAnimation: ``.to_jshtml()`` for a notebook, ``.save(file)``.

    Raises:
        TypeError, ValueError: `frames` is no such tensor; `interval` no integer >= 1.
    """
    from matplotlib.animation import FuncAnimation

    check_tensor("frames", frames, 4, "[T, 2, H, W]", REAL)
    check_positive_int("interval", interval)
    if frames.dim() != 4 or frames.shape[1] != 2 or frames.numel() == 0 or frames.is_meta:
        raise ValueError(
            f"frames must have shape [T, 2, H, W], and values, got {tuple(frames.shape)} on {frames.device}"
        )
    frames = frames.detach().cpu().double().resolve_neg()
    largest = float(frames.max())
    figure = Figure(figsize=(2.6, 2.6), layout="constrained")
    axes = figure.subplots()
    axes.set_axis_off()
    shown = axes.imshow(_picture(frames[0], largest))

    def show(t):
        shown.set_data(_picture(frames[t], largest))
        axes.set_title(f"frame {t + 1} of {len(frames)}", fontsize=8)
        return (shown,)

    return FuncAnimation(figure, show, len(frames), interval=interval)


def raster(events: Events) -> Figure:
    """The events of one recording: their rows over time (of more than 20,000 a part), OFF blue, ON red; and how many there
    are per millisecond.

    Args:
        events: with the fields x, y, t (us) and p, as :func:`snntorch_bpsta.data.events_to_frames` takes them.

    Returns:
        matplotlib.figure.Figure

    Raises:
        ValueError: `events` are not that, or there are none.
        TypeError: a field holds no numbers.
    """
    _, y, p, t = as_events(events)
    for field, values in (("y", y), ("p", p), ("t", t)):
        if values.dtype.kind not in "iubf" or not np.isfinite(values).all():
            raise TypeError(f"{field} of events must hold finite numbers, got {values.dtype}")
    if not len(t) or not np.isin(p, (0, 1)).all():
        raise ValueError(f"events must be one at least, with p 0 or 1, got {len(t)} events")
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    points, rate = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    end = t.max() / 1000
    colours = _palette.POLARITIES
    shown = slice(None, None, -(-len(t) // 20_000))
    size = min(4.0, max(1.0, 2e4 / len(t)))
    dots = [(*colours.values(),)[i] for i in np.asarray(p[shown], dtype=int)]  # in the order of time: none is on top
    points.scatter(t[shown] / 1000, y[shown], s=size, c=dots, lw=0, rasterized=True)
    width = max(1.0, end / 200)  # ms
    for polarity, (name, colour) in enumerate(colours.items()):
        counts, edges = np.histogram(t[p == polarity] / 1000, np.arange(0, end + width, width))
        rate.stairs(counts / width, edges, color=colour, label=name)
    points.invert_yaxis()
    points.set(ylabel="row, pixels")
    rate.set(xlabel="time, ms", ylabel="per ms")
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    return figure
