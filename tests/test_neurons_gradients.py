"""Six neurons, options on: the gradients are the paper's, judged in float64 by the loops in _oracle.py.

``how`` is a loop over steps or an implementation of ``sequence``: a kernel that does not cover a neuron is not asked for.
"""

import itertools

import numpy as np
import pytest
import snntorch
import torch
from _family import (
    CIRCUITS,
    CONV,
    DELAYED,
    F32,
    F64,
    FAMILY,
    KINDS,
    ODD,
    RECURRENCES,
    RECURRENT,
    RESETS,
    SURROGATES,
    B,
    N,
    begin,
    build,
    case,
    currents,
    each_kind,
    expect,
    float_surrogate,
    has_kernel,
    judge,
    learnable,
    per_neuron,
    refused,
    run,
    upstream,
)
from _oracle import atan, lif, spatial
from _pairwise import cases
from _tolerance import assert_close
from snntorch import surrogate as host_surrogate

import snntorch_bpsta as snn

HOWS = ("step", "reference", "cpu")
each_how = pytest.mark.parametrize("how", HOWS)
each_reset = pytest.mark.parametrize("reset", ["zero", "subtract"])


def needs_kernel(how, kind, **values):
    """Skip where `how` is a kernel that does not cover such a neuron."""
    if how == "cpu" and not has_kernel(kind, **values):
        pytest.skip(f"no kernel runs {kind} with these arguments")


def alpha_of(kind, reset="zero", reset_delay=True, alpha=0.8):
    """A residual where it has a meaning."""
    options = {"temporal_alpha": alpha, "reset_mechanism": reset, "reset_delay": reset_delay}
    return 0.0 if refused(kind, **options) else alpha


# --- every gradient -------------------------------------------------------------------------------


@cases(
    lambda row: not refused(row["kind"], temporal_alpha=row["alpha"], reset_mechanism=row["reset"])
    and (row["kind"] in RECURRENT or row["recurrence"] == "V"),
    kind=KINDS, name=("spatial", "leaky", "rectangle", "narrow"), reset=RESETS, alpha=(0.0, 0.2, 0.8, 1.0, -0.4, -1.0),
    loss=("spk", "states", "both"), how=HOWS, num_steps=(1, 2, 7, 33), beta=(0.0, 0.25, 0.5, 0.9, 1.0),
    recurrence=tuple(RECURRENCES), drive=("mixed", "silent", "busy"),
)  # fmt: skip
def test_recursion(kind, name, reset, alpha, loss, how, num_steps, beta, recurrence, drive):
    options, _, surrogate = SURROGATES[name]
    values = {"reset_mechanism": reset, "temporal_alpha": alpha}
    if kind == "Lapicque":
        values["beta"] = max(0.4, beta - 0.1)  # its decay, 1 + log(beta), has to be one
    elif kind != "Alpha":
        values["beta"] = beta
    neuron = build(snn, kind, recurrence, dtype=F64, **values, **options)
    shape = (B, *CONV) if "conv" in recurrence else (B, N)
    case(neuron, surrogate, currents(num_steps, *shape, seed=num_steps, dtype=F64, drive=drive), loss, how)


@each_how
@pytest.mark.parametrize("name", ["spatial", "leaky", "rectangle"])
def test_a_negative_alpha_is_the_reset_that_is_not_detached(name, how):
    """A reset by subtraction whose spike has its gradient, as autograd has it: alpha = -threshold / beta."""
    beta, threshold = 0.8, 0.5
    options, spike_grad, _ = SURROGATES[name]
    if "spatial_adj" in options:
        spike_grad = snn.surrogate.spatial_adjustment(threshold, getattr(options["spatial_adj"], "leak", 0.0))
    cur = currents(9, B, N, seed=6, dtype=F64)
    outside = torch.randn(cur.shape, generator=torch.Generator().manual_seed(1), dtype=F64)

    def undetached(cur):
        u, spikes = torch.zeros_like(cur[0]), []
        for x in cur:
            u = beta * u + x - spike_grad(u - threshold) * threshold
            spikes.append(spike_grad(u - threshold))
        return torch.stack(spikes)

    lif = build(snn, "Leaky", dtype=F64, beta=beta, threshold=threshold, temporal_alpha=-threshold / beta, **options)

    def ours(cur):
        if how != "step":
            return lif.sequence(cur, impl=how)[0]
        mem, spikes = torch.zeros_like(cur[0]), []
        for x in cur:
            spk, mem = lif(x, mem)
            spikes.append(spk)
        return torch.stack(spikes)

    grads = []
    for function in (undetached, ours):
        leaf = cur.detach().clone().requires_grad_()
        spk = function(leaf)
        grads.append((spk.detach(), torch.autograd.grad((spk * outside).sum(), leaf)[0]))
    assert torch.equal(grads[0][0], grads[1][0]) and 0.1 < spk.mean() < 0.9
    assert_close(grads[1][1], grads[0][1], F64)


PARAMETERS = {
    "numbers": lambda kind: {},
    "one": lambda kind: {name: torch.tensor([value]) for name, value in FAMILY[kind].numbers.items()},
    "per-neuron": lambda kind: per_neuron(kind, F64),
}


@cases(
    lambda row: not refused(row["kind"], temporal_alpha=row["alpha"]),
    kind=KINDS, parameters=tuple(PARAMETERS), name=("spatial", "leaky", "rectangle"), reset=("zero", "subtract"),
    alpha=(0.0, 0.8, -0.4), how=HOWS,
)  # fmt: skip
def test_learnable_parameters(kind, parameters, name, reset, alpha, how):
    options, _, surrogate = SURROGATES[name]
    values = PARAMETERS[parameters](kind) | learnable(kind) | options
    neuron = build(snn, kind, reset_mechanism=reset, temporal_alpha=alpha, dtype=F64, **values)
    result, expected = case(neuron, surrogate, currents(9, B, N, seed=11, dtype=F64), how=how)
    assert 0 < expected.spk.mean() < 1
    for parameter in (flag[len("learn_") :] for flag in learnable(kind)):
        value = getattr(neuron, parameter)
        assert result["d" + parameter].shape == value.shape and result["d" + parameter].abs().max() > 1e-3
        if parameter != "threshold" and kind not in ("Lapicque", "Alpha"):
            assert (result["d" + parameter][(value < 0) | (value > 1)] == 0).all()


@each_how
@each_reset
@pytest.mark.parametrize("recurrence", RECURRENCES)
@pytest.mark.parametrize("kind", RECURRENT)
def test_recurrences(kind, recurrence, reset, how):
    values = {"reset_mechanism": reset, "spatial_adj": True, "temporal_alpha": 0.8} | learnable(kind)
    neuron = build(snn, kind, recurrence, dtype=F64, **values)
    shape = (B, *CONV) if "conv" in recurrence else (B, N)
    result, expected = case(neuron, spatial, currents(9, *shape, seed=2, dtype=F64), how=how)
    assert expected.spk.any()
    learns = [name for name in result if name in ("dV", "drecurrent.weight", "drecurrent.bias")]
    assert len(learns) == (0 if "fixed" in recurrence else 1 if recurrence.startswith("V") else 2)
    assert all(result[name].abs().max() > 1e-3 for name in learns)


@cases(
    kind=[kind for kind in KINDS if "beta" in FAMILY[kind].per_neuron], reset=("zero", "subtract"), how=HOWS,
)  # fmt: skip
def test_per_channel_parameters_on_feature_maps(kind, reset, how):
    channels = (CONV[0], 1, 1)
    ends = {"alpha": (0.95, 0.8), "beta": (0.4, 0.7), "threshold": (0.3, 0.6)}
    values = {name: torch.linspace(*ends[name], CONV[0]).reshape(channels) for name in FAMILY[kind].per_neuron}
    values |= {"reset_mechanism": reset, "spatial_adj": True, "temporal_alpha": alpha_of(kind)} | learnable(kind)
    neuron = build(snn, kind, "conv", dtype=F64, **values)
    case(neuron, spatial, currents(6, B, *CONV, seed=3, dtype=F64), how=how)


@each_how
@pytest.mark.parametrize("alpha", [0.0, 0.8])
@pytest.mark.parametrize("circuit", CIRCUITS)
def test_circuits(circuit, alpha, how):
    values = {"spatial_adj": True, "temporal_alpha": alpha, "learn_threshold": True} | CIRCUITS[circuit]
    neuron = build(snn, "Lapicque", dtype=F64, **values)
    case(neuron, spatial, currents(7, B, N, dtype=F64) * 3, how=how)


@cases(
    kind=KINDS, reset=RESETS, name=("spatial", "rectangle", "narrow"), how=HOWS,
)  # fmt: skip
def test_single_precision(kind, reset, name, how):
    options, _, surrogate = SURROGATES[name]
    values = {"reset_mechanism": reset, "temporal_alpha": alpha_of(kind, reset)} | options | learnable(kind)
    neuron = build(snn, kind, dtype=F32, **values)
    result, _ = case(neuron, surrogate, currents(9, B, N), how=how, dtype=F32)
    assert result["dinput"].dtype == F32


def fast_sigmoid(slope):
    return lambda u, o, threshold: 1 / (slope * np.abs(u - threshold) + 1) ** 2


HOST = {
    "default-atan": (dict, atan(2.0)),
    "atan": (lambda: {"spike_grad": host_surrogate.atan(3.0)}, atan(3.0)),
    "fast_sigmoid": (lambda: {"spike_grad": host_surrogate.fast_sigmoid(4)}, fast_sigmoid(4)),
}


@each_how
@each_reset
@pytest.mark.parametrize("name", HOST)
def test_the_residual_with_snntorchs_surrogates(name, reset, how):
    """float32's row of the table: they put the spikes' gradients through float32."""
    options, surrogate = HOST[name]
    values = {"reset_mechanism": reset, "temporal_alpha": 0.8} | options() | learnable("Leaky")
    neuron = build(snn, "Leaky", dtype=F64, **values)
    case(neuron, surrogate, currents(7, B, N, seed=2, dtype=F64), how=how, dtype=F32)


# --- snnTorch's options beside ours ---------------------------------------------------------------


@each_how
@pytest.mark.parametrize("name", ["spatial", "leaky", "rectangle", "stock"])
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("kind", DELAYED)
def test_reset_at_once(kind, reset, name, how):
    """RSynaptic too, which snnTorch cannot: it does what snnTorch's RLeaky does."""
    options, _, surrogate = SURROGATES[name]
    values = {"reset_mechanism": reset, "reset_delay": False} | options | learnable(kind)
    needs_kernel(how, kind, **values)
    neuron = build(snn, kind, dtype=F64, **values)
    case(neuron, surrogate, currents(9, B, N, dtype=F64), how=how, dtype=F32 if name == "stock" else F64)


@pytest.mark.parametrize("reset", RESETS)
def test_rsynaptic_at_once_is_rleaky_where_nothing_stays_in_its_synapse(reset):
    """Independent of the oracle: with alpha = 0 the synaptic current is the current, and snnTorch's RLeaky is the same."""
    cur, gradients = currents(9, B, N, dtype=F64), upstream("RSynaptic", 9, (B, N), dtype=F64)
    gradients["syn"].zero_()
    start = begin("RSynaptic", (B, N), F64)
    values = {"reset_mechanism": reset, "reset_delay": False, "spike_grad": float_surrogate} | learnable("RLeaky")
    ours = build(snn, "RSynaptic", dtype=F64, alpha=0.0, **values)
    host = build(snntorch, "RLeaky", dtype=F64, **values)
    host.load_state_dict({k: v for k, v in ours.state_dict().items() if k != "alpha"})
    a = run(ours, cur, start, gradients=gradients)
    del start["syn"], gradients["syn"]
    b = run(host, cur, start, gradients=gradients)
    assert torch.equal(a["spk"], b["spk"])
    for name in b:
        assert_close(a[name], b[name], F64, b[name].abs().max() + 10, name)


@each_reset
@pytest.mark.parametrize("how", ["step", "auto"])
@pytest.mark.parametrize("option", ODD)
@each_kind
def test_odd_options_and_the_residual(kind, option, how, reset):
    """The loser of an inhibition keeps its residual; a state that was rounded has the gradient of the one before."""
    flags, changes = ODD[option]
    values = {"reset_mechanism": reset, "spatial_adj": True, "temporal_alpha": alpha_of(kind)}
    neuron = build(snn, kind, dtype=F64, **values, **flags, **learnable(kind))
    cur = currents(9, B, N, dtype=F64)
    result, expected = case(neuron, spatial, cur, how=how, **changes)
    plain = run(build(snn, kind, dtype=F64, **values), cur, how=how)
    assert expected.spk.any() and not torch.equal(result["dinput"], plain["dinput"])


@each_how
def test_graded_spikes_scale_the_output_and_not_the_residual(how):
    values = {"graded_spikes_factor": 0.6, "learn_graded_spikes_factor": True, "learn_threshold": True}
    values |= {"reset_mechanism": "zero", "spatial_adj": True, "temporal_alpha": 0.8}
    neuron = build(snn, "Leaky", dtype=F64, **values)
    cur, start, gradients = currents(8, B, N, dtype=F64), begin("Leaky", (B, N), F64), upstream("Leaky", 8, (B, N))
    gradients = {name: x.to(F64) for name, x in gradients.items()}
    result = run(neuron, cur, start, how, gradients=gradients)
    if how != "step":
        gradients["mem"][:-1] = 0
    expected = expect(neuron, spatial, cur, start, gradients | {"spk": 0.6 * gradients["spk"]})
    dfactor = (gradients["spk"].numpy() * expected.spk).sum()
    assert_close(result.pop("dgraded_spikes_factor"), dfactor, F64, gradients["spk"].abs().sum(), "dfactor")
    assert torch.equal(result["spk"], torch.as_tensor(expected.spk) * 0.6)
    judge(result | {"spk": torch.as_tensor(expected.spk)}, expected)


# --- what the method is for, on paper-sized numbers -----------------------------------------------


@each_how
@pytest.mark.parametrize(("alpha", "first"), [(0.0, 0.0), (0.2, 0.225), (0.8, 0.9), (1.0, 1.125)])
def test_error_crosses_a_spike_by_alpha(alpha, first, how):
    # u = 1.0 and 0.8 both fire. dI[1] = 1/0.8; dI[0] = beta * alpha * 1/1.0 * dI[1].
    values = {"reset_mechanism": "zero", "spatial_adj": True, "temporal_alpha": alpha}
    neuron = build(snn, "Leaky", dtype=F64, **values)
    cur = torch.tensor([[[1.0]], [[0.8]]], dtype=F64)
    gradients = {"spk": torch.tensor([[[0.0]], [[1.0]]], dtype=F64), "mem": torch.zeros(2, 1, 1, dtype=F64)}
    result = run(neuron, cur, "zeros", how, gradients=gradients)
    assert_close(result["dinput"].flatten(), torch.tensor([first, 1.25], dtype=F64), F64)


@each_how
@each_kind
def test_silence_moves_no_weight_under_spatial_adjustment(kind, how):
    values = {"spatial_adj": True, "temporal_alpha": alpha_of(kind)} | learnable(kind)
    neuron = build(snn, kind, "V", dtype=F64, **values)
    cur = currents(7, B, N, dtype=F64, drive="silent")
    result = run(neuron, cur, "zeros", how, gradients=upstream(kind, 7, (B, N), "spk", F64))
    assert not result["spk"].any()
    for name in result:
        if name.startswith("d") and result[name] is not None:
            assert result[name].count_nonzero() == 0, name


@each_kind
def test_options_may_be_changed_between_forward_passes(kind):
    neuron = build(snn, kind, dtype=F64, reset_mechanism="zero", spatial_adj=True)
    for alpha, how in itertools.product((0.8, 0.0, 0.3), ("step", "auto")):
        neuron.temporal_alpha = alpha_of(kind, alpha=alpha)
        case(neuron, spatial, currents(9, B, N, dtype=F64), how=how)


@each_kind
def test_spatial_adjustment_follows_a_threshold_that_is_learnt(kind):
    neuron = build(snn, kind, dtype=F64, learn_threshold=True, spatial_adj=True)
    with torch.no_grad():
        neuron.threshold.mul_(0.4)
    case(neuron, spatial, currents(9, B, N, dtype=F64))


@pytest.mark.parametrize("reset", RESETS)
@each_kind
def test_spatial_adjustment_is_a_spike_grad_of_snntorch(kind, reset):
    values = {"reset_mechanism": reset} | learnable(kind)
    ours = build(snn, kind, dtype=F64, **values, spatial_adj=True)
    host = build(snntorch, kind, dtype=F64, **values, spike_grad=snn.surrogate.spatial_adjustment)
    cur = currents(9, B, N, dtype=F64)
    a, b = run(ours, cur), run(host, cur)
    assert torch.equal(a["spk"], b["spk"])
    for name in b:
        if b[name] is not None:
            assert_close(a[name], b[name], F64, b[name].abs().max(), name)


# --- the tempting wrong mappings ------------------------------------------------------------------


def distance(a, b):
    return (a["dinput"] - b["dinput"]).norm() / a["dinput"].norm()


class InTheCurrent(torch.nn.Module):
    """snnTorch's neuron with the residual in its input, where Leaky can have it."""

    def __init__(self, host, alpha):
        super().__init__()
        self.host, self.alpha, self.kind = host, alpha, type(host).__name__

    def forward(self, cur, *states):
        beta = 1 - self.host.time_step / (self.host.R * self.host.C) if hasattr(self.host, "C") else self.host.beta
        o = self.host.spike_grad(states[-1] - self.host.threshold)
        return self.host(cur + beta * self.alpha * (o - o.detach()), *states)


@each_reset
@pytest.mark.parametrize("name", ["spatial", "rectangle"])
@pytest.mark.parametrize("kind", ["Lapicque", "RLeaky", "Synaptic", "RSynaptic"])
def test_a_residual_in_the_current_is_not_the_residual(kind, name, reset):
    """ "zero" wipes it together with the current; else it is scaled by R and C, or stays in the synaptic current. With
    "subtract" RLeaky has nothing that comes between."""
    options, spike_grad, surrogate = SURROGATES[name]
    cur = currents(9, B, N, dtype=F64)
    right, _ = case(
        build(snn, kind, "V", dtype=F64, reset_mechanism=reset, temporal_alpha=0.8, **options), surrogate, cur
    )
    host = build(snntorch, kind, "V", dtype=F64, reset_mechanism=reset, spike_grad=spike_grad)
    wrong = run(InTheCurrent(host, 0.8), cur)
    assert torch.equal(wrong["spk"], right["spk"])
    if (kind, reset) == ("RLeaky", "subtract"):
        assert distance(right, wrong) < 1e-12
    else:
        assert distance(right, wrong) > 0.02
    if (name, reset) == ("spatial", "zero") and "Synaptic" not in kind:
        # Eq. 9 is where the neuron fired and there nothing is kept: no residual at all.
        assert_close(wrong["dinput"], run(host, cur)["dinput"], F64, 10.0)


@each_reset
@pytest.mark.parametrize("name", ["spatial", "rectangle"])
@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0])
@pytest.mark.parametrize("kind", DELAYED)
def test_snntorchs_reset_delay_is_not_the_residual(kind, alpha, name, reset):
    """The tempting mapping: reset_delay=False, whose reset is not detached."""
    options, spike_grad, surrogate = SURROGATES[name]
    cur, start = currents(9, B, N, dtype=F64), begin(kind, (B, N), F64)
    start["mem"].fill_(0.1)  # the reset of a start that would have fired is not done in both
    values = {"dtype": F64, "reset_mechanism": reset}
    right, _ = case(
        build(snn, kind, "V", temporal_alpha=alpha, **values, **options), surrogate, cur, "spk", start=start
    )
    if kind == "RSynaptic":  # fails in snnTorch
        neuron = build(snn, kind, "V", reset_delay=False, **values, **options)
    else:
        neuron = build(snntorch, kind, "V", reset_delay=False, **values, spike_grad=spike_grad)
    wrong = run(neuron, cur, start, gradients=upstream(kind, 9, (B, N), "spk", F64))
    assert distance(right, wrong) > 0.05


@each_reset
@pytest.mark.parametrize("kind", RECURRENT)
def test_the_residual_does_not_replace_the_recurrent_path(kind, reset):
    """A residual from the spikes that the recurrence is given, or a recurrence without gradient, is another thing."""
    values = {"dtype": F64, "beta": 0.8, "reset_mechanism": reset, "spatial_adj": True, "temporal_alpha": 0.8}
    neuron, cur = build(snn, kind, "linear", **values), currents(9, B, N, dtype=F64)
    right, _ = case(neuron, spatial, cur)
    neuron.recurrent.register_forward_pre_hook(lambda _, args: (args[0].detach(),))
    assert distance(right, run(neuron, cur)) > 0.02

    # The start's spike and the start's membrane are two arguments: each has the gradient of its own way.
    neuron = build(snn, kind, "V", **values)
    start = begin(kind, (B, N), F64)
    start |= {"spk": torch.zeros(B, N, dtype=F64), "mem": torch.full((B, N), 2.0, dtype=F64)}
    one = upstream(kind, 1, (B, N), dtype=F64)
    result = run(neuron, cur[:1], start, gradients=one)
    dv = one["mem"][0] + result["spk"][0] / result["mem"].where(result["spk"][0] > 0, 1.0) * one["spk"][0]
    kept = 0.0 if reset == "zero" else 1.0
    assert_close(result["d0mem"], 0.8 * (kept + 0.8 / 2.0) * dv, F64, 10.0, "d0mem")
    into_current = kept * dv + (one["syn"][0] if kind == "RSynaptic" else 0.0)
    assert_close(result["d0spk"], 0.4 * into_current, F64, 10.0, "d0spk")


@each_how
def test_alphas_membrane_is_no_state(how):
    """Its next membrane has no derivative by its last: no residual is defined, and asking for one is refused."""
    with pytest.raises(ValueError, match="temporal_alpha"):
        build(snn, "Alpha", temporal_alpha=0.8)
    cur = currents(9, B, N, dtype=F64)
    result, _ = case(build(snn, "Alpha", dtype=F64, spatial_adj=True), spatial, cur, how=how)
    assert result["d0mem"] is None or not result["d0mem"].any()
    # The natural "subtract", which takes the threshold off the membrane, is not snnTorch's.
    odd, natural = (
        build(snn, "Alpha", dtype=F64, spatial_adj=True, reset_mechanism=reset, learn_threshold=True)
        for reset in ("subtract", "none")
    )

    class Natural(torch.nn.Module):
        kind = "Alpha"

        def forward(self, cur, exc, inh, mem):
            spk, exc, inh, new = natural(cur, exc, inh, mem)
            new = new - (mem > natural.threshold) * natural.threshold
            return natural.spike_grad(new - natural.threshold), exc, inh, new

    assert distance(run(odd, cur), run(Natural(), cur)) > 0.02


def test_the_paper_is_the_familys_leaky():
    """`lif`, the paper's own recursion, and the family's judge are one answer to one problem."""
    neuron = build(snn, "Leaky", dtype=F64, reset_mechanism="zero", spatial_adj=True, temporal_alpha=0.8)
    cur, start, gradients = currents(9, B, N, dtype=F64), begin("Leaky", (B, N), F64), upstream("Leaky", 9, (B, N))
    gradients = {name: x.to(F64) for name, x in gradients.items()}
    result = run(neuron, cur, start, gradients=gradients)
    paper = lif(
        cur.numpy(), beta=neuron.beta.numpy(), threshold=0.5, surrogate=spatial, alpha=0.8, mem0=start["mem"].numpy(),
        dspk=gradients["spk"].numpy(), dmem=gradients["mem"].numpy(),
    )  # fmt: skip
    assert_close(result["dinput"], paper.dinput, F64, paper.du_scale, "dinput")
    assert_close(result["d0mem"], paper.dmem0, F64, paper.du_scale, "dmem0")
