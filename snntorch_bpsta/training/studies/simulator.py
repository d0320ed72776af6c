"""The simulated event camera: its films of MNIST beside the real recordings of the same images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..._checks import check_int, check_path
from ...data import CAMERAS, data_dir, events, images, saccades

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..._typing import AnyPath, Result

__all__ = ["against_recordings"]

FITTED = range(60)  # MNIST's training images that the camera was fitted to
_SACCADES = (95_000, 205_000)  # us, where one ends and the next begins
_MAPS = [f"correlation_{saccade}_{polarity}" for saccade in (1, 2, 3) for polarity in ("OFF", "ON")]


def against_recordings(data_root: AnyPath | None = None, seed: int = 0) -> list[Result]:
    """Film every MNIST image of which there is a real N-MNIST recording, and compare the two.

    Args:
        data_root: folder with MNIST and N-MNIST, or the part of it that there is; see :func:`snntorch_bpsta.data.load`.
        seed: of the camera.

    Returns:
        list: one dict per recording: ``train``, ``index`` (of the image, in its part of MNIST), ``label``, ``fitted`` (the
        camera was fitted to it), ``events`` and ``on`` (share of ON events) as (simulated, real), ``correlation``, that of
        the events per pixel by saccade and polarity (1 OFF, 1 ON, 2 OFF, ...), and ``control``, the same with the real
        recording of another image, the one before, which mostly is of the same class.

    Raises:
        FileNotFoundError, ValueError: the data is not there, or damaged.
    """
    if data_root is not None:
        check_path("data_root", data_root)
    check_int("seed", seed, 0, 2**32)
    rows = []
    for train in (True, False):
        real = events.nmnist(train, data_dir(data_root))
        pictures = images.mnist(train, data_dir(data_root))
        before = None
        for name, label, theirs in zip(real.names(), real.targets, real, strict=True):
            index = int(Path(name).stem) - 1
            if pictures.targets[index] != label:
                raise ValueError(f"{name} is of a {label}, and image {index} of MNIST is not")
            ours = saccades(pictures.data[index], "nmnist", seed=(seed, index))
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


def measure_simulator(
    runs: Mapping[tuple[str, str], None], seed: int, folder: Path, data_root: AnyPath | None = None
) -> dict[tuple[str, str], Result]:
    """The rows of the recordings that the camera was fitted to, and of those that it was not; of a part without recordings
    there is none."""
    from ..results import environment  # Lightning, which takes its time to import

    films = against_recordings(data_root, seed)
    found = {}
    for setting, variant in runs:
        own = [film for film in films if film["fitted"] == (setting == "fitted to")]
        if own:
            found[setting, variant] = {"recipe": None, "seed": seed, **summary(own), "films": own, **environment()}
    return found


def summary(films: Sequence[Result]) -> dict[str, float | None]:
    """The numbers of a row that go into the table: means over recordings of :func:`against_recordings`, and the correlation
    of their counts."""
    counts = np.array([film["events"] for film in films], dtype=float)
    simulated, real = counts.mean(0).tolist()
    on = np.mean([film["on"] for film in films], 0).tolist()
    several = len({tuple(pair) for pair in counts.tolist()}) > 1
    controls = [film["control"] for film in films if film["control"]]
    return {
        "recordings": len(films),
        "events_simulated": simulated,
        "events_real": real,
        "events_ratio": float(counts[:, 0].sum() / counts[:, 1].sum()),
        "events_correlation": float(np.corrcoef(counts.T)[0, 1]) if several else None,
        "on_simulated": on[0],
        "on_real": on[1],
        **dict(zip(_MAPS, np.mean([film["correlation"] for film in films], 0).tolist(), strict=True)),
        "correlation_control": float(np.mean(controls)) if controls else None,
    }
