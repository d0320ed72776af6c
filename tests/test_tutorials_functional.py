"""What the tutorials use beside the neurons, on our neurons' outputs: losses, accuracies, regularisers, quantisation,
probes, STDP, spikegen and spikeplot. Each gives the host's numbers."""

import importlib

import pytest
import snntorch
import torch
from _tutorials import FLAVOURS, ON, Client, alone  # noqa: F401
from torch import nn

T, B, CLASSES = 9, 6, 4
OURS = [flavour for flavour in FLAVOURS if flavour != "host"]
TARGETS = torch.tensor([0, 1, 2, 3, 2, 0])


def small_net(snn, num_outputs=CLASSES, **options):
    """Two layers with hidden states, about half of the neurons firing."""
    torch.manual_seed(4)
    options = dict(beta=0.9, threshold=0.5, init_hidden=True) | options
    fc1, fc2 = nn.Linear(5, 12), nn.Linear(12, num_outputs)
    with torch.no_grad():
        fc1.weight *= 4
        fc2.weight *= 2
        fc2.bias += 0.1
    return nn.Sequential(fc1, snn.Leaky(**options), fc2, snn.Leaky(output=True, **options))


def inputs():
    gen = torch.Generator().manual_seed(4)
    return torch.rand(1, B, 5, generator=gen) - 0.3 + 0.4 * torch.rand(T, B, 5, generator=gen)


def outputs(flavour, num_outputs=CLASSES):
    """(net, spk_rec, mem_rec) of a step loop."""
    net = small_net(Client(flavour), num_outputs)
    recs = [net(x) for x in inputs()]
    spk_rec, mem_rec = (torch.stack(rec) for rec in zip(*recs, strict=True))
    assert 0.1 < spk_rec.mean() < 0.9
    return net, spk_rec, mem_rec


# --- losses, accuracies and regularisers ----------------------------------------------------------

WEIGHT = torch.tensor([0.5, 1.0, 2.0, 0.25])
POPULATION = dict(population_code=True, num_classes=CLASSES)
LOSSES = {  # number of output neurons, "spk" or "mem", the function of SF, its arguments
    "ce_rate": (CLASSES, "spk", "ce_rate_loss", {}),
    "ce_rate-sum": (CLASSES, "spk", "ce_rate_loss", {"reduction": "sum"}),
    "ce_rate-none": (CLASSES, "spk", "ce_rate_loss", {"reduction": "none"}),
    "ce_rate-weight": (CLASSES, "spk", "ce_rate_loss", {"weight": WEIGHT}),
    "ce_rate-population": (CLASSES * 3, "spk", "ce_rate_loss", POPULATION | {"weight": WEIGHT[:2]}),
    "ce_count": (CLASSES, "spk", "ce_count_loss", {}),
    "ce_count-weight": (CLASSES, "spk", "ce_count_loss", {"weight": WEIGHT}),
    "ce_count-population": (CLASSES * 3, "spk", "ce_count_loss", POPULATION),
    "ce_max_membrane": (CLASSES, "mem", "ce_max_membrane_loss", {}),
    "ce_temporal": (CLASSES, "spk", "ce_temporal_loss", {}),
    "ce_temporal-reciprocal": (CLASSES, "spk", "ce_temporal_loss", {"inverse": "reciprocal"}),
    "mse_count": (CLASSES, "spk", "mse_count_loss", {"correct_rate": 0.8, "incorrect_rate": 0.2}),
    "mse_count-population": (CLASSES * 3, "spk", "mse_count_loss", POPULATION),
    "mse_membrane": (CLASSES, "mem", "mse_membrane_loss", {"on_target": 1.05, "off_target": 0.2}),
    "mse_temporal": (CLASSES, "spk", "mse_temporal_loss", {"on_target": 1, "off_target": -2, "tolerance": 2}),
    "mse_temporal-multi": (
        CLASSES,
        "spk",
        "mse_temporal_loss",
        {"on_target": torch.tensor([1, 3]), "off_target": torch.tensor([5, 7]), "multi_spike": True},
    ),
    "l1_rate_sparsity": (CLASSES, "spk", "l1_rate_sparsity", {"Lambda": 1e-3}),
}
ACCURACIES = {
    "rate": (CLASSES, "accuracy_rate", {}),
    "rate-population": (CLASSES * 3, "accuracy_rate", POPULATION),
    "temporal": (CLASSES, "accuracy_temporal", {}),
}
PARTS = {"LossFunctions", "SpikeTime"}  # of losses


def loss_of(flavour, name, outputs_of=outputs):
    num_outputs, which, function, kwargs = LOSSES[name]
    net, spk_rec, mem_rec = outputs_of(flavour, num_outputs)
    criterion = getattr(Client(flavour).functional, function)(**kwargs)
    rec = spk_rec if which == "spk" else mem_rec
    value = criterion(rec) if function.startswith("l1") else criterion(rec, TARGETS.clone())
    rec.retain_grad()
    value.sum().backward()
    return value.detach(), rec.grad, {key: p.grad for key, p in net.named_parameters()}


@pytest.mark.parametrize("flavour", OURS)
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_the_hosts(name, flavour):
    value, delta, grads = loss_of(flavour, name)
    host_value, host_delta, host_grads = loss_of("host", name)
    assert value.dtype == host_value.dtype and torch.equal(value, host_value)
    assert torch.equal(delta, host_delta) and delta.any()
    assert all(grad.isfinite().all() for grad in grads.values())
    same = all(torch.equal(grads[key], host_grads[key]) for key in host_grads)
    assert same == (flavour == "off")


@pytest.mark.parametrize("flavour", OURS)
@pytest.mark.parametrize("name", ACCURACIES)
def test_an_accuracy_is_the_hosts(name, flavour):
    num_outputs, function, kwargs = ACCURACIES[name]
    host = getattr(snntorch.functional, function)(outputs("host", num_outputs)[1], TARGETS, **kwargs)
    assert getattr(Client(flavour).functional, function)(outputs(flavour, num_outputs)[1], TARGETS, **kwargs) == host
    assert 0 < host < 1


def test_every_function_of_the_host_is_among_them():
    used = {function for _, _, function, _ in LOSSES.values()} | {function for _, function, _ in ACCURACIES.values()}
    for part in ("loss", "acc", "reg"):
        module = importlib.import_module(f"snntorch.functional.{part}")
        public = {name for name, thing in vars(module).items() if getattr(thing, "__module__", None) == module.__name__}
        assert {name for name in public if not name.startswith("_")} - PARTS <= used


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_takes_all_steps_of_multistep(name):
    """Time-major, as the losses want it: `MultiStep` gives the spikes that the step loop stacks."""

    def all_steps(flavour, num_outputs):
        snn = Client(flavour)
        net = small_net(snn, num_outputs, init_hidden=False)
        spk_rec = snn.MultiStep(*net[:3])(inputs())
        spk_rec, _ = net[3].sequence(spk_rec)
        return net, spk_rec, spk_rec

    if LOSSES[name][1] == "mem":
        pytest.skip("all steps in one call give the last membrane only")
    value, delta, grads = loss_of("both", name, all_steps)
    step_value, step_delta, step_grads = loss_of("both", name)
    assert torch.equal(value, step_value) and torch.equal(delta, step_delta)
    for key in grads:
        torch.testing.assert_close(
            grads[key], step_grads[key], rtol=1e-4, atol=1e-5 * step_grads[key].abs().max().item()
        )


# --- quantisation ---------------------------------------------------------------------------------

QUANT = {
    "uniform": {"num_bits": 4, "threshold": 0.5},
    "around-threshold": {"num_bits": 4, "uniform": False, "threshold": 0.5, "thr_centered": True},
    "around-zero": {"num_bits": 8, "uniform": False, "threshold": 0.5, "thr_centered": False, "upper_limit": 0.5},
}


def quantised(flavour, name):
    snn = Client(flavour)
    net = small_net(snn, state_quant=snn.functional.quant.state_quant(**QUANT[name]))
    spk_rec, mem_rec = (torch.stack(rec) for rec in zip(*[net(x) for x in inputs()], strict=True))
    (spk_rec.sum() + mem_rec.sum()).backward()
    return spk_rec.detach(), mem_rec.detach(), [p.grad for p in net.parameters()]


@pytest.mark.parametrize("flavour", OURS)
@pytest.mark.parametrize("name", QUANT)
def test_quantised_states_are_the_hosts(name, flavour):
    spk_rec, mem_rec, grads = quantised(flavour, name)
    host_spk, host_mem, host_grads = quantised("host", name)
    assert torch.equal(spk_rec, host_spk) and torch.equal(mem_rec, host_mem)
    assert 0 < host_spk.mean() < 1 and len(host_mem.unique()) <= 2 ** QUANT[name]["num_bits"]
    assert all(grad.isfinite().all() for grad in grads)
    assert all(map(torch.equal, grads, host_grads)) == (flavour == "off")


# --- probes and STDP ------------------------------------------------------------------------------


def probed(flavour, kind, instance):
    """What a monitor of the two neurons writes down over a forward and a backward pass."""
    snn = Client(flavour)
    net = small_net(snn)
    probe = snn.functional.probe
    args = ("mem", False, net) if kind == "AttributeMonitor" else (net,)
    monitor = getattr(probe, kind)(*args, instance=instance)
    x = inputs().requires_grad_()
    sum(net(now)[0].sum() for now in x).backward()
    assert monitor.monitored_layers == ["1", "3"]
    flat = [r if isinstance(r, torch.Tensor) else r[0] for r in monitor["1"] + monitor["3"]]
    monitor.remove_hooks()
    return [r.detach() for r in flat]


@pytest.mark.parametrize("flavour", OURS)
@pytest.mark.parametrize("kind", ["OutputMonitor", "InputMonitor", "AttributeMonitor"])
def test_a_monitor_of_the_forward_pass_sees_what_it_sees_in_the_host(kind, flavour):
    ours, theirs = probed(flavour, kind, snntorch.Leaky), probed("host", kind, snntorch.Leaky)
    assert len(ours) == len(theirs) == 2 * T and all(map(torch.equal, ours, theirs))


@pytest.mark.parametrize("flavour", OURS)
@pytest.mark.parametrize("kind", ["GradInputMonitor", "GradOutputMonitor"])
def test_a_monitor_of_the_backward_pass_sees_its_gradients(kind, flavour):
    ours, theirs = probed(flavour, kind, snntorch.Leaky), probed("host", kind, snntorch.Leaky)
    assert len(ours) == len(theirs) == 2 * T
    assert all(grad.isfinite().all() for grad in ours)
    assert all(map(torch.equal, ours, theirs)) == (flavour == "off")


def test_a_monitor_finds_our_class_by_its_own_name():
    snn = Client("both")
    ours = importlib.import_module("snntorch_bpsta").Leaky
    assert len(probed("both", "OutputMonitor", ours)) == 2 * T
    assert snn.functional.probe.OutputMonitor(small_net(Client("host")), ours).monitored_layers == []


def stdp(flavour, layer):
    """Spikes in, spikes out, and what a pair-based rule makes of them."""
    snn = Client(flavour)
    torch.manual_seed(3)
    synapse = {"linear": nn.Linear(5, 7, bias=False), "conv": nn.Conv2d(2, 3, 3, padding=1, bias=False)}[layer]
    nn.init.uniform_(synapse.weight, 0, 0.4)
    shape = {"linear": (4, 5), "conv": (2, 2, 6, 6)}[layer]
    lif = snn.Leaky(beta=0.8, threshold=0.5, init_hidden=True)
    clip = dict(f_pre=lambda w: w.clamp(-1, 1), f_post=lambda w: w.clamp(-1, 1))
    learner = snn.functional.stdp_learner.STDPLearner(synapse, lif, tau_pre=2.0, tau_post=3.0, **clip)
    with torch.no_grad():
        spikes = snn.spikegen.rate_conv(torch.full((6, *shape), 0.3))
        out = torch.stack([lif(synapse(now)) for now in spikes])
        learner.step(on_grad=True)
    return out, synapse.weight.grad


@pytest.mark.parametrize("flavour", OURS)
@pytest.mark.parametrize("layer", ["linear", "conv"])
def test_stdp_is_the_hosts(layer, flavour):
    """It takes the spikes alone, so the options do not show."""
    (out, grad), (host_out, host_grad) = stdp(flavour, layer), stdp("host", layer)
    assert torch.equal(out, host_out) and 0 < out.mean() < 1
    assert torch.equal(grad, host_grad) and grad.any()


# --- spikegen and spikeplot -----------------------------------------------------------------------

SERIES = torch.tensor([0.0, 1.0, 0.0, 2.0, 8.0, -20.0, 20.0, -5.0, 0.0, 1.0, 0.0])
CODES = {
    "rate": lambda gen, x: gen.rate(x, num_steps=7),
    "rate-gain": lambda gen, x: gen.rate(x, num_steps=7, gain=0.25, first_spike_time=2),
    "rate-in-time": lambda gen, x: gen.rate(x, time_var_input=True),
    "latency": lambda gen, x: gen.latency(x, num_steps=30, tau=5, threshold=0.01),
    "latency-linear": lambda gen, x: gen.latency(x, num_steps=7, normalize=True, linear=True, clip=True),
    "delta": lambda gen, x: gen.delta(SERIES, threshold=4),
    "delta-off": lambda gen, x: gen.delta(SERIES, threshold=4, padding=True, off_spike=True),
    "random": lambda gen, x: gen.rate_conv(x * 0.5),
    "targets": lambda gen, x: gen.targets_convert(TARGETS, CLASSES, code="rate", num_steps=7, first_spike_time=2),
    "targets-latency": lambda gen, x: gen.targets_convert(
        TARGETS, CLASSES, code="latency", num_steps=7, normalize=True
    ),
}


def coded(flavour, name):
    torch.manual_seed(5)
    return CODES[name](Client(flavour).spikegen, torch.rand(4, 5))


@pytest.mark.parametrize("name", CODES)
def test_a_code_is_the_hosts(name):
    assert torch.equal(coded("off", name), coded("host", name))


def test_delta_as_tutorial_1_shows_it():
    on = [0, 0, 0, 0, 1, 0, 1, 0, 1, 0, 0]
    assert coded("off", "delta").tolist() == on
    assert coded("off", "delta-off").tolist() == [
        a - b for a, b in zip(on, [0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0], strict=True)
    ]


def test_a_code_runs_through_our_neurons():
    """The neurons fire more on a rate code than on the same at a quarter of the gain."""
    counts = {}
    for gain in (1.0, 0.25):
        snn = Client("both")
        torch.manual_seed(6)
        lif = snn.Leaky(beta=0.5)
        spk_rec, _ = lif.sequence(snn.spikegen.rate(torch.rand(4, 30), num_steps=50, gain=gain))
        counts[gain] = spk_rec.sum().item()
    assert counts[1.0] > 4 * counts[0.25] >= 0


@pytest.fixture
def splt():
    matplotlib = pytest.importorskip("matplotlib", reason="matplotlib (extra: plots) is missing")
    pytest.importorskip("pandas", reason="pandas, which snntorch.spikeplot imports, is missing")
    matplotlib.use("agg")
    with matplotlib.rc_context():
        yield importlib.import_module("snntorch_bpsta.spikeplot")
        matplotlib.pyplot.close("all")


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_spikeplot_draws_our_outputs(splt, flavour, tmp_path):
    plt = importlib.import_module("matplotlib.pyplot")
    _, spk_rec, mem_rec = outputs(flavour, 9)
    one = spk_rec[:, 0].detach()

    fig, ax = plt.subplots()
    points = splt.raster(one, ax, s=5, c="black")
    assert [tuple(map(int, at)) for at in points.get_offsets()] == [tuple(at) for at in one.nonzero().tolist()]
    neuron = splt.raster(one[:, 3], plt.figure().add_subplot(111), s=100, c="black", marker="|")
    assert len(neuron.get_offsets()) == int(one[:, 3].sum())

    fig, ax = plt.subplots()
    anim = splt.animator(one.reshape(T, 3, 3), fig, ax)
    anim.save(tmp_path / "spikes.gif", writer="pillow")
    assert (tmp_path / "spikes.gif").stat().st_size > 0

    fig, ax = plt.subplots()
    splt.spike_count(one, fig, ax, labels=[str(i) for i in range(9)], num_steps=T, time_step=1e-3)
    assert [int(x) for x in ax.lines[0].get_xdata()] == one.sum(0).int().tolist()

    plt.figure()
    splt.traces(mem_rec[:, 0].detach(), spk=one, dim=(3, 3))
    drawn = torch.stack([torch.as_tensor(axis.lines[0].get_ydata()) for axis in plt.gcf().axes], dim=1)
    torch.testing.assert_close(drawn, mem_rec[:, 0].detach() + 5 * one)


def test_on_flavours_are_all_adjusted():
    for flavour in ON:
        lif = Client(flavour).Leaky(0.9)
        assert lif.spatial_adj or lif.temporal_alpha
    assert not isinstance(Client("host").Leaky(0.9), importlib.import_module("snntorch_bpsta").Leaky)
