"""What is written down of a run."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
import snntorch
import torch

from .. import energy
from .._files import write_whole
from .._version import __version__

if TYPE_CHECKING:
    from .._typing import Result
    from .module import Classifier

__all__: list[str] = []


def result_row(model: Classifier, trainer: L.Trainer) -> Result:
    """What is written down of a run: its recipe and seed, its curve, its last epoch, and where it ran."""
    last = model.history[-1]
    rate = last["firing_rate"]
    steps = model.recipe.num_steps
    return {
        "recipe": model.recipe.as_dict(),
        "seed": model.seed,
        "accuracy": last["test_accuracy"],
        "firing_rate": rate,
        "firing_rates": last["firing_rates"],
        "silent_layers": [layer for layer, firing in (last["firing_rates"] or {}).items() if not firing],
        "energy_ratio": None if rate is None else energy.energy_ratio(rate, steps),
        "energy_ratio_fp32_ac": None if rate is None else energy.energy_ratio(rate, steps, energy.E_AC_FP32_PJ),
        **counted(model),
        "train_seconds": round(model._duration(), 2),
        "history": model.history,
        "precision": str(trainer.precision),
        "processes": trainer.world_size,
        **environment(),
    }


def counted(model: Classifier) -> Result:
    """What the last measurement counted: operations per sample by layer, and the energy ratios they give."""
    operations, samples = model._operations, model._samples
    if not operations or (model.history and model.history[-1]["firing_rate"] is None):
        return {"operations": None, "energy_ratio_counted": None, "energy_ratio_counted_fp32_ac": None}
    return {
        "operations": {
            name: {"dense": layer["dense"], "ac": layer["ac"] / samples, "mac": layer["mac"] / samples}
            for name, layer in operations.items()
        },
        "energy_ratio_counted": operations.energy_ratio(samples),
        "energy_ratio_counted_fp32_ac": operations.energy_ratio(samples, energy.E_AC_FP32_PJ),
    }


def environment() -> Result:
    """Versions, device, commit and command, for a results file."""
    return {
        "versions": {
            "snntorch_bpsta": __version__,
            "snntorch": snntorch.__version__,
            "torch": torch.__version__,
            "lightning": L.__version__,
            "python": platform.python_version(),
        },
        "device": device_name(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
        "commit": _commit(),
        "command": " ".join(["bpsta", *sys.argv[1:]]),
    }


def device_name(device: torch.device) -> str:
    """What `device` is, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s) of {os.cpu_count()} cores"


def _commit():
    """The commit of the clone that this package lies in; None where there is none, or git does not answer. A repository
    around it is another project's, and none of its programs is started."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    git = ["git", "-c", "core.fsmonitor=", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(git, capture_output=True, text=True, timeout=10, check=True).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def write_json(path: Path, value: Any) -> None:
    """Write `value` whole or not at all. JSON has no infinity and no NaN: they become null."""
    write_whole(path, [(json.dumps(_finite(value), indent=1, allow_nan=False) + "\n").encode()])


def _finite(value):
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
