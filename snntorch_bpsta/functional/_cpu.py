"""All time steps in one pass on the CPU: numba kernels with a hand-written backward.

Blocks of contiguous neurons outside, time inside, so that the state of a block stays in cache. The inner loops are free
of branches and index plain slices, which is what lets LLVM vectorise them. No fast-math: the spikes are the reference's
to the bit. Threads are as many as torch's, each on its own range of neurons; the kernels release the GIL.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numba
import numpy as np
import torch
from torch.autograd.function import once_differentiable

BLOCK = 1024  # neurons
_MIN_PER_THREAD = 1 << 16  # neuron-steps below which one more thread costs more than it brings
_RESETS = {"zero": 0, "subtract": 1, "none": 2}


@numba.njit(nogil=True, cache=True, error_model="numpy")
def lif_fwd_kernel(input_, mem, spk, s, beta, threshold, reset, surrogate, parameter, begin, end):
    """For the neurons from `begin` to `end`: spikes `spk` and the surrogate's derivative `s`, [T, N] as `input_`. `mem`,
    [N], is the membrane before the first step, overwritten by the last one."""
    one, zero = input_.dtype.type(1), input_.dtype.type(0)
    two = one + one
    half_pi_alpha = input_.dtype.type(np.pi / 2 * parameter)
    row = np.empty(BLOCK, input_.dtype)
    for lo in range(begin, end, BLOCK):
        n = min(BLOCK, end - lo)
        u, o = mem[lo : lo + n], row[:n]
        for i in range(n):
            o[i] = one if u[i] - threshold > zero else zero
        for t in range(input_.shape[0]):
            cur, spk_t, s_t = input_[t, lo : lo + n], spk[t, lo : lo + n], s[t, lo : lo + n]
            if reset == 0:  # Eq. 2
                for i in range(n):
                    u[i] = beta * ((one - o[i]) * u[i]) + cur[i]
            elif reset == 1:
                for i in range(n):
                    u[i] = beta * u[i] + cur[i] - o[i] * threshold
            else:
                for i in range(n):
                    u[i] = beta * u[i] + cur[i]
            for i in range(n):  # Eq. 3
                o[i] = one if u[i] - threshold > zero else zero
                spk_t[i] = o[i]
            if surrogate == 0:  # Eq. 9
                for i in range(n):
                    fired = u[i] - threshold > zero
                    q = one / (u[i] if fired else threshold)
                    s_t[i] = q if fired else zero
            elif surrogate == 1:
                for i in range(n):
                    s_t[i] = one / parameter if abs(u[i] - threshold) < parameter / two else zero
            else:
                for i in range(n):
                    x = half_pi_alpha * (u[i] - threshold)
                    s_t[i] = parameter / two / (one + x * x)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def lif_bwd_kernel(dspk, dmem, spk, s, dinput, beta, alpha, reset, begin, end):
    """The recursion of Eq. 6-10 for the neurons from `begin` to `end`. `dmem`, [N], is the gradient of the last membrane;
    the others are [T, N]. Fills `dinput`."""
    one, zero = dspk.dtype.type(1), dspk.dtype.type(0)
    cut = one if reset == 0 else zero  # only reset-to-zero cuts the path through time at a spike
    last = dspk.shape[0] - 1
    row = np.empty(BLOCK, dspk.dtype)
    for lo in range(begin, end, BLOCK):
        n = min(BLOCK, end - lo)
        du = row[:n]
        for t in range(last, -1, -1):
            g, o, s_t, out = (
                dspk[t, lo : lo + n], spk[t, lo : lo + n], s[t, lo : lo + n], dinput[t, lo : lo + n],
            )  # fmt: skip
            if t == last:
                m = dmem[lo : lo + n]
                for i in range(n):
                    du[i] = s_t[i] * g[i] + m[i]
                    out[i] = du[i]
            else:
                for i in range(n):
                    du[i] = s_t[i] * g[i] + beta * ((one - cut * o[i]) + alpha * s_t[i]) * du[i]
                    out[i] = du[i]


@cache
def _pool():
    return ThreadPoolExecutor(thread_name_prefix="snntorch_bpsta")


def _run(kernel, num_steps, num_neurons, *arguments):
    """Call `kernel` on all neurons, in as many ranges of whole blocks as torch has threads."""
    threads = min(torch.get_num_threads(), max(1, num_steps * num_neurons // _MIN_PER_THREAD))
    if threads == 1:
        kernel(*arguments, 0, num_neurons)
        return
    size = -(-num_neurons // threads // BLOCK) * BLOCK
    ranges = [(begin, min(begin + size, num_neurons)) for begin in range(0, num_neurons, size)]
    futures = [_pool().submit(kernel, *arguments, *part) for part in ranges[1:]]
    kernel(*arguments, *ranges[0])
    for future in futures:
        future.result()


class _LIF(torch.autograd.Function):
    """The two kernels as one node of the graph. Saved for backward: the spikes, which the next layer keeps as well, and
    one number per neuron and step."""

    @staticmethod
    def forward(ctx, input_, mem, beta, threshold, reset_mechanism, surrogate, temporal_alpha, spike_grad):
        shape = input_.shape
        number = np.float32 if input_.dtype == torch.float32 else np.float64
        ctx.beta, ctx.alpha, ctx.reset = number(beta), number(temporal_alpha), _RESETS[reset_mechanism]
        ctx.threshold, ctx.spike_grad = threshold, spike_grad
        input_ = input_.contiguous()
        spk, s = torch.empty_like(input_), torch.empty_like(input_)
        last = mem.clone(memory_format=torch.contiguous_format)
        flat = [x.detach().view(shape[0], -1).numpy() for x in (input_, spk, s)]
        _run(
            lif_fwd_kernel, shape[0], last.numel(), flat[0], last.detach().view(-1).numpy(), flat[1], flat[2],
            ctx.beta, number(threshold), ctx.reset, surrogate[0], number(surrogate[1]),
        )  # fmt: skip
        ctx.save_for_backward(spk, s, mem if mem.requires_grad else None)
        return spk, last

    @staticmethod
    @once_differentiable
    def backward(ctx, dspk, dmem):
        spk, s, mem = ctx.saved_tensors
        dinput = torch.empty_like(spk)
        steps = [x.contiguous().view(spk.shape[0], -1).numpy() for x in (dspk, spk, s, dinput)]
        _run(
            lif_bwd_kernel, spk.shape[0], dmem.numel(), steps[0], dmem.contiguous().view(-1).numpy(), *steps[1:],
            ctx.beta, ctx.alpha, ctx.reset,
        )  # fmt: skip
        if mem is not None:
            x = mem - ctx.threshold
            kept = 1 - (x > 0).to(x.dtype) if ctx.reset == _RESETS["zero"] else 1
            derivative = torch.autograd.functional.vjp(ctx.spike_grad, x, torch.ones_like(x))[1] if ctx.alpha else 0
            mem = float(ctx.beta) * (kept + float(ctx.alpha) * derivative) * dinput[0]
        return dinput, mem, None, None, None, None, None, None


def lif_cpu(input_, mem, beta, threshold, reset_mechanism, spike_grad, surrogate, temporal_alpha):
    """As ``lif_reference``, for one number each as beta and threshold; `surrogate` is `spike_grad` as the kernels number it.
    Returns the spikes [T, B, *] and the last membrane."""
    beta = float(beta.clamp(0, 1))
    return _LIF.apply(input_, mem, beta, float(threshold), reset_mechanism, surrogate, temporal_alpha, spike_grad)
