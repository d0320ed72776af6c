"""The wheel and the sdist: what is in them, and that the wheel works where only the core's dependencies are."""

import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXTRAS = (
    "torchvision",
    "tonic",
    "lightning",
    "torchmetrics",
    "matplotlib",
    "sklearn",
    "triton",
    "aedat",
    "pandas",
    "nir",
)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A wheel and an sdist of a copy of the tracked files, so that nothing left over in the tree gets in."""
    folder = tmp_path_factory.mktemp("build")
    subprocess.run(["git", "-C", ROOT, "checkout-index", "-a", f"--prefix={folder}/source/"], check=True)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", folder / "source"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (wheel,), (sdist,) = (folder / "dist").glob("*.whl"), (folder / "dist").glob("*.tar.gz")
    return wheel, sdist


def test_contents(built):
    wheel, sdist = built
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "snntorch_bpsta").rglob("*.py")}
    assert modules | {"snntorch_bpsta/py.typed"} <= set(names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"snntorch_bpsta"}, (
        "tests or docs got into the wheel"
    )
    with tarfile.open(sdist) as archive:
        inside = {name.split("/", 1)[-1] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "CHANGELOG.md", "setup.cfg", "tests/_oracle.py"} <= inside


def test_metadata(built):
    with zipfile.ZipFile(built[0]) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
        (entry,) = (n for n in archive.namelist() if n.endswith("entry_points.txt"))
        assert "bpsta = snntorch_bpsta.cli:main" in archive.read(entry).decode()
    requires = metadata.get_all("Requires-Dist")
    core = {line.split(">")[0].split("<")[0].strip() for line in requires if "extra ==" not in line}
    assert core == {"torch", "snntorch", "numpy", "numba"}
    assert "snntorch<2,>=0.9.4" in requires and any(line.startswith("lightning>=2.6.6") for line in requires)
    assert set(metadata.get_all("Provides-Extra")) == {"data", "train", "plots", "neurobench", "docs", "all", "dev"}
    assert metadata["Requires-Python"] == ">=3.10" and metadata["License"] == "MIT"


def test_the_wheel_works_without_the_extras(built, tmp_path):
    """Installed into an empty folder, with every extra made unimportable: one step, all steps, and a network learn."""
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", tmp_path / "site", built[0]]
    subprocess.run(install, check=True)
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path / "site")!r})
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {EXTRAS!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
import torch
before = set(sys.modules)
import snntorch_bpsta as snn
assert snn.__file__.startswith({str(tmp_path)!r}), snn.__file__
net = snn.networks.small(width=1 / 32, num_steps=2)
net(torch.rand(2, 1, 28, 28)).sum().backward()
assert all(p.grad is not None for p in net.parameters())
lif = snn.Leaky(beta=0.9, threshold=0.5, spatial_adj=True, temporal_alpha=0.8)
lif(torch.rand(2, 3), lif.init_leaky())
assert not [m for m in sys.modules if m.split(".")[0] in {EXTRAS!r}]
from snntorch_bpsta.cli import main
assert main(["evaluate", "nowhere.ckpt"]) == 2
"""
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "pip install 'snntorch-bpsta[train,plots]'" in done.stderr
