"""Decays that learn and stay decays."""

from __future__ import annotations

from typing import TypeVar

import snntorch
import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized, register_parametrization

from ._checks import check_module

__all__ = ["bound_decays"]

_Net = TypeVar("_Net", bound=nn.Module)


class _UnitInterval(nn.Module):
    """A parametrization that keeps numbers between 0 and 1: what is learnt is their logit."""

    def forward(self, logit: torch.Tensor) -> torch.Tensor:
        return logit.sigmoid()

    def right_inverse(self, value: torch.Tensor) -> torch.Tensor:
        """The logit of `value`, which is clipped just inside of 0 and 1, where a logit is infinite."""
        edge = torch.finfo(value.dtype).eps
        return value.clamp(edge, 1 - edge).logit()


def bound_decays(net: _Net) -> _Net:
    """Keep every ``beta`` and ``alpha`` of `net` that learns between 0 and 1, in place.

    snnTorch clips a decay to [0, 1] where it is used. One that an optimiser has moved out of that has no gradient any more,
    and stays. Here a decay is the sigmoid of what is learnt, so that no step of any size leads out.
    Values stay as they are, to rounding; the optimiser has to be made afterwards, for the parameters are others:
    ``parametrizations.beta.original`` in place of ``beta``, also in the state_dict.
    ``torch.nn.utils.parametrize.remove_parametrizations(neuron, "beta")`` brings the old names back, with the learnt values.

    Neurons of ours and of snnTorch, at any depth, but for ``Lapicque``, whose decay follows from R and C. A decay that has a
    parametrization already, or does not learn, is left alone.

    Args:
        net: any module.

    Returns:
        torch.nn.Module: `net` itself.

    Raises:
        TypeError: `net` is no module.

    Example:
        >>> import torch, snntorch_bpsta as snn
        >>> lif = snn.bound_decays(snn.Leaky(beta=0.9, learn_beta=True))
        >>> optimiser = torch.optim.SGD(lif.parameters(), lr=100.0)
        >>> spk, mem = lif(torch.rand(2, 3), torch.rand(2, 3))
        >>> mem.sum().backward()
        >>> optimiser.step()
        >>> 0 <= lif.beta.item() < 0.9
        True
    """
    check_module("net", net)
    for neuron in net.modules():
        if isinstance(neuron, snntorch.SpikingNeuron) and not isinstance(neuron, snntorch.Lapicque):
            for name in ("beta", "alpha"):
                value = neuron._parameters.get(name)
                if value is not None and value.requires_grad and not is_parametrized(neuron, name):
                    register_parametrization(neuron, name, _UnitInterval())
    return net
