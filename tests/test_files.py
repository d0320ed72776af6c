"""Files that are there whole or not at all: kills inside the write, a full disk, other processes."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from contextlib import suppress

import pytest

from snntorch_bpsta._files import locked, sweep, write_whole


def child(code, *args):
    """Start a process that runs `code` and prints a line when it has come as far as it should."""
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), *map(str, args)], stdout=subprocess.PIPE)
    assert process.stdout.readline()
    return process


def kill(process):
    process.kill()
    process.wait()
    process.stdout.close()


WRITES = """
    import sys, time
    from pathlib import Path
    from snntorch_bpsta._files import write_whole
    def chunks():
        yield b"new"
        print("in the middle", flush=True)
        time.sleep(60)
    write_whole(Path(sys.argv[1]), chunks(), Path(sys.argv[2]))
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_write_that_is_killed_changes_nothing(tmp_path):
    path, previous = tmp_path / "deep" / "a[1].bin", tmp_path / "deep" / "a.previous"
    write_whole(path, [b"1"], previous)
    write_whole(path, [b"2", b"3"], previous)
    assert path.read_bytes() == b"23" and previous.read_bytes() == b"1"
    kill(child(WRITES, path, previous))
    assert path.read_bytes() == b"23" and previous.read_bytes() == b"1"
    assert len(names(path.parent)) == 3, "the process was killed too early or too late"
    with open(path, "rb") as before:
        write_whole(path, [b"4"])  # removes what is left
        assert before.read() == b"23", "who has it open, or mapped, keeps what was there"
    assert names(path.parent) == ["a.previous", "a[1].bin"] and path.read_bytes() == b"4"


def test_what_is_being_written_is_not_swept_away(tmp_path):
    path = tmp_path / "a"
    process = child(WRITES, path, tmp_path / "b")
    try:
        sweep(path)
        assert len(names(tmp_path)) == 1
    finally:
        kill(process)
    sweep(tmp_path / "other")
    assert len(names(tmp_path)) == 1
    sweep(path)
    assert names(tmp_path) == []


def test_a_write_that_fails_changes_nothing(tmp_path):
    path = tmp_path / "a"
    write_whole(path, [b"1"])

    def full():
        yield b"2"
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_whole(path, full(), tmp_path / "b")
    assert path.read_bytes() == b"1" and names(tmp_path) == ["a"]


def test_a_file_system_without_links(tmp_path, monkeypatch):
    def no_link(*args):
        raise OSError(95, "not supported")

    monkeypatch.setattr(os, "link", no_link)
    path, previous = tmp_path / "a", tmp_path / "b"
    for value in (b"1", b"2", b"3"):
        write_whole(path, [value], previous)
    assert path.read_bytes() == b"3" and previous.read_bytes() == b"2" and names(tmp_path) == ["a", "b"]


def test_a_lock_goes_with_its_process(tmp_path):
    path = tmp_path / "a"
    code = """
        import sys, time
        from pathlib import Path
        from snntorch_bpsta._files import locked
        with locked(Path(sys.argv[1])):
            print("locked", flush=True)
            time.sleep(60)
    """
    process = child(code, path)
    with locked(path, wait=False) as mine:
        assert not mine
    process.send_signal(signal.SIGKILL)
    with locked(path) as mine:
        assert mine
    with locked(path, wait=False) as mine:
        assert mine
    kill(process)


def test_a_lock_leaves_nothing_and_is_one_lock_even_so(tmp_path):
    """The file of a lock goes with it: who waits for one that is gone must not share the next one."""
    path, inside, most, turns = tmp_path / "new" / "a", [], [], []

    def take():
        for _ in range(200):
            with locked(path):
                inside.append(1)
                most.append(len(inside))
                turns.append(1)
                inside.pop()
            with suppress(OSError):
                path.parent.rmdir()

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) == {1} and len(turns) == 800 and names(tmp_path) == []


def test_a_lock_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for folder in ("file", "link/deep"):
        with pytest.raises(OSError, match=r"file|link"), locked(tmp_path / folder / "a"):
            pass
