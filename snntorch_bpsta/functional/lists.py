"""Lists of what is not zero in the input of a layer, and the passes over them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from . import costs

if TYPE_CHECKING:
    from torch import Tensor

    from .costs import Layer
    from .kernels.vectors import Block

_GROUPS, _GROUP_BYTES = 8, 16 << 20  # of the images, each with a sum of its own of the weights' gradient


class Lists(NamedTuple):
    """What is not zero in pictures, as ``kernels/skip.py`` describes it; `values` are those of the entries, none where all
    are one."""

    entries: Tensor
    starts: Tensor
    offsets: Tensor
    values: Tensor


def count(x: Tensor) -> Tensor:
    """How many numbers of each image are not zero; of one with others than 0 and 1 as ``-1 - count``."""
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


def _lists(x, size, block, counts, graded):
    """The lists of `x`, of which `counts` are not zero in each image; with their values if it is `graded`."""
    from .kernels import skip

    blocks = -(-size.channels // block.channels)
    firsts = (
        counts.cumsum(0) - counts + torch.arange(size.images, device="cpu")
    )  # behind each image's entries there is a place for one more
    room = int(counts.sum()) + size.images
    entries = torch.empty(room, dtype=torch.int16, device="cpu")
    starts = torch.empty(size.images, blocks * size.height + 1, dtype=torch.int64, device="cpu")
    offsets = torch.empty(size.images, blocks * size.height, size.width + 1, dtype=torch.int16, device="cpu")
    _spread(
        skip.fill, x.data_ptr(), size.height, size.width, size.channels, block.channels, blocks, firsts.data_ptr(),
        entries.data_ptr(), starts.data_ptr(), offsets.data_ptr(), images=size.images,
    )  # fmt: skip
    values = torch.empty(room if graded else 0, device="cpu")
    lists = Lists(entries, starts, offsets, values)
    if graded:
        _move(lists, values, x, size, block, False)
    return lists


def _move(lists, values, x, size, block, back):
    """The `values` of the entries, from the numbers `x` or `back` to them."""
    from .kernels import skip

    _spread(
        skip.move_kernel(back), lists.entries.data_ptr(), lists.starts.data_ptr(), values.data_ptr(), x.data_ptr(),
        size.height, size.width, size.channels, block.channels, -(-size.channels // block.channels), images=size.images,
    )  # fmt: skip


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


def _convolved(lists, weight, bias, size, block):
    """The layer's output ``[N, C, H, W]``, channels last."""
    from .kernels import skip

    shape = _shape(size, block)
    packed = _packed(weight, block, shape.blocks, shape.out_blocks)
    out = weight.new_empty(size.images, *size.out, shape.out_channels)
    if bias is None:
        out.zero_()
    else:
        out[..., : size.out_channels] = bias
        out[..., size.out_channels :] = 0
    kernel = skip.forward_kernel(block, bool(lists.values.numel()))
    _spread(kernel, *(t.data_ptr() for t in (*lists, packed, out)), *shape, images=size.images)
    whole = shape.out_channels == size.out_channels
    return (out if whole else out[..., : size.out_channels].contiguous()).permute(0, 3, 1, 2)


class Skipping(torch.autograd.Function):
    """The layer on lists."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, size: Layer, block: Block, counts: Tensor,
        at_spikes: bool | None,
    ) -> Tensor:  # fmt: skip
        lists = _lists(x, size, block, counts, False)
        ctx.size, ctx.block, ctx.at_spikes = size, block, at_spikes
        ctx.save_for_backward(weight, *lists)
        return _convolved(lists, weight, bias, size, block)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise NotImplementedError(
                "create_graph=True asks for a second derivative of a layer that skips zeros, which has the first one only: "
                "call snntorch_bpsta.skip_zeros(False) before the forward pass"
            )
        size, wanted, (weight, *rest) = ctx.size, ctx.needs_input_grad, ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        at_spikes = bool(ctx.at_spikes) and wanted[0]
        dx = dweight = None
        if wanted[1] or at_spikes:
            dx, dweight = _gradients(Lists(*rest), grad, weight, size, ctx.block, at_spikes)
        if wanted[0] and not at_spikes:
            dx = _whole_gradient(grad, weight, size)
        dbias = grad.sum((0, 2, 3)) if wanted[2] else None
        return dx, dweight if wanted[1] else None, dbias, None, None, None, None


def _gradients(lists, grad, weight, size, block, at_spikes):
    """The gradients of the input, at the spikes or None, and of the weights."""
    from .kernels import cpu, skip

    shape = _shape(size, block)
    packed = _packed(weight, block, shape.blocks, shape.out_blocks)
    full = grad.permute(0, 2, 3, 1)
    if shape.out_channels > size.out_channels:
        full = nn.functional.pad(full, (0, shape.out_channels - size.out_channels))
    groups = max(1, min(_GROUPS, size.images, _GROUP_BYTES // packed.nbytes))
    sums = packed.new_zeros(groups, *packed.shape)
    entries, starts, offsets, _ = lists
    values = packed.new_zeros(len(entries) if at_spikes else 1)
    bounds = [size.images * i // groups for i in range(groups + 1)]
    before = [t.data_ptr() for t in (entries, starts, offsets, packed, full)]
    cpu.spread(
        _in_turn(skip.backward_kernel(block, at_spikes)),
        [
            [(*before, sums[i].data_ptr(), values.data_ptr(), *shape, bounds[i], bounds[i + 1]) for i in part]
            for part in _dealt(groups)
        ],
    )
    dweight = _unpacked(sums.sum(0), weight)
    if not at_spikes:
        return None, dweight
    dx = grad.new_zeros(size.images, size.height, size.width, size.channels)
    _move(lists, values, dx, size, block, True)
    return dx.permute(0, 3, 1, 2), dweight


def _whole_gradient(grad, weight, size):
    """The gradient of the input everywhere: of a list, where that of the output is mostly zeros."""
    turned = size.turned
    block = costs.block_for(turned)
    if not isinstance(block, str) and costs.pays(turned, block, size.images * _nonzero(grad[:1]), "gradient"):
        grad = grad + 0.0  # a zero with a sign becomes one without
        counts = count(grad)
        counts = torch.where(counts < 0, -1 - counts, counts)
        if costs.pays(turned, block, int(counts.sum()), "gradient"):
            lists = _lists(grad, turned, block, counts, True)
            return _convolved(lists, weight.transpose(0, 1).flip(2, 3), None, turned, block)
    if size.size == 1 and not size.padding:
        dx = grad.permute(0, 2, 3, 1).reshape(-1, size.out_channels) @ weight.flatten(1)
        return dx.view(size.images, size.height, size.width, size.channels).permute(0, 3, 1, 2)
    like = grad.new_empty(1).expand(size.images, size.channels, size.height, size.width)
    (dx, _, _) = torch.ops.aten.convolution_backward(
        grad, like, weight.contiguous(memory_format=torch.channels_last), None, [1, 1], [size.padding] * 2, [1, 1],
        False, [0, 0], 1, [True, False, False],
    )  # fmt: skip
    return dx


def _nonzero(image):
    return int(torch.count_nonzero(image))


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
