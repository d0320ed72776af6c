"""A surrogate that the kernels do not know: any function, or a module that learns its width.

The kernels run forward and keep the membrane. The derivative is taken once over all T, by autograd on that membrane,
and handed to the kernels' backward; a surrogate with parameters gets what reaches its spikes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .._checks import check_fired
from . import operator, passes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from .record import Neuron

REASON = "a surrogate that mixes neurons or steps, draws at random, or fires by another rule than mem > threshold"


def run(neuron: Neuron, t: passes.Tensors, c: passes.Constants, lay: passes.Layout) -> Sequence[Tensor] | None:
    """As ``operator.run``; None for a surrogate of which a loop over single steps would make something else."""
    with torch.no_grad():
        outputs = passes.forward(t, c, lay)
        *states, saved, _ = outputs[1:]
        membrane = saved if saved.shape == outputs[0].shape else states[0]
        steps = membrane.unsqueeze(0) if c.single else membrane
        before = torch.zeros_like(steps[0]) if t.mem is None else t.mem.to(steps.dtype)
        x = torch.cat([before.unsqueeze(0), steps]) - neuron.threshold.detach().to(steps.device, steps.dtype)
    probe = neuron.spike_grad(x[-1])
    check_fired(probe)
    learns = probe.requires_grad
    with torch.enable_grad():
        fire, slopes = _slopes(neuron.spike_grad, x, learns)
        last = _slopes(neuron.spike_grad, x[-1], False)[1]
    if not (
        torch.equal(fire, (x > 0).to(fire.dtype))
        and torch.allclose(slopes[-1], last, rtol=1e-4, atol=1e-6, equal_nan=True)
    ):
        return None
    slopes = slopes.to(steps.dtype)
    given = operator.Given(outputs, (slopes[1:], slopes[0]))
    return operator.run(t, c, lay, fire=fire if learns else None, given=given)


def _slopes(spike_grad, x, keep):
    """The spikes of `x`, and their derivatives."""
    x = x.detach().requires_grad_()
    fire = spike_grad(x)
    if not fire.requires_grad:
        return fire, torch.zeros_like(x)
    return fire, torch.autograd.grad(
        fire, x, torch.ones_like(fire), retain_graph=keep, allow_unused=True, materialize_grads=True
    )[0]
