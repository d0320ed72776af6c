"""What layers that skip zeros cost beside PyTorch's: their sizes, and constants that were measured."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .kernels.vectors import Block


class Cost(NamedTuple):
    """Nanoseconds of one thread, fitted by ``python -m benchmarks.skipping``. Only their proportions decide."""

    met: float  # a spike of the lists, for each weight that it meets
    slid: float  # a step of the window, for each output in it
    looked: float  # a number of the input
    packed: float  # a weight
    out: float  # a number of the output
    product: float  # of the dense layer: a multiplication and addition, and as above
    dense_looked: float
    dense_packed: float


# The forward pass alone; with the weights' gradient; with that of the input at the spikes as well. A dense gradient of the
# input is a pass of its own, whose spikes are what is not zero in that of the output.
_COSTS = {
    "forward": Cost(0.0113, 0.053, 1.14, 3.06, 0.434, 0.00802, 0.464, 1.92),
    "weights": Cost(0.0274, 0.0438, 1.38, 8.65, 1.17, 0.0195, 0.793, 3.56),
    "gradient": Cost(0.0117, 0.101, 1.15, 1.01, 0.17, 0.00707, 0.76, 2.61),
    "spikes": Cost(0.0446, 0.0849, 2.03, 9.53, 1.13, 0.028, 1.37, 5.29),
}
_MARGIN = 0.85
_LEAST = 1 << 20  # multiplications, below which the fixed costs of a call decide


class Layer(NamedTuple):
    """Sizes of a call, a linear layer as a convolution of one tap."""

    images: int
    channels: int
    height: int
    width: int
    out_channels: int
    size: int
    padding: int

    @property
    def out(self) -> tuple[int, int]:
        grow = 2 * self.padding - self.size + 1
        return self.height + grow, self.width + grow

    @property
    def products(self) -> int:
        """Multiplications of the dense layer."""
        return self.images * self.out[0] * self.out[1] * self.channels * self.out_channels * self.size**2

    @property
    def turned(self) -> Layer:
        """The layer that makes the input's gradient of the output's, with the kernel turned by half a turn."""
        return Layer(self.images, self.out_channels, *self.out, self.channels, self.size, self.size - 1 - self.padding)


@cache
def lanes() -> int:
    """Floats in a vector of this processor, 0 where it has none that pay."""
    from llvmlite import binding

    features = binding.get_host_cpu_features()
    return 16 if features.get("avx512f") else 8 if features.get("avx2") else 0


@cache
def block_of(size: int, out_channels: int, lanes: int) -> Block | None:
    """The block whose sums stay in registers and whose weights in the first cache."""
    from .kernels.vectors import Block

    registers = 25 if lanes == 16 else 12
    most = min(registers // size**2, 8)
    if not lanes or not most:
        return None
    counts = [count for count in (1, 2, 4, 8) if count <= most]
    # the fewest channels too many, then the widest block
    count = min(counts, key=lambda count: (-(-out_channels // (count * lanes)) * count * lanes, -count))
    channels = 128
    while channels > 16 and 4 * size**2 * count * lanes * channels > 40 << 10:
        channels //= 2
    return Block(size, lanes, count, channels)


def block_for(size: Layer) -> Block | str:
    """The block of a call, or why there is none."""
    block = block_of(size.size, size.out_channels, lanes())
    if block is None:
        return "no vectors of this processor take this kernel"
    if size.products < _LEAST:
        return "too small"
    return block if size.width * block.channels <= 1 << 16 else "too wide"


def rows_of(rows: int, features: int, outputs: int) -> Layer:
    """A linear layer on so many rows."""
    width = next((width for width in range(64, 7, -1) if rows % width == 0), 1)
    return Layer(rows // width, features, 1, width, outputs, 1, 0)


def pays(size: Layer, block: Block, spikes: int, passes: str) -> bool:
    """Whether skipping zeros is faster."""
    skipping, dense = terms(size, block, spikes)
    cost = _COSTS[passes]
    ours = sum(each * count for each, count in zip(cost, skipping, strict=False))
    theirs = sum(each * count for each, count in zip(cost[len(skipping) :], dense, strict=True))
    return ours < _MARGIN * theirs


def terms(size: Layer, block: Block, spikes: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """How many there are of what costs something, in the order of the costs: skipping, and dense."""
    taps, looked = size.size**2, size.images * size.channels * size.height * size.width
    outputs = -(-size.out_channels // block.outputs) * block.outputs
    blocks = -(-size.channels // block.channels)
    slid = size.images * size.height * blocks * (size.width + size.size - 1) * outputs * size.size
    packed = blocks * block.channels * outputs * taps
    out = size.images * size.out[0] * size.out[1] * outputs
    return (spikes * outputs * taps, slid, looked, packed, out), (size.products, looked, packed)
