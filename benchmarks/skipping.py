"""What the passes of a layer that skips zeros cost beside PyTorch's: ``python -m benchmarks.skipping``.

Times layers of several sizes and firing rates on one thread, both ways in turn, and fits the constants of
``snntorch_bpsta/functional/costs.py``, in nanoseconds, by least squares of the relative errors. It ends with how often
the rule that follows from them would choose the slower way. Processor time, the least of a few rounds.
"""

import time

import numpy as np
import torch
from scipy.optimize import nnls
from torch import nn

import snntorch_bpsta as snn
from snntorch_bpsta.functional import costs, lists, skipping

# images [N, C, H, W], output channels, kernel, padding; rows [N, C], outputs
LAYERS = (
    ((24, 128, 28, 28), 128, 3, 1), ((160, 32, 34, 34), 32, 3, 1), ((160, 64, 16, 16), 64, 3, 1),
    ((160, 16, 17, 17), 32, 3, 1), ((64, 32, 8, 8), 64, 3, 1), ((256, 12, 14, 14), 64, 5, 0), ((64, 128, 14, 14), 128, 1, 0),
    ((2560, 784), 1000), ((2560, 1000), 10), ((160, 4096), 512), ((256, 512), 100),
)  # fmt: skip
RATES = (0.02, 0.05, 0.1, 0.2, 0.35)
ROUNDS = 5
PASSES = ("forward", "weights", "spikes", "gradient")


def times(shape, outputs, kernel, padding, rate):
    """Seconds of each of the passes: (skipping, dense). In "gradient" it is that of the output whose rate is given."""
    x = (torch.rand(*shape) < rate).float()
    if len(shape) == 4:
        x = x.contiguous(memory_format=torch.channels_last)
        layer = nn.Conv2d(shape[1], outputs, kernel, padding=padding).to(memory_format=torch.channels_last)
    else:
        layer = nn.Linear(shape[1], outputs)
    wants = x.clone(memory_format=torch.preserve_format).requires_grad_()
    g = torch.randn_like(layer(x))
    few = g * (torch.rand_like(g) < rate)
    size, pays = size_of(shape, outputs, kernel, padding), costs.pays

    def skip(passes):
        if passes == "gradient":
            return whole_gradient(True)
        out, how = skipping.of_layer(layer, wants if passes == "spikes" else x, passes == "spikes")
        assert out is not None, how
        return out

    def whole_gradient(skips):
        costs.pays = pays if skips else lambda *arguments: False
        maps = few if few.dim() == 4 else few.reshape(size.images, 1, size.width, outputs).permute(0, 3, 1, 2)
        lists._whole_gradient(maps, layer.weight if few.dim() == 4 else layer.weight[:, :, None, None], size)
        costs.pays = pays

    def dense(passes):
        if passes == "gradient":
            return whole_gradient(False)
        return layer(wants if passes == "spikes" else x)

    def run(way, passes):
        layer.zero_grad()
        wants.grad = None
        with torch.set_grad_enabled(passes in ("weights", "spikes")):
            out = way(passes)
        if out is not None and out.requires_grad:
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
        return costs.Layer(images, channels, height, width, outputs, kernel, padding)
    return costs.rows_of(*shape, outputs)


def of_pass(size, passes, rate):
    """The layer whose lists a pass is over, its block, and how many entries it has."""
    size = size.turned if passes == "gradient" else size
    block = costs.block_of(size.size, size.out_channels, costs.lanes())
    return size, block, int(rate * size.images * size.channels * size.height * size.width)


def main():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    snn.keep_memory()
    rule, least, cost = costs.pays, costs._LEAST, costs._COSTS.copy()
    costs.pays, costs._LEAST = lambda *arguments: True, 0
    measured = []
    for shape, outputs, *options in LAYERS:
        kernel, padding = options or (1, 0)
        size = size_of(shape, outputs, kernel, padding)
        for rate in RATES:
            row = times(shape, outputs, kernel, padding, rate)
            measured += [(passes, *of_pass(size, passes, rate), seconds) for passes, seconds in row.items()]
            gains = ", ".join(f"{passes} {dense / skip:.2f}x" for passes, (skip, dense) in row.items())
            print(f"{[*shape]} -> {outputs}, {kernel} x {kernel}, rate {rate}: {gains}", flush=True)
    costs._LEAST = least
    for passes in PASSES:
        rows = [row for what, *row in measured if what == passes]
        terms = [costs.terms(*row) for *row, _ in rows]
        fitted = []
        for way, matrix in enumerate(zip(*terms, strict=True)):
            seconds = np.array([1e9 * both[way] for *_, both in rows])
            fitted += [*nnls(np.array(matrix) / seconds[:, None], np.ones(len(seconds)))[0]]
        print(f'"{passes}": Cost({", ".join(f"{value:.3g}" for value in fitted)}),')
        cost[passes] = costs.Cost(*fitted)
    costs._COSTS = cost
    for passes in PASSES:
        gains = [(rule(*row, passes), dense / skip) for what, *row, (skip, dense) in measured if what == passes]
        wrong = [gain for chosen, gain in gains if chosen and gain < 0.95]
        missed = [gain for chosen, gain in gains if not chosen and gain > 1.1]
        print(
            f"{passes}: {len(gains)} cases, {len(wrong)} chosen that lose over 5 %, {len(missed)} left that gain over 10 %"
        )


if __name__ == "__main__":
    main()
