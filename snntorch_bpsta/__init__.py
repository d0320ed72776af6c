"""snnTorch's own neurons with gradients that cross spikes, and a multi-step engine.

``import snntorch_bpsta as snn`` has everything that ``import snntorch as snn`` has, and more.
"""

import importlib

import snntorch as _snntorch

from . import functional, surrogate
from ._host import fall_back_to, install_finder, public_names
from ._version import __version__ as __version__
from .layers import ConvBlock, DirectEncoding, MultiStep, NeuronDropout, Voting
from .memory import compress_spikes
from .neurons import Leaky

__all__ = ["ConvBlock", "DirectEncoding", "Leaky", "MultiStep", "NeuronDropout", "Voting"]
__all__ += ["compress_spikes", "functional", "surrogate"]
__all__ += [name for name in public_names(_snntorch) if name not in __all__]

_ON_FIRST_USE = ("bench", "data", "energy", "networks", "plots", "training")

install_finder()
_from_host, __dir__ = fall_back_to(_snntorch, __name__)


def __getattr__(name):
    if name in _ON_FIRST_USE:
        return importlib.import_module(f"{__name__}.{name}")
    return _from_host(name)
