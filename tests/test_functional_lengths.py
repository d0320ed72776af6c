"""last_step and mean_over_steps: every sequence as if it stood alone."""

import pytest
import torch
from torch import nn

import snntorch_bpsta as snn
from snntorch_bpsta.data import pad_sequences
from snntorch_bpsta.functional import last_step, mean_over_steps

NAN = float("nan")
ALONE = {last_step: lambda out: out[-1], mean_over_steps: lambda out: out.mean(0)}


@pytest.mark.parametrize("function", ALONE, ids=lambda function: function.__name__)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 1)], ids=str)
@pytest.mark.parametrize("lengths", [[5, 1, 3], [5, 5, 5], [1, 2, 1]], ids=str)
def test_it_is_what_each_sequence_gives_alone(function, shape, lengths):
    x = torch.randn(5, len(lengths), *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for b, length in enumerate(lengths):
        x[length:, b] = NAN
    x.requires_grad_()
    out = function(x, torch.tensor(lengths))
    expected = torch.stack([ALONE[function](x[:length, b]) for b, length in enumerate(lengths)])
    torch.testing.assert_close(out, expected)
    (ours,), (theirs,) = (torch.autograd.grad((y * y).sum(), x) for y in (out, expected))
    torch.testing.assert_close(ours, theirs)
    assert not any(ours[length:, b].any() for b, length in enumerate(lengths))


@pytest.mark.parametrize("function", ALONE, ids=lambda function: function.__name__)
def test_a_padded_batch_through_a_network_is_its_sequences_one_by_one(function):
    torch.manual_seed(0)
    net = snn.MultiStep(
        nn.Linear(4, 6), snn.Leaky(beta=0.9, spatial_adj=True), nn.Linear(6, 3), snn.Leaky(beta=0.5, threshold=0.1)
    )
    alone = [torch.rand(length, 4) * 3 for length in (7, 2, 4)]
    x, lengths, _ = pad_sequences([(each, 0) for each in alone])
    x[2:, 1] = 5  # a network may answer to the padding, too
    out = function(net(x), lengths)
    for b, each in enumerate(alone):
        torch.testing.assert_close(out[b], ALONE[function](net(each[:, None]))[0])
    assert out.any()


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32])
def test_the_dtype_stays(kind):
    for function in ALONE:
        assert function(torch.ones(2, 1, dtype=kind), torch.tensor([2])).dtype == kind


@pytest.mark.parametrize("function", ALONE, ids=lambda function: function.__name__)
@pytest.mark.parametrize(
    ("out_rec", "lengths", "error", "message"),
    [
        (torch.ones(3, 2), torch.tensor([1, 4]), ValueError, "lengths must be from 1 to T = 3, got 1 to 4"),
        (torch.ones(3, 2), torch.tensor([0, 1]), ValueError, "got 0 to 1"),
        (torch.ones(3, 2), torch.tensor([1]), ValueError, r"lengths must be \[B\] .*got \(1,\) for \(3, 2\)"),
        (torch.ones(3, 2), torch.tensor([1.0, 2.0]), TypeError, "lengths must be a dense tensor, got torch.float32"),
        (torch.ones(3, 2), [1, 2], TypeError, "lengths must be a tensor"),
        (torch.ones(3), torch.tensor([1]), ValueError, "out_rec must have shape"),
        (torch.ones(0, 1), torch.tensor([1]), ValueError, "out_rec must hold at least one time step"),
        (
            torch.ones(3, 2, dtype=torch.int64),
            torch.tensor([1, 2]),
            TypeError,
            "out_rec must be a dense floating-point",
        ),
    ],
)
def test_what_does_not_fit_is_refused(function, out_rec, lengths, error, message):
    with pytest.raises(error, match=message):
        function(out_rec, lengths)
