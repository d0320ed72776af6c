"""Six neurons as members of snnTorch's family: names, signatures, state_dict, repr, copies, snnTorch's own tools."""

import copy
import inspect
import re
import warnings

import pytest
import snntorch
import torch
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
    added = {"spatial_adj": False, "temporal_alpha": 0.0, "warm_up": None, "inplace": False, "save": None}
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


@each_kind
def test_repr_shows_decays_threshold_and_reset(kind):
    """Under the names and with the values that the constructor takes; of vectors the shape."""
    neuron = build(snn, kind, threshold=0.75, reset_mechanism="subtract" if kind != "Alpha" else "zero")
    shown = dict(re.findall(r"(\w+)=([^,\n)]+)", repr(neuron)))
    assert shown["threshold"] == "0.75" and shown["reset_mechanism"] == repr(neuron.reset_mechanism)
    for name in ("alpha", "beta"):
        assert (name in shown) == hasattr(neuron, name)
        assert name not in shown or float(shown[name]) == pytest.approx(getattr(neuron, name).item(), rel=1e-3)
    neuron.threshold = torch.rand(N)
    assert f"threshold=[{N}]" in repr(neuron)
    assert "threshold=[]" in repr(build(snn, kind).to("meta")) and "beta=" in repr(copy.deepcopy(neuron))


@each_kind
def test_a_wrong_name_of_an_argument_says_which_was_meant(kind):
    for wrong, meant in {
        "spatial_adjust": "spatial_adj",
        "treshold": "threshold",
        "temporal_alfa": "temporal_alpha",
    }.items():
        message = rf"^{kind}\(\) got an unexpected keyword argument '{wrong}'; did you mean {meant}\?$"
        with pytest.raises(TypeError, match=message):
            build(snn, kind, **{wrong: 1})
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'zzz'$"):
        build(snn, kind, zzz=1)


def test_names_of_a_derived_class_count_too():
    with pytest.raises(TypeError, match=r"AdaptiveLeaky\(\) .* 'treshold_step'; did you mean threshold_step\?"):
        snn.AdaptiveLeaky(beta=0.9, treshold_step=0.1)

    class Own(snn.Leaky):
        def __init__(self, *args, sharpness=1.0, **kwargs):
            super().__init__(*args, **kwargs)

    with pytest.raises(TypeError, match=r"Own\(\) .* 'sharpnes'; did you mean sharpness\?"):
        Own(beta=0.9, sharpnes=2.0)


@pytest.mark.parametrize(
    ("function", "wrong", "meant"),
    [
        (snn.convert, "spatial_adjust", "spatial_adj"),
        (snn.revert, "reports", "report"),
        (snn.patched, "temporal_alfa", "temporal_alpha"),
        (snn.fold_time, "step", "steps"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_wrong_name_to_a_function_says_which_was_meant(function, wrong, meant):
    given = () if function is snn.patched else (torch.nn.Linear(2, 2),)
    message = rf"^{function.__name__}\(\) got an unexpected keyword argument '{wrong}'; did you mean {meant}\?$"
    with pytest.raises(TypeError, match=message):
        function(*given, **{wrong: True})


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


# --- values that lead nowhere ---------------------------------------------------------------------

VALUES = {
    "nan": float("nan"),
    "inf": float("inf"),
    "-inf": float("-inf"),
    "one-nan": torch.tensor([0.5] * (N - 1) + [float("nan")]),
}


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("name", ["beta", "threshold", "graded_spikes_factor"])
def test_what_is_not_finite_is_told_and_computed_as_in_snntorch(name, value):
    numbers = {"beta": 0.9, name: VALUES[value]}
    with pytest.warns(
        UserWarning, match=rf"^{name} of Leaky is {'NaN' if 'nan' in value else 'infinite'}.*comes from"
    ) as said:
        ours = snn.Leaky(**numbers)
    assert len(said) == 1 and said[0].filename == __file__
    assert ("1e9" in str(said[0].message)) == (name == "threshold" and "inf" in value)
    cur = currents(T, B, N)
    for actual, expected in zip(step_loop(ours, cur), step_loop(snntorch.Leaky(**numbers), cur), strict=True):
        assert torch.equal(actual.nan_to_num(7), expected.nan_to_num(7))


def step_loop(lif, cur):
    mem, rows = torch.zeros(B, N), []
    for step in cur:
        spk, mem = lif(step, mem)
        rows += [spk.detach(), mem.detach()]
    return rows


DECAYS = [("Leaky", "beta"), ("RLeaky", "beta"), ("Synaptic", "alpha"), ("RSynaptic", "alpha")]


def use(lif, kind, how):
    cur = currents(T, B, N)
    if how == "sequence":
        lif.sequence(cur)
    else:
        lif(cur[0], *begin(kind, (B, N)).values())


@pytest.mark.parametrize("how", ["step", "sequence"])
@pytest.mark.parametrize("option", ["off", "spatial"])
@pytest.mark.parametrize("kind, name", DECAYS)
def test_a_decay_that_learns_and_leaves_its_range_is_told_once(kind, name, option, how):
    lif = build(snn, kind, **OPTIONS[option], **{f"learn_{name}": True})
    decay = getattr(lif, name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        use(lif, kind, how)
        for edge in (0.0, 1.0, 0.5):  # has a gradient still
            with torch.no_grad():
                decay.fill_(edge)
            use(lif, kind, how)
    with torch.no_grad():
        decay.fill_(1.5)
    with pytest.warns(
        UserWarning, match=rf"^{name} of {kind}, which learns, has left \[0, 1\] \(1.5 to 1.5\).*bound_decays"
    ):
        use(lif, kind, how)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with torch.no_grad():
            decay.fill_(-0.5)
        use(lif, kind, how)
        build(snn, kind, **{name: 1.5})  # does not learn: clipped, as in snnTorch


def test_an_optimizer_that_drives_a_decay_out_is_seen():
    lif = snn.Leaky(0.95, learn_beta=True, spatial_adj=True)
    optimizer = torch.optim.SGD(lif.parameters(), lr=1.0)
    with pytest.warns(UserWarning, match="beta of Leaky, which learns, has left"):
        for _ in range(3):
            optimizer.zero_grad()
            (-lif.sequence(torch.full((T, B, N), 0.8))[1].sum()).backward()
            optimizer.step()


def test_no_look_at_a_decay_that_nothing_wrote_to(monkeypatch):
    """A comparison of two numbers for a decay that learns; nothing for one that does not, on the GPU, or in a graph."""
    lif = snn.Leaky(torch.full((N,), 0.9), learn_beta=True)
    lif(currents(B, N), torch.zeros(B, N))
    monkeypatch.setattr(torch.Tensor, "any", lambda *_: pytest.fail("looked"))
    for _ in range(3):
        lif(currents(B, N), torch.zeros(B, N))
