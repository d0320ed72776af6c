"""One run: train a recipe, or measure a checkpoint of it."""

from __future__ import annotations

import json
import logging
import time
import warnings
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_only

from .._checks import check_choice, check_flags, check_instance, check_int, check_path, check_positive_int
from .._files import locked
from ..data import DATASETS
from .checkpoints import CHECKPOINT, PREVIOUS, Files, damaged, load_checkpoint, newest
from .datamodule import Frames, check_run
from .module import Classifier
from .results import counted, result_row, write_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._typing import AnyPath, Result
    from .recipes import Recipe

__all__ = ["PRECISIONS", "evaluate", "train"]

RESULT = "result.json"

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "64-true", "bf16-true", "16-true")


def train(
    recipe: Recipe,
    seed: int = 0,
    out_dir: AnyPath | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
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
        resume: go on from ``out_dir/last.ckpt`` or, where that is damaged, from the checkpoint before it; the weights end as
            if the run had never stopped. A run that is finished is not touched, and its row is returned.
        overwrite: begin anew in a folder that holds a run, which is lost.
        data_root, download: see :func:`snntorch_bpsta.data.load`.
        devices: processes per machine, by DDP; the batch size is per process.
        num_nodes: machines; start one process per device on each, by torchrun or SLURM.
        accelerator, precision: Lightning's ("cpu", "gpu"; "32-true", "bf16-mixed", "16-mixed").
        num_workers: of the data loaders.
        progress: show a progress bar.
        also_test: other data sets, of the same shape and classes, on whose test sets the network is measured at the end
            (simulated recordings, real ones); one process only.

    Returns:
        dict: the row of a results file: ``recipe``, ``seed``, ``accuracy`` and ``firing_rate`` of the last epoch,
        ``firing_rates`` by layer, energy ratios and counted ``operations`` (see :mod:`snntorch_bpsta.energy`), ``history``
        by epoch, seconds, versions, device, commit and command.

    Raises:
        FileNotFoundError: `resume` without a checkpoint.
        FileExistsError: `out_dir` holds a run, and neither `resume` nor `overwrite` is given.
        BlockingIOError: another process trains into `out_dir`.
        ValueError: the checkpoint is of another recipe or seed; the weights are no longer finite; an argument out of range.
        TypeError: an argument of the wrong type.
    """
    check_run(recipe, seed, data_root, download, num_workers)
    _check_accelerator(accelerator)
    check_flags(resume=resume, overwrite=overwrite, progress=progress)
    if resume and overwrite:
        raise ValueError("resume goes on with the run that overwrite would lose: give one of the two")
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
        folder = Path(out_dir or ".")
        checkpoint = newest(folder)  # a damaged one is refused before anything is built
        if checkpoint is None:
            raise FileNotFoundError(f"nothing to resume: there is no {folder / CHECKPOINT}; start without resume")
        row = _finished(folder, recipe, seed)
        if row is not None:
            return row
    elif out_dir is not None:
        _make_room(Path(out_dir), overwrite)
    with _claimed(out_dir):
        _quieten()
        L.seed_everything(seed, verbose=False)
        model = Classifier(recipe.build_network(), recipe, seed)
        frames = Frames(recipe, seed, data_root, download, num_workers)
        callbacks: list[L.Callback] = [TQDMProgressBar()] if progress else []
        loggers = []
        if out_dir is not None:
            out_dir = Path(out_dir)
            callbacks.append(
                ModelCheckpoint(
                    out_dir, Path(CHECKPOINT).stem, save_on_train_epoch_end=True, enable_version_counter=False
                )
            )
            callbacks.append(LearningRateMonitor("epoch"))
            loggers = [
                CSVLogger(out_dir, name="csv"),
                TensorBoardLogger(out_dir, "tensorboard"),
            ]  # a resumed run adds a version
        gpu = accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())
        plugins: list[Any] = [Files()]
        if SLURMEnvironment.detect():  # its requeue would write another checkpoint, past all checks
            plugins.append(SLURMEnvironment(auto_requeue=False))
        trainer = L.Trainer(
            accelerator=accelerator, devices=devices, num_nodes=num_nodes, strategy="ddp" if several else "auto",
            precision=precision,  # type: ignore[arg-type]
            max_epochs=recipe.epochs, callbacks=callbacks, logger=loggers or False, enable_checkpointing=out_dir is not None,
            enable_progress_bar=progress, enable_model_summary=False, num_sanity_val_steps=0, log_every_n_steps=10,
            use_distributed_sampler=False, reload_dataloaders_every_n_epochs=1, sync_batchnorm=gpu and several,
            plugins=plugins, default_root_dir=out_dir,
        )  # fmt: skip
        started = time.perf_counter()
        try:
            trainer.fit(model, frames, ckpt_path=checkpoint, weights_only=True)
        except Exception as error:
            if model._restoring:
                raise damaged(checkpoint, error) from error
            raise
        row = result_row(model, time.perf_counter() - started, trainer)
        for name in also_test:
            other = replace(recipe, dataset=name, test_limit=0)
            found = _measure(model, Frames(other, seed, data_root, download, num_workers), accelerator, precision)
            row.setdefault("also_test", {})[name] = {**found, "samples": model._samples}
        if out_dir is not None and trainer.is_global_zero:
            write_json(out_dir / RESULT, row)
        return row


def _make_room(folder, overwrite):
    """Refuse a folder that holds a run, or remove that run."""
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"out_dir (--out) must be a folder, got the file {folder}")
    held = [folder / name for name in (CHECKPOINT, PREVIOUS, RESULT) if (folder / name).exists()]
    if held and not overwrite:
        raise FileExistsError(
            f"{folder} holds a run already ({held[0].name}): go on with it by resume=True (--resume), lose it by "
            "overwrite=True (--overwrite), or choose another folder (--out)"
        )
    if rank_zero_only.rank == 0:
        for path in held:
            path.unlink()


@contextmanager
def _claimed(folder):
    """Around a run: no other process trains into its folder. Of the processes of one run the first holds the lock."""
    if folder is None or rank_zero_only.rank != 0:
        yield
        return
    with locked(Path(folder) / "run", wait=False) as mine:
        if not mine:
            raise BlockingIOError(
                f"another process trains into {folder}: wait for it, or choose another folder (--out)"
            )
        yield


def _finished(folder, recipe, seed):
    """The row of a run of this recipe and seed that is finished; None where there is none."""
    try:
        row = json.loads((folder / RESULT).read_text())
        whole = (row["recipe"], row["seed"], len(row["history"])) == (recipe.as_dict(), seed, recipe.epochs)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return row if whole else None


def _check_alike(argument, name, dataset):
    """Refuse a data set whose samples a network for `dataset` does not take."""
    check_choice(argument, name, tuple(DATASETS))
    own, other = DATASETS[dataset], DATASETS[name]
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
    saved, recipe = load_checkpoint(path)
    if dataset is not None:
        _check_alike("dataset", dataset, recipe.dataset)
        recipe = replace(recipe, dataset=dataset, test_limit=0)
    if test_limit:
        recipe = replace(recipe, test_limit=test_limit)
    model = Classifier(recipe.build_network(), recipe, saved["bpsta"]["seed"])
    try:
        model.load_state_dict(saved["state_dict"])
    except Exception as error:
        raise damaged(path, error) from error
    _quieten()
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


def _quieten():
    """Keep Lightning's notices about itself off the screen."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*epoch parameter in `scheduler.step.*")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*GPU available but not used.*")
