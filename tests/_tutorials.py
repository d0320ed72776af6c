"""The flows of snnTorch's public tutorials, in our own words and on small data.

Every program takes a `Client`, which stands where ``import snntorch as snn`` stands in the tutorial, and returns what a user
of that package gets to see. So the very same code runs on snnTorch, and on ours with the options off and on.
"""

import dataclasses
import functools
import importlib
import importlib.util

import numpy as np
import pytest
import snntorch
import torch
from torch import nn

NEURONS = ("Leaky", "RLeaky", "Lapicque", "Synaptic", "RSynaptic", "Alpha")
FLAVOURS = {
    "host": ("snntorch", {}),
    "off": ("snntorch_bpsta", {}),
    "bpsa": ("snntorch_bpsta", {"spatial_adj": True}),
    "bpta": ("snntorch_bpsta", {"temporal_alpha": 0.8}),
    "both": ("snntorch_bpsta", {"spatial_adj": True, "temporal_alpha": 0.8}),
}
ON = ("bpsa", "bpta", "both")


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No neurons of other tests among those that the host's `utils.reset` and `detach_hidden` go through."""
    monkeypatch.setattr(snntorch.SpikingNeuron, "instances", [])


class Client:
    """A package seen as `snn`: everything is the package's own, but its neurons are built with the flavour's options."""

    def __init__(self, flavour):
        self.flavour = flavour
        self.package, self.options = FLAVOURS[flavour]

    def __getattr__(self, name):
        if name in NEURONS:
            return functools.partial(self._neuron, name)
        if importlib.util.find_spec(f"{self.package}.{name}") is not None:
            return importlib.import_module(f"{self.package}.{name}")
        return getattr(importlib.import_module(self.package), name)

    def _neuron(self, name, *args, **kwargs):
        options = dict(self.options)
        if options.get("spatial_adj"):
            kwargs.pop("spike_grad", None)  # the spatial adjustment is the surrogate
        if name == "Alpha" or kwargs.get("reset_mechanism") == "none":
            options.pop("temporal_alpha", None)  # refused: the residual has no meaning there
        return getattr(importlib.import_module(self.package), name)(*args, **kwargs, **options)


@dataclasses.dataclass
class Run:
    """A training as its user sees it."""

    spk: torch.Tensor  # of the first forward pass
    mem: torch.Tensor | None
    grads: dict  # of the first backward pass
    losses: list
    before: float  # the quality that the program measures, higher is better
    after: float
    state: dict  # at the end


def digits(num=100):
    """Images ``[num, 1, 8, 8]`` in [0, 1] and labels: handwritten digits, the classes in turn."""
    data = pytest.importorskip("sklearn.datasets", reason="scikit-learn (extra: data) is missing").load_digits()
    order = np.argsort(data.target, kind="stable").reshape(-1)
    by_class = [order[data.target[order] == label] for label in range(10)]
    chosen = [by_class[i % 10][i // 10] for i in range(num)]
    images = torch.tensor(data.images[chosen] / 16, dtype=torch.float32)
    return images.unsqueeze(1), torch.tensor(data.target[chosen], dtype=torch.long)


def gradients(net):
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def train(net, forward, loss, quality, *, updates, lr):
    """The tutorials' training loop; `forward()` gives (spk_rec, mem_rec), which `loss` and `quality` take."""
    optimizer = torch.optim.Adam(net.parameters(), lr=lr, betas=(0.9, 0.999))
    losses = []
    for update in range(updates):
        spk_rec, mem_rec = forward()
        loss_val = loss(spk_rec, mem_rec)
        optimizer.zero_grad()
        loss_val.backward()
        if update == 0:
            spk, mem, grads = spk_rec.detach().clone(), mem_rec.detach().clone(), gradients(net)
            before = quality(spk_rec, mem_rec)
        optimizer.step()
        losses.append(loss_val.item())
    with torch.no_grad():
        after = quality(*forward())
    state = {name: value.detach().clone() for name, value in net.state_dict().items()}
    return Run(spk, mem, grads, losses, float(before), float(after), state)


def batch_accuracy(targets):
    """As tutorial 5 counts it: the neuron with most spikes."""

    def quality(spk_rec, mem_rec):
        return (spk_rec.sum(dim=0).argmax(dim=1) == targets).float().mean().item()

    return quality


# --- Fully connected nets with a step loop --------------------------------------------------------


class FullyConnected(nn.Module):
    """Two layers of neurons with states passed by hand: tutorials 3 and 5, and the examples of the neurons' documentation.

    `states` is how many states a neuron takes and returns beside its spike; a recurrent one takes its spike back as well.
    """

    def __init__(self, make1, make2, init, num_inputs=64, num_hidden=48, num_outputs=10, num_steps=8, recurrent=False):
        super().__init__()
        self.fc1 = nn.Linear(num_inputs, num_hidden)
        self.lif1 = make1()
        self.fc2 = nn.Linear(num_hidden, num_outputs)
        self.lif2 = make2()
        self.init, self.num_steps, self.recurrent = init, num_steps, recurrent

    def initial(self, lif):
        states = getattr(lif, self.init)()
        return states if isinstance(states, tuple) else (states,)

    def forward(self, x):
        states1, states2 = self.initial(self.lif1), self.initial(self.lif2)
        spk2_rec, mem2_rec = [], []
        for step in range(self.num_steps):
            now = x[step] if x.dim() == 3 else x
            out1 = self.lif1(self.fc1(now), *states1)
            out2 = self.lif2(self.fc2(out1[0]), *states2)
            states1, states2 = (out1, out2) if self.recurrent else (out1[1:], out2[1:])
            spk2_rec.append(out2[0])
            mem2_rec.append(out2[-1])
        return torch.stack(spk2_rec, dim=0), torch.stack(mem2_rec, dim=0)


def cross_entropy_of_every_step(targets):
    """As tutorial 5 sums it, on membranes."""
    loss = nn.CrossEntropyLoss()

    def total(spk_rec, mem_rec):
        loss_val = torch.zeros(1)
        for step in range(mem_rec.shape[0]):
            loss_val = loss_val + loss(mem_rec[step], targets)
        return loss_val

    return total


def _train_fully_connected(net, updates, lr):
    data, targets = digits()
    flat = data.flatten(1)
    quality = batch_accuracy(targets)
    return train(net, lambda: net(flat), cross_entropy_of_every_step(targets), quality, updates=updates, lr=lr)


def tutorial_5(snn, seed, updates=18):
    """A fully connected net of Leaky neurons: cross entropy on the membranes of every step, Adam, batch accuracy."""
    torch.manual_seed(seed)
    make = functools.partial(snn.Leaky, beta=0.95, threshold=0.5)
    net = FullyConnected(make, make, "init_leaky")
    return _train_fully_connected(net, updates, lr=5e-3)


def lapicque(snn, seed, updates=20):
    """The example of Lapicque's documentation: one layer by its decay, one by R and C."""
    torch.manual_seed(seed)
    make1 = functools.partial(snn.Lapicque, beta=0.8, R=5, threshold=0.5)
    make2 = functools.partial(snn.Lapicque, R=5, C=1, threshold=0.5)
    net = FullyConnected(make1, make2, "init_lapicque")
    return _train_fully_connected(net, updates, lr=1e-2)


def synaptic(snn, seed, updates=20):
    """A fully connected net of Synaptic neurons, as tutorial 3 of the early releases."""
    torch.manual_seed(seed)
    make = functools.partial(snn.Synaptic, alpha=0.7, beta=0.8, threshold=0.5)
    return _train_fully_connected(FullyConnected(make, make, "init_synaptic"), updates, lr=5e-3)


def alpha(snn, seed, updates=20):
    """A fully connected net of Alpha neurons, with the threshold of tutorial 4."""
    torch.manual_seed(seed)
    make = functools.partial(snn.Alpha, alpha=0.8, beta=0.7, threshold=0.3)
    return _train_fully_connected(FullyConnected(make, make, "init_alpha"), updates, lr=2e-2)


def rleaky(snn, seed, updates=20):
    """The example of RLeaky's documentation: dense feedback in the first layer, one weight in the second."""
    torch.manual_seed(seed)
    make1 = functools.partial(snn.RLeaky, beta=0.8, linear_features=48)
    make2 = functools.partial(snn.RLeaky, beta=0.8, all_to_all=False, V=0.5)
    net = FullyConnected(make1, make2, "init_rleaky", recurrent=True)
    return _train_fully_connected(net, updates, lr=5e-3)


def rsynaptic(snn, seed, updates=20):
    """The example of RSynaptic's documentation: dense feedback in the first layer, one weight a neuron in the second."""
    torch.manual_seed(seed)
    unshared = torch.rand(10)
    make1 = functools.partial(snn.RSynaptic, alpha=0.5, beta=0.8, linear_features=48)
    make2 = functools.partial(snn.RSynaptic, alpha=0.5, beta=0.8, all_to_all=False, V=unshared)
    net = FullyConnected(make1, make2, "init_rsynaptic", recurrent=True)
    return _train_fully_connected(net, updates, lr=5e-3)


# --- Sequential nets with hidden states -----------------------------------------------------------


def forward_pass(snn, net, num_steps, data):
    """As tutorial 6 writes it."""
    spk_rec, mem_rec = [], []
    snn.utils.reset(net)
    for _ in range(num_steps):
        out = net(data)
        spk_rec.append(out[0])
        mem_rec.append(out[-1])
    return torch.stack(spk_rec), torch.stack(mem_rec)


def tutorial_6(snn, seed, updates=16):
    """A convolutional net: fast sigmoid, `nn.Sequential` with hidden states, ce_rate_loss and accuracy_rate."""
    SF = snn.functional
    torch.manual_seed(seed)
    data, targets = digits()
    neuron = dict(beta=0.9, threshold=0.5, spike_grad=snn.surrogate.fast_sigmoid(slope=5), init_hidden=True)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.MaxPool2d(2),
        snn.Leaky(**neuron),
        nn.Conv2d(8, 24, 2),
        snn.Leaky(**neuron),
        nn.Flatten(),
        nn.Linear(24 * 2 * 2, 10),
        snn.Leaky(output=True, **neuron),
    )
    nn.init.constant_(net[-2].bias, 0.6)  # the spatial adjustment teaches only neurons that fire
    loss_fn = SF.ce_rate_loss()

    def quality(spk_rec, mem_rec):
        return SF.accuracy_rate(spk_rec, targets)

    def forward():
        return forward_pass(snn, net, 5, data)

    return train(net, forward, lambda spk, mem: loss_fn(spk, targets), quality, updates=updates, lr=1e-2)


def tutorial_pop(snn, seed, updates=20):
    """Population coding: one time step, ten output neurons a class, backprop.BPTT, its quality measured by class votes."""
    SF = snn.functional
    torch.manual_seed(seed)
    data, targets = digits()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(data, targets), batch_size=50)
    neuron = dict(beta=0.9, spike_grad=snn.surrogate.fast_sigmoid(), init_hidden=True)
    net = nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 64),
        snn.Leaky(threshold=0.1, **neuron),
        nn.Linear(64, 100),
        snn.Leaky(threshold=0.05, output=True, **neuron),
    )
    population = dict(population_code=True, num_classes=10)
    loss_fn = SF.mse_count_loss(correct_rate=1.0, incorrect_rate=0.0, **population)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3, betas=(0.9, 0.999))

    def voted():
        with torch.no_grad():
            snn.utils.reset(net)
            spk_rec, mem_rec = net(data)
        return spk_rec.unsqueeze(0), mem_rec.unsqueeze(0)

    spk, mem = voted()
    before = SF.accuracy_rate(spk, targets, **population)
    grads, losses = {}, []
    for epoch in range(updates):
        loss = snn.backprop.BPTT(
            net, loader, num_steps=1, optimizer=optimizer, criterion=loss_fn, time_var=False, device="cpu"
        )
        losses.append(loss.item())
        if epoch == 0:
            grads = gradients(net)
    after = SF.accuracy_rate(voted()[0], targets, **population)
    state = {name: value.detach().clone() for name, value in net.state_dict().items()}
    return Run(spk, mem, grads, losses, float(before), float(after), state)


# --- Regression -----------------------------------------------------------------------------------


def regression_1(snn, seed, updates=25):
    """A membrane that follows a curve: learnable decays, a threshold for every neuron, an output layer without reset."""
    torch.manual_seed(seed)
    num_steps, hidden = 15, 48
    feature = torch.linspace(0.0, 0.9, num_steps).view(num_steps, 1, 1)
    label = torch.sqrt(feature * 0.7)
    spike_grad = snn.surrogate.fast_sigmoid()

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc_in = nn.Linear(1, hidden)
            self.lif_in = snn.Leaky(
                beta=torch.rand(hidden),
                threshold=torch.rand(hidden) * 0.5 + 0.1,
                learn_beta=True,
                spike_grad=spike_grad,
            )
            self.fc_out = nn.Linear(hidden, 1)
            self.li_out = snn.Leaky(
                beta=torch.rand(1), threshold=1.0, learn_beta=True, spike_grad=spike_grad, reset_mechanism="none"
            )

        def forward(self, x):
            mem_1, mem_2 = self.lif_in.init_leaky(), self.li_out.init_leaky()
            spk_rec, mem_rec = [], []
            for step in range(num_steps):
                spk_1, mem_1 = self.lif_in(self.fc_in(x[step]), mem_1)
                _, mem_2 = self.li_out(self.fc_out(spk_1), mem_2)
                spk_rec.append(spk_1)
                mem_rec.append(mem_2)
            return torch.stack(spk_rec), torch.stack(mem_rec)

    net = Net()
    nn.init.constant_(net.fc_out.bias, 1.0)  # a start far from the curve
    mse = nn.MSELoss()

    def closeness(spk_rec, mem_rec):
        return -(torch.linalg.norm(mem_rec - label) / torch.linalg.norm(label)).item()

    return train(net, lambda: net(feature), lambda spk, mem: mse(mem, label), closeness, updates=updates, lr=2e-2)


def _regression_2(snn, seed, updates, loss_of, quality_of):
    torch.manual_seed(seed)
    data, targets = digits()
    flat = data.flatten(1)
    make1 = functools.partial(snn.RLeaky, beta=0.9, linear_features=48)
    make2 = functools.partial(snn.RLeaky, beta=0.9, linear_features=10)
    net = FullyConnected(make1, make2, "init_rleaky", recurrent=True)
    quality = quality_of(targets)
    return train(net, lambda: net(flat), loss_of(targets), quality, updates=updates, lr=8e-3)


def regression_2(snn, seed, updates=20):
    """Classification as regression: recurrent neurons whose spike counts are drawn to 80 % and 20 % of the steps."""
    loss_fn = snn.functional.mse_count_loss(correct_rate=0.8, incorrect_rate=0.2)
    accuracy = snn.functional.accuracy_rate
    return _regression_2(
        snn, seed, updates, lambda t: lambda spk, mem: loss_fn(spk, t), lambda t: lambda spk, mem: accuracy(spk, t)
    )


def regression_2_membrane(snn, seed, updates=20):
    """The same with membranes drawn above and below the threshold."""
    loss_fn = snn.functional.mse_membrane_loss(on_target=1.05, off_target=0.2)

    def highest(t):
        return lambda spk, mem: (mem.mean(0).argmax(1) == t).float().mean().item()

    return _regression_2(snn, seed, updates, lambda t: lambda spk, mem: loss_fn(mem, t), highest)


# --- A net on encoded input -----------------------------------------------------------------------


def encoded(snn, seed, updates=15):
    """Latency-coded digits through Leaky neurons; the first spike decides: ce_temporal_loss and accuracy_temporal."""
    SF = snn.functional
    torch.manual_seed(seed)
    data, targets = digits(50)
    num_steps = 10
    coded = snn.spikegen.latency(data.flatten(1), num_steps=num_steps, tau=5, normalize=True, linear=True, clip=True)
    make = functools.partial(snn.Leaky, beta=0.9, threshold=0.5)
    net = FullyConnected(make, make, "init_leaky", num_steps=num_steps)
    nn.init.constant_(net.fc2.bias, 0.2)  # the spatial adjustment teaches only neurons that fire
    loss_fn = SF.ce_temporal_loss()

    def quality(spk_rec, mem_rec):
        return SF.accuracy_temporal(spk_rec, targets)

    return train(net, lambda: net(coded), lambda spk, mem: loss_fn(spk, targets), quality, updates=updates, lr=1e-2)


TRAININGS = {
    f.__name__: f
    for f in [tutorial_5, tutorial_6, tutorial_pop, regression_1, regression_2, regression_2_membrane, encoded]
    + [lapicque, synaptic, alpha, rleaky, rsynaptic]
}


# --- Forward only: one neuron under a current, and the feedforward net of tutorial 3 --------------


def simulate(lif, current, states):
    """The tutorials' simulation: a neuron, its states by hand, everything recorded."""
    recs = []
    for now in current:
        out = lif(now, *states)
        states = out if len(out) == len(states) else out[1:]
        recs.append(out)
    return [torch.stack(rec) for rec in zip(*recs, strict=True)]


def weighted(spikes):
    """Spikes through one weight, to see the gradient that arrives in front of the neuron."""
    weight = torch.tensor(0.7, requires_grad=True)
    return spikes * weight, weight


def lapicque_decay(snn):
    """Tutorial 2: no current, the membrane starts charged."""
    current, weight = weighted(torch.zeros(20, 1))
    return simulate(snn.Lapicque(R=5, C=1e-3, time_step=1e-3), current, (torch.ones(1) * 0.9,)), weight


def lapicque_reset(snn, reset_mechanism):
    """Tutorial 2: a step current above a lowered threshold."""
    current, weight = weighted(torch.cat([torch.zeros(5, 1), torch.full((45, 1), 0.3)]))
    lif = snn.Lapicque(R=5.1, C=5e-3, time_step=1e-3, threshold=0.5, reset_mechanism=reset_mechanism)
    return simulate(lif, current, (torch.zeros(1),)), weight


def leaky_spikes(snn):
    """Tutorial 3: weighted spikes, a scalar for every step, as the tutorial has them."""
    current, weight = weighted(snn.spikegen.rate_conv(torch.ones(40) * 0.6))
    lif = snn.Leaky(beta=0.819)
    return simulate(lif, current, (lif.init_leaky(),)), weight


def synaptic_period(snn):
    """Tutorial 4: a spike every tenth step, a scalar for every step."""
    current, weight = weighted(torch.cat([torch.ones(1), torch.zeros(9)]).repeat(6) * 0.6)
    lif = snn.Synaptic(alpha=0.9, beta=0.8)
    return simulate(lif, current, lif.init_synaptic()), weight


def alpha_period(snn):
    """Tutorial 4: one spike, a pause, then a spike every tenth step."""
    spikes = torch.cat([torch.zeros(5), torch.ones(1), torch.zeros(9), torch.tensor([1.0, 0, 0, 0, 0]).repeat(5)])
    current, weight = weighted(spikes.unsqueeze(1) * 1.3)
    lif = snn.Alpha(alpha=0.8, beta=0.7, threshold=0.5)
    return simulate(lif, current, lif.init_alpha()), weight


def rleaky_feedback(snn, shape, **recurrence):
    """Regression, part II: the three forms of feedback, on samples without a batch dimension."""
    current, weight = weighted(torch.rand(10, *shape))
    lif = snn.RLeaky(beta=0.9, **recurrence)
    return simulate(lif, current, lif.init_rleaky()), weight


def rsynaptic_feedback(snn, **recurrence):
    current, weight = weighted(torch.rand(10, 3, 6))
    lif = snn.RSynaptic(alpha=0.5, beta=0.9, **recurrence)
    return simulate(lif, current, lif.init_rsynaptic()), weight


def tutorial_3(snn):
    """A feedforward net on rate-coded digits; hidden and output layer recorded."""
    fc1, lif1 = nn.Linear(64, 100), snn.Leaky(beta=0.99)
    fc2, lif2 = nn.Linear(100, 10), snn.Leaky(beta=0.99)
    current, weight = weighted(snn.spikegen.rate(digits(3)[0].flatten(1), num_steps=40))
    mem1, mem2 = lif1.init_leaky(), lif2.init_leaky()
    recs = []
    for now in current:
        spk1, mem1 = lif1(fc1(now), mem1)
        spk2, mem2 = lif2(fc2(spk1), mem2)
        recs.append((spk2, spk1.sum(-1), mem1.sum(-1), mem2))
    return [torch.stack(rec) for rec in zip(*recs, strict=True)], weight


SIMULATIONS = {
    "lapicque-decay": lapicque_decay,
    "lapicque-subtract": functools.partial(lapicque_reset, reset_mechanism="subtract"),
    "lapicque-zero": functools.partial(lapicque_reset, reset_mechanism="zero"),
    "leaky": leaky_spikes,
    "synaptic": synaptic_period,
    "alpha": alpha_period,
    "rleaky-one-to-one": functools.partial(rleaky_feedback, shape=(1,), all_to_all=False),
    "rleaky-linear": functools.partial(rleaky_feedback, shape=(10,), linear_features=10),
    "rleaky-conv": functools.partial(rleaky_feedback, shape=(3, 8, 8), conv2d_channels=3, kernel_size=(5, 5)),
    "rsynaptic-one-to-one": functools.partial(rsynaptic_feedback, all_to_all=False),
    "rsynaptic-linear": functools.partial(rsynaptic_feedback, linear_features=6),
    "tutorial_3": tutorial_3,
}
