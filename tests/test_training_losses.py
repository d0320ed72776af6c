"""The losses, by hand."""

import math

import pytest
import torch
from _tolerance import assert_close

from snntorch_bpsta.training import rate_cross_entropy_loss, rate_mse_loss

F64 = torch.float64
# two steps, two samples, three classes: rates (1, 1/2, 0) and (0, 0, 1/2)
OUT = torch.tensor([[[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
TARGETS = torch.tensor([0, 1])


def test_squared_error_is_summed_over_classes_and_averaged_over_samples():
    """Eq. 5: distances of the first sample (0, 1/2, 0), of the second (0, 1, 1/2)."""
    assert rate_mse_loss(OUT, TARGETS).item() == pytest.approx((0.25 + 1.25) / 2)


def test_cross_entropy_is_of_ten_times_the_rates():
    first = math.log(math.exp(10) + math.exp(5) + 1) - 10
    second = math.log(2 + math.exp(5))
    assert rate_cross_entropy_loss(OUT, TARGETS).item() == pytest.approx((first + second) / 2)


@pytest.mark.parametrize("loss", [rate_mse_loss, rate_cross_entropy_loss])
def test_every_step_has_its_share_of_the_gradient(loss):
    """The rate is a mean over time: all steps have one gradient, and it is that of the rate by T."""
    out = OUT.clone().requires_grad_()
    loss(out, TARGETS).backward()
    rate = OUT.mean(0)[None].requires_grad_()
    loss(rate, TARGETS).backward()
    assert torch.equal(out.grad[0], out.grad[1])
    torch.testing.assert_close(out.grad[0], rate.grad[0] / 2)


@pytest.mark.parametrize("loss", [rate_mse_loss, rate_cross_entropy_loss])
def test_half_precision_is_summed_in_single(loss):
    value = loss(OUT.half(), TARGETS)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(OUT, TARGETS), rtol=1e-3, atol=1e-3)


def test_the_loss_is_eq_5():
    generator = torch.Generator().manual_seed(0)
    out_rec = torch.rand(7, 5, 4, generator=generator, dtype=F64).requires_grad_()
    targets = torch.tensor([0, 3, 1, 1, 2])
    loss = rate_mse_loss(out_rec, targets)
    expected = 0.0
    for s in range(5):
        for c in range(4):
            rate = sum(out_rec[t, s, c].item() for t in range(7)) / 7
            expected += ((targets[s] == c).item() - rate) ** 2
    assert loss.shape == () and loss.item() == pytest.approx(expected / 5, rel=1e-12)
    loss.backward()
    label = torch.nn.functional.one_hot(targets, 4)
    by_hand = 2 * (out_rec.detach().mean(0) - label) / (5 * 7)
    assert_close(out_rec.grad, by_hand.expand(7, 5, 4), F64, 1.0)


def test_the_loss_of_a_perfect_output_is_zero():
    targets = torch.tensor([2, 0])
    out_rec = torch.nn.functional.one_hot(targets, 3).float().expand(4, 2, 3)
    assert rate_mse_loss(out_rec, targets) == 0
    assert rate_mse_loss(torch.zeros(4, 2, 3), targets) == 1, "silence costs one per sample"


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.float32, torch.float32), (F64, F64)],
    ids=str,
)
def test_the_loss_is_at_least_float32(dtype, expected):
    out_rec = (torch.rand(4, 3, 5) * 8).round().div(8).to(dtype).requires_grad_()
    loss = rate_mse_loss(out_rec, torch.tensor([0, 1, 4]))
    assert loss.dtype == expected
    loss.backward()
    assert out_rec.grad.dtype == dtype and out_rec.grad.count_nonzero() > 0
    exact = rate_mse_loss(out_rec.detach().to(F64), torch.tensor([0, 1, 4]))
    assert loss.item() == pytest.approx(exact.item(), rel=1e-6)


SHAPES = {
    "no-time": ((3, 5), (3,)),
    "no-voting": ((4, 3, 5, 2), (3,)),
    "batch": ((4, 3, 5), (4,)),
    "one-hot": ((4, 3, 5), (3, 5)),
    "scalar": ((4, 3, 5), ()),
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_loss_refuses(name):
    out, targets = SHAPES[name]
    with pytest.raises(ValueError, match=r"expected out_rec \[T, B, num_classes\] and targets \[B\], got"):
        rate_mse_loss(torch.rand(out), torch.zeros(targets, dtype=torch.int64))
