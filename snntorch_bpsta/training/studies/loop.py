"""A network as snnTorch's tutorial 5 writes it: by its own loop over time and by ``fold_time``, as it is and with Eq. 9."""

from __future__ import annotations

import copy
import time
from typing import TYPE_CHECKING

import snntorch
import torch
from torch import nn

from ... import data
from ...conversion import convert
from ...energy import record_firing_rates
from ...folding import fold_time
from .workers import report

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ..._typing import AnyPath, Result

__all__: list[str] = []

OWN, FOLDED = "its own loop", "snn.fold_time"
EPOCHS, BATCH, LR, SIDE = 10, 128, 1e-4, 28


class Net(nn.Module):
    """784-1000-10 neurons, the same image at each of 25 steps, as in the tutorial."""

    def __init__(self, inputs: int = SIDE**2, hidden: int = 1000, outputs: int = 10, steps: int = 25) -> None:
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(inputs, hidden), snntorch.Leaky(beta=0.95)
        self.fc2, self.lif2 = nn.Linear(hidden, outputs), snntorch.Leaky(beta=0.95)
        self.steps = steps

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        spikes, membranes = [], []
        for _ in range(self.steps):
            spk1, mem1 = self.lif1(self.fc1(x), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            spikes.append(spk2)
            membranes.append(mem2)
        return torch.stack(spikes), torch.stack(membranes)


class _Run:
    """One of the networks, and how it is trained; kernels are compiled before the clock starts."""

    def __init__(self, setting, variant, seed, training):
        torch.manual_seed(seed)
        self.net = Net()
        if variant == "bpsa":
            convert(self.net, spatial_adj=True)
        self.call = self.net
        if setting == FOLDED:
            trial = fold_time(copy.deepcopy(self.net))
            for _ in range(3):
                _loss(trial, *(tensor[:2] for tensor in training)).backward()
            self.call = fold_time(self.net)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=LR)
        self.seconds, self.history = 0.0, []

    def epoch(self, training, order):
        (x, targets), begin = training, time.perf_counter()
        for rows in order.split(BATCH):
            loss = _loss(self.call, x[rows], targets[rows])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        self.seconds += time.perf_counter() - begin

    @torch.no_grad()
    def test(self, x, targets):
        with record_firing_rates(self.net) as firing:
            spikes, _ = self.net(x)
        accuracy = float((spikes.sum(0).argmax(1) == targets).float().mean())
        self.history.append(
            {"epoch": len(self.history), "test_accuracy": accuracy, "seconds": self.seconds, "warm_up": None}
        )
        self.rates = firing.rates()


def measure_loop(
    runs: Mapping[tuple[str, str], None], seed: int, folder: Path, data_root: AnyPath | None = None
) -> dict[tuple[str, str], Result]:
    """Train the network of tutorial 5 on scikit-learn's digits, enlarged to the size of MNIST's: an epoch of each run in
    turn, so that whatever else the machine does takes from all of them.

    Returns:
        dict: (setting, variant) -> row. Its ``train_seconds`` are those of the training steps, with what ``fold_time``
        records and checks; ``firing_rate`` is that of the hidden layer.
    """
    from ..results import environment  # Lightning, which takes its time to import

    training, test = enlarged_digits(data_root)
    found = {(setting, variant): _Run(setting, variant, seed, training) for setting, variant in runs}
    for epoch in range(EPOCHS):
        order = torch.randperm(len(training[0]), generator=torch.Generator().manual_seed(1000 * seed + epoch))
        for run in found.values():
            run.epoch(training, order)
            run.test(*test)
        report(epoch + 1)
    return {
        key: {
            "recipe": None, "seed": seed, "accuracy": run.history[-1]["test_accuracy"], "firing_rate": run.rates["lif1"],
            "firing_rates": run.rates, "train_seconds": run.seconds, "history": run.history, **environment(),
        }
        for key, run in found.items()
    }  # fmt: skip


def enlarged_digits(root: AnyPath | None) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Scikit-learn's digits ``[N, 784]``, as large as MNIST's, and their classes: training and test part."""
    found = []
    for train in (True, False):
        samples = data.load("digits", train=train, root=root)
        images, targets = zip(*(samples[i] for i in range(len(samples))), strict=True)
        large = nn.functional.interpolate(torch.stack(images), (SIDE, SIDE), mode="bilinear")
        found.append((large.flatten(1), torch.tensor(targets)))
    return found


def _loss(run, x, targets):
    """The tutorial's loss: the cross entropy of the membranes, summed over the steps."""
    _, membranes = run(x)
    return nn.functional.cross_entropy(membranes.flatten(0, 1), targets.repeat(len(membranes))) * len(membranes)
