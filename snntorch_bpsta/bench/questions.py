"""The questions: each races competitors, or measures them one by one, and adds rows to its report."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import weakref
from dataclasses import replace

import torch

from . import nets, peers
from .peers import Task, Unavailable, build
from .timing import WRONG, Report, Turn, figures, measure, percentiles

SIZES = [(16, 64, 8192), (100, 64, 512), (4, 64, 16384), (16, 16, 131072), (500, 16, 512)]
FLOOR = "floor: the same bytes copied"
_CURRENT = 0.4  # standard deviation of the current; with the means below, 0.15 to 0.2 of the neurons fire at a step


def current(shape, device, relu=False, seed=0):
    """Currents [T, B, N] that need a gradient, and a gradient for the spikes."""
    generator = torch.Generator(device).manual_seed(seed)
    x = torch.randn(shape, device=device, generator=generator).mul_(_CURRENT).add_(0.0 if relu else 0.12)
    return x.requires_grad_(), torch.randn(shape, device=device, generator=generator)


def floor(x, grad):
    """What forward and backward have to move, in warm buffers: x -> spk and g, w -> dx. 24 bytes per neuron and step."""
    x, (spk, w, dx) = x.detach(), (torch.empty_like(grad) for _ in range(3))

    def copy():
        spk.copy_(x)
        w.copy_(grad)
        dx.copy_(w)

    return Turn(copy)


def check(peer, run, x, grad, relu=False, fresh=False):
    """Columns from the comparison with the reference: the firing rate, the rate of spikes that differ and, of ours, the
    gradient's error over its largest entry. And a note if ours is not what it claims to be."""
    spk, expected = run(x.clone() if fresh else x), peers.reference(peer, x, relu)
    differ = int((spk.detach() != expected.detach()).sum())
    columns = {"rate": float(spk.detach().mean()), "spikes_differ": differ / x.numel()}
    if peer.options is None:
        return columns, None
    if differ:
        return columns, f"{WRONG}: {differ} of {x.numel()} spikes differ from the reference; no speed is reported"
    (dx,), (want,) = torch.autograd.grad(spk, x, grad), torch.autograd.grad(expected, x, grad)
    error = columns["gradient_error"] = float((dx - want).abs().max() / want.abs().max())
    if not error <= peer.tolerance:
        return columns, f"{WRONG}: the gradient is off by {error:.1e} of its largest entry; no speed is reported"
    return columns, None


def contest(settings, report, competitors, shape, *, case=None, relu=False, fresh=False):
    """Check all, then race those that are there and right, beside the floor."""
    x, grad = current(shape, settings.device, relu, settings.seed)
    case = case or "x".join(map(str, shape))
    task = Task(settings.device, shape[0], relu, settings.compile_steps)
    turns, others, notes = {FLOOR: floor(x, grad)}, {FLOOR: {}}, {}
    for peer in chosen(settings, competitors):
        with noted(notes, peer.name):
            run = build(peer, task)
            others[peer.name], wrong = check(peer, run, x, grad, relu, fresh)
            if wrong:
                notes[peer.name] = wrong
                continue

            def call(argument, run=run):
                torch.autograd.grad(run(argument), x, grad)

            turn = Turn(call, x.clone) if fresh else Turn(lambda call=call: call(x))
            turn.ms(settings.device)
            turns[peer.name] = turn
    results = figures(measure(turns, settings), peers.BASELINE.name, FLOOR)
    for columns in results.values():
        columns["ns_per_neuron_step"] = 1e6 * columns["p50_ms"] / x.numel()
    add_all(report, case, results, others, notes)


def chosen(settings, competitors):
    """`competitors` less those that ``--skip`` names by a part of their name."""
    return [peer for peer in competitors if not any(part in peer.name for part in settings.skip)]


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


def layer(settings, report):
    for shape in [(4, 2, 33)] if settings.quick else SIZES:
        contest(settings, report, peers.LAYER, shape)


def fused(settings, report):
    for shape in [(4, 2, 33)] if settings.quick else [SIZES[0], SIZES[3], *SIZES[1:3], SIZES[4]]:
        contest(settings, report, peers.FUSED, shape, relu=True, fresh=True)


def scaling(settings, report, shapes):
    for shape in shapes:
        contest(settings, report, [peers.OURS, peers.BASELINE], shape)


def time_steps(settings, report):
    """T grows, the work stays: as long as there are neurons enough to be busy with."""
    work = 2**10 if settings.quick else 2**22 if settings.device.type == "cpu" else 2**26
    steps = (4, 16) if settings.quick else (4, 16, 64, 256, 1024, 4096)
    scaling(settings, report, [(t, 4, work // t // 4) for t in steps])


def neurons(settings, report):
    sizes = (10**3,) if settings.quick else [10**power for power in range(4, 9)]
    scaling(settings, report, [(16, 1, n // 16) for n in sizes])


def network(settings, report):
    """Forward and backward of one step; "without neurons" is the bound."""
    shape = (3, 2, 2, 34, 34) if settings.quick else (10, 16, 2, 34, 34)
    x, case = (torch.rand(shape, device=settings.device) < 0.3).float(), "x".join(map(str, shape))
    turns, others, notes, expected = {}, {}, {}, None
    for name in nets.NETWORKS:
        if any(part in name for part in settings.skip):
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


class _Saved:
    """A tensor kept for backward; it lives as long as the node that keeps it."""

    def __init__(self, tensor):
        self.tensor = tensor.detach()  # an output of the node would keep the node


def saved_bytes(run, x):
    """(bytes kept for backward, and those of them that are not the spikes). The input is not counted: whoever made it has
    it anyway."""
    saved = weakref.WeakSet()

    def pack(tensor):
        held = _Saved(tensor)
        saved.add(held)
        return held

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda held: held.tensor):
        spk = run(x)
    kept = [held.tensor for held in saved]
    for node in _graph(spk.grad_fn):  # what a Python node keeps beside save_for_backward
        attributes = vars(node).values() if hasattr(node, "__dict__") else ()
        kept += [value for value in attributes if isinstance(value, torch.Tensor)]
    sizes = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in kept}
    sizes.pop(x.untyped_storage().data_ptr(), None)
    total = sum(sizes.values())
    return total, total - sizes.get(spk.untyped_storage().data_ptr(), 0)


def _graph(node):
    seen, todo = set(), [node]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [following for following, _ in node.next_functions]
    return seen


def memory(settings, report):
    shape = (4, 2, 33) if settings.quick else (16, 16, 8192)
    x, grad = current(shape, settings.device, seed=settings.seed)
    task, rows, notes = Task(settings.device, shape[0]), {}, {}
    for peer in chosen(settings, [peer for peer in peers.LAYER if peer is not peers.COMPILED]):
        with noted(notes, peer.name):
            run = build(peer, task)
            torch.autograd.grad(run(x), x, grad)
            total, without = saved_bytes(run, x)
            columns = {"saved_bytes": total / x.numel(), "without_spikes": without / x.numel()}
            if settings.device.type == "cuda":
                before = torch.cuda.memory_allocated(settings.device)
                torch.cuda.reset_peak_memory_stats(settings.device)
                torch.autograd.grad(run(x), x, grad)
                columns["peak_bytes"] = (torch.cuda.max_memory_allocated(settings.device) - before) / x.numel()
            rows[peer.name] = columns
    add_all(report, "layer " + "x".join(map(str, shape)), rows, dict.fromkeys(rows, {}), notes)

    size = {"batch": 1, "num_steps": 2, "width": 1 / 32} if settings.quick else {"batch": 8, "num_steps": 8, "width": 1}
    if settings.device.type == "cuda" and not settings.quick:
        size["batch"] = 64
    rows, notes = {}, {}
    for variant in nets.MIDDLE:
        with noted(notes, variant):
            bytes_ = child("peak", variant=variant, device=settings.device.type, threads=settings.threads, **size)
            rows[variant] = {"peak_MiB": bytes_ / 2**20}
    for columns in rows.values() if nets.MIDDLE[0] in rows else ():
        columns["of_baseline"] = columns["peak_MiB"] / rows[nets.MIDDLE[0]]["peak_MiB"]
    case = f"middle, T = {size['num_steps']}, batch {size['batch']}"
    add_all(report, case, rows, dict.fromkeys(rows, {}), notes)


def child(task, **options):
    """What `task` of ``children.py`` returns, from a process of its own."""
    return json.loads(_child(["-m", "snntorch_bpsta.bench.children", task, json.dumps(options)]))


def _child(arguments, env=None):
    """The last line that Python prints."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=env)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    return done.stdout.splitlines()[-1]


def compile_(settings, report):
    """What the first call costs, with no cache of earlier compilations, and what the later ones cost."""
    from torch._inductor import config

    shape = (2, 1, 2, 34, 34) if settings.quick else (10, 16, 2, 34, 34)
    x, case = (torch.rand(shape, device=settings.device) < 0.3).float(), "x".join(map(str, shape))
    turns, others, notes = {}, {}, {}
    for name in (nets.LOOP, nets.OURS):
        net = nets.build(name, settings)
        grad = torch.randn_like(net(x).detach())
        turns[name], others[name] = net_turn(net, x, grad), {}
        compiled = f"{name}, torch.compile"
        with noted(notes, compiled):
            torch.compiler.reset()
            turn = net_turn(torch.compile(net, fullgraph=name == nets.OURS, dynamic=False), x, grad)
            with config.patch(force_disable_caches=True):
                others[compiled] = {"first_call_s": turn.ms(settings.device) / 1e3}
            turns[compiled] = turn
    add_all(report, case, figures(measure(turns, settings), nets.LOOP), others, notes)


def cold(settings, report):
    repeats = 1 if settings.quick else min(settings.rounds, 5)
    for library in ("torch", "snntorch", "snntorch_bpsta"):
        _seconds(report, "import", library, repeats, ["-c", _SPAWN + f"import {library}; print(time.time() - begin)"])
    device = settings.device.type
    script = _SPAWN + (
        "import torch, snntorch_bpsta as snn; torch.set_num_threads(1); "
        f"x = torch.rand(16, 8, 128, device={device!r}, requires_grad=True); "
        f"snn.functional.lif_multistep(x, **{peers.PAPER!r}).spk.sum().backward(); float(x.grad.sum()); "
        "print(time.time() - begin)"
    )
    case = "first result of lif_multistep"
    with tempfile.TemporaryDirectory() as cache:
        warm = {**os.environ, **_caches(cache)}
        _seconds(report, case, "compiled before", repeats, ["-c", script], lambda: warm, discard=1)
    with contextlib.ExitStack() as stack:

        def fresh():
            return {**os.environ, **_caches(stack.enter_context(tempfile.TemporaryDirectory()))}

        _seconds(report, case, "empty cache", min(repeats, 3), ["-c", script], fresh)


_SPAWN = "import sys, time; begin = float(sys.argv[1]); "  # the parent's clock, so that the interpreter's start counts


def _caches(folder):
    return {"NUMBA_CACHE_DIR": f"{folder}/numba", "TRITON_CACHE_DIR": f"{folder}/triton"}


def _seconds(report, case, name, repeats, command, env=lambda: None, discard=0):
    notes, seconds = {}, []
    with noted(notes, name):
        for _ in range(repeats + discard):
            surroundings = env()
            seconds.append(float(_child([*command, repr(time.time())], surroundings)))
        p20, p50, p80 = percentiles(seconds[discard:])
        report.add(case, name, p20_s=p20, p50_s=p50, p80_s=p80, rounds=repeats)
    add_all(report, case, {}, {}, notes)


def step(settings, report):
    """The host's neuron, and ours with the options off and on."""
    for shape in [(2, 33)] if settings.quick else [(1, 128), (64, 512), (64, 8192), (128, 65536)]:
        x, grad = current((16, *shape), settings.device, seed=settings.seed)
        for mode in ("forward", "16 steps, forward + backward"):
            turns = {name: step_turn(make().to(settings.device), x, grad, mode) for name, make in nets.STEPS.items()}
            results = figures(measure(turns, settings), floor="host")
            for name, columns in results.items():
                columns["of_host"] = columns.pop("of_floor")
                report.add(f"{'x'.join(map(str, shape))}, {mode}", name, **columns)


def step_turn(neuron, x, grad, mode):
    mem = torch.zeros_like(x[0].detach())

    def forward():
        neuron(first, mem)

    def steps():
        state, spk_rec = mem, []
        for cur in x.unbind(0):
            spk, state = neuron(cur, state)
            spk_rec.append(spk)
        torch.autograd.grad(torch.stack(spk_rec), x, grad)

    first = x[0].detach().requires_grad_()
    return Turn(forward if mode == "forward" else steps)


ANSWERS = {
    "layer": layer, "fused": fused, "network": network, "memory": memory, "time": time_steps, "neurons": neurons,
    "compile": compile_, "cold": cold, "step": step,
}  # fmt: skip


def answer(names, settings):
    """Answer the questions `names`: print each table, write its CSV file, and a figure where asked.

    Raises:
        ValueError: a competitor of ours is wrong or failed; it is in the tables without a speed.
    """
    if settings.plot:
        import matplotlib  # noqa: F401, a missing one shows before the measuring

        from .figure import draw
    cuda = torch.cuda.is_available()
    if settings.device == "cuda" and not cuda:
        raise ValueError("--device cuda: there is no CUDA device")
    device = torch.device("cuda" if cuda and settings.device != "cpu" else "cpu")
    settings = replace(settings, device=device, rounds=min(settings.rounds, 3) if settings.quick else settings.rounds)
    torch.set_num_threads(settings.threads)
    wrong = []
    for name in ANSWERS if "all" in names else names:
        report = Report(name, settings)
        ANSWERS[name](settings, report)
        print(report.table())
        print(f"rows: {report.file}")
        if settings.plot:
            print(f"figure: {draw(report)}")
        print(flush=True)
        wrong += report.wrong
    if wrong:
        raise ValueError("; ".join(wrong))
