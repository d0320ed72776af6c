"""What every file of a data set passes before it is read: it is a regular file and not too large. And how it is found."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .._typing import AnyPath

LARGEST = 1 << 28  # bytes of a file that is read whole, unless its reader says less
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe (FIFO)"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class Version(NamedTuple):
    """What tells one content of a file from another without reading it."""

    size: int  # bytes
    modified: int  # ns
    changed: int  # ns; also moves where the time of modification was set back


class File(NamedTuple):
    """A file as it was found.

    Attributes:
        name: below the folder of the data set, as it stands there.
        path: the same with all links followed.
        version: size and times.
    """

    name: str
    path: str
    version: Version


def look(path: AnyPath, largest: int = LARGEST) -> Version:
    """The version of a regular file of at most `largest` bytes; links are followed.

    Raises:
        ValueError: it is something else (a pipe, on which reading would wait; a device, which does not end), too large, or a
            link that leads nowhere.
        OSError: it is not there, or cannot be reached.
    """
    return _pass(path, _stat(path, "a file"), largest)


def _stat(path, expected):
    """Of what a link leads to; an error says which link it is."""
    try:
        return os.stat(path)
    except OSError as error:
        if os.path.islink(path):
            raise ValueError(
                f"expected {path} to be {expected}, got a link to {os.readlink(path)} that leads nowhere ({error.strerror})"
            ) from error
        raise


def _pass(path, found, largest):
    for is_kind, kind in _KINDS:
        if is_kind(found.st_mode):
            link = f" (by a link to {os.path.realpath(path)})" if os.path.islink(path) else ""
            raise ValueError(f"expected {path} to be a file, got {kind}{link}: take it out of the data folder")
    if found.st_size > largest:
        raise ValueError(
            f"expected {path} to have at most {largest:,} bytes, got {found.st_size:,}: it is no file of this data set"
        )
    return Version(found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def read(path: AnyPath, largest: int = LARGEST) -> bytes:
    """The content of a file, if :func:`look` lets it pass.

    Raises:
        ValueError, OSError: as :func:`look`.
    """
    look(path, largest)
    # What lies there now may be another: without O_NONBLOCK, opening a pipe would wait for a writer.
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb") as file:
        _pass(path, os.fstat(file.fileno()), largest)
        data = file.read(largest + 1)
    if len(data) > largest:
        raise ValueError(f"expected {path} to have at most {largest:,} bytes, got more: it is no file of this data set")
    return data


def find_folder(folder: Path, *names: str) -> Path:
    """`folder` / `names`, where each is also known by another case and by other dashes (n-mnist for NMNIST); the exact name
    comes first. What is not there keeps its exact name."""
    for name in names:
        exact = folder / name
        if not exact.exists() and folder.is_dir():
            alike = [entry.name for entry in _entries(folder) if _plain(entry.name) == _plain(name) and entry.is_dir()]
            exact = folder / min(alike) if alike else exact
        folder = exact
    return folder


def data_folder(root: Path, name: str) -> Path:
    """The folder `name` in `root`, or `root` if that is it by its own name; see :func:`find_folder`."""
    folder = find_folder(root, name)
    return root if not folder.is_dir() and _plain(Path(os.path.abspath(root)).name) == _plain(name) else folder


def _plain(name: str) -> str:
    """A name without case, dashes and spaces."""
    return re.sub(r"[-_ ]", "", name).casefold()


def find_files(folder: Path, *patterns: str) -> Iterator[tuple[str, File]]:
    """(label, file) of the files ``folder/a/b/c``, where a, b and c match the `patterns` (without case); one of them has the
    group "label".

    Links to folders and to files are followed, wherever they lead. A loop of links ends: nothing is looked for deeper than
    there are patterns. Hidden files are left out, among them the ``._NAME`` of macOS. In no order.

    Raises:
        PermissionError, OSError: a folder cannot be read; it is named.
        ValueError: what has the name of a file is none (see :func:`look`), or a link leads nowhere.
    """
    yield from _find_files(folder, "", os.path.realpath(folder), "", patterns)


def folder_names(folder: Path) -> list[str]:
    """The names of the folders in a folder, sorted; hidden ones are left out, as by :func:`find_files`.

    Raises:
        PermissionError, OSError: the folder cannot be read; it is named.
    """
    return sorted(entry.name for entry in _entries(folder) if entry.is_dir() and not entry.name.startswith("."))


def _find_files(folder, inside, real, label, patterns):
    pattern, *deeper = patterns
    for entry in _entries(folder):
        name, path = entry.name, entry.path
        match = re.fullmatch(pattern, name, re.IGNORECASE)
        if match is None or name.startswith("."):
            continue
        below, own = inside + name, match.groupdict().get("label", label)
        found = os.path.realpath(path) if entry.is_symlink() else os.path.join(real, name)
        if not deeper:
            yield own, File(below, found, look(path))
        elif stat.S_ISDIR(_stat(path, "a folder").st_mode):
            yield from _find_files(path, f"{below}/", found, own, deeper)


def _entries(folder):
    try:
        with os.scandir(folder) as entries:
            return [*entries]
    except OSError as error:
        raise type(error)(
            f"cannot read the folder {folder} ({error}): make it readable (chmod u+rx), or take it out of the data folder"
        ) from error
