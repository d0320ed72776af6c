"""What the loaders share: folders, errors, atomic writes, and the data set they return."""

from __future__ import annotations

import importlib
import os
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from .._checks import as_array, check_flags, check_number, check_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import ModuleType

    from numpy.typing import ArrayLike

    from .._typing import AnyPath


class Samples(torch.utils.data.Dataset):
    """Arrays as a data set of (float32 tensor, int label).

    Args:
        data: array [N, ...] of integers, in memory or memory-mapped.
        targets: integer labels [N].
        scale: every sample is divided by it (255 for bytes).

    Attributes:
        targets: LongTensor [N].
    """

    def __init__(self, data: np.ndarray, targets: ArrayLike, scale: float = 1) -> None:
        targets = as_array("targets", targets)
        if not isinstance(data, np.ndarray) or data.dtype.kind not in "iubf" or not data.ndim:
            raise TypeError(
                f"data must be an array [N, ...] of numbers, got {getattr(data, 'dtype', type(data).__name__)}"
            )
        if targets.shape != data.shape[:1] or (targets.dtype.kind not in "iu" and targets.size):
            raise ValueError(f"targets must be {len(data)} integers, got {targets.dtype} {targets.shape}")
        self.data = data
        self.targets = torch.as_tensor(targets, dtype=torch.long)
        self.scale = check_number("scale", scale, "a finite number > 0", above=0)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        sample = np.divide(np.asarray(self.data[index]), self.scale, dtype=np.float32)
        return torch.from_numpy(sample), int(self.targets[index])

    def take(self, index: ArrayLike) -> Samples:
        """These samples at the positions `index` only, in that order."""
        index = as_array("index", index)
        if index.ndim != 1 or (index.dtype.kind not in "iu" and index.size):
            raise TypeError(f"index must be an array of positions [N], got {index.dtype} {index.shape}")
        if index.size and not -len(self) <= int(index.min()) <= int(index.max()) < len(self):
            raise ValueError(f"index must hold positions below {len(self)}, got {index.min()} to {index.max()}")
        index = index.astype(np.int64)
        return Samples(self.data[index], self.targets[index], self.scale)

    def __getstate__(self):
        # A memory map pickles by value: send the workers of a DataLoader its path, not gigabytes.
        state = self.__dict__.copy()
        if isinstance(self.data, np.memmap):
            state["data"] = Path(self.data.filename)
        return state

    def __setstate__(self, state):
        self.__dict__.update(state)
        if isinstance(self.data, Path):
            self.data = np.load(self.data, mmap_mode="r", allow_pickle=False)


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
    """The folder for what is derived from the data (unpacked files, frames); safe to delete.

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


def write_atomically(path: Path, chunks: Iterable[bytes]) -> None:
    """Write an iterable of bytes to `path`, which appears complete or not at all."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(temporary, "wb")
    except OSError as error:
        raise type(error)(
            f"cannot write {path} ({error}): point SNNTORCH_BPSTA_CACHE to a folder that can be written"
        ) from error
    try:
        with file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def need(module: str) -> ModuleType:
    """Import an optional library, or say how to install it."""
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision, torch do not match
        raise ImportError(
            f"this data set needs {module.partition('.')[0]}, which cannot be imported ({error}): "
            "pip install snntorch-bpsta[data]"
        ) from error


def missing(name: str, expected: str, root: Path, url: str) -> FileNotFoundError:
    """The error for files that are not there."""
    return FileNotFoundError(
        f"expected {expected} in {root} for the data set {name!r}, got nothing by that name. "
        f"Get it from {url} and point to its folder with root=... (--data-root) or "
        "SNNTORCH_BPSTA_DATA, or pass download=True to fetch it there"
    )


def damaged(path: Path, reason: object, url: str) -> ValueError:
    """The error for a file that is there and broken."""
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


@contextmanager
def fetching(name: str, url: str) -> Iterator[None]:
    """Around a download by a library."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise ConnectionError(
            f"the download of the data set {name!r} failed ({error}): get it from {url} by hand"
        ) from error
