"""What is small: single steps in a user's own loop, and the fixed cost of a call."""

import torch

from . import peers
from .baseline import ROW
from .contest import add_all, check, noted, size, skipped
from .ours import Loop, Sequence, current, own_calls, training_turn
from .timing import WRONG, Turn, figures, measure

HOST, OURS, OFF = "host", "bpsta, options on", "bpsta, options off"
_SMALL = [(batch, neurons) for neurons in (64, 128, 1000, 4096) for batch in (1, 32)]
_LARGE = [(64, 512), (64, 8192), (128, 65536)]
_STEPS = 16


def step(settings, report):
    """The host's neuron, and ours with the options off and on: one step forward, and a user's loop with backward."""
    for shape in [(2, 33)] if settings.quick else _SMALL + _LARGE:
        x, grad = current((_STEPS, *shape), settings.device, seed=settings.seed)
        options = {HOST: {"host": True, **peers.PLAIN}, OFF: peers.PLAIN, OURS: peers.PAPER}
        runs = {name: Loop(settings.device, "Leaky", **own) for name, own in options.items()}
        _over_host(settings, report, f"{size(shape)}, forward", {name: one_step(run, x) for name, run in runs.items()})
        turns, others, notes, expected = {}, {}, {}, runs[HOST](x).detach()
        for name, run in runs.items():
            with noted(notes, name):
                others[name], _ = check(run(x).detach(), expected, (), (), grad)
                if name != HOST and others[name]["spikes_differ"]:
                    notes[name] = f"{WRONG}: its spikes differ from snnTorch's; no speed is reported"
                    continue
                turns[name] = training_turn(run, x, grad)
        if settings.baseline:
            with noted(notes, ROW):
                settings.baseline.start(x.shape)
                turns[ROW], others[ROW] = settings.baseline.add(ROW, "loop", neuron="Leaky", **peers.PAPER)
        _over_host(settings, report, f"{size(shape)}, {_STEPS} steps, forward + backward", turns, others, notes)


def one_step(run, x):
    first = x[0].detach().requires_grad_()
    mem = torch.zeros_like(x[0].detach())
    return Turn(lambda: run.neuron(first, mem))


def _over_host(settings, report, case, turns, others=(), notes=()):
    results = _race(settings, turns, HOST, "of_host")
    add_all(report, case, results, dict.fromkeys(results, {}) | dict(others), dict(notes))


def _race(settings, turns, floor, over):
    turns = {name: turn for name, turn in turns.items() if not skipped(settings, name)}
    return figures(measure(turns, settings), floor=floor, over=over, baseline=ROW)


def call(settings, report):
    """Forward and backward of a layer of 128 neurons, in us, beside those of torch.relu."""
    shape = (2, 1, 8) if settings.quick else (16, 1, 128)
    x, grad = current(shape, settings.device, seed=settings.seed)
    relu, ours = "torch.relu", "bpsta"
    turns = {relu: Turn(lambda: torch.autograd.grad(torch.relu(x), x, grad))}
    others, notes = {relu: {}}, {}
    with noted(notes, ours):
        run = Sequence(settings.device, "Leaky", **peers.PAPER)
        others[ours], turns[ours] = {"own_calls": own_calls(run, x)}, training_turn(run, x, grad)
    if settings.baseline:
        with noted(notes, ROW):
            settings.baseline.start(shape)
            turn, _ = settings.baseline.add(ROW, "sequence", neuron="Leaky", **peers.PAPER)
            turns[ROW], others[ROW] = turn, {"own_calls": settings.baseline.own_calls(ROW)}
    results = _race(settings, turns, relu, "of_relu")
    for name, columns in results.items():
        results[name] = {
            key.replace("_ms", "_us"): 1e3 * value if key.endswith("_ms") else value for key, value in columns.items()
        }
    add_all(report, f"sequence {size(shape)}, forward + backward", results, others, notes)
