"""The docs agree with the package: every public name is there, every example runs, every relative link resolves."""

import doctest
import importlib
import inspect
import json
import pkgutil
import re
import runpy
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from _oracle import lif as oracle
from _oracle import rectangle, spatial
from _public import imported, ours, public_modules
from _versions import SNNTORCH, TORCH

import snntorch_bpsta as snn
from snntorch_bpsta import neurons
from snntorch_bpsta.functional import plan
from snntorch_bpsta.neurons import FAMILY
from snntorch_bpsta.surrogate import KERNELS

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))])
PAGES = [page for page in PAGES if page.is_file()]

if not (DOCS / "api.md").is_file():
    pytest.skip("the docs are not part of this distribution", allow_module_level=True)


@pytest.fixture(autouse=True)
def torch_as_it_was():
    seed = torch.get_rng_state()
    yield
    torch.set_rng_state(seed)


def page_ids(pages):
    return [str(page.relative_to(ROOT)) for page in pages]


# --- public names ---------------------------------------------------------------------------------

DOCUMENTED = re.compile(r"^\.\. (?:autoclass|autofunction|data|automodule|currentmodule):: (\S+)", re.MULTILINE)


def documented():
    """Full names of what the pages of the API document."""
    module, names = "", set()
    for match in DOCUMENTED.finditer(
        "".join(page.read_text(encoding="utf-8") for page in sorted(DOCS.glob("api-*.md")))
    ):
        name = match[1]
        if match[0].startswith((".. currentmodule", ".. automodule")):
            module = name
            names.add(name)
        else:
            names.add(name if name.startswith("snntorch_bpsta.") else f"{module}.{name}")
    return names


def find(name):
    """What a full name says, or None where a library is missing."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError as error:
            if not (error.name or "").startswith("snntorch_bpsta"):
                return None
            continue
        for part in parts[end:]:
            found = getattr(found, part)
        return found
    raise AssertionError(f"{name} does not exist")


def test_the_modules_were_found():
    assert {"", "surrogate", "data.events", "training.run", "training.studies.claims", "cli"} <= set(public_modules())
    assert not {name for name in public_modules() if name.startswith(("bench", "_"))}


@pytest.mark.parametrize("name", public_modules())
def test_every_public_module_says_what_is_public(name):
    module = imported(name) or pytest.skip("a library is not installed")
    assert isinstance(module.__all__, list) and all(hasattr(module, each) for each in module.__all__)


@pytest.mark.parametrize("name", public_modules())
def test_every_public_name_is_in_the_api(name):
    module = imported(name) or pytest.skip("a library is not installed")
    values = [(each.rpartition(".")[2], find(each)) for each in documented()]
    missing = [each for each, value in ours(module) if not any(n == each and v is value for n, v in values)]
    assert missing == [], f"not in docs/api-*.md: {missing}"


def test_the_api_documents_only_what_is_public():
    modules = [module for module in map(imported, public_modules()) if module]
    public = {f"{module.__name__}.{name}" for module in modules for name in getattr(module, "__all__", [])}
    public |= {module.__name__ for module in modules}
    assert {name for name in documented() if find(name) is not None} - public == set()


@pytest.mark.parametrize("name", sorted(documented()))
def test_the_api_documents_what_exists(name):
    if find(name) is None:
        pytest.skip("a library is not installed")


@pytest.mark.parametrize("neuron", FAMILY, ids=lambda neuron: neuron.__name__)
def test_every_argument_of_snntorch_is_explained(neuron):
    page = (DOCS / "api-neurons.md").read_text(encoding="utf-8")
    table = page[page.index("## The arguments of snnTorch") : page.index("## In full")]
    ours = {"spatial_adj", "temporal_alpha", "warm_up", "inplace", "save"}
    assert set(inspect.signature(neuron).parameters) - ours - set(re.findall(r"`(\w+)`", table)) == set()


# --- rooms and addresses --------------------------------------------------------------------------


def test_the_docs_have_six_rooms():
    """(That every page is in one of them, Sphinx says.)"""
    captions = re.findall(r"^:caption: (.+)$", (DOCS / "index.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert captions == ["Start", "Tutorials", "How-to", "Explanation", "Reference", "Results"]


def test_the_first_page_trains_in_forty_lines():
    ((_, code),) = blocks(DOCS / "first.md")
    assert len([line for line in code.splitlines() if line.strip()]) <= 40
    assert 'device = "cuda" if torch.cuda.is_available() else "cpu"' in code


@pytest.fixture
def conf():
    pytest.importorskip("sphinx")
    return runpy.run_path(str(DOCS / "conf.py"))


ADDRESS = "https://github.com/someone/something"


def test_source_links_and_badges_come_from_the_one_address(conf, monkeypatch):
    resolve, badge = conf["linkcode_resolve"], conf["with_badge"]
    monkeypatch.setitem(resolve.__globals__, "ADDRESS", ADDRESS)
    for name in ("Leaky", "Leaky.sequence", "Leaky.spike_grad", "fold_time"):
        link = resolve("py", {"module": "snntorch_bpsta", "fullname": name})
        path, first, last = re.fullmatch(rf"{ADDRESS}/blob/main/(\S+)#L(\d+)-L(\d+)", link).groups()
        lines = (ROOT / path).read_text(encoding="utf-8").splitlines()[int(first) - 1 : int(last)]
        assert any(re.match(rf"\s*(?:def|class) {name.rpartition('.')[2]}\b", line) for line in lines), link
    assert resolve("py", {"module": "snntorch_bpsta.energy", "fullname": "E_AC_PJ"}) is None
    book = {"cells": [{"source": ["# Title\n", "\n", "text"]}]}
    source = json.loads(badge(json.dumps(book), "examples/01.ipynb"))["cells"][0]["source"]
    assert source[0] == "# Title\n" and source[2:] == ["\n", "text"]
    assert "(https://colab.research.google.com/github/someone/something/blob/main/examples/01.ipynb)" in source[1]


# --- examples -------------------------------------------------------------------------------------

BLOCK = re.compile(r"^( *)```python[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def blocks(page):
    """(line number, source) of each Python block."""
    text = page.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        line = text.count("\n", 0, match.start(2))
        source = match[2] if not match[1] else "\n".join(row[len(match[1]) :] for row in match[2].splitlines())
        yield line, source


WITH_BLOCKS = [page for page in PAGES if any(True for _ in blocks(page))]


@pytest.mark.parametrize("page", WITH_BLOCKS, ids=page_ids(WITH_BLOCKS))
def test_the_blocks_of_a_page_run_in_order(page, tmp_path, monkeypatch):
    if page.stem == "ecosystem" and (SNNTORCH < (1, 0) or TORCH < (2, 7)):
        pytest.skip("its exports need snntorch 1 and torch 2.7")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    namespace = {"__name__": page.stem}
    for line, source in blocks(page):
        # The empty lines in front make the line numbers of a traceback those of the page.
        try:
            exec(compile("\n" * line + source, str(page), "exec"), namespace)
        except ImportError as error:
            if any(
                extra in str(error)
                for extra in ("pip install", "sklearn", "torchvision", "matplotlib", "nir", "neurobench", "onnx")
            ):
                pytest.skip(str(error))
            raise


def test_the_pages_have_examples():
    assert {"index", "quickstart", "implementations", "data"} <= {page.stem for page in WITH_BLOCKS}


MODULES = ["snntorch_bpsta"]
MODULES += [m.name for m in pkgutil.walk_packages(snn.__path__, "snntorch_bpsta.") if not m.name.endswith("__main__")]
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL


def load_module(name):
    """Not the host's module of the same name, whatever was imported before."""
    if name.endswith(".triton") and not plan._TRITON:
        pytest.skip("needs Triton >= 3.4")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("snntorch_bpsta"):
            raise
        pytest.skip(f"{error.name} is not installed")


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    failures = doctest.testmod(load_module(name), optionflags=FLAGS, report=True)
    assert failures.failed == 0, f"{failures.failed} of {failures.attempted} examples of {name}: see above"


def test_there_are_docstring_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    with_examples = [test.name for test in finder.find(load_module("snntorch_bpsta.neurons.family")) if test.examples]
    assert "snntorch_bpsta.neurons.family.Leaky" in with_examples


# --- links ----------------------------------------------------------------------------------------

FENCE = re.compile(r"^( *)(```|:::).*?^\1\2$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def anchors(page):
    """GitHub's anchors of the headings, which MyST uses too."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=page_ids(PAGES))
def test_relative_links_resolve(page):
    text = re.sub(r"`[^`\n]*`", "", FENCE.sub("", page.read_text(encoding="utf-8")))
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = page.parent / path if path else page
        if path.startswith("examples/") and page.parent == DOCS:  # conf.py brings them
            found = ROOT / path
        if page.parent == DOCS and path in ("results.md", "runs.md"):  # as well
            found = ROOT / "results" / {"results.md": "README.md", "runs.md": "RUNS.md"}[path]
        assert found.exists(), f"{page.name} links to {target}, which does not exist"
        if anchor and found.suffix == ".md":
            assert anchor in anchors(found), f"{page.name} links to {target}: no such heading"


def test_no_page_names_a_path_of_one_machine():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"(?<![\w./])/(?:home|root|work|tmp|mnt|Users)/", text), page.name


# --- the first screen -----------------------------------------------------------------------------


@pytest.mark.skipif(not (ROOT / "README.md").is_file(), reason="README.md is not part of this distribution")
def test_the_readme_is_short():
    """At most 400 words of prose and 20 numbers in it, and no line of code over 88 characters."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    code = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(code) > 2 and max(len(line) for block in code for line in block.splitlines()) <= 88
    prose = re.sub(r"^```.*?^```|<[^>]+>|\]\([^)]*\)|^\|.*?$|`[^`]*`", " ", text, flags=re.DOTALL | re.MULTILINE)
    assert 200 < len(re.findall(r"[A-Za-z]{2,}", prose)) <= 400
    assert len(re.findall(r"(?<![\w.])\d[\d.,]*", prose)) <= 20
    assert {"make train", "make test"} <= set(re.findall(r"make \w+", "".join(text.splitlines(True)[:60])))


# --- the pictures ---------------------------------------------------------------------------------

PICTURES = DOCS / "_static" / "pictures"
NAMES = sorted(path.name.removesuffix("-light.svg") for path in PICTURES.glob("*-light.svg") if "logo" not in path.name)


def leaves(data):
    """The numbers of nested dicts and lists, with where they are."""
    if isinstance(data, (dict, list)):
        pairs = data.items() if isinstance(data, dict) else enumerate(data)
        return {(key, *rest): value for key, part in pairs for rest, value in leaves(part).items()}
    return {(): data}


@pytest.fixture(scope="module")
def drawing():
    pytest.importorskip("matplotlib")
    return runpy.run_path(str(DOCS / "pictures.py"))


def test_every_picture_is_there_for_a_light_and_a_dark_page(drawing):
    assert {path.name for path in PICTURES.iterdir()} == {
        f"{name}-{theme}.svg" for name in (*drawing["PICTURES"], "logo") for theme in ("light", "dark")
    } | {"favicon.svg", "social.png"}


def test_the_card_has_the_size_that_sites_ask_for():
    head = (PICTURES / "social.png").read_bytes()[:24]
    assert head[1:4] == b"PNG" and (int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")) == (
        1200,
        630,
    )


def test_the_mark_is_drawn_by_the_code(drawing, tmp_path):
    drawing["write_mark"](tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"logo-light.svg", "logo-dark.svg", "favicon.svg", "social.png"}
    for name in names - {"social.png"}:
        drawn, kept = (
            [path.get("style") for path in ElementTree.parse(folder / name).iter("{http://www.w3.org/2000/svg}path")]
            for folder in (tmp_path, PICTURES)
        )
        assert drawn == kept and len(kept) > 3


def test_the_gallery_has_every_neuron_surrogate_and_reset(drawing):
    """And the page has a place for each group."""
    code = {group: " ".join(lines.values()) for group, lines in drawing["GALLERY"].items()}
    assert {name for name in neurons.__all__ if f"snn.{name}(" not in code["neurons"]} == set()
    assert {name for name in KERNELS if f".{name}(" not in code["surrogates"]} == set()
    assert {reset for reset in ("subtract", "zero", "none") if f'"{reset}"' not in code["resets"]} == set()
    places = re.findall(r"<!-- (\w+) -->", (DOCS / "gallery.md").read_text(encoding="utf-8"))
    assert places == [*drawing["GALLERY"]]


def test_pictures_stand_on_a_page_in_light_and_in_dark(drawing):
    pages = "".join(page.read_text(encoding="utf-8") for page in DOCS.glob("*.md"))
    pages += "".join(map(drawing["cards"], drawing["GALLERY"]))
    for name in drawing["PICTURES"]:
        light, dark = (pages.count(f"pictures/{name}-{theme}.svg") for theme in ("light", "dark"))
        assert light == dark > 0, name


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", NAMES)
def test_a_picture_shows_what_the_package_computes(name, theme, drawing):
    (about,) = ElementTree.parse(PICTURES / f"{name}-{theme}.svg").iter("{http://purl.org/dc/elements/1.1/}description")
    written, now = leaves(json.loads(about.text)), leaves(drawing["PICTURES"][name]()[1])
    assert written.keys() == now.keys() and len(now) > 10
    for place, value in now.items():
        assert written[place] == (pytest.approx(value, rel=1e-6) if isinstance(value, float) else value), place


def test_the_edges_of_the_crossing_are_those_of_the_equations(drawing):
    """The gradients by the oracle; and the factors in the picture, multiplied along the edges, give them."""
    data = drawing["crossing"]()[1]
    current, counted, beta = drawing["CURRENT"], drawing["COUNTED"], drawing["BETA"]
    alphas = {"plain backpropagation": 0, "BPSA": 0, "BPSA + BPTA": drawing["ALPHA"]}
    above = np.r_[np.zeros(len(current) - counted), np.ones(counted)]
    for name, row in data["variants"].items():
        surrogate = rectangle() if name == "plain backpropagation" else spatial
        options = {"surrogate": surrogate, "alpha": alphas[name], "dspk": above}
        run = oracle(np.array(current), beta=beta, threshold=drawing["THRESHOLD"], **options)
        np.testing.assert_allclose(data["u"], run.mem, rtol=1e-12)
        np.testing.assert_array_equal(data["o"], run.spk)
        np.testing.assert_allclose(row["flow"], run.dinput, rtol=1e-12)
        along, error = np.zeros(len(current)), 0.0
        for t in reversed(range(len(current))):
            error = row["s"][t] * above[t] + (row["membrane"][t] + row["residual"][t]) * error
            along[t] = error
        np.testing.assert_allclose(along, run.dinput, rtol=1e-12)


# --- conf.py --------------------------------------------------------------------------------------


def test_a_page_names_the_card_where_the_site_has_an_address():
    pytest.importorskip("sphinx")
    add_card = runpy.run_path(str(DOCS / "conf.py"))["add_card"]
    for address, wanted in (
        ("", ""),
        ("https://a.org/b/", '<meta property="og:image" content="https://a.org/b/_static/pictures/social.png" />'),
    ):
        context = {"metatags": ""}
        add_card(SimpleNamespace(config=SimpleNamespace(html_baseurl=address)), "index", "page.html", context, None)
        assert context["metatags"] == wanted
