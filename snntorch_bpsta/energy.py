"""Firing rates, and the paper's analytic energy model (Eq. 11). A model, not a measurement of silicon."""

from contextlib import contextmanager

import snntorch

from ._validation import check_module, check_number

# Energy of one operation in 45 nm CMOS at 0.9 V, in picojoule. M. Horowitz, "Computing's energy problem (and what we can
# do about it)", ISSCC 2014: fp32 multiply 3.7 + fp32 add 0.9; int32 add 0.1.
E_MAC_PJ = 4.6
E_AC_PJ = 0.1  # int32 add: reproduces Table 6
E_AC_FP32_PJ = 0.9  # fp32 add: what most later papers use


def energy_ratio(firing_rate, num_steps, e_ac_pj=E_AC_PJ):
    r"""Eq. 11: how many times less energy the spiking network needs than the artificial one of the same structure.

    .. math::

        EE = \frac{E_{ANN}}{E_{SNN}} = \frac{E_{MAC}}{E_{AC} \cdot r \cdot T}

    Args:
        firing_rate: r, spikes per neuron and step, in (0, 1].
        num_steps: number of time steps T.
        e_ac_pj: energy of one accumulate, pJ.

    Returns:
        float: the ratio; infinite for a network that never fires.

    Raises:
        ValueError: `firing_rate` is negative or above 1, `num_steps` < 1, or `e_ac_pj` not > 0.
        TypeError: one of them is no number.
    """
    firing_rate = check_number("firing_rate", firing_rate, "in [0, 1]", lowest=0, highest=1)
    num_steps = check_number("num_steps", num_steps, ">= 1", lowest=1)
    energy = check_number("e_ac_pj", e_ac_pj, "a finite number > 0", above=0) * firing_rate * num_steps
    return E_MAC_PJ / energy if energy else float("inf")


class FiringRates(dict):
    """Spike counts by layer name, as ``(spikes, neuron-steps)``; :meth:`rates` and :meth:`mean` turn them into rates."""

    def rates(self):
        """Spikes per neuron and step of each layer, in the order of the network."""
        return {name: float(spikes) / max(count, 1) for name, (spikes, count) in self.items()}

    def mean(self):
        """Spikes per neuron and step over all neurons of the network."""
        spikes = sum(float(spikes) for spikes, _ in self.values())
        return spikes / max(sum(count for _, count in self.values()), 1)


@contextmanager
def record_firing_rates(net):
    """Count the spikes of every ``snntorch.SpikingNeuron`` in `net` while the context lasts (single steps or sequences).

    Yields:
        FiringRates: filled as the network runs.

    Example:
        >>> import torch, snntorch_bpsta as snn
        >>> net = snn.networks.small(width=1/16, num_steps=4)
        >>> with snn.energy.record_firing_rates(net) as firing:
        ...     _ = net(torch.rand(2, 1, 28, 28))
        >>> len(firing.rates())
        5
    """
    check_module("net", net)
    counts = FiringRates()

    def count(name):
        def hook(module, args, output):
            spk = (output[0] if isinstance(output, tuple) else output).detach()
            spikes, steps = counts.get(name, (0, 0))
            counts[name] = (spikes + (spk != 0).sum(), steps + spk.numel())

        return hook

    neurons = [(name, module) for name, module in net.named_modules() if isinstance(module, snntorch.SpikingNeuron)]
    handles = [neuron.register_forward_hook(count(name)) for name, neuron in neurons]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()
