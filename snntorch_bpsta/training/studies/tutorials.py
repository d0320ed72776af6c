"""The networks of snnTorch's tutorials at its defaults: what Eq. 9 does to them.

Ours are the second and third hidden layer, the 20 steps of the convolutional network (the tutorial's 50 take longer), the
arc tangent in the regression, and the data: digits in the place of MNIST and of Fashion-MNIST.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import snntorch
import torch
from snntorch import functional as SF
from snntorch import surrogate, utils
from torch import nn

from ...conversion import convert
from ...energy import record_firing_rates
from ...folding import fold_time
from ...networks import set_warm_up
from ...surrogate import spatial_adjustment
from .loop import SIDE, enlarged_digits
from .workers import report

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from ..._typing import AnyPath, Result

__all__: list[str] = []

BATCH, LEAK, PARTS = 128, 0.1, 10
_Recorded = tuple[torch.Tensor, torch.Tensor]  # spikes and membranes of the output, [T, B, ...]


class Loop(nn.Module):
    """Layers whose neurons hide their states, called `steps` times with the same image, as tutorial 6 does it."""

    def __init__(self, steps: int, *layers: nn.Module) -> None:
        super().__init__()
        self.steps, self.layers = steps, nn.Sequential(*layers)

    def forward(self, x: Tensor) -> _Recorded:
        utils.reset(self.layers)
        spk_rec, mem_rec = [], []
        for _ in range(self.steps):
            spk, mem = self.layers(x)
            spk_rec.append(spk)
            mem_rec.append(mem)
        return torch.stack(spk_rec), torch.stack(mem_rec)


class Follower(nn.Module):
    """The network of the tutorial on regression: a curve goes in, the membrane of the output shall follow another one."""

    def __init__(self, hidden: int = 128) -> None:
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(1, hidden), _learnt(hidden)
        self.fc2, self.lif2 = nn.Linear(hidden, hidden), _learnt(hidden)
        self.fc3 = nn.Linear(hidden, 1)
        self.lif3 = snntorch.Leaky(beta=torch.rand(1), learn_beta=True, reset_mechanism="none")

    def forward(self, x: Tensor) -> _Recorded:
        mem1, mem2, mem3 = (lif.init_leaky() for lif in (self.lif1, self.lif2, self.lif3))
        spk_rec, mem_rec = [], []
        for now in x:
            spk1, mem1 = self.lif1(self.fc1(now), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            spk3, mem3 = self.lif3(self.fc3(spk2), mem3)
            spk_rec.append(spk3)
            mem_rec.append(mem3)
        return torch.stack(spk_rec), torch.stack(mem_rec)


def _learnt(count):
    return snntorch.Leaky(beta=torch.rand(count), threshold=torch.rand(count), learn_beta=True)


def _dense(steps, hidden, outputs, **neuron):
    """Fully connected layers, each with its Leaky neurons."""
    sizes, layers = (SIDE**2, *hidden, outputs), [nn.Flatten()]
    for fan_in, fan_out in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(fan_in, fan_out), snntorch.Leaky(init_hidden=True, **neuron)]
    layers[-1].output = True
    return Loop(steps, *layers)


def _convolutional():
    def leaky(**options):
        return snntorch.Leaky(beta=0.5, spike_grad=surrogate.fast_sigmoid(slope=25), init_hidden=True, **options)

    return Loop(
        20, nn.Conv2d(1, 12, 5), nn.MaxPool2d(2), leaky(), nn.Conv2d(12, 64, 5), nn.MaxPool2d(2), leaky(),
        nn.Flatten(), nn.Linear(64 * 4 * 4, 10), leaky(output=True),
    )  # fmt: skip


def _membrane_entropy(spk, mem, targets):
    """The loss of tutorial 5: the cross entropy of the membranes, summed over the steps."""
    return nn.functional.cross_entropy(mem.flatten(0, 1), targets.repeat(len(mem))) * len(mem)


def _most_spikes(spk, mem, targets):
    return SF.accuracy_rate(spk, targets)


_VOTES: dict[str, Any] = {"population_code": True, "num_classes": 10}


def _r_squared(spk, mem, targets):
    """Which part of the variance of the curve is met; 0 for less than none."""
    return max(0.0, 1 - float((mem - targets).square().sum() / (targets - targets.mean()).square().sum()))


class Task(NamedTuple):
    """A network, and how its tutorial trains it.

    Attributes:
        build: makes the network, which gives the spikes and membranes of its output.
        lr: of Adam.
        loss, quality: functions of (spikes, membranes, targets); the quality is from 0 to 1.
        epochs: over the digits; of the regression updates.
        follows: it is the regression, on a curve in the place of the digits.
    """

    build: Callable[[], nn.Module]
    lr: float
    loss: Callable[[Tensor, Tensor, Tensor], Tensor] = _membrane_entropy
    quality: Callable[[Tensor, Tensor, Tensor], float] = _most_spikes
    epochs: int = 10
    follows: bool = False


TASKS = {
    **{
        f"{len(hidden)} hidden": Task(partial(_dense, 25, hidden, 10, beta=0.95), 5e-4)
        for hidden in ((1000,), (256, 256), (256, 256, 256))
    },
    "convolutional": Task(_convolutional, 1e-2, lambda spk, mem, targets: SF.ce_rate_loss()(spk, targets)),
    "population code": Task(
        lambda: _dense(1, (128,), 500, beta=0.9, spike_grad=surrogate.fast_sigmoid()),
        2e-3,
        lambda spk, mem, targets: SF.mse_count_loss(correct_rate=1.0, incorrect_rate=0.0, **_VOTES)(spk, targets),
        lambda spk, mem, targets: SF.accuracy_rate(spk, targets, **_VOTES),
    ),
    "regression": Task(
        Follower, 1e-3, lambda spk, mem, targets: (mem - targets).square().mean(), _r_squared, epochs=100, follows=True
    ),
}
# "baseline" is the network as it is. A leak lets Eq. 9 through below the threshold; "hidden" leaves the output its own
# surrogate. The warm-up has a logistic surrogate for a third of the training; "later" is the network as it is for that long.
VARIANTS = (
    "baseline",
    "bpsa",
    "bpsa+leak",
    "bpsa-hidden",
    "bpsa+leak-hidden",
    "bpsa+warm-up",
    "bpsa-hidden-later",
)


def adjust(net: nn.Module, variant: str) -> None:
    """Turn on Eq. 9 as `variant` says, in place."""
    *_, last = [module for module in net.modules() if isinstance(module, snntorch.SpikingNeuron)]
    convert(
        net,
        spatial_adj=spatial_adjustment(leak=LEAK) if "leak" in variant else True,
        output_spike_grad=last.spike_grad if "hidden" in variant else None,
        warm_up="surrogate" if variant.endswith("warm-up") else None,
    )


def measure_tutorials(
    runs: Mapping[tuple[str, str], None], seed: int, folder: Path, data_root: AnyPath | None = None
) -> dict[tuple[str, str], Result]:
    """Train every run of a seed; (setting, variant) -> its row.

    The networks of images learn scikit-learn's digits, enlarged to the size of MNIST's. ``accuracy`` of the regression is
    R^2 on the curve that it was trained on, as in the tutorial, or 0 where that is negative. ``firing_rate`` is that of the
    hidden neurons on the test images.
    """
    from ..results import environment  # Lightning, which takes its time to import

    return {key: {"recipe": None, "seed": seed, **_trained(*key, seed, data_root), **environment()} for key in runs}


def _data(task, data_root):
    """Inputs and targets to train on and to test on."""
    if task.follows:
        curve = torch.linspace(0, 1, 50).view(50, 1, 1)  # the tutorial's "sqrt"
        return [(curve, torch.sqrt(curve * 0.7))] * 2
    return [(x.unflatten(1, (1, SIDE, SIDE)), targets) for x, targets in enlarged_digits(data_root)]


def _trained(setting, variant, seed, data_root):
    task = TASKS[setting]
    training, test = _data(task, data_root)
    torch.manual_seed(seed)
    net = task.build()
    first = task.epochs // 3
    run, optimizer = fold_time(net), torch.optim.Adam(net.parameters(), task.lr)
    generator, begin = torch.Generator().manual_seed(seed), time.perf_counter()
    history: list[Result] = []
    for epoch in range(task.epochs):
        if epoch == (first if "later" in variant else 0) and variant != "baseline":
            adjust(net, variant)
        if epoch == first:
            set_warm_up(net, None)
        for x, targets in [training] if task.follows else _batches(*training, generator):
            optimizer.zero_grad()
            task.loss(*run(x), targets).backward()
            optimizer.step()
        with torch.no_grad():
            quality = float(task.quality(*run(test[0]), test[1]))
        warm_up = "surrogate" if variant.endswith("warm-up") and epoch < first else None
        history.append({"epoch": epoch, "test_accuracy": quality, "warm_up": warm_up})
        report((epoch + 1) * PARTS // task.epochs)
    seconds = time.perf_counter() - begin
    with torch.no_grad(), record_firing_rates(net) as firing:
        net(test[0])
    return {
        "accuracy": history[-1]["test_accuracy"], "firing_rate": firing.penalty([*firing][:-1]).item(),
        "firing_rates": firing.rates(), "train_seconds": seconds, "history": history,
    }  # fmt: skip


def _batches(x, targets, generator):
    for rows in torch.randperm(len(x), generator=generator).split(BATCH):
        yield x[rows], targets[rows]
