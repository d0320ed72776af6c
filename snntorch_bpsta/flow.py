"""How far the error comes: the size of dL/du over the time steps, neuron by neuron."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from ._checks import check_module
from .doctor import watch
from .neurons import Adjusted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

__all__ = ["GradientFlow", "record_gradient_flow"]


class GradientFlow(dict[str, list[torch.Tensor]]):
    """By layer name, for every backward pass the mean over batch and neurons of \\|dL/du[t]\\|, ``[T]``."""

    def mean(self) -> dict[str, Tensor]:
        """By layer name, the mean over the backward passes, ``[T]``."""
        return {name: torch.stack(passes).mean(0) for name, passes in self.items()}


@contextmanager
def record_gradient_flow(net: nn.Module) -> Iterator[GradientFlow]:
    r"""Record the gradient that reaches the membranes of our neurons in `net`, step by step, while the context lasts.

    What is recorded is the gradient with respect to the current of a neuron, which by Eq. 2 is :math:`\partial L / \partial
    u[t]`; where the neuron rectifies its current itself, as in a ``ConvBlock``, that of a current below 0 is 0.

    Yields:
        GradientFlow: filled as gradients are calculated. Only calls with all steps at once (``sequence``, ``MultiStep``)
        are recorded.

    Raises:
        TypeError: `net` is no module.

    Example:
        >>> import torch, snntorch_bpsta as snn
        >>> net = snn.networks.small(width=1/16, num_steps=4)
        >>> with snn.flow.record_gradient_flow(net) as flow:
        ...     net(torch.rand(2, 1, 28, 28)).square().sum().backward()
        >>> [tuple(size.shape) for size in flow.mean().values()]
        [(4,), (4,), (4,), (4,), (4,)]
    """
    check_module("net", net)
    flow = GradientFlow()

    def pulled(name, call, grad):
        flow.setdefault(name, []).append(grad.detach().abs().flatten(1).mean(1))

    with watch(net, None, pulled, Adjusted, singles=False):
        yield flow
