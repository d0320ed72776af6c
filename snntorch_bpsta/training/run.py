"""One run: train a recipe, or measure a checkpoint of it."""

from __future__ import annotations

import logging
import signal
import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins.environments import SLURMEnvironment

from .._checks import check_choice, check_flags, check_instance, check_int, check_path, check_positive_int
from .._signals import Stop
from ..data import DATASETS
from ..memory import keep_memory
from ._shown import Epochs, Shown
from .checkpoints import CHECKPOINT, Files, damaged, load_checkpoint
from .datamodule import Frames, check_run
from .folder import RESULT, Last, check_empty, claimed, finished, is_first, newest
from .module import Classifier
from .results import counted, result_row, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lightning.pytorch.loggers.logger import Logger

    from .._typing import AnyPath, Result
    from .recipes import Recipe

__all__ = ["PRECISIONS", "evaluate", "train"]

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "64-true", "bf16-true", "16-true")


def train(
    recipe: Recipe,
    seed: int = 0,
    out_dir: AnyPath | None = None,
    *,
    resume: bool = False,
    extend: bool = False,
    overwrite: bool = False,
    data_root: AnyPath | None = None,
    download: bool = False,
    devices: int = 1,
    num_nodes: int = 1,
    accelerator: str = "auto",
    precision: str = "32-true",
    num_workers: int = 0,
    progress: bool | Callable[[Result], object] = True,
    also_test: Sequence[str] = (),
) -> Result:
    """Train `recipe` with `seed` and measure it on the test set after every epoch.

    The result is that of the last epoch: nothing is selected on the test set. The process keeps its memory from then on, see
    :func:`snntorch_bpsta.keep_memory`.

    Args:
        recipe: a :class:`~snntorch_bpsta.training.Recipe`.
        seed: of initialisation, order and dropout.
        out_dir: folder for the checkpoint ``last.ckpt`` (written whole, every epoch), CSV and TensorBoard logs and
            ``result.json``; None keeps nothing.
        resume: go on from ``out_dir/last.ckpt`` or, where that is damaged, from the checkpoint before it; the weights end as
            if the run had never stopped. A run that is finished is not touched, and its row is returned. A run is the same
            where recipe, seed, precision, number of processes and data are: another is refused.
        extend: go on like that with more epochs in `recipe` than the run was begun with. The learning rate goes on as it
            would be at this epoch of the longer run; weights and moments are those of the shorter one.
        overwrite: begin anew in a folder that holds a run, which is lost as soon as the new one stands.
        data_root, download: see :func:`snntorch_bpsta.data.load`.
        devices: processes per machine, by DDP; the batch size is per process.
        num_nodes: machines; start one process per device on each, by torchrun or SLURM.
        accelerator, precision: Lightning's ("cpu", "gpu"; "32-true", "bf16-mixed", "16-mixed").
        num_workers: of the data loaders.
        progress: show on standard error what the run is, a line an epoch and, on a terminal, one bar for all of it; or a
            function that is called with the row of every epoch (as in ``history``), by the first of the processes.
        also_test: other data sets, of the same shape and classes, on whose test sets the network is measured at the end
            (simulated recordings, real ones); one process only.

    Returns:
        dict: the row of a results file: ``recipe``, ``seed``, ``accuracy`` and ``firing_rate`` of the last epoch,
        ``firing_rates`` by layer, ``silent_layers``, those without a spike on the test set, energy ratios and counted
        ``operations`` (see :mod:`snntorch_bpsta.energy`), ``history`` by epoch, seconds, versions, device, commit and
        command.

    Raises:
        FileNotFoundError: `resume` without a checkpoint.
        FileExistsError: `out_dir` holds a run, and neither `resume`, `extend` nor `overwrite` is given.
        BlockingIOError: another process trains into `out_dir`.
        ValueError: the checkpoint is of another run; the weights are no longer finite; an argument out of range.
        TypeError: an argument of the wrong type.
        KeyboardInterrupt: SIGINT (Ctrl-C) came. The first one, or SIGTERM, lets the step end and writes ``last.ckpt``, from
            which `resume` goes on with the next step; the second stops at once.
    """
    check_run(recipe, seed, data_root, download, num_workers)
    _check_accelerator(accelerator)
    check_flags(resume=resume, extend=extend, overwrite=overwrite)
    if not callable(progress):
        check_flags(progress=progress)
    if (resume or extend) and overwrite:
        raise ValueError("resume and extend go on with the run that overwrite would lose: give one or the other")
    check_positive_int("devices", devices)
    check_positive_int("num_nodes", num_nodes)
    check_choice("precision", precision, PRECISIONS)
    check_instance("also_test", also_test, (list, tuple), "names of data sets")
    for name in also_test:
        _check_alike("also_test", name, recipe)
    if also_test and devices * num_nodes != 1:
        raise ValueError(
            f"also_test needs one process, got devices={devices}, num_nodes={num_nodes}: "
            "measure the checkpoint with evaluate(..., dataset=)"
        )
    if out_dir is not None:
        check_path("out_dir", out_dir)
    folder = Path(out_dir) if out_dir is not None else Path() if resume or extend else None
    on = {"accelerator": accelerator, "precision": precision}

    def frames(recipe):
        return Frames(recipe, seed, data_root, download, num_workers)

    with claimed(folder):
        row = checkpoint = None
        if folder is not None and (resume or extend):
            row = finished(folder, recipe, seed, precision, devices * num_nodes)
            if row is not None and {*also_test} <= row.get("also_test", {}).keys():
                return row
            checkpoint = newest(folder)  # a damaged one is refused before anything is built
        elif folder is not None and not overwrite:
            check_empty(folder)
        _settle()
        L.seed_everything(seed, verbose=False)
        model = Classifier(recipe.build_network(), recipe, seed)
        if row is None:
            model._extend = extend
            trainer = _trainer(folder, recipe.epochs, devices, num_nodes, progress, overwrite, **on)
            _fit(trainer, model, frames(recipe), checkpoint)
            if model._operations is None and trainer.world_size == 1:  # it was stopped between last epoch and result
                _measure(model, frames(recipe), **on)
            row = result_row(model, trainer)
        elif checkpoint is not None:
            model.load_state_dict(load_checkpoint(checkpoint)[0]["state_dict"])
        for name in also_test:
            if name not in row.setdefault("also_test", {}):
                found = _measure(model, frames(recipe.on(name)), **on)
                row["also_test"][name] = {**found, "samples": model._samples}
        if folder is not None and is_first():
            write_json(folder / RESULT, row)
    if model._stop is not None and model._stop.number is not None:
        signal.raise_signal(model._stop.number)
    return row


def _trainer(folder, epochs, devices, num_nodes, progress, overwrite, accelerator, precision):
    """Lightning's, which keeps what it writes in `folder`."""
    several = devices * num_nodes != 1
    callbacks: list[L.Callback] = []
    if progress:
        callbacks.append(Epochs(progress) if callable(progress) else Shown(folder))
    loggers: list[Logger] = []
    if folder is not None:
        callbacks += [Last(folder, overwrite), LearningRateMonitor("epoch")]
        # Of both a resumed run adds a version.
        loggers = [CSVLogger(folder, name="csv"), TensorBoardLogger(folder, "tensorboard")]
    gpu = accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())
    plugins: list[Any] = [Files()]
    if SLURMEnvironment.detect():  # its requeue would write another checkpoint, past all checks
        plugins.append(SLURMEnvironment(auto_requeue=False))
    return L.Trainer(
        accelerator=accelerator, devices=devices, num_nodes=num_nodes, strategy="ddp" if several else "auto",
        precision=precision, max_epochs=epochs, callbacks=callbacks, logger=loggers or False,
        enable_checkpointing=folder is not None, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, log_every_n_steps=10, use_distributed_sampler=False, reload_dataloaders_every_n_epochs=1,
        sync_batchnorm=gpu and several, plugins=plugins, default_root_dir=folder,
    )  # fmt: skip


def _fit(trainer, model, frames, checkpoint):
    """Train, until it is done or a signal came: the run is written then, and the signal goes on to whose it is."""
    with Stop(gently=True) as stop:
        model._stop = stop
        try:
            trainer.fit(model, frames, ckpt_path=checkpoint, weights_only=True)
            return
        except (KeyboardInterrupt, SystemExit):  # Lightning turns the first into the second
            if stop.number is None:
                raise
        except Exception as error:
            if model._restoring:
                raise damaged(checkpoint, error) from error
            raise
    signal.raise_signal(stop.number)
    raise KeyboardInterrupt  # whoever has the signal does nothing with it


def _check_alike(argument, name, recipe):
    """Refuse a data set whose samples the network of `recipe` does not take."""
    check_choice(argument, name, tuple(DATASETS))
    own, other = recipe.spec(), DATASETS[name]
    if (own.input_shape, own.num_classes) != (other.input_shape, other.num_classes):
        raise ValueError(
            f"{argument}: {name} has {other.num_classes} classes of {other.input_shape}; a network for {recipe.dataset} "
            f"takes {own.num_classes} of {own.input_shape}"
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
    saved, recipe = load_checkpoint(path)
    if dataset is not None:
        _check_alike("dataset", dataset, recipe)
        recipe = recipe.on(dataset)
    if test_limit:
        recipe = replace(recipe, test_limit=test_limit)
    model = Classifier(recipe.build_network(), recipe, saved["bpsta"]["seed"])
    try:
        model.load_state_dict(saved["state_dict"])
    except Exception as error:
        raise damaged(path, error) from error
    _settle()
    found = _measure(model, Frames(recipe, model.seed, data_root, download), accelerator)
    return {
        "recipe": recipe.as_dict(),
        "seed": model.seed,
        "epochs": len(saved["bpsta"]["history"]),
        **found,
        **counted(model),
    }


def _check_accelerator(accelerator):
    check_instance("accelerator", accelerator, str, "the name of one, such as 'cpu'")
    if accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"accelerator={accelerator!r}, but torch {torch.__version__} sees no CUDA device; use 'cpu' or 'auto'"
        )


def _settle():
    """Keep the memory that is freed, where that can be, and Lightning's notices about itself off the screen."""
    with suppress(NotImplementedError):
        keep_memory()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings(
        "ignore", message=".*checkpoint that ended before the epoch ended.*"
    )  # Frames knows how far
    warnings.filterwarnings("ignore", message=".*epoch parameter in `scheduler.step.*")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*GPU available but not used.*")
