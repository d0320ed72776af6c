"""What one sees of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lightning as L
import torch

from .._progress import Progress
from ..telling import which
from ._tables import number
from .results import device_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .._typing import Result

__all__: list[str] = []


class Epochs(L.Callback):
    """Tells of every epoch, when it is written down.

    Args:
        tell: called with its row of the history, in the first of the processes.
    """

    def __init__(self, tell: Callable[[Result], object]) -> None:
        self._tell, self._told = tell, 0

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._told = len(pl_module.history)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._tell_new(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._tell_new(trainer, pl_module)

    def _tell_new(self, trainer, model):
        for epoch in model.history[self._told :] if trainer.is_global_zero else []:
            self._tell(epoch)
        self._told = len(model.history)


class Shown(Epochs):
    """What the run is, a line an epoch, and one bar for all of it.

    Args:
        folder: where the run is kept.
    """

    def __init__(self, folder: Path | None) -> None:
        super().__init__(self._say)
        self._folder = folder
        self._progress: Progress | None = None  # in the first of the processes

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        if not trainer.is_global_zero:
            return
        self._progress = Progress("training", "batches")
        for name, text in describe(trainer, pl_module, self._folder).items():
            self._progress.say(f"{name:8} {text}")
        done = trainer.datamodule.batches_done[1]  # type: ignore[attr-defined]
        self._epochs = pl_module.recipe.epochs
        self._an_epoch = int(trainer.num_training_batches) + int(sum(trainer.num_val_batches))
        self._at = len(pl_module.history) * self._an_epoch + done
        self._step(0)

    def _step(self, batches=1):
        if self._progress is not None:
            self._at += batches
            self._progress.at(self._at, self._epochs * self._an_epoch)

    def on_train_batch_end(self, *args: Any) -> None:
        self._step()

    def on_validation_batch_end(self, *args: Any) -> None:
        self._step()

    def _say(self, epoch):
        words = [
            f"loss {number(epoch['train_loss'], '.4f')}", f"test loss {number(epoch['test_loss'], '.4f')}",
            f"test accuracy {100 * epoch['test_accuracy']:.2f} %", f"firing rate {number(epoch['firing_rate'], '.4f')}",
            *([f"{epoch['warm_up']} warm-up"] if epoch["warm_up"] else []),
        ]  # fmt: skip
        self._progress.say(f"epoch {epoch['epoch'] + 1:{len(str(self._epochs))}}/{self._epochs}: {', '.join(words)}")

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        super().on_train_end(trainer, pl_module)
        self._close()

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        self._close()

    def _close(self):
        if self._progress is not None:
            self._progress.close()


def describe(trainer: L.Trainer, model: Any, folder: Path | None) -> dict[str, str]:
    """What a run is, and how it is done, in words."""
    recipe, frames = model.recipe, trainer.datamodule  # type: ignore[attr-defined]
    spec = recipe.spec()
    parameters = sum(parameter.numel() for parameter in model.net.parameters())
    warm_up = f", the first {recipe.warm_up_epochs} with the {recipe.warm_up} warm-up"
    processes = f", {trainer.world_size} processes" if trainer.world_size > 1 else ""
    return {
        "run": f"{recipe.dataset}, {recipe.variant_name()}, seed {model.seed}" + (f", in {folder}" if folder else ""),
        "data": f"{len(frames.train):,} samples to train on, {len(frames.test):,} to test on, "
        f"{' x '.join(map(str, spec.input_shape))}, {spec.num_classes} classes",
        "network": f"{recipe.network} x {recipe.width:g} ({model.net.notation}), T = {recipe.num_steps}, "
        f"{parameters:,} parameters",
        "training": f"{recipe.epochs} epochs of {trainer.num_training_batches} batches of {recipe.batch_size}, "
        f"lr {recipe.lr:g}{warm_up if recipe.warm_up != 'none' else ''}",
        "device": f"{device_name(trainer.strategy.root_device)}, {trainer.precision}{processes}",
        "kernels": "; ".join(f"{how} ({', '.join(layers)})" for how, layers in _kernels(trainer, model).items()),
    }


def _kernels(trainer, model):
    """How the layers run -> which, of a call of the network as it is measured: nothing of it changes."""
    samples = trainer.datamodule.test
    x = torch.stack([samples[i][0] for i in range(min(2, len(samples)))]).to(trainer.strategy.root_device)
    x, _ = trainer.datamodule.on_after_batch_transfer((x, None), 0)
    model.net.eval()
    try:
        with trainer.precision_plugin.forward_context():
            told = which(model.net, trainer.precision_plugin.convert_input(x))
    finally:
        model.net.train()
    found: dict[str, list[str]] = {}
    for layer, how in told.items():
        found.setdefault(how, []).append(layer)
    return found
