"""More networks with a loop over time: what users do to it besides. Rows of `_loops.NETWORKS` too."""

import math

import snntorch
import torch
from _loops import NETWORKS, B, Dense, DenseSpikes, T, forward_pass, leaky, network, tutorial_net
from snntorch import spikegen, surrogate, utils
from torch import nn
from torch.nn import functional as F

NETWORKS["function"] = NETWORKS["conv-hidden"]._replace(build=lambda: _with_function(tutorial_net()))


def _with_function(net):
    return (lambda data: forward_pass(net, T, data)), net


@network("steps", T, B, 2, 10, 10, steps=True)
def steps():
    return tutorial_net(2)


@network("gan", B, 4)
def gan():
    """Two nets and the function that joins them."""
    generator = nn.Sequential(
        nn.Linear(4, 9), snntorch.Leaky(beta=0.9, threshold=0.2, init_hidden=True), nn.Linear(9, 8)
    )
    critic = nn.Sequential(nn.Linear(8, 6), snntorch.Leaky(beta=0.9, threshold=0.1, init_hidden=True), nn.Linear(6, 1))

    def play(noise):
        utils.reset(generator)
        utils.reset(critic)
        return torch.stack([critic(torch.tanh(generator(noise))) for _ in range(T)]).mean(0)

    return play, generator, critic


class Round(torch.autograd.Function):
    """Straight through."""

    @staticmethod
    def forward(ctx, x, bits):
        return torch.round(x * 2**bits) / 2**bits

    @staticmethod
    def backward(ctx, grad):
        return grad, None


class Quantised(nn.Linear):
    def forward(self, x):
        return F.linear(x, Round.apply(self.weight, 3), self.bias)


@network("quantised", T, B, 12)
class QuantisedNet(DenseSpikes):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = Quantised(12, 20), Quantised(20, 5)


@network("quantised-activations", T, B, 12, whole=False)
class QuantisedActivations(DenseSpikes):
    def forward(self, x):
        mem1, out = self.lif1.init_leaky(), []
        for step in range(x.size(0)):
            spk1, mem1 = self.lif1(Round.apply(self.fc1(x[step]), 4), mem1)
            out.append(self.fc2(spk1))
        return torch.stack(out)


@network("state-quant", B, 12, whole=False)
def state_quant():
    from snntorch.functional import quant

    return Dense(lambda: leaky(state_quant=quant.state_quant(num_bits=6, uniform=True, threshold=1.0)))


@network("across-layers", T, B, 12, whole=False)
class AcrossLayers(Dense):
    """The output of the last step comes back to the first layer."""

    def __init__(self):
        super().__init__()
        self.back = nn.Linear(5, 20)

    def forward(self, x):
        mem1, mem2, out = self.lif1.init_leaky(), self.lif2.init_leaky(), []
        spk2 = torch.zeros(x.shape[1], 5)
        for step in range(len(x)):
            spk1, mem1 = self.lif1(self.fc1(x[step]) + self.back(spk2), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            out.append(spk2)
        return torch.stack(out)


@network("two-loops", T, B, 12)
class TwoLoops(Dense):
    """All of the first layer, then all of the second."""

    def forward(self, x):
        mem1, hidden = self.lif1.init_leaky(), []
        for step in range(len(x)):
            spk1, mem1 = self.lif1(self.fc1(x[step]), mem1)
            hidden.append(spk1)
        hidden = torch.stack(hidden)
        mem2, out = self.lif2.init_leaky(), []
        for step in range(len(x)):
            spk2, mem2 = self.lif2(self.fc2(hidden[step]), mem2)
            out.append(mem2)
        return torch.stack(out), hidden.mean()


@network("dropout", T, B, 12, whole=True)
class Dropout(DenseSpikes):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.3)

    def forward(self, x):
        mem1, mem2, out = self.lif1.init_leaky(), self.lif2.init_leaky(), []
        for step in range(x.size(0)):
            spk1, mem1 = self.lif1(self.drop(self.fc1(x[step])), mem1)
            spk2, mem2 = self.lif2(F.dropout(self.fc2(spk1), 0.2, self.training), mem2)
            out.append(spk2)
        return torch.stack(out)


NETWORKS["dropout-eval"] = NETWORKS["dropout"]._replace(train=False)


@network("batch-norm", T, B, 12, whole=False)
class BatchNorm(DenseSpikes):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(20)

    def forward(self, x):
        mem1, mem2, out = self.lif1.init_leaky(), self.lif2.init_leaky(), []
        for step in range(x.size(0)):
            spk1, mem1 = self.lif1(self.norm(self.fc1(x[step])), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            out.append(mem2)
        return torch.stack(out)


NETWORKS["batch-norm-eval"] = NETWORKS["batch-norm"]._replace(train=False, whole=True)


@network("batch-norm-through-time", T, B, 12, whole=False)
class ThroughTime(DenseSpikes):
    """One batch norm for each step."""

    def __init__(self):
        super().__init__()
        self.norms = snntorch.BatchNormTT1d(20, T) if hasattr(snntorch, "BatchNormTT1d") else _norms(20)

    def forward(self, x):
        mem1, out = self.lif1.init_leaky(), []
        for step in range(x.size(0)):
            spk1, mem1 = self.lif1(self.norms[step](self.fc1(x[step])), mem1)
            out.append(self.fc2(spk1))
        return torch.stack(out)


def _norms(width):
    return nn.ModuleList(nn.BatchNorm1d(width) for _ in range(T))


@network("rate-inside", B, 12)
class RateInside(Dense):
    """Encoded anew at each step, at random."""

    def forward(self, x):
        mem1, mem2, out = self.lif1.init_leaky(), self.lif2.init_leaky(), []
        for _ in range(T):
            spk1, mem1 = self.lif1(self.fc1(spikegen.rate(x.clamp(0, 1), num_steps=1)[0]), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            out.append(spk2)
        return torch.stack(out)


@network("noise", B, 12)
class Noise(Dense):
    def forward(self, x):
        mem1, out = self.lif1.init_leaky(), []
        for _ in range(T):
            spk1, mem1 = self.lif1(self.fc1(x) + 0.1 * torch.randn(x.shape[0], 20), mem1)
            out.append(self.fc2(spk1))
        return torch.stack(out)


@network("records-in-place", T, B, 12)
class InPlaceRecords(Dense):
    """Rows written into a tensor, and a sum in place."""

    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        spikes, membranes = torch.zeros(len(x), x.shape[1], 5), torch.zeros(x.shape[1], len(x), 5)
        total = torch.zeros(x.shape[1], 20)
        for t in range(len(x)):
            spk1, mem1 = self.lif1(self.fc1(x[t]), mem1)
            total.add_(spk1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            spikes[t] = spk2
            membranes[:, t] = mem2
        return spikes, membranes, total


class OwnNeuron(nn.Module):
    """A neuron in a user's own words."""

    def __init__(self, decay):
        super().__init__()
        self.decay = nn.Parameter(torch.tensor(decay))
        self.surrogate = surrogate.atan(alpha=2.0)

    def forward(self, x, v):
        v = torch.sigmoid(self.decay) * v + x
        s = self.surrogate(v - 0.5)
        return s, v * (1 - s.detach())


@network("own-neuron", T, B, 12, whole=False)
class OwnNeurons(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.own, self.fc2, self.lif = nn.Linear(12, 9), OwnNeuron(1.0), nn.Linear(9, 4), leaky()

    def forward(self, x):
        v, mem, out = torch.zeros(x.shape[1], 9), self.lif.init_leaky(), []
        for x_t in x.unbind(0):
            s, v = self.own(self.fc1(x_t), v)
            spk, mem = self.lif(self.fc2(s), mem)
            out.append(spk)
        return torch.stack(out), v


@network("states-in-attributes", T, B, 12)
class InAttributes(Dense):
    """States kept in the net from step to step, and from call to call."""

    def __init__(self):
        super().__init__()
        self.mem1, self.mem2 = torch.zeros(B, 20), torch.zeros(B, 5)

    def forward(self, x):
        out = []
        for step in range(len(x)):
            spk1, self.mem1 = self.lif1(self.fc1(x[step]), self.mem1)
            spk2, self.mem2 = self.lif2(self.fc2(spk1), self.mem2)
            out.append(spk2)
        self.mem1, self.mem2 = self.mem1.detach(), self.mem2.detach()
        return torch.stack(out)


@network("detach-inside", T, B, 12, whole=False)
class DetachInside(Dense):
    """Truncated in the loop, every second step."""

    def forward(self, x):
        mem1, mem2, out = self.lif1.init_leaky(), self.lif2.init_leaky(), []
        for step in range(len(x)):
            spk1, mem1 = self.lif1(self.fc1(x[step]), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            if step % 2:
                mem1, mem2 = mem1.detach(), mem2.detach()
            out.append(mem2)
        return torch.stack(out)


@network("attention", T, B, 7, 8)
class Attention(nn.Module):
    """Attention between tokens, at each step."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))
        self.lif, self.norm, self.head = leaky(threshold=0.1), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x):
        mem, out = self.lif.init_leaky(), []
        for tokens in x:
            q, k, v = self.q(tokens), self.k(tokens), self.v(tokens)
            weights = (q @ k.transpose(-2, -1) / math.sqrt(8)).softmax(-1)
            spk, mem = self.lif(self.norm(weights @ v), mem)
            out.append(self.head(spk.mean(1)))
        return torch.stack(out).mean(0)


@network("attention-module", T, B, 5, 8, whole=True, train=False)
class AttentionModule(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.lif = nn.MultiheadAttention(8, 2, batch_first=True), leaky(threshold=0.05)

    def forward(self, x):
        mem, out = self.lif.init_leaky(), []
        for t in range(len(x)):
            y, _ = self.attention(x[t], x[t], x[t])
            spk, mem = self.lif(y, mem)
            out.append(spk)
        return torch.stack(out)


@network("slstm", T, B, 4, whole=False)
class Lstm(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.fc, self.lif = snntorch.SLSTM(4, 6, threshold=0.05), nn.Linear(6, 3), leaky()

    def forward(self, x):
        syn, mem = self.lstm.init_slstm()
        mem2, out = self.lif.init_leaky(), []
        for step in range(len(x)):
            spk, syn, mem = self.lstm(x[step], syn, mem)
            spk2, mem2 = self.lif(self.fc(spk), mem2)
            out.append(mem2)
        return torch.stack(out)


@network("one-neuron-twice", T, B, 8)
class Twice(nn.Module):
    """One neuron module for two layers, with a membrane each."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.lif = nn.Linear(8, 8), nn.Linear(8, 8), leaky(learn_beta=True)

    def forward(self, x):
        mem1, mem2 = torch.zeros(x.shape[1], 8), torch.zeros(x.shape[1], 8)
        out = []
        for t in range(len(x)):
            spk1, mem1 = self.lif(self.fc1(x[t]), mem1)
            spk2, mem2 = self.lif(self.fc2(spk1), mem2)
            out.append(spk2)
        return torch.stack(out)


@network("reservoir", T, B, 4)
class Reservoir(nn.Module):
    """A liquid that does not learn, and a readout that does."""

    def __init__(self):
        super().__init__()
        self.win = nn.Linear(4, 10, bias=False)
        self.liquid = snntorch.RLeaky(beta=0.8, threshold=0.3, linear_features=10, learn_recurrent=False)
        self.readout = nn.Linear(10, 3)

    def forward(self, x):
        spk, mem = self.liquid.init_rleaky()
        rates = []
        with torch.no_grad():
            for t in range(len(x)):
                spk, mem = self.liquid(self.win(x[t]), spk, mem)
                rates.append(spk)
        return self.readout(torch.stack(rates).mean(0))


@network("delays", T, B, 12)
class Delays(Dense):
    """The input of the step before, too."""

    def forward(self, x):
        mem1, out = self.lif1.init_leaky(), []
        last = torch.zeros_like(x[0])
        for t in range(len(x)):
            spk1, mem1 = self.lif1(self.fc1(x[t] + 0.5 * last), mem1)
            last = x[t]
            out.append(spk1)
        return torch.stack(out)


@network("delayed-spikes", T, B, 12, whole=False)
class DelayedSpikes(Dense):
    """The second layer hears the first one step late."""

    def forward(self, x):
        mem1, mem2, out = self.lif1.init_leaky(), self.lif2.init_leaky(), []
        waiting = torch.zeros(x.shape[1], 20)
        for t in range(len(x)):
            spk2, mem2 = self.lif2(self.fc2(waiting), mem2)
            waiting, mem1 = self.lif1(self.fc1(x[t]), mem1)
            out.append(spk2)
        return torch.stack(out)


@network("weight-norm", T, B, 12)
class WeightNorm(DenseSpikes):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.utils.parametrizations.weight_norm(self.fc1)


@network("arguments", inputs=lambda: (torch.rand(B, 12), T, "mem"))
class Arguments(Dense):
    def forward(self, x, num_steps, what="spk"):
        mem1, mem2, rec = self.lif1.init_leaky(), self.lif2.init_leaky(), []
        for _ in range(num_steps):
            spk1, mem1 = self.lif1(self.fc1(x), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            rec.append({"spk": spk2, "mem": mem2}[what])
        return rec


@network("windows", inputs=lambda: (torch.rand(T, B, 12), torch.rand(B, 20)))
class Windows(Dense):
    """States in and out."""

    def forward(self, x, mem1):
        out = []
        for t in range(len(x)):
            spk1, mem1 = self.lif1(self.fc1(x[t]), mem1)
            out.append(spk1)
        return torch.stack(out), mem1


@network("gate", T, B, 3, 5, 5)
class Gate(nn.Module):
    """A channel's weight from its own mean, at each step."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc, self.lif = nn.Conv2d(3, 4, 3), nn.Linear(4, 4), leaky(threshold=0.2)

    def forward(self, x):
        mem, out = self.lif.init_leaky(), []
        for t in range(x.shape[0]):
            y = self.conv(x[t])
            weight = torch.sigmoid(self.fc(y.mean((2, 3))))[:, :, None, None]
            spk, mem = self.lif(torch.relu(y) * weight, mem)
            out.append(spk.amax((2, 3)))
        return torch.stack(out)


@network("reversed", T, B, 12)
class Reversed(DenseSpikes):
    """Backwards in time, and every second frame."""

    def forward(self, x):
        mem1, out = self.lif1.init_leaky(), []
        for t in reversed(range(0, len(x), 2)):
            spk1, mem1 = self.lif1(self.fc1(x[t]), mem1)
            out.append(spk1)
        return torch.stack(out), mem1
