"""digits, mnist, cifar10 and the door `load`, on small files written here and on the real ones."""

import gzip
import hashlib
import io
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from snntorch_bpsta import data
from snntorch_bpsta.data import DATASETS, load

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def torchvision():
    return pytest.importorskip("torchvision", reason="torchvision (extra: data) is missing")


@pytest.fixture
def digits():
    pytest.importorskip("sklearn", reason="scikit-learn (extra: data) is missing")
    return load


def _md5(raw):
    return hashlib.md5(raw).hexdigest()


def _tree(folder):
    """Every file below `folder` with its content."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ----------------------------------------------------- digits, and what load does for all


def test_digits_split_is_fixed_complete_and_stratified(digits):
    from sklearn.datasets import load_digits

    train, test = load("digits"), load("digits", train=False)
    assert (len(train), len(test)) == (1437, 360)
    both = np.concatenate([train.data, test.data]).reshape(1797, -1)
    original = load_digits().data.astype(np.uint8)
    assert sorted(map(bytes, both)) == sorted(map(bytes, original))
    share = test.targets.bincount() / (train.targets.bincount() + test.targets.bincount())
    assert (share - 0.2).abs().max() < 0.01
    # The split itself, so that results on it stay comparable.
    assert _md5(test.data.tobytes())[:8] == "cef5dda0"


def test_a_sample_is_a_float32_image_in_0_1_and_an_int(digits):
    image, label = load("digits")[3]
    assert image.shape == DATASETS["digits"].input_shape
    assert image.dtype == torch.float32
    assert type(label) is int
    images = torch.stack([image for image, _ in load("digits")])
    assert images.min() == 0 and images.max() == 1


def test_limit_is_balanced_nested_and_repeatable(digits):
    large, small = load("digits", limit=200), load("digits", limit=53)
    assert large.targets.bincount().tolist() == [20] * 10
    assert set(small.targets.bincount().tolist()) == {5, 6}
    assert torch.equal(large.targets[:53], small.targets)
    np.testing.assert_array_equal(large.data[:53], small.data)
    np.testing.assert_array_equal(load("digits", limit=53).data, small.data)
    everything = load("digits", train=False, limit=10_000)
    assert len(everything) == 360
    assert not torch.equal(everything.targets, load("digits", train=False).targets)


def test_feeds_a_dataloader_with_workers(digits):
    loader = torch.utils.data.DataLoader(load("digits", limit=8), batch_size=4, num_workers=1)
    images, labels = next(iter(loader))
    assert images.shape == (4, 1, 8, 8) and labels.dtype == torch.long


@pytest.mark.parametrize(
    ("name", "arguments", "error", "message"),
    [
        ("imagenet", {}, ValueError, "'digits', 'mnist', 'cifar10', 'nmnist', 'dvs_gesture', 'cif"),
        ("digits", {"train": "test"}, TypeError, "train must be True or False, got 'test'"),
        ("digits", {"download": 1}, TypeError, "download must be True or False, got 1"),
        ("digits", {"limit": 0}, ValueError, "limit .* got 0"),
        ("digits", {"limit": 2.5}, TypeError, "limit .* got float"),
        ("digits", {"num_steps": 0}, ValueError, "num_steps .* got 0"),
        ("digits", {"size": 16}, ValueError, r"size must be None or \(8, 8\) .* got \(16, 16\)"),
        ("nmnist", {"size": (34,)}, ValueError, r"size .* got \(34,\)"),
        ("nmnist", {"size": "34"}, TypeError, "size .* got str"),
    ],
)
def test_load_refuses(name, arguments, error, message):
    with pytest.raises(error, match=message):
        load(name, **arguments)


def test_table_is_consistent():
    for name, spec in DATASETS.items():
        assert spec.name == name and spec.kind in ("image", "event")
        assert len(spec.input_shape) == 3 and spec.url.startswith("https://") and spec.description


def test_import_is_light():
    code = (
        "import sys, snntorch_bpsta.data;print({'torchvision', 'tonic', 'sklearn', 'h5py', 'aedat'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(("name", "library"), [("digits", "sklearn"), ("mnist", "torchvision")])
def test_a_missing_library_says_how_to_install_it(name, library, monkeypatch):
    monkeypatch.setitem(sys.modules, f"{library}.datasets", None)
    with pytest.raises(ImportError, match=rf"needs {library}.*snntorch-bpsta\[data\]"):
        load(name)


def test_where_the_folders_are(monkeypatch, tmp_path):
    monkeypatch.delenv("SNNTORCH_BPSTA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert data.cache_dir() == tmp_path / "snntorch_bpsta"
    monkeypatch.setenv("SNNTORCH_BPSTA_DATA", str(tmp_path / "mine"))
    with pytest.raises(FileNotFoundError, match="mine"):
        load("nmnist")


# ---------------------------------------------------------------------------------------- mnist


def _idx(array):
    magic = bytes([0, 0, 8, array.ndim])
    return magic + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


@pytest.fixture
def small_mnist(tmp_path, torchvision, monkeypatch):
    """A root with four small .gz files whose md5s torchvision is made to expect."""
    rng, raw, resources = np.random.default_rng(0), tmp_path / "root" / "MNIST" / "raw", []
    raw.mkdir(parents=True)
    for part, count in (("train", 12), ("t10k", 5)):
        for kind, array in (
            ("images-idx3", rng.integers(256, size=(count, 28, 28), dtype=np.uint8)),
            ("labels-idx1", np.arange(count, dtype=np.uint8) % 10),
        ):
            name, packed = f"{part}-{kind}-ubyte.gz", gzip.compress(_idx(array), mtime=0)
            (raw / name).write_bytes(packed)
            resources.append((name, _md5(packed)))
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
    return tmp_path / "root"


def test_mnist_gz_is_read_as_it_lies(small_mnist, cache):
    before = _tree(small_mnist)
    train, test = load("mnist", root=small_mnist), load("mnist", root=small_mnist, train=False)
    assert _tree(small_mnist) == before
    pixels = np.frombuffer(gzip.decompress(before[Path("MNIST/raw/train-images-idx3-ubyte.gz")])[16:], np.uint8)
    images = torch.stack([image for image, _ in train])
    assert images.shape == (12, 1, 28, 28)
    torch.testing.assert_close(images.flatten(), torch.from_numpy(pixels / np.float32(255)))
    assert train.targets.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert len(test) == 5
    assert not cache.exists(), "nothing is unpacked to where it could go stale"


def test_mnist_unpacked_is_read_where_it_lies(small_mnist, cache):
    for packed in (small_mnist / "MNIST" / "raw").glob("*.gz"):
        packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
        packed.unlink()
    assert len(load("mnist", root=small_mnist)) == 12
    assert not cache.exists()


def test_mnist_old_caches_do_not_take_precedence(small_mnist, cache, torchvision):
    """Neither what torchvision once wrote to processed/, nor what this package once unpacked."""
    expected = load("mnist", root=small_mnist)
    processed = small_mnist / "MNIST" / "processed"
    processed.mkdir()
    for part in ("training.pt", "test.pt"):
        torch.save(
            (torch.full((12, 28, 28), 7, dtype=torch.uint8), torch.zeros(12, dtype=torch.long)), processed / part
        )
    (cache / "MNIST" / "raw").mkdir(parents=True)
    for packed in (small_mnist / "MNIST" / "raw").glob("*.gz"):
        length = len(gzip.decompress(packed.read_bytes()))
        (cache / "MNIST" / "raw" / packed.stem).write_bytes(bytes(length))
    found = load("mnist", root=small_mnist)
    np.testing.assert_array_equal(found.data, expected.data)
    assert torch.equal(found.targets, expected.targets)


def test_mnist_packed_and_unpacked_may_be_mixed(small_mnist):
    expected = load("mnist", root=small_mnist)
    packed = small_mnist / "MNIST" / "raw" / "train-images-idx3-ubyte.gz"
    packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
    packed.unlink()
    np.testing.assert_array_equal(load("mnist", root=small_mnist).data, expected.data)
    assert len(load("mnist", root=small_mnist / "MNIST")) == 12, "the data set's own folder"


def test_mnist_damaged_files_are_named(small_mnist):
    raw = small_mnist / "MNIST" / "raw"
    labels = raw / "train-labels-idx1-ubyte.gz"
    intact = labels.read_bytes()
    labels.write_bytes(intact[:-5])
    with pytest.raises(ValueError, match=r"expected .*train-labels-idx1-ubyte\.gz .*md5 is not"):
        load("mnist", root=small_mnist)
    labels.write_bytes(intact)
    for packed in raw.glob("*.gz"):
        packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
    (raw / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03")
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte .* delete it and get it again"):
        load("mnist", root=small_mnist)
    (raw / "train-images-idx3-ubyte").write_bytes(_idx(np.zeros((3, 28, 28), np.uint8)))
    with pytest.raises(ValueError, match="3 images and 12 labels"):
        load("mnist", root=small_mnist)


def test_mnist_missing_says_what_where_and_how(small_mnist):
    (small_mnist / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError) as caught:
        load("mnist", root=small_mnist)
    for part in (
        "MNIST/raw/t10k-labels-idx1-ubyte.gz",
        str(small_mnist),
        DATASETS["mnist"].url,
        "--data-root",
        "SNNTORCH_BPSTA_DATA",
        "download=True",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_download_goes_through_torchvision_into_root(name, torchvision, tmp_path, monkeypatch):
    asked = []

    def refuse(url, download_root, **kwargs):
        asked.append((url, download_root))
        raise RuntimeError("no network here")

    module = "mnist" if name == "mnist" else "cifar"
    monkeypatch.setattr(f"torchvision.datasets.{module}.download_and_extract_archive", refuse)
    with pytest.raises(ConnectionError, match=f"the download of the data set '{name}' failed"):
        load(name, root=tmp_path / "root", download=True)
    assert asked and all(str(tmp_path / "root") in str(folder) for _, folder in asked)


# ---------------------------------------------------------------------------------------- cifar10


@pytest.fixture(scope="session")
def cifar_files(tmp_path_factory):
    """One train and one test batch, in torchvision's layout and as an archive."""
    base, md5 = tmp_path_factory.mktemp("cifar"), {}
    batches = base / "batches" / "cifar-10-batches-py"
    batches.mkdir(parents=True)
    for shift, name in enumerate(("data_batch_1", "test_batch")):
        grey = (np.arange(10_000, dtype=np.int64) + shift) % 251
        pixels = np.repeat(grey.astype(np.uint8)[:, None], 3072, 1)
        pixels[:, 0] = 255  # the red corner, so that a wrong transposition shows
        pickled = pickle.dumps({"labels": (grey % 10).tolist(), "data": pixels}, protocol=4)
        (batches / name).write_bytes(pickled)
        md5[name] = _md5(pickled)
    meta = pickle.dumps({"label_names": list("abcdefghij")})
    (batches / "batches.meta").write_bytes(meta)
    md5["batches.meta"] = _md5(meta)
    (base / "archive").mkdir()
    with tarfile.open(base / "archive" / "cifar-10-python.tar.gz", "w:gz", compresslevel=1) as tar:
        tar.add(batches, arcname="cifar-10-batches-py")
    return base, md5


@pytest.fixture
def cifar(cifar_files, torchvision, monkeypatch):
    base, md5 = cifar_files
    dataset = torchvision.datasets.CIFAR10
    monkeypatch.setattr(dataset, "train_list", [["data_batch_1", md5["data_batch_1"]]])
    monkeypatch.setattr(dataset, "test_list", [["test_batch", md5["test_batch"]]])
    monkeypatch.setattr(dataset, "meta", {**dataset.meta, "md5": md5["batches.meta"]})
    return base


@pytest.fixture
def linked(cifar, tmp_path):
    """Copies of a form of the small CIFAR-10, to damage: ``linked(form)``."""

    def copy(form):
        for path in (cifar / form).rglob("*"):
            if path.is_file():
                target = tmp_path / form / path.relative_to(cifar / form)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(path)
        return tmp_path / form

    return copy


def _replace(path, raw):
    path.unlink()
    path.write_bytes(raw)


@pytest.mark.parametrize("form", ["batches", "archive"])
def test_cifar10_is_the_same_from_every_form(cifar, form, cache):
    root = cifar / form
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    train, test = load("cifar10", root=root), load("cifar10", root=root, train=False)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    assert not cache.exists()
    assert len(train) == len(test) == 10_000
    image, label = test[6]
    assert image.shape == (3, 32, 32) and label == 7
    assert image[0, 0, 0] == 1 and torch.all(image[1:] == np.float32(7 / 255))
    assert torch.equal(train.targets, torch.arange(10_000) % 251 % 10)


@pytest.mark.parametrize(
    ("form", "file", "raw"),
    [
        ("batches", "cifar-10-batches-py/test_batch", b"half"),
        ("archive", "cifar-10-python.tar.gz", b"\x1f\x8b\x08 no archive"),
    ],
)
def test_cifar10_damaged_files_are_named(linked, form, file, raw):
    root = linked(form)
    _replace(root / file, raw)
    with pytest.raises(ValueError, match=rf"expected .*{file} to be intact.*get it again"):
        load("cifar10", root=root, train=False)


def test_cifar10_other_pixels_do_not_pass_the_md5(linked):
    folder = linked("batches") / "cifar-10-batches-py"
    _replace(folder / "data_batch_1", (folder / "test_batch").read_bytes())
    with pytest.raises(ValueError, match="the md5 of data_batch_1 is not"):
        load("cifar10", root=folder.parent)
    assert len(load("cifar10", root=folder, train=False)) == 10_000, "the data set's own folder"


def test_cifar10_missing_files_are_named(linked):
    root = linked("batches")
    (root / "cifar-10-batches-py" / "test_batch").unlink()
    with pytest.raises(
        FileNotFoundError, match=rf"expected cifar-10-batches-py/test_batch in {root}.*got .*data_batch_1"
    ):
        load("cifar10", root=root, train=False)
    with pytest.raises(FileNotFoundError, match="expected cifar-10-batches-py/ or cifar-10-python.tar.gz"):
        load("cifar10", root=root / "elsewhere")


def test_cifar10_an_archive_that_unpacks_to_too_much_is_refused(cifar, tmp_path, monkeypatch):
    """Wherever the many bytes are: in a file before the batches, in one of them, or in a header."""
    monkeypatch.setattr("snntorch_bpsta.data.images._UNPACKED", 1 << 20)
    monkeypatch.setattr("snntorch_bpsta.data.images.LARGEST", 1 << 18)
    path = tmp_path / "cifar-10-python.tar.gz"
    for name, size, header in (
        ("first", 1 << 21, {}),
        ("cifar-10-batches-py/test_batch", 1 << 19, {}),
        ("first", 1, {"x": "y" * (1 << 21)}),
    ):
        with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as tar:
            info = tarfile.TarInfo(name)
            info.size, info.pax_headers = size, header
            tar.addfile(info, io.BytesIO(bytes(size)))
        assert path.stat().st_size < 10_000
        with pytest.raises(ValueError, match=f"expected {path} to be intact.*( unpacks to more than|files of at most)"):
            load("cifar10", root=tmp_path, train=False)


# --------------------------------------------------------------------------------- the real ones


def test_real_mnist(torchvision, real):
    root = real("MNIST")
    train, test = load("mnist", root=root), load("mnist", root=root, train=False)
    assert train.targets.bincount().tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949,
    ]  # fmt: skip
    assert len(test) == 10_000 and test.targets[:5].tolist() == [7, 2, 1, 0, 4]
    assert abs(train.data.mean() / 255 - 0.1307) < 1e-4


def test_real_cifar10(torchvision, real):
    test = load("cifar10", root=real("CIFAR10"), train=False)
    assert test.targets.bincount().tolist() == [1000] * 10
    assert test.targets[:5].tolist() == [3, 8, 8, 0, 6]
