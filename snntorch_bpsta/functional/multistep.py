"""The door to all time steps of a leaky integrate-and-fire layer: documents, checks, chooses the implementation."""

from __future__ import annotations

import os
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from math import prod
from typing import TYPE_CHECKING, NamedTuple

import torch

from .. import surrogate
from .._checks import (
    as_parameter,
    check_broadcast,
    check_choice,
    check_current,
    check_device,
    check_flags,
    check_positive_int,
    check_some_steps,
    check_spatial_adj,
    check_state,
    check_surrogate,
    check_temporal_alpha,
    check_threshold_positive,
)
from .._torch import is_compiling, is_exporting, is_transforming
from . import operator
from .reference import lif_reference

if TYPE_CHECKING:
    from torch import Tensor

    from .._typing import ImplName, Number, Reset, Save, SpikeGrad


class Impl(str, Enum):
    """Implementations of :func:`lif_multistep`. A named one runs or raises; there is no silent fallback."""

    AUTO = "auto"
    REFERENCE = "reference"
    CPU = "cpu"
    TRITON = "triton"

    __str__ = str.__str__


class LIFOutput(NamedTuple):
    """What :func:`lif_multistep` returns: the spikes ``[T, B, *]`` and the membrane (``[B, *]``, or ``[T, B, *]`` with
    ``record_mem=True``)."""

    spk: torch.Tensor
    mem: torch.Tensor


DEFAULT_SPIKE_GRAD = surrogate.ArcTangent()
SPATIAL = (surrogate.SPATIAL_ADJUSTMENT, 0.0, 0.0)
try:
    _TRITON = tuple(map(int, version("triton").split(".")[:2])) >= (3, 4)  # with torch >= 2.8
except PackageNotFoundError:
    _TRITON = False
IMPLS = tuple(str(member) for member in Impl)
SAVES = (None, "float32", "bfloat16", "compact")


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
    return _checked(
        input_, mem, beta, threshold, reset_mechanism, spike_grad, spatial_adj, temporal_alpha, graded_spikes_factor,
        record_mem, num_steps, relu, inplace, save, impl,
    )[0]  # fmt: skip


def _checked(
    input_, mem, beta, threshold, reset_mechanism, spike_grad, spatial_adj, temporal_alpha, graded_spikes_factor, record_mem,
    num_steps, relu, inplace, save, impl,
):  # fmt: skip
    """The checks at the door. Returns the implementation, the surrogate as the kernels number it (or None), alpha as a
    number, and beta, threshold and factor as tensors."""
    check_current(input_, 2, "[T, B, *]")
    check_some_steps(input_)
    check_flags(record_mem=record_mem, relu=relu, inplace=inplace)
    if num_steps is not None:
        check_positive_int("num_steps", num_steps)
        if input_.shape[0] not in (1, num_steps):
            raise ValueError(f"num_steps={num_steps} holds a current of one step, got shape {tuple(input_.shape)}")
    check_choice("reset_mechanism", reset_mechanism, ("subtract", "zero", "none"))
    check_choice("save", save, SAVES)
    check_choice("impl", impl, IMPLS)
    check_surrogate("spike_grad", spike_grad)
    check_spatial_adj(spatial_adj, spike_grad)
    temporal_alpha = check_temporal_alpha(temporal_alpha, reset_mechanism)
    if mem is not None:
        check_state("mem", mem, input_.shape[1:])
        check_device("mem", mem, input_.device)
    values = {"beta": beta, "threshold": threshold, "graded_spikes_factor": graded_spikes_factor}
    for name, value in values.items():
        values[name] = value = as_parameter(name, value, input_.device)
        check_broadcast(name, value, input_.shape[1:])
        check_device(name, value, input_.device)
    if spatial_adj:
        check_threshold_positive(values["threshold"])
        known = SPATIAL
    else:
        known = surrogate.kernel_surrogate(DEFAULT_SPIKE_GRAD if spike_grad is None else spike_grad, threshold)
    impl = _choose(input_, mem, values["beta"], values["threshold"], known, spike_grad, save, impl)
    return impl, known, temporal_alpha, *values.values()


def _choose(input_, mem, beta, threshold, known, spike_grad, save, impl):
    if impl == "reference":
        return "reference"
    kernels = impl if impl != "auto" else "triton" if input_.is_cuda else "cpu"
    reason = _not_covered(kernels, input_, mem, beta, threshold, known, spike_grad, save)
    if impl == "auto":
        return "reference" if reason else str(kernels)
    if reason:
        raise NotImplementedError(f"impl={str(kernels)!r} does not cover {reason}; use 'auto' or 'reference'")
    return str(kernels)


def _not_covered(kernels, input_, mem, beta, threshold, known, spike_grad, save):
    """What these kernels lack for these arguments, or None."""
    if kernels == "triton":
        if not _TRITON:
            return "this machine: no Triton >= 3.4 is installed"
        if not (input_.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"):
            return f"the device {input_.device}"
    elif input_.device.type != "cpu":
        return f"the device {input_.device}"
    if is_exporting():
        return "an export to ONNX or TorchScript, which knows no kernels of ours"
    if not is_compiling() and is_transforming():
        return "the transforms of torch.func"
    if input_.dtype not in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        return f"{input_.dtype}"
    if not torch.is_autocast_enabled(input_.device.type):  # there the kernels keep the input's type
        if mem is not None and mem.dtype != input_.dtype:
            return f"mem of {mem.dtype} with an input of {input_.dtype}"
        for name, value in (("beta", beta), ("threshold", threshold)):
            wide = isinstance(value, torch.Tensor) and value.dim() > 0
            if wide and torch.promote_types(input_.dtype, value.dtype) != input_.dtype:
                return f"{name} of {value.dtype} with an input of {input_.dtype}"
    if known is None:
        return f"the surrogate {spike_grad}"
    if save == "compact" and known != SPATIAL:
        return "save='compact' without spatial_adj: other surrogates have a derivative where no spike is"
    if save == "compact" and is_compiling():
        return "save='compact' under torch.compile: its size depends on the spikes"
    if save in ("bfloat16", "compact"):
        if input_.dtype == torch.float64:
            return f"save={save!r} with a float64 input"
        if known[0] == surrogate.TRIANGULAR or (isinstance(beta, torch.Tensor) and beta.requires_grad):
            return f"save={save!r} with a learnable beta or the triangular surrogate, which need the membrane"
    return None


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
    impl, known, temporal_alpha, beta, threshold, graded_spikes_factor = _checked(
        input_, mem, beta, threshold, reset_mechanism, spike_grad, spatial_adj, temporal_alpha, graded_spikes_factor,
        record_mem, num_steps, relu, inplace, save, impl,
    )  # fmt: skip
    if impl == "reference":
        if spatial_adj:
            spike_grad = surrogate.SpatialAdjustment._unchecked(threshold)
        if relu:
            input_ = input_.relu()
        if num_steps is not None:
            input_ = input_.expand(num_steps, *input_.shape[1:])
        spk, mem_rec = lif_reference(
            input_, torch.zeros_like(input_[0]) if mem is None else mem, beta, threshold, reset_mechanism,
            DEFAULT_SPIKE_GRAD if spike_grad is None else spike_grad, temporal_alpha, graded_spikes_factor,
        )  # fmt: skip
        mem = torch.stack(mem_rec) if record_mem else mem_rec[-1]
        return LIFOutput(spk.to(mem.dtype), mem)
    # One number without a gradient is what the kernels write where a neuron fires; other factors take a pass of their own.
    inside = graded_spikes_factor.numel() == 1 and not graded_spikes_factor.requires_grad
    factor = graded_spikes_factor.reshape(1) if inside else input_.new_ones(1)
    spk, mem = _run_kernels(
        input_, mem, beta.clamp(0, 1), threshold, factor, operator.RESETS[reset_mechanism], known, temporal_alpha,
        record_mem, num_steps or input_.shape[0], relu, inplace, save, impl,
    )  # fmt: skip
    return LIFOutput(spk if inside else (spk * graded_spikes_factor).to(spk.dtype), mem)


def _run_kernels(
    input_, mem, beta, threshold, factor, reset, known, alpha, record_mem, num_steps, relu, inplace, save, impl
):
    """Choose what to keep for backward, bring everything into the form of ``operator.py``, and run it."""
    state, step_shape = operator.compute_dtype(input_.dtype), input_.shape[1:]
    if not torch.is_grad_enabled() or not any(
        x is not None and x.requires_grad for x in (input_, mem, beta, threshold)
    ):
        save = "none"
    elif beta.requires_grad or known[0] == surrogate.TRIANGULAR or (record_mem and input_.dtype == state):
        save = "membrane"
        if relu:  # a word that holds the membrane has no bit to spare
            input_, relu, inplace = input_.relu(), False, False
    elif save is None:
        save = "float32" if input_.dtype == state else "bfloat16"
    beta, beta_inner = _flat_parameter(beta.to(input_.device, state), step_shape)
    threshold, threshold_inner = _flat_parameter(threshold.to(input_.device, state), step_shape)
    if not _dense(input_, any_order=len(beta) == len(threshold) == 1):
        input_ = input_.contiguous()
    options = (
        mem, beta, threshold, factor.to(input_.device, state), num_steps, beta_inner, threshold_inner, *known, reset, alpha,
        relu, save, record_mem, True, impl,
    )  # fmt: skip
    return operator.lif(input_, *options, inplace=inplace and num_steps == input_.shape[0])


def _flat_parameter(value, step_shape):
    """`value` as a vector p, and the number of neighbours that share an element: ``p[(neuron // inner) % len(p)]``."""
    own = (1,) * (len(step_shape) - value.dim()) + tuple(value.shape)
    wide = [dim for dim, size in enumerate(own) if size != 1]
    if not wide:
        return value.reshape(1), 1
    first, last = wide[0], wide[-1] + 1
    if own[first:last] != tuple(step_shape[first:last]):
        return value.reshape(own[first:]).expand(step_shape[first:]).reshape(-1), 1
    return value.reshape(-1), prod(step_shape[last:])


def _dense(input_, any_order):
    """Whether the kernels can take `input_` as it lies: one step after the other, each without gaps."""
    if input_.is_contiguous():
        return True
    if not any_order or input_.dim() != 5 or input_.stride(0) != prod(input_.shape[1:]):
        return False
    return input_[0].is_contiguous(memory_format=torch.channels_last)
