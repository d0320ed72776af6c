"""Half, bfloat16 and double nets, integers that are to be learnt, one value per channel: what snnTorch fails on."""

import pytest
import snntorch
import torch
from _family import (
    FAMILY,
    KINDS,
    RECURRENT,
    SERVED,
    B,
    N,
    T,
    currents,
    drive,
    each_kind,
)
from _nets import CALLABLE, MAPS, SURROGATES, make_net, make_neuron, states_of, step_loop
from torch import nn

import snntorch_bpsta as snn

# --- half, bfloat16 and double nets ---------------------------------------------------------------

DTYPES = {"half": torch.float16, "bfloat16": torch.bfloat16, "double": torch.float64}


def conv_net(lib, kind, option="off", **kwargs):
    kwargs = dict(threshold=0.1, init_hidden=True) | kwargs
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, MAPS[1], 3, padding=1),
        make_neuron(lib, kind, option, maps=True, **kwargs),
        nn.Flatten(),
        nn.Linear(MAPS[1] * MAPS[2] * MAPS[3], N),
        make_neuron(lib, kind, option, **kwargs),
        nn.Linear(N, 2),
    )


def train_one_step(net, dtype):
    """Forward over time, loss, backward, SGD. Returns the outputs, and the names of the parameters that moved."""
    optimiser = torch.optim.SGD(net.parameters(), lr=0.5)
    out = torch.stack([net(frame) for frame in currents(T, MAPS[0], 1, *MAPS[2:], dtype=dtype) * 4])
    out.pow(2).sum().backward()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimiser.step()
    return out, {name for name, p in net.named_parameters() if not torch.equal(p, before[name])}


@pytest.mark.parametrize("dtype", DTYPES)
@each_kind
def test_the_host_fails_in_other_precisions(kind, dtype):
    with pytest.raises(RuntimeError, match="dtype|type"):
        train_one_step(conv_net(snntorch, kind).to(DTYPES[dtype]), DTYPES[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind, option", [case for case in SERVED if case[1] != "spatial" or case[0] == "Alpha"])
def test_nets_in_other_precisions_train(kind, option, dtype):
    dtype = DTYPES[dtype]
    net = conv_net(snn, kind, option, learn_threshold=True).to(dtype)
    out, moved = train_one_step(net, dtype)
    assert out.dtype == dtype and out.isfinite().all()
    assert all(p.dtype == dtype and p.isfinite().all() for p in net.parameters())
    assert {"0.weight", "3.weight", "5.weight", "1.threshold"} <= moved
    for lif in (net[1], net[4]):
        assert all(state.dtype == dtype for state in states_of(lif).values())
        assert states_of(lif)["mem"].count_nonzero()


@pytest.mark.parametrize("dtype", DTYPES)
@each_kind
def test_states_that_the_user_holds_in_other_precisions(kind, dtype):
    dtype = DTYPES[dtype]
    lif = make_neuron(snn, kind).to(dtype)
    rows = step_loop(lif, currents(T, B, N, dtype=dtype).requires_grad_())
    assert rows.dtype == dtype
    rows.sum().backward()
    out = lif.sequence(currents(T, B, N, dtype=dtype))
    assert all(part.dtype == dtype for part in out)


def test_a_state_of_one_byte_a_number_is_the_hosts():
    """Whose spikes of it are float32: nothing adds to them otherwise."""
    given = torch.tensor(0.9925), torch.tensor(1.0).to(torch.float8_e5m2)
    options = {"beta": 0.0, "threshold": torch.ones(1), "reset_mechanism": "zero"}
    (spk, mem), expected = (lib.Leaky(**options)(*given) for lib in (snn, snntorch))
    assert mem.dtype == expected[1].dtype and torch.equal(spk, expected[0]) and torch.equal(mem, expected[1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("key", CALLABLE)
def test_every_surrogate_in_other_precisions(key, dtype):
    dtype = DTYPES[dtype]
    net = make_net(snn, "Leaky", spike_grad=SURROGATES[key]()).to(dtype)
    result = drive(net, currents(T, B, N, dtype=dtype))
    assert all(value.dtype == dtype for value in result.values())
    assert result["d2.weight"].count_nonzero()
    if not key.startswith("sigmoid"):  # the formula of the host's overflows in half precision
        assert result["d0.weight"].isfinite().all()


@each_kind
def test_hidden_states_move_with_the_module(kind):
    net = make_net(snn, kind, "spatial")
    net(currents(B, N))
    before = {key: state.detach().clone() for key, state in states_of(net[1]).items()}
    net.double()
    for key, state in states_of(net[1]).items():
        assert state.dtype == torch.float64 and torch.equal(state.float(), before[key]), key
    assert net(currents(B, N, dtype=torch.float64)).dtype == torch.float64
    net.to("meta")
    assert all(state.is_meta for state in states_of(net[1]).values())


# --- integers that are to be learnt ---------------------------------------------------------------

INTEGERS = [
    (name, what)
    for name in KINDS
    for what in ("beta", "threshold", "alpha", "V")
    if not (what == "alpha" and name not in ("Synaptic", "RSynaptic")) and not (what == "V" and name not in RECURRENT)
]
each_integer = pytest.mark.parametrize("kind, what", INTEGERS, ids=["-".join(case) for case in INTEGERS])
VALUES = {
    "int": lambda v: v,
    "tensor": lambda v: torch.tensor(v),
    "bool": bool,
    "int32 of one": lambda v: torch.tensor([v], dtype=torch.int32),
}


def integer(kind, what, value=1):
    kwargs = {what: 0 if (kind, what) == ("Alpha", "beta") and value == 1 else value}
    if what == "V":
        return kwargs | dict(linear_features=None, all_to_all=False, learn_recurrent=True)
    return kwargs | {f"learn_{what}": True}


@each_integer
def test_the_host_does_not_name_the_integer(kind, what):
    with pytest.raises(RuntimeError) as error:
        make_neuron(snntorch, kind, **integer(kind, what))
    assert what not in str(error.value)


@pytest.mark.parametrize("form", VALUES)
@each_integer
def test_an_integer_to_be_learnt_is_refused_by_name(kind, what, form):
    kwargs = integer(kind, what)
    kwargs[what] = VALUES[form](kwargs[what])
    flag = "learn_recurrent" if what == "V" else f"learn_{what}"
    with pytest.raises(ValueError, match=flag) as error:
        make_neuron(snn, kind, **kwargs)
    assert what in str(error.value) and "float" in str(error.value)
    assert snntorch.SpikingNeuron.instances == [], "half a neuron in the registry"


def test_an_integer_factor_to_be_learnt_is_refused_by_name():
    with pytest.raises(ValueError, match="learn_graded_spikes_factor"):
        snn.Leaky(0.9, graded_spikes_factor=1, learn_graded_spikes_factor=True)


@each_kind
def test_integers_that_are_not_learnt_are_the_hosts(kind):
    kwargs = dict(threshold=1) | ({} if kind in ("Alpha", "Lapicque") else dict(beta=1))
    cur = currents(T, B, N)
    assert torch.equal(
        step_loop(make_neuron(snn, kind, **kwargs), cur), step_loop(make_neuron(snntorch, kind, **kwargs), cur)
    )


# --- one value per channel of feature maps --------------------------------------------------------

PER_CHANNEL = [
    (name, what) for name in KINDS for what in ("alpha", "beta", "threshold") if what in FAMILY[name].per_neuron
]
each_channel = pytest.mark.parametrize("kind, what", PER_CHANNEL, ids=["-".join(case) for case in PER_CHANNEL])


def per_channel(kind, what, *shape):
    low = {"beta": 0.3, "alpha": 0.85, "threshold": 0.3}[what]
    high = {"beta": 0.75, "alpha": 0.95, "threshold": 0.8}[what]
    return {what: torch.linspace(low, high, MAPS[1]).reshape(MAPS[1], *shape)}


@each_channel
def test_the_host_does_not_name_the_value_per_channel(kind, what):
    lif = make_neuron(snntorch, kind, maps=True, **per_channel(kind, what))
    with pytest.raises(RuntimeError, match="size of tensor") as error:
        lif(currents(*MAPS))
    assert what not in str(error.value)


@pytest.mark.parametrize("how", ["step", "sequence"])
@pytest.mark.parametrize("option", ["off", "spatial"])
@each_channel
def test_a_value_per_channel_names_its_shape(kind, what, option, how):
    lif = make_neuron(snn, kind, option, maps=True, **per_channel(kind, what))
    with pytest.raises(ValueError, match=what) as error:
        lif(currents(*MAPS)) if how == "step" else lif.sequence(currents(T, *MAPS))
    assert "(4, 1, 1)" in str(error.value)


@pytest.mark.parametrize("option", ["off", "spatial"])
@each_channel
def test_the_shape_that_it_names_works(kind, what, option):
    kwargs = per_channel(kind, what, 1, 1)
    ours, host = make_neuron(snn, kind, option, maps=True, **kwargs), make_neuron(snntorch, kind, maps=True, **kwargs)
    assert torch.equal(step_loop(ours, currents(T, *MAPS)), step_loop(host, currents(T, *MAPS)))


@each_kind
def test_a_value_per_neuron_of_a_dense_layer_is_the_hosts(kind):
    kwargs = dict(threshold=torch.linspace(0.3, 0.8, N))
    cur = currents(T, B, N)
    assert torch.equal(
        step_loop(make_neuron(snn, kind, **kwargs), cur), step_loop(make_neuron(snntorch, kind, **kwargs), cur)
    )


@pytest.mark.parametrize("how", ["step", "sequence"])
@pytest.mark.parametrize("option", ["off", "spatial"])
@pytest.mark.parametrize("kind", RECURRENT)
def test_a_step_under_autocast_and_one_without(kind, option, how):
    """The spikes that are fed back were left in half precision, and the recurrence has its weights in full."""
    net, plain = (make_net(snn, kind, option, linear_features=N, all_to_all=True) for _ in range(2))
    cur = currents(3, B, N)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        net(cur[0])
    assert net[1].spk.count_nonzero() or net[1].mem.count_nonzero()
    for name, state in states_of(net[1]).items():
        setattr(plain[1], name, state.float() if name == "spk" else state)
    if how == "step":
        outs = [part(cur[1]) for part in (net, plain)]
    else:
        outs = [part[1].sequence(part[0](cur[1:]))[0] for part in (net, plain)]
    assert torch.equal(*outs) and outs[0].dtype == torch.float32
