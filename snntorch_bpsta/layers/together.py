"""What runs together with the layers next to it: a rule for each such thing, in the order in which they are asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn

from .._torch import has_global_hooks
from ..functional.skipping import SKIPPING
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
    """

    taken: int = 1
    place: int = 0
    options: dict[str, Any] = {}
    told: tuple[str, ...] = ()


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
    return next((found for rule in RULES if (found := rule(layers, x, spiking))), Together())


def spiking_behind(layer: nn.Module, spiking: nn.Module | None) -> nn.Module | None:
    """The neuron whose spikes `layer` returns, given that whose spikes it takes: itself, or the same where it only moves
    them, or takes the largest of some; None where it returns anything else."""
    if row_of(layer).how is How.SEQUENCE:
        return layer
    return spiking if type(layer) in _HANDING_ON and not is_hooked(layer) else None


def is_hooked(layer: nn.Module) -> bool:
    """Whether somebody looks at what goes into a layer, or comes out."""
    return bool(layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks)


def _in_front_of_a_neuron(layers, x, spiking):
    """A ReLU and a DirectEncoding in front of a neuron, which are options of its ``sequence``."""
    options, told = {}, []
    for i, (layer, in_block) in enumerate(layers):
        if options and row_of(layer).how is How.SEQUENCE:
            if in_block:  # its batch norm does not need its output, which the spikes may overwrite
                options["inplace"] = True
            return Together(i + 1, i, options, tuple(told))
        if is_hooked(layer):
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


def _behind_a_neuron(layers, x, spiking):
    """A convolution or linear layer of spikes, which may skip the zeros; under Eq. 9 the neuron needs its gradient at the
    spikes alone."""
    layer = layers[0].layer
    if spiking is None or type(layer) not in SKIPPING or is_hooked(layer) or has_global_hooks():
        return None
    seen = spiking._backward_hooks or spiking._backward_pre_hooks
    return Together(options={"at_spikes": spiking.spatial_adj and spiking.warm_up is None and not seen})


RULES = (_in_front_of_a_neuron, _behind_a_neuron)
