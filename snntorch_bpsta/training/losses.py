"""The paper's loss."""

import torch


def rate_mse_loss(out_rec, targets):
    r"""Eq. 5: mean over the samples of the squared distance between the one-hot label and the firing rate.

    .. math:: \frac{1}{S} \sum_s \Bigl\lVert y_s - \frac{1}{T} \sum_t o_s[t] \Bigr\rVert^2

    Args:
        out_rec: voted output of every step, ``[T, B, num_classes]``.
        targets: class indices ``[B]``, int64.

    Returns:
        Tensor: scalar, in the dtype of `out_rec` but at least float32.

    Raises:
        ValueError: the shapes do not fit.
    """
    if out_rec.dim() != 3 or targets.shape != out_rec.shape[1:2]:
        raise ValueError(
            f"expected out_rec [T, B, num_classes] and targets [B], got {tuple(out_rec.shape)} and {tuple(targets.shape)}"
        )
    rate = out_rec.mean(0)
    rate = rate.to(torch.promote_types(rate.dtype, torch.float32))
    label = torch.nn.functional.one_hot(targets, out_rec.shape[2])
    return (label - rate).square().sum(1).mean()
