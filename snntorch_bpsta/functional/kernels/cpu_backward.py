"""The numba template of the backward pass; see ``cpu_forward.py``."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numba.core import types

from ..._numba import njit
from .cpu_forward import BLOCK
from .rows import SOURCES, WORDS, add_row, array, decode, decode_bfloat16, derivative_row, fill_row, is_above, retreat

_BACKWARD = types.void(*[types.int64] * 51, *[types.boolean] * 5, *[types.float64] * 3)


@cache
def backward_kernel(flags, PROMPT, FUSED, OVERWRITE, RELU, dtype):
    """The backward pass, Eq. 6-10, from the last step to the first. FUSED: the code in full precision, parameters
    that are one number each and learn nothing (but v), no gradients at records, an input of its own at every step.
    OVERWRITE: `dinput` is `saved`."""
    FILTER, ALPHA, RECURRENT, KEEP, WIPE, SUBTRACT = flags
    CURRENTS, VERSION, ROWS = FILTER or ALPHA, SOURCES, 13 if FUSED else 26
    number, word = dtype, WORDS[dtype]
    one, zero = number(1), number(0)

    @njit(_BACKWARD, error_model="numpy")
    def backward(
        dspk, dspk_step, dmem, dsyn, dinh, saved, mem_rec, syn_rec, inh_rec, mem, syn, inh, fed, slopes, first, beta,
        beta_size, beta_inner, alpha, alpha_size, alpha_inner, tau, tau_size, tau_inner, threshold, threshold_size,
        threshold_inner, v, v_size, v_inner, dinput, dmem0, dsyn0, dinh0, dfed0, dbeta, dalpha, dtau, dthreshold, dv,
        dfire, values, magnitude, surrogate, num_steps, start, stop, size, begin, end, keep, constant, relu, clipped,
        fresh, more, residual, p0, p1,
    ):  # fmt: skip
        p0, p1, residual, factor = number(p0), number(p1), number(residual), array(values, 6, number)[5]
        total = VERSION * 0 + num_steps * size
        G, W, OUT = array(dspk, total, number), array(saved, total, number), array(dinput, total, number)
        words, shorts = array(saved, total, word), array(saved, total, np.int16)
        M, MI = array(dmem, total, number), array(dsyn, total, number)
        MJ, D = array(dinh, total, number), array(slopes, total, number)
        U_rec, I_rec = array(mem_rec, total, number), array(syn_rec, total, number)
        J_rec = array(inh_rec, total, number)
        U0, I0 = array(mem, size, number), array(syn, size, number)
        J0, Z0 = array(inh, size, number), array(fed, size, number)
        S0, FIRE = array(first, size, number), array(dfire, total + size, number)
        DU, DI = array(dmem0, size, number), array(dsyn0, size, number)
        DJ, DZ = array(dinh0, size, number), array(dfed0, size, number)
        DB, DA, DTAU = array(dbeta, size, number), array(dalpha, size, number), array(dtau, size, number)
        DTH, DV = array(dthreshold, size, number), array(dv, size, number)
        betas, alphas = array(beta, beta_size, number), array(alpha, alpha_size, number)
        taus = array(tau, tau_size, number)
        thresholds, vs = array(threshold, threshold_size, number), array(v, v_size, number)
        rows = np.zeros((ROWS, BLOCK), number)
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
                    g = G[t * dspk_step + lo : t * dspk_step + lo + n]
                    w, ww = W[now : now + n], words[now : now + n]
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
            gs, gated, back, lost, none = rows[15, :n], rows[16, :n], rows[17, :n], rows[18, :n], rows[10, :n]
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
                        if slopes:
                            ps[:] = D[last : last + n]
                        else:
                            derivative_row(surrogate, p0, p1, pu, th, ps)
                        is_above(pu, th, pf)
                    if syn_rec:
                        pi = I_rec[last : last + n]
                    if inh_rec:
                        pj = J_rec[last : last + n]
                else:
                    if slopes:
                        ps[:] = S0[lo : lo + n]
                    else:
                        derivative_row(surrogate, p0, p1, u, th, ps)
                    is_above(u, th, pf)
                if t < stop:
                    dx = gated if relu or constant else OUT[now : now + n]
                    g = G[t * dspk_step + lo : t * dspk_step + lo + n] if dspk else none
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
                        q = o
                        for k in range(n):
                            gs[k] = factor * (g[k] + gz[k]) if RECURRENT else factor * g[k]
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
                        q = pf
                        for k in range(n):
                            gs[k] = factor * (g[k] + gz[k]) if RECURRENT else factor * g[k]
                            du[k] = s[k] * gs[k] + du[k]
                        if dmem:
                            m = M[now : now + n]
                            for k in range(n):
                                du[k] += m[k]
                    if dfire:
                        for k in range(n):
                            FIRE[now + size + k] = gs[k] + carried[k]
                            carried[k] = b[k] * residual * du[k]
                    # A loop for each result: LLVM vectorises what writes to few rows.
                    y = W[now : now + n] if keep == 3 else none
                    if dthreshold:
                        for k in range(n):
                            dth[k] -= s[k] * gs[k] + back[k]
                        for k in range(n):
                            dth[k] -= lost[k]
                        for k in range(n):
                            _, _, _, _, back[k], _, _, _, _ = retreat(
                                pu[k], pi[k], pj[k], y[k], du[k], di[k], dj[k], ps[k], q[k], one - q[k], b[k], a[k], ta[k],
                                residual, FILTER, ALPHA, RECURRENT, KEEP, WIPE, SUBTRACT,
                            )  # fmt: skip
                        if SUBTRACT:
                            for k in range(n):
                                _, _, _, _, _, lost[k], _, _, _ = retreat(
                                    pu[k], pi[k], pj[k], y[k], du[k], di[k], dj[k], ps[k], q[k], one - q[k], b[k], a[k],
                                    ta[k],
                                    residual, FILTER, ALPHA, RECURRENT, KEEP, WIPE, SUBTRACT,
                                )  # fmt: skip
                    if dbeta:
                        for k in range(n):
                            _, _, _, _, _, _, share, _, _ = retreat(
                                pu[k], pi[k], pj[k], y[k], du[k], di[k], dj[k], ps[k], q[k], one - q[k], b[k], a[k], ta[k],
                                residual, FILTER, ALPHA, RECURRENT, KEEP, WIPE, SUBTRACT,
                            )  # fmt: skip
                            db[k] += share
                    if CURRENTS and dalpha:
                        for k in range(n):
                            _, _, _, _, _, _, _, share, _ = retreat(
                                pu[k], pi[k], pj[k], y[k], du[k], di[k], dj[k], ps[k], q[k], one - q[k], b[k], a[k], ta[k],
                                residual, FILTER, ALPHA, RECURRENT, KEEP, WIPE, SUBTRACT,
                            )  # fmt: skip
                            da[k] += share
                    if ALPHA and dtau:
                        for k in range(n):
                            _, _, _, _, _, _, _, _, share = retreat(
                                pu[k], pi[k], pj[k], y[k], du[k], di[k], dj[k], ps[k], q[k], one - q[k], b[k], a[k], ta[k],
                                residual, FILTER, ALPHA, RECURRENT, KEEP, WIPE, SUBTRACT,
                            )  # fmt: skip
                            dt[k] += share
                    for k in range(n):
                        dx[k], e, c, h, _, _, _, _, _ = retreat(
                            zero, zero, zero, zero, du[k], di[k], dj[k], ps[k], q[k], one - q[k], b[k], a[k], ta[k],
                            residual, FILTER, ALPHA, RECURRENT, KEEP, WIPE, SUBTRACT,
                        )  # fmt: skip
                        du[k] = zero if ALPHA else e
                        if CURRENTS:
                            di[k] = c
                        if ALPHA:
                            dj[k] = h
                    if RECURRENT and dv:
                        z = Z0[lo : lo + n] if fed else none
                        for k in range(n):
                            dvv[k] += (factor * pf[k] if t else z[k]) * dx[k]
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
                    elif relu:
                        OUT[now : now + n] = dx
                s, ps, f, pf = ps, s, pf, f
            if dfire:
                FIRE[lo : lo + n] = carried
            for k in range(n):
                dth[k] -= back[k] + lost[k]
            if constant:
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
