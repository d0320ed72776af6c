"""convert, revert, patched and reset: in place, at any depth, with a report, and nothing lost on the way."""

import asyncio
import contextvars
import copy
import inspect
import io
import pickle
import threading
import types
import warnings

import pytest
import snntorch
import torch
from _versions import SNNTORCH
from snntorch import surrogate as host_surrogate
from snntorch import utils as host_utils
from snntorch.functional import quant
from torch import nn

import snntorch_bpsta as snn

T, B, N = 6, 3, 7

pytestmark = pytest.mark.filterwarnings("ignore:Inhibition is an unstable feature")

STATES = {
    "Leaky": ("mem",),
    "RLeaky": ("spk", "mem"),
    "Lapicque": ("mem",),
    "Synaptic": ("syn", "mem"),
    "RSynaptic": ("spk", "syn", "mem"),
    "Alpha": ("syn_exc", "syn_inh", "mem"),
}
CLASSES = list(STATES)
BASE = {
    "Leaky": dict(beta=0.9, threshold=0.5),
    "RLeaky": dict(beta=0.9, linear_features=N, threshold=0.5),
    "Lapicque": dict(beta=0.5, threshold=0.3),
    "Synaptic": dict(alpha=0.8, beta=0.7, threshold=0.5),
    "RSynaptic": dict(alpha=0.8, beta=0.7, linear_features=N, threshold=0.5),
    "Alpha": dict(alpha=0.9, beta=0.4, threshold=0.2),
}
OFF = dict(spatial_adj=False, temporal_alpha=0.0)
SPATIAL = dict(spatial_adj=True, temporal_alpha=0.0)
TEMPORAL = dict(spatial_adj=False, temporal_alpha=0.8)
BOTH = dict(spatial_adj=True, temporal_alpha=0.8)
OPTIONS = {"off": OFF, "spatial": SPATIAL, "temporal": TEMPORAL, "both": BOTH}
# Alpha has no membrane of its own, and refuses temporal_alpha.
SERVED = [
    pytest.param(name, options, id=f"{name}-{key}")
    for name in CLASSES
    for key, options in OPTIONS.items()
    if not (name == "Alpha" and options["temporal_alpha"])
]


# --- tools ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The tensors are tiny, and PyTorch's threads wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def currents(*shape, seed=0, dtype=torch.float32):
    """Mixed: neurons that stay silent, fire now and then, fire always, and fall below zero."""
    gen = torch.Generator().manual_seed(seed)
    return (torch.rand(*shape, generator=gen, dtype=torch.float64) * 2.0 - 0.4).to(dtype)


def build(lib, name, seed=0, **kwargs):
    """A neuron of the class `name` of `lib`, with tensors of its own and weights that depend on the seed only."""
    torch.manual_seed(seed)
    own = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in (BASE[name] | kwargs).items()}
    return getattr(lib, name)(**own)


def drive(net, cur):
    """Step a net that keeps its states itself; outputs and the gradients of the input and every parameter, by name."""
    net.zero_grad()
    cur = cur.clone().requires_grad_()
    out = torch.stack([net(c) for c in cur])
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(7))
    (out * weights).sum().backward()
    result = {"out": out.detach(), "dinput": cur.grad}
    return result | {f"d{name}": p.grad for name, p in net.named_parameters()}


def drive_neuron(lif, cur):
    """The same for one neuron, whatever it keeps and returns; every state is an output too."""
    lif.zero_grad()
    kind = next(name for name in CLASSES if isinstance(lif, getattr(snntorch, name)))
    cur = cur.clone().requires_grad_()
    states = () if lif.init_hidden else tuple(torch.zeros_like(cur[0]) for _ in STATES[kind])
    rows = []
    for c in cur:
        out = lif(c, *states)
        out = out if isinstance(out, tuple) else (out,)
        if not lif.init_hidden:
            states = out[-len(STATES[kind]) :]
        rows.append(torch.stack(out))
    rows = torch.stack(rows)
    weights = torch.randn(rows.shape, generator=torch.Generator().manual_seed(7))
    (rows * weights).sum().backward()
    result = {"out": rows.detach(), "dinput": cur.grad}
    return result | {f"d{name}": p.grad for name, p in lif.named_parameters()}


def assert_same(ours, expected, names=None):
    """Equal to the bit and of one dtype; NaN equals NaN."""
    if names is None:
        assert ours.keys() == expected.keys()
    for name in names or expected:
        a, b = ours[name], expected[name]
        if a is None or b is None:
            assert a is b, name
            continue
        assert a.dtype == b.dtype and a.shape == b.shape, name
        assert bool(((a == b) | (a.isnan() & b.isnan())).all()), f"{name}: up to {(a - b).abs().max().item():.3e}"


def convert_quietly(net, **options):
    """Convert where nothing is refused: no warning may come."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return snn.convert(net, **options)


def revert_quietly(net, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return snn.revert(net, **options)


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
    own = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in BASE[name].items()}
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


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("net", NETS)
def test_a_converted_net_is_one_built_directly(net, options):
    host, direct, plain = make(net, snntorch), make(net, snn, **options), make(net, snntorch)
    names = tuple(spiking(host))
    assert names, "the net has no neuron"
    report = convert_quietly(host, **options)
    assert report.changed == names and report.unchanged == () and not report.refused
    for name, module in spiking(host).items():
        assert type(module) is type(spiking(direct)[name]) is getattr(snn, type(module).__name__)
        assert (module.spatial_adj, module.temporal_alpha) == (options["spatial_adj"], options["temporal_alpha"])
    cur = currents(T, B, N)
    converted = drive(host, cur)
    assert_same(converted, drive(direct, cur))
    before = drive(plain, cur)
    assert torch.equal(converted["out"], before["out"]), "spikes changed"
    if options is OFF:
        assert_same(converted, before)
    else:
        assert not torch.equal(converted["dinput"], before["dinput"]), "the options have no effect"


@pytest.mark.parametrize("net", NETS)
def test_everything_keeps_its_identity(net):
    host = make(net, snntorch)
    next(host.parameters(), torch.zeros(())).requires_grad_(False)
    host.eval()
    before, values = identities(host), copy.deepcopy(host.state_dict())
    convert_quietly(host, **BOTH)
    assert identities(host) == before
    after = host.state_dict()
    assert all(torch.equal(after[k], v) for k, v in values.items())
    host.load_state_dict(values, strict=True)
    make(net, snntorch).load_state_dict(host.state_dict(), strict=True)
    make(net, snn, **BOTH).load_state_dict(host.state_dict(), strict=True)
    revert_quietly(host)
    assert identities(host) == before


@pytest.mark.parametrize("net", NETS)
def test_reverted_is_as_before(net):
    host, plain, never = make(net, snntorch), make(net, snntorch), make(net, snntorch)
    convert_quietly(host, **BOTH)
    report = revert_quietly(host)
    assert report.changed == tuple(spiking(plain)) and report.unchanged == () and not report.refused
    for name, module in spiking(host).items():
        was = spiking(never)[name]
        assert type(module) is type(was)
        assert sorted(vars(module)) == sorted(vars(was)), "attributes"
        assert list(dict(module.named_buffers())) == list(dict(was.named_buffers())), "buffers"
        assert module._non_persistent_buffers_set == was._non_persistent_buffers_set
        assert module.state_function.__self__ is module
        assert module.state_function.__func__ is was.state_function.__func__
    cur = currents(T, B, N)
    assert_same(drive(host, cur), drive(plain, cur))
    assert [m.mem.shape for m in spiking(host).values()] == [m.mem.shape for m in spiking(plain).values()]


@pytest.mark.parametrize("reset", ["subtract", "zero"])
@pytest.mark.parametrize("name, options", SERVED)
def test_every_class(name, options, reset):
    kwargs = dict(reset_mechanism=reset)
    host, plain = build(snntorch, name, **kwargs), build(snntorch, name, **kwargs)
    direct = build(snn, name, **kwargs, **options)
    assert convert_quietly(host, **options).changed == ("",)
    assert type(host) is getattr(snn, name)
    cur = currents(T, B, N)
    converted, before = drive_neuron(host, cur), drive_neuron(plain, cur)
    assert_same(converted, drive_neuron(direct, cur))
    assert torch.equal(converted["out"], before["out"])
    if options is OFF:
        assert_same(converted, before)
    assert revert_quietly(host).changed == ("",)
    assert type(host) is getattr(snntorch, name)
    assert_same(drive_neuron(host, cur), before)


VARIANTS = {
    "learn": ("Leaky", dict(learn_beta=True, learn_threshold=True)),
    "graded": ("Leaky", dict(graded_spikes_factor=0.5, learn_graded_spikes_factor=True)),
    "per neuron": ("Leaky", dict(beta=torch.linspace(0.3, 0.95, N), threshold=torch.linspace(0.3, 0.9, N))),
    "inhibition": ("Leaky", dict(inhibition=True)),
    "state_quant": ("Synaptic", dict(state_quant=quant.state_quant(num_bits=4, threshold=1.0))),
    "init_hidden": ("Synaptic", dict(init_hidden=True)),
    "output": ("RSynaptic", dict(init_hidden=True, output=True)),
    "output alpha": ("Alpha", dict(init_hidden=True, output=True)),
    "one to one": ("RLeaky", dict(linear_features=None, all_to_all=False, V=torch.linspace(-0.5, 0.5, N))),
    "fixed recurrence": ("RSynaptic", dict(learn_recurrent=False)),
    "R and C": ("Lapicque", dict(beta=False, R=2.0, C=3.0, time_step=0.5)),
    "learn alpha": ("Synaptic", dict(learn_alpha=True, learn_beta=True)),
}


@pytest.mark.parametrize("option", ["off", "spatial", "both"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_hosts_arguments_stay(variant, option):
    name, kwargs = VARIANTS[variant]
    options = OPTIONS["spatial" if name == "Alpha" and option == "both" else option]
    host, direct, plain = (
        build(snntorch, name, **kwargs),
        build(snn, name, **kwargs, **options),
        build(snntorch, name, **kwargs),
    )
    convert_quietly(host, **options)
    cur = currents(T, B, N)
    before = drive_neuron(plain, cur)
    converted = drive_neuron(host, cur)
    assert_same(converted, drive_neuron(direct, cur))
    assert torch.equal(converted["out"], before["out"])
    revert_quietly(host)
    snn.reset(host)
    snn.reset(plain)
    assert_same(drive_neuron(host, cur), drive_neuron(plain, cur))


@pytest.mark.parametrize("name", ["Leaky", "RLeaky", "Synaptic", "RSynaptic"])
def test_reset_delay_false_goes_with_spatial(name):
    kwargs = dict(reset_delay=False)
    host, direct = build(snntorch, name, **kwargs), build(snn, name, **kwargs, spatial_adj=True)
    convert_quietly(host, spatial_adj=True)
    assert host.reset_delay is False
    cur = currents(T, B, N)
    assert_same(drive_neuron(host, cur), drive_neuron(direct, cur))


@pytest.mark.parametrize("how", ["sequence", "multistep"])
@pytest.mark.parametrize("name, options", SERVED)
def test_all_steps_work_after_it(name, options, how):
    host, direct = build(snntorch, name), build(snn, name, **options)
    convert_quietly(host, **options)
    cur = currents(T, B, N)
    ours, expected = (lif.sequence(cur) if how == "sequence" else lif(cur, multistep=True) for lif in (host, direct))
    assert len(ours) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


def test_options_of_sequence_have_their_defaults():
    lif = build(snntorch, "Leaky")
    convert_quietly(lif, spatial_adj=True)
    assert (lif.inplace, lif.save, lif.warm_up) == (False, None, None)
    assert "spatial_adj=True" in repr(lif)
    revert_quietly(lif)
    assert repr(lif) == repr(build(snntorch, "Leaky"))


# --- idempotent, and the options set anew ---------------------------------------------------------


@pytest.mark.parametrize("net", NETS)
def test_twice_is_once(net):
    host = make(net, snntorch)
    names = tuple(spiking(host))
    convert_quietly(host, **BOTH)
    before = [innards(m) for m in host.modules()]
    report = convert_quietly(host, **BOTH)
    assert report.changed == () and report.unchanged == names and not report.refused
    for module, was in zip(host.modules(), before, strict=True):
        assert_untouched(module, was)
    revert_quietly(host)
    before = [innards(m) for m in host.modules()]
    report = revert_quietly(host)
    assert report.changed == () and not report.refused
    for module, was in zip(host.modules(), before, strict=True):
        assert_untouched(module, was)


@pytest.mark.parametrize("second", OPTIONS)
@pytest.mark.parametrize("first", OPTIONS)
def test_options_are_set_anew(first, second):
    host, direct = make("sequential", snntorch), make("sequential", snn, **OPTIONS[second])
    convert_quietly(host, **OPTIONS[first])
    report = convert_quietly(host, **OPTIONS[second])
    names = tuple(spiking(host))
    assert (report.changed, report.unchanged) == (((), names) if first == second else (names, ()))
    cur = currents(T, B, N)
    assert_same(drive(host, cur), drive(direct, cur))


def test_neurons_that_are_ours_already():
    net = nn.Sequential(
        nn.Linear(N, N), neuron(snn, "Leaky"), nn.Linear(N, N), neuron(snn, "Leaky", **BOTH), neuron(snntorch, "Leaky")
    )
    report = convert_quietly(net, **BOTH)
    assert report.changed == ("1", "4") and report.unchanged == ("3",)
    assert [m.spatial_adj for m in spiking(net).values()] == [True] * 3


def test_ours_reverts_to_the_host():
    ours, host = make("sequential", snn, **BOTH), make("sequential", snntorch)
    report = revert_quietly(ours)
    assert report.changed == tuple(spiking(host))
    assert [type(m) for m in ours.modules()] == [type(m) for m in host.modules()]
    for name, module in spiking(ours).items():
        assert list(dict(module.named_buffers())) == list(dict(spiking(host)[name].named_buffers()))
    cur = currents(T, B, N)
    assert_same(drive(ours, cur), drive(host, cur))


def test_a_net_without_neurons():
    net = nn.Sequential(nn.Linear(N, N), nn.ReLU())
    for report in (convert_quietly(net, **BOTH), revert_quietly(net)):
        assert report.changed == report.unchanged == () and not report.refused


# --- the neuron's own surrogate -------------------------------------------------------------------


def test_the_own_surrogate_is_set_aside_and_comes_back():
    spike_grad = host_surrogate.fast_sigmoid(slope=10)
    lif = build(snntorch, "Leaky", spike_grad=spike_grad)
    convert_quietly(lif, temporal_alpha=0.5)
    assert lif.spike_grad is spike_grad
    convert_quietly(lif, spatial_adj=True)
    assert lif.spike_grad is not spike_grad
    cur = currents(T, B, N)
    assert_same(drive_neuron(lif, cur), drive_neuron(build(snn, "Leaky", spatial_adj=True), cur))
    convert_quietly(lif, spatial_adj=False)
    assert lif.spike_grad is spike_grad
    assert_same(drive_neuron(lif, cur), drive_neuron(build(snntorch, "Leaky", spike_grad=spike_grad), cur))
    convert_quietly(lif, spatial_adj=True)
    revert_quietly(lif)
    assert lif.spike_grad is spike_grad


@pytest.mark.parametrize("name", CLASSES)
def test_the_default_surrogate_comes_back(name):
    lif = build(snntorch, name)
    spike_grad = lif.spike_grad
    convert_quietly(lif, spatial_adj=True)
    revert_quietly(lif)
    assert lif.spike_grad is spike_grad


class LearnableSlope(nn.Module):
    """A surrogate that is a module with a parameter, as the host allows."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        soft = torch.sigmoid(self.slope * x)
        return (x > 0).to(x.dtype) + (soft - soft.detach())


@pytest.mark.parametrize("option", OPTIONS)
def test_a_surrogate_that_is_a_module(option):
    host, plain = (build(snntorch, "Leaky", spike_grad=LearnableSlope()) for _ in range(2))
    before, module = identities(host), host.spike_grad
    convert_quietly(host, **OPTIONS[option])
    assert identities(host) == before, "its parameters left the net"
    cur = currents(T, B, N)
    converted, expected = drive_neuron(host, cur), drive_neuron(plain, cur)
    assert torch.equal(converted["out"], expected["out"])
    if option == "off":
        assert_same(converted, expected)
    if option == "both":
        assert torch.equal(converted["dinput"], drive_neuron(build(snn, "Leaky", **BOTH), cur)["dinput"])
    revert_quietly(host)
    assert host.spike_grad is module and identities(host) == before
    assert_same(drive_neuron(host, cur), expected)


# --- what hangs on a net --------------------------------------------------------------------------


def test_an_optimiser_goes_on():
    """Adam made, and stepped, before the conversion: the same state and the same parameters move on."""
    cur = currents(T, B, N)

    def step(net, optimiser):
        snn.reset(net)
        drive(net, cur)
        optimiser.step()

    def trained(net):
        optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
        step(net, optimiser)
        return net, optimiser

    def learnable(lib, **options):
        torch.manual_seed(0)
        lif = lib.Leaky(beta=0.9, threshold=0.5, learn_beta=True, learn_threshold=True, init_hidden=True, **options)
        return nn.Sequential(nn.Linear(N, N), lif, nn.Linear(N, 2))

    net, optimiser = trained(learnable(snntorch))
    params = [id(p) for p in optimiser.param_groups[0]["params"]]
    moments = {id(p): {k: id(v) for k, v in s.items()} for p, s in optimiser.state.items()}
    convert_quietly(net, **BOTH)
    assert [id(p) for p in net.parameters()] == params
    assert {id(p): {k: id(v) for k, v in s.items()} for p, s in optimiser.state.items()} == moments

    twin, twin_optimiser = trained(learnable(snntorch))
    direct = learnable(snn, **BOTH)
    direct.load_state_dict(twin.state_dict(), strict=True)
    direct_optimiser = torch.optim.Adam(direct.parameters(), lr=0.01)
    direct_optimiser.load_state_dict(twin_optimiser.state_dict())

    before = [p.detach().clone() for p in net.parameters()]
    step(net, optimiser)
    step(direct, direct_optimiser)
    assert all(not torch.equal(p, was) for p, was in zip(net.parameters(), before, strict=True)), (
        "a parameter stood still"
    )
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), direct.parameters(), strict=True))


def test_hooks_stay():
    lif = build(snntorch, "Leaky", init_hidden=True)
    called = []
    handles = [
        lif.register_forward_pre_hook(lambda *_: called.append("pre")),
        lif.register_forward_hook(lambda *_: called.append("forward")),
        lif.register_full_backward_hook(lambda *_: called.append("backward")),
        lif.register_state_dict_post_hook(lambda *_: called.append("state_dict")),
        lif.register_load_state_dict_pre_hook(lambda *_: called.append("load")),
    ]

    def use():
        called.clear()
        cur = currents(B, N).requires_grad_()
        lif(cur).sum().backward()
        lif.load_state_dict(lif.state_dict())
        snn.reset(lif)
        return sorted(called)

    everything = ["backward", "forward", "load", "pre", "state_dict"]
    assert use() == everything
    convert_quietly(lif, **BOTH)
    assert use() == everything
    revert_quietly(lif)
    assert use() == everything
    convert_quietly(lif, **BOTH)
    for handle in handles[:3]:
        handle.remove()
    assert use() == ["load", "state_dict"]


def test_the_registry_keeps_its_entries(monkeypatch):
    monkeypatch.setattr(snntorch.SpikingNeuron, "instances", [])
    net = make("blocks", snntorch)
    registry, entries = snntorch.SpikingNeuron.instances, list(map(id, snntorch.SpikingNeuron.instances))
    assert len(entries) == 3
    for change in (lambda: convert_quietly(net, **BOTH), lambda: convert_quietly(net), lambda: revert_quietly(net)):
        change()
        assert snntorch.SpikingNeuron.instances is registry
        assert list(map(id, registry)) == entries


def test_a_neuron_that_was_taken_off_the_registry_stays_off(monkeypatch):
    monkeypatch.setattr(snntorch.SpikingNeuron, "instances", [])
    lif = build(snntorch, "Leaky")
    snntorch.SpikingNeuron.init()
    convert_quietly(lif, **BOTH)
    revert_quietly(lif)
    assert snntorch.SpikingNeuron.instances == []


@pytest.mark.parametrize("name, options", SERVED)
def test_hidden_states_live_through_it(name, options):
    """Converted in mid-sequence, and back: the graph and the values go on where they were."""
    kwargs = dict(init_hidden=True, reset_mechanism="subtract")
    host, plain = build(snntorch, name, **kwargs), build(snntorch, name, **kwargs)
    cur = currents(T, B, N)
    first, expected = cur.clone().requires_grad_(), cur.clone().requires_grad_()
    spks = [host(c) for c in first[:2]]
    states = {state: getattr(host, state) for state in STATES[name]}
    assert all(s.count_nonzero() for s in states.values())
    convert_quietly(host, **options)
    assert all(torch.equal(getattr(host, k), v) for k, v in states.items())
    spks += [host(c) for c in first[2:4]]
    states = {state: getattr(host, state).detach().clone() for state in STATES[name]}
    revert_quietly(host)
    assert all(torch.equal(getattr(host, k), v) for k, v in states.items())
    assert set(STATES[name]) <= set(dict(host.named_buffers()))
    spks += [host(c) for c in first[4:]]
    want = [plain(c) for c in expected]
    assert torch.equal(torch.stack(spks), torch.stack(want))
    assert all(torch.equal(getattr(host, s), getattr(plain, s)) for s in STATES[name])
    torch.stack(spks).sum().backward()
    torch.stack(want).sum().backward()
    if options is OFF:
        assert torch.equal(first.grad, expected.grad), "the graph was cut"
    else:
        assert first.grad[0].count_nonzero(), "the graph was cut"


@pytest.mark.parametrize("name", CLASSES)
def test_hidden_states_are_no_buffers_until_reverted(name):
    lif = build(snntorch, name, init_hidden=True)
    lif(currents(B, N))
    buffers, keys = list(dict(lif.named_buffers())), list(lif.state_dict())
    convert_quietly(lif, spatial_adj=True)
    assert not set(STATES[name]) & set(dict(lif.named_buffers()))
    assert list(lif.state_dict()) == keys
    lif.double()
    assert all(getattr(lif, state).dtype == torch.float64 for state in STATES[name])
    lif.float()
    revert_quietly(lif)
    assert list(dict(lif.named_buffers())) == buffers


@pytest.mark.parametrize("name", CLASSES)
def test_a_reverted_neuron_is_the_hosts_in_every_use(name, monkeypatch):
    monkeypatch.setattr(snntorch.SpikingNeuron, "instances", [])  # utils.reset goes through the neurons of all nets
    lif, host = build(snntorch, name, init_hidden=True), build(snntorch, name, init_hidden=True)
    convert_quietly(lif, spatial_adj=True)
    with torch.no_grad():
        lif(currents(B, N))
        host(currents(B, N))
    revert_quietly(lif)
    twin = copy.deepcopy(lif)
    assert twin.state_function.__self__ is twin and type(twin) is getattr(snntorch, name)
    cur = currents(T, B, N, seed=1)
    expected = drive_neuron(host, cur)
    assert_same(drive_neuron(twin, cur), expected)
    assert_same(drive_neuron(lif, cur), expected)
    host_utils.reset(nn.Sequential(lif))
    assert all(getattr(lif, s).count_nonzero() == 0 for s in STATES[name] if s != "spk")  # which the host forgets
    build(snntorch, name).load_state_dict(lif.state_dict(), strict=True)
    lif.double()
    assert all(getattr(lif, s).dtype == torch.float64 for s in STATES[name])


@pytest.mark.parametrize("name", CLASSES)
def test_the_reset_that_is_set_in_between_is_the_hosts_afterwards(name):
    lif, other = build(snntorch, name, reset_mechanism="subtract"), build(snntorch, name, reset_mechanism="zero")
    convert_quietly(lif)
    lif.reset_mechanism = "zero"
    revert_quietly(lif)
    cur = currents(T, B, N)
    assert_same(drive_neuron(lif, cur), drive_neuron(other, cur))


def torch_save_and_load(net):
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPY = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda net: pickle.loads(pickle.dumps(net)),
    "torch.save": torch_save_and_load,
}


@pytest.mark.parametrize("how", COPY)
@pytest.mark.parametrize("name, options", SERVED)
def test_a_converted_neuron_can_be_copied_and_saved(name, options, how):
    lif = build(snntorch, name, init_hidden=True, spike_grad=host_surrogate.fast_sigmoid(slope=10))
    lif(currents(B, N).requires_grad_())
    convert_quietly(lif, **options)
    twin = COPY[how](lif)
    assert type(twin) is type(lif) and (twin.spatial_adj, twin.temporal_alpha) == (lif.spatial_adj, lif.temporal_alpha)
    snn.reset(lif)
    snn.reset(twin)
    cur = currents(T, B, N)
    assert_same(drive_neuron(twin, cur), drive_neuron(lif, cur))
    for part in (lif, twin):
        revert_quietly(part)
        snn.reset(part)
    assert type(twin) is getattr(snntorch, name)
    assert_same(drive_neuron(twin, cur), drive_neuron(lif, cur))


# --- match ----------------------------------------------------------------------------------------


def test_match_selects():
    net = make("blocks", snntorch)
    names = list(spiking(net))
    seen = {}

    def match(name, module):
        seen[name] = module
        return type(module).__name__ == "Leaky"

    report = convert_quietly(net, match=match, **BOTH)
    assert seen == spiking(net), "asked about every neuron, by its name in the net, and about nothing else"
    leaky = tuple(n for n in names if type(spiking(net)[n]).__name__ == "Leaky")
    assert report.changed == leaky and len(leaky) == 2
    assert not report.unchanged and not report.refused
    rest = [m for n, m in spiking(net).items() if n not in leaky]
    assert [type(m) for m in rest] == [snntorch.Synaptic]

    report = convert_quietly(net, match=lambda name, module: name == names[-1])
    assert report.changed + report.unchanged == (names[-1],)
    report = revert_quietly(net, match=lambda name, module: name == leaky[0])
    assert report.changed == (leaky[0],)
    assert type(spiking(net)[leaky[0]]) is snntorch.Leaky and type(spiking(net)[leaky[1]]) is snn.Leaky


def test_what_match_leaves_out_is_not_refused():
    net = nn.Sequential(snntorch.SLSTM(N, N, init_hidden=True), neuron(snntorch, "Leaky"))
    report = convert_quietly(net, match=lambda name, module: isinstance(module, snntorch.Leaky), **BOTH)
    assert report.changed == ("1",) and not report.refused


def test_a_neuron_under_two_names_is_changed_once():
    net = make("shared", snntorch)
    report = convert_quietly(net, **BOTH)
    assert report.changed == ("lif",)
    assert net.lif is net.alias is net.blocks[0].layers[0] and type(net.alias) is snn.Leaky


# --- refusals -------------------------------------------------------------------------------------


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


# what it is: (class, its arguments, a word of the reason)
PARTLY = {
    "reset none": ("Leaky", {"reset_mechanism": "none"}, "reset_mechanism"),
    "reset none lapicque": ("Lapicque", {"reset_mechanism": "none"}, "reset_mechanism"),
    "reset_delay": ("Leaky", {"reset_delay": False}, "reset_delay"),
    "reset_delay rleaky": ("RLeaky", {"reset_delay": False}, "reset_delay"),
    "Alpha": ("Alpha", {}, "temporal_alpha"),
}


@pytest.mark.parametrize("options", [BOTH, TEMPORAL], ids=["both", "temporal"])
@pytest.mark.parametrize("case", PARTLY)
def test_what_has_a_meaning_is_honoured_and_the_rest_reported(case, options):
    name, arguments, word = PARTLY[case]
    lif, plain = (build(snntorch, name, **arguments) for _ in range(2))
    net = nn.Sequential(neuron(snntorch, "Leaky"), Block(lif))
    for again in (False, True):
        with pytest.warns(UserWarning) as caught:
            report = snn.convert(net, **options)
        assert (report.unchanged if again else report.changed) == ("0", "1.layers.0") and not report.refused
        assert list(report.partly) == ["1.layers.0"] and word in report.partly["1.layers.0"]
        (said,) = [str(w.message) for w in caught if w.category is UserWarning]
        assert "1.layers.0" in said and "temporal_alpha=0" in said and report.partly["1.layers.0"] in said
        assert "1.layers.0" in str(report) and report.partly["1.layers.0"] in str(report)
    assert lif.temporal_alpha == 0 and lif.spatial_adj is options.get("spatial_adj", False)
    assert net[0].temporal_alpha == options["temporal_alpha"]
    cur = currents(T, B, N)
    assert torch.equal(drive_neuron(lif, cur)["out"], drive_neuron(plain, cur)["out"])
    with pytest.raises(ValueError, match=word):
        build(snn, name, **arguments, **options)


@pytest.mark.parametrize("case", REFUSED)
def test_refused_and_left_as_it_was(case):
    make_module, options, words = REFUSED[case]
    try:
        module = make_module()
    except AttributeError as error:
        pytest.skip(f"this snnTorch has it not: {error}")
    good = neuron(snntorch, "Leaky")
    net = nn.Sequential(nn.Linear(N, N), Block(module), good)
    before = [innards(m) for m in module.modules()]
    with pytest.warns(UserWarning) as caught:
        report = snn.convert(net, **options)
    assert report.changed == ("2",), "the others are converted all the same"
    assert type(good) is snn.Leaky
    assert list(report.refused) == ["1.layers.0"]
    reason = report.refused["1.layers.0"]
    assert isinstance(reason, str) and all(word in reason for word in words), reason
    said = " ".join(str(w.message) for w in caught if w.category is UserWarning)
    assert "1.layers.0" in said and all(word in said for word in words), said
    for part, was in zip(module.modules(), before, strict=True):
        assert_untouched(part, was)


@pytest.mark.parametrize("case", ["surrogate_disable spatial", "threshold 0"])
def test_what_is_ours_already_is_refused_by_the_same_rules(case):
    make_module, options, words = REFUSED[case]
    lif = make_module()
    convert_quietly(lif)
    before = innards(lif)
    with pytest.warns(UserWarning):
        report = snn.convert(lif, **options)
    assert list(report.refused) == [""] and all(word in report.refused[""] for word in words)
    assert_untouched(lif, before)
    assert report.changed == report.unchanged == ()


def test_a_refusal_leaves_the_options_of_before():
    lif = build(snntorch, "Leaky", threshold=0.0)
    convert_quietly(lif, temporal_alpha=0.5)
    with pytest.warns(UserWarning):
        snn.convert(lif, spatial_adj=True)
    assert lif.spatial_adj is False and lif.temporal_alpha == 0.5


ALLOWED = {
    "threshold 0, temporal": (lambda: build(snntorch, "Leaky", threshold=0.0), TEMPORAL),
    "reset none, spatial": (lambda: build(snntorch, "Leaky", reset_mechanism="none"), SPATIAL),
    "reset_delay, spatial": (lambda: build(snntorch, "Synaptic", reset_delay=False), SPATIAL),
    "surrogate_disable, off": (surrogate_disabled, OFF),
    "Alpha, spatial": (lambda: build(snntorch, "Alpha"), SPATIAL),
    "threshold 0, off": (lambda: build(snntorch, "RSynaptic", threshold=0.0), OFF),
    "alpha 1": (lambda: build(snntorch, "Leaky"), dict(temporal_alpha=1)),
    "alpha 0, integer": (lambda: build(snntorch, "Leaky"), dict(spatial_adj=True, temporal_alpha=0)),
    "spike_grad, spatial": (lambda: build(snntorch, "Leaky", spike_grad=host_surrogate.sigmoid()), SPATIAL),
}


@pytest.mark.parametrize("case", ALLOWED)
def test_what_the_rules_allow_is_converted(case):
    make_module, options = ALLOWED[case]
    lif, plain = make_module(), make_module()
    assert convert_quietly(lif, **options).changed == ("",)
    cur = currents(T, B, N)
    assert torch.equal(drive_neuron(lif, cur)["out"], drive_neuron(plain, cur)["out"])


def test_a_subclass_of_ours_takes_options_but_is_not_reverted():
    lif = MyOurs(beta=0.9, threshold=0.5)
    report = convert_quietly(lif, **BOTH)
    assert report.changed == ("",) and type(lif) is MyOurs
    assert (lif.spatial_adj, lif.temporal_alpha) == (True, 0.8)
    assert convert_quietly(lif, **BOTH).unchanged == ("",)
    before = innards(lif)
    with pytest.warns(UserWarning, match="MyOurs"):
        report = snn.revert(lif)
    assert list(report.refused) == [""] and "MyOurs" in report.refused[""]
    assert report.changed == () and report.unchanged == ()
    assert_untouched(lif, before)


def test_revert_leaves_the_hosts_neurons_alone():
    net = nn.Sequential(neuron(snntorch, "Leaky"), MyHost(0.9), snntorch.SLSTM(N, N))
    before = [innards(m) for m in net.modules()]
    report = revert_quietly(net)
    assert report.changed == ()
    for module, was in zip(net.modules(), before, strict=True):
        assert_untouched(module, was)


def test_the_report_can_be_read():
    net = nn.Sequential(neuron(snntorch, "Leaky"), neuron(snn, "Leaky", **BOTH), Block(MyHost(0.9)))
    with pytest.warns(UserWarning):
        report = snn.convert(net, **BOTH)
    changed, unchanged, refused, partly = report
    assert (changed, unchanged, list(refused), partly) == (("0",), ("1",), ["2.layers.0"], {})
    assert (report.changed, report.unchanged, report.refused) == (changed, unchanged, refused)
    text = str(report)
    assert "0" in text and "2.layers.0" in text and refused["2.layers.0"] in text
    assert "object at 0x" not in text


WRONG = {
    "net is a list": (lambda net: snn.convert([net]), TypeError, "net"),
    "net is None": (lambda net: snn.convert(None), TypeError, "net"),
    "net is a class": (lambda net: snn.convert(snntorch.Leaky), TypeError, "net"),
    "spatial_adj is 1": (lambda net: snn.convert(net, spatial_adj=1), TypeError, "spatial_adj"),
    "spatial_adj is None": (lambda net: snn.convert(net, spatial_adj=None), TypeError, "spatial_adj"),
    "temporal_alpha is 2": (lambda net: snn.convert(net, temporal_alpha=2), ValueError, "temporal_alpha"),
    "temporal_alpha is -0.1": (lambda net: snn.convert(net, temporal_alpha=-0.1), ValueError, "temporal_alpha"),
    "temporal_alpha is nan": (lambda net: snn.convert(net, temporal_alpha=float("nan")), ValueError, "temporal_alpha"),
    "temporal_alpha is text": (lambda net: snn.convert(net, temporal_alpha="0.8"), TypeError, "temporal_alpha"),
    "temporal_alpha is True": (lambda net: snn.convert(net, temporal_alpha=True), TypeError, "temporal_alpha"),
    "match is 3": (lambda net: snn.convert(net, spatial_adj=True, match=3), TypeError, "match"),
    "match is a name": (lambda net: snn.convert(net, spatial_adj=True, match="lif"), TypeError, "match"),
    "options by position": (lambda net: snn.convert(net, True, 0.8), TypeError, "positional"),
    "unknown option": (lambda net: snn.convert(net, alpha=0.8), TypeError, "alpha"),
    "revert of a list": (lambda net: snn.revert([net]), TypeError, "net"),
    "revert, match is 3": (lambda net: snn.revert(net, match=3), TypeError, "match"),
    "patched, spatial_adj is 1": (lambda net: snn.patched(spatial_adj=1).__enter__(), TypeError, "spatial_adj"),
    "patched, temporal_alpha is 2": (
        lambda net: snn.patched(temporal_alpha=2).__enter__(),
        ValueError,
        "temporal_alpha",
    ),
    "reset of a list": (lambda net: snn.reset([net]), TypeError, "net"),
    "reset of None": (lambda net: snn.reset(None), TypeError, "net"),
    "reset of a class": (lambda net: snn.reset(snntorch.Leaky), TypeError, "net"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments(case):
    call, error, word = WRONG[case]
    net = nn.Sequential(nn.Linear(N, N), neuron(snntorch, "Leaky"))
    before, init = [innards(m) for m in net.modules()], snntorch.Leaky.__init__
    with pytest.raises(error, match=word):
        call(net)
    for module, was in zip(net.modules(), before, strict=True):
        assert_untouched(module, was)
    assert snntorch.Leaky.__init__ is init


# --- nets that come from elsewhere ----------------------------------------------------------------


def test_a_loaded_checkpoint(tmp_path):
    trained = make("blocks", snntorch)
    with torch.no_grad():
        for p in trained.parameters():
            p.mul_(1.5)
    torch.save(trained.state_dict(), tmp_path / "net.pt")
    checkpoint = torch.load(tmp_path / "net.pt", weights_only=True)
    early, late = make("blocks", snntorch), make("blocks", snntorch)
    convert_quietly(early, **BOTH)
    early.load_state_dict(checkpoint, strict=True)
    late.load_state_dict(checkpoint, strict=True)
    convert_quietly(late, **BOTH)
    cur = currents(T, B, N)
    expected = drive(trained, cur)
    results = [drive(net, cur) for net in (early, late)]
    assert_same(*results)
    assert torch.equal(results[0]["out"], expected["out"]) and not torch.equal(results[0]["dinput"], expected["dinput"])


def nir_net(kind):
    nir = pytest.importorskip("nir")
    pytest.importorskip("nirtorch")
    import numpy as np
    from snntorch.import_nir import import_from_nir

    rng = np.random.default_rng(0)

    def affine(n_in, n_out):
        return nir.Affine(rng.normal(size=(n_out, n_in)).astype("float32"), np.zeros(n_out, "float32"))

    def lif(n):
        full = np.full
        if kind == "LIF":
            return nir.LIF(tau=full(n, 1e-3), r=full(n, 10.0), v_leak=np.zeros(n), v_threshold=full(n, 0.5))
        return nir.CubaLIF(
            tau_mem=full(n, 1e-3),
            tau_syn=full(n, 5e-4),
            r=full(n, 10.0),
            w_in=full(n, 5.0),
            v_leak=np.zeros(n),
            v_threshold=full(n, 0.5),
        )

    nodes = {
        "input": nir.Input({"input": np.array([N])}),
        "fc1": affine(N, 5),
        "lif1": lif(5),
        "fc2": affine(5, 4),
        "lif2": lif(4),
        "output": nir.Output({"output": np.array([4])}),
    }
    return import_from_nir(nir.NIRGraph(nodes, list(zip(list(nodes), list(nodes)[1:], strict=False))))


SINCE_1 = pytest.mark.skipif(
    SNNTORCH < (1, 0), reason="snnTorch 0.9 has no DeltaLeaky, and imports LIF of NIR in double"
)


@pytest.mark.parametrize("kind", [pytest.param("LIF", marks=SINCE_1), "CubaLIF"])
def test_a_net_from_nir(kind):
    net, plain = nir_net(kind), nir_net(kind)
    names = tuple(spiking(net))
    assert len(names) == 2

    def spikes(net):
        cur = currents(T, B, N).requires_grad_()
        snn.reset(net)
        out = torch.stack([net(c)[0] for c in cur])
        out.sum().backward()
        return out.detach(), cur.grad

    with pytest.warns(UserWarning, match="reset_delay"):
        report = snn.convert(net, **BOTH)  # the importer always sets reset_delay=False
    assert tuple(report.partly) == report.changed == names and not report.refused
    report = convert_quietly(net, **SPATIAL)
    assert report.unchanged == names
    (out, grad), (expected, plain_grad) = spikes(net), spikes(plain)
    assert expected.count_nonzero() and torch.equal(out, expected) and not torch.equal(grad, plain_grad)
    revert_quietly(net)
    out, grad = spikes(net)
    assert torch.equal(out, expected) and torch.equal(grad, plain_grad)
    # Temporal adjustment once reset_delay is set, as the documented way to it.
    for part in (net, plain):
        for module in spiking(part).values():
            module.reset_delay = True
    assert convert_quietly(net, **BOTH).changed == names
    (out, grad), (expected, plain_grad) = spikes(net), spikes(plain)
    assert torch.equal(out, expected) and not torch.equal(grad, plain_grad)


# --- patched --------------------------------------------------------------------------------------

THIRD_PARTY = """
import snntorch
import snntorch as aliased
from snntorch import Leaky, RLeaky, Lapicque, Synaptic, RSynaptic, Alpha
from snntorch._neurons.leaky import Leaky as Deep
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(7, 7)
        self.one = snntorch.Leaky(beta=0.9, threshold=0.5, init_hidden=True)
        self.two = aliased.Synaptic(alpha=0.8, beta=0.7, threshold=0.5, init_hidden=True)
        self.blocks = nn.ModuleList([nn.Sequential(Deep(0.9, 0.5, init_hidden=True))])
        self.rec = RLeaky(beta=0.9, linear_features=7, threshold=0.5, init_hidden=True)

    def forward(self, x):
        return self.rec(self.blocks[0](self.two(self.one(self.fc(x)))))
"""


def third_party():
    """Code that knows nothing of us and has imported its names long ago."""
    module = types.ModuleType("third_party")
    exec(THIRD_PARTY, vars(module))
    return module


HOST_CLASSES = [getattr(snntorch, name) for name in CLASSES]


@pytest.fixture
def host_classes_stay():
    """After the test the host's classes are what they were, attribute by attribute."""
    classes = [*HOST_CLASSES, snntorch.SpikingNeuron, snntorch.LIF, nn.Module]
    before = [{k: v for k, v in vars(c).items() if k != "instances"} for c in classes]
    module = dict(vars(snntorch))
    yield
    for cls, was in zip(classes, before, strict=True):
        now = {k: v for k, v in vars(cls).items() if k != "instances"}
        assert list(now) == list(was) and all(now[k] is was[k] for k in was), cls
    assert vars(snntorch) == module


def host_is_plain():
    lif = snntorch.Leaky(0.9)
    return type(lif) is snntorch.Leaky


@pytest.mark.parametrize("options", [SPATIAL, TEMPORAL, BOTH, OFF], ids=["spatial", "temporal", "both", "off"])
def test_third_party_code(options, host_classes_stay):
    code = third_party()
    torch.manual_seed(0)
    plain = code.Net()
    torch.manual_seed(0)
    with snn.patched(**options):
        net = code.Net()
    for name, module in spiking(net).items():
        assert type(module) is getattr(snn, type(module).__name__), name
        assert (module.spatial_adj, module.temporal_alpha) == (options["spatial_adj"], options["temporal_alpha"])
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), plain.state_dict().values(), strict=True))
    cur = currents(T, B, N)
    ours, expected = drive(net, cur), drive(plain, cur)
    assert torch.equal(ours["out"], expected["out"])
    torch.manual_seed(0)
    converted = code.Net()
    convert_quietly(converted, **options)
    assert_same(ours, drive(converted, cur))
    assert all(type(m) is getattr(snntorch, type(m).__name__) for m in spiking(code.Net()).values()), "after the block"


@pytest.mark.parametrize("name, options", SERVED)
def test_patched_gives_what_our_constructor_gives(name, options, host_classes_stay):
    with snn.patched(**options):
        made = build(snntorch, name, reset_mechanism="zero", learn_threshold=True)
    direct = build(snn, name, reset_mechanism="zero", learn_threshold=True, **options)
    assert type(made) is type(direct)
    cur = currents(T, B, N)
    assert_same(drive_neuron(made, cur), drive_neuron(direct, cur))


def test_names_and_isinstance_inside_the_block(host_classes_stay):
    before = build(snntorch, "Leaky")
    leaky, signature = snntorch.Leaky, inspect.signature(snntorch.Leaky)
    with snn.patched(**BOTH):
        assert snntorch.Leaky is leaky
        assert inspect.signature(snntorch.Leaky) == signature
        assert isinstance(before, snntorch.Leaky) and type(before) is snntorch.Leaky
        made = snntorch.Leaky(0.9)
        assert isinstance(made, snntorch.Leaky) and isinstance(made, snn.Leaky)
        assert issubclass(snn.Leaky, snntorch.Leaky) and not isinstance(before, snn.Leaky)
        assert copy.deepcopy(before).__class__ is snntorch.Leaky
        before(currents(B, N))
    assert isinstance(before, snntorch.Leaky) and isinstance(made, snntorch.Leaky)


def test_neurons_that_are_ours_keep_their_own_options_inside(host_classes_stay):
    with snn.patched(**BOTH):
        plain, spatial = snn.Leaky(0.9), snn.Leaky(0.9, spatial_adj=True)
        mine = MyOurs(0.9)
    assert (plain.spatial_adj, plain.temporal_alpha) == (False, 0)
    assert (spatial.spatial_adj, spatial.temporal_alpha) == (True, 0)
    assert type(mine) is MyOurs and (mine.spatial_adj, mine.temporal_alpha) == (False, 0)


@SINCE_1
def test_what_is_not_served_stays_the_hosts_inside(host_classes_stay):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with snn.patched(**BOTH):
            made = [
                MyHost(0.9),
                snntorch.SLSTM(N, N),
                snntorch.SConv2dLSTM(2, 2, 3),
                MyNeuron(),
                snntorch.DeltaLeaky(1.0, 0.9),
            ]
    assert [type(m).__name__ for m in made] == ["MyHost", "SLSTM", "SConv2dLSTM", "MyNeuron", "DeltaLeaky"]
    assert not any(hasattr(m, "spatial_adj") for m in made)


def test_what_cannot_be_stays_the_hosts_and_says_so(host_classes_stay):
    with pytest.warns(UserWarning, match="is not patched.*threshold"), snn.patched(**BOTH):
        lif = snntorch.Leaky(0.9, threshold=0.0)
    assert type(lif) is snntorch.Leaky


def test_what_can_be_in_part_is_and_says_so(host_classes_stay):
    with pytest.warns(UserWarning, match="patched with temporal_alpha=0.*reset_mechanism"), snn.patched(**BOTH):
        lif = snntorch.Leaky(0.9, reset_mechanism="none")
    assert type(lif) is snn.Leaky and (lif.spatial_adj, lif.temporal_alpha) == (True, 0)


def test_one_entry_in_the_registry(monkeypatch):
    monkeypatch.setattr(snntorch.SpikingNeuron, "instances", [])
    with snn.patched(**BOTH):
        made = [snntorch.Leaky(0.9), snn.Leaky(0.9), MyHost(0.9)]
    assert list(map(id, snntorch.SpikingNeuron.instances)) == list(map(id, made))


def test_nested(host_classes_stay):
    def made():
        lif = snntorch.Leaky(0.9)
        return type(lif) is snn.Leaky and (lif.spatial_adj, lif.temporal_alpha)

    with snn.patched(**SPATIAL):
        assert made() == (True, 0)
        with snn.patched(**TEMPORAL):
            assert made() == (False, 0.8)
            with snn.patched():
                assert made() == (False, 0)
            assert made() == (False, 0.8)
        assert made() == (True, 0)
    assert made() is False


def test_undone_on_exception(host_classes_stay):
    with pytest.raises(KeyError, match="from inside"), snn.patched(**SPATIAL):
        with pytest.raises(ZeroDivisionError), snn.patched(**TEMPORAL):
            raise ZeroDivisionError
        assert snntorch.Leaky(0.9).spatial_adj is True
        raise KeyError("from inside")
    assert host_is_plain()


def test_errors_of_the_hosts_constructor_come_through(host_classes_stay):
    with snn.patched(**BOTH):
        with pytest.raises(TypeError, match="beta"):
            snntorch.Leaky()
        with pytest.raises(ValueError, match="reset_mechanism"):
            snntorch.Leaky(0.9, reset_mechanism="sideways")
        assert type(snntorch.Leaky(0.9)) is snn.Leaky
    assert host_is_plain()


def in_thread(function):
    """Run in another thread; its result, or its exception here."""
    box = {}

    def run():
        try:
            box["result"] = function()
        except BaseException as error:  # noqa: BLE001 (handed to the test)
            box["error"] = error

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    if "error" in box:
        raise box["error"]
    return box["result"]


def test_other_threads_are_not_affected(host_classes_stay):
    with snn.patched(**BOTH):
        assert in_thread(host_is_plain)
        assert not host_is_plain()


def test_two_threads_each_with_its_own(host_classes_stay):
    inside, leave = threading.Barrier(3), threading.Barrier(3)
    options = {"spatial": SPATIAL, "temporal": TEMPORAL}
    made, errors = {key: [] for key in options}, []

    def work(key):
        try:
            with snn.patched(**options[key]):
                inside.wait(60)
                made[key] = [snntorch.Leaky(0.9) for _ in range(50)]
                leave.wait(60)
                if key == "temporal":
                    first.join(60)  # the other has left its block; ours is still in force
                    made[key].append(snntorch.Leaky(0.9))
        except BaseException as error:  # noqa: BLE001 (shown by the test)
            errors.append(error)

    first, second = (threading.Thread(target=work, args=(key,)) for key in options)
    first.start()
    second.start()
    inside.wait(60)
    plain = [host_is_plain() for _ in range(50)]
    leave.wait(60)
    first.join(60)
    second.join(60)
    assert not errors and all(plain)
    assert {(m.spatial_adj, m.temporal_alpha) for m in made["spatial"]} == {(True, 0.0)}
    assert {(m.spatial_adj, m.temporal_alpha) for m in made["temporal"]} == {(False, 0.8)} and len(
        made["temporal"]
    ) == 51
    assert host_is_plain()


def test_an_empty_context_is_not_affected(host_classes_stay):
    with snn.patched(**BOTH):
        assert contextvars.Context().run(host_is_plain)
        assert not contextvars.copy_context().run(host_is_plain)


def test_tasks_do_not_leak_into_each_other(host_classes_stay):
    async def patched_task(started, go_on):
        with snn.patched(**BOTH):
            started.set()
            await go_on.wait()
            return type(snntorch.Leaky(0.9)) is snn.Leaky

    async def main():
        started, go_on = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(patched_task(started, go_on))
        await started.wait()
        outside = host_is_plain()
        go_on.set()
        return outside, await task

    assert asyncio.run(main()) == (True, True)
    assert host_is_plain()


def patched_generator(**options):
    with snn.patched(**options):
        while True:
            yield snntorch.Leaky(0.9)


def test_a_generator_that_is_closed(host_classes_stay):
    generator = patched_generator(**BOTH)
    assert type(next(generator)) is snn.Leaky
    generator.close()
    assert host_is_plain()


def test_generators_that_end_in_any_order(host_classes_stay):
    first, second = patched_generator(**SPATIAL), patched_generator(**TEMPORAL)
    next(first)
    next(second)
    first.close()
    assert snntorch.Leaky(0.9).temporal_alpha == 0.8
    second.close()
    assert host_is_plain()


def test_a_block_left_in_another_context(host_classes_stay):
    """As fixtures and asynchronous generators do."""
    generator = patched_generator(**BOTH)
    assert type(contextvars.copy_context().run(next, generator)) is snn.Leaky
    assert host_is_plain()
    generator.close()
    assert host_is_plain()


def test_a_block_left_in_another_thread(host_classes_stay):
    generator = patched_generator(**BOTH)
    next(generator)
    in_thread(generator.close)
    assert in_thread(host_is_plain) and host_is_plain()


# --- reset ----------------------------------------------------------------------------------------


def stepped(net, *shape):
    """The net after two steps with gradients; every state holds something."""
    for seed in (1, 2):
        net(currents(*(shape or (B, N)), seed=seed).requires_grad_())
    return net


def states_of(module):
    kind = next((name for name in CLASSES if isinstance(module, getattr(snntorch, name))), None)
    names = STATES.get(kind, ("syn", "mem"))
    return {name: getattr(module, name) for name in names}


def assert_zero_and_detached(module):
    for name, state in states_of(module).items():
        assert state.count_nonzero() == 0, name
        assert state.grad_fn is None and not state.requires_grad, name


@pytest.mark.parametrize("lib", [snn, snntorch], ids=["ours", "host"])
@pytest.mark.parametrize("init_hidden", [True, False], ids=["hidden", "states"])
@pytest.mark.parametrize("name", CLASSES)
def test_reset_of_every_class(name, init_hidden, lib):
    lif = stepped(build(lib, name, init_hidden=init_hidden))
    if init_hidden:
        assert all(s.count_nonzero() and s.grad_fn is not None for s in states_of(lif).values()), "nothing to reset"
    before = states_of(lif)
    held = {k: v.detach().clone() for k, v in before.items()}
    assert snn.reset(lif) is None
    assert_zero_and_detached(lif)
    if init_hidden:
        assert all(s.shape == (B, N) for s in states_of(lif).values())
    assert all(torch.equal(before[k], v) for k, v in held.items()), "a tensor that the user may hold was overwritten"
    cur = currents(T, B, N)
    assert_same(drive_neuron(lif, cur), drive_neuron(build(lib, name, init_hidden=init_hidden), cur))


@pytest.mark.parametrize(
    "make_lstm",
    [lambda: snntorch.SLSTM(N, N, init_hidden=True), lambda: snntorch.SConv2dLSTM(2, 2, 3, init_hidden=True)],
    ids=["SLSTM", "SConv2dLSTM"],
)
def test_reset_of_the_hosts_lstms(make_lstm):
    lstm = make_lstm()
    shape = (B, N) if isinstance(lstm, snntorch.SLSTM) else (B, 2, 4, 4)
    net = stepped(nn.Sequential(nn.Sequential(lstm)), *shape)
    assert lstm.mem.count_nonzero() and lstm.syn.count_nonzero()
    snn.reset(net)
    assert_zero_and_detached(lstm)
    assert lstm.mem.shape == lstm.syn.shape == shape


@SINCE_1
def test_reset_of_a_delta_leaky():
    lif = snntorch.DeltaLeaky(0.1, 0.9, init_hidden=True)
    net = nn.Sequential(nn.Sequential(lif))
    first = net(currents(B, N))[1][0].clone()
    net(currents(B, N))
    snn.reset(net)
    assert torch.equal(net(currents(B, N))[1][0], first)
    snn.reset(nn.Sequential(snntorch.DeltaLeaky(0.1, 0.9)))


@pytest.mark.parametrize("case", ["LeakyParallel", "LinearLeaky", "AssociativeLeaky", "own neuron"])
def test_reset_passes_by_what_has_no_state(case):
    try:
        module = REFUSED[case][0]()
    except AttributeError as error:
        pytest.skip(f"this snnTorch has it not: {error}")
    lif = stepped(neuron(snn, "Leaky"))
    snn.reset(nn.ModuleList([module, lif]))
    assert_zero_and_detached(lif)


@pytest.mark.parametrize("lib", [snn, snntorch], ids=["ours", "host"])
@pytest.mark.parametrize("net", NETS)
def test_reset_misses_nothing_and_touches_no_other_net(net, lib):
    one, other, loose = stepped(make(net, lib)), stepped(make(net, lib)), stepped(neuron(lib, "Leaky"))
    others = {**spiking(other), "loose": loose}
    before = {name: states_of(m) for name, m in others.items()}
    values = {name: {k: v.detach().clone() for k, v in states.items()} for name, states in before.items()}
    snn.reset(one)
    for module in spiking(one).values():
        assert_zero_and_detached(module)
    for name, module in others.items():
        for key, state in states_of(module).items():
            assert state is before[name][key] and torch.equal(state, values[name][key])
    cur = currents(T, B, N)
    assert_same(drive(one, cur), drive(make(net, lib), cur))


@pytest.mark.parametrize("how", COPY)
def test_reset_works_on_copies(how):
    net = stepped(make("blocks", snn, **BOTH))
    twin = COPY[how](net)
    held = [{k: v for k, v in states_of(m).items()} for m in spiking(net).values()]
    assert any(v.count_nonzero() for m in spiking(twin).values() for v in states_of(m).values())
    snn.reset(twin)
    for module in spiking(twin).values():
        assert_zero_and_detached(module)
    for module, states in zip(spiking(net).values(), held, strict=True):
        assert all(states_of(module)[k] is v for k, v in states.items()), "the original was reset"


def test_reset_works_on_copies_of_the_hosts():
    with torch.no_grad():
        net = stepped(make("blocks", snntorch))
    twin = copy.deepcopy(net)
    snn.reset(twin)
    for module in spiking(twin).values():
        assert_zero_and_detached(module)
    assert any(m.mem.count_nonzero() for m in spiking(net).values())


def test_reset_keeps_dtype_and_does_not_look_at_the_registry(monkeypatch):
    net = make("blocks", snn).double()
    for seed in (1, 2):
        net(currents(B, N, seed=seed, dtype=torch.float64))
    monkeypatch.setattr(snntorch.SpikingNeuron, "instances", [])
    snn.reset(net)
    for module in spiking(net).values():
        assert_zero_and_detached(module)
        assert module.mem.dtype == torch.float64


def test_reset_before_the_first_step():
    for lib in (snn, snntorch):
        net = make("blocks", lib)
        snn.reset(net)
        cur = currents(T, B, N)
        assert_same(drive(net, cur), drive(make("blocks", lib), cur))


def test_reset_changes_no_parameter_buffer_or_mode():
    net = stepped(make("blocks", snn, **BOTH)).eval()
    before = identities(net)
    snn.reset(net)
    assert identities(net) == before


def test_reset_in_inference_mode_does_not_poison_training():
    net = make("blocks", snn, **BOTH)
    with torch.inference_mode():
        net(currents(B, N))
        snn.reset(net)
    snn.reset(net)
    cur = currents(T, B, N)
    assert_same(drive(net, cur), drive(make("blocks", snn, **BOTH), cur))


def test_the_reset_that_the_host_really_does_is_kept():
    """The host's setter and load_state_dict change the name and not the reset: its spikes are what convert keeps."""
    cur = torch.rand(9, 2, 5) * 2
    host, changed = snntorch.Leaky(0.9), snntorch.Leaky(0.9)
    changed.reset_mechanism = "zero"
    snn.convert(changed)
    assert changed.reset_mechanism == "subtract"
    mem_a = mem_b = torch.zeros(2, 5)
    for c in cur:
        (spk_a, mem_a), (spk_b, mem_b) = host(c, mem_a), changed(c, mem_b)
        assert torch.equal(spk_a, spk_b) and torch.equal(mem_a, mem_b)


def test_a_match_that_raises_leaves_the_net_alone():
    net = nn.Sequential(snntorch.Leaky(0.9), snntorch.Leaky(0.8))
    with pytest.raises(KeyError):
        snn.convert(net, match=lambda name, neuron: {"0": True}[name])
    assert [type(neuron) for neuron in net] == [snntorch.Leaky] * 2
