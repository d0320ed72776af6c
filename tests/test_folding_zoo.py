"""Networks as users write them: folded, each gives what its own loop gives."""

import warnings

import _loops_odd  # noqa: F401  (its rows)
import pytest
import torch
from _folding import assert_alike, assert_same, built
from _loops import NETWORKS

import snntorch_bpsta as snn

ALL = sorted(NETWORKS)


@pytest.mark.parametrize("name", ALL)
def test_outputs_gradients_and_states_are_those_of_the_loop(name):
    network = NETWORKS[name]
    loop, fast = built(network)
    assert_alike(loop, fast, network.inputs)
    report = fast[0].report()
    assert report.reason is None, report
    assert report.grouped, report
    layers = {part.split(".")[-1] for part in report.stepped if "()" not in part}
    assert not network.whole or not layers, report


@pytest.mark.parametrize("name", ALL)
def test_without_gradients(name):
    network = NETWORKS[name]
    loop, fast = built(network)
    with torch.no_grad():
        assert_alike(loop, fast, network.inputs, calls=3, backward=False)
    assert fast[0].report().reason is None


@pytest.mark.parametrize("name", ALL)
def test_training(name):
    """Three steps of SGD end with the same weights."""
    network = NETWORKS[name]
    ends = []
    for function, nets in built(network):
        parameters = [p for p in nets.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(parameters, lr=0.01) if parameters else None
        for step in range(5):
            torch.manual_seed(step)
            inputs = network.inputs()
            snn.reset(nets)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                out = function(*inputs)
            leaves = [
                t for t in torch.utils._pytree.tree_leaves(out) if isinstance(t, torch.Tensor) and t.requires_grad
            ]
            if leaves:
                optimizer.zero_grad()
                sum(t.square().mean() for t in leaves).backward()
                optimizer.step()
        ends.append(list(nets.state_dict().values()))
    assert_same(ends[1], ends[0], name, 1e-4)
