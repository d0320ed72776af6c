"""Eq. 11 against Table 6, and the spikes that the recorder counts."""

import math
import warnings

import pytest
import snntorch
import torch
from torch import nn
from torch.nn.utils import parametrizations

import snntorch_bpsta as snn
from snntorch_bpsta import energy
from snntorch_bpsta.energy import energy_ratio, record_firing_rates

# Table 6 as printed: firing rate ours, baseline; EE ours, baseline (T = 16).
TABLE_6 = {
    "MNIST": (0.082, 0.183, 35.1, 15.7),
    "N-MNIST": (0.097, 0.176, 29.6, 16.3),
    "CIFAR10": (0.108, 0.214, 26.6, 13.4),
    "DVS-Gesture": (0.083, 0.165, 34.6, 17.4),
    "DVS-CIFAR10": (0.097, 0.177, 29.5, 16.2),
}
LEAKY = dict(beta=1.0, threshold=0.5, reset_mechanism="zero")


# --- Eq. 11 -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", [0, 1], ids=["ours", "baseline"])
@pytest.mark.parametrize("dataset", TABLE_6)
def test_table_6(dataset, column):
    rate, ratio = TABLE_6[dataset][column], TABLE_6[dataset][2 + column]
    assert energy_ratio(rate, 16) == pytest.approx(ratio, abs=0.15)
    assert energy_ratio(rate, 8) != pytest.approx(ratio, abs=1)


def test_the_constants_are_horowitzs():
    assert (energy.E_MAC_PJ, energy.E_AC_PJ, energy.E_AC_FP32_PJ) == (4.6, 0.1, 0.9)
    assert pytest.approx(3.7 + 0.9) == energy.E_MAC_PJ


def test_by_hand():
    assert energy_ratio(0.25, 4) == pytest.approx(46.0)
    assert energy_ratio(1, 1) == pytest.approx(46.0)
    assert energy_ratio(0.25, 4, energy.E_AC_FP32_PJ) == pytest.approx(4.6 / 0.9)
    assert energy_ratio(0.25, 4, e_ac_pj=4.6) == pytest.approx(1.0)


def test_silence_costs_nothing():
    assert energy_ratio(0, 16) == energy_ratio(0.0, 1) == math.inf


@pytest.mark.parametrize("rate", [-0.001, 1.001, float("nan"), float("inf"), -float("inf")], ids=str)
def test_rates_out_of_range_are_refused(rate):
    with pytest.raises(ValueError, match=r"firing_rate must be in \[0, 1\]"):
        energy_ratio(rate, 16)


@pytest.mark.parametrize("num_steps", [0, -1])
def test_too_few_steps_are_refused(num_steps):
    with pytest.raises(ValueError, match="num_steps must be >= 1"):
        energy_ratio(0.1, num_steps)


# --- the recorder -------------------------------------------------------------------------------------------

# [T=3, B=2, N=2]; each entry is above the threshold or zero, and the reset leaves nothing: 5 spikes of 12.
CURRENT = torch.tensor([[[1.0, 0.0], [1.0, 1.0]], [[0.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 0.0]]])


class Loop(nn.Module):
    """What a tutorial writes: one step after the other."""

    def __init__(self, neuron):
        super().__init__()
        self.lif = neuron

    def forward(self, x):
        mem, out = torch.zeros_like(x[0]), []
        for x_t in x:
            spk, mem = self.lif(x_t, mem)
            out.append(spk)
        return torch.stack(out)


NETS = {
    "sequence": lambda: snn.MultiStep(snn.Leaky(**LEAKY, spatial_adj=True)),
    "sequence-looped-inside": lambda: snn.MultiStep(snn.Leaky(**LEAKY, spatial_adj=True, state_quant=lambda mem: mem)),
    "loop": lambda: Loop(snn.Leaky(**LEAKY, spatial_adj=True)),
    "loop-stock": lambda: Loop(snntorch.Leaky(**LEAKY)),
    "stock": lambda: snn.MultiStep(snntorch.Leaky(**LEAKY)),
    "init-hidden": lambda: snn.MultiStep(snn.Leaky(**LEAKY, init_hidden=True)),
    "stock-init-hidden": lambda: snn.MultiStep(snntorch.Leaky(**LEAKY, init_hidden=True)),
    "graded": lambda: snn.MultiStep(snn.Leaky(**LEAKY, graded_spikes_factor=0.25)),
    "nested": lambda: snn.MultiStep(nn.Sequential(nn.Identity(), nn.Sequential(snn.Leaky(**LEAKY)))),
}


@pytest.mark.parametrize("name", NETS)
def test_counts_by_hand(name):
    net = NETS[name]()
    with record_firing_rates(net) as firing:
        out = net(CURRENT)
    assert out.count_nonzero() == 5
    ((spikes, count),) = firing.values()
    assert (int(spikes), count) == (5, 12)
    assert firing.mean() == pytest.approx(5 / 12)
    assert list(firing.rates().values()) == [pytest.approx(5 / 12)]
    assert all(isinstance(rate, float) for rate in [firing.mean(), *firing.rates().values()])


def test_layers_by_name_and_the_mean_over_all_neurons():
    net = snn.MultiStep(snn.Leaky(**LEAKY), nn.Linear(2, 8), nn.Sequential(snntorch.Leaky(**LEAKY)))
    with torch.no_grad():
        net[1].weight.zero_()
        net[1].bias.copy_(torch.tensor([1.0] * 2 + [0.0] * 6))
    with record_firing_rates(net) as firing:
        net(CURRENT)
    assert firing.rates() == {"0": pytest.approx(5 / 12), "2.0": pytest.approx(0.25)}
    assert firing.mean() == pytest.approx((5 + 12) / (12 + 48)), "weighted by neurons, not by layers"


def test_the_penalty_is_the_rate_and_its_gradient_that_of_the_spikes():
    torch.manual_seed(0)
    net = snn.MultiStep(nn.Linear(2, 8), snn.Leaky(**LEAKY), nn.Linear(8, 3), snn.Leaky(**LEAKY))
    with record_firing_rates(net, differentiable=True) as firing:
        spk_rec = net(4 * CURRENT)
    assert 0 < firing.mean() < 1 and firing.penalty().item() == pytest.approx(firing.mean())
    assert firing.penalty(["3"]).item() == pytest.approx(spk_rec.mean().item()) == pytest.approx(firing.rates()["3"])
    (expected,) = torch.autograd.grad(spk_rec.mean(), net[2].weight, retain_graph=True)
    (found,) = torch.autograd.grad(firing.penalty(["3"]), net[2].weight, retain_graph=True)
    assert expected.count_nonzero() > 0 and torch.allclose(found, expected, atol=1e-7)
    both = torch.autograd.grad(firing.penalty(), net[0].weight, retain_graph=True)[0]
    hidden = torch.autograd.grad(firing.penalty(["1"]), net[0].weight)[0]
    assert hidden.count_nonzero() > 0 and not torch.equal(both, hidden), "each layer counts"


def test_a_penalty_weighs_its_layers():
    firing = energy.FiringRates({"a": (torch.tensor(6.0, requires_grad=True), 24), "b": (3, 6), "c": (7, 7)})
    assert firing.penalty(["a", "b"], {"a": 2, "b": 1, "c": 5}).item() == pytest.approx((2 / 4 + 1 / 2) / 3)
    assert firing.penalty(weights={"a": 24, "b": 6, "c": 7}).item() == pytest.approx(firing.mean())
    (slope,) = torch.autograd.grad(firing.penalty(["a", "b"], {"a": 2, "b": 1}), firing["a"][0])
    assert slope.item() == pytest.approx(2 / 3 / 24)
    with pytest.raises(ValueError, match=r"weights must have all of \['a', 'b', 'c'\], got none for \['c'\]"):
        firing.penalty(weights={"a": 2, "b": 1})
    with pytest.raises(ValueError, match=r"weights\['a'\] must be a finite number >= 0, got -1"):
        firing.penalty(["a"], {"a": -1})
    with pytest.raises(ValueError, match="must have one above 0"):
        firing.penalty(["a"], {"a": 0})
    with pytest.raises(TypeError, match="weights must be a dict of numbers, got list"):
        firing.penalty(["a"], [1])


def test_a_penalty_on_what_is_not_recorded():
    net = NETS["sequence"]()
    with record_firing_rates(net) as firing:
        net(CURRENT)
    assert firing.penalty().item() == pytest.approx(5 / 12) and not firing.penalty().requires_grad
    with pytest.raises(ValueError, match=r"some of those that were recorded, \['0'\], got \['1'\]"):
        firing.penalty(["1"])
    with pytest.raises(ValueError, match=r"some of those that were recorded, \[\], got \[\]"):
        energy.FiringRates().penalty()
    with pytest.raises(TypeError, match="layers must be names of layers, got str"):
        firing.penalty("0")
    with pytest.raises(TypeError, match="differentiable must be"), record_firing_rates(net, differentiable=1):
        pass


def test_several_batches_add_up():
    net = NETS["sequence"]()
    with record_firing_rates(net) as firing:
        net(CURRENT)
        assert firing.mean() == pytest.approx(5 / 12), "filled as the network runs"
        net(torch.zeros(5, 1, 2))
    assert firing.rates() == {"0": pytest.approx(5 / 22)}


def test_a_network_of_table_1():
    net = snn.networks.small((1, 8, 8), width=1 / 32, num_steps=4)
    seen = []
    net[-2].register_forward_hook(lambda module, args, output: seen.append(output[0]))
    with record_firing_rates(net) as firing:
        net(torch.rand(3, 1, 8, 8) * 5)
    assert list(firing.rates()) == ["0.4", "2.3", "3.3", "8", "11"]
    assert [count for _, count in firing.values()] == [4 * 3 * n for n in (4 * 64, 4 * 16, 8 * 16, 128, 100)]
    assert firing["11"][0] == seen[0].sum() and 0 < firing.mean() < 1


def test_recording_changes_nothing():
    net = snn.MultiStep(nn.Linear(2, 4), snn.Leaky(**LEAKY, spatial_adj=True, temporal_alpha=0.8))
    expected = net(CURRENT)
    expected.sum().backward()
    gradient = net[0].weight.grad.clone()
    net.zero_grad()
    with record_firing_rates(net) as firing:
        out = net(CURRENT)
        out.sum().backward()
    assert torch.equal(out, expected) and torch.equal(net[0].weight.grad, gradient)
    assert not any(torch.as_tensor(spikes).requires_grad for spikes, _ in firing.values())


def hooks(net):
    return sum(len(module._forward_hooks) for module in net.modules())


def test_the_hooks_are_gone_afterwards():
    net = NETS["nested"]()
    with record_firing_rates(net) as firing:
        assert hooks(net) == 1
        net(CURRENT)
    assert hooks(net) == 0
    net(CURRENT)
    assert firing.mean() == pytest.approx(5 / 12), "a closed recorder counts no more"


def test_the_hooks_are_gone_after_an_exception():
    net = NETS["sequence"]()
    with pytest.raises(RuntimeError, match="mine"), record_firing_rates(net) as firing:
        net(CURRENT)
        raise RuntimeError("mine")
    assert hooks(net) == 0 and firing.mean() == pytest.approx(5 / 12)


def test_other_hooks_stay():
    net, seen = NETS["sequence"](), []
    net[0].register_forward_hook(lambda *args: seen.append(1))
    with record_firing_rates(net):
        net(CURRENT)
    net(CURRENT)
    assert len(seen) == 2


def test_two_recorders_at_once():
    net = NETS["sequence"]()
    with record_firing_rates(net) as outer:
        net(CURRENT)
        with record_firing_rates(net) as inner:
            net(CURRENT)
    assert outer["0"] == (10, 24) and inner["0"] == (5, 12)


def test_nothing_to_count():
    with record_firing_rates(nn.Linear(2, 2)) as firing:
        pass
    assert firing == {} and firing.rates() == {} and firing.mean() == 0
    with record_firing_rates(NETS["sequence"]()) as firing:
        pass
    assert firing.mean() == 0
    net = NETS["sequence"]()
    with record_firing_rates(net) as firing:
        net(torch.zeros(3, 0, 2))
    assert firing.rates() == {"0": 0.0} and firing.mean() == 0


def test_silence():
    net = NETS["sequence"]()
    with record_firing_rates(net) as firing:
        net(torch.zeros(3, 2, 2))
    assert firing.rates() == {"0": 0.0}
    assert energy_ratio(firing.mean(), 3) == math.inf


# --- operations ---------------------------------------------------------------------------------------------


def operations_by_hand(conv, x):
    """Every pair of an input that is not zero and an output whose window holds it."""
    weights = torch.ones_like(conv.weight)
    total = 0.0
    for index in x.nonzero():
        one = torch.zeros_like(x)
        one[tuple(index)] = 1
        total += (
            nn.functional.conv2d(one, weights, None, conv.stride, conv.padding, conv.dilation, conv.groups).sum().item()
        )
    return total


@pytest.mark.parametrize(
    "options",
    [{}, dict(padding=1), dict(stride=2, padding=1), dict(dilation=2), dict(groups=2), dict(padding="same")],
    ids=str,
)
def test_operations_of_a_convolution(options):
    conv = nn.Conv2d(4, 6, 3, bias=False, **options)
    x = (torch.rand(2, 4, 7, 6) < 0.3) * torch.rand(2, 4, 7, 6)
    net = nn.Sequential(conv)
    with energy.count_operations(net) as found:
        out = net(x)
    assert found["0"]["mac"] == operations_by_hand(conv, x) > 0 == found["0"]["ac"]
    assert (
        found["0"]["dense"]
        == operations_by_hand(conv, torch.ones(1, 4, 7, 6))
        <= out[0].numel() * conv.weight[0].numel()
    )


def test_operations_before_and_behind_the_first_neuron():
    """A picture costs multiplications, spikes none: [T=3, B=2] and five spikes of two neurons."""
    first, last = nn.Linear(2, 2, bias=False), nn.Linear(2, 7)
    with torch.no_grad():
        first.weight.copy_(torch.eye(2))
    net = snn.MultiStep(first, snn.Leaky(**LEAKY), last)
    picture = CURRENT.clone()
    picture[0, 0, 0] = 0.75
    with torch.no_grad(), energy.count_operations(net) as found:
        net(picture)
        net(picture)
    assert found == {"0": {"dense": 4, "mac": 2 * 5 * 2, "ac": 0}, "2": {"dense": 14, "mac": 0, "ac": 2 * 5 * 7}}
    samples = 4
    spent = (20 * energy.E_MAC_PJ + 70 * energy.E_AC_PJ) / samples
    assert found.energy_ratio(samples) == pytest.approx(18 * energy.E_MAC_PJ / spent)
    assert found.energy_ratio(samples, e_ac_pj=energy.E_AC_FP32_PJ) < found.energy_ratio(samples)
    assert energy.Operations().energy_ratio(1) == math.inf
    with pytest.raises(ValueError, match="samples must be > 0, got 0"):
        found.energy_ratio(0)
    with energy.count_operations(net) as empty:
        pass
    net(CURRENT)
    assert empty == {}, "nothing is counted outside"


class Tutorial(nn.Module):
    """The loop inside, as tutorial 5 writes it."""

    def __init__(self):
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(12, 8), snntorch.Leaky(beta=0.9)
        self.fc2, self.lif2 = nn.Linear(8, 3), snntorch.Leaky(beta=0.9)

    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        rows = []
        for x_t in x:
            spk1, mem1 = self.lif1(self.fc1(x_t), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            rows.append(spk2)
        return torch.stack(rows)


@pytest.mark.parametrize("binary", [False, True], ids=["analog", "binary"])
def test_a_loop_and_a_sequence_count_alike(binary):
    torch.manual_seed(1)
    loop = Tutorial()
    fused = snn.MultiStep(loop.fc1, snn.Leaky(beta=0.9), loop.fc2, snn.Leaky(beta=0.9))
    x = 4 * torch.rand(6, 5, 12)
    x = (x > 2).float() if binary else x
    counts = []
    for net in (loop, fused):
        with torch.no_grad(), energy.count_operations(net) as found:
            net(x)
        counts.append(list(found.values()))
    assert counts[0] == counts[1]
    first, second = counts[0]
    assert first == {"dense": 96, "ac": x.count_nonzero() * 8 * binary, "mac": x.count_nonzero() * 8 * (not binary)}
    assert second["ac"] > 0 == second["mac"]


@pytest.mark.parametrize("kind", ["RLeaky", "RSynaptic"])
@pytest.mark.parametrize("lib", [snn, snntorch], ids=["ours", "snntorch"])
def test_a_spike_that_is_fed_back_costs_its_recurrent_weights(kind, lib):
    options = {"beta": 0.9, "threshold": 0.5} | ({"alpha": 0.5} if kind == "RSynaptic" else {})
    nets = [
        (nn.Sequential(nn.Linear(4, 6), getattr(lib, kind)(**options, linear_features=6)), "1.recurrent", 6, 36),
        (nn.Sequential(nn.Linear(4, 6), getattr(lib, kind)(**options, all_to_all=False, V=0.3)), "1.recurrent", 1, 6),
    ]
    for layers, name, fan_out, dense in nets:
        net = snn.MultiStep(*layers)
        with torch.no_grad(), energy.count_operations(net) as found:
            spikes = net(4 * torch.rand(7, 3, 4)).count_nonzero()
        assert spikes and found[name] == {"dense": dense, "ac": float(spikes * fan_out), "mac": 0.0}
        assert found["0"]["mac"] > 0 == found["0"]["ac"] and len(found) == 2


def test_spikes_are_told_by_their_values():
    """Scaled by one factor they are spikes, averaged they are not: so it is, whenever the first such number comes."""
    spikes = (torch.rand(4, 2, 6) < 0.5).float()
    inputs = {
        "spikes": spikes,
        "graded": 0.25 * spikes,
        "negative": -spikes,
        "two": spikes * torch.tensor([1.0, 2] * 3),
    }
    for name, x in inputs.items():
        with torch.no_grad(), energy.count_operations(layer := nn.Linear(6, 3)) as found:
            layer(x)
        assert (found[""]["ac"] > 0) == (name != "two") != (found[""]["mac"] > 0), name
        assert sum(found[""].values()) == 18 + 3 * x.count_nonzero()
    with torch.no_grad(), energy.count_operations(layer) as late:
        layer(spikes)
        layer(0.5 * spikes)
    assert late[""] == {"dense": 18, "ac": 0.0, "mac": float(2 * 3 * spikes.count_nonzero())}


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(3, 4, 3, padding=1), nn.Conv3d(2, 3, 2, stride=2), nn.ConvTranspose1d(3, 2, 3, stride=2),
        nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), nn.ConvTranspose3d(2, 2, 2),
    ],
    ids=lambda layer: type(layer).__name__,
)  # fmt: skip
def test_operations_of_other_convolutions(layer):
    x = (torch.rand(2, layer.in_channels, *[5] * len(layer.kernel_size)) < 0.3).float()
    with torch.no_grad(), energy.count_operations(layer) as found:
        layer(x)
        for weight in layer.parameters():
            weight.zero_() if weight.dim() == 1 else weight.fill_(1)
        assert found[""]["ac"] == layer(x).sum() > 0
        assert found[""]["dense"] == layer(torch.ones_like(x[:1])).sum()


class Functional(nn.Module):
    """A product of its own, with the weight of a layer that is not called, or of an embedding."""

    def __init__(self, tied=False):
        super().__init__()
        self.layer = nn.Embedding(5, 4) if tied else nn.Linear(4, 5)
        self.position = nn.Parameter(torch.rand(3, 4))

    def forward(self, x):
        return (x + self.position) @ self.layer.weight.T


def encoder():
    return nn.TransformerEncoderLayer(4, 2, dim_feedforward=6, batch_first=True)


@pytest.mark.parametrize(
    "layer, names",
    [
        (lambda: nn.MultiheadAttention(4, 2), "1 .MultiheadAttention."), (lambda: nn.LSTM(4, 3), "1 .LSTM."),
        (lambda: nn.Bilinear(4, 4, 3), "1 .Bilinear."), (Functional, "1 .Functional."),
        (lambda: Functional(tied=True), "1 .Functional."), (encoder, "1.*Encoder.*|1.self_attn .*"),
        (lambda: snntorch.SLSTM(4, 3, init_hidden=True), "1.lstm_cell .LSTMCell."),
        (lambda: snntorch.LeakyParallel(4, 3), "1.rnn .RNN."),
    ],
)  # fmt: skip
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_what_is_not_counted_is_named(layer, names, mode):
    net = nn.Sequential(nn.Linear(4, 4), layer()).eval()
    arguments = {"MultiheadAttention": 3, "Bilinear": 2}.get(type(net[1]).__name__, 1)
    x = torch.rand(2, 4) if isinstance(net[1], snntorch.SLSTM) else torch.rand(2, 3, 4)
    with pytest.warns(UserWarning, match=f"products of these modules are not counted: ({names})$"):
        with mode(), energy.count_operations(net) as found:
            net[1](*[net[0](x)] * arguments)
    assert found["0"] == {"dense": 16, "ac": 0.0, "mac": x.numel() * 4.0}


def test_what_multiplies_no_matrices_is_not_named():
    """Norms with weights of several dimensions, a parametrised weight, a weight that is added, a loss outside."""
    layers = (parametrizations.weight_norm(nn.Linear(4, 4)), nn.LayerNorm([3, 4]), nn.Embedding(3, 4), snn.Leaky(0.9))
    net = nn.Sequential(*layers)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with energy.count_operations(net) as found:
            out = net[3](net[1](net[0](input=torch.ones(2, 3, 4))) + net[2](torch.arange(3)))[0]
            (out @ out.mT).sum().backward()
    assert found == {"0": {"dense": 16, "ac": 96.0, "mac": 0.0}}


def test_a_failure_inside_leaves_nothing_behind():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(5, 4))
    with energy.count_operations(net) as found:
        with pytest.raises(RuntimeError, match="shapes"):
            net(torch.ones(2, 4))
        net[0](torch.ones(2, 4))
    assert found == {"0": {"dense": 16, "ac": 64.0, "mac": 0.0}}
    net[0](torch.ones(2, 4))
    assert found["0"]["ac"] == 64


def test_operations_agree_with_eq_11_where_it_is_exact():
    """Eq. 11 takes every synapse to see the mean rate: so it is for one layer that sees every neuron alike."""
    net = snn.MultiStep(snn.Leaky(**LEAKY), nn.Linear(2, 7))
    with torch.no_grad(), energy.count_operations(net) as found, record_firing_rates(net) as firing:
        net(CURRENT)
    assert found.energy_ratio(samples=2) == pytest.approx(energy_ratio(firing.mean(), num_steps=3))
