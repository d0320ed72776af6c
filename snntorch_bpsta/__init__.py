"""snnTorch's own neurons with gradients that cross spikes, and a multi-step engine.

``import snntorch_bpsta as snn`` has everything that ``import snntorch as snn`` has, and more.
"""

import importlib
from typing import TYPE_CHECKING, Any

from . import (  # _snntorch first: it answers where snntorch is missing, too old or too new
    _snntorch,
    functional,
    surrogate,
)
from ._version import __version__ as __version__
from .conversion import Conversion, convert, detach, patched, reset, revert
from .decays import bound_decays
from .doctor import Checkup, LayerCheck, check, wake
from .folding import FoldReport, FoldTime, fold_time
from .functional.skipping import skip_zeros
from .layers import ConvBlock, DirectEncoding, MultiStep, NeuronDropout, Voting
from .memory import compress_spikes, keep_memory
from .neurons import AdaptiveLeaky, AdaptiveRLeaky, Alpha, Lapicque, Leaky, RLeaky, RSynaptic, Synaptic
from .telling import which

if TYPE_CHECKING:
    from . import data as data
    from . import energy as energy
    from . import flow as flow
    from . import networks as networks
    from . import nir as nir
    from . import plots as plots
    from . import training as training

__all__ = ["AdaptiveLeaky", "AdaptiveRLeaky", "Alpha", "Lapicque", "Leaky", "RLeaky", "RSynaptic", "Synaptic"]
__all__ += ["ConvBlock", "DirectEncoding", "MultiStep", "NeuronDropout", "Voting"]
__all__ += ["FoldReport", "FoldTime", "fold_time"]
__all__ += ["Checkup", "Conversion", "LayerCheck", "bound_decays", "check", "convert", "detach", "patched", "reset"]
__all__ += ["compress_spikes", "functional", "keep_memory", "revert", "skip_zeros", "surrogate", "wake", "which"]
__all__ += [name for name in _snntorch.public_names(_snntorch.snntorch) if name not in __all__]

_ON_FIRST_USE = ("data", "energy", "flow", "networks", "nir", "plots", "training")

_snntorch.install_finder()
_from_host, __dir__ = _snntorch.fall_back_to(_snntorch.snntorch, __name__, _ON_FIRST_USE)


def __getattr__(name: str) -> Any:
    if name in _ON_FIRST_USE:
        return importlib.import_module(f"{__name__}.{name}")
    return _from_host(name)
