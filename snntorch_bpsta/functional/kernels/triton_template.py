"""One Triton template for six neurons, forward and backward: all time steps in one pass on the GPU.

Blocks of neurons outside, time inside, so that the state stays in registers and every tensor crosses memory once.
Loads run a chunk of steps ahead of the arithmetic: for all that the compiler knows, a store may hit what is loaded
next, so left to itself it has every step wait for the memory of the one before. The steps of a chunk have no branches, which
would double the registers: what comes after the last step changes nothing. Spikes are the reference's to the bit:
the same operations in the same order, none of them fused. Nothing is atomic: gradients are deterministic.

The equations are those of ``cells.py``. A tensor that is not there is None, which is compiled in like the flags in capitals.
"""

from functools import update_wrapper
from types import FunctionType

import triton
import triton.language as tl

from .. import cells
from .triton_code import decode, derivative, encode
from .triton_pool import neurons, pool, unpool, window_of

PARAMETERS = ("beta", "alpha", "tau", "threshold", "v")
# Compiled once for all T and all parameters.
VARYING = ["start", "stop", "num_pooled", "height", "width", "channels"]
VARYING += [f"{name}_{what}" for name in PARAMETERS for what in ("inner", "size")]


def _equation(function):
    """A function of ``cells.py`` for the kernels. Triton looks for the names of the annotations as well."""
    known = FunctionType(function.__code__, {"tl": tl, "Any": tl.tensor})
    return triton.jit(update_wrapper(known, function))


_advance, _prompt, _retreat = _equation(cells.advance), _equation(cells.prompt), _equation(cells.retreat)


@triton.jit
def _parameter(p, n, num_neurons, inner, size, dtype: tl.constexpr, CLIPPED: tl.constexpr):
    """A parameter of the neurons `n`: without `inner` one number, zero if there is none."""
    if p is None:
        x = tl.full((), 0.0, dtype)
    elif inner is None:
        x = tl.load(p)
    else:
        x = tl.load(p + (n // inner) % size, mask=n < num_neurons, other=1.0)  # tau divides
    if CLIPPED:
        x = tl.where(x < 0, 0.0, tl.where(x > 1, 1.0, x))  # NaN stays
    return x


@triton.jit
def _state(first, n, num_neurons, zeros, FROM_ZERO: tl.constexpr):
    """A state of the neurons `n`, or its gradient; zeros if there is none."""
    if FROM_ZERO or first is None:
        x = zeros
    else:
        x = tl.load(first + n, mask=n < num_neurons, other=0.0)
    return x


@triton.jit
def _load_steps(steps, row, stride, left, n, num_neurons, other, CHUNK: tl.constexpr):
    """CHUNK rows of `steps`, `stride` apart from `row` on, as a tuple; `other` after the `left` ones that are left."""
    rows = ()
    for k in tl.static_range(CHUNK):
        if steps is None:
            rows = rows + (other,)
        else:
            rows = rows + (tl.load(steps + row + n, mask=n < tl.where(k < left, num_neurons, 0), other=other),)
        row += stride
    return rows


@triton.jit
def _keep_value(at, p, inner):
    """What backward needs of a parameter that is one number."""
    if inner is None:
        tl.store(at, p, mask=tl.program_id(0) == 0)


@triton.jit(do_not_specialize=VARYING)
def forward_kernel(
    input_, spk, mem, syn, inh, fed, mem_rec, syn_rec, inh_rec, saved, values, beta, alpha, tau, threshold, v, factor,
    start, stop, num_neurons, num_pooled, height, width, channels, stride, beta_inner, beta_size, alpha_inner, alpha_size,
    tau_inner, tau_size, threshold_inner, threshold_size, v_inner, v_size, p0: tl.float64, p1: tl.float64,
    FILTER: tl.constexpr, ALPHA: tl.constexpr, RECURRENT: tl.constexpr, KEEP: tl.constexpr, WIPE: tl.constexpr,
    SUBTRACT: tl.constexpr, PROMPT: tl.constexpr, SURROGATE: tl.constexpr, RELU: tl.constexpr, MEMBRANE: tl.constexpr,
    CLIPPED: tl.constexpr, FROM_ZERO: tl.constexpr, POOL: tl.constexpr, DOWN: tl.constexpr, ACROSS: tl.constexpr,
    PLACES: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    tl.static_assert(not (RELU and MEMBRANE), "the membrane has no bit to spare for the ReLU")
    dtype: tl.constexpr = values.dtype.element_ty
    if POOL:
        n, pooled, place = neurons(num_neurons, num_pooled, height, width, channels, DOWN, ACROSS, PLACES, BLOCK)
        pooled = window_of(pooled, PLACES)
        rounded = tl.load(factor).to(spk.dtype.element_ty).to(dtype)
        to = tl.full((), start, tl.int64) * num_pooled
    else:
        n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = n < num_neurons
    b = _parameter(beta, n, num_neurons, beta_inner, beta_size, dtype, CLIPPED)
    a = _parameter(alpha, n, num_neurons, alpha_inner, alpha_size, dtype, CLIPPED)
    ta = _parameter(tau, n, num_neurons, tau_inner, tau_size, dtype, False)
    th = _parameter(threshold, n, num_neurons, threshold_inner, threshold_size, dtype, False)
    weight = _parameter(v, n, num_neurons, v_inner, v_size, dtype, False)
    spike = tl.load(factor).to(dtype)
    _keep_value(values, b, beta_inner)
    _keep_value(values + 1, a, alpha_inner)
    _keep_value(values + 2, ta, tau_inner)
    _keep_value(values + 3, th, threshold_inner)
    _keep_value(values + 4, weight, v_inner)
    _keep_value(values + 5, spike, None)
    zeros, ones = tl.full((BLOCK,), 0.0, dtype), tl.full((BLOCK,), 1.0, dtype)
    u = _state(mem, n, num_neurons, zeros, FROM_ZERO)
    i = _state(syn, n, num_neurons, zeros, FROM_ZERO)
    j = _state(inh, n, num_neurons, zeros, FROM_ZERO)
    z = _state(fed, n, num_neurons, zeros, FROM_ZERO)
    row = tl.full((), start, tl.int64) * num_neurons
    ahead = tl.full((), start, tl.int64) * stride
    currents = _load_steps(input_, ahead, stride, stop - start, n, num_neurons, 0.0, CHUNK)
    for t in range(start, stop, CHUNK):
        ahead += tl.full((), CHUNK, tl.int64) * stride
        following = _load_steps(input_, ahead, stride, stop - t - CHUNK, n, num_neurons, 0.0, CHUNK)
        for k in tl.static_range(CHUNK):
            there = t + k < stop
            inside = n < tl.where(there, num_neurons, 0)
            x = currents[k].to(dtype)
            negative = x <= 0
            if RELU:
                x = tl.where(negative, 0.0, x)  # NaN stays
            above = u - th > 0
            fired = tl.where(above, ones, zeros)
            m, e, h = _advance(
                u, i, j, x, weight * z, fired, tl.where(above, zeros, ones), b, a, ta, th,
                FILTER, ALPHA, RECURRENT, KEEP, WIPE, SUBTRACT,
            )  # fmt: skip
            above = m - th > 0  # Eq. 3
            out = tl.where(above, spike, spike * 0.0)  # NaN where the factor is not finite
            if POOL:
                most = pool(above & (n < num_neurons), rounded, POOL, DOWN * ACROSS, PLACES)
                tl.store(spk + to + pooled, most, mask=pooled < tl.where(there, num_pooled, 0))
                to += num_pooled
            else:
                tl.store(spk + row + n, out, mask=inside)
            if saved is not None:
                if MEMBRANE:
                    word = m
                else:
                    s = derivative(m, th, above, p0, p1, SURROGATE)
                    word = encode(s, above, negative, saved.dtype.element_ty, RELU)
                tl.store(saved + row + n, word, mask=inside)
            if PROMPT:
                m = _prompt(m, tl.where(above, ones, zeros) - fired, th, SUBTRACT)
            if mem_rec is not None:
                tl.store(mem_rec + row + n, m, mask=inside)
            if syn_rec is not None:
                tl.store(syn_rec + row + n, e, mask=inside)
            if inh_rec is not None:
                tl.store(inh_rec + row + n, h, mask=inside)
            u = tl.where(there, m, u)
            if FILTER or ALPHA:
                i = tl.where(there, e, i)
            if ALPHA:
                j = tl.where(there, h, j)
            if RECURRENT:
                z = tl.where(there, out, z)
            row += num_neurons
        currents = following
    inside = n < num_neurons
    tl.store(mem + n, u, mask=inside)
    if syn is not None:
        tl.store(syn + n, i, mask=inside)
    if inh is not None:
        tl.store(inh + n, j, mask=inside)
    if fed is not None:
        tl.store(fed + n, z, mask=inside)


@triton.jit
def _store_sum(total, value, n, inside, MORE: tl.constexpr):
    """The gradient of a parameter, if it is wanted; with MORE in addition to what is there."""
    if total is not None:
        if MORE:
            value += tl.load(total + n, mask=inside, other=0.0)
        tl.store(total + n, value, mask=inside)


@triton.jit(do_not_specialize=VARYING)
def backward_kernel(
    dspk, dmem, dsyn, dinh, saved, mem_rec, syn_rec, inh_rec, mem, syn, inh, fed, slopes, first_slope,
    beta, alpha, tau, threshold, v, values, dinput, dmem0, dsyn0, dinh0, dfed0, dbeta, dalpha, dtau, dthreshold, dv, dfire,
    start, stop, num_neurons, num_pooled, height, width, channels, beta_inner, beta_size, alpha_inner, alpha_size, tau_inner,
    tau_size, threshold_inner, threshold_size, v_inner, v_size, p0: tl.float64, p1: tl.float64, residual: tl.float64,
    FILTER: tl.constexpr, ALPHA: tl.constexpr, RECURRENT: tl.constexpr, KEEP: tl.constexpr, WIPE: tl.constexpr,
    SUBTRACT: tl.constexpr, PROMPT: tl.constexpr, SURROGATE: tl.constexpr, RELU: tl.constexpr, MEMBRANE: tl.constexpr,
    CLIPPED: tl.constexpr, FROM_ZERO: tl.constexpr, CONSTANT: tl.constexpr, MORE: tl.constexpr, POOL: tl.constexpr,
    DOWN: tl.constexpr, ACROSS: tl.constexpr, PLACES: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    tl.static_assert(not (RELU and MEMBRANE), "the membrane has no bit to spare for the ReLU")
    dtype: tl.constexpr = values.dtype.element_ty
    if POOL:
        n, at, place = neurons(num_neurons, num_pooled, height, width, channels, DOWN, ACROSS, PLACES, BLOCK)
        many = num_pooled
    else:
        n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        at, many = n, num_neurons  # of the gradients at the spikes
    inside = n < num_neurons
    b = _parameter(values if beta is None else beta, n, num_neurons, beta_inner, beta_size, dtype, CLIPPED)
    a = _parameter(values + 1 if alpha is None else alpha, n, num_neurons, alpha_inner, alpha_size, dtype, CLIPPED)
    ta = _parameter(values + 2 if tau is None else tau, n, num_neurons, tau_inner, tau_size, dtype, False)
    th = _parameter(
        values + 3 if threshold is None else threshold, n, num_neurons, threshold_inner, threshold_size, dtype, False
    )
    weight = _parameter(values + 4 if v is None else v, n, num_neurons, v_inner, v_size, dtype, False)
    spike, residual = tl.load(values + 5), tl.full((), residual, dtype)
    zeros, ones = tl.full((BLOCK,), 0.0, dtype), tl.full((BLOCK,), 1.0, dtype)
    du = _state(dmem0, n, num_neurons, zeros, FROM_ZERO)
    di = _state(dsyn0, n, num_neurons, zeros, FROM_ZERO)
    dj = _state(dinh0, n, num_neurons, zeros, FROM_ZERO)
    dz, back, lost, carried, dx_sum = zeros, zeros, zeros, zeros, zeros
    dbeta_sum, dalpha_sum, dtau_sum, dthreshold_sum, dv_sum = zeros, zeros, zeros, zeros, zeros
    # The states before the first step stand in front of the rows that were saved.
    u0 = _state(mem, n, num_neurons, zeros, False)
    i0 = _state(syn, n, num_neurons, zeros, False)
    j0 = _state(inh, n, num_neurons, zeros, False)
    z0 = _state(fed, n, num_neurons, zeros, False)
    slope0 = _state(first_slope, n, num_neurons, zeros, False)
    if MEMBRANE:
        word0 = u0
    else:
        s0 = derivative(u0, th, u0 - th > 0, p0, p1, SURROGATE)
        word0 = encode(s0, u0 - th > 0, u0 - th > 0, saved.dtype.element_ty, RELU)
    stride = -num_neurons
    row = (tl.full((), stop, tl.int64) - 1) * num_neurons
    u = tl.load(saved + row + n, mask=inside, other=0.0)
    slope = zeros if slopes is None else tl.load(slopes + row + n, mask=inside, other=0.0)
    s, above, positive = decode(u, slope, th, p0, p1, SURROGATE, RELU, MEMBRANE)
    s = s.to(dtype)
    now, last = row, row + stride  # of the reads: a step's gradients, and what the step before it left
    read = (tl.full((), stop, tl.int64) - 1) * many
    gs = _load_steps(dspk, read, -many, stop - start, at, many, 0.0, CHUNK)
    dus = _load_steps(dmem, now, stride, stop - start, n, num_neurons, 0.0, CHUNK)
    dis = _load_steps(dsyn, now, stride, stop - start, n, num_neurons, 0.0, CHUNK)
    djs = _load_steps(dinh, now, stride, stop - start, n, num_neurons, 0.0, CHUNK)
    words = _load_steps(saved, last, stride, stop - 1, n, num_neurons, word0, CHUNK)
    ss = _load_steps(slopes, last, stride, stop - 1, n, num_neurons, slope0, CHUNK)
    us = _load_steps(mem_rec, last, stride, stop - 1, n, num_neurons, u0, CHUNK)
    ls = _load_steps(syn_rec, last, stride, stop - 1, n, num_neurons, i0, CHUNK)
    js = _load_steps(inh_rec, last, stride, stop - 1, n, num_neurons, j0, CHUNK)
    for t in range(start, stop, CHUNK):  # counted from the last step
        read -= tl.full((), CHUNK, tl.int64) * many
        now += tl.full((), CHUNK, tl.int64) * stride
        last += tl.full((), CHUNK, tl.int64) * stride
        left = stop - t - CHUNK
        before = start + left - 1
        gs_next = _load_steps(dspk, read, -many, left, at, many, 0.0, CHUNK)
        dus_next = _load_steps(dmem, now, stride, left, n, num_neurons, 0.0, CHUNK)
        dis_next = _load_steps(dsyn, now, stride, left, n, num_neurons, 0.0, CHUNK)
        djs_next = _load_steps(dinh, now, stride, left, n, num_neurons, 0.0, CHUNK)
        words_next = _load_steps(saved, last, stride, before, n, num_neurons, word0, CHUNK)
        ss_next = _load_steps(slopes, last, stride, before, n, num_neurons, slope0, CHUNK)
        us_next = _load_steps(mem_rec, last, stride, before, n, num_neurons, u0, CHUNK)
        ls_next = _load_steps(syn_rec, last, stride, before, n, num_neurons, i0, CHUNK)
        js_next = _load_steps(inh_rec, last, stride, before, n, num_neurons, j0, CHUNK)
        for k in tl.static_range(CHUNK):
            there = t + k < stop
            inside = n < tl.where(there, num_neurons, 0)
            # `s`, `above`, `positive` and the membrane `u` are this step's; with a p, those of the step before.
            ps, pabove, ppositive = decode(words[k], ss[k], th, p0, p1, SURROGATE, RELU, MEMBRANE)
            ps = ps.to(dtype)
            pfired = tl.where(pabove, ones, zeros)
            fired, kept, pu = pfired, tl.where(pabove, zeros, ones), words[k] if MEMBRANE else zeros
            g = zeros if dspk is None else gs[k].to(dtype)
            if POOL and dspk is not None:
                g = unpool(g, above, place, spike, POOL, DOWN * ACROSS, PLACES)
                if POOL == 2:
                    g = g.to(dspk.dtype.element_ty).to(dtype)
            g = spike * (g + dz) if RECURRENT else spike * g
            d = du if dmem is None else du + dus[k]
            e = di if dsyn is None else di + dis[k]
            h = dj if dinh is None else dj + djs[k]
            dth = zeros
            if PROMPT:  # the reset of this step's own spike
                pu = us[k]
                fired, kept = tl.where(pu - th > 0, ones, zeros), tl.where(pu - th > 0, zeros, ones)
                again = tl.where(above, ones, zeros) - fired
                if SUBTRACT:
                    g -= th * d
                    dth = again * d
                else:
                    g -= u * d
                    d -= again * d
            d = s * g + d
            if dfire is not None:
                tl.store(dfire + row + num_neurons + n, g + carried, mask=inside)
                carried = tl.where(there, b * residual * d, carried)
            if dthreshold is not None:
                dthreshold_sum -= tl.where(there, dth + s * g + back + lost, 0.0)
            dx, d, e, h, db, dl, dbeta_step, dalpha_step, dtau_step = _retreat(
                pu, ls[k], js[k], u, d, e, h, ps, fired, kept, b, a, ta, residual,
                FILTER, ALPHA, RECURRENT, KEEP, WIPE, SUBTRACT,
            )  # fmt: skip
            du = tl.where(there, zeros if ALPHA else d, du)
            if FILTER or ALPHA:
                di = tl.where(there, e, di)
            if ALPHA:
                dj = tl.where(there, h, dj)
            if dthreshold is not None:
                back = tl.where(there, db, back)
                if SUBTRACT:
                    lost = tl.where(there, dl, lost)
            if dbeta is not None:
                dbeta_sum += tl.where(there, dbeta_step, 0.0)
            if dalpha is not None:
                dalpha_sum += tl.where(there, dalpha_step, 0.0)
            if dtau is not None:
                dtau_sum += tl.where(there, dtau_step, 0.0)
            if dv is not None:
                z = tl.where(row > 0, spike * pfired, z0)
                dv_sum += tl.where(there, z * dx, 0.0)
            if RECURRENT:
                dz = tl.where(there, weight * dx, dz)
            if RELU:
                dx = tl.where(positive, dx, 0.0)
            if CONSTANT:
                dx_sum += tl.where(there, dx, 0.0)
            else:
                tl.store(dinput + row + n, dx, mask=inside)
            s, above, positive, u = ps, pabove, ppositive, words[k]
            row += stride
        gs, dus, dis, djs = gs_next, dus_next, dis_next, djs_next
        words, ss, us, ls, js = words_next, ss_next, us_next, ls_next, js_next
    inside = n < num_neurons
    if CONSTANT:
        tl.store(dinput + n, dx_sum, mask=inside)
    if dfire is not None:
        tl.store(dfire + n, carried, mask=inside)
    if dmem0 is not None:
        tl.store(dmem0 + n, du, mask=inside)
    if dsyn0 is not None:
        tl.store(dsyn0 + n, di, mask=inside)
    if dinh0 is not None:
        tl.store(dinh0 + n, dj, mask=inside)
    if dfed0 is not None:
        tl.store(dfed0 + n, dz, mask=inside)
    _store_sum(dbeta, dbeta_sum, n, inside, MORE)
    _store_sum(dalpha, dalpha_sum, n, inside, MORE)
    _store_sum(dtau, dtau_sum, n, inside, MORE)
    _store_sum(dthreshold, dthreshold_sum - (back + lost), n, inside, MORE)
    _store_sum(dv, dv_sum, n, inside, MORE)
