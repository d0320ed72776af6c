"""Networks with a loop over time, written as snnTorch's tutorials write them: their own loop, and the same net through
``snn.fold_time``. Forward and backward."""

import time
import warnings

import snntorch
import torch
from snntorch import surrogate, utils
from torch import nn

import snntorch_bpsta as snn
from snntorch_bpsta._torch import tree_leaves

from .contest import add_all, noted, skipped
from .timing import WRONG, Turn, figures, measure

LOOP, FOLDED = "snntorch loop", "bpsta fold_time"
TOLERANCE = (
    1e-3  # of outputs and gradients, over the largest entry of all: some of a batch norm's are zero but for rounding
)


def _leaky(**options):
    return snntorch.Leaky(beta=0.95, spike_grad=surrogate.fast_sigmoid(slope=25), **options)


class Dense(nn.Module):
    """Tutorial 5, 3 and the population code: an image at every step, or what an encoder made of it."""

    def __init__(self, inputs, hidden, outputs, steps=None, dropout=0.0, norm=False):
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(inputs, hidden), snntorch.Leaky(beta=0.95)
        self.norm = nn.BatchNorm1d(hidden) if norm else nn.Identity()
        self.drop = nn.Dropout(dropout)
        self.fc2, self.lif2 = nn.Linear(hidden, outputs), snntorch.Leaky(beta=0.95)
        self.steps = steps

    def forward(self, x):
        mem1, mem2, spikes, membranes = self.lif1.init_leaky(), self.lif2.init_leaky(), [], []
        for step in range(self.steps or x.size(0)):
            cur1 = self.norm(self.fc1(x if self.steps else x[step]))
            spk1, mem1 = self.lif1(cur1, mem1)
            spk2, mem2 = self.lif2(self.fc2(self.drop(spk1)), mem2)
            spikes.append(spk2)
            membranes.append(mem2)
        return torch.stack(spikes, dim=0), torch.stack(membranes, dim=0)


class Recurrent(nn.Module):
    """Regression 2, speech: a recurrent layer and a membrane that is read out."""

    def __init__(self, inputs, hidden, outputs, **options):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(inputs, hidden), nn.Linear(hidden, outputs)
        self.rlif = snntorch.RLeaky(beta=0.9, **options)
        self.lif = snntorch.Leaky(beta=0.9, reset_mechanism="none")

    def forward(self, x):
        spk, mem = self.rlif.init_rleaky()
        mem2, rows = self.lif.init_leaky(), []
        for x_t in x:
            spk, mem = self.rlif(self.fc1(x_t), spk, mem)
            _, mem2 = self.lif(self.fc2(spk), mem2)
            rows.append(mem2)
        return torch.stack(rows)


class Around(nn.Module):
    """Tutorials 6 and 7: a net of one step that keeps its states, and the loop around it."""

    def __init__(self, net, steps=None):
        super().__init__()
        self.net, self.steps = net, steps

    def forward(self, data):
        utils.reset(self.net)
        spikes, membranes = [], []
        for step in range(self.steps or data.size(0)):
            spk, mem = self.net(data if self.steps else data[step])
            spikes.append(spk)
            membranes.append(mem)
        return torch.stack(spikes), torch.stack(membranes)


def _tutorial_6(steps):
    net = nn.Sequential(
        nn.Conv2d(1, 12, 5), nn.MaxPool2d(2), _leaky(init_hidden=True),
        nn.Conv2d(12, 64, 5), nn.MaxPool2d(2), _leaky(init_hidden=True),
        nn.Flatten(), nn.Linear(64 * 4 * 4, 10), _leaky(init_hidden=True, output=True),
    )  # fmt: skip
    return Around(net, steps)


def _events(side):
    left = ((side - 4) // 2 - 4) // 2
    net = nn.Sequential(
        nn.Conv2d(2, 12, 5), _leaky(init_hidden=True), nn.MaxPool2d(2),
        nn.Conv2d(12, 32, 5), _leaky(init_hidden=True), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * left**2, 10), _leaky(init_hidden=True, output=True),
    )  # fmt: skip
    return Around(net)


# Name -> the net, and the shape of its input; of events where the last is True.
NETWORKS = {
    "tutorial 5, 784-1000-10, T 25, B 128": (lambda: Dense(784, 1000, 10, steps=25), (128, 784), False),
    "tutorial 6, T 50, B 32": (lambda: _tutorial_6(50), (32, 1, 28, 28), False),
    "tutorial 6, T 50, B 128": (lambda: _tutorial_6(50), (128, 1, 28, 28), False),
    "events 2x34x34, T 20, B 16": (lambda: _events(34), (20, 16, 2, 34, 34), True),
    "encoded images, T 50, B 64": (lambda: Dense(784, 256, 10), (50, 64, 784), True),
    "population of 500, T 25, B 128": (lambda: Dense(784, 128, 500, steps=25), (128, 784), False),
    "actor of 64, T 10, B 64": (lambda: Dense(8, 64, 4, steps=10), (64, 8), False),
    "dropout, T 25, B 128": (lambda: Dense(784, 512, 10, steps=25, dropout=0.3), (128, 784), False),
    "batch norm, T 25, B 128": (lambda: Dense(784, 512, 10, steps=25, norm=True), (128, 784), False),
    "regression, one to one, T 100, B 32": (lambda: Recurrent(1, 128, 1, all_to_all=False), (100, 32, 1), False),
    "speech, all to all, T 100, B 64": (lambda: Recurrent(40, 128, 20, linear_features=128), (100, 64, 40), False),
}
QUICK = {
    "dense": (lambda: Dense(6, 8, 3, steps=4), (2, 6), False),
    "events": (lambda: _events(16), (3, 2, 2, 16, 16), True),
}


def loops(settings, report):
    for name, (build, shape, events) in (QUICK if settings.quick else NETWORKS).items():
        torch.manual_seed(settings.seed)
        net = build().to(settings.device)
        x = torch.rand(shape, device=settings.device)
        x = (x < 0.1).float() if events else x
        turns, others, notes = {LOOP: _turn(net, net, x)}, {LOOP: {}, FOLDED: {}}, {}
        if not skipped(settings, FOLDED):
            with noted(notes, FOLDED):
                fast, columns, wrong = _folded(settings, net, x)
                others[FOLDED] = columns
                if wrong:
                    notes[FOLDED] = wrong
                else:
                    turns[FOLDED] = _turn(fast, net, x)
        add_all(report, name, figures(measure(turns, settings), LOOP), others, notes)


def _folded(settings, net, x):
    """The folded net, what its first call cost, and what is wrong with it."""
    loop = min(_seconds(net, x) for _ in range(2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(2):  # the kernels are compiled by the first
            fast = snn.fold_time(net)
            first = _seconds(fast, x)
        second = _seconds(fast, x)
    columns = {"first_call_of_loop": first / loop, "second_call_of_loop": second / loop, "loop_forward_ms": 1e3 * loop}
    dropout = any(isinstance(module, nn.Dropout) and module.p for module in net.modules())
    torch.manual_seed(settings.seed)
    expected = _results(net, net, x)
    torch.manual_seed(settings.seed)
    got = _results(fast, net, x)
    largest = max(float(t.abs().max()) for t in expected)
    columns["error"] = max(float((a - b).abs().max()) for a, b in zip(got, expected, strict=True)) / largest
    if fast.report().reason is not None:
        return fast, columns, f"{WRONG}: it is not folded: {fast.report().reason}"
    if not columns["error"] <= TOLERANCE and not (dropout and x.is_cuda):
        return fast, columns, f"{WRONG}: off by {columns['error']:.1e}; no speed is reported"
    return fast, columns, None


def _seconds(net, x):
    start = time.perf_counter()
    net(x)
    return time.perf_counter() - start


def _results(function, net, x):
    net.zero_grad(set_to_none=True)
    out = tree_leaves(function(x))
    sum(t.sum() for t in out).backward()
    return [t.detach() for t in out] + [p.grad for p in net.parameters()]


def _turn(function, net, x):
    def call():
        net.zero_grad(set_to_none=True)
        sum(t.sum() for t in tree_leaves(function(x))).backward()

    return Turn(call)
