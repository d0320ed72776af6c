"""How far the error comes: \\|dL/du[t]\\| over the steps, of one neuron and of every layer of a network."""

from __future__ import annotations

from statistics import mean
from typing import TYPE_CHECKING, Any

import torch

from ... import data
from ...flow import record_gradient_flow
from ...functional import lif_multistep
from ...surrogate import rectangle
from ..recipes import VARIANTS, Recipe
from .workers import report

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ..._typing import Result

__all__: list[str] = []

OF_THE_PAPER = ("baseline", "bpsa", "bpsa+bpta", "bpta")  # variants that differ in every neuron


def one_neuron(current: float = 0.2, num_steps: int = 16, beta: float = 0.9, threshold: float = 0.5) -> list[Result]:
    """A neuron (Eq. 2) under a constant current, whose loss is its spike count in the last third of the steps.

    Returns:
        list: one dict per variant: ``variant``, ``u`` (membrane), ``o`` (spikes) and ``flow`` (dL/du), each of `num_steps`.
    """
    rows = []
    for variant in OF_THE_PAPER:
        options = {name: VARIANTS[variant][name] for name in ("spatial_adj", "temporal_alpha")}
        cur = torch.full((num_steps, 1), float(current), dtype=torch.float64, requires_grad=True)
        surrogate: dict[str, Any] = {} if options["spatial_adj"] else {"spike_grad": rectangle()}
        out = lif_multistep(
            cur, beta=beta, threshold=threshold, reset_mechanism="zero", record_mem=True, impl="reference",
            **options, **surrogate,
        )  # fmt: skip
        out.spk[-(num_steps // 3) :].sum().backward()
        columns: dict[str, Any] = {"u": out.mem, "o": out.spk, "flow": cur.grad}
        rows.append({"variant": variant, **{name: values.flatten().tolist() for name, values in columns.items()}})
    return rows


def train_on(recipe: Recipe, seed: int, folder: Path, **options: Any) -> Result:
    """Train in `folder`, from its last checkpoint if there is one."""
    from ..run import train  # Lightning, which takes its time to import

    def tell(epoch):
        report(epoch["epoch"] + 1)

    return train(recipe, seed, folder, resume=any(folder.glob("last*.ckpt")), progress=tell, **options)


def measure_gradients(
    runs: Mapping[tuple[str, str], Recipe], seed: int, folder: Path, **options: Any
) -> dict[tuple[str, str], Result]:
    """Train the baseline of the recipe of `runs`; then, with its first and its last weights, send the error of one test
    batch through the network as each variant would. One neuron beside it.

    Returns:
        dict: ("one neuron", "first weights" or "last weights", variant) -> row: ``flow``: layer -> the mean over batch and
        neurons of the size of dL/du, by step; what :func:`summary` says of it; of one neuron ``u`` and ``o`` (membrane and
        spikes) too.
    """
    from ..results import environment  # Lightning, which takes its time to import

    found = {
        ("one neuron", row["variant"]): {"u": row["u"], "o": row["o"], "flow": {"neuron": row["flow"]}}
        for row in one_neuron()
    }
    for key, flow in _through_network(next(iter(runs.values())).variant("baseline"), seed, folder, **options).items():
        found[key] = {"flow": flow}
    return {
        key: {"recipe": recipe.as_dict(), "seed": seed, **summary(found[key]["flow"]), **found[key], **environment()}
        for key, recipe in runs.items()
    }


def summary(flow: Mapping[str, list[float]]) -> dict[str, float | None]:
    """The numbers of a row that go into the table: the error of the first and of the last layer, mean over the steps, and
    in the first layer that of the first step over the largest."""
    layers = [[abs(value) for value in steps] for steps in flow.values()]
    largest = max(layers[0])
    return {
        "error_first_layer": mean(layers[0]),
        "error_last_layer": mean(layers[-1]),
        "error_first_step": layers[0][0] / largest if largest else None,
    }


def _through_network(baseline, seed, folder, **options):
    """(weights, variant) -> layer -> the size of the error by step."""
    from ..checkpoints import CHECKPOINT

    train_on(baseline, seed, folder, **options)
    saved = torch.load(folder / CHECKPOINT, weights_only=True)["state_dict"]
    last = {name.removeprefix("net."): value for name, value in saved.items() if name.startswith("net.")}
    torch.manual_seed(seed)
    first = baseline.build_network().state_dict()
    test = data.load(
        baseline.dataset, train=False, limit=64, num_steps=baseline.num_steps, root=options.get("data_root")
    )
    pairs = [(x, torch.tensor(y)) for x, y in (test[i] for i in range(len(test)))]
    x, targets = (torch.stack(part) for part in zip(*pairs, strict=True))
    x = x.transpose(0, 1) if x.dim() == 5 else x
    found = {}
    for weights, state in (("first weights", first), ("last weights", last)):
        for variant in OF_THE_PAPER:
            net = baseline.variant(variant).build_network().eval()
            net.load_state_dict(state)
            with record_gradient_flow(net) as flow:
                baseline.loss_function()(net(x), targets).backward()
            mean_flow = flow.mean()
            layers = [name for name, _ in net.named_modules() if name in mean_flow]
            found[weights, variant] = {name: mean_flow[name].tolist() for name in layers}
    return found
