"""The annotations: every public signature has them, they say what the signature says, and importing them costs nothing.
Whether they are true is what ``make types`` checks, `_typed.py` included."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import snntorch_bpsta
from snntorch_bpsta import _typing
from snntorch_bpsta.neurons import FAMILY

PACKAGE = Path(snntorch_bpsta.__file__).parent
# Kernels, whose compilers read annotations their own way.
WITHOUT = ("data/_film.py", "functional/kernels")
FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if not str(path.relative_to(PACKAGE)).startswith(WITHOUT)]
METHODS = {"__init__", "__call__", "__getitem__", "__iter__", "__len__", "forward", "extra_repr"}


def public_functions(body, prefix=""):
    """(name, node) of functions, and of methods of classes, whose names are public."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node.body, f"{node.name}.")
        elif isinstance(node, ast.FunctionDef) and (not node.name.startswith("_") or (prefix and node.name in METHODS)):
            yield prefix + node.name, node


def bare(node, method):
    """What of a signature has no annotation."""
    arguments = node.args
    every = [*arguments.posonlyargs, *arguments.args, arguments.vararg, *arguments.kwonlyargs, arguments.kwarg]
    static = any(isinstance(mark, ast.Name) and mark.id == "staticmethod" for mark in node.decorator_list)
    names = [each.arg for each in every[1 if method and not static else 0 :] if each and each.annotation is None]
    return names + ([] if node.returns else ["return"])


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_public_signatures_are_annotated(path):
    found = public_functions(ast.parse(path.read_text(encoding="utf-8")).body)
    assert {name: bare(node, "." in name) for name, node in found if bare(node, "." in name)} == {}


def test_the_walk_finds_what_is_bare():
    source = "def f(a, *, b: int): ...\nclass C:\n    def __init__(self, x): ...\n    def _g(self, y): ...\n"
    found = {name: bare(node, "." in name) for name, node in public_functions(ast.parse(source).body)}
    assert found == {"f": ["a", "return"], "C.__init__": ["x", "return"]}


@pytest.mark.parametrize("neuron", FAMILY, ids=lambda neuron: neuron.__name__)
def test_the_arguments_of_a_neuron(neuron):
    """The host's, of whichever version, are among those that a type checker knows, and ours are all there."""
    known = getattr(_typing, f"{neuron.__name__}Arguments").__annotations__
    signature = inspect.signature(neuron).parameters
    assert signature.keys() <= known.keys()
    hosts = inspect.signature(neuron._host).parameters
    if "reset_delay" in hosts or neuron.__name__ in ("Lapicque", "Alpha"):  # 0.9.4 has fewer
        assert known.keys() == signature.keys()


def test_types_cost_nothing_at_run_time():
    code = "import sys, snntorch_bpsta; print([name for name in sys.modules if name.endswith('bpsta._typing')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_fresh_import_reaches_every_module():
    code = "import snntorch_bpsta as snn; snn.flow.GradientFlow, snn.energy.FiringRates, snn.networks.NETWORKS"
    subprocess.run([sys.executable, "-c", code], check=True)
