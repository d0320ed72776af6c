"""What became of the calls of a pass, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .neurons import why_stepped
from .records import Attribute, InPlace, Mask, refs_of

if TYPE_CHECKING:
    from typing import Any

    from .plan import Plan
    from .records import Node


class FoldReport(NamedTuple):
    """What :class:`FoldTime` does with the calls of its net.

    Attributes:
        grouped: layers and functions that are called once for all steps.
        stepped: those that are called at each step, with the reason.
        reason: why the net's own loop runs, and nothing is grouped; None where that is not so.
        speed_up: the time of the net's own loop over ours, where it was measured.
    """

    grouped: tuple[str, ...]
    stepped: dict[str, str]
    reason: str | None = None
    speed_up: float | None = None

    def __str__(self) -> str:
        if self.reason is not None:
            lines = [f"step by step, as the net's own loop: {self.reason}"]
        else:
            lines = [f"once for all steps: {', '.join(self.grouped) or 'nothing'}"]
        lines += [f"step by step: {name}, {reason}" for name, reason in self.stepped.items()]
        if self.speed_up is not None:
            lines.append(f"{self.speed_up:.2f} times as fast as the net's own loop")
        return "\n".join(lines)


def report_of(plan: Plan, twins: dict[Any, Any]) -> FoldReport:
    """What a plan does."""
    grouped: dict[str, None] = {}
    stepped: dict[str, str] = {}
    steps = max((len(unit.members) for unit in plan.units), default=1)
    names = set(plan.recording.names.values())
    lines: dict[tuple[str, str], int] = {}
    for unit in plan.units:
        if not unit.group:
            where = name_of(unit.first, plan), unit.first.line
            lines[where] = lines.get(where, 0) + 1
    for unit in plan.units:
        node, name = unit.first, name_of(unit.first, plan)
        if isinstance(node.fn, Mask):  # its product is the dropout
            continue
        if unit.group:
            values = [value for value in node.values.values() if value.is_floating_point()]
            why = why_stepped(twins[node.fn], values[0].dtype) if node.kind == "neuron" and values else None
            if why is not None:
                stepped[name] = why
            elif unit.selects is None:
                grouped[name] = None
        elif node.repeats and name in names:
            grouped[name] = None
        elif node.kind in ("op", "neuron") and lines[name, node.line] >= max(2, steps - 1):
            stepped[name] = _why(node, plan)
    return FoldReport(tuple(name for name in grouped if name not in stepped), stepped)


def _why(node, plan):
    if plan.keys[node] in plan.apart:
        return "for all steps at once it gave other numbers"
    if "random" in node.effects:
        return "it draws random numbers, which are drawn in the order of the loop"
    if node.effects:
        return 'it takes the statistics of each step; fold="joint" takes those of all steps'
    if node.kind == "neuron":
        return "what comes in, or a state, depends on what came out of its last step in another way than by the neuron"
    return "it goes on from its own result of the step before, or another call at some step"


def name_of(node: Node, plan: Plan) -> str:
    """What a user knows a call by: the layer whose parameters it takes, or the function and the line."""
    names = plan.recording.names
    if node.kind == "neuron":
        return names.get(node.fn) or type(node.fn).__name__
    for ref in refs_of(node):
        if ref.node.kind == "const" and isinstance(ref.node.fn, Attribute) and names.get(ref.node.fn.module):
            return names[ref.node.fn.module]
    if node.layer:
        return node.layer
    function = node.fn.function if isinstance(node.fn, InPlace) else node.fn
    return f"{getattr(function, '__name__', function)}() at {node.line}"
