"""Convolutions that skip zeros, on the CPU: lists of what is not zero, and three passes over them, an image at a time.

Pictures are float32 and lie channels last, ``[N, H, W, C]``, those of the output with as many channels as its blocks hold;
stride 1, the same padding above, below and beside. Weights come in blocks ``[input blocks, output blocks, CB, taps, OB]``,
see ``vectors.py``, with zeros where the channels do not fill a block. The functions take addresses; what they hold:

- ``counts`` [N]: how many numbers of an image are not zero, or -1 less that where one is neither 0 nor 1, for which a
  zero with a sign counts too;
- ``entries`` (uint16): the lists of all rows, image by image, block by block, and room for one more behind each image;
- ``starts`` [N, blocks * H + 1] (int64): where a row's list begins;
- ``offsets`` [N, blocks * H, W + 1] (uint16): where a column's begins in its row's;
- ``values`` (float32), where the lists are graded: the numbers of the entries, which are one otherwise.
"""

from __future__ import annotations

import zlib
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba.core import types

from ..._numba import njit
from .rows import array
from .vectors import Block, add_pictures, forward_row, row_gradients

_ONE = np.int32(0x3F800000)
_CACHE = 40 << 10  # bytes of a band of the gradient that stays in the first cache
# numba dates a kernel by its own file alone
_SOURCES = zlib.crc32(b"".join(Path(__file__).with_name(f"{name}.py").read_bytes() for name in ("vectors", "rows")))

_ints = [types.int64]


@njit(types.void(*_ints * 5), error_model="numpy")
def count(pictures, size, counts, begin, end):
    """Fill `counts` of the images from `begin` to `end`, of `size` numbers each."""
    VERSION = _SOURCES
    numbers = array(counts, end, np.int64)
    for n in range(begin, end):
        words = array(pictures + 4 * n * size, size, np.int32)
        found, ones = np.int32(VERSION * 0), np.int32(0)
        for i in range(size):
            found += np.int32(words[i] != 0)
            ones += np.int32(words[i] == _ONE)
        numbers[n] = found if ones == found else -1 - found


@njit(types.void(*_ints * 12), error_model="numpy")
def fill(pictures, height, width, channels, block, blocks, firsts, entries, starts, offsets, begin, end):
    """Fill the lists of the images from `begin` to `end`; those of image n begin at ``firsts[n]``."""
    rows = blocks * height
    first = array(firsts, end, np.int64)
    for n in range(begin, end):
        words = array(pictures + 4 * n * height * width * channels, height * width * channels, np.int32)
        start = array(starts + 8 * n * (rows + 1), rows + 1, np.int64)
        offset = array(offsets + 2 * n * rows * (width + 1), rows * (width + 1), np.uint16)
        k = first[n]
        entry = array(entries, k + height * width * channels + 1, np.uint16)  # what is no entry is written over
        for part in range(blocks):
            low = part * block
            many = min(block, channels - low)
            for y in range(height):
                row = part * height + y
                begun = k
                start[row] = k
                for x in range(width):
                    offset[row * (width + 1) + x] = k - begun
                    at = (y * width + x) * channels + low
                    for c in range(many):
                        entry[k] = x * block + c
                        k += np.int64(words[at + c] != 0)
                offset[row * (width + 1) + width] = k - begun
        start[rows] = k


class Shape(NamedTuple):
    """Sizes that all passes of a convolution need, in the order of their arguments."""

    height: int
    width: int
    channels: int
    blocks: int
    out_height: int
    out_width: int
    out_channels: int  # in memory
    out_blocks: int
    padding: int


@cache
def forward_kernel(block: Block, graded: bool) -> Any:
    """``(entries, starts, offsets, values, weights, out, *Shape, begin, end)``: adds to `out`, which holds the bias."""
    row_of = forward_row(block, graded)
    K, OUTPUTS, BYTES, VERSION = block.size, block.outputs, block.bytes * block.channels, _SOURCES

    @njit(types.void(*_ints * 17), error_model="numpy")
    def forward(
        entries, starts, offsets, values, weights, out, height, width, channels, blocks, out_height, out_width,
        out_channels, out_blocks, padding, begin, end,
    ):  # fmt: skip
        rows = blocks * height + VERSION * 0
        nowhere = np.empty(OUTPUTS, np.float32)
        places, strides = np.empty(K, np.int64), np.empty(K, np.int64)
        for n in range(begin, end):
            start = array(starts + 8 * n * (rows + 1), rows + 1, np.int64)
            for o in range(out_blocks):
                for part in range(blocks):
                    for y in range(height):
                        row = part * height + y
                        if start[row] == start[row + 1]:
                            continue
                        for k in range(K):
                            at = y + padding - (K - 1) + k
                            inside = 0 <= at < out_height
                            to = out + 4 * ((n * out_height + at) * out_width * out_channels + o * OUTPUTS)
                            places[k] = to if inside else nowhere.ctypes.data
                            strides[k] = 4 * out_channels if inside else 0
                        row_of(
                            entries + 2 * start[row], offsets + 2 * (n * rows + row) * (width + 1),
                            values + 4 * start[row], weights + (part * out_blocks + o) * BYTES, places.ctypes.data,
                            strides.ctypes.data, width, out_width, K - 1 - padding,
                        )  # fmt: skip

    return forward


@cache
def backward_kernel(block: Block, at_spikes: bool) -> Any:
    """``(entries, starts, offsets, weights, gradient, weight_gradient, gradients, *Shape, begin, end)``: adds to
    `weight_gradient`, which lies as the weights do, and with `at_spikes` to `gradients`, one for each entry. `gradient` is
    that of the output."""
    add_to_weights, to_entries = add_pictures(block), row_gradients(block)
    K, CHANNELS, OUTPUTS, TAPS = block.size, block.channels, block.outputs, block.size**2
    BYTES, VERSION, AT_SPIKES = block.bytes * block.channels, _SOURCES, at_spikes

    @njit(types.void(*_ints * 18), error_model="numpy")
    def backward(
        entries, starts, offsets, weights, gradient, weight_gradient, gradients, height, width, channels, blocks,
        out_height, out_width, out_channels, out_blocks, padding, begin, end,
    ):  # fmt: skip
        rows, across, border = blocks * height + VERSION * 0, width + K - 1, K - 1 - padding
        band = min(height, max(1, _CACHE // (4 * OUTPUTS * across) - (K - 1)))
        row_bytes = 4 * across * OUTPUTS
        picture = np.zeros((band + K - 1, across, OUTPUTS), np.float32)
        places = np.empty((CHANNELS * blocks, band * width), np.int32)
        numbers = np.empty(CHANNELS * blocks, np.int64)
        for n in range(begin, end):
            start = array(starts + 8 * n * (rows + 1), rows + 1, np.int64)
            entry = array(entries, start[rows], np.uint16)
            whole = array(
                gradient + 4 * n * out_height * out_width * out_channels,
                out_height * out_width * out_channels,
                np.float32,
            )
            for low in range(0, height, band):
                many = min(band, height - low)
                for i in range(CHANNELS * blocks):
                    numbers[i] = 0
                for part in range(blocks):
                    for y in range(many):
                        row = part * height + low + y
                        for j in range(start[row], start[row + 1]):
                            c = part * CHANNELS + entry[j] % CHANNELS
                            places[c, numbers[c]] = y * across + entry[j] // CHANNELS
                            numbers[c] += 1
                for o in range(out_blocks):
                    for y in range(many + K - 1):
                        at = low + y - border
                        if at < 0 or at >= out_height:
                            picture[y] = 0
                            continue
                        source = at * out_width * out_channels + o * OUTPUTS
                        for x in range(border, border + out_width):
                            for c in range(OUTPUTS):
                                picture[y, x, c] = whole[source + c]
                            source += out_channels
                    for part in range(blocks):
                        at_block = (part * out_blocks + o) * BYTES
                        for c in range(CHANNELS):
                            i = part * CHANNELS + c
                            if numbers[i]:
                                add_to_weights(
                                    places.ctypes.data + 4 * i * band * width, numbers[i], picture.ctypes.data, row_bytes,
                                    weight_gradient + at_block + 4 * c * TAPS * OUTPUTS,
                                )  # fmt: skip
                        if AT_SPIKES:
                            for y in range(many):
                                row = part * height + low + y
                                if start[row] < start[row + 1]:
                                    to_entries(
                                        entries + 2 * start[row], offsets + 2 * (n * rows + row) * (width + 1),
                                        weights + at_block, picture.ctypes.data + y * row_bytes, row_bytes, width,
                                        gradients + 4 * start[row],
                                    )  # fmt: skip

    return backward


@cache
def move_kernel(back: bool) -> Any:
    """``(entries, starts, values, pictures, height, width, channels, block, blocks, begin, end)``: fills `values` with the
    numbers of the entries in `pictures`; or, if `back`, puts them there, in `pictures` of zeros."""
    BACK = back

    @njit(types.void(*_ints * 11), error_model="numpy")
    def move(entries, starts, values, pictures, height, width, channels, block, blocks, begin, end):
        rows = blocks * height
        for n in range(begin, end):
            start = array(starts + 8 * n * (rows + 1), rows + 1, np.int64)
            entry, value = array(entries, start[rows], np.uint16), array(values, start[rows], np.float32)
            picture = array(pictures + 4 * n * height * width * channels, height * width * channels, np.float32)
            for part in range(blocks):
                for y in range(height):
                    row = part * height + y
                    for j in range(start[row], start[row + 1]):
                        x, c = entry[j] // block, entry[j] % block
                        at = (y * width + x) * channels + part * block + c
                        if BACK:
                            picture[at] = value[j]
                        else:
                            value[j] = picture[at]

    return move
