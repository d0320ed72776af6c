"""Write results/README.md from the runs in results/*.json: ``python results/summary.py``."""

import json
from pathlib import Path

from snntorch_bpsta.training.compare import format_table, summarise

HERE = Path(__file__).parent
HEAD = """# Results

Written by `python results/summary.py` from the JSON files beside it; every run is in them (seed, recipe, curve, firing
rate per layer, seconds, versions, device, commit and command). `results/reproduce.sh` does the runs. Accuracy is that of
the test set after the last epoch, mean and standard deviation over the seeds; nothing was selected on the test set.

These are small runs on two CPU cores. They say what shows at this size. They are **not** comparable
to the paper's figures, which come from networks 8 times as wide, T = 16, 300 epochs and the full data sets.

"baseline" is STBP's rectangle; energy ratios are Eq. 11, an analytic model, with an accumulate of 0.1 pJ (the paper's) and
0.9 pJ. "none", "identity" and "surrogate" are the warm-ups, "spikes" and "current" the readouts.

"""
SETS = {
    "digits": "scikit-learn's 1,797 digits (1,437 to train), network `small` x 1/8, T = 4, 30 epochs, 5 seeds",
    "mnist": "MNIST, 10,000 training and 2,000 test images, `small` x 1/8, T = 4, 4 epochs, 3 seeds",
    "nmnist": "N-MNIST, 1,000 training and 100 test recordings, `middle` x 1/8, T = 4, 20 epochs, 3 seeds",
}


def text():
    """The page, from the findings and the runs."""
    text = HEAD
    findings = HERE / "FINDINGS.md"
    if findings.exists():
        text += findings.read_text().rstrip() + "\n\n"
    for name, what in SETS.items():
        text += f"## {name}\n\n{what[0].upper() + what[1:]}.\n\n"
        for path in sorted(HERE.glob(f"{name}-*.json")):
            rows = json.loads(path.read_text())["runs"]
            rows.sort(key=lambda row: (["baseline", "bpsa", "bpsa+bpta"].index(row["variant"]), row["seed"]))
            recipe = rows[0]["recipe"]
            text += f"### readout {recipe['readout']}, warm-up {recipe['warm_up']}"
            text += f" ({recipe['warm_up_epochs']} epochs)\n\n" if recipe["warm_up"] != "none" else "\n\n"
            versions = rows[0]["versions"]
            commits = sorted({row["commit"] for row in rows})
            text += format_table(summarise(rows)) + "\n\n"
            text += f"`{rows[0]['command']}` at {', '.join(commits)}; {rows[0]['device']}; torch {versions['torch']}, "
            text += f"snntorch {versions['snntorch']}. "
            text += f"[{path.name}]({path.name}), [figure]({path.with_suffix('.png').name})\n\n"
    return text.rstrip() + "\n"


if __name__ == "__main__":
    (HERE / "README.md").write_text(text())
