"""Pooling behind a neuron in a loop over time: the neuron does it, where nobody else takes its spikes; and batch norm behind
a convolution, which goes into its weights in eval mode."""

from collections import Counter

import pytest
import snntorch
import torch
from _engine import counting
from _folding import assert_alike, assert_same
from _loops import B, T
from torch import nn
from torch.nn import functional as F

import snntorch_bpsta as snn
from snntorch_bpsta.functional import pool as pools

NEURONS = {
    "snntorch": lambda: snntorch.Leaky(beta=0.9, threshold=0.3),
    "hidden": lambda: snntorch.Leaky(beta=0.9, threshold=0.3, init_hidden=True),
    "bpsta": lambda: snn.Leaky(beta=0.9, threshold=0.3, spatial_adj=True),
    "synaptic": lambda: snntorch.Synaptic(alpha=0.5, beta=0.9, threshold=0.3, reset_mechanism="zero"),
    "recurrent": lambda: snntorch.RLeaky(beta=0.9, threshold=0.3, all_to_all=False),
    "adaptive": lambda: snn.AdaptiveLeaky(beta=0.9, threshold=0.3),
}
# How spikes are pooled -> whether the neuron can do it.
POOLS = {
    "max": (nn.MaxPool2d(2), True),
    "max, odd": (nn.MaxPool2d((3, 2)), True),
    "average": (nn.AvgPool2d(2), True),
    "function": (lambda x: F.max_pool2d(x, 2), True),
    "torch": (lambda x: torch.max_pool2d(x, [2], ceil_mode=False), True),
    "average, function": (lambda x: F.avg_pool2d(x, kernel_size=2), True),
    "overlapping": (nn.MaxPool2d(3, 2), False),
    "padded": (nn.MaxPool2d(2, padding=1), False),
    "ceil": (nn.AvgPool2d(2, ceil_mode=True), False),
    "divisor": (lambda x: F.avg_pool2d(x, 2, divisor_override=3), False),
    "adaptive": (nn.AdaptiveMaxPool2d(3), False),
}


class Net(nn.Module):
    def __init__(self, make, pool, also=""):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 3, 2)
        self.lif1, self.lif2 = make(), snntorch.Leaky(beta=0.8)
        self.pool, self.also = pool, also

    def forward(self, x):
        state, mem = [], self.lif2.init_leaky()
        if not getattr(self.lif1, "init_hidden", False):
            first = self.lif1.reset_mem()
            state = list(first) if isinstance(first, tuple) else [first]
        rows = []
        for t, x_t in enumerate(x):
            spk, *state = out if isinstance(out := self.lif1(self.conv1(x_t), *state), tuple) else (out,)
            state = [spk, *state] if isinstance(self.lif1, snntorch.RLeaky) else state
            maps = self.pool(spk)
            cur = self.conv2(maps)
            if self.also == "spikes":
                cur = cur + spk.mean()
            out, mem = self.lif2(cur, mem)
            rows.append(out if self.also != "pooled" else torch.cat((out.flatten(1), maps.flatten(1)), 1))
            if self.also == "last" and t == len(x) - 1:
                return torch.stack(rows), spk
        return torch.stack(rows)


def _nets(make, pool, also=""):
    pair = []
    for fold in (False, True):
        torch.manual_seed(0)
        net = Net(make, pool, also)
        pair.append((snn.fold_time(net) if fold else net, nn.ModuleList([net])))
    return pair


def _given(fast):
    return [unit.pool for unit in fast[0]._last.runner.plan.units if unit.first.kind == "neuron"]


def inputs():
    return (torch.rand(T, B, 1, 11, 10) * 2,)


@pytest.mark.parametrize("pool", POOLS)
def test_the_neuron_pools_what_it_can(pool):
    layer, taken = POOLS[pool]
    loop, fast = _nets(NEURONS["snntorch"], layer)
    assert_alike(loop, fast, inputs)
    assert fast[0].report().reason is None, fast[0].report()
    assert [each is not None for each in _given(fast)] == [taken, False]


@pytest.mark.parametrize("name", NEURONS)
def test_every_neuron(name):
    loop, fast = _nets(NEURONS[name], nn.MaxPool2d(2))
    assert_alike(loop, fast, inputs)
    assert fast[0].report().reason is None or name == "adaptive", fast[0].report()
    if name not in ("adaptive", "recurrent"):  # one is unknown to folds, the other needs its spikes for itself
        assert _given(fast)[0] is not None


@pytest.mark.parametrize(("also", "taken"), [("spikes", False), ("last", False), ("pooled", True)])
def test_spikes_that_somebody_else_takes_stay(also, taken):
    loop, fast = _nets(NEURONS["snntorch"], nn.MaxPool2d(2), also)
    assert_alike(loop, fast, inputs)
    assert (_given(fast)[0] is not None) is taken


@pytest.mark.parametrize("turn", [1, 3000])
def test_in_turns(turn, monkeypatch):
    from snntorch_bpsta.layers import over_time

    monkeypatch.setattr(over_time, "TURN", turn)
    loop, fast = _nets(NEURONS["bpsta"], nn.MaxPool2d(2))
    assert_alike(loop, fast, inputs)
    assert _given(fast)[0] is not None


def test_full_spikes_are_nowhere(monkeypatch):
    """PyTorch's pooling is not called, once a pass is folded."""
    _, fast = _nets(NEURONS["snntorch"], nn.MaxPool2d(2))
    x = inputs()[0]
    for _ in range(3):
        expected = fast[0](x)
    calls = []
    monkeypatch.setattr(torch, "max_pool2d", lambda *args, **kwargs: calls.append(args))
    monkeypatch.setattr(pools.nn.functional, "max_pool2d", lambda *args, **kwargs: calls.append(args))
    assert torch.equal(fast[0](x), expected)
    assert not calls


def test_a_wrong_pooling_is_found(monkeypatch):
    """The first call compares what the neuron pools with what PyTorch pooled."""
    from snntorch_bpsta.folding import neurons

    right = neurons.sequence

    def wrong(*args):
        rows, last = right(*args)
        return (rows | {"spk": 1 - rows["spk"]} if args[-1] is not None else rows), last

    monkeypatch.setattr(neurons, "sequence", wrong)
    loop, fast = _nets(NEURONS["snntorch"], nn.MaxPool2d(2))
    x = inputs()[0]
    with pytest.warns(UserWarning, match="lif1 gave other numbers"):
        for _ in range(4):
            assert torch.equal(fast[0](x), loop[0](x))
    assert "lif1" in fast[0].report().stepped


class Normed(nn.Module):
    def __init__(self, bias=True, also=False, dtype=torch.float32, **norm):
        super().__init__()
        self.conv1, self.norm1, self.lif1 = (
            nn.Conv2d(2, 4, 3, bias=bias),
            nn.BatchNorm2d(4, **norm),
            snntorch.Leaky(0.9),
        )
        self.conv2, self.norm2, self.lif2 = (
            nn.Conv2d(4, 3, 3, bias=bias),
            nn.BatchNorm2d(3, **norm),
            snntorch.Leaky(0.8),
        )
        self.also = also
        with torch.no_grad():
            for layer in (self.norm1, self.norm2):
                for tensor in (*layer.parameters(), layer.running_mean, layer.running_var):
                    if tensor is not None:
                        tensor.copy_(torch.rand_like(tensor) + 0.5)
        self.to(dtype)

    def forward(self, x):
        mem1, mem2, rows = self.lif1.init_leaky(), self.lif2.init_leaky(), []
        for x_t in x:
            cur = self.conv1(x_t)
            spk, mem1 = self.lif1(self.norm1(cur), mem1)
            out, mem2 = self.lif2(self.norm2(self.conv2(spk)), mem2)
            rows.append(mem2 + cur.mean() if self.also else mem2)
        return torch.stack(rows)


@pytest.fixture
def norms(monkeypatch):
    """How often a batch norm runs by itself."""
    counts = Counter()
    monkeypatch.setattr(torch, "batch_norm", counting(torch.batch_norm, counts, "norm"))
    return counts


@pytest.mark.parametrize(
    ("options", "inside"),
    [({}, 2), ({"bias": False}, 2), ({"affine": False}, 2), ({"also": True}, 1), ({"track_running_stats": False}, 0)],
    ids=lambda value: "-".join(value) or "plain" if isinstance(value, dict) else None,
)
def test_batch_norm_goes_into_the_convolution(options, inside, norms):
    torch.manual_seed(0)
    net = Normed(**options).eval()
    if options.get("track_running_stats") is False:
        net.norm1.running_mean = net.norm1.running_var = net.norm2.running_mean = net.norm2.running_var = None
    fast, x = snn.fold_time(net), torch.rand(T, B, 2, 9, 8)
    with torch.no_grad():
        for _ in range(3):
            fast(x)
        assert fast.report().reason is None and fast._last.replayed
        expected = net(x)
        norms.clear()
        assert_same(fast(x), expected, "outputs")
        assert norms["norm"] == (T * 2 if inside == 0 else 2 - inside)
        if net.norm1.running_var is not None:
            net.norm1.running_var.mul_(3)
            net.conv2.weight.data.mul_(-0.7)
            expected = net(x)
            assert_same(fast(x), expected, "other weights and statistics")


def test_batch_norm_stays_where_gradients_are_asked_for_or_statistics_are_taken(norms):
    torch.manual_seed(0)
    for train in (False, True):
        net = Normed().train(train)
        fast, x = snn.fold_time(net), torch.rand(T, B, 2, 9, 8)
        for _ in range(3):
            norms.clear()
            out = fast(x)
        assert norms["norm"] >= 2 and out.requires_grad
        out.sum().backward()
        assert net.norm1.weight.grad.abs().sum() > 0
