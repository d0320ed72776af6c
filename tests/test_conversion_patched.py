"""patched: code that knows nothing of us, inside a block, in threads, tasks and generators."""

import asyncio
import contextvars
import copy
import inspect
import threading
import types
import warnings

import pytest
import snntorch
import torch
from _conversion import (
    BOTH,
    OFF,
    SPATIAL,
    TEMPORAL,
    MyHost,
    MyNeuron,
    MyOurs,
    convert_quietly,
    each_served,
    spiking,
)
from _family import (
    KINDS,
    B,
    N,
    T,
    assert_same,
    build,
    currents,
    drive,
    run,
    same_values,
)
from _versions import SINCE_1
from torch import nn

import snntorch_bpsta as snn

# --- patched --------------------------------------------------------------------------------------

THIRD_PARTY = """
import snntorch
import snntorch as aliased
from snntorch import Leaky, RLeaky, Lapicque, Synaptic, RSynaptic, Alpha
from snntorch._neurons.leaky import Leaky as Deep
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(7, 7)
        self.one = snntorch.Leaky(beta=0.9, threshold=0.5, init_hidden=True)
        self.two = aliased.Synaptic(alpha=0.8, beta=0.7, threshold=0.5, init_hidden=True)
        self.blocks = nn.ModuleList([nn.Sequential(Deep(0.9, 0.5, init_hidden=True))])
        self.rec = RLeaky(beta=0.9, linear_features=7, threshold=0.5, init_hidden=True)

    def forward(self, x):
        return self.rec(self.blocks[0](self.two(self.one(self.fc(x)))))
"""


def third_party():
    """Code that knows nothing of us and has imported its names long ago."""
    module = types.ModuleType("third_party")
    exec(THIRD_PARTY, vars(module))
    return module


HOST_KINDS = [getattr(snntorch, name) for name in KINDS]


@pytest.fixture
def host_classes_stay():
    """After the test the host's classes are what they were, attribute by attribute."""
    classes = [*HOST_KINDS, snntorch.SpikingNeuron, snntorch.LIF, nn.Module]
    before = [{k: v for k, v in vars(c).items() if k != "instances"} for c in classes]
    module = dict(vars(snntorch))
    yield
    for cls, was in zip(classes, before, strict=True):
        now = {k: v for k, v in vars(cls).items() if k != "instances"}
        assert list(now) == list(was) and all(now[k] is was[k] for k in was), cls
    assert vars(snntorch) == module


def host_is_plain():
    lif = snntorch.Leaky(0.9)
    return type(lif) is snntorch.Leaky


@pytest.mark.parametrize("options", [SPATIAL, TEMPORAL, BOTH, OFF], ids=["spatial", "temporal", "both", "off"])
def test_third_party_code(options, host_classes_stay):
    code = third_party()
    torch.manual_seed(0)
    plain = code.Net()
    torch.manual_seed(0)
    with snn.patched(**options):
        net = code.Net()
    for name, module in spiking(net).items():
        assert type(module) is getattr(snn, type(module).__name__), name
        assert (module.spatial_adj, module.temporal_alpha) == (options["spatial_adj"], options["temporal_alpha"])
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), plain.state_dict().values(), strict=True))
    cur = currents(T, B, N)
    ours, expected = drive(net, cur), drive(plain, cur)
    assert same_values(ours, expected)
    torch.manual_seed(0)
    converted = code.Net()
    convert_quietly(converted, **options)
    assert_same(ours, drive(converted, cur))
    assert all(type(m) is getattr(snntorch, type(m).__name__) for m in spiking(code.Net()).values()), "after the block"


@each_served
def test_patched_gives_what_our_constructor_gives(kind, options, host_classes_stay):
    with snn.patched(**options):
        made = build(snntorch, kind, reset_mechanism="zero", learn_threshold=True)
    direct = build(snn, kind, reset_mechanism="zero", learn_threshold=True, **options)
    assert type(made) is type(direct)
    cur = currents(T, B, N)
    assert_same(run(made, cur, "zeros"), run(direct, cur, "zeros"))


def test_names_and_isinstance_inside_the_block(host_classes_stay):
    before = build(snntorch, "Leaky")
    leaky, signature = snntorch.Leaky, inspect.signature(snntorch.Leaky)
    with snn.patched(**BOTH):
        assert snntorch.Leaky is leaky
        assert inspect.signature(snntorch.Leaky) == signature
        assert isinstance(before, snntorch.Leaky) and type(before) is snntorch.Leaky
        made = snntorch.Leaky(0.9)
        assert isinstance(made, snntorch.Leaky) and isinstance(made, snn.Leaky)
        assert issubclass(snn.Leaky, snntorch.Leaky) and not isinstance(before, snn.Leaky)
        assert copy.deepcopy(before).__class__ is snntorch.Leaky
        before(currents(B, N))
    assert isinstance(before, snntorch.Leaky) and isinstance(made, snntorch.Leaky)


def test_neurons_that_are_ours_keep_their_own_options_inside(host_classes_stay):
    with snn.patched(**BOTH):
        plain, spatial = snn.Leaky(0.9), snn.Leaky(0.9, spatial_adj=True)
        mine = MyOurs(0.9)
    assert (plain.spatial_adj, plain.temporal_alpha) == (False, 0)
    assert (spatial.spatial_adj, spatial.temporal_alpha) == (True, 0)
    assert type(mine) is MyOurs and (mine.spatial_adj, mine.temporal_alpha) == (False, 0)


@SINCE_1
def test_what_is_not_served_stays_the_hosts_inside(host_classes_stay):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with snn.patched(**BOTH):
            made = [
                MyHost(0.9),
                snntorch.SLSTM(N, N),
                snntorch.SConv2dLSTM(2, 2, 3),
                MyNeuron(),
                snntorch.DeltaLeaky(1.0, 0.9),
            ]
    assert [type(m).__name__ for m in made] == ["MyHost", "SLSTM", "SConv2dLSTM", "MyNeuron", "DeltaLeaky"]
    assert not any(hasattr(m, "spatial_adj") for m in made)


def test_what_cannot_be_stays_the_hosts_and_says_so(host_classes_stay):
    with pytest.warns(UserWarning, match="is not patched.*threshold"), snn.patched(**BOTH):
        lif = snntorch.Leaky(0.9, threshold=0.0)
    assert type(lif) is snntorch.Leaky


def test_what_can_be_in_part_is_and_says_so(host_classes_stay):
    with pytest.warns(UserWarning, match="patched with temporal_alpha=0.*reset_mechanism"), snn.patched(**BOTH):
        lif = snntorch.Leaky(0.9, reset_mechanism="none")
    assert type(lif) is snn.Leaky and (lif.spatial_adj, lif.temporal_alpha) == (True, 0)


def test_one_entry_in_the_registry(monkeypatch):
    monkeypatch.setattr(snntorch.SpikingNeuron, "instances", [])
    with snn.patched(**BOTH):
        made = [snntorch.Leaky(0.9), snn.Leaky(0.9), MyHost(0.9)]
    assert snntorch.SpikingNeuron.instances == made


def test_nested(host_classes_stay):
    def made():
        lif = snntorch.Leaky(0.9)
        return type(lif) is snn.Leaky and (lif.spatial_adj, lif.temporal_alpha)

    with snn.patched(**SPATIAL):
        assert made() == (True, 0)
        with snn.patched(**TEMPORAL):
            assert made() == (False, 0.8)
            with snn.patched():
                assert made() == (False, 0)
            assert made() == (False, 0.8)
        assert made() == (True, 0)
    assert made() is False


def test_undone_on_exception(host_classes_stay):
    with pytest.raises(KeyError, match="from inside"), snn.patched(**SPATIAL):
        with pytest.raises(ZeroDivisionError), snn.patched(**TEMPORAL):
            raise ZeroDivisionError
        assert snntorch.Leaky(0.9).spatial_adj is True
        raise KeyError("from inside")
    assert host_is_plain()


def test_errors_of_the_hosts_constructor_come_through(host_classes_stay):
    with snn.patched(**BOTH):
        with pytest.raises(TypeError, match="beta"):
            snntorch.Leaky()
        with pytest.raises(ValueError, match="reset_mechanism"):
            snntorch.Leaky(0.9, reset_mechanism="sideways")
        assert type(snntorch.Leaky(0.9)) is snn.Leaky
    assert host_is_plain()


def in_thread(function):
    """Run in another thread; its result, or its exception here."""
    box = {}

    def run():
        try:
            box["result"] = function()
        except BaseException as error:  # noqa: BLE001 (handed to the test)
            box["error"] = error

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    if "error" in box:
        raise box["error"]
    return box["result"]


def test_other_threads_are_not_affected(host_classes_stay):
    with snn.patched(**BOTH):
        assert in_thread(host_is_plain)
        assert not host_is_plain()


def test_two_threads_each_with_its_own(host_classes_stay):
    inside, leave = threading.Barrier(3), threading.Barrier(3)
    options = {"spatial": SPATIAL, "temporal": TEMPORAL}
    made, errors = {key: [] for key in options}, []

    def work(key):
        try:
            with snn.patched(**options[key]):
                inside.wait(60)
                made[key] = [snntorch.Leaky(0.9) for _ in range(50)]
                leave.wait(60)
                if key == "temporal":
                    first.join(60)  # the other has left its block; ours is still in force
                    made[key].append(snntorch.Leaky(0.9))
        except BaseException as error:  # noqa: BLE001 (shown by the test)
            errors.append(error)

    first, second = (threading.Thread(target=work, args=(key,)) for key in options)
    first.start()
    second.start()
    inside.wait(60)
    plain = [host_is_plain() for _ in range(50)]
    leave.wait(60)
    first.join(60)
    second.join(60)
    assert not errors and all(plain)
    assert {(m.spatial_adj, m.temporal_alpha) for m in made["spatial"]} == {(True, 0.0)}
    assert {(m.spatial_adj, m.temporal_alpha) for m in made["temporal"]} == {(False, 0.8)} and len(
        made["temporal"]
    ) == 51
    assert host_is_plain()


def test_an_empty_context_is_not_affected(host_classes_stay):
    with snn.patched(**BOTH):
        assert contextvars.Context().run(host_is_plain)
        assert not contextvars.copy_context().run(host_is_plain)


def test_tasks_do_not_leak_into_each_other(host_classes_stay):
    async def patched_task(started, go_on):
        with snn.patched(**BOTH):
            started.set()
            await go_on.wait()
            return type(snntorch.Leaky(0.9)) is snn.Leaky

    async def main():
        started, go_on = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(patched_task(started, go_on))
        await started.wait()
        outside = host_is_plain()
        go_on.set()
        return outside, await task

    assert asyncio.run(main()) == (True, True)
    assert host_is_plain()


def patched_generator(**options):
    with snn.patched(**options):
        while True:
            yield snntorch.Leaky(0.9)


def test_a_generator_that_is_closed(host_classes_stay):
    generator = patched_generator(**BOTH)
    assert type(next(generator)) is snn.Leaky
    generator.close()
    assert host_is_plain()


def test_generators_that_end_in_any_order(host_classes_stay):
    first, second = patched_generator(**SPATIAL), patched_generator(**TEMPORAL)
    next(first)
    next(second)
    first.close()
    assert snntorch.Leaky(0.9).temporal_alpha == 0.8
    second.close()
    assert host_is_plain()


def test_a_block_left_in_another_context(host_classes_stay):
    """As fixtures and asynchronous generators do."""
    generator = patched_generator(**BOTH)
    assert type(contextvars.copy_context().run(next, generator)) is snn.Leaky
    assert host_is_plain()
    generator.close()
    assert host_is_plain()


def test_a_block_left_in_another_thread(host_classes_stay):
    generator = patched_generator(**BOTH)
    next(generator)
    in_thread(generator.close)
    assert in_thread(host_is_plain) and host_is_plain()
