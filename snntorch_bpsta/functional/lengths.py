"""Outputs of sequences of different length: what a network answers after the last step of each is left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .._checks import FLOATING, check_device, check_some_steps, check_tensor
from .._torch import is_compiling

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["last_step", "mean_over_steps"]


def last_step(out_rec: Tensor, lengths: Tensor) -> Tensor:
    """The output of every sequence at its own last step, ``out_rec[lengths - 1]``.

    Args:
        out_rec: outputs of every step, ``[T, B, *]``, floating-point: spikes or membranes.
        lengths: how many steps each sequence has, ``[B]``, int64, from 1 to T; :func:`snntorch_bpsta.data.pad_sequences`
            returns them.

    Returns:
        Tensor: ``[B, *]``, in the dtype of `out_rec`. No gradient goes to the steps after the last.

    Raises:
        ValueError: the shapes or devices do not fit, or a length is out of range.
        TypeError: one of them is no tensor, or of another dtype.

    Example:
        >>> import torch
        >>> from snntorch_bpsta.functional import last_step
        >>> last_step(torch.arange(6.0).view(3, 2), torch.tensor([3, 1])).tolist()
        [4.0, 1.0]
    """
    _check(out_rec, lengths)
    return out_rec[lengths - 1, torch.arange(out_rec.shape[1], device=out_rec.device)]


def mean_over_steps(out_rec: Tensor, lengths: Tensor) -> Tensor:
    r"""The mean output of every sequence over its own steps, of spikes their firing rate.

    .. math:: \frac{1}{T_b} \sum_{t < T_b} o_b[t]

    Args:
        out_rec, lengths: as in :func:`last_step`.

    Returns:
        Tensor: ``[B, *]``, in the dtype of `out_rec`. What stands after the last step changes nothing, NaN neither.

    Raises:
        ValueError, TypeError: as :func:`last_step`.

    Example:
        >>> import torch
        >>> from snntorch_bpsta.functional import mean_over_steps
        >>> mean_over_steps(torch.arange(6.0).view(3, 2), torch.tensor([3, 1])).tolist()
        [2.0, 1.0]
    """
    _check(out_rec, lengths)
    valid = torch.arange(len(out_rec), device=out_rec.device)[:, None] < lengths
    valid, count = (x.view(*x.shape, *[1] * (out_rec.dim() - 2)) for x in (valid, lengths))
    return torch.where(valid, out_rec, 0).sum(0) / count


def _check(out_rec, lengths):
    check_tensor("out_rec", out_rec, 2, "[T, B, *]", FLOATING)
    check_tensor("lengths", lengths, 1, "[B]", (torch.int64,))
    check_some_steps(out_rec, name="out_rec")
    if lengths.shape != out_rec.shape[1:2]:
        raise ValueError(
            f"lengths must be [B] for out_rec [T, B, *], got {tuple(lengths.shape)} for {tuple(out_rec.shape)}"
        )
    check_device("lengths", lengths, out_rec.device, "out_rec")
    if is_compiling() or lengths.device.type != "cpu":  # on a CUDA device the numbers would have to be waited for
        return
    if lengths.numel() and not 1 <= lengths.min() <= lengths.max() <= len(out_rec):
        raise ValueError(
            f"lengths must be from 1 to T = {len(out_rec)}, got {int(lengths.min())} to {int(lengths.max())}"
        )
