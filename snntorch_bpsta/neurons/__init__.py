"""snnTorch's neurons with gradients that cross spikes."""

import snntorch

from .._snntorch import fall_back_to
from .adaptive import AdaptiveLeaky, AdaptiveRLeaky
from .core import WARM_UPS as WARM_UPS
from .core import Adjusted as Adjusted
from .family import FAMILY as FAMILY
from .family import Alpha, Lapicque, Leaky, RLeaky, RSynaptic, Synaptic
from .notices import name_neurons as name_neurons
from .notices import one_pass as one_pass

__all__ = ["AdaptiveLeaky", "AdaptiveRLeaky", "Alpha", "Lapicque", "Leaky", "RLeaky", "RSynaptic", "Synaptic"]
__getattr__, __dir__ = fall_back_to(snntorch.neurons, __name__)
