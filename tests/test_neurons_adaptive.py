"""Neurons with a threshold that rises: against the equation written out, and as the neurons that they are made of."""

import copy

import pytest
import snntorch
import torch
from _family import COPY, B, N, T, assert_same, currents, drive
from snntorch import surrogate as host_surrogate
from snntorch import utils as host_utils
from torch import nn

import snntorch_bpsta as snn

pytestmark = pytest.mark.filterwarnings("ignore:.*runs as a loop over time")
KINDS = {"AdaptiveLeaky": {}, "AdaptiveRLeaky": dict(linear_features=N)}
RISES = dict(threshold_step=0.3, threshold_decay=0.8)


def build(kind, **options):
    torch.manual_seed(0)
    return getattr(snn, kind)(**dict(beta=0.9, threshold=0.5) | RISES | KINDS[kind] | options)


def written_out(lif, x, surrogate):
    """The equation of the docstring, with the reset of the spikes before as snnTorch's: detached."""
    mem = rise = spk = torch.zeros_like(x[0])
    rows = []
    for cur in x:
        rise = lif.threshold_decay * rise + lif.threshold_step * spk
        reset = spk.detach()
        mem = 0.9 * mem
        if lif.reset_mechanism == "zero":
            mem = (1 - reset) * mem
        back = lif.recurrent(spk) if hasattr(lif, "recurrent") else 0
        if lif.reset_mechanism == "zero" and hasattr(lif, "recurrent"):  # snnTorch's: the input goes as well
            mem = mem + (cur + back) - reset * (cur + back)
        else:
            mem = mem + cur + back
        mem = mem - reset * 0.5 if lif.reset_mechanism == "subtract" else mem
        spk = surrogate(mem - rise - 0.5)
        rows.append(spk)
    return torch.stack(rows), mem, rise


@pytest.mark.parametrize("how", ["sequence", "steps", "hidden"])
@pytest.mark.parametrize("reset", ["subtract", "zero", "none"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_equation(kind, reset, how):
    lif = build(kind, reset_mechanism=reset, init_hidden=how == "hidden")
    x = (2 * torch.rand(T, B, N)).requires_grad_()
    if how == "sequence":
        spk, *_, mem, rise = lif.sequence(x)
    else:
        rows, states = [], ()
        for cur in x:
            out = lif(cur, *states)
            rows, states = ([*rows, out], ()) if how == "hidden" else ([*rows, out[0]], out if "R" in kind else out[1:])
        spk, mem, rise = torch.stack(rows), lif.mem, lif.rise
    expected = written_out(lif, x, host_surrogate.atan())
    assert 0 < spk.mean() < 1 and rise.count_nonzero()
    for a, b in zip((spk, mem, rise), expected, strict=True):
        torch.testing.assert_close(a, b)
    weights = [x, *lif.parameters()]
    grads = [
        torch.autograd.grad(sum((k + 1) * each.sum() for k, each in enumerate(outs)), weights)
        for outs in ((spk, mem, rise), expected)
    ]
    for a, b in zip(*grads, strict=True):
        assert a.count_nonzero()
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "option", [{}, dict(spatial_adj=True), dict(reset_delay=False)], ids=["off", "spatial", "prompt"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_without_a_step_it_is_the_neuron_that_it_is_made_of(kind, option):
    lif = build(kind, threshold_step=0, init_hidden=True, **option)
    plain = getattr(snn, kind.removeprefix("Adaptive"))(
        beta=0.9, threshold=0.5, init_hidden=True, **KINDS[kind], **option
    )
    plain.load_state_dict(lif.state_dict())
    if option.get("spatial_adj"):
        cur = currents(T, B, N)
        assert torch.equal(torch.stack([lif(x) for x in cur]), torch.stack([plain(x) for x in cur]))
    else:
        assert_same(drive(lif, currents(T, B, N)), drive(plain, currents(T, B, N)))
    getattr(snntorch, kind.removeprefix("Adaptive"))(beta=0.9, **KINDS[kind]).load_state_dict(lif.state_dict())


def test_the_error_goes_through_the_rise():
    """One spike, and nothing but the raised threshold to remember it by."""
    for step, reaches in ((0.3, True), (0.0, False)):
        lif = build("AdaptiveLeaky", threshold_step=step, threshold_decay=1.0, beta=0.0)
        x = torch.zeros(6, 1, 1)
        x[0], x[5] = 0.7, 0.6
        x.requires_grad_()
        lif.sequence(x)[0][5].sum().backward()
        assert bool(x.grad[0]) is reaches


@pytest.mark.parametrize("how", ["snn.reset", "utils.reset", "reset_mem", "zeros"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_begins_anew(kind, how):
    hidden = how != "zeros"
    lif = build(kind, init_hidden=hidden)
    x = 2 * torch.rand(T, B, N)

    def once():
        if hidden:
            return torch.stack([lif(cur) for cur in x])
        # As in snnTorch's tutorials: no rise is handed on.
        rows, states = [], (torch.zeros(B, N),) * (2 if "R" in kind else 1)
        for cur in x:
            spk, *others = lif(cur, *states)
            rows, states = [*rows, spk], (spk, others[0]) if "R" in kind else others[:1]
        return torch.stack(rows)

    first = once()
    assert lif.rise.count_nonzero()
    if hidden:
        net = nn.Sequential(lif)
        {"snn.reset": snn.reset, "utils.reset": host_utils.reset, "reset_mem": lambda net: lif.reset_mem()}[how](net)
    assert torch.equal(once(), first)
    assert torch.equal(build(kind).sequence(x)[0], first), "the rise is handed on within a sequence"


@pytest.mark.parametrize("how", ["snn.detach", "detach_hidden"])
def test_truncated(how):
    lif = build("AdaptiveLeaky", init_hidden=True)
    x = (2 * torch.rand(2, 4, B, N)).requires_grad_()
    for window in x:
        torch.stack([lif(cur) for cur in window]).sum().backward()
        snn.detach(lif) if how == "snn.detach" else lif.detach_hidden()
        assert lif.rise.count_nonzero()
    assert x.grad.count_nonzero()


@pytest.mark.parametrize("how", COPY)
@pytest.mark.parametrize("kind", KINDS)
def test_copies(kind, how):
    lif = build(kind, init_hidden=True, spatial_adj=True)
    x = 2 * torch.rand(T, B, N)
    for cur in x:
        lif(cur)
    twin = COPY[how](lif)
    assert torch.equal(torch.stack([twin(cur) for cur in x]), torch.stack([lif(cur) for cur in x]))
    assert (twin.threshold_step, twin.threshold_decay) == (0.3, 0.8) and "threshold_step=0.3" in repr(twin)


def test_in_a_multistep():
    net = snn.MultiStep(nn.Linear(N, N), build("AdaptiveLeaky", output=True))
    x = currents(T, B, N) * 3
    spk, mem, rise = net(x)
    assert spk.shape == mem.shape == rise.shape == x.shape
    assert torch.equal(spk, net[1].sequence(net[0](x))[0]) and rise[-1].count_nonzero()
    bound = snn.bound_decays(copy.deepcopy(build("AdaptiveLeaky", learn_beta=True)))
    assert torch.equal(bound.sequence(x)[0], build("AdaptiveLeaky").sequence(x)[0])


def test_what_has_no_meaning_is_refused():
    with pytest.raises(ValueError, match="temporal_alpha .* drop it"):
        build("AdaptiveLeaky", temporal_alpha=0.8, reset_mechanism="zero")
    with pytest.raises(ValueError, match="inhibition"):
        build("AdaptiveLeaky", inhibition=True)
    for name, value in (("threshold_step", -1.0), ("threshold_decay", 1.5), ("threshold_decay", float("nan"))):
        with pytest.raises(ValueError, match=name):
            build("AdaptiveLeaky", **{name: value})
    lif = build("AdaptiveLeaky")
    lif.temporal_alpha = 0.8
    with pytest.raises(ValueError, match="temporal_alpha"):
        lif.sequence(currents(T, B, N))
    with pytest.raises(ValueError, match="cannot be written to NIR"):
        snn.nir.export(nn.Sequential(nn.Linear(N, N), build("AdaptiveLeaky")), torch.rand(N))
