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
from typing import TYPE_CHECKING

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


def cached_frames(recordings: Recordings | Filmed, num_steps: int, size: tuple[int, int]) -> np.ndarray:
    """The frames of all `recordings`, computed once, then memory-mapped from the cache folder.

    One file for one combination of data set, number of frames, size and recordings, which are known by the path, size and
    times of each file. It appears whole or not at all, with a checksum at its end; one that is broken all the same is
    written anew, with a warning. Of several processes that want the same frames one computes them and the others wait.

    Args:
        recordings: :class:`Recordings`, or :class:`~snntorch_bpsta.data.simulation.Filmed` ones.
        num_steps: number of frames T of each.
        size: (H, W) of the frames.

    Returns:
        Read-only int16 memory map [N, T, 2, H, W] of counts, see
        :func:`~snntorch_bpsta.data.events_to_frames`.

    Raises:
        ValueError: a recording is damaged, or its counts do not fit.
        OSError: the cache cannot be written.
    """
    shape = (len(recordings), num_steps, 2, *size)
    identity = hashlib.sha256(repr((_VERSION, recordings.identity())).encode())
    file = f"{recordings.name}-T{num_steps}-{size[0]}x{size[1]}-{len(recordings)}-{identity.hexdigest()[:16]}.npy"
    path = cache_dir() / "frames" / file
    frames = _open_frames(path, shape)
    if frames is not None:
        return frames
    try:
        with locked(cache_dir() / "locks" / file):
            frames = _open_frames(path, shape)  # another process may have written them meanwhile
            if frames is None:
                if os.path.lexists(path):
                    warnings.warn(f"the frames in {path} are damaged: they are computed anew", stacklevel=3)
                _log.info("writing the frames of %d recordings to %s", len(recordings), path)
                _sweep(path.parent)
                write_whole(path, _frame_bytes(recordings, num_steps, size, shape))
                frames = _open_frames(path, shape)
    except OSError as error:
        if error.errno in _FULL or _is_of_the_cache(error.filename):
            raise type(error)(
                f"cannot write {path} ({error}): point SNNTORCH_BPSTA_CACHE to a folder that can be written"
            ) from error
        raise
    if frames is None:
        raise OSError(f"expected {path} to hold what was written to it, got something else: look at the disk")
    return frames


def _is_of_the_cache(name):
    """Whether an error about the file `name` came from writing; recordings may lie in the cache folder too."""
    folders = {cache_dir() / "frames", cache_dir() / "locks"}
    path = Path(name or "/none")
    return path.parent in folders or any(path in (folder, *folder.parents) for folder in folders)


def _sweep(folder):
    """Remove what killed processes have left of any frames: what was to come may never be asked for again."""
    for part in folder.glob(".*.npy.*.tmp"):
        sweep(part.with_name(part.name[1 : part.name.index(".npy.") + 4]))


def _frame_bytes(recordings, num_steps, size, shape):
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<i2", "fortran_order": False, "shape": shape})
    checksum = zlib.crc32(head.getvalue())
    yield head.getvalue()
    followed = follow(recordings, len(recordings), f"{recordings.name}, {num_steps} frames each", "recordings")
    for name, events in zip(recordings.names(), followed, strict=True):
        try:
            frames = events_to_frames(events, num_steps, recordings.sensor_size, size)
        except ValueError as error:
            again = f". If the file is damaged, get it again from {recordings.url}" if recordings.url else ""
            raise ValueError(f"{name} gives no frames: {error}{again}") from error
        chunk = frames.astype("<i2", copy=False).tobytes()
        checksum = zlib.crc32(chunk, checksum)
        yield chunk
    yield _END % (_VERSION, checksum)


def _open_frames(path, shape):
    """The frames in the file, or None if it is not there, or not what was written."""
    with suppress(OSError, ValueError, EOFError):
        if _is_whole(path, look(path, sys.maxsize).size):
            frames = np.load(path, mmap_mode="r", allow_pickle=False)
            if isinstance(frames, np.memmap) and frames.shape == shape and frames.dtype == "<i2":
                return frames
    return None


def _is_whole(path, length):
    """Whether the checksum at the end is that of what stands before it."""
    left, checksum = length - len(_END % (_VERSION, 0)), 0
    with open(path, "rb") as file:
        while left > 0 and (chunk := file.read(min(left, 1 << 22))):
            checksum, left = zlib.crc32(chunk, checksum), left - len(chunk)
        return left == 0 and file.read() == _END % (_VERSION, checksum)
