"""The folder of a run: whose it is, what it holds, and what may be done with it."""

from __future__ import annotations

import json
import os
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only

from .._files import check_writable, locked
from .checkpoints import CHECKPOINT, PREVIOUS, TO_RESUME, load_checkpoint
from .recipes import Recipe

if TYPE_CHECKING:
    from collections.abc import Iterator

    import lightning as L

    from .._typing import Result

__all__: list[str] = []

RESULT = "result.json"
FIGURE = "figure.png"
DAMAGED = "last.damaged.ckpt"


def is_first() -> bool:
    """Whether this is the first of the processes of a run."""
    return getattr(rank_zero_only, "rank", 0) == 0


@contextmanager
def claimed(folder: Path | None) -> Iterator[None]:
    """Around a run: no other process trains into its folder. Of the processes of one run the first holds the lock."""
    if folder is None or not is_first():
        yield
        return
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"out_dir (--out) must be a folder, got the file {folder}")
    check_writable("out_dir (--out)", folder / CHECKPOINT)
    with locked(folder / "run", wait=False) as mine:
        if not mine:
            raise BlockingIOError(
                f"another process trains into {folder}: wait for it, or choose another folder (--out)"
            )
        yield


def check_empty(folder: Path) -> None:
    """Refuse a folder that holds a run."""
    held = [name for name in (CHECKPOINT, PREVIOUS, RESULT) if (folder / name).exists()]
    if held:
        go_on = "" if held == [RESULT] else "go on with it by resume=True (--resume), "
        raise FileExistsError(
            f"{folder} holds a run already ({held[0]}): {go_on}lose it by overwrite=True (--overwrite), or choose another "
            "folder (--out)"
        )


class Last(ModelCheckpoint):
    """``last.ckpt`` after every epoch. What the folder held before goes when network and data of the new run stand."""

    def __init__(self, folder: Path, overwrite: bool) -> None:
        super().__init__(folder, Path(CHECKPOINT).stem, save_on_train_epoch_end=True, enable_version_counter=False)
        self.folder, self.overwrite = folder, overwrite

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.overwrite and trainer.is_global_zero:
            for name in (RESULT, FIGURE, CHECKPOINT, PREVIOUS, DAMAGED):
                (self.folder / name).unlink(missing_ok=True)


def finished(folder: Path, recipe: Recipe, seed: int, precision: str, processes: int) -> Result | None:
    """The row of this run, if it is finished."""
    try:
        row = json.loads((folder / RESULT).read_text())
        own = Recipe().as_dict() | row["recipe"], row["seed"], len(row["history"]), row["precision"], row["processes"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return row if own == (recipe.as_dict(), seed, recipe.epochs, precision, processes) else None


def newest(folder: Path) -> Path:
    """The checkpoint of a run to go on from: the last one or, where that is damaged, the one before it, with a warning. The
    damaged one goes out of the way, so that the next does not take the place of the good one."""
    last, previous = folder / CHECKPOINT, folder / PREVIOUS
    if not last.is_file() and not previous.is_file():
        there = f" ({RESULT} there is of another run)" if (folder / RESULT).exists() else ""
        raise FileNotFoundError(f"nothing to resume: there is no {last}{there}; start without resume")
    try:
        load_checkpoint(last, TO_RESUME)
    except (ValueError, OSError) as error:
        if not previous.is_file():
            raise
        load_checkpoint(previous, TO_RESUME)
        warnings.warn(f"{error}: going on from {previous}, the one before", stacklevel=4)
        if is_first():
            with suppress(FileNotFoundError):
                os.replace(last, folder / DAMAGED)
        return previous
    return last
