"""Draw the pictures of the docs and of the README: ``python docs/pictures.py``.

What they show is calculated by the package. Each is written twice, for a light and a dark page, and carries its numbers in
the description of the SVG, which a test compares with numbers calculated anew.
"""

import csv
import json
from pathlib import Path

import matplotlib
import torch
from matplotlib.figure import Figure

import snntorch_bpsta as snn

HERE = Path(__file__).parent
BETA, THRESHOLD, ALPHA = 0.9, 0.5, 0.8
# A slow start to a spike, a strong spike, a near miss, a weak spike: what the variants treat differently.
CURRENT = (0.35, 0.10, 0.25, 0.30, 0.05, 0.70, 0.20, 0.27, 0.15, 0.10)
COUNTED = 3  # the loss is the number of spikes in the last steps
VARIANTS = {
    "plain backpropagation": {"spike_grad": snn.surrogate.rectangle()},
    "BPSA": {"spatial_adj": True},
    "BPSA + BPTA": {"spatial_adj": True, "temporal_alpha": ALPHA},
}
COLOURS = {"plain backpropagation": "#8a8a8a", "BPSA": "#2f86d1", "BPSA + BPTA": "#e0483e"}
DARK = {name: "#d8d8d8" for name in ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")}


def neuron(current, counted):
    """A neuron (Eq. 2) and, by variant, its surrogate s, the factors to the step before (the membrane's and the residual's)
    and dL/du, where L is the number of spikes in the last `counted` steps."""
    cur = torch.tensor(current, dtype=torch.float64)[:, None]
    fixed = {
        name: torch.tensor(value, dtype=torch.float64) for name, value in (("beta", BETA), ("threshold", THRESHOLD))
    }
    rows, out = {}, None
    for name, options in VARIANTS.items():
        x = cur.clone().requires_grad_()
        out = snn.functional.lif_multistep(x, **fixed, reset_mechanism="zero", record_mem=True, **options)
        out.spk[-counted:].sum().backward()
        surrogate = options.get("spike_grad", snn.surrogate.spatial_adjustment(THRESHOLD))
        s = surrogate.derivative(out.mem - THRESHOLD)
        rows[name] = {
            "s": s,
            "membrane": BETA * (1 - out.spk),
            "residual": BETA * options.get("temporal_alpha", 0) * s,
            "flow": x.grad,
        }
    listed = {
        name: {key: values.detach().flatten().tolist() for key, values in row.items()} for name, row in rows.items()
    }
    return {"u": out.mem.detach().flatten().tolist(), "o": out.spk.detach().flatten().tolist(), "variants": listed}


def crossing():
    """The network of one neuron over time, unrolled: how much of the error goes along each edge."""
    data = neuron(CURRENT, COUNTED)
    steps = range(1, len(CURRENT) + 1)
    figure = Figure(figsize=(8.4, 6.6), layout="constrained")
    axes = figure.subplots(4, 1, sharex=True, height_ratios=(1.5, 1, 1, 1.1))
    membrane(axes[0], steps, data)
    axes[0].legend(frameon=False, fontsize=8, loc="upper left")
    axes[0].axvspan(len(CURRENT) - COUNTED + 0.5, len(CURRENT) + 0.5, color="#888888", alpha=0.15, lw=0)
    axes[0].text(len(CURRENT) - COUNTED + 0.6, 0.02, "counted in the loss", fontsize=8, va="bottom")
    largest = max(max(row["flow"]) for row in data["variants"].values())
    for axis, (name, row) in zip(axes[1:], data["variants"].items(), strict=True):
        colour = COLOURS[name]
        for i, t in enumerate(steps):
            size = row["flow"][i] / largest
            axis.scatter([t], [0], s=40 + 560 * size, color=colour, alpha=1 if size else 0.25, zorder=3, lw=0)
            axis.text(t, -0.62, f"{row['flow'][i]:.2g}", ha="center", va="top", fontsize=8)
            if t > len(CURRENT) - COUNTED:  # the error of the loss, through the spike of this step
                entering(axis, t, row["s"][i], colour)
            if t < len(CURRENT) and row["flow"][i + 1]:
                along(axis, t, row["membrane"][i], row["residual"][i], colour)
        axis.set(ylim=(-1.0, 1.15), xlim=(0.4, len(CURRENT) + 0.6), yticks=[])
        axis.set_title(name, loc="left", fontsize=10, color=colour, fontweight="bold")
        for side in ("top", "right", "left", "bottom"):
            axis.spines[side].set_visible(False)
        axis.tick_params(length=0)
    axes[-1].set(xlabel="time step; under each node dL/du, to which its area is proportional", xticks=steps)
    return figure, data


def membrane(axis, steps, data):
    """Membrane and spikes."""
    axis.plot(steps, data["u"], marker="o", ms=4, color="#8a8a8a")
    axis.axhline(THRESHOLD, ls="--", lw=1, color="#8a8a8a")
    fired = [(t, u) for t, u, o in zip(steps, data["u"], data["o"], strict=True) if o]
    if fired:
        axis.plot(*zip(*fired, strict=True), "o", ms=8, color="#e8a33d", label="spike")
    axis.set(ylabel="membrane u", ylim=(0, 1.12 * max(max(data["u"]), THRESHOLD)))


def entering(axis, t, s, colour):
    """The edge from the loss to the membrane of step t, with the factor s; dotted where it is 0."""
    style = {"ls": ":", "lw": 1, "alpha": 0.6} if s == 0 else {"lw": 0.6 + 1.8 * s}
    axis.plot([t, t], [0.95, 0.2], color=colour, **style)
    axis.text(t + 0.06, 0.78, f"{s:.2g}", fontsize=7, va="center")


def along(axis, t, membrane, residual, colour):
    """The edges from step t + 1 to step t: along the membrane, cut where it was reset; and around the reset."""
    if membrane:
        axis.plot([t, t + 1], [0, 0], color=colour, lw=0.6 + 1.8 * membrane, zorder=1)
        axis.text(t + 0.5, -0.1, f"{membrane:.2g}", fontsize=7, ha="center", va="top")
    else:
        axis.plot([t + 0.62, t + 1], [0, 0], color=colour, lw=1, ls=":", zorder=1)
        for shift in (0.5, 0.56):
            axis.plot([t + shift, t + shift], [-0.25, 0.25], color=colour, lw=1.6, zorder=1)
    if residual:
        arc = {"arrowstyle": "-", "connectionstyle": "arc3,rad=-0.55", "color": colour, "lw": 0.6 + 1.8 * residual}
        axis.annotate("", (t + 1, 0.05), (t, 0.05), arrowprops=arc, zorder=1)
        axis.text(t + 0.5, 0.72, f"{residual:.2g}", fontsize=7, ha="center", va="bottom")


def surrogates():
    """do/du over u: what the loss sees of a neuron, by surrogate."""
    u = torch.linspace(-0.5, 2, 501, dtype=torch.float64)
    named = {
        "rectangle (the paper's baseline)": (snn.surrogate.rectangle(), "#8a8a8a"),
        "arc tangent (snnTorch's default)": (snn.surrogate.atan(), "#4aa564"),
        "BPSA: 1/u where it fired": (snn.surrogate.spatial_adjustment(THRESHOLD), "#2f86d1"),
    }
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axis, data = figure.subplots(), {"u": u.tolist()}
    axis.axvspan(THRESHOLD, 2, color="#e8a33d", alpha=0.12, lw=0)
    axis.text(1.97, 1.25, "the neuron fires", ha="right", fontsize=9)
    axis.text(-0.47, 1.25, "the neuron is silent", ha="left", fontsize=9)
    for name, (surrogate, colour) in named.items():
        x = u.clone().requires_grad_()
        surrogate(x - THRESHOLD).sum().backward()
        data[name] = x.grad.tolist()
        axis.plot(u, x.grad, color=colour, label=name, lw=2)
    axis.set(xlabel="membrane u", ylabel="do/du", xlim=(-0.5, 2), ylim=(0, None))
    axis.legend(frameon=False, fontsize=9)
    return figure, data


def three_cases():
    """Membrane and dL/du of one neuron under three constant currents, the three experiments of playground.md."""
    cases = {"no spike": 0.04, "one spike": 0.06, "many spikes": 0.2}
    steps, data = range(1, 25), {}
    figure = Figure(figsize=(9.5, 4.6), layout="constrained")
    grid = figure.subplots(2, len(cases), sharex=True, height_ratios=(1, 1.3))
    for column, (name, current) in enumerate(cases.items()):
        data[name] = neuron([current] * len(steps), 8)
        membrane(grid[0, column], steps, data[name])
        grid[0, column].set_title(f"{name}: I = {current}", fontsize=10)
        below = grid[1, column]
        below.axvspan(16.5, 24.5, color="#888888", alpha=0.15, lw=0)
        for variant, row in data[name]["variants"].items():
            wide = {"BPSA": 3.5}.get(variant, 1.5)  # where curves are equal both can be seen
            below.plot(steps, row["flow"], color=COLOURS[variant], lw=wide, marker=".", ms=3 + wide, label=variant)
        below.set(xlabel="time step", xticks=(1, 8, 16, 24), ylabel="dL/du" if column == 0 else "", ylim=(-0.05, None))
        if column:
            grid[0, column].set_ylabel("")
    grid[1, 0].legend(frameon=False, fontsize=8, loc="center left")
    return figure, data


def speed():
    """Times faster than the loop over snntorch.Leaky, from benchmarks/results/layer-cpu.csv."""
    with open(HERE.parent / "benchmarks" / "results" / "layer-cpu.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["faster"]]
    shown = {
        "bpsta": ("lif_multistep", "#2f86d1"),
        "snntorch loop, torch.compile": ("torch.compile of the loop", "#4aa564"),
        "spikingjelly torch": ("SpikingJelly 2.0.0", "#e8a33d"),
        "norse LIFBox, unbind": ("Norse 1.1.0", "#a06bc0"),
        "sinabs LIF": ("sinabs 3.1.3", "#8a8a8a"),
    }
    cases = list(dict.fromkeys(row["case"] for row in rows))
    data = {name: [next((float(r["faster"]) for r in rows if (r["case"], r["competitor"]) == (case, name)), None)
                   for case in cases] for name in shown}  # fmt: skip
    data["floor"] = [
        next(float(r["faster"]) for r in rows if (r["case"], r["competitor"]) == (case, "floor: the same bytes copied"))
        for case in cases
    ]
    data["cases"] = cases
    figure = Figure(figsize=(8.4, 3.4), layout="constrained")
    axis, width = figure.subplots(), 0.8 / len(shown)
    for i, (name, (label, colour)) in enumerate(shown.items()):
        places = [place + (i - (len(shown) - 1) / 2) * width for place in range(len(cases))]
        bars = axis.bar(places, [value or 0 for value in data[name]], width, color=colour, label=label)
        if i == 0:
            axis.bar_label(bars, [f"{value:.1f}" for value in data[name]], fontsize=8, padding=1)
    for place, value in enumerate(data["floor"]):
        label = "copying the same bytes" if place == 0 else None
        axis.plot([place - 0.42, place + 0.42], [value, value], color="#e0483e", ls="--", lw=1.2, label=label)
    axis.axhline(1, color="#8a8a8a", lw=0.8)
    axis.set_xticks(range(len(cases)), ["[" + case.replace("x", ", ") + "]" for case in cases], fontsize=8)
    axis.set(ylabel="times faster than the loop", xlabel="[T, batch, neurons], forward and backward, one CPU thread")
    axis.legend(frameon=False, fontsize=8)
    return figure, data


PICTURES = {"crossing": crossing, "surrogates": surrogates, "three_cases": three_cases, "speed": speed}


def write(folder):
    """All pictures to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        for theme, colours in (("light", {}), ("dark", DARK)):
            style = {"svg.hashsalt": name, "legend.labelcolor": colours.get("text.color", "black"), **colours}
            with matplotlib.rc_context(style):
                figure, data = draw()
                for axis in figure.axes:
                    axis.set_facecolor("none")
                about = {"Date": None, "Creator": None, "Description": json.dumps(data)}
                figure.savefig(folder / f"{name}-{theme}.svg", transparent=True, metadata=about)


if __name__ == "__main__":
    write(HERE / "_static" / "pictures")
