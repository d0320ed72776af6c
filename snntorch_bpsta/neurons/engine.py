"""Where the kernels compute a neuron, and what goes to them."""

from __future__ import annotations

import torch

from .._checks import check_device
from .._torch import is_compiling, is_transforming, version
from ..functional import lif_multistep
from .build import FUSED_OPTIONS
from .core import Adjusted


class Fused(Adjusted):
    """A neuron that the kernels of ``functional`` compute: the only place that knows them."""

    _options = FUSED_OPTIONS

    def _why_no_kernels(self, dtype):
        changed = self._changed_steps()
        if changed:
            return f"{type(self).__name__} with {', '.join(changed)} of its own"
        if self.inhibition or self.state_quant or not self.reset_delay:
            return "inhibition, state_quant or reset_delay=False"
        if dtype != torch.float64:
            for name in (*self._per_neuron, "graded_spikes_factor"):
                value = getattr(self, name)
                if value.dtype == torch.float64 and value.dim():
                    return f"{name} of {value.dtype} per neuron with an input of {dtype}"
        return None

    def _kernel_step(self, input_, states):
        """A step by the kernels."""
        states, fresh = self._begin(input_, states)
        self._check_threshold()
        # Half precision in snnTorch's rounding: the kernels hold its state in float32.
        impl = "auto" if input_.dtype in (torch.float32, torch.float64) else "reference"
        spk, mem = self._run(input_.unsqueeze(0), states, impl=impl)
        spk = spk.squeeze_(0)  # in place, so no view: `SpikingNeuron.detach(spk, mem)` refuses views
        self._put(mem=mem)
        if fresh and mem.requires_grad:
            self._watch(spk, mem)
        return spk if self.init_hidden and not self.output else (spk, mem)

    def _run(self, input_, states, *, num_steps=None, relu=False, inplace=False, record=(), impl="auto", beta=None):
        """The one door to the engine: the spikes, and of each state the last one or, where `record` names it, that of every
        step. `states` are those before the first step, None for zeros."""
        spk, mem = lif_multistep(
            input_,
            states[0],
            beta=self.beta if beta is None else beta,
            threshold=self.threshold,
            reset_mechanism=self.reset_mechanism,
            spike_grad=self.spike_grad,
            temporal_alpha=self.temporal_alpha,
            graded_spikes_factor=self.graded_spikes_factor,
            record_mem="mem" in record,
            num_steps=num_steps,
            relu=relu,
            inplace=inplace or self.inplace,
            save=self.save,
            impl=impl,
        )
        if spk.dtype == input_.dtype:
            return spk, mem
        lower = input_.dtype in (torch.float16, torch.bfloat16) and torch.is_autocast_enabled(input_.device.type)
        return spk if lower else self._typed(spk, input_), mem


class FusedCircuit(Fused):
    """Lapicque's circuit on the kernels of Leaky."""

    _per_neuron = ("beta", "threshold", "R", "C", "time_step")

    def _decay(self):
        return 1 - self.time_step / (self.R * self.C)

    def _why_no_kernels(self, dtype):
        """Theirs is Leaky's reset, which keeps the input, and a decay in [0, 1]."""
        if self.reset_mechanism == "zero":
            return "Lapicque with reset_mechanism='zero', which wipes the input too"
        if is_compiling() or is_transforming():
            return "Lapicque where its values cannot be looked at, in torch.compile and transforms of torch.func"
        return super()._why_no_kernels(dtype) or (
            None if self._decays() else "a decay 1 - time_step / (R * C) outside [0, 1]"
        )

    def _decays(self):
        """Whether the decay is in [0, 1] everywhere: one look at values that may be far away."""
        circuit = (self.time_step, self.R, self.C)
        versions = [version(value) for value in circuit]
        seen, seen_versions, in_range = self._checked_decay or ((), None, None)
        if len(seen) != 3 or any(a is not b for a, b in zip(seen, circuit, strict=True)) or versions != seen_versions:
            decay = self._decay()
            in_range = bool(((decay >= 0) & (decay <= 1)).all())
            self.__dict__["_checked_decay"] = circuit, versions, in_range
        return in_range

    def _kernel_step(self, input_, states):
        return super()._kernel_step(input_, states) if self._decays() else self._one_step(input_, states)

    def _run(self, input_, states, *, relu=False, inplace=False, **options):
        for name in ("R", "C", "time_step"):
            check_device(name, getattr(self, name), input_.device)
        if relu:
            input_ = input_.relu()
        input_ = input_ * self.R * (1 / (self.R * self.C)) * self.time_step  # in snnTorch's order
        return super()._run(input_, states, beta=self._decay(), inplace=True, **options)
