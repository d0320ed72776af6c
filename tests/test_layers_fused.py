"""What a layer in front of a neuron leaves to the kernels: a ReLU, an encoding, its memory."""

from collections import Counter

import pytest
import torch
from _engine import F32, LAYOUTS, PAPER, counting, currents, kept, weights
from _tolerance import assert_close
from torch import nn

import snntorch_bpsta as snn
from snntorch_bpsta.functional import lif_multistep


def train_step(net, x):
    """Output and gradients of the input and every parameter."""
    net.zero_grad()
    x = x.clone().requires_grad_()
    out = net(x)
    (out * weights(*out.shape).to(out)).sum().backward()
    return {"out": out.detach(), "input": x.grad} | {name: p.grad for name, p in net.named_parameters()}


NETS = {
    "linear": lambda **k: [nn.Linear(6, 9), nn.ReLU(), snn.Leaky(beta=0.9, **PAPER | k)],
    "encoded": lambda **k: [
        nn.Linear(6, 9), nn.ReLU(), snn.layers.DirectEncoding(5), snn.Leaky(beta=0.9, **PAPER | k),
    ],
    "encoded first": lambda **k: [
        nn.Linear(6, 9), snn.layers.DirectEncoding(5), nn.ReLU(), snn.Leaky(beta=0.9, **PAPER | k),
    ],
    "encoded alone": lambda **k: [nn.Linear(6, 9), snn.layers.DirectEncoding(5), snn.Leaky(beta=0.9, **PAPER | k)],
    "learnable": lambda **k: [
        nn.Linear(6, 9), nn.ReLU(), snn.Leaky(beta=0.9, learn_beta=True, learn_threshold=True, **PAPER | k),
    ],
    "deep": lambda **k: [
        nn.Linear(6, 9), nn.ReLU(), snn.layers.DirectEncoding(5), snn.Leaky(beta=0.9, **PAPER | k),
        nn.Linear(9, 4), nn.ReLU(), snn.Leaky(beta=0.5, **PAPER | k),
    ],
}  # fmt: skip


@pytest.mark.parametrize("inplace", [False, True], ids=["", "inplace"])
@pytest.mark.parametrize("net", NETS)
def test_fused_relu_and_encoding_change_nothing(net, inplace):
    """A hook on the layers in front of a neuron switches the fusion off, and is called."""
    torch.manual_seed(0)
    fused = snn.MultiStep(*NETS[net](inplace=inplace))
    x = currents(1 if "encoded" in net or net == "deep" else 5, 3, 6).float()
    passed = [layer for layer in fused if isinstance(layer, nn.ReLU | snn.layers.DirectEncoding)]
    calls = Counter()
    with pytest.MonkeyPatch.context() as monkeypatch:
        for kind in (nn.ReLU, snn.layers.DirectEncoding):
            monkeypatch.setattr(kind, "forward", counting(kind.forward, calls, kind))
        actual = train_step(fused, x)
    assert calls == ({snn.layers.DirectEncoding: 1} if net == "encoded first" else {})  # which is a view
    calls.clear()
    handles = [layer.register_forward_hook(lambda module, *_: calls.update([module])) for layer in passed]
    for layer in fused:
        if isinstance(layer, snn.Leaky):  # a ReLU that runs needs its output
            layer.inplace = False
    expected = train_step(fused, x)
    assert calls == dict.fromkeys(passed, 1)
    assert torch.equal(actual["out"], expected["out"]) and 0 < actual["out"].mean() < 1
    for name, value in expected.items():
        assert_close(actual[name], value, F32, value.abs().max().item() * 10, name)
    for handle in handles:
        handle.remove()
    assert torch.equal(train_step(fused, x)["input"], actual["input"]) and set(calls.values()) == {1}


@pytest.mark.parametrize("hooked", [0, 1, 2, 3])
def test_a_conv_block_trains_with_a_hook_on_any_of_its_layers(hooked):
    """The block chose to write in place, so it may not fail where somebody looks into it."""
    torch.manual_seed(0)
    net = snn.MultiStep(snn.layers.ConvBlock(2, 4, snn.Leaky(beta=0.9, **PAPER)))
    x = currents(5, 3, 2, 6, 7).float()
    expected = train_step(net, x)
    calls = Counter()
    net[0][hooked].register_forward_hook(lambda module, *_: calls.update([module]))
    actual = train_step(net, x)
    assert calls == {net[0][hooked]: 1} and torch.equal(actual["out"], expected["out"])
    assert_close(actual["input"], expected["input"], F32, expected["input"].abs().max().item() * 10)


@pytest.mark.parametrize("kind", ["forward_pre", "full_backward", "full_backward_pre"])
def test_other_hooks_are_called_as_well(kind):
    net = snn.MultiStep(nn.Linear(6, 9), nn.ReLU(), snn.Leaky(beta=0.9, **PAPER))
    calls = []
    getattr(net[1], f"register_{kind}_hook")(lambda *arguments: calls.append(len(arguments)))
    train_step(net, currents(5, 3, 6).float())
    assert len(calls) == 1


def test_a_relu_of_a_subclass_is_not_passed_over():
    class Doubled(nn.ReLU):
        def forward(self, x):
            return 2 * super().forward(x)

    net = snn.MultiStep(Doubled(), snn.Leaky(beta=0.9))
    x = currents(5, 3, 6).float()
    expected = lif_multistep(2 * x.relu(), beta=0.9).spk
    assert torch.equal(net(x), expected) and not torch.equal(lif_multistep(x.relu(), beta=0.9).spk, expected)


@pytest.mark.parametrize("channels_last", [False, True], ids=["", "channels-last"])
def test_conv_block_writes_its_spikes_over_the_batch_norm(channels_last):
    torch.manual_seed(0)
    block = snn.layers.ConvBlock(2, 4, snn.Leaky(beta=0.9, **PAPER))
    x = currents(5, 3, 2, 6, 7).float()
    if channels_last:
        block, x = block.to(memory_format=torch.channels_last), LAYOUTS["channels last"](x)
    seen = []
    net = snn.MultiStep(block)
    block[1].register_forward_hook(lambda module, arguments, output: seen.append(output))
    out = net(x)
    assert set(seen[0].unique().tolist()) == {0.0, 1.0}, "what batch norm returned is overwritten"
    assert torch.equal(seen[0].unflatten(0, (5, 3)), out)
    actual = train_step(net, x)
    block[-1].inplace = False
    block[2].register_forward_hook(lambda module, arguments, output: None)
    expected = train_step(net, x)
    assert torch.equal(actual["out"], expected["out"])
    largest = max(value.abs().max().item() for value in expected.values())  # one is zero: a bias before batch norm
    for name, value in expected.items():
        assert_close(actual[name], value, F32, largest, name)


def test_the_block_keeps_one_word_per_neuron_and_step_beside_what_its_layers_need():
    net = snn.MultiStep(snn.layers.ConvBlock(2, 4, snn.Leaky(beta=0.9, **PAPER)))
    x = currents(5, 3, 2, 6, 7).float()
    with kept() as tensors:
        out = net(x)
    own = {p.untyped_storage()._cdata for p in (*net.parameters(), *net.buffers())}
    sizes = sorted(t.untyped_storage().nbytes() for t in tensors if t.untyped_storage()._cdata not in own)
    statistics = [16, 16]  # mean and deviation of four channels
    words, numbers = 4 * out.numel(), [24]  # the parameters and the factor, by value
    assert sizes == sorted([*statistics, *numbers, 4 * x.numel(), words, words])


@pytest.mark.parametrize("encoding", [False, True], ids=["", "encoded"])
def test_the_identity_warm_up_still_rectifies(encoding):
    layers = [nn.Linear(6, 9), nn.ReLU(), *([snn.layers.DirectEncoding(5)] if encoding else [])]
    net = snn.MultiStep(*layers, snn.Leaky(beta=0.9, **PAPER))
    x = currents(1 if encoding else 5, 3, 6).float()
    snn.networks.set_warm_up(net, "identity")
    assert torch.equal(net(x), net[0](x).relu()) and (net[0](x) < 0).any()
    net[-1].warm_up = "identity"
    if encoding:  # the encoding alone is told to repeat
        net[2].warm_up = None
        assert torch.equal(net(x), net[0](x).relu().expand(5, 3, 9))


def test_the_surrogate_warm_up_is_covered():
    neuron = snn.Leaky(beta=0.9, **PAPER)
    neuron.warm_up = "surrogate"
    x = currents(5, 3, 6).float().requires_grad_()
    grads = [torch.autograd.grad(neuron.sequence(x, impl=how)[0].sum(), x)[0] for how in ("cpu", "reference")]
    assert_close(grads[0], grads[1], F32, grads[1].abs().max().item())
    assert grads[0][0].count_nonzero() == grads[0][0].numel()  # and not where it fired only


def test_fold_false_and_stock_neurons_are_not_fused():
    import snntorch

    net = snn.MultiStep(nn.Linear(6, 9), nn.ReLU(), snntorch.Leaky(beta=0.9))
    calls = Counter()
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(nn.ReLU, "forward", counting(nn.ReLU.forward, calls, "forward"))
        out = net(currents(5, 3, 6).float())
    assert calls == {"forward": 1}
    net[2] = snn.Leaky(beta=0.9)
    x = currents(5, 3, 6).float()
    expected = net(x)
    net.fold = False
    assert torch.equal(net(x), expected) and out.shape == expected.shape
