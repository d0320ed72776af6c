"""A pass in another order: the calls of a layer at all steps as one, where nothing in between needs them one by one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from .guards import Same
from .layout import Block, Places, Unit, lay_out, needs, outputs_of
from .records import Attribute, Given, Node, Recording, Ref, Unfoldable, Unknown, frozen, mapped, refs_of, set_item


@dataclass
class Plan:
    """What a recording became.

    Attributes:
        recording: the pass, without what it did for nothing.
        blocks: what is run, in an order that works.
        looks: how many of them are needed before the numbers can be looked at that decide whether the plan holds.
        of: node -> its unit and its place in it.
        keys: node -> what makes it alike to others; the keys that were kept apart stand in `apart`.
    """

    recording: Recording
    blocks: list[Block]
    looks: int
    of: Places
    keys: dict[Node, int]
    apart: frozenset[int]

    @property
    def units(self) -> list[Unit]:
        return [unit for block in self.blocks for unit in block.units]


def simplified(recording: Recording) -> Recording:
    """Without calls whose results nobody needs, with writes into rows as one stack, and exact repetitions once."""
    nodes = _live(recording)
    nodes = _stacked_writes(recording, nodes)
    _order_of_written(nodes)
    first: dict[Any, Node] = {}
    real: dict[Node, Node] = {}

    def through(x):
        return Ref(real.get(x.node, x.node), x.out) if type(x) is Ref else x

    kept = []
    for node in nodes:
        node.args, node.kwargs = mapped(node.args, through), mapped(node.kwargs, through)
        if node.kind == "op" and not node.effects:
            call = (node.fn, node.grad, frozen((node.args, node.kwargs), lambda ref: (ref.node.index, ref.out)))
            if call in first:
                real[node] = first[call]
                first[call].repeats += 1
                continue
            first[call] = node
        kept.append(node)
    result = mapped(recording.result, through)
    left = [(attribute, through(ref)) for attribute, ref in recording.left]
    looks = [
        look._replace(args=mapped(look.args, through), kwargs=mapped(look.kwargs, through)) for look in recording.looks
    ]
    return recording._replace(nodes=kept, result=result, left=left, looks=looks)


def _live(recording):
    needed: set[Node] = set()
    for look in recording.looks:
        before = _behind([ref.node for ref in look.refs])
        if any(node.kind == "neuron" or node.effects for node in before):
            name = getattr(look.function, "__name__", "")
            raise Unfoldable(f"{name}() takes numbers out of the graph between the steps ({look.line})")
        needed |= before
    needed |= _behind([ref.node for ref in outputs_of(recording)] + [node for node in recording.nodes if node.effects])
    for node in needed:
        if isinstance(node.fn, Unknown):
            raise Unfoldable(node.fn.reason)
    return [node for node in recording.nodes if node in needed]


def _behind(nodes):
    """These nodes, and all that they come from."""
    found: set[Node] = set()
    todo = [*nodes]
    while todo:
        node = todo.pop()
        if node not in found:
            found.add(node)
            todo += [ref.node for ref in refs_of(node)]
    return found


def _order_of_written(nodes):
    """Calls that read what others write to stay in their order too."""
    written = {effect for node in nodes for effect in node.effects if isinstance(effect, Attribute)}
    for node in nodes:
        read = {ref.node.fn for ref in refs_of(node) if ref.node.kind == "const"}
        if read & written:
            node.effects = (*node.effects, *(read & written - set(node.effects)))


def _users(recording, nodes):
    users: dict[Node, int] = {}
    for node in nodes:
        for ref in refs_of(node):
            users[ref.node] = users.get(ref.node, 0) + 1
    for ref in outputs_of(recording) + [ref for look in recording.looks for ref in look.refs]:
        users[ref.node] = users.get(ref.node, 0) + 1
    return users


def _stacked_writes(recording, nodes):
    """``rec[t] = x`` for all t in order, with nothing in between that reads `rec`, is a stack."""
    users, dropped = _users(recording, nodes), set()
    for last in reversed(nodes):
        if last.fn is not set_item or last in dropped:
            continue
        writes = [last]
        while (before := writes[0].args[0].node).fn is set_item and users[before] == 1:
            writes.insert(0, before)
        base, where = writes[0].args[0].node, [_selection(node) for node in writes]
        rows, whole = [node.args[2] for node in writes], last.values.get(0)
        if whole is None or None in where or not all(type(row) is Ref for row in rows) or users[base] != 1:
            continue
        dim, values = where[0][0], [row.node.values.get(row.out) for row in rows]
        shape = (*whole.shape[:dim], *whole.shape[dim + 1 :])
        fits = all(value is not None and value.shape == shape and value.dtype == whole.dtype for value in values)
        if fits and where == [(dim, t) for t in range(whole.shape[dim])]:
            last.fn, last.args, last.kwargs = torch.stack, (rows, dim), {}
            dropped |= set(writes[:-1])
    kept = [node for node in nodes if node not in dropped]
    return _live(recording._replace(nodes=kept)) if dropped else kept


def _selection(node: Node) -> tuple[int, int] | None:
    """The dimension and the place of ``x[t]``, of a node that takes or writes one; None of any other."""
    name = getattr(node.fn, "__name__", "")
    if name not in ("__getitem__", "select", "set_item") or not node.args or type(node.args[0]) is not Ref:
        return None
    base = node.args[0].node.values.get(node.args[0].out)
    if name == "select":
        if base is None or len(node.args) < 3 or not all(type(x) is int for x in node.args[1:3]):
            return None
        dim, at = node.args[1], node.args[2]
    else:
        index = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
        places = [i for i, x in enumerate(index) if type(x) is int]
        whole = all(x is Ellipsis or (type(x) is slice and x == slice(None)) for x in index if type(x) is not int)
        if len(places) != 1 or not whole:
            return None
        dim, at = places[0], index[places[0]]
        if Ellipsis in index[:dim]:
            dim -= len(index)
    if name == "set_item":
        base = node.values.get(0)
    if base is None:
        return (dim, at) if dim >= 0 and at >= 0 else None
    return dim % base.dim(), at % base.shape[dim]


def make(recording: Recording, joint: bool = False, apart: frozenset[int] = frozenset()) -> Plan:
    """A plan for a simplified recording.

    Args:
        recording: from :func:`simplified`.
        joint: normalisations in training may take all steps at once.
        apart: keys whose nodes are not to be grouped.
    """
    selections = {node: _selection(node) for node in recording.nodes if node.kind == "op" and node.fn is not set_item}
    keys = _keys(recording.nodes, selections)
    units = _grouped(recording.nodes, keys, selections, joint, apart)
    while True:
        of = {node: (unit, place) for unit in units for place, node in enumerate(unit.members)}
        ordered, stuck = _ordered(units, of)
        if not stuck:
            break
        broken = next(unit for unit in stuck if unit.group)
        at = units.index(broken)
        units[at : at + 1] = [Unit([node]) for node in broken.members]
    # Numbers that were looked at come first: where they are others now, nothing has happened yet.
    looked_at = {of[node][0] for node in _behind([ref.node for look in recording.looks for ref in look.refs])}
    todo = [node for unit in looked_at for node in unit.members]
    looked_at = {of[node][0] for node in _behind(todo)}
    ordered.sort(key=lambda unit: unit not in looked_at)
    return Plan(recording, lay_out(recording, ordered, of, len(looked_at)), len(looked_at), of, keys, apart)


def _keys(nodes, selections):
    """What makes nodes alike, as numbers: the function, its arguments that are no tensors, and the keys of the others. The
    states of a neuron are left out, so that its steps are alike; and so is the t of x[t], where x is not one of many."""
    many: set[int] | None = None
    for _ in range(6):
        numbers: dict[Any, int] = {}
        keys: dict[Node, int] = {}

        def number(*what, numbers=numbers):
            return numbers.setdefault(what, len(numbers))

        for node in nodes:
            if node.kind in ("input", "const"):
                key = number(node.kind, node.fn)
            elif node.kind == "neuron":
                current = node.args[0]
                key = number("neuron", node.fn, node.chain, node.grad, keys[current.node], current.out)
            else:
                at = selections.get(node)
                base = keys[node.args[0].node] if at else None
                if at and (many is None or node.args[0].node.index not in many):
                    what = ("select", at[0], base, node.args[0].out)
                else:
                    what = frozen((node.args, node.kwargs), lambda ref, keys=keys: (Ref, keys[ref.node], ref.out))
                    what = ("op", node.fn, what)
                key = number(*what, node.grad)
            keys[node] = key
        count: dict[int, int] = {}
        for key in keys.values():
            count[key] = count.get(key, 0) + 1
        now = {node.index for node, key in keys.items() if count[key] > 1}
        if now == many:
            break
        many = now
    return keys


def _grouped(nodes, keys, selections, joint, apart):
    """Units, in the order of their first members, as if nothing stood in between."""
    runs: dict[Any, list[Node]] = {}
    for node in nodes:
        key: Any = keys[node]
        if node.kind in ("input", "const") or key in apart or (node.effects and not (joint and _is_joint(node))):
            key = node
        elif node.kind == "neuron":
            run = runs.get((key, "run"), [])
            if run and run[-1].position + 1 == node.position:
                run.append(node)
                continue
            runs[key, "run"] = runs[node] = [node]
            continue
        runs.setdefault(key, []).append(node)
    units = []
    for members in {id(members): members for members in runs.values()}.values():
        unit = Unit(members, len(members) > 1)
        at = [selections.get(node) for node in members]
        if unit.group and all(at) and len({node.args[0] for node in members}) == 1:
            unit.selects = at[0][0], [place for _, place in at]
        units.append(unit)
    return units


def _is_joint(node):
    """Whether a call writes to running averages alone, and may do so for all steps at once."""
    return all(isinstance(effect, Attribute) for effect in node.effects)


def _ordered(units, of):
    """The units in an order in which each has what it needs, and those for which there is none."""
    before: dict[int, set[int]] = {i: set() for i in range(len(units))}
    number = {id(unit): i for i, unit in enumerate(units)}
    last: dict[Any, Node] = {}
    for node in sorted(of, key=lambda node: node.index):
        unit = number[id(of[node][0])]
        for ref in needs(node, of):
            before[unit].add(number[id(of[ref.node][0])])
        for effect in node.effects:
            if effect in last:
                before[unit].add(number[id(of[last[effect]][0])])
            last[effect] = node
    for i, others in before.items():
        others.discard(i)
    # A unit that needs itself by way of its own members cannot run at once.
    selfish = [
        unit for unit in units if any(of[ref.node][0] is unit for node in unit.members for ref in needs(node, of))
    ]  # fmt: skip
    after: dict[int, list[int]] = {i: [] for i in before}
    for i, others in before.items():
        for j in others:
            after[j].append(i)
    missing = {i: len(others) for i, others in before.items()}
    ready, order = [i for i, count in missing.items() if not count], []
    while ready:
        i = ready.pop()
        order.append(units[i])
        for j in after[i]:
            missing[j] -= 1
            if not missing[j]:
                ready.append(j)
    stuck = {i for i, count in missing.items() if count}
    while True:  # those behind the circle are none of it
        ends = {i for i in stuck if not any(j in stuck for j in after[i])}
        if not ends:
            break
        stuck -= ends
    return order, selfish or [units[i] for i in sorted(stuck)]


def fingerprint(recording: Recording) -> list[tuple[Any, str]]:
    """A simplified pass as something to compare with another, call by call, with the line of each."""
    places = {node: place for place, node in enumerate(recording.nodes)}

    def place(ref):
        return Ref, places[ref.node], ref.out

    rows: list[tuple[Any, str]] = []
    for node in recording.nodes:
        source = Same(node.fn.tensor) if isinstance(node.fn, Given) else node.fn
        arguments = frozen((node.args, node.kwargs), place)
        rows.append(((node.kind, source, node.grad, len(node.effects), arguments), node.line))
    end = [(attribute, place(ref)) for attribute, ref in recording.left]
    rows.append(((frozen(recording.result, place), str(recording.spec), end, recording.counted), ""))
    return rows
