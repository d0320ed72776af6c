"""What a type checker knows of the package, as a user of it sees it. Read by ``make types``, never run."""

from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import assert_type

import snntorch_bpsta as snn
from snntorch_bpsta.training import RECIPES

lif = snn.Leaky(0.9, threshold=0.5, reset_mechanism="zero", spatial_adj=True, temporal_alpha=0.8)
assert_type(lif.sequence(torch.rand(4, 2, 3)), tuple[Tensor, Tensor])
assert_type(snn.Synaptic(alpha=0.8, beta=0.9).sequence(torch.rand(4, 2, 3)), tuple[Tensor, Tensor, Tensor])
assert_type(snn.RLeaky(beta=0.9, V=1.0).sequence(torch.rand(4, 2, 3), record=("mem",)), tuple[Tensor, Tensor])
lif.sequence(torch.rand(4, 2, 3), records=("mem",))  # type: ignore[call-arg]
snn.Leaky(beta=0.9, spatial_adj=snn.surrogate.spatial_adjustment(leak=0.1))
snn.Leaky(beta=0.9, spatial_adj=snn.surrogate.rectangle())  # type: ignore[arg-type]
snn.Leaky(beta=0.9, spatial_adjustment=True)  # type: ignore[call-arg]
snn.Leaky(beta=0.9, reset_mechanism="hard")  # type: ignore[arg-type]
snn.Alpha(alpha=0.9, beta=0.8, save="float16")  # type: ignore[arg-type]
options: dict[str, Any] = {"beta": 0.9, "spatial_adj": True}
snn.RLeaky(**options)

out = snn.functional.lif_multistep(torch.rand(4, 2, 3), beta=0.9, impl="cpu")
assert_type(out.spk, Tensor)
snn.functional.lif_multistep(torch.rand(4, 2, 3))  # type: ignore[call-arg]
snn.functional.ce_rate_loss()  # the host's

net = snn.MultiStep(nn.Linear(3, 3), lif)
assert_type(net[:1], snn.MultiStep)
assert_type(snn.convert(net, match=lambda name, neuron: name == "1", report=print), snn.MultiStep)
assert_type(snn.detach(snn.reset(net)), snn.MultiStep)
fast = snn.fold_time(net, steps=True, fold="joint")
assert_type(fast, snn.FoldTime)
assert_type(fast.report().stepped, dict[str, str])
snn.fold_time(lambda x: net(x), net, check=False)
snn.fold_time(net, step=True)  # type: ignore[call-arg]
with snn.energy.record_firing_rates(net) as firing, snn.flow.record_gradient_flow(net) as flow:
    assert_type(firing.rates(), dict[str, float])
    assert_type(flow.mean(), dict[str, Tensor])
snn.networks.small(width=1 / 8, spatial_adj=False, spike_grad=snn.surrogate.rectangle())
snn.networks.small(depth=3)  # type: ignore[call-arg]

digits = snn.data.load("digits", limit=10)
assert_type(digits[0], tuple[Tensor, int])
assert_type(RECIPES["digits"].build_network(), snn.networks.SpikingNetwork)
snn.spikegen.rate(torch.rand(3), num_steps=4)  # the host's
