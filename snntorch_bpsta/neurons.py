"""The host's neurons with gradients that cross spikes."""

from __future__ import annotations

import inspect
import weakref
from typing import TYPE_CHECKING, Any

import snntorch
import torch
from torch import nn

from ._checks import (
    as_parameter,
    check_broadcast,
    check_choice,
    check_current,
    check_device,
    check_flags,
    check_host_options,
    check_learnable,
    check_positive_int,
    check_some_steps,
    check_spatial_adj,
    check_state,
    check_temporal_alpha,
    check_threshold_positive,
)
from ._snntorch import fall_back_to
from ._torch import is_compiling, is_of_a_transform, is_transforming, keeps_graph, version
from .functional import lif_multistep
from .functional.operator import STALE
from .functional.record import DEFAULT_SPIKE_GRAD, IMPLS, SAVES
from .functional.reference import temporal_residual
from .surrogate import Logistic, SpatialAdjustment, Surrogate, as_portable, from_portable

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from torch import Tensor
    from typing_extensions import Unpack

    from . import _typing
    from ._typing import ImplName, SpikeGrad, WarmUp

    _Neuron: TypeAlias = snntorch.SpikingNeuron
else:
    _Neuron = object  # the bases of a neuron follow one another as they stand there

__getattr__, __dir__ = fall_back_to(snntorch.neurons, __name__)

WARM_UPS = (None, "identity", "surrogate")
_WARM_UP_SURROGATE = Logistic()
_STATE_FUNCTIONS = {"subtract": "_base_sub", "zero": "_base_zero", "none": "_base_int"}
_OPTIONS: dict[str, Any] = {"spatial_adj": False, "temporal_alpha": 0.0}
_FUSED_OPTIONS = {"inplace": False, "save": None}


class Adjusted(_Neuron):
    """What the neurons of this package add to those of the host; goes before the host's class among the bases.

    The step is the host's own: its equations (``_base_zero`` and the like), ``fire`` and ``mem_reset`` are called, not
    copied. Around them: the residual of Eq. 10, all steps in one call, and states that are no buffers, follow
    ``reset_mechanism``, and can be copied, pickled and shared out.
    """

    _host: Any = None  # the class of the host
    _states: tuple[str, ...] = (
        "mem",
    )  # what a step takes and leaves behind, as attributes, in the order of the host's arguments
    _per_neuron: tuple[str, ...] = ("beta", "threshold")
    _options = _OPTIONS
    reset_delay = True
    spatial_adj: bool
    temporal_alpha: float
    warm_up: WarmUp | None
    mem: Tensor

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "_host" in vars(cls):
            keyword = inspect.Parameter.KEYWORD_ONLY
            options = [inspect.Parameter(name, keyword, default=off) for name, off in cls._options.items()]
            cls.__signature__ = inspect.Signature([*inspect.signature(cls._host).parameters.values(), *options])
        elif "__init__" in vars(cls):
            cls.__signature__ = inspect.signature(cls.__init__.__get__(object()))

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        options = {name: kwargs.pop(name, off) for name, off in self._options.items()}
        given = inspect.signature(self._host).bind(*args, **kwargs)
        given.apply_defaults()
        given = given.arguments
        self._check_host_arguments(given)
        check_spatial_adj(options["spatial_adj"], given["spike_grad"])
        options["temporal_alpha"] = self._check_options(
            **{name: options[name] for name in _OPTIONS},
            threshold=given["threshold"],
            reset_mechanism=given["reset_mechanism"],
            reset_delay=given.get("reset_delay", True),
            surrogate_disable=given["surrogate_disable"],
        )
        if "save" in options:
            check_choice("inplace", options["inplace"], (False, True))
            check_choice("save", options["save"], SAVES)
        super().__init__(*args, **kwargs)
        if given["spike_grad"] is None and not self.surrogate_disable:
            self.spike_grad = DEFAULT_SPIKE_GRAD
        self._take_over(**options)

    @classmethod
    def _check_options(cls, spatial_adj, temporal_alpha, threshold, reset_mechanism, reset_delay, surrogate_disable):
        """Refuse what these options cannot honour; return `temporal_alpha` as a float."""
        if spatial_adj:
            check_threshold_positive(threshold)
        temporal_alpha = check_temporal_alpha(temporal_alpha, reset_mechanism, reset_delay)
        if surrogate_disable and (spatial_adj or temporal_alpha):
            raise ValueError(
                "surrogate_disable=True switches every surrogate gradient off, spatial_adj and temporal_alpha with it: "
                "drop it, or the two options"
            )
        return temporal_alpha

    @staticmethod
    def _check_host_arguments(given):
        check_host_options(given)
        optional = ("beta", "R", "C") if "R" in given else ("V",)
        for name in ("alpha", "beta", "threshold", "graded_spikes_factor", "V", "R", "C", "time_step"):
            if name not in given:
                continue
            value = given[name]
            flag = "learn_recurrent" if name == "V" else f"learn_{name}"
            learn = given.get(flag) and (name != "V" or not given["all_to_all"])
            check_learnable(name, value, learn, flag)
            if not (name in optional and (value is None or value is False)):
                as_parameter(name, value)

    # --- becoming one of ours, and one of the host's again ---------------------------------------------

    def _take_over(self, **options):
        """Set up, in place, what the host's neuron has in another form."""
        for name in self._states:
            self._non_persistent_buffers_set.discard(name)
            self.__dict__[name] = self._buffers.pop(name)
        if "spike_grad" in self.__dict__:
            self._spike_grad = self.__dict__.pop("spike_grad")
        # A bound method, chosen once: it would outlive a change of the reset, act on the original of a replica, and
        # hold the neuron in a cycle of references. What it does is what the neuron did, whatever was set since.
        chosen = getattr(self.__dict__.pop("state_function", None), "__name__", None)
        resets = {function: reset for reset, function in _STATE_FUNCTIONS.items()}
        self._reset_mechanism = resets.get(chosen, self._reset_mechanism)
        self.warm_up = None
        self._checked_threshold = None
        self._graph = self._last = None
        for name, off in self._options.items():
            setattr(self, name, options.get(name, off))

    def _hand_back(self):
        """The opposite of :meth:`_take_over`; the class becomes the host's."""
        states = {name: self.__dict__.pop(name) for name in self._states}
        spike_grad = self.__dict__.pop("_spike_grad", None)
        for name in ("warm_up", "_checked_threshold", "_checked_decay", "_graph", "_last", *self._options):
            self.__dict__.pop(name, None)
        self.__class__ = self._host
        for name, state in states.items():
            self.register_buffer(name, state, persistent=False)
        if spike_grad is not None:
            self.spike_grad = snntorch.surrogate.atan() if spike_grad == DEFAULT_SPIKE_GRAD else spike_grad
        self.state_function = getattr(self, _STATE_FUNCTIONS[self.reset_mechanism])

    @property
    def spike_grad(self) -> Callable[[Tensor], Tensor]:
        """The surrogate in force, that is the warm-up's, the spatial adjustment's, or the one the neuron was built with."""
        if not self.surrogate_disable:
            if self.warm_up == "surrogate":
                return _WARM_UP_SURROGATE
            if self.spatial_adj:
                return SpatialAdjustment._unchecked(self.threshold)
        return self._spike_grad

    @spike_grad.setter
    def spike_grad(self, spike_grad: SpikeGrad) -> None:
        self._spike_grad = spike_grad

    # --- one step ---------------------------------------------------------------------------------

    def _call(self, input_, states, multistep, options):
        """``forward``, with the `states` in a tuple."""
        if self.warm_up is not None:
            check_choice("warm_up", self.warm_up, WARM_UPS)
            if self.warm_up == "identity":
                return self._identity(input_, states, multistep, **options)
        if multistep:
            return self._all_steps(input_, states, **options)
        if options:
            raise TypeError(f"{', '.join(options)}: options of all steps in one call, which multistep=True asks for")
        adjusted = self.spatial_adj or self.temporal_alpha
        if adjusted or (not is_compiling() and torch.is_anomaly_enabled()):
            check_current(input_, 0, "[B, *]")
        elif not isinstance(input_, torch.Tensor):
            raise TypeError(f"input_ must be a tensor of shape [B, *], got {type(input_).__name__}")
        if self.init_hidden and any(state is not None for state in states):
            raise self._no_states_with_init_hidden()
        # A transform's tensors are dead outside of it: they are not left in the neuron where the states are handed out.
        transformed = not (self.init_hidden or is_compiling()) and is_transforming()
        kept = {name: self.__dict__.get(name) for name in (*self._states, "reset")} if transformed else None
        fresh = self._begin(input_, states)
        if adjusted and self._has_kernels() and not self._steps_alone and input_.dim():
            self._check_threshold()
            spk = self._kernel_step(input_)
        else:
            spk = self._step(input_)
        if not is_compiling() and fresh:
            self._watch(spk, self.mem)
        out = spk if self.init_hidden and not self.output else (spk, *self._after())
        if kept is not None:
            self._put(**kept)
        return out

    def _begin(self, input_, states):
        """Put the states to start from into the attributes: the given ones, else the hidden ones, zeros where the shape is
        not that of a step, as the host does. Whether they begin a new graph."""
        hidden = [getattr(self, name) for name in self._states]
        for name, state in zip(self._states, states, strict=True):
            if state is None:
                state = getattr(self, name)
            elif not isinstance(state, torch.Tensor):
                raise TypeError(f"{name} must be a tensor or None, got {type(state).__name__}")
            if state.shape != input_.shape:
                state = torch.zeros_like(input_)
            self._put(**{name: state})
        if is_compiling():
            return True
        mem = self.mem
        goes_on = mem.grad_fn is not None and (mem is hidden[-1] or (self._last is not None and mem is self._last()))
        if self._graph is not None and self._graph[0] and torch.is_grad_enabled():
            for name, old in zip(self._states, hidden, strict=True):
                state = getattr(self, name)  # one by one: the host's RSynaptic.reset_hidden forgets the spike
                if (goes_on or state is old) and _is_freed(state.grad_fn):
                    state = state.view_as(state)  # the state itself may live on elsewhere
                    state.register_hook(_refuse_stale)
                    self._put(**{name: state})
        return not goes_on

    def _watch(self, *outputs):
        """Note when a backward pass frees the graph that these first outputs begin; see ``STALE``."""
        self._graph = graph = [False]
        if is_transforming():
            return

        def note(grad):
            graph[0] = graph[0] or not keeps_graph()

        for output in outputs:
            if output.requires_grad:
                output.register_hook(note)

    def _step(self, input_):
        """A step of the host's, from the states in the attributes, and back into them; returns the spikes."""
        if self.spatial_adj or self.temporal_alpha:
            self._check_fits(input_)
        elif input_.dim() > 2:  # feature maps, with which the host's own words say little
            for name in self._per_neuron:
                value = getattr(self, name)
                if value.dim() == 1:
                    check_broadcast(name, value, input_.shape)
        self._check_threshold()
        mem, dtype = self.mem, self._dtype(input_)
        self.reset = self.mem_reset(mem)
        if dtype is not None:
            self.reset = self.reset.to(dtype)
        states = getattr(self, _STATE_FUNCTIONS[self.reset_mechanism])(input_)
        states = list(states) if isinstance(states, tuple) else [states]
        if self.temporal_alpha:  # Eq. 10: behind the reset, which may wipe all that comes before it
            check_temporal_alpha(self.temporal_alpha, self.reset_mechanism, self.reset_delay)
            residual = temporal_residual(mem, self._decay(), self.threshold, self.spike_grad, self.temporal_alpha)
            states[-1] = states[-1] + residual.to(states[-1].dtype)
        if self.state_quant:
            states = [self.state_quant(state) for state in states]
        mem = states[-1]
        spk = self.fire_inhibition(mem.size(0), mem) if self.inhibition else self.fire(mem)
        if dtype is not None:
            spk = spk.to(dtype)
        if not self.reset_delay and self.reset_mechanism != "none":
            again = spk / self.graded_spikes_factor - self.reset  # those that the delayed reset has not reset yet
            states[-1] = mem - again * (self.threshold if self.reset_mechanism == "subtract" else mem)
        self._put(**dict(zip((name for name in self._states if name != "spk"), states, strict=True)))
        if "spk" in self._states:
            self._put(spk=spk)
        return spk

    def mem_reset(self, mem: Tensor) -> Tensor:
        """The spikes of `mem`, detached."""
        if isinstance(self.spike_grad, Surrogate):  # whose gradient nobody asks for
            return (mem.detach() - self.threshold.detach() > 0).to(
                mem.dtype if mem.is_floating_point() else torch.float32
            )
        return super().mem_reset(mem)

    def _check_fits(self, step):
        """Refuse what does not go with a current of one step."""
        shape = step.shape
        for name in (*self._per_neuron, "graded_spikes_factor", "V"):
            value = getattr(self, name, None)
            if isinstance(value, torch.Tensor) and value.dim():
                check_broadcast(name, value, shape)
                check_device(name, value, step.device)
        if self.inhibition and (len(shape) != 2 or shape[1] == 0):
            raise ValueError(f"inhibition=True lets one neuron of [B, N] fire, got input_ of {tuple(shape)} in a step")

    def _dtype(self, input_):
        """What spikes are cast to, if to anything. The host's surrogates give float32, which the next layer of a network in
        half or double precision refuses. Under autocast, and with the options off, we keep to the host."""
        if input_.dtype == torch.float32 or not input_.is_floating_point():
            return None
        if not input_.is_meta and torch.is_autocast_enabled(input_.device.type):
            return None if self.spatial_adj or self.temporal_alpha else torch.float32
        return input_.dtype

    def _decay(self):
        """lambda of Eq. 2, the factor from one membrane to the next."""
        return self.beta.clamp(0, 1)

    def _put(self, **states):
        if is_compiling():
            for name, state in states.items():
                setattr(self, name, state)
        else:
            self.__dict__.update(states)  # what an assignment does, in a tenth of the time

    def _after(self):
        """The states as a step returns them."""
        return tuple(getattr(self, name) for name in self._states if name != "spk")

    def _no_states_with_init_hidden(self):
        names = ", ".join(f"`{name}`" for name in self._states)
        return TypeError(
            f"{names} should not be passed as an argument while `init_hidden=True`: the neuron has its own"
        )

    # --- all steps ----------------------------------------------------------------------------------

    def _all_steps(self, input_, states, impl="auto", relu=False, num_steps=None, inplace=False):
        check_current(input_, 2, "[T, B, *]")
        check_some_steps(input_)
        check_choice("impl", impl, IMPLS)
        check_flags(relu=relu, inplace=inplace)
        if num_steps is not None:
            check_positive_int("num_steps", num_steps)
            if input_.shape[0] not in (1, num_steps):
                raise ValueError(f"num_steps={num_steps} holds a current of one step, got shape {tuple(input_.shape)}")
        if self.init_hidden:
            if any(state is not None for state in states):
                raise self._no_states_with_init_hidden()
            states = [getattr(self, name) for name in self._states]
            states = [state if state.shape == input_.shape[1:] else None for state in states]
        else:
            empty = (isinstance(state, torch.Tensor) and state.shape == (0,) for state in states)
            states = [None if none else state for none, state in zip(empty, states, strict=True)]
            for name, state in zip(self._states, states, strict=True):
                if state is not None:
                    check_state(name, state, input_.shape[1:])
        if not self._has_kernels() or self._steps_alone:
            if impl not in ("auto", "reference"):
                raise NotImplementedError(
                    f"impl={str(impl)!r} does not cover {self._why_no_kernels()}; use 'auto' or 'reference'"
                )
            self._check_fits(input_[0])
            if relu:
                input_ = input_.relu()
            if num_steps is not None:
                input_ = input_.expand(num_steps, *input_.shape[1:])
            return self._loop(input_, states)
        self._check_threshold()
        options = {"num_steps": num_steps, "relu": relu, "inplace": self.inplace or inplace, "save": self.save}
        spk_rec, mem = self._run(input_, states[0], impl=impl, **options)
        if self.init_hidden:
            self._put(mem=mem)
        return spk_rec, mem

    def _loop(self, input_, states):
        """The loop over single steps, where no kernel serves."""
        kept = {name: getattr(self, name) for name in self._states}
        zeros = torch.zeros_like(input_[0])
        states = [zeros if state is None else state for state in states]
        spk_rec = []
        try:
            for t, cur in enumerate(input_.unbind(0)):
                fresh = self._begin(cur, states if t == 0 else (None,) * len(states))
                spk_rec.append(self._step(cur))
                if t == 0 and fresh and not is_compiling():
                    self._watch(spk_rec[0], self.mem)
            after = self._after()
        finally:
            if not self.init_hidden:
                self._put(**kept)
        if not self.init_hidden:
            self._last = weakref.ref(after[-1])
        return torch.stack(spk_rec), *after

    def _has_kernels(self):
        """Whether the kernels of ``functional`` compute this neuron."""
        return False

    @property
    def _steps_alone(self):
        """Whether options of the host are on that work on one step only."""
        return self.inhibition or self.state_quant or not self.reset_delay

    def _why_no_kernels(self):
        if self._has_kernels():
            return "inhibition, state_quant or reset_delay=False"
        return type(self).__name__

    def _identity(self, input_, states, multistep, impl="auto", relu=False, num_steps=None, inplace=False):
        """The "identity" warm-up: the current is the output, and the states stay as they are."""
        if relu:
            input_ = input_.relu()
        if num_steps is not None:
            input_ = input_.expand(num_steps, *input_.shape[1:])
        if not multistep and self.init_hidden and not self.output:
            return input_
        zeros = torch.zeros_like(input_[0] if multistep else input_)
        states = zip(self._states, states, strict=True)
        return input_, *(_or_zeros(state, zeros) for name, state in states if name != "spk")

    def _check_threshold(self):
        """A learnable threshold may drift to where 1/u has no meaning, long after the constructor looked at it."""
        if not self.spatial_adj or is_compiling():
            return
        threshold = self.threshold
        # Looking at a value on the device waits for it, so a buffer there is looked at again only after something wrote to
        # it, which its version counter tells. A fused optimiser writes without a trace: a learnable one is always looked at.
        watch = not (threshold.requires_grad or threshold.device.type == "cpu" or threshold.is_inference())
        seen, version = self._checked_threshold or (None, None)
        if not watch or seen is not threshold or version != threshold._version:
            check_threshold_positive(threshold)
            if watch:
                self._checked_threshold = threshold, threshold._version

    def reset_mem(self) -> Tensor | tuple[Tensor, ...]:
        """Set the states to zero, as the host's, and return them; those that a transform of torch.func left become empty."""
        self._put(**{name: _alive(getattr(self, name)) for name in self._states})
        return super().reset_mem()

    # --- a good module ------------------------------------------------------------------------------

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        self.__dict__.update({name: fn(self.__dict__[name]) for name in self._states})
        self._share_v()
        return self

    def _share_v(self):
        """The recurrence holds a V that is not learnt as a plain attribute, which does not follow the neuron's."""
        if "V" in self._buffers:
            self.recurrent.V = self.V

    def _replicate_for_data_parallel(self):
        replica = super()._replicate_for_data_parallel()
        replica.__dict__.update({name: torch.zeros(0) for name in self._states})
        return replica

    def _load_from_state_dict(
        self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
    ):
        rest = (local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._share_v()
        value = state_dict.get(prefix + "reset_mechanism_val")
        if isinstance(value, torch.Tensor) and value.numel() == 1 and not value.is_meta:
            resets = {number: reset for reset, number in self.reset_dict.items()}
            if value.item() in resets:
                self._reset_mechanism = resets[value.item()]
            else:
                error_msgs.append(f"{prefix}reset_mechanism_val must be one of {sorted(resets)}, got {value.item()}")

    def __getstate__(self):
        """For copies and pickle: hidden states without their graph, which autograd does not copy."""
        state = self.__dict__ | {"_graph": None, "_last": None, "_checked_threshold": None, "_checked_decay": None}
        state |= {name: _alive(tensor).detach() for name, tensor in state.items() if isinstance(tensor, torch.Tensor)}
        state["_buffers"] = {
            name: buffer.detach() if buffer is not None and buffer.grad_fn is not None else buffer
            for name, buffer in state["_buffers"].items()
        }
        if "_spike_grad" in state:
            state["_spike_grad"] = as_portable(state["_spike_grad"])
        return state

    def __setstate__(self, state):
        super().__setstate__(state)
        if "_spike_grad" in self.__dict__:
            self._spike_grad = from_portable(self._spike_grad)
        snntorch.SpikingNeuron.instances.append(self)

    def __getattr__(self, name):
        # Ordinary lookup finds the states; the host's probe.AttributeMonitor asks here at once, where buffers are.
        if name in type(self)._states and name in self.__dict__:
            return self.__dict__[name]
        return super().__getattr__(name)

    def extra_repr(self) -> str:
        options = self._options | {"warm_up": None}
        values = {
            name: getattr(self, name, off) for name, off in options.items()
        }  # a constructor may have failed early
        shown = (f"{name}={value!r}" for name, value in values.items() if value != options[name])
        return ", ".join(shown)


def _alive(state):
    """`state`, or an empty one for a tensor of torch.func's, which nothing may be done with outside of its transform."""
    dead = is_of_a_transform(state)
    return torch.zeros(0) if dead else state


def _is_freed(node):
    """Whether a backward pass has freed what the graph behind `node` needs to be gone through again."""
    todo, seen = [node], set()
    while todo and len(seen) < 100:
        node = todo.pop(0)
        if node is None or node in seen:
            continue
        seen.add(node)
        for name in dir(node):
            if name.startswith("_saved_") or name == "saved_tensors":
                try:
                    getattr(node, name)
                except RuntimeError as error:
                    if "second time" in str(error):
                        return True
        todo += [before for before, _ in node.next_functions]
    return False


def _or_zeros(state, zeros):
    """A state to start with, where there is none, or the host's ``init_leaky()``, which is empty."""
    return zeros if state is None or (state.numel() == 0 and zeros.numel()) else state


def _refuse_stale(grad):
    raise RuntimeError(STALE)


class _Fused(Adjusted):
    """A neuron that the kernels of ``functional`` compute."""

    _options = _OPTIONS | _FUSED_OPTIONS

    def _has_kernels(self):
        return True

    def _run(self, input_, mem, **options):
        return lif_multistep(
            input_,
            mem,
            threshold=self.threshold,
            reset_mechanism=self.reset_mechanism,
            spike_grad=self.spike_grad,
            temporal_alpha=self.temporal_alpha,
            graded_spikes_factor=self.graded_spikes_factor,
            **{"beta": self.beta, **options},
        )

    def _kernel_step(self, input_):
        """A step by the kernels: a third of the host's operations on tensors, for an engine that is there anyway."""
        # Half precision in the host's rounding; a compiler fuses operations, and torch.func transforms them.
        kernels = input_.dtype in (torch.float32, torch.float64) and not is_compiling()
        kernels = kernels and not is_transforming()
        spk, mem = self._run(input_.unsqueeze(0), self.mem, impl="auto" if kernels else "reference")
        self._put(mem=mem)
        return spk.squeeze_(0)  # in place, so no view: `SpikingNeuron.detach(spk, mem)` refuses views


class Leaky(_Fused, snntorch.Leaky):
    r"""``snntorch.Leaky`` with BPSA (`spatial_adj`) and BPTA (`temporal_alpha`) gradients, and all steps in one call.

    With both options off it is the host's neuron, outputs and gradients to the bit. With an option on, spikes and
    membranes are still the host's; only the gradients change, to those of Shen, Zhao and Zeng (2022):

    .. math::

        \frac{\partial o[t]}{\partial u[t]} = \frac{o[t]}{u[t]} \quad (9), \qquad
        \delta u[t] = s[t] G[t] + M[t] + \lambda \bigl((1 - o[t]) + \alpha s[t]\bigr)\,\delta u[t+1] \quad (10)

    where s is the derivative of Eq. 9 or of any other surrogate, G and M are the gradients that reach the spike and the
    membrane, and :math:`\alpha` is `temporal_alpha`. The paper's neuron (Eq. 2) has ``reset_mechanism="zero"``; with
    "subtract" the host passes :math:`\lambda` across a spike already and the residual :math:`\lambda \alpha s` adds to it.

    Args:
        *args: those of ``snntorch.Leaky``, in its order.
        **kwargs: the same by name.
        spatial_adj: 1/u where the neuron fired, 0 elsewhere, as the surrogate gradient (needs threshold > 0 and no
            `spike_grad`).
        temporal_alpha: alpha in [0, 1]; 0 is off, the paper uses 0.8. Works with any surrogate.
        inplace: of :meth:`sequence`: the spikes may take the memory of the input, as in ``nn.ReLU(inplace=True)``.
        save: of :meth:`sequence`: what is kept for backward, see :func:`functional.lif_multistep`.

    Attributes:
        spatial_adj: the argument; like those below a plain attribute and not part of the state_dict, which loads strictly
            into ``snntorch.Leaky`` and back.
        temporal_alpha: the argument.
        inplace: the argument.
        save: the argument.
        warm_up: None; "identity" hands the input on as the output, so that the network trains as the artificial network
            it contains (the paper's released code); "surrogate" replaces the surrogate by a logistic one (TSSL-BP).
        mem: the membrane after the last single step ``[B, *]``; no buffer, unlike the host's, so that DDP leaves it alone.

    Shape:
        - ``forward(input_, mem=None)``: one step, as the host's. ``[B, *]`` -> spk and mem ``[B, *]``.
        - ``sequence(input_, mem=None)``: all steps. ``[T, B, *]`` -> spk ``[T, B, *]``, final mem ``[B, *]``.

    Raises:
        ValueError: an option that cannot be honoured (see ``_checks.py``); the message says what to do.
        TypeError: an option of the wrong type.

    Example:
        >>> import torch, snntorch_bpsta as snn
        >>> lif = snn.Leaky(beta=0.9, threshold=0.5, reset_mechanism="zero", spatial_adj=True, temporal_alpha=0.8)
        >>> spk, mem = lif(torch.rand(8, 100), lif.init_leaky())
        >>> spk_rec, mem = lif.sequence(torch.rand(16, 8, 100))

    References:
        Shen, Zhao, Zeng, Patterns 3(6), 2022, doi 10.1016/j.patter.2022.100522.
    """

    _host = snntorch.Leaky

    if TYPE_CHECKING:

        def __init__(self, *args: Any, **kwargs: Unpack[_typing.LeakyArguments]) -> None: ...

    def forward(
        self, input_: Tensor, mem: Tensor | None = None, *, multistep: bool = False, **options: Any
    ) -> Tensor | tuple[Tensor, ...]:
        """One step as ``snntorch.Leaky.forward``; with ``multistep=True`` all steps, see :meth:`sequence`."""
        return self._call(input_, (mem,), multistep, options)

    def sequence(
        self,
        input_: Tensor,
        mem: Tensor | None = None,
        impl: ImplName = "auto",
        *,
        relu: bool = False,
        num_steps: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """All time steps in one call, equal to the loop over single steps; see :func:`functional.lif_multistep`.

        Runs the module's hooks like any call. With ``init_hidden=True`` it starts from the hidden membrane and leaves the
        last one there, as the loop does; otherwise it starts from `mem`, or from zeros, and keeps nothing.

        Args:
            input_: current ``[T, B, *]``.
            mem: membrane before the first step, ``[B, *]``; None, or the empty one that ``init_leaky()`` gives before the
                first call, for zeros.
            impl: "auto", or an implementation by name. `inhibition`, `state_quant` and ``reset_delay=False`` of the host
                work on single steps, and are looped over.
            relu: rectify the current, as ``nn.ReLU`` in front would, without its memory.
            num_steps: T for a constant current, `input_` of one step ``[1, B, *]``.

        Returns:
            tuple: spikes ``[T, B, *]`` and the last membrane ``[B, *]``.
        """
        return self(input_, mem, multistep=True, impl=impl, relu=relu, num_steps=num_steps)


class Lapicque(_Fused, snntorch.Lapicque):
    r"""``snntorch.Lapicque``, the RC circuit, with BPSA and BPTA gradients; see :class:`Leaky` for the options.

    The decay of its membrane is :math:`\lambda = 1 - \Delta t / (RC)`, which Eq. 10 takes. The reset to zero is the
    host's: it wipes the new potential and with it the input of that step,
    :math:`u[t+1] = (1 - o[t])\,(\lambda u[t] + I[t+1] \Delta t / C)`. The residual is added behind the reset.

    :meth:`sequence` runs on Leaky's kernels with ``reset_mechanism`` "subtract" (the default) or "none", on the loop with
    "zero".

    Args:
        *args: those of ``snntorch.Lapicque``, in its order.
        **kwargs: the same by name.
        spatial_adj: as in :class:`Leaky`, and so are the three below.
        temporal_alpha: in [0, 1].
        inplace: of ``sequence``.
        save: of ``sequence``.

    Shape:
        as :class:`Leaky`.

    Raises:
        ValueError, TypeError: as :class:`Leaky`.

    Example:
        >>> import torch, snntorch_bpsta as snn
        >>> lif = snn.Lapicque(R=5, C=1e-3, time_step=1e-3, threshold=0.5, spatial_adj=True, temporal_alpha=0.8)
        >>> spk_rec, mem = lif.sequence(torch.rand(16, 8, 100))
    """

    _host = snntorch.Lapicque
    _checked_decay = None

    if TYPE_CHECKING:

        def __init__(self, *args: Any, **kwargs: Unpack[_typing.LapicqueArguments]) -> None: ...

    @staticmethod
    def _check_host_arguments(given):
        Adjusted._check_host_arguments(given)
        if all(isinstance(given[name], torch.Tensor) or given[name] for name in ("beta", "R", "C")):
            raise ValueError("beta follows from R and C: give at most two of beta, R and C, got all three")
        if given["learn_beta"] and (given["R"] or given["C"]):
            raise ValueError("learn_beta=True needs beta alone: R and C do not follow what it learns; drop R and C")

    def forward(
        self, input_: Tensor, mem: Tensor | None = None, *, multistep: bool = False, **options: Any
    ) -> Tensor | tuple[Tensor, ...]:
        """One step as ``snntorch.Lapicque.forward``; with ``multistep=True`` all steps, see :meth:`sequence`."""
        return self._call(input_, (mem,), multistep, options)

    def sequence(
        self,
        input_: Tensor,
        mem: Tensor | None = None,
        impl: ImplName = "auto",
        *,
        relu: bool = False,
        num_steps: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """All time steps in one call; arguments and results are those of :meth:`Leaky.sequence`."""
        return self(input_, mem, multistep=True, impl=impl, relu=relu, num_steps=num_steps)

    def _decay(self):
        return 1 - self.time_step / (self.R * self.C)

    def _has_kernels(self):
        """Theirs is Leaky's reset, which keeps the input, and a decay in [0, 1]."""
        if self.reset_mechanism == "zero" or is_compiling() or is_transforming():
            return False
        circuit = (self.time_step, self.R, self.C)
        versions = [version(value) for value in circuit]
        seen, seen_versions, in_range = self._checked_decay or ((), None, None)
        if len(seen) != 3 or any(a is not b for a, b in zip(seen, circuit, strict=True)) or versions != seen_versions:
            decay = self._decay()  # one look at the values, which may be far away
            in_range = bool(((decay >= 0) & (decay <= 1)).all())
            self._checked_decay = circuit, versions, in_range
        return in_range

    def _why_no_kernels(self):
        if self.reset_mechanism == "zero":
            return "Lapicque with reset_mechanism='zero', which wipes the input too"
        return super()._why_no_kernels() if self._has_kernels() else "a decay 1 - time_step / (R * C) outside [0, 1]"

    def _run(self, input_, mem, relu=False, inplace=False, **options):
        for name in ("R", "C", "time_step"):
            check_device(name, getattr(self, name), input_.device)
        if relu:
            input_ = input_.relu()
        input_ = input_ * self.R * (1 / (self.R * self.C)) * self.time_step  # in the host's order
        return super()._run(input_, mem, beta=self._decay(), inplace=True, **options)


class RLeaky(Adjusted, snntorch.RLeaky):
    r"""``snntorch.RLeaky``, recurrent, with BPSA and BPTA gradients; see :class:`Leaky` for the options.

    The membrane is :math:`u[t+1] = \lambda u[t] + I[t+1] + W o[t]`, less the reset: with "subtract" (the default) the
    threshold, with "zero" the whole new potential, input and recurrence included (Leaky's keeps the input). The residual of
    Eq. 10 is added behind the reset, so that it crosses it. The recurrence :math:`W o[t]` passes the gradient of the
    spike as it does in the host, under the surrogate chosen, Eq. 9 with `spatial_adj`; the paper has no recurrent neuron.

    Args:
        *args: those of ``snntorch.RLeaky``, in its order.
        **kwargs: the same by name.
        spatial_adj, temporal_alpha: as in :class:`Leaky`.

    Shape:
        - ``forward(input_, spk=None, mem=None)``: one step. ``[B, *]`` -> spk and mem ``[B, *]``.
        - ``sequence(input_, spk=None, mem=None)``: all steps, looped over. ``[T, B, *]`` -> spk ``[T, B, *]``, final mem.

    Raises:
        ValueError, TypeError: as :class:`Leaky`.

    Example:
        >>> import torch, snntorch_bpsta as snn
        >>> lif = snn.RLeaky(beta=0.9, linear_features=100, spatial_adj=True, temporal_alpha=0.8)
        >>> spk_rec, mem = lif.sequence(torch.rand(16, 8, 100))
    """

    _host = snntorch.RLeaky
    _states = ("spk", "mem")

    if TYPE_CHECKING:

        def __init__(self, *args: Any, **kwargs: Unpack[_typing.RLeakyArguments]) -> None: ...

    def forward(
        self,
        input_: Tensor,
        spk: Tensor | None = None,
        mem: Tensor | None = None,
        *,
        multistep: bool = False,
        **options: Any,
    ) -> Tensor | tuple[Tensor, ...]:
        """One step as ``snntorch.RLeaky.forward``; with ``multistep=True`` all steps, see :meth:`sequence`."""
        return self._call(input_, (spk, mem), multistep, options)

    def sequence(
        self,
        input_: Tensor,
        spk: Tensor | None = None,
        mem: Tensor | None = None,
        impl: ImplName = "auto",
        *,
        relu: bool = False,
        num_steps: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """All time steps in one call, looped over: spikes ``[T, B, *]`` and the last mem. See :meth:`Leaky.sequence`."""
        return self(input_, spk, mem, multistep=True, impl=impl, relu=relu, num_steps=num_steps)


class Synaptic(Adjusted, snntorch.Synaptic):
    r"""``snntorch.Synaptic``, with a synaptic current, and BPSA and BPTA gradients; see :class:`Leaky` for the options.

    The current is :math:`i[t+1] = a\, i[t] + I[t+1]` with a the host's `alpha` (another one than `temporal_alpha`), the
    membrane :math:`u[t+1] = \lambda u[t] + i[t+1]`, less the reset: with "subtract" (the default) the threshold, with "zero"
    the whole new potential; the current is not reset. The residual of Eq. 10 is added to the membrane behind the reset; the
    path through the current crosses a spike anyway and stays the host's.

    Args:
        *args: those of ``snntorch.Synaptic``, in its order.
        **kwargs: the same by name.
        spatial_adj, temporal_alpha: as in :class:`Leaky`.

    Shape:
        - ``forward(input_, syn=None, mem=None)``: one step. ``[B, *]`` -> spk, syn and mem ``[B, *]``.
        - ``sequence(input_, syn=None, mem=None)``: all steps, looped over. ``[T, B, *]`` -> spk ``[T, B, *]``, syn, mem.

    Raises:
        ValueError, TypeError: as :class:`Leaky`.

    Example:
        >>> import torch, snntorch_bpsta as snn
        >>> lif = snn.Synaptic(alpha=0.8, beta=0.9, spatial_adj=True, temporal_alpha=0.8)
        >>> spk_rec, syn, mem = lif.sequence(torch.rand(16, 8, 100))
    """

    _host = snntorch.Synaptic
    _states = ("syn", "mem")
    _per_neuron = ("alpha", "beta", "threshold")

    if TYPE_CHECKING:

        def __init__(self, *args: Any, **kwargs: Unpack[_typing.SynapticArguments]) -> None: ...

    def forward(
        self,
        input_: Tensor,
        syn: Tensor | None = None,
        mem: Tensor | None = None,
        *,
        multistep: bool = False,
        **options: Any,
    ) -> Tensor | tuple[Tensor, ...]:
        """One step as ``snntorch.Synaptic.forward``; with ``multistep=True`` all steps, see :meth:`sequence`."""
        return self._call(input_, (syn, mem), multistep, options)

    def sequence(
        self,
        input_: Tensor,
        syn: Tensor | None = None,
        mem: Tensor | None = None,
        impl: ImplName = "auto",
        *,
        relu: bool = False,
        num_steps: int | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """All time steps in one call, looped over: spikes ``[T, B, *]``, last syn and mem. See :meth:`Leaky.sequence`."""
        return self(input_, syn, mem, multistep=True, impl=impl, relu=relu, num_steps=num_steps)


class RSynaptic(Adjusted, snntorch.RSynaptic):
    r"""``snntorch.RSynaptic``, recurrent and with a synaptic current, and BPSA and BPTA gradients.

    :class:`Synaptic` with :math:`i[t+1] = a\, i[t] + I[t+1] + W o[t]`; resets, residual and recurrence are those of
    :class:`Synaptic` and :class:`RLeaky`. ``reset_delay=False``, which fails in the host, works as in :class:`RLeaky`.

    Args:
        *args: those of ``snntorch.RSynaptic``, in its order.
        **kwargs: the same by name.
        spatial_adj, temporal_alpha: as in :class:`Leaky`.

    Shape:
        - ``forward(input_, spk=None, syn=None, mem=None)``: one step. ``[B, *]`` -> spk, syn and mem ``[B, *]``.
        - ``sequence(input_, spk=None, syn=None, mem=None)``: all steps, looped over.

    Raises:
        ValueError, TypeError: as :class:`Leaky`.

    Example:
        >>> import torch, snntorch_bpsta as snn
        >>> lif = snn.RSynaptic(alpha=0.8, beta=0.9, linear_features=100, spatial_adj=True, temporal_alpha=0.8)
        >>> spk_rec, syn, mem = lif.sequence(torch.rand(16, 8, 100))
    """

    _host = snntorch.RSynaptic
    _states = ("spk", "syn", "mem")
    _per_neuron = ("alpha", "beta", "threshold")

    if TYPE_CHECKING:

        def __init__(self, *args: Any, **kwargs: Unpack[_typing.RSynapticArguments]) -> None: ...

    def forward(
        self,
        input_: Tensor,
        spk: Tensor | None = None,
        syn: Tensor | None = None,
        mem: Tensor | None = None,
        *,
        multistep: bool = False,
        **options: Any,
    ) -> Tensor | tuple[Tensor, ...]:
        """One step as ``snntorch.RSynaptic.forward``; with ``multistep=True`` all steps, see :meth:`sequence`."""
        return self._call(input_, (spk, syn, mem), multistep, options)

    def sequence(
        self,
        input_: Tensor,
        spk: Tensor | None = None,
        syn: Tensor | None = None,
        mem: Tensor | None = None,
        impl: ImplName = "auto",
        *,
        relu: bool = False,
        num_steps: int | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """All time steps in one call, looped over: spikes ``[T, B, *]``, last syn and mem. See :meth:`Leaky.sequence`."""
        return self(input_, spk, syn, mem, multistep=True, impl=impl, relu=relu, num_steps=num_steps)


class Alpha(Adjusted, snntorch.Alpha):
    r"""``snntorch.Alpha``, the alpha-function membrane, with BPSA gradients; see :class:`Leaky` for `spatial_adj`.

    Its membrane is :math:`\tau_\alpha` times the sum of an excitatory and an inhibitory current, which are its states.
    :math:`u[t+1]` does not depend on :math:`u[t]`: there is no decay :math:`\lambda` for Eq. 10, the paper defines nothing
    here, and `temporal_alpha` is refused.

    Args:
        *args: those of ``snntorch.Alpha``, in its order.
        **kwargs: the same by name.
        spatial_adj: as in :class:`Leaky`.
        temporal_alpha: 0.

    Shape:
        - ``forward(input_, syn_exc=None, syn_inh=None, mem=None)``: one step. ``[B, *]`` -> spk and the three states.
        - ``sequence(input_, syn_exc=None, syn_inh=None, mem=None)``: all steps, looped over.

    Raises:
        ValueError: a `temporal_alpha` other than 0; else as :class:`Leaky`.
        TypeError: as :class:`Leaky`.

    Example:
        >>> import torch, snntorch_bpsta as snn
        >>> lif = snn.Alpha(alpha=0.9, beta=0.8, threshold=0.2, spatial_adj=True)
        >>> spk_rec, syn_exc, syn_inh, mem = lif.sequence(torch.rand(16, 8, 100))
    """

    _host = snntorch.Alpha
    _states = ("syn_exc", "syn_inh", "mem")
    _per_neuron = ("alpha", "beta", "threshold")

    if TYPE_CHECKING:

        def __init__(self, *args: Any, **kwargs: Unpack[_typing.AlphaArguments]) -> None: ...

    @classmethod
    def _check_options(cls, spatial_adj, temporal_alpha, *args, **kwargs):
        temporal_alpha = super()._check_options(spatial_adj, temporal_alpha, *args, **kwargs)
        if temporal_alpha:
            raise ValueError(
                "temporal_alpha has no meaning for Alpha, whose membrane does not depend on that of the step before: use "
                "temporal_alpha=0, or a Leaky, Lapicque or Synaptic neuron"
            )
        return temporal_alpha

    def _alpha_register_buffer(self, alpha, learn_alpha):
        """As the host's, which assigns a clamped tensor to the parameter and fails; its steps clamp alpha once more."""
        super()._alpha_register_buffer(alpha, False)
        if learn_alpha:
            alpha = nn.Parameter(self._buffers.pop("alpha"))
            self.alpha = alpha

    def forward(
        self,
        input_: Tensor,
        syn_exc: Tensor | None = None,
        syn_inh: Tensor | None = None,
        mem: Tensor | None = None,
        *,
        multistep: bool = False,
        **options: Any,
    ) -> Tensor | tuple[Tensor, ...]:
        """One step as ``snntorch.Alpha.forward``; with ``multistep=True`` all steps, see :meth:`sequence`."""
        return self._call(input_, (syn_exc, syn_inh, mem), multistep, options)

    def sequence(
        self,
        input_: Tensor,
        syn_exc: Tensor | None = None,
        syn_inh: Tensor | None = None,
        mem: Tensor | None = None,
        impl: ImplName = "auto",
        *,
        relu: bool = False,
        num_steps: int | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All time steps in one call, looped over: spikes ``[T, B, *]`` and the last states. See :meth:`Leaky.sequence`."""
        return self(input_, syn_exc, syn_inh, mem, multistep=True, impl=impl, relu=relu, num_steps=num_steps)


FAMILY = (Leaky, RLeaky, Lapicque, Synaptic, RSynaptic, Alpha)
