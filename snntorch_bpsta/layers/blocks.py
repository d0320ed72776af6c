"""Layers around the neurons: the paper's block of a convolution, its voting, neuron dropout, direct encoding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from .._checks import FLOATING, check_flags, check_module, check_positive_int, check_tensor

if TYPE_CHECKING:
    from torch import Tensor

    from .._typing import WarmUp

__all__ = ["ConvBlock", "DirectEncoding", "NeuronDropout", "Voting"]


class ConvBlock(nn.Sequential):
    """The paper's ``128C3``: Conv 3x3 (padding 1) -> BatchNorm -> ReLU -> neuron.

    Inside a :class:`MultiStep` the neuron rectifies its current itself and writes the spikes over it (``inplace``), so that
    ReLU and neuron together keep one number per neuron and step for backward, and allocate nothing else.

    Args:
        in_channels, out_channels: of the convolution.
        neuron: the spiking neuron.
        num_steps: repeat a one-step current this often before the neuron (see :class:`DirectEncoding`); for the first
            block behind a static image.
        relu: False leaves the ReLU out.

    Shape:
        inside a :class:`MultiStep`, ``[T, B, in_channels, H, W]`` -> ``[T, B, out_channels, H, W]``.
    """

    def __init__(
        self, in_channels: int, out_channels: int, neuron: nn.Module, num_steps: int | None = None, relu: bool = True
    ) -> None:
        check_positive_int("in_channels", in_channels)
        check_positive_int("out_channels", out_channels)
        check_module("neuron", neuron)
        check_flags(relu=relu)
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
            *([nn.ReLU()] if relu else []),
            *([] if num_steps is None else [DirectEncoding(num_steps)]),
            neuron,
        )


class Voting(nn.Module):
    """The paper's ``10Voting``: each class is the mean of `voters` contiguous outputs.

    snnTorch's losses and accuracies with ``population_code=True`` group outputs in the same way.

    Args:
        voters: outputs per class.

    Shape:
        ``[..., classes * voters]`` -> ``[..., classes]``.

    Raises:
        ValueError: the last dimension is no multiple of `voters`.
    """

    def __init__(self, voters: int = 10) -> None:
        super().__init__()
        check_positive_int("voters", voters)
        self.voters = voters

    def forward(self, x: Tensor) -> Tensor:
        check_tensor("x", x, 1, "[..., classes * voters]", FLOATING)
        if x.shape[-1] % self.voters:
            raise ValueError(f"the last dimension must be a multiple of voters={self.voters}, got {tuple(x.shape)}")
        return x.unflatten(-1, (x.shape[-1] // self.voters, self.voters)).mean(-1)

    def extra_repr(self) -> str:
        return f"voters={self.voters}"


class NeuronDropout(nn.Module):
    """The paper's ``DP``: dropout with one mask per sample, held over all time steps.

    Args:
        p: probability to drop a neuron; the others are scaled by 1 / (1 - p).

    Shape:
        ``[T, B, *]`` -> ``[T, B, *]``; identity in eval mode.
    """

    time_major = True

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if isinstance(p, bool) or not isinstance(p, (int, float)):
            raise TypeError(f"p must be a number in [0, 1], got {type(p).__name__}")
        if not 0 <= p <= 1:
            raise ValueError(f"p must be a number in [0, 1], got {p}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        check_tensor("x", x, 2, "[T, B, *]", FLOATING)
        if not self.training or self.p == 0 or len(x) == 0:
            return x
        return x * nn.functional.dropout(torch.ones_like(x[0]), self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class DirectEncoding(nn.Module):
    """Direct input encoding: a current that is the same at every step.

    Placed right before the first neuron, so that the layers in front of it run once and not T times. Their result is the
    same; only batch norm's running variance differs, by the factor (1 - 1/n) / (1 - 1/(T n)) of its unbiased estimate.

    Args:
        num_steps: number of time steps T.

    Attributes:
        warm_up: with "identity" (see :class:`Leaky`) the current is not repeated, for without neurons all steps are equal.

    Shape:
        ``[1, B, *]`` -> ``[T, B, *]`` (a view); an input of T > 1 steps passes.
    """

    time_major = True

    def __init__(self, num_steps: int) -> None:
        super().__init__()
        check_positive_int("num_steps", num_steps)
        self.num_steps = num_steps
        self.warm_up: WarmUp | None = None

    def forward(self, x: Tensor) -> Tensor:
        check_tensor("x", x, 1, "[1, B, *] or [T, B, *]")
        if x.shape[0] != 1 or self.warm_up == "identity":
            return x
        return x.expand(self.num_steps, *x.shape[1:])

    def extra_repr(self) -> str:
        return f"num_steps={self.num_steps}"
