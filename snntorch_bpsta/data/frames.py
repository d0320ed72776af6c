"""Events to frames, as a pure function of numpy arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .._checks import as_events, check_choice, check_positive_int

if TYPE_CHECKING:
    from .._typing import Events

__all__ = ["events_to_frames"]

_MOST_FRAMES = 1 << 16  # of one recording, where a frame is a stretch of time


def events_to_frames(
    events: Events,
    num_steps: int | None,
    sensor_size: int | tuple[int, int],
    size: int | tuple[int, int] | None = None,
    *,
    time_window: int | None = None,
    polarities: int = 2,
) -> np.ndarray:
    r"""Count events in `num_steps` frames that hold equally many events each, or in frames of `time_window` each.

    With N events in the order of time, frame t counts the events :math:`[t n, (t + 1) n)` with
    :math:`n = N // T`, and the last frame takes the remainder too, as SpikingJelly's
    ``split_by="number"`` does. (tonic's ``ToFrame(n_event_bins=T)`` drops that remainder.) So with
    fewer events than frames all of them are in the last frame, and without any event all frames are
    zero.

    With a `time_window` w in place of `num_steps`, frame t counts the events from :math:`t_0 + t w` until before
    :math:`t_0 + (t + 1) w`, where :math:`t_0` is the time of the first event. T is as many as that takes: the last frame
    may cover less, and is kept. (tonic's ``ToFrame(time_window=w)`` drops it.)

    The frames are counted at the size of the sensor and then, if `size` differs, resized by nearest
    neighbour: output row i is sensor row ``i * H_sensor // H``. From 128 to 64 every second pixel
    stays and the others are dropped, as ``torch.nn.functional.interpolate(frames, size=[64, 64])``
    in the paper's code does. (For a few odd ratios, such as 128 to 82, interpolate rounds in
    float32 and is off by one row; here the division is exact.)

    Args:
        events: a structured array as tonic gives it, or a dict of 1-d arrays, with the fields `x`
            (column), `y` (row), `p` (polarity, 0 or False = OFF, 1 or True = ON) and `t` (time, any
            unit). Integers; `p` may be bool. If the time ever goes back, the events are first
            sorted by `t`, stably.
        num_steps: T, the number of frames; None with a `time_window`.
        sensor_size: (H, W) of the sensor in pixels.
        size: (H, W) of the frames, or one integer for both; None keeps `sensor_size`.
        time_window: the length of a frame in the unit of `t`, which is us in most files.
        polarities: 2: a channel for OFF and one for ON; 1: one channel that counts both.

    Returns:
        int16 array of counts, shape [T, polarities, H, W]; of two channels 0 is OFF and 1 is ON. Without any event and with
        a `time_window`, T is 1.

    Raises:
        TypeError: `x`, `y` or `p` holds no integers, or `t` no times; `num_steps`, `time_window` or a size is no integer.
        ValueError: the fields differ in length; an event lies outside the sensor; a polarity is
            neither 0 nor 1; a pixel counts more than 32,767 events; `num_steps`, `time_window` or a size is below
            1; both or none of `num_steps` and `time_window` are given; `polarities` is neither 1 nor 2; a `time_window`
            so short that it makes more than 65,536 frames.

    Example:
        >>> import numpy as np
        >>> events = {"x": np.array([0, 1, 1]), "y": np.array([0, 0, 0]), "p": np.array([1, 0, 0]),
        ...           "t": np.array([10, 20, 30])}
        >>> events_to_frames(events, num_steps=2, sensor_size=(1, 2)).tolist()
        [[[[0, 0]], [[1, 0]]], [[[0, 2]], [[0, 0]]]]

    References:
        W. Fang et al., "SpikingJelly: an open-source machine learning infrastructure platform for
        spike-based intelligence", Science Advances 9(40), 2023.
    """
    check_cut(num_steps, time_window, polarities)
    height, width = height_width("sensor_size", sensor_size)
    rows, columns = (height, width) if size is None else height_width("size", size)
    x, y, p, t = as_events(events)
    check_inside(x, y, p, height, width)
    if t.dtype.kind not in "iubfmM" or np.any(np.isnan(t)):
        raise TypeError(f"expected times in t, got {t.dtype if t.dtype.kind not in 'fmM' else 'NaN'} in events")
    if np.any(t[1:] < t[:-1]):
        order = np.argsort(t, kind="stable")
        x, y, p, t = x[order], y[order], p[order], t[order]

    frame = _by_number(len(x), num_steps) if num_steps is not None else _by_time(t, time_window)
    num_steps = num_steps or (int(frame[-1]) + 1 if len(frame) else 1)
    x, y, p = (
        x.astype(np.int64),
        y.astype(np.int64),
        p.astype(np.int64),
    )  # int64 + uint64 would be a float
    cell = ((frame * polarities + (p if polarities == 2 else 0)) * height + y) * width + x
    frames = np.bincount(cell, minlength=num_steps * polarities * height * width)
    frames = frames.reshape(num_steps, polarities, height, width)
    if (rows, columns) != (height, width):
        frames = frames[:, :, np.arange(rows)[:, None] * height // rows, np.arange(columns) * width // columns]
    if frames.max() > np.iinfo(np.int16).max:
        raise ValueError(
            f"expected at most {np.iinfo(np.int16).max} events in one pixel of a frame (int16), "
            f"got {frames.max()}: use more frames (num_steps), a shorter time_window or a shorter recording"
        )
    return frames.astype(np.int16)


def check_cut(num_steps: int | None, time_window: int | None, polarities: int) -> None:
    """Refuse what says how recordings become frames, where it says nothing or too much.

    Raises:
        TypeError, ValueError: see :func:`events_to_frames`.
    """
    if (num_steps is None) == (time_window is None):
        raise ValueError(
            f"expected num_steps (how many frames) or time_window (how long one is) and None for the other, got "
            f"num_steps={num_steps!r} and time_window={time_window!r}"
        )
    if num_steps is not None:
        check_positive_int("num_steps", num_steps)
    else:
        check_positive_int("time_window", time_window)
    check_positive_int("polarities", polarities)
    check_choice("polarities", polarities, (1, 2))


def _by_number(count, num_steps):
    """The frame of each of so many events."""
    per_frame = np.full(num_steps, count // num_steps)
    per_frame[-1] += count % num_steps
    return np.repeat(np.arange(num_steps), per_frame)


def _by_time(t, time_window):
    """The frame of each event, by its time; in order."""
    if t.dtype.kind not in "iubf" or not np.all(np.isfinite(t)):
        raise TypeError(f"expected finite numbers in t for a time_window, got others ({t.dtype}) in events")
    t = t.astype(np.float64 if t.dtype.kind == "f" else np.int64)  # of a short dtype the difference may not fit
    frame = (t - t[:1]) // time_window
    if len(frame) and not frame[-1] < _MOST_FRAMES:
        raise ValueError(
            f"expected a time_window that makes at most {_MOST_FRAMES:,} frames of {t[-1] - t[0]:,} in t, got "
            f"{time_window}: {frame[-1] + 1:,} frames"
        )
    return frame.astype(np.int64)


def check_inside(x: np.ndarray, y: np.ndarray, p: np.ndarray, height: int, width: int) -> None:
    """Refuse events that are not on a sensor of `height` x `width` pixels, or that are neither OFF nor ON.

    Raises:
        TypeError, ValueError: see :func:`events_to_frames`.
    """
    for field, values, end in (("x", x, width), ("y", y, height), ("p", p, 2)):
        if values.dtype.kind not in "iub":
            raise TypeError(f"expected integers in {field}, got {values.dtype} in events")
        if len(values) and not 0 <= values.min() <= values.max() < end:
            raise ValueError(
                f"expected {field} in 0..{end - 1} for a sensor of {height} x {width}, "
                f"got {values.min()}..{values.max()} in events"
            )


def height_width(name: str, value: int | tuple[int, int]) -> tuple[int, int]:
    """Return `value`, one integer or a pair of them, as (H, W)."""
    pair = value if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2:
        raise ValueError(f"expected {name} to be (height, width) or one integer, got {value!r}")
    for number in pair:
        check_positive_int(name, number)
    height, width = pair
    return height, width
