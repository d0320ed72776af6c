"""Recordings of one's own: one folder for each class."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .._checks import check_flags, check_path, check_positive_int
from ._common import Samples, contents, stratified_order
from ._frame_cache import Cut, cached_frames
from ._gate import File, find_files, find_folder, folder_names
from .frames import check_cut, height_width
from .recordings import FORMATS, Recordings

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._typing import AnyPath

__all__ = ["from_folder"]

NAME = "folder"  # of the data set: in the cache, and to the command line
WHAT = "recordings of your own, one folder for each class"
_PATTERN = rf".+({'|'.join(map(re.escape, FORMATS))})"
_PARTS = ("train", "test")
_SHARE = 5  # every fifth recording of a class tests, where the folder does not say which


class Found(NamedTuple):
    """What lies in a folder, not read yet.

    Attributes:
        root: the folder.
        classes: their names, sorted: the labels are positions in here.
        files: sorted by name, which begins below `root`.
        targets: labels [N].
    """

    root: Path
    classes: tuple[str, ...]
    files: tuple[File, ...]
    targets: np.ndarray


def from_folder(
    root: AnyPath,
    *,
    sensor_size: int | tuple[int, int],
    num_steps: int | None = None,
    time_window: int | None = None,
    size: int | tuple[int, int] | None = None,
    polarities: int = 2,
    train: bool | None = None,
    limit: int | None = None,
) -> Samples:
    """Recordings of your own as (float32 frames [T, polarities, H, W], int label) pairs: one folder for each class.

    ``root/<class>/<any name>`` with one of these endings, the same for all; what has another ending and what is hidden is
    left alone:

    - ``.npy``: a structured array with the fields x, y, p, t, as tonic gives it, or four columns in the order x, y, p, t;
    - ``.npz``: arrays x, y, p, t;
    - ``.h5``, ``.hdf5``: data sets x, y, p, t, at the top or in the group ``events``; or one ``events`` with these fields;
    - ``.aedat4``: AEDAT 4, by tonic; ``.aedat``: AEDAT 2.0 of a 128 x 128 DVS, see :func:`read_aedat2`;
    - ``.bin``: N-MNIST's five bytes an event, by tonic.

    x is the column, y the row, p 0 (OFF) or 1 (ON), and t the time in us, or in whatever unit your files have it. The label
    of a class is its place among the sorted names of the folders. The frames are those of :func:`events_to_frames`, computed
    at the first call and cached on disk (:func:`cache_dir`). Nothing is written into `root`.

    If `root` has folders ``train`` and ``test``, with one folder for each class in both, those are the parts. If not, every
    fifth recording of a class tests: which ones is decided by the names of the files alone, so that it is the same at every
    call, and a new recording moves at most one of its class.

    Args:
        root: the folder.
        sensor_size: (H, W) of the camera in pixels, or one integer for both. (tonic has it as (W, H, 2).)
        num_steps: number of frames T of every recording, of equally many events each; None: 16, if there is no
            `time_window`.
        time_window: in place of it the length of a frame, in us (the unit of t). Recordings then have as many frames as they
            take, see :func:`pad_sequences`.
        size: (H, W) of the frames, or one integer for both; None keeps `sensor_size`. Pixels in between are dropped.
        polarities: 2: a channel for OFF and one for ON; 1: one that counts both.
        train: the training part if True, the test part if False; None: all recordings.
        limit: at most so many, as in :func:`load`.

    Returns:
        A :class:`Samples`, sorted by the names of the files, with `classes`, the names of the classes, and `targets`; with a
        `time_window` also `lengths`, the T of each.

    Raises:
        FileNotFoundError: there is no such folder, or it has no folders of classes; the message says what is there.
        ValueError: a class without a recording; recordings in several formats; too few for two parts; an event outside of
            the sensor, a damaged file; an argument out of range.
        OSError: a folder or file cannot be read, or the cache cannot be written.
        TypeError: an argument of the wrong type.
        ImportError: tonic, aedat or h5py is missing: ``pip install snntorch-bpsta[data]``.

    Example:
        >>> import tempfile, pathlib, numpy as np
        >>> from snntorch_bpsta.data import from_folder
        >>> root = pathlib.Path(tempfile.mkdtemp())
        >>> for name in ("left", "right"):
        ...     (root / name).mkdir()
        ...     np.savez(root / name / "1.npz", x=[0, 3], y=[1, 2], p=[0, 1], t=[10, 20])
        >>> samples = from_folder(root, sensor_size=(4, 4), num_steps=2)
        >>> samples.classes, samples[0][0].shape
        (('left', 'right'), torch.Size([2, 2, 4, 4]))
    """
    if num_steps is None and time_window is None:
        num_steps = 16
    check_cut(num_steps, time_window, polarities)
    sensor_size = height_width("sensor_size", sensor_size)
    size = sensor_size if size is None else height_width("size", size)
    if train is not None:
        check_flags(train=train)
    if limit is not None:
        check_positive_int("limit", limit)
    found = find(root, train)
    own = _recordings(found, sensor_size)
    if limit is not None:
        own = own.take(stratified_order(found.targets)[:limit])
    frames, lengths = cached_frames(own, Cut(num_steps, size, time_window, polarities))
    samples = Samples(frames, own.targets, lengths=lengths)
    samples.classes = found.classes
    return samples


def loader(sensor_size: tuple[int, int]) -> Callable[[bool, Path, bool], Recordings]:
    """The `loader` of a ``DatasetSpec``, for a camera with this sensor."""

    def load(train, root, download=False):
        if download:
            raise ValueError(f"download (--download): your own recordings (data set {NAME!r}) are nowhere to fetch")
        return _recordings(find(root, train), sensor_size)

    return load


def _recordings(found, sensor_size):
    return Recordings(NAME, found.root, found.files, found.targets, sensor_size, "")


def find(root: AnyPath, train: bool | None = None) -> Found:
    """What :func:`from_folder` would read.

    Raises:
        FileNotFoundError, ValueError, OSError, TypeError: as there.
    """
    check_path("root", root)
    root = Path(root).expanduser()
    parts = [find_folder(root, part) for part in _PARTS]
    if not all(part.is_dir() for part in parts):
        found = _find(root)
        return found if train is None else _part(found, train)
    first, second = (_find(root, part.name) for part in parts)
    if others := sorted({*second.classes} - {*first.classes}):
        raise ValueError(
            f"expected the classes of {parts[0]} in {parts[1]} too ({', '.join(first.classes)}), got {', '.join(others)}"
        )
    named = np.array([first.classes.index(name) for name in second.classes], np.int64)
    second = second._replace(classes=first.classes, targets=named[second.targets])
    _of_one_format(root, first.files + second.files)
    if train is not None:
        return first if train else second
    return first._replace(files=first.files + second.files, targets=np.concatenate([first.targets, second.targets]))


def _find(root, *part):
    """All recordings in ``root/part``."""
    folder = root.joinpath(*part)
    classes = folder_names(folder) if folder.is_dir() else []
    patterns = (*map(re.escape, part), "(?P<label>.+)", _PATTERN)
    listed = sorted(find_files(root, *patterns), key=lambda each: each[1].name) if classes else []
    if not listed:
        raise FileNotFoundError(
            f"expected one folder for each class in {folder} (root, --data-root), with recordings in it "
            f"({', '.join(FORMATS)}), got {contents(folder, folder)}{_instead(folder)}"
        )
    counts = Counter(label for label, _ in listed)
    for name in classes:
        if not counts[name]:
            inside = folder / name
            raise ValueError(
                f"expected recordings ({', '.join(FORMATS)}) in every folder of {folder}, got {contents(inside, inside)}: "
                "put recordings right into it, or take it out; recordings of two parts lie in train/<class> and test/<class>"
            )
    files = tuple(file for _, file in listed)
    _of_one_format(folder, files)
    return Found(root, tuple(classes), files, np.array([classes.index(label) for label, _ in listed], np.int64))


def _of_one_format(folder, files):
    """Refuse several: a file of another format may have another unit of time, or y from below."""
    of = {Path(file.name).suffix.lower(): file.name for file in files}
    if len(of) > 1:
        counts = Counter(Path(file.name).suffix.lower() for file in files)
        got = ", ".join(f"{counts[ending]:,} {ending} (such as {of[ending]})" for ending in sorted(of))
        raise ValueError(f"expected recordings of one format in {folder}, got {got}: convert them, or take some out")


def _instead(folder):
    """Where there are some: above it, or in one of the folders in it."""
    with suppress(OSError, ValueError):
        if next(find_files(folder, _PATTERN), None):
            return f"; recordings lie in it, not in folders: name {folder.absolute().parent} if it is a class itself"
        for name in folder_names(folder):
            if next(find_files(folder, re.escape(name), ".+", _PATTERN), None):
                return f"; {folder / name} has such folders"
    return ""


def _part(found, train):
    """The training or the test part, by the names of the files."""
    index: list[int] = []
    for label, name in enumerate(found.classes):
        own = np.flatnonzero(found.targets == label).tolist()
        if len(own) < 2:
            raise ValueError(
                f"expected at least 2 recordings of every class in {found.root}, of which one tests, got {len(own)} of "
                f"{name}: add some, or make folders train/<class> and test/<class>"
            )
        own.sort(key=lambda i: hashlib.blake2b(found.files[i].name.encode(errors="surrogateescape")).digest())
        tests = max(1, (len(own) + _SHARE // 2) // _SHARE)
        index += own[tests:] if train else own[:tests]
    index.sort()
    return found._replace(files=tuple(found.files[i] for i in index), targets=found.targets[index])
