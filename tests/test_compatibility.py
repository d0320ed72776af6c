"""The host's versions, and the compatibility page: every test counts for a feature, and the tables are what the runs say."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from _features import FEATURES, WORDS, feature

from snntorch_bpsta import _snntorch

HERE = Path(__file__).parent
ROOT = HERE.parent
CONF = ROOT / "docs" / "conf.py"
needs_docs = pytest.mark.skipif(not CONF.exists(), reason="the docs are not part of this distribution")


# --- the host's version ---------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["0.9.4", "0.9.4.post1", "0.10", "1.0.0", "1", "1.2.3.dev4+gabc", "unknown", ""])
def test_supported(version):
    assert _snntorch.supported(version)


@pytest.mark.parametrize("version", ["0.9.3", "0.9", "0.0.1", "2.0.0", "2", "2.0.0rc1", "10.0"])
def test_not_supported(version):
    assert not _snntorch.supported(version)


def test_the_range_is_that_of_the_installation():
    assert re.search(r"snntorch>=0\.9\.4,<2$", (ROOT / "setup.cfg").read_text(encoding="utf-8"), re.MULTILINE)
    assert (_snntorch.OLDEST, _snntorch.BEYOND) == ((0, 9, 4), (2,))


@pytest.mark.parametrize(
    "host, told",
    [
        ("__version__ = '0.9.1'", "needs snntorch>=0.9.4,<2, but snntorch 0.9.1 is installed"),
        ("__version__ = '2.0.0'", "needs snntorch>=0.9.4,<2, but snntorch 2.0.0 is installed"),
        (None, "needs snntorch>=0.9.4,<2, which is not installed"),
        ("import a_library_that_is_missing", "No module named 'a_library_that_is_missing'"),
    ],
    ids=["too old", "too new", "missing", "broken"],
)
def test_import_with_another_host(host, told, tmp_path):
    if host is not None:
        (tmp_path / "snntorch.py").write_text(host)
    find = "raise ModuleNotFoundError(name='snntorch')" if host is None else "return None"
    code = f"""
import sys
class Finder:
    def find_spec(name, path=None, target=None):
        if name == "snntorch": {find}
sys.meta_path.insert(0, Finder)
sys.path[:0] = [{str(tmp_path)!r}, {str(Path(_snntorch.__file__).parent.parent)!r}]
import snntorch_bpsta
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and told in done.stderr.splitlines()[-1], done.stderr
    assert done.stderr.splitlines()[-1].split(":")[0] in ("ImportError", "ModuleNotFoundError")


# --- tests and features ---------------------------------------------------------------------------


def test_every_test_file_has_a_feature():
    assert [path.name for path in HERE.glob("test_*.py") if feature(f"tests/{path.name}::test_") is None] == []


@pytest.mark.parametrize("name", FEATURES)
def test_every_feature_has_a_test(name):
    for word in (word for word, owner in WORDS.items() if owner == name):
        module, _, test = word.partition("::")
        text = (HERE / f"{module}.py").read_text(encoding="utf-8")
        assert re.search(rf"^def {test or 'test_'}", text, re.MULTILINE), word


@pytest.mark.parametrize(
    "nodeid, name",
    [
        ("tests/test_compile.py::test_inductor", "torch.compile, torch.library, autocast"),
        ("tests/test_compile.py::test_export[a::b]", "torch.export"),
        ("test_compile.py", "torch.compile, torch.library, autocast"),
        ("tests/test_compiler.py::test_export", None),
    ],
)
def test_the_longest_word_wins(nodeid, name):
    assert feature(nodeid) == name


OUTCOMES = """
import pytest
def test_passes(): pass
def test_fails(): assert 0
@pytest.fixture
def broken():
    yield
    assert 0
def test_fails_after_it_passed(broken): pass
def test_error(no_such_fixture): pass
@pytest.mark.skipif(True, reason="no GPU")
def test_skipped(): pass
def test_skips(): pytest.skip("no data")
@pytest.mark.xfail(reason="known")  # in a suite that the test below runs, to see how the recorder counts it
def test_known(): assert 0
@pytest.mark.parametrize("n", range(3))
def test_many(n): pass
"""


@pytest.mark.parametrize("workers", ["0", "2"])
def test_the_option_writes_the_outcomes(workers, tmp_path):
    for name in ("conftest.py", "_features.py", "_slow.py"):
        shutil.copy(HERE / name, tmp_path)
    (tmp_path / "test_energy.py").write_text(OUTCOMES)
    (tmp_path / "test_plots.py").write_text("import pytest; pytest.importorskip('no_such_library')\ndef test(): pass")
    (tmp_path / "test_networks.py").write_text("import no_such_library\ndef test(): pass")
    (tmp_path / "test_of_no_feature.py").write_text("def test(): pass")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-n",
        workers,
        "--continue-on-collection-errors",
    ]
    command += ["-p", "xdist", "--compatibility", "out/run.json"]
    alone = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=alone, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (
        run["versions"]["snntorch"] and run["versions"]["python"] and run["date"] and run["platform"] and run["device"]
    )
    reasons = run["features"]["Plots"].pop("reasons")
    assert len(reasons) == 1 and "no_such_library" in str(reasons)
    assert run["features"] == {
        "Energy": {"passed": 4, "skipped": 3, "failed": 3, "reasons": {"no GPU": 1, "no data": 1, "known": 1}},
        "Plots": {"passed": 0, "skipped": 1, "failed": 0},
        "Networks of Table 1": {"passed": 0, "skipped": 0, "failed": 1, "reasons": {}},
        "Other": {"passed": 1, "skipped": 0, "failed": 0, "reasons": {}},
    }


# --- the page -------------------------------------------------------------------------------------


def run_of(torch, features, **versions):
    rows = {
        name: dict(zip(("passed", "skipped", "failed", "reasons"), row, strict=True)) for name, row in features.items()
    }
    where = {"date": "2026-01-02", "commit": "0123456789abcdef", "platform": "Linux x86_64", "device": "CPU"}
    return {**where, "versions": {"torch": torch, **versions}, "features": rows}


@pytest.fixture
def tables(tmp_path):
    new = {"Plots": (7, 1, 2, {"no GPU": 1}), "NIR": (0, 3, 0, {"no | nir": 2, "no GPU": 1}), "Energy": (5, 0, 0, {})}
    old = {"Plots": (0, 0, 4, {}), "Threads": (0, 0, 0, {})}
    (tmp_path / "a.json").write_text(json.dumps(run_of("2.10.0+cpu", new, nir="1.0")))
    (tmp_path / "b.json").write_text(json.dumps({**run_of("2.6.0", old, nir=None), "commit": None}))
    return runpy.run_path(str(CONF))["compatibility"](tmp_path)


@needs_docs
def test_table_of_features(tables):
    assert tables["features"].splitlines() == [
        "|  | b | a |",
        "| --- | --- | --- |",
        "| Plots | **4 FAILED** | **2 FAILED**, 7, 1 skipped |",
        "| Threads | not run | not run |",
        "| NIR | not run | 3 skipped |",
        "| Energy | not run | 5 |",
    ]


@needs_docs
def test_table_of_environments(tables):
    assert tables["environments"].splitlines() == [
        "|  | b | a |",
        "| --- | --- | --- |",
        "| torch | 2.6.0 | 2.10.0+cpu |",
        "| nir | not installed | 1.0 |",
        "| platform | Linux x86_64 | Linux x86_64 |",
        "| device | CPU | CPU |",
        "| date | 2026-01-02 | 2026-01-02 |",
        "| commit | unknown | 0123456789 |",
    ]


@needs_docs
def test_table_of_reasons(tables):
    rows = ["|  | b | a |", "| --- | --- | --- |", "| no GPU | 0 | 2 |", "| no \\| nir | 0 | 2 |"]
    assert tables["skipped"].splitlines() == rows


@needs_docs
def test_the_page_has_a_place_for_every_table(tables):
    conf = runpy.run_path(str(CONF))
    source = [(CONF.parent / "compatibility.md").read_text(encoding="utf-8")]
    assert [source[0].count(f"<!-- {name} -->") for name in tables] == [1, 1, 1]
    conf["fill_in"](None, "compatibility", source)
    assert "<!--" not in source[0]
