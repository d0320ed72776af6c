"""What the tests of the engine share: currents, parameters of the six neurons, what autograd keeps."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch

from snntorch_bpsta.functional.cells import CELLS

F32, F64, BF16, F16 = torch.float32, torch.float64, torch.bfloat16, torch.float16
CUDA = torch.cuda.is_available()
DEVICE = {"cpu": "cpu", "triton": "cuda"}
each_impl = pytest.mark.parametrize("impl", ["cpu", "triton"] if CUDA else ["cpu"])
PAPER = {"threshold": 0.5, "reset_mechanism": "zero", "spatial_adj": True, "temporal_alpha": 0.8}
RESETS = ("zero", "subtract", "none")
STEP = (3, 4, 5, 7)


@pytest.fixture(autouse=True)
def unwritten_shows():
    """`torch.empty` is filled with NaN, so that an output that a kernel did not write shows."""
    before = torch.utils.deterministic.fill_uninitialized_memory, torch.are_deterministic_algorithms_enabled()
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True, warn_only=True)  # cuBLAS would refuse
    yield
    torch.utils.deterministic.fill_uninitialized_memory = before[0]
    torch.use_deterministic_algorithms(before[1])


LAYOUTS = {
    "dense": lambda x: x,
    "batch first": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "every other": lambda x: x.repeat_interleave(2, dim=-1)[..., ::2],
    "all steps alike": lambda x: x[:1].expand_as(x),
    "all samples alike": lambda x: x[:, :1].expand_as(x),
    "last first": lambda x: x.transpose(2, -1).contiguous().transpose(2, -1),
    "channels last": lambda x: x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, x.shape[:2]),
    "offset": lambda x: torch.cat([x[:1], x])[1:],
}


def currents(*shape, seed=0, scale=1.2, low=-0.2):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=F64) * scale + low


def weights(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def spread(shape, low, high):
    """Values from `low` to `high`, in disorder, none of them in steps as of a grid."""
    n = int(np.prod(shape))
    order = torch.randperm(n, generator=torch.Generator().manual_seed(5))
    return torch.linspace(low, high, n + 2, dtype=F64)[1:-1][order].reshape(shape)


def parameters(cell, shape):
    """beta, threshold, alpha and v as far as a neuron has them; some decays are clipped."""
    row, wide = CELLS[cell], bool(shape)
    ends = {"beta": (-0.1, 1.1) if row.clipped else (0.1, 0.9), "threshold": (0.3, 0.8)}
    ends |= {"alpha": (-0.1, 1.1)} if row.filter else {}
    ends |= {"beta": (0.3, 0.5), "alpha": (0.6, 0.95)} if row.alpha else {}
    ends |= {"v": (-0.5, 0.8)} if row.recurrent else {}
    numbers = {"beta": 0.4 if row.alpha else 0.9, "threshold": 0.5, "alpha": 0.85, "v": 0.4}
    return {
        name: spread(shape, *pair) if wide else torch.tensor(numbers[name], dtype=F64) for name, pair in ends.items()
    }


@contextmanager
def kept():
    """The tensors that autograd keeps, each memory once: a list that fills."""
    tensors, seen = [], set()

    def pack(x):
        if x.untyped_storage()._cdata not in seen:
            seen.add(x.untyped_storage()._cdata)
            tensors.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        yield tensors


def nbytes(tensors, at_least=64):
    """Of all that are no single numbers."""
    return sum(x.untyped_storage().nbytes() for x in tensors if x.numel() >= at_least)


def counting(function, calls, name):
    def counted(*arguments, **options):
        calls[name] += 1
        return function(*arguments, **options)

    return counted
