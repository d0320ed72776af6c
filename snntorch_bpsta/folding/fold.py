"""A user's network with a loop over time, as it is, with one call a layer."""

from __future__ import annotations

import time
import warnings
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .._checks import (
    check_choice,
    check_flags,
    check_module,
    check_temporal_alpha,
    check_tensor,
)
from .._meant import says_what_was_meant
from .._torch import (
    backward_pass,
    is_compiling,
    is_exporting,
    is_transforming,
    tree_flatten,
    tree_leaves,
    tree_unflatten,
)
from ..conversion import convert
from ..functional.record import check_spatial_adj
from ..neurons import WARM_UPS
from .guards import Surroundings, ambient, described, hidden_shapes, kinds_of, meta, state_of
from .passes import GIVEN_UP, Pass
from .plan import simplified
from .recorder import is_recording, record
from .records import Unfoldable
from .replay import OtherNumbersError
from .report import FoldReport

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._typing import SpatialAdj, WarmUp

_MOST = 64  # passes that are remembered
_KEPT = ("_net", "_nets", "_function", "_direct", "_fold", "_check")
_OWN = (*_KEPT, "_passes", "_around", "_last", "_new", "_shaped", "_warned")  # what is known of the calls so far


class _Steps:
    """A net of one step, over all steps."""

    def __init__(self, step: Callable[..., Any]) -> None:
        self.step = step

    def __call__(self, x: torch.Tensor) -> Any:
        check_tensor("x", x, 1, "[T, B, *]")
        outs = [tree_flatten(self.step(row)) for row in x.unbind(0)]
        if not outs:
            raise ValueError(f"x must hold at least one time step, got shape {tuple(x.shape)}")
        rows = [torch.stack(row) for row in zip(*(leaves for leaves, _ in outs), strict=True)]
        return tree_unflatten(rows, outs[0][1])


class FoldTime(nn.Module):
    """A net that runs its loop over time with one call a layer; :func:`fold_time` makes it.

    It is the net for all that PyTorch asks: the same parameters (the very objects), buffers, submodules, state_dict and
    hooks, ``train()`` and ``eval()``; other attributes are those of the net. It is called as the net is.

    Args:
        net, nets, steps, fold, check: those of :func:`fold_time`, which converts the neurons too.

    Raises:
        TypeError, ValueError: an argument of the wrong type or out of range.

    Example:
        >>> import snntorch, torch, snntorch_bpsta as snn
        >>> step = torch.nn.Sequential(torch.nn.Linear(4, 3), snntorch.Leaky(beta=0.9, init_hidden=True))
        >>> snn.FoldTime(step, steps=True)(torch.rand(5, 2, 4)).shape
        torch.Size([5, 2, 3])
    """

    _passes: OrderedDict[Any, Pass]

    def __init__(
        self,
        net: nn.Module | Callable[..., Any],
        *nets: nn.Module,
        steps: bool = False,
        fold: str = "steps",
        check: bool = True,
    ) -> None:
        nets = _nets_of(net, nets)
        check_flags(steps=steps, check=check)
        check_choice("fold", fold, ("steps", "joint"))
        super().__init__()
        function = _Steps(net) if steps else net
        direct, mine = function is nets[0], self.__dict__
        if len(nets) == 1:
            theirs = {name: nets[0].__dict__.get(name) for name in mine if direct or "hook" not in name}
            mine.update({name: value for name, value in theirs.items() if isinstance(value, (dict, set))})
        else:
            mine["_modules"] = {str(i): net for i, net in enumerate(nets)}
        mine.pop("training", None)
        mine.update(_net=nets[0], _nets=nets, _function=function, _direct=direct, _fold=fold, _check=check)
        self._forget()

    def _forget(self):
        self.__dict__.update(_passes=OrderedDict(), _around=None, _last=None, _new=0, _shaped=False, _warned=set())

    # --- the net, for all but its forward ---------------------------------------------------------------

    @property
    def training(self) -> bool:
        return self._net.training

    @training.setter
    def training(self, mode: bool) -> None:
        for net in self.__dict__.get("_nets", ()):
            net.training = mode

    @property
    def _is_full_backward_hook(self):
        return self._hooked().get("_is_full_backward_hook")

    @_is_full_backward_hook.setter
    def _is_full_backward_hook(self, full):
        self._hooked()["_is_full_backward_hook"] = full

    def _hooked(self):
        """The attributes of the module whose hooks a call runs: the net's, unless a function calls the net."""
        mine = self.__dict__
        return mine["_net"].__dict__ if mine.get("_direct") else mine

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__") or name in _OWN:
                raise
            return getattr(self.__dict__["_net"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        if "_net" not in self.__dict__ or name in _OWN or isinstance(getattr(type(self), name, None), property):
            super().__setattr__(name, value)
        else:
            setattr(self._net, name, value)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name in _KEPT or name not in _OWN}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    # --- a call -----------------------------------------------------------------------------------------

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if is_recording() or is_compiling() or is_transforming() or is_exporting():
            return self._loop(*args, **kwargs)
        key = self._key(args, kwargs)
        found = self._passes.get(key)
        if found is None:
            self.__dict__["_new"] += 1
            if self._new >= GIVEN_UP:
                self._say(
                    f"the last {GIVEN_UP} calls were all of another kind, by their shapes or a number or an object that the "
                    "net reads; such calls run its own loop"
                )
                if self._new % GIVEN_UP:  # now and then one is recorded all the same
                    return self._loop(*args, **kwargs)
            found = self._passes[key] = Pass()
            if len(self._passes) > _MOST:
                self._passes.popitem(last=False)
        else:
            self.__dict__["_new"] = 0
            self._passes.move_to_end(key)
        self.__dict__["_last"] = found
        return self._call(found, args, kwargs)

    def _call(self, found, args, kwargs):
        if found.reason is not None:
            return self._loop(*args, **kwargs)
        again = backward_pass() != -1 and not found.replayed  # of a checkpoint, which has to do what the first call did
        if found.runner is None or found.recorded < 1 + self._check or again:
            found.replayed = False
            return self._record(found, args, kwargs)
        try:
            out = found.runner(args, kwargs)
            found.replayed, found.missed = True, 0
            return out
        except OtherNumbersError as look:
            return self._other_numbers(found, str(look), args, kwargs)
        except Exception as error:  # the loop says it in the user's own words, or does not fail
            if backward_pass() != -1 or found.runner.writes:
                raise  # a checkpoint says so that it has all it wants; running averages must not move twice
            self._leave(found, f"the calls for all steps at once failed: {type(error).__name__}: {error}")
            return self._loop(*args, **kwargs)

    def _other_numbers(self, found, look, args, kwargs):
        """A call in which a number that the pass looked at was another: by the loop, or recorded anew if it stays so."""
        found.replayed = False
        try:
            found.miss(look)
        except Unfoldable as error:
            self._leave(found, str(error))
        if found.reason is None and found.missed % 4 == 0:
            found.recorded, found.fingerprint, found.runner = 0, [], None
            return self._call(found, args, kwargs)
        return self._loop(*args, **kwargs)

    def _loop(self, *args, **kwargs):
        return self._net.forward(*args, **kwargs) if self._direct else self._function(*args, **kwargs)

    def _key(self, args, kwargs):
        """What a call has to have in common with one before to be run as it was."""
        leaves, spec = tree_flatten((args, kwargs))
        given = tuple(meta(x) if isinstance(x, torch.Tensor) else described(x) for x in leaves)
        modules = self._modules_of()
        if self._around is None or self._around.kinds != kinds_of(modules):
            function = self._function.step if isinstance(self._function, _Steps) else self._function
            self.__dict__["_around"] = Surroundings(function, modules)
        around = tuple(described(value) for value in self._around.values())
        shapes = hidden_shapes(modules) if self._shaped else ()
        return spec, given, ambient(), tuple(state_of(module) for module in modules), around, shapes

    def _modules_of(self):
        """All modules, with the names that they have for the user."""
        names: dict[nn.Module, str] = {}
        for i, net in enumerate(self._nets):
            for name, module in net.named_modules():
                own = name or ("" if self._direct else type(net).__name__)
                names.setdefault(module, own if len(self._nets) == 1 else f"{i}.{own}")
        return names

    def _record(self, found, args, kwargs):
        modules = self._modules_of()
        out, recording = record(self._loop, args, kwargs, modules, self._around.tensors())
        if isinstance(recording, str):
            self._leave(found, recording)
            return out
        if recording.shaped and not self._shaped:  # the shapes of hidden states tell calls apart from now on
            self.__dict__["_shaped"] = True
            self._passes.clear()
            return out
        try:
            found.prepare(simplified(recording), self._fold == "joint", self._check, self._say)
        except Unfoldable as error:
            self._leave(found, str(error))
        except Exception as error:  # the pass itself went well
            self._leave(found, f"it could not be planned ({type(error).__name__}: {error})")
        return out

    def _leave(self, found, reason):
        """Leave calls of this kind to the net's own loop."""
        found.reason, found.runner = reason, None
        found.report = FoldReport((), found.report.stepped if found.recorded else {}, reason)
        self._say(f"the net's own loop runs: {reason}")

    def _say(self, text):
        if text not in self._warned:
            self._warned.add(text)
            warnings.warn(f"fold_time({type(self._net).__name__}): {text}", stacklevel=6)

    def report(self, *args: Any, **kwargs: Any) -> FoldReport:
        """What was done with the calls of the net the last time, and why.

        Args:
            *args: arguments of a call, to have the speed-up measured: forward, and backward where there are gradients.
            **kwargs: the same by name.
        """
        if args or kwargs:
            ours, loop = (_seconds(call, args, kwargs) for call in (self, self._loop))
            return self._last.report._replace(speed_up=loop / ours)
        return Pass().report if self._last is None else self._last.report


def _seconds(call, args, kwargs, rounds=5):
    """The least time of a call, with its backward pass."""
    best = float("inf")
    for i in range(rounds + 2):  # the first two may be recorded
        start = time.perf_counter()
        out = call(*args, **kwargs)
        total = [t.sum() for t in tree_leaves(out) if isinstance(t, torch.Tensor) and t.requires_grad]
        if total:
            roots = [
                t for net in (call.__self__ if hasattr(call, "__self__") else call)._nets for t in net.parameters()
            ]
            torch.autograd.grad(sum(total), [t for t in roots if t.requires_grad], allow_unused=True)
        if i > 1:
            best = min(best, time.perf_counter() - start)
    return best


@says_what_was_meant
def fold_time(
    net: nn.Module | Callable[..., Any],
    *nets: nn.Module,
    steps: bool = False,
    fold: str = "steps",
    check: bool = True,
    spatial_adj: SpatialAdj = False,
    temporal_alpha: float = 0.0,
    warm_up: WarmUp | None = None,
) -> FoldTime:
    """A network with a loop over time, as it is, at the speed of one call a layer.

    The first two calls run the net's own loop, and write down what it does. From then on calls of the same kind (shapes,
    train or eval, numbers that the net reads) run each stateless layer once on ``[T*B, *]`` and each neuron once over all
    steps; what does not let itself be taken so runs step by step in its place. Outputs are the loop's: spikes and membranes
    to the bit, but where a convolution or a product sums in another order. A net of which this cannot be had runs its own
    loop, and a warning says why; :meth:`FoldTime.report` says what became of each layer.

    Args:
        net: the network, whose forward has the loop; or the function around it, with the nets behind it. Neurons may be
            snnTorch's or ours.
        *nets: the nets that a function calls.
        steps: the net takes one step: the result takes ``[T, B, *]``, and returns what it returns stacked over time, from
            its hidden states as they are (``snn.reset(net)`` sets them to zero).
        fold: "steps" keeps the statistics of batch norm in training per step, as the loop has them; "joint" takes them over
            all steps, which is faster.
        check: compare each layer over all steps with its steps, in the first two calls; without it one call is written down
            and trusted.
        spatial_adj, temporal_alpha, warm_up: convert the neurons in place, see :func:`convert`.

    Returns:
        FoldTime: a module with the parameters, the state_dict and the attributes of the net, called as `net` is.

    Raises:
        TypeError, ValueError: an argument of the wrong type or out of range. (A net that cannot be folded does not raise.)

    Example:
        >>> import snntorch, torch, snntorch_bpsta as snn
        >>> from torch import nn
        >>> class Net(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.fc = nn.Linear(4, 3)
        ...         self.lif = snntorch.Leaky(beta=0.9)
        ...
        ...     def forward(self, x):
        ...         mem, spikes = self.lif.init_leaky(), []
        ...         for x_t in x:
        ...             spk, mem = self.lif(self.fc(x_t), mem)
        ...             spikes.append(spk)
        ...         return torch.stack(spikes)
        >>> fast = snn.fold_time(Net())
        >>> spikes = [fast(torch.rand(5, 2, 4)) for _ in range(3)]
        >>> fast.report().grouped
        ('fc', 'lif')
    """
    check_spatial_adj(spatial_adj)
    check_temporal_alpha(temporal_alpha)
    check_choice("warm_up", warm_up, WARM_UPS)
    fast = FoldTime(net, *nets, steps=steps, fold=fold, check=check)
    if spatial_adj or temporal_alpha or warm_up:
        for each in fast._nets:
            convert(each, spatial_adj=spatial_adj, temporal_alpha=temporal_alpha, warm_up=warm_up)
    return fast


def _nets_of(net, nets):
    """The nets, of a net or of a function and its nets; refuse anything else."""
    if not callable(net) or isinstance(net, (type, FoldTime)):
        raise TypeError(
            f"net must be a torch.nn.Module, or a function and behind it its nets, got {type(net).__name__}"
        )
    if isinstance(net, nn.Module) == bool(nets):
        raise TypeError(
            "net must be a torch.nn.Module by itself, or a function and behind it the nets that it calls: "
            f"fold_time(net), fold_time(forward_pass, net); got {type(net).__name__} and {len(nets)} nets"
        )
    for each in nets:
        check_module("each of nets", each)
    return nets or (net,)
