"""Event data: `nmnist`, `dvs_gesture`, `cifar10_dvs`.

A loader lists the recordings without reading them; :func:`cached_frames` reads them once.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
import warnings
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .._checks import check_path
from ._common import cache_dir, check_loader, damaged, decoding, fetching, missing, need, write_atomically
from .frames import events_to_frames

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .._typing import AnyPath, Events
    from .simulation import Filmed

NMNIST_URL = "https://data.mendeley.com/datasets/468j46mzdv"
DVS_GESTURE_URL = "https://research.ibm.com/interactive/dvsgesture/"
CIFAR10_DVS_URL = "https://figshare.com/articles/dataset/CIFAR10-DVS_New/4724671"

# tonic's own addresses answer with empty files; these serve the same, and tonic checks the md5.
_FIGSHARE = "https://api.figshare.com/v2/file/download/"
_CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)

_LARGEST = 1 << 28  # bytes of one recording out of a zip; the longest are of a few MB
_MOST_OVERFLOWS = 10_000

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Recordings:
    """The recordings of one split where they lie, not read yet, sorted by name.

    Iterating reads them one by one; each is the arrays x, y, p and t by these names.

    Attributes:
        name: the data set.
        source: the folder or .zip that holds them.
        files: (name inside `source`, size in bytes) of each.
        targets: integer labels [N].
        sensor_size: (H, W) in pixels.
        url: where to get them.
    """

    name: str
    source: Path
    files: tuple[tuple[str, int], ...]
    targets: np.ndarray
    sensor_size: tuple[int, int]
    url: str

    def __len__(self) -> int:
        return len(self.files)

    def take(self, index: np.ndarray) -> Recordings:
        """These recordings at the positions `index` only, in that order."""
        return replace(self, files=tuple(self.files[i] for i in index), targets=self.targets[index])

    def identity(self) -> str:
        """What the events depend on, as text."""
        return repr((self.source.name, self.files))

    def names(self) -> list[str]:
        """What to call each recording in a message."""
        return [str(self.source / name) for name, _ in self.files]

    def __iter__(self) -> Iterator[Events]:
        archive = _open_zip(self.source, self.url) if self.source.is_file() else None
        try:
            for name, size in self.files:
                path = self.source / name
                with decoding(path, self.url):
                    if archive is not None and size > _LARGEST:
                        raise ValueError(f"it unpacks to {size:,} bytes")
                    events = _READERS[path.suffix](path if archive is None else archive.read(name))
                    if not len(events["t"]):
                        raise ValueError("it has no events")
                yield events
        finally:
            if archive is not None:
                archive.close()


def nmnist(train: bool, root: AnyPath, download: bool = False) -> Recordings:
    """N-MNIST, 34 x 34 pixels, 10 digits: 60,000 train and 10,000 test recordings of about 0.3 s.

    Looks in `root` for ``NMNIST/Train/<label>/*.bin`` and ``NMNIST/Test/...`` (the layout of the
    original and of tonic; a part of it will do), then for ``NMNIST/nmnist_1100_bin.zip``, 1,000 and
    100 recordings in that layout.

    Args:
        train: the training part if True, else the test part.
        root: folder (``pathlib.Path``) that holds ``NMNIST/``.
        download: let tonic download into `root` (1.2 GB) unless all recordings of the part are
            there.

    Returns:
        Recordings, in the order of their names. With fewer recordings than the full set has, a
        UserWarning.

    Raises:
        FileNotFoundError: there are no recordings and `download` is False.
        ValueError: a file is damaged.
        ImportError: tonic is missing (a download, or frames that are not cached yet).
        ConnectionError: the download failed.

    References:
        G. Orchard, A. Jayawant, G. Cohen, N. Thakor, "Converting static image datasets to spiking
        neuromorphic datasets using saccades", Frontiers in Neuroscience 9:437, 2015. Licence CC
        BY-SA 4.0.
    """
    root = check_loader(train, root, download)
    part = "Train" if train else "Test"
    layout = rf"{part}/(\d)/[^/]+\.bin"
    return _find(
        "nmnist",
        root,
        [("NMNIST", layout), ("NMNIST/nmnist_1100_bin.zip", layout)],
        classes=[str(digit) for digit in range(10)],
        full=60_000 if train else 10_000,
        sensor_size=(34, 34),
        url=NMNIST_URL,
        download=download and (lambda: _tonic_download("NMNIST", root, train=train)),
    )


def dvs_gesture(train: bool, root: AnyPath, download: bool = False) -> Recordings:
    """DVS128 Gesture, 128 x 128 pixels, 11 gestures.

    Looks in `root` for tonic's layout, ``DVSGesture/ibmGestureTrain/user*/<label>.npy`` and
    ``.../ibmGestureTest/...``: 1,077 train and 264 test clips. The paper's loader (SpikingJelly)
    cuts the same recordings into 1,176 and 288, so accuracies on the two are close but not the same
    thing. Then for ``DVS128Gesture/dvsgesture_10clips_bin.zip`` or its files
    ``DVS128Gesture/<label>_<gesture>.bin``: ten clips, one of each class but "other", without a
    split: `train` True and False give the same clips.

    Args:
        train: the training part if True, else the test part.
        root: folder (``pathlib.Path``) that holds ``DVSGesture/`` or ``DVS128Gesture/``.
        download: let tonic download into `root` (2.6 GB) unless all clips of the part are there.

    Returns:
        Recordings, in the order of their names. With fewer clips than the full set has, a
        UserWarning.

    Raises:
        FileNotFoundError: there are no clips and `download` is False.
        ValueError: a file is damaged.
        ImportError: tonic is missing (a download, or frames that are not cached yet).
        ConnectionError: the download failed.

    References:
        A. Amir et al., "A Low Power, Fully Event-Based Gesture Recognition System", CVPR 2017.
        Licence CC BY 4.0.
    """
    root = check_loader(train, root, download)
    part, file_id = ("Train", 38022171) if train else ("Test", 38020584)
    clips = r"(\d|10)_[^/]+\.bin"
    found = _find(
        "dvs_gesture",
        root,
        [
            (f"DVSGesture/ibmGesture{part}", r"user[^/]+/(\d|10)\.npy"),
            ("DVS128Gesture", clips),
            ("DVS128Gesture/dvsgesture_10clips_bin.zip", clips),
        ],
        classes=[str(gesture) for gesture in range(11)],
        full=1_077 if train else 264,
        sensor_size=(128, 128),
        url=DVS_GESTURE_URL,
        download=download
        and (
            lambda: _tonic_download("DVSGesture", root, {f"{part.lower()}_url": f"{_FIGSHARE}{file_id}"}, train=train)
        ),
    )
    if found.files[0][0].endswith(".bin"):
        warnings.warn(
            f"dvs_gesture: {found.source} has no split: train=True and train=False give the same clips",
            stacklevel=3,
        )
    return found


def cifar10_dvs(train: bool, root: AnyPath, download: bool = False) -> Recordings:
    """CIFAR10-DVS, 128 x 128 pixels, 10 classes, 1,000 recordings of each.

    Looks in `root` for ``CIFAR10DVS/<class>/*.aedat4`` (tonic's layout), then for
    ``CIFAR10DVS/<class>/*.aedat`` (the original AEDAT 2.0 files, see :func:`~snntorch_bpsta.data.read_aedat2`). The set
    has no split of its own: as in the paper's code the first 90 % of every class, in the order of
    the file names (..._0, _1, _10, _100, ...), train and the rest tests.

    Args:
        train: the training part if True, else the test part.
        root: folder (``pathlib.Path``) that holds ``CIFAR10DVS/``.
        download: let tonic download into `root` unless all 10,000 recordings are there.

    Returns:
        Recordings, in the order of their names. With fewer recordings than the full set has, a
        UserWarning.

    Raises:
        FileNotFoundError: there are no recordings and `download` is False.
        ValueError: a file is damaged.
        ImportError: tonic or aedat is missing (a download, or .aedat4 frames that are not cached
            yet).
        ConnectionError: the download failed.

    References:
        H. Li, H. Liu, X. Ji, G. Li, L. Shi, "CIFAR10-DVS: An Event-Stream Dataset for Object
        Classification", Frontiers in Neuroscience 11:309, 2017. Licence CC BY 4.0.
    """
    root = check_loader(train, root, download)
    layout = rf"({'|'.join(_CIFAR10_CLASSES)})/[^/]+"
    found = _find(
        "cifar10_dvs",
        root,
        [("CIFAR10DVS", rf"{layout}\.aedat4"), ("CIFAR10DVS", rf"{layout}\.aedat")],
        classes=_CIFAR10_CLASSES,
        full=10_000,
        sensor_size=(128, 128),
        url=CIFAR10_DVS_URL,
        download=download and (lambda: _tonic_download("CIFAR10DVS", root, {"url": f"{_FIGSHARE}38023437"})),
    )
    index: list[int] = []
    for label in np.unique(found.targets):
        of_class = np.flatnonzero(found.targets == label)
        first = -(-9 * len(of_class) // 10)  # rounded up
        index.extend(of_class[:first] if train else of_class[first:])
    if not index:
        raise ValueError(
            f"expected at least 2 recordings of a class in {found.source} to have some for a test, "
            "got 1: add recordings"
        )
    return found.take(np.array(index, dtype=np.int64))


def read_aedat2(source: AnyPath | bytes) -> np.ndarray:
    """Read the events of an AEDAT 2.0 file of a 128 x 128 DVS, such as an original CIFAR10-DVS one.

    An ASCII header of lines that begin with ``#``, then eight bytes an event, big endian: address,
    time in us. In the address lie the polarity (bit 0), one coordinate (bits 1-7) and the other
    (bits 8-14). Readers differ in which way up they put that; this one does as SpikingJelly (and so
    the paper) does: x = 127 - bits 8-14, y = 127 - bits 1-7, p = 1 - bit 0.

    Args:
        source: a path, or the bytes of the file.

    Returns:
        Structured array with the fields x, y (int16), t (int64, us) and p (bool, True = ON), in the
        order of the file.

    Raises:
        FileNotFoundError: no file is at that path.
        ValueError: it is no AEDAT 2.0, or it is truncated.
    """
    name = "the data" if isinstance(source, bytes) else source
    if not isinstance(source, bytes):
        check_path("source", source)
    raw = source if isinstance(source, bytes) else Path(source).read_bytes()
    if not raw.startswith(b"#!AER-DAT2"):
        raise ValueError(f"source: expected {name} to begin with '#!AER-DAT2.0', got {raw[:12]!r}")
    start = 0
    while raw[start : start + 1] == b"#":
        start = raw.find(b"\n", start) + 1 or len(raw)
    if (len(raw) - start) % 8:
        raise ValueError(f"source: expected {name} to hold events of 8 bytes, got {len(raw) - start} bytes: truncated")
    address, time = np.frombuffer(raw, ">u4", offset=start).reshape(-1, 2).T
    events = np.empty(len(time), [("x", np.int16), ("y", np.int16), ("t", np.int64), ("p", bool)])
    events["x"] = 127 - (address >> 8 & 127).astype(np.int16)
    events["y"] = 127 - (address >> 1 & 127).astype(np.int16)
    events["t"] = time
    events["p"] = address & 1 == 0
    return events


def cached_frames(recordings: Recordings | Filmed, num_steps: int, size: tuple[int, int]) -> np.ndarray:
    """The frames of all `recordings`, computed once, then memory-mapped from the cache folder.

    One file for one combination of data set, split, number of frames, size, and names and sizes of
    the recordings. It is written aside and renamed when complete, so an interrupted run leaves no
    half file under its name (a killed one may leave a ``.tmp`` file, to delete); a file that is
    broken all the same is written anew.

    Args:
        recordings: :class:`Recordings`, or :class:`~snntorch_bpsta.data.simulation.Filmed` ones.
        num_steps: number of frames T of each.
        size: (H, W) of the frames.

    Returns:
        Read-only int16 memory map [N, T, 2, H, W] of counts, see
        :func:`~snntorch_bpsta.data.events_to_frames`.

    Raises:
        ValueError: a recording is damaged, or its counts do not fit.
    """
    shape = (len(recordings), num_steps, 2, *size)
    identity = hashlib.sha256(recordings.identity().encode())
    file = f"{recordings.name}-T{num_steps}-{size[0]}x{size[1]}-{len(recordings)}-{identity.hexdigest()[:16]}.npy"
    path = cache_dir() / "frames" / file
    frames = _open_frames(path, shape)
    if frames is None:
        _log.info("writing the frames of %d recordings to %s", len(recordings), path)
        write_atomically(path, _frame_bytes(recordings, num_steps, size, shape))
        frames = np.load(path, mmap_mode="r", allow_pickle=False)
    return frames


def _frame_bytes(recordings, num_steps, size, shape):
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<i2", "fortran_order": False, "shape": shape})
    yield head.getvalue()
    for name, events in zip(recordings.names(), recordings, strict=True):
        try:
            frames = events_to_frames(events, num_steps, recordings.sensor_size, size)
        except ValueError as error:
            again = f". If the file is damaged, get it again from {recordings.url}" if recordings.url else ""
            raise ValueError(f"{name} gives no frames: {error}{again}") from error
        yield frames.astype("<i2", copy=False).tobytes()


def _open_frames(path, shape):
    try:
        frames = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):  # not there, truncated, or something else
        return None
    fits = isinstance(frames, np.memmap) and frames.shape == shape and frames.dtype == "<i2"
    return frames if fits else None


def _find(name, root, places, *, classes, full, sensor_size, url, download):
    """The recordings in the first of `places` that has any.

    A place is a path in `root` and a pattern for the names of recordings, whose group is the class.
    """
    found = _first(name, root, places, classes, sensor_size, url)
    if download and (found is None or len(found) < full):
        with fetching(name, url):
            download()
        found = _first(name, root, places, classes, sensor_size, url)
    if found is None:
        raise missing(name, " or ".join(dict.fromkeys(place for place, _ in places)), root, url)
    if len(found) < full:
        warnings.warn(
            f"{name}: {len(found):,} of {full:,} recordings in {found.source}; "
            "accuracies on a part do not compare with those on the full set",
            stacklevel=4,
        )
    return found


def _first(name, root, places, classes, sensor_size, url):
    for place, pattern in places:
        source = root / place
        listed = sorted((file, re.fullmatch(pattern, file), size) for file, size in _listing(source, pattern, url))
        if listed:
            files = tuple((file, size) for file, _, size in listed)
            targets = np.array([classes.index(match[1]) for _, match, _ in listed])
            return Recordings(name, source, files, targets, sensor_size, url)
    return None


def _listing(source, pattern, url):
    """(name, size) of the files whose name inside the folder or zip `source` matches `pattern`."""
    if source.is_file():
        with _open_zip(source, url) as archive:
            yield from ((i.filename, i.file_size) for i in archive.infolist() if re.fullmatch(pattern, i.filename))
    for folder, _, names in os.walk(source):
        inside = Path(folder).relative_to(source).as_posix()
        for name in names:
            file = name if inside == "." else f"{inside}/{name}"
            if re.fullmatch(pattern, file):
                yield file, os.path.getsize(os.path.join(folder, name))


def _open_zip(path, url):
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise damaged(path, error, url) from error


def _tonic_download(class_name, root, urls=None, **split):
    """Let tonic's class fetch, check and unpack, whatever its own look at the folder would say."""
    base = getattr(need("tonic.datasets"), class_name)
    # Our subclass, so that tonic stays as it is; of the same name, which is the name of its folder.
    fetch = type(class_name, (base,), {"_check_exists": lambda self: False, **(urls or {})})
    fetch(str(root), **split)


def _read_bin(source):
    """Five bytes an event: x, y, then one bit of polarity and 23 bits of time in us."""
    raw = source if isinstance(source, bytes) else source.read_bytes()
    if len(raw) % 5:
        raise ValueError(f"expected records of 5 bytes, got {len(raw)} bytes")
    overflows = raw[1::5].count(240)  # of the clock, by 8 ms; tonic goes through all later events for each
    if overflows > _MOST_OVERFLOWS:
        raise ValueError(
            f"expected a recording of less than {_MOST_OVERFLOWS * 2**13 / 1e6:.0f} s, got {overflows} overflows"
        )
    tonic_io = need("tonic.io")
    return tonic_io.read_mnist_file(io.BytesIO(raw), dtype=tonic_io.events_struct, is_stream=True)


def _read_npy(source):
    """tonic's DVS-Gesture: columns x, y, p, t, the time in ms."""
    # As a memory map, which is held against the size of the file before memory is taken.
    columns = np.load(source, mmap_mode="r", allow_pickle=False).astype(np.int64)
    return {"x": columns[:, 0], "y": columns[:, 1], "p": columns[:, 2], "t": columns[:, 3]}


def _read_aedat4(source):
    need("aedat")
    try:
        events = need("tonic.io").read_aedat4(str(source))
    except BaseException as error:
        if type(error).__name__ == "PanicException":  # how the decoder fails on garbage
            raise ValueError(str(error)) from error
        raise
    return {"t": events["t"], "x": events["x"], "y": events["y"], "p": events["on"]}


_READERS = {".bin": _read_bin, ".npy": _read_npy, ".aedat4": _read_aedat4, ".aedat": read_aedat2}
