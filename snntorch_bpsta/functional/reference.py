"""The blackboard loop over T. Autograd does the backward: the ground truth that every kernel is judged against."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from .._typing import SpikeGrad


def temporal_residual(
    mem: Tensor, decay: Tensor, threshold: Tensor, spike_grad: SpikeGrad, temporal_alpha: float
) -> Tensor:
    """Eq. 10: a zero that carries gradient, lambda * alpha * (s - s.detach()), from the spike of the last step, `mem`'s,
    into the membrane of this one; lambda is the `decay`. Added to a membrane it leaves every value as it is."""
    spk = spike_grad(mem - threshold)
    return decay * (temporal_alpha * (spk - spk.detach()))


def lif_reference(
    input_: Tensor,
    mem: Tensor,
    beta: Tensor,
    threshold: Tensor,
    reset_mechanism: str,
    spike_grad: SpikeGrad,
    temporal_alpha: float,
    graded_spikes_factor: Tensor,
) -> tuple[Tensor, list[Tensor]]:
    """All T steps of ``snntorch.Leaky``, in the host's own order of operations (its bits depend on it)."""
    spk_rec, mem_rec = [], []
    reset = spike_grad(mem - threshold).detach()
    for cur in input_.unbind(0):
        if temporal_alpha:
            cur = cur + temporal_residual(mem, beta.clamp(0, 1), threshold, spike_grad, temporal_alpha)
        if reset_mechanism == "zero":  # Eq. 2
            mem = beta.clamp(0, 1) * ((1 - reset) * mem) + cur
        elif reset_mechanism == "subtract":
            mem = beta.clamp(0, 1) * mem + cur - reset * threshold
        else:
            mem = beta.clamp(0, 1) * mem + cur
        spk = spike_grad(mem - threshold)  # Eq. 3
        reset = spk.detach()
        spk_rec.append(spk * graded_spikes_factor)
        mem_rec.append(mem)
    return torch.stack(spk_rec), mem_rec
