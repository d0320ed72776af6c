"""All time steps in one pass on the CPU: the kernels of ``template.py``, on memory and threads as PyTorch has them.

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
from .template import BLOCK, backward_kernel, forward_kernel

_MIN_PER_THREAD = 1 << 16  # neuron-steps below which one more thread costs more than it brings
_LARGE, _PAGE = 1 << 22, 1 << 12  # bytes
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
        if tensor.nbytes >= _LARGE and _madvise():
            begin = -(-tensor.data_ptr() // _PAGE) * _PAGE
            size = (tensor.data_ptr() + tensor.nbytes - begin) // _PAGE * _PAGE
            _madvise()(begin, size, 14)  # MADV_HUGEPAGE; advice, of which nothing depends


@cache
def _pool():
    return ThreadPoolExecutor(thread_name_prefix="snntorch_bpsta")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # whose threads are not there, and would be waited for


def _run(kernel, num_steps, steps, num_neurons, before, behind):
    """Call `kernel` on all neurons, in as many ranges of whole blocks as torch has threads."""
    before = (*before, num_steps, *steps, num_neurons)
    threads = min(torch.get_num_threads(), max(1, (steps[1] - steps[0]) * num_neurons // _MIN_PER_THREAD))
    if threads == 1:
        kernel(*before, 0, num_neurons, *behind)
        return
    size = -(-num_neurons // threads // BLOCK) * BLOCK
    ranges = [(begin, min(begin + size, num_neurons)) for begin in range(0, num_neurons, size)]
    rest = [_pool().submit(kernel, *before, *part, *behind) for part in ranges[1:]]
    kernel(*before, *ranges[0], *behind)
    for future in rest:
        future.result()


def _at(*tensors):
    """Their addresses."""
    return [0 if x is None else x.data_ptr() for x in tensors]


def _places(parameters, inner, values=None):
    """Address, number of elements and of neighbours that share one, for each of the five parameters."""
    places = []
    for k, (parameter, neighbours) in enumerate(zip(parameters, inner, strict=True)):
        if parameter is not None:
            places += [parameter.data_ptr(), parameter.numel(), neighbours]
        elif values is not None:
            places += [values.data_ptr() + k * values.itemsize, 1, 1]
        else:
            places += [0, 0, 1]
    return places


@cache
def _kernels(cell, reset, prompt, dtype, surrogate, overwrite, relu):
    """The kernel forward with the surrogate (None: any), and backward (fused if there is a surrogate)."""
    constants = flags(cell, reset), prompt
    if overwrite is None:
        return forward_kernel(*constants, surrogate, dtype)
    return backward_kernel(*constants, surrogate is not None, overwrite, relu, dtype)


def forward(t, c, spk, states, records, saved, values, from_zero, steps=None):
    """See ``operator.py``. Half precision is computed in float32, in a copy."""
    mem, dtype = states[0], values.dtype
    input_, out = t.input, spk
    half = input_.dtype != dtype
    if half:
        input_ = input_.to(dtype)
        out = input_ if input_.numel() == spk.numel() else torch.empty_like(spk, dtype=dtype)
    if steps is None and mem.nbytes * c.num_steps >= _LARGE:
        _use_huge_pages(out, mem, *(x for x in (*records, saved) if x is not None))
    parameters = t[5:10]
    scalar = all(parameter is None or parameter.numel() == 1 for parameter in parameters)
    keep = 0 if saved is None else _KEEP[c.save]
    fused = (
        keep == 1 and scalar and dtype == torch.float32 and c.surrogate in _FUSED and not c.prompt
        and not any(x is not None for x in records)
    )  # fmt: skip
    _run(
        _kernels(c.cell, c.reset, c.prompt, _NUMBERS[dtype], c.surrogate if fused else None, None, None),
        c.num_steps, steps or (0, c.num_steps), mem.numel(),
        (*_at(input_, out, *states, *records, saved, values), *_places(parameters, c.inner), t.factor.data_ptr(), c.surrogate),
        (keep, input_.numel() != out.numel(), c.relu, CELLS[c.cell].clipped, from_zero, c.p0, c.p1),
    )  # fmt: skip
    if half:
        spk.copy_(out)


def backward(
    t, c, values, dspk, drecords, saved, records, derivatives, dinput, dstates, dparameters, dfire, from_zero, steps=None
):  # fmt: skip
    """See ``operator.py``."""
    dtype = values.dtype
    out, like = dinput, records[0] if saved is None else saved
    num_neurons = like.numel() // c.num_steps
    if dinput.dtype != dtype:
        if dspk is not None:
            dspk = dspk.to(dtype)  # a copy, to be written over
        out = dspk if dspk is not None and dinput.numel() == dspk.numel() else torch.empty_like(dinput, dtype=dtype)
    if steps is None and out.nbytes >= _LARGE:
        _use_huge_pages(out)
    keep = _KEEP[c.save]
    constant = dinput.numel() != like.numel()
    fused = (
        keep == 1 and dspk is not None and dtype == torch.float32 and not constant
        and all(x is None for x in (*t[5:10], *drecords, *dparameters, dfire))
    )  # fmt: skip
    relu = c.relu and fused
    _run(
        _kernels(
            c.cell, c.reset, c.prompt, _NUMBERS[dtype], c.surrogate if fused else None,
            fused and out.data_ptr() == like.data_ptr(), relu,
        ),
        c.num_steps, steps or (0, c.num_steps), num_neurons,
        (
            *_at(dspk, *drecords, saved if saved is not None else records[0], *records, *t[1:5], *derivatives),
            *_places(t[5:10], c.inner, values), *_at(out, *dstates, *dparameters, dfire, values),
            _HIGHEST[like.dtype] - c.relu, c.surrogate,
        ),
        (keep, constant, c.relu, CELLS[c.cell].clipped, from_zero, steps is not None, c.residual, c.p0, c.p1),
    )  # fmt: skip
    if out is not dinput:
        dinput.copy_(out)
