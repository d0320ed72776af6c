"""The Triton kernels against a loop over T and the oracle: spikes and membranes to the bit, gradients within the table.

On a CUDA device where there is one, else in Triton's interpreter, which is slow: small shapes, odd on purpose.
"""

import subprocess
import sys

import _oracle
import numpy as np
import pytest
import torch
from _tolerance import assert_close

from snntorch_bpsta.functional import multistep as lif

if not lif._TRITON:
    pytest.skip("needs Triton >= 3.4", allow_module_level=True)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
with pytest.MonkeyPatch.context() as patch:  # read when the kernels are defined; not meant for the tests of others
    patch.setenv("TRITON_INTERPRET", "0" if DEVICE == "cuda" else "1")
    from snntorch_bpsta.functional.kernels import triton as _triton

INTEGER = {torch.float32: torch.int32, torch.float64: torch.int64, torch.bfloat16: torch.int16}
RESETS = ("zero", "subtract", "none")


def sigmoid(u, o, threshold, slope=4.0):
    y = 1 / (1 + np.exp(-slope * (u - threshold)))
    return slope * y * (1 - y)


def fast_sigmoid(u, o, threshold, slope=3.1):
    return 1 / (slope * np.abs(u - threshold) + 1) ** 2


# name -> (p0, p1, derivative), in the order of the kernels' numbers
SURROGATES = {
    "spatial": (1.0, 0.0, _oracle.spatial),
    "rectangle": (0.7, 0.0, _oracle.rectangle(0.7)),
    "atan": (2.1, 0.0, _oracle.atan(2.1)),
    "fast_sigmoid": (3.1, 0.0, fast_sigmoid),
    "sigmoid": (4.0, 0.0, sigmoid),
    "heaviside": (0.0, 0.0, lambda u, o, threshold: o),
    "straight_through": (0.0, 0.0, lambda u, o, threshold: np.ones_like(u)),
    "triangular": (0.6, 0.0, lambda u, o, threshold: np.where(u - threshold < 0, 0.6, -0.6)),
    "spike_rate_escape": (0.9, 1.3, lambda u, o, threshold: 1.3 * np.exp(-0.9 * np.abs(u - threshold - 1))),
    "sfs": (3.1, -0.2, lambda u, o, threshold: np.where(u - threshold > -0.2, fast_sigmoid(u, o, threshold), 0.0)),
}


def compute_dtype(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


def unwritten(n, dtype):
    """An output: NaN, so that what is not written shows."""
    return torch.full((n,), torch.nan, dtype=dtype, device=DEVICE)


def scalar(value, dtype):
    return torch.tensor([value], dtype=compute_dtype(dtype), device=DEVICE)


def per_neuron(values, inner, n):
    """The value of every neuron, as the kernels index a parameter."""
    return values[(torch.arange(n, device=values.device) // inner) % values.numel()]


def loop(cur, mem, beta, threshold, reset):
    """The membranes [T, N] in the reference's order of operations."""
    mems = []
    for x in cur:
        o = (mem - threshold > 0).to(mem.dtype)
        if reset == "zero":
            mem = beta * ((1 - o) * mem) + x
        elif reset == "subtract":
            mem = beta * mem + x - o * threshold
        else:
            mem = beta * mem + x
        mems.append(mem)
    return torch.stack(mems)


def assert_stored(actual, expected):
    """Equal; Triton's interpreter, not the GPU, cuts a bfloat16 off where it should round it."""
    if DEVICE == "cpu" and actual.dtype == torch.bfloat16:
        assert_close(actual, expected, torch.bfloat16)
    else:
        assert torch.equal(actual, expected.to(actual.dtype))


def float64(x):
    return x.detach().cpu().double().numpy()


def check(
    surrogate="spatial", reset="zero", alpha=0.8, *, dtype=torch.float32, steps=5, n=37, beta=0.9, threshold=0.5,
    beta_inner=1, threshold_inner=1, relu=False, constant=False, in_place=False, record=False, saved="code",
    over_saved=False, mem0=True, dspk=True, dmem="last", dmem_dtype=None, parameters=True,
    factor=1.0,
):  # fmt: skip
    """Both kernels on random numbers. `beta` and `threshold` are a number or [C]; `saved` is "code", "membrane" or the
    dtype of the code."""
    torch.manual_seed(0)
    state = compute_dtype(dtype)
    beta, threshold = (torch.as_tensor(p, dtype=state, device=DEVICE).reshape(-1) for p in (beta, threshold))
    spike = scalar(factor, dtype)
    lam, th = per_neuron(beta, beta_inner, n), per_neuron(threshold, threshold_inner, n)
    cur = (torch.rand(1 if constant else steps, n, device=DEVICE) * 1.2 - 0.2).to(dtype)
    initial = torch.rand(n, dtype=state, device=DEVICE) if mem0 else torch.zeros(n, dtype=state, device=DEVICE)
    p0, p1, derivative = SURROGATES[surrogate]
    membrane = saved == "membrane"
    options = dict(
        num_steps=steps, beta_inner=beta_inner, threshold_inner=threshold_inner, p0=p0, p1=p1, relu=relu,
        surrogate=list(SURROGATES).index(surrogate), reset=RESETS.index(reset), save_membrane=membrane,
    )  # fmt: skip

    every = cur.to(state).expand(steps, n)
    mems = loop(every.clamp(min=0) if relu else every, initial, lam, th, reset)
    input_, mem = cur.flatten().clone(), initial.clone()
    spk = input_ if in_place else unwritten(steps * n, dtype)
    record = unwritten(steps * n, dtype) if record else None
    words = unwritten(steps * n, saved if isinstance(saved, torch.dtype) else state)
    _triton.forward(input_, mem, beta, threshold, spike, spk, record, words, **options)
    assert torch.equal(spk.view(steps, n), (spike * (mems - th > 0)).to(dtype))
    assert torch.equal(mem, mems[-1])
    if record is not None:
        assert_stored(record.view(steps, n), mems)
    if membrane:
        assert torch.equal(words.view(steps, n), mems)

    g = torch.randn(steps, n, device=DEVICE).to(dtype) if dspk else None
    m = torch.randn(steps if dmem == "every" else 1, n, device=DEVICE).to(dmem_dtype or dtype) if dmem else None
    dinput = words.view(dtype) if over_saved else unwritten(n if constant else steps * n, dtype)
    grads = [unwritten(n, state) if wanted else None for wanted in (mem0, parameters and membrane, parameters)]
    flat = [None if x is None else x.flatten() for x in (g, m)]
    _triton.backward(
        *flat, words, initial if mem0 else None, beta, threshold, spike, dinput, *grads, alpha=alpha, **options
    )

    outside = None
    if m is not None:
        outside = np.zeros((steps, n))
        outside[-m.shape[0] :] = float64(m)
    expected = _oracle.lif(
        float64(every.clamp(min=0) if relu else every), beta=float64(lam), threshold=float64(th), surrogate=derivative,
        alpha=alpha, reset=reset, mem0=float64(initial), dspk=None if g is None else factor * float64(g), dmem=outside,
    )  # fmt: skip
    assert np.array_equal(float64(spk.view(steps, n)) / factor, expected.spk)
    computed = saved if isinstance(saved, torch.dtype) else state
    at_input = expected.dinput * (float64(every) > 0) if relu else expected.dinput
    if constant:
        at_input, scale = at_input.sum(0), np.abs(at_input).sum(0)
    else:
        at_input, scale = at_input.reshape(-1), np.tile(expected.du_scale, steps)
    coarser = torch.bfloat16 if torch.bfloat16 in (computed, dtype) else dtype
    assert_close(dinput, at_input, coarser, scale, "dinput")
    for name, value in zip(("dmem0", "dbeta", "dthreshold"), grads, strict=True):
        if value is not None:
            scale = expected.du_scale if name == "dmem0" else getattr(expected, f"{name}_scale")
            assert_close(value, getattr(expected, name), computed, scale, name)


@pytest.mark.parametrize("alpha", [0.0, 0.8])
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("surrogate", SURROGATES)
def test_surrogates_and_resets(surrogate, reset, alpha):
    if reset == "none":
        alpha = 0.0  # refused by the door
    check(surrogate, reset, alpha, saved="membrane" if surrogate == "triangular" else "code")


HALF = {"float16": torch.float16, "bfloat16": torch.bfloat16}
CHANNELS = {"beta": [0.9, 0.3, 0.0], "threshold": [0.5, 0.4, 0.8]}
CASES = {
    "float64": {"dtype": torch.float64, "surrogate": "atan", "record": True},
    "float64, membrane": {"dtype": torch.float64, "surrogate": "fast_sigmoid", "saved": "membrane", "dmem": "every"},
    "float64, bfloat16 code": {"dtype": torch.float64, "saved": torch.bfloat16},
    **{name: {"dtype": dtype, "record": True, "dmem_dtype": torch.float32} for name, dtype in HALF.items()},
    **{f"{name}, membrane": {"dtype": dtype, "saved": "membrane"} for name, dtype in HALF.items()},
    **{
        f"{name} over a bfloat16 code": {"dtype": dtype, "saved": torch.bfloat16, "over_saved": True, "in_place": True}
        for name, dtype in HALF.items()
    },
    "bfloat16 code": {"saved": torch.bfloat16, "surrogate": "sigmoid", "relu": True},
    "in place": {"in_place": True, "over_saved": True, "relu": True, "record": True},
    "in place, membrane": {"in_place": True, "over_saved": True, "saved": "membrane", "surrogate": "atan"},
    "relu, float64": {"relu": True, "dtype": torch.float64, "surrogate": "straight_through"},
    "constant": {"constant": True, "relu": True},
    "constant, float16": {"constant": True, "dtype": torch.float16, "saved": torch.bfloat16},
    "zeros as membrane": {"mem0": False, "surrogate": "atan", "saved": "membrane"},
    "every membrane": {"dmem": "every", "record": True, "reset": "subtract"},
    "spikes only": {"dmem": None},
    "graded spikes": {"factor": 2.5, "dtype": torch.float16, "in_place": True, "dmem": "every"},
    "membrane only": {"dspk": False, "surrogate": "atan"},
    "no gradient from outside": {"dspk": False, "dmem": None},
    "input only": {"mem0": False, "parameters": False, "dmem": None},
    "per channel": CHANNELS | {"beta_inner": 4, "threshold_inner": 2, "saved": "membrane"},
    "per neuron": {"beta": [i / 40 for i in range(37)], "threshold": [0.3 + i / 90 for i in range(37)]},
    "per neuron, learned": {"beta": [i / 40 for i in range(37)], "saved": "membrane", "reset": "subtract"},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_cases(case):
    check(**CASES[case])


@pytest.mark.parametrize("n", [1, 3, 1025])
@pytest.mark.parametrize("steps", [1, 2, 7, 63])
def test_shapes(steps, n):
    check(steps=steps, n=n, in_place=True, over_saved=True, dmem="last" if steps == 7 else "every", **CHANNELS)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("saved", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_code(saved, relu):
    """Every bit of it, and NaN stays NaN: neuron 3 has one in its current, 5 an infinity that is reset to 0 * inf, to
    which x86 gives a sign."""
    steps, n = 6, 9
    dtype = torch.float64 if saved == torch.float64 else torch.float32
    torch.manual_seed(0)
    cur = torch.rand(steps, n, dtype=dtype, device=DEVICE) * 1.4 - 0.4
    cur[2, 3], cur[1, 5] = torch.nan, torch.inf
    spk, words = unwritten(steps * n, dtype), unwritten(steps * n, saved)
    mem = torch.zeros(n, dtype=dtype, device=DEVICE)
    options = dict(num_steps=steps, beta_inner=1, threshold_inner=1, surrogate=2, p0=2.0, p1=0.0, reset=0, relu=relu)
    _triton.forward(
        cur.flatten(),
        mem,
        scalar(0.9, dtype),
        scalar(0.5, dtype),
        scalar(1.0, dtype),
        spk,
        None,
        words,
        save_membrane=False,
        **options,
    )
    expected = loop(cur.relu() if relu else cur, torch.zeros_like(mem), 0.9, 0.5, "zero")
    spk, words = spk.view(steps, n), words.view(steps, n)
    bits = words.view(INTEGER[saved])
    fired = expected - 0.5 > 0
    assert torch.equal(spk, fired.to(dtype)) and torch.equal(bits < 0, fired)
    nan = expected.isnan()
    assert nan[2:, [3, 5]].all() and torch.equal(words.isnan(), nan) and torch.equal(mem.isnan(), nan[-1])
    s = 1 / (1 + (torch.pi * (expected - 0.5)) ** 2)
    assert_close(words[~nan].abs(), s[~nan], saved)
    if relu:
        assert torch.equal((bits & 1).bool(), ~(cur <= 0))
    elif saved != torch.bfloat16:
        assert (bits & 1).any()
    elif DEVICE == "cuda":  # to nearest even; one unit for a derivative that rounded differently
        assert ((bits & 0x7FFF) - s.to(saved).view(torch.int16))[~nan].abs().max() <= 1


def test_code_of_a_derivative_that_is_zero():
    """Silent neurons with a positive input: the lowest bit alone is no derivative."""
    cur = torch.full((4,), 0.1, device=DEVICE)
    mem, spk, words, dinput = cur * 0, unwritten(4, cur.dtype), unwritten(4, cur.dtype), unwritten(4, cur.dtype)
    th, beta, one = (scalar(p, cur.dtype) for p in (0.5, 0.9, 1.0))
    options = dict(num_steps=1, beta_inner=1, threshold_inner=1, surrogate=0, p0=1.0, p1=0.0, reset=0, relu=True)
    _triton.forward(cur, mem, beta, th, one, spk, None, words, save_membrane=False, **options)
    assert (words.view(torch.int32) == 1).all()
    dspk = torch.full_like(cur, 1e38)
    _triton.backward(
        dspk,
        None,
        words,
        None,
        beta,
        th,
        scalar(1.0, cur.dtype),
        dinput,
        None,
        None,
        None,
        save_membrane=False,
        alpha=0.8,
        **options,
    )
    assert (dinput == 0).all()


def test_an_infinite_last_membrane_has_no_part_in_the_gradient_of_beta():
    cur = torch.tensor([[0.4], [torch.inf]], device=DEVICE)
    mem, spk, saved = torch.zeros(1, device=DEVICE), unwritten(2, cur.dtype), unwritten(2, cur.dtype)
    dinput, dbeta = unwritten(2, cur.dtype), unwritten(1, cur.dtype)
    beta, th, one = (scalar(p, cur.dtype) for p in (0.9, 0.5, 1.0))
    dspk = torch.ones(2, device=DEVICE)
    options = dict(num_steps=2, beta_inner=1, threshold_inner=1, surrogate=2, p0=2.0, p1=0.0, reset=0, relu=False)
    _triton.forward(cur.flatten(), mem, beta, th, one, spk, None, saved, save_membrane=True, **options)
    dmem = torch.full_like(mem, 2.0)
    _triton.backward(
        dspk,
        dmem,
        saved,
        None,
        beta,
        th,
        scalar(1.0, cur.dtype),
        dinput,
        None,
        dbeta,
        None,
        save_membrane=True,
        alpha=0.8,
        **options,
    )
    assert_close(dbeta, [0.4 * 2.0], cur.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_without_gradient(dtype):
    torch.manual_seed(0)
    cur = torch.rand(5, 37, device=DEVICE).to(dtype)
    spk, mem = cur.flatten().clone(), torch.zeros(37, device=DEVICE)
    beta, threshold = scalar(0.9, dtype), scalar(0.5, dtype)
    _triton.forward(
        spk, mem, beta, threshold, scalar(1.0, dtype), spk, None, None, num_steps=5, beta_inner=1, threshold_inner=1,
        surrogate=0, p0=1.0, p1=0.0, reset=1, relu=False, save_membrane=False,
    )  # fmt: skip
    mems = loop(cur.float(), torch.zeros_like(mem), beta, threshold, "subtract")
    assert torch.equal(spk.view(5, 37), (mems - 0.5 > 0).to(dtype)) and torch.equal(mem, mems[-1])


def test_no_neurons():
    none = torch.empty(0, device=DEVICE)
    options = dict(num_steps=3, beta_inner=1, threshold_inner=1, surrogate=0, p0=1.0, p1=0.0, reset=0, relu=False)
    one = torch.ones(1, device=DEVICE)
    _triton.forward(none, none, one, one, one, none, None, none, save_membrane=False, **options)
    _triton.backward(
        none, none, none, none, one, one, one, none, none, None, none, save_membrane=False, alpha=0.8, **options
    )


@pytest.mark.parametrize("size_class", range(0, 31, 5))
def test_a_few_configurations_are_tried_at_every_size(size_class):
    configs = [_triton.triton.Config({"BLOCK": 64 << i, "CHUNK": 4}, num_warps=1) for i in range(6)]
    blocks = [config.kwargs["BLOCK"] for config in _triton._worth_a_try(configs, {}, size_class=size_class)]
    assert len(blocks) == 3 and blocks == sorted(blocks, key=lambda block: abs(np.log2(2**size_class / block) - 9))


COMPILE = """
import sys
import torch, triton
from triton.backends.compiler import GPUTarget
from snntorch_bpsta.functional.kernels import triton as _triton

def ptx(kernel, types, fusion, **constants):
    ints = ("num_steps", "dmem_steps", "num_neurons", "stride", "size_class") + tuple(
        f"{p}_{what}" for p in ("beta", "threshold") for what in ("inner", "size"))
    types = dict.fromkeys(ints, "i32") | dict.fromkeys(("p0", "p1", "alpha"), "fp64") | types
    names = kernel.fn.arg_names
    signature = {name: types.get(name, "constexpr") for name in names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names)
               if signature[name].startswith("*") or name in ("num_neurons", "stride")}
    given = {(i,): constants.get(name) for i, name in enumerate(names) if signature[name] == "constexpr"}
    source = triton.compiler.ASTSource(kernel.fn, signature, given, aligned)
    options = {"num_warps": 4, "enable_fp_fusion": fusion}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]

common = dict(SURROGATE=2, RESET=0, BLOCK=512, CHUNK=2)
code = dict.fromkeys(("RELU", "SCALAR_BETA", "SCALAR_THRESHOLD"), True) | dict(MEMBRANE=False, SUM_INPUT=False)
membrane = dict.fromkeys(("RELU", "SCALAR_BETA", "SCALAR_THRESHOLD"), False) | dict(MEMBRANE=True, SUM_INPUT=True)
pointers = lambda dtype, *names: dict.fromkeys(names, "*" + dtype)
half = pointers("fp16", "input_", "spk", "dspk", "dinput") | pointers("fp32", "mem", "beta", "threshold", "factor")
parameters = "beta threshold factor"
full = pointers(
    "fp32", *f"input_ spk record mem dspk dmem dinput dmem0 dbeta dthreshold {parameters} saved".split())
for types, constants in ((half | pointers("bf16", "saved"), code), (full, membrane)):
    forward = ptx(_triton.lif_fwd_kernel, types, False, **common, **constants)
    assert "fma" not in forward
    assert "ld.global.v" in forward and "st.global.v" in forward
    assert "ld.global.v" in ptx(_triton.lif_bwd_kernel, types, True, **common, **constants)
"""


def test_compiles_for_hopper_without_one(tmp_path, monkeypatch):
    """The compiler is stricter than the interpreter. Nothing is fused, and accesses are wide where 16 divides N."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    subprocess.run([sys.executable, "-c", COMPILE], check=True)
