"""The event data sets: `nmnist`, `dvs_gesture`, `cifar10_dvs`. A loader lists the recordings without reading them."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ._common import check_loader, fetching, missing, need
from .recordings import Recordings, open_zip

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
        with open_zip(source, url) as archive:
            yield from ((i.filename, i.file_size) for i in archive.infolist() if re.fullmatch(pattern, i.filename))
    for folder, _, names in os.walk(source):
        inside = Path(folder).relative_to(source).as_posix()
        for name in names:
            file = name if inside == "." else f"{inside}/{name}"
            if re.fullmatch(pattern, file):
                yield file, os.path.getsize(os.path.join(folder, name))


def _tonic_download(class_name, root, urls=None, **split):
    """Let tonic's class fetch, check and unpack, whatever its own look at the folder would say."""
    base = getattr(need("tonic.datasets"), class_name)
    # Our subclass, so that tonic stays as it is; of the same name, which is the name of its folder.
    fetch = type(class_name, (base,), {"_check_exists": lambda self: False, **(urls or {})})
    fetch(str(root), **split)
