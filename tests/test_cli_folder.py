"""bpsta on recordings of one's own: a small run from the folder to the checkpoint, and what is said where it cannot be."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

for library in ("lightning", "torchmetrics", "tensorboard", "matplotlib"):
    pytest.importorskip(library, reason=f"{library} (extra: train or plots) is missing")

from snntorch_bpsta.cli import main  # noqa: E402
from snntorch_bpsta.training import Recipe  # noqa: E402
from snntorch_bpsta.training.datamodule import Frames  # noqa: E402
from snntorch_bpsta.training.run import evaluate, train  # noqa: E402

pytestmark = pytest.mark.usefixtures("cache")
SMALL = (
    "--network small --epochs 1 --width 0.03125 --num-steps 2 --lr-warm-up-epochs 0 --batch-size 8 --accelerator cpu"
)
RECIPE = Recipe(
    dataset="folder", network="small", epochs=1, width=1 / 32, num_steps=2, lr_warm_up_epochs=0, batch_size=8,
    sensor_size="9x12", num_classes=3,
)  # fmt: skip


def fill(root, classes=("left", "right", "still"), each=10, height=9, width=12):
    """Recordings in which the class is the row that has most events."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(each):
            y = np.where(rng.random(60) < 0.7, label, rng.integers(height, size=60))
            events = dict(x=rng.integers(width, size=60), y=y, p=rng.integers(2, size=60), t=np.arange(60))
            np.savez(root / name / f"{i}.npz", **events)
    return root


@pytest.fixture
def own(tmp_path):
    return fill(tmp_path / "own")


def bpsta(*argv):
    try:
        return main([str(argument) for argument in argv])
    except SystemExit as end:
        return end.code


def test_a_folder_is_trained_on_and_measured_again(own, tmp_path, capsys):
    out = tmp_path / "run"
    assert bpsta("train", *SMALL.split(), "--data-root", own, "--sensor-size", "9x12", "--out", out) == 0
    said = capsys.readouterr().err
    assert re.search(r"^data +24 samples to train on, 6 to test on, 2 x 9 x 12, 3 classes$", said, re.MULTILINE)
    row = json.loads((out / "result.json").read_text())
    assert Recipe(**row["recipe"]) == RECIPE and 0 <= row["accuracy"] <= 1
    again = evaluate(out / "last.ckpt", data_root=own, accelerator="cpu")
    assert again["accuracy"] == row["accuracy"] and again["recipe"] == row["recipe"]
    more = [
        "train",
        "--config",
        out / "result.json",
        "--data-root",
        own,
        "--out",
        tmp_path / "more",
        "--accelerator",
        "cpu",
    ]
    assert bpsta(*more, "--frame-size", "8x8") == 0
    capsys.readouterr()
    row = json.loads((tmp_path / "more" / "result.json").read_text())
    assert Recipe(**row["recipe"]) == replace(RECIPE, frame_size="8x8")


def test_a_run_is_of_its_recordings(own, tmp_path):
    out = tmp_path / "run"
    train(RECIPE, out_dir=out, data_root=own, accelerator="cpu", progress=False)
    longer = replace(RECIPE, epochs=2)
    np.savez(own / "left" / "0.npz", x=[1], y=[1], p=[1], t=[1])
    with pytest.raises(ValueError, match="the checkpoint is of another run .data: "):
        train(longer, out_dir=out, data_root=own, accelerator="cpu", progress=False, extend=True)


def digest(root):
    frames = Frames(RECIPE, data_root=root)
    frames.setup()
    return frames._fingerprint()


def test_the_names_of_the_classes_are_part_of_what_the_data_are(tmp_path):
    """The same frames and labels, of classes that are called something else."""
    for part in ("train", "test"):
        fill(tmp_path / "own" / part)
    before = digest(tmp_path / "own")
    assert digest(tmp_path / "own") == before
    for part in ("train", "test"):
        (tmp_path / "own" / part / "left").rename(tmp_path / "own" / part / "l")
    assert digest(tmp_path / "own") != before


def test_a_batch_is_time_first(own):
    frames = Frames(RECIPE, data_root=own)
    frames.setup()
    assert (len(frames.train), len(frames.test)) == (24, 6)
    x, _ = frames.on_after_batch_transfer((torch.stack([frames.train[i][0] for i in range(5)]), None), 0)
    assert x.shape == (2, 5, 2, 9, 12)
    with pytest.raises(
        ValueError, match=r"expected num_classes = 4 folders .*own \(data_root\), got 3: left, right, still"
    ):
        Frames(replace(RECIPE, num_classes=4), data_root=own).setup()
    with pytest.raises(ValueError, match=r"need data_root \(--data-root\)"):
        Frames(RECIPE).setup()


def test_the_list_of_data_sets_has_what_is_in_the_folder(own, tmp_path, capsys):
    assert bpsta("data", "folder", "--data-root", own) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| folder")]
    assert "24 + 6" in row and "left, right, still (.npz)" in row and "| 3 " in row
    assert bpsta("data", "--data-root", own) == 0
    (listed,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| folder ")]
    assert listed.split() == row.split()
    assert bpsta("data", "folder", "--data-root", tmp_path / "nothing") == 2
    assert "expected one folder for each class in" in capsys.readouterr().err


ERRORS = {
    "no-sensor": (["--data-root", "OWN"], "recordings of your own, of the classes left, right, still: give the sensor"),
    "no-sensor-named": (["--data-root", "OWN", "--dataset", "folder"], "need sensor_size (--sensor-size HxW)"),
    "no-root": (["--sensor-size", "9x12"], "--dataset folder needs --data-root"),
    "sensor": (
        ["--data-root", "OWN", "--sensor-size", "9"],
        "sensor_size must be HxW in pixels, such as '34x34', got '9'",
    ),
    "other-data": (["--sensor-size", "9x12", "--dataset", "nmnist"], "sensor_size is of your own recordings"),
    "outside": (["--data-root", "OWN", "--sensor-size", "8x12"], "expected y in 0..7 for a sensor of 8 x 12"),
    "download": (["--data-root", "OWN", "--sensor-size", "9x12", "--download"], "are nowhere to fetch"),
    "empty": (
        ["--data-root", "OWN/left", "--sensor-size", "9x12"],
        "recordings lie in it, not in folders: name OWN if",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_are_one_line(name, own, tmp_path, capsys):
    argv, message = ERRORS[name]
    argv = [argument.replace("OWN", str(own)) for argument in argv]
    assert bpsta("train", *SMALL.split(), *argv, "--out", tmp_path / "run") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("bpsta: error: ") and message.replace("OWN", str(own)) in error


def test_what_cannot_be_counted_or_fetched_is_said(own, capsys):
    assert bpsta("data", "folder", "--frames", 2, "--data-root", own) == 2
    assert "--frames: those of 'folder' are counted by the first run" in capsys.readouterr().err
    assert bpsta("data", "folder", "--download", "--data-root", own) == 2
    assert "nowhere to fetch" in capsys.readouterr().err


def test_a_data_root_of_data_sets_still_means_the_digits(tmp_path, capsys):
    pytest.importorskip("sklearn", reason="scikit-learn (extra: data) is missing")
    (tmp_path / "data" / "NMNIST" / "Train").mkdir(parents=True)
    run = ["train", *SMALL.split(), "--limit", 16, "--test-limit", 8, "--data-root", tmp_path / "data"]
    assert bpsta(*run, "--warm-up", "none", "--warm-up-epochs", 0, "--out", tmp_path / "run") == 0
    assert json.loads((tmp_path / "run" / "result.json").read_text())["recipe"]["dataset"] == "digits"
    capsys.readouterr()
