"""The competitors: one row each, one task for all.

The task: currents ``[T, B, N]`` to spikes, decay 0.9, threshold 0.5, hard reset to zero, membranes from zero. Peers with a
surrogate of their own choice get the arc tangent where they have it, and a detached reset, as in snnTorch.
"""

import importlib.util
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

import snntorch_bpsta as snn

from .ours import Loop, Multistep, Sequence

BETA, THRESHOLD = 0.9, 0.5
PLAIN: dict[str, Any] = {"beta": BETA, "threshold": THRESHOLD, "reset_mechanism": "zero"}
PAPER: dict[str, Any] = {**PLAIN, "spatial_adj": True, "temporal_alpha": 0.8}


class Unavailable(Exception):
    """Why a competitor cannot take part."""


class Task(NamedTuple):
    """What a competitor is built for."""

    device: torch.device
    num_steps: int
    relu: bool = False  # rectify the current first
    compile_steps: int = 128  # torch.compile unrolls the loop: not for more steps than this
    neurons: int = 0  # of a linear layer in front of the neurons, where it is part of the task


class Peer(NamedTuple):
    """One row: its name, how to build ``run(x) -> spk``, what it needs."""

    name: str
    build: Callable
    library: str = "snntorch"  # its import name
    options: dict | None = None  # ours only: arguments of lif_multistep
    tolerance: float = 1e-5  # ours only: of the gradient, over its largest entry
    needs_cuda: bool = False
    dtype: torch.dtype | None = None  # of the current, where it is not float32
    graph: bool = False  # one CUDA graph of forward and backward is replayed


def found(peer, task):
    """:class:`Unavailable` says why `peer` cannot take part in `task`."""
    if importlib.util.find_spec(peer.library) is None:
        raise Unavailable("not installed")
    if peer.needs_cuda and task.device.type != "cuda":
        raise Unavailable("needs CUDA")


def build(peer, task):
    """``run(x) -> spk`` of `peer` for `task`; :class:`Unavailable` says why not."""
    found(peer, task)
    run = peer.build(task, **(peer.options or {}))
    if not task.relu or peer.build is _compiled or (peer.options or {}).get("relu"):
        return run
    return lambda x: run(torch.relu(x))


def _ours(task, **options):
    return Multistep(task.device, **options)


def _our_neuron(task, **options):
    return Sequence(task.device, "Leaky", **options)


def _snntorch(task):
    return Loop(task.device, "Leaky", host=True, **PLAIN)


def _compiled(task):
    if task.num_steps > task.compile_steps:
        raise Unavailable(f"not run: T > {task.compile_steps} (--compile-steps)")
    loop = _snntorch(task)
    torch.compiler.reset()
    return torch.compile(lambda x: loop(torch.relu(x) if task.relu else x), dynamic=False)


def spikingjelly_node():
    """Its LIFNode over all steps, of the task."""
    from spikingjelly.activation_based import neuron, surrogate

    return neuron.LIFNode(
        tau=round(1 / (1 - BETA), 6), decay_input=False, v_threshold=THRESHOLD, v_reset=0.0,
        surrogate_function=surrogate.ATan(), detach_reset=True, step_mode="m",
    )  # fmt: skip


def _spikingjelly(implementation):
    """That node on one of the library's CUDA implementations; on the CPU it has one only."""

    def build(task):
        from spikingjelly._ops.lif import _selection

        selections = {}  # the library reads its environment once; side by side, the choice is set before each run

        def choose():
            _selection._requested, _selection._selections = implementation, selections

        if task.device.type == "cuda":
            choose()
            try:
                _selection._get_cuda_selection(task.device)
            except RuntimeError as error:
                raise Unavailable(str(error)) from None
        node = spikingjelly_node().to(task.device)

        def run(x):
            choose()
            node.reset()
            return node(x)

        return run

    return build


def _norse_cell(task):
    from norse.torch.functional.lif_box import LIFBoxParameters
    from norse.torch.module.lif_box import LIFBoxCell

    # v decays by dt * tau_mem_inv = 0.1 towards the current, which scales membrane and threshold by 0.1
    p = LIFBoxParameters(
        tau_mem_inv=torch.tensor((1 - BETA) / 1e-3, device=task.device),
        v_leak=torch.tensor(0.0, device=task.device),
        v_th=torch.tensor(THRESHOLD * (1 - BETA), device=task.device),
        v_reset=torch.tensor(0.0, device=task.device),
    )
    return LIFBoxCell(p, dt=1e-3).to(task.device)


def _norse_lift(task):
    from norse.torch.module.lift import Lift

    lifted = Lift(_norse_cell(task))
    return lambda x: lifted(x)[0]


def _norse_unbind(task):
    cell = _norse_cell(task)

    def run(x):
        state, spk_rec = None, []
        for cur in x.unbind(0):
            spk, state = cell(cur, state)
            spk_rec.append(spk)
        return torch.stack(spk_rec)

    return run


def _sinabs(task):
    from sinabs.activation import MembraneReset, SingleSpike
    from sinabs.layers import LIF

    layer = LIF(
        tau_mem=-1 / math.log(BETA), spike_threshold=torch.tensor(THRESHOLD), spike_fn=SingleSpike,
        reset_fn=MembraneReset(), norm_input=False,
    ).to(task.device).requires_grad_(False)  # fmt: skip

    def run(x):
        layer.reset_states()
        return layer(x.transpose(0, 1)).transpose(0, 1)  # it takes [B, T, N]

    return run


def _tether(task):
    from tether.functional.lif import LIFSubFunction

    # The function below its module, which would also copy the firing rate to the CPU at each call.
    decay, threshold, alpha = (torch.tensor(value, device=task.device) for value in (BETA, THRESHOLD, 2.0))

    def run(x):
        mem = torch.zeros(x[0].numel(), device=x.device)
        return LIFSubFunction.apply(x.flatten(1), mem, decay, threshold, alpha, 0)[0].view_as(x)

    return run


SNNTORCH = Peer("snntorch loop", _snntorch)
COMPILED = Peer("snntorch loop, torch.compile", _compiled)
SPIKINGJELLY = [
    Peer(f"spikingjelly {name}", _spikingjelly(name), "spikingjelly", needs_cuda=name != "torch")
    for name in ("torch", "cuda", "triton")
]
OTHERS = [
    *SPIKINGJELLY,
    Peer("norse LIFBox, Lift", _norse_lift, "norse"),
    Peer("norse LIFBox, unbind", _norse_unbind, "norse"),
    Peer("sinabs LIF", _sinabs, "sinabs"),
    Peer("tetherpy LIF", _tether, "tether", needs_cuda=True),
]
OURS = Peer("bpsta", _ours, "snntorch_bpsta", PAPER)
OUR_MODES = [
    OURS._replace(name="bpsta, options off", build=_our_neuron, options=PLAIN),
    OURS._replace(name="bpsta, save bfloat16", options={**PAPER, "save": "bfloat16"}, tolerance=2e-2),
    OURS._replace(name="bpsta, save compact", options={**PAPER, "save": "compact"}, tolerance=2e-2),
    OURS._replace(name="bpsta, bfloat16", tolerance=2e-2, needs_cuda=True, dtype=torch.bfloat16),
    OURS._replace(name="bpsta, CUDA graph", needs_cuda=True, graph=True),
]
OURS_FUSED = OURS._replace(name="bpsta, relu and in place", options={**PAPER, "relu": True, "inplace": True})
LAYER = [OURS, SNNTORCH, COMPILED, *OTHERS, *OUR_MODES]
FUSED = [OURS_FUSED, OURS, SNNTORCH, COMPILED, *SPIKINGJELLY]


def reference(peer, x, relu):
    """Spikes of our reference for the task, with `peer`'s gradient if it is ours."""
    options = {
        name: value for name, value in (peer.options or PLAIN).items() if name not in ("save", "relu", "inplace")
    }
    return snn.functional.lif_multistep(torch.relu(x) if relu else x, **options, impl="reference").spk
