"""The package on a GPU: the same spikes and gradients as on the CPU, and a real training run."""

import pytest
import torch

import snntorch_bpsta as snn
from snntorch_bpsta.training import Recipe

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device; results/cuda.sh runs it on one"
)


@pytest.mark.parametrize("how", ["step", "sequence"])
@pytest.mark.parametrize(
    "options", [{"spatial_adj": True, "temporal_alpha": 0.8}, {"temporal_alpha": 0.8}, {}], ids=str
)
def test_equals_the_cpu(options, how):
    seen = {}
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        cur = (torch.rand(16, 3, 50, dtype=torch.float64) * 1.2 - 0.2).to(device).requires_grad_()
        lif = snn.Leaky(beta=0.9, threshold=0.5, reset_mechanism="zero", **options).to(device)
        if how == "sequence":
            spk, _ = lif.sequence(cur)
        else:
            mem, spk = torch.zeros_like(cur[0]), []
            for step in cur.unbind(0):
                out, mem = lif(step, mem)
                spk.append(out)
            spk = torch.stack(spk)
        (spk * torch.arange(16, device=device).view(-1, 1, 1)).sum().backward()
        seen[device] = spk.detach().cpu(), cur.grad.cpu()
    assert torch.equal(seen["cpu"][0], seen["cuda"][0])
    torch.testing.assert_close(seen["cpu"][1], seen["cuda"][1], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_training(precision):
    from snntorch_bpsta.training.run import train

    recipe = Recipe(dataset="digits", width=1 / 8, num_steps=4, epochs=6, readout="current", lr_warm_up_epochs=1)
    row = train(recipe, 0, accelerator="gpu", precision=precision, progress=False)
    assert row["accuracy"] > 0.85
