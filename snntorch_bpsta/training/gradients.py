"""The study of how far the error comes: \\|dL/du[t]\\| over the steps, of one neuron and of every layer of a network."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .. import data
from .._checks import check_instance, check_int
from ..flow import record_gradient_flow
from ..functional import lif_multistep
from ..surrogate import rectangle
from .recipes import VARIANTS, Recipe

if TYPE_CHECKING:
    from .._typing import Result


def one_neuron(current: float = 0.2, num_steps: int = 16, beta: float = 0.9, threshold: float = 0.5) -> list[Result]:
    """A neuron (Eq. 2) under a constant current, whose loss is its spike count in the last third of the steps.

    Returns:
        list: one dict per variant: ``variant``, ``u`` (membrane), ``o`` (spikes) and ``flow`` (dL/du), each of `num_steps`.
    """
    rows = []
    for variant, options in VARIANTS.items():
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


def through_network(recipe: Recipe, seed: int = 0, **options: Any) -> list[Result]:
    """Train the baseline of `recipe`; then, with its first and its last weights, send the error of one test batch through
    the network as each variant would.

    Args:
        recipe: a :class:`~snntorch_bpsta.training.Recipe`.
        seed: of the training.
        **options: of :func:`~snntorch_bpsta.training.lightning.train`.

    Returns:
        list: one dict per (``weights``: "first" or "last"), ``variant`` and ``layer``, with ``flow``: the mean over batch
        and neurons of the size of dL/du, by step.

    Raises:
        ValueError, TypeError: an argument out of range or of the wrong type.
    """
    from .lightning import CHECKPOINT, train

    check_instance("recipe", recipe, Recipe, "a Recipe")
    check_int("seed", seed, 0, 2**32)
    baseline = recipe.variant("baseline")
    with tempfile.TemporaryDirectory() as folder:
        train(baseline, seed, folder, progress=False, **options)
        saved = torch.load(Path(folder) / CHECKPOINT, weights_only=True)["state_dict"]
    last = {name.removeprefix("net."): value for name, value in saved.items() if name.startswith("net.")}
    torch.manual_seed(seed)
    first = baseline.build_network().state_dict()
    test = data.load(recipe.dataset, train=False, limit=64, num_steps=recipe.num_steps, root=options.get("data_root"))
    pairs = [(x, torch.tensor(y)) for x, y in (test[i] for i in range(len(test)))]
    x, targets = (torch.stack(part) for part in zip(*pairs, strict=True))
    x = x.transpose(0, 1) if x.dim() == 5 else x
    rows = []
    for weights, state in (("first", first), ("last", last)):
        for variant in VARIANTS:
            net = recipe.variant(variant).build_network().eval()
            net.load_state_dict(state)
            with record_gradient_flow(net) as flow:
                recipe.loss_function()(net(x), targets).backward()
            mean = flow.mean()
            layers = [name for name, _ in net.named_modules() if name in mean]
            rows += [
                {"weights": weights, "variant": variant, "layer": name, "flow": mean[name].tolist()} for name in layers
            ]
    return rows
