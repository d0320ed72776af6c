"""Pooling by the kernels, while the spikes are in cache: everything is that of the two layers to the bit, spikes, states and
every gradient."""

from collections import Counter

import _pooling
import pytest
import torch
from _engine import BF16, F16, F32, F64, PAPER, RESETS, counting, currents, kept, nbytes, weights
from _engine import unwritten_shows as unwritten_shows
from _pairwise import cases
from _pooling import STEP, WIDE, same
from torch import nn

import snntorch_bpsta as snn
from snntorch_bpsta.functional.cells import CELLS
from snntorch_bpsta.functional.kernels import cpu, pool
from snntorch_bpsta.functional.pool import windows_of


@pytest.fixture
def calls(monkeypatch):
    """How often PyTorch's pooling is called."""
    counts = Counter()
    for name in ("max_pool2d", "avg_pool2d"):
        monkeypatch.setattr(nn.functional, name, counting(getattr(nn.functional, name), counts, name))
    return counts


@cases(
    lambda row: row["delay"] or row["cell"] not in ("Alpha", "Lapicque"),
    cell=tuple(CELLS), reset=RESETS, surrogate=("spatial_adj", "ArcTangent", "fast_sigmoid", "triangular"),
    kind=("max", "average"), layout=("dense", "channels last"), learn=(False, True), delay=(True, False),
)  # fmt: skip
def test_every_neuron(calls, cell, reset, surrogate, kind, layout, learn, delay):
    got = same(
        cell=cell, reset=reset, surrogate=surrogate, kind=kind, layout=layout, learn=learn, delay=delay, given=True
    )
    assert sum(calls.values()) == 1  # of those behind
    assert got["spk"].count_nonzero()


@cases(
    lambda row: row["save"] is None or row["dtype"] == F32,
    kind=("max", "average"), window=((2, 2), (3, 3), (2, 5), (7, 10)), dtype=(F32, F64), wide=tuple(WIDE),
    layout=("dense", "channels last", "batch first"), record=(False, True), constant=(False, True), relu=(False, True),
    inplace=(False, True), save=(None, "bfloat16", "compact"),
)  # fmt: skip
def test_every_option(calls, kind, window, dtype, wide, layout, record, constant, relu, inplace, save):
    got = same(
        kind=kind, window=window, dtype=dtype, wide=wide, layout=layout, record=record, constant=constant, relu=relu,
        inplace=inplace, save=save,
    )  # fmt: skip
    assert sum(calls.values()) == 1
    assert got["spk"].count_nonzero()


@pytest.mark.parametrize("layout", ["dense", "channels last"])
@pytest.mark.parametrize("kind", ["max", "average"])
@pytest.mark.parametrize("factor", [0.3, -0.7, 0.0, float("nan"), float("inf"), float("-inf")])
def test_spikes_of_any_value(factor, kind, layout):
    """Of negative ones zero is the largest; the ties of zeros go to the first."""
    same(factor=factor, kind=kind, layout=layout, surrogate="ArcTangent")
    got = same(factor=factor, kind=kind, layout=layout, given=True, relu=True)
    loop = _pooling.run("behind", factor=factor, kind=kind, layout=layout, given=True, relu=True, impl="reference")
    assert torch.equal(got["spk"].isnan(), loop["spk"].isnan()), "silent ones are zero times the factor"


@pytest.mark.parametrize("loss", ["spk", "states"])
@pytest.mark.parametrize("kind", ["max", "average"])
def test_a_gradient_that_does_not_come(loss, kind):
    same(loss=loss, kind=kind)
    same(loss=loss, kind=kind, record=True, cell="Synaptic")


@pytest.mark.parametrize("shape", [(1, *STEP), (5, 0, 4, 7, 10), (2, 1, 1, 2, 2), (3, 2, 1, 5, 4)], ids=str)
@pytest.mark.parametrize("layout", ["dense", "channels last"])
def test_small_sizes(shape, layout):
    same(shape=shape, layout=layout)
    same(shape=shape, layout=layout, kind="average")


def test_nan_currents():
    original = currents

    def poisoned(*shape, **options):
        x = original(*shape, **options)
        x[1, 0, 0, 0, 0], x[2, 1, 1, 3] = float("nan"), float("inf")
        return x

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_pooling, "currents", poisoned)
        for surrogate in ("spatial_adj", "ArcTangent"):
            for save in (None, "bfloat16"):
                same(surrogate=surrogate, layout="channels last", relu=True, save=save)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("layout", ["dense", "channels last"])
@pytest.mark.parametrize("window", [(2, 2), (3, 2)])
def test_many_pieces_in_many_threads(threads, layout, window, monkeypatch):
    """Pieces that end within a plane, and ranges of threads that do."""
    monkeypatch.setattr(cpu, "_MIN_PER_THREAD", 1)
    monkeypatch.setattr(pool, "_PIECE", 400)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        same(layout=layout, window=window, shape=(3, 2, 3, 11, 9), given=True, record=True, wide="numbers")
        same(layout=layout, window=window, shape=(3, 2, 3, 11, 9), kind="average", learn=True)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [BF16, F16])
def test_half_precision_is_left_to_pytorch(dtype, calls):
    same(dtype=dtype)
    assert calls == {"max_pool2d": 2}


def test_what_the_kernels_leave_to_pytorch(calls):
    same(surrogate="of one's own")
    same(impl="reference")
    assert calls == {"max_pool2d": 4}
    calls.clear()
    lif = snn.Leaky(beta=0.9, **PAPER)
    x = currents(5, *STEP).float()
    for layer in (
        nn.MaxPool2d(2, stride=1), nn.MaxPool2d(3, padding=1), nn.MaxPool2d(2, dilation=2), nn.AvgPool2d(2, ceil_mode=True),
        nn.AvgPool2d(2, divisor_override=3), nn.MaxPool2d(2, ceil_mode=True),
    ):  # fmt: skip
        assert windows_of(layer) is None
        spk = lif.sequence(x)[0]
        assert torch.equal(lif.sequence(x, pool=layer)[0], layer(spk.flatten(0, 1)).unflatten(0, (5, 3)))
    with pytest.raises(TypeError, match="return_indices=False"):
        lif.sequence(x, pool=nn.MaxPool2d(2, return_indices=True))
    with pytest.raises(TypeError, match="pool must be nn.MaxPool2d, nn.AvgPool2d or None, got int"):
        lif.sequence(x, pool=2)
    with pytest.raises(RuntimeError, match="too small"):
        lif.sequence(x, pool=nn.MaxPool2d(8))


@pytest.mark.parametrize("save, words", [("float32", 4), ("bfloat16", 2), ("compact", 1.25)])
@pytest.mark.parametrize("inplace", [False, True])
def test_no_spikes_and_no_indices_are_kept(save, words, inplace):
    """Of each neuron and step one word, and where the input may be written over no memory for it."""
    lif = snn.Leaky(beta=0.9, save=save, **PAPER)
    x = currents(5, *STEP).float().requires_grad_()
    current = x * 1
    with kept() as tensors:
        spk, _ = lif.sequence(current, pool=nn.MaxPool2d(2), inplace=inplace)
    assert 0 < nbytes(tensors) <= words * current.numel() + 64
    assert (current.data_ptr() in {t.data_ptr() for t in tensors}) == (inplace and save == "float32")
    assert spk.untyped_storage().nbytes() == 4 * spk.numel()


def test_a_layer_that_needs_what_was_written_over_says_so():
    x = currents(5, *STEP).float().requires_grad_()
    current = x.sigmoid()  # whose backward takes its output
    spk = snn.Leaky(beta=0.9, **PAPER).sequence(current, pool=nn.MaxPool2d(2), inplace=True)[0]
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        spk.sum().backward()


@pytest.mark.parametrize("kind", ["Leaky", "RLeaky", "Alpha"])
def test_hidden_states_go_on(kind):
    options = {"Leaky": {}, "RLeaky": {"V": 0.4, "all_to_all": False}, "Alpha": {"alpha": 0.9}}[kind]
    first, second = (getattr(snn, kind)(beta=0.4, threshold=0.3, init_hidden=True, **options) for _ in range(2))
    for seed in (0, 1):
        x = currents(5, *STEP, seed=seed).float()
        spk = second.sequence(x)[0]
        assert torch.equal(
            first.sequence(x, pool=nn.MaxPool2d(2))[0], nn.MaxPool2d(2)(spk.flatten(0, 1)).unflatten(0, (5, 3))
        )
    for name in first._states:
        assert torch.equal(getattr(first, name), getattr(second, name))


@pytest.mark.parametrize("kind", ["max", "average"])
def test_compiled(kind):
    lif, layer = snn.Leaky(beta=0.9, **PAPER), (nn.MaxPool2d if kind == "max" else nn.AvgPool2d)(2)
    x = currents(5, *STEP).float().requires_grad_()
    grads = []
    for both in (
        torch.compile(lambda x: lif.sequence(x, pool=layer)[0], backend="aot_eager"),
        lambda x: layer(lif.sequence(x)[0].flatten(0, 1)).unflatten(0, x.shape[:2]),
    ):
        spk = both(x)
        grads.append((spk, *torch.autograd.grad((spk * weights(*spk.shape).float()).sum(), x)))
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
