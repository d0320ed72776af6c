"""``bound_decays``: a decay that learns stays one."""

import copy
import warnings

import pytest
import snntorch
import torch
from _family import B, N, T, currents
from torch import nn
from torch.nn.utils.parametrize import remove_parametrizations

import snntorch_bpsta as snn

LIBS = {"snntorch": snntorch, "ours": snn}
# Alpha of snnTorch takes no alpha that learns.
NEURONS = {
    "Leaky": dict(beta=0.9, learn_beta=True),
    "Leaky per neuron": dict(beta=torch.linspace(0.1, 0.95, N), learn_beta=True),
    "RLeaky": dict(beta=0.9, learn_beta=True, linear_features=N),
    "Synaptic": dict(alpha=0.8, beta=0.7, learn_alpha=True, learn_beta=True),
    "RSynaptic": dict(alpha=0.8, beta=0.7, learn_alpha=True, learn_beta=True, linear_features=N),
    "Alpha": dict(alpha=0.8, beta=0.7, learn_beta=True),
}


def build(lib, name, **options):
    torch.manual_seed(0)
    return getattr(LIBS[lib], name.split()[0])(threshold=0.3, init_hidden=True, **NEURONS[name], **options)


def run(neuron):
    cur = currents(T, B, N)
    return torch.stack([neuron(x) for x in cur])


@pytest.mark.parametrize("lib", LIBS)
@pytest.mark.parametrize("name", NEURONS)
def test_it_computes_what_it_computed(lib, name):
    plain, bound = build(lib, name), build(lib, name)
    assert snn.bound_decays(bound) is bound
    expected, got = run(plain), run(bound)
    assert expected.count_nonzero() and torch.equal(got, expected)
    for part, out in ((plain, expected), (bound, got)):
        part(currents(B, N))
        (out.sum() + part.mem.sum()).backward()
    learnt = [key for key in ("alpha", "beta") if NEURONS[name].get(f"learn_{key}")]
    for key in learnt:
        value, logit = getattr(bound, key), bound.parametrizations[key].original
        torch.testing.assert_close(value, getattr(plain, key), rtol=1e-6, atol=1e-7)
        slope = (value * (1 - value)).detach()
        torch.testing.assert_close(logit.grad, getattr(plain, key).grad * slope, rtol=1e-4, atol=1e-6)
    assert {each for each, _ in bound.named_parameters() if "decay" in each or each.startswith("param")} == {
        f"parametrizations.{key}.original" for key in learnt
    }


@pytest.mark.parametrize("options", [{}, dict(spatial_adj=True)], ids=["off", "spatial"])
@pytest.mark.parametrize("name", NEURONS)
def test_ours_stays_in_the_kernels(name, options):
    bound = snn.bound_decays(build("ours", name, **options))
    cur = currents(T, B, N)
    steps = run(bound)
    snn.reset(bound)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # as a loop over time would be told
        assert torch.equal(bound.sequence(cur)[0], steps)


@pytest.mark.parametrize("lib", LIBS)
def test_no_step_leads_out(lib):
    """Without it one step of this size ends the gradient for good."""
    net, other = (nn.Sequential(nn.Linear(N, N), build(lib, "Synaptic")) for _ in range(2))
    snn.bound_decays(net)
    outs = []
    for each in (net, other):
        optimiser = torch.optim.SGD(each.parameters(), lr=1e3)
        for _ in range(2):
            optimiser.zero_grad()
            snn.reset(each)
            each(currents(B, N))
            each(currents(B, N))
            each[1].mem.sum().backward()
            optimiser.step()
        outs.append((each[1].alpha.item(), each[1].beta.item()))
    assert all(0 <= value <= 1 for value in outs[0]) and not all(0 <= value <= 1 for value in outs[1])


def test_what_does_not_learn_or_is_bound_already_is_left_alone():
    net = nn.ModuleList(
        [build("ours", "Leaky"), snn.Leaky(beta=0.9), snn.Lapicque(beta=0.9, learn_beta=True), nn.Linear(2, 2)]
    )
    snn.bound_decays(snn.bound_decays(net))
    assert [hasattr(part, "parametrizations") for part in net] == [True, False, False, False]
    assert len(net[0].parametrizations.beta) == 1
    with pytest.raises(TypeError, match="net"):
        snn.bound_decays([snn.Leaky(0.9)])


def test_values_at_the_ends_are_taken_just_inside():
    lif = snn.bound_decays(snn.Leaky(beta=torch.tensor([0.0, 1.0, 1.5]), learn_beta=True))
    assert lif.beta.isfinite().all() and (lif.beta - torch.tensor([0.0, 1.0, 1.0])).abs().max() < 1e-6
    lif.beta.sum().backward()
    assert (lif.parametrizations.beta.original.grad > 0).all(), "a way back"


def test_copies_and_the_way_back():
    lif = snn.bound_decays(build("ours", "Leaky"))
    run(lif)
    twin = copy.deepcopy(lif)  # with a graph in its membrane
    assert torch.equal(twin.mem, lif.mem) and twin.beta.data_ptr() != lif.beta.data_ptr()
    assert torch.equal(run(twin), run(lif))
    said = []
    snn.revert(lif, report=said.append)
    assert "has a parametrization of beta: take it off first" in str(said[0])
    value = lif.beta.item()
    remove_parametrizations(lif, "beta")
    assert type(lif) is snn.Leaky and lif.beta.item() == value and [*dict(lif.named_parameters())] == ["beta"]
    snn.revert(lif)
    assert type(lif) is snntorch.Leaky
