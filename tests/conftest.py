"""What the tests share, and the option that writes down what they show on which versions."""

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
from collections import Counter
from pathlib import Path

import pytest
import snntorch
import torch
from _features import FEATURES, feature
from _slow import is_slow

OUTCOMES = ("passed", "skipped", "failed")  # of a test's phases the last of these counts
LIBRARIES = ("torch", "snntorch", "numpy", "numba", "triton", "hypothesis", "lightning", "nir", "neurobench", "onnx")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An own cache folder, no data folder in the environment, and no network."""

    def no_network(*args, **kwargs):
        raise AssertionError("a download was started without download=True")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    monkeypatch.delenv("SNNTORCH_BPSTA_DATA", raising=False)
    monkeypatch.setenv("SNNTORCH_BPSTA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """An empty data folder and cache, and no network."""

    def no_network(*args, **kwargs):
        raise AssertionError("a download was started")

    folder = tmp_path_factory.mktemp("empty")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("urllib.request.urlopen", no_network)
        patch.delenv("SNNTORCH_BPSTA_DATA", raising=False)
        patch.setenv("SNNTORCH_BPSTA_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="session")
def real(request, tmp_path_factory):
    """``real("NMNIST", ...)``: a data folder with the real data of these, unpacked once; skips where there is none."""
    from layouts import source, unpack

    keeps = hasattr(request.config, "cache")  # pytest's folder for what outlives a session
    target = Path(request.config.cache.mkdir("real-data")) if keeps else tmp_path_factory.mktemp("real-data")

    def folder(*names):
        for name in names:
            if not (source() / name).is_dir():
                pytest.skip(f"the real {name} is not in {source()}")
        return unpack(source(), target, names)

    return folder


@pytest.fixture(autouse=True)
def same_random_numbers():
    """Weights and inputs that a test draws are the same in every run."""
    torch.default_generator.manual_seed(0)  # (torch.manual_seed looks for devices as well, which takes far longer)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if is_slow(item.nodeid):
            item.add_marker(pytest.mark.slow)


# --- pytest --compatibility FILE ------------------------------------------------------------------


def pytest_addoption(parser):
    parser.addoption("--compatibility", metavar="FILE", help="write versions and outcomes by feature to FILE (JSON)")


def pytest_configure(config):
    torch.set_num_threads(1)  # small tensors are slower with more; tests of several threads ask for them
    os.environ["OMP_NUM_THREADS"] = "1"  # the same in processes that tests start: sums are then equal to the bit
    file = config.getoption("--compatibility")
    if file and not hasattr(config, "workerinput"):  # of pytest-xdist's processes only the first sees everything
        config.pluginmanager.register(Recorder(Path(file).resolve()))


class Recorder:
    """Notes the outcome of every test, and of every module that could not be collected."""

    def __init__(self, file):
        self.file, self.outcomes, self.reasons = file, {}, {}

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or not report.passed:
            before = self.outcomes.get(report.nodeid, OUTCOMES[0])
            self.outcomes[report.nodeid] = max(before, report.outcome, key=OUTCOMES.index)
        if report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.wasxfail
            self.reasons[report.nodeid] = reason.removeprefix("Skipped: ")

    def pytest_collectreport(self, report):
        if not report.passed:
            report.when = "collect"
            self.pytest_runtest_logreport(report)

    def pytest_sessionfinish(self):
        features = {name: {**dict.fromkeys(OUTCOMES, 0), "reasons": Counter()} for name in (*FEATURES, None)}
        for nodeid, outcome in sorted(self.outcomes.items()):
            row = features[feature(nodeid)]
            row[outcome] += 1
            if outcome == "skipped":
                row["reasons"][self.reasons[nodeid]] += 1
        rows = {name or "Other": row for name, row in features.items() if any(row.values())}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps({**environment(), "features": rows}, indent=1) + "\n", encoding="utf-8")


def environment():
    """What the tests ran on and with."""
    here = {"cwd": Path(__file__).parent, "capture_output": True, "text": True}
    commit = subprocess.run(["git", "rev-parse", "HEAD"], **here)
    versions = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            versions[library] = None
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "commit": commit.stdout.strip() or None,
        "platform": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "versions": versions,
    }


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    """snnTorch's list of all neurons holds those of one test, and lets go of them afterwards."""
    monkeypatch.setattr(snntorch.SpikingNeuron, "instances", [])
