"""What one sees while a command runs: a header, a line an epoch, a bar on a terminal. Nothing of it on standard output."""

import io
import json
import os
import re
import select
import signal
import sys
import time
import warnings
from dataclasses import replace

import pytest
import torch

for library in ("lightning", "torchmetrics", "tensorboard", "sklearn", "matplotlib", "tqdm"):
    pytest.importorskip(library, reason=f"{library} (extra: train or plots) is missing")

from _runs import TINY, assert_same_weights, weights  # noqa: E402

from snntorch_bpsta import _progress, cli  # noqa: E402
from snntorch_bpsta._progress import Progress, follow  # noqa: E402
from snntorch_bpsta.training.recipes import RECIPES  # noqa: E402
from snntorch_bpsta.training.run import train  # noqa: E402
from snntorch_bpsta.training.studies import workers  # noqa: E402

OPTIONS = [
    f"--{name.replace('_', '-')}={value}" for name, value in TINY.as_dict().items()
    if value != getattr(RECIPES["digits"], name)
]  # fmt: skip
LONGER = [*OPTIONS, "--epochs=40", "--accelerator=cpu"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def at_a_terminal(monkeypatch):
    """From here on standard error is a terminal; what is written to it. (No fixture: pytest would put its own there.)"""
    found = Terminal()
    monkeypatch.setattr(sys, "stderr", found)
    return found


# --- a bar, or lines ------------------------------------------------------------------------------


def test_a_bar_on_a_terminal_and_lines_above_it(monkeypatch):
    terminal = at_a_terminal(monkeypatch)
    with Progress("training", "batches") as progress:
        progress.at(2, 8)
        progress.say("epoch 1")
        progress.at(8, 8)
    out = terminal.getvalue()
    assert "training:  25%|" in out and "2/8" in out and re.search(r"(\r|\n|\x1b\[A)epoch 1\n", out)
    assert out.rstrip("\r").endswith("\r" + " " * (len(out.rstrip("\r")) - out.rstrip("\r").rfind("\r") - 1)), "it goes"


def test_a_bar_stands_where_the_work_does(monkeypatch):
    terminal = at_a_terminal(monkeypatch)
    with Progress("training", "batches") as progress:
        for done in (2, 4, 5, 7):
            progress.at(done, 8)
            progress.say("a line, below which the bar is drawn anew")
    assert [*dict.fromkeys(re.findall(r"\d+/8", terminal.getvalue()))] == ["2/8", "4/8", "5/8", "7/8"]


def test_lines_with_the_time_left_where_there_is_no_terminal(capsys, monkeypatch):
    clock = iter([0, 10, 10, 30, 70, 70, 70, 100, 100])
    monkeypatch.setattr(_progress.time, "monotonic", lambda: next(clock))
    with Progress("training", "batches") as progress:  # 0
        progress.at(4, 8)  # begins at 10, and looks at 10
        progress.at(5, 8)  # 30: no minute since the last line
        progress.at(6, 8)  # 70: two batches here took a minute
        progress.say("the end")  # at 100: 90 s for two
    out, err = capsys.readouterr()
    assert out == "" and err == "training: 6 of 8 batches, 0:01:00 left\nthe end, 0:01:30 left\n"


def test_what_is_followed_comes_as_it_is(monkeypatch):
    terminal = at_a_terminal(monkeypatch)
    assert [*follow(iter("abc"), 3, "films", "recordings")] == ["a", "b", "c"]
    assert terminal.getvalue() == "", "no bar for what takes no time"
    original = Progress.__init__
    monkeypatch.setattr(Progress, "__init__", lambda self, *args, delay: original(self, *args))
    slowly = (time.sleep(0.15) or letter for letter in "abc")
    assert [*follow(slowly, 3, "films", "recordings")] == ["a", "b", "c"]
    assert "films" in terminal.getvalue() and "1/3" in terminal.getvalue()


def test_without_tqdm_there_are_lines(monkeypatch):
    terminal = at_a_terminal(monkeypatch)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with Progress("training", "batches") as progress:
        progress.at(0, 8)
        progress.say("a line")
    assert terminal.getvalue() == "a line\n"


# --- train ----------------------------------------------------------------------------------------


def test_train_says_what_it_does_on_standard_error(tmp_path, capsys):
    assert cli.main(["train", *OPTIONS, "--seed=3", "--accelerator=cpu", "--out", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    head = dict(line.split(maxsplit=1) for line in err.splitlines() if not line.startswith("epoch"))
    assert head["run"] == f"digits, bpsa+bpta, seed 3, in {tmp_path}"
    assert head["data"].startswith("96 samples to train on, 32 to test on, 1 x 8 x 8, 10 classes")
    count = sum(parameter.numel() for parameter in TINY.build_network().parameters())
    assert head["network"].startswith("small x 0.0625 (128C3-") and head["network"].endswith(f"{count:,} parameters")
    assert head["training"] == "4 epochs of 3 batches of 32, lr 0.001"
    assert head["device"].endswith(", 32-true") and "CPU" in head["device"]
    assert re.search(r"(cpu|reference)[^;]* \([\d., ]*11\)", head["kernels"]), "of the last neuron too"
    lines = [line for line in err.splitlines() if line.startswith("epoch")]
    history = json.loads((tmp_path / "result.json").read_text())["history"]
    assert len(lines) == len(history) == 4
    for line, epoch in zip(lines, history, strict=True):
        assert f"test accuracy {100 * epoch['test_accuracy']:.2f} %" in line
        assert f"loss {epoch['train_loss']:.4f}," in line and f"firing rate {epoch['firing_rate']:.4f}" in line
    assert [line.endswith(" left") for line in lines] == [True, True, True, False]
    assert "epoch" not in out and "samples" not in out and out.startswith("test accuracy")


@pytest.mark.parametrize("kind", ["shown", "told"])
def test_a_run_that_is_watched_is_the_same_run(kind, tmp_path):
    told = []
    alone = train(TINY, 3, tmp_path / "alone", progress=False)
    watched = train(TINY, 3, tmp_path / "watched", progress=True if kind == "shown" else told.append)
    assert_same_weights(tmp_path / "watched", weights(tmp_path / "alone" / "last.ckpt"))
    assert watched["history"] == alone["history"] and (kind == "shown" or told == alone["history"])


def test_what_went_before_is_not_told_again(tmp_path):
    short = replace(TINY, epochs=2)
    train(short, 3, tmp_path, progress=False)
    told = []
    row = train(TINY, 3, tmp_path, extend=True, progress=told.append)
    assert told == row["history"][2:]


def test_a_wrong_progress():
    with pytest.raises(TypeError, match="progress must be True or False"):
        train(TINY, progress="bar")


# --- a real terminal, a real Ctrl-C ---------------------------------------------------------------


class Shell:
    """`bpsta` at a pseudo-terminal, which is its controlling one; standard output goes to a file."""

    def __init__(self, out, *argv):
        import fcntl
        import pty
        import struct
        import termios

        self.text = ""
        self.pid, self.master = pty.fork()
        if not self.pid:
            fcntl.ioctl(2, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 120, 0, 0))
            os.dup2(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
            signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, if the tests run in the background
            os.execv(sys.executable, [sys.executable, "-m", "snntorch_bpsta", *map(str, argv)])

    def until(self, word, seconds=120):
        """Read until `word` has come, or the end."""
        end = time.monotonic() + seconds
        while word is None or word not in self.text:
            assert time.monotonic() < end, self.text
            if select.select([self.master], [], [], 1)[0]:
                try:
                    read = os.read(self.master, 4096)
                except OSError:  # Linux: the other end is closed
                    read = b""
                if not read:
                    assert word is None, self.text
                    break
                self.text += read.decode(errors="replace")

    def type(self, key):
        os.write(self.master, key)

    def end(self):
        """The exit code."""
        self.until(None)
        os.close(self.master)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


needs_a_terminal = pytest.mark.skipif(
    not hasattr(os, "fork") or sys.platform != "linux", reason="needs a pseudo-terminal"
)


@needs_a_terminal
def test_ctrl_c_at_a_terminal_and_on_to_the_end(tmp_path):
    """The bar is seen; Ctrl-C, as typed, ends the run with its code; --overwrite begins anew, and is stopped too."""
    run, out = tmp_path / "run", tmp_path / "out.txt"
    shell = Shell(out, "train", *LONGER, "--out", run)
    shell.until("epoch  2/40")
    shell.type(b"\x03")
    assert shell.end() == 128 + signal.SIGINT and "go on with --resume" in shell.text
    assert "SIGINT: stopping at the end of this step" in shell.text and "Traceback" not in shell.text
    assert re.search(r"training: +\d+%\|.*\d+/160 ", shell.text), "40 epochs of 3 batches and 1 of the test set"
    assert out.read_text() == "", "no result yet, and nothing of the bar"
    first = torch.load(run / "last.ckpt", weights_only=True)["bpsta"]["history"]
    assert 1 <= len(first) < 40  # the signal came in the midst: neither before the first epoch's end nor after the last

    shell = Shell(out, "train", *LONGER, "--lr=0.01", "--overwrite", "--out", run)
    shell.until("epoch  1/40")
    shell.type(b"\x03")
    assert shell.end() == 130
    saved = torch.load(run / "last.ckpt", weights_only=True)["bpsta"]
    assert saved["recipe"]["lr"] == 0.01 and saved["history"][0] != first[0] and not (run / "result.json").exists()


# --- studies --------------------------------------------------------------------------------------


def test_a_worker_tells_how_far_it_is():
    heard = []
    with workers.Workers(1, 1) as pool:
        pool.begin("a", workers.report, 3)
        assert pool.wait(lambda *news: heard.append(news)) == ("a", None)
    assert heard == [("a", 3)] and workers.report(3) is None, "nobody to be told here"


def test_a_warning_of_a_worker_is_a_line(capfd):
    """Without the path of the package, among the lines of the runs."""
    with workers.Workers(1, 1) as pool:
        pool.begin("a", warnings.warn, "slow")
        assert pool.wait(lambda *news: None) == ("a", None)
    assert capfd.readouterr().err == "warning: slow\n"


@needs_a_terminal
def test_one_bar_over_the_epochs_of_all_runs(tmp_path):
    out, text = tmp_path / "runs.json", tmp_path / "out.txt"
    options = [option for option in OPTIONS if "temporal" not in option and "spatial" not in option]
    shell = Shell(text, "compare", *options, "--accelerator=cpu", "--seeds=1", "--out", out)
    assert shell.end() == 0, shell.text
    assert "/12 " in shell.text and re.search(r"compare: +\d+%\|.*[1-37]/12 ", shell.text), "in the midst of a run"
    assert len(re.findall(r"seed 0: accuracy", shell.text)) == 3
    assert "seed 0" not in text.read_text() and "| baseline" in text.read_text()
