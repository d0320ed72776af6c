"""Whatever is put into a public function: a right result, or an error that names the argument.

Hypothesis draws arguments that fit, and then puts something odd in the place of one or two of them. Errors may be
ValueError, TypeError and NotImplementedError and have to name an argument. A single step with the options off lets through
what snnTorch lets through, and gives the same. SNNTORCH_BPSTA_FUZZ=20 runs twenty times as many cases.
"""

import contextlib
import copy
import dataclasses
import decimal
import fractions
import inspect
import math
import os
import re
import traceback
import warnings
from pathlib import Path

import numpy as np
import pytest
import snntorch
import torch
from torch import nn

pytest.importorskip("hypothesis", reason="hypothesis (extra: dev) is missing")
from _public import WITHOUT_ALL_LEFT, imported, ours, public_modules  # noqa: E402
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from snntorch.functional import quant  # noqa: E402

import snntorch_bpsta as snn  # noqa: E402
from snntorch_bpsta import data, energy, flow, networks, surrogate  # noqa: E402
from snntorch_bpsta.functional import lif_multistep, which_impl  # noqa: E402
from snntorch_bpsta.functional.multistep import DEFAULT_SPIKE_GRAD  # noqa: E402
from snntorch_bpsta.neurons import FAMILY  # noqa: E402
from snntorch_bpsta.training import Recipe, rate_cross_entropy_loss, rate_mse_loss  # noqa: E402

PACKAGE = Path(snn.__file__).parent
NAN, INF = float("nan"), float("inf")
REFUSALS = (ValueError, TypeError, NotImplementedError)
FACTOR = int(os.environ.get("SNNTORCH_BPSTA_FUZZ", "1"))
NEURONS = {cls.__name__: cls for cls in FAMILY}

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tensors this small are slower with more threads, above all where other work has the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


targets, cases = set(), []


def fuzz(*names, examples, **strategies):
    """``given`` and the number of cases for a test of the public `names`; "Leaky.sequence" is a method."""

    def decorate(test):
        targets.update(names)
        marks = [mark for mark in getattr(test, "pytestmark", ()) if mark.name == "parametrize"]
        cases.append(examples * math.prod(len(mark.args[1]) for mark in marks))
        options = settings(
            max_examples=examples * FACTOR, derandomize=True, deadline=None, database=None,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        return options(given(**strategies)(test))

    return decorate


def public_names():
    """Our public classes, functions, and methods that their bases do not have, as ``FiringRates.mean``; and the modules that
    need a library that is not there."""
    found, absent = set(), []
    for name in public_modules():
        module = imported(name)
        if module is None:
            absent.append(name)
        if module is None or name == "cli" or name in WITHOUT_ALL_LEFT:
            continue
        for each, thing in ours(module):
            if not callable(thing):
                continue
            found.add(each)
            if inspect.isclass(thing):
                methods = [key for key, value in vars(thing).items() if inspect.isfunction(value) and key[0] != "_"]
                found.update(
                    f"{each}.{key}" for key in methods if not any(hasattr(base, key) for base in thing.__mro__[1:])
                )
    return found, absent


# --- what is odd ----------------------------------------------------------------------------------


class NoNumber:
    def __float__(self):
        raise RuntimeError("no number")

    __int__ = __index__ = __len__ = __bool__ = __float__


class Sub(torch.Tensor):
    pass


ODD = [
    None, True, False, 0, 1, -1, 3, 2**70, -(2**70), 0.0, -0.0, 0.5, 1.0, -0.3, NAN, INF, -INF, 5e-324, 1e300, 0.8j, "",
    "zero", "2", b"\0", (), (2,), (1, 2, 3), [], [1.0, 2.0], [None], {}, {"a": 1}, {1}, range(3), object(), NoNumber(), int,
    len, fractions.Fraction(1, 2), decimal.Decimal("0.5"), np.float32(0.5), np.int64(2), np.bool_(True), np.array(0.5),
    np.ones(2), np.ones((2, 3), np.float32), np.zeros(0), np.array([None]), np.array("a"), torch.device("cpu"),
    torch.float32, Path("nowhere"), ..., slice(1), nn.Identity(), nn.Identity, lambda: None, iter(()),
]  # fmt: skip

FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
OTHERS = [torch.int64, torch.int32, torch.uint8, torch.bool, torch.complex64, torch.float8_e5m2]
VALUES = {
    "usual": lambda x: 2 * x,
    "zero": lambda x: x * 0,
    "minus-zero": lambda x: x * -0.0,
    "negative": lambda x: -x,
    "denormal": lambda x: x * 1e-41,
    "huge": lambda x: x * 1e38,
    "at-the-threshold": lambda x: x * 0 + 0.5,
    "nan": lambda x: torch.where(x < 0.3, NAN, x),
    "inf": lambda x: torch.where(x < 0.3, INF, torch.where(x > 0.7, -INF, x)),
}


def _channels_last(x):
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.dim())
    return x if last is None else x.contiguous(memory_format=last)


def _overlapping(x):
    return x.as_strided(x.shape, (1,) * x.dim()) if x.numel() else x


LAYOUTS = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.mT.contiguous().mT if x.dim() > 1 else x,
    "time-last": lambda x: x.movedim(0, -1).contiguous().movedim(-1, 0) if x.dim() else x,
    "every-second": lambda x: torch.stack([x, torch.full_like(x, 7)], -1)[..., 0],
    "offset": lambda x: torch.cat([x.new_full((1,), 7), x.reshape(-1)])[1:].view(x.shape),
    "channels-last": _channels_last,
    "overlapping": _overlapping,
    "expanded": lambda x: x[:1].expand(x.shape) if x.dim() and len(x) else x,
    "negated": lambda x: torch._neg_view(-x) if x.dtype in FLOATS else x,  # as the imaginary part of a conjugate is
    "leaf": lambda x: x.requires_grad_() if x.is_floating_point() else x,
    "result": lambda x: (x.requires_grad_() if x.is_floating_point() else x).clone(),
    "parameter": lambda x: nn.Parameter(x, requires_grad=x.is_floating_point()),
    "subclass": lambda x: x.as_subclass(Sub),
}
STRANGE = {
    "meta": lambda x: x.to("meta"),
    "sparse": lambda x: x.to_sparse(),
    "conjugate": lambda x: x.to(torch.complex64).conj(),
    "inference": lambda x: x,
}


@st.composite
def tensors(draw, shape, dtypes=FLOATS, values=tuple(VALUES), layouts=tuple(LAYOUTS)):
    """A tensor of a drawn dtype, kind of values and layout."""
    shape = draw(shape) if isinstance(shape, st.SearchStrategy) else shape
    seed, kind, layout = draw(st.integers(0, 99)), draw(st.sampled_from(values)), draw(st.sampled_from(layouts))
    dtype = draw(st.sampled_from(dtypes))
    with torch.inference_mode(layout == "inference"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x = VALUES[kind](torch.rand(shape, generator=torch.Generator().manual_seed(seed)))
        x = (LAYOUTS | STRANGE)[layout](x.to(dtype))
    return x


SIZES = st.sampled_from([0, 1, 2, 3, 5])
SHAPES = st.lists(SIZES, max_size=5).map(tuple)
ODD_TENSORS = st.one_of(
    tensors(SHAPES, FLOATS + OTHERS), tensors(SHAPES, FLOATS + OTHERS[:5], layouts=tuple(STRANGE)), tensors((2, 3))
)
ANYTHING = st.one_of(st.sampled_from(ODD), st.sampled_from(ODD), ODD_TENSORS)


@st.composite
def mostly(draw, fitting, odd=ANYTHING):
    return draw(fitting if draw(st.integers(0, 3)) else odd)


@st.composite
def calls(draw, *, most=2, odd=ANYTHING, **sane):
    """Arguments by name, up to `most` of them odd; those that are ``...`` are left out."""
    count = min(draw(st.sampled_from([0, 0, 0, 1, 1, 2])), most)
    names = draw(st.lists(st.sampled_from(sorted(sane)), min_size=count, max_size=count, unique=True))
    arguments = {name: draw(odd if name in names else strategy) for name, strategy in sane.items()}
    return {name: value for name, value in arguments.items() if value is not ... or name in names}


def optional(*values, default=...):
    """One of the `values`, and often the default."""
    return st.one_of(st.just(default), st.sampled_from(values)) if values else st.just(default)


# --- what may come out ----------------------------------------------------------------------------

REFUSED = object()


def raised_here(error):
    """Whether `error` was raised here, in the host, or by a call that does not fit a signature."""
    frames = traceback.extract_tb(error.__traceback__)
    own = (str(PACKAGE), str(Path(snntorch.__file__).parent), str(Path(__file__).parent), inspect.__file__)
    return frames[-1].filename.startswith(own)


def attempt(function, /, *args, naming=(), **kwargs):
    """The result of the call, or REFUSED if it raises as it may: one of three errors, with the name of an argument (of this
    function, or one of `naming`)."""
    try:
        return function(*args, **kwargs)
    except REFUSALS as error:
        try:
            parameters = list(inspect.signature(function).parameters)
        except ValueError:
            parameters = []
        names = {name.lstrip("*") for name in [*parameters, *kwargs, *naming]}
        pattern = rf"(?<![A-Za-z_])({'|'.join(map(re.escape, names))})(?![A-Za-z_])"
        if not names or not re.search(pattern, str(error)):
            raise AssertionError(f"no argument is named in {type(error).__name__}: {error}") from error
        if not raised_here(error):
            raise AssertionError(f"{type(error).__name__} from inside a library: {error}") from error
        return REFUSED
    except RuntimeError as error:  # PyTorch's own words: more memory than there is; a tensor of torch.inference_mode
        if re.search("allocate|overflow|Inference tensors cannot be saved", str(error)):
            return REFUSED
        raise
    except MemoryError:
        return REFUSED


def same(a, b):
    """Whether tensors are equal, NaN to NaN."""
    a, b = a.detach(), b.detach().to(a)
    return a.shape == b.shape and (
        a.is_meta or torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num())
    )


def finite(*values):
    return all(bool(x.detach().isfinite().all()) for x in values if isinstance(x, torch.Tensor))


def moderate(*values):
    """Whether sums of them cannot overflow."""
    return all(bool((x.detach().to_dense().abs() < 1e6).all()) for x in values if isinstance(x, torch.Tensor))


def is_binary(spk, factor=1.0):
    return bool(((spk == 0) | (spk == torch.as_tensor(factor).to(spk.dtype))).all())


# --- the neurons: built ---------------------------------------------------------------------------

N = 3
PER_NEURON = st.sampled_from([0.0, 0.5, 0.9, 1.0, 1.5, 5e-324, 1e30])
THRESHOLDS = st.sampled_from([1.0, 0.5, 0.1, 1e-38, 1e30, 0.0, -0.5])
SURROGATES = {
    "none": None,
    "atan": snntorch.surrogate.atan(),
    "fast-sigmoid": snntorch.surrogate.fast_sigmoid(),
    "heaviside": snntorch.surrogate.heaviside(),
    "triangular": snntorch.surrogate.triangular(),
    "escape": snntorch.surrogate.spike_rate_escape(),
    "SFS": snntorch.surrogate.SFS(),
    "straight-through": snntorch.surrogate.straight_through_estimator(),
    "rectangle": surrogate.rectangle(),
    "logistic": surrogate.Logistic(),
    "atan-upside-down": snntorch.surrogate.atan(alpha=-2.0),
    "sigmoid-upside-down": snntorch.surrogate.sigmoid(slope=-5),
    "escape-upside-down": snntorch.surrogate.spike_rate_escape(beta=1, slope=-5),
    "custom": snntorch.surrogate.custom_surrogate(lambda input_, grad, spikes: grad),
}
# Their derivatives cannot overflow. (The host's sigmoid does.)
SAFE_SURROGATES = (None, DEFAULT_SPIKE_GRAD, SURROGATES["rectangle"], SURROGATES["logistic"])
FLAG = optional(True, False)
OPTIONS = {"spatial_adj": FLAG, "temporal_alpha": optional(0, 0.8, 1.0)}
FUSED = {"inplace": FLAG, "save": optional(None, "float32", "bfloat16", "compact")}


def vectors(*values):
    """One of the numbers, or a tensor of them that broadcasts to [B, N]."""
    shapes = st.sampled_from([(), (1,), (N,), (2, 1)])
    return st.one_of(
        st.sampled_from(values),
        st.builds(lambda value, shape: torch.full(shape, value), st.sampled_from(values), shapes),
    )


SANE = {
    "alpha": vectors(0.8, 0.95, 0.5),
    "beta": vectors(0.0, 0.3, 0.7, 1.0, 1.5),
    "threshold": st.one_of(st.just(...), vectors(1.0, 0.5, 1e-38, 1e30, 0.0, -0.5)),
    "spike_grad": st.one_of(st.just(...), st.sampled_from(list(SURROGATES.values()))),
    "surrogate_disable": FLAG,
    "init_hidden": FLAG,
    "inhibition": FLAG,
    "learn_alpha": FLAG,
    "learn_beta": FLAG,
    "learn_threshold": FLAG,
    "learn_recurrent": FLAG,
    "learn_graded_spikes_factor": FLAG,
    "reset_mechanism": optional("subtract", "zero", "none"),
    "state_quant": optional(False, torch.round, quant.state_quant(num_bits=4)),
    "output": FLAG,
    "graded_spikes_factor": st.one_of(st.just(...), vectors(1.0, 2.0, -0.5)),
    "reset_delay": FLAG,
    "V": st.one_of(st.just(...), vectors(0.5, -1.0)),
    "all_to_all": st.just(False),
    "linear_features": optional(N),
    "conv2d_channels": optional(),
    "kernel_size": optional(),
    "R": optional(5.0, torch.tensor(2.0)),
    "C": optional(0.3, torch.tensor(0.5)),
    "time_step": optional(0.1, 1),
}


def neurons(name, most=0, **others):
    """Arguments of a neuron by its name."""
    sane = {key: SANE[key] for key in inspect.signature(NEURONS[name]._host).parameters}
    if name == "Lapicque":
        sane["beta"] = optional(0.5, 0.9, torch.tensor([0.5]))
    fused = FUSED if name in ("Leaky", "Lapicque") else {}
    return calls(most=most, **{**sane, **OPTIONS, **fused, **others})


@pytest.mark.parametrize("name", NEURONS)
@fuzz(*NEURONS, examples=80, draws=st.data())
def test_build_a_neuron(name, draws):
    arguments = draws.draw(neurons(name, most=2), label="arguments")
    options = {key: arguments.get(key, off) for key, off in NEURONS[name]._options.items()}
    neuron = attempt(NEURONS[name], **arguments)
    if neuron is REFUSED:
        return
    if name != "Alpha" or not arguments.get("learn_alpha"):  # which the host cannot be built with
        host = NEURONS[name]._host(**{key: value for key, value in arguments.items() if key not in options})
        assert list(neuron.state_dict()) == list(host.state_dict())
        for key, value in host.state_dict().items():
            assert "recurrent" in key or same(neuron.state_dict()[key].double(), value.double()), key
    assert {key: bool(getattr(neuron, key) == value) for key, value in options.items()} == dict.fromkeys(options, True)
    repr(neuron), neuron.reset_mem()
    if not any(isinstance(value, Sub) for value in arguments.values()):  # which PyTorch does not copy
        copy.deepcopy(neuron)


# --- the neurons: one step ------------------------------------------------------------------------

STEPS = st.sampled_from([(2, N), (1, N), (0, N), (2, 1), (3,), (), (2, N, 2), (2, 2, 2, N), (2, 0)])


def pair(name, arguments):
    """Ours and the host's neuron of these arguments, or (REFUSED, None)."""
    neuron = attempt(NEURONS[name], **arguments)
    if neuron is REFUSED:
        return REFUSED, None
    own = {key: value for key, value in arguments.items() if key not in NEURONS[name]._options}
    learn_alpha = own.pop("learn_alpha", False) if name == "Alpha" else False  # which the host cannot be built with
    host = NEURONS[name]._host(**own)
    if learn_alpha:
        host.alpha = nn.Parameter(host._buffers.pop("alpha"))
    return neuron, host


def twin(value):
    """The same memory and layout as a leaf of its own, for a second calculation."""
    return value.detach().requires_grad_(value.requires_grad) if isinstance(value, torch.Tensor) else value


def copied(value):
    """As `twin`, with memory of its own."""
    return value.detach().clone().requires_grad_(value.requires_grad) if isinstance(value, torch.Tensor) else value


def gradients(out, *leaves):
    """Of a weighted sum of all the outputs."""
    out = [x for x in (out if isinstance(out, tuple) else (out,)) if x.requires_grad]
    loss = sum((x.double() * torch.arange(1, x.numel() + 1).view(x.shape)).sum() for x in out)
    leaves = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.requires_grad]
    return torch.autograd.grad(loss, leaves, allow_unused=True) if out and leaves else ()


@pytest.mark.parametrize("name", NEURONS)
@fuzz(examples=100, draws=st.data())
def test_one_step_after_another(name, draws):
    arguments = draws.draw(neurons(name), label="arguments")
    neuron, host = pair(name, arguments)
    if neuron is REFUSED:
        return
    shape = draws.draw(STEPS)
    wanted = {"input_": tensors(shape), **{state: optional(None) for state in neuron._states}}
    wanted |= {state: st.one_of(wanted[state], tensors(shape)) for state in neuron._states}
    given_ = draws.draw(calls(**wanted), label="inputs")
    twins = {key: twin(value) for key, value in given_.items()}
    on = neuron.spatial_adj or neuron.temporal_alpha
    for _ in range(2):
        theirs = error = None
        try:
            theirs = host(**twins)
        except Exception as raised:
            error = raised
        if on:
            out = attempt(neuron.forward, naming=inspect.signature(NEURONS[name]).parameters, **given_)
            if out is REFUSED:
                return
        else:
            try:
                out = neuron(**given_)
            except Exception as raised:
                no_state = any(
                    not isinstance(given_.get(state), (torch.Tensor, type(None))) for state in neuron._states
                )
                assert error is not None or (type(raised) is TypeError and no_state), f"the host returns {theirs}"
                return
        if error is not None or (name == "RSynaptic" and not neuron.reset_delay):  # which the host takes for another
            return
        assert isinstance(out, tuple) is isinstance(theirs, tuple)
        outs, expected = (x if isinstance(x, tuple) else (x,) for x in (out, theirs))
        assert len(outs) == len(expected)
        for a, b in zip(outs, expected, strict=True):  # (in half precision the host's reset takes it to float32)
            assert same(a, b) if given_["input_"].dtype in (torch.float32, torch.float64) else a.shape == b.shape
    if given_["input_"].dtype == torch.float32 and not given_["input_"].is_meta:
        factor = neuron.graded_spikes_factor.detach()
        assert is_binary(outs[0], factor) or neuron.inhibition or outs[0].isnan().any()
        grads = gradients(out, *given_.values(), *neuron.parameters())
        if not on:
            for a, b in zip(grads, gradients(theirs, *twins.values(), *host.parameters()), strict=True):
                assert (a is None and b is None) or same(a, b)
        elif moderate(*outs, *given_.values()) and _is_tame(neuron):
            assert finite(*grads)


def _is_tame(neuron):
    """Whether the thresholds are large enough for 1/u, and the surrogate cannot overflow."""
    safe = neuron.spatial_adj or any(neuron.spike_grad is each for each in SAFE_SURROGATES)
    return safe and bool((neuron.threshold > 0.05).all())


# --- the neurons: all steps -----------------------------------------------------------------------

SEQUENCES = st.sampled_from(
    [
        (1, 2, N),
        (4, 2, N),
        (7, 1, N),
        (3, 0, N),
        (3, 2, 0),
        (0, 2, N),
        (2, N),
        (4, 1, 1),
        (2, 2, 2, N),
        (3, 2, 2, 2, N),
        (5,),
    ]
)
IMPL = optional("auto", "reference", "cpu", "triton")


@pytest.mark.parametrize("name", NEURONS)
@fuzz(*(f"{name}.sequence" for name in NEURONS), examples=100, draws=st.data())
def test_all_steps(name, draws):
    arguments = draws.draw(neurons(name), label="arguments")
    neuron = attempt(NEURONS[name], **arguments)
    if neuron is REFUSED:
        return
    shape = draws.draw(SEQUENCES)
    states = {state: optional(None) for state in neuron._states}
    states = {state: st.one_of(states[state], tensors(shape[1:])) for state in neuron._states}
    num_steps = optional(None, shape[0], *([4] if shape[0] == 1 else []))
    wanted = {"input_": tensors(shape), **states, "impl": IMPL, "relu": FLAG, "num_steps": num_steps}
    given_ = draws.draw(calls(**wanted), label="inputs")
    loop, steps = copy.deepcopy(neuron), copied(given_["input_"])
    out = attempt(neuron.sequence, naming=inspect.signature(NEURONS[name]).parameters, **given_)
    if out is REFUSED:
        return
    spk_rec, *after = out
    steps = steps.relu() if given_.get("relu") else steps
    steps = steps.expand(given_.get("num_steps") or len(steps), *steps.shape[1:])
    assert spk_rec.shape == steps.shape and all(state.shape == steps.shape[1:] for state in after)
    assert len(after) == len(neuron._states) - ("spk" in neuron._states)
    if spk_rec.is_meta:
        return
    assert is_binary(spk_rec, neuron.graded_spikes_factor.detach()) or neuron.inhibition or spk_rec.isnan().any()
    if steps.dtype not in (torch.float32, torch.float64) or any(copied(x).dtype != steps.dtype for x in after):
        return
    loop.output = loop.init_hidden
    states = {state: copied(given_.get(state)) for state in neuron._states}
    if not neuron.init_hidden:  # from zeros, whatever is in the neuron
        zeros = torch.zeros_like(steps[0])
        states = {name: zeros if x is None or x.shape == (0,) else x for name, x in states.items()}
    expected = []
    for step in steps.detach():
        spk, *now = loop(step, **states)
        expected.append(spk)
        if not neuron.init_hidden:
            states = dict(zip(neuron._states, [spk, *now] if "spk" in neuron._states else now, strict=True))
    assert all(same(a, b) for a, b in zip(after, now, strict=True))
    assert same(spk_rec, torch.stack(expected))
    grads = gradients(out, *given_.values(), *neuron.parameters())
    if moderate(*out, *given_.values()) and _is_tame(neuron):
        assert finite(*grads)


# --- functional -----------------------------------------------------------------------------------

LIF = {
    "beta": vectors(0.0, 0.3, 0.7, 1.0, 1.5),
    "threshold": st.one_of(st.just(...), vectors(1.0, 0.5, 1e-38, 1e30, 0.0, -0.5)),
    "reset_mechanism": optional("subtract", "zero", "none"),
    "spike_grad": st.one_of(st.just(...), st.sampled_from(list(SURROGATES.values()))),
    "spatial_adj": FLAG,
    "temporal_alpha": optional(0, 0.8, 1.0),
    "graded_spikes_factor": st.one_of(st.just(...), vectors(1.0, 2.0, -0.5)),
    "record_mem": FLAG,
    "relu": FLAG,
    "inplace": FLAG,
    "save": optional(None, "float32", "bfloat16", "compact"),
    "impl": IMPL,
}


@fuzz("lif_multistep", "which_impl", "LIFOutput", "Impl", examples=500, draws=st.data())
def test_the_door(draws):
    shape = draws.draw(SEQUENCES)
    mem = st.one_of(optional(None), tensors(shape[1:]))
    num_steps = optional(None, shape[0], *([4] if shape[0] == 1 else []))
    arguments = draws.draw(calls(input_=tensors(shape), mem=mem, num_steps=num_steps, **LIF), label="arguments")
    twins = {key: copied(value) for key, value in arguments.items()}
    chosen = attempt(which_impl, **arguments)
    out = attempt(lif_multistep, **arguments)
    if out is REFUSED:
        return
    assert chosen in ("reference", "cpu", "triton") and str(snn.functional.Impl(chosen)) == chosen
    assert type(out) is snn.functional.LIFOutput
    twins["impl"] = "reference"
    expected = lif_multistep(**twins)
    assert out.spk.shape == expected.spk.shape and out.mem.shape == expected.mem.shape
    if out.spk.is_meta or arguments["input_"].dtype not in (torch.float32, torch.float64):
        return
    assert same(out.spk, expected.spk) and same(out.mem, expected.mem)
    names = ("input_", "mem", "beta", "threshold", "graded_spikes_factor")
    leaves = [arguments.get(name) for name in names]
    grads = gradients(tuple(out), *leaves)
    tame = float(torch.as_tensor(arguments.get("threshold", 1)).min()) > 0.05
    safe = any(arguments.get("spike_grad") is each for each in SAFE_SURROGATES)
    overwritten = arguments.get("inplace") is True and not leaves[0].is_leaf  # what it was is gone
    if overwritten or not (moderate(*out, *leaves) and tame):
        return
    assert finite(*grads) or not safe
    tolerance = 2e-2 if arguments.get("save") in ("bfloat16", "compact") else 1e-4
    for grad, of_reference in zip(grads, gradients(tuple(expected), *map(twins.get, names)), strict=True):
        if grad is not None and grad.numel() and finite(of_reference):
            off = (grad - of_reference).abs().max()
            assert off <= tolerance * (1e-3 + of_reference.abs().max())


BLOCKS = st.sampled_from([(1, 2048), (3, 2049), (2, 2047), (5, 4097), (1, 1), (9, 7)])


@fuzz("lif_multistep", examples=150, draws=st.data())
def test_the_kernels_stay_within_their_memory(draws):
    """Sizes around a block, every layout, parameters per neuron and per channel: values as the reference's, and what lies
    before and behind the input in memory as it was."""
    num_steps, size = draws.draw(BLOCKS)
    shape = draws.draw(st.sampled_from([(num_steps, 1, size), (num_steps, size, 1), (num_steps, 1, size, 1, 1)]))
    dtype = draws.draw(st.sampled_from(FLOATS))
    around = draws.draw(
        tensors(shape, [dtype], layouts=("contiguous", "offset", "expanded", "overlapping", "time-last"))
    )
    guarded = torch.cat([around.new_full((64,), 7), around.reshape(-1), around.new_full((64,), 7)])
    input_ = guarded[64:-64].view(shape) if draws.draw(st.booleans()) else around
    wide = st.sampled_from([(), (1,), shape[1:], (*shape[1:2], *(1,) * (len(shape) - 2)), shape[2:]])
    beta, threshold = (torch.full(draws.draw(wide), value) for value in (0.7, 0.5))
    options = draws.draw(
        calls(most=0, **{key: LIF[key] for key in ("relu", "inplace", "save", "record_mem", "spatial_adj")})
    )
    beta.requires_grad_(draws.draw(st.booleans()))
    threshold.requires_grad_(draws.draw(st.booleans()))
    expected = lif_multistep(input_.clone(), beta=beta, threshold=threshold, **options, impl="reference")
    out = attempt(lif_multistep, input_, beta=beta, threshold=threshold, **options)
    assert bool((guarded[:64] == 7).all() and (guarded[-64:] == 7).all())
    if out is not REFUSED:
        if dtype in (torch.float32, torch.float64):
            assert same(out.spk, expected.spk) and same(out.mem, expected.mem)
        assert is_binary(out.spk) or out.spk.isnan().any()
        gradients(tuple(out), beta, threshold)


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


# --- conversion -----------------------------------------------------------------------------------


class Own(snntorch.Leaky):
    """A neuron of the user's."""


INSIDE = {
    "host": lambda: snntorch.Leaky(beta=0.5),
    "host-zero": lambda: snntorch.Leaky(beta=0.5, reset_mechanism="zero", learn_threshold=True, init_hidden=True),
    "host-none": lambda: snntorch.Lapicque(beta=0.5, reset_mechanism="none"),
    "host-negative": lambda: snntorch.Leaky(beta=0.5, threshold=-1.0),
    "host-several": lambda: snntorch.Leaky(beta=torch.rand(N), threshold=torch.tensor([0.5, 0.0, 1.0])),
    "host-nan": lambda: snntorch.Leaky(beta=0.5, threshold=NAN),
    "host-no-delay": lambda: snntorch.Synaptic(alpha=0.8, beta=0.5, reset_delay=False),
    "host-no-surrogate": lambda: snntorch.Leaky(beta=0.5, surrogate_disable=True),
    "host-recurrent": lambda: snntorch.RLeaky(beta=0.5, linear_features=N),
    "host-r-synaptic": lambda: snntorch.RSynaptic(alpha=0.8, beta=0.5, V=0.5, all_to_all=False),
    "host-alpha": lambda: snntorch.Alpha(alpha=0.8, beta=0.5),
    "host-empty": lambda: snntorch.Leaky(beta=0.5, threshold=torch.zeros(0)),
    "host-meta": lambda: snntorch.Leaky(beta=0.5).to("meta"),
    "lstm": lambda: snntorch.SLSTM(N, N),
    "parallel": lambda: snntorch.LeakyParallel(N, N),
    "own": lambda: Own(beta=0.5),
    "ours": lambda: snn.Leaky(beta=0.5),
    "ours-on": lambda: snn.Leaky(beta=0.5, spatial_adj=True, temporal_alpha=0.3),
    "block": lambda: nn.Sequential(nn.Linear(N, N), nn.ModuleDict({"a": snntorch.Leaky(beta=0.5)})),
    "linear": lambda: nn.Linear(N, N),
}
NETS = st.lists(st.sampled_from(sorted(INSIDE)), max_size=4).map(
    lambda names: nn.Sequential(*(INSIDE[n]() for n in names))
)
SELECT = optional(None, lambda name, neuron: "0" in name, lambda name, neuron: False)


@fuzz("convert", "revert", "Conversion", "reset", examples=250, arguments=calls(
    net=NETS, match=SELECT, **OPTIONS, odd=ANYTHING.filter(lambda value: not callable(value)),
))  # fmt: skip
def test_convert_and_revert(arguments):
    net, match = arguments["net"], arguments.get("match")
    if isinstance(net, nn.Module):
        classes = {name: type(module) for name, module in net.named_modules()}
        state = {key: value.clone() for key, value in net.state_dict().items()}
        wanted = {
            name for name, module in net.named_modules()
            if isinstance(module, (snntorch.SpikingNeuron, snntorch.LeakyParallel))
            and (not callable(match) or match(name, module))
        }  # fmt: skip
    done = attempt(snn.convert, **arguments)
    attempt(snn.reset, net)
    back = attempt(snn.revert, net, **({"match": match} if "match" in arguments else {}))
    if done is REFUSED:
        assert not isinstance(net, nn.Module) or "match" in arguments or set(arguments) & set(OPTIONS)
        return
    assert type(done) is snn.Conversion and str(done)
    assert {*done.changed, *done.unchanged, *done.refused} == wanted
    assert len(done.changed) + len(done.unchanged) + len(done.refused) == len(wanted)
    assert set(back.changed) == {name for name in wanted if issubclass(classes[name], FAMILY)} | set(done.changed)
    for name, module in net.named_modules():
        if classes[name] not in FAMILY:
            assert type(module) is classes[name]
    for key, value in net.state_dict().items():
        assert same(value, state[key])


@fuzz("patched", examples=150, options=calls(**OPTIONS), inner=calls(**OPTIONS), name=st.sampled_from(sorted(INSIDE)))
def test_patched(options, inner, name):
    before = {host: host.__init__ for host in (cls._host for cls in FAMILY)}

    def build(options, inside):
        with snn.patched(**options):
            inside()
            return INSIDE[name]()

    for arguments in (inner, options):
        net = attempt(lambda: build(arguments, lambda: attempt(build, inner, int, naming=inner)), naming=arguments)  # noqa: B023
        assert before == {host: host.__init__ for host in before}
        if net is not REFUSED and name in ("host", "host-zero"):
            assert type(net) is snn.Leaky
            assert (net.spatial_adj, net.temporal_alpha) == (
                arguments.get("spatial_adj", False), arguments.get("temporal_alpha", 0)
            )  # fmt: skip


# --- compress_spikes ------------------------------------------------------------------------------

SPIKES = {
    "spikes": lambda x: (x > 0.5).to(x.dtype),
    "silence": lambda x: torch.zeros_like(x),
    "minus-zero": lambda x: torch.where(x > 0.5, 1.0, -0.0).to(x.dtype),
    "one-nan": lambda x: torch.where(x == x.max(), NAN, (x > 0.5).to(x.dtype)).to(x.dtype) if x.numel() else x,
    "denormal": lambda x: torch.where(x == x.min(), 5e-324, (x > 0.5).double()).to(x.dtype) if x.numel() else x,
    "analog": lambda x: x,
}


@fuzz("compress_spikes", examples=250, draws=st.data())
def test_compress_spikes(draws):
    shape = draws.draw(
        st.sampled_from([(4096,), (64, 65), (5, 31, 33), (3, 4, 20, 20), (0, 3), (2, 3), (), (4097, 1, 1)])
    )
    dtype, kind = draws.draw(st.sampled_from(FLOATS)), draws.draw(st.sampled_from(sorted(SPIKES)))
    layout = draws.draw(st.sampled_from(sorted(LAYOUTS | {"meta": 0, "conjugate": 0})))
    x = torch.rand(shape, generator=torch.Generator().manual_seed(draws.draw(st.integers(0, 9))))
    x = (LAYOUTS | STRANGE)[layout](SPIKES[kind](x.to(dtype)).detach())
    weight = torch.full(shape, 2.0, device=x.device, requires_grad=True)

    def calculate():
        y = x * weight
        return torch.autograd.grad((y.square().abs() * weight).sum(), weight)[0]

    expected = calculate()
    with snn.compress_spikes() as saved:
        grad = calculate()
    assert same(
        torch.view_as_real(grad) if grad.is_complex() else grad,
        torch.view_as_real(expected) if expected.is_complex() else expected,
    )
    assert saved.bytes_after <= saved.bytes_before or saved.bytes_before == 0


# --- surrogates -----------------------------------------------------------------------------------

POSITIVE = st.sampled_from([0.5, 1.0, 1, 1e-38, 1e30, np.float32(0.5)])
SURROGATE_ARGUMENTS = {
    "spatial_adjustment": {"threshold": st.one_of(POSITIVE, vectors(0.5, 1.0))},
    "SpatialAdjustment": {"threshold": st.one_of(POSITIVE, vectors(0.5, 1.0))},
    "rectangle": {"width": POSITIVE},
    "Rectangle": {"width": POSITIVE},
    "ArcTangent": {"alpha": POSITIVE},
    "Logistic": {"slope": POSITIVE},
    "Surrogate": {},
}


@pytest.mark.parametrize("name", SURROGATE_ARGUMENTS)
@fuzz(*SURROGATE_ARGUMENTS, "Surrogate.derivative", "Surrogate.primitive", "SpatialAdjustment.fits", examples=60,
      draws=st.data())  # fmt: skip
def test_surrogates(name, draws):
    sane = SURROGATE_ARGUMENTS[name]
    arguments = draws.draw(calls(most=1, **sane), label="arguments") if sane else {}
    spike_grad = attempt(getattr(surrogate, name), **arguments)
    if spike_grad is REFUSED:
        return
    if name != "Surrogate":
        assert spike_grad == copy.copy(spike_grad) and isinstance(hash(spike_grad), int)
    if name.lower().startswith("spatial"):
        assert spike_grad.fits(draws.draw(ANYTHING)) in (True, False)
    x = draws.draw(mostly(tensors((2, N))), label="x")
    if name == "Surrogate":  # is for others to derive from
        for method in (spike_grad.derivative, spike_grad.primitive):
            with pytest.raises(NotImplementedError, match="does not define"):
                method(x)
        return
    for method in (spike_grad, spike_grad.derivative, spike_grad.primitive):
        out = attempt(method, x, naming=[*arguments, "x"])
        if out is not REFUSED and x.is_floating_point() and not x.is_meta:
            assert out.shape == torch.broadcast_shapes(x.shape, getattr(arguments.get("threshold"), "shape", ()))
            if method == spike_grad:
                assert is_binary(out) and out.dtype == x.dtype and torch.equal(out.bool(), x > 0)
            elif method == spike_grad.derivative and finite(x) and x.dtype in (torch.float32, torch.float64):
                assert not (out < 0).any() and not out.isnan().any()


# --- energy ---------------------------------------------------------------------------------------


@fuzz("energy_ratio", examples=120, arguments=calls(
    firing_rate=st.sampled_from([0.0, -0.0, 5e-324, 0.3, 1, 1.0]), num_steps=st.sampled_from([1, 4, 16, 2.5]),
    e_ac_pj=optional(0.1, 0.9, 5e-324, 1e300),
))  # fmt: skip
def test_energy_ratio(arguments):
    ratio = attempt(energy.energy_ratio, **arguments)
    if ratio is not REFUSED:
        assert isinstance(ratio, float) and 0 <= ratio <= INF


@fuzz("record_firing_rates", "FiringRates", "FiringRates.rates", "FiringRates.mean", examples=60, net=mostly(NETS),
      x=tensors((2, N)))  # fmt: skip
def test_firing_rates(net, x):
    def record():
        with energy.record_firing_rates(net) as firing:
            if isinstance(net, nn.Sequential):
                for neuron in (module for module in net.modules() if isinstance(module, FAMILY)):
                    neuron(x)
        return firing

    firing = attempt(record, naming=["net"])
    if firing is not REFUSED:
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
    assert ratio is REFUSED or ratio > 0 or not finite(x)


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
        ours = [module for module in arguments["net"].modules() if isinstance(module, FAMILY)]
        assert all(module.warm_up == arguments["warm_up"] for module in ours)


# --- data -----------------------------------------------------------------------------------------

EVENTS = st.builds(
    lambda count, seed, dtype: {
        field: np.random.default_rng(seed).integers(0, 2, count).astype(dtype) for field in ("x", "y", "p", "t")
    },
    st.sampled_from([0, 1, 7, 40]), st.integers(0, 9), st.sampled_from(["int64", "uint8", "int16", "bool", "uint64"]),
)  # fmt: skip


@st.composite
def odd_events(draw):
    """A field of another length, type or range; or a field too few."""
    events = dict(draw(EVENTS))
    field = draw(st.sampled_from("xypt"))
    if draw(st.booleans()):
        del events[field]
    else:
        events[field] = draw(
            st.one_of(ANYTHING, st.sampled_from([np.array([-1]), np.array([NAN]), np.array(["a", None])]))
        )
    return events


@fuzz("events_to_frames", examples=250, arguments=calls(
    events=mostly(EVENTS, odd_events()), num_steps=st.sampled_from([1, 3, 16]),
    sensor_size=st.sampled_from([(2, 2), [3, 5], 2]), size=optional(None, 1, (4, 3)),
))  # fmt: skip
def test_events_to_frames(arguments):
    frames = attempt(data.events_to_frames, **arguments)
    if frames is REFUSED:
        return
    height_width = arguments.get("size")
    height_width = arguments["sensor_size"] if height_width in (None, ...) else height_width
    height_width = tuple(height_width) if isinstance(height_width, (tuple, list)) else (height_width,) * 2
    assert frames.dtype == np.int16 and frames.shape == (arguments["num_steps"], 2, *height_width)
    if arguments.get("size") is None:
        assert frames.sum() == len(arguments["events"]["x"])


AEDAT = st.one_of(
    st.binary(max_size=40),
    st.binary(max_size=40).map(lambda raw: b"#!AER-DAT2.0\r\n" + raw),
    st.builds(
        lambda n, raw: b"#!AER-DAT2.0\r\n# a header\n" + (raw * 8 * n)[: 8 * n],
        st.integers(0, 4),
        st.binary(min_size=1),
    ),
    st.sampled_from([b"#", b"#!AER-DAT2.0", b"#!AER-DAT2.0\n#", b"#!AER-DAT2.0\n" + b"#" * 100]),
)


@fuzz("read_aedat2", examples=150, source=mostly(AEDAT))
def test_read_aedat2(source):
    try:
        events = attempt(data.read_aedat2, source)
    except OSError as error:
        assert str(Path(source)) in str(error)
        return
    if events is not REFUSED:
        assert len(events) <= len(source) // 8
        assert not len(events) or (0 <= events["x"].min() and events["x"].max() < 128)


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """An empty data folder and cache, and no network."""

    def no_network(*args, **kwargs):
        raise AssertionError("a download was started")

    folder = tmp_path_factory.mktemp("empty")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("urllib.request.urlopen", no_network)
        patch.delenv("SNNTORCH_BPSTA_DATA", raising=False)
        patch.setenv("SNNTORCH_BPSTA_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        yield folder


WHERE = optional(None, "data", Path("data"), "\0")


@fuzz("load", "cache_dir", "data_dir", examples=150, draws=st.data())
def test_load(empty, draws):
    pytest.importorskip("sklearn", reason="scikit-learn (extra: data) is missing")
    arguments = draws.draw(calls(
        name=mostly(st.just("digits"), st.sampled_from(sorted(set(data.DATASETS) - {"digits_simulated"}))), train=FLAG,
        root=WHERE, num_steps=optional(1, 4), size=optional(None, 8, (8, 8)), limit=optional(None, 1, 20, 10**6),
        download=optional(False),
        odd=ANYTHING.filter(lambda value: value is not True),
    ), label="arguments")  # fmt: skip
    assert data.cache_dir() == empty / "cache"
    assert attempt(data.data_dir, **{key: value for key, value in arguments.items() if key == "root"}) is not None
    try:
        samples = attempt(data.load, **arguments)
    except (FileNotFoundError, ImportError) as error:
        images = {"nmnist_simulated": "mnist", "cifar10_dvs_simulated": "cifar10"}  # which those are filmed of
        assert images.get(arguments["name"], arguments["name"]) in str(error) or isinstance(error, ImportError)
        return
    if samples is not REFUSED:
        image, label = samples[0]
        assert arguments["name"] == "digits" and image.shape == (1, 8, 8) and type(label) is int
        assert len(samples) == len(samples.targets) <= (arguments.get("limit") or 1797)


@pytest.mark.parametrize("name", [name for name in data.DATASETS if not name.startswith("digits")])
@fuzz("digits", "mnist", "cifar10", "nmnist", "dvs_gesture", "cifar10_dvs", "digits_simulated", "nmnist_simulated",
      "cifar10_dvs_simulated", examples=15, arguments=calls(
    train=st.booleans(), root=WHERE.filter(lambda root: root is not ...), download=optional(False),
    odd=ANYTHING.filter(lambda value: value is not True),
))  # fmt: skip
def test_loaders(empty, name, arguments):
    with contextlib.suppress(FileNotFoundError, ImportError):
        found = attempt(data.DATASETS[name].loader, **arguments)
        assert found is REFUSED, "there is nothing to find"


@fuzz("saccades", examples=100, arguments=calls(
    image=tensors(st.sampled_from([(6, 6), (1, 5, 7), (3, 4, 4), (1, 1), (0, 4)]), [torch.float32, torch.uint8]),
    camera=optional("nmnist", data.Camera((3, 4), ((0, 3000, (0, 0), (3, 0), 1, 1),), noise=(5.0, 5.0))),
    seed=optional(0, (1, 2)),
))  # fmt: skip
def test_saccades(arguments):
    events = attempt(data.saccades, **arguments)
    if events is not REFUSED:
        assert (
            np.all(np.diff(events["t"]) >= 0) and np.isin(events["p"], (0, 1)).all() and events["x"].min(initial=0) >= 0
        )


NUMBER = optional(0.5, 1.0, 20, 1e-3)


@fuzz("Camera", examples=150, arguments=calls(
    sensor_size=st.sampled_from([(3, 4), (1, 1)]), path=st.just(((0, 3000, (0, 0), (3, 0), 1, 1),)), scale=NUMBER,
    blur=NUMBER, contrast=NUMBER, gamma=NUMBER, threshold=NUMBER, refractory=NUMBER, noise=optional((0.0, 2.0)),
    inverted=FLAG, step=NUMBER,
))  # fmt: skip
def test_camera(arguments):
    attempt(data.Camera, **arguments)


@fuzz("Samples", "Samples.take", "DatasetSpec", examples=150, draws=st.data())
def test_samples(draws):
    count = draws.draw(st.integers(0, 3))
    values = np.arange(2 * count, dtype=np.uint8).reshape(count, 2)
    arguments = draws.draw(calls(
        data=st.just(values), targets=st.sampled_from([list(range(count)), np.arange(count), torch.arange(count)]),
        scale=optional(1, 255, 0.5),
    ), label="arguments")  # fmt: skip
    samples = attempt(data.Samples, **arguments)
    if samples is REFUSED:
        return
    for sample, label in [samples[i] for i in range(len(samples))]:
        assert sample.dtype == torch.float32 and type(label) is int
    index = draws.draw(mostly(st.sampled_from([[0], [], np.array([0, 0]), [-1], [99], slice(2), [True]])))
    part = attempt(samples.take, index)
    if part is not REFUSED:
        assert len(part) == len(part.targets) and all(type(part[i][1]) is int for i in range(len(part)))
    assert dataclasses.replace(data.DATASETS["digits"], num_classes=3).num_classes == 3


# --- training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [rate_mse_loss, rate_cross_entropy_loss])
@fuzz("rate_mse_loss", "rate_cross_entropy_loss", examples=100, draws=st.data())
def test_losses_of_rates(function, draws):
    shape = draws.draw(st.sampled_from([(4, 2, 3), (4, 2, 3), (1, 1, 1), (0, 2, 3), (4, 0, 3), (4, 2, 0), (4, 2)]))
    targets = st.lists(st.integers(-1, 3), min_size=2, max_size=2).map(torch.tensor)
    fitting = st.just(torch.arange(shape[1]) % max(shape[-1], 1))
    arguments = draws.draw(calls(out_rec=tensors(shape), targets=mostly(fitting, targets)))
    loss = attempt(function, **arguments)
    if loss is not REFUSED:
        assert loss.shape == () and loss.dtype in (torch.float32, torch.float64)
        assert loss.is_meta or not finite(arguments["out_rec"]) or loss >= 0 or not loss.isfinite()


FIELDS = {field.name: field for field in dataclasses.fields(Recipe)}
RECIPE = calls(**{
    name: optional(*(field.metadata["choices"] or (field.default,))) for name, field in FIELDS.items()
})  # fmt: skip
TINY = dict(width=1 / 64, num_steps=2, epochs=1, limit=8, test_limit=8)


@fuzz("Recipe", "Recipe.variant", "Recipe.as_dict", "Recipe.build_network", "Recipe.loss_function", examples=150,
      arguments=RECIPE, variant=mostly(st.sampled_from(["baseline", "bpsa+bpta"])))  # fmt: skip
def test_recipe(arguments, variant):
    recipe = attempt(Recipe, **arguments)
    if recipe is REFUSED:
        return
    assert Recipe(**recipe.as_dict()) == recipe
    other = attempt(recipe.variant, variant, naming=["variant"])
    assert other is REFUSED or other.as_dict().keys() == recipe.as_dict().keys()
    assert callable(recipe.loss_function())
    small = dataclasses.replace(recipe, width=1 / 64)
    assert attempt(small.build_network, naming=[*FIELDS, "input_shape"]) is not None


class Reached(Exception):
    """All checks are passed; a training would begin here."""


@pytest.fixture(scope="module")
def run():
    """``training.run`` and ``training.studies``, which get as far as the trainer and no further."""
    pytest.importorskip("lightning", reason="lightning (extra: train) is missing")
    from snntorch_bpsta.training import run
    from snntorch_bpsta.training.studies import run_all

    def reached(*args, **kwargs):
        raise Reached

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run.L, "Trainer", reached)
        patch.setattr(run_all, "ProcessPoolExecutor", reached)
        yield run


RUN = {
    "recipe": st.just(Recipe(**TINY)),
    "seed": optional(0, 3),
    "data_root": WHERE,
    "download": optional(False),
    "devices": optional(1),
    "accelerator": optional("cpu", "auto"),
    "precision": optional("32-true", "bf16-mixed"),
    "num_workers": optional(0, 2),
    "progress": optional(False),
    "also_test": optional((), ("nmnist",)),
}


@fuzz("train", examples=120, arguments=calls(out_dir=optional(None), resume=optional(False), **RUN))
def test_train(run, empty, arguments):
    with contextlib.suppress(Reached, FileNotFoundError):
        assert attempt(run.train, **arguments) is REFUSED


@fuzz("evaluate", examples=80, arguments=calls(
    checkpoint=st.sampled_from(["nowhere.ckpt", Path("nowhere.ckpt"), "."]), data_root=WHERE, download=optional(False),
    accelerator=optional("cpu"), test_limit=optional(0, 3), dataset=optional(None, "digits"),
))  # fmt: skip
def test_evaluate(run, empty, arguments):
    with contextlib.suppress(FileNotFoundError):
        assert attempt(run.evaluate, **arguments) is REFUSED


@fuzz("Classifier", "Frames", examples=80, draws=st.data())
def test_modules_of_lightning(run, draws):
    from snntorch_bpsta.training import datamodule, module

    own = {key: RUN[key] for key in ("recipe", "seed")}
    for kind, others in (
        (module.Classifier, {"net": st.just(nn.Identity())}),
        (datamodule.Frames, {key: RUN[key] for key in ("data_root", "download", "num_workers")}),
    ):
        attempt(kind, **draws.draw(calls(**own, **others), label=kind.__name__))


@fuzz("learning_rate_schedule", examples=60, draws=st.data())
def test_learning_rate_schedule(run, draws):
    from snntorch_bpsta.training.module import learning_rate_schedule

    recipes = st.builds(
        Recipe,
        epochs=st.integers(1, 9),
        lr_warm_up_epochs=st.integers(0, 9),
        schedule=st.sampled_from(["sgdr", "cosine"]),
    )
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    arguments = draws.draw(calls(optimizer=st.just(optimizer), recipe=recipes), label="arguments")
    scheduler = attempt(learning_rate_schedule, **arguments)
    if scheduler is not REFUSED:
        rates = []
        for _ in range(arguments["recipe"].epochs):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        assert all(0 <= rate <= 1 + 1e-9 for rate in rates) and max(rates) > 0.2


@fuzz("augment", examples=80, draws=st.data())
def test_augment(run, draws):
    from snntorch_bpsta.training.datamodule import augment

    shapes = st.sampled_from([(2, 1, 4, 4), (3, 2, 2, 4, 5), (0, 1, 4, 4), (1, 1, 1, 1)])
    arguments = draws.draw(calls(
        x=tensors(shapes, [torch.float32]), pad=st.sampled_from([0, 1, 4]), flip=st.booleans(),
        degrees=st.sampled_from([0, 10, 1.5]),
    ), label="arguments")  # fmt: skip
    moved = attempt(augment, **arguments)
    assert moved is REFUSED or (moved.shape == arguments["x"].shape and moved.dtype == arguments["x"].dtype)


ROW = {
    "study": "warm_up", "setting": "none", "variant": "bpsa", "seed": 0, "recipe": {}, "accuracy": 0.5,
    "firing_rate": 0.1, "firing_rates": {"1": 0.1, "2": 0.2},
    "energy_ratio": 5.0, "energy_ratio_fp32_ac": 0.6, "train_seconds": 3.0,
    "history": [{"epoch": 0, "warm_up": None, "test_accuracy": 0.4}, {"epoch": 1, "warm_up": None, "test_accuracy": 0.5}],
}  # fmt: skip


@st.composite
def rows(draw):
    """Rows of a results file; or not quite."""
    rows = [copy.deepcopy(ROW) | {"seed": seed} for seed in range(draw(st.integers(0, 3)))]
    settings = draw(st.sampled_from([["none"], ["none", "identity"]]))
    for row in rows:
        row["variant"] = draw(st.sampled_from(["baseline", "bpsa", "mine"]))
        row["setting"] = draw(st.sampled_from(settings))
    if rows and draw(st.booleans()):
        row = draw(st.sampled_from(rows))
        for key in draw(st.lists(st.sampled_from(sorted(ROW)), max_size=2, unique=True)):
            if draw(st.booleans()):
                row[key] = draw(ANYTHING)
            else:
                row.pop(key, None)
    return rows


@fuzz("study", "grid", "quick", "tabulate", "format_study", "Study", examples=160, draws=st.data())
def test_studies(run, empty, draws):
    from snntorch_bpsta.training import studies

    arguments = draws.draw(calls(
        name=st.sampled_from(sorted(studies.STUDIES)), recipe=RUN["recipe"], seeds=st.sampled_from([[0], range(2), (3, 7)]),
        out_file=st.just("study.json"), jobs=optional(1, 2), say=optional(lambda line: None),
        also_test=optional((), ("nmnist",)),
    ), label="arguments")  # fmt: skip
    with contextlib.suppress(Reached):
        assert attempt(studies.study, **arguments) is REFUSED
    attempt(studies.grid, **{key: arguments[key] for key in ("name", "recipe", "seeds")})
    attempt(studies.quick, arguments["recipe"])
    table = attempt(studies.tabulate, draws.draw(mostly(rows()), label="rows"))
    if table is not REFUSED:
        assert all(0 <= row["accuracy"] <= 100 for row in table)
    text = attempt(studies.format_study, draws.draw(ANYTHING) if table is REFUSED else table)
    assert text is REFUSED or text.startswith(("| setting", "| variant"))
    alpha = studies.STUDIES["alpha"]
    assert studies.Study(alpha.claim, alpha.settings, alpha.variants, "setting") == alpha


@fuzz("against_recordings", examples=30, arguments=calls(data_root=WHERE, seed=optional(0, 3)))
def test_against_recordings(run, empty, arguments):
    from snntorch_bpsta.training import studies

    with contextlib.suppress(FileNotFoundError):
        assert attempt(studies.against_recordings, **arguments) is REFUSED, "there is nothing to compare"


@fuzz("paper_rows", "full_size", "beside", "variant", "Row", examples=120, draws=st.data())
def test_papers_tables(draws):
    from snntorch_bpsta.training import paper

    attempt(paper.variant, draws.draw(mostly(RUN["recipe"])))
    preset = draws.draw(mostly(st.sampled_from(["paper", "official_code"])))
    found = attempt(paper.paper_rows, preset)
    attempt(paper.full_size, draws.draw(mostly(st.sampled_from(["mnist", "nmnist"]))), preset)
    if found is not REFUSED:
        attempt(paper.beside, draws.draw(mostly(st.just(found))), draws.draw(mostly(rows())))
        assert dataclasses.replace(found["table2"], seeds=5) == found["table2"]


@fuzz("multistep_model", "measure", examples=60, arguments=calls(
    net=st.builds(snn.MultiStep, st.just(nn.Identity())), loader=st.none(), device=optional(None, "cpu")
))  # fmt: skip
def test_neurobench(run, arguments):
    from snntorch_bpsta.training import neurobench

    with contextlib.suppress(ImportError):  # NeuroBench is another extra
        attempt(neurobench.multistep_model, arguments["net"])
        if not isinstance(arguments["net"], snn.MultiStep):
            attempt(neurobench.measure, **arguments)


# --- plots ----------------------------------------------------------------------------------------


@fuzz("samples", "animation", "raster", examples=60, draws=st.data())
def test_figures_of_data(draws):
    pytest.importorskip("matplotlib", reason="matplotlib (extra: plots) is missing")
    pictures = st.sampled_from(
        [[(torch.rand(1, 3, 3), 0)] * 2, [(torch.rand(2, 2, 3, 3), 1)], [(torch.rand(3, 2, 2), 5)], []]
    )
    attempt(snn.plots.samples, **draws.draw(calls(data=pictures, count=optional(1, 3))))
    attempt(
        snn.plots.animation, **draws.draw(calls(frames=tensors((3, 2, 4, 4), [torch.float32]), interval=optional(50)))
    )
    events = {name: np.arange(4) % 2 for name in "xytp"}
    attempt(snn.plots.raster, draws.draw(mostly(st.just(events))))


@st.composite
def other_rows(draw):
    """Rows of the studies of another kind; or not quite."""
    flow = {"setting": "last weights", "variant": "bpsa", "flow": {"0.4": [0.5, 0.25], "2": [1.0, 0.125]}}
    neuron = {"setting": "one neuron", "variant": "bpsa", "flow": {"neuron": [0.5]}, "u": [0.5], "o": [1]}
    film = {"setting": "", "variant": "simulated", "films": [{"events": [3, 4], "correlation": [0.5, 0.25]}]}
    rows = copy.deepcopy(draw(st.sampled_from([[flow], [neuron, flow], [film], [film, film]])))
    if draw(st.booleans()):
        row = draw(st.sampled_from(rows))
        key = draw(st.sampled_from(sorted(row)))
        if key in ("flow", "films") and draw(st.booleans()):
            row[key] = {"0.4": draw(ANYTHING)} if key == "flow" else [{"events": [1, 2], "correlation": draw(ANYTHING)}]
        else:
            row[key] = draw(ANYTHING)
    return rows


@fuzz("study", examples=160, arguments=calls(rows=st.one_of(rows(), other_rows()), title=optional("a title", "")))
def test_figure_of_a_study(arguments):
    pytest.importorskip("matplotlib", reason="matplotlib (extra: plots) is missing")
    figure = attempt(snn.plots.study, **arguments)
    assert figure is REFUSED or len(figure.axes) >= 2 or not arguments["rows"][0].get("flow")


# --- all of it ------------------------------------------------------------------------------------


def test_every_public_name_is_a_target():
    names, absent = public_names()
    assert not names - targets, f"without a fuzz target: {sorted(names - targets)}"
    assert absent or not targets - names, f"no public names: {sorted(targets - names)}"


def test_there_are_enough_cases():
    assert sum(cases) >= 2000
