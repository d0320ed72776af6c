"""The kernels of all six neurons at the door, against the reference: outputs to the bit, gradients within the table."""

import pytest
import torch
from _pairwise import cases
from _tolerance import TOLERANCE

from snntorch_bpsta import surrogate
from snntorch_bpsta.functional.cells import CELLS
from snntorch_bpsta.functional.multistep import multistep
from snntorch_bpsta.functional.record import Call, Neuron

F32, F64, BF16 = torch.float32, torch.float64, torch.bfloat16
T, B, N = 7, 3, 5


class Wide(torch.nn.Module):
    """A surrogate of a user's own, with a width that learns."""

    def __init__(self, dtype):
        super().__init__()
        self.width = torch.nn.Parameter(torch.tensor(0.7, dtype=dtype))

    def forward(self, x):
        soft = torch.sigmoid(x / self.width)
        return (x > 0).to(x.dtype) + (soft - soft.detach())  # the spike to the bit, and a gradient


SURROGATES = {
    "spatial": {"spatial_adj": True},
    "leaky": {"spatial_adj": surrogate.spatial_adjustment(leak=0.2)},
    "atan": {"spike_grad": surrogate.ArcTangent()},
    "sigmoid": {"spike_grad": surrogate.sigmoid(slope=5)},
    "triangular": {"spike_grad": surrogate.triangular(threshold=0.6)},
    "rectangle": {"spike_grad": surrogate.rectangle(0.8)},
}
RECURRENT = ("RLeaky", "RSynaptic")


def parameters(row, kind, dtype):
    """One number each, learnt or not; or one per neuron, which learns."""
    values = {"beta": 0.7, "threshold": 0.2 if row.alpha else 0.5}
    if row.filter or row.alpha:
        values["alpha"] = 0.85
    if row.recurrent:
        values["v"] = 0.3
    if kind == "frozen":
        return {name: torch.tensor(value) for name, value in values.items()}
    wide = kind == "wide"
    made = {
        name: torch.linspace(0.8 * value, value, N, dtype=dtype) if wide else torch.tensor(value, dtype=dtype)
        for name, value in values.items()
    }
    return {name: value.requires_grad_() for name, value in made.items()}


def problem(cell, reset, *, delay=True, kind="frozen", surrogate="spatial", states=False, layer=None, dtype=F32, T=T):
    """A neuron, its current and states, and what of these learns."""
    row = CELLS[cell]
    generator = torch.Generator().manual_seed(1)
    values = parameters(row, kind, dtype)
    options = SURROGATES.get(surrogate) or {"spike_grad": Wide(dtype)}
    if layer is not None:
        values.pop("v")
    residual = 0.0 if row.alpha or reset == "none" or not delay else -0.6 if surrogate == "leaky" else 0.8
    neuron = Neuron(
        cell, reset_mechanism=reset, reset_delay=delay, residual=residual, recurrence=layer, **values, **options
    )
    x = (torch.randn(T, B, N, generator=generator, dtype=F64) * 0.5 + 0.15).to(dtype).requires_grad_()
    given = [
        torch.rand(B, N, generator=generator, dtype=F64).to(dtype).requires_grad_() if states else None
        for _ in row.states
    ]
    leaves = [x, *(state for state in given if state is not None), *(v for v in values.values() if v.requires_grad)]
    if surrogate == "wide":
        leaves += options["spike_grad"].parameters()
    if layer is not None:
        leaves += layer.parameters()
    return neuron, x, tuple(given), leaves


def run(neuron, x, states, leaves, impl, **options):
    """Outputs, and the gradients of a loss that takes all of them."""
    out = multistep(neuron, Call(x * 1, states, impl=impl, **options))
    generator = torch.Generator().manual_seed(2)
    weights = [torch.randn(y.shape, generator=generator, dtype=F64).to(y) for y in out]
    loss = sum((y * weight).sum() for y, weight in zip(out, weights, strict=True))
    return out, torch.autograd.grad(loss, leaves, allow_unused=True)


def assert_same(actual, expected, dtype, rough=1.0):
    """`rough`: how many times the table's tolerance, of the largest entry."""
    (out, grads), (right, expected) = actual, expected
    assert any(y.any() for y in right[:1])
    for a, b in zip(out, right, strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)
    atol, rtol = TOLERANCE[dtype]
    for a, b in zip(grads, expected, strict=True):
        if b is None or a is None:
            assert (a if b is None else b) is None or not (a if b is None else b).any()
            continue
        assert (a - b).abs().max() <= rough * (atol + 10 * rtol * b.abs().max())


@cases(
    lambda row: row["delay"] or row["cell"] not in ("Alpha", "Lapicque"),
    cell=tuple(CELLS),
    reset=("zero", "subtract", "none"),
    delay=(True, False),
    kind=("frozen", "learnt", "wide"),
    surrogate=(*SURROGATES, "wide"),
    states=(True, False),
    record=(True, False),
    relu=(False, True),
)
def test_kernels_are_the_reference(cell, reset, delay, kind, surrogate, states, record, relu):
    neuron, x, given, leaves = problem(cell, reset, delay=delay, kind=kind, surrogate=surrogate, states=states)
    names = tuple(name for name in CELLS[cell].states if name != "spk") if record else ()
    results = [run(neuron, x, given, leaves, impl, record=names, relu=relu) for impl in ("cpu", "reference")]
    assert_same(*results, F32)


@cases(cell=tuple(CELLS), reset=("zero", "subtract"), kind=("learnt", "wide"), surrogate=("spatial", "atan"))
def test_double_precision(cell, reset, kind, surrogate):
    neuron, x, given, leaves = problem(cell, reset, kind=kind, surrogate=surrogate, states=True, dtype=F64)
    assert_same(*(run(neuron, x, given, leaves, impl) for impl in ("cpu", "reference")), F64)


@pytest.mark.parametrize("relu", [False, True], ids=["", "relu"])
@pytest.mark.parametrize("save", ["bfloat16", "compact"])
@pytest.mark.parametrize("cell", CELLS)
def test_few_bits(cell, save, relu):
    """Spikes and states are the same; the derivative is rounded to bfloat16, 8 bits."""
    neuron, x, given, leaves = problem(cell, "subtract", states=True)
    results = [run(neuron, x, given, leaves, "cpu", relu=relu, save=kind) for kind in (save, "float32")]
    assert all(map(torch.equal, results[0][0], results[1][0]))
    pairs = [(a, b) for a, b in zip(results[0][1], results[1][1], strict=True) if b is not None]
    assert all((a - b).abs().max() <= 0.03 * b.abs().max() for a, b in pairs)
    assert any(not torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("cell", CELLS)
def test_half_precision_is_that_of_float32(cell):
    """The kernels hold the state in float32 and round what they hand out."""
    neuron, x, given, leaves = problem(cell, "subtract", dtype=BF16)
    spk, *after = multistep(neuron, Call(x, given, impl="cpu"))
    right, *states = multistep(neuron, Call(x.float(), given, impl="cpu"))
    assert spk.dtype == BF16 and torch.equal(spk.float(), right) and right.any()
    assert all(torch.equal(a, b.to(BF16)) for a, b in zip(after, states, strict=True))
    (grad,) = torch.autograd.grad(spk.float().sum(), x)
    (exact,) = torch.autograd.grad(right.sum(), x)
    assert grad.dtype == BF16 and (grad.float() - exact.float()).abs().max() <= 0.03 * exact.float().abs().max()


@pytest.mark.parametrize("kind", ["frozen", "learnt"])
@pytest.mark.parametrize("cell", CELLS)
def test_a_constant_current(cell, kind):
    neuron, x, given, leaves = problem(cell, "subtract", kind=kind, T=1)
    results = [run(neuron, x, given, leaves, impl, num_steps=6) for impl in ("cpu", "reference")]
    assert results[0][0][0].shape == (6, B, N)
    assert_same(*results, F32)


@pytest.mark.parametrize("states", [False, True], ids=["", "states"])
@pytest.mark.parametrize("kind", ["frozen", "learnt", "wide"])
@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("cell", RECURRENT)
def test_a_linear_recurrence(cell, reset, kind, states):
    torch.manual_seed(3)
    layer = torch.nn.Linear(N, N)
    neuron, x, given, leaves = problem(cell, reset, kind=kind, states=states, layer=layer)
    names = tuple(name for name in CELLS[cell].states if name != "spk")
    results = [run(neuron, x, given, leaves, impl, record=names) for impl in ("cpu", "reference")]
    assert_same(*results, F32, rough=3)
    assert results[0][1][-2].abs().max() > 1e-3  # of the weight


@pytest.mark.parametrize("options", [{}, {"padding": 2, "dilation": 2}, {"groups": 2}], ids=["", "dilated", "groups"])
@pytest.mark.parametrize("cell", RECURRENT)
def test_a_convolutional_recurrence(cell, options):
    torch.manual_seed(4)
    layer = torch.nn.Conv2d(4, 4, 3, **({"padding": 1} | options))
    neuron = problem(cell, "subtract", layer=layer)[0]
    x = (torch.randn(5, 2, 4, 6, 5) * 0.5 + 0.2).requires_grad_()
    none = (None,) * len(CELLS[cell].states)
    leaves = [x, *layer.parameters()]
    assert_same(*(run(neuron, x, none, leaves, impl) for impl in ("cpu", "reference")), F32, rough=5)


@pytest.mark.parametrize("cell", CELLS)
def test_in_place_the_spikes_take_the_memory_of_the_current(cell):
    neuron, x, given, _ = problem(cell, "subtract")
    cur = x.detach() * 1
    spk = multistep(neuron, Call(cur, given, inplace=True, impl="cpu"))[0]
    assert torch.equal(spk, multistep(neuron, Call(x.detach(), given, impl="cpu"))[0])
    if cell not in RECURRENT or neuron.recurrence is None:
        assert spk.data_ptr() == cur.data_ptr()
    results = [run(neuron, x, given, [x], "cpu", inplace=inplace) for inplace in (True, False)]
    assert torch.equal(results[0][1][0], results[1][1][0])


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("size", [1, 2047, 2049, 4100])
def test_sizes_around_a_block(cell, size):
    neuron, *_ = problem(cell, "subtract")
    x = (torch.randn(3, 1, size, generator=torch.Generator().manual_seed(5)) * 0.5 + 0.3).requires_grad_()
    none = (None,) * len(CELLS[cell].states)
    out, right = (multistep(neuron, Call(x, none, impl=impl)) for impl in ("cpu", "reference"))
    assert all(map(torch.equal, out, right))
    grads = [torch.autograd.grad(y[0].sum(), x)[0] for y in (out, right)]
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("cell", CELLS)
def test_threads_and_splits_change_nothing(cell):
    """Two threads are one; T in two parts, the states handed on, is T in one."""
    neuron, *_ = problem(cell, "zero", surrogate="atan")
    row = CELLS[cell]
    x = torch.randn(40, 2, 4096, generator=torch.Generator().manual_seed(6)) * 0.5 + 0.2
    none = (None,) * len(row.states)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(multistep(neuron, Call(x, none, impl="cpu")))
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, *results))
    first = multistep(neuron, Call(x[:17], none, impl="cpu"))
    handed = (first[0][-1], *first[1:]) if "spk" in row.states else first[1:]
    second = multistep(neuron, Call(x[17:], handed, impl="cpu"))
    assert torch.equal(torch.cat([first[0], second[0]]), results[0][0])
    assert all(map(torch.equal, second[1:], results[0][1:]))


@pytest.mark.parametrize("layout", ["channels last", "batch first", "expanded", "every second"])
@pytest.mark.parametrize("cell", CELLS)
def test_any_strides(cell, layout):
    base = torch.randn(6, 2, 3, 4, 5, generator=torch.Generator().manual_seed(7)) * 0.5 + 0.2
    x = {
        "channels last": lambda: base.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, (6, 2)),
        "batch first": lambda: base.transpose(0, 1).contiguous().transpose(0, 1),
        "expanded": lambda: base[:1].expand(6, -1, -1, -1, -1),
        "every second": lambda: base.repeat_interleave(2, dim=-1)[..., ::2],
    }[layout]().requires_grad_()
    neuron, *_ = problem(cell, "subtract")
    none = (None,) * len(CELLS[cell].states)
    wide = Neuron(**{name: getattr(neuron, name) for name in neuron.__dataclass_fields__ if name != "plans"} | {
        "beta": torch.linspace(0.5, 0.9, 3).reshape(3, 1, 1)
    })  # fmt: skip
    for one in (neuron, wide):
        assert_same(*(run(one, x, none, [x], impl) for impl in ("cpu", "reference")), F32)


@pytest.mark.parametrize("cell", CELLS)
def test_what_a_kernel_does_not_write_shows(cell):
    """Fresh memory is NaN here: outputs, and gradients that overwrite what was saved, are whole."""
    neuron, x, given, leaves = problem(cell, "zero", kind="learnt", states=True)
    expected = run(neuron, x, given, leaves, "cpu")
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        actual = run(neuron, x, given, leaves, "cpu")
    finally:
        torch.use_deterministic_algorithms(before)
    assert all(map(torch.equal, actual[0], expected[0]))
    assert all(b is None or torch.equal(a, b) for a, b in zip(actual[1], expected[1], strict=True))


@pytest.mark.parametrize("cell", CELLS)
def test_a_graph_that_is_kept_gives_the_same_gradient_twice(cell):
    neuron, x, given, _ = problem(cell, "subtract", states=True)
    out = multistep(neuron, Call(x, given, impl="cpu"))
    loss = sum(y.sum() for y in out)
    first, second = (torch.autograd.grad(loss, x, retain_graph=keep)[0] for keep in (True, False))
    assert torch.equal(first, second)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, x)


def test_a_surrogate_that_learns_gets_what_reaches_its_spikes():
    """By the residual too, also before the first step."""
    for states in (False, True):
        neuron, x, given, leaves = problem("Leaky", "zero", surrogate="wide", states=states)
        results = [run(neuron, x, given, leaves, impl) for impl in ("cpu", "reference")]
        assert_same(*results, F32)
        assert results[0][1][-1].abs() > 1e-3


@pytest.mark.parametrize("record", [("spk",), ("syn",), "mem", ["mem"], 3], ids=str)
def test_a_record_names_states_of_the_neuron(record):
    neuron, x, given, _ = problem("Leaky", "zero")
    with pytest.raises(ValueError, match="record must be a tuple of states of Leaky"):
        multistep(neuron, Call(x, given, record=record))


def test_a_recurrence_that_changes_the_shape_is_refused():
    neuron, x, given, _ = problem("RLeaky", "zero", layer=torch.nn.Linear(N, N + 1))
    with pytest.raises(ValueError, match="must keep the shape of a step"):
        multistep(neuron, Call(x, given, impl="cpu"))


@pytest.mark.parametrize("kind", ["number", "per neuron"])
@pytest.mark.parametrize("cell", CELLS)
def test_a_parameter_may_move_between_forward_and_backward(cell, kind):
    """As in a rule of homeostasis: the gradient is that of the values that forward used."""
    neuron, x, given, leaves = problem(cell, "subtract", kind="wide" if kind == "per neuron" else "frozen", states=True)
    values = [getattr(neuron, name) for name in ("beta", "threshold", "alpha", "v")]
    for value in values:
        if value is not None:
            value.requires_grad_(False)
    grads = []
    for factor in (1.0, 0.5):
        out = multistep(neuron, Call(x, given, impl="cpu"))
        for value in values:
            if value is not None:
                value.mul_(factor)
        grads.append(torch.autograd.grad(sum(y.sum() for y in out), x)[0])
    assert torch.equal(*grads) and grads[0].any()


@pytest.mark.parametrize(
    "factor", [torch.full((N,), 0.7), torch.tensor(0.7, requires_grad=True)], ids=["wide", "learnt"]
)
@pytest.mark.parametrize("cell", RECURRENT)
def test_what_is_fed_back_has_its_factor(cell, factor):
    """The kernels feed back one number that learns nothing; others are looped over."""
    neuron, x, given, _ = problem(cell, "subtract")
    scaled = Neuron(**{k: getattr(neuron, k) for k in neuron.__dataclass_fields__ if k != "plans"} | {"factor": factor})
    with pytest.raises(NotImplementedError, match="a factor that learns or is no single number"):
        multistep(scaled, Call(x, given, impl="cpu"))
    one = Neuron(**{k: getattr(scaled, k) for k in scaled.__dataclass_fields__ if k != "plans"} | {
        "factor": torch.tensor(0.7)
    })  # fmt: skip
    kernels, loop = multistep(one, Call(x, given, impl="cpu")), multistep(scaled, Call(x, given, impl="reference"))
    assert all(map(torch.equal, kernels, loop)) and kernels[0].any()


class Counted(Wide):
    calls = 0

    def forward(self, x):
        Counted.calls += 1
        return super().forward(x)


@pytest.mark.parametrize("how", ["linear", "convolution", "surrogate"])
@pytest.mark.parametrize("cell", RECURRENT)
def test_autograd_has_as_much_to_do_for_many_steps_as_for_few(cell, how):
    """One node for an all-to-all recurrence, and the derivatives of a surrogate of one's own taken once over all steps."""

    def nodes(out):
        seen, todo = set(), [y.grad_fn for y in out if y.grad_fn is not None]
        while todo:
            node = todo.pop()
            if node not in seen:
                seen.add(node)
                todo += [before for before, _ in node.next_functions if before is not None]
        return sorted(type(node).__name__ for node in seen)

    layer = {"linear": torch.nn.Linear(N, N), "convolution": torch.nn.Conv2d(2, 2, 3, padding=1)}.get(how)
    neuron = problem(cell, "subtract", layer=layer)[0]
    if how == "surrogate":
        neuron = Neuron(**{k: getattr(neuron, k) for k in neuron.__dataclass_fields__ if k != "plans"} | {
            "spike_grad": Counted(F32), "spatial_adj": False
        })  # fmt: skip
    found = []
    for steps in (3, 30):
        Counted.calls = 0
        x = torch.rand(steps, 2, *((2, 4, 3) if how == "convolution" else (N,))).requires_grad_()
        out = multistep(neuron, Call(x, (None,) * len(CELLS[cell].states), impl="cpu"))
        found.append((nodes(out), Counted.calls))
        out[0].sum().backward()
        assert x.grad.any()
    assert found[0] == found[1] and 0 < len(found[0][0]) < 20 and found[0][1] == (3 if how == "surrogate" else 0)
