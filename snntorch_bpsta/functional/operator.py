"""The engine as PyTorch sees it: one opaque operator, registered with torch.library.

``snntorch_bpsta::neuron`` runs all steps of a layer; ``torch.compile``, ``torch.export``, the profiler and any dispatch mode see
one call of it, with a fake implementation and an autograd formula. Its arguments are the fields of ``Tensors`` and of
``Constants`` in ``passes.py``. Autocast has no rule of its own, on purpose: an operator without one takes its inputs as they come, and this one
returns the dtype of the current whatever that of the parameters, with the states in float32.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from .._torch import is_compiling, is_watched, keeps_graph
from .kernels import bits
from .passes import Constants, Tensors, allocate, backward, empty, forward, saves_record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

STALE = (
    "Trying to backward through the graph a second time: a neuron's state goes on from steps whose graph an earlier "
    "backward() has freed. Between two sequences start anew with snn.reset(net), or with mem = neuron.reset_mem() where you "
    "hold the states yourself; or keep the values and cut the graph with mem = mem.detach() (neuron.detach_hidden() where "
    "init_hidden=True). If you mean to go through one graph twice, give the first backward() retain_graph=True"
)


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
    return _padded(t, c, empty(t, c, t.input.dtype), allocate(t, c))


def _backward_operator(grads, kept, values, dinput, need, *rest):
    """``_run_backward`` as an operator has to return tensors."""
    states, constants = rest[:9], rest[9:]
    made = backward(grads, kept, values, dinput, need, Tensors(None, *states, None), Constants(*constants))
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


def keep(ctx: Any, t: Tensors, c: Constants, outputs: Sequence[Tensor], extra: tuple[Any, Any] = (None, None)) -> None:
    """What backward needs of a call. The parameters are kept by value, for a frozen one may be moved before backward: one number each in
    `values`, wider ones as copies."""
    *states, saved, values = outputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(saved, values)
    ctx.constants, ctx.shape, ctx.stride, ctx.dtype = c, t.input.shape, t.input.stride(), t.input.dtype
    ctx.dtypes = [None if x is None else x.dtype for x in t[1:5]]
    ctx.sizes = [None if x is None else x.shape for x in t[5:10]]
    from_record = saves_record(t, c)
    ctx.reuse = c.reuse and not from_record
    ctx.packed = saved.stride() if c.save == "compact" else None
    records = [x if name in c.record else None for name, x in zip(c.outputs, states, strict=True)]
    records += [None] * (3 - len(records))
    if ctx.packed:
        saved = bits.pack_code(saved, c.relu)
    else:
        saved = (records[0] if from_record else saved,)
    first = [x.clone() if x is not None and x.is_inference() else x for x in t[1:5]]
    wide = [None if x is None or x.numel() == 1 else x.detach().clone() for x in t[5:10]]
    ctx.save_for_backward(values, *first, *wide, *records, *extra, *saved)


def _setup_context(ctx, inputs, output):
    t, c = _split(inputs)
    ctx.mark_non_differentiable(*output[1 + len(c.outputs) : 4])
    keep(ctx, t, c, (*output[1 : 1 + len(c.outputs)], *output[4:]))


def kept(ctx: Any) -> tuple[Any, ...]:
    """What :func:`keep` was given: `values`, the states (and wide parameters) as tensors of a call, records, `extra`, and `saved`."""
    try:
        values, *tensors = ctx.saved_tensors
    except RuntimeError as error:
        raise RuntimeError(STALE) if "second time" in str(error) else error from None
    t = Tensors(None, *tensors[:9], None)  # type: ignore[arg-type]  # the current and the factor are not needed
    records, extra, saved = tensors[9:12], tensors[12:14], tensors[14:]
    if ctx.packed:
        c = ctx.constants
        return (
            values,
            t,
            records,
            extra,
            bits.unpack_code(*saved, ctx.shape if c.single else (c.num_steps, *ctx.shape[1:]), ctx.packed),
        )
    return values, t, records, extra, saved[0]


def refuse_second_derivative() -> None:
    """In a backward pass: the engine of autograd runs the nodes between two tensors, so an error further on could be passed by."""
    if torch.is_grad_enabled():
        raise NotImplementedError(
            "create_graph=True asks for a second derivative of the multi-step kernels, which have the first one only: use "
            "impl='reference'"
        )


def _backward(ctx, dspk, *grads):
    """The gradients of ``Tensors``, and that at the spikes (None where no surrogate learns)."""
    refuse_second_derivative()
    c = ctx.constants
    grads = [dspk, *grads[: len(c.outputs)]]
    if not any(ctx.needs_input_grad) or all(grad is None for grad in grads):
        return [None] * (len(Tensors._fields) + 1)
    values, t, records, derivatives, saved = kept(ctx)
    if _may_be_overwritten(ctx, saved):
        dinput = saved.view(ctx.dtype)
    else:
        dinput = torch.empty_strided(ctx.shape, ctx.stride, dtype=ctx.dtype, device=saved.device)
    need = [*ctx.needs_input_grad[1:10], ctx.needs_input_grad[11] if len(ctx.needs_input_grad) == 14 else False]
    arguments = grads, [saved, *records, *derivatives], values, dinput, need
    if is_eager(saved) and not _is_negated(*grads, *t[1:10]):
        made = backward(*arguments, t, c)
    else:
        made = torch.ops.snntorch_bpsta.neuron_backward.default(*arguments, *t[1:10], *c)
        made = [grad if needed else None for grad, needed in zip(made, need, strict=True)]
    for k, dtype in enumerate(ctx.dtypes):
        if made[k] is not None:
            made[k] = made[k].to(dtype)
    for k, size in enumerate(ctx.sizes):
        if made[4 + k] is not None:
            made[4 + k] = reduce(made[4 + k], size, c.inner[k])
    return [dinput, *made[:9], None, made[9]]


def reduce(grad: Tensor, size: Sequence[int], inner: int) -> Tensor:
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
        keep(ctx, t, c, outputs, given.derivatives if given else (None, None))
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
