"""Runs small enough for tests, and processes that run them."""

import os
import signal
import subprocess
import sys
import textwrap
from typing import Any

import torch

from snntorch_bpsta.training import Recipe
from snntorch_bpsta.training.run import train

TINY = Recipe(
    dataset="digits", width=1 / 16, num_steps=2, epochs=4, batch_size=32, lr_warm_up_epochs=1, warm_up="none", limit=96,
    test_limit=32,
)  # fmt: skip
PATIENCE = 600  # seconds for a process that hangs; the longest takes one or two minutes
ELSEWHERE = "/dev/shm"  # another file system than that of the tests' folders


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


def assert_same_weights(folder, expected):
    found = weights(folder / "last.ckpt")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name


def script(folder, text, **environment):
    """Run `text` in a process of its own, behind a preamble, with TMPDIR on another file system."""
    path = folder / "script.py"
    preamble = f"""
        import os, random, resource, signal, sys, time
        from dataclasses import replace
        from pathlib import Path
        import torch
        from snntorch_bpsta import cli
        from snntorch_bpsta.training import Recipe, module, run
        torch.set_num_threads(1)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, if the tests run in the background
        TINY, OUT = Recipe(**{TINY.as_dict()}), Path({str(folder / "run")!r})
    """
    path.write_text(textwrap.dedent(preamble) + textwrap.dedent(text))
    if os.path.isdir(ELSEWHERE):
        environment["TMPDIR"] = ELSEWHERE
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(
        [sys.executable, path], env=os.environ | environment, start_new_session=True, **pipes
    ) as process:
        try:
            out, err = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with its children: they wait for one another for half an hour
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def train_alone(recipe, seed):
    """The row of a run with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return train(recipe, seed, progress=False)
    finally:
        torch.set_num_threads(threads)
