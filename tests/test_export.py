"""Whole nets through the doors of PyTorch: ONNX, torch.export, torch.compile of step loops, torch.func.

The operator of the engine and MultiStep nets of Leaky are in test_compile.py; here are the six classes in step nets, and
what each door makes of hidden states.
"""

import copy
import pickle
import warnings
from collections import OrderedDict

import pytest
import snntorch
import torch
from _family import FAMILY, KINDS, arguments
from _tolerance import assert_close
from _versions import torch_since
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.func import functional_call, grad, jacfwd, jacrev, stack_module_state, vmap

import snntorch_bpsta as snn

F32 = torch.float32
IN, N, OUT, T = 4, 5, 3, 4
OPTIONS = {
    "disabled": {"surrogate_disable": True},
    "off": {},
    "on": {"spatial_adj": True, "temporal_alpha": 0.8},
}
PAPER = {"threshold": 0.5, "reset_mechanism": "zero", **OPTIONS["on"]}


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def currents(*shape, seed=0, scale=2.0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * scale


def options_of(kind, name):
    return {"spatial_adj": True} if (kind, name) == ("Alpha", "on") else OPTIONS[name]


class Step(nn.Module):
    """One step: states go in and come out. A recurrent neuron's first state is its spike."""

    def __init__(self, kind, ns=snn, **options):
        super().__init__()
        self.first, self.last = nn.Linear(IN, N), nn.Linear(N, OUT)
        self.neuron = getattr(ns, kind)(**arguments(kind, neurons=N, **options))
        self.states = len(FAMILY[kind].states)

    def zeros(self, batch):
        return (torch.zeros(batch, N),) * self.states

    def step(self, x, *states):
        out = self.neuron(self.first(x), *states)
        return self.last(out[0]), *(out if len(out) == len(states) else out[1:])

    def forward(self, x, *states):
        return self.step(x, *states)


class Loop(Step):
    """The tutorials' loop over time in ``forward``."""

    def forward(self, x):
        states, out_rec = self.zeros(x.shape[1]), []
        for x_t in x:
            out, *states = self.step(x_t, *states)
            out_rec.append(out)
        return torch.stack(out_rec)


class Family(nn.Module):
    """A step of all six side by side: what goes through a slow exporter goes through once."""

    def __init__(self, name):
        super().__init__()
        self.first = nn.Linear(IN, N)
        own = {kind: arguments(kind, neurons=N, **options_of(kind, name)) for kind in KINDS}
        self.neurons = nn.ModuleList(getattr(snn, kind)(**options) for kind, options in own.items())

    def zeros(self, batch):
        return tuple(torch.zeros(batch, N) for _ in range(sum(len(neuron.states) for neuron in FAMILY.values())))

    def forward(self, x, *states):
        return self.step(x, *states)

    def step(self, x, *states):
        spikes, after = [], []
        for neuron, count in zip(self.neurons, (len(neuron.states) for neuron in FAMILY.values()), strict=True):
            (spk, *rest), states = neuron(self.first(x), *states[:count]), states[count:]
            spikes.append(spk)
            after += [spk] * (count - len(rest)) + rest
        return torch.stack(spikes), *after


class FamilyLoop(Family):
    """The tutorials' loop over time in ``forward``: the spikes of each class ``[kind, T, B, N]``."""

    def forward(self, x):
        return self.loop(self.step, x)

    def loop(self, step, x):
        states, spk_rec = self.zeros(x.shape[1]), []
        for x_t in x:
            spk, *states = step(x_t, *states)
            spk_rec.append(spk)
        return torch.stack(spk_rec, 1)


def family(cls, name):
    torch.manual_seed(0)
    return cls(name)


def chain(kinds=KINDS, **options):
    """One behind the other."""
    torch.manual_seed(0)
    layers = [nn.Linear(IN, N)]
    for kind in kinds:
        neuron = getattr(snn, kind)(**arguments(kind, neurons=N, **options_of(kind, "on") | options))
        linear = nn.Linear(N, N)
        nn.init.uniform_(linear.weight, 0, 1.5)
        layers += [neuron, linear]
    return layers


def net_of(cls, kind, name, **options):
    torch.manual_seed(0)
    return cls(kind, **options_of(kind, name) | options)


def assert_fires(net, x):
    """Neither nothing nor everything."""
    spikes = []
    handle = net.neuron.register_forward_hook(lambda module, args, out: spikes.append(out[0]))
    with torch.no_grad():
        net(x)
    handle.remove()
    assert 0 < torch.stack(spikes).mean() < 1


def gradients(net, x, function=None):
    """Output, and gradients by name, of a weighted sum of the output."""
    net.zero_grad()
    x = x.clone().requires_grad_()
    out = (net if function is None else function)(x)
    (out * weights(out.shape[-1])).sum().backward()
    return {"out": out.detach(), "input": x.grad} | {name: p.grad.clone() for name, p in net.named_parameters()}


def weights(neurons):
    return torch.randn(neurons, generator=torch.Generator().manual_seed(1))


def assert_alike(actual, expected):
    assert actual.keys() == expected.keys() and torch.equal(actual["out"], expected["out"])
    largest = max(value.abs().max().item() for value in expected.values())
    for name, value in expected.items():
        assert_close(actual[name], value, F32, largest, name)
    assert all(expected[name].any() for name in ("out", "input", "first.weight"))


# --- ONNX -----------------------------------------------------------------------------------------

EXPORTERS = {"dynamo": True, "torchscript": False}


def onnx_session(net, example, path, exporter, **options):
    """Export `net`, and what runs it."""
    pytest.importorskip("onnxscript", reason="onnxscript is missing")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is missing")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters warn of themselves and each other
        torch.onnx.export(net.eval(), example, path, dynamo=EXPORTERS[exporter], verbose=False, **options)
    session = runtime.InferenceSession(path)
    names = [each.name for each in session.get_inputs()]

    def call(*inputs):
        outputs = session.run(None, {name: x.numpy() for name, x in zip(names, inputs, strict=True)})
        return tuple(torch.from_numpy(out) for out in outputs)

    return call


ONNX = [("disabled", "dynamo"), ("on", "dynamo"), *((name, "torchscript") for name in OPTIONS)]


@pytest.mark.parametrize("name, exporter", ONNX, ids=str)
def test_onnx_of_a_step(name, exporter, tmp_path):
    """Stepped over time by whoever runs it: equal spikes, states to rounding."""
    net = family(Family, name)
    run = onnx_session(net, (currents(2, IN), *net.zeros(2)), str(tmp_path / "step.onnx"), exporter)
    states = own = net.zeros(2)
    fired = torch.zeros(len(KINDS))
    with torch.no_grad():
        for x in currents(12, 2, IN, seed=1):
            spk, *states = net(x, *states)
            own_spk, *own = run(x, *own)
            assert torch.equal(own_spk, spk)
            for mine, other in zip(own, states, strict=True):
                assert_close(mine, other, F32, other.abs().max() + 1)
            fired += spk.sum((1, 2))
    assert ((0 < fired) & (fired < 12 * 2 * N)).all()


def multistep(**options):
    torch.manual_seed(0)
    return snn.MultiStep(
        snn.ConvBlock(2, 4, snn.Leaky(beta=0.9, threshold=0.4, **options)),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, N),
        nn.ReLU(),
        snn.Leaky(beta=0.9, threshold=0.1, reset_mechanism="zero", **options),
    ).eval()


@pytest.mark.parametrize("name", OPTIONS)
def test_onnx_of_a_multistep_net(name, tmp_path):
    """The loop over T is written out. (By the exporter of dynamo=True: the next test.)"""
    net, x = multistep(**OPTIONS[name]), currents(T, 3, 2, 8, 8, scale=4)
    run = onnx_session(net, (x,), str(tmp_path / "net.onnx"), "torchscript")
    expected = net(currents(T, 3, 2, 8, 8, seed=1, scale=4))
    (actual,) = run(currents(T, 3, 2, 8, 8, seed=1, scale=4))
    assert torch.equal(actual, expected) and 0 < expected.mean() < 1


@torch_since((2, 7), "ONNX of batch norm with any batch fails")
def test_onnx_with_any_batch(tmp_path):
    net = multistep(**OPTIONS["on"])
    shapes = ({1: torch.export.Dim("batch", min=2)},)
    run = onnx_session(net, (currents(T, 3, 2, 8, 8),), str(tmp_path / "net.onnx"), "dynamo", dynamic_shapes=shapes)
    for batch in (2, 7):
        x = currents(T, batch, 2, 8, 8, seed=batch, scale=4)
        assert torch.equal(run(x)[0], net(x)) and net(x).any()
    with pytest.raises(Exception, match="(?i)invalid|expected"):  # but not with any T
        run(currents(T + 1, 3, 2, 8, 8))


@torch_since((2, 7), "an export of a module that keeps a state fails")
@pytest.mark.parametrize("exporter", EXPORTERS)
def test_onnx_does_not_keep_a_hidden_state(exporter, tmp_path):
    """Every call starts from zeros, in the host too: give the states to the step, or export all steps."""
    net = nn.Sequential(nn.Linear(IN, N), snn.Leaky(beta=0.9, threshold=1.0, init_hidden=True))
    x = torch.full((2, IN), 0.3)
    with torch.no_grad():
        net[0].weight.fill_(0.5)
        net[0].bias.zero_()
    run = onnx_session(net, (x,), str(tmp_path / "net.onnx"), exporter)
    snn.reset(net)
    assert [net(x).any().item() for _ in range(3)] == [False, True, False]
    assert not any(run(x)[0].any() for _ in range(3))


states_are_no_buffers = pytest.mark.filterwarnings("ignore:The tensor attribute:UserWarning")


# --- torch.export ---------------------------------------------------------------------------------


@states_are_no_buffers
@pytest.mark.parametrize("name", ["off", "on"])
def test_export_of_a_loop(name, tmp_path):
    net, x = family(FamilyLoop, name), currents(2, 2, IN)
    program = torch.export.export(net, (x,))
    torch.export.save(program, tmp_path / "net.pt2")
    program = torch.export.load(tmp_path / "net.pt2")
    x = currents(2, 2, IN, seed=1)
    expected = net(x)
    assert torch.equal(program.module()(x), expected)
    assert all(0 < spk_rec.mean() < 1 for spk_rec in expected)
    assert set(program.state_dict) == set(net.state_dict())


@torch_since((2, 7), "an export with any batch of a net of six neurons fails")
@states_are_no_buffers
def test_export_of_multistep():
    net = snn.MultiStep(*chain())
    program = torch.export.export(net, (currents(3, 2, IN),), dynamic_shapes=({1: torch.export.Dim("batch", min=2)},))
    for batch in (2, 6):
        x = currents(3, batch, IN, seed=batch)
        assert torch.equal(program.module()(x), net(x))
    with snn.energy.record_firing_rates(net) as firing:
        net(x)
    assert all(rate > 0 for rate in firing.rates().values()) and firing.mean() < 0.9, firing.rates()


def test_export_of_any_number_of_steps():
    """Where the neurons are Leaky: one operator, and no loop."""
    torch.manual_seed(0)
    net = snn.MultiStep(nn.Linear(IN, N), nn.ReLU(), snn.Leaky(beta=0.9, **PAPER))
    shapes = ({0: torch.export.Dim("steps", min=2), 1: torch.export.Dim("batch", min=2)},)
    program = torch.export.export(net, (currents(6, 3, IN),), dynamic_shapes=shapes)
    for steps in (2, 9):
        x = currents(steps, 4, IN, seed=steps)
        assert torch.equal(program.module()(x), net(x)) and net(x).any()


@torch_since((2, 7), "an export of a module that keeps a state fails")
@pytest.mark.parametrize("ns", [snntorch, snn], ids=["host", "ours"])
def test_export_does_not_keep_a_hidden_state(ns):
    """As test_onnx_does_not_keep_a_hidden_state. In the program every call goes on from where the net was at the export."""
    net = nn.Sequential(nn.Linear(IN, N), ns.Leaky(beta=0.9, threshold=1.0, init_hidden=True))
    x = torch.full((2, IN), 0.3)
    with torch.no_grad():
        net[0].weight.fill_(0.5)
        net[0].bias.zero_()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fresh = torch.export.export(net, (x,)).module()
            before = net[1].mem.shape
            net(x)
            later = torch.export.export(net, (x,)).module()
        assert any("assigned during export" in str(each.message) for each in caught)
        assert before == (0,), "an export leaves the net as it is"
        snn.reset(net)
        assert [net(x).any().item() for _ in range(3)] == [False, True, False]
        assert [fresh(x).any().item() for _ in range(3)] == [False] * 3
        assert [later(x).any().item() for _ in range(3)] == [True] * 3


# --- torch.compile --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["off", "on"])
def test_compiled_loop(name):
    """The whole loop is one graph; spikes and gradients are eager's."""
    net, x = net_of(Loop, "Synaptic", "off") if name == "off" else family(FamilyLoop, "on"), currents(2, 2, IN)
    expected = gradients(copy.deepcopy(net), x)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(net, backend=counter, fullgraph=True)
    for _ in range(2):
        assert_alike(gradients(net, x, compiled), expected)
    assert counter.frame_count == 1


@pytest.mark.parametrize("kind", ["Leaky", "RSynaptic"])
def test_compiled_step_in_a_loop(kind):
    """Compiled for the first step, whose states have no gradient, and for the others; called T times."""
    net, x = net_of(Loop, kind, "on"), currents(6, 2, IN)
    expected = gradients(net, x)
    counter = CompileCounterWithBackend("aot_eager")
    net.step = torch.compile(net.step, backend=counter, fullgraph=True)
    assert_alike(gradients(net, x), expected)
    assert counter.frame_count == 2


def test_compile_keeps_a_hidden_state():
    """Other than an export: the neurons go on from call to call."""
    net = nn.Sequential(*chain(["Leaky", "RSynaptic"], init_hidden=True))
    twin = copy.deepcopy(net)
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        for x in currents(4, 2, IN):
            assert torch.equal(compiled(x), twin(x))
    for neuron, other in zip(net[1::2], twin[1::2], strict=True):
        assert torch.equal(neuron.mem, other.mem) and other.mem.any()


# --- torch.func -----------------------------------------------------------------------------------


def detached(net):
    return {name: p.detach().clone() for name, p in net.named_parameters()}


def loss_of(net):
    """That of :func:`gradients`, as a function of parameters and input."""

    weight = weights(OUT)

    def loss(parameters, x):
        return (functional_call(net, parameters, (x,)) * weight).sum()

    return loss


@pytest.mark.parametrize("name", ["off", "on"])
@pytest.mark.parametrize("kind", KINDS)
def test_functional_call_and_grad(kind, name):
    net, x = net_of(Loop, kind, name), currents(T, 2, IN)
    assert_fires(net, x)
    expected = gradients(net, x)  # and so a backward pass in eager mode went before
    parameters = detached(net)
    for p in net.parameters():
        p.data.zero_()
    assert torch.equal(functional_call(net, parameters, (x,)), expected["out"])
    for _ in range(2):
        actual = grad(loss_of(net))(parameters, x)
        assert_alike(actual | {each: expected[each] for each in ("out", "input")}, expected)


@pytest.mark.parametrize("name", ["off", "on"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_each_sample(kind, name):
    """vmap(grad): the samples' gradients are those that each has alone."""
    net, x = net_of(Loop, kind, name), currents(T, 3, IN)
    parameters = detached(net)
    loss = loss_of(net)
    each = vmap(grad(lambda p, x: loss(p, x.unsqueeze(1))), in_dims=(None, 1))(parameters, x)
    for i in range(3):
        snn.reset(net)
        expected = grad(loss)(parameters, x[:, i : i + 1])
        for key, value in expected.items():
            assert_close(each[key][i], value, F32, value.abs().max() + 1, key)
        assert expected["first.weight"].any()


@pytest.mark.parametrize("kind", KINDS)
def test_an_ensemble(kind):
    """vmap over nets: equal to one after the other."""
    nets = []
    for seed in range(3):
        torch.manual_seed(seed)
        nets.append(Loop(kind, **options_of(kind, "on")))
    x = currents(T, 2, IN)
    parameters, buffers = stack_module_state(nets)
    out = vmap(lambda p, b: functional_call(nets[0], (p, b), (x,)))(parameters, buffers)
    for i, net in enumerate(nets):
        snn.reset(net)
        assert_close(out[i], net(x), F32)
    assert not torch.equal(out[0], out[1])


@pytest.mark.parametrize("kind", KINDS)
def test_multistep_in_torch_func(kind):
    """The reference runs in place of the kernels."""
    torch.manual_seed(0)
    neuron = getattr(snn, kind)(**arguments(kind, neurons=N, **options_of(kind, "on")))
    layers = OrderedDict(first=nn.Linear(IN, N), relu=nn.ReLU(), neuron=neuron, last=nn.Linear(N, OUT))
    net, x = snn.MultiStep(layers), currents(T, 3, IN)
    expected = gradients(net, x)
    actual = grad(loss_of(net))(detached(net), x)
    assert_alike(actual | {each: expected[each] for each in ("out", "input")}, expected)
    loss = loss_of(net)
    each = vmap(grad(lambda p, x: loss(p, x.unsqueeze(1))), in_dims=(None, 1))(detached(net), x)
    for key, value in actual.items():
        assert_close(each[key].sum(0), value, F32, value.abs().max() + 1, key)


@pytest.mark.parametrize("kind", KINDS)
def test_a_hidden_state_in_torch_func(kind):
    """It is to be reset inside, and after it."""
    torch.manual_seed(0)
    neuron = getattr(snn, kind)(**arguments(kind, neurons=N, init_hidden=True, **options_of(kind, "on")))
    net, x = nn.Sequential(nn.Linear(IN, N), neuron, nn.Linear(N, OUT)), currents(T, 3, IN)
    weight = weights(OUT)

    def loss(parameters, x):
        snn.reset(net)
        return sum((functional_call(net, parameters, (x_t,)) * weight).sum() for x_t in x)

    each = vmap(grad(lambda p, x: loss(p, x.unsqueeze(1))), in_dims=(None, 1))(detached(net), x)
    once = grad(loss)(detached(net), x)
    snn.reset(net)
    sum((net(x_t) * weight).sum() for x_t in x).backward()
    for key, p in net.named_parameters():
        scale = p.grad.abs().max() + 1
        assert_close(once[key], p.grad, F32, scale, key)
        assert_close(each[key].sum(0), p.grad, F32, scale, key)
    assert net[0].weight.grad.any()


def test_jacrev():
    net, x = net_of(Loop, "Leaky", "on"), currents(T, 2, IN)
    jacobian = jacrev(lambda x: net(x).sum((0, 1)))(x)
    for i in range(OUT):
        snn.reset(net)
        leaf = x.clone().requires_grad_()
        net(leaf).sum((0, 1))[i].backward()
        assert_close(jacobian[i], leaf.grad, F32, leaf.grad.abs().max())
        assert leaf.grad.any()


@pytest.mark.parametrize("name", ["off", "on"])
def test_no_forward_mode(name):
    net, x = net_of(Loop, "Leaky", name), currents(T, 2, IN)
    with pytest.raises(NotImplementedError, match="jvp"):
        jacfwd(lambda p: functional_call(net, p, (x,)))(detached(net))


@pytest.mark.parametrize("transform", ["grad", "vmap"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_torch_func_leaves_behind_does_no_harm(kind, transform):
    """Its tensors in the hidden states are of no use outside, and must not be in the way of copies, of a reset, or of the
    next sequence."""
    net, x = net_of(Loop, kind, "on"), currents(T, 2, IN)
    expected = gradients(copy.deepcopy(net), x)
    if transform == "grad":
        grad(loss_of(net))(detached(net), x)
    else:
        vmap(grad(loss_of(net)), in_dims=(None, 1))(detached(net), x.unsqueeze(1).expand(-1, 3, -1, -1))
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert_alike(gradients(other, x), expected)
    net.state_dict()
    assert_alike(gradients(net, x), expected)
    vmap(grad(loss_of(net)), in_dims=(None, 1))(detached(net), x.unsqueeze(1).expand(-1, 3, -1, -1))
    snn.reset(net)
    assert_alike(gradients(net, x), expected)


@pytest.mark.parametrize("spike_grad", [None, snntorch.surrogate.fast_sigmoid()], ids=["default", "fast_sigmoid"])
def test_the_hosts_surrogates_are_not_for_torch_func(spike_grad):
    """Autograd functions of the old style. Ours are; so is the default of our neurons, which is the host's in our form."""
    torch.manual_seed(0)
    x = currents(T, 2, IN)
    host = Loop("Leaky", ns=snntorch, spike_grad=spike_grad)
    with pytest.raises(RuntimeError, match="setup_context"):
        grad(loss_of(host))(detached(host), x)
    ours = Loop("Leaky", spike_grad=spike_grad)
    if spike_grad is None:
        assert grad(loss_of(ours))(detached(ours), x)["first.weight"].any()
    else:
        with pytest.raises(RuntimeError, match="setup_context"):
            grad(loss_of(ours))(detached(ours), x)
