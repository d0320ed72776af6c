"""Neurons whose threshold rises with every spike: a state more than snnTorch's have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from .._checks import check_number
from .build import Mixin
from .family import Leaky, RLeaky

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import Unpack

    from .. import _typing
    from .._typing import SequenceOptions, State, StepOutput


class _Adaptive(Mixin):
    """Goes before a neuron: it fires where its membrane is above ``threshold + rise``, with a `rise` of its own. snnTorch's
    step asks its neuron for two things that this changes: which spikes to reset, and the spikes."""

    def __init__(self, *args: Any, threshold_step: float = 0.1, threshold_decay: float = 0.95, **kwargs: Any) -> None:
        threshold_step = check_number("threshold_step", threshold_step, "a finite number >= 0", lowest=0)
        threshold_decay = check_number("threshold_decay", threshold_decay, "a number from 0 to 1", lowest=0, highest=1)
        super().__init__(*args, **kwargs)
        if self.inhibition:
            raise ValueError("inhibition=True lets the highest membrane fire, whatever its threshold: drop it")
        self.threshold_step = threshold_step
        self.threshold_decay = threshold_decay

    @classmethod
    def _check_residual(cls, temporal_alpha, reset_mechanism, reset_delay):
        if super()._check_residual(temporal_alpha, reset_mechanism, reset_delay):
            raise ValueError(
                f"temporal_alpha (BPTA) is defined for a threshold that stays, and that of {cls.__name__} does not: drop it"
            )
        return 0.0

    def _with_residual(self, equations, input_):
        self._check_residual(self.temporal_alpha, self.reset_mechanism, self.reset_delay)

    def _take_over(self, **options):
        self.register_buffer("rise", torch.zeros(0), persistent=False)
        super()._take_over(**options)

    def mem_reset(self, mem: Tensor) -> Tensor:
        """The spikes of the step before, detached. They raise the threshold, not detached."""
        spk = self._typed(self.spike_grad(mem - self.rise - self.threshold), mem)
        self._put(rise=self.threshold_decay * self.rise + self.threshold_step * spk)
        return spk.detach()

    def fire(self, mem: Tensor) -> Tensor:
        """The spikes of `mem` above the threshold of this step."""
        return super().fire(mem - self.rise)

    def reset_mem(self) -> Tensor | tuple[Tensor, ...]:
        """Set the states to zero, and return those of snnTorch's neuron."""
        self._put(rise=torch.zeros_like(self.rise))
        return super().reset_mem()

    def _begin(self, input_, states):
        if (
            states[-1] is None
        ):  # goes on from the last step; unless the membrane, which is all that snnTorch knows, does not
            mem = self.mem if states[-2] is None else states[-2]
            if not mem.requires_grad and self.rise.requires_grad:
                self._put(rise=self.rise.detach())
            if mem is not self.__dict__.get("_goes_with") and not mem.count_nonzero():
                self._put(rise=torch.zeros_like(self.rise))
        return super()._begin(input_, states)

    def _host_step(self, input_):
        out = super()._host_step(input_)
        self.__dict__["_goes_with"] = self.mem
        return (*out, self.rise) if isinstance(out, tuple) else out

    def _why_no_kernels(self, dtype):
        return "a threshold that adapts"

    def extra_repr(self) -> str:
        own = f"threshold_step={self.threshold_step}, threshold_decay={self.threshold_decay}"
        return ", ".join(filter(None, (own, super().extra_repr())))


class AdaptiveLeaky(_Adaptive, Leaky):
    r""":class:`Leaky` with a threshold that rises with every spike of the neuron and falls back (ALIF).

    .. math::

        o[t] = \Theta\bigl(u[t] - \theta - r[t]\bigr), \qquad r[t+1] = \rho\, r[t] + b\, o[t]

    for a neuron's spikes o, membrane u, `threshold` :math:`\theta` and rise r; the reset is that of ``snntorch.Leaky``, by
    :math:`\theta` or to zero. The gradient goes through the rise: over its slow decay an error reaches far back. With
    ``threshold_step=0`` it is :class:`Leaky`. Under `spatial_adj`, Eq. 9 takes u - r for u.

    No kernel has it: :meth:`sequence` is a loop over time.

    Args:
        *args: those of ``snntorch.Leaky``, in its order.
        threshold_step: b, by how much a spike raises the threshold.
        threshold_decay: :math:`\rho`, what is left of the rise after a step; exp(-1/tau) for a time constant of tau steps.
        **kwargs: those of :class:`Leaky`; not `temporal_alpha`, nor `inhibition`.

    Attributes:
        rise: the state r after the last single step, ``[B, *]``; none of the state_dict, nor are the two arguments.

    Shape:
        - ``forward(input_, mem=None, rise=None)``: ``[B, *]`` -> spk, mem and rise; with ``init_hidden=True`` spk alone.
          Without `rise` it goes on from that of the last step, or from zero where `mem` begins at zero.
        - ``sequence(input_, mem=None, rise=None)``: ``[T, B, *]`` -> spk ``[T, B, *]``, final mem and rise ``[B, *]``.

    Raises:
        ValueError, TypeError: as :class:`Leaky`; `temporal_alpha`, `inhibition`, an argument out of range.

    Example:
        >>> import torch, snntorch_bpsta as snn
        >>> lif = snn.AdaptiveLeaky(beta=0.9, threshold_step=0.2, threshold_decay=0.9)
        >>> spk, mem, rise = lif(torch.rand(8, 100), lif.init_leaky())

    References:
        Bellec, Salaj, Subramoney, Legenstein, Maass, NeurIPS 2018.
    """

    if TYPE_CHECKING:

        def __init__(
            self, *args: Any, threshold_step: float = 0.1, threshold_decay: float = 0.95,
            **kwargs: Unpack[_typing.LeakyArguments],
        ) -> None: ...  # fmt: skip

    _states = ("mem", "rise")

    def forward(
        self, input_: Tensor, mem: State = None, rise: State = None, *, multistep: bool = False, **options: Any
    ) -> StepOutput:
        """One step; with ``multistep=True`` all steps, see :meth:`sequence`."""
        return self._call(input_, (mem, rise), multistep, options)

    def sequence(  # type: ignore[override]
        self, input_: Tensor, mem: State = None, rise: State = None, **options: Unpack[SequenceOptions]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """All time steps; see :meth:`Leaky.sequence`."""
        return self._sequence(input_, (mem, rise), options)


class AdaptiveRLeaky(_Adaptive, RLeaky):
    r""":class:`RLeaky` with a threshold that rises with every spike of the neuron and falls back. With
    ``all_to_all=True`` it is the recurrent network that Bellec et al. (2018) call LSNN.

    Args:
        *args: those of ``snntorch.RLeaky``, in its order.
        threshold_step, threshold_decay: as in :class:`AdaptiveLeaky`.
        **kwargs: those of :class:`RLeaky`; not `temporal_alpha`, nor `inhibition`.

    Shape:
        - ``forward(input_, spk=None, mem=None, rise=None)``: ``[B, *]`` -> spk, mem and rise ``[B, *]``.
        - ``sequence(input_, spk=None, mem=None, rise=None)``: ``[T, B, *]`` -> spk ``[T, B, *]``, final mem and rise.

    Raises:
        ValueError, TypeError: as :class:`AdaptiveLeaky`.

    Example:
        >>> import torch, snntorch_bpsta as snn
        >>> lif = snn.AdaptiveRLeaky(beta=0.9, linear_features=100, threshold_step=0.2)
        >>> spk_rec, mem, rise = lif.sequence(torch.rand(16, 8, 100))
    """

    if TYPE_CHECKING:

        def __init__(
            self, *args: Any, threshold_step: float = 0.1, threshold_decay: float = 0.95,
            **kwargs: Unpack[_typing.RLeakyArguments],
        ) -> None: ...  # fmt: skip

    _states = ("spk", "mem", "rise")  # type: ignore[assignment]

    def forward(
        self, input_: Tensor, spk: State = None, mem: State = None, rise: State = None, *, multistep: bool = False,
        **options: Any,
    ) -> StepOutput:  # fmt: skip
        """One step; with ``multistep=True`` all steps, see :meth:`sequence`."""
        return self._call(input_, (spk, mem, rise), multistep, options)

    def sequence(  # type: ignore[override]
        self,
        input_: Tensor,
        spk: State = None,
        mem: State = None,
        rise: State = None,
        **options: Unpack[SequenceOptions],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """All time steps; see :meth:`Leaky.sequence`."""
        return self._sequence(input_, (spk, mem, rise), options)
