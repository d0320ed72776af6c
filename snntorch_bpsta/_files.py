"""Files that are there whole or not at all, and that one process writes at a time."""

from __future__ import annotations

import os
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

try:
    import fcntl
except ImportError:  # not on Windows: no locks there
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def write_whole(path: Path, chunks: Iterable[bytes | memoryview], previous: Path | None = None) -> None:
    """Write `chunks` to `path`, which appears whole or not at all, whatever happens in between.

    They are written beside `path`, so that nothing is moved between file systems, brought to the disk, and then renamed. A
    process that has `path` open or mapped keeps what was there. What killed processes have left beside it is removed first.

    Args:
        path: the file; its folder is made.
        chunks: its content.
        previous: keep what was in `path` under this name, in the same folder.

    Raises:
        OSError: it cannot be written. `path` and `previous` are as they were.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(part, "wb") as file:
            _try_lock(file)  # as long as it is written: `sweep` leaves it alone
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
            if previous is not None and path.exists():
                _keep(path, previous)
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    _sync_folder(path.parent)


def check_writable(name: str, path: Path) -> None:
    """Refuse a place, which `name` is to name, where a file `path` could not be written. Its folder is made."""
    probe = path.with_name(f".{path.name}.{uuid.uuid4().hex}.probe")
    try:
        write_whole(probe, [b"is there room?"])
    except OSError as error:
        raise type(error)(
            f"{name}: {path} cannot be written ({error.strerror or error}): choose another place"
        ) from error
    finally:
        with suppress(OSError):
            probe.unlink()


def sweep(path: Path) -> None:
    """Remove what killed processes have left of `path`. What a living one writes is locked."""
    # Not a glob of its name, which may hold brackets.
    for part in [*path.parent.iterdir()] if path.parent.is_dir() else []:
        if part.name.startswith(f".{path.name}.") and part.name.endswith(".tmp") and not part.is_symlink():
            with suppress(OSError), open(part, "rb") as file:
                if _try_lock(file):
                    part.unlink(missing_ok=True)


def _keep(path, previous):
    """`path` under the name `previous` as well: at every moment one of the two is there."""
    name = previous.with_name(f".{previous.name}.{uuid.uuid4().hex}.tmp")
    try:
        os.link(path, name)
        os.replace(name, previous)
    except OSError:  # a file system without links
        os.replace(path, previous)


def _sync_folder(folder):
    """The new name is on the disk as well."""
    with suppress(OSError):  # not every system lets a folder be opened
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def _try_lock(file):
    """Whether this process has the lock of an open file now. It goes with the process, however that ends."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """Inside, no other process has the lock of `path`, which need not exist: a file ``.NAME.lock`` beside it stands for it.

    The lock is the system's (flock), and goes with the process that holds it, however that ends. The file goes with the
    lock, unless the process is killed.

    Args:
        path: what is locked; its folder is made.
        wait: until another process lets go of it. If not, the value tells whether this one has it.

    Yields:
        Whether it is locked; always with `wait`, and on systems that have no locks.
    """
    if fcntl is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield True
        return
    name = path.with_name(f".{path.name}.lock")
    file = _open_locked(name, wait)
    try:
        yield file is not None
    finally:
        if file is not None:
            name.unlink(missing_ok=True)
            file.close()


def _open_locked(name, wait):
    """The file of a lock, locked, or None. Who has the lock removes the file: it may go before we lock what we opened."""
    missed = 0
    while True:
        try:
            name.parent.mkdir(parents=True, exist_ok=True)
            file = open(name, "ab")
        except (FileNotFoundError, FileExistsError):
            missed += 1  # the folder has gone as well; or it cannot be made
            if missed == 100:
                raise
            continue
        try:
            if wait:
                fcntl.flock(file, fcntl.LOCK_EX)
            elif not _try_lock(file):
                file.close()
                return None
            if os.path.samestat(os.fstat(file.fileno()), os.stat(name)):
                return file
        except FileNotFoundError:
            pass
        except BaseException:
            file.close()
            raise
        file.close()
