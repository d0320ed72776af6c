"""The Triton kernels against the loop in PyTorch: spikes and states to the bit, gradients within the table.

On a CUDA device where there is one, else in Triton's interpreter, which is slow: small shapes, odd on purpose, and options
that take turns in place of all their products. What the compiler makes of the kernels needs no GPU.
"""

import itertools
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from _engine import counting
from _pooling import same
from _tolerance import assert_close

from snntorch_bpsta import surrogate
from snntorch_bpsta.functional.cells import CELLS
from snntorch_bpsta.functional.multistep import multistep
from snntorch_bpsta.functional.record import Call, Neuron

pytest.importorskip("triton", minversion="3.4")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INTERPRET = "0" if DEVICE == "cuda" else "1"
with pytest.MonkeyPatch.context() as patch:  # read when the kernels are defined; not meant for the tests of others
    patch.setenv("TRITON_INTERPRET", INTERPRET)
    from snntorch_bpsta.functional.kernels import triton as calls

F32, F64, F16, BF16 = torch.float32, torch.float64, torch.float16, torch.bfloat16
RESETS = ("zero", "subtract", "none")
SURROGATES = {
    "spatial_adj": {"spatial_adj": True},
    "leaky": {"spatial_adj": surrogate.spatial_adjustment(leak=0.2)},
    "no leak": {"spatial_adj": surrogate.spatial_adjustment(leak=0.0)},
    "rectangle": {"spike_grad": surrogate.rectangle(0.7)},
    "atan": {"spike_grad": surrogate.ArcTangent(2.1)},
    "fast_sigmoid": {"spike_grad": surrogate.fast_sigmoid(slope=3.1)},
    "sigmoid": {"spike_grad": surrogate.Logistic(4.0)},
    "heaviside": {"spike_grad": surrogate.heaviside()},
    "straight_through": {"spike_grad": surrogate.straight_through_estimator()},
    "triangular": {"spike_grad": surrogate.triangular(threshold=0.6)},
    "spike_rate_escape": {"spike_grad": surrogate.spike_rate_escape(beta=0.9, slope=1.3)},
    "SFS": {"spike_grad": surrogate.SFS(slope=3.1, B=-0.2)},
    "one of the user's own": {"spike_grad": lambda x: _Cubic.apply(x)},
}  # fmt: skip
OURS = ("leaky", "rectangle", "atan", "sigmoid", "one of the user's own")  # snnTorch's have float32 derivatives
VALUES = {"beta": 0.7, "alpha": 0.6, "threshold": 0.4, "v": -0.4}


class _Cubic(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx, grad):
        return grad / (1 + ctx.saved_tensors[0].abs()) ** 3


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    """And `torch.empty` is filled with NaN, so that an output that a kernel did not write shows."""
    monkeypatch.setenv("TRITON_INTERPRET", INTERPRET)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(before)


def run(
    impl, cell, reset, *, dtype=F32, shape=(5, 3, 7), surrogate="atan", given=True, learn=False, wide=False, factor=1.0,
    steps=None, single=False, layout=None, loss=slice(None), **options,
):  # fmt: skip
    """Outputs of the door, and gradients of a weighted sum of some by name. The loop computes half precision in float32."""
    generator = torch.Generator().manual_seed(0)
    row, device = CELLS[cell], DEVICE if impl == "triton" else "cpu"
    neuron_options = {name: options.pop(name) for name in ("residual", "reset_delay") if name in options}
    wanted = F32 if impl == "reference" and dtype in (F16, BF16) else dtype
    state = F64 if dtype == F64 else F32

    def tensor(x, kind=wanted):
        x = x.to(dtype).to(device, kind)
        return x if layout is None or x.dim() < 4 else layout(x)

    low = 1.3 if reset == "none" else 0.9  # that not all fire
    leaves = {"input": tensor(torch.rand(shape, generator=generator, dtype=F64) * 2 - low)}
    for name in row.states:
        first = torch.rand(shape[0 if single else 1 :], generator=generator, dtype=F64)
        leaves |= {name: tensor((first > 0.5).double() if name == "spk" else first)} if given else {}
    values = VALUES | ({"alpha": 0.8} if row.alpha else {})
    for name, present in (("alpha", row.filter or row.alpha), ("v", row.recurrent)):
        if not present:
            del values[name]
    for name, value in values.items():
        some = value * torch.linspace(1, 1.1, shape[-1], dtype=F64) if wide else torch.tensor(value, dtype=F64)
        values[name] = some.to(device, state).requires_grad_(learn)
    leaves = {name: leaf.detach().requires_grad_() for name, leaf in leaves.items()}
    neuron = Neuron(
        cell, reset_mechanism=reset, factor=torch.tensor(factor, device=device), **SURROGATES[surrogate], **neuron_options,
        **values,
    )  # fmt: skip
    if impl == "reference":
        options |= {"save": None, "inplace": False}
    x = leaves["input"] * 1.0 if options.get("inplace") else leaves["input"]
    call = Call(x, tuple(leaves.get(n) for n in row.states), steps, impl=impl, single=single, **options)
    out = multistep(neuron, call)
    weights = [torch.randn(o.shape, generator=generator, dtype=F64).to(dtype).to(o) for o in out]
    leaves |= values if learn else {}
    grads = torch.autograd.grad(out[loss], list(leaves.values()), weights[loss], allow_unused=True)
    zeros = [
        torch.zeros_like(leaf) if grad is None else grad for leaf, grad in zip(leaves.values(), grads, strict=True)
    ]
    return [o.detach().cpu() for o in out], dict(zip(leaves, (grad.cpu() for grad in zeros), strict=True))


def check(cell, reset, *, coarse=None, **options):
    """The kernels against the loop; `coarse` is what the derivatives are kept in."""
    dtype = options.get("dtype", F32)
    expected, expected_grads = run("reference", cell, reset, **options)
    actual, grads = run("triton", cell, reset, **options)
    assert 0.03 < (expected[0] != 0).double().mean() < 0.97
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == dtype
        if DEVICE == "cpu" and dtype == BF16:  # the interpreter, not the GPU, cuts off where it should round
            assert_close(a, e, BF16)
        else:
            assert torch.equal(a, e.to(dtype))
    assert max(grad.abs().max() for grad in expected_grads.values()) > 0
    largest = expected_grads["input"].abs().max().item()
    for name, grad in grads.items():
        # Rounding is that of all the terms of a sum over neurons and steps.
        terms = actual[0].numel() if name in VALUES else 4
        assert_close(grad, expected_grads[name], coarse or dtype, max(largest, 1) * terms, name)


def turns(*lists):
    """Each of the `lists` goes round at its own pace: their lengths have no divisor in common."""
    return zip(*map(itertools.cycle, lists), strict=False)


FAMILY = [(*both, prompt) for both in itertools.product(CELLS, RESETS) for prompt in (False, True)]


@pytest.mark.parametrize(
    ("cell", "reset", "prompt", "surrogate", "relu", "record", "given"),
    [
        (*case, *turn)
        for case, turn in zip(
            FAMILY, turns(list(SURROGATES), (0, 1), (True, False, True), (1, 0, 1, 1, 1)), strict=False
        )
    ],
)
def test_family(cell, reset, prompt, surrogate, relu, record, given):
    residual = 0.6 if reset != "none" and cell != "Alpha" and not prompt else 0.0
    record = tuple(name for name in CELLS[cell].states if name != "spk") if record else ()
    factor = 1.0 if given else 1.5
    check(
        cell, reset, surrogate=surrogate, relu=bool(relu), record=record, given=bool(given), factor=factor,
        residual=residual, reset_delay=not prompt, wide=not relu,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("cell", "reset", "surrogate", "wide", "steps", "prompt"),
    [
        (*case[:2], *turn)
        for case, turn in zip(
            FAMILY[::2], turns(OURS, (False, True), (None, None, 6), (False,) * 6 + (True,)), strict=False
        )
    ],
)
def test_learned_parameters(cell, reset, surrogate, wide, steps, prompt):
    """In float64, where a term that is missing shows. `steps`: a constant current."""
    residual = 0.6 if reset != "none" and cell != "Alpha" and not prompt else 0.0
    shape = (5 if steps is None else 1, 3, 7)
    check(
        cell, reset, dtype=F64, shape=shape, steps=steps, surrogate=surrogate, learn=True, wide=wide, residual=residual,
        reset_delay=not prompt,
    )  # fmt: skip


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_surrogates(surrogate):
    check("Leaky", "zero", surrogate=surrogate, residual=0.8, record=("mem",))


@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_a_negative_residual(reset):
    check("Leaky", reset, surrogate="leaky", residual=-0.6, learn=True, dtype=F64)


CASES = {
    "float16": {"dtype": F16, "coarse": BF16, "record": ("mem",)},
    "float16, in place": {"dtype": F16, "coarse": BF16, "inplace": True, "relu": True},
    "float16, learned": {"dtype": F16, "coarse": BF16, "learn": True},
    "bfloat16": {"dtype": BF16, "coarse": BF16, "surrogate": "spatial_adj"},
    "bfloat16 code": {"save": "bfloat16", "coarse": BF16, "relu": True},
    "compact": {"save": "compact", "coarse": BF16, "surrogate": "spatial_adj"},
    "in place": {"inplace": True, "relu": True},
    "a constant current": {"shape": (1, 3, 7), "steps": 6, "relu": True},
    "a single step": {"shape": (3, 7), "single": True},
    "a single step, learned": {"shape": (3, 7), "single": True, "learn": True, "dtype": F64},
    "a single step, prompt": {"shape": (3, 7), "single": True, "reset_delay": False},
    "channels last": {"shape": (3, 2, 3, 2, 5), "layout": lambda x: x.movedim(-3, -1).contiguous().movedim(-1, -3)},
    "spikes only": {"loss": slice(0, 1)},
    "states only": {"loss": slice(1, None), "record": ("mem",)},
    "63 steps": {"shape": (63, 1, 3)},
    "a neuron": {"shape": (5, 1, 1)},
    "three blocks of neurons": {"shape": (2, 25, 41), "wide": True},
}


@pytest.mark.parametrize(
    ("cell", "case"), [(("Leaky", "RSynaptic", "Synaptic")[k % 3], c) for k, c in enumerate(CASES)]
)
def test_cases(cell, case):
    check(cell, "subtract", **CASES[case])


POOLS = {
    "max": {"layout": "channels last"},
    "rows and columns left over": {"window": (3, 3), "wide": "neuron"},
    "a long window": {"window": (1, 5), "wide": "channel", "learn": True, "dtype": F64},
    "average": {"kind": "average", "factor": 0.3},
    "average of three by three": {"kind": "average", "window": (3, 3), "factor": 0.3, "layout": "channels last"},
    "negative spikes": {"factor": -0.7, "record": True},
    "no spikes": {"factor": 0.0},
    "NaN": {"factor": float("nan"), "kind": "average"},
    "infinite": {"factor": float("inf")},
    "minus infinity": {"factor": float("-inf"), "kind": "average"},
    "float16": {"dtype": F16, "factor": 0.3},
    "float16, average": {"dtype": F16, "kind": "average", "factor": 0.3},
    "in place": {"inplace": True, "relu": True},
    "the code in bfloat16": {"save": "bfloat16"},
    "a constant current": {"constant": True},
    "states only": {"loss": "states"},
    "one sample": {"shape": (2, 1, 1, 2, 2)},
}


@pytest.mark.parametrize("case", POOLS)
@pytest.mark.parametrize("cell", ["Leaky", "RSynaptic"])
def test_pooling(cell, case, monkeypatch):
    """By the kernels, which PyTorch behind them is to equal to the bit: spikes, states and gradients."""
    options = {"impl": "triton", "cell": cell, "surrogate": "triangular", "given": "dtype" not in POOLS[case]} | POOLS[
        case
    ]
    counts = Counter()
    for name in ("max_pool2d", "avg_pool2d"):
        monkeypatch.setattr(torch.nn.functional, name, counting(getattr(torch.nn.functional, name), counts, name))
    got = same(**options | ({"surrogate": "spatial_adj"} if "save" in options else {}))
    assert sum(counts.values()) == 1, "PyTorch's behind, none inside"
    assert got["spk"].count_nonzero() or options.get("factor") == 0


def test_a_window_larger_than_a_block_is_left_to_pytorch():
    assert same(impl="triton", window=(7, 10))["spk"].shape[-2:] == (1, 1)


def test_the_gradient_of_the_last_membrane_of_alpha_alone():
    check("Alpha", "subtract", loss=slice(3, 4))


def test_a_range_of_steps(monkeypatch):
    """Three calls do what one does; the gradients of the parameters are added up. Forward with what is fed back, backward
    without: as an all-to-all recurrence asks."""
    x, g = (torch.rand(5, 3, 7, device=DEVICE, dtype=F64) for _ in range(2))
    fed, syn, mem = (torch.rand(3, 7, device=DEVICE, dtype=F64) for _ in range(3))
    values = {name: torch.tensor(VALUES[name], dtype=F64, device=DEVICE).requires_grad_() for name in ("beta", "alpha")}
    values |= {"threshold": torch.tensor(1.0).to(x), "v": torch.tensor(-0.4).to(x)}
    neuron = Neuron("RSynaptic", residual=0.5, **values)
    asked, forward = [], calls.forward
    monkeypatch.setattr(calls, "forward", lambda *arguments: asked.append(arguments) or forward(*arguments))
    multistep(neuron, Call(x, (fed, syn, mem), impl="triton"))
    t, c = asked[0][:2]

    def run_parts(*parts):
        states, dstates = [mem.clone(), syn.clone(), None, fed.clone()], [mem.clone(), syn.clone(), None, None]
        spk, record, saved, dx = torch.full((4, *x.shape), torch.nan).to(x)
        used, dparameters = x.new_empty(6), [x.new_zeros(3, 7) for _ in range(2)]
        for part in parts:
            forward(t, c, spk, states, [None, record, None], saved, used, False, part)
        known = t._replace(beta=None, alpha=None, threshold=None, v=None)
        for part in reversed(parts):
            calls.backward(
                known, c._replace(cell="Synaptic"), used, g, [None] * 3, saved, [None, record, None], (None, None), dx,
                dstates, [*dparameters, None, None, None], None, False, part,
            )  # fmt: skip
        return spk, record, saved, dx, *dparameters, *(x for x in (*states, *dstates) if x is not None)

    for one, three in zip(run_parts(None), run_parts((0, 1), (1, 4), (4, 5)), strict=True):
        assert not one.isnan().any()
        assert_close(three, one, F64)


def test_a_surrogate_that_learns():
    """What reaches the spikes from everywhere is the gradient of the width."""
    grads = []
    for impl in ("reference", "triton"):
        width = torch.tensor(1.5, dtype=F64, device=DEVICE, requires_grad=True)
        x = torch.rand(5, 3, 7, generator=torch.Generator().manual_seed(0), dtype=F64).to(DEVICE).requires_grad_()
        values = {name: torch.tensor(VALUES[name], dtype=F64, device=DEVICE) for name in ("beta", "threshold")}

        def fire(x, width=width):
            soft = torch.sigmoid(width * x)
            return (x > 0).to(x.dtype) + (soft - soft.detach())

        neuron = Neuron("Leaky", spike_grad=fire, residual=0.7, **values)
        spk, _ = multistep(neuron, Call(x, (torch.full_like(x[0], 0.6),), impl=impl))
        grads.append(torch.autograd.grad((spk * torch.linspace(-1, 2, 7).to(x)).sum(), (x, width)))
    for actual, expected in zip(grads[1], grads[0], strict=True):
        assert_close(actual, expected, F64, 10)


@pytest.mark.parametrize("beta", [-0.2, 1.3])
def test_decays_are_clipped(beta):
    x = torch.rand(5, 3, 7, device=DEVICE, requires_grad=True)
    values = {name: torch.tensor(value, device=DEVICE) for name, value in (("beta", beta), ("threshold", 0.8))}
    found = []
    for impl in ("reference", "triton"):
        out = multistep(Neuron("Leaky", **values), Call(x, (None,), impl=impl))
        found.append((*out, *torch.autograd.grad(out, x, [torch.ones_like(o) for o in out])))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
    assert_close(found[1][2], found[0][2], F32)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("save", ["float32", "bfloat16"])
def test_code(save, relu):
    """Every bit of it, and NaN stays NaN: neuron 3 has one in its current, 5 an infinity that is reset to 0 * inf, to
    which x86 gives a sign."""
    x = torch.rand(6, 1, 9, device=DEVICE) * 1.4 - 0.4
    x[2, 0, 3], x[1, 0, 5] = torch.nan, torch.inf
    values = {name: torch.tensor(value, device=DEVICE) for name, value in (("beta", 0.9), ("threshold", 0.5))}
    neuron = Neuron("Leaky", reset_mechanism="zero", **SURROGATES["atan"], **values)
    mem = multistep(neuron, Call(x, (None,), relu=relu, record=("mem",), impl="reference"))[1]
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        call = Call(x.requires_grad_(), (None,), relu=relu, save=save, impl="triton")
        spk, last = multistep(neuron, call)
    words, nan, fired = kept[-1], mem.isnan(), mem - 0.5 > 0
    bits = words.view(torch.int32 if save == "float32" else torch.int16)
    assert torch.equal(spk, fired.float()) and torch.equal(bits < 0, fired)
    assert nan[2:, 0, [3, 5]].all() and torch.equal(words.isnan(), nan) and torch.equal(last.isnan(), nan[-1])
    s = 2.1 / 2 / (1 + (torch.pi / 2 * 2.1 * (mem - 0.5)) ** 2)
    assert_close(words[~nan].abs(), s[~nan], words.dtype)
    if relu:
        assert torch.equal((bits & 1).bool(), ~(x <= 0))
    elif save == "float32":
        assert (bits & 1).any()
    elif DEVICE == "cuda":  # to nearest even; one unit for a derivative that rounded differently
        assert ((bits & 0x7FFF) - s.to(BF16).view(torch.int16))[~nan].abs().max() <= 1


def test_a_derivative_that_is_zero():
    """Silent neurons with a positive input: the lowest bit alone is no derivative."""
    x = torch.full((1, 1, 4), 0.1, device=DEVICE, requires_grad=True)
    values = {name: torch.tensor(value, device=DEVICE) for name, value in (("beta", 0.9), ("threshold", 0.5))}
    spk, _ = multistep(Neuron("Leaky", spatial_adj=True, **values), Call(x, (None,), relu=True, impl="triton"))
    assert (torch.autograd.grad(spk, x, torch.full_like(spk, 1e38))[0] == 0).all()


# --- configurations -------------------------------------------------------------------------------


@pytest.fixture
def on_a_gpu(monkeypatch):
    monkeypatch.setattr(calls.triton.knobs.runtime, "interpret", False)


def sizes(*arguments):
    return [(c.kwargs["BLOCK"], c.num_warps, c.kwargs["CHUNK"]) for c in calls.configurations(*arguments)]


@pytest.mark.parametrize(
    ("neurons", "steps", "rows", "expected"),
    [
        (8192, 500, 2, [(32, 1, 16), (32, 1, 32), (64, 1, 8)]),
        (8192, 100, 1, [(32, 1, 16), (64, 1, 8)]),
        (8192, 100, 4, [(32, 1, 8), (64, 1, 4)]),
        (8192, 5, 2, [(32, 1, 8), (64, 1, 8)]),
        (2**16 + 1, 500, 2, [(256, 2, 4)]),
        (2**20, 1, 2, [(256, 2, 1)]),
        (2**20, 500, 9, [(256, 2, 1)]),
    ],
)
def test_configurations(on_a_gpu, neurons, steps, rows, expected):
    assert sizes(neurons, steps, rows) == expected


def test_the_fastest_is_found_once_and_on_copies(on_a_gpu, monkeypatch):
    started = []
    monkeypatch.setattr(calls, "_start", lambda kernel, config, arguments: started.append((config, arguments)))
    monkeypatch.setattr(calls, "_fastest", {})

    def bench(function):
        function()
        return started[-1][0].kwargs["BLOCK"] != 64

    monkeypatch.setattr(calls.triton.testing, "do_bench", bench)
    x, configs = torch.zeros(5), calls.configurations(8192, 100, 2)
    for _ in range(2):
        config = calls._choose("kernel", configs, {"input_": x, "num_neurons": 8192, "stop": len(started)})
        assert config.kwargs["BLOCK"] == 64
    assert len(started) == len(configs) and all(arguments["input_"] is not x for _, arguments in started)
    calls._choose("kernel", configs, {"input_": x.half(), "num_neurons": 8192, "stop": 1})
    assert len(started) == 2 * len(configs)


COMPILE = """
import itertools
from benchmarks import static_gpu
from snntorch_bpsta.functional.kernels import triton as calls, triton_template as kernels

kinds = itertools.cycle(("frozen", "learned"))
cases = [*itertools.product(static_gpu.cells.CELLS, ("zero", "subtract", "none")), ("Leaky", "zero")]
for (cell, reset), kind in zip(cases, (*itertools.islice(kinds, len(cases) - 1), "half")):
    for kernel, rows in ((kernels.forward_kernel, 1), (kernels.backward_kernel, 4)):
        config, = calls.configurations(2**20, 16, rows)
        made = static_gpu.figures(static_gpu.compiled(kernel, cell, reset, kind, config))
        assert made["spilled"] == 0 and made["vectors"], (cell, reset, kind, made)
        assert kernel is kernels.backward_kernel or made["fused"] == 0, (cell, reset, kind, made)
for window in ((2, 2), (3, 3)):
    for kernel, rows in ((kernels.forward_kernel, 1), (kernels.backward_kernel, 2)):
        config, = calls.configurations(2**20, 16, rows, True)
        made = static_gpu.figures(static_gpu.compiled(kernel, "Leaky", "zero", "frozen", config, window))
        assert made["spilled"] == 0 and made["registers"] <= 64, (window, made)
"""


def test_compiles_for_hopper_without_one(tmp_path, monkeypatch):
    """The compiler is stricter than the interpreter. Nothing spills, nothing is fused forward, and loads are wide where 16
    divides N."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("TRITON_INTERPRET")
    subprocess.run([sys.executable, "-c", COMPILE], check=True, cwd=Path(__file__).parents[1])


LAUNCH = """
import itertools
from types import SimpleNamespace
import torch, triton
from triton.backends.compiler import GPUTarget
from snntorch_bpsta.functional import lif_multistep, plan
from snntorch_bpsta.functional.kernels import triton as calls

class Launcher:
    launched = []

    def __init__(self, src, metadata):
        self.names = list(src.signature)

    def __call__(self, x, y, z, stream, function, metadata, launch_metadata, enter, leave, *values):
        told = [(v.shape, v.dtype, v.data_ptr() % 16) if isinstance(v, torch.Tensor) else v for v in values]
        self.launched.append((x, y, z, function, *zip(self.names, told, strict=True)))

functions = itertools.count(1)
utils = SimpleNamespace(
    get_device_properties=lambda device: {"max_shared_mem": 2**18},
    load_binary=lambda *arguments: ("module", next(functions), 32, 0, 1024),
)
triton.runtime.driver.set_active(SimpleNamespace(
    get_current_target=lambda: GPUTarget("cuda", 90, 32), get_current_device=lambda: 0, launcher_cls=Launcher, utils=utils,
    get_current_stream=lambda device=None: 0,
))
plan._not_covered = lambda *arguments: None

def currents(steps, neurons, first=0):
    return torch.rand(steps * neurons + first)[first:].view(steps, 1, neurons).requires_grad_()

N = 2**16
PAPER = {"threshold": 0.5, "reset_mechanism": "zero"}
cases = [
    (currents(2, N + 16), {}),
    (currents(2, N + 17), {}),
    (currents(5, N + 32), {}),
    (currents(1, 2 * N), {}),
    (currents(2, N + 16, first=1), {}),
    (currents(2, N + 16).double(), {}),
    (currents(2, N + 16), {"beta": torch.rand(N + 16)}),
    (currents(2, N + 16), {"threshold": torch.rand(3)[1].requires_grad_()}),
    (currents(2, N + 16), {"mem": torch.rand(1, N + 17)[:, 1:], "record_mem": True}),
    (currents(2, N + 16), {"temporal_alpha": 0.3, **PAPER}),
    (currents(2, N + 16), {"temporal_alpha": -0.4, **PAPER}),
    (currents(2, N + 16), {"spatial_adj": True, **PAPER}),
]

def launches(case):
    Launcher.launched.clear()
    x, options = cases[case]
    lif_multistep(x, **{"beta": 0.9, "impl": "triton"} | options).spk.sum().backward()
    return list(Launcher.launched)

by_triton, everything = [], {}
for case in range(len(cases)):
    by_triton.append(launches(case))
    assert len(by_triton[-1]) == len(calls._compiled) == 2
    everything |= calls._compiled
    calls._compiled.clear()
assert len({launch[3] for each in by_triton for launch in each}) >= 14
calls._compiled.update(everything)
for kernel in (calls.forward_kernel, calls.backward_kernel):
    kernel.run = None  # of Triton, which looks for the compiled kernel
for case, expected in enumerate(by_triton):
    assert launches(case) == expected, case
"""


def test_what_is_looked_up_is_launched_as_triton_launches_it(tmp_path, monkeypatch):
    """On a driver that notes what it is to launch: the same binary, blocks and arguments."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("TRITON_INTERPRET")
    subprocess.run([sys.executable, "-c", LAUNCH], check=True, cwd=Path(__file__).parents[1])
