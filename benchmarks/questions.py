"""The table of the questions. Each races competitors, or measures them one by one, and adds rows to its report."""

import contextlib
from dataclasses import replace

import torch

from .baseline import Baseline
from .calls import call, step
from .cold import cold
from .family import family
from .layer import fused, layer, neurons, time_steps
from .loops import loops
from .memory import memory
from .network import compile_, network
from .onm import onm
from .sparse import sparse
from .timing import Report

ANSWERS = {
    "layer": layer, "fused": fused, "family": family, "loops": loops, "network": network, "sparse": sparse, "onm": onm,
    "memory": memory, "time": time_steps, "neurons": neurons, "compile": compile_, "cold": cold, "step": step, "call": call,
}  # fmt: skip


def answer(names, settings):
    """Answer the questions `names`: print each table, write its CSV file, and a figure where asked.

    Raises:
        ValueError: a competitor of ours is wrong or failed; it is in the tables without a speed.
    """
    if settings.plot:
        import matplotlib  # noqa: F401, a missing one shows before the measuring

        from .figure import draw
    cuda = torch.cuda.is_available()
    if settings.device == "cuda" and not cuda:
        raise ValueError("--device cuda: there is no CUDA device")
    device = torch.device("cuda" if cuda and settings.device != "cpu" else "cpu")
    settings = replace(settings, device=device, rounds=min(settings.rounds, 3) if settings.quick else settings.rounds)
    torch.set_num_threads(settings.threads)
    wrong = []
    with contextlib.ExitStack() as stack:
        if settings.baseline:
            settings = replace(settings, baseline=stack.enter_context(Baseline(settings.baseline, settings)))
        for name in ANSWERS if "all" in names else names:
            report = Report(name, settings)
            ANSWERS[name](settings, report)
            print(report.table())
            print(f"rows: {report.file}")
            if settings.plot:
                print(f"figure: {draw(report)}")
            print(flush=True)
            wrong += report.wrong
    if wrong:
        raise ValueError("; ".join(wrong))
