"""comparison(): rows to a figure, with no file touched."""

import builtins
import io

import pytest

pytest.importorskip("matplotlib", reason="matplotlib (extra: plots) is missing")
from matplotlib.colors import to_hex  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from snntorch_bpsta.plots import comparison  # noqa: E402


def row(variant, seed, accuracies, rates=(0.1, 0.2), warm=0):
    history = [
        {"epoch": epoch, "test_accuracy": accuracy, "warm_up": "identity" if epoch < warm else None}
        for epoch, accuracy in enumerate(accuracies)
    ]
    names = ("0.4", "2.3", "8")
    rates = None if rates is None else dict(zip(names, rates, strict=False))
    return {"variant": variant, "seed": seed, "history": history, "firing_rates": rates}


ROWS = [
    row("baseline", 0, [0.1, 0.5, 0.7], (0.3, 0.1)),
    row("baseline", 1, [0.3, 0.7, 0.9], (0.5, 0.2)),
    row("bpsa", 0, [0.2, 0.4, 0.6], (0.2, 0.1)),
    row("bpsa+bpta", 0, [0.0, 0.25, 1.0], (0.1, 0.05)),
]


def axes(rows, title=""):
    figure = comparison(rows, title)
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
        assert lines["bpsa"] == "#1f77b4" and lines["bpsa+bpta"] == "#d62728"
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
        figure = comparison(ROWS, "title")
    assert list(tmp_path.iterdir()) == []
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    assert buffer.getvalue().startswith(b"\x89PNG")


def test_the_rows_are_not_changed():
    before = repr(ROWS)
    comparison(ROWS)
    assert repr(ROWS) == before
