"""MNIST with a part of its training images in the place of the test set.

    python results/mnist.py SOURCE TARGET [--validation N]

SOURCE is a folder with ``MNIST/raw``. TARGET gets ``MNIST/raw`` whose test images are the last N (5,000) of the training
images, which its training set has not: that is what a learning rate is chosen on. The test set is left alone.
"""

import argparse
from pathlib import Path

import numpy as np

from snntorch_bpsta.data import images


def write(path, array):
    """An idx file: two bytes of zero, the type of the numbers (8: bytes), the number of dimensions, each as four bytes."""
    head = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(head + array.tobytes())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--validation", type=int, default=5000)
    arguments = parser.parse_args()
    held = images.mnist(True, arguments.source)
    folder = arguments.target / "MNIST" / "raw"
    if folder.exists():
        parser.error(f"{folder} is there already")
    folder.mkdir(parents=True)
    for part, rows in (("train", slice(-arguments.validation)), ("t10k", slice(-arguments.validation, None))):
        write(folder / f"{part}-images-idx3-ubyte", np.asarray(held.data[rows], np.uint8).squeeze(1))
        write(folder / f"{part}-labels-idx1-ubyte", np.asarray(held.targets[rows], np.uint8))


if __name__ == "__main__":
    main()
