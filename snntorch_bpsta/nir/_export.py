"""A network as a graph of NIR."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import snntorch
import torch
from torch import nn

from .._checks import check_flags, check_module, check_number, check_tensor
from ..layers import MultiStep, NeuronDropout
from ..neurons import FAMILY

if TYPE_CHECKING:
    import nir

OURS = {cls.__name__: cls for cls in FAMILY}
WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d)
NOTHING = (
    nn.Identity,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    NeuronDropout,
)  # at inference


def export(net: nn.Module, sample: torch.Tensor, dt: float = 1e-4, strict: bool = True) -> nir.NIRGraph:
    """A network as a graph of NIR, which ``nir.write(path, graph)`` saves.

    `net` is a chain: ``nn.Sequential``, :class:`MultiStep`, also one in the other, of ``Linear``, ``Conv1d``, ``Conv2d``,
    ``AvgPool2d``, ``Flatten`` and of snnTorch's or our ``Leaky``, ``Synaptic``, ``RLeaky`` and ``RSynaptic``, with whatever
    numbers, per neuron or one for all. Dropout is left out. No state of `net` is touched, and no neuron is run.

    NIR knows one reset: to a value, right after the spike. That is ``reset_mechanism="zero"``, for all but ``Leaky``
    together with ``reset_delay=False`` (a delayed one wipes the input of the next step too). Surrogates and the options of
    training have no place in a graph.

    Args:
        net: the network.
        sample: one sample of its input at one step, ``[*]``, without batch and time; only its shape counts.
        dt: seconds in a step, by which decays become time constants. 1e-4 is what snnTorch's own import expects.
        strict: False also writes neurons with another reset, with NIR's in its place, says so in a warning, and keeps the
            true one in the node's metadata, where :func:`load` finds it. Other programs do not look there.

    Returns:
        A ``nir.NIRGraph`` with one node for each layer, under the layer's name in `net`; a recurrent neuron is a graph of
        its own, of the neuron and its weights. Time constants are float64, weights have their own dtype.

    Raises:
        ValueError: a layer that NIR cannot express; the message has its name and the reason.
        ImportError: nir is missing.

    Example:
        >>> import torch, snntorch_bpsta as snn
        >>> from torch import nn
        >>> net = snn.MultiStep(nn.Linear(4, 5), snn.Leaky(beta=0.9, reset_mechanism="zero"))
        >>> graph = snn.nir.export(net, torch.rand(4))
        >>> sorted(graph.nodes)
        ['0', '1', 'input', 'output']
    """
    import nir

    check_module("net", net)
    check_tensor("sample", sample, 1, "[*], one sample of one step")
    if not sample.numel():
        raise ValueError(f"sample must hold at least one number, got shape {tuple(sample.shape)}")
    if any(tensor.is_meta for tensor in [*net.parameters(), *net.buffers()]):
        raise ValueError("net must have values, and tensors of it are on the device 'meta': load them first")
    dt = check_number("dt", dt, "seconds > 0", above=0)
    check_flags(strict=strict)
    x = torch.zeros(1, *sample.shape)
    nodes: dict[str, Any] = {"input": nir.Input(np.array(sample.shape))}
    others, seen = [], set()
    for name, layer in _chain(net):
        node = None
        if isinstance(layer, snntorch.SpikingNeuron):
            if layer in seen:
                _refuse(name, layer, "it is in the network twice, and its states are one")
            seen.add(layer)
            node = _neuron_node(nir, name, layer, tuple(x.shape[1:]), dt, strict)
            others += [name] if node.metadata else []
        elif not isinstance(layer, NOTHING):
            node = _layer_node(nir, name, layer, x)
            weight = next(layer.parameters(), x)
            with torch.no_grad():
                try:
                    x = layer(x.to(weight)).cpu()
                except (RuntimeError, IndexError) as error:
                    _refuse(
                        name,
                        layer,
                        f"it does not take the shape of one sample that reaches it, {[*x.shape[1:]]}",
                        error,
                    )
        if node is not None:
            nodes[f"{name}_" if name in ("input", "output") else name] = node
    names = [*nodes, "output"]
    nodes["output"] = nir.Output(np.array(x.shape[1:]))
    if others:
        warnings.warn(
            f"the graph resets to zero at once, and {', '.join(others)} of the network do not: other programs will run "
            "another network. Their resets are in the metadata of their nodes",
            stacklevel=2,
        )
    return nir.NIRGraph(nodes, [*zip(names, names[1:], strict=False)])


def _refuse(name: str, layer: nn.Module, reason: str, error: Exception | None = None) -> NoReturn:
    raise ValueError(f"layer {name!r} ({type(layer).__name__}) cannot be written to NIR: {reason}") from error


def _chain(net, prefix=""):
    """(name, layer) of a chain, those inside of others in their place."""
    if type(net) not in (nn.Sequential, MultiStep):
        reason = "only nn.Sequential and MultiStep say in which order their layers run; build the network of these"
        _refuse(prefix.rstrip(".") or "net", net, reason)
    for name, layer in net._modules.items():  # named_children() has one that is there twice only once
        inside = not isinstance(layer, (snntorch.SpikingNeuron, *WEIGHTED)) and any(layer.children())
        yield from _chain(layer, f"{prefix}{name}.") if inside else [(f"{prefix}{name}", layer)]


def _array(tensor):
    tensor = tensor.detach().cpu()
    return (tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()).numpy()


def _layer_node(nir, name, layer, x):
    """The node of a stateless layer; `x` is a batch of one of what reaches it."""
    if isinstance(layer, WEIGHTED) and not any(type(layer).forward is cls.forward for cls in WEIGHTED):
        _refuse(name, layer, "a class of its own has a forward of its own")
    if isinstance(layer, nn.Linear):
        if x.dim() != 2:
            _refuse(
                name,
                layer,
                f"NIR's takes vectors, and it gets {[*x.shape[1:]]}: use a Flatten before it, and a sample without batch",
            )
        if layer.bias is None:
            return nir.Linear(_array(layer.weight))
        return nir.Affine(_array(layer.weight), _array(layer.bias))
    if isinstance(layer, (nn.Conv1d, nn.Conv2d)):
        if layer.padding_mode != "zeros":
            _refuse(name, layer, f"NIR pads with zeros, and its padding_mode is {layer.padding_mode!r}")
        if layer.groups != 1:
            _refuse(
                name, layer, "nir takes the channels of one group for all of them, and cannot read such a file again"
            )
        bias = np.zeros(layer.out_channels, np.float32) if layer.bias is None else _array(layer.bias)
        each = (layer.stride, layer.padding, layer.dilation)
        if isinstance(layer, nn.Conv1d):
            stride, padding, dilation = (value if isinstance(value, str) else value[0] for value in each)
            return nir.Conv1d(x.shape[-1], _array(layer.weight), stride, padding, dilation, layer.groups, bias)
        return nir.Conv2d(tuple(x.shape[-2:]), _array(layer.weight), *each, layer.groups, bias)
    if isinstance(layer, nn.AvgPool2d):
        size, stride, padding = (np.broadcast_to(v, 2).copy() for v in (layer.kernel_size, layer.stride, layer.padding))
        if layer.ceil_mode or not layer.count_include_pad and padding.any() or layer.divisor_override not in (None, 1):
            _refuse(name, layer, "NIR has no ceil_mode, no count_include_pad=False and no divisor_override but 1")
        return (nir.AvgPool2d if layer.divisor_override is None else nir.SumPool2d)(size, stride, padding)
    if isinstance(layer, nn.Flatten):
        start, end = (dim % x.dim() - 1 for dim in (layer.start_dim, layer.end_dim))
        if start < 0:
            _refuse(name, layer, "it flattens the batch too")
        return nir.Flatten({"input": np.array(x.shape[1:])}, start, end)
    _refuse(name, layer, "NIR has no such node")


def _neuron_node(nir, name, neuron, shape, dt, strict):
    """The node of a neuron for feature maps of this shape; with its recurrence a graph."""
    kind = next((kind for kind in OURS if type(neuron) in (getattr(snntorch, kind), OURS[kind])), None)
    if kind not in ("Leaky", "Synaptic", "RLeaky", "RSynaptic"):
        reasons = {
            "Lapicque": "the reset of snnTorch's wipes the input of the next step too, and NIR's does not: use Leaky",
            "Alpha": "NIR has no neuron with two synaptic currents",
            None: "a class of its own has equations of its own",
        }
        _refuse(name, neuron, reasons[kind])
    if neuron.inhibition or neuron.state_quant or (_array(torch.as_tensor(neuron.graded_spikes_factor)) != 1).any():
        _refuse(name, neuron, "NIR has no inhibition, no state_quant and no graded spikes")
    metadata = {}
    if neuron.reset_mechanism != "zero" or neuron.reset_delay and kind != "Leaky":
        if strict:
            reset = f"this one has reset_mechanism={neuron.reset_mechanism!r}, reset_delay={neuron.reset_delay}"
            advice = "set what fits before you train, or write it all the same by strict=False"
            _refuse(name, neuron, f"NIR's neurons are set to v_reset at once, and {reset}: {advice}")
        metadata = {"reset_mechanism": neuron.reset_mechanism, "reset_delay": bool(neuron.reset_delay)}

    def of(value):
        value = _array(torch.as_tensor(value)).astype(np.float64)
        try:
            return np.broadcast_to(value, shape).copy()
        except ValueError as error:
            _refuse(
                name, neuron, f"a parameter of shape {[*value.shape]} does not fit a sample of shape {[*shape]}", error
            )

    decay, threshold, zeros = of(neuron.beta).clip(0, 1), of(neuron.threshold), np.zeros(shape)
    if "Synaptic" in kind:
        alpha = of(neuron.alpha).clip(0, 1)
        if (alpha == 1).any() or (decay == 1).any():
            _refuse(name, neuron, "a decay of 1 has no finite time constant")
        tau, tau_syn = dt / (1 - decay), dt / (1 - alpha)
        node = nir.CubaLIF(tau_syn, tau, tau / dt, zeros, threshold, zeros, w_in=tau_syn / dt, metadata=metadata)
    elif (decay == 1).all():
        node = nir.IF(np.full(shape, 1 / dt), threshold, zeros, metadata=metadata)
    elif (decay == 1).any():
        _refuse(name, neuron, "a decay of 1, next to others below, has no finite time constant")
    else:
        tau = dt / (1 - decay)
        node = nir.LIF(tau, tau / dt, zeros, threshold, zeros, metadata=metadata)
    if not kind.startswith("R"):
        return node
    if len(shape) != 1:
        _refuse(name, neuron, f"a recurrence over feature maps, {[*shape]}, has no form that other programs read")
    if neuron.all_to_all and neuron.recurrent.weight.shape != shape * 2:
        size = [*neuron.recurrent.weight.shape]
        _refuse(name, neuron, f"weights {size} of a recurrence do not fit a sample of shape {[*shape]}")
    if neuron.all_to_all:
        back = _layer_node(nir, name, neuron.recurrent, torch.zeros(1, *shape))
    else:
        back = nir.Linear(np.diag(of(neuron.recurrent.V)))
    nodes = {"input": nir.Input(np.array(shape)), "lif": node, "w_rec": back, "output": nir.Output(np.array(shape))}
    edges = [("input", "lif"), ("lif", "w_rec"), ("w_rec", "lif"), ("lif", "output")]
    return nir.NIRGraph(nodes, edges, metadata=dict(metadata))
