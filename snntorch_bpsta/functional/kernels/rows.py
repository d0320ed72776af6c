"""What the kernels on the CPU are made of: the equations as numba takes them, arrays at addresses, loops over one row.

The loops are free of branches and index plain rows that do not overlap, which is what lets LLVM vectorise them. No
fast-math: the spikes are the reference's to the bit.
"""

from __future__ import annotations

import inspect
import math
import zlib
from pathlib import Path

import numba
import numpy as np
from numba.core import types
from numba.extending import intrinsic

from ..._numba import njit
from .. import cells

WORDS = {np.float32: np.int32, np.float64: np.int64}  # of a number's size
jit = njit(error_model="numpy")
advance, prompt, retreat = (
    numba.njit(inline="always")(function) for function in (cells.advance, cells.prompt, cells.retreat)
)
# numba looks at the date of the file of a kernel alone. With this number among its constants it is compiled anew when
# the equations or what stands here change.
SOURCES = zlib.crc32((inspect.getsource(cells) + Path(__file__).read_text(encoding="utf-8")).encode())


@intrinsic
def _pointer(context, address, like):
    """`address` as a pointer to numbers of the type `like`."""
    pointer = types.CPointer(like.dtype)

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(pointer))

    return pointer(address, like), generate


@numba.njit(inline="always")
def array(address, size, like):
    return numba.carray(_pointer(address, like), size, like)


@numba.njit(inline="always")
def derivative(SURROGATE, u, threshold, p0, p1, one, zero, number):
    """The derivative, numbered as in ``surrogate.KERNELS``, of the spike of the membrane `u`."""
    x = u - threshold
    if SURROGATE == 0:  # Eq. 9
        q = one / (u if x > zero else threshold)
        return q if x > zero else p0 if x > -threshold else zero
    elif SURROGATE == 1:  # rectangle
        return one / p0 if abs(x) < p0 / (one + one) else zero
    elif SURROGATE == 2:  # arc tangent
        y = number(math.pi / 2) * p0 * x
        return p0 / (one + one) / (one + y * y)
    elif SURROGATE == 3:  # fast sigmoid
        y = p0 * abs(x) + one
        return one / (y * y)
    elif SURROGATE == 4:  # sigmoid
        e = number(math.exp(-abs(p0 * x)))
        return p0 * e / ((one + e) * (one + e))
    elif SURROGATE == 5:  # heaviside
        return one if x > zero else zero
    elif SURROGATE == 6:  # straight-through
        return one
    elif SURROGATE == 7:  # triangular, as the host has it
        return -p0 if x >= zero else p0
    elif SURROGATE == 8:  # spike rate escape
        return p1 * number(math.exp(-p0 * abs(x - one)))
    else:  # sparse fast sigmoid
        y = p0 * abs(x) + one
        return zero if x <= p1 else one / (y * y)  # NaN where x is


@jit
def derivative_row(surrogate, p0, p1, u, threshold, s):
    """Row `s`: the derivatives at the membranes `u`."""
    number = u.dtype.type
    one, zero = number(1), number(0)
    if surrogate == 0:
        for k in range(len(s)):
            s[k] = derivative(0, u[k], threshold[k], p0, p1, one, zero, number)
    elif surrogate == 1:
        for k in range(len(s)):
            s[k] = derivative(1, u[k], threshold[k], p0, p1, one, zero, number)
    elif surrogate == 2:
        for k in range(len(s)):
            s[k] = derivative(2, u[k], threshold[k], p0, p1, one, zero, number)
    elif surrogate == 3:
        for k in range(len(s)):
            s[k] = derivative(3, u[k], threshold[k], p0, p1, one, zero, number)
    elif surrogate == 4:
        for k in range(len(s)):
            s[k] = derivative(4, u[k], threshold[k], p0, p1, one, zero, number)
    elif surrogate == 5:
        for k in range(len(s)):
            s[k] = derivative(5, u[k], threshold[k], p0, p1, one, zero, number)
    elif surrogate == 6:
        for k in range(len(s)):
            s[k] = derivative(6, u[k], threshold[k], p0, p1, one, zero, number)
    elif surrogate == 7:
        for k in range(len(s)):
            s[k] = derivative(7, u[k], threshold[k], p0, p1, one, zero, number)
    elif surrogate == 8:
        for k in range(len(s)):
            s[k] = derivative(8, u[k], threshold[k], p0, p1, one, zero, number)
    else:
        for k in range(len(s)):
            s[k] = derivative(9, u[k], threshold[k], p0, p1, one, zero, number)


@jit
def fill_row(row, values, inner, begin, clipped):
    """`row`: what the neurons from `begin` on have of a parameter, ``values[(neuron // inner) % len(values)]``."""
    zero, one = row.dtype.type(0), row.dtype.type(1)
    if len(values) == 1:
        row[:] = values[0]
    else:
        c, r = (begin // inner) % len(values), begin % inner
        for k in range(len(row)):
            row[k] = values[c]
            r += 1
            if r == inner:
                r = 0
                c = c + 1 if c + 1 < len(values) else 0
    if clipped:
        for k in range(len(row)):
            row[k] = zero if row[k] < zero else one if row[k] > one else row[k]


@jit
def add_row(row, part, more):
    """`part` into `row`; `more`: to what is there."""
    for k in range(len(row)):
        row[k] = row[k] + part[k] if more else part[k]


@jit
def encode(s, fired, w):
    zero = s.dtype.type(0)
    for k in range(len(s)):
        w[k] = -s[k] if fired[k] > zero else s[k]


@jit
def encode_bfloat16(s, fired, words):  # round to nearest, ties to even
    zero = np.float32(0)
    for k in range(len(s)):
        sign = -32768 if fired[k] > zero else 0
        words[k] = ((s[k] + 0x7FFF + ((s[k] >> 16) & 1)) >> 16) | sign


@jit
def encode_positive(x, words):
    """The lowest bit: "the input was positive" (or NaN)."""
    zero = x.dtype.type(0)
    for k in range(len(x)):
        words[k] = (words[k] & -2) | (0 if x[k] <= zero else 1)


@jit
def decode(w, words, magnitude, s, fired):
    one, zero = s.dtype.type(1), s.dtype.type(0)
    for k in range(len(s)):  # without the lowest bit of the word, which alone is a denormal number, and slow
        s[k] = abs(w[k]) if words[k] & magnitude else zero
        fired[k] = one if words[k] < 0 else zero


@jit
def decode_bfloat16(words, magnitude, s, fired):
    one, zero = np.float32(1), np.float32(0)
    for k in range(len(s)):
        s[k] = np.int32(words[k] & magnitude) << 16
        fired[k] = one if words[k] < 0 else zero


@jit
def is_above(u, threshold, fired):
    one, zero = u.dtype.type(1), u.dtype.type(0)
    for k in range(len(u)):
        fired[k] = one if u[k] - threshold[k] > zero else zero


@jit
def pack_kernel(words, fired, positive):
    """The signs of `words` as bits of `fired` and, where not empty, their lowest bits as those of `positive`; the words with
    the sign move to the front. Returns their number."""
    count = 0
    for byte in range(len(fired)):
        signs, lowest = 0, 0
        for bit in range(min(8, len(words) - 8 * byte)):
            word = words[8 * byte + bit]
            words[count] = word
            sign = 1 if word < 0 else 0
            count += sign
            signs |= sign << bit
            lowest |= (word & 1) << bit
        fired[byte] = signs
        if len(positive):
            positive[byte] = lowest
    return count


@jit
def unpack_kernel(fired, positive, values, words):
    """Fills `words` again; those without the sign have its lowest bit at most."""
    count, last = 0, len(values) - 1
    for byte in range(len(fired)):
        for bit in range(min(8, len(words) - 8 * byte)):
            sign = (fired[byte] >> bit) & 1
            lowest = (positive[byte] >> bit) & 1 if len(positive) else 0
            words[8 * byte + bit] = (values[min(count, last)] & -sign) | (lowest & (sign - 1))  # without a branch
            count += sign
