"""A training step over the firing rate: a convolution behind spiking neurons that skips zeros, and PyTorch's dense ones."""

import contextlib

import torch
from torch import nn

import snntorch_bpsta as snn
from snntorch_bpsta.functional import skipping

from .contest import add_all, noted, skipped
from .memory import names_of_nodes
from .nets import channels_last, ours
from .timing import WRONG, Turn, figures, kept_memory, measure

RATES = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
SKIPPING, DENSE = "bpsta, skipping zeros", "bpsta, skip_zeros off"
NCHW, LAST = "torch, NCHW", "torch, channels last"


def _torch_alone(conv):
    return lambda x: conv(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def _ours_alone(conv):
    """As a MultiStep calls it behind a neuron."""

    def run(x):
        images = x.flatten(0, 1)
        y, _ = skipping.of_layer(conv, images, at_spikes=True)
        return (conv(images) if y is None else y).unflatten(0, x.shape[:2])

    return run


def _torch_between(conv):
    before, behind, alone = ours(), ours(), _torch_alone(conv)
    return lambda x: behind.sequence(alone(before.sequence(x)[0]))[0]


def _ours_between(conv):
    return snn.MultiStep(ours(), conv, ours())


# Case -> a dense convolution and ours, alone and between our neurons; and how far ours may be off, see `_off`. Float32 sums
# in another order put a membrane in a million on the other side of the threshold, and one spike weighs 0.002 here.
CASES = {
    "convolution": (_torch_alone, _ours_alone, 1e-4),
    "LIF, convolution, LIF": (_torch_between, _ours_between, 2e-2),
}


def sparse(settings, report):
    """Forward and backward at every rate, with all gradients: of the weights, and of the input where it is a spike."""
    channels, side, (steps, batch) = (32, 12, (2, 2)) if settings.quick else (128, 28, (4, 6))
    shape = (steps, batch, channels, side, side)
    with kept_memory(), switched_back():
        for what, (dense, own, tolerance) in CASES.items():
            for rate in RATES[2::4] if settings.quick else RATES:
                # A current of 1 makes a neuron fire at once and leaves it at 0: the spikes behind it are the current.
                generator = torch.Generator(settings.device).manual_seed(settings.seed)
                x = (torch.rand(shape, device=settings.device, generator=generator) < rate).float()
                grad = torch.randn(shape, device=settings.device, generator=generator)
                competitors = {
                    LAST: (dense, channels_last, False),
                    NCHW: (dense, torch.Tensor.contiguous, False),
                    DENSE: (own, channels_last, False),
                    SKIPPING: (own, channels_last, True),
                }
                case = f"{what}, {channels}C3 on {side}x{side}, rate {rate:g}"
                _race(settings, report, case, competitors, tolerance, x, grad)


@contextlib.contextmanager
def switched_back():
    """Zeros are skipped again behind the ``with`` block."""
    try:
        yield
    finally:
        snn.skip_zeros()


def _race(settings, report, case, competitors, tolerance, x, grad):
    turns, others, notes, expected = {}, {}, {}, None
    for name, (build, layout, on) in competitors.items():
        if skipped(settings, name):
            continue
        others[name] = {"rate": float(x.mean())}
        with noted(notes, name):
            conv = _convolution(settings, x.size(2), layout)
            step = _step(build(conv), tuple(conv.parameters()), layout(x), layout(grad), on)
            y, *gradients = step()
            others[name]["ran"] = "skips zeros" if "SkippingBackward" in names_of_nodes(y) else "dense"
            results = [tensor.detach().clone() for tensor in (y, *gradients)]
            results[1] *= x  # what it is elsewhere nobody asks
            expected = expected or results
            others[name]["error"] = error = _off(results, expected)
            if not error <= tolerance and name in (SKIPPING, DENSE):
                notes[name] = f"{WRONG}: off by {error:.1e}; no speed is reported"
                continue
            turns[name] = Turn(step)
    add_all(report, case, figures(measure(turns, settings), LAST), others, notes)


def _off(results, expected):
    """The largest error of outputs and gradients, norm over norm; NaN where one is not a number."""
    errors = [(mine - want).norm() / (want.norm() or 1) for mine, want in zip(results, expected, strict=True)]
    return float(torch.stack(errors).max())


def _convolution(settings, channels, layout):
    torch.manual_seed(settings.seed)
    conv = nn.Conv2d(channels, channels, 3, padding=1).to(settings.device)
    with torch.no_grad():
        conv.weight.mul_(2)  # so that a part of the neurons behind it fire
    return conv.to(memory_format=torch.channels_last) if layout is channels_last else conv


def _step(run, parameters, x, grad, on):
    """A function of nothing: output, gradient of the input, and gradients of the parameters."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()

    def step():
        snn.skip_zeros(on)
        y = run(x)
        return (y, *torch.autograd.grad(y, (x, *parameters), grad))

    return step
