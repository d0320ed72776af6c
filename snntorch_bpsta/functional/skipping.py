"""Convolutions and linear layers of spikes, which skip the zeros: on a CPU, in float32.

Most numbers that a layer of spikes takes are zero, and the product with a zero is nothing. Where few enough neurons
fire, lists of those who did give the layer's output, its weights' gradient and, **at the spikes**, its input's: less work
than the dense product, in the proportion of the firing rate. The gradient at a spike is all that a neuron under Eq. 9 asks
for, whose derivative is zero wherever it did not fire (through max pooling too, where a window without a spike hands its
gradient to a neuron that did not fire). The lists, 2 bytes a spike, are kept for backward in place of the input.

Which of the two runs follows from the number of spikes and the sizes alone, so that a run that is repeated gives the same
numbers.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from .._checks import check_flags
from .._torch import is_autocast, is_compiling, is_forward_mode, is_transforming, is_watched

if TYPE_CHECKING:
    from torch import Tensor

    from .kernels.vectors import Block

_on = True


class _Cost(NamedTuple):
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
# input costs both ways the same.
_COSTS = {
    "forward": _Cost(0.0113, 0.053, 1.14, 3.06, 0.434, 0.00802, 0.464, 1.92),
    "weights": _Cost(0.0274, 0.0438, 1.38, 8.65, 1.17, 0.0195, 0.793, 3.56),
    "spikes": _Cost(0.0446, 0.0849, 2.03, 9.53, 1.13, 0.028, 1.37, 5.29),
}
_MARGIN = 0.85
_LEAST = 1 << 20  # multiplications, below which the fixed costs of a call decide
_GROUPS, _GROUP_BYTES = 8, 16 << 20  # of the images, each with a sum of its own of the weights' gradient


def skip_zeros(on: bool = True) -> None:
    """Whether layers of spikes may skip zeros, in this process; from the start they may.

    In :class:`~snntorch_bpsta.MultiStep` and :func:`~snntorch_bpsta.fold_time`, on a CPU and in float32, an ``nn.Conv2d``
    (stride 1, dilation 1, one group, zeros around) or ``nn.Linear`` whose input is zeros and ones skips the zeros where the
    number of spikes and the size of the layer make that faster: right behind a spiking neuron, a max pooling of its spikes,
    or where snnTorch's ``spikegen`` or binary frames come in. Its output and gradients are PyTorch's to rounding: the sums
    go in another order.

    Args:
        on: False leaves all layers to PyTorch.

    Raises:
        TypeError: `on` is no bool.
    """
    global _on
    check_flags(on=on)
    _on = on


class _Layer(NamedTuple):
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


@cache
def _lanes() -> int:
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


def conv2d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1, *, at_spikes: bool | None = False,
) -> tuple[Tensor | None, str]:  # fmt: skip
    """``torch.nn.functional.conv2d``, skipping the zeros of `input` ``[N, C, H, W]``, or None where that does not pay or
    cannot be; and how, or why not, in words.

    Args:
        input: spikes, or what may be.
        weight, bias, stride, padding, dilation, groups: PyTorch's.
        at_spikes: whoever made `input` needs its gradient where it is not zero alone: it is zero elsewhere then.
    """
    why = _why_not(input, weight, bias, 4)
    if why is not None:
        return None, why
    border, (images, channels, height, width), (outputs, *_, rows, columns) = padding, input.shape, weight.shape
    if isinstance(padding, (tuple, list)) and len({*padding}) == 1:
        border = padding[0]
    plain = all(value in (1, (1, 1), [1, 1]) for value in (stride, dilation)) and groups == 1
    if rows != columns or not plain or not isinstance(border, int) or not 0 <= border < rows:
        return None, "square kernels of stride 1, with fewer zeros around than taps, alone"
    size = _Layer(images, channels, height, width, outputs, rows, border)
    if weight.shape[1] != channels or min(size.out) < 1:
        return None, "the kernel does not fit"
    return _run(input, weight, bias, size, at_spikes)


def linear(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, *, at_spikes: bool | None = False
) -> tuple[Tensor | None, str]:
    """As :func:`conv2d`, for ``torch.nn.functional.linear`` of `input` ``[N, in_features]``."""
    why = _why_not(input, weight, bias, 2)
    if why is not None:
        return None, why
    rows, (outputs, features) = len(input), weight.shape
    if input.shape[1] != features:
        return None, "the weights do not fit"
    size = rows_of(rows, features, outputs)
    pictures = input.reshape(size.images, 1, size.width, features).permute(0, 3, 1, 2)
    out, how = _run(pictures, weight, bias, size, at_spikes)
    return None if out is None else out.permute(0, 2, 3, 1).reshape(rows, outputs), how


def rows_of(rows: int, features: int, outputs: int) -> _Layer:
    """A linear layer on so many rows."""
    width = next((width for width in range(64, 7, -1) if rows % width == 0), 1)
    return _Layer(rows // width, features, 1, width, outputs, 1, 0)


def of_layer(layer: nn.Module, x: Tensor, at_spikes: bool | None) -> tuple[Tensor | None, str]:
    """The same for a module of one of the classes `SKIPPING`."""
    if type(layer) is nn.Linear:
        return linear(x, layer.weight, layer.bias, at_spikes=at_spikes)
    assert isinstance(layer, nn.Conv2d)
    if layer.padding_mode != "zeros":
        return None, "zeros around alone"
    rest = layer.stride, layer.padding, layer.dilation, layer.groups
    return conv2d(x, layer.weight, layer.bias, *rest, at_spikes=at_spikes)


SKIPPING = (nn.Conv2d, nn.Linear)


def _why_not(x, weight, bias, dimensions):
    """Why a layer cannot skip zeros, whatever these are."""
    if not _on:
        return "skip_zeros(False)"
    if is_compiling() or is_transforming() or is_watched() or is_forward_mode():
        return "not in a graph"
    for each in (x, weight) if bias is None else (x, weight, bias):
        if type(each) not in (torch.Tensor, nn.Parameter):
            return "no tensors of other classes"
        if each.device.type != "cpu" or each.dtype != torch.float32:
            return "float32 on a CPU alone"
    if is_autocast(x):
        return "float32 on a CPU alone"
    if x.dim() != dimensions or weight.dim() != dimensions:
        return f"an input of {dimensions} dimensions alone"
    return None


def _run(x, weight, bias, size, at_spikes):
    block = block_of(size.size, size.out_channels, _lanes())
    if block is None:
        return None, "no vectors of this processor take this kernel"
    if not x.numel():
        return None, "nothing there"
    if size.products < _LEAST or size.width * block.channels > 1 << 16:
        return None, "too small" if size.products < _LEAST else "too wide"
    seen = count(x[:1].contiguous())  # currents and pictures are found out by the first
    if seen >= 0 and not (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)):
        x = x.contiguous(memory_format=torch.channels_last)
    counts = count(x) if seen >= 0 else seen
    if int(counts.min()) < 0:
        return None, "not only zeros and ones"
    spikes = int(counts.sum())
    rate = spikes / x.numel()
    training = torch.is_grad_enabled() and (weight.requires_grad or x.requires_grad)
    passes = "forward" if not training else "spikes" if at_spikes and x.requires_grad else "weights"
    if not pays(size, block, spikes, passes):
        return None, f"rate {rate:.2g}"
    x = x.contiguous(memory_format=torch.channels_last)
    out = _Skipping.apply(
        x, weight if weight.dim() == 4 else weight[:, :, None, None], bias, size, block, counts, at_spikes
    )
    return out, f"skips zeros at rate {rate:.2g}" + ", its input's gradient at spikes" * bool(at_spikes)


def pays(size: _Layer, block: Block, spikes: int, passes: str) -> bool:
    """Whether skipping zeros is faster."""
    skipping, dense = terms(size, block, spikes)
    cost = _COSTS[passes]
    ours = sum(each * count for each, count in zip(cost, skipping, strict=False))
    theirs = sum(each * count for each, count in zip(cost[len(skipping) :], dense, strict=True))
    return ours < _MARGIN * theirs


def terms(size: _Layer, block: Block, spikes: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """How many there are of what costs something, in the order of the costs: skipping, and dense."""
    taps, looked = size.size**2, size.images * size.channels * size.height * size.width
    outputs = -(-size.out_channels // block.outputs) * block.outputs
    blocks = -(-size.channels // block.channels)
    slid = size.images * size.height * blocks * (size.width + size.size - 1) * outputs * size.size
    packed = blocks * block.channels * outputs * taps
    out = size.images * size.out[0] * size.out[1] * outputs
    return (spikes * outputs * taps, slid, looked, packed, out), (size.products, looked, packed)


def count(x: Tensor) -> Tensor:
    """How many numbers of each image are ones; -1 where there is another than 0 and 1."""
    from .kernels import skip

    counts = torch.empty(len(x), dtype=torch.int64, device="cpu")
    _spread(skip.count, x.data_ptr(), x[0].numel(), counts.data_ptr(), images=len(x))
    return counts


def _spread(kernel, *arguments, images):
    """All images, in as many ranges as torch has threads."""
    from .kernels import cpu

    parts = min(torch.get_num_threads(), images)
    bounds = [images * i // parts for i in range(parts + 1)]
    cpu.spread(kernel, [(*arguments, *bound) for bound in zip(bounds, bounds[1:], strict=False)])


def _lists(x, size, block, counts):
    """The lists of what is not zero: entries, starts, offsets, as ``kernels/skip.py`` describes them."""
    from .kernels import skip

    blocks = -(-size.channels // block.channels)
    firsts = (
        counts.cumsum(0) - counts + torch.arange(size.images, device="cpu")
    )  # behind each image's entries there is a place for one more
    entries = torch.empty(int(counts.sum()) + size.images, dtype=torch.int16, device="cpu")
    starts = torch.empty(size.images, blocks * size.height + 1, dtype=torch.int64, device="cpu")
    offsets = torch.empty(size.images, blocks * size.height, size.width + 1, dtype=torch.int16, device="cpu")
    _spread(
        skip.fill, x.data_ptr(), size.height, size.width, size.channels, block.channels, blocks, firsts.data_ptr(),
        entries.data_ptr(), starts.data_ptr(), offsets.data_ptr(), images=size.images,
    )  # fmt: skip
    return entries, starts, offsets


def _packed(weight, block, blocks, out_blocks):
    """The weights in blocks."""
    out_channels, channels = weight.shape[:2]
    whole = weight.new_zeros(blocks * block.channels, out_blocks * block.outputs, block.size**2)
    whole[:channels, :out_channels] = weight.flatten(2).transpose(0, 1)
    whole = whole.view(blocks, block.channels, out_blocks, block.outputs, block.size**2)
    return whole.permute(0, 2, 1, 4, 3).contiguous()


def _shape(size, block):
    from .kernels import skip

    blocks, out_blocks = -(-size.channels // block.channels), -(-size.out_channels // block.outputs)
    return skip.Shape(
        size.height, size.width, size.channels, blocks, *size.out, out_blocks * block.outputs, out_blocks, size.padding
    )


class _Skipping(torch.autograd.Function):
    """The layer on lists."""

    @staticmethod
    def forward(ctx, x, weight, bias, size, block, counts, at_spikes):
        from .kernels import skip

        shape, lists = _shape(size, block), _lists(x, size, block, counts)
        packed = _packed(weight, block, shape.blocks, shape.out_blocks)
        out = x.new_empty(size.images, *size.out, shape.out_channels)
        if bias is None:
            out.zero_()
        else:
            out[..., : size.out_channels] = bias
            out[..., size.out_channels :] = 0
        _spread(skip.forward_kernel(block), *(t.data_ptr() for t in (*lists, packed, out)), *shape, images=size.images)
        ctx.size, ctx.block, ctx.at_spikes = size, block, at_spikes
        ctx.save_for_backward(weight, *lists)
        return _first(out, size.out_channels)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        from .kernels import cpu, skip

        if torch.is_grad_enabled():
            raise NotImplementedError(
                "create_graph=True asks for a second derivative of a layer that skips zeros, which has the first one only: "
                "call snntorch_bpsta.skip_zeros(False) before the forward pass"
            )
        size, block, (weight, *lists) = ctx.size, ctx.block, ctx.saved_tensors
        shape, wanted = _shape(size, block), ctx.needs_input_grad
        grad = grad.contiguous(memory_format=torch.channels_last)
        dx = dweight = None
        if wanted[1] or (wanted[0] and ctx.at_spikes):
            packed = _packed(weight, block, shape.blocks, shape.out_blocks)
            full = grad.permute(0, 2, 3, 1)
            if shape.out_channels > size.out_channels:
                full = nn.functional.pad(full, (0, shape.out_channels - size.out_channels))
            groups = max(1, min(_GROUPS, size.images, _GROUP_BYTES // packed.nbytes))
            sums = packed.new_zeros(groups, *packed.shape)
            at_spikes = ctx.at_spikes and wanted[0]
            values = packed.new_zeros(len(lists[0]) if at_spikes else 1)
            bounds = [size.images * i // groups for i in range(groups + 1)]
            before = [t.data_ptr() for t in (*lists, packed, full)]
            cpu.spread(
                _in_turn(skip.backward_kernel(block, at_spikes)),
                [
                    [(*before, sums[i].data_ptr(), values.data_ptr(), *shape, bounds[i], bounds[i + 1]) for i in part]
                    for part in _dealt(groups)
                ],
            )
            if wanted[1]:
                dweight = _unpacked(sums.sum(0), weight)
            if at_spikes:
                dx = grad.new_zeros(size.images, size.height, size.width, size.channels)
                _spread(
                    skip.scatter, lists[0].data_ptr(), lists[1].data_ptr(), values.data_ptr(), dx.data_ptr(), size.height,
                    size.width, size.channels, block.channels, shape.blocks, images=size.images,
                )  # fmt: skip
                dx = dx.permute(0, 3, 1, 2)
        if wanted[0] and dx is None:
            like = grad.new_empty(1).expand(size.images, size.channels, size.height, size.width)
            (dx, _, _) = torch.ops.aten.convolution_backward(
                grad, like, weight.contiguous(memory_format=torch.channels_last), None, [1, 1], [size.padding] * 2, [1, 1],
                False, [0, 0], 1, [True, False, False],
            )  # fmt: skip
        dbias = grad.sum((0, 2, 3)) if wanted[2] else None
        return dx, dweight, dbias, None, None, None, None


def _dealt(groups):
    """The groups for each thread."""
    threads = min(torch.get_num_threads(), groups)
    return [range(i, groups, threads) for i in range(threads)]


def _in_turn(kernel):
    def run(*calls):
        for call in calls:
            kernel(*call)

    return run


def _unpacked(packed, weight):
    out_channels, channels = weight.shape[:2]
    whole = packed.permute(1, 4, 0, 2, 3).flatten(2, 3).flatten(0, 1)
    return whole[:out_channels, :channels].reshape(weight.shape)


def _first(out, channels):
    """Pictures ``[N, C, H, W]``, channels last, of the first `channels` in ``[N, H, W, *]``."""
    return (out if out.shape[-1] == channels else out[..., :channels].contiguous()).permute(0, 3, 1, 2)
