"""Lapicque, RLeaky, Synaptic, RSynaptic and Alpha: gradients with options on, judged by the loops in _oracle.py."""

import itertools
import warnings

import numpy as np
import pytest
import snntorch
import torch
from _oracle import alpha_neuron, atan, integrator, lapicque, lif, rectangle, spatial
from _tolerance import assert_close
from snntorch import surrogate as host_surrogate

import snntorch_bpsta as snn

B, N = 3, 5
CONV = (2, 3, 4)  # channels, height, width
F64 = torch.float64

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
RESETS = ("zero", "subtract", "none")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tensors this small are slower with more threads, above all where other work has the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tensor(value, dtype=F64):
    return torch.as_tensor(value, dtype=dtype)


def float_surrogate(x):
    """The host's default, in double: a zero with the gradient of atan on top of the step."""
    soft = torch.atan(np.pi * x) / np.pi
    return (x > 0).to(x.dtype) + (soft - soft.detach())


def stock_surrogate(x):
    """The host's own, whose gradient passes through float32; the spikes in double, as a recurrent Linear wants them."""
    return host_surrogate.atan()(x).to(x.dtype)


def eighths(x):
    """A quantiser of the host's kind: the nearest eighth, whose derivative is taken for 1."""
    return (x * 8).round().detach() / 8 + (x - x.detach())


# name -> (our options, the host's spike_grad, the oracle's derivative)
SURROGATES = {
    "spatial": (dict(spatial_adj=True), snn.surrogate.spatial_adjustment(0.5), spatial),
    "rectangle": (
        dict(spike_grad=snn.surrogate.rectangle(1.0)),
        snn.surrogate.rectangle(1.0),
        rectangle(1.0),
    ),
    "atan": (dict(spike_grad=float_surrogate), float_surrogate, atan(2.0)),
    "stock": (dict(spike_grad=stock_surrogate), stock_surrogate, atan(2.0)),
}

# The host's options that leave the paper: (its arguments, the oracle's).
ODD = {
    "inhibition": (dict(inhibition=True), dict(inhibition=True)),
    "quantised": (dict(state_quant=eighths), dict(quantise=lambda x: np.round(x * 8) / 8)),
}

# The recurrences. V is per neuron where it says so; weights of Linear and Conv2d are PyTorch's random ones.
RECURRENCES = {
    "V": dict(V=tensor(0.4), all_to_all=False),
    "V-inhibits": dict(V=tensor(-0.6), all_to_all=False),
    "V-per-neuron": dict(V=torch.linspace(-0.5, 0.8, N, dtype=F64), all_to_all=False),
    "V-fixed": dict(V=tensor(0.4), all_to_all=False, learn_recurrent=False),
    "linear": dict(linear_features=N),
    "linear-fixed": dict(linear_features=N, learn_recurrent=False),
    "conv": dict(conv2d_channels=CONV[0], kernel_size=3),
    "conv-wide": dict(conv2d_channels=CONV[0], kernel_size=(1, 3)),
}


def build(cls, kind, recurrence="linear", **values):
    """A neuron in double. `cls` is a module that has the class, ours or the host's."""
    kwargs = dict(threshold=tensor(0.5), beta=tensor(0.8))
    if kind == "Lapicque":
        kwargs["beta"] = tensor(0.5)  # a decay of 1 - log(1 / 0.5)
    if kind in ("Synaptic", "RSynaptic"):
        kwargs["alpha"] = tensor(0.6)
    if kind == "Alpha":
        kwargs |= dict(alpha=tensor(0.8), beta=tensor(0.6))
    if kind in RECURRENT:
        kwargs |= RECURRENCES[recurrence]
    kwargs = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in (kwargs | values).items()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Inhibition is an unstable feature")
        return getattr(cls, kind)(**kwargs).double()


def learnable(kind):
    """Everything that this class can learn. Alpha's alpha cannot: the host assigns a tensor to the parameter."""
    flags = dict(learn_beta=True, learn_threshold=True)
    return flags | ({"learn_alpha": True} if kind in ("Synaptic", "RSynaptic") else {})


def drive(kind, *shape, seed=0):
    """Currents: "mixed", "silent" (nothing ever fires) or "busy"."""
    uniform = torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)
    scale, shift = {"mixed": (2.2, -0.8), "silent": (0.04, -0.05), "busy": (0.9, 0.9)}[kind]
    return uniform * scale + shift


def begin(kind, shape, seed=5):
    """Initial states, each of its own numbers. Spikes that came before need not be 0 or 1."""
    return {name: drive("mixed", *shape, seed=seed + n) for n, name in enumerate(STATES[kind])}


def upstream(kind, num_steps, shape, loss, how, seed=1):
    """Mean-free gradients at the spikes and at every state. `sequence` hands out the last states only."""
    gen = torch.Generator().manual_seed(seed)
    names = ("spk", *(name for name in STATES[kind] if name != "spk"))
    gradients = {name: torch.randn(num_steps, *shape, generator=gen, dtype=F64) for name in names}
    for name, g in gradients.items():
        g -= g.mean()
        if how == "sequence" and name != "spk":
            g[:-1] = 0
        if loss == ("states" if name == "spk" else "spk"):
            g.zero_()
    return gradients


def run(neuron, cur, start, gradients, how):
    """Outputs and gradients of a neuron as a dict: spk, states by name, dinput, d0<state>, d<parameter>."""
    neuron.zero_grad()
    cur = cur.clone().requires_grad_()
    start = {name: state.clone().requires_grad_() for name, state in start.items()}
    names = [name for name in start if name != "spk"]
    if how == "sequence":
        spk, *last = neuron.sequence(cur, *start.values())
        assert len(last) == len(names)
        records = {"spk": spk} | dict(zip(names, last, strict=True))
        loss = sum((x * (gradients[n] if n == "spk" else gradients[n][-1])).sum() for n, x in records.items())
    else:
        records = {name: [] for name in ("spk", *names)}
        states = dict(start)
        for c in cur:
            out = dict(zip(records, neuron(c, *states.values()), strict=True))
            for name, x in out.items():
                records[name].append(x)
            states = {name: out[name] for name in states}
        records = {name: torch.stack(x) for name, x in records.items()}
        loss = sum((x * gradients[name]).sum() for name, x in records.items())
    if loss.requires_grad:
        loss.backward()
    result = {name: x.detach() for name, x in records.items()}
    result |= {"dinput": cur.grad} | {"d0" + name: state.grad for name, state in start.items()}
    for name, parameter in neuron.named_parameters():
        if parameter.requires_grad:
            result["d" + name] = parameter.grad
    return result


def clamp_slope(value):
    """What this PyTorch holds the derivative of clamp(value, 0, 1) to be, at both ends too."""
    value = value.detach().clone().requires_grad_()
    value.clamp(0, 1).sum().backward()
    return value.grad.numpy()


class Convolution:
    """A Conv2d with its stride of 1 as a matrix over the neurons of a sample in a row."""

    def __init__(self, conv, shape):
        self.kernel = conv.weight.detach().numpy()
        channels, height, width = shape
        rows, columns = self.kernel.shape[2:]
        self.where = np.full((*shape, *shape), -1)  # which entry of the kernel; -1: none
        numbers = np.arange(self.kernel.size).reshape(self.kernel.shape)
        for y, x, j, i in itertools.product(range(height), range(width), range(rows), range(columns)):
            y_from, x_from = y + j - rows // 2, x + i - columns // 2
            if 0 <= y_from < height and 0 <= x_from < width:
                self.where[:, y, x, :, y_from, x_from] = numbers[:, :, j, i]
        neurons = channels * height * width
        self.where = self.where.reshape(neurons, neurons)
        self.weight = np.where(self.where >= 0, self.kernel.flatten()[self.where], 0.0)
        self.bias = np.repeat(conv.bias.detach().numpy(), height * width)

    def fold(self, dweight, dbias):
        dkernel = np.zeros(self.kernel.size)
        np.add.at(dkernel, self.where[self.where >= 0], dweight[self.where >= 0])
        return dkernel.reshape(self.kernel.shape), dbias.reshape(self.kernel.shape[0], -1).sum(axis=1)


def expect(neuron, surrogate, cur, start, gradients, **changes):
    """The oracle's answer for a neuron with its own settings."""
    kind = type(neuron).__name__
    numpy = {name: x.numpy() for name, x in gradients.items()}
    settings = dict(
        threshold=neuron.threshold.detach().numpy(),
        surrogate=surrogate,
        reset=neuron.reset_mechanism,
        start={name: x.numpy() for name, x in start.items()},
        dspk=numpy.pop("spk"),
        dstates=numpy,
    )
    if kind != "Alpha":
        settings["temporal_alpha"] = getattr(neuron, "temporal_alpha", 0.0)
    if kind in WITH_DELAY:
        settings["reset_delay"] = neuron.reset_delay
    if kind == "Lapicque":
        given = ["R", "C"] if not neuron.beta.requires_grad else ["beta"]
        settings |= {name: getattr(neuron, name).detach().numpy() for name in (*given, "time_step")}
        return lapicque(cur.numpy(), **(settings | changes))

    decays = [name for name in ("alpha", "beta") if hasattr(neuron, name)]
    settings |= {name: getattr(neuron, name).detach().clamp(0, 1).numpy() for name in decays}
    convolution = None
    if kind in RECURRENT:
        recurrent = neuron.recurrent
        if isinstance(recurrent, torch.nn.Conv2d):
            convolution = Convolution(recurrent, cur.shape[2:])
            settings |= dict(weight=convolution.weight, bias=convolution.bias)
        elif isinstance(recurrent, torch.nn.Linear):
            settings |= dict(weight=recurrent.weight.detach().numpy(), bias=recurrent.bias.detach().numpy())
        else:
            settings["V"] = neuron.V.detach().numpy()
    result = (alpha_neuron if kind == "Alpha" else integrator)(cur.numpy(), **(settings | changes))
    for found, slope in ((result.dparameters, clamp_slope), (result.scale, lambda x: 1.0)):
        for name in decays:
            found[name] = found[name] * slope(getattr(neuron, name))
        if convolution:
            found["weight"], found["bias"] = convolution.fold(found["weight"], found["bias"])
        for name in ("weight", "bias"):
            if name in found:
                found["recurrent." + name] = found.pop(name)
    return result


def judge(result, expected, dtype=F64):
    """Spikes equal; states and gradients within the table."""
    assert torch.equal(result["spk"].to(F64), tensor(expected.spk)), "spikes differ"
    for name, state in expected.states.items():
        ours, state = result[name], tensor(state)
        state = state if ours.shape == state.shape else state[-1]
        assert_close(ours, state, dtype, state.abs().max(), name)
    assert_close(result["dinput"], expected.dinput, dtype, expected.size, "dinput")
    for name, gradient in expected.dstart.items():
        ours = result.get("d0" + name, gradient)  # "spk" and "syn" where the neuron has none
        ours = torch.zeros_like(tensor(gradient)) if ours is None else ours
        assert_close(ours, gradient, dtype, expected.size, "d0" + name)
    parameters = [name for name in result if name.startswith("d") and name != "dinput" and not name.startswith("d0")]
    for name in parameters:
        assert_close(result[name], expected.dparameters[name[1:]], dtype, expected.scale[name[1:]], name)
    return parameters


def case(neuron, surrogate, cur, loss="both", how="step", seed=1, dtype=F64, start=None, **changes):
    """Run a neuron and the oracle and compare; returns both."""
    kind = type(neuron).__name__
    start = begin(kind, cur.shape[1:]) if start is None else start
    gradients = upstream(kind, len(cur), cur.shape[1:], loss, how, seed)
    result = run(neuron, cur, start, gradients, how)
    expected = expect(neuron, surrogate, cur, start, gradients, **changes)
    judge(result, expected, dtype)
    return result, expected


# --- this oracle is right: it agrees with the stock host ------------------------------------------


def grid_host():
    for kind, reset, delay, name in itertools.product(KINDS, RESETS, (True, False), SURROGATES):
        if not delay and kind not in ("RLeaky", "Synaptic"):
            continue  # the others have no such argument, and RSynaptic fails on it in the host
        id_ = "-".join([kind, reset, *([] if delay else ["at-once"]), name])
        yield pytest.param(kind, reset, delay, name, id=id_)


@pytest.mark.parametrize(("kind", "reset", "delay", "name"), list(grid_host()))
def test_the_oracle_agrees_with_the_stock_host(kind, reset, delay, name):
    _, spike_grad, surrogate = SURROGATES[name]
    flags = dict(reset_delay=delay) if kind in WITH_DELAY else {}
    neuron = build(snntorch, kind, spike_grad=spike_grad, reset_mechanism=reset, **flags, **learnable(kind))
    dtype = torch.float32 if name == "stock" else F64
    result, expected = case(neuron, surrogate, drive("mixed", 9, B, N), dtype=dtype)
    assert 0.1 < expected.spk.mean() < 0.9
    parameters = [n for n in result if n.startswith("d") and not n.startswith(("dinput", "d0"))]
    assert len(parameters) == 2 + (kind in ("Synaptic", "RSynaptic")) + 2 * (kind in RECURRENT)
    assert all(np.abs(expected.dparameters[n[1:]]).max() > 1e-3 for n in parameters)


@pytest.mark.parametrize("recurrence", RECURRENCES)
@pytest.mark.parametrize("kind", RECURRENT)
def test_the_oracle_agrees_with_the_stock_host_in_every_recurrence(kind, recurrence):
    neuron = build(snntorch, kind, recurrence, spike_grad=float_surrogate, **learnable(kind))
    case(neuron, atan(2.0), drive("mixed", 7, B, *(CONV if "conv" in recurrence else (N,))))


CIRCUITS = {
    "beta": dict(),
    "R-C": dict(beta=False, R=tensor(1.2), C=tensor(4.0), time_step=tensor(0.5)),
    "beta-R": dict(beta=tensor(0.7), R=tensor(2.0)),
    "beta-C": dict(beta=tensor(0.7), C=tensor(3.0)),
    "negative-decay": dict(beta=tensor(0.2)),  # 1 - log(1 / beta) < 0, which the host does not clamp
}


@pytest.mark.parametrize("circuit", CIRCUITS)
def test_the_oracle_agrees_with_the_stock_host_in_every_circuit(circuit):
    neuron = build(snntorch, "Lapicque", spike_grad=float_surrogate, learn_threshold=True, **CIRCUITS[circuit])
    case(neuron, atan(2.0), drive("mixed", 7, B, N) * 3)


@pytest.mark.parametrize("temporal_alpha", [0.0, 0.8])
@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_the_oracles_agree_with_each_other(reset, temporal_alpha):
    """Leaky is the integrator that does not wipe its input; RSynaptic without R is Synaptic, without alpha Lapicque."""
    cur, mem0 = drive("mixed", 9, B, N).numpy(), drive("mixed", B, N, seed=5).numpy()
    gradients = upstream("Lapicque", 9, (B, N), "both", "step")
    dspk, dmem = gradients["spk"].numpy(), gradients["mem"].numpy()
    shared = dict(beta=np.linspace(0.3, 1, N), threshold=0.5, surrogate=spatial, reset=reset)
    a = lif(cur, **shared, alpha=temporal_alpha, mem0=mem0, dspk=dspk, dmem=dmem)
    shared |= dict(temporal_alpha=temporal_alpha, start={"mem": mem0}, dspk=dspk, dstates={"mem": dmem})
    b = integrator(cur, **shared, wipes_input=False)
    assert (a.spk == b.spk).all()
    pairs = {
        "mem": (a.mem, b.states["mem"]),
        "dinput": (a.dinput, b.dinput),
        "dmem0": (a.dmem0, b.dstart["mem"]),
        "dbeta": (a.dbeta, b.dparameters["beta"]),
        "dthreshold": (a.dthreshold, b.dparameters["threshold"]),
    }
    for name, (first, second) in pairs.items():
        assert_close(second, first, F64, b.size, name)
    plain, silent_paths = integrator(cur, **shared), integrator(cur, **shared, alpha=0.0, V=0.0)
    assert (plain.dinput == silent_paths.dinput).all() and (plain.spk == silent_paths.spk).all()


@pytest.mark.parametrize("option", ["inhibition", "quantised"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_oracle_agrees_with_the_stock_host_in_its_odd_options(kind, option):
    flags, changes = ODD[option]
    neuron = build(snntorch, kind, spike_grad=snn.surrogate.spatial_adjustment(0.5), **flags, **learnable(kind))
    case(neuron, spatial, drive("mixed", 9, B, N), **changes)


# --- every gradient -------------------------------------------------------------------------------

STEPS_AND_BETA = [(1, 0.9), (2, 0.5), (7, 0.9), (16, 0.0), (25, 1.0), (9, 0.95), (5, 0.25)]


def grid():
    steps, recurrences = itertools.cycle(STEPS_AND_BETA), itertools.cycle(RECURRENCES)
    ways = itertools.cycle(("step", "sequence"))
    for kind, name, reset, alpha in itertools.product(KINDS, ("spatial", "rectangle"), RESETS, (0.0, 0.2, 0.8, 1.0)):
        if alpha and (reset == "none" or kind == "Alpha"):
            continue  # refused at construction
        for loss in ("spk", "states", "both"):
            (num_steps, beta), how = next(steps), next(ways)
            recurrence = next(recurrences) if kind in RECURRENT else None
            id_ = [kind, name, reset, f"alpha{alpha}", loss, how, f"T{num_steps}", f"beta{beta}", recurrence]
            yield pytest.param(
                kind, name, reset, alpha, loss, how, num_steps, beta, recurrence, id="-".join(filter(None, id_))
            )


@pytest.mark.parametrize(
    ("kind", "name", "reset", "alpha", "loss", "how", "num_steps", "beta", "recurrence"), list(grid())
)
def test_recursion(kind, name, reset, alpha, loss, how, num_steps, beta, recurrence):
    options, _, surrogate = SURROGATES[name]
    values = dict(reset_mechanism=reset, temporal_alpha=alpha)
    if kind == "Lapicque":
        values["beta"] = tensor(max(0.3, beta - 0.1))  # its log has to exist
    elif kind != "Alpha":
        values["beta"] = tensor(beta)
    neuron = build(snn, kind, recurrence, **values, **options)
    shape = (B, *CONV) if recurrence and "conv" in recurrence else (B, N)
    case(neuron, surrogate, drive("mixed", num_steps, *shape, seed=num_steps), loss, how)


PARAMETERS = {
    "scalar": dict(),
    "one": dict(beta=tensor([0.8]), threshold=tensor([0.5])),
    "per-neuron": dict(
        beta=torch.linspace(0.3, 0.97, N, dtype=F64),
        threshold=torch.linspace(0.35, 0.8, N, dtype=F64),
        alpha=torch.linspace(0.9, 0.2, N, dtype=F64),
    ),
    "clamped": dict(beta=tensor([-0.2, 0.0, 0.5, 1.0, 1.3]), alpha=tensor([1.1, 1.0, 0.3, 0.0, -0.4])),
}


def parameters_for(kind, name):
    values = dict(PARAMETERS[name])
    if kind == "Lapicque" and values.get("beta", tensor(0.0)).numel() > 1:
        del values["beta"]  # the host asks `not beta`
    if kind == "Alpha" and "beta" in values:  # alpha has to exceed beta, and their logarithms to be finite
        values["beta"] = values["beta"] * 0.6
        values["alpha"] = values["beta"].flip(0) * 0.4 + 0.59
    if kind not in ("Synaptic", "RSynaptic", "Alpha"):
        values.pop("alpha", None)
    return values


def grid_parameters():
    ways = itertools.cycle(("step", "sequence", "sequence", "step"))
    for kind, parameters, name, reset, alpha in itertools.product(
        KINDS, PARAMETERS, ("spatial", "rectangle"), ("zero", "subtract"), (0.0, 0.8)
    ):
        if (kind == "Alpha" and (alpha or parameters == "clamped")) or (kind == "Lapicque" and parameters == "clamped"):
            continue
        how = next(ways)
        id_ = "-".join([kind, parameters, name, reset, f"alpha{alpha}", how])
        yield pytest.param(kind, parameters, name, reset, alpha, how, id=id_)


@pytest.mark.parametrize(("kind", "parameters", "name", "reset", "alpha", "how"), list(grid_parameters()))
def test_learnable_parameters(kind, parameters, name, reset, alpha, how):
    options, _, surrogate = SURROGATES[name]
    values = parameters_for(kind, parameters) | learnable(kind) | options
    neuron = build(snn, kind, reset_mechanism=reset, temporal_alpha=alpha, **values)
    result, expected = case(neuron, surrogate, drive("mixed", 9, B, N, seed=11), how=how)
    assert 0 < expected.spk.mean() < 1
    for name in ("beta", "threshold", *(["alpha"] if "learn_alpha" in values else [])):
        assert result["d" + name].shape == getattr(neuron, name).shape
        assert result["d" + name].abs().max() > 1e-3


@pytest.mark.parametrize("how", ["step", "sequence"])
@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("recurrence", RECURRENCES)
@pytest.mark.parametrize("kind", RECURRENT)
def test_recurrences(kind, recurrence, reset, how):
    neuron = build(
        snn,
        kind,
        recurrence,
        reset_mechanism=reset,
        spatial_adj=True,
        temporal_alpha=0.8,
        **learnable(kind),
    )
    shape = (B, *CONV) if "conv" in recurrence else (B, N)
    result, expected = case(neuron, spatial, drive("mixed", 9, *shape, seed=2), how=how)
    assert expected.spk.any()
    learns = [name for name in result if name in ("dV", "drecurrent.weight", "drecurrent.bias")]
    assert len(learns) == (0 if "fixed" in recurrence else 1 if recurrence.startswith("V") else 2)
    assert all(result[name].abs().max() > 1e-3 for name in learns)


@pytest.mark.parametrize("how", ["step", "sequence"])
@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("kind", ["Synaptic", "RLeaky", "RSynaptic"])
def test_per_channel_parameters_on_feature_maps(kind, reset, how):
    channels = (CONV[0], 1, 1)
    values = dict(
        beta=torch.linspace(0.4, 0.9, CONV[0], dtype=F64).reshape(channels),
        threshold=torch.linspace(0.3, 0.6, CONV[0], dtype=F64).reshape(channels),
    )
    if "Synaptic" in kind:
        values["alpha"] = torch.linspace(0.8, 0.5, CONV[0], dtype=F64).reshape(channels)
    neuron = build(
        snn,
        kind,
        "conv",
        reset_mechanism=reset,
        spatial_adj=True,
        temporal_alpha=0.8,
        **values,
        **learnable(kind),
    )
    case(neuron, spatial, drive("mixed", 6, B, *CONV, seed=3), how=how)


@pytest.mark.parametrize("how", ["step", "sequence"])
@pytest.mark.parametrize("alpha", [0.0, 0.8])
@pytest.mark.parametrize("circuit", CIRCUITS)
def test_circuits(circuit, alpha, how):
    values = dict(spatial_adj=True, temporal_alpha=alpha, learn_threshold=True)
    neuron = build(snn, "Lapicque", **values, **CIRCUITS[circuit])
    case(neuron, spatial, drive("mixed", 7, B, N) * 3, how=how)


@pytest.mark.parametrize("impl", ["cpu", "reference"])
@pytest.mark.parametrize("alpha", [0.0, 0.8])
@pytest.mark.parametrize("name", ["spatial", "rectangle"])
@pytest.mark.parametrize("reset", ["subtract", "none"])
def test_fused_lapicque(reset, name, alpha, impl):
    if alpha and reset == "none":
        pytest.skip("refused at construction")
    options, _, surrogate = SURROGATES[name]
    neuron = build(snn, "Lapicque", reset_mechanism=reset, temporal_alpha=alpha, **options, **learnable("Lapicque"))
    cur, start = drive("mixed", 9, B, N), begin("Lapicque", (B, N))
    gradients = upstream("Lapicque", 9, (B, N), "both", "sequence")
    sequence = neuron.sequence
    neuron.sequence = lambda *args: sequence(*args, impl=impl)
    judge(run(neuron, cur, start, gradients, "sequence"), expect(neuron, surrogate, cur, start, gradients))


@pytest.mark.parametrize("how", ["step", "sequence"])
@pytest.mark.parametrize("reset", ["zero", "subtract", "none"])
@pytest.mark.parametrize("kind", KINDS)
def test_single_precision(kind, reset, how):
    alpha = 0.0 if kind == "Alpha" or reset == "none" else 0.8
    values = dict(reset_mechanism=reset, spatial_adj=True, temporal_alpha=alpha)
    neuron = build(snn, kind, **values, **learnable(kind)).float()
    cur, start = drive("mixed", 9, B, N).float(), {n: x.float() for n, x in begin(kind, (B, N)).items()}
    gradients = {n: x.float() for n, x in upstream(kind, 9, (B, N), "both", how).items()}
    result = run(neuron, cur, start, gradients, how)
    assert result["dinput"].dtype == torch.float32
    judge(result, expect(neuron, spatial, cur, start, gradients), torch.float32)


# --- the host's options beside ours ---------------------------------------------------------------


@pytest.mark.parametrize("how", ["step", "sequence"])
@pytest.mark.parametrize("name", ["spatial", "rectangle", "stock"])
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("kind", WITH_DELAY)
def test_reset_at_once(kind, reset, name, how):
    """RSynaptic too, which the host cannot: it does what the host's RLeaky does."""
    options, _, surrogate = SURROGATES[name]
    neuron = build(snn, kind, reset_mechanism=reset, reset_delay=False, **options, **learnable(kind))
    dtype = torch.float32 if name == "stock" else F64
    case(neuron, surrogate, drive("mixed", 9, B, N), how=how, dtype=dtype)


@pytest.mark.parametrize("reset", RESETS)
def test_rsynaptic_at_once_is_rleaky_where_nothing_stays_in_its_synapse(reset):
    """Independent of the oracle: with alpha = 0 the synaptic current is the current, and the host's RLeaky is the same."""
    cur, gradients = drive("mixed", 9, B, N), upstream("RSynaptic", 9, (B, N), "both", "step")
    gradients["syn"].zero_()
    start, values = (
        begin("RSynaptic", (B, N)),
        dict(reset_mechanism=reset, reset_delay=False, spike_grad=float_surrogate),
    )
    ours = build(snn, "RSynaptic", alpha=tensor(0.0), **values, **learnable("RLeaky"))
    host = build(snntorch, "RLeaky", **values, **learnable("RLeaky"))
    host.load_state_dict({k: v for k, v in ours.state_dict().items() if k != "alpha"})
    a = run(ours, cur, start, gradients, "step")
    del start["syn"], gradients["syn"]
    b = run(host, cur, start, gradients, "step")
    assert torch.equal(a["spk"], b["spk"])
    for name in b:
        assert_close(a[name], b[name], F64, b[name].abs().max() + 10, name)


@pytest.mark.parametrize("how", ["step", "sequence"])
@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("option", ODD)
@pytest.mark.parametrize("kind", KINDS)
def test_odd_options_and_the_residual(kind, option, reset, how):
    """The loser of an inhibition keeps its residual; a state that was rounded has the gradient of the one before."""
    flags, changes = ODD[option]
    alpha = 0.0 if kind == "Alpha" else 0.8
    values = dict(reset_mechanism=reset, spatial_adj=True, temporal_alpha=alpha)
    neuron = build(snn, kind, **values, **flags, **learnable(kind))
    plain = build(snn, kind, **values)
    result, expected = case(neuron, spatial, drive("mixed", 9, B, N), how=how, **changes)
    start, gradients = begin(kind, (B, N)), upstream(kind, 9, (B, N), "both", how)
    assert 0 < expected.spk.sum()
    assert not torch.equal(result["dinput"], run(plain, drive("mixed", 9, B, N), start, gradients, how)["dinput"])


@pytest.mark.parametrize("how", ["step", "sequence"])
@pytest.mark.parametrize("kind", KINDS)
def test_silence_moves_no_weight_under_spatial_adjustment(kind, how):
    alpha = 0.0 if kind == "Alpha" else 0.8
    neuron = build(snn, kind, "V", spatial_adj=True, temporal_alpha=alpha, **learnable(kind))
    start = {name: torch.zeros(B, N, dtype=F64) for name in STATES[kind]}
    gradients = upstream(kind, 7, (B, N), "spk", how)
    result = run(neuron, drive("silent", 7, B, N), start, gradients, how)
    assert not result["spk"].any()
    for name in result:
        if name.startswith("d") and result[name] is not None:
            assert result[name].count_nonzero() == 0, name


# --- the tempting wrong mappings ------------------------------------------------------------------


def distance(a, b):
    return (a["dinput"] - b["dinput"]).norm() / a["dinput"].norm()


class InTheCurrent(torch.nn.Module):
    """The host's neuron with the residual in its input, where Leaky can have it."""

    def __init__(self, host, alpha):
        super().__init__()
        self.host, self.alpha = host, alpha

    def forward(self, cur, *states):
        beta = 1 - self.host.time_step / (self.host.R * self.host.C) if hasattr(self.host, "C") else self.host.beta
        o = self.host.spike_grad(states[-1] - self.host.threshold)
        return self.host(cur + beta * self.alpha * (o - o.detach()), *states)


@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("name", ["spatial", "rectangle"])
@pytest.mark.parametrize("kind", ["Lapicque", "RLeaky", "Synaptic", "RSynaptic"])
def test_a_residual_in_the_current_is_not_the_residual(kind, name, reset):
    """ "zero" wipes it together with the current; else it is scaled by R and C, or stays in the synaptic current. With
    "subtract" RLeaky has nothing that comes between."""
    options, spike_grad, surrogate = SURROGATES[name]
    cur, start, gradients = drive("mixed", 9, B, N), begin(kind, (B, N)), upstream(kind, 9, (B, N), "both", "step")
    ours = build(snn, kind, "V", reset_mechanism=reset, temporal_alpha=0.8, **options)
    right = run(ours, cur, start, gradients, "step")
    judge(right, expect(ours, surrogate, cur, start, gradients))
    host = build(snntorch, kind, "V", reset_mechanism=reset, spike_grad=spike_grad)
    wrong = run(InTheCurrent(host, 0.8), cur, start, gradients, "step")
    assert torch.equal(wrong["spk"], right["spk"])
    if (kind, reset) == ("RLeaky", "subtract"):
        assert distance(right, wrong) < 1e-12
    else:
        assert distance(right, wrong) > 0.02
    if (name, reset) == ("spatial", "zero") and "Synaptic" not in kind:
        # Eq. 9 is where the neuron fired and there nothing is kept: no residual at all.
        assert_close(wrong["dinput"], run(host, cur, start, gradients, "step")["dinput"], F64, 10.0)


@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("name", ["spatial", "rectangle"])
@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0])
@pytest.mark.parametrize("kind", WITH_DELAY)
def test_the_hosts_reset_delay_is_not_the_residual(kind, alpha, name, reset):
    options, spike_grad, _ = SURROGATES[name]
    cur, start = drive("mixed", 9, B, N), begin(kind, (B, N))
    start["mem"].fill_(0.1)  # the reset of a start that would have fired is not done in both
    gradients = upstream(kind, 9, (B, N), "spk", "step")
    right = run(
        build(snn, kind, "V", reset_mechanism=reset, temporal_alpha=alpha, **options), cur, start, gradients, "step"
    )
    tempting = dict(reset_mechanism=reset, reset_delay=False)
    if kind == "RSynaptic":  # fails in the host
        neuron = build(snn, kind, "V", **tempting, **options)
    else:
        neuron = build(snntorch, kind, "V", **tempting, spike_grad=spike_grad)
    assert distance(right, run(neuron, cur, start, gradients, "step")) > 0.05


@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("kind", RECURRENT)
def test_the_residual_does_not_replace_the_recurrent_path(kind, reset):
    """A residual from the spikes that the recurrence is given, or a recurrence without gradient, is another thing."""
    cur, start, gradients = drive("mixed", 9, B, N), begin(kind, (B, N)), upstream(kind, 9, (B, N), "both", "step")
    neuron = build(snn, kind, "linear", reset_mechanism=reset, spatial_adj=True, temporal_alpha=0.8)
    right = run(neuron, cur, start, gradients, "step")
    judge(right, expect(neuron, spatial, cur, start, gradients))
    neuron.recurrent.register_forward_pre_hook(lambda _, args: (args[0].detach(),))
    assert distance(right, run(neuron, cur, start, gradients, "step")) > 0.02

    # The start's spike and the start's membrane are two arguments: each has the gradient of its own way.
    neuron = build(snn, kind, "V", reset_mechanism=reset, spatial_adj=True, temporal_alpha=0.8)
    first = dict(start, spk=torch.zeros(B, N, dtype=F64), mem=torch.full((B, N), 2.0, dtype=F64))
    one = {name: x[:1] for name, x in gradients.items()}
    result = run(neuron, cur[:1], first, one, "step")
    dv = one["mem"][0] + result["spk"][0] / result["mem"][0].where(result["spk"][0] > 0, 1.0) * one["spk"][0]
    kept = 0.0 if reset == "zero" else 1.0
    assert_close(result["d0mem"], 0.8 * (kept + 0.8 / 2.0) * dv, F64, 10.0, "d0mem")
    into_current = kept * dv + (one["syn"][0] if kind == "RSynaptic" else 0.0)
    assert_close(result["d0spk"], 0.4 * into_current, F64, 10.0, "d0spk")


@pytest.mark.parametrize("how", ["step", "sequence"])
def test_alphas_membrane_is_no_state(how):
    """Its next membrane has no derivative by its last: no residual is defined, and asking for one is refused."""
    with pytest.raises(ValueError, match="temporal_alpha"):
        build(snn, "Alpha", temporal_alpha=0.8)
    neuron = build(snn, "Alpha", spatial_adj=True)
    result, expected = case(neuron, spatial, drive("mixed", 9, B, N), how=how)
    assert result["d0mem"] is None or not result["d0mem"].any()
    # The natural "subtract", which takes the threshold off the membrane, is not the host's.
    odd, natural = (
        build(snn, "Alpha", spatial_adj=True, reset_mechanism=reset, learn_threshold=True)
        for reset in ("subtract", "none")
    )
    case(odd, spatial, drive("mixed", 9, B, N), how=how)
    start, gradients = begin("Alpha", (B, N)), upstream("Alpha", 9, (B, N), "both", "step")

    class Natural(torch.nn.Module):
        def forward(self, cur, exc, inh, mem):
            spk, exc, inh, new = natural(cur, exc, inh, mem)
            new = new - (mem > natural.threshold) * natural.threshold
            return natural.spike_grad(new - natural.threshold), exc, inh, new

    wrong = run(Natural(), drive("mixed", 9, B, N), start, gradients, "step")
    assert distance(run(odd, drive("mixed", 9, B, N), start, gradients, "step"), wrong) > 0.02
