"""The code of ``functional/operator.py`` in few bits: one for the spike, sixteen for the derivative of those who fired."""

import torch

from ...memory import pack_bits, unpack_bits


def pack_code(saved, relu):
    """bfloat16 `saved`, of BPSA, as the tensors that ``unpack_code`` takes. Neurons that did not fire have s = 0. The
    memory of `saved` is written over."""
    words = saved.as_strided((saved.numel(),), (1,)).view(torch.int16)
    if words.device.type != "cpu":
        fired = words < 0
        return pack_bits(fired), words[fired], *([pack_bits((words & 1).bool())] if relu else [])
    from .rows import pack_kernel

    fired, positive = (torch.empty(-(-len(words) // 8) * use, dtype=torch.uint8) for use in (True, relu))
    count = pack_kernel(words.numpy(), fired.numpy(), positive.numpy())  # one more, so that there is always one to read
    return fired, words[: count + 1].clone(), *([positive] if relu else [])


def unpack_code(fired, values, *rest):
    """`saved` of ``pack_code`` again: a new tensor, of the shape and the strides given last."""
    *positive, shape, stride = rest
    saved = torch.empty_strided(shape, stride, dtype=torch.bfloat16, device=values.device)
    words = saved.as_strided((saved.numel(),), (1,)).view(torch.int16)
    if words.device.type != "cpu":
        flat = words.shape, words.stride(), torch.bool
        words.copy_(unpack_bits(positive[0], *flat)) if positive else words.zero_()
        words[unpack_bits(fired, *flat)] = values
        return saved
    from .rows import unpack_kernel

    positive = positive[0] if positive else fired[:0]
    unpack_kernel(fired.numpy(), positive.numpy(), values.numpy(), words.numpy())
    return saved
