"""Seconds from a new process to the first result."""

import tempfile
import time

from . import peers
from .children import python
from .contest import add_all, noted
from .timing import percentiles

_SPAWN = "import sys, time; begin = float(sys.argv[1]); "  # the parent's clock, so that the interpreter's start counts
_SYNAPTIC = {**peers.PAPER, "alpha": 0.8, "reset_mechanism": "subtract"}
_CALLS = {
    "lif_multistep": f"snn.functional.lif_multistep(x, **{peers.PAPER!r}).spk",
    "Leaky": f"snn.Leaky(**{peers.PAPER!r}).to(x.device).sequence(x)[0]",
    "Synaptic": f"snn.Synaptic(**{_SYNAPTIC!r}).to(x.device).sequence(x)[0]",
}


def cold(settings, report):
    repeats = 1 if settings.quick else min(settings.rounds, 5)
    for library in ("torch", "snntorch", "snntorch_bpsta"):
        _seconds(report, "import", library, repeats, f"import {library}; print(time.time() - begin)")
    for name, call in _CALLS.items():
        script = (
            "import torch, snntorch_bpsta as snn; torch.set_num_threads(1); "
            f"x = torch.rand(16, 8, 128, device={settings.device.type!r}, requires_grad=True); called = time.time(); "
            f"{call}.sum().backward(); float(x.grad.sum()); end = time.time(); print(end - begin, end - called)"
        )
        case = f"first result of {name}"
        if name == "lif_multistep":
            with tempfile.TemporaryDirectory() as cache:
                _seconds(report, case, "compiled before", repeats, script, lambda folder=cache: folder, discard=1)
        with tempfile.TemporaryDirectory() as caches:
            _seconds(report, case, "empty cache", min(repeats, 3), script, lambda: tempfile.mkdtemp(dir=caches))  # noqa: B023


def _seconds(report, case, name, repeats, script, cache=None, discard=0):
    """`script` prints the seconds since its process began and, if it calls, those of the first call; `cache()` is the folder
    that its kernels are cached in."""
    notes, seconds, calls = {}, [], []
    with noted(notes, name):
        for _ in range(repeats + discard):
            folder = cache and cache()
            caches = {"NUMBA_CACHE_DIR": f"{folder}/numba", "TRITON_CACHE_DIR": f"{folder}/triton"} if cache else {}
            total, *call = map(float, python(["-c", _SPAWN + script, repr(time.time())], caches).split())
            seconds.append(total)
            calls += call
        p20, p50, p80 = percentiles(seconds[discard:])
        columns = {"p20_s": p20, "p50_s": p50, "p80_s": p80, "rounds": repeats}
        if calls:
            columns["first_call_s"] = percentiles(calls[discard:])[1]
        report.add(case, name, **columns)
    add_all(report, case, {}, {}, notes)
