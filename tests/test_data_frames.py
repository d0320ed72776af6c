"""events_to_frames against a plain loop, torch's interpolate, and tonic."""

import numpy as np
import pytest
import torch

from snntorch_bpsta.data import events_to_frames

_DTYPE = [("x", np.int16), ("y", np.int16), ("t", np.int64), ("p", bool)]


def _events(count, height, width, seed=0):
    rng = np.random.default_rng(seed)
    events = np.empty(count, _DTYPE)
    events["x"], events["y"] = rng.integers(width, size=count), rng.integers(height, size=count)
    events["p"], events["t"] = rng.integers(2, size=count), np.sort(rng.integers(1000, size=count))
    return events


def _loop(events, num_steps, height, width):
    """SpikingJelly's split_by="number": N // T events a frame, the last one up to the end."""
    frames = np.zeros((num_steps, 2, height, width), np.int16)
    each = len(events) // num_steps
    for t in range(num_steps):
        end = len(events) if t == num_steps - 1 else (t + 1) * each
        for event in events[t * each : end]:
            frames[t, int(event["p"]), event["y"], event["x"]] += 1
    return frames


@pytest.mark.parametrize("num_steps", [1, 2, 7, 63])
@pytest.mark.parametrize("count", [0, 1, 6, 62, 64, 500])
def test_equals_the_loop(count, num_steps):
    events = _events(count, 5, 3)
    frames = events_to_frames(events, num_steps, (5, 3))
    assert frames.dtype == np.int16
    np.testing.assert_array_equal(frames, _loop(events, num_steps, 5, 3))


def test_the_remainder_is_in_the_last_frame():
    frames = events_to_frames(_events(19, 4, 4), 4, (4, 4))
    assert frames.sum((1, 2, 3)).tolist() == [4, 4, 4, 7]


def test_fewer_events_than_frames_are_all_in_the_last():
    frames = events_to_frames(_events(3, 4, 4), 5, (4, 4))
    assert frames.sum((1, 2, 3)).tolist() == [0, 0, 0, 0, 3]


@pytest.mark.parametrize(("count", "same"), [(60, True), (63, False)])
def test_tonic_agrees_where_nothing_remains_and_drops_the_remainder(count, same):
    transforms = pytest.importorskip("tonic.transforms", reason="tonic (extra: data) is missing")
    events = _events(count, 6, 6)
    theirs = transforms.ToFrame(sensor_size=(6, 6, 2), n_event_bins=4)(events)
    ours = events_to_frames(events, 4, (6, 6))
    assert np.array_equal(ours, theirs) is same
    assert ours.sum() - theirs.sum() == count % 4


@pytest.mark.parametrize(
    ("sensor", "size"),
    [((128, 128), (64, 64)), ((34, 34), (17, 34)), ((9, 7), (4, 5)), ((3, 4), (7, 9))],
    ids=str,
)
def test_resizes_as_nearest_interpolation(sensor, size):
    events = _events(4000, *sensor)
    full = torch.from_numpy(events_to_frames(events, 3, sensor)).float()
    expected = torch.nn.functional.interpolate(full, size=list(size))
    np.testing.assert_array_equal(events_to_frames(events, 3, sensor, size), expected.numpy())


def test_halving_keeps_every_second_pixel_and_drops_the_others():
    events = np.array([(0, 0, 0, 1), (1, 0, 1, 1), (0, 3, 2, 1), (2, 2, 3, 1)], _DTYPE)
    frames = events_to_frames(events, 1, (4, 4), 2)
    assert frames[0].tolist() == [[[0, 0], [0, 0]], [[1, 0], [0, 1]]]


def test_a_time_that_goes_back_is_sorted_stably():
    events = _events(200, 4, 4)
    events["t"] = np.arange(200)
    shuffled = events[np.random.default_rng(1).permutation(200)]
    np.testing.assert_array_equal(events_to_frames(shuffled, 7, (4, 4)), events_to_frames(events, 7, (4, 4)))
    late_first = np.zeros(300, _DTYPE)
    late_first["x"], late_first["t"] = np.arange(300), 5
    late_first["t"][0] = 9
    frames = events_to_frames(late_first, 300, (1, 300))
    assert frames[:, 0, 0].argmax(-1).tolist() == [*range(1, 300), 0]


@pytest.mark.parametrize("kind", ["uint8", "int32", "uint16", "uint64"])
def test_any_integer_type_and_a_dict(kind):
    events = _events(50, 5, 6)
    as_dict = {"t": events["t"], **{field: events[field].astype(kind) for field in "xyp"}}
    np.testing.assert_array_equal(events_to_frames(as_dict, 4, (5, 6)), events_to_frames(events, 4, (5, 6)))


def test_int16_holds_up_to_32767_in_a_pixel_and_says_so_beyond():
    events = np.zeros(32767, _DTYPE)
    assert events_to_frames(events, 1, (1, 1)).tolist() == [[[[32767]], [[0]]]]
    with pytest.raises(ValueError, match="at most 32767 events .* got 32768: use more frames"):
        events_to_frames(np.zeros(32768, _DTYPE), 1, (1, 1))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("x", 4, r"expected x in 0\.\.3 for a sensor of 3 x 4, got 0\.\.4"),
        ("y", 3, r"expected y in 0\.\.2 for a sensor of 3 x 4, got 0\.\.3"),
        ("x", -1, r"expected x in .* got -1\.\."),
        ("p", -1, r"expected p in 0\.\.1 .* got -1\.\."),
        ("p", 2, r"expected p in 0\.\.1 .* got 0\.\.2"),
    ],
)
def test_refuses_events_outside(field, value, message):
    events = {name: np.array([0, 0]) for name in "xypt"}
    events[field] = np.array([0, value])
    with pytest.raises(ValueError, match=message):
        events_to_frames(events, 2, (3, 4))


def test_refuses_floats_and_ragged_fields():
    events = {name: np.array([0, 0]) for name in "xypt"}
    with pytest.raises(TypeError, match="expected integers in x, got float64"):
        events_to_frames({**events, "x": np.array([0.0, 0.5])}, 2, (3, 4))
    with pytest.raises(ValueError, match=r"of one length \[N\], got x \(2,\), y \(3,\)"):
        events_to_frames({**events, "y": np.array([0, 0, 0])}, 2, (3, 4))


@pytest.mark.parametrize(
    ("num_steps", "sensor", "size", "error", "name"),
    [
        (0, (3, 4), None, ValueError, "num_steps"),
        (2.0, (3, 4), None, TypeError, "num_steps"),
        (True, (3, 4), None, TypeError, "num_steps"),
        (2, (3, 0), None, ValueError, "sensor_size"),
        (2, (3, 4, 2), None, ValueError, "sensor_size"),
        (2, (3, 4), 1.5, TypeError, "size"),
        (2, (3, 4), (2, -1), ValueError, "size"),
    ],
)
def test_refuses_bad_sizes(num_steps, sensor, size, error, name):
    with pytest.raises(error, match=name):
        events_to_frames(_events(5, 3, 4), num_steps, sensor, size)


# --- frames of a stretch of time, and one polarity ------------------------------------------------


def _loop_by_time(events, window, height, width):
    frames = {}
    for event in sorted(events.tolist(), key=lambda event: event[2]):
        frame = (event[2] - int(events["t"].min())) // window
        frames.setdefault(frame, np.zeros((2, height, width), np.int16))[int(event[3]), event[1], event[0]] += 1
    empty = np.zeros((2, height, width), np.int16)
    return np.stack([frames.get(t, empty) for t in range(max(frames) + 1)])


@pytest.mark.parametrize("window", [1, 7, 100, 333, 10**6])
@pytest.mark.parametrize("count", [1, 6, 500])
def test_a_time_window_equals_the_loop(count, window):
    events = _events(count, 5, 3, seed=count)
    events["t"] += 12_345  # where the recording begins does not matter
    frames = events_to_frames(events, None, (5, 3), time_window=window)
    np.testing.assert_array_equal(frames, _loop_by_time(events, window, 5, 3))
    assert frames.sum() == count
    shuffled = events[np.random.default_rng(2).permutation(count)]
    np.testing.assert_array_equal(events_to_frames(shuffled, None, (5, 3), time_window=window), frames)


def test_tonic_agrees_on_the_windows_and_keeps_the_last_if_asked():
    transforms = pytest.importorskip("tonic.transforms", reason="tonic (extra: data) is missing")
    events = _events(400, 6, 6)
    ours = events_to_frames(events, None, (6, 6), time_window=130)
    theirs = transforms.ToFrame(sensor_size=(6, 6, 2), time_window=130, include_incomplete=True)(events)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("kind", ["uint64", "int32", "float64", "float32"])
def test_the_times_of_windows_may_be_any_numbers(kind):
    events = _events(50, 5, 6)
    other = {field: events[field] for field in "xyp"} | {"t": events["t"].astype(kind)}
    expected = events_to_frames(events, None, (5, 6), time_window=90)
    np.testing.assert_array_equal(events_to_frames(other, None, (5, 6), time_window=90), expected)


def test_times_of_few_bits_do_not_wrap():
    events = {name: np.zeros(2, np.int64) for name in "xyp"} | {"t": np.array([-128, 127], np.int8)}
    assert len(events_to_frames(events, None, (1, 1), time_window=100)) == 3
    days = {name: np.zeros(2, np.int64) for name in "xyp"} | {"t": np.array([0, 5], "datetime64[D]")}
    assert len(events_to_frames(days, 2, (1, 1))) == 2
    with pytest.raises(TypeError, match="expected finite numbers in t for a time_window, got others .datetime64"):
        events_to_frames(days, None, (1, 1), time_window=1)


def test_of_no_events_a_time_window_makes_one_empty_frame():
    assert events_to_frames(_events(0, 2, 2), None, (2, 2), time_window=5).tolist() == [[[[0, 0]] * 2] * 2]


def test_one_polarity_counts_both():
    events = _events(200, 5, 3)
    both = events_to_frames(events, 4, (5, 3))
    np.testing.assert_array_equal(events_to_frames(events, 4, (5, 3), polarities=1), both.sum(1, keepdims=True))
    wide = events_to_frames(events, 4, (5, 3), (2, 2), polarities=1)
    np.testing.assert_array_equal(wide, events_to_frames(events, 4, (5, 3), (2, 2)).sum(1, keepdims=True))


@pytest.mark.parametrize(
    ("cut", "error", "message"),
    [
        (dict(num_steps=None), ValueError, "num_steps .* or time_window .*got num_steps=None and time_window=None"),
        (dict(num_steps=2, time_window=5), ValueError, "got num_steps=2 and time_window=5"),
        (dict(num_steps=None, time_window=0), ValueError, "time_window must be an integer >= 1, got 0"),
        (dict(num_steps=None, time_window=1e3), TypeError, "time_window must be an integer"),
        (dict(num_steps=2, polarities=3), ValueError, "polarities must be one of 1, 2; got 3"),
    ],
)
def test_refuses_cuts_that_say_nothing_or_too_much(cut, error, message):
    with pytest.raises(error, match=message):
        events_to_frames(_events(5, 3, 4), sensor_size=(3, 4), **cut)


def test_refuses_a_time_window_of_far_too_many_frames():
    events = {name: np.zeros(2, np.int64) for name in "xyp"} | {"t": np.array([0, 65_535])}
    assert len(events_to_frames(events, None, (1, 1), time_window=1)) == 65_536
    with pytest.raises(ValueError, match="a time_window that makes at most 65,536 frames .*got 1: 65,537 frames"):
        events_to_frames(events | {"t": np.array([0, 65_536])}, None, (1, 1), time_window=1)
