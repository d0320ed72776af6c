"""The wheel and the sdist: what is in them, and that the wheel works where only the core's dependencies are. And that the
version, the workflows and CONTRIBUTING.md agree with what is there."""

import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from snntorch_bpsta import __version__

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
    assert (
        metadata.get_payload().startswith("# snntorch-bpsta")
        and metadata["Description-Content-Type"] == "text/markdown"
    )
    assert metadata["Requires-Python"] == ">=3.10" and metadata["License"] == "MIT"


@pytest.mark.skipif(not (ROOT / "setup.py").is_file(), reason="setup.py is not part of this distribution")
def test_the_readme_on_the_index_has_whole_addresses():
    """Rendered and cleaned as there: every picture and link is of the repository by its address, and exists; a badge opens a
    lesson."""
    markdown = pytest.importorskip("markdown_it").MarkdownIt("commonmark", {"html": True}).enable("table")
    clean = pytest.importorskip("readme_renderer.clean").clean
    on_the_index = runpy.run_path(str(ROOT / "setup.py"))["on_the_index"]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    page = clean(markdown.render(on_the_index(text, "https://github.com/someone/something")))
    pictures, links = re.findall(r'<img [^>]*src="([^"]+)"', page), re.findall(r'href="([^"]+)"', page)
    assert len(pictures) > 1 and len(links) > 5 and pictures == [p for p in pictures if p.startswith("https://")]
    assert [link for link in links if not re.match(r"https?://|#", link)] == []
    where = r"raw\.githubusercontent\.com|github\.com|colab\.research\.google\.com/github"
    own = re.compile(rf"https://(?:{where})/someone/something/(?:blob/)?main/([^#]+)")
    paths = [found[1] for found in map(own.match, [*pictures, *links]) if found]
    assert len(paths) > 5 and [path for path in paths if not (ROOT / path).exists()] == []
    assert [link for link in links if "colab" in link] == [link for link in links if link.endswith(".ipynb")] != []


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


# --- one version, and files that name each other --------------------------------------------------

RELEASED = re.compile(r"^## (?:Unreleased \((?P<next>[\d.]+)\)|(?P<version>[\d.]+) - \d{4}-\d\d-\d\d)$", re.MULTILINE)
here = pytest.mark.skipif(not (ROOT / "CONTRIBUTING.md").is_file(), reason="not part of this distribution")


def test_the_version_stands_in_one_place():
    assert re.search(r"^version = attr: snntorch_bpsta\._version\.__version__$", (ROOT / "setup.cfg").read_text(), re.M)
    citation = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert citation[1].strip("\"'") == __version__
    newest = RELEASED.search((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    final = __version__.partition(".dev")[0]
    assert (newest["next"] if __version__ != final else newest["version"]) == final
    if (ROOT / "docs" / "conf.py").is_file():
        assert "release = version = snntorch_bpsta.__version__" in (ROOT / "docs" / "conf.py").read_text(
            encoding="utf-8"
        )


def test_the_citation_is_of_the_paper():
    citation = pytest.importorskip("yaml").safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "license", "version", "type"} <= citation.keys()
    paper = citation["preferred-citation"]
    assert paper["doi"] == "10.1016/j.patter.2022.100522"
    assert [author["family-names"] for author in paper["authors"]] == ["Shen", "Zhao", "Zeng"]


@here
def test_workflows_call_targets_of_the_makefile():
    """And nothing else: what a check does stands in one place. Together they call all that .ci/run does."""
    yaml = pytest.importorskip("yaml")
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    phony = set(re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split())
    assert phony <= targets
    called = set()
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yml")):
        for job in yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values():
            for step in job["steps"]:
                assert ("run" in step) != ("uses" in step), (path.name, step)
                for line in step.get("run", "").splitlines():
                    found = re.fullmatch(r"make (?:([\w-]+)|\$\{\{ matrix\.(\w+) \}\})", line)
                    assert found, f"{path.name}: {line!r} is no target of the Makefile"
                    called |= {found[1]} if found[1] else set(job["strategy"]["matrix"][found[2]])
    everything = set(re.findall(r"^make ([\w-]+)$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE))
    assert everything and everything <= called <= phony


@here
def test_workflows_name_actions_by_commit():
    """A tag can be moved to other code; a commit cannot. The release that it is stands behind it."""
    used = []
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yml")):
        used += re.findall(r"uses: *(.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert used
    for line in used:
        assert re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line


@here
def test_no_second_index_beside_the_first():
    """pip takes a package of the same name from either. An index of torch's own takes the place of the usual one where torch
    is installed."""
    tracked = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], check=True, capture_output=True).stdout.decode()
    for name in tracked.rstrip("\0").split("\0"):
        path = ROOT / name
        if (
            path.is_file()
            and path.suffix in (".md", ".yml", ".py", ".sh", ".cfg", ".toml", "")
            and path != Path(__file__)
        ):
            text = path.read_text(encoding="utf-8", errors="replace").lower()
            assert not re.search(r"extra[-_]index[-_]url", text), name


@here
@pytest.mark.skipif(shutil.which("make") is None, reason="make is missing")
@pytest.mark.parametrize("index", ["", "https://example.org/cpu"])
def test_torch_alone_comes_from_its_index(index, tmp_path):
    """What make would run on a fresh machine."""
    for name in ("Makefile", "setup.cfg", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    done = subprocess.run(
        ["make", "-n", "release-check"],
        cwd=tmp_path,
        env=os.environ | {"TORCH_INDEX": index, "TORCH": "torch", "CORE": "torch"},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    asked = f"--index-url {index} torch" if index else "torch"
    assert f".venv/bin/pip install --quiet {asked}" in lines
    assert f".venv/bin/python .ci/release_check.py {asked}" in lines
    assert sum("--index-url" in line for line in lines) == (3 if index else 0)


@here
def test_the_workflows_run_the_pythons_of_the_classifiers():
    yaml = pytest.importorskip("yaml")
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "checks.yml").read_text(encoding="utf-8"))["jobs"]
    classifiers = re.findall(r"Python :: (3\.\d+)$", (ROOT / "setup.cfg").read_text(), re.MULTILINE)
    assert jobs["test"]["strategy"]["matrix"]["python"] == classifiers


@here
def test_issue_forms_parse():
    yaml = pytest.importorskip("yaml")
    forms = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")}
    assert forms.keys() == {"bug", "feature", "question", "config"}
    for name in ("bug", "feature", "question"):
        ids = [field["id"] for field in forms[name]["body"]]
        assert forms[name]["name"] and forms[name]["description"] and len(ids) == len(set(ids))
        assert all(field["attributes"]["label"] for field in forms[name]["body"])


@here
def test_contributing_names_files_and_targets_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w./-]+\.(?:py|md|sh|cfg|toml|cff|yml|txt))(?:[#:][^`]*)?`", text))
    assert {"tests/test_types.py", "tests/_oracle.py", "docs/data.md"} <= named
    folders = ("", "snntorch_bpsta", "snntorch_bpsta/functional", "snntorch_bpsta/data", "snntorch_bpsta/training")
    folders += ("snntorch_bpsta/training/studies",)
    assert {
        name for name in named if "NAME" not in name and not any((ROOT / f / name).is_file() for f in folders)
    } == set()
    phony = set(re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split())
    assert set(re.findall(r"`make ([\w-]+)`", text)) <= phony
