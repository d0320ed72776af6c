"""States that are no buffers: DDP leaves them alone, and they can be copied, pickled and shared out."""

from __future__ import annotations

import copy
import threading
import weakref
from warnings import warn

import snntorch
import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from .._snntorch import set_reset
from .._torch import backward_pass, is_compiling, is_of_a_transform
from ..surrogate import as_portable, from_portable
from .build import Mixin

# What a state_dict of an older snnTorch may lack.
_NEWER = ("reset_mechanism_val", "graded_spikes_factor")


class Stateful(Mixin):
    """A neuron's states, plain attributes of the neuron, and what it remembers of calls before."""

    # What a step takes and leaves behind, in the order of snnTorch's arguments.
    _states: tuple[str, ...] = ("mem",)
    # Of calls before: the types for which a step goes to the kernels at once (None: not decided yet); the backward pass in
    # which each state was written, where it was in one; the graph that they begin; what a sequence handed out; values seen;
    # the first training pass.
    _private = (
        "_direct",
        "_known",
        "_written_in",
        "_graph",
        "_ended",
        "_checked_threshold",
        "_seen_decays",
        "_noticed",
    )

    def _forget(self):
        self.__dict__.update(dict.fromkeys(self._private), _written_in={}, _seen_decays={})
        self.__dict__["__getattr__"] = _Seen(self)
        self._note_written(self._states)

    def __setattr__(self, name, value):
        mine = self.__dict__
        if is_compiling():
            super().__setattr__(name, value)
        elif type(value) is torch.Tensor and (name == "reset" or name in self._states) and name in mine:
            self._put(**{name: value})  # what nn.Module does, in a tenth of the time
        else:
            super().__setattr__(name, value)
            mine["_direct"] = mine["_known"] = None

    def _put(self, **states):
        """Set states, and other attributes that change within a step."""
        if is_compiling():
            for name, state in states.items():
                setattr(self, name, state)
        else:
            self.__dict__.update(states, _ended=None)
            self._note_written(states)

    def _note_written(self, names):
        written, now = self._written_in, backward_pass()
        if now != -1:
            written.update(dict.fromkeys(names, now))
        elif written:
            written.clear()

    def _hidden(self):
        return [getattr(self, name) for name in self._states]

    def _after(self):
        return tuple(getattr(self, name) for name in self._returns)

    def _hand_out(self, states, record):
        """Remember, without keeping them alive, the states that a sequence returns."""
        ended = {}
        for name, state in states.items():
            ended[name] = weakref.ref(state), name in record
        self.__dict__["_ended"] = ended

    def _handed_out(self, name):
        """The last state of this name that a sequence returned, while someone holds it."""
        reference, every = (self._ended or {}).get(name, (_nothing, False))
        state = reference()
        return state[-1] if every and state is not None else state

    def reset_mem(self) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Set the states to zero, as snnTorch's, and return them; those that a transform of torch.func left become empty."""
        self._put(**{name: alive(getattr(self, name)) for name in self._states})
        return super().reset_mem()

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        self.__dict__.update({name: fn(self.__dict__[name]) for name in self._states}, _direct=None, _known=None)
        self._share_v()
        return self

    def _share_v(self):
        """The recurrence holds a V that is not learnt as a plain attribute, which does not follow the neuron's."""
        if "V" in self._buffers:
            self.recurrent.V = self.V

    def _replicate_for_data_parallel(self):
        replica = super()._replicate_for_data_parallel()
        replica.__dict__.update({name: torch.zeros(0) for name in self._states})
        replica._forget()
        return replica

    def _load_from_state_dict(
        self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
    ):
        self._from_older(state_dict, prefix)
        rest = (local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._share_v()
        value = state_dict.get(prefix + "reset_mechanism_val")
        if isinstance(value, torch.Tensor) and value.numel() == 1 and not value.is_meta:
            resets = {number: reset for reset, number in self.reset_dict.items()}
            if value.item() in resets:
                set_reset(self, resets[value.item()])
            else:
                error_msgs.append(f"{prefix}reset_mechanism_val must be one of {sorted(resets)}, got {value.item()}")

    def _from_older(self, state_dict, prefix):
        """What an older snnTorch saved, as if it were saved today: 0.4 had no name of the reset, 0.4 and 0.5 no factor of
        spikes and V once only, 0.8 saved the hidden states too. `state_dict` is the loader's own."""
        if not {prefix + name for name in self._per_neuron} & state_dict.keys():
            return  # nothing of this neuron
        states = [name for name in self._states if prefix + name in state_dict and name not in self._buffers]
        for name in states:
            del state_dict[prefix + name]
        kept = [name for name in _NEWER if name in self._buffers and prefix + name not in state_dict]
        state_dict.update({prefix + name: self._buffers[name] for name in kept})
        again = prefix + "V" in state_dict and "V" in self._parameters and prefix + "recurrent.V" not in state_dict
        if again:
            state_dict[prefix + "recurrent.V"] = state_dict[prefix + "V"]
        what = [f"{', '.join(states)} not loaded, for hidden states are not saved any more"] if states else []
        what += [f"{', '.join(kept)} not there, left as the neuron was built"] if kept else []
        what += ["recurrent.V not there, taken from V"] if again else []
        if what:
            warn(f"the state_dict of a {type(self).__name__} is of an older snnTorch: {'; '.join(what)}", stacklevel=2)

    def __getstate__(self):
        """For copies and pickle: hidden states without their graph, which autograd does not copy."""
        state = {name: value for name, value in self.__dict__.items() if name not in (*self._private, "__getattr__")}
        state |= {name: alive(value).detach() for name, value in state.items() if isinstance(value, torch.Tensor)}
        state["_buffers"] = {
            name: buffer.detach() if buffer is not None and buffer.grad_fn is not None else buffer
            for name, buffer in state["_buffers"].items()
        }
        if "_spike_grad" in state:
            state["_spike_grad"] = as_portable(state["_spike_grad"])
        return state

    def __deepcopy__(self, memo):
        # A parametrization (torch.nn.utils.parametrize) puts a __deepcopy__ of its own beside what has none, and forbids
        # __getstate__; its tensors are parameters, which copy.
        state = Stateful.__getstate__(self) if is_parametrized(self) else self.__getstate__()
        memo[id(self)] = twin = self.__class__.__new__(self.__class__)
        twin.__setstate__(copy.deepcopy(state, memo))
        return twin

    def __setstate__(self, state):
        super().__setstate__(state)
        if "_spike_grad" in self.__dict__:
            self._spike_grad = from_portable(self._spike_grad)
        self._forget()
        self._enlist()

    def _enlist(self):
        """Onto snnTorch's list of all neurons, where its ``utils.reset`` and class methods find this one; without being kept
        alive by it, as snnTorch's are. Those that were freed since are taken off."""
        instances = snntorch.SpikingNeuron.instances
        with _enlisting:
            for k in reversed(range(len(instances))):
                if instances[k] is None or instances[k] is self:
                    del instances[k]
            instances.append(weakref.proxy(self, _freed))


_enlisting = threading.RLock()  # a neuron may be freed at any moment, also while one is put on the list


def _freed(proxy):
    """None in its place, until the next neuron comes: snnTorch may be counting through the list."""
    with _enlisting:
        instances = snntorch.SpikingNeuron.instances
        for k in range(len(instances)):
            if instances[k] is proxy:
                instances[k] = None
                break


class _Seen:
    """``neuron.__getattr__`` as an attribute of the neuron. snnTorch's AttributeMonitor looks a state up by that name, where
    its own neurons have their buffers; Python itself asks the class, and is not slowed down. After a sequence that leaves
    the states of the neuron alone it finds those that the sequence ended with."""

    def __init__(self, neuron):
        self.neuron = weakref.ref(neuron)

    def __call__(self, name):
        neuron = self.neuron()
        if name not in neuron._states:
            return nn.Module.__getattr__(neuron, name)
        ended = neuron._handed_out(name)
        return getattr(neuron, name) if ended is None else ended


def alive(state: torch.Tensor) -> torch.Tensor:
    """`state`, or an empty one for a tensor of torch.func's, which nothing may be done with outside of its transform."""
    return torch.zeros(0) if is_of_a_transform(state) else state


def usable(state: torch.Tensor) -> torch.Tensor:
    """`state`, or a copy of one that an evaluation in inference mode left, which autograd refuses to save."""
    if is_compiling() or not state.is_inference() or torch.is_inference_mode_enabled():
        return state
    return state.clone()


def fed_back(name: str, state: torch.Tensor, input_: torch.Tensor) -> torch.Tensor:
    """`state`, if it is the spikes lifted to the type of a wider current: those that a step under autocast left in half
    precision meet the recurrence in full precision outside of it."""
    half, wide = (torch.bfloat16, torch.float16), (torch.float32, torch.float64)
    lift = name == "spk" and state.dtype in half and input_.dtype in wide
    return state.to(input_.dtype) if lift else state


def _nothing():
    return None
