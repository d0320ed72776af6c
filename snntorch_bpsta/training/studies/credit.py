"""Credit across a spike: a pulse early in a sequence, whose only trace is when a neuron fires many spikes later."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import nn

from ...neurons import Leaky
from ...surrogate import rectangle
from ..recipes import VARIANTS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ..._typing import Result

__all__: list[str] = []

NEURONS, READ, LAST_PULSE = 64, 8, 7
UPDATES, EVERY, BATCH, TEST, LR = 60, 10, 128, 500, 2e-2


class Task(NamedTuple):
    """Of `steps`, the spikes of the last :data:`READ` are read; `learnt` says whether the drive of the neurons is."""

    reset: Literal["zero", "subtract"] = "zero"
    steps: int = 24
    alpha: float | None = None  # in the place of the variant's, where it has one
    learnt: bool = False


TASKS = {
    "reset to zero": Task(),
    "the same, alpha 0.3": Task(alpha=0.3),
    "the same, alpha -0.3": Task(alpha=-0.3),
    "the same, drive learnt": Task(learnt=True),
    "the same, 48 steps": Task(steps=48),
    "reset by subtraction": Task("subtract"),
}


def neuron_of(variant: str, alpha: float | None = None) -> dict[str, Any]:
    """The options of a neuron of a row of ``VARIANTS``; `alpha` stands in the place of the row's, where it has one."""
    options = {name: VARIANTS[variant][name] for name in ("spatial_adj", "temporal_alpha")}
    if alpha is not None and options["temporal_alpha"]:
        options["temporal_alpha"] = alpha
    return options if options["spatial_adj"] else {**options, "spike_grad": rectangle()}


class Net(nn.Module):
    """Neurons that a constant drive of their own makes fire every few steps. The weights of the pulse begin at zero, so
    that no spike depends on it before they have learnt."""

    def __init__(self, task: Task, variant: str) -> None:
        super().__init__()
        self.pulse = nn.Linear(1, NEURONS)
        nn.init.zeros_(self.pulse.weight)
        nn.init.uniform_(self.pulse.bias, 0.15, 0.5)
        self.pulse.bias.requires_grad_(task.learnt)
        self.lif = Leaky(beta=0.9, threshold=0.5, reset_mechanism=task.reset, **neuron_of(variant, task.alpha))
        self.read = nn.Linear(NEURONS * READ, 2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The classes of sequences ``[T, B, 1]``, and all spikes."""
        spk = self.lif.sequence(self.pulse(x))[0]
        return self.read(spk[-READ:].permute(1, 2, 0).flatten(1)), spk


def sequences(task: Task, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """``[T, count, 1]``, half of them with a pulse at one of the steps 1 to 7, and whether they have one."""
    there = torch.randint(2, (count,), generator=generator)
    when = torch.randint(1, LAST_PULSE + 1, (count,), generator=generator)
    x = torch.zeros(task.steps, count, 1)
    x[when, torch.arange(count), 0] = there.float()
    return x, there


def measure_credit(runs: Mapping[tuple[str, str], None], seed: int, folder: Path) -> dict[tuple[str, str], Result]:
    """Train every run of a seed on the same sequences; (setting, variant) -> its row.

    ``first_gradient`` is the mean size of the loss's gradient by the weights of the pulse, before the first update.
    """
    from ..results import environment  # Lightning, which takes its time to import

    return {key: {"recipe": None, "seed": seed, **_trained(*key, seed), **environment()} for key in runs}


def _trained(setting, variant, seed):
    task = TASKS[setting]
    torch.manual_seed(seed)
    net, generator = Net(task, variant), torch.Generator().manual_seed(seed)
    test = sequences(task, TEST, torch.Generator().manual_seed(2**32 - 1 - seed))
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], LR)
    history: list[Result] = []
    gradient = rate = None
    for update in range(1, UPDATES + 1):
        x, there = sequences(task, BATCH, generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x)[0], there).backward()
        if gradient is None:
            gradient = float(net.pulse.weight.grad.abs().mean())
        optimizer.step()
        if update % EVERY == 0:
            with torch.no_grad():
                out, spk = net(test[0])
            rate = float(spk.mean())
            accuracy = float((out.argmax(1) == test[1]).float().mean())
            history.append({"epoch": len(history), "test_accuracy": accuracy, "warm_up": None})
    return {
        "accuracy": history[-1]["test_accuracy"], "firing_rate": rate, "firing_rates": {"lif": rate},
        "first_gradient": gradient, "history": history,
    }  # fmt: skip
