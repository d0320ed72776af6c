"""All time steps in one pass on the GPU: the kernels of ``triton_template.py``, in a configuration that suits the size."""

from math import prod
from typing import Any

import torch
import triton

from .. import cells
from .triton_template import PARAMETERS, VARYING, backward_kernel, forward_kernel

_MAX_NEURONS = 2**31 - 2**12  # indices of neurons are 32 bits wide, those of neuron-steps 64
_MEASURED = 2**16  # neurons up to which some configurations are tried; more keep the memory busy with any of them
_LONG = 128  # steps from which on a chunk of 32 is worth its compilation, of half a minute
_NUMBERS = {*VARYING, "num_neurons", "stride", "p0", "p1", "residual"}
_POOLING = ("num_pooled", "height", "width", "channels", "POOL", "DOWN", "ACROSS", "PLACES")
_FIRST_CONSTANT = {  # the place from which on the arguments of a kernel are constants
    kernel.fn: [name.isupper() for name in kernel.arg_names].index(True) for kernel in (forward_kernel, backward_kernel)
}
_fastest: dict[tuple, triton.Config] = {}
_compiled: dict[tuple, Any] = {}


def configurations(num_neurons, num_steps, rows, pools=False):
    """Those worth a try. Few neurons need small blocks, to fill the GPU, and long chunks, to hide the latency of its memory.
    The more `rows` a kernel reads or sums up at every step, the shorter the chunks, or registers run out; so a neuron
    that `pools`, whose neighbours in a block lie apart in memory, has a thread of its own."""
    if triton.knobs.runtime.interpret:
        sizes = [(512, 1, 4)]
    elif num_neurons > _MEASURED:
        sizes = [(128, 4, 4) if pools else (256, 2, 4)]
    else:
        sizes = [(32, 1, 16), (64, 1, 8)]
        if num_steps >= _LONG:
            sizes.append((32, 1, 32))
    shorter, longest = triton.next_power_of_2(max(rows, 2)) // 2, triton.next_power_of_2(num_steps)
    found = {(block, warps, min(max(chunk // shorter, 1), longest)) for block, warps, chunk in sizes}
    return [triton.Config({"BLOCK": block, "CHUNK": chunk}, num_warps=warps) for block, warps, chunk in sorted(found)]


def _choose(kernel, configs, arguments):
    """The fastest of `configs` for all calls alike, measured on copies."""
    if len(configs) == 1:
        return configs[0]
    alike = [x.dtype if isinstance(x, torch.Tensor) else x for name, x in arguments.items() if name not in _NUMBERS]
    sizes = [(config.num_warps, *config.kwargs.values()) for config in configs]
    key = (kernel, *sizes, (arguments["num_neurons"] - 1).bit_length(), *alike)
    if key not in _fastest:
        trial = {name: x.clone() if isinstance(x, torch.Tensor) else x for name, x in arguments.items()}
        times = [triton.testing.do_bench(lambda: _start(kernel, config, trial)) for config in configs]  # noqa: B023
        _fastest[key] = configs[times.index(min(times))]
    return _fastest[key]


def _start(kernel, config, arguments):
    """Launch `kernel`. Triton takes longer to find what it has compiled than to launch it, so that is looked up here."""
    blocks = -(-_places(**arguments) // config.kwargs["BLOCK"])
    if triton.knobs.runtime.interpret:
        kernel[(blocks,)](**arguments, **config.all_kwargs())
        return
    given, first = arguments | config.kwargs, _FIRST_CONSTANT[kernel.fn]
    values = [given[name] for name in kernel.arg_names]
    # What Triton compiles a kernel for, of an argument that is no constant, at least as finely as Triton does.
    alike = [
        None if x is None else (x.dtype, x.data_ptr() & 15) if isinstance(x, torch.Tensor)
        else float if type(x) is float else x if x < 16 else (x & 15, x >> 31)
        for x in values[:first]
    ]  # fmt: skip
    key = (kernel.fn, triton.runtime.driver.active.get_current_device(), config.num_warps, *alike, *values[first:])
    if key in _compiled:
        _compiled[key][(blocks, 1, 1)](*values)
    else:
        _compiled[key] = kernel[(blocks,)](**arguments, **config.all_kwargs())


def _places(num_neurons, height, width, POOL, DOWN, ACROSS, PLACES, **_):
    """The neurons of a step; with pooling their windows, of as many places as the next power of two."""
    if not POOL:
        return num_neurons
    windows = -(-height // DOWN) * -(-width // ACROSS)
    return num_neurons // (height * width) * windows * PLACES


def _launch(kernel, c, values, parameters, steps, shape, rows, arguments):
    """Run `kernel` on all neurons. `shape` is that of what comes in at all steps; `rows` the number of tensors that the
    kernel reads (or sums up) at every step."""
    num_neurons, pooling = prod(shape) // c.num_steps, dict.fromkeys(_POOLING, 0)
    if c.pool:
        (height, width), (down, across, channels) = shape[-2:], c.window
        pooled = num_neurons // (height * width) * (height // down) * (width // across)
        kind, places = 1 if c.pool == "max" else 2, triton.next_power_of_2(down * across)
        numbers = (pooled, height, width, channels, kind, down, across, places)
        pooling = dict(zip(_POOLING, numbers, strict=True))
    arguments |= {"num_neurons": num_neurons, **pooling}
    if _places(**arguments) > _MAX_NEURONS:
        raise NotImplementedError(
            f"impl='triton' takes up to {_MAX_NEURONS} neurons (batch included), got {num_neurons}"
        )
    for name, p, inner in zip(PARAMETERS, parameters, c.inner, strict=True):
        wide = p is not None and p.numel() > 1
        arguments |= {name: p, f"{name}_inner": inner if wide else None, f"{name}_size": p.numel() if wide else None}
    start, stop = steps or (0, c.num_steps)
    arguments |= cells.flags(c.cell, c.reset)._asdict()
    arguments |= {
        "values": values, "start": start, "stop": stop, "p0": float(c.p0), "p1": float(c.p1),
        "PROMPT": c.prompt, "RELU": c.relu, "MEMBRANE": c.save == "membrane", "CLIPPED": cells.CELLS[c.cell].clipped,
    }  # fmt: skip
    configs = configurations(num_neurons, stop - start, rows, bool(c.pool))
    with torch.cuda.device_of(values):
        _start(kernel, _choose(kernel, configs, arguments), arguments)


def forward(t, c, spk, states, records, saved, values, from_zero, steps=None):
    """See ``passes.py``."""
    num_neurons = states[0].numel()
    shape = (c.num_steps, *states[0].shape)
    tensors = ("input_", "spk", "mem", "syn", "inh", "fed", "mem_rec", "syn_rec", "inh_rec", "saved", "factor")
    arguments = dict(zip(tensors, (t.input, spk, *states, *records, saved, t.factor), strict=True))
    arguments |= {
        "stride": num_neurons if t.input.numel() == prod(shape) else 0,  # 0: the same current at every step
        "SURROGATE": 0 if saved is None or c.save == "membrane" else c.surrogate,
        "FROM_ZERO": from_zero,
        "enable_fp_fusion": False,  # a fused multiply-add rounds once where the reference rounds twice
    }
    _launch(forward_kernel, c, values, t[5:10], steps, shape, 1, arguments)


def backward(
    t, c, values, dspk, drecords, saved, records, derivatives, dinput, dstates, dparameters, dfire, from_zero, steps=None
):  # fmt: skip
    """See ``passes.py``."""
    saved = records[0] if saved is None else saved
    mem_rec = records[0] if c.prompt else None
    currents = records[1:] if any(x is not None for x in dparameters[:3]) else (None, None)
    tensors = (
        "dspk", "dmem", "dsyn", "dinh", "saved", "mem_rec", "syn_rec", "inh_rec", "slopes", "first_slope", "mem", "syn",
        "inh", "fed", "dinput", "dmem0", "dsyn0", "dinh0", "dfed0", "dbeta", "dalpha", "dtau", "dthreshold", "dv", "dfire",
    )  # fmt: skip
    given = dspk, *drecords, saved, mem_rec, *currents, *derivatives, *t[1:5], dinput, *dstates, *dparameters, dfire
    arguments = dict(zip(tensors, given, strict=True))
    arguments |= {
        "residual": float(c.residual),
        "SURROGATE": c.surrogate,
        "FROM_ZERO": from_zero,
        "CONSTANT": dinput.numel() != saved.numel(),
        "MORE": steps is not None,  # the gradients of parameters are those of other steps besides
        "enable_fp_fusion": True,
    }
    learned = any(x is not None for x in dparameters)  # whose sums take registers as well
    rows = sum(x is not None for x in given[:9]) + learned
    _launch(backward_kernel, c, values, t[5:10], steps, saved.shape, rows, arguments)
