"""One numba template for six neurons, forward and backward: all time steps in one pass.

Blocks of contiguous neurons outside, time inside, so that the state of a block stays in cache. The inner loops are free
of branches and index plain rows that do not overlap, which is what lets LLVM vectorise them: where input and output are
the same memory, what is read goes through a row of its own first, or is written under the name it was read by. No
fast-math: the spikes are the reference's to the bit.

``forward_kernel`` and ``backward_kernel`` make a kernel for a neuron, a reset and a dtype, which are compiled in; ``FUSED`` ones,
for the usual options, do a step in one loop and have the surrogate compiled in as well. A kernel takes addresses, 0 for
what is not there: unpacking arrays would take longer than a small layer. What it does with them: see ``operator.py``.
"""

from __future__ import annotations

import math
from functools import cache

import numba
import numpy as np
from numba.core import types

from .rows import (
    SOURCES,
    add_row,
    advance,
    array,
    decode,
    decode_bfloat16,
    derivative,
    derivative_row,
    encode,
    encode_bfloat16,
    encode_positive,
    fill_row,
    is_above,
    prompt,
    retreat,
)

BLOCK = 2048  # neurons
_WORDS = {np.float32: np.int32, np.float64: np.int64}
_FORWARD = types.void(*[types.int64] * 35, *[types.boolean] * 4, *[types.float64] * 2)
_BACKWARD = types.void(*[types.int64] * 50, *[types.boolean] * 5, *[types.float64] * 3)


@cache
def forward_kernel(flags, PROMPT, SURROGATE, dtype):
    """The forward pass of a neuron: `flags` are those of ``cells.py``, PROMPT is ``reset_delay=False``. With a SURROGATE it is the
    fused one, for parameters that are one number each, and no records."""
    FILTER, ALPHA, RECURRENT, KEEP, WIPE, SUBTRACT = flags
    FUSED, CURRENTS, VERSION = SURROGATE is not None, FILTER or ALPHA, SOURCES
    number, word = dtype, _WORDS[dtype]
    one, zero, lowest = number(1), number(0), number(-np.inf)

    @numba.njit(_FORWARD, nogil=True, cache=True, error_model="numpy")
    def forward(
        input_, spk, mem, syn, inh, fed, mem_rec, syn_rec, inh_rec, saved, values, beta, beta_size, beta_inner, alpha, alpha_size,
        alpha_inner, tau, tau_size, tau_inner, threshold, threshold_size, threshold_inner, v, v_size, v_inner, factor,
        surrogate, num_steps, start, stop, size, begin, end, keep, constant, relu, clipped, from_zero, p0, p1,
    ):  # fmt: skip
        p0, p1, spike = number(p0), number(p1), array(factor, 1, number)[0]
        total = VERSION * 0 + num_steps * size
        step = 0 if constant else size
        copied = relu or input_ == spk
        floor = zero if relu else lowest
        X, O, W = (
            array(input_, step * (num_steps - 1) + size, number),
            array(spk, total, number),
            array(saved, total, number),
        )
        words, shorts = array(saved, total, word), array(saved, total, np.int16)
        U, I, J, Z = (
            array(mem, size, number),
            array(syn, size, number),
            array(inh, size, number),
            array(fed, size, number),
        )
        U_rec, I_rec, J_rec = (
            array(mem_rec, total, number),
            array(syn_rec, total, number),
            array(inh_rec, total, number),
        )
        betas, alphas, taus = (
            array(beta, beta_size, number),
            array(alpha, alpha_size, number),
            array(tau, tau_size, number),
        )
        thresholds, vs = array(threshold, threshold_size, number), array(v, v_size, number)
        used = array(values, 6, number)
        rows = np.zeros((8, min(BLOCK, end - begin)), number)
        s_words = rows[6].view(word)
        for lo in range(begin, end, BLOCK):
            n = min(BLOCK, end - lo)
            b, a, ta, th, vv, x, s, r = (
                rows[0, :n], rows[1, :n], rows[2, :n], rows[3, :n], rows[4, :n], rows[5, :n], rows[6, :n], rows[7, :n],
            )  # fmt: skip
            u = U[lo : lo + n]
            i, j, z = I[lo : lo + n], J[lo : lo + n], Z[lo : lo + n]
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
                used[0], used[1], used[2], used[3], used[4], used[5] = b0, a0, ta0, th0, v0, spike
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
                o = O[now : now + n]
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
                            u[k], i[k] if CURRENTS else zero, j[k] if ALPHA else zero, x[k], v0 * z[k] if RECURRENT else zero,
                            fired, kept, b0, a0, ta0, th0, FILTER, ALPHA, RECURRENT, KEEP, WIPE, SUBTRACT,
                        )  # fmt: skip
                        above = m - th0 > zero
                        u[k] = m
                        if CURRENTS:
                            i[k] = e
                        if ALPHA:
                            j[k] = h
                        o[k] = spike if above else zero
                        if RECURRENT:
                            z[k] = spike if above else zero
                        d = derivative(SURROGATE, m, th0, p0, p1, one, zero, number)
                        w[k] = -d if above else d
                    if relu:
                        encode_positive(x, words[now : now + n])
                    continue
                for k in range(n):
                    above = u[k] - th[k] > zero
                    fired, kept = one if above else zero, zero if above else one
                    m, e, h = advance(
                        u[k], i[k] if CURRENTS else zero, j[k] if ALPHA else zero, x[k], vv[k] * z[k] if RECURRENT else zero,
                        fired, kept, b[k], a[k], ta[k], th[k], FILTER, ALPHA, RECURRENT, KEEP, WIPE, SUBTRACT,
                    )  # fmt: skip
                    r[k] = fired
                    u[k] = m
                    if CURRENTS:
                        i[k] = e
                    if ALPHA:
                        j[k] = h
                for k in range(n):  # Eq. 3
                    o[k] = spike if u[k] - th[k] > zero else zero
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


@cache
def backward_kernel(flags, PROMPT, FUSED, OVERWRITE, RELU, dtype):
    """The backward pass, Eq. 6-10, from the last step to the first. FUSED: the code in full precision, parameters that are one
    number each and learn nothing (but v), no gradients at records, an input of its own at every step. OVERWRITE: `dinput` is `saved`."""
    FILTER, ALPHA, RECURRENT, KEEP, WIPE, SUBTRACT = flags
    CURRENTS, VERSION, ROWS = FILTER or ALPHA, SOURCES, 13 if FUSED else 26
    number, word = dtype, _WORDS[dtype]
    one, zero = number(1), number(0)

    @numba.njit(_BACKWARD, nogil=True, cache=True, error_model="numpy")
    def backward(
        dspk, dmem, dsyn, dinh, saved, mem_rec, syn_rec, inh_rec, mem, syn, inh, fed, derivative, first, beta, beta_size,
        beta_inner, alpha, alpha_size, alpha_inner, tau, tau_size, tau_inner, threshold, threshold_size, threshold_inner, v,
        v_size, v_inner, dinput, dmem0, dsyn0, dinh0, dfed0, dbeta, dalpha, dtau, dthreshold, dv, dfire, values,
        magnitude, surrogate, num_steps, start, stop, size, begin, end, keep, constant, relu, clipped, fresh, more, residual,
        p0, p1,
    ):  # fmt: skip
        p0, p1, residual, factor = number(p0), number(p1), number(residual), array(values, 6, number)[5]
        total = VERSION * 0 + num_steps * size
        G, W, OUT = array(dspk, total, number), array(saved, total, number), array(dinput, total, number)
        words, shorts = array(saved, total, word), array(saved, total, np.int16)
        M, MI, MJ, D = (
            array(dmem, total, number),
            array(dsyn, total, number),
            array(dinh, total, number),
            array(derivative, total, number),
        )
        U_rec, I_rec, J_rec = (
            array(mem_rec, total, number),
            array(syn_rec, total, number),
            array(inh_rec, total, number),
        )
        U0, I0, J0, Z0 = (
            array(mem, size, number),
            array(syn, size, number),
            array(inh, size, number),
            array(fed, size, number),
        )
        S0, FIRE = array(first, size, number), array(dfire, total + size, number)
        DU, DI, DJ, DZ = (
            array(dmem0, size, number),
            array(dsyn0, size, number),
            array(dinh0, size, number),
            array(dfed0, size, number),
        )
        DB, DA, DTAU = array(dbeta, size, number), array(dalpha, size, number), array(dtau, size, number)
        DTH, DV = array(dthreshold, size, number), array(dv, size, number)
        betas, alphas, taus = (
            array(beta, beta_size, number),
            array(alpha, alpha_size, number),
            array(tau, tau_size, number),
        )
        thresholds, vs = array(threshold, threshold_size, number), array(v, v_size, number)
        learns = dbeta + dalpha + dtau + dthreshold + dv + dfire != 0
        rows = np.zeros((ROWS, min(BLOCK, end - begin)), number)
        for lo in range(begin, end, BLOCK):
            n = min(BLOCK, end - lo)
            b, a, ta, th, vv, ps = rows[0, :n], rows[1, :n], rows[2, :n], rows[3, :n], rows[4, :n], rows[5, :n]
            du = DU[lo : lo + n] if dmem0 else rows[6, :n]
            di = DI[lo : lo + n] if dsyn0 else rows[7, :n]
            dj = DJ[lo : lo + n] if dinh0 else rows[8, :n]
            gz = DZ[lo : lo + n] if dfed0 else rows[9, :n]
            fill_row(b, betas, beta_inner, lo, clipped)
            fill_row(th, thresholds, threshold_inner, lo, False)
            if CURRENTS:
                fill_row(a, alphas, alpha_inner, lo, clipped)
            if ALPHA:
                fill_row(ta, taus, tau_inner, lo, False)
            if RECURRENT:
                fill_row(vv, vs, v_inner, lo, False)
                gz[:] = zero
            if fresh:
                du[:], di[:], dj[:] = zero, zero, zero
            u = U0[lo : lo + n] if mem else rows[10, :n]  # the latter are zeros, as all rows were in the beginning
            if FUSED:
                b0, a0, ta0, v0 = b[0], a[0], ta[0], vv[0]
                derivative_row(surrogate, p0, p1, u, th, rows[11, :n])
                for k in range(n):
                    ps[k] = -rows[11, k] if u[k] - th[k] > zero else rows[11, k]
                dvv, z = rows[12, :n], Z0[lo : lo + n] if fed else rows[10, :n]
                dvv[:] = zero
                for t in range(stop - 1, start - 1, -1):
                    now = t * size + lo
                    g, w, ww = G[now : now + n], W[now : now + n], words[now : now + n]
                    p = W[now - size : now - size + n] if t else ps
                    pw = words[now - size : now - size + n] if t else rows[5, :n].view(word)
                    out = w if OVERWRITE else OUT[now : now + n]
                    x = rows[11, :n]
                    for k in range(n):
                        if RELU:
                            s = abs(w[k]) if ww[k] & magnitude else zero
                            q = abs(p[k]) if pw[k] & magnitude else zero
                        else:
                            s, q = abs(w[k]), abs(p[k])
                        above = math.copysign(one, p[k]) < zero
                        fired, kept = one if above else zero, zero if above else one
                        d = s * (factor * (g[k] + gz[k]) if RECURRENT else factor * g[k])
                        d = d + du[k]
                        dx, e, y, h, back, lost, db, da, dt = retreat(
                            zero, zero, zero, zero, d, di[k] if CURRENTS else zero, dj[k] if ALPHA else zero, q, fired, kept,
                            b0, a0, ta0, residual, FILTER, ALPHA, RECURRENT, KEEP, WIPE, SUBTRACT,
                        )  # fmt: skip
                        du[k] = zero if ALPHA else e
                        if CURRENTS:
                            di[k] = y
                        if ALPHA:
                            dj[k] = h
                        if RECURRENT:
                            gz[k] = v0 * dx
                            dvv[k] += (factor * fired if t else z[k]) * dx
                        if RELU:
                            x[k] = dx if ww[k] & 1 else zero
                        else:
                            out[k] = dx
                    if RELU:
                        for k in range(n):
                            out[k] = x[k]
                if dv:
                    add_row(DV[lo : lo + n], dvv, more)
                continue
            s, f, pf, o = rows[11, :n], rows[12, :n], rows[13, :n], rows[14, :n]
            gs, dx, back, lost, none = rows[15, :n], rows[16, :n], rows[17, :n], rows[18, :n], rows[10, :n]
            db, da, dt, dth, dvv = rows[19, :n], rows[20, :n], rows[21, :n], rows[22, :n], rows[23, :n]
            all_steps, carried = rows[24, :n], rows[25, :n]
            rows[17:, :n] = zero
            for t in range(stop, start - 1, -1):
                now, last = t * size + lo, (t - 1) * size + lo
                # What the step before left: `ps`, `pf`, and the states of which the gradients of parameters are made.
                pu, pi, pj = u, I0[lo : lo + n] if syn else none, J0[lo : lo + n] if inh else none
                if t:
                    if keep == 1:
                        decode(W[last : last + n], words[last : last + n], magnitude, ps, pf)
                    elif keep == 2:
                        decode_bfloat16(shorts[last : last + n], magnitude, ps.view(word), pf)
                    else:
                        pu = W[last : last + n]
                        if derivative:
                            ps[:] = D[last : last + n]
                        else:
                            derivative_row(surrogate, p0, p1, pu, th, ps)
                        is_above(pu, th, pf)
                    if syn_rec:
                        pi = I_rec[last : last + n]
                    if inh_rec:
                        pj = J_rec[last : last + n]
                else:
                    if derivative:
                        ps[:] = S0[lo : lo + n]
                    else:
                        derivative_row(surrogate, p0, p1, u, th, ps)
                    is_above(u, th, pf)
                if t < stop:
                    g = G[now : now + n] if dspk else none
                    for k in range(n):
                        gs[k] = factor * (g[k] + gz[k]) if RECURRENT else factor * g[k]
                    if dsyn:
                        m = MI[now : now + n]
                        for k in range(n):
                            di[k] += m[k]
                    if dinh:
                        m = MJ[now : now + n]
                        for k in range(n):
                            dj[k] += m[k]
                    if PROMPT:  # the reset of this step's own spike, of which `f` says whether it was fired
                        m = M[now : now + n] if dmem else none
                        x = W[now : now + n]
                        if t:
                            pu = U_rec[last : last + n]
                        is_above(pu, th, o)
                        for k in range(n):
                            d = du[k] + m[k]
                            again = f[k] - o[k]
                            if SUBTRACT:
                                gs[k] -= th[k] * d
                                dth[k] -= again * d
                            elif KEEP or WIPE:
                                gs[k] -= x[k] * d
                                d -= again * d
                            du[k] = s[k] * gs[k] + d
                    else:
                        o[:] = pf
                        for k in range(n):
                            du[k] = s[k] * gs[k] + du[k]
                        if dmem:
                            m = M[now : now + n]
                            for k in range(n):
                                du[k] += m[k]
                    if dfire:
                        for k in range(n):
                            FIRE[now + size + k] = gs[k] + carried[k]
                    if learns:
                        y = W[now : now + n] if keep == 3 else none
                        for k in range(n):
                            dth[k] -= s[k] * gs[k] + back[k]
                            dth[k] -= lost[k]
                            carried[k] = b[k] * residual * du[k]
                            dx[k], e, di[k], dj[k], back[k], c, dbk, dak, dtk = retreat(
                                pu[k], pi[k], pj[k], y[k], du[k], di[k], dj[k], ps[k], o[k], one - o[k], b[k], a[k], ta[k],
                                residual, FILTER, ALPHA, RECURRENT, KEEP, WIPE, SUBTRACT,
                            )  # fmt: skip
                            lost[k] = c if SUBTRACT else zero
                            db[k] += dbk
                            da[k] += dak
                            dt[k] += dtk
                            du[k] = zero if ALPHA else e
                        if RECURRENT:
                            if t == 0:
                                z = Z0[lo : lo + n] if fed else none
                                for k in range(n):
                                    dvv[k] += z[k] * dx[k]
                            else:
                                for k in range(n):
                                    dvv[k] += factor * pf[k] * dx[k]
                    else:
                        for k in range(n):
                            dx[k], e, di[k], dj[k], back[k], c, dbk, dak, dtk = retreat(
                                zero, zero, zero, zero, du[k], di[k], dj[k], ps[k], o[k], one - o[k], b[k], a[k], ta[k],
                                residual, FILTER, ALPHA, RECURRENT, KEEP, WIPE, SUBTRACT,
                            )  # fmt: skip
                            du[k] = zero if ALPHA else e
                    if RECURRENT:
                        for k in range(n):
                            gz[k] = vv[k] * dx[k]
                    if relu and keep == 1:
                        ww = words[now : now + n]
                        for k in range(n):
                            dx[k] = dx[k] if ww[k] & 1 else zero
                    elif relu:
                        sw = shorts[now : now + n]
                        for k in range(n):
                            dx[k] = dx[k] if sw[k] & 1 else zero
                    if constant:
                        for k in range(n):
                            all_steps[k] += dx[k]
                    elif dinput:
                        OUT[now : now + n] = dx
                s[:] = ps
                f[:] = pf
            if dfire:
                FIRE[lo : lo + n] = carried
            for k in range(n):
                dth[k] -= back[k] + lost[k]
            if constant and dinput:
                OUT[lo : lo + n] = all_steps
            if dbeta:
                add_row(DB[lo : lo + n], db, more)
            if dalpha:
                add_row(DA[lo : lo + n], da, more)
            if dtau:
                add_row(DTAU[lo : lo + n], dt, more)
            if dthreshold:
                add_row(DTH[lo : lo + n], dth, more)
            if dv:
                add_row(DV[lo : lo + n], dvv, more)

    return backward
