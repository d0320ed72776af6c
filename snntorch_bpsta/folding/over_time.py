"""How a function of one step is taken over all of them: a row for those that can do it themselves, vmap for the rest."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

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
            out = call(first.flatten(0, 1), *values[1:])
            return _each(out, lambda t: t.unflatten(0, first.shape[:2]))
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
