"""Whole sequences through a stack of layers."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, overload

import torch
from torch import nn

from .._checks import (
    check_current,
    check_flags,
    check_module,
    check_positive_int,
    check_sample,
    check_some_steps,
    check_tensor,
)
from .._torch import is_compiling, is_taken_apart
from ..functional.skipping import of_layer
from ..neurons import name_neurons, one_pass
from ..telling import silent, tell
from .memory_format import is_free, is_indifferent, joined, usual
from .over_time import How, folded, one_tensor, row_of
from .together import flat, spiking_behind, together
from .turns import chain_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from .._typing import StepOutput

__all__ = ["MultiStep"]

_NAMED = (RuntimeError, TypeError, ValueError, IndexError, AttributeError, NotImplementedError)


class MultiStep(nn.Sequential):
    """An ``nn.Sequential`` over whole sequences: neurons run over time, stateless layers see all steps as one batch.

    A convolution, pooling or linear layer gets ``[T*B, *]`` in one call instead of T calls of ``[B, *]``, with the same
    result. **One layer differs: batch norm.** Folded, it takes its statistics over T*B (what most multi-step code does);
    per step, as in a loop over time and in the paper's released code, it takes them over B at each step and moves its
    running averages T times. ``fold=False`` switches to per step, for every stateless layer.

    Neurons of this package run through their ``sequence``, which also does the work of an ``nn.ReLU`` and a
    :class:`DirectEncoding` right before it, and of an ``nn.MaxPool2d`` or ``nn.AvgPool2d`` right behind it. Without
    gradients, in eval mode, an ``nn.BatchNorm2d`` behind an ``nn.Conv2d`` goes into its weights: the same to rounding, so
    that a membrane at its threshold may fire in one of the two and not in the other. snnTorch's own are stepped from a
    fresh state, or from their hidden one with ``init_hidden=True``. ``nn.Sequential`` inside is walked; snnTorch's
    ``BatchNormTT`` lists give each step its own entry; a module with ``time_major = True`` gets the whole ``[T, B, *]``.
    On a CPU convolutions run channels last, and what is returned, or given to a module of your own, lies as usual; and where
    activations are large and pooled in front of a neuron, layers take turns over parts of the time, with the states of the
    neurons handed on.

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
        name_neurons(self)

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

    def children(self) -> Iterator[nn.Module]:
        if is_taken_apart():
            raise TypeError(
                "checkpoint_sequential calls the layers of a MultiStep by themselves, neurons with all steps as one "
                "batch: give it parts, as in checkpoint_sequential([net[:4], net[4:]], 2, input_)"
            )
        return super().children()

    def forward(self, input_: Tensor) -> StepOutput:
        order = "[B, T, *]" if self.batch_first else "[T, B, *]"
        if isinstance(_first(self), nn.Embedding):
            check_tensor("input_", input_, 2, order)
        else:
            check_current(input_, 2, order)
        check_sample(input_, self.sample_shape, order)
        x = input_.transpose(0, 1) if self.batch_first else input_
        check_some_steps(input_, time=1 if self.batch_first else 0)
        x = self._run(x)
        if not self.batch_first:
            return x
        return tuple(row.transpose(0, 1) for row in x) if isinstance(x, tuple) else x.transpose(0, 1)

    def _run(self, x, without=()):
        """All layers on `x` ``[T, B, *]``, but those of the classes `without`: what the last one returns, of a neuron with
        ``output=True`` its states too."""
        free = is_free(x)
        out = self._through(list(flat(self, without)), x, None, free)
        if not free:
            return out
        return tuple(usual(row) for row in out) if isinstance(out, tuple) else usual(out)

    def _through(self, layers, x, spiking, free, states=None):
        """`x` through some layers. `states` are those of the neurons behind the part of the time before, in a turn."""
        while layers:
            count, steps = chain_of(layers, x) if free and self.fold and states is None else (0, 0)
            if count:
                x = self._in_turns(layers[:count], x, spiking, steps)
                for layer, _ in layers[:count]:
                    spiking = spiking_behind(layer, spiking)
                layers = layers[count:]
                continue
            call = together(layers, x, spiking)
            layer, done, layers = layers[call.place].layer, layers[call.place : call.taken], layers[call.taken :]
            if free and (isinstance(layer, MultiStep) or not is_indifferent(layer)):
                x = usual(x)
            try:
                out = self._run_layer(call.twin or layer, x, not layers and len(done) == 1, free, states, call.options)
            except _NAMED as error:
                if is_compiling() or type(error) not in _NAMED or getattr(error, "_named", False):
                    raise
                raise self._named(error, layer, x) from error
            tell(layer, *call.told)
            for ran, _ in done:
                spiking = spiking_behind(ran, spiking)
            x = _spikes(out) if layers else out
        return x

    def _in_turns(self, chain, x, spiking, steps):
        """`x` through a chain of layers, some steps after the other."""
        states: dict[nn.Module, list[Tensor]] = {}
        tell(chain[0].layer, f"{steps} steps at a time, with the {len(chain) - 1} layers behind it")
        parts = []
        with one_pass(layer for layer, _ in chain):
            for part in x.split(steps):
                with silent(bool(parts)):  # each turn would say the same
                    parts.append(self._through(chain, part, spiking, True, states))
        return joined(parts)

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

    def _run_layer(self, layer, x, last, free, states, options):
        """One layer on ``[T, B, *]``, as its row says; the `last` one, a neuron with ``output=True``, returns its states."""
        row = row_of(layer)
        if row.how is How.SEQUENCE:
            if last and layer.output:
                return layer.sequence(x, record=layer._returns, **options)
            if states is None:
                return layer.sequence(x, **options)[0]
            spk, *states[layer] = layer.sequence(x, *([] if layer.init_hidden else states.get(layer, [])), **options)
            return spk
        if row.how is How.FOLDED:
            if options and self.fold:
                out, how = of_layer(layer, x.flatten(0, 1), **options)
                if out is not None or options["at_spikes"] is not None:
                    tell(layer, how if out is not None else f"dense: {how}")
                if out is not None:
                    return out.unflatten(0, x.shape[:2])
            return folded(layer, x, free) if self.fold else _step_by_step(layer, x)
        if row.how is How.WHOLE:
            if isinstance(layer, MultiStep) and layer.batch_first:
                out = layer(x.transpose(0, 1))
                return tuple(row.transpose(0, 1) for row in out) if isinstance(out, tuple) else out.transpose(0, 1)
            return layer(x)
        if row.how is How.PARALLEL:
            return _spikes(layer(x))
        if row.how is How.STEPPED:
            rows = _step_host_neuron(layer, x)
            tell(layer, "step by step, by snnTorch")
            return rows if last and layer.output else rows[0]
        if row.how is How.LIST:
            if len(layer) < len(x):
                raise ValueError(f"a list of {len(layer)} modules, one for each step, got {len(x)} steps")
            return torch.stack([layer[t](x_t) for t, x_t in enumerate(x.unbind(0))])
        raise TypeError(row.why.format(name=type(layer).__name__))

    def extra_repr(self) -> str:
        options = {"batch_first": False, "fold": True, "sample_shape": None}
        return ", ".join(f"{name}={getattr(self, name)}" for name, off in options.items() if getattr(self, name) != off)


def _first(layer):
    """The first module that computes something."""
    while isinstance(layer, nn.Sequential) and len(layer):
        layer = layer[0]
    return layer


def _step_by_step(layer, x):
    """A stateless layer, at one step after the other."""
    return torch.stack([one_tensor(layer(x_t), len(x_t)) for x_t in x.unbind(0)])


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
