"""The equations of the six neurons, once: a row each, a step forward and the same step backward.

``advance``, ``prompt`` and ``retreat`` are plain Python that tensors of PyTorch, numba and Triton all take. They have
snnTorch's order of operations, on which the bits of the spikes depend. The letters: u the membrane, i and j the
currents in front of it (`syn`; or `syn_exc` and `syn_inh`), x the input, z what the recurrence feeds back, `fired` 1
or 0 and `kept` 1 - `fired`. The flags in capitals are constants, which a compiler leaves out of the kernel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from triton import language as tl


class Cell(NamedTuple):
    """A row of the family: what sets a neuron apart from the others."""

    states: tuple[str, ...] = ("mem",)  # in the order of snnTorch's arguments
    filter: bool = False  # a synaptic current in front of the membrane
    alpha: bool = False  # the membrane is the alpha function of two currents
    recurrent: bool = False  # the spikes are fed back
    zero_keeps_input: bool = (
        False  # the reset to zero of Leaky (Eq. 2); that of the others takes the input of the step along
    )
    clipped: bool = True  # decays are clipped to [0, 1]


CELLS = {
    "Leaky": Cell(zero_keeps_input=True),
    "Lapicque": Cell(clipped=False),
    "RLeaky": Cell(("spk", "mem"), recurrent=True),
    "Synaptic": Cell(("syn", "mem"), filter=True),
    "RSynaptic": Cell(("spk", "syn", "mem"), filter=True, recurrent=True),
    "Alpha": Cell(("syn_exc", "syn_inh", "mem"), alpha=True),
}


class Flags(NamedTuple):
    """The constants of ``advance`` and ``retreat``, in the order of their arguments."""

    FILTER: bool
    ALPHA: bool
    RECURRENT: bool
    KEEP: bool  # reset to zero: of the membrane alone
    WIPE: bool  # reset to zero: of all that the step has calculated
    SUBTRACT: bool


def flags(name: str, reset_mechanism: str) -> Flags:
    """The constants of the neuron `name` under a reset."""
    cell, zero = CELLS[name], reset_mechanism == "zero"
    return Flags(
        cell.filter,
        cell.alpha,
        cell.recurrent,
        zero and cell.zero_keeps_input,
        zero and not cell.zero_keeps_input,
        reset_mechanism == "subtract",
    )


def advance(
    u: Any, i: Any, j: Any, x: Any, z: Any, fired: Any, kept: Any, beta: Any, alpha: Any, tau: Any, threshold: Any,
    FILTER: tl.constexpr, ALPHA: tl.constexpr, RECURRENT: tl.constexpr,
    KEEP: tl.constexpr, WIPE: tl.constexpr, SUBTRACT: tl.constexpr,
) -> Any:  # fmt: skip
    """The next u, i and j. `fired` and `kept` say whether u was above the threshold."""
    if ALPHA:
        e = alpha * i + x
        h = beta * j - x
        n = tau * (e + h)
        if WIPE:
            e = e - e * fired
            h = h - h * fired
            n = n - n * fired
        if SUBTRACT:
            e = e - threshold * fired
            h = h - h * fired
            n = n + j * fired
        return n, e, h
    if FILTER:
        x = alpha * i + x
        if RECURRENT:
            x = x + z
        i = x
    if KEEP:  # Eq. 2
        n = beta * (kept * u) + x
    else:
        n = beta * u + x
    if RECURRENT and not FILTER:
        n = n + z
    if SUBTRACT:
        n = n - fired * threshold
    if WIPE:
        n = n - fired * n
    return n, i, j


def prompt(u: Any, again: Any, threshold: Any, SUBTRACT: tl.constexpr) -> Any:
    """``reset_delay=False``: the membrane after the reset of its own spike. `again` is 1 where it fired and had not
    been reset in this step, -1 where it had and did not fire (snnTorch gives that back), else 0."""
    if SUBTRACT:
        return u - again * threshold
    return u - again * u


def retreat(
    u: Any, i: Any, j: Any, n: Any, du: Any, di: Any, dj: Any, s: Any, fired: Any, kept: Any, beta: Any, alpha: Any,
    tau: Any, residual: Any,
    FILTER: tl.constexpr, ALPHA: tl.constexpr, RECURRENT: tl.constexpr,
    KEEP: tl.constexpr, WIPE: tl.constexpr, SUBTRACT: tl.constexpr,
) -> Any:  # fmt: skip
    """From the gradients du, di and dj at the states that a step ends with (n is its membrane) to those at its x, which that
    of z equals, and at the u, i and j it began with; then, of the gradient at the threshold, what the spike of u adds by the
    residual (Eq. 10) and what its reset adds, both to be subtracted; then what the step adds to the gradients of beta, alpha
    and tau. `s` is the surrogate's derivative at u. Without a meaning: du of the alpha function, whose membrane does not
    depend on the last one."""
    if WIPE:
        gated = kept * du
    else:
        gated = du
    back = beta * residual * s * du
    lost = fired * du
    if ALPHA:
        lost = fired * di
        de = tau * gated
        dh = de
        if WIPE:
            de = de + kept * di
            dh = dh + kept * dj
        else:
            de = de + di
            if SUBTRACT:
                dh = dh + kept * dj
            else:
                dh = dh + dj
        dalpha = i * de
        dbeta = j * dh
        dtau = n / tau * gated
        dj = beta * dh
        if SUBTRACT:
            dtau = (n - fired * j) / tau * gated
            dj = dj + fired * du
        return de - dh, du, alpha * de, dj, back, lost, dbeta, dalpha, dtau
    dx = gated
    dalpha = gated
    if FILTER:
        dx = dx + di
        dalpha = i * dx
        di = alpha * dx
    if KEEP or WIPE:  # Eq. 8 and 10
        dbeta = kept * u * du
        du = beta * (kept + residual * s) * du
    else:
        dbeta = u * du
        du = beta * ((fired + kept) + residual * s) * du
    return dx, du, di, dj, back, lost, dbeta, dalpha, dalpha
