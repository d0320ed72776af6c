"""One folder, one run: what kills, full disks, flipped bits and second commands leave of it."""

import json
import signal
import subprocess
import zipfile
from dataclasses import replace

import pytest
import torch
from _runs import TINY, assert_same_weights, weights

from snntorch_bpsta import cli
from snntorch_bpsta._files import locked
from snntorch_bpsta.training import checkpoints, datamodule, module, results
from snntorch_bpsta.training.run import evaluate, train


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run: its folder and its row."""
    folder = tmp_path_factory.mktemp("whole") / "a::b [1]"  # a path is a path
    return folder, train(TINY, 3, folder, progress=False)


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
    with pytest.warns(UserWarning, match="going on from .*last.previous.ckpt, the one before"):
        row = train(replace(TINY, epochs=2), 3, tmp_path, resume=True, progress=False)
    assert (tmp_path / "last.damaged.ckpt").read_bytes() == content
    assert len(torch.load(tmp_path / "last.previous.ckpt", weights_only=True)["bpsta"]["history"]) == 1, (
        "the good one stays"
    )
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


def test_sizes_are_looked_at_before_anything_is_unpacked(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "a.ckpt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(10**7))
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda self: pytest.fail("unpacked"))
    with pytest.raises(ValueError, match="it unpacks to 10,000,000 bytes"):
        evaluate(tmp_path / "a.ckpt")


def test_objects_are_refused_without_the_advice_to_unpickle_them(tmp_path):
    torch.save({"net": torch.nn.Linear(2, 2)}, tmp_path / "net.pt")
    with pytest.raises(ValueError, match="net.pt is damaged or no checkpoint.*objects are not unpickled") as caught:
        evaluate(tmp_path / "net.pt")
    assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize("of", ["parameters", "buffers"])
def test_a_run_that_diverges_keeps_its_last_good_checkpoint(tmp_path, monkeypatch, of):
    end = module.Classifier.on_train_epoch_end

    def diverge(self):
        if self.current_epoch == 2:
            with torch.no_grad():
                next(each for each in getattr(self.net, of)() if each.dim())[0] = float("nan")
        end(self)

    monkeypatch.setattr(module.Classifier, "on_train_epoch_end", diverge)
    with pytest.raises(ValueError, match=r"diverged: \S+ is no longer finite in epoch 2"):
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
    with pytest.raises(ValueError, match="give one or the other"):
        train(recipe, 0, tmp_path, resume=True, overwrite=True, progress=False)
    with locked(tmp_path / "run"), pytest.raises(BlockingIOError):
        train(recipe, 1, tmp_path, overwrite=True, progress=False)
    with pytest.raises(FileNotFoundError, match="nmnist|NMNIST"):
        train(replace(recipe, dataset="nmnist"), 1, tmp_path, overwrite=True, data_root=tmp_path, progress=False)
    assert before == {path: path.read_bytes() for path in before}, "lost when the new one stands, and no sooner"
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


def test_slurms_requeue_is_not_lightnings(tmp_path, monkeypatch):
    """Which writes hpc_ckpt_1.ckpt into the working directory, past all checks, and goes on from it."""
    for name, value in dict(NTASKS="1", JOB_NAME="job", JOB_ID="1", PROCID="0", LOCALID="0", NODELIST="here").items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.chdir(tmp_path)
    step, seen = module.Classifier.training_step, []

    def watched(self, batch, batch_idx):
        cluster = self.trainer._accelerator_connector.cluster_environment
        seen.append((cluster.auto_requeue, signal.getsignal(signal.SIGUSR1)))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(module.Classifier, "training_step", watched)
    train(replace(TINY, epochs=1), 3, tmp_path / "run", progress=False)
    assert set(seen) == {(False, signal.SIG_DFL)} and [path.name for path in tmp_path.iterdir()] == ["run"]


# --- what a run is ---------------------------------------------------------------------------------


def test_another_run_does_not_go_on_with_this_one(tmp_path, monkeypatch):
    stop_after(monkeypatch, 1)
    with pytest.raises(RuntimeError, match="stopped"):
        train(TINY, 3, tmp_path, progress=False)
    monkeypatch.undo()
    for changes, what in (
        (dict(recipe=replace(TINY, lr=0.5)), "lr: "),
        (dict(seed=4), "seed: 3 -> 4"),
        (dict(precision="bf16-mixed"), "precision: '32-true' -> 'bf16-mixed'"),
        (dict(recipe=replace(TINY, epochs=5)), r"epochs: 4 -> 5\).*more epochs are trained by extend=True"),
    ):
        arguments = dict(recipe=TINY, seed=3) | changes
        with pytest.raises(ValueError, match=f"of another run .*{what}"):
            train(out_dir=tmp_path, resume=True, progress=False, **arguments)
    with pytest.raises(ValueError, match=r"epochs: 4 -> 3\)"):
        train(replace(TINY, epochs=3), 3, tmp_path, extend=True, progress=False)
    with monkeypatch.context() as other, pytest.raises(ValueError, match="of another run .*processes: 1 -> 2"):
        other.setattr("lightning.Trainer.world_size", 2)
        train(TINY, 3, tmp_path, resume=True, progress=False)
    monkeypatch.setattr(datamodule.Frames, "setup", other_data(datamodule.Frames.setup))
    with pytest.raises(ValueError, match="of another run .*data: "):
        train(TINY, 3, tmp_path, resume=True, progress=False)


def stop_after(monkeypatch, epoch):
    start = module.Classifier.on_train_epoch_start

    def stopped(self):
        if self.current_epoch == epoch:
            raise RuntimeError("stopped")
        start(self)

    monkeypatch.setattr(module.Classifier, "on_train_epoch_start", stopped)


def other_data(setup):
    def changed(self, stage=None):
        setup(self, stage)
        self.train.data = self.train.data.copy()
        self.train.data[40, 0, 3, 3] ^= 1

    return changed


def test_a_longer_run_on_request(tmp_path):
    short, longer = replace(TINY, epochs=2), replace(TINY, epochs=4)
    first = train(short, 3, tmp_path, progress=False)
    row = train(longer, 3, tmp_path, extend=True, progress=False)
    assert row["history"][:2] == first["history"] and len(row["history"]) == 4
    assert row["recipe"]["epochs"] == 4 and row["train_seconds"] > first["train_seconds"] > 0
    assert train(longer, 3, tmp_path, resume=True, progress=False) == json.loads(json.dumps(row)), "it is that run now"
    train(longer, 3, tmp_path / "at once", progress=False)
    saved, other = (checkpoints.load_checkpoint(path / "last.ckpt")[0] for path in (tmp_path, tmp_path / "at once"))
    assert saved["lr_schedulers"] == other["lr_schedulers"]
    groups = [each["optimizer_states"][0]["param_groups"][0] for each in (saved, other)]
    assert groups[0] == groups[1], "the learning rate of the longer run"


def test_a_run_that_lost_its_result_only_gets_it_again(whole, tmp_path):
    row = train(TINY, 3, tmp_path, progress=False)
    (tmp_path / "result.json").unlink()
    again = train(TINY, 3, tmp_path, resume=True, progress=False)
    assert again.pop("train_seconds") >= row.pop("train_seconds")
    assert again == row and row["operations"]


def test_another_test_set_for_a_finished_run(tmp_path):
    recipe = replace(TINY, epochs=1)
    row = train(recipe, 3, tmp_path, progress=False)
    more = train(recipe, 3, tmp_path, resume=True, also_test=["digits"], progress=False)
    found = more.pop("also_test")["digits"]
    assert more == json.loads(json.dumps(row)) and found["samples"] > TINY.test_limit
    assert json.loads((tmp_path / "result.json").read_text())["also_test"]["digits"] == found


def test_a_result_without_a_checkpoint(tmp_path):
    recipe = replace(TINY, epochs=1)
    row = train(recipe, 3, tmp_path, progress=False)
    (tmp_path / "last.ckpt").unlink()
    assert train(recipe, 3, tmp_path, resume=True, progress=False) == json.loads(json.dumps(row))
    with pytest.raises(FileNotFoundError, match="nothing to resume.*result.json there is of another run"):
        train(recipe, 4, tmp_path, resume=True, progress=False)
    with pytest.raises(FileExistsError, match=r"\(result.json\): lose it by overwrite"):
        train(recipe, 4, tmp_path, progress=False)


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


def test_git_is_not_waited_for(monkeypatch):
    def hang(command, *, timeout, **options):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    assert results.environment()["commit"] is None


def test_a_program_that_a_repository_names_is_not_started(tmp_path, monkeypatch):
    """git runs what core.fsmonitor says, here in a clone that is somebody's."""
    file = tmp_path / "clone" / "snntorch_bpsta" / "training" / "results.py"
    file.parent.mkdir(parents=True)
    file.write_text("")
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path / 'started'}\nexit 1\n")
    program.chmod(0o755)
    git = ["git", "-C", str(tmp_path / "clone"), "-c", "user.name=a", "-c", "user.email=a"]
    for arguments in (
        ["init", "-q"],
        ["add", "."],
        ["commit", "-q", "-m", "a"],
        ["config", "core.fsmonitor", str(program)],
    ):
        subprocess.run([*git, *arguments], check=True)
    monkeypatch.setattr(results, "__file__", str(file))
    assert results.environment()["commit"] and not (tmp_path / "started").exists()
    subprocess.run([*git, "describe", "--always", "--dirty"], check=True, capture_output=True)
    assert (tmp_path / "started").exists(), "git as it is would have started it"


def test_a_repository_around_the_package_is_not_asked(tmp_path, monkeypatch):
    """An installed package in somebody's project: the commit there says nothing of it."""
    installed = tmp_path / "project" / "lib" / "snntorch_bpsta" / "training" / "results.py"
    subprocess.run(["git", "init", "-q", tmp_path / "project"], check=True)
    monkeypatch.setattr(results, "__file__", str(installed))
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: pytest.fail("git was started"))
    assert results.environment()["commit"] is None
