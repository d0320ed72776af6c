"""Checkpoints of runs. One may come from anywhere: nothing in it is run, and one that does not fit is refused."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from packaging.version import Version
from torch.overrides import TorchFunctionMode

from .._checks import FLOATING, check_int, check_number, check_tensor
from .._files import write_whole
from .recipes import Recipe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._typing import AnyPath

__all__ = ["CHECKPOINT"]

CHECKPOINT = "last.ckpt"
PREVIOUS = "last.previous.ckpt"
TO_RESUME = ("epoch", "global_step", "loops", "optimizer_states", "lr_schedulers", "pytorch-lightning_version")


def load_checkpoint(path: AnyPath, needed: Sequence[str] = ()) -> tuple[dict[str, Any], Recipe]:
    """The content of a checkpoint of a run, and its recipe. It may come from anywhere: nothing in it is run, and
    what does not fit is refused before memory is spent on it."""
    path = Path(path)
    stored = None
    try:
        if zipfile.is_zipfile(path):  # torch.save does not compress; what unpacks to more is no work of its
            with zipfile.ZipFile(path) as archive:
                sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
                if sum(sizes.values()) > path.stat().st_size:
                    raise ValueError(f"it unpacks to {sum(sizes.values()):,} bytes")
                broken = archive.testzip()  # against the sums that the file carries: a flipped bit is another weight
                if broken is not None:
                    raise ValueError(f"{broken} in it is not what was written")
            stored = sum(size for name, size in sizes.items() if "/data/" in name)
        try:
            saved = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise ValueError("it holds objects, or is none of torch.save's; objects are not unpickled") from error
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
        if needed:
            done = own.get("batches_done", 0)  # of an epoch that was stopped in its midst
            check_int("batches_done", done, 0)
            for loss in own["losses"] if done else ():
                check_tensor("losses", loss, 0, "numbers", FLOATING)
            if done and len(own["losses"]) != done:
                raise ValueError(f"it has {len(own['losses'])} losses of {done} batches")
            if saved["epoch"] != len(own["history"]) - (not done):
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
        raise damaged(path, error) from error


class Files(TorchCheckpointIO):
    """Checkpoints that are there whole or not at all, beside the one before."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: AnyPath, storage_options: Any = None) -> None:
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_whole(Path(path), [content.getbuffer()], Path(path).with_name(PREVIOUS))


_MOST_PARTS = 1_000_000  # dicts, lists and what is in them; those of a run of 1,000 epochs are some 30,000


def _storages(value):
    """What holds the numbers of the tensors in dicts and lists of them. Lists that hold others twice, and these again, are
    refused: looking at them, or writing one of them into a message, would take for ever."""
    todo = [value]
    for _ in range(_MOST_PARTS):
        if not todo:
            return
        value = todo.pop()
        if isinstance(value, torch.Tensor) and value.layout is torch.strided and not value.is_meta:
            yield value.untyped_storage()
        todo += value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    raise ValueError(f"it has more than {_MOST_PARTS:,} parts, such as lists in lists")


class _WithoutMemory(TorchFunctionMode):
    """Inside, layers are built on the device "meta". (Not so the numbers of the host's neurons, which it looks at.)"""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        meta = {"device": "meta"} if func in (torch.empty, torch.ones, torch.zeros) else {}
        return func(*args, **(kwargs or {}) | meta)


def damaged(path: Path | None, error: Exception) -> ValueError:
    """The error for a file that is none of ours, or broken."""
    return ValueError(f"{path} is damaged or no checkpoint of `bpsta train`: {type(error).__name__}: {error}")


def check_restored(optimizer: torch.optim.Optimizer) -> None:
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
