"""The neurons as people use them: overrides, states of every step, monitors, checkpointing, values in float64, evaluation
before training. Each test began as a fault that someone could meet."""

import copy
import gc
import pickle
import sys
import weakref

import numpy as np
import pytest
import snntorch
import torch
from snntorch.functional import probe
from torch import nn
from torch.utils.checkpoint import checkpoint

import snntorch_bpsta as snn

T, B, N = 6, 3, 20
ROWS = {
    "Leaky": {"beta": 0.9, "threshold": 0.5},
    "RLeaky": {"beta": 0.9, "linear_features": N, "threshold": 0.5},
    "Lapicque": {"beta": 0.5, "threshold": 0.3},
    "Synaptic": {"alpha": 0.8, "beta": 0.7, "threshold": 0.5},
    "RSynaptic": {"alpha": 0.8, "beta": 0.7, "linear_features": N, "threshold": 0.5},
    "Alpha": {"alpha": 0.9, "beta": 0.4, "threshold": 0.2},
}
OPTIONS = {"off": {}, "on": {"spatial_adj": True, "temporal_alpha": 0.8}}
KINDS = [(kind, option) for kind in ROWS for option in OPTIONS]


def build(kind, option="off", package=snn, **others):
    torch.manual_seed(1)
    options = {name: value for name, value in OPTIONS[option].items() if (kind, name) != ("Alpha", "temporal_alpha")}
    return getattr(package, kind)(**(ROWS[kind] | options | others))


def current(seed=0, steps=T):
    torch.manual_seed(seed)
    return torch.rand(steps, B, N) * 2 - 0.3


def loop(neuron, cur):
    """Spikes and the states that a step returns, of every step, by a user's loop."""
    states, rows = (), []
    neuron.reset_mem()
    for cur_t in cur:
        out = neuron(cur_t, *states)
        states = out if hasattr(neuron, "recurrent") else out[1:]
        rows.append(out)
    return [torch.stack(row) for row in zip(*rows, strict=True)]


def names_of(kind):
    return {"Leaky": ["mem"], "Lapicque": ["mem"], "RLeaky": ["mem"], "Alpha": ["syn_exc", "syn_inh", "mem"]}.get(
        kind, ["syn", "mem"]
    )


# --- overrides ----------------------------------------------------------------------------------------


def silent(kind):
    """A neuron that fires 100 later."""
    base = getattr(snn, kind)
    return type("Silent", (base,), {"fire": lambda self, mem: base.fire(self, mem - 100)})


@pytest.mark.parametrize(("kind", "option"), KINDS)
def test_an_overridden_fire_is_called(kind, option):
    cur = current()
    assert build(kind, option).sequence(cur)[0].any()
    torch.manual_seed(1)
    neuron = silent(kind)(
        **ROWS[kind], **{k: v for k, v in OPTIONS[option].items() if (kind, k) != ("Alpha", "temporal_alpha")}
    )
    assert not loop(neuron, cur)[0].any() and not neuron.sequence(cur)[0].any()
    assert not snn.MultiStep(neuron)(cur).any()
    with pytest.raises(NotImplementedError, match="Silent"):
        neuron.sequence(cur, impl="cpu")


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("name", ["fire", "_base_state_function", "mem_reset", "state_function"])
def test_an_override_on_the_neuron_alone_is_called(name, option):
    neuron, cur = build("Leaky", option), current()
    plain = loop(neuron, cur)
    original = getattr(neuron, name)
    factor = 0 if name == "mem_reset" else 0.5
    setattr(neuron, name, lambda x: original(x) * factor)
    expected = loop(neuron, cur)
    assert not torch.equal(plain[0], expected[0])
    spk_rec, mem = neuron.sequence(cur)
    assert torch.equal(spk_rec, expected[0]) and torch.equal(mem, expected[1][-1])


SWITCHES = {
    "inhibition": (True, "inhibition"),
    "state_quant": (lambda x: x.round(decimals=1), "state_quant"),
    "reset_delay": (False, None),
    "fire": (lambda mem: (mem > 0.7).float(), "fire"),
    "warm_up": ("identity", None),
    "reset_mechanism": ("none", None),
}


@pytest.mark.parametrize("name", SWITCHES)
def test_what_is_set_between_two_steps_holds(name):
    """Also where the step before went to the kernels."""
    value, reason = SWITCHES[name]
    cur, mem = current()[0], torch.zeros(B, N)
    neuron, other = build("Leaky", spatial_adj=True), build("Leaky", spatial_adj=True)
    before = neuron(cur * 2, mem)
    setattr(other, name, value)
    setattr(neuron, name, value)
    expected = other(cur * 2, before[1])
    actual = neuron(cur * 2, before[1])
    assert all(map(torch.equal, actual, expected))
    untouched = build("Leaky", spatial_adj=True)(cur * 2, before[1])
    assert not all(map(torch.equal, actual, untouched))
    if reason:
        with pytest.raises(NotImplementedError, match=reason):
            neuron.sequence(cur[None], impl="cpu")


def test_an_option_switched_on_and_off_between_two_steps():
    cur, neuron = current()[0].requires_grad_(), build("Leaky")
    grads = []
    for on in (False, True, False):
        neuron.spatial_adj = on
        grads.append(torch.autograd.grad(neuron(cur, torch.zeros(B, N))[0].sum(), cur)[0])
    assert torch.equal(grads[0], grads[2]) and not torch.equal(grads[0], grads[1])
    fired = cur > 0.5
    assert torch.allclose(grads[1], torch.where(fired, 1 / cur, 0.0))


def test_equations_of_ones_own_survive_convert_and_revert():
    neuron, cur = build("Leaky", package=snntorch), current()
    neuron.state_function = lambda cur: neuron.mem * 0.5 + cur
    expected = loop(neuron, cur)
    snn.convert(neuron, spatial_adj=True)
    assert all(map(torch.equal, loop(neuron, cur), expected))
    snn.revert(neuron)
    assert all(map(torch.equal, loop(neuron, cur), expected))


class Halved(snn.Leaky):
    """A forward in snnTorch's own form."""

    def forward(self, input_, mem=None):
        return super().forward(input_ / 2, mem)


class HalvedSynaptic(snn.Synaptic):
    def forward(self, input_, syn=None, mem=None):
        return super().forward(input_ / 2, syn, mem)


class HalvedRecurrent(snn.RSynaptic):
    def forward(self, input_, spk=None, syn=None, mem=None):
        return super().forward(input_ / 2, spk, syn, mem)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("cls", [Halved, HalvedSynaptic, HalvedRecurrent])
def test_a_forward_of_single_steps_is_looped_over(cls, hidden, option):
    kind = cls.__mro__[1].__name__
    cur = current()
    torch.manual_seed(1)
    neuron = cls(**ROWS[kind], **OPTIONS[option], init_hidden=hidden)
    expected = loop(build(kind, option), cur / 2)
    spk_rec, *states = neuron.sequence(cur, record=("mem",))
    assert torch.equal(spk_rec, expected[0]) and torch.equal(states[-1], expected[-1])
    snn.reset(neuron)
    assert torch.equal(snn.MultiStep(nn.ReLU(), neuron)(cur.clone()), loop(build(kind, option), cur.relu() / 2)[0])


def test_states_for_a_forward_of_ones_own():
    cur, mem = current(), torch.full((B, N), 0.4)
    spk_rec, last = Halved(**ROWS["Leaky"]).sequence(cur, mem)
    expected = build("Leaky").sequence(cur / 2, mem)
    assert torch.equal(spk_rec, expected[0]) and torch.equal(last, expected[1])
    with pytest.raises(TypeError, match="init_hidden=True"):
        Halved(**ROWS["Leaky"], init_hidden=True).sequence(cur, mem)


def test_a_forward_that_names_multistep_gets_the_whole_sequence():
    class Whole(snn.Leaky):
        def forward(self, input_, mem=None, *, multistep=False, **options):
            assert multistep and input_.dim() == 3
            return super().forward(input_ / 2, mem, multistep=multistep, **options)

    assert torch.equal(Whole(**ROWS["Leaky"]).sequence(current())[0], build("Leaky").sequence(current() / 2)[0])


def test_a_forward_that_returns_too_little_is_told():
    class Spikes(snn.Leaky):
        def forward(self, input_, mem=None):
            return super().forward(input_, mem)[:1]

    with pytest.raises(TypeError, match="forward of Spikes must return spk, mem, got 1"):
        Spikes(beta=0.9).sequence(current())


# --- states of every step -----------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize(("kind", "option"), KINDS)
def test_recorded_states_are_the_loops(kind, option, hidden):
    cur, names = current(), names_of(kind)
    expected = dict(zip(["spk", *names], loop(build(kind, option), cur), strict=True))
    for record in [(name,) for name in names] + [tuple(names), ()]:
        neuron = build(kind, option, init_hidden=hidden)
        spk_rec, *states = neuron.sequence(cur, record=record)
        assert torch.equal(spk_rec, expected["spk"])
        for name, state in zip(names, states, strict=True):
            assert torch.equal(state, expected[name] if name in record else expected[name][-1]), name
            if hidden:
                assert torch.equal(getattr(neuron, name), expected[name][-1])
                getattr(neuron, name).detach_()


@pytest.mark.parametrize("kind", ROWS)
def test_the_gradient_goes_through_recorded_states(kind):
    grads = []
    for how in ("loop", "sequence"):
        cur, neuron = current().requires_grad_(), build(kind, "on")
        rows = loop(neuron, cur) if how == "loop" else neuron.sequence(cur, record=names_of(kind))
        weight = torch.linspace(-1, 1, T * B * N).view(T, B, N)
        grads += torch.autograd.grad(sum((row * weight).sum() for row in rows), cur)
    assert torch.allclose(*grads, atol=1e-5) and grads[0].any()


@pytest.mark.parametrize("record", ["mem", ("syn",), ("mem", "spk"), (0,), None])
def test_a_wrong_record_is_refused(record):
    with pytest.raises(ValueError, match=r"record must be .* of Leaky, of \('mem',\)"):
        build("Leaky").sequence(current(), record=record)


@pytest.mark.parametrize("package", [snn, snntorch])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("kind", ["Leaky", "Synaptic", "RLeaky"])
def test_multistep_returns_what_a_last_neuron_with_output_returns(kind, nested, batch_first, package):
    cur = current()
    first, last = build(kind), build(kind, package=package, init_hidden=True, output=True)
    expected = loop(build(kind), loop(build(kind), cur)[0])
    layers = [first, nn.Sequential(nn.Identity(), last)] if nested else [first, last]
    net = snn.MultiStep(*layers, batch_first=batch_first)
    out = net(cur.transpose(0, 1) if batch_first else cur)
    assert isinstance(out, tuple) and len(out) == len(expected)
    for actual, row in zip(out, expected, strict=True):
        assert torch.equal(actual.transpose(0, 1) if batch_first else actual, row)


def test_multistep_hands_on_the_spikes_of_a_neuron_with_output_in_the_middle():
    cur = current()
    out = snn.MultiStep(build("Leaky", init_hidden=True, output=True), nn.Identity())(cur)
    assert torch.equal(out, loop(build("Leaky"), cur)[0])


# --- monitors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize(("kind", "option"), KINDS)
def test_a_monitor_sees_the_state_that_a_sequence_ended_with(kind, option, hidden):
    cur, net = current(), snn.MultiStep(build(kind, option, init_hidden=hidden))
    name = names_of(kind)[0]
    monitor = probe.AttributeMonitor(name, False, net, instance=snntorch.SpikingNeuron)
    net(cur)
    net[0].sequence(cur[:3], record=(name,)) if not hidden else None
    expected = loop(build(kind, option), cur)[1]
    assert torch.equal(monitor.records[0], expected[-1])
    assert hidden or torch.equal(monitor.records[1], expected[2])


def test_a_monitor_sees_each_step_and_a_copy_its_own():
    neuron = build("Leaky", "on")
    for each in (neuron, copy.deepcopy(neuron), copy.copy(neuron), pickle.loads(pickle.dumps(neuron))):
        monitor = probe.AttributeMonitor("mem", False, each, instance=snn.Leaky)
        _, expected = loop(each, current())
        assert torch.equal(torch.stack(monitor.records), expected)
        del monitor
    assert neuron._replicate_for_data_parallel().__getattr__("mem").numel() == 0
    with pytest.raises(AttributeError, match="no attribute 'syn'"):
        neuron.__getattr__("syn")
    assert neuron.__getattr__("beta") is neuron.beta


def test_the_monitors_door_makes_no_cycle_and_keeps_nothing_alive():
    neuron = build("Leaky", "on")
    spk_rec, mem = neuron.sequence(current().requires_grad_())
    seen = [weakref.ref(neuron), weakref.ref(mem)]
    snntorch.SpikingNeuron.instances.remove(neuron)
    gc.disable()
    try:
        del mem, spk_rec
        assert seen[1]() is None
        del neuron
        assert seen[0]() is None
    finally:
        gc.enable()


def test_no_frame_of_ours_at_a_parameter():
    assert not any(
        "__getattr__" in vars(cls) for cls in snn.Leaky.__mro__ if cls.__module__.startswith("snntorch_bpsta")
    )
    stock = snn.Leaky(beta=0.9)
    snn.revert(stock)
    assert "__getattr__" not in vars(stock)


# --- activation checkpointing -------------------------------------------------------------------------


def gradient_of_steps(net, cur, wrap):
    """A user's loop over hidden states, each step through `wrap`."""
    cur = cur.clone().requires_grad_()
    snn.reset(net)
    sum(wrap(net, cur_t).sum() * (t + 1) for t, cur_t in enumerate(cur)).backward()
    return cur.grad


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize(("kind", "option"), KINDS)
def test_checkpointed_steps_with_hidden_states_are_refused(kind, option, reentrant):
    net = build(kind, option, init_hidden=True)
    with pytest.raises(RuntimeError, match=r"inside a backward pass.*snn\.reset\(net\) first"):
        gradient_of_steps(net, current(), lambda net, cur: checkpoint(net, cur, use_reentrant=reentrant))


@pytest.mark.parametrize("reset", ["before", "after", "other"])
def test_checkpointed_steps_are_refused_whatever_happens_to_the_states_meanwhile(reset):
    net, cur = build("Leaky", "on", init_hidden=True), current().requires_grad_()
    snn.reset(net)
    loss = sum(checkpoint(net, cur_t, use_reentrant=False).sum() for cur_t in cur)
    if reset == "after":
        snn.reset(net)
    elif reset == "other":
        net(torch.rand(B + 1, N))
    with pytest.raises(RuntimeError, match="inside a backward pass"):
        loss.backward()


def reset_all(net):
    for neuron in net.modules():
        if isinstance(neuron, snntorch.SpikingNeuron):
            neuron.reset_mem()


def assign(net):
    for name in net._states:
        setattr(net, name, torch.zeros(B, N))


RESETS = {
    "snn.reset": snn.reset,
    "reset_mem": reset_all,
    "assigned": assign,
    "reset_hidden": lambda net: net.reset_hidden(),
}


RESET_INSIDE = [(kind, option, "snn.reset") for kind, option in KINDS]
RESET_INSIDE += [(kind, "on", reset) for kind in ("Leaky", "RLeaky") for reset in RESETS if reset != "snn.reset"]


@pytest.mark.parametrize("how", ["steps", "sequence"])
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize(("kind", "option", "reset"), RESET_INSIDE)
def test_a_checkpointed_sequence_with_the_reset_inside_is_right(kind, option, reentrant, reset, how):
    net = build(kind, option, init_hidden=True)

    def whole(cur):
        RESETS[reset](net)
        return torch.stack([net(cur_t) for cur_t in cur]) if how == "steps" else net.sequence(cur)[0]

    weight, grads = torch.linspace(-1, 1, T * B * N).view(T, B, N), []
    for wrapped in (whole, lambda cur: checkpoint(whole, cur, use_reentrant=reentrant)):
        cur = current().requires_grad_()
        (wrapped(cur) * weight).sum().backward()
        grads.append(cur.grad)
    assert torch.equal(*grads) and grads[0].any()


def test_a_reset_inside_that_forgets_a_state_is_refused():
    """As RSynaptic.reset_hidden() of snnTorch does, with the spike."""
    net, cur = build("RSynaptic", init_hidden=True), current().requires_grad_()

    def whole(cur):
        net.reset_hidden()
        return net.sequence(cur)[0]

    spk_rec = checkpoint(whole, cur, use_reentrant=False)
    with pytest.raises(RuntimeError, match="inside a backward pass"):
        spk_rec.sum().backward()


def test_checkpointed_steps_with_states_passed_are_right():
    grads = []
    for wrap in (lambda f, *args: f(*args), lambda f, *args: checkpoint(f, *args, use_reentrant=False)):
        net, cur, mem = build("Leaky", "on"), current().requires_grad_(), torch.zeros(B, N)
        spikes = []
        for cur_t in cur:
            spk, mem = wrap(net, cur_t, mem)
            spikes.append(spk)
        (torch.stack(spikes) * torch.arange(T).view(T, 1, 1)).sum().backward()
        grads.append(cur.grad)
    assert torch.equal(*grads) and grads[0].any()


# --- values per neuron in float64 ---------------------------------------------------------------------


def wide(lowest, highest):
    return torch.from_numpy(np.random.default_rng(0).uniform(lowest, highest, N))


def number(value):
    return torch.tensor(value, dtype=torch.float64)


DOUBLES = [
    ("Leaky", {"beta": wide(0.8, 0.99)}),
    ("Leaky", {"threshold": wide(0.4, 0.6)}),
    ("Leaky", {"graded_spikes_factor": wide(0.5, 1)}),
    ("Leaky", {"beta": number(0.9), "threshold": number(0.4)}),
    ("Leaky", {"beta": wide(0.8, 0.99), "learn_beta": True}),
    ("Lapicque", {"threshold": wide(0.2, 0.4)}),
    ("Lapicque", {"beta": number(0.7)}),
    ("Lapicque", {"beta": False, "R": number(2.0), "C": number(3.0), "time_step": number(0.7)}),
    ("RLeaky", {"beta": wide(0.8, 0.99)}),
    ("RLeaky", {"linear_features": None, "all_to_all": False, "V": wide(0.1, 0.5)}),
    ("Synaptic", {"alpha": wide(0.8, 0.99)}),
    ("Synaptic", {"beta": wide(0.8, 0.99)}),
    ("RSynaptic", {"alpha": wide(0.8, 0.99)}),
    ("RSynaptic", {"linear_features": None, "all_to_all": False, "V": wide(0.1, 0.5)}),
    ("Alpha", {"alpha": wide(0.9, 0.99)}),
    ("Alpha", {"threshold": wide(0.2, 0.3)}),
]


@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("how", ["steps", "sequence"])
@pytest.mark.parametrize(("kind", "values"), DOUBLES, ids=lambda x: x if isinstance(x, str) else "-".join(x))
def test_float64_values_in_a_float32_network_are_as_in_snntorch(kind, values, how, option, reset):
    cur, grads = current(), []
    host, ours = (
        build(kind, choice, package, reset_mechanism=reset, **copy.deepcopy(values))
        for choice, package in (("off", snntorch), (option, snn))
    )
    expected = loop(host, cur_host := cur.clone().requires_grad_())
    actual = loop(ours, cur_ours := cur.clone().requires_grad_())
    if how == "sequence":
        actual = ours.sequence(cur_ours, record=names_of(kind))
    for mine, row in zip(actual, expected, strict=True):
        assert mine.dtype == row.dtype and torch.equal(mine, row)
    for rows, x in ((expected, cur_host), (actual, cur_ours)):
        grads += torch.autograd.grad(sum(row.sum() for row in rows), x)
    assert grads[1].isfinite().all()
    if option == "off":
        assert torch.allclose(*grads, atol=1e-6)


@pytest.mark.parametrize("option", OPTIONS)
def test_the_next_layer_takes_the_spikes_of_float64_values(option):
    net = snn.MultiStep(build("Leaky", option, beta=wide(0.8, 0.99)), nn.Linear(N, 4), build("Leaky", option))
    net(current().requires_grad_()).sum().backward()
    assert net[1].weight.grad.dtype == torch.float32


# --- evaluation before training, values moved in place ------------------------------------------------


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("how", ["steps", "sequence"])
@pytest.mark.parametrize(("kind", "option"), KINDS)
def test_training_goes_on_from_an_evaluation_in_inference_mode(kind, option, how, reset):
    def run(mode):
        net, cur = build(kind, option, init_hidden=True), current().requires_grad_()
        run_all = (lambda: [net(cur_t) for cur_t in cur]) if how == "steps" else (lambda: net.sequence(cur)[0])
        with mode():
            run_all()
            if reset:
                snn.reset(net)
        spk = run_all()
        return torch.autograd.grad(torch.stack(list(spk)).sum(), [cur, *net.parameters()])

    assert all(map(torch.equal, run(torch.inference_mode), run(torch.no_grad)))


@pytest.mark.parametrize("option", OPTIONS)
def test_states_of_an_evaluation_may_be_passed_on(option):
    net, cur = build("Leaky", option, learn_beta=True), current().requires_grad_()
    with torch.inference_mode():
        _, mem = net.sequence(cur)
    for spk, _ in (net(cur[0], mem), net.sequence(cur, mem)):
        spk.sum().backward()
    assert net.beta.grad.isfinite()


@pytest.mark.parametrize("moved", ["threshold", "beta"])
@pytest.mark.parametrize("how", ["steps", "sequence"])
@pytest.mark.parametrize(("kind", "option"), KINDS)
def test_values_moved_in_place_between_steps(kind, option, how, moved):
    """Homeostasis."""  # needs the engine's part: for Leaky and Lapicque with a threshold
    cur = current().requires_grad_()
    net, still = build(kind, option), build(kind, option)
    value = getattr(net, moved) if isinstance(getattr(net, moved), torch.Tensor) else None
    states, spikes, thawed = (), [], []
    for cur_t in cur:
        out = net.sequence(cur_t[None], *states) if how == "sequence" else net(cur_t, *states)
        spikes.append(out[0])
        states = (out[0][-1] if how == "sequence" else out[0], *out[1:]) if hasattr(net, "recurrent") else out[1:]
        with torch.no_grad():
            value.mul_(0.99)
    grad = torch.autograd.grad(torch.stack(spikes).sum(), cur)[0]
    states = ()
    for t, cur_t in enumerate(cur):  # the same with a new tensor at each step
        if t:
            setattr(still, moved, getattr(still, moved) * 0.99)
        out = still(cur_t, *states)
        thawed.append(out[0])
        states = out if hasattr(still, "recurrent") else out[1:]
    expected = torch.autograd.grad(torch.stack(thawed).sum(), cur)[0]
    assert torch.allclose(grad, expected, atol=1e-6) and grad.any()


# --- the cost of a step -------------------------------------------------------------------------------


def test_frames_of_a_step():
    """Python functions of the neurons from the call on, without those of the engine."""
    neuron, cur, mem = build("Leaky", "on"), current()[0], torch.zeros(B, N)
    spk, mem = neuron(cur, mem)
    seen = frames_of(lambda: neuron(cur, mem), "/neurons/")
    assert len(seen) <= 12, seen


@pytest.mark.parametrize("option", OPTIONS)
def test_frames_of_a_sequence(option):
    """Python functions of the package in one call; of 128 neurons they are most of its time."""
    neuron, cur = build("Leaky", option), current().requires_grad_()
    neuron.sequence(cur)
    seen = frames_of(lambda: neuron.sequence(cur), "/snntorch_bpsta/")
    assert len(seen) <= 25, seen


def frames_of(call, folder):
    """The names of the Python functions, of files in a folder, that a call enters."""
    seen = []

    def note(frame, event, argument):
        if event == "call" and folder in frame.f_code.co_filename.replace("\\", "/"):
            seen.append(frame.f_code.co_name)

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return seen
