"""Memory for training: less of it, by spikes that are kept for backward as one bit each; and the same at every step."""

from __future__ import annotations

import ctypes
import weakref
from typing import TYPE_CHECKING

import numpy as np
import torch

from ._checks import check_flags
from ._torch import StorageWeakRef, is_capturing, is_compiling, is_dispatched, is_zero_tensor, version

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = ["compress_spikes", "keep_memory"]

MIN_ELEMENTS = 1 << 12  # smaller tensors are left alone
_SAMPLE = 64  # elements looked at before all are
_CHUNK = {"cpu": 1 << 17, "cuda": 1 << 24}  # elements in work at once: no temporary of the tensor's size
# dtype -> the integers of the same width, and 1.0 as one of them. (+0.0 is 0, -0.0 is not.)
_WORDS = {
    torch.float16: (torch.int16, 0x3C00),
    torch.bfloat16: (torch.int16, 0x3F80),
    torch.float32: (torch.int32, 0x3F800000),
    torch.float64: (torch.int64, 0x3FF0000000000000),
    torch.bool: (torch.int8, 1),
}
# Eight bytes of 0 or 1 as one int64: the product has them as bits of its highest byte.
_GATHER = 0x0102040810204080
# And back: eight copies of a byte, of which each keeps one bit.
_SPREAD, _SELECT = 0x0101010101010101, 0x8040201008040201 - (1 << 64)


class compress_spikes(torch.autograd.graph.saved_tensors_hooks):
    """Store the spikes that layers keep for backward as one bit each; gradients stay the same to the bit.

    Under this context, a tensor that autograd saves (the input of a convolution, linear or pooling layer, the output of
    a neuron, ...) is replaced by its bits if every element is +0.0 or 1.0, and restored when backward asks for it: same
    values, dtype, shape, strides and device. All others are kept as they are, without a copy. Only the forward pass has
    to run inside; backward may run anywhere, any number of times.

    A float32 spike takes 1/32 of its memory, a float16 one 1/16. The memory of a tensor is free once nobody holds it:
    spikes that you collect yourself, in a list for instance, stay. Measured on the CPU: two blocks of convolution,
    ``Leaky`` and average pooling and a linear layer (T=10, batch 32, 32x32 pixels) hold 77 MB after the forward pass in
    place of 135 MB; the rest are the neurons' derivatives and the pooled values, which are not binary.

    Attributes:
        bytes_before: bytes of the tensors that were replaced, since the object was made.
        bytes_after: bytes of what replaced them.

    Raises:
        RuntimeError: in backward, when a saved tensor was modified in place, just as without this context.

    Example:
        >>> import torch, snntorch_bpsta as snn
        >>> from torch import nn
        >>> net = snn.MultiStep(
        ...     nn.Conv2d(1, 8, 3), snn.Leaky(beta=0.9), nn.Conv2d(8, 8, 3, 2), nn.Flatten(), nn.Linear(288, 10)
        ... )
        >>> with snn.compress_spikes() as saved:
        ...     loss = net(torch.rand(16, 4, 1, 16, 16)).square().mean()
        >>> loss.backward()
        >>> saved.bytes_before // saved.bytes_after
        32

    Notes:
        - Left alone: fewer than 4096 elements, other dtypes than float16, bfloat16, float32 and float64, parameters,
          tensor subclasses, and tensors that are not dense in memory (a slice ``x[:, 0]``, an ``expand``).
        - On the CPU, one thread, a float32 element takes 1 ns to pack and 1 ns to restore, and the memory to restore it into
          2 ns if it is fresh from the system. A tensor that is not binary is recognised by a few elements, in 10 to 50 us.
        - On CUDA, a look at the values waits for the device, up to twice for each tensor that is saved; while a CUDA
          graph is captured nothing is replaced.
        - Of nested contexts with hooks for saved tensors PyTorch applies the innermost one alone: inside
          ``torch.autograd.graph.save_on_cpu`` or ``torch.utils.checkpoint`` this context takes over, around them it
          sees what they leave (the inputs of a checkpointed function). Put it around ``checkpoint``, for inside it
          what is not binary would be kept and not recomputed.
        - Like all such contexts it holds for the thread that entered it, and ``torch.func`` transforms refuse it.
    """

    def __init__(self) -> None:
        super().__init__(self._pack, _unpack)
        self.bytes_before = 0
        self.bytes_after = 0
        self._known: weakref.WeakValueDictionary[tuple[object, ...], _Bits] = weakref.WeakValueDictionary()

    def __enter__(self) -> compress_spikes:  # type: ignore[override]  # PyTorch's returns nothing
        super().__enter__()
        return self

    def _pack(self, x):
        if is_compiling():
            return x.detach()
        bits = self._bits(x) if _may_gain(x) else None
        if bits is None:
            # A result of an operation would hold its own graph: `detach` shares memory and version, and not that.
            return _Kept(x if x.is_leaf else x.detach())
        return _Packed(x, bits)

    def _bits(self, x):
        """The bits of `x` in memory order, or None. Two layers that save one tensor, or views of it, share them."""
        key, owner = None, StorageWeakRef(x.untyped_storage())
        if not x.is_leaf:  # the memory of leaves (buffers, data) may change without a new version
            key = owner.cdata, x.data_ptr(), x.numel(), x.dtype, version(x)
            known = self._known.get(key)
            if known is not None:
                return known
        data = pack_bits(x)
        if data is None:
            return None
        bits = _Bits(data, owner)
        if key is not None:
            self._known[key] = bits
        self.bytes_before += x.numel() * x.element_size()
        self.bytes_after += data.numel()
        return bits


class _Kept:
    """A saved tensor as it is. With hooks in place PyTorch does not look for in-place changes: this does."""

    __slots__ = ("data", "counter", "version")

    def __init__(self, x):
        self.data = self.counter = x
        self.version = version(x)

    def unpack(self):
        return self.data


class _Bits:
    """Bits, and a weak reference to the storage they were read from: while it lives, no other storage takes over the
    address, so an address known to `compress_spikes` is that of this one."""

    __slots__ = ("data", "owner", "__weakref__")

    def __init__(self, data, owner):
        self.data = data
        self.owner = owner


class _Packed:
    """A saved tensor as bits, and what it takes to restore it."""

    __slots__ = ("bits", "shape", "stride", "dtype", "counter", "version")

    def __init__(self, x, bits):
        self.bits = bits
        self.shape, self.stride, self.dtype = x.shape, x.stride(), x.dtype
        self.version = version(x)
        self.counter = x.detach()  # shares the version counter of x ...
        self.counter.data = bits.data  # ... and no longer its memory

    def unpack(self):
        return unpack_bits(self.bits.data, self.shape, self.stride, self.dtype)


def _unpack(saved):
    if isinstance(saved, torch.Tensor):
        return saved
    now = version(saved.counter)
    if now != saved.version:
        raise RuntimeError(
            "one of the variables needed for gradient computation has been modified by an inplace operation: a tensor "
            f"saved under compress_spikes is at version {now}; expected version {saved.version} instead"
        )
    return saved.unpack()


def _may_gain(x):
    return (
        type(x) is torch.Tensor
        and x.is_floating_point()
        and x.dtype in _WORDS
        and x.numel() >= MIN_ELEMENTS
        and x.layout is torch.strided
        and x.device.type in _CHUNK
        and not (x.is_leaf and x.requires_grad)
        and not x.is_neg()
        and not is_zero_tensor(x)  # of forward-mode AD: no memory behind it
        and _is_dense(x)
        and not is_dispatched()  # such as a tracer, which would take the bits for a constant
        and not is_capturing(x)
    )


def _is_dense(x):
    """Each element has its own place in memory and there is no gap, in whatever order."""
    if x.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted((stride, size) for size, stride in zip(x.shape, x.stride(), strict=True) if size != 1):
        if stride != expected:
            return False
        expected *= size
    return True


def pack_bits(x: Tensor) -> Tensor | None:
    """The elements of a dense `x` in memory order, eight in a byte (uint8), or None if one is neither +0.0 nor 1.0."""
    integers, one = _WORDS[x.dtype]
    words = x.detach().as_strided((x.numel(),), (1,)).view(integers)
    if not set(words[:: max(1, len(words) // _SAMPLE)].tolist()) <= {0, one}:
        return None
    return _pack_numpy(words, one) if x.device.type == "cpu" else _pack_torch(words, one)


def unpack_bits(bits: Tensor, shape: Sequence[int], stride: Sequence[int], dtype: torch.dtype) -> Tensor:
    """What `pack_bits` was given."""
    x = torch.empty_strided(shape, stride, dtype=dtype, device=bits.device)
    integers, one = _WORDS[dtype]
    words = x.as_strided((x.numel(),), (1,)).view(integers)
    (_unpack_numpy if x.device.type == "cpu" else _unpack_torch)(bits, words, one)
    return x


def _pack_numpy(words, one):
    # On the CPU numpy compares and packs four times as fast as torch on one thread.
    words = words.numpy()
    one = words.dtype.type(one)
    bits = np.empty(-(-len(words) // 8), np.uint8)
    # Compared eight at a time, as int64. What the last piece does not fill was equal before.
    is_one, is_not_zero = (np.zeros(min(_CHUNK["cpu"], 8 * len(bits)), bool) for _ in range(2))
    for begin in range(0, len(words), len(is_one)):
        part = words[begin : begin + len(is_one)]
        np.equal(part, one, out=is_one[: len(part)])
        np.not_equal(part, 0, out=is_not_zero[: len(part)])
        if (is_one.view(np.int64) != is_not_zero.view(np.int64)).any():
            return None
        end = begin + len(part)
        bits[begin // 8 : (end + 7) // 8] = np.packbits(is_one[: len(part)], bitorder="little")
    return torch.from_numpy(bits)


def _unpack_numpy(bits, words, one):
    bits, words = bits.numpy(), words.numpy()
    for begin in range(0, len(words), _CHUNK["cpu"]):
        part = words[begin : begin + _CHUNK["cpu"]]
        is_one = np.unpackbits(bits[begin // 8 :][: _CHUNK["cpu"] // 8], count=len(part), bitorder="little")
        np.multiply(is_one, words.dtype.type(one), out=part)


def _pack_torch(words, one):
    bits = torch.empty(-(-len(words) // 8), dtype=torch.uint8, device=words.device)
    bad = torch.zeros((), dtype=torch.bool, device=words.device)
    for part, packed in zip(words.split(_CHUNK["cuda"]), bits.split(_CHUNK["cuda"] // 8), strict=True):
        eights = torch.zeros(len(packed), dtype=torch.int64, device=words.device)
        is_one = eights.view(torch.bool)[: len(part)]
        torch.eq(part, one, out=is_one)
        bad |= (is_one != (part != 0)).any()
        packed.copy_(eights.mul_(_GATHER).view(torch.uint8)[7::8])
    return None if bad.item() else bits


def _unpack_torch(bits, words, one):
    for part, packed in zip(words.split(_CHUNK["cuda"]), bits.split(_CHUNK["cuda"] // 8), strict=True):
        eights = packed.to(torch.int64).mul_(_SPREAD).bitwise_and_(_SELECT)
        torch.mul(eights.view(torch.uint8)[: len(part)] != 0, one, out=part)


# Of mallopt(3), and what glibc begins with.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_KEPT = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1}
_GLIBCS = {_MMAP_MAX: 65536, _TRIM_THRESHOLD: 128 * 1024}


def keep_memory(on: bool = True) -> None:
    """Have this process keep the memory that it frees, so that the next training step finds it as it left it.

    Large tensors are new memory at every step: the system hands out pages that it has to fill with zeros, and takes them
    back when they are freed. On a CPU that can be a good part of the time of a step. Afterwards glibc takes tensors of every
    size from the memory that it has (``mallopt``: ``M_MMAP_MAX`` 0, and no ``M_TRIM_THRESHOLD``), and hands none back to the
    system. The process stays as large as its largest step, and a few per cent larger for the gaps.

    For the whole process, PyTorch's other layers and numpy too, and for what is allocated from now on; not for CUDA's
    memory, which PyTorch keeps by itself. :func:`training.run.train` and ``evaluate``
    do it, and so does ``bpsta``.

    Args:
        on: False puts glibc's own settings back, and hands back what is free.

    Raises:
        TypeError: `on` is no bool.
        NotImplementedError: the C library of this system is not glibc (macOS, Windows, Alpine): nothing was changed.

    Example:
        >>> import snntorch_bpsta as snn
        >>> snn.keep_memory()  # before the first step  # doctest: +SKIP
    """
    check_flags(on=on)
    libc = _glibc()
    if libc is None:
        raise NotImplementedError(
            "keep_memory needs glibc, the C library of most Linux systems, and this one has another"
        )
    for option, value in (_KEPT if on else _GLIBCS).items():
        libc.mallopt(option, value)
    if not on:
        libc.malloc_trim(0)


def _glibc():
    """The C library of this process, if it is glibc."""
    try:
        libc = ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows
        return None
    return libc if hasattr(libc, "gnu_get_libc_version") else None
