"""Bytes that are kept for backward, and the peak of a training step."""

import weakref

import torch

from . import nets, peers
from .children import child
from .contest import add_all, chosen, noted, size
from .ours import current
from .peers import Task, build


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


def names_of_nodes(tensor):
    """Names of the operators whose backward would run."""
    return {type(node).__name__ for node in _graph(tensor.grad_fn)}


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
    add_all(report, f"layer {size(shape)}", rows, dict.fromkeys(rows, {}), notes)

    middle = (
        {"batch": 1, "num_steps": 2, "width": 1 / 32} if settings.quick else {"batch": 8, "num_steps": 8, "width": 1}
    )
    if settings.device.type == "cuda" and not settings.quick:
        middle["batch"] = 64
    rows, notes = {}, {}
    for variant in nets.MIDDLE:
        with noted(notes, variant):
            bytes_ = child("peak", variant=variant, device=settings.device.type, threads=settings.threads, **middle)
            rows[variant] = {"peak_MiB": bytes_ / 2**20}
    for columns in rows.values() if nets.MIDDLE[0] in rows else ():
        columns["of_baseline"] = columns["peak_MiB"] / rows[nets.MIDDLE[0]]["peak_MiB"]
    case = f"middle, T = {middle['num_steps']}, batch {middle['batch']}"
    add_all(report, case, rows, dict.fromkeys(rows, {}), notes)
