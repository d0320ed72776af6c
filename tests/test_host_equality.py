"""Options off: the host, bit for bit. Options on: the host's spikes and membranes, bit for bit."""

import copy
import inspect
import io
import itertools
import pickle
import warnings

import pytest
import snntorch
import torch
from _tolerance import assert_close
from hypothesis import given, settings
from hypothesis import strategies as st
from snntorch import surrogate as host_surrogate
from snntorch import utils as host_utils
from snntorch.functional import quant
from torch import nn

import snntorch_bpsta as snn

T, B, N = 5, 3, 7
QUANT = quant.state_quant(num_bits=4, threshold=1.0)

pytestmark = pytest.mark.filterwarnings("ignore:Inhibition is an unstable feature")


def currents(*shape, seed=0, dtype=torch.float32):
    """Mixed: neurons that stay silent, fire now and then, fire always, and fall below zero."""
    gen = torch.Generator().manual_seed(seed)
    return (torch.rand(*shape, generator=gen, dtype=torch.float64) * 2.0 - 0.4).to(dtype)


def build(cls, kwargs):
    """A neuron with tensors of its own, so that two of them share no parameter."""
    own = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in kwargs.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return cls(**own)


def run(lif, cur, mem0="tensor", how="step", every_mem=True):
    """Drive a neuron through a sequence; return every output and every gradient by name.

    `how` is "step", "sequence" or "multistep" (the call with that flag). `mem0` is "tensor",
    "zeros", "init" (what `init_leaky` returns) or "none", and of no effect with init_hidden. The
    loss weighs each output with a random number of its own; membranes before the last only where
    `every_mem`.
    """
    lif.zero_grad()
    cur = cur.clone().requires_grad_()
    gen = torch.Generator().manual_seed(7)
    w_spk = torch.randn(cur.shape, generator=gen, dtype=torch.float64).to(cur.dtype)
    w_mem = torch.randn(cur.shape, generator=gen, dtype=torch.float64).to(cur.dtype)
    start = None
    result = {}
    if not lif.init_hidden:
        if mem0 == "tensor":
            start = (torch.rand(cur.shape[1:], generator=gen, dtype=torch.float64) * 2).to(cur.dtype)
            start.requires_grad_()
        elif mem0 == "init":
            start = lif.init_leaky()
        elif mem0 == "zeros":
            start = torch.zeros_like(cur[0])

    if how == "step":
        spks, mems, mem = [], [], start
        for t in range(len(cur)):
            if lif.init_hidden:
                out = lif(cur[t])
                spk, mem = out if lif.output else (out, lif.mem)
            else:
                spk, mem = lif(cur[t], mem)
            spks.append(spk)
            mems.append(mem)
        spk_rec = torch.stack(spks)
        mem_loss = sum((m * w).sum() for m, w in zip(mems, w_mem, strict=True)) if every_mem else 0
        if every_mem:
            result["mem_rec"] = torch.stack(mems)
    else:
        args = (cur,) if start is None else (cur, start)
        options = {"impl": "reference"}  # the one that equals the loop to the bit, gradients included
        out = lif.sequence(*args, **options) if how == "sequence" else lif(*args, multistep=True, **options)
        spk_rec, mem = out if isinstance(out, tuple) else (out, lif.mem)
        mem_loss = 0
        assert not every_mem
    if not every_mem:
        mem_loss = (mem * w_mem[-1]).sum()
    result |= {"spk_rec": spk_rec, "mem": mem, "hidden": lif.mem}

    torch.manual_seed(3)  # the host's SSO draws its gradient
    ((spk_rec * w_spk).sum() + mem_loss).backward()
    result["dinput"] = cur.grad
    if start is not None and start.is_leaf and start.requires_grad:
        result["dmem0"] = start.grad
    for name, parameter in lif.named_parameters():
        result["d" + name] = parameter.grad
    return result


def assert_same(ours, host, names=None, cast=False, exact=True):
    """Equal to the bit, and of one dtype; NaN equals NaN. With `cast`, dtypes may differ. Where not `exact`, gradients
    are equal to rounding: a single step with options on is the kernels'."""
    if names is None:
        assert ours.keys() == host.keys()
    for name in names or host:
        a, b = ours[name], host[name]
        if b is None or a is None:
            assert a is b, f"{name}: {a} against {b}"
            continue
        assert a.shape == b.shape, name
        assert cast or a.dtype == b.dtype, f"{name}: {a.dtype} against {b.dtype}"
        if not exact and name.startswith("d"):
            assert_close(a, b, a.dtype, b.abs().max(), name)
            continue
        a, b = a.to(torch.float64), b.to(torch.float64)
        same = (a == b) | (a.isnan() & b.isnan())
        assert bool(same.all()), f"{name} differs by up to {(a - b).abs().max().item():.3e}"


# --- options off ----------------------------------------------------------------------------------

PER_NEURON_BETA = torch.linspace(-0.1, 1.1, N)  # both ends of the clamp are crossed
PER_NEURON_THRESHOLD = torch.linspace(0.4, 1.3, N)

SETTINGS = {
    "scalar": dict(beta=0.9),
    "tensors": dict(
        beta=PER_NEURON_BETA,
        threshold=PER_NEURON_THRESHOLD,
        graded_spikes_factor=torch.tensor(0.7),
        learn_graded_spikes_factor=True,
    ),
    "inhibition": dict(beta=torch.tensor(0.8), threshold=0.6, inhibition=True, graded_spikes_factor=2.0),
    "quantised": dict(beta=0.7, threshold=0.75, state_quant=QUANT, spike_grad=host_surrogate.fast_sigmoid(slope=5)),
    "bypass": dict(beta=0.5, threshold=torch.tensor([0.5]), surrogate_disable=True),
}
FLAGS = ("init_hidden", "output", "reset_delay", "learn_beta", "learn_threshold")
SHORT = dict(zip(FLAGS, ("hidden", "output", "delay", "lbeta", "lthr"), strict=True))


def grid():
    for setting, reset in itertools.product(SETTINGS, ("subtract", "zero", "none")):
        for values in itertools.product((False, True), repeat=len(FLAGS)):
            flags = dict(zip(FLAGS, values, strict=True))
            on = [SHORT[f] for f in FLAGS if flags[f]]
            kwargs = SETTINGS[setting] | flags | {"reset_mechanism": reset}
            yield pytest.param(kwargs, id="-".join([setting, reset, *(on or ["plain"])]))


@pytest.mark.parametrize("kwargs", list(grid()))
def test_options_off_is_the_host(kwargs):
    cur = currents(T, B, N)
    assert_same(run(build(snn.Leaky, kwargs), cur), run(build(snntorch.Leaky, kwargs), cur))


SURROGATES = {
    "straight_through": host_surrogate.straight_through_estimator(),
    "triangular": host_surrogate.triangular(threshold=0.8),
    "fast_sigmoid": host_surrogate.fast_sigmoid(),
    "atan": host_surrogate.atan(alpha=3.0),
    "heaviside": host_surrogate.heaviside(),
    "sigmoid": host_surrogate.sigmoid(slope=10),
    "spike_rate_escape": host_surrogate.spike_rate_escape(beta=2, slope=3),
    "SSO": host_surrogate.SSO(mean=0.1),
    "SFS": host_surrogate.SFS(slope=3, B=0.1),
    "custom": host_surrogate.custom_surrogate(lambda x, g, spk: g * spk / (1 + x * x)),
}


@pytest.mark.parametrize("reset_delay", [True, False], ids=["delay", "nodelay"])
@pytest.mark.parametrize("reset", ["subtract", "zero", "none"])
@pytest.mark.parametrize("name", SURROGATES)
def test_options_off_every_host_surrogate(name, reset, reset_delay):
    kwargs = dict(
        beta=0.9,
        threshold=0.6,
        spike_grad=SURROGATES[name],
        reset_mechanism=reset,
        reset_delay=reset_delay,
        learn_threshold=True,
    )
    cur = currents(T, B, N, seed=1)
    assert_same(run(build(snn.Leaky, kwargs), cur), run(build(snntorch.Leaky, kwargs), cur))


@pytest.mark.parametrize("mem0", ["none", "init", "tensor"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 5), (3, 2, 3, 4, 5), (2, 0, 3)], ids=str)
def test_options_off_shapes_and_starts(shape, mem0):
    kwargs = dict(beta=0.9, threshold=0.5, reset_mechanism="zero")
    cur = currents(*shape, seed=2)
    assert_same(
        run(build(snn.Leaky, kwargs), cur, mem0=mem0),
        run(build(snntorch.Leaky, kwargs), cur, mem0=mem0),
    )


def test_options_off_in_double_keeps_the_dtype():
    """The host's values; its spikes, and the gradients through them, are float32."""
    kwargs = dict(beta=0.9, threshold=0.5, learn_beta=True)
    cur = currents(T, B, N, dtype=torch.float64)
    ours, host = run(build(snn.Leaky, kwargs), cur), run(build(snntorch.Leaky, kwargs), cur)
    assert_same(ours, host, VALUES, cast=True)
    assert host["spk_rec"].dtype == torch.float32 and ours["spk_rec"].dtype == torch.float64
    for name in ("dinput", "dmem0", "dbeta"):
        assert_close(ours[name], host[name], torch.float32, host[name].abs().max(), name)


@pytest.mark.parametrize("spike_grad", [None, host_surrogate.fast_sigmoid()], ids=["default", "closure"])
def test_options_off_under_autocast_is_the_host(spike_grad):
    """The host goes on in float32 there, from the second step on."""
    kwargs = dict(beta=0.9, threshold=0.5, spike_grad=spike_grad, learn_beta=True)
    cur = currents(T, B, N, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        ours, host = (run(build(cls, kwargs), cur, mem0="none") for cls in (snn.Leaky, snntorch.Leaky))
    assert host["mem"].dtype == torch.float32
    assert_same(ours, host, VALUES)


ODD_STEPS = {
    "integer-input": (torch.tensor([[0, 1, 2]]), 0.9),
    "beta-that-grows-the-neurons": (torch.ones(B, 1), torch.linspace(0.1, 0.9, N)),
    "no-batch": (torch.tensor([0.2, 0.7, 1.2]), 0.9),
    "a-number": (torch.tensor(1.2), 0.9),
}


@pytest.mark.parametrize("name", ODD_STEPS)
def test_options_off_lets_through_what_the_host_lets_through(name):
    cur, beta = ODD_STEPS[name]
    ours, host = snn.Leaky(beta), snntorch.Leaky(beta)
    a, b = None, None
    for _ in range(3):
        (spk_a, a), (spk_b, b) = ours(cur, a), host(cur, b)
        assert_same({"spk": spk_a, "mem": a}, {"spk": spk_b, "mem": b})


def test_positional_arguments_mean_what_they_mean_in_the_host():
    args = (
        0.8,
        0.6,
        host_surrogate.fast_sigmoid(),
        False,
        True,
        False,
        True,
        True,
        "zero",
        False,
        True,
    )
    args += (torch.tensor(0.5), True, False)
    assert len(args) == len(inspect.signature(snntorch.Leaky).parameters)
    cur = currents(T, B, N)
    ours, host = snn.Leaky(*copy.deepcopy(args)), snntorch.Leaky(*copy.deepcopy(args))
    assert_same(run(ours, cur), run(host, cur))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_options_off_any_arguments(data):
    draw = data.draw
    shape = draw(st.sampled_from([(B, N), (1, 1), (2, 3, 4), (2, 3, 4, 5)]))
    last = shape[-1]
    number = st.floats(0.0625, 2.0, width=32)
    beta = draw(st.one_of(st.floats(-0.5, 1.5, width=32), st.lists(number, min_size=last, max_size=last)))
    threshold = draw(st.one_of(number, st.lists(number, min_size=last, max_size=last)))
    kwargs = dict(
        beta=torch.tensor(beta) if isinstance(beta, list) else beta,
        threshold=torch.tensor(threshold) if isinstance(threshold, list) else threshold,
        spike_grad=draw(st.sampled_from([None, *SURROGATES.values()])),
        surrogate_disable=draw(st.booleans()),
        init_hidden=draw(st.booleans()),
        inhibition=len(shape) == 2 and draw(st.booleans()),
        learn_beta=draw(st.booleans()),
        learn_threshold=draw(st.booleans()),
        reset_mechanism=draw(st.sampled_from(["subtract", "zero", "none"])),
        state_quant=draw(st.sampled_from([False, QUANT])),
        output=draw(st.booleans()),
        graded_spikes_factor=draw(number),
        learn_graded_spikes_factor=draw(st.booleans()),
        reset_delay=draw(st.booleans()),
    )
    cur = currents(draw(st.integers(1, 6)), *shape, seed=draw(st.integers(0, 99)))
    assert_same(run(build(snn.Leaky, kwargs), cur), run(build(snntorch.Leaky, kwargs), cur))


# --- options on: the forward is the host's --------------------------------------------------------

OPTIONS = {
    "spatial": dict(spatial_adj=True),
    "temporal": dict(temporal_alpha=0.8),
    "both": dict(spatial_adj=True, temporal_alpha=0.8),
    "both-alpha1": dict(spatial_adj=True, temporal_alpha=1.0),
    "rectangle": dict(temporal_alpha=0.3, spike_grad=snn.surrogate.rectangle(0.7)),
}
# spike_grad goes with spatial_adj=False only, and the forward pass is the same for all.
FORWARD = {k: {a: b for a, b in v.items() if a != "spike_grad"} for k, v in SETTINGS.items() if k != "bypass"}


def grid_on():
    for option, setting, reset in itertools.product(OPTIONS, FORWARD, ("zero", "subtract", "none")):
        for delay, hidden, output in itertools.product((True, False), repeat=3):
            if OPTIONS[option].get("temporal_alpha") and (reset == "none" or not delay):
                continue  # refused at construction: test_validation
            kwargs = FORWARD[setting] | dict(
                reset_mechanism=reset, reset_delay=delay, init_hidden=hidden, output=output
            )
            on = [w for w, f in (("delay", delay), ("hidden", hidden), ("output", output)) if f] or ["plain"]
            yield pytest.param(kwargs, OPTIONS[option], id="-".join([option, setting, reset, *on]))


VALUES = ("spk_rec", "mem_rec", "mem", "hidden")


@pytest.mark.parametrize(("kwargs", "options"), list(grid_on()))
def test_options_on_fires_as_the_host(kwargs, options):
    cur = currents(T, B, N, seed=4)
    ours, host = (
        run(build(snn.Leaky, kwargs | options), cur),
        run(build(snntorch.Leaky, kwargs), cur),
    )
    assert host["spk_rec"].count_nonzero() > 0
    assert_same(ours, host, VALUES)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 5), (3, 2, 3, 4, 5), (2, 0, 3)], ids=str)
def test_options_on_shapes(shape, option):
    kwargs = dict(beta=0.9, threshold=0.5, reset_mechanism="zero")
    cur = currents(*shape, seed=5)
    ours, host = (
        run(build(snn.Leaky, kwargs | OPTIONS[option]), cur),
        run(build(snntorch.Leaky, kwargs), cur),
    )
    assert_same(ours, host, VALUES)


@pytest.mark.parametrize("option", OPTIONS)
def test_options_on_in_double_keeps_the_dtype(option):
    kwargs = dict(beta=0.9, threshold=0.5, reset_mechanism="zero")
    cur = currents(T, B, N, dtype=torch.float64)
    ours, host = (
        run(build(snn.Leaky, kwargs | OPTIONS[option]), cur),
        run(build(snntorch.Leaky, kwargs), cur),
    )
    assert_same(ours, host, VALUES, cast=True)
    assert ours["spk_rec"].dtype == ours["mem"].dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("option", OPTIONS)
def test_options_on_in_half_keeps_the_dtype(option, dtype):
    lif = snn.Leaky(beta=0.9, threshold=0.5, reset_mechanism="zero", **OPTIONS[option]).to(dtype)
    result = run(lif, currents(T, B, N, dtype=dtype))
    assert {result[k].dtype for k in ("spk_rec", "mem", "dinput", "dmem0")} == {dtype}
    assert 0 < result["spk_rec"].count_nonzero() < result["spk_rec"].numel()
    assert result["dinput"].isfinite().all()


@pytest.mark.parametrize("option", OPTIONS)
def test_options_on_wrong_mem_shape_starts_at_zero_as_in_the_host(option):
    kwargs = dict(beta=0.9, threshold=0.5, reset_mechanism="zero")
    cur = currents(B, N)
    ours = snn.Leaky(**kwargs, **OPTIONS[option])(cur, torch.ones(B + 1, N))
    host = snntorch.Leaky(**kwargs)(cur, torch.ones(B + 1, N))
    assert torch.equal(ours[0], host[0]) and torch.equal(ours[1], host[1])


@pytest.mark.parametrize("option", ["off", *OPTIONS])
def test_mem_with_init_hidden_is_refused_as_in_the_host(option):
    lif = snn.Leaky(beta=0.9, init_hidden=True, **OPTIONS.get(option, {}))
    with pytest.raises(TypeError, match="mem"):
        lif(currents(B, N), torch.zeros(B, N))
    with pytest.raises(TypeError, match="mem"):
        lif.sequence(currents(T, B, N), torch.zeros(B, N))


# --- sequence() is the step loop ------------------------------------------------------------------


def grid_sequence():
    for option, setting, reset in itertools.product(("off", *OPTIONS), SETTINGS, ("zero", "subtract", "none")):
        options = OPTIONS.get(option, {})
        alpha = options.get("temporal_alpha")
        if setting == "bypass" and option != "off":
            continue  # surrogate_disable leaves nothing to adjust
        base = SETTINGS["bypass"] if setting == "bypass" else FORWARD[setting]
        for delay, hidden in itertools.product((True, False), repeat=2):
            if alpha and (reset == "none" or not delay):
                continue
            kwargs = base | dict(reset_mechanism=reset, reset_delay=delay, init_hidden=hidden)
            kwargs |= dict(learn_beta=True, learn_threshold=True) | options
            on = [w for w, f in (("delay", delay), ("hidden", hidden)) if f] or ["plain"]
            yield pytest.param(kwargs, id="-".join([option, setting, reset, *on]))


@pytest.mark.parametrize("kwargs", list(grid_sequence()))
def test_sequence_is_the_step_loop(kwargs):
    cur = currents(T, B, N, seed=6)
    step = run(build(snn.Leaky, kwargs), cur, every_mem=False)
    sequence = run(build(snn.Leaky, kwargs), cur, how="sequence", every_mem=False)
    names = step.keys() - {"hidden"} | ({"hidden"} if kwargs["init_hidden"] else set())
    options = kwargs.get("spatial_adj") or kwargs.get("temporal_alpha")
    assert_same(sequence, step, sorted(names), exact=not options)


@pytest.mark.parametrize("option", ["off", *OPTIONS])
@pytest.mark.parametrize("mem0", ["none", "tensor"])
def test_multistep_flag_is_sequence(option, mem0):
    kwargs = dict(beta=0.9, threshold=0.5, reset_mechanism="zero") | OPTIONS.get(option, {})
    cur = currents(T, B, N, seed=8)
    flag = run(build(snn.Leaky, kwargs), cur, mem0=mem0, how="multistep", every_mem=False)
    sequence = run(build(snn.Leaky, kwargs), cur, mem0=mem0, how="sequence", every_mem=False)
    assert_same(flag, sequence)


@pytest.mark.parametrize("option", ["off", *OPTIONS])
def test_sequence_continues_from_the_hidden_membrane(option):
    kwargs = dict(beta=0.9, threshold=0.5, reset_mechanism="zero", init_hidden=True, output=True)
    lif, stepped = (snn.Leaky(**kwargs, **OPTIONS.get(option, {})) for _ in range(2))
    cur = currents(2 * T, B, N, seed=9)
    spk_rec = torch.cat([lif.sequence(cur[:T])[0], lif.sequence(cur[T:])[0]])
    assert torch.equal(spk_rec, torch.stack([stepped(c)[0] for c in cur]))
    assert torch.equal(lif.mem, stepped.mem)
    # ... and a step continues from the sequence.
    assert torch.equal(lif(cur[0])[1], stepped(cur[0])[1])


def test_sequence_without_init_hidden_starts_at_zero_every_time():
    lif = snn.Leaky(beta=0.9, threshold=0.5, spatial_adj=True)
    cur = currents(T, B, N)
    first, second = lif.sequence(cur), lif.sequence(cur)
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


@pytest.mark.parametrize("how", ["step", "sequence"])
@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("option", ["off", *OPTIONS])
def test_no_membrane_means_zeros(option, reset, how):
    """A start from nothing is a start from zeros, in the gradients too (of a threshold, say)."""
    kwargs = dict(beta=0.9, threshold=0.5, reset_mechanism=reset, learn_beta=True, learn_threshold=True)
    kwargs |= OPTIONS.get(option, {})
    cur = currents(T, B, N, seed=10)
    nothing = run(build(snn.Leaky, kwargs), cur, mem0="none", how=how, every_mem=False)
    zeros = run(build(snn.Leaky, kwargs), cur, mem0="zeros", how=how, every_mem=False)
    assert_same(nothing, zeros, sorted(nothing.keys() - {"hidden"}))


class LearnableSlope(nn.Module):
    """A surrogate that is a module with a parameter, as the host allows."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        soft = torch.sigmoid(self.slope * x)
        return (x > 0).to(x.dtype) + soft - soft.detach()


@pytest.mark.parametrize("how", ["step", "sequence"])
def test_a_surrogate_may_be_a_module(how):
    ours, host = (c(0.9, 0.5, LearnableSlope(), reset_mechanism="zero") for c in (snn.Leaky, snntorch.Leaky))
    assert ours.state_dict().keys() == host.state_dict().keys()
    assert dict(ours.named_parameters()).keys() == dict(host.named_parameters()).keys() != set()
    cur = currents(T, B, N)
    names = ["spk_rec", "mem", "dinput", "dmem0", "dspike_grad.slope"]
    assert_same(run(ours, cur, how=how, every_mem=False), run(host, cur, every_mem=False), names)


# --- one of the family ----------------------------------------------------------------------------

NEURONS = {
    "off": dict(),
    "both": dict(spatial_adj=True, temporal_alpha=0.8),
    "learn": dict(learn_beta=True, learn_threshold=True, spatial_adj=True),
    "per-neuron": dict(beta=PER_NEURON_BETA, threshold=PER_NEURON_THRESHOLD, temporal_alpha=0.5),
}


def pair(name, **values):
    kwargs = dict(beta=0.9, threshold=0.5, reset_mechanism="zero") | NEURONS[name] | values
    host = {k: v for k, v in kwargs.items() if k not in ("spatial_adj", "temporal_alpha")}
    return build(snn.Leaky, kwargs), build(snntorch.Leaky, host)


@pytest.mark.parametrize("name", NEURONS)
def test_state_dict_loads_strictly_both_ways(name):
    ours, host = pair(name)
    assert ours.state_dict().keys() == host.state_dict().keys()
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in host.named_parameters()]
    assert dict(ours.named_buffers()).keys() == dict(host.named_buffers()).keys() - {"mem"}  # DDP broadcasts buffers
    ours(currents(B, N), torch.zeros(B, N))
    assert ours.state_dict().keys() == host.state_dict().keys(), "a forward pass left something behind"

    cur = currents(T, B, N)
    filled = {k: v + 0.125 if v.is_floating_point() else v for k, v in host.state_dict().items()}
    host.load_state_dict(filled, strict=True)
    ours.load_state_dict(host.state_dict(), strict=True)
    assert_same(run(ours, cur), run(host, cur), VALUES)

    fresh = pair(name)[1]
    fresh.load_state_dict(ours.state_dict(), strict=True)
    assert_same(run(fresh, cur), run(host, cur))


def test_is_a_host_neuron():
    lif = snn.Leaky(beta=0.9, spatial_adj=True)
    assert isinstance(lif, snntorch.Leaky) and type(lif).__name__ == "Leaky"
    assert any(lif is other for other in snntorch.SpikingNeuron.instances)


def test_signature_is_the_hosts_and_our_keywords():
    ours = list(inspect.signature(snn.Leaky).parameters.values())
    host = list(inspect.signature(snntorch.Leaky).parameters.values())
    assert [(p.name, p.default, p.kind) for p in ours[: len(host)]] == [(p.name, p.default, p.kind) for p in host]
    keyword = inspect.Parameter.KEYWORD_ONLY
    assert [(p.name, p.default, p.kind) for p in ours[len(host) :]] == [
        ("spatial_adj", False, keyword),
        ("temporal_alpha", 0.0, keyword),
        ("inplace", False, keyword),
        ("save", None, keyword),
    ]


def test_options_are_keyword_only():
    positional = [
        0.9,
        1.0,
        None,
        False,
        False,
        False,
        False,
        False,
        "zero",
        False,
        False,
        1.0,
        False,
        True,
    ]
    with pytest.raises(TypeError):
        snn.Leaky(*positional, True)


def test_options_are_plain_attributes():
    lif = snn.Leaky(beta=0.9, reset_mechanism="zero", spatial_adj=True, temporal_alpha=0.8)
    assert lif.spatial_adj is True and lif.temporal_alpha == 0.8 and lif.warm_up is None
    plain = snn.Leaky(beta=0.9)
    assert plain.spatial_adj is False and plain.temporal_alpha == 0 and plain.warm_up is None


def test_repr_shows_the_options_where_set():
    both = repr(snn.Leaky(beta=0.9, spatial_adj=True, temporal_alpha=0.8))
    assert "Leaky(" in both and "spatial_adj=True" in both and "temporal_alpha=0.8" in both
    assert "temporal_alpha" not in repr(snn.Leaky(beta=0.9, spatial_adj=True))
    assert "spatial_adj" not in repr(snn.Leaky(beta=0.9, temporal_alpha=0.8))
    assert repr(snn.Leaky(beta=0.9)) == repr(snntorch.Leaky(beta=0.9))


@pytest.mark.parametrize("name", NEURONS)
def test_deepcopy_before_forward(name):
    lif, _ = pair(name)
    twin = copy.deepcopy(lif)
    assert (twin.spatial_adj, twin.temporal_alpha) == (lif.spatial_adj, lif.temporal_alpha)
    cur = currents(T, B, N)
    assert_same(run(twin, cur), run(lif, cur))
    for ours, theirs in zip(twin.parameters(), lif.parameters(), strict=True):
        assert ours.data_ptr() != theirs.data_ptr()


SAVE = {
    "pickle": lambda lif: pickle.loads(pickle.dumps(lif)),
    "torch.save": lambda lif: torch_save_and_load(lif),
}


def torch_save_and_load(lif):
    file = io.BytesIO()
    torch.save(lif, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("how", SAVE)
@pytest.mark.parametrize("name", ["both", "learn"])
def test_a_spatial_neuron_survives_saving(name, how):
    lif, _ = pair(name)
    twin = SAVE[how](lif)
    assert (twin.spatial_adj, twin.temporal_alpha) == (lif.spatial_adj, lif.temporal_alpha)
    cur = currents(T, B, N)
    assert_same(run(twin, cur), run(lif, cur))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(N, 4)
        self.lif = snn.Leaky(beta=0.9, threshold=0.2, init_hidden=True, spatial_adj=True, temporal_alpha=0.8)

    def forward(self, x):
        return self.lif(self.fc(x))


def test_the_hosts_own_tools_reset_and_detach_it(monkeypatch):
    monkeypatch.setattr(snntorch.SpikingNeuron, "instances", [])  # the neurons of other tests are none of its business
    torch.manual_seed(0)
    net = Net()
    net(currents(B, N) + 1)
    assert net.lif.mem.count_nonzero() > 0 and net.lif.mem.grad_fn is not None
    snntorch.Leaky.detach_hidden()
    assert net.lif.mem.grad_fn is None and net.lif.mem.count_nonzero() > 0
    host_utils.reset(net)
    assert net.lif.mem.shape == (B, 4) and net.lif.mem.count_nonzero() == 0


def test_init_leaky_and_reset_mem():
    lif, host = pair("both")
    assert lif.init_leaky().shape == host.init_leaky().shape == (0,)
    lif(currents(B, N))
    assert lif.reset_mem().shape == (B, N) and lif.mem.count_nonzero() == 0


# --- warm-up: the forward half --------------------------------------------------------------------


@pytest.mark.parametrize("how", ["step", "sequence"])
@pytest.mark.parametrize("option", ["off", *OPTIONS])
def test_identity_warm_up_passes_the_input_through(option, how):
    lif = snn.Leaky(beta=0.9, threshold=0.5, reset_mechanism="zero", **OPTIONS.get(option, {}))
    cur = currents(T, B, N)
    lif.warm_up = "identity"
    spk = lif.sequence(cur)[0] if how == "sequence" else lif(cur[0], torch.zeros(B, N))[0]
    assert torch.equal(spk, cur if how == "sequence" else cur[0])


@pytest.mark.parametrize("how", ["step", "sequence"])
@pytest.mark.parametrize("option", ["off", *OPTIONS])
def test_surrogate_warm_up_fires_as_the_host(option, how):
    kwargs = dict(beta=0.9, threshold=0.5, reset_mechanism="zero")
    lif = snn.Leaky(**kwargs, **OPTIONS.get(option, {}))
    lif.warm_up = "surrogate"
    cur = currents(T, B, N)
    ours = run(lif, cur, how=how, every_mem=False)
    host = run(build(snntorch.Leaky, kwargs), cur, every_mem=False)
    assert_same(ours, host, ("spk_rec", "mem"))


@pytest.mark.parametrize("warm_up", ["identity", "surrogate"])
@pytest.mark.parametrize("option", ["off", *OPTIONS])
def test_warm_up_leaves_no_trace(option, warm_up):
    kwargs = dict(beta=0.9, threshold=0.5, reset_mechanism="zero") | OPTIONS.get(option, {})
    lif, fresh = snn.Leaky(**kwargs), snn.Leaky(**kwargs)
    cur = currents(T, B, N)
    lif.warm_up = warm_up
    run(lif, cur)
    lif.warm_up = None
    assert_same(run(lif, cur), run(fresh, cur))


@pytest.mark.parametrize("how", ["step", "sequence"])
def test_an_unknown_warm_up_is_named(how):
    lif = snn.Leaky(beta=0.9, spatial_adj=True)
    with pytest.raises(ValueError, match="warm_up"):
        lif.warm_up = "identty"
        lif.sequence(currents(T, B, N)) if how == "sequence" else lif(currents(B, N))
