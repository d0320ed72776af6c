"""Six neurons: `sequence` is the loop over steps, whatever runs it."""

import pytest
import snntorch
import torch
from _family import (
    CONV,
    DELAYED,
    F32,
    FAMILY,
    KINDS,
    OPTIONS,
    QUANT,
    RECURRENT,
    RESETS,
    B,
    N,
    T,
    assert_same,
    begin,
    build,
    currents,
    each_kind,
    each_option,
    has_kernel,
    per_neuron,
    refused,
    run,
    values_of,
)
from _pairwise import cases
from _tolerance import assert_close
from torch import nn

import snntorch_bpsta as snn

pytestmark = pytest.mark.filterwarnings("ignore:Inhibition is an unstable feature")

SETTINGS = {
    "numbers": lambda kind: {},
    "tensors": per_neuron,
    "inhibition": lambda kind: {"inhibition": True},
    "quantised": lambda kind: {"state_quant": QUANT},
    "bypass": lambda kind: {"surrogate_disable": True},
    "graded": lambda kind: {"graded_spikes_factor": torch.tensor(0.7), "learn_graded_spikes_factor": True},
}


def allowed(row):
    """Whether such a neuron can be built, and the implementation runs it."""
    values = {"reset_mechanism": row["reset"], "reset_delay": row["reset_delay"]} | OPTIONS[row["option"]]
    values |= SETTINGS[row["setting"]](row["kind"])
    return (
        not refused(row["kind"], **values)
        and (row["reset_delay"] or row["kind"] in DELAYED)
        and (row["setting"] != "graded" or row["kind"] == "Leaky")
        and (row["recurrence"] == "V" or row["kind"] in RECURRENT)
        and (row["how"] != "cpu" or has_kernel(row["kind"], row["recurrence"], **values))
        and (row["recurrence"] != "conv" or row["setting"] != "inhibition")  # which is one of [B, N]
    )


@cases(
    allowed, kind=KINDS, option=tuple(OPTIONS), setting=tuple(SETTINGS), reset=RESETS, recurrence=("V", "linear", "conv"),
    reset_delay=(True, False), init_hidden=(False, True), learn=(False, True),
    how=("reference", "auto", "cpu", "multistep"),
)  # fmt: skip
def test_it_is_the_loop_over_steps(kind, option, setting, reset, recurrence, reset_delay, init_hidden, learn, how):
    values = {"reset_mechanism": reset, "init_hidden": init_hidden, "learn_threshold": learn} | OPTIONS[option]
    values |= SETTINGS[setting](kind) | ({} if reset_delay else {"reset_delay": False})
    if recurrence == "conv":
        values = {name: x.mean() if isinstance(x, torch.Tensor) else x for name, x in values.items()}
    if kind != "Lapicque":  # whose beta is used once in front of the loop: test_the_kernels_are_the_loop
        values["learn_beta"] = learn
    cur = currents(T, B, *(CONV if recurrence == "conv" else (N,)), seed=14)
    neuron = build(snn, kind, recurrence, **values)
    steps = run(build(snn, kind, recurrence, **values), cur, every_state=False)
    sequence = run(neuron, cur, how=how)
    assert sequence.keys() == steps.keys()
    # Without init_hidden a sequence keeps no states, a step does. With options on a single step may be a kernel's.
    names = [name for name in steps if init_hidden or not name.startswith("hidden")]
    assert_same(sequence, steps, names, exact=how in ("reference", "multistep") and option == "off")


@cases(
    lambda row: not refused(row["kind"], **OPTIONS[row["option"]], reset_mechanism=row["reset"]),
    kind=KINDS, option=tuple(OPTIONS), reset=RESETS, how=("cpu", "auto"), learn=(False, True),
)  # fmt: skip
def test_the_kernels_are_the_loop(kind, option, reset, how, learn):
    values = {"reset_mechanism": reset, "learn_threshold": learn, "learn_beta": learn} | OPTIONS[option]
    cur = currents(9, B, N, seed=15)
    steps = run(build(snn, kind, "V", **values), cur, every_state=False)
    fused = run(build(snn, kind, "V", **values), cur, how=how)
    assert_same(fused, steps, ["spk", *(name for name in FAMILY[kind].states if name != "spk")])
    assert steps["spk"].any()
    for name in steps:
        if name.startswith("d") and steps[name] is None:  # Alpha's membrane is no state: no gradient, or a zero one
            assert fused[name] is None or not fused[name].any(), name
        elif name.startswith("d"):
            assert_close(fused[name], steps[name], F32, 10 * steps[name].abs().max(), name)


LOOPED = {
    f"{kind}-{name}": (kind, values)
    for kind in KINDS
    for name, values in (
        ("inhibition", {"inhibition": True}), ("quantised", {"state_quant": QUANT}),
        ("disabled", {"surrogate_disable": True}),
    )
    if not has_kernel(kind, **values)
}  # fmt: skip


@pytest.mark.parametrize("impl", ["cpu", "triton"])
@pytest.mark.parametrize("name", LOOPED)
def test_an_implementation_by_name_is_refused_where_it_has_to_be(name, impl):
    kind, values = LOOPED[name]
    with pytest.raises(NotImplementedError, match=impl):
        build(snn, kind, **values).sequence(currents(T, B, N), impl=impl)


@pytest.mark.parametrize("start", ["none", "tensors", "init"])
@each_option
def test_the_multistep_flag_is_sequence(kind, option, start):
    cur = currents(T, B, N, seed=16)
    flag, sequence = (run(build(snn, kind, **OPTIONS[option]), cur, start, how) for how in ("multistep", "reference"))
    assert_same(flag, sequence)


@pytest.mark.parametrize("how", ["step", "reference", "auto"])
@each_option
def test_no_states_are_zeros(kind, option, how):
    """In the gradients too, of a threshold say."""
    values = OPTIONS[option] | {"learn_threshold": True}
    cur = currents(T, B, N, seed=10)
    nothing, zeros = (
        run(build(snn, kind, **values), cur, start, how, every_state=False) for start in ("none", "zeros")
    )
    names = [name for name in nothing if not name.startswith(("hidden", "d0"))]
    assert_same(nothing, zeros, names, exact=how != "auto")


@each_option
def test_relu_and_num_steps_are_a_relu_and_a_repetition_in_front(kind, option):
    cur, results = currents(1, B, N, seed=22), []
    for short in (True, False):
        neuron, x = build(snn, kind, **OPTIONS[option]), cur.clone().requires_grad_()
        states = begin(kind, (B, N)).values()
        if short:
            out = neuron.sequence(x, *states, relu=True, num_steps=T)
        else:
            out = neuron.sequence(x.relu().expand(T, B, N), *states)
        (out[0] * currents(T, B, N, seed=23)).sum().backward()
        results.append(dict(enumerate(out)) | {"x": x.grad})
    for name in results[0]:
        assert_close(results[0][name], results[1][name], F32, 10.0, str(name))
    assert torch.equal(results[0][0], results[1][0]) and results[0][0].any()
    assert results[0]["x"][cur > 0].any() and not results[0]["x"][cur < 0].any()


@each_option
def test_it_continues_from_the_hidden_states(kind, option):
    values = {"init_hidden": True, "output": True}
    neuron, stepped = (build(snn, kind, **values, **OPTIONS[option]) for _ in range(2))
    host = build(snntorch, kind, **values)
    cur = currents(2 * T + 1, B, N, seed=17)
    spk_rec = torch.cat([neuron.sequence(cur[:T])[0], neuron.sequence(cur[T:-1])[0]])
    assert torch.equal(spk_rec, torch.stack([stepped(c)[0] for c in cur[:-1]]))
    assert torch.equal(spk_rec, torch.stack([host(c)[0] for c in cur[:-1]]))
    for name in FAMILY[kind].states:
        assert torch.equal(getattr(neuron, name), getattr(stepped, name)), name
        assert torch.equal(getattr(neuron, name), getattr(host, name)), name
    # ... and a step continues from the sequence.
    for a, b in zip(neuron(cur[-1]), stepped(cur[-1]), strict=True):
        assert torch.equal(a, b)


@each_option
def test_without_init_hidden_it_starts_at_zero_every_time_and_keeps_nothing(kind, option):
    neuron = build(snn, kind, **OPTIONS[option])
    cur = currents(T, B, N, seed=18)
    first, second = neuron.sequence(cur), neuron.sequence(cur)
    zeros = neuron.sequence(cur, *(torch.zeros(B, N) for _ in FAMILY[kind].states))
    for a, b, c in zip(first, second, zeros, strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)
    assert all(getattr(neuron, name).numel() == 0 for name in FAMILY[kind].states)


@each_option
def test_two_halves_are_the_whole(kind, option):
    """Split anywhere, the states handed on: the same spikes, states and gradients of the input."""
    neuron, cur = build(snn, kind, "V", **OPTIONS[option]), currents(T, B, N, seed=19)
    results = []
    for parts in ([cur], [cur[:2], cur[2:]]):
        parts = [part.clone().requires_grad_() for part in parts]
        states, rec = tuple(begin(kind, (B, N)).values()), []
        for part in parts:
            spk, *last = neuron.sequence(part, *states)
            states = (spk[-1], *last) if kind in RECURRENT else tuple(last)
            rec.append(spk)
        spk = torch.cat(rec)
        ((spk * currents(T, B, N, seed=20)).sum() + sum(x.sum() for x in last)).backward()
        results.append({"spk": spk, "mem": last[-1], "dinput": torch.cat([part.grad for part in parts])})
    assert_same(*results, exact=False)


@each_option
def test_samples_and_neurons_do_not_know_of_each_other(kind, option):
    """A permutation of the batch, and of the neurons where each is alone, is one of the result."""
    neuron, cur = build(snn, kind, "V", **OPTIONS[option]), currents(T, B, N, seed=24)
    order = torch.randperm(B, generator=torch.Generator().manual_seed(0)), torch.arange(N - 1, -1, -1)
    start = {name: x[order[0]][:, order[1]] for name, x in begin(kind, (B, N)).items()}
    plain = run(neuron, cur, how="auto", gradients={n: torch.ones(T, B, N) for n in ("spk", *FAMILY[kind].states)})
    moved = run(
        neuron, cur[:, order[0]][:, :, order[1]], start, "auto",
        gradients={n: torch.ones(T, B, N) for n in ("spk", *FAMILY[kind].states)},
    )  # fmt: skip
    assert torch.equal(moved["spk"], plain["spk"][:, order[0]][:, :, order[1]])
    assert_close(moved["dinput"], plain["dinput"][:, order[0]][:, :, order[1]], F32, plain["dinput"].abs().max())


class LearnableSlope(nn.Module):
    """A surrogate that is a module with a parameter, as snnTorch allows."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        soft = torch.sigmoid(self.slope * x)
        return (x > 0).to(x.dtype) + (soft - soft.detach())  # the other way round it rounds, and is looped over


@pytest.mark.parametrize("how", ["step", "reference", "cpu"])
@each_kind
def test_a_surrogate_may_be_a_module(kind, how):
    ours, host = (build(lib, kind, "V", spike_grad=LearnableSlope()) for lib in (snn, snntorch))
    assert ours.state_dict().keys() == host.state_dict().keys()
    assert dict(ours.named_parameters()).keys() == dict(host.named_parameters()).keys() != set()
    cur = currents(T, B, N)
    result, expected = run(ours, cur, how=how, every_state=False), run(host, cur, every_state=False)
    names = [name for name in values_of(expected) if not name.startswith("hidden")]
    assert_same(result, expected, [*names, "dinput", "d0mem", "dspike_grad.slope"], exact=how == "step")
