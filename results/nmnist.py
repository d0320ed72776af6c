"""20,000 N-MNIST recordings that are packed as counts by the millisecond, in the layout of the data set.

    python results/nmnist.py SOURCE TARGET [--validation N]

SOURCE is a folder with ``nmnist_1ms_train_a.npz``, ``nmnist_1ms_train_b.npz`` (17,000 recordings of the data set's training
half, denoised) and ``nmnist_1ms_test.npz`` (3,000 more of that half, of other images: a hold-out, not the official test
set).
TARGET gets ``NMNIST/Train/<label>/<number>.bin`` and ``NMNIST/Test/...``, five bytes an event, times in whole milliseconds.
With ``--validation N`` the last N of the training recordings are the test set and the hold-out is left alone: that is what a
learning rate is chosen on.

In the packed files an event is its distance from the one before in the order (polarity, y, x, millisecond).
"""

import argparse
from pathlib import Path

import numpy as np


def recordings(path):
    """(index of the image, label, events [n, 4] of x, y, polarity and millisecond, in time) of a packed file."""
    packed = np.load(path, allow_pickle=False)
    gap = packed["gap"].astype(np.int64)
    gap[gap == 255] = packed["gap_big"]
    ends = np.cumsum(packed["events"].astype(np.int64))
    for end, count, steps, label, index in zip(
        ends, packed["events"], packed["steps"], packed["label"], packed["mnist_index"], strict=True
    ):
        cell, t = np.divmod(np.cumsum(gap[end - count : end]), int(steps))
        polarity, pixel = np.divmod(cell, 34 * 34)
        y, x = np.divmod(pixel, 34)
        events = np.stack((x, y, polarity, t), 1)
        yield int(index), int(label), events[np.argsort(t, kind="stable")]


def write(folder, index, label, events):
    """A file of the data set: x, y, then a bit of polarity and 23 bits of microseconds."""
    x, y, polarity, t = events.T
    t = t * 1000
    path = folder / str(label) / f"{index + 1:05d}.bin"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(np.stack((x, y, polarity << 7 | t >> 16, t >> 8 & 255, t & 255), 1).astype(np.uint8).tobytes())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--validation", type=int, default=0)
    arguments = parser.parse_args()
    folder = arguments.target / "NMNIST"
    if folder.exists():
        parser.error(f"{folder} is there already")
    train = [each for part in "ab" for each in recordings(arguments.source / f"nmnist_1ms_train_{part}.npz")]
    train.sort(key=lambda each: each[0])
    if arguments.validation:
        train, test = train[: -arguments.validation], train[-arguments.validation :]
    else:
        test = recordings(arguments.source / "nmnist_1ms_test.npz")
    for part, rows in (("Train", train), ("Test", test)):
        for row in rows:
            write(folder / part, *row)


if __name__ == "__main__":
    main()
