"""The Lightning module of a run, and its learning rate."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from .. import energy
from .._checks import check_instance, check_module
from ..data import DATASETS
from ..networks import set_warm_up
from .checkpoints import check_restored
from .datamodule import AUGMENTATIONS, augment, check_run
from .recipes import Recipe

if TYPE_CHECKING:
    from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
    from torch import Tensor
    from torch.optim.lr_scheduler import LRScheduler

    from .._typing import Batch, Result

__all__ = ["Classifier", "learning_rate_schedule"]


class Classifier(L.LightningModule):
    """Trains a network that maps a batch to class scores at every step, ``[T, B, num_classes]``, with Eq. 5.

    Every step draws its random numbers from (seed, epoch, step, rank) alone, so a run that was killed and resumed ends
    with the weights of one that was not.

    Args:
        net: the network.
        recipe: its training recipe.
        seed: of this run.

    Attributes:
        history: one dict per epoch: epoch, warm_up, train_loss, test_loss, test_accuracy (of the test set, which nothing
            is selected on), firing_rate (mean) and firing_rates (by layer).
    """

    def __init__(self, net: nn.Module, recipe: Recipe, seed: int = 0) -> None:
        super().__init__()
        check_module("net", net)
        check_run(recipe, seed)
        self.net = net
        self.recipe = recipe
        self.seed = seed
        self._loss = recipe.loss_function()
        self.accuracy = MulticlassAccuracy(DATASETS[recipe.dataset].num_classes, average="micro")
        self.history: list[Result] = []
        self._losses: list[Tensor] = []
        self._firing: energy.FiringRates | None = None
        self._operations: energy.Operations | None = None
        self._samples = 0
        self._restoring = False  # in the middle of taking over a checkpoint

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def _warm_up_of(self, epoch):
        """The warm-up in force in `epoch`."""
        return self.recipe.warm_up if self.recipe.warm_up != "none" and epoch < self.recipe.warm_up_epochs else None

    def _fired(self) -> energy.FiringRates | None:
        """The last measurement, if it was of neurons that spike."""
        warm_ups = [module.warm_up for module in self.net.modules() if hasattr(module, "warm_up")]
        return None if "identity" in warm_ups else self._firing

    def on_train_start(self) -> None:
        if self._restoring:
            for optimizer in self.trainer.optimizers:
                check_restored(optimizer)
        self._restoring = False

    def on_train_epoch_start(self) -> None:
        set_warm_up(self.net, self._warm_up_of(self.current_epoch))
        self._losses = []

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Not once an epoch: Lightning makes the data loader's iterator, which draws a number, before or after that hook,
        # depending on whether the run was resumed.
        torch.manual_seed(hash((self.seed, self.current_epoch, batch_idx, self.global_rank)) % 2**63)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        x, targets = batch
        name = self.recipe.dataset.removesuffix("_simulated")
        if self.recipe.augment and name in AUGMENTATIONS:
            x = augment(x, *AUGMENTATIONS[name])
        loss = self._loss(self(x), targets)
        self._losses.append(loss.detach())
        self.log("train_loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(targets))
        return loss

    def on_validation_epoch_start(self) -> None:
        self._recording = ExitStack()
        self._firing = self._recording.enter_context(energy.record_firing_rates(self.net))
        if self.trainer.state.fn != "fit" or self.current_epoch + 1 == self.trainer.max_epochs:
            self._operations = self._recording.enter_context(energy.count_operations(self.net))
            self._samples = 0

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        x, targets = batch
        out_rec = self(x)
        self._samples += len(targets)
        self.accuracy(out_rec.mean(0), targets)
        self.log("test_accuracy", self.accuracy, on_epoch=True, prog_bar=True, batch_size=len(targets))
        self.log("test_loss", self._loss(out_rec, targets), on_epoch=True, batch_size=len(targets))

    def on_validation_epoch_end(self) -> None:
        self._recording.close()
        firing = self._fired()
        if firing is not None:
            self.log("firing_rate", firing.mean())

    def on_train_epoch_end(self) -> None:
        for name, weight in self.net.named_parameters():
            if not bool(weight.isfinite().all()):  # in front of the checkpoint of this epoch
                raise ValueError(
                    f"the run has diverged: {name} is no longer finite after epoch {self.current_epoch}. The checkpoint "
                    "is of the epoch before, if there was one; lower lr, or train in another precision"
                )
        metrics = self.trainer.callback_metrics
        warm_up = self._warm_up_of(self.current_epoch)
        firing = self._fired()
        self.history.append(
            {
                "epoch": self.current_epoch,
                "warm_up": warm_up,
                "train_loss": float(torch.stack(self._losses).mean()) if self._losses else None,
                "test_loss": float(metrics["test_loss"]) if "test_loss" in metrics else None,
                "test_accuracy": float(metrics["test_accuracy"]) if "test_accuracy" in metrics else None,
                "firing_rate": None if firing is None else firing.mean(),
                "firing_rates": None if firing is None else firing.rates(),
            }
        )

    def on_fit_end(self) -> None:
        set_warm_up(self.net, None)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint.pop("callbacks", None)  # which name files, see on_load_checkpoint
        checkpoint["bpsta"] = {"recipe": self.recipe.as_dict(), "seed": self.seed, "history": self.history}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint["bpsta"]
        if (saved["recipe"], saved["seed"]) != (self.recipe.as_dict(), self.seed):
            ours = {**self.recipe.as_dict(), "seed": self.seed}
            theirs = {**saved["recipe"], "seed": saved["seed"]}
            changed = ", ".join(f"{k}: {theirs.get(k)!r} -> {v!r}" for k, v in ours.items() if theirs.get(k) != v)
            raise ValueError(f"the checkpoint is of another run ({changed}); resume with its settings or train anew")
        self.history = saved["history"]
        # Lightning's state of ModelCheckpoint names files, which it deletes when it saves the next checkpoint: wherever they
        # are, if a hostile one says so. Ours selects nothing, and has no use for it.
        checkpoint.pop("callbacks", None)
        self._restoring = True

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        recipe = self.recipe
        optimizer = torch.optim.AdamW(self.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
        return {"optimizer": optimizer, "lr_scheduler": learning_rate_schedule(optimizer, recipe)}


def learning_rate_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe) -> LRScheduler:
    """Linear warm-up over ``lr_warm_up_epochs``, then one cosine to 0, or SGDR: two cosines, the second twice as long.

    Args:
        optimizer: its learning rate is the peak.
        recipe: gives ``epochs``, ``lr_warm_up_epochs`` and ``schedule``.

    Returns:
        torch.optim.lr_scheduler.SequentialLR: to be stepped once an epoch.
    """
    check_instance("optimizer", optimizer, torch.optim.Optimizer, "an optimizer")
    check_instance("recipe", recipe, Recipe, "a Recipe")
    schedulers = torch.optim.lr_scheduler
    warm = min(recipe.lr_warm_up_epochs, recipe.epochs - 1)
    rest = recipe.epochs - warm
    if recipe.schedule == "sgdr":
        after = schedulers.CosineAnnealingWarmRestarts(optimizer, T_0=max(1, round(rest / 3)), T_mult=2)
    else:
        after = schedulers.CosineAnnealingLR(optimizer, T_max=rest)
    if warm == 0:
        return after
    rising = schedulers.LinearLR(optimizer, start_factor=1 / (warm + 1), total_iters=warm)
    return schedulers.SequentialLR(optimizer, [rising, after], milestones=[warm])
