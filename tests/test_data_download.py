"""A download asked for by several processes happens once, and nobody reads half of it."""

import subprocess
import sys
import textwrap

import pytest
from _recordings import as_bin, random_events, write

from snntorch_bpsta.data import _common, load

pytestmark = [
    pytest.mark.usefixtures("cache"),
    pytest.mark.filterwarnings("ignore:.* recordings in .*; accuracies on a part"),
]

# A download that takes a while and leaves half a file on the way; the last line is what is trained on.
FETCHES = {
    "nmnist": """
        import dataclasses, tonic.dataset
        from snntorch_bpsta.data import events
        def fetch(address, folder, **kwargs):
            file = Path(folder) / "Train" / "3" / "00001.bin"
            file.parent.mkdir(parents=True, exist_ok=True)
            slowly(file)
        tonic.dataset.download_and_extract_archive = fetch
        layout = events._Layout
        events._Layout = lambda **row: layout(**row | {"full": 1})
    """,
    "mnist": """
        import gzip, torchvision.datasets.mnist
        def fetch(address, download_root, filename, md5):
            file = Path(download_root) / filename.removesuffix(".gz")
            slowly(file)
        torchvision.datasets.mnist.download_and_extract_archive = fetch
    """,
    "cifar10": """
        import hashlib, pickle, numpy, torchvision.datasets.cifar as module
        batch = pickle.dumps({"data": numpy.zeros((2, 3072), numpy.uint8), "labels": [0, 1], "label_names": []})
        md5 = hashlib.md5(batch).hexdigest()
        module.CIFAR10.train_list, module.CIFAR10.test_list = [["data_batch_1", md5]], [["test_batch", md5]]
        module.CIFAR10.meta = {**module.CIFAR10.meta, "md5": md5}
        def fetch(url, root, filename, md5):
            for name in ("data_batch_1", "test_batch", "batches.meta"):
                slowly(Path(root) / "cifar-10-batches-py" / name, batch)
        module.download_and_extract_archive = fetch
    """,
}
COMMON = """
    import sys, time, warnings
    from pathlib import Path
    import numpy
    from snntorch_bpsta.data import load
    name, root, log = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    sys.path.append(sys.argv[4])
    from _recordings import as_bin, random_events
    warnings.simplefilter("ignore")

    def content(file):
        if file.suffix == ".bin":
            return as_bin(random_events(70, 34, 0))
        shape = (3, 28, 28) if "images" in file.name else (3,)
        head = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
        return head + bytes(int(numpy.prod(shape)))

    def slowly(file, raw=None):
        with open(log, "a") as lines:
            lines.write(file.name + "\\n")
        raw = content(file) if raw is None else raw
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(raw[: len(raw) // 2])
        time.sleep(0.3)
        file.write_bytes(raw)
"""
ENDS = """
    print("ready", flush=True)
    sys.stdin.readline()
    samples = load(name, root=root, num_steps=1, download=True)
    print(len(samples), float(samples[0][0].sum()))
"""


@pytest.mark.parametrize("name", FETCHES)
def test_of_several_processes_one_downloads(name, tmp_path, request):
    library = "tonic" if name == "nmnist" else "torchvision"
    pytest.importorskip(library, reason=f"{library} (extra: data) is missing")
    code = "".join(map(textwrap.dedent, (COMMON, FETCHES[name], ENDS)))
    log = tmp_path / "log"
    command = [sys.executable, "-c", code, name, str(tmp_path / "root"), str(log), str(request.path.parent)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    ends = [process.communicate(timeout=60) for process in processes]
    expected = {"nmnist": "1 70.0\n", "mnist": "3 0.0\n", "cifar10": "2 0.0\n"}[name]
    assert [out for out, _ in ends] == [expected] * 2, ends
    lines = log.read_text().splitlines()
    assert len(lines) == len(set(lines)), "fetched twice"


def test_a_complete_set_in_a_folder_that_cannot_be_written_needs_nothing(tmp_path, monkeypatch):
    pytest.importorskip("torchvision", reason="torchvision (extra: data) is missing")
    write(tmp_path, {f"MNIST/raw/{part}-{kind}-ubyte": bytes([0, 0, 8, n]) + bytes(4 * n)
                     for part in ("train", "t10k") for kind, n in (("images-idx3", 3), ("labels-idx1", 1))})  # fmt: skip

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(_common, "locked", refuse)
    with pytest.raises(ValueError, match="expected images"):  # it is empty, but all there
        load("mnist", root=tmp_path, download=True)
    (tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(ConnectionError, match="the download of the data set 'mnist' failed .*Permission denied"):
        load("mnist", root=tmp_path, download=True)


def test_an_old_processed_folder_does_not_keep_mnist_from_being_fetched(tmp_path, monkeypatch):
    torchvision = pytest.importorskip("torchvision", reason="torchvision (extra: data) is missing")
    write(tmp_path, {"MNIST/processed/training.pt": b"x", "MNIST/processed/test.pt": b"x"})
    asked = []

    def refuse(url, **kwargs):
        asked.append(url)
        raise RuntimeError("no network here")

    monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", refuse)
    with pytest.raises(ConnectionError):
        load("mnist", root=tmp_path, download=True)
    assert asked


def test_lightning_downloads_before_the_processes_part(tmp_path, monkeypatch):
    pytest.importorskip("lightning", reason="lightning (extra: train) is missing")
    pytest.importorskip("tonic", reason="tonic (extra: data) is missing")
    from snntorch_bpsta.training import Recipe
    from snntorch_bpsta.training.datamodule import Frames

    root, fetched = tmp_path / "root", []

    def fetch(address, folder, **kwargs):
        fetched.append(address)
        part = "Train" if len(fetched) == 1 else "Test"
        write(root, {f"NMNIST/{part}/3/00001.bin": as_bin(random_events(70, 34, 0))})

    monkeypatch.setattr("tonic.dataset.download_and_extract_archive", fetch)
    recipe = Recipe(dataset="nmnist", num_steps=2)
    Frames(recipe, data_root=root).prepare_data()
    assert not fetched, "nothing is downloaded unasked"
    Frames(recipe, data_root=root, download=True).prepare_data()
    assert len(fetched) == 2
    frames = Frames(recipe, data_root=root)
    frames.setup()
    assert len(frames.train) == len(frames.test) == 1
