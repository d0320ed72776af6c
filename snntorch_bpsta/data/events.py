"""The event data sets: `nmnist`, `dvs_gesture`, `cifar10_dvs`. A loader lists the recordings without reading them."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ._common import check_loader, contents, fetch, missing, need
from ._gate import data_folder, find_files, find_folder
from .recordings import Recordings

if TYPE_CHECKING:
    from .._typing import AnyPath

__all__ = ["cifar10_dvs", "dvs_gesture", "nmnist"]

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


_MOST_FOLDERS = 200  # that are looked into for recordings that lie elsewhere


@dataclass(frozen=True)
class _Layout:
    """Where the recordings of one part lie: ``folder/part``, and in it what :func:`find_files` takes for the `patterns`."""

    name: str
    folder: str
    part: tuple[str, ...]
    patterns: tuple[str, ...]
    shown: str  # for messages
    classes: tuple[str, ...]
    full: int
    sensor_size: tuple[int, int]
    url: str


def nmnist(train: bool, root: AnyPath, download: bool = False) -> Recordings:
    """N-MNIST, 34 x 34 pixels, 10 digits: 60,000 train and 10,000 test recordings of about 0.3 s.

    Looks in `root` for ``NMNIST/Train/<label>/*.bin`` and ``NMNIST/Test/...``, the layout of the
    original and of tonic; a part of it will do. Upper and lower case do not matter, links to folders and files are followed
    wherever they lead, and hidden files are left out.

    Args:
        train: the training part if True, else the test part.
        root: folder (``pathlib.Path``) that holds ``NMNIST/``, or that folder.
        download: let tonic download into `root` (1.2 GB) unless all recordings of the part are
            there.

    Returns:
        Recordings, in the order of their names. With fewer recordings than the full set has, a
        UserWarning.

    Raises:
        FileNotFoundError: there are no recordings and `download` is False.
        ValueError: a file is damaged, is no regular file, or is of none of the classes.
        PermissionError: a folder cannot be read.
        ImportError: tonic is missing (a download, or frames that are not cached yet).
        ConnectionError: the download failed.

    References:
        G. Orchard, A. Jayawant, G. Cohen, N. Thakor, "Converting static image datasets to spiking
        neuromorphic datasets using saccades", Frontiers in Neuroscience 9:437, 2015. Licence CC
        BY-SA 4.0.
    """
    root = check_loader(train, root, download)
    part = "Train" if train else "Test"
    layout = _Layout(
        name="nmnist",
        folder="NMNIST",
        part=(part,),
        patterns=("(?P<label>.+)", r".+\.bin"),
        shown=f"NMNIST/{part}/<label>/*.bin",
        classes=tuple(str(digit) for digit in range(10)),
        full=60_000 if train else 10_000,
        sensor_size=(34, 34),
        url=NMNIST_URL,
    )
    return _find(layout, root, download and (lambda: _tonic_download("NMNIST", root, train=train)))


def dvs_gesture(train: bool, root: AnyPath, download: bool = False) -> Recordings:
    """DVS128 Gesture, 128 x 128 pixels, 11 gestures.

    Looks in `root` for tonic's layout, ``DVSGesture/ibmGestureTrain/user*/<label>.npy`` and
    ``.../ibmGestureTest/...``: 1,077 train and 264 test clips, labels 0 to 10. The paper's loader (SpikingJelly)
    cuts the same recordings into 1,176 and 288, so accuracies on the two are close but not the same
    thing. Names, links and hidden files as in :func:`nmnist`.

    Args:
        train: the training part if True, else the test part.
        root: folder (``pathlib.Path``) that holds ``DVSGesture/``, or that folder.
        download: let tonic download into `root` (2.6 GB) unless all clips of the part are there.

    Returns:
        Recordings, in the order of their names. With fewer clips than the full set has, a
        UserWarning.

    Raises:
        FileNotFoundError: there are no clips and `download` is False.
        ValueError: a file is damaged, is no regular file, or is of none of the classes.
        PermissionError: a folder cannot be read.
        ImportError: tonic is missing (a download, or frames that are not cached yet).
        ConnectionError: the download failed.

    References:
        A. Amir et al., "A Low Power, Fully Event-Based Gesture Recognition System", CVPR 2017.
        Licence CC BY 4.0.
    """
    root = check_loader(train, root, download)
    part, file_id = ("Train", 38022171) if train else ("Test", 38020584)
    layout = _Layout(
        name="dvs_gesture",
        folder="DVSGesture",
        part=(f"ibmGesture{part}",),
        patterns=("user.+", r"(?P<label>.+)\.npy"),
        shown=f"DVSGesture/ibmGesture{part}/user*/<label>.npy",
        classes=tuple(str(gesture) for gesture in range(11)),
        full=1_077 if train else 264,
        sensor_size=(128, 128),
        url=DVS_GESTURE_URL,
    )
    urls = {f"{part.lower()}_url": f"{_FIGSHARE}{file_id}"}
    return _find(layout, root, download and (lambda: _tonic_download("DVSGesture", root, urls, train=train)))


def cifar10_dvs(train: bool, root: AnyPath, download: bool = False) -> Recordings:
    """CIFAR10-DVS, 128 x 128 pixels, 10 classes, 1,000 recordings of each.

    Looks in `root` for ``CIFAR10DVS/<class>/*.aedat4`` (tonic's layout), then for
    ``CIFAR10DVS/<class>/*.aedat`` (the original AEDAT 2.0 files, see :func:`~snntorch_bpsta.data.read_aedat2`). The set
    has no split of its own: as in the paper's code the first 90 % of every class, in the order of
    the file names (..._0, _1, _10, _100, ...), train and the rest tests. So a class needs 10 recordings to have one that
    tests. Names, links and hidden files as in :func:`nmnist`.

    Args:
        train: the training part if True, else the test part.
        root: folder (``pathlib.Path``) that holds ``CIFAR10DVS/``, or that folder.
        download: let tonic download into `root` unless all 10,000 recordings are there.

    Returns:
        Recordings, in the order of their names. With fewer recordings than the full set has, a
        UserWarning.

    Raises:
        FileNotFoundError: there are no recordings and `download` is False.
        ValueError: a file is damaged, is no regular file, or is of none of the classes.
        PermissionError: a folder cannot be read.
        ImportError: tonic or aedat is missing (a download, or .aedat4 frames that are not cached
            yet).
        ConnectionError: the download failed.

    References:
        H. Li, H. Liu, X. Ji, G. Li, L. Shi, "CIFAR10-DVS: An Event-Stream Dataset for Object
        Classification", Frontiers in Neuroscience 11:309, 2017. Licence CC BY 4.0.
    """
    root = check_loader(train, root, download)
    layout = _Layout(
        name="cifar10_dvs",
        folder="CIFAR10DVS",
        part=(),
        patterns=("(?P<label>.+)", r".+\.aedat4"),
        shown="CIFAR10DVS/<class>/*.aedat4 or *.aedat",
        classes=_CIFAR10_CLASSES,
        full=10_000,
        sensor_size=(128, 128),
        url=CIFAR10_DVS_URL,
    )
    original = replace(layout, patterns=("(?P<label>.+)", r".+\.aedat"))
    urls = {"url": f"{_FIGSHARE}38023437"}
    found = _find(layout, root, download and (lambda: _tonic_download("CIFAR10DVS", root, urls)), original)
    index: list[int] = []
    without = []
    for label in np.unique(found.targets):
        of_class = np.flatnonzero(found.targets == label)
        first = -(-9 * len(of_class) // 10)  # rounded up
        index.extend(of_class[:first] if train else of_class[first:])
        without += [] if len(of_class) > first else [f"{_CIFAR10_CLASSES[label]} ({len(of_class)})"]
    if not train and without:
        rest = f"of each class in {found.source}, of which the first 90 % train, to have some for a test"
        if not index:
            raise ValueError(f"expected at least 10 recordings {rest}, got fewer of all: {', '.join(without)}")
        warnings.warn(f"cifar10_dvs: fewer than the 10 recordings {rest} of {', '.join(without)}", stacklevel=3)
    return found.take(np.array(index, dtype=np.int64))


def _find(layout, root, download, *others):
    """The recordings in the first of the layouts that has any; all are of one data set."""
    layouts = (layout, *others)
    found = _first(layouts, root)
    if download:

        def complete():
            found = _first(layouts, root)
            return found is not None and len(found) >= layout.full

        fetch(layout.name, layout.url, root / layout.folder, complete, download)
        found = _first(layouts, root)
    if found is None:
        raise missing(layout.name, layout.shown, root, layout.url, _instead(layouts, root))
    if len(found) < layout.full:
        counts = Counter(found.targets.tolist())
        none = [each for label, each in enumerate(layout.classes) if not counts[label]]
        warnings.warn(
            f"{layout.name}: {len(found):,} of {layout.full:,} recordings in {found.source}"
            + (f", none of class {', '.join(none)}" if none else "")
            + "; accuracies on a part do not compare with those on the full set",
            stacklevel=4,
        )
    return found


def _folder(layout, root):
    return find_folder(data_folder(root, layout.folder), *layout.part)


def _first(layouts, root):
    for layout in layouts:
        source = _folder(layout, root)
        listed = find_files(source, *layout.patterns) if source.is_dir() else ()
        listed = sorted(listed, key=lambda each: each[1].name)
        foreign = [(label, file.name) for label, file in listed if label.casefold() not in layout.classes]
        if foreign:
            others = ", ".join(dict.fromkeys(label for label, _ in foreign))
            raise ValueError(
                f"expected {layout.shown} of the classes {', '.join(layout.classes)}, got {len(foreign):,} of {others}, "
                f"such as {source / foreign[0][1]}: rename what says the class, or take it out of the data folder"
            )
        if listed:
            files = tuple(file for _, file in listed)
            targets = np.array([layout.classes.index(label.casefold()) for label, _ in listed])
            return Recordings(layout.name, source, files, targets, layout.sensor_size, layout.url)
    return None


def _instead(layouts, root):
    """What there is where the recordings should be, and where there are some: above `root`, or deeper in it."""
    words = contents(_folder(layouts[0], root), root)
    for other in _around(root):
        for layout in layouts:
            with suppress(OSError, ValueError):
                source = _folder(layout, other)
                if source.is_dir() and next(find_files(source, *layout.patterns), None):
                    return f"{words}; {source} has recordings: point to {other}"
    return words


def _around(root):
    """Folders that may be meant: two above `root`, and those below it, the nearest first."""
    yield from Path(os.path.abspath(root)).parents[:2]
    todo, left = [(root, 0)], _MOST_FOLDERS
    while todo and left:
        folder, depth = todo.pop(0)
        left -= 1
        if depth:
            yield folder
        if depth < 3:
            with suppress(OSError), os.scandir(folder) as entries:
                todo += [(Path(entry.path), depth + 1) for entry in sorted(entries, key=lambda entry: entry.name)
                         if entry.is_dir(follow_symlinks=False)]  # fmt: skip


def _tonic_download(class_name, root, urls=None, **split):
    """Let tonic's class fetch, check and unpack, whatever its own look at the folder would say."""
    base = getattr(need("tonic.datasets"), class_name)
    # Our subclass, so that tonic stays as it is; of the same name, which is the name of its folder.
    fetch = type(class_name, (base,), {"_check_exists": lambda self: False, **(urls or {})})
    fetch(str(root), **split)
