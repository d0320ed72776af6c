"""nmnist, dvs_gesture, cifar10_dvs on small files written here, and on the real parts if there."""

import pickle
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from _recordings import as_aedat2, as_aedat4, as_bin, as_npy, random_events, write
from layouts import source

from snntorch_bpsta.data import DATASETS, events_to_frames, load, read_aedat2
from snntorch_bpsta.data.recordings import Recordings

pytestmark = [
    pytest.mark.usefixtures("cache"),
    pytest.mark.filterwarnings("ignore:.* recordings in .*; accuracies on a part"),
]


@pytest.fixture
def tonic():
    return pytest.importorskip("tonic", reason="tonic (extra: data) is missing")


# Written in an order that is not that of the names.
NMNIST = {
    f"{part}/{label}/{index:05d}.bin": random_events(60 + 7 * index, 34, seed=index)
    for index, (part, label) in enumerate([("Train", 9), ("Train", 0), ("Test", 3), ("Train", 3)])
}


@pytest.fixture
def nmnist(tmp_path, tonic):
    return write(tmp_path / "root", {f"NMNIST/{name}": as_bin(events) for name, events in NMNIST.items()})


# ---------------------------------------------------------------------------------------- nmnist


@pytest.mark.parametrize("num_steps", [1, 4, 100])
def test_nmnist_frames_labels_and_order(nmnist, num_steps):
    train = load("nmnist", root=nmnist, num_steps=num_steps)
    names = sorted(name for name in NMNIST if name.startswith("Train"))
    assert train.targets.tolist() == [int(name.split("/")[1]) for name in names] == [0, 3, 9]
    for (frames, label), name in zip(train, names, strict=True):
        assert frames.dtype == torch.float32 and type(label) is int
        expected = events_to_frames(NMNIST[name], num_steps, (34, 34))
        np.testing.assert_array_equal(frames.numpy(), expected)
    test = load("nmnist", root=nmnist, num_steps=num_steps, train=False)
    assert test.targets.tolist() == [3]
    assert test[0][0].shape == (num_steps, *DATASETS["nmnist"].input_shape)


def test_size_and_limit(nmnist):
    small = load("nmnist", root=nmnist, num_steps=2, size=(17, 34), limit=2)
    assert len(small) == 2 and small[0][0].shape == (2, 2, 17, 34)
    by_label = {int(name.split("/")[1]): events for name, events in NMNIST.items() if "Train" in name}
    for frames, label in small:
        expected = events_to_frames(by_label[label], 2, (34, 34), (17, 34))
        np.testing.assert_array_equal(frames.numpy(), expected)
    square = load("nmnist", root=nmnist, num_steps=2, size=17)
    assert square[0][0].shape == (2, 2, 17, 17)


def test_the_root_is_not_written_to(nmnist, cache):
    before = sorted((path, path.stat().st_mtime_ns) for path in nmnist.rglob("*"))
    load("nmnist", root=nmnist)
    assert sorted((path, path.stat().st_mtime_ns) for path in nmnist.rglob("*")) == before
    assert len(list((cache / "frames").iterdir())) == 1


def test_a_part_says_that_it_is_one(nmnist):
    expected = "nmnist: 3 of 60,000 recordings in .*NMNIST/Train, none of class 1, 2, 4, 5, 6, 7, 8; acc"
    with pytest.warns(UserWarning, match=expected) as caught:
        load("nmnist", root=nmnist)
    assert caught[0].filename == __file__


def test_agrees_with_tonic(tonic, tmp_path, monkeypatch):
    write(tmp_path, {f"NMNIST/{name}": as_bin(events) for name, events in NMNIST.items()})
    monkeypatch.setattr(tonic.datasets.NMNIST, "_check_exists", lambda self: True)
    theirs, ours = tonic.datasets.NMNIST(str(tmp_path)), load("nmnist", root=tmp_path, num_steps=4)
    assert ours.targets.tolist() == theirs.targets
    for (frames, _), (events, _) in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(frames.numpy(), events_to_frames(events, 4, (34, 34)))


def test_missing_says_what_where_and_how(tmp_path):
    write(tmp_path, {"NMNIST/Train/readme.txt": b""})
    with pytest.raises(FileNotFoundError) as caught:
        load("nmnist", root=tmp_path)
    for part in (
        "expected NMNIST/Train/<label>/*.bin",
        f"got readme.txt in {tmp_path / 'NMNIST' / 'Train'}",
        str(tmp_path),
        DATASETS["nmnist"].url,
        "--data-root",
        "SNNTORCH_BPSTA_DATA",
        "download=True (--download)",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (as_bin(random_events(9, 34, 0))[:-1], "records of 5 bytes, got 44 bytes"),
        (b"", "it has no events"),
        (as_bin(random_events(40, 128, 0)), r"ValueError: expected x in 0\.\.33"),
    ],
    ids=["ragged", "empty", "outside"],
)
def test_a_damaged_recording_is_named_and_leaves_no_cache(raw, message, tonic, tmp_path, cache):
    write(tmp_path, {"NMNIST/Train/0/00001.bin": as_bin(NMNIST["Train/0/00001.bin"])})
    write(tmp_path, {"NMNIST/Train/5/00007.bin": raw})
    with pytest.raises(ValueError, match=rf"Train/5/00007\.bin .*{message}.*get it again") as caught:
        load("nmnist", root=tmp_path)
    assert caught.value.__cause__ is not None
    assert list(cache.rglob("*.npy*")) == list((cache / "locks").iterdir()), "no frames"
    write(tmp_path, {"NMNIST/Train/5/00007.bin": as_bin(random_events(9, 34, 0))})
    assert len(load("nmnist", root=tmp_path)) == 2


# ----------------------------------------------------------------------------------------- cache


def test_the_second_time_reads_only_the_cache(nmnist, cache, monkeypatch):
    first = load("nmnist", root=nmnist, num_steps=4)
    monkeypatch.setattr(Recordings, "__iter__", lambda self: pytest.fail("read the recordings again"))
    second = load("nmnist", root=nmnist, num_steps=4)
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(first, second, strict=True))


def test_the_cache_knows_steps_size_split_and_source(nmnist, cache):
    load("nmnist", root=nmnist, num_steps=4)
    load("nmnist", root=nmnist, num_steps=5)
    load("nmnist", root=nmnist, num_steps=4, size=17)
    load("nmnist", root=nmnist, num_steps=4, train=False)
    load("nmnist", root=nmnist, num_steps=4, limit=2)
    assert len(list((cache / "frames").iterdir())) == 5


def test_the_cache_knows_the_recordings(tonic, tmp_path):
    first, longer = {"NMNIST/Train/1/00099.bin": random_events(70, 34, 99)}, random_events(71, 34, 99)
    for files in (
        first,
        {"NMNIST/Train/1/00099.bin": longer},
        {"NMNIST/Train/2/00098.bin": longer},
    ):
        write(tmp_path, {name: as_bin(events) for name, events in files.items()})
        expected = [int(name.split("/")[2]) for name in files]
        dataset = load("nmnist", root=tmp_path, num_steps=1)
        assert dataset.targets.tolist()[-1:] == expected
        assert int(dataset[-1][0].sum()) == len(next(iter(files.values())))


def test_an_interrupted_conversion_leaves_nothing(nmnist, cache, monkeypatch):
    import snntorch_bpsta.data._frame_cache as module

    def interrupted(*args, **cut):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "events_to_frames", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load("nmnist", root=nmnist)
    assert list((cache / "frames").iterdir()) == []
    assert len(load("nmnist", root=nmnist)) == 3


def test_a_cache_that_cannot_be_written_says_so(nmnist, cache):
    cache.write_text("a file where the folder should be")
    with pytest.raises(OSError, match="point SNNTORCH_BPSTA_CACHE to a folder that can be written"):
        load("nmnist", root=nmnist)


def test_workers_get_a_path_and_not_the_frames(nmnist):
    dataset = load("nmnist", root=nmnist, num_steps=100)
    packed = pickle.dumps(dataset)
    assert len(packed) < 10_000 < dataset.data.nbytes
    assert torch.equal(pickle.loads(packed)[2][0], dataset[2][0])
    frames, labels = next(iter(torch.utils.data.DataLoader(dataset, batch_size=3, num_workers=1)))
    assert frames.shape == (3, 100, 2, 34, 34) and labels.tolist() == [0, 3, 9]


# ----------------------------------------------------------------------------------- dvs_gesture


def test_dvs_gesture_in_tonics_layout(tonic, tmp_path, monkeypatch):
    clips = {
        f"DVSGesture/ibmGestureTrain/user{user:02d}_{light}/{label}.npy": random_events(300, 128, label)
        for user, light, label in [(2, "led", 10), (1, "lab", 0), (2, "led", 7)]
    }
    test = {"DVSGesture/ibmGestureTest/user24_led/4.npy": as_npy(random_events(90, 128, 0))}
    root = write(tmp_path, {**{name: as_npy(clip) for name, clip in clips.items()}, **test})
    train = load("dvs_gesture", root=root, num_steps=3)
    assert train.targets.tolist() == [0, 10, 7]  # in the order of the names
    assert train[0][0].shape == (3, *DATASETS["dvs_gesture"].input_shape)
    for (frames, _), name in zip(train, sorted(clips), strict=True):
        expected = events_to_frames(clips[name], 3, (128, 128), (64, 64))
        np.testing.assert_array_equal(frames.numpy(), expected)
    assert load("dvs_gesture", root=root, num_steps=3, train=False).targets.tolist() == [4]

    monkeypatch.setattr(tonic.datasets.DVSGesture, "_check_exists", lambda self: True)
    theirs = tonic.datasets.DVSGesture(str(root))
    by_label = {label: frames for frames, label in train}
    for events, label in theirs:
        expected = events_to_frames(events, 3, (128, 128), (64, 64))
        np.testing.assert_array_equal(by_label[label].numpy(), expected)


def test_a_damaged_npy_is_named(tonic, tmp_path):
    clip = "DVSGesture/ibmGestureTrain/user01_led/3.npy"
    write(tmp_path, {clip: as_npy(random_events(50, 128, 1))[:-9]})
    with pytest.raises(ValueError, match=f"expected .*{clip} to be intact"):
        load("dvs_gesture", root=tmp_path)


# ----------------------------------------------------------------------------------- cifar10_dvs


@pytest.mark.parametrize(("suffix", "encode"), [("aedat4", as_aedat4), ("aedat", as_aedat2)])
def test_cifar10_dvs_frames_and_split(suffix, encode, tonic, tmp_path):
    if suffix == "aedat4":
        pytest.importorskip("aedat", reason="aedat (extra: data) is missing")
    recordings = {
        f"CIFAR10DVS/{name}/cifar10_{name}_{index}.{suffix}": random_events(50, 128, index)
        for name in ("truck", "airplane")
        for index in range(11)
    }
    write(tmp_path, {name: encode(events) for name, events in recordings.items()})
    train = load("cifar10_dvs", root=tmp_path, num_steps=2)
    test = load("cifar10_dvs", root=tmp_path, num_steps=2, train=False)
    assert train.targets.tolist() == [0] * 10 + [9] * 10
    assert test.targets.tolist() == [0, 9]
    names = sorted(recordings)  # _0, _1, _10, _2, ..., _9: the last one of a class tests
    trains = names[:10] + names[11:21]
    for dataset, part in ((train, trains), (test, [names[10], names[21]])):
        for (frames, _), name in zip(dataset, part, strict=True):
            expected = events_to_frames(recordings[name], 2, (128, 128), (64, 64))
            np.testing.assert_array_equal(frames.numpy(), expected)


def test_cifar10_dvs_says_how_many_a_test_needs(tmp_path):
    for name, count in (("cat", 9), ("dog", 2)):
        write(tmp_path, {f"CIFAR10DVS/{name}/{i}.aedat": as_aedat2(random_events(5, 128, 0)) for i in range(count)})
    assert len(load("cifar10_dvs", root=tmp_path)) == 11
    with pytest.raises(
        ValueError, match=r"expected at least 10 recordings of each class .* fewer of all: cat \(9\), dog \(2\)"
    ):
        load("cifar10_dvs", root=tmp_path, train=False)
    write(tmp_path, {"CIFAR10DVS/cat/x.aedat": as_aedat2(random_events(5, 128, 0))})
    with pytest.warns(UserWarning, match=r"fewer than the 10 recordings of each class .* of dog \(2\)"):
        assert load("cifar10_dvs", root=tmp_path, train=False).targets.tolist() == [3]


@pytest.mark.parametrize(
    ("file", "raw"),
    [
        ("a.aedat4", b"#!AER-DAT4.0\r\n" + b"\x10\0\0\0" + b"\xff" * 40),  # the decoder panics
        ("a.aedat4", as_aedat4(random_events(50, 128, 0))[:-100]),
        ("a.aedat4", b"garbage"),
        ("a.aedat", as_aedat2(random_events(50, 128, 0))[:-3]),
        ("a.aedat", b"garbage"),
    ],
    ids=[
        "aedat4-panic",
        "aedat4-truncated",
        "aedat4-garbage",
        "aedat2-truncated",
        "aedat2-garbage",
    ],
)
def test_damaged_aedat_is_named(file, raw, tonic, tmp_path):
    if file.endswith("4"):
        pytest.importorskip("aedat", reason="aedat (extra: data) is missing")
    write(tmp_path, {f"CIFAR10DVS/cat/{file}": raw})
    with pytest.raises(ValueError, match=f"expected .*CIFAR10DVS/cat/{file} to be intact"):
        load("cifar10_dvs", root=tmp_path)


def test_read_aedat2_from_a_file_and_from_bytes(tmp_path):
    events = random_events(70, 128, 0)
    path = tmp_path / "a.aedat"
    path.write_bytes(as_aedat2(events))
    np.testing.assert_array_equal(read_aedat2(path), events)
    np.testing.assert_array_equal(read_aedat2(as_aedat2(events)), events)
    assert len(read_aedat2(b"#!AER-DAT2.0\r\n")) == 0


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"#!AER-DAT3.1\r\n" + bytes(8), "to begin with '#!AER-DAT2.0', got b'#!AER-DAT3.1'"),
        (b"", "to begin with '#!AER-DAT2.0', got b''"),
        (b"#!AER-DAT2.0\r\n" + bytes(12), "events of 8 bytes, got 12 bytes: truncated"),
        (b"#!AER-DAT2.0\r\n" + bytes(8) + b"\0\1" + bytes(6), "of a 128 x 128 DVS, got an address of 0x10000"),
    ],
)
def test_read_aedat2_refuses(raw, message):
    with pytest.raises(ValueError, match=message):
        read_aedat2(raw)


# -------------------------------------------------------------------------- libraries and downloads


def test_without_tonic_what_is_cached_still_loads(nmnist, monkeypatch):
    load("nmnist", root=nmnist, num_steps=4)
    monkeypatch.setitem(sys.modules, "tonic.io", None)
    assert len(load("nmnist", root=nmnist, num_steps=4)) == 3
    with pytest.raises(ImportError, match=r"needs tonic.*pip install snntorch-bpsta\[data\]"):
        load("nmnist", root=nmnist, num_steps=5)


@pytest.mark.parametrize(
    ("name", "train", "folder", "url", "files"),
    [
        ("nmnist", True, "NMNIST", "mendeley", {"Train/0/00002.bin": as_bin(random_events(9, 34, 0))}),
        ("nmnist", False, "NMNIST", "mendeley", {"Test/3/00001.bin": as_bin(random_events(9, 34, 0))}),
        ("dvs_gesture", True, "DVSGesture", "api.figshare.com/v2/file/download/38022171",
         {"ibmGestureTrain/user01_led/2.npy": as_npy(random_events(9, 128, 0))}),
        ("dvs_gesture", False, "DVSGesture", "api.figshare.com/v2/file/download/38020584",
         {"ibmGestureTest/user24_led/2.npy": as_npy(random_events(9, 128, 0))}),
        ("cifar10_dvs", True, "CIFAR10DVS", "api.figshare.com/v2/file/download/38023437",
         {f"bird/cifar10_bird_{i}.aedat": as_aedat2(random_events(9, 128, 0)) for i in range(10)}),
    ],
)  # fmt: skip
def test_download_is_tonics_and_tonic_stays_as_it_is(name, train, folder, url, files, tonic, tmp_path, monkeypatch):
    asked = []

    def fetch(address, root, **kwargs):
        asked.append((address, Path(root), kwargs["md5"]))
        write(Path(root), files)

    monkeypatch.setattr("tonic.dataset.download_and_extract_archive", fetch)
    monkeypatch.setattr("tonic.datasets.cifar10dvs.extract_archive", lambda path: None)
    before = {key: dict(vars(getattr(tonic.datasets, key))) for key in ("DVSGesture", "CIFAR10DVS")}
    dataset = load(name, root=tmp_path, train=train, num_steps=2, download=True)
    assert len(dataset) >= 1
    ((address, where, md5),) = asked
    assert url in address and where == tmp_path / folder and len(md5) == 32
    assert before == {key: dict(vars(getattr(tonic.datasets, key))) for key in before}


def test_a_failed_download_says_so(tonic, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("no network here")

    monkeypatch.setattr("tonic.dataset.download_and_extract_archive", fail)
    with pytest.raises(ConnectionError, match="download of the data set 'nmnist' failed .no network"):
        load("nmnist", root=tmp_path, download=True)


# --------------------------------------------------------------------------------- the real ones


def test_real_nmnist(tonic, real):
    test = load("nmnist", root=real("NMNIST"), train=False, num_steps=16, limit=100)
    assert len(test) == 100 and test.targets.unique().tolist() == list(range(10))
    totals = [int(frames.sum()) for frames, _ in test]
    assert min(totals) >= 1000
    per_frame = test[0][0].sum((1, 2, 3))
    assert torch.all(per_frame[:-1] == per_frame[0]) and 0 <= per_frame[-1] - per_frame[0] < 16


def test_real_dvs_gesture(tonic, real):
    clips = load("dvs_gesture", root=real("DVS128Gesture"), num_steps=1, size=128)
    assert clips.targets.tolist() == list(range(10))
    counts = [int(frames.sum()) for frames, _ in clips]
    assert counts == [
        63471, 84260, 113063, 151879, 181179, 124244, 159617, 101288, 141773, 85936,
    ]  # fmt: skip


def test_real_aedat2(real):
    real("other")  # skips where it is not at hand; unpacked are its letters alone
    with zipfile.ZipFile(source() / "other" / "mnist_dvs_scale04_digit0_20.zip") as archive:
        recordings = [read_aedat2(archive.read(name)) for name in sorted(archive.namelist())]
    assert sum(map(len, recordings)) == 324_597
    for events in recordings:
        assert np.all(np.diff(events["t"]) >= 0) and 2e6 < events["t"][-1] < 2.5e6
        assert 0 <= events["x"].min() and events["x"].max() <= 127
        assert 0.2 < events["p"].mean() < 0.8
