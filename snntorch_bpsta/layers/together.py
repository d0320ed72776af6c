"""What runs together with the layers next to it: a rule for each such thing, in the order in which they are asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from .._torch import has_global_hooks, has_hooks, is_autocast, is_compiling, is_transforming
from ..functional.pool import windows_of
from ..functional.skipping import SKIPPING
from ..neurons import FAMILY
from .blocks import ConvBlock, DirectEncoding
from .over_time import How, row_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

# Layers behind which spikes are still spikes, and of the same neuron.
_HANDING_ON = (nn.Flatten, nn.Identity, nn.MaxPool2d)


class Placed(NamedTuple):
    """A layer, and whether it stands in a :class:`ConvBlock`."""

    layer: nn.Module
    in_block: bool


class Together(NamedTuple):
    """One call, which does the work of the next `taken` layers.

    Attributes:
        taken: how many layers.
        place: which of them is called; an error names it.
        options: for its call; of a neuron those of ``sequence``.
        told: what else it does, in words, for :func:`snntorch_bpsta.which`.
        twin: what is called in the layer's place.
    """

    taken: int = 1
    place: int = 0
    options: dict[str, Any] = {}
    told: tuple[str, ...] = ()
    twin: nn.Module | None = None


def flat(layers: nn.Sequential, without: Any = (), in_block: bool = False) -> Iterator[Placed]:
    """The layers of a chain and of the chains in it, but those of the classes `without`."""
    for layer in layers:
        if isinstance(layer, without):
            continue
        if isinstance(layer, nn.Sequential) and row_of(layer).how is How.CHAIN:
            yield from flat(layer, without, isinstance(layer, ConvBlock))
        else:
            yield Placed(layer, in_block)


def together(layers: Sequence[Placed], x: Tensor, spiking: nn.Module | None) -> Together:
    """What the next call does.

    Args:
        layers: those that are still to run.
        x: what goes into the first of them, ``[T, B, *]``.
        spiking: the neuron whose spikes `x` is, or None; see :func:`spiking_behind`.
    """
    for rule in RULES:  # in a loop: torch.compile of PyTorch 2.11 does not follow a generator here
        if found := rule(layers, x, spiking):
            return found
    return Together()


def spiking_behind(layer: nn.Module, spiking: nn.Module | None) -> nn.Module | None:
    """The neuron whose spikes `layer` returns, given that whose spikes it takes: itself, or the same where it only moves
    them, or takes the largest of some; None where it returns anything else."""
    if row_of(layer).how is How.SEQUENCE:
        return layer
    return spiking if type(layer) in _HANDING_ON and not has_hooks(layer) else None


def _around_a_neuron(layers, x, spiking):
    """A ReLU and a DirectEncoding in front of a neuron and pooling behind it, which are options of its ``sequence``."""
    options, told = {}, []
    for i, (layer, in_block) in enumerate(layers):
        if row_of(layer).how is How.SEQUENCE:
            behind = layers[i + 1].layer if len(layers) > i + 1 else None
            pools = behind is not None and _pools(layer, behind)
            if pools:
                options["pool"] = behind
            if options and in_block:  # its batch norm does not need its output, which may be written over
                options["inplace"] = True
            return Together(i + 1 + pools, i, options, tuple(told)) if options else None
        if has_hooks(layer):
            break
        if type(layer) is nn.ReLU and not options:
            options["relu"] = True
            told.append("with ReLU")
        elif type(layer) is DirectEncoding and layer.warm_up is None and len(x) == 1 and "num_steps" not in options:
            options["num_steps"] = layer.num_steps
            told.append("with DirectEncoding")
        else:
            break
    return None


def _pools(neuron, layer):
    """Whether a neuron takes over the pooling behind it: one whose ``sequence`` is ours, and nobody looks at the spikes."""
    return windows_of(layer) is not None and not (has_hooks(neuron) or has_global_hooks()) and _is_ours(neuron)


def _is_ours(neuron):
    """Whether the ``sequence`` of a neuron is that of this package."""
    return "sequence" not in vars(neuron) and any(type(neuron).sequence is kind.sequence for kind in FAMILY)


def _of_spikes(layers, x, spiking):
    """A convolution or linear layer, which may skip the zeros of spikes, whoever made them; a neuron under Eq. 9 needs its
    gradient at the spikes alone."""
    layer = layers[0].layer
    if type(layer) not in SKIPPING or has_hooks(layer) or has_global_hooks():
        return None
    if spiking is None:
        return Together(options={"at_spikes": None})
    ours = _is_ours(spiking) and not has_hooks(spiking)  # a hook may put others in place
    return Together(options={"at_spikes": ours and spiking._learns_at_spikes()})


def _with_its_norm(layers, x, spiking):
    """A convolution and the batch norm behind it as one convolution: in eval mode, where no gradient is asked for."""
    if len(layers) < 2 or type(layers[0].layer) is not nn.Conv2d or type(layers[1].layer) is not nn.BatchNorm2d:
        return None
    conv, norm = layers[0].layer, layers[1].layer
    if norm.training or norm.running_mean is None or is_compiling() or is_transforming() or is_autocast(x):
        return None
    tensors = [each for layer in (conv, norm) for each in (*layer.parameters(), *layer.buffers()) if each.dim()]
    wanted = torch.is_grad_enabled() and any(each.requires_grad for each in (x, *tensors))
    if wanted or any(each.dtype != x.dtype for each in tensors) or norm.num_features != conv.out_channels:
        return None
    if has_hooks(conv) or has_hooks(norm) or has_global_hooks():
        return None
    twin = nn.Conv2d.__new__(nn.Conv2d)
    twin.__dict__.update(conv.__dict__, _twin_of=conv)
    weight, bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    twin.__dict__["_parameters"] = {"weight": weight, "bias": bias}
    call = _of_spikes(layers, x, spiking) or Together()
    return call._replace(taken=2, told=("with BatchNorm2d",), twin=twin)


RULES = (_around_a_neuron, _with_its_norm, _of_spikes)
