"""All time steps in one pass on the CPU: the kernels of ``cpu_forward.py`` and ``cpu_backward.py``, on memory and threads as
PyTorch has them.

Threads are as many as torch's, each on its own range of neurons; the kernels release the GIL.
"""

from __future__ import annotations

import ctypes
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch

from ..cells import CELLS, flags
from .cpu_backward import backward_kernel
from .cpu_forward import BLOCK, forward_kernel
from .pool import Bands, pool_kernel, unpool_kernel

_MIN_PER_THREAD = 1 << 16  # neuron-steps below which one more thread costs more than it brings
_LARGE, _PAGE = 1 << 20, 1 << 12  # elements, bytes
_NUMBERS = {torch.float32: np.float32, torch.float64: np.float64}
_FUSED = (0, 2, 3)  # surrogates, by their number, that have a kernel of their own: Eq. 9, arc tangent, fast sigmoid
_KEEP = {"none": 0, "float32": 1, "bfloat16": 2, "compact": 2, "membrane": 3}  # what `saved` holds
_HIGHEST = {torch.float32: 2**31 - 1, torch.float64: 2**63 - 1, torch.bfloat16: 2**15 - 1}  # a word without its sign


@cache
def _madvise():
    """The function of the C library, None where there is none."""
    if not sys.platform.startswith("linux"):
        return None
    function = ctypes.CDLL(None).madvise
    function.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    return function


def _use_huge_pages(*tensors):
    """Ask the kernel for pages of 2 MiB behind large new tensors: with those of 4 KiB, the first touch of fresh memory takes
    several times as long as the calculation."""
    for tensor in tensors:
        if tensor is not None and tensor.numel() >= _LARGE and _madvise():
            begin = -(-tensor.data_ptr() // _PAGE) * _PAGE
            size = (tensor.data_ptr() + tensor.nbytes - begin) // _PAGE * _PAGE
            _madvise()(begin, size, 14)  # MADV_HUGEPAGE; advice, of which nothing depends


@cache
def _pool():
    return ThreadPoolExecutor(thread_name_prefix="snntorch_bpsta")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # whose threads are not there, and would be waited for


def _run(kernel, steps, num_neurons, before, behind):
    """Call `kernel` on all neurons, in as many ranges of whole blocks as torch has threads."""
    threads = _threads((steps[1] - steps[0]) * num_neurons)
    if threads == 1:
        kernel(*before, 0, num_neurons, *behind)
        return
    size = -(-num_neurons // threads // BLOCK) * BLOCK
    spread(kernel, [(*before, begin, min(begin + size, num_neurons), *behind) for begin in range(0, num_neurons, size)])


def _threads(work):
    """As many as torch has, but few for little `work`, in neuron-steps."""
    return min(torch.get_num_threads(), max(1, work // _MIN_PER_THREAD))


def spread(kernel, calls):
    """Call `kernel` with each of the arguments, side by side."""
    rest = []
    for call in calls[1:]:
        try:
            rest.append(_pool().submit(kernel, *call))
        except RuntimeError:  # no more threads: the main one has ended, and this one goes on
            kernel(*call)
    kernel(*calls[0])
    for future in rest:
        future.result()


def _run_pieces(bands, num_steps, dtype, run_piece):
    """``run_piece(piece, spk)`` of all pieces of the neurons, with an address that has room for their spikes."""

    def run_range(begin, end):
        pieces = bands.pieces(begin, end, num_steps)
        room = torch.empty(num_steps * max(piece.size for piece in pieces), dtype=dtype)
        for piece in pieces:
            run_piece(piece, room.data_ptr())

    size = -(-bands.bands // _threads(num_steps * bands.begin(bands.bands)))
    spread(run_range, [(begin, min(begin + size, bands.bands)) for begin in range(0, bands.bands, size)])


@cache
def _forward_kernel(cell, reset, prompt, surrogate, dtype):
    return forward_kernel(flags(cell, reset), prompt, surrogate, _NUMBERS[dtype])


@cache
def _pool_kernel(pool, down, across, dtype):
    return pool_kernel(down, across, pool == "average", _NUMBERS[dtype])


@cache
def _unpool_kernel(pool, down, across, dtype):
    return unpool_kernel(down, across, pool == "average", _NUMBERS[dtype])


@cache
def _backward_kernel(cell, reset, prompt, fused, overwrite, relu, dtype):
    return backward_kernel(flags(cell, reset), prompt, fused, overwrite, relu, _NUMBERS[dtype])


def forward(t, c, spk, states, records, saved, values, from_zero, steps=None):
    """See ``passes.py``. Half precision is computed in float32, in a copy."""
    num_neurons, dtype = states[0].numel(), values.dtype
    input_, out = t.input, spk
    if input_.dtype != dtype:
        input_ = input_.to(dtype)
        out = input_ if input_.numel() == spk.numel() else torch.empty_like(spk, dtype=dtype)
    if steps is None:
        steps = 0, c.num_steps
        if num_neurons * c.num_steps >= _LARGE:
            _use_huge_pages(out, states[0], *records, saved)
    keep = 0 if saved is None else _KEEP[c.save]
    fused = keep == 1 and dtype == torch.float32 and c.surrogate in _FUSED and not (c.prompt or c.record)
    arguments = [input_.data_ptr(), out.data_ptr(), num_neurons]
    for x in (*states, *records, saved, values):
        arguments.append(0 if x is None else x.data_ptr())
    for k in range(5):
        x = t[5 + k]
        if x is None:
            arguments += (0, 0, 1)
        else:
            size = x.numel()
            arguments += (x.data_ptr(), size, c.inner[k])
            fused = fused and size == 1
    arguments += (t.factor.data_ptr(), c.surrogate, c.num_steps, *steps, num_neurons)
    kernel = _forward_kernel(c.cell, c.reset, c.prompt, c.surrogate if fused else None, dtype)
    constant = input_.numel() != c.num_steps * num_neurons
    behind = keep, constant, c.relu, CELLS[c.cell].clipped, from_zero, c.p0, c.p1
    if not c.pool:
        _run(kernel, steps, num_neurons, arguments, behind)
    else:
        # The largest is a NaN where one of them is, as the sum: all that are not finite are NaN or alike.
        kind = c.pool if t.factor.isfinite() else "average"
        bands, pool = Bands.of(input_.shape[-4:], c.window), _pool_kernel(kind, *c.window[:2], dtype)
        room, pooled = out.itemsize, (out.data_ptr(), out.numel() // c.num_steps, c.num_steps)

        def run_piece(piece, spk):
            before = arguments[0], spk - piece.begin * room, piece.size, *arguments[3:]
            kernel(*before, piece.begin, piece.begin + piece.size, *behind)
            pool(spk, piece.size, *pooled, piece.band, piece.bands, *bands[:3])

        _run_pieces(bands, c.num_steps, dtype, run_piece)
    if out is not spk:
        spk.copy_(out)


def backward(
    t, c, values, dspk, drecords, saved, records, derivatives, dinput, dstates, dparameters, dfire, from_zero, steps=None
):  # fmt: skip
    """See ``passes.py``."""
    dtype, out, like = values.dtype, dinput, records[0] if saved is None else saved
    size = like.numel()
    num_neurons = size // c.num_steps
    if out.dtype != dtype:
        if dspk is not None:
            dspk = dspk.to(dtype)  # a copy, to be written over
        out = dspk if dspk is not None and dinput.numel() == size else torch.empty_like(dinput, dtype=dtype)
    more = steps is not None  # a step of several calls
    if not more:
        steps = 0, c.num_steps
        if size >= _LARGE:
            _use_huge_pages(out)
    keep, constant = _KEEP[c.save], dinput.numel() != size
    fused = keep == 1 and dspk is not None and not (constant or c.record)
    arguments = [0 if dspk is None else dspk.data_ptr(), num_neurons]
    for x in (*drecords, like, *records, *t[1:5], *derivatives):
        arguments.append(0 if x is None else x.data_ptr())
    parameters = []
    for k in range(5):
        x = t[5 + k]
        if x is None:
            parameters += (values.data_ptr() + k * values.itemsize, 1, 1)
        else:
            parameters += (x.data_ptr(), x.numel(), c.inner[k])
            fused = False
    arguments += (*parameters, out.data_ptr())
    for x in dstates:
        arguments.append(0 if x is None else x.data_ptr())
    for k, x in enumerate((*dparameters, dfire)):
        arguments.append(0 if x is None else x.data_ptr())
        fused = fused and (x is None or k == 4)
    arguments += (values.data_ptr(), _HIGHEST[like.dtype] - c.relu, c.surrogate, c.num_steps, *steps, num_neurons)
    if fused:
        kernel = _backward_kernel(c.cell, c.reset, False, True, arguments[5] == out.data_ptr(), c.relu, dtype)
    else:
        kernel = _backward_kernel(c.cell, c.reset, c.prompt, False, False, False, dtype)
    behind = keep, constant, c.relu, CELLS[c.cell].clipped, from_zero, more, c.residual, c.p0, c.p1
    if not c.pool or dspk is None:
        _run(kernel, steps, num_neurons, arguments, behind)
    else:
        bands, unpool = Bands.of(like.shape[-4:], c.window), _unpool_kernel(c.pool, *c.window[:2], dtype)
        pooled = dspk.data_ptr(), dspk.numel() // c.num_steps, like.data_ptr(), num_neurons, keep, *parameters[9:12]
        factor = values[5].item()

        def run_piece(piece, spk):
            unpool(*pooled, spk, piece.size, c.num_steps, piece.band, piece.bands, *bands[:3], factor)
            before = spk - piece.begin * values.itemsize, piece.size, *arguments[2:]
            kernel(*before, piece.begin, piece.begin + piece.size, *behind)

        _run_pieces(bands, c.num_steps, dtype, run_piece)
    if out is not dinput:
        dinput.copy_(out)
