"""record_gradient_flow: the gradient at the current of each neuron, step by step, and nothing left behind."""

import pytest
import torch
from _family import B, N, T, build, currents, each_kind
from torch import nn

import snntorch_bpsta as snn


@each_kind
def test_it_is_the_mean_size_of_the_gradient_at_the_current(kind):
    """Of either sign: what a hook on the current itself sees."""
    torch.manual_seed(0)
    neuron = build(snn, kind)
    net = snn.MultiStep(nn.Linear(N, N), neuron)
    sizes, x = [], currents(T, B, N, seed=1)
    for seed in (2, 3):
        weight = torch.randn(T, B, N, generator=torch.Generator().manual_seed(seed))
        cur = net[0](x).detach().requires_grad_()
        (neuron.sequence(cur)[0] * weight).sum().backward()
        assert (cur.grad > 0).any() and (cur.grad < 0).any()
        sizes.append(cur.grad.abs().flatten(1).mean(1))
        with snn.flow.record_gradient_flow(net) as flow:
            (net(x) * weight).sum().backward()
        assert list(flow) == ["1"]
        torch.testing.assert_close(flow["1"][0], sizes[-1])
    with snn.flow.record_gradient_flow(net) as flow:
        for seed in (2, 3):
            (net(x) * torch.randn(T, B, N, generator=torch.Generator().manual_seed(seed))).sum().backward()
    torch.testing.assert_close(flow.mean()["1"], torch.stack(sizes).mean(0))


def test_every_step_of_a_constant_current_is_seen():
    net = snn.MultiStep(nn.Linear(N, N), snn.layers.DirectEncoding(T), snn.Leaky(beta=0.9, spatial_adj=True))
    with snn.flow.record_gradient_flow(net) as flow:
        net(currents(1, B, N) * 3).square().sum().backward()
    assert {name: tuple(size.shape) for name, size in flow.mean().items()} == {"2": (T,)}


def test_it_changes_nothing_and_leaves_nothing():
    torch.manual_seed(0)
    net, x = snn.networks.small(width=1 / 16, num_steps=4), torch.rand(2, 1, 28, 28)
    net.eval()
    plain = net(x)
    with snn.flow.record_gradient_flow(net):
        assert torch.equal(net(x), plain)
    assert not any(module._forward_pre_hooks for module in net.modules())
    with pytest.raises(KeyError), snn.flow.record_gradient_flow(net):
        raise KeyError
    assert not any(module._forward_pre_hooks for module in net.modules())
