"""Whatever export and load of NIR are called with: a right result, or an error that names an argument or a layer."""

import pytest
import torch

pytest.importorskip("hypothesis", reason="hypothesis (extra: dev) is missing")
pytest.importorskip("nir", reason="nir is missing")
from _fuzz import ANYTHING, NETS, OPTIONS, REFUSED, attempt, calls, fuzz, optional  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import nn  # noqa: E402

import snntorch_bpsta as snn  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

SHAPES = st.sampled_from([(), (0,), (3,), (7,), (2, 3, 4), (1, 1)])
SAMPLES = SHAPES.map(torch.zeros)
LAYERS = st.sampled_from([
    lambda: nn.Linear(3, 7), lambda: nn.Linear(7, 7),
    nn.Flatten, nn.ReLU, lambda: nn.Conv2d(2, 2, 3), lambda: nn.AvgPool2d(2),
    lambda: snn.Leaky(beta=0.9, reset_mechanism="zero"), lambda: snn.Leaky(beta=1.0), lambda: snn.Alpha(alpha=0.9, beta=0.8),
    lambda: snn.RLeaky(beta=0.9, linear_features=7, reset_mechanism="zero", reset_delay=False),
])  # fmt: skip
CHAINS = st.lists(LAYERS, max_size=4).map(lambda makes: nn.Sequential(*(make() for make in makes)))
SECONDS = optional(1e-4, 1.0, 0, -1, float("nan"))


@fuzz("export", "load", examples=300, options=calls(**OPTIONS), odd=ANYTHING, arguments=calls(
    net=st.one_of(CHAINS, NETS), sample=SAMPLES, dt=SECONDS, strict=optional(True, False),
))  # fmt: skip
def test_export_and_load(arguments, options, odd):
    attempt(snn.nir.load, odd, naming=("graph",))
    graph = attempt(snn.nir.export, **arguments, naming=("layer",))
    if graph is REFUSED:
        return
    seconds = {key: value for key, value in arguments.items() if key == "dt"}
    net = attempt(snn.nir.load, graph, **seconds, **options, naming=("node",))
    if net is not REFUSED and not options:
        x = torch.rand(3, 2, *arguments["sample"].shape)
        assert torch.equal(net(x), snn.MultiStep(arguments["net"])(x))
