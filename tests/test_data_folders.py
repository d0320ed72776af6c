"""from_folder: recordings of one's own, in every format, as frames by number and by time; and batches of them."""

import io
import pickle

import numpy as np
import pytest
import torch
from _recordings import as_aedat2, as_aedat4, as_bin, as_npy, random_events, write
from torch.utils.data import DataLoader

from snntorch_bpsta.data import events_to_frames, from_folder, pad_sequences
from snntorch_bpsta.data.recordings import FORMATS

pytestmark = pytest.mark.usefixtures("cache")


def as_structured(events):
    file = io.BytesIO()
    np.save(file, events)
    return file.getvalue()


def as_npz(events, **more):
    file = io.BytesIO()
    np.savez_compressed(file, **{name: events[name] for name in "xypt"}, **more)
    return file.getvalue()


def as_h5(events, group="", compound=False):
    h5py = pytest.importorskip("h5py", reason="h5py (extra: data) is missing")
    raw = io.BytesIO()
    with h5py.File(raw, "w") as file:
        if compound:
            file["events"] = events
        else:
            for name in "xypt":
                file[f"{group}/{name}"] = events[name]
    return raw.getvalue()


# ending -> (bytes of a file, side of the sensor, library that reads it)
FILES = {
    ".bin": (as_bin, 34, "tonic"),
    ".npy": (as_structured, 50, "numpy"),
    ".npy-columns": (as_npy, 128, "numpy"),
    ".npz": (as_npz, 200, "numpy"),
    ".h5": (as_h5, 60, "h5py"),
    ".hdf5": (lambda events: as_h5(events, "events"), 60, "h5py"),
    ".h5-compound": (lambda events: as_h5(events, compound=True), 60, "h5py"),
    ".aedat4": (as_aedat4, 128, "aedat"),
    ".aedat": (as_aedat2, 128, "numpy"),
}


def tree(names, side=8, count=40, make=as_npz, ending=".npz"):
    """{file: bytes} and {file: events}, for "class/name"."""
    events = {f"{name}{ending}": random_events(count + 3 * i, side, seed=i) for i, name in enumerate(names)}
    return {name: make(each) for name, each in events.items()}, events


ROOT = ["right/b", "left/z", "right/a", "left/10", "left/2", "Middle/c"]  # in no order


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_its_events(name, tmp_path):
    make, side, library = FILES[name]
    pytest.importorskip(library, reason=f"{library} (extra: data) is missing")
    if library == "aedat":
        pytest.importorskip("tonic", reason="tonic (extra: data) is missing")
    files, events = tree(ROOT, side, make=make, ending=name.partition("-")[0])
    samples = from_folder(write(tmp_path / "data", files), sensor_size=side, num_steps=3)
    assert samples.classes == ("Middle", "left", "right")
    assert samples.targets.tolist() == [0, 1, 1, 1, 2, 2]
    for (frames, label), file in zip(samples, sorted(events), strict=True):
        assert frames.dtype == torch.float32 and file.startswith(samples.classes[label])
        np.testing.assert_array_equal(frames.numpy(), events_to_frames(events[file], 3, side))


def test_there_is_a_file_of_every_format():
    assert {name.partition("-")[0] for name in FILES} == {*FORMATS}


def test_what_is_no_recording_is_left_alone_and_case_does_not_matter(tmp_path):
    files, _ = tree(["a/1", "b/2"], ending=".NPZ")
    root = write(tmp_path / "data", files | {"a/notes.txt": b"", "b/._2.npz": b"", "README.md": b"", ".git/x.npz": b""})
    assert len(from_folder(root, sensor_size=8, num_steps=1)) == 2
    (tmp_path / "link").symlink_to(root, target_is_directory=True)
    assert len(from_folder(str(tmp_path / "link"), sensor_size=(8, 8), num_steps=1)) == 2


def test_size_polarity_and_limit(tmp_path):
    files, events = tree(ROOT)
    root = write(tmp_path / "data", files)
    small = from_folder(root, sensor_size=(9, 8), size=(3, 4), polarities=1, limit=3)
    assert small[0][0].shape == (16, 1, 3, 4) and sorted(small.targets.tolist()) == [0, 1, 2]
    assert small.classes == ("Middle", "left", "right")
    by_label = {0: ["Middle/c.npz"], 1: [n for n in events if "left" in n], 2: [n for n in events if "right" in n]}
    for frames, label in small:
        expected = [events_to_frames(events[n], 16, (9, 8), (3, 4), polarities=1) for n in by_label[label]]
        assert any(np.array_equal(frames.numpy(), each) for each in expected)


# --- frames of a stretch of time ------------------------------------------------------------------


def test_a_time_window_gives_sequences_of_different_length(tmp_path, cache):
    files, events = tree(ROOT)
    for i, name in enumerate(sorted(events)):
        events[name]["t"] //= 1 + i
    files = {name: as_npz(each) for name, each in events.items()}
    samples = from_folder(write(tmp_path / "data", files), sensor_size=8, time_window=20_000)
    expected = [events_to_frames(events[name], None, 8, time_window=20_000) for name in sorted(events)]
    assert samples.lengths.tolist() == [len(each) for each in expected] and len({*samples.lengths.tolist()}) > 3
    for (frames, _), each in zip(samples, expected, strict=True):
        np.testing.assert_array_equal(frames.numpy(), each)
    np.testing.assert_array_equal(samples[-1][0].numpy(), expected[-1])
    with pytest.raises(IndexError):
        samples[len(samples)]
    part = samples.take([4, 0])
    assert part.classes == samples.classes and part.targets.tolist() == [2, 0] and not len(samples.take([]))
    np.testing.assert_array_equal(part[0][0].numpy(), expected[4])
    packed = pickle.dumps(samples)
    assert len(packed) < 5_000 < samples.data.nbytes and torch.equal(pickle.loads(packed)[3][0], samples[3][0])
    assert len(list((cache / "frames").iterdir())) == 1


@pytest.mark.parametrize("where", [30, -40])
def test_a_damaged_cache_of_sequences_is_computed_anew(where, tmp_path, cache):
    files, _ = tree(ROOT)
    root = write(tmp_path / "data", files)
    before = [frames for frames, _ in from_folder(root, sensor_size=8, time_window=30_000)]
    (path,) = (cache / "frames").iterdir()
    raw = bytearray(path.read_bytes())
    raw[where] ^= 1
    path.write_bytes(raw)
    with pytest.warns(UserWarning, match="are damaged: they are computed anew"):
        after = from_folder(root, sensor_size=8, time_window=30_000)
    assert all(torch.equal(frames, old) for (frames, _), old in zip(after, before, strict=True))


def test_every_cut_has_a_cache_of_its_own(tmp_path, cache, monkeypatch):
    root = write(tmp_path / "data", tree(ROOT)[0])
    cuts = [dict(num_steps=4), dict(num_steps=4, polarities=1), dict(time_window=40_000), dict(num_steps=4, size=4)]
    cuts += [dict(time_window=40_000, polarities=1), dict(num_steps=4, sensor_size=9, size=8)]
    for cut in cuts:
        from_folder(root, **{"sensor_size": 8} | cut)
    assert len(list((cache / "frames").iterdir())) == len(cuts)
    monkeypatch.setattr("snntorch_bpsta.data._frame_cache.write_whole", None)  # nothing is written again
    for cut in cuts:
        from_folder(root, **{"sensor_size": 8} | cut)


# --- training part and test part ------------------------------------------------------------------


def names_of(samples, root):
    """The recordings of samples, by their number of events, which is that of no other."""
    return {int(frames.sum()) for frames, _ in samples}


def test_every_fifth_recording_of_a_class_tests_and_it_is_the_same_ones(tmp_path):
    names = [f"{label}/{i}" for label, count in (("a", 40), ("b", 10), ("c", 2)) for i in range(count)]
    root = write(tmp_path / "data", tree(names)[0])
    train, test, both = (from_folder(root, sensor_size=8, num_steps=1, train=part) for part in (True, False, None))
    assert torch.bincount(train.targets).tolist() == [32, 8, 1]
    assert torch.bincount(test.targets).tolist() == [8, 2, 1]
    first, second = names_of(train, root), names_of(test, root)
    assert not first & second and first | second == names_of(both, root) and len(both) == 52
    write(root, {"a/new.npz": as_npz(random_events(9, 8, 99))})
    moved = names_of(from_folder(root, sensor_size=8, num_steps=1, train=False), root) ^ second
    assert len(moved) <= 2, "a new recording may come in, and one may go"


def test_folders_train_and_test_are_the_parts(tmp_path):
    names = ["Train/a/1", "Train/b/1", "Train/b/2", "Train/c/1", "test/a/9", "test/c/9"]
    files, events = tree(names)
    root = write(tmp_path / "data", files)
    train, test, both = (from_folder(root, sensor_size=8, num_steps=1, train=part) for part in (True, False, None))
    assert train.classes == test.classes == both.classes == ("a", "b", "c")
    assert train.targets.tolist() == [0, 1, 1, 2]
    assert test.targets.tolist() == [0, 2], "the labels of the training part"
    assert both.targets.tolist() == [0, 1, 1, 2, 0, 2]
    assert int(test[1][0].sum()) == len(events["test/c/9.npz"])
    alone = from_folder(root / "Train", sensor_size=8, num_steps=1)
    assert alone.targets.tolist() == train.targets.tolist()
    write(root, {"test/d/1.npz": files["test/a/9.npz"]})
    with pytest.raises(ValueError, match=r"expected the classes of .*Train in .*test too \(a, b, c\), got d"):
        from_folder(root, sensor_size=8)


# --- errors ---------------------------------------------------------------------------------------

EVENTS = as_npz(random_events(9, 8, 0))
ERRORS = {
    "no-root": ({}, FileNotFoundError, r"one folder for each class in .*data .*got no folder .*data that can be read"),
    "empty-root": ({"../data/.keep": b""}, FileNotFoundError, r"got .*in .*data"),
    "no-classes": ({"1.npz": EVENTS}, FileNotFoundError, "got 1.npz in .*recordings lie in it, not in folders: name"),
    "too-high": ({"all/a/1.npz": EVENTS}, FileNotFoundError, r"got all/ in .*; \S*data/all has such folders"),
    "other-files": ({"a/1.mat": b"", "b/2.mat": b""}, FileNotFoundError, r"\.npz.*got a/, b/ in"),
    "empty-class": (
        {"a/1.npz": EVENTS, "b/1.txt": b""},
        ValueError,
        r"in every folder of .*got 1\.txt in \S*data/b: put",
    ),
    "too-deep": ({"a/1.npz": EVENTS, "b/day/1.npz": EVENTS}, ValueError, r"got day/ in \S*data/b: put"),
    "only-train": ({"train/a/1.npz": EVENTS}, FileNotFoundError, "got train/ in .*data/train has such folders"),
    "mixed": (
        {"a/1.npz": EVENTS, "a/2.npz": EVENTS, "b/1.bin": b""},
        ValueError,
        r"of one format in .*, got 1 \.bin \(such as b/1\.bin\) and|, 2 \.npz \(such as a/2\.npz\): convert",
    ),
    "mixed-parts": (
        {"train/a/1.npz": EVENTS, "test/a/1.bin": b""},
        ValueError,
        r"one format in .*1 \.bin \(such as test/a/1\.bin\), 1 \.npz",
    ),
    "outside": (
        {"a/1.npz": as_npz(random_events(90, 40, 0))},
        ValueError,
        r"a/1\.npz to be .*expected x in 0\.\.7 for a sensor of 8 x 8, got 0\.\.39.*give the sensor_size",
    ),
    "damaged": ({"a/1.npz": EVENTS[:-9]}, ValueError, r"a/1\.npz to be .*damaged .*take it out"),
    "other-names": ({"a/1.npz": as_npz({n: np.ones(1) for n in "xypt"})[:0]}, ValueError, r"a/1\.npz"),
    "pickled": (
        {"a/1.npy": as_structured(np.array([{}], object))},
        ValueError,
        r"a/1\.npy to be .*Python objects in dtype",
    ),
    "one-array": ({"a/1.npz": as_structured(np.arange(3))}, ValueError, "expected arrays x, y, p and t by their names"),
    "polarity": (
        {"a/1.npy": as_npy({n: np.array([1, 2]) for n in "xyt"} | {"p": np.array([-1, 1])})},
        ValueError,
        r"expected p in 0\.\.1",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_say_what_is_there(name, tmp_path):
    files, error, message = ERRORS[name]
    write(tmp_path / "data", files) if files else None
    with pytest.raises(error, match=message) as caught:
        from_folder(tmp_path / "data", sensor_size=8)
    assert str(tmp_path / "data") in str(caught.value)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "data").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="got no folder .*data that can be read .Not a directory"):
        from_folder(tmp_path / "data", sensor_size=8)


def test_a_class_of_one_recording_has_none_for_a_test(tmp_path):
    root = write(tmp_path / "data", tree(["a/1", "a/2", "b/1"])[0])
    with pytest.raises(
        ValueError, match=r"at least 2 recordings of every class .*got 1 of b: add some, or make folders"
    ):
        from_folder(root, sensor_size=8, train=True)
    assert len(from_folder(root, sensor_size=8)) == 3


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(sensor_size=(8, 8, 2)), ValueError, "sensor_size"),
        (dict(num_steps=4, time_window=9), ValueError, "num_steps .* or time_window"),
        (dict(time_window=0), ValueError, "time_window"),
        (dict(polarities=True), TypeError, "polarities"),
        (dict(train="yes"), TypeError, "train must be True or False"),
        (dict(limit=0), ValueError, "limit"),
        (dict(root=3), TypeError, "root must be a path"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, error, message, tmp_path):
    root = write(tmp_path / "data", {"a/1.npz": EVENTS})
    with pytest.raises(error, match=message):
        from_folder(**{"root": root, "sensor_size": 8} | arguments)


def test_a_link_in_hdf5_to_another_file_is_not_followed(tmp_path):
    h5py = pytest.importorskip("h5py", reason="h5py (extra: data) is missing")
    other = write(tmp_path, {"other.h5": as_h5(random_events(9, 8, 0))}) / "other.h5"
    (tmp_path / "data" / "a").mkdir(parents=True)
    path = tmp_path / "data" / "a" / "1.h5"
    with h5py.File(path, "w") as file:
        file["x"] = h5py.ExternalLink(other, "x")
    with pytest.raises(ValueError, match="expected data sets x, y, p and t, or events/x.* got x in /"):
        from_folder(tmp_path / "data", sensor_size=8)
    with h5py.File(path, "w") as file:
        layout = h5py.VirtualLayout((9,), "i8")
        layout[:] = h5py.VirtualSource(other, "x", (9,))
        for name in "xypt":
            file.create_virtual_dataset(name, layout)
    with pytest.raises(ValueError, match="expected the events of /x in this file, got a reference to others"):
        from_folder(tmp_path / "data", sensor_size=8)
    with h5py.File(path, "w") as file:  # a file of a few bytes that claims to hold 2 ** 40 events
        file.create_dataset("x", (1 << 40,), "i8", chunks=(1 << 10,))
    with pytest.raises(ValueError, match="expected at most 134,217,728 events"):
        from_folder(tmp_path / "data", sensor_size=8)


# --- batches --------------------------------------------------------------------------------------


def test_a_data_loader_pads_what_from_folder_found(tmp_path):
    root = write(tmp_path / "data", tree(ROOT)[0])
    samples = from_folder(root, sensor_size=8, time_window=70_000)
    loader = DataLoader(samples, batch_size=4, collate_fn=pad_sequences)
    seen = 0
    for x, lengths, targets in loader:
        assert x.shape == (int(lengths.max()), len(targets), 2, 8, 8) and x.dtype == torch.float32
        assert lengths.dtype == targets.dtype == torch.int64
        for b in range(len(targets)):
            frames, label = samples[seen + b]
            assert torch.equal(x[: lengths[b], b], frames) and not x[lengths[b] :, b].any() and label == targets[b]
        seen += len(targets)
    assert seen == len(samples)


def test_a_data_set_of_tonic_is_padded_as_it_is(tmp_path, monkeypatch):
    tonic = pytest.importorskip("tonic", reason="tonic (extra: data) is missing")
    clips = {f"NMNIST/Train/{i}/{i}.bin": random_events(60, 34, seed=i) for i in range(3)}
    for i, clip in enumerate(clips.values()):
        clip["t"] //= 1 + i
    write(tmp_path, {name: as_bin(clip) for name, clip in clips.items()})
    monkeypatch.setattr(tonic.datasets.NMNIST, "_check_exists", lambda self: True)
    to_frame = tonic.transforms.ToFrame(sensor_size=(34, 34, 2), time_window=30_000, include_incomplete=True)
    theirs = tonic.datasets.NMNIST(str(tmp_path), transform=to_frame)
    x, lengths, targets = next(iter(DataLoader(theirs, batch_size=3, collate_fn=pad_sequences)))
    assert targets.tolist() == [0, 1, 2] and lengths.unique().numel() == 3
    for b, clip in enumerate(clips.values()):
        expected = events_to_frames(clip, None, 34, time_window=30_000)
        np.testing.assert_array_equal(x[: lengths[b], b].numpy(), expected)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("int16", "float32"), ("bool", "float32"), ("uint16", "float32"), ("float64", "float64"), ("float16", "float16")],
)
def test_floats_keep_their_dtype_and_integers_become_float32(kind, expected):
    array = np.ones((2, 3), kind)
    for value in (array, *([torch.from_numpy(array)] if kind != "uint16" else [])):
        x, lengths, targets = pad_sequences([(value, 1), (value[:1], 0)])
        assert x.dtype == getattr(torch, expected) and x.tolist() == [[[1] * 3] * 2, [[1] * 3, [0] * 3]]
        assert (lengths.tolist(), targets.tolist()) == ([2, 1], [1, 0])


@pytest.mark.parametrize(
    ("samples", "error", "message"),
    [
        ([], ValueError, "samples must hold at least one pair"),
        ([(torch.ones(2, 2), 0), (torch.ones(2, 2, device="meta"), 0)], ValueError, "expected samples on one device"),
        ([(torch.ones(2, 3), 0), (torch.ones(2, 4), 0)], ValueError, r"got \* = \[\(3,\), \(4,\)\]"),
        ([torch.ones(2, 3)], TypeError, r"samples\[0\] must be a pair \(sequence, target\), got Tensor"),
        ([(torch.ones(2), 0, 1)], TypeError, "got 3 values"),
        ([(torch.ones(0, 3), 0)], ValueError, r"the sequence in samples\[0\] must hold at least one time step"),
        ([(np.array(["a"]), 0)], TypeError, r"samples\[0\] must be an array of real numbers"),
        ([(torch.ones(()), 0)], ValueError, r"samples\[0\] must have shape \[T, \.\.\.\]"),
    ],
)
def test_what_is_no_batch_is_refused(samples, error, message):
    with pytest.raises(error, match=message):
        pad_sequences(samples)
