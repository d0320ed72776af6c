"""A network as the tutorials build it, of snnTorch's defaults: dead under Eq. 9, and what lets it learn."""

import functools

import pytest
import snntorch
import torch
from torch import nn

import snntorch_bpsta as snn

STEPS, EPOCHS, HIDDEN = 10, 3, 128
LEAKS = snn.surrogate.spatial_adjustment(leak=0.1)
OPTIONS = {
    "snnTorch": {},
    "Eq. 9": {"spatial_adj": True},
    "leak": {"spatial_adj": LEAKS},
    "output": {"spatial_adj": True, "output_spike_grad": snn.surrogate.ArcTangent()},
    "both": {"spatial_adj": LEAKS, "output_spike_grad": snn.surrogate.ArcTangent()},
}


@functools.cache
def digits():
    data = pytest.importorskip("sklearn.datasets", reason="scikit-learn (extra: data) is missing").load_digits()
    x, y = torch.tensor(data.data, dtype=torch.float32) / 16, torch.tensor(data.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return x[order], y[order]


@functools.cache
def accuracy(name, seed):
    """Of the last 360 images, after training on the others; and the firing rate of each layer there."""
    x, y = digits()
    torch.manual_seed(seed)
    sizes, layers = (64, HIDDEN, HIDDEN, 10), []
    for fan_in, fan_out in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(fan_in, fan_out), snntorch.Leaky(beta=0.9)]
    net = snn.MultiStep(*snn.convert(nn.Sequential(*layers), **OPTIONS[name]))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(x) - 360).split(32):
            counts = net(x[batch].expand(STEPS, -1, -1)).sum(0)
            optimizer.zero_grad()
            nn.functional.cross_entropy(counts, y[batch]).backward()
            optimizer.step()
    with torch.no_grad(), snn.energy.record_firing_rates(net) as firing:
        guesses = net(x[-360:].expand(STEPS, -1, -1)).sum(0).argmax(1)
    return (guesses == y[-360:]).float().mean().item(), [*firing.rates().values()]


@pytest.mark.filterwarnings("ignore:.*fired nowhere")
@pytest.mark.parametrize("seed", [0, 1])
def test_a_network_that_is_dead_under_equation_9_learns(seed):
    dead, rates = accuracy("Eq. 9", seed)
    leak, output, both, host = (accuracy(name, seed)[0] for name in ("leak", "output", "both", "snnTorch"))
    assert dead < 0.3 and rates[-1] < 0.01  # chance is 0.1
    assert leak > dead + 0.15
    assert output > host - 0.1 and both > host - 0.1 and host > 0.85
