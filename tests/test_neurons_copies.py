"""Copies of neurons and nets, by deepcopy, pickle or a file, before a forward pass and after. A `test_the_host_...` shows
that snnTorch still has the fault that ours lacks: where it cures one, that test fails, and goes."""

import copy
import pickle
import subprocess
import sys
import weakref

import pytest
import snntorch
import torch
from _family import (
    COPY,
    KINDS,
    B,
    N,
    T,
    assert_same,
    currents,
    drive,
    each_kind,
    served,
    torch_save_and_load,
)
from _nets import ARGUMENTS, CALLABLE, FACTORIES, SURROGATES, make_net, make_neuron, states_of, step_loop
from snntorch import surrogate as host_surrogate
from snntorch import utils as host_utils
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import snntorch_bpsta as snn

# --- utils.reset: one level, all nets, no copies --------------------------------------------------
# snn.reset is in test_conversion.py.


def nested(lib):
    return nn.Sequential(nn.Sequential(lib.Leaky(0.9, init_hidden=True)), lib.Synaptic(0.8, 0.7, init_hidden=True))


def test_the_host_resets_other_nets_and_misses_blocks_and_copies():
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


@pytest.mark.parametrize("how", COPY)
@each_kind
def test_copies_register_themselves(kind, how):
    """So that the host's own reset_hidden, utils.reset and BPTT reach them."""
    lif = make_neuron(snn, kind, init_hidden=True)
    lif(currents(B, N))
    lif(currents(B, N))
    twin = COPY[how](lif)
    assert snntorch.SpikingNeuron.instances == [lif, twin]
    assert twin.mem.count_nonzero()
    getattr(snntorch, kind).reset_hidden()
    assert not twin.mem.count_nonzero() and not lif.mem.count_nonzero()


@pytest.mark.parametrize("how", COPY)
@each_kind
def test_what_is_dropped_is_freed(kind, how):
    """A neuron, its copies, and their hidden states; snnTorch keeps every neuron that was ever built."""
    lif = make_neuron(snn, kind, init_hidden=True)
    lif(currents(B, N))
    copies = [COPY[how](lif) for _ in range(3)]
    watched = [weakref.ref(part) for part in (lif, *copies)]
    states = [weakref.ref(state) for part in (lif, *copies) for state in states_of(part).values()]
    del copies
    assert [part() is None for part in watched] == [False, True, True, True], "freed at once, without a collector"
    getattr(snntorch, kind).reset_hidden()  # counts through the list
    getattr(snntorch, kind).detach_hidden()
    host_utils.reset(nn.Sequential(lif))
    assert not states_of(lif)["mem"].count_nonzero()
    del lif
    assert not any(entry() is not None for entry in (*watched, *states))
    other = make_neuron(snn, kind)
    assert snntorch.SpikingNeuron.instances == [other], "what was freed is taken off"


def test_nets_that_are_dropped_leave_the_list():
    net = nested(snn)
    for _ in range(40):
        nested(snn)
    assert len(snntorch.SpikingNeuron.instances) <= 4  # those of the last one may be there, freed
    assert [entry for entry in snntorch.SpikingNeuron.instances if entry is not None] == [net[0][0], net[1]]


def test_the_list_has_the_order_of_construction_beside_the_hosts():
    made = [lib.Leaky(0.9, init_hidden=True) for lib in (snn, snntorch, snn, snntorch, snn)]
    assert snntorch.SpikingNeuron.instances == made
    assert [entry is neuron for entry, neuron in zip(snntorch.SpikingNeuron.instances, made, strict=True)][1::2] == [
        True,
        True,
    ]
    for neuron in made:
        neuron(torch.full((1, 2), 0.3))
    snntorch.Leaky.reset_hidden()
    assert not any(neuron.mem.count_nonzero() for neuron in made)


def test_neurons_freed_while_the_host_counts_through_them():
    """By the collector, say, for a net in a cycle: the places of the others stay."""
    made = [snn.Leaky(0.9, init_hidden=True) for _ in range(4)]
    last = made[-1]
    last(torch.full((1, 2), 0.3))
    seen = []
    for k in range(len(snntorch.SpikingNeuron.instances)):
        seen.append(snntorch.SpikingNeuron.instances[k])
        made.clear()
    assert seen[1:3] == [None, None] and seen[3] == last


# --- copies after a forward pass with gradients ---------------------------------------------------


@each_kind
def test_the_host_cannot_be_copied_after_a_forward(kind):
    lif = make_neuron(snntorch, kind, init_hidden=True)
    lif(currents(B, N).requires_grad_())
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(lif)


@served(init_hidden=(True, False), how=("deepcopy", "pickle"))
def test_copies_after_a_forward(kind, option, init_hidden, how):
    lif = make_neuron(snn, kind, option, init_hidden=init_hidden, learn_threshold=True)
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
@each_kind
def test_averaged_models(kind, average):
    net = make_net(snn, kind, "spatial", learn_threshold=True)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.02)
    drive(net, currents(T, B, N) * 2)
    averaged = AveragedModel(net, **AVERAGES[average])
    for _ in range(2):
        snn.reset(net)
        drive(net, currents(T, B, N) * 2)
        optimiser.step()
        averaged.update_parameters(net)
    assert averaged.state_dict().keys() == {"n_averaged"} | {f"module.{key}" for key in net.state_dict()}
    assert not torch.equal(averaged.module[0].weight, net[0].weight)
    snn.reset(averaged)
    assert torch.stack([averaged(c) for c in currents(T, B, N)]).isfinite().all()


# --- pickle ---------------------------------------------------------------------------------------


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
@each_kind
def test_every_class_can_be_saved(kind, kwargs):
    net = make_net(snn, kind, **kwargs)
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
    net = nn.Sequential(*(make_net(snn, name) for name in KINDS))
    net.append(make_neuron(snn, "Leaky", spike_grad=host_surrogate.fast_sigmoid(slope=10), init_hidden=True))
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
