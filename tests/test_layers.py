"""MultiStep against hand-written loops over time, and the layers around the neurons."""

import copy
import inspect
from collections import OrderedDict

import pytest
import snntorch
import torch
from _tolerance import assert_close
from snntorch import surrogate as host_surrogate
from snntorch.functional import accuracy_rate, ce_count_loss
from snntorch.functional.acc import _population_code
from torch import nn

import snntorch_bpsta as snn

T, B, N = 5, 3, 6
F32, F64 = torch.float32, torch.float64
PAPER = dict(beta=0.9, threshold=0.5, reset_mechanism="zero")

NEURONS = {
    "off": dict(beta=0.9),
    "off-zero": PAPER,
    "off-fast-sigmoid": PAPER | dict(spike_grad=host_surrogate.fast_sigmoid(5)),
    "spatial": PAPER | dict(spatial_adj=True),
    "temporal": PAPER | dict(temporal_alpha=0.8),
    "both": PAPER | dict(spatial_adj=True, temporal_alpha=0.8),
    "both-subtract": PAPER | dict(reset_mechanism="subtract", spatial_adj=True, temporal_alpha=0.8),
    "rectangle": PAPER | dict(spike_grad=snn.surrogate.rectangle()),
    "learnable": PAPER | dict(spatial_adj=True, temporal_alpha=0.8, learn_beta=True, learn_threshold=True),
    "reset-at-once": PAPER | dict(spatial_adj=True, reset_delay=False),
    "graded": PAPER | dict(spatial_adj=True, graded_spikes_factor=0.5),
}
# The host's default surrogates give float32 spikes, which a float64 layer behind them refuses.
DTYPES = {name: F32 if name.startswith("off") else F64 for name in NEURONS}


def grid(*shape, seed=0, low=-1.0, high=1.0, step=1 / 16, dtype=F32):
    """Multiples of `step`: sums and products of few of them are exact, whatever the order of summation."""
    gen = torch.Generator().manual_seed(seed)
    x = torch.rand(*shape, generator=gen, dtype=F64) * (high - low) + low
    return ((x / step).round() * step).to(dtype)


def exact_weights(module, seed=1):
    """Weights on a coarse grid, so that folding T into the batch can be compared to the bit."""
    with torch.no_grad():
        layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
        for number, layer in enumerate(layers):
            for parameter in layer.parameters():
                parameter.copy_(grid(*parameter.shape, seed=seed + number, low=-0.5, high=0.625, step=1 / 8))
    return module


def conv_layers(**neuron):
    return [
        nn.Conv2d(2, 4, 3, padding=1),
        snn.Leaky(**neuron),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 3, 3),
        nn.ReLU(),
        snn.Leaky(**neuron),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(3, 5),
        snn.Leaky(**neuron),
    ]


def conv_input(num_steps=T, batch=B, dtype=F32, seed=3):
    return grid(num_steps, batch, 2, 8, 8, seed=seed, low=-0.5, step=1 / 8, dtype=dtype)


def step_loop(layers, x):
    """What a snnTorch tutorial writes: all layers, one step after the other, from zero membranes."""
    mems, out = {}, []
    for x_t in x:
        for layer in layers:
            if isinstance(layer, snntorch.SpikingNeuron):
                mem = mems.get(layer)
                x_t, mems[layer] = layer(x_t, torch.zeros_like(x_t) if mem is None else mem)
            else:
                x_t = layer(x_t)
        out.append(x_t)
    return torch.stack(out)


def run(function, x, parameters):
    """Output, and the gradients of a weighted sum of it, by name."""
    x = x.detach().clone().requires_grad_()
    for _, parameter in parameters:
        parameter.grad = None
    out = function(x)
    (out * grid(*out.shape, seed=9, dtype=out.dtype)).sum().backward()
    return out.detach(), {"input": x.grad} | {name: parameter.grad for name, parameter in parameters}


# --- MultiStep equals the loop ---------------------------------------------------------------------


@pytest.mark.parametrize("fold", [True, False], ids=["fold", "per-step"])
@pytest.mark.parametrize("name", NEURONS)
def test_conv_net_is_the_step_loop(name, fold):
    dtype = DTYPES[name]
    net = exact_weights(snn.MultiStep(*conv_layers(**NEURONS[name]), fold=fold)).to(dtype)
    x, parameters = conv_input(dtype=dtype), list(net.named_parameters())
    spk, gradients = run(net, x, parameters)
    expected_spk, expected = run(lambda x: step_loop(list(net), x), x, parameters)
    assert spk.shape == (T, B, 5) and 0 < spk.count_nonzero() < spk.numel()
    assert torch.equal(spk, expected_spk)
    for key, gradient in expected.items():
        assert gradient.count_nonzero() > 0, key
        assert_close(gradients[key], gradient, dtype, gradient.abs().max(), key)


def test_per_neuron_beta_and_threshold():
    beta, threshold = torch.linspace(0.1, 0.9, N), torch.linspace(0.3, 0.8, N)
    lif = snn.Leaky(beta, threshold, reset_mechanism="zero", spatial_adj=True, temporal_alpha=0.8)
    net, x = snn.MultiStep(nn.Linear(4, N), lif), torch.rand(T, B, 4)
    exact_weights(net)
    assert torch.equal(net(x.round()), step_loop(list(net), x.round()))


@pytest.mark.parametrize("num_steps", [1, 2, 7, 63])
@pytest.mark.parametrize("name", ["off", "both"])
def test_any_number_of_steps(name, num_steps):
    net = exact_weights(snn.MultiStep(nn.Linear(4, N), snn.Leaky(**NEURONS[name])))
    x = grid(num_steps, B, 4)
    assert torch.equal(net(x), step_loop(list(net), x))


@pytest.mark.parametrize("batch", [0, 1])
def test_small_batches(batch):
    net = snn.MultiStep(*conv_layers(**NEURONS["both"]))
    assert net(conv_input(batch=batch)).shape == (T, batch, 5)


@pytest.mark.parametrize("name", NEURONS)
def test_twice_in_a_row_starts_afresh(name):
    net = snn.MultiStep(nn.Linear(4, N), snn.Leaky(**NEURONS[name]))
    x = torch.rand(T, B, 4) * 3
    first = net(x)
    net(torch.rand(2, B, 4) * 5)
    assert first.count_nonzero() > 0
    assert torch.equal(net(x), first)


def test_gradients_of_two_calls_add_up():
    net = exact_weights(snn.MultiStep(nn.Linear(4, N), snn.Leaky(**NEURONS["both"]))).to(F64)
    x = grid(T, B, 4, dtype=F64)
    net(x).sum().backward()
    once = net[0].weight.grad.clone()
    net(x).sum().backward()
    assert once.count_nonzero() > 0 and torch.equal(net[0].weight.grad, 2 * once)


@pytest.mark.parametrize("name", ["off", "both"])
def test_batch_first(name):
    layers = conv_layers(**NEURONS[name])
    exact_weights(nn.ModuleList(layers))
    time_first, batch_first = snn.MultiStep(*layers), snn.MultiStep(*layers, batch_first=True)
    x = conv_input()
    out = batch_first(x.transpose(0, 1))
    assert out.shape == (B, T, 5) and 0 < out.count_nonzero() < out.numel()
    assert torch.equal(out.transpose(0, 1), time_first(x))
    assert not torch.equal(out, time_first(conv_input(num_steps=B, batch=T)))


def test_strided_input():
    net = exact_weights(snn.MultiStep(*conv_layers(**NEURONS["both"])))
    x = conv_input()
    strided = x.permute(4, 3, 2, 1, 0).contiguous().permute(4, 3, 2, 1, 0)
    assert not strided.is_contiguous() and torch.equal(net(strided), net(x))


# --- nesting, slicing, state_dict --------------------------------------------------------------------

NESTINGS = {
    "sequential": lambda x: [nn.Sequential(*x[:3]), nn.Sequential(*x[3:])],
    "sequential-in-sequential": lambda x: [nn.Sequential(x[0], nn.Sequential(*x[1:6])), *x[6:]],
    "multistep": lambda x: [snn.MultiStep(*x[:3]), snn.MultiStep(*x[3:])],
    "multistep-of-stateless": lambda x: [snn.MultiStep(x[0]), *x[1:6], snn.MultiStep(*x[6:9]), x[9]],
    "sequential-of-stateless": lambda x: [x[0], x[1], nn.Sequential(*x[2:5]), x[5], nn.Sequential(*x[6:9]), x[9]],
    "mixed": lambda x: [nn.Sequential(x[0], snn.MultiStep(*x[1:4])), x[4], nn.Sequential(*x[5:])],
}


@pytest.mark.parametrize("nesting", NESTINGS)
def test_nesting_changes_nothing(nesting):
    layers = conv_layers(**NEURONS["both"])
    exact_weights(nn.ModuleList(layers))
    out = snn.MultiStep(*NESTINGS[nesting](layers))(conv_input())
    assert out.count_nonzero() > 0
    assert torch.equal(out, snn.MultiStep(*layers)(conv_input()))


def test_an_inner_multistep_keeps_fold():
    x = torch.randn(T, B, 4)
    bn = nn.BatchNorm1d(4)
    expected = torch.stack([nn.BatchNorm1d(4)(x_t) for x_t in x])
    assert_close(snn.MultiStep(copy.deepcopy(bn), fold=False)(x), expected, F32, 1.0)
    assert_close(snn.MultiStep(nn.Identity(), snn.MultiStep(copy.deepcopy(bn), fold=False))(x), expected, F32, 1.0)


def test_a_time_major_layer_inside_a_sequential_gets_the_whole_sequence():
    """`nn.Sequential` inside is walked, also one without neurons."""
    torch.manual_seed(0)
    out = snn.MultiStep(nn.Sequential(nn.Identity(), snn.NeuronDropout(0.5)))(torch.ones(T, B, 50))
    assert (out == out[0]).all(), "one mask for all steps"
    assert not torch.equal(out[:, 0], out[:, 1]), "a mask of its own for every sample"


def test_batch_norm_through_time_inside_a_sequential():
    out = snn.MultiStep(nn.Sequential(nn.Linear(4, N), snntorch.BatchNormTT1d(N, T)))(torch.randn(T, B, 4))
    assert_close(out.mean(1), torch.zeros(T, N), F32, 1.0)


def test_a_sequential_with_its_own_forward_is_not_walked():
    """Walking it would drop what its forward adds: run it as a whole, or refuse it."""

    class Residual(nn.Sequential):
        def forward(self, x):
            return x + super().forward(x)

    with pytest.raises(TypeError, match="Residual"):
        snn.MultiStep(Residual(snn.Leaky(**PAPER)))(torch.full((T, B, N), 10.0))


def test_time_major_module_gets_the_whole_sequence():
    class Shift(nn.Module):
        time_major = True

        def __init__(self):
            super().__init__()
            self.lif = snn.Leaky(**PAPER)

        def forward(self, x):
            return self.lif.sequence(x.roll(1, 0))[0]

    x = torch.rand(T, B, N)
    net = snn.MultiStep(nn.Identity(), Shift())
    assert torch.equal(net(x), net[1].lif.sequence(x.roll(1, 0))[0])


@pytest.mark.parametrize(
    "flags", [dict(batch_first=True), dict(fold=False), dict(batch_first=True, fold=False)], ids=str
)
def test_slicing_keeps_the_flags(flags):
    net = snn.MultiStep(*conv_layers(**PAPER), **flags)
    part = net[3:7]
    assert type(part) is snn.MultiStep
    assert [part.batch_first, part.fold] == [flags.get("batch_first", False), flags.get("fold", True)]
    assert list(part) == list(net)[3:7]
    assert net[3] is list(net)[3] and net[-1] is list(net)[-1]
    assert list(net[::2]) == list(net)[::2] and len(net[3:3]) == 0


def test_the_parts_make_the_whole():
    net = exact_weights(snn.MultiStep(*conv_layers(**NEURONS["both"])))
    x = conv_input()
    assert torch.equal(net[4:](net[:4](x)), net(x))


def test_state_dict_is_that_of_sequential():
    ours, plain = snn.MultiStep(*conv_layers(**PAPER)), nn.Sequential(*conv_layers(**PAPER))
    assert list(ours.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(ours.state_dict(), strict=True)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), ours.parameters(), strict=True))
    ours.load_state_dict(nn.Sequential(*conv_layers(**PAPER)).state_dict(), strict=True)


def test_names_by_ordered_dict():
    layers = OrderedDict(fc=nn.Linear(4, N), lif=snn.Leaky(**PAPER))
    net, plain = snn.MultiStep(layers, batch_first=True), nn.Sequential(layers)
    assert net.lif is layers["lif"] and net.batch_first
    assert list(net.state_dict()) == list(plain.state_dict()) and "fc.weight" in net.state_dict()
    assert "fc.weight" in net[:1].state_dict()


def test_repr_shows_the_flags_that_are_set():
    assert "batch_first=True, fold=False" in repr(snn.MultiStep(nn.ReLU(), batch_first=True, fold=False))
    assert "fold" not in repr(snn.MultiStep(nn.ReLU())) and "batch_first" not in repr(snn.MultiStep(nn.ReLU()))


# --- batch norm ---------------------------------------------------------------------------------------


def images(seed=0):
    gen = torch.Generator().manual_seed(seed)
    # A different mean and spread at every step, so that the two ways of taking statistics differ.
    scale = torch.arange(1.0, T + 1).view(T, 1, 1, 1, 1)
    return torch.randn(T, B, 2, 3, 5, generator=gen) * scale + scale


def normalised(x, dims, eps=1e-5):
    mean, var = x.mean(dims, keepdim=True), x.var(dims, unbiased=False, keepdim=True)
    return (x - mean) / (var + eps).sqrt()


def test_folded_batch_norm_takes_its_statistics_over_time_and_batch():
    x, net = images(), snn.MultiStep(nn.BatchNorm2d(2))
    assert_close(net(x), normalised(x, (0, 1, 3, 4)), F32, 1.0)
    assert net[0].num_batches_tracked == 1
    assert_close(net[0].running_mean, 0.1 * x.mean((0, 1, 3, 4)), F32)
    assert_close(net[0].running_var, 0.9 + 0.1 * x.var((0, 1, 3, 4)), F32)


def test_per_step_batch_norm_takes_its_statistics_at_each_step():
    x, net = images(), snn.MultiStep(nn.BatchNorm2d(2), fold=False)
    assert_close(net(x), normalised(x, (1, 3, 4)), F32, 1.0)
    mean, var = torch.zeros(2), torch.ones(2)
    for x_t in x:
        mean, var = 0.9 * mean + 0.1 * x_t.mean((0, 2, 3)), 0.9 * var + 0.1 * x_t.var((0, 2, 3))
    assert net[0].num_batches_tracked == T
    assert_close(net[0].running_mean, mean, F32)
    assert_close(net[0].running_var, var, F32)


def test_the_two_differ_in_training_and_agree_in_eval_mode():
    x, bn = images(), nn.BatchNorm2d(2)
    folded, per_step = snn.MultiStep(copy.deepcopy(bn)), snn.MultiStep(copy.deepcopy(bn), fold=False)
    assert (folded(x) - per_step(x)).abs().max() > 0.5
    per_step[0].load_state_dict(folded[0].state_dict())
    folded.eval()
    per_step.eval()
    assert_close(folded(x), per_step(x), F32, 1.0)


def test_per_step_batch_norm_before_neurons_is_the_step_loop():
    layers = [
        nn.BatchNorm2d(2),
        snn.Leaky(**NEURONS["both"]),
        nn.Flatten(),
        nn.Linear(30, 4),
        snn.Leaky(**NEURONS["both"]),
    ]
    x = images()
    expected = step_loop(copy.deepcopy(layers), x)
    out = snn.MultiStep(*copy.deepcopy(layers), fold=False)(x)
    assert 0 < out.count_nonzero() < out.numel()
    assert torch.equal(out, expected)
    assert not torch.equal(snn.MultiStep(*copy.deepcopy(layers))(x), expected)


@pytest.mark.parametrize("fold", [True, False], ids=["fold", "per-step"])
def test_batch_norm_through_time_gives_each_step_its_own_entry(fold):
    bntt = snntorch.BatchNormTT1d(N, T)
    with torch.no_grad():
        for t, bn in enumerate(bntt):
            bn.weight.fill_(t + 1)
    x = torch.randn(T, B, N)
    out = snn.MultiStep(bntt, snn.Leaky(**PAPER, spatial_adj=True), fold=fold)[:1](x)
    scale = torch.arange(1.0, T + 1).view(T, 1, 1)
    assert_close(out, normalised(x, (1,)) * scale, F32, scale.expand(T, B, N))
    assert [bn.num_batches_tracked.item() for bn in bntt] == [1] * T


def test_batch_norm_through_time_2d_in_front_of_neurons():
    layers = [nn.Conv2d(2, 3, 3), snntorch.BatchNormTT2d(3, T), snn.Leaky(**NEURONS["both"])]
    conv, bntt, lif = exact_weights(nn.ModuleList(layers))
    x = conv_input()
    cur = torch.stack([copy.deepcopy(bntt)[t](conv(x_t)) for t, x_t in enumerate(x)])
    assert torch.equal(snn.MultiStep(*layers)(x), step_loop([lif], cur))


# --- snnTorch's own neurons ---------------------------------------------------------------------------

# name -> (neuron, whether its output spikes are part of its state)
STOCK = {
    "Leaky": lambda **o: (snntorch.Leaky(beta=0.9, **o), False),
    "Leaky-zero": lambda **o: (snntorch.Leaky(beta=0.8, threshold=0.5, reset_mechanism="zero", **o), False),
    "Synaptic": lambda **o: (snntorch.Synaptic(alpha=0.8, beta=0.9, **o), False),
    "Alpha": lambda **o: (snntorch.Alpha(alpha=0.9, beta=0.8, threshold=0.3, **o), False),
    "Lapicque": lambda **o: (snntorch.Lapicque(beta=0.9, threshold=0.1, **o), False),
    "RLeaky": lambda **o: (snntorch.RLeaky(beta=0.9, linear_features=N, **o), True),
    "RLeaky-one-to-one": lambda **o: (snntorch.RLeaky(beta=0.9, all_to_all=False, V=0.5, **o), True),
    "RSynaptic": lambda **o: (snntorch.RSynaptic(alpha=0.8, beta=0.9, linear_features=N, **o), True),
    "SLSTM": lambda **o: (snntorch.SLSTM(N, N, threshold=0.1, **o), False),
}


def own_loop(neuron, x, spikes_are_state):
    """The neuron's own step loop, its states handed from step to step, from zeros."""
    names = list(inspect.signature(neuron.forward).parameters)[1:]
    states = [torch.zeros_like(x[0]) for _ in names]
    spk_rec = []
    for x_t in x:
        out = neuron(x_t, *states)
        spk_rec.append(out[0])
        states = out if spikes_are_state else out[1:]
    return torch.stack(spk_rec)


def strong(num_steps=T, seed=0):
    return torch.rand(num_steps, B, N, generator=torch.Generator().manual_seed(seed)) * 2


@pytest.mark.parametrize("name", STOCK)
def test_stock_neuron_is_its_own_step_loop_twice_in_a_row(name):
    torch.manual_seed(0)
    neuron, spikes_are_state = STOCK[name]()
    reference, net = copy.deepcopy(neuron), snn.MultiStep(neuron)
    neuron(strong()[0] * 3)  # leaves a state behind
    for seed in (1, 2, 1):
        x = strong(seed=seed)
        spk, gradients = run(net, x, list(net.named_parameters()))
        expected_spk, expected = run(
            lambda x: own_loop(reference, x, spikes_are_state), x, list(net[0].named_parameters())[:0]
        )
        assert 0 < spk.count_nonzero() < spk.numel()
        assert torch.equal(spk, expected_spk)
        assert torch.equal(gradients["input"], expected["input"])


@pytest.mark.parametrize("name", STOCK)
def test_stock_neuron_keeps_its_hidden_state_with_init_hidden(name):
    torch.manual_seed(0)
    fresh, spikes_are_state = STOCK[name]()
    neuron, _ = STOCK[name](init_hidden=True)
    neuron.load_state_dict(fresh.state_dict())
    x, net = strong(9) * 0.4, snn.MultiStep(neuron)
    first, second = net(x[:4]), net(x[4:])
    whole = own_loop(fresh, x, spikes_are_state)
    assert torch.equal(torch.cat([first, second]), whole)
    assert not torch.equal(second, own_loop(fresh, x[4:], spikes_are_state)), "the state matters here"
    neuron.reset_mem()
    assert torch.equal(net(x[:4]), first)


@pytest.mark.parametrize("name", ["Leaky", "RLeaky", "Synaptic"])
def test_stock_neuron_with_output_and_init_hidden(name):
    """With both set a step returns a tuple, and so does the MultiStep that it ends; the first entry is the spikes."""
    torch.manual_seed(0)
    fresh, spikes_are_state = STOCK[name]()
    neuron, _ = STOCK[name](init_hidden=True, output=True)
    neuron.load_state_dict(fresh.state_dict())
    spk_rec, *states = snn.MultiStep(neuron)(strong())
    assert torch.equal(spk_rec, own_loop(fresh, strong(), spikes_are_state))
    assert torch.equal(states[-1][-1], neuron.mem) and states[-1].shape == spk_rec.shape


def test_stock_neuron_after_another_batch_size():
    neuron, _ = STOCK["Leaky"]()
    net, x = snn.MultiStep(neuron), strong()
    net(x[:, :1])
    assert torch.equal(net(x), own_loop(copy.deepcopy(neuron), x, False))


def test_stock_leaky_and_ours_switched_off_are_one():
    x = strong()
    ours, host = snn.MultiStep(snn.Leaky(beta=0.9)), snn.MultiStep(snntorch.Leaky(beta=0.9))
    (spk, gradients), (host_spk, expected) = run(ours, x, []), run(host, x, [])
    assert torch.equal(spk, host_spk)
    assert_close(gradients["input"], expected["input"], F32, expected["input"].abs().max())


@pytest.mark.parametrize("options", [dict(), dict(spatial_adj=True, temporal_alpha=0.8)], ids=["off", "on"])
def test_our_neuron_keeps_its_hidden_membrane_with_init_hidden(options):
    neuron = snn.Leaky(**PAPER, init_hidden=True, **options)
    x, net = strong(9) * 0.4, snn.MultiStep(neuron)
    first, second = net(x[:4]), net(x[4:])
    whole = snn.MultiStep(snn.Leaky(**PAPER, **options))(x)
    assert torch.equal(torch.cat([first, second]), whole)
    assert not torch.equal(second, snn.MultiStep(snn.Leaky(**PAPER, **options))(x[4:]))
    neuron.reset_mem()
    assert torch.equal(net(x[:4]), first)


def test_leaky_parallel_gets_the_whole_sequence():
    torch.manual_seed(0)
    neuron = snntorch.LeakyParallel(4, N, beta=0.5, threshold=0.2)
    x = torch.rand(T, B, 4)
    rnn, mem, expected = neuron.rnn, torch.zeros(B, N), []
    for x_t in x:
        mem = (x_t @ rnn.weight_ih_l0.T + rnn.bias_ih_l0 + mem @ rnn.weight_hh_l0.T + rnn.bias_hh_l0).relu()
        expected.append((mem > 0.2).float())
    net = snn.MultiStep(neuron)
    for _ in range(2):
        out = net(x)
        assert 0 < out.count_nonzero() < out.numel() and torch.equal(out, torch.stack(expected))


@pytest.mark.skipif(not hasattr(snntorch, "StateLeaky"), reason="this snnTorch has no StateLeaky")
def test_state_leaky_gets_the_whole_sequence():
    neuron, x = snntorch.StateLeaky(beta=0.8, channels=N), strong() / 2
    decay = torch.exp(-1 / neuron.tau)
    mem, expected = torch.zeros(B, N), []
    for x_t in x:
        mem = decay * mem + x_t
        expected.append((mem > 1).float())
    net = snn.MultiStep(neuron)
    for _ in range(2):
        out = net(x)
        assert 0 < out.count_nonzero() < out.numel() and torch.equal(out, torch.stack(expected))


@pytest.mark.skipif(not hasattr(snntorch, "StateLeaky"), reason="this snnTorch has no StateLeaky")
def test_state_leaky_without_output_gives_its_membrane():
    neuron, x = snntorch.StateLeaky(beta=0.8, channels=N, output=False), strong()
    out = snn.MultiStep(neuron)(x)
    assert isinstance(out, torch.Tensor) and torch.equal(out, neuron(x))


def test_stock_neurons_between_folded_layers():
    torch.manual_seed(0)
    layers = [nn.Linear(4, N), snntorch.Leaky(beta=0.9), nn.Linear(N, N), snntorch.Leaky(beta=0.5)]
    net = exact_weights(snn.MultiStep(*layers))
    x = grid(T, B, 4, low=0)
    out = net(x)
    assert 0 < out.count_nonzero() < out.numel() and torch.equal(out, step_loop(layers, x))


# --- what is refused ----------------------------------------------------------------------------------


class WithNeuron(nn.Module):
    def __init__(self, neuron):
        super().__init__()
        self.neuron = neuron

    def forward(self, x):
        return self.neuron(x)[0]


@pytest.mark.parametrize(
    "neuron",
    [lambda: snn.Leaky(**PAPER), lambda: snntorch.Synaptic(alpha=0.8, beta=0.9), lambda: snntorch.LeakyParallel(N, N)],
    ids=["ours", "stock", "parallel"],
)
def test_own_module_with_neurons_is_refused(neuron):
    with pytest.raises(TypeError, match=r"cannot see how WithNeuron uses the neurons.*time_major = True"):
        snn.MultiStep(WithNeuron(neuron()))(torch.rand(T, B, N))


def test_own_module_with_neurons_is_refused_in_a_sequential_as_well():
    with pytest.raises(TypeError, match="cannot see how WithNeuron"):
        snn.MultiStep(nn.Sequential(nn.Identity(), WithNeuron(snn.Leaky(**PAPER))))(torch.rand(T, B, N))


RECURRENT = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}


@pytest.mark.parametrize("fold", [True, False], ids=["fold", "per-step"])
@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_layers_of_pytorch_are_refused(name, fold):
    with pytest.raises(TypeError, match=rf"fold time into the batch of {name}.*time_major = True"):
        snn.MultiStep(RECURRENT[name](N, N), fold=fold)(torch.rand(T, B, N))


def test_recurrent_layers_of_pytorch_are_refused_in_a_sequential_as_well():
    with pytest.raises(TypeError, match="fold time into the batch of LSTM"):
        snn.MultiStep(nn.Sequential(nn.Linear(N, N), nn.LSTM(N, N)))(torch.rand(T, B, N))


INPUTS = {
    "list": ([1.0], TypeError, r"tensor of shape \[T, B, \*\], got list"),
    "integers": (torch.ones(T, B, N, dtype=torch.int64), TypeError, "floating-point.*int64"),
    "no-batch": (torch.rand(T), ValueError, r"shape \[T, B, \*\], got \(5,\)"),
    "none": (None, TypeError, "NoneType"),
}


@pytest.mark.parametrize("name", INPUTS)
def test_wrong_input_is_refused(name):
    value, error, match = INPUTS[name]
    with pytest.raises(error, match=match):
        snn.MultiStep(nn.Identity())(value)


def test_wrong_input_is_refused_in_the_words_of_batch_first():
    with pytest.raises(ValueError, match=r"\[B, T, \*\]"):
        snn.MultiStep(nn.Identity(), batch_first=True)(torch.rand(T))


@pytest.mark.parametrize("fold", [True, False], ids=["fold", "per-step"])
def test_no_time_steps_are_refused(fold):
    with pytest.raises(ValueError, match="time step"):
        snn.MultiStep(nn.Linear(N, N), snn.Leaky(**PAPER), fold=fold)(torch.rand(0, B, N))


# --- hooks ------------------------------------------------------------------------------------------------


def test_forward_hooks_of_our_neurons_fire_once_with_the_whole_sequence():
    net, seen = snn.MultiStep(nn.Linear(4, N), snn.Leaky(**NEURONS["both"])), []
    net[1].register_forward_hook(lambda module, args, output: seen.append(output))
    out = net(torch.rand(T, B, 4) * 3)
    ((spk, mem),) = seen
    assert spk is out and mem.shape == (B, N)


def test_forward_hooks_of_stock_neurons_fire_at_every_step():
    net, seen = snn.MultiStep(snntorch.Leaky(beta=0.9)), []
    net[0].register_forward_hook(lambda module, args, output: seen.append(output[0]))
    out = net(strong())
    assert len(seen) == T and torch.equal(torch.stack(seen), out)


def test_forward_hooks_of_nested_neurons_fire():
    net, seen = snn.MultiStep(nn.Sequential(nn.Identity(), snn.Leaky(**PAPER))), []
    net[0][1].register_forward_hook(lambda module, args, output: seen.append(output[0]))
    out = net(strong())
    assert len(seen) == 1 and torch.equal(seen[0], out)


# --- NeuronDropout --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.2, 0.5])
def test_dropout_has_one_mask_per_sample_over_all_steps(p):
    torch.manual_seed(0)
    x = torch.rand(T, 4, 500) + 0.1
    out = snn.NeuronDropout(p)(x)
    mask = out / x
    assert (mask.count_nonzero(0).unique() == torch.tensor([0, T])).all()
    assert_close(mask[mask != 0], torch.full_like(mask[mask != 0], 1 / (1 - p)), F32)
    dropped = (mask[0] == 0).float().mean(1)
    assert ((dropped - p).abs() < 0.1).all(), dropped
    assert len({tuple(sample.tolist()) for sample in mask[0]}) == 4


def test_dropout_draws_a_new_mask_for_every_call():
    torch.manual_seed(0)
    dropout, x = snn.NeuronDropout(0.5), torch.ones(T, B, 50)
    assert not torch.equal(dropout(x), dropout(x))


def test_dropout_is_the_identity_in_eval_mode_and_for_zero():
    x = torch.rand(T, B, N)
    assert snn.NeuronDropout(0.5).eval()(x) is x
    assert snn.NeuronDropout(0)(x) is x


def test_dropout_of_everything():
    assert snn.NeuronDropout(1)(torch.rand(T, B, N)).count_nonzero() == 0


def test_dropout_masks_the_gradient_alike():
    torch.manual_seed(0)
    x = torch.ones(T, B, N, requires_grad=True)
    out = snn.NeuronDropout(0.5)(x)
    out.sum().backward()
    assert torch.equal(x.grad, out) and 0 < out.count_nonzero() < out.numel()


def test_dropout_in_a_multistep_sees_the_whole_sequence():
    torch.manual_seed(0)
    out = snn.MultiStep(nn.Identity(), snn.NeuronDropout(0.5))(torch.ones(T, B, 2, 5, 5))
    assert (out == out[0]).all() and not torch.equal(out[0, 0], out[0, 1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, F64], ids=str)
def test_dropout_keeps_the_dtype(dtype):
    assert snn.NeuronDropout(0.5)(torch.ones(T, B, N, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize(
    ("p", "error"),
    [(-0.1, ValueError), (1.1, ValueError), (float("nan"), ValueError), ("0.5", TypeError), (True, TypeError)],
    ids=str,
)
def test_dropout_refuses(p, error):
    with pytest.raises(error, match=r"p must be a number in \[0, 1\]"):
        snn.NeuronDropout(p)


# --- Voting -----------------------------------------------------------------------------------------------------


def test_voting_by_hand():
    x = torch.tensor([[1.0, 0.0, 1.0, 0.0, 0.0, 3.0], [0.0] * 6])
    assert_close(snn.Voting(3)(x), torch.tensor([[2 / 3, 1.0], [0.0, 0.0]]), F32)
    assert_close(snn.Voting(2)(x), torch.tensor([[0.5, 0.5, 1.5], [0.0] * 3]), F32)
    assert torch.equal(snn.Voting(1)(x), x)
    assert snn.Voting()(torch.rand(T, B, 110)).shape == (T, B, 11)


@pytest.mark.parametrize("voters", [1, 2, 10])
def test_voting_groups_as_the_hosts_population_code(voters):
    classes = 4
    spk = (torch.rand(T, 20, classes * voters, generator=torch.Generator().manual_seed(0)) > 0.7).float()
    voted = snn.Voting(voters)(spk)
    counts = _population_code(spk, classes, classes * voters)
    assert_close(voted.sum(0) * voters, counts, F32)
    targets = counts.argmax(1)
    targets[::3] = (targets[::3] + 1) % classes
    accuracy = accuracy_rate(spk, targets, population_code=True, num_classes=classes)
    assert 0 < accuracy < 1
    assert accuracy == accuracy_rate(voted, targets)
    assert accuracy == pytest.approx((voted.mean(0).argmax(1) == targets).float().mean().item())


def test_voting_agrees_with_the_hosts_loss_on_a_population_code():
    """(`ce_rate_loss` of snnTorch 1.0.0 takes population_code and does nothing with it.)"""
    spk = (torch.rand(T, B, 12, generator=torch.Generator().manual_seed(0)) > 0.6).float()
    targets = torch.tensor([0, 2, 1])
    expected = ce_count_loss(population_code=True, num_classes=3)(spk, targets)
    assert_close(nn.functional.cross_entropy(snn.Voting(4)(spk).sum(0) * 4, targets), expected, F32)
    interleaved = spk.unflatten(-1, (4, 3)).mean(-2)  # the tempting other grouping
    assert (nn.functional.cross_entropy(interleaved.sum(0) * 4, targets) - expected).abs() > 1e-2


def test_voting_refuses():
    with pytest.raises(ValueError, match=r"multiple of voters=4, got \(3, 6\)"):
        snn.Voting(4)(torch.rand(3, 6))
    with pytest.raises(ValueError, match="voters"):
        snn.Voting(0)
    with pytest.raises(TypeError, match="voters"):
        snn.Voting(2.0)


# --- DirectEncoding ---------------------------------------------------------------------------------------------


def test_direct_encoding_is_a_view():
    x = torch.rand(1, B, N)
    out = snn.DirectEncoding(T)(x)
    assert out.shape == (T, B, N) and (out == x).all()
    assert out.data_ptr() == x.data_ptr() and out.stride(0) == 0


def test_direct_encoding_lets_sequences_and_the_identity_warm_up_pass():
    encoding, one, many = snn.DirectEncoding(T), torch.rand(1, B, N), torch.rand(2, B, N)
    assert encoding(many) is many
    encoding.warm_up = "identity"
    assert encoding(one) is one
    encoding.warm_up = "surrogate"
    assert encoding(one).shape[0] == T


@pytest.mark.parametrize(("num_steps", "error"), [(0, ValueError), (2.0, TypeError), (True, TypeError)], ids=str)
def test_direct_encoding_refuses(num_steps, error):
    with pytest.raises(error, match="num_steps"):
        snn.DirectEncoding(num_steps)


def encoded_net(encoding):
    """A block behind a static image; `encoding` False leaves the repetition out."""
    torch.manual_seed(0)
    both = NEURONS["both"]
    first = snn.ConvBlock(2, 4, snn.Leaky(**both), num_steps=T if encoding else None)
    second = snn.ConvBlock(4, 4, snn.Leaky(**both))
    dense = nn.Linear(64, 6)
    net = snn.MultiStep(first, nn.MaxPool2d(2), second, snn.NeuronDropout(0), nn.Flatten(), dense, snn.Leaky(**both))
    return exact_weights(net).to(F64)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_direct_encoding_equals_repeating_the_image(mode):
    encoded, repeated = (encoded_net(encoding).train(mode == "train") for encoding in (True, False))
    image = grid(1, B, 2, 8, 8, seed=4, dtype=F64)
    spk, gradients = run(encoded, image, list(encoded.named_parameters()))
    expected_spk, expected = run(lambda x: repeated(x.repeat(T, 1, 1, 1, 1)), image, list(repeated.named_parameters()))
    assert spk.shape == (T, B, 6) and 0 < spk.count_nonzero() < spk.numel()
    assert torch.equal(spk, expected_spk)
    for (name, gradient), other in zip(gradients.items(), expected.values(), strict=True):
        assert_close(gradient, other, F64, max(1.0, other.abs().max().item()) * 10, name)


def test_direct_encoding_changes_the_running_variance_by_the_documented_factor():
    encoded, repeated = encoded_net(True), encoded_net(False)
    image = grid(1, B, 2, 8, 8, seed=4, dtype=F64)
    encoded(image)
    repeated(image.repeat(T, 1, 1, 1, 1))
    n = B * 8 * 8
    ours, theirs = ((net[0][1].running_var - 0.9) / 0.1 for net in (encoded, repeated))
    assert_close(theirs, ours * (1 - 1 / n) / (1 - 1 / (T * n)), F64, 10.0)
    assert (theirs / ours - 1).abs().min() > 1e-3
    assert_close(encoded[0][1].running_mean, repeated[0][1].running_mean, F64, 1.0)
    assert_close(encoded[2][1].running_var, repeated[2][1].running_var, F64, 1.0)  # behind it nothing changes


# --- ConvBlock ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_steps", [None, T], ids=["frames", "image"])
def test_conv_block_is_the_papers(num_steps):
    lif = snn.Leaky(**PAPER)
    block = snn.ConvBlock(2, 7, lif, num_steps=num_steps)
    kinds = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, *([snn.DirectEncoding] if num_steps else []), snn.Leaky]
    assert [type(layer) for layer in block] == kinds and block[-1] is lif
    conv = block[0]
    assert (conv.kernel_size, conv.padding, conv.stride) == ((3, 3), (1, 1), (1, 1))
    assert (conv.in_channels, conv.out_channels, block[1].num_features) == (2, 7, 7)
    out = snn.MultiStep(block)(torch.rand(1 if num_steps else T, B, 2, 5, 6))
    assert out.shape == (T, B, 7, 5, 6) and set(out.unique().tolist()) == {0.0, 1.0}
