"""reset: every neuron of a net, at any depth, and no other."""

import copy

import pytest
import snntorch
import torch
from _conversion import (
    BOTH,
    NETS,
    REFUSED,
    identities,
    make,
    neuron,
    spiking,
)
from _family import (
    COPY,
    FAMILY,
    KINDS,
    B,
    N,
    T,
    assert_same,
    build,
    currents,
    drive,
    each_kind,
    run,
)
from _versions import SINCE_1
from torch import nn

import snntorch_bpsta as snn

# --- reset ----------------------------------------------------------------------------------------


def stepped(net, *shape):
    """The net after two steps with gradients; every state holds something."""
    for seed in (1, 2):
        net(currents(*(shape or (B, N)), seed=seed).requires_grad_())
    return net


def states_of(module):
    kind = next((name for name in KINDS if isinstance(module, getattr(snntorch, name))), None)
    names = FAMILY[kind].states if kind else ("syn", "mem")
    return {name: getattr(module, name) for name in names}


def assert_zero_and_detached(module):
    for name, state in states_of(module).items():
        assert state.count_nonzero() == 0, name
        assert state.grad_fn is None and not state.requires_grad, name


@pytest.mark.parametrize("lib", [snn, snntorch], ids=["ours", "host"])
@pytest.mark.parametrize("init_hidden", [True, False], ids=["hidden", "states"])
@each_kind
def test_reset_of_every_class(kind, init_hidden, lib):
    lif = stepped(build(lib, kind, init_hidden=init_hidden))
    if init_hidden:
        assert all(s.count_nonzero() and s.grad_fn is not None for s in states_of(lif).values()), "nothing to reset"
    before = states_of(lif)
    held = {k: v.detach().clone() for k, v in before.items()}
    assert snn.reset(lif) is lif
    assert_zero_and_detached(lif)
    if init_hidden:
        assert all(s.shape == (B, N) for s in states_of(lif).values())
    assert all(torch.equal(before[k], v) for k, v in held.items()), "a tensor that the user may hold was overwritten"
    cur = currents(T, B, N)
    assert_same(run(lif, cur, "zeros"), run(build(lib, kind, init_hidden=init_hidden), cur, "zeros"))


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


@pytest.mark.parametrize("lib", [snn, snntorch], ids=["ours", "snntorch"])
@pytest.mark.parametrize("kind", FAMILY)
def test_detach_cuts_the_graph_and_keeps_the_values(lib, kind):
    """Three windows of a long sequence, with backward in each; snnTorch's detach_hidden fails for RSynaptic."""
    lif = build(lib, kind, init_hidden=True)
    net = nn.Sequential(nn.Linear(N, N), nn.Sequential(lif))
    for seed in range(3):
        for cur in 3 * currents(4, B, N, seed=seed):
            out = net(cur)
        out.sum().backward()
        before = {name: getattr(lif, name).clone() for name in FAMILY[kind].states}
        assert any(getattr(lif, name).requires_grad for name in before)
        assert snn.detach(net) is net
        for name, value in before.items():
            assert torch.equal(getattr(lif, name), value) and not getattr(lif, name).requires_grad
    with pytest.raises(TypeError, match="net must be"):
        snn.detach([net])
