"""Another checkout of this repository in the same rounds: ``--baseline PATH``.

One process cannot import two versions of a package. A helper process imports the other one, builds what :mod:`.ours` builds
here, and times one round of it whenever it is asked to, over a pipe.
"""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import torch

ROW = "baseline"  # its name as a competitor
# This package comes from here, snntorch_bpsta from there.
_START = (
    "import sys; sys.path[0] = sys.argv[1]; import benchmarks; sys.path[0] = sys.argv[2]; "
    "from benchmarks.baseline import serve; serve()"
)


class Baseline:
    """The helper process, from outside."""

    def __init__(self, path, settings):
        self.path, self.settings = Path(path).resolve(), settings
        if not (self.path / "snntorch_bpsta" / "__init__.py").is_file():
            raise ValueError(f"--baseline takes a checkout of this repository, and {path} has no folder snntorch_bpsta")
        root = Path(__file__).resolve().parent.parent
        command = [sys.executable, "-W", "ignore", "-c", _START, str(root), str(self.path)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        version, package = self._ask("hello", threads=settings.threads)
        if Path(package).parent.parent != self.path:
            raise ValueError(f"--baseline {path}: the package was imported from {package}")
        git = ["git", "-C", self.path, "describe", "--always", "--dirty"]
        done = subprocess.run(git, capture_output=True, text=True)
        self.commit = version if done.returncode else done.stdout.strip()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()

    def start(self, shape):
        """The current of the turns to come; those before are forgotten."""
        self._ask("start", shape=shape, device=self.settings.device.type, seed=self.settings.seed)

    def add(self, name, way, *, gain=1, **options):
        """Build a competitor for currents that are `gain` times as large: its turn, and the columns that say what it did."""
        rate = self._ask("add", name=name, way=way, gain=gain, options=options)
        return _There(self, name), {"rate": rate}

    def own_calls(self, name):
        return self._ask("own_calls", name=name)

    def _ask(self, task, **arguments):
        try:
            print(json.dumps([task, arguments]), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise ConnectionError(f"the process of the baseline ended with exit code {self.process.wait()}")
        reply = json.loads(line)
        if "error" in reply:
            raise ValueError(f"the baseline: {reply['error']}")
        return reply["answer"]


class _There:
    """A turn that runs in the helper process."""

    prepare = None

    def __init__(self, baseline, name):
        self.baseline, self.name = baseline, name

    def ms(self, device, number=1):
        return self.baseline._ask("ms", name=self.name, number=number)


class _Helper:
    """What the helper process can be asked."""

    def hello(self, threads):
        import snntorch_bpsta

        torch.set_num_threads(threads)
        return snntorch_bpsta.__version__, snntorch_bpsta.__file__

    def start(self, shape, device, seed):
        from .ours import current

        self.device, self.runs, self.turns = torch.device(device), {}, {}
        self.x, self.grad = current(shape, self.device, seed=seed)

    def add(self, name, way, gain, options):
        from .ours import WAYS, scaled, training_turn

        run, x = WAYS[way](self.device, **options), self.x if gain == 1 else scaled(self.x, gain)
        self.runs[name], self.turns[name] = run, training_turn(run, x, self.grad)
        return float(run(x).detach().mean())

    def ms(self, name, number):
        return self.turns[name].ms(self.device, number)

    def own_calls(self, name):
        from .ours import own_calls

        return own_calls(self.runs[name], self.x)


def serve():
    """Answer the lines of the standard input until it ends. What a library prints goes to the errors."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    helper = _Helper()
    for line in sys.stdin:
        task, arguments = json.loads(line)
        try:
            reply = {"answer": getattr(helper, task)(**arguments)}
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=answers, flush=True)
