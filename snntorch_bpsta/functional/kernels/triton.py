"""All time steps in one pass on the GPU: Triton kernels with a hand-written backward.

Blocks of neurons outside, time inside, so that the state stays in registers and every tensor crosses memory once.
Loads run a chunk of steps ahead of the arithmetic: for all that the compiler knows, a store may hit what is loaded
next, so left to itself it has every step wait for the memory of the one before. Spikes are the reference's to the bit:
the same operations in the same order, none of them fused. Nothing is atomic: gradients are deterministic.

Interface and the *code*, the one word per neuron and step that is kept for backward: see ``functional/operator.py``.
"""

import math

import torch
import triton
import triton.language as tl

_ZERO, _SUBTRACT = tl.constexpr(0), tl.constexpr(1)  # reset mechanisms; 2 is "none"
_MAX_NEURONS = 2**31 - 2**12  # indices of neurons are 32 bits wide, those of neuron-steps 64


def _configs():
    """Few neurons need small blocks, to fill the GPU, and long chunks, to hide the latency of its memory."""
    sizes = [(64, 1, 8), (128, 1, 8), (256, 2, 8), (512, 4, 4), (1024, 8, 4), (2048, 8, 2)]
    if triton.knobs.runtime.interpret:  # nothing to measure
        sizes = [(512, 1, 4)]
    return [triton.Config({"BLOCK": block, "CHUNK": chunk}, num_warps=warps) for block, warps, chunk in sizes]


def _worth_a_try(configs, named, size_class, **_):
    """The three configurations whose number of blocks is nearest to 512, some four per multiprocessor."""
    return sorted(configs, key=lambda config: abs(size_class - 9 - math.log2(config.kwargs["BLOCK"])))[:3]


# Compiled once for all T and all parameters; tuned once for all N up to one power of two (and dtypes). Tuning runs a
# kernel many times: `restore_value`, below, names the inputs that it may overwrite.
_JIT = {
    "do_not_specialize": [
        "num_steps", "dmem_steps", "beta_inner", "beta_size", "threshold_inner", "threshold_size", "size_class",
    ]
}  # fmt: skip
_TUNING = {
    "configs": _configs(),
    "key": ["size_class"],
    "prune_configs_by": {"early_config_prune": _worth_a_try},
}


@triton.jit
def _parameter(values, n, num_neurons, inner, size, SCALAR: tl.constexpr):
    """beta or threshold of the neurons `n`."""
    if SCALAR:
        return tl.load(values)
    else:
        return tl.load(values + (n // inner) % size, mask=n < num_neurons, other=0.0)


@triton.jit
def _load_steps(steps, row, stride, left, n, num_neurons, CHUNK: tl.constexpr):
    """CHUNK rows of `steps`, `stride` apart from `row` on, as a tuple; zeros after the `left` ones that are left."""
    rows = ()
    for k in tl.static_range(CHUNK):
        if steps is None:
            rows = rows + (tl.full(n.shape, 0.0, tl.float32),)
        else:
            rows = rows + (tl.load(steps + row + n, mask=n < tl.where(k < left, num_neurons, 0), other=0.0),)
        row += stride
    return rows


@triton.jit
def _derivative(u, threshold, fired, p0, p1, SURROGATE: tl.constexpr):
    """The surrogate's derivative at the membrane `u`."""
    p0, p1 = tl.full((), p0, u.dtype), tl.full((), p1, u.dtype)
    x = u - threshold
    one = tl.full(u.shape, 1.0, u.dtype)
    if SURROGATE == 0:  # spatial adjustment, Eq. 9
        return tl.where(fired, one / tl.where(fired, u, one), 0.0)
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
        return tl.where(fired, one, 0.0)
    elif SURROGATE == 6:  # straight-through estimator
        return one
    elif SURROGATE == 7:  # triangular
        return tl.where(x < 0, p0, -p0)
    elif SURROGATE == 8:  # spike-rate escape
        return p1 * tl.exp(-p0 * tl.abs(x - 1))
    else:  # sparse fast sigmoid
        y = p0 * tl.abs(x) + 1
        return tl.where(x > p1, 1 / (y * y), 0.0)


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
def _encode(s, fired, negative, RELU: tl.constexpr):
    """The code of |s| and the flags."""
    bits = _bits(s)
    sign: tl.constexpr = bits.dtype.primitive_bitwidth - 1
    bits = (bits & ((1 << sign) - 1)) | (fired.to(bits.dtype) << sign)
    if RELU:
        bits = (bits & -2) | (1 - negative.to(bits.dtype))
    return bits.to(s.dtype, bitcast=True)


@triton.jit
def _decode(code, RELU: tl.constexpr):
    """(|s|, fired, positive) of a code."""
    bits = _bits(code)
    sign: tl.constexpr = bits.dtype.primitive_bitwidth - 1
    s = bits & ((1 << sign) - (2 if RELU else 1))
    return s.to(code.dtype, bitcast=True), bits < 0, (bits & 1) != 0


@triton.autotune(**_TUNING, restore_value=["input_", "mem"])
@triton.jit(**_JIT)
def lif_fwd_kernel(
    input_, mem, spk, record, saved, beta, threshold, factor,
    num_steps, num_neurons, stride, beta_inner, beta_size, threshold_inner, threshold_size, size_class,
    p0: tl.float64, p1: tl.float64,
    SURROGATE: tl.constexpr, RESET: tl.constexpr, RELU: tl.constexpr, MEMBRANE: tl.constexpr,
    SCALAR_BETA: tl.constexpr, SCALAR_THRESHOLD: tl.constexpr, FROM_ZERO: tl.constexpr, BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = n < num_neurons
    lam = _parameter(beta, n, num_neurons, beta_inner, beta_size, SCALAR_BETA)
    th = _parameter(threshold, n, num_neurons, threshold_inner, threshold_size, SCALAR_THRESHOLD)
    if FROM_ZERO:
        u = tl.full((BLOCK,), 0.0, beta.dtype.element_ty)
    else:
        u = tl.load(mem + n, mask=inside, other=0.0)
    spike = tl.load(factor).to(u.dtype)
    row = tl.full((), 0, tl.int64)
    row_ahead = row
    currents = _load_steps(input_, row_ahead, stride, num_steps, n, num_neurons, CHUNK)
    for t in range(0, num_steps, CHUNK):
        row_ahead += tl.full((), CHUNK, tl.int64) * stride
        following = _load_steps(input_, row_ahead, stride, num_steps - t - CHUNK, n, num_neurons, CHUNK)
        for k in tl.static_range(CHUNK):
            if t + k < num_steps:
                x = currents[k].to(u.dtype)
                negative = x <= 0
                if RELU:
                    x = tl.where(negative, 0.0, x)  # NaN stays
                o = (u - th > 0).to(u.dtype)
                if RESET == _ZERO:  # Eq. 2
                    u = lam * ((1 - o) * u) + x
                elif RESET == _SUBTRACT:
                    u = lam * u + x - o * th
                else:
                    u = lam * u + x
                fired = u - th > 0  # Eq. 3
                tl.store(spk + row + n, tl.where(fired, spike, 0.0), mask=inside)
                if record is not None:
                    tl.store(record + row + n, u, mask=inside)
                if saved is not None:
                    if MEMBRANE:
                        tl.static_assert(not RELU, "the membrane has no bit to spare for the ReLU")
                        tl.store(saved + row + n, u, mask=inside)
                    else:
                        s = _derivative(u, th, fired, p0, p1, SURROGATE)
                        if saved.dtype.element_ty == tl.bfloat16:
                            s = s.to(tl.float32).to(tl.bfloat16)  # there is no rounding from float64
                        tl.store(saved + row + n, _encode(s, fired, negative, RELU), mask=inside)
            row += num_neurons
        currents = following
    tl.store(mem + n, u, mask=inside)


@triton.jit
def _step_back(u, s, fired, g, m, du, dbeta, dthreshold, lam, alpha, RESET: tl.constexpr):
    """From du[t + 1], `du`, to du[t], and the gradients of both parameters with what this adds to them. `g` and `m`
    reach spike and membrane of step t from outside."""
    o = fired.to(du.dtype)
    kept = 1 - o if RESET == _ZERO else tl.full(du.shape, 1.0, du.dtype)  # only reset-to-zero cuts the path at a spike
    dbeta += kept * u * du
    dthreshold -= s * g + lam * (alpha * s) * du
    if RESET == _SUBTRACT:
        dthreshold -= o * du
    return s * g + m + lam * (kept + alpha * s) * du, dbeta, dthreshold  # Eq. 6-10


@triton.autotune(**_TUNING, restore_value=["saved"])
@triton.jit(**_JIT)
def lif_bwd_kernel(
    dspk, dmem, saved, mem, beta, threshold, factor, dinput, dmem0, dbeta, dthreshold,
    num_steps, dmem_steps, num_neurons, beta_inner, beta_size, threshold_inner, threshold_size, size_class,
    p0: tl.float64, p1: tl.float64, alpha: tl.float64,
    SURROGATE: tl.constexpr, RESET: tl.constexpr, RELU: tl.constexpr, MEMBRANE: tl.constexpr, SUM_INPUT: tl.constexpr,
    SCALAR_BETA: tl.constexpr, SCALAR_THRESHOLD: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    dtype: tl.constexpr = beta.dtype.element_ty
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = n < num_neurons
    lam = _parameter(beta, n, num_neurons, beta_inner, beta_size, SCALAR_BETA)
    th = _parameter(threshold, n, num_neurons, threshold_inner, threshold_size, SCALAR_THRESHOLD)
    alpha = tl.full((), alpha, dtype)
    spike = tl.load(factor).to(dtype)
    zeros = tl.full((BLOCK,), 0.0, dtype)
    du, dinput_sum, dbeta_sum, dthreshold_sum = zeros, zeros, zeros, zeros
    stride = -num_neurons
    row = (num_steps.to(tl.int64) - 1) * num_neurons
    row_ahead, row_dmem = row, (dmem_steps.to(tl.int64) - 1) * num_neurons
    words = _load_steps(saved, row_ahead, stride, num_steps, n, num_neurons, CHUNK)
    gs = _load_steps(dspk, row_ahead, stride, num_steps, n, num_neurons, CHUNK)
    ms = _load_steps(dmem, row_dmem, stride, dmem_steps, n, num_neurons, CHUNK)
    for t in range(0, num_steps, CHUNK):  # counted from the last step
        row_ahead += tl.full((), CHUNK, tl.int64) * stride
        row_dmem += tl.full((), CHUNK, tl.int64) * stride
        words_next = _load_steps(saved, row_ahead, stride, num_steps - t - CHUNK, n, num_neurons, CHUNK)
        gs_next = _load_steps(dspk, row_ahead, stride, num_steps - t - CHUNK, n, num_neurons, CHUNK)
        ms_next = _load_steps(dmem, row_dmem, stride, dmem_steps - t - CHUNK, n, num_neurons, CHUNK)
        for k in tl.static_range(CHUNK):
            if t + k < num_steps:
                if MEMBRANE:
                    tl.static_assert(not RELU, "the membrane has no bit to spare for the ReLU")
                    fired = words[k] - th > 0
                    s = _derivative(words[k], th, fired, p0, p1, SURROGATE)
                    u = tl.where(t + k > 0, words[k], 0.0)  # no step comes after the last: not even inf * 0
                else:
                    u = zeros
                    s, fired, positive = _decode(words[k], RELU)
                s, g, m = s.to(dtype), spike * gs[k].to(dtype), ms[k].to(dtype)
                du, dbeta_sum, dthreshold_sum = _step_back(
                    u, s, fired, g, m, du, dbeta_sum, dthreshold_sum, lam, alpha, RESET
                )
                dx = tl.where(positive, du, 0.0) if RELU else du
                if SUM_INPUT:
                    dinput_sum += dx
                else:
                    tl.store(dinput + row + n, dx, mask=inside)
            row += stride
        words, gs, ms = words_next, gs_next, ms_next
    if SUM_INPUT:
        tl.store(dinput + n, dinput_sum, mask=inside)
    u = zeros if mem is None else tl.load(mem + n, mask=inside, other=0.0)
    fired = u - th > 0
    s = _derivative(u, th, fired, p0, p1, SURROGATE)
    du, dbeta_sum, dthreshold_sum = _step_back(
        u, s, fired, zeros, zeros, du, dbeta_sum, dthreshold_sum, lam, alpha, RESET
    )
    if dmem0 is not None:
        tl.store(dmem0 + n, du, mask=inside)
    if dbeta is not None:
        tl.store(dbeta + n, dbeta_sum, mask=inside)
    if dthreshold is not None:
        tl.store(dthreshold + n, dthreshold_sum, mask=inside)


def _launch(kernel, *tensors, beta, threshold, num_neurons, surrogate, reset, relu, save_membrane, **others):
    """Run `kernel` on all neurons; `others` go to it as they are."""
    if not num_neurons:
        return
    if num_neurons > _MAX_NEURONS:
        raise NotImplementedError(
            f"impl='triton' takes up to {_MAX_NEURONS} neurons (batch included), got {num_neurons}"
        )
    with torch.cuda.device_of(beta):
        kernel[lambda meta: (triton.cdiv(num_neurons, meta["BLOCK"]),)](
            *tensors,
            num_neurons=num_neurons,
            beta_size=beta.numel(),
            threshold_size=threshold.numel(),
            size_class=(num_neurons - 1).bit_length(),
            SURROGATE=surrogate,
            RESET=reset,
            RELU=relu,
            MEMBRANE=save_membrane,
            SCALAR_BETA=beta.numel() == 1,
            SCALAR_THRESHOLD=threshold.numel() == 1,
            **others,
        )


def forward(input_, mem, beta, threshold, factor, spk, record, saved, *, p0, p1, from_zero=False, **options):
    """Write `spk`, `record` and `saved`, and the last membrane over `mem`. `spk` may be the memory of `input_`."""
    num_neurons = mem.numel()
    _launch(
        lif_fwd_kernel, input_, mem, spk, record, saved, beta, threshold, factor,
        beta=beta, threshold=threshold, num_neurons=num_neurons, p0=float(p0), p1=float(p1),
        stride=num_neurons if input_.numel() == spk.numel() else 0,  # 0: the same current at every step
        FROM_ZERO=from_zero,
        enable_fp_fusion=False,  # a fused multiply-add rounds once where the reference rounds twice
        **options,
    )  # fmt: skip


def backward(
    dspk,
    dmem,
    saved,
    mem,
    beta,
    threshold,
    factor,
    dinput,
    dmem0,
    dbeta,
    dthreshold,
    *,
    num_steps,
    p0,
    p1,
    alpha,
    **options,
):
    """Write `dinput` and, where given, `dmem0`, `dbeta` and `dthreshold`. `dinput` may be the memory of `saved`."""
    num_neurons = saved.numel() // num_steps
    _launch(
        lif_bwd_kernel, dspk, dmem, saved, mem, beta, threshold, factor, dinput, dmem0, dbeta, dthreshold,
        beta=beta, threshold=threshold, num_neurons=num_neurons, p0=float(p0), p1=float(p1), alpha=float(alpha),
        num_steps=num_steps,
        dmem_steps=dmem.numel() // num_neurons if dmem is not None and num_neurons else 0,  # the last, or every one
        SUM_INPUT=dinput.numel() != saved.numel(), enable_fp_fusion=True, **options,
    )  # fmt: skip
