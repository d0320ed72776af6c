"""The paper's recursion in plain float64 numpy: the judge of every implementation, importing none.

Here for Leaky (`lif`); the other neurons follow below (`integrator`, `lapicque`, `alpha_neuron`).

Forward (Eq. 2-4), with the reset taken from the membrane of the step before:

    zero:      u[t] = beta * (1 - o[t-1]) * u[t-1] + I[t]
    subtract:  u[t] = beta * u[t-1] + I[t] - o[t-1] * u_th
    none:      u[t] = beta * u[t-1] + I[t]
    o[t] = 1 if u[t] > u_th else 0

Backward (Eq. 6-10), with G[t] the gradient at o[t], M[t] the one at u[t] from outside:

    zero:      du[t] = s[t] G[t] + M[t] + beta * ((1 - o[t]) + alpha * s[t]) * du[t+1]
    subtract:  du[t] = s[t] G[t] + M[t] + beta * (1 + alpha * s[t]) * du[t+1]
    none:      du[t] = s[t] G[t] + M[t] + beta * du[t+1]
    dI[t] = du[t]

The initial membrane u[-1] resets the first step and carries a residual into it like every other
membrane, so dmem0 is the recursion once more at t = -1, with nothing from outside.
"""

from typing import NamedTuple

import numpy as np


class Oracle(NamedTuple):
    """What `lif` returns. The `*_scale` fields are sums of absolute terms, for rounding."""

    spk: np.ndarray
    mem: np.ndarray
    dinput: np.ndarray
    dbeta: np.ndarray
    dthreshold: np.ndarray
    dmem0: np.ndarray
    dbeta_scale: np.ndarray
    dthreshold_scale: np.ndarray
    du_scale: np.ndarray


# Surrogate derivatives s(u, o, threshold).


def spatial(u, o, threshold):
    """BPSA, Eq. 9: 1/u where the neuron fired."""
    return np.where(o == 1, 1.0 / np.where(o == 1, u, 1.0), 0.0)


def leaky(leak):
    """Eq. 9 with a constant below the threshold, where the membrane is positive."""

    def s(u, o, threshold):
        return np.where(o == 1, 1.0 / np.where(o == 1, u, 1.0), np.where(u > 0, leak, 0.0))

    return s


def rectangle(width=1.0):
    """STBP, Wu et al. 2018: 1/width within width/2 of the threshold."""

    def s(u, o, threshold):
        return np.where(np.abs(u - threshold) < width / 2, 1.0 / width, 0.0)

    return s


def atan(alpha=2.0):
    """snnTorch's default, as its docstring and code have it."""

    def s(u, o, threshold):
        return alpha / 2 / (1 + (np.pi / 2 * alpha * (u - threshold)) ** 2)

    return s


def _sum_to(terms, shape):
    """Sum what broadcasting a parameter of `shape` had repeated. `terms` is [T, B, *]."""
    while terms.ndim > len(shape):
        terms = terms.sum(axis=0)
    for axis, n in enumerate(shape):
        if n == 1 and terms.shape[axis] != 1:
            terms = terms.sum(axis=axis, keepdims=True)
    return terms


def lif(
    input_,
    *,
    beta,
    threshold,
    surrogate,
    alpha=0.0,
    reset="zero",
    mem0=None,
    dspk=None,
    dmem=None,
    clamp_slope=1.0,
):
    """Run the neuron forward and its gradients backward, one time step after the other.

    Args:
        input_: Input current [T, B, *].
        beta, threshold: Numbers or arrays that broadcast with one step. beta is clamped to [0, 1].
        surrogate: Function s(u, o, threshold).
        alpha: Strength of the residual (Eq. 10).
        reset: "zero", "subtract" or "none".
        mem0: Membrane before the first step, zeros by default.
        dspk, dmem: Gradients G and M that reach every spike and membrane outside, [T, B, *].
        clamp_slope: Derivative of clamp(beta, 0, 1): 1 inside, 0 outside. At 0 and 1 themselves the
            caller says what PyTorch does.
    """
    input_ = np.asarray(input_, dtype=np.float64)
    beta = np.asarray(beta, dtype=np.float64)
    threshold = np.asarray(threshold, dtype=np.float64)
    num_steps = input_.shape[0]
    mem0 = np.zeros(input_.shape[1:]) if mem0 is None else np.asarray(mem0, dtype=np.float64)
    dspk = np.zeros_like(input_) if dspk is None else np.asarray(dspk, dtype=np.float64)
    dmem = np.zeros_like(input_) if dmem is None else np.asarray(dmem, dtype=np.float64)
    decay = np.clip(beta, 0.0, 1.0)

    # u and o are kept with u[-1] in front: index k is time k - 1.
    u = np.empty((num_steps + 1, *input_.shape[1:]))
    o = np.empty_like(u)
    u[0] = mem0
    o[0] = u[0] - threshold > 0
    for t in range(num_steps):
        if reset == "zero":
            u[t + 1] = decay * ((1 - o[t]) * u[t]) + input_[t]
        elif reset == "subtract":
            u[t + 1] = (decay * u[t] + input_[t]) - o[t] * threshold
        elif reset == "none":
            u[t + 1] = decay * u[t] + input_[t]
        else:
            raise ValueError(reset)
        o[t + 1] = u[t + 1] - threshold > 0

    s = np.stack([surrogate(u[k], o[k], threshold) for k in range(num_steps + 1)])

    du = np.zeros((num_steps + 2, *input_.shape[1:]))  # du[T + 1] = 0: nothing after the last step
    dbeta_terms = np.zeros_like(input_)
    dthreshold_terms = np.zeros_like(u)
    dthreshold_abs = np.zeros_like(u)
    for k in range(num_steps, -1, -1):
        spike_gradient = dspk[k - 1] if k > 0 else 0.0
        outside = dmem[k - 1] if k > 0 else 0.0
        keep = 1 - o[k] if reset == "zero" else 1.0
        residual = 0.0 if reset == "none" else alpha * s[k]
        du[k] = s[k] * spike_gradient + outside + decay * (keep + residual) * du[k + 1]
        # The spike is a function of u - u_th wherever it is used: output and residual.
        into_spike = s[k] * spike_gradient + decay * residual * du[k + 1]
        lowered = o[k] * du[k + 1] if reset == "subtract" else 0.0
        dthreshold_terms[k] = -into_spike - lowered
        dthreshold_abs[k] = np.abs(s[k] * spike_gradient) + np.abs(decay * residual * du[k + 1]) + np.abs(lowered)
        if k > 0:
            left = 1 - o[k - 1] if reset == "zero" else 1.0
            dbeta_terms[k - 1] = left * u[k - 1] * du[k]

    return Oracle(
        spk=o[1:],
        mem=u[1:],
        dinput=du[1:-1],
        dbeta=clamp_slope * _sum_to(dbeta_terms, beta.shape),
        dthreshold=_sum_to(dthreshold_terms, threshold.shape),
        dmem0=du[0],
        dbeta_scale=_sum_to(np.abs(dbeta_terms), beta.shape),
        dthreshold_scale=_sum_to(dthreshold_abs, threshold.shape),
        du_scale=np.abs(du).max(axis=0),
    )


# --- the other neurons of the family --------------------------------------------------------------


class Family(NamedTuple):
    """What `integrator` and `alpha_neuron` return, under the host's names of states and parameters.

    `size` is the largest gradient of the recursion and `scale` the sum of absolute terms of each
    parameter's gradient: what rounding is measured against.
    """

    spk: np.ndarray
    states: dict  # name -> [T, B, *]
    dinput: np.ndarray
    dstart: dict  # name -> [B, *]
    dparameters: dict  # name -> array of the parameter's shape
    size: float
    scale: dict


def _gradients(terms, values):
    """Sum the terms of every step into the shape of each parameter, and their absolute values."""
    shapes = {name: value.shape for name, value in values.items() if value is not None}
    stacked = {name: np.stack(terms[name]) for name in shapes}
    return (
        {name: _sum_to(stacked[name], shape) for name, shape in shapes.items()},
        {name: _sum_to(np.abs(stacked[name]), shape) for name, shape in shapes.items()},
    )


def _winner(mem, inhibition):
    """1 for the neuron with the largest membrane of each sample and 0 for the others; 1 for all without inhibition."""
    return np.arange(mem.shape[-1]) == mem.argmax(axis=-1)[..., None] if inhibition else np.ones_like(mem)


def _same(x):
    return x


def _recurrence(V, weight, bias):
    """R(z) and its transpose R^T(d)."""
    if weight is not None:  # from all neurons of a sample, in a row, to all
        return (
            lambda z: (z.reshape(len(z), -1) @ weight.T + bias).reshape(z.shape),
            lambda d: (d.reshape(len(d), -1) @ weight).reshape(d.shape),
        )
    if V is not None:  # from each to itself
        return lambda z: z * V, lambda d: d * V
    return np.zeros_like, np.zeros_like


def integrator(
    input_,
    *,
    beta,
    threshold,
    surrogate,
    alpha=None,
    gain=1.0,
    V=None,
    weight=None,
    bias=None,
    temporal_alpha=0.0,
    reset="zero",
    reset_delay=True,
    wipes_input=True,
    inhibition=False,
    quantise=_same,
    start=None,
    dspk=None,
    dstates=None,
):
    """Lapicque, RLeaky, Synaptic and RSynaptic; Leaky with ``wipes_input=False``.

    Forward, with o[t] = 1 if u[t] > u_th, z[t] = 1 if v[t] > u_th (the output), R the recurrence:

        i[t] = alpha * i[t-1] + I[t] + R(z[t-1])    synaptic current; without one, alpha = 0
        w[t] = beta * u[t-1] + gain * i[t]
        zero:      v[t] = (1 - o[t-1]) * w[t]       wipes the new current too; Leaky only u[t-1]
        subtract:  v[t] = w[t] - o[t-1] * u_th
        none:      v[t] = w[t]

    With the reset a step later, u[t] = v[t] and o[t] = z[t]. With ``reset_delay=False`` it comes at
    once, less what the line above did: with p[t] = z[t] - o[t-1],

        zero:      u[t] = v[t] - p[t] * v[t]
        subtract:  u[t] = v[t] - p[t] * u_th

    Backward: o[t] in a reset has no gradient, z[t] has. dz, du, di start as the gradients from
    outside; s[t] is the surrogate's derivative at v[t]. For each t from the last:

        at once:   zero: dv = (1 - p[t]) * du[t], dz[t] -= v[t] * du[t]
                   subtract: dv = du[t], dz[t] -= u_th * du[t]
        later:     dv = du[t]
        dv += s[t] * dz[t]
        dw = (1 - o[t-1]) * dv for zero, else dv    (Leaky: dv into di[t] in any case)
        di[t] += gain * dw,  dI[t] = di[t],  di[t-1] += alpha * di[t],  dz[t-1] += R^T(di[t])
        du[t-1] += beta * dw + beta * temporal_alpha * s[t-1] * dv

    The last term is Eq. 10: the residual enters v[t] beside the reset, which does not wipe it.

    Args:
        input_: Current [T, B, *].
        beta, alpha, gain, threshold: Numbers or arrays that broadcast with one step, as they are
            used (clamped). alpha None: the neuron has no synaptic current.
        surrogate: Function s(u, o, threshold).
        V: Weight of each neuron to itself, or
        weight, bias: matrix and vector from all neurons of a sample, in a row, to all.
        temporal_alpha: Strength of the residual.
        reset, reset_delay: "zero", "subtract" or "none", and whether it comes a step later.
        inhibition: Only the neuron with the largest v hands its spike out. o is not concerned.
        quantise: Function that v[t], and then i[t], go through once calculated; its derivative is taken for 1.
        start: "spk", "syn", "mem" before the first step, zeros by default.
        dspk, dstates: Gradients from outside at spikes and at "syn" and "mem", [T, B, *].
    """
    has_syn, has_matrix = alpha is not None, weight is not None
    values = dict(beta=beta, alpha=alpha, gain=gain, threshold=threshold, V=V, weight=weight, bias=bias)
    values = {name: None if x is None else np.asarray(x, dtype=np.float64) for name, x in values.items()}
    beta, gain, threshold = values["beta"], values["gain"], values["threshold"]
    alpha = values["alpha"] if has_syn else 0.0
    recur, recur_back = _recurrence(values["V"], values["weight"], values["bias"])
    if temporal_alpha and (reset == "none" or not reset_delay):
        raise ValueError("a residual without a reset of the step before")
    start, dstates = start or {}, dstates or {}
    num_steps, shape = len(input_), input_.shape[1:]

    # [0] is the start: index k is time k - 1.
    z, i, w, v, p, u, o, winner, dz, di, du = (np.zeros((num_steps + 1, *shape)) for _ in range(11))
    z[0], i[0], u[0] = (start.get(name, 0.0) for name in ("spk", "syn", "mem"))
    o[0] = u[0] - threshold > 0
    for k in range(1, num_steps + 1):
        i[k] = alpha * i[k - 1] + input_[k - 1] + recur(z[k - 1])
        w[k] = beta * u[k - 1] + gain * i[k]
        v[k] = w[k]
        if reset == "zero":
            v[k] -= o[k - 1] * (w[k] if wipes_input else beta * u[k - 1])
        elif reset == "subtract":
            v[k] -= o[k - 1] * threshold
        v[k] = quantise(v[k])
        i[k] = quantise(i[k]) if has_syn else i[k]
        winner[k] = _winner(v[k] - threshold, inhibition)
        z[k] = (v[k] - threshold > 0) * winner[k]
        u[k] = v[k]
        if not reset_delay:
            p[k] = z[k] - o[k - 1]
            u[k] -= {"zero": p[k] * v[k], "subtract": p[k] * threshold, "none": 0.0}[reset]
        o[k] = u[k] - threshold > 0

    dz[1:] = 0.0 if dspk is None else dspk
    di[1:] = dstates.get("syn", 0.0)
    du[1:] = dstates.get("mem", 0.0)
    terms = {name: [] for name in values}
    for k in range(num_steps, 0, -1):
        dv = du[k]
        if not reset_delay and reset == "zero":
            dv = (1 - p[k]) * du[k]
            dz[k] -= v[k] * du[k]
        elif not reset_delay and reset == "subtract":
            dz[k] -= threshold * du[k]
            terms["threshold"].append(-p[k] * du[k])
        into_spike = surrogate(v[k], v[k] > threshold, threshold) * winner[k] * dz[k]
        dv = dv + into_spike
        if reset == "subtract":
            terms["threshold"].append(-o[k - 1] * dv)

        kept = 1 - o[k - 1] if reset == "zero" else 1.0
        dw = kept * dv if wipes_input else dv
        di[k] += gain * dw
        di[k - 1] += alpha * di[k]
        dz[k - 1] += recur_back(di[k])
        into_residual = beta * temporal_alpha * surrogate(u[k - 1], o[k - 1], threshold) * dv
        du[k - 1] += beta * kept * dv + into_residual

        terms["threshold"] += [-into_spike, -into_residual]  # functions of u - u_th, both
        terms["beta"].append(kept * u[k - 1] * dv)
        terms["gain"].append(i[k] * dw)
        terms["alpha"].append(i[k - 1] * di[k])
        terms["V"].append(z[k - 1] * di[k])
        if has_matrix:
            from_, to = (x.reshape(len(x), 1, -1) for x in (z[k - 1], di[k]))
            terms["weight"].append(to.swapaxes(1, 2) * from_)
            terms["bias"].append(to[:, 0])

    dparameters, scale = _gradients(terms, values)
    return Family(
        z[1:],
        {"syn": i[1:], "mem": u[1:]} if has_syn else {"mem": u[1:]},
        di[1:],
        {"spk": dz[0], "syn": di[0], "mem": du[0]},
        dparameters,
        size=max(np.abs(x).max(initial=0.0) for x in (dz, di, du)),
        scale=scale,
    )


def lapicque(input_, *, beta=None, R=1.0, C=None, time_step=1.0, **rest):
    """`integrator` with the constants of a circuit: of beta, R and C two are given, R being 1 by default.

        beta = exp(-time_step / (R * C)),  u[t] = (1 - time_step / (R * C)) * u[t-1] + time_step / C * I[t]

    Where beta was given, its gradient is that of the capacity C, which was made from it.
    """
    capacity = C if beta is None else time_step / (R * np.log(1 / np.asarray(beta, dtype=np.float64)))
    result = integrator(input_, beta=1 - time_step / (R * capacity), gain=time_step / capacity, **rest)
    if beta is None:
        return result
    by_decay, by_gain = time_step / (R * capacity**2), -time_step / capacity**2
    dcapacity = time_step / (R * beta * np.log(1 / beta) ** 2)
    found, scale = result.dparameters, result.scale
    dbeta = dcapacity * (by_decay * found["beta"] + by_gain * found["gain"])
    dbeta_scale = np.abs(dcapacity) * (np.abs(by_decay) * scale["beta"] + np.abs(by_gain) * scale["gain"])
    return result._replace(dparameters=found | {"beta": dbeta}, scale=scale | {"beta": dbeta_scale})


def alpha_neuron(
    input_,
    *,
    alpha,
    beta,
    threshold,
    surrogate,
    reset="zero",
    inhibition=False,
    quantise=_same,
    start=None,
    dspk=None,
    dstates=None,
):
    """Alpha: the membrane is the two synaptic currents', and of its own past only the reset remains.

        e'[t] = alpha * e[t-1] + I[t],  i'[t] = beta * i[t-1] - I[t],  u'[t] = tau * (e'[t] + i'[t])
        tau = log(alpha) / (log(beta) - log(alpha)) + 1

        zero:      e, i, u [t] = (1 - o[t-1]) * (e', i', u' [t])
        subtract:  e[t] = e'[t] - o[t-1] * u_th,  i[t] = (1 - o[t-1]) * i'[t],  u[t] = u'[t] + o[t-1] * i[t-1]
        none:      e, i, u [t] = e', i', u' [t]

    Backward, with dz, de, di, du from outside: du[t] += s[t] * dz[t], then through these lines. Nothing goes from
    u[t] to u[t-1], since the reset is detached. States are "syn_exc", "syn_inh", "mem", in `start` and `dstates`.
    """
    alpha, beta, threshold = (np.asarray(x, dtype=np.float64) for x in (alpha, beta, threshold))
    span = np.log(beta) - np.log(alpha)
    tau = np.log(alpha) / span + 1
    dtau_dalpha = (1 + np.log(alpha) / span) / (alpha * span)
    dtau_dbeta = -np.log(alpha) / (beta * span**2)
    names = ("syn_exc", "syn_inh", "mem")
    start, dstates = start or {}, dstates or {}
    num_steps, shape = len(input_), input_.shape[1:]

    e, i, u, both, o, de, di, du = (np.zeros((num_steps + 1, *shape)) for _ in range(8))
    e[0], i[0], u[0] = (start.get(name, 0.0) for name in names)
    o[0] = u[0] - threshold > 0
    for k in range(1, num_steps + 1):
        exc, inh = alpha * e[k - 1] + input_[k - 1], beta * i[k - 1] - input_[k - 1]
        both[k] = exc + inh
        e[k], i[k], u[k] = exc, inh, tau * both[k]
        if reset == "zero":
            for x in (e, i, u):
                x[k] -= o[k - 1] * x[k]
        elif reset == "subtract":
            e[k] -= o[k - 1] * threshold
            i[k] -= o[k - 1] * inh
            u[k] += o[k - 1] * i[k - 1]
        e[k], i[k], u[k] = quantise(e[k]), quantise(i[k]), quantise(u[k])
        o[k] = u[k] - threshold > 0

    winner = _winner(u - threshold, inhibition)
    dz = np.zeros_like(u[1:]) if dspk is None else dspk
    de[1:], di[1:], du[1:] = (dstates.get(name, 0.0) for name in names)
    dinput = np.zeros_like(u[1:])
    terms = {name: [] for name in ("alpha", "beta", "threshold")}
    for k in range(num_steps, 0, -1):
        into_spike = surrogate(u[k], o[k], threshold) * winner[k] * dz[k - 1]
        du[k] += into_spike
        terms["threshold"].append(-into_spike)
        fired = o[k - 1]
        keep_exc, keep_inh, keep_mem = {
            "zero": (1 - fired, 1 - fired, 1 - fired),
            "subtract": (1.0, 1 - fired, 1.0),
            "none": (1.0, 1.0, 1.0),
        }[reset]
        if reset == "subtract":
            terms["threshold"].append(-fired * de[k])
            di[k - 1] += fired * du[k]
        dmem = keep_mem * du[k]
        dexc = keep_exc * de[k] + tau * dmem
        dinh = keep_inh * di[k] + tau * dmem
        dinput[k - 1] = dexc - dinh
        de[k - 1] += alpha * dexc
        di[k - 1] += beta * dinh
        terms["alpha"] += [e[k - 1] * dexc, dtau_dalpha * both[k] * dmem]
        terms["beta"] += [i[k - 1] * dinh, dtau_dbeta * both[k] * dmem]

    dparameters, scale = _gradients(terms, dict(alpha=alpha, beta=beta, threshold=threshold))
    return Family(
        (o * winner)[1:],
        {"syn_exc": e[1:], "syn_inh": i[1:], "mem": u[1:]},
        dinput,
        {"syn_exc": de[0], "syn_inh": di[0], "mem": du[0]},
        dparameters,
        size=max(np.abs(x).max(initial=0.0) for x in (dinput, de, di, du)),
        scale=scale,
    )
