"""What a call of the engine may ask for, with surrogates and parameters of every kind: the kernels against the reference.

Spikes, states and records to the bit, every gradient within the tolerance table. Where there is a CUDA device, Triton's
kernels too; in Triton's interpreter: test_triton_kernels.py.
"""

import subprocess
import sys
import textwrap
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from _engine import (
    BF16,
    CUDA,
    DEVICE,
    F16,
    F32,
    F64,
    LAYOUTS,
    PAPER,
    RESETS,
    STEP,
    counting,
    currents,
    each_impl,
    parameters,
    spread,
    weights,
)  # fmt: skip
from _family import float_surrogate
from _pairwise import cases
from _tolerance import assert_close
from torch import nn

import snntorch_bpsta as snn
from snntorch_bpsta.functional import lif_multistep, passes, which_impl
from snntorch_bpsta.functional import multistep as door
from snntorch_bpsta.functional.cells import CELLS
from snntorch_bpsta.functional.kernels import bits, cpu
from snntorch_bpsta.functional.record import Call, Neuron

# --- one problem, by any implementation -----------------------------------------------------------


class Slope(nn.Module):
    """A surrogate with a parameter."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        soft = torch.sigmoid(self.slope * x)
        return (x > 0).to(x.dtype) + (soft - soft.detach())


SURROGATES = {
    "spatial_adj": {"spatial_adj": True},
    "spatial_adjustment": {"spike_grad": snn.surrogate.spatial_adjustment(0.5)},  # of this threshold or of another
    "rectangle": {"spike_grad": snn.surrogate.rectangle(0.8)},
    "ArcTangent": {"spike_grad": snn.surrogate.ArcTangent(1.3)},
    "Logistic": {"spike_grad": snn.surrogate.Logistic(3.0)},
    "atan": {"spike_grad": snn.surrogate.atan(alpha=1.7)},
    "fast_sigmoid": {"spike_grad": snn.surrogate.fast_sigmoid(slope=3.1)},
    "sigmoid": {"spike_grad": snn.surrogate.sigmoid(slope=6)},
    "heaviside": {"spike_grad": snn.surrogate.heaviside()},
    "straight_through": {"spike_grad": snn.surrogate.straight_through_estimator()},
    "triangular": {"spike_grad": snn.surrogate.triangular(threshold=0.6)},
    "spike_rate_escape": {"spike_grad": snn.surrogate.spike_rate_escape(beta=0.9, slope=1.3)},
    "SFS": {"spike_grad": snn.surrogate.SFS(slope=3.1, B=-0.2)},
    "of one's own": {"spike_grad": float_surrogate},
    "that learns": {"spike_grad": Slope()},
}
PARAMETERS = {
    "numbers": (), "one": (1,), "channel": (4, 1, 1), "neuron": (4, 5, 7), "last": (7,), "middle": (5, 1),
    "sample": (3, 1, 1, 1), "batch": STEP, "holes": (4, 1, 7), "sample-and-height": (3, 1, 5, 1),
}  # fmt: skip


def run(
    impl, cell="Leaky", shape=(5, *STEP), dtype=F32, *, reset="zero", surrogate="spatial_adj", residual=0.0,
    kind="numbers", learn=False, given=True, record=False, constant=False, loss="all", layout="dense", factor=1.0,
    single=False, relu=False, inplace=False, save=None, device="cpu",
):  # fmt: skip
    """Outputs and gradients by name. The reference computes half precision in float32."""
    exact = F32 if impl == "reference" and dtype in (BF16, F16) else dtype
    state = passes.compute_dtype(dtype)
    device, names = DEVICE.get(impl, device), [name for name in CELLS[cell].states if name != "spk"]
    step = shape if single else shape[1:]
    x = currents(*((1, *step) if constant else shape), scale=1.5, low=-0.4).to(device, dtype)
    leaves = {"input": x.to(exact).requires_grad_()}
    if given:
        states = {name: currents(*step, seed=3 + k) for k, name in enumerate(CELLS[cell].states)}
        leaves |= {name: value.to(device, dtype).to(exact).requires_grad_() for name, value in states.items()}
    values = parameters(cell, PARAMETERS[kind])
    values = {name: value.to(device, state).requires_grad_(learn) for name, value in values.items()}
    values["factor"] = factor = torch.as_tensor(factor, dtype=state, device=device).requires_grad_(
        learn and kind == "one"
    )
    options = dict(SURROGATES[surrogate])
    others = {}
    if isinstance(options.get("spike_grad"), nn.Module):
        others |= {"slope": options["spike_grad"].slope}
    neuron = Neuron(cell, reset_mechanism=reset, residual=residual, **options, **values)
    call = Call(
        LAYOUTS[layout](leaves["input"] * 1), tuple(leaves.get(name) for name in CELLS[cell].states),
        shape[0] if constant else None, relu, inplace, tuple(names) if record else (),
        save if impl != "reference" else None, impl, single,
    )  # fmt: skip
    out = dict(zip(("spk", *names), door.multistep(neuron, call), strict=True))
    wanted = {"all": out, "spk": ["spk"], "states": names}[loss]
    weigh = {name: weights(*out[name].shape, seed=7 + k).to(out[name]) for k, name in enumerate(wanted)}
    leaves |= {name: value for name, value in values.items() if value.requires_grad} | others
    total = [(out[name] * weigh[name]).sum() for name in wanted]
    grads = torch.autograd.grad(sum(total), leaves.values(), allow_unused=True)
    return {name: value.detach() for name, value in out.items()} | {
        "d" + name: grad for name, grad in zip(leaves, grads, strict=True)
    }


def check(cell, impl="cpu", shape=(5, *STEP), dtype=F32, **row):
    """One problem by `impl` and by the reference."""
    actual = run(impl, cell, shape, dtype, **row)
    expected = run("reference", cell, shape, dtype, device=DEVICE[impl], **row)
    half, few = dtype in (BF16, F16), row.get("save") in ("bfloat16", "compact")
    ours = row.get("surrogate", "spatial_adj") in ("spatial_adj", "rectangle", "ArcTangent", "Logistic", "of one's own")
    table = BF16 if half or few else dtype if ours or dtype != F64 else F32  # snnTorch's own: float32 spikes
    largest = expected["dinput"].abs().max().item() if actual["dinput"].numel() else 0.0
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        mine = actual[name]
        if not name.startswith("d"):
            assert mine.dtype == dtype and torch.equal(mine, value.to(dtype)), name
        elif mine is None or value is None:
            assert all(each is None or not each.any() for each in (mine, value)), name
        else:
            terms = max(1, actual["spk"].numel() // max(1, value.numel()))  # that a sum has
            scale = value.abs().max().item() if value.numel() else 0.0
            scale = max(scale, largest * terms**0.5 if name != "dinput" else 0.0)
            assert_close(mine, value, table, scale, name)
    return actual


def served(row):
    """Whether the row has a meaning."""
    cell, reset = row.get("cell", "Leaky"), row.get("reset", "zero")
    crosses = cell != "Alpha" and reset != "none"
    saved = row.get("save")
    return not (
        (row.get("residual") and not crosses)
        or (saved == "bfloat16" and row.get("learn"))
        or (saved == "compact" and row.get("learn"))
    )


# --- the kernels are the reference ----------------------------------------------------------------

EACH = tuple(CELLS)
VECTOR = spread((7,), 0.2, 2.0)


@cases(
    served, cell=EACH, surrogate=tuple(SURROGATES), reset=RESETS, kind=("neuron", "channel", "holes", "sample"),
    residual=(0.0, 0.8), learn=(False, True), loss=("all", "spk", "states"),
)  # fmt: skip
def test_parameters_surrogates_and_resets(cell, surrogate, reset, kind, residual, learn, loss):
    if surrogate == "spatial_adjustment":  # the kernels', of the same threshold; else one of one's own
        kind, learn = "one", False
    check(cell, surrogate=surrogate, reset=reset, kind=kind, residual=residual, learn=learn, loss=loss)


@cases(
    served, cell=EACH, relu=(False, True), inplace=(False, True), constant=(False, True), given=(False, True),
    record=(False, True), save=(None, "float32", "bfloat16", "compact"), layout=tuple(LAYOUTS), learn=(False, True),
)  # fmt: skip
def test_the_options_of_a_call(cell, relu, inplace, constant, given, record, save, layout, learn):
    check(
        cell, kind="channel", residual=0.0 if cell == "Alpha" else 0.8, relu=relu, inplace=inplace, constant=constant,
        given=given, record=record, save=save, layout=layout, learn=learn,
    )  # fmt: skip


@pytest.mark.parametrize("kind", PARAMETERS)
@pytest.mark.parametrize("cell", ["Leaky", "Synaptic"])
def test_parameters_of_any_shape_that_broadcasts(cell, kind):
    check(cell, surrogate="rectangle", kind=kind, learn=True, residual=0.8)


@cases(
    served, cell=EACH, reset=RESETS, dtype=(BF16, F16), save=(None, "float32", "compact"), relu=(False, True),
    record=(False, True), learn=(False, True),
)  # fmt: skip
def test_half_precision(cell, reset, dtype, save, relu, record, learn):
    check(cell, dtype=dtype, reset=reset, save=save, relu=relu, record=record, learn=learn, kind="numbers")


# what has a kernel of its own: a step in one loop, for one number each
FUSED = [
    ("Leaky", "zero", "spatial_adj"), ("Lapicque", "subtract", "ArcTangent"), ("RLeaky", "zero", "fast_sigmoid"),
    ("Synaptic", "subtract", "spatial_adj"), ("RSynaptic", "none", "ArcTangent"), ("Alpha", "zero", "spatial_adj"),
]  # fmt: skip


@pytest.mark.parametrize(("cell", "reset", "surrogate"), FUSED)
def test_fused_kernels(cell, reset, surrogate):
    check(cell, reset=reset, surrogate=surrogate)
    check(
        cell,
        shape=(9, 8, 2051),
        reset=reset,
        surrogate=surrogate,
        residual=0.0 if cell == "Alpha" else 0.8,
        given=False,
    )


@cases(
    served, cell=EACH, reset=RESETS, surrogate=("spatial_adj", "ArcTangent", "fast_sigmoid"), relu=(False, True),
    residual=(0.0, 0.8),
)  # fmt: skip
def test_every_fused_kernel(cell, reset, surrogate, relu, residual):
    check(cell, reset=reset, surrogate=surrogate, relu=relu, residual=residual)


@pytest.mark.parametrize("cell", EACH)
def test_a_single_step(cell):
    for learn in (False, True):
        check(cell, shape=STEP, single=True, learn=learn, kind="channel")


# odd sizes on purpose: one neuron, a block of neurons and one more, several threads' shares and a bit
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 5), (7, 2, 1025), (63, 3, 2, 7, 5), (9, 8, 2051)], ids=str)
@pytest.mark.parametrize("cell", ["Leaky", "Alpha"])
def test_shapes(cell, shape):
    for surrogate in ("spatial_adj", "rectangle"):
        check(cell, shape=shape, surrogate=surrogate, record=True)


def test_parameters_of_more_than_a_block_of_neurons():
    """A channel and the borders of blocks and threads do not meet."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PARAMETERS, "channel", (3, 1))
        patch.setitem(PARAMETERS, "neuron", (3, 2051))
        for kind in ("channel", "neuron"):
            check("Leaky", shape=(9, 4, 3, 2051), kind=kind, learn=True, residual=0.8)


@pytest.mark.parametrize("factor", [2.5, 0.1, torch.tensor([0.75]), VECTOR], ids=["2.5", "0.1", "buffer", "vector"])
@pytest.mark.parametrize("learn", [False, True], ids=["", "learn"])
def test_the_factor_of_the_spikes(factor, learn):
    check("Leaky", factor=factor, learn=learn, kind="one", residual=0.8)
    if isinstance(factor, float):
        check("RSynaptic", factor=factor, kind="channel", reset="subtract")  # which feeds them back


# --- fewer bits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"relu": True}, {"constant": True}, {"cell": "RSynaptic"}], ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 3, 11), (9, 3, 4, 2, 3)], ids=str)
@each_impl
def test_compact_is_bfloat16_in_fewer_bits(impl, options, shape):
    compact, bfloat16 = (run(impl, shape=shape, save=save, residual=0.8, **options) for save in ("compact", "bfloat16"))
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
        packed = bits.pack_code(code.clone(), relu)
        assert len(packed) == 2 + relu and packed[0].numel() == -(-code.numel() // 8)
        back = bits.unpack_code(*packed, code.shape, code.stride())
        assert torch.equal(back.view(torch.int16), torch.where(fired | positive, code, 0).view(torch.int16))


@pytest.mark.parametrize("options", [PAPER, {}], ids=["code", "arc tangent"])
def test_a_code_of_fewer_bits_is_rounded_to_nearest(options):
    """As PyTorch rounds: of one step the gradient is the code."""
    cur = currents(1, 3, 500, scale=2.0).float().requires_grad_()
    exact, rounded = (
        torch.autograd.grad(lif_multistep(cur, beta=0.9, save=save, impl="cpu", **options).spk.sum(), cur)[0]
        for save in ("float32", "bfloat16")
    )
    assert torch.equal(rounded, exact.bfloat16().float()) and not torch.equal(rounded, exact)


# --- odd numbers and types ----------------------------------------------------------------------------


@pytest.mark.parametrize("slope", [25.0, 100.0])
@each_impl
def test_the_sigmoid_stays_finite_where_the_hosts_overflows(impl, slope):
    cur = torch.tensor([[[-8.0, 0.4, 0.6, 9.0]]], device=DEVICE[impl], requires_grad=True)
    options = {"beta": 0.9, "threshold": 0.5, "spike_grad": snn.surrogate.sigmoid(slope)}
    (host,) = torch.autograd.grad(lif_multistep(cur, impl="reference", **options).spk.sum(), cur)
    (ours,) = torch.autograd.grad(lif_multistep(cur, impl=impl, **options).spk.sum(), cur)
    assert host.isnan().any() and ours.isfinite().all()
    assert_close(ours.flatten()[1:3], host.flatten()[1:3], F32)
    assert ours.flatten()[0].abs() < 1e-30 and ours.flatten()[3].abs() < 1e-30


@pytest.mark.parametrize("relu", [False, True], ids=["", "relu"])
@pytest.mark.parametrize("surrogate", ["spatial_adj", "ArcTangent", "rectangle"])
@pytest.mark.parametrize("reset", RESETS)
@each_impl
def test_not_a_number_and_infinity(impl, reset, surrogate, relu):
    """What the reference does, and no other neuron notices."""
    cur = currents(6, 2, 7, low=-0.4).float().to(DEVICE[impl])
    cur[2, 0, :5] = torch.tensor([torch.nan, torch.inf, -torch.inf, 3e38, -3e38], device=cur.device)
    for record in (False, True):
        options = {"beta": 0.9, "threshold": 0.5, "reset_mechanism": reset, "relu": relu, "record_mem": record}
        seen = []
        for how in (impl, "reference"):
            x = cur.clone().requires_grad_()
            out = lif_multistep(x, impl=how, **options, **SURROGATES[surrogate])
            out.spk.sum().backward()
            seen.append((out.spk.detach(), out.mem.detach(), x.grad))
        for actual, expected in zip(*(s[:2] for s in seen), strict=True):
            torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)
        assert seen[0][1][..., 1, :].isfinite().all() and seen[0][2][:, 1].isfinite().all()
        torch.testing.assert_close(seen[0][2], seen[1][2], rtol=1e-5, atol=1e-6, equal_nan=True)


HOSTS = {
    name: getattr(snn.surrogate, name)()
    for name in snn.surrogate.KERNELS
    if name not in ("spatial_adjustment", "triangular")  # snnTorch's triangle asks x < 0, which NaN is not
}


@pytest.mark.parametrize("name", HOSTS)
@each_impl
def test_no_surrogate_hides_what_is_no_number(impl, name):
    """A membrane of NaN has a derivative of NaN where the host's has; the rectangle's and the step's have none."""
    seen = []
    for how in (impl, "reference"):
        x = torch.full((3, 1, 4), 2.5, device=DEVICE[impl])
        x[1, 0, 2] = torch.nan
        out = lif_multistep(x.requires_grad_(), beta=0.9, spike_grad=HOSTS[name], impl=how)
        out.spk[1:].sum().backward()
        seen.append(x.grad)
    torch.testing.assert_close(*seen, rtol=1e-5, atol=1e-6, equal_nan=True)
    assert seen[0][..., [0, 1, 3]].isfinite().all()
    assert seen[0][1, 0, 2].isnan() or name in ("rectangle", "heaviside", "straight_through_estimator")


@pytest.mark.parametrize("shape", [(), (1,), (5,)], ids=str)
@pytest.mark.parametrize(("dtype", "factor"), [(BF16, F32), (F16, F32), (F32, F64)], ids=str)
@each_impl
def test_a_factor_of_another_dtype_does_not_change_that_of_the_spikes(impl, dtype, factor, shape):
    cur = currents(4, 3, 5).to(DEVICE[impl], dtype)
    factor = spread(shape, 0.2, 2.0).to(DEVICE[impl], factor)
    spk = {
        how: lif_multistep(cur, beta=0.9, threshold=0.5, graded_spikes_factor=factor, impl=how).spk
        for how in (impl, "reference")
    }
    assert spk[impl].dtype == spk["reference"].dtype == dtype


@pytest.mark.parametrize(("dtype", "mem"), [(F32, BF16), (F32, F16), (F64, F32)], ids=str)
def test_a_membrane_of_a_narrower_type(dtype, mem):
    """Either refused or the loop's to the bit."""
    cur, start = currents(4, 3, 50).to(dtype), currents(3, 50, seed=1).to(mem)
    options = {"beta": 0.9, "threshold": 0.5, "record_mem": True}
    chosen = which_impl(cur, start, **options)
    out, expected = (lif_multistep(cur, start, impl=how, **options) for how in (chosen, "reference"))
    assert torch.equal(out.spk, expected.spk) and torch.equal(out.mem, expected.mem)


# --- properties ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["numbers", "neuron"])
@pytest.mark.parametrize("cell", EACH)
def test_a_sample_alone_is_the_sample_in_the_batch(cell, kind):
    """And in another order: nobody knows of a neighbour."""
    x, order = currents(5, 3, 2051).float(), torch.tensor([2, 0])
    wide = (2051,) if kind == "neuron" else ()
    values = {name: value.float() for name, value in parameters(cell, wide).items()}
    neuron, seen = Neuron(cell, spatial_adj=True, **values), []
    for batch in (x, x[:, order]):
        batch = batch.clone().requires_grad_()
        out = door.multistep(neuron, Call(batch, (None,) * len(CELLS[cell].states), impl="cpu"))
        (grad,) = torch.autograd.grad(sum(each.sum() for each in out), batch)
        seen.append([out[0], grad, *(state.unsqueeze(0) for state in out[1:])])
    for together, alone in zip(*seen, strict=True):
        assert torch.equal(together[:, order], alone)


@each_impl
def test_silence_stays_silent(impl):
    cur = torch.zeros(5, 3, 7, device=DEVICE[impl], requires_grad=True)
    out = lif_multistep(cur, beta=0.9, impl=impl, **PAPER)
    out.spk.sum().backward()
    assert not out.spk.any() and not out.mem.any() and not cur.grad.any()


@each_impl
def test_strides_of_a_parameter_do_not_matter(impl):
    values = {"beta": spread((4, 5, 7), 0, 1), "threshold": spread((4, 5, 7), 0.3, 0.8)}
    cur = currents(4, *STEP).float().to(DEVICE[impl])
    dense = {name: value.float().to(DEVICE[impl]) for name, value in values.items()}
    strided = {name: value.repeat_interleave(2, -1)[..., ::2] for name, value in dense.items()}
    for layout in ("dense", "channels last", "last first"):
        x = LAYOUTS[layout](cur)
        assert all(map(torch.equal, lif_multistep(x, **dense, impl=impl), lif_multistep(x, **strided, impl=impl)))


def test_channels_last_come_out_channels_last():
    """The current is taken as it lies, and what comes out lies alike: no copy before the next convolution."""
    cur = LAYOUTS["channels last"](currents(4, 3, 2, 5, 3).float()).requires_grad_()
    out = lif_multistep(cur, beta=0.9, impl="cpu", **PAPER)
    assert out.spk.stride() == cur.stride() and out.spk[0].is_contiguous(memory_format=torch.channels_last)
    (grad,) = torch.autograd.grad(out.spk.sum(), cur)
    assert grad.stride() == cur.stride()


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("kind", ["numbers", "last"])
@pytest.mark.parametrize("cell", ["Leaky", "Synaptic"])
def test_the_number_of_threads_does_not_matter(cell, kind, threads, monkeypatch):
    monkeypatch.setitem(PARAMETERS, "last", (2051,))
    before, seen, parts = torch.get_num_threads(), [], []
    pool, submit = cpu._pool(), ThreadPoolExecutor.submit
    monkeypatch.setattr(pool, "submit", lambda *args: parts.append(args) or submit(pool, *args), raising=False)
    try:
        for count in (1, threads):
            torch.set_num_threads(count)
            seen.append(run("cpu", cell, (16, 9, 2051), kind=kind, learn=kind == "last"))
            assert len(parts) == (0 if count == 1 else 2 * (count - 1))  # forward and backward
    finally:
        torch.set_num_threads(before)
    for name, value in seen[0].items():
        assert value is None or torch.equal(value, seen[1][name]), name


def test_two_python_threads_do_not_disturb_each_other():
    expected = run("cpu", shape=(16, 9, 2051))
    with ThreadPoolExecutor(2) as pool:
        for each in pool.map(lambda _: run("cpu", shape=(16, 9, 2051)), range(8)):
            assert all(torch.equal(value, expected[name]) for name, value in each.items())


@pytest.mark.parametrize("shape", [(4, 0, 3), (4, 3, 0), (1, 0, 2, 3)], ids=str)
@pytest.mark.parametrize(
    "options", [{}, {"record": True, "inplace": True}, {"save": "compact"}, {"learn": True}], ids=str
)
@pytest.mark.parametrize("cell", EACH)
def test_nothing_in_the_batch(cell, options, shape):
    out = check(cell, shape=shape, **options)
    assert out["spk"].shape == out["dinput"].shape == shape
    assert all(not value.any() for value in out.values() if value is not None)


# --- what runs ----------------------------------------------------------------------------------------


CHOICES = {
    "default": {},
    "paper": PAPER,
    "fast sigmoid": {"spike_grad": snn.surrogate.fast_sigmoid()},
    "own function": {"spike_grad": lambda x: (x > 0).to(x.dtype)},
    "custom": {"spike_grad": snn.surrogate.custom_surrogate(lambda x, grad, spk: grad * spk)},
    "another threshold": {"spike_grad": snn.surrogate.spatial_adjustment(0.25)},
    "wide beta": {"beta": torch.full((5,), 0.9, dtype=F64)},
    "wide number": {"beta": torch.tensor(0.9, dtype=F64)},
    "compact": PAPER | {"save": "compact"},
    "compact of another": {"save": "compact"},
    "compact of a leak": PAPER | {"save": "compact", "spatial_adj": snn.surrogate.spatial_adjustment(leak=0.1)},
    "bfloat16": {"save": "bfloat16"},
    "bfloat16, learnable": {"save": "bfloat16", "beta": torch.tensor(0.9, requires_grad=True)},
    "everything": PAPER | {"record_mem": True, "relu": True, "inplace": True, "num_steps": 4},
}


@pytest.mark.parametrize("asked", ["auto", "reference", "cpu", *(["triton"] if CUDA else [])])
@pytest.mark.parametrize("case", CHOICES)
def test_which_impl_is_what_runs(case, asked, monkeypatch):
    options = {"beta": 0.9} | CHOICES[case] | {"impl": asked}
    device = DEVICE.get(asked, "cpu")
    options = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    cur = currents(4, 2, 5).float().to(device)
    calls = Counter()
    monkeypatch.setattr(door, "reference", counting(door.reference, calls, "reference"))
    kernels = passes.kernels("triton" if asked == "triton" else "cpu")
    monkeypatch.setattr(kernels, "forward", counting(kernels.forward, calls, "triton" if asked == "triton" else "cpu"))
    try:
        chosen = which_impl(cur, **options)
    except NotImplementedError as error:
        assert asked not in ("auto", "reference")
        with pytest.raises(NotImplementedError) as again:
            lif_multistep(cur, **options)
        assert str(again.value) == str(error) and not calls
        return
    lif_multistep(cur, **options)
    assert calls == {chosen: 1} and (chosen in ("cpu", "reference") if asked == "auto" else chosen == asked)


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


def test_the_module_of_the_operator_may_be_reloaded():
    """As %autoreload does, which holds on to what the module had, and clears it."""
    code = """
        import importlib, sys, torch, snntorch_bpsta as snn

        def train(run):
            cur = torch.linspace(0, 1, 24).view(4, 2, 3).requires_grad_()
            spk = run(cur)[0]
            spk.sum().backward()
            return spk.detach(), cur.grad

        neuron = snn.Leaky(0.9, threshold=0.5, spatial_adj=True)
        expected = train(neuron.sequence)
        assert expected[0].any() and expected[1].any()
        module = sys.modules["snntorch_bpsta.functional.operator"]
        for clear in (False, True, True):
            before = dict(vars(module))
            if clear:
                vars(module).clear()
                vars(module).update({name: before[name] for name in ("__name__", "__loader__", "__spec__")})
            importlib.reload(module)
            for lif in (neuron, snn.Leaky(0.9, threshold=0.5, spatial_adj=True)):
                for run in (lif.sequence, torch.compile(lif.sequence, backend="eager")):
                    assert all(map(torch.equal, train(run), expected))
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=300)


@pytest.mark.parametrize("shape", [(3, 0, 4), (3, 2, 0), (1, 0, 4)])
def test_a_surrogate_of_ones_own_on_nothing(shape):
    """An empty batch, the last of a data set that is filtered, say."""
    x = torch.rand(shape).requires_grad_()
    spk, mem = snn.Leaky(0.9, spike_grad=lambda x: snn.surrogate.atan()(x)).sequence(x)
    spk.sum().backward()
    assert spk.shape == x.grad.shape == shape and mem.shape == shape[1:]
