"""Recordings of event cameras where they lie, and the readers of their formats."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .._checks import as_events, check_path
from ._common import decoding, need
from ._gate import LARGEST, File, look, read
from .frames import check_inside

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .._typing import AnyPath, Events

__all__ = ["read_aedat2"]

_VERSION = 2  # goes up when a reader gives other events for the same file: frames in the cache are then built anew
_CHEAP = (
    1 << 26
)  # bytes of recordings whose content is compared as well before frames in the cache are taken for theirs
_LAST = 1 << 62  # us; beyond, it is no time
_MOST_OVERFLOWS = 10_000
_MOST_EVENTS = 1 << 27  # of a recording in a file that may be packed: a small one may claim to hold any number


@dataclass(frozen=True, eq=False)
class Recordings:
    """The recordings of one split where they lie, not read yet, sorted by name.

    Iterating reads them one by one; each is the arrays x, y, p and t by these names. Events outside the sensor, of another
    polarity than 0 or 1, or of a time below 0 are refused, by the name of the file.

    Attributes:
        name: the data set.
        source: the folder that holds them.
        files: what was found, a :class:`~snntorch_bpsta.data._gate.File` each.
        targets: integer labels [N].
        sensor_size: (H, W) in pixels.
        url: where to get them; "" for those of the user's.
    """

    name: str
    source: Path
    files: tuple[File, ...]
    targets: np.ndarray
    sensor_size: tuple[int, int]
    url: str

    def __len__(self) -> int:
        return len(self.files)

    def take(self, index: np.ndarray) -> Recordings:
        """These recordings at the positions `index` only, in that order."""
        return replace(self, files=tuple(self.files[i] for i in index), targets=self.targets[index])

    def identity(self) -> str:
        """What the events depend on, as text: the readers, and of every file the path with links followed, size and times;
        of small sets the content too, which a file system of coarse times may let change unseen."""
        content = None
        if sum(file.version.size for file in self.files) <= _CHEAP:
            hashed = hashlib.blake2b()
            for file in self.files:
                hashed.update(read(file.path))
            content = hashed.hexdigest()
        return repr((_VERSION, self.sensor_size, [(file.path, *file.version) for file in self.files], content))

    def names(self) -> list[str]:
        """What to call each recording in a message."""
        return [str(self.source / file.name) for file in self.files]

    def __iter__(self) -> Iterator[Events]:
        for file in self.files:
            path = self.source / file.name
            reader, largest = _READERS[path.suffix.lower()]
            before = look(path, largest)
            with decoding(path, self.url):
                events = reader(path)
                if not len(events["t"]):
                    raise ValueError("it has no events")
                check_inside(events["x"], events["y"], events["p"], *self.sensor_size)
                if not 0 <= events["t"].min() <= events["t"].max() < _LAST:
                    raise ValueError(f"expected times from 0 us on, got {events['t'].min()}..{events['t'].max()} in t")
            if not before == look(path, largest) == file.version:
                raise ValueError(f"expected {path} to stay as it was found, got a file that has changed: load it again")
            yield events


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
        ValueError: it is no AEDAT 2.0, it is truncated or of another sensor; or at that path is no regular file, or one of
            more than 64 MiB.
    """
    name = "the data" if isinstance(source, bytes) else source
    if isinstance(source, bytes):
        raw = source
    else:
        check_path("source", source)
        try:
            raw = read(Path(source), _READERS[".aedat"][1])
        except ValueError as error:
            raise ValueError(f"source: {error}") from error
    if not raw.startswith(b"#!AER-DAT2"):
        raise ValueError(f"source: expected {name} to begin with '#!AER-DAT2.0', got {raw[:12]!r}")
    start = 0
    while raw[start : start + 1] == b"#":
        start = raw.find(b"\n", start) + 1 or len(raw)
    if (len(raw) - start) % 8:
        raise ValueError(f"source: expected {name} to hold events of 8 bytes, got {len(raw) - start} bytes: truncated")
    address, time = np.frombuffer(raw, ">u4", offset=start).reshape(-1, 2).T
    if (
        len(address) and address.max() >= 1 << 16
    ):  # those of a DVS128 have 15 bits, and one for what is no event of a pixel
        raise ValueError(f"source: expected {name} to be of a 128 x 128 DVS, got an address of {int(address.max()):#x}")
    events = np.empty(len(time), [("x", np.int16), ("y", np.int16), ("t", np.int64), ("p", bool)])
    events["x"] = 127 - (address >> 8 & 127).astype(np.int16)
    events["y"] = 127 - (address >> 1 & 127).astype(np.int16)
    events["t"] = time
    events["p"] = address & 1 == 0
    return events


def _read_bin(path):
    """Five bytes an event: x, y, then one bit of polarity and 23 bits of time in us."""
    raw = read(path)
    if len(raw) % 5:
        raise ValueError(f"expected records of 5 bytes, got {len(raw)} bytes")
    overflows = raw[1::5].count(240)  # of the clock, by 8 ms; tonic goes through all later events for each
    if overflows > _MOST_OVERFLOWS:
        raise ValueError(
            f"expected a recording of less than {_MOST_OVERFLOWS * 2**13 / 1e6:.0f} s, got {overflows} overflows"
        )
    tonic_io = need("tonic.io")
    return tonic_io.read_mnist_file(io.BytesIO(raw), dtype=tonic_io.events_struct, is_stream=True)


def _by_name(arrays):
    """x, y, p and t of a structured array, or of a dict that may hold others."""
    return dict(zip("xypt", as_events(arrays), strict=True))


def _read_npy(path):
    """A structured array with the fields x, y, p and t, as tonic gives it; or tonic's DVS-Gesture: columns x, y, p, t, the
    time in ms."""
    # As a memory map, which is held against the size of the file before memory is taken.
    columns = np.load(path, mmap_mode="r", allow_pickle=False)
    if columns.dtype.names:
        return _by_name(np.array(columns))
    if columns.ndim != 2 or columns.shape[1] != 4 or columns.dtype.kind not in "iufb":
        raise ValueError(f"expected four columns x, y, p, t of numbers, got {columns.dtype} {columns.shape}")
    if columns.dtype.kind == "f" and not np.all((columns == np.floor(columns)) & (np.abs(columns) < 1 << 53)):
        raise ValueError("expected whole numbers, got others")
    columns = columns.astype(np.int64)
    return {"x": columns[:, 0], "y": columns[:, 1], "p": columns[:, 2], "t": columns[:, 3]}


def _read_npz(path):
    """Arrays x, y, p and t, as SpikingJelly keeps them."""
    file = np.load(io.BytesIO(read(path)), allow_pickle=False)
    if not isinstance(file, np.lib.npyio.NpzFile):
        raise ValueError(f"expected arrays x, y, p and t by their names, got one {file.dtype} {file.shape}")
    with file:
        sizes = {entry.filename: entry.file_size for entry in file.zip.infolist()}
        if sum(sizes.values()) > 4 * 8 * _MOST_EVENTS:
            raise ValueError(f"expected at most {_MOST_EVENTS:,} events, got {sum(sizes.values()):,} bytes, unpacked")
        return _by_name({name: file[name] for name in file.files if name in tuple("xypt")})


def _read_h5(path):
    """Data sets x, y, p and t, at the top or in the group "events"; or a data set "events" that has these fields."""
    h5py = need("h5py")
    with h5py.File(io.BytesIO(read(path)), "r") as file:
        place = file if "x" in file else _inside(h5py, file, "events")
        if isinstance(place, h5py.Dataset):
            return _by_name(_values(place))
        return _by_name({name: _values(_inside(h5py, place, name)) for name in "xypt"})


def _inside(h5py, group, name):
    """What a group holds in its own file: a link may lead into any other."""
    if not isinstance(group, h5py.Group) or not isinstance(group.get(name, getlink=True), h5py.HardLink):
        there = ", ".join(group) if isinstance(group, h5py.Group) else "a data set"
        raise ValueError(
            f"expected data sets x, y, p and t, or events/x, events/y, ..., got {there or 'nothing'} in {group.name}"
        )
    return group[name]


def _values(dataset):
    shape = getattr(dataset, "shape", None)
    if shape is None or len(shape) != 1 or shape[0] > _MOST_EVENTS:
        raise ValueError(f"expected at most {_MOST_EVENTS:,} events [N] in {dataset.name}, got {shape or 'no array'}")
    if dataset.is_virtual or dataset.external:
        raise ValueError(f"expected the events of {dataset.name} in this file, got a reference to others")
    return dataset[:]


def _read_aedat4(path):
    need("aedat")
    try:
        events = need("tonic.io").read_aedat4(str(path))
    except BaseException as error:
        if type(error).__name__ == "PanicException":  # how the decoder fails on garbage
            raise ValueError(str(error)) from error
        raise
    return {"t": events["t"], "x": events["x"], "y": events["y"], "p": events["on"]}


# Reader, and the size in bytes beyond which a file is no recording; the longest of the data sets are of a few MB.
_READERS = {
    ".bin": (_read_bin, 1 << 24),
    ".npy": (_read_npy, LARGEST),
    ".npz": (_read_npz, LARGEST),
    ".h5": (_read_h5, LARGEST),
    ".hdf5": (_read_h5, LARGEST),
    ".aedat4": (_read_aedat4, 1 << 26),
    ".aedat": (read_aedat2, 1 << 26),
}
FORMATS = tuple(_READERS)
