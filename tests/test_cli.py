"""The command line: help, one-line errors, and small real runs on the digits."""

import contextlib
import io
import json
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

for library in ("lightning", "torchmetrics", "tensorboard", "sklearn", "matplotlib"):
    pytest.importorskip(library, reason=f"{library} (extra: train or plots) is missing")

import snntorch_bpsta  # noqa: E402
from snntorch_bpsta import cli  # noqa: E402
from snntorch_bpsta.cli import _look, _options, main  # noqa: E402
from snntorch_bpsta.training import Recipe  # noqa: E402

SMALL = (
    "--epochs 1 --limit 128 --test-limit 64 --width 0.03125 --num-steps 2 --lr-warm-up-epochs 0 --warm-up none "
    "--warm-up-epochs 0 --accelerator cpu"
).split()
COMMANDS = ("train", "compare", "study", "evaluate", "recipes", "data", "info")


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    """A terminal of 80 columns, an empty working directory, and no data but the digits."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("SNNTORCH_BPSTA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SNNTORCH_BPSTA_DATA", raising=False)
    monkeypatch.delenv("BPSTA_TRACEBACK", raising=False)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


def bpsta(*argv):
    """The exit code."""
    try:
        return main([str(argument) for argument in argv])
    except SystemExit as end:
        return end.code


def test_an_augmentation_that_is_not_known_is_refused(capsys):
    assert bpsta("train", "--augment", "--epochs", 1) == 2
    assert "--augment is known of mnist, cifar10," in capsys.readouterr().err


def quiet(*argv, err=None):
    """The same without a capture fixture: exit code and standard output; standard error goes to `err`."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err or io.StringIO()):
        code = bpsta(*argv)
    return code, out.getvalue()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of `bpsta train`: folder, exit code, output."""
    out = tmp_path_factory.mktemp("train") / "run"
    return out, *quiet("train", *SMALL, "--seed", 3, "--temporal-alpha", 0.25, "--out", out)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A run of `bpsta compare` with two seeds in two processes: its file, exit code, output, and what it said meanwhile."""
    out, err = tmp_path_factory.mktemp("compare") / "runs.json", io.StringIO()
    return out, *quiet("compare", *SMALL, "--seeds", 2, "--jobs", 2, "--out", out, err=err), err.getvalue()


# --- help and version ----------------------------------------------------------------------------------------


def test_help(capsys):
    assert bpsta("--help") == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: bpsta") and all(command in out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_is_readable(command, capsys):
    assert bpsta(command, "--help") == 0
    out, err = capsys.readouterr()
    assert err == "" and out.startswith(f"usage: bpsta {command}")
    assert "%(" not in out and "SUPPRESS" not in out and "<class" not in out
    longest = max(out.splitlines(), key=len)
    assert len(longest) <= 100, f"a line of {len(longest)} characters in a terminal of 80: {longest}"


@pytest.mark.parametrize("command", ["train", "compare"])
def test_help_names_every_option_of_a_recipe(command, capsys):
    bpsta(command, "--help")
    out = capsys.readouterr().out
    own = (
        {"spatial_adj", "spatial_leak", "temporal_alpha", "output_spike_grad"} if command == "compare" else set()
    )  # the variants' there
    for field in fields(Recipe):
        assert (f"--{field.name.replace('_', '-')} " in out.replace(",", " ")) == (field.name not in own), field.name
        if field.name not in own | {"dataset"}:
            assert " ".join(field.metadata["help"].split()) in " ".join(out.split())
    for dataset in snntorch_bpsta.data.DATASETS:
        assert re.search(rf"^  {dataset} ", out, re.MULTILINE), "a row of its own"


def test_a_command_imports_only_what_it_needs():
    """The list of commands, and the help of one without a recipe, bring neither torch nor snnTorch's neurons."""
    for argv in (["--help"], ["recipes", "--help"], ["--version"]):
        code = (
            "import sys, runpy, types; package = types.ModuleType('snntorch_bpsta'); "
            f"package.__path__ = [{str(Path(snntorch_bpsta.__file__).parent)!r}]; sys.modules['snntorch_bpsta'] = package\n"
            f"from snntorch_bpsta.cli import main\ntry:\n    main({argv!r})\nexcept SystemExit: pass\n"
            "assert not {'torch', 'lightning', 'matplotlib', 'numpy'} & set(sys.modules), sorted(sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]


def test_alone_it_shows_help_with_examples(capsys):
    """Each of the examples is a command that is taken."""
    assert bpsta() == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: bpsta")
    examples = re.findall(r"^  bpsta (.*?)  ", out[out.index("examples:") :], re.MULTILINE)
    assert len(examples) == 3
    for example in examples:
        command, *options = example.split()
        assert vars(cli._parser(command).parse_args([command, *options]))["command"] == command


def test_info_says_what_runs_and_what_there_is(capsys):
    assert bpsta("info") == 0
    rows = dict(
        line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if not line.startswith("data sets")
    )
    assert rows["torch"] == torch.__version__.partition("+")[0] and rows["snntorch-bpsta"] == snntorch_bpsta.__version__
    net = snntorch_bpsta.MultiStep(snntorch_bpsta.Leaky(beta=0.9, spatial_adj=True))
    assert rows["kernels"].startswith(snntorch_bpsta.which(net, torch.rand(4, 2, 8))["0"])
    assert rows["data"] == rows["cache"] == str(Path.cwd().parent / "cache")


def test_the_data_that_are_there(capsys):
    assert bpsta("data") == 0
    rows = {line.split()[1]: line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")}
    assert rows.keys() - {"data"} == {*snntorch_bpsta.data.DATASETS, "folder"}
    assert "1,437 + 360" in rows["digits"] and "1 x 8 x 8" in rows["digits"] and "1,437" not in rows["mnist"]


def test_data_that_are_not_there(capsys):
    pytest.importorskip("torchvision", reason="torchvision (extra: data) is missing")
    assert bpsta("data", "mnist", "digits") == 2
    out, err = capsys.readouterr()
    assert "1,437 + 360" in out and err.count("\n") == 1 and "MNIST/raw" in err


def test_frames_are_counted_before_the_first_run(capsys, monkeypatch):
    spec = snntorch_bpsta.data.DATASETS["digits_simulated"]
    few = replace(spec, loader=lambda *arguments: spec.loader(*arguments).take(np.arange(3)))
    monkeypatch.setitem(snntorch_bpsta.data.DATASETS, "digits_simulated", few)
    assert bpsta("data", "digits_simulated", "digits", "--frames", 2) == 0
    frames = [path.name for path in (Path.cwd().parent / "cache" / "frames").iterdir()]
    assert len(frames) == 2 and all(name.startswith("digits_simulated-T2-34x34-3-") for name in frames)


def test_version(capsys):
    assert bpsta("--version") == 0
    assert capsys.readouterr().out == f"snntorch-bpsta {snntorch_bpsta.__version__}\n"


def test_the_package_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "snntorch_bpsta", "--version"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"snntorch-bpsta {snntorch_bpsta.__version__}\n", "")


# --- errors: one line, exit code 2 ---------------------------------------------------------------------------


def assert_one_line(capsys, code, *words):
    out, err = capsys.readouterr()
    assert code == 2 and out == ""
    assert err.startswith("bpsta: error: ") and err.count("\n") == 1 and err.endswith("\n"), err
    assert "Traceback" not in err
    for word in words:
        assert word in err, err


WRONG = {
    "command": (["learn"], "learn", "train"),
    "command-meant": (["comparr"], "did you mean compare?"),
    "option": (["train", "--speed", "9"], "--speed", "bpsta train --help"),
    "option-meant": (["train", "--epoch-s", "9"], "--epoch-s", "did you mean --epochs?"),
    "option-meant-with-value": (["compare", "--batchsize=9"], "did you mean --batch-size?"),
    "dataset-meant": (["train", "--dataset", "nmnist-simulated"], "did you mean nmnist_simulated?"),
    "study-meant": (["study", "latncy"], "did you mean latency?"),
    "data-meant": (["data", "digit"], "did you mean digits?"),
    "download-of-all": (["data", "--download"], "needs the names of data sets"),
    "frames": (["data", "digits_simulated", "--frames", "0"], "--frames", "must be an integer >= 1"),
    "dataset": (["train", "--dataset", "imagenet"], "--dataset", "imagenet", "digits"),
    "network": (["train", "--network", "huge"], "network must be one of", "huge", "small"),
    "readout": (["compare", "--readout", "mem"], "--readout", "spikes"),
    "warm-up": (["train", "--warm-up", "ann"], "--warm-up", "identity"),
    "schedule": (["train", "--schedule", "step"], "--schedule", "sgdr"),
    "precision": (["train", "--precision", "8"], "--precision", "32-true"),
    "accelerator": (["evaluate", "x.ckpt", "--accelerator", "tpu"], "--accelerator", "cpu"),
    "int": (["train", "--epochs", "many"], "--epochs", "int", "many"),
    "int-of-a-float": (["train", "--num-steps", "2.5"], "--num-steps", "2.5"),
    "float": (["train", "--width", "wide"], "--width", "float", "wide"),
    "seed": (["train", "--seed", "x"], "--seed", "x"),
    "negative-seed": (["train", *SMALL, "--seed", "-1"], "-1"),
    "epochs": (["train", "--epochs", "0"], "epochs must be an integer >= 1"),
    "lr": (["train", "--lr", "-1"], "lr must be a finite number >= 0"),
    "lr-nan": (["train", "--lr", "nan"], "lr must be a finite number >= 0"),
    "alpha": (["train", "--temporal-alpha", "1.5"], "temporal_alpha", "1.5"),
    "dropout": (["compare", "--dropout", "2"], "dropout"),
    "warm-up-epochs": (["train", "--warm-up", "identity", "--warm-up-epochs", "0"], "warm_up_epochs from 1"),
    "batch": (["train", "--batch-size", "0"], "batch_size"),
    "limit": (["train", "--limit", "-1"], "limit must be"),
    "no-channels": (["train", *SMALL, "--width", "0.0001"], "width=0.0001 leaves no channel"),
    "width-zero": (["train", *SMALL, "--width", "0"], "width must be a finite number > 0"),
    "devices": (["train", "--devices", "0"], "--devices", "must be an integer >= 1"),
    "jobs": (["compare", "--jobs", "-2"], "--jobs", "must be an integer >= 1"),
    "jobs-text": (["study", "alpha", "--jobs", "all"], "--jobs", "must be an integer >= 1, got 'all'"),
    "study": (["study", "speed"], "'speed'", "'compare'", "'simulator'"),
    "workers": (["train", *SMALL, "--num-workers", "-1"], "num_workers"),
    "alpha-of-compare": (["compare", "--temporal-alpha", "0.5"], "--temporal-alpha"),
    "seeds-text": (["compare", "--seeds", "three"], "--seeds", "'three'", "(5)", "(3,7;", "3,)"),
    "seeds-zero": (["compare", "--seeds", "0"], "--seeds"),
    "seeds-negative": (["compare", "--seeds", "-2"], "--seeds"),
    "seeds-half-a-list": (["compare", "--seeds", "1,,"], "--seeds"),
    "seeds-negative-in-a-list": (["compare", "--seeds", "1,-3"], "--seeds"),
    "seeds-float": (["compare", "--seeds", "1.5"], "--seeds"),
    "seeds-empty": (["compare", "--seeds", ""], "--seeds"),
    "no-checkpoint-named": (["evaluate"], "checkpoint"),
    "no-checkpoint-there": (["evaluate", "nowhere/last.ckpt"], "no checkpoint nowhere/last.ckpt"),
    "checkpoint-is-a-folder": (["evaluate", "."], "no checkpoint"),
    "nothing-to-resume": (["train", "--resume", "--out", "nowhere"], "nothing to resume", "nowhere/last.ckpt"),
    "results-nowhere": (["recipes", "--results", "nowhere"], "--results must be a folder of runs: there is no nowhere"),
    "out-is-a-file": (["train", *SMALL, "--out", __file__], "(--out) must be a folder, got the file"),
    "no-mnist": (
        ["train", *SMALL, "--dataset", "mnist", "--data-root", "nowhere"],
        "nowhere",
        "MNIST/raw",
        "--data-root",
    ),
    "no-nmnist": (["train", *SMALL, "--dataset", "nmnist", "--data-root", "nowhere"], "nowhere", "NMNIST"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_values(name, capsys):
    argv, *words = WRONG[name]
    if name == "no-mnist":
        pytest.importorskip("torchvision", reason="torchvision (extra: data) is missing")
    assert_one_line(capsys, bpsta(*argv), *words)


def test_the_place_of_a_study_is_tried_before_its_first_run(capsys):
    Path("folder.json").mkdir()
    for out, word in ((f"{__file__}/runs.json", "cannot be written"), ("folder.json", "is to be a file")):
        assert bpsta("compare", *SMALL, "--warm-up=none", "--out", out) == 2
        assert word in capsys.readouterr().err and not [path for path in Path().rglob("*") if path.is_file()]


@pytest.mark.parametrize("damage", ["text", "empty", "half", "other-checkpoint", "other-object"])
def test_a_damaged_checkpoint(damage, trained, tmp_path, capsys):
    path, whole = tmp_path / "bad.ckpt", (trained[0] / "last.ckpt").read_bytes()
    if damage == "other-checkpoint":
        torch.save({"state_dict": {}}, path)
    elif damage == "other-object":
        torch.save([1, 2], path)
    else:
        path.write_bytes({"text": b"no checkpoint " * 50, "empty": b"", "half": whole[: len(whole) // 2]}[damage])
    assert_one_line(capsys, bpsta("evaluate", path), str(path), "damaged or no checkpoint")


def test_a_damaged_checkpoint_to_resume_from(trained, tmp_path, capsys):
    whole = (trained[0] / "last.ckpt").read_bytes()
    (tmp_path / "last.ckpt").write_bytes(whole[: len(whole) // 2])
    code = bpsta("train", *SMALL, "--seed", 3, "--temporal-alpha", 0.25, "--resume", "--out", tmp_path)
    assert_one_line(capsys, code, "last.ckpt")


def test_resuming_another_run(trained, capsys):
    code = bpsta("train", *SMALL, "--seed", 3, "--temporal-alpha", 0.25, "--lr", 0.5, "--resume", "--out", trained[0])
    assert_one_line(capsys, code, "lr: 0.001 -> 0.5")


def test_a_negative_test_limit_is_not_the_checkpoints_fault(trained, capsys):
    code = bpsta("evaluate", trained[0] / "last.ckpt", "--test-limit", "-5")
    err = capsys.readouterr().err
    assert code == 2 and "test_limit must be an integer >= 0" in err
    assert "damaged" not in err, err


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_no_gpu(command, trained, tmp_path, capsys):
    argv = ["train", *SMALL, "--out", tmp_path] if command == "train" else ["evaluate", trained[0] / "last.ckpt"]
    assert_one_line(capsys, bpsta(*argv, "--accelerator", "gpu"), "gpu")


def test_out_is_a_file(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert_one_line(capsys, bpsta("train", *SMALL, "--out", tmp_path / "file"), str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "mine"


def test_out_of_compare_is_a_file(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert bpsta("compare", *SMALL, "--seeds", 1, "--out", tmp_path / "file") == 2
    assert str(tmp_path / "file") in capsys.readouterr().err and (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("content", ["not a result", '{"runs": [{"accuracy": 1}]}'], ids=["text", "other-rows"])
def test_a_damaged_results_file(content, tmp_path, capsys):
    out = tmp_path / "runs.json"
    out.write_text(content)
    assert bpsta("compare", *SMALL, "--seeds", 1, "--out", out) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "runs.json" in err and "--out" in err
    assert out.read_text() == content


class Absent:
    """An import finder that finds the named libraries missing, as a machine without them does."""

    def __init__(self, *libraries):
        self.libraries = libraries

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.libraries:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


# library -> the command that needs it, our modules that import it, and its extra
MISSING = {
    "lightning": ("train", ("snntorch_bpsta.training.run",), "train"),
    "torchmetrics": ("train", ("snntorch_bpsta.training.run", "snntorch_bpsta.training.module"), "train"),
    "matplotlib": ("compare", ("snntorch_bpsta.plots",), "plots"),
}


@pytest.mark.parametrize("library", MISSING)
def test_missing_library(library, monkeypatch, capsys):
    command, ours, extra = MISSING[library]
    for name in [name for name in sys.modules if name in ours or name.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Absent(library), *sys.meta_path])
    code = bpsta(command, *SMALL)
    err = capsys.readouterr().err
    assert code == 2 and err.count("\n") == 1
    pattern = rf"bpsta: error: {library} is not installed: pip install 'snntorch-bpsta\[[a-z,]*\b{extra}\b[a-z,]*\]'\n"
    assert re.fullmatch(pattern, err), err


def test_missing_library_of_a_data_set(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert_one_line(capsys, bpsta("train", *SMALL, "--out", "here"), "pip install", "snntorch-bpsta[")


def test_missing_lightning_in_a_fresh_process():
    code = "import sys; sys.modules['lightning'] = None; from snntorch_bpsta.cli import main; sys.exit(main(['train']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("bpsta: error: lightning is not installed: pip install 'snntorch-bpsta[train")
    assert done.stderr.count("\n") == 1


def test_a_library_that_is_no_extra_is_a_bug_and_not_hidden(monkeypatch):
    def broken(arguments):
        raise ModuleNotFoundError("No module named 'colours'", name="colours")

    monkeypatch.setitem(cli.COMMANDS, "evaluate", cli.COMMANDS["evaluate"]._replace(run=broken))
    with pytest.raises(ModuleNotFoundError, match="colours"):
        main(["evaluate", "x.ckpt"])


def test_the_traceback_on_request(monkeypatch):
    monkeypatch.setenv("BPSTA_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        main(["evaluate", "nowhere.ckpt"])


def test_ctrl_c(monkeypatch, capsys):
    def stopped(arguments):
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "evaluate", cli.COMMANDS["evaluate"]._replace(run=stopped))
    assert bpsta("evaluate", "x.ckpt") == 130
    assert "--resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "seeds"), [("1", [0]), ("3", [0, 1, 2]), ("3,7", [3, 7]), ("7, 3", [7, 3]), ("0,5,9", [0, 5, 9])]
)
def test_seeds(text, seeds):
    assert _options.seeds(text) == seeds


# --- train and evaluate --------------------------------------------------------------------------------------


def accuracy(output):
    (line,) = [line for line in output.splitlines() if "test accuracy" in line]
    return line[line.index("test accuracy") :].split(" %")[0]


def test_train_writes_its_files(trained):
    out, code, output = trained
    assert code == 0 and str(out) in output
    row = json.loads((out / "result.json").read_text())
    assert f"{100 * row['accuracy']:.2f}" in accuracy(output)
    assert 0 <= row["accuracy"] <= 1 and row["accuracy"] * 64 == round(row["accuracy"] * 64)
    assert len(row["history"]) == 1 and row["history"][0]["test_accuracy"] == row["accuracy"]
    assert row["seed"] == 3 and row["firing_rates"] and 0 < row["firing_rate"] < 1
    assert row["versions"]["torch"] == torch.__version__
    names = {path.name for path in out.rglob("*") if path.is_file()}
    assert {"last.ckpt", "result.json", "metrics.csv"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert [path.name for path in Path.cwd().iterdir()] == [], "and nothing elsewhere"


def test_train_draws_its_figure(trained):
    out, _, output = trained
    assert (out / "figure.png").read_bytes().startswith(b"\x89PNG") and f"figure: {out / 'figure.png'}" in output


def test_without_matplotlib_there_is_a_result_and_no_figure(tmp_path, monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "snntorch_bpsta.plots", raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Absent("matplotlib"), *sys.meta_path])
    assert bpsta("train", *SMALL, "--limit", 32, "--test-limit", 32, "--out", tmp_path) == 0
    out, err = capsys.readouterr()
    assert "test accuracy" in out and "matplotlib is not installed" in err and not (tmp_path / "figure.png").exists()


@pytest.mark.parametrize("name", ["result.json", "last.ckpt"])
def test_a_run_again_by_what_it_was(name, trained, tmp_path, capsys):
    """Recipe and seed are those of the run; an option goes over them."""
    out, _, output = trained
    assert bpsta("train", "--config", out / name, "--accelerator", "cpu", "--out", tmp_path / "again") == 0
    assert accuracy(capsys.readouterr().out) == accuracy(output)
    first, again = (json.loads((folder / "result.json").read_text()) for folder in (out, tmp_path / "again"))
    assert (again["recipe"], again["seed"], again["history"]) == (first["recipe"], 3, first["history"])
    arguments = cli._parser("train").parse_args(["train", "--config", str(out / name), "--lr=0.5"])
    assert _options.recipe_of(arguments).as_dict() == first["recipe"] | {"lr": 0.5}


def test_a_config_that_is_none(trained, tmp_path, capsys):
    (tmp_path / "table.json").write_text('{"recipe": {"speed": 9}, "seed": 0, "precision": "32-true"}')
    assert_one_line(
        capsys, bpsta("train", "--config", tmp_path / "table.json"), "--config must be result.json", "speed"
    )
    assert_one_line(capsys, bpsta("train", "--config", tmp_path / "nowhere.json"), "nowhere.json")
    config = ["--config", trained[0] / "result.json"]
    assert_one_line(capsys, bpsta("train", *config, "--dataset", "mnist"), "is of digits: drop --dataset mnist")
    assert_one_line(capsys, bpsta("train", *config, "--recipe", "table2"), "leave one of them out")
    assert_one_line(capsys, bpsta("study", "simulator", *config), "--config is of no use")


def test_a_warm_up_that_shrank_stays_when_the_run_is_extended(tmp_path, capsys):
    small = [*SMALL[2:-6], "--limit", 32, "--test-limit", 32, "--accelerator", "cpu", "--out", tmp_path]
    assert bpsta("train", *small, "--epochs", 5) == 0
    assert bpsta("train", *small, "--epochs", 10, "--extend") == 0, capsys.readouterr().err
    history = json.loads((tmp_path / "result.json").read_text())["history"]
    assert [epoch["warm_up"] for epoch in history] == ["identity"] + 9 * [None]


def test_the_folder_is_tried_before_anything_is_built(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setattr(Recipe, "build_network", None)
    code = bpsta("train", *SMALL, "--out", tmp_path / "file" / "run")
    assert_one_line(capsys, code, "out_dir (--out): ", "cannot be written", "choose another place")


def test_train_takes_the_row_of_the_data_set_and_the_options_given(trained):
    recipe = json.loads((trained[0] / "result.json").read_text())["recipe"]
    expected = Recipe(
        dataset="digits", width=1 / 32, num_steps=2, epochs=1, lr_warm_up_epochs=0, temporal_alpha=0.25, limit=128,
        test_limit=64,
    )  # fmt: skip
    assert recipe == expected.as_dict()


def row_of(*argv):
    """The warm-up of the recipe that a command line asks for."""
    recipe = _options.recipe_of(cli._parser("train").parse_args(["train", *argv]))
    return recipe.warm_up, recipe.warm_up_epochs


def test_a_warm_up_shrinks_with_the_epochs_unless_it_is_asked_for():
    assert row_of() == row_of("--epochs", "30") == row_of("--epochs", "60") == ("identity", 6)
    assert row_of("--epochs", "10") == ("identity", 2) and row_of("--epochs", "3") == ("identity", 1)
    assert row_of("--epochs", "1") == ("none", 0), "and is never all of it"
    assert row_of("--epochs", "10", "--warm-up-epochs", "5") == ("identity", 5)
    assert row_of("--epochs", "10", "--warm-up", "surrogate") == ("surrogate", 2)
    assert row_of("--dataset", "mnist", "--epochs", "10") == ("none", 0)


def test_the_logs_hold_the_metrics(trained):
    (csv,) = trained[0].rglob("metrics.csv")
    head, *lines = csv.read_text().splitlines()
    assert {"epoch", "test_loss", "test_accuracy", "firing_rate"} <= set(head.split(",")) and lines
    column = head.split(",").index("test_accuracy")
    values = [float(line.split(",")[column]) for line in lines if line.split(",")[column]]
    result = json.loads((trained[0] / "result.json").read_text())
    assert values == [pytest.approx(result["accuracy"])]


def test_evaluate_gives_the_same_accuracy_and_rates(trained, capsys):
    out, _, output = trained
    assert bpsta("evaluate", out / "last.ckpt", "--accelerator", "cpu") == 0
    again = capsys.readouterr().out
    assert accuracy(again) == accuracy(output)
    layers = [line for line in again.splitlines() if line.startswith("  LIF ")]
    assert len(layers) == 5 and all(line in output for line in layers)


def test_evaluate_on_fewer_samples(trained, capsys):
    assert bpsta("evaluate", trained[0] / "last.ckpt", "--accelerator", "cpu", "--test-limit", 10) == 0
    percent = float(accuracy(capsys.readouterr().out).split()[-1])
    assert percent % 10 == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("path", [None, "reports/mine.json"], ids=["beside the checkpoint", "named"])
def test_the_report_of_neurobench(path, trained, tmp_path, capsys):
    pytest.importorskip("neurobench", reason="neurobench (extra: neurobench) is missing")
    checkpoint = tmp_path / "last.ckpt"
    checkpoint.write_bytes((trained[0] / "last.ckpt").read_bytes())
    argv = [] if path is None else [path]
    assert bpsta("evaluate", checkpoint, "--accelerator", "cpu", "--test-limit", 20, "--neurobench", *argv) == 0
    out = capsys.readouterr().out
    file = Path(path or tmp_path / "neurobench.json")
    assert str(file) in out and "SynapticOperations" in out and accuracy(out)
    report = json.loads(file.read_text())
    neurobench = report["neurobench"]
    assert (neurobench["version"].split(".")[0], neurobench["samples"], neurobench["num_steps"]) == ("2", 20, 2)
    metrics = neurobench["metrics"]
    assert metrics["ClassificationAccuracy"] == pytest.approx(report["accuracy"])
    assert metrics["ActivationSparsity"] == pytest.approx(1 - report["firing_rate"])
    assert 0 < metrics["SynapticOperations"]["Effective_ACs"] < metrics["SynapticOperations"]["Dense"]
    assert metrics["NeuronOperations"]["Neuron Dense Ops"] >= 4 * metrics["MembraneUpdates"] > 0
    assert metrics["Footprint"] > 4 * metrics["ParameterCount"] > 0
    assert report["recipe"]["dataset"] == "digits" and report["versions"]["torch"] == torch.__version__


def test_without_neurobench_nothing_is_measured(trained, tmp_path, monkeypatch, capsys):
    ours = "snntorch_bpsta.training.neurobench"
    for name in [name for name in sys.modules if name == ours or name.partition(".")[0] == "neurobench"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Absent("neurobench"), *sys.meta_path])
    code = bpsta("evaluate", trained[0] / "last.ckpt", "--neurobench", tmp_path / "report.json")
    assert_one_line(capsys, code, "neurobench is not installed: pip install 'snntorch-bpsta[neurobench]'")
    assert not (tmp_path / "report.json").exists()


def test_neurobench_takes_no_checkpoint_for_its_file(capsys):
    assert_one_line(capsys, bpsta("evaluate", "--neurobench", "last.ckpt"), "required: checkpoint")


def test_the_checkpoint_loads_without_running_code(trained):
    saved = torch.load(trained[0] / "last.ckpt", weights_only=True)
    assert saved["bpsta"]["recipe"]["dataset"] == "digits" and saved["bpsta"]["seed"] == 3


def test_the_baseline_by_its_option(tmp_path):
    code, _ = quiet("train", *SMALL, "--no-spatial-adj", "--temporal-alpha", 0, "--limit", 64, "--out", tmp_path)
    recipe = json.loads((tmp_path / "result.json").read_text())["recipe"]
    assert code == 0 and (recipe["spatial_adj"], recipe["temporal_alpha"]) == (False, 0.0)


# --- bench: of the clone -------------------------------------------------------------------------------------


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """The root of a clone without a benchmark."""
    root = tmp_path / "clone"
    root.mkdir()
    monkeypatch.setattr(_look, "__file__", str(root / "snntorch_bpsta" / "cli" / "_look.py"))
    for name in [name for name in sys.modules if name.partition(".")[0] == "benchmarks"]:
        monkeypatch.delitem(sys.modules, name)
    yield root
    for name in [name for name in sys.modules if name.partition(".")[0] == "benchmarks"]:
        del sys.modules[name]


def test_the_benchmark_comes_with_the_repository(clone, capsys):
    assert_one_line(
        capsys, bpsta("bench", "layer", "--quick"), "comes with the repository", "clone", "python -m benchmarks"
    )


def test_the_benchmark_of_the_clone_takes_the_arguments_as_they_are(clone, capsys):
    (clone / "benchmarks").mkdir()
    (clone / "benchmarks" / "__init__.py").write_text("")
    (clone / "benchmarks" / "__main__.py").write_text("def main(argv):\n    print(argv)\n    return 7\n")
    before = list(sys.path)
    assert bpsta("bench", "--quick", "layer", "--help") == 7 and sys.path == before
    assert capsys.readouterr().out == "['--quick', 'layer', '--help']\n"


# --- compare -------------------------------------------------------------------------------------------------


def test_compare_prints_the_table(compared):
    out, code, output, said = compared
    assert code == 0
    table = [line for line in output.splitlines() if line.startswith("|")]
    assert [line.split()[1] for line in table if "---" not in line] == ["variant", "baseline", "bpsa", "bpsa+bpta"]
    assert all(line.split("|")[2].strip() == "2" for line in table[2:])
    assert "compare: digits, T = 2, 1 epochs" in output and str(out) in output
    assert len([line for line in said.splitlines() if "accuracy" in line and "seed" in line]) == 6
    assert "seed" not in output.partition("| variant")[0]


def test_compare_writes_json_and_png(compared):
    out = compared[0]
    runs = json.loads(out.read_text())["runs"]
    assert sorted((run["variant"], run["seed"]) for run in runs) == [
        (name, seed) for name in ("baseline", "bpsa", "bpsa+bpta") for seed in (0, 1)
    ]
    assert all(run["history"] and run["versions"] and run["recipe"]["width"] == 0.03125 for run in runs)
    assert (out.parent / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in out.parent.iterdir()) == ["figure.png", "runs.json", "table.csv"]


def test_the_same_comparison_again_runs_nothing(compared):
    out, _, output, _ = compared
    before = out.read_bytes()
    said = io.StringIO()
    code, again = quiet("compare", *SMALL, "--seeds", 2, "--jobs", 2, "--out", out, err=said)
    assert code == 0 and f"6 of 6 runs are in {out} already" in said.getvalue() and out.read_bytes() == before
    assert [x for x in again.splitlines() if x[:1] == "|"] == [x for x in output.splitlines() if x[:1] == "|"]
