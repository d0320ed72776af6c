"""How a call of the engine is run: what it must be, and which implementation takes it. Found once for all calls that
are alike."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

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
from .._torch import has_hooks, is_autocast, is_compiling, is_exporting, is_transforming
from . import custom, operator, passes, recurrent
from .cells import CELLS
from .record import IMPLS, NAMES, SAVES, Call, Neuron

if TYPE_CHECKING:
    from collections.abc import Callable

try:
    _TRITON = tuple(map(int, version("triton").split(".")[:2])) >= (3, 4)  # with torch >= 2.8
except PackageNotFoundError:
    _TRITON = False
_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_TRITON_WINDOW = 32  # neurons of a window in Triton's smallest block
_MANY = 64  # plans of a neuron; more than these many kinds of call are checked anew


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
    reason: str | None = None  # what the kernels lack, where they were asked


def plan_of(neuron: Neuron, call: Call) -> Plan:
    """The plan of a call, checked and made at the first call of its kind."""
    x = call.input
    if is_compiling() or not isinstance(x, torch.Tensor) or torch.is_anomaly_enabled():
        return _make_plan(neuron, call)
    beta, threshold, alpha, v = neuron.beta, neuron.threshold, neuron.alpha, neuron.v
    key = [
        x.shape, x.stride(), x.dtype, x.device, x.requires_grad, torch.is_grad_enabled(), is_transforming(), call[2:],
        beta.requires_grad, threshold.requires_grad, alpha is not None and alpha.requires_grad,
        v is not None and v.requires_grad, neuron.factor.requires_grad, is_autocast(x),
    ]  # fmt: skip
    for state in call.states:
        if isinstance(state, torch.Tensor):
            key += (state.shape, state.dtype, state.device, state.requires_grad)
        else:
            key.append(state)
    if neuron.recurrence is not None:
        key.append(has_hooks(neuron.recurrence))
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


def _run_custom(neuron, t, plan):
    return custom.run(neuron, t, plan.constants, plan.layout)


def _run_recurrent(neuron, t, plan):
    return recurrent.run(neuron.recurrence, t, plan.constants)


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
        return Plan(impl, reason=reason)
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
    inner = [1 if p is None else flat(p, shape)[1] for p in neuron.parameters()]
    scalar = all(p is None or p.numel() == 1 for p in tensors)
    steps = 1 if call.single else call.num_steps or x.shape[0]
    dense = _dense(x, call.single, any_order=scalar)
    run = _run_custom if known is None else _run_recurrent if neuron.recurrence is not None else None
    pool = call.pool if run is None and _pools(neuron, call, impl) else None
    window = () if pool is None else (*pool.window, 1 if x.is_contiguous() or not dense else x.shape[2])
    constants = passes.Constants(
        neuron.cell, neuron.reset_mechanism, prompt, number, p0, p1, neuron.residual, call.single, steps, inner,
        call.relu and save != "membrane" and neuron.recurrence is None, save, sorted(record), True, impl,
        pool.kind if pool else "", window,
    )  # fmt: skip
    given = [NAMES[name] for name in row.states]
    layout = passes.layout(passes.Tensors(x if dense else x.contiguous(), *[None] * 10), constants)
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
    if not is_autocast(x):  # there the kernels keep the input's type
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
    if CELLS[neuron.cell].recurrent and (neuron.factor.numel() != 1 or neuron.factor.requires_grad):
        return "spikes that are fed back with a factor that learns or is no single number"
    if neuron.recurrence is not None:
        reason = recurrent.not_covered(neuron, call)
        if reason:
            return reason
    if known is None and (is_compiling() or half or not operator.is_eager(x)):
        return f"the surrogate {neuron.spike_grad}" + (" under torch.compile" if is_compiling() else f" with {x.dtype}")
    if call.save == "compact" and known != (surrogate.SPATIAL_ADJUSTMENT, 0.0, 0.0):
        return "save='compact' without spatial_adj, or with a leak: such derivatives are not 0 where no spike is"
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


def _pools(neuron, call, impl):
    """Whether the kernels pool the spikes of this call themselves."""
    if call.pool is None or (impl == "triton" and prod(call.pool.window) > _TRITON_WINDOW):
        return False
    x, factor = call.input, neuron.factor
    known = (
        (impl == "triton" or x.dtype in (torch.float32, torch.float64))
        and factor.numel() == 1
        and not factor.requires_grad
    )
    return known and x.dim() == 5 and x.shape[3] >= call.pool.window[0] and x.shape[4] >= call.pool.window[1]


def flat(value: torch.Tensor, step_shape: tuple[int, ...]) -> tuple[torch.Tensor, int]:
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
    return value.reshape(-1).contiguous(), prod(step_shape[last:])


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
