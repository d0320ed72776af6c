"""One call of the kernels: its tensors and constants, the memory it takes, the pass forward and the pass backward.

The kernels of all devices have this interface; N is the number of neurons in a step, "compute" the dtype of the states (float32,
or float64 for a float64 current), and all tensors lie in memory as the current does, without gaps:

``forward(t, c, spk, states, records, saved, values, from_zero)`` reads the current [T, N] ([N] if it is constant), brings `states`
(u, i, j and the fed-back spikes, None where the cell has none, [N], compute) from the values before the first step (`from_zero`:
from zeros, whatever is there) to those after the last one, and fills the spikes, each of the value `factor`, `records` (u, i and j
of every step, compute, or None), `saved`, and `values` [6], compute: beta, alpha, tau, threshold, v and factor, where each is one
number. A parameter [C] has the value ``p[(neuron // inner) % C]``.

`saved` is None, the membrane [T, N] in the compute dtype (`save` "membrane"; before a prompt reset), or the *code*, in the compute
dtype or bfloat16: |s|, the surrogate's derivative, with the sign bit where the neuron fired, and with relu the lowest bit where the
input was positive (or NaN). For BPSA that is w = 1/u or 0 of Eq. 9: nothing else is kept for backward.

``backward(t, c, values, dspk, drecords, saved, records, derivatives, dinput, dstates, dparameters, dfire, from_zero)`` fills the
gradients. In `t` the states are those before the first step, and a parameter is None where `values` has it. `drecords` are
gradients [T, N] or None; `dstates`, [N] or None, begin as the gradients of the last states (`from_zero`: as zeros) and end as those
of the first. The gradients of the parameters are per neuron, for the caller to reduce, which makes them deterministic. `dinput` may
be the memory of `saved`, the spikes that of the current. `derivatives` are None, or those of a surrogate that the kernels do not
know, at every step and before the first one; `dfire` [T, N], or None, is what reaches the spike from everywhere, for one that learns.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, NamedTuple

import torch

from .cells import CELLS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from torch import Tensor


class Tensors(NamedTuple):
    """The tensors of a call, in the order of the operator's arguments."""

    input: Tensor  # [T, B, *], [1, B, *] where constant, [B, *] for a single step
    mem: Tensor | None  # u, i, j and the fed-back spikes before the first step, [B, *]; None for zeros
    syn: Tensor | None
    inh: Tensor | None
    fed: Tensor | None
    beta: Tensor  # the parameters, compute: one number or [C]
    alpha: Tensor | None
    tau: Tensor | None
    threshold: Tensor
    v: Tensor | None
    factor: Tensor  # one number


STATES, PARAMETERS = Tensors._fields[1:5], Tensors._fields[5:10]


class Constants(NamedTuple):
    """All else about a call, in the order of the operator's arguments, behind the tensors."""

    cell: str
    reset: str
    prompt: bool  # reset_delay=False
    surrogate: int
    p0: float
    p1: float
    residual: float
    single: bool
    num_steps: int
    inner: Sequence[int]  # of the five parameters: how many neighbours share an element
    relu: bool
    save: str  # "none", "float32", "bfloat16", "compact" or "membrane"
    record: Sequence[str]  # which of mem, syn and inh are returned at every step
    reuse: bool  # `saved` may be written over
    impl: str

    @property
    def outputs(self) -> tuple[str, ...]:
        """The states that the operator returns, by its names."""
        row = CELLS[self.cell]
        return ("mem", *(("syn",) if row.filter or row.alpha else ()), *(("inh",) if row.alpha else ()))


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Of the states, for a current of `dtype`."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def kernels(impl: str) -> ModuleType:
    """The module of an implementation."""
    if impl == "triton":
        from .kernels import triton

        return triton
    from .kernels import cpu

    return cpu


def step_of(t: Tensors, c: Constants) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape and strides of one step."""
    return (t.input.shape, t.input.stride()) if c.single else (t.input.shape[1:], t.input.stride()[1:])


def empty(t: Tensors, c: Constants, dtype: torch.dtype, steps: bool = True) -> Tensor:
    """Memory for every step or for one, laid out as the current is."""
    shape, stride = step_of(t, c)
    if steps and not c.single:
        shape, stride = (c.num_steps, *shape), (prod(shape), *stride)
    return torch.empty_strided(shape, stride, dtype=dtype, device=t.input.device)


def saves_record(t: Tensors, c: Constants) -> bool:
    """Whether the record of the membrane, an output anyway, is all that backward needs of it."""
    same = t.input.dtype == compute_dtype(t.input.dtype)
    return c.save == "membrane" and "mem" in c.record and same and not c.prompt


def allocate(t: Tensors, c: Constants) -> list[Tensor]:
    """What the operator returns besides the spikes: the states, what is saved, and the values of the parameters."""
    dtype, state = t.input.dtype, compute_dtype(t.input.dtype)
    states = [empty(t, c, dtype, name in c.record) for name in c.outputs]
    if c.save == "none" or saves_record(t, c):
        saved = torch.empty(0, dtype=state, device=t.input.device)
    else:
        saved = empty(t, c, torch.bfloat16 if c.save in ("bfloat16", "compact") else state)
    return [*states, saved, torch.empty(6, dtype=state, device=t.input.device)]


def forward(t: Tensors, c: Constants, spk: Tensor | None = None) -> list[Tensor]:
    """The spikes (into `spk`, if that is given), the states of ``Constants.outputs``, `saved`, and `values`."""
    *outputs, saved, values = allocate(t, c)
    if spk is None:
        spk = empty(t, c, t.input.dtype)
    if t.input.numel():
        states, records = states_of(t, c, outputs)
        kernels(c.impl).forward(
            t, c, spk, states, records, saved if saved.numel() else None, values, all(x is None for x in t[1:5])
        )
        hand_out(c, outputs, states, records)
    return [spk, *outputs, saved, values]


def states_of(t: Tensors, c: Constants, outputs: list[Tensor]) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """The states as the kernels take them, at their first values, and the memory for their records. Where that is possible they are the
    outputs themselves."""
    state = compute_dtype(t.input.dtype)
    names = (*c.outputs, "fed") if CELLS[c.cell].recurrent else c.outputs
    own = dict(zip(c.outputs, outputs, strict=True))
    from_zero = all(x is None for x in t[1:5])
    states: list[Tensor | None] = [None] * 4
    records: list[Tensor | None] = [None] * 3
    for k, (name, first) in enumerate(zip(STATES, t[1:5], strict=True)):
        if name not in names:
            continue
        last = own.get(name)
        if name in c.record:
            records[k] = last if last.dtype == state else empty(t, c, state)
            last = None
        if last is None or last.dtype != state:
            last = empty(t, c, state, steps=False)
        if first is not None:
            last.copy_(first)
        elif not from_zero:
            last.zero_()
        states[k] = last
    return states, records


def hand_out(c: Constants, outputs: list[Tensor], states: list[Tensor | None], records: list[Tensor | None]) -> None:
    """The states or their records into the outputs, where these are not their memory."""
    for name, output in zip(c.outputs, outputs, strict=True):
        k = STATES.index(name)
        made = states[k] if k == 3 or records[k] is None else records[k]
        if made is not output:
            output.copy_(made)


def backward(
    grads: list[Tensor | None],
    kept: list[Tensor | None],
    values: Tensor,
    dinput: Tensor,
    need: list[bool],
    t: Tensors,
    c: Constants,
) -> list[Tensor | None]:
    """Fills `dinput`; returns the gradients of the states, of the parameters and at the spikes, None where `need` says so.

    `grads` are those of the spikes, mem, syn and inh as returned; `kept` is `saved`, the records of mem, syn and inh, and the
    derivatives of a surrogate that the kernels do not know. In `t` a parameter is None where `values` has it."""
    saved, *records = kept[:4]
    like = records[0] if saved is None else saved
    state = values.dtype
    shape, stride = (like.shape, like.stride()) if c.single else (like.shape[1:], like.stride()[1:])
    options = {"dtype": state, "device": like.device}
    dspk, *douts = grads
    last, drecords = split_grads(douts, c, like, state)
    from_zero = all(grad is None for grad in last)
    dstates = last
    for k, name in enumerate(STATES):
        if last[k] is None and (need[k] or not from_zero) and (name in c.outputs or need[k]):
            dstates[k] = torch.empty_strided(shape, stride, **options)
            if not from_zero:
                dstates[k].zero_()
    dparameters = [torch.empty_strided(shape, stride, **options) if needed else None for needed in need[4:9]]
    steps = (1 + c.num_steps, *shape)
    dfire = torch.empty_strided(steps, (prod(shape), *stride), **options) if need[9] else None
    if like.numel():
        first = [laid_out(x, shape, stride, state) for x in t[1:5]]
        kernels(c.impl).backward(
            t._replace(**dict(zip(STATES, first, strict=True))), c, values,
            laid_out(dspk, like.shape, like.stride(), dinput.dtype), drecords, saved, records, kept[4:], dinput, dstates,
            dparameters, dfire, from_zero,
        )  # fmt: skip
    return [grad if needed else None for grad, needed in zip((*dstates, *dparameters, dfire), need, strict=True)]


def split_grads(
    grads: Sequence[Tensor | None], c: Constants, like: Tensor, state: torch.dtype
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """Of the gradients of the states that were returned: those of last states, four, to be written over, and those of records, three.
    `like` has all steps."""
    shape, stride = (like.shape, like.stride()) if c.single else (like.shape[1:], like.stride()[1:])
    last: list[Tensor | None] = [None] * 4
    records: list[Tensor | None] = [None] * 3
    for name, grad in zip(c.outputs, grads, strict=False):
        k = STATES.index(name)
        if grad is None:
            continue
        if name in c.record:
            records[k] = laid_out(grad, like.shape, like.stride(), state)
        else:
            last[k] = torch.empty_strided(shape, stride, dtype=state, device=like.device).copy_(grad)
    return last, records


def laid_out(x: Tensor | None, shape: Sequence[int], stride: Sequence[int], dtype: torch.dtype) -> Tensor | None:
    """`x` with these strides and this dtype."""
    if x is None or (x.stride() == stride and x.dtype == dtype):
        return x
    return torch.empty_strided(shape, stride, dtype=dtype, device=x.device).copy_(x)
