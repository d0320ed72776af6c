"""MultiStep against hand-written loops over time, and the layers around the neurons."""

import copy
import inspect
from collections import OrderedDict

import pytest
import snntorch
import torch
from _family import KINDS, RECURRENT, arguments
from _layers import DTYPES, F32, F64, NEURONS, PAPER, B, N, T, exact_weights, grid, run
from _tolerance import assert_close
from torch import nn
from torch.utils.checkpoint import checkpoint_sequential

import snntorch_bpsta as snn


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


def stock(kind, recurrence="linear"):
    return lambda **options: (getattr(snntorch, kind)(**arguments(kind, recurrence, N, **options)), kind in RECURRENT)


# name -> (neuron, whether its output spikes are part of its state)
STOCK = {kind: stock(kind) for kind in KINDS} | {
    "Leaky-zero": lambda **o: (snntorch.Leaky(beta=0.8, threshold=0.5, reset_mechanism="zero", **o), False),
    "RLeaky-one-to-one": stock("RLeaky", "V"),
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


OF_PYTORCH = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}


@pytest.mark.parametrize("fold", [True, False], ids=["fold", "per-step"])
@pytest.mark.parametrize("name", OF_PYTORCH)
def test_recurrent_layers_of_pytorch_are_refused(name, fold):
    with pytest.raises(TypeError, match=rf"fold time into the batch of {name}.*time_major = True"):
        snn.MultiStep(OF_PYTORCH[name](N, N), fold=fold)(torch.rand(T, B, N))


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


# --- errors that name the layer -------------------------------------------------------------------


class NeedsMem(nn.Module):
    def forward(self, x, mem):
        return x, mem


WRONG = {
    "indices": (
        nn.MaxPool2d(2, return_indices=True),
        TypeError,
        "must return one tensor, got tuple .layer '1', MaxPool2d",
    ),
    "over the batch": (nn.Flatten(0, 1), ValueError, r"12 samples .* must return as many, got \(24, 8, 8\)"),
    "a list of neurons": (nn.ModuleList([snn.Leaky(0.9)]), TypeError, "this holds neurons"),
    "a neuron of one's own": (NeedsMem(), TypeError, "'mem' .layer '1', NeedsMem"),
    "other features": (nn.Linear(7, 3), RuntimeError, "cannot be multiplied .*layer '1', Linear"),
    "deeper": (nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(7, 3))), RuntimeError, "layer '1.1.0', Linear"),
    "a scalar": (nn.Sequential(nn.Flatten(), nn.Linear(128, 1), nn.Flatten(0)), None, None),
}


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("name", WRONG)
def test_an_error_names_the_layer(name, batch_first):
    layer, error, message = WRONG[name]
    net = snn.MultiStep(nn.Identity(), layer, batch_first=batch_first)
    x = torch.rand(3, 4, 2, 8, 8) if batch_first else torch.rand(4, 3, 2, 8, 8)
    if error is None:
        assert net(x).shape == x.shape[:2]
        return
    with pytest.raises(error, match=message) as caught:
        net(x)
    order = r"[B, T, *]" if batch_first else r"[T, B, *]"
    assert f"which takes {order}" in str(caught.value) and "T = 4, B = 3" in str(caught.value)
    assert str(caught.value).count("of a MultiStep") == 1, "named once, also in a MultiStep in another"


def test_an_error_of_a_class_of_its_own_stays():
    class Mine(RuntimeError):
        def __init__(self, number, text):
            super().__init__(number, text)

    class Raises(nn.Module):
        def forward(self, x):
            raise Mine(3, "mine")

    with pytest.raises(Mine, match="mine"):
        snn.MultiStep(Raises())(torch.rand(2, 3, 4))


def test_the_shape_of_a_sample_can_be_said():
    net = snn.MultiStep(nn.Flatten(), nn.Linear(784, 10), snn.Leaky(0.9), sample_shape=(1, 28, 28))
    assert net(torch.rand(2, 3, 1, 28, 28)).shape == (2, 3, 10)
    assert snn.MultiStep(*net, batch_first=True, sample_shape=[1, 28, 28])(torch.rand(3, 2, 1, 28, 28)).shape == (
        3,
        2,
        10,
    )
    with pytest.raises(
        ValueError, match=r"\[T, B, \*\] with \* = \(1, 28, 28\), got .*: there is no dimension of time"
    ):
        net(torch.rand(8, 1, 28, 28))
    with pytest.raises(ValueError, match=r"got shape \(2, 3, 28, 28\)$"):
        net(torch.rand(2, 3, 28, 28))
    assert "sample_shape=(1, 28, 28)" in repr(net)
    assert net[:2].sample_shape == (1, 28, 28) and net[1:].sample_shape is None
    with pytest.raises(TypeError, match="each of sample_shape"):
        snn.MultiStep(nn.Flatten(), sample_shape=(1.5,))


def test_integers_go_into_an_embedding():
    net = snn.MultiStep(nn.Sequential(nn.Embedding(7, 4)), snn.Leaky(0.9))
    index = torch.randint(7, (5, 3))
    assert torch.equal(net(index), snn.MultiStep(snn.Leaky(0.9))(net[0](index)))
    with pytest.raises(TypeError, match="use input_.float"):
        snn.MultiStep(nn.Linear(3, 3), snn.Leaky(0.9))(torch.randint(7, (5, 2, 3)))


def test_sparse_and_nested_inputs_are_told_how_to_become_dense():
    net = snn.MultiStep(nn.Linear(5, 2), snn.Leaky(0.9))
    with pytest.raises(TypeError, match=r"use input_.to_dense\(\)"):
        net(torch.rand(4, 3, 5).to_sparse())
    with pytest.raises(TypeError, match=r"torch.nested.to_padded_tensor"):
        net(torch.nested.nested_tensor([torch.rand(3, 5), torch.rand(2, 5)], layout=torch.jagged))
    for layout in (torch.strided, torch.jagged):
        with pytest.raises(TypeError, match=r"torch.nested.to_padded_tensor"):
            net[1].sequence(torch.nested.nested_tensor([torch.rand(3, 5), torch.rand(2, 5)], layout=layout))


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_in_segments(reentrant, hidden):
    """torch calls the layers of an nn.Sequential one by one, which would have a neuron take time for the batch."""
    torch.manual_seed(0)
    leaky = {"beta": 0.9, "spatial_adj": True, "threshold": 0.3, "init_hidden": hidden}
    net = snn.MultiStep(nn.Linear(5, 6), snn.Leaky(**leaky), nn.Dropout(0.5), nn.Linear(6, 4), snn.Leaky(**leaky))
    x = torch.rand(7, 3, 5, requires_grad=True)
    with pytest.raises(TypeError, match=r"give it parts, as in checkpoint_sequential\(\[net"):
        checkpoint_sequential(net, 2, x, use_reentrant=reentrant)
    if hidden:
        return
    results = []
    for call in (net, lambda x: checkpoint_sequential([net[:2], net[2:]], 2, x, use_reentrant=reentrant)):
        torch.manual_seed(1)
        out, leaves = call(x), [x, *net.parameters()]
        for leaf in leaves:
            leaf.grad = None
        out.sum().backward()
        results.append((out, *(leaf.grad for leaf in leaves)))
    assert all(map(torch.equal, *results)) and all(each.any() for each in results[0])


# --- modules that are not stateless ---------------------------------------------------------------


class RunningAverage(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("average", torch.zeros(()))

    def forward(self, x):
        self.average = 0.9 * self.average + 0.1 * x.detach().mean()
        return x - self.average


class InPlace(RunningAverage):
    def forward(self, x):
        return x - self.average.mul_(0.9).add_(0.1 * x.detach().mean())


class ForeignNeuron(nn.Module):
    """As other libraries keep their states: a number at first, in a dict."""

    def __init__(self):
        super().__init__()
        self.memories = {"v": 0.0}

    def forward(self, x):
        v = self.memories["v"] * 0.9 + x
        self.memories["v"] = v * (v < 1)
        return (v >= 1).to(x.dtype)


class Counts(nn.Module):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return x * self.calls


class NotesDown(nn.Module):
    """Keeps what it saw, and does not go on from it."""

    def forward(self, x):
        self.seen, self.calls = x.detach(), getattr(self, "calls", 0) + 1
        return 2 * x


@pytest.mark.parametrize("module", [RunningAverage, InPlace, ForeignNeuron, Counts])
def test_a_module_with_a_state_of_its_own_is_not_folded(module):
    x = grid(T, B, 4, seed=5)
    for layer, name in ((module(), "1"), (nn.Sequential(nn.Linear(4, 4), module()), "1.1")):
        net = snn.MultiStep(nn.Identity(), layer, snn.Leaky(0.9))
        with pytest.raises(TypeError, match=f"{module.__name__} goes on from .*fold=False.*layer '{name}'"):
            net(x)
    assert torch.equal(snn.MultiStep(module(), fold=False)(x), torch.stack([*map(module(), x)]))


def test_a_module_that_notes_something_down_is_folded():
    x, net = (
        grid(T, B, 4, seed=5),
        snn.MultiStep(NotesDown(), nn.Sequential(nn.BatchNorm1d(4), nn.Dropout()), snn.Leaky(0.9)),
    )
    net(x)
    calls = net[0].calls
    net(x)
    assert net[0].calls == calls + 1, "looked at in the first call only"
    net.eval()
    assert torch.equal(snn.MultiStep(net[0])(x), 2 * x)
