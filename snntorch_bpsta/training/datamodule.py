"""The data of a run, as Lightning and the network want them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, SequentialSampler
from torch.utils.data.distributed import DistributedSampler

from .. import data
from .._checks import REAL, check_flags, check_instance, check_int, check_number, check_path, check_tensor
from ..data import folders
from .recipes import Recipe, pixels

if TYPE_CHECKING:
    from torch import Tensor

    from .._typing import AnyPath, Batch

__all__ = ["Frames", "augment"]

_ON_DEVICE = 2**32  # bytes of a data set that a GPU keeps


class Frames(L.LightningDataModule):
    """The data of a recipe, as the network wants them: images ``[B, C, H, W]``, event frames ``[T, B, 2, H, W]``.

    Args:
        recipe: gives the data set, T, batch size, limits and augmentation.
        seed: of the order of the samples.
        data_root: folder with the data sets; see :func:`snntorch_bpsta.data.load`.
        download: fetch a missing data set; of several processes one does, and the others wait.
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
        check_run(recipe, seed, data_root, download, num_workers)
        self.recipe = recipe
        self.seed = seed
        self.num_workers = num_workers
        self._digest: str | None = None
        self.batches_done = (0, 0)  # (epoch, how many of its batches a run that goes on has behind it)
        self._load_options: dict[str, Any] = {"root": data_root, "num_steps": recipe.num_steps, "download": download}

    def prepare_data(self) -> None:
        # Lightning calls this in one process of a machine, and `setup` in all of them after it. By hand, `setup` is enough.
        if self._load_options["download"]:
            fitting = self.trainer is None or self.trainer.state.fn == TrainerFn.FITTING
            for train in (True, False) if fitting else (False,):
                self.recipe.spec().loader(train, data.data_dir(self._load_options["root"]), True)

    def setup(self, stage: str | None = None) -> None:
        if stage in (None, "fit"):
            self.train = self._load(True, self.recipe.limit or None)
        self.test = self._load(False, self.recipe.test_limit or None)

    def _load(self, train, limit):
        recipe, root = self.recipe, self._load_options["root"]
        if recipe.dataset != folders.NAME:
            size = recipe.spec().input_shape[1:]
            return data.load(recipe.dataset, train=train, limit=limit, size=size, **self._load_options)
        if root is None:
            raise ValueError("your own recordings (data set 'folder') need data_root (--data-root), where they are")
        samples = data.from_folder(
            root, sensor_size=pixels(recipe.sensor_size), size=recipe.spec().input_shape[1:], train=train, limit=limit,
            num_steps=recipe.num_steps,
        )  # fmt: skip
        if len(samples.classes) != recipe.num_classes:
            raise ValueError(
                f"expected num_classes = {recipe.num_classes} folders of classes in {root} (data_root), got "
                f"{len(samples.classes)}: {', '.join(samples.classes)}"
            )
        return samples

    def _fingerprint(self):
        """What tells these data from others: a digest of all labels, and of at most 256 samples of each part."""
        if self._digest is not None:
            return self._digest
        digest = hashlib.blake2b(digest_size=16)
        chosen: Any
        for samples in (self.train, self.test):
            chosen = np.unique(np.linspace(0, len(samples) - 1, 256).astype(int)) if len(samples) else []
            names = (samples.classes,) if samples.classes else ()  # of your own recordings
            digest.update(repr((samples.data.shape, samples.data.dtype.str, samples.scale, *names)).encode())
            digest.update(samples.targets.numpy().tobytes())
            for i in chosen:
                digest.update(np.ascontiguousarray(samples.data[i]).tobytes())
        self._digest = digest.hexdigest()
        return self._digest

    def train_dataloader(self) -> DataLoader:
        # Built anew every epoch: the order is a function of (seed, epoch) and nothing else.
        assert self.trainer is not None  # Lightning sets it first
        world, rank = self.trainer.world_size, self.trainer.global_rank
        sampler: DistributedSampler[Any] = DistributedSampler(
            self.train, num_replicas=world, rank=rank, shuffle=True, seed=self.seed
        )
        sampler.set_epoch(self.trainer.current_epoch)
        epoch, done = self.batches_done
        return self._loader(self.train, sampler, done if epoch == self.trainer.current_epoch else 0)

    def val_dataloader(self) -> DataLoader:
        return self._loader(self.test)

    def _loader(self, samples, sampler=None, done=0):
        # Whole batches are taken out of the array at once, and on a GPU it lies there already if it is small.
        fits = self.trainer is not None and self.num_workers == 0 and samples.data.nbytes < _ON_DEVICE
        batches = _Batches(samples, self.trainer.strategy.root_device if fits else torch.device("cpu"))
        order = _From(sampler or SequentialSampler(samples), self.recipe.batch_size, done)
        return DataLoader(batches, batch_size=None, sampler=order, num_workers=self.num_workers)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        x, targets = batch
        return (x.transpose(0, 1) if x.dim() == 5 else x), targets


class _From(BatchSampler):
    """The batches of an epoch but for the first `done`, which count."""

    def __init__(self, sampler, batch_size, done):
        super().__init__(sampler, batch_size, drop_last=False)
        self.done = done

    def __iter__(self) -> Iterator[list[int]]:
        return islice(super().__iter__(), self.done, None)


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
    if x.dim() > 5 or x.numel() == 0:
        raise ValueError(f"x must be samples [B, C, H, W] or [T, B, C, H, W], at least a pixel, got {tuple(x.shape)}")
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


def check_run(
    recipe: Recipe, seed: int, data_root: AnyPath | None = None, download: bool = False, num_workers: int = 0
) -> None:
    """Refuse arguments of a run that cannot be."""
    check_instance("recipe", recipe, Recipe, "a Recipe")
    check_int("seed", seed, 0, 2**32)
    if data_root is not None:
        check_path("data_root", data_root)
    check_flags(download=download)
    check_int("num_workers", num_workers, 0)
