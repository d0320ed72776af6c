"""Draw the pictures of the docs and of the README: ``python docs/pictures.py``.

What they show is calculated by the package. Each is written twice, for a light and a dark page, and carries its numbers in
the description of the SVG, which a test compares with numbers calculated anew.
"""

import json
import re
from functools import partial
from pathlib import Path

import matplotlib
import torch
from matplotlib.figure import Figure

import snntorch_bpsta as snn
from snntorch_bpsta._palette import COLOURS, TEXT

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
GREY, BLUE, RED, GREEN, ORANGE = (COLOURS[name] for name in ("grey", "blue", "red", "green", "orange"))
SHOWN = {"plain backpropagation": GREY, "BPSA": BLUE, "BPSA + BPTA": RED}
INKED = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "legend.labelcolor")


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
    figure = Figure(figsize=(7, 6.2), layout="constrained")
    axes = figure.subplots(4, 1, sharex=True, height_ratios=(1.5, 1, 1, 1.1))
    membrane(axes[0], steps, data)
    axes[0].legend(frameon=False, fontsize=8, loc="upper left")
    axes[0].axvspan(len(CURRENT) - COUNTED + 0.5, len(CURRENT) + 0.5, color=GREY, alpha=0.15, lw=0)
    axes[0].text(len(CURRENT) - COUNTED + 0.6, 0.02, "counted in the loss", fontsize=8, va="bottom")
    largest = max(max(row["flow"]) for row in data["variants"].values())
    for axis, (name, row) in zip(axes[1:], data["variants"].items(), strict=True):
        colour = SHOWN[name]
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
    axis.plot(steps, data["u"], marker="o", ms=4, color=GREY)
    axis.axhline(THRESHOLD, ls="--", lw=1, color=GREY)
    fired = [(t, u) for t, u, o in zip(steps, data["u"], data["o"], strict=True) if o]
    if fired:
        axis.plot(*zip(*fired, strict=True), "o", ms=8, color=ORANGE, label="spike")
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
        "rectangle (the paper's baseline)": (snn.surrogate.rectangle(), GREY),
        "arc tangent (snnTorch's default)": (snn.surrogate.atan(), GREEN),
        "BPSA: 1/u where it fired": (snn.surrogate.spatial_adjustment(THRESHOLD), BLUE),
    }
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axis, data = figure.subplots(), {"u": u.tolist()}
    axis.axvspan(THRESHOLD, 2, color=ORANGE, alpha=0.12, lw=0)
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
    figure = Figure(figsize=(7.6, 4.4), layout="constrained")
    grid = figure.subplots(2, len(cases), sharex=True, height_ratios=(1, 1.3))
    for column, (name, current) in enumerate(cases.items()):
        data[name] = neuron([current] * len(steps), 8)
        membrane(grid[0, column], steps, data[name])
        grid[0, column].set_title(f"{name}: I = {current}", fontsize=10)
        below = grid[1, column]
        below.axvspan(16.5, 24.5, color=GREY, alpha=0.15, lw=0)
        for variant, row in data[name]["variants"].items():
            wide = {"BPSA": 3.5}.get(variant, 1.5)  # where curves are equal both can be seen
            below.plot(steps, row["flow"], color=SHOWN[variant], lw=wide, marker=".", ms=3 + wide, label=variant)
        below.set(xlabel="time step", xticks=(1, 8, 16, 24), ylabel="dL/du" if column == 0 else "", ylim=(-0.05, None))
        if column:
            grid[0, column].set_ylabel("")
    grid[1, 0].legend(frameon=False, fontsize=8, loc="center left")
    return figure, data


# --- the gallery: a small picture each, of what the code below it makes ----------------------------

_ONE = "snn.Leaky(beta=0.9, threshold=0.5, "
GALLERY = {
    "neurons": {
        "Leaky": "snn.Leaky(beta=0.9)",
        "Lapicque": "snn.Lapicque(R=5, C=2, time_step=1)",
        "RLeaky": "snn.RLeaky(beta=0.9, V=-0.5, all_to_all=False)",
        "Synaptic": "snn.Synaptic(alpha=0.6, beta=0.9)",
        "RSynaptic": "snn.RSynaptic(alpha=0.6, beta=0.9, V=-0.5, all_to_all=False)",
        "Alpha": "snn.Alpha(alpha=0.9, beta=0.8)",
        "AdaptiveLeaky": "snn.AdaptiveLeaky(beta=0.9, threshold_step=0.2, threshold_decay=0.95)",
        "AdaptiveRLeaky": "snn.AdaptiveRLeaky(beta=0.9, V=-0.5, all_to_all=False, threshold_step=0.2, "
        "threshold_decay=0.95)",
    },
    "surrogates": {
        "BPSA": "snn.surrogate.spatial_adjustment(1.0)",
        "BPSA with a leak": "snn.surrogate.spatial_adjustment(1.0, leak=0.1)",
        "Rectangle": "snn.surrogate.rectangle()",
        "Logistic": "snn.surrogate.Logistic()",
        "Arc tangent": "snn.surrogate.atan()",
        "Fast sigmoid": "snn.surrogate.fast_sigmoid()",
        "Sigmoid": "snn.surrogate.sigmoid()",
        "Spike rate escape": "snn.surrogate.spike_rate_escape()",
        "Triangular": "snn.surrogate.triangular()",
        "Straight through": "snn.surrogate.straight_through_estimator()",
        "Heaviside": "snn.surrogate.heaviside()",
        "Sparse fast sigmoid": "snn.surrogate.SFS(slope=2)",
    },
    "resets": {
        "By subtraction": _ONE + 'reset_mechanism="subtract")',
        "To zero": _ONE + 'reset_mechanism="zero")',
        "To zero, in the same step": _ONE + 'reset_mechanism="zero", reset_delay=False)',
        "None": _ONE + 'reset_mechanism="none")',
    },
    "alphas": {
        f"alpha {words}": _ONE + f'reset_mechanism="zero", spatial_adj=True, temporal_alpha={alpha})'
        for words, alpha in (("0", 0), ("0.4", 0.4), ("0.8", 0.8), ("below 0", -0.4))
    },
}


def made(code):
    """What a line of the gallery makes, in float64."""
    thing = eval(code, {"snn": snn})
    return thing.double() if isinstance(thing, torch.nn.Module) else thing


def frame():
    """A small figure and its axes."""
    figure = Figure(figsize=(2.6, 1.6), layout="constrained")
    axis = figure.subplots()
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)
    return figure, axis


def fires(code, current, threshold=None):
    """The membrane over the steps, with a dot where it fires."""
    figure, axis = frame()
    x = torch.tensor(current, dtype=torch.float64)[:, None]
    with torch.no_grad():
        out, *states = made(code).sequence(x, record=("mem",), impl="reference")
    (membranes,) = (state for state in states if len(state) == len(x))  # the others are those of the last step
    u, o = membranes.flatten().tolist(), out.flatten().tolist()
    axis.plot(range(1, len(u) + 1), u, color=GREY, lw=1.5)
    spikes = [(t, x) for t, (x, fired) in enumerate(zip(u, o, strict=True), 1) if fired]
    axis.plot(*zip(*spikes, strict=True), "o", ms=4, color=ORANGE)
    if threshold:
        axis.axhline(threshold, color=GREY, lw=0.8, ls="--")
    return figure, {"u": u, "o": o}


def slope(code):
    """do/du over membrane minus threshold."""
    figure, axis = frame()
    x = torch.linspace(-1.5, 1.5, 121, dtype=torch.float64).requires_grad_()
    made(code)(x).sum().backward()
    axis.plot(x.detach(), x.grad, color=BLUE, lw=1.8)
    axis.axvline(0, color=GREY, lw=0.8, ls="--")
    axis.set_ylim(min(0, 1.1 * x.grad.min().item()), None)
    return figure, {"x": x.tolist(), "slope": x.grad.tolist()}


def comes_back(code):
    """dL/du over the steps, where the loss counts the spikes of the last 8."""
    figure, axis = frame()
    current = torch.full((24, 1), 0.2, dtype=torch.float64, requires_grad=True)
    spikes, _ = made(code).sequence(current, impl="reference")
    spikes[-8:].sum().backward()
    flow = current.grad.flatten().tolist()
    axis.axvspan(16.5, 24.5, color=GREY, alpha=0.15, lw=0)
    axis.plot(range(1, 25), flow, color=RED, lw=1.5, marker=".", ms=4)
    return figure, {"o": spikes.flatten().tolist(), "flow": flow}


DRAWN = {
    "neurons": partial(fires, current=[0.3] * 20 + [0.0] * 10),
    "surrogates": slope,
    "resets": partial(fires, current=[0.2] * 24, threshold=0.5),
    "alphas": comes_back,
}


def slug(group, title):
    return f"gallery-{group}-{re.sub('[^a-z0-9]+', '-', title.lower())}"


def cards(group):
    """The pictures of a group with their titles and their code, as Markdown."""
    text = "::::::{grid} 2 2 3 4\n:gutter: 2\n\n"
    for title, code in GALLERY[group].items():
        text += f":::::{{grid-item-card}} {title}\n:class-card: gallery\n\n"
        for theme in TEXT:
            file = f"_static/pictures/{slug(group, title)}-{theme}.svg"
            text += f":::{{image}} {file}\n:alt: {title}\n:class: only-{theme}\n:::\n"
        text += f"\n`{code}`\n:::::\n\n"
    return text + "::::::"


PICTURES = {"crossing": crossing, "surrogates": surrogates, "three_cases": three_cases}
PICTURES |= {
    slug(group, title): partial(DRAWN[group], code) for group, lines in GALLERY.items() for title, code in lines.items()
}


# --- the mark -------------------------------------------------------------------------------------


def mark(axis):
    """A membrane that rises to a spike and rises again; and the error, which comes back across the spike."""
    data = neuron([0.2] * 8, 1)
    u = data["u"][:3]  # to the first spike
    axis.plot(range(3), u, color=BLUE, lw=7, solid_capstyle="round", solid_joinstyle="round")
    axis.plot([2, 2], [u[-1], 1.35], color=ORANGE, lw=7, solid_capstyle="round")
    axis.plot(range(2, 5), [0, *u[:2]], color=BLUE, lw=7, solid_capstyle="round", solid_joinstyle="round")
    back = {
        "arrowstyle": "-|>,head_length=0.55,head_width=0.35",
        "connectionstyle": "arc3,rad=0.5",
        "color": RED,
        "lw": 4,
    }
    axis.annotate("", (0.2, 0.75), (3.9, 0.75), arrowprops=back)
    axis.set(xlim=(-0.5, 4.5), ylim=(-0.35, 2.05))
    axis.set_axis_off()


def logo(ink):
    figure = Figure(figsize=(3, 1.9))
    mark(figure.add_axes((0.25, 0.3, 0.5, 0.7)))
    figure.text(0.5, 0.1, "snntorch-bpsta", ha="center", fontsize=20, fontweight="bold", color=ink)
    return figure


def favicon():
    figure = Figure(figsize=(1.6, 1.6))
    mark(figure.add_axes((0, 0.05, 1, 0.9)))
    return figure


def social():
    """1200 x 630 pixels, what sites show beside a link."""
    figure = Figure(figsize=(12, 6.3), dpi=100, facecolor="white")
    mark(figure.add_axes((0.06, 0.25, 0.3, 0.5)))
    figure.text(0.42, 0.58, "snntorch-bpsta", fontsize=50, fontweight="bold", color=TEXT["light"])
    figure.text(0.42, 0.45, "snnTorch's own neurons, with gradients", fontsize=22, color=TEXT["light"])
    figure.text(0.42, 0.37, "that cross spikes (BPSA, BPTA)", fontsize=22, color=TEXT["light"])
    return figure


def write(folder):
    """All pictures to `folder`."""
    for name, draw in PICTURES.items():
        save(folder, name, draw)
    write_mark(folder)


def save(folder, name, draw):
    """The figure and the data that `draw` returns, as two SVGs in `folder`: for a light and for a dark page."""
    folder.mkdir(parents=True, exist_ok=True)
    for theme, ink in TEXT.items():
        style = {"svg.hashsalt": name, **dict.fromkeys(INKED, ink)}
        with matplotlib.rc_context(style):
            figure, data = draw()
            for axis in figure.axes:
                axis.set_facecolor("none")
            about = {"Date": None, "Creator": None, "Description": json.dumps(data)}
            figure.savefig(folder / f"{name}-{theme}.svg", transparent=True, metadata=about)


def write_mark(folder):
    """The logo, the favicon and the card to `folder`."""
    unnamed = {"Date": None, "Creator": None}
    with matplotlib.rc_context({"svg.hashsalt": "mark"}):
        for theme, ink in TEXT.items():
            logo(ink).savefig(folder / f"logo-{theme}.svg", transparent=True, metadata=unnamed)
        favicon().savefig(folder / "favicon.svg", transparent=True, metadata=unnamed)
        social().savefig(folder / "social.png", metadata={"Software": None})


if __name__ == "__main__":
    write(HERE / "_static" / "pictures")
