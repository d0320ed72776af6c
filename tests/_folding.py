"""One network through :func:`snn.fold_time` and beside it its own loop."""

import copy
import random
import warnings

import numpy as np
import snntorch
import torch
from torch import nn
from torch.utils import _pytree as pytree

import snntorch_bpsta as snn


def built(network, seed=0):
    """The loop and the folded net, from the same numbers, and the modules of each."""
    pair = []
    for fold in (False, True):
        torch.manual_seed(seed)
        made = network.build()
        function, nets = (made[0], made[1:]) if isinstance(made, tuple) else (made, (made,))
        for net in nets:
            net.train(network.train)
        options = dict(network.options)
        if fold:
            function = snn.fold_time(function, *(nets if isinstance(made, tuple) else ()), **options)
        elif options.get("steps"):
            function = over_steps(function)
        pair.append((function, nn.ModuleList(nets)))
    return pair


def over_steps(net):
    def loop(x):
        outs = [net(x_t) for x_t in x]
        return tuple(map(torch.stack, zip(*outs, strict=True))) if isinstance(outs[0], tuple) else torch.stack(outs)

    return loop


def run(function, nets, inputs, seed, backward=True):
    """Outputs, and gradients of parameters and inputs."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    nets.zero_grad()
    snn.reset(nets)
    inputs = [x.clone().requires_grad_(backward) if isinstance(x, torch.Tensor) else x for x in inputs]
    out = [t for t in pytree.tree_leaves(function(*inputs)) if isinstance(t, torch.Tensor)]
    if not backward or not any(t.requires_grad for t in out):
        return out, []
    generator = torch.Generator().manual_seed(seed)
    loss = sum((t * torch.rand(t.shape, generator=generator)).sum() for t in out if t.requires_grad)
    loss.backward()
    tensors = [*nets.parameters(), *(x for x in inputs if isinstance(x, torch.Tensor))]
    return out, [None if t.grad is None else t.grad.clone() for t in tensors]


def assert_same(got, expected, what, tolerance=2e-5):
    assert len(got) == len(expected), what
    largest = max([1.0, *(t.abs().max().item() for t in expected if t is not None and t.numel())])
    for a, b in zip(got, expected, strict=True):
        if a is None or b is None:  # no gradient is none, or a zero one
            rest = b if a is None else a
            assert rest is None or not rest.any(), what
            continue
        assert a.shape == b.shape and a.dtype == b.dtype, what
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * largest, msg=lambda m: f"{what}: {m}")  # noqa: B023
        if b.numel() and set(b.unique().tolist()) <= {0.0, 1.0}:
            assert torch.equal(a, b), what


def assert_alike(loop, fast, inputs, calls=4, backward=True):
    """The same outputs, gradients, buffers and states, call by call, from other data each time."""
    for call in range(calls):
        torch.manual_seed(100 + call)
        data = inputs()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected, grads = run(*loop, copy.deepcopy(data), call, backward)
            left = states(loop[1])  # now: snnTorch's utils.reset resets the neurons of all nets
            got, ours = run(*fast, data, call, backward)
        assert_same(got, expected, f"outputs of call {call}")
        assert_same(ours, grads, f"gradients of call {call}", 2e-4)
        assert_same(list(fast[1].state_dict().values()), list(loop[1].state_dict().values()), f"state of call {call}")
        words = [text for text in getattr(fast[0], "_warned", ()) if "other numbers" in text]
        assert not words, words  # what is grouped is grouped rightly, and not found to be wrong by the check
        assert_same(states(fast[1]), left, f"hidden states of call {call}")


def states(nets):
    """What the neurons and the nets hold after a call."""
    found = []
    for module in nets.modules():
        if isinstance(module, snntorch.SpikingNeuron):
            found += [
                getattr(module, name) for name in ("spk", "syn", "syn_exc", "syn_inh", "mem") if hasattr(module, name)
            ]
        else:
            found += [value for value in vars(module).values() if isinstance(value, torch.Tensor)]
    return [t.detach() for t in found]
