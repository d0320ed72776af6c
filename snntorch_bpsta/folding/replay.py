"""A plan, run."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from .._torch import tree_leaves, tree_unflatten
from . import neurons
from .over_time import over_time
from .records import Apply, Node, Ref, mapped, refs_of
from .seen import EMPTY

if TYPE_CHECKING:
    from torch import Tensor

    from .plan import Plan, Unit
    from .records import Look

# How far a fold may be from the steps, in parts of the largest number: sums in another order.
_ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


class OtherNumbersError(Exception):
    """Numbers that the pass looked at are others now; nothing has been done yet."""


class Runner:
    """Runs a plan, again and again; it holds the twins of the neurons."""

    def __init__(self, plan: Plan, twins: dict[Any, Any]) -> None:
        self.plan, self.twins = plan, twins
        for node in plan.recording.nodes:
            if node.kind == "neuron" and node.fn not in twins:
                twins[node.fn] = neurons.twin_of(node.fn)

    def __call__(self, args: Any, kwargs: Any) -> Any:
        """What the pass returns for these arguments; it leaves behind what the pass does."""
        recording = self.plan.recording
        run = _Run(self.plan, self.twins, [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)])
        for unit in self.plan.units[: self.plan.looks]:
            run.run(unit)
        for look in recording.looks:
            if run.look(look) != look.seen:
                raise OtherNumbersError(f"{getattr(look.function, '__name__', '')}() at {look.line}")
        for unit in self.plan.units[self.plan.looks :]:
            run.run(unit)
        result = [run.value(x) if type(x) is Ref else x for x in recording.result]
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
                run.run(unit)
        return run.failed


class _Run:
    """The values of one run."""

    def __init__(self, plan, twins, inputs):
        self.plan, self.twins, self.inputs = plan, twins, inputs
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
                return last
            self.rows[key] = self.stacks[unit][ref.out].unbind(0)
        return self.rows[key][place]

    def look(self, look: Look) -> Any:
        """Look at numbers again."""
        args, kwargs = mapped((look.args, look.kwargs), lambda x: self.value(x) if type(x) is Ref else x)
        return look.function(*args, **kwargs)

    def run(self, unit: Unit) -> None:
        """Run a unit, and forget what nobody needs any more."""
        node = unit.first
        if node.kind == "input":
            self.single[node] = {0: self.inputs[node.fn]}
        elif node.kind != "const":
            with self._grad(node):
                if unit.group:
                    self.stacks[unit] = self._neurons(unit) if node.kind == "neuron" else self._calls(unit)
                elif node.kind == "neuron":
                    self.single[node] = neurons.step(
                        self.twins[node.fn], self.value(node.args[0]), [self.value(ref) for ref in node.args[1:]]
                    )
                else:
                    self.single[node] = _by_place(self._call(node))
        for other in unit.frees:
            self.stacks.pop(other, None)
            for node in other.members:
                self.single.pop(node, None)
            if other.group:
                for key in [key for key in self.rows if key[0] is other]:
                    del self.rows[key]

    def _grad(self, node):
        """Gradients on or off, as they were."""
        return nullcontext() if node.grad == torch.is_grad_enabled() else torch.set_grad_enabled(node.grad)

    def _call(self, node):
        whole = self._whole(node)
        if whole is not None:
            return whole
        args, kwargs = mapped((node.args, node.kwargs), lambda x: self.value(x) if type(x) is Ref else x)
        return node.fn(*args, **kwargs)

    def _whole(self, node):
        """A stack of all steps of a group, which are together already."""
        if node.fn is not torch.stack or not node.args or not isinstance(node.args[0], (list, tuple)):
            return None
        refs, dim = node.args[0], node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
        unit = self.plan.of[refs[0].node][0]
        if not unit.group or node.kwargs.keys() - {"dim"} or not self._aligned(refs, unit):
            return None
        return self.stacks[unit][refs[0].out].movedim(0, dim)

    def _aligned(self, refs, unit):
        return len(refs) == len(unit.members) and all(
            ref.node is node and ref.out == refs[0].out for ref, node in zip(refs, unit.members, strict=True)
        )

    def _gathered(self, refs: list[Ref]) -> tuple[Tensor, bool]:
        """What stands at one place among the arguments of all members of a group; whether it is one for each."""
        first = refs[0]
        if all(ref == first for ref in refs):
            return self.value(first), False
        of = self.plan.of
        unit, start = of[first.node]
        if unit.group and all(of[ref.node][0] is unit and ref.out == first.out for ref in refs):
            places = [of[ref.node][1] for ref in refs]
            stack, step = self.stacks[unit][first.out], places[1] - start
            if step > 0 and places == list(range(start, start + step * len(places), step)):
                return (stack if len(places) == len(stack) else stack[start : places[-1] + 1 : step]), True
        return torch.stack([self.value(ref) for ref in refs]), True

    def _calls(self, unit):
        """The calls of a group, at once."""
        node = unit.first
        if unit.selects is not None:
            return {0: self._selected(unit)}
        refs = [refs_of(member) for member in unit.members]
        gathered = [self._gathered([row[i] for row in refs]) for i in range(len(refs[0]))]
        if not any(many for _, many in gathered):
            gathered[0] = gathered[0][0].expand(len(refs), *gathered[0][0].shape), True
        values, stacked = [value for value, _ in gathered], [many for _, many in gathered]
        opaque = isinstance(node.fn, Apply)
        return _by_place(over_time(partial(_with, node), getattr(node.fn, "__name__", ""), values, stacked, opaque))

    def _selected(self, unit):
        dim, places = unit.selects
        base = self.value(unit.first.args[0]).movedim(dim, 0)
        if places == list(range(places[0], places[0] + len(places))):
            return base[places[0] : places[0] + len(places)]
        return base[torch.tensor(places, device=base.device)]

    def _neurons(self, unit):
        """All steps of a neuron."""
        node, twin, steps = unit.first, self.twins[unit.first.fn], len(unit.members)
        current, many = self._gathered([member.args[0] for member in unit.members])
        states = [self.value(ref) for ref in node.args[1:]]
        wanted = self._wanted(unit)
        if neurons.why_stepped(twin, current.dtype) is not None or current.dim() < (2 if many else 1):
            return _stepped(twin, current if many else current.expand(steps, *current.shape), states, wanted)
        rows, last = neurons.sequence(twin, current if many else current.unsqueeze(0), steps, states, wanted)
        return rows | {("last", name): state for name, state in last.items() if name not in rows}

    def _wanted(self, unit):
        """Which states are needed, and whether those of every step: the neuron's own next step asks for none."""
        wanted: dict[str, bool] = {}
        for node in unit.members:
            for out in self.plan.uses.get(node, ()):
                wanted[out] = wanted.get(out, False) or node is not unit.members[-1]
        return wanted


class _Check(_Run):
    """A run in which each unit starts from what was recorded, and its results are compared with what was recorded."""

    def __init__(self, plan, twins):
        super().__init__(plan, twins, None)
        self.failed: list[Unit] = []
        for node in self.single:  # they may have been written to since
            self.single[node] = node.values

    def _grad(self, node):
        return nullcontext()

    def run(self, unit):
        recorded = [node.values for node in unit.members]
        if not unit.group or any(node.effects for node in unit.members):
            for node, values in zip(unit.members, recorded, strict=True):
                self.single[node] = values
            return
        try:
            super().run(unit)
        except KeyError:  # a value that is not there any more: nothing to compare from
            pass
        except Exception:  # whatever it is, the steps one by one do not have it
            self.failed.append(unit)
        else:
            exact = unit.first.kind == "neuron"
            if not all(
                _alike(self.value(Ref(node, out)), value, exact and out == "spk")
                for node, values in zip(unit.members, recorded, strict=True)
                for out, value in values.items()
                if out in self.plan.uses.get(node, ()) and getattr(node.fn, "__name__", "") not in EMPTY
            ):
                self.failed.append(unit)
        self._restore(unit, recorded)

    def _restore(self, unit, recorded):
        """Go on from what was recorded."""
        outs = {out for values in recorded for out in values}
        stacks = {}
        for out in outs:
            if all(out in values for values in recorded):
                stacks[out] = torch.stack([values[out] for values in recorded])
        for key in [key for key in self.rows if key[0] is unit]:
            del self.rows[key]
        self.stacks[unit] = stacks


def _alike(got, expected, exact):
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return False
    if exact or expected.dtype not in _ROUNDING:
        return torch.equal(got, expected)
    if not expected.numel():
        return True
    largest = expected[expected.isfinite()].abs().max().item() if expected.isfinite().any() else 0.0
    return torch.allclose(got, expected, rtol=0, atol=_ROUNDING[expected.dtype] * max(largest, 1e-30), equal_nan=True)


def _with(node: Node, *values: Tensor) -> Any:
    """Call the function of a node with other tensors."""
    rest = iter(values)
    args, kwargs = mapped((node.args, node.kwargs), lambda x: next(rest) if type(x) is Ref else x)
    return node.fn(*args, **kwargs)


def _by_place(out: Any) -> dict[Any, Tensor]:
    return {0: out} if isinstance(out, torch.Tensor) else dict(enumerate(out))


def _stepped(twin, current, states, wanted):
    """The steps of a neuron one by one."""
    rows: dict[str, list[Tensor]] = {}
    names = twin._states
    for x in current.unbind(0):
        after = neurons.step(twin, x, states)
        states = [after[name] for name in names]
        for name in {"spk", *wanted}:
            rows.setdefault(name, []).append(after[name])
    return {name: torch.stack(row) for name, row in rows.items()}
