"""Stateless layers over all steps at once, and those that are none."""

from __future__ import annotations

from copy import copy
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ._torch import is_compiling, tree_leaves, version

# The layers that were looked at in a call, with whether they were in training.
_looked_at: WeakKeyDictionary[nn.Module, set[bool]] = WeakKeyDictionary()


def folded(layer: nn.Module, x: Tensor) -> Tensor:
    """``layer`` on all steps of `x` ``[T, B, *]`` as one batch ``[T*B, *]``: -> ``[T, B, *]``.

    Raises:
        TypeError: it returns no tensor; or it is none of PyTorch's and goes on from something that it keeps, so that a batch
            of all steps is another thing than step after step. The first call, in training and not, looks for that.
        ValueError: it returns another number of samples.
    """
    foreign = [] if is_compiling() else [m for m in layer.modules() if not type(m).__module__.startswith("torch.nn.")]
    look = bool(foreign) and layer.training not in _looked_at.setdefault(layer, set())
    before = [_kept(module) for module in foreign] if look else []
    out = one_tensor(layer(x.flatten(0, 1)), x.shape[0] * x.shape[1]).unflatten(0, x.shape[:2])
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
