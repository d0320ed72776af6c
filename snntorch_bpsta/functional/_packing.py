"""The code of ``_ops.py`` in few bits: one for the spike, sixteen for the derivative of those who fired."""

import torch


def pack_bits(mask):
    """A flat boolean tensor, eight elements to a byte."""
    padded = torch.nn.functional.pad(mask, (0, -mask.numel() % 8)).view(-1, 8)
    return (padded.to(torch.uint8) << torch.arange(8, dtype=torch.uint8, device=mask.device)).sum(1, dtype=torch.uint8)


def unpack_bits(bits, size):
    return ((bits[:, None] >> torch.arange(8, dtype=torch.uint8, device=bits.device)) & 1).view(-1)[:size].bool()


def pack_code(saved, relu):
    """bfloat16 `saved`, of BPSA, as the tensors that ``unpack_code`` takes. Neurons that did not fire have s = 0."""
    words = saved.as_strided((saved.numel(),), (1,)).view(torch.int16)
    fired = words < 0
    return pack_bits(fired), words[fired], *([pack_bits((words & 1).bool())] if relu else [])


def unpack_code(fired, values, *rest):
    """`saved` of ``pack_code`` again: a new tensor, of the shape and the strides given last."""
    *positive, shape, stride = rest
    saved = torch.empty_strided(shape, stride, dtype=torch.bfloat16, device=values.device)
    words = saved.as_strided((saved.numel(),), (1,)).view(torch.int16)
    if positive:
        words.copy_(unpack_bits(positive[0], words.numel()))
    else:
        words.zero_()
    words[unpack_bits(fired, words.numel())] = values
    return saved
