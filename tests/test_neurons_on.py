"""Six neurons, options on: snnTorch's spikes and states, bit for bit; only gradients differ."""

import pytest
import snntorch
import torch
from _family import (
    CIRCUITS,
    CONV,
    DELAYED_IN_HOST,
    F64,
    FAMILY,
    KINDS,
    OPTIONS,
    QUANT,
    RECURRENT,
    RESETS,
    SERVED,
    B,
    N,
    T,
    assert_same,
    build,
    currents,
    each_kind,
    each_option,
    pair,
    per_neuron,
    refused,
    run,
    values_of,
)
from _pairwise import cases

import snntorch_bpsta as snn

pytestmark = pytest.mark.filterwarnings("ignore:Inhibition is an unstable feature")

ON = {name: options for name, options in OPTIONS.items() if options} | {
    "both-alpha1": {"spatial_adj": True, "temporal_alpha": 1.0},
    "rectangle": {"temporal_alpha": 0.3, "spike_grad": snn.surrogate.rectangle(0.7)},
}
SETTINGS = {
    "numbers": lambda kind: {},
    "tensors": per_neuron,
    "inhibition": lambda kind: {"inhibition": True},
    "quantised": lambda kind: {"state_quant": QUANT},
    "graded": lambda kind: {"graded_spikes_factor": 0.7},
}
each_on = pytest.mark.parametrize("kind, option", [case for case in SERVED if case[1] != "off"])


def fires_as_snntorch(kind, recurrence, cur, option, **values):
    """Ours with an option on against snnTorch's with none."""
    ours, host = build(snn, kind, recurrence, **values, **option), pair(kind, recurrence, **values)[1]
    expected, result = run(host, cur), run(ours, cur)
    assert_same(result, expected, values_of(expected))
    return result, expected


@cases(
    lambda row: not refused(
        row["kind"], **ON[row["option"]], reset_mechanism=row["reset"], reset_delay=row["reset_delay"]
    )
    and (row["reset_delay"] or row["kind"] in DELAYED_IN_HOST)
    and (row["setting"] != "graded" or row["kind"] == "Leaky")
    and (row["recurrence"] == "V" or row["kind"] in RECURRENT),
    kind=KINDS, option=tuple(ON), setting=tuple(SETTINGS), reset=RESETS, recurrence=("V", "linear"),
    reset_delay=(True, False), init_hidden=(False, True), output=(False, True),
)  # fmt: skip
def test_it_fires_as_snntorch(kind, option, setting, reset, recurrence, reset_delay, init_hidden, output):
    values = {"reset_mechanism": reset, "init_hidden": init_hidden, "output": output} | SETTINGS[setting](kind)
    values |= {} if reset_delay else {"reset_delay": False}
    result, expected = fires_as_snntorch(kind, recurrence, currents(T, B, N, seed=10), ON[option], **values)
    assert expected["spk"].any() and not torch.equal(result["dinput"], expected["dinput"])


@pytest.mark.parametrize("option", ["off", "spatial", "temporal", "both"])
@pytest.mark.parametrize("recurrence", ["conv", "conv-wide"])
@pytest.mark.parametrize("kind", RECURRENT)
def test_convolutional_recurrence(kind, recurrence, option):
    cur = currents(T, B, *CONV, seed=13)
    _, expected = fires_as_snntorch(kind, recurrence, cur, OPTIONS[option])
    sequence = build(snn, kind, recurrence, **OPTIONS[option])
    assert torch.equal(run(sequence, cur, how="sequence")["spk"], expected["spk"])


@pytest.mark.parametrize("option", ["spatial", "both"])
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("circuit", CIRCUITS)
def test_circuits(circuit, reset, option):
    if refused("Lapicque", reset_mechanism=reset, **OPTIONS[option]):
        pytest.skip("refused at construction")
    cur = currents(T, B, N, seed=4) * 4
    _, expected = fires_as_snntorch("Lapicque", "V", cur, OPTIONS[option], reset_mechanism=reset, **CIRCUITS[circuit])
    assert expected["spk"].any()


@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 5), (3, 2, 2, 3), (2, 0, 3)], ids=str)
@each_on
def test_shapes(kind, option, shape):
    fires_as_snntorch(kind, "V", currents(*shape, seed=5), OPTIONS[option], reset_mechanism="zero")


@each_on
def test_in_double_the_dtype_is_kept(kind, option):
    ours, host = build(snn, kind, "V", **OPTIONS[option]).double(), build(snntorch, kind, "V").double()
    cur = currents(T, B, N, dtype=F64)
    expected, result = run(host, cur), run(ours, cur)
    assert_same(result, expected, values_of(expected), cast=True)
    assert result["spk"].dtype == result["mem"].dtype == F64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@each_option
def test_in_half_the_dtype_is_kept(kind, option, dtype):
    neuron = build(snn, kind, "V", **OPTIONS[option]).to(dtype)
    result = run(neuron, currents(T, B, N, dtype=dtype))
    assert {x.dtype for x in result.values() if x is not None} == {dtype}
    assert 0 < result["spk"].count_nonzero() < result["spk"].numel()
    assert result["dinput"].isfinite().all()


@each_on
def test_a_state_of_another_shape_is_zeros_as_in_snntorch(kind, option):
    ours, host = build(snn, kind, **OPTIONS[option]), build(snntorch, kind)
    wrong = [torch.ones(B + 1, N) for _ in FAMILY[kind].states]
    for a, b in zip(ours(currents(B, N), *wrong), host(currents(B, N), *wrong), strict=True):
        assert torch.equal(a, b)


@each_option
def test_states_with_init_hidden_are_refused_as_in_snntorch(kind, option):
    ours, host = build(snn, kind, init_hidden=True, **OPTIONS[option]), build(snntorch, kind, init_hidden=True)
    for neuron in (ours, host):
        for name in FAMILY[kind].states:
            with pytest.raises(TypeError):
                neuron(currents(B, N), **{name: torch.zeros(B, N)})
    with pytest.raises(TypeError):
        ours.sequence(currents(T, B, N), *(torch.zeros(B, N) for _ in FAMILY[kind].states))


@each_kind
def test_what_has_no_meaning_is_refused(kind):
    """The table of _family.py is the constructor's."""
    for option in OPTIONS.values():
        for reset in RESETS:
            values = {"reset_mechanism": reset} | option
            if refused(kind, **values):
                with pytest.raises(ValueError, match="temporal_alpha"):
                    build(snn, kind, **values)
            else:
                build(snn, kind, **values)
    for option in ({"spatial_adj": True}, {"temporal_alpha": 0.8}):
        with pytest.raises(ValueError, match="surrogate_disable|temporal_alpha"):
            build(snn, kind, surrogate_disable=True, **option)
    if FAMILY[kind].reset_delay:
        with pytest.raises(ValueError, match="reset_delay"):
            build(snn, kind, reset_delay=False, temporal_alpha=0.8)
