"""One folder, one run: what kills, full disks, flipped bits and second commands leave of it."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest
import torch

from snntorch_bpsta import cli
from snntorch_bpsta._files import locked
from snntorch_bpsta.training import Recipe, checkpoints, module, results
from snntorch_bpsta.training.run import evaluate, train

TINY = Recipe(
    dataset="digits", width=1 / 16, num_steps=2, epochs=4, batch_size=32, lr_warm_up_epochs=1, warm_up="none", limit=96,
    test_limit=32,
)  # fmt: skip
ELSEWHERE = "/dev/shm"  # another file system than that of the tests' folders


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


def assert_same_weights(folder, expected):
    found = weights(folder / "last.ckpt")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run: its folder and its row."""
    folder = tmp_path_factory.mktemp("whole") / "a::b [1]"  # a path is a path
    return folder, train(TINY, 3, folder, progress=False)


def script(folder, text, **environment):
    """Run `text` in a process of its own, behind a preamble, with TMPDIR on another file system."""
    path = folder / "script.py"
    preamble = f"""
        import os, random, resource, signal, sys
        from dataclasses import replace
        from pathlib import Path
        import torch
        from snntorch_bpsta import cli
        from snntorch_bpsta.training import Recipe, module, run
        torch.set_num_threads(1)
        TINY, OUT = Recipe(**{TINY.as_dict()}), Path({str(folder / "run")!r})
    """
    path.write_text(textwrap.dedent(preamble) + textwrap.dedent(text))
    if os.path.isdir(ELSEWHERE):
        environment["TMPDIR"] = ELSEWHERE
    return subprocess.run([sys.executable, path], capture_output=True, text=True, env=os.environ | environment)


# --- kills ----------------------------------------------------------------------------------------


def test_a_kill_inside_the_write_loses_nothing_of_the_epoch_before(whole, tmp_path):
    done = script(
        tmp_path,
        """
        fsync, files = os.fsync, []
        def killed(number):
            files.extend([number] if os.path.isfile(f"/proc/self/fd/{number}") else [])
            if len(files) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return fsync(number)
        os.fsync = killed
        run.train(TINY, 3, OUT, progress=False)
        """,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    folder = tmp_path / "run"
    assert len(torch.load(folder / "last.ckpt", weights_only=True)["bpsta"]["history"]) == 2
    assert [path for path in folder.iterdir() if path.suffix == ".tmp"], "killed in the middle of the third"
    row = train(TINY, 3, folder, resume=True, progress=False)
    assert_same_weights(folder, weights(whole[0] / "last.ckpt"))
    assert row["history"] == whole[1]["history"]
    assert not [path for path in folder.iterdir() if path.suffix == ".tmp"]


KILLS = """
fsync, step, replaced = os.fsync, module.Classifier.training_step, os.replace
for kill in range({kills}):
    pid = os.fork()
    if not pid:
        left = [random.Random(kill).randrange(1, 9)]
        def count(function):
            def counted(*args):
                left[0] -= 1
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args)
            return counted
        os.fsync, os.replace, module.Classifier.training_step = map(count, (fsync, replaced, step))
        run.train(TINY, 3, OUT, resume=any(OUT.glob("last*.ckpt")), progress=False)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
run.train(TINY, 3, OUT, resume=any(OUT.glob("last*.ckpt")), progress=False)
"""


@pytest.mark.parametrize("kills", [3, 40])
def test_any_number_of_kills_ends_in_the_same_weights(whole, tmp_path, kills):
    """In training steps, in front of the sync and of the renaming of a checkpoint."""
    done = script(tmp_path, KILLS.format(kills=kills))
    assert done.returncode == 0, done.stderr
    codes = [int(code) for code in done.stdout.split() if code.lstrip("-").isdigit()]
    assert len(codes) == kills and set(codes) <= {0, -signal.SIGKILL} and codes[0] == -signal.SIGKILL
    assert_same_weights(tmp_path / "run", weights(whole[0] / "last.ckpt"))
    assert json.loads((tmp_path / "run" / "result.json").read_text())["history"] == whole[1]["history"]


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path):
    done = script(
        tmp_path,
        """
        end = module.Classifier.on_train_epoch_end
        def full(self):
            end(self)
            if self.current_epoch == 2:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
        module.Classifier.on_train_epoch_end = full
        run.train(TINY, 3, OUT, progress=False)
        """,
    )
    assert done.returncode == 1 and "File too large" in done.stderr
    saved, recipe = checkpoints.load_checkpoint(tmp_path / "run" / "last.ckpt", checkpoints.TO_RESUME)
    assert len(saved["bpsta"]["history"]) == 2 and recipe == TINY


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_with_its_code_and_says_how_to_go_on(whole, tmp_path, number):
    options = [
        f"--{name.replace('_', '-')}={value}" for name, value in TINY.as_dict().items()
        if name in ("width", "num_steps", "epochs", "batch_size", "lr_warm_up_epochs", "warm_up", "limit", "test_limit")
    ]  # fmt: skip
    done = script(
        tmp_path,
        f"""
        step = module.Classifier.training_step
        def told(self, batch, batch_idx):
            if (self.current_epoch, batch_idx) == (2, 1):
                os.kill(os.getpid(), {int(number)})
            return step(self, batch, batch_idx)
        module.Classifier.training_step = told
        command = ["train", "--seed=3", "--out", str(OUT), *{options}]
        code = cli.main(command)
        print("code", code)
        module.Classifier.training_step = step
        print("then", cli.main([*command, "--resume"]))
        """,
    )
    assert f"code {128 + number}\n" in done.stdout and "then 0" in done.stdout, done.stderr
    assert "go on with --resume" in done.stderr and "Traceback" not in done.stderr
    recipe = Recipe(**json.loads((tmp_path / "run" / "result.json").read_text())["recipe"])
    if recipe == TINY:
        assert_same_weights(tmp_path / "run", weights(whole[0] / "last.ckpt"))


# --- damage ---------------------------------------------------------------------------------------


def test_a_flipped_bit_is_noticed_and_the_checkpoint_before_is_taken(whole, tmp_path):
    train(replace(TINY, epochs=2), 3, tmp_path, progress=False)
    last = tmp_path / "last.ckpt"
    content = bytearray(last.read_bytes())
    at = content.index(weights(last)["net.0.0.weight"].numpy().tobytes()[:64]) + 33
    content[at] ^= 4
    last.write_bytes(content)
    with pytest.raises(ValueError, match="damaged.* is not what was written"):
        evaluate(last)
    (tmp_path / "result.json").unlink()
    with pytest.warns(UserWarning, match="going on from .*last.previous.ckpt, one epoch before"):
        row = train(replace(TINY, epochs=2), 3, tmp_path, resume=True, progress=False)
    other = train(replace(TINY, epochs=2), 3, tmp_path / "again", progress=False)
    assert row["history"] == other["history"]
    assert_same_weights(tmp_path, weights(tmp_path / "again" / "last.ckpt"))
    last.write_bytes(b"")
    (tmp_path / "last.previous.ckpt").unlink()
    (tmp_path / "result.json").unlink()
    with pytest.raises(ValueError, match="last.ckpt is damaged"):
        train(replace(TINY, epochs=2), 3, tmp_path, resume=True, progress=False)


def test_a_bomb_of_nested_lists_is_refused_at_once(tmp_path):
    bomb = [1]
    for _ in range(40):
        bomb = [bomb, bomb]
    torch.save({"bpsta": {}, "bomb": bomb, "more": {"of": (bomb, bomb)}}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="no checkpoint of `bpsta train`"):
        evaluate(tmp_path / "a.ckpt")


def test_a_run_that_diverges_keeps_its_last_good_checkpoint(tmp_path, monkeypatch):
    end = module.Classifier.on_train_epoch_end

    def diverge(self):
        if self.current_epoch == 2:
            with torch.no_grad():
                next(self.net.parameters())[0] = float("nan")
        end(self)

    monkeypatch.setattr(module.Classifier, "on_train_epoch_end", diverge)
    with pytest.raises(ValueError, match=r"diverged: 0.0.weight is no longer finite after epoch 2"):
        train(TINY, 3, tmp_path, progress=False)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert len(saved["bpsta"]["history"]) == 2 and not (tmp_path / "result.json").exists()
    assert all(value.isfinite().all() for value in saved["state_dict"].values() if value.is_floating_point())


# --- second commands ------------------------------------------------------------------------------


def test_a_folder_that_holds_a_run_is_not_written_to(tmp_path):
    recipe = replace(TINY, epochs=1)
    row = train(recipe, 0, tmp_path, progress=False)
    before = {path: path.read_bytes() for path in (tmp_path / "last.ckpt", tmp_path / "result.json")}
    for other in (recipe, replace(TINY, epochs=2)):
        with pytest.raises(FileExistsError, match="holds a run already .*--resume.*--overwrite.*--out"):
            train(other, 0, tmp_path, progress=False)
    assert train(recipe, 0, tmp_path, resume=True, progress=False) == json.loads(json.dumps(row)), "finished: as it is"
    assert before == {path: path.read_bytes() for path in before}
    with pytest.raises(ValueError, match="give one of the two"):
        train(recipe, 0, tmp_path, resume=True, overwrite=True, progress=False)
    train(recipe, 1, tmp_path, overwrite=True, progress=False)
    assert json.loads((tmp_path / "result.json").read_text())["seed"] == 1
    assert not (tmp_path / "last.previous.ckpt").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="must be a folder, got the file"):
        train(recipe, 0, tmp_path / "file", progress=False)


def test_two_processes_do_not_train_into_one_folder(tmp_path):
    with locked(tmp_path / "run"), pytest.raises(BlockingIOError, match="another process trains into"):
        train(TINY, 0, tmp_path, progress=False)


def test_the_default_folder_names_data_set_variant_and_seed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny = ["--epochs=1", "--warm-up=none", "--limit=32", "--test-limit=32", "--width=0.0625", "--num-steps=2"]
    cases = {
        "digits-baseline-0": ["--no-spatial-adj", "--temporal-alpha=0"],
        "digits-bpsa+bpta0.5-0": ["--temporal-alpha=.5"],
    }
    for name, options in cases.items():
        assert cli.main(["train", *tiny, *options]) == 0
        assert (tmp_path / "runs" / name / "result.json").is_file()
        assert cli.main(["train", *tiny, *options]) == 2 and "--overwrite" in capsys.readouterr().err
        assert cli.main(["train", *tiny, *options, "--overwrite"]) == 0


# --- the result -----------------------------------------------------------------------------------


def test_json_has_no_infinity(tmp_path):
    path = tmp_path / "deep" / "a.json"
    results.write_json(path, {"ratio": float("inf"), "rows": [(float("nan"), 1.5)], "name": "x"})
    strict = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert strict == {"ratio": None, "rows": [[None, 1.5]], "name": "x"}


def test_git_decides_over_no_result(tmp_path, monkeypatch):
    assert results.environment()["commit"] is None or results.environment()["commit"].strip()
    (tmp_path / "git").write_text("#!/bin/sh\necho spoiled; exit 3\n")
    (tmp_path / "git").chmod(0o755)
    for path in (tmp_path, tmp_path / "nowhere"):  # one that fails, and none
        monkeypatch.setenv("PATH", str(path))
        assert results.environment()["commit"] is None


def test_a_repository_around_the_package_is_not_asked(tmp_path, monkeypatch):
    """An installed package in somebody's project: the commit there says nothing of it."""
    installed = tmp_path / "project" / "lib" / "snntorch_bpsta" / "training" / "results.py"
    subprocess.run(["git", "init", "-q", tmp_path / "project"], check=True)
    monkeypatch.setattr(results, "__file__", str(installed))
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: pytest.fail("git was started"))
    assert results.environment()["commit"] is None
