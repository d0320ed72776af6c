"""Neurons by kind and option, alone and in a net of two layers, and what they do over time."""

import functools
import inspect

import snntorch
import torch
from _family import FAMILY, KINDS, OPTIONS, RECURRENT, N, build
from snntorch import surrogate as host_surrogate
from torch import nn

MAPS = (2, 4, 5, 6)  # batch, channels, height, width: no two alike


def make_neuron(lib, kind, option="off", maps=False, **values):
    """A neuron of `lib`; for feature maps with `maps`."""
    if maps and kind in RECURRENT:
        values |= {"linear_features": None, "conv2d_channels": MAPS[1], "kernel_size": 3}
    return build(lib, kind, **values, **OPTIONS[option])


def make_net(lib, kind, option="off", **values):
    torch.manual_seed(0)
    first = nn.Linear(N, N)
    return nn.Sequential(first, make_neuron(lib, kind, option, init_hidden=True, **values), nn.Linear(N, 2))


def states_of(neuron):
    kind = next(kind for kind in KINDS if isinstance(neuron, getattr(snntorch, kind)))
    return {name: getattr(neuron, name) for name in FAMILY[kind].states}


def step_loop(neuron, cur):
    """Outputs of a neuron with states of its own or the user's, each step's stacked."""
    count = len(states_of(neuron))
    states = () if neuron.init_hidden else tuple(torch.zeros_like(cur[0]) for _ in range(count))
    rows = []
    for c in cur:
        out = neuron(c, *states)
        out = out if isinstance(out, tuple) else (out,)
        if not neuron.init_hidden:
            states = out[-count:]
        rows.append(torch.stack(out))
    return torch.stack(rows)


# --- snnTorch's surrogates, with their defaults and with other arguments ---


def own_gradient(input_, grad_input, spikes):
    return grad_input / (1 + input_.abs()) ** 2


FACTORIES = {
    name: factory
    for name, factory in vars(host_surrogate).items()
    if inspect.isfunction(factory) and factory.__module__ == host_surrogate.__name__
}
ARGUMENTS = {
    "triangular": (0.5,),
    "fast_sigmoid": (10,),
    "atan": (3.0,),
    "sigmoid": (5,),
    "spike_rate_escape": (2, 10),
    "SSO": (0.1, 0.3),
    "LSO": (0.2,),
    "SFS": (10, -0.5),
    "custom_surrogate": (own_gradient,),
}
SURROGATES = {f"{name}()": factory for name, factory in FACTORIES.items() if name != "custom_surrogate"} | {
    f"{name}{ARGUMENTS[name]}": functools.partial(FACTORIES[name], *ARGUMENTS[name])
    for name in ARGUMENTS
    if name in FACTORIES
}
SURROGATES = {key.replace(str(own_gradient), "own_gradient"): make for key, make in SURROGATES.items()}
CALLABLE = [key for key in SURROGATES if not key.startswith("LSO")]  # the host's own raises when it is called
