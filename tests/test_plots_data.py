"""What plots shows of data: pictures, films and events."""

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib", reason="matplotlib (extra: plots) is missing")
from matplotlib.colors import to_hex  # noqa: E402

from snntorch_bpsta import plots  # noqa: E402
from snntorch_bpsta._palette import POLARITIES  # noqa: E402


def shown(axes):
    return np.asarray(axes.get_images()[0].get_array())


def test_a_film_shows_every_frame_in_its_turn():
    """OFF blue, ON red, on white, as bright as the busiest pixel of all."""
    frames = torch.zeros(3, 2, 2, 2)
    frames[0, 0, 0, 0], frames[1, 1, 0, 1], frames[2, 1, 1, 1] = 4.0, 4.0, 1.0
    film = plots.animation(frames)
    (axes,) = film._fig.axes
    expected = {0: [0, 0, 1], 1: [1, 0, 0], 2: [1, 0.5, 0.5]}  # half of it: the root of a quarter
    places = {0: (0, 0), 1: (0, 1), 2: (1, 1)}
    for t in (0, 1, 2, 0):
        film._func(t)
        picture = shown(axes)
        assert picture[places[t]] == pytest.approx(expected[t]) and axes.get_title() == f"frame {t + 1} of 3"
        others = [picture[place] for u, place in places.items() if u != t]
        assert all(other == pytest.approx([1, 1, 1]) for other in others)
    film._draw_was_started = True  # nobody will see it


def test_pictures_stand_side_by_side_and_recordings_below_each_other():
    images = [(torch.full((1, 2, 2), value), label) for label, value in enumerate((0.25, 1.0, 0.5))]
    axes = plots.samples(images, count=2).axes
    assert [a.get_title() for a in axes] == ["0", "1"] and shown(axes[0]).shape == (2, 2)
    recordings = [(torch.eye(2).expand(3, 2, 2, 2).clone(), label) for label in (7, 9)]
    axes = plots.samples(recordings).axes
    assert len(axes) == 6 and [a.get_title() for a in axes] == ["7", "", "", "9", "", ""]
    assert shown(axes[0]).shape == (2, 2, 3)


def test_a_raster_has_the_events_in_their_colours_and_counts_them():
    events = {
        "x": np.zeros(4, int),
        "y": np.array([0, 1, 2, 3]),
        "t": np.array([0, 1000, 1500, 3000]),
        "p": [0, 1, 1, 0],
    }
    points, rate = plots.raster(events).axes
    (dots,) = points.collections
    assert dots.get_offsets().tolist() == [[0, 0], [1, 1], [1.5, 2], [3, 3]]
    assert [to_hex(colour) for colour in dots.get_facecolors()] == [
        POLARITIES[name] for name in ("OFF", "ON", "ON", "OFF")
    ]
    assert {patch.get_label(): patch.get_data().values.sum() for patch in rate.patches} == {"OFF": 2, "ON": 2}
