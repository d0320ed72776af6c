"""The data sets of the paper, and small ones for a first try, through one door: :func:`load`. Recordings of your own:
:func:`from_folder`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .._checks import check_choice, check_positive_int
from . import events, images, simulation
from ._common import Samples, cache_dir, data_dir, stratified_order
from ._frame_cache import Cut, cached_frames
from .batches import pad_sequences
from .folders import from_folder
from .frames import events_to_frames, height_width
from .recordings import Recordings, read_aedat2
from .simulation import CAMERAS, Camera, saccades

if TYPE_CHECKING:
    from pathlib import Path

    from .._typing import AnyPath

__all__ = [
    "CAMERAS",
    "DATASETS",
    "Camera",
    "DatasetSpec",
    "Samples",
    "cache_dir",
    "data_dir",
    "events_to_frames",
    "from_folder",
    "load",
    "pad_sequences",
    "read_aedat2",
    "saccades",
]


@dataclass(frozen=True)
class DatasetSpec:
    """One row of :data:`DATASETS`.

    Attributes:
        name: what :func:`load` takes.
        kind: "image" or "event".
        input_shape: (C, H, W) of an image or of one frame, as used for training.
        num_classes: number of classes.
        loader: ``loader(train, root, download)``; its docstring says where it looks, and licence
            and citation.
        url: where to get the data.
        description: one line.
    """

    name: str
    kind: str
    input_shape: tuple[int, int, int]
    num_classes: int
    loader: Callable[[bool, Path, bool], Samples | Recordings | simulation.Filmed]
    url: str
    description: str


DATASETS = {
    spec.name: spec
    for spec in (
        DatasetSpec(
            "digits",
            "image",
            (1, 8, 8),
            10,
            images.digits,
            images.DIGITS_URL,
            "1,797 handwritten digits that scikit-learn brings along; no download",
        ),
        DatasetSpec(
            "mnist",
            "image",
            (1, 28, 28),
            10,
            images.mnist,
            images.MNIST_URL,
            "70,000 handwritten digits",
        ),
        DatasetSpec(
            "cifar10",
            "image",
            (3, 32, 32),
            10,
            images.cifar10,
            images.CIFAR10_URL,
            "60,000 colour pictures of animals and vehicles",
        ),
        DatasetSpec(
            "nmnist",
            "event",
            (2, 34, 34),
            10,
            events.nmnist,
            events.NMNIST_URL,
            "MNIST filmed by a moving event camera",
        ),
        DatasetSpec(
            "dvs_gesture",
            "event",
            (2, 64, 64),
            11,
            events.dvs_gesture,
            events.DVS_GESTURE_URL,
            "hand and arm gestures before an event camera, frames 128 -> 64",
        ),
        DatasetSpec(
            "cifar10_dvs",
            "event",
            (2, 64, 64),
            10,
            events.cifar10_dvs,
            events.CIFAR10_DVS_URL,
            "CIFAR-10 pictures moving before an event camera, frames 128 -> 64",
        ),
        DatasetSpec(
            "digits_simulated",
            "event",
            (2, 34, 34),
            10,
            simulation.digits_simulated,
            images.DIGITS_URL,
            "the digits before a modelled event camera; no download",
        ),
        DatasetSpec(
            "nmnist_simulated",
            "event",
            (2, 34, 34),
            10,
            simulation.nmnist_simulated,
            images.MNIST_URL,
            "MNIST before a modelled event camera: a simulation of N-MNIST",
        ),
        DatasetSpec(
            "cifar10_dvs_simulated",
            "event",
            (2, 64, 64),
            10,
            simulation.cifar10_dvs_simulated,
            images.CIFAR10_URL,
            "CIFAR-10 before a modelled event camera: a simulation of CIFAR10-DVS",
        ),
    )
}


def load(
    name: str,
    *,
    train: bool = True,
    root: AnyPath | None = None,
    num_steps: int = 16,
    size: int | tuple[int, int] | None = None,
    limit: int | None = None,
    download: bool = False,
) -> Samples:
    """Load a data set of :data:`DATASETS` as (float32 tensor, int label) pairs.

    An image is [C, H, W] in [0, 1], not normalised further. A recording is [T, 2, H, W], the counts
    of :func:`events_to_frames`; the frames are computed at the first call and cached on disk
    (:func:`cache_dir`), by the path, size and times of the recordings. What lies in `root` is read as
    it lies, through links, and only ``download=True`` writes into it.

    Args:
        name: a key of :data:`DATASETS`.
        train: the training part if True, else the test part.
        root: the folder that holds the data; None: the environment variable
            ``SNNTORCH_BPSTA_DATA``, else the cache folder. The docstrings of
            ``DATASETS[name].loader`` say which files are looked for.
        num_steps: number of frames T of a recording; ignored for images.
        size: (H, W) of the frames, or one integer for both; None: that of
            ``DATASETS[name].input_shape``, as in the paper. Images keep their size.
        limit: at most so many samples: the beginning of a fixed permutation (independent of any
            seed) that holds the classes as evenly as possible, so a smaller limit gives a part of a
            larger one. None: all, in their order.
        download: fetch into `root` what is not there. Of several processes one does, and the others wait.

    Returns:
        A :class:`torch.utils.data.Dataset` with `targets`, a LongTensor [N].

    Raises:
        FileNotFoundError: the data is not there; the message says what was looked for, where, and
            where to get it.
        ValueError: a file is damaged, no regular file or of no class of the data set, an event lies
            outside the sensor, an unknown `name`, a `num_steps`, `size` or `limit` out of range.
        OSError: a folder or file cannot be read, or the cache folder cannot be written.
        TypeError: an argument of the wrong type.
        ImportError: torchvision, tonic, aedat or scikit-learn is missing: ``pip install
            snntorch-bpsta[data]``.
        ConnectionError: the download failed.

    Example:
        >>> from snntorch_bpsta.data import load
        >>> digits = load("digits", limit=100)
        >>> image, label = digits[0]
        >>> image.shape, len(digits)
        (torch.Size([1, 8, 8]), 100)
    """
    check_choice("name", name, list(DATASETS))
    spec = DATASETS[name]
    for flag, value in (("train", train), ("download", download)):
        if not isinstance(value, bool):
            raise TypeError(f"{flag} must be True or False, got {value!r}")
    check_positive_int("num_steps", num_steps)
    if limit is not None:
        check_positive_int("limit", limit)
    native = spec.input_shape[1:]
    size = native if size is None else height_width("size", size)
    if spec.kind == "image" and size != native:
        raise ValueError(f"size must be None or {native} for the images of {name!r}, which keep their size, got {size}")

    found: Any = spec.loader(train, data_dir(root), download)
    labels = found.targets
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < spec.num_classes:
        raise ValueError(
            f"expected labels from 0 to {spec.num_classes - 1} in the data set {name!r}, got {int(labels.min())} to "
            f"{int(labels.max())}: the files in {data_dir(root)} are damaged; get them again from {spec.url}"
        )
    if spec.kind == "image" and found.data.shape[1:] != spec.input_shape:
        raise ValueError(
            f"expected images {spec.input_shape} in the data set {name!r}, got {found.data.shape[1:]}: the files in "
            f"{data_dir(root)} are damaged; get them again from {spec.url}"
        )
    if limit is not None:
        index = stratified_order(found.targets)[:limit]
        found = found.take(index)
    if spec.kind == "image":
        return found
    frames, _ = cached_frames(found, Cut(num_steps, size))
    return Samples(frames, found.targets)
