"""Whole networks to NIR and back in one call each: equal spikes, or a refusal by name."""

import numpy as np
import pytest
import torch
from torch import nn

nir = pytest.importorskip("nir", reason="nir is missing")

import snntorch  # noqa: E402

import snntorch_bpsta as snn  # noqa: E402

IN, N, DT = 4, 5, 1e-4
ZERO = {"reset_mechanism": "zero"}
AT_ONCE = ZERO | {"reset_delay": False}
NUMBERS = {"beta": 0.9, "threshold": 0.4}
EACH = {"beta": torch.linspace(-0.1, 0.95, N), "threshold": torch.linspace(0.3, 0.5, N)}
V = torch.linspace(-0.3, 0.4, N)
LAYERS = {
    "Leaky": lambda: [snn.Leaky(**NUMBERS, **ZERO)],
    "Leaky at once, per neuron": lambda: [snn.Leaky(**EACH, **AT_ONCE)],
    "Leaky that does not leak": lambda: [snn.Leaky(beta=1.0, threshold=0.4, **ZERO)],
    "learnt, options on": lambda: [snn.Leaky(**EACH, **ZERO, learn_beta=True, learn_threshold=True, spatial_adj=True)],
    "Synaptic": lambda: [snn.Synaptic(alpha=0.7, **NUMBERS, **AT_ONCE)],
    "Synaptic, per neuron": lambda: [snn.Synaptic(alpha=torch.linspace(0.1, 0.9, N), **EACH, **AT_ONCE)],
    "RLeaky": lambda: [snn.RLeaky(**NUMBERS, **AT_ONCE, linear_features=N)],
    "RLeaky that does not leak": lambda: [snn.RLeaky(beta=1.0, threshold=0.4, **AT_ONCE, linear_features=N)],
    "RLeaky one-to-one": lambda: [snn.RLeaky(**EACH, **AT_ONCE, all_to_all=False, V=V)],
    "RLeaky, one V for all": lambda: [snn.RLeaky(**NUMBERS, **AT_ONCE, all_to_all=False, V=0.4)],
    "RSynaptic": lambda: [snn.RSynaptic(alpha=0.7, **NUMBERS, **AT_ONCE, linear_features=N)],
    "RSynaptic one-to-one": lambda: [snn.RSynaptic(alpha=0.7, **EACH, **AT_ONCE, all_to_all=False, V=V)],
    "snnTorch's Leaky": lambda: [snntorch.Leaky(**NUMBERS, **ZERO)],
    "snnTorch's Synaptic": lambda: [snntorch.Synaptic(alpha=0.7, **NUMBERS, **AT_ONCE)],
    "two layers, dropout": lambda: [
        snn.Leaky(**NUMBERS, **ZERO), nn.Dropout(0.5), nn.Identity(),
        nn.Linear(N, 3, bias=False), snn.Leaky(**NUMBERS, **ZERO),
    ],
}  # fmt: skip
MAPS = {
    "conv, per channel": lambda: [
        nn.Conv2d(2, 4, 3, stride=2, padding=1, bias=False),
        snn.Leaky(beta=torch.linspace(0.5, 0.9, 4).view(4, 1, 1), threshold=0.2, **ZERO),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 3),
        snn.Leaky(beta=0.9, threshold=0.1, **ZERO),
    ],
    "same, sums": lambda: [
        nn.Conv2d(2, 4, (3, 2), padding="same", dilation=2),
        nn.AvgPool2d((2, 3), stride=2, padding=1, divisor_override=1),
        snn.Leaky(beta=0.9, threshold=0.5, **ZERO),
    ],
    "some dimensions flattened": lambda: [
        nn.Flatten(-2),
        nn.Conv1d(2, 3, 5, 2),
        snn.Leaky(beta=0.9, threshold=0.2, **ZERO),
    ],
}


def net_of(layers):
    """For vectors, a Linear before them; the same weights every time."""
    torch.manual_seed(0)
    return snn.MultiStep(nn.Linear(IN, N), *layers()).eval()


def inputs(shape=(IN,)):
    return torch.randn(30, 3, *shape, generator=torch.Generator().manual_seed(1)) * 2


def through_a_file(graph, tmp_path):
    nir.write(str(tmp_path / "net.nir"), graph)
    return nir.read(str(tmp_path / "net.nir"))


def assert_equal_spikes(actual, expected):
    assert 0.02 < expected.mean() < 0.98
    assert torch.equal(actual, expected)


# --- there and back -------------------------------------------------------------------------------


@pytest.mark.parametrize("dt", [DT, 1.0])
@pytest.mark.parametrize("name", LAYERS)
def test_equal_spikes(name, dt, tmp_path):
    net, x = net_of(LAYERS[name]), inputs()
    with torch.no_grad():
        expected = net(x)
        before = {key: value.clone() for key, value in net.state_dict().items()}
        loaded = snn.nir.load(through_a_file(snn.nir.export(net, torch.rand(IN), dt), tmp_path), dt)
        assert_equal_spikes(loaded(x), expected)
        again = snn.nir.load(snn.nir.export(loaded, torch.rand(IN), dt), dt)
        assert_equal_spikes(again(x), expected)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("name", MAPS)
def test_equal_spikes_of_feature_maps(name, tmp_path):
    torch.manual_seed(0)
    net, x = snn.MultiStep(*MAPS[name]()), inputs((2, 8, 8))
    with torch.no_grad():
        loaded = snn.nir.load(through_a_file(snn.nir.export(net, torch.rand(2, 8, 8)), tmp_path))
        assert_equal_spikes(loaded(x), net(x))


def test_a_step_net_inside_another():
    """Names are those of the layers; hidden states are neither used nor touched."""
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(IN, N), snn.Leaky(**NUMBERS, **ZERO, init_hidden=True))
    net, x = nn.Sequential(inner, nn.Linear(N, 3)), inputs()
    with torch.no_grad():
        expected = torch.stack([net(x_t) for x_t in x])
        mem = inner[1].mem.clone()
        graph = snn.nir.export(net, torch.rand(IN))
        assert torch.equal(inner[1].mem, mem)
        assert list(graph.nodes) == ["input", "0.0", "0.1", "1", "output"]
        assert torch.allclose(snn.nir.load(graph)(x), expected)


def test_options_for_all_neurons():
    graph = snn.nir.export(net_of(LAYERS["Leaky"]), torch.rand(IN))
    net = snn.nir.load(graph, spatial_adj=True, temporal_alpha=0.8, learn_beta=True)
    out = net(inputs())
    out.sum().backward()
    assert net[1].spatial_adj and net[1].temporal_alpha == 0.8
    assert net[0].weight.grad.any() and net[1].beta.grad.any()


@pytest.mark.parametrize("kind", ["Leaky", "Synaptic", "RLeaky", "RSynaptic"])
@pytest.mark.parametrize("reset", ["subtract", "none"])
def test_another_reset_is_refused_or_kept_beside_the_node(reset, kind, tmp_path):
    own = {"alpha": 0.7} if "Synaptic" in kind else {}
    own |= {"linear_features": N} if kind[0] == "R" else {}
    net, x = net_of(lambda: [getattr(snn, kind)(**NUMBERS, **own, reset_mechanism=reset)]), inputs()
    with pytest.raises(ValueError, match=rf"layer '1' \({kind}\).*at once, and this one has reset_mechanism='{reset}'"):
        snn.nir.export(net, torch.rand(IN))
    with pytest.warns(UserWarning, match="1 of the network do not"):
        graph = snn.nir.export(net, torch.rand(IN), strict=False)
    loaded = snn.nir.load(through_a_file(graph, tmp_path))
    assert (loaded[1].reset_mechanism, loaded[1].reset_delay) == (reset, True)
    with torch.no_grad():
        assert_equal_spikes(loaded(x), net(x))


def test_snntorch_reads_what_is_written(tmp_path):
    """Its own import gives the same spikes."""
    from snntorch.import_nir import import_from_nir

    net, x = net_of(LAYERS["Leaky"]), inputs()
    host = import_from_nir(through_a_file(snn.nir.export(net, torch.rand(IN)), tmp_path))
    snn.reset(host)
    with torch.no_grad():
        assert_equal_spikes(torch.stack([host(x_t)[0] for x_t in x]), net(x))


class Step(nn.Module):
    """A neuron as nirtorch wants it: the state by its name, and a pair."""

    def __init__(self, node):
        super().__init__()
        (self.neuron,) = snn.nir.load(nir.NIRGraph.from_list(node))

    def forward(self, x, state=None):
        return self.neuron(x, torch.zeros_like(x) if state is None else state)


def test_nirtorch_runs_what_is_written_and_its_graphs_are_read(tmp_path):
    """By its doors of today, nir_to_torch and torch_to_nir. (Its own Affine loses the bias.)"""
    nirtorch = pytest.importorskip("nirtorch", reason="nirtorch is missing")
    torch.manual_seed(0)
    leaky = [snn.Leaky(beta, threshold=0.3, reset_mechanism="zero") for beta in (0.9, 0.8)]
    net = snn.MultiStep(nn.Linear(IN, N, bias=False), leaky[0], nn.Linear(N, N, bias=False), leaky[1])
    graph, x, state, spikes = through_a_file(snn.nir.export(net, torch.rand(IN)), tmp_path), inputs(), None, []
    theirs = nirtorch.nir_to_torch(graph, {nir.LIF: Step})
    with torch.no_grad():
        for x_t in x:
            spk, state = theirs(x_t) if state is None else theirs(x_t, state)
            spikes.append(spk)
        assert_equal_spikes(torch.stack(spikes), net(x))

    def node_of(neuron):
        written = snn.nir.export(snn.MultiStep(neuron), torch.rand(N)).nodes.values()
        return next(node for node in written if isinstance(node, nir.LIF))

    traced = nirtorch.torch_to_nir(nn.Sequential(*net), {snn.Leaky: node_of})
    with torch.no_grad():
        assert_equal_spikes(snn.nir.load(traced)(x), net(x))


# --- graphs of other programs ---------------------------------------------------------------------


def graph_of(*middle, shape=(IN,), out=(N,), edges=None, **more):
    nodes = {"input": nir.Input(np.array(shape))} | {f"n{i}": node for i, node in enumerate(middle)}
    names = [*nodes, "output"]
    nodes |= {"output": nir.Output(np.array(out))} | more
    return nir.NIRGraph(nodes, [*zip(names, names[1:], strict=False)] if edges is None else edges, type_check=False)


def weights(rows=N, columns=IN, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)


def lif(shape=(N,), tau=1e-3, r=1.0, v_threshold=0.05, v_leak=0.0, **more):
    each = [np.full(shape, value) for value in (tau, r, v_leak, v_threshold)]
    return nir.LIF(*each, **{key: np.full(shape, value) for key, value in more.items()})


def by_hand(x, w, beta, factor, threshold, back=None):
    """LIF neurons of a graph, in numpy: set to zero right after a spike."""
    x, v, out = x.double().numpy(), 0.0, []
    z = np.zeros((x.shape[1], len(w)))
    for x_t in x:
        v = beta * v + factor * (x_t @ w.T + (0 if back is None else z @ back.T))
        z = (v > threshold).astype(float)
        v = v * (1 - z)
        out.append(z)
    return torch.from_numpy(np.stack(out)).float()


def test_a_resistance_of_one_as_norse_writes_it(tmp_path):
    """tau = 10 steps, r = 1: the input counts a tenth."""
    graph = through_a_file(graph_of(nir.Linear(weights()), lif(tau=1e-2, r=1.0, v_threshold=0.3)), tmp_path)
    assert_equal_spikes(snn.nir.load(graph, dt=1e-3)(inputs()), by_hand(inputs(), weights(), 0.9, 0.1, 0.3))


def test_time_constants_in_steps_and_an_integrator():
    tau = np.array([2.0, 4.0, 8.0, 16.0, 32.0])
    graph = graph_of(nir.Linear(weights()), nir.LIF(tau, np.ones(N), np.zeros(N), np.full(N, 0.5)))
    assert_equal_spikes(snn.nir.load(graph, dt=1)(inputs()), by_hand(inputs(), weights(), 1 - 1 / tau, 1 / tau, 0.5))
    graph = graph_of(nir.Linear(weights()), nir.IF(np.full(N, 2.0), np.full(N, 3.0)))
    assert_equal_spikes(snn.nir.load(graph, dt=1)(inputs()), by_hand(inputs(), weights(), 1.0, 2.0, 3.0))


def test_a_current_with_factors_of_its_own():
    """CubaLIF: both factors, of the current and of the membrane."""
    node = nir.CubaLIF(*(np.full(N, value) for value in (4.0, 8.0, 2.0, 0.0, 0.5)), w_in=np.full(N, 3.0))
    net, x = snn.nir.load(graph_of(nir.Linear(weights()), node), dt=1), inputs()
    i, v, out = 0.0, 0.0, []
    for x_t in x.double().numpy():
        i = 0.75 * i + 3 / 4 * (x_t @ weights().T)
        v = 7 / 8 * v + 2 / 8 * i
        out.append((v > 0.5).astype(float))
        v = v * (1 - out[-1])
    assert_equal_spikes(net(x).detach(), torch.from_numpy(np.stack(out)).float())


@pytest.mark.parametrize("shape", [(), (1,), (4,), (4, 1, 1), (4, 3, 3)])
def test_parameters_for_all_per_channel_and_per_neuron(shape):
    conv = nir.Conv2d((5, 5), weights(4, 18).reshape(4, 2, 3, 3), 1, 0, 1, 1, np.zeros(4, np.float32))
    tau = np.array([1e-3, 2e-3, 3e-3, 4e-3]) if 4 in shape else np.array([1e-3])
    full = np.broadcast_to(tau.reshape(-1, 1, 1), (4, 3, 3))
    tau = full.copy() if shape == (4, 3, 3) else tau.reshape(shape)
    same = [np.full(shape, value) for value in (1.0, 0.0, 0.2)]
    graph = graph_of(conv, nir.LIF(tau, *same), shape=(2, 5, 5), out=(4, 3, 3))
    expected = graph_of(
        conv, nir.LIF(full.copy(), *(np.full((4, 3, 3), v) for v in (1, 0, 0.2))), shape=(2, 5, 5), out=(4, 3, 3)
    )
    x = inputs((2, 5, 5))
    with torch.no_grad():
        assert_equal_spikes(snn.nir.load(graph)(x), snn.nir.load(expected)(x))


@pytest.mark.parametrize("form", ["subgraph", "flat"])
def test_recurrence_in_a_subgraph_or_not_edges_in_any_order(form):
    w, back = weights(), weights(N, N, 1) / 4
    node = lif(tau=1e-3, r=10.0, v_threshold=0.5)
    loop = [("lif", "back"), ("back", "lif")]
    if form == "flat":
        edges = [("lif", "output"), *loop, ("w", "lif"), ("input", "w")]
        graph = graph_of(w=nir.Linear(w), lif=node, back=nir.Linear(back), edges=edges)
    else:
        ports = {"in": nir.Input(np.array([N])), "out": nir.Output(np.array([N]))}
        inner = nir.NIRGraph(
            {"lif": node, "back": nir.Linear(back)} | ports, [("lif", "out"), *loop, ("in", "lif")], type_check=False
        )
        graph = graph_of(w=nir.Linear(w), rnn=inner, edges=[("rnn", "output"), ("input", "w"), ("w", "rnn")])
    assert_equal_spikes(snn.nir.load(graph)(inputs()).detach(), by_hand(inputs(), w, 0.9, 1.0, 0.5, back))


# --- refused, by name -----------------------------------------------------------------------------


class Own(snn.Leaky):
    pass


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(IN, N)

    def forward(self, x):
        return self.fc(x) * 2


REFUSED = {
    "Lapicque": (lambda: snn.Lapicque(**NUMBERS), "wipes the input"),
    "Alpha": (lambda: snn.Alpha(alpha=0.9, beta=0.8), "two synaptic currents"),
    "Own": (lambda: Own(**NUMBERS, **ZERO), "a class of its own"),
    "Synaptic": (lambda: snn.Synaptic(alpha=0.7, **NUMBERS, **ZERO), "reset_delay=True"),
    "RLeaky": (
        lambda: snn.RLeaky(beta=torch.tensor([1.0, 0.5, 0.5, 0.5, 0.5]), **AT_ONCE, linear_features=N),
        "finite",
    ),
    "Leaky": (lambda: snn.Leaky(**NUMBERS, **ZERO, graded_spikes_factor=2.0), "graded"),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(N).eval(), "no such node"),
    "ReLU": (nn.ReLU, "no such node"),
    "Net": (Net, "nn.Sequential and MultiStep"),
    "Linear": (lambda: nn.Linear(N + 1, 2), r"the shape of one sample that reaches it, \[5\]"),
    "Flatten": (lambda: nn.Flatten(0), "the batch"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_node_is_refused_by_name(name):
    make, reason = REFUSED[name]
    with pytest.raises(ValueError, match=rf"layer '1' \({name}\) cannot be written to NIR: .*{reason}"):
        snn.nir.export(nn.Sequential(nn.Linear(IN, N), make()), torch.rand(IN))


def test_other_refusals_of_layers():
    shared = snn.Leaky(**NUMBERS, **ZERO)
    for net, sample, reason in (
        (nn.Sequential(nn.Linear(IN, IN), shared, nn.Linear(IN, IN), shared), torch.rand(IN), "'3'.*twice"),
        (nn.Sequential(nn.Linear(IN, N)), torch.rand(2, IN), "without batch"),
        (Net(), torch.rand(IN), "layer 'net'"),
        (nn.Sequential(nn.AvgPool2d(2, ceil_mode=True)), torch.rand(1, 4, 4), "ceil_mode"),
        (nn.Sequential(nn.Conv2d(1, 1, 3, padding_mode="circular", padding=1)), torch.rand(1, 4, 4), "zeros"),
        (nn.Sequential(snn.RLeaky(**NUMBERS, **AT_ONCE, linear_features=N)), torch.rand(IN), "do not fit"),
        (nn.Sequential(nn.Conv2d(2, 2, 3, groups=2)), torch.rand(2, 4, 4), "one group"),
        (nn.Sequential(snn.Leaky(**EACH, **ZERO)), torch.rand(IN), r"shape \[5\] does not fit"),
    ):
        with pytest.raises(ValueError, match=reason):
            snn.nir.export(net, sample)


def skip_connection():
    edges = [("input", "a"), ("a", "b"), ("b", "c"), ("a", "c"), ("c", "output")]
    return graph_of(a=nir.Linear(weights()), b=lif(), c=lif(), edges=edges)


def second_source():
    edges = [("input", "a"), ("a", "b"), ("c", "b"), ("b", "output")]
    return graph_of(a=nir.Linear(weights()), b=lif(), c=nir.Linear(weights(N, N)), edges=edges)


UNREADABLE = {
    "leak": (lambda: graph_of(nir.Linear(weights()), lif(v_leak=0.1)), "'n1'.*v_leak is not zero"),
    "reset": (lambda: graph_of(nir.Linear(weights()), lif(v_reset=-0.1)), "'n1'.*v_reset is not zero"),
    "dt": (lambda: graph_of(nir.Linear(weights()), lif(tau=1e-5)), "'n1'.*at least a step"),
    "factor": (lambda: graph_of(nir.Linear(weights()), lif(r=-1.0)), "'n1'.*multiplied by"),
    "node": (lambda: graph_of(nir.Linear(weights()), nir.Delay(np.ones(N))), r"'n1' \(nir.Delay\)"),
    "membranes": (lambda: graph_of(nir.Linear(weights()), nir.LI(*np.ones((3, N)))), r"'n1' \(nir.LI\)"),
    "skip": (skip_connection, "'a'.*only chains"),
    "sources": (second_source, "'b'.*only chains"),
    "shape": (lambda: graph_of(nir.Linear(weights(N, 9)), lif()), r"'n0'.*\[4\]"),
    "parameters": (lambda: graph_of(nir.Linear(weights()), lif((3,))), r"'n1'.*shape \[3\]"),
    "lost": (lambda: graph_of(nir.Linear(weights()), lif(), lost=lif()), "'lost'.*nothing leads"),
    "no end": (lambda: graph_of(lif((IN,)), edges=[("input", "n0")]), "'n0'.*goes to nothing"),
    "no input": (
        lambda: nir.NIRGraph({"output": nir.Output(np.array([1]))}, [], type_check=False),
        "one Input, and has 0",
    ),
    "no shape": (lambda: graph_of(lif(), shape=(0,)), "'input'.*the shape of one sample"),
    "no node": (lambda: graph_of(lif(), edges=[("input", "x")]), "'x'.*there is none"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_is_refused_by_name(name):
    make, reason = UNREADABLE[name]
    with pytest.raises(ValueError, match=reason):
        snn.nir.load(make())


def test_arguments():
    net = nn.Sequential(nn.Linear(IN, N))
    for arguments, error, name in (
        (("net", torch.rand(IN)), TypeError, "net"),
        ((net, [1.0]), TypeError, "sample"),
        ((net, torch.rand(0)), ValueError, "sample"),
        ((nn.Sequential(nn.Linear(IN, N, device="meta")), torch.rand(IN)), ValueError, "net must have values"),
        ((net, torch.rand(IN), 0), ValueError, "dt"),
        ((net, torch.rand(IN), DT, 1), TypeError, "strict"),
    ):
        with pytest.raises(error, match=name):
            snn.nir.export(*arguments)
    with pytest.raises(TypeError, match=r"graph must be a nir.NIRGraph; nir.read\(path\) gives one, got str"):
        snn.nir.load("net.nir")


def test_a_convolution_in_groups_is_read():
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 4, 3, groups=2)
    node = nir.Conv2d((4, 4), conv.weight.detach().numpy(), 1, 0, 1, 2, conv.bias.detach().numpy())
    net, x = snn.nir.load(graph_of(node, shape=(2, 4, 4), out=(4, 2, 2))), torch.randn(3, 2, 2, 4, 4)
    assert torch.equal(net(x), conv(x.flatten(0, 1)).unflatten(0, (3, 2)))


def test_metadata_of_strangers_builds_nothing():
    node = lif()
    node.metadata = {"learn_beta": True, "spatial_adj": True, "creator": "someone"}
    neuron = snn.nir.load(graph_of(nir.Linear(weights()), node))[1]
    assert not isinstance(neuron.beta, nn.Parameter) and not neuron.spatial_adj
