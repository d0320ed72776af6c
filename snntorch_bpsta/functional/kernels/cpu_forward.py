"""The numba template of the forward pass: all time steps of six neurons in one pass.

Blocks of contiguous neurons outside, time inside, so that the state of a block stays in cache. The inner loops are free of
branches and index plain rows that do not overlap, which is what lets LLVM vectorise them: where input and output are the
same memory, what is read goes through a row of its own first, or is written under the name it was read by.

A kernel is made for a neuron, a reset and a dtype, which are compiled in, and takes addresses, 0 for what is not there:
unpacking arrays would take longer than a small layer. What it does with them: see ``passes.py``.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numba.core import types

from ..._numba import njit
from .rows import (
    SOURCES,
    WORDS,
    advance,
    array,
    derivative,
    derivative_row,
    encode,
    encode_bfloat16,
    encode_positive,
    fill_row,
    is_above,
    prompt,
)

BLOCK = 2048  # neurons
_FORWARD = types.void(*[types.int64] * 36, *[types.boolean] * 4, *[types.float64] * 2)


@cache
def forward_kernel(flags, PROMPT, SURROGATE, dtype):
    """The forward pass of a neuron: `flags` are those of ``cells.py``, PROMPT is ``reset_delay=False``. With a
    SURROGATE it is the fused one, for parameters that are one number each, and no records."""
    FILTER, ALPHA, RECURRENT, KEEP, WIPE, SUBTRACT = flags
    FUSED, CURRENTS, VERSION = SURROGATE is not None, FILTER or ALPHA, SOURCES
    number, word = dtype, WORDS[dtype]
    one, zero, lowest = number(1), number(0), number(-np.inf)

    @njit(_FORWARD, error_model="numpy")
    def forward(
        input_, spk, spk_step, mem, syn, inh, fed, mem_rec, syn_rec, inh_rec, saved, values, beta, beta_size, beta_inner,
        alpha, alpha_size, alpha_inner, tau, tau_size, tau_inner, threshold, threshold_size, threshold_inner, v,
        v_size, v_inner, factor, surrogate, num_steps, start, stop, size, begin, end, keep, constant, relu, clipped,
        from_zero, p0, p1,
    ):  # fmt: skip
        p0, p1, spike = number(p0), number(p1), array(factor, 1, number)[0]
        quiet = spike * number(0)  # NaN where the factor is not finite, as snnTorch's product
        total = VERSION * 0 + num_steps * size
        step = 0 if constant else size
        copied = relu or input_ == spk or input_ == saved
        floor = zero if relu else lowest
        X, W = array(input_, step * (num_steps - 1) + size, number), array(saved, total, number)
        SPK = array(spk, total, number)
        words, shorts = array(saved, total, word), array(saved, total, np.int16)
        U, CUR, INH = array(mem, size, number), array(syn, size, number), array(inh, size, number)
        Z = array(fed, size, number)
        U_rec, I_rec = array(mem_rec, total, number), array(syn_rec, total, number)
        J_rec = array(inh_rec, total, number)
        betas, alphas = array(beta, beta_size, number), array(alpha, alpha_size, number)
        taus = array(tau, tau_size, number)
        thresholds, vs = array(threshold, threshold_size, number), array(v, v_size, number)
        used = array(values, 6, number)
        rows = np.empty((8, BLOCK), number)
        s_words = rows[6].view(word)
        for lo in range(begin, end, BLOCK):
            n = min(BLOCK, end - lo)
            b, a, ta, th, vv, x, s, r = (
                rows[0, :n], rows[1, :n], rows[2, :n], rows[3, :n], rows[4, :n], rows[5, :n], rows[6, :n], rows[7, :n],
            )  # fmt: skip
            u = U[lo : lo + n]
            i, j, z = CUR[lo : lo + n], INH[lo : lo + n], Z[lo : lo + n]
            fill_row(b, betas, beta_inner, lo, clipped)
            fill_row(th, thresholds, threshold_inner, lo, False)
            if CURRENTS:
                fill_row(a, alphas, alpha_inner, lo, clipped)
            if ALPHA:
                fill_row(ta, taus, tau_inner, lo, False)
            if RECURRENT:
                fill_row(vv, vs, v_inner, lo, False)
            b0, a0, ta0, th0, v0 = b[0], a[0], ta[0], th[0], vv[0]
            if lo == begin:
                used[0], used[1], used[2] = b0, a0 if CURRENTS else zero, ta0 if ALPHA else zero
                used[3], used[4], used[5] = th0, v0 if RECURRENT else zero, spike
            if from_zero:
                u[:] = zero
                if CURRENTS:
                    i[:] = zero
                if ALPHA:
                    j[:] = zero
                if RECURRENT:
                    z[:] = zero
            for t in range(start, stop):
                cur, now = X[t * step + lo : t * step + lo + n], t * size + lo
                o = SPK[t * spk_step + lo : t * spk_step + lo + n]
                if copied:
                    for k in range(n):
                        x[k] = floor if cur[k] <= floor else cur[k]
                else:
                    x = cur
                if FUSED:
                    w = W[now : now + n]
                    for k in range(n):
                        above = u[k] - th0 > zero
                        fired, kept = one if above else zero, zero if above else one
                        m, e, h = advance(
                            u[k], i[k] if CURRENTS else zero, j[k] if ALPHA else zero, x[k], v0 * z[k] if RECURRENT
                            else zero, fired, kept, b0, a0, ta0, th0, FILTER, ALPHA, RECURRENT, KEEP, WIPE, SUBTRACT,
                        )  # fmt: skip
                        above = m - th0 > zero
                        u[k] = m
                        if CURRENTS:
                            i[k] = e
                        if ALPHA:
                            j[k] = h
                        o[k] = spike if above else quiet
                        if RECURRENT:
                            z[k] = spike if above else quiet
                        d = derivative(SURROGATE, m, th0, p0, p1, one, zero, number)
                        w[k] = -d if above else d
                    if relu:
                        encode_positive(x, words[now : now + n])
                    continue
                for k in range(n):
                    above = u[k] - th[k] > zero
                    fired, kept = one if above else zero, zero if above else one
                    m, e, h = advance(
                        u[k], i[k] if CURRENTS else zero, j[k] if ALPHA else zero, x[k], vv[k] * z[k] if RECURRENT
                        else zero, fired, kept, b[k], a[k], ta[k], th[k], FILTER, ALPHA, RECURRENT, KEEP, WIPE, SUBTRACT,
                    )  # fmt: skip
                    if PROMPT:
                        r[k] = fired
                    u[k] = m
                    if CURRENTS:
                        i[k] = e
                    if ALPHA:
                        j[k] = h
                for k in range(n):  # Eq. 3
                    o[k] = spike if u[k] - th[k] > zero else quiet
                if RECURRENT:
                    z[:] = o
                if keep == 3:
                    W[now : now + n] = u
                elif keep:
                    derivative_row(surrogate, p0, p1, u, th, s)
                    is_above(u, th, r)
                    if keep == 1:
                        encode(s, r, W[now : now + n])
                        if relu:
                            encode_positive(x, words[now : now + n])
                    else:
                        encode_bfloat16(s_words[:n], r, shorts[now : now + n])
                        if relu:
                            encode_positive(x, shorts[now : now + n])
                if PROMPT:
                    for k in range(n):
                        again = (one if u[k] - th[k] > zero else zero) - r[k]
                        u[k] = prompt(u[k], again, th[k], SUBTRACT)
                if mem_rec:
                    U_rec[now : now + n] = u
                if CURRENTS and syn_rec:
                    I_rec[now : now + n] = i
                if ALPHA and inh_rec:
                    J_rec[now : now + n] = j

    return forward
