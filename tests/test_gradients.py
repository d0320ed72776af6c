"""Options on: the gradients are the paper's, judged in float64 by the loops in _oracle.py."""

import itertools
import warnings

import numpy as np
import pytest
import snntorch
import torch
from _oracle import atan, lif, rectangle, spatial
from _tolerance import assert_close
from snntorch import surrogate as host_surrogate

import snntorch_bpsta as snn

B, N = 3, 5
F64 = torch.float64
THRESHOLD = 0.5

SURROGATES = {
    "spatial": (lambda: dict(spatial_adj=True), spatial),
    "rectangle": (lambda: dict(spike_grad=snn.surrogate.rectangle(1.0)), rectangle(1.0)),
    "narrow": (lambda: dict(spike_grad=snn.surrogate.rectangle(0.3)), rectangle(0.3)),
}


def tensor(value, dtype=F64):
    return torch.as_tensor(value, dtype=dtype)


def drive(kind, *shape, seed=0, dtype=F64):
    """Currents: "mixed", "silent" (nothing ever fires) or "busy" (all fire at every step)."""
    gen = torch.Generator().manual_seed(seed)
    uniform = torch.rand(*shape, generator=gen, dtype=F64)
    scale, shift = {"mixed": (1.6, -0.5), "silent": (0.4, -0.41), "busy": (0.7, 0.7)}[kind]
    return (uniform * scale + shift).to(dtype)


def upstream(num_steps, shape, loss, how, seed=1):
    """Mean-free gradients at spikes and membranes. `sequence` hands out the last membrane only."""
    gen = torch.Generator().manual_seed(seed)
    g_spk = torch.randn(num_steps, *shape, generator=gen, dtype=F64)
    g_mem = torch.randn(num_steps, *shape, generator=gen, dtype=F64)
    g_spk, g_mem = g_spk - g_spk.mean(), g_mem - g_mem.mean()
    if how == "sequence":
        g_mem[:-1] = 0
    if loss == "spk":
        g_mem.zero_()
    elif loss == "mem":
        g_spk.zero_()
    return g_spk, g_mem


def run(neuron, cur, mem0, g_spk, g_mem, how):
    """Outputs and gradients of a neuron as a dict of the oracle's names."""
    cur, mem0 = cur.clone().requires_grad_(), mem0.clone().requires_grad_()
    neuron.zero_grad()
    if how == "sequence":
        spk, last = neuron.sequence(cur, mem0)
        outputs, upstreams = [spk, last], [g_spk, g_mem[-1]]
        mem = None
    else:
        spks, mems, state = [], [], mem0
        for c in cur:
            spk, state = neuron(c, state)
            spks.append(spk)
            mems.append(state)
        spk, mem = torch.stack(spks), torch.stack(mems)
        outputs, upstreams = [spk, mem], [g_spk, g_mem]
    sum((o * g).sum() for o, g in zip(outputs, upstreams, strict=True)).backward()
    result = {"spk": spk.detach(), "dinput": cur.grad, "dmem0": mem0.grad}
    if mem is not None:
        result["mem"] = mem.detach()
    for name, parameter in neuron.named_parameters():
        result["d" + name] = parameter.grad
    return result


def judge(result, expected, dtype=F64):
    """Spikes equal; gradients within the table, against the largest of each neuron's recursion."""
    assert torch.equal(result["spk"].to(F64), tensor(expected.spk)), "spikes differ"
    if "mem" in result:
        assert_close(result["mem"], expected.mem, dtype, np.abs(expected.mem).max(), "mem")
    assert_close(result["dinput"], expected.dinput, dtype, expected.du_scale, "dinput")
    assert_close(result["dmem0"], expected.dmem0, dtype, expected.du_scale, "dmem0")
    if "dbeta" in result:
        assert_close(result["dbeta"], expected.dbeta, dtype, expected.dbeta_scale, "dbeta")
    if "dthreshold" in result:
        assert_close(
            result["dthreshold"],
            expected.dthreshold,
            dtype,
            expected.dthreshold_scale,
            "dthreshold",
        )


def clamp_slope(beta):
    """What this PyTorch holds the derivative of clamp(beta, 0, 1) to be, at both ends too."""
    beta = beta.detach().clone().requires_grad_()
    beta.clamp(0, 1).sum().backward()
    return beta.grad.numpy()


def case(neuron, surrogate, cur, mem0, loss, how, seed=1):
    """Run a neuron and the oracle with the neuron's own settings."""
    g_spk, g_mem = upstream(len(cur), cur.shape[1:], loss, how, seed)
    result = run(neuron, cur, mem0, g_spk, g_mem, how)
    expected = lif(
        cur.numpy(),
        beta=neuron.beta.detach().numpy(),
        threshold=neuron.threshold.detach().numpy(),
        surrogate=surrogate,
        alpha=neuron.temporal_alpha,
        reset=neuron.reset_mechanism,
        mem0=mem0.numpy(),
        dspk=g_spk.numpy(),
        dmem=g_mem.numpy(),
        clamp_slope=clamp_slope(neuron.beta),
    )
    return result, expected


# --- the input's gradient -------------------------------------------------------------------------

STEPS_AND_BETA = [(1, 0.9), (2, 0.5), (7, 0.9), (16, 0.0), (33, 1.0), (64, 0.95), (5, 0.25)]


def grid():
    steps = itertools.cycle(STEPS_AND_BETA)
    for name, reset, alpha in itertools.product(
        ("spatial", "rectangle"), ("zero", "subtract", "none"), (0.0, 0.2, 0.8, 1.0)
    ):
        if reset == "none" and alpha > 0:
            continue
        for kind, loss, how in itertools.product(
            ("mixed", "silent", "busy"), ("spk", "mem", "both"), ("step", "sequence")
        ):
            num_steps, beta = next(steps)
            yield pytest.param(
                name,
                reset,
                alpha,
                kind,
                loss,
                how,
                num_steps,
                beta,
                id=f"{name}-{reset}-alpha{alpha}-{kind}-{loss}-{how}-T{num_steps}-beta{beta}",
            )


@pytest.mark.parametrize(("name", "reset", "alpha", "kind", "loss", "how", "num_steps", "beta"), list(grid()))
def test_recursion(name, reset, alpha, kind, loss, how, num_steps, beta):
    options, surrogate = SURROGATES[name]
    neuron = snn.Leaky(
        beta=tensor(beta),
        threshold=tensor(THRESHOLD),
        reset_mechanism=reset,
        temporal_alpha=alpha,
        **options(),
    )
    cur = drive(kind, num_steps, B, N)
    result, expected = case(neuron, surrogate, cur, drive(kind, B, N, seed=5), loss, how)
    if kind == "silent":
        assert expected.spk.sum() == 0
    elif kind == "busy":
        assert reset == "subtract" or expected.spk.all()
    judge(result, expected)


# --- learnable beta and threshold -----------------------------------------------------------------

PARAMETERS = {
    "scalar": (0.9, 0.5),
    "one": ([0.9], [0.5]),
    "beta-per-neuron": (np.linspace(0.3, 0.97, N), 0.5),
    "threshold-per-neuron": (0.9, np.linspace(0.35, 0.8, N)),
    "both-per-neuron": (np.linspace(0.3, 0.97, N), np.linspace(0.35, 0.8, N)),
    "clamped": ([-0.2, 0.0, 0.5, 1.0, 1.3], [0.5]),
}


@pytest.mark.parametrize("how", ["step", "sequence"])
@pytest.mark.parametrize("alpha", [0.0, 0.8])
@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("parameters", PARAMETERS)
@pytest.mark.parametrize("name", SURROGATES)
def test_learnable_beta_and_threshold(name, parameters, reset, alpha, how):
    options, surrogate = SURROGATES[name]
    beta, threshold = PARAMETERS[parameters]
    neuron = snn.Leaky(
        beta=tensor(beta),
        threshold=tensor(threshold),
        learn_beta=True,
        learn_threshold=True,
        reset_mechanism=reset,
        temporal_alpha=alpha,
        **options(),
    )
    cur = drive("mixed", 9, B, N, seed=11)
    result, expected = case(neuron, surrogate, cur, drive("busy", B, N, seed=5), "both", how)
    assert 0 < expected.spk.mean() < 1 and np.abs(expected.dthreshold).max() > 1e-3
    judge(result, expected)
    outside = (neuron.beta < 0) | (neuron.beta > 1)
    assert (result["dbeta"][outside] == 0).all()


@pytest.mark.parametrize("how", ["step", "sequence"])
@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_per_channel_parameters_on_feature_maps(reset, how):
    channels = (3, 1, 1)
    neuron = snn.Leaky(
        beta=torch.linspace(0.4, 0.9, 3, dtype=F64).reshape(channels),
        threshold=torch.linspace(0.3, 0.6, 3, dtype=F64).reshape(channels),
        learn_beta=True,
        learn_threshold=True,
        reset_mechanism=reset,
        spatial_adj=True,
        temporal_alpha=0.8,
    )
    cur = drive("mixed", 6, 2, 3, 2, 5, seed=3)
    judge(*case(neuron, spatial, cur, drive("mixed", 2, 3, 2, 5, seed=4), "both", how))


@pytest.mark.parametrize("how", ["step", "sequence"])
def test_graded_spikes_scale_the_output_and_not_the_residual(how):
    factor = tensor(0.6)
    neuron = snn.Leaky(
        beta=tensor(0.9),
        threshold=tensor(THRESHOLD),
        reset_mechanism="zero",
        graded_spikes_factor=factor.clone(),
        learn_graded_spikes_factor=True,
        learn_threshold=True,
        spatial_adj=True,
        temporal_alpha=0.8,
    )
    cur, mem0 = drive("mixed", 8, B, N), torch.zeros(B, N, dtype=F64)
    g_spk, g_mem = upstream(8, (B, N), "both", how)
    result = run(neuron, cur, mem0, g_spk, g_mem, how)
    expected = lif(
        cur.numpy(),
        beta=0.9,
        threshold=THRESHOLD,
        surrogate=spatial,
        alpha=0.8,
        dspk=0.6 * g_spk.numpy(),
        dmem=g_mem.numpy(),
    )
    assert torch.equal(result["spk"], tensor(expected.spk) * factor)
    judge(result | {"spk": tensor(expected.spk)}, expected)
    dfactor = (g_spk.numpy() * expected.spk).sum()
    assert_close(result["dgraded_spikes_factor"], dfactor, F64, g_spk.abs().sum(), "dgraded_spikes_factor")


@pytest.mark.filterwarnings("ignore:Inhibition is an unstable feature")
@pytest.mark.parametrize("how", ["step", "sequence"])
def test_inhibition_masks_the_output_and_not_the_residual(how):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        neuron = snn.Leaky(
            beta=tensor(0.9),
            threshold=tensor(THRESHOLD),
            reset_mechanism="zero",
            inhibition=True,
            spatial_adj=True,
            temporal_alpha=0.8,
        )
    cur, mem0 = drive("mixed", 8, B, N), torch.zeros(B, N, dtype=F64)
    g_spk, g_mem = upstream(8, (B, N), "both", how)
    settings = dict(beta=0.9, threshold=THRESHOLD, surrogate=spatial, alpha=0.8)
    winner = lif(cur.numpy(), **settings).mem.argmax(axis=-1)
    mask = np.arange(N) == winner[..., None]
    expected = lif(cur.numpy(), **settings, dspk=g_spk.numpy() * mask, dmem=g_mem.numpy())
    assert 0 < (expected.spk * mask).sum() < expected.spk.sum()
    judge(run(neuron, cur, mem0, g_spk, g_mem, how), expected._replace(spk=expected.spk * mask))


# --- the host's surrogates carry the residual too -------------------------------------------------


def fast_sigmoid(slope):
    def s(u, o, threshold):
        return 1 / (slope * np.abs(u - threshold) + 1) ** 2

    return s


HOST = {
    "default-atan": (lambda: dict(), atan(2.0)),
    "atan": (lambda: dict(spike_grad=host_surrogate.atan(3.0)), atan(3.0)),
    "fast_sigmoid": (lambda: dict(spike_grad=host_surrogate.fast_sigmoid(4)), fast_sigmoid(4)),
}


@pytest.mark.parametrize("how", ["step", "sequence"])
@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("name", HOST)
def test_residual_with_the_hosts_surrogates(name, reset, how):
    options, surrogate = HOST[name]
    neuron = snn.Leaky(
        beta=tensor(0.9),
        threshold=tensor(THRESHOLD),
        learn_beta=True,
        learn_threshold=True,
        reset_mechanism=reset,
        temporal_alpha=0.8,
        **options(),
    )
    cur = drive("mixed", 7, B, N, seed=2)
    # float32's row of the table: the host's surrogates put the spikes' gradients through float32.
    judge(
        *case(neuron, surrogate, cur, drive("mixed", B, N, seed=5), "both", how),
        dtype=torch.float32,
    )


@pytest.mark.parametrize("how", ["step", "sequence"])
@pytest.mark.parametrize("name", SURROGATES)
def test_single_precision(name, how):
    options, surrogate = SURROGATES[name]
    neuron = snn.Leaky(
        beta=0.9,
        threshold=THRESHOLD,
        learn_beta=True,
        learn_threshold=True,
        reset_mechanism="zero",
        temporal_alpha=0.8,
        **options(),
    )
    cur, mem0 = drive("mixed", 7, B, N, dtype=torch.float32), torch.zeros(B, N)
    g_spk, g_mem = (g.float() for g in upstream(7, (B, N), "both", how))
    result = run(neuron, cur, mem0, g_spk, g_mem, how)
    expected = lif(
        cur.numpy(),
        beta=neuron.beta.item(),
        threshold=THRESHOLD,
        surrogate=surrogate,
        alpha=0.8,
        dspk=g_spk.numpy(),
        dmem=g_mem.numpy(),
    )
    judge(result, expected, dtype=torch.float32)


# --- what the method is for, on paper-sized numbers -----------------------------------------------


@pytest.mark.parametrize("how", ["step", "sequence"])
@pytest.mark.parametrize(("alpha", "first"), [(0.0, 0.0), (0.2, 0.225), (0.8, 0.9), (1.0, 1.125)])
def test_error_crosses_a_spike_by_alpha(alpha, first, how):
    # u = 1.0 and 0.8 both fire. dI[1] = 1/0.8; dI[0] = beta * alpha * 1/1.0 * dI[1].
    neuron = snn.Leaky(tensor(0.9), tensor(0.5), reset_mechanism="zero", spatial_adj=True, temporal_alpha=alpha)
    cur = tensor([[[1.0]], [[0.8]]])
    g_spk, g_mem = tensor([[[0.0]], [[1.0]]]), torch.zeros(2, 1, 1, dtype=F64)
    result = run(neuron, cur, torch.zeros(1, 1, dtype=F64), g_spk, g_mem, how)
    assert_close(result["dinput"].flatten(), tensor([first, 1.25]), F64)


@pytest.mark.parametrize("how", ["step", "sequence"])
@pytest.mark.parametrize("alpha", [0.0, 0.8])
def test_silence_moves_no_weight_under_spatial_adjustment(alpha, how):
    neuron = snn.Leaky(tensor(0.9), tensor(0.5), learn_threshold=True, spatial_adj=True, temporal_alpha=alpha)
    cur = drive("silent", 7, B, N)
    g_spk, g_mem = upstream(7, (B, N), "spk", how)
    result = run(neuron, cur, torch.zeros(B, N, dtype=F64), g_spk, g_mem, how)
    for name in ("dinput", "dmem0", "dthreshold"):
        assert result[name].count_nonzero() == 0, name


@pytest.mark.parametrize("how", ["step", "sequence"])
@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("name", ["spatial", "rectangle"])
@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0])
def test_the_hosts_reset_delay_is_not_the_residual(alpha, name, reset, how):
    """The tempting mapping: reset_delay=False, whose reset is not detached. Gradients differ."""
    grad = snn.surrogate.spatial_adjustment(0.5) if name == "spatial" else snn.surrogate.rectangle(1.0)
    tempting = snntorch.Leaky(tensor(0.9), tensor(0.5), spike_grad=grad, reset_mechanism=reset, reset_delay=False)
    options, surrogate = SURROGATES[name]
    neuron = snn.Leaky(tensor(0.9), tensor(0.5), reset_mechanism=reset, temporal_alpha=alpha, **options())
    cur, mem0 = drive("mixed", 9, B, N), torch.zeros(B, N, dtype=F64)
    result, expected = case(neuron, surrogate, cur, mem0, "spk", how)
    judge(result, expected)
    wrong = run(tempting, cur, mem0, *upstream(9, (B, N), "spk", "step"), "step")
    if reset == "zero":
        assert torch.equal(wrong["spk"], result["spk"])
    distance = (wrong["dinput"] - result["dinput"]).norm() / result["dinput"].norm()
    assert distance > 0.05


@pytest.mark.parametrize("reset", ["zero", "subtract", "none"])
def test_rectangle_without_residual_is_plain_stbp_on_the_host(reset):
    kwargs = dict(learn_beta=True, learn_threshold=True, reset_mechanism=reset)
    kwargs["spike_grad"] = snn.surrogate.rectangle(1.0)
    cur, mem0 = drive("mixed", 9, B, N), drive("mixed", B, N, seed=5)
    gradients = upstream(9, (B, N), "both", "step")
    ours = run(snn.Leaky(tensor(0.9), tensor(0.5), **kwargs), cur, mem0, *gradients, "step")
    host = run(snntorch.Leaky(tensor(0.9), tensor(0.5), **kwargs), cur, mem0, *gradients, "step")
    assert ours.keys() == host.keys()
    for name in host:
        assert torch.equal(ours[name], host[name]), name


@pytest.mark.parametrize("reset", ["zero", "subtract", "none"])
def test_spatial_adjustment_as_a_plain_spike_grad_of_the_host(reset):
    kwargs = dict(learn_beta=True, learn_threshold=True, reset_mechanism=reset)
    cur, mem0 = drive("mixed", 9, B, N), drive("mixed", B, N, seed=5)
    gradients = upstream(9, (B, N), "both", "step")
    neuron = snn.Leaky(tensor(0.9), tensor(0.5), **kwargs, spatial_adj=True)
    host = snntorch.Leaky(tensor(0.9), tensor(0.5), **kwargs, spike_grad=snn.surrogate.spatial_adjustment(0.5))
    ours = run(neuron, cur, mem0, *gradients, "step")
    theirs = run(host, cur, mem0, *gradients, "step")
    assert torch.equal(ours["spk"], theirs["spk"])
    for name in theirs.keys() - {"spk"}:
        assert_close(ours[name], theirs[name], F64, theirs[name].abs().max(), name)


def test_spatial_adjustment_follows_a_threshold_that_is_learnt():
    neuron = snn.Leaky(tensor(0.9), tensor(0.5), learn_threshold=True, spatial_adj=True)
    cur = drive("mixed", 9, B, N)
    with torch.no_grad():
        neuron.threshold.fill_(0.2)
    judge(*case(neuron, spatial, cur, torch.zeros(B, N, dtype=F64), "both", "step"))


def test_options_may_be_changed_between_forward_passes():
    neuron = snn.Leaky(tensor(0.9), tensor(0.5), reset_mechanism="zero", spatial_adj=True)
    cur, mem0 = drive("mixed", 9, B, N), torch.zeros(B, N, dtype=F64)
    for alpha, how in itertools.product((0.8, 0.0, 0.3), ("step", "sequence")):
        neuron.temporal_alpha = alpha
        judge(*case(neuron, spatial, cur, mem0, "both", how))


# --- warm-up --------------------------------------------------------------------------------------

WARM = {"off": dict(), "both": dict(spatial_adj=True, temporal_alpha=0.8)}


@pytest.mark.parametrize("how", ["step", "sequence"])
@pytest.mark.parametrize("option", WARM)
def test_identity_warm_up_passes_the_gradient_through(option, how):
    neuron = snn.Leaky(tensor(0.9), tensor(0.5), reset_mechanism="zero", **WARM[option])
    neuron.warm_up = "identity"
    cur = drive("mixed", 4, B, N)
    g_spk, g_mem = upstream(4, (B, N), "spk", how)
    result = run(neuron, cur, torch.zeros(B, N, dtype=F64), g_spk, g_mem, how)
    assert torch.equal(result["dinput"], g_spk)


@pytest.mark.parametrize("how", ["step", "sequence"])
@pytest.mark.parametrize("option", WARM)
def test_surrogate_warm_up_is_a_sigmoid_that_stays_finite(option, how):
    neuron = snn.Leaky(tensor(0.0), tensor(0.5), reset_mechanism="zero", **WARM[option])
    neuron.warm_up = "surrogate"
    distance = tensor([0.0, 0.01, 0.05, 0.2, 1.0, 1e3, 1e30])
    one = torch.ones(1, 1, len(distance), dtype=F64)
    zero = torch.zeros_like(one)
    above, below = (
        run(neuron, (0.5 + sign * distance) * one, zero[0], one, zero, how)["dinput"].flatten() for sign in (1, -1)
    )
    assert above.isfinite().all() and below.isfinite().all()
    assert_close(above, below, torch.float32)
    near = below[:4]
    assert (near > 0).all(), "a neuron under its threshold has to learn"
    assert (below.diff() <= 0).all() and (near.diff() < 0).all()


# --- this oracle is right -------------------------------------------------------------------------


@pytest.mark.parametrize("reset", ["zero", "subtract", "none"])
def test_the_oracle_agrees_with_the_stock_host(reset):
    cur, mem0 = drive("mixed", 9, B, N), drive("busy", B, N, seed=5)
    beta, threshold = tensor(np.linspace(0.3, 1.2, N)), tensor([0.5])
    host = snntorch.Leaky(beta, threshold, None, learn_beta=True, learn_threshold=True, reset_mechanism=reset)
    g_spk, g_mem = upstream(9, (B, N), "both", "step")
    expected = lif(
        cur.numpy(),
        beta=beta.detach().numpy(),
        threshold=threshold.detach().numpy(),
        surrogate=atan(2.0),
        reset=reset,
        mem0=mem0.numpy(),
        dspk=g_spk.numpy(),
        dmem=g_mem.numpy(),
        clamp_slope=clamp_slope(beta),
    )
    judge(run(host, cur, mem0, g_spk, g_mem, "step"), expected, dtype=torch.float32)
