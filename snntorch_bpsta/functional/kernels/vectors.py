"""The inner loops of the layers that skip zeros, as LLVM vectors: numba's own vectoriser does not keep a window of sums in
registers.

Of a block of CB input and OB output channels the weights lie as ``[CB, taps, OB]``, and stay in the first cache. A *list*
names what is not zero in a row of a block, in the order of the row, each as ``x * CB + channel`` (uint16); ``offsets[x]`` is
where column `x` begins in it. Addresses are integers, sizes are in elements unless they are called bytes.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from llvmlite import ir  # comes with numba
from numba.core import cgutils, types
from numba.extending import intrinsic

_I16, _I32, _I64, _FLOAT = ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()


class Block(NamedTuple):
    """The shape of a block: a kernel of ``size * size`` taps, `channels` input channels, and output channels in as many
    `vectors` of `lanes` floats."""

    size: int
    lanes: int
    vectors: int
    channels: int

    @property
    def outputs(self) -> int:
        return self.lanes * self.vectors

    @property
    def bytes(self) -> int:
        """Of the weights of one input channel."""
        return 4 * self.size * self.size * self.outputs


class _Emitter:
    """What the three loops share."""

    def __init__(self, builder, block):
        self.builder, self.block = builder, block
        self.vector = ir.VectorType(_FLOAT, block.lanes)
        self.zero = ir.Constant(self.vector, [0.0] * block.lanes)
        self.taps = range(block.size * block.size)

    def number(self, value):
        return ir.Constant(_I64, value)

    def at(self, base, index=None, step=1):
        """The address of an element of `step` bytes."""
        if index is None:
            return base
        if isinstance(index, int):
            return self.builder.add(base, self.number(index * step))
        return self.builder.add(base, self.builder.mul(index, self.number(step)))

    def load(self, address, kind=None, align=4):
        value = self.builder.load(self.builder.inttoptr(address, (kind or self.vector).as_pointer()))
        value.align = align
        return value

    def store(self, value, address):
        self.builder.store(value, self.builder.inttoptr(address, value.type.as_pointer())).align = 4

    def short(self, base, index):
        """An element of a list or of offsets."""
        return self.builder.zext(self.load(self.at(base, index, 2), _I16, 2), _I64)

    def vectors(self, base, step):
        """The vectors of all taps at `base`, those of one tap `step` bytes after those of the one before."""
        return [
            self.load(self.at(base, tap * step + 4 * self.block.lanes * v))
            for tap in self.taps for v in range(self.block.vectors)
        ]  # fmt: skip

    def everywhere(self, number):
        """A vector of this number."""
        undefined = ir.Constant(self.vector, ir.Undefined)
        first = self.builder.insert_element(undefined, number, ir.Constant(_I32, 0))
        places = ir.Constant(ir.VectorType(_I32, self.block.lanes), [0] * self.block.lanes)
        return self.builder.shuffle_vector(first, undefined, places)

    def weights(self, base, entry):
        """Where the weights of the input channel of a list's entry begin."""
        channel = self.builder.and_(entry, self.number(self.block.channels - 1))
        return self.at(base, channel, self.block.bytes)

    def window(self, base, row_bytes):
        """The vectors of a padded picture that an input pixel reaches, in the order of the taps: tap (dy, dx) meets the
        pixel that is K-1-dy rows below and K-1-dx to the right of `base`."""
        size, step = self.block.size, 4 * self.block.outputs
        rows = [base]
        for _ in range(size - 1):
            rows.append(self.builder.add(rows[-1], row_bytes))
        return [
            self.load(self.at(rows[size - 1 - tap // size], (size - 1 - tap % size) * step + 4 * self.block.lanes * v))
            for tap in self.taps for v in range(self.block.vectors)
        ]  # fmt: skip

    def loop(self, begin, end, values, body):
        """``for i in range(begin, end): values = body(i, values)``; the values after it."""
        builder = self.builder
        before = builder.block
        head, inside, after = (builder.append_basic_block(name) for name in ("head", "inside", "after"))
        builder.branch(head)
        builder.position_at_end(head)
        i = builder.phi(_I64)
        i.add_incoming(begin, before)
        phis = []
        for value in values:
            phi = builder.phi(value.type)
            phi.add_incoming(value, before)
            phis.append(phi)
        builder.cbranch(builder.icmp_signed("<", i, end), inside, after)
        builder.position_at_end(inside)
        changed = body(i, phis)
        following = builder.add(i, self.number(1))
        last = builder.block
        builder.branch(head)
        i.add_incoming(following, last)
        for phi, value in zip(phis, changed, strict=True):
            phi.add_incoming(value, last)
        builder.position_at_end(after)
        return phis


def _intrinsic(count, emit):
    """An intrinsic of `count` integers, whose code `emit` writes."""
    signature = types.void(*[types.intp] * count)

    def generate(context, builder, signature, arguments):
        emit(builder, *arguments)
        return context.get_dummy_value()

    namespace = {"signature": signature, "generate": generate}
    names = ", ".join(f"a{i}" for i in range(count))
    exec(f"def function(context, {names}): return signature, generate", namespace)  # numba reads the signature
    return intrinsic(namespace["function"])


@cache
def forward_row(block: Block, graded: bool) -> Any:
    """``(list, offsets, values, weights, rows, strides, width, width_out, shift)``: adds what a row of the input gives to
    the K rows of the output that it reaches, whose addresses lie at `rows` and the bytes from pixel to pixel at `strides`.
    Output pixel ``x - shift`` has all it gets from this row once input pixel `x` is done. The `values` of the list are ones
    unless it is `graded`."""

    def emit(builder, entries, offsets, values, weights, rows, strides, width, width_out, shift):
        e = _Emitter(builder, block)
        size, count = block.size, block.vectors
        bases = [e.load(e.at(rows, k, 8), _I64, 8) for k in range(size)]
        steps = [e.load(e.at(strides, k, 8), _I64, 8) for k in range(size)]

        def column(x, state):
            start, sums = state[0], state[1:]
            following = builder.add(x, e.number(1))
            stop = e.short(offsets, builder.select(builder.icmp_signed("<", following, width), following, width))

            def add(i, sums):
                at = e.weights(weights, e.short(entries, i))
                taps = e.vectors(at, 4 * block.outputs)
                if graded:
                    value = e.everywhere(e.load(e.at(values, i, 4), _FLOAT))
                    taps = [builder.fmul(value, w, flags=("contract",)) for w in taps]
                # place (k, j) of the window: output row K-1-k below, met with tap (K-1-k, K-1-j)
                flags = ("contract",) if graded else ()
                return [builder.fadd(a, w, flags=flags) for a, w in zip(sums, _turned(taps, size, count), strict=True)]

            sums = e.loop(start, stop, sums, add)
            out = builder.sub(x, shift)
            with builder.if_then(builder.icmp_unsigned("<", out, width_out)):
                for k in range(size):
                    place = builder.add(bases[k], builder.mul(out, steps[k]))
                    for v in range(count):
                        at = e.at(place, 4 * block.lanes * v)
                        e.store(builder.fadd(e.load(at), sums[count * size * k + v]), at)
            moved = []
            for k in range(size):
                moved += sums[count * (size * k + 1) : count * size * (k + 1)] + [e.zero] * count
            return [stop, *moved]

        e.loop(
            e.number(0), builder.add(width, e.number(size - 1)), [e.number(0)] + [e.zero] * (count * size**2), column
        )

    return _intrinsic(9, emit)


def _turned(taps, size, count):
    """Vectors of the taps in the order of the window, which is the taps' turned by half a turn."""
    return [taps[count * tap + v] for tap in reversed(range(size**2)) for v in range(count)]


@cache
def add_pictures(block: Block) -> Any:
    """``(places, number, picture, row_bytes, sums)``: adds, for each tap, the pixels of a padded picture ``[*, OB]`` that it
    makes of the places (int32), to `sums` ``[taps, OB]``: the gradient of an input channel's weights."""

    def emit(builder, places, number, picture, row_bytes, sums):
        e = _Emitter(builder, block)

        def add(i, values):
            place = builder.sext(e.load(e.at(places, i, 4), _I32), _I64)
            pixels = e.window(e.at(picture, place, 4 * block.outputs), row_bytes)
            return [builder.fadd(a, g) for a, g in zip(values, pixels, strict=True)]

        count = len(e.taps) * block.vectors
        for i, value in enumerate(e.loop(e.number(0), number, [e.zero] * count, add)):
            at = e.at(sums, 4 * block.lanes * i)
            e.store(builder.fadd(e.load(at), value), at)

    return _intrinsic(5, emit)


@cache
def row_gradients(block: Block) -> Any:
    """``(list, offsets, weights, picture, row_bytes, width, gradients)``: adds to the gradient of each entry of a row's list
    what it gets from one block of output channels, whose padded gradient begins at `picture` for the row."""

    def emit(builder, entries, offsets, weights, picture, row_bytes, width, gradients):
        e = _Emitter(builder, block)
        total = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_FLOAT, [_FLOAT, e.vector]), f"llvm.vector.reduce.fadd.v{block.lanes}f32"
        )

        def column(x, values):
            start = values[0]
            stop = e.short(offsets, builder.add(x, e.number(1)))
            with builder.if_then(builder.icmp_signed("<", start, stop)):
                pixels = e.window(e.at(picture, x, 4 * block.outputs), row_bytes)

                def dot(i, values):
                    taps = e.vectors(e.weights(weights, e.short(entries, i)), 4 * block.outputs)
                    sums = [e.zero] * min(4, len(taps))
                    for k, (w, g) in enumerate(zip(taps, pixels, strict=True)):
                        product = builder.fmul(w, g, flags=("contract",))
                        sums[k % 4] = builder.fadd(sums[k % 4], product, flags=("contract",))
                    while len(sums) > 1:
                        first = sums.pop(0)
                        sums.append(builder.fadd(first, sums.pop(0)))
                    at = e.at(gradients, i, 4)
                    value = builder.call(total, [e.load(at, _FLOAT), sums[0]], fastmath=("reassoc",))
                    e.store(value, at)
                    return []

                e.loop(start, stop, [], dot)
            return [stop]

        e.loop(e.number(0), width, [e.number(0)], column)

    return _intrinsic(7, emit)
