"""What of the package is public: the modules without a leading underscore, and of each what its `__all__` says. The API page
and the fuzz test are held against this."""

import importlib
import pkgutil
from types import ModuleType

import snntorch_bpsta as snn

# For the command line, names only; and the rooms of the engine and of the neurons, which their packages hand out.
INTERNAL = ("bench", "functional.", "neurons.", "layers.", "folding.")


def public_modules():
    """Their names below the package, "" for itself."""
    names = [info.name for info in pkgutil.walk_packages(snn.__path__, f"{snn.__name__}.")]
    names = [name.partition(".")[2] for name in names]
    return ["", *(name for name in names if not name.startswith(INTERNAL) and "._" not in f".{name}")]


def imported(name):
    """The module, or None where a library is missing."""
    try:
        return importlib.import_module(f"{snn.__name__}.{name}".rstrip("."))
    except ImportError:
        return None


def ours(module):
    """(name, value) of what `module.__all__` has of this package: not what is snnTorch's, and no modules."""
    for name in module.__all__:
        value = getattr(module, name)
        home = getattr(value, "__module__", None)
        if not isinstance(value, ModuleType) and (home is None or home.startswith(snn.__name__)):
            yield name, value
