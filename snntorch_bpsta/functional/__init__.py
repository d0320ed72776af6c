"""Functions: :func:`lif_multistep`, :func:`last_step` and :func:`mean_over_steps` of sequences of different length, and
everything of :mod:`snntorch.functional`."""

from snntorch import functional as _host_functional

from .._snntorch import fall_back_to, public_names
from .lengths import last_step, mean_over_steps
from .multistep import LIFOutput, lif_multistep, which_impl
from .record import Impl

__all__ = ["Impl", "LIFOutput", "last_step", "lif_multistep", "mean_over_steps", "which_impl"]
__all__ += [name for name in public_names(_host_functional) if name not in __all__]
__getattr__, __dir__ = fall_back_to(_host_functional, __name__)
