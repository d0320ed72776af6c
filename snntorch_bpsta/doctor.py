"""Which layers of a net fire and which learn, and what to change; and weights scaled until every layer fires."""

from __future__ import annotations

import math
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import snntorch
import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from ._checks import check_module, check_number
from ._torch import BATCH_NORM, CONVOLUTION
from .conversion import reset
from .functional.record import adjustment
from .neurons import Adjusted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

__all__ = ["Checkup", "LayerCheck", "check", "wake"]

_Net = TypeVar("_Net", bound=nn.Module)

_NORMS = (BATCH_NORM, nn.LayerNorm, nn.GroupNorm)
_WEIGHTED = (nn.Linear, CONVOLUTION, nn.Bilinear, nn.Embedding, *_NORMS)
_STARVING, _BUSY, _GROWING = 0.02, 0.5, 100.0  # rates and a growth at which something is said
_CLOSE = 0.05  # of the rate that is asked for: near enough
_MOST = 60  # trials of a factor for one layer


class LayerCheck(NamedTuple):
    """What :func:`check` found of a spiking layer.

    Attributes:
        name: of ``net.named_modules()``.
        neuron: its class.
        rate: spikes per neuron and step.
        never: share of the neurons that fired nowhere in the batch, 0 to 1.
        zero_gradients: share of zeros among the gradients dL/du at the membranes of all steps, samples and neurons.
        growth: mean size of dL/du at the first step over that at the last one; None where one of them is 0.
        advice: what to change; "" for nothing.
    """

    name: str
    neuron: str
    rate: float
    never: float
    zero_gradients: float
    growth: float | None
    advice: str


class Checkup(tuple[LayerCheck, ...]):
    """The rows of :func:`check`, one for each spiking layer, in the order of ``net.named_modules()``. ``print`` shows a
    table."""

    def __str__(self) -> str:
        head = ("layer", "neuron", "rate", "never fire", "zero gradients", "growth")
        rows = [
            (
                row.name or "(the net)", row.neuron, f"{row.rate:.3f}", f"{row.never:.0%}", f"{row.zero_gradients:.0%}",
                "-" if row.growth is None else f"{row.growth:.3g}",
            )
            for row in self
        ]  # fmt: skip
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in (head, *rows)]
        advice = [f"{row.name or 'the net'}: {row.advice}" for row in self if row.advice]
        return "\n".join(lines + advice)


def check(net: nn.Module, *batch: Any, loss: Callable[[Any], Tensor] | None = None) -> Checkup:
    """One pass of a batch forward and back: which spiking layers of `net` fire, which learn, and what to change.

    Neurons of this package and of snnTorch, in one call for all steps or in a loop of your own. Afterwards `net` is as it
    was: parameters, their ``.grad``, running averages and PyTorch's random numbers; hidden states are set to zero before
    and after.

    Args:
        net: any module with spiking neurons, in the mode (``train()`` or ``eval()``) in which it is to be looked at.
        *batch: the arguments of a call.
        loss: function of what `net` returns, one number; None for the sum of its first output, in which every spike of the
            output counts alike.

    Returns:
        Checkup: a row for each spiking layer that ran; ``print`` it.

    Raises:
        ValueError: no spiking neuron ran; or the loss has no gradient, or is not one number.
        TypeError: `net` is no module, `loss` no function, or does not return a tensor.
        Whatever `net` raises.

    Example:
        >>> import torch, snntorch_bpsta as snn
        >>> from torch import nn
        >>> net = snn.MultiStep(nn.Linear(4, 3), snn.Leaky(beta=0.9, threshold=9.0, spatial_adj=True))
        >>> snn.check(net, torch.rand(5, 2, 4))[0].never
        1.0
    """
    check_module("net", net)
    if loss is not None and not callable(loss):
        raise TypeError(f"loss must be a function of what net returns, or None, got {type(loss).__name__}")
    seen: dict[str, _Seen] = {}

    def fired(name, spk_rec):
        seen.setdefault(name, _Seen()).add(spk_rec.detach() != 0)

    def pulled(name, call, grad):
        seen[name].gradients[call] = grad.detach()

    with _unchanged(net), torch.enable_grad(), watch(net, fired, pulled):
        out = net(*batch)
        if not seen:
            raise ValueError(
                f"net has no spiking neuron that ran, got {type(net).__name__}: pass the net that holds them"
            )
        total = _first(out).sum() if loss is None else loss(out)
        if not isinstance(total, torch.Tensor):
            raise TypeError(f"loss must return a tensor of one number, got {type(total).__name__}")
        if total.numel() != 1 or not total.requires_grad:
            what = "no gradient" if total.numel() == 1 else f"shape {tuple(total.shape)}"
            raise ValueError(f"loss must be one number with a gradient, got {what}: is a parameter of net learnt?")
        wanted: list[Tensor] = [p for p in net.parameters() if p.requires_grad]
        wanted += [x for x in batch if isinstance(x, torch.Tensor) and x.requires_grad]
        torch.autograd.grad(total.sum(), wanted, allow_unused=True)
    modules = dict(net.named_modules())
    return Checkup(seen[name].row(name, modules[name]) for name in modules if name in seen)


class _Seen:
    """What was seen of a layer in one pass."""

    def __init__(self) -> None:
        self.fired: Any = None
        self.spikes, self.count = 0, 0
        self.gradients: dict[int, Tensor] = {}

    def add(self, fired):
        self.spikes += int(fired.sum())
        self.count += fired.numel()
        ever = fired.flatten(0, 1).any(0)
        self.fired = ever if self.fired is None else self.fired | ever

    def row(self, name, module):
        steps = [row for _, grad in sorted(self.gradients.items()) for row in grad]
        sizes = [step.abs().mean().item() for step in steps]
        count = sum(step.numel() for step in steps)
        zeros = sum(int((step == 0).sum()) for step in steps) / count if count else 1.0
        growth = sizes[0] / sizes[-1] if sizes and sizes[0] and sizes[-1] else None
        rate = self.spikes / max(self.count, 1)
        never = 1 - self.fired.float().mean().item() if self.fired.numel() else 1.0
        return LayerCheck(
            name, type(module).__name__, rate, never, zeros, growth, _advice(module, rate, never, zeros, growth)
        )  # fmt: skip


def _advice(module, rate, never, zeros, growth):
    """What to change, the worst first; "" for nothing."""
    spatial = isinstance(module, Adjusted) and module.spatial_adj and not adjustment(module.spatial_adj).leak
    if growth is not None and not growth <= _GROWING:  # NaN too
        if isinstance(module, Adjusted) and module.temporal_alpha:
            if module.reset_mechanism == "subtract":
                return (
                    "the gradient explodes over time: temporal_alpha=0, for under 'subtract' it crosses spikes anyway"
                )
            return "the gradient explodes over time: temporal_alpha=0, or less of it"
        return "the gradient explodes over time: fewer steps, a lower beta, or snn.detach between windows"
    if never == 1:
        cure = "batch norm in front, snn.wake, or a lower threshold"
        return f"fires nowhere, so Eq. 9 gives no gradient: {cure}; or a warm-up" if spatial else f"silent: {cure}"
    if zeros == 1:
        return "no gradient comes: a layer behind is silent under Eq. 9, or the loss does not use this one"
    if spatial and rate < _STARVING:
        return "hardly fires, and Eq. 9 raises no silent neuron: batch norm in front, snn.wake, or a warm-up"
    if rate > _BUSY:
        return "fires at more than half of the steps: smaller weights, or a penalty on the rate"
    return ""


@contextmanager
def watch(
    net: nn.Module, fired: Callable[[str, Tensor], object] | None, pulled: Callable[[str, int, Tensor], object] | None,
    kind: type | tuple[type, ...] = (snntorch.SpikingNeuron, snntorch.LeakyParallel), singles: bool = True,
) -> Iterator[None]:  # fmt: skip
    """While the context lasts, ``fired(name, spk_rec)`` after every call of a neuron of this `kind`, and in every backward
    pass ``pulled(name, number of the call, gradient)``, with respect to its current, which by Eq. 2 is that of the membrane.
    Both ``[T, B, *]``, with one step where the call had one; without `singles` such calls are passed over."""
    calls: dict[str, int] = {}

    def takes_all(module, kwargs):
        return kwargs.get("multistep") or isinstance(module, snntorch.LeakyParallel)

    def before(name):
        def hook(module, args, kwargs):
            if not (singles or takes_all(module, kwargs)):
                return None
            cur, *rest = args or (kwargs.pop("input_"),)
            if kwargs.get("multistep"):  # a current of its own, which nothing writes over; every step of a constant one
                steps = kwargs.pop("num_steps", None) or len(cur)
                cur = cur.expand(steps, *cur.shape[1:])
            cur = cur.clone()
            number, whole = calls.get(name, 0), takes_all(module, kwargs)
            calls[name] = number + 1
            if cur.requires_grad and pulled is not None:
                cur.register_hook(lambda grad: pulled(name, number, grad if whole else grad.unsqueeze(0)))
            return (cur, *rest), kwargs

        return hook

    def behind(name):
        def hook(module, args, kwargs, output):
            spk = output[0] if isinstance(output, tuple) else output
            fired(name, spk if takes_all(module, kwargs) else spk.unsqueeze(0))

        return hook

    modules = net.named_modules()
    neurons: list[tuple[str, Any]] = [(name, module) for name, module in modules if isinstance(module, kind)]
    handles: list[Any] = [neuron.register_forward_pre_hook(before(name), with_kwargs=True) for name, neuron in neurons]
    if fired is not None:
        handles += [neuron.register_forward_hook(behind(name), with_kwargs=True) for name, neuron in neurons]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _unchanged(net):
    """Hidden states that begin at zero and are zero again behind it; running averages and random numbers as they were."""
    neurons = (snntorch.SpikingNeuron, snntorch.LeakyParallel)
    kept = [
        (buffer, buffer.clone())
        for module in net.modules()
        if not isinstance(module, neurons)
        for buffer in module.buffers(recurse=False)
    ]
    reset(net)
    try:
        with torch.random.fork_rng():
            yield
    finally:
        reset(net)
        with torch.no_grad():
            for buffer, before in kept:
                buffer.copy_(before)


def _first(out):
    """The first tensor of what a net returned."""
    while isinstance(out, (tuple, list)) and out:
        out = out[0]
    if not isinstance(out, torch.Tensor):
        raise TypeError(f"net returned {type(out).__name__} where a tensor was expected: give a loss, a function of it")
    return out


@torch.no_grad()
def wake(net: _Net, *batch: Any, rate: float = 0.2) -> _Net:
    """Scale the weights in front of each spiking layer, layer by layer, until it fires at this rate on a batch; in place.

    A layer that never fires gives Eq. 9 nothing to learn from, and any other surrogate little. Of the layer in front of
    the neurons (linear, convolutional, or a norm with weights behind it) weight and bias get one positive factor, found
    by trying: so the direction of every weight stays. Neurons of this package and of snnTorch, in one call for all steps or
    in a loop of your own. What is not a weight stays as it was: running averages, random numbers; hidden states are set
    to zero. Call it before training, on a batch as it will come.

    Args:
        net: any module with spiking neurons.
        *batch: the arguments of a call.
        rate: spikes per neuron and step that every layer shall have, in (0, 1).

    Returns:
        torch.nn.Module: `net` itself.

    Raises:
        ValueError: no spiking neuron ran; a layer has no weights in front of it, or shares them with another; its current is
            zero at all steps; no factor gives the rate; `rate` out of range. The layers before it are scaled then.
        TypeError: `net` is no module, `rate` no number.
        Whatever `net` raises.

    Example:
        >>> import torch, snntorch_bpsta as snn
        >>> from torch import nn
        >>> net = snn.MultiStep(nn.Linear(4, 30), snn.Leaky(beta=0.9, threshold=9.0, spatial_adj=True))
        >>> net = snn.wake(net, torch.rand(10, 5, 4), rate=0.2)
        >>> 0.1 < snn.check(net, torch.rand(10, 5, 4))[0].rate < 0.3
        True
    """
    check_module("net", net)
    rate = check_number("rate", rate, "a number above 0 and below 1", above=0, highest=1)
    if rate == 1:
        raise ValueError("rate must be a number above 0 and below 1, got 1")
    sources = _sources(net, batch)
    if not sources:
        raise ValueError(f"net has no spiking neuron that ran, got {type(net).__name__}: pass the net that holds them")
    owners: dict[nn.Module, str] = {}
    for name, layers in sources.items():
        for layer in layers:
            if owners.setdefault(layer, name) != name:
                raise ValueError(
                    f"{owners[layer]!r} and {name!r} share the weights in front of them: scale them yourself"
                )
    for name, layers in sources.items():
        _scale_to(net, batch, name, layers, rate)
    return net


def _sources(net, batch):
    """By the name of each neuron, in the order of their first calls, the last layers with weights that ran before it."""
    names = {module: name for name, module in net.named_modules()}
    found: dict[str, dict[nn.Module, None]] = {}
    last: list[nn.Module] = []

    def ran(module, args, output):
        if isinstance(module, _WEIGHTED):
            if getattr(module, "weight", None) is not None:
                last[:] = [module]
        else:
            found.setdefault(names[module], {}).update(dict.fromkeys(last))
            last.clear()

    neurons = [m for m in names if isinstance(m, (snntorch.SpikingNeuron, snntorch.LeakyParallel))]
    inside = {m for neuron in neurons for m in neuron.modules()}  # recurrences
    watched = [*neurons, *(m for m in names if isinstance(m, _WEIGHTED) and m not in inside)]
    handles = [module.register_forward_hook(ran) for module in watched]
    try:
        with _unchanged(net), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # FoldTime says that hooks have it run the loop
            net(*batch)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _scale_to(net, batch, name, layers, rate):
    """Scale `layers` until the neuron `name` fires at `rate`: doubled or halved until that lies between, then bisected."""
    if not layers:
        raise ValueError(
            f"there is no layer with weights in front of {name!r}, after the neurons before it: nothing to scale"
        )
    parameters = [p for layer in layers for p in (layer.weight, getattr(layer, "bias", None)) if p is not None]
    if any(is_parametrized(layer) for layer in layers) or not all(isinstance(p, nn.Parameter) for p in parameters):
        raise ValueError(
            f"the weights in front of {name!r} are parametrized: scale them yourself, or wake the net before"
        )
    first = [p.clone() for p in parameters]

    def measure(factor):
        for p, before in zip(parameters, first, strict=True):
            p.copy_(before * factor)
        counts = [0, 0]

        def fired(which, spk_rec):
            if which == name:
                counts[0] += int((spk_rec != 0).sum())
                counts[1] += spk_rec.numel()

        with _unchanged(net), watch(net, fired, None):
            net(*batch)
        return counts[0] / max(counts[1], 1)

    low, high, factor = 0.0, math.inf, 1.0
    for _ in range(_MOST):
        now = measure(factor)
        if abs(now - rate) <= _CLOSE * rate:
            return
        low, high = (factor, high) if now < rate else (low, factor)
        if high == math.inf or not low:
            factor *= 2 if high == math.inf else 0.5
        elif high / low < 1 + 1e-6:
            break
        else:
            factor = math.sqrt(low * high)
    for p, before in zip(parameters, first, strict=True):
        p.copy_(before)
    raise ValueError(
        f"no factor on the weights in front of {name!r} makes it fire at {rate:g}, the last was {now:.3g}: is the input "
        "of that layer zero, its drive negative, or the batch too small? Its weights are as they were"
    )
