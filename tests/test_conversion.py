"""convert and revert: in place, at any depth, with a report, and nothing lost on the way."""

import copy

import pytest
import snntorch
import torch
from _conversion import (
    BOTH,
    CONVERT,
    NETS,
    OFF,
    assert_untouched,
    convert_quietly,
    each_served,
    identities,
    innards,
    make,
    neuron,
    revert_quietly,
    spiking,
)
from _family import (
    COPY,
    FAMILY,
    B,
    N,
    T,
    assert_same,
    build,
    currents,
    drive,
    each_kind,
    run,
    same_values,
)
from snntorch import surrogate as host_surrogate
from snntorch import utils as host_utils
from snntorch.functional import quant
from torch import nn

import snntorch_bpsta as snn


@pytest.mark.parametrize("options", CONVERT.values(), ids=CONVERT)
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
    assert same_values(converted, before), "spikes changed"
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
@each_served
def test_every_class(kind, options, reset):
    kwargs = dict(reset_mechanism=reset)
    host, plain = build(snntorch, kind, **kwargs), build(snntorch, kind, **kwargs)
    direct = build(snn, kind, **kwargs, **options)
    assert convert_quietly(host, **options).changed == ("",)
    assert type(host) is getattr(snn, kind)
    cur = currents(T, B, N)
    converted, before = run(host, cur, "zeros"), run(plain, cur, "zeros")
    assert_same(converted, run(direct, cur, "zeros"))
    assert same_values(converted, before)
    if options is OFF:
        assert_same(converted, before)
    assert revert_quietly(host).changed == ("",)
    assert type(host) is getattr(snntorch, kind)
    assert_same(run(host, cur, "zeros"), before)


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
    options = CONVERT["spatial" if name == "Alpha" and option == "both" else option]
    host, direct, plain = (
        build(snntorch, name, **kwargs),
        build(snn, name, **kwargs, **options),
        build(snntorch, name, **kwargs),
    )
    convert_quietly(host, **options)
    cur = currents(T, B, N)
    before = run(plain, cur, "zeros")
    converted = run(host, cur, "zeros")
    assert_same(converted, run(direct, cur, "zeros"))
    assert same_values(converted, before)
    revert_quietly(host)
    snn.reset(host)
    snn.reset(plain)
    assert_same(run(host, cur, "zeros"), run(plain, cur, "zeros"))


@pytest.mark.parametrize("name", ["Leaky", "RLeaky", "Synaptic", "RSynaptic"])
def test_reset_delay_false_goes_with_spatial(name):
    kwargs = dict(reset_delay=False)
    host, direct = build(snntorch, name, **kwargs), build(snn, name, **kwargs, spatial_adj=True)
    convert_quietly(host, spatial_adj=True)
    assert host.reset_delay is False
    cur = currents(T, B, N)
    assert_same(run(host, cur, "zeros"), run(direct, cur, "zeros"))


@pytest.mark.parametrize("how", ["sequence", "multistep"])
@each_served
def test_all_steps_work_after_it(kind, options, how):
    host, direct = build(snntorch, kind), build(snn, kind, **options)
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


@pytest.mark.parametrize("second", CONVERT)
@pytest.mark.parametrize("first", CONVERT)
def test_options_are_set_anew(first, second):
    host, direct = make("sequential", snntorch), make("sequential", snn, **CONVERT[second])
    convert_quietly(host, **CONVERT[first])
    report = convert_quietly(host, **CONVERT[second])
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
    assert_same(run(lif, cur, "zeros"), run(build(snn, "Leaky", spatial_adj=True), cur, "zeros"))
    convert_quietly(lif, spatial_adj=False)
    assert lif.spike_grad is spike_grad
    assert_same(run(lif, cur, "zeros"), run(build(snntorch, "Leaky", spike_grad=spike_grad), cur, "zeros"))
    convert_quietly(lif, spatial_adj=True)
    revert_quietly(lif)
    assert lif.spike_grad is spike_grad


@each_kind
def test_the_default_surrogate_comes_back(kind):
    lif = build(snntorch, kind)
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


@pytest.mark.parametrize("option", CONVERT)
def test_a_surrogate_that_is_a_module(option):
    host, plain = (build(snntorch, "Leaky", spike_grad=LearnableSlope()) for _ in range(2))
    before, module = identities(host), host.spike_grad
    convert_quietly(host, **CONVERT[option])
    assert identities(host) == before, "its parameters left the net"
    cur = currents(T, B, N)
    converted, expected = run(host, cur, "zeros"), run(plain, cur, "zeros")
    assert same_values(converted, expected)
    if option == "off":
        assert_same(converted, expected)
    if option == "both":
        assert torch.equal(converted["dinput"], run(build(snn, "Leaky", **BOTH), cur, "zeros")["dinput"])
    revert_quietly(host)
    assert host.spike_grad is module and identities(host) == before
    assert_same(run(host, cur, "zeros"), expected)


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


@each_served
def test_hidden_states_live_through_it(kind, options):
    """Converted in mid-sequence, and back: the graph and the values go on where they were."""
    kwargs = dict(init_hidden=True, reset_mechanism="subtract")
    host, plain = build(snntorch, kind, **kwargs), build(snntorch, kind, **kwargs)
    cur = currents(T, B, N)
    first, expected = cur.clone().requires_grad_(), cur.clone().requires_grad_()
    spks = [host(c) for c in first[:2]]
    states = {state: getattr(host, state) for state in FAMILY[kind].states}
    assert all(s.count_nonzero() for s in states.values())
    convert_quietly(host, **options)
    assert all(torch.equal(getattr(host, k), v) for k, v in states.items())
    spks += [host(c) for c in first[2:4]]
    states = {state: getattr(host, state).detach().clone() for state in FAMILY[kind].states}
    revert_quietly(host)
    assert all(torch.equal(getattr(host, k), v) for k, v in states.items())
    assert set(FAMILY[kind].states) <= set(dict(host.named_buffers()))
    spks += [host(c) for c in first[4:]]
    want = [plain(c) for c in expected]
    assert torch.equal(torch.stack(spks), torch.stack(want))
    assert all(torch.equal(getattr(host, s), getattr(plain, s)) for s in FAMILY[kind].states)
    torch.stack(spks).sum().backward()
    torch.stack(want).sum().backward()
    if options is OFF:
        assert torch.equal(first.grad, expected.grad), "the graph was cut"
    else:
        assert first.grad[0].count_nonzero(), "the graph was cut"


@each_kind
def test_hidden_states_are_no_buffers_until_reverted(kind):
    lif = build(snntorch, kind, init_hidden=True)
    lif(currents(B, N))
    buffers, keys = list(dict(lif.named_buffers())), list(lif.state_dict())
    convert_quietly(lif, spatial_adj=True)
    assert not set(FAMILY[kind].states) & set(dict(lif.named_buffers()))
    assert list(lif.state_dict()) == keys
    lif.double()
    assert all(getattr(lif, state).dtype == torch.float64 for state in FAMILY[kind].states)
    lif.float()
    revert_quietly(lif)
    assert list(dict(lif.named_buffers())) == buffers


@each_kind
def test_a_reverted_neuron_is_the_hosts_in_every_use(kind, monkeypatch):
    monkeypatch.setattr(snntorch.SpikingNeuron, "instances", [])  # utils.reset goes through the neurons of all nets
    lif, host = build(snntorch, kind, init_hidden=True), build(snntorch, kind, init_hidden=True)
    convert_quietly(lif, spatial_adj=True)
    with torch.no_grad():
        lif(currents(B, N))
        host(currents(B, N))
    revert_quietly(lif)
    twin = copy.deepcopy(lif)
    assert twin.state_function.__self__ is twin and type(twin) is getattr(snntorch, kind)
    cur = currents(T, B, N, seed=1)
    expected = run(host, cur, "zeros")
    assert_same(run(twin, cur, "zeros"), expected)
    assert_same(run(lif, cur, "zeros"), expected)
    host_utils.reset(nn.Sequential(lif))
    assert all(
        getattr(lif, s).count_nonzero() == 0 for s in FAMILY[kind].states if s != "spk"
    )  # which the host forgets
    build(snntorch, kind).load_state_dict(lif.state_dict(), strict=True)
    lif.double()
    assert all(getattr(lif, s).dtype == torch.float64 for s in FAMILY[kind].states)


@each_kind
def test_the_reset_that_is_set_in_between_is_the_hosts_afterwards(kind):
    lif, other = build(snntorch, kind, reset_mechanism="subtract"), build(snntorch, kind, reset_mechanism="zero")
    convert_quietly(lif)
    lif.reset_mechanism = "zero"
    revert_quietly(lif)
    cur = currents(T, B, N)
    assert_same(run(lif, cur, "zeros"), run(other, cur, "zeros"))


@pytest.mark.parametrize("how", COPY)
@each_served
def test_a_converted_neuron_can_be_copied_and_saved(kind, options, how):
    lif = build(snntorch, kind, init_hidden=True, spike_grad=host_surrogate.fast_sigmoid(slope=10))
    lif(currents(B, N).requires_grad_())
    convert_quietly(lif, **options)
    twin = COPY[how](lif)
    assert type(twin) is type(lif) and (twin.spatial_adj, twin.temporal_alpha) == (lif.spatial_adj, lif.temporal_alpha)
    snn.reset(lif)
    snn.reset(twin)
    cur = currents(T, B, N)
    assert_same(run(twin, cur, "zeros"), run(lif, cur, "zeros"))
    for part in (lif, twin):
        revert_quietly(part)
        snn.reset(part)
    assert type(twin) is getattr(snntorch, kind)
    assert_same(run(twin, cur, "zeros"), run(lif, cur, "zeros"))


# --- the output neurons ---------------------------------------------------------------------------

OUTPUT = snn.surrogate.rectangle(0.6)


@pytest.mark.parametrize("lib", [snntorch, snn], ids=["host", "ours"])
@pytest.mark.parametrize("spatial_adj", [False, True, snn.surrogate.spatial_adjustment(leak=0.1)], ids=str)
def test_the_output_gets_another_surrogate(lib, spatial_adj):
    """As a net that is built so has it."""

    def build_net(lib, hidden, output):
        torch.manual_seed(0)
        neurons = (lib.Leaky(beta=0.8, threshold=0.4, **options) for options in (hidden, output))
        return snn.MultiStep(nn.Linear(N, 6), next(neurons), nn.Linear(6, 3), next(neurons))

    options = {"temporal_alpha": 0.2}
    net = snn.convert(build_net(lib, {}, {}), spatial_adj=spatial_adj, output_spike_grad=OUTPUT, **options)
    direct = build_net(snn, {"spatial_adj": spatial_adj, **options}, {"spike_grad": OUTPUT, **options})
    assert (net[1].spatial_adj, net[3].spatial_adj, net[3].spike_grad) == (spatial_adj, False, OUTPUT)
    cur, grads = 3 * currents(T, B, N), []
    for each in (net, direct):
        spk = each(cur)
        grads.append((spk, *torch.autograd.grad((spk * torch.arange(3.0)).sum(), each.parameters())))
    assert 0 < grads[0][0].mean() < 1
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True)) and grads[0][1].any()
    reports = []
    snn.convert(net, spatial_adj=spatial_adj, output_spike_grad=OUTPUT, **options, report=reports.append)
    assert reports[0].unchanged == ("1", "3") and not reports[0].changed
    snn.convert(net, spatial_adj=spatial_adj, output_spike_grad=OUTPUT, report=reports.append)
    assert reports[1].changed == ("1", "3")


def test_an_output_that_match_leaves_out_is_refused_and_nothing_is_changed():
    net = nn.Sequential(snntorch.Leaky(0.9), snntorch.Leaky(0.9))
    with pytest.raises(ValueError, match="output neurons, '1', which match leaves out"):
        snn.convert(net, output_spike_grad=OUTPUT, match=lambda name, neuron: name == "0")
    assert all(type(lif) is snntorch.Leaky for lif in net)
    with pytest.raises(TypeError, match="call it, output_spike_grad=rectangle"):
        snn.convert(net, output_spike_grad=snn.surrogate.rectangle)
    with pytest.raises(TypeError, match="net must be a torch.nn.Module"):
        snn.convert(3, output_spike_grad=OUTPUT)


def test_an_output_without_any_surrogate_stays_so():
    net = nn.Sequential(snntorch.Leaky(0.9), snntorch.Leaky(0.9, surrogate_disable=True))
    with pytest.warns(UserWarning, match="surrogate_disable=True"):
        snn.convert(net, spatial_adj=True, output_spike_grad=OUTPUT)
    assert type(net[0]) is snn.Leaky and type(net[1]) is snntorch.Leaky
