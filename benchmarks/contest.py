"""A race on one task: check all competitors, then time those that are there and right, beside the floor."""

import contextlib

import torch

from . import peers
from .baseline import ROW
from .ours import current
from .peers import Task, Unavailable, build
from .timing import WRONG, Turn, figures, measure

FLOOR = "floor: the same bytes copied"


def floor(x, grad):
    """What forward and backward have to move, in warm buffers: x -> spk and g, w -> dx. 24 bytes per neuron and step."""
    x, (spk, w, dx) = x.detach(), (torch.empty_like(grad) for _ in range(3))

    def copy():
        spk.copy_(x)
        w.copy_(grad)
        dx.copy_(w)

    return Turn(copy)


def check(spk, expected, inputs, wanted, grad, tolerance=None):
    """Columns from the comparison with the reference's spikes: the firing rate, the rate of spikes that differ and, where
    there is a tolerance, that is for ours, the largest error of the gradients of `inputs` against those that the reference
    has of `wanted`, each over its largest entry. And a note if ours is not what it claims to be."""
    differ = int((spk.detach() != expected.detach()).sum())
    columns = {"rate": float(spk.detach().float().mean()), "spikes_differ": differ / spk.numel()}
    if tolerance is None:
        return columns, None
    if differ:
        return columns, f"{WRONG}: {differ} of {spk.numel()} spikes differ from the reference; no speed is reported"
    own = torch.autograd.grad(spk, inputs, grad.to(spk.dtype))
    right = torch.autograd.grad(expected, wanted, grad)
    errors = [(mine - want).abs().max() / (want.abs().max() or 1) for mine, want in zip(own, right, strict=True)]
    error = columns["gradient_error"] = float(torch.stack(errors).max())  # NaN if one is
    if not error <= tolerance:
        return columns, f"{WRONG}: the gradient is off by {error:.1e} of its largest entry; no speed is reported"
    return columns, None


def contest(settings, report, competitors, shape, *, relu=False, fresh=False):
    """The race at one `shape`; with `fresh` each call gets a copy of the current, which it may write over."""
    x, grad = current(shape, settings.device, relu, settings.seed)
    task = Task(settings.device, shape[0], relu, settings.compile_steps)
    turns, others, notes = {FLOOR: floor(x, grad)}, {FLOOR: {}}, {}
    for peer in chosen(settings, competitors):
        with noted(notes, peer.name):
            run = build(peer, task)
            own, own_grad = (x, grad) if peer.dtype is None else _cast(x, grad, peer.dtype)
            plain = own if peer.dtype is None else own.detach().float().requires_grad_()
            spk, expected = run(own.clone() if fresh else own), peers.reference(peer, plain, relu)
            tolerance = None if peer.options is None else peer.tolerance
            others[peer.name], wrong = check(spk, expected, (own,), (plain,), own_grad.float(), tolerance)
            if wrong:
                notes[peer.name] = wrong
                continue
            del spk, expected  # and what they keep for backward
            turns[peer.name] = _turn(peer, run, own, own_grad, fresh)
            turns[peer.name].ms(settings.device)
    if settings.baseline and peers.OURS in competitors and not fresh:
        with noted(notes, ROW):
            settings.baseline.start(shape)
            turns[ROW], others[ROW] = settings.baseline.add(ROW, "multistep", **peers.PAPER)
    results = figures(measure(turns, settings), peers.SNNTORCH.name, FLOOR, baseline=ROW)
    for columns in results.values():
        columns["ns_per_neuron_step"] = 1e6 * columns["p50_ms"] / x.numel()
    add_all(report, size(shape), results, others, notes)


def _cast(x, grad, dtype):
    return x.detach().to(dtype).requires_grad_(), grad.to(dtype)


def _turn(peer, run, x, grad, fresh):
    if peer.graph:
        return captured(run, x, grad)

    def call(argument):
        torch.autograd.grad(run(argument), x, grad)

    return Turn(call, x.clone) if fresh else Turn(lambda: call(x))


def captured(run, x, grad):
    """Forward and backward as one CUDA graph, which a call replays."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # compiles and tunes
            (expected,) = torch.autograd.grad(run(x), x, grad)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        (dx,) = torch.autograd.grad(run(x), x, grad)
    graph.replay()
    if not torch.equal(dx, expected):
        raise ValueError("the gradient of the replayed graph is not that of the call")
    return Turn(graph.replay)


def size(shape):
    """A shape as a case of a table."""
    return "x".join(map(str, shape))


def chosen(settings, competitors):
    """`competitors` less those that ``--skip`` names by a part of their name."""
    return [peer for peer in competitors if not skipped(settings, peer.name)]


def skipped(settings, name):
    return any(part in name for part in settings.skip)


@contextlib.contextmanager
def noted(notes, name):
    """A competitor that cannot take part leaves a note that says why; a peer's failure is a finding, not the end."""
    try:
        yield
    except Unavailable as reason:
        notes[name] = str(reason)
    except torch.OutOfMemoryError:
        notes[name] = "failed: out of memory"
    except Exception as error:
        notes[name] = f"failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}"


def add_all(report, case, results, others, notes):
    """Rows of those that ran, then of those that did not."""
    for name, columns in results.items():
        report.add(case, name, **columns, **others[name])
    for name, note in notes.items():
        report.add(case, name, **others.get(name, {}), note=note)
