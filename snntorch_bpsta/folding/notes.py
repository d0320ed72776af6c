"""The notes of a pass: nodes, and which of them a tensor came from."""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .._torch import tree_leaves, version
from . import seen
from .guards import ambient
from .neurons import states_of
from .records import Attribute, Given, Node, Ref, Unfoldable, Unknown, mapped, refs_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor


class Notes:
    """What has been written down so far; `reason` says why no more is.

    Args:
        modules: those whose tensors a pass may use, with their names.
    """

    def __init__(self, modules: dict[nn.Module, str]) -> None:
        super().__init__()
        self.modules = modules
        self.nodes: list[Node] = []
        self.owners: dict[int, Ref] = {}  # by id, as the next three
        self.storages: dict[int, set[int]] = {}
        self.known: dict[int, Attribute] = {}
        self.given: dict[int, Tensor] = {}
        self.keep: list[Tensor] = []  # so that no other tensor takes an id
        self.quiet_depth, self.random = 0, seen.random_state()
        self.reason: str | None = None
        self.thread, self.ambient = threading.get_ident(), ambient()[1:]

    def note(self, what: Callable[..., Any], *args: Any) -> Any:
        """Write something down, unless the recording has failed."""
        if self.reason is None:
            try:
                return what(*args)
            except Unfoldable as error:
                self.reason = str(error)
            except Exception as error:  # the pass is the user's, and goes on whatever happens to us
                self.reason = f"it could not be written down ({type(error).__name__}: {error}, {users_line()})"
        return None

    def own(self, node: Node, values: dict[Any, Tensor]) -> Node:
        """Take a node down, with what came out of it."""
        node.index, node.grad, node.values = len(self.nodes), torch.is_grad_enabled(), values
        node.of_state = node.kind == "op" and any(ref.node.of_state for ref in refs_of(node))
        if isinstance(node.fn, Attribute) and node.kind == "const":
            node.of_state = node.fn.name in (states_of(node.fn.module) or ())
        self.nodes.append(node)
        for out, value in values.items():
            if node.kind != "neuron" or id(value) not in self.owners:
                self.owners[id(value)] = Ref(node, out)
            self.keep.append(value)
            if value.layout is torch.strided and value.device.type != "meta":
                self.storages.setdefault(value.untyped_storage().data_ptr(), set()).add(id(value))
        return node

    def ref(self, t: Tensor) -> Ref:
        """Where a tensor came from."""
        found = self.owners.get(id(t))
        if found is not None:
            return found
        if id(t) in self.known:
            source = self.known[id(t)]
        elif id(t) in self.given:
            source = Given(t)
        else:
            what = "a tensor is used that was made by something which is not seen"
            if isinstance(t, nn.Parameter):
                what = (
                    "a parameter is used of a net that fold_time was not given: fold_time(function, net, the other net)"
                )
            source = Unknown(f"{what} ({users_line()})")
        self.own(Node("const", source), {0: t})
        return self.owners[id(t)]

    def op(self, fn: Any, args: Any, kwargs: Any, out: Any, effects: tuple[Any, ...] = ()) -> None:
        values = dict(enumerate(out)) if isinstance(out, (tuple, list)) else {0: out}
        if ambient()[1:] != self.ambient:
            raise Unfoldable(f"autocast, inference mode or the default dtype is switched inside ({users_line()})")
        args, kwargs = self.taken(args), self.taken(kwargs)
        node = Node("op", fn, args, kwargs, effects=effects, single=isinstance(out, torch.Tensor), line=users_line())
        node.layer = self.layer()
        self.own(node, values)

    def taken(self, tree: Any) -> Any:
        """Arguments, with references in the place of tensors."""

        def take(x):
            if isinstance(x, torch.Tensor):
                return self.ref(x)
            if not seen.is_static(x):
                raise Unfoldable(f"a {type(x).__name__} is turned into a tensor ({users_line()})")
            return x

        return mapped(tree, take)

    def layer(self) -> str:
        """The name of the module that is running, if it has no modules inside."""
        frame = sys._getframe(1)
        while frame is not None:
            if frame.f_code.co_name == "forward" and frame.f_code.co_varnames[:1] == ("self",):
                module = frame.f_locals.get("self")
                return self.modules.get(module, "") if isinstance(module, nn.Module) and not module._modules else ""
            frame = frame.f_back
        return ""

    def name(self, attribute: Attribute) -> str:
        return ".".join(filter(None, (self.modules.get(attribute.module, ""), attribute.name)))

    @contextmanager
    def quiet(self) -> Iterator[None]:
        self.quiet_depth += 1
        try:
            yield
        finally:
            self.quiet_depth -= 1

    def watching(self) -> bool:
        return not self.quiet_depth and self.reason is None and threading.get_ident() == self.thread

    def called(self, call: Callable[..., Any], note: Callable[..., None], args: Any, kwargs: Any) -> Any:
        """Make a call that is not looked into, and write it down, with the random numbers that it drew and the arguments
        that it wrote to."""
        with self.quiet():
            given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
            versions = [version(t) for t in given]
            self.note(self._check_draws)
            out = call(*args, **kwargs)
            drawn, self.random = self.random, seen.random_state()
            effects = [] if torch.equal(drawn, self.random) else ["random"]
            if any(isinstance(x, torch.Generator) for x in tree_leaves((args, kwargs))):
                effects = ["random"]
            written = [t for t, v in zip(given, versions, strict=True) if version(t) != v]
            self.note(note, args, kwargs, out, effects, written)
        return out

    def _check_draws(self):
        if not torch.equal(self.random, seen.random_state()):
            raise Unfoldable(f"random numbers are drawn or seeded by something which is not seen ({users_line()})")


_HERE = (torch.__path__[0], __file__.rpartition("/")[0])


def users_line() -> str:
    """The line of the user's code that is running, as FILE:LINE."""
    frame = sys._getframe(1)
    while frame is not None and (
        frame.f_code.co_filename.startswith(_HERE) or "/snntorch/" in frame.f_code.co_filename
    ):
        frame = frame.f_back
    return f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno}" if frame is not None else ""
