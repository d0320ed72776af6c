"""Write README.md, what was found, and RUNS.md, all runs, from FINDINGS.md and the runs in this folder:
``python results/summary.py``."""

import json
from functools import partial
from math import log10
from pathlib import Path
from statistics import mean, stdev

import numpy as np

from snntorch_bpsta.energy import energy_ratio
from snntorch_bpsta.training import Recipe
from snntorch_bpsta.training._tables import markdown
from snntorch_bpsta.training.paper import beside, paper_rows, variant
from snntorch_bpsta.training.recipes import COMPARED
from snntorch_bpsta.training.studies import STUDIES, format_study, grid, tabulate
from snntorch_bpsta.training.studies.table import paired_p

HERE = Path(__file__).parent
DEFAULT = Recipe().as_dict()
SAMPLES = {"digits": 1437, "mnist": 60_000, "cifar10": 50_000, "nmnist": 1_000, "nmnist_simulated": 60_000}


def _studies():
    """Name -> what the runs.json of a study holds, and `where`: the file. Comparisons come last, and after them what
    `cuda.sh` trained: one comparison for a data set and T."""
    found = {}
    for path in sorted(HERE.glob("*/runs.json"), key=lambda path: ("compare-" in path.parent.name, path.as_posix())):
        found[path.parent.name] = {"where": f"{path.parent.name}/runs.json", **json.loads(path.read_text())}
    for path in sorted(HERE.glob("cuda/*/result.json")):  # of bpsta train: one run
        row = json.loads(path.read_text())
        labels = {"study": "compare", "setting": "", "variant": variant(Recipe(**row["recipe"]))}
        name = f"cuda-{row['recipe']['dataset']}-T{row['recipe']['num_steps']}"
        found.setdefault(name, {"where": "cuda/", "runs": []})["runs"].append({**labels, **row})
    for content in found.values():
        rows = content["runs"]
        recipe = Recipe(**rows[0]["recipe"]) if rows[0]["recipe"] else None
        order = [*grid(rows[0]["study"], recipe, sorted({row["seed"] for row in rows}))]
        rows.sort(key=lambda row: order.index((row["setting"], row["variant"], row["seed"])))
    return found


def _runs(studies):
    """(where, row) of every trained network."""
    rows = [(content["where"], row) for content in studies.values() for row in content["runs"]]
    rows = [(where, row) for where, row in rows if "-validation/" not in where]  # not of a test set
    return [(where, row) for where, row in rows if "accuracy" in row and row["recipe"]]


def _conditions(recipe):
    """A recipe in words."""
    recipe = DEFAULT | recipe
    dataset, width = recipe["dataset"], recipe["width"]
    samples = recipe["limit"] or SAMPLES[dataset]
    words = [
        f"{dataset}, {samples:,} training samples",
        f"`{recipe['network']}`" + ("" if width == 1 else f" x {width:g}"),
        f"T = {recipe['num_steps']}",
        f"{recipe['epochs']} epochs",
        f"readout {recipe['readout']}",
        "no warm-up"
        if recipe["warm_up"] == "none"
        else f"{recipe['warm_up']} warm-up of {recipe['warm_up_epochs']} epochs",
    ]
    words += [f"learning rate {recipe['lr']:g}"] * (recipe["lr"] != DEFAULT["lr"])
    words += [f"frames of {recipe['frame_size']}"] * (recipe["frame_size"] != "")
    words += [f"beta = {recipe['beta']:g}"] * (recipe["beta"] != DEFAULT["beta"])
    words += ["cross entropy"] * (recipe["loss"] != "mse") + ["no ReLU"] * (not recipe["relu"])
    return ", ".join(words)


def _source(name, rows):
    """Where runs come from, in one line."""
    versions = rows[0]["versions"]
    commits = ", ".join(sorted({row["commit"] for row in rows}))
    files = [file for file in ("runs.json", "table.csv", "figure.png") if (HERE / name / file).is_file()]
    links = ", ".join(f"[{file}]({name}/{file})" for file in files)
    return (
        f"`{rows[0]['command']}` at {commits}; {rows[0]['device']}; torch {versions['torch']}, snntorch "
        f"{versions['snntorch']}. {links}\n\n"
    )


def _papers_numbers(runs):
    """The paper's rows, ours at their size beside them, and what of ours comes nearest at a reduced size."""
    groups = {}  # (file, setting, variant, recipe) -> runs
    for where, row in runs:
        key = where, row.get("setting"), row["variant"], json.dumps(DEFAULT | row["recipe"], sort_keys=True)
        groups.setdefault(key, []).append(row)

    def work(recipe):
        return (
            recipe["epochs"] * (recipe["limit"] or SAMPLES[recipe["dataset"]]) * recipe["width"] * recipe["num_steps"]
        )

    rows, cells = paper_rows(), []
    for name, row in rows.items():
        alike = []
        for (where, _, of, text), group in groups.items():
            own = json.loads(text)
            if of == variant(row.recipe) and own["dataset"].removesuffix("_simulated") == row.recipe.dataset:
                alike.append((work(own), where, own, group))
        if alike and name.startswith("table6"):
            _, where, own, group = max(alike, key=lambda each: each[0])
            paper = f"{row.accuracy:.2f}, {row.firing_rate:.3f}"
            cells.append([name, variant(row.recipe), paper, f"{_percent(group)} ([runs]({where}))", _conditions(own)])
    head = ["row", "variant", "paper: %, rate", "ours", "conditions"]
    return (
        f"{beside(rows, [row for _, row in runs])}\n\nThe largest runs of ours on the same data, **not to be compared with "
        "the paper's**: narrow networks, few steps, few epochs, parts of the data.\n\n" + markdown(head, cells)
    )


def _readouts(studies):
    """Accuracy, firing rate and energy ratio by readout and warm-up, the paper's row of the data set below them."""
    cells = []
    for dataset in ("digits", "mnist", "nmnist"):
        for readout in ("spikes", "current"):
            for warm_up in ("none", "identity"):
                if dataset == "nmnist":
                    runs = studies["readout-nmnist"]["runs"]
                    runs = [row for row in runs if row["setting"] == f"{readout}, {warm_up}"]
                else:
                    runs = studies[f"compare-{dataset}-{readout}-{warm_up}"]["runs"]
                line = [dataset, readout, warm_up, str(len({row["seed"] for row in runs}))]
                for of in COMPARED:
                    own = [row for row in runs if row["variant"] == of]
                    ratio = mean(row["energy_ratio"] for row in own)
                    line.append(f"{_percent(own).rpartition(', ')[0]}, {ratio:.0f}")
                cells.append(line)
        theirs = paper_rows()
        if f"table6-{dataset}" in theirs:
            line = [f"{dataset}, the paper", "spikes", "-", "1"]
            for name in (f"table6-{dataset}-baseline", None, f"table6-{dataset}"):
                row = theirs.get(name)
                ratio = energy_ratio(row.firing_rate, row.recipe.num_steps) if row else 0
                line.append(f"{row.accuracy:.2f}, {row.firing_rate:.3f}, {ratio:.0f}" if row else "-")
            cells.append(line)
    head = ["data set", "readout", "warm-up", "seeds", *(f"{of}: %, rate, EE" for of in COMPARED)]
    return markdown(head, cells)


def _accumulates(row):
    """Of all layers but the first, per sample."""
    return sum([counts["ac"] for counts in row["operations"].values()][1:])


def _all_of_mnist(rows):
    """Accuracy, firing rate and accumulates of each variant."""
    groups = {}
    for row in rows:
        groups.setdefault(row["variant"], []).append(row)
    cells = [[of, _percent(own), f"{mean(map(_accumulates, own)) / 1e6:.2f}"] for of, own in groups.items()]
    return markdown(["variant", "%, rate", "million accumulates a sample"], cells)


def _at_equal_operations(rows, whose="baseline", setting="penalty 1", to="baseline"):
    """What PLAN.md fixed before the runs: a variant's accuracy by seed, at the accumulates of the baseline with a penalty
    of 1 (or at those of another run), linear in their logarithm between the penalties; a curve that does not reach so far
    is left out. Differences are to the curve `to`."""
    curves = {}
    for row in rows:
        curve = curves.setdefault(row["variant"], {}).setdefault(row["seed"], {})
        curve[row["setting"]] = log10(max(_accumulates(row), 1)), 100 * row["accuracy"]
    at = {seed: curve[setting][0] for seed, curve in curves[whose].items()}

    def reached(curve, where):
        operations, accuracies = zip(*sorted(curve.values()), strict=True)
        return float(np.interp(where, operations, accuracies)) if operations[0] <= where <= operations[-1] else None

    found = {of: {seed: reached(curve, at[seed]) for seed, curve in own.items()} for of, own in curves.items()}
    lost = {
        of: [own[seed] - found[to][seed] for seed in sorted(own) if None not in (own[seed], found[to].get(seed))]
        for of, own in found.items()
        if of != to
    }
    ps = sorted((paired_p(values), of) for of, values in lost.items() if len(values) > 1)
    corrected, largest = {}, 0.0
    for k, (p, of) in enumerate(ps):
        corrected[of] = largest = max(largest, min(p * (len(ps) - k), 1.0))
    cells = []
    for of, own in found.items():
        line = [of, *("not reached" if own.get(seed) is None else f"{own[seed]:.2f}" for seed in sorted(at))]
        cells.append([*line, *((f"{mean(lost[of]):+.2f}", f"{corrected[of]:.3f}") if of in corrected else ("", ""))])
    million = mean(10**value for value in at.values()) / 1e6
    head = ["variant", *(f"seed {seed}: %" for seed in sorted(at)), "difference", "p, Holm"]
    return f"At {million:.2f} million accumulates a sample:\n\n{markdown(head, cells)}"


ON_ACCUMULATES = "baseline, penalty on accumulates"


def _half(studies):
    """All runs at T = 16 and half the resolution, those under a penalty on accumulates, and under none, as a variant of
    their own as well."""
    rows = studies["pareto-nmnist-half-16"]["runs"] + studies["pareto-nmnist-half-16-accumulates"]["runs"]
    own = [row for row in rows if row["setting"].startswith("on accumulates")]
    none = [row for row in rows if (row["variant"], row["setting"]) == ("baseline", "penalty 0")]
    return [row for row in rows if row not in own] + [{**row, "variant": ON_ACCUMULATES} for row in none + own]


def _by_penalty(rows):
    """Accuracy, firing rate and accumulates of each variant under each penalty."""
    groups = {}
    for row in rows:
        groups.setdefault((row["variant"], row["setting"]), []).append(row)
    cells = [
        [of, setting, _percent(own).rpartition(", ")[0], f"{mean(map(_accumulates, own)) / 1e6:.2f}"]
        for (of, setting), own in groups.items()
        if (of, setting) != (ON_ACCUMULATES, "penalty 0")
    ]
    return markdown(["variant", "penalty", "%, rate", "million accumulates a sample"], cells)


def _signs_on_letters(rows):
    """After a pause, with reset to zero: what the sign of alpha does, seed by seed."""
    groups = {}
    for row in rows:
        groups.setdefault((row["variant"], row["setting"].rpartition(" ")[2]), {})[row["seed"]] = 100 * row["accuracy"]
    cells = []
    for of, alpha, to_of, to_alpha in (
        ("bpta", "-0.5", "bpta", "0.5"), ("bpsa+bpta", "-0.5", "bpsa+bpta", "0.5"), ("bpsa+bpta", "0.5", "bpsa", "0.5"),
    ):  # fmt: skip
        to = groups[to_of, to_alpha]
        gained = [value - to[seed] for seed, value in groups[of, alpha].items()]
        against = to_of if to_of == "bpsa" else f"{to_of}, alpha {to_alpha}"
        cells.append([f"{of}, alpha {alpha}", against, f"{mean(gained):+.1f}", f"{paired_p(gained):.3f}"])
    return markdown(["letters, after a pause, reset to zero", "beside", "points", "p"], cells)


def _of_tutorials(rows):
    """Each network of the tutorials: what it has at snnTorch's defaults, and by how many points and times as many spikes
    the others differ."""
    groups = {}
    for row in rows:
        groups.setdefault(row["setting"], {}).setdefault(row["variant"], {})[row["seed"]] = row
    cells = []
    for network, variants in groups.items():
        base = variants.pop("baseline")
        line = [network, _percent([*base.values()]).rpartition(", ")[0]]
        for own in variants.values():
            gained = mean(100 * (row["accuracy"] - base[seed]["accuracy"]) for seed, row in own.items())
            spikes = mean(row["firing_rate"] for row in own.values()) / mean(
                row["firing_rate"] for row in base.values()
            )
            line.append(f"{gained:+.1f}, x {spikes:.2f}")
        cells.append(line)
    return markdown(["network", "as it is: %, rate", *variants], cells)


def _percent(runs):
    accuracies, rates = [100 * run["accuracy"] for run in runs], [run["firing_rate"] for run in runs]
    spread = f" ± {stdev(accuracies):.2f}" if len(runs) > 1 else ""
    rate = "" if None in rates else f", {mean(rates):.3f}"
    return f"{mean(accuracies):.2f}{spread}{rate}, {len(runs)} seeds"


def pages():
    """Name -> text, from the findings and the runs."""
    studies = _studies()
    found = (HERE / "FINDINGS.md").read_text()
    parts = {
        "the readouts": lambda: _readouts(studies),
        "all of MNIST": lambda: _all_of_mnist(studies["pareto-mnist"]["runs"]),
        "at equal operations": lambda: _at_equal_operations(studies["pareto-nmnist"]["runs"]),
        "at equal operations, T = 4": partial(_at_equal_operations, studies["pareto-nmnist-half-4"]["runs"]),
        "at equal operations, T = 16": lambda: _at_equal_operations(
            [row for row in _half(studies) if row["variant"] != "baseline"], "bpsa-hidden", "penalty 0", ON_ACCUMULATES
        ),
        "T = 16": lambda: _by_penalty(_half(studies)),
        "the tutorials": lambda: _of_tutorials(studies["tutorials-digits"]["runs"]),
        "the sign on the letters": lambda: _signs_on_letters(studies["braille-letters"]["runs"]),
        "the paper's numbers": lambda: _papers_numbers(_runs(studies)),
    }
    for name, text in parts.items():
        assert f"<!-- {name} -->" in found, name
        found = found.replace(f"<!-- {name} -->", text())
    first, _, second = found.partition("<!-- all runs -->")
    return {"README.md": f"{first.rstrip()}\n", "RUNS.md": f"{second.strip()}\n\n{_every_study(studies)}"}


def _every_study(studies):
    page = "## Every study\n\n"
    for name, content in studies.items():
        rows = content["runs"]
        page += f"### {name}\n\n{STUDIES[rows[0]['study']].claim}\n\n"
        if rows[0]["recipe"]:
            page += _conditions(rows[0]["recipe"]) + (" (the first setting)" * (rows[0]["setting"] != "")) + ".\n\n"
        page += f"{format_study(tabulate(rows))}\n\n"
        page += f"![{name}]({name}/figure.png)\n\n" * (HERE / name / "figure.png").is_file()
        page += _source(name, rows) + _failed(content)
    return page.rstrip() + "\n"


def _failed(content):
    failed = content.get("failed", [])
    return "".join(f"Failed: {row['variant']}, seed {row['seed']}: {row['error']}\n\n" for row in failed)


if __name__ == "__main__":
    for name, text in pages().items():
        (HERE / name).write_text(text)
