"""Neurons in replicas of DataParallel, and in two processes of DistributedDataParallel."""

import threading

import pytest
import snntorch
import torch
from _family import (
    FAMILY,
    KINDS,
    B,
    N,
    T,
    currents,
    each_kind,
    each_option,
)
from _nets import make_net, make_neuron, states_of
from _versions import TORCH
from torch import nn

import snntorch_bpsta as snn

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
    lif = make_neuron(snntorch, "Leaky", init_hidden=True)
    lif(currents(B, N))
    replica = replicate(lif)
    replica.beta.fill_(0.0)
    lif.mem = torch.full((B, N), 0.4)
    replica(torch.zeros(B, N))
    assert torch.equal(replica.mem, 0.9 * lif.mem - lif.reset * 0.5), "all of the original"


@each_option
def test_replicas_use_their_own_state(kind, option):
    net = make_net(snn, kind, option, learn_threshold=True)
    fresh = make_net(snn, kind, option, learn_threshold=True)
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


@each_kind
def test_replicas_step_in_threads(kind):
    """As DataParallel has them do."""
    net, fresh = make_net(snn, kind), make_net(snn, kind)
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


DDP = [*((name, "off") for name in KINDS), ("RLeaky", "both"), ("Synaptic", "both")]
each_ddp = pytest.mark.parametrize("kind, option", DDP, ids=["-".join(case) for case in DDP])


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
    for who, lib, cases in (("ours", snn, DDP), ("host", snntorch, DDP[: len(KINDS)])):
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


@each_kind
def test_the_hosts_states_are_overwritten_by_ddp(kind, ddp_results):
    zero, one = ddp_results
    case = f"{kind}-off"
    assert torch.equal(zero["host", case, "ddp"]["mem"], zero["host", case, "alone"]["mem"])
    assert not torch.equal(one["host", case, "ddp"]["mem"], one["host", case, "alone"]["mem"])


@each_ddp
def test_each_rank_keeps_its_own_states(kind, option, ddp_results):
    case = f"{kind}-{option}"
    for result in ddp_results:
        for state in FAMILY[kind].states:
            assert torch.equal(result["ours", case, "ddp"][state], result["ours", case, "alone"][state]), state
    assert not torch.equal(*(result["ours", case, "ddp"]["mem"] for result in ddp_results))


@each_ddp
def test_gradients_through_ddp_are_the_mean_over_ranks(kind, option, ddp_results):
    case = f"{kind}-{option}"
    zero, one = (result["ours", case, "ddp"] for result in ddp_results)
    alone = [result["ours", case, "alone"] for result in ddp_results]
    for key, grad in zero.items():
        if key.startswith("d"):
            assert torch.equal(grad, one[key]), key
            torch.testing.assert_close(grad, (alone[0][key] + alone[1][key]) / 2)
    assert zero["d0.weight"].count_nonzero()
