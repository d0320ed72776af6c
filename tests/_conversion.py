"""Nets of every nesting, and tools to look into them: for the tests of convert, revert, patched and reset."""

import warnings

import pytest
import snntorch
import torch
from _family import (
    OPTIONS,
    SERVED,
    N,
    arguments,
    build,
)
from torch import nn

import snntorch_bpsta as snn

OFF = {"spatial_adj": False, "temporal_alpha": 0.0}
SPATIAL, TEMPORAL, BOTH = (OFF | OPTIONS[name] for name in ("spatial", "temporal", "both"))
CONVERT = {"off": OFF, "spatial": SPATIAL, "temporal": TEMPORAL, "both": BOTH}
each_served = pytest.mark.parametrize(
    "kind, options", [pytest.param(kind, CONVERT[option], id=f"{kind}-{option}") for kind, option in SERVED]
)


# --- tools ----------------------------------------------------------------------------------------


def reported(change, net, **options):
    """What snn.convert or snn.revert reports; it returns the net."""
    reports = []
    assert change(net, report=reports.append, **options) is net
    (report,) = reports
    return report


def convert_quietly(net, **options):
    """Convert where nothing is refused: no warning may come. The report."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return reported(snn.convert, net, **options)


def revert_quietly(net, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return reported(snn.revert, net, **options)


def innards(module):
    """Type and every attribute of a module, dictionaries opened by one level, for a comparison by identity."""
    opened = {
        k: dict(v) if isinstance(v, dict) else set(v) if isinstance(v, set) else v for k, v in vars(module).items()
    }
    return type(module), opened


def assert_untouched(module, before):
    kind, attributes = innards(module)
    assert kind is before[0]
    assert list(attributes) == list(before[1])
    for key, value in attributes.items():
        was = before[1][key]
        if isinstance(value, dict):
            assert list(value) == list(was) and all(value[k] is was[k] for k in value), key
        elif isinstance(value, set):
            assert value == was, key
        else:
            assert value is was, key


def identities(net):
    """Who is who in a net: modules, parameters and the entries of the state_dict, as objects and in order."""
    return {
        "modules": [(name, id(m)) for name, m in net.named_modules(remove_duplicate=False)],
        "parameters": [(name, id(p)) for name, p in net.named_parameters(remove_duplicate=False)],
        "state_dict": [(name, id(v)) for name, v in net.state_dict(keep_vars=True).items()],
        "requires_grad": [p.requires_grad for p in net.parameters()],
        "training": [m.training for m in net.modules()],
    }


def spiking(net):
    return {name: m for name, m in net.named_modules() if isinstance(m, snntorch.SpikingNeuron)}


# --- nets of every nesting ------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.fc = nn.Linear(N, N)
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return self.layers(self.fc(x))


class ListNet(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class DictNet(nn.Module):
    def __init__(self, **layers):
        super().__init__()
        self.layers = nn.ModuleDict(layers)

    def forward(self, x):
        for layer in self.layers.values():
            x = layer(x)
        return x


class SharedNet(nn.Module):
    """One neuron under two names, and called twice a step."""

    def __init__(self, lif):
        super().__init__()
        self.lif = lif
        self.blocks = nn.ModuleList([Block(lif), Block(nn.Identity())])
        self.alias = lif

    def forward(self, x):
        return self.alias(self.blocks[1](self.blocks[0](x)))


def neuron(lib, name, **options):
    """One layer of a net; built with the options where `lib` is ours."""
    own = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in arguments(name).items()}
    return getattr(lib, name)(**own, init_hidden=True, **options)


NETS = {
    "sequential": lambda lib, o: nn.Sequential(
        nn.Linear(N, N),
        neuron(lib, "Leaky", **o),
        nn.Sequential(nn.Linear(N, N), neuron(lib, "Synaptic", **o)),
        nn.Linear(N, 2),
    ),
    "module list": lambda lib, o: ListNet(
        nn.Linear(N, N), neuron(lib, "RLeaky", **o), nn.Linear(N, N), neuron(lib, "Lapicque", **o)
    ),
    "module dict": lambda lib, o: DictNet(fc=nn.Linear(N, N), lif=neuron(lib, "RSynaptic", **o), out=nn.Linear(N, 2)),
    "blocks": lambda lib, o: Block(
        Block(Block(neuron(lib, "Leaky", **o)), neuron(lib, "Leaky", **o)), neuron(lib, "Synaptic", **o)
    ),
    "blocks in lists": lambda lib, o: ListNet(
        nn.ModuleList([Block(neuron(lib, "Leaky", **o)), nn.ModuleList([neuron(lib, "Leaky", **o)])])[0],
        DictNet(a=Block(neuron(lib, "Lapicque", **o))),
    ),
    "the neuron itself": lambda lib, o: neuron(lib, "Leaky", **o),
    "shared": lambda lib, o: SharedNet(neuron(lib, "Leaky", **o)),
}


def make(net, lib, **options):
    torch.manual_seed(0)
    return NETS[net](lib, options)


class MyHost(snntorch.Leaky):
    pass


class MyNeuron(snntorch.SpikingNeuron):
    def forward(self, x):
        return self.fire(x)


class MyOurs(snn.Leaky):
    pass


def surrogate_disabled(name="Leaky"):
    return build(snntorch, name, surrogate_disable=True)


def parametrized():
    lif = build(snntorch, "Leaky", learn_beta=True)
    nn.utils.parametrize.register_parametrization(lif, "beta", nn.Sigmoid())
    return lif


# what it is: (how it is built, the options, words of the reason)
REFUSED = {
    "threshold 0": (lambda: build(snntorch, "Leaky", threshold=0.0), SPATIAL, ["threshold"]),
    "threshold -1": (lambda: build(snntorch, "Synaptic", threshold=-1.0), BOTH, ["threshold"]),
    "one threshold 0": (
        lambda: build(snntorch, "Leaky", threshold=torch.tensor([0.5] * (N - 1) + [0.0]), learn_threshold=True),
        SPATIAL,
        ["threshold"],
    ),
    "surrogate_disable spatial": (surrogate_disabled, SPATIAL, ["surrogate_disable"]),
    "surrogate_disable temporal": (lambda: surrogate_disabled("Synaptic"), TEMPORAL, ["surrogate_disable"]),
    "subclass of the host": (lambda: MyHost(0.9), BOTH, ["MyHost"]),
    "subclass, options off": (lambda: MyHost(0.9), OFF, ["MyHost"]),
    "parametrized": (parametrized, SPATIAL, ["ParametrizedLeaky"]),
    "own neuron": (lambda: MyNeuron(), BOTH, ["MyNeuron"]),
    "SLSTM": (lambda: snntorch.SLSTM(N, N), BOTH, ["SLSTM"]),
    "SLSTM, options off": (lambda: snntorch.SLSTM(N, N), OFF, ["SLSTM"]),
    "SConv2dLSTM": (lambda: snntorch.SConv2dLSTM(2, 2, 3), SPATIAL, ["SConv2dLSTM"]),
    "LeakyParallel": (lambda: snntorch.LeakyParallel(N, N, beta=0.9), SPATIAL, ["LeakyParallel"]),
    "DeltaLeaky": (lambda: snntorch.DeltaLeaky(1.0, 0.9), SPATIAL, ["DeltaLeaky"]),
    "LinearLeaky": (lambda: snntorch.LinearLeaky(0.9, N, N), SPATIAL, ["LinearLeaky"]),
    "AssociativeLeaky": (lambda: snntorch.AssociativeLeaky(N, 2, 2, 4), SPATIAL, ["AssociativeLeaky"]),
}
