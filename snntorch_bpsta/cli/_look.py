"""``bpsta recipes``, ``data``, ``info`` and ``bench``: what there is."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import platform
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from .._version import __version__
from ._options import add_data_root, add_download, fail, positive

_PACKAGES = "snntorch torch numpy numba triton lightning torchmetrics tensorboard torchvision tonic aedat scikit-learn"
_PACKAGES += " matplotlib neurobench nir"


def recipes_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", choices=("paper", "official_code"), default="paper", help="default: paper")
    parser.add_argument("--results", type=Path, help="folder of runs (default: results, if there is one)")


def show_recipes(arguments: argparse.Namespace) -> None:
    from ..training.paper import beside, paper_rows, runs_below

    runs, others = runs_below(arguments.results or Path("results"), must_exist=arguments.results is not None)
    print(beside(paper_rows(arguments.preset), runs))
    print("\nbpsta train --recipe ROW runs a row; every option of it may be changed, and then it is another one.")
    for path, why in others.items():
        print(f"bpsta: left out {path}: {why}", file=sys.stderr)


def data_options(parser: argparse.ArgumentParser) -> None:
    from ..data import DATASETS, folders

    add = parser.add_argument
    there = ", ".join((*DATASETS, folders.NAME))

    def dataset(name):
        if name not in (*DATASETS, folders.NAME):
            raise argparse.ArgumentTypeError(f"invalid choice: {name!r} (choose from {there})")
        return name

    add("names", nargs="*", type=dataset, metavar="NAME", help=f"default: all; {there}")
    add(
        "--frames", type=positive, metavar="T",
        help="count the events of recordings into T frames now, and keep them: a run with --num-steps T begins at once. "
        "Simulated recordings are filmed for it",
    )  # fmt: skip
    add_data_root(parser)
    add_download(parser)


def show_data(arguments: argparse.Namespace) -> int:
    from .. import data
    from ..training._tables import markdown

    if arguments.download and not arguments.names:
        raise ValueError("--download needs the names of data sets: bpsta data NAME --download")
    print(f"data: {data.data_dir(arguments.data_root)}\ncache of frames: {data.cache_dir()}\n")
    rows, missing = [], {}
    own = data.folders.NAME
    if own in arguments.names and arguments.frames:
        raise ValueError(f"--frames: those of {own!r} are counted by the first run, which knows --sensor-size")
    for name in arguments.names or (*data.DATASETS, own):
        if name == own:
            found = _found_own(arguments)
            if isinstance(found, Exception):
                missing[name], found = found, ["-", "-", data.folders.WHAT]
            rows.append([name, found[0], "-", *found[1:]])
            continue
        spec = data.DATASETS[name]
        found = _found(spec, arguments)
        if isinstance(found, Exception):
            missing[name] = found
        shape = " x ".join(map(str, spec.input_shape))
        samples = "-" if name in missing else " + ".join(f"{len(part):,}" for part in found)
        rows.append([name, samples, shape, str(spec.num_classes), spec.description])
    print(markdown(["data set", "train + test", "sample", "classes", "what it is"], rows))
    for name in arguments.names or []:
        if name not in missing and arguments.frames and data.DATASETS[name].kind == "event":
            for train in (True, False):
                data.load(name, train=train, num_steps=arguments.frames, root=arguments.data_root)
    if not arguments.names:
        if missing:
            print("\nbpsta data NAME says where a data set is looked for, and where to get it.")
        return 0
    for error in missing.values():
        fail(error)
    return 2 if missing else 0


def _found(spec, arguments):
    """The training part and the test part of a data set, or why they are not there."""
    from ..data import data_dir

    try:
        return [spec.loader(train, data_dir(arguments.data_root), bool(arguments.download)) for train in (True, False)]
    except (ImportError, OSError, ValueError) as error:
        return error


def _found_own(arguments):
    """Samples, number of classes and what they are, of recordings of one's own; or why they are not there."""
    from ..data import data_dir, folders

    try:
        if arguments.download:
            raise ValueError(f"--download: {folders.NAME!r} is {folders.WHAT}, which are nowhere to fetch")
        parts = [len(folders.find(data_dir(arguments.data_root), train).files) for train in (True, False)]
        found = folders.find(data_dir(arguments.data_root))
    except (OSError, ValueError) as error:
        return error
    names = ", ".join(found.classes[:8]) + (", ..." if len(found.classes) > 8 else "")
    samples = " + ".join(f"{part:,}" for part in parts)
    return samples, str(len(found.classes)), f"{folders.WHAT}: {names} ({Path(found.files[0].name).suffix.lower()})"


def info_options(parser: argparse.ArgumentParser) -> None:
    add_data_root(parser)


def show_info(arguments: argparse.Namespace) -> None:
    import torch

    from .. import data

    arguments.download = False
    lines = {"snntorch-bpsta": __version__}
    for package in _PACKAGES.split():
        try:
            lines[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            lines[package] = "not installed"
    lines["Python"] = f"{platform.python_version()} on {platform.platform()}"
    lines["CPU"] = f"{_cpu()}, {torch.get_num_threads()} thread(s) of torch, {os.cpu_count()} cores"
    lines["GPU"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none that torch sees"
    lines["kernels"] = ", ".join(
        _kernel(device) for device in ("cpu", "cuda") if device == "cpu" or torch.cuda.is_available()
    )
    lines["data"] = str(data.data_dir(arguments.data_root))
    lines["cache"] = str(data.cache_dir())
    found = [name for name, spec in data.DATASETS.items() if isinstance(_found(spec, arguments), list)]
    lines["data sets"] = ", ".join(found)
    for name, value in lines.items():
        print(f"{name:15} {value}")


def _cpu():
    """The processor's name, where the system tells it."""
    file = Path("/proc/cpuinfo")
    named = re.search(r"^model name\s*:\s*(.*)$", file.read_text(), re.MULTILINE) if file.is_file() else None
    return named[1] if named else platform.processor() or platform.machine()


def _kernel(device):
    """The implementation that a neuron has there: one is run."""
    import torch

    from ..layers import MultiStep
    from ..neurons import Leaky
    from ..telling import which

    net = MultiStep(Leaky(beta=0.9, spatial_adj=True)).to(device)
    return f"{which(net, torch.rand(4, 2, 8, device=device))['0']} (on {device})"


def run_bench(argv: Sequence[str]) -> int | None:
    """The benchmark of the clone that this package lies in; it is no part of the wheel."""
    root = Path(__file__).parents[2]
    if not (root / "benchmarks" / "__main__.py").is_file():
        raise FileNotFoundError(
            "the benchmark comes with the repository and not with the installed package: clone the repository, then "
            "`pip install --editable .` there and `bpsta bench` again, or `python -m benchmarks` in its root"
        )
    sys.path.insert(0, str(root))
    try:
        benchmark = importlib.import_module("benchmarks.__main__")
    finally:
        sys.path.remove(str(root))
    return benchmark.main(argv)
