"""An all-to-all recurrence, linear or convolutional: one fused step of the kernels between two products.

The product is the layer's own, step by step, so that the spikes are snnTorch's to the bit. Backward there is one
product a step for what is fed back, and one for the weight over all steps at the end; and one node of autograd for
all of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .._torch import has_hooks, is_autocast, is_compiling
from . import operator, passes
from .passes import Constants, Tensors

if TYPE_CHECKING:
    from torch import Tensor

    from .record import Call, Neuron

_WITHOUT = {"RLeaky": "Lapicque", "RSynaptic": "Synaptic"}  # the cell with the same equations but for the recurrence


def not_covered(neuron: Neuron, call: Call) -> str | None:
    """What this lacks for a call, or None."""
    layer: Any = neuron.recurrence
    x = call.input
    if type(layer) not in (nn.Linear, nn.Conv2d):
        return f"a recurrence by {type(layer).__name__}"
    if has_hooks(layer):
        return "a recurrence with hooks"
    if is_compiling() or not operator.is_eager(x):
        return "an all-to-all recurrence under torch.compile"
    if is_autocast(x):
        return "an all-to-all recurrence under autocast"
    if call.save in ("bfloat16", "compact"):
        return f"save={call.save!r} with an all-to-all recurrence"
    if neuron.kernel is None:
        return f"the surrogate {neuron.spike_grad} with an all-to-all recurrence"
    return None


def run(layer: nn.Module, t: Tensors, c: Constants) -> list[Tensor]:
    """The spikes and the states of ``Layout.outputs``, as ``operator.run``. Half precision is computed in float32."""
    dtype, state = t.input.dtype, passes.compute_dtype(t.input.dtype)
    if dtype != state:
        t = t._replace(input=t.input.to(state))
        c = c._replace(save="float32" if c.save == "bfloat16" else c.save)
    lay = passes.layout(t, c)
    outputs = _Recurrent.apply(*t[:9], t.factor, layer.weight, layer.bias, (layer, c, lay, dtype))
    return [output.to(dtype) for output in outputs[: 1 + len(lay.outputs)]]


class _Recurrent(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input_, mem, syn, inh, fed, beta, alpha, tau, threshold, factor, weight, bias, call):
        layer, c, lay, dtype = call
        t = Tensors(input_, mem, syn, inh, fed, beta, alpha, tau, threshold, input_.new_ones(()), factor)
        z = torch.zeros(lay.step[0], dtype=dtype, device=input_.device) if fed is None else fed.to(dtype)

        def run_step(step, spk, states, *rest):
            # What is fed back, with a weight of 1. The kernel leaves the spikes in its place.
            nonlocal z
            fed_back = layer(z)
            if fed_back.shape != z.shape:
                raise ValueError(
                    f"the recurrence must keep the shape of a step, {tuple(z.shape)}, got {tuple(fed_back.shape)}"
                )
            states[3] = passes.laid_out(fed_back, *lay.step, lay.state)
            kernels.forward(t, c, spk, states, *rest, (step, step + 1))
            z = states[3].to(dtype)

        kernels = passes.kernels(c.impl)
        outputs = passes.forward(t, c, lay, run=run_step)
        spk = outputs[0]
        operator.keep(ctx, t, c, lay, outputs[1:], (spk, weight))
        ctx.layer, ctx.weight_dtype = _geometry(layer), weight.dtype
        return tuple(outputs)

    @staticmethod
    def backward(ctx, dspk, *grads):
        operator.refuse_second_derivative()
        c, lay, need = ctx.constants, ctx.layout, ctx.needs_input_grad
        values, t, records, (spk, weight), saved = operator.kept(ctx)
        c, weight = c._replace(cell=_WITHOUT[c.cell], relu=False), weight.to(lay.state)
        last, drecords = passes.split_grads(grads[: len(lay.outputs)], c, spk, lay.state)
        for k, _ in lay.states:
            if k < 3 and last[k] is None:
                last[k] = torch.zeros_like(spk if c.single else spk[0])
        dx = torch.empty_like(spk)
        reaching = torch.zeros_like(spk) if dspk is None else passes.laid_out(dspk, *lay.steps, lay.state).clone()
        learned = [torch.zeros_like(last[0]) if wanted else None for wanted in need[5:9]] + [None]
        first = [passes.laid_out(x, *lay.step, lay.state) for x in t[1:5]]
        t = t._replace(mem=first[0], syn=first[1], fed=None)
        run_step = passes.kernels(c.impl).backward
        back, into_weight = _products(ctx.layer, weight)
        rows, inputs, fires = [x.unsqueeze(0) if c.single else x for x in (dx, reaching, spk)]
        fed = None
        if spk.numel():
            for step in range(c.num_steps - 1, -1, -1):
                run_step(
                    t, c, values, reaching, drecords, saved, records, (None, None), dx, last, learned, None, False,
                    (step, step + 1),
                )  # fmt: skip
                if step:
                    back(rows[step], inputs[step - 1])
            if need[4]:
                fed = back(rows[0], torch.zeros_like(rows[0])).to(ctx.dtypes[3])
        dweight = into_weight(rows[1:], fires[:-1]) if need[10] else None
        if need[10] and first[3] is not None:
            dweight = dweight + into_weight(rows[:1], first[3].unsqueeze(0))
        channel = rows.dim() - (3 if ctx.layer else 1)
        dbias = rows.sum([d for d in range(rows.dim()) if d != channel]) if need[11] else None
        made = [grad if wanted else None for grad, wanted in zip(last, need[1:5], strict=True)]
        made = [None if grad is None else grad.to(kind) for grad, kind in zip(made, ctx.dtypes, strict=True)]
        made[3] = fed
        for grad, size, inner in zip(learned, ctx.sizes, c.inner, strict=True):
            made.append(None if grad is None else operator.reduce(grad, size, inner))
        if dx.shape != ctx.shape:  # a constant current
            dx = dx.sum(0, keepdim=True)
        weights = [None if grad is None else grad.to(ctx.weight_dtype) for grad in (dweight, dbias)]
        return dx, *made[:8], None, *weights, None


def _geometry(layer: nn.Module) -> tuple[Any, ...]:
    """Of a convolution; nothing for a linear layer."""
    if isinstance(layer, nn.Linear):
        return ()
    return layer.stride, layer.padding, layer.dilation, False, (0, 0), layer.groups


def _products(geometry, weight):
    """``back(dx, into)`` adds the gradient of the input to `into`; ``into_weight(dx, z)`` is that of the weight, over
    all steps."""
    if not geometry:

        def back(dx, into):
            return into.view(-1, into.shape[-1]).addmm_(dx.reshape(-1, dx.shape[-1]), weight)

        def into_weight(dx, z):
            return dx.reshape(-1, dx.shape[-1]).t() @ z.reshape(-1, z.shape[-1])

        return back, into_weight
    convolution = torch.ops.aten.convolution_backward.default

    def back(dx, into):
        maps = dx.reshape(-1, *dx.shape[-3:])
        return into.add_(convolution(maps, maps, weight, None, *geometry, [True, False, False])[0].view_as(into))

    def into_weight(dx, z):
        dx, z = (x.reshape(-1, *x.shape[-3:]) for x in (dx, z))
        return convolution(dx, z, weight, None, *geometry, [False, True, False])[1]

    return back, into_weight
