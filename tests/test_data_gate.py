"""What lies in a data folder besides data: pipes, devices, links, other names. Nothing hangs, and nothing vanishes."""

import gzip
import os
import signal
import socket
import stat
import tempfile
from pathlib import Path

import numpy as np
import pytest
from _recordings import as_aedat2, as_bin, as_npy, random_events, write

from snntorch_bpsta.data import _gate, load, read_aedat2, recordings

pytestmark = [
    pytest.mark.usefixtures("cache"),
    pytest.mark.filterwarnings("ignore:.* recordings in .*; accuracies on a part"),
]
BIN = as_bin(random_events(40, 34, 0))
RECORDING = "NMNIST/Train/3/00001.bin"


@pytest.fixture(autouse=True)
def nothing_hangs():
    """Reading a pipe would wait for ever."""

    def late(*args):
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def labels(root, **options):
    pytest.importorskip("tonic", reason="tonic (extra: data) is missing")
    return load("nmnist", root=root, num_steps=1, **options).targets.tolist()


# --- what is no file, and what is too large -----------------------------------------------------------


def bind(path):
    here = os.getcwd()
    os.chdir(path.parent)  # the name of a socket is short
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


def linked_pipe(path):
    os.mkfifo(path.parent / "p")
    path.symlink_to("p")


def sparse(path):
    with open(path, "wb") as file:
        file.truncate(1 << 40)


ODD = {
    "pipe": (os.mkfifo, r"a named pipe \(FIFO\)"),
    "socket": (bind, "a socket"),
    "folder": (os.mkdir, "a folder"),
    "device": (lambda path: path.symlink_to("/dev/zero"), r"a device \(by a link to /dev/zero\)"),
    "link-to-a-pipe": (linked_pipe, r"a named pipe \(FIFO\) \(by a link to .*/p\)"),
    "nowhere": (lambda path: path.symlink_to("elsewhere"), "a link to elsewhere that leads nowhere"),
    "loop": (lambda path: path.symlink_to(path.name), "that leads nowhere"),
    "sparse": (sparse, "got 1,099,511,627,776: it is no file of this data set"),
}
FILES = {
    "nmnist": RECORDING,
    "dvs_gesture": "DVSGesture/ibmGestureTrain/user01_led/3.npy",
    "cifar10_dvs": "CIFAR10DVS/cat/cifar10_cat_0.aedat",
    "mnist": "MNIST/raw/train-images-idx3-ubyte",
    "cifar10": "cifar-10-batches-py/data_batch_1",
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("name", FILES)
def test_what_is_no_regular_file_is_refused_by_name(name, odd, tmp_path):
    library = "torchvision" if name in ("mnist", "cifar10") else "tonic"
    pytest.importorskip(library, reason=f"{library} (extra: data) is missing")
    make, message = ODD[odd]
    path = tmp_path / FILES[name]
    path.parent.mkdir(parents=True)
    if name == "mnist":
        for other in ("train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
            (path.parent / f"{other}-ubyte").write_bytes(b"")
    if name == "cifar10":
        for i in range(2, 6):
            (path.parent / f"data_batch_{i}").write_bytes(b"")
    make(path)
    with pytest.raises(ValueError, match=rf"expected {path} .*{message}"):
        load(name, root=tmp_path, num_steps=1)


@pytest.mark.parametrize("odd", ODD)
def test_archives_and_what_is_read_by_itself(odd, tmp_path):
    pytest.importorskip("torchvision", reason="torchvision (extra: data) is missing")
    make, message = ODD[odd]
    archive = tmp_path / "a" / "cifar-10-python.tar.gz"
    packed = tmp_path / "b" / "MNIST" / "raw" / "train-images-idx3-ubyte.gz"
    alone = tmp_path / "c" / "x.aedat"
    for path in (archive, packed, alone):
        path.parent.mkdir(parents=True)
        make(path)
    for other in ("train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (packed.parent / f"{other}-ubyte.gz").write_bytes(gzip.compress(b""))
    with pytest.raises(ValueError, match=rf"expected {archive} .*{message}"):
        load("cifar10", root=archive.parent)
    with pytest.raises(ValueError, match=rf"expected {packed} .*{message}"):
        load("mnist", root=tmp_path / "b")
    with pytest.raises(ValueError, match=rf"source: expected {alone} .*{message}"):
        read_aedat2(alone)


def test_a_recording_is_held_against_the_size_of_its_form(tmp_path):
    write(tmp_path, {RECORDING: BIN})
    with open(tmp_path / RECORDING, "r+b") as file:
        file.truncate(recordings._READERS[".bin"][1] + 1)
    with pytest.raises(ValueError, match=f"{RECORDING} to have at most 16,777,216 bytes, got 16,777,217"):
        labels(tmp_path)


def test_what_becomes_a_pipe_after_it_was_looked_at_does_not_hang(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "p")
    monkeypatch.setattr(_gate, "look", lambda *args: None)
    with pytest.raises(ValueError, match="a named pipe"):
        _gate.read(tmp_path / "p")


def test_what_grows_while_it_is_read_is_not_read_to_its_end(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(bytes(100))
    monkeypatch.setattr(_gate, "_pass", lambda *args: None)
    with pytest.raises(ValueError, match="at most 99 bytes, got more"):
        _gate.read(tmp_path / "a", 99)


# --- links ----------------------------------------------------------------------------------------------


def test_links_are_followed(tmp_path):
    """The data folder, a class on another disk, a file; all are ordinary."""
    write(tmp_path / "disk", {"a/00007.bin": BIN, "b/x.bin": BIN})
    write(tmp_path / "real", {RECORDING: BIN})
    train = tmp_path / "real" / "NMNIST" / "Train"
    (train / "5").symlink_to(tmp_path / "disk" / "a")
    (train / "7").mkdir()
    (train / "7" / "00002.bin").symlink_to(tmp_path / "disk" / "b" / "x.bin")
    (tmp_path / "root").symlink_to("real")
    assert labels(tmp_path / "root") == [3, 5, 7]


def test_loops_of_links_end(tmp_path):
    write(tmp_path, {RECORDING: BIN})
    train = tmp_path / "NMNIST" / "Train"
    for place in (
        train / "4",
        train / "3" / "up",
        tmp_path / "NMNIST" / "Train" / "Train",
        tmp_path / "NMNIST" / "NMNIST",
    ):
        place.symlink_to("..")
    assert labels(tmp_path) == [3]
    with pytest.raises(FileNotFoundError, match="got NMNIST/, Train/ in .*"):
        labels(tmp_path, train=False)


def test_a_class_whose_link_leads_nowhere_is_named(tmp_path):
    write(tmp_path, {RECORDING: BIN})
    for target in ("/mnt/unmounted/4", "4"):
        link = tmp_path / "NMNIST" / "Train" / "4"
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        with pytest.raises(
            ValueError, match=f"expected {link} to be a folder, got a link to {target} that leads nowhere"
        ):
            labels(tmp_path)
    train = tmp_path / "other" / "NMNIST" / "Train"
    train.parent.mkdir(parents=True)
    train.symlink_to("/mnt/unmounted")
    with pytest.raises(FileNotFoundError, match=r"got Train \(a link that leads nowhere\)"):
        labels(tmp_path / "other")


# --- what cannot be read --------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["NMNIST/Train/3", "NMNIST/Train", "NMNIST"])
def test_a_folder_that_cannot_be_read_is_named(folder, tmp_path, monkeypatch):
    write(tmp_path, {RECORDING: BIN, "NMNIST/train2/x": b"", "NMNIST/Train/4/00002.bin": BIN})
    if folder == "NMNIST":  # is looked into where Train is not there by its exact name
        (tmp_path / "NMNIST" / "Train").rename(tmp_path / "NMNIST" / "train")
    locked, scandir = tmp_path / folder, os.scandir

    def refuse(path):
        if Path(path) == locked:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match=rf"cannot read the folder {locked} .*make it readable"):
        labels(tmp_path)


@pytest.mark.parametrize("mode", [0, stat.S_IRUSR | stat.S_IROTH], ids=["closed", "names-only"])
def test_a_folder_without_rights_is_named(mode):
    """As root, who may do everything, tries it as somebody else."""
    with tempfile.TemporaryDirectory() as root:
        os.chmod(root, 0o755)
        write(Path(root), {"3/00001.bin": BIN, "4/00002.bin": BIN})
        folder = Path(root, "3")
        folder.chmod(mode)
        me = os.geteuid()
        try:
            if me == 0:
                os.seteuid(65534)
            with pytest.raises(PermissionError, match=str(folder)):
                list(_gate.find_files(Path(root), "(?P<label>.+)", r".+\.bin"))
        finally:
            os.seteuid(me)
            folder.chmod(0o700)


def test_a_part_names_the_classes_that_it_has_nothing_of(tmp_path):
    write(tmp_path, {f"NMNIST/Train/{label}/00001.bin": BIN for label in range(8)})
    (tmp_path / "NMNIST" / "Train" / "8").mkdir()
    with pytest.warns(UserWarning, match="8 of 60,000 recordings in .*, none of class 8, 9; accuracies"):
        assert labels(tmp_path) == [*range(8)]


# --- names ----------------------------------------------------------------------------------------------

ALIKE = {
    "as-documented": ("", "NMNIST/Train/{}/00001.bin"),
    "lower-case": ("", "nmnist/train/{}/00001.bin"),
    "upper-case": ("", "NMNIST/TRAIN/{}/00001.BIN"),
    "with-a-dash": ("", "N-MNIST/Train/{}/00001.bin"),
    "the-folder-itself": ("NMNIST", "NMNIST/Train/{}/00001.bin"),
    "the-folder-by-another-name": ("n-mnist", "n-mnist/train/{}/00001.bin"),
}


@pytest.mark.parametrize("name", ALIKE)
def test_harmless_names_are_taken(name, tmp_path):
    root, file = ALIKE[name]
    write(tmp_path, {file.format(label): BIN for label in (7, 2)})
    assert labels(tmp_path / root) == [2, 7]


def test_the_exact_name_comes_first(tmp_path):
    write(tmp_path, {"NMNIST/Train/1/00001.bin": BIN, "NMNIST/train/2/00001.bin": BIN, "nmnist/Train/3/00001.bin": BIN})
    assert labels(tmp_path) == [1]
    write(tmp_path / "NMNIST", {"NMNIST/Train/4/00001.bin": BIN})
    assert labels(tmp_path / "NMNIST") == [4], "what is in the root, before the root itself"


def test_hidden_files_are_left_out(tmp_path):
    """macOS writes a file ._NAME beside every file on a foreign disk, and it is no recording."""
    write(tmp_path, {RECORDING: BIN, "NMNIST/Train/3/._00001.bin": b"Mac OS X", "NMNIST/Train/._3/x.bin": b"x"})
    write(
        tmp_path, {"NMNIST/Train/.DS_Store": b"x", "NMNIST/._Train": b"x", "NMNIST/Train/.ipynb_checkpoints/a.bin": BIN}
    )
    assert labels(tmp_path) == [3]
    clip = as_npy(random_events(40, 128, 0))
    write(
        tmp_path, {"DVSGesture/ibmGestureTrain/user1_a/2.npy": clip, "DVSGesture/ibmGestureTrain/user1_a/._2.npy": b"x"}
    )
    assert load("dvs_gesture", root=tmp_path).targets.tolist() == [2]
    aedat = as_aedat2(random_events(40, 128, 0))
    write(tmp_path, {"CIFAR10DVS/Cat/0.AEDAT": aedat, "CIFAR10DVS/Cat/._0.AEDAT": b"x", "CIFAR10DVS/readme.txt": b"x"})
    assert load("cifar10_dvs", root=tmp_path).targets.tolist() == [3]


FOREIGN = {
    "words": ("nmnist", {f"NMNIST/Train/{word}/1.bin": BIN for word in ("zero", "one")}, "got 2 of one, zero"),
    "beyond": ("nmnist", {"NMNIST/Train/3/1.bin": BIN, "NMNIST/Train/10/1.bin": BIN}, "got 1 of 10, such as .*10/1.bin"),
    "gesture-11": (
        "dvs_gesture", {f"DVSGesture/ibmGestureTrain/user01_led/{i}.npy": b"" for i in (1, 11)},
        "of the classes 0, 1, .*, 10, got 1 of 11, such as .*user01_led/11.npy",
    ),
    "a-class-that-is-none": ("cifar10_dvs", {"CIFAR10DVS/plane/1.aedat": b""}, "got 1 of plane"),
}  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_recordings_of_no_class_are_not_left_out_in_silence(name, tmp_path):
    dataset, files, message = FOREIGN[name]
    with pytest.raises(ValueError, match=rf"{message}.*rename what says the class, or take it out"):
        load(dataset, root=write(tmp_path, files))


ELSEWHERE = {
    "too-high": (
        "",
        "data/sets/NMNIST/Train/3/1.bin",
        "got data/ in {root}; {root}/data/sets/NMNIST/Train has .* to {root}/data",
    ),
    "too-deep": (
        "NMNIST/Train",
        "NMNIST/Train/3/1.bin",
        "got 3/ in {root}; {top}/NMNIST/Train has recordings: point to {top}",
    ),
    "unpacked-twice": (
        "",
        "NMNIST/NMNIST/Train/3/1.bin",
        "got NMNIST/ in {root}/NMNIST; {root}/NMNIST/NMNIST/Train has",
    ),
    "no-such-part": ("", "NMNIST/Test/3/1.bin", "got Test/ in {root}/NMNIST. Get it"),
    "no-such-folder": (
        "elsewhere",
        "NMNIST/Train/3/1.bin",
        "got no folder {root} .*; {top}/NMNIST/Train has .* to {top}",
    ),
    "empty": ("empty", "empty/x/.keep", "got x/ in {root}"),
    "archives": ("", "NMNIST/Train.zip", "got Train.zip in {root}/NMNIST"),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_an_error_says_what_is_there_and_where_recordings_are(name, tmp_path):
    root, file, message = ELSEWHERE[name]
    write(tmp_path, {file: BIN})
    with pytest.raises(FileNotFoundError) as caught:
        labels(tmp_path / root)
    pattern = message.format(root=tmp_path / root if root else tmp_path, top=tmp_path)
    assert caught.match(rf"expected NMNIST/Train/<label>/\*.bin in .*{pattern}")


def test_a_folder_of_many_names_is_not_listed_whole(tmp_path):
    write(tmp_path, {f"{i:03d}.txt": b"" for i in range(300)})
    with pytest.raises(FileNotFoundError, match=r"got 000.txt, .*, 007.txt and 292 more in"):
        labels(tmp_path)


def test_images_say_what_is_there(tmp_path):
    pytest.importorskip("torchvision", reason="torchvision (extra: data) is missing")
    write(tmp_path, {"MNIST/train-images-idx3-ubyte.gz": b"", "cifar-10-batches-py/readme.html": b""})
    with pytest.raises(FileNotFoundError, match=f"got train-images-idx3-ubyte.gz in {tmp_path}/MNIST"):
        load("mnist", root=tmp_path)
    with pytest.raises(FileNotFoundError, match=f"got readme.html in {tmp_path}/cifar-10-batches-py"):
        load("cifar10", root=tmp_path)


def test_the_full_set_is_listed_in_a_few_seconds(tmp_path):
    """60,000 recordings: one look at each."""
    for label in range(10):
        folder = tmp_path / str(label)
        folder.mkdir()
        for i in range(600):
            os.link(folder / "0.bin", folder / f"{i}.bin") if i else (folder / "0.bin").write_bytes(BIN)
    looks, look = [], os.stat
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "stat", lambda *args, **kwargs: looks.append(args) or look(*args, **kwargs))
        found = list(_gate.find_files(tmp_path, "(?P<label>.+)", r".+\.bin"))
    assert len(found) == 6000 and len(looks) < 6100
    assert np.unique([label for label, _ in found]).tolist() == [str(i) for i in range(10)]
