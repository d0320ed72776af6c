"""Faults of snnTorch that our neurons do not have. Each section shows ours, and in a test named `test_the_host_...` that
snnTorch still has the fault: where upstream cures one, that test fails, and goes."""

import copy
import functools
import gc
import inspect
import io
import pickle
import subprocess
import sys
import threading
import types
import weakref

import pytest
import snntorch
import torch
from _versions import TORCH
from snntorch import surrogate as host_surrogate
from snntorch import utils as host_utils
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

import snntorch_bpsta as snn

T, B, N = 4, 3, 7
MAPS = (2, 4, 5, 6)  # batch, channels, height, width: no two alike

STATES = {
    "Leaky": ("mem",),
    "RLeaky": ("spk", "mem"),
    "Lapicque": ("mem",),
    "Synaptic": ("syn", "mem"),
    "RSynaptic": ("spk", "syn", "mem"),
    "Alpha": ("syn_exc", "syn_inh", "mem"),
}
CLASSES = list(STATES)
RECURRENT = ("RLeaky", "RSynaptic")
BASE = {
    "Leaky": dict(beta=0.9, threshold=0.5),
    "RLeaky": dict(beta=0.9, linear_features=N, threshold=0.5),
    "Lapicque": dict(beta=0.5, threshold=0.3),
    "Synaptic": dict(alpha=0.8, beta=0.7, threshold=0.5),
    "RSynaptic": dict(alpha=0.8, beta=0.7, linear_features=N, threshold=0.5),
    "Alpha": dict(alpha=0.9, beta=0.4, threshold=0.2),
}
OPTIONS = {"off": {}, "spatial": dict(spatial_adj=True), "both": dict(spatial_adj=True, temporal_alpha=0.8)}
SERVED = [(name, key) for name in CLASSES for key in OPTIONS if not (name == "Alpha" and key == "both")]

each_class = pytest.mark.parametrize("name", CLASSES)
each_option = pytest.mark.parametrize("name, option", SERVED, ids=["-".join(case) for case in SERVED])


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The tensors are tiny, and PyTorch's threads wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def currents(*shape, seed=0, dtype=torch.float32):
    """Mixed: neurons that stay silent, fire now and then, fire always, and fall below zero."""
    gen = torch.Generator().manual_seed(seed)
    return (torch.rand(*shape, generator=gen, dtype=torch.float64) * 2.0 - 0.4).to(dtype)


def build(lib, name, option="off", seed=0, maps=False, **kwargs):
    """A neuron of the class `name` of `lib`; for feature maps with `maps`."""
    torch.manual_seed(seed)
    base = dict(BASE[name])
    if maps and name in RECURRENT:
        base |= dict(linear_features=None, conv2d_channels=MAPS[1], kernel_size=3)
    own = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in (base | kwargs).items()}
    return getattr(lib, name)(**own, **OPTIONS[option])


def make_net(lib, name, option="off", **kwargs):
    torch.manual_seed(0)
    first = nn.Linear(N, N)
    return nn.Sequential(first, build(lib, name, option, init_hidden=True, **kwargs), nn.Linear(N, 2))


def states_of(lif):
    kind = next(name for name in CLASSES if isinstance(lif, getattr(snntorch, name)))
    return {name: getattr(lif, name) for name in STATES[kind]}


def step_loop(lif, cur):
    """Outputs of a neuron with states of its own or the user's, each step's stacked."""
    kind = next(name for name in CLASSES if isinstance(lif, getattr(snntorch, name)))
    states = () if lif.init_hidden else tuple(torch.zeros_like(cur[0]) for _ in STATES[kind])
    rows = []
    for c in cur:
        out = lif(c, *states)
        out = out if isinstance(out, tuple) else (out,)
        if not lif.init_hidden:
            states = out[-len(STATES[kind]) :]
        rows.append(torch.stack(out))
    return torch.stack(rows)


def drive(net, cur):
    """Spikes of a net stepped through time and the gradients of the input and every parameter."""
    net.zero_grad()
    cur = cur.clone().requires_grad_()
    out = torch.stack([net(c) for c in cur])
    (out * torch.randn(out.shape, generator=torch.Generator().manual_seed(7)).to(out.dtype)).sum().backward()
    return {"out": out.detach(), "dinput": cur.grad} | {f"d{n}": p.grad for n, p in net.named_parameters()}


def assert_same(ours, expected):
    """Equal to the bit and of one dtype; NaN equals NaN."""
    assert ours.keys() == expected.keys()
    for name in expected:
        a, b = ours[name], expected[name]
        if a is None or b is None:
            assert a is b, name
            continue
        assert a.dtype == b.dtype and a.shape == b.shape, name
        assert bool(((a == b) | (a.isnan() & b.isnan())).all()), f"{name}: up to {(a - b).abs().max().item():.3e}"


@pytest.fixture
def registry(monkeypatch):
    """An empty list of neurons; that of the other tests comes back afterwards."""
    monkeypatch.setattr(snntorch.SpikingNeuron, "instances", [])


# --- utils.reset: one level, all nets, no copies --------------------------------------------------
# snn.reset is in test_conversion.py.


def nested(lib):
    return nn.Sequential(nn.Sequential(lib.Leaky(0.9, init_hidden=True)), lib.Synaptic(0.8, 0.7, init_hidden=True))


def test_the_host_resets_other_nets_and_misses_blocks_and_copies(registry):
    net, other = nested(snntorch), nested(snntorch)
    with torch.no_grad():
        for part in (net, other):
            part(currents(B, N))
    twin = copy.deepcopy(net)
    host_utils.reset(net)
    assert net[0][0].mem.count_nonzero(), "in a block"
    assert not other[1].mem.count_nonzero(), "of another net"
    host_utils.reset(twin)
    assert twin[1].mem.count_nonzero(), "a copy"


COPY = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda net: pickle.loads(pickle.dumps(net)),
    "torch.save": lambda net: torch_save_and_load(net),
}


def torch_save_and_load(net):
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("how", COPY)
@each_class
def test_copies_register_themselves(name, how, registry):
    """So that the host's own reset_hidden, utils.reset and BPTT reach them."""
    lif = build(snn, name, init_hidden=True)
    lif(currents(B, N))
    lif(currents(B, N))
    twin = COPY[how](lif)
    assert [id(entry) for entry in snntorch.SpikingNeuron.instances] == [id(lif), id(twin)]
    assert twin.mem.count_nonzero()
    getattr(snntorch, name).reset_hidden()
    assert not twin.mem.count_nonzero() and not lif.mem.count_nonzero()


# --- copies after a forward pass with gradients ---------------------------------------------------


@each_class
def test_the_host_cannot_be_copied_after_a_forward(name):
    lif = build(snntorch, name, init_hidden=True)
    lif(currents(B, N).requires_grad_())
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(lif)


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
@pytest.mark.parametrize("init_hidden", [True, False], ids=["hidden", "states"])
@each_option
def test_copies_after_a_forward(name, option, init_hidden, how):
    lif = build(snn, name, option, init_hidden=init_hidden, learn_threshold=True)
    lif(currents(B, N, seed=1).requires_grad_())
    lif.sequence(currents(T, B, N, seed=2).requires_grad_())
    before = states_of(lif)
    twin = COPY[how](lif)
    for key, state in states_of(twin).items():
        assert torch.equal(state, before[key]) and not state.requires_grad, key
        assert state.numel() == 0 or state.data_ptr() != before[key].data_ptr(), key
    assert all(getattr(lif, key) is state for key, state in before.items()), "the original lost its graph"
    assert any(state.grad_fn is not None for state in before.values())
    for ours, copied in zip(lif.parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, copied) and ours.data_ptr() != copied.data_ptr()
    # A step goes on from the same values, with the same gradients.
    cur = currents(T, B, N, seed=3)
    if init_hidden:
        for part in (lif, twin):
            for key, state in states_of(part).items():
                setattr(part, key, state.detach())
        assert_same(drive(twin, cur), drive(lif, cur))
    else:
        assert torch.equal(step_loop(twin, cur), step_loop(lif, cur))


def test_a_copy_does_not_touch_the_originals_graph():
    """BPTT goes on through a copy taken in mid-sequence, for an evaluation say."""
    net, plain = (make_net(snn, "Leaky", "both") for _ in range(2))
    cur = currents(T, B, N)
    outs = []
    for t, c in enumerate(cur):
        outs.append(net(c))
        if t == 1:
            copy.deepcopy(net)(c)
    torch.stack(outs).sum().backward()
    torch.stack([plain(c) for c in cur]).sum().backward()
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(net.parameters(), plain.parameters(), strict=True))


AVERAGES = {
    "SWA": dict(),
    "EMA": dict(multi_avg_fn=get_ema_multi_avg_fn(0.9)),
    "with buffers": dict(use_buffers=True),
}


@pytest.mark.parametrize("average", AVERAGES)
@each_class
def test_averaged_models(name, average):
    net = make_net(snn, name, "spatial", learn_threshold=True)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    drive(net, currents(T, B, N))
    averaged = AveragedModel(net, **AVERAGES[average])
    for _ in range(2):
        snn.reset(net)
        drive(net, currents(T, B, N))
        optimiser.step()
        averaged.update_parameters(net)
    assert averaged.state_dict().keys() == {"n_averaged"} | {f"module.{key}" for key in net.state_dict()}
    assert not torch.equal(averaged.module[0].weight, net[0].weight)
    snn.reset(averaged)
    assert torch.stack([averaged(c) for c in currents(T, B, N)]).isfinite().all()


# --- pickle ---------------------------------------------------------------------------------------


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


def test_the_table_of_surrogates_is_the_hosts():
    assert len(FACTORIES) >= 11 and set(ARGUMENTS) <= set(FACTORIES)


@pytest.mark.parametrize("name", ["fast_sigmoid", "atan"])
def test_the_host_cannot_be_pickled(name):
    lif = snntorch.Leaky(0.9, spike_grad=FACTORIES[name]())
    with pytest.raises((AttributeError, pickle.PicklingError), match="local object"):
        pickle.dumps(lif)


@pytest.mark.parametrize("how", COPY)
@pytest.mark.parametrize("key", SURROGATES)
def test_every_surrogate_of_the_host_can_be_saved(key, how):
    net = make_net(snn, "Leaky", spike_grad=SURROGATES[key]())
    if key in CALLABLE:
        net(currents(B, N))  # leaves a membrane with a graph
    twin = COPY[how](net)
    assert twin[1].spike_grad.__qualname__ == net[1].spike_grad.__qualname__
    if key not in CALLABLE:
        return
    cur, results = currents(T, B, N), []
    for part in (net, twin):
        snn.reset(part)
        torch.manual_seed(3)  # SSO draws its gradient
        results.append(drive(part, cur))
    assert_same(*results)
    host = make_net(snntorch, "Leaky", spike_grad=SURROGATES[key]())
    torch.manual_seed(3)
    assert_same(drive(host, cur), results[0])


@pytest.mark.parametrize(
    "kwargs",
    [dict(), dict(spike_grad=host_surrogate.fast_sigmoid()), dict(surrogate_disable=True)],
    ids=["default", "closure", "disabled"],
)
@each_class
def test_every_class_can_be_saved(name, kwargs):
    net = make_net(snn, name, **kwargs)
    net(currents(B, N).requires_grad_())
    twin = torch_save_and_load(net)
    for part in (net, twin):
        snn.reset(part)
    cur = currents(T, B, N)
    if kwargs.get("surrogate_disable"):
        assert all(torch.equal(net(c), twin(c)) for c in cur)
    else:
        assert_same(drive(twin, cur), drive(net, cur))


def test_a_saved_module_loads_in_a_fresh_interpreter(tmp_path):
    net = nn.Sequential(*(make_net(snn, name) for name in CLASSES))
    net.append(build(snn, "Leaky", spike_grad=host_surrogate.fast_sigmoid(slope=10), init_hidden=True))
    cur = currents(B, N)
    outs = [part(cur) for part in net[:-1]] + [net[-1](cur)]
    torch.save(net, tmp_path / "net.pt")
    torch.save([part.detach() for part in outs], tmp_path / "first.pt")
    code = """
import sys, torch
net = torch.load(sys.argv[1], weights_only=False)
first = torch.load(sys.argv[2])
cur = torch.load(sys.argv[3])
import snntorch_bpsta as snn
assert any(state.count_nonzero() for part in net.modules() for state in [getattr(part, "mem", torch.zeros(1))])
snn.reset(net)
assert all(torch.equal(part(cur), was) for part, was in zip(net, first, strict=True))
"""
    torch.save(cur, tmp_path / "cur.pt")
    files = [str(tmp_path / name) for name in ("net.pt", "first.pt", "cur.pt")]
    done = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


# --- half, bfloat16 and double nets ---------------------------------------------------------------

DTYPES = {"half": torch.float16, "bfloat16": torch.bfloat16, "double": torch.float64}


def conv_net(lib, name, option="off", **kwargs):
    kwargs = dict(threshold=0.1, init_hidden=True) | kwargs
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, MAPS[1], 3, padding=1),
        build(lib, name, option, maps=True, **kwargs),
        nn.Flatten(),
        nn.Linear(MAPS[1] * MAPS[2] * MAPS[3], N),
        build(lib, name, option, **kwargs),
        nn.Linear(N, 2),
    )


def train_one_step(net, dtype):
    """Forward over time, loss, backward, SGD. Returns the outputs, and the names of the parameters that moved."""
    optimiser = torch.optim.SGD(net.parameters(), lr=0.5)
    out = torch.stack([net(frame) for frame in currents(T, MAPS[0], 1, *MAPS[2:], dtype=dtype) * 4])
    out.pow(2).sum().backward()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimiser.step()
    return out, {name for name, p in net.named_parameters() if not torch.equal(p, before[name])}


@pytest.mark.parametrize("dtype", DTYPES)
@each_class
def test_the_host_fails_in_other_precisions(name, dtype):
    with pytest.raises(RuntimeError, match="dtype|type"):
        train_one_step(conv_net(snntorch, name).to(DTYPES[dtype]), DTYPES[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name, option", [case for case in SERVED if case[1] != "spatial" or case[0] == "Alpha"])
def test_nets_in_other_precisions_train(name, option, dtype):
    dtype = DTYPES[dtype]
    net = conv_net(snn, name, option, learn_threshold=True).to(dtype)
    out, moved = train_one_step(net, dtype)
    assert out.dtype == dtype and out.isfinite().all()
    assert all(p.dtype == dtype and p.isfinite().all() for p in net.parameters())
    assert {"0.weight", "3.weight", "5.weight", "1.threshold"} <= moved
    for lif in (net[1], net[4]):
        assert all(state.dtype == dtype for state in states_of(lif).values())
        assert states_of(lif)["mem"].count_nonzero()


@pytest.mark.parametrize("dtype", DTYPES)
@each_class
def test_states_that_the_user_holds_in_other_precisions(name, dtype):
    dtype = DTYPES[dtype]
    lif = build(snn, name).to(dtype)
    rows = step_loop(lif, currents(T, B, N, dtype=dtype).requires_grad_())
    assert rows.dtype == dtype
    rows.sum().backward()
    out = lif.sequence(currents(T, B, N, dtype=dtype))
    assert all(part.dtype == dtype for part in out)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("key", CALLABLE)
def test_every_surrogate_in_other_precisions(key, dtype):
    dtype = DTYPES[dtype]
    net = make_net(snn, "Leaky", spike_grad=SURROGATES[key]()).to(dtype)
    result = drive(net, currents(T, B, N, dtype=dtype))
    assert all(value.dtype == dtype for value in result.values())
    assert result["d2.weight"].count_nonzero()
    if not key.startswith("sigmoid"):  # the formula of the host's overflows in half precision
        assert result["d0.weight"].isfinite().all()


@each_class
def test_hidden_states_move_with_the_module(name):
    net = make_net(snn, name, "spatial")
    net(currents(B, N))
    before = {key: state.detach().clone() for key, state in states_of(net[1]).items()}
    net.double()
    for key, state in states_of(net[1]).items():
        assert state.dtype == torch.float64 and torch.equal(state.float(), before[key]), key
    assert net(currents(B, N, dtype=torch.float64)).dtype == torch.float64
    net.to("meta")
    assert all(state.is_meta for state in states_of(net[1]).values())


# --- DataParallel replicas ------------------------------------------------------------------------


def replicate(net):
    """What torch.nn.parallel.replicate does, with copies on the CPU in place of those on other devices."""
    modules = list(net.modules())
    replicas = {module: module._replicate_for_data_parallel() for module in modules}
    for module, replica in replicas.items():
        replica._former_parameters = {}
        for key, child in module._modules.items():
            if child is None:
                replica._modules[key] = None
            else:
                setattr(replica, key, replicas[child])
        for key, parameter in module._parameters.items():
            if parameter is None:
                replica._parameters[key] = None
            else:
                setattr(replica, key, parameter * 1)  # a copy with a graph, which is no leaf
        for key, buffer in module._buffers.items():
            if buffer is None:
                replica._buffers[key] = None
            else:
                setattr(replica, key, buffer.detach().clone())
    return replicas[net]


def test_the_host_steps_the_original_in_a_replica():
    lif = build(snntorch, "Leaky", init_hidden=True)
    lif(currents(B, N))
    replica = replicate(lif)
    replica.beta.fill_(0.0)
    lif.mem = torch.full((B, N), 0.4)
    replica(torch.zeros(B, N))
    assert torch.equal(replica.mem, 0.9 * lif.mem - lif.reset * 0.5), "all of the original"


@each_option
def test_replicas_use_their_own_state(name, option):
    net = make_net(snn, name, option, learn_threshold=True)
    fresh = make_net(snn, name, option, learn_threshold=True)
    net(currents(B, N, seed=9))
    before = states_of(net[1])
    values = {key: state.detach().clone() for key, state in before.items()}
    cur = [currents(T, B, N, seed=seed) for seed in (1, 2)]
    replicas = [replicate(net) for _ in cur]
    net[0].weight.data.mul_(0)  # the copies keep theirs
    outs = [torch.stack([replica(c) for c in part]) for replica, part in zip(replicas, cur, strict=True)]
    for out, part, replica in zip(outs, cur, replicas, strict=True):
        snn.reset(fresh)
        assert torch.equal(out, torch.stack([fresh(c) for c in part]))
        assert all(torch.equal(s, states_of(fresh[1])[key]) for key, s in states_of(replica[1]).items())
    assert all(getattr(net[1], key) is state and torch.equal(state, values[key]) for key, state in before.items())
    # Gradients of both arrive at the original's parameters.
    sum(out.sum() for out in outs).backward()
    assert net[2].weight.grad.count_nonzero() and net[1].threshold.grad is not None


@each_class
def test_replicas_step_in_threads(name):
    """As DataParallel has them do."""
    net, fresh = make_net(snn, name), make_net(snn, name)
    cur = [currents(T, B, N, seed=seed) for seed in range(4)]
    outs = [None] * len(cur)

    def work(i, replica):
        outs[i] = torch.stack([replica(c) for c in cur[i]])

    threads = [threading.Thread(target=work, args=(i, replicate(net))) for i in range(len(cur))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for out, part in zip(outs, cur, strict=True):
        snn.reset(fresh)
        assert torch.equal(out, torch.stack([fresh(c) for c in part]))


# --- DistributedDataParallel broadcasts buffers ---------------------------------------------------


DDP = [*((name, "off") for name in CLASSES), ("RLeaky", "both"), ("Synaptic", "both")]
each_ddp = pytest.mark.parametrize("name, option", DDP, ids=["-".join(case) for case in DDP])


class SideBySide(nn.Module):
    """Nets of every class and option, for one round through DDP."""

    def __init__(self, lib, cases):
        super().__init__()
        self.nets = nn.ModuleDict({"-".join(case): make_net(lib, *case) for case in cases})

    def forward(self, x):
        return torch.stack([net(x) for net in self.nets.values()])


def ddp_worker(rank, folder):
    """Steps nets through DDP with its defaults, on data that differ by rank; see the tests below."""
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2)
    cur = currents(T, B, N, seed=rank)
    results = {}
    for who, lib, cases in (("ours", snn, DDP), ("host", snntorch, DDP[: len(CLASSES)])):
        nets, alone = SideBySide(lib, cases), SideBySide(lib, cases)
        ddp = DistributedDataParallel(nets)
        for loop, module in ((ddp, nets), (alone, alone)):
            out = torch.stack([loop(c) for c in cur])
            for case, net in module.nets.items():
                key = who, case, "alone" if loop is alone else "ddp"
                results[key] = {state: value.detach() for state, value in states_of(net[1]).items()}
            out.sum().backward()
            for case, net in module.nets.items():
                key = who, case, "alone" if loop is alone else "ddp"
                results[key] |= {f"d{parameter}": p.grad for parameter, p in net.named_parameters()}
    torch.save(results, f"{folder}/{rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ddp_results(tmp_path_factory):
    if not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
        pytest.skip("this PyTorch has no gloo")
    if TORCH < (2, 7):
        pytest.skip("torch 2.6: DDP writes to all buffers at each forward, and a backward through two of them fails")
    folder = tmp_path_factory.mktemp("ddp")
    torch.multiprocessing.spawn(ddp_worker, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@each_class
def test_the_hosts_states_are_overwritten_by_ddp(name, ddp_results):
    zero, one = ddp_results
    case = f"{name}-off"
    assert torch.equal(zero["host", case, "ddp"]["mem"], zero["host", case, "alone"]["mem"])
    assert not torch.equal(one["host", case, "ddp"]["mem"], one["host", case, "alone"]["mem"])


@each_ddp
def test_each_rank_keeps_its_own_states(name, option, ddp_results):
    case = f"{name}-{option}"
    for result in ddp_results:
        for state in STATES[name]:
            assert torch.equal(result["ours", case, "ddp"][state], result["ours", case, "alone"][state]), state
    assert not torch.equal(*(result["ours", case, "ddp"]["mem"] for result in ddp_results))


@each_ddp
def test_gradients_through_ddp_are_the_mean_over_ranks(name, option, ddp_results):
    case = f"{name}-{option}"
    zero, one = (result["ours", case, "ddp"] for result in ddp_results)
    alone = [result["ours", case, "alone"] for result in ddp_results]
    for key, grad in zero.items():
        if key.startswith("d"):
            assert torch.equal(grad, one[key]), key
            torch.testing.assert_close(grad, (alone[0][key] + alone[1][key]) / 2)
    assert zero["d0.weight"].count_nonzero()


# --- reset_mechanism and load_state_dict ----------------------------------------------------------


def set_it(lif, reset):
    lif.reset_mechanism = reset
    return lif


def other_of(lif, reset):
    """A state_dict of the same neuron, built with another reset."""
    name = type(lif).__name__
    return build(snntorch, name, reset_mechanism=reset).state_dict()


def load(lif, reset, **options):
    lif.load_state_dict(other_of(lif, reset), strict=True, **options)
    return lif


def load_net(lif, reset):
    nn.Sequential(nn.Sequential(lif)).load_state_dict({f"0.0.{k}": v for k, v in other_of(lif, reset).items()})
    return lif


CHANGE = {
    "setter": set_it,
    "load_state_dict": load,
    "load_state_dict, assign": functools.partial(load, assign=True),
    "load_state_dict of a net": load_net,
    "setter, then deepcopy": lambda lif, reset: copy.deepcopy(set_it(lif, reset)),
    "load_state_dict, then pickle": lambda lif, reset: pickle.loads(pickle.dumps(load(lif, reset))),
    "setter after a step": lambda lif, reset: set_it((lif(currents(B, N)), lif)[1], reset),
}
RESETS = ("subtract", "zero", "none")
PAIRS = [("subtract", "zero"), ("zero", "none"), ("none", "subtract")]


@pytest.mark.parametrize("how", ["setter", "load_state_dict"])
@each_class
def test_the_host_keeps_the_reset_it_was_built_with(name, how):
    lif, same = (build(snntorch, name, reset_mechanism="none") for _ in range(2))
    CHANGE[how](lif, "zero")
    cur = currents(T, B, N)
    assert torch.equal(step_loop(lif, cur), step_loop(same, cur))
    assert not torch.equal(step_loop(same, cur), step_loop(build(snntorch, name, reset_mechanism="zero"), cur))


@pytest.mark.parametrize("before, after", PAIRS, ids=[f"{a} to {b}" for a, b in PAIRS])
@pytest.mark.parametrize("how", CHANGE)
@each_class
def test_the_reset_changes_in_steps_and_sequences(name, how, before, after):
    lif = CHANGE[how](build(snn, name, reset_mechanism=before), after)
    direct = build(snn, name, reset_mechanism=after)
    assert lif.reset_mechanism == after
    assert int(lif.reset_mechanism_val) == int(direct.reset_mechanism_val)
    cur = currents(T, B, N)
    zeros = tuple(torch.zeros(B, N) for _ in STATES[name])
    first, expected = lif(cur[0] + 1, *zeros), direct(cur[0] + 1, *zeros)
    rows = [
        torch.cat([part.flatten() for part in neuron(cur[1], *out[-len(zeros) :])])
        for neuron, out in ((lif, first), (direct, expected))
    ]
    assert torch.equal(*rows)
    results = [torch.cat([part.flatten() for part in neuron.sequence(cur, *zeros)]) for neuron in (lif, direct)]
    assert torch.equal(*results)
    host = build(snntorch, name, reset_mechanism=after)
    assert torch.equal(step_loop(lif, cur), step_loop(host, cur))
    wrong = build(snntorch, name, reset_mechanism=before)
    assert not torch.equal(step_loop(host, cur), step_loop(wrong, cur)), "these data do not tell the resets apart"


@pytest.mark.parametrize("how", ["step", "sequence"])
@pytest.mark.parametrize("change", ["setter", "load_state_dict"])
@pytest.mark.parametrize("name", [name for name in CLASSES if name != "Alpha"])
def test_a_reset_that_temporal_alpha_cannot_cross_is_refused(name, change, how):
    lif = build(snn, name, "both", reset_mechanism="zero")
    with pytest.raises(ValueError, match="reset_mechanism='none'"):
        CHANGE[change](lif, "none")
        lif(currents(B, N)) if how == "step" else lif.sequence(currents(T, B, N))


@each_class
def test_an_unknown_reset_is_refused(name):
    lif = build(snn, name, reset_mechanism="zero")
    with pytest.raises(ValueError, match="reset_mechanism"):
        lif.reset_mechanism = "sideways"
    assert lif.reset_mechanism == "zero"


# --- a neuron in no cycle of references -----------------------------------------------------------


@pytest.fixture
def no_gc():
    gc.disable()
    yield
    gc.enable()


@each_class
def test_the_hosts_neurons_hold_themselves(name, registry, no_gc):
    gone = weakref.ref(build(snntorch, name))
    snntorch.SpikingNeuron.init()
    assert gone() is not None


@each_class
def test_thousands_of_neurons_leave_nothing(name, registry, no_gc):
    """Built and dropped with SpikingNeuron.init(), by counting references alone."""
    cls, kwargs = getattr(snn, name), BASE[name]
    cls(**kwargs)
    snntorch.SpikingNeuron.init()
    before = len(gc.get_objects())
    for i in range(10_000 if name == "Leaky" else 500):
        cls(**kwargs)
        if i % 500 == 499:
            snntorch.SpikingNeuron.init()
    assert len(gc.get_objects()) - before < 200
    assert snntorch.SpikingNeuron.instances == []


def use(lif):
    """Everything that could tie a knot."""
    cur = currents(T, B, N).requires_grad_()
    step_loop(lif, cur).sum().backward()
    snn.reset(lif)
    torch.stack(lif.sequence(cur)[:1]).sum().backward()
    lif(cur[0].detach())
    with torch.no_grad():
        lif(cur[0].detach())
    lif.spike_grad  # noqa: B018 (a property)
    repr(lif)
    lif.reset_mechanism = "zero"
    copy.deepcopy(lif)
    pickle.dumps(lif)
    lif.load_state_dict(lif.state_dict())
    lif(cur[0])


@pytest.mark.parametrize("init_hidden", [True, False], ids=["hidden", "states"])
@each_option
def test_a_used_neuron_is_freed(name, option, init_hidden, registry, no_gc):
    lif = build(snn, name, option, init_hidden=init_hidden)
    use(lif)
    gone = weakref.ref(lif)
    snntorch.SpikingNeuron.init()
    assert gone() is lif
    del lif
    assert gone() is None


@each_class
def test_a_converted_neuron_is_freed(name, registry, no_gc):
    lif = build(snntorch, name)
    snn.convert(lif, spatial_adj=True)
    use(lif)
    gone = weakref.ref(lif)
    snntorch.SpikingNeuron.init()
    del lif
    assert gone() is None


def test_a_neuron_built_in_a_patched_block_is_freed(registry, no_gc):
    with snn.patched(spatial_adj=True):
        gone = weakref.ref(snntorch.Leaky(0.9))
        snntorch.SpikingNeuron.init()
    assert gone() is None


def test_the_graph_of_a_dropped_neuron_is_freed(registry, no_gc):
    """Nothing but the user's own tensors keeps the steps of a net alive."""
    net = make_net(snn, "Leaky", "both")
    cur = currents(B, N)
    held = [net(cur) for _ in range(T)]
    inner = weakref.ref(net[1].mem)
    snntorch.SpikingNeuron.init()
    del net
    assert inner() is None
    held[-1].sum().backward()


# --- a second backward through a stale state ------------------------------------------------------


def loss_of(net, cur, how):
    if how == "step":
        return torch.stack([net(c) for c in cur]).sum()
    if how == "sequence":
        return net[2](net[1].sequence(net[0](cur))[0]).sum()
    first, last = cur[:2], cur[2:]
    return loss_of(net, first, "step") + loss_of(net, last, "sequence")


HOWS = ("step", "sequence", "both")


@pytest.mark.parametrize("how", HOWS)
@each_option
def test_a_stale_hidden_state_says_what_to_do(name, option, how):
    net = make_net(snn, name, option)
    loss_of(net, currents(T, B, N), how).backward()
    loss = loss_of(net, currents(T, B, N, seed=1), how)
    with pytest.raises(RuntimeError, match=r"snn\.reset") as error:
        loss.backward()
    assert "detach" in str(error.value) and "second time" in str(error.value)
    # What it says works.
    snn.reset(net)
    cur = currents(T, B, N, seed=2)
    expected = make_net(snn, name, option)
    net.zero_grad()
    loss_of(net, cur, how).backward()
    loss_of(expected, cur, how).backward()
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(net.parameters(), expected.parameters(), strict=True))


@each_class
def test_the_host_does_not_say_what_to_do(name):
    net = make_net(snntorch, name)
    net(currents(B, N)).sum().backward()
    with pytest.raises(RuntimeError, match="second time") as error:
        net(currents(B, N)).sum().backward()
    assert "detach" not in str(error.value) and "reset" not in str(error.value)


@pytest.mark.parametrize("first, second", [(1, 1), (1, 3), (3, 1)])
@pytest.mark.parametrize("how", ["step", "sequence"])
@each_option
def test_windows_of_any_length(name, option, how, first, second):
    net = make_net(snn, name, option)
    loss_of(net, currents(first, B, N), how).backward()
    with pytest.raises(RuntimeError, match=r"snn\.reset"):
        loss_of(net, currents(second, B, N, seed=1), how).backward()


@pytest.mark.parametrize("how", ["step", "sequence"])
@each_option
def test_a_stale_state_that_the_user_holds(name, option, how):
    """`mem` of the last batch handed on to the next, the other usual slip."""
    lif, fc = build(snn, name, option), nn.Linear(N, N)

    def batch(states, seed):
        cur = fc(currents(T, B, N, seed=seed))
        if how == "sequence":
            out = lif.sequence(cur, *states)
            states = (out[0][-1], *out[1:]) if name in RECURRENT else out[1:]
            return out[0].sum(), states
        loss = 0
        for c in cur:
            out = lif(c, *states)
            states = out[-len(STATES[name]) :]
            loss = loss + out[0].sum()
        return loss, states

    loss, states = batch((), seed=0)
    loss.backward()
    with pytest.raises(RuntimeError, match="detach") as error:
        batch(states, seed=1)[0].backward()
    assert "mem" in str(error.value) and "second time" in str(error.value)
    loss, states = batch(tuple(state.detach() for state in states), seed=1)
    loss.backward()


@pytest.mark.parametrize("how", HOWS)
@each_option
def test_retain_graph_goes_on_working(name, option, how):
    net, joint = make_net(snn, name, option), make_net(snn, name, option)
    cur = [currents(T, B, N, seed=seed) for seed in range(3)]
    for i, part in enumerate(cur):
        loss_of(net, part, how).backward(retain_graph=i < 2)
    sum(loss_of(joint, part, how) for part in cur).backward()
    for p, q in zip(net.parameters(), joint.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)
    if option == "off" and how == "step":
        host = make_net(snntorch, name)
        for i, part in enumerate(cur):
            loss_of(host, part, how).backward(retain_graph=i < 2)
        assert all(torch.equal(p.grad, q.grad) for p, q in zip(net.parameters(), host.parameters(), strict=True))


def assign_detached(lif):
    for key, state in states_of(lif).items():
        setattr(lif, key, state.detach())


def detach_in_place(lif):
    for state in states_of(lif).values():
        state.detach_()


def detach_hidden(lif):
    lif.detach_hidden()


DETACH = {"detach": assign_detached, "detach_": detach_in_place, "detach_hidden": detach_hidden}


@pytest.mark.parametrize(
    "how, detach", [("step", "detach"), ("both", "detach"), ("both", "detach_"), ("sequence", "detach_hidden")]
)
@each_option
def test_truncated_bptt(name, option, how, detach):
    if detach == "detach_hidden" and name == "RSynaptic":
        pytest.skip("the host's detach_hidden forgets the spikes of RSynaptic")
    net, expected = make_net(snn, name, option), make_net(snn, name, option)
    states = None
    for seed in range(3):
        loss_of(net, currents(T, B, N, seed=seed), how).backward()
        DETACH[detach](net[1])
        # The same by a net that starts from these values.
        twin = make_net(snn, name, option)
        for key, value in (states or {}).items():
            setattr(twin[1], key, value)
        loss_of(twin, currents(T, B, N, seed=seed), how).backward()
        for p, q in zip(expected.parameters(), twin.parameters(), strict=True):
            p.grad = q.grad if p.grad is None else p.grad + q.grad
        states = {key: state.detach().clone() for key, state in states_of(net[1]).items()}
    for p, q in zip(net.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)
    assert net[0].weight.grad.count_nonzero()


@each_option
def test_steps_without_gradients_in_between(name, option):
    """They leave states without a graph, and the host goes on from these."""
    net = make_net(snn, name, option)
    loss_of(net, currents(T, B, N), "step").backward()
    with torch.no_grad():
        loss_of(net, currents(T, B, N, seed=1), "step")
    before = net[0].weight.grad.clone()
    loss_of(net, currents(T, B, N, seed=2), "step").backward()
    assert not torch.equal(net[0].weight.grad, before)


@each_option
def test_two_streams_through_one_neuron(name, option):
    """The backward of one frees nothing of the other."""
    lif, fc = build(snn, name, option), nn.Linear(N, N)
    zeros = tuple(torch.zeros(B, N) for _ in STATES[name])
    states = {0: zeros, 1: zeros}

    def advance(stream, seed):
        out = lif(fc(currents(B, N, seed=seed)), *states[stream])
        states[stream] = out[-len(STATES[name]) :]
        return out[0].sum()

    first = [advance(0, 0), advance(1, 1), advance(0, 2)]
    second = advance(1, 3)
    (first[0] + first[2]).backward()
    (first[1] + second + advance(1, 4)).backward()
    states[0] = zeros
    third = advance(0, 5)
    with pytest.raises(RuntimeError, match="second time"):
        advance(1, 6).backward()
    third.backward()


@each_option
def test_an_error_in_a_forward_does_not_stick(name, option):
    net = make_net(snn, name, option)
    loss_of(net, currents(T, B, N), "step").backward()
    with pytest.raises((RuntimeError, ValueError, TypeError)):
        net(currents(B, N + 1))
    snn.reset(net)
    loss_of(net, currents(T, B, N), "step").backward()
    loss_of(make_net(snn, name, option), currents(T, B, N), "step").backward()


@each_option
def test_checkpointed_steps(name, option):
    """torch.utils.checkpoint runs a step twice and through a graph of its own."""
    lif, fc = build(snn, name, option), nn.Linear(N, N)

    def grads(call):
        fc.zero_grad()
        states, loss = tuple(torch.zeros(B, N) for _ in STATES[name]), 0
        for seed in range(T):
            out = call(lif, fc(currents(B, N, seed=seed)), *states)
            states = out[-len(states) :]
            loss = loss + out[0].sum()
        loss.backward()
        return fc.weight.grad.clone()

    plain = grads(lambda module, *args: module(*args))
    torch.testing.assert_close(grads(lambda module, *args: checkpoint(module, *args, use_reentrant=False)), plain)


# --- integers that are to be learnt ---------------------------------------------------------------

INTEGERS = [
    (name, what)
    for name in CLASSES
    for what in ("beta", "threshold", "alpha", "V")
    if not (what == "alpha" and name not in ("Synaptic", "RSynaptic")) and not (what == "V" and name not in RECURRENT)
]
each_integer = pytest.mark.parametrize("name, what", INTEGERS, ids=["-".join(case) for case in INTEGERS])
VALUES = {
    "int": lambda v: v,
    "tensor": lambda v: torch.tensor(v),
    "bool": bool,
    "int32 of one": lambda v: torch.tensor([v], dtype=torch.int32),
}


def integer(name, what, value=1):
    kwargs = {what: 0 if (name, what) == ("Alpha", "beta") and value == 1 else value}
    if what == "V":
        return kwargs | dict(linear_features=None, all_to_all=False, learn_recurrent=True)
    return kwargs | {f"learn_{what}": True}


@each_integer
def test_the_host_does_not_name_the_integer(name, what, registry):
    with pytest.raises(RuntimeError) as error:
        build(snntorch, name, **integer(name, what))
    assert what not in str(error.value)


@pytest.mark.parametrize("kind", VALUES)
@each_integer
def test_an_integer_to_be_learnt_is_refused_by_name(name, what, kind, registry):
    kwargs = integer(name, what)
    kwargs[what] = VALUES[kind](kwargs[what])
    flag = "learn_recurrent" if what == "V" else f"learn_{what}"
    with pytest.raises(ValueError, match=flag) as error:
        build(snn, name, **kwargs)
    assert what in str(error.value) and "float" in str(error.value)
    assert snntorch.SpikingNeuron.instances == [], "half a neuron in the registry"


def test_an_integer_factor_to_be_learnt_is_refused_by_name(registry):
    with pytest.raises(ValueError, match="learn_graded_spikes_factor"):
        snn.Leaky(0.9, graded_spikes_factor=1, learn_graded_spikes_factor=True)


@each_class
def test_integers_that_are_not_learnt_are_the_hosts(name):
    kwargs = dict(threshold=1) | ({} if name in ("Alpha", "Lapicque") else dict(beta=1))
    cur = currents(T, B, N)
    assert torch.equal(step_loop(build(snn, name, **kwargs), cur), step_loop(build(snntorch, name, **kwargs), cur))


# --- one value per channel of feature maps --------------------------------------------------------

PER_CHANNEL = [
    (name, what)
    for name in CLASSES
    for what in ("alpha", "beta", "threshold")
    # Lapicque takes no beta per neuron at all.
    if not (name == "Lapicque" and what == "beta") and not (what == "alpha" and "alpha" not in BASE[name])
]
each_channel = pytest.mark.parametrize("name, what", PER_CHANNEL, ids=["-".join(case) for case in PER_CHANNEL])


def per_channel(name, what, *shape):
    low = {"beta": 0.3, "alpha": 0.85, "threshold": 0.3}[what]
    high = {"beta": 0.75, "alpha": 0.95, "threshold": 0.8}[what]
    return {what: torch.linspace(low, high, MAPS[1]).reshape(MAPS[1], *shape)}


@each_channel
def test_the_host_does_not_name_the_value_per_channel(name, what):
    lif = build(snntorch, name, maps=True, **per_channel(name, what))
    with pytest.raises(RuntimeError, match="size of tensor") as error:
        lif(currents(*MAPS))
    assert what not in str(error.value)


@pytest.mark.parametrize("how", ["step", "sequence"])
@pytest.mark.parametrize("option", ["off", "spatial"])
@each_channel
def test_a_value_per_channel_names_its_shape(name, what, option, how):
    lif = build(snn, name, option, maps=True, **per_channel(name, what))
    with pytest.raises(ValueError, match=what) as error:
        lif(currents(*MAPS)) if how == "step" else lif.sequence(currents(T, *MAPS))
    assert "(4, 1, 1)" in str(error.value)


@pytest.mark.parametrize("option", ["off", "spatial"])
@each_channel
def test_the_shape_that_it_names_works(name, what, option):
    kwargs = per_channel(name, what, 1, 1)
    ours, host = build(snn, name, option, maps=True, **kwargs), build(snntorch, name, maps=True, **kwargs)
    assert torch.equal(step_loop(ours, currents(T, *MAPS)), step_loop(host, currents(T, *MAPS)))


@each_class
def test_a_value_per_neuron_of_a_dense_layer_is_the_hosts(name):
    kwargs = dict(threshold=torch.linspace(0.3, 0.8, N))
    cur = currents(T, B, N)
    assert torch.equal(step_loop(build(snn, name, **kwargs), cur), step_loop(build(snntorch, name, **kwargs), cur))


# --- no look at a value in a step -----------------------------------------------------------------

DELAYED = ("Leaky", "RLeaky", "Synaptic", "RSynaptic")
LOOKS = ("__bool__", "__int__", "__float__", "__index__", "item", "tolist", "is_nonzero", "__contains__")


@pytest.fixture
def no_looks(monkeypatch):
    """Every way from a tensor to a Python value raises: on a GPU each would wait for the device."""

    def start():
        for method in LOOKS:

            def look(self, *args, method=method, **kwargs):
                raise AssertionError(f"Tensor.{method} in a step")

            monkeypatch.setattr(torch.Tensor, method, look)

    return types.SimpleNamespace(start=start, stop=monkeypatch.undo)


@pytest.mark.parametrize("name", ["Leaky", "RLeaky", "Synaptic"])
def test_the_host_looks_at_a_tensor_in_every_step(name, no_looks):
    lif = build(snntorch, name, reset_delay=False)
    lif(currents(B, N))
    no_looks.start()
    with pytest.raises(AssertionError, match="in a step"):
        lif(currents(B, N))


LOOK_CASES = [
    (name, reset, delay, option)
    for name in CLASSES
    for reset in RESETS
    for delay in ((True, False) if name in DELAYED else (True,))
    for option in ("off", "temporal")
    # With an option on, Leaky and Lapicque are the kernels', which on the CPU read a scalar.
    if not (option == "temporal" and (name in ("Alpha", "Leaky", "Lapicque") or reset == "none" or not delay))
]


@pytest.mark.parametrize(
    "name, reset, delay, option", LOOK_CASES, ids=["-".join(map(str, case)) for case in LOOK_CASES]
)
def test_a_step_looks_at_no_value(name, reset, delay, option, no_looks):
    kwargs = dict(reset_mechanism=reset) | (dict(temporal_alpha=0.8) if option == "temporal" else {})
    kwargs |= {} if delay else dict(reset_delay=False)
    lif = build(snn, name, **kwargs)
    cur = currents(3, B, N).requires_grad_()
    zeros = tuple(torch.zeros(B, N) for _ in STATES[name])
    out = lif(cur[0], *zeros)
    no_looks.start()
    try:
        out = lif(cur[1], *out[-len(zeros) :])
        lif(cur[2])
        out[0].sum().backward()
    finally:
        no_looks.stop()


@pytest.mark.parametrize("delay", [True, False])
@each_class
def test_a_step_on_the_meta_device(name, delay):
    if not delay and name not in DELAYED:
        pytest.skip("has no reset_delay")
    lif = build(snn, name, **({} if delay else dict(reset_delay=False))).to("meta")
    out = lif(torch.empty(B, N, device="meta"))
    assert all(part.is_meta and part.shape == (B, N) for part in out)


@pytest.mark.parametrize("cls", [snn.Leaky, snn.Synaptic, snn.Alpha])
def test_a_graph_that_kept_nothing_may_be_gone_through_again(cls):
    """Nothing is freed where the input is a leaf and nothing is learnt: the host runs this."""
    first = {snn.Leaky: (0.9,)}.get(cls, (0.9, 0.8))
    lif, x = cls(*first, init_hidden=True), torch.rand(2, 3, requires_grad=True)
    for _ in range(2):
        lif(x).sum().backward()


def test_a_fixed_v_follows_its_neuron():
    lif = snn.RLeaky(0.9, V=torch.rand(3), all_to_all=False, learn_recurrent=False).double()
    assert lif.recurrent.V is lif.V and lif.V.dtype == torch.float64
    lif.load_state_dict({name: value.clone() for name, value in lif.state_dict().items()}, assign=True)
    assert lif.recurrent.V is lif.V
