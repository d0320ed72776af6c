"""The frames of recordings, computed once and kept in the cache folder."""

from __future__ import annotations

import errno
import hashlib
import io
import logging
import os
import sys
import warnings
import zlib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .._files import locked, sweep, write_whole
from .._progress import follow
from ._common import cache_dir
from ._gate import look
from .frames import events_to_frames

if TYPE_CHECKING:
    from .recordings import Recordings
    from .simulation import Filmed

_log = logging.getLogger(__name__)

_VERSION = 2  # goes up when the same events give other frames, or the file another form
_END = b"\nframes %d, crc32 %08x\n"  # behind the array, of all bytes before it
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}


class Cut(NamedTuple):
    """How recordings become frames; see :func:`~snntorch_bpsta.data.events_to_frames`."""

    num_steps: int | None
    size: tuple[int, int]
    time_window: int | None = None
    polarities: int = 2

    def __str__(self) -> str:
        frames = f"T{self.num_steps}" if self.num_steps else f"W{self.time_window}"
        return f"{frames}-{self.size[0]}x{self.size[1]}" + ("" if self.polarities == 2 else f"x{self.polarities}")


def cached_frames(recordings: Recordings | Filmed, cut: Cut) -> tuple[np.ndarray, np.ndarray | None]:
    """The frames of all `recordings`, computed once, then memory-mapped from the cache folder.

    One file for one combination of data set, cut and recordings, which are known by the path, size and
    times of each file. It appears whole or not at all, with a checksum at its end; one that is broken all the same is
    written anew, with a warning. Of several processes that want the same frames one computes them and the others wait.

    Args:
        recordings: :class:`Recordings`, or :class:`~snntorch_bpsta.data.simulation.Filmed` ones.
        cut: how they become frames.

    Returns:
        (frames, lengths): a read-only int16 memory map [N, T, polarities, H, W] of counts, and None; or, cut by a
        `time_window`, one of [sum of lengths, polarities, H, W], and how many frames each recording has, int64 [N].

    Raises:
        ValueError: a recording is damaged, or its counts do not fit.
        OSError: the cache cannot be written.
    """
    count = len(recordings)
    identity = hashlib.sha256(repr((_VERSION, recordings.identity())).encode())
    file = f"{recordings.name}-{cut}-{count}-{identity.hexdigest()[:16]}.npy"
    path = cache_dir() / "frames" / file
    found = _open_frames(path, count, cut)
    if found is not None:
        return found
    try:
        with locked(cache_dir() / "locks" / file):
            found = _open_frames(path, count, cut)  # another process may have written them meanwhile
            if found is None:
                if os.path.lexists(path):
                    warnings.warn(f"the frames in {path} are damaged: they are computed anew", stacklevel=3)
                _log.info("writing the frames of %d recordings to %s", count, path)
                _sweep(path.parent)
                write_whole(path, _frame_bytes(recordings, cut))
                found = _open_frames(path, count, cut)
    except OSError as error:
        if error.errno in _FULL or _is_of_the_cache(error.filename):
            raise type(error)(
                f"cannot write {path} ({error}): point SNNTORCH_BPSTA_CACHE to a folder that can be written"
            ) from error
        raise
    if found is None:
        raise OSError(f"expected {path} to hold what was written to it, got something else: look at the disk")
    return found


def _is_of_the_cache(name):
    """Whether an error about the file `name` came from writing; recordings may lie in the cache folder too."""
    folders = {cache_dir() / "frames", cache_dir() / "locks"}
    path = Path(name or "/none")
    return path.parent in folders or any(path in (folder, *folder.parents) for folder in folders)


def _sweep(folder):
    """Remove what killed processes have left of any frames: what was to come may never be asked for again."""
    for part in folder.glob(".*.npy.*.tmp"):
        sweep(part.with_name(part.name[1 : part.name.index(".npy.") + 4]))


def _frame_bytes(recordings, cut):
    """The array, behind it the lengths where recordings have different ones, and the checksum."""
    lengths = None
    if cut.num_steps is None:  # the head of the file says how many frames there are: they are counted first
        lengths = np.array([len(frames) for frames in _frames(recordings, cut, "how many frames")], "<i8")
    shape = (len(recordings), cut.num_steps) if lengths is None else (int(lengths.sum()),)
    head = io.BytesIO()
    shape += (cut.polarities, *cut.size)
    np.lib.format.write_array_header_1_0(head, {"descr": "<i2", "fortran_order": False, "shape": shape})
    checksum = zlib.crc32(head.getvalue())
    yield head.getvalue()
    for frames in _frames(recordings, cut, f"{cut.num_steps} frames each" if lengths is None else "frames"):
        chunk = frames.astype("<i2", copy=False).tobytes()
        checksum = zlib.crc32(chunk, checksum)
        yield chunk
    tail = b"" if lengths is None else lengths.tobytes()
    yield tail
    yield _END % (_VERSION, zlib.crc32(tail, checksum))


def _frames(recordings, cut, what):
    """The frames of one recording after the other, with a bar."""
    followed = follow(recordings, len(recordings), f"{recordings.name}, {what}", "recordings")
    for name, events in zip(recordings.names(), followed, strict=True):
        try:
            yield events_to_frames(
                events,
                cut.num_steps,
                recordings.sensor_size,
                cut.size,
                time_window=cut.time_window,
                polarities=cut.polarities,
            )
        except ValueError as error:
            again = f". If the file is damaged, get it again from {recordings.url}" if recordings.url else ""
            raise ValueError(f"{name} gives no frames: {error}{again}") from error


def _open_frames(path, count, cut):
    """The frames of so many recordings in the file, and their lengths; None if it is not there, or not what was written."""
    with suppress(OSError, ValueError, EOFError):
        size, lengths = look(path, sys.maxsize).size, None
        if _is_whole(path, size):
            frames = np.load(path, mmap_mode="r", allow_pickle=False)
            if cut.num_steps is None:
                begin = size - len(_END % (_VERSION, 0)) - 8 * count
                lengths = np.fromfile(path, "<i8", count, offset=begin).astype(np.int64)
            shape = (count, cut.num_steps) if lengths is None else (int(lengths.sum()),)
            if (
                isinstance(frames, np.memmap)
                and frames.shape == (*shape, cut.polarities, *cut.size)
                and frames.dtype == "<i2"
            ):
                return frames, lengths
    return None


def _is_whole(path, length):
    """Whether the checksum at the end is that of what stands before it."""
    left, checksum = length - len(_END % (_VERSION, 0)), 0
    with open(path, "rb") as file:
        while left > 0 and (chunk := file.read(min(left, 1 << 22))):
            checksum, left = zlib.crc32(chunk, checksum), left - len(chunk)
        return left == 0 and file.read() == _END % (_VERSION, checksum)
