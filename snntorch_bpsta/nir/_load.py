"""A graph of NIR as a network."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
from torch import nn

from .._checks import check_instance, check_number
from ..layers import MultiStep
from ..neurons import FAMILY

if TYPE_CHECKING:
    import nir

OURS = {cls.__name__: cls for cls in FAMILY}


def load(graph: nir.NIRGraph, dt: float = 1e-4, **options: Any) -> MultiStep:
    """The network of a graph of NIR, for whole sequences.

    Takes chains of ``Linear``, ``Affine``, ``Conv1d``, ``Conv2d``, ``SumPool2d``, ``AvgPool2d``, ``Flatten``, ``LIF``,
    ``CubaLIF`` and ``IF``, these also with a ``Linear`` or ``Affine`` back to their input; subgraphs and edges in any order;
    parameters per neuron, per channel or one for all.

    Args:
        graph: of :func:`export`, ``nir.read(path)`` or another program.
        dt: seconds in a step. A graph does not say it: it is 1e-4 for snnTorch's, 1e-3 for Norse's, 1 where time constants
            count steps, as in sinabs.
        **options: for all neurons, e.g. ``spatial_adj=True`` or ``learn_beta=True``.

    Returns:
        A :class:`MultiStep`, ``[T, B, *]`` -> ``[T, B, *]``, in the default dtype, on the CPU. Its neurons have
        ``reset_mechanism="zero"`` and, but for ``Leaky``, ``reset_delay=False``, or what :func:`export` noted beside a node.

    Raises:
        ValueError: a node or connection that cannot be expressed; the message has its name and the reason.
        TypeError: `graph` is no ``nir.NIRGraph``.
        ImportError: nir is missing.

    Example:
        >>> import torch, snntorch_bpsta as snn
        >>> from torch import nn
        >>> net = snn.MultiStep(nn.Linear(4, 5), snn.Leaky(beta=0.9, reset_mechanism="zero"))
        >>> same = snn.nir.load(snn.nir.export(net, torch.rand(4)), spatial_adj=True)
        >>> x = torch.rand(16, 8, 4)
        >>> torch.equal(same(x), net(x))
        True
    """
    import nir

    check_instance("graph", graph, nir.NIRGraph, "a nir.NIRGraph; nir.read(path) gives one")
    dt = check_number("dt", dt, "seconds > 0", above=0)
    nodes, edges = _flat(nir, graph)
    start = _only(graph, nir.Input)
    shape = nodes[start].input_type["input"]
    if shape is None or np.size(shape) == 0 or not np.prod(shape):
        _refuse(start, nodes[start], f"it must have the shape of one sample, and has {shape}")
    x = torch.zeros(1, *(int(n) for n in shape))
    layers: list[nn.Module] = []
    for name, back in _walk(nir, nodes, edges, start):
        node = nodes[name]
        if isinstance(node, (nir.Input, nir.Output)):
            continue
        if isinstance(node, (nir.LIF, nir.CubaLIF, nir.IF)):
            layers.append(_neuron(nir, name, node, back and nodes[back], tuple(x.shape[1:]), dt, options))
            continue
        layers.append(_layer(nir, name, node))
        with torch.no_grad():
            try:
                x = layers[-1](x)
            except (RuntimeError, IndexError) as error:
                _refuse(
                    name, node, f"it does not take the shape of one sample that reaches it, {[*x.shape[1:]]}", error
                )
    return MultiStep(*layers)


def _refuse(name: str, node: Any, reason: str, error: Exception | None = None) -> NoReturn:
    raise ValueError(f"node {name!r} (nir.{type(node).__name__}) cannot be read from NIR: {reason}") from error


def _only(graph, kind, name="graph"):
    """The name of the one node of this kind."""
    found = [key for key, node in graph.nodes.items() if isinstance(node, kind)]
    if len(found) != 1:
        _refuse(name, graph, f"it must have one {kind.__name__}, and has {len(found)}")
    return found[0]


def _flat(nir, graph, prefix=""):
    """Nodes by name and edges of a graph, those of subgraphs among them; the subgraphs' Input and Output hand on."""
    nodes, edges, doors = {}, set(), {}
    for name, node in graph.nodes.items():
        if isinstance(node, nir.NIRGraph):
            whole = f"{prefix}{name}"
            inner, wires = _flat(nir, node, f"{whole}.")
            nodes |= inner
            edges |= wires
            doors[name] = (f"{whole}.{_only(node, nir.Input, whole)}", f"{whole}.{_only(node, nir.Output, whole)}")
        else:
            nodes[prefix + name] = node
            doors[name] = (prefix + name, prefix + name)
    for source, target in graph.edges:
        for name in {source, target} - doors.keys():
            _refuse(prefix + name, graph, "an edge names this node, and there is none")
        edges.add((doors[source][1], doors[target][0]))
    return nodes, edges


def _walk(nir, nodes, edges, start):
    """(node, the node of its recurrence or None) from the input to the output."""
    after, before = defaultdict(set), defaultdict(set)
    for source, target in edges:
        after[source].add(target)
        before[target].add(source)
    seen, name = set(), start
    while True:
        loops = {
            n for n in after[name] if isinstance(nodes[n], (nir.Linear, nir.Affine)) and after[n] == before[n] == {name}
        }
        seen |= {name} | loops
        if len(loops) > 1 or loops and not isinstance(nodes[name], (nir.LIF, nir.CubaLIF, nir.IF)):
            _refuse(name, nodes[name], f"one recurrence of a neuron is known, and it has {sorted(loops)}")
        yield name, next(iter(loops), None)
        onward = after[name] - loops
        if not onward and isinstance(nodes[name], nir.Output):
            break
        if len(onward) != 1:
            _refuse(name, nodes[name], f"its output goes to {sorted(onward) or 'nothing'}, and only chains are read")
        previous, name = name, next(iter(onward))
        extra = before[name] - {previous} - {n for n in after[name] if after[n] == before[n] == {name}}
        if extra or name in seen:
            _refuse(name, nodes[name], f"its input comes from {sorted(before[name])}, and only chains are read")
    for name in sorted(nodes.keys() - seen):
        _refuse(name, nodes[name], "nothing leads from the input to it")


def _tensor(array):
    return torch.tensor(np.asarray(array), dtype=torch.get_default_dtype())


def _plain(value):
    """A number, a tuple of numbers or a word, of what a file has for it."""
    value = value.decode() if isinstance(value, bytes) else np.asarray(value).tolist()
    return tuple(value) if isinstance(value, list) else value


def _layer(nir, name, node):
    """The stateless layer of a node."""
    if isinstance(node, (nir.Linear, nir.Affine)):
        layer: Any = nn.Linear(node.weight.shape[1], node.weight.shape[0], bias=isinstance(node, nir.Affine))
    elif isinstance(node, (nir.Conv1d, nir.Conv2d)):
        build = nn.Conv1d if isinstance(node, nir.Conv1d) else nn.Conv2d
        channels, groups = node.weight.shape[1] * int(node.groups), int(node.groups)
        each = [_plain(value) for value in (node.stride, node.padding, node.dilation)]
        layer = build(channels, node.weight.shape[0], node.weight.shape[2:], *each, groups=groups)
    elif isinstance(node, (nir.AvgPool2d, nir.SumPool2d)):
        each = [_plain(value) for value in (node.kernel_size, node.stride, node.padding)]
        return nn.AvgPool2d(*each, divisor_override=1 if isinstance(node, nir.SumPool2d) else None)
    elif isinstance(node, nir.Flatten):
        start, end = (int(dim) + 1 if dim >= 0 else int(dim) for dim in (node.start_dim, node.end_dim))
        return nn.Flatten(start, end)
    else:
        _refuse(name, node, "there is no layer for it here")
    with torch.no_grad():
        layer.weight.copy_(_tensor(node.weight))
        if layer.bias is not None:
            layer.bias.copy_(_tensor(node.bias))
    return layer


def _neuron(nir, name, node, back, shape, dt, options):
    """The neuron of a node, with the recurrence of the node `back`."""

    def of(field):
        value = np.asarray(getattr(node, field), dtype=np.float64)
        if value.size == 1:
            value = value.reshape(())
        elif value.ndim == 1 and len(shape) > 1 and len(value) == shape[0]:
            value = value.reshape(-1, *[1] * (len(shape) - 1))  # per channel
        try:
            np.broadcast_to(value, shape)
        except ValueError as error:
            _refuse(name, node, f"{field} has shape {[*value.shape]}, and a sample has {[*shape]} there", error)
        return value

    def decay(field):
        if not (of(field) >= dt).all():
            _refuse(
                name,
                node,
                f"{field} must be at least a step, dt = {dt:g} s, got {of(field).min():g}: give the right dt",
            )
        return 1 - dt / of(field)

    def one(value):
        return float(value.flat[0]) if (value == value.flat[0]).all() else _tensor(value)

    for field in {"v_leak", "v_reset"} & vars(node).keys():
        if of(field).any():
            _refuse(name, node, f"{field} is not zero, and our neurons leak and reset to zero")
    threshold = of("v_threshold")
    if isinstance(node, nir.CubaLIF):
        decays = {"alpha": decay("tau_syn"), "beta": decay("tau_mem")}
        factor = of("w_in") * dt / of("tau_syn") * of("r") * dt / of("tau_mem")
    elif isinstance(node, nir.LIF):
        decays, factor = {"beta": decay("tau")}, of("r") * dt / of("tau")
    else:
        decays, factor = {"beta": np.ones(())}, of("r") * dt
    if not (factor > 0).all():
        _refuse(name, node, f"its input is multiplied by {factor.min():g}, which must be > 0")
    factor = np.where(np.isclose(factor, 1, rtol=1e-5), 1.0, factor)  # 1 but for the rounding of float32
    own = {key: one(value) for key, value in decays.items()} | {"threshold": one(threshold / factor)}
    kind = ("R" if back is not None else "") + ("Synaptic" if "alpha" in own else "Leaky")
    for key, value in {"reset_mechanism": "zero", "reset_delay": kind == "Leaky"}.items():
        own[key] = _plain(node.metadata.get(key, value))
    own |= options
    if back is None:
        return OURS[kind](**own)
    weight = np.asarray(back.weight)
    if len(shape) != 1 or weight.shape != shape * 2:
        _refuse(name, node, f"weights {[*weight.shape]} of a recurrence do not fit a sample of shape {[*shape]}")
    if isinstance(back, nir.Linear) and np.array_equal(weight, np.diag(np.diag(weight))):
        return OURS[kind](**own, V=_tensor(np.diag(weight)), all_to_all=False)
    neuron = OURS[kind](**own, linear_features=len(weight))
    with torch.no_grad():
        neuron.recurrent.weight.copy_(_tensor(weight))
        neuron.recurrent.bias.copy_(_tensor(back.bias if isinstance(back, nir.Affine) else np.zeros(len(weight))))
    return neuron
