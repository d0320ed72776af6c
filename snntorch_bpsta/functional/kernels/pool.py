"""Pooling of spikes on the CPU while they are in cache: the spikes of all neurons are at no time in memory.

The kernels of ``cpu_forward.py`` and ``cpu_backward.py`` run over one piece of the neurons after the other. A piece is
some *bands*, and a band the rows of a plane that one row of windows covers; the last band of a plane has the rows that
are left over, too. Planes are the maps of all samples and channels, or, where channels lie last in memory, those of the
samples, with the channels *inner*.

Ties and NaN are PyTorch's: of a window the first of its largest spikes gets the gradient, of several NaN the last one.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from numba.core import types

from ..._numba import njit
from .rows import SOURCES, WORDS, array, fill_row, jit

_PIECE = 1 << 17  # neuron-steps of a piece: its spikes stay in the second cache
_POOL = types.void(*[types.int64] * 10)
_UNPOOL = types.void(*[types.int64] * 16, types.float64)


class Piece(NamedTuple):
    band: int  # the first one
    bands: int  # how many
    begin: int  # the first neuron
    size: int  # number of neurons


class Bands(NamedTuple):
    """All bands of one step."""

    height: int
    width: int
    inner: int
    window: int  # its height
    bands: int  # how many

    @classmethod
    def of(cls, shape, window):
        """Those of a step ``[B, C, H, W]``; `window` is (height, width, inner)."""
        batch, channels, height, width = shape
        down, _, inner = window
        return cls(height, width, inner, down, batch * channels // inner * (height // down))

    def begin(self, band):
        """The first neuron of a band."""
        plane, row = divmod(band, self.height // self.window)
        return (plane * self.height + row * self.window) * self.width * self.inner

    def pieces(self, begin, end, num_steps):
        """The bands from `begin` to `end`, in pieces."""
        size = max(_PIECE // (num_steps * self.window * self.width * self.inner), 1)
        starts = range(begin, end, size)
        counts = [min(size, end - band) for band in starts]
        return [
            Piece(band, count, self.begin(band), self.begin(band + count) - self.begin(band))
            for band, count in zip(starts, counts, strict=True)
        ]


@jit
def _largest(maps, row, across, width, inner, less, number, item):
    """`row`: the largest of `width` places side by side in `maps`; each counts for `less` less than the one before it."""
    for j in range(width):
        lost = number(j) * less
        if inner == 1:
            o, best = array(maps + item * j, across * width, number), array(row, across, number)
            for x in range(across):
                v = o[x * width] - lost
                best[x] = v if j == 0 or v > best[x] else best[x]
            continue
        for x in range(across):
            best, o = (
                array(row + item * x * inner, inner, number),
                array(maps + item * (x * width + j) * inner, inner, number),
            )
            if j == 0:
                for c in range(inner):
                    best[c] = o[c]
            else:
                for c in range(inner):
                    best[c] = o[c] - lost if o[c] - lost > best[c] else best[c]


@jit
def _spread(row, maps, across, width, inner, more, number, item):
    """The numbers of `row` at `width` places side by side in `maps`, at each with `more` than at the one before it."""
    for j in range(width):
        added = number(j) * more
        if inner == 1:
            o, into = array(row, across, number), array(maps + item * j, across * width, number)
            for x in range(across):
                into[x * width] = o[x] + added
            continue
        for x in range(across):
            o, into = (
                array(row + item * x * inner, inner, number),
                array(maps + item * (x * width + j) * inner, inner, number),
            )
            for c in range(inner):
                into[c] = o[c] + added


@cache
def pool_kernel(KH, KW, average, dtype):
    """From the spikes of a piece, ``[steps, span]`` at `spk`, to its pooled ones, in rows of `out` ``[steps, out_size]``."""
    VERSION, number, share, item = SOURCES, dtype, dtype(KH * KW), dtype().itemsize

    @njit(_POOL, error_model="numpy")
    def pool(spk, span, out, out_size, steps, first, count, height, width, inner):
        down, across = height // KH, VERSION * 0 + width // KW
        plane, line = height * width * inner, width * inner
        begin = first // down * plane + first % down * KH * line
        column = np.empty(line, number)
        for t in range(steps):
            for band in range(first, first + count):
                at = spk + item * (t * span + band // down * plane + band % down * KH * line - begin)
                to = array(out + item * (t * out_size + band * across * inner), across * inner, number)
                if not average:
                    for y in range(KH):
                        o = array(at + item * y * line, line, number)
                        if y == 0:
                            for i in range(line):
                                column[i] = o[i]
                        else:
                            for i in range(line):
                                column[i] = o[i] if o[i] > column[i] else column[i]
                    _largest(column.ctypes.data, to.ctypes.data, across, KW, inner, number(0), number, item)
                elif inner == 1:
                    for x in range(across):
                        total = number(0)
                        for k in range(KH * KW):
                            total += array(at + item * (k // KW * line + k % KW), width, number)[x * KW]
                        to[x] = total / share
                else:
                    for x in range(across):
                        near, row = at + item * x * KW * inner, to[x * inner : (x + 1) * inner]
                        for c in range(inner):
                            total = number(0)
                            for k in range(KH * KW):
                                total += array(near + item * (k // KW * line + k % KW * inner), inner, number)[c]
                            row[c] = total / share

    return pool


@cache
def unpool_kernel(KH, KW, average, dtype):
    """From the gradients at the pooled spikes of a piece to those at its spikes, ``[steps, span]`` at `dspk`.

    Who fired: from what is kept, see ``passes.py``. A neuron that fired has the rank `top` then, others zero, and each
    place of a window takes one off, so that the largest rank belongs to one place alone, the first of equals."""
    VERSION, number, word, share, item = SOURCES, dtype, WORDS[dtype], dtype(KH * KW), dtype().itemsize
    zero, one = number(0), number(1)
    infinite = word(np.array(-np.inf, number).view(word))  # words above it are NaN, of neurons that did not fire

    @njit(_UNPOOL, error_model="numpy")
    def unpool(
        dout, out_size, saved, size, keep, threshold, threshold_size, threshold_inner, dspk, span, steps, first, count,
        height, width, inner, factor,
    ):  # fmt: skip
        down, across = height // KH, VERSION * 0 + width // KW
        plane, line = height * width * inner, width * inner
        begin = first // down * plane + first % down * KH * line
        top = number(KH * KW if factor > 0 else -KH * KW if factor < 0 else 0)
        W, words = array(saved, steps * size, number), array(saved, steps * size, word)
        shorts = array(saved, steps * size, np.int16)
        th, row = np.empty(span, number), np.empty(across * inner, number)
        column, wide, best = np.empty(line, number), np.zeros(line, number), np.zeros(line, number)
        if keep == 3:
            fill_row(th, array(threshold, threshold_size, number), threshold_inner, begin, False)
        for t in range(steps):
            now = t * size + begin
            rank = array(dspk + item * t * span, span, number)  # and in the end the gradient
            if average:
                if down * KH < height:
                    rank[:] = zero
            elif keep == 3:
                u = W[now : now + span]
                for k in range(span):
                    rank[k] = top if u[k] - th[k] > zero else zero
            elif keep == 2:
                short = shorts[now : now + span]
                for k in range(span):
                    rank[k] = top if short[k] <= -128 else zero
            else:
                w = words[now : now + span]
                for k in range(span):
                    rank[k] = top if w[k] <= infinite else zero
            for band in range(first, first + count):
                at = band // down * plane + band % down * KH * line - begin
                to = t * out_size + band * across * inner
                g = array(dout + item * to, across * inner, number)
                if average:
                    for i in range(across * inner):
                        row[i] = g[i] / share
                    _spread(row.ctypes.data, wide.ctypes.data, across, KW, inner, zero, number, item)
                    for y in range(KH):
                        o = array(dspk + item * (t * span + at + y * line), line, number)
                        for i in range(line):
                            o[i] = wide[i]
                    continue
                for y in range(KH):
                    o, lost = array(dspk + item * (t * span + at + y * line), line, number), number(y * KW)
                    if y == 0:
                        for i in range(line):
                            column[i] = o[i]
                    else:
                        for i in range(line):
                            column[i] = o[i] - lost if o[i] - lost > column[i] else column[i]
                _largest(column.ctypes.data, row.ctypes.data, across, KW, inner, one, number, item)
                _spread(row.ctypes.data, best.ctypes.data, across, KW, inner, one, number, item)
                _spread(g.ctypes.data, wide.ctypes.data, across, KW, inner, zero, number, item)
                for y in range(KH):
                    o, lost = array(dspk + item * (t * span + at + y * line), line, number), number(y * KW)
                    for i in range(line):
                        o[i] = wide[i] if o[i] - lost == best[i] else zero
                if band % down == down - 1:
                    rank[at + KH * line : at + (height - (down - 1) * KH) * line] = zero

    return unpool
