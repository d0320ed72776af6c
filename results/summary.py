"""Write results/README.md from FINDINGS.md and the runs in this folder: ``python results/summary.py``."""

import json
from pathlib import Path
from statistics import mean, stdev

from snntorch_bpsta.energy import energy_ratio
from snntorch_bpsta.training import Recipe
from snntorch_bpsta.training._tables import markdown
from snntorch_bpsta.training.compare import format_table, summarise
from snntorch_bpsta.training.paper import beside, paper_rows, variant
from snntorch_bpsta.training.recipes import COMPARED
from snntorch_bpsta.training.simulator import format_table as simulator_table
from snntorch_bpsta.training.studies import STUDIES, format_study, tabulate

HERE = Path(__file__).parent
VARIANTS = ["baseline", "bpsa", "bpta", "bpsa+bpta"]
DEFAULT = Recipe().as_dict()
SAMPLES = {"digits": 1437, "mnist": 60_000, "cifar10": 50_000, "nmnist": 1_000, "nmnist_simulated": 60_000}


def _files():
    """Results files -> their runs, the studies' first."""
    paths = [*sorted(HERE.glob("studies/*.json")), *sorted(HERE.glob("*.json"))]
    files = {path.relative_to(HERE).as_posix(): json.loads(path.read_text()) for path in paths}
    for path in sorted(HERE.glob("cuda/*/result.json")):  # of bpsta train: one run
        row = json.loads(path.read_text())
        row["variant"] = variant(Recipe(**row["recipe"]))
        files[path.relative_to(HERE).as_posix()] = {"runs": [row]}
    return files


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
    words += ["cross entropy"] * (recipe["loss"] != "mse") + ["no ReLU"] * (not recipe["relu"])
    return ", ".join(words)


def _source(name, rows):
    """Where runs come from, in one line."""
    versions = rows[0]["versions"]
    commits = ", ".join(sorted({row["commit"] for row in rows}))
    figure = Path(name).with_suffix(".png")
    links = [f"[{Path(name).name}]({name})"] + [f"[figure]({figure.as_posix()})"] * (HERE / figure).exists()
    return (
        f"`{rows[0]['command']}` at {commits}; {rows[0]['device']}; torch {versions['torch']}, snntorch "
        f"{versions['snntorch']}. {', '.join(links)}\n\n"
    )


def _papers_numbers(files):
    """The paper's rows, ours at their size beside them, and what of ours comes nearest at a reduced size."""
    groups = {}  # (file, setting, variant, recipe) -> runs
    for name, content in files.items():
        for row in content.get("runs", []):
            key = name, row.get("setting"), row["variant"], json.dumps(DEFAULT | row["recipe"], sort_keys=True)
            groups.setdefault(key, []).append(row)

    def work(recipe):
        return (
            recipe["epochs"] * (recipe["limit"] or SAMPLES[recipe["dataset"]]) * recipe["width"] * recipe["num_steps"]
        )

    rows, cells = paper_rows(), []
    for name, row in rows.items():
        alike = []
        for (file, _, of, text), runs in groups.items():
            own = json.loads(text)
            if of == variant(row.recipe) and own["dataset"].removesuffix("_simulated") == row.recipe.dataset:
                alike.append((work(own), file, own, runs))
        if alike and name.startswith("table6"):
            _, file, own, runs = max(alike, key=lambda each: each[0])
            paper = f"{row.accuracy:.2f}, {row.firing_rate:.3f}"
            cells.append([name, variant(row.recipe), paper, f"{_percent(runs)} ([runs]({file}))", _conditions(own)])
    head = ["row", "variant", "paper: %, rate", "ours", "conditions"]
    runs = [row for content in files.values() for row in content.get("runs", [])]
    return (
        f"{beside(rows, runs)}\n\nThe largest runs of ours on the same data, **not to be compared with the paper's**: "
        f"narrow networks, few steps, few epochs, parts of the data.\n\n{markdown(head, cells)}"
    )


def _readouts(files):
    """Accuracy, firing rate and energy ratio by readout and warm-up, the paper's row of the data set below them."""
    cells = []
    sources = {"digits": "digits-{}.json", "mnist": "mnist-{}.json", "nmnist": "studies/readout-nmnist.json"}
    for dataset, source in sources.items():
        for readout in ("spikes", "current"):
            for warm_up in ("none", "identity"):
                runs = files[source.format(f"{readout}-{warm_up}")]["runs"]
                if "study" in runs[0]:
                    runs = [row for row in runs if row["setting"] == f"{readout}, {warm_up}"]
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


def _percent(runs):
    accuracies, rates = [100 * run["accuracy"] for run in runs], [run["firing_rate"] for run in runs]
    spread = f" ± {stdev(accuracies):.2f}" if len(runs) > 1 else ""
    rate = "" if None in rates else f", {mean(rates):.3f}"
    return f"{mean(accuracies):.2f}{spread}{rate}, {len(runs)} seeds"


def text():
    """The page, from the findings and the runs."""
    files = _files()
    found = (HERE / "FINDINGS.md").read_text()
    found = found.replace("<!-- the readouts -->", _readouts(files))
    page = found.replace("<!-- the paper's numbers -->", _papers_numbers(files)).rstrip() + "\n\n"
    page += "## Every study\n\n"
    for name, content in files.items():
        title = Path(name).stem
        if "recordings" in content:
            page += f"### {title}\n\nFilms of MNIST's images beside the real N-MNIST recordings of the same images.\n\n"
            page += simulator_table(content["recordings"]) + "\n\n" + _source(name, [content])
        elif "network" in content:
            page += (
                f"### {title}\n\nHow far the error comes: |dL/du| over the steps. {_conditions(content['recipe'])}.\n\n"
            )
            page += f"![{title}](studies/{title}.png)\n\n" + _source(name, [content])
        elif "study" in content["runs"][0]:
            rows = content["runs"]
            page += f"### {title}\n\n{STUDIES[rows[0]['study']].claim}\n\n"
            page += f"{_conditions(rows[0]['recipe'])} (the first setting).\n\n{format_study(tabulate(rows))}\n\n"
            page += f"![{title}](studies/{title}.png)\n\n" + _source(name, rows) + _failed(content)
    page += "## Every comparison\n\nThe three variants in six set-ups. Firing rates and energy ratios as in the studies.\n\n"
    for name, content in files.items():
        rows = content.get("runs")
        if rows and "study" not in rows[0]:
            rows.sort(key=lambda row: (VARIANTS.index(row["variant"]), row["seed"]))
            page += f"### {Path(name).stem}\n\n{_conditions(rows[0]['recipe'])}.\n\n"
            page += format_table(summarise(rows)) + "\n\n" + _source(name, rows) + _failed(content)
    return page.rstrip() + "\n"


def _failed(content):
    failed = content.get("failed", [])
    return "".join(f"Failed: {row['variant']}, seed {row['seed']}: {row['error']}\n\n" for row in failed)


if __name__ == "__main__":
    (HERE / "README.md").write_text(text())
