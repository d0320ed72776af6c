"""Layers around the neurons: whole sequences through a stack, the paper's voting, neuron dropout, direct encoding."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, overload

import snntorch
import torch
from torch import nn

from ._checks import (
    FLOATING,
    check_current,
    check_flags,
    check_module,
    check_positive_int,
    check_sample,
    check_some_steps,
    check_tensor,
)
from ._folded import folded, one_tensor
from ._torch import is_compiling

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ._typing import StepOutput, WarmUp

__all__ = ["ConvBlock", "DirectEncoding", "MultiStep", "NeuronDropout", "Voting"]

# Modules of the host that take the whole [T, B, *] in one call and are not stepped.
_WHOLE_SEQUENCE = tuple(
    getattr(snntorch, name)
    for name in ("AssociativeLeaky", "LeakyParallel", "LinearLeaky", "StateLeaky")
    if hasattr(snntorch, name)
)


_NAMED = (RuntimeError, TypeError, ValueError, IndexError, AttributeError, NotImplementedError)


def _holds_neurons(layer):
    return any(isinstance(module, (snntorch.SpikingNeuron, *_WHOLE_SEQUENCE)) for module in layer.modules())


class MultiStep(nn.Sequential):
    """An ``nn.Sequential`` over whole sequences: neurons run over time, stateless layers see all steps as one batch.

    A convolution, pooling or linear layer gets ``[T*B, *]`` in one call instead of T calls of ``[B, *]``, with the same
    result. **One layer differs: batch norm.** Folded, it takes its statistics over T*B (what most multi-step code does);
    per step, as in a loop over time and in the paper's released code, it takes them over B at each step and moves its
    running averages T times. ``fold=False`` switches to per step, for every stateless layer.

    Neurons of this package run through their ``sequence``, which also does the work of an ``nn.ReLU`` and a
    :class:`DirectEncoding` right before it; snnTorch's own are stepped from a fresh state, or from their
    hidden one with ``init_hidden=True``. ``nn.Sequential`` inside is walked; snnTorch's ``BatchNormTT`` lists give each
    step its own entry; a module with ``time_major = True`` gets the whole ``[T, B, *]``.

    Args:
        *layers: modules, or one ordered dict of them, as ``nn.Sequential`` takes them (and with its state_dict keys).
        batch_first: take and return ``[B, T, *]`` in place of ``[T, B, *]``.
        fold: False runs the stateless layers step by step.
        sample_shape: what * has to be, such as ``(2, 34, 34)``: an input without time, or of another size, is refused.

    Shape:
        ``[T, B, *]`` -> ``[T, B, *]``: the output of the last layer at every step (of a neuron, its spikes). Where the last
        layer is a neuron built with ``output=True``, a tuple of its spikes and its states at every step.

    Raises:
        TypeError: a module of your own, or a PyTorch RNN, that cannot be folded: one that goes on from something that it
            keeps, or that does not return one tensor. The message says what to do.
        ValueError: an input without time and batch dimensions.
        Whatever a layer raises names the layer, T and B.

    Example:
        >>> import torch, snntorch_bpsta as snn
        >>> from torch import nn
        >>> net = snn.MultiStep(nn.Flatten(), nn.Linear(64, 10), snn.Leaky(beta=0.9, spatial_adj=True))
        >>> net(torch.rand(16, 8, 1, 8, 8)).shape
        torch.Size([16, 8, 10])
    """

    time_major = True

    def __init__(
        self, *layers: nn.Module | OrderedDict[str, nn.Module], batch_first: bool = False, fold: bool = True,
        sample_shape: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        check_flags(batch_first=batch_first, fold=fold)
        single = layers[0] if len(layers) == 1 else None
        for layer in single.values() if isinstance(single, OrderedDict) else layers:
            check_module("each of layers", layer)
        super().__init__(*layers)  # type: ignore[arg-type]  # either of its two forms
        self.batch_first = batch_first
        self.fold = fold
        if sample_shape is not None:
            sample_shape = tuple(sample_shape)
            for size in sample_shape:
                check_positive_int("each of sample_shape", size)
        self.sample_shape = sample_shape

    @overload
    def __getitem__(self, index: slice) -> MultiStep: ...

    @overload
    def __getitem__(self, index: int) -> nn.Module: ...

    def __getitem__(self, index: int | slice) -> nn.Module:
        if not isinstance(index, slice):
            return super().__getitem__(index)
        layers = OrderedDict(list(self._modules.items())[index])
        shape = self.sample_shape if index.start in (None, 0) and index.step in (None, 1) else None
        return MultiStep(layers, batch_first=self.batch_first, fold=self.fold, sample_shape=shape)

    def forward(self, input_: Tensor) -> StepOutput:
        order = "[B, T, *]" if self.batch_first else "[T, B, *]"
        if isinstance(_first(self), nn.Embedding):
            check_tensor("input_", input_, 2, order)
        else:
            check_current(input_, 2, order)
        check_sample(input_, self.sample_shape, order)
        x = input_.transpose(0, 1) if self.batch_first else input_
        check_some_steps(input_, time=1 if self.batch_first else 0)
        x = self._run(self, x)
        if not self.batch_first:
            return x
        return tuple(row.transpose(0, 1) for row in x) if isinstance(x, tuple) else x.transpose(0, 1)

    def _run(self, layers, x, without=(), last=True):
        """Run `layers` on `x`; the `last` ones hand out the states of a neuron at their end."""
        spare = isinstance(layers, ConvBlock)  # its batch norm does not need its output, which the spikes may overwrite
        layers = [layer for layer in layers if not isinstance(layer, without)]
        while layers:
            fused, options = _into_neuron(layers, x)
            if spare and options:
                options["inplace"] = True
            layer, layers = layers[fused], layers[fused + 1 :]
            try:
                out = self._run_layer(layer, x, without, last and not layers, options)
            except _NAMED as error:
                if is_compiling() or type(error) not in _NAMED or getattr(error, "_named", False):
                    raise
                raise self._named(error, layer, x) from error
            x = out if last and not layers else _spikes(out)
        return x

    def _named(self, error, layer, x):
        """The same error, with the layer."""
        name = next((name for name, module in self.named_modules() if module is layer), "?")
        order = "[B, T, *]" if self.batch_first else "[T, B, *]"
        named = type(error)(
            f"{error} (layer {name!r}, {type(layer).__name__}, of a MultiStep, which takes {order}: the layer was given "
            f"T = {x.shape[0]}, B = {x.shape[1] if x.dim() > 1 else None}, * = {tuple(x.shape[2:])})"
        )
        named._named = True
        return named

    def _run_layer(self, layer, x, without, last, options):
        if isinstance(layer, MultiStep) and layer.batch_first:
            out = layer(x.transpose(0, 1))
            return tuple(row.transpose(0, 1) for row in out) if isinstance(out, tuple) else out.transpose(0, 1)
        if getattr(layer, "time_major", False):
            return layer(x)
        if isinstance(layer, snntorch.SpikingNeuron) and hasattr(layer, "sequence"):
            if last and layer.output:
                return layer.sequence(x, record=layer._returns, **options)
            return layer.sequence(x, **options)[0]
        if isinstance(layer, _WHOLE_SEQUENCE):
            return _spikes(layer(x))
        if isinstance(layer, snntorch.SpikingNeuron):
            rows = _step_host_neuron(layer, x)
            return rows if last and layer.output else rows[0]
        if isinstance(layer, nn.ModuleList):
            if _holds_neurons(layer):
                raise TypeError(
                    "a ModuleList is a stateless module for each step, this holds neurons: MultiStep(*layers)"
                )
            if len(layer) < len(x):
                raise ValueError(f"a list of {len(layer)} modules, one for each step, got {len(x)} steps")
            return torch.stack([layer[t](x_t) for t, x_t in enumerate(x.unbind(0))])
        if isinstance(layer, nn.Sequential) and type(layer).forward is nn.Sequential.forward:
            return self._run(layer, x, without, last)
        if isinstance(layer, nn.RNNBase):
            raise TypeError(
                f"MultiStep would fold time into the batch of {type(layer).__name__}, which is recurrent itself: call it "
                "outside, or wrap it in a module with `time_major = True` that takes [T, B, *] and returns a tensor"
            )
        if _holds_neurons(layer):
            raise TypeError(
                f"MultiStep cannot see how {type(layer).__name__} uses the neurons inside it: build it as nn.Sequential "
                "or MultiStep, or give it `time_major = True` and let its forward take [T, B, *]"
            )
        if self.fold:
            return folded(layer, x)
        return torch.stack([one_tensor(layer(x_t), len(x_t)) for x_t in x.unbind(0)])

    def extra_repr(self) -> str:
        options = {"batch_first": False, "fold": True, "sample_shape": None}
        return ", ".join(f"{name}={getattr(self, name)}" for name, off in options.items() if getattr(self, name) != off)


def _first(layer):
    """The first module that computes something."""
    while isinstance(layer, nn.Sequential) and len(layer):
        layer = layer[0]
    return layer


def _into_neuron(layers, x):
    """How many of the first layers the neuron behind them computes itself, a ReLU and a DirectEncoding, and the options
    that make it do so."""
    options = {}
    for i, layer in enumerate(layers):
        if options and isinstance(layer, snntorch.SpikingNeuron) and hasattr(layer, "sequence"):
            return i, options
        if layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks:
            break
        if type(layer) is nn.ReLU and not options:
            options["relu"] = True
        elif type(layer) is DirectEncoding and layer.warm_up is None and len(x) == 1 and "num_steps" not in options:
            options["num_steps"] = layer.num_steps
        else:
            break
    return 0, {}


def _step_host_neuron(neuron, x):
    """What one of snnTorch's neurons returns at every step of `x`, from its own hidden state."""
    if not neuron.init_hidden:
        neuron.reset_mem()
    steps = []
    for x_t in x.unbind(0):
        out = neuron(x_t)
        steps.append(out if isinstance(out, tuple) else (out,))
    if not neuron.init_hidden:
        neuron.reset_mem()
    return tuple(torch.stack(row) for row in zip(*steps, strict=True))


def _spikes(out):
    """The first of what a layer returned, without the states."""
    return out[0] if isinstance(out, tuple) else out


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
