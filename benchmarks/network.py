"""One training step of a network, and torch.compile of it."""

import os
import tempfile
from unittest import mock

import torch

from . import nets
from .contest import add_all, noted, size, skipped
from .timing import WRONG, Turn, figures, measure

_CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")  # the folders of what torch.compile has compiled before


def network(settings, report):
    """Forward and backward of one step; "without neurons" is the bound."""
    shape = (3, 2, 2, 34, 34) if settings.quick else (10, 16, 2, 34, 34)
    x, case = (torch.rand(shape, device=settings.device) < 0.3).float(), size(shape)
    turns, others, notes, expected = {}, {}, {}, None
    for name in nets.NETWORKS:
        if skipped(settings, name):
            continue
        with noted(notes, name):
            net = nets.build(name, settings)
            out = net(x).detach()
            others[name] = {} if name == nets.BOUND else {"rate": float(out.mean())}
            if name == nets.FOLDED:
                expected = out
            elif name != nets.BOUND and expected is not None:
                others[name]["spikes_differ"] = float((out != expected).float().mean())
            if name == nets.OURS and others[name].get("spikes_differ"):
                notes[name] = f"{WRONG}: its spikes differ from those of snnTorch's neurons in the same network"
                continue
            turns[name] = net_turn(net, x, torch.randn_like(out))
    add_all(report, case, figures(measure(turns, settings), nets.LOOP, nets.BOUND), others, notes)


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
