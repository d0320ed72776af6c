"""Six neurons as members of snnTorch's family: names, signatures, state_dict, repr, copies, snnTorch's own tools."""

import inspect

import pytest
import snntorch
from _family import (
    COPY,
    FAMILY,
    OPTIONS,
    RECURRENT,
    B,
    N,
    T,
    assert_same,
    begin,
    build,
    currents,
    each_kind,
    each_option,
    pair,
    per_neuron,
    refused,
    run,
    values_of,
)
from snntorch import utils as host_utils
from torch import nn

import snntorch_bpsta as snn

NEURONS = {
    "off": lambda kind: {},
    "both": lambda kind: OPTIONS["both" if FAMILY[kind].residual else "spatial"],
    # A Lapicque of snnTorch's that learns beta cannot go backward any more once a state was loaded into it.
    "learn": lambda kind: {"learn_beta": kind != "Lapicque", "learn_threshold": True, "spatial_adj": True},
    "per-neuron": lambda kind: per_neuron(kind) | ({"temporal_alpha": 0.5} if FAMILY[kind].residual else {}),
    "V": lambda kind: {"spatial_adj": True},
    "fixed": lambda kind: {"learn_recurrent": False, "spatial_adj": True},
}
each_neuron = pytest.mark.parametrize(
    "kind, name",
    [(kind, name) for kind in FAMILY for name in NEURONS if kind in RECURRENT or name not in ("V", "fixed")],
)


def twins(kind, name):
    return pair(kind, "V" if name == "V" else "linear", **NEURONS[name](kind))


@each_neuron
def test_state_dict_loads_strictly_both_ways(kind, name):
    ours, host = twins(kind, name)
    assert list(ours.state_dict()) == list(host.state_dict())
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in host.named_parameters()]
    states = set(FAMILY[kind].states)
    assert dict(ours.named_buffers()).keys() == dict(host.named_buffers()).keys() - states  # DDP broadcasts buffers
    ours(currents(B, N), *begin(kind, (B, N)).values())
    assert list(ours.state_dict()) == list(host.state_dict()), "a forward pass left something behind"

    cur = currents(T, B, N, seed=19)
    filled = {k: v * 0.9 if v.is_floating_point() else v for k, v in host.state_dict().items()}
    host.load_state_dict(filled, strict=True)
    ours.load_state_dict(host.state_dict(), strict=True)
    expected = run(host, cur)
    assert_same(run(ours, cur), expected, values_of(expected))

    fresh = twins(kind, name)[1]
    fresh.load_state_dict(ours.state_dict(), strict=True)
    assert_same(run(fresh, cur), run(host, cur))


@each_kind
def test_it_is_a_neuron_of_snntorch(kind):
    neuron = build(snn, kind)
    assert isinstance(neuron, getattr(snntorch, kind)) and type(neuron).__name__ == kind
    assert neuron in snntorch.SpikingNeuron.instances


@each_kind
def test_signature_is_snntorchs_and_our_keywords(kind):
    ours = list(inspect.signature(getattr(snn, kind)).parameters.values())
    host = list(inspect.signature(getattr(snntorch, kind)).parameters.values())
    assert [(p.name, p.default, p.kind) for p in ours[: len(host)]] == [(p.name, p.default, p.kind) for p in host]
    added = {"spatial_adj": False, "temporal_alpha": 0.0, "inplace": False, "save": None}
    keyword = inspect.Parameter.KEYWORD_ONLY
    assert [(p.name, p.default, p.kind) for p in ours[len(host) :]] == [(*item, keyword) for item in added.items()]


@each_option
def test_options_are_plain_attributes(kind, option):
    neuron = build(snn, kind, **OPTIONS[option])
    expected = {"spatial_adj": False, "temporal_alpha": 0.0} | OPTIONS[option]
    assert {name: getattr(neuron, name) for name in expected} == expected and neuron.warm_up is None


@each_option
def test_repr_shows_the_options_that_are_set(kind, option):
    text = repr(build(snn, kind, **OPTIONS[option]))
    assert f"{kind}(" in text
    for name in ("spatial_adj", "temporal_alpha"):
        assert (f"{name}={OPTIONS[option].get(name)}" in text) == (name in OPTIONS[option]) == (name in text)
    if option == "off":
        assert text == repr(build(snntorch, kind))


@pytest.mark.parametrize("how", COPY)
@each_neuron
def test_a_copy_is_the_same_neuron(kind, name, how):
    neuron = twins(kind, name)[0]
    twin = COPY[how](neuron)
    assert (twin.spatial_adj, twin.temporal_alpha) == (neuron.spatial_adj, neuron.temporal_alpha)
    cur = currents(T, B, N)
    assert_same(run(twin, cur), run(neuron, cur))
    for ours, theirs in zip(twin.parameters(), neuron.parameters(), strict=True):
        assert ours.data_ptr() != theirs.data_ptr()


@each_kind
def test_snntorchs_own_tools_reset_and_detach_it(kind):
    option = {} if refused(kind, **OPTIONS["both"]) else OPTIONS["both"]
    net = nn.Sequential(nn.Linear(N, N), build(snn, kind, init_hidden=True, **option))
    neuron = net[1]
    net(currents(B, N) + 1)
    net(currents(B, N) + 1)
    assert neuron.mem.count_nonzero() > 0 and neuron.mem.grad_fn is not None
    type(neuron).detach_hidden()
    assert neuron.mem.grad_fn is None and neuron.mem.count_nonzero() > 0
    host_utils.reset(net)
    assert neuron.mem.shape == (B, N) and neuron.mem.count_nonzero() == 0


def test_init_leaky_and_reset_mem():
    lif, host = pair("Leaky", **OPTIONS["both"])
    assert lif.init_leaky().shape == host.init_leaky().shape == (0,)
    lif(currents(B, N))
    assert lif.reset_mem().shape == (B, N) and lif.mem.count_nonzero() == 0
