"""The public comparison of Open Neuromorphic: Linear(n, n) and a LIF layer, batch 16, 500 steps, forward and backward.

Sizes, inputs and neurons are theirs (open-neuromorphic.org, "SNN library benchmarks", 2023-08 to 2024-02): every library
with the neuron that its documentation shows and the decay and threshold that they gave it, a normal input without a
gradient, the loss the sum of the spikes. All have the same weights and inputs.
"""

import contextlib
import os
import time

import snntorch
import torch
from torch import nn

import snntorch_bpsta as snn

from .apart import Apart
from .contest import add_all, chosen, noted
from .peers import Peer, Task, Unavailable, build, found
from .timing import WRONG, figures, kept_memory, measure, percentiles

BATCH, BETA = 16, 0.95
_TOLERANCE = 1e-3  # of the spikes: one product of all steps rounds otherwise than one a step


class Loop(nn.Module):
    """Their network of snnTorch."""

    def __init__(self, fc):
        super().__init__()
        self.fc, self.lif = fc, snntorch.Leaky(beta=BETA)

    def forward(self, x):
        mem, spk_rec = self.lif.init_leaky(), []
        for x_t in x:
            spk, mem = self.lif(self.fc(x_t), mem)
            spk_rec.append(spk)
        return torch.stack(spk_rec)


def _linear(task):
    torch.manual_seed(0)
    return nn.Linear(task.neurons, task.neurons).to(task.device)


def _snntorch(task):
    net = Loop(_linear(task)).to(task.device)
    return net, net


def _spikingjelly(task):
    from spikingjelly._ops.lif import _selection
    from spikingjelly.activation_based import functional, neuron, surrogate

    _selection._requested, _selection._selections = "auto", {}
    node = neuron.LIFNode(tau=5.0, surrogate_function=surrogate.ATan(), step_mode="m")
    net = nn.Sequential(_linear(task), node).to(task.device)

    def run(x):
        functional.reset_net(net)
        return net(x)

    return net, run


def _norse(task):
    from norse.torch import LIF, SequentialState

    net = SequentialState(_linear(task), LIF()).to(task.device)
    return net, lambda x: net(x)[0]


def _norse_compiled(task):
    if task.num_steps > task.compile_steps:
        raise Unavailable(f"not run: T > {task.compile_steps} (--compile-steps)")
    net, run = _norse(task)
    torch.compiler.reset()
    return net, torch.compile(run, dynamic=False)


def _sinabs(task):
    import sinabs
    from sinabs.layers import LIF

    net = nn.Sequential(_linear(task), LIF(tau_mem=torch.tensor(10.0))).to(task.device)

    def run(x):
        sinabs.reset_states(net)
        return net(x)

    return net, run


def _sequence(task):
    net = nn.ModuleList([_linear(task), snn.Leaky(beta=BETA)]).to(task.device)
    return net, lambda x: net[1].sequence(net[0](x))[0]


def _multistep(task):
    net = snn.MultiStep(_linear(task), snn.Leaky(beta=BETA)).to(task.device)
    return net, net


def _folded(task):
    net = Loop(_linear(task)).to(task.device)
    return net, snn.fold_time(net)


SNNTORCH = Peer("snntorch loop", _snntorch)
OURS = [
    Peer("bpsta sequence", _sequence, "snntorch_bpsta", {}),
    Peer("bpsta MultiStep", _multistep, "snntorch_bpsta", {}),
    Peer("bpsta fold_time of the loop", _folded, "snntorch_bpsta", {}),
]
SINABS = Peer("sinabs LIF", _sinabs, "sinabs")
SPYX = Peer("spyx LIF, jax.jit", None, "spyx")  # in a process of its own
PEERS = [
    SNNTORCH, *OURS, Peer("spikingjelly, its best", _spikingjelly, "spikingjelly"), Peer("norse LIF", _norse, "norse"),
    Peer("norse LIF, torch.compile", _norse_compiled, "norse"), SINABS, SPYX,
]  # fmt: skip


class _Halves:
    """A turn that times forward and backward apart; `parts` has both of the last round."""

    prepare = columns = None

    def __init__(self, net, run, x):
        self.net, self.run, self.x = net, run, x

    def ms(self, device, number=1):
        spent = [0.0, 0.0]
        for _ in range(number):
            self.net.zero_grad(set_to_none=True)
            clock = [_now(device)]
            loss = self.run(self.x).sum()
            clock.append(_now(device))
            loss.backward()
            clock.append(_now(device))
            spent = [spent[0] + clock[1] - clock[0], spent[1] + clock[2] - clock[1]]
        self.parts = [1e3 * seconds / number for seconds in spent]
        return sum(self.parts)


def _now(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class _SpyxHalves:
    """The same of Spyx: its gradient is one call with the forward in it, from which the forward's time is taken away."""

    prepare = None

    def __init__(self, settings, task):
        with contextlib.suppress(NotImplementedError):
            snn.keep_memory()  # as in the process of the others
        if task.device.type == "cuda":
            os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
        import jax
        from flax import nnx
        from spyx import axn
        from spyx import nn as spyx

        if (jax.default_backend() == "gpu") != (task.device.type == "cuda"):
            raise Unavailable(f"jax runs on {jax.default_backend()!r} here")
        fc = _linear(task._replace(device=torch.device("cpu")))
        lif = spyx.LIF((task.neurons,), beta=BETA, activation=axn.arctan(), rngs=nnx.Rngs(0))
        net = spyx.Sequential(nnx.Linear(task.neurons, task.neurons, rngs=nnx.Rngs(0)), lif)
        net.layers[0].kernel[...], net.layers[0].bias[...] = (p.detach().numpy() for p in (fc.weight.T, fc.bias))
        graph, parameters, rest = nnx.split(net, nnx.Param, ...)

        def forward(parameters, x):
            return spyx.run(nnx.merge(graph, parameters, rest), x)[0]

        x = jax.numpy.asarray(_input(settings, task).cpu().numpy())
        both, block = (jax.jit(f) for f in (forward, jax.grad(lambda *own: forward(*own).sum()))), jax.block_until_ready
        self.forward, self.gradient = (lambda f=f: block(f(parameters, x)) for f in both)
        self.columns = {"rate": float(self.forward().mean())}

    def ms(self, device, number=1):
        spent = []
        for call in (self.forward, self.gradient):
            begin = time.perf_counter()
            for _ in range(number):
                call()
            spent.append(1e3 * (time.perf_counter() - begin) / number)
        self.parts = [spent[0], spent[1] - spent[0]]
        return spent[1]


def _input(settings, task):
    generator = torch.Generator().manual_seed(settings.seed)
    return torch.randn(task.num_steps, BATCH, task.neurons, generator=generator).to(task.device)


class _Recorded:
    """A turn that remembers the parts of every round."""

    prepare = None

    def __init__(self, turn):
        self.turn, self.rounds = turn, []

    def ms(self, device, number=1):
        ms = self.turn.ms(device, number)
        self.rounds.append(self.turn.parts)
        return ms


def onm(settings, report):
    """The sum of both and each, at their sizes; of those the CPU has time for the smaller ones."""
    cuda = settings.device.type == "cuda"
    steps, sizes = (8, (5,)) if settings.quick else (500, (512, 4096, 8192, 16384) if cuda else (512, 1024, 2048, 4096))
    for neurons in sizes:
        _race(settings, report, Task(settings.device, steps, compile_steps=settings.compile_steps, neurons=neurons))


def _race(settings, report, task):
    x, case = _input(settings, task), f"n = {task.neurons}"
    turns, others, notes, expected = {}, {}, {}, None
    with kept_memory(), contextlib.ExitStack() as stack:
        for peer in chosen(settings, PEERS):
            with noted(notes, peer.name):
                if peer is SPYX:
                    found(peer, task)
                    turn = stack.enter_context(Apart(_SpyxHalves, settings, task))
                    turns[peer.name], others[peer.name] = _Recorded(turn), turn.columns
                    continue
                net, run = build(peer, task)
                own = x.transpose(0, 1).contiguous() if peer is SINABS else x
                spk = run(own).detach()
                others[peer.name] = {"rate": float(spk.mean())}
                if peer is SNNTORCH:
                    expected = spk
                elif peer in OURS and expected is not None:
                    others[peer.name]["spikes_differ"] = differ = float((spk != expected).float().mean())
                    if differ > _TOLERANCE or _not_folded(run):
                        notes[peer.name] = f"{WRONG}: its spikes are not snnTorch's, or the loop is not folded"
                        continue
                others[peer.name] |= _peak(settings, net, run, own)
                turns[peer.name] = _Recorded(_Halves(net, run, own))
                del spk
        times = measure(turns, settings)
    results = figures(times, SNNTORCH.name)
    for name, columns in results.items():
        halves = zip(*turns[name].rounds[-len(times[name]) :], strict=True)
        columns["forward_ms"], columns["backward_ms"] = (percentiles(half)[1] for half in halves)
    add_all(report, case, results, others, notes)


def _not_folded(run):
    return hasattr(run, "report") and run.report().reason is not None


def _peak(settings, net, run, x):
    """MiB that forward and backward allocate at the highest, on CUDA."""
    if settings.device.type != "cuda":
        return {}
    before = torch.cuda.memory_allocated(settings.device)
    torch.cuda.reset_peak_memory_stats(settings.device)
    _Halves(net, run, x).ms(settings.device)
    return {"step_MiB": (torch.cuda.max_memory_allocated(settings.device) - before) / 2**20}
