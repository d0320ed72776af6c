"""What of ours is timed, made of plain values, so that :mod:`.baseline` can ask another checkout for the same."""

import os
import sys
from pathlib import Path

import snntorch
import torch

import snntorch_bpsta as snn

from .timing import Turn

_CURRENT = 0.4  # standard deviation of the current; with the means below, 0.15 to 0.2 of the neurons fire at a step
STATES = {"Leaky": 1, "Lapicque": 1, "RLeaky": 2, "Synaptic": 2, "RSynaptic": 3, "Alpha": 3}


def current(shape, device, relu=False, seed=0):
    """Currents [T, B, N] that need a gradient, and a gradient for the spikes."""
    generator = torch.Generator(device).manual_seed(seed)
    x = torch.randn(shape, device=device, generator=generator).mul_(_CURRENT).add_(0.0 if relu else 0.12)
    return x.requires_grad_(), torch.randn(shape, device=device, generator=generator)


def scaled(x, gain):
    """Currents `gain` times as large."""
    return (x.detach() * gain).requires_grad_()


class Multistep:
    """The function of the engine."""

    parameters = ()

    def __init__(self, device, **options):
        self.options = options

    def __call__(self, x):
        return snn.functional.lif_multistep(x, **self.options).spk


class Sequence:
    """A neuron of ours over all steps in one call."""

    def __init__(self, device, neuron, impl="auto", **options):
        torch.manual_seed(0)  # of the recurrent weights
        self.neuron, self.impl = getattr(snn, neuron)(**options).to(device), impl
        self.parameters = tuple(self.neuron.parameters())

    def __call__(self, x):
        return self.neuron.sequence(x, impl=self.impl)[0]


class Loop:
    """A user's own loop over single steps, of a neuron of ours or of snnTorch's."""

    def __init__(self, device, neuron, host=False, **options):
        torch.manual_seed(0)
        self.neuron, self.num_states = getattr(snntorch if host else snn, neuron)(**options).to(device), STATES[neuron]
        self.parameters = tuple(self.neuron.parameters())

    def __call__(self, x):
        states = [torch.zeros_like(x[0])] * self.num_states
        spk_rec = []
        for cur in x.unbind(0):  # x[t] would make the backward O(T^2)
            out = self.neuron(cur, *states)  # spk and the states, of which spk is the first where it is one
            states = out[-self.num_states :]
            spk_rec.append(out[0])
        return torch.stack(spk_rec)


WAYS = {"multistep": Multistep, "sequence": Sequence, "loop": Loop}


def gradients(run, x, grad):
    """Of the current and of the parameters."""
    return torch.autograd.grad(run(x), (x, *run.parameters), grad)


def training_turn(run, x, grad):
    """Forward and backward."""
    return Turn(lambda: gradients(run, x, grad))


def own_calls(run, x):
    """How many calls of the package's own Python functions one call of `run` makes."""
    package, count = str(Path(snn.__file__).parent) + os.sep, 0

    def see(frame, event, _):
        nonlocal count
        count += event == "call" and frame.f_code.co_filename.startswith(package)

    run(x)  # what is imported or compiled at the first call is not counted
    before = sys.getprofile()
    sys.setprofile(see)
    try:
        run(x)
    finally:
        sys.setprofile(before)
    return count
