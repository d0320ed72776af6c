"""What goes to the kernels of ``functional``, which compute all six neurons, and what keeps a neuron from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from .. import telling
from .._checks import check_device, check_flags, check_temporal_alpha
from .._torch import is_autocast, is_compiling
from ..functional.multistep import multistep
from ..functional.record import DEFAULT_SPIKE_GRAD, Call, Neuron, adjustment
from ..surrogate import Logistic
from .build import Mixin

if TYPE_CHECKING:
    from torch import Tensor

    from ..functional.pool import Pool

WARM_UP_SURROGATE = Logistic()


class Engine(Mixin):
    """The only place of a neuron that knows the engine."""

    # The record of the neuron, and the plans of its calls, until an attribute is set.
    _cell: str
    _known: tuple[Any, ...] | None

    def _decay(self):
        """lambda of Eq. 2, the factor from one membrane to the next."""
        return self.beta.clamp(0, 1)

    def _numbers(self):
        """beta, threshold, the spikes' factor, the synaptic alpha and V, as the engine takes them; None where there
        is none."""
        return self.beta, self.threshold, self.graded_spikes_factor, None, None

    def _products(self):
        """The layer of an all-to-all recurrence."""
        return None

    def _record(self):
        """The neuron as the engine knows it, and why it is looped over, by the type of its current. Made anew when an
        attribute is set or a parameter is another tensor."""
        numbers = self._numbers()
        known = None if is_compiling() else self.__dict__["_known"]  # a graph would be guarded by what it finds there
        if known is not None:
            (a, b, c, d, e), (f, g, h, i, j) = numbers, known[0]
            if a is f and b is g and c is h and d is i and e is j:
                return known[1:]
        check_temporal_alpha(self.temporal_alpha, self.reset_mechanism, self.reset_delay)
        warming = self.warm_up == "surrogate" and not self.surrogate_disable
        spatial = not warming and self.spatial_adj
        beta, threshold, factor, alpha, v = numbers
        record = Neuron(
            self._cell, beta, threshold, self.reset_mechanism, bool(self.reset_delay),
            WARM_UP_SURROGATE if warming else DEFAULT_SPIKE_GRAD if spatial else self.spike_grad, spatial,
            float(self.temporal_alpha), factor, alpha, v, self._products(),
            {} if known is None else known[1].plans,
        )  # fmt: skip
        known = numbers, record, {}
        if not is_compiling():
            self.__dict__["_known"] = known
        return known[1:]

    def _why_loop(self, dtype: torch.dtype) -> str | None:
        """What keeps the kernels from computing this neuron for a current of `dtype`; None where nothing does."""
        if is_compiling():
            return self._why_no_kernels(dtype)
        known = self.__dict__["_known"]
        if known is None or dtype not in known[2]:
            self._record()[1][dtype] = self._why_no_kernels(dtype)
        return self.__dict__["_known"][2][dtype]

    def _why_no_kernels(self, dtype):
        changed = self._changed_steps()
        if changed:
            return f"{type(self).__name__} with {', '.join(changed)} of its own"
        for name in ("inhibition", "state_quant"):
            if getattr(self, name):
                return name
        if dtype != torch.float64:
            for name in (*self._per_neuron, "graded_spikes_factor", "V"):
                value = getattr(self, name, None)
                if isinstance(value, torch.Tensor) and value.dtype == torch.float64 and value.dim():
                    return f"{name} of {value.dtype} per neuron with an input of {dtype}"
        return None

    def _learns_at_spikes(self) -> bool:
        """Whether the derivative of what comes out is 0 wherever that is 0: Eq. 9 without a leak, in a step that nobody has
        changed."""
        own = self._changed_steps() or self._steps_by_itself()
        return bool(self.spatial_adj) and not adjustment(self.spatial_adj).leak and self.warm_up is None and not own

    def _kernel_step(self, input_, states):
        """A step by the kernels."""
        states, fresh = self._begin(input_, states)
        self._check_threshold()
        # Half precision in snnTorch's rounding: the kernels hold its state in float32.
        impl = "auto" if input_.dtype in (torch.float32, torch.float64) else "reference"
        spk, *after = self._run(input_, states, impl=impl, single=True)
        self._put(**dict(zip(self._returns, after, strict=True)))
        if "spk" in self._states:
            self._put(spk=spk)
        if fresh and self.mem.requires_grad:
            self._watch(spk, self.mem)
        if spk.requires_grad and self.__dict__["_noticed"] is not True:
            self._notice_step(spk)
        return spk if self.init_hidden and not self.output else (spk, *after)

    def _run(
        self, input_: Tensor, states: Any, *, num_steps: int | None = None, relu: bool = False, inplace: bool = False,
        record: tuple[str, ...] = (), impl: Any = "auto", single: bool = False, pool: Pool | None = None,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        """The one door to the engine: the spikes, pooled where `pool` says so, and of each state the last one or, where
        `record` names it, that of every step. `states` are those before the first step, None for zeros."""
        call = Call(
            input_, tuple(states), num_steps, relu, inplace or self.inplace, record, self.save, impl, single, pool
        )
        spk, *after = multistep(self._record()[0], call)
        if telling.told is not None:
            telling.claim(self)
        if spk.dtype != input_.dtype:
            lower = input_.dtype in (torch.float16, torch.bfloat16) and is_autocast(input_)
            spk = spk if lower else self._typed(spk, input_)
        return spk, *after


class Circuit(Engine):
    """Lapicque: its current and its decay follow from R, C and the time step."""

    _per_neuron: tuple[str, ...] = ("beta", "threshold", "R", "C", "time_step")

    def _decay(self):
        return 1 - self.time_step / (self.R * self.C)

    def _numbers(self):
        return (self._decay(), *super()._numbers()[1:])

    def _run(self, input_, states, *, relu=False, inplace=False, **options):
        for name in ("R", "C", "time_step"):
            check_device(name, getattr(self, name), input_.device)
        check_flags(relu=relu)
        if relu:
            input_ = input_.relu()
        input_ = input_ * self.R * (1 / (self.R * self.C)) * self.time_step  # in snnTorch's order
        return super()._run(input_, states, inplace=True, **options)


class Filtered(Engine):
    """With a synaptic current, or two."""

    def _numbers(self):
        return self.beta, self.threshold, self.graded_spikes_factor, self.alpha, None


class Recurrent(Engine):
    """With its spikes fed back, one to one or by a layer."""

    def _numbers(self):
        return *super()._numbers()[:4], None if self.all_to_all else self.V

    def _products(self):
        return self.recurrent if self.all_to_all else None

    def _why_no_kernels(self, dtype):
        if not self.all_to_all and self.recurrent.V is not self.V:
            return "a recurrence of its own"
        return super()._why_no_kernels(dtype)
