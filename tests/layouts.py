"""Data that is at hand in a packed form, in the layouts that the package reads.

    python tests/layouts.py SOURCE TARGET

SOURCE is a folder with any of ``MNIST/``, ``CIFAR10/``, ``NMNIST/``, ``DVS128Gesture/`` and ``other/``. What is packed there
is unpacked into TARGET, once; of everything else TARGET gets a link. TARGET is printed: ``SNNTORCH_BPSTA_DATA`` may be set
to it.

The packed forms: ``CIFAR10/wrap.npz`` and ``CIFAR10/*.webp`` (a batch is one picture of 100 x 100 tiles, and the bytes
before and after the pixels); ``NMNIST/nmnist_1100_bin.zip`` (1,000 and 100 recordings as they are);
``other/braille_tactile_1350.npz`` (Braille letters, which are public as a pickle of arrays); and
``DVS128Gesture/dvsgesture_10clips_bin.zip`` (ten clips, one of each class but "other", without a split, so that they are put
into both parts; in ms, as tonic's are).
"""

import gzip
import os
import pickle
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT.parent / "shared" / "data"  # beside the repository


def source():
    """The folder of the data that tests and scripts may use, which need not be there."""
    return Path(os.environ.get("SNNTORCH_BPSTA_DATA") or HERE)


def cifar10(packed, folder):
    from PIL import Image

    wrap = np.load(packed / "wrap.npz", allow_pickle=False)
    for name in [key.removesuffix(".head") for key in wrap if key.endswith(".head")]:
        tiles = np.asarray(Image.open(packed / f"{name}.webp")).reshape(100, 32, 100, 32, 3).transpose(0, 2, 4, 1, 3)
        (folder / name).write_bytes(wrap[f"{name}.head"].tobytes() + tiles.tobytes() + wrap[f"{name}.tail"].tobytes())
    (folder / "batches.meta").write_bytes(wrap["batches.meta"].tobytes())


def nmnist(packed, folder):
    with zipfile.ZipFile(packed / "nmnist_1100_bin.zip") as archive:
        archive.extractall(folder)


def dvs_gesture(packed, folder):
    with zipfile.ZipFile(packed / "dvsgesture_10clips_bin.zip") as archive:
        for name in archive.namelist():
            x, y, high, middle, low = np.frombuffer(archive.read(name), np.uint8).reshape(-1, 5).T.astype(np.int64)
            assert (y < 128).all(), "an overflow of the clock"
            t = (high & 127) << 16 | middle << 8 | low
            for part in ("Train", "Test"):
                path = folder / f"ibmGesture{part}" / "user01_unknown" / f"{name.partition('_')[0]}.npy"
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, np.stack((x, y, high >> 7, t // 1000), 1))


def braille(packed, folder):
    held = np.load(packed / "braille_tactile_1350.npz", allow_pickle=False)
    starts = np.cumsum(held["length"].astype(np.int64))[:-1]
    letters = [str(held["letters"][label]) for label in held["label"]]
    readings = np.split(held["taxel"].astype(np.float64), starts)
    rows = [
        {"letter": letter, "repetition": int(repetition), "taxel_data": each}
        for letter, repetition, each in zip(letters, held["repetition"], readings, strict=True)
    ]
    with gzip.open(folder / "tutorial5_braille_spiking_data.pkl.gz", "wb") as file:
        pickle.dump(rows, file)


# Folder of the packed form, a file of it, folder of the public layout, and how one becomes the other.
PACKED = {
    "CIFAR10": ("wrap.npz", "cifar-10-batches-py", cifar10),
    "NMNIST": ("nmnist_1100_bin.zip", "NMNIST", nmnist),
    "other": ("braille_tactile_1350.npz", "braille", braille),
    "DVS128Gesture": ("dvsgesture_10clips_bin.zip", "DVSGesture", dvs_gesture),
}


def unpack(source, target, names=None):
    """`target`, with the public layouts of what is in `source`, or of the `names` in it."""
    source, target = Path(source).resolve(), Path(target).absolute()
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        if not path.is_dir() or (names is not None and path.name not in names):
            continue
        file, public, form = PACKED.get(path.name, (None, path.name, None))
        packed = form is not None and (path / file).is_file()
        place = target / (public if packed else path.name)
        if place.exists():
            continue
        with tempfile.TemporaryDirectory(dir=target) as folder:
            made = Path(folder) / "made"  # whole, or not at all under its name
            if packed:
                made.mkdir()
                form(path, made)
            else:
                made.symlink_to(path)
            try:
                made.rename(place)
            except OSError:  # another process was faster
                if not place.exists():
                    raise
            if packed:
                shutil.rmtree(made, ignore_errors=True)
    return target


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    print(unpack(*sys.argv[1:]))
