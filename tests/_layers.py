"""Neurons, exact numbers and one run, for the tests of layers."""

import torch
from snntorch import surrogate as host_surrogate
from torch import nn

import snntorch_bpsta as snn

T, B, N = 5, 3, 6
F32, F64 = torch.float32, torch.float64
PAPER = dict(beta=0.9, threshold=0.5, reset_mechanism="zero")


NEURONS = {
    "off": dict(beta=0.9),
    "off-zero": PAPER,
    "off-fast-sigmoid": PAPER | dict(spike_grad=host_surrogate.fast_sigmoid(5)),
    "spatial": PAPER | dict(spatial_adj=True),
    "temporal": PAPER | dict(temporal_alpha=0.8),
    "both": PAPER | dict(spatial_adj=True, temporal_alpha=0.8),
    "both-subtract": PAPER | dict(reset_mechanism="subtract", spatial_adj=True, temporal_alpha=0.8),
    "rectangle": PAPER | dict(spike_grad=snn.surrogate.rectangle()),
    "learnable": PAPER | dict(spatial_adj=True, temporal_alpha=0.8, learn_beta=True, learn_threshold=True),
    "reset-at-once": PAPER | dict(spatial_adj=True, reset_delay=False),
    "graded": PAPER | dict(spatial_adj=True, graded_spikes_factor=0.5),
}


# The host's default surrogates give float32 spikes, which a float64 layer behind them refuses.
DTYPES = {name: F32 if name.startswith("off") else F64 for name in NEURONS}


def grid(*shape, seed=0, low=-1.0, high=1.0, step=1 / 16, dtype=F32):
    """Multiples of `step`: sums and products of few of them are exact, whatever the order of summation."""
    gen = torch.Generator().manual_seed(seed)
    x = torch.rand(*shape, generator=gen, dtype=F64) * (high - low) + low
    return ((x / step).round() * step).to(dtype)


def exact_weights(module, seed=1):
    """Weights on a coarse grid, so that folding T into the batch can be compared to the bit."""
    with torch.no_grad():
        layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
        for number, layer in enumerate(layers):
            for parameter in layer.parameters():
                parameter.copy_(grid(*parameter.shape, seed=seed + number, low=-0.5, high=0.625, step=1 / 8))
    return module


def run(function, x, parameters):
    """Output, and the gradients of a weighted sum of it, by name."""
    x = x.detach().clone().requires_grad_()
    for _, parameter in parameters:
        parameter.grad = None
    out = function(x)
    (out * grid(*out.shape, seed=9, dtype=out.dtype)).sum().backward()
    return out.detach(), {"input": x.grad} | {name: parameter.grad for name, parameter in parameters}
