"""NIR: export, a file, import, conversion. What comes back with the same spikes, and what does not."""

import copy

import pytest
import torch
from _conversion import reported
from torch import nn

nir = pytest.importorskip("nir", reason="nir is missing")
nirtorch = pytest.importorskip("nirtorch", reason="nirtorch is missing")

import numpy as np  # noqa: E402
import snntorch  # noqa: E402
from snntorch import import_nir  # noqa: E402
from snntorch.export_nir import export_to_nir  # noqa: E402
from snntorch.import_nir import import_from_nir  # noqa: E402

import snntorch_bpsta as snn  # noqa: E402

IN, N = 4, 5
PAPER = {"spatial_adj": True, "temporal_alpha": 0.8}
FORWARD = ("Leaky", "Synaptic")  # what the host's import takes
SINCE_1 = pytest.mark.skipif(snntorch.__version__.startswith("0."), reason="snnTorch 0.9 exports less, and checks less")
RECURRENT = (
    pytest.param("RLeaky", marks=SINCE_1),
    pytest.param("RLeaky one-to-one", marks=SINCE_1),
    "RSynaptic",
)
KINDS = (*FORWARD, *RECURRENT)


def neuron_of(ns, kind, **options):
    """One value of beta and threshold per neuron, as NIR wants them."""
    own = {"beta": torch.full((N,), 0.9), "threshold": torch.full((N,), 0.5)}
    if "Synaptic" in kind:
        own |= {"alpha": torch.full((N,), 0.75), "threshold": torch.full((N,), 1.5)}
    if kind == "RLeaky one-to-one":
        own |= {"all_to_all": False, "V": torch.linspace(-0.3, 0.3, N)}
    elif kind.startswith("R"):
        own["linear_features"] = N
    options = {"init_hidden": True, "reset_mechanism": "zero"} | options
    return getattr(ns, kind.split()[0])(**own | options)


def net_of(ns, kind, **options):
    """Two layers, the last of weights only: its currents show a spike that is missing in the first."""
    torch.manual_seed(0)  # nets of two classes are compared
    return nn.Sequential(nn.Linear(IN, N), neuron_of(ns, kind, **options), nn.Linear(N, 3))


def through_a_file(graph, tmp_path):
    nir.write(str(tmp_path / "net.nir"), graph)
    return nir.read(str(tmp_path / "net.nir"))


def import_recurrent(graph):
    """What the host's import did before nirtorch changed: its own two functions, and nirtorch's older door."""
    graph = import_nir._replace_rnn_subgraph_with_nirgraph(graph)
    with pytest.warns(DeprecationWarning):
        return nirtorch.load(graph, lambda node: import_nir._nir_to_snntorch_module(node, init_hidden=True))


def round_trip(net, tmp_path, load=import_from_nir):
    return load(through_a_file(export_to_nir(net, torch.rand(IN)), tmp_path))


def neurons(net):
    return [module for module in net.modules() if isinstance(module, snntorch.SpikingNeuron)]


def currents(steps=30, seed=1, scale=1.5):
    """Up and down, so that a neuron is now silent and now fires twice in a row, where the resets differ."""
    return torch.randn(steps, 2, IN, generator=torch.Generator().manual_seed(seed)) * scale


def run(net, x):
    """Step `net` over `x` from zeros. An imported net returns a pair."""
    snn.reset(net)
    out_rec = []
    for x_t in x:
        out = net(x_t)
        out_rec.append(out[0] if isinstance(out, tuple) else out)
    return torch.stack(out_rec)


def assert_fires(net, x):
    """Most neurons fire at some steps and not at others."""
    spikes = []
    handle = neurons(net)[0].register_forward_hook(lambda module, args, spk: spikes.append(spk))
    run(net, x)
    handle.remove()
    rates = torch.stack(spikes).mean(0)
    assert ((0 < rates) & (rates < 1)).float().mean() > 0.5


def assert_same_graph(actual, expected):
    assert set(actual.edges) == set(expected.edges)
    assert actual.nodes.keys() == expected.nodes.keys()
    for name, node in expected.nodes.items():
        assert type(actual.nodes[name]) is type(node)
        fields, own = node.to_dict(), actual.nodes[name].to_dict()
        assert own.keys() == fields.keys()
        for key, value in fields.items():
            assert np.array_equal(np.asarray(own[key]), np.asarray(value)), (name, key)


# --- export ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, PAPER], ids=["off", "on"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_graph_is_the_hosts(kind, options, tmp_path):
    """Built as ours, or converted, options on or off: NIR holds no surrogate."""
    expected = export_to_nir(net_of(snntorch, kind), torch.rand(IN))
    ours, converted = net_of(snn, kind, **options), net_of(snntorch, kind)
    assert reported(snn.convert, converted, **options).changed == ("1",)
    for net in (ours, converted):
        assert isinstance(neurons(net)[0], getattr(snn, kind.split()[0]))
        graph = export_to_nir(net, torch.rand(IN))
        assert_same_graph(graph, expected)
        assert_same_graph(through_a_file(graph, tmp_path), expected)


def test_the_check_of_graphs_does_check():
    graph, other = (export_to_nir(net_of(snn, kind), torch.rand(IN)) for kind in FORWARD)
    with pytest.raises(AssertionError):
        assert_same_graph(graph, other)
    weights = export_to_nir(net_of(snn, "Leaky"), torch.rand(IN))
    weights.nodes["0"].weight = weights.nodes["0"].weight + 1
    with pytest.raises(AssertionError):
        assert_same_graph(weights, graph)


def test_the_export_runs_the_net_once():
    """And leaves its hidden states behind, as in the host."""
    net = net_of(snn, "Leaky")
    export_to_nir(net, torch.ones(IN))
    assert neurons(net)[0].mem.any()
    snn.reset(net)
    assert not neurons(net)[0].mem.any()


# --- there and back -------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"spatial_adj": True}], ids=["off", "on"])
@pytest.mark.parametrize("kind", KINDS)
def test_same_spikes(kind, options, tmp_path):
    """With the reset that the import gives ("zero", at once), before the conversion of the imported net and after it."""
    net, x = net_of(snn, kind, reset_delay=False, **options), currents()
    assert_fires(net, x)
    expected = run(net, x)
    imported = round_trip(net, tmp_path, import_from_nir if kind in FORWARD else import_recurrent)
    (neuron,) = neurons(imported)
    assert type(neuron) is getattr(snntorch, kind.split()[0])
    if kind != "RSynaptic":  # see test_rsynaptic
        assert torch.equal(run(imported, x), expected)
    assert len(reported(snn.convert, imported, **options).changed) == 1
    assert type(neuron) is getattr(snn, kind.split()[0])
    assert torch.equal(run(imported, x), expected)


def test_rsynaptic(tmp_path):
    """The host's cannot step with reset_delay=False, which is what the import gives; ours can."""
    imported = round_trip(net_of(snn, "RSynaptic", reset_delay=False), tmp_path, import_recurrent)
    with pytest.raises(TypeError):
        run(imported, currents())
    snn.convert(imported)
    assert run(imported, currents()).shape == (30, 2, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_reset_is_lost_and_can_be_set_again(kind, tmp_path):
    """NIR's neurons reset to zero at once. Ours follow `reset_mechanism` and `reset_delay`, once converted."""
    net, x = net_of(snn, kind, reset_mechanism="subtract"), currents()
    assert_fires(net, x)
    expected = run(net, x)
    imported = round_trip(net, tmp_path, import_from_nir if kind in FORWARD else import_recurrent)
    (neuron,) = neurons(imported)
    assert (neuron.reset_mechanism, neuron.reset_delay) == ("zero", False)
    snn.convert(imported)
    assert not torch.equal(run(imported, x), expected)
    neuron.reset_mechanism, neuron.reset_delay = "subtract", True
    assert torch.equal(run(imported, x), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_temporal_alpha(kind, tmp_path):
    """It needs reset_delay=True. With a reset to zero that leaves Leaky's spikes as they are, but not those of the others,
    whose delayed reset wipes the input too; theirs are again those of a net that had reset_delay=True before the export."""
    load = import_from_nir if kind in FORWARD else import_recurrent
    net, x = net_of(snn, kind, reset_delay=False), currents()
    at_once, delayed = run(net, x), run(net_of(snn, kind, reset_delay=True), x)
    assert torch.equal(at_once, delayed) == (kind == "Leaky")
    imported = round_trip(net, tmp_path, load)
    (neuron,) = neurons(imported)
    with pytest.warns(UserWarning, match="reset_delay"):
        report = reported(snn.convert, imported, **PAPER)
    assert len(report.changed) == 1 and "reset_delay" in str(report.partly)
    assert (neuron.spatial_adj, neuron.temporal_alpha) == (PAPER["spatial_adj"], 0)
    neuron.reset_delay = True
    assert len(reported(snn.convert, imported, **PAPER).changed) == 1
    assert torch.equal(run(imported, x), delayed)
    out = run(imported, x)
    out.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in imported.parameters())
    (first,) = [module for module in imported.modules() if isinstance(module, nn.Linear) and module.in_features == IN]
    assert first.weight.grad.any()


@pytest.mark.xfail(  # not strict: one kind of snntorch 0.9 does come back; the others nirtorch 2.6 cannot wire
    raises=AttributeError,
    strict=False,
    reason="nirtorch 2.6 cannot wire the host's recurrent subgraph, but for one kind of snntorch 0.9",
)
@pytest.mark.parametrize("kind", RECURRENT)
def test_the_hosts_import_of_recurrent_neurons(kind, tmp_path):
    imported = round_trip(net_of(snn, kind, reset_delay=False), tmp_path)
    snn.convert(imported)
    assert torch.equal(run(imported, currents()), run(net_of(snn, kind, reset_delay=False), currents()))


@SINCE_1
def test_convolutions(tmp_path):
    """Values of the shape of the feature map, pooling by tuples, and Flatten by a negative dimension, so that the imported
    net takes batches."""

    def leaky(*shape):
        own = {"beta": torch.full(shape, 0.9), "threshold": torch.full(shape, 0.2)}
        return snn.Leaky(**own, reset_mechanism="zero", init_hidden=True, **PAPER)

    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1),
        leaky(3, 8, 8),
        nn.AvgPool2d((2, 2), (2, 2)),
        nn.Flatten(-3),
        nn.Linear(48, N),
        leaky(N),
    )
    with torch.no_grad():
        net[4].weight *= 4
    x = torch.randn(10, 2, 2, 8, 8, generator=torch.Generator().manual_seed(0)) * 3
    graph = through_a_file(export_to_nir(net, torch.rand(2, 8, 8)), tmp_path)
    imported = import_from_nir(graph)
    for neuron in neurons(imported):
        neuron.reset_delay = True
    assert len(reported(snn.convert, imported, **PAPER).changed) == 2
    expected = run(net, x)
    assert 0 < expected.mean() < 1 and torch.equal(run(imported, x), expected)
    graph = export_to_nir(net, torch.rand(1, 2, 8, 8), ignore_dims=[0])  # the other way to have no batch in the graph
    assert graph.nodes["input"].input_type["input"].tolist() == [2, 8, 8]


def test_a_multistep_net(tmp_path):
    """By a step net of copies of its modules, whose neurons keep their state."""
    torch.manual_seed(0)
    own = {"beta": torch.full((N,), 0.9), "threshold": torch.full((N,), 0.5), "reset_mechanism": "zero"}
    net = snn.MultiStep(nn.Linear(IN, N), snn.Leaky(**own, **PAPER), nn.Linear(N, N), snn.Leaky(**own, **PAPER))
    with pytest.raises(ValueError, match="empty graph"):
        export_to_nir(net, torch.rand(3, 1, IN), ignore_dims=[0, 1])
    step = nn.Sequential(*copy.deepcopy(list(net)))
    for neuron in neurons(step):
        neuron.init_hidden = True
    imported, x = round_trip(step, tmp_path), currents()
    snn.convert(imported, spatial_adj=True)
    expected = net(x)
    assert expected.any() and torch.equal(run(imported, x), expected) and torch.equal(run(step, x), expected)


# --- limits ---------------------------------------------------------------------------------------


@SINCE_1
@pytest.mark.parametrize(
    "beta, threshold, sample, error, match",
    [
        (0.9, 0.5, torch.rand(IN), ValueError, "type mismatch"),
        (torch.full((N,), 0.9), 0.5, torch.rand(IN), AssertionError, "same shape"),
        (torch.full((N,), 0.9), torch.full((N,), 0.5), torch.rand(1, IN), ValueError, "type mismatch"),
    ],
    ids=["scalar beta", "scalar threshold", "batched sample"],
)
def test_what_the_export_wants(beta, threshold, sample, error, match):
    neuron = snn.Leaky(beta=beta, threshold=threshold, init_hidden=True)
    with pytest.raises(error, match=match):
        export_to_nir(nn.Sequential(nn.Linear(IN, N), neuron), sample)


@SINCE_1
@pytest.mark.parametrize("name", ["Lapicque", "Alpha", "ReLU", "MaxPool1d", "BatchNorm1d", "Voting"])
def test_what_the_export_does_not_know(name, capsys):
    vector = {"beta": torch.full((N,), 0.9), "threshold": torch.full((N,), 0.5), "init_hidden": True}
    module = {
        "Lapicque": lambda: snn.Lapicque(**vector | {"beta": 0.9}),
        "Alpha": lambda: snn.Alpha(alpha=torch.full((N,), 0.95), **vector),
        "ReLU": nn.ReLU,
        "MaxPool1d": lambda: nn.MaxPool1d(1),
        "BatchNorm1d": lambda: nn.BatchNorm1d(N).eval(),
        "Voting": lambda: snn.Voting(N),
    }[name]()
    sample, options = (torch.rand(1, IN), {"ignore_dims": [0]}) if name != "Voting" else (torch.rand(IN), {})
    with pytest.raises(AttributeError):
        export_to_nir(nn.Sequential(nn.Linear(IN, N), module), sample, **options)
    assert f"module not implemented: {name}" in capsys.readouterr().out


def test_one_threshold_for_all_neurons_of_a_layer():
    own = {"beta": torch.full((N,), 0.9), "threshold": torch.linspace(0.4, 0.6, N), "init_hidden": True}
    graph = export_to_nir(nn.Sequential(nn.Linear(IN, N), snn.Leaky(**own)), torch.rand(IN))
    with pytest.raises(AssertionError, match="v_threshold must be same"):
        import_from_nir(graph)


def test_decays_come_back_to_rounding_and_are_not_learnable(tmp_path):
    """They go through a time constant: beta -> tau = dt / (1 - beta) -> beta."""
    beta = torch.tensor([0.0, 0.3, 0.5, 0.9, 0.999])
    own = {"beta": beta, "threshold": torch.full((N,), 0.5), "init_hidden": True, "learn_beta": True}
    imported = round_trip(nn.Sequential(nn.Linear(IN, N), snn.Leaky(**own)), tmp_path)
    (neuron,) = neurons(imported)
    back = torch.as_tensor(neuron.beta)
    assert torch.allclose(back.float(), beta, rtol=0, atol=1e-6) and not isinstance(neuron.beta, nn.Parameter)
