"""snnTorch's neurons with gradients that cross spikes."""

import snntorch

from .._snntorch import fall_back_to
from .core import WARM_UPS, Adjusted
from .family import FAMILY, Alpha, Lapicque, Leaky, RLeaky, RSynaptic, Synaptic

__all__ = ["FAMILY", "WARM_UPS", "Adjusted", "Alpha", "Lapicque", "Leaky", "RLeaky", "RSynaptic", "Synaptic"]
__getattr__, __dir__ = fall_back_to(snntorch.neurons, __name__)
