"""Runs that are killed, told to stop, or out of room on the disk, and go on."""

import json
import signal

import pytest
import torch
from _runs import TINY, assert_same_weights, script, weights

from snntorch_bpsta.training import checkpoints
from snntorch_bpsta.training.recipes import RECIPES
from snntorch_bpsta.training.run import train


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run: its folder and its row."""
    folder = tmp_path_factory.mktemp("whole") / "a::b [1]"  # a path is a path
    return folder, train(TINY, 3, folder, progress=False)


# --- kills ----------------------------------------------------------------------------------------


def test_a_kill_inside_the_write_loses_nothing_of_the_epoch_before(whole, tmp_path):
    done = script(
        tmp_path,
        """
        fsync, files = os.fsync, []
        def killed(number):
            files.extend([number] if os.path.isfile(f"/proc/self/fd/{number}") else [])
            if len(files) == 4:  # the first was written to see whether the folder can be
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


COMMAND = ["train", "--seed=3"] + [
    f"--{name.replace('_', '-')}={value}" for name, value in TINY.as_dict().items()
    if value != getattr(RECIPES["digits"], name)
]  # fmt: skip
TOLD = """
step, validate = module.Classifier.training_step, module.Classifier.validation_step
def told(function, at, numbers):
    def telling(self, batch, batch_idx):
        out = function(self, batch, batch_idx)
        if (self.current_epoch, batch_idx) == at:
            for number in numbers:
                os.kill(os.getpid(), number)
        return out
    return telling
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize(
    ("where", "at", "done"),
    [("training_step", (2, 1), (2, 2)), ("training_step", (1, 2), (2, 0)), ("validation_step", (2, 0), (3, 0))],
    ids=["midst", "last_step", "measured"],
)
def test_a_signal_ends_with_its_code_and_the_run_goes_on_to_the_same_end(whole, tmp_path, number, where, at, done):
    run = script(
        tmp_path,
        f"""{TOLD}
module.Classifier.{where} = told(module.Classifier.{where}, {at}, [{int(number)}])
command = [*{COMMAND}, "--out", str(OUT)]
print("code", cli.main(command))
saved = torch.load(OUT / "last.ckpt", weights_only=True)["bpsta"]
print("done", (len(saved["history"]), saved.get("batches_done", 0)))
module.Classifier.training_step, module.Classifier.validation_step = step, validate
print("then", cli.main([*command, "--resume"]))
""",
    )
    assert f"code {128 + number}\n" in run.stdout and f"done {done}" in run.stdout and "then 0" in run.stdout, (
        run.stderr
    )
    assert f"{signal.Signals(number).name}: stopping at the end of this step" in run.stderr
    assert "go on with --resume" in run.stderr and "Traceback" not in run.stderr
    assert_same_weights(tmp_path / "run", weights(whole[0] / "last.ckpt"))
    row = json.loads((tmp_path / "run" / "result.json").read_text())
    assert row["history"] == whole[1]["history"] and row["operations"] == whole[1]["operations"]


def test_a_second_signal_stops_at_once(tmp_path):
    run = script(
        tmp_path,
        f"""{TOLD}
module.Classifier.training_step = told(step, (1, 0), [signal.SIGTERM] * 2)
print("code", cli.main([*{COMMAND}, "--out", str(OUT)]))
saved = torch.load(OUT / "last.ckpt", weights_only=True)["bpsta"]
print("done", len(saved["history"]), saved.get("batches_done"))
""",
    )
    assert "code 143" in run.stdout and "done 1 None" in run.stdout, run.stderr


def test_a_signal_goes_on_to_whoever_has_it(tmp_path):
    """In a script of one's own: as Python does without us."""
    told = TOLD + "\nmodule.Classifier.training_step = told(step, (0, 0), [{}])\nrun.train(TINY, 3, progress=False)"
    run = script(tmp_path, told.format(int(signal.SIGINT)))
    assert run.returncode != 0 and run.stderr.endswith("KeyboardInterrupt\n"), run.stderr
    run = script(tmp_path, told.format(int(signal.SIGTERM)))
    assert run.returncode == -signal.SIGTERM, run.stderr


@pytest.mark.parametrize("told", [0, 1])
def test_one_process_of_two_is_told_and_both_stop(tmp_path, told):
    """While the other one waits for the gradients of this one."""
    command = [*COMMAND, "--out", str(tmp_path / "run"), "--devices=2", "--accelerator=cpu"]
    text = f"""{TOLD}
def late(self, batch, batch_idx):
    time.sleep(0.5 * (self.current_epoch == 1))
    return step(self, batch, batch_idx)
if os.environ.get("LOCAL_RANK", "0") == "{told}":
    module.Classifier.training_step = told(late, (1, 0), [signal.SIGTERM])
sys.exit(cli.main({command}))
"""
    done = script(tmp_path, text)
    assert done.returncode == 143, done.stderr
    saved = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["bpsta"]
    assert (len(saved["history"]), saved["batches_done"], saved["processes"]) == (1, 1, 2)
    for folder, more in (("run", ["--resume"]), ("whole", [])):
        again = [*command, *more, "--out", str(tmp_path / folder)]
        done = script(tmp_path, f"sys.exit(cli.main({again}))")
        assert done.returncode == 0, done.stderr
    assert_same_weights(tmp_path / "run", weights(tmp_path / "whole" / "last.ckpt"))
