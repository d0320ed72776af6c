"""What a neuron refuses, and how one of snnTorch's neurons becomes one of ours and goes back."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any
from warnings import warn

import snntorch
import torch

from .._checks import (
    check_broadcast,
    check_choice,
    check_device,
    check_host_options,
    check_learnable,
    check_temporal_alpha,
    check_threshold_positive,
    warn_not_finite,
)
from .._meant import check_keywords
from .._snntorch import EQUATIONS, step_names
from .._torch import is_compiling, is_transforming, is_watched, version
from ..functional.cells import CELLS
from ..functional.record import DEFAULT_SPIKE_GRAD, SAVES, check_spatial_adj

if TYPE_CHECKING:
    from typing import TypeAlias

    Mixin: TypeAlias = snntorch.SpikingNeuron
else:
    Mixin = object  # the bases of a neuron follow one another as they stand there

WARM_UPS = (None, "identity", "surrogate")
OPTIONS: dict[str, Any] = {
    "spatial_adj": False, "temporal_alpha": 0.0, "warm_up": None, "inplace": False, "save": None,
}  # fmt: skip
_NUMBERS = ("alpha", "beta", "threshold", "graded_spikes_factor", "V", "R", "C", "time_step")


class Built(Mixin):
    """The constructor: snnTorch's arguments, and our options behind them."""

    _host: Any = None  # the class of snnTorch
    _options = OPTIONS
    _spike_grad: Any
    _step_names: frozenset[str] = frozenset()  # attributes that make up a step
    _own_step: tuple[str, ...] = ()  # those that a class derived from ours has of its own
    _returns: tuple[str, ...] = ()  # names of the states that a step returns behind its spikes
    _own_forward = False  # whether such a class has a `forward` that takes single steps only

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "_host" in vars(cls):
            keyword = inspect.Parameter.KEYWORD_ONLY
            options = [inspect.Parameter(name, keyword, default=off) for name, off in cls._options.items()]
            cls.__signature__ = inspect.Signature([*inspect.signature(cls._host).parameters.values(), *options])
        elif "__init__" in vars(cls):
            cls.__signature__ = inspect.signature(cls.__init__.__get__(object()))
        family = next((base for base in cls.__mro__ if "_host" in vars(base)), cls)
        cls._cell = family.__name__
        cls._returns = tuple(name for name in cls._states if name != "spk")
        static = inspect.getattr_static
        cls._step_names = step_names(cls)
        changed = [name for name in cls._step_names if static(cls, name, None) is not static(family, name, None)]
        cls._own_step = tuple(sorted(changed))
        cls._own_forward = static(cls, "forward", None) is not static(family, "forward", None) and not _takes_all_steps(
            cls.forward
        )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        host = inspect.signature(self._host)
        options = {name: kwargs.pop(name, off) for name, off in self._options.items()}
        if not kwargs.keys() <= host.parameters.keys():
            bases: list[Any] = [*type(self).__mro__]
            known = {name for base in bases for name in inspect.signature(base.__init__).parameters}
            known |= {*host.parameters, *self._options}
            check_keywords(type(self).__name__, kwargs, known - {"self", "args", "kwargs"})
        given = host.bind(*args, **kwargs)
        given.apply_defaults()
        given = given.arguments
        self._check_host_arguments(given)
        check_spatial_adj(options["spatial_adj"], given["spike_grad"])
        temporal_alpha = self._check_residual(
            options["temporal_alpha"], given["reset_mechanism"], given.get("reset_delay", True)
        )
        self._check_surrogate(options["spatial_adj"], temporal_alpha, given["threshold"], given["surrogate_disable"])
        options["temporal_alpha"] = temporal_alpha
        check_choice("warm_up", options["warm_up"], WARM_UPS)
        check_choice("inplace", options["inplace"], (False, True))
        check_choice("save", options["save"], SAVES)
        super().__init__(*args, **kwargs)
        if given["spike_grad"] is None and not self.surrogate_disable:
            self._spike_grad = DEFAULT_SPIKE_GRAD
        self._take_over(**options)
        self._enlist()

    @classmethod
    def _check_residual(cls, temporal_alpha, reset_mechanism, reset_delay):
        """Refuse a `temporal_alpha` that has no meaning for this neuron; return it as a float."""
        return check_temporal_alpha(temporal_alpha, reset_mechanism, reset_delay)

    @staticmethod
    def _check_surrogate(spatial_adj, temporal_alpha, threshold, surrogate_disable):
        """Refuse options that this threshold or the lack of a surrogate leaves without a gradient."""
        if spatial_adj:
            check_threshold_positive(threshold)
        if surrogate_disable and (spatial_adj or temporal_alpha):
            raise ValueError(
                "surrogate_disable=True switches every surrogate gradient off, spatial_adj and temporal_alpha with it: "
                "drop it, or the two options"
            )

    @classmethod
    def _check_host_arguments(cls, given):
        check_host_options(given)
        optional = ("beta", "R", "C") if "R" in given else ("V",)
        for name in _NUMBERS:
            if name not in given:
                continue
            value = given[name]
            flag = "learn_recurrent" if name == "V" else f"learn_{name}"
            learn = given.get(flag) and (name != "V" or not given["all_to_all"])
            check_learnable(name, value, learn, flag)
            if not (name in optional and (value is None or value is False)):
                warn_not_finite(cls.__name__, name, value)

    def _take_over(self, **options):
        """Set up, in place, what snnTorch's neuron has in another form."""
        for name in self._states:
            self._non_persistent_buffers_set.discard(name)
            self.__dict__[name] = self._buffers.pop(name)
        if "spike_grad" in self.__dict__:
            self._spike_grad = self.__dict__.pop("spike_grad")
        if "state_function" in self.__dict__:
            self.state_function = self.__dict__.pop("state_function")
        self._forget()
        for name, off in self._options.items():
            setattr(self, name, options.get(name, off))

    def _hand_back(self):
        """The opposite of :meth:`_take_over`; the class becomes snnTorch's."""
        mine = self.__dict__
        states = {name: mine.pop(name) for name in self._states}
        spike_grad = mine.pop("_spike_grad", None)
        equations = mine.pop("_state_function", None)
        names = ("_name", "__getattr__", *self._private, *self._options)
        self.__class__ = self._host
        for name in names:
            mine.pop(name, None)
        for name, state in states.items():
            self.register_buffer(name, state, persistent=False)
        if spike_grad is not None:
            self.spike_grad = snntorch.surrogate.atan() if spike_grad == DEFAULT_SPIKE_GRAD else spike_grad
        self.state_function = equations or getattr(self, EQUATIONS[self.reset_mechanism])

    def _changed_steps(self):
        """What of the step this neuron, or its class, has of its own."""
        mine = self.__dict__
        changed = {*self._own_step, *(name for name in self._step_names if name in mine)}
        if "_state_function" in mine:
            changed.add("state_function")
        return sorted(changed)

    def _steps_by_itself(self):
        """Whether `forward` is one written elsewhere, for single steps, as snnTorch's are."""
        own = self.__dict__.get("forward")
        return self._own_forward if own is None else not _takes_all_steps(own)

    # --- at a call ----------------------------------------------------------------------------------

    def _check_no_states(self, states):
        if any(state is not None for state in states):
            names = ", ".join(f"`{name}`" for name in self._states)
            raise TypeError(
                f"{names} should not be passed as an argument while `init_hidden=True`: the neuron has its own"
            )

    def _check_record(self, record):
        names = self._returns
        if not isinstance(record, (tuple, list)) or not all(isinstance(name, str) and name in names for name in record):
            raise ValueError(f"record must be a tuple of states of {type(self).__name__}, of {names}, got {record!r}")

    def _check_fits(self, step, strict=False):
        """Refuse what does not go with a current of one step."""
        strict = strict or self.spatial_adj or self.temporal_alpha
        names = self._per_neuron
        if strict:
            names = (*names, "graded_spikes_factor", "V")
        elif step.dim() <= 2:
            return
        for name in names:
            value = getattr(self, name, None)
            # With the options off only what snnTorch says little of: a vector and feature maps.
            if isinstance(value, torch.Tensor) and (value.dim() if strict else value.dim() == 1):
                check_broadcast(name, value, step.shape)
                check_device(name, value, step.device)
        if strict and self.inhibition and (step.dim() != 2 or step.shape[1] == 0):
            raise ValueError(
                f"inhibition=True lets one neuron of [B, N] fire, got input_ of {tuple(step.shape)} in a step"
            )

    def _check_threshold(self):
        """A learnable threshold may drift to where 1/u has no meaning, long after the constructor looked at it."""
        if not self.spatial_adj or is_compiling():
            return
        threshold = self.threshold
        if threshold.is_cpu and not threshold.dim() and not is_transforming() and threshold.item() > 0:
            return
        # Looking at a value on the device waits for it, so a buffer there is looked at again only after something wrote to
        # it, which its version counter tells. A fused optimiser writes without a trace: a learnable one is always looked at.
        watch = not (threshold.requires_grad or threshold.device.type == "cpu" or threshold.is_inference())
        seen, before = self._checked_threshold or (None, None)
        if not watch or seen is not threshold or before != version(threshold):
            check_threshold_positive(threshold)
            if watch:
                self.__dict__["_checked_threshold"] = threshold, version(threshold)

    def _check_decays(self):
        """Tell once that a decay that learns has left [0, 1], where it is clipped, and has no gradient any more. Looked at
        on the CPU alone, after something wrote to it, which its version counter tells: elsewhere it would wait for it."""
        if is_compiling():
            return
        for name in ("beta", "alpha"):
            value = self._parameters.get(name)
            if value is None or not value.is_cpu or self._seen_decays.get(name) in (version(value), "told"):
                continue
            if is_watched() or is_transforming() or not CELLS[self._cell].clipped:
                continue
            self._seen_decays[name] = version(value)
            if value.requires_grad and ((value < 0) | (value > 1)).any():
                self._seen_decays[name] = "told"
                lowest, highest = value.min().item(), value.max().item()
                warn(
                    f"{name} of {type(self).__name__}, which learns, has left [0, 1] ({lowest:.4g} to {highest:.4g}): it is "
                    "clipped there and has no gradient any more where it is out, so it stays. Lower its learning rate, or "
                    "call snntorch_bpsta.bound_decays(net) before the optimiser is made",
                    stacklevel=2,
                )


def _takes_all_steps(forward):
    try:
        return "multistep" in inspect.signature(forward).parameters
    except (TypeError, ValueError):  # no Python function
        return False
