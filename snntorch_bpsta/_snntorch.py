"""The host, snnTorch, seen through this package: every name and submodule we do not define ourselves is the host's."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import re
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from torch import nn

OURS = __package__
HOST = "snntorch"
OLDEST, BEYOND = (0, 9, 4), (2,)  # the range of setup.cfg
# The private names of the host's neurons that we need stand here and nowhere else (tests/test_architecture.py): the
# equations of a step by its reset, and what a step asks its neuron for besides.
EQUATIONS = {"subtract": "_base_sub", "zero": "_base_zero", "none": "_base_int"}
_STEP = ("fire", "fire_inhibition", "mem_reset", "spike_grad", "state_function")


def supported(version: str) -> bool:
    """Whether `version` of the host is in the range. One that does not begin with a number is let through."""
    release = tuple(int(part) for part in re.findall(r"\d+", re.findall(r"\A[\d.]*", version)[0]))
    return not release or OLDEST <= release < BEYOND


def import_host() -> ModuleType:
    """The module snntorch; an ImportError that says what is needed where it is missing, too old or too new."""
    wanted = f"snntorch>={'.'.join(map(str, OLDEST))},<{'.'.join(map(str, BEYOND))}"
    try:
        found = importlib.import_module(HOST)
    except ModuleNotFoundError as error:
        if error.name != HOST:
            raise
        raise ImportError(f"{OURS} needs {wanted}, which is not installed: pip install '{wanted}'") from None
    version = str(getattr(found, "__version__", ""))
    if not supported(version):
        raise ImportError(f"{OURS} needs {wanted}, but snntorch {version} is installed: pip install '{wanted}'")
    return found


snntorch = import_host()


class _HostFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Make ``import snntorch_bpsta.X`` give the module ``snntorch.X`` where this package has no X of its own.

    Appended to ``sys.meta_path``, so it is asked only after the ordinary finders have found nothing. The host's
    module object itself is handed out, unchanged; nothing of the host is patched or run twice.
    """

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if not fullname.startswith(OURS + "."):
            return None
        host_name = HOST + fullname[len(OURS) :]
        try:
            found = importlib.util.find_spec(host_name) is not None
        except ModuleNotFoundError:
            found = False
        return importlib.machinery.ModuleSpec(fullname, self) if found else None

    def exec_module(self, module: ModuleType) -> None:
        # The import system takes what lies in sys.modules after this call, so the host's module takes the place.
        sys.modules[module.__name__] = importlib.import_module(HOST + module.__name__[len(OURS) :])


def install_finder() -> None:
    """Put the finder at the end of ``sys.meta_path`` once."""
    if not any(type(finder).__qualname__ == _HostFinder.__qualname__ for finder in sys.meta_path):
        sys.meta_path.append(_HostFinder())


def public_names(host: ModuleType) -> list[str]:
    """Public names that ``from host import *`` would bring."""
    return list(getattr(host, "__all__", None) or (name for name in vars(host) if not name.startswith("_")))


def fall_back_to(
    host: ModuleType, ours: str, on_first_use: tuple[str, ...] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``(__getattr__, __dir__)`` for our module named `ours`: a name it lacks is looked up in the module `host`,
    then among the host's submodules (which may need an extra library and are imported only now). `on_first_use` names those
    of ours that it imports so itself."""

    def __getattr__(name):
        if not name.startswith("_"):
            if hasattr(host, name):
                return getattr(host, name)
            if hasattr(host, "__path__") and importlib.util.find_spec(f"{host.__name__}.{name}") is not None:
                return importlib.import_module(f"{host.__name__}.{name}")
        raise AttributeError(f"module {ours!r} has no attribute {name!r}")

    def __dir__():
        """What is public, ours and the host's, and the module's own __names__; not what a module has imported for itself."""
        mine = vars(sys.modules[ours])
        dunders = (name for name in mine if name.startswith("__"))
        return sorted({*mine["__all__"], *on_first_use, *public_names(host), *dunders})

    return __getattr__, __dir__


def step_names(neuron: type) -> frozenset[str]:
    """Attributes of a class of the host that make up a step: an override of one changes the step."""
    return frozenset({*_STEP, *(name for name in dir(neuron) if name.startswith("_base_"))})


def set_reset(neuron: Any, reset_mechanism: str) -> None:
    """Set the reset of a neuron as the host's constructor does, which leaves the buffer `reset_mechanism_val` as it is."""
    neuron._reset_mechanism = reset_mechanism


class LearnsAlpha:
    """Goes before ``snntorch.Alpha``, whose constructor assigns a clamped tensor to the parameter alpha, and fails.
    Its steps clamp alpha once more."""

    def _alpha_register_buffer(self, alpha, learn_alpha):
        super()._alpha_register_buffer(alpha, False)
        if learn_alpha:
            self.alpha = nn.Parameter(self._buffers.pop("alpha"))
