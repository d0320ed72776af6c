"""What the Triton kernels keep of a neuron and step for backward: the surrogate's derivative, and two flags in its bits."""

import triton
import triton.language as tl


@triton.jit
def derivative(u, threshold, above, p0, p1, SURROGATE: tl.constexpr):
    """The surrogate's derivative, numbered as in ``surrogate.KERNELS``, at the membrane `u`."""
    p0, p1 = tl.full((), p0, u.dtype), tl.full((), p1, u.dtype)
    x = u - threshold
    one = tl.full(u.shape, 1.0, u.dtype)
    if SURROGATE == 0:  # spatial adjustment, Eq. 9
        return tl.where(above, one / tl.where(above, u, one), tl.where(x > -threshold, p0, 0.0))
    elif SURROGATE == 1:  # rectangle
        return tl.where(tl.abs(x) < p0 / 2, one / p0, 0.0)
    elif SURROGATE == 2:  # arc tangent
        y = 1.5707963267948966 * p0 * x
        return p0 / 2 / (1 + y * y)
    elif SURROGATE == 3:  # fast sigmoid
        y = p0 * tl.abs(x) + 1
        return 1 / (y * y)
    elif SURROGATE == 4:  # sigmoid: even in x, and exp of what is never positive does not overflow
        e = tl.exp(-tl.abs(p0 * x))
        return p0 * e / ((1 + e) * (1 + e))
    elif SURROGATE == 5:  # heaviside
        return tl.where(above, one, 0.0)
    elif SURROGATE == 6:  # straight-through estimator
        return one
    elif SURROGATE == 7:  # triangular
        return tl.where(x >= 0, -p0, p0)
    elif SURROGATE == 8:  # spike-rate escape
        return p1 * tl.exp(-p0 * tl.abs(x - 1))
    else:  # sparse fast sigmoid
        y = p0 * tl.abs(x) + 1
        return tl.where(x <= p1, 0.0, 1 / (y * y))  # NaN where x is


@triton.jit
def _bits(x):
    """The integer that has the bits of `x`."""
    if x.dtype == tl.float64:
        return x.to(tl.int64, bitcast=True)
    elif x.dtype == tl.float32:
        return x.to(tl.int32, bitcast=True)
    else:
        return x.to(tl.int16, bitcast=True)


@triton.jit
def encode(s, above, negative, dtype: tl.constexpr, RELU: tl.constexpr):
    """The code of |s| and the flags, in `dtype`."""
    if dtype == tl.bfloat16:
        s = s.to(tl.float32)  # there is no rounding from float64
    bits = _bits(s.to(dtype))
    sign: tl.constexpr = bits.dtype.primitive_bitwidth - 1
    bits = (bits & ((1 << sign) - 1)) | (above.to(bits.dtype) << sign)
    if RELU:
        bits = (bits & -2) | (1 - negative.to(bits.dtype))
    return bits.to(dtype, bitcast=True)


@triton.jit
def decode(word, slope, threshold, p0, p1, SURROGATE: tl.constexpr, RELU: tl.constexpr, MEMBRANE: tl.constexpr):
    """The derivative, whether the neuron fired and whether its input was positive, of a code, or of a membrane."""
    if MEMBRANE:
        above = word - threshold > 0
        if SURROGATE == -1:
            s = slope
        else:
            s = derivative(word, threshold, above, p0, p1, SURROGATE)
        positive = above
    else:
        bits = _bits(word)
        sign: tl.constexpr = bits.dtype.primitive_bitwidth - 1
        s = (bits & ((1 << sign) - (2 if RELU else 1))).to(word.dtype, bitcast=True)
        above, positive = bits < 0, (bits & 1) != 0
    return s, above, positive
