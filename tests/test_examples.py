"""The notebooks: each runs from top to bottom in its small mode, and is committed with what it printed and drew."""

import os
import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="nbformat (extra: dev) is missing")
nbclient = pytest.importorskip("nbclient", reason="nbclient (extra: dev) is missing")
pytest.importorskip("ipykernel", reason="ipykernel (extra: dev) is missing")
for library in ("lightning", "matplotlib", "sklearn", "torchvision", "tonic"):
    pytest.importorskip(library, reason=f"{library} (extra: all) is missing", exc_type=ImportError)

EXAMPLES = Path(__file__).parent.parent / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
LARGEST = 1_500_000  # bytes

pytestmark = pytest.mark.skipif(not EXAMPLES.exists(), reason="examples/ is not part of the sdist")


def code_cells(book):
    return [cell for cell in book.cells if cell.cell_type == "code"]


LESSONS = [path for path in NOTEBOOKS if path.stem[0].isdigit()]
PAPER = [path for path in NOTEBOOKS if path.stem.startswith("paper_")]


def source(path):
    return "\n".join(cell.source for cell in code_cells(nbformat.read(path, as_version=4)))


def test_there_is_one_for_every_data_set_and_a_course():
    assert {path.stem for path in PAPER} == {
        f"paper_{name}" for name in ("mnist", "cifar10", "nmnist", "dvs_gesture", "cifar10_dvs")
    }
    assert [int(path.stem[:2]) for path in LESSONS] == list(range(1, len(LESSONS) + 1))
    assert sorted([*LESSONS, *PAPER]) == NOTEBOOKS
    page = EXAMPLES.parent / "docs" / "course.md"
    assert {name for name in re.findall(r"\(examples/(.+?)\.ipynb\)", page.read_text(encoding="utf-8"))} == {
        path.stem for path in NOTEBOOKS
    }


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_small_unless_asked(path):
    """A GPU decides where it runs, not how long."""
    code = source(path)
    assert 'SIZE = os.environ.get("SNNTORCH_BPSTA_SIZE", "small")' in code and '"paper"' in code and '"gpu"' in code
    assert code.count("is_available()") == 1 and 'device = "cuda" if torch.cuda.is_available() else "cpu"' in code
    assert "%pip install" in code and "filterwarnings" not in code and "simplefilter" not in code


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_committed_with_its_outputs(path):
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    cells = code_cells(book)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [cell.metadata for cell in book.cells if cell.metadata], "times of execution, or the like"
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    told = [line for output in outputs if output.get("name") == "stderr" for line in output.text.splitlines()]
    assert [line for line in told if not line.startswith("warning: ")] == []
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert path.stat().st_size < LARGEST
    text = re.sub(r"[A-Za-z0-9+/=]{200,}", "", path.read_text(encoding="utf-8"))  # without the pictures
    assert not re.search(r"/(home|root|work|tmp|Users)/", text), "a path of the machine it ran on"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path, tmp_path, monkeypatch):
    """Without data beside it, as a user has it at first."""
    for name in ("SNNTORCH_BPSTA_DATA", "SNNTORCH_BPSTA_CACHE", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("SNNTORCH_BPSTA_SIZE", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    book = nbformat.read(path, as_version=4)
    for cell in code_cells(book):
        cell.outputs = []
    client = nbclient.NotebookClient(
        book, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    printed = "".join(output.get("text", "") for cell in code_cells(book) for output in cell.outputs)
    assert "size small, on cpu" in printed if path.stem[:2].isdigit() else " %" in printed  # an accuracy
    assert any("image/png" in output.get("data", {}) for cell in code_cells(book) for output in cell.outputs)
