"""What the passes of a layer that skips zeros cost beside PyTorch's: ``python -m benchmarks.skipping``.

Times layers of several sizes and firing rates on one thread, both ways in turn, and fits the constants of
``snntorch_bpsta/functional/skipping.py``, in nanoseconds, by least squares of the relative errors. It ends with how often
the rule that follows from them would choose the slower way. Processor time, the least of a few rounds.
"""

import time

import numpy as np
import torch
from scipy.optimize import nnls
from torch import nn

import snntorch_bpsta as snn
from snntorch_bpsta.functional import skipping

# images [N, C, H, W], output channels, kernel, padding; rows [N, C], outputs
LAYERS = (
    ((24, 128, 28, 28), 128, 3, 1), ((160, 32, 34, 34), 32, 3, 1), ((160, 64, 16, 16), 64, 3, 1),
    ((160, 16, 17, 17), 32, 3, 1), ((64, 32, 8, 8), 64, 3, 1), ((256, 12, 14, 14), 64, 5, 0), ((64, 128, 14, 14), 128, 1, 0),
    ((2560, 784), 1000), ((2560, 1000), 10), ((160, 4096), 512), ((256, 512), 100),
)  # fmt: skip
RATES = (0.02, 0.05, 0.1, 0.2, 0.35)
ROUNDS = 5
PASSES = ("forward", "weights", "spikes")


def times(shape, outputs, kernel, padding, rate):
    """Seconds of each of the passes: (skipping, dense)."""
    x = (torch.rand(*shape) < rate).float()
    if len(shape) == 4:
        x = x.contiguous(memory_format=torch.channels_last)
        layer = nn.Conv2d(shape[1], outputs, kernel, padding=padding).to(memory_format=torch.channels_last)
    else:
        layer = nn.Linear(shape[1], outputs)
    wants = x.clone(memory_format=torch.preserve_format).requires_grad_()
    g = torch.randn_like(layer(x))

    def skip(passes):
        out, how = skipping.of_layer(layer, wants if passes == "spikes" else x, passes == "spikes")
        assert out is not None, how
        return out

    def dense(passes):
        return layer(wants if passes == "spikes" else x)

    def run(way, passes):
        layer.zero_grad()
        wants.grad = None
        with torch.set_grad_enabled(passes != "forward"):
            out = way(passes)
        if passes != "forward":
            out.backward(g)

    found = {}
    for _ in range(ROUNDS + 1):
        for passes in PASSES:
            for way in (skip, dense):
                start = time.process_time()
                run(way, passes)
                found.setdefault((passes, way), []).append(time.process_time() - start)
    return {passes: tuple(min(found[passes, way][1:]) for way in (skip, dense)) for passes in PASSES}


def size_of(shape, outputs, kernel, padding):
    if len(shape) == 4:
        images, channels, height, width = shape
        return skipping._Layer(images, channels, height, width, outputs, kernel, padding)
    return skipping.rows_of(*shape, outputs)


def main():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    snn.keep_memory()
    rule, least, cost = skipping.pays, skipping._LEAST, skipping._COSTS.copy()
    skipping.pays, skipping._LEAST = lambda *arguments: True, 0
    measured = []
    for shape, outputs, *options in LAYERS:
        kernel, padding = options or (1, 0)
        size = size_of(shape, outputs, kernel, padding)
        block = skipping.block_of(kernel, outputs, skipping._lanes())
        for rate in RATES:
            spikes = int(rate * np.prod(shape))
            row = times(shape, outputs, kernel, padding, rate)
            measured.append((size, block, spikes, row))
            gains = ", ".join(f"{passes} {dense / skip:.2f}x" for passes, (skip, dense) in row.items())
            print(f"{[*shape]} -> {outputs}, {kernel} x {kernel}, rate {rate}: {gains}", flush=True)
    skipping._LEAST = least
    for passes in PASSES:
        terms = [skipping.terms(size, block, spikes) for size, block, spikes, _ in measured]
        fitted = []
        for way, matrix in enumerate(zip(*terms, strict=True)):
            seconds = np.array([1e9 * row[passes][way] for *_, row in measured])
            fitted += [*nnls(np.array(matrix) / seconds[:, None], np.ones(len(seconds)))[0]]
        print(f'"{passes}": _Cost({", ".join(f"{value:.3g}" for value in fitted)}),')
        cost[passes] = skipping._Cost(*fitted)
    skipping._COSTS = cost
    for passes in PASSES:
        gains = [
            (rule(size, block, spikes, passes), row[passes][1] / row[passes][0])
            for size, block, spikes, row in measured
        ]
        wrong = [gain for chosen, gain in gains if chosen and gain < 0.95]
        missed = [gain for chosen, gain in gains if not chosen and gain > 1.1]
        print(
            f"{passes}: {len(gains)} cases, {len(wrong)} chosen that lose over 5 %, {len(missed)} left that gain over 10 %"
        )


if __name__ == "__main__":
    main()
