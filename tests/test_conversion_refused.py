"""convert and revert: which neurons are taken, which are refused, and nets that come from elsewhere."""

import pytest
import snntorch
import torch
from _conversion import (
    BOTH,
    OFF,
    REFUSED,
    SPATIAL,
    TEMPORAL,
    Block,
    MyHost,
    MyOurs,
    assert_untouched,
    convert_quietly,
    innards,
    make,
    neuron,
    reported,
    revert_quietly,
    spiking,
    surrogate_disabled,
)
from _family import (
    B,
    N,
    T,
    assert_same,
    build,
    currents,
    drive,
    run,
    same_values,
)
from _versions import SINCE_1
from snntorch import surrogate as host_surrogate
from torch import nn

import snntorch_bpsta as snn

# --- match ----------------------------------------------------------------------------------------


def test_match_selects():
    net = make("blocks", snntorch)
    names = list(spiking(net))
    seen = {}

    def match(name, module):
        seen[name] = module
        return type(module).__name__ == "Leaky"

    report = convert_quietly(net, match=match, **BOTH)
    assert seen == spiking(net), "asked about every neuron, by its name in the net, and about nothing else"
    leaky = tuple(n for n in names if type(spiking(net)[n]).__name__ == "Leaky")
    assert report.changed == leaky and len(leaky) == 2
    assert not report.unchanged and not report.refused
    rest = [m for n, m in spiking(net).items() if n not in leaky]
    assert [type(m) for m in rest] == [snntorch.Synaptic]

    report = convert_quietly(net, match=lambda name, module: name == names[-1])
    assert report.changed + report.unchanged == (names[-1],)
    report = revert_quietly(net, match=lambda name, module: name == leaky[0])
    assert report.changed == (leaky[0],)
    assert type(spiking(net)[leaky[0]]) is snntorch.Leaky and type(spiking(net)[leaky[1]]) is snn.Leaky


def test_what_match_leaves_out_is_not_refused():
    net = nn.Sequential(snntorch.SLSTM(N, N, init_hidden=True), neuron(snntorch, "Leaky"))
    report = convert_quietly(net, match=lambda name, module: isinstance(module, snntorch.Leaky), **BOTH)
    assert report.changed == ("1",) and not report.refused


def test_a_neuron_under_two_names_is_changed_once():
    net = make("shared", snntorch)
    report = convert_quietly(net, **BOTH)
    assert report.changed == ("lif",)
    assert net.lif is net.alias is net.blocks[0].layers[0] and type(net.alias) is snn.Leaky


# --- refusals -------------------------------------------------------------------------------------


# what it is: (class, its arguments, a word of the reason)
PARTLY = {
    "reset none": ("Leaky", {"reset_mechanism": "none"}, "reset_mechanism"),
    "reset none lapicque": ("Lapicque", {"reset_mechanism": "none"}, "reset_mechanism"),
    "reset_delay": ("Leaky", {"reset_delay": False}, "reset_delay"),
    "reset_delay rleaky": ("RLeaky", {"reset_delay": False}, "reset_delay"),
    "Alpha": ("Alpha", {}, "temporal_alpha"),
}


@pytest.mark.parametrize("options", [BOTH, TEMPORAL], ids=["both", "temporal"])
@pytest.mark.parametrize("case", PARTLY)
def test_what_has_a_meaning_is_honoured_and_the_rest_reported(case, options):
    name, values, word = PARTLY[case]
    lif, plain = (build(snntorch, name, **values) for _ in range(2))
    net = nn.Sequential(neuron(snntorch, "Leaky"), Block(lif))
    for again in (False, True):
        with pytest.warns(UserWarning) as caught:
            report = reported(snn.convert, net, **options)
        assert (report.unchanged if again else report.changed) == ("0", "1.layers.0") and not report.refused
        assert list(report.partly) == ["1.layers.0"] and word in report.partly["1.layers.0"]
        (said,) = [str(w.message) for w in caught if w.category is UserWarning]
        assert "1.layers.0" in said and "temporal_alpha=0" in said and report.partly["1.layers.0"] in said
        assert "1.layers.0" in str(report) and report.partly["1.layers.0"] in str(report)
    assert lif.temporal_alpha == 0 and lif.spatial_adj is options.get("spatial_adj", False)
    assert net[0].temporal_alpha == options["temporal_alpha"]
    cur = currents(T, B, N)
    assert same_values(run(lif, cur, "zeros"), run(plain, cur, "zeros"))
    with pytest.raises(ValueError, match=word):
        build(snn, name, **values, **options)


@pytest.mark.parametrize("case", REFUSED)
def test_refused_and_left_as_it_was(case):
    make_module, options, words = REFUSED[case]
    try:
        module = make_module()
    except AttributeError as error:
        pytest.skip(f"this snnTorch has it not: {error}")
    good = neuron(snntorch, "Leaky")
    net = nn.Sequential(nn.Linear(N, N), Block(module), good)
    before = [innards(m) for m in module.modules()]
    with pytest.warns(UserWarning) as caught:
        report = reported(snn.convert, net, **options)
    assert report.changed == ("2",), "the others are converted all the same"
    assert type(good) is snn.Leaky
    assert list(report.refused) == ["1.layers.0"]
    reason = report.refused["1.layers.0"]
    assert isinstance(reason, str) and all(word in reason for word in words), reason
    said = " ".join(str(w.message) for w in caught if w.category is UserWarning)
    assert "1.layers.0" in said and all(word in said for word in words), said
    for part, was in zip(module.modules(), before, strict=True):
        assert_untouched(part, was)


@pytest.mark.parametrize("case", ["surrogate_disable spatial", "threshold 0"])
def test_what_is_ours_already_is_refused_by_the_same_rules(case):
    make_module, options, words = REFUSED[case]
    lif = make_module()
    convert_quietly(lif)
    before = innards(lif)
    with pytest.warns(UserWarning):
        report = reported(snn.convert, lif, **options)
    assert list(report.refused) == [""] and all(word in report.refused[""] for word in words)
    assert_untouched(lif, before)
    assert report.changed == report.unchanged == ()


def test_a_refusal_leaves_the_options_of_before():
    lif = build(snntorch, "Leaky", threshold=0.0)
    convert_quietly(lif, temporal_alpha=0.5)
    with pytest.warns(UserWarning):
        snn.convert(lif, spatial_adj=True)
    assert lif.spatial_adj is False and lif.temporal_alpha == 0.5


ALLOWED = {
    "threshold 0, temporal": (lambda: build(snntorch, "Leaky", threshold=0.0), TEMPORAL),
    "reset none, spatial": (lambda: build(snntorch, "Leaky", reset_mechanism="none"), SPATIAL),
    "reset_delay, spatial": (lambda: build(snntorch, "Synaptic", reset_delay=False), SPATIAL),
    "surrogate_disable, off": (surrogate_disabled, OFF),
    "Alpha, spatial": (lambda: build(snntorch, "Alpha"), SPATIAL),
    "threshold 0, off": (lambda: build(snntorch, "RSynaptic", threshold=0.0), OFF),
    "alpha 1": (lambda: build(snntorch, "Leaky"), dict(temporal_alpha=1)),
    "alpha 0, integer": (lambda: build(snntorch, "Leaky"), dict(spatial_adj=True, temporal_alpha=0)),
    "spike_grad, spatial": (lambda: build(snntorch, "Leaky", spike_grad=host_surrogate.sigmoid()), SPATIAL),
}


@pytest.mark.parametrize("case", ALLOWED)
def test_what_the_rules_allow_is_converted(case):
    make_module, options = ALLOWED[case]
    lif, plain = make_module(), make_module()
    assert convert_quietly(lif, **options).changed == ("",)
    cur = currents(T, B, N)
    assert same_values(run(lif, cur, "zeros"), run(plain, cur, "zeros"))


def test_a_subclass_of_ours_takes_options_but_is_not_reverted():
    lif = MyOurs(beta=0.9, threshold=0.5)
    report = convert_quietly(lif, **BOTH)
    assert report.changed == ("",) and type(lif) is MyOurs
    assert (lif.spatial_adj, lif.temporal_alpha) == (True, 0.8)
    assert convert_quietly(lif, **BOTH).unchanged == ("",)
    before = innards(lif)
    with pytest.warns(UserWarning, match="MyOurs"):
        report = reported(snn.revert, lif)
    assert list(report.refused) == [""] and "MyOurs" in report.refused[""]
    assert report.changed == () and report.unchanged == ()
    assert_untouched(lif, before)


def test_revert_leaves_the_hosts_neurons_alone():
    net = nn.Sequential(neuron(snntorch, "Leaky"), MyHost(0.9), snntorch.SLSTM(N, N))
    before = [innards(m) for m in net.modules()]
    report = revert_quietly(net)
    assert report.changed == ()
    for module, was in zip(net.modules(), before, strict=True):
        assert_untouched(module, was)


def test_the_report_can_be_read():
    net = nn.Sequential(neuron(snntorch, "Leaky"), neuron(snn, "Leaky", **BOTH), Block(MyHost(0.9)))
    with pytest.warns(UserWarning):
        report = reported(snn.convert, net, **BOTH)
    changed, unchanged, refused, partly = report
    assert (changed, unchanged, list(refused), partly) == (("0",), ("1",), ["2.layers.0"], {})
    assert (report.changed, report.unchanged, report.refused) == (changed, unchanged, refused)
    text = str(report)
    assert "0" in text and "2.layers.0" in text and refused["2.layers.0"] in text
    assert "object at 0x" not in text


WRONG = {
    "net is a list": (lambda net: snn.convert([net]), TypeError, "net"),
    "net is None": (lambda net: snn.convert(None), TypeError, "net"),
    "net is a class": (lambda net: snn.convert(snntorch.Leaky), TypeError, "net"),
    "spatial_adj is 1": (lambda net: snn.convert(net, spatial_adj=1), TypeError, "spatial_adj"),
    "spatial_adj is None": (lambda net: snn.convert(net, spatial_adj=None), TypeError, "spatial_adj"),
    "temporal_alpha is 2": (lambda net: snn.convert(net, temporal_alpha=2), ValueError, "temporal_alpha"),
    "temporal_alpha is -1.1": (lambda net: snn.convert(net, temporal_alpha=-1.1), ValueError, "temporal_alpha"),
    "temporal_alpha is nan": (lambda net: snn.convert(net, temporal_alpha=float("nan")), ValueError, "temporal_alpha"),
    "temporal_alpha is text": (lambda net: snn.convert(net, temporal_alpha="0.8"), TypeError, "temporal_alpha"),
    "temporal_alpha is True": (lambda net: snn.convert(net, temporal_alpha=True), TypeError, "temporal_alpha"),
    "match is 3": (lambda net: snn.convert(net, spatial_adj=True, match=3), TypeError, "match"),
    "match is a name": (lambda net: snn.convert(net, spatial_adj=True, match="lif"), TypeError, "match"),
    "options by position": (lambda net: snn.convert(net, True, 0.8), TypeError, "positional"),
    "unknown option": (lambda net: snn.convert(net, alpha=0.8), TypeError, "alpha"),
    "revert of a list": (lambda net: snn.revert([net]), TypeError, "net"),
    "revert, match is 3": (lambda net: snn.revert(net, match=3), TypeError, "match"),
    "patched, spatial_adj is 1": (lambda net: snn.patched(spatial_adj=1).__enter__(), TypeError, "spatial_adj"),
    "patched, temporal_alpha is 2": (
        lambda net: snn.patched(temporal_alpha=2).__enter__(),
        ValueError,
        "temporal_alpha",
    ),
    "reset of a list": (lambda net: snn.reset([net]), TypeError, "net"),
    "reset of None": (lambda net: snn.reset(None), TypeError, "net"),
    "reset of a class": (lambda net: snn.reset(snntorch.Leaky), TypeError, "net"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments(case):
    call, error, word = WRONG[case]
    net = nn.Sequential(nn.Linear(N, N), neuron(snntorch, "Leaky"))
    before, init = [innards(m) for m in net.modules()], snntorch.Leaky.__init__
    with pytest.raises(error, match=word):
        call(net)
    for module, was in zip(net.modules(), before, strict=True):
        assert_untouched(module, was)
    assert snntorch.Leaky.__init__ is init


# --- nets that come from elsewhere ----------------------------------------------------------------


def test_a_loaded_checkpoint(tmp_path):
    trained = make("blocks", snntorch)
    with torch.no_grad():
        for p in trained.parameters():
            p.mul_(1.5)
    torch.save(trained.state_dict(), tmp_path / "net.pt")
    checkpoint = torch.load(tmp_path / "net.pt", weights_only=True)
    early, late = make("blocks", snntorch), make("blocks", snntorch)
    convert_quietly(early, **BOTH)
    early.load_state_dict(checkpoint, strict=True)
    late.load_state_dict(checkpoint, strict=True)
    convert_quietly(late, **BOTH)
    cur = currents(T, B, N)
    expected = drive(trained, cur)
    results = [drive(net, cur) for net in (early, late)]
    assert_same(*results)
    assert same_values(results[0], expected) and not torch.equal(results[0]["dinput"], expected["dinput"])


def nir_net(kind):
    nir = pytest.importorskip("nir")
    pytest.importorskip("nirtorch")
    import numpy as np
    from snntorch.import_nir import import_from_nir

    rng = np.random.default_rng(0)

    def affine(n_in, n_out):
        return nir.Affine(rng.normal(size=(n_out, n_in)).astype("float32"), np.zeros(n_out, "float32"))

    def lif(n):
        full = np.full
        if kind == "LIF":
            return nir.LIF(tau=full(n, 1e-3), r=full(n, 10.0), v_leak=np.zeros(n), v_threshold=full(n, 0.5))
        return nir.CubaLIF(
            tau_mem=full(n, 1e-3),
            tau_syn=full(n, 5e-4),
            r=full(n, 10.0),
            w_in=full(n, 5.0),
            v_leak=np.zeros(n),
            v_threshold=full(n, 0.5),
        )

    nodes = {
        "input": nir.Input({"input": np.array([N])}),
        "fc1": affine(N, 5),
        "lif1": lif(5),
        "fc2": affine(5, 4),
        "lif2": lif(4),
        "output": nir.Output({"output": np.array([4])}),
    }
    return import_from_nir(nir.NIRGraph(nodes, list(zip(list(nodes), list(nodes)[1:], strict=False))))


@pytest.mark.parametrize("kind", [pytest.param("LIF", marks=SINCE_1), "CubaLIF"])
def test_a_net_from_nir(kind):
    net, plain = nir_net(kind), nir_net(kind)
    names = tuple(spiking(net))
    assert len(names) == 2

    def spikes(net):
        cur = currents(T, B, N).requires_grad_()
        snn.reset(net)
        out = torch.stack([net(c)[0] for c in cur])
        out.sum().backward()
        return out.detach(), cur.grad

    with pytest.warns(UserWarning, match="reset_delay"):
        report = reported(snn.convert, net, **BOTH)  # the importer always sets reset_delay=False
    assert tuple(report.partly) == report.changed == names and not report.refused
    report = convert_quietly(net, **SPATIAL)
    assert report.unchanged == names
    (out, grad), (expected, plain_grad) = spikes(net), spikes(plain)
    assert expected.count_nonzero() and torch.equal(out, expected) and not torch.equal(grad, plain_grad)
    revert_quietly(net)
    out, grad = spikes(net)
    assert torch.equal(out, expected) and torch.equal(grad, plain_grad)
    # Temporal adjustment once reset_delay is set, as the documented way to it.
    for part in (net, plain):
        for module in spiking(part).values():
            module.reset_delay = True
    assert convert_quietly(net, **BOTH).changed == names
    (out, grad), (expected, plain_grad) = spikes(net), spikes(plain)
    assert torch.equal(out, expected) and not torch.equal(grad, plain_grad)
