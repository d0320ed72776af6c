"""Whatever is put into layers, networks and what counts: a right result, or an error that names the argument."""

import contextlib
import copy
import inspect

import pytest
import snntorch
import torch
from torch import nn

pytest.importorskip("hypothesis", reason="hypothesis (extra: dev) is missing")
from _fuzz import (
    ANYTHING,
    FLAG,
    INF,
    NETS,
    NEURONS,
    OPTIONS,
    REFUSED,
    SEQUENCES,
    N,
    attempt,
    calls,
    copied,
    finite,
    fuzz,
    mostly,
    optional,
    tensors,
    vectors,
)
from hypothesis import strategies as st  # noqa: E402

import snntorch_bpsta as snn  # noqa: E402
from snntorch_bpsta import energy, flow, networks  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


# --- layers ---------------------------------------------------------------------------------------


LAYERS = {
    "flatten": nn.Flatten,
    "linear": lambda: nn.Linear(N, N),
    "relu": nn.ReLU,
    "identity": nn.Identity,
    "sequential": lambda: nn.Sequential(nn.ReLU(), snn.Leaky(beta=0.5)),
    "direct": lambda: snn.DirectEncoding(4),
    "dropout": lambda: snn.NeuronDropout(0.0),
    "voting": lambda: snn.Voting(1),
    "inner": lambda: snn.MultiStep(nn.Identity(), snn.Leaky(beta=0.3), batch_first=True),
    "leaky": lambda: snn.Leaky(beta=0.7, threshold=0.5, spatial_adj=True, temporal_alpha=0.8),
    "lapicque": lambda: snn.Lapicque(beta=0.7, temporal_alpha=0.8),
    "synaptic": lambda: snn.Synaptic(alpha=0.8, beta=0.7, spatial_adj=True),
    "recurrent": lambda: snn.RLeaky(beta=0.7, V=0.5, all_to_all=False),
    "host": lambda: snntorch.Leaky(beta=0.7),
    "host-hidden": lambda: snntorch.Synaptic(alpha=0.8, beta=0.7, init_hidden=True),
}


def by_hand(layers, x):
    """What a MultiStep net of these layers computes, step by step."""
    for layer in layers:
        if isinstance(layer, snntorch.SpikingNeuron):
            states, rec = (), []
            for x_t in x:
                out = layer(x_t, *states)
                spk, *after = out if isinstance(out, tuple) else (out,)
                states = () if layer.init_hidden else (spk, *after) if isinstance(layer, snntorch.RLeaky) else after
                rec.append(spk)
            x = torch.stack(rec)
        elif isinstance(layer, nn.Sequential):
            x = by_hand(layer, x)
        elif isinstance(layer, (snn.DirectEncoding, snn.NeuronDropout)):
            x = layer(x)
        else:
            x = torch.stack([layer(x_t) for x_t in x])
    return x


@fuzz("MultiStep", examples=200, draws=st.data())
def test_multistep(draws):
    chosen = draws.draw(st.lists(st.sampled_from(sorted(LAYERS)), max_size=4), label="layers")
    layers = [LAYERS[name]() for name in chosen]
    if draws.draw(st.integers(0, 7)) == 0:
        layers.insert(draws.draw(st.integers(0, len(layers))), draws.draw(ANYTHING))
    flags = draws.draw(calls(most=1, batch_first=FLAG, fold=FLAG), label="flags")
    net = attempt(snn.MultiStep, *layers, **flags)
    if net is REFUSED:
        return
    assert repr(net) and len(net[:1]) == min(1, len(layers))
    x = draws.draw(mostly(tensors((3, 2, N)), st.one_of(tensors(SEQUENCES), ANYTHING)), label="input_")
    same_net = copy.deepcopy(net)
    try:
        steps = copied(x).transpose(0, 1) if net.batch_first else copied(x)
        expected = by_hand(same_net, steps)
        expected = expected.transpose(0, 1) if net.batch_first else expected
        assert x.dim() > 2
    except Exception:  # a layer cannot take it, nor in our hands
        with contextlib.suppress(Exception):
            net(x)
        return
    out = attempt(net.forward, x)
    if out is not REFUSED and x.dtype in (torch.float32, torch.float64):
        assert out.shape == expected.shape
        assert out.is_meta or torch.allclose(out.double(), expected.double(), equal_nan=True)


@fuzz("which", examples=60, draws=st.data())
def test_which(draws):
    net = snn.MultiStep(*(LAYERS[name]() for name in draws.draw(st.lists(st.sampled_from(sorted(LAYERS)), max_size=3))))
    net = draws.draw(mostly(st.just(net), ANYTHING), label="net")
    x = draws.draw(mostly(tensors((3, 2, N)), ANYTHING), label="input_")
    if isinstance(net, nn.Module):
        try:
            copy.deepcopy(net)(copied(x))
        except Exception:  # the net cannot take it
            with contextlib.suppress(Exception):
                snn.which(net, x)
            return
    how = attempt(snn.which, net, x)
    if how is not REFUSED:
        assert set(how) <= {name for name, _ in net.named_modules()}
        assert all(isinstance(words, str) and words for words in how.values())


@fuzz("check", "wake", "Checkup", "LayerCheck", examples=60, draws=st.data())
def test_check_and_wake(draws):
    net = snn.MultiStep(*(LAYERS[name]() for name in draws.draw(st.lists(st.sampled_from(sorted(LAYERS)), max_size=3))))
    net = draws.draw(mostly(st.just(net), ANYTHING), label="net")
    x = draws.draw(mostly(tensors((3, 2, N)), ANYTHING), label="input_")
    rate = draws.draw(mostly(st.sampled_from([0.1, 0.5, 1e-9]), ANYTHING), label="rate")
    loss = draws.draw(mostly(st.sampled_from([None, torch.sum]), st.sampled_from([1, "sum", [None]])), label="loss")
    if isinstance(net, nn.Module):
        try:
            copy.deepcopy(net)(copied(x))
        except Exception:  # the net cannot take it
            with contextlib.suppress(Exception):
                snn.check(net, x)
            with contextlib.suppress(Exception):
                snn.wake(net, x)
            return
    rows = attempt(snn.check, net, x, loss=loss)
    if rows is not REFUSED:
        assert len(str(rows).splitlines()) >= 1 + len(rows) > 1
        assert all(
            isinstance(row, snn.LayerCheck) and 0 <= row.never <= 1 and 0 <= row.zero_gradients <= 1 for row in rows
        )
    done = attempt(snn.wake, net, x, rate=rate, naming=["net", "rate", "layer", "neurons"])
    assert done is REFUSED or done is net


@fuzz("ConvBlock", examples=60, arguments=calls(
    in_channels=st.sampled_from([1, 2]), out_channels=st.sampled_from([1, 3]), num_steps=optional(None, 1, 4),
    neuron=st.sampled_from([snn.Leaky(beta=0.5), snntorch.Leaky(beta=0.5), nn.Identity()]),
), x=tensors(st.sampled_from([(1, 2, 1, 4, 4), (1, 1, 2, 3, 3)]), [torch.float32]))  # fmt: skip
def test_conv_block(arguments, x):
    block = attempt(snn.ConvBlock, **arguments)
    if block is REFUSED or x.shape[2] != arguments["in_channels"]:
        return
    out = snn.MultiStep(block)(x)
    steps = arguments.get("num_steps") or len(x)
    assert out.shape == (steps, x.shape[1], arguments["out_channels"], *x.shape[3:])


SIMPLE = {
    "Voting": ({"voters": st.sampled_from([1, 2, 10])}, [(2, 3, 20), (0, 10), (10,), (2, 0), (2, 7)]),
    "NeuronDropout": ({"p": st.sampled_from([0.0, 0.3, 1.0, 1])}, [(2, 3, 4), (3, 0, 2), (1,), (), (0, 2)]),
    "DirectEncoding": ({"num_steps": st.sampled_from([1, 4])}, [(1, 2, 3), (3, 2), (1,), (), (0, 2)]),
}


@pytest.mark.parametrize("name", SIMPLE)
@fuzz(*SIMPLE, examples=80, draws=st.data())
def test_simple_layers(name, draws):
    sane, shapes = SIMPLE[name]
    arguments = draws.draw(calls(most=1, **sane), label="arguments")
    layer = attempt(getattr(snn, name), **arguments)
    if layer is REFUSED:
        return
    x = draws.draw(mostly(tensors(st.sampled_from(shapes))), label="x")
    out = attempt(layer.forward, x, naming=arguments)
    if out is REFUSED:
        return
    (value,) = arguments.values()
    if name == "Voting":
        assert out.shape == (*x.shape[:-1], x.shape[-1] // value) and out.dtype == x.dtype
    elif name == "NeuronDropout":
        assert out.shape == x.shape and out.dtype == x.dtype
        if not x.is_meta:
            ratio = (out / x)[(x.abs() > 1e-3) & x.isfinite() & out.isfinite()].double()
            assert ((ratio == 0) | ((ratio - 1 / (1 - value if value < 1 else 1)).abs() < 0.02)).all()
    else:
        assert out.shape == (value if len(x) == 1 else len(x), *x.shape[1:])


# --- energy ---------------------------------------------------------------------------------------


@fuzz("energy_ratio", examples=120, arguments=calls(
    firing_rate=st.sampled_from([0.0, -0.0, 5e-324, 0.3, 1, 1.0]), num_steps=st.sampled_from([1, 4, 16, 2.5]),
    e_ac_pj=optional(0.1, 0.9, 5e-324, 1e300),
))  # fmt: skip
def test_energy_ratio(arguments):
    ratio = attempt(energy.energy_ratio, **arguments)
    if ratio is not REFUSED:
        assert isinstance(ratio, float) and 0 <= ratio <= INF


@fuzz("record_firing_rates", "FiringRates", "FiringRates.rates", "FiringRates.mean", "FiringRates.penalty", examples=60,
      net=mostly(NETS), x=tensors((2, N)), differentiable=mostly(st.booleans()),
      layers=mostly(st.sampled_from([None, [], ["0"], ["none"]])))  # fmt: skip
def test_firing_rates(net, x, differentiable, layers):
    def record():
        with energy.record_firing_rates(net, differentiable) as firing:
            if isinstance(net, nn.Sequential):
                for neuron in (module for module in net.modules() if isinstance(module, tuple(NEURONS.values()))):
                    neuron(x)
        return firing

    firing = attempt(record, naming=["net", "differentiable"])
    if firing is not REFUSED:
        rate = attempt(firing.penalty, layers=layers)
        assert rate is REFUSED or 0 <= rate.item() <= 1
        assert 0 <= firing.mean() <= 1 and all(0 <= rate <= 1 for rate in firing.rates().values())
        assert not any(module._forward_hooks for module in net.modules())


@fuzz("count_operations", "Operations", "Operations.energy_ratio", examples=80, draws=st.data())
def test_operations(draws):
    net = draws.draw(mostly(st.builds(lambda: snn.MultiStep(nn.Linear(N, 2), snn.Leaky(beta=0.5), nn.Linear(2, 2)))))
    x = draws.draw(tensors((2, 2, N), [torch.float32]))

    def count():
        with energy.count_operations(net) as operations:
            if type(net) is snn.MultiStep:
                net(x)
        return operations

    operations = attempt(count, naming=["net"])
    if operations is REFUSED:
        return
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    arguments = draws.draw(calls(samples=st.integers(1, 9), e_ac_pj=optional(0.1, 0.9), e_mac_pj=optional(4.6)))
    ratio = attempt(operations.energy_ratio, **arguments)
    assert (
        ratio is REFUSED or ratio > 0 or not finite(x) or arguments["samples"] < 1
    )  # a part of a sample: 1 / infinity


@fuzz(
    "record_gradient_flow",
    "GradientFlow",
    "GradientFlow.mean",
    examples=40,
    net=mostly(st.builds(lambda: snn.MultiStep(snn.Leaky(beta=0.5, spatial_adj=True)))),
    x=tensors((2, 2, N), [torch.float32]),
)
def test_gradient_flow(net, x):
    def record():
        with flow.record_gradient_flow(net) as found:
            if type(net) is snn.MultiStep:
                net(x.detach().clone().requires_grad_()).sum().backward()
        return found

    found = attempt(record, naming=["net"])
    if found is not REFUSED:
        assert all(size.shape == (2,) for size in found.mean().values())
        assert not any(module._forward_pre_hooks for module in net.modules())


# --- networks -------------------------------------------------------------------------------------


NOTATIONS = st.one_of(
    st.sampled_from(
        ["4C3-MP2-10Voting", "2C3-AP2-6FC-DP-2Voting", "3Voting", "4FC-DP", "4C3", "DP", "4C3-4FC-2C3", "MP9-1FC"]
    ),
    st.from_regex(
        r"(\d{1,2}(C3|FC|Voting)|[MA]P\d{1,2}|DP)(-(\d{1,2}(C3|FC|Voting)|[MA]P\d|DP|x)){0,3}", fullmatch=True
    ),
)


BUILD = {
    "input_shape": st.sampled_from([(1, 8, 8), (2, 6, 5), [3, 4, 4], (1, 1, 1)]),
    "num_classes": optional(1, 3),
    "num_steps": optional(1, 3),
    "width": st.sampled_from([1.0, 0.5, 1, 1 / 32]),
    "readout": optional("spikes", "current"),
    "dropout": optional(0, 0.5, 1.0),
    "fold": FLAG,
    "beta": st.sampled_from([0.9, 0.5]),
    "threshold": optional(0.5),
    **OPTIONS,
}


def run_network(net, draws):
    """Through what was built goes an input that fits, or one that does not."""
    fits = st.sampled_from([(2, *net.input_shape), (3, 2, *net.input_shape)])
    x = draws.draw(mostly(tensors(fits, [torch.float32]), st.one_of(tensors(fits), ANYTHING)), label="x")
    if isinstance(x, torch.Tensor) and x.dtype != torch.float32:
        with contextlib.suppress(RuntimeError):  # of a layer of PyTorch's, in another dtype
            attempt(net.forward, x, naming=["beta", "threshold"])
        return
    out = attempt(net.forward, x, naming=["beta", "threshold"])
    if out is not REFUSED and net.notation.endswith("Voting"):
        assert out.dim() == 3 and out.shape[1:] == (2, net.num_classes)


@fuzz("build", "SpikingNetwork", examples=200, draws=st.data())
def test_build_a_network(draws):
    arguments = draws.draw(calls(notation=NOTATIONS, **{**BUILD, "beta": vectors(0.5)}), label="arguments")
    net = attempt(networks.build, naming=inspect.signature(snn.Leaky).parameters, **arguments)
    if net is not REFUSED:
        run_network(net, draws)


@pytest.mark.parametrize("name", ["small", "middle", "large"])
@fuzz("small", "middle", "large", examples=40, draws=st.data())
def test_networks_of_table_1(name, draws):
    shapes = st.sampled_from([(1, 8, 8), (2, 64, 64), [3, 32, 32], (1, 1, 1)])
    sane = {**BUILD, "width": st.just(1 / 64), "input_shape": shapes, "preset": optional("paper", "official_code")}
    arguments = draws.draw(calls(**{key: sane[key] for key in sane if key not in ("width", "beta")}), label="arguments")
    net = attempt(getattr(networks, name), width=1 / 64, naming=inspect.signature(snn.Leaky).parameters, **arguments)
    if net is not REFUSED and isinstance(arguments.get("input_shape"), (tuple, list)):
        assert isinstance(net, networks.SpikingNetwork) and net.input_shape == tuple(arguments["input_shape"])


@fuzz("SpikingNetwork", examples=60, draws=st.data())
def test_spiking_network(draws):
    layers = st.sampled_from([[], [nn.Flatten(2)], [snn.Leaky(beta=0.5)], (nn.Identity(),)])
    sane = {key: BUILD[key] for key in ("input_shape", "num_classes", "readout", "fold")}
    sane = {key: strategy.filter(lambda value: value is not ...) for key, strategy in sane.items()}
    arguments = draws.draw(calls(layers=layers, notation=NOTATIONS, **sane), label="arguments")
    net = attempt(networks.SpikingNetwork, **arguments)
    if net is not REFUSED:
        x = draws.draw(mostly(tensors((2, *net.input_shape))))
        out = attempt(net.forward, x)
        assert out is REFUSED or out.shape[0] == 1 or x.dim() == 5


@fuzz("set_warm_up", examples=60, arguments=calls(net=NETS, warm_up=st.sampled_from([None, "identity", "surrogate"])))
def test_set_warm_up(arguments):
    done = attempt(networks.set_warm_up, **arguments)
    if done is not REFUSED:
        ours = [module for module in arguments["net"].modules() if isinstance(module, tuple(NEURONS.values()))]
        assert all(module.warm_up == arguments["warm_up"] for module in ours)
