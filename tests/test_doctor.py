"""check: what it says is what happens, and it changes nothing. wake: every layer fires at the rate that was asked for."""

import math

import pytest
import snntorch
import torch
from torch import nn

import snntorch_bpsta as snn

T, B, N = 10, 16, 12


class Loop(nn.Module):
    """A tutorial's network."""

    def __init__(self, host=snntorch, **options):
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(N, 20), host.Leaky(beta=0.9, **options)
        self.fc2, self.lif2 = nn.Linear(20, 4), host.Leaky(beta=0.9, **options)

    def forward(self, x):
        mem1, mem2, rec = self.lif1.init_leaky(), self.lif2.init_leaky(), []
        for step in x:
            spk, mem1 = self.lif1(self.fc1(step), mem1)
            spk, mem2 = self.lif2(self.fc2(spk), mem2)
            rec.append(spk)
        return torch.stack(rec), mem2


def whole(**options):
    lif = [snn.Leaky(beta=0.9, **options) for _ in range(2)]
    return snn.MultiStep(nn.Linear(N, 20), lif[0], nn.Linear(20, 4), lif[1])


def hidden(**options):
    lif = [snntorch.Leaky(beta=0.9, init_hidden=True, **options) for _ in range(2)]
    net = nn.Sequential(nn.Linear(N, 20), lif[0], nn.Linear(20, 4), lif[1])
    return snn.fold_time(net, steps=True)


NETS = {
    "loop": Loop,
    "loop of ours": lambda: Loop(snn, spatial_adj=True),
    "MultiStep": lambda: whole(spatial_adj=True),
    "hidden": hidden,
}
each_net = pytest.mark.parametrize("make", NETS.values(), ids=NETS)


@pytest.fixture
def x():
    return torch.rand(T, B, N, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@each_net
@pytest.mark.filterwarnings("ignore")
def test_the_rates_are_those_of_the_energy_module(make, x):
    net = make()
    with torch.no_grad(), snn.energy.record_firing_rates(net) as firing:
        snn.reset(net)(x)
    rows = snn.check(net, x)
    assert {row.name: row.rate for row in rows} == pytest.approx(firing.rates())
    assert all(row.neuron == "Leaky" for row in rows)


def test_the_numbers_are_those_of_a_plain_calculation(x):
    net = whole(spatial_adj=True)
    cur = net[0](x).detach().requires_grad_()
    spk = net[1].sequence(cur)[0]
    net[3].sequence(net[2](spk))[0].sum().backward()
    row = snn.check(net, x)[0]
    size = cur.grad.abs()
    assert row.never == pytest.approx(1 - spk.detach().flatten(0, 1).any(0).float().mean().item())
    assert row.zero_gradients == pytest.approx((size == 0).float().mean().item()) and 0 < row.zero_gradients < 1
    assert row.growth == pytest.approx((size[0].mean() / size[-1].mean()).item())


def test_a_loop_has_the_numbers_of_all_steps_at_once(x):
    loop, net = Loop(snn, spatial_adj=True), whole(spatial_adj=True)
    for ours, theirs in ((net[0], loop.fc1), (net[2], loop.fc2)):
        ours.load_state_dict(theirs.state_dict())
    for one, other in zip(snn.check(loop, x), snn.check(net, x), strict=True):
        assert one[2:6] == pytest.approx(other[2:6], rel=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_it_says_what_is_wrong(x):
    net = whole(spatial_adj=True)
    with torch.no_grad():
        net[2].bias.fill_(-50)
    first, second = snn.check(net, x)
    assert second.never == 1 and second.zero_gradients == 1 and "fires nowhere" in second.advice
    assert first.zero_gradients == 1 and "a layer behind is silent" in first.advice
    text = str(snn.check(net, x))
    assert text.startswith("layer  neuron  rate") and f"3: {second.advice}" in text
    net = whole(spatial_adj=True, temporal_alpha=1.0, threshold=0.1)
    advice = snn.check(net, 5 * x.repeat(4, 1, 1))[0].advice
    assert "explodes over time: temporal_alpha=0" in advice and "under 'subtract' it crosses spikes anyway" in advice
    net = whole(threshold=0.01)
    assert "smaller weights" in snn.check(net, 5 * x)[0].advice


@each_net
@pytest.mark.filterwarnings("ignore")
def test_check_changes_nothing(make, x):
    net = make()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    snn.reset(net)
    before = torch.get_rng_state()
    snn.check(net, x, loss=lambda out: (out[0] if isinstance(out, tuple) else out).square().mean())
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in net.modules())
    out = net(x)  # and the graph of the check is not in the way
    (out[0] if isinstance(out, tuple) else out).sum().backward()


def test_running_averages_stay(x):
    net = snn.MultiStep(nn.Linear(N, 20), nn.BatchNorm1d(20), snn.Leaky(beta=0.9))
    before = net[1].running_mean.clone()
    snn.wake(net, x, rate=0.1)
    snn.check(net, x)
    assert torch.equal(net[1].running_mean, before) and net[1].num_batches_tracked == 0


@each_net
@pytest.mark.parametrize("rate", [0.05, 0.3])
def test_wake_gives_every_layer_the_rate_and_keeps_directions(make, rate, x):
    net = make()
    with torch.no_grad():
        net.get_submodule("fc1" if isinstance(net, Loop) else "0").weight.mul_(1e-3)
    before = {name: value.clone() for name, value in net.named_parameters()}
    assert snn.wake(net, x, rate=rate) is net
    with torch.no_grad(), snn.energy.record_firing_rates(net) as firing:
        snn.reset(net)(x)
    assert all(measured == pytest.approx(rate, rel=0.05) for measured in firing.rates().values())
    for name, value in net.named_parameters():
        factor = (value / before[name]).flatten()
        assert factor[0] > 0 and torch.allclose(factor, factor[0].expand_as(factor), rtol=1e-4), name


def test_a_norm_in_front_is_what_is_scaled(x):
    net = snn.MultiStep(nn.Linear(N, 20), nn.BatchNorm1d(20), snn.Leaky(beta=0.9, threshold=9.0))
    weight = net[0].weight.clone()
    snn.wake(net, x, rate=0.1)
    assert torch.equal(net[0].weight, weight) and (net[1].weight > 1).all()


def test_a_recurrence_is_not_scaled(x):
    net = snn.MultiStep(nn.Linear(N, 8), snn.RLeaky(beta=0.9, linear_features=8))
    weight = net[1].recurrent.weight.clone()
    snn.wake(net, x, rate=0.2)
    assert torch.equal(net[1].recurrent.weight, weight)
    assert snn.check(net, x)[0].rate == pytest.approx(0.2, rel=0.05)


@pytest.mark.filterwarnings("ignore")
def test_a_woken_net_learns_where_it_was_dead(x):
    net = whole(spatial_adj=True, threshold=9.0)
    assert all(row.zero_gradients == 1 for row in snn.check(net, x))
    assert all(row.zero_gradients < 1 for row in snn.check(snn.wake(net, x), x))


def test_what_cannot_be_done_is_said(x):
    with pytest.raises(ValueError, match="no spiking neuron that ran"):
        snn.wake(nn.Linear(N, 2), x)
    with pytest.raises(ValueError, match="no spiking neuron that ran"):
        snn.check(nn.Linear(N, 2), x)
    with pytest.raises(ValueError, match="no layer with weights in front of '0'"):
        snn.wake(snn.MultiStep(snn.Leaky(beta=0.9)), x)
    net = whole()
    with torch.no_grad():
        net[0].bias.zero_()
    before = net[0].weight.clone()
    with pytest.raises(ValueError, match=r"no factor .* in front of '1'.*zero"):
        snn.wake(net, torch.zeros(T, B, N))
    assert torch.equal(net[0].weight, before)
    shared = nn.Linear(N, N)
    net = snn.MultiStep(shared, snn.Leaky(beta=0.9), shared, snn.Leaky(beta=0.9))
    with pytest.raises(ValueError, match="share the weights"):
        snn.wake(net, x)
    net = whole()
    nn.utils.parametrizations.weight_norm(net[0])
    with pytest.raises(ValueError, match="parametrized"):
        snn.wake(net, x)
    with pytest.raises(ValueError, match="one number with a gradient, got shape"):
        snn.check(whole(), x, loss=lambda out: out)
    with pytest.raises(ValueError, match="no gradient"):
        snn.check(whole().requires_grad_(False), x)
    for rate in (0, 1, -1, math.nan):
        with pytest.raises(ValueError, match="rate must be"):
            snn.wake(whole(), x, rate=rate)
    with pytest.raises(TypeError, match="loss must be a function"):
        snn.check(whole(), x, loss=3)
