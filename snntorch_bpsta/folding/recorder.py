"""One pass through a loop over time, written down call by call."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

from .._torch import functions_watched, has_hooks, is_compiled, is_view, tree_flatten, tree_leaves
from . import seen
from .guards import attributes, described, tensors_in
from .neurons import Watched, states_of
from .notes import Notes, users_line
from .records import (
    Apply,
    Attribute,
    Counted,
    InPlace,
    Look,
    Mask,
    Node,
    Recording,
    Unfoldable,
    memory_of,
    refs_of,
    set_item,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor, nn

_lock = threading.RLock()
_recording: ContextVar[bool] = ContextVar("snntorch_bpsta.recording", default=False)


def record(
    function: Callable[..., Any], args: Any, kwargs: Any, modules: dict[nn.Module, str], given: Iterable[Tensor]
) -> tuple[Any, Recording | str]:
    """Call ``function(*args, **kwargs)``: what it returns, and the pass, or why it cannot be run in another order. The call
    does what it does without us, whatever comes of the recording.

    Args:
        function, args, kwargs: the call.
        modules: those whose tensors it may use, with their names.
        given: other tensors that it may use.
    """
    with _lock:
        token = _recording.set(True)
        try:
            return _Recorder(modules, given).run(function, args, kwargs)
        finally:
            _recording.reset(token)


def is_recording() -> bool:
    """Whether a pass is being written down."""
    return _recording.get()


class _Recorder(Notes, TorchFunctionMode):
    def __init__(self, modules, given):
        super().__init__(modules)
        self.ends, self.chains, self.counted, self.looks = {}, {}, [], []
        self.shaped = False
        self.given = {id(t): t for t in given}
        self.settings = {m: dict(attributes(m)) for m in modules if states_of(m) is not None}
        for module in modules:
            for name, value in _attributes(module):
                if isinstance(value, torch.Tensor):
                    self.known[id(value)] = Attribute(module, name)
                    self.keep.append(value)  # so that no other tensor takes its id
                else:
                    self.given |= {id(t): t for t in tensors_in(value)}

    def run(self, function, args, kwargs):
        before = {module: _snapshot(module) for module in self.modules}
        self.note(self._begin, args, kwargs)
        with self._neurons(), self._functions(), self:
            out = function(*args, **kwargs)
        with self.quiet():
            recording = self.note(self._end, out, before)
        return out, recording if self.reason is None else self.reason

    def _begin(self, args, kwargs):
        for module, name in self.modules.items():
            if name and has_hooks(module):
                raise Unfoldable(f"{name} has hooks, which see its calls one by one")
            if is_compiled(module):
                raise Unfoldable(f"{name or type(module).__name__} is compiled already")
        for place, t in enumerate(t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)):
            self.own(Node("input", place), {0: t})

    def _end(self, out, before):
        self._check_draws()
        leaves, spec = tree_flatten(out)
        for leaf in leaves:
            if not isinstance(leaf, torch.Tensor) and not seen.is_static(leaf):
                raise Unfoldable(f"a {type(leaf).__name__} is returned, and what is in it is not seen")
        result = [self.ref(leaf) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        left = [each for module in self.modules for each in self._left(module, before[module])]
        counted = {each.attribute for each in self.counted}
        for ref in [ref for node in self.nodes for ref in refs_of(node)]:
            if ref.node.kind == "const" and ref.node.fn in counted:
                raise Unfoldable(f"{self.name(ref.node.fn)} is written to in place and read")
        memory = [memory_of(leaf) for leaf in leaves]
        memory = [memory.index(each) for each in memory]
        return Recording(self.nodes, result, memory, spec, left, self.counted, self.looks, self.modules, self.shaped)

    # --- calls of torch -------------------------------------------------------------------------------

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if not self.watching():
            return func(*args, **kwargs)
        name = getattr(func, "__name__", str(func))
        if name == "__iter__":
            return iter(self.called(torch.unbind, partial(self._seen, torch.unbind, "unbind"), args, kwargs))
        if name in seen.MASKING and not _is_written(args, kwargs):
            return self._masked(func, args, kwargs)
        return self.called(func, partial(self._seen, func, name), args, kwargs)

    def _masked(self, func, args, kwargs):
        """A dropout, as a product with a mask, which is what it is."""
        name = func.__name__
        with self.quiet():
            x, args = (args[0], args[1:]) if args else (kwargs.pop("input"), ())
            mask = Mask(func, x.shape, x.dtype, x.device)
        out = self.called(mask, partial(self._seen, mask, name), args, kwargs)
        return x if self.nodes and not self._drew(out) else self.called(torch.mul, self._multiplied, (x, out), {})

    def _drew(self, mask):
        owner = self.owners.get(id(mask))
        return self.reason is not None or owner is not None and bool(owner.node.effects)

    def _multiplied(self, args, kwargs, out, effects, written):
        self._seen(torch.mul, "mul", args, kwargs, out, effects, written)

    def _seen(self, func, name, args, kwargs, out, effects, written):
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        if seen.asks_shape(func, name):
            self.shaped = self.shaped or any(self.ref(t).node.of_state for t in given)
        if name in seen.LEARNING:
            raise Unfoldable(f"{name}() is called in the pass, between its steps ({users_line()})")
        if name in seen.LOOKS:
            self.looks.append(Look(func, self.taken(args), self.taken(kwargs), out, users_line()))
        elif name == "unbind":
            for i, row in enumerate(out):
                self.op(torch.select, (args[0], kwargs.get("dim", args[1] if len(args) > 1 else 0), i), {}, row)
        elif name in seen.SHAPED_BY_VALUES or (name == "where" and len(args) + len(kwargs) == 1):
            raise Unfoldable(f"{name}() gives a shape that depends on the numbers ({users_line()})")
        elif name in ("__getitem__", "__setitem__") and any(seen.is_mask(i) for i in tree_leaves(args[1])):
            raise Unfoldable(f"an index by a mask gives a shape that depends on the numbers ({users_line()})")
        elif name == "__setitem__":
            self._write(set_item, name, args, kwargs, args[0], effects)
        elif name == "__set__":
            raise Unfoldable(f"an attribute of a tensor is set ({users_line()})")
        elif isinstance(out, torch.Tensor):
            self._returned(func, name, args, kwargs, out, effects, written, given)
        elif isinstance(out, (tuple, list)) and any(isinstance(t, torch.Tensor) for t in out):
            if written or not all(isinstance(t, torch.Tensor) for t in out):
                raise Unfoldable(f"{name}() does more than to return new tensors ({users_line()})")
            self.op(func, args, kwargs, out, tuple(effects))
        elif given and (written or name not in seen.HARMLESS):
            raise Unfoldable(f"{name}() is called, and what it does is not seen ({users_line()})")

    def _returned(self, func, name, args, kwargs, out, effects, written, given):
        """A call that returned one tensor."""
        if kwargs.get("out") is not None:
            raise Unfoldable(f"{name}(out=...) writes to memory of the caller's ({users_line()})")
        if any(out is t for t in given):
            if name not in seen.HARMLESS and (written or seen.is_in_place(name, args, kwargs)):
                self._write(func, name, args, kwargs, out, effects)
            return
        averages = seen.running_averages(name, args, kwargs)
        for t in averages:
            effects.append(self.ref(t).node.fn)
        if any(not any(t is average for average in averages) for t in written):
            raise Unfoldable(f"{name}() writes to its arguments ({users_line()})")
        self.op(func, args, kwargs, out, tuple(effects))

    def _write(self, func, name, args, kwargs, base, effects):
        """An operation in place, as one that makes a new tensor."""
        known, owner = self.known.get(id(base)), self.owners.get(id(base))
        shared = self.storages.get(base.untyped_storage().data_ptr(), set()) - {id(base)}
        if name == "detach_":
            func = torch.Tensor.detach
        elif known is not None and (owner is None or owner.node.kind == "const"):
            number = args[1] if len(args) == 2 else None
            if name in ("add_", "__iadd__") and isinstance(number, int) and known.name in known.module._buffers:
                self.counted.append(Counted(known, number))
                return
            raise Unfoldable(f"{self.name(known)} is written to in place ({users_line()})")
        elif owner is None or owner.node.kind in ("input", "const"):
            raise Unfoldable(f"{name}() writes to a tensor from outside ({users_line()})")
        elif is_view(base) or shared:
            raise Unfoldable(f"{name}() writes to memory that another tensor shares ({users_line()})")
        elif func is not set_item:
            func = InPlace(func)
        old = self.ref(base)
        args, kwargs = self.taken(args), self.taken(kwargs)
        # The memory has new numbers now: those of before cannot be compared with any more.
        old.node.values = {out: value for out, value in old.node.values.items() if value is not base}
        node = Node("op", func, args, kwargs, effects=tuple(effects), line=users_line())
        self.own(node, {0: base})

    # --- neurons and functions of autograd ------------------------------------------------------------

    @contextmanager
    def _neurons(self):
        """Inside, the steps of neurons are one call each."""
        wrapped = []
        try:
            for module in self.modules:
                if states_of(module) is not None and not has_hooks(module):
                    module.__dict__["forward"] = Watched(self._neuron, module, states_of(module))
                    wrapped.append(module)
            yield
        finally:
            for module in wrapped:
                del module.__dict__["forward"]

    def _neuron(self, neuron, names, *args, **kwargs):
        forward = partial(type(neuron).forward, neuron)
        if not self.watching():
            return forward(*args, **kwargs)
        with self.quiet():
            given = self.note(self._states_given, neuron, names, args, kwargs)
        return self.called(forward, partial(self._stepped, neuron, names, given), args, kwargs)

    def _states_given(self, neuron, names, args, kwargs):
        """The states that a step of a neuron begins with."""
        args = (*args, kwargs["input_"]) if "input_" in kwargs and not args else args
        states = dict(zip(names, args[1:], strict=False)) | {k: v for k, v in kwargs.items() if k != "input_"}
        if (
            not args
            or states.keys() - set(names)
            or len(args) > 1 + len(names)
            or not isinstance(args[0], torch.Tensor)
        ):
            raise Unfoldable(f"{self.modules[neuron]} is called in a way of its own ({users_line()})")
        for name, value in attributes(neuron):
            if self.settings[neuron].get(name, self) is not value:
                raise Unfoldable(f"{self.modules[neuron]}.{name} is changed in the pass ({users_line()})")
        given = [getattr(neuron, name) if states.get(name) is None else states[name] for name in names]
        if not all(isinstance(state, torch.Tensor) for state in given):
            raise Unfoldable(f"{self.modules[neuron]} begins with a state that is no tensor ({users_line()})")
        return [self.ref(t) for t in (args[0], *given)]

    def _stepped(self, neuron, names, refs, args, kwargs, out, effects, written):
        outs = out if isinstance(out, tuple) else (out,)
        after = [getattr(neuron, name) for name in names]
        if not neuron.init_hidden:
            after = list(outs) if "spk" in names else list(outs[1:])
        if len(after) != len(names) or effects or written:
            raise Unfoldable(f"{self.modules[neuron]} does more than a step of its class ({users_line()})")
        values = dict(zip(names, after, strict=True)) | {"spk": outs[0]}
        chain, position = self._chain(neuron, names, refs[1:])
        node = Node("neuron", neuron, tuple(refs), line=users_line(), chain=chain, position=position)
        self.ends[neuron, chain] = self.own(node, values)

    def _chain(self, neuron, names, states):
        """Which run through time a step goes on with, from the states that it begins with, and its place in it."""
        for chain in range(self.chains.get(neuron, 0)):
            end = self.ends[neuron, chain]
            if all(ref.node is end and ref.out == name for ref, name in zip(states, names, strict=True)):
                return chain, end.position + 1
        self.chains[neuron] = self.chains.get(neuron, 0) + 1
        return self.chains[neuron] - 1, 0

    @contextmanager
    def _functions(self):
        """Inside, a function of autograd is one call, for its gradient is its own."""

        def watched(cls, call, args, kwargs):
            if not self.watching():
                return call(*args, **kwargs)
            return self.called(call, partial(self._applied, cls), args, kwargs)

        with functions_watched(watched):
            yield

    def _applied(self, cls, args, kwargs, out, effects, written):
        given, outs = tree_leaves((args, kwargs)), out if isinstance(out, (tuple, list)) else (out,)
        if written or not all(isinstance(t, torch.Tensor) and not any(t is x for x in given) for t in outs):
            raise Unfoldable(f"{cls.__name__} returns something else than new tensors ({users_line()})")
        self.op(Apply(cls), args, kwargs, out, tuple(effects))

    # --- what a pass leaves behind --------------------------------------------------------------------

    def _left(self, module, before):
        after = _snapshot(module)
        for name in before.keys() | after.keys():
            old, new, where = before.get(name), after.get(name), Attribute(module, name)
            if isinstance(new, torch.Tensor):
                ref = self.ref(new)
                if ref.node.kind != "const" or ref.node.fn != where:
                    yield where, ref
            elif isinstance(old, torch.Tensor) or old != new:
                raise Unfoldable(f"{self.name(where)} is changed in the pass, and it is no tensor")


def _is_written(args, kwargs):
    """Whether a dropout works in place, or in a way that is left to it."""
    return kwargs.get("inplace") or (len(args) > 3 and args[3]) or not (args or "input" in kwargs)


def _attributes(module):
    """Attributes of a module, the states of a neuron too."""
    yield from attributes(module)
    for name in states_of(module) or ():
        yield name, getattr(module, name)


def _snapshot(module):
    """The attributes of a module: tensors as they are, the rest as something to compare."""
    return {name: value if isinstance(value, torch.Tensor) else described(value) for name, value in _attributes(module)}
