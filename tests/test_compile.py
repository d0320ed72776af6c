"""The engine as a citizen of PyTorch: torch.library, torch.compile, torch.export, autocast, torch.func, CUDA graphs.

Backend "aot_eager" traces and partitions as "inductor" does, and runs the graph as it is: what is asked here is whether
the operator is described rightly, not what the compiler makes of the rest.
"""

import copy
import pickle
import shutil
from contextlib import contextmanager

import pytest
import torch
from _tolerance import assert_close
from _versions import TORCH
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import FakeTensorMode

import snntorch_bpsta as snn
from snntorch_bpsta.functional import lif_multistep, passes
from snntorch_bpsta.functional.cells import CELLS
from snntorch_bpsta.functional.record import NAMES

F32, F64, BF16 = torch.float32, torch.float64, torch.bfloat16
PAPER = {"threshold": 0.5, "reset_mechanism": "zero", "spatial_adj": True, "temporal_alpha": 0.8}
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def currents(*shape, seed=0, dtype=F32, device="cpu", scale=1.2, low=-0.2):
    x = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=F64) * scale + low
    return x.to(device, dtype)


# --- torch.library --------------------------------------------------------------------------------


def operands(
    *, shape=(5, 2, 3, 4), dtype=F32, mem=True, beta=(), threshold=(), num_steps=None, surrogate=0, p0=0.0, p1=0.0,
    relu=False, save="float32", record=(), channels_last=False, learn=(), inner=1, cell="Leaky", reset="zero",
):  # fmt: skip
    """Arguments of ``snntorch_bpsta::neuron``; see functional/passes.py."""
    state = F64 if dtype == F64 else F32
    x = currents(*shape, dtype=dtype)
    if channels_last:
        x = x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, x.shape[:2])
    x = x.detach().requires_grad_("input" in learn or not learn)
    beta = torch.tensor(beta or 0.9, dtype=state).requires_grad_("beta" in learn)
    threshold = torch.tensor(threshold or 0.5, dtype=state).requires_grad_("threshold" in learn)
    row = CELLS[cell]
    alpha = torch.tensor(0.8, dtype=state) if row.filter or row.alpha else None
    tau = torch.tensor(1.5, dtype=state) if row.alpha else None
    v = torch.tensor(0.3, dtype=state) if row.recurrent else None
    names = [NAMES[name] for name in row.states]
    states = [
        currents(*shape[1:], seed=k, dtype=dtype).requires_grad_("mem" in learn) if mem and name in names else None
        for k, name in enumerate(passes.STATES)
    ]
    t = passes.Tensors(x, *states, beta, alpha, tau, threshold, v, torch.ones((), dtype=state))
    residual = 0.0 if row.alpha else 0.8
    return t, passes.Constants(
        cell, reset, False, surrogate, p0, p1, residual, False, num_steps or shape[0], [inner] * 5, relu, save, [*record],
        False, "cpu",
    )  # fmt: skip


@contextmanager
def unwritten_shows():
    """`torch.empty` is filled with NaN, so that an output that a kernel did not write shows."""
    before = torch.utils.deterministic.fill_uninitialized_memory, torch.are_deterministic_algorithms_enabled()
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = before[0]
        torch.use_deterministic_algorithms(before[1])


ALL = ("input", "mem", "beta", "threshold")
OPERATOR = {
    "nothing kept": {"save": "none", "learn": ("nothing",)},
    "float32": {},
    "float64": {"dtype": F64, "save": "float32"},
    "bfloat16 code": {"save": "bfloat16"},
    "bfloat16": {"dtype": BF16, "save": "bfloat16"},
    "bfloat16, record": {"dtype": BF16, "save": "bfloat16", "record": ("mem",)},
    "float16": {"dtype": torch.float16, "save": "bfloat16", "learn": ("input", "mem", "threshold")},
    "record": {"record": ("mem",)},
    "record is kept": {"record": ("mem",), "save": "membrane"},
    "membrane": {"save": "membrane", "surrogate": 2, "p0": 2.0, "learn": ALL},
    "membrane, record": {"save": "membrane", "record": ("mem",), "surrogate": 2, "p0": 2.0, "learn": ALL},
    "relu": {"relu": True},
    "relu, bfloat16 code": {"relu": True, "save": "bfloat16", "surrogate": 3, "p0": 5.0},
    "no membrane": {"mem": False},
    "constant": {"shape": (1, 2, 3, 4), "num_steps": 5},
    "constant, learnable": {"shape": (1, 2, 3, 4), "num_steps": 5, "save": "membrane", "learn": ALL},
    "per channel": {"beta": [0.9, 0.5, 0.1], "threshold": [0.5, 0.6, 0.7], "inner": 4, "learn": ("threshold",)},
    "per channel, learnable": {
        "beta": [0.9, 0.5, 0.1], "threshold": [0.5, 0.6, 0.7], "inner": 4, "learn": ALL, "save": "membrane",
    },
    "channels last": {"channels_last": True, "shape": (5, 2, 3, 4, 6), "learn": ("input", "mem", "threshold")},
    "synaptic": {"cell": "Synaptic", "record": ("syn",)},
    "alpha": {"cell": "Alpha", "surrogate": 2, "p0": 2.0},
    "recurrent": {"cell": "RSynaptic", "reset": "subtract", "learn": ("input", "mem", "threshold")},
    "one step": {"shape": (1, 2, 3)},
    "empty": {"shape": (5, 0, 3)},
}  # fmt: skip


@pytest.mark.parametrize("case", OPERATOR)
def test_operator(case):
    """Schema, fake implementation (shapes, strides, dtypes), autograd registration, AOT with dynamic shapes."""
    t, c = operands(**OPERATOR[case])
    with unwritten_shows():
        *outputs, values = torch.ops.snntorch_bpsta.neuron(*t, *c)
    for output in outputs if t.input.numel() == 0 else [*outputs, values]:
        assert not output.isnan().any()
    torch.library.opcheck(torch.ops.snntorch_bpsta.neuron.default, (*t, *c))


@pytest.mark.parametrize("case", [case for case in OPERATOR if case != "nothing kept"])
def test_operator_of_the_backward_pass(case):
    t, c = operands(**OPERATOR[case])
    made = [each.detach() for each in torch.ops.snntorch_bpsta.neuron(*t, *c)]
    spk, *states, saved, values = made
    outputs = passes.layout(t, c).outputs
    grads = [torch.randn(each.shape).to(each) for each in (spk, *states[: len(outputs)])]
    records = [each if name in c.record else None for name, each in zip(passes.STATES, states, strict=False)]
    wide = [None if each is None or each.numel() == 1 else each.detach() for each in t[5:10]]
    first = [None if each is None else each.detach() for each in t[1:5]]
    need = [*(each is not None for each in first), c.save == "membrane", False, False, True, False, False]
    kept = [saved if saved.numel() or not c.record else None, *records, None, None]
    torch.library.opcheck(
        torch.ops.snntorch_bpsta.neuron_backward.default,
        (grads, kept, values, torch.empty_like(t.input.detach()), need, *first, *wide, *c),
        test_utils=("test_schema", "test_faketensor"),
    )


LAYOUTS = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, x.shape[:2]),
    "batch first": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "expanded": lambda x: x[:1].expand_as(x),
}


@pytest.mark.parametrize("dtype", [F32, F64, BF16], ids=str)
@pytest.mark.parametrize(
    "options", [{}, {"record_mem": True}, {"relu": True}, {"beta": torch.full((3, 1, 1), 0.9)}], ids=lambda o: str([*o])
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_fake_tensors_have_the_shape_of_real_ones(layout, options, dtype):
    options = {"beta": 0.9} | PAPER | options
    if isinstance(options["beta"], torch.Tensor):
        options["beta"] = options["beta"].to(dtype)
    x = LAYOUTS[layout](currents(4, 2, 3, 5, 6, dtype=dtype))
    real = lif_multistep(x.requires_grad_(), impl="cpu", **options)
    mode = FakeTensorMode()
    with mode:
        fake_x = mode.from_tensor(x)
        options = {k: mode.from_tensor(v) if isinstance(v, torch.Tensor) else v for k, v in options.items()}
        options |= {"threshold": 0.5, "spatial_adj": False}  # whose check looks at the threshold's value
        fake = lif_multistep(fake_x, impl="cpu", **options)
    for got, expected in zip(fake, real, strict=True):
        assert (got.shape, got.stride(), got.dtype) == (expected.shape, expected.stride(), expected.dtype)


def test_on_the_meta_device():
    out = lif_multistep(torch.empty(4, 3, 5, device="meta"), beta=0.9, num_steps=4)
    assert out.spk.shape == (4, 3, 5) and out.mem.shape == (3, 5) and out.spk.is_meta


# --- torch.compile --------------------------------------------------------------------------------


class Wrapped(nn.Module):
    """A neuron by its `sequence`, whose hidden membrane is a state of the module."""

    def __init__(self, **options):
        super().__init__()
        self.linear, self.neuron = nn.Linear(6, 9), snn.Leaky(beta=0.9, **options)

    def forward(self, x):
        spk, mem = self.neuron.sequence(self.linear(x))
        return spk + mem


class Hidden(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = snn.MultiStep(
            nn.Linear(6, 9), nn.ReLU(), snn.Leaky(beta=0.9, init_hidden=True, **PAPER), nn.Linear(9, 4)
        )

    def forward(self, x):
        self.net[2].reset_mem()
        return self.net(x)


def learnable():
    return snn.MultiStep(
        nn.Linear(6, 9),
        snn.Leaky(
            beta=torch.linspace(0.1, 1.05, 9),
            threshold=torch.linspace(0.3, 0.7, 9),
            spike_grad=snn.surrogate.fast_sigmoid(slope=5),
            learn_beta=True,
            learn_threshold=True,
        ),
        nn.Linear(9, 4),
        nn.ReLU(),
        snn.Leaky(beta=0.8, threshold=0.5, learn_beta=True),
    )


def conv(**options):
    return snn.MultiStep(
        snn.layers.ConvBlock(2, 4, snn.Leaky(beta=0.9, **PAPER | options)),
        nn.MaxPool2d(2),
        snn.layers.ConvBlock(4, 3, snn.Leaky(beta=0.9, **PAPER | options)),
        nn.Flatten(),
        nn.Linear(3 * 4 * 4, 10),
        snn.Leaky(beta=0.9, **PAPER | options),
        snn.layers.Voting(5),
    )


def static():
    """Direct encoding: one step becomes five in the neuron."""
    return snn.MultiStep(
        snn.layers.ConvBlock(2, 4, snn.Leaky(beta=0.9, **PAPER), num_steps=5), nn.Flatten(), nn.Linear(256, 5),
        snn.Leaky(beta=0.9, **PAPER),
    )  # fmt: skip


NETS = {
    "linear": (lambda: snn.MultiStep(nn.Linear(6, 9), nn.ReLU(), snn.Leaky(beta=0.9, **PAPER)), (5, 3, 6)),
    "sequence": (lambda: Wrapped(**PAPER), (5, 3, 6)),
    "learnable": (learnable, (5, 3, 6)),
    "conv": (conv, (5, 3, 2, 8, 8)),
    "conv in bfloat16 words": (lambda: conv(save="bfloat16"), (5, 3, 2, 8, 8)),
    "static": (static, (1, 3, 2, 8, 8)),
    "init_hidden": (Hidden, (5, 3, 6)),
}


def training_step(net, x):
    net.zero_grad()
    x = x.detach().clone().requires_grad_()
    out = net(x)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    (out * weight).sum().backward()
    return {"out": out.detach(), "input": x.grad} | {
        name.removeprefix("_orig_mod."): p.grad for name, p in net.named_parameters()
    }


def assert_alike(actual, expected, row=F32):
    """The same spikes, and gradients within the table; measured against the largest (that of a bias in front of a batch
    norm is zero but for rounding)."""
    assert actual.keys() == expected.keys()
    assert torch.equal(actual["out"], expected["out"])
    largest = max(value.abs().max().item() for value in expected.values())
    for name, value in expected.items():
        assert_close(actual[name], value, row, largest, name)


def built(name):
    torch.manual_seed(0)
    build, shape = NETS[name]
    return build(), currents(*shape, scale=2.0, low=-0.5)


@pytest.mark.parametrize("name", NETS)
def test_compiled_whole_is_eager(name):
    """No graph break; twice, so that state and memory that was written over do not show either."""
    net, x = built(name)
    twin = copy.deepcopy(net)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(net, backend=counter, fullgraph=True)
    for seed in (0, 1):
        x = currents(*x.shape, seed=seed, scale=2.0, low=-0.5)
        expected = training_step(twin, x)
        assert_alike(training_step(compiled, x), expected)
        assert expected["out"].any() and expected["input"].any()
    assert counter.frame_count == (2 if name == "init_hidden" else 1)  # its membrane is empty before the first call
    operators = [node.target for node in counter.graphs[0].graph.nodes]
    neurons = sum(isinstance(module, snn.Leaky) for module in net.modules())
    assert operators.count(torch.ops.snntorch_bpsta.neuron.default) == neurons
    for mine, other in zip(net.buffers(), twin.buffers(), strict=True):
        assert_close(mine, other, F32)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_inductor():
    net, x = built("linear")
    expected = training_step(copy.deepcopy(net), x)
    compiled = torch.compile(net, fullgraph=True)
    actual = training_step(compiled, x)
    assert_alike(actual, expected)
    assert_alike(training_step(compiled, x), actual)


@pytest.mark.parametrize("name", ["linear", "conv", "learnable"])
def test_other_batch_sizes_are_compiled_twice_at_most(name):
    net, x = built(name)
    twin = copy.deepcopy(net)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(net, backend=counter, fullgraph=True)
    for batch in (3, 5, 7):
        batch_of = currents(x.shape[0], batch, *x.shape[2:], seed=batch, scale=2.0, low=-0.5)
        assert_alike(training_step(compiled, batch_of), training_step(twin, batch_of))
    assert counter.frame_count <= 2


@pytest.mark.parametrize("name", ["linear", "learnable"])
def test_dynamic_shapes_are_compiled_once(name):
    """Any number of steps and any batch: T is no constant of the graph either."""
    net, x = built(name)
    twin = copy.deepcopy(net)
    counters.clear()
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True, dynamic=True)
    for steps, batch in ((5, 3), (4, 7), (9, 2)):
        x = currents(steps, batch, *x.shape[2:], seed=batch, scale=2.0, low=-0.5)
        assert_alike(training_step(compiled, x), training_step(twin, x))
    assert counters["stats"]["unique_graphs"] == 1


def test_without_a_gradient():
    net, x = built("conv")
    net.eval()
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            expected, actual = net(x), compiled(x)
        assert torch.equal(actual, expected) and not actual.requires_grad


def test_the_recorded_membrane():
    def function(x, mem):
        out = lif_multistep(x, mem, beta=0.9, record_mem=True, **PAPER)
        return (out.spk * out.mem.tanh()).sum() + out.mem.square().sum()

    x, mem = currents(5, 3, 6).requires_grad_(), currents(3, 6, seed=1).requires_grad_()
    expected = torch.autograd.grad(function(x, mem), (x, mem))
    actual = torch.autograd.grad(torch.compile(function, backend="aot_eager", fullgraph=True)(x, mem), (x, mem))
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b, F32, b.abs().max().item())


def test_gradients_twice():
    """Nothing is written over what a second backward pass reads."""
    net, x = built("linear")
    x.requires_grad_()
    out = torch.compile(net, backend="aot_eager", fullgraph=True)(x)
    first, second = (torch.autograd.grad(out.sum(), x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second) and first.any()


def test_inplace_under_compile_is_right_and_copies():
    """The compiler plans memory itself."""

    def function(x):
        return lif_multistep(x * 2, beta=0.9, inplace=True, relu=True, **PAPER).spk

    x = currents(5, 3, 6).requires_grad_()
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x), function(x))
    assert_close(
        torch.autograd.grad(compiled(x).sum(), x)[0],
        torch.autograd.grad(function(x).sum(), x)[0],
        F32,
    )


@pytest.mark.parametrize("through", ["door", "module"])
def test_compact_is_refused(through):
    neuron = snn.Leaky(beta=0.9, save="compact", **PAPER)

    def function(x):
        if through == "module":
            return neuron.sequence(x)[0]
        return lif_multistep(x, beta=0.9, save="compact", impl="cpu", **PAPER).spk

    x = currents(5, 3, 6).requires_grad_()
    expected = function(x)
    compiled = torch.compile(function, backend="aot_eager")
    if through == "door":
        with pytest.raises(Exception, match="compact.*torch.compile"):
            compiled(x)
    else:  # "auto" goes to the reference
        assert torch.equal(compiled(x), expected)


def test_compact_by_name_raises_not_implemented():
    @torch.compile(backend="aot_eager")
    def function(x):
        return lif_multistep(x, beta=0.9, save="compact", impl="cpu", **PAPER).spk

    with pytest.raises(NotImplementedError, match="save='compact' under torch.compile: its size depends on the spikes"):
        function(currents(5, 3, 6).requires_grad_())


def test_a_misspelt_or_wrong_option_is_refused_under_compile():
    for wrong in ({"beta": 0.9, "reset": "zero"}, {"beta": 0.9, "reset_mechanism": "hard"}):
        with pytest.raises(Exception, match="reset" if TORCH >= (2, 7) else "reset|Observed exception"):
            torch.compile(lambda x, o=wrong: lif_multistep(x, **o).spk, backend="aot_eager", fullgraph=True)(
                currents(2, 3, 4)
            )


@pytest.mark.skipif(
    (2, 11) <= TORCH <= (2, 13), reason="torch 2.11 to 2.13: an export of a convolution with any batch fails"
)
def test_export():
    net, x = built("conv")
    net.eval()
    program = torch.export.export(net, (x,), dynamic_shapes=({1: torch.export.Dim("batch", min=2)},))
    targets = [node.target for node in program.graph.nodes]
    assert targets.count(torch.ops.snntorch_bpsta.neuron.default) == 3
    for batch in (3, 6):
        x = currents(5, batch, *x.shape[2:], seed=batch, scale=2.0, low=-0.5)
        assert torch.equal(program.module()(x), net(x))


# --- autocast -------------------------------------------------------------------------------------


class Recording(nn.Module):
    """Linear -> Leaky -> Linear that shows the dtypes in between."""

    def __init__(self, **options):
        super().__init__()
        self.first, self.last = nn.Linear(6, 9), nn.Linear(9, 4)
        self.neuron = snn.Leaky(beta=torch.linspace(0.1, 0.95, 9), threshold=torch.full((9,), 0.4), **options)

    def forward(self, x, mem=None):
        cur = self.first(x)
        spk, mem = self.neuron.sequence(cur, mem)
        return self.last(spk), cur, spk, mem


AUTOCAST = {
    "paper": {"reset_mechanism": "zero", "spatial_adj": True, "temporal_alpha": 0.8},
    "host": {},
    "learnable": {"learn_beta": True, "learn_threshold": True, "temporal_alpha": 0.8},
}


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("mem", [False, True], ids=["", "mem"])
@pytest.mark.parametrize("name", AUTOCAST)
def test_autocast_keeps_the_dtype_of_the_current(name, mem, compiled):
    """With beta, threshold and membrane in float32, which outside of autocast would lift it to float32."""
    torch.manual_seed(0)
    net = Recording(**AUTOCAST[name])
    function = torch.compile(net, backend="aot_eager", fullgraph=True) if compiled else net
    x, mem = currents(5, 3, 6, scale=3.0), currents(3, 9, seed=1).requires_grad_() if mem else None
    with torch.autocast("cpu", dtype=BF16):
        out, cur, spk, last = function(x, mem)
    assert out.dtype == cur.dtype == spk.dtype == last.dtype == BF16
    out.float().sum().backward()
    for parameter in net.parameters():
        assert parameter.grad.dtype == F32 and parameter.grad.isfinite().all()
    if mem is not None:
        assert mem.grad.dtype == F32 and mem.grad.any()
    options = {name: value for name, value in AUTOCAST[name].items() if not name.startswith("learn")}
    expected = lif_multistep(
        cur.detach().float(), mem, beta=net.neuron.beta, threshold=net.neuron.threshold, impl="reference", **options
    )
    assert torch.equal(spk, expected.spk.to(BF16)) and torch.equal(last, expected.mem.to(BF16)) and spk.any()


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_autocast_leaves_a_float32_current_alone(compiled):
    """The state too stays in float32: nothing is lost where the layer in front is not cast."""
    neuron = snn.Leaky(beta=0.9, **PAPER)

    def function(x):
        return neuron.sequence(x)

    function = torch.compile(function, backend="aot_eager", fullgraph=True) if compiled else function
    x = currents(5, 3, 6).requires_grad_()
    expected = neuron.sequence(x)
    (grad,) = torch.autograd.grad(expected[0].sum(), x)
    with torch.autocast("cpu", dtype=BF16):
        spk, mem = function(x)
    assert spk.dtype == mem.dtype == F32
    assert torch.equal(spk, expected[0]) and torch.equal(mem, expected[1])
    assert_close(torch.autograd.grad(spk.sum(), x)[0], grad, F32)


def test_a_half_current_with_wide_parameters_goes_to_the_reference_outside_of_autocast():
    """Which follows PyTorch's promotion, as the host does."""
    x, beta = currents(5, 3, 9, dtype=BF16), torch.linspace(0.1, 0.9, 9)
    assert snn.functional.which_impl(x, beta=beta) == "reference"
    assert lif_multistep(x, beta=beta).spk.dtype == F32
    with torch.autocast("cpu", dtype=BF16):
        assert snn.functional.which_impl(x, beta=beta) == "cpu"
        assert lif_multistep(x, beta=beta).spk.dtype == BF16


def test_training_under_autocast_and_compile():
    net, x = built("conv")
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    with torch.autocast("cpu", dtype=BF16):
        actual = training_step(compiled, x)
        expected = training_step(net, x)
    assert_alike(actual, expected, BF16)


# --- modules --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETS)
def test_copies_and_pickles(name):
    """Of a net that has run: what a call leaves behind can be copied, and a copy does what the original does."""
    net, x = built(name)
    with torch.no_grad():
        net(x)  # before: a net that keeps a graph in its hidden state cannot be copied, as in the host
    others = [copy.deepcopy(net), pickle.loads(pickle.dumps(net))] if name != "learnable" else [copy.deepcopy(net)]
    expected = training_step(net, x)
    for other in others:
        assert_alike(training_step(other, x), expected)
        assert not {id(p) for p in net.parameters()} & {id(p) for p in other.parameters()}


@pytest.mark.parametrize("name", ["linear", "learnable", "conv"])
def test_functional_call(name):
    net, x = built(name)
    parameters = {k: v.detach().clone().requires_grad_() for k, v in net.named_parameters()}
    buffers = {k: v.detach().clone() for k, v in net.named_buffers()}
    expected = training_step(copy.deepcopy(net), x)
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
    actual = training_step(Functional(net, parameters, buffers), x)
    assert torch.equal(actual["out"], expected["out"])
    for key, value in parameters.items():
        assert_close(value.grad, expected[key], F32, expected[key].abs().max().item() + 1, key)
    assert all(p.grad is None for p in net.parameters())


class Functional(nn.Module):
    def __init__(self, net, parameters, buffers):
        super().__init__()
        self.call = lambda x: torch.func.functional_call(net, (parameters, buffers), (x,))

    def forward(self, x):
        return self.call(x)


def test_torch_func_grad():
    """A transform that differentiates by itself gives the gradient of autograd."""

    def loss(x):
        return (lif_multistep(x, beta=0.9, **PAPER).spk * currents(5, 3, 6, seed=2)).sum()

    x = currents(5, 3, 6)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(leaf), leaf)
    assert_close(torch.func.grad(loss)(x), expected, F32, expected.abs().max().item())
    assert expected.any()


# --- CUDA -----------------------------------------------------------------------------------------


CUDA = {
    "linear": NETS["linear"],
    "conv": NETS["conv"],
    "conv in bfloat16 words": NETS["conv in bfloat16 words"],
    "learnable": NETS["learnable"],
}


@needs_cuda
@pytest.mark.parametrize("name", CUDA)
def test_cuda_graph_of_forward_and_backward(name):
    """Captured once, replayed on other numbers: equal to eager."""
    net, x = built(name)
    net, x = net.cuda(), x.cuda()
    twin = copy.deepcopy(net)
    graphed = torch.cuda.make_graphed_callables(net, (x.clone().requires_grad_(),))
    for each in (net, twin):
        for module in each.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
    for seed in (3, 4):
        other = currents(*x.shape, seed=seed, device="cuda", scale=2.0, low=-0.5)
        assert_alike(training_step(graphed, other), training_step(twin, other), F32)


@needs_cuda
def test_cuda_graph_by_hand():
    x = currents(8, 4, 1000, device="cuda").requires_grad_()
    options = {"beta": 0.9, "impl": "triton"} | PAPER

    def step():
        (grad,) = torch.autograd.grad(lif_multistep(x, **options).spk.sum(), x)
        return grad

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        grad = step()
    with torch.no_grad():
        x.copy_(currents(8, 4, 1000, seed=5, device="cuda"))
    graph.replay()
    assert torch.equal(grad, step()) and grad.any()


@needs_cuda
@pytest.mark.parametrize("options", [{}, {"relu": True}, {"save": "bfloat16"}, {"record_mem": True}], ids=str)
def test_the_device_is_not_waited_for(options):
    x = currents(8, 4, 1000, device="cuda").requires_grad_()
    beta, threshold = (torch.tensor(value, device="cuda") for value in (0.9, 0.5))
    options = {"beta": beta, "threshold": threshold, "reset_mechanism": "zero", "impl": "triton"} | options
    surrogate = snn.surrogate.ArcTangent()
    neuron = snn.Leaky(beta=0.9, **PAPER).cuda()
    for mode in ("default", "error"):  # the first time compiles and tunes
        try:
            torch.cuda.set_sync_debug_mode(mode)
            out = lif_multistep(x, spike_grad=surrogate, **options)
            out.spk.sum().backward()
            neuron.sequence(x)[0].sum().backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@needs_cuda
def test_inductor_on_cuda():
    net, x = built("conv")
    net, x = net.cuda(), x.cuda()
    expected = training_step(copy.deepcopy(net), x)
    assert_alike(training_step(torch.compile(net, fullgraph=True), x), expected)
