"""The tables of where-the-time-goes.md, from the rows that ``python -m benchmarks`` wrote."""

import csv
from pathlib import Path
from statistics import median


def markdown(lines):
    """A table; the first line is its head."""
    lines = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _digits(cell):
    """A figure of a CSV file, with three digits."""
    try:
        return f"{float(cell):.3g}" if cell else ""
    except ValueError:
        return cell


def network(rows):
    """A line a network: its step, the parts of it, and the two ratios."""
    columns = {
        "competitor": "network", "p50_ms": "ms", "convolution_ms": "convolution", "neuron_ms": "neurons", "pool_ms": "pools",
        "memory_ms": "memory", "rest_ms": "rest", "faster": "times faster than the loop",
        "of_floor": "over the net without neurons",
    }  # fmt: skip
    return [[*columns.values()], *([_digits(row[name]) for name in columns] for row in rows)]


def goals(rows):
    """The two ratios of ours beside what they should be."""
    best = min((row for row in rows if row["competitor"].startswith("bpsta") and row["p50_ms"]),
               key=lambda row: float(row["p50_ms"]))  # fmt: skip
    lines = [["what", "figure", "goal", ""]]
    for what, name, goal, sign in (
        ("times faster than snnTorch's loop as its users run it", "faster", 3.5, 1),
        ("over the same net without neurons, channels last, memory kept", "of_floor", 1.05, -1),
    ):
        reached = (float(best[name]) - goal) * sign >= 0
        lines.append(
            [what, _digits(best[name]), f"{'>=' if sign > 0 else '<='} {goal}", "reached" if reached else "missed"]
        )
    return lines


def sparse(rows):
    """A line a case and rate, a column a competitor."""
    names = list(dict.fromkeys(row["competitor"] for row in rows))
    lines = [["layer", "rate", *(f"{name}, ms" for name in names), "times faster than torch, channels last"]]
    for case in dict.fromkeys(row["case"] for row in rows):
        own = {row["competitor"]: row for row in rows if row["case"] == case}
        what, _, rate = case.rpartition(", rate ")
        cells = [_digits(own[name]["p50_ms"]) if name in own else "" for name in names]
        lines.append([what, rate, *cells, _digits(own.get("bpsta, skipping zeros", {}).get("faster", ""))])
    return lines


def onm(rows):
    """A line a library, a column a size: ms forward + backward."""
    cases = list(dict.fromkeys(row["case"] for row in rows))
    lines = [["library", *(f"{case}, ms" for case in cases), "firing rate"]]
    for name in dict.fromkeys(row["competitor"] for row in rows):
        own = {row["case"]: row for row in rows if row["competitor"] == name}
        cells = [
            f"{_digits(row['forward_ms'])} + {_digits(row['backward_ms'])}" if (row := own.get(case)) and row["p50_ms"]
            else (row or {}).get("note", "") for case in cases
        ]  # fmt: skip
        lines.append([name, *cells, _digits(own.get(cases[0], {}).get("rate", ""))])
    return lines


def clock(rows):
    """A line a run: the median of its epochs, its firing rate in the first and the last, its accuracy after the last."""
    lines = [["gradient", "zeros", "epochs", "firing rate", "seconds an epoch", "accuracy, validation"]]
    for run in dict.fromkeys((row["gradient"], row["skip_zeros"]) for row in rows):
        own = [row for row in rows if (row["gradient"], row["skip_zeros"]) == run]
        rates = f"{_digits(own[0]['firing_rate'])} to {_digits(own[-1]['firing_rate'])}"
        seconds = _digits(str(median(float(row["process_seconds"]) for row in own)))
        gradient = "rectangle" if run[0] == "baseline" else "BPSA"
        skipping = "skipped" if run[1] == "True" else "multiplied"
        lines.append([gradient, skipping, len(own), rates, seconds, _digits(own[-1]["accuracy"])])
    return lines


# Comment of where-the-time-goes.md -> the question, a column that its file has to have, and its table.
MEASURED = {
    "network": ("network", "neuron_ms", network), "goals": ("network", "neuron_ms", goals),
    "sparse": ("sparse", "error", sparse), "onm": ("onm", "forward_ms", onm), "clock": ("clock", "process_seconds", clock),
}  # fmt: skip


def measured(folder):
    """The tables of where-the-time-goes.md, by the comment whose place each takes, from the CSV files in `folder`: one for
    each device that was measured, and the figure beside it."""
    texts = {}
    for comment, (question, column, table) in MEASURED.items():
        parts = []
        for file in sorted(Path(folder).glob(f"{question}-*.csv")):
            with file.open(newline="", encoding="utf-8") as lines:
                rows = list(csv.DictReader(lines))
            if not rows or column not in rows[0]:
                continue
            about = rows[-1]
            place = f"{about['device']}, {about['threads']} thread(s), torch {about['torch']}, {about['date']}"
            parts += [f"*{place}*", markdown(table(rows))]
            if comment == question and file.with_suffix(".png").exists():
                parts.append(f"![{question}](../benchmarks/results/{file.stem}.png)")
        texts[comment] = "\n\n".join(parts) or "*Not measured yet.*"
    return texts
