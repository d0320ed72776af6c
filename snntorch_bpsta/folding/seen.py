"""What a call of PyTorch does besides what it returns, by its name."""

from __future__ import annotations

import types
from typing import Any

import numpy as np
import torch

from ..surrogate import Surrogate

# Numbers that leave the graph, and may decide what comes next.
LOOKS = {
    "item", "tolist", "is_nonzero", "equal", "allclose", "__bool__", "__int__", "__float__", "__index__", "__complex__",
    "__contains__",
}  # fmt: skip
# Results whose shape depends on the numbers.
SHAPED_BY_VALUES = {
    "nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "bincount", "repeat_interleave", "to_sparse",
}  # fmt: skip
# Calls that say something about a tensor, and nothing about its numbers.
HARMLESS = {
    "__get__", "__len__", "__hash__", "__dir__", "size", "dim", "numel", "stride", "is_contiguous", "is_floating_point",
    "is_complex", "is_signed", "get_device", "element_size", "ndimension", "nelement", "storage_offset", "result_type",
    "__eq__", "__ne__",
    "can_cast", "is_same_size", "is_tensor", "type", "is_inference", "is_pinned", "is_storage", "_is_view", "dense_dim",
    "is_conj", "is_neg", "sparse_dim", "has_names", "is_shared", "requires_grad_", "_record_function_enter_new",
}  # fmt: skip
# Among them those about its shape.
SHAPES = {
    "shape", "ndim", "__len__", "size", "dim", "numel", "stride", "is_contiguous", "ndimension", "nelement", "is_same_size",
}  # fmt: skip
# Dropouts that multiply by a mask, which depends on nothing.
MASKING = {"dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout"}
# Batch statistics: with them, the function writes to its running averages, at these places.
STATISTICS = {"batch_norm": (1, 2, 5), "instance_norm": (1, 2, 5)}
# Memory that nobody has written to.
EMPTY = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided"}
LEARNING = {"backward", "grad", "register_hook", "register_post_accumulate_grad_hook", "retain_grad"}
# Arguments that say all about themselves.
_STATIC = (
    int, float, complex, str, bool, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size,
    slice, type(Ellipsis), np.generic, type, types.FunctionType, types.BuiltinFunctionType, torch.Generator,
    Surrogate,
)  # fmt: skip


def is_static(x: Any) -> bool:
    """Whether a value that is no tensor can stand in a recording."""
    return isinstance(x, _STATIC)


def running_averages(name: str, args: Any, kwargs: Any) -> list[Any]:
    """The tensors that a normalisation writes to."""
    if name not in STATISTICS:
        return []
    mean, var, training = STATISTICS[name]
    names = ("running_mean", "running_var", "use_input_stats" if name == "instance_norm" else "training")
    found = [
        args[place] if place < len(args) else kwargs.get(key)
        for place, key in zip((mean, var, training), names, strict=True)
    ]
    default = name == "instance_norm"
    writes = default if found[2] is None else found[2]
    return [t for t in found[:2] if isinstance(t, torch.Tensor)] if writes else []


def asks_shape(function: Any, name: str) -> bool:
    """Whether a call asks for the shape of a tensor."""
    if name == "__get__":
        name = getattr(getattr(function, "__self__", None), "__name__", "")
    return name in SHAPES


def is_mask(index: Any) -> bool:
    """Whether an index is a tensor that selects by its numbers."""
    return isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8)


def is_in_place(name: str, args: Any, kwargs: Any) -> bool:
    """Whether a function that returned one of its arguments has written to it."""
    if name.startswith("__"):
        return name.startswith("__i") and name not in ("__invert__", "__index__", "__int__", "__iter__")
    if name.endswith("_") or kwargs.get("inplace"):
        return True
    return (
        name
        in (
            "relu",
            "leaky_relu",
            "elu",
            "hardtanh",
            "relu6",
            "silu",
            "hardswish",
            "dropout",
            "threshold",
            "selu",
            "celu",
        )
        and len(args) > 1
        and args[-1] is True
    )


def random_state() -> torch.Tensor:
    """Where random numbers are drawn from next."""
    states = [torch.default_generator.get_state()]
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states.append(torch.cuda.get_rng_state())
    return torch.cat(states)
