"""Static images: `digits`, `mnist`, `cifar10`. Bytes in memory, scaled to [0, 1] on access."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ._common import (
    Samples,
    cache_dir,
    check_loader,
    damaged,
    decoding,
    fetching,
    missing,
    need,
    write_atomically,
)

if TYPE_CHECKING:
    from .._typing import AnyPath

__all__ = ["cifar10", "digits", "mnist"]

DIGITS_URL = "https://archive.ics.uci.edu/dataset/80"
MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"


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
    """MNIST through torchvision: 60,000 train and 10,000 test images [1, 28, 28].

    Looks for ``MNIST/raw/*-ubyte`` in `root` (torchvision's layout), then for the four original
    ``MNIST/raw/*.gz``, which are checked by md5 and unpacked into the cache folder; `root` is only
    written to by a download.

    Args:
        train: the training part if True, else the test part.
        root: folder (``pathlib.Path``) that holds ``MNIST/``.
        download: let torchvision download into `root` what is not there.

    Returns:
        Samples: float32 [1, 28, 28] in [0, 1] (bytes divided by 255), labels 0..9.

    Raises:
        FileNotFoundError: a file is missing and `download` is False.
        ValueError: a file is damaged.
        ImportError: torchvision is missing.
        ConnectionError: the download failed.

    References:
        Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-based learning applied to document
        recognition", Proc. IEEE 86(11), 1998. Copyright Y. LeCun and C. Cortes, usually given as CC
        BY-SA 3.0.
    """
    root = check_loader(train, root, download)
    dataset = need("torchvision.datasets").MNIST
    raw, packed_md5 = root / "MNIST" / "raw", dict(dataset.resources)
    if not all((raw / Path(name).stem).is_file() for name in packed_md5):
        absent = [name for name in packed_md5 if not (raw / name).is_file()]
        if absent and download:
            with fetching("mnist", MNIST_URL):
                dataset(str(root), download=True)
        elif absent:
            raise missing("mnist", f"MNIST/raw/{absent[0]} (or unpacked)", root, MNIST_URL)
        else:
            root = cache_dir()
            for name, md5 in packed_md5.items():
                _unpack(raw / name, md5, root / "MNIST" / "raw" / Path(name).stem)
    pair = root / "MNIST" / "raw" / f"{'train' if train else 't10k'}-*-ubyte"
    with decoding(pair, MNIST_URL):
        found = dataset(str(root), train=train)
        if len(found.data) != len(found.targets):
            raise ValueError(f"{len(found.data)} images and {len(found.targets)} labels")
    return Samples(found.data.numpy()[:, None], found.targets, scale=255)


def cifar10(train: bool, root: AnyPath, download: bool = False) -> Samples:
    """CIFAR-10 through torchvision: 50,000 train and 10,000 test images [3, 32, 32].

    Looks in `root` for ``cifar-10-batches-py/`` (torchvision's layout), ``cifar-10-python.tar.gz``
    (the original archive), then ``CIFAR10/*.webp`` with ``CIFAR10/wrap.npz`` (a lossless compressed
    form: per batch one picture of 100 x 100 tiles, and the bytes before and after the pixels). The
    latter two are restored into the cache folder once. torchvision's md5 check of every batch stays
    on; `root` is only written to by a download.

    Args:
        train: the training part if True, else the test part.
        root: folder (``pathlib.Path``) that holds one of the three.
        download: let torchvision download into `root` (170 MB) what is not there.

    Returns:
        Samples: float32 [3, 32, 32] in [0, 1] (bytes divided by 255), labels 0..9.

    Raises:
        FileNotFoundError: a file is missing and `download` is False.
        ValueError: a file is damaged.
        ImportError: torchvision (or Pillow, which it brings) is missing.
        ConnectionError: the download failed.

    References:
        A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", tech report,
        University of Toronto, 2009. No licence is stated; the authors ask for the citation.
    """
    root = check_loader(train, root, download)
    dataset = need("torchvision.datasets").CIFAR10
    batch_md5 = dict([*dataset.train_list, *dataset.test_list, (dataset.meta["filename"], dataset.meta["md5"])])
    archive, tiles = root / dataset.filename, root / "CIFAR10"
    if not (root / dataset.base_folder).is_dir():
        if archive.is_file():
            root = _restore(
                batch_md5,
                dataset.base_folder,
                lambda name: (archive, _from_archive(archive, dataset, name)),
            )
        elif (tiles / "wrap.npz").is_file():
            root = _restore(batch_md5, dataset.base_folder, lambda name: (tiles, _from_tiles(tiles, name)))
        elif download:
            with fetching("cifar10", CIFAR10_URL):
                dataset(str(root), download=True)
        else:
            expected = f"{dataset.base_folder}/, {dataset.filename} or CIFAR10/wrap.npz"
            raise missing("cifar10", expected, root, CIFAR10_URL)
    try:
        found = dataset(str(root), train=train)
    except RuntimeError as error:
        for name, md5 in batch_md5.items():
            batch = root / dataset.base_folder / name
            if not batch.is_file():
                raise missing("cifar10", f"{dataset.base_folder}/{name}", root, CIFAR10_URL) from error
            if _md5(batch.read_bytes()) != md5:
                raise damaged(batch, f"md5 is not {md5}", CIFAR10_URL) from error
        raise
    return Samples(np.ascontiguousarray(found.data.transpose(0, 3, 1, 2)), found.targets, scale=255)


def _md5(data):
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _unpack(packed, md5, target):
    """Unpack a .gz unless `target` has the length that the last four bytes of the .gz tell."""
    data = packed.read_bytes()
    if target.is_file() and target.stat().st_size == int.from_bytes(data[-4:], "little"):
        return
    if _md5(data) != md5:
        raise damaged(packed, f"md5 is not {md5}", MNIST_URL)
    write_atomically(target, [gzip.decompress(data)])


def _restore(batch_md5, folder, read):
    """Complete the cache folder's batches; ``read(name)`` gives where from and the bytes."""
    for name, md5 in batch_md5.items():
        target = cache_dir() / folder / name
        if target.is_file() and _md5(target.read_bytes()) == md5:
            continue
        source, data = read(name)
        if _md5(data) != md5:
            raise damaged(source, f"the md5 of {name} is not {md5}", CIFAR10_URL)
        write_atomically(target, [data])
    return cache_dir()


def _from_archive(archive, dataset, name):
    with (
        open(archive, "rb") as file,
        decoding(archive, CIFAR10_URL),
        tarfile.open(fileobj=file) as tar,
    ):
        return tar.extractfile(f"{dataset.base_folder}/{name}").read()


def _from_tiles(folder, name):
    """A batch is its head, 10,000 x 3 x 32 x 32 bytes and its tail; the meta file has no pixels."""
    with open(folder / "wrap.npz", "rb") as file, decoding(folder / "wrap.npz", CIFAR10_URL):
        wrap = np.load(file, allow_pickle=False)
        if name == "batches.meta":
            return wrap[name].tobytes()
        head, tail = wrap[f"{name}.head"].tobytes(), wrap[f"{name}.tail"].tobytes()
    picture = folder / f"{name}.webp"
    if not picture.is_file():
        raise missing("cifar10", f"CIFAR10/{name}.webp", folder.parent, CIFAR10_URL)
    data = picture.read_bytes()
    with decoding(picture, CIFAR10_URL):
        pixels = np.asarray(need("PIL.Image").open(io.BytesIO(data)))
        images = pixels.reshape(100, 32, 100, 32, 3).transpose(0, 2, 4, 1, 3)
        return head + images.tobytes() + tail
