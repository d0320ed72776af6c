"""A plan, run."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils.fusion import fuse_conv_bn_weights

from .._torch import tree_leaves, tree_unflatten
from ..functional.skipping import conv2d, linear
from ..layers.memory_format import joined, usual
from ..layers.over_time import over_time
from ..neurons import Adjusted
from ..telling import tell
from . import neurons
from .layout import Rows, given, is_done, stacked_whole
from .records import Apply, Attribute, Node, Ref, mapped, memory_of, refs_of
from .seen import EMPTY

if TYPE_CHECKING:
    from torch import Tensor

    from .layout import Block, Source, Unit
    from .plan import Plan
    from .records import Look

# How far a fold may be from the steps, in parts of the largest number: sums in another order.
_ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
_ALL = slice(None)
_STEPS = 4  # of a group's steps, about so many are compared


class OtherNumbersError(Exception):
    """Numbers that the pass looked at are others now; nothing has been done yet."""


class Runner:
    """Runs a plan, again and again; it holds the twins of the neurons."""

    def __init__(self, plan: Plan, twins: dict[Any, Any]) -> None:
        self.plan, self.twins = plan, twins
        nodes = plan.recording.nodes
        self.writes = any(isinstance(effect, Attribute) for node in nodes for effect in node.effects)
        for node in plan.recording.nodes:
            if node.kind == "neuron" and node.fn not in twins:
                twins[node.fn] = neurons.twin_of(node.fn)

    def __call__(self, args: Any, kwargs: Any) -> Any:
        """What the pass returns for these arguments; it leaves behind what the pass does."""
        recording = self.plan.recording
        run = _Run(self.plan, self.twins, [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)])
        for block in self.plan.blocks[: self.plan.looks]:
            run.run(block)
        for look in recording.looks:
            if run.look(look) != look.seen:
                raise OtherNumbersError(f"{getattr(look.function, '__name__', '')}() at {look.line}")
        for block in self.plan.blocks[self.plan.looks :]:
            run.run(block)
        result = list(_handed_out(run, recording))
        left: dict[Any, dict[str, Tensor]] = {}
        for attribute, ref in recording.left:
            left.setdefault(attribute.module, {})[attribute.name] = run.value(ref)
        for module, states in left.items():
            neurons.put(module, states)
        with torch.no_grad():
            for attribute, by in recording.counted:
                attribute().add_(by)
        return tree_unflatten(result, recording.spec)

    def failures(self) -> list[Unit]:
        """Groups that, from what came in when the pass was recorded, do not make what came out."""
        run = _Check(self.plan, self.twins)
        with torch.no_grad():
            for unit in self.plan.units:
                run.check(unit)
        return run.failed


def _handed_out(run, recording):
    """The results, each in memory of its own, as in the loop: what the user writes to them is nobody else's."""
    taken = {memory_of(rows): None for stack in run.stacks.values() for rows in stack.values()}
    taken |= dict.fromkeys(run.shared)
    out: dict[Any, Any] = {}
    for x, memory in zip(recording.result, recording.memory, strict=True):
        if type(x) is Ref and (x, memory) not in out:
            t = run.value(x)
            if taken.get(memory_of(t), memory) != memory:
                t = t.clone()
            taken[memory_of(t)] = memory
            out[x, memory] = t
        yield out[x, memory] if type(x) is Ref else x


class _Run:
    """The values of one run."""

    def __init__(self, plan, twins, inputs):
        self.plan, self.twins, self.inputs = plan, twins, inputs
        self.shared: set[Any] = set()  # memory that a result may share with what is kept for backward
        self.single: dict[Node, dict[Any, Tensor]] = {}
        self.stacks: dict[Unit, dict[Any, Tensor]] = {}
        self.rows: dict[tuple[Unit, Any], tuple[Tensor, ...]] = {}
        for node in plan.recording.nodes:  # read before anything is written
            if node.kind == "const":
                self.single[node] = {0: node.fn()}

    def value(self, ref: Ref) -> Tensor:
        """What a node made."""
        unit, place = self.plan.of[ref.node]
        if not unit.group:
            return self.single[ref.node][ref.out]
        key = unit, ref.out
        if key not in self.rows:
            last = self.stacks[unit].get(("last", ref.out))
            if last is not None and place == len(unit.members) - 1:
                return usual(last)
            self.rows[key] = self.stacks[unit][ref.out].unbind(0)
        return usual(self.rows[key][place])

    def look(self, look: Look) -> Any:
        """Look at numbers again."""
        args, kwargs = mapped((look.args, look.kwargs), lambda x: self.value(x) if type(x) is Ref else x)
        return look.function(*args, **kwargs)

    def run(self, block: Block) -> None:
        """Run a block, and forget what nobody needs any more."""
        if block.steps < len(block.units[0].members):
            self._in_turns(block)
        else:
            for unit in block.units:
                self._run(unit)
        for other in block.frees:
            self._forget(other)

    def _forget(self, unit):
        self.stacks.pop(unit, None)
        for out in (*unit.wanted, *(("last", out) for out in unit.wanted)):
            self.rows.pop((unit, out), None)
        for node in unit.members:
            self.single.pop(node, None)

    def _run(self, unit):
        node = unit.first
        if node.kind == "input":
            self.single[node] = {0: self.inputs[node.fn]}
        elif node.kind != "const":
            with self._grad(node):
                if unit.group:
                    self.stacks[unit] = self._part(unit, _ALL, {}, {})
                elif node.kind == "neuron":
                    states = [self.value(ref) for ref in node.args[1:]]
                    self.single[node] = neurons.step(self.twins[node.fn], self.value(node.args[0]), states)
                else:
                    self.single[node] = _by_place(self._call(node))

    def _in_turns(self, block):
        """Part after part of the time through all units, with the states of the neurons handed on."""
        inside, states = set(block.units), {}
        kept: dict[Unit, dict[Any, list[Tensor]]] = {unit: {} for unit in block.units}
        for start in range(0, len(block.units[0].members), block.steps):
            here: dict[Unit, dict[Any, Tensor]] = {}
            for unit in block.units:
                with self._grad(unit.first):
                    here[unit] = self._part(unit, slice(start, start + block.steps), here, states)
            for unit in inside:
                for out, part in here[unit].items():
                    if type(out) is tuple:
                        kept[unit][out] = [part]
                    elif out in unit.outside:
                        kept[unit].setdefault(out, []).append(part)
        for unit, parts in kept.items():
            self.stacks[unit] = {out: joined(rows) for out, rows in parts.items()}

    def _part(self, unit, part, here, states):
        """Some steps of a group."""
        if unit.first.kind == "neuron":
            return self._neurons(unit, part, here, states)
        return self._calls(unit, part, here)

    def _grad(self, node):
        """Gradients on or off, as they were."""
        return nullcontext() if node.grad == torch.is_grad_enabled() else torch.set_grad_enabled(node.grad)

    def _call(self, node):
        whole = stacked_whole(node, self.plan.of)
        if whole is not None:
            rows, dim = whole
            stack = usual(self.stacks[rows.unit][rows.out])
            self.shared.add(memory_of(stack))
            return stack[rows.places].movedim(0, dim)
        args, kwargs = mapped((node.args, node.kwargs), lambda x: self.value(x) if type(x) is Ref else x)
        return node.fn(*args, **kwargs)

    def _tensor(self, source: Source, part: slice, here: Any) -> tuple[Tensor, bool]:
        """What stands at one place among the arguments of these steps of a group; whether it is one for each."""
        if isinstance(source, list):
            return torch.stack([self.value(ref) for ref in source[part]]), True
        if isinstance(source, Ref):
            return self.value(source), False
        if source.unit in here:
            return here[source.unit][source.out], True
        rows = self.stacks[source.unit][source.out]
        return (rows if source.places == slice(0, len(rows), 1) else rows[source.places])[part], True

    def _calls(self, unit, part, here):
        """The calls of a group, at once."""
        node, steps = unit.first, len(unit.members[part])
        if unit.selects is not None:
            return {0: self._selected(unit)}
        if is_done(unit):
            return {0: self._tensor(unit.sources[0], part, here)[0]}
        tensors = [self._tensor(source, part, here) for source in unit.sources]
        if not any(many for _, many in tensors):
            tensors[0] = tensors[0][0].expand(steps, *tensors[0][0].shape), True
        values, stacked = [value for value, _ in tensors], [many for _, many in tensors]
        if unit.into is not None:
            node, values[1:] = self._with_norm(node, unit.into.first, values[1:])
            stacked = [stacked[0], False, False]
        if node.fn in _DOORS and stacked[0] and not any(stacked[1:]):
            neuron = _spiking(unit)
            alone = isinstance(neuron, Adjusted) and neuron._learns_at_spikes()
            door = partial(_DOORS[node.fn], at_spikes=alone)
            out, how = _with(node, values[0].flatten(0, 1), *values[1:], fn=door)
            told = set() if out is None and neuron is None else {ref.node.fn for ref in refs_of(node)}
            for module in {fn.module for fn in told if isinstance(fn, Attribute)}:
                tell(module, how if out is not None else f"dense: {how}")
            if out is not None:
                return {0: out.unflatten(0, values[0].shape[:2])}
        opaque = isinstance(node.fn, Apply)
        return _by_place(over_time(partial(_with, node), getattr(node.fn, "__name__", ""), values, stacked, opaque))

    def _with_norm(self, conv, norm, values):
        """A convolution that does the work of the batch norm behind it: a call with a bias, its weight and bias."""
        weight, bias = (*values, None)[:2]
        own = {name: self.value(x) if type(x) is Ref else x for name, x in given(norm).items() if name != "input"}
        fused = fuse_conv_bn_weights(
            weight, bias, own["running_mean"], own["running_var"], own["eps"], own["weight"], own["bias"]
        )
        with_bias = replace(conv, args=(*conv.args[:2], conv.args[1], *conv.args[3:]))  # wherever it points
        return with_bias, list(fused)

    def _selected(self, unit):
        dim, places = unit.selects
        base = self.value(unit.first.args[0]).movedim(dim, 0)
        if places == list(range(places[0], places[0] + len(places))):
            return base[places[0] : places[0] + len(places)]
        return base[torch.tensor(places, device=base.device)]

    def _neurons(self, unit, part, here, states):
        """Steps of a neuron, from the states that the part before ended with."""
        node, twin, steps = unit.first, self.twins[unit.first.fn], len(unit.members[part])
        current, many = self._tensor(unit.sources[0], part, here)
        started = states.get(unit) or [self.value(ref) for ref in node.args[1:]]
        run = neurons.sequence
        if neurons.why_stepped(twin, current.dtype) is not None or current.dim() < (2 if many else 1):
            run = neurons.stepped
        rows, last = run(twin, current if many else current.unsqueeze(0), steps, started, unit.wanted, unit.pool)
        states[unit] = [last[name] for name in twin._states]
        return rows | {("last", name): state for name, state in last.items() if name not in rows}


class _WrittenOverError(Exception):
    """A recorded value is not there any more."""


class _Check(_Run):
    """Each group by itself, from what was recorded to what was recorded."""

    def __init__(self, plan, twins):
        super().__init__(plan, twins, None)
        self.failed: list[Unit] = []

    def value(self, ref):
        if ref.out not in ref.node.values:
            raise _WrittenOverError
        return ref.node.values[ref.out]

    def _tensor(self, source, part, here):
        if isinstance(source, Ref):
            return self.value(source), False
        if isinstance(source, Rows):
            source = [Ref(node, source.out) for node in source.unit.members[source.places]]
        return torch.stack([self.value(ref) for ref in source[part]]), True

    def check(self, unit: Unit) -> None:
        """Of a neuron all steps, of a function some: it knows nothing of the others."""
        node, count = unit.first, len(unit.members)
        if not unit.group or any(node.effects for node in unit.members) or getattr(node.fn, "__name__", "") in EMPTY:
            return
        if is_done(unit):  # looked at with the neurons
            return
        part = _ALL if node.kind == "neuron" else slice(0, count, -(-count // _STEPS))
        try:
            got = self._part(unit, part, {}, {})
        except _WrittenOverError:  # nothing to compare from
            return
        except Exception:  # whatever it is, the steps one by one do not have it
            self.failed.append(unit)
            return
        if unit.selects is not None:
            got = {0: got[0][part]}
        if any(self._differs(unit, part, got, out) for out in unit.wanted):
            self.failed.append(unit)

    def _differs(self, unit, part, got, out):
        exact, members = unit.first.kind == "neuron" and out == "spk", unit.members[part]
        if unit.into is not None and out in ("spk", 0):  # pooled spikes, or what a batch norm makes of it
            pairs = zip([node.values.get(0) for node in unit.into.members[part]], got[out].unbind(0), strict=True)
            return any(value is not None and not _alike(row, value, exact) for value, row in pairs)
        if out not in got:  # of all steps the last is there alone
            members, rows = members[-1:], [got["last", out]]
        else:
            rows = got[out].unbind(0)
        pairs = [(member.values.get(out), row) for member, row in zip(members, rows, strict=True)]
        return any(value is not None and not _alike(row, value, exact) for value, row in pairs)


def _alike(got, expected, exact):
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return False
    if exact or expected.dtype not in _ROUNDING:
        return torch.equal(got, expected)
    if not expected.numel():
        return True
    largest = expected[expected.isfinite()].abs().max().item() if expected.isfinite().any() else 0.0
    return torch.allclose(got, expected, rtol=0, atol=_ROUNDING[expected.dtype] * max(largest, 1e-30), equal_nan=True)


# Functions that can skip the zeros of spikes.
_DOORS: dict[Any, Any] = {torch.conv2d: conv2d, torch.nn.functional.conv2d: conv2d, torch.nn.functional.linear: linear}
# Functions of spikes that return spikes, of the same neuron: where it did not fire there is none.
_HANDING_ON = ("contiguous", "flatten", "max_pool2d", "permute", "reshape", "squeeze", "transpose", "unsqueeze", "view")


def _spiking(unit: Unit) -> Any:
    """The neuron whose spikes a group takes at each step, as they are or the largest of some; None if it does not."""
    source = unit.sources[0]
    while isinstance(source, Rows):
        node = source.unit.first
        if node.kind == "neuron":
            return node.fn if source.out == "spk" else None
        if getattr(node.fn, "__name__", "") not in _HANDING_ON or len(source.unit.sources) != 1:
            return None
        source = source.unit.sources[0]
    return None


def _with(node: Node, *values: Tensor, fn: Any = None) -> Any:
    """Call the function of a node, or another, with other tensors."""
    rest = iter(values)
    args, kwargs = mapped((node.args, node.kwargs), lambda x: next(rest) if type(x) is Ref else x)
    return (fn or node.fn)(*args, **kwargs)


def _by_place(out: Any) -> dict[Any, Tensor]:
    return {0: out} if isinstance(out, torch.Tensor) else dict(enumerate(out))
