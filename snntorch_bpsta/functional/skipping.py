"""Convolutions and linear layers of spikes, which skip the zeros: on a CPU, in float32.

Most numbers that a layer of spikes takes are zero, and the product with a zero is nothing. Where few enough neurons
fire, lists of those who did give the layer's output, its weights' gradient and, **at the spikes**, its input's: less work
than the dense product, in the proportion of the firing rate. The gradient at a spike is all that a neuron under Eq. 9 asks
for, whose derivative is zero wherever it did not fire (through max pooling too, where a window without a spike hands its
gradient to a neuron that did not fire). The lists, 2 bytes a spike, are kept for backward in place of the input. A dense
gradient of the input is made of a list too where that of the output is mostly zeros, as behind a max pooling.

Which of the two runs follows from the number of spikes and the sizes alone, so that a run that is repeated gives the same
numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .._checks import check_flags
from .._torch import is_autocast, is_compiling, is_forward_mode, is_transforming, is_watched
from . import costs
from .costs import Layer, rows_of
from .lists import Skipping, count

if TYPE_CHECKING:
    from torch import Tensor

_on = True


def skip_zeros(on: bool = True) -> None:
    """Whether layers of spikes may skip zeros, in this process; from the start they may.

    In :class:`~snntorch_bpsta.MultiStep` and :func:`~snntorch_bpsta.fold_time`, on a CPU and in float32, an ``nn.Conv2d``
    (stride 1, dilation 1, one group, zeros around) or ``nn.Linear`` whose input is zeros and ones skips the zeros where the
    number of spikes and the size of the layer make that faster: right behind a spiking neuron, a max pooling of its spikes,
    or where snnTorch's ``spikegen`` or binary frames come in. Its output and gradients are PyTorch's to rounding: the sums
    go in another order.

    Args:
        on: False leaves all layers to PyTorch.

    Raises:
        TypeError: `on` is no bool.
    """
    global _on
    check_flags(on=on)
    _on = on


def conv2d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1, *, at_spikes: bool | None = False,
) -> tuple[Tensor | None, str]:  # fmt: skip
    """``torch.nn.functional.conv2d``, skipping the zeros of `input` ``[N, C, H, W]``, or None where that does not pay or
    cannot be; and how, or why not, in words.

    Args:
        input: spikes, or what may be.
        weight, bias, stride, padding, dilation, groups: PyTorch's.
        at_spikes: whoever made `input` needs its gradient where it is not zero alone: it is zero elsewhere then.
    """
    why = _why_not(input, weight, bias, 4)
    if why is not None:
        return None, why
    border, (images, channels, height, width), (outputs, *_, rows, columns) = padding, input.shape, weight.shape
    if isinstance(padding, (tuple, list)) and len({*padding}) == 1:
        border = padding[0]
    plain = all(value in (1, (1, 1), [1, 1]) for value in (stride, dilation)) and groups == 1
    if rows != columns or not plain or not isinstance(border, int) or not 0 <= border < rows:
        return None, "square kernels of stride 1, with fewer zeros around than taps, alone"
    size = Layer(images, channels, height, width, outputs, rows, border)
    if weight.shape[1] != channels or min(size.out) < 1:
        return None, "the kernel does not fit"
    return _run(input, weight, bias, size, at_spikes)


def linear(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, *, at_spikes: bool | None = False
) -> tuple[Tensor | None, str]:
    """As :func:`conv2d`, for ``torch.nn.functional.linear`` of `input` ``[N, in_features]``."""
    why = _why_not(input, weight, bias, 2)
    if why is not None:
        return None, why
    rows, (outputs, features) = len(input), weight.shape
    if input.shape[1] != features:
        return None, "the weights do not fit"
    size = rows_of(rows, features, outputs)
    pictures = input.reshape(size.images, 1, size.width, features).permute(0, 3, 1, 2)
    out, how = _run(pictures, weight, bias, size, at_spikes)
    return None if out is None else out.permute(0, 2, 3, 1).reshape(rows, outputs), how


def of_layer(layer: nn.Module, x: Tensor, at_spikes: bool | None) -> tuple[Tensor | None, str]:
    """The same for a module of one of the classes `SKIPPING`."""
    if type(layer) is nn.Linear:
        return linear(x, layer.weight, layer.bias, at_spikes=at_spikes)
    assert isinstance(layer, nn.Conv2d)
    if layer.padding_mode != "zeros":
        return None, "zeros around alone"
    rest = layer.stride, layer.padding, layer.dilation, layer.groups
    return conv2d(x, layer.weight, layer.bias, *rest, at_spikes=at_spikes)


SKIPPING = (nn.Conv2d, nn.Linear)


def _why_not(x, weight, bias, dimensions):
    """Why a layer cannot skip zeros, whatever these are."""
    if not _on:
        return "skip_zeros(False)"
    if is_compiling() or is_transforming() or is_watched() or is_forward_mode():
        return "not in a graph"
    for each in (x, weight) if bias is None else (x, weight, bias):
        if type(each) not in (torch.Tensor, nn.Parameter):
            return "no tensors of other classes"
        if each.device.type != "cpu" or each.dtype != torch.float32:
            return "float32 on a CPU alone"
    if is_autocast(x):
        return "float32 on a CPU alone"
    if x.dim() != dimensions or weight.dim() != dimensions:
        return f"an input of {dimensions} dimensions alone"
    return None


def _run(x, weight, bias, size, at_spikes):
    if not x.numel():
        return None, "nothing there"
    block = costs.block_for(size)
    if isinstance(block, str):
        return None, block
    seen = count(x[:1].contiguous())  # currents and pictures are found out by the first
    if seen >= 0 and not (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)):
        x = x.contiguous(memory_format=torch.channels_last)
    counts = count(x) if seen >= 0 else seen
    if int(counts.min()) < 0:
        return None, "not only zeros and ones"
    spikes = int(counts.sum())
    rate = spikes / x.numel()
    training = torch.is_grad_enabled() and (weight.requires_grad or x.requires_grad)
    passes = "forward" if not training else "spikes" if at_spikes and x.requires_grad else "weights"
    if not costs.pays(size, block, spikes, passes):
        return None, f"rate {rate:.2g}"
    x = x.contiguous(memory_format=torch.channels_last)
    out = Skipping.apply(
        x, weight if weight.dim() == 4 else weight[:, :, None, None], bias, size, block, counts, at_spikes
    )
    return out, f"skips zeros at rate {rate:.2g}" + ", its input's gradient at spikes" * bool(at_spikes)
