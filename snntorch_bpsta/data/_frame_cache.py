"""The frames of recordings, computed once and kept in the cache folder."""

from __future__ import annotations

import hashlib
import io
import logging
from typing import TYPE_CHECKING

import numpy as np

from ._common import cache_dir, write_atomically
from .frames import events_to_frames

if TYPE_CHECKING:
    from .recordings import Recordings
    from .simulation import Filmed

_log = logging.getLogger(__name__)


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
