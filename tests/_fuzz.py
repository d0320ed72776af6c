"""Whatever is put into a public function: a right result, or an error that names the argument.

Hypothesis draws arguments that fit, and then puts something odd in the place of one or two of them. Errors may be
ValueError, TypeError and NotImplementedError and have to name an argument. A single step with the options off lets through
what snnTorch lets through, and gives the same. SNNTORCH_BPSTA_FUZZ=20 runs twenty times as many cases.
"""

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
from _family import KINDS  # noqa: E402
from _public import imported, ours, public_modules  # noqa: E402
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

import snntorch_bpsta as snn  # noqa: E402
from snntorch_bpsta import surrogate  # noqa: E402

PACKAGE = Path(snn.__file__).parent
NAN, INF = float("nan"), float("inf")
REFUSALS = (ValueError, TypeError, NotImplementedError)
FACTOR = int(os.environ.get("SNNTORCH_BPSTA_FUZZ", "1"))
NEURONS = {kind: getattr(snn, kind) for kind in KINDS}


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
        if module is None or name == "cli":
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
    except RuntimeError as error:  # PyTorch's own words: more memory than there is; inference and meta tensors
        if re.search(
            "allocate|overflow|Inference tensors cannot be saved|on inference tensor outside InferenceMode|meta tensor",
            str(error),
        ):
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
SAFE_SURROGATES = (None, surrogate.ArcTangent(), SURROGATES["rectangle"], SURROGATES["logistic"])
FLAG = optional(True, False)
ADJUSTED = st.one_of(FLAG, st.just(surrogate.spatial_adjustment(leak=0.1)))
OPTIONS = {"spatial_adj": ADJUSTED, "temporal_alpha": optional(0, 0.8, 1.0, -0.5)}


def vectors(*values):
    """One of the numbers, or a tensor of them that broadcasts to [B, N]."""
    shapes = st.sampled_from([(), (1,), (N,), (2, 1)])
    return st.one_of(
        st.sampled_from(values),
        st.builds(lambda value, shape: torch.full(shape, value), st.sampled_from(values), shapes),
    )


# --- the neurons: one step ------------------------------------------------------------------------


def copied(value):
    """As `twin`, with memory of its own."""
    return value.detach().clone().requires_grad_(value.requires_grad) if isinstance(value, torch.Tensor) else value


def gradients(out, *leaves):
    """Of a weighted sum of all the outputs."""
    out = [x for x in (out if isinstance(out, tuple) else (out,)) if x.requires_grad]
    loss = sum((x.double() * torch.arange(1, x.numel() + 1).view(x.shape)).sum() for x in out)
    leaves = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.requires_grad]
    return torch.autograd.grad(loss, leaves, allow_unused=True) if out and leaves else ()


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


# --- data -----------------------------------------------------------------------------------------


WHERE = optional(None, "data", Path("data"), "\0")
