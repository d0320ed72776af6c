"""The door to all time steps of a layer: checks, chooses the implementation, runs it."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple
from warnings import warn

import torch

from .. import surrogate
from .._checks import (
    check_broadcast,
    check_choice,
    check_current,
    check_device,
    check_flags,
    check_positive_int,
    check_some_steps,
    check_state,
)
from .._torch import is_compiling, is_exporting, is_transforming
from . import custom, operator, passes, recurrent
from .cells import CELLS
from .record import IMPLS, NAMES, SAVES, Call, Neuron, lif
from .reference import reference

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from .._typing import Number, Reset, Save, SpikeGrad
    from .record import ImplName

try:
    _TRITON = tuple(map(int, version("triton").split(".")[:2])) >= (3, 4)  # with torch >= 2.8
except PackageNotFoundError:
    _TRITON = False
_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_MANY = 64  # plans of a neuron; more than these many kinds of call are checked anew
_said: set[str] = set()


class Plan(NamedTuple):
    """How a call is run; found once for all calls that are alike."""

    impl: str
    constants: passes.Constants | None = None  # of the kernels, None for the reference
    layout: passes.Layout | None = None
    run: Callable[..., Any] | None = None
    dense: bool = True  # the kernels can take the current as it lies
    direct: bool = True  # and the parameters, and the spikes' factor, which is one number without a gradient
    given: tuple[int, ...] = ()  # places of mem, syn, inh and fed among the states of the call, -1 for none
    returned: tuple[tuple[int, bool], ...] = ()  # places of the states among the outputs; of each the last step alone?
    rectify: bool = False  # the kernels leave the ReLU to us


def multistep(neuron: Neuron, call: Call) -> tuple[Tensor, ...]:
    """All steps of a layer: the spikes ``[T, B, *]`` and its states in snnTorch's order (without `spk`): the last ones
    ``[B, *]`` or, where `call.record` names one, those of every step.

    Raises:
        ValueError, TypeError: a tensor of `call` that does not go with the neuron.
        NotImplementedError: `call.impl` names an implementation that does not cover the call.
    """
    plan = plan_of(neuron, call)
    if plan.constants is None:
        return _run_reference(neuron, call)
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
    t = passes.Tensors(x, *states, *parameters)
    if plan.run is None:
        outputs = operator.run(t, plan.constants, plan.layout, inplace and plan.constants.num_steps == len(x))
    else:
        outputs = plan.run(neuron, t, plan)
    if outputs is None:
        if call.impl != "auto":
            raise NotImplementedError(
                f"impl={str(call.impl)!r} does not cover {custom.REASON}; use 'auto' or 'reference'"
            )
        say_loop(neuron.cell, custom.REASON)
        return _run_reference(neuron, call)
    result = [outputs[0]]
    for place, last in plan.returned:
        result.append(outputs[place][-1] if last else outputs[place])
    if not plan.direct and (neuron.factor.numel() != 1 or neuron.factor.requires_grad):
        result[0] = (result[0] * neuron.factor).to(result[0].dtype)
    return tuple(result)


def _run_custom(neuron, t, plan):
    return custom.run(neuron, t, plan.constants, plan.layout)


def _run_recurrent(neuron, t, plan):
    return recurrent.run(neuron.recurrence, t, plan.constants)


def say_loop(name: str, reason: str) -> None:
    """Tell once that "auto" takes the loop, and why."""
    text = f"{name} runs as a loop over time, which is slow: the kernels do not cover {reason}"
    if text not in _said:
        _said.add(text)
        warn(text + " (impl='reference' says that this is meant)", stacklevel=3)


def plan_of(neuron: Neuron, call: Call) -> Plan:
    """The plan of a call, checked and made at the first call of its kind."""
    x = call.input
    if is_compiling() or not isinstance(x, torch.Tensor) or torch.is_anomaly_enabled():
        return _make_plan(neuron, call)
    beta, threshold, alpha, v = neuron.beta, neuron.threshold, neuron.alpha, neuron.v
    key = [
        x.shape, x.stride(), x.dtype, x.device, x.requires_grad, torch.is_grad_enabled(), is_transforming(), call[2:],
        beta.requires_grad, threshold.requires_grad, alpha is not None and alpha.requires_grad,
        v is not None and v.requires_grad, neuron.factor.requires_grad, torch.is_autocast_enabled(x.device.type),
    ]  # fmt: skip
    for state in call.states:
        if isinstance(state, torch.Tensor):
            key += (state.shape, state.dtype, state.device, state.requires_grad)
        else:
            key.append(state)
    key = tuple(key)
    try:
        plan = neuron.plans.get(key)
    except TypeError:  # something that cannot be a key, and is refused
        return _make_plan(neuron, call)
    if plan is None:
        plan = _make_plan(neuron, call)
        if not torch.jit.is_tracing():
            if len(neuron.plans) >= _MANY:
                neuron.plans.clear()
            neuron.plans[key] = plan
    return plan


def _make_plan(neuron, call):
    row = CELLS[neuron.cell]
    _check(neuron, call, row)
    names = [name for name in row.states if name != "spk"]
    reason = None
    impl = str(call.impl)
    if impl != "reference":
        kernels = impl if impl != "auto" else "triton" if call.input.is_cuda else "cpu"
        reason = _not_covered(kernels, neuron, call)
        if reason and impl != "auto":
            raise NotImplementedError(f"impl={impl!r} does not cover {reason}; use 'auto' or 'reference'")
        impl = "reference" if reason else kernels
    if impl == "reference":
        return Plan(impl)
    known, x = neuron.kernel, call.input
    state = passes.compute_dtype(x.dtype)
    tensors = (neuron.beta, neuron.alpha, neuron.threshold, neuron.v)
    learns = [p is not None and p.requires_grad for p in tensors]
    grad = torch.is_grad_enabled() and (
        x.requires_grad or any(learns) or any(s is not None and s.requires_grad for s in call.states)
        or (neuron.recurrence is not None and any(p.requires_grad for p in neuron.recurrence.parameters()))
        or known is None
    )  # fmt: skip
    record = {NAMES[name] for name in call.record} if not call.single else set()
    prompt = not neuron.reset_delay and neuron.reset_mechanism != "none"
    if not grad:
        save = "none"
    elif (
        known is None or known[0] == surrogate.TRIANGULAR or learns[0] or prompt or (row.alpha and learns[1])
        or ("mem" in record and x.dtype == state)
    ):  # fmt: skip
        save = "membrane"
        record |= {"mem"} if prompt and not call.single else set()
    else:
        save = call.save or ("float32" if x.dtype == state else "bfloat16")
    if grad and not call.single and (learns[1] or (row.alpha and learns[0])):
        record |= {"syn", "inh"} if row.alpha else {"syn"}
    number, p0, p1 = known or (-1, 0.0, 0.0)
    factor = neuron.factor
    direct = not row.alpha and not any(learns) and factor.numel() == 1 and not factor.requires_grad
    for value in (*tensors, factor):
        if value is not None:
            direct = direct and value.numel() == 1 and value.dtype == state and value.device == x.device
    shape = x.shape if call.single else x.shape[1:]
    inner = [1 if p is None else _flat(p, shape)[1] for p in neuron.parameters()]
    scalar = all(p is None or p.numel() == 1 for p in tensors)
    steps = 1 if call.single else call.num_steps or len(x)
    constants = passes.Constants(
        neuron.cell, neuron.reset_mechanism, prompt, number, p0, p1, neuron.residual, call.single, steps, inner,
        call.relu and save != "membrane" and neuron.recurrence is None, save, sorted(record), True, impl,
    )  # fmt: skip
    dense = _dense(x, call.single, any_order=scalar)
    given = [NAMES[name] for name in row.states]
    layout = passes.layout(passes.Tensors(x if dense else x.contiguous(), *[None] * 10), constants)
    run = _run_custom if known is None else _run_recurrent if neuron.recurrence is not None else None
    return Plan(
        impl, constants, layout, run, dense, direct,
        tuple(given.index(name) if name in given else -1 for name in passes.STATES),
        tuple((1 + layout.outputs.index(NAMES[name]), NAMES[name] in record and name not in call.record) for name in names),
        call.relu and not constants.relu,
    )  # fmt: skip


def _check(neuron, call, row):
    """What one call asks, against the neuron."""
    x, single = call.input, call.single
    check_current(x, 0 if single else 2, "[B, *]" if single else "[T, B, *]")
    check_flags(relu=call.relu, inplace=call.inplace)
    names = tuple(name for name in row.states if name != "spk")
    if not isinstance(call.record, tuple) or not all(name in names for name in call.record):
        raise ValueError(f"record must be a tuple of states of {neuron.cell}, of {names}, got {call.record!r}")
    check_choice("save", call.save, SAVES)
    check_choice("impl", call.impl, IMPLS)
    if not single:
        check_some_steps(x)
    if call.num_steps is not None:
        check_positive_int("num_steps", call.num_steps)
        if x.shape[0] not in (1, call.num_steps):
            raise ValueError(f"num_steps={call.num_steps} holds a current of one step, got shape {tuple(x.shape)}")
    shape = x.shape if single else x.shape[1:]
    for name, state in zip(row.states, call.states, strict=True):
        if state is not None:
            check_state(name, state, shape)
            check_device(name, state, x.device)
    values = {
        "beta": neuron.beta,
        "threshold": neuron.threshold,
        "graded_spikes_factor": neuron.factor,
        "alpha": neuron.alpha,
    }
    for name, value in (values | {"V": neuron.v}).items():
        if value is not None:
            check_broadcast(name, value, shape)
            check_device(name, value, x.device)


def _not_covered(kernels, neuron, call):
    """What these kernels lack for this call, or None."""
    x, known = call.input, neuron.kernel
    if kernels == "triton":
        if not _TRITON:
            return "this machine: no Triton >= 3.4 is installed"
        if not (x.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"):
            return f"the device {x.device}"
    elif x.device.type != "cpu":
        return f"the device {x.device}"
    if is_exporting():
        return "an export to ONNX or TorchScript, which knows no kernels of ours"
    if not is_compiling() and is_transforming():
        return "the transforms of torch.func"
    if x.dtype not in _FLOATS:
        return f"{x.dtype}"
    half = x.dtype not in (torch.float32, torch.float64)
    if not torch.is_autocast_enabled(x.device.type):  # there the kernels keep the input's type
        for name, state in zip(CELLS[neuron.cell].states, call.states, strict=True):
            if state is not None and state.dtype != x.dtype:
                return f"{name} of {state.dtype} with an input of {x.dtype}"
        for name, value in (
            ("beta", neuron.beta),
            ("threshold", neuron.threshold),
            ("alpha", neuron.alpha),
            ("V", neuron.v),
        ):
            if value is not None and value.dim() > 0 and torch.promote_types(x.dtype, value.dtype) != x.dtype:
                return f"{name} of {value.dtype} with an input of {x.dtype}"
    if not neuron.reset_delay and half:
        return f"reset_delay=False with an input of {x.dtype}"
    if neuron.recurrence is not None:
        reason = recurrent.not_covered(neuron, call)
        if reason:
            return reason
    if known is None and (is_compiling() or half or not operator.is_eager(x)):
        return f"the surrogate {neuron.spike_grad}" + (" under torch.compile" if is_compiling() else f" with {x.dtype}")
    if call.save == "compact" and known != (surrogate.SPATIAL_ADJUSTMENT, 0.0, 0.0):
        return "save='compact' without spatial_adj: other surrogates have a derivative where no spike is"
    if call.save == "compact" and is_compiling():
        return "save='compact' under torch.compile: its size depends on the spikes"
    if call.save in ("bfloat16", "compact"):
        if x.dtype == torch.float64:
            return f"save={call.save!r} with a float64 input"
        if known is None or known[0] == surrogate.TRIANGULAR or neuron.beta.requires_grad or not neuron.reset_delay:
            return (
                f"save={call.save!r} with a learnable beta, reset_delay=False, or a surrogate that needs the membrane"
            )
    return None


def _parameters(neuron, call, plan):
    """The parameters and the spikes' factor in the form that the kernels take; a factor that is more than a number is left to us."""
    x, state, factor = call.input, plan.layout.state, neuron.factor
    shape = x.shape if call.single else x.shape[1:]
    values = [None if p is None else _flat(p.to(x.device, state), shape)[0] for p in neuron.parameters()]
    if factor.numel() != 1 or factor.requires_grad:
        factor = torch.ones((), dtype=state, device=x.device)
    return *values, factor.to(x.device, state)


def _flat(value, step_shape):
    """`value` as a vector p, and the number of neighbours that share an element: ``p[(neuron // inner) % len(p)]``."""
    if value.numel() == 1:
        return value, 1
    own = (1,) * (len(step_shape) - value.dim()) + tuple(value.shape)
    wide = [dim for dim, size in enumerate(own) if size != 1]
    if not wide:
        return value.reshape(-1), 1
    first, last = wide[0], wide[-1] + 1
    if own[first:last] != tuple(step_shape[first:last]):
        return value.reshape(own[first:]).expand(step_shape[first:]).reshape(-1), 1
    return value.reshape(-1), prod(step_shape[last:])


def _dense(x, single, any_order):
    """Whether the kernels can take `x` as it lies: one step after the other, each without gaps."""
    if x.is_contiguous():
        return True
    if not any_order:
        return False
    if single:
        return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    if x.dim() != 5 or x.stride(0) != prod(x.shape[1:]):
        return False
    return x[0].is_contiguous(memory_format=torch.channels_last)


def _run_reference(neuron, call):
    x, row = call.input, CELLS[neuron.cell]
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
    spatial_adj: bool = False,
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
    every floating-point type and every surrogate of snnTorch with a closed-form derivative; the reference elsewhere, and,
    outside of autocast, for a `mem` of another type than the input's, or a `beta` or `threshold` with dimensions of a wider
    one.

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
    spatial_adj: bool = False,
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
        spatial_adj: BPSA, Eq. 9, in place of `spike_grad`.
        temporal_alpha: BPTA, alpha in [0, 1] of Eq. 10; 0 is off.
        graded_spikes_factor: the spikes are scaled by it.
        record_mem: return the membrane of every step instead of the last one's.
        num_steps: T for a constant current, `input_` of one step ``[1, B, *]``, which is then neither repeated in memory
            nor is its gradient.
        relu: rectify the current, as ``nn.ReLU`` in front would, without its memory.
        inplace: the spikes may take the memory of `input_`, as in ``nn.ReLU(inplace=True)``; do not use `input_` after.
            If the layer that made it needs it for its own backward pass, autograd raises its usual error.
        save: what the kernels keep for backward per neuron and step: "float32" (4 bytes; float64 for a float64 input),
            "bfloat16" (2 bytes) or, with `spatial_adj`, "compact" (1 bit, and 2 bytes for those who fired). None is
            "bfloat16" for half-precision inputs and "float32" for others. "reference" keeps what autograd keeps.
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
