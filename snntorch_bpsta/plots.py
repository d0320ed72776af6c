"""Rows of results to figures. No file access."""

from __future__ import annotations

from statistics import mean, stdev
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from ._checks import REAL, check_instance, check_positive_int, check_tensor, reading

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.animation import FuncAnimation
    from torch import Tensor

    from ._typing import Events, Result
    from .data import Samples

_COLOURS = {"baseline": "#7a7a7a", "bpsa": "#1f77b4", "bpsa+bpta": "#d62728", "bpta": "#2ca02c"}


def comparison(rows: Sequence[Result], title: str = "") -> Figure:
    """Test accuracy over the epochs (mean, with the range over the seeds) and firing rate per layer, by variant.

    Args:
        rows: those of a results file: ``variant``, ``seed``, ``history`` and ``firing_rates`` are used.
        title: of the figure.

    Returns:
        matplotlib.figure.Figure

    Raises:
        ValueError: there are no rows, or they are not those of a results file.
        TypeError: `rows` is no list, `title` no string.
    """
    check_instance("rows", rows, (list, tuple), "a list of rows of a results file")
    check_instance("title", title, str, "a string")
    if not rows:
        raise ValueError("there are no rows to draw")
    with reading("rows", "rows of a results file"):
        return _draw(rows, title)


def study(rows: Sequence[Result], title: str = "") -> Figure:
    """Test accuracy (mean, standard deviation and every seed) and firing rate by setting and variant; for a study with one
    setting the figure of :func:`comparison`.

    Args:
        rows: those of a study: ``setting``, ``variant``, ``accuracy`` and ``firing_rate`` are used.
        title: of the figure.

    Returns:
        matplotlib.figure.Figure

    Raises:
        ValueError, TypeError: as :func:`comparison`.
    """
    check_instance("rows", rows, (list, tuple), "a list of rows of a study")
    check_instance("title", title, str, "a string")
    if not rows:
        raise ValueError("there are no rows to draw")
    with reading("rows", "rows of a study"):
        settings = list(dict.fromkeys(row["setting"] for row in rows))
        if len(settings) == 1:
            return _draw(rows, title)
        return _draw_settings(rows, settings, title)


def _draw_settings(rows, settings, title):
    figure = Figure(figsize=(max(8, 1.6 * len(settings) + 4), 3.8), layout="constrained")
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    for axes, key, factor, label in zip(
        figure.subplots(1, 2), ("accuracy", "firing_rate"), (100, 1), ("test accuracy, %", "spikes per neuron and step"),
        strict=True,
    ):  # fmt: skip
        for position, variant in enumerate(variants):
            colour, shift = _COLOURS.get(variant, f"C{position}"), (position - (len(variants) - 1) / 2) * 0.12
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
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def samples(data: Samples, count: int = 8) -> Figure:
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
    with reading("data", "samples [C, H, W] or [T, 2, H, W] with labels"):
        found = [data[i] for i in range(min(count, len(data)))]
        frames = found[0][0].ndim == 4
        columns = len(found[0][0]) if frames else len(found)
        rows = len(found) if frames else 1
        figure = Figure(figsize=(min(1.2 * columns, 14), 1.35 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for i, (x, label) in enumerate(found):
            for axes, picture in zip(grid[i] if frames else [grid[0, i]], x if frames else [x], strict=True):
                axes.imshow(_picture(picture, float(x.max())), cmap="gray", vmin=0, vmax=1)
                axes.set_axis_off()
            (grid[i, 0] if frames else grid[0, i]).set_title(str(label), fontsize=8)
        return figure


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
    if frames.dim() != 4 or frames.shape[1] != 2 or frames.numel() == 0:
        raise ValueError(f"frames must have shape [T, 2, H, W], got {tuple(frames.shape)}")
    with reading("frames", "counts of events"):
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
        ValueError: `events` are not that.
    """
    with reading("events", "arrays with the fields x, y, t and p"):
        y, t, p = (np.asarray(events[name]) for name in "ytp")
        figure = Figure(figsize=(10, 3.6), layout="constrained")
        points, rate = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        end = t.max() / 1000
        colours = {"OFF": "#1f4fd8", "ON": "#d62728"}
        shown = slice(None, None, -(-len(t) // 20_000))
        size = min(4.0, max(1.0, 2e4 / len(t)))
        dots = [
            (*colours.values(),)[i] for i in np.asarray(p[shown], dtype=int)
        ]  # in the order of time: none is on top
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


def gradient_flow(neuron: Sequence[Result], network: Sequence[Result], title: str = "") -> Figure:
    """How far the error comes: of one neuron, its membrane, spikes and dL/du; of a network, dL/du by layer.

    Args:
        neuron: what :func:`~snntorch_bpsta.training.gradients.one_neuron` returns.
        network: what :func:`~snntorch_bpsta.training.gradients.through_network` returns.
        title: of the figure.

    Returns:
        matplotlib.figure.Figure

    Raises:
        ValueError, TypeError: an argument is not that.
    """
    check_instance("neuron", neuron, (list, tuple), "a list")
    check_instance("network", network, (list, tuple), "a list")
    check_instance("title", title, str, "a string")
    with reading("neuron and network", "what training.gradients returns"):
        return _draw_flow(neuron, network, title)


def _draw_flow(neuron, network, title):
    layers = list(dict.fromkeys(row["layer"] for row in network))
    weights = list(dict.fromkeys(row["weights"] for row in network))
    columns = max(2, len(layers))
    figure = Figure(figsize=(1.9 * columns, 2.2 * (1 + len(weights))), layout="constrained")
    grid = figure.add_gridspec(1 + len(weights), columns)
    half = columns // 2
    membrane, error = figure.add_subplot(grid[0, :half]), figure.add_subplot(grid[0, half:])
    steps = range(1, len(neuron[0]["u"]) + 1)
    membrane.plot(steps, neuron[0]["u"], color="0.3", marker=".", label="u")
    membrane.vlines(
        [t for t, o in zip(steps, neuron[0]["o"], strict=True) if o], 0, max(neuron[0]["u"]), color="0.8", zorder=0
    )
    membrane.set(title="one neuron: membrane, spikes", xlabel="step", ylabel="u")
    for row in neuron:
        error.plot(steps, row["flow"], color=_COLOURS[row["variant"]], marker=".", label=row["variant"])
    error.set(title="one neuron: dL/du", xlabel="step")
    error.legend(frameon=False, fontsize=8)
    for i, which in enumerate(weights):
        first = None
        for j, layer in enumerate(layers):
            axes = figure.add_subplot(grid[1 + i, j], sharey=first)
            for row in network:
                if (row["weights"], row["layer"]) == (which, layer):
                    axes.semilogy(
                        range(1, len(row["flow"]) + 1), row["flow"], color=_COLOURS[row["variant"]], marker="."
                    )
            axes.set(title=f"{which} weights, LIF {j + 1}", xlabel="step")
            axes.tick_params(labelleft=first is None)
            if first is None:
                first = axes
                axes.set_ylabel("mean |dL/du|")
    for axes in figure.axes:
        axes.grid(alpha=0.3)
        axes.title.set_fontsize(9)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def _draw(rows, title):
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    curves, bars = figure.subplots(1, 2, width_ratios=(3, 2))
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    for position, variant in enumerate(variants):
        runs = [row for row in rows if row["variant"] == variant]
        colour = _COLOURS.get(variant, f"C{position}")
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
    if title:
        figure.suptitle(title, fontsize=10)
    return figure
