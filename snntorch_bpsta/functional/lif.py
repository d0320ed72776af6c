"""The door to all time steps of a leaky integrate-and-fire layer: documents, checks, chooses the implementation."""

from enum import Enum
from typing import NamedTuple

import torch

from .. import surrogate
from .._validation import (
    check_broadcast,
    check_choice,
    check_current,
    check_mem,
    check_spatial_adj,
    check_temporal_alpha,
    check_threshold_positive,
)
from ._reference import lif_reference


class Impl(str, Enum):
    """Implementations of :func:`lif_multistep`. A named one runs or raises; there is no silent fallback."""

    AUTO = "auto"
    REFERENCE = "reference"
    CPU = "cpu"
    TRITON = "triton"


class LIFOutput(NamedTuple):
    """What :func:`lif_multistep` returns: the spikes ``[T, B, *]`` and the membrane (``[B, *]``, or ``[T, B, *]`` with
    ``record_mem=True``)."""

    spk: torch.Tensor
    mem: torch.Tensor


DEFAULT_SPIKE_GRAD = surrogate.ArcTangent()


def which_impl(
    input_,
    mem=None,
    *,
    beta,
    threshold=1.0,
    spike_grad=None,
    spatial_adj=False,
    record_mem=False,
    impl="auto",
    **others,
):
    """Name the implementation that :func:`lif_multistep` runs for the same arguments.

    "auto" takes the CPU kernels for a float32 or float64 `input_` on the CPU with one number for `beta` and for `threshold`
    that need no gradient, `mem` of the input's dtype, the surrogate `spatial_adj`, ``rectangle`` or ``ArcTangent`` (the
    default), and no `record_mem`; the reference for everything else.

    Returns:
        str: "reference" or "cpu".

    Raises:
        ValueError: `impl` is no member of :class:`Impl`.
        NotImplementedError: `impl` names an implementation that does not cover these arguments; the message says why.
    """
    check_choice("impl", impl, [member.value for member in Impl])
    impl = Impl(impl)
    if impl is Impl.REFERENCE:
        return impl.value
    if impl is Impl.TRITON:
        raise NotImplementedError("impl='triton' is not part of this version; use 'auto', 'cpu' or 'reference'")
    reason = _not_covered(input_, mem, beta, threshold, spike_grad, spatial_adj, record_mem)
    if impl is Impl.CPU and reason:
        raise NotImplementedError(f"impl='cpu' does not cover {reason}; use 'auto' or 'reference'")
    return Impl.REFERENCE.value if reason else Impl.CPU.value


def surrogate_id(spike_grad, threshold):
    """(number, parameter) of a surrogate that the kernels know, else None."""
    if spike_grad is None:
        spike_grad = DEFAULT_SPIKE_GRAD
    if isinstance(spike_grad, surrogate.SpatialAdjustment):
        numbers = not isinstance(threshold, torch.Tensor) and not isinstance(spike_grad.threshold, torch.Tensor)
        if spike_grad.threshold is threshold or (numbers and spike_grad.threshold == threshold):
            return 0, 1.0
    if isinstance(spike_grad, surrogate.Rectangle):
        return 1, spike_grad.width
    if isinstance(spike_grad, surrogate.ArcTangent):
        return 2, spike_grad.alpha
    return None


def _not_covered(input_, mem, beta, threshold, spike_grad, spatial_adj, record_mem):
    """What the CPU kernels lack for these arguments, or None."""
    if input_.device.type != "cpu":
        return f"the device {input_.device}"
    if input_.dtype not in (torch.float32, torch.float64):
        return f"{input_.dtype}"
    if mem is not None and mem.dtype != input_.dtype:
        return f"a membrane of {mem.dtype} with an input of {input_.dtype}"
    for name, value in (("beta", beta), ("threshold", threshold)):
        if isinstance(value, torch.Tensor) and (value.dim() or value.requires_grad):
            return f"a per-neuron or learnable {name}"
    if record_mem:
        return "record_mem=True"
    if not spatial_adj and surrogate_id(spike_grad, threshold) is None:
        return f"the surrogate {spike_grad}"
    return None


def lif_multistep(
    input_,
    mem=None,
    *,
    beta,
    threshold=1.0,
    reset_mechanism="subtract",
    spike_grad=None,
    spatial_adj=False,
    temporal_alpha=0.0,
    graded_spikes_factor=1.0,
    record_mem=False,
    impl="auto",
):
    r"""All time steps of a leaky integrate-and-fire layer, equal to the loop over ``Leaky.forward``.

    Spikes and membranes are the loop's to the bit with every implementation; gradients are with "reference", and agree to
    rounding with the kernels, which sum in another order.


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
        impl: "auto", "reference", "cpu" or "triton".

    Returns:
        LIFOutput: ``spk [T, B, *]`` and ``mem``. Membranes follow PyTorch's promotion of `input_` with `beta`; spikes
        keep the membrane's dtype with our surrogates, and are float32 with the host's.

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
    check_current(input_, 2, "[T, B, *]")
    if input_.shape[0] == 0:
        raise ValueError(f"input_ must hold at least one time step, got shape {tuple(input_.shape)}")
    step_shape = input_.shape[1:]
    check_choice("reset_mechanism", reset_mechanism, ("subtract", "zero", "none"))
    check_spatial_adj(spatial_adj, spike_grad)
    temporal_alpha = check_temporal_alpha(temporal_alpha, reset_mechanism)
    if mem is not None:
        check_mem(mem, step_shape)
    options = {"spike_grad": spike_grad, "spatial_adj": spatial_adj, "record_mem": record_mem}
    impl = which_impl(input_, mem, beta=beta, threshold=threshold, impl=impl, **options)
    known = (0, 1.0) if spatial_adj else surrogate_id(spike_grad, threshold)
    beta, threshold = _as_parameter("beta", beta, input_), _as_parameter("threshold", threshold, input_)
    graded_spikes_factor = _as_parameter("graded_spikes_factor", graded_spikes_factor, input_)
    if mem is None:
        mem = torch.zeros_like(input_[0])
    if spatial_adj:
        check_threshold_positive(threshold)
        spike_grad = surrogate.SpatialAdjustment._unchecked(threshold)
    elif spike_grad is None:
        spike_grad = DEFAULT_SPIKE_GRAD
    if impl == Impl.CPU:
        from ._cpu import lif_cpu

        spk, mem = lif_cpu(input_, mem, beta, threshold, reset_mechanism, spike_grad, known, temporal_alpha)
        return LIFOutput(_graded(spk, graded_spikes_factor), mem)
    spk, mem_rec = lif_reference(
        input_, mem, beta, threshold, reset_mechanism, spike_grad, temporal_alpha, graded_spikes_factor
    )
    return LIFOutput(spk, torch.stack(mem_rec) if record_mem else mem_rec[-1])


def _graded(spk, factor):
    """`spk` scaled by `factor`, with no pass over memory where that is the number 1."""
    return spk if not factor.requires_grad and factor.dim() == 0 and factor == 1 else spk * factor


def _as_parameter(name, value, input_):
    """`value` as a tensor that broadcasts to one step of `input_`."""
    if not isinstance(value, torch.Tensor):
        try:
            value = torch.as_tensor(value, device=input_.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"{name} must be a number or a tensor, got {type(value).__name__}") from error
    check_broadcast(name, value, input_.shape[1:])
    return value
