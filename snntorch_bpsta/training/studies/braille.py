"""Letters that a fingertip has felt: real recordings, of which the last steps are read."""

from __future__ import annotations

import gzip
import pickle
import time
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from ...data import data_dir
from ...neurons import Leaky
from .credit import neuron_of
from .workers import report

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from ..._typing import AnyPath, Result

__all__: list[str] = []

FILE, CHANNELS = "tutorial5_braille_spiking_data.pkl.gz", 12
WHERE = "https://github.com/fzenke/spytorch, notebooks/data, by Mueller-Cleve et al. 2022, CC BY 4.0"
NEURONS, READ, EVERY = 64, 8, 2
EPOCHS, BATCH, LRS = 40, 64, (1e-3, 3e-3, 1e-2, 3e-2)
FIT, VALIDATION, TEST = range(32), range(32, 40), range(40, 50)  # repetitions


Reset = Literal["zero", "subtract"]


class Task(NamedTuple):
    """The spikes of all steps are read, or those of the last :data:`READ`, which may come after a pause: steps with the
    mean reading."""

    reset: Reset
    last: bool
    pause: int = 0
    alpha: float | None = None  # in the place of the variant's, where it has one


RESETS: dict[str, Reset] = {"reset to zero": "zero", "reset by subtraction": "subtract"}
TASKS = {
    f"{words}, {read}": Task(reset, *options)
    for words, reset in RESETS.items()
    for read, options in (("all read", (False,)), ("last steps read", (True,)), ("read after a pause", (True, 16)))
} | {f"reset to zero, after a pause, alpha {alpha}": Task("zero", True, 16, alpha) for alpha in (-0.5, 0.5)}


class _Arrays(pickle.Unpickler):
    """Of a pickle, arrays and plain values alone: no other code of its is run."""

    known = {"_reconstruct": np.empty(0).__reduce__()[0], "ndarray": np.ndarray, "dtype": np.dtype}

    def find_class(self, module, name):
        if module.partition(".")[0] == "numpy" and name in self.known:
            return self.known[name]
        raise pickle.UnpicklingError(f"it holds a {module}.{name}")


def recordings(root: AnyPath | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Every second reading of all recordings ``[T, count, 12]``, their letters and their repetitions ``[count]``.

    Args:
        root: folder with the file :data:`FILE`, or with a folder ``braille`` that has it.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it holds something else.
    """
    places = [folder / FILE for folder in (data_dir(root), data_dir(root) / "braille")]
    path = next((path for path in places if path.is_file()), None)
    if path is None:
        raise FileNotFoundError(f"the Braille letters are not in {places[0]}: they can be had from {WHERE}")
    try:
        with gzip.open(path) as file:
            found = _Arrays(file).load()
        names = sorted({each["letter"] for each in found})
        letters = torch.tensor([names.index(each["letter"]) for each in found])
        repetitions = torch.tensor([int(each["repetition"]) for each in found])
        steps = min(len(each["taxel_data"]) for each in found) // EVERY
        readings = np.stack([each["taxel_data"][: steps * EVERY : EVERY] for each in found], 1)
        if readings.shape[2:] != (CHANNELS,):
            raise ValueError(f"its recordings have the shape {readings.shape[2:]}, not ({CHANNELS},)")
    except (pickle.UnpicklingError, OSError, EOFError, TypeError, KeyError, ValueError, IndexError) as error:
        raise ValueError(f"{path} is not the file of {WHERE}: {error}") from error
    return torch.from_numpy(readings).float(), letters, repetitions


class Net(nn.Module):
    """A current of all channels into Leaky neurons, and a linear readout of the spikes that are read, step by step."""

    def __init__(self, task: Task, variant: str, steps: int, letters: int) -> None:
        super().__init__()
        self.read = min(READ, steps) if task.last else steps
        self.into = nn.Linear(CHANNELS, NEURONS)
        self.lif = Leaky(beta=0.9, threshold=0.5, reset_mechanism=task.reset, **neuron_of(variant, task.alpha))
        self.out = nn.Linear(NEURONS * self.read, letters)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The letters of readings ``[T, B, 12]``, and all spikes."""
        spk = self.lif.sequence(self.into(x))[0]
        return self.out(spk[-self.read :].permute(1, 2, 0).flatten(1)), spk


def measure_braille(
    runs: Mapping[tuple[str, str], None], seed: int, folder: Path, data_root: AnyPath | None = None
) -> dict[tuple[str, str], Result]:
    """Train every run of `runs` as often as there are learning rates, on the repetitions 0 to 31; then, with the one that
    was best on 32 to 39, on all of these; (setting, variant) -> its row.

    ``accuracy`` is that on the repetitions from 40 after the last epoch; ``lr`` the learning rate, and ``validation`` the
    accuracies that it was chosen by.
    """
    from ..results import environment  # Lightning, which takes its time to import

    x, letters, repetitions = recordings(data_root)

    def part(wanted: Iterable[int], pause: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        rows = torch.isin(repetitions, torch.tensor([*wanted]))
        return torch.cat((x[:, rows], x.new_zeros(pause, int(rows.sum()), CHANNELS))), letters[rows]

    fitted, _ = part(FIT)
    x = (x - fitted.mean((0, 1))) / fitted.std((0, 1)).clamp(min=1e-6)  # some channels have one value
    found = {}
    for setting, variant in runs:
        task = TASKS[setting]
        fit, validation, both, test = (part(of, task.pause) for of in (FIT, VALIDATION, (*FIT, *VALIDATION), TEST))
        tried = {}
        for lr in LRS:
            tried[lr] = _train(task, variant, seed, lr, fit, validation)["accuracy"]
            report(len(tried))
        lr = max(tried, key=lambda lr: tried[lr])
        row = _train(task, variant, seed, lr, both, test)
        found[setting, variant] = {"recipe": None, "seed": seed, "lr": lr, "validation": tried, **row, **environment()}
    return found


def _train(task, variant, seed, lr, training, test):
    (x, letters), begin = training, time.perf_counter()
    torch.manual_seed(seed)
    net, generator = Net(task, variant, len(x), int(letters.max()) + 1), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(net.parameters(), lr)
    history: list[Result] = []
    for epoch in range(EPOCHS):
        for rows in torch.randperm(len(letters), generator=generator).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[:, rows])[0], letters[rows]).backward()
            optimizer.step()
        with torch.no_grad():
            out, spk = net(test[0])
        accuracy = float((out.argmax(1) == test[1]).float().mean())
        history.append({"epoch": epoch, "test_accuracy": accuracy, "warm_up": None})
    rate = float(spk.mean())
    return {
        "accuracy": accuracy, "firing_rate": rate, "firing_rates": {"lif": rate}, "history": history,
        "train_seconds": time.perf_counter() - begin,
    }  # fmt: skip
