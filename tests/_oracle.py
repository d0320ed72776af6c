"""The paper's recursion in plain float64 numpy: the judge of every implementation, importing none.

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
