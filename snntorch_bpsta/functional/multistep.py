"""The door to all time steps of a layer: runs a call as its plan says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple
from warnings import warn

import torch

from .. import telling
from .._checks import check_flags
from .._torch import is_compiling, is_exporting, is_transforming
from . import custom, operator, passes
from .cells import CELLS
from .plan import flat, plan_of
from .pool import pooled
from .record import NAMES, Call, Neuron, lif
from .reference import reference

if TYPE_CHECKING:
    from torch import Tensor

    from .._typing import Number, Reset, Save, SpatialAdj, SpikeGrad
    from .record import ImplName

_said: set[str] = set()


def multistep(neuron: Neuron, call: Call) -> tuple[Tensor, ...]:
    """All steps of a layer: the spikes ``[T, B, *]`` and its states in snnTorch's order (without `spk`): the last ones
    ``[B, *]`` or, where `call.record` names one, those of every step.

    Raises:
        ValueError, TypeError: a tensor of `call` that does not go with the neuron.
        NotImplementedError: `call.impl` names an implementation that does not cover the call.
    """
    plan: Any = plan_of(neuron, call)
    if plan.constants is None:
        if plan.reason and not call.single:
            say_loop(neuron.cell, plan.reason)
        return _with_pool(_run_reference(neuron, call, plan.reason), call.pool)
    x, inplace = call.input, call.inplace
    if plan.rectify:
        x, inplace = x.relu(), False
    if not plan.dense:
        x = x.contiguous()
    states = []
    for place in plan.given:
        states.append(None if place < 0 else call.states[place])
    if plan.direct:
        parameters = neuron.beta, neuron.alpha, None, neuron.threshold, neuron.v, neuron.factor
    else:
        parameters = _parameters(neuron, call, plan)
    t = passes.Tensors(x, *states, *parameters)  # type: ignore[arg-type]
    if plan.run is None:
        outputs = operator.run(t, plan.constants, plan.layout, inplace and plan.constants.num_steps == x.shape[0])
    else:
        outputs = plan.run(neuron, t, plan)
    if outputs is None:
        if call.impl != "auto":
            raise NotImplementedError(
                f"impl={str(call.impl)!r} does not cover {custom.REASON}; use 'auto' or 'reference'"
            )
        say_loop(neuron.cell, custom.REASON)
        return _with_pool(_run_reference(neuron, call, custom.REASON), call.pool)
    if telling.told is not None:
        telling.tell(None, f"step by step: {plan.impl}" if call.single else plan.impl)
        if call.pool is not None and plan.constants.pool:
            telling.tell(None, f"with {call.pool.name}")
    result = [outputs[0]]
    for place, last in plan.returned:
        result.append(outputs[place][-1] if last else outputs[place])
    if not plan.direct and (neuron.factor.numel() != 1 or neuron.factor.requires_grad):
        result[0] = (result[0] * neuron.factor).to(result[0].dtype)
    return tuple(result) if call.pool is None or plan.constants.pool else _with_pool(tuple(result), call.pool)


def _with_pool(result, pool):
    """The same with its spikes pooled by PyTorch, where the kernels have not done it."""
    return (pooled(result[0], pool), *result[1:])


def say_loop(name: str, reason: str) -> None:
    """Tell once that "auto" takes the loop, and why. Not where a graph is made of it."""
    if is_compiling() or is_exporting() or is_transforming():
        return
    text = f"{name} runs as a loop over time, which is slow: the kernels do not cover {reason}"
    if text not in _said:
        _said.add(text)
        warn(text + " (impl='reference' says that this is meant)", stacklevel=3)


def _parameters(neuron, call, plan):
    """The parameters and the spikes' factor in the form that the kernels take; a factor that is more than a number is
    left to us."""
    x, state, factor = call.input, plan.layout.state, neuron.factor
    shape = x.shape if call.single else x.shape[1:]
    values = [None if p is None else flat(p.to(x.device, state), shape)[0] for p in neuron.parameters()]
    if factor.numel() != 1 or factor.requires_grad:
        factor = torch.ones((), dtype=state, device=x.device)
    return *values, factor.to(x.device, state)


def _run_reference(neuron, call, reason=None):
    x, row = call.input, CELLS[neuron.cell]
    telling.tell(
        None, ("step by step: reference" if call.single else "reference") + (f", for {reason}" if reason else "")
    )
    if call.relu:
        x = x.relu()
    if call.single:
        x = x.unsqueeze(0)
    elif call.num_steps is not None:
        x = x.expand(call.num_steps, *x.shape[1:])
    states = {
        NAMES[name]: torch.zeros_like(x[0]) if state is None else state
        for name, state in zip(row.states, call.states, strict=True)
    }
    spk, rec = reference(neuron, x, states)
    names = [name for name in row.states if name != "spk"]
    states = [torch.stack(rec[NAMES[name]]) if name in call.record else rec[NAMES[name]][-1] for name in names]
    spk = spk.to(states[-1].dtype)
    return spk[0] if call.single else spk, *states


class LIFOutput(NamedTuple):
    """What :func:`lif_multistep` returns: the spikes ``[T, B, *]`` and the membrane (``[B, *]``, or ``[T, B, *]`` with
    ``record_mem=True``)."""

    spk: torch.Tensor
    mem: torch.Tensor


def which_impl(
    input_: Tensor,
    mem: Tensor | None = None,
    *,
    beta: Number,
    threshold: Number = 1.0,
    reset_mechanism: Reset = "subtract",
    spike_grad: SpikeGrad | None = None,
    spatial_adj: SpatialAdj = False,
    temporal_alpha: float = 0.0,
    graded_spikes_factor: Number = 1.0,
    record_mem: bool = False,
    num_steps: int | None = None,
    relu: bool = False,
    inplace: bool = False,
    save: Save | None = None,
    impl: ImplName = "auto",
) -> str:
    """Name the implementation that :func:`lif_multistep` runs for the same arguments.

    "auto" takes the kernels of the input's device, "triton" on CUDA (where Triton is installed) and "cpu" on the CPU, for
    every floating-point type and every surrogate; the reference elsewhere, and, outside of autocast, for a `mem` of
    another type than the input's, or a `beta` or `threshold` with dimensions of a wider one. (A surrogate of one's own
    that mixes neurons or steps, or draws at random, is found out when it runs, and goes to the reference then.)

    Returns:
        str: "reference", "cpu" or "triton".

    Raises:
        ValueError: `impl` is no member of :class:`Impl`.
        NotImplementedError: `impl` names an implementation that does not cover these arguments; the message says why.
    """
    neuron = lif(
        input_, beta, threshold, reset_mechanism, spike_grad, spatial_adj, temporal_alpha, graded_spikes_factor
    )
    check_flags(record_mem=record_mem)
    record = ("mem",) if record_mem else ()
    return plan_of(neuron, Call(input_, (mem,), num_steps, relu, inplace, record, save, impl)).impl


def lif_multistep(
    input_: Tensor,
    mem: Tensor | None = None,
    *,
    beta: Number,
    threshold: Number = 1.0,
    reset_mechanism: Reset = "subtract",
    spike_grad: SpikeGrad | None = None,
    spatial_adj: SpatialAdj = False,
    temporal_alpha: float = 0.0,
    graded_spikes_factor: Number = 1.0,
    record_mem: bool = False,
    num_steps: int | None = None,
    relu: bool = False,
    inplace: bool = False,
    save: Save | None = None,
    impl: ImplName = "auto",
) -> LIFOutput:
    r"""All time steps of a leaky integrate-and-fire layer, equal to the loop over ``Leaky.forward``.

    Spikes and membranes are the loop's to the bit with every implementation; gradients are with "reference", and agree to
    rounding with the kernels, which sum in another order. (In half precision the kernels hold the state in float32.)

    With :math:`\lambda` = `beta`, the "zero" reset of the paper and o the spikes,

    .. math::

        u[t] = \lambda (1 - o[t-1])\, u[t-1] + I[t], \qquad o[t] = [u[t] > u_{th}],

    and backward, with s the surrogate's derivative (1/u where it fired under `spatial_adj`, Eq. 9), G the gradient that
    reaches o and M the one that reaches u directly,

    .. math::

        \delta u[t] = s[t] G[t] + M[t] + \lambda\,\bigl((1 - o[t]) + \alpha s[t]\bigr)\,\delta u[t+1],
        \qquad \delta I[t] = \delta u[t].

    With "subtract" the factor in brackets is :math:`1 + \alpha s[t]`, since the host passes :math:`\lambda` across the
    spike already.

    Args:
        input_: current ``[T, B, *]``, floating point; T >= 1, at least two dimensions.
        mem: membrane before the first step, ``[B, *]``; None for zeros. A spike it implies resets the first step.
        beta: decay per step, clipped to [0, 1] as in the host; a number or a tensor that broadcasts to ``[B, *]``.
        threshold: u_th, same shapes; > 0 under `spatial_adj`.
        reset_mechanism: "subtract", "zero" or "none".
        spike_grad: surrogate of ``mem - threshold``; None for snnTorch's default (arc tangent).
        spatial_adj: BPSA, Eq. 9, in place of `spike_grad`; True, or with a leak below the threshold
            ``surrogate.spatial_adjustment(leak=0.1)``.
        temporal_alpha: BPTA, alpha of Eq. 10, in [-1, 1]; 0 is off, below 0 is outside the paper.
        graded_spikes_factor: the spikes are scaled by it.
        record_mem: return the membrane of every step instead of the last one's.
        num_steps: T for a constant current, `input_` of one step ``[1, B, *]``, which is then neither repeated in memory
            nor is its gradient.
        relu: rectify the current, as ``nn.ReLU`` in front would, without its memory.
        inplace: the spikes may take the memory of `input_`, as in ``nn.ReLU(inplace=True)``; do not use `input_` after.
            If the layer that made it needs it for its own backward pass, autograd raises its usual error.
        save: what the kernels keep for backward per neuron and step: "float32" (4 bytes; float64 for a float64 input),
            "bfloat16" (2 bytes) or, with `spatial_adj` and no leak, "compact" (1 bit, and 2 bytes for those who fired).
            None is "bfloat16" for half-precision inputs and "float32" for others. A learnable `beta`, a surrogate whose
            derivative can be negative or is one's own, and a record keep the membrane; "reference" what autograd keeps.
        impl: "auto", "reference", "cpu" or "triton".

    Returns:
        LIFOutput: ``spk [T, B, *]`` and ``mem``, both of the dtype of `input_`, or what `mem`, `beta` and `threshold` with
        dimensions promote it to; under autocast the kernels keep that of `input_`.

    Raises:
        ValueError: a value out of range, a shape that does not fit, NaN under ``torch.autograd.detect_anomaly``.
        TypeError: something of the wrong type.
        NotImplementedError: `impl` names an implementation that does not cover the arguments; see :func:`which_impl`.

    Example:
        >>> import torch, snntorch_bpsta as snn
        >>> out = snn.functional.lif_multistep(
        ...     torch.rand(16, 8, 100), beta=0.9, threshold=0.5, reset_mechanism="zero", spatial_adj=True,
        ...     temporal_alpha=0.8)
        >>> out.spk.shape, out.mem.shape
        (torch.Size([16, 8, 100]), torch.Size([8, 100]))

    References:
        Shen, Zhao, Zeng, Patterns 3(6), 2022, Eq. 2, 9 and 10.
    """
    neuron = lif(
        input_, beta, threshold, reset_mechanism, spike_grad, spatial_adj, temporal_alpha, graded_spikes_factor
    )
    check_flags(record_mem=record_mem)
    record = ("mem",) if record_mem else ()
    return LIFOutput(*multistep(neuron, Call(input_, (mem,), num_steps, relu, inplace, record, save, impl)))
