"""NeuroBench's metrics of the networks of this package. Needs the extra `neurobench`."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

import snntorch
import torch
from torch import nn

from ..conversion import reset
from ..layers import DirectEncoding, MultiStep, NeuronDropout
from ..layers.over_time import How, row_of
from ..networks import SpikingNetwork
from .recipes import Recipe

if TYPE_CHECKING:
    from types import ModuleType

    from neurobench.models import NeuroBenchModel
    from torch.utils.data import DataLoader

    from .._typing import AnyPath, Result

__all__ = ["evaluate", "measure", "multistep_model"]


def need() -> ModuleType:
    """The library, or an error that says how to get it."""
    try:
        import neurobench.benchmarks

        return neurobench
    except ModuleNotFoundError as error:
        raise ImportError(f"{error.name} is not installed: pip install 'snntorch-bpsta[neurobench]'") from error


def multistep_model(net: nn.Module) -> NeuroBenchModel:
    """A NeuroBench model of a :class:`~snntorch_bpsta.MultiStep` network.

    NeuroBench's own ``SNNTorchModel`` calls a net once for each step; a MultiStep network takes all steps in one call. This
    model takes its layers one step at a time, so that every hook of NeuroBench sees what it sees of a step net, and the
    numbers are those of ``SNNTorchModel`` for a step net of the same layers, with two exceptions. Only spiking neurons
    count as activations; ``SNNTorchModel`` counts the ReLU in front of a neuron too, whose output is a current. And the
    layers in front of a :class:`~snntorch_bpsta.DirectEncoding` run once for each image, as they do in the network.

    Args:
        net: the network; it is put into eval mode.

    Returns:
        neurobench.models.NeuroBenchModel: takes ``[B, T, *]`` (a network of Table 1 images ``[B, C, H, W]`` too) and returns
        ``[B, T, classes]``.

    Raises:
        TypeError: `net` is no MultiStep.
        NotImplementedError: a layer that takes only whole sequences (when it is called).
        ImportError: NeuroBench is not installed.
    """
    if not isinstance(net, MultiStep):
        raise TypeError(f"net must be a MultiStep network, got {type(net).__name__}; for others see SNNTorchModel")
    base: Any = need().models.NeuroBenchModel

    class MultiStepModel(base):
        def __init__(self):
            super().__init__()
            self.net = net.eval()

        def __net__(self):
            return self.net

        def __call__(self, batch):
            table_1 = isinstance(net, SpikingNetwork)
            image = table_1 and batch.dim() == 4
            input_ = (batch.unsqueeze(1) if image else batch).transpose(0, 1)
            # As in the network: event frames bring their own T, also where that is 1.
            return _step_by_step(net, input_, encode=image or not table_1).transpose(0, 1)

        def activation_layers(self):
            """Only neurons, and by their whole names: NeuroBench's own end at the last dot, and equal ones become one."""
            return [{"layer_name": name, "layer": neuron} for name, neuron in _neurons(net)]

    return MultiStepModel()


def _neurons(net):
    return [(name, each) for name, each in net.named_modules() if isinstance(each, snntorch.SpikingNeuron)]


def _step_by_step(net, input_, encode):
    """``net(input_)`` one step after the other: ``[T, B, *]`` -> ``[T, B, *]``."""
    layers, steps = list(_flat(net)), list(input_.unbind(0))
    encoding = next((i for i, layer in enumerate(layers) if isinstance(layer, DirectEncoding)), None)
    if len(steps) == 1 and encode and encoding is not None:
        (x,) = steps
        for layer in layers[:encoding]:
            x = _step(layer, x, 0)
        steps, layers = [x] * layers[encoding].num_steps, layers[encoding + 1 :]
    reset(net)
    outputs = []
    for t, x in enumerate(steps):
        for layer in layers:
            x = _step(layer, x, t)
        outputs.append(x)
    reset(net)
    return torch.stack(outputs)


def _flat(net):
    for layer in net:
        if isinstance(layer, MultiStep) or row_of(layer).how is How.CHAIN:
            yield from _flat(layer)
        else:
            yield layer


def _step(layer, x, t):
    if isinstance(layer, (DirectEncoding, NeuronDropout)):  # of one step, and without effect in eval mode
        return x
    how = row_of(layer).how
    if how is How.LIST:
        return layer[t](x)
    if how in (How.SEQUENCE, How.STEPPED):
        out = layer(x)
        return out[0] if isinstance(out, tuple) else out
    if how is How.FOLDED:
        return layer(x)
    raise NotImplementedError(f"{type(layer).__name__} takes whole sequences, and NeuroBench counts step by step")


def measure(net: nn.Module, loader: DataLoader, device: str | torch.device | None = None) -> Result:
    """Run NeuroBench's benchmark on a network.

    Args:
        net: a :class:`~snntorch_bpsta.MultiStep` network whose output ``[T, B, classes]`` is averaged over T to classify.
        loader: of batches ``[B, T, *]`` (a network of Table 1: images ``[B, C, H, W]`` too) and class numbers.
        device: where to run; None for where `net` is.

    Returns:
        dict: the metrics by NeuroBench's names. Of the net: ParameterCount, Footprint (bytes), ConnectionSparsity. Over
        the data: ClassificationAccuracy, ActivationSparsity (1 - firing rate), and per sample SynapticOperations,
        MembraneUpdates and NeuronOperations (None where NeuroBench has no costs for the class or the reset of a neuron).

    Raises:
        TypeError, NotImplementedError, ImportError: see :func:`multistep_model`.
        RuntimeError: a metric failed.
    """
    model = multistep_model(net)
    from neurobench.benchmarks import Benchmark
    from neurobench.metrics import static, workload
    from neurobench.metrics.workload.neuron_operations import neuron_ops_reset_operations as costs

    over_data = [
        workload.ClassificationAccuracy, workload.ActivationSparsity, workload.SynapticOperations,
        workload.MembraneUpdates,
    ]  # fmt: skip
    has_costs = all(each.reset_mechanism in costs.get(type(each).__name__, ()) for _, each in _neurons(net))
    if has_costs:
        over_data.append(workload.NeuronOperations)
    of_net = [static.ParameterCount, static.Footprint, static.ConnectionSparsity]
    benchmark = Benchmark(model, loader, [], [_classify], [of_net, over_data])
    printed = io.StringIO()
    try:
        with torch.no_grad(), redirect_stdout(printed):
            results = benchmark.run(device=device)
    finally:
        benchmark.workload_metric_manager.cleanup_hooks(model)
    errors = [line for line in printed.getvalue().splitlines() if line.startswith("Error running")]
    if errors:  # NeuroBench prints them and reports 0
        raise RuntimeError(f"NeuroBench: {errors[0]}")
    return dict(results) if has_costs else {**results, "NeuronOperations": None}


def _classify(out):
    """The paper's y (Eq. 5) is the mean over T."""
    return out.transpose(0, 1).mean(0).argmax(-1)


def evaluate(checkpoint: AnyPath, **options: Any) -> Result:
    """:func:`snntorch_bpsta.training.run.evaluate`, and NeuroBench's metrics on the same samples.

    Args:
        checkpoint: path of a ``last.ckpt``.
        **options: of that function.

    Returns:
        dict: the row that ``evaluate`` gives; under ``neurobench`` the version, the number of samples and of steps, and the
        metrics, see :func:`measure`; versions, device, commit and command.

    Raises:
        ImportError: NeuroBench is not installed.
        FileNotFoundError, ValueError: see ``evaluate``.
    """
    version = need().__version__
    from . import checkpoints, datamodule, results, run

    row = run.evaluate(checkpoint, **options)
    saved, recipe = checkpoints.load_checkpoint(checkpoint)
    net = recipe.build_network()
    net.load_state_dict({name.removeprefix("net."): value for name, value in saved["state_dict"].items()})
    frames = datamodule.Frames(
        Recipe(**row["recipe"]), row["seed"], options.get("data_root"), options.get("download", False)
    )
    frames.setup("validate")
    loader, accelerator = frames.val_dataloader(), options.get("accelerator", "auto")
    gpu = accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())
    metrics = measure(net, loader, "cuda" if gpu else "cpu")
    report = {"version": version, "samples": len(frames.test), "num_steps": recipe.num_steps, "metrics": metrics}
    return {**row, "neurobench": report, **results.environment()}
