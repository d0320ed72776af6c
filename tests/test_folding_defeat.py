"""Networks made to defeat :func:`snn.fold_time`: each is folded rightly or left alone, never wrong."""

import random
import sys
import types
import warnings
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import snntorch
import torch
from _folding import assert_alike, assert_same, run
from _loops import B, Dense, T, leaky
from torch import nn

import snntorch_bpsta as snn


class Way(NamedTuple):
    build: type
    left: str | None  # what the report says of a net that is left alone; None where it is folded


WAYS: dict[str, Way] = {}


def way(left=None):
    def add(build):
        WAYS[build.__name__] = Way(build, left)
        return build

    return add


class Steps(Dense):
    """A loop with a place to do something else in each step."""

    def start(self, x):
        pass

    def between(self, t, x, spk1, mem1, mem2):
        return spk1, mem1, mem2

    def stop(self, t, spk2):
        return False

    def forward(self, x):
        self.start(x)
        mem1, mem2, out, membranes = self.lif1.init_leaky(), self.lif2.init_leaky(), [], []
        for t in range(len(x)):
            spk1, mem1 = self.lif1(self.fc1(x[t]), mem1)
            spk1, mem1, mem2 = self.between(t, x, spk1, mem1, mem2)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            out.append(spk2)
            membranes.append(mem2)
            if self.stop(t, spk2):
                break
        return torch.stack(out), torch.stack(membranes)


@way("__bool__() takes numbers out of the graph between the steps")
class DecidesBySpikes(Steps):
    def between(self, t, x, spk1, mem1, mem2):
        return (spk1 if spk1.sum() > 25 else 0.5 * spk1), mem1, mem2


@way("__bool__() takes numbers out of the graph between the steps")
class StopsEarly(Steps):
    def stop(self, t, spk2):
        return bool(spk2.sum() > 6)


@way("item() takes numbers out of the graph between the steps")
class Item(Steps):
    def between(self, t, x, spk1, mem1, mem2):
        return spk1 * (1 + spk1.mean().item()), mem1, mem2


@way()
class DecidesByInput(Steps):
    def start(self, x):
        self.fast = bool(x.mean() > 10)

    def forward(self, x):
        if x.max() > 1.99:
            x = x / 2
        return super().forward(x)


@way("is called in the pass, between its steps")
class LearnsBetween(Steps):
    def forward(self, x):
        with torch.no_grad():
            return super().forward(x)

    def between(self, t, x, spk1, mem1, mem2):
        if t == 2:
            with torch.enable_grad():
                self.fc2(spk1).square().mean().backward()
            torch.optim.SGD(self.fc2.parameters(), lr=0.1).step()
        return spk1, mem1, mem2


@way("fc2.weight is written to in place")
class Hebb(Steps):
    def forward(self, x):
        with torch.no_grad():
            return super().forward(x)

    def between(self, t, x, spk1, mem1, mem2):
        self.fc2.weight.add_(0.01 * spk1.mean(0))
        return spk1, mem1, mem2


@way("writes to")
class HebbByData(Steps):
    def between(self, t, x, spk1, mem1, mem2):
        self.fc2.weight.data += 0.01 * spk1.detach().mean(0)
        return spk1, mem1, mem2


@way("an attribute of a tensor is set")
class ExchangesData(Steps):
    def between(self, t, x, spk1, mem1, mem2):
        self.fc2.weight.data = self.fc2.weight.data * 0.9
        return spk1, mem1, mem2


@way("lif1.threshold is written to in place")
class Homeostasis(Steps):
    def between(self, t, x, spk1, mem1, mem2):
        self.lif1.threshold.mul_(1.01)
        return spk1, mem1, mem2


@way("lif1.beta is changed in the pass")
class BetaOfTheStep(Steps):
    def between(self, t, x, spk1, mem1, mem2):
        self.lif1.beta = torch.tensor(0.9 - 0.05 * t)
        return spk1, mem1, mem2


@way("is changed in the pass")
class BetaThereAndBack(Steps):
    def between(self, t, x, spk1, mem1, mem2):
        kept = self.lif2.beta
        self.lif2.beta = torch.tensor(0.5)
        mem2 = self.lif2(torch.ones(B, 5), mem2)[1]
        self.lif2.beta = kept
        return spk1, mem1, mem2


@way()
class WeightsByHand(Steps):
    """Parameters exchanged by torch.func, in the forward."""

    def between(self, t, x, spk1, mem1, mem2):
        weights = {"weight": self.fc2.weight * 0.5, "bias": self.fc2.bias}
        return spk1 + torch.func.functional_call(self.fc2, weights, (spk1,)).mean(), mem1, mem2


@way("is written to in place")
class TraceInPlace(Steps):
    def __init__(self):
        super().__init__()
        self.register_buffer("trace", torch.zeros(20))

    def between(self, t, x, spk1, mem1, mem2):
        self.trace.mul_(0.9).add_(spk1.detach().mean(0))
        return spk1 * (1 + self.trace), mem1, mem2


@way()
class TraceAnew(Steps):
    def __init__(self):
        super().__init__()
        self.trace = torch.zeros(20)

    def between(self, t, x, spk1, mem1, mem2):
        self.trace = 0.9 * self.trace + spk1.detach().mean(0)
        return spk1 * (1 + self.trace), mem1, mem2


@way("is changed in the pass, and it is no tensor")
class StatesInAList(Steps):
    def __init__(self):
        super().__init__()
        self.seen = []

    def between(self, t, x, spk1, mem1, mem2):
        self.seen.append(spk1)
        return spk1, mem1, mem2


@way("is changed in the pass, and it is no tensor")
class StatesInAnObject(Steps):
    def __init__(self):
        super().__init__()
        self.box = SimpleNamespace(trace=torch.zeros(20))

    def between(self, t, x, spk1, mem1, mem2):
        self.box.trace = 0.9 * self.box.trace + spk1.detach().mean(0)
        return spk1 * (1 + self.box.trace), mem1, mem2


class Averaging(nn.Module):
    """A foreign layer with a state: a number until the first step."""

    def __init__(self):
        super().__init__()
        self.v = 0.0

    def forward(self, x):
        self.v = 0.5 * self.v + x.detach()
        return x + self.v


@way()
class ForeignState(Steps):
    def __init__(self):
        super().__init__()
        self.average = Averaging()

    def start(self, x):
        self.average.v = 0.0

    def between(self, t, x, spk1, mem1, mem2):
        return self.average(spk1), mem1, mem2


class Adapting(snntorch.Leaky):
    """A neuron of one's own, with a threshold that moves."""

    def forward(self, x, mem=None):
        spk, mem = super().forward(x, mem)
        self.trace = getattr(self, "trace", 0.0) * 0.8 + spk.detach()
        return spk, mem - 0.2 * self.trace


@way()
class OwnNeuron(Steps):
    def __init__(self):
        super().__init__()
        self.lif1 = Adapting(beta=0.9, threshold=0.4)

    def start(self, x):
        self.lif1.trace = torch.zeros(B, 20)


def _eager(self, mem):
    """Fires at half of the threshold."""
    return self.spike_grad(mem - 0.5 * self.threshold)


@way()
class FiresInItsOwnWay(Steps):
    def __init__(self):
        super().__init__()
        self.lif1.fire = types.MethodType(_eager, self.lif1)


class Eager(snn.Leaky):
    fire = _eager


@way("register_hook() is called")  # by which ours tells a freed graph
class OursFiresInItsOwnWay(Steps):
    def __init__(self):
        super().__init__()
        self.lif1, self.lif2 = Eager(beta=0.9, temporal_alpha=0.5), snn.Leaky(beta=0.9, inplace=True)


@way()
class LooksAtItsNeuron(Steps):
    """Its state, behind the step."""

    def between(self, t, x, spk1, mem1, mem2):
        return spk1 + 0.1 * self.lif1.mem.clamp(0, 1), mem1, mem2


@way("made by something which is not seen")
class LooksAtItsReset(Steps):
    def between(self, t, x, spk1, mem1, mem2):
        return spk1 + 0.1 * self.lif1.reset, mem1, mem2


@way("two passes with arguments of one kind differ")
class PythonsRandom(Steps):
    def between(self, t, x, spk1, mem1, mem2):
        return (spk1 if random.random() < 0.5 else 0.5 * spk1), mem1, mem2


@way("made by something which is not seen")
class NumpysRandom(Steps):
    def between(self, t, x, spk1, mem1, mem2):
        return spk1 + torch.from_numpy(np.random.rand(20).astype("float32")), mem1, mem2


@way("a ndarray is turned into a tensor")
class NumpysTensor(Steps):
    def between(self, t, x, spk1, mem1, mem2):
        return spk1 + torch.tensor(np.random.rand(20).astype("float32")), mem1, mem2


@way("numpy() is called")
class ThroughNumpy(Steps):
    def between(self, t, x, spk1, mem1, mem2):
        return spk1 * float(spk1.detach().numpy().mean()), mem1, mem2


@way("calls is changed in the pass")
class Counter(Steps):
    calls = 0

    def start(self, x):
        self.calls += 1

    def between(self, t, x, spk1, mem1, mem2):
        return spk1 * self.calls, mem1, mem2


@way("random numbers are drawn or seeded by something which is not seen")
class Seeds(Steps):
    def start(self, x):
        torch.manual_seed(7)

    def between(self, t, x, spk1, mem1, mem2):
        return spk1 * torch.rand(20), mem1, mem2


@way("gives a shape that depends on the numbers")
class Masks(Steps):
    def between(self, t, x, spk1, mem1, mem2):
        return spk1 + mem1[mem1 > 0.2].sum(), mem1, mem2


@way("gives a shape that depends on the numbers")
class Nonzero(Steps):
    def between(self, t, x, spk1, mem1, mem2):
        return spk1 * len(torch.nonzero(spk1)), mem1, mem2


@way()
class StateInPlace(Steps):
    def between(self, t, x, spk1, mem1, mem2):
        mem1 = mem1.clone()
        mem1.mul_(0.5)
        return spk1, mem1, mem2


@way()
class TheVeryStateInPlace(Steps):
    """The neuron's own tensor, behind its back."""

    def forward(self, x):
        with torch.no_grad():
            return super().forward(x)

    def between(self, t, x, spk1, mem1, mem2):
        mem1.mul_(0.5)
        return spk1, mem1, mem2


@way("writes to memory that another tensor shares")
class StateByAView(Steps):
    def forward(self, x):
        with torch.no_grad():
            return super().forward(x)

    def between(self, t, x, spk1, mem1, mem2):
        mem1[:, :5].mul_(0.5)
        return spk1, mem1, mem2


@way("writes to memory that another tensor shares")
class RowInPlace(Steps):
    def between(self, t, x, spk1, mem1, mem2):
        spk1 = spk1.clone()
        spk1[0] += 1
        return spk1, mem1, mem2


@way()
class AsksForTheShapeOfAState(Steps):
    """Which is another one in the first call, and after a call of another size."""

    def forward(self, x):
        mem1, mem2, out = self.lif1.mem, self.lif2.init_leaky(), []
        for t in range(len(x)):
            if mem1.shape[:1] != x.shape[1:2]:
                mem1 = torch.ones(x.shape[1], 20) * 0.3
            spk1, mem1 = self.lif1(self.fc1(x[t]), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            out.append(mem2)
        return torch.stack(out)


@way("writes to a tensor from outside")
class WritesToItsInput(Steps):
    def forward(self, x):
        with torch.no_grad():
            return super().forward(x)

    def between(self, t, x, spk1, mem1, mem2):
        if t + 1 < len(x):
            x[t + 1, 0] = spk1[0, :12]
        return spk1, mem1, mem2


@way("register_hook() is called")
class TensorHook(Steps):
    def between(self, t, x, spk1, mem1, mem2):
        if spk1.requires_grad:
            spk1.register_hook(lambda grad: 0.5 * grad)
        else:
            mem1.mean().item()
        return spk1, mem1, mem2


@way("is called, and what it does is not seen")
class Prints(Steps):
    def between(self, t, x, spk1, mem1, mem2):
        repr(spk1)
        return spk1, mem1, mem2


@way("is returned, and what is in it is not seen")
class ReturnsAnObject(Steps):
    def forward(self, x):
        return [SimpleNamespace(out=super().forward(x)), *super().forward(x)]


@way()
class ResetsNowAndThen(Steps):
    def between(self, t, x, spk1, mem1, mem2):
        return (spk1, torch.zeros_like(mem1), mem2) if t % 3 == 2 else (spk1, mem1, mem2)


@way()
class OneStepMore(Steps):
    """A neuron that is called twice in a step, with one state."""

    def between(self, t, x, spk1, mem1, mem2):
        more, mem1 = self.lif1(0.1 * spk1, mem1)
        return spk1 + more, mem1, mem2


@way()
class AllStepsInside(Steps):
    def __init__(self):
        super().__init__()
        self.lif1 = snn.Leaky(beta=0.9, threshold=0.4)

    def between(self, t, x, spk1, mem1, mem2):
        return self.lif1.sequence(torch.stack([spk1, mem1]))[0][1], mem1, mem2


@way("autocast, inference mode or the default dtype is switched inside")
class AutocastInside(Steps):
    def between(self, t, x, spk1, mem1, mem2):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            spk1 = self.fc1(torch.nn.functional.pad(spk1, (0, -8)))
        return spk1.float(), mem1, mem2


@pytest.mark.parametrize("name", WAYS)
def test_right_or_left_alone(name):
    build, left = WAYS[name]
    pair = []
    for fold in (False, True):
        torch.manual_seed(0)
        net = build()
        pair.append(((snn.fold_time(net) if fold else net), nn.ModuleList([net])))
    assert_alike(*pair, lambda: (torch.rand(T, B, 12) * 2,), calls=5)
    report = pair[1][0].report()
    assert (left in (report.reason or "")) if left else report.reason is None, report


def test_a_net_that_was_not_given():
    net, other = Dense(), nn.Linear(5, 2)

    def function(x):
        return other(net(x)[1])

    with pytest.warns(UserWarning, match=r"a parameter is used of a net that fold_time was not given.*\.py:\d+"):
        snn.fold_time(function, net)(torch.rand(B, 12))
    fast = snn.fold_time(function, net, other)
    for _ in range(3):
        torch.testing.assert_close(fast(x := torch.rand(B, 12)), function(x))
    assert fast.report().reason is None


def test_what_is_left_alone_is_warned_of_once():
    fast = snn.fold_time(StopsEarly())
    x = torch.rand(T, B, 12)
    with pytest.warns(
        UserWarning,
        match=r"fold_time\(StopsEarly\): the net's own loop runs: __bool__\(\) .*test_folding_defeat.py:\d+",
    ):
        fast(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fast(x)


def test_a_branch_on_the_input_goes_both_ways():
    torch.manual_seed(0)
    net = DecidesByInput()
    fast = snn.fold_time(net)
    for call, top in enumerate((1.0, 1.0, 1.0, 3.0, 1.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 1.0)):
        x = torch.rand(T, B, 12) * top
        assert_same(fast(x), net(x), f"call {call}")
    assert fast.report().reason is None


class Settings:
    scale = 1.0


settings = types.ModuleType("settings_of_the_user")
settings.scale = 1.0
sys.modules[settings.__name__] = settings
scale, box, number = 1.0, {"scale": 1.0}, SimpleNamespace(scale=1.0, inner=SimpleNamespace(scale=1.0))
table = torch.ones(20)


class Globals(Steps):
    own = 1.0

    def between(self, t, x, spk1, mem1, mem2):
        spk1 = spk1 * scale * box["scale"] * number.scale * number.inner.scale * table
        return _scaled(spk1) * Settings.scale * settings.scale * self.own, mem1, mem2


def _scaled(x):
    return x * second


second = 1.0


@pytest.mark.parametrize(
    "change",
    [
        "scale",
        "second",
        "box",
        "number",
        "inner",
        "class",
        "module",
        "net's class",
        "table",
        "table in place",
        "attribute",
    ],
)
def test_numbers_from_outside_the_net(change, monkeypatch):
    torch.manual_seed(0)
    net = Globals()
    fast, x, here = snn.fold_time(net), torch.rand(T, B, 12), globals()
    for _ in range(3):
        before = fast(x)
    assert_same(before, net(x), "before")
    if change in ("scale", "second"):
        monkeypatch.setitem(here, change, 0.5)
    elif change == "box":
        monkeypatch.setitem(box, "scale", 0.5)
    elif change == "number":
        monkeypatch.setattr(number, "scale", 0.5)
    elif change in ("inner", "class", "module", "net's class"):
        where = {"inner": number.inner, "class": Settings, "module": settings, "net's class": Globals}[change]
        monkeypatch.setattr(where, "own" if where is Globals else "scale", 0.5)
    elif change == "table":
        monkeypatch.setitem(here, "table", torch.full((20,), 0.5))
    elif change == "table in place":
        monkeypatch.setitem(here, "table", torch.ones(20))
        for _ in range(3):
            fast(x)
        table.mul_(0.5)
    else:
        net.lif1.threshold = torch.tensor(0.9)
    for _ in range(3):
        after = fast(x)
        assert_same(after, net(x), "after")
    assert not torch.equal(before[1], after[1])
    assert fast.report().reason is None


def test_states_of_another_size():
    pair = []
    for fold in (False, True):
        torch.manual_seed(0)
        net = AsksForTheShapeOfAState()
        function = snn.fold_time(net) if fold else net
        rows = []
        for call, batch in enumerate((3, 3, 3, 3, 2, 2, 3, 3, 2, 3, 2, 2, 2, 3, 3, 2, 3)):
            x = torch.rand(T, batch, 12, generator=torch.Generator().manual_seed(call)) * 2
            rows.append(function(x).detach())
            for lif in (net.lif1, net.lif2):
                lif.mem = lif.mem.detach()
        pair.append(rows)
    assert_same(pair[1], pair[0], "outputs")
    assert function.report().reason is None


def test_closures_and_default_arguments():
    net, gain = Dense(), [1.0]
    torch.manual_seed(0)

    def function(x):
        return net(x * gain[0])[1]

    fast, x = snn.fold_time(function, net), torch.rand(B, 12)
    for value in (1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 1.0):
        gain[0] = value
        torch.testing.assert_close(fast(x), function(x))


def test_settings_between_calls():
    """Attributes, other parameters, another surrogate, another module."""
    torch.manual_seed(0)
    net = Dense()
    fast, x = snn.fold_time(net), torch.rand(B, 12)

    def same():
        for call in range(3):
            got, ours = run(fast, nn.ModuleList([net]), [x], call)
            expected, grads = run(net, nn.ModuleList([net]), [x], call)
            assert_same(got, expected, "outputs")
            assert_same(ours, grads, "gradients")
        return got

    first = same()
    net.steps = T + 2
    assert len(same()[0]) == T + 2 != len(first[0])
    net.fc1.weight = nn.Parameter(net.fc1.weight.detach() * 2)
    same()
    net.lif1.spike_grad = snntorch.surrogate.fast_sigmoid(slope=3)
    same()
    net.lif1 = leaky(beta=0.3, reset_mechanism="zero")
    same()
    net.fc2.weight.requires_grad_(False)
    same()
    net.lif2.beta.mul_(0.5)
    same()
    snn.convert(net, spatial_adj=True, temporal_alpha=0.5)
    same()
    assert fast.report().reason is None


def test_hooks_see_every_call():
    net, seen = Dense(), []
    fast, x = snn.fold_time(net), torch.rand(B, 12)
    for _ in range(3):
        fast(x)
    handle = net.fc2.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with pytest.warns(UserWarning, match="fc2 has hooks"):
        fast(x)
    fast(x)
    assert len(seen) == 2 * T
    handle.remove()
    fast(x)
    assert len(seen) == 2 * T and fast.report().reason is None


def test_monitors_of_snntorch():
    from snntorch.functional import probe

    net = Dense()
    fast, x = snn.fold_time(net), torch.rand(B, 12)
    monitor = probe.OutputMonitor(net, instance=snntorch.Leaky)
    with pytest.warns(UserWarning, match="hooks"):
        for _ in range(4):
            fast(x)
    assert len(monitor["lif1"]) == 4 * T


def test_what_is_new_in_every_call_is_given_up():
    class Busy(Steps):
        serial = 0

    net = Busy()
    fast, x = snn.fold_time(net), torch.rand(T, B, 12)
    with pytest.warns(UserWarning, match="of another kind"):
        for call in range(20):
            net.serial = call
            assert_same(fast(x), net(x), "call")


def test_a_wrong_fold_is_found_and_left_alone(monkeypatch):
    """A rule that is wrong: the layer is named, and taken step by step."""
    from snntorch_bpsta.folding import replay

    right = replay.over_time

    def wrong(call, name, *rest):
        out = right(call, name, *rest)
        return out + 0.01 if name == "linear" else out

    torch.manual_seed(0)
    net = Dense()
    fast, x = snn.fold_time(net), torch.rand(T, B, 12)
    monkeypatch.setattr(replay, "over_time", wrong)
    with pytest.warns(UserWarning, match="fc2 gave other numbers"):
        for _ in range(4):
            assert_same(fast(x[0]), net(x[0]), "outputs")
    report = fast.report()
    assert "fc2" in report.stepped and "other numbers" in report.stepped["fc2"], report
    assert "lif1" in report.grouped


@pytest.mark.parametrize("norm", [False, True])
def test_a_failure_in_the_middle(norm, monkeypatch):
    """The loop takes over, but where running averages have moved already: there the error goes to the user."""
    from snntorch_bpsta.folding import replay

    torch.manual_seed(0)
    net = Dense()
    if norm:
        net.fc1 = nn.Sequential(net.fc1, nn.BatchNorm1d(20))
    fast, x = snn.fold_time(net), torch.rand(B, 12)
    for _ in range(3):
        fast(x)

    def fails(*args):
        raise MemoryError("no room")

    monkeypatch.setattr(replay, "over_time", fails)
    if norm:
        with pytest.raises(MemoryError, match="no room"):
            fast(x)
        return
    with pytest.warns(UserWarning, match="the calls for all steps at once failed: MemoryError: no room"):
        assert_same(fast(x), net(x), "outputs")
    assert "no room" in fast.report().reason


def test_an_error_of_the_net_is_the_users():
    net = Dense()
    fast = snn.fold_time(net)
    for _ in range(3):
        fast(torch.rand(B, 12))
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            fast(torch.rand(B, 13))
    assert "fc1" in snn.fold_time(net).report(torch.rand(B, 12)).grouped
