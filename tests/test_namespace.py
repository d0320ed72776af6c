"""Our namespace has everything that snnTorch's has, costs no more to import, patches nothing."""

import importlib
import importlib.util
import inspect
import json
import pkgutil
import subprocess
import sys

import pytest
import snntorch

import snntorch_bpsta as snn

OURS = {"Alpha", "Lapicque", "Leaky", "RLeaky", "RSynaptic", "Synaptic", "surrogate", "functional"}
# The host's star imports leave its private module _neurons/neurons.py lying about as
# `snntorch.neurons`. Ours is a module of that name too: its members are checked, not its identity.
SHADOWED = {"neurons"}


def public(module):
    return sorted(n for n in vars(module) if not n.startswith("_"))


def run_python(code):
    """Run `code` in a fresh interpreter; it prints one line of JSON."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


SUBMODULES = sorted(m.name for m in pkgutil.iter_modules(snntorch.__path__) if not m.name.startswith("_"))
# A fresh interpreter's list: another test may have imported more of the host by now.
HOST_NAMES = run_python("import json, snntorch; print(json.dumps([n for n in vars(snntorch) if n[0] != '_']))")


def importable(name):
    """Whether the host's own submodule can be imported here (some want an optional library)."""
    try:
        importlib.import_module(f"snntorch.{name}")
    except ImportError:
        return False
    return True


def test_the_walk_found_the_host():
    assert {"Leaky", "Synaptic", "RLeaky", "SpikingNeuron", "surrogate"} <= set(HOST_NAMES)
    assert {"spikegen", "utils", "backprop", "functional", "surrogate", "export_nir"} <= set(SUBMODULES)


@pytest.mark.parametrize("name", sorted(set(HOST_NAMES) - OURS - SHADOWED))
def test_every_host_name_is_the_hosts_object(name):
    assert getattr(snn, name) is getattr(snntorch, name)
    assert name in dir(snn)


@pytest.mark.parametrize("name", sorted(set(SUBMODULES) - OURS))
def test_every_host_submodule_is_the_hosts(name):
    if not importable(name):
        with pytest.raises(ImportError):
            getattr(snn, name)
        return
    host = importlib.import_module(f"snntorch.{name}")
    assert getattr(snn, name) is host
    assert importlib.import_module(f"snntorch_bpsta.{name}") is host


def test_the_shadowed_module_has_the_hosts_members():
    for name in snntorch.neurons.__all__:
        assert getattr(snn.neurons, name) is getattr(snntorch.neurons, name), name


@pytest.mark.parametrize("name", public(snntorch.surrogate))
def test_surrogate_has_the_hosts_members(name):
    assert getattr(snn.surrogate, name) is getattr(snntorch.surrogate, name)


@pytest.mark.parametrize("name", public(importlib.import_module("snntorch.functional")))
def test_functional_has_the_hosts_members(name):
    assert getattr(snn.functional, name) is getattr(importlib.import_module("snntorch.functional"), name)


@pytest.mark.parametrize("name", ["quant", "acc", "loss", "reg", "probe", "stdp_learner"])
def test_functional_has_the_hosts_submodules(name):
    host = importlib.import_module(f"snntorch.functional.{name}")
    assert getattr(snn.functional, name) is host
    assert importlib.import_module(f"snntorch_bpsta.functional.{name}") is host


def test_leaky_is_ours_and_a_host_neuron():
    assert snn.Leaky is not snntorch.Leaky and issubclass(snn.Leaky, snntorch.Leaky)
    assert snn.Leaky.__module__.startswith("snntorch_bpsta")


@pytest.mark.parametrize("name", ["spatial_adjustment", "rectangle"])
def test_our_surrogates_are_there(name):
    assert callable(getattr(snn.surrogate, name)) and not hasattr(snntorch.surrogate, name)


@pytest.mark.parametrize("module", [snn, snn.functional, snn.surrogate], ids=lambda m: m.__name__)
def test_all_is_true_and_sorted_once(module):
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        getattr(module, name)
        assert not name.startswith("_"), name
    assert set(module.__all__) <= set(dir(module))


LATER = {"data", "energy", "flow", "networks", "nir", "plots", "training"}  # imported on first use


def test_dir_lists_what_is_public_and_nothing_else():
    """In a fresh interpreter, where data, training and plots were not imported yet."""
    code = """
import json, snntorch, snntorch.functional, snntorch.surrogate
import snntorch_bpsta as snn
modules = [snn, snn.functional, snn.surrogate]
hosts = [snntorch, snntorch.functional, snntorch.surrogate]
print(json.dumps([[dir(m), m.__all__, [n for n in vars(h) if n[0] != "_"]] for m, h in zip(modules, hosts)]))
"""
    found = run_python(code)
    for (listed, ours, hosts), later in zip(found, (LATER, set(), set()), strict=True):
        public = {name for name in listed if not name.startswith("__")}
        assert public == {*ours, *hosts} | later and listed == sorted(set(listed)) and "__doc__" in listed
    assert not {"Any", "TYPE_CHECKING", "importlib", "_checks"} & {*found[0][0]}


def test_an_unknown_name_is_an_attribute_error():
    for module in (snn, snn.functional, snn.surrogate):
        with pytest.raises(AttributeError, match="no_such_name"):
            _ = module.no_such_name
        assert not hasattr(module, "_no_such_name")
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        importlib.import_module("snntorch_bpsta.no_such_module")


IMPORTS = [
    "from snntorch_bpsta import utils; import snntorch.utils as host; assert utils is host",
    "import snntorch_bpsta.utils as utils; import snntorch.utils as host; assert utils is host",
    "from snntorch_bpsta import spikegen; spikegen.rate",
    "import snntorch_bpsta as snn; snn.utils.reset; snn.spikegen.rate; snn.backprop.BPTT",
    "from snntorch_bpsta import functional as SF; SF.ce_rate_loss; SF.lif_multistep",
    "from snntorch_bpsta.functional import quant; from snntorch.functional import quant as h; assert quant is h",
    "import snntorch_bpsta.functional.quant as quant; quant.state_quant",
    "from snntorch_bpsta.functional import ce_rate_loss, lif_multistep",
    "from snntorch_bpsta.surrogate import fast_sigmoid, rectangle",
    "from snntorch_bpsta import *; assert Leaky.__module__.startswith('snntorch_bpsta'); Synaptic",
    "from snntorch_bpsta.backprop import BPTT, TBPTT",
    "import snntorch_bpsta, snntorch; assert snntorch_bpsta.__version__ != snntorch.__version__",
]
if importlib.util.find_spec("nir") and importlib.util.find_spec("nirtorch"):
    IMPORTS += [
        "from snntorch_bpsta.export_nir import export_to_nir; export_to_nir",
        "from snntorch_bpsta.import_nir import import_from_nir; import_from_nir",
    ]

WALK = """
import json, traceback
failed = {}
for line in json.loads(%r):
    pid = __import__("os").fork()  # sys.modules as it is now, without importing torch again
    if pid == 0:
        try:
            exec(line, {})
        except BaseException:
            traceback.print_exc()
            __import__("os")._exit(1)
        __import__("os")._exit(0)
    if __import__("os").waitpid(pid, 0)[1]:
        failed[line] = True
print(json.dumps(sorted(failed)))
"""


def test_every_way_to_import():
    """Each in a process of its own, so that no import of one makes the next one work."""
    code = "import torch\n" + WALK % json.dumps(IMPORTS)
    assert run_python(code) == []


HEAVY = [
    "torchvision",
    "tonic",
    "lightning",
    "pytorch_lightning",
    "matplotlib",
    "triton",
    "sklearn",
    "pandas",
]
HEAVY += ["numba", "scipy", "nir", "h5py", "torchmetrics", "neurobench"]

COUNT = f"""
import json, sys
import snntorch, snntorch.surrogate, snntorch.functional
host = set(sys.modules)
import snntorch_bpsta
heavy = {HEAVY!r}
brought = {{m.partition(".")[0] for m in set(sys.modules) - host}}
print(json.dumps([sorted(brought & set(heavy)), "snntorch" in sys.modules]))
"""


def test_import_brings_no_heavy_library():
    brought, imported = run_python(COUNT)
    assert imported and brought == []


UNTOUCHED = """
import json, inspect
import snntorch, snntorch.surrogate, snntorch.functional, snntorch.utils
def members(o):
    return {k: id(v) for k, v in vars(o).items() if k != "__warningregistry__"}
watched = {"snntorch": snntorch, "surrogate": snntorch.surrogate, "functional": snntorch.functional,
           "utils": snntorch.utils, "leaky": snntorch.leaky, "neurons": snntorch.neurons}
watched |= {n: c for n, c in vars(snntorch).items() if inspect.isclass(c)}
before = {n: members(o) for n, o in watched.items()}
instances = list(snntorch.SpikingNeuron.instances)
import snntorch_bpsta as snn
snn.Leaky(0.9, spatial_adj=True, temporal_alpha=0.8)
after = {n: members(o) for n, o in watched.items()}
changed = [n for n in watched if before[n] != after[n]]
print(json.dumps([changed, len(instances)]))
"""


def test_import_does_not_patch_the_host():
    assert run_python(UNTOUCHED) == [[], 0]


def test_public_things_of_ours_are_documented():
    ours = [snn.Leaky, snn.Leaky.sequence, snn.functional.lif_multistep, snn.functional.which_impl]
    ours += [
        snn.functional.LIFOutput,
        snn.surrogate.spatial_adjustment,
        snn.surrogate.rectangle,
        snn,
    ]
    for thing in ours:
        assert (inspect.getdoc(thing) or "").strip(), thing
