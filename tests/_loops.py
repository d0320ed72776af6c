"""Networks with a loop over time, as users of snnTorch write them: the structures of its tutorials and of public
repositories, in words of our own and small. Each is a row of NETWORKS."""

from collections.abc import Callable
from typing import Any, NamedTuple

import snntorch
import torch
from snntorch import spikegen, surrogate, utils
from torch import nn
from torch.nn import functional as F

T, B = 6, 3


class Network(NamedTuple):
    build: Callable[[], Any]  # the net, or (function, net, ...)
    inputs: Callable[[], tuple[Any, ...]]
    whole: bool = True  # every layer and neuron is called once for all steps
    options: dict[str, Any] = {}  # of fold_time
    train: bool = True


NETWORKS: dict[str, Network] = {}


def network(name, *shape, whole=True, train=True, inputs=None, **options):
    """Take a class, or a function that builds, as a row; `shape` is that of its input."""

    def add(build):
        NETWORKS[name] = Network(build, inputs or (lambda: (torch.rand(shape) * 2,)), whole, options, train)
        return build

    return add


def leaky(**options):
    return snntorch.Leaky(**{"beta": 0.9, "threshold": 0.4} | options)


@network("one-neuron", T, 1)
class OneNeuron(nn.Module):
    """The first tutorials: a neuron and a current."""

    def __init__(self):
        super().__init__()
        self.lif = snntorch.Lapicque(R=5.0, C=1.0, time_step=0.2, threshold=0.5)

    def forward(self, current):
        mem, membranes, spikes = torch.zeros(1), [], []
        for step in range(current.shape[0]):
            spk, mem = self.lif(current[step], mem)
            membranes.append(mem)
            spikes.append(spk)
        return torch.stack(spikes), torch.stack(membranes)


@network("dense-static", B, 12)
class Dense(nn.Module):
    """Tutorial 5: an image at every step."""

    def __init__(self, make=leaky, steps=T):
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(12, 20), make()
        self.fc2, self.lif2 = nn.Linear(20, 5), make()
        self.steps = steps

    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        spk2_rec, mem2_rec = [], []
        for _ in range(self.steps):
            spk1, mem1 = self.lif1(self.fc1(x), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            spk2_rec.append(spk2)
            mem2_rec.append(mem2)
        return torch.stack(spk2_rec, dim=0), torch.stack(mem2_rec, dim=0)


network("dense-subtract-none", B, 12)(lambda: Dense(lambda: leaky(reset_mechanism="none", learn_threshold=True)))
network("dense-zero", B, 12)(lambda: Dense(lambda: leaky(reset_mechanism="zero", learn_beta=True)))
network("dense-no-delay", B, 12)(lambda: Dense(lambda: leaky(reset_delay=False)))
network("dense-graded", B, 12)(lambda: Dense(lambda: leaky(graded_spikes_factor=0.7, learn_graded_spikes_factor=True)))
network("dense-sigmoid", B, 12)(lambda: Dense(lambda: leaky(spike_grad=surrogate.fast_sigmoid(slope=25))))
network("dense-inhibition", B, 12, whole=False)(lambda: Dense(lambda: leaky(inhibition=True)))
network("dense-per-neuron", B, 12)(
    lambda: Dense(iter([leaky(beta=torch.rand(20), learn_beta=True), leaky(beta=torch.rand(5))]).__next__)
)


@network("dense-spikes", T, B, 12)
class DenseSpikes(Dense):
    """Tutorial 3: spikes in, from outside."""

    def forward(self, spk_in):
        mem1, mem2, out = self.lif1.init_leaky(), self.lif2.init_leaky(), []
        for step in range(spk_in.size(0)):
            spk1, mem1 = self.lif1(self.fc1(spk_in[step].flatten(1)), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            out.append(spk2)
        return torch.stack(out), mem2


class TwoStates(nn.Module):
    """Tutorial 4: neurons of second order."""

    def __init__(self, neuron, **options):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(12, 15), nn.Linear(15, 4)
        self.one, self.two = neuron(threshold=0.3, **options), neuron(threshold=0.3, **options)

    def forward(self, x):
        states1, states2, spikes, membranes = self.one.reset_mem(), self.two.reset_mem(), [], []
        for step in range(len(x)):
            spk1, *states1 = self.one(self.fc1(x[step]), *states1)
            spk2, *states2 = self.two(self.fc2(spk1), *states2)
            spikes.append(spk2)
            membranes.append(states2[-1])
        return torch.stack(spikes), torch.stack(membranes)


network("synaptic", T, B, 12)(lambda: TwoStates(snntorch.Synaptic, alpha=0.8, beta=0.7, learn_alpha=True))
network("alpha", T, B, 12)(lambda: TwoStates(snntorch.Alpha, alpha=0.9, beta=0.7))


def tutorial_net(channels=1, **options):
    grad = surrogate.fast_sigmoid(slope=25)
    hidden = {"beta": 0.5, "threshold": 0.3, "spike_grad": grad, "init_hidden": True} | options
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3), snntorch.Leaky(**hidden), nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3), snntorch.Leaky(**hidden), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(6, 5), snntorch.Leaky(**hidden, output=True),
    )  # fmt: skip


def forward_pass(net, num_steps, data):
    """Tutorial 6: the loop is outside of the net, which keeps its states."""
    mem_rec, spk_rec = [], []
    utils.reset(net)
    for _ in range(num_steps):
        spk_out, mem_out = net(data)
        spk_rec.append(spk_out)
        mem_rec.append(mem_out)
    return torch.stack(spk_rec), torch.stack(mem_rec)


class Outside(nn.Module):
    """A net and a function around it, to be called with data alone."""

    def __init__(self, net, function):
        super().__init__()
        self.net, self.function = net, function

    def forward(self, data):
        return self.function(self.net, T, data)


network("conv-hidden", B, 1, 10, 10)(lambda: Outside(tutorial_net(), forward_pass))


def forward_frames(net, _, data):
    """Tutorial 7: frames of events."""
    spk_rec = []
    utils.reset(net)
    for step in range(data.size(0)):
        spk_out, _ = net(data[step])
        spk_rec.append(spk_out)
    return torch.stack(spk_rec)


network("events", T, B, 2, 10, 10)(lambda: Outside(tutorial_net(2), forward_frames))


@network("regression", T, B, 1)
class Regression(nn.Module):
    """The membrane is the output; beta and threshold are learnt."""

    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(1, 16)
        self.lif1 = leaky(beta=torch.rand(16), learn_beta=True, learn_threshold=True)
        self.out = nn.Linear(16, 1)
        self.lif2 = leaky(beta=torch.rand(1), learn_beta=True, reset_mechanism="none")

    def forward(self, x):
        mem1, mem2, rec = self.lif1.init_leaky(), self.lif2.init_leaky(), []
        for step in range(x.size(0)):
            spk1, mem1 = self.lif1(self.hidden(x[step, :]), mem1)
            _, mem2 = self.lif2(self.out(spk1), mem2)
            rec.append(mem2)
        return torch.stack(rec)


class Recurrent(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.fc1 = nn.Linear(4, 8)
        self.rlif = snntorch.RLeaky(beta=0.8, threshold=0.3, **options)
        self.fc2 = nn.Linear(8, 2)
        self.lif = leaky(reset_mechanism="none")

    def forward(self, x):
        spk1, mem1 = self.rlif.init_rleaky()
        mem2, rec = self.lif.init_leaky(), []
        for x_t in x:
            spk1, mem1 = self.rlif(self.fc1(x_t), spk1, mem1)
            spk2, mem2 = self.lif(self.fc2(spk1), mem2)
            rec.append(mem2)
        return torch.stack(rec)


network("recurrent-all-to-all", T, B, 4)(lambda: Recurrent(linear_features=8))
network("recurrent-one-to-one", T, B, 4)(lambda: Recurrent(all_to_all=False, V=0.4))


@network("population", B, 12)
class Population(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(12, 16), leaky()
        self.fc2, self.lif2 = nn.Linear(16, 20), leaky()

    def forward(self, x, num_steps=T):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        counts = torch.zeros(x.size(0), 20)
        for _ in range(num_steps):
            spk1, mem1 = self.lif1(self.fc1(x), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            counts += spk2
        return counts.reshape(-1, 5, 4).sum(-1)


@network("actor", B, 4)
class Actor(nn.Module):
    """Reinforcement learning: the last membrane, two heads."""

    def __init__(self):
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(4, 16), leaky()
        self.policy, self.value = nn.Linear(16, 2), nn.Linear(16, 1)
        self.lif_p, self.lif_v = leaky(reset_mechanism="none"), leaky(reset_mechanism="none")

    def forward(self, x):
        mem, mem_p, mem_v = self.lif1.init_leaky(), self.lif_p.init_leaky(), self.lif_v.init_leaky()
        for _ in range(T):
            spk, mem = self.lif1(self.fc1(x), mem)
            _, mem_p = self.lif_p(self.policy(spk), mem_p)
            _, mem_v = self.lif_v(self.value(spk), mem_v)
        return F.softmax(mem_p, dim=-1), mem_v


@network("autoencoder", B, 1, 8, 8)
class Autoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        hidden = {"beta": 0.8, "threshold": 0.2, "init_hidden": True}
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), snntorch.Leaky(**hidden),
            nn.Flatten(), nn.Linear(64, 6), snntorch.Leaky(**hidden),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Linear(6, 64), snntorch.Leaky(**hidden), nn.Unflatten(1, (4, 4, 4)),
            nn.ConvTranspose2d(4, 1, 4, stride=2, padding=1), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, x):
        utils.reset(self.encoder)
        utils.reset(self.decoder)
        pictures = [self.decoder(self.encoder(x)) for _ in range(T)]
        return torch.stack(pictures, dim=1)


NETWORKS["autoencoder-eval"] = NETWORKS["autoencoder"]._replace(train=False)
NETWORKS["autoencoder"] = NETWORKS["autoencoder"]._replace(whole=False)
NETWORKS["autoencoder-joint-eval"] = NETWORKS["autoencoder"]._replace(
    train=False, whole=True, options={"fold": "joint"}
)


@network("segmentation", T, B, 1, 8, 8)
class Segmentation(nn.Module):
    """Down, up, and the features from before beside them."""

    def __init__(self):
        super().__init__()
        self.down, self.mid, self.up = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(8, 2, 1)
        self.lif1, self.lif2, self.lif3 = leaky(threshold=0.2), leaky(threshold=0.2), leaky(threshold=0.2)

    def forward(self, frames):
        mem1, mem2, mem3 = (lif.reset_mem() for lif in (self.lif1, self.lif2, self.lif3))
        maps = []
        for t in range(frames.shape[0]):
            spk1, mem1 = self.lif1(self.down(frames[t]), mem1)
            spk2, mem2 = self.lif2(self.mid(F.avg_pool2d(spk1, 2)), mem2)
            wide = F.interpolate(spk2, scale_factor=2, mode="nearest")
            spk3, mem3 = self.lif3(self.up(torch.cat([spk1, wide], dim=1)), mem3)
            maps.append(spk3)
        return torch.stack(maps).mean(0)


@network("time-series", B, T, 3)
class TimeSeries(nn.Module):
    """Batch first; a readout of the last step."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 10)
        self.lif = snntorch.Synaptic(alpha=0.7, beta=0.8, threshold=0.3)
        self.readout = nn.Linear(10, 1)

    def forward(self, x):
        syn, mem = self.lif.init_synaptic()
        for t in range(x.shape[1]):
            spk, syn, mem = self.lif(self.fc(x[:, t, :]), syn, mem)
        return self.readout(mem) + self.readout(spk)


@network("ecg", T, B, 1, 16)
class Ecg(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.pool = nn.Conv1d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.MaxPool1d(2)
        self.lif1, self.fc, self.lif2 = leaky(threshold=0.3), nn.Linear(32, 3), leaky(threshold=0.3)

    def forward(self, x):
        mem1, mem2, out = self.lif1.init_leaky(), self.lif2.init_leaky(), []
        for beat in x:
            spk1, mem1 = self.lif1(self.pool(self.norm(self.conv(beat))), mem1)
            spk2, mem2 = self.lif2(self.fc(spk1.view(spk1.size(0), -1)), mem2)
            out += [spk2]
        return torch.stack(out).sum(0)


@network("audio", B, 5, T)
class Audio(nn.Module):
    """Time is the last dimension of a spectrogram."""

    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(5, 8)
        self.rsyn = snntorch.RSynaptic(alpha=0.8, beta=0.7, linear_features=8, threshold=0.3)
        self.fc2, self.lif = nn.Linear(8, 4), leaky()

    def forward(self, spectrum):
        spk, syn, mem = self.rsyn.init_rsynaptic()
        mem2, rec = self.lif.init_leaky(), []
        frames = spectrum.permute(2, 0, 1)
        for t in range(frames.size(0)):
            spk, syn, mem = self.rsyn(self.fc1(frames[t]), spk, syn, mem)
            spk2, mem2 = self.lif(self.fc2(spk), mem2)
            rec.append(F.log_softmax(mem2, dim=-1))
        return torch.stack(rec).mean(dim=0)


@network("latency", B, 12)
class Latency(DenseSpikes):
    """Encoded before the loop."""

    def forward(self, x):
        return super().forward(
            spikegen.latency(x.clamp(0, 1), num_steps=T, tau=3, threshold=0.01, normalize=True, linear=True)
        )


@network("residual", T, B, 3, 6, 6)
class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.conv1, self.conv2 = (nn.Conv2d(3, 3, 3, padding=1, bias=False) for _ in range(3))
        self.neurons = nn.ModuleList(leaky(threshold=0.2) for _ in range(3))
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        mem = [neuron.init_leaky() for neuron in self.neurons]
        out = 0
        for t in range(x.size(0)):
            s0, mem[0] = self.neurons[0](self.stem(x[t]), mem[0])
            s1, mem[1] = self.neurons[1](self.conv1(s0), mem[1])
            s2, mem[2] = self.neurons[2](self.conv2(s1) + s0, mem[2])
            out = out + self.head(F.adaptive_avg_pool2d(s2, 1).flatten(1))
        return out / x.size(0)


@network("deep-list", T, B, 6)
class DeepList(nn.Module):
    """Layers in a list, states in a list."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(4))
        self.neurons = nn.ModuleList(leaky(threshold=0.1) for _ in range(4))

    def forward(self, x):
        states = [None] * len(self.layers)
        rec = {"spk": [], "mem": []}
        for neuron in self.neurons:
            neuron.reset_mem()
        for t in range(x.shape[0]):
            h = x[t]
            for i, (layer, neuron) in enumerate(zip(self.layers, self.neurons, strict=True)):
                h, states[i] = neuron(layer(h), states[i])
            rec["spk"].append(h)
            rec["mem"].append(states[-1])
        return {name: torch.stack(rows) for name, rows in rec.items()}
