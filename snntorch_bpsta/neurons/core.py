"""What the six neurons have in common: snnTorch's step with other gradients, and all steps in one call."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

from .._checks import (
    FLOATING,
    check_choice,
    check_current,
    check_fired,
    check_flags,
    check_instance,
    check_positive_int,
    check_some_steps,
    check_state,
    check_surrogate,
    check_temporal_alpha,
)
from .._snntorch import EQUATIONS, set_reset
from .._torch import is_autocast, is_compiling, is_transforming
from ..functional.multistep import say_loop
from ..functional.pool import pooled, windows_of
from ..functional.record import IMPLS, adjustment
from ..functional.reference import temporal_residual
from ..surrogate import Surrogate
from ..telling import tell
from .build import WARM_UPS as WARM_UPS
from .build import Built
from .engine import WARM_UP_SURROGATE, Engine
from .notices import Noticing
from .stale import Watched
from .states import Stateful, fed_back, usable

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from .._typing import SpatialAdj, SpikeGrad, WarmUp


class Adjusted(Built, Stateful, Watched, Noticing, Engine):
    """What the neurons of this package add to those of snnTorch; goes before snnTorch's class among the bases.

    A step is snnTorch's own ``forward``. What differs are the two things it asks its neuron for: the derivative of a spike,
    and the membrane behind the reset, to which the residual of Eq. 10 is added.
    """

    _per_neuron: tuple[str, ...] = ("beta", "threshold")
    reset_delay = True
    spatial_adj: SpatialAdj
    temporal_alpha: float
    warm_up: WarmUp | None
    mem: Tensor

    # --- the gradients ------------------------------------------------------------------------------

    @property
    def spike_grad(self) -> Callable[[Tensor], Tensor]:
        """The surrogate in force, that is the warm-up's, the spatial adjustment's, or the one the neuron was built with."""
        if not self.surrogate_disable:
            if self.warm_up == "surrogate":
                return WARM_UP_SURROGATE
            if self.spatial_adj:
                return adjustment(self.spatial_adj)._of(self.threshold)  # Eq. 9
        return self._spike_grad

    @spike_grad.setter
    def spike_grad(self, spike_grad: SpikeGrad) -> None:
        check_surrogate("spike_grad", spike_grad)
        self._spike_grad = spike_grad

    @property
    def state_function(self) -> Callable[[Tensor], Tensor | tuple[Tensor, ...]]:
        """The equations of a step, snnTorch's for the reset in force or those it was set to; behind them the residual."""
        equations = self.__dict__.get("_state_function") or getattr(self, EQUATIONS[self.reset_mechanism])
        return partial(self._with_residual, equations) if self.temporal_alpha else equations

    @state_function.setter
    def state_function(self, chosen: Callable[[Tensor], Tensor | tuple[Tensor, ...]]) -> None:
        # snnTorch's constructor stores a bound method, which would outlive a change of the reset, act on the original of a
        # replica, and hold the neuron in a cycle of references. The name of the reset is kept in its place.
        resets = {function: reset for reset, function in EQUATIONS.items()}
        if getattr(chosen, "__self__", None) is self and chosen.__name__ in resets:
            set_reset(self, resets[chosen.__name__])
            self.__dict__.pop("_state_function", None)
        else:
            self._state_function = chosen

    def _with_residual(self, equations, input_):  # Eq. 10: behind the reset, which may wipe all that comes before it
        check_temporal_alpha(self.temporal_alpha, self.reset_mechanism, self.reset_delay)
        before = self.mem  # Leaky's reset to zero writes over it
        states = equations(input_)
        *others, mem = states if isinstance(states, tuple) else (states,)
        residual = temporal_residual(before, self._decay(), self.threshold, self.spike_grad, self.temporal_alpha)
        mem = mem + residual.to(mem.dtype)
        return (*others, mem) if others else mem

    def mem_reset(self, mem: Tensor) -> Tensor:
        """The spikes of `mem`, detached."""
        if isinstance(self.spike_grad, Surrogate):  # whose gradient nobody asks for
            kind = mem.dtype if mem.is_floating_point() else torch.float32
            spk = (mem.detach() - self.threshold.detach() > 0).to(kind)
        else:
            try:
                spk = super().mem_reset(mem)
            except AttributeError:
                check_fired(self.spike_grad(mem - self.threshold))
                raise
        dtype = self._dtype(mem)
        return spk if dtype is None else spk.to(dtype)

    def _dtype(self, x):
        """What spikes are cast to beside `x`, the current or a membrane; None where they stay as they come. snnTorch's
        surrogates give float32, which the next layer of a network in half or double precision refuses. Under autocast, and
        with the options off, we keep to snnTorch."""
        if x.dtype == torch.float32 or x.dtype not in FLOATING:  # integers, and floats of a byte, which nothing adds to
            return torch.float32
        if is_autocast(x):
            return None if self.spatial_adj or self.temporal_alpha else torch.float32
        return x.dtype

    def _typed(self, spk, input_):
        """`spk` in the type that goes with the current. Values per neuron of a wider type lift the membrane; the spikes are
        lifted by their factor alone."""
        dtype = self._dtype(input_)
        if dtype is None or spk.dtype == dtype:
            return spk
        return spk.to(torch.result_type(input_, self.graded_spikes_factor) if dtype == torch.float32 else dtype)

    # --- one step -----------------------------------------------------------------------------------

    def _call(self, input_, states, multistep, options):
        """``forward``, with the `states` in a tuple."""
        if self.init_hidden:
            self._check_no_states(states)
        if not (multistep or options or is_compiling() or is_transforming()) and isinstance(input_, torch.Tensor):
            direct = self.__dict__["_direct"]
            if direct is None:
                direct = self._decide()
            if input_.dtype in direct and input_.layout is torch.strided and input_.dim():
                return self._kernel_step(input_, states)
        if self.warm_up is not None:
            check_choice("warm_up", self.warm_up, WARM_UPS)
            if self.warm_up == "identity":
                return self._identity(input_, states, multistep, **options)
        if multistep:
            return self._all_steps(input_, states, **options)
        if options:
            raise TypeError(f"{', '.join(options)}: options of all steps in one call, which multistep=True asks for")
        return self._one_step(input_, states)

    def _decide(self):
        """The types of a current for which single steps go to the kernels: an engine that is there anyway, for a third of
        snnTorch's operations on tensors. Decided anew when an attribute is set."""
        adjusted = (self.spatial_adj or self.temporal_alpha) and self.warm_up is None
        direct = tuple(dtype for dtype in FLOATING if adjusted and self._why_loop(dtype) is None)
        self.__dict__["_direct"] = direct
        return direct

    def _one_step(self, input_, states):
        """A step as snnTorch's."""
        if self.spatial_adj or self.temporal_alpha or (not is_compiling() and torch.is_anomaly_enabled()):
            check_current(input_, 0, "[B, *]")
        elif not isinstance(input_, torch.Tensor):
            raise TypeError(f"input_ must be a tensor of shape [B, *], got {type(input_).__name__}")
        # A transform's tensors are dead outside of it: they are not left in the neuron where the states are handed out.
        transformed = not (self.init_hidden or is_compiling()) and is_transforming()
        kept = {name: self.__dict__.get(name) for name in (*self._states, "reset")} if transformed else None
        out = self._from(input_, states)
        tell(self, "step by step")
        if kept is not None:
            self._put(**kept)
        return out

    def _from(self, input_, states):
        """A step of snnTorch's from these states, into the attributes. What snnTorch returns."""
        states, fresh = self._begin(input_, states)
        self._put(**dict(zip(self._states, states, strict=True)))
        self._check_fits(input_)
        self._check_threshold()
        out = self._host_step(input_)
        spk = out[0] if isinstance(out, tuple) else out
        typed = self._typed(spk, input_)
        if typed is not spk:
            if "spk" in self._states:
                self._put(spk=typed)
            out = (typed, *out[1:]) if isinstance(out, tuple) else typed
        if fresh:
            self._watch(typed, self.mem)
        if not is_compiling() and typed.requires_grad and self.__dict__["_noticed"] is not True:
            self._notice_step(typed)
        return out

    def _host_step(self, input_):
        """snnTorch's step. Its branch for ``reset_delay=False`` looks at a value on the device, and RSynaptic's reads names
        that it does not have: that reset is ours."""
        if self.reset_delay:
            return super().forward(input_)
        self._put(reset_delay=True)
        try:
            out = super().forward(input_)
        finally:
            self._put(reset_delay=False)
        spk = out[0] if isinstance(out, tuple) else out
        if self.reset_mechanism != "none":
            again = spk / self.graded_spikes_factor - self.reset  # those that the delayed reset has not reset yet
            self._put(mem=self.mem - again * (self.threshold if self.reset_mechanism == "subtract" else self.mem))
        return (spk, *self._after()) if isinstance(out, tuple) else spk

    def _begin(self, input_, states):
        """The states that a step begins with, and whether they begin a new graph to watch: those given, else the hidden
        ones; zeros where the shape is not that of the step, as in snnTorch."""
        compiling = is_compiling()
        self._check_decays()
        started = []
        for name, state in zip(self._states, states, strict=True):
            if state is None:
                if not compiling:
                    self._check_recomputed()
                state = getattr(self, name)
            elif not isinstance(state, torch.Tensor):
                raise TypeError(f"{name} must be a tensor or None, got {type(state).__name__}")
            if state.shape != input_.shape:
                state = torch.zeros_like(input_)
            if state.dtype != input_.dtype:
                state = fed_back(name, state, input_)
            started.append(state if compiling or not state.is_inference() else usable(state))
        return (started, False) if compiling else self._guard(started)

    # --- all steps ----------------------------------------------------------------------------------

    def _sequence(self, input_, states, options):
        """``sequence``, with the `states` in a tuple."""
        if not self._steps_by_itself():
            return self(input_, *states, multistep=True, **options)
        if self.init_hidden:
            self._check_no_states(states)
            return self._all_steps(input_, states, **options, step=lambda cur, states: self(cur))
        return self._all_steps(input_, states, **options, step=lambda cur, states: self(cur, *states))

    def _all_steps(
        self, input_, states, impl="auto", relu=False, num_steps=None, inplace=False, record=(), pool=None, step=None
    ):  # fmt: skip
        if not isinstance(input_, torch.Tensor) or input_.dim() < 2 or input_.is_nested:
            check_current(input_, 2, "[T, B, *]")
        if type(record) is not tuple:
            self._check_record(record)
            record = tuple(record)
        inside = None if pool is None else self._inside(pool)
        states = self._initial(states, input_)
        if step is None:
            reason = self._why_loop(input_.dtype)
        else:
            reason = f"the forward of {type(self).__name__}, which is not ours"
        options = {"num_steps": num_steps, "relu": relu, "record": record}
        if reason is None:
            self._check_threshold()
            if self._parameters:
                self._check_decays()
            spk_rec, *after = self._run(input_, states, inplace=inplace, impl=impl, pool=inside, **options)
        else:
            check_choice("impl", impl, IMPLS)
            if impl not in ("auto", "reference"):
                raise NotImplementedError(f"impl={str(impl)!r} does not cover {reason}; use 'auto' or 'reference'")
            self._check_call(input_, relu, num_steps, inplace, record)
            if impl == "auto":
                say_loop(type(self).__name__, reason)
            self._check_fits(input_[0], strict=True)
            tell(self, f"reference, for {reason}")
            inside = None
            spk_rec, *after = self._loop(input_, states, step or self._from, **options)
        if (self.spatial_adj or self.temporal_alpha) and not is_compiling() and self._noticed is not True:
            self._notice_sequence(spk_rec)
        after = dict(zip(self._returns, after, strict=True))
        if self.init_hidden and reason is None:  # a view could not be detached in place
            self._put(**{name: state[-1].clone() if name in record else state for name, state in after.items()})
            if "spk" in self._states:
                self._put(spk=spk_rec[-1].clone())
        elif not (self.init_hidden or is_compiling()):
            self._hand_out(after, record)
        return spk_rec if pool is None or inside is not None else pooled(spk_rec, pool), *after.values()

    def _inside(self, pool):
        """What the engine does of `pool`; None where it is left to PyTorch."""
        check_instance("pool", pool, (nn.MaxPool2d, nn.AvgPool2d), "nn.MaxPool2d, nn.AvgPool2d or None")
        hidden = "spk" in self._states and self.init_hidden  # which has to remember its last spikes
        return None if hidden else windows_of(pool)

    def _check_call(self, input_, relu, num_steps, inplace, record):
        """What the engine checks where it runs."""
        check_current(input_, 2, "[T, B, *]")
        check_some_steps(input_)
        check_flags(relu=relu, inplace=inplace)
        self._check_record(record)
        if num_steps is not None:
            check_positive_int("num_steps", num_steps)
            if input_.shape[0] not in (1, num_steps):
                raise ValueError(f"num_steps={num_steps} holds a current of one step, got shape {tuple(input_.shape)}")

    def _initial(self, states, input_):
        """The states before the first step of a sequence, None for zeros."""
        shape = input_.shape[1:]
        if self.init_hidden:
            if not is_compiling():
                self._check_recomputed()
            hidden = zip(self._states, self._hidden(), strict=True)
            return [fed_back(name, usable(state), input_) if state.shape == shape else None for name, state in hidden]
        initial = []
        for name, state in zip(self._states, states, strict=True):
            if state is not None:
                if isinstance(state, torch.Tensor) and state.shape == (0,):
                    state = None
                else:
                    check_state(name, state, shape)
                    state = fed_back(name, usable(state), input_)
            initial.append(state)
        return initial

    def _loop(self, input_, states, step, *, num_steps=None, relu=False, record=()):
        """All steps by the loop over single ones, where no kernel serves: the spikes, and of each state the last one or,
        where `record` names it, that of every step."""
        input_ = _prepared(input_, relu, num_steps)
        kept = dict(zip(self._states, self._hidden(), strict=True))
        zeros = torch.zeros_like(input_[0])
        states = [zeros if state is None else state for state in states]
        names = self._returns
        rows = {name: [] for name in ("spk", *record)}
        try:
            for cur in input_.unbind(0):
                out = step(cur, states)
                out = out if isinstance(out, tuple) else (out, *self._after())
                if len(out) != 1 + len(names):
                    raise TypeError(
                        f"forward of {type(self).__name__} must return spk, {', '.join(names)}, got {len(out)} values"
                    )
                states = out if "spk" in self._states else out[1:]
                last = dict(zip(("spk", *names), out, strict=True))
                for name, row in rows.items():
                    row.append(last[name])
        finally:
            if not self.init_hidden:
                self._put(**kept)
        return tuple(torch.stack(rows[name]) if name in rows else state for name, state in last.items())

    def _identity(
        self, input_, states, multistep, impl="auto", relu=False, num_steps=None, inplace=False, record=(), pool=None
    ):  # fmt: skip
        """The "identity" warm-up: the current is the output, and the states stay as they are."""
        self._check_record(record)
        tell(self, "its current, as it warms up")
        input_ = _prepared(input_, relu, num_steps)
        if not multistep and self.init_hidden and not self.output:
            return input_
        zeros = torch.zeros_like(input_[0] if multistep else input_)
        states = {
            name: _or_zeros(state, zeros) for name, state in zip(self._states, states, strict=True) if name != "spk"
        }
        return pooled(input_, pool), *(
            state.expand_as(input_) if name in record else state for name, state in states.items()
        )

    def extra_repr(self) -> str:
        """The decays, the threshold and the reset, and of our options those that are on."""
        options = self._options
        values = {
            name: getattr(self, name, off) for name, off in options.items()
        }  # a constructor may have failed early
        shown = {name: repr(value) for name, value in values.items() if value != options[name]}
        host = {name: getattr(self, name, None) for name in ("alpha", "beta", "threshold", "reset_mechanism")}
        shown = {name: _in_short(value) for name, value in host.items() if value is not None} | shown
        return ", ".join(f"{name}={value}" for name, value in shown.items())


def _prepared(input_, relu, num_steps):
    if relu:
        input_ = input_.relu()
    return input_ if num_steps is None else input_.expand(num_steps, *input_.shape[1:])


def _in_short(value):
    """A parameter of a neuron: its number, or the shape where it has several, or none that can be looked at."""
    if not isinstance(value, torch.Tensor):
        return repr(value)
    plain = type(value) in (torch.Tensor, nn.Parameter) and not (value.is_meta or is_transforming() or is_compiling())
    return f"{value.item():.4g}" if plain and value.numel() == 1 else f"{[*value.shape]}"


def _or_zeros(state, zeros):
    """A state to start with, where there is none, or snnTorch's ``init_leaky()``, which is empty."""
    return zeros if state is None or (state.numel() == 0 and zeros.numel()) else state
