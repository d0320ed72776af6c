"""NeuronDropout, Voting, DirectEncoding, ConvBlock."""

import pytest
import torch
from _layers import F32, F64, NEURONS, PAPER, B, N, T, exact_weights, grid, run
from _tolerance import assert_close
from snntorch.functional import accuracy_rate, ce_count_loss
from snntorch.functional.acc import _population_code
from torch import nn

import snntorch_bpsta as snn

# --- NeuronDropout --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.2, 0.5])
def test_dropout_has_one_mask_per_sample_over_all_steps(p):
    torch.manual_seed(0)
    x = torch.rand(T, 4, 500) + 0.1
    out = snn.NeuronDropout(p)(x)
    mask = out / x
    assert (mask.count_nonzero(0).unique() == torch.tensor([0, T])).all()
    assert_close(mask[mask != 0], torch.full_like(mask[mask != 0], 1 / (1 - p)), F32)
    dropped = (mask[0] == 0).float().mean(1)
    assert ((dropped - p).abs() < 0.1).all(), dropped
    assert len({tuple(sample.tolist()) for sample in mask[0]}) == 4


def test_dropout_draws_a_new_mask_for_every_call():
    torch.manual_seed(0)
    dropout, x = snn.NeuronDropout(0.5), torch.ones(T, B, 50)
    assert not torch.equal(dropout(x), dropout(x))


def test_dropout_is_the_identity_in_eval_mode_and_for_zero():
    x = torch.rand(T, B, N)
    assert snn.NeuronDropout(0.5).eval()(x) is x
    assert snn.NeuronDropout(0)(x) is x


def test_dropout_of_everything():
    assert snn.NeuronDropout(1)(torch.rand(T, B, N)).count_nonzero() == 0


def test_dropout_masks_the_gradient_alike():
    torch.manual_seed(0)
    x = torch.ones(T, B, N, requires_grad=True)
    out = snn.NeuronDropout(0.5)(x)
    out.sum().backward()
    assert torch.equal(x.grad, out) and 0 < out.count_nonzero() < out.numel()


def test_dropout_in_a_multistep_sees_the_whole_sequence():
    torch.manual_seed(0)
    out = snn.MultiStep(nn.Identity(), snn.NeuronDropout(0.5))(torch.ones(T, B, 2, 5, 5))
    assert (out == out[0]).all() and not torch.equal(out[0, 0], out[0, 1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, F64], ids=str)
def test_dropout_keeps_the_dtype(dtype):
    assert snn.NeuronDropout(0.5)(torch.ones(T, B, N, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize(
    ("p", "error"),
    [(-0.1, ValueError), (1.1, ValueError), (float("nan"), ValueError), ("0.5", TypeError), (True, TypeError)],
    ids=str,
)
def test_dropout_refuses(p, error):
    with pytest.raises(error, match=r"p must be a number in \[0, 1\]"):
        snn.NeuronDropout(p)


# --- Voting -----------------------------------------------------------------------------------------------------


def test_voting_by_hand():
    x = torch.tensor([[1.0, 0.0, 1.0, 0.0, 0.0, 3.0], [0.0] * 6])
    assert_close(snn.Voting(3)(x), torch.tensor([[2 / 3, 1.0], [0.0, 0.0]]), F32)
    assert_close(snn.Voting(2)(x), torch.tensor([[0.5, 0.5, 1.5], [0.0] * 3]), F32)
    assert torch.equal(snn.Voting(1)(x), x)
    assert snn.Voting()(torch.rand(T, B, 110)).shape == (T, B, 11)


@pytest.mark.parametrize("voters", [1, 2, 10])
def test_voting_groups_as_the_hosts_population_code(voters):
    classes = 4
    spk = (torch.rand(T, 20, classes * voters, generator=torch.Generator().manual_seed(0)) > 0.7).float()
    voted = snn.Voting(voters)(spk)
    counts = _population_code(spk, classes, classes * voters)
    assert_close(voted.sum(0) * voters, counts, F32)
    targets = counts.argmax(1)
    targets[::3] = (targets[::3] + 1) % classes
    accuracy = accuracy_rate(spk, targets, population_code=True, num_classes=classes)
    assert 0 < accuracy < 1
    assert accuracy == accuracy_rate(voted, targets)
    assert accuracy == pytest.approx((voted.mean(0).argmax(1) == targets).float().mean().item())


def test_voting_agrees_with_the_hosts_loss_on_a_population_code():
    """(`ce_rate_loss` of snnTorch 1.0.0 takes population_code and does nothing with it.)"""
    spk = (torch.rand(T, B, 12, generator=torch.Generator().manual_seed(0)) > 0.6).float()
    targets = torch.tensor([0, 2, 1])
    expected = ce_count_loss(population_code=True, num_classes=3)(spk, targets)
    assert_close(nn.functional.cross_entropy(snn.Voting(4)(spk).sum(0) * 4, targets), expected, F32)
    interleaved = spk.unflatten(-1, (4, 3)).mean(-2)  # the tempting other grouping
    assert (nn.functional.cross_entropy(interleaved.sum(0) * 4, targets) - expected).abs() > 1e-2


def test_voting_refuses():
    with pytest.raises(ValueError, match=r"multiple of voters=4, got \(3, 6\)"):
        snn.Voting(4)(torch.rand(3, 6))
    with pytest.raises(ValueError, match="voters"):
        snn.Voting(0)
    with pytest.raises(TypeError, match="voters"):
        snn.Voting(2.0)


# --- DirectEncoding ---------------------------------------------------------------------------------------------


def test_direct_encoding_is_a_view():
    x = torch.rand(1, B, N)
    out = snn.DirectEncoding(T)(x)
    assert out.shape == (T, B, N) and (out == x).all()
    assert out.data_ptr() == x.data_ptr() and out.stride(0) == 0


def test_direct_encoding_lets_sequences_and_the_identity_warm_up_pass():
    encoding, one, many = snn.DirectEncoding(T), torch.rand(1, B, N), torch.rand(2, B, N)
    assert encoding(many) is many
    encoding.warm_up = "identity"
    assert encoding(one) is one
    encoding.warm_up = "surrogate"
    assert encoding(one).shape[0] == T


@pytest.mark.parametrize(("num_steps", "error"), [(0, ValueError), (2.0, TypeError), (True, TypeError)], ids=str)
def test_direct_encoding_refuses(num_steps, error):
    with pytest.raises(error, match="num_steps"):
        snn.DirectEncoding(num_steps)


def encoded_net(encoding):
    """A block behind a static image; `encoding` False leaves the repetition out."""
    torch.manual_seed(0)
    both = NEURONS["both"]
    first = snn.ConvBlock(2, 4, snn.Leaky(**both), num_steps=T if encoding else None)
    second = snn.ConvBlock(4, 4, snn.Leaky(**both))
    dense = nn.Linear(64, 6)
    net = snn.MultiStep(first, nn.MaxPool2d(2), second, snn.NeuronDropout(0), nn.Flatten(), dense, snn.Leaky(**both))
    return exact_weights(net).to(F64)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_direct_encoding_equals_repeating_the_image(mode):
    encoded, repeated = (encoded_net(encoding).train(mode == "train") for encoding in (True, False))
    image = grid(1, B, 2, 8, 8, seed=4, dtype=F64)
    spk, gradients = run(encoded, image, list(encoded.named_parameters()))
    expected_spk, expected = run(lambda x: repeated(x.repeat(T, 1, 1, 1, 1)), image, list(repeated.named_parameters()))
    assert spk.shape == (T, B, 6) and 0 < spk.count_nonzero() < spk.numel()
    assert torch.equal(spk, expected_spk)
    for (name, gradient), other in zip(gradients.items(), expected.values(), strict=True):
        assert_close(gradient, other, F64, max(1.0, other.abs().max().item()) * 10, name)


def test_direct_encoding_changes_the_running_variance_by_the_documented_factor():
    encoded, repeated = encoded_net(True), encoded_net(False)
    image = grid(1, B, 2, 8, 8, seed=4, dtype=F64)
    encoded(image)
    repeated(image.repeat(T, 1, 1, 1, 1))
    n = B * 8 * 8
    ours, theirs = ((net[0][1].running_var - 0.9) / 0.1 for net in (encoded, repeated))
    assert_close(theirs, ours * (1 - 1 / n) / (1 - 1 / (T * n)), F64, 10.0)
    assert (theirs / ours - 1).abs().min() > 1e-3
    assert_close(encoded[0][1].running_mean, repeated[0][1].running_mean, F64, 1.0)
    assert_close(encoded[2][1].running_var, repeated[2][1].running_var, F64, 1.0)  # behind it nothing changes


# --- ConvBlock ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_steps", [None, T], ids=["frames", "image"])
def test_conv_block_is_the_papers(num_steps):
    lif = snn.Leaky(**PAPER)
    block = snn.ConvBlock(2, 7, lif, num_steps=num_steps)
    kinds = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, *([snn.DirectEncoding] if num_steps else []), snn.Leaky]
    assert [type(layer) for layer in block] == kinds and block[-1] is lif
    conv = block[0]
    assert (conv.kernel_size, conv.padding, conv.stride) == ((3, 3), (1, 1), (1, 1))
    assert (conv.in_channels, conv.out_channels, block[1].num_features) == (2, 7, 7)
    out = snn.MultiStep(block)(torch.rand(1 if num_steps else T, B, 2, 5, 6))
    assert out.shape == (T, B, 7, 5, 6) and set(out.unique().tolist()) == {0.0, 1.0}
