"""What decides how a pass goes, besides the numbers in its tensors: when any of it changes, it is recorded anew."""

from __future__ import annotations

import argparse
import functools
import sys
import sysconfig
import types
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .._torch import has_hooks
from .neurons import states_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})
_DEEP = 3  # objects in objects that are looked into
_PLAIN = (int, float, complex, str, bytes, bool, type(None), torch.dtype, torch.device)
_MOST = 64  # leaves of a container that are looked at
# The bookkeeping of nn.Module and of our neurons, which say nothing about what a forward does.
_INTERNAL = {*nn.Module().__dict__, "_forward_hooks_with_kwargs", "_backend_id", "instances"} - {"training"}


class Same:
    """An object that equals itself alone; held, so that no other takes its id."""

    __slots__ = ("what",)

    def __init__(self, what: Any) -> None:
        self.what = what

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.what is other.what

    def __hash__(self) -> int:
        return id(self.what)


def described(value: Any, deep: int = _DEEP) -> Any:
    """A value as something to compare: plain ones, and those in containers and in objects of the user's classes, by value,
    the rest by identity."""
    if isinstance(value, _PLAIN):
        return type(value), value
    if isinstance(value, torch.Size):
        return tuple(value)
    if isinstance(value, (dict, list, tuple, set)):
        if len(value) > _MOST:
            return Same(value)
        rows = value.items() if isinstance(value, dict) else sorted(value, key=id) if isinstance(value, set) else value
        return type(value), tuple(described(x, deep) for x in rows)
    if deep and _is_open(value):
        return Same(value), described(vars(value), deep - 1)
    return Same(value)


def _is_open(value):
    """Whether an object is one of the user's classes, with attributes to look into."""
    if isinstance(value, (torch.Tensor, nn.Module, type, types.ModuleType, types.FunctionType)):
        return False
    if type(getattr(value, "__dict__", None)) is not dict or len(vars(value)) > _MOST:
        return False
    return type(value) in (types.SimpleNamespace, argparse.Namespace) or not _is_foreign(type(value).__module__)


def meta(t: torch.Tensor) -> tuple[Any, ...]:
    """What a pass may ask of a tensor without a look at its numbers."""
    return t.shape, t.dtype, t.device, t.requires_grad, t.layout, type(t)


def own_names(module: nn.Module) -> tuple[str, ...]:
    """Attributes of a known neuron that each step writes, and that its next one reads alone."""
    states = states_of(module)
    if states is None:
        return ()
    return (*states, "reset", "forward", *getattr(module, "_private", ()), "__getattr__")


def attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Attributes of a module, by name, without those of its bookkeeping."""
    skip = own_names(module)
    for named in (module.__dict__, module._parameters, module._buffers):
        for name, value in named.items():
            if name not in _INTERNAL and name not in skip:
                yield name, value


def state_of(module: nn.Module) -> tuple[Any, ...]:
    """A module as something to compare."""
    rows: list[Any] = [type(module), has_hooks(module)]
    for name, value in attributes(module):
        rows.append((name, meta(value) if isinstance(value, torch.Tensor) else described(value)))
    return tuple(rows)


def hidden_shapes(modules: Iterable[nn.Module]) -> tuple[Any, ...]:
    """The shapes of what known neurons hold."""
    return tuple(getattr(module, name).shape for module in modules for name in states_of(module) or ())


def ambient() -> tuple[Any, ...]:
    """The modes of PyTorch that a pass runs under."""
    cast = tuple(
        torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None for kind in ("cpu", "cuda")
    )
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), *cast, torch.get_default_dtype()


class Surroundings:
    """Globals and closures that the user's own code reads: ``num_steps``, say."""

    def __init__(self, function: Callable[..., Any], modules: Iterable[nn.Module]) -> None:
        self.cells: list[types.CellType] = []
        self.names: dict[tuple[int, str], tuple[Mapping[str, Any], str]] = {}
        self.objects: list[Any] = []
        self._seen: set[Any] = set()
        modules = list(modules)
        self.kinds = kinds_of(modules)
        self._read(function)
        for kind in {base for own in self.kinds for base in own.__mro__}:
            if not _is_foreign(kind.__module__):
                for name in vars(kind):
                    if not (name.startswith("__") and name.endswith("__")) or name == "__call__":
                        self._name(vars(kind), name, id(kind))

    def _read(self, function: Any) -> None:
        """Note what a function reads, and what the functions that it calls read."""
        if isinstance(function, functools.partial):
            self.objects += [function.args, function.keywords]
            function = function.func
        function = getattr(function, "__func__", getattr(function, "fget", function))
        if _is_open(function):  # an object that is called
            self.objects.append(function)
            function = vars(type(function)).get("__call__")
        if not isinstance(function, types.FunctionType) or function in self._seen or _is_foreign(function.__module__):
            return
        self._seen.add(function)
        self.objects += [function.__defaults__, function.__kwdefaults__]
        for cell in function.__closure__ or ():
            self.cells.append(cell)
            self._read(_content(cell))
        self._read(getattr(function, "__wrapped__", None))
        names = set(_names(function.__code__))
        for name in names & function.__globals__.keys():
            self._name(function.__globals__, name, id(function.__globals__))
            value = function.__globals__[name]
            if isinstance(value, (types.ModuleType, type)) and not _is_foreign(_module_of(value)):
                for inner in names & vars(value).keys():  # a file of settings, or a class of them
                    self._name(vars(value), inner, id(value))

    def _name(self, scope, name, key):
        self.names[key, name] = scope, name
        self._read(scope[name])

    def values(self) -> list[Any]:
        """What the names and cells hold now."""
        named = (scope.get(name) for scope, name in self.names.values())
        return [*named, *map(_content, self.cells), *self.objects]

    def tensors(self) -> list[torch.Tensor]:
        """Tensors among them, and in their containers and attributes."""
        return [t for value in self.values() for t in tensors_in(value)]


def kinds_of(modules: Iterable[nn.Module]) -> frozenset[type]:
    """The classes of modules."""
    return frozenset(map(type, modules))


def tensors_in(value: Any, deep: int = _DEEP) -> Iterator[torch.Tensor]:
    """Tensors that :func:`described` tells apart by identity."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple, set)):
        if len(value) <= _MOST:
            for each in value.values() if isinstance(value, dict) else value:
                yield from tensors_in(each, deep)
    elif deep and _is_open(value):
        yield from tensors_in(vars(value), deep - 1)


def _names(code):
    """Names that a piece of code, and what is defined inside it, looks up."""
    yield from code.co_names
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from _names(const)


def _content(cell):
    try:
        return cell.cell_contents
    except ValueError:  # empty yet
        return None


def _module_of(value):
    return value.__name__ if isinstance(value, types.ModuleType) else value.__module__


@functools.cache
def _is_foreign(module: str | None) -> bool:
    """Whether a module is Python's, a library's or ours."""
    if not module or module.partition(".")[0] == __name__.partition(".")[0]:
        return True
    if module == "__main__":
        return False
    file = getattr(sys.modules.get(module), "__file__", None)
    return module in sys.builtin_module_names or (file is not None and file.startswith(_LIBRARIES))
