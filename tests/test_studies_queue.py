"""A study as a queue: workers that are killed, a parent that is, two commands at one file."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from _runs import TINY, train_alone

from snntorch_bpsta.training.studies import RunsFailed, study

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs signals of POSIX")
PREAMBLE = f"""
import os, signal, sys, time
from dataclasses import replace
from pathlib import Path
from snntorch_bpsta.training import Recipe
from snntorch_bpsta.training.studies import RunsFailed, STUDIES, study
TINY, HERE = Recipe(**{TINY.as_dict()}), Path(__file__).parent

def row(recipe, seed):
    with open(HERE / "done.txt", "a") as file:
        file.write(f"{{recipe.spatial_adj}}{{recipe.temporal_alpha}}-{{seed}}\\n")
    history = [{{"epoch": 0, "warm_up": None, "test_accuracy": 0.5, "firing_rate": 0.1, "firing_rates": {{}}}}]
    return {{"recipe": recipe.as_dict(), "seed": seed, "accuracy": 0.5, "firing_rate": 0.1, "history": history,
            "train_seconds": 1.0}}

def run(jobs, seeds=range(2)):
    STUDIES["compare"] = replace(STUDIES["compare"], measure=measure)
    return study("compare", TINY, seeds, HERE / "runs.json", jobs=jobs)
"""


def start(folder, text):
    path = folder / "script.py"
    path.write_text(PREAMBLE + textwrap.dedent(text))
    return subprocess.Popen(
        [sys.executable, path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder
    )


def end(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def until(what, seconds=120):
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_two_commands_at_one_file_share_the_runs_out(tmp_path):
    text = """
        def measure(runs, seed, folder, **options):
            ((key, recipe),) = runs.items()
            time.sleep(0.3)
            return {key: row(recipe, seed)}

        if __name__ == "__main__":
            run(jobs=1, seeds=range(3))
        """
    for code, _, err in map(end, [start(tmp_path, text) for _ in range(2)]):
        assert code == 0, err
    rows = json.loads((tmp_path / "runs.json").read_text())["runs"]
    done = (tmp_path / "done.txt").read_text().split()
    assert len(rows) == len(done) == len(set(done)) == 9, "each once"
    assert {(each["variant"], each["seed"]) for each in rows} == {
        (variant, seed) for variant in ("baseline", "bpsa", "bpsa+bpta") for seed in range(3)
    }
    assert not [path for path in tmp_path.iterdir() if "lock" in path.name or "unfinished" in path.name]


def test_a_worker_that_is_killed_costs_its_run_alone(tmp_path):
    text = """
        def measure(runs, seed, folder, **options):
            ((key, recipe),) = runs.items()
            if key[1] == "bpsa" and seed == 0 and not (HERE / "killed").exists():
                (HERE / "killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return {key: row(recipe, seed)}

        if __name__ == "__main__":
            try:
                run(jobs=2)
            except RunsFailed as error:
                print("FAILED", len(error.rows), error)
        """
    code, out, err = end(start(tmp_path, text))
    assert code == 0 and "FAILED 5 1 run has failed: its process was ended by SIGKILL" in out, err
    content = json.loads((tmp_path / "runs.json").read_text())
    (failed,) = content["failed"]
    assert (failed["variant"], failed["seed"], len(content["runs"])) == ("bpsa", 0, 5) and "memory" in failed["error"]
    code, out, err = end(start(tmp_path, text))
    assert code == 0 and "FAILED" not in out, err
    assert len(json.loads((tmp_path / "runs.json").read_text())["runs"]) == 6


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
def test_workers_end_with_the_one_that_started_them(tmp_path):
    text = """
        def measure(runs, seed, folder, **options):
            (HERE / f"pid-{os.getpid()}").touch()
            time.sleep(600)

        if __name__ == "__main__":
            run(jobs=2)
        """
    process = start(tmp_path, text)
    until(lambda: len([*tmp_path.glob("pid-*")]) == 2)
    pids = [int(path.name.removeprefix("pid-")) for path in tmp_path.glob("pid-*")]
    assert all(map(is_alive, pids))
    process.kill()
    process.wait()  # and not for the pipes, which the workers hold open as long as they live
    process.stdout.close()
    process.stderr.close()
    try:
        until(lambda: not any(map(is_alive, pids)), 30)
    finally:
        for pid in filter(is_alive, pids):
            os.kill(pid, signal.SIGKILL)


def test_a_run_goes_on_from_its_own_checkpoint(tmp_path):
    """Killed in the midst of a run, by the hardest signal, and started again: the row is that of a run alone."""
    text = """
        if __name__ == "__main__":
            import torch
            torch.set_num_threads(1)
            study("ablation", TINY, [3], HERE / "runs.json", jobs=1, say=lambda line: print(line, flush=True))
        """
    process = start(tmp_path, text)
    until(lambda: [*tmp_path.glob("runs.unfinished/*/last.previous.ckpt")])
    process.send_signal(signal.SIGKILL)
    process.communicate()
    left = [*tmp_path.glob("runs.unfinished/*/last*.ckpt")]
    assert left, "killed too late"
    before = {path: path.stat().st_mtime_ns for path in left}
    code, _, err = end(start(tmp_path, text))
    assert code == 0, err
    assert before and not (tmp_path / "runs.unfinished").exists()
    rows = json.loads((tmp_path / "runs.json").read_text())["runs"]
    assert [each["variant"] for each in rows] == ["baseline", "bpsa", "bpta", "bpsa+bpta"]
    alone = train_alone(TINY.variant("baseline"), 3)
    assert rows[0]["history"] == json.loads(json.dumps(alone["history"]))


def test_a_study_of_runs_that_fail_says_so_at_the_end(tmp_path):
    recipe = TINY.variant("baseline")
    with pytest.raises(RunsFailed, match="3 runs have failed: FileNotFoundError.*Start the same again"):
        study("compare", recipe.__class__(**{**recipe.as_dict(), "dataset": "nmnist"}), [0], tmp_path / "runs.json",
              data_root=tmp_path, say=lambda line: None)  # fmt: skip
