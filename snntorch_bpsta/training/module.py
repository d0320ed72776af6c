"""The Lightning module of a run, and its learning rate."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from .. import energy
from .._checks import check_instance, check_module
from .._signals import Stop
from ..networks import set_warm_up
from .checkpoints import CHECKPOINT, check_restored
from .datamodule import Frames, augment, check_run
from .recipes import AUGMENTATIONS, Recipe

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
        self.accuracy = MulticlassAccuracy(recipe.spec().num_classes, average="micro")
        self.history: list[Result] = []
        self._losses: list[Tensor] = []
        self._batches_done = 0  # of an epoch in whose midst the run is written
        self._firing: energy.FiringRates | None = None
        self._operations: energy.Operations | None = None
        self._weights: dict[str, float] | None = None  # of the penalty, by layer
        self._samples = 0
        self._restoring = False  # in the middle of taking over a checkpoint
        self._extend = False  # it may be of fewer epochs
        self._seconds, self._started = 0.0, time.perf_counter()  # of the runs before, and since when this one goes
        self._stop: Stop | None = None

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def _warm_up_of(self, epoch):
        """The warm-up in force in `epoch`."""
        return self.recipe.warm_up if self.recipe.warm_up != "none" and epoch < self.recipe.warm_up_epochs else None

    def _fired(self) -> energy.FiringRates | None:
        """The last measurement, if it was of neurons that spike."""
        warm_ups = [module.warm_up for module in self.net.modules() if hasattr(module, "warm_up")]
        return None if "identity" in warm_ups else self._firing

    def _identity(self):
        """What makes a run another one, besides the code and the kind of device."""
        own: dict[str, Any] = {"recipe": self.recipe.as_dict(), "seed": self.seed}
        if self._trainer is not None:
            own |= {"precision": str(self.trainer.precision), "processes": self.trainer.world_size}
            frames = getattr(self.trainer, "datamodule", None)
            if isinstance(frames, Frames):
                own["data"] = frames._fingerprint()
        return own

    def _duration(self):
        """How long the run has taken, with what went before it was resumed."""
        return self._seconds + time.perf_counter() - self._started

    def on_train_start(self) -> None:
        if self._stop is not None:
            # Lightning's handler of SIGTERM kills and waits for the other processes from within the signal, wherever they
            # are: where one of them waits for this one's gradients, both wait for ever. `_stops` asks them between steps.
            self._stop.take()
        if self._restoring:
            for optimizer in self.trainer.optimizers:
                check_restored(optimizer)
        self._restoring = False

    def on_train_epoch_start(self) -> None:
        if self._stops():  # since the last step; the epoch is written
            raise KeyboardInterrupt
        set_warm_up(self.net, self._warm_up_of(self.current_epoch))
        self._losses = []

    def _stops(self):
        """Whether a signal came: to one of the processes, and all of them stop as if they had been told."""
        number = 0 if self._stop is None or self._stop.number is None else self._stop.number
        if self.trainer.world_size > 1:
            strategy = self.trainer.strategy
            number = int(strategy.reduce(torch.tensor(number, device=strategy.root_device), reduce_op="max"))
            if self._stop is not None and number:
                self._stop.number = number
        return number != 0

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Not once an epoch: Lightning makes the data loader's iterator, which draws a number, before or after that hook,
        # depending on whether the run was resumed.
        torch.manual_seed(hash((self.seed, self.current_epoch, batch_idx, self.global_rank)) % 2**63)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if not self._stops():
            return
        if self.trainer.is_last_batch:  # the epoch is measured and written first
            return
        callback: Any = self.trainer.checkpoint_callback
        if callback is not None and callback.dirpath is not None:
            self._check_finite()
            self._batches_done = batch_idx + 1
            self.trainer.save_checkpoint(Path(callback.dirpath) / CHECKPOINT)
        raise KeyboardInterrupt

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        x, targets = batch
        name = self.recipe.dataset.removesuffix("_simulated")
        if self.recipe.augment and name in AUGMENTATIONS:  # a recipe may have been put on another data set
            x = augment(x, *AUGMENTATIONS[name])
        if self.recipe.rate_penalty and self._warm_up_of(self.current_epoch) is None:
            with energy.record_firing_rates(self.net, differentiable=True) as firing:
                out_rec = self(x)
            hidden = [*firing][:-1] if self.recipe.readout == "spikes" else [*firing]
            if self.recipe.penalty_on == "accumulates" and self._weights is None:
                self._weights = self._accumulates(x, hidden)
            penalty = self.recipe.rate_penalty * firing.penalty(hidden, self._weights)
        else:
            out_rec, penalty = self(x), 0.0
        loss = self._loss(out_rec, targets)
        self._losses.append(loss.detach())  # without the penalty, to be compared
        self.log("train_loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(targets))
        return loss + penalty

    @torch.no_grad()
    def _accumulates(self, x, hidden):
        """Of each of the `hidden` layers of neurons, the accumulates of the layer behind if all of them fired."""
        training = self.net.training
        self.net.eval()
        with energy.count_operations(self.net) as operations:
            self.net(x[:, :1] if x.dim() == 5 else x[:1])
        self.net.train(training)
        dense = [layer["dense"] for layer in operations.values()]
        return dict(zip(hidden, dense[1:], strict=True))

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

    def _check_finite(self):
        """In front of a checkpoint: the one before is worth more than one that is not finite."""
        losses = {"the loss": torch.stack(self._losses)} if self._losses else {}
        for name, value in (self.net.state_dict() | losses).items():
            if value.is_floating_point() and not bool(value.isfinite().all()):
                raise ValueError(
                    f"the run has diverged: {name} is no longer finite in epoch {self.current_epoch}. The last checkpoint, "
                    "if there is one, is of before; lower lr, or train in another precision"
                )

    def on_train_epoch_end(self) -> None:
        self._check_finite()
        self._batches_done = 0
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
        checkpoint["bpsta"] = {**self._identity(), "history": self.history, "seconds": self._duration()}
        if self._batches_done:
            checkpoint["bpsta"] |= {"batches_done": self._batches_done, "losses": self._losses}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint["bpsta"]
        ours, theirs = self._identity(), {name: saved[name] for name in self._identity() if name in saved}
        ours, theirs = ({**each.pop("recipe"), **each} for each in (ours, theirs))
        changed = {name: value for name, value in theirs.items() if value != ours.get(name)}
        if self._extend and changed.get("epochs", ours["epochs"]) < ours["epochs"]:
            del changed["epochs"]
            self._lengthen(checkpoint)
        if changed:
            what = ", ".join(f"{name}: {value!r} -> {ours.get(name)!r}" for name, value in changed.items())
            hint = "; more epochs are trained by extend=True (--extend)" if [*changed] == ["epochs"] else ""
            raise ValueError(f"the checkpoint is of another run ({what}); resume with its settings or train anew{hint}")
        self.history, self._seconds = saved["history"], saved.get("seconds", 0.0)
        self._losses = [loss.to(self.device) for loss in saved.get("losses", [])]
        frames = getattr(self._trainer, "datamodule", None)
        if isinstance(frames, Frames):
            frames.batches_done = (len(self.history), saved.get("batches_done", 0))
        # Lightning's state of ModelCheckpoint names files, which it deletes when it saves the next checkpoint: wherever they
        # are, if a hostile one says so. Ours selects nothing, and has no use for it.
        checkpoint.pop("callbacks", None)
        self._restoring = True

    def _lengthen(self, checkpoint):
        """The learning rate of a checkpoint of fewer epochs as it is at this point of more of them."""
        longer: Any = self.configure_optimizers()
        (state,), (optimizer,) = checkpoint["lr_schedulers"], checkpoint["optimizer_states"]
        longer["optimizer"].step()  # nothing, and PyTorch wants it first
        for _ in range(state["last_epoch"]):
            longer["lr_scheduler"].step()
        checkpoint["lr_schedulers"] = [longer["lr_scheduler"].state_dict()]
        for group, other in zip(optimizer["param_groups"], longer["optimizer"].param_groups, strict=True):
            group["lr"] = other["lr"]

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
