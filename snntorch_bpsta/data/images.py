"""Static images: `digits`, `mnist`, `cifar10`. Bytes in memory, scaled to [0, 1] on access. Archives are read as they lie:
nothing is unpacked to a disk, where it could go stale."""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import pickle
import tarfile
from typing import TYPE_CHECKING

import numpy as np

from ._common import Samples, check_loader, contents, damaged, decoding, fetch, missing, need
from ._gate import LARGEST, data_folder, look, read

if TYPE_CHECKING:
    from .._typing import AnyPath

__all__ = ["cifar10", "digits", "mnist"]

DIGITS_URL = "https://archive.ics.uci.edu/dataset/80"
MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"

_UNPACKED = 1 << 29  # bytes that the archive of CIFAR-10 may unpack to; it has 186 MB


def digits(train: bool, root: AnyPath | None = None, download: bool = False) -> Samples:
    """Optical handwritten digits: the 1,797 images [1, 8, 8] that scikit-learn brings along.

    scikit-learn has the test part of the original set, without a split of its own. Here 1,437 train
    and 360 test (80 / 20, stratified, ``train_test_split(..., random_state=0)``), whatever the seed
    of the training.

    Args:
        train: the training part if True, else the test part.
        root, download: unused; as in the other loaders.

    Returns:
        Samples: float32 [1, 8, 8] in [0, 1] (pixels 0..16 divided by 16), labels 0..9.

    Raises:
        ImportError: scikit-learn is missing.

    References:
        E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
        Repository, 1998. Licence CC BY 4.0.
    """
    check_loader(train, root, download)
    found = need("sklearn.datasets").load_digits()
    split = need("sklearn.model_selection").train_test_split(
        np.arange(len(found.target)), test_size=0.2, stratify=found.target, random_state=0
    )
    index = np.sort(split[0 if train else 1])
    return Samples(found.images[index, None].astype(np.uint8), found.target[index], scale=16)


def mnist(train: bool, root: AnyPath, download: bool = False) -> Samples:
    """MNIST: 60,000 train and 10,000 test images [1, 28, 28].

    Looks in ``MNIST/raw/`` of `root` (torchvision's layout) for each of the four files ``*-ubyte``, and where one is not
    there for the original ``*-ubyte.gz``, whose md5 is checked. ``MNIST/processed/``, of old versions of torchvision, is
    not read. Links are followed.

    Args:
        train: the training part if True, else the test part.
        root: folder (``pathlib.Path``) that holds ``MNIST/``, or that folder.
        download: let torchvision download into `root` what is not there; of several processes one does, and the others wait.

    Returns:
        Samples: float32 [1, 28, 28] in [0, 1] (bytes divided by 255), labels 0..9.

    Raises:
        FileNotFoundError: a file is missing and `download` is False.
        ValueError: a file is damaged, or no regular file.
        ImportError: torchvision is missing.
        ConnectionError: the download failed.

    References:
        Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-based learning applied to document
        recognition", Proc. IEEE 86(11), 1998. Copyright Y. LeCun and C. Cortes, usually given as CC
        BY-SA 3.0.
    """
    root = check_loader(train, root, download)
    dataset = need("torchvision.datasets").MNIST
    packed_md5 = dict(dataset.resources)

    def absent():
        raw = data_folder(root, "MNIST") / "raw"
        return [name for name in packed_md5 if not any(os.path.lexists(raw / each) for each in (name, name[:-3]))]

    def fetched():
        # Ours, of the same name, which is that of its folder: the original takes MNIST/processed/ for all there is.
        type("MNIST", (dataset,), {"_check_legacy_exist": lambda self: False})(str(root), download=True)

    if download:
        fetch("mnist", MNIST_URL, root / "MNIST", lambda: not absent(), fetched)
    raw = data_folder(root, "MNIST") / "raw"
    if names := absent():
        raise missing("mnist", f"MNIST/raw/{names[0]} (or unpacked)", root, MNIST_URL, contents(raw, root))
    part = "train" if train else "t10k"
    found, targets = (
        _read_idx(raw / f"{part}-{kind}-ubyte", packed_md5[f"{part}-{kind}-ubyte.gz"], dimensions)
        for kind, dimensions in (("images-idx3", 3), ("labels-idx1", 1))
    )
    if len(found) != len(targets):
        raise damaged(raw / f"{part}-*-ubyte", f"{len(found)} images and {len(targets)} labels", MNIST_URL)
    return Samples(found[:, None], targets, scale=255)


def cifar10(train: bool, root: AnyPath, download: bool = False) -> Samples:
    """CIFAR-10: 50,000 train and 10,000 test images [3, 32, 32].

    Looks in `root` for ``cifar-10-batches-py/`` (torchvision's layout), then for ``cifar-10-python.tar.gz`` (the original
    archive, read as it lies). Every batch is a pickle, which is opened only if it has the md5 that torchvision knows. Links
    are followed.

    Args:
        train: the training part if True, else the test part.
        root: folder (``pathlib.Path``) that holds one of the two, or ``cifar-10-batches-py/`` itself.
        download: let torchvision download into `root` (170 MB) what is not there; of several processes one does, and the
            others wait.

    Returns:
        Samples: float32 [3, 32, 32] in [0, 1] (bytes divided by 255), labels 0..9.

    Raises:
        FileNotFoundError: a file is missing and `download` is False.
        ValueError: a file is damaged, or no regular file.
        ImportError: torchvision is missing.
        ConnectionError: the download failed.

    References:
        A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", tech report,
        University of Toronto, 2009. No licence is stated; the authors ask for the citation.
    """
    root = check_loader(train, root, download)
    dataset = need("torchvision.datasets").CIFAR10
    batches = dict(dataset.train_list if train else dataset.test_list)

    def complete():
        folder, archive = data_folder(root, dataset.base_folder), root / dataset.filename
        if all((folder / name).is_file() for name, _ in dataset.train_list + dataset.test_list):
            return True
        return not folder.is_dir() and archive.is_file() and _md5(read(archive)) == dataset.tgz_md5

    if download:
        fetch("cifar10", CIFAR10_URL, root / dataset.base_folder, complete, lambda: dataset(str(root), download=True))
    folder, archive = data_folder(root, dataset.base_folder), root / dataset.filename
    if folder.is_dir():
        for name in batches:
            if not os.path.lexists(folder / name):
                raise missing("cifar10", f"{dataset.base_folder}/{name}", root, CIFAR10_URL, contents(folder, root))
        source = {name: folder / name for name in batches}
        contained = {name: read(path) for name, path in source.items()}
    elif os.path.lexists(archive):
        source = dict.fromkeys(batches, archive)
        contained = _from_archive(archive, dataset.base_folder, batches)
    else:
        raise missing("cifar10", f"{dataset.base_folder}/ or {dataset.filename}", root, CIFAR10_URL)
    pixels, targets = [], []
    for name, md5 in batches.items():
        if _md5(contained[name]) != md5:
            raise damaged(source[name], f"the md5 of {name} is not {md5}", CIFAR10_URL)
        batch = pickle.loads(contained[name], encoding="latin1")
        pixels.append(np.asarray(batch["data"], np.uint8).reshape(-1, 3, 32, 32))
        targets += batch["labels"]
    return Samples(np.concatenate(pixels), targets, scale=255)


def _md5(data):
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _read_idx(path, md5, dimensions):
    """The bytes of an idx file, [N, ...]; of the .gz beside it where it is not there."""
    if not os.path.lexists(path):
        path = path.with_name(f"{path.name}.gz")
    data = read(path)
    if path.suffix == ".gz":
        if _md5(data) != md5:
            raise damaged(path, f"md5 is not {md5}", MNIST_URL)
        data = gzip.decompress(data)
    # Two bytes of zero, the type of the numbers (8: bytes), the number of dimensions, each as four bytes.
    head = 4 + 4 * dimensions
    shape = tuple(int.from_bytes(data[i : i + 4], "big") for i in range(4, head, 4))
    if data[:4] != bytes([0, 0, 8, dimensions]) or len(data) != head + math.prod(shape):
        raise damaged(
            path, f"it does not hold bytes [{'N, 28, 28' if dimensions == 3 else 'N'}] in the idx form", MNIST_URL
        )
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape).copy()


class _Limited(gzip.GzipFile):
    """Ends with an error before too much has been unpacked."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0 or self.tell() + size > _UNPACKED:
            raise ValueError(f"it unpacks to more than {_UNPACKED:,} bytes")
        return super().read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        if offset > _UNPACKED:
            raise ValueError(f"it unpacks to more than {_UNPACKED:,} bytes")
        return super().seek(offset, whence)


def _from_archive(path, folder, names):
    """The content of the files ``folder/NAME`` in a .tar.gz."""
    look(path)
    with open(path, "rb") as file, decoding(path, CIFAR10_URL), _Limited(fileobj=file) as unpacked:
        with tarfile.open(fileobj=unpacked, mode="r:") as tar:
            found = {name: tar.getmember(f"{folder}/{name}") for name in names}
            if any(not member.isreg() or member.size > LARGEST for member in found.values()):
                raise ValueError(f"expected files of at most {LARGEST:,} bytes in it, got others")
            return {name: tar.extractfile(member).read() for name, member in found.items()}
