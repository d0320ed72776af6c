"""The networks of the questions: the same layers around snnTorch's, SpikingJelly's and our neurons, and around none."""

import importlib.util

import snntorch
import torch
from torch import nn

from snntorch_bpsta import Leaky, MultiStep, Voting
from snntorch_bpsta.networks import NETWORKS as TABLE_1
from snntorch_bpsta.networks import middle

from .peers import PAPER, PLAIN, Unavailable, spikingjelly_node

LOOP, FOLDED, OURS, BOUND = "snntorch loop", "snntorch neurons, folded layers", "bpsta MultiStep", "without neurons"
LAST = ", channels last"  # ends the name of a network that has its weights and gets its frames that way


class Loop(nn.Module):
    """The loop over time that a user of snnTorch writes: every layer at every step."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x):
        mems, out = {}, []
        for x_t in x.unbind(0):
            for i, layer in enumerate(self.layers):
                if isinstance(layer, snntorch.Leaky):
                    if i not in mems:
                        mems[i] = torch.zeros_like(x_t)
                    x_t, mems[i] = layer(x_t, mems[i])
                else:
                    x_t = layer(x_t)
            out.append(x_t)
        return torch.stack(out)


def host():
    return snntorch.Leaky(**PLAIN)


def ours():
    return Leaky(**PAPER)


def _layers(neuron, lib=nn):
    """2-32C3-MP2-32C3-MP2-64C3-AP2-100FC on 34 x 34, a neuron behind each layer with weights."""
    return [
        lib.Conv2d(2, 32, 3, padding=1), neuron(), lib.MaxPool2d(2),
        lib.Conv2d(32, 32, 3, padding=1), neuron(), lib.MaxPool2d(2),
        lib.Conv2d(32, 64, 3, padding=1), neuron(), lib.AvgPool2d(2),
        lib.Flatten(), lib.Linear(1024, 100), neuron(),
    ]  # fmt: skip


def _spikingjelly():
    if importlib.util.find_spec("spikingjelly") is None:
        raise Unavailable("not installed")
    from spikingjelly._ops.lif import _selection
    from spikingjelly.activation_based import functional, layer

    _selection._requested, _selection._selections = "auto", {}

    class Net(nn.Sequential):
        def forward(self, x):
            functional.reset_net(self)
            return super().forward(x)

    net = Net(*_layers(spikingjelly_node, layer))
    functional.set_step_mode(net, "m")
    return net


NETWORKS = {
    FOLDED: lambda: MultiStep(*_layers(host)),
    LOOP: lambda: Loop(*_layers(host)),
    OURS: lambda: MultiStep(*_layers(ours)),
    "spikingjelly, its best": _spikingjelly,
    BOUND: lambda: MultiStep(*_layers(nn.Identity)),
}
_GAIN = 1.5  # on PyTorch's initial weights: 15 to 23 % of the neurons of each layer fire at a step


def build(name, settings):
    """One of :data:`NETWORKS`, with :data:`LAST` behind its name in channels last; they all have the same weights."""
    torch.manual_seed(settings.seed)
    net = NETWORKS[name.removesuffix(LAST)]().to(settings.device)
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(_GAIN)
    return net.to(memory_format=torch.channels_last) if name.endswith(LAST) else net


def channels_last(x):
    """`x`, ``[T, B, C, H, W]``, with the images of all steps in channels last."""
    return x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, x.shape[:2])


def host_middle(width):
    """Table 1's `middle` of the same notation and weights, as a loop over snnTorch's neurons."""
    layers, channels, features = [], 3, None
    for token in TABLE_1["paper"]["middle"].split("-"):
        number = int("".join(filter(str.isdigit, token.removesuffix("C3"))))
        if token.endswith("C3"):
            out = round(number * width)
            layers += [nn.Conv2d(channels, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(), host()]
            channels = out
        elif token.startswith(("MP", "AP")):
            layers.append((nn.MaxPool2d if token[0] == "M" else nn.AvgPool2d)(number))
        elif token.endswith("FC"):
            features = round(number * width)
            layers += [nn.Flatten(), nn.Linear(channels, features), nn.ReLU(), host()]
        else:  # 10Voting
            layers += [nn.Linear(features, 10 * number), host(), Voting(number)]
    return Loop(*layers)


MIDDLE = ("snntorch loop", "bpsta", "bpsta, compress_spikes", "bpsta, save bfloat16, compress_spikes")


def middle_network(variant, width, num_steps):
    net = middle(width=width, num_steps=num_steps, save="bfloat16" if "bfloat16" in variant else None)
    if variant != MIDDLE[0]:
        return net
    loop = host_middle(width)
    if [p.shape for p in loop.parameters()] != [p.shape for p in net.parameters()]:
        raise ValueError("the loop over snnTorch's neurons is not the network of networks.middle")
    return loop
