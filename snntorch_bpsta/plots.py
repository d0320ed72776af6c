"""Rows of results to figures. No file access."""

from matplotlib.figure import Figure

from ._validation import check_instance, reading

_COLOURS = {"baseline": "#7a7a7a", "bpsa": "#1f77b4", "bpsa+bpta": "#d62728"}


def comparison(rows, title=""):
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
