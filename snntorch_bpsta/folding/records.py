"""What a pass is written down as: calls, and what they handed on to one another."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field as _field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


class Unfoldable(Exception):
    """Why a pass cannot be run in another order, in words for the user."""


@dataclass(eq=False)
class Node:
    """A call that was seen, or where a tensor came from: "input", "const", "op" or "neuron"."""

    kind: str
    fn: Any  # of an op its function, of a neuron its module, of an input its place, of a constant how to read it
    args: Any = ()  # with Ref in the place of tensors; of a neuron (current, *states)
    kwargs: Any = _field(default_factory=dict)
    grad: bool = True  # whether gradients were on
    effects: tuple[Any, ...] = ()  # what it draws from or writes to besides its result: such calls stay in their order
    single: bool = True  # it returned one tensor and no tuple of them
    values: dict[Any, Tensor] = _field(default_factory=dict)  # what came out: by place, of a neuron by name
    line: str = ""  # of the user's code
    layer: str = ""  # the module without modules inside whose forward it is a part of
    chain: int = 0  # of a neuron: which of its runs through time, and the place in it
    position: int = 0
    index: int = 0  # among all nodes
    of_state: bool = False  # made from what a neuron held before the pass, whose shape is that of another call
    repeats: int = 0  # how often the very call was made again


class Ref(NamedTuple):
    """An output of a node: its place, of a neuron "spk" or the name of a state."""

    node: Node
    out: Any = 0


@dataclass(frozen=True)
class Attribute:
    """A tensor of a module, read anew at each run."""

    module: Any
    name: str

    def __call__(self) -> Tensor:
        return getattr(self.module, self.name)


@dataclass(frozen=True, eq=False)
class Given:
    """A tensor that is neither an argument nor an attribute of a module: a global, say, or one in a list."""

    tensor: Tensor

    def __call__(self) -> Tensor:
        return self.tensor


@dataclass(frozen=True)
class Unknown:
    """A tensor that nobody knows: no run may need it."""

    reason: str

    def __call__(self) -> Tensor:
        raise Unfoldable(self.reason)


@dataclass(frozen=True)
class InPlace:
    """An operation in place as one that leaves its first argument as it is."""

    function: Any

    def __call__(self, base: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        out = base.clone()
        self.function(out, *args, **kwargs)
        return out

    @property
    def __name__(self) -> str:
        return str(self.function.__name__)


@dataclass(frozen=True)
class Apply:
    """A function of autograd, one call, for its gradient is its own."""

    function: Any

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function.apply(*args, **kwargs)

    @property
    def __name__(self) -> str:
        return str(self.function.__name__)


@dataclass(frozen=True)
class Mask:
    """What a dropout multiplies by. Its draws do not depend on what is dropped, so that they can be had before."""

    function: Any
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        ones = torch.ones(self.shape, dtype=self.dtype, device=self.device)
        return self.function(ones, *args, **kwargs)

    @property
    def __name__(self) -> str:
        return str(self.function.__name__)


def set_item(base: Tensor, index: Any, value: Any) -> Tensor:
    """``base[index] = value`` as a function."""
    out = base.clone()
    out[index] = value
    return out


class Counted(NamedTuple):
    """A buffer that a pass counts up."""

    attribute: Attribute
    by: int


class Look(NamedTuple):
    """Numbers that left the graph: a run where they are others may go another way."""

    function: Any
    args: Any  # with Ref in the place of tensors
    kwargs: Any
    seen: Any
    line: str

    @property
    def refs(self) -> list[Ref]:
        return refs_in((self.args, self.kwargs))


class Recording(NamedTuple):
    """A pass: its calls in order, and where what it returned and left behind came from."""

    nodes: list[Node]
    result: list[Any]
    memory: list[Any]  # of each tensor of the result: those that are equal shared their memory
    spec: Any
    left: list[tuple[Attribute, Ref]]  # attributes of modules that hold something new
    counted: list[Counted]
    looks: list[Look]
    names: dict[Any, str]  # of the modules
    shaped: bool  # whether the shape of something that is `of_state` was asked for


def memory_of(t: Any) -> Any:
    """Where the numbers of a tensor are."""
    shared = isinstance(t, torch.Tensor) and t.layout is torch.strided and t.device.type != "meta" and t.numel()
    return t.untyped_storage().data_ptr() if shared else id(t)


def mapped(tree: Any, change: Callable[[Any], Any]) -> Any:
    """`tree`, of tuples, lists and dicts, with each leaf changed."""
    kind = type(tree)
    if kind is tuple or kind is list:
        return kind([mapped(x, change) for x in tree])
    if kind is dict:
        return {name: mapped(x, change) for name, x in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields") and not isinstance(tree, Ref):
        return kind(*[mapped(x, change) for x in tree])
    return change(tree)


def refs_of(node: Node) -> list[Ref]:
    """The references among the arguments of a node, in order."""
    return refs_in((node.args, node.kwargs))


def refs_in(tree: Any) -> list[Ref]:
    """The references in `tree`, in order."""
    found: list[Ref] = []
    mapped(tree, lambda x: found.append(x) if type(x) is Ref else None)
    return found


def frozen(tree: Any, ref: Callable[[Ref], Any]) -> Any:
    """`tree` as something to hash and compare, with ``ref(x)`` in the place of each reference."""
    kind = type(tree)
    if kind is Ref:
        return ref(tree)
    if isinstance(tree, (tuple, list)):
        return (kind, *[frozen(x, ref) for x in tree])
    if kind is dict:
        return (kind, *[(name, frozen(x, ref)) for name, x in tree.items()])
    if kind is slice:
        return (kind, tree.start, tree.stop, tree.step)
    return kind, tree
