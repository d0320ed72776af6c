"""Channels last, where a CPU's convolutions and poolings are faster so; and as it was where somebody else may look."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .._torch import is_compiling, is_exporting, is_transforming

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn

# Of float64, PyTorch's convolutions have no kernel for it.
_FASTER = (torch.float32, torch.bfloat16)
# Whose layers and neurons ask nothing of the order in memory.
_INDIFFERENT = ("torch", "snntorch", "snntorch_bpsta")


def is_free(x: Tensor) -> bool:
    """Whether the memory format of `x` ``[T, B, *]``, and of what is made of it, is ours to choose."""
    if x.device.type != "cpu" or x.dtype not in _FASTER or type(x) is not Tensor:
        return False
    return not (is_compiling() or is_transforming() or is_exporting() or is_channels_last(x))


def is_channels_last(x: Tensor) -> bool:
    """Whether pictures ``[*, C, H, W]`` lie channels last, and not as usual."""
    if x.dim() < 4 or x.is_contiguous():
        return False
    return (x[0] if x.dim() == 5 and len(x) else x).is_contiguous(memory_format=torch.channels_last)


def in_channels_last(convolve: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """What a convolution makes of pictures `x` ``[N, C, H, W]``, channels last. One channel lies both ways, which PyTorch
    takes for the usual one: there the result is turned."""
    if x.dim() != 4:
        return convolve(x)
    return channels_last(convolve(x)) if x.shape[1] == 1 else convolve(channels_last(x))


def channels_last(x: Tensor) -> Tensor:
    """Pictures ``[N, C, H, W]`` channels last."""
    return x.contiguous(memory_format=torch.channels_last)


def usual(x: Tensor) -> Tensor:
    """`x`, as usual where it lies channels last."""
    return x.contiguous() if is_channels_last(x) else x


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Parts of the time ``[T, B, *]`` as one; PyTorch's cat would forget that pictures lie channels last."""
    if len(parts) == 1:
        return parts[0]
    if not is_channels_last(parts[0]) or parts[0].dim() != 5:
        return torch.cat(list(parts))
    return torch.cat([part.flatten(0, 1) for part in parts]).unflatten(0, (-1, parts[0].shape[1]))


def is_indifferent(layer: nn.Module) -> bool:
    """Whether a layer may be given channels last where its author did not think of that."""
    return all(type(module).__module__.partition(".")[0] in _INDIFFERENT for module in layer.modules())
