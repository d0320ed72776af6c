"""The Lightning module and data module, and one function that trains a recipe."""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import subprocess
import sys
import time
import warnings
import zipfile
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
import numpy as np
import snntorch
import torch
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from packaging.version import Version
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.data import BatchSampler, DataLoader, Dataset, SequentialSampler
from torch.utils.data.distributed import DistributedSampler
from torchmetrics.classification import MulticlassAccuracy

from .. import data, energy
from .._checks import (
    FLOATING,
    REAL,
    check_choice,
    check_flags,
    check_instance,
    check_int,
    check_module,
    check_number,
    check_path,
    check_positive_int,
    check_tensor,
)
from .._version import __version__
from ..networks import set_warm_up
from .recipes import Recipe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
    from torch import Tensor
    from torch.optim.lr_scheduler import LRScheduler

    from .._typing import AnyPath, Batch, Result

CHECKPOINT = "last.ckpt"
_ON_DEVICE = 2**32  # bytes of a data set that a GPU keeps
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "64-true", "bf16-true", "16-true")

# (padding of the random crop, horizontal flip, rotation in degrees) of the released code, at our frame sizes.
_AUGMENTATIONS = {
    "cifar10": (4, True, 0),
    "nmnist": (4, False, 10),
    "dvs_gesture": (8, False, 5),
    "cifar10_dvs": (8, True, 15),
}


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
        _check_run(recipe, seed)
        self.net = net
        self.recipe = recipe
        self.seed = seed
        self._loss = recipe.loss_function()
        self.accuracy = MulticlassAccuracy(data.DATASETS[recipe.dataset].num_classes, average="micro")
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
                _check_restored(optimizer)
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
        if self.recipe.augment and name in _AUGMENTATIONS:
            x = augment(x, *_AUGMENTATIONS[name])
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


def _check_restored(optimizer):
    """Refuse a state of AdamW, out of a checkpoint, that is not of this recipe and these weights."""
    for group in optimizer.param_groups:
        check_number("lr", group["lr"], "a finite number >= 0", lowest=0)
        for name, value in optimizer.defaults.items():
            if name != "lr" and group[name] != value:
                raise ValueError(f"{name} of the optimizer is {group[name]!r}, and {value!r} in the recipe")
    for parameter, state in optimizer.state.items():
        for name in ("exp_avg", "exp_avg_sq"):
            check_tensor(name, state[name], 0, "of its weight", FLOATING)
            if state[name].shape != parameter.shape:
                raise ValueError(f"{name} is {tuple(state[name].shape)} for a weight of {tuple(parameter.shape)}")


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


class Frames(L.LightningDataModule):
    """The data of a recipe, as the network wants them: images ``[B, C, H, W]``, event frames ``[T, B, 2, H, W]``.

    Args:
        recipe: gives the data set, T, batch size, limits and augmentation.
        seed: of the order of the samples.
        data_root: folder with the data sets; see :func:`snntorch_bpsta.data.load`.
        download: fetch a missing data set.
        num_workers: of the data loaders.
    """

    def __init__(
        self,
        recipe: Recipe,
        seed: int = 0,
        data_root: AnyPath | None = None,
        download: bool = False,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        _check_run(recipe, seed, data_root, download, num_workers)
        self.recipe = recipe
        self.seed = seed
        self.num_workers = num_workers
        self._load_options: dict[str, Any] = {"root": data_root, "num_steps": recipe.num_steps, "download": download}

    def setup(self, stage: str | None = None) -> None:
        recipe = self.recipe
        if stage in (None, "fit"):
            self.train = data.load(recipe.dataset, train=True, limit=recipe.limit or None, **self._load_options)
        self.test = data.load(recipe.dataset, train=False, limit=recipe.test_limit or None, **self._load_options)

    def train_dataloader(self) -> DataLoader:
        # Built anew every epoch: the order is a function of (seed, epoch) and nothing else.
        assert self.trainer is not None  # Lightning sets it first
        world, rank = self.trainer.world_size, self.trainer.global_rank
        sampler: DistributedSampler[Any] = DistributedSampler(
            self.train, num_replicas=world, rank=rank, shuffle=True, seed=self.seed
        )
        sampler.set_epoch(self.trainer.current_epoch)
        return self._loader(self.train, sampler)

    def val_dataloader(self) -> DataLoader:
        return self._loader(self.test)

    def _loader(self, samples, sampler=None):
        # Whole batches are taken out of the array at once, and on a GPU it lies there already if it is small.
        fits = self.trainer is not None and self.num_workers == 0 and samples.data.nbytes < _ON_DEVICE
        batches = _Batches(samples, self.trainer.strategy.root_device if fits else torch.device("cpu"))
        order = BatchSampler(sampler or SequentialSampler(samples), self.recipe.batch_size, drop_last=False)
        return DataLoader(batches, batch_size=None, sampler=order, num_workers=self.num_workers)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        x, targets = batch
        return (x.transpose(0, 1) if x.dim() == 5 else x), targets


class _Batches(Dataset):
    """The batches of a :class:`~snntorch_bpsta.data.Samples`, by lists of positions."""

    def __init__(self, samples, device):
        self.samples = samples
        self.data = None if device.type == "cpu" else torch.tensor(samples.data, device=device)

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        samples = self.samples
        x = torch.from_numpy(np.asarray(samples.data[index])) if self.data is None else self.data[index]
        x = x.float()
        return (x if samples.scale == 1 else x.div_(samples.scale)), samples.targets[index]


def augment(x: Tensor, pad: int, flip: bool, degrees: float) -> Tensor:
    """Random shift, horizontal flip and rotation, drawn once per sample (all its frames move together).

    The released code's random crop of the padded picture is a shift by whole pixels. All three are one resampling (nearest
    pixel, zeros around), on the device of `x`.

    Args:
        x: images ``[B, C, H, W]`` or event frames ``[T, B, C, H, W]``.
        pad: pixels.
        flip: whether to flip, with probability 1/2.
        degrees: largest rotation.

    Raises:
        ValueError, TypeError: an argument out of range or of the wrong type.
    """
    check_tensor("x", x, 4, "[B, C, H, W] or [T, B, C, H, W]", REAL)
    if x.dim() > 5 or x.shape[x.dim() - 4] == 0:
        raise ValueError(f"x must be samples [B, C, H, W] or [T, B, C, H, W], at least one, got {tuple(x.shape)}")
    check_int("pad", pad, 0)
    check_flags(flip=flip)
    check_number("degrees", degrees, "a number from 0 to 360", lowest=0, highest=360)
    batch, (height, width) = x.dim() - 4, x.shape[-2:]
    samples = x.movedim(batch, 0)
    count = len(samples)
    chance = partial(torch.rand, count, device=x.device)
    shift = [(chance() * (2 * pad + 1)).floor() - pad for _ in range(2)]
    mirror = 1 - 2 * (chance() < 0.5).float() if flip else torch.ones(count, device=x.device)
    angle = (chance() * 2 - 1) * math.radians(degrees)
    # Where each pixel of the result comes from, in units of half a width and half a height (affine_grid's).
    cos, sin, ratio = angle.cos(), angle.sin(), height / width
    rows = (mirror * cos, -mirror * sin * ratio, 2 * shift[0] / width), (sin / ratio, cos, 2 * shift[1] / height)
    maps = torch.stack([torch.stack(row, 1) for row in rows], 1)
    flat = samples.reshape(count, -1, height, width).float()
    grid = nn.functional.affine_grid(maps, list(flat.shape), align_corners=False)
    moved = nn.functional.grid_sample(flat, grid, mode="nearest", align_corners=False)
    return moved.view(samples.shape).movedim(0, batch).to(x.dtype)


def train(
    recipe: Recipe,
    seed: int = 0,
    out_dir: AnyPath | None = None,
    *,
    resume: bool = False,
    data_root: AnyPath | None = None,
    download: bool = False,
    devices: int = 1,
    num_nodes: int = 1,
    accelerator: str = "auto",
    precision: str = "32-true",
    num_workers: int = 0,
    progress: bool = True,
    also_test: Sequence[str] = (),
) -> Result:
    """Train `recipe` with `seed` and measure it on the test set after every epoch.

    The result is that of the last epoch: nothing is selected on the test set.

    Args:
        recipe: a :class:`~snntorch_bpsta.training.Recipe`.
        seed: of initialisation, order and dropout.
        out_dir: folder for the checkpoint ``last.ckpt`` (written whole, every epoch), CSV and TensorBoard logs and
            ``result.json``; None keeps nothing.
        resume: go on from ``out_dir/last.ckpt``; the weights end as if the run had never stopped.
        data_root, download: see :func:`snntorch_bpsta.data.load`.
        devices: processes per machine, by DDP; the batch size is per process.
        num_nodes: machines; start one process per device on each, by torchrun or SLURM.
        accelerator, precision: Lightning's ("cpu", "gpu"; "32-true", "bf16-mixed", "16-mixed").
        num_workers: of the data loaders.
        progress: show a progress bar.
        also_test: other data sets, of the same shape and classes, on whose test sets the network is measured at the end
            (simulated recordings, real ones); one process only.

    Returns:
        dict: the row of a results file (see :func:`result_row`).

    Raises:
        FileNotFoundError: `resume` without a checkpoint.
        ValueError: the checkpoint is of another recipe or seed; an argument out of range.
        TypeError: an argument of the wrong type.
    """
    _check_run(recipe, seed, data_root, download, num_workers)
    _check_accelerator(accelerator)
    check_flags(resume=resume, progress=progress)
    check_positive_int("devices", devices)
    check_positive_int("num_nodes", num_nodes)
    several = devices * num_nodes != 1
    check_choice("precision", precision, PRECISIONS)
    check_instance("also_test", also_test, (list, tuple), "names of data sets")
    for name in also_test:
        _check_alike("also_test", name, recipe.dataset)
    if also_test and several:
        raise ValueError(
            f"also_test needs one process, got devices={devices}, num_nodes={num_nodes}: "
            "measure the checkpoint with evaluate(..., dataset=)"
        )
    if out_dir is not None:
        check_path("out_dir", out_dir)
    checkpoint = None
    if resume:
        checkpoint = Path(out_dir or ".") / CHECKPOINT
        if not checkpoint.is_file():
            raise FileNotFoundError(f"nothing to resume: there is no {checkpoint}; start without resume")
        _load_checkpoint(checkpoint, _TO_RESUME)  # a damaged one is refused before anything is built
    _quieten()
    L.seed_everything(seed, verbose=False)
    model = Classifier(recipe.build_network(), recipe, seed)
    frames = Frames(recipe, seed, data_root, download, num_workers)
    callbacks: list[L.Callback] = [TQDMProgressBar()] if progress else []
    loggers = []
    if out_dir is not None:
        out_dir = Path(out_dir)
        callbacks.append(
            ModelCheckpoint(out_dir, Path(CHECKPOINT).stem, save_on_train_epoch_end=True, enable_version_counter=False)
        )
        callbacks.append(LearningRateMonitor("epoch"))
        loggers = [
            CSVLogger(out_dir, name="csv"),
            TensorBoardLogger(out_dir, "tensorboard"),
        ]  # a resumed run adds a version
    gpu = accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())
    trainer = L.Trainer(
        accelerator=accelerator, devices=devices, num_nodes=num_nodes, strategy="ddp" if several else "auto",
        precision=precision,  # type: ignore[arg-type]
        max_epochs=recipe.epochs, callbacks=callbacks, logger=loggers or False, enable_checkpointing=out_dir is not None,
        enable_progress_bar=progress, enable_model_summary=False, num_sanity_val_steps=0, log_every_n_steps=10,
        use_distributed_sampler=False, reload_dataloaders_every_n_epochs=1, sync_batchnorm=gpu and several,
    )  # fmt: skip
    started = time.perf_counter()
    try:
        trainer.fit(model, frames, ckpt_path=checkpoint, weights_only=True)
    except Exception as error:
        if model._restoring:
            raise _damaged(checkpoint, error) from error
        raise
    row = result_row(model, time.perf_counter() - started, trainer)
    for name in also_test:
        other = replace(recipe, dataset=name, test_limit=0)
        found = _measure(model, Frames(other, seed, data_root, download, num_workers), accelerator, precision)
        row.setdefault("also_test", {})[name] = {**found, "samples": model._samples}
    if out_dir is not None and trainer.is_global_zero:
        write_json(out_dir / "result.json", row)
    return row


def _check_alike(argument, name, dataset):
    """Refuse a data set whose samples a network for `dataset` does not take."""
    check_choice(argument, name, tuple(data.DATASETS))
    own, other = data.DATASETS[dataset], data.DATASETS[name]
    if (own.input_shape, own.num_classes) != (other.input_shape, other.num_classes):
        raise ValueError(
            f"{argument}: {name} has {other.num_classes} classes of {other.input_shape}; a network for {dataset} takes "
            f"{own.num_classes} of {own.input_shape}"
        )


def _measure(model, frames, accelerator, precision="32-true"):
    """Accuracy and firing rates on the test set of `frames`."""
    trainer = L.Trainer(
        accelerator=accelerator, devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, precision=precision,
    )  # fmt: skip
    (metrics,) = trainer.validate(model, frames, verbose=False)
    return {
        "accuracy": metrics["test_accuracy"],
        "firing_rate": model._firing.mean(),
        "firing_rates": model._firing.rates(),
    }


def evaluate(
    checkpoint: AnyPath,
    *,
    data_root: AnyPath | None = None,
    download: bool = False,
    accelerator: str = "auto",
    test_limit: int = 0,
    dataset: str | None = None,
) -> Result:
    """Load a checkpoint of :func:`train` and measure it on the test set.

    Args:
        checkpoint: path of a ``last.ckpt``; read with ``weights_only=True``.
        data_root, download, accelerator: as in :func:`train`.
        test_limit: measure on this many samples; 0 for the recipe's.
        dataset: measure on the test set of another data set, of the same shape and classes; None for the recipe's.

    Returns:
        dict: recipe, seed, epochs, accuracy, firing_rate, firing_rates.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no checkpoint of :func:`train`; an argument out of range.
        TypeError: an argument of the wrong type.
    """
    check_path("checkpoint", checkpoint)
    check_flags(download=download)
    check_int("test_limit", test_limit, 0)
    if data_root is not None:
        check_path("data_root", data_root)
    _check_accelerator(accelerator)
    path = Path(checkpoint)
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}; bpsta train writes one as OUT/{CHECKPOINT}")
    saved, recipe = _load_checkpoint(path)
    if dataset is not None:
        _check_alike("dataset", dataset, recipe.dataset)
        recipe = replace(recipe, dataset=dataset, test_limit=0)
    if test_limit:
        recipe = replace(recipe, test_limit=test_limit)
    model = Classifier(recipe.build_network(), recipe, saved["bpsta"]["seed"])
    try:
        model.load_state_dict(saved["state_dict"])
    except Exception as error:
        raise _damaged(path, error) from error
    _quieten()
    found = _measure(model, Frames(recipe, model.seed, data_root, download), accelerator)
    return {
        "recipe": recipe.as_dict(),
        "seed": model.seed,
        "epochs": len(saved["bpsta"]["history"]),
        **found,
        **counted(model),
    }


_TO_RESUME = ("epoch", "global_step", "loops", "optimizer_states", "lr_schedulers", "pytorch-lightning_version")


def _load_checkpoint(path, needed=()):
    """The content of a checkpoint of :func:`train`, and its recipe. It may come from anywhere: nothing in it is run, and
    what does not fit is refused before memory is spent on it."""
    path = Path(path)
    stored = None
    try:
        if zipfile.is_zipfile(path):  # torch.save does not compress; what unpacks to more is no work of its
            with zipfile.ZipFile(path) as archive:
                sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
            if sum(sizes.values()) > path.stat().st_size:
                raise ValueError(f"it unpacks to {sum(sizes.values()):,} bytes")
            stored = sum(size for name, size in sizes.items() if "/data/" in name)
        saved = torch.load(path, map_location="cpu", weights_only=True)
        claimed = sum({each.data_ptr(): each.nbytes() for each in _storages(saved)}.values())
        if stored is not None and claimed > stored:  # PyTorch 2.6 takes the rest from whatever lies in memory
            raise ValueError(f"it has {stored:,} bytes of numbers, and its index speaks of {claimed:,}")
        if needed:
            for name in needed:
                saved[name]
            Version(saved["pytorch-lightning_version"])
            if len(saved["optimizer_states"]) != 1 or len(saved["lr_schedulers"]) != 1:
                raise ValueError("it has not one optimizer and one schedule")
        own = saved["bpsta"]
        recipe = Recipe(**own["recipe"])
        check_int("seed", own["seed"], 0, 2**32)
        for epoch in own["history"]:
            epoch["epoch"], epoch["warm_up"], epoch["test_accuracy"], epoch["firing_rate"], epoch["firing_rates"]
        if needed and saved["epoch"] != len(own["history"]) - 1:
            raise ValueError(f"it is of epoch {saved['epoch']} and has the history of {len(own['history'])}")
        with _WithoutMemory():
            shapes = {f"net.{name}": value.shape for name, value in recipe.build_network().state_dict().items()}
        for name in sorted(shapes.keys() ^ saved["state_dict"].keys()):
            raise ValueError(f"{name} is {'missing' if name in shapes else 'not in the network of its recipe'}")
        for name, shape in shapes.items():
            check_tensor(name, saved["state_dict"][name], 0, "of the network")
            value = saved["state_dict"][name]
            if value.shape != shape or value.is_meta:
                got = "without values" if value.is_meta else tuple(value.shape)
                raise ValueError(f"{name} is {got}, and {tuple(shape)} in its recipe")
        return saved, recipe
    except Exception as error:  # torch.load raises whatever a damaged file leads to
        raise _damaged(path, error) from error


def _storages(value):
    """What holds the numbers of the tensors in dicts and lists of them."""
    if isinstance(value, torch.Tensor) and value.layout is torch.strided and not value.is_meta:
        yield value.untyped_storage()
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ():
        yield from _storages(part)


class _WithoutMemory(TorchFunctionMode):
    """Inside, layers are built on the device "meta". (Not so the numbers of the host's neurons, which it looks at.)"""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        meta = {"device": "meta"} if func in (torch.empty, torch.ones, torch.zeros) else {}
        return func(*args, **(kwargs or {}) | meta)


def _damaged(path, error):
    return ValueError(f"{path} is damaged or no checkpoint of `bpsta train`: {type(error).__name__}: {error}")


def _check_run(recipe, seed, data_root=None, download=False, num_workers=0):
    check_instance("recipe", recipe, Recipe, "a Recipe")
    check_int("seed", seed, 0, 2**32)
    if data_root is not None:
        check_path("data_root", data_root)
    check_flags(download=download)
    check_int("num_workers", num_workers, 0)


def _check_accelerator(accelerator):
    check_instance("accelerator", accelerator, str, "the name of one, such as 'cpu'")
    if accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"accelerator={accelerator!r}, but torch {torch.__version__} sees no CUDA device; use 'cpu' or 'auto'"
        )


def result_row(model: Classifier, seconds: float, trainer: L.Trainer) -> Result:
    """What is written down of a run: its recipe and seed, its curve, its last epoch, and where it ran."""
    last = model.history[-1]
    rate = last["firing_rate"]
    steps = model.recipe.num_steps
    return {
        "recipe": model.recipe.as_dict(),
        "seed": model.seed,
        "accuracy": last["test_accuracy"],
        "firing_rate": rate,
        "firing_rates": last["firing_rates"],
        "energy_ratio": None if rate is None else energy.energy_ratio(rate, steps),
        "energy_ratio_fp32_ac": None if rate is None else energy.energy_ratio(rate, steps, energy.E_AC_FP32_PJ),
        **counted(model),
        "train_seconds": round(seconds, 2),
        "history": model.history,
        "precision": str(trainer.precision),
        "processes": trainer.world_size,
        **environment(),
    }


def counted(model: Classifier) -> Result:
    """What the last measurement counted: operations per sample by layer, and the energy ratios they give."""
    operations, samples = model._operations, model._samples
    if not operations or (model.history and model.history[-1]["firing_rate"] is None):
        return {"operations": None, "energy_ratio_counted": None, "energy_ratio_counted_fp32_ac": None}
    return {
        "operations": {
            name: {"dense": layer["dense"], "ac": layer["ac"] / samples, "mac": layer["mac"] / samples}
            for name, layer in operations.items()
        },
        "energy_ratio_counted": operations.energy_ratio(samples),
        "energy_ratio_counted_fp32_ac": operations.energy_ratio(samples, energy.E_AC_FP32_PJ),
    }


def environment() -> Result:
    """Versions, device, commit and command, for a results file."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        capture_output=True, text=True, cwd=Path(__file__).parent, check=False,
    )  # fmt: skip
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "versions": {
            "snntorch_bpsta": __version__,
            "snntorch": snntorch.__version__,
            "torch": torch.__version__,
            "lightning": L.__version__,
            "python": platform.python_version(),
        },
        "device": gpu or f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s) of {os.cpu_count()} cores",
        "commit": commit.stdout.strip() or None,
        "command": " ".join(["bpsta", *sys.argv[1:]]),
    }


def write_json(path: Path, value: Any) -> None:
    """Write `value` whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(part, path)


def _quieten():
    """Keep Lightning's notices about itself off the screen."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*epoch parameter in `scheduler.step.*")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*GPU available but not used.*")
