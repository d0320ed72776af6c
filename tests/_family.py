"""The six neurons, once: what each takes, keeps and refuses; builders of ours and of snnTorch's; one run; its judges."""

import copy
import io
import itertools
import pickle
import warnings
from typing import Any, NamedTuple

import numpy as np
import pytest
import snntorch
import torch
from _oracle import alpha_neuron, atan, integrator, lapicque, leaky, rectangle, spatial
from _pairwise import cases
from _tolerance import assert_close
from snntorch import surrogate as host_surrogate
from snntorch.functional import quant

import snntorch_bpsta as snn

T, B, N = 5, 3, 7
CONV = (2, 3, 4)  # channels, height, width: no two alike
F32, F64 = torch.float32, torch.float64


class Neuron(NamedTuple):
    """What tells a neuron from the others. All but `states` has a default."""

    states: tuple[str, ...]  # in the order of snnTorch's arguments
    numbers: dict[str, Any]  # with which it fires now and then, driven by `currents`
    per_neuron: dict[
        str, tuple[float, float]
    ]  # parameter -> first and last of N values; decays cross both ends of the clamp
    learns: tuple[str, ...] = ("beta", "threshold")
    reset_delay: bool = True  # whether it takes that argument
    residual: bool = True  # whether it takes temporal_alpha


BETA, ALPHA, THRESHOLD = {"beta": (-0.1, 1.1)}, {"alpha": (1.1, -0.1)}, {"threshold": (0.4, 1.3)}
FAMILY = {
    "Leaky": Neuron(("mem",), {"beta": 0.9, "threshold": 0.5}, BETA | THRESHOLD),
    # Where a beta is given, snnTorch asks `not beta`: one number only. It is not clamped.
    "Lapicque": Neuron(("mem",), {"beta": 0.5, "threshold": 0.3}, THRESHOLD, reset_delay=False),
    "RLeaky": Neuron(
        ("spk", "mem"), {"beta": 0.9, "threshold": 0.5}, BETA | THRESHOLD, ("beta", "threshold", "recurrent")
    ),
    "Synaptic": Neuron(
        ("syn", "mem"), {"alpha": 0.8, "beta": 0.7, "threshold": 0.5}, ALPHA | BETA | THRESHOLD,
        ("alpha", "beta", "threshold"),
    ),
    "RSynaptic": Neuron(
        ("spk", "syn", "mem"), {"alpha": 0.8, "beta": 0.7, "threshold": 0.5}, ALPHA | BETA | THRESHOLD,
        ("alpha", "beta", "threshold", "recurrent"),
    ),
    # alpha has to exceed beta, and both to have a logarithm; alpha cannot be learnt: snnTorch assigns a tensor to it.
    "Alpha": Neuron(
        ("syn_exc", "syn_inh", "mem"), {"alpha": 0.9, "beta": 0.4, "threshold": 0.2},
        {"alpha": (0.95, 0.6), "beta": (0.3, 0.5)} | {"threshold": (0.1, 0.5)}, reset_delay=False, residual=False,
    ),
}  # fmt: skip
KINDS = tuple(FAMILY)
RECURRENT = tuple(kind for kind in KINDS if "recurrent" in FAMILY[kind].learns)
DELAYED = tuple(kind for kind in KINDS if FAMILY[kind].reset_delay)
# With reset_delay=False snnTorch's RSynaptic fails, or computes from the spike of the step before.
DELAYED_IN_HOST = tuple(kind for kind in DELAYED if kind != "RSynaptic")
RESETS = ("subtract", "zero", "none")

RECURRENCES = {
    "V": {"V": 0.4, "all_to_all": False},
    "V-inhibits": {"V": -0.6, "all_to_all": False},
    "V-per-neuron": {"V": torch.linspace(-0.5, 0.8, N, dtype=F64), "all_to_all": False},
    "V-fixed": {"V": 0.4, "all_to_all": False, "learn_recurrent": False},
    "linear": {"linear_features": N},
    "linear-fixed": {"linear_features": N, "learn_recurrent": False},
    "conv": {"conv2d_channels": CONV[0], "kernel_size": 3},
    "conv-wide": {"conv2d_channels": CONV[0], "kernel_size": (1, 3)},
}
CIRCUITS = {  # of Lapicque
    "beta": {},
    "R-C": {"beta": False, "R": 1.2, "C": 4.0, "time_step": 0.5},
    "beta-R": {"beta": 0.7, "R": 2.0},
    "beta-C": {"beta": 0.7, "C": 3.0},
    "negative-decay": {"beta": 0.2},  # 1 - log(1 / beta) < 0
}

OURS = ("spatial_adj", "temporal_alpha", "inplace", "save")
OPTIONS = {
    "off": {},
    "spatial": {"spatial_adj": True},
    "temporal": {"temporal_alpha": 0.8},
    "both": {"spatial_adj": True, "temporal_alpha": 0.8},
}


def refused(kind, temporal_alpha=0.0, reset_mechanism="subtract", reset_delay=True, surrogate_disable=False, **options):
    """Whether these options have no meaning for a neuron, and its constructor says so."""
    on = options.get("spatial_adj") or temporal_alpha
    crosses = FAMILY[kind].residual and reset_mechanism != "none" and reset_delay
    return bool(surrogate_disable and on or temporal_alpha and not crosses)


SERVED = [(kind, option) for kind in KINDS for option in OPTIONS if not refused(kind, **OPTIONS[option])]
each_kind = pytest.mark.parametrize("kind", KINDS)
each_option = pytest.mark.parametrize("kind, option", SERVED, ids=["-".join(case) for case in SERVED])


def served(**others):
    """Pairwise rows of a kind, an option that it takes, and others."""
    allowed = lambda row: not refused(row["kind"], **OPTIONS[row["option"]])  # noqa: E731
    return cases(allowed, kind=KINDS, option=tuple(OPTIONS), **others)


# --- surrogates -----------------------------------------------------------------------------------


def float_surrogate(x):
    """snnTorch's default, in any dtype: a zero with the gradient of the arc tangent on top of the step."""
    soft = torch.atan(np.pi * x) / np.pi
    return (x > 0).to(x.dtype) + (soft - soft.detach())


def stock_surrogate(x):
    """snnTorch's own, whose gradient passes through float32; the spikes in the dtype that a recurrent Linear wants."""
    return host_surrogate.atan()(x).to(x.dtype)


LEAKS = snn.surrogate.spatial_adjustment(leak=0.3)
# name -> (our options, snnTorch's spike_grad, the oracle's derivative); see `build`.
SURROGATES = {
    "spatial": ({"spatial_adj": True}, snn.surrogate.spatial_adjustment, spatial),
    "leaky": ({"spatial_adj": LEAKS}, LEAKS, leaky(0.3)),
    "rectangle": ({"spike_grad": snn.surrogate.rectangle(1.0)}, snn.surrogate.rectangle(1.0), rectangle(1.0)),
    "narrow": ({"spike_grad": snn.surrogate.rectangle(0.3)}, snn.surrogate.rectangle(0.3), rectangle(0.3)),
    "callable": ({"spike_grad": float_surrogate}, float_surrogate, atan(2.0)),
    "stock": ({"spike_grad": stock_surrogate}, stock_surrogate, atan(2.0)),
}


def eighths(x):
    """A quantiser of snnTorch's kind: the nearest eighth, whose derivative is taken for 1."""
    return (x * 8).round().detach() / 8 + (x - x.detach())


# snnTorch's options that leave the paper: (the neuron's arguments, the oracle's).
ODD = {
    "inhibition": ({"inhibition": True}, {"inhibition": True}),
    "quantised": ({"state_quant": eighths}, {"quantise": lambda x: np.round(x * 8) / 8}),
}
QUANT = quant.state_quant(num_bits=4, threshold=1.0)

# --- kernels --------------------------------------------------------------------------------------


def has_kernel(kind, recurrence="linear", **values):
    """Whether a kernel runs a neuron of these arguments. What it has to be looped for is said here and nowhere else."""
    own = values.get("surrogate_disable") or values.get("spike_grad") in (float_surrogate, stock_surrogate)
    all_to_all = kind in RECURRENT and not recurrence.startswith("V")
    return not (values.get("inhibition") or values.get("state_quant") or (own and all_to_all))


# --- builders -------------------------------------------------------------------------------------

TENSORS = ("alpha", "beta", "threshold", "V", "R", "C", "time_step", "graded_spikes_factor")


def arguments(kind, recurrence="linear", neurons=N, **values):
    """Those that a layer of so many neurons is built with."""
    loop = RECURRENCES[recurrence] if kind in RECURRENT else {}
    loop = loop | ({"linear_features": neurons} if "linear_features" in loop else {})
    return FAMILY[kind].numbers | loop | values


def build(lib, kind, recurrence="linear", *, seed=0, dtype=None, **values):
    """A neuron of `lib`, ours or snnTorch's, with tensors of its own and weights that depend on the seed only.

    With a `dtype` its numbers are tensors of that from the start. A `spike_grad` that is ``spatial_adjustment``, or has no
    threshold, gets the neuron's.
    """
    own = arguments(kind, recurrence, **values)
    own = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in own.items()}
    if dtype is not None:
        numbers = [name for name in TENSORS if name in own and not isinstance(own[name], bool)]
        own |= {name: torch.as_tensor(own[name], dtype=dtype) for name in numbers}
    if own.get("spike_grad") is snn.surrogate.spatial_adjustment:
        own["spike_grad"] = snn.surrogate.spatial_adjustment(own["threshold"])
    if own.get("spike_grad") is LEAKS:
        own["spike_grad"] = snn.surrogate.spatial_adjustment(own["threshold"], LEAKS.leak)
    torch.default_generator.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Inhibition is an unstable feature")
        neuron = getattr(lib, kind)(**own)
    return neuron if dtype is None else neuron.to(dtype)


def pair(kind, recurrence="linear", **values):
    """Ours, and snnTorch's without our options."""
    theirs = {name: value for name, value in values.items() if name not in OURS}
    return build(snn, kind, recurrence, **values), build(snntorch, kind, recurrence, **theirs)


def per_neuron(kind, dtype=F32):
    """A value per neuron of every parameter that can have one."""
    return {name: torch.linspace(*ends, N, dtype=dtype) for name, ends in FAMILY[kind].per_neuron.items()}


def learnable(kind):
    """All that a neuron can learn."""
    return {f"learn_{name}": True for name in FAMILY[kind].learns if name != "recurrent"}


def uniform(*shape, seed=0, scale=1.0, low=0.0, dtype=F64):
    return (torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64) * scale + low).to(dtype)


DRIVES = {"mixed": (2.0, -0.4), "silent": (0.04, -0.05), "busy": (0.9, 0.9)}


def currents(*shape, seed=0, dtype=F32, drive="mixed"):
    """Mixed: neurons that stay silent, fire now and then, fire always, and fall below zero. Silent: none ever fires."""
    scale, low = DRIVES[drive]
    return uniform(*shape, seed=seed, scale=scale, low=low, dtype=dtype)


def begin(kind, shape, dtype=F32, seed=7):
    """States to start from, each of its own numbers. Spikes that came before need not be 0 or 1."""
    return {
        name: uniform(*shape, seed=seed + n, scale=1.6, low=-0.2, dtype=dtype)
        for n, name in enumerate(FAMILY[kind].states)
    }


def outputs(kind):
    """What a step returns, by name."""
    return ("spk", *(name for name in FAMILY[kind].states if name != "spk"))


def upstream(kind, num_steps, shape, loss="both", dtype=F32, seed=11):
    """Mean-free gradients at the spikes and at every state, for `run`."""
    gen = torch.Generator().manual_seed(seed)
    gradients = {name: torch.randn(num_steps, *shape, generator=gen, dtype=F64) for name in outputs(kind)}
    for name, gradient in gradients.items():
        gradient -= gradient.mean() if gradient.numel() else 0.0
        if loss == ("states" if name == "spk" else "spk"):
            gradient.zero_()
    return {name: gradient.to(dtype) for name, gradient in gradients.items()}


# --- one run --------------------------------------------------------------------------------------


def run(neuron, cur, start="tensors", how="step", *, every_state=None, gradients=None, **options):
    """Drive a neuron through a sequence; return every output and every gradient by name.

    Args:
        neuron: Ours, snnTorch's, or a module with its states in `kind`.
        cur: Currents [T, B, *].
        start: States by name, or "tensors" (those of `begin`), "zeros", "init" (what ``reset_mem()`` returns) or "none".
            Of no effect with init_hidden.
        how: "step", "sequence", "multistep" (the call with that flag, by the reference) or an implementation.
        every_state: Whether the states of all steps go into the loss and the result, or the last only. Steps can.
        gradients: From outside, at every output; those of `upstream` by default.
        options: Of ``sequence``.

    Returns:
        "spk", and the last of each state; "mem_rec" and the like; "hidden mem" and the like, that is what the neuron keeps;
        "dinput", "d0mem" and the like, "dbeta" and the like.
    """
    kind = getattr(neuron, "kind", type(neuron).__name__)
    hidden, every_state = getattr(neuron, "init_hidden", False), how == "step" if every_state is None else every_state
    names = outputs(kind)
    neuron.zero_grad()
    cur = cur.clone().requires_grad_()
    gradients = upstream(kind, len(cur), cur.shape[1:], dtype=cur.dtype) if gradients is None else gradients
    first = {}
    if not hidden and start == "init":
        first = neuron.reset_mem()
        first = dict(zip(FAMILY[kind].states, first if isinstance(first, tuple) else (first,), strict=True))
    elif not hidden and start != "none":
        first = begin(kind, cur.shape[1:], cur.dtype) if start == "tensors" else start
        first = {name: torch.zeros_like(cur[0]) for name in FAMILY[kind].states} if start == "zeros" else first
        first = {name: state.clone().requires_grad_() for name, state in first.items()}

    if how == "step":
        records, states = {name: [] for name in names}, dict(first)
        for c in cur:
            out = neuron(c, *states.values())
            if hidden and not neuron.output:
                assert isinstance(out, torch.Tensor)
                out = (out, *(getattr(neuron, name) for name in names[1:]))
            out = dict(zip(names, out, strict=True))
            for name, x in out.items():
                records[name].append(x)
            states = {} if hidden else {name: out[name] for name in FAMILY[kind].states}
        last, records = {name: x[-1] for name, x in records.items()}, {n: torch.stack(x) for n, x in records.items()}
        spk = records.pop("spk")
    else:
        assert not every_state
        call = neuron.sequence
        if how == "multistep":
            call, how = (lambda *args, **kwargs: neuron(*args, multistep=True, **kwargs)), "reference"
        if how != "sequence":
            options["impl"] = how
        last = dict(zip(names, call(cur, *first.values(), **options), strict=True))
        spk = last["spk"]
    result, loss = {"spk": spk}, (spk * gradients["spk"]).sum()
    for name in names[1:]:
        result[name] = last[name]
        if every_state:
            result[name + "_rec"] = records[name]
        weigh = (records[name], gradients[name]) if every_state else (last[name], gradients[name][-1])
        loss = loss + (weigh[0] * weigh[1]).sum()
    result |= {"hidden " + name: getattr(neuron, name) for name in FAMILY[kind].states if hasattr(neuron, name)}

    torch.default_generator.manual_seed(3)  # snnTorch's SSO draws its gradient
    if loss.requires_grad:
        loss.backward()
    result = {name: x.detach() for name, x in result.items()} | {"dinput": cur.grad}
    result |= {"d0" + name: state.grad for name, state in first.items() if state.requires_grad}
    return result | {"d" + name: p.grad for name, p in neuron.named_parameters() if p.requires_grad}


def drive(net, cur):
    """Step a net that keeps its states itself; outputs and the gradients of the input and every parameter, by name."""
    net.zero_grad()
    cur = cur.clone().requires_grad_()
    out = torch.stack([net(c) for c in cur])
    (out * torch.randn(out.shape, generator=torch.Generator().manual_seed(7)).to(out.dtype)).sum().backward()
    return {"out": out.detach(), "dinput": cur.grad} | {f"d{name}": p.grad for name, p in net.named_parameters()}


def torch_save_and_load(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPY = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda module: pickle.loads(pickle.dumps(module)),
    "torch.save": torch_save_and_load,
}


def values_of(result):
    """Names of what is no gradient."""
    return [name for name in result if not name.startswith("d")]


def assert_same(ours, expected, names=None, *, cast=False, exact=True):
    """Equal to the bit, and of one dtype; NaN equals NaN. With `cast`, dtypes may differ. Where not `exact`, gradients are
    equal to rounding, and none is zero."""
    if names is None:
        assert ours.keys() == expected.keys()
    for name in names or expected:
        a, b = ours[name], expected[name]
        if a is None or b is None:
            zero = not exact and not any(x.any() for x in (a, b) if x is not None)
            assert a is b or zero, f"{name}: {a} against {b}"
            continue
        assert a.shape == b.shape, name
        assert cast or a.dtype == b.dtype, f"{name}: {a.dtype} against {b.dtype}"
        if not exact and name.startswith("d"):
            assert_close(a, b, a.dtype, b.abs().max(), name)
            continue
        a, b = a.to(F64), b.to(F64)
        same = (a == b) | (a.isnan() & b.isnan())
        assert bool(same.all()), f"{name} differs by up to {(a - b).abs().max().item():.3e}"


def same_values(ours, expected):
    """`assert_same` of all that is no gradient."""
    assert_same(ours, expected, values_of(expected))
    return True


# --- the oracle's answer --------------------------------------------------------------------------


def clamp_slope(value):
    """What this PyTorch holds the derivative of clamp(value, 0, 1) to be, at both ends too."""
    value = value.detach().clone().requires_grad_()
    value.clamp(0, 1).sum().backward()
    return value.grad.double().numpy()


class Convolution:
    """A Conv2d with its stride of 1 as a matrix over the neurons of a sample in a row."""

    def __init__(self, conv, shape):
        self.kernel = conv.weight.detach().double().numpy()
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
        self.bias = np.repeat(conv.bias.detach().double().numpy(), height * width)

    def fold(self, dweight, dbias):
        dkernel = np.zeros(self.kernel.size)
        np.add.at(dkernel, self.where[self.where >= 0], dweight[self.where >= 0])
        return dkernel.reshape(self.kernel.shape), dbias.reshape(self.kernel.shape[0], -1).sum(axis=1)


def expect(neuron, surrogate, cur, start, gradients, **changes):
    """The oracle's answer for a neuron with its own settings, to a run from these states with these gradients."""
    kind = type(neuron).__name__
    array = {name: x.double().numpy() for name, x in gradients.items()}
    settings = {
        "threshold": neuron.threshold.detach().double().numpy(),
        "surrogate": surrogate,
        "reset": neuron.reset_mechanism,
        "start": {name: x.double().numpy() for name, x in start.items()},
        "dspk": array.pop("spk"),
        "dstates": array,
    }
    if FAMILY[kind].residual:
        settings["temporal_alpha"] = getattr(neuron, "temporal_alpha", 0.0)
    if FAMILY[kind].reset_delay:
        settings["reset_delay"] = neuron.reset_delay
    if kind == "Leaky":
        settings["wipes_input"] = False
    if kind == "Lapicque":
        given = ["beta"] if neuron.beta.requires_grad else ["R", "C"]
        settings |= {name: getattr(neuron, name).detach().double().numpy() for name in (*given, "time_step")}
        return lapicque(cur.double().numpy(), **(settings | changes))

    decays = [name for name in ("alpha", "beta") if hasattr(neuron, name)]
    settings |= {name: getattr(neuron, name).detach().double().clamp(0, 1).numpy() for name in decays}
    convolution = None
    if kind in RECURRENT:
        recurrent = neuron.recurrent
        if isinstance(recurrent, torch.nn.Conv2d):
            convolution = Convolution(recurrent, cur.shape[2:])
            settings |= {"weight": convolution.weight, "bias": convolution.bias}
        elif isinstance(recurrent, torch.nn.Linear):
            settings |= {name: getattr(recurrent, name).detach().double().numpy() for name in ("weight", "bias")}
        else:
            settings["V"] = neuron.V.detach().double().numpy()
    result = (alpha_neuron if kind == "Alpha" else integrator)(cur.double().numpy(), **(settings | changes))
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
    """Spikes equal; states and gradients within the table. Returns the names of the parameters' gradients."""
    assert torch.equal(result["spk"].to(F64), torch.as_tensor(expected.spk, dtype=F64)), "spikes differ"
    for name, state in expected.states.items():
        ours = result.get(name + "_rec", result[name])
        state = torch.as_tensor(state if name + "_rec" in result else state[-1], dtype=F64)
        assert_close(ours, state, dtype, state.abs().max(), name)
    assert_close(result["dinput"], expected.dinput, dtype, expected.size, "dinput")
    for name, gradient in expected.dstart.items():
        ours = result.get("d0" + name, gradient)  # "spk" and "syn" where the neuron has none
        ours = np.zeros_like(gradient) if ours is None else ours
        assert_close(ours, gradient, dtype, expected.size, "d0" + name)
    parameters = [name for name in result if name.startswith("d") and name != "dinput" and not name.startswith("d0")]
    for name in parameters:
        assert_close(result[name], expected.dparameters[name[1:]], dtype, expected.scale[name[1:]], name)
    return parameters


def case(neuron, surrogate, cur, loss="both", how="step", dtype=F64, start=None, options=None, **changes):
    """Run a neuron and the oracle and compare; returns both. `options` are those of ``sequence``."""
    kind = type(neuron).__name__
    start = begin(kind, cur.shape[1:], cur.dtype) if start is None else start
    gradients = upstream(kind, len(cur), cur.shape[1:], loss, cur.dtype)
    result = run(neuron, cur, start, how, gradients=gradients, **(options or {}))
    if how != "step":  # which hands out the last states only
        for name, gradient in gradients.items():
            if name != "spk":
                gradient[:-1] = 0
    expected = expect(neuron, surrogate, cur, start, gradients, **changes)
    judge(result, expected, dtype)
    return result, expected
