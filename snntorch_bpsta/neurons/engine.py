"""What goes to the kernels of ``functional``, which compute all six neurons, and what keeps a neuron from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from .._checks import check_device
from .._torch import is_compiling
from ..functional.multistep import multistep, say_loop
from ..functional.record import Call, Neuron
from ..surrogate import Logistic
from .build import Mixin

if TYPE_CHECKING:
    from torch import Tensor

WARM_UP_SURROGATE = Logistic()


class Engine(Mixin):
    """The only place of a neuron that knows the engine."""

    # The record of the neuron, and the plans of its calls, until an attribute is set.
    _cell: str
    _known: Neuron | None

    def _decay(self):
        """lambda of Eq. 2, the factor from one membrane to the next."""
        return self.beta.clamp(0, 1)

    def _numbers(self):
        """beta, threshold, the spikes' factor, the synaptic alpha and V as the engine takes them, None where there is none."""
        return (
            self.beta,
            self.threshold,
            self.graded_spikes_factor,
            self.alpha if "alpha" in self._per_neuron else None,
            None if self._products() or "spk" not in self._states else self.V,
        )

    def _products(self):
        """Whether the recurrence is a layer of its own."""
        return "spk" in self._states and bool(self.all_to_all)

    def _record(self):
        """The neuron as the engine knows it: checked once, and made anew when a parameter is another tensor."""
        numbers = self._numbers()
        known = self.__dict__["_known"]
        if known is not None and all(a is b for a, b in zip(known[0], numbers, strict=True)):
            return known[1]
        warming = self.warm_up == "surrogate" and not self.surrogate_disable
        beta, threshold, factor, alpha, v = numbers
        record = Neuron(
            self._cell, beta, threshold, self.reset_mechanism, bool(self.reset_delay),
            WARM_UP_SURROGATE if warming else self._spike_grad, bool(self.spatial_adj) and not warming,
            float(self.temporal_alpha), factor, alpha, v, self.recurrent if self._products() else None,
            {} if known is None else known[1].plans,
        )  # fmt: skip
        self.__dict__["_known"] = numbers, record
        return record

    def _why_no_kernels(self, dtype: torch.dtype) -> str | None:
        """What keeps the kernels from computing this neuron for a current of `dtype`; None where nothing does."""
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
        if "spk" in self._states and not self._products() and self.recurrent.V is not self.V:
            return "a recurrence of its own"
        return None

    def _run(
        self, input_: Tensor, states: Any, *, num_steps: int | None = None, relu: bool = False, inplace: bool = False,
        record: tuple[str, ...] = (), impl: Any = "auto", single: bool = False,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        """The one door to the engine: the spikes, and of each state the last one or, where `record` names it, that of every
        step. `states` are those before the first step, None for zeros."""
        call = Call(
            input_, tuple(states), num_steps, relu, inplace or self.inplace, tuple(record), self.save, impl, single
        )
        spk, *after = multistep(self._record(), call)
        if spk.dtype != input_.dtype:
            lower = input_.dtype in (torch.float16, torch.bfloat16) and torch.is_autocast_enabled(input_.device.type)
            spk = spk if lower else self._typed(spk, input_)
        return spk, *after

    def _say_loop(self, reason):
        if not is_compiling():
            say_loop(type(self).__name__, reason)


class Circuit(Engine):
    """Lapicque: its current and its decay follow from R, C and the time step."""

    def _decay(self):
        return 1 - self.time_step / (self.R * self.C)

    def _numbers(self):
        return (self._decay(), *super()._numbers()[1:])

    def _run(self, input_, states, *, relu=False, inplace=False, **options):
        for name in ("R", "C", "time_step"):
            check_device(name, getattr(self, name), input_.device)
        if relu:
            input_ = input_.relu()
        input_ = input_ * self.R * (1 / (self.R * self.C)) * self.time_step  # in snnTorch's order
        return super()._run(input_, states, inplace=True, **options)
