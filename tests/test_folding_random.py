"""Loop networks put together at random, folded and beside their own loops."""

import os
import random

import pytest
import snntorch
import torch
from _folding import assert_alike
from torch import nn
from torch.nn import functional as F

import snntorch_bpsta as snn
from snntorch_bpsta.layers import over_time

T, B, N = 5, 3, 6
SEEDS = range(60 * int(os.environ.get("SNNTORCH_BPSTA_FUZZ", "1")))

NEURONS = {
    "Leaky": {"beta": 0.9},
    "Lapicque": {"beta": 0.6},
    "Synaptic": {"alpha": 0.7, "beta": 0.8},
    "Alpha": {"alpha": 0.9, "beta": 0.6},
    "RLeaky": {"beta": 0.8, "all_to_all": False, "V": 0.3},
    "RSynaptic": {"alpha": 0.7, "beta": 0.8, "linear_features": N},
}
PLAIN = ("linear", "linear", "neuron", "neuron", "neuron", "add", "mul", "relu", "norm", "cat", "mean")
ODD = (
    "delay", "feedback", "leak", "dropout", "noise", "batch norm", "detach", "every second", "shared", "in place",
    "state scaled", "states swapped", "step number", "mirror", "split", "where", "no grad", "sorted", "written",
    "state reset", "membrane", "indexed",
)  # fmt: skip


class RandomLoop(nn.Module):
    """Each instruction makes a value ``[B, N]`` of some of those before it, at each step."""

    def __init__(self, seed):
        super().__init__()
        rng = random.Random(seed)
        torch.manual_seed(seed)
        self.layers = nn.ModuleDict()
        self.program = []
        self.source = rng.choice(["x[t]", "x[t]", "x[:, t]", "iter", "static"])
        self.prealloc, self.sums = rng.random() < 0.3, rng.random() < 0.3
        odd = ODD if seed % 3 else ()
        for place in range(1, rng.randint(3, 9)):
            what = rng.choice(PLAIN * 2 + odd)
            a, b = rng.randrange(place), rng.randrange(place)
            self.program.append((what, a, b))
            self._add(str(place), what, rng)
        neurons = [place for place, (what, *_) in enumerate(self.program, 1) if what == "neuron"]
        self.out = rng.sample(range(1, place + 1), rng.randint(1, place))
        self.states = rng.sample(neurons, rng.randint(0, len(neurons)))
        self.order = rng.random() < 0.5

    def _add(self, name, what, rng):
        if what in ("linear", "feedback"):
            self.layers[name] = nn.Linear(N, N)
        elif what == "cat":
            self.layers[name] = nn.Linear(2 * N, N)
        elif what == "norm":
            self.layers[name] = nn.LayerNorm(N)
        elif what == "batch norm":
            self.layers[name] = nn.BatchNorm1d(N)
        elif what == "neuron":
            kind = rng.choice(list(NEURONS))
            module = rng.choice([snntorch, snntorch, snn])
            options = {"threshold": rng.choice([0.2, 0.5])} | NEURONS[kind]
            options["reset_mechanism"] = rng.choice(["subtract", "zero", "none"])
            options["init_hidden"] = rng.random() < 0.3
            self.layers[name] = getattr(module, kind)(**options)

    def forward(self, x):
        steps = T if self.source == "static" else x.shape[1 if self.source == "x[:, t]" else 0]
        states, before = {}, {}
        for name, layer in self.layers.items():
            if isinstance(layer, snntorch.SpikingNeuron):
                reset = layer.reset_mem()
                states[name] = list(reset) if isinstance(reset, tuple) else [reset]
        zeros = torch.zeros(B, N)
        rows = {place: [] for place in self.out}
        held = {place: [] for place in self.states}
        written = torch.zeros(steps, B, N)
        total = torch.zeros(B, N)
        for t, row in enumerate(x if self.source == "iter" else range(steps)):
            values = [
                {"x[t]": lambda t: x[t], "x[:, t]": lambda t: x[:, t], "iter": lambda t: t}.get(
                    self.source, lambda t: x
                )(row)
            ]
            for place, (what, a, b) in enumerate(self.program, 1):
                values.append(self._step(str(place), what, values[a], values[b], states, before, zeros, t, x))
            for place in self.out:
                rows[place].append(values[place])
            for place in self.states:
                layer = self.layers[str(place)]
                held[place].append(layer.mem if layer.init_hidden else states[str(place)][-1])
            written[t] = values[-1]
            total += values[-1]
            before |= {str(place): value for place, value in enumerate(values)}
        out = [torch.stack(row, dim=1 if self.order else 0) for row in rows.values()]
        out += [torch.stack(row) for row in held.values()]
        out += [written] * self.prealloc + [total] * self.sums
        return tuple(out)

    def _step(self, name, what, a, b, states, before, zeros, t, x):
        layer = self.layers[name] if name in self.layers else None
        if what in ("linear", "norm", "batch norm"):
            return layer(a)
        if what == "cat":
            return layer(torch.cat([a, b], dim=-1))
        if what == "neuron":
            if layer.init_hidden:
                return layer(a)
            spk, *after = layer(a, *states[name])
            states[name] = [spk, *after] if isinstance(layer, (snntorch.RLeaky, snntorch.RSynaptic)) else after
            return spk
        if what in ("state scaled", "states swapped", "state reset"):
            self._disturb(what, states, t)
            return a + b
        return {
            "step number": lambda: a * (1 + t / 10) + (b if t == 2 else 0),
            "mirror": lambda: a + self._row(x, -1 - t),
            "split": lambda: torch.cat(a.chunk(2, dim=-1)[::-1], dim=-1) + b.unbind(0)[1],
            "where": lambda: torch.where(a > 0.4, a, -b),
            "no grad": lambda: a + self._without_gradients(b),
            "sorted": lambda: a.sort(dim=-1)[0] + b.max(dim=-1, keepdim=True).values,
            "written": lambda: self._written(a, b, t),
            "membrane": lambda: a + 0.1 * sum(state[-1] for state in states.values() if state[-1].shape == a.shape),
            "indexed": lambda: a[:, [1, 0, 3, 2, 5, 4]] + b[torch.tensor([2, 0, 1])],
            "add": lambda: a + b,
            "mul": lambda: a * torch.sigmoid(b),
            "relu": lambda: F.relu(a - 0.1),
            "mean": lambda: a + b.mean(-1, keepdim=True),
            "delay": lambda: a + before.get(name, zeros) * 0 + 0.5 * before.get("0", zeros),
            "feedback": lambda: layer(before.get(name, zeros)).tanh() + a,
            "leak": lambda: 0.5 * before.get(name, zeros) + a,
            "dropout": lambda: F.dropout(a, 0.3, self.training),
            "noise": lambda: a + 0.1 * torch.randn_like(b),
            "detach": lambda: a.detach() + b,
            "every second": lambda: a if t % 2 else b,
            "shared": lambda: self._first_linear(a),
            "in place": lambda: torch.zeros_like(a).add_(a).mul_(0.7),
        }[what]()

    def _row(self, x, t):
        return {"x[t]": lambda: x[t], "iter": lambda: x[t], "x[:, t]": lambda: x[:, t], "static": lambda: x}[
            self.source
        ]()

    def _disturb(self, what, states, t):
        """Do something to the states of the neurons, between their steps."""
        names = [
            name for name, state in states.items() if state[-1].shape == (B, N) and not self.layers[name].init_hidden
        ]
        if what == "states swapped" and len(names) > 1:
            one, two = states[names[0]], states[names[1]]
            one[-1], two[-1] = two[-1], one[-1]
        elif names and what == "state scaled":
            states[names[-1]][-1] = states[names[-1]][-1] * 0.8
        elif names and t % 3 == 1:
            states[names[0]][-1] = torch.zeros(B, N)

    @staticmethod
    def _without_gradients(b):
        with torch.no_grad():
            return b * 2

    @staticmethod
    def _written(a, b, t):
        out = a.clone()
        out[:, t % N] = b[:, 0]
        return out

    def _first_linear(self, a):
        layer = next(
            (layer for layer in self.layers.values() if type(layer) is nn.Linear and layer.in_features == N), None
        )
        return a if layer is None else layer(a)

    def inputs(self):
        shape = {"static": (B, N), "x[:, t]": (B, T, N)}.get(self.source, (T, B, N))
        return (torch.rand(shape) * 2,)


@pytest.mark.parametrize("seed", SEEDS)
def test_random_loops(seed, monkeypatch):
    if seed % 4 == 3:
        monkeypatch.setattr(over_time, "TURN", 150)
    net, other = RandomLoop(seed), RandomLoop(seed)
    if seed % 5 == 4:
        net.eval(), other.eval()
    fast = snn.fold_time(other)
    assert_alike((net, nn.ModuleList([net])), (fast, nn.ModuleList([other])), net.inputs, calls=4)
    report = fast.report()
    assert report.reason is None or "no call is made more than once" in report.reason, report
    if not seed % 3:  # nothing odd: every layer is called once for all steps
        assert not [name for name in report.stepped if name.startswith("layers.")], report
