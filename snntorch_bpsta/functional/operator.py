"""The engine as PyTorch sees it: one opaque operator, registered with torch.library.

``snntorch_bpsta::neuron`` runs all steps of a layer; ``torch.compile``, ``torch.export``, the profiler and any dispatch mode see
one call of it, with a fake implementation and an autograd formula. Its arguments are the fields of ``Tensors`` and of
``Constants``. Autocast has no rule of its own, on purpose: an operator without one takes its inputs as they come, and this one
returns the dtype of the current whatever that of the parameters, with the states in float32.

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

from .._torch import is_compiling, is_watched, keeps_graph
from .cells import CELLS
from .kernels import bits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

STALE = (
    "Trying to backward through the graph a second time: a neuron's state goes on from steps whose graph an earlier "
    "backward() has freed. Between two sequences start anew with snn.reset(net), or with mem = neuron.reset_mem() where you "
    "hold the states yourself; or keep the values and cut the graph with mem = mem.detach() (neuron.detach_hidden() where "
    "init_hidden=True). If you mean to go through one graph twice, give the first backward() retain_graph=True"
)


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


_SCHEMA = {
    "Tensor": "Tensor", "Tensor | None": "Tensor?", "str": "str", "bool": "bool", "int": "SymInt", "float": "float",
    "Sequence[int]": "SymInt[]", "Sequence[str]": "str[]",
}  # fmt: skip
_ARGUMENTS = [
    f"{_SCHEMA[kind.__forward_arg__]} {name}"
    for record in (Tensors, Constants)
    for name, kind in record.__annotations__.items()
]
_LIB = torch.library.Library("snntorch_bpsta", "FRAGMENT")
_LIB.define(f"neuron({', '.join(_ARGUMENTS)}) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)")
_LIB.define(
    "neuron_backward(Tensor?[] grads, Tensor?[] kept, Tensor values, Tensor(a!) dinput, bool[] need, "
    f"{', '.join('Tensor? ' + name for name in Tensors._fields[1:10])}, "
    f"{', '.join(_ARGUMENTS[len(Tensors._fields) :])}) -> Tensor[]"
)


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Of the states, for a current of `dtype`."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _kernels(impl):
    if impl == "triton":
        from .kernels import triton

        return triton
    from .kernels import cpu

    return cpu


def _step(t, c):
    """Shape and strides of one step."""
    return (t.input.shape, t.input.stride()) if c.single else (t.input.shape[1:], t.input.stride()[1:])


def _empty(t, c, dtype, steps=True):
    """Memory for every step or for one, laid out as the current is."""
    shape, stride = _step(t, c)
    if steps and not c.single:
        shape, stride = (c.num_steps, *shape), (prod(shape), *stride)
    return torch.empty_strided(shape, stride, dtype=dtype, device=t.input.device)


def _saves_record(t, c):
    """Whether the record of the membrane, an output anyway, is all that backward needs of it."""
    same = t.input.dtype == compute_dtype(t.input.dtype)
    return c.save == "membrane" and "mem" in c.record and same and not c.prompt


def _allocate(t, c):
    """What the operator returns besides the spikes: the states, what is saved, and the values of the parameters."""
    dtype, state = t.input.dtype, compute_dtype(t.input.dtype)
    states = [_empty(t, c, dtype, name in c.record) for name in c.outputs]
    if c.save == "none" or _saves_record(t, c):
        saved = torch.empty(0, dtype=state, device=t.input.device)
    else:
        saved = _empty(t, c, torch.bfloat16 if c.save in ("bfloat16", "compact") else state)
    return [*states, saved, torch.empty(6, dtype=state, device=t.input.device)]


def forward(t: Tensors, c: Constants, spk: Tensor | None = None) -> list[Tensor]:
    """The spikes, the states of ``outputs``, `saved`, `values`."""
    *outputs, saved, values = _allocate(t, c)
    if spk is None:
        spk = _empty(t, c, t.input.dtype)
    state, shape = compute_dtype(t.input.dtype), _step(t, c)[0]
    if prod(shape) == 0:
        return [spk, *outputs, saved, values]
    given = t[1:5]
    names = (*c.outputs, "fed") if CELLS[c.cell].recurrent else c.outputs
    # A state after the last step is the output itself, unless that is a record or of another dtype.
    own = dict(zip(c.outputs, outputs, strict=True))
    states, records = {}, {}
    from_zero = all(x is None for x in given)
    for name, first in zip(STATES, given, strict=True):
        if name not in names:
            continue
        last = own.get(name)
        if name in c.record and not c.single:
            records[name] = last if last.dtype == state else _empty(t, c, state)
            last = None
        if last is None or last.dtype != state:
            last = _empty(t, c, state, steps=False)
        if first is not None:
            last.copy_(first)
        elif not from_zero:
            last.zero_()
        states[name] = last
    _kernels(c.impl).forward(
        t, c, spk, [states.get(name) for name in STATES], [records.get(name) for name in STATES[:3]],
        saved if saved.numel() else None, values, from_zero,
    )  # fmt: skip
    for name, output in own.items():
        made = records.get(name, states[name])
        if made is not output:
            output.copy_(made)
    return [spk, *outputs, saved, values]


def _run_backward(grads, kept, values, dinput, need, t, c):
    """Fills `dinput`; returns the gradients of the states, of the parameters and at the spikes, None where `need` says so.

    `grads` are those of the spikes, mem, syn and inh as returned; `kept` is `saved`, the records of mem, syn and inh, and the
    derivatives of a surrogate that the kernels do not know. In `t` a parameter is None where `values` has it."""
    saved, *records = kept[:4]
    like = records[0] if saved is None else saved
    state = values.dtype
    shape, stride = (like.shape, like.stride()) if c.single else (like.shape[1:], like.stride()[1:])
    options = {"dtype": state, "device": like.device}
    dspk, *douts = grads
    drecords, last = [None] * 3, [None] * 4
    for k, (name, dout) in enumerate(zip(STATES, douts, strict=False)):
        if dout is None:
            continue
        if name in c.record and not c.single:
            drecords[k] = _laid_out(dout, like.shape, like.stride(), state)
        else:  # to be written over
            last[k] = torch.empty_strided(shape, stride, **options).copy_(dout)
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
        first = [_laid_out(x, shape, stride, state) for x in t[1:5]]
        _kernels(c.impl).backward(
            t._replace(**dict(zip(STATES, first, strict=True))), c, values,
            _laid_out(dspk, like.shape, like.stride(), dinput.dtype), drecords, saved, records, kept[4:], dinput, dstates,
            dparameters, dfire, from_zero,
        )  # fmt: skip
    return [grad if needed else None for grad, needed in zip((*dstates, *dparameters, dfire), need, strict=True)]


def _laid_out(x, shape, stride, dtype):
    """`x` with these strides and this dtype."""
    if x is None or (x.stride() == stride and x.dtype == dtype):
        return x
    return torch.empty_strided(shape, stride, dtype=dtype, device=x.device).copy_(x)


def _split(arguments):
    """The arguments of the operator as its two records."""
    return Tensors(*arguments[: len(Tensors._fields)]), Constants(*arguments[len(Tensors._fields) :])


def _padded(t, c, spk, outputs):
    """What the operator returns: six tensors, empty ones for the states that the cell does not have."""
    *states, saved, values = outputs
    states += [t.input.new_empty(0) for _ in range(3 - len(states))]
    return spk, *states, saved, values


def _operator(*arguments):
    t, c = _split(arguments)
    spk, *outputs = forward(t, c)
    return _padded(t, c, spk, outputs)


def _fake_operator(*arguments):
    t, c = _split(arguments)
    return _padded(t, c, _empty(t, c, t.input.dtype), _allocate(t, c))


def _backward_operator(grads, kept, values, dinput, need, *rest):
    """``_run_backward`` as an operator has to return tensors."""
    states, constants = rest[:9], rest[9:]
    made = _run_backward(grads, kept, values, dinput, need, Tensors(None, *states, None), Constants(*constants))
    return [values.new_empty(0) if grad is None else grad for grad in made]


def _fake_backward(grads, kept, values, dinput, need, *rest):
    c = Constants(*rest[9:])
    like = kept[1] if kept[0] is None else kept[0]
    shape, stride = (like.shape, like.stride()) if c.single else (like.shape[1:], like.stride()[1:])
    return [
        torch.empty_strided(shape, stride, dtype=values.dtype, device=values.device) if each else values.new_empty(0)
        for each in need
    ]


_LIB.impl("neuron", _operator, "CompositeExplicitAutograd")
_LIB.impl("neuron_backward", _backward_operator, "CompositeExplicitAutograd")
torch.library.register_fake("snntorch_bpsta::neuron", _fake_operator, lib=_LIB)
torch.library.register_fake("snntorch_bpsta::neuron_backward", _fake_backward, lib=_LIB)


def _keep(ctx, t, c, outputs, derivatives=(None, None)):
    """What backward needs of a call. The parameters are kept by value, for a frozen one may be moved before backward: one number each in
    `values`, wider ones as copies."""
    *states, saved, values = outputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(saved, values)
    ctx.constants, ctx.shape, ctx.stride, ctx.dtype = c, t.input.shape, t.input.stride(), t.input.dtype
    ctx.dtypes = [None if x is None else x.dtype for x in t[1:5]]
    ctx.sizes = [None if x is None else x.shape for x in t[5:10]]
    saves_record = _saves_record(t, c)
    ctx.reuse = c.reuse and not saves_record
    ctx.packed = saved.stride() if c.save == "compact" else None
    records = [x if name in c.record and not c.single else None for name, x in zip(c.outputs, states, strict=True)]
    records += [None] * (3 - len(records))
    if ctx.packed:
        saved = bits.pack_code(saved, c.relu)
    else:
        saved = (records[0] if saves_record else saved,)
    first = [x.clone() if x is not None and x.is_inference() else x for x in t[1:5]]
    wide = [None if x is None or x.numel() == 1 else x.detach().clone() for x in t[5:10]]
    ctx.save_for_backward(values, *first, *wide, *records, *derivatives, *saved)


def _setup_context(ctx, inputs, output):
    t, c = _split(inputs)
    ctx.mark_non_differentiable(*output[1 + len(c.outputs) : 4])
    _keep(ctx, t, c, (*output[1 : 1 + len(c.outputs)], *output[4:]))


def _backward(ctx, dspk, *grads):
    """The gradients of ``Tensors``, and that at the spikes (None where no surrogate learns)."""
    if torch.is_grad_enabled():  # the engine runs the nodes between two tensors: an error further on could be passed by
        raise NotImplementedError(
            "create_graph=True asks for a second derivative of the multi-step kernels, which have the first one only: use "
            "impl='reference'"
        )
    c = ctx.constants
    grads = [dspk, *grads[: len(c.outputs)]]
    if not any(ctx.needs_input_grad) or all(grad is None for grad in grads):
        return [None] * (len(Tensors._fields) + 1)
    try:
        values, *kept = ctx.saved_tensors
    except RuntimeError as error:
        raise RuntimeError(STALE) if "second time" in str(error) else error from None
    t = Tensors(None, *kept[:9], None)
    records, derivatives, saved = kept[9:12], kept[12:14], kept[14:]
    if ctx.packed:
        steps = ctx.shape if c.single else (c.num_steps, *ctx.shape[1:])
        saved = bits.unpack_code(*saved, steps, ctx.packed)
    else:
        saved = saved[0]
    if _may_be_overwritten(ctx, saved):
        dinput = saved.view(ctx.dtype)
    else:
        dinput = torch.empty_strided(ctx.shape, ctx.stride, dtype=ctx.dtype, device=saved.device)
    need = [*ctx.needs_input_grad[1:10], ctx.needs_input_grad[11] if len(ctx.needs_input_grad) == 14 else False]
    kept = [saved, *records, *derivatives]
    if is_eager(saved) and not _is_negated(*grads, *t[1:10]):
        made = _run_backward(grads, kept, values, dinput, need, t, c)
    else:
        made = torch.ops.snntorch_bpsta.neuron_backward.default(grads, kept, values, dinput, need, *t[1:10], *c)
        made = [grad if needed else None for grad, needed in zip(made, need, strict=True)]
    for k, dtype in enumerate(ctx.dtypes):
        if made[k] is not None:
            made[k] = made[k].to(dtype)
    for k, size in enumerate(ctx.sizes):
        if made[4 + k] is not None:
            made[4 + k] = _reduce(made[4 + k], size, c.inner[k])
    return [dinput, *made[:9], None, made[9]]


def _reduce(grad, size, inner):
    """Sum over the neurons, in memory order, that share one of the values of a parameter."""
    channels = prod(size)
    grad = grad.as_strided((grad.numel(),), (1,))
    return grad.view(grad.numel() // max(channels * inner, 1), channels, inner).sum((0, 2)).view(size)


def _may_be_overwritten(ctx, saved):
    """Whether the gradient of the current may take the memory of `saved`: as large, ours, and needed no more."""
    return (
        ctx.reuse
        and is_eager(saved)
        and not keeps_graph()
        and saved.shape == ctx.shape
        and saved.stride() == ctx.stride
        and saved.itemsize == ctx.dtype.itemsize
    )


def _backward_of_operator(ctx, *grads):
    made = _backward(ctx, *grads)[: len(Tensors._fields)]
    return *made, *(None,) * len(Constants._fields)


torch.library.register_autograd("snntorch_bpsta::neuron", _backward_of_operator, setup_context=_setup_context, lib=_LIB)


class Given(NamedTuple):
    """The results of a pass whose surrogate the kernels do not know, and its derivatives (see ``_run_backward``)."""

    outputs: list[Tensor]
    derivatives: tuple[Tensor, Tensor]


class _Eager(torch.autograd.Function):
    """The operator without the dispatcher, which takes longer than a small layer; and in place, for which torch.library
    has no autograd: the spikes then take the memory of `base`, the current or what it is a view of."""

    @staticmethod
    def forward(ctx, base, mem, syn, inh, fed, beta, alpha, tau, threshold, v, factor, fire, c, options):
        shape, inplace, given = options
        steps = base if shape is None else base.detach().view(shape)
        t = Tensors(steps, mem, syn, inh, fed, beta, alpha, tau, threshold, v, factor)
        spk, *outputs = given.outputs if given else forward(t, c, steps if inplace else None)
        if inplace:
            ctx.mark_dirty(base)
            spk = base
        _keep(ctx, t, c, outputs, given.derivatives if given else (None, None))
        ctx.base_shape = None if shape is None else base.shape
        return spk, *outputs

    @staticmethod
    def backward(ctx, dspk, *grads):
        c, shape = ctx.constants, ctx.base_shape
        if shape is not None and dspk is not None:
            dspk = dspk.reshape(ctx.shape if c.single else (c.num_steps, *ctx.shape[1:]))
        dinput, *others = _backward(ctx, dspk, *grads)
        if shape is not None and dinput is not None:
            dinput = dinput.view(shape)
        return dinput, *others, None, None


def is_eager(x):
    """Whether `x` is a tensor with memory, and nobody watches what is done to it."""
    plain = type(x) in (torch.Tensor, torch.nn.Parameter)
    return plain and not is_compiling() and not is_watched()


def _is_negated(*tensors):
    """Whether one is a view whose memory holds the negative of its elements, which the dispatcher resolves for operators."""
    return any(x is not None and x.is_neg() for x in tensors)


def run(
    t: Tensors, c: Constants, inplace: bool = False, fire: Tensor | None = None, given: Given | None = None
) -> list[Tensor]:
    """The spikes and the states of ``Constants.outputs``."""
    count = 1 + len(c.outputs)
    if not is_eager(t.input) or _is_negated(*t):
        return list(torch.ops.snntorch_bpsta.neuron.default(*t, *c)[:count])
    base = _whole_base(t.input) if inplace else None
    if base is None:
        return _Eager.apply(*t, fire, c, (None, False, given))[:count]
    spk, *others = _Eager.apply(base, *t[1:], fire, c, (t.input.shape, True, given))
    return [spk if base is t.input else spk.view(t.input.shape), *others[: count - 1]]


def _whole_base(input_):
    """The tensor that autograd lets us write the spikes into, if there is one: `input_`, or what it is a whole view of."""
    base = input_ if input_._base is None else input_._base
    whole = base.numel() == input_.numel() and base.data_ptr() == input_.data_ptr()
    if not whole or (base.is_leaf and base.requires_grad and torch.is_grad_enabled()):
        return None
    if base.is_contiguous() and input_.is_contiguous():
        return base
    folded = base.shape[1:] == input_.shape[2:] and base.stride()[1:] == input_.stride()[2:]
    return base if folded or base is input_ else None
