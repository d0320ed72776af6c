"""Neurons whose steps are known: which they are, and a twin of each that takes its states by hand."""

from __future__ import annotations

from functools import lru_cache, partial
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch

from .._snntorch import step_names
from .._torch import is_autocast, is_view
from ..functional.pool import pooled
from ..neurons import FAMILY, Adjusted
from ..neurons.build import OPTIONS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

_HOSTS: dict[Any, Any] = {ours._host: ours for ours in FAMILY}


class Watched(partial[Any]):
    """The forward of a neuron while a pass is written down."""


def states_of(module: nn.Module) -> tuple[str, ...] | None:
    """The states of a neuron whose steps are snnTorch's or ours, in the order of its arguments; None for anything else."""
    for host, ours in _HOSTS.items():
        if isinstance(module, host):
            known = type(module) is host or isinstance(module, Adjusted)
            known = known and type(module).forward in (host.forward, ours.forward)
            known = known and isinstance(module.__dict__.get("forward"), (type(None), Watched))
            known = known and not _own_step(module)
            return ours._states if known else None
    return None


_step_names = lru_cache(maxsize=None)(step_names)


def _own_step(neuron):
    """Whether a neuron has a part of the step of its own."""
    if isinstance(neuron, Adjusted):
        return bool(neuron._changed_steps())
    mine, names = neuron.__dict__, _step_names(type(neuron))
    step = mine.get("state_function")
    bound = getattr(step, "__self__", None) is neuron and getattr(step, "__name__", "") in names
    return not bound or any(name in mine for name in names - {"spike_grad", "state_function"})


def twin_of(neuron: Any) -> Any:
    """A neuron of ours that shares the parameters, buffers and modules of `neuron`, takes its states by hand, and leaves
    those of `neuron` alone."""
    ours = type(neuron) if isinstance(neuron, Adjusted) else _HOSTS[type(neuron)]
    twin = ours.__new__(ours)
    mine = twin.__dict__
    mine.update(neuron.__dict__)
    mine.update(init_hidden=False, output=False, _twin_of=neuron)
    if isinstance(neuron, Adjusted):
        mine["inplace"] = False  # what the current is needed for besides is not asked
        twin._forget()
        mine["_noticed"] = True  # the passes that are recorded look at the neuron
    else:
        mine["_buffers"] = dict(neuron._buffers)
        mine["_non_persistent_buffers_set"] = set(neuron._non_persistent_buffers_set)
        step = mine["state_function"]  # bound to the neuron
        if getattr(step, "__self__", None) is neuron:
            mine["state_function"] = MethodType(step.__func__, twin)
        twin._take_over(**OPTIONS)
        mine["_buffers"] = neuron._buffers
    twin._put(**dict.fromkeys(twin._states, torch.zeros(0)))
    return twin


def step(twin: Any, current: Tensor, states: Sequence[Tensor]) -> dict[str, Tensor]:
    """A step: its spikes and the states behind it, by name."""
    spk, *after = type(twin).forward(twin, current, *states)
    return dict(zip(twin._returns, after, strict=True)) | {"spk": _typed(twin, spk)}


def _typed(twin, spk):
    """The spikes in the type that snnTorch's neuron gives them: that of its surrogate, float32 whatever the current is."""
    if spk.dtype == torch.float32 or isinstance(twin._twin_of, Adjusted) or is_autocast(spk):
        return spk
    with torch.no_grad():
        return spk.to(twin.spike_grad(spk.new_zeros(1)).dtype)


def sequence(
    twin: Any, current: Tensor, num_steps: int, states: Sequence[Tensor], wanted: Mapping[str, bool],
    pool: nn.Module | None = None,
) -> Any:  # fmt: skip
    """All steps, of a `current` ``[T, B, *]`` or one that stays the same, ``[1, B, *]``. `wanted` names what is needed
    besides the last states, and says whether of every step. With a `pool` its spikes are pooled.

    Returns:
        tuple: {name: ``[T, B, *]``} of what is wanted at every step, and {name: ``[B, *]``} of the last states.
    """
    record = tuple(name for name in twin._returns if wanted.get(name))
    shape = current.shape[1:]
    started = [state if state.shape == shape else None for state in states]
    options = {} if len(current) == num_steps else {"num_steps": num_steps}
    spk, *after = twin._all_steps(current, started, record=record, pool=pool, **options)
    spk = _typed(twin, spk)
    rows = {"spk": spk}
    last = dict(zip(twin._returns, after, strict=True))
    for name in record:
        rows[name] = last[name]
        last[name] = last[name][-1]
    return rows, last | {"spk": spk[-1]}


def stepped(
    twin: Any, current: Tensor, num_steps: int, states: Sequence[Tensor], wanted: Mapping[str, bool],
    pool: nn.Module | None = None,
) -> Any:  # fmt: skip
    """The same by a loop."""
    rows: dict[str, list[Tensor]] = {name: [] for name in ("spk", *wanted)}
    last: dict[str, Tensor] = {}
    for x in current.expand(num_steps, *current.shape[1:]).unbind(0):
        last = step(twin, x, states)
        states = [last[name] for name in twin._states]
        for name, row in rows.items():
            row.append(last[name])
    stacks = {name: torch.stack(row) for name, row in rows.items()}
    return stacks | {"spk": pooled(stacks["spk"], pool)}, last


def why_stepped(twin: Any, dtype: torch.dtype) -> str | None:
    """What keeps the kernels from all steps of a neuron, whose own loop would be no faster than the user's."""
    if twin.warm_up == "identity":
        return "its warm-up hands the current on"
    if twin._steps_by_itself():
        return "its forward is not ours"
    return twin._why_loop(dtype)


def put(neuron: Any, states: Mapping[str, Tensor]) -> None:
    """Leave states in a neuron as its own steps do; those that are rows of something larger as copies, which may be
    detached in place."""
    for name, state in states.items():
        setattr(neuron, name, state.clone() if is_view(state) else state)
