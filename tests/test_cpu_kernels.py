"""The CPU kernels against the reference: spikes and membranes to the bit, every gradient within the tolerance table."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from _tolerance import assert_close

import snntorch_bpsta as snn
from snntorch_bpsta.functional import lif_multistep

SURROGATES = {
    "spatial": {"spatial_adj": True},
    "rectangle": {"spike_grad": snn.surrogate.rectangle(0.8)},
    "arctan": {},
}
# odd sizes on purpose: one neuron, a block of neurons and one more, more than the threads' smallest share
SHAPES = [(1, 1, 1), (2, 3, 5), (7, 2, 1025), (63, 3, 2, 7, 5), (16, 8, 2051)]


@pytest.fixture(autouse=True)
def unwritten_shows():
    """`torch.empty` is filled with NaN, so that an output that a kernel did not write shows."""
    before = torch.utils.deterministic.fill_uninitialized_memory, torch.are_deterministic_algorithms_enabled()
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True)
    yield
    torch.utils.deterministic.fill_uninitialized_memory = before[0]
    torch.use_deterministic_algorithms(before[1])


def run(impl, shape, dtype, layout=lambda x: x, seed=0, **options):
    torch.manual_seed(seed)
    cur = layout(torch.rand(shape, dtype=dtype) * 1.2 - 0.2).detach().requires_grad_()
    mem = (torch.rand(shape[1:], dtype=dtype)).requires_grad_()
    w_spk, w_mem = torch.randn(shape, dtype=dtype), torch.randn(shape[1:], dtype=dtype)
    out = lif_multistep(cur, mem, beta=0.9, threshold=0.5, impl=impl, **options)
    ((out.spk * w_spk).sum() + (out.mem * w_mem).sum()).backward()
    return {"spk": out.spk.detach(), "mem": out.mem.detach(), "dinput": cur.grad, "dmem": mem.grad}


def assert_agree(actual, expected, dtype):
    for name in ("spk", "mem"):
        assert torch.equal(actual[name], expected[name]), name
    for name in ("dinput", "dmem"):  # sums that may cancel: measured against the largest
        assert_close(actual[name], expected[name], dtype, expected[name].abs().max(), name)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("alpha", [0.0, 0.8])
@pytest.mark.parametrize("reset", ["zero", "subtract", "none"])
@pytest.mark.parametrize("surrogate", SURROGATES)
def test_equals_the_reference(surrogate, reset, alpha, dtype, shape):
    if alpha and reset == "none":
        alpha = 0.0  # refused by the door
    options = SURROGATES[surrogate] | {"reset_mechanism": reset, "temporal_alpha": alpha}
    assert_agree(run("cpu", shape, dtype, **options), run("reference", shape, dtype, **options), dtype)


@pytest.mark.parametrize(
    "layout",
    [
        pytest.param(lambda x: x.transpose(0, 1).contiguous().transpose(0, 1), id="batch-first"),
        pytest.param(lambda x: x.repeat_interleave(2, dim=-1)[..., ::2], id="every-other"),
        pytest.param(lambda x: x[:1].expand_as(x), id="expanded"),
    ],
)
def test_strides_do_not_matter(layout):
    options = {"spatial_adj": True, "reset_mechanism": "zero", "temporal_alpha": 0.8}
    strided = run("cpu", (6, 3, 7), torch.float32, layout, **options)
    dense = run("cpu", (6, 3, 7), torch.float32, lambda x: layout(x).contiguous(), **options)
    for name, value in strided.items():
        assert torch.equal(value, dense[name]), name


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_number_of_threads_does_not_matter(threads):
    options = {"spatial_adj": True, "reset_mechanism": "zero", "temporal_alpha": 0.8}
    before = torch.get_num_threads()
    alone = run("cpu", (16, 9, 2051), torch.float32, **options)
    try:
        torch.set_num_threads(threads)
        together = run("cpu", (16, 9, 2051), torch.float32, **options)
    finally:
        torch.set_num_threads(before)
    for name, value in alone.items():
        assert torch.equal(value, together[name]), name


def test_two_python_threads_do_not_disturb_each_other():
    options = {"spatial_adj": True, "reset_mechanism": "zero", "temporal_alpha": 0.8}
    expected = [run("cpu", (16, 9, 2051), torch.float32, seed=0, **options)["spk"].sum() for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:  # the seed is torch's global one, so only sums of a fixed input are compared
        cur = torch.rand(16, 9, 2051)
        spk = lif_multistep(cur, beta=0.9, threshold=0.5, spatial_adj=True, impl="reference").spk
        both = pool.map(
            lambda _: lif_multistep(cur, beta=0.9, threshold=0.5, spatial_adj=True, impl="cpu").spk, range(8)
        )
        assert all(torch.equal(each, spk) for each in both)
    assert expected[0] == expected[1]


def test_empty_batch():
    cur = torch.rand(4, 0, 3, requires_grad=True)
    out = lif_multistep(cur, beta=0.9, spatial_adj=True, impl="cpu")
    out.spk.sum().backward()
    assert out.spk.shape == (4, 0, 3) and out.mem.shape == (0, 3) and cur.grad.shape == cur.shape


def test_second_derivative_is_refused_and_not_wrong():
    cur = torch.rand(4, 2, 3, requires_grad=True)
    weight = torch.ones(4, 2, 3, requires_grad=True)
    spk = lif_multistep(cur, beta=0.9, spatial_adj=True, impl="cpu").spk
    (first,) = torch.autograd.grad((spk * weight).sum(), cur, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivative of lif_multistep"):
        first.sum().backward()


def test_half_a_sequence_and_its_membrane_give_the_whole():
    cur = torch.rand(10, 3, 50)
    options = {"beta": 0.9, "threshold": 0.5, "spatial_adj": True, "reset_mechanism": "zero", "impl": "cpu"}
    whole = lif_multistep(cur, **options)
    first = lif_multistep(cur[:4], **options)
    second = lif_multistep(cur[4:], first.mem, **options)
    assert torch.equal(torch.cat([first.spk, second.spk]), whole.spk) and torch.equal(second.mem, whole.mem)


def test_numba_is_imported_by_the_first_call_only():
    code = (
        "import sys, torch, snntorch_bpsta as snn; assert 'numba' not in sys.modules;"
        "snn.Leaky(beta=0.9).sequence(torch.rand(2, 3, 4)); assert 'numba' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
