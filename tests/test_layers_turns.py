"""Chains of layers in turns over parts of the time: the same numbers, and only where something is gained."""

import copy
import warnings

import pytest
import torch
from _layers import PAPER, exact_weights, grid, run
from torch import nn

import snntorch_bpsta as snn
from snntorch_bpsta.layers import over_time
from snntorch_bpsta.layers.together import flat
from snntorch_bpsta.layers.turns import chain_of

T, B = 7, 2
BOTH = {"spatial_adj": True, "temporal_alpha": 0.8}

NEURONS = {
    "off": lambda: snn.Leaky(**PAPER),
    "subtract": lambda: snn.Leaky(beta=0.9, threshold=0.5),
    "bpsa": lambda: snn.Leaky(**PAPER, spatial_adj=True),
    "bpta": lambda: snn.Leaky(**PAPER, **BOTH),
    "learns": lambda: snn.Leaky(**PAPER, **BOTH, learn_beta=True, learn_threshold=True),
    "at once": lambda: snn.Leaky(**PAPER, reset_delay=False),
    "hidden": lambda: snn.Leaky(**PAPER, init_hidden=True),
    "lapicque": lambda: snn.Lapicque(beta=0.9, threshold=0.02),
    "synaptic": lambda: snn.Synaptic(alpha=0.7, beta=0.9, threshold=0.5, **BOTH),
    "alpha": lambda: snn.Alpha(alpha=0.8, beta=0.7, threshold=0.3),
    "adaptive": lambda: snn.AdaptiveLeaky(beta=0.9, threshold=0.5, threshold_step=0.2),
    "custom": lambda: snn.Leaky(**PAPER, spike_grad=Own()),
}


class Own(nn.Module):
    """A surrogate of one's own."""

    def forward(self, x):
        return (x > 0).to(x.dtype) + x.sigmoid() - x.sigmoid().detach()


def layers_of(neuron, last=None):
    return [
        nn.Conv2d(2, 8, 3, padding=1), nn.MaxPool2d(2), nn.ReLU(), neuron(), nn.Sequential(nn.Conv2d(8, 4, 3), neuron()),
        nn.Flatten(), nn.Linear(16, 5), (last or neuron)(),
    ]  # fmt: skip


@pytest.fixture
def turns_of(monkeypatch):
    """Set how many bytes a turn has at most; how often turns were taken."""

    def switch(size):
        monkeypatch.setattr(over_time, "TURN", size)

    taken = []
    in_turns = snn.MultiStep._in_turns
    monkeypatch.setattr(
        snn.MultiStep,
        "_in_turns",
        lambda self, chain, x, *rest: taken.append(rest[-1]) or in_turns(self, chain, x, *rest),
    )
    switch.taken = taken
    return switch


def step_bytes():
    """Of the largest activation of a step."""
    return 4 * B * 8 * 8 * 8


@pytest.mark.filterwarnings("ignore:.*runs as a loop over time")
@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("name", NEURONS)
def test_turns_change_nothing(name, steps, turns_of):
    net = exact_weights(snn.MultiStep(*layers_of(NEURONS[name])))
    x = grid(T, B, 2, 8, 8)
    results = []
    for size in (1 << 40, steps * step_bytes() + 1):
        turns_of(size)
        snn.reset(net)
        # A gradient with respect to the input is asked for by `run`: as a leaf it would be put together from the parts.
        out, grads = run(lambda x: net(x.detach()) + 0 * x.sum(), x, list(net.named_parameters()))
        results.append(
            (out, grads, [m.mem.clone() for m in net.modules() if isinstance(m, snn.Leaky) and m.init_hidden])
        )
    assert turns_of.taken == [steps]
    (expected, expected_grads, hidden), (got, grads, mine) = results
    assert torch.equal(got, expected)
    for name_, grad in expected_grads.items():
        assert torch.allclose(grads[name_], grad, rtol=1e-4, atol=1e-5 * float(grad.abs().max() + 1)), name_
    assert all(torch.equal(a, b) for a, b in zip(mine, hidden, strict=True))
    assert expected.any() and not expected.all()


def test_the_states_of_the_last_neuron_are_handed_out_at_every_step(turns_of):
    net = exact_weights(snn.MultiStep(*layers_of(NEURONS["bpta"], lambda: snn.Leaky(**PAPER, output=True))))
    x = grid(T, B, 2, 8, 8)
    expected = net(x)
    turns_of(2 * step_bytes())
    got = net(x)
    assert turns_of.taken == [2] and got[1].shape == (T, B, 5)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def chain(net, x, size=4 * 512 * B):
    over_time.TURN, before = size, over_time.TURN
    try:
        return chain_of(list(flat(net)), x)
    finally:
        over_time.TURN = before


def hooked(net):
    net[1].register_forward_hook(lambda module, args, out: None)
    return net


RULES = {
    "whole": (lambda: snn.MultiStep(*layers_of(NEURONS["bpta"])), True),
    "eval": (lambda: snn.MultiStep(*layers_of(NEURONS["bpta"])).eval(), True),
    "batch norm": (lambda: snn.MultiStep(nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), *layers_of(NEURONS["off"])[1:]), False),
    "batch norm, eval": (
        lambda: snn.MultiStep(nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), *layers_of(NEURONS["off"])[1:]).eval(), True,
    ),
    "no averages": (
        lambda: snn.MultiStep(
            nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8, track_running_stats=False), *layers_of(NEURONS["off"])[1:]
        ).eval(), False,
    ),
    "hooked": (lambda: hooked(snn.MultiStep(*layers_of(NEURONS["off"]))), False),
    "large result": (lambda: snn.MultiStep(nn.Conv2d(2, 8, 3), snn.Leaky(**PAPER)), False),
    "large input": (lambda: snn.MultiStep(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32, 2)), True),
    "pooled by the neuron": (
        lambda: snn.MultiStep(nn.Conv2d(2, 8, 3), snn.Leaky(**PAPER), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 2)),
        False,
    ),
    "own": (lambda: snn.MultiStep(nn.Conv2d(2, 8, 3), Own(), nn.MaxPool2d(2), nn.Flatten()), False),
    "recurrent": (
        lambda: snn.MultiStep(nn.Conv2d(2, 8, 3), snn.RLeaky(beta=0.9, all_to_all=False), nn.Flatten(), nn.Linear(8, 2)),
        False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RULES)
def test_which_layers_take_turns(name):
    make, takes = RULES[name]
    count, steps = chain(make(), torch.rand(T, B, 2, 8, 8))
    assert (count > 0, steps < T) == (takes, takes)


def test_with_gradients_a_large_input_stays_whole():
    make, _ = RULES["large input"]
    assert chain(make(), torch.rand(T, B, 2, 8, 8, requires_grad=True))[0] == 0


def test_a_neuron_that_comes_twice_ends_the_chain():
    lif = snn.Leaky(**PAPER, init_hidden=True)
    net = snn.MultiStep(nn.Conv2d(2, 8, 3), nn.MaxPool2d(4), lif, lif, nn.Flatten())
    assert chain(net, torch.rand(T, B, 2, 8, 8))[0] == 3


def test_heavy_weights_end_the_chain():
    net = snn.MultiStep(
        nn.Conv2d(2, 8, 3, padding=1), nn.MaxPool2d(8), snn.Leaky(**PAPER), nn.Flatten(), nn.Linear(8, 1 << 17)
    )
    assert chain(net, torch.rand(T, B, 2, 8, 8))[0] == 4


def test_dropout_draws_what_it_drew(turns_of):
    net = snn.MultiStep(nn.Conv2d(2, 8, 3), nn.MaxPool2d(3), snn.Leaky(**PAPER), nn.Dropout(0.5), nn.Flatten())
    x, results = torch.rand(T, B, 2, 8, 8), []
    for size in (1 << 40, 1000):
        turns_of(size)
        torch.manual_seed(3)
        results.append(net(x))
    assert turns_of.taken and torch.equal(*results)


@pytest.mark.parametrize("warm_up", ["identity", "surrogate"])
def test_warm_ups(warm_up, turns_of):
    net = exact_weights(snn.MultiStep(*layers_of(NEURONS["bpta"])))
    snn.networks.set_warm_up(net, warm_up)
    x = grid(T, B, 2, 8, 8)
    expected = net(x)
    turns_of(2 * step_bytes())
    assert torch.allclose(net(x), expected, atol=1e-6) and turns_of.taken


def test_off_where_it_is_not_ours(turns_of):
    """Step by step, in float64, in a graph: no turns."""
    turns_of(1)
    layers = layers_of(NEURONS["off"])
    snn.MultiStep(*copy.deepcopy(layers), fold=False)(torch.rand(T, B, 2, 8, 8))
    snn.MultiStep(*copy.deepcopy(layers)).double()(torch.rand(T, B, 2, 8, 8, dtype=torch.float64))
    torch.compile(snn.MultiStep(*layers), backend="eager")(torch.rand(T, B, 2, 8, 8))
    assert turns_of.taken == []


def test_whoever_looks_at_all_modules_sees_whole_calls(turns_of):
    net = snn.MultiStep(*layers_of(NEURONS["bpta"]))
    x = (torch.rand(T, B, 2, 8, 8) < 0.3).float()
    counts = []
    for size in (1 << 40, 2 * step_bytes()):
        turns_of(size)
        with torch.no_grad(), snn.energy.count_operations(net) as operations:
            net(x)
        counts.append(dict(operations))
    assert counts[0] == counts[1] and not turns_of.taken


def test_which_tells_of_turns_once(turns_of):
    turns_of(2 * step_bytes())
    net = snn.MultiStep(*layers_of(NEURONS["bpta"]))
    how = snn.which(net, (torch.rand(T, B, 2, 8, 8) < 0.3).float())
    assert how["0"] == "2 steps at a time, with the 8 layers behind it"
    assert how["3"] == "cpu, with ReLU" and how["4.1"] == how["7"] == "cpu"
    assert not how["6"].count("dense") > 1


def test_a_neuron_is_looked_at_over_all_turns(turns_of):
    """It fires in the last step alone: no word of silence; one that never fires is named once, with all steps."""
    turns_of(2 * step_bytes())
    x = torch.zeros(T, B, 2, 8, 8)
    x[-1] = 1

    def net(threshold):
        neuron = snn.Leaky(beta=0.9, threshold=threshold, spatial_adj=True)
        net = snn.MultiStep(nn.Conv2d(2, 8, 1), nn.MaxPool2d(2), neuron, nn.Flatten(), nn.Linear(128, 5))
        nn.init.constant_(net[0].weight, 1.0)
        nn.init.zeros_(net[0].bias)
        return net

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net(0.5)(x)
    assert turns_of.taken == [2]
    with pytest.warns(UserWarning, match="layer '2' .* fired nowhere in its first training pass, 7 steps") as told:
        silent = net(50.0)
        silent(x)
        silent(x)
    assert len(told) == 1 and "_parts" not in vars(silent[2])
