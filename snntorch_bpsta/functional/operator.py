"""The engine as PyTorch sees it: one opaque operator, registered with torch.library.

``snntorch_bpsta::neuron`` runs all steps of a layer; ``torch.compile``, ``torch.export``, the profiler and any
dispatch mode see one call of it, with a fake implementation and an autograd formula. Its arguments are the fields of
``Tensors`` and of ``Constants`` in ``passes.py``. Autocast has no rule of its own, on purpose: an operator without
one takes its inputs as they come, and this one returns the dtype of the current whatever that of the parameters, with
the states in float32.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from .._torch import is_compiling, is_watched, keeps_graph, new_library, viewed
from .cells import CELLS
from .kernels import bits
from .passes import Constants, Layout, Tensors, backward, forward, layout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

STALE = (
    "Trying to backward through the graph a second time: a neuron's state goes on from steps whose graph an earlier "
    "backward() has freed. Between two sequences start anew with snn.reset(net), or with mem = neuron.reset_mem() where you "
    "hold the states yourself; or keep the values and cut the graph with snn.detach(net), and mem = mem.detach() where you "
    "hold them. If you mean to go through one graph twice, give the first backward() retain_graph=True"
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
_LIB = new_library("snntorch_bpsta")
_LIB.define(f"neuron({', '.join(_ARGUMENTS)}) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)")
_LIB.define(
    "neuron_backward(Tensor?[] grads, Tensor?[] kept, Tensor values, Tensor(a!) dinput, bool[] need, "
    f"{', '.join('Tensor? ' + name for name in Tensors._fields[1:10])}, "
    f"{', '.join(_ARGUMENTS[len(Tensors._fields) :])}) -> ({', '.join(['Tensor'] * 10)})"
)


def _split(arguments):
    """The arguments of the operator as its two records."""
    return Tensors(*arguments[: len(Tensors._fields)]), Constants(*arguments[len(Tensors._fields) :])


def _operator(*arguments):
    """Six tensors, empty ones for the states that the cell does not have."""
    t, c = _split(arguments)
    spk, *states, saved, values = forward(t, c, layout(t, c))
    return spk, *states, *(t.input.new_empty(0) for _ in range(3 - len(states))), saved, values


def _fake_operator(*arguments):
    t, c = _split(arguments)
    spk, *states, saved, values = forward(t, c, layout(t, c), run=False)
    return spk, *states, *(t.input.new_empty(0) for _ in range(3 - len(states))), saved, values


def _backward_operator(grads, kept, values, dinput, need, *rest):
    """``_run_backward`` as an operator has to return tensors."""
    states, constants = rest[:9], rest[9:]
    made = backward(grads, kept, values, dinput, need, Tensors(None, *states, None), Constants(*constants))
    return tuple(values.new_empty(0) if grad is None else grad for grad in made)


def _fake_backward(grads, kept, values, dinput, need, *rest):
    c = Constants(*rest[9:])
    like = kept[1] if kept[0] is None else kept[0]
    shape, stride = (like.shape, like.stride()) if c.single else (like.shape[1:], like.stride()[1:])
    made = []
    for k, needed in enumerate(need):
        if k == 9 and needed:
            shape, stride = (1 + c.num_steps, *shape), (prod(shape), *stride)
        options = {"dtype": values.dtype, "device": values.device}
        made.append(torch.empty_strided(shape, stride, **options) if needed else values.new_empty(0))
    return tuple(made)


_LIB.impl("neuron", _operator, "CompositeExplicitAutograd")
_LIB.impl("neuron_backward", _backward_operator, "CompositeExplicitAutograd")
torch.library.register_fake("snntorch_bpsta::neuron", _fake_operator, lib=_LIB)
torch.library.register_fake("snntorch_bpsta::neuron_backward", _fake_backward, lib=_LIB)


def keep(
    ctx: Any, t: Tensors, c: Constants, lay: Layout, outputs: Sequence[Tensor], extra: tuple[Any, Any] = (None, None)
) -> None:
    """What backward needs of a call. The parameters are kept by value, for a frozen one may be moved before backward:
    one number each in `values`, wider ones as copies."""
    saved, values = outputs[-2:]
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(saved, values)
    ctx.constants, ctx.layout, ctx.shape, ctx.stride = c, lay, t.input.shape, t.input.stride()
    from_record = lay.saved is None and c.save == "membrane"
    ctx.reuse = c.reuse and not from_record
    ctx.packed = saved.stride() if c.save == "compact" else None
    dtypes: list[Any] = []
    sizes: list[Any] = []
    tensors: list[Any] = [values]
    for x in t[1:5]:
        dtypes.append(None if x is None else x.dtype)
        tensors.append(x.clone() if x is not None and x.is_inference() else x)
    for x in t[5:10]:
        sizes.append(None if x is None else x.shape)
        tensors.append(None if x is None or x.numel() == 1 else x.detach().clone())
    records: list[Any] = [None] * 3
    if c.record:
        for place, (k, recorded) in enumerate(lay.states):
            if recorded:
                records[k] = outputs[place]
    tensors += records
    tensors += extra
    if ctx.packed:
        tensors += bits.pack_code(saved, c.relu)
    else:
        tensors.append(records[0] if from_record else saved)
    ctx.dtypes, ctx.sizes = dtypes, sizes
    ctx.save_for_backward(*tensors)


def _setup_context(ctx, inputs, output):
    t, c = _split(inputs)
    lay = layout(t, c)
    ctx.mark_non_differentiable(*output[1 + len(lay.outputs) :])
    keep(ctx, t, c, lay, (*output[1 : 1 + len(lay.outputs)], *output[4:]))


def kept(ctx: Any) -> tuple[Any, ...]:
    """What :func:`keep` was given: `values`, the states (and wide parameters) as tensors of a call, records, `extra`,
    and `saved`."""
    try:
        values, *tensors = ctx.saved_tensors
    except RuntimeError as error:
        raise RuntimeError(STALE) if "second time" in str(error) else error from None
    t = Tensors(None, *tensors[:9], None)  # type: ignore[call-arg, arg-type]  # the current and the factor are not needed
    saved = bits.unpack_code(*tensors[14:], ctx.layout.steps[0], ctx.packed) if ctx.packed else tensors[14]
    return values, t, tensors[9:12], tensors[12:14], saved


def refuse_second_derivative() -> None:
    """In a backward pass: the engine of autograd runs the nodes between two tensors, so an error further on could be
    passed by."""
    if torch.is_grad_enabled():
        raise NotImplementedError(
            "create_graph=True asks for a second derivative of the multi-step kernels, which have the first one only: use "
            "impl='reference'"
        )


def _backward(ctx, *grads):
    """The gradients of ``Tensors``, and that at the spikes (None where no surrogate learns)."""
    refuse_second_derivative()
    c, wanted = ctx.constants, ctx.needs_input_grad
    count = 1 + len(ctx.layout.outputs)  # the rest are those of empty tensors and of what is not differentiable
    grads = (*grads[:count], *(None,) * (4 - count))
    if True not in wanted or (grads[0] is None and grads[1] is None and grads[2] is None and grads[3] is None):
        return [None] * 12
    values, t, records, derivatives, saved = kept(ctx)
    if _may_be_overwritten(ctx, saved):
        dinput = saved.view(ctx.layout.dtype)
    else:
        dinput = torch.empty_strided(ctx.shape, ctx.stride, dtype=ctx.layout.dtype, device=saved.device)
    # The membrane of the alpha function does not depend on the last one.
    need = (wanted[1] and not CELLS[c.cell].alpha, *wanted[2:10], len(wanted) == 14 and wanted[11])
    arguments = grads, [saved, *records, *derivatives], values, dinput, need
    if is_eager(saved, *grads, *t[1:5]):
        made = backward(*arguments, t, c)
    else:
        made = torch.ops.snntorch_bpsta.neuron_backward.default(*arguments, *t[1:10], *c)
        made = [grad if needed else None for grad, needed in zip(made, need, strict=True)]
    for k in range(9):
        if made[k] is None:
            continue
        if k < 4:
            made[k] = made[k].to(ctx.dtypes[k])
        else:
            made[k] = reduce(made[k], ctx.sizes[k - 4], c.inner[k - 4])
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
        and saved.itemsize == ctx.layout.dtype.itemsize
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
    has no autograd: the spikes then take the memory of `base`, the current or what it is a view of. Where they are
    pooled, what is kept for backward takes it."""

    @staticmethod
    def forward(ctx, base, mem, syn, inh, fed, beta, alpha, tau, threshold, v, factor, fire, call, given):
        c, lay, shape, inplace = call
        steps = base.detach() if inplace else base
        steps = steps if shape is None else steps.view(shape)
        t = Tensors(steps, mem, syn, inh, fed, beta, alpha, tau, threshold, v, factor)
        outputs = forward(t, c, lay, steps if inplace else None) if given is None else given.outputs
        if inplace and shape is None:
            torch.autograd.graph.increment_version(base)
        keep(ctx, t, c, lay, outputs[1:], (None, None) if given is None else given.derivatives)
        if shape is None:
            ctx.base_shape = None
            return tuple(outputs)
        ctx.base_shape = base.shape
        ctx.mark_dirty(base)
        return base, *outputs[1:]

    @staticmethod
    def backward(ctx, dspk, *grads):
        shape, lay = ctx.base_shape, ctx.layout
        if shape is None:
            made = _backward(ctx, dspk, *grads)
        else:
            made = _backward(ctx, None if dspk is None else dspk.reshape(lay.steps[0]), *grads)
            made[0] = None if made[0] is None else made[0].view(shape)
        made += (None, None)
        return tuple(made)


def is_eager(x: Tensor, *read: Tensor | None) -> bool:
    """Whether `x` is a tensor with memory, and nobody watches what is done to it. Of what is `read` besides, none may be a
    view whose memory holds the negative of its elements, which the dispatcher resolves for operators."""
    if type(x) not in (torch.Tensor, torch.nn.Parameter) or is_compiling() or is_watched():
        return False
    for each in read:
        if each is not None and each.is_neg():
            return False
    return True


def run(
    t: Tensors, c: Constants, lay: Layout, inplace: bool = False, fire: Tensor | None = None, given: Given | None = None
) -> Sequence[Tensor]:
    """The spikes and the states of ``Layout.outputs``."""
    if not is_eager(t.input, *t):
        return torch.ops.snntorch_bpsta.neuron.default(*t, *c)
    base = _whole_base(t.input) if inplace else None
    if base is None or (c.pool and lay.saved is not lay.dtype):
        return _Eager.apply(*t, fire, (c, lay, None, False), given)
    if c.pool:
        return _Eager.apply(*t, fire, (c, lay, None, True), given)
    spk, *others = _Eager.apply(base, *t[1:], fire, (c, lay, t.input.shape, True), given)
    return [spk if base is t.input else spk.view(t.input.shape), *others]


def _whole_base(input_):
    """The tensor that autograd lets us write the spikes into, if there is one: `input_`, or what it is a whole view of."""
    base = viewed(input_)
    whole = base.numel() == input_.numel() and base.data_ptr() == input_.data_ptr()
    if not whole or (base.is_leaf and base.requires_grad and torch.is_grad_enabled()):
        return None
    if base.is_contiguous() and input_.is_contiguous():
        return base
    folded = base.shape[1:] == input_.shape[2:] and base.stride()[1:] == input_.stride()[2:]
    return base if folded or base is input_ else None
