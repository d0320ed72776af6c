"""What a layer of neurons is, and what one call asks of it: two records, which are checked when they are made."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import torch

from .. import surrogate
from .._checks import (
    as_parameter,
    check_choice,
    check_current,
    check_flags,
    check_surrogate,
    check_temporal_alpha,
    check_threshold_positive,
)
from .cells import CELLS

if TYPE_CHECKING:
    from torch import Tensor, nn

    from .._typing import Number, Reset, Save, SpatialAdj, SpikeGrad
    from .pool import Pool


class Impl(str, Enum):
    """Implementations of the multi-step engine. A named one runs or raises; there is no silent fallback."""

    AUTO = "auto"
    REFERENCE = "reference"
    CPU = "cpu"
    TRITON = "triton"

    __str__ = str.__str__


ImplName: TypeAlias = "Impl | Literal['auto', 'reference', 'cpu', 'triton']"
IMPLS = tuple(str(member) for member in Impl)
SAVES = (None, "float32", "bfloat16", "compact")
RESETS = ("subtract", "zero", "none")
DEFAULT_SPIKE_GRAD = surrogate.ArcTangent()
EQ9 = surrogate.SpatialAdjustment()
# The states by their names in the engine: u, i, j and what is fed back; in snnTorch by these.
NAMES = {
    "mem": "mem", "syn": "syn", "syn_exc": "syn", "syn_inh": "inh", "spk": "fed",
}  # fmt: skip


def check_spatial_adj(spatial_adj: Any, spike_grad: Any = None) -> None:
    """Refuse a `spatial_adj` that is neither a bool nor an adjustment without a threshold, or that stands beside another
    surrogate."""
    if not isinstance(spatial_adj, surrogate.SpatialAdjustment):
        check_flags(spatial_adj=spatial_adj)
    elif spatial_adj.threshold is not None:
        raise ValueError(
            f"spatial_adj takes the threshold of its neuron, got {spatial_adj}: leave the threshold out, "
            f"spatial_adj=spatial_adjustment(leak={spatial_adj.leak:g})"
        )
    if spatial_adj and spike_grad is not None:
        raise ValueError(
            "spatial_adj=True is a surrogate gradient itself (1/u where the neuron fired) and spike_grad was given as "
            "well: pass one of the two"
        )


def adjustment(spatial_adj: SpatialAdj) -> surrogate.SpatialAdjustment:
    """What a `spatial_adj` that is on stands for; a neuron's threshold is still missing."""
    return spatial_adj if isinstance(spatial_adj, surrogate.SpatialAdjustment) else EQ9


@dataclass(frozen=True, eq=False)
class Neuron:
    """What a layer is. Numbers are tensors that broadcast to one step ``[B, *]``; decays are clipped to [0, 1] in use.

    Attributes:
        cell: the neuron's name in ``cells.CELLS``.
        beta: decay of the membrane.
        threshold: u_th.
        reset_mechanism: "subtract", "zero" or "none".
        reset_delay: False resets within the step that fired.
        spike_grad: surrogate of ``mem - threshold``.
        spatial_adj: BPSA, Eq. 9, in place of `spike_grad`; True, or with a leak.
        residual: BPTA's alpha of Eq. 10; the engine's name, for Synaptic has an alpha of its own.
        factor: the spikes are scaled by it.
        alpha: decay of the synaptic current; None for a cell without one.
        v: weight of a one-to-one recurrence.
        recurrence: the layer of an all-to-all recurrence, in place of `v`.
    """

    cell: str
    beta: Tensor
    threshold: Tensor
    reset_mechanism: Reset = "subtract"
    reset_delay: bool = True
    spike_grad: SpikeGrad = field(default_factory=lambda: DEFAULT_SPIKE_GRAD)
    spatial_adj: SpatialAdj = False
    residual: float = 0.0
    factor: Tensor = field(default_factory=lambda: torch.ones(()))
    alpha: Tensor | None = None
    v: Tensor | None = None
    recurrence: nn.Module | None = None
    plans: dict[Any, Any] = field(default_factory=dict, repr=False)  # of calls that were checked, see ``multistep.py``

    @property
    def kernel(self) -> tuple[int, float, float] | None:
        """The surrogate as the kernels number it, None for one that they do not know."""
        if self.spatial_adj:
            return surrogate.SPATIAL_ADJUSTMENT, adjustment(self.spatial_adj).leak, 0.0
        return surrogate.kernel_surrogate(self.spike_grad, self.threshold)

    def surrogate(self) -> SpikeGrad:
        """The function from ``mem - threshold`` to spikes."""
        return adjustment(self.spatial_adj)._of(self.threshold) if self.spatial_adj else self.spike_grad

    def parameters(self) -> tuple[Any, ...]:
        """beta, alpha, tau, threshold and v as the equations take them: decays clipped, tau the factor of the alpha
        function."""
        row, beta, tau = CELLS[self.cell], self.beta, None
        alpha: Any = self.alpha
        if row.clipped:
            beta = beta.clamp(0, 1)
            alpha = None if alpha is None else alpha.clamp(0, 1)
        if row.alpha:
            tau = torch.log(alpha) / (torch.log(beta) - torch.log(alpha)) + 1
        return beta, alpha, tau, self.threshold, self.v


class Call(NamedTuple):
    """What one call asks.

    Attributes:
        input: current ``[T, B, *]``.
        states: those before the first step in the order of ``Cell.states``, ``[B, *]`` each; None for zeros.
        num_steps: T of a constant current `input` ``[1, B, *]``.
        relu: rectify the current.
        inplace: the spikes may take the memory of `input`.
        record: names of the states wanted at every step.
        save: what is kept for backward.
        impl: the implementation.
        single: `input` is one step, ``[B, *]``, and so is all that comes out.
        pool: the spikes are pooled, ``[T, B, C, H, W]`` to ``[T, B, C, h, w]``.
    """

    input: Tensor
    states: tuple[Tensor | None, ...]
    num_steps: int | None = None
    relu: bool = False
    inplace: bool = False
    record: tuple[str, ...] = ()
    save: Save | None = None
    impl: ImplName = "auto"
    single: bool = False
    pool: Pool | None = None


def lif(
    input_: Tensor, beta: Number, threshold: Number, reset_mechanism: Reset, spike_grad: SpikeGrad | None,
    spatial_adj: SpatialAdj, temporal_alpha: float, graded_spikes_factor: Number,
) -> Neuron:  # fmt: skip
    """The record of ``Leaky``, from numbers or tensors."""
    check_current(input_, 2, "[T, B, *]")
    check_choice("reset_mechanism", reset_mechanism, RESETS)
    check_surrogate("spike_grad", spike_grad)
    check_spatial_adj(spatial_adj, spike_grad)
    residual = check_temporal_alpha(temporal_alpha, reset_mechanism)
    values = {"beta": beta, "threshold": threshold, "graded_spikes_factor": graded_spikes_factor}
    beta, threshold, factor = (as_parameter(name, value, input_.device) for name, value in values.items())
    if spatial_adj:
        check_threshold_positive(threshold)
    spike_grad = DEFAULT_SPIKE_GRAD if spike_grad is None else spike_grad
    return Neuron("Leaky", beta, threshold, reset_mechanism, True, spike_grad, spatial_adj, residual, factor)
