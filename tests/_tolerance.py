"""One table of tolerances: dtype -> (atol, rtol), for gradients and membranes, never for spikes.

The figures are multiples of the unit round-off of each type, wide enough for a few dozen time steps
and narrow enough that a forgotten factor beta (0.9), a shifted time index or a missing term shows.
"""

import torch

TOLERANCE = {
    torch.float64: (1e-14, 1e-12),
    torch.float32: (1e-6, 1e-5),
    torch.bfloat16: (1e-2, 5e-2),
    torch.float16: (1e-3, 1e-2),
}


def assert_close(actual, expected, dtype, scale=None, name="value"):
    """Assert |actual - expected| <= atol + rtol * scale.

    Args:
        actual, expected: Arrays or tensors of one shape.
        dtype: The type the calculation was done in: the row of the table.
        scale: What an error is measured against, broadcastable to the shape. Default |expected|;
            for a sum that cancels, the sum of its absolute terms: no summation does better.
        name: What the message calls the value.
    """
    atol, rtol = TOLERANCE[dtype]
    actual = torch.as_tensor(actual).detach().to("cpu", torch.float64)
    expected = torch.as_tensor(expected).detach().to("cpu", torch.float64)
    assert actual.shape == expected.shape, f"{name}: {tuple(actual.shape)}, not {tuple(expected.shape)}"
    scale = expected.abs() if scale is None else torch.as_tensor(scale, dtype=torch.float64)
    error = (actual - expected).abs()
    excess = error - (atol + rtol * scale)
    # `not (... <= 0)` and not `... > 0`: a NaN has to fail.
    if error.numel() and not bool((excess <= 0).all()):
        raise AssertionError(
            f"{name} is off by {error.max().item():.3e} where |expected| <= "
            f"{expected.abs().max().item():.3e} (atol {atol:g}, rtol {rtol:g})"
        )
