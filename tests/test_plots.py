"""study(): rows to a figure, with no file touched; and what is refused."""

import builtins
import io

import pytest

pytest.importorskip("matplotlib", reason="matplotlib (extra: plots) is missing")
from matplotlib.colors import to_hex  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from snntorch_bpsta import plots  # noqa: E402
from snntorch_bpsta._palette import VARIANTS  # noqa: E402
from snntorch_bpsta.plots import study  # noqa: E402


def row(variant, seed, accuracies, rates=(0.1, 0.2), warm=0):
    history = [
        {"epoch": epoch, "test_accuracy": accuracy, "warm_up": "identity" if epoch < warm else None}
        for epoch, accuracy in enumerate(accuracies)
    ]
    names = ("0.4", "2.3", "8")
    rates = None if rates is None else dict(zip(names, rates, strict=False))
    own = {"accuracy": accuracies[-1], "firing_rate": rates and sum(rates.values()) / len(rates)}
    return {"setting": "", "variant": variant, "seed": seed, "history": history, "firing_rates": rates, **own}


ROWS = [
    row("baseline", 0, [0.1, 0.5, 0.7], (0.3, 0.1)),
    row("baseline", 1, [0.3, 0.7, 0.9], (0.5, 0.2)),
    row("bpsa", 0, [0.2, 0.4, 0.6], (0.2, 0.1)),
    row("bpsa+bpta", 0, [0.0, 0.25, 1.0], (0.1, 0.05)),
]


def axes(rows, title=""):
    figure = study(rows, title)
    assert isinstance(figure, Figure)
    curves, bars = figure.axes
    return figure, curves, bars


def test_curves_are_the_mean_over_the_seeds_in_percent():
    _, curves, _ = axes(ROWS)
    lines = {line.get_label(): line for line in curves.get_lines()}
    assert list(lines) == ["baseline", "bpsa", "bpsa+bpta"]
    assert list(lines["baseline"].get_xdata()) == [1, 2, 3]
    assert list(lines["baseline"].get_ydata()) == pytest.approx([20, 60, 80])
    assert list(lines["bpsa"].get_ydata()) == pytest.approx([20, 40, 60])
    assert list(lines["bpsa+bpta"].get_ydata()) == pytest.approx([0, 25, 100])


def test_the_band_is_the_range_over_the_seeds():
    _, curves, _ = axes(ROWS)
    (vertices,) = (path.vertices for path in curves.collections[0].get_paths())
    band = {x: sorted({round(y, 6) for v, y in vertices if v == x}) for x in (1, 2, 3)}
    assert band == {1: [10, 30], 2: [50, 70], 3: [70, 90]}


def test_bars_are_the_mean_rates_of_the_layers():
    _, _, bars = axes(ROWS)
    heights = {c.get_label(): [bar.get_height() for bar in c] for c in bars.containers}
    assert heights == {
        "baseline": pytest.approx([0.4, 0.15]),
        "bpsa": pytest.approx([0.2, 0.1]),
        "bpsa+bpta": pytest.approx([0.1, 0.05]),
    }
    assert [label.get_text() for label in bars.get_xticklabels()] == ["LIF 1", "LIF 2"]
    edges = sorted((bar.get_x(), bar.get_x() + bar.get_width()) for c in bars.containers for bar in c)
    assert all(right <= left + 1e-9 for (_, right), (left, _) in zip(edges, edges[1:], strict=False)), "no overlap"


def test_labels_legend_and_title():
    figure, curves, bars = axes(ROWS, "digits, T = 4")
    assert (curves.get_xlabel(), curves.get_ylabel()) == ("epoch", "test accuracy, %")
    assert bars.get_ylabel() == "spikes per neuron and step"
    assert [text.get_text() for text in curves.get_legend().get_texts()] == ["baseline", "bpsa", "bpsa+bpta"]
    assert figure.get_suptitle() == "digits, T = 4"
    assert axes(ROWS)[0].get_suptitle() == ""


def test_a_variant_has_one_colour_in_both_panels_whatever_the_order():
    for rows in (ROWS, ROWS[::-1], ROWS[2:]):
        _, curves, bars = axes(rows)
        lines = {line.get_label(): to_hex(line.get_color()) for line in curves.get_lines()}
        assert lines == {c.get_label(): to_hex(c[0].get_facecolor()) for c in bars.containers}
        assert lines["bpsa"] == VARIANTS["bpsa"] and lines["bpsa+bpta"] == VARIANTS["bpsa+bpta"]
        assert len(set(lines.values())) == len(lines)


def test_other_variants_get_colours_of_their_own():
    _, curves, _ = axes([row("mine", 0, [0.5]), row("yours", 0, [0.6])])
    assert len({to_hex(line.get_color()) for line in curves.get_lines()}) == 2


@pytest.mark.parametrize("warm", [0, 1, 2])
def test_the_warm_up_is_shaded(warm):
    _, curves, _ = axes([row("bpsa", 0, [0.1, 0.2, 0.3], warm=warm)])
    spans = [patch.get_extents().width for patch in curves.patches]
    texts = [text.get_text() for text in curves.texts]
    assert len(spans) == len(texts) == bool(warm)
    if warm:
        (span,) = curves.patches
        assert (span.get_x(), span.get_x() + span.get_width()) == (0.5, warm + 0.5)
        assert texts == ["warm-up"]


def test_rows_without_firing_rates():
    rows = [row("baseline", 0, [0.1], None), row("bpsa", 0, [0.2], None)]
    _, curves, bars = axes(rows)
    assert [line.get_label() for line in curves.get_lines()] == ["baseline", "bpsa"]
    assert bars.containers == []
    rows[1] = row("bpsa", 0, [0.2], (0.25,))
    _, _, bars = axes([*rows, row("bpsa", 1, [0.2], None)])
    assert [(c.get_label(), [bar.get_height() for bar in c]) for c in bars.containers] == [("bpsa", [0.25])]


def test_one_row_of_one_epoch():
    _, curves, bars = axes([row("bpsa", 3, [0.5])])
    (line,) = curves.get_lines()
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([1], [50.0])
    assert len(bars.containers) == 1


def test_no_file_is_touched(monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise AssertionError(f"a file was opened: {args}")

    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", refuse)
        patch.setattr(io, "open", refuse)
        figure = study(ROWS, "title")
    assert list(tmp_path.iterdir()) == []
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    assert buffer.getvalue().startswith(b"\x89PNG")


def test_the_rows_are_not_changed():
    before = repr(ROWS)
    study(ROWS)
    assert repr(ROWS) == before


def test_settings_are_points_with_every_seed():
    rows = [{**each, "setting": f"T = {4 + 4 * (i % 2)}"} for i, each in enumerate(ROWS)]
    accuracy, rate = study(rows).axes
    assert [label.get_text() for label in accuracy.get_xticklabels()] == ["T = 4", "T = 8"]
    assert accuracy.get_ylabel() == "test accuracy, %" and rate.get_ylabel() == "spikes per neuron and step"
    seeds = [tuple(line.get_ydata()) for line in accuracy.get_lines() if line.get_alpha()]
    assert sorted(seeds) == [(60.0,), (70.0,), (90.0,), (100.0,)]
    assert [text.get_text() for text in rate.get_legend().get_texts()] == ["baseline", "bpsa", "bpsa+bpta"]


def flow(setting, variant, layers, **own):
    return {"setting": setting, "variant": variant, "flow": layers, **own}


FLOW = [
    flow("one neuron", "baseline", {"neuron": [1.0, 2.0]}, u=[0.5, 0.7], o=[0, 1]),
    flow("one neuron", "bpsa", {"neuron": [3.0, 4.0]}, u=[0.5, 0.7], o=[0, 1]),
    flow("last weights", "baseline", {"0.4": [0.1, 0.2], "2": [0.3, 0.4], "8": [0.5, 0.6]}),
]


def test_gradients_by_layer_and_of_one_neuron():
    membrane, error, *layers = study(FLOW, "digits").axes
    assert list(membrane.get_lines()[0].get_ydata()) == [0.5, 0.7]
    assert {line.get_label(): list(line.get_ydata()) for line in error.get_lines()} == {
        "baseline": [1, 2],
        "bpsa": [3, 4],
    }
    assert [list(axes.get_lines()[0].get_ydata()) for axes in layers] == [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]]
    assert [axes.get_title() for axes in layers] == [f"last weights, LIF {i}" for i in (1, 2, 3)]


def test_films_beside_recordings():
    films = [{"events": [10 * i, 12 * i], "correlation": [0.1 * i] * 6} for i in range(1, 5)]
    rows = [{"setting": setting, "variant": "simulated", "films": films[part]} for setting, part in
            (("fitted to", slice(1)), ("not fitted to", slice(1, 4)))]  # fmt: skip
    counts, likeness = study(rows).axes
    assert [points.get_offsets().tolist() for points in counts.collections] == [
        [[12, 10]],
        [[24, 20], [36, 30], [48, 40]],
    ]
    assert [text.get_text() for text in counts.get_legend().get_texts()] == ["fitted to", "not fitted to"]
    assert likeness.get_xlabel() == "correlation of the frames"


REFUSED = {
    "nothing": ([], ValueError, "there are no rows to draw"),
    "no-list": (3, TypeError, "rows must be a list of rows"),
    "no-setting": ([{"variant": "bpsa"}], ValueError, r"rows\[0\] must have 'setting'"),
    "no-history": ([{"setting": "", "variant": "bpsa"}], ValueError, r"rows\[0\] must have 'history'"),
    "epoch": (
        [{**ROWS[0], "history": [{"test_accuracy": "high"}]}],
        TypeError,
        r"'test_accuracy' of history of rows\[0\]",
    ),
    "epochs": ([ROWS[0], row("baseline", 1, [0.5])], ValueError, "'baseline' have different epochs"),
    "layers": ([ROWS[0], {**ROWS[1], "firing_rates": {"1": 0.5}}], ValueError, "'baseline' have different layers"),
    "rate": ([{**ROWS[0], "firing_rates": {"1": None}}], TypeError, r"firing_rates of rows\[0\]"),
    "percent": ([{**ROWS[0], "setting": "a"}, {**ROWS[0], "setting": "b", "accuracy": 50}], ValueError, "from 0 to 1"),
    "flow": ([flow("a", "bpsa", {"0": ["x"]})], TypeError, r"of '0' of rows\[0\].* must be of type int or float"),
    "film": ([{"setting": "", "variant": "", "films": [{"events": [1], "correlation": [1]}]}], ValueError, "events"),
    "title": (ROWS, TypeError, "title must be a string"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_drawn_is_refused_by_its_column(name):
    rows, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        study(rows, 3 if name == "title" else "")


def test_a_fault_of_our_own_is_not_called_the_users(monkeypatch):
    monkeypatch.setattr(plots, "_draw_curves", lambda rows: rows.wrong)
    with pytest.raises(AttributeError, match="wrong"):
        study(ROWS)
