"""One call of the kernels: its tensors and constants, the memory it takes, the pass forward and the pass backward.

The kernels of all devices have this interface; N is the number of neurons in a step, "compute" the dtype of the
states (float32, or float64 for a float64 current), and all tensors lie in memory as the current does, without gaps:

``forward(t, c, spk, states, records, saved, values, from_zero)`` reads the current [T, N] ([N] if it is constant),
brings `states` (u, i, j and the fed-back spikes, None where the cell has none, [N], compute) from the values before
the first step (`from_zero`: from zeros, whatever is there) to those after the last one, and fills the spikes, each of
the value `factor`, `records` (u, i and j of every step, compute, or None), `saved`, and `values` [6], compute: beta,
alpha, tau, threshold, v and factor, where each is one number. A parameter [C] has the value ``p[(neuron // inner) %
C]``.

With `pool` the spikes that come out, and `dspk`, are those that are left of it.

`saved` is None, the membrane [T, N] in the compute dtype (`save` "membrane"; before a prompt reset), or the *code*,
in the compute dtype or bfloat16: |s|, the surrogate's derivative, with the sign bit where the neuron fired, and with
relu the lowest bit where the input was positive (or NaN). For BPSA that is w = 1/u, or 0 or the leak, of Eq. 9:
nothing else is kept for backward.

``backward(t, c, values, dspk, drecords, saved, records, derivatives, dinput, dstates, dparameters, dfire,
from_zero)`` fills the gradients. In `t` the states are those before the first step, and a parameter is None where
`values` has it. `drecords` are gradients [T, N] or None; `dstates`, [N] or None, begin as the gradients of the last
states (`from_zero`: as zeros) and end as those of the first. The gradients of the parameters are per neuron, for the
caller to reduce, which makes them deterministic. `dinput` may be the memory of `saved`, the spikes that of the
current. `derivatives` are None, or those of a surrogate that the kernels do not know, at every step and before the
first one; `dfire` [T, N], or None, is what reaches the spike from everywhere, for one that learns.
"""

from __future__ import annotations

from functools import cache
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from .cells import CELLS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
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


STATES = Tensors._fields[1:5]


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
    pool: str = ""  # the spikes that come out are pooled: "max" or "average"; "" for all spikes
    window: Sequence[
        int
    ] = ()  # its height and width, and the neighbours in memory that are other channels of one place


class Layout(NamedTuple):
    """How the memory of a call lies: shape and strides of one step and of all, types, and which states there are."""

    step: tuple[Sequence[int], Sequence[int]]
    steps: tuple[Sequence[int], Sequence[int]]
    spikes: tuple[Sequence[int], Sequence[int]]  # that of all steps, or what is left of it by pooling
    dtype: torch.dtype
    state: torch.dtype
    device: torch.device
    outputs: tuple[str, ...]  # the states that are returned, by their names in ``STATES``
    states: tuple[
        tuple[int, bool], ...
    ]  # places in ``STATES`` of those that the cell has, and whether every step is returned
    saved: torch.dtype | None  # None: nothing is saved, or the record of the membrane is


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Of the states, for a current of `dtype`."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@cache
def kernels(impl: str) -> ModuleType:
    """The module of an implementation."""
    if impl == "triton":
        from .kernels import triton

        return triton
    from .kernels import cpu

    return cpu


def layout(t: Tensors, c: Constants) -> Layout:
    """The layout of a call: every step lies as those of the current."""
    x, row = t.input, CELLS[c.cell]
    shape, stride = (x.shape, x.stride()) if c.single else (x.shape[1:], x.stride()[1:])
    steps = (shape, stride) if c.single else ((c.num_steps, *shape), (prod(shape), *stride))
    state = compute_dtype(x.dtype)
    outputs = ("mem", *(("syn",) if row.filter or row.alpha else ()), *(("inh",) if row.alpha else ()))
    names = (*outputs, "fed") if row.recurrent else outputs
    states = tuple((STATES.index(name), name in c.record) for name in names)
    # A record of the membrane, an output anyway, is all that backward needs of it.
    from_record = c.save == "membrane" and "mem" in c.record and x.dtype == state and not c.prompt
    saved = torch.bfloat16 if c.save in ("bfloat16", "compact") else state
    saved = None if c.save == "none" or from_record else saved
    spikes = _pooled(steps, c) if c.pool else steps
    return Layout((shape, stride), steps, spikes, x.dtype, state, x.device, outputs, states, saved)


def _pooled(steps: tuple[Sequence[int], Sequence[int]], c: Constants) -> tuple[Sequence[int], Sequence[int]]:
    """Shape and strides of the pooled spikes: dense, with the channels where those of all `steps` are."""
    *lead, channels, height, width = steps[0]
    height, width = height // c.window[0], width // c.window[1]
    size = channels * height * width
    strides = (height * width, width, 1) if c.window[2] == 1 else (1, width * channels, channels)
    return (*lead, channels, height, width), (lead[1] * size, size, *strides)


def forward(
    t: Tensors, c: Constants, lay: Layout, over: Tensor | None = None, run: Callable[..., None] | bool = True
) -> list[Tensor]:
    """The spikes, the states of ``Layout.outputs``, `saved`, and `values`. The spikes go into `over`, if that is given,
    or, where they are pooled, `saved`. Without `run` only their memory; a function `run` is called for every step in
    place of the kernels for all."""
    empty, dtype, state, device = torch.empty_strided, lay.dtype, lay.state, lay.device
    spk = empty(*lay.spikes, dtype=dtype, device=device) if over is None or c.pool else over
    made: list[Tensor] = [spk]
    states: list[Any] = [None] * 4
    records: list[Any] = [None] * 3
    from_zero = run is True and t[1] is None and t[2] is None and t[3] is None and t[4] is None
    copies = []
    for k, recorded in lay.states:
        last = None
        if k < 3:
            output = empty(*(lay.steps if recorded else lay.step), dtype=dtype, device=device)
            made.append(output)
            work = (
                output if dtype == state else empty(*(lay.steps if recorded else lay.step), dtype=state, device=device)
            )
            if work is not output:
                copies.append((output, work))
            if recorded:
                records[k] = work
            else:
                last = work
        states[k] = last = empty(*lay.step, dtype=state, device=device) if last is None else last
        first = t[1 + k]
        if first is not None:
            last.copy_(first)
        elif not from_zero:
            last.zero_()
    saved = (
        torch.empty(0, dtype=state, device=device)
        if lay.saved is None
        else empty(*lay.steps, dtype=lay.saved, device=device)
        if over is None or not c.pool
        else over
    )
    values = torch.empty(6, dtype=state, device=device)
    if run and spk.numel():
        rest = spk, states, records, None if lay.saved is None else saved, values, from_zero
        if run is True:
            kernels(c.impl).forward(t, c, *rest)
        else:
            for step in range(c.num_steps):
                run(step, *rest)
        for output, work in copies:
            output.copy_(work)
    elif run:
        values.zero_()
    made += (saved, values)
    return made


def backward(
    grads: Sequence[Any],
    kept: Sequence[Any],
    values: Tensor,
    dinput: Tensor,
    need: Sequence[bool],
    t: Tensors,
    c: Constants,
) -> list[Any]:
    """Fills `dinput`; returns the gradients of the states, of the parameters and at the spikes, None where `need` says so.

    `grads` are those of the spikes, mem, syn and inh as returned; `kept` is `saved`, the records of mem, syn and inh,
    and the derivatives of a surrogate that the kernels do not know. In `t` a parameter is None where `values` has
    it."""
    saved, records = kept[0], kept[1:4]
    like = records[0] if saved is None else saved
    state, shape, stride = values.dtype, like.shape, like.stride()
    step = (shape, stride) if c.single else (shape[1:], stride[1:])
    row = CELLS[c.cell]
    options: dict[str, Any] = {"dtype": state, "device": like.device}
    records = [laid_out(x, shape, stride, state) for x in records]  # in half precision what was handed out is rounded
    last, drecords = split_grads(grads[1:], c, like, state)
    from_zero = last[0] is None and last[1] is None and last[2] is None
    dstates: list[Any] = list(last)
    has = (True, row.filter or row.alpha, row.alpha, False)
    for k in range(4):
        if last[k] is None and (need[k] or (has[k] and not from_zero)):
            dstates[k] = torch.empty_strided(*step, **options) if from_zero else torch.zeros(step[0], **options)
            if dstates[k].stride() != step[1]:
                dstates[k] = laid_out(dstates[k], *step, state)
    dparameters: list[Tensor | None] = [None] * 5
    for k in range(5):
        if need[4 + k]:
            dparameters[k] = torch.empty_strided(*step, **options)
    dfire = None
    if need[9]:  # also what the membrane before the first step gets
        dfire = torch.empty_strided((1 + c.num_steps, *step[0]), (prod(step[0]), *step[1]), **options)
    if like.numel():
        first = t
        if t[1] is not None or t[2] is not None or t[3] is not None or t[4] is not None:
            first = Tensors(None, *[laid_out(x, *step, state) for x in t[1:5]], *t[5:])  # type: ignore[call-arg, arg-type]
        spikes = _pooled((shape, stride), c) if c.pool else (shape, stride)
        kernels(c.impl).backward(
            first, c, values, laid_out(grads[0], spikes[0], spikes[1], dinput.dtype), drecords, saved, records, kept[4:],
            dinput, dstates, dparameters, dfire, from_zero,
        )  # fmt: skip
    made = [*dstates, *dparameters, dfire]
    for k in range(10):
        if not need[k]:
            made[k] = None
    return made


def split_grads(
    grads: Sequence[Tensor | None], c: Constants, like: Tensor, state: torch.dtype
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """Of the gradients of the states that were returned: those of last states, four, to be written over, and those of
    records, three. `like` has all steps."""
    last: list[Tensor | None] = [None] * 4
    records: list[Tensor | None] = [None] * 3
    for k in range(3):
        grad = grads[k] if k < len(grads) else None
        if grad is None:
            continue
        if STATES[k] in c.record:
            records[k] = laid_out(grad, like.shape, like.stride(), state)
        else:
            shape, stride = (like.shape, like.stride()) if c.single else (like.shape[1:], like.stride()[1:])
            last[k] = torch.empty_strided(shape, stride, dtype=state, device=like.device).copy_(grad)
    return last, records


def laid_out(x: Tensor | None, shape: Sequence[int], stride: Sequence[int], dtype: torch.dtype) -> Tensor | None:
    """`x` with these strides and this dtype."""
    if x is None or (x.stride() == stride and x.dtype == dtype):
        return x
    return torch.empty_strided(shape, stride, dtype=dtype, device=x.device).copy_(x)
