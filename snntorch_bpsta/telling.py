"""How each layer of a network ran."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from ._checks import check_module
from ._torch import is_compiling

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

__all__ = ["which"]

# What the layers of the call under way told; None outside of :func:`which`, where a call of the engine need not tell.
told: list[tuple[Any, str]] | None = None


def tell(module: nn.Module | None, *words: str) -> None:
    """Say how `module` runs, where somebody wants to know; None where only the caller knows which module it is, and claims
    the words."""
    if told is not None and not is_compiling():
        told.extend((module, each) for each in words)


def claim(module: nn.Module) -> None:
    """What was told of None was told of `module`."""
    if told and not is_compiling():
        told[:] = [(module if of is None else of, words) for of, words in told]


@contextmanager
def silent(on: bool) -> Iterator[None]:
    """What is told inside is not heard."""
    global told
    outer, told = told, None if on else told
    try:
        yield
    finally:
        told = outer


@torch.no_grad()
def which(net: nn.Module, *args: Any, **kwargs: Any) -> dict[str, str]:
    """How each layer of a network runs: the implementation of a neuron, and what a layer does besides its own work.

    The network is called once, without gradients; as in any call, hidden states go on and, in training, running averages
    move.

    Args:
        net: any module with neurons of this package: a :class:`MultiStep`, a loop over time, or what :func:`fold_time` made
            (whose first two calls run the loop).
        *args: the arguments of a call.
        **kwargs: the same by name.

    Returns:
        dict: name of the layer -> how it ran, of the layers that have something to tell, in the order in which they ran.
        Of a neuron "cpu", "triton" or "reference", "step by step" where it was called so, and the reason where no kernel
        took it; then what runs in the same call, as "with ReLU".

    Raises:
        TypeError: `net` is no module.
        Whatever `net` raises.

    Example:
        >>> import torch, snntorch_bpsta as snn
        >>> from torch import nn
        >>> net = snn.MultiStep(nn.Linear(4, 3), nn.ReLU(), snn.Leaky(beta=0.9))
        >>> snn.which(net, torch.rand(5, 2, 4))
        {'2': 'cpu, with ReLU'}
    """
    global told
    check_module("net", net)
    outer, told = told, []
    try:
        net(*args, **kwargs)
        heard = told
    finally:
        told = outer
    names = {module: name or type(module).__name__ for name, module in net.named_modules()}
    how: dict[str, list[str]] = {}
    for module, words in heard:
        if module is None:  # the engine by itself, without a neuron
            continue
        module = module.__dict__.get("_twin_of", module)
        texts = how.setdefault(names.get(module, type(module).__name__), [])
        if words not in texts:
            texts.append(words)
    return {name: ", ".join(texts) for name, texts in how.items()}
