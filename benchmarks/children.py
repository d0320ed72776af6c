"""What a question does in a process of its own: ``python -m benchmarks.children TASK JSON`` prints JSON."""

import contextlib
import ctypes
import gc
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import torch

import snntorch_bpsta as snn

from .nets import middle_network


def _status(name):
    """A line of /proc/self/status in bytes."""
    return 1024 * int(re.search(rf"^{name}:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)[1])


def peak(variant, device, threads, batch, num_steps, width):
    """Bytes that one training step of `middle` adds at its highest: resident on the CPU, allocated on CUDA. Event frames,
    so that every variant computes every layer at every step."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    net = middle_network(variant, width, num_steps).to(device)
    frames = torch.rand(num_steps, batch, 3, 32, 32, device=device)
    labels = torch.randint(10, (batch,), device=device)

    def step(frames, labels):
        with snn.compress_spikes() if variant.endswith("compress_spikes") else contextlib.nullcontext():
            loss = torch.nn.functional.cross_entropy(net(frames).mean(0), labels)
        loss.backward()

    step(frames[:, :1].repeat(1, 2, 1, 1, 1), labels[:1].repeat(2))  # loads and compiles
    net.zero_grad(set_to_none=True)
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step(frames, labels)
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with contextlib.suppress(AttributeError):  # what a compiler has freed is given back, or it would serve the step
        ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again
    before = _status("VmRSS")
    step(frames, labels)
    return _status("VmHWM") - before


def child(task, **options):
    """What `task` of this module returns, from a process of its own."""
    return json.loads(python(["-m", "benchmarks.children", task, json.dumps(options)]))


def python(arguments, env=None):
    """The last line that Python prints."""
    env = {**os.environ, **(env or {})}
    env["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(Path(__file__).resolve().parent.parent), env.get("PYTHONPATH")])
    )
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=env)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    return done.stdout.splitlines()[-1]


if __name__ == "__main__":
    print(json.dumps({"peak": peak}[sys.argv[1]](**json.loads(sys.argv[2]))))
