"""Whatever convert, revert, patched and reset are called with: a right result, or an error that names the argument."""

import pytest
import snntorch
from torch import nn

pytest.importorskip("hypothesis", reason="hypothesis (extra: dev) is missing")
from _fuzz import (
    ANYTHING,
    INSIDE,
    NETS,
    NEURONS,
    OPTIONS,
    REFUSED,
    attempt,
    calls,
    fuzz,
    optional,
    same,
)
from hypothesis import strategies as st  # noqa: E402

import snntorch_bpsta as snn  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


# --- conversion -----------------------------------------------------------------------------------


SELECT = optional(None, lambda name, neuron: "0" in name, lambda name, neuron: False)


@fuzz("convert", "revert", "Conversion", "reset", "detach", examples=250, arguments=calls(
    net=NETS, match=SELECT, **OPTIONS, output_spike_grad=optional(None, snn.surrogate.rectangle()),
    odd=ANYTHING.filter(lambda value: not callable(value)),
))  # fmt: skip
def test_convert_and_revert(arguments):
    net, match = arguments["net"], arguments.get("match")
    if isinstance(net, nn.Module):
        classes = {name: type(module) for name, module in net.named_modules()}
        state = {key: value.clone() for key, value in net.state_dict().items()}
        wanted = {
            name for name, module in net.named_modules()
            if isinstance(module, (snntorch.SpikingNeuron, snntorch.LeakyParallel))
            and (not callable(match) or match(name, module))
        }  # fmt: skip
    reports = []
    done = attempt(snn.convert, **arguments, report=reports.append)
    attempt(snn.reset, net)
    attempt(snn.detach, net)
    back = attempt(snn.revert, net, **({"match": match} if "match" in arguments else {}), report=reports.append)
    if done is REFUSED:
        options = {*OPTIONS, "output_spike_grad"}
        assert not isinstance(net, nn.Module) or "match" in arguments or set(arguments) & options
        return
    assert done is back is net
    done, back = reports
    assert type(done) is snn.Conversion and str(done)
    assert {*done.changed, *done.unchanged, *done.refused} == wanted
    assert len(done.changed) + len(done.unchanged) + len(done.refused) == len(wanted)
    ours = {name for name in wanted if issubclass(classes[name], tuple(NEURONS.values()))}
    assert set(back.changed) == ours | set(done.changed)
    for name, module in net.named_modules():
        if classes[name] not in NEURONS.values():
            assert type(module) is classes[name]
    for key, value in net.state_dict().items():
        assert same(value, state[key])


@fuzz("bound_decays", examples=60, net=NETS)
def test_bound_decays(net):
    assert attempt(snn.bound_decays, net) in (net, REFUSED)


@fuzz("patched", examples=150, options=calls(**OPTIONS), inner=calls(**OPTIONS), name=st.sampled_from(sorted(INSIDE)))
def test_patched(options, inner, name):
    before = {host: host.__init__ for host in (getattr(snntorch, kind) for kind in NEURONS)}

    def build(options, inside):
        with snn.patched(**options):
            inside()
            return INSIDE[name]()

    for arguments in (inner, options):
        net = attempt(lambda: build(arguments, lambda: attempt(build, inner, int, naming=inner)), naming=arguments)  # noqa: B023
        assert before == {host: host.__init__ for host in before}
        if net is not REFUSED and name in ("host", "host-zero"):
            assert type(net) is snn.Leaky
            assert (net.spatial_adj, net.temporal_alpha) == (
                arguments.get("spatial_adj", False), arguments.get("temporal_alpha", 0)
            )  # fmt: skip
