"""Lapicque, RLeaky, Synaptic, RSynaptic and Alpha with options off: the host, bit for bit. With options on: its spikes and
states, bit for bit. Leaky has test_host_equality.py."""

import copy
import inspect
import itertools
import warnings

import pytest
import snntorch
import torch
from _tolerance import assert_close
from hypothesis import given, settings
from hypothesis import strategies as st
from snntorch import surrogate as host_surrogate
from snntorch.functional import quant

import snntorch_bpsta as snn

T, B, N = 4, 3, 5
CONV = (2, 3, 4)  # channels, height, width
QUANT = quant.state_quant(num_bits=4, threshold=1.0)

STATES = {
    "Lapicque": ("mem",),
    "RLeaky": ("spk", "mem"),
    "Synaptic": ("syn", "mem"),
    "RSynaptic": ("spk", "syn", "mem"),
    "Alpha": ("syn_exc", "syn_inh", "mem"),
}
KINDS = tuple(STATES)
RECURRENT = ("RLeaky", "RSynaptic")
WITH_DELAY = ("RLeaky", "Synaptic", "RSynaptic")
RESETS = ("subtract", "zero", "none")

pytestmark = pytest.mark.filterwarnings("ignore:Inhibition is an unstable feature")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tensors this small are slower with more threads, above all where other work has the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def currents(*shape, seed=0, dtype=torch.float32):
    """Mixed: neurons that stay silent, fire now and then, fire always, and fall below zero."""
    gen = torch.Generator().manual_seed(seed)
    return (torch.rand(*shape, generator=gen, dtype=torch.float64) * 2.4 - 0.6).to(dtype)


REQUIRED = {
    "Lapicque": dict(beta=0.5),
    "RLeaky": dict(beta=0.8, V=0.4, all_to_all=False),
    "Synaptic": dict(alpha=0.6, beta=0.8),
    "RSynaptic": dict(alpha=0.6, beta=0.8, V=0.4, all_to_all=False),
    "Alpha": dict(alpha=0.8, beta=0.6),
}


def build(module, kind, seed=0, **values):
    """A neuron of ours or of the host's, with tensors of its own; two of one seed have the same random weights."""
    values = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in (REQUIRED[kind] | values).items()}
    if "linear_features" in values or "conv2d_channels" in values:
        del values["V"], values["all_to_all"]
    torch.default_generator.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return getattr(module, kind)(**values)


def both(kind, **values):
    """Ours, and the host's without our options."""
    theirs = {k: v for k, v in values.items() if k not in ("spatial_adj", "temporal_alpha")}
    return build(snn, kind, **values), build(snntorch, kind, **theirs)


def begin(kind, shape, dtype=torch.float32, seed=7):
    gen = torch.Generator().manual_seed(seed)
    return {
        name: (torch.rand(shape, generator=gen, dtype=torch.float64) * 1.6 - 0.2).to(dtype).requires_grad_()
        for name in STATES[kind]
    }


def run(neuron, cur, start="tensors", how="step", every_state=True):
    """Drive a neuron through a sequence; return every output and every gradient by name.

    `how` is "step", "multistep" (the call with that flag) or an implementation of `sequence`. `start` is "tensors",
    "init" (what ``reset_mem()`` returns) or "none", and of no effect with init_hidden. The loss weighs each output with a
    random number of its own; states before the last only where `every_state`.
    """
    kind = type(neuron).__name__
    neuron.zero_grad()
    cur = cur.clone().requires_grad_()
    gen = torch.Generator().manual_seed(11)
    names = [name for name in STATES[kind] if name != "spk"]
    weights = {
        name: torch.randn(cur.shape, generator=gen, dtype=torch.float64).to(cur.dtype) for name in ("spk", *names)
    }
    first = {}
    if not neuron.init_hidden and start == "tensors":
        first = begin(kind, cur.shape[1:], cur.dtype)
    elif not neuron.init_hidden and start == "init":
        first = neuron.reset_mem()
        first = dict(zip(STATES[kind], first if isinstance(first, tuple) else (first,), strict=True))

    result = {}
    if how == "step":
        records, states = {name: [] for name in ("spk", *names)}, dict(first)
        for c in cur:
            out = neuron(c, *states.values())
            if neuron.init_hidden and not neuron.output:
                assert isinstance(out, torch.Tensor)
                out = (out, *(getattr(neuron, name) for name in names))
            out = dict(zip(records, out, strict=True))
            for name, x in out.items():
                records[name].append(x)
            if not neuron.init_hidden:
                states = {name: out[name] for name in STATES[kind]}
        spk_rec, last = torch.stack(records["spk"]), {name: records[name][-1] for name in names}
        if every_state:
            result = {name + "_rec": torch.stack(records[name]) for name in names}
            loss = sum((x * weights[name[:-4]]).sum() for name, x in result.items())
    else:
        assert not every_state
        options = dict(impl="reference") if how == "multistep" else dict(impl=how)
        call = neuron.sequence if how != "multistep" else lambda *a, **k: neuron(*a, multistep=True, **k)
        spk_rec, *last = call(cur, *first.values(), **options)
        last = dict(zip(names, last, strict=True))
    if not every_state:
        loss = sum((x * weights[name][-1]).sum() for name, x in last.items())
    result |= {"spk_rec": spk_rec} | last | {"hidden " + name: getattr(neuron, name) for name in STATES[kind]}

    torch.default_generator.manual_seed(3)  # the host's SSO draws its gradient
    (loss + (spk_rec * weights["spk"]).sum()).backward()
    result["dinput"] = cur.grad
    result |= {"d0" + name: state.grad for name, state in first.items() if state.requires_grad}
    for name, parameter in neuron.named_parameters():
        result["d" + name] = parameter.grad
    return result


def assert_same(ours, host, names=None, cast=False, exact=True):
    """Equal to the bit, and of one dtype; NaN equals NaN. With `cast`, dtypes may differ. Where not `exact`, gradients
    are equal to rounding."""
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


# What is not a gradient. With options off gradients are compared too.
def values_of(result):
    return [name for name in result if not name.startswith("d")]


# --- options off ----------------------------------------------------------------------------------

PER_NEURON = {
    "beta": torch.linspace(-0.1, 1.1, N),  # both ends of the clamp are crossed
    "alpha": torch.linspace(1.1, -0.1, N),
    "threshold": torch.linspace(0.4, 1.3, N),
    "V": torch.linspace(-0.6, 0.8, N),
}


def per_neuron(kind):
    values = {name: PER_NEURON[name] for name in ("threshold", *REQUIRED[kind]) if name in PER_NEURON}
    if kind == "Lapicque":
        del values["beta"]  # the host asks `not beta`
    if kind == "Alpha":  # alpha > beta, and the logarithms of both
        values |= dict(alpha=torch.linspace(0.95, 0.6, N), beta=torch.linspace(0.3, 0.5, N))
    return values


SETTINGS = {
    "scalar": lambda kind: dict(threshold=0.6),
    "tensors": per_neuron,
    "inhibition": lambda kind: dict(threshold=0.6, inhibition=True),
    "quantised": lambda kind: dict(threshold=0.55, state_quant=QUANT, spike_grad=host_surrogate.fast_sigmoid(slope=5)),
    "bypass": lambda kind: dict(threshold=torch.tensor([0.5]), surrogate_disable=True),
    "all-to-all": lambda kind: dict(threshold=0.6, linear_features=N),
}


def flags_of(kind):
    """All combinations of the arguments that are switches; what can be learnt is one switch."""
    names = ("init_hidden", "output", "learn", *(["reset_delay"] if kind in ("RLeaky", "Synaptic") else []))
    for values in itertools.product((False, True), repeat=len(names)):
        on = dict(zip(names, values, strict=True))
        id_ = [name for name in names if on[name]] or ["plain"]
        learn = on.pop("learn")
        on |= dict(learn_beta=learn, learn_threshold=learn)
        if "Synaptic" in kind:
            on["learn_alpha"] = learn
        if kind in RECURRENT:
            on["learn_recurrent"] = learn
        yield on, "-".join(id_)


def grid():
    """RSynaptic with ``reset_delay=False`` is missing: in the host it fails, or does nothing; see test_family.py."""
    for kind, setting, reset in itertools.product(KINDS, SETTINGS, RESETS):
        if setting == "all-to-all" and kind not in RECURRENT:
            continue
        for flags, id_ in flags_of(kind):
            yield pytest.param(kind, setting, flags | {"reset_mechanism": reset}, id=f"{kind}-{setting}-{reset}-{id_}")


@pytest.mark.parametrize(("kind", "setting", "flags"), list(grid()))
def test_options_off_is_the_host(kind, setting, flags):
    ours, host = both(kind, **SETTINGS[setting](kind), **flags)
    cur = currents(T, B, N)
    expected = run(host, cur)
    assert_same(run(ours, cur), expected)
    assert expected["spk_rec"].any()


def test_the_grid_is_large_and_has_every_class():
    cases = [param.values for param in grid()]
    assert len(cases) >= 500 and {kind for kind, _, _ in cases} == set(KINDS)


LEARN = ("learn_beta", "learn_threshold", "learn_alpha", "learn_recurrent")


def grid_learn():
    for kind in KINDS:
        names = [name for name in LEARN if name in inspect.signature(getattr(snntorch, kind)).parameters]
        if kind == "Alpha":
            names.remove("learn_alpha")  # the host assigns a tensor to its parameter, which fails
        for values in itertools.product((False, True), repeat=len(names)):
            flags = dict(zip(names, values, strict=True))
            yield pytest.param(kind, flags, id="-".join([kind, *(name for name in names if flags[name])]))


@pytest.mark.parametrize(("kind", "flags"), list(grid_learn()))
def test_every_learn_flag_alone_and_together(kind, flags):
    ours, host = both(kind, **per_neuron(kind), **flags)
    cur = currents(T, B, N, seed=1)
    expected = run(host, cur)
    assert sum(value is not None for name, value in expected.items() if name[1:] in REQUIRED[kind] | PER_NEURON) == sum(
        flags.values()
    )
    assert_same(run(ours, cur), expected)


def test_alphas_alpha_cannot_be_learnt_in_the_host():
    """Why the grids leave it out. Where a newer host can, they have to have it."""
    with pytest.raises(TypeError, match="cannot assign"):
        snntorch.Alpha(0.8, 0.6, learn_alpha=True)


# All that the host has but LSO, which fails in the host.
SURROGATES = {
    "straight_through": host_surrogate.straight_through_estimator(),
    "triangular": host_surrogate.triangular(threshold=0.8),
    "fast_sigmoid": host_surrogate.fast_sigmoid(),
    "atan": host_surrogate.atan(alpha=3.0),
    "heaviside": host_surrogate.heaviside(),
    "sigmoid": host_surrogate.sigmoid(slope=10),
    "spike_rate_escape": host_surrogate.spike_rate_escape(beta=2, slope=3),
    "SSO": host_surrogate.SSO(),
    "SFS": host_surrogate.SFS(),
    "ours": snn.surrogate.spatial_adjustment(0.5),
}


@pytest.mark.parametrize("name", SURROGATES)
@pytest.mark.parametrize("kind", KINDS)
def test_options_off_every_surrogate_of_the_host(kind, name):
    ours, host = both(kind, spike_grad=SURROGATES[name], threshold=0.5, learn_threshold=True)
    cur = currents(T, B, N, seed=2)
    assert_same(run(ours, cur), run(host, cur))


CONVOLUTIONS = {"square": dict(conv2d_channels=2, kernel_size=3), "wide": dict(conv2d_channels=2, kernel_size=(1, 3))}


@pytest.mark.parametrize("learn", [True, False], ids=["learn", "fixed"])
@pytest.mark.parametrize("convolution", CONVOLUTIONS)
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("kind", RECURRENT)
def test_options_off_convolutional_recurrence(kind, reset, convolution, learn):
    ours, host = both(kind, threshold=0.5, reset_mechanism=reset, learn_recurrent=learn, **CONVOLUTIONS[convolution])
    cur = currents(T, B, *CONV, seed=3)
    assert_same(run(ours, cur), run(host, cur))


CIRCUITS = {
    "R-C": dict(beta=False, R=1.2, C=4.0, time_step=0.5),
    "beta-R": dict(beta=0.7, R=2.0),
    "beta-C": dict(beta=torch.tensor(0.7), C=torch.tensor(3.0)),
    "negative-decay": dict(beta=0.2),
    "integers": dict(beta=False, R=2, C=3),
}


@pytest.mark.parametrize("option", ["off", "spatial", "both"])
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("circuit", CIRCUITS)
def test_circuits(circuit, reset, option):
    if option == "both" and reset == "none":
        pytest.skip("refused at construction")
    options = OPTIONS.get(option, {})
    ours, host = both("Lapicque", reset_mechanism=reset, **CIRCUITS[circuit], **options)
    cur = currents(T, B, N, seed=4) * 4
    expected, result = run(host, cur), run(ours, cur)
    assert_same(result, expected, None if option == "off" else values_of(expected))
    assert expected["spk_rec"].any()


def test_a_circuit_may_be_changed_between_two_calls():
    """What was found out about one circuit must not be taken for another one, whose tensors may have its address."""
    ours, host = both("Lapicque", beta=False, R=torch.tensor(1.0), C=torch.tensor(4.0))
    cur = currents(1, B, N, seed=5) * 4
    start = torch.ones(B, N)
    for _ in range(100):
        for capacities in ((4.0,), (2.0, 0.5)):
            for capacity in capacities:
                ours.C, host.C = torch.tensor(capacity), torch.tensor(capacity)
            assert torch.equal(ours.sequence(cur, start)[1], host(cur[0], start)[1])


@pytest.mark.parametrize("start", ["init", "none"])
@pytest.mark.parametrize("kind", KINDS)
def test_options_off_other_starts(kind, start):
    ours, host = both(kind, threshold=0.5)
    cur = currents(2, T, B, N, seed=5)
    assert_same(run(ours, cur[0], start), run(host, cur[0], start))
    if start == "init":  # now there is something to reset
        assert_same(run(ours, cur[1], start), run(host, cur[1], start))


def step_both(ours, host, *args, **kwargs):
    """One step of both; asserts that they return the same, and keep the same. Returns what ours did."""
    a, b = ours(*args, **kwargs), host(*args, **kwargs)
    a, b = (x if isinstance(x, tuple) else (x,) for x in (a, b))
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert x.dtype == y.dtype and torch.equal(x, y)
    for name in STATES[type(ours).__name__]:
        assert torch.equal(getattr(ours, name), getattr(host, name)), name
    return a


@pytest.mark.parametrize("option", ["off", "spatial"])
@pytest.mark.parametrize("kind", KINDS)
def test_states_by_name_some_of_them_none_of_them_and_of_wrong_shapes(kind, option):
    """A state that is not given is the one of the last call; one of another shape is zeros."""
    ours, host = both(kind, threshold=0.5, **OPTIONS.get(option, {}))
    states = {name: state.detach() for name, state in begin(kind, (B, N)).items()}
    cur = currents(20, B, N, seed=7)
    step_both(ours, host, cur[0])
    step_both(ours, host, cur[1], **states)
    for n, name in enumerate(states):
        step_both(ours, host, cur[2 + n], **{name: states[name]})
        step_both(ours, host, cur[5 + n])
        step_both(ours, host, cur[8 + n], **{name: torch.ones(B + 1, N)})
    step_both(ours, host, cur[11, :2])  # another batch: all begin anew
    step_both(ours, host, cur[12, :2])
    zeros = ours.reset_mem()
    for name, x in zip(STATES[kind], zeros if isinstance(zeros, tuple) else (zeros,), strict=True):
        assert not x.any() and x is getattr(ours, name) and x.shape == (2, N)
    host.reset_mem()
    step_both(ours, host, cur[13, :2])


ODD_STEPS = {
    "integer-input": torch.tensor([[0, 1, 2]]),
    "no-batch": torch.tensor([0.2, 0.7, 1.2]),
    "a-number": torch.tensor(1.2),
    "no-neurons": torch.zeros(2, 0),
}


@pytest.mark.parametrize("name", ODD_STEPS)
@pytest.mark.parametrize("kind", KINDS)
def test_options_off_lets_through_what_the_host_lets_through(kind, name):
    ours, host = both(kind, threshold=0.5)
    states = ()
    for _ in range(3):
        out = step_both(ours, host, ODD_STEPS[name], *states)
        states = out if kind in RECURRENT else out[1:]


@pytest.mark.parametrize("kind", KINDS)
def test_options_off_in_double_has_the_hosts_values(kind):
    """Spikes have the membrane's dtype; the host's are float32."""
    ours, host = both(kind, threshold=0.5, learn_beta=True, learn_threshold=True)
    cur = currents(T, B, N, dtype=torch.float64, seed=8)
    expected, result = run(host.double(), cur), run(ours.double(), cur)
    assert_same(result, expected, values_of(expected), cast=True)
    assert result["spk_rec"].dtype == torch.float64
    for name in result.keys() - set(values_of(expected)):  # the host's go through float32
        if result[name] is None:
            assert expected[name] is None
        else:
            assert_close(result[name], expected[name], torch.float32, expected[name].abs().max() + 1, name)


# Something else than the default, wherever there is a default. By position everything has to be given.
POSITIONAL = dict(
    alpha=0.7,
    beta=0.5,
    R=2.0,
    C=3.0,
    time_step=0.5,
    V=0.3,
    all_to_all=False,
    linear_features=None,
    conv2d_channels=None,
    kernel_size=None,
    threshold=0.6,
    spike_grad=host_surrogate.fast_sigmoid(),
    surrogate_disable=False,
    init_hidden=True,
    inhibition=False,
    learn_alpha=True,
    learn_beta=True,
    learn_threshold=True,
    learn_recurrent=False,
    reset_mechanism="zero",
    state_quant=False,
    output=True,
    reset_delay=False,
)
POSITIONAL_OF = {
    "Lapicque": dict(beta=False, learn_beta=False),  # the host has R and C, or a beta to learn
    "RSynaptic": dict(reset_delay=True),
    "Alpha": dict(learn_alpha=False, reset_mechanism="subtract"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_positional_arguments_mean_what_they_mean_in_the_host(kind):
    names = list(inspect.signature(getattr(snntorch, kind)).parameters)
    assert [p for p in inspect.signature(getattr(snn, kind)).parameters][: len(names)] == names
    values = POSITIONAL | POSITIONAL_OF.get(kind, {})
    args = [values[name] for name in names]
    ours, host = (getattr(module, kind)(*copy.deepcopy(args)) for module in (snn, snntorch))
    cur = currents(T, B, N, seed=9)
    assert_same(run(ours, cur), run(host, cur))


def draw_arguments(draw, kind):
    number = st.floats(0.0625, 2.0, width=32)
    per = draw(st.booleans())

    def either(low, high):
        values = st.floats(low, high, width=32)
        return torch.tensor(draw(st.lists(values, min_size=N, max_size=N) if per else values))

    kwargs = dict(
        threshold=either(0.0625, 2.0),
        spike_grad=draw(st.sampled_from([None, *SURROGATES.values()])),
        surrogate_disable=draw(st.booleans()),
        init_hidden=draw(st.booleans()),
        inhibition=draw(st.booleans()),
        learn_beta=draw(st.booleans()),
        learn_threshold=draw(st.booleans()),
        reset_mechanism=draw(st.sampled_from(RESETS)),
        state_quant=draw(st.sampled_from([False, QUANT])),
        output=draw(st.booleans()),
    )
    if kind in ("RLeaky", "Synaptic"):
        kwargs["reset_delay"] = draw(st.booleans())
    if kind in RECURRENT:
        kwargs["learn_recurrent"] = draw(st.booleans())
        kwargs |= draw(st.sampled_from([dict(linear_features=N), dict(V=either(-2.0, 2.0))]))
    if kind == "Alpha":
        kwargs |= dict(alpha=either(0.625, 0.9375), beta=either(0.0625, 0.5))
    elif kind == "Lapicque":
        kwargs["beta"] = torch.tensor(draw(st.floats(0.0625, 0.9375, width=32)))
        if not kwargs["learn_beta"]:
            kwargs |= draw(st.sampled_from([{}, dict(R=draw(number)), dict(C=draw(number))]))
            kwargs["time_step"] = draw(number)
    else:
        kwargs["beta"] = either(-0.5, 1.5)
        if kind != "RLeaky":
            kwargs |= dict(alpha=either(-0.5, 1.5), learn_alpha=draw(st.booleans()))
    return kwargs


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30, deadline=None, derandomize=True)
@given(data=st.data())
def test_options_off_any_arguments(kind, data):
    ours, host = both(kind, **draw_arguments(data.draw, kind))
    cur = currents(data.draw(st.integers(1, 5)), data.draw(st.integers(1, 3)), N, seed=data.draw(st.integers(0, 99)))
    assert_same(run(ours, cur), run(host, cur))


# --- options on: the forward is the host's --------------------------------------------------------

OPTIONS = {
    "spatial": dict(spatial_adj=True),
    "both": dict(spatial_adj=True, temporal_alpha=0.8),
    "rectangle": dict(temporal_alpha=1.0, spike_grad=snn.surrogate.rectangle(0.7)),
}
# spike_grad goes with spatial_adj=False only, and the forward pass is the same for all.
FORWARD = {
    name: lambda kind, name=name: {k: v for k, v in SETTINGS[name](kind).items() if k != "spike_grad"}
    for name in SETTINGS
    if name != "bypass"
}


def grid_on():
    for kind, option, setting, reset in itertools.product(KINDS, OPTIONS, FORWARD, RESETS):
        if setting == "all-to-all" and kind not in RECURRENT:
            continue
        alpha = OPTIONS[option].get("temporal_alpha", 0.0)
        for delay, hidden in ((True, False), (True, True), (False, False), (False, True)):
            if not delay and kind not in ("RLeaky", "Synaptic"):
                continue
            if alpha and (reset == "none" or not delay or kind == "Alpha"):
                continue  # refused at construction
            flags = dict(reset_mechanism=reset, init_hidden=hidden, output=hidden)
            if kind in WITH_DELAY:
                flags["reset_delay"] = delay
            on = [w for w, f in (("delay", delay), ("hidden", hidden)) if f] or ["plain"]
            yield pytest.param(kind, option, setting, flags, id="-".join([kind, option, setting, reset, *on]))


@pytest.mark.parametrize(("kind", "option", "setting", "flags"), list(grid_on()))
def test_options_on_fires_as_the_host(kind, option, setting, flags):
    ours, host = both(kind, **FORWARD[setting](kind), **flags, **OPTIONS[option])
    cur = currents(T, B, N, seed=10)
    expected, result = run(host, cur), run(ours, cur)
    assert expected["spk_rec"].any()
    assert_same(result, expected, values_of(expected))
    assert not torch.equal(result["dinput"], expected["dinput"])


def option_for(kind, option):
    """The options of that name, less what this class refuses."""
    return {k: v for k, v in OPTIONS.get(option, {}).items() if not (kind == "Alpha" and k == "temporal_alpha")}


@pytest.mark.parametrize("option", ["off", "both"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 5), (3, 2, 2, 3), (2, 0, 3)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_shapes(kind, shape, option):
    ours, host = both(kind, threshold=0.5, **option_for(kind, option))
    cur = currents(*shape, seed=12)
    expected = run(host, cur)
    assert_same(run(ours, cur), expected, None if option == "off" else values_of(expected))


@pytest.mark.parametrize("option", ["off", *OPTIONS])
@pytest.mark.parametrize("kind", RECURRENT)
def test_options_on_convolutional_recurrence(kind, option):
    ours, host = both(kind, threshold=0.5, conv2d_channels=2, kernel_size=3, **OPTIONS.get(option, {}))
    cur = currents(T, B, *CONV, seed=13)
    expected, result = run(host, cur), run(ours, cur)
    assert_same(result, expected, values_of(expected))
    sequence = run(
        build(snn, kind, threshold=0.5, conv2d_channels=2, kernel_size=3), cur, how="auto", every_state=False
    )
    assert torch.equal(sequence["spk_rec"], expected["spk_rec"])


# --- sequence() is the step loop ------------------------------------------------------------------


def grid_sequence():
    for kind, option, setting, reset in itertools.product(KINDS, ("off", "both"), SETTINGS, RESETS):
        if setting == "all-to-all" and kind not in RECURRENT or setting == "bypass" and option != "off":
            continue
        options = option_for(kind, option)
        for delay, hidden in ((True, False), (True, True), (False, False)):
            if not delay and kind not in WITH_DELAY:
                continue
            if options.get("temporal_alpha") and (reset == "none" or not delay):
                continue
            kwargs = (SETTINGS if option == "off" else FORWARD)[setting](kind) | options
            kwargs |= dict(reset_mechanism=reset, init_hidden=hidden, learn_threshold=True)
            if kind in WITH_DELAY:
                kwargs["reset_delay"] = delay
            if kind != "Lapicque":  # whose beta is used once in front of the loop: test_fused_lapicque
                kwargs["learn_beta"] = True
            on = [w for w, f in (("delay", delay), ("hidden", hidden)) if f] or ["plain"]
            yield pytest.param(kind, kwargs, id="-".join([kind, option, setting, reset, *on]))


def outputs_of(neuron, result):
    """Without init_hidden a sequence keeps no states, a step does."""
    return [name for name in result if neuron.init_hidden or not name.startswith("hidden")]


@pytest.mark.parametrize(("kind", "kwargs"), list(grid_sequence()))
def test_sequence_is_the_step_loop(kind, kwargs):
    cur = currents(T, B, N, seed=14)
    neuron = build(snn, kind, **kwargs)
    step = run(build(snn, kind, **kwargs), cur, every_state=False)
    sequence = run(neuron, cur, how="reference", every_state=False)
    assert sequence.keys() == step.keys()
    fused = kind == "Lapicque" and neuron.spatial_adj and neuron.reset_mechanism != "zero"
    assert_same(sequence, step, outputs_of(neuron, step), exact=not fused)  # a single step is then the kernels'


@pytest.mark.parametrize("option", ["off", "spatial", "both"])
@pytest.mark.parametrize("reset", ["subtract", "none"])
@pytest.mark.parametrize("how", ["cpu", "auto", "reference"])
def test_fused_lapicque(how, reset, option):
    if option == "both" and reset == "none":
        pytest.skip("refused at construction")
    kwargs = dict(threshold=0.5, reset_mechanism=reset, learn_threshold=True, learn_beta=True) | OPTIONS.get(option, {})
    cur = currents(7, B, N, seed=15)
    step = run(build(snn, "Lapicque", **kwargs), cur, every_state=False)
    fused = run(build(snn, "Lapicque", **kwargs), cur, how=how, every_state=False)
    assert_same(fused, step, ["spk_rec", "mem"])
    assert step["spk_rec"].any()
    for name in step:
        if name.startswith("d"):
            assert_close(fused[name], step[name], torch.float32, 10 * step[name].abs().max(), name)


REFUSED = {
    "Lapicque": dict(reset_mechanism="zero"),
    "Lapicque-inhibition": dict(inhibition=True),
    "Lapicque-quantised": dict(state_quant=QUANT),
    "RLeaky": dict(),
    "Synaptic": dict(),
    "RSynaptic": dict(),
    "Alpha": dict(),
}


@pytest.mark.parametrize("impl", ["cpu", "triton"])
@pytest.mark.parametrize("name", REFUSED)
def test_an_implementation_by_name_runs_or_is_refused(name, impl):
    neuron = build(snn, name.split("-")[0], **REFUSED[name])
    with pytest.raises(NotImplementedError, match=impl):
        neuron.sequence(currents(T, B, N), impl=impl)


@pytest.mark.parametrize("option", ["off", "both"])
@pytest.mark.parametrize("start", ["none", "tensors", "init"])
@pytest.mark.parametrize("kind", KINDS)
def test_multistep_flag_is_sequence(kind, start, option):
    kwargs = dict(threshold=0.5) | option_for(kind, option)
    cur = currents(T, B, N, seed=16)
    flag = run(build(snn, kind, **kwargs), cur, start=start, how="multistep", every_state=False)
    sequence = run(build(snn, kind, **kwargs), cur, start=start, how="reference", every_state=False)
    assert_same(flag, sequence)


@pytest.mark.parametrize("option", ["off", "both"])
@pytest.mark.parametrize("kind", KINDS)
def test_relu_and_num_steps_are_a_relu_and_a_repetition_in_front(kind, option):
    kwargs = dict(threshold=0.5) | option_for(kind, option)
    cur = currents(1, B, N, seed=22)
    results = []
    for short in (True, False):
        neuron, x = build(snn, kind, **kwargs), cur.clone().requires_grad_()
        if short:
            out = neuron.sequence(x, *begin(kind, (B, N)).values(), relu=True, num_steps=T)
        else:
            out = neuron.sequence(x.relu().expand(T, B, N), *begin(kind, (B, N)).values())
        (out[0] * currents(T, B, N, seed=23)).sum().backward()
        results.append(dict(enumerate(out)) | {"x": x.grad})
    for name in results[0]:
        assert_close(results[0][name], results[1][name], torch.float32, 10.0, str(name))
    assert torch.equal(results[0][0], results[1][0]) and results[0][0].any()
    assert results[0]["x"][cur > 0].any() and not results[0]["x"][cur < 0].any()


@pytest.mark.parametrize("option", ["off", "both"])
@pytest.mark.parametrize("kind", KINDS)
def test_sequence_continues_from_the_hidden_states(kind, option):
    kwargs = dict(threshold=0.5, init_hidden=True, output=True) | option_for(kind, option)
    neuron, stepped = (build(snn, kind, **kwargs) for _ in range(2))
    host = both(kind, **kwargs)[1]
    cur = currents(2 * T + 1, B, N, seed=17)
    spk_rec = torch.cat([neuron.sequence(cur[:T])[0], neuron.sequence(cur[T:-1])[0]])
    assert torch.equal(spk_rec, torch.stack([stepped(c)[0] for c in cur[:-1]]))
    assert torch.equal(spk_rec, torch.stack([host(c)[0] for c in cur[:-1]]))
    for name in STATES[kind]:
        assert torch.equal(getattr(neuron, name), getattr(stepped, name)), name
        assert torch.equal(getattr(neuron, name), getattr(host, name)), name
    # ... and a step continues from the sequence.
    for a, b in zip(neuron(cur[-1]), stepped(cur[-1]), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("option", ["off", "both"])
@pytest.mark.parametrize("kind", KINDS)
def test_sequence_without_init_hidden_starts_at_zero_every_time_and_keeps_nothing(kind, option):
    neuron = build(snn, kind, threshold=0.5, **option_for(kind, option))
    cur = currents(T, B, N, seed=18)
    first, second = neuron.sequence(cur), neuron.sequence(cur)
    zeros = neuron.sequence(cur, *(torch.zeros(B, N) for _ in STATES[kind]))
    for a, b, c in zip(first, second, zeros, strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)
    assert all(getattr(neuron, name).numel() == 0 for name in STATES[kind])


@pytest.mark.parametrize("option", ["off", "both"])
@pytest.mark.parametrize("kind", KINDS)
def test_states_with_init_hidden_are_refused_as_in_the_host(kind, option):
    ours, host = both(kind, init_hidden=True, **option_for(kind, option))
    for neuron, name in itertools.product((ours, host), STATES[kind]):
        with pytest.raises(TypeError):
            neuron(currents(B, N), **{name: torch.zeros(B, N)})
    with pytest.raises(TypeError):
        ours.sequence(currents(T, B, N), *(torch.zeros(B, N) for _ in STATES[kind]))


# --- one of the family ----------------------------------------------------------------------------

PAIRS = {
    "off": lambda kind: dict(),
    "on": lambda kind: dict(spatial_adj=True) | ({} if kind == "Alpha" else dict(temporal_alpha=0.8)),
    # A Lapicque of the host's that learns beta cannot go backward any more once a state was loaded into it.
    "learn": lambda kind: dict(learn_beta=kind != "Lapicque", learn_threshold=True, spatial_adj=True),
    "per-neuron": lambda kind: per_neuron(kind) | ({} if kind == "Alpha" else dict(temporal_alpha=0.5)),
    "all-to-all": lambda kind: dict(linear_features=N, spatial_adj=True),
    "fixed": lambda kind: dict(learn_recurrent=False, spatial_adj=True),
}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("kind", KINDS)
def test_state_dict_loads_strictly_both_ways(kind, pair):
    if pair in ("all-to-all", "fixed") and kind not in RECURRENT:
        pytest.skip("no recurrence")
    values = PAIRS[pair](kind)
    ours, host = both(kind, **values)
    assert list(ours.state_dict()) == list(host.state_dict())
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in host.named_parameters()]
    ours(currents(B, N), *(state.detach() for state in begin(kind, (B, N)).values()))
    assert list(ours.state_dict()) == list(host.state_dict()), "a forward pass left something behind"

    cur = currents(T, B, N, seed=19)
    filled = {k: v * 0.9 if v.is_floating_point() else v for k, v in host.state_dict().items()}
    host.load_state_dict(filled, strict=True)
    ours.load_state_dict(host.state_dict(), strict=True)
    expected = run(host, cur)
    assert_same(run(ours, cur), expected, values_of(expected))

    fresh = both(kind, **values)[1]
    fresh.load_state_dict(ours.state_dict(), strict=True)
    assert_same(run(fresh, cur), run(host, cur))


@pytest.mark.parametrize("kind", KINDS)
def test_is_a_host_neuron(kind):
    neuron = build(snn, kind)
    assert isinstance(neuron, getattr(snntorch, kind)) and type(neuron).__name__ == kind
    assert any(neuron is other for other in snntorch.SpikingNeuron.instances)


@pytest.mark.parametrize("kind", KINDS)
def test_signature_is_the_hosts_and_our_keywords(kind):
    ours = list(inspect.signature(getattr(snn, kind)).parameters.values())
    host = list(inspect.signature(getattr(snntorch, kind)).parameters.values())
    assert [(p.name, p.default, p.kind) for p in ours[: len(host)]] == [(p.name, p.default, p.kind) for p in host]
    added = ["spatial_adj", "temporal_alpha", *(["inplace", "save"] if kind == "Lapicque" else [])]
    assert [(p.name, p.kind) for p in ours[len(host) :]] == [(n, inspect.Parameter.KEYWORD_ONLY) for n in added]


def test_rsynaptic_at_once_without_a_reset_is_the_host_with_a_late_one():
    ours = build(snn, "RSynaptic", reset_mechanism="none", reset_delay=False)
    host = build(snntorch, "RSynaptic", reset_mechanism="none")
    cur = currents(T, B, N, seed=20)
    assert_same(run(ours, cur), run(host, cur))


@pytest.mark.parametrize("how", ["step", "reference"])
@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_rsynaptic_at_once_in_the_hosts_words(reset, how):
    """What RLeaky of the host does after it fired, around the host's RSynaptic with a late reset."""

    class AtOnce(torch.nn.Module):
        init_hidden, output = False, False

        def __init__(self):
            super().__init__()
            self.late = build(snntorch, "RSynaptic", threshold=0.5, reset_mechanism=reset)

        def forward(self, cur, spk, syn, mem):
            old = (mem > self.late.threshold).to(mem.dtype)
            spk, syn, mem = self.late(cur, spk, syn, mem)
            again = spk - old
            mem = mem - again * (self.late.threshold if reset == "subtract" else mem)
            self.spk, self.syn, self.mem = spk, syn, mem
            return spk, syn, mem

    AtOnce.__name__ = "RSynaptic"
    cur = currents(T, B, N, seed=21)
    neuron = build(snn, "RSynaptic", threshold=0.5, reset_mechanism=reset, reset_delay=False)
    expected = run(AtOnce(), cur, every_state=False)
    assert expected["spk_rec"].any()
    result = run(neuron, cur, how=how, every_state=False)
    assert_same(result | {"dlate.V": result["dV"]}, expected, [n for n in expected if not n.startswith("hidden")])
