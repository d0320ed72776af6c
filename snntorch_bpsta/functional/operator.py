"""The engine as PyTorch sees it: one opaque operator, registered with torch.library.

``snntorch_bpsta::lif`` runs all steps; ``torch.compile``, ``torch.export``, the profiler and any dispatch mode see one
call of it, with a fake implementation and an autograd formula. Autocast has no rule of its own, on purpose: an operator
without one takes its inputs as they come, and this one returns the dtype of the current whatever that of the parameters,
with the state in float32. The kernels do the work; those of all devices have this interface, all tensors flat and in
memory order, N neurons in a step, "compute" the dtype of the state (float32, or float64 for a float64 current):

``forward(input_, mem, beta, threshold, factor, spk, record, saved, *, ...)`` reads the current [T*N] ([N] if it is
constant), updates `mem` [N] from the membrane before the first step (`from_zero`: from zeros, whatever is there) to the
last one, and fills the spikes, each of the value `factor` [1], `record` (None or the membrane of every step) and `saved`.
A parameter [C] has the value ``p[(neuron // inner) % C]``.

`saved` is None, the membrane [T*N] in the compute dtype (`save_membrane`), or the *code*, in the compute dtype or
bfloat16: |s|, the surrogate's derivative, with the sign bit where the neuron fired, and with relu the lowest bit where the
input was positive (or NaN). For BPSA that is w = 1/u or 0 of Eq. 9: nothing else is kept for backward.

``backward(dspk, dmem, saved, mem, beta, threshold, factor, dinput, dmem0, dbeta, dthreshold, *, ...)`` fills the
gradients; those of the parameters are per neuron, for the caller to reduce, which makes them deterministic. `dinput` may be
the memory of `saved` (`reuse`: nobody else holds it), the spikes that of the current.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import torch

from .._torch import is_compiling, is_watched, keeps_graph
from .kernels import bits

if TYPE_CHECKING:
    from torch import Tensor

RESETS = {"zero": 0, "subtract": 1, "none": 2}
STALE = (
    "Trying to backward through the graph a second time: a neuron's state goes on from steps whose graph an earlier "
    "backward() has freed. Between two sequences start anew with snn.reset(net), or with mem = neuron.reset_mem() where you "
    "hold the states yourself; or keep the values and cut the graph with mem = mem.detach() (neuron.detach_hidden() where "
    "init_hidden=True). If you mean to go through one graph twice, give the first backward() retain_graph=True"
)

_NEURON = "SymInt num_steps, SymInt beta_inner, SymInt threshold_inner, int surrogate, float p0, float p1, int reset"
_LIB = torch.library.Library("snntorch_bpsta", "DEF")
_LIB.define(
    f"lif(Tensor input, Tensor? mem, Tensor beta, Tensor threshold, Tensor factor, {_NEURON}, float alpha, bool relu, "
    "str save, bool record_mem, bool reuse, str impl) -> (Tensor, Tensor, Tensor)"
)
_LIB.define(
    "lif_backward(Tensor? dspk, Tensor? dmem, Tensor saved, Tensor? mem, Tensor beta, Tensor threshold, Tensor factor, "
    f"Tensor(a!) dinput, bool need_mem, bool need_beta, bool need_threshold, {_NEURON}, "
    "float alpha, bool relu, bool save_membrane, str impl) -> (Tensor, Tensor, Tensor)"
)


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Of the state, for a current of `dtype`."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _kernels(impl):
    if impl == "triton":
        from .kernels import triton

        return triton
    from .kernels import cpu

    return cpu


def _steps_like(input_, num_steps, dtype):
    """Empty [T, B, *], each step laid out in memory as those of `input_`."""
    step = input_.shape[1:]
    return torch.empty_strided(
        (num_steps, *step), (prod(step), *input_.stride()[1:]), dtype=dtype, device=input_.device
    )


def _step_like(input_, dtype):
    return torch.empty_strided(input_.shape[1:], input_.stride()[1:], dtype=dtype, device=input_.device)


def _flat(x):
    """All elements of `x` in memory order. (Called where no gradient is recorded.)"""
    return None if x is None else x.as_strided((x.numel(),), (1,))


def _laid_out(x, shape, stride, dtype):
    """`x` with these strides and this dtype, flat."""
    if x is None:
        return None
    if x.stride() != stride or x.dtype != dtype:
        x = torch.empty_strided(shape, stride, dtype=dtype, device=x.device).copy_(x)
    return _flat(x)


def _allocate(input_, num_steps, save, record_mem):
    """What the forward pass returns besides the spikes: the membrane and what is saved."""
    state = compute_dtype(input_.dtype)
    mem = _steps_like(input_, num_steps, input_.dtype) if record_mem else _step_like(input_, input_.dtype)
    if save == "none" or _saves_record(input_.dtype, save, record_mem):
        return mem, input_.new_empty(0)
    return mem, _steps_like(input_, num_steps, torch.bfloat16 if save in ("bfloat16", "compact") else state)


def _saves_record(dtype, save, record_mem):
    """Whether the record of the membrane, an output anyway, is all that backward needs."""
    return record_mem and save == "membrane" and dtype == compute_dtype(dtype)


def _forward(
    input_, mem, beta, threshold, factor, num_steps, beta_inner, threshold_inner, surrogate, p0, p1, reset, alpha, relu,
    save, record_mem, reuse, impl, spk=None,
):  # fmt: skip
    out, saved = _allocate(input_, num_steps, save, record_mem)
    if spk is None:
        spk = _steps_like(input_, num_steps, input_.dtype)
    last = not record_mem and out.dtype == compute_dtype(input_.dtype)
    state = out if last else _step_like(input_, compute_dtype(input_.dtype))
    if mem is not None:
        state.copy_(mem)
    if state.numel():
        _kernels(impl).forward(
            _flat(input_), _flat(state), beta.detach(), threshold.detach(), factor, _flat(spk),
            _flat(out) if record_mem else None, _flat(saved) if saved.numel() else None, num_steps=num_steps,
            from_zero=mem is None, beta_inner=beta_inner, threshold_inner=threshold_inner, surrogate=surrogate, p0=p0, p1=p1,
            reset=reset, relu=relu, save_membrane=save == "membrane",
        )  # fmt: skip
    if not (last or record_mem):
        out.copy_(state)
    return spk, out, saved


def _fake_forward(
    input_, mem, beta, threshold, factor, num_steps, beta_inner, threshold_inner, surrogate, p0, p1, reset, alpha, relu,
    save, record_mem, reuse, impl,
):  # fmt: skip
    return _steps_like(input_, num_steps, input_.dtype), *_allocate(input_, num_steps, save, record_mem)


def _run_backward(
    dspk, dmem, saved, mem, beta, threshold, factor, dinput, need_mem, need_beta, need_threshold, num_steps, beta_inner,
    threshold_inner, surrogate, p0, p1, reset, alpha, relu, save_membrane, impl,
):  # fmt: skip
    """`dmem0`, `dbeta` and `dthreshold`, None where not needed."""
    shape, stride = saved.shape, saved.stride()
    grads = [
        torch.empty_strided(shape[1:], stride[1:], dtype=beta.dtype, device=beta.device) if need else None
        for need in (need_mem, need_beta, need_threshold)
    ]
    if saved.numel():
        whole = dmem is not None and dmem.dim() == len(shape)
        _kernels(impl).backward(
            _laid_out(dspk, shape, stride, dinput.dtype),
            _laid_out(dmem, *((shape, stride) if whole else (shape[1:], stride[1:])), beta.dtype),
            _flat(saved), _laid_out(mem, shape[1:], stride[1:], beta.dtype), beta.detach(), threshold.detach(), factor,
            _flat(dinput), *(_flat(grad) for grad in grads), num_steps=num_steps, beta_inner=beta_inner,
            threshold_inner=threshold_inner, surrogate=surrogate, p0=p0, p1=p1, reset=reset, relu=relu,
            save_membrane=save_membrane, alpha=alpha,
        )  # fmt: skip
    return grads


def _backward_operator(*arguments):
    """``_run_backward`` as an operator has to return tensors."""
    return tuple(arguments[4].new_empty(0) if grad is None else grad for grad in _run_backward(*arguments))


def _fake_backward(dspk, dmem, saved, mem, beta, threshold, factor, dinput, *options):
    return tuple(
        torch.empty_strided(saved.shape[1:], saved.stride()[1:], dtype=beta.dtype, device=beta.device)
        if need
        else beta.new_empty(0)
        for need in options[:3]
    )


_LIB.impl("lif", _forward, "CompositeExplicitAutograd")
_LIB.impl("lif_backward", _backward_operator, "CompositeExplicitAutograd")
torch.library.register_fake("snntorch_bpsta::lif", _fake_forward, lib=_LIB)
torch.library.register_fake("snntorch_bpsta::lif_backward", _fake_backward, lib=_LIB)


def _setup_context(ctx, inputs, output):
    (
        input_, mem, beta, threshold, factor, num_steps, beta_inner, threshold_inner, surrogate, p0, p1, reset, alpha,
        relu, save, record_mem, reuse, impl,
    ) = inputs  # fmt: skip
    _, record, saved = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(saved)
    ctx.shape, ctx.stride, ctx.dtype = input_.shape, input_.stride(), input_.dtype
    ctx.mem_dtype = None if mem is None else mem.dtype
    ctx.options = (
        num_steps, beta_inner, threshold_inner, surrogate, p0, p1, reset, alpha, relu, save == "membrane", impl,
    )  # fmt: skip
    saves_record = _saves_record(input_.dtype, save, record_mem)
    ctx.reuse = reuse and not saves_record
    ctx.packed = saved.stride() if save == "compact" else None
    ctx.steps = (num_steps, *input_.shape[1:])
    if ctx.packed:
        saved = bits.pack_code(saved, relu)
    else:
        saved = (record if saves_record else saved,)
    ctx.save_for_backward(mem, beta, threshold, factor, *saved)


def _backward(ctx, dspk, dmem, _):
    if torch.is_grad_enabled():  # the engine runs the nodes between two tensors: an error further on could be passed by
        raise NotImplementedError(
            "create_graph=True asks for a second derivative of lif_multistep, and its kernels have the first one only: "
            "use impl='reference'"
        )
    if not any(ctx.needs_input_grad) or (dspk is None and dmem is None):
        return (None,) * 18
    try:
        mem, beta, threshold, factor, *saved = ctx.saved_tensors
    except RuntimeError as error:
        raise RuntimeError(STALE) if "second time" in str(error) else error from None
    num_steps, beta_inner, threshold_inner = ctx.options[:3]
    saved = bits.unpack_code(*saved, ctx.steps, ctx.packed) if ctx.packed else saved[0]
    if _may_be_overwritten(ctx, saved):
        dinput = saved.view(ctx.dtype)
    else:
        dinput = torch.empty_strided(ctx.shape, ctx.stride, dtype=ctx.dtype, device=saved.device)
    _, need_mem, need_beta, need_threshold = ctx.needs_input_grad[:4]
    eager = _is_eager(saved) and not _is_negated(dspk, dmem, mem, threshold)
    run = _run_backward if eager else torch.ops.snntorch_bpsta.lif_backward.default
    dmem0, dbeta, dthreshold = run(
        dspk, dmem, saved, mem, beta, threshold, factor, dinput, need_mem, need_beta, need_threshold, *ctx.options
    )
    dbeta = _reduce(dbeta, len(beta), beta_inner) if need_beta else None
    dthreshold = _reduce(dthreshold, len(threshold), threshold_inner) if need_threshold else None
    dmem0 = dmem0.to(ctx.mem_dtype) if need_mem else None
    return dinput, dmem0, dbeta, dthreshold, *(None,) * 14


def _reduce(grad, channels, inner):
    """Sum over the neurons, in memory order, that share one of the `channels` values of a parameter."""
    grad = grad.as_strided((grad.numel(),), (1,))
    return grad.view(grad.numel() // max(channels * inner, 1), channels, inner).sum((0, 2))


def _may_be_overwritten(ctx, saved):
    """Whether the gradient of the current may take the memory of `saved`: as large, ours, and needed no more."""
    return (
        ctx.reuse
        and _is_eager(saved)
        and not keeps_graph()
        and saved.shape == ctx.shape
        and saved.stride() == ctx.stride
        and saved.itemsize == ctx.dtype.itemsize
    )


torch.library.register_autograd("snntorch_bpsta::lif", _backward, setup_context=_setup_context, lib=_LIB)


class _Eager(torch.autograd.Function):
    """The operator without the dispatcher, which takes longer than a small layer; and in place, for which torch.library
    has no autograd: the spikes then take the memory of `base`, the current or what it is a view of."""

    @staticmethod
    def forward(ctx, base, *options):
        *options, shape, inplace = options
        steps = base.detach().view(shape)
        spk, mem, saved = _forward(steps, *options, spk=steps if inplace else None)
        if inplace:
            ctx.mark_dirty(base)
            spk = base
        _setup_context(ctx, (steps, *options), (spk, mem, saved))
        ctx.base_shape = base.shape
        return spk, mem, saved

    @staticmethod
    def backward(ctx, dspk, dmem, _):
        dinput, *others = _backward(ctx, None if dspk is None else dspk.reshape(ctx.steps), dmem, None)
        return None if dinput is None else dinput.view(ctx.base_shape), *others, None, None


def _is_eager(x):
    """Whether `x` is a tensor with memory, and nobody watches what is done to it."""
    plain = type(x) in (torch.Tensor, torch.nn.Parameter)
    return plain and not is_compiling() and not is_watched()


def _is_negated(*tensors):
    """Whether one is a view whose memory holds the negative of its elements, which the dispatcher resolves for operators."""
    return any(x is not None and x.is_neg() for x in tensors)


def lif(input_: Tensor, *options: Any, inplace: bool = False) -> tuple[Tensor, Tensor]:
    """Spikes and membrane, the arguments being those of the operator."""
    if not _is_eager(input_) or _is_negated(input_, *options[:4]):
        return torch.ops.snntorch_bpsta.lif.default(input_, *options)[:2]
    base = _whole_base(input_) if inplace else None
    if base is None:
        return _Eager.apply(input_, *options, input_.shape, False)[:2]
    spk, mem, _ = _Eager.apply(base, *options, input_.shape, True)
    return spk if base is input_ else spk.view(input_.shape), mem


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
