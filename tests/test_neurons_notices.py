"""What a neuron says of its first training pass: that it is silent under Eq. 9, that gradients grow. Once, and no more."""

import copy
import pickle
import warnings

import pytest
import snntorch
import torch
from torch import nn

import snntorch_bpsta as snn

T, B, N = 6, 3, 5
SILENT = r"fired nowhere in its first training pass, 6 steps"
GROWS = r"may be multiplied by"
LEAKS = snn.surrogate.spatial_adjustment(leak=0.9)


def loop(net, x):
    return torch.stack([net(step) for step in x])


def all_at_once(net, x):
    return snn.MultiStep(*net)(x)


def net_of(*, init_hidden=True, **options):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(N, 4), snn.Leaky(beta=0.9, init_hidden=init_hidden, **options))


def said(function):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function()
    return [str(each.message) for each in caught if issubclass(each.category, UserWarning)]


def train(run, net, x=None):
    snn.reset(net)
    run(net, torch.rand(T, B, N) if x is None else x).sum().backward()


@pytest.mark.parametrize("run", [loop, all_at_once])
def test_a_silent_layer_is_told_of_once(run):
    net = net_of(spatial_adj=True, threshold=50.0)
    (message,) = said(lambda: train(run, net))
    assert "Leaky of 4 neurons fired nowhere" in message or "layer '1' (Leaky of 4 neurons) fired nowhere" in message
    assert "6 steps" in message and "batch norm" in message and "wake" in message
    assert (
        message.index("batch norm") < message.index("current") < message.index("warm-up") < message.index("threshold")
    )
    assert said(lambda: train(run, net)) == []


@pytest.mark.parametrize("run", [loop, all_at_once])
@pytest.mark.parametrize(
    "options",
    [
        {"spatial_adj": True, "threshold": 0.05},
        {"spatial_adj": False, "threshold": 50.0},
        {"spatial_adj": True, "threshold": 50.0, "warm_up": "surrogate"},
        {"spatial_adj": snn.surrogate.spatial_adjustment(leak=0.1), "threshold": 50.0},
    ],
    ids=["fires", "no Eq. 9", "warms up", "leaks"],
)
def test_nothing_is_said_where_nothing_is_wrong(run, options):
    assert said(lambda: train(run, net_of(**options))) == []


@pytest.mark.parametrize("run", [loop, all_at_once])
def test_a_layer_that_fires_late_is_not_silent(run):
    net = net_of(spatial_adj=True, threshold=1.0)
    x = torch.zeros(T, B, N)
    x[-1] = 40 * net[0].weight.detach()[0].sign()
    with torch.no_grad():
        net[0].bias.zero_()
    assert said(lambda: train(run, net, x)) == []
    assert said(lambda: train(run, net, torch.zeros(T, B, N))) == []  # only the first pass is looked at


def test_evaluation_is_not_looked_at_and_the_training_behind_it_is():
    net = net_of(spatial_adj=True, threshold=50.0)
    with torch.no_grad():
        assert said(lambda: all_at_once(net, torch.rand(T, B, N))) == []
    net.eval()
    assert said(lambda: all_at_once(net, torch.rand(T, B, N))) == []
    net.train()
    assert len(said(lambda: train(all_at_once, net))) == 1


def test_the_end_of_a_warm_up_is_looked_at():
    net = snn.MultiStep(*net_of(spatial_adj=True, threshold=50.0, warm_up="surrogate"))
    assert said(lambda: train(lambda net, x: net(x), net)) == []
    snn.networks.set_warm_up(net, None)
    assert len(said(lambda: train(lambda net, x: net(x), net))) == 1


def test_names():
    host = nn.Sequential(nn.Linear(N, 4), snntorch.Leaky(beta=0.9, threshold=50.0, init_hidden=True))
    net = nn.ModuleDict({"body": host})
    snn.convert(net, spatial_adj=True)
    (message,) = said(lambda: train(loop, net["body"]))
    assert message.startswith("layer 'body.1' (Leaky of 4 neurons)")
    lif = snn.Leaky(beta=0.9, threshold=50.0, spatial_adj=True)
    (message,) = said(lambda: lif.sequence(torch.rand(T, B, N, requires_grad=True)))
    assert message.startswith("a Leaky of 5 neurons")
    snn.revert(net)
    assert "_name" not in vars(net["body"][1]) and "_noticed" not in vars(net["body"][1])


def test_copies_look_anew_and_can_be_made_in_the_midst():
    lif = snn.Leaky(beta=0.9, threshold=50.0, spatial_adj=True, init_hidden=True)
    lif(torch.rand(B, N, requires_grad=True))
    for twin in (copy.deepcopy(lif), pickle.loads(pickle.dumps(lif))):
        assert any(
            "fired nowhere" in m
            for m in said(lambda twin=twin: twin(torch.rand(B, N, requires_grad=True)).sum().backward())
        )


@pytest.mark.parametrize(
    "options, factor",
    [
        (
            {"temporal_alpha": 0.8, "spatial_adj": True, "threshold": 0.5, "reset_mechanism": "zero"},
            None,
        ),  # the paper's
        ({"temporal_alpha": 0.8, "spatial_adj": True, "threshold": 0.001, "reset_mechanism": "zero"}, 720),
        (
            {"temporal_alpha": 0.8, "spatial_adj": True, "threshold": 0.5, "reset_mechanism": "subtract"},
            0.9 * (1 + 1.6),
        ),
        ({"temporal_alpha": 0.2, "spatial_adj": True, "threshold": 1.0, "reset_mechanism": "subtract"}, None),
        (
            {"temporal_alpha": 0.8, "spatial_adj": LEAKS, "threshold": 0.5, "reset_mechanism": "zero"},
            0.9 * (1 + 0.8 * 0.9),  # below the threshold, where nothing is reset
        ),
        ({"temporal_alpha": 0.8, "reset_mechanism": "zero", "threshold": 0.5}, 0.9 * 1.8),  # the arc tangent
        ({"temporal_alpha": 0.8, "spike_grad": snn.surrogate.rectangle(), "threshold": 0.5}, 0.9 * 1.8),
        ({"temporal_alpha": 0.1, "threshold": 0.5}, None),
        ({"temporal_alpha": -0.8, "spatial_adj": True, "threshold": 0.5}, None),  # |1 - 1.6|
        ({"temporal_alpha": -0.8, "spatial_adj": True, "threshold": 0.2}, 0.9 * 3),
    ],
)
@pytest.mark.parametrize("run", [loop, all_at_once])
def test_growth_is_told_of_once(run, options, factor):
    net = net_of(**options)
    messages = [m for m in said(lambda: train(run, net, 3 * torch.rand(T, B, N))) if "multiplied" in m]
    if factor is None:
        assert messages == []
    else:
        assert len(messages) == 1 and f"multiplied by {factor:.3g} here" in messages[0]
        assert ("without a residual" in messages[0]) == (options.get("reset_mechanism") != "zero")
        assert said(lambda: train(run, net)) == []


def test_the_factor_is_the_largest_that_the_gradient_shows():
    """One neuron that fires just above its threshold at every step: its error grows by the factor from step to step."""
    threshold, beta, alpha = 0.5, 0.9, 0.8
    lif = snn.Leaky(beta=beta, threshold=threshold, spatial_adj=True, temporal_alpha=alpha, reset_mechanism="zero")
    cur = torch.full((4, 1, 1), threshold * 1.0001, dtype=torch.float64).requires_grad_()
    spk, mem = lif.double().sequence(cur)
    assert spk.all()
    mem.sum().backward()
    ratio = (cur.grad[0] / cur.grad[1]).item()
    assert ratio == pytest.approx(lif._growth(), rel=1e-3) == pytest.approx(beta * alpha / threshold, rel=1e-3)


def test_the_presets_say_nothing_of_growth():
    net = snn.networks.small(width=1 / 16, num_steps=4)
    assert said(lambda: net(torch.rand(2, 1, 28, 28)).sum().backward()) == []
