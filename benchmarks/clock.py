"""Training by the clock: seconds an epoch beside the firing rate, plain backpropagation and BPSA, dense and skipping zeros.

    python -m benchmarks.clock FILE [--dataset nmnist --network small --width 0.25 --num-steps 8 --epochs 30 ...]

Four runs of one recipe, an epoch of each in turn, in one process: a row an epoch in FILE (CSV), and FILE's figure beside it.
A tenth of the training set is the validation part, on which accuracy and firing rates are measured; the test set is not
touched. Seconds are those of the training steps alone. The states of the runs lie in the folder FILE-state: the same command
goes on from there, and no number but the seconds depends on whether it was stopped.
"""

import argparse
import copy
import csv
import itertools
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

import snntorch_bpsta as snn
from snntorch_bpsta.training import Recipe
from snntorch_bpsta.training.module import learning_rate_schedule

from .sparse import switched_back
from .timing import Settings, environment, kept_memory, short

GRADIENTS = ("baseline", "bpsa")  # of training.recipes.VARIANTS
RUNS = tuple(itertools.product(GRADIENTS, (False, True)))  # and whether zeros are skipped
_VALIDATION = 10  # every tenth sample


class Run:
    """One of the four: its network, and where it stands."""

    def __init__(self, file, recipe, gradient, skipping, identity):
        self.recipe, self.gradient, self.skipping = recipe.variant(gradient), gradient, skipping
        self.file = file / f"{gradient}-{'skipping' if skipping else 'dense'}.pt"
        torch.manual_seed(0)
        self.net = self.recipe.build_network()
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
        self.schedule = learning_rate_schedule(self.optimizer, self.recipe)
        self.rows, self.identity = [], identity
        if self.file.exists():
            state = torch.load(self.file, weights_only=True)
            if state["identity"] != identity:
                raise ValueError(f"{self.file.parent} is of another run: remove it, or name another FILE")
            for name in ("net", "optimizer", "schedule"):
                getattr(self, name).load_state_dict(state[name])
            self.rows = state["rows"]

    def epoch(self, training, validation, about):
        """Train one and measure it; its row, which ends with `about`, is part of the state that is written."""
        number = len(self.rows)
        snn.skip_zeros(self.skipping)
        torch.manual_seed(1000 + number)  # order and dropout, the same in all four
        spent, losses = [0.0, 0.0], []
        for x, targets in training(torch.randperm(len(training))):
            begin = time.perf_counter(), time.process_time()
            self.optimizer.zero_grad()
            loss = self.recipe.loss_function()(self.net(x), targets)
            loss.backward()
            self.optimizer.step()
            spent = [spent[0] + time.perf_counter() - begin[0], spent[1] + time.process_time() - begin[1]]
            losses.append(loss.detach())
        self.schedule.step()
        row = {
            "gradient": self.gradient, "skip_zeros": self.skipping, "epoch": number + 1, "seconds": spent[0],
            "process_seconds": spent[1], "loss": float(torch.stack(losses).mean()), **self._measure(validation), **about,
        }  # fmt: skip
        self.rows.append(row)
        state = {name: getattr(self, name).state_dict() for name in ("net", "optimizer", "schedule")}
        part = self.file.with_suffix(".part")
        torch.save({**state, "rows": self.rows, "identity": self.identity}, part)
        part.replace(self.file)  # whole or not at all
        return row

    def _measure(self, validation):
        self.net.eval()
        right = 0
        with torch.no_grad(), snn.energy.record_firing_rates(self.net) as firing:
            for x, targets in validation(torch.arange(len(validation))):
                right += int((self.net(x).mean(0).argmax(1) == targets).sum())
        self.net.train()
        rates = {f"rate_{name}": float(rate) for name, rate in firing.rates().items()}
        return {"accuracy": right / len(validation), "firing_rate": float(firing.mean()), **rates}

    def warm_up(self, training):
        """A step of a copy: kernels are compiled, and memory is there."""
        net = copy.deepcopy(self.net)
        snn.skip_zeros(self.skipping)
        for x, targets in itertools.islice(training(torch.arange(len(training))), 1):
            self.recipe.loss_function()(net(x), targets).backward()


class Batches:
    """Batches of `samples` at `positions`, as the network wants them."""

    def __init__(self, samples, positions, batch_size):
        self.samples, self.positions, self.batch_size = samples, positions, batch_size

    def __len__(self):
        return len(self.positions)

    def __call__(self, order):
        for part in self.positions[order].split(self.batch_size):
            x = torch.from_numpy(self.samples.data[part.numpy()]).float().div_(self.samples.scale)
            yield (x.transpose(0, 1) if x.dim() == 5 else x), self.samples.targets[part]


def clock(file, recipe, data_root=None, threads=1):
    """All epochs of the four runs that are not in `file` yet; returns the rows of all."""
    torch.set_num_threads(threads)
    samples = snn.data.load(recipe.dataset, root=data_root, num_steps=recipe.num_steps, limit=recipe.limit or None)
    held = torch.arange(len(samples)) % _VALIDATION == 0
    training, validation = (Batches(samples, part.nonzero().flatten(), recipe.batch_size) for part in (~held, held))
    state = file.with_name(f"{file.stem}-state")
    state.mkdir(parents=True, exist_ok=True)
    identity = {"recipe": recipe.as_dict(), "samples": len(samples), "labels": int(samples.targets.sum())}
    runs = [Run(state, recipe, gradient, skipping, identity) for gradient, skipping in RUNS]
    about = environment(Settings(device=torch.device("cpu"), threads=threads))
    with kept_memory(), switched_back():
        for number in range(recipe.epochs):
            for run in runs[number % len(runs) :] + runs[: number % len(runs)]:
                if len(run.rows) > number:
                    continue
                run.warm_up(training)
                row = run.epoch(training, validation, about)
                print(", ".join(f"{name} {short(row[name], 4)}" for name in row if name not in about), flush=True)
                _write(file, [row for run in runs for row in run.rows])
    return [row for run in runs for row in run.rows]


def _write(file, rows):
    with file.open("w", newline="") as out:
        writer = csv.DictWriter(out, rows[0])
        writer.writeheader()
        writer.writerows({name: short(value, 5) for name, value in row.items()} for row in rows)


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.clock", description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path, metavar="FILE", help="CSV file of the rows")
    default = Recipe(  # with spikes for a readout the baseline learns nothing from 900 recordings
        dataset="nmnist", network="small", width=0.25, readout="current", num_steps=8, epochs=30, batch_size=64,
        lr_warm_up_epochs=1,
    )  # fmt: skip
    for name in ("dataset", "network", "width", "num_steps", "epochs", "batch_size", "limit"):
        value = getattr(default, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, help=f"default: {value}")
    parser.add_argument("--data-root", type=Path, help="folder of the data sets (default: SNNTORCH_BPSTA_DATA)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: 1)")
    given = vars(parser.parse_args(argv))
    file, root, threads = (given.pop(name) for name in ("file", "data_root", "threads"))
    try:
        rows = clock(file, replace(default, **given), root, threads)
    except (ValueError, OSError, ImportError) as error:
        print(f"{parser.prog}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    from .figure import draw_clock

    print(f"figure: {draw_clock(rows, file)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
