"""How a layer, or a function, is taken over all time steps: one table of modules and one of functions."""

from __future__ import annotations

import re
from copy import copy
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import snntorch
import torch
from torch import nn

from .._torch import is_compiling, tree_leaves, version
from .memory_format import in_channels_last, is_free, usual

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


# Bytes of the largest activation of a chain of layers in one turn over a part of the time: what the next layer reads is
# still in cache, and the memory of one turn is taken again by the next. Measured, see benchmarks/README.md.
TURN = 8 * 2**20


def steps_in_turn(num_steps: int, step_bytes: float) -> int:
    """How many of `num_steps` to take in one turn, where the largest activation of a step has `step_bytes`."""
    turns = min(-(-int(num_steps * step_bytes) // TURN), num_steps)
    return -(-num_steps // turns) if turns > 1 else num_steps


class How(Enum):
    """How a module takes the steps of ``[T, B, *]``."""

    WHOLE = "all steps in one call, as they are"
    SEQUENCE = "a neuron of ours, by its sequence"
    PARALLEL = "a neuron of snnTorch that takes all steps in one call"
    STEPPED = "a neuron of snnTorch, step by step"
    LIST = "a module of its own for each step"
    CHAIN = "layer by layer"
    FOLDED = "all steps as one batch [T*B, *]"
    REFUSED = "not at all"


class Row(NamedTuple):
    """A row of the table of modules: those of `kind` for which `if_` holds; `why` it is refused, and what to do."""

    kind: Any
    how: How
    if_: Callable[[Any], bool] = lambda module: True
    why: str = ""


_PARALLEL = tuple(
    getattr(snntorch, name)
    for name in ("AssociativeLeaky", "LeakyParallel", "LinearLeaky", "StateLeaky")
    if hasattr(snntorch, name)
)


def _holds_neurons(layer):
    return any(isinstance(module, (snntorch.SpikingNeuron, *_PARALLEL)) for module in layer.modules())


# The first row that fits holds.
MODULES = (
    Row(nn.Module, How.WHOLE, lambda module: getattr(module, "time_major", False)),
    Row(snntorch.SpikingNeuron, How.SEQUENCE, lambda neuron: hasattr(neuron, "sequence")),
    Row(_PARALLEL, How.PARALLEL),
    Row(snntorch.SpikingNeuron, How.STEPPED),
    Row(
        nn.ModuleList, How.REFUSED, _holds_neurons,
        "a ModuleList is a stateless module for each step, this holds neurons: MultiStep(*layers)",
    ),
    Row(nn.ModuleList, How.LIST),
    Row(nn.Sequential, How.CHAIN, lambda chain: type(chain).forward is nn.Sequential.forward),
    Row(
        nn.RNNBase, How.REFUSED,
        why="MultiStep would fold time into the batch of {name}, which is recurrent itself: call it outside, or wrap it in "
        "a module with `time_major = True` that takes [T, B, *] and returns a tensor",
    ),
    Row(
        nn.Module, How.REFUSED, _holds_neurons,
        "MultiStep cannot see how {name} uses the neurons inside it: build it as nn.Sequential or MultiStep, or give it "
        "`time_major = True` and let its forward take [T, B, *]",
    ),
    Row(nn.Module, How.FOLDED),
)  # fmt: skip


def row_of(module: nn.Module) -> Row:
    """The row of a module."""
    return next(row for row in MODULES if isinstance(module, row.kind) and row.if_(module))


# Functions of each number by itself: more dimensions in front change nothing.
_EACH = {
    "relu", "relu_", "leaky_relu", "sigmoid", "tanh", "gelu", "silu", "elu", "selu", "softplus", "hardtanh", "relu6",
    "abs", "neg", "exp", "log", "sqrt", "square", "sign", "sin", "cos", "clamp", "clamp_min", "clamp_max", "add",
    "sub", "mul", "div", "pow", "true_divide", "rsub", "__radd__", "__rsub__", "__rmul__", "__add__", "__sub__",
    "__mul__", "__truediv__", "__rtruediv__", "__neg__", "__rdiv__", "where", "gt", "ge", "lt", "le", "eq", "ne",
    "__gt__", "__ge__", "__lt__", "__le__", "__eq__", "__ne__", "minimum", "maximum", "detach", "clone", "float",
    "double", "half", "contiguous", "logical_not", "logical_and", "logical_or", "reciprocal", "round", "floor",
    "ceil", "heaviside", "linear",
}  # fmt: skip
# Functions of a batch of samples of any shape.
_BATCHED = {"batch_norm", "instance_norm", "interpolate", "pixel_shuffle", "pixel_unshuffle"}
_SPATIAL = re.compile(
    r"(conv|conv_transpose|max_pool|avg_pool|adaptive_avg_pool|adaptive_max_pool|lp_pool)([123])d(_with_indices)?$"
)


def _samples_of(name: str) -> int | None:
    """How many dimensions a batch has at least, of a function of batches; None of any other."""
    found = _SPATIAL.fullmatch(name)
    if found:
        return int(found[2]) + 2
    return 2 if name in _BATCHED else None


# The layers that were looked at in a call, with whether they were in training.
_looked_at: WeakKeyDictionary[nn.Module, set[bool]] = WeakKeyDictionary()


def folded(layer: nn.Module, x: Tensor, free: bool) -> Tensor:
    """``layer`` on all steps of `x` ``[T, B, *]`` as one batch ``[T*B, *]``: -> ``[T, B, *]``. Where the memory format is
    `free`, a convolution runs channels last.

    Raises:
        TypeError: it returns no tensor; or it is none of PyTorch's and goes on from something that it keeps, so that a batch
            of all steps is another thing than step after step. The first call, in training and not, looks for that.
        ValueError: it returns another number of samples.
    """
    foreign = [] if is_compiling() else [m for m in layer.modules() if not type(m).__module__.startswith("torch.nn.")]
    look = bool(foreign) and layer.training not in _looked_at.setdefault(layer, set())
    before = [_kept(module) for module in foreign] if look else []
    rows = x.flatten(0, 1)
    called = in_channels_last(layer, rows) if free and type(layer) is nn.Conv2d else layer(rows)
    out = one_tensor(called, x.shape[0] * x.shape[1]).unflatten(0, x.shape[:2])
    for module, old in zip(foreign, before, strict=False):
        new = _kept(module)
        names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
        if names and not _same_by_step(layer, x, out):
            raise TypeError(
                f"{type(module).__name__} goes on from {', '.join(names)}, which it keeps, so that a batch of all steps is "
                "not the same as one step after the other: call MultiStep with fold=False and reset the module between "
                "sequences yourself, or give it `time_major = True` and let its forward take [T, B, *]"
            )
    if look:
        _looked_at[layer].add(layer.training)
    return out


def one_tensor(out: Any, batch: int) -> Tensor:
    """What a layer returned, refused if it is no tensor for a batch of this size."""
    if not isinstance(out, torch.Tensor):
        raise TypeError(f"a layer must return one tensor, got {type(out).__name__}")
    if not is_compiling() and (out.dim() == 0 or len(out) != batch):  # a graph would be of this size alone
        raise ValueError(f"a layer given {batch} samples (of all steps) must return as many, got {tuple(out.shape)}")
    return out


@torch.no_grad()
def _same_by_step(layer, x, out):
    """Whether the layer gives the same step by step: it only notes something down."""
    try:
        twin = _twin(layer)
        steps = torch.stack([twin(x_t) for x_t in x.unbind(0)])
    except Exception:  # what it kept is of another size, say
        return False
    return steps.shape == out.shape and torch.allclose(steps.to(out.dtype), out, 1e-4, 1e-5, equal_nan=True)


def _twin(value):
    """The same layer with the same parameters, that keeps what it keeps elsewhere."""
    if isinstance(value, nn.Module):
        twin = value.__class__.__new__(value.__class__)
        twin.__dict__.update(_twin(value.__dict__))
        return twin
    if isinstance(value, torch.Tensor):
        return value if isinstance(value, nn.Parameter) else value.clone()
    if isinstance(value, dict):
        twin = copy(value)
        twin.update((name, _twin(each)) for name, each in value.items())
        return twin
    return type(value)(map(_twin, value)) if type(value) in (list, tuple, set) else value


def _kept(module):
    """What a module holds, by name, to compare it by."""
    named = {name: x for name, x in module.__dict__.items() if name not in ("_parameters", "_buffers", "_modules")}
    return {
        name: [(id(x), version(x)) if isinstance(x, torch.Tensor) else _plain(x) for x in tree_leaves(value)]
        for name, value in {**named, **module._parameters, **module._buffers}.items()
    }


def _plain(value):
    return value if isinstance(value, (bool, int, float, complex, str, type(None))) else id(value)


def over_time(call: Callable[..., Any], name: str, values: list[Tensor], stacked: list[bool], opaque: bool) -> Any:
    """What ``call(*values)`` returns at all steps, each tensor ``[T, *]``.

    Args:
        call: the function of one step.
        name: of the function.
        values: its tensors; ``[T, *]`` of those that are `stacked`, the others are the same at each step.
        opaque: a function that may not be called but step by step.
    """
    if not opaque:
        first = values[0]
        step = max((x.dim() - 1 for x, many in zip(values, stacked, strict=True) if many), default=0)
        if name in _EACH and stacked[0]:
            alike = all(
                x.dim() == step + 1 if many else x.dim() <= step for x, many in zip(values, stacked, strict=True)
            )
            if name == "linear":  # whose weight is a matrix at any rate
                alike = not any(stacked[1:]) and step >= 1
            if alike:
                return call(*values)
        least = _samples_of(name)
        if least is not None and stacked[0] and not any(stacked[1:]) and step >= least:
            rows = first.flatten(0, 1)
            if name == "conv2d" and is_free(rows):
                out = in_channels_last(lambda pictures: call(pictures, *values[1:]), rows)
            else:
                out = call(rows, *values[1:])
            return _each(out, lambda t: t.unflatten(0, first.shape[:2]))
        values = [usual(value) for value in values]
        try:
            return torch.vmap(call, in_dims=tuple(0 if many else None for many in stacked))(*values)
        except (RuntimeError, NotImplementedError, ValueError):
            pass  # what is wrong with the step itself is said by the step itself
    return step_by_step(call, values, stacked)


def step_by_step(call: Callable[..., Any], values: list[Tensor], stacked: list[bool]) -> Any:
    """The same by a loop."""
    steps = next(len(x) for x, many in zip(values, stacked, strict=True) if many)
    rows = [x.unbind(0) if many else [x] * steps for x, many in zip(values, stacked, strict=True)]
    outs = [call(*row) for row in zip(*rows, strict=True)]
    if isinstance(outs[0], torch.Tensor):
        return torch.stack(outs)
    return tuple(torch.stack(column) for column in zip(*outs, strict=True))


def _each(out, change):
    return change(out) if isinstance(out, torch.Tensor) else tuple(map(change, out))
