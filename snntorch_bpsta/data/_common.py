"""What the loaders share: folders, errors, and the data set they return."""

from __future__ import annotations

import importlib
import mmap
import os
import sys
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from .._checks import as_array, check_flags, check_number, check_path
from .._files import locked
from ._gate import Version, look

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    from numpy.typing import ArrayLike

    from .._typing import AnyPath


class Samples(torch.utils.data.Dataset):
    """Arrays as a data set of (float32 tensor, int label).

    Of data in a memory map a pickle holds where in the file they lie; loading it is refused if the file has changed.

    Args:
        data: array [N, ...] of integers, in memory or memory-mapped.
        targets: integer labels [N].
        scale: every sample is divided by it (255 for bytes).
        lengths: of samples that are sequences of different length, integers [N] >= 1; they stand one behind the other in
            `data`, [sum of lengths, ...].

    Attributes:
        targets: LongTensor [N].
        lengths: LongTensor [N], or None.
        classes: names of the classes, where the data say them, else ().
    """

    def __init__(
        self, data: np.ndarray, targets: ArrayLike, scale: float = 1, lengths: ArrayLike | None = None
    ) -> None:
        targets = as_array("targets", targets)
        if not isinstance(data, np.ndarray) or data.dtype.kind not in "iubf" or not data.ndim:
            raise TypeError(
                f"data must be an array [N, ...] of numbers, got {getattr(data, 'dtype', type(data).__name__)}"
            )
        self.lengths = None if lengths is None else _as_lengths(lengths, len(data))
        count = data.shape[:1] if self.lengths is None else tuple(self.lengths.shape)
        if targets.shape != count or (targets.dtype.kind not in "iu" and targets.size):
            raise ValueError(f"targets must be {count[0]} integers, got {targets.dtype} {targets.shape}")
        self.classes: tuple[str, ...] = ()
        self.data = data
        self._version = None
        if isinstance(data, np.memmap) and data.filename is not None:
            with suppress(OSError, ValueError):  # a file that is gone is still there for this process
                self._version = look(data.filename, sys.maxsize)
        self.targets = torch.as_tensor(targets, dtype=torch.long)
        self._ends = None if self.lengths is None else self.lengths.cumsum(0)
        self.scale = check_number("scale", scale, "a finite number > 0", above=0)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        sample = np.divide(np.asarray(self.data[self._where(index)]), self.scale, dtype=np.float32)
        return torch.from_numpy(sample), int(self.targets[index])

    def _where(self, index):
        """Where a sample lies in `data`."""
        if self.lengths is None:
            return index
        end = int(self._ends[index])
        return slice(end - int(self.lengths[index]), end)

    def take(self, index: ArrayLike) -> Samples:
        """These samples at the positions `index` only, in that order."""
        index = as_array("index", index)
        if index.ndim != 1 or (index.dtype.kind not in "iu" and index.size):
            raise TypeError(f"index must be an array of positions [N], got {index.dtype} {index.shape}")
        if index.size and not -len(self) <= int(index.min()) <= int(index.max()) < len(self):
            raise ValueError(f"index must hold positions below {len(self)}, got {index.min()} to {index.max()}")
        index = index.astype(np.int64)
        if self.lengths is None:
            taken = Samples(self.data[index], self.targets[index], self.scale)
        else:
            data = np.concatenate([self.data[:0], *(self.data[self._where(i)] for i in index)])
            taken = Samples(data, self.targets[index], self.scale, self.lengths[index])
        taken.classes = self.classes
        return taken

    def __getstate__(self):
        # A memory map pickles by value: send the workers of a DataLoader where it lies, not gigabytes.
        if not isinstance(self.data, np.memmap):
            return self.__dict__
        return self.__dict__ | {"data": _in_file(self.data, self._version) or np.array(self.data)}

    def __setstate__(self, state):
        if isinstance(state["data"], _InFile):
            state = state | {"data": state["data"].open()}
        self.__dict__.update(state)


def _as_lengths(lengths, total):
    lengths = as_array("lengths", lengths)
    if lengths.ndim != 1 or (lengths.dtype.kind not in "iu" and lengths.size):
        raise ValueError(f"lengths must be integers [N], got {lengths.dtype} {lengths.shape}")
    if (lengths < 1).any() or sum(map(int, lengths)) != total:  # as Python's integers, which do not wrap
        raise ValueError(f"lengths must be >= 1 and add up to {total}, the length of data, got {_in_short(lengths)}")
    return torch.as_tensor(lengths.astype(np.int64))


def _in_short(lengths):
    return f"{len(lengths)} from {min(lengths)} to {max(lengths)}" if len(lengths) else "none"


class _InFile(NamedTuple):
    """An array that lies in a file."""

    path: str
    version: Version
    dtype: np.dtype
    offset: int  # bytes
    shape: tuple[int, ...]

    def open(self):
        if look(self.path, sys.maxsize) != self.version:
            raise ValueError(
                f"expected {self.path} to be as it was when these samples were pickled, got a file that has changed: load "
                "them again"
            )
        return np.memmap(self.path, self.dtype, "r", self.offset, self.shape)


def _in_file(data, version):
    """Where in its file a part of a memory map lies, or None: in no file, not in one piece, or in one that has changed."""
    if data.mode != "r" or version is None or not data.flags.c_contiguous or not data.size:
        return None
    path = os.path.abspath(data.filename)
    with suppress(OSError, ValueError):
        if look(path, sys.maxsize) == version:
            # A slice keeps the `offset` of the whole. The map begins at the page that the whole begins in.
            begin = np.frombuffer(data._mmap, np.uint8).ctypes.data
            page = data.offset - data.offset % mmap.ALLOCATIONGRANULARITY
            return _InFile(path, version, data.dtype, page + data.ctypes.data - begin, data.shape)
    return None


def stratified_order(targets: torch.Tensor | np.ndarray) -> np.ndarray:
    """A fixed permutation of [N] labels whose beginnings hold the classes as evenly as possible."""
    random = np.random.RandomState(0)  # its numbers never change with numpy's version
    order = random.permutation(len(targets))
    labels = np.asarray(targets)[order]
    turn = np.empty(len(labels), dtype=np.int64)  # this is the turn-th sample of its class
    for label in np.unique(labels):
        turn[labels == label] = np.arange(np.count_nonzero(labels == label))
    return order[np.argsort(turn, kind="stable")]


def cache_dir() -> Path:
    """The folder for what is derived from the data, that is, frames; safe to delete.

    ``SNNTORCH_BPSTA_CACHE`` if set, else ``snntorch_bpsta`` in ``XDG_CACHE_HOME`` or ``~/.cache``.
    """
    own = os.environ.get("SNNTORCH_BPSTA_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "snntorch_bpsta"


def data_dir(root: AnyPath | None = None) -> Path:
    """The folder of the data sets: `root`, else ``SNNTORCH_BPSTA_DATA``, else :func:`cache_dir`."""
    if root is not None:
        check_path("root", root)
    root = root if root is not None else os.environ.get("SNNTORCH_BPSTA_DATA") or cache_dir()
    return Path(root).expanduser()


def check_loader(train: bool, root: AnyPath | None, download: bool) -> Path:
    """The checks of every loader; returns the folder."""
    check_flags(train=train, download=download)
    return data_dir(root)


def need(module: str) -> ModuleType:
    """Import an optional library, or say how to install it."""
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision, torch do not match
        raise ImportError(
            f"this data set needs {module.partition('.')[0]}, which cannot be imported ({error}): "
            "pip install snntorch-bpsta[data]"
        ) from error


def missing(name: str, expected: str, root: Path, url: str, got: str = "") -> FileNotFoundError:
    """The error for files that are not there; `got` is what there is, by default in `root`."""
    return FileNotFoundError(
        f"expected {expected} in {root} for the data set {name!r}, got {got or contents(root, root)}. "
        f"Get it from {url} and point to its folder with root=... (--data-root) or "
        "SNNTORCH_BPSTA_DATA, or pass download=True (--download) to fetch it there"
    )


def contents(folder: Path, root: Path, most: int = 8) -> str:
    """What is in a folder, or in what there is of the way to it from `root`, in words."""
    while not folder.is_dir() and folder != root:
        folder = folder.parent
    try:
        names = sorted(f"{entry.name}/" if entry.is_dir() else _in_words(entry) for entry in os.scandir(folder))
    except OSError as error:
        return f"no folder {folder} that can be read ({error.strerror})"
    if not names:
        return f"nothing in {folder}"
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more} in {folder}"


def _in_words(entry):
    return entry.name if os.path.exists(entry.path) else f"{entry.name} (a link that leads nowhere)"


def damaged(path: Path, reason: object, url: str) -> ValueError:
    """The error for a file that is there and broken. Without a `url` it is the user's."""
    if not url:
        return ValueError(
            f"expected {path} to be a recording of this camera, got a damaged or foreign file ({reason}): take it out of "
            "the folder; or where an event is outside, give the sensor_size (--sensor-size) of the camera. (Four columns of "
            "an .npy without names are x, y, p, t.)"
        )
    return ValueError(
        f"expected {path} to be intact, got a damaged or foreign file ({reason}): delete it and get it again from {url}"
    )


@contextmanager
def decoding(path: Path, url: str) -> Iterator[None]:
    """Around a decoder of `path`: what it raises comes out as a ValueError that names the file."""
    try:
        yield
    except (ImportError, FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # MemoryError too: what a file claims to hold may be more than there is
        raise damaged(path, f"{type(error).__name__}: {error}", url) from error


def fetch(name: str, url: str, folder: Path, complete: Callable[[], bool], download: Callable[[], object]) -> None:
    """Let a library download the data set `name` into `folder`, unless it is complete there. Of several processes one does,
    and the others wait.

    Raises:
        ConnectionError: the download failed.
    """
    try:
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(folder))
            except OSError:
                if complete():  # in a folder that others have filled, and that cannot be written to
                    return
                raise
            if not complete():
                download()
    except (OSError, RuntimeError) as error:
        raise ConnectionError(
            f"the download of the data set {name!r} failed ({error}): get it from {url} by hand"
        ) from error
