"""Where a group takes its tensors from, which groups run in turns over parts of time, and what is needed how long."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field as _field
from typing import Any, NamedTuple

import torch
from torch import nn

from ..functional.pool import layer_of, windows_of
from ..layers.over_time import steps_in_turn
from .records import Node, Recording, Ref, refs_of


class Rows(NamedTuple):
    """Rows of a group's result, one for each step."""

    unit: Unit
    out: Any
    places: slice

    def are_all_of(self, unit: Unit) -> bool:
        """Whether they are all there are, in order, as many as `unit` has steps."""
        return self.places == slice(0, len(self.unit.members), 1) and len(self.unit.members) == len(unit.members)


# A tensor that is the same at each step, rows of a group, or tensors from here and there.
Source = Ref | Rows | list[Ref]


@dataclass(eq=False)
class Unit:
    """What is run at once: one call, or those of a group."""

    members: list[Node]
    group: bool = False
    selects: tuple[int, list[int]] | None = None  # the dimension and the places of x[t], of a group of these
    sources: list[Source] = _field(default_factory=list)  # of a group: of each tensor among its arguments
    wanted: dict[Any, bool] = _field(default_factory=dict)  # outputs that are needed, and whether those of every step
    outside: set[Any] = _field(default_factory=set)  # outputs that are needed behind its block
    size: int = 0  # bytes of its largest result at one step
    pool: nn.Module | None = None  # of neurons whose spikes nobody needs but a group that pools them: the pooling
    into: Unit | None = None  # that group, or the batch norm behind convolutions, whose work is done here

    @property
    def first(self) -> Node:
        return self.members[0]


@dataclass(eq=False)
class Block:
    """Units that run in turns over parts of time; mostly one."""

    units: list[Unit]
    steps: int  # in one turn
    frees: list[Unit] = _field(default_factory=list)  # whose results nobody needs behind it


Places = dict[Node, tuple[Unit, int]]


def needs(node: Node, of: Places) -> list[Ref]:
    """What a node needs from outside: of a neuron in the middle of its group not the states, which come from the step
    before."""
    return refs_of(node)[: 1 if node.kind == "neuron" and of[node][1] else None]


def outputs_of(recording: Recording) -> list[Ref]:
    """What a pass hands out and leaves behind."""
    return [x for x in recording.result if type(x) is Ref] + [ref for _, ref in recording.left]


def lay_out(recording: Recording, units: list[Unit], of: Places, first: int) -> list[Block]:
    """Blocks of these units, in an order that works as theirs does; the `first` ones stay by themselves."""
    wanted: dict[Node, set[Any]] = {}
    for ref in outputs_of(recording) + [ref for node in of for ref in needs(node, of)]:
        wanted.setdefault(ref.node, set()).add(ref.out)
    for unit in units:
        for node in unit.members:
            for out in wanted.get(node, ()):
                unit.wanted[out] = unit.wanted.get(out, False) or node is not unit.members[-1]
            unit.size = max([unit.size, *(_bytes(value) for value in node.values.values())])
        if unit.group and unit.selects is None:
            rows = [refs_of(node) for node in unit.members]
            count = 1 if unit.first.kind == "neuron" else len(rows[0])
            unit.sources = [_source([row[i] for row in rows], of) for i in range(count)]
    _give_work(recording, units, of)
    blocks = [Block([unit], len(unit.members)) for unit in units[:first]] + _blocks(units[first:], of)
    block_of = {id(unit): block for block in blocks for unit in block.units}
    for ref in outputs_of(recording):
        of[ref.node][0].outside.add(ref.out)
    for node in of:
        for ref in needs(node, of):
            if block_of[id(of[node][0])] is not block_of[id(of[ref.node][0])]:
                of[ref.node][0].outside.add(ref.out)
    _free(recording, blocks, of)
    return blocks


def _give_work(recording, units, of):
    """Let neurons pool their spikes themselves, and convolutions take the batch norm behind them into their weights, where
    nobody else takes what is in between."""
    users: dict[Ref, int] = {}
    for ref in outputs_of(recording) + [ref for look in recording.looks for ref in look.refs]:
        users[ref] = 2
    for node in of:
        for ref in refs_of(node):
            users[ref] = users.get(ref, 0) + 1
    for unit in units:
        source = unit.sources[0] if unit.sources else None
        if not isinstance(source, Rows) or not source.are_all_of(unit) or any(node.effects for node in unit.members):
            continue
        giver = source.unit
        if giver.first.grad != unit.first.grad or any(users[Ref(node, source.out)] > 1 for node in giver.members):
            continue
        if giver.first.kind == "neuron":
            giver.pool = _pool_of(unit, giver) if source.out == "spk" else None
            giver.into = unit if giver.pool is not None else None
        elif _goes_into(unit, giver):
            giver.into = unit


def _pool_of(unit, neuron):
    """The pooling that a group does with the spikes of neurons, if they can do it."""
    args, kwargs = unit.first.args, unit.first.kwargs
    layer = layer_of(unit.first.fn, args[1:], kwargs) if len(unit.sources) == 1 and type(args[0]) is Ref else None
    spk = neuron.first.values.get("spk")
    return layer if layer is not None and windows_of(layer) is not None and spk is not None and spk.dim() == 4 else None


def _goes_into(unit, conv):
    """Whether a group is the batch norm of convolutions, by running statistics, and nobody asks for gradients."""
    norm, first = unit.first, conv.first
    if norm.fn is not nn.functional.batch_norm or norm.grad or given(norm)["training"]:
        return False
    if first.fn not in (torch.conv2d, nn.functional.conv2d) or len(first.args) < 3:
        return False
    fixed = all(type(source) is Ref for source in (*unit.sources[1:], *conv.sources[1:]))
    values = [node.values.get(0) for node in (norm, first)] + [
        ref.node.values.get(ref.out) for ref in refs_of(first)[1:2]
    ]
    known = [value.dtype for value in values if value is not None]
    return fixed and len(known) == 3 and len({*known}) == 1 and known[0] in (torch.float32, torch.float64)


def given(norm: Node) -> dict[str, Any]:
    """The arguments of ``nn.functional.batch_norm``, by name."""
    names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
    defaults = {"weight": None, "bias": None, "training": False, "eps": 1e-5}
    return defaults | dict(zip(names, norm.args, strict=False)) | norm.kwargs


def is_done(unit: Unit) -> bool:
    """Whether the group in front of one has done its work."""
    source = unit.sources[0] if unit.sources else None
    return isinstance(source, Rows) and source.unit.into is unit


def _bytes(value):
    return 0 if value.is_cuda else value.numel() * value.element_size()


def _source(refs: list[Ref], of: Places) -> Source:
    """Where the tensors at one place among the arguments of all members come from."""
    first = refs[0]
    if all(ref == first for ref in refs):
        return first
    unit, start = of[first.node]
    if unit.group and all(of[ref.node][0] is unit and ref.out == first.out for ref in refs):
        places = [of[ref.node][1] for ref in refs]
        step = places[1] - start
        if step > 0 and places == list(range(start, start + step * len(places), step)):
            return Rows(unit, first.out, slice(start, places[-1] + 1, step))
    return refs


def _blocks(units: list[Unit], of: Places) -> list[Block]:
    """Groups of as many steps, each of which takes from those before it the rows of its own steps, may take turns."""
    blocks: list[Block] = []
    todo = units
    while todo:
        inside: list[Unit] = []
        later: list[Unit] = []
        behind: set[int] = set()  # what comes after a unit of the block, and is none
        members: set[int] = set()
        effects = False
        for unit in todo:
            refs = [ref for node in unit.members for ref in needs(node, of)]
            froms = {id(of[ref.node][0]) for ref in refs}
            touches = bool(froms & members)
            joins = unit.group and unit.selects is None and not froms & behind and not _has_effects(unit)
            joins = joins and (not inside or len(unit.members) == len(inside[0].members))
            joins = joins and all(
                isinstance(source, Rows) and source.are_all_of(unit)
                for source in unit.sources
                if any(id(of[ref.node][0]) in members for ref in _refs(source))
            )
            starts = unit.first.args[1:] if unit.first.kind == "neuron" else ()
            joins = joins and not any(id(of[ref.node][0]) in members for ref in starts)
            if joins and unit.size:
                inside.append(unit)
                members.add(id(unit))
            elif touches or froms & behind or (effects and _has_effects(unit)):
                later.append(unit)
                behind.add(id(unit))
                effects = effects or _has_effects(unit)
            else:
                blocks.append(Block([unit], len(unit.members)))
        if inside:
            blocks += _turns(inside)
        todo = later
    return blocks


def _turns(units):
    """A block of units, or one each where all steps at once fit."""
    steps, size = len(units[0].members), max(unit.size for unit in units)
    in_turn = steps_in_turn(steps, size)
    if in_turn == steps:
        return [Block([unit], steps) for unit in units]
    return [Block(units, in_turn)]


def _refs(source):
    if isinstance(source, Rows):
        return [Ref(node, source.out) for node in source.unit.members]
    return [source] if type(source) is Ref else source


def _has_effects(unit):
    return any(node.effects for node in unit.members)


def _free(recording, blocks, of):
    """Note behind which block the results of a unit are needed no more."""
    kept = {id(of[ref.node][0]) for ref in outputs_of(recording)}
    kept |= {id(of[ref.node][0]) for look in recording.looks for ref in look.refs}
    last: dict[int, tuple[Unit, Block]] = {}
    for block in blocks:
        for unit in block.units:
            last[id(unit)] = unit, block
            for node in unit.members:
                for ref in refs_of(node):
                    last[id(of[ref.node][0])] = of[ref.node][0], block
    for unit, block in last.values():
        if id(unit) not in kept:
            block.frees.append(unit)


def stacked_whole(node: Node, of: Places) -> tuple[Rows, int] | None:
    """Where a stack has all steps of a group, in order: the rows, and the dimension in which they are to stand."""
    if node.fn is not torch.stack or not node.args or not isinstance(node.args[0], (list, tuple)) or not node.args[0]:
        return None
    if node.kwargs.keys() - {"dim"} or not all(type(ref) is Ref for ref in node.args[0]):
        return None
    source = _source(list(node.args[0]), of)
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    return (source, dim) if isinstance(source, Rows) else None
