"""The losses, by hand."""

import math

import pytest
import torch

from snntorch_bpsta.training import rate_cross_entropy_loss, rate_mse_loss

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
