"""The paper's loss, and one to set beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .._checks import FLOATING, check_some_steps, check_tensor

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["rate_cross_entropy_loss", "rate_mse_loss"]


def rate_mse_loss(out_rec: Tensor, targets: Tensor) -> Tensor:
    r"""Eq. 5: mean over the samples of the squared distance between the one-hot label and the firing rate.

    .. math:: \frac{1}{S} \sum_s \Bigl\lVert y_s - \frac{1}{T} \sum_t o_s[t] \Bigr\rVert^2

    Args:
        out_rec: voted output of every step, ``[T, B, num_classes]``.
        targets: class indices ``[B]``, int64.

    Returns:
        Tensor: scalar, in the dtype of `out_rec` but at least float32.

    Raises:
        ValueError: the shapes or devices do not fit, or a target is no class.
        TypeError: one of them is no tensor, or of another dtype.
    """
    rate = _rate(out_rec, targets)
    label = torch.nn.functional.one_hot(targets, rate.shape[1])
    return (label - rate).square().sum(1).mean()


def rate_cross_entropy_loss(out_rec: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy of the softmax over ten times the firing rates. (Rates lie in [0, 1]: without the factor no class
    could have a probability above 0.23 among ten.)

    Args:
        out_rec, targets: as in :func:`rate_mse_loss`.

    Returns:
        Tensor: scalar, in the dtype of `out_rec` but at least float32.

    Raises:
        ValueError, TypeError: as :func:`rate_mse_loss`.
    """
    return torch.nn.functional.cross_entropy(10 * _rate(out_rec, targets), targets)


def _rate(out_rec, targets):
    check_tensor("out_rec", out_rec, 0, "[T, B, num_classes]", FLOATING)
    check_tensor("targets", targets, 0, "[B]", (torch.int64,))
    if out_rec.dim() != 3 or targets.shape != out_rec.shape[1:2]:
        raise ValueError(
            f"expected out_rec [T, B, num_classes] and targets [B], got {tuple(out_rec.shape)} and {tuple(targets.shape)}"
        )
    check_some_steps(out_rec, name="out_rec")
    classes = out_rec.shape[2]
    if targets.device.type == "cpu" and targets.numel() and not 0 <= targets.min() <= targets.max() < classes:
        raise ValueError(
            f"targets must be class indices from 0 to {classes - 1}, got {int(targets.min())} to {int(targets.max())}"
        )
    if out_rec.device != targets.device:
        raise ValueError(f"targets must be on the device of out_rec, {out_rec.device}, got {targets.device}")
    rate = out_rec.mean(0)
    return rate.to(torch.promote_types(rate.dtype, torch.float32))
