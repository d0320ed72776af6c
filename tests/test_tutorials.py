"""snnTorch's tutorials, run on snnTorch and on ours with the options off and on; the programs are in _tutorials.py."""

import functools
import importlib
import sys

import pytest
import snntorch
import torch
from _tutorials import FLAVOURS, NEURONS, ON, SIMULATIONS, TRAININGS, Client, alone  # noqa: F401
from torch import nn

SEED = 0
SHORT = 4  # updates: enough for a difference to spread into all that follows

# Of a training: the last loss over the first one at most, the quality afterwards at least. Seeds 0 to 5 stay clear of both
# in all three flavours. The quality is an accuracy (chance is 0.1), or minus a relative error.
LEARNS = {
    "tutorial_5": (0.75, 0.4),
    "tutorial_6": (0.95, 0.3),
    "tutorial_pop": (0.5, 0.3),
    "regression_1": (0.1, -1.1),
    "regression_2": (0.93, 0.22),
    "regression_2_membrane": (0.35, 0.13),
    "encoded": (0.5, 0.45),
    "lapicque": (0.5, 0.4),
    "synaptic": (0.4, 0.6),
    "alpha": (0.75, 0.25),
    "rleaky": (0.85, 0.3),
    "rsynaptic": (0.6, 0.45),
}
# In one step there is no spike to cross, and Alpha's membrane is no state: there the residual changes nothing.
NO_RESIDUAL = ("tutorial_pop", "alpha")
ADJUSTED = [(name, how) for name in TRAININGS for how in ON if how != "bpta" or name not in NO_RESIDUAL]
LONG = [(name, how) for name, how in ADJUSTED if how != "bpta" or name in ("tutorial_5", "tutorial_6", "rsynaptic")]


@functools.cache
def _trained(name, flavour, updates):
    return TRAININGS[name](Client(flavour), SEED, *updates)


def trained(name, flavour, *updates):
    """The run of a program, each only once."""
    return _trained(name, flavour, updates)


@functools.cache
def simulated(name, flavour):
    torch.manual_seed(SEED)
    recs, weight = SIMULATIONS[name](Client(flavour))
    sum(rec.sum() for rec in recs).backward()
    return [rec.detach() for rec in recs], weight.grad


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


# --- training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRAININGS)
def test_options_off_the_training_is_the_hosts(name):
    ours, theirs = trained(name, "off", SHORT), trained(name, "host", SHORT)
    assert torch.equal(ours.spk, theirs.spk) and torch.equal(ours.mem, theirs.mem)
    assert 0 < theirs.spk.sum() < theirs.spk.numel()
    assert_equal(ours.grads, theirs.grads)
    assert all(grad.isfinite().all() for grad in theirs.grads.values())
    assert ours.losses == theirs.losses and len(set(theirs.losses)) == SHORT
    assert (ours.before, ours.after) == (theirs.before, theirs.after)
    assert_equal(ours.state, theirs.state)


@pytest.mark.parametrize(("name", "flavour"), ADJUSTED)
def test_options_on_the_first_spikes_are_the_hosts_and_the_gradients_are_not(name, flavour):
    ours = trained(name, flavour, *([] if (name, flavour) in LONG else [1]))
    theirs = trained(name, "host", SHORT)
    assert torch.equal(ours.spk, theirs.spk) and torch.equal(ours.mem, theirs.mem)
    assert ours.before == theirs.before
    if name != "tutorial_pop":  # whose first loss is the mean over an epoch of updates
        assert ours.losses[0] == theirs.losses[0]
    assert ours.grads.keys() == theirs.grads.keys()
    assert all(grad.isfinite().all() for grad in ours.grads.values())
    assert any(grad.any() for grad in ours.grads.values())
    assert not all(torch.equal(ours.grads[key], theirs.grads[key]) for key in ours.grads)


@pytest.mark.parametrize(("name", "flavour"), LONG)
def test_options_on_it_learns(name, flavour):
    run = trained(name, flavour)
    loss, quality = LEARNS[name]
    assert run.losses[-1] < loss * run.losses[0]
    assert run.before < quality < run.after
    assert all(value.isfinite().all() for value in run.state.values())


def test_in_one_step_the_residual_changes_nothing():
    """But the surrogate is computed by our kernel, and rounded otherwise."""
    ours, theirs = trained("tutorial_pop", "bpta", SHORT), trained("tutorial_pop", "host", SHORT)
    assert ours.losses == pytest.approx(theirs.losses, rel=1e-2)
    assert trained("tutorial_pop", "both", SHORT).losses != pytest.approx(theirs.losses, rel=1e-2)


# --- simulation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SIMULATIONS)
def test_options_off_a_simulation_and_its_gradient_are_the_hosts(name):
    (ours, our_grad), (theirs, grad) = simulated(name, "off"), simulated(name, "host")
    assert len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))
    assert torch.equal(our_grad, grad)
    assert theirs[0].any() or name == "lapicque-decay"


@pytest.mark.parametrize("flavour", ON)
@pytest.mark.parametrize("name", SIMULATIONS)
def test_options_on_a_simulation_is_the_hosts_and_its_gradient_is_not(name, flavour):
    (ours, our_grad), (theirs, grad) = simulated(name, flavour), simulated(name, "host")
    assert len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))
    assert our_grad.isfinite()
    same = name == "lapicque-decay" or (name, flavour) == ("alpha", "bpta")
    assert torch.equal(our_grad, grad) == same


# --- the helpers of snntorch.backprop, and truncation by hand -------------------------------------

MAKE = {
    "Leaky": lambda snn, n, **kwargs: snn.Leaky(beta=0.9, **kwargs),
    "Lapicque": lambda snn, n, **kwargs: snn.Lapicque(beta=0.8, R=5, **kwargs),
    "Synaptic": lambda snn, n, **kwargs: snn.Synaptic(alpha=0.5, beta=0.8, **kwargs),
    "Alpha": lambda snn, n, **kwargs: snn.Alpha(alpha=0.8, beta=0.7, **kwargs),
    "RLeaky": lambda snn, n, **kwargs: snn.RLeaky(beta=0.8, linear_features=n, **kwargs),
    "RSynaptic": lambda snn, n, **kwargs: snn.RSynaptic(alpha=0.5, beta=0.8, linear_features=n, **kwargs),
}
HELPERS = {"BPTT": {}, "TBPTT": {"K": 2}, "RTRL": {}}
# RSynaptic: see below. Alpha's two currents cancel in their first step, so RTRL, one step at a time, has no gradient.
HELPED = [(n, h) for n in NEURONS for h in HELPERS if n != "RSynaptic" and (n, h) != ("Alpha", "RTRL")]


def hidden_net(snn, neuron, seed=2, threshold=0.25):
    """Sequential, hidden states, every output neuron firing at first."""
    torch.manual_seed(seed)
    make = functools.partial(MAKE[neuron], snn, threshold=threshold, init_hidden=True)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 24), make(24), nn.Linear(24, 4), make(4, output=True))
    with torch.no_grad():
        net[1].bias += 0.3
        net[3].bias += 0.3
    return net


def batches(num=2, size=10):
    gen = torch.Generator().manual_seed(1)
    targets = torch.arange(num * size) % 4
    data = torch.rand(num * size, 1, 4, 4, generator=gen) * 0.3
    data[torch.arange(num * size), 0, targets] += 0.7  # a bright row
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(data, targets), batch_size=size)


def epochs(flavour, neuron, helper, num=4):
    snn = Client(flavour)
    net, loader = hidden_net(snn, neuron), batches()
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    options = dict(criterion=snn.functional.ce_count_loss(), regularization=snn.functional.l1_rate_sparsity())
    options |= dict(num_steps=5, time_var=False, **HELPERS[helper])
    losses = [getattr(snn.backprop, helper)(net, loader, optimizer=optimizer, **options).item() for _ in range(num)]
    return losses, {name: value.clone() for name, value in net.state_dict().items()}


@pytest.mark.parametrize(("neuron", "helper"), HELPED)
def test_backprop_helpers(neuron, helper):
    theirs, state = epochs("host", neuron, helper)
    off, off_state = epochs("off", neuron, helper)
    assert off == theirs
    assert_equal(off_state, state)
    on, on_state = epochs("both", neuron, helper)
    assert on != theirs
    assert on[-1] < 0.95 * on[0] or neuron == "Alpha"  # slow: see TRAININGS["alpha"]
    assert all(value.isfinite().all() for value in on_state.values())


@pytest.mark.parametrize("flavour", ["host", "off", "both"])
def test_backprop_helpers_do_not_take_rsynaptic_in_the_host_either(flavour):
    """RSynaptic.reset_hidden of the host forgets the spike, which goes on into the next batch."""
    advice = "backward through the graph a second time" if flavour == "host" else r"snn\.reset\(net\)"
    with pytest.raises(RuntimeError, match=advice):
        epochs(flavour, "RSynaptic", "BPTT", num=1)


@pytest.mark.parametrize("flavour", ["off", "both"])
@pytest.mark.parametrize("neuron", NEURONS)
def test_our_reset_between_batches(neuron, flavour):
    """The step loop that the host recommends in place of its helpers, with `snn.reset(net)`."""
    snn = Client(flavour)
    net, loader = hidden_net(snn, neuron), batches()
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    loss_fn = snn.functional.ce_count_loss()
    losses = []
    for _ in range(5):
        for data, targets in loader:
            snn.reset(net)
            loss_val = loss_fn(torch.stack([net(data)[0] for _ in range(5)]), targets)
            optimizer.zero_grad()
            loss_val.backward()
            optimizer.step()
            losses.append(loss_val.item())
    assert sum(losses[-2:]) < 0.95 * sum(losses[:2]) or neuron == "Alpha"  # slow: see TRAININGS["alpha"]


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("neuron", NEURONS)
def test_truncation_by_detaching_states_in_place(neuron, flavour):
    """`SpikingNeuron.detach(spk, mem)` cuts the graph between two steps: no output is a view."""
    snn = Client(flavour)
    lif = MAKE[neuron](snn, 5, threshold=0.4)
    inputs = torch.rand(4, 3, 5, requires_grad=True)
    states = lif.reset_mem()
    states = states if isinstance(states, tuple) else (states,)
    for step in range(4):
        out = lif(inputs[step], *states)
        inputs.grad = None
        (out[0].sum() + out[1].sum()).backward()
        assert [bool(g.any()) for g in inputs.grad] == [t == step for t in range(4)]
        snn.SpikingNeuron.detach(*out)
        assert not any(o.requires_grad for o in out)
        states = out if len(out) == len(states) else out[1:]


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("neuron", [name for name in NEURONS if name != "RSynaptic"])
def test_truncation_by_the_class(neuron, flavour):
    """`detach_hidden` and `reset_hidden` of the class reach our neurons through the host's registry."""
    snn = Client(flavour)
    net = hidden_net(snn, neuron)
    lif = net[-1]
    data = next(iter(batches()))[0]
    for _ in range(3):
        net(data)
    mem = lif.mem
    assert mem.requires_grad and mem.any()
    getattr(snntorch, neuron).detach_hidden()
    assert not lif.mem.requires_grad and torch.equal(lif.mem, mem)
    net(data)
    getattr(snntorch, neuron).reset_hidden()
    assert not lif.mem.any() and lif.mem.shape == mem.shape


# --- imports --------------------------------------------------------------------------------------

BLOCKS = {
    "tutorial 1": [
        "import snntorch_bpsta as snn",
        "from snntorch_bpsta import utils",
        "from snntorch_bpsta import spikegen",
    ]
    + ["utils.data_subset, utils.valid_split, spikegen.rate, spikegen.latency, spikegen.delta, spikegen.rate_conv"],
    "tutorial 3": ["import snntorch_bpsta as snn", "from snntorch_bpsta import spikegen", "snn.Leaky, spikegen.rate"],
    "tutorial 6": [
        "import snntorch_bpsta as snn",
        "from snntorch_bpsta import surrogate",
        "from snntorch_bpsta import backprop",
    ]
    + ["from snntorch_bpsta import functional as SF", "from snntorch_bpsta import utils"]
    + ["surrogate.fast_sigmoid, backprop.BPTT, SF.ce_rate_loss, utils.reset"],
    "population": ["import snntorch_bpsta.functional as SF", "from snntorch_bpsta import backprop"]
    + ["SF.mse_count_loss, SF.accuracy_rate, backprop.TBPTT, backprop.RTRL"],
    "dotted": ["import snntorch_bpsta.spikegen", "import snntorch_bpsta.utils", "import snntorch_bpsta.backprop"]
    + ["import snntorch_bpsta.surrogate", "import snntorch_bpsta.functional", "snntorch_bpsta.spikegen.rate"]
    + ["snntorch_bpsta.utils.reset, snntorch_bpsta.backprop.BPTT, snntorch_bpsta.surrogate.atan, snntorch_bpsta.Leaky"],
    "attributes": ["import snntorch_bpsta as snn", "snn.spikegen.rate, snn.utils.reset, snn.backprop.BPTT"]
    + ["snn.surrogate.atan, snn.functional.accuracy_rate, snn.functional.quant.state_quant"]
    + ["snn.functional.probe.OutputMonitor, snn.functional.stdp_learner.STDPLearner"],
    "one line": [
        "from snntorch_bpsta import spikegen, surrogate, utils, backprop, functional as SF",
        "SF.ce_count_loss",
    ],
    "probe": [
        "from snntorch_bpsta.functional import probe, quant, acc, loss, reg",
        "probe.InputMonitor, quant.state_quant",
    ],
    "stdp": ["from snntorch_bpsta.functional.stdp_learner import STDPLearner"],
    "spikeplot": [
        "from snntorch_bpsta import spikeplot as splt",
        "splt.raster, splt.animator, splt.spike_count, splt.traces",
    ],
    "spikeplot dotted": ["import snntorch_bpsta.spikeplot as splt", "splt.raster, splt.animator"],
}


@pytest.mark.parametrize("name", BLOCKS)
def test_an_import_block(name, monkeypatch):
    """With none of the host's modules handed out before; test_namespace.py imports in fresh processes."""
    if "spikeplot" in name:
        pytest.importorskip("matplotlib", reason="matplotlib (extra: plots) is missing").use("agg")
        pytest.importorskip("pandas", reason="pandas, which snntorch.spikeplot imports, is missing")
    package = importlib.import_module("snntorch_bpsta")
    handed_out = [key for key, module in sys.modules.items() if key.startswith("snntorch_bpsta.")]
    handed_out = [key for key in handed_out if sys.modules[key].__name__.startswith("snntorch.")]
    for key in handed_out:
        monkeypatch.delitem(sys.modules, key)
        monkeypatch.delattr(
            functools.reduce(getattr, key.split(".")[1:-1], package), key.rpartition(".")[2], raising=False
        )
    exec("\n".join(BLOCKS[name]), {})
