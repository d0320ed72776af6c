"""All time steps in one pass on the CPU: numba kernels with a hand-written backward.

Blocks of contiguous neurons outside, time inside, so that the state of a block stays in cache. The inner loops are free
of branches and index plain rows that do not overlap, which is what lets LLVM vectorise them: where input and output are
the same memory, what is read goes through a row of its own first, or is written under the name it was read by. No
fast-math: the spikes are the reference's to the bit. Threads are as many as torch's, each on its own range of neurons;
the kernels release the GIL.

What is kept for backward, one word per neuron and step, is the *code* of ``operator.py``: the surrogate's derivative, with
the spike in the sign bit and, under relu, "the input was positive" in the lowest bit; or the membrane itself.
"""

import ctypes
import math
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numba
import numpy as np
import torch

BLOCK = 2048  # neurons
_MIN_PER_THREAD = 1 << 16  # neuron-steps below which one more thread costs more than it brings
_LARGE, _PAGE = 1 << 22, 1 << 12  # bytes
_WORDS = {torch.float32: torch.int32, torch.float64: torch.int64, torch.bfloat16: torch.int16}
_jit = numba.njit(nogil=True, cache=True, error_model="numpy")


@_jit
def _derivative_kernel(surrogate, p0, p1, u, threshold, s):
    """Row `s`: the derivative, numbered as in ``surrogate.KERNELS``, of the spikes of the membranes `u`."""
    n = len(s)
    one, zero = u.dtype.type(1), u.dtype.type(0)
    if surrogate == 0:  # Eq. 9
        for i in range(n):
            fired = u[i] - threshold[i] > zero
            q = one / (u[i] if fired else threshold[i])
            s[i] = q if fired else zero
    elif surrogate == 1:  # rectangle
        for i in range(n):
            s[i] = one / p0 if abs(u[i] - threshold[i]) < p0 / (one + one) else zero
    elif surrogate == 2:  # arc tangent
        half_pi_alpha, half_alpha = u.dtype.type(math.pi / 2) * p0, p0 / (one + one)
        for i in range(n):
            x = half_pi_alpha * (u[i] - threshold[i])
            s[i] = half_alpha / (one + x * x)
    elif surrogate == 3:  # fast sigmoid
        for i in range(n):
            x = p0 * abs(u[i] - threshold[i]) + one
            s[i] = one / (x * x)
    elif surrogate == 4:  # sigmoid
        for i in range(n):
            e = u.dtype.type(math.exp(-abs(p0 * (u[i] - threshold[i]))))
            s[i] = p0 * e / ((one + e) * (one + e))
    elif surrogate == 5:  # heaviside
        for i in range(n):
            s[i] = one if u[i] - threshold[i] > zero else zero
    elif surrogate == 6:  # straight-through
        for i in range(n):
            s[i] = one
    elif surrogate == 7:  # triangular, as the host has it
        for i in range(n):
            s[i] = -p0 if u[i] - threshold[i] >= zero else p0
    elif surrogate == 8:  # spike rate escape
        for i in range(n):
            s[i] = p1 * u.dtype.type(math.exp(-p0 * abs(u[i] - threshold[i] - one)))
    else:  # sparse fast sigmoid
        for i in range(n):
            x = p0 * abs(u[i] - threshold[i]) + one
            s[i] = one / (x * x) if u[i] - threshold[i] > p1 else zero


@_jit
def _fill_kernel(row, values, inner, begin):
    """`row`: what neurons from `begin` on have of a parameter, ``values[(neuron // inner) % len(values)]``."""
    if len(values) == 1:
        row[:] = values[0]
        return
    c, r = (begin // inner) % len(values), begin % inner
    for i in range(len(row)):
        row[i] = values[c]
        r += 1
        if r == inner:
            r = 0
            c = c + 1 if c + 1 < len(values) else 0


@_jit
def lif_fwd_kernel(
    input_, mem, spk, record, saved, words, beta, beta_inner, threshold, threshold_inner, factor, surrogate, p0, p1, reset,
    relu, keep, from_zero, overwrite, num_steps, begin, end,
):  # fmt: skip
    """Neurons from `begin` to `end`. `input_`, `spk`, `record` and `saved` are flat [T, N]; `input_` is [N] for a constant
    current. `mem`, [N], is the membrane before the first step (`from_zero`: to be set to zeros), overwritten by the last
    one. `overwrite`: `spk` is `input_`. `words` is `saved` as integers. `keep` says what goes into it: 0 nothing, 1 the
    code, 2 the code in bfloat16, 3 the membrane."""
    one, zero = input_.dtype.type(1), input_.dtype.type(0)
    size = len(mem)
    step = size if len(input_) == len(spk) else 0
    lowest = zero if relu else input_.dtype.type(-np.inf)
    copied = relu or overwrite
    scalar = len(beta) == 1 and len(threshold) == 1
    paper = surrogate == 0 and keep == 1 and scalar and len(record) == 0
    b0, th0 = beta[0], threshold[0]
    rows = np.empty((4, BLOCK), input_.dtype)
    s_words = rows[3].view(np.int32)  # for bfloat16, which goes with float32 only
    for lo in range(begin, end, BLOCK):
        n = min(BLOCK, end - lo)
        b, th, x, s, u = rows[0, :n], rows[1, :n], rows[2, :n], rows[3, :n], mem[lo : lo + n]
        _fill_kernel(b, beta, beta_inner, lo)
        _fill_kernel(th, threshold, threshold_inner, lo)
        if from_zero:
            u[:] = zero
        for t in range(num_steps):
            cur, now = input_[t * step + lo : t * step + lo + n], t * size + lo
            o = spk[now : now + n]
            if copied:
                for i in range(n):
                    x[i] = lowest if cur[i] <= lowest else cur[i]
            else:
                x = cur
            if paper and reset == 0:  # the whole step in one loop
                w = saved[now : now + n]
                for i in range(n):
                    kept = zero if u[i] - th0 > zero else one
                    v = b0 * (kept * u[i]) + x[i]
                    fired = v - th0 > zero
                    u[i] = v
                    o[i] = factor if fired else zero
                    q = one / (v if fired else th0)
                    w[i] = -q if fired else zero
            else:
                if reset == 0:  # Eq. 2
                    for i in range(n):
                        kept = zero if u[i] - th[i] > zero else one
                        u[i] = b[i] * (kept * u[i]) + x[i]
                elif reset == 1:
                    for i in range(n):
                        lost = th[i] if u[i] - th[i] > zero else zero
                        u[i] = b[i] * u[i] + x[i] - lost
                else:
                    for i in range(n):
                        u[i] = b[i] * u[i] + x[i]
                for i in range(n):  # Eq. 3
                    o[i] = factor if u[i] - th[i] > zero else zero
                if len(record):
                    record[now : now + n] = u
                if keep == 3:
                    saved[now : now + n] = u
                elif keep:
                    _derivative_kernel(surrogate, p0, p1, u, th, s)
                    if keep == 1:
                        w = saved[now : now + n]
                        for i in range(n):
                            w[i] = -s[i] if u[i] - th[i] > zero else s[i]
                    else:  # round to nearest, ties to even
                        word, s_word = words[now : now + n], s_words[:n]
                        for i in range(n):
                            sign = -32768 if u[i] - th[i] > zero else 0
                            word[i] = ((s_word[i] + 0x7FFF + ((s_word[i] >> 16) & 1)) >> 16) | sign
            if relu and (keep == 1 or keep == 2):
                word = words[now : now + n]
                for i in range(n):
                    word[i] = (word[i] & -2) | (0 if x[i] <= zero else 1)


@_jit
def _dthreshold_kernel(dth, s, du, b, alpha, reset, factor, g, saved, words, th, now, keep):
    """Adds a step's part of the threshold's gradient: the spike, wherever it is used, is a function of u - threshold."""
    zero = b.dtype.type(0)
    for i in range(len(dth)):
        dth[i] -= s[i] * (factor * g[i]) + b[i] * alpha * s[i] * du[i]
    if reset == 1:
        for i in range(len(dth)):
            fired = saved[now + i] - th[i] > zero if keep == 3 else words[now + i] < 0
            dth[i] -= du[i] if fired else zero


@_jit
def lif_bwd_kernel(
    dspk, dmem, saved, words, magnitude, mem, beta, beta_inner, threshold, threshold_inner, dinput, dmem0, dbeta, dthreshold,
    factor, surrogate, p0, p1, reset, relu, keep, alpha, overwrite, num_steps, begin, end,
):  # fmt: skip
    """The recursion of Eq. 6-10 for the neurons from `begin` to `end`. `dmem` is empty, the gradient of the last membrane
    [N], or of all [T, N]; `mem` the membrane before the first step, empty for zeros. Fills `dinput` ([T, N], or [N] for a
    constant current: the sum) and, where not empty, `dmem0`, `dbeta` and `dthreshold`, [N]. `magnitude` masks a word's
    |s|. `overwrite`: `dinput` is `saved`."""
    one, zero = beta.dtype.type(1), beta.dtype.type(0)
    cut = one if reset == 0 else zero  # only reset-to-zero cuts the path through time at a spike
    size = len(words) // num_steps
    dmem_step = size if len(dmem) == num_steps * size else 0
    constant = len(dinput) == size and num_steps > 1
    per_neuron = len(dbeta) + len(dthreshold) > 0
    scalar = len(beta) == 1
    plain = keep == 1 and scalar and not (constant or per_neuron)
    b0 = beta[0]
    rows = np.empty((8, BLOCK), beta.dtype)
    s_words = rows[3].view(np.int32)
    for lo in range(begin, end, BLOCK):
        n = min(BLOCK, end - lo)
        b, th, du, s, kept, db, dth, total = (
            rows[0, :n], rows[1, :n], rows[2, :n], rows[3, :n], rows[4, :n], rows[5, :n], rows[6, :n], rows[7, :n],
        )  # fmt: skip
        _fill_kernel(b, beta, beta_inner, lo)
        _fill_kernel(th, threshold, threshold_inner, lo)
        du[:] = zero
        if constant or per_neuron:
            db[:] = zero
            dth[:] = zero
            total[:] = zero
        for t in range(num_steps - 1, -1, -1):
            now = t * size + lo
            g, out = dspk[now : now + n], dinput[now : now + n]
            from_mem = dmem_step or (len(dmem) and t == num_steps - 1)
            if plain and not from_mem:  # the whole step in one loop
                w, word = saved[now : now + n], words[now : now + n]
                if relu:
                    for i in range(n):
                        s_i = abs(w[i]) if word[i] & magnitude else zero
                        kept_i = one - cut if word[i] < 0 else one
                        d = s_i * (factor * g[i]) + b0 * (kept_i + alpha * s_i) * du[i]
                        du[i] = d
                        s[i] = d if word[i] & 1 else zero
                    for i in range(n):
                        out[i] = s[i]
                elif overwrite:  # the loop below, for a `w` that is `out`
                    for i in range(n):
                        s_i = abs(w[i])
                        kept_i = one - cut if math.copysign(one, w[i]) < zero else one
                        d = s_i * (factor * g[i]) + b0 * (kept_i + alpha * s_i) * du[i]
                        du[i] = d
                        w[i] = d
                else:
                    for i in range(n):
                        s_i = abs(w[i])
                        kept_i = one - cut if math.copysign(one, w[i]) < zero else one
                        d = s_i * (factor * g[i]) + b0 * (kept_i + alpha * s_i) * du[i]
                        du[i] = d
                        out[i] = d
                continue
            if keep == 1:
                w, word = saved[now : now + n], words[now : now + n]
                for i in range(n):  # without the lowest bit of the word, which alone is a denormal number, and slow
                    s[i] = abs(w[i]) if word[i] & magnitude else zero
                    kept[i] = one - cut if word[i] < 0 else one
            elif keep == 2:
                word, s_word = words[now : now + n], s_words[:n]
                for i in range(n):
                    s_word[i] = np.int32(word[i] & magnitude) << 16
                    kept[i] = one - cut if word[i] < 0 else one
            else:
                u = saved[now : now + n]
                _derivative_kernel(surrogate, p0, p1, u, th, s)
                for i in range(n):
                    kept[i] = one - cut if u[i] - th[i] > zero else one
            if len(dthreshold):
                _dthreshold_kernel(dth, s, du, b, alpha, reset, factor, g, saved, words, th, now, keep)
            if scalar:
                for i in range(n):
                    du[i] = s[i] * (factor * g[i]) + b0 * (kept[i] + alpha * s[i]) * du[i]
            else:
                for i in range(n):
                    du[i] = s[i] * (factor * g[i]) + b[i] * (kept[i] + alpha * s[i]) * du[i]
            if from_mem:
                m = dmem[t * dmem_step + lo : t * dmem_step + lo + n]
                for i in range(n):
                    du[i] += m[i]
            if len(dbeta):
                if t or len(mem):
                    last = saved[now - size : now - size + n] if t else mem[lo : lo + n]
                    for i in range(n):
                        left = one - cut if last[i] - th[i] > zero else one
                        db[i] += left * last[i] * du[i]
            if constant:
                word = words[now : now + n]
                for i in range(n):
                    total[i] += du[i] if not relu or word[i] & 1 else zero
            elif relu:
                word = words[now : now + n]
                for i in range(n):
                    s[i] = du[i] if word[i] & 1 else zero
                for i in range(n):
                    out[i] = s[i]
            else:
                for i in range(n):
                    out[i] = du[i]
        if constant:
            dinput[lo : lo + n] = total
        if per_neuron or len(dmem0):  # the membrane before the first step resets it and carries a residual into it
            u = mem[lo : lo + n] if len(mem) else total
            if not len(mem):
                u[:] = zero
            _derivative_kernel(surrogate, p0, p1, u, th, s)
            for i in range(n):
                fired = one if u[i] - th[i] > zero else zero
                dth[i] -= b[i] * alpha * s[i] * du[i] + (fired * du[i] if reset == 1 else zero)
                du[i] = b[i] * ((one - cut * fired) + alpha * s[i]) * du[i]
            if len(dmem0):
                dmem0[lo : lo + n] = du
            if len(dbeta):
                dbeta[lo : lo + n] = db
            if len(dthreshold):
                dthreshold[lo : lo + n] = dth


@_jit
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


@_jit
def unpack_kernel(fired, positive, values, words):
    """Fills `words` again; those without the sign have its lowest bit at most."""
    count, last = 0, len(values) - 1
    for byte in range(len(fired)):
        for bit in range(min(8, len(words) - 8 * byte)):
            sign = (fired[byte] >> bit) & 1
            lowest = (positive[byte] >> bit) & 1 if len(positive) else 0
            words[8 * byte + bit] = (values[min(count, last)] & -sign) | (lowest & (sign - 1))  # without a branch
            count += sign


@cache
def _madvise():
    """The function of the C library, None where there is none."""
    if not sys.platform.startswith("linux"):
        return None
    function = ctypes.CDLL(None).madvise
    function.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    return function


def _use_huge_pages(*tensors):
    """Ask the kernel for pages of 2 MiB behind large new tensors: with those of 4 KiB, the first touch of fresh memory takes
    several times as long as the calculation."""
    for tensor in tensors:
        if tensor.nbytes >= _LARGE and _madvise():
            begin = -(-tensor.data_ptr() // _PAGE) * _PAGE
            size = (tensor.data_ptr() + tensor.nbytes - begin) // _PAGE * _PAGE
            _madvise()(begin, size, 14)  # MADV_HUGEPAGE; advice, of which nothing depends


@cache
def _pool():
    return ThreadPoolExecutor(thread_name_prefix="snntorch_bpsta")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # whose threads are not there, and would be waited for


def _run(kernel, num_steps, num_neurons, arguments):
    """Call `kernel` on all neurons, in as many ranges of whole blocks as torch has threads."""
    threads = min(torch.get_num_threads(), max(1, num_steps * num_neurons // _MIN_PER_THREAD))
    if threads == 1:
        kernel(*arguments, 0, num_neurons)
        return
    size = -(-num_neurons // threads // BLOCK) * BLOCK
    ranges = [(begin, min(begin + size, num_neurons)) for begin in range(0, num_neurons, size)]
    futures = [_pool().submit(kernel, *arguments, *part) for part in ranges[1:]]
    kernel(*arguments, *ranges[0])
    for future in futures:
        future.result()


def _arrays(saved, save_membrane, like):
    """`saved` as the kernels take it: as numbers, as words, and what it holds (see ``lif_fwd_kernel``)."""
    if saved is None:
        saved = like[:0]
        return saved.numpy(), saved.view(_WORDS[saved.dtype]).numpy(), 0
    words = saved.view(_WORDS[saved.dtype]).numpy()
    if saved.dtype == torch.bfloat16:
        return like[:0].numpy(), words, 2
    return saved.numpy(), words, 3 if save_membrane else 1


def forward(
    input_, mem, beta, threshold, factor, spk, record, saved, *, num_steps, beta_inner, threshold_inner,
    surrogate, p0, p1, reset, relu, save_membrane, from_zero=False,
):  # fmt: skip
    """See ``functional/operator.py``. Half precision is computed in float32, in a copy."""
    half = input_.dtype != mem.dtype
    if half:
        input_ = input_.to(mem.dtype)
        out = input_ if input_.numel() == spk.numel() else torch.empty_like(spk, dtype=mem.dtype)
        rec = mem[:0] if record is None else torch.empty_like(record, dtype=mem.dtype)
    else:
        out, rec = spk, mem[:0] if record is None else record
    number = mem.numpy().dtype.type
    _use_huge_pages(out, mem, rec, mem if saved is None else saved)
    saved, words, keep = _arrays(saved, save_membrane, mem)
    _run(
        lif_fwd_kernel, num_steps, mem.numel(),
        (
            input_.numpy(), mem.numpy(), out.numpy(), rec.numpy(), saved, words, beta.numpy(), beta_inner,
            threshold.numpy(), threshold_inner, number(factor.item()), surrogate, number(p0), number(p1), reset, relu, keep,
            from_zero, input_.data_ptr() == out.data_ptr(), num_steps,
        ),
    )  # fmt: skip
    if half:
        spk.copy_(out)
        if record is not None:
            record.copy_(rec)


def backward(
    dspk, dmem, saved, mem, beta, threshold, factor, dinput, dmem0, dbeta, dthreshold, *, num_steps, beta_inner,
    threshold_inner, surrogate, p0, p1, reset, relu, save_membrane, alpha,
):  # fmt: skip
    """See ``functional/operator.py``."""
    number = beta.dtype
    nothing = beta.new_empty(0)
    half = dinput.dtype != number
    dspk = torch.zeros_like(saved, dtype=number) if dspk is None else dspk.to(number)
    dmem = nothing if dmem is None else dmem.to(number)
    num_neurons, mem = saved.numel() // num_steps, nothing if mem is None else mem
    out = dinput
    if half:  # `dspk` is a copy, to be written over
        out = dspk if dinput.numel() == dspk.numel() else torch.empty_like(dinput, dtype=number)
    _use_huge_pages(out)
    saved_is_out = saved.data_ptr() == out.data_ptr()
    saved, words, keep = _arrays(saved, save_membrane, nothing)
    magnitude = words.dtype.type(np.iinfo(words.dtype).max - relu)
    scalar = nothing.numpy().dtype.type
    optional = [(nothing if x is None else x).numpy() for x in (dmem0, dbeta, dthreshold)]
    _run(
        lif_bwd_kernel, num_steps, num_neurons,
        (
            dspk.numpy(), dmem.numpy(), saved, words, magnitude, mem.numpy(), beta.numpy(), beta_inner, threshold.numpy(),
            threshold_inner, out.numpy(), *optional, scalar(factor.item()), surrogate, scalar(p0), scalar(p1), reset,
            relu, keep, scalar(alpha), saved_is_out, num_steps,
        ),
    )  # fmt: skip
    if half:
        dinput.copy_(out)
