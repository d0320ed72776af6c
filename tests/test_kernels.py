"""The kernels behind `lif_multistep`, against the reference and the oracle, and the properties that need neither.

Spikes and membranes to the bit, every gradient within the tolerance table. "triton" runs on a CUDA device where there
is one, else in Triton's interpreter, which is slow: fewer and smaller cases. The kernels alone: test_triton_kernels.py.
"""

import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import _oracle
import numpy as np
import pytest
import torch
from _tolerance import assert_close
from torch import nn
from torch.utils.checkpoint import checkpoint

import snntorch_bpsta as snn
from snntorch_bpsta.functional import lif_multistep, which_impl
from snntorch_bpsta.functional import multistep as lif
from snntorch_bpsta.functional.kernels import bits as packing
from snntorch_bpsta.functional.kernels import cpu as _cpu

_triton = None
if lif._TRITON:
    with pytest.MonkeyPatch.context() as patch:  # read when the kernels are defined; not meant for the tests of others
        patch.setenv("TRITON_INTERPRET", "0" if torch.cuda.is_available() else "1")
        from snntorch_bpsta.functional.kernels import triton as _triton

F32, F64, BF16, F16 = torch.float32, torch.float64, torch.bfloat16, torch.float16
DEVICE = {"cpu": "cpu", "triton": "cuda" if torch.cuda.is_available() else "cpu"}
TRITON = pytest.param("triton", marks=pytest.mark.skipif(_triton is None, reason="needs Triton >= 3.4"))
both = pytest.mark.parametrize("impl", ["cpu", TRITON], indirect=True)
on_cpu = pytest.mark.parametrize("impl", ["cpu"], indirect=True)
on_triton = pytest.mark.parametrize("impl", [TRITON], indirect=True)
PAPER = {"threshold": 0.5, "reset_mechanism": "zero", "spatial_adj": True, "temporal_alpha": 0.8}


@pytest.fixture(autouse=True)
def unwritten_shows():
    """`torch.empty` is filled with NaN, so that an output that a kernel did not write shows."""
    before = torch.utils.deterministic.fill_uninitialized_memory, torch.are_deterministic_algorithms_enabled()
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True, warn_only=True)  # cuBLAS would refuse
    yield
    torch.utils.deterministic.fill_uninitialized_memory = before[0]
    torch.use_deterministic_algorithms(before[1])


@pytest.fixture
def impl(request, monkeypatch):
    if request.param == "triton":
        monkeypatch.setenv("TRITON_INTERPRET", "0" if DEVICE["triton"] == "cuda" else "1")
    return request.param


# --- one problem, by any implementation -----------------------------------------------------------


def fast_sigmoid(slope):
    return lambda u, o, threshold: 1 / (slope * np.abs(u - threshold) + 1) ** 2


def sigmoid(slope):
    def s(u, o, threshold):
        e = np.exp(-np.abs(slope * (u - threshold)))
        return slope * e / (1 + e) ** 2

    return s


# name -> (options of the door, the derivative they stand for)
SURROGATES = {
    "spatial_adj": ({"spatial_adj": True}, _oracle.spatial),
    "spatial_adjustment": ({"spike_grad": snn.surrogate.spatial_adjustment(0.5)}, _oracle.spatial),
    "rectangle": ({"spike_grad": snn.surrogate.rectangle(0.8)}, _oracle.rectangle(0.8)),
    "default": ({}, _oracle.atan(2.0)),
    "ArcTangent": ({"spike_grad": snn.surrogate.ArcTangent(1.3)}, _oracle.atan(1.3)),
    "Logistic": ({"spike_grad": snn.surrogate.Logistic(3.0)}, sigmoid(3.0)),
    "atan": ({"spike_grad": snn.surrogate.atan(alpha=1.7)}, _oracle.atan(1.7)),
    "fast_sigmoid": ({"spike_grad": snn.surrogate.fast_sigmoid(slope=3.1)}, fast_sigmoid(3.1)),
    "sigmoid": ({"spike_grad": snn.surrogate.sigmoid(slope=6)}, sigmoid(6.0)),
    "heaviside": ({"spike_grad": snn.surrogate.heaviside()}, lambda u, o, threshold: o),
    "straight_through": (
        {"spike_grad": snn.surrogate.straight_through_estimator()}, lambda u, o, threshold: np.ones_like(u),
    ),
    "triangular": (
        {"spike_grad": snn.surrogate.triangular(threshold=0.6)},
        lambda u, o, threshold: np.where(u - threshold < 0, 0.6, -0.6),
    ),
    "spike_rate_escape": (
        {"spike_grad": snn.surrogate.spike_rate_escape(beta=0.9, slope=1.3)},
        lambda u, o, threshold: 1.3 * np.exp(-0.9 * np.abs(u - threshold - 1)),
    ),
    "SFS": (
        {"spike_grad": snn.surrogate.SFS(slope=3.1, B=-0.2)},
        lambda u, o, threshold: np.where(u - threshold > -0.2, fast_sigmoid(3.1)(u, o, threshold), 0.0),
    ),
}  # fmt: skip
OURS = ("spatial_adj", "spatial_adjustment", "rectangle", "default", "ArcTangent", "Logistic")  # keep float64


def half(dtype):
    return dtype in (BF16, F16)


def currents(*shape, seed=0, scale=1.2, low=-0.2):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=F64) * scale + low


def weights(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def problem(shape, dtype, device, **options):
    """The tensors of a problem by name, float64 numbers rounded to `dtype`."""
    steps = options.get("num_steps") or shape[0]
    record = options.get("record_mem", False)
    tensors = {
        "input_": currents(*shape, seed=0, scale=1.5, low=-0.4),
        "mem": currents(*shape[1:], seed=1),
        "w_spk": weights(steps, *shape[1:], seed=2),
        "w_mem": weights(*((steps,) if record else ()), *shape[1:], seed=3),
    }
    tensors |= {name: value for name, value in options.items() if isinstance(value, torch.Tensor)}
    return {name: value.to(device, dtype) for name, value in tensors.items()}


def run(impl, shape, dtype=F32, *, learn=(), mem=True, loss=("spk", "mem"), layout=None, surrogate=None, **options):
    """Outputs, and gradients of a weighted sum of those in `loss`, by name. The reference computes half precision in
    float32. Parameters that are tensors come as float64; those in `learn` get a gradient, as input and `mem` do."""
    if surrogate is not None:
        options |= SURROGATES[surrogate][0]
    device = DEVICE.get(impl, options.pop("device", "cpu"))
    tensors = problem(shape, dtype, device, **options)
    if impl == "reference" and half(dtype):
        tensors = {name: value.float() for name, value in tensors.items()}
        options["save"] = None
    if layout is not None:
        tensors["input_"] = layout(tensors["input_"])
    if not mem:
        del tensors["mem"]
    leaves = {name: tensors[name].detach().requires_grad_() for name in ("input_", "mem", *learn) if name in tensors}
    tensors |= leaves
    options |= {name: tensors[name] for name in options.keys() & tensors.keys()}
    out = lif_multistep(tensors["input_"], tensors.get("mem"), impl=impl, **{"beta": 0.9, "threshold": 0.5} | options)
    wanted = [getattr(out, name) for name in loss]
    grads = torch.autograd.grad(wanted, leaves.values(), [tensors["w_" + name] for name in loss], allow_unused=True)
    grads = {"d" + name: grad for name, grad in zip(leaves, grads, strict=True)}
    return {"spk": out.spk.detach(), "mem": out.mem.detach()} | grads


def judge(shape, dtype, *, surrogate, mem=True, loss=("spk", "mem"), learn=(), **options):
    """The oracle's answer to the same problem."""
    options = SURROGATES[surrogate][0] | options
    tensors = {name: value.double().numpy() for name, value in problem(shape, dtype, "cpu", **options).items()}
    beta, threshold = (
        tensors.get(name, np.float64(np.float32(options.get(name, default))))
        for name, default in (("beta", 0.9), ("threshold", 0.5))
    )
    factor = tensors.get("graded_spikes_factor", np.float64(np.float32(options.get("graded_spikes_factor", 1.0))))
    cur = tensors["input_"]
    cur = np.broadcast_to(cur, (options.get("num_steps") or shape[0], *shape[1:]))
    dmem = np.zeros_like(cur)
    if "mem" in loss:
        dmem[... if options.get("record_mem") else -1] = tensors["w_mem"]
    return _oracle.lif(
        np.maximum(cur, 0) if options.get("relu") else cur,
        beta=beta,
        threshold=threshold,
        surrogate=SURROGATES[surrogate][1],
        alpha=options.get("temporal_alpha", 0.0),
        reset=options.get("reset_mechanism", "subtract"),
        mem0=tensors["mem"] if mem else None,
        dspk=tensors["w_spk"] * factor if "spk" in loss else None,
        dmem=dmem,
        clamp_slope=np.where((beta >= 0) & (beta <= 1), 1.0, 0.0),
    )


def scales(oracle):
    """What the rounding of each gradient is measured against: the largest for a recursion, all terms for a sum."""
    largest = max(np.abs(oracle.dinput).max(initial=0), np.abs(oracle.dmem0).max(initial=0), 1e-30)
    return {
        "dinput_": largest * len(oracle.dinput) ** 0.5 if len(oracle.dinput) > 1 else largest,
        "dmem": largest,
        "dbeta": oracle.dbeta_scale,
        "dthreshold": oracle.dthreshold_scale,
    }


def assert_agree(actual, expected, dtype, scale=None, truncated=False):
    """`truncated`: Triton's interpreter, not the GPU, cuts a bfloat16 off where it should round it."""
    assert actual.keys() == expected.keys()
    for name in ("spk", "mem"):
        want = expected[name].to(actual[name].device, dtype)
        assert actual[name].dtype == dtype, f"{name} is {actual[name].dtype}"
        if truncated and name == "mem":
            assert_close(actual[name], want, BF16, name=name)
        else:
            assert torch.equal(actual[name], want), name
    row = BF16 if half(dtype) else dtype  # the code of half precision is bfloat16
    for name in actual.keys() - {"spk", "mem"}:
        if expected[name] is None:
            assert actual[name] is None, name
            continue
        largest = expected[name].abs().max().item() if expected[name].numel() else 0.0
        assert_close(actual[name], expected[name], row, (scale or {}).get(name, largest), name)


def check(impl, shape, dtype=F32, *, surrogate="spatial_adj", **options):
    """One problem by `impl`, the reference and, in float64, the oracle."""
    judged = {k: v for k, v in options.items() if k not in ("save", "inplace", "layout")}
    actual = run(impl, shape, dtype, surrogate=surrogate, **options)
    expected = run("reference", shape, dtype, surrogate=surrogate, device=DEVICE[impl], **options)
    if options.get("relu"):  # something to rectify
        assert (problem(shape, dtype, "cpu", **options)["input_"] < 0).any()
    oracle, scale = None, {}
    if dtype == F64 or {"beta", "threshold"} & set(options.get("learn", ())):
        oracle = judge(shape, dtype, surrogate=surrogate, **judged)
        scale = {k: v for k, v in scales(oracle).items() if k in ("dbeta", "dthreshold")}
    # the host's own surrogates give float32 spikes, through which the reference's gradient passes
    row = F32 if dtype == F64 and surrogate not in OURS else dtype
    truncated = impl == "triton" and DEVICE[impl] == "cpu" and dtype == BF16
    if row == dtype:
        assert_agree(actual, expected, dtype, scale, truncated)
    else:
        for name in ("spk", "mem"):
            assert torch.equal(actual[name], expected[name])
    if dtype == F64:
        factor = torch.as_tensor(options.get("graded_spikes_factor", 1.0)).double()
        assert torch.equal(actual["spk"].cpu(), torch.as_tensor(oracle.spk) * factor)
        scale = scales(oracle)
        if actual["dinput_"].shape == oracle.dinput.shape and not options.get("relu"):
            assert_close(actual["dinput_"], oracle.dinput, F64, scale["dinput_"], "dinput")
        for name, own in (("dmem", "dmem0"), ("dbeta", "dbeta"), ("dthreshold", "dthreshold")):
            if actual.get(name) is not None:
                assert_close(actual[name], getattr(oracle, own), F64, scale[name], name)


# --- impl x dtype x shape x option ----------------------------------------------------------------

# odd sizes on purpose: one neuron, a block of neurons and one more, several threads' shares and a bit
SHAPES = [(1, 1, 1), (2, 3, 5), (7, 2, 1025), (63, 3, 2, 7, 5), (9, 8, 2051)]
DTYPES = [F32, F64, BF16, F16]
RESETS = {"zero": 0.8, "subtract": 0.8, "none": 0.0}
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
SMALL = (5, 3, 7)


@by_dtype
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("surrogate", ["spatial_adj", "rectangle", "default", "triangular"])
@on_cpu
def test_shapes(impl, surrogate, shape, dtype):
    check(impl, shape, dtype, surrogate=surrogate, reset_mechanism="zero", temporal_alpha=0.8)


@by_dtype
@pytest.mark.parametrize("alpha", [0.0, 0.8])
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("surrogate", SURROGATES)
@on_cpu
def test_surrogates_and_resets(impl, surrogate, reset, alpha, dtype):
    alpha = min(alpha, RESETS[reset])  # refused by the door without a reset
    check(impl, (7, 3, 11), dtype, surrogate=surrogate, reset_mechanism=reset, temporal_alpha=alpha)


@pytest.mark.parametrize("surrogate", SURROGATES)
@on_triton
def test_surrogates_of_triton(impl, surrogate):
    check(impl, SMALL, F32, surrogate=surrogate, reset_mechanism="zero", temporal_alpha=0.8)
    check(impl, SMALL, F64, surrogate=surrogate)


STEP = (3, 4, 5, 7)
PARAMETERS = {
    "0d": (),
    "one": (1,),
    "channel": (4, 1, 1),
    "neuron": (4, 5, 7),
    "last": (7,),
    "middle": (5, 1),
    "sample": (3, 1, 1, 1),
    "batch": STEP,
    "holes": (4, 1, 7),
    "sample-and-height": (3, 1, 5, 1),
    "ones": (1, 1, 1, 1),
}


def spread(shape, low, high):
    """Values from `low` to `high`, in disorder, none of them in steps as of a grid."""
    n = int(np.prod(shape))
    order = torch.randperm(n, generator=torch.Generator().manual_seed(5))
    return torch.linspace(low, high, n + 2, dtype=F64)[1:-1][order].reshape(shape)


@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("learn", [(), ("beta",), ("threshold",), ("beta", "threshold")], ids=str)
@pytest.mark.parametrize("kind", PARAMETERS)
@on_cpu
def test_parameters(impl, kind, learn, reset):
    """Of any shape that broadcasts, learnable or not; some betas are clipped."""
    options = {"beta": spread(PARAMETERS[kind], -0.1, 1.1), "threshold": spread(PARAMETERS[kind], 0.3, 0.8)}
    for dtype in (F32, F64) if reset == "zero" else (F32, BF16):
        for surrogate in ("spatial_adj", "ArcTangent"):
            check(
                impl, (6, *STEP), dtype, surrogate=surrogate, reset_mechanism=reset, temporal_alpha=0.8, learn=learn,
                **options,
            )  # fmt: skip


@pytest.mark.parametrize(("beta", "threshold"), [("channel", "neuron"), ("batch", "last"), ("holes", "0d")])
@on_cpu
def test_parameters_of_two_shapes(impl, beta, threshold):
    options = {"beta": spread(PARAMETERS[beta], -0.1, 1.1), "threshold": spread(PARAMETERS[threshold], 0.3, 0.8)}
    for learn in ((), ("beta", "threshold")):
        check(impl, (6, *STEP), F64, surrogate="ArcTangent", temporal_alpha=0.8, learn=learn, **options)


@on_cpu
def test_parameters_of_more_than_a_block_of_neurons(impl):
    """A channel and the borders of blocks and threads do not meet."""
    options = {"beta": spread((3, 1), -0.1, 1.1), "threshold": spread((3, 2051), 0.3, 0.8)}
    for learn in ((), ("beta", "threshold")):
        check(impl, (9, 4, 3, 2051), F64, surrogate="spatial_adj", temporal_alpha=0.8, learn=learn, **options)


@pytest.mark.parametrize("kind", ["0d", "channel", "holes", "sample", "batch"])
@on_triton
def test_parameters_of_triton(impl, kind):
    options = {"beta": spread(PARAMETERS[kind], -0.1, 1.1), "threshold": spread(PARAMETERS[kind], 0.3, 0.8)}
    for learn in ((), ("beta", "threshold")):
        check(impl, (3, *STEP), F32, surrogate="ArcTangent", temporal_alpha=0.8, learn=learn, **options)


FACTOR = spread((7,), 0.2, 2.0)
CASES = {
    "no membrane": {"mem": False},
    "membrane without gradient from it": {"loss": ("spk",)},
    "loss on the last membrane": {"loss": ("mem",)},
    "record": {"record_mem": True},
    "record, loss on spikes": {"record_mem": True, "loss": ("spk",)},
    "record, loss on membranes": {"record_mem": True, "loss": ("mem",), "surrogate": "ArcTangent"},
    "record, relu": {"record_mem": True, "relu": True},
    "record, learnable": {"record_mem": True, "learn": ("beta", "threshold"), "surrogate": "rectangle"},
    "record, learnable, relu": {"record_mem": True, "learn": ("beta", "threshold"), "relu": True},
    "relu": {"relu": True},
    "relu, arc tangent": {"relu": True, "surrogate": "ArcTangent", "reset_mechanism": "subtract"},
    "relu, triangular": {"relu": True, "surrogate": "triangular", "reset_mechanism": "none", "temporal_alpha": 0.0},
    "relu, learnable beta": {"relu": True, "learn": ("beta",)},
    "relu, learnable threshold": {"relu": True, "learn": ("threshold",), "reset_mechanism": "subtract"},
    "factor": {"graded_spikes_factor": 2.5, "reset_mechanism": "subtract"},
    "factor 0.1": {"graded_spikes_factor": 0.1},
    "factor, buffer of one": {"graded_spikes_factor": torch.tensor([0.75], dtype=F64), "relu": True},
    "factor, vector": {"graded_spikes_factor": FACTOR, "record_mem": True},
    "factor, learnable": {"graded_spikes_factor": torch.tensor(0.75, dtype=F64), "learn": ("graded_spikes_factor",)},
    "factor, learnable vector": {"graded_spikes_factor": FACTOR, "learn": ("graded_spikes_factor", "threshold")},
    "factor, many betas": {"graded_spikes_factor": 2.5, "beta": spread((7,), 0, 1), "learn": ("threshold",)},
    "factor, learnable threshold": {"graded_spikes_factor": 2.5, "learn": ("threshold",)},
    "constant": {"num_steps": 5},
    "constant, relu": {"num_steps": 5, "relu": True, "surrogate": "rectangle"},
    "constant, record": {"num_steps": 5, "record_mem": True},
    "constant, learnable": {"num_steps": 5, "learn": ("beta", "threshold"), "surrogate": "ArcTangent"},
    "constant, learnable, relu, record": {
        "num_steps": 5, "learn": ("beta", "threshold"), "relu": True, "record_mem": True,
    },
    "num_steps of all steps": {"num_steps": 5, "shape": SMALL},
    "one step": {"num_steps": 1},
}  # fmt: skip


def case_of(case):
    options = {"reset_mechanism": "zero", "temporal_alpha": 0.8, "surrogate": "spatial_adj"} | CASES[case]
    shape = options.pop("shape", (1, *SMALL[1:]) if "num_steps" in options else SMALL)
    for name, value in (("beta", 0.9), ("threshold", 0.5)):
        if name in options.get("learn", ()) and name not in options:
            options[name] = torch.tensor(value, dtype=F64)
    return shape, options


@by_dtype
@pytest.mark.parametrize("case", CASES)
@on_cpu
def test_cases(impl, case, dtype):
    shape, options = case_of(case)
    check(impl, shape, dtype, **options)


@pytest.mark.parametrize("case", CASES)
@on_triton
def test_cases_of_triton(impl, case):
    shape, options = case_of(case)
    check(impl, shape, F32, **options)
    if "learn" not in options and case != "factor 0.1":  # which the interpreter does not round
        check(impl, shape, BF16, **options)


@pytest.mark.parametrize("dtype", [BF16, F16, F32], ids=str)
@pytest.mark.parametrize("save", ["float32", "bfloat16", "compact"])
@pytest.mark.parametrize("relu", [False, True], ids=["", "relu"])
@both
def test_save(impl, relu, save, dtype):
    """Gradients of fewer bits are within the table of bfloat16, those of all bits within that of the state."""
    options = {"reset_mechanism": "zero", "temporal_alpha": 0.8, "relu": relu}
    actual = run(impl, (7, 3, 11), dtype, surrogate="spatial_adj", save=save, **options)
    expected = run("reference", (7, 3, 11), dtype, surrogate="spatial_adj", device=DEVICE[impl], **options)
    assert_agree({k: actual[k] for k in ("spk", "mem")}, {k: expected[k] for k in ("spk", "mem")}, dtype)
    row = dtype if save == "float32" else BF16
    for name in ("dinput_", "dmem"):
        assert_close(actual[name], expected[name], row, expected[name].abs().max().item(), name)


@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 3, 11), (9, 3, 4, 2, 3)], ids=str)
@pytest.mark.parametrize("options", [{}, {"relu": True}, {"num_steps": 9}, {"learn": ("threshold",)}], ids=str)
@both
def test_compact_is_bfloat16_in_fewer_bits(impl, options, shape):
    options = PAPER | options | {"threshold": torch.tensor(0.5, dtype=F64)}
    if "num_steps" in options:
        shape = (1, *shape[1:])
    compact, bfloat16 = (run(impl, shape, F32, save=save, **options) for save in ("compact", "bfloat16"))
    for name, value in bfloat16.items():
        assert torch.equal(compact[name], value), name


@pytest.mark.parametrize("relu", [False, True], ids=["", "relu"])
@pytest.mark.parametrize("shape", [(0, 2), (1, 1), (1, 7), (2, 4), (3, 3), (8, 8), (7, 143)], ids=str)
def test_a_code_comes_back(shape, relu):
    """Whatever its size in bytes; of all, none or some who fired, with a positive input and without."""
    for rate in (0.0, 0.3, 1.0):
        fired, positive = currents(*shape, low=0, scale=1) < rate, (currents(*shape, seed=1) > 0.3) & relu
        code = torch.where(fired, -currents(*shape, low=0.5).bfloat16(), 0.0).view(torch.int16)
        code = torch.where(positive, code | 1, code & -2).view(BF16)
        packed = packing.pack_code(code.clone(), relu)
        assert len(packed) == 2 + relu and packed[0].numel() == -(-code.numel() // 8)
        back = packing.unpack_code(*packed, code.shape, code.stride())
        assert torch.equal(back.view(torch.int16), torch.where(fired | positive, code, 0).view(torch.int16))


@pytest.mark.parametrize("relu", [False, True], ids=["", "relu"])
@on_cpu
def test_a_code_of_fewer_bits_is_rounded_to_nearest(impl, relu):
    """As PyTorch rounds; all but the flags, of which relu takes the lowest bit."""
    one = torch.ones(1)
    for surrogate, p0 in ((0, 0.0), (2, 2.0)):
        options = (None, 0.9 * one, 0.5 * one, one, 9, 1, 1, surrogate, p0, 0.0, 0, 0.8, relu)
        float32, bfloat16 = (
            torch.ops.snntorch_bpsta.lif(currents(9, 3, 50).float(), *options, save, False, False, impl)[2]
            for save in ("float32", "bfloat16")
        )
        expected = float32.bfloat16().view(torch.int16)
        if relu:
            expected = (expected & -2) | (float32.view(torch.int32) & 1).short()
        assert torch.equal(bfloat16.view(torch.int16), expected)


@pytest.mark.parametrize("surrogate", ["ArcTangent", "sigmoid", "rectangle", "SFS"])
@on_cpu
def test_fewer_bits_of_other_surrogates(impl, surrogate):
    actual = run(impl, (7, 3, 11), F32, surrogate=surrogate, save="bfloat16", temporal_alpha=0.8)
    expected = run("reference", (7, 3, 11), F32, surrogate=surrogate, temporal_alpha=0.8)
    for name in ("dinput_", "dmem"):
        assert_close(actual[name], expected[name], BF16, expected[name].abs().max().item(), name)
    exact = run(impl, (7, 3, 11), F32, surrogate=surrogate, temporal_alpha=0.8)
    if surrogate != "rectangle":  # 1 / 0.8 rounds as well, but all of them alike
        assert not torch.equal(exact["dinput_"], actual["dinput_"])


@pytest.mark.parametrize("slope", [25.0, 100.0])
@both
def test_the_sigmoid_stays_finite_where_the_hosts_overflows(impl, slope):
    cur = torch.tensor([[[-8.0, 0.4, 0.6, 9.0]]], device=DEVICE[impl], requires_grad=True)
    options = {"beta": 0.9, "threshold": 0.5, "spike_grad": snn.surrogate.sigmoid(slope)}
    (host,) = torch.autograd.grad(lif_multistep(cur, impl="reference", **options).spk.sum(), cur)
    (ours,) = torch.autograd.grad(lif_multistep(cur, impl=impl, **options).spk.sum(), cur)
    assert host.isnan().any() and ours.isfinite().all()
    assert_close(ours.flatten()[1:3], host.flatten()[1:3], F32)
    assert ours.flatten()[0].abs() < 1e-30 and ours.flatten()[3].abs() < 1e-30


@pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered:RuntimeWarning")  # Triton's interpreter
@pytest.mark.parametrize("surrogate", ["spatial_adj", "ArcTangent", "rectangle"])
@pytest.mark.parametrize("relu", [False, True], ids=["", "relu"])
@pytest.mark.parametrize(
    ("impl", "reset"), [*(("cpu", r) for r in RESETS), pytest.param("triton", "zero", marks=TRITON.marks)],
    indirect=["impl"],
)  # fmt: skip
def test_not_a_number_and_infinity(impl, reset, relu, surrogate):
    """What the reference does, and no other neuron notices."""
    bad = [torch.nan, torch.inf, -torch.inf, 3e38, -3e38]
    cur = currents(6, 2, 7, low=-0.4).float().to(DEVICE[impl])
    cur[2, 0, :5] = torch.tensor(bad, device=cur.device)
    for record in (False, True):
        options = {"beta": 0.9, "threshold": 0.5, "reset_mechanism": reset, "relu": relu, "record_mem": record}
        seen = []
        for how in (impl, "reference"):
            x = cur.clone().requires_grad_()
            out = lif_multistep(x, impl=how, **options, **SURROGATES[surrogate][0])
            out.spk.sum().backward()
            seen.append((out.spk.detach(), out.mem.detach(), x.grad))
        for name, actual, expected in zip(("spk", "mem"), *(s[:2] for s in seen), strict=True):
            torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True, msg=name)
        assert seen[0][1][..., 1, :].isfinite().all() and seen[0][2][:, 1].isfinite().all()
        torch.testing.assert_close(seen[0][2], seen[1][2], rtol=1e-5, atol=1e-6, equal_nan=True)


# --- types at the door ----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (1,), (5,)], ids=str)
@pytest.mark.parametrize(("dtype", "factor"), [(BF16, F32), (F16, F32), (F32, F64)], ids=str)
@both
def test_a_factor_of_another_dtype_does_not_change_that_of_the_spikes(impl, dtype, factor, shape):
    cur = currents(4, 3, 5).to(DEVICE[impl], dtype)
    factor = spread(shape, 0.2, 2.0).to(DEVICE[impl], factor)
    spk = {
        how: lif_multistep(cur, beta=0.9, threshold=0.5, graded_spikes_factor=factor, impl=how).spk
        for how in (impl, "reference")
    }
    assert spk[impl].dtype == spk["reference"].dtype == dtype


@pytest.mark.parametrize(("dtype", "mem"), [(F32, BF16), (F32, F16), (F64, F32)], ids=str)
@on_cpu
def test_a_membrane_of_a_narrower_type(impl, dtype, mem):
    """Either refused or the loop's to the bit."""
    cur, start = currents(4, 3, 50).to(dtype), currents(3, 50, seed=1).to(mem)
    options = {"beta": 0.9, "threshold": 0.5, "record_mem": True}
    chosen = which_impl(cur, start, **options)
    out, expected = (lif_multistep(cur, start, impl=how, **options) for how in (chosen, "reference"))
    assert torch.equal(out.spk, expected.spk) and torch.equal(out.mem, expected.mem)


# --- the spikes over the current ------------------------------------------------------------------


def produced(x, weight, how):
    """A current that some layer made of `x`, and what to look into for what becomes of it: (current, its memory)."""
    if how == "plain":
        cur = x * weight  # needs x and the weight for backward, and not its output
        return cur, cur
    if how == "folded":
        flat = x.flatten(0, 1) * weight
        return flat.unflatten(0, x.shape[:2]), flat
    if how == "channels-last":
        flat = (x.flatten(0, 1) * weight).contiguous(memory_format=torch.channels_last) + 0
        return flat.unflatten(0, x.shape[:2]), flat
    if how == "split":
        flat = x * weight
        return flat.flatten(2).view(x.shape), flat
    raise ValueError(how)


def in_place(impl, how, inplace, *, again=False, num_steps=4, device="cpu", dtype=F32, **options):
    """Outputs and gradients of a producer, the neuron and, with `again`, one more use of the current."""
    impl_device = DEVICE.get(impl, device)
    x = currents(num_steps, 2, 3, 4, 5).to(impl_device, dtype).requires_grad_()
    weight = torch.tensor(1.25, device=impl_device, dtype=dtype, requires_grad=True)
    mem = currents(2, 3, 4, 5, seed=1).to(impl_device, dtype).requires_grad_()
    cur, memory = produced(x, weight, how)
    before = memory.clone()
    out = lif_multistep(cur, mem, beta=0.9, inplace=inplace, impl=impl, **PAPER | options)
    w_spk, w_mem, w_cur = (weights(*s, seed=i).to(out.spk) for i, s in enumerate((x.shape, out.mem.shape, x.shape)))
    loss = (out.spk * w_spk).sum() + (out.mem * w_mem).sum()
    if again:
        used = out.spk if impl == "reference" else cur  # what is written over is the spikes
        loss = loss + (used * w_cur).sum()
    loss.backward()
    result = {"spk": out.spk.detach(), "mem": out.mem.detach(), "dx": x.grad, "dweight": weight.grad, "dmem": mem.grad}
    return result, cur, memory, before, out


PRODUCERS = ["plain", "folded", "channels-last", "split"]
VARIANTS = {
    "": {},
    "relu": {"relu": True},
    "bfloat16": {"save": "bfloat16"},
    "compact": {"save": "compact", "relu": True},
    "record": {"record_mem": True},
    "graded": {"graded_spikes_factor": 2.5},
}


@pytest.mark.parametrize(
    ("impl", "variant"),
    [("cpu", variant) for variant in VARIANTS]
    + [pytest.param("triton", variant, marks=TRITON.marks) for variant in ("relu", "compact")],
    indirect=["impl"],
)
@pytest.mark.parametrize("again", [False, True], ids=["", "used-again"])
@pytest.mark.parametrize("how", PRODUCERS)
def test_in_place(impl, how, again, variant):
    """The spikes lie where the current lay, and all who look there see them: as with nn.ReLU(inplace=True)."""
    options = VARIANTS[variant]
    actual, cur, memory, _, out = in_place(impl, how, True, again=again, **options)
    assert out.spk.data_ptr() == memory.data_ptr() == cur.data_ptr()
    assert torch.equal(cur, out.spk) and torch.equal(memory.reshape(cur.shape), out.spk)
    reference = {k: v for k, v in options.items() if k != "save"}
    expected = in_place("reference", how, False, again=again, device=DEVICE[impl], **reference)[0]
    assert torch.equal(actual["spk"], expected["spk"]) and torch.equal(actual["mem"], expected["mem"])
    row = BF16 if "save" in options else F32
    for name in ("dx", "dweight", "dmem"):
        assert_close(actual[name], expected[name], row, expected[name].abs().max().item() * 10, name)


@pytest.mark.parametrize("dtype", [BF16, F16, F64], ids=str)
@on_cpu
def test_in_place_in_any_dtype(impl, dtype):
    actual, cur, _, _, out = in_place(impl, "folded", True, dtype=dtype)
    expected = in_place(impl, "folded", False, dtype=dtype)[0]
    assert out.spk.data_ptr() == cur.data_ptr()
    for name, value in expected.items():
        assert torch.equal(actual[name], value), name


@both
def test_in_place_as_relu_in_place(impl):
    """The same memory, versions and errors as nn.ReLU(inplace=True) on the same producer."""
    for layer in (nn.ReLU(inplace=True), lambda x: lif_multistep(x, beta=0.9, inplace=True, impl=impl).spk):
        x = currents(4, 3, 5).float().to(DEVICE[impl]).requires_grad_()
        cur = x * 1
        version = cur._version
        out = layer(cur)
        assert out.data_ptr() == cur.data_ptr() and cur._version == version + 1
        for needs_output in (torch.sigmoid, torch.exp):
            bad = layer(needs_output(x))
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                bad.sum().backward()


@both
def test_a_current_that_somebody_else_kept_is_missed(impl):
    x = currents(4, 3, 5).float().to(DEVICE[impl]).requires_grad_()
    cur = x * 2
    kept = cur * cur
    lif_multistep(cur, beta=0.9, inplace=True, impl=impl)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        kept.sum().backward()


def partial(name, x):
    """A view of `base` with a memory that is not all its own, or one that may not be written."""
    if name == "first half":
        base = torch.cat([x, x]) * 1
        return base, base[: len(x)]
    if name == "every other":
        base = x.repeat_interleave(2, -1) * 1
        return base, base[..., ::2]
    if name == "other order":
        base = x.transpose(0, 1) * 1
        return base.contiguous(), base.contiguous().transpose(0, 1)
    if name == "expanded":
        base = x[:1] * 1
        return base, base.expand_as(x)
    if name == "leaf":
        return x, x
    if name == "view of a leaf":
        return x, x.flatten(1).view(x.shape)
    if name == "half of the batch":
        base = torch.cat([x, x], 1) * 1
        return base, base[:, : x.shape[1]]
    raise ValueError(name)


@pytest.mark.parametrize(
    "name",
    ["first half", "every other", "other order", "expanded", "leaf", "view of a leaf", "half of the batch"],
)
@both
def test_what_may_not_be_written_is_left_alone(impl, name):
    grads = []
    for how in (impl, "reference"):
        x = currents(4, 3, 2, 5).float().to(DEVICE[impl]).requires_grad_()
        base, cur = partial(name, x)
        before, version = base.detach().clone(), base._version
        out = lif_multistep(cur, beta=0.9, inplace=True, impl=how, **PAPER)
        assert torch.equal(base, before) and base._version == version
        grads.append(torch.autograd.grad((out.spk * weights(*x.shape).to(out.spk)).sum(), x)[0])
    assert_close(grads[0], grads[1], F32, grads[1].abs().max().item())


@both
def test_in_place_without_a_gradient(impl):
    device = DEVICE[impl]
    expected = lif_multistep(currents(4, 3, 5).float().to(device), beta=0.9, impl="reference")
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode():
            cur = currents(4, 3, 5).float().to(device)
            out = lif_multistep(cur, beta=0.9, inplace=True, impl=impl)
        assert out.spk.data_ptr() == cur.data_ptr()
        assert torch.equal(out.spk, expected.spk) and torch.equal(out.mem, expected.mem)


@on_cpu
def test_in_place_of_a_parameters_gradient_alone(impl):
    """The current needs no gradient, the threshold does."""
    grads = []
    for inplace in (True, False):
        cur, threshold = currents(4, 3, 5).float(), torch.tensor(0.5, requires_grad=True)
        out = lif_multistep(
            cur, beta=0.9, threshold=threshold, reset_mechanism="zero", spatial_adj=True, inplace=inplace, impl=impl
        )
        assert (out.spk.data_ptr() == cur.data_ptr()) == inplace
        grads.append(torch.autograd.grad((out.spk * weights(4, 3, 5).float()).sum(), threshold)[0])
    assert torch.equal(*grads)


@on_cpu
def test_in_place_where_it_cannot_be(impl):
    """A constant current has one step, its spikes many; a ReLU that needs a copy has taken one."""
    x = currents(1, 3, 5).float().requires_grad_()
    cur = x * 1
    out = lif_multistep(cur, beta=0.9, num_steps=4, inplace=True, impl=impl)
    assert cur._version == 0 and out.spk.shape == (4, 3, 5)
    beta = torch.tensor(0.9, device=DEVICE[impl], requires_grad=True)
    x = currents(4, 3, 5).float().requires_grad_()
    cur = x * 1
    lif_multistep(cur, beta=beta, relu=True, inplace=True, impl=impl).spk.sum().backward()
    assert torch.equal(cur, x)


# --- what is kept for backward --------------------------------------------------------------------


@contextmanager
def kept():
    """The tensors that autograd keeps, each memory once: a list that fills."""
    tensors, seen = [], set()

    def pack(x):
        if x.untyped_storage()._cdata not in seen:
            seen.add(x.untyped_storage()._cdata)
            tensors.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        yield tensors


def nbytes(tensors, at_least=64):
    """Of all that are no single numbers."""
    return sum(x.untyped_storage().nbytes() for x in tensors if x.numel() >= at_least)


T, B, N = 16, 4, 1000
LIMITS = {  # (options, dtype) -> bytes per neuron and step
    "float32": ({"save": "float32"}, F32, 4),
    "default": ({}, F32, 4),
    "relu": ({"relu": True}, F32, 4),
    "arc tangent": ({"spatial_adj": False, "relu": True}, F32, 4),
    "bfloat16": ({"save": "bfloat16", "relu": True}, F32, 2),
    "default of bfloat16": ({"relu": True}, BF16, 2),
    "default of float16": ({}, F16, 2),
    "float64": ({}, F64, 8),
    "compact": ({"save": "compact"}, F32, 0.8),
    "compact, relu": ({"save": "compact", "relu": True}, F32, 0.8),
    "compact, bfloat16": ({"save": "compact", "relu": True}, BF16, 0.8),
    "learnable beta": ({"beta": torch.tensor(0.9, requires_grad=True)}, F32, 4),
    "record is what is kept": ({"record_mem": True}, F32, 4),
    "num_steps": ({"num_steps": T}, F32, 4),
}


@pytest.mark.parametrize(
    ("impl", "case"),
    [("cpu", case) for case in LIMITS]
    + [pytest.param("triton", case, marks=TRITON.marks) for case in ("default", "bfloat16", "compact, bfloat16")],
    indirect=["impl"],
)
def test_bytes_kept_per_neuron_and_step(impl, case):
    options, dtype, limit = LIMITS[case]
    batch, neurons = (1, 500) if impl == "triton" else (B, N)
    x = currents(1 if "num_steps" in options else T, batch, neurons, scale=1.0, low=-0.4).to(DEVICE[impl], dtype)
    x.requires_grad_()
    options = {"beta": 0.9} | PAPER | options
    if isinstance(options["beta"], torch.Tensor):
        options["beta"] = options["beta"].detach().to(DEVICE[impl]).requires_grad_()
    with kept() as tensors:
        out = lif_multistep(x, impl=impl, **options)
    if "num_steps" not in options:
        assert 0.15 < out.spk.float().mean() < 0.25
    assert 0 < nbytes(tensors) <= limit * T * batch * neurons
    assert all(each.numel() == 1 for each in tensors if each.numel() < 64)
    (grad,) = torch.autograd.grad(out.spk.sum(), x)
    assert grad.shape == x.shape and grad.untyped_storage().nbytes() <= max(limit, dtype.itemsize) * T * batch * neurons


@both
def test_nothing_is_kept_where_no_gradient_is_needed(impl):
    cur = currents(4, 3, 50).float().to(DEVICE[impl])
    words = []

    def spy(*arguments, **options):
        words.append(arguments[7])
        return original(*arguments, **options)

    kernels = {"cpu": _cpu, "triton": _triton}[impl]
    original = kernels.forward
    with pytest.MonkeyPatch.context() as monkeypatch, kept() as tensors:
        monkeypatch.setattr(kernels, "forward", spy)
        expected = lif_multistep(cur, beta=0.9, impl=impl)
        learnable = cur.clone().requires_grad_()
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                out = lif_multistep(learnable, beta=0.9, impl=impl)
            assert torch.equal(out.spk, expected.spk) and torch.equal(out.mem, expected.mem)
            assert not out.spk.requires_grad and out.spk.grad_fn is None
        assert words == [None] * 3 and not tensors
        assert lif_multistep(learnable, beta=0.9, impl=impl).spk.requires_grad
        assert words[-1] is not None and tensors


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ({}, F32),
        ({"relu": True}, F32),
        ({}, F64),
        ({}, BF16),
        ({}, F16),
        ({"learn": True}, F32),
        ({"relu": True, "inplace": True}, F32),
    ],
    ids=str,
)
@both
def test_the_gradient_takes_the_memory_of_what_was_kept(impl, options, dtype):
    """Where nobody can ask again; else it is right however often it is asked for."""
    options = dict(options)
    beta = torch.tensor(0.9, device=DEVICE[impl], requires_grad=options.pop("learn", False))
    x = currents(5, 3, 37).to(DEVICE[impl], dtype).requires_grad_()
    w = weights(5, 3, 37).to(x)
    with kept() as tensors:
        cur, seen = x * 1, []
        cur.register_hook(lambda grad: seen.append((grad.clone(), grad.data_ptr())))
        loss = (lif_multistep(cur, beta=beta, impl=impl, **PAPER | options).spk * w).sum()
    words = [each.data_ptr() for each in tensors if each.numel() == x.numel() and each.data_ptr() != w.data_ptr()]
    assert len(words) == 1
    for again in (True, True, False):
        torch.autograd.grad(loss, x, retain_graph=again)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, x)
    (first, where_first), (second, where_second), (last, where_last) = seen
    assert where_last in words and where_first not in words and where_second not in words
    assert torch.equal(first, second) and torch.equal(first, last) and first.abs().sum() > 0


@pytest.mark.parametrize("options", [{}, {"save": "bfloat16"}, {"num_steps": 5}, {"save": "compact"}], ids=str)
@on_cpu
def test_nothing_is_overwritten_where_it_does_not_fit(impl, options):
    x = currents(1 if "num_steps" in options else 5, 3, 37).double().float().requires_grad_()
    out = lif_multistep(x, beta=0.9, impl=impl, **PAPER | options)
    first = torch.autograd.grad(out.spk.sum(), x, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(out.spk.sum(), x)[0])


@pytest.mark.parametrize("dtype", [F32, F64, BF16], ids=str)
@pytest.mark.parametrize("learn", [False, True], ids=["", "learnable-beta"])
@both
def test_a_recorded_membrane_is_never_overwritten(impl, learn, dtype):
    x = currents(5, 3, 37).to(DEVICE[impl], dtype).requires_grad_()
    beta = torch.tensor(0.9, device=DEVICE[impl], requires_grad=learn)
    out = lif_multistep(x, beta=beta, impl=impl, record_mem=True, **PAPER)
    before = out.spk.detach().clone(), out.mem.detach().clone()
    (out.spk.sum() + out.mem.sum()).backward()
    assert torch.equal(out.spk, before[0]) and torch.equal(out.mem, before[1])


@on_cpu
def test_writing_into_a_recorded_membrane_is_noticed(impl):
    x = currents(5, 3, 7).float().requires_grad_()
    out = lif_multistep(x, beta=0.9, impl=impl, record_mem=True, **PAPER)
    out.mem.detach().zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.spk.sum().backward()


@both
def test_writing_into_spikes_and_last_membrane_does_no_harm(impl):
    """Neither is kept for backward."""
    x = currents(5, 3, 7).float().to(DEVICE[impl]).requires_grad_()
    out = lif_multistep(x, beta=0.9, impl=impl, **PAPER)
    (expected,) = torch.autograd.grad(out.spk.sum(), x, retain_graph=True)
    out.spk.detach().zero_()
    out.mem.detach().zero_()
    assert torch.equal(torch.autograd.grad(out.spk.sum(), x)[0], expected)


# --- autograd -------------------------------------------------------------------------------------


@pytest.mark.parametrize("inplace", [False, True], ids=["", "inplace"])
@both
def test_second_derivative_is_refused_and_not_wrong(impl, inplace):
    device = DEVICE[impl]
    x = currents(4, 2, 3).float().to(device).requires_grad_()
    weight = torch.ones(4, 2, 3, device=device, requires_grad=True)
    threshold = torch.tensor(0.5, device=device, requires_grad=True)
    options = PAPER | {"threshold": threshold, "impl": impl, "inplace": inplace}
    plain = torch.autograd.grad((lif_multistep(x * 1, beta=0.9, **options).spk * weight).sum(), (x, threshold))
    assert plain[0].abs().sum() > 0
    spk = lif_multistep(x * 1, beta=0.9, **options).spk
    with pytest.raises(NotImplementedError, match="second derivative.*impl='reference'"):
        torch.autograd.grad((spk * weight).sum(), (x, threshold), create_graph=True)


@pytest.mark.parametrize("reentrant", [False, True], ids=["", "reentrant"])
@pytest.mark.parametrize("options", [{}, {"inplace": True, "relu": True}, {"save": "compact"}], ids=str)
@both
def test_checkpoint(impl, options, reentrant):
    device = DEVICE[impl]
    x = currents(4, 3, 5).float().to(device).requires_grad_()
    weight = (weights(5, 7).float().to(device) * 0.5).requires_grad_()

    def block(x):
        out = lif_multistep(x @ weight, beta=0.9, impl=impl, **PAPER | options)
        return out.spk, out.mem

    seen = []
    for function in (block, lambda x: checkpoint(block, x, use_reentrant=reentrant)):
        spk, mem = function(x)
        grads = torch.autograd.backward((spk * weights(4, 3, 7).to(spk)).sum() + mem.sum())
        seen.append((spk.detach(), mem.detach(), x.grad, weight.grad))
        x.grad = weight.grad = grads
    for actual, expected in zip(*seen, strict=True):
        assert torch.equal(actual, expected)


@both
def test_offloaded_to_the_cpu(impl):
    """What is kept may go through hooks that give another tensor back."""
    x = currents(4, 3, 5).float().to(DEVICE[impl]).requires_grad_()
    with torch.autograd.graph.save_on_cpu():
        offloaded = lif_multistep(x, beta=0.9, impl=impl, **PAPER).spk
    plain = lif_multistep(x, beta=0.9, impl=impl, **PAPER).spk
    assert torch.equal(torch.autograd.grad(offloaded.sum(), x)[0], torch.autograd.grad(plain.sum(), x)[0])


@both
def test_only_what_needs_a_gradient_gets_one(impl):
    shape = (4, 2, 3)
    everything = {"beta": torch.tensor(0.9, dtype=F64), "threshold": torch.tensor(0.5, dtype=F64)}
    expected = run(impl, shape, learn=("beta", "threshold"), surrogate="ArcTangent", **everything)
    for alone in ("mem", "beta", "threshold"):
        tensors = problem(shape, F32, DEVICE[impl], **everything)
        tensors[alone].requires_grad_()
        parameters = {name: tensors[name] for name in everything}
        out = lif_multistep(
            tensors["input_"], tensors["mem"], impl=impl, spike_grad=snn.surrogate.ArcTangent(1.3), **parameters
        )
        grads = torch.autograd.grad(out, tensors[alone], (tensors["w_spk"], tensors["w_mem"]))
        assert_close(grads[0], expected["d" + alone], F32, 10 * expected["d" + alone].abs().max().item(), alone)


# --- properties -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 4, 9])
@pytest.mark.parametrize("reset", RESETS)
@both
def test_parts_of_time_make_the_whole(impl, reset, cut):
    device = DEVICE[impl]
    options = {"beta": 0.9, "threshold": 0.5, "reset_mechanism": reset, "temporal_alpha": RESETS[reset], "impl": impl}
    cur, mem = (currents(*s, seed=i).float().to(device).requires_grad_() for i, s in enumerate(((10, 3, 50), (3, 50))))
    w_spk, w_mem = weights(10, 3, 50).float().to(device), weights(3, 50).float().to(device)
    whole = lif_multistep(cur, mem, **options)
    first = lif_multistep(cur[:cut], mem, **options)
    second = lif_multistep(cur[cut:], first.mem, **options)
    spk = torch.cat([first.spk, second.spk])
    assert torch.equal(spk, whole.spk) and torch.equal(second.mem, whole.mem)
    expected = torch.autograd.grad((whole.spk, whole.mem), (cur, mem), (w_spk, w_mem))
    actual = torch.autograd.grad((spk, second.mem), (cur, mem), (w_spk, w_mem))
    for a, b in zip(actual, expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("surrogate", ["spatial_adj", "ArcTangent"])
@both
def test_a_sample_alone_is_the_sample_in_the_batch(impl, surrogate):
    size = 37 if impl == "triton" else 2051
    channels = {"beta": spread((size,), 0, 1), "threshold": spread((size,), 0.3, 0.8)}
    together = run(impl, (7, 5, size), surrogate=surrogate, temporal_alpha=0.8, **channels)
    for i in (0, 3):
        device = DEVICE[impl]
        tensors = problem((7, 5, size), F32, device, **channels)
        cur, mem = tensors["input_"][:, i : i + 1].requires_grad_(), tensors["mem"][i : i + 1].requires_grad_()
        out = lif_multistep(
            cur, mem, beta=tensors["beta"], threshold=tensors["threshold"], temporal_alpha=0.8, impl=impl,
            **SURROGATES[surrogate][0],
        )  # fmt: skip
        grads = torch.autograd.grad(out, (cur, mem), (tensors["w_spk"][:, i : i + 1], tensors["w_mem"][i : i + 1]))
        assert torch.equal(out.spk, together["spk"][:, i : i + 1]) and torch.equal(out.mem, together["mem"][i : i + 1])
        assert torch.equal(grads[0], together["dinput_"][:, i : i + 1])
        assert torch.equal(grads[1], together["dmem"][i : i + 1])


@both
def test_permutation(impl):
    order = torch.randperm(37, generator=torch.Generator().manual_seed(0))
    channels = {"beta": spread((37,), 0, 1), "threshold": spread((37,), 0.3, 0.8)}
    device = DEVICE[impl]
    tensors = problem((7, 3, 37), F32, device, **channels)
    seen = []
    for p in (torch.arange(37), order):
        p = p.to(device)
        cur, mem = (tensors[name][..., p].requires_grad_() for name in ("input_", "mem"))
        beta, threshold = (tensors[name][p].requires_grad_() for name in ("beta", "threshold"))
        out = lif_multistep(cur, mem, beta=beta, threshold=threshold, temporal_alpha=0.8, impl=impl)
        grads = torch.autograd.grad(
            out, (cur, mem, beta, threshold), (tensors["w_spk"][..., p], tensors["w_mem"][..., p])
        )
        seen.append([x.detach() for x in (*out, *grads)])
    for straight, permuted in zip(*seen, strict=True):
        assert torch.equal(straight[..., order.to(device)], permuted)


@both
def test_silence_stays_silent(impl):
    cur = torch.zeros(5, 3, 7, device=DEVICE[impl], requires_grad=True)
    out = lif_multistep(cur, beta=0.9, impl=impl, **PAPER)
    out.spk.sum().backward()
    assert not out.spk.any() and not out.mem.any() and not cur.grad.any()


@pytest.mark.parametrize("options", [PAPER, {"temporal_alpha": 0.8, "threshold": 0.5}], ids=["paper", "host"])
@pytest.mark.parametrize("inplace", [False, True], ids=["", "inplace"])
@both
def test_the_same_bits_twice(impl, inplace, options):
    shape = (7, 3, 37) if impl == "triton" else (16, 9, 2051)
    first, second = (run(impl, shape, inplace=inplace, **options) for _ in range(2))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


LAYOUTS = {
    "batch first": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "every other": lambda x: x.repeat_interleave(2, dim=-1)[..., ::2],
    "all steps alike": lambda x: x[:1].expand_as(x),
    "all samples alike": lambda x: x[:, :1].expand_as(x),
    "last first": lambda x: x.transpose(2, -1).contiguous().transpose(2, -1),
    "channels last": lambda x: x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, x.shape[:2]),
    "offset": lambda x: torch.cat([x[:1], x])[1:],
}


@pytest.mark.parametrize("options", [{}, {"relu": True}, {"save": "compact"}, {"record_mem": True}], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@both
def test_strides_do_not_matter(impl, layout, options):
    shape = (4, 3, 2, 5, 3)
    options = PAPER | options
    strided = run(impl, shape, layout=LAYOUTS[layout], **options)
    dense = run(impl, shape, layout=lambda x: LAYOUTS[layout](x).contiguous(), **options)
    for name, value in strided.items():
        assert torch.equal(value, dense[name]), name


@pytest.mark.parametrize("kind", ["channel", "holes", "sample", "neuron"])
@both
def test_strides_do_not_matter_to_parameters(impl, kind):
    """Per channel in memory where the channels come last; and a parameter that is a strided view itself."""
    options = {"beta": spread(PARAMETERS[kind], 0, 1), "threshold": spread(PARAMETERS[kind], 0.3, 0.8)}
    strided = {name: value.repeat_interleave(2, -1)[..., ::2] for name, value in options.items()}
    learn = ("beta", "threshold")
    for layout in ("channels last", "last first"):
        got = run(impl, (4, *STEP), layout=LAYOUTS[layout], learn=learn, surrogate="ArcTangent", **strided)
        dense = run(impl, (4, *STEP), learn=learn, surrogate="ArcTangent", **options)
        for name, value in got.items():
            assert torch.equal(value, dense[name]), name


@on_cpu
def test_channels_last_come_out_channels_last(impl):
    """The current is taken as it lies, and what comes out lies alike: no copy before the next convolution."""
    cur = LAYOUTS["channels last"](currents(4, 3, 2, 5, 3).float()).requires_grad_()
    out = lif_multistep(cur, beta=0.9, impl=impl, **PAPER)
    assert out.spk.stride() == cur.stride() and out.spk[0].is_contiguous(memory_format=torch.channels_last)
    (grad,) = torch.autograd.grad(out.spk.sum(), cur)
    assert grad.stride() == cur.stride()


@pytest.mark.parametrize("options", [PAPER, {"learn": ("beta",)}], ids=["code", "membrane"])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_number_of_threads_does_not_matter(threads, options):
    options = dict(options) | {"beta": spread((2051,), 0, 1)}
    before = torch.get_num_threads()
    seen = []
    try:
        for count in (1, threads):
            torch.set_num_threads(count)
            calls = Counter()
            with pytest.MonkeyPatch.context() as monkeypatch:
                for name in ("lif_fwd_kernel", "lif_bwd_kernel"):
                    monkeypatch.setattr(_cpu, name, counting(getattr(_cpu, name), calls, name))
                seen.append(run("cpu", (16, 9, 2051), **options))
            assert calls == {"lif_fwd_kernel": count, "lif_bwd_kernel": count}
    finally:
        torch.set_num_threads(before)
    for name, value in seen[0].items():
        assert torch.equal(value, seen[1][name]), name


def counting(function, calls, name):
    def counted(*arguments, **options):
        calls[name] += 1
        return function(*arguments, **options)

    return counted


def test_two_python_threads_do_not_disturb_each_other():
    expected = run("cpu", (16, 9, 2051), **PAPER)
    with ThreadPoolExecutor(2) as pool:
        for each in pool.map(lambda _: run("cpu", (16, 9, 2051), **PAPER), range(8)):
            for name, value in each.items():
                assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("shape", [(4, 0, 3), (4, 3, 0), (1, 0, 2, 3)], ids=str)
@pytest.mark.parametrize(
    "options",
    [{}, {"record_mem": True}, {"inplace": True}, {"save": "compact"}, {"relu": True, "learn": ("beta", "threshold")}],
    ids=str,
)
@both
def test_nothing_in_the_batch(impl, options, shape):
    options = PAPER | options | {"beta": torch.tensor(0.9, dtype=F64), "threshold": torch.tensor(0.5, dtype=F64)}
    out = run(impl, shape, **options)
    assert out["spk"].shape == out["dinput_"].shape == shape and out["dmem"].shape == shape[1:]
    assert out["mem"].shape == (shape if "record_mem" in options else shape[1:])
    assert all(out["d" + name] == 0 for name in options.get("learn", ()))


# --- the door -------------------------------------------------------------------------------------


CHOICES = {
    "default": {},
    "paper": PAPER,
    "fast sigmoid": {"spike_grad": snn.surrogate.fast_sigmoid()},
    "stochastic": {"spike_grad": snn.surrogate.SSO()},
    "own function": {"spike_grad": lambda x: (x > 0).to(x.dtype)},
    "custom": {"spike_grad": snn.surrogate.custom_surrogate(lambda x, grad, spk: grad * spk)},
    "another threshold": {"spike_grad": snn.surrogate.spatial_adjustment(0.25)},
    "wide beta": {"beta": torch.full((5,), 0.9, dtype=F64)},
    "wide number": {"beta": torch.tensor(0.9, dtype=F64)},
    "compact": PAPER | {"save": "compact"},
    "compact of another": {"save": "compact"},
    "bfloat16": {"save": "bfloat16"},
    "bfloat16, learnable": {"save": "bfloat16", "beta": torch.tensor(0.9, requires_grad=True)},
    "everything": PAPER | {"record_mem": True, "relu": True, "inplace": True, "num_steps": 4},
}


@pytest.mark.parametrize("asked", ["auto", "reference", "cpu", TRITON])
@pytest.mark.parametrize("case", CHOICES)
def test_which_impl_is_what_runs(case, asked, monkeypatch):
    if asked == "triton":
        monkeypatch.setenv("TRITON_INTERPRET", "0" if DEVICE["triton"] == "cuda" else "1")
    options = {"beta": 0.9} | CHOICES[case] | {"impl": asked}
    device = DEVICE.get(asked, "cpu")
    options = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    cur = currents(4, 2, 5).float().to(device)
    calls = Counter()
    monkeypatch.setattr(lif, "lif_reference", counting(lif.lif_reference, calls, "reference"))
    for name, kernels in (("cpu", _cpu), ("triton", _triton)):
        if kernels is not None:
            monkeypatch.setattr(kernels, "forward", counting(kernels.forward, calls, name))
    try:
        chosen = which_impl(cur, **options)
    except NotImplementedError as error:
        assert asked not in ("auto", "reference")
        with pytest.raises(NotImplementedError) as again:
            lif_multistep(cur, **options)
        assert str(again.value) == str(error) and not calls
        return
    lif_multistep(cur, **options)
    assert calls == {chosen: 1} and chosen in ("cpu", "reference") if asked == "auto" else chosen == asked


@pytest.mark.skipif(_triton is None, reason="needs Triton >= 3.4")
def test_triton_on_cpu_tensors_is_refused_without_the_interpreter(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(NotImplementedError, match="device cpu"):
        which_impl(torch.rand(2, 3, 4), beta=0.9, impl="triton")


@pytest.mark.parametrize("wrong", ["reset", "spike_gard", "recordmem", "in_place", "numsteps"])
def test_a_misspelt_option_is_a_type_error(wrong):
    cur, neuron = torch.rand(4, 2, 5), snn.Leaky(beta=0.9)
    calls = [
        lambda **options: lif_multistep(cur, beta=0.9, **options),
        lambda **options: which_impl(cur, beta=0.9, **options),
        lambda **options: neuron.sequence(cur, **options),
        lambda **options: neuron(cur, multistep=True, **options),
        lambda **options: neuron(cur[0], torch.zeros(2, 5), **options),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=wrong):
            call(**{wrong: True})


def test_options_of_all_steps_are_refused_for_one():
    with pytest.raises(TypeError, match="relu.*multistep=True"):
        snn.Leaky(beta=0.9)(torch.rand(2, 5), torch.zeros(2, 5), relu=True)


def test_numba_is_imported_by_the_first_call_only():
    code = (
        "import sys, torch, snntorch_bpsta as snn; assert 'numba' not in sys.modules;"
        "snn.Leaky(beta=0.9).sequence(torch.rand(2, 3, 4)); assert 'numba' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- layers ---------------------------------------------------------------------------------------


def train_step(net, x):
    """Output and gradients of the input and every parameter."""
    net.zero_grad()
    x = x.clone().requires_grad_()
    out = net(x)
    (out * weights(*out.shape).to(out)).sum().backward()
    return {"out": out.detach(), "input": x.grad} | {name: p.grad for name, p in net.named_parameters()}


NETS = {
    "linear": lambda **k: [nn.Linear(6, 9), nn.ReLU(), snn.Leaky(beta=0.9, **PAPER | k)],
    "encoded": lambda **k: [
        nn.Linear(6, 9), nn.ReLU(), snn.layers.DirectEncoding(5), snn.Leaky(beta=0.9, **PAPER | k),
    ],
    "encoded first": lambda **k: [
        nn.Linear(6, 9), snn.layers.DirectEncoding(5), nn.ReLU(), snn.Leaky(beta=0.9, **PAPER | k),
    ],
    "encoded alone": lambda **k: [nn.Linear(6, 9), snn.layers.DirectEncoding(5), snn.Leaky(beta=0.9, **PAPER | k)],
    "learnable": lambda **k: [
        nn.Linear(6, 9), nn.ReLU(), snn.Leaky(beta=0.9, learn_beta=True, learn_threshold=True, **PAPER | k),
    ],
    "deep": lambda **k: [
        nn.Linear(6, 9), nn.ReLU(), snn.layers.DirectEncoding(5), snn.Leaky(beta=0.9, **PAPER | k),
        nn.Linear(9, 4), nn.ReLU(), snn.Leaky(beta=0.5, **PAPER | k),
    ],
}  # fmt: skip


@pytest.mark.parametrize("inplace", [False, True], ids=["", "inplace"])
@pytest.mark.parametrize("net", NETS)
def test_fused_relu_and_encoding_change_nothing(net, inplace):
    """A hook on the layers in front of a neuron switches the fusion off, and is called."""
    torch.manual_seed(0)
    fused = snn.MultiStep(*NETS[net](inplace=inplace))
    x = currents(1 if "encoded" in net or net == "deep" else 5, 3, 6).float()
    passed = [layer for layer in fused if isinstance(layer, nn.ReLU | snn.layers.DirectEncoding)]
    calls = Counter()
    with pytest.MonkeyPatch.context() as monkeypatch:
        for kind in (nn.ReLU, snn.layers.DirectEncoding):
            monkeypatch.setattr(kind, "forward", counting(kind.forward, calls, kind))
        actual = train_step(fused, x)
    assert calls == ({snn.layers.DirectEncoding: 1} if net == "encoded first" else {})  # which is a view
    calls.clear()
    handles = [layer.register_forward_hook(lambda module, *_: calls.update([module])) for layer in passed]
    for layer in fused:
        if isinstance(layer, snn.Leaky):  # a ReLU that runs needs its output
            layer.inplace = False
    expected = train_step(fused, x)
    assert calls == dict.fromkeys(passed, 1)
    assert torch.equal(actual["out"], expected["out"]) and 0 < actual["out"].mean() < 1
    for name, value in expected.items():
        assert_close(actual[name], value, F32, value.abs().max().item() * 10, name)
    for handle in handles:
        handle.remove()
    assert torch.equal(train_step(fused, x)["input"], actual["input"]) and set(calls.values()) == {1}


@pytest.mark.parametrize("hooked", [0, 1, 2, 3])
def test_a_conv_block_trains_with_a_hook_on_any_of_its_layers(hooked):
    """The block chose to write in place, so it may not fail where somebody looks into it."""
    torch.manual_seed(0)
    net = snn.MultiStep(snn.layers.ConvBlock(2, 4, snn.Leaky(beta=0.9, **PAPER)))
    x = currents(5, 3, 2, 6, 7).float()
    expected = train_step(net, x)
    calls = Counter()
    net[0][hooked].register_forward_hook(lambda module, *_: calls.update([module]))
    actual = train_step(net, x)
    assert calls == {net[0][hooked]: 1} and torch.equal(actual["out"], expected["out"])
    assert_close(actual["input"], expected["input"], F32, expected["input"].abs().max().item() * 10)


@pytest.mark.parametrize("kind", ["forward_pre", "full_backward", "full_backward_pre"])
def test_other_hooks_are_called_as_well(kind):
    net = snn.MultiStep(nn.Linear(6, 9), nn.ReLU(), snn.Leaky(beta=0.9, **PAPER))
    calls = []
    getattr(net[1], f"register_{kind}_hook")(lambda *arguments: calls.append(len(arguments)))
    train_step(net, currents(5, 3, 6).float())
    assert len(calls) == 1


def test_a_relu_of_a_subclass_is_not_passed_over():
    class Doubled(nn.ReLU):
        def forward(self, x):
            return 2 * super().forward(x)

    net = snn.MultiStep(Doubled(), snn.Leaky(beta=0.9))
    x = currents(5, 3, 6).float()
    expected = lif_multistep(2 * x.relu(), beta=0.9).spk
    assert torch.equal(net(x), expected) and not torch.equal(lif_multistep(x.relu(), beta=0.9).spk, expected)


@pytest.mark.parametrize("channels_last", [False, True], ids=["", "channels-last"])
def test_conv_block_writes_its_spikes_over_the_batch_norm(channels_last):
    torch.manual_seed(0)
    block = snn.layers.ConvBlock(2, 4, snn.Leaky(beta=0.9, **PAPER))
    x = currents(5, 3, 2, 6, 7).float()
    if channels_last:
        block, x = block.to(memory_format=torch.channels_last), LAYOUTS["channels last"](x)
    seen = []
    net = snn.MultiStep(block)
    block[1].register_forward_hook(lambda module, arguments, output: seen.append(output))
    out = net(x)
    assert out.data_ptr() == seen[0].data_ptr() and set(out.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(seen[0].unflatten(0, (5, 3)), out)
    actual = train_step(net, x)
    block[-1].inplace = False
    block[2].register_forward_hook(lambda module, arguments, output: None)
    expected = train_step(net, x)
    assert torch.equal(actual["out"], expected["out"])
    largest = max(value.abs().max().item() for value in expected.values())  # one is zero: a bias before batch norm
    for name, value in expected.items():
        assert_close(actual[name], value, F32, largest, name)


def test_the_block_keeps_one_word_per_neuron_and_step_beside_what_its_layers_need():
    net = snn.MultiStep(snn.layers.ConvBlock(2, 4, snn.Leaky(beta=0.9, **PAPER)))
    x = currents(5, 3, 2, 6, 7).float()
    with kept() as tensors:
        out = net(x)
    own = {p.untyped_storage()._cdata for p in (*net.parameters(), *net.buffers())}
    sizes = sorted(t.untyped_storage().nbytes() for t in tensors if t.untyped_storage()._cdata not in own)
    numbers = [size for size in sizes if size <= 4]  # beta and threshold, in the kernels' form, and the factor
    statistics = [16, 16]  # mean and deviation of four channels
    words = 4 * out.numel()
    assert [s for s in sizes if s > 4] == sorted([*statistics, 4 * x.numel(), words, words])
    assert len(numbers) <= 3


@pytest.mark.parametrize("encoding", [False, True], ids=["", "encoded"])
def test_the_identity_warm_up_still_rectifies(encoding):
    layers = [nn.Linear(6, 9), nn.ReLU(), *([snn.layers.DirectEncoding(5)] if encoding else [])]
    net = snn.MultiStep(*layers, snn.Leaky(beta=0.9, **PAPER))
    x = currents(1 if encoding else 5, 3, 6).float()
    snn.networks.set_warm_up(net, "identity")
    assert torch.equal(net(x), net[0](x).relu()) and (net[0](x) < 0).any()
    net[-1].warm_up = "identity"
    if encoding:  # the encoding alone is told to repeat
        net[2].warm_up = None
        assert torch.equal(net(x), net[0](x).relu().expand(5, 3, 9))


def test_the_surrogate_warm_up_is_covered():
    neuron = snn.Leaky(beta=0.9, **PAPER)
    neuron.warm_up = "surrogate"
    x = currents(5, 3, 6).float().requires_grad_()
    grads = [torch.autograd.grad(neuron.sequence(x, impl=how)[0].sum(), x)[0] for how in ("cpu", "reference")]
    assert_close(grads[0], grads[1], F32, grads[1].abs().max().item())
    assert grads[0][0].count_nonzero() == grads[0][0].numel()  # and not where it fired only


def test_fold_false_and_stock_neurons_are_not_fused():
    import snntorch

    net = snn.MultiStep(nn.Linear(6, 9), nn.ReLU(), snntorch.Leaky(beta=0.9))
    calls = Counter()
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(nn.ReLU, "forward", counting(nn.ReLU.forward, calls, "forward"))
        out = net(currents(5, 3, 6).float())
    assert calls == {"forward": 1}
    net[2] = snn.Leaky(beta=0.9)
    x = currents(5, 3, 6).float()
    expected = net(x)
    net.fold = False
    assert torch.equal(net(x), expected) and out.shape == expected.shape
