"""Chains of layers in turns over parts of the time: what a layer wrote is still in cache when the next reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import snntorch
from torch import nn

from .._torch import has_global_hooks, has_hooks
from .over_time import TURN, How, row_of, steps_in_turn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from .together import Placed

# Layers that are the same for any part of the time and return as many numbers as they take.
_SAME_SIZE = (nn.ReLU, nn.Identity, nn.Flatten)
# The same, unless they are in training.
_IN_EVAL = (nn.BatchNorm1d, nn.BatchNorm2d, nn.Dropout, nn.Dropout2d)
_POOLS = (nn.MaxPool2d, nn.AvgPool2d)
_HEAVIEST = TURN // 4  # bytes of weights; they, and their gradient, are read at every turn


def chain_of(layers: Sequence[Placed], x: Tensor) -> tuple[int, int]:
    """How many of the first `layers` take turns on `x` ``[T, B, *]``, and how many steps each turn has; (0, T) where all
    steps at once are small enough, or nothing can be gained.

    What draws at random or takes statistics stays whole, and so does what is looked at, what comes twice, and what is not
    known. Between two such layers nothing is gained: what comes out of a chain has to be small against what is inside, and
    with gradients what goes in too, for each is put together from the parts. Nor is it without a pooling in front of a
    neuron, as tutorial 6 has it, which PyTorch does with an index of 8 bytes for each number: a neuron that pools its
    spikes itself writes too little for turns to pay.
    """
    if has_global_hooks():
        return 0, len(x)
    count, seen, pools = 0, set[nn.Module](), False
    largest = numbers = given = float(x[0].numel())
    for layer, _ in layers:
        growth = _growth(layer)
        if growth is None or layer in seen or has_hooks(layer):
            break
        pools = pools or (type(layer) in _POOLS and not (count and _hands_on(layers[count - 1].layer)))
        seen.add(layer)
        numbers *= growth
        largest = max(largest, numbers)
        count += 1
    if not pools or 2 * max(numbers, given if x.requires_grad else 0) > largest:
        return 0, len(x)
    steps = steps_in_turn(len(x), largest * x.element_size())
    return (count, steps) if count > 1 and steps < len(x) else (0, len(x))


def _growth(layer):
    """About how many numbers a layer returns for each that it takes; None for one that takes no turns."""
    kind = type(layer)
    if kind in (nn.Conv2d, nn.Linear) and layer.weight.numel() * layer.weight.element_size() > _HEAVIEST:
        return None
    if kind is nn.Conv2d:
        return layer.out_channels / layer.in_channels / (layer.stride[0] * layer.stride[1])
    if kind is nn.Linear:
        return layer.out_features / layer.in_features
    if kind in _POOLS:
        stride = layer.stride if isinstance(layer.stride, tuple) else (layer.stride, layer.stride)
        return 1 / (stride[0] * stride[1])
    if kind in _SAME_SIZE or (kind in _IN_EVAL and not layer.training and getattr(layer, "track_running_stats", True)):
        return 1.0
    return 1.0 if _hands_on(layer) else None


def _hands_on(layer):
    """Whether a layer is a neuron of ours whose states alone lead from one part of the time to the next."""
    if not isinstance(layer, snntorch.SpikingNeuron) or row_of(layer).how is not How.SEQUENCE:
        return False
    ours = type(layer).__module__.startswith(f"{__package__.partition('.')[0]}.")
    return ours and not layer.output and "spk" not in layer._states and not layer._steps_by_itself()
