"""Layers that skip zeros: PyTorch's own to rounding, with float64 as the judge; and left to PyTorch where they cannot or do
not pay."""

import copy

import pytest
import snntorch
import torch
from torch import nn

import snntorch_bpsta as snn
from snntorch_bpsta.functional import costs, lists, skipping
from snntorch_bpsta.functional.costs import block_of
from snntorch_bpsta.functional.skipping import of_layer

# images [N, C, H, W], output channels, kernel, padding
CONVOLUTIONS = {
    "3x3": ((3, 32, 9, 11), 32, 3, 1),
    "no-padding": ((2, 32, 9, 11), 64, 3, 0),
    "padding-2": ((2, 8, 5, 6), 16, 3, 2),
    "few-channels": ((4, 2, 12, 7), 16, 3, 1),
    "odd-channels": ((2, 45, 6, 7), 23, 3, 1),
    "one-output": ((2, 33, 6, 7), 1, 3, 1),
    "one-row": ((3, 16, 1, 20), 16, 3, 1),
    "one-pixel": ((5, 40, 1, 1), 32, 3, 1),
    "5x5": ((2, 20, 9, 8), 32, 5, 2),
    "5x5-no-padding": ((2, 12, 14, 14), 64, 5, 0),
    "5x5-odd": ((1, 17, 7, 7), 5, 5, 4),
    "1x1": ((3, 130, 5, 4), 48, 1, 0),
    "bands": ((1, 8, 70, 34), 32, 3, 1),
    "one-image": ((1, 64, 8, 8), 32, 3, 1),
    "many-images": ((19, 16, 5, 5), 16, 3, 1),
}
LINEAR = {
    "rows": (64, 200, 100),
    "prime": (67, 33, 10),
    "one": (1, 20, 5),
    "wide": (24, 700, 300),
    "outputs": (40, 64, 1000),
}
RATES = (0.02, 0.1, 0.35)


@pytest.fixture(autouse=True)
def always(monkeypatch):
    """Whatever the size is."""
    monkeypatch.setattr(costs, "_LEAST", 0)
    monkeypatch.setattr(costs, "pays", lambda *arguments: True)


def spikes(*shape, rate=0.1, seed=0):
    x = (torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < rate).float()
    return x.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else x


def layer_of(case, bias=True):
    torch.manual_seed(1)
    if case in LINEAR:
        _, features, outputs = LINEAR[case]
        return nn.Linear(features, outputs, bias=bias)
    shape, outputs, kernel, padding = CONVOLUTIONS[case]
    return nn.Conv2d(shape[1], outputs, kernel, padding=padding, bias=bias)


def input_of(case, **options):
    return spikes(*(LINEAR[case][:2] if case in LINEAR else CONVOLUTIONS[case][0]), **options)


def conv2d(x, layer, at_spikes=False):
    return of_layer(layer, x, at_spikes)


linear = conv2d


def passes(run, x, layer, weights=None):
    """Output and gradients; those of the output are the same for all."""
    layer.zero_grad()
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    out = run(x)
    g = torch.randn(out.shape, generator=torch.Generator().manual_seed(2)).to(out.dtype)
    (out * g).sum().backward()
    return {"out": out.detach(), "dx": x.grad, **{name: p.grad.clone() for name, p in layer.named_parameters()}}


def skipped(x, layer, at_spikes):
    def run(x):
        out, how = of_layer(layer, x, at_spikes)
        assert out is not None, how
        assert how.startswith("skips zeros at rate") and ("at spikes" in how) == at_spikes
        return out

    return passes(run, x, layer)


def judge(case, found, x, layer, at_spikes):
    twin = copy.deepcopy(layer).double()
    exact, single = passes(twin, x.double(), twin), passes(layer, x, layer)
    if at_spikes:
        exact["dx"], single["dx"] = (grads["dx"] * (x != 0) for grads in (exact, single))
        assert not found["dx"][x == 0].any()
    for name, value in exact.items():
        scale = max(value.abs().max().item(), 1e-3)
        error, theirs = ((other[name] - value).abs().max().item() / scale for other in (found, single))
        assert found[name].shape == value.shape and error <= max(2 * theirs, 1e-6), (name, error, theirs)


@pytest.mark.parametrize("at_spikes", [True, False], ids=["at-spikes", "dense"])
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("case", [*CONVOLUTIONS, *LINEAR])
def test_outputs_and_gradients(case, rate, at_spikes):
    x, layer = input_of(case, rate=rate), layer_of(case)
    judge(case, skipped(x, layer, at_spikes), x, layer, at_spikes)


@pytest.mark.parametrize("case", ["3x3", "5x5-odd", "odd-channels", "padding-2", "rows"])
def test_a_gradient_with_zeros_is_skipped_over_too(case):
    """Behind a max pooling, say, whose gradient is zero in three of four places; a zero may have a sign."""
    layer = layer_of(case)
    x = input_of(case).requires_grad_()
    out, _ = of_layer(layer, x, False)
    g = torch.randn_like(out) * (torch.rand_like(out) < 0.25)
    assert (torch.signbit(g) & (g == 0)).any()
    out.backward(g)
    twin, y = copy.deepcopy(layer).double(), x.detach().double().requires_grad_()
    twin(y).backward(g.double())
    torch.testing.assert_close(x.grad.double(), y.grad, rtol=1e-5, atol=1e-5)


def test_which_gradient_is_made_of_a_list(monkeypatch):
    """That of many zeros alone, and by its own count, not that of the input."""
    monkeypatch.undo()
    made, lists_of = [], lists._lists
    monkeypatch.setattr(lists, "_lists", lambda *arguments: made.append(arguments[-1]) or lists_of(*arguments))
    layer = nn.Conv2d(64, 64, 3, padding=1)
    for density, expected in ((0.1, [False, True]), (1, [False])):
        made.clear()
        x = spikes(16, 64, 14, 14, rate=0.05).requires_grad_()
        out, _ = of_layer(layer, x, False)
        out.backward(torch.rand_like(out) * (torch.rand_like(out) <= density))
        assert made == expected


@pytest.mark.parametrize("case", ["3x3", "odd-channels", "1x1", "rows"])
def test_narrow_vectors(case, monkeypatch):
    """Those of AVX2, which all processors with AVX-512 have too."""
    monkeypatch.setattr(costs, "lanes", lambda: 8)
    x, layer = input_of(case), layer_of(case)
    judge(case, skipped(x, layer, True), x, layer, True)
    assert block_of(3, 32, 8).outputs == 8 and block_of(5, 32, 8) is None


def test_no_vectors(monkeypatch):
    monkeypatch.setattr(costs, "lanes", lambda: 0)
    out, how = conv2d(input_of("3x3"), layer_of("3x3"))
    assert out is None and "no vectors" in how


@pytest.mark.parametrize("content", ["zeros", "ones", "first", "last"])
@pytest.mark.parametrize("case", ["3x3", "5x5-odd", "few-channels", "bands", "rows"])
def test_extremes(case, content):
    x, layer = input_of(case), layer_of(case, bias=False)
    x.fill_(content == "ones")
    if content in ("first", "last"):
        x[(0,) * x.dim() if content == "first" else (-1,) * x.dim()] = 1
    judge(case, skipped(x, layer, True), x, layer, True)


@pytest.mark.parametrize("seed", range(40))
def test_any_size(seed):
    draw = torch.Generator().manual_seed(seed)

    def number(low, high):
        return int(torch.randint(low, high + 1, (), generator=draw))

    kernel = (1, 3, 5)[number(0, 2)]
    padding = number(0, kernel - 1)
    low = max(1, kernel - 2 * padding)
    x = spikes(
        number(1, 5), number(1, 70), number(low, low + 9), number(low, low + 9), rate=number(0, 10) / 10, seed=seed
    )
    torch.manual_seed(seed)
    layer = nn.Conv2d(x.shape[1], number(1, 70), kernel, padding=padding, bias=bool(seed % 2))
    judge("any", skipped(x, layer, seed % 3 == 0), x, layer, seed % 3 == 0)


@pytest.mark.parametrize("kind", ["nchw", "slice", "permuted", "expanded"])
def test_any_memory(kind):
    layer, whole = layer_of("3x3"), spikes(6, 32, 9, 11)
    x = {
        "nchw": lambda: whole.contiguous(),
        "slice": lambda: whole[::2, :, :, :],
        "permuted": lambda: spikes(6, 11, 9, 32).permute(0, 3, 2, 1),
        "expanded": lambda: whole[:1].expand(4, -1, -1, -1),
    }[kind]()
    judge(kind, skipped(x, layer, True), x, layer, True)


def test_what_comes_back_lies_as_channels_last():
    for case in ("3x3", "odd-channels"):
        found = skipped(input_of(case), layer_of(case), True)
        assert found["out"].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("case", ["many-images", "bands", "rows"])
def test_the_number_of_threads_does_not_matter(case):
    before, seen = torch.get_num_threads(), []
    x, layer = input_of(case), layer_of(case)
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            seen.append(skipped(x, layer, True))
    finally:
        torch.set_num_threads(before)
    for other in seen[1:]:
        assert all(torch.equal(value, other[name]) for name, value in seen[0].items() if name != "bias")


def test_the_order_of_the_threads_does_not_matter(monkeypatch):
    """Not even where the last images come first."""
    from snntorch_bpsta.functional.kernels import cpu

    x, layer = input_of("many-images", rate=0.3), layer_of("many-images")
    expected = skipped(x, layer, True)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(cpu, "spread", lambda kernel, calls: [kernel(*call) for call in reversed(calls)])
    found = skipped(x, layer, True)
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def test_no_images():
    layer = layer_of("3x3")
    for x in (torch.zeros(0, 32, 9, 11), torch.zeros(2, 32, 9, 11)[:, :, :0]):
        out, how = conv2d(x, layer)
        assert out is None and how


# --- left to PyTorch -----------------------------------------------------------------------------------

OTHER_NUMBERS = {
    "two": 2.0,
    "half": 0.5,
    "minus-one": -1.0,
    "minus-zero": -0.0,
    "nan": float("nan"),
    "inf": float("inf"),
}


@pytest.mark.parametrize("value", OTHER_NUMBERS)
def test_only_zeros_and_ones(value):
    x = input_of("many-images")
    x[-1, 3, 2, 1] = OTHER_NUMBERS[value]
    assert conv2d(x, layer_of("many-images")) == (None, "not only zeros and ones")


OTHER_LAYERS = {
    "stride": dict(stride=2), "dilation": dict(dilation=2), "groups": dict(groups=2),
    "reflect": dict(padding_mode="reflect"),
    "same": dict(padding="same"), "rectangle": dict(kernel_size=(3, 1)), "unequal": dict(padding=(1, 0)),
    "much-padding": dict(padding=3),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_LAYERS)
def test_other_convolutions(name):
    layer = nn.Conv2d(32, 32, **{"kernel_size": 3, "padding": 1, **OTHER_LAYERS[name]})
    out, how = conv2d(spikes(2, 32, 8, 8), layer)
    assert out is None and ("square kernels" in how or name == "reflect")


def test_even_kernels():
    layer = nn.Conv2d(32, 32, 2)
    x = spikes(2, 32, 8, 8)
    judge("even", skipped(x, layer, True), x, layer, True)
    assert conv2d(x, nn.Conv2d(32, 32, 7))[0] is None, "more taps than registers"


def test_other_types():
    x, layer = input_of("3x3"), layer_of("3x3")
    assert conv2d(x.double(), layer)[0] is None and conv2d(x, copy.deepcopy(layer).double())[0] is None
    assert conv2d(x.bfloat16(), layer)[0] is None and conv2d(x.to("meta"), layer)[0] is None
    assert conv2d(x[0], layer)[0] is None and linear(x, layer_of("rows"))[0] is None
    with torch.autocast("cpu", torch.bfloat16):
        assert conv2d(x, layer)[0] is None
    with torch.device("meta"):
        assert conv2d(x, layer)[0] is not None

    class Own(torch.Tensor):
        pass

    assert conv2d(x.as_subclass(Own), layer)[0] is None
    seen = []
    torch.vmap(lambda x: seen.append(conv2d(x, layer)[0]) or x)(x[None])
    assert seen == [None]


def test_forward_mode():
    x, layer = input_of("3x3"), layer_of("3x3")
    tangent = torch.rand_like(x)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, tangent)
        assert conv2d(dual, layer) == (None, "not in a graph")
    assert conv2d(x, layer)[0] is not None


def test_the_switch():
    x, layer = input_of("3x3"), layer_of("3x3")
    try:
        snn.skip_zeros(False)
        assert conv2d(x, layer) == (None, "skip_zeros(False)")
    finally:
        snn.skip_zeros()
    assert conv2d(x, layer)[0] is not None
    with pytest.raises(TypeError, match="on must be"):
        snn.skip_zeros("no")


def test_a_second_derivative():
    x, layer = input_of("3x3").requires_grad_(), layer_of("3x3")
    out, _ = conv2d(x, layer, True)
    with pytest.raises(NotImplementedError, match=r"skip_zeros\(False\)"):
        torch.autograd.grad(out.sum(), x, create_graph=True)


def test_a_weight_that_was_changed_in_place():
    x, layer = input_of("3x3"), layer_of("3x3")
    out, _ = conv2d(x, layer)
    with torch.no_grad():
        layer.weight.mul_(2)
    with pytest.raises(RuntimeError, match="inplace operation"):
        out.sum().backward()


def test_only_what_is_wanted():
    x, layer = input_of("3x3"), layer_of("3x3").requires_grad_(False)
    assert not conv2d(x, layer)[0].requires_grad
    x.requires_grad_()
    conv2d(x, layer, True)[0].sum().backward()
    assert layer.weight.grad is None and x.grad.count_nonzero() > 0
    layer.weight.requires_grad_(True)
    conv2d(x.detach(), layer, True)[0].sum().backward()
    assert layer.weight.grad.count_nonzero() > 0 and layer.bias.grad is None


def test_the_spikes_are_not_kept():
    from torch.multiprocessing.reductions import StorageWeakRef

    layer = nn.Conv2d(64, 64, 3, padding=1)
    x = spikes(8, 64, 16, 16, rate=0.05)
    size, ref = x.nbytes, StorageWeakRef(x.untyped_storage())
    held = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: held.append(t) or t, lambda t: t):
        out, _ = conv2d(x, layer)
    held = sum(t.nbytes for t in held if t is not layer.weight)
    del x
    assert ref.expired() and held < size / 8
    out.sum().backward()


# --- which of the two -----------------------------------------------------------------------------------


@pytest.fixture
def by_cost(monkeypatch):
    monkeypatch.undo()


def test_the_rule(by_cost):
    layer = nn.Conv2d(128, 128, 3, padding=1)
    ways = [conv2d(spikes(4, 128, 28, 28, rate=rate), layer)[1] for rate in (0.02, 0.1, 0.9)]
    assert [how.split()[0] for how in ways] == ["skips", "skips", "rate"]
    assert "0.9" in ways[-1]
    assert conv2d(spikes(4, 8, 8, 8), nn.Conv2d(8, 8, 3))[1] == "too small"
    assert linear(spikes(2560, 784), nn.Linear(784, 1000))[0] is not None
    assert linear(spikes(256, 1000), nn.Linear(1000, 10))[0] is None
    assert conv2d(spikes(1, 32, 1, 2049), nn.Conv2d(32, 64, 3, padding=1))[1] == "too wide"


@pytest.mark.parametrize("what", ["forward", "weights", "spikes"])
def test_more_spikes_never_pay_where_fewer_do_not(what, by_cost):
    size = costs.Layer(16, 64, 14, 14, 64, 3, 1)
    block = block_of(3, 64, 16)
    chosen = [costs.pays(size, block, spikes, what) for spikes in range(0, 16 * 64 * 14 * 14, 1000)]
    assert chosen[0] and not chosen[-1] and chosen == sorted(chosen, reverse=True)


# --- in a network ---------------------------------------------------------------------------------------


def exact(layer):
    """Weights whose sums are exact in any order."""
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_((p * 64).round() / 64)
    return layer


def network(last=True, **options):
    torch.manual_seed(3)
    lif = dict(beta=0.5, threshold=0.25, reset_mechanism="zero") | options
    return snn.MultiStep(
        exact(nn.Conv2d(2, 16, 3, padding=1)), snn.Leaky(**lif), nn.MaxPool2d(2), exact(nn.Conv2d(16, 32, 3)),
        snn.Leaky(**lif), nn.Identity(), nn.Flatten(), exact(nn.Linear(32 * 9, 20)), *([snn.Leaky(**lif)] if last else []),
    )  # fmt: skip


FRAMES = (torch.rand(4, 3, 2, 10, 10, generator=torch.Generator().manual_seed(4)) < 0.2).float()


def gradients(net, on):
    snn.skip_zeros(on)
    try:
        net.zero_grad()
        x = FRAMES.clone().requires_grad_()
        out = net(x)
        (out * torch.arange(20.0)).sum().backward()
        return out.detach(), [x.grad, *(p.grad.clone() for p in net.parameters())]
    finally:
        snn.skip_zeros()


OPTIONS = {
    "bpsa": dict(spatial_adj=True), "both": dict(spatial_adj=True, temporal_alpha=0.8), "off": {},
    "subtract": dict(spatial_adj=True, reset_mechanism="subtract"), "bpta": dict(temporal_alpha=0.5),
    "leak": dict(spatial_adj=snn.surrogate.spatial_adjustment(leak=0.1)),
    "no leak": dict(spatial_adj=snn.surrogate.spatial_adjustment(leak=0.0)),
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_a_network_has_the_same_gradients(name):
    net = network(**OPTIONS[name])
    expected, found = (gradients(net, on) for on in (False, True))
    assert torch.equal(found[0], expected[0]) and 0 < found[0].mean() < 1
    for a, b in zip(found[1], expected[1], strict=True):
        assert b.abs().max() > 0 and torch.allclose(a, b, rtol=1e-4, atol=1e-5 * b.abs().max().item())
    alone = "spatial_adj" in OPTIONS[name] and name != "leak"  # the derivative is 0 wherever no spike is
    told = snn.which(net, FRAMES)
    assert [*told] == ["0", "1", "3", "4", "7", "8"] and told["0"].startswith("skips zeros at rate 0.18")
    assert "0" not in snn.which(net, FRAMES * 0.5)  # frames of numbers
    for place in ("3", "7"):
        assert told[place].startswith("skips zeros at rate 0.")
        assert told[place].endswith(", its input's gradient at spikes") == alone


def test_an_input_of_spikes_is_skipped_and_one_that_is_none_costs_a_look_at_one_image(monkeypatch):
    layer = snn.MultiStep(nn.Linear(784, 64))
    spikes = (torch.rand(5, 16, 784) < 0.1).float()
    expected = nn.functional.linear(spikes, layer[0].weight, layer[0].bias)
    assert torch.allclose(layer(spikes), expected, atol=1e-5)
    assert snn.which(layer, spikes)["0"].startswith("skips zeros at rate 0.1")
    looked, count = [], skipping.count
    monkeypatch.setattr(skipping, "count", lambda x: looked.append(len(x)) or count(x))
    currents = torch.rand(5, 16, 784)
    assert torch.equal(layer(currents), nn.functional.linear(currents, layer[0].weight, layer[0].bias))
    assert looked == [1]
    late = spikes.clone()
    late[-1, -1, -1] = 2
    assert torch.equal(layer(late), nn.functional.linear(late, layer[0].weight, layer[0].bias))
    assert snn.which(layer, late) == {}


def ways(net, **options):
    told = snn.which(net, FRAMES, **options)
    return [told.get(place, "") for place in ("3", "7")]


def test_the_gradient_is_asked_for_everywhere_by_other_neurons_and_by_who_looks():
    net = network(spatial_adj=True)
    assert all("at spikes" in how for how in ways(net))
    snn.networks.set_warm_up(net, "surrogate")
    assert all("skips" in how and "at spikes" not in how for how in ways(net))
    snn.networks.set_warm_up(net, None)
    handle = net[1].register_full_backward_hook(lambda *arguments: None)
    first, second = ways(net)
    assert "at spikes" not in first and "at spikes" in second
    handle.remove()


def test_layers_that_are_looked_at_are_pytorchs():
    net = network(spatial_adj=True)
    handle = net[3].register_forward_hook(lambda *arguments: None)
    first, second = ways(net)
    assert first == "" and "skips" in second
    handle.remove()
    with snn.energy.count_operations(net) as operations:
        assert ways(net) == ["", ""]
    assert operations["3"]["ac"] > 0
    net.fold = False
    assert ways(net) == ["", ""]
    net.fold = True
    net[3] = nn.utils.parametrizations.weight_norm(net[3])
    first, second = ways(net)
    assert "skips" not in first and "skips" in second


def test_a_network_is_trained_on_as_before():
    """Three steps, a copy and a state_dict."""
    nets = [network(spatial_adj=True) for _ in range(2)]
    for net, on in zip(nets, (False, True), strict=True):
        optimizer = torch.optim.SGD(net.parameters(), 2**-8)
        for _ in range(3):
            gradients(net, on)
            optimizer.step()
    for a, b in zip(*(net.parameters() for net in nets), strict=True):
        assert torch.allclose(a, b, atol=1e-4)
    assert torch.equal(gradients(copy.deepcopy(nets[1]), True)[0], gradients(nets[1], True)[0])


class Loop(nn.Module):
    """The same network, as a loop over time."""

    def __init__(self, neuron=snn.Leaky, **options):
        super().__init__()
        torch.manual_seed(3)
        lif = dict(beta=0.5, threshold=0.25, reset_mechanism="zero") | options
        self.conv1, self.lif1 = exact(nn.Conv2d(2, 16, 3, padding=1)), neuron(**lif)
        self.conv2, self.lif2 = exact(nn.Conv2d(16, 32, 3)), neuron(**lif)
        self.pool, self.fc, self.lif3 = nn.MaxPool2d(2), exact(nn.Linear(32 * 9, 20)), neuron(**lif)

    def forward(self, x):
        mem1, mem2, mem3 = self.lif1.init_leaky(), self.lif2.init_leaky(), self.lif3.init_leaky()
        rows = []
        for x_t in x:
            spk1, mem1 = self.lif1(self.conv1(x_t), mem1)
            spk2, mem2 = self.lif2(self.conv2(self.pool(spk1)), mem2)
            spk3, mem3 = self.lif3(self.fc(spk2.view(len(x_t), -1)), mem3)
            rows.append(spk3)
        return torch.stack(rows)


LOOPS = {"bpsa": (snn.Leaky, dict(spatial_adj=True)), "off": (snn.Leaky, {}), "snntorch": (snntorch.Leaky, {})}


@pytest.mark.parametrize("name", LOOPS)
def test_a_folded_loop_has_the_same_gradients(name):
    neuron, options = LOOPS[name]
    net = Loop(neuron, **options)
    fast = snn.fold_time(net)
    for _ in range(2):  # which are written down
        fast(FRAMES)
    (out, grads), (folded, found) = gradients(net, False), gradients(fast, True)
    assert torch.equal(folded, out) and 0 < out.mean() < 1
    for a, b in zip(found, grads, strict=True):
        assert b.abs().max() > 0 and torch.allclose(a, b, rtol=1e-4, atol=1e-5 * b.abs().max().item())
    told = {place.removeprefix("net."): how for place, how in snn.which(fast, FRAMES).items()}
    for place in ("conv2", "fc"):
        assert told[place].startswith("skips zeros") and ("at spikes" in told[place]) == (name == "bpsa"), told
    assert told["conv1"].startswith("skips zeros at rate 0.18") and "at spikes" not in told["conv1"]
    assert "net.conv1" not in snn.which(fast, FRAMES * 0.5)


class Soft(snn.Leaky):
    """Fires by a rule of its own, whose derivative is not Eq. 9."""

    def fire(self, mem):
        return snn.surrogate.rectangle()(mem - self.threshold)


class Silent(snn.Leaky):
    """Hands out those who did not fire."""

    def forward(self, input_, mem=None):
        spk, mem = super().forward(input_, mem)
        return 1 - spk, mem


class Own(snntorch.Leaky):
    """A neuron of snnTorch that takes all steps in its own way."""

    def sequence(self, input_):
        mem, rows = self.init_leaky(), []
        for cur in input_:
            spk, mem = self(cur, mem)
            rows.append(spk)
        return torch.stack(rows), mem


@pytest.mark.filterwarnings("ignore:.*runs as a loop over time")
@pytest.mark.parametrize("kind", [Soft, Silent, Own])
@pytest.mark.parametrize("fold", [False, True])
def test_neurons_of_ones_own_get_the_whole_gradient(kind, fold):
    options = {} if kind is Own else dict(spatial_adj=True)
    if fold:
        plain = Loop(kind, **options)
        net = snn.fold_time(plain)
        for _ in range(2):
            net(FRAMES)
    else:
        net = plain = network(**options)
        lif = dict(beta=0.5, threshold=0.25, reset_mechanism="zero") | options
        net[1], net[4], net[8] = kind(**lif), kind(**lif), kind(**lif)
    (out, grads), (other, found) = gradients(plain, False), gradients(net, True)
    assert torch.equal(out, other) and out.any()
    for a, b in zip(found, grads, strict=True):
        assert b.abs().max() > 0 and torch.allclose(a, b, rtol=1e-4, atol=1e-5 * b.abs().max().item())
    assert not any("at spikes" in how for how in snn.which(net, FRAMES).values())


def test_a_hook_that_puts_other_spikes_in_place():
    net = network(spatial_adj=True)
    net[1].register_forward_hook(lambda module, args, out: tuple(1 - x if i == 0 else x for i, x in enumerate(out)))
    (out, grads), (other, found) = gradients(net, False), gradients(net, True)
    assert torch.equal(out, other)
    assert all(
        torch.allclose(a, b, rtol=1e-4, atol=1e-5 * b.abs().max().item()) for a, b in zip(found, grads, strict=True)
    )
    first, second = ways(net)
    assert "skips" in first and "at spikes" not in first and "at spikes" in second
