"""Channels last on a CPU: it stays so through the layers, without a copy, and nobody who did not ask for it meets it."""

import pytest
import torch
from _layers import F32, F64, PAPER, exact_weights, grid, run
from torch import nn

import snntorch_bpsta as snn
from snntorch_bpsta.layers import memory_format, over_time

T, B = 5, 3
PICTURES = {"one channel": (1, 8, 8), "two channels": (2, 8, 8)}


@pytest.fixture
def usual_format(monkeypatch):
    """Convolutions take pictures as they come."""

    def switch():
        monkeypatch.setattr(over_time, "in_channels_last", lambda convolve, x: convolve(x))

    return switch


def lies(x):
    """The strides that decide anything."""
    return [step for step, size in zip(x.stride(), x.shape, strict=True) if size > 1]


def lies_channels_last(x):
    return x.stride(-3) == 1 and x.stride(-1) == x.shape[-3] and x.shape[-3] > 1


def seen(net, x):
    """Of each layer whether its output lies channels last, by name; forward hooks are left out where they forbid a rule."""
    found = {}
    handles = [
        layer.register_forward_hook(
            lambda module, args, out, name=name: found.__setitem__(name, lies_channels_last(out))
        )
        for name, layer in net.named_children()
    ]
    net(x)
    for handle in handles:
        handle.remove()
    return found


class Residual(nn.Module):
    time_major = True

    def forward(self, x):
        return x + x.relu()


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_channels_last_stays_through_the_layers(name, training):
    shape = PICTURES[name]
    net = snn.MultiStep(
        nn.Conv2d(shape[0], 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.1), nn.MaxPool2d(2),
        nn.Identity(), snn.NeuronDropout(0.1), nn.AvgPool2d(2), nn.Conv2d(4, 6, 1), nn.Dropout2d(0.1), nn.GELU(),
        nn.Upsample(scale_factor=2),
    ).train(training)  # fmt: skip
    x = torch.rand(T, B, *shape)
    first, *rest = seen(net, x).values()
    assert all(rest) and first == (shape[0] > 1), "of one channel the result is turned"
    assert net(x).is_contiguous()


@pytest.mark.parametrize("options", [{}, {"spatial_adj": True, "temporal_alpha": 0.8}], ids=["off", "on"])
def test_channels_last_stays_through_neurons(options):
    x = memory_format.channels_last(torch.rand(T * B, 4, 6, 6)).unflatten(0, (T, B))
    spk = snn.Leaky(**PAPER | options).sequence(x)[0]
    assert lies_channels_last(spk[0]) and memory_format.is_channels_last(spk)
    inside = []
    net = snn.MultiStep(
        nn.Conv2d(2, 4, 3), nn.ReLU(), snn.Leaky(**PAPER | options), nn.MaxPool2d(2), nn.Conv2d(4, 3, 1)
    )
    net[3].register_forward_pre_hook(lambda module, args: inside.append(lies_channels_last(args[0])))
    net[4].register_forward_pre_hook(lambda module, args: inside.append(lies_channels_last(args[0])))
    assert net(torch.rand(T, B, 2, 8, 8)).is_contiguous()
    assert inside == [True, True]


class Viewing(nn.Module):
    """A layer of one's own that takes contiguous pictures for granted."""

    def forward(self, x):
        return x.view(len(x), -1)


class ViewingAll(nn.Module):
    time_major = True

    def forward(self, x):
        return x.view(len(x), x.shape[1], -1)


LAST = {
    "own": lambda: [Viewing()],
    "own, whole": lambda: [ViewingAll()],
    "in a chain": lambda: [nn.Sequential(nn.ReLU(), Viewing())],
    "in another": lambda: [snn.MultiStep(nn.ReLU(), Viewing())],
    "list": lambda: [nn.ModuleList(Viewing() for _ in range(T))],
    "flatten": lambda: [nn.Flatten()],
    "unflatten": lambda: [nn.Unflatten(1, (2, 2)), nn.Flatten()],
    "norms": lambda: [nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.LocalResponseNorm(2), nn.LayerNorm((6, 6))],
    "shuffle": lambda: [nn.PixelShuffle(2), nn.PixelUnshuffle(2), nn.ChannelShuffle(2), nn.Softmax2d()],
    "pools": lambda: [nn.AdaptiveAvgPool2d(2), nn.LPPool2d(2, 1), nn.ZeroPad2d(1), nn.AdaptiveMaxPool2d(1)],
    "transposed": lambda: [nn.ConvTranspose2d(4, 2, 3), nn.Unfold(3)],
    "neuron": lambda: [snn.Leaky(**PAPER)],
    "states": lambda: [snn.Leaky(**PAPER, output=True)],
    "per neuron": lambda: [snn.Leaky(beta=torch.rand(4, 6, 6))],
    "encoded": lambda: [snn.DirectEncoding(4), snn.Synaptic(alpha=0.5, beta=0.9)],
}


@pytest.mark.parametrize("batch_first", [False, True], ids=["", "batch_first"])
@pytest.mark.parametrize("name", LAST)
def test_whatever_stands_behind_a_convolution(name, batch_first, usual_format):
    """The same numbers, lying as they would lie without."""
    torch.manual_seed(0)
    net = exact_weights(snn.MultiStep(nn.Conv2d(2, 4, 3), *LAST[name](), batch_first=batch_first))
    x = grid(*((B, T) if batch_first else (T, B)), 2, 8, 8)
    got = net(x)
    usual_format()
    expected = net(x)
    for a, b in zip(*((out if isinstance(out, tuple) else (out,)) for out in (got, expected)), strict=True):
        assert torch.allclose(a, b, atol=1e-5), name
        assert lies(a) == lies(b)


def test_gradients_are_the_same_and_lie_as_the_parameters(usual_format):
    net = exact_weights(
        snn.MultiStep(
            nn.Conv2d(2, 4, 3), nn.ReLU(), snn.Leaky(**PAPER, spatial_adj=True, temporal_alpha=0.8), nn.MaxPool2d(2),
            nn.Conv2d(4, 3, 2), snn.Leaky(**PAPER, spatial_adj=True), nn.Flatten(), nn.Linear(12, 5),
        )
    )  # fmt: skip
    x, parameters = grid(T, B, 2, 8, 8), list(net.named_parameters())
    out, got = run(net, x, parameters)
    usual_format()
    expected_out, expected = run(net, x, parameters)
    assert torch.equal(out, expected_out)
    for name, grad in expected.items():
        assert torch.allclose(got[name], grad, rtol=1e-4, atol=1e-5), name
        assert lies(got[name]) == lies(grad)


class Loop(nn.Module):
    """A loop over time, with a residual and a view."""

    def __init__(self):
        super().__init__()
        self.conv1, self.norm, self.conv2 = (
            nn.Conv2d(2, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.Conv2d(4, 4, 3, padding=1),
        )
        self.lif1, self.lif2, self.fc = snn.Leaky(**PAPER), snn.Leaky(**PAPER, init_hidden=True), nn.Linear(64, 5)
        self.pool, self.formats = nn.MaxPool2d(2), []

    def forward(self, x):
        mem, out, membranes = self.lif1.init_leaky(), [], []
        self.lif2.reset_mem()
        for x_t in x:
            cur = self.norm(self.conv1(x_t))
            spk, mem = self.lif1(cur, mem)
            spk = self.lif2(self.conv2(spk) + cur)
            out.append(self.fc(self.pool(spk).view(x.shape[1], -1)))
            membranes.append(mem)
        return torch.stack(out), torch.stack(membranes), mem


@pytest.mark.parametrize("turn", [1 << 10, 1 << 30], ids=["in turns", "at once"])
def test_a_folded_loop_hands_out_what_it_did(turn, usual_format, monkeypatch):
    monkeypatch.setattr(over_time, "TURN", turn)
    net = exact_weights(Loop()).eval()
    fast = snn.fold_time(net)
    x = grid(T, B, 2, 8, 8)
    expected = net(x)
    hidden = net.lif2.mem.clone()
    taken = []
    original = over_time.in_channels_last
    monkeypatch.setattr(over_time, "in_channels_last", lambda call, x: taken.append(x.shape) or original(call, x))
    for _ in range(3):
        got = fast(x)
    assert fast.report().reason is None and {"conv1", "conv2", "lif1", "lif2"} <= set(fast.report().grouped)
    assert taken, "the convolutions are called channels last"
    for a, b in zip(got, expected, strict=True):
        assert torch.allclose(a, b, atol=1e-5) and lies(a) == lies(b)
    assert torch.allclose(net.lif2.mem, hidden) and lies(net.lif2.mem) == lies(hidden)
    got[0].sum().backward()
    assert net.conv1.weight.grad.isfinite().all()


def test_left_alone():
    """Pictures that the user has turned himself, in float64, in a graph: as they are."""
    net = snn.MultiStep(nn.Conv2d(2, 4, 3))
    x = torch.rand(T, B, 2, 8, 8)
    turned = memory_format.channels_last(x.flatten(0, 1)).unflatten(0, (T, B))
    out = net(turned)
    assert lies_channels_last(out) and torch.allclose(out, net(x), atol=1e-6)
    assert not any(seen(net.double(), x.double()).values())
    assert not memory_format.is_free(x.double()) and memory_format.is_free(x) and memory_format.is_free(x.bfloat16())
    assert not memory_format.is_free(torch.rand(2, 2, device="meta"))
    layer = nn.Conv2d(2, 4, 3)
    each = torch.vmap(lambda x: snn.MultiStep(layer)(x))(torch.rand(2, T, B, 2, 8, 8))
    assert each.shape == (2, T, B, 4, 6, 6)


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("shape", [(0, 2, 4, 4), (3, 1, 4, 4), (1, 1, 1, 1), (3, 2, 1, 1), (2, 3, 4, 5)], ids=str)
def test_the_format_of_a_tensor(shape, dtype):
    x = torch.rand(shape, dtype=dtype)
    turned = memory_format.channels_last(x)
    assert torch.equal(turned, x) and torch.equal(memory_format.usual(turned), x)
    assert turned.is_contiguous(memory_format=torch.channels_last)
    assert memory_format.usual(turned).is_contiguous()
    assert not memory_format.is_channels_last(x) and memory_format.usual(x) is x
