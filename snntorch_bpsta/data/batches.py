"""Sequences of different length as one batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import default_collate

from .._checks import REAL, as_array, check_instance, check_some_steps, check_tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = ["pad_sequences"]


def pad_sequences(samples: Sequence[tuple[Any, Any]]) -> tuple[Tensor, Tensor, Any]:
    """A batch ``[T, B, ...]``, time first, of sequences of different length: the `collate_fn` of a PyTorch DataLoader.

    The samples are those of any data set whose samples are (sequence, target): of tonic with ``ToFrame``, of
    :func:`from_folder`. A shorter sequence is followed by zeros. What a network does in these steps is no answer:
    :func:`snntorch_bpsta.functional.last_step` and :func:`snntorch_bpsta.functional.mean_over_steps` leave them out.

    Args:
        samples: pairs (sequence, target); a sequence is an array or a tensor [T, ...] with T >= 1 of its own, such as frames
            [T, C, H, W]. Floats keep their dtype, integers and bool become float32.

    Returns:
        (input, lengths, targets): the sequences [T, B, ...] with the largest T, their lengths int64 [B], and the targets as
        PyTorch's ``default_collate`` puts them together: of integers int64 [B].

    Raises:
        ValueError: no sample; sequences that differ in more than their length, or on several devices; one without a step.
        TypeError: a sample that is no pair, a sequence that is no array of real numbers.

    Example:
        >>> import torch
        >>> from snntorch_bpsta.data import pad_sequences
        >>> x, lengths, targets = pad_sequences([(torch.ones(3, 2), 0), (torch.ones(1, 2), 1)])
        >>> x.shape, lengths.tolist(), x[:, 1, 0].tolist()
        (torch.Size([3, 2, 2]), [3, 1], [1.0, 0.0, 0.0])
    """
    check_instance("samples", samples, (list, tuple), "a list of pairs (sequence, target)")
    if not samples:
        raise ValueError("samples must hold at least one pair (sequence, target), got none")
    sequences = []
    for i, sample in enumerate(samples):
        if not isinstance(sample, (list, tuple)) or len(sample) != 2:
            got = f"{len(sample)} values" if isinstance(sample, (list, tuple)) else type(sample).__name__
            raise TypeError(f"samples[{i}] must be a pair (sequence, target), got {got}")
        sequences.append(_as_sequence(f"the sequence in samples[{i}]", sample[0]))
    shapes = {tuple(sequence.shape[1:]) for sequence in sequences}
    if len(shapes) > 1:
        raise ValueError(f"expected samples of one shape [T, *] that differ in T alone, got * = {sorted(shapes)}")
    devices = {str(sequence.device) for sequence in sequences}
    if len(devices) > 1:
        raise ValueError(f"expected samples on one device, got {sorted(devices)}")
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    padded = torch.nn.utils.rnn.pad_sequence(sequences)
    return padded, lengths, default_collate([target for _, target in samples])


def _as_sequence(name, value):
    """As a floating-point tensor [T, ...]."""
    if not isinstance(value, torch.Tensor):
        array = as_array(name, value)
        if array.dtype.kind not in "iufb":
            raise TypeError(f"{name} must be an array of real numbers [T, ...], got {array.dtype}")
        floats = {"float16": np.float16, "float32": np.float32, "float64": np.float64}
        value = torch.from_numpy(array.astype(floats.get(array.dtype.name, np.float32)))
    check_tensor(name, value, 1, "[T, ...]", (*REAL, torch.bool))
    check_some_steps(value, name=name)
    return value if value.is_floating_point() else value.float()
