"""Neurons of the host into ours and back, in place; and the hidden states of a net, reset."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from warnings import warn

import snntorch
import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from ._checks import check_choice, check_module, check_surrogate, check_temporal_alpha
from ._meant import says_what_was_meant
from .functional.record import check_spatial_adj
from .neurons import FAMILY, WARM_UPS, Adjusted, name_neurons

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ._typing import SpatialAdj, SpikeGrad, WarmUp

__all__ = ["Conversion", "convert", "detach", "patched", "reset", "revert"]

_Net = TypeVar("_Net", bound=nn.Module)

_OURS = {ours._host: ours for ours in FAMILY}
# The states of all neurons of snnTorch, and what its reset of a step before leaves.
_STATES = ("spk", "syn", "mem", "rise", "syn_exc", "syn_inh", "reset", "a", "b", "c", "h")
# What a net may hold that spikes. (LeakyParallel takes all steps at once and is no SpikingNeuron.)
_NEURONS = (snntorch.SpikingNeuron, snntorch.LeakyParallel)


class Conversion(NamedTuple):
    """What :func:`convert` or :func:`revert` did, by the names of ``net.named_modules()`` ("" is the net itself).

    Attributes:
        changed: neurons that are different now.
        unchanged: neurons that were as asked already.
        refused: neurons that were left as they are, name -> reason.
        partly: neurons among the first two for which an option has no meaning and is off, name -> reason.
    """

    changed: tuple[str, ...]
    unchanged: tuple[str, ...]
    refused: dict[str, str]
    partly: dict[str, str] = {}

    def __str__(self) -> str:
        lines = [f"changed: {', '.join(map(repr, self.changed)) or 'nothing'}"]
        if self.unchanged:
            lines.append(f"as asked already: {', '.join(map(repr, self.unchanged))}")
        lines += [f"left as it is: {name!r}, {reason}" for name, reason in self.refused.items()]
        lines += [f"in part: {name!r}, {reason}" for name, reason in self.partly.items()]
        return "\n".join(lines)


@says_what_was_meant
def convert(
    net: _Net,
    *,
    spatial_adj: SpatialAdj = False,
    temporal_alpha: float = 0.0,
    warm_up: WarmUp | None = None,
    output_spike_grad: SpikeGrad | None = None,
    match: Callable[[str, nn.Module], bool] | None = None,
    report: Callable[[Conversion], object] | None = None,
) -> _Net:
    """Turn snnTorch's neurons inside `net` into ours, in place: the same objects with another class.

    Parameters, buffers, hidden states, hooks, the references that an optimiser holds, and snnTorch's list of neurons stay
    as they are, and so do the spikes. Neurons that are ours already get the options set. A neuron's own `spike_grad` is set
    aside while `spatial_adj` is on. What cannot be converted is left alone. Where `temporal_alpha` has no meaning (a reset
    of "none", ``reset_delay=False``, :class:`Alpha`) a neuron takes the rest, with ``temporal_alpha=0``. Both are reported,
    and warned of.

    Args:
        net: any module, a neuron itself too; also one that ``snntorch.import_nir`` built or a checkpoint was loaded into.
        spatial_adj, temporal_alpha: the options of every neuron, see :class:`Leaky`.
        warm_up: that of every neuron, see :class:`Leaky`; None leaves the warm-up of a neuron that is ours already as it
            is. :func:`~snntorch_bpsta.networks.set_warm_up` ends it.
        output_spike_grad: the surrogate of the output neurons, the last ones in ``net.named_modules()``, in place of Eq. 9
            or of their own, as in :func:`~snntorch_bpsta.networks.build`. Under Eq. 9 an output neuron that has fallen
            silent gets no gradient any more, and its class is lost; under a surrogate it does.
        match: function ``(name, neuron) -> bool`` that selects neurons; None takes all.
        report: called with the :class:`Conversion`, that is with what was changed and what could not be: ``print``, say.

    Returns:
        torch.nn.Module: `net` itself.

    Raises:
        TypeError, ValueError: an argument of the wrong type or out of range; an `output_spike_grad` where `match` leaves the
            output neurons out. (A neuron that cannot take the options does not raise.)

    Example:
        >>> import snntorch, snntorch_bpsta as snn
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(4, 3), snntorch.Leaky(beta=0.9, init_hidden=True))
        >>> net = snn.convert(net, spatial_adj=True, temporal_alpha=0.8, report=print)
        changed: '1'
        >>> net[1]
        Leaky(beta=0.9, threshold=1, reset_mechanism='subtract', spatial_adj=True, temporal_alpha=0.8)
    """
    check_spatial_adj(spatial_adj)
    temporal_alpha = check_temporal_alpha(temporal_alpha)
    check_choice("warm_up", warm_up, WARM_UPS)
    check_surrogate("output_spike_grad", output_spike_grad)
    output = None if output_spike_grad is None else _output(net, match)

    def change(neuron):
        last = neuron is output
        own = (False, temporal_alpha, warm_up, output_spike_grad) if last else (spatial_adj, temporal_alpha, warm_up)
        return _convert(neuron, *own)

    _each_neuron(net, match, report, change)
    name_neurons(net)
    return net


def _output(net, match):
    """The last neuron of `net`."""
    check_module("net", net)
    neurons = [(name, module) for name, module in net.named_modules() if isinstance(module, _NEURONS)]
    if neurons and callable(match) and not match(*neurons[-1]):
        raise ValueError(
            f"output_spike_grad is for the output neurons, {neurons[-1][0]!r}, which match leaves out: let it take them too"
        )
    return neurons[-1][1] if neurons else None


@says_what_was_meant
def revert(
    net: _Net,
    *,
    match: Callable[[str, nn.Module], bool] | None = None,
    report: Callable[[Conversion], object] | None = None,
) -> _Net:
    """Turn our neurons inside `net` back into snnTorch's, in place; the opposite of :func:`convert`.

    Args:
        net: any module, a neuron itself too.
        match: function ``(name, neuron) -> bool`` that selects neurons; None takes all.
        report: called with the :class:`Conversion`.

    Returns:
        torch.nn.Module: `net` itself.

    Raises:
        TypeError: an argument of the wrong type.
    """
    return _each_neuron(net, match, report, _revert)


def _each_neuron(net, match, report, change):
    """Call `change` on each neuron; it returns whether the neuron is different now, None for a refusal, and what is not as
    asked, if anything."""
    check_module("net", net)
    if match is not None and not callable(match):
        raise TypeError(f"match must be a function (name, neuron) -> bool or None, got {type(match).__name__}")
    if report is not None and not callable(report):
        raise TypeError(
            f"report must be a function of a Conversion, such as print, or None, got {type(report).__name__}"
        )
    changed, unchanged, refused, partly = [], [], {}, {}
    neurons = [(name, module) for name, module in net.named_modules() if isinstance(module, _NEURONS)]
    for name, neuron in [pair for pair in neurons if match is None or match(*pair)]:
        result, reason = change(neuron)
        if result is not None:
            (changed if result else unchanged).append(name)
        if reason:
            (refused if result is None else partly)[name] = reason
    for reasons, what in ((refused, "neurons left as they are"), (partly, "neurons with temporal_alpha=0")):
        if reasons:
            text = "; ".join(f"{name!r}: {reason}" for name, reason in reasons.items())
            warn(f"{what}: {text}", stacklevel=4)
    if report is not None:
        report(Conversion(tuple(changed), tuple(unchanged), refused, partly))
    return net


def _convert(neuron, spatial_adj, temporal_alpha, warm_up, spike_grad=None):
    is_ours = isinstance(neuron, Adjusted)
    ours = type(neuron) if is_ours else _OURS.get(type(neuron))
    if ours is None:
        return None, _why_not_ours(neuron)
    reason = None
    try:
        check_surrogate("spike_grad", neuron.spike_grad if spike_grad is None else spike_grad)
        on = temporal_alpha or spike_grad is not None
        ours._check_surrogate(spatial_adj, on, neuron.threshold, neuron.surrogate_disable)
    except (TypeError, ValueError) as error:
        return None, str(error)
    try:
        ours._check_residual(temporal_alpha, neuron.reset_mechanism, getattr(neuron, "reset_delay", True))
    except ValueError as error:
        reason, temporal_alpha = str(error), 0.0
    if not is_ours:
        neuron.__class__ = ours
        neuron._take_over()
    asked = {"spatial_adj": spatial_adj, "temporal_alpha": temporal_alpha}
    asked |= {} if warm_up is None else {"warm_up": warm_up}
    asked |= {} if spike_grad is None else {"_spike_grad": spike_grad}
    if is_ours and all(getattr(neuron, name) == value for name, value in asked.items()):
        return False, reason
    for name, value in asked.items():
        setattr(neuron, name, value)
    return True, reason


def _parametrized(neuron):
    return (
        f"{type(neuron).__name__} has a parametrization of {', '.join(neuron.parametrizations)}: take it off first, by "
        "torch.nn.utils.parametrize.remove_parametrizations, and put it on again afterwards"
    )


def _why_not_ours(neuron):
    name, host = type(neuron).__name__, next((host for host in _OURS if isinstance(neuron, host)), None)
    if host is not None and is_parametrized(neuron):
        return _parametrized(neuron)
    if host is not None and not type(neuron).__module__.startswith("snntorch."):
        return f"{name} is a class of its own: derive it from snntorch_bpsta.{host.__name__}"
    return f"{name} has no counterpart here"


def _revert(neuron):
    if not isinstance(neuron, Adjusted):
        return False, None
    if is_parametrized(neuron):
        return None, _parametrized(neuron)
    if type(neuron) not in FAMILY:
        return None, f"{type(neuron).__name__} is a class of its own, derived from ours"
    neuron._hand_back()
    return True, None


# The blocks of patched() that this context has entered. A generator may leave one out of turn, or in another context: so
# each is a list of its options that is emptied when it is left.
_blocks: ContextVar[tuple[list[tuple[SpatialAdj, float, WarmUp | None]], ...]] = ContextVar(
    "snntorch_bpsta.patched", default=()
)
_lock, _depth = Lock(), 0
_originals: dict[Any, Callable[..., None]] = {}


@says_what_was_meant
@contextmanager
def patched(
    *, spatial_adj: SpatialAdj = False, temporal_alpha: float = 0.0, warm_up: WarmUp | None = None
) -> Iterator[None]:
    """Neurons that code inside the block builds by snnTorch's own classes come out as ours, for code you cannot change.

    ``snntorch.Leaky(...)`` and its five sisters are converted as they are built, see :func:`convert`; one that cannot be is
    left as it is, with a warning. Classes and names of snnTorch stay what they are, so ``isinstance`` goes on working, and
    neurons built before or in other threads are not touched. Blocks may be nested; the inner options hold. Also a
    decorator.

    Args:
        spatial_adj, temporal_alpha, warm_up: see :class:`Leaky`.

    Raises:
        TypeError, ValueError: an argument of the wrong type or out of range.

    Example:
        >>> import snntorch, snntorch_bpsta as snn
        >>> with snn.patched(spatial_adj=True):
        ...     lif = snntorch.Leaky(beta=0.9)
        >>> type(lif) is snn.Leaky
        True
    """
    global _depth
    check_spatial_adj(spatial_adj)
    temporal_alpha = check_temporal_alpha(temporal_alpha)
    check_choice("warm_up", warm_up, WARM_UPS)
    with _lock:
        if _depth == 0:
            for host in _OURS:
                _originals[host] = host.__init__
                host.__init__ = _converting(host, host.__init__)
        _depth += 1
    block = [(spatial_adj, temporal_alpha, warm_up)]
    _blocks.set((*filter(None, _blocks.get()), block))
    try:
        yield
    finally:
        block.clear()
        with _lock:
            _depth -= 1
            if _depth == 0:
                for host, original in _originals.items():
                    host.__init__ = original
                _originals.clear()


def _converting(host, original):
    def __init__(self, *args, **kwargs):
        original(self, *args, **kwargs)
        blocks = [block for block in _blocks.get() if block]
        if blocks and type(self) is host:
            patched, reason = _convert(self, *blocks[-1][0])
            if reason:
                how = "not patched" if patched is None else "patched with temporal_alpha=0"
                warn(f"snntorch.{host.__name__} is {how}: {reason}", stacklevel=2)

    __init__.__wrapped__ = original
    return __init__


def reset(net: _Net) -> _Net:
    """Set the hidden states of every spiking neuron inside `net` to zero and cut them from their graph.

    At any depth, ours and snnTorch's, in copies too, and of this net only. (``snntorch.utils.reset`` looks one level deep,
    and then resets the neurons of all nets.)

    Args:
        net: any module.

    Returns:
        torch.nn.Module: `net` itself.

    Raises:
        TypeError: `net` is no module.
    """
    check_module("net", net)
    for module in net.modules():
        if isinstance(module, snntorch.SpikingNeuron) and hasattr(module, "reset_mem"):
            module.reset_mem()
    return net


def detach(net: _Net) -> _Net:
    """Cut the hidden states of every spiking neuron inside `net` from their graph, and keep their values: for truncated
    backpropagation through time, between two windows of a long sequence.

    At any depth, ours and snnTorch's, the fed-back spikes of recurrent neurons too. (``detach_hidden()`` of snnTorch is for
    all neurons of a class, and leaves those spikes, so that the next ``backward`` fails.) States that your own code hands
    on are not in the net: detach them as well.

    Args:
        net: any module.

    Returns:
        torch.nn.Module: `net` itself.

    Raises:
        TypeError: `net` is no module.

    Example:
        >>> import torch, snntorch_bpsta as snn
        >>> lif = snn.RLeaky(beta=0.9, linear_features=3, init_hidden=True)
        >>> for window in torch.rand(4, 5, 2, 3):  # four windows of five steps
        ...     loss = sum(lif(cur).sum() for cur in window)
        ...     loss.backward()
        ...     _ = snn.detach(lif)
    """
    check_module("net", net)
    for module in net.modules():
        if isinstance(module, snntorch.SpikingNeuron):
            for name in _STATES:
                state = getattr(module, name, None)
                if isinstance(state, torch.Tensor) and not isinstance(state, nn.Parameter) and state.requires_grad:
                    setattr(module, name, state.detach())
    return net
