"""What a neuron keeps: a reset that follows its setter, no cycle of references; a step looks at no value."""

import copy
import functools
import gc
import pickle
import types
import weakref

import pytest
import snntorch
import torch
from _family import (
    DELAYED,
    FAMILY,
    KINDS,
    RESETS,
    B,
    N,
    T,
    arguments,
    currents,
    each_kind,
    served,
)
from _nets import make_net, make_neuron, step_loop
from _pairwise import cases
from torch import nn

import snntorch_bpsta as snn

# --- reset_mechanism and load_state_dict ----------------------------------------------------------


def set_it(lif, reset):
    lif.reset_mechanism = reset
    return lif


def other_of(lif, reset):
    """A state_dict of the same neuron, built with another reset."""
    name = type(lif).__name__
    return make_neuron(snntorch, name, reset_mechanism=reset).state_dict()


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


@pytest.mark.parametrize("how", ["setter", "load_state_dict"])
@each_kind
def test_the_host_keeps_the_reset_it_was_built_with(kind, how):
    lif, same = (make_neuron(snntorch, kind, reset_mechanism="none") for _ in range(2))
    CHANGE[how](lif, "zero")
    cur = currents(T, B, N)
    assert torch.equal(step_loop(lif, cur), step_loop(same, cur))
    assert not torch.equal(step_loop(same, cur), step_loop(make_neuron(snntorch, kind, reset_mechanism="zero"), cur))


@cases(
    lambda row: row["before"] != row["after"], kind=KINDS, how=tuple(CHANGE), before=RESETS, after=RESETS,
)  # fmt: skip
def test_the_reset_changes_in_steps_and_sequences(kind, how, before, after):
    lif = CHANGE[how](make_neuron(snn, kind, reset_mechanism=before), after)
    direct = make_neuron(snn, kind, reset_mechanism=after)
    assert lif.reset_mechanism == after
    assert int(lif.reset_mechanism_val) == int(direct.reset_mechanism_val)
    cur = currents(T, B, N)
    zeros = tuple(torch.zeros(B, N) for _ in FAMILY[kind].states)
    first, expected = lif(cur[0] + 1, *zeros), direct(cur[0] + 1, *zeros)
    rows = [
        torch.cat([part.flatten() for part in neuron(cur[1], *out[-len(zeros) :])])
        for neuron, out in ((lif, first), (direct, expected))
    ]
    assert torch.equal(*rows)
    results = [torch.cat([part.flatten() for part in neuron.sequence(cur, *zeros)]) for neuron in (lif, direct)]
    assert torch.equal(*results)
    host = make_neuron(snntorch, kind, reset_mechanism=after)
    assert torch.equal(step_loop(lif, cur), step_loop(host, cur))
    wrong = make_neuron(snntorch, kind, reset_mechanism=before)
    assert not torch.equal(step_loop(host, cur), step_loop(wrong, cur)), "these data do not tell the resets apart"


@pytest.mark.parametrize("how", ["step", "sequence"])
@pytest.mark.parametrize("change", ["setter", "load_state_dict"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "Alpha"])
def test_a_reset_that_temporal_alpha_cannot_cross_is_refused(kind, change, how):
    lif = make_neuron(snn, kind, "both", reset_mechanism="zero")
    with pytest.raises(ValueError, match="reset_mechanism='none'"):
        CHANGE[change](lif, "none")
        lif(currents(B, N)) if how == "step" else lif.sequence(currents(T, B, N))


@each_kind
def test_an_unknown_reset_is_refused(kind):
    lif = make_neuron(snn, kind, reset_mechanism="zero")
    with pytest.raises(ValueError, match="reset_mechanism"):
        lif.reset_mechanism = "sideways"
    assert lif.reset_mechanism == "zero"


# --- a neuron in no cycle of references -----------------------------------------------------------


@pytest.fixture
def no_gc():
    gc.disable()
    yield
    gc.enable()


@each_kind
def test_the_hosts_neurons_hold_themselves(kind, no_gc):
    gone = weakref.ref(make_neuron(snntorch, kind))
    snntorch.SpikingNeuron.init()
    assert gone() is not None


@each_kind
def test_thousands_of_neurons_leave_nothing(kind, no_gc):
    """Built and dropped with SpikingNeuron.init(), by counting references alone."""
    cls, kwargs = getattr(snn, kind), arguments(kind)
    cls(**kwargs)
    snntorch.SpikingNeuron.init()
    before = len(gc.get_objects())
    for i in range(10_000 if kind == "Leaky" else 500):
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


@served(init_hidden=(True, False))
def test_a_used_neuron_is_freed(kind, option, init_hidden, no_gc):
    lif = make_neuron(snn, kind, option, init_hidden=init_hidden)
    use(lif)
    gone = weakref.ref(lif)
    snntorch.SpikingNeuron.init()
    assert gone() is lif
    del lif
    assert gone() is None


@each_kind
def test_a_converted_neuron_is_freed(kind, no_gc):
    lif = make_neuron(snntorch, kind)
    snn.convert(lif, spatial_adj=True)
    use(lif)
    gone = weakref.ref(lif)
    snntorch.SpikingNeuron.init()
    del lif
    assert gone() is None


def test_a_neuron_built_in_a_patched_block_is_freed(no_gc):
    with snn.patched(spatial_adj=True):
        gone = weakref.ref(snntorch.Leaky(0.9))
        snntorch.SpikingNeuron.init()
    assert gone() is None


def test_the_graph_of_a_dropped_neuron_is_freed(no_gc):
    """Nothing but the user's own tensors keeps the steps of a net alive."""
    net = make_net(snn, "Leaky", "both")
    cur = currents(B, N)
    held = [net(cur) for _ in range(T)]
    inner = weakref.ref(net[1].mem)
    snntorch.SpikingNeuron.init()
    del net
    assert inner() is None
    held[-1].sum().backward()


# --- no look at a value in a step -----------------------------------------------------------------

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
    lif = make_neuron(snntorch, name, reset_delay=False)
    lif(currents(B, N))
    no_looks.start()
    with pytest.raises(AssertionError, match="in a step"):
        lif(currents(B, N))


LOOK_CASES = [
    (name, reset, delay, option)
    for name in KINDS
    for reset in RESETS
    for delay in ((True, False) if name in DELAYED else (True,))
    for option in ("off", "temporal")
    # With an option on, Leaky and Lapicque are the kernels', which on the CPU read a scalar.
    if not (option == "temporal" and (name in ("Alpha", "Leaky", "Lapicque") or reset == "none" or not delay))
]


@pytest.mark.parametrize(
    "kind, reset, delay, option", LOOK_CASES, ids=["-".join(map(str, case)) for case in LOOK_CASES]
)
def test_a_step_looks_at_no_value(kind, reset, delay, option, no_looks):
    kwargs = dict(reset_mechanism=reset) | (dict(temporal_alpha=0.8) if option == "temporal" else {})
    kwargs |= {} if delay else dict(reset_delay=False)
    lif = make_neuron(snn, kind, **kwargs)
    cur = currents(3, B, N).requires_grad_()
    zeros = tuple(torch.zeros(B, N) for _ in FAMILY[kind].states)
    lif(cur[0], *zeros)[0].sum().backward()  # the end of the first training pass is looked at, once
    out = lif(cur[0], *zeros)
    no_looks.start()
    try:
        out = lif(cur[1], *out[-len(zeros) :])
        lif(cur[2])
        out[0].sum().backward()
    finally:
        no_looks.stop()


@pytest.mark.parametrize("delay", [True, False])
@each_kind
def test_a_step_on_the_meta_device(kind, delay):
    if not delay and kind not in DELAYED:
        pytest.skip("has no reset_delay")
    lif = make_neuron(snn, kind, **({} if delay else dict(reset_delay=False))).to("meta")
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
