"""The door to all time steps of a leaky integrate-and-fire layer: documents, checks, chooses the implementation."""

from enum import Enum
from typing import NamedTuple

import snntorch
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


_host_default = snntorch.surrogate.atan()


def default_spike_grad(x):
    """snnTorch's default surrogate (arc tangent), as a function that can be pickled."""
    return _host_default(x)


def which_impl(impl="auto"):
    """Name the implementation that :func:`lif_multistep` runs for `impl`.

    Returns:
        str: ``"reference"``, the only one so far; kernels for the CPU and CUDA are the next step of the project.

    Raises:
        ValueError: `impl` is no member of :class:`Impl`.
        NotImplementedError: `impl` names an implementation that this version does not have.
    """
    check_choice("impl", impl, [member.value for member in Impl])
    if impl in (Impl.CPU, Impl.TRITON):
        raise NotImplementedError(f"impl={Impl(impl).value!r} is not part of this version; use 'auto' or 'reference'")
    return Impl.REFERENCE.value


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
    r"""All time steps of a leaky integrate-and-fire layer, equal to the loop over ``Leaky.forward`` to the bit.

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
        NotImplementedError: `impl` names a kernel that this version does not have.

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
    which_impl(impl)
    check_current(input_, 2, "[T, B, *]")
    if input_.shape[0] == 0:
        raise ValueError(f"input_ must hold at least one time step, got shape {tuple(input_.shape)}")
    step_shape = input_.shape[1:]
    check_choice("reset_mechanism", reset_mechanism, ("subtract", "zero", "none"))
    check_spatial_adj(spatial_adj, spike_grad)
    temporal_alpha = check_temporal_alpha(temporal_alpha, reset_mechanism)
    beta, threshold = _as_parameter("beta", beta, input_), _as_parameter("threshold", threshold, input_)
    if mem is None:
        mem = torch.zeros_like(input_[0])
    check_mem(mem, step_shape)
    if spatial_adj:
        check_threshold_positive(threshold)
        spike_grad = surrogate.SpatialAdjustment._unchecked(threshold)
    elif spike_grad is None:
        spike_grad = default_spike_grad
    spk, mem_rec = lif_reference(
        input_, mem, beta, threshold, reset_mechanism, spike_grad, temporal_alpha, graded_spikes_factor
    )
    return LIFOutput(spk, torch.stack(mem_rec) if record_mem else mem_rec[-1])


def _as_parameter(name, value, input_):
    """`value` as a tensor that broadcasts to one step of `input_`."""
    if not isinstance(value, torch.Tensor):
        try:
            value = torch.as_tensor(value, device=input_.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"{name} must be a number or a tensor, got {type(value).__name__}") from error
    check_broadcast(name, value, input_.shape[1:])
    return value
