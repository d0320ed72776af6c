"""Recordings of event cameras where they lie, and the readers of their formats."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .._checks import check_path
from ._common import damaged, decoding, need

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .._typing import AnyPath, Events

__all__ = ["read_aedat2"]

_LARGEST = 1 << 28  # bytes of one recording out of a zip; the longest are of a few MB
_MOST_OVERFLOWS = 10_000


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
        archive = open_zip(self.source, self.url) if self.source.is_file() else None
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


def open_zip(path: Path, url: str) -> zipfile.ZipFile:
    """The archive, or an error that names it."""
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise damaged(path, error, url) from error


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
