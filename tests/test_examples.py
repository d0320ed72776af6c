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


def test_there_is_one_for_every_data_set_and_two_to_begin_with():
    names = [path.stem[3:] for path in NOTEBOOKS]
    assert names == ["quickstart", "your_network", "mnist", "cifar10", "nmnist", "dvs_gesture", "cifar10_dvs"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_committed_with_its_outputs(path):
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    cells = code_cells(book)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [cell.metadata for cell in book.cells if cell.metadata], "times of execution, or the like"
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert any("image/png" in output.get("data", {}) for output in outputs) or path.stem == "02_your_network"
    assert path.stat().st_size < LARGEST
    text = re.sub(r"[A-Za-z0-9+/=]{200,}", "", path.read_text(encoding="utf-8"))  # without the pictures
    assert not re.search(r"/(home|root|work|tmp|Users)/", text), "a path of the machine it ran on"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path, tmp_path, monkeypatch):
    """Without data beside it, as a user has it at first."""
    for name in ("SNNTORCH_BPSTA_DATA", "SNNTORCH_BPSTA_CACHE", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    book = nbformat.read(path, as_version=4)
    for cell in code_cells(book):
        cell.outputs = []
    client = nbclient.NotebookClient(
        book, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    printed = "".join(output.get("text", "") for cell in code_cells(book) for output in cell.outputs)
    assert " %" in printed  # an accuracy
