"""NeuroBench on our neurons and networks: the numbers it gives the host's, in step nets and in MultiStep networks."""

import contextlib
import functools
import io

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

pytest.importorskip("neurobench", reason="neurobench (extra: neurobench) is missing")

import snntorch  # noqa: E402
from _family import KINDS, arguments  # noqa: E402
from neurobench.benchmarks import Benchmark  # noqa: E402
from neurobench.metrics import static, workload  # noqa: E402
from neurobench.models import NeuroBenchModel, SNNTorchModel  # noqa: E402
from neurobench.processors.postprocessors import ChooseMaxCount  # noqa: E402

import snntorch_bpsta as snn  # noqa: E402
from snntorch_bpsta import energy  # noqa: E402
from snntorch_bpsta.training.neurobench import measure, multistep_model  # noqa: E402

IN, N, CLASSES, T = 8, 20, 4, 6
STATIC = [static.ParameterCount, static.Footprint, static.ConnectionSparsity]
WORKLOAD = [
    workload.ClassificationAccuracy, workload.ActivationSparsity, workload.SynapticOperations, workload.MembraneUpdates,
    workload.ActivationSparsityByLayer, workload.NeuronOperations,
]  # fmt: skip
WITH_COSTS = ("Leaky", "Lapicque", "Synaptic", "Alpha")
PAPER = {"spatial_adj": True, "temporal_alpha": 0.8}


def samples(batch=10, count=30):
    """Batches ``[B, T, IN]`` of positive currents with exact zeros among them, and classes."""
    generator = torch.Generator().manual_seed(1)
    x = (torch.rand(count, T, IN, generator=generator) * 2 - 0.4).relu()
    y = torch.randint(0, CLASSES, (count,), generator=generator)
    return DataLoader(TensorDataset(x, y), batch)


def step_net(ns, kind, **options):
    """A step net, pruned: NeuroBench's wrapper wants the last layer to return a pair."""
    torch.manual_seed(0)
    first = getattr(ns, kind)(**arguments(kind, neurons=N, **{"init_hidden": True} | options))
    last = ns.Leaky(beta=0.8, threshold=0.3, init_hidden=True, output=True)
    net = nn.Sequential(nn.Linear(IN, N), first, nn.Linear(N, CLASSES), last)
    with torch.no_grad():
        net[0].weight[::3] = 0
    return net


def benchmark(model, loader, metrics=(STATIC, WORKLOAD)):
    """NeuroBench prints what goes wrong and reports 0."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), torch.no_grad():
        results = Benchmark(model, loader, [], [ChooseMaxCount()], [list(each) for each in metrics]).run()
    return dict(results), [line for line in printed.getvalue().splitlines() if line.startswith("Error")]


# --- step nets, by NeuroBench's own wrapper -------------------------------------------------------


@pytest.mark.parametrize("variant", ["off", "on", "converted"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_numbers_are_the_hosts(kind, variant):
    expected, errors = benchmark(SNNTorchModel(step_net(snntorch, kind)), samples())
    assert bool(errors) == (kind not in WITH_COSTS)  # of NeuronOperations
    options = {} if variant == "off" else {"spatial_adj": True} if kind == "Alpha" else PAPER
    if variant == "converted":
        net = step_net(snntorch, kind)
        snn.convert(net[:2], **options)
    else:
        net = step_net(snn, kind, **options)
    assert type(net[1]) is getattr(snn, kind)
    results, own_errors = benchmark(SNNTorchModel(net), samples())
    assert results == expected and own_errors == errors
    assert 0.05 < results["ActivationSparsity"] < 0.95 and results["MembraneUpdates"] > 0
    assert 0 < results["SynapticOperations"]["Effective_ACs"] < results["SynapticOperations"]["Dense"]


def test_the_footprint_does_not_grow():
    """Hidden states are buffers in the host, and after a run they count."""
    footprints = {}
    for ns in (snntorch, snn):
        net = step_net(ns, "Leaky")
        footprints[ns] = [benchmark(SNNTorchModel(net), samples())[0]["Footprint"] for _ in range(2)]
    assert footprints[snn][0] == footprints[snn][1] == footprints[snntorch][0]
    assert footprints[snntorch][1] == footprints[snntorch][0] + 4 * 10 * (N + CLASSES)


@pytest.mark.parametrize("kind", ["RLeaky", "RSynaptic"])
def test_no_costs_of_recurrent_neurons(kind):
    """Nor does NeuroBench know them in the host; it says so and reports 0."""
    results, errors = benchmark(SNNTorchModel(step_net(snn, kind)), samples())
    assert results["NeuronOperations"] == 0 and "NeuronOperations" in errors[0] and kind in errors[0]


@pytest.mark.parametrize("ns", [snntorch, snn], ids=["host", "ours"])
@pytest.mark.parametrize("kind", ["Synaptic", "RSynaptic", "Alpha"])
def test_the_last_layer_must_return_a_pair(ns, kind):
    own = arguments(kind, neurons=N, output=True, init_hidden=True)
    net = nn.Sequential(nn.Linear(IN, N), getattr(ns, kind)(**own))
    with pytest.raises(ValueError, match="too many values to unpack"):
        SNNTorchModel(net)(next(iter(samples()))[0])


def test_neurons_inside_blocks_are_not_reset_but_by_a_method_of_the_net():
    """The wrapper resets by snntorch.utils.reset, which looks one level deep, or by the net's own method."""
    loader = samples()
    flat, nested = step_net(snn, "Leaky"), step_net(snn, "Leaky")
    expected, _ = benchmark(SNNTorchModel(flat), loader)
    nested = nn.ModuleDict({"first": nested[:2], "rest": nested[2:]})
    nested.forward = lambda x: nested["rest"](nested["first"](x))
    twice = [benchmark(SNNTorchModel(nested), loader, ([], [workload.ActivationSparsity]))[0] for _ in range(2)]
    assert twice[1]["ActivationSparsity"] != expected["ActivationSparsity"]
    nested.reset = functools.partial(snn.reset, nested)
    again, _ = benchmark(SNNTorchModel(nested), loader)
    del again["ActivationSparsityByLayer"], expected["ActivationSparsityByLayer"]  # which names them by the last part
    assert again == expected


@pytest.mark.parametrize("kind", ["RLeaky", "RSynaptic"])
def test_the_last_spikes_of_rsynaptic_are_not_reset_but_by_a_method_of_the_net(kind):
    """snntorch.utils.reset leaves them, and they go through the recurrence into the first step of the next batch."""
    net = step_net(snn, kind)
    by_utils = benchmark(SNNTorchModel(net), samples())[0]["ActivationSparsity"]
    net.reset = functools.partial(snn.reset, net)
    by_method = benchmark(SNNTorchModel(net), samples())[0]["ActivationSparsity"]
    assert (by_utils == by_method) == (kind == "RLeaky")


# --- MultiStep networks ---------------------------------------------------------------------------


def multistep(net, **options):
    """The same modules as a MultiStep network."""
    return snn.MultiStep(*net, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_a_multistep_net_gives_the_numbers_of_its_step_net(kind):
    net = step_net(snn, kind, **({"spatial_adj": True} if kind == "Alpha" else PAPER))
    net.reset = functools.partial(snn.reset, net)
    expected, _ = benchmark(SNNTorchModel(net), samples())
    del expected["ActivationSparsityByLayer"]  # its constructor fails where no other metric has hooks
    if kind not in WITH_COSTS:
        expected["NeuronOperations"] = None
    assert measure(multistep(net), samples()) == expected


@pytest.mark.parametrize("init_hidden", [False, True])
def test_the_model_gives_the_output_of_the_net(init_hidden):
    net = multistep(step_net(snn, "Leaky", init_hidden=init_hidden, **PAPER))
    x, _ = next(iter(samples()))
    model = multistep_model(net)
    assert isinstance(model, NeuroBenchModel) and model.__net__() is net and not net.training
    for _ in range(2):  # from zeros every time
        out = model(x)
        snn.reset(net)
        assert out.shape == (10, T, CLASSES) and out.any()
        spk_rec, _ = net(x.transpose(0, 1))  # its last neuron has output=True
        assert torch.equal(out, spk_rec.transpose(0, 1))
        snn.reset(net)


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 1, 8, 8), (3, 1, 8, 8)], ids=["image", "one frame", "three frames"])
def test_the_model_of_a_network_of_table_1(shape):
    torch.manual_seed(0)
    net = snn.networks.build("4C3-MP2-6FC-2Voting", (1, 8, 8), 3, num_steps=5, threshold=0.1, beta=0.9)
    x = torch.rand(7, *shape) * 3
    out = multistep_model(net)(x)
    assert out.shape == (7, 5 if len(shape) == 3 else shape[0], 3) and out.any()
    assert torch.equal(out.transpose(0, 1), net(x if len(shape) == 3 else x.transpose(0, 1)))


@pytest.mark.parametrize("steps", [1, 2])
def test_direct_encoding_in_a_net_of_ones_own(steps):
    """It repeats one step, and lets several pass."""
    torch.manual_seed(0)
    lif = snn.Leaky(beta=0.9, threshold=0.1)
    net = snn.MultiStep(nn.Sequential(nn.Linear(IN, N), snn.DirectEncoding(3), lif), nn.Linear(N, CLASSES))
    x = torch.rand(7, steps, IN)
    out = multistep_model(net)(x)
    assert out.shape == (7, 3 if steps == 1 else steps, CLASSES) and torch.equal(
        out.transpose(0, 1), net(x.transpose(0, 1))
    )


def test_the_wrapper_of_step_nets_does_not_fit():
    with pytest.raises((RuntimeError, ValueError)):
        SNNTorchModel(multistep(step_net(snn, "Leaky")))(next(iter(samples()))[0])


def test_a_relu_in_front_of_a_neuron_is_no_activation():
    torch.manual_seed(0)
    lif = {"beta": 0.9, "threshold": 0.3, "init_hidden": True}
    layers = [nn.Linear(IN, N), nn.ReLU(), snn.Leaky(**lif), nn.Linear(N, CLASSES), snn.Leaky(output=True, **lif)]
    counted, errors = benchmark(SNNTorchModel(nn.Sequential(*layers)), samples())
    assert "NeuronOperations" in errors[0]  # a ReLU has no reset
    net = snn.MultiStep(*layers)
    results = measure(net, samples())
    with energy.record_firing_rates(net) as firing:
        for x, _ in samples():
            snn.reset(net)
            net(x.transpose(0, 1))
    assert results["ActivationSparsity"] == pytest.approx(1 - firing.mean())
    assert results["ActivationSparsity"] != pytest.approx(counted["ActivationSparsity"], abs=1e-3)
    assert results["SynapticOperations"] == counted["SynapticOperations"]
    assert results["NeuronOperations"]["Neuron Dense Ops"] == 4 * T * (N + CLASSES)


def images(count=12):
    generator = torch.Generator().manual_seed(2)
    x, y = torch.rand(count, 1, 8, 8, generator=generator) + 0.01, torch.randint(0, 3, (count,), generator=generator)
    return DataLoader(TensorDataset(x, y), 5)


def test_a_network_of_table_1():
    """Images; the first convolution and its batch norm run once, behind direct encoding come T steps."""
    torch.manual_seed(0)
    net = snn.networks.build(
        "4C3-MP2-6C3-AP2-8FC-DP-2Voting", (1, 8, 8), 3, num_steps=5, beta=0.9, threshold=0.3, reset_mechanism="zero"
    )
    net.train()
    for x, _ in images():
        net(x)  # running averages
    results = measure(net, images())
    assert not net.training
    dense = 64 * 9 * 4 + 5 * (4 * 16 * 9 * 6 + 6 * 4 * 8 + 8 * 6)  # at the borders NeuroBench counts less
    operations = results["SynapticOperations"]
    assert 0.7 * dense < operations["Dense"] <= dense
    assert results["ParameterCount"] == sum(p.numel() for p in net.parameters())
    with torch.no_grad(), energy.record_firing_rates(net) as firing:
        scores = torch.cat([net(x).mean(0) for x, _ in images()])
    targets = torch.cat([y for _, y in images()])
    assert results["ClassificationAccuracy"] == pytest.approx((scores.argmax(1) == targets).float().mean().item())
    assert results["ActivationSparsity"] == pytest.approx(1 - firing.mean()) and 0 < firing.mean() < 1
    neurons = 4 * 64 + 6 * 16 + 8 + 6
    assert 0 < results["MembraneUpdates"] <= 5 * neurons
    assert results["NeuronOperations"]["Neuron Dense Ops"] == 4 * 5 * neurons


@pytest.mark.parametrize("pool", ["AP", "MP"])
def test_inputs_behind_average_pooling_count_as_multiplications(pool):
    """They are no spikes any more, but quarters."""
    torch.manual_seed(0)
    net = snn.networks.build(f"4C3-{pool}2-6FC-2Voting", (1, 8, 8), 3, num_steps=5, beta=0.9, threshold=0.3)
    for x, _ in images():
        net(x)
    first = 64 * 9 * 4  # the image's
    operations = measure(net, images())["SynapticOperations"]
    assert (operations["Effective_MACs"] > first) == (pool == "AP")
    assert operations["Effective_ACs"] > 0


def test_batch_norm_of_each_step():
    """snnTorch's BatchNormTT: step t has its own entry."""
    torch.manual_seed(0)
    norm = snntorch.BatchNormTT1d(N, T)
    for each in norm:
        nn.init.uniform_(each.weight)
    net = snn.MultiStep(nn.Linear(IN, N), norm, snn.Leaky(beta=0.9, threshold=0.2), nn.Linear(N, CLASSES))
    x, _ = next(iter(samples()))
    net.eval()
    assert torch.equal(multistep_model(net)(x), net(x.transpose(0, 1)).transpose(0, 1))


def test_nothing_is_left_behind():
    net = multistep(step_net(snn, "Leaky"))
    measure(net, samples())
    for module in net.modules():
        assert not (module._forward_hooks or module._forward_pre_hooks)
        assert not isinstance(module, snn.Leaky) or not module.mem.any()


@pytest.mark.parametrize("reset_mechanism", ["none", "zero"])
def test_costs_of_neurons_depend_on_the_reset(reset_mechanism):
    net = multistep(step_net(snn, "Leaky", reset_mechanism=reset_mechanism))
    assert (measure(net, samples())["NeuronOperations"] is None) == (reset_mechanism == "none")


class Whole(nn.Module):
    time_major = True

    def forward(self, x):
        return x.cumsum(0)


@pytest.mark.parametrize(
    "layer", [Whole(), snntorch.LeakyParallel(IN, IN), nn.Sequential(nn.Identity(), Whole())], ids=lambda m: str(m)[:12]
)
def test_layers_of_whole_sequences_are_refused(layer):
    with pytest.raises(NotImplementedError, match="takes whole sequences"):
        measure(snn.MultiStep(layer, nn.Linear(IN, CLASSES)), samples())


@pytest.mark.parametrize("net", [nn.Sequential(nn.Linear(IN, N)), "net"], ids=["step net", "no net"])
def test_another_net_is_refused(net):
    with pytest.raises(TypeError, match="net must be a MultiStep network.*SNNTorchModel"):
        multistep_model(net)


def test_a_failing_metric_is_an_error(monkeypatch):
    """Where NeuroBench would print and report 0."""

    def fails(*args):
        raise ValueError("out of order")

    monkeypatch.setattr(workload.MembraneUpdates, "__call__", fails)
    net = multistep(step_net(snn, "Leaky"))
    with pytest.raises(RuntimeError, match="MembraneUpdates.*out of order"):
        measure(net, samples())
    assert not net[1]._forward_hooks
