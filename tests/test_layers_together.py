"""The table of how layers are taken over time, what runs together, and what `which` says of it."""

import pytest
import snntorch
import torch
from _layers import PAPER
from torch import nn

import snntorch_bpsta as snn
from snntorch_bpsta.layers import together
from snntorch_bpsta.layers.over_time import How, row_of

T, B, N = 4, 3, 6


class Whole(nn.Module):
    time_major = True

    def forward(self, x):
        return x


class Own(nn.Sequential):
    def forward(self, x):
        return super().forward(x) * 2


class Holding(nn.Module):
    def __init__(self):
        super().__init__()
        self.neuron = snntorch.Leaky(beta=0.9)


ROWS = {
    "whole": (Whole, How.WHOLE),
    "multistep": (snn.MultiStep, How.WHOLE),
    "ours": (lambda: snn.Synaptic(alpha=0.8, beta=0.9), How.SEQUENCE),
    "snntorch's": (lambda: snntorch.Leaky(beta=0.9), How.STEPPED),
    "parallel": (lambda: snntorch.LeakyParallel(N, N), How.PARALLEL),
    "list": (lambda: nn.ModuleList([nn.Linear(N, N)]), How.LIST),
    "list of neurons": (lambda: nn.ModuleList([snn.Leaky(beta=0.9)]), How.REFUSED),
    "chain": (lambda: nn.Sequential(nn.ReLU()), How.CHAIN),
    "block": (lambda: snn.ConvBlock(1, 2, snn.Leaky(beta=0.9)), How.CHAIN),
    "own chain": (lambda: Own(nn.ReLU()), How.FOLDED),
    "own chain of neurons": (lambda: Own(snn.Leaky(beta=0.9)), How.REFUSED),
    "recurrent": (lambda: nn.LSTM(N, N), How.REFUSED),
    "holding": (Holding, How.REFUSED),
    "convolution": (lambda: nn.Conv2d(1, 2, 3), How.FOLDED),
}


@pytest.mark.parametrize("name", ROWS)
def test_the_row_of_a_layer(name):
    make, how = ROWS[name]
    row = row_of(make())
    assert row.how is how
    assert bool(row.why) == (how is How.REFUSED)


def leaky(**options):
    return snn.Leaky(**PAPER | options)


PATHS = {
    "neuron": ([leaky()], 0),
    "flattened": ([leaky(), nn.Flatten(), nn.Identity()], 0),
    "in chains": ([nn.Sequential(leaky()), nn.Sequential(nn.Flatten())], 0),
    "the last": ([leaky(), nn.Linear(N, N), nn.ReLU(), leaky(), nn.Identity()], 3),
    "pooled": ([nn.Unflatten(1, (1, 2, 3)), leaky(), nn.MaxPool2d(2, 1)], 1),
    "averaged": ([nn.Unflatten(1, (1, 2, 3)), leaky(), nn.AvgPool2d(2, 1)], None),
    "scaled": ([leaky(), nn.Linear(N, N)], None),
    "dropped": ([leaky(), snn.NeuronDropout(0.0)], None),
    "stepped": ([snntorch.Leaky(beta=0.9)], None),
    "none": ([nn.Identity()], None),
}


@pytest.mark.parametrize("name", PATHS)
def test_whose_spikes_a_layer_is_given(name, monkeypatch):
    layers, place = PATHS[name]
    seen = []
    last = nn.Flatten()

    def look(left, x, spiking):
        if left[0].layer is last:
            seen.append(spiking)

    monkeypatch.setattr(together, "RULES", (look, *together.RULES))
    net = snn.MultiStep(*layers, last)
    net(torch.rand(T, B, N))
    flat = [placed.layer for placed in together.flat(net)]
    assert seen == [None if place is None else flat[place]]


def test_spikes_that_a_hook_may_change_are_nobodys(monkeypatch):
    seen = []
    monkeypatch.setattr(together, "RULES", (lambda left, x, spiking: seen.append(spiking), *together.RULES))
    net = snn.MultiStep(leaky(), nn.Identity(), nn.Flatten())
    net[1].register_forward_hook(lambda module, args, out: out * 0.5)
    net(torch.rand(T, B, N))
    assert seen == [None, net[0], None]


def test_a_layer_that_stands_twice_runs_twice():
    relu, linear = nn.ReLU(), nn.Linear(N, N)
    net = snn.MultiStep(linear, relu, linear, relu, leaky())
    x = torch.rand(T, B, N)
    expected = leaky().sequence(linear(linear(x).relu()).relu())[0]
    assert torch.equal(net(x), expected)


def test_which_names_the_implementation_and_what_runs_with_it():
    net = snn.MultiStep(
        nn.Linear(N, N), nn.ReLU(), leaky(), nn.Sequential(nn.Linear(N, N), leaky()), nn.Linear(N, N),
        snn.DirectEncoding(7), leaky(),
    )  # fmt: skip
    assert snn.which(net, torch.rand(1, B, N)) == {
        "2": "cpu, with ReLU", "3.0": "dense: too small", "3.1": "cpu", "4": "dense: too small",
        "6": "cpu, with DirectEncoding",
    }  # fmt: skip
    assert snn.which(net, torch.rand(T, B, N))["6"] == "cpu"
    net[1].register_forward_hook(lambda module, args, out: None)
    assert snn.which(net, torch.rand(T, B, N))["2"] == "cpu"


@pytest.mark.filterwarnings("ignore:.*runs as a loop over time")
def test_which_says_why_a_neuron_is_a_loop():
    net = snn.MultiStep(
        leaky(spike_grad=Mixing()),
        snn.AdaptiveLeaky(beta=0.9),
        leaky(inhibition=True),
        snntorch.Leaky(beta=0.9),
        leaky(),
    )
    net[4].warm_up = "identity"
    how = snn.which(net, torch.rand(T, B, N))
    assert how["0"].startswith("reference, for a surrogate that mixes neurons")
    assert how["1"] == "reference, for a threshold that adapts"
    assert how["2"] == "reference, for inhibition"
    assert how["3"] == "step by step, by snnTorch"
    assert how["4"] == "its current, as it warms up"


POOLS = {"max": lambda: nn.MaxPool2d(2), "average": lambda: nn.AvgPool2d(2), "padded": lambda: nn.MaxPool2d(3, 2, 1)}


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("output", [False, True])
def test_pooling_behind_a_neuron_is_done_with_it(pool, output):
    """The same spikes and gradients as with somebody who looks at the spikes, so that nothing is done together."""
    torch.manual_seed(0)
    net = snn.MultiStep(
        snn.layers.ConvBlock(2, 4, leaky(output=output)), POOLS[pool](), nn.Conv2d(4, 3, 3), nn.ReLU(), leaky(output=output),
        POOLS[pool](),
    )  # fmt: skip
    x = torch.rand(T, B, 2, 9, 11, requires_grad=True)
    how, name = snn.which(net, x), type(net[1]).__name__
    assert how["0.3"] == how["4"] == ("cpu, with ReLU" if pool == "padded" else f"cpu, with {name}, with ReLU")
    got = net(x)
    grads = torch.autograd.grad((got * torch.arange(got.numel()).view_as(got)).sum(), [x, *net.parameters()])
    for neuron in (net[0][-1], net[4]):
        neuron.register_forward_hook(lambda module, args, out: None)
    assert name not in "".join(snn.which(net, x).values())
    expected = net(x)
    others = torch.autograd.grad((expected * torch.arange(got.numel()).view_as(got)).sum(), [x, *net.parameters()])
    assert torch.equal(got, expected) and 0 < got.mean() < 1
    for mine, other in zip(grads, others, strict=True):
        assert torch.allclose(mine, other, rtol=1e-4, atol=1e-5 * other.abs().max().item())


@pytest.mark.parametrize("what", ["hook", "global hook", "own sequence", "subclass"])
def test_pooling_is_left_alone_where_somebody_looks_at_the_spikes(what):
    class Own(snn.Leaky):
        def sequence(self, *args, **options):
            spk, mem = super().sequence(*args, **options)
            seen.append(spk.shape)
            return spk, mem

    class Pool(nn.MaxPool2d):
        pass

    seen = []
    neuron = Own(beta=0.9) if what == "own sequence" else leaky()
    net = snn.MultiStep(neuron, (Pool if what == "subclass" else nn.MaxPool2d)(2))
    look = lambda module, args, out: seen.append(out[0].shape)  # noqa: E731
    handle = neuron.register_forward_hook(look) if what == "hook" else None
    if what == "global hook":
        handle = nn.modules.module.register_module_forward_hook(look)
    try:
        out = net(torch.rand(T, B, 2, 4, 6))
    finally:
        if handle is not None:
            handle.remove()
    assert out.shape == (T, B, 2, 2, 3) and (what == "subclass" or seen[0] == (T, B, 2, 4, 6))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_batch_norm_goes_into_the_convolution_in_eval_mode(affine, bias):
    torch.manual_seed(0)
    net = snn.MultiStep(nn.Conv2d(2, 4, 3, bias=bias), nn.BatchNorm2d(4, affine=affine), leaky(), nn.Conv2d(4, 4, 3))
    x = torch.rand(T, B, 2, 9, 11, dtype=torch.float64)
    net.double()
    for _ in range(3):
        net(x)
    with torch.no_grad():
        assert "0" not in snn.which(net, x)  # in training
        net.eval()
        assert snn.which(net, x)["0"] == "with BatchNorm2d"
        folded = net[:2](x)
        expected = net[1](net[0](x.flatten(0, 1))).unflatten(0, x.shape[:2])
        assert torch.allclose(folded, expected, rtol=0, atol=1e-12) and not torch.equal(folded, expected)
        net[0].weight.mul_(2)
        assert torch.allclose(net[:2](x), net[1](net[0](x.flatten(0, 1))).unflatten(0, x.shape[:2]), rtol=0, atol=1e-12)
        hook = net[0].register_forward_hook(lambda module, args, out: None)
        assert torch.equal(net[:2](x), net[1](net[0](x.flatten(0, 1))).unflatten(0, x.shape[:2]))
        hook.remove()
    assert torch.equal(net[:2](x), net[1](net[0](x.flatten(0, 1))).unflatten(0, x.shape[:2]))  # with gradients
    net(x).sum().backward()
    assert net[0].weight.grad is not None


class Mixing(nn.Module):
    """A surrogate of one's own that fires by another rule."""

    def forward(self, x):
        return (x > x.mean()).to(x.dtype)


class Loop(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(N, N)
        self.ours = leaky(spatial_adj=True)
        self.plain = leaky()

    def forward(self, x):
        mem, mem_2, rows = self.ours.init_leaky(), self.plain.init_leaky(), []
        for x_t in x:
            spk, mem = self.ours(self.fc(x_t), mem)
            spk, mem_2 = self.plain(spk, mem_2)
            rows.append(spk)
        return torch.stack(rows)


def test_which_of_a_loop_over_time_and_of_that_folded():
    net, x = Loop(), torch.rand(T, B, N)
    assert snn.which(net, x) == {"ours": "step by step: cpu", "plain": "step by step"}
    fast = snn.fold_time(net)
    with torch.no_grad():
        fast(x), fast(x)
    assert snn.which(fast, x) == {"ours": "cpu", "plain": "cpu"}


def test_which_leaves_nothing_behind_when_a_net_fails():
    net = snn.MultiStep(leaky(), nn.Linear(N + 1, 1))
    with pytest.raises(RuntimeError, match="layer '1', Linear"):
        snn.which(net, torch.rand(T, B, N))
    assert snn.telling.told is None
    with pytest.raises(TypeError, match=r"net must be a torch.nn.Module"):
        snn.which(torch.rand)


def test_a_compiled_net_tells_nothing_and_runs():
    net = snn.MultiStep(nn.Linear(N, N), nn.ReLU(), leaky())
    x = torch.rand(T, B, N)
    with torch.no_grad():
        expected = net(x)
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert torch.equal(compiled(x), expected)
    assert snn.which(compiled, x) in ({}, {"_orig_mod.2": "cpu"})
    with torch.no_grad():
        assert torch.equal(compiled(x), expected)
