"""The one direction of imports, read from the source: no back arrow, no circle, no heavy library too early; and no file that
is too long to read."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = "snntorch_bpsta"
ROOT = Path(__file__).parent.parent / PACKAGE

# From the bottom up: a layer may import those below it, never those above. `_snntorch` (the host seen
# through our package) and `_version` lie under everything and import nothing of ours. `_typing` is for
# type checkers: it is imported under TYPE_CHECKING only. What stands under TYPE_CHECKING follows the order too.
ORDER = [
    "_version",
    "_typing",
    "_torch",
    "_snntorch",
    "_meant",
    "_checks",
    "_files",
    "_progress",
    "_palette",
    "_signals",
    "_numba",
    "telling",
    "surrogate",
    "memory",
    "functional",
    "neurons",
    "conversion",
    "decays",
    "doctor",
    "layers",
    "folding",
    "networks",
    "training",
    "cli",
    "__main__",
]
# Beside the line: what each may import of ours. `BASE` is open to all.
BASE = {"_version", "_typing", "_torch", "_snntorch", "_meant", "_checks", "_files", "_progress", "_palette", "_numba"}
BESIDE = {
    "energy": {"neurons"},
    "flow": {"neurons", "doctor"},
    "nir": {"neurons", "layers"},
    "plots": set(),
    "data": set(),
}
# training uses the data and counts energy; the command line uses everything.
EXTRA = {
    "training": {"data", "energy", "flow"},
    "cli": {"data", "energy", "plots"},
}
# Inside the data: frames (pure functions) <- images, events.
DATA_BOTTOM = "data.frames"

LONGEST = 400  # lines of a file

# Library -> where it may be imported at module level. Elsewhere: inside the function that needs it.
HEAVY = {
    "triton": {f"functional.kernels.triton{part}" for part in ("", "_template", "_code", "_pool")},
    "numba": {
        "_numba",
        "functional.kernels.rows",
        "functional.kernels.cpu_forward",
        "functional.kernels.cpu_backward",
        "functional.kernels.pool",
        "functional.kernels.skip",
        "functional.kernels.vectors",
    },
    "tonic": set(),
    "torchvision": set(),
    "sklearn": set(),
    "pandas": set(),
    "scipy": set(),
    "h5py": set(),
    "nir": set(),
    "neurobench": set(),
    "matplotlib": {"plots"},
    "lightning": {"training"},
    "pytorch_lightning": set(),
    "torchmetrics": {"training"},
    "jsonargparse": {"cli"},
    "typer": {"cli"},
}


def module_name(path, root=ROOT):
    """functional/multistep.py -> "functional.multistep", functional/__init__.py -> "functional", top: ""."""
    parts = list(path.relative_to(root).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_type_checking(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def walk(node, eager=True):
    """Every import statement below `node`, and whether it runs when the module is imported. Those under TYPE_CHECKING, which
    never run, are among them."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, eager
        inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or is_type_checking(child)
        yield from walk(child, eager and not inside)


def imports(source, module, is_package):
    """(absolute dotted name, eager) for each import of a source; `from . import x`: package.x."""
    package = module.split(".") if module else []
    if not is_package:
        package = package[:-1]
    for node, eager in walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, eager
        else:
            base = node.module or ""
            if node.level:
                up = package[: len(package) - (node.level - 1)]
                base = ".".join([PACKAGE, *up, *([node.module] if node.module else [])])
            for alias in node.names:
                yield f"{base}.{alias.name}", eager


def own(name):
    """The dotted name below our package, or None for a foreign one."""
    return name[len(PACKAGE) + 1 :] if name.startswith(PACKAGE + ".") else None


def back_arrows(source, module, is_package):
    """Imports that point against the order, as text."""
    layer = module.split(".")[0]
    for name, _ in imports(source, module, is_package):
        target = own(name)
        if target is None:
            continue
        other = target.split(".")[0]
        if layer == "":  # the top __init__ collects what the layers offer
            continue
        if other == layer:
            if module == DATA_BOTTOM:
                yield f"{module} imports {target}"
            continue
        allowed = (BASE if layer not in BASE else set()) | EXTRA.get(layer, set())
        if layer in BESIDE:
            allowed = allowed | BESIDE[layer]
        elif layer in ORDER:
            allowed = allowed | set(ORDER[: ORDER.index(layer)])
        if other not in allowed:
            yield f"{module} imports {target}"


def eager_heavy(source, module, is_package):
    """Heavy libraries that a module imports at module level outside of their place."""
    for name, eager in imports(source, module, is_package):
        library = name.split(".")[0]
        if eager and library in HEAVY:
            at_home = any(module == place or module.startswith(place + ".") for place in HEAVY[library])
            if not at_home:
                yield f"{module or PACKAGE} imports {name} at module level"


def arrows(sources):
    """Module -> the modules that it imports, in whatever way, of {module: (source, module, is_package)}."""
    graph = {}
    for module, (source, _, is_package) in sources.items():
        graph[module] = set()
        for name, _ in imports(source, module, is_package):
            target = own(name)
            while target and target not in sources:  # a name in a module
                target = target.rpartition(".")[0]
            if target and target != module:
                graph[module].add(target)
    return graph


def circles(graph):
    """Sets of modules each of which reaches all others, as sorted lists."""

    def reached(start):
        seen, todo = set(), [*graph[start]]
        while todo:
            module = todo.pop()
            if module not in seen:
                seen.add(module)
                todo += graph[module]
        return seen

    reach = {module: reached(module) for module in graph}
    found = {frozenset(other for other in reach[m] if m in reach[other]) for m in graph if m in reach[m]}
    return sorted(map(sorted, found))


FILES = sorted(ROOT.rglob("*.py"))
IDS = [str(p.relative_to(ROOT)) for p in FILES]


def read(path):
    return path.read_text(encoding="utf-8"), module_name(path), path.name == "__init__.py"


def test_the_package_was_found():
    assert {"__init__.py", "_checks.py", "surrogate.py", "neurons/core.py"} <= set(IDS)


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_every_module_has_its_place(path):
    layer = module_name(path).split(".")[0]
    assert layer in {"", *ORDER, *BESIDE}, f"name {layer} in tests/test_architecture.py"


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_no_back_arrow(path):
    assert list(back_arrows(*read(path))) == []


def test_no_circle():
    """Between modules, also those of one folder, also under TYPE_CHECKING and inside functions."""
    assert circles(arrows({module_name(path): read(path) for path in FILES})) == []


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_no_file_is_too_long(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_no_eager_heavy_import(path):
    assert list(eager_heavy(*read(path))) == []


LIGHT = {"", *BASE, "telling", "surrogate", "memory", "functional", "neurons", "conversion", "decays", "doctor"}
LIGHT |= {"layers", "folding"}


def test_the_package_imports_its_heavy_parts_on_first_use():
    """What `import snntorch_bpsta` runs, followed through our modules, reaches only light ones."""
    known = {module_name(p): p for p in FILES}
    reached, todo = set(), [""]
    while todo:
        module = todo.pop()
        if module in reached:
            continue
        reached.add(module)
        for name, eager in imports(*read(known[module])):
            target = own(name)
            while eager and target and target not in known:
                target = target.rpartition(".")[0]
            if eager and target:
                todo += [".".join(target.split(".")[: i + 1]) for i in range(target.count(".") + 1)]
    assert {"neurons", "surrogate", "functional.multistep"} <= reached
    assert {m.split(".")[0] for m in reached} <= LIGHT
    assert not reached & {"functional.kernels.triton", "functional.kernels.cpu"}


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_private_names_of_the_host_have_one_home(path):
    private = r"\b_base_\w*|\b_reset_mechanism\b|\b_alpha_register_buffer\b|\b_surrogate_bypass\b|snntorch\._[a-z]\w*"
    found = re.findall(private, path.read_text(encoding="utf-8"))
    assert not found or module_name(path) == "_snntorch", found


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_triton_has_one_home(path):
    source, module, is_package = read(path)
    users = [n for n, _ in imports(source, module, is_package) if n.split(".")[0] == "triton"]
    assert not users or module in {*HEAVY["triton"], "functional.cells"}  # in the latter for annotations alone


# --- these checks do check ------------------------------------------------------------------------

BAD_ARROWS = {
    "relative": ("from . import neurons", "surrogate", False),
    "from-relative": ("from .neurons import Leaky", "_checks", False),
    "parent": ("from ..neurons import Leaky", "functional.multistep", False),
    "parent-package": ("from .. import networks", "functional", True),
    "absolute": ("import snntorch_bpsta.training.losses", "layers", False),
    "inside-a-function": ("def f():\n    from .cli import main", "energy", False),
    "plots": ("from .neurons import Leaky", "plots", False),
    "energy": ("from .layers import Voting", "energy", False),
    "data": ("from ..training import losses", "data.images", False),
    "frames": ("from .events import load", "data.frames", False),
    "typing": ("if TYPE_CHECKING:\n    from .cli import main", "neurons", False),
    "typing-else": ("if not TYPE_CHECKING:\n    x = 1\nelse:\n    from .layers import Voting", "neurons", False),
    "studies-plots": ("from ... import plots", "training.studies.claims", False),
    "lazy-up": (
        "class A:\n    def f(self):\n        import snntorch_bpsta.training.studies",
        "networks",
        False,
    ),
}
GOOD_ARROWS = {
    "down": ("from .surrogate import rectangle", "neurons", False),
    "parent": ("from .. import surrogate", "functional.multistep", False),
    "sibling": ("from .lif import lif_multistep", "functional", True),
    "data-sibling": ("from .frames import integrate", "data.events", False),
    "studies-data": ("from ... import data", "training.studies.claims", False),
    "host": ("from snntorch import utils\nimport torch", "_snntorch", False),
    "top": ("from .layers import Voting\nfrom . import surrogate", "", True),
    "typing": ("if TYPE_CHECKING:\n    from ._typing import Result", "neurons", False),
}
BAD_HEAVY = {
    "top": ("import torchvision", "", True),
    "from": ("from matplotlib import pyplot as plt", "training.studies.claims", False),
    "try": (
        "try:\n    import triton\nexcept ImportError:\n    triton = None",
        "functional.multistep",
        False,
    ),
    "class": ("class A:\n    import tonic", "data.events", False),
    "lightning": ("import lightning.pytorch as pl", "layers", False),
}
# {module: source}, and the circle in it.
CIRCLES = {
    "two": ({"a": "from . import b", "b": "from .a import x"}, ["a", "b"]),
    "three": ({"a": "from .b import x", "b": "import snntorch_bpsta.c", "c": "from . import a"}, ["a", "b", "c"]),
    "typing": ({"a": "if TYPE_CHECKING:\n    from .b import B", "b": "from .a import A"}, ["a", "b"]),
    "in-a-function": ({"a": "def f():\n    from .b import B", "b": "from .a import A"}, ["a", "b"]),
    "in-a-folder": ({"a.b": "from . import c", "a.c": "from .b import x"}, ["a.b", "a.c"]),
    "folder-and-file": ({"a.b": "from ..c import x", "c": "from .a import b"}, ["a.b", "c"]),
}
NO_CIRCLES = {
    "down": {"a": "from .b import x\nfrom . import c", "b": "from .c import y", "c": "import torch"},
    "typing-down": {"a": "if TYPE_CHECKING:\n    from .b import B", "b": ""},
    "siblings": {"a": "from .a.b import x", "a.b": "from .c import x", "a.c": "from ..d import y", "d": ""},
}
GOOD_HEAVY = {
    "function": ("def f():\n    import torchvision", "data.images", False),
    "plots": ("import matplotlib.pyplot as plt", "plots", False),
    "training": ("import lightning as L", "training.module", False),
    "kernel": ("import triton.language as tl", "functional.kernels.triton", False),
}


@pytest.mark.parametrize("name", BAD_ARROWS)
def test_a_back_arrow_is_seen(name):
    assert list(back_arrows(*BAD_ARROWS[name]))


@pytest.mark.parametrize("name", GOOD_ARROWS)
def test_a_good_arrow_passes(name):
    assert not list(back_arrows(*GOOD_ARROWS[name]))


def sources(of):
    return {
        module: (source, module, any(other.startswith(f"{module}.") for other in of)) for module, source in of.items()
    }


@pytest.mark.parametrize("name", CIRCLES)
def test_a_circle_is_seen(name):
    of, circle = CIRCLES[name]
    assert circles(arrows(sources(of))) == [circle]


@pytest.mark.parametrize("name", NO_CIRCLES)
def test_what_is_no_circle_passes(name):
    assert circles(arrows(sources(NO_CIRCLES[name]))) == []


@pytest.mark.parametrize("name", BAD_HEAVY)
def test_an_eager_heavy_import_is_seen(name):
    assert list(eager_heavy(*BAD_HEAVY[name]))


@pytest.mark.parametrize("name", GOOD_HEAVY)
def test_a_heavy_import_in_its_place_passes(name):
    assert not list(eager_heavy(*GOOD_HEAVY[name]))
