"""A neuron's warm-up: what it puts in the place of the spikes, or of their surrogate, and that it leaves no trace."""

import pytest
import snntorch
import torch
from _family import (
    F32,
    F64,
    FAMILY,
    OPTIONS,
    B,
    N,
    T,
    assert_same,
    build,
    currents,
    each_option,
    run,
    upstream,
    values_of,
)
from _tolerance import assert_close

import snntorch_bpsta as snn

each_how = pytest.mark.parametrize("how", ["step", "reference"])


def warm(kind, option, warm_up, **values):
    neuron = build(snn, kind, reset_mechanism="zero", **OPTIONS[option], **values)
    neuron.warm_up = warm_up
    return neuron


@each_how
@each_option
def test_identity_passes_the_input_and_the_gradient_through(kind, option, how):
    cur, gradients = currents(T, B, N), upstream(kind, T, (B, N), "spk")
    neuron, x = warm(kind, option, "identity"), cur.clone().requires_grad_()
    spk = neuron.sequence(x)[0] if how == "reference" else torch.stack([neuron(c)[0] for c in x])
    assert torch.equal(spk, cur)
    (spk * gradients["spk"]).sum().backward()
    assert torch.equal(x.grad, gradients["spk"])


@each_how
@each_option
def test_surrogate_fires_as_snntorch(kind, option, how):
    cur = currents(T, B, N)
    ours = run(warm(kind, option, "surrogate"), cur, how=how, every_state=False)
    host = run(build(snntorch, kind, reset_mechanism="zero"), cur, every_state=False)
    assert_same(ours, host, [name for name in values_of(host) if not name.startswith("hidden")])


@each_how
@pytest.mark.parametrize("option", ["off", "both"])
def test_surrogate_is_a_sigmoid_that_stays_finite(option, how):
    neuron = warm("Leaky", option, "surrogate", dtype=F64, beta=0.0)
    distance = torch.tensor([0.0, 0.01, 0.05, 0.2, 1.0, 1e3, 1e30], dtype=F64)
    one = torch.ones(1, 1, len(distance), dtype=F64)
    gradients = {"spk": one, "mem": torch.zeros_like(one)}
    above, below = (
        run(neuron, (0.5 + sign * distance) * one, "zeros", how, gradients=gradients)["dinput"].flatten()
        for sign in (1, -1)
    )
    assert above.isfinite().all() and below.isfinite().all()
    assert_close(above, below, F32)
    near = below[:4]
    assert (near > 0).all(), "a neuron under its threshold has to learn"
    assert (below.diff() <= 0).all() and (near.diff() < 0).all()


@pytest.mark.parametrize("warm_up", ["identity", "surrogate"])
@each_option
def test_it_leaves_no_trace(kind, option, warm_up):
    neuron, fresh, cur = warm(kind, option, warm_up), warm(kind, option, None), currents(T, B, N)
    for c in cur:
        neuron(c, *(torch.zeros(B, N) for _ in FAMILY[kind].states))
    neuron.warm_up = None
    assert_same(run(neuron, cur), run(fresh, cur))


@each_how
def test_an_unknown_one_is_named(how):
    neuron = snn.Leaky(beta=0.9, spatial_adj=True)
    with pytest.raises(ValueError, match="warm_up"):
        neuron.warm_up = "identty"
        neuron.sequence(currents(T, B, N)) if how == "reference" else neuron(currents(B, N))


@pytest.mark.parametrize("kind", FAMILY)
def test_the_constructor_convert_and_patched_take_it(kind):
    """All six, and the spikes' gradient is the logistic surrogate's until it is ended."""
    ours = build(snn, kind, warm_up="surrogate")
    host = build(snntorch, kind)
    converted = snn.convert(torch.nn.Sequential(host), warm_up="surrogate")
    with snn.patched(spatial_adj=True, warm_up="identity"):
        patched = build(snntorch, kind)
    assert (ours.warm_up, host.warm_up, patched.warm_up) == ("surrogate", "surrogate", "identity")
    assert isinstance(ours.spike_grad, snn.surrogate.Logistic) and isinstance(host.spike_grad, snn.surrogate.Logistic)
    assert "warm_up='surrogate'" in repr(ours)
    snn.convert(converted, spatial_adj=True)  # another call with nothing to say of it leaves it
    assert host.warm_up == "surrogate" and host.spatial_adj
    snn.networks.set_warm_up(converted, None)
    assert isinstance(host.spike_grad, snn.surrogate.SpatialAdjustment)


@pytest.mark.parametrize(
    "call",
    [
        lambda: snn.Leaky(beta=0.9, warm_up="ReLU"),
        lambda: snn.convert(torch.nn.Sequential(), warm_up="ReLU"),
        lambda: snn.patched(warm_up="ReLU").__enter__(),
    ],
)
def test_another_value_is_refused(call):
    with pytest.raises(ValueError, match="warm_up must be one of None, 'identity', 'surrogate'; got 'ReLU'"):
        call()
