"""Training: exact resume after kill -9, two processes as one, mixed precision, the schedule, the warm-ups."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from dataclasses import replace

import lightning as L
import pytest
import torch
from torch import nn

import snntorch_bpsta as snn
from snntorch_bpsta.energy import FiringRates
from snntorch_bpsta.training import Recipe
from snntorch_bpsta.training.callbacks import WarmUp
from snntorch_bpsta.training.datamodule import Frames, augment
from snntorch_bpsta.training.module import Classifier, learning_rate_schedule
from snntorch_bpsta.training.run import evaluate, train

TINY = Recipe(
    dataset="digits", width=1 / 16, num_steps=2, epochs=5, batch_size=32, lr_warm_up_epochs=2, warm_up="identity",
    warm_up_epochs=2, limit=128, test_limit=64,
)  # fmt: skip


def weights(folder):
    return torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]


def run_script(text, folder, *arguments, expect=0):
    path = folder / "script.py"
    path.write_text(textwrap.dedent(text))
    done = subprocess.run([sys.executable, path, *map(str, arguments)], capture_output=True, text=True, cwd=folder)
    assert done.returncode == expect, done.stderr[-3000:]
    return done


def test_a_killed_run_resumes_to_the_same_weights(tmp_path):
    """kill -9 in the middle of the fourth epoch; dropout, shuffling and the schedule all have to go on as they were."""
    whole = train(TINY, 3, tmp_path / "whole", progress=False)
    done = run_script(
        f"""
        import os, signal, sys
        from pathlib import Path
        from snntorch_bpsta.training import Recipe
        from snntorch_bpsta.training import module, run

        step = module.Classifier.training_step
        def killed(self, batch, batch_idx):
            if (self.current_epoch, batch_idx) == (3, 2):
                os.kill(os.getpid(), signal.SIGKILL)
            return step(self, batch, batch_idx)
        module.Classifier.training_step = killed
        run.train(Recipe(**{TINY.as_dict()}), 3, Path(sys.argv[1]), progress=False)
        """,
        tmp_path,
        tmp_path / "killed",
        expect=-signal.SIGKILL,
    )
    assert done.returncode == -signal.SIGKILL and not (tmp_path / "killed" / "result.json").exists()
    assert len(torch.load(tmp_path / "killed" / "last.ckpt", weights_only=True)["bpsta"]["history"]) == 3
    resumed = train(TINY, 3, tmp_path / "killed", resume=True, progress=False)
    expected, actual = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        assert torch.equal(value, actual[name]), name
    assert resumed["history"] == whole["history"]
    assert json.loads((tmp_path / "killed" / "result.json").read_text())["accuracy"] == whole["accuracy"]


def test_the_seed_decides(tmp_path):
    recipe = replace(TINY, epochs=1, warm_up="none")
    rows = [train(recipe, seed, tmp_path / name, progress=False) for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    first, same, other = (weights(tmp_path / name) for name in "abc")
    assert all(torch.equal(value, same[name]) for name, value in first.items())
    assert not all(torch.equal(value, other[name]) for name, value in first.items())
    assert rows[0]["history"] == rows[1]["history"]


def test_resume_refuses_another_run(tmp_path):
    recipe = replace(TINY, epochs=1, warm_up="none")
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        train(recipe, 0, tmp_path, resume=True, progress=False)
    train(recipe, 0, tmp_path, progress=False)
    with pytest.raises(ValueError, match=r"another run \(epochs: 1 -> 2"):
        train(replace(recipe, epochs=2), 0, tmp_path, resume=True, progress=False)


def test_evaluate_repeats_the_last_epoch(tmp_path):
    row = train(replace(TINY, epochs=3), 0, tmp_path, progress=False)
    again = evaluate(tmp_path / "last.ckpt")
    for name in ("accuracy", "firing_rate", "firing_rates", "recipe", "seed"):
        assert again[name] == row[name], name


def test_evaluate_refuses_what_is_no_checkpoint(tmp_path):
    (tmp_path / "text.ckpt").write_text("not a checkpoint")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    torch.save({"bpsta": Recipe}, tmp_path / "code.ckpt")  # a class: weights_only refuses to load it
    for name in ("text", "other", "code"):
        with pytest.raises(ValueError, match=f"{name}.ckpt is damaged or no checkpoint"):
            evaluate(tmp_path / f"{name}.ckpt")
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*nowhere.ckpt"):
        evaluate(tmp_path / "nowhere.ckpt")


def test_it_learns():
    recipe = Recipe(dataset="digits", width=1 / 8, num_steps=4, epochs=5, readout="current", lr_warm_up_epochs=1)
    row = train(recipe, 0, progress=False)
    assert row["accuracy"] > 0.85  # 10 classes; 0.93 to 0.96 seen
    assert 0 < row["firing_rate"] < 0.6 and row["history"][0]["train_loss"] > row["history"][-1]["train_loss"]


def test_a_penalty_on_the_firing_rate_lowers_it_and_spares_the_output_and_the_warm_up(monkeypatch):
    seen = set()
    whole = FiringRates.penalty
    monkeypatch.setattr(
        FiringRates,
        "penalty",
        lambda self, layers=None, weights=None: seen.add((*self, *(layers or ()))) or whole(self, layers),
    )
    plain = replace(TINY, epochs=6, warm_up="surrogate", warm_up_epochs=2, dropout=0.0, limit=256).variant("baseline")
    without, strong = (train(replace(plain, rate_penalty=weight), 1, progress=False) for weight in (0.0, 30.0))
    first, second = ([row["train_loss"] for row in run["history"]] for run in (without, strong))
    assert first[:2] == second[:2] and first[2:] != second[2:], "not in the warm-up"
    *hidden, _ = strong["firing_rates"].values()
    names = (*strong["firing_rates"],)
    assert (*names, *names[:-1]) in seen and (*names, *names) not in seen, "not the output"
    *before, _ = without["firing_rates"].values()
    assert sum(hidden) < 0.9 * sum(before) and hidden[-1] < 0.1 * before[-1]


@pytest.mark.parametrize("readout", ["spikes", "current"])
def test_a_penalty_on_accumulates_weighs_each_layer_by_those_behind_it(monkeypatch, readout):
    seen = []
    whole = FiringRates.penalty
    monkeypatch.setattr(
        FiringRates,
        "penalty",
        lambda self, layers=None, weights=None: seen.append((layers, weights)) or whole(self, layers, weights),
    )
    recipe = replace(TINY, epochs=1, warm_up="none", warm_up_epochs=0, readout=readout, rate_penalty=1.0)
    recipe = replace(recipe, penalty_on="accumulates").variant("baseline")
    row = train(recipe, 1, progress=False)
    dense = [layer["dense"] for layer in row["operations"].values()]
    hidden, found = next((layers, weights) for layers, weights in seen if weights)
    assert [found[name] for name in hidden] == dense[1:] and len(set(dense[1:])) > 2
    assert len({id(weights) for _, weights in seen if weights}) == 1, "counted once"
    other = train(replace(recipe, penalty_on="neurons"), 1, progress=False)
    assert row["history"][0]["train_loss"] != other["history"][0]["train_loss"]


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_mixed_precision(precision, tmp_path):
    row = train(replace(TINY, epochs=3, readout="current"), 0, tmp_path, precision=precision, progress=False)
    assert all(torch.isfinite(torch.tensor(epoch["train_loss"])) for epoch in row["history"])
    assert all(value.isfinite().all() for value in weights(tmp_path).values())
    assert row["history"][-1]["train_loss"] < row["history"][0]["train_loss"]


# Two CPU processes and one: a net whose neurons keep their membranes from batch to batch. DDP broadcasts rank 0's buffers,
# which the host's membranes are: they would give rank 1 those of other samples.
TWO_PROCESSES = """
    import sys
    import lightning as L, torch
    from torch import nn
    import snntorch_bpsta as snn
    from snntorch_bpsta.training import Recipe
    from snntorch_bpsta.training.module import Classifier

    processes, buffers, out = int(sys.argv[1]), sys.argv[2] == "buffers", sys.argv[3]
    torch.manual_seed(0)

    class WithBuffers(snn.Leaky):
        def _take_over(self, **options):
            mem = self.mem
            super()._take_over(**options)
            del self.mem
            self.register_buffer("mem", mem, persistent=False)
        def _apply(self, fn, recurse=True):
            return torch.nn.Module._apply(self, fn, recurse)
        def _put(self, **states):
            for name, state in states.items():
                setattr(self, name, state)

    Neuron = WithBuffers if buffers else snn.Leaky

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(6, 20), nn.Linear(20, 3)
            neuron = dict(beta=0.9, threshold=0.5, reset_mechanism="zero", spatial_adj=True, temporal_alpha=0.8)
            self.lif1, self.lif2 = (Neuron(**neuron, init_hidden=True) for _ in range(2))
        def forward(self, x):  # goes on from the membranes of the last batch
            for lif in (self.lif1, self.lif2):
                lif.mem = lif.mem.detach()
            return torch.stack([self.lif2(self.fc2(self.lif1(self.fc1(step)))) for step in x])

    class Model(Classifier):
        grads = []
        def on_after_backward(self):
            self.grads.append({n: p.grad.clone() for n, p in self.net.named_parameters()})
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.0)

    x, y = torch.rand(3, 5, 8, 6, dtype=torch.float64), torch.randint(0, 3, (3, 8))  # 3 batches of 8 samples, T = 5
    x[:, :, 4:] *= 3  # the second process sees other samples than the first
    model = Model(Net().double(), Recipe(epochs=1))

    class Batches(torch.utils.data.IterableDataset):
        def __iter__(self):
            rank, size = model.global_rank, 8 // processes
            mine = slice(rank * size, (rank + 1) * size)
            return iter([(x[i][:, mine], y[i][mine]) for i in range(len(x))])

    trainer = L.Trainer(
        accelerator="cpu", devices=processes, strategy="ddp" if processes > 1 else "auto", max_epochs=1, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, precision="64-true",
        limit_val_batches=0, use_distributed_sampler=False,
    )
    trainer.fit(model, torch.utils.data.DataLoader(Batches(), batch_size=None))
    if model.global_rank == 0:
        torch.save(model.grads, out)
"""


def test_two_processes_give_the_gradients_of_one_on_the_joined_batch(tmp_path):
    grads = {}
    for name, processes, buffers in (("one", 1, "ours"), ("two", 2, "ours"), ("trap", 2, "buffers")):
        run_script(TWO_PROCESSES, tmp_path, processes, buffers, tmp_path / name)
        grads[name] = torch.load(tmp_path / name, weights_only=True)
    assert len(grads["one"]) == len(grads["two"]) == 3
    for batch, (one, two) in enumerate(zip(grads["one"], grads["two"], strict=True)):
        for name in one:
            torch.testing.assert_close(two[name], one[name], rtol=1e-12, atol=1e-14, msg=f"batch {batch}, {name}")
            assert one[name].abs().max() > 0
    # With membranes as buffers the first batch is right and the next ones silently are not.
    torch.testing.assert_close(grads["trap"][0], grads["one"][0], rtol=1e-12, atol=1e-14)
    assert (grads["trap"][1]["fc1.weight"] - grads["one"][1]["fc1.weight"]).abs().max() > 1e-4


def test_the_command_line_trains_with_two_processes(tmp_path):
    command = [sys.executable, "-m", "snntorch_bpsta", "train", "--epochs", "1", "--limit", "64", "--test-limit", "32"]
    command += ["--width", "0.0625", "--num-steps", "2", "--warm-up", "none", "--devices", "2", "--accelerator", "cpu"]
    done = subprocess.run([*command, "--out", tmp_path / "run"], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("test accuracy") == 1
    assert json.loads((tmp_path / "run" / "result.json").read_text())["processes"] == 2


def test_two_machines_by_torchrun(tmp_path):
    """Each started by itself, as on two machines; here both are this one."""
    pytest.importorskip("sklearn", reason="sklearn (extra: data) is missing")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    command += ["--master-addr", "127.0.0.1", "--master-port", str(port), "--node-rank"]
    options = ["--epochs", "1", "--limit", "64", "--test-limit", "32", "--width", "0.0625", "--num-steps", "2"]
    options += ["--warm-up", "none", "--num-nodes", "2", "--accelerator", "cpu", "--out", str(tmp_path / "run")]
    started = [
        subprocess.Popen(
            [*command, str(rank), "-m", "snntorch_bpsta", "train", *options],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    printed = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0, 0], printed
    assert [out.count("test accuracy") for out, _ in printed] == [1, 0]
    assert json.loads((tmp_path / "run" / "result.json").read_text())["processes"] == 2


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("cosine", [0.25, 0.5, 0.75, 1, 0.853553, 0.5, 0.146447]),
        ("sgdr", [0.25, 0.5, 0.75, 1, 1, 0.853553, 0.5]),
    ],
)
def test_learning_rate(schedule, expected):
    parameter = nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    recipe = Recipe(epochs=7 if schedule == "cosine" else 9, lr_warm_up_epochs=3, schedule=schedule)
    scheduler = learning_rate_schedule(optimizer, recipe)
    seen = []
    for _ in expected:
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    if schedule == "sgdr":  # 6 epochs are cosines of 2 and 4
        expected = [0.25, 0.5, 0.75, 1, 0.5, 1, 0.853553]
    assert seen == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", ["identity", "surrogate"])
def test_the_warm_up_ends(kind):
    recipe = replace(TINY, epochs=2, warm_up=kind, warm_up_epochs=1)
    model = Classifier(recipe.build_network(), recipe)
    assert [model._warm_up_of(epoch) for epoch in range(2)] == [kind, None]
    row = train(recipe, 0, progress=False)
    first, second = row["history"]
    assert (first["warm_up"], second["warm_up"]) == (kind, None)
    assert (first["firing_rate"] is None) == (kind == "identity")  # no neurons, no rate
    assert second["firing_rate"] is not None and len(second["firing_rates"]) == 5


@pytest.mark.parametrize("share, warm", [(1 / 3, 2), (0.5, 3), (0.4, 3), (0.0, 0), (1.0, 6)])
def test_the_callback_warms_up_its_share_of_the_epochs_in_a_run_of_ones_own(share, warm, tmp_path):
    seen = []

    class Own(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = snn.MultiStep(nn.Linear(2, 3), snn.Leaky(0.9, spatial_adj=True, threshold=0.1))

        def training_step(self, batch, batch_idx):
            seen.append(self.net[1].warm_up)
            return self.net(batch).sum()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    own, data = Own(), torch.utils.data.DataLoader(torch.rand(4, 2, 2))
    options = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    trainer = L.Trainer(max_epochs=6, accelerator="cpu", limit_train_batches=1, callbacks=[WarmUp(share)], **options)
    trainer.fit(own, data)
    assert seen == ["surrogate"] * warm + [None] * (6 - warm) and own.net[1].warm_up is None
    with pytest.raises(ValueError, match="WarmUp needs the number of epochs"):
        L.Trainer(max_epochs=-1, max_steps=2, accelerator="cpu", callbacks=[WarmUp(share)], **options).fit(own, data)


def test_augmentation_moves_all_frames_of_a_sample_together():
    torch.manual_seed(0)
    frame = torch.zeros(1, 1, 12, 12)
    frame[..., 4:8, 5:7] = 1
    x = frame.expand(5, 20, 1, 12, 12)  # T = 5, 20 samples
    moved = augment(x, 3, True, 0)
    assert moved.shape == x.shape
    assert all(torch.equal(moved[0], step) for step in moved)
    assert len({tuple(sample.flatten().tolist()) for sample in moved[0]}) > 5
    assert torch.equal(
        moved.sum((2, 3, 4)), x.sum((2, 3, 4))
    )  # nothing was cropped away: the blob is inside the padding


def test_augmentation_is_a_crop_of_the_padded_picture_mirrored_or_not():
    torch.manual_seed(0)
    picture = torch.rand(3, 6, 9)
    padded = nn.functional.pad(picture, (2, 2, 2, 2))
    crops = [padded[:, i : i + 6, j : j + 9] for i in range(5) for j in range(5)]
    choices = torch.stack([*crops, *(crop.flip(-1) for crop in crops)])
    moved = augment(picture.expand(400, 3, 6, 9), 2, True, 0)
    found = (moved[:, None] == choices).flatten(2).all(2)
    assert found.any(1).all() and found.any(0).sum() == 50  # each of them is one, and all come up


def test_augmentation_turns_about_the_middle_by_up_to_the_angle():
    torch.manual_seed(0)
    picture = torch.zeros(1, 41, 61)
    picture[:, 20, 30:] = 1  # a hand from the middle to the right
    moved = augment(picture.expand(300, 1, 41, 61), 0, False, 15)
    angles = []
    for sample in moved[:, 0]:
        y, x = sample.nonzero().T
        assert sample[20, 30] == 1 and x.max() >= 57
        far = x > 50
        angles.append(torch.atan2(20.0 - y[far], x[far] - 30.0).rad2deg().mean())
    angles = torch.stack(angles)
    assert angles.abs().max() < 16 and angles.max() > 13 and angles.min() < -13 and abs(angles.mean()) < 2


def test_other_data_sets_are_measured_at_the_end(tmp_path):
    pytest.importorskip("sklearn", reason="sklearn (extra: data) is missing")
    recipe = replace(
        TINY, dataset="digits_simulated", network="small", epochs=1, warm_up="none", test_limit=0, limit=32
    )
    row = train(recipe, 0, tmp_path, progress=False, also_test=("digits_simulated",))
    found = row["also_test"]["digits_simulated"]
    assert found["accuracy"] == row["accuracy"] and found["samples"] == 360
    assert found["firing_rate"] == pytest.approx(row["firing_rate"])
    assert json.loads((tmp_path / "result.json").read_text())["also_test"] == row["also_test"]
    again = evaluate(tmp_path / "last.ckpt", dataset="digits_simulated", test_limit=100)
    assert again["recipe"]["test_limit"] == 100 and again["recipe"]["dataset"] == "digits_simulated"
    for function in (
        lambda: train(recipe, also_test=("digits",)),
        lambda: evaluate(tmp_path / "last.ckpt", dataset="digits"),
    ):
        with pytest.raises(ValueError, match=r"digits has 10 classes of \(1, 8, 8\); a network for digits_simulated"):
            function()
    with pytest.raises(ValueError, match="also_test needs one process, got devices=2, num_nodes=1"):
        train(recipe, also_test=("nmnist",), devices=2)


def test_batches_are_the_samples():
    frames = Frames(replace(TINY, limit=10, test_limit=7, batch_size=4))
    frames.setup()
    x, targets = zip(*frames.val_dataloader(), strict=True)
    assert [len(each) for each in x] == [4, 3]
    expected, labels = zip(*frames.test, strict=True)
    assert torch.equal(torch.cat(x), torch.stack(expected)) and torch.cat(targets).tolist() == list(labels)


def test_membranes_are_kept_out_of_ddp():
    net = nn.Sequential(nn.Linear(2, 2), snn.Leaky(beta=0.9, init_hidden=True))
    model = Classifier(net, Recipe())
    assert not [name for name, _ in model.named_buffers() if name.endswith(".mem")]
    assert not getattr(model, "_ddp_params_and_buffers_to_ignore", [])


def test_layers_that_fire_nowhere_are_named(tmp_path, capsys, monkeypatch):
    from snntorch_bpsta.training._tables import print_result

    build = Recipe.build_network

    def dead(self):
        net = build(self)
        for parameter in [layer for layer in net.modules() if isinstance(layer, nn.Linear)][-1].parameters():
            nn.init.zeros_(parameter)
        return net

    monkeypatch.setattr(Recipe, "build_network", dead)
    row = train(replace(TINY, epochs=2, warm_up="none", warm_up_epochs=0, lr=1e-30), 0, tmp_path, progress=False)
    assert row["silent_layers"] == [name for name, rate in row["firing_rates"].items() if rate == 0]
    assert row["silent_layers"] == [[*row["firing_rates"]][-1]]
    print_result(row)
    assert f"layers without a spike: {', '.join(row['silent_layers'])}. Under" in capsys.readouterr().out
    print_result(row | {"firing_rates": dict.fromkeys(row["firing_rates"], 0.1)})
    assert "without a spike" not in capsys.readouterr().out
