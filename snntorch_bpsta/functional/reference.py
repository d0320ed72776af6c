"""The blackboard loop over T. Autograd does the backward: the ground truth that every kernel is judged against."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from .._checks import check_fired
from .cells import CELLS, advance, flags, prompt

if TYPE_CHECKING:
    from torch import Tensor

    from .._typing import SpikeGrad
    from .record import Neuron


def temporal_residual(
    mem: Tensor, decay: Tensor, threshold: Tensor, spike_grad: SpikeGrad, temporal_alpha: float
) -> Tensor:
    """Eq. 10: a zero that carries gradient, lambda * alpha * (s - s.detach()), from the spike of the last step, `mem`'s,
    into the membrane of this one; lambda is the `decay`. Added to a membrane it leaves every value as it is."""
    spk = spike_grad(mem - threshold)
    return decay * (temporal_alpha * (spk - spk.detach()))


def reference(neuron: Neuron, input_: Tensor, states: dict[str, Any]) -> tuple[Tensor, dict[str, list[Tensor]]]:
    """All T steps of `neuron` from `states` (mem, and syn, inh, fed where it has them), in snnTorch's own order of
    operations, on which the bits depend. The spikes, and the states of every step."""
    row, constants = CELLS[neuron.cell], flags(neuron.cell, neuron.reset_mechanism)
    threshold, spike_grad, factor = neuron.threshold, neuron.surrogate(), neuron.factor
    u: Any
    z: Any
    v: Any
    u, i, j, z = (states.get(name) for name in ("mem", "syn", "inh", "fed"))
    spk_rec: list[Tensor] = []
    rec: dict[str, list[Any]] = {"mem": [], "syn": [], "inh": []}
    reset = spike_grad(u - threshold)
    check_fired(reset)
    reset = reset.detach().to(u.dtype)
    for x in input_.unbind(0):
        beta, alpha, tau, _, v = neuron.parameters()
        fed = None
        if row.recurrent:
            fed = z * v if neuron.recurrence is None else neuron.recurrence(z)
        before = u
        u, i, j = advance(u, i, j, x, fed, reset, 1 - reset, beta, alpha, tau, threshold, *constants)
        if neuron.residual:  # behind the reset, which may wipe all that comes before it
            u = u + temporal_residual(before, beta, threshold, spike_grad, neuron.residual).to(u.dtype)
        spk = spike_grad(u - threshold).to(u.dtype)  # Eq. 3
        if neuron.reset_delay or neuron.reset_mechanism == "none":
            reset = spk.detach()
        else:
            u = prompt(u, spk - reset, threshold, constants.SUBTRACT)
            reset = spike_grad(u - threshold).detach().to(u.dtype)
        z = spk * factor
        spk_rec.append(z)
        for name, state in (("mem", u), ("syn", i), ("inh", j)):
            rec[name].append(state)
    return torch.stack(spk_rec), rec
