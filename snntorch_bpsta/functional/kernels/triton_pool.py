"""Pooling of spikes in the Triton kernels, while they are in registers: those of all neurons are at no time in memory.

The neurons of a window lie side by side in a block, in as many places as the next power of two. A spike has one value, so
that the number of those that fired is all there is to know of a window.

Ties are PyTorch's: of equals in a window the first gets the gradient.
"""

import triton
import triton.language as tl


@triton.jit
def _sum(a, b):
    return a + b


@triton.jit
def _lower(a, b):
    return tl.minimum(a, b)


@triton.jit
def window_of(x, PLACES: tl.constexpr):
    """What is the same at all places of a window, once."""
    return tl.reduce(tl.reshape(x, (x.shape[0] // PLACES, PLACES)), 1, _lower)


@triton.jit
def neurons(
    num_neurons,
    num_pooled,
    height,
    width,
    channels,
    DOWN: tl.constexpr,
    ACROSS: tl.constexpr,
    PLACES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The neurons of a block with pooling, the pooled spike of each, and its place in the window. What is not there has the
    number of all: places beyond a window's, and pooled spikes of what is left over at the edges of the maps. Of a place in
    a map so many `channels` lie side by side."""
    lane = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    place, at = lane % PLACES, lane // PLACES
    rows, columns = (height + DOWN - 1) // DOWN, (width + ACROSS - 1) // ACROSS
    channel, at = at % channels, at // channels
    x, at = at % columns, at // columns
    y, plane = at % rows, at // rows
    row, column = y * DOWN + place // ACROSS, x * ACROSS + place % ACROSS
    n = ((plane * height + row) * width + column) * channels + channel
    n = tl.where((place < DOWN * ACROSS) & (row < height) & (column < width), n, num_neurons)
    whole = (y < height // DOWN) & (x < width // ACROSS)
    out = ((plane * (height // DOWN) + y) * (width // ACROSS) + x) * channels + channel
    return n, tl.where(whole, out, num_pooled), place


@triton.jit
def _share(x, COUNT: tl.constexpr):
    """`x` over the size of a window, rounded as PyTorch does."""
    if x.dtype == tl.float32:
        x = tl.div_rn(x, tl.full(x.shape, COUNT, tl.float32))
    else:
        x = x / COUNT
    return x


@triton.jit
def pool(above, spike, POOL: tl.constexpr, COUNT: tl.constexpr, PLACES: tl.constexpr):
    """The largest spike of each window (POOL 1), or their average (2), which PyTorch sums up one by one."""
    fired = tl.reduce(tl.reshape(above.to(tl.int32), (above.shape[0] // PLACES, PLACES)), 1, _sum)
    quiet = spike * 0.0  # of one that has not fired: NaN where the factor is not finite
    if POOL == 1:
        total = tl.where(tl.where(spike < 0, fired == COUNT, fired > 0), spike, quiet)
    else:
        total = tl.full(fired.shape, 0.0, spike.dtype)
        for k in tl.static_range(COUNT):
            total = tl.where(k < fired, total + spike, total)
    total = tl.where(fired < COUNT, total + quiet, total)
    return total if POOL == 1 else _share(total, COUNT)


@triton.jit
def unpool(g, above, place, spike, POOL: tl.constexpr, COUNT: tl.constexpr, PLACES: tl.constexpr):
    """The gradient at each spike from that at its pooled one, which of equals in a window the first place gets."""
    if POOL == 1:
        fired = above.to(tl.int32)
        smaller = tl.where(spike > 0, 1 - fired, tl.where(spike < 0, fired, 1))
        rank = place + PLACES * tl.where(place < COUNT, smaller, 1)
        tile: tl.constexpr = (g.shape[0] // PLACES, PLACES)
        best = tl.broadcast_to(tl.reduce(tl.reshape(rank, tile), 1, _lower, keep_dims=True), tile)
        g = tl.where(rank == tl.reshape(best, rank.shape), g, tl.full(g.shape, 0.0, g.dtype))
    else:
        g = _share(g, COUNT)
    return g
