"""Pooling right behind a neuron: what the kernels do of it, and PyTorch's pooling over all steps for the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import nn

from .._torch import has_hooks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor


class Pool(NamedTuple):
    """Windows side by side, ``nn.MaxPool2d(window)`` or ``nn.AvgPool2d(window)``; rows and columns that are left over
    are not pooled."""

    kind: Literal["max", "average"]
    window: tuple[int, int]

    @property
    def name(self) -> str:
        """Of PyTorch's layer."""
        return "MaxPool2d" if self.kind == "max" else "AvgPool2d"

    def __call__(self, maps: Tensor) -> Tensor:
        """PyTorch's, of maps ``[*, H, W]``."""
        return (nn.functional.max_pool2d if self.kind == "max" else nn.functional.avg_pool2d)(maps, self.window)


def windows_of(layer: nn.Module) -> Pool | None:
    """The pooling of a layer; None for one that is no such pooling, or that somebody looks into."""
    if type(layer) not in (nn.MaxPool2d, nn.AvgPool2d) or "forward" in vars(layer):
        return None
    if has_hooks(layer):
        return None
    window = _pair(layer.kernel_size)
    if layer.stride is not None and _pair(layer.stride) != window:
        return None
    if _pair(layer.padding) != (0, 0) or layer.ceil_mode:
        return None
    if isinstance(layer, nn.MaxPool2d):
        plain = _pair(layer.dilation) == (1, 1) and not layer.return_indices
        return Pool("max", window) if plain else None
    return Pool("average", window) if layer.divisor_override is None else None


def layer_of(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> nn.Module | None:
    """The layer that does what a call of PyTorch's pooling does; None for any other call.

    Args:
        function: what was called.
        args: what it was called with, without the maps.
        kwargs: likewise.
    """
    name = getattr(function, "__name__", "")
    kind, names = _CALLS.get(name, (None, ()))
    if kind is None or len(args) > len(names):
        return None
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    stride = given.pop("stride", None)
    if given.keys() - set(names):
        return None
    return kind(stride=stride or None, **given)  # torch.max_pool2d has [] for None


# Name of a function -> the layer, and the names of its arguments behind the maps.
_CALLS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "max_pool2d": (nn.MaxPool2d, ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")),
    "avg_pool2d": (
        nn.AvgPool2d, ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
    ),
}  # fmt: skip


def _pair(value):
    pair = (value, value) if isinstance(value, int) else tuple(value)
    return pair * 2 if len(pair) == 1 else pair


def pooled(spk: Tensor, pool: Callable[[Tensor], Any] | None) -> Tensor:
    """The spikes ``[T, B, C, H, W]`` pooled by PyTorch, as one batch.

    Raises:
        TypeError: `pool` returns no tensor, as with ``return_indices=True``.
    """
    if pool is None:
        return spk
    out = pool(spk.flatten(0, 1))
    if not isinstance(out, torch.Tensor):
        raise TypeError(f"pool must return a tensor, got {type(out).__name__}: use return_indices=False")
    return out.unflatten(0, spk.shape[:2])
