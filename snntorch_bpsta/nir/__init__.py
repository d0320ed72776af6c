"""Whole networks to and from NIR, the Neuromorphic Intermediate Representation (`pip install nir`).

NIR's neurons are differential equations; a step of `dt` seconds makes of them, by Euler's method::

    LIF       v[t] = (1 - dt/tau) v[t-1] + r dt/tau x[t]                  `Leaky`:     beta = 1 - dt/tau
    CubaLIF   i[t] = (1 - dt/tau_syn) i[t-1] + w_in dt/tau_syn x[t]       `Synaptic`:  alpha = 1 - dt/tau_syn
              v[t] = (1 - dt/tau_mem) v[t-1] + r dt/tau_mem i[t]                       beta = 1 - dt/tau_mem
    IF        v[t] = v[t-1] + r dt x[t]                                   `Leaky`:     beta = 1

with a spike where v > v_threshold, and v = v_reset right after it. `export` writes r and w_in so that the factor of the
input is 1. `load` takes any positive factor: it divides threshold and membrane by it, which leaves the spikes as they are.
"""

from ._export import export
from ._load import load

__all__ = ["export", "load"]
