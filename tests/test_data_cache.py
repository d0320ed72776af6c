"""The cache of frames and pickled samples: what was asked for, or an error, never what lay there before."""

import os
import pickle
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import torch
from _recordings import as_bin, as_npy, random_events, write

from snntorch_bpsta.data import Samples, _frame_cache, _gate, load, recordings

pytestmark = [
    pytest.mark.usefixtures("cache"),
    pytest.mark.filterwarnings("ignore:.* recordings in .*; accuracies on a part"),
]
CLIP = "DVSGesture/ibmGestureTrain/user01_led/3.npy"


def frames(root):
    return load("dvs_gesture", root=root, num_steps=2, size=128)[0][0]


def clip(root, seed=0, count=60, **changed):
    events = random_events(count, 128, seed)
    for field, value in changed.items():
        events[field][7] = value
    return write(root, {CLIP: as_npy(events)})


# --- which frames -----------------------------------------------------------------------------------


def same_times(path, change):
    before = path.stat()
    change()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("cheap", [True, False], ids=["content", "times"])
@pytest.mark.parametrize("keeps_time", [True, False])
def test_other_events_of_the_same_number_give_other_frames(cheap, keeps_time, tmp_path, monkeypatch):
    monkeypatch.setattr(recordings, "_CHEAP", 1 << 26 if cheap else 0)
    root = clip(tmp_path / "root")
    before = frames(root)
    time.sleep(0.02)  # the clock of the file system
    same_times(root / CLIP, lambda: clip(root, seed=1)) if keeps_time else clip(root, seed=1)
    after = frames(root)
    assert before.sum() == after.sum() == 60 and not torch.equal(before, after)


def test_of_small_sets_the_content_counts_where_times_tell_nothing(tmp_path, monkeypatch):
    """A disk whose clock counts in seconds, and a file that is edited within one."""
    found = _gate._pass
    monkeypatch.setattr(_gate, "_pass", lambda *args: _gate.Version(found(*args).size, 0, 0))
    root = clip(tmp_path / "root")
    before = frames(root)
    assert not torch.equal(before, frames(clip(root, seed=1)))


def test_another_folder_with_the_same_names_and_sizes_gives_its_own_frames(tmp_path):
    first, second = clip(tmp_path / "a"), clip(tmp_path / "b", seed=1)
    for path in (first / CLIP, second / CLIP):
        os.utime(path, ns=(10**18, 10**18))
    assert not torch.equal(frames(first), frames(second))
    link = tmp_path / "link"
    link.symlink_to(first)
    expected = frames(link)
    link.unlink()
    link.symlink_to(second)
    assert not torch.equal(frames(link), expected), "the link leads to other data now"


def test_another_version_of_the_readers_gives_other_frames(tmp_path, cache, monkeypatch):
    root = clip(tmp_path / "root")
    for module in (recordings, _frame_cache):
        frames(root)
        monkeypatch.setattr(module, "_VERSION", 99)
    frames(root)
    assert len(list((cache / "frames").iterdir())) == 3


ODD = {
    "x": ({"x": 299}, r"expected x in 0\.\.127 .* got \d+\.\.299"),
    "negative": ({"y": -1}, r"expected y in 0\.\.127"),
    "time": ({"t": -5000}, r"expected times from 0 us on, got -5"),
}


@pytest.mark.parametrize("name", ODD)
def test_events_out_of_range_are_an_error_on_every_path(name, tmp_path):
    """Also where another folder of the same names and sizes has filled the cache."""
    changed, message = ODD[name]
    frames(clip(tmp_path / "good"))
    with pytest.raises(ValueError, match=rf"{CLIP} to be intact.*({message})"):
        frames(clip(tmp_path / "bad", **changed))
    with pytest.raises(ValueError, match=f"{CLIP} to be intact"):
        frames(clip(tmp_path / "good", **changed))


@pytest.mark.parametrize("column", range(3))
@pytest.mark.parametrize("value", [0.5, np.nan, np.inf, 299, -1])
def test_columns_that_hold_no_such_events_are_an_error(column, value, tmp_path):
    columns = np.ones((9, 4))
    root = write(tmp_path, {CLIP: b""})
    np.save(root / CLIP, columns)
    assert frames(root).sum() == 9
    columns[4, column] = value
    np.save(root / CLIP, columns)
    with pytest.raises(ValueError, match=f"{CLIP} to be intact"):
        frames(root)


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path, cache, monkeypatch):
    root, (reader, largest) = clip(tmp_path / "root"), recordings._READERS[".npy"]

    def changing(path):
        events = reader(path)
        os.utime(path, ns=(1, 1))
        return events

    monkeypatch.setitem(recordings._READERS, ".npy", (changing, largest))
    with pytest.raises(ValueError, match=f"{CLIP} to stay as it was found"):
        frames(root)
    assert list((cache / "frames").iterdir()) == []


# --- what lies in the cache -------------------------------------------------------------------------


def flip(file):
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 0x40
    file.write_bytes(raw)


DAMAGES = {
    "flipped": flip,
    "no-end": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "half": lambda file: file.write_bytes(file.read_bytes()[:500]),
    "empty": lambda file: file.write_bytes(b""),
    "longer": lambda file: file.write_bytes(file.read_bytes() + b"x"),
    "another-array": lambda file: np.save(file, np.zeros((1, 2, 2, 128, 128), np.int16)),
    "objects": lambda file: np.save(file, np.array([{}], dtype=object), allow_pickle=True),
    "pipe": lambda file: (file.unlink(), os.mkfifo(file)),
    "link": lambda file: (file.unlink(), file.symlink_to("/dev/zero")),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_is_computed_anew_with_a_warning(name, tmp_path, cache):
    root = clip(tmp_path / "root")
    expected = frames(root)
    (file,) = (cache / "frames").iterdir()
    DAMAGES[name](file)
    with pytest.warns(UserWarning, match="are damaged: they are computed anew") as caught:
        assert torch.equal(frames(root), expected)
    assert [each.filename for each in caught if "anew" in str(each.message)] == [__file__]
    assert torch.equal(frames(root), expected) and file.is_file() and not file.is_symlink()


def test_what_killed_processes_left_is_swept(tmp_path, cache):
    frames(clip(tmp_path / "root"))
    (file,) = (cache / "frames").iterdir()
    left = [cache / "frames" / f".{name}.0123456789abcdef.tmp" for name in (file.name, "other-T1-2x2-3-abc.npy")]
    for path in left:
        path.write_bytes(b"half")
    frames(clip(tmp_path / "root", seed=1))
    assert not any(path.exists() for path in left) and file.exists()


def test_the_cache_is_read_where_it_cannot_be_written(tmp_path, cache, monkeypatch):
    root = clip(tmp_path / "root")
    expected = frames(root)

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied", str(cache / "locks"))

    monkeypatch.setattr(_frame_cache, "locked", refuse)
    assert torch.equal(frames(root), expected)
    clip(tmp_path / "root", seed=1)
    with pytest.raises(PermissionError, match="point SNNTORCH_BPSTA_CACHE to a folder that can be written"):
        frames(root)


def test_a_full_disk_says_so_and_an_unreadable_recording_is_not_the_cache(tmp_path, monkeypatch):
    root = clip(tmp_path / "root")

    def full(path, chunks):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(_frame_cache, "write_whole", full)
        with pytest.raises(OSError, match="No space left.*SNNTORCH_BPSTA_CACHE"):
            frames(root)

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setitem(recordings._READERS, ".npy", (refuse, 1 << 20))
    with pytest.raises(PermissionError) as caught:
        frames(root)
    assert "SNNTORCH_BPSTA_CACHE" not in str(caught.value) and CLIP in str(caught.value)


BUILDS = """
    import sys, time
    from pathlib import Path
    from snntorch_bpsta.data import _frame_cache, load
    from snntorch_bpsta.data.recordings import Recordings

    built = Path(sys.argv[2])
    whole = Recordings.__iter__
    def slowly(self):
        with open(built, "a") as file:
            file.write("once\\n")
        time.sleep(0.5)
        yield from whole(self)
    Recordings.__iter__ = slowly
    print("ready", flush=True)
    sys.stdin.readline()
    print(float(load("nmnist", root=sys.argv[1], num_steps=2)[0][0].sum()))
"""


def test_of_two_processes_one_builds_and_one_waits(tmp_path):
    pytest.importorskip("tonic", reason="tonic (extra: data) is missing")
    root = write(tmp_path / "root", {"NMNIST/Train/3/00001.bin": as_bin(random_events(70, 34, 0))})
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(BUILDS), str(root), str(tmp_path / "built")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.communicate(timeout=60)[0] for process in processes] == ["70.0\n", "70.0\n"]
    assert (tmp_path / "built").read_text() == "once\n"


# --- samples that are pickled -----------------------------------------------------------------------


@pytest.fixture
def mapped(tmp_path):
    """Numbers in a file, which is larger than a page of memory."""
    np.save(tmp_path / "numbers.npy", np.arange(3 * 40_000, dtype=np.int16).reshape(-1, 3))
    return tmp_path / "numbers.npy", np.load(tmp_path / "numbers.npy", mmap_mode="r")


SLICES = {
    "whole": np.s_[:],
    "from-the-middle": np.s_[12_345:],
    "to-the-middle": np.s_[:7],
    "slice-of-a-slice": (np.s_[100:30_000], np.s_[5_000:5_003]),
    "strided": np.s_[3:99:7],
    "backwards": np.s_[::-1],
    "columns": np.s_[10:20, 1:],
    "column": np.s_[:, 2],
    "picked": [5, 1, 39_999],
    "none": np.s_[4:4],
}


@pytest.mark.parametrize("name", SLICES)
def test_a_pickled_slice_is_that_slice(name, mapped):
    _, data = mapped
    for index in SLICES[name] if isinstance(SLICES[name], tuple) and name == "slice-of-a-slice" else (SLICES[name],):
        data = data[index]
    samples = Samples(data, np.zeros(len(data), int))
    packed = pickle.dumps(samples)
    again = pickle.loads(packed)
    np.testing.assert_array_equal(again.data, data)
    assert again.data.dtype == data.dtype and len(again) == len(samples)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(again)).data, data)
    if name in ("whole", "from-the-middle"):
        assert len(packed) < samples.targets.nbytes + 5_000, "where it lies, not the numbers"


def test_other_views_are_pickled_as_they_are(mapped):
    _, data = mapped
    for view in (data.view(np.uint16)[5:9], data[5:9].T, data[5:9].reshape(2, 6), data[3:].view(np.ndarray)):
        again = pickle.loads(pickle.dumps(Samples(view, np.zeros(len(view), int))))
        np.testing.assert_array_equal(again.data, view)
        assert again.data.dtype == view.dtype


def test_what_is_changed_in_memory_is_pickled_as_changed(mapped):
    path, _ = mapped
    data = np.load(path, mmap_mode="c")
    data[0] = 77
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(Samples(data, np.zeros(len(data), int)))).data, data)


def test_a_pickle_whose_file_has_changed_since_is_refused(mapped):
    path, data = mapped
    packed = pickle.dumps(Samples(data[5:9], np.zeros(4, int)))
    np.save(path, np.zeros((40_000, 3), np.int16))
    with pytest.raises(ValueError, match=rf"expected {path} to be as it was .* changed: load them again"):
        pickle.loads(packed)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=str(path)):
        pickle.loads(packed)


def test_samples_whose_file_was_replaced_are_pickled_with_their_numbers(mapped, tmp_path):
    path, data = mapped
    samples = Samples(data[5:9], np.zeros(4, int))
    expected = np.array(samples.data)
    np.save(tmp_path / "new.npy", np.zeros((40_000, 3), np.int16))
    os.replace(tmp_path / "new.npy", path)  # as the cache is written: the map keeps what was there
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(samples)).data, expected)
