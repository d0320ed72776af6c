"""The study of the simulated event camera: its films of MNIST beside the real recordings of the same images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..data import CAMERAS, events, images, saccades
from ..data._common import data_dir
from ._tables import markdown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._typing import AnyPath, Result

FITTED = range(60)  # MNIST's training images that the camera was fitted to
_SACCADES = (95_000, 205_000)  # us, where one ends and the next begins
_MAPS = [f"saccade {number}, {polarity}" for number in (1, 2, 3) for polarity in ("OFF", "ON")]


def against_recordings(data_root: AnyPath | None = None) -> list[Result]:
    """Film every MNIST image of which there is a real N-MNIST recording, and compare the two.

    Args:
        data_root: folder with MNIST and N-MNIST, or the part of it that there is; see :func:`snntorch_bpsta.data.load`.

    Returns:
        list: one dict per recording: ``train``, ``index`` (of the image, in its part of MNIST), ``label``, ``fitted`` (the
        camera was fitted to it), ``events`` and ``on`` (share of ON events) as (simulated, real), ``correlation``, that of
        the events per pixel by saccade and polarity (1 OFF, 1 ON, 2 OFF, ...), and ``control``, the same with the real
        recording of another image, the one before, which mostly is of the same class.

    Raises:
        FileNotFoundError, ValueError: the data is not there, or damaged.
    """
    rows = []
    for train in (True, False):
        real = events.nmnist(train, data_dir(data_root))
        pictures = images.mnist(train, data_dir(data_root))
        before = None
        for (name, _), label, theirs in zip(real.files, real.targets, real, strict=True):
            index = int(Path(name).stem) - 1
            if pictures.targets[index] != label:
                raise ValueError(f"{name} in {real.source} is of a {label}, and image {index} of MNIST is not")
            ours = saccades(pictures.data[index], "nmnist", seed=(0, index))
            film, recording = _maps(ours), _maps(theirs)
            rows.append(
                {
                    "train": train,
                    "index": index,
                    "label": int(label),
                    "fitted": train and index in FITTED,
                    "events": [len(ours), len(theirs["t"])],
                    "on": [float(np.mean(each["p"])) for each in (ours, theirs)],
                    "correlation": _correlation(film, recording),
                    "control": None if before is None else _correlation(film, before),
                }
            )
            before = recording
    return rows


def _maps(recording):
    """Events per pixel by saccade and polarity, [6, 34 * 34]."""
    height, width = CAMERAS["nmnist"].sensor_size
    part = np.searchsorted(_SACCADES, recording["t"], "right") * 2 + np.asarray(recording["p"], dtype=np.int64)
    cell = (part * height + recording["y"]) * width + recording["x"]
    return np.bincount(cell, minlength=6 * height * width).reshape(6, -1)


def _correlation(these, those):
    return [float(np.corrcoef(*pair)[0, 1]) for pair in zip(these, those, strict=True)]


def summarise(rows: Sequence[Result]) -> Result:
    """Means over rows of :func:`against_recordings`: how many, events (simulated, real), their ratio and their correlation
    over recordings, share of ON events (simulated, real), and the mean correlation of the maps by saccade and polarity, and
    of the control."""
    counts = np.array([row["events"] for row in rows], dtype=float)
    return {
        "recordings": len(rows),
        "events": counts.mean(0).tolist(),
        "ratio": float(counts[:, 0].sum() / counts[:, 1].sum()),
        "correlation of counts": float(np.corrcoef(counts.T)[0, 1]),
        "on": np.mean([row["on"] for row in rows], 0).tolist(),
        "correlation": dict(zip(_MAPS, np.mean([row["correlation"] for row in rows], 0).tolist(), strict=True)),
        "control": float(np.mean([row["control"] for row in rows if row["control"]])),
    }


def format_table(rows: Sequence[Result]) -> str:
    """The summary as a Markdown table: recordings that the camera was fitted to, and those that it was not."""
    parts = {"fitted to": [row for row in rows if row["fitted"]], "not": [row for row in rows if not row["fitted"]]}
    found = [summarise(part) for part in parts.values() if part]
    cells = {
        "recordings": [str(each["recordings"]) for each in found],
        "events, simulated": [f"{each['events'][0]:.0f}" for each in found],
        "events, real": [f"{each['events'][1]:.0f}" for each in found],
        "simulated / real": [f"{each['ratio']:.3f}" for each in found],
        "correlation of the counts": [f"{each['correlation of counts']:.3f}" for each in found],
        "share of ON events, simulated": [f"{each['on'][0]:.3f}" for each in found],
        "share of ON events, real": [f"{each['on'][1]:.3f}" for each in found],
        **{f"correlation of frames, {name}": [f"{each['correlation'][name]:.3f}" for each in found] for name in _MAPS},
        "the same with another image's recording": [f"{each['control']:.3f}" for each in found],
    }
    head = ["", *(name for name, part in parts.items() if part)]
    return markdown(head, [[name, *values] for name, values in cells.items()])
