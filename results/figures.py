"""Draw the five figures of README.md from the runs in this folder: ``python results/figures.py``.

Each is written twice, for a light and a dark page, and carries its numbers in the description of the SVG.
"""

import json
import runpy
from math import sqrt
from pathlib import Path
from statistics import mean, stdev

from matplotlib.figure import Figure

from snntorch_bpsta._palette import COLOURS, colour
from snntorch_bpsta.training.studies import STUDIES

HERE = Path(__file__).parent
SHOWN = {
    "baseline": "rectangle", "bpsa": "BPSA", "bpsa+bpta": "BPSA + BPTA", "bpta": "BPTA",
    "bpsa-hidden": "BPSA, rectangle at the output", "bpsa+leak": "BPSA with a leak", "atan": "arc tangent",
}  # fmt: skip
# The rows of the second figure: the folders, and the lowest accuracy shown.
PARETOS = {
    "T = 4, frames of 34x34, 17,000 recordings": (["pareto-nmnist"], 88),
    "T = 4, frames of 17x17, 5,000 recordings": (["pareto-nmnist-half-4"], 70),
    "T = 16, frames of 17x17, 5,000 recordings": (["pareto-nmnist-half-16", "pareto-nmnist-half-16-accumulates"], 80),
}
# What the first figure holds side by side, a row each: the folder, and the setting in it.
DATA = {
    "digits, 1,437": ("ablation-digits", ""),
    "MNIST, 10,000": ("compare-mnist-spikes-identity", ""),
    "MNIST, 60,000": ("pareto-mnist", "penalty 0"),
    "CIFAR-10, 4,000": ("ablation-cifar10", ""),
    "N-MNIST, 1,000": ("learning_rate-nmnist", "three times"),
    "N-MNIST, 17,000": ("pareto-nmnist", "penalty 0"),
    "N-MNIST, simulated, 10,000": ("ablation-nmnist_simulated-lr", ""),
}
ALPHAS = {
    "digits, T = 4": "alpha-digits",
    "N-MNIST, T = 4": "alpha-nmnist",
    "N-MNIST, T = 16": "alpha-nmnist-16",
    "N-MNIST, T = 4, learning rate 0.003": "alpha-nmnist-lr",
}


def runs(folder):
    """The rows of a study; none where it has not been run."""
    path = HERE / folder / "runs.json"
    return json.loads(path.read_text())["runs"] if path.is_file() else []


def by(rows, *keys):
    """Rows by the values of `keys`."""
    found = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return found


def percent(rows):
    """Accuracies by seed."""
    return {row["seed"]: 100 * row["accuracy"] for row in rows}


def plain(axis, **labels):
    axis.spines[["top", "right"]].set_visible(False)
    axis.set(**labels)


def against_the_baseline():
    """Difference to the baseline with the same seed, by data set."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axis, data = figure.subplots(), {}
    for place, (label, (folder, setting)) in enumerate(DATA.items()):
        groups = by((row for row in runs(folder) if row["setting"] == setting), "variant")
        base = percent(groups.pop(("baseline",), []))
        for (variant,), rows in groups.items():
            if variant not in ("bpsa", "bpsa+bpta") or not base:
                continue
            lost = [value - base[seed] for seed, value in percent(rows).items() if seed in base]
            data.setdefault(variant, {})[label] = lost
            height = -place + (0.16 if variant == "bpsa" else -0.16)
            axis.plot(lost, [height] * len(lost), "o", ms=3.5, alpha=0.5, mew=0, color=colour(variant))
            axis.errorbar(mean(lost), height, xerr=_interval(lost), fmt="D", ms=5, capsize=3, color=colour(variant))
    axis.axvline(0, color=COLOURS["grey"], lw=1)
    axis.set_yticks([-place for place in range(len(DATA))], DATA)
    for variant in data:
        axis.plot([], [], "D", ms=5, color=colour(variant), label=SHOWN[variant])
    axis.legend(frameon=False, fontsize=9, loc="lower left")
    plain(axis, xlabel="test accuracy, difference to the rectangle with the same seed (points)")
    return figure, data


def _interval(values):
    """Half of the 95 % confidence interval of a mean."""
    if len(values) < 2:
        return 0
    from scipy.stats import t

    return float(t.ppf(0.975, len(values) - 1)) * stdev(values) / sqrt(len(values))


def spikes_against_accuracy():
    """Accuracy over accumulates, by variant and penalty, and over the rate of the hidden neurons."""
    figure = Figure(figsize=(8, 3.1 * len(PARETOS)), layout="constrained")
    data = {}
    for (label, (folders, lowest)), axes in zip(PARETOS.items(), figure.subplots(len(PARETOS), 2), strict=True):
        for (variant, kind), rows in by(map(_kind, sum(map(runs, folders), [])), "variant", "kind").items():
            curve = data.setdefault(label, {})[f"{variant}{kind}"] = _curve(rows)
            for axis, of in zip(axes, ("operations", "rate"), strict=True):
                for x, y in zip(curve[of], curve["accuracy"], strict=True):
                    axis.plot(x, y, "o", ms=3, alpha=0.5, mew=0, color=colour(variant))
                x, y = ([mean(values) for values in curve[name]] for name in (of, "accuracy"))
                shown, style = f"{SHOWN[variant]}{kind}", "o--" if kind else "o-"
                axis.plot(x, y, style, ms=5, lw=1.6, color=colour(variant), label=shown)
                axis.set_xscale("log")
        axes[0].set_title(label, loc="left", fontsize=10)
        plain(axes[0], xlabel="accumulates a sample (millions)", ylabel="accuracy (%)", ylim=(lowest, None))
        plain(axes[1], xlabel="firing rate of the hidden neurons", ylim=(lowest, None))
        axes[1].legend(frameon=False, fontsize=8, loc="lower right")
    return figure, data


def _kind(row):
    """A run with what its penalty is on, where that is not the rate."""
    return {**row, "kind": ", penalty on accumulates" if row["setting"].startswith("on accumulates") else ""}


def _curve(rows):
    """What one variant has under each penalty, by seed; the most accumulates first."""

    def operations(group):
        return [sum([n["ac"] for n in row["operations"].values()][1:]) / 1e6 for row in group]

    groups = sorted(by(rows, "setting").values(), key=lambda group: -mean(operations(group)))
    return {
        "accuracy": [[100 * row["accuracy"] for row in group] for group in groups],
        "operations": [*map(operations, groups)],
        "rate": [[row["firing_rate"] for row in group] for group in groups],
    }


def credit():
    """The pulse and the letters: accuracy by setting and variant."""
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    axes, data = figure.subplots(2, 1), {}
    shown = {"credit-pulse": "a pulse, many resets ago", "braille-letters": "Braille letters"}
    for axis, (folder, title) in zip(axes, shown.items(), strict=True):
        study = folder.partition("-")[0]
        groups = by(runs(folder), "setting", "variant")
        settings = [setting for setting in STUDIES[study].settings if (setting, "baseline") in groups]
        for position, variant in enumerate(("baseline", "bpsa", "bpta", "bpsa+bpta")):
            for place, setting in enumerate(settings):
                values = [*percent(groups.get((setting, variant), [])).values()]
                data.setdefault(folder, {}).setdefault(setting, {})[variant] = values
                at = place + 0.17 * (position - 1.5)
                axis.bar(
                    at,
                    mean(values),
                    0.15,
                    color=colour(variant),
                    alpha=0.75,
                    label=SHOWN[variant] if not place else None,
                )
                axis.plot([at] * len(values), values, "o", ms=3, mew=0, color=colour(variant))
        axis.set_xticks(range(len(settings)), [_in_lines(setting) for setting in settings], fontsize=8)
        axis.set_title(title, loc="left", fontsize=10)
        plain(axis, ylabel="accuracy (%)", ylim=(0, 105))
    axes[0].legend(frameon=False, fontsize=8, ncols=4, loc="lower right", bbox_to_anchor=(1, 1))
    return figure, data


def _in_lines(setting):
    """A setting under a bar."""
    for words, shorter in (
        ("reset to zero", "to zero"),
        ("reset by subtraction", "by subtraction"),
        ("read after", "after"),
    ):
        setting = setting.replace(words, shorter)
    return setting.replace(", ", ",\n")


def alphas():
    """Accuracy under Eq. 9 over alpha, beside alpha = 0 with the same seed."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axis, data = figure.subplots(), {}
    for place, (label, folder) in enumerate(ALPHAS.items()):
        groups = by((row for row in runs(folder) if row["variant"] == "bpsa"), "setting")
        points = sorted((float(setting.partition("= ")[2]), percent(rows)) for (setting,), rows in groups.items())
        if not points:
            continue
        base = dict(points)[0.0]
        gained = {alpha: [value - base[seed] for seed, value in values.items()] for alpha, values in points}
        data[label] = {f"{alpha:g}": values for alpha, values in gained.items()}
        shade = [*COLOURS.values()][place]
        for alpha, values in gained.items():
            axis.plot([alpha] * len(values), values, "o", ms=3, alpha=0.5, mew=0, color=shade)
        axis.plot([*gained], [mean(values) for values in gained.values()], "o-", ms=5, lw=1.6, color=shade, label=label)
    axis.axhline(0, color=COLOURS["grey"], lw=0.8, ls="--")
    axis.legend(frameon=False, fontsize=9)
    plain(axis, xlabel="alpha of the residual, under Eq. 9", ylabel="accuracy beside alpha 0 (points)")
    return figure, data


def silence():
    """Fully connected networks without batch norm: accuracy and firing rate by depth."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes, data = figure.subplots(1, 2), {}
    for (variant,), rows in by(runs("silent-digits"), "variant").items():
        groups = by(rows, "setting")
        depths = [int(setting.partition(" ")[0]) for (setting,) in groups]
        for axis, of in zip(axes, ("accuracy", "firing_rate"), strict=True):
            values = [[(100 if of == "accuracy" else 1) * row[of] for row in group] for group in groups.values()]
            data.setdefault(variant, {})[of] = values
            shade = colour(variant)
            for depth, points in zip(depths, values, strict=True):
                axis.plot([depth] * len(points), points, "o", ms=3, alpha=0.5, mew=0, color=shade)
            axis.plot(
                depths, [mean(points) for points in values], "o-", ms=5, lw=1.6, color=shade, label=SHOWN[variant]
            )
            axis.set_xticks(depths)
    axes[0].legend(frameon=False, fontsize=9)
    plain(axes[0], xlabel="hidden layers", ylabel="accuracy (%)", ylim=(80, 100))
    plain(axes[1], xlabel="hidden layers", ylabel="firing rate", ylim=(0, None))
    return figure, data


FIGURES = {
    "claims": against_the_baseline, "spikes": spikes_against_accuracy, "credit": credit, "alpha": alphas, "silence": silence,
}  # fmt: skip


if __name__ == "__main__":
    save = runpy.run_path(str(HERE.parent / "docs" / "pictures.py"))["save"]
    for name, draw in FIGURES.items():
        save(HERE / "figures", name, draw)
