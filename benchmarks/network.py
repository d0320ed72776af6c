"""One training step of a network, and torch.compile of it."""

import contextlib
import os
import tempfile
from unittest import mock

import torch

from . import nets
from .apart import Apart
from .contest import add_all, noted, size, skipped
from .timing import WRONG, Turn, figures, kept_memory, measure

_CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")  # the folders of what torch.compile has compiled before


_TOLERANCE = 1e-2  # of the output spikes: sums may round otherwise, and few membranes cross the threshold
KEPT = ", memory kept"
# Parts of a step by the names of PyTorch's operators, the first that fits; what fits none is the neurons', which are many
# small operators in the other libraries, and what is no operator is `rest`: Python.
_PARTS = {
    "neuron": ("_Eager",),
    "convolution": ("conv", "Conv", "addmm", "aten::mm", "linear", "Linear", "skip", "Skip"),
    "pool": ("pool", "Pool"),
    "memory": ("copy", "fill_", "zero", "empty", "resize", "cat", "stack", "clone", "contiguous", "unbind"),
}


def network(settings, report):
    """Forward and backward of one step, in both memory formats: "without neurons", channels last, is the bound; the loop
    with the memory settings that a user's script has runs in a process of its own."""
    shape = (3, 2, 2, 34, 34) if settings.quick else (10, 16, 2, 34, 34)
    x, case = _frames(settings, shape), size(shape)
    turns, others, notes, parts, expected = {}, {}, {}, {}, {}
    with contextlib.ExitStack() as stack:
        kept = stack.enter_context(kept_memory())
        if not skipped(settings, nets.LOOP):
            with noted(notes, nets.LOOP):
                turns[nets.LOOP] = stack.enter_context(Apart(_loop, settings, shape))
                others[nets.LOOP] = {**turns[nets.LOOP].columns, "memory": "as it is"}
        for name in (name + layout for name in nets.NETWORKS for layout in ("", nets.LAST)):
            row = name.replace(nets.LOOP, nets.LOOP + KEPT)
            if skipped(settings, row):
                continue
            with noted(notes, row):
                net = nets.build(name, settings)
                frames = nets.channels_last(x) if name.endswith(nets.LAST) else x
                out = net(frames).detach()
                others[row] = {} if name.startswith(nets.BOUND) else {"rate": float(out.mean())}
                others[row]["memory"] = kept
                layout = name.endswith(nets.LAST)  # on CUDA convolutions round otherwise in another one, by far
                if name.startswith(nets.FOLDED):
                    expected[layout] = out
                elif not name.startswith(nets.BOUND) and layout in expected:
                    others[row]["spikes_differ"] = float((out != expected[layout]).float().mean())
                if name.startswith(nets.OURS) and others[row].get("spikes_differ", 0) > _TOLERANCE:
                    notes[row] = f"{WRONG}: its spikes are not those of snnTorch's neurons in the same network"
                    continue
                turns[row] = net_turn(net, frames, torch.randn_like(out))
                if settings.device.type == "cpu":
                    parts[row] = _parts(turns[row])
        results = figures(measure(turns, settings), nets.LOOP, nets.BOUND + nets.LAST)
    for row, shares in parts.items():
        if row in results:
            results[row] |= {f"{part}_ms": share * results[row]["p50_ms"] for part, share in shares.items()}
    add_all(report, case, results, others, notes)


def _frames(settings, shape):
    generator = torch.Generator(settings.device).manual_seed(settings.seed)
    return (torch.rand(shape, device=settings.device, generator=generator) < 0.3).float()


def _loop(settings, shape):
    x, net = _frames(settings, shape), nets.build(nets.LOOP, settings)
    out = net(x).detach()
    turn = net_turn(net, x, torch.randn_like(out))
    turn.columns = {"rate": float(out.mean())}
    return turn


def _parts(turn, steps=3):
    """Which share of a step each part takes, by PyTorch's profiler: the own time of the operators, on the CPU."""
    profiler = torch.profiler
    turn.call()
    turn.call()
    with profiler.profile(activities=[profiler.ProfilerActivity.CPU]) as profile:
        for _ in range(steps):
            with profiler.record_function("benchmarks: step"):
                turn.call()
    spent = dict.fromkeys((*_PARTS, "rest"), 0.0)
    for event in profile.key_averages():
        spent[_part(event.key)] += event.self_cpu_time_total
    return {part: time / sum(spent.values()) for part, time in spent.items()}


def _part(operator):
    if operator == "benchmarks: step":
        return "rest"
    return next((part for part, names in _PARTS.items() if any(name in operator for name in names)), "neuron")


def net_turn(net, x, grad):
    def call():
        net.zero_grad(set_to_none=True)
        net(x).backward(grad)

    return Turn(call)


def compile_(settings, report):
    """What the first call costs, with no cache of earlier compilations, and what the later ones cost."""
    shape = (2, 1, 2, 34, 34) if settings.quick else (10, 16, 2, 34, 34)
    x, case = (torch.rand(shape, device=settings.device) < 0.3).float(), size(shape)
    turns, others, notes = {}, {}, {}
    with tempfile.TemporaryDirectory() as cache, mock.patch.dict(os.environ, {name: cache for name in _CACHES}):
        for name in (nets.LOOP, nets.OURS):
            net = nets.build(name, settings)
            grad = torch.randn_like(net(x).detach())
            turns[name], others[name] = net_turn(net, x, grad), {}
            compiled = f"{name}, torch.compile"
            with noted(notes, compiled):
                torch.compiler.reset()
                turn = net_turn(torch.compile(net, fullgraph=name == nets.OURS, dynamic=False), x, grad)
                others[compiled] = {"first_call_s": turn.ms(settings.device) / 1e3}
                turns[compiled] = turn
        times = measure(turns, settings)
    add_all(report, case, figures(times, nets.LOOP), others, notes)
