"""Table 1: rows, builder, shapes, presets, and the warm-up of whole networks."""

import copy
import io
import pickle
from dataclasses import replace

import pytest
import snntorch
import torch
from _tolerance import assert_close
from torch import nn

import snntorch_bpsta as snn
from snntorch_bpsta import networks
from snntorch_bpsta.neurons import FAMILY
from snntorch_bpsta.training import RECIPES, VARIANTS

F32 = torch.float32

# Retyped from Table 1 of the paper.
TABLE_1 = {
    "small": "128C3-MP2-128C3-256C3-MP2-4096FC-DP-10Voting",
    "middle": "128C3-MP2-128C3-MP2-256C3-MP2-512C3-AP4-512FC-10Voting",
    "large": "128C3-128C3-AP2-128C3-AP2-256C3-AP2-512C3-AP2-1024C3-AP4-DP-1024FC-10Voting",
}
BUILDERS = {"small": networks.small, "middle": networks.middle, "large": networks.large}
# What the two presets are at the data sets' sizes: (preset, network, input, classes) -> (notation, dense layers).
FULL_SIZE = {
    "small-mnist": ("paper", "small", (1, 28, 28), 10, TABLE_1["small"], [(256 * 7 * 7, 4096), (4096, 100)]),
    "small-digits": ("paper", "small", (1, 8, 8), 10, TABLE_1["small"], [(256 * 2 * 2, 4096), (4096, 100)]),
    "middle-cifar10": ("paper", "middle", (3, 32, 32), 10, TABLE_1["middle"], [(512, 512), (512, 100)]),
    "middle-nmnist": ("paper", "middle", (2, 34, 34), 10, TABLE_1["middle"], [(512, 512), (512, 100)]),
    "large-gesture": ("paper", "large", (2, 64, 64), 11, TABLE_1["large"], [(1024, 1024), (1024, 110)]),
    "large-cifar10dvs": ("paper", "large", (2, 64, 64), 10, TABLE_1["large"], [(1024, 1024), (1024, 100)]),
    "code-small": (
        "official_code", "small", (1, 28, 28), 10,
        "128C3-MP2-128C3-256C3-AP2-4096FC-DP-10Voting", [(256 * 7 * 7, 4096), (4096, 100)],
    ),
    "code-middle-images": (
        "official_code", "middle", (3, 32, 32), 10,
        "128C3-128C3-MP2-128C3-MP2-256C3-MP2-512C3-AP4-10Voting", [(512, 100)],
    ),
    "code-middle-events": (
        "official_code", "middle", (2, 34, 34), 10,
        "128C3-MP2-128C3-MP2-256C3-AP2-512C3-AP4-DP-10Voting", [(512, 100)],
    ),
    "code-large": (
        "official_code", "large", (2, 64, 64), 11,
        "128C3-128C3-MP2-128C3-MP2-256C3-MP2-512C3-AP2-1024C3-AP4-DP-10Voting", [(1024, 110)],
    ),
}  # fmt: skip


@pytest.fixture
def no_init(monkeypatch):
    """Weights that nothing writes to: the memory of a wide network is asked for and never touched.

    (On ``torch.device("meta")`` snnTorch's neurons cannot be built: they read their reset mechanism from a tensor.)
    """
    for layer in (nn.Conv2d, nn.Linear):
        monkeypatch.setattr(layer, "reset_parameters", lambda self: None)


def neurons(net):
    return [module for module in net.modules() if isinstance(module, snntorch.SpikingNeuron)]


def is_neuron_or_encoding(layer):
    return isinstance(layer, snn.Leaky | snn.DirectEncoding)


def flat(net):
    """The layers in their order, blocks opened."""
    return [layer for child in net for layer in (child if isinstance(child, nn.Sequential) else [child])]


def spelled(net):
    """The paper's notation, read back from the layers themselves."""
    tokens, layers = [], [layer for layer in flat(net) if not isinstance(layer, snn.DirectEncoding)]
    while layers:
        layer, rest = layers[0], layers[1:]
        kinds = [type(x) for x in layers[:4]]
        if kinds == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, snn.Leaky]:
            assert (layer.kernel_size, layer.padding, layer.stride, layer.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
            assert rest[0].num_features == layer.out_channels
            tokens.append(f"{layer.out_channels}C3")
            layers = layers[4:]
        elif kinds[:3] == [nn.Linear, nn.ReLU, snn.Leaky]:
            tokens.append(f"{layer.out_features}FC")
            layers = layers[3:]
        elif kinds[0] is nn.Linear:
            voting = 2 if kinds[1] is snn.Leaky else 1
            assert isinstance(layers[voting], snn.Voting)
            assert layer.out_features == layers[voting].voters * net.num_classes
            tokens.append(f"{layers[voting].voters}Voting")
            layers = layers[voting + 1 :]
        else:
            if kinds[0] in (nn.MaxPool2d, nn.AvgPool2d):
                assert layer.stride == layer.kernel_size and not layer.padding and not layer.ceil_mode
                tokens.append(f"{'MP' if kinds[0] is nn.MaxPool2d else 'AP'}{layer.kernel_size}")
            elif kinds[0] is snn.NeuronDropout:
                tokens.append("DP")
            else:
                assert kinds[0] is nn.Flatten
            layers = rest
    return "-".join(tokens)


def picture(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def narrow(readout="spikes", seed=0, **options):
    """A small network that spikes in every layer: statistics warm, weights a little larger than PyTorch's."""
    torch.manual_seed(seed)
    options = dict(width=1 / 32, num_steps=4, dropout=0) | options
    return networks.small((1, 8, 8), readout=readout, **options)


# --- the rows and the full-size networks -------------------------------------------------------------------


def test_the_rows_are_table_1():
    assert networks.NETWORKS["paper"] == TABLE_1


@pytest.mark.parametrize("name", FULL_SIZE)
def test_full_size_layer_by_layer(name, no_init):
    preset, network, shape, classes, notation, dense = FULL_SIZE[name]
    net = BUILDERS[network](shape, classes, preset=preset)
    assert net.notation == notation and spelled(net) == notation
    assert (net.input_shape, net.num_classes, net.readout) == (shape, classes, "spikes")
    channels, size = shape[0], shape[1:]
    for layer in flat(net):  # the shapes flow from layer to layer
        if isinstance(layer, nn.Conv2d):
            assert layer.in_channels == channels
            channels = layer.out_channels
        elif isinstance(layer, nn.MaxPool2d | nn.AvgPool2d):
            size = [side // layer.kernel_size for side in size]
        elif isinstance(layer, nn.Flatten):
            assert channels * size[0] * size[1] == dense[0][0]
    assert [(x.in_features, x.out_features) for x in net.modules() if isinstance(x, nn.Linear)] == dense
    assert len(neurons(net)) == notation.count("C3") + notation.count("FC") + 1


def test_full_size_parameters_by_hand(no_init):
    def count(net):
        return sum(parameter.numel() for parameter in net.parameters())

    def conv(before, after):
        return 9 * before * after + after + 2 * after  # weights, bias, batch norm

    def linear(before, after):
        return before * after + after

    small = conv(1, 128) + conv(128, 128) + conv(128, 256) + linear(256 * 49, 4096) + linear(4096, 100)
    middle = conv(3, 128) + conv(128, 128) + conv(128, 256) + conv(256, 512) + linear(512, 512) + linear(512, 100)
    large = conv(2, 128) + 2 * conv(128, 128) + conv(128, 256) + conv(256, 512) + conv(512, 1024)
    large += linear(1024, 1024) + linear(1024, 110)
    assert [count(networks.small()), count(networks.middle()), count(networks.large())] == [small, middle, large]


def test_default_inputs_are_the_papers_data_sets(no_init):
    shapes = [(net.input_shape, net.num_classes) for net in (networks.small(), networks.middle(), networks.large())]
    assert shapes == [((1, 28, 28), 10), ((3, 32, 32), 10), ((2, 64, 64), 11)]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dataset", RECIPES)
def test_every_recipe_builds_its_network(dataset, variant, no_init):
    own = dict(sensor_size="34x34", num_classes=10) if dataset == "folder" else {}
    recipe = replace(RECIPES[dataset].variant(variant), **own)
    net = recipe.build_network()
    rows = {"small": "small", "middle": "middle", "large": "large"}
    assert net.notation == TABLE_1[rows[recipe.network]]
    assert len(net.input_shape) == 3 and net.num_classes in (10, 11)
    spatial_adj, leak, temporal_alpha, output, surrogate = VARIANTS[variant].values()
    spatial_adj = snn.surrogate.spatial_adjustment(leak=leak) if leak else spatial_adj
    assert {(n.spatial_adj, n.temporal_alpha) for n in [*neurons(net)][:-1]} == {(spatial_adj, temporal_alpha)}
    last = [*neurons(net)][-1]
    assert (last.spatial_adj, last.temporal_alpha) == (spatial_adj if output == "same" else False, temporal_alpha)
    own = type(getattr(snn.surrogate, surrogate)())
    assert all(isinstance(n.spike_grad, own) != n.spatial_adj for n in neurons(net))


# --- presets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("preset", "alpha", "fold"), [("paper", 0.8, True), ("official_code", 0.2, False)])
@pytest.mark.parametrize("network", BUILDERS)
def test_presets(network, preset, alpha, fold, no_init):
    net = BUILDERS[network](preset=preset)
    assert net.fold is fold
    for neuron in neurons(net):
        assert (neuron.beta, neuron.threshold) == (pytest.approx(0.9), 0.5)
        assert (neuron.reset_mechanism, neuron.spatial_adj, neuron.temporal_alpha) == ("zero", True, alpha)
        assert not neuron.init_hidden and neuron.warm_up is None
    assert all(x.p == 0.5 for x in net.modules() if isinstance(x, snn.NeuronDropout))
    encodings = [x.num_steps for x in net.modules() if isinstance(x, snn.DirectEncoding)]
    assert encodings == [16], "one, at the paper's T"


def test_options_override_the_preset():
    net = narrow(preset="official_code", fold=True, temporal_alpha=0.5, beta=0.7, dropout=0.25)
    assert net.fold is True
    assert {(n.temporal_alpha, round(n.beta.item(), 6)) for n in neurons(net)} == {(0.5, 0.7)}
    assert [x.p for x in net if isinstance(x, snn.NeuronDropout)] == [0.25]


@pytest.mark.parametrize("preset", networks.NETWORKS)
def test_batch_statistics_of_the_presets(preset):
    """Per step the running averages move T times, folded once; behind the encoding."""
    net = narrow(preset=preset)
    net(picture(3, 1, 8, 8))
    tracked = [x.num_batches_tracked.item() for x in net.modules() if isinstance(x, nn.BatchNorm2d)]
    assert tracked == ([1, 1, 1] if preset == "paper" else [1, 4, 4])


def test_unknown_preset():
    with pytest.raises(ValueError, match="preset must be one of 'paper', 'official_code'; got 'papers'"):
        networks.small(preset="papers")


# --- narrow networks run ------------------------------------------------------------------------------------

SHAPES = {
    "small-28": ("small", (1, 28, 28), 10),
    "small-8": ("small", (1, 8, 8), 10),
    "small-rgb": ("small", (3, 9, 13), 7),
    "middle-32": ("middle", (3, 32, 32), 10),
    "middle-34": ("middle", (2, 34, 34), 10),
    "large-64": ("large", (2, 64, 64), 11),
}


@pytest.mark.parametrize("readout", networks.READOUTS)
@pytest.mark.parametrize("preset", networks.NETWORKS)
@pytest.mark.parametrize("name", SHAPES)
def test_images_and_event_frames_run(name, preset, readout):
    network, shape, classes = SHAPES[name]
    net = BUILDERS[network](shape, classes, preset=preset, width=1 / 64, num_steps=3, readout=readout)
    out = net(picture(2, *shape))
    assert out.shape == (3, 2, classes) and out.isfinite().all()
    assert net(picture(5, 2, *shape)).shape == (5, 2, classes), "event frames bring their own T"
    out.square().sum().backward()
    assert net[-2 if readout == "current" else -3].weight.grad.isfinite().all()
    if readout == "spikes":  # the mean of ten spikes
        assert (out * 10 - (out * 10).round()).abs().max() < 1e-5 and 0 <= out.min() and out.max() <= 1


def test_one_event_frame_is_one_step():
    """`num_steps` is for static images; event frames [T, B, C, H, W] bring their own T, also T = 1."""
    net = networks.small((2, 8, 8), width=1 / 64, num_steps=4)
    assert net(picture(1, 2, 2, 8, 8)).shape == (1, 2, 10)


def test_an_image_is_the_current_at_every_step():
    net = narrow().eval()
    image = picture(3, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(net(image), net(image.expand(4, 3, 1, 8, 8)))


def test_readouts():
    spikes, current = narrow(), narrow("current")
    assert spelled(spikes) == spelled(current)
    assert len(neurons(spikes)) == len(neurons(current)) + 1
    assert isinstance(list(spikes)[-2], snn.Leaky) and isinstance(list(current)[-2], nn.Linear)
    current.load_state_dict(spikes.state_dict(), strict=False)
    out = current.eval()(picture(3, 1, 8, 8))
    assert (out < 0).any() and (out != (out * 10).round() / 10).any()
    with torch.no_grad():
        cur = current[:-1](picture(3, 1, 8, 8).unsqueeze(0))
        assert torch.equal(snn.Voting(10)(cur), out)


@pytest.mark.parametrize("width", [1 / 8, 1 / 64, 0.3, 2])
def test_width(width):
    net = networks.small((1, 8, 8), width=width, num_steps=1)
    channels = [x.out_channels for x in net.modules() if isinstance(x, nn.Conv2d)]
    assert channels == [round(128 * width), round(128 * width), round(256 * width)]
    dense = [x.out_features for x in net.modules() if isinstance(x, nn.Linear)]
    assert dense == [round(4096 * width), 100], "the voters keep their number"


@pytest.mark.parametrize("classes", [1, 2, 11])
def test_num_classes(classes):
    net = networks.build("4C3-3Voting", (1, 4, 4), classes, num_steps=2, beta=0.9)
    assert net(picture(2, 1, 4, 4)).shape == (2, 2, classes) and net[-3].out_features == 3 * classes


@pytest.mark.parametrize("notation", ["6FC-2Voting", "2Voting", "MP2-AP2-6FC-5FC-2Voting", "3C3-DP-2Voting", "3C3-MP2"])
def test_other_notations(notation):
    net = networks.build(notation, (1, 8, 8), 3, num_steps=2, beta=0.9, spatial_adj=True)
    assert net(picture(5, 1, 8, 8)).shape == ((2, 5, 3) if "Voting" in notation else (2, 5, 3, 4, 4))
    assert spelled(net) == notation


def test_default_neuron_arguments_go_through():
    net = narrow(learn_beta=True, learn_threshold=True, temporal_alpha=0.3)
    names = {name.rsplit(".", 1)[1] for name, _ in net.named_parameters()}
    assert {"beta", "threshold"} <= names
    for _ in range(3):  # warm statistics make the deeper layers fire
        out = net(picture(16, 1, 8, 8))
    out.sum().backward()
    first = neurons(net)[0]
    assert first.beta.grad.isfinite() and first.threshold.grad.isfinite()
    assert len({id(n.beta) for n in neurons(net)}) == len(neurons(net))


# --- refusals -----------------------------------------------------------------------------------------------

REFUSALS = {
    "token": (dict(notation="128C5-10Voting"), "unknown token '128C5' in '128C5-10Voting'.*128C3, MP2"),
    "empty-token": (dict(notation="128C3--DP"), "unknown token ''"),
    "no-number": (dict(notation="C3"), "unknown token 'C3'"),
    "lower-case": (dict(notation="4c3"), "unknown token '4c3'"),
    "too-small": (dict(notation="4C3-MP2-AP4-MP2"), r"\(1, 8, 8\) is too small for 4C3-MP2-AP4-MP2.*at MP2"),
    "no-channel": (dict(width=0.01), "width=0.01 leaves no channel of 4"),
    "zero-width": (dict(width=0), "width must be > 0, got 0"),
    "nan-width": (dict(width=float("nan")), "width must be > 0, got nan"),
    "readout": (dict(readout="membrane"), "readout must be one of 'spikes', 'current'; got 'membrane'"),
    "classes": (dict(num_classes=0), "num_classes must be an integer >= 1"),
    "steps": (dict(num_steps=0), "num_steps must be an integer >= 1"),
    "flat-input": (dict(input_shape=(8, 8)), r"input_shape must be \(C, H, W\)"),
    "deep-input": (dict(input_shape=(2, 1, 8, 8)), r"input_shape must be \(C, H, W\)"),
    "neuron": (dict(threshold=-1.0), "threshold > 0"),
    "dropout": (dict(dropout=2.0), r"dropout must be a number in \[0, 1\]"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_build_refuses(name):
    options, match = REFUSALS[name]
    options = dict(notation="4C3-DP-10Voting", input_shape=(1, 8, 8), beta=0.9, spatial_adj=True) | options
    with pytest.raises(ValueError, match=match):
        networks.build(**options)


@pytest.mark.parametrize(("network", "shape"), [("middle", (3, 8, 8)), ("large", (2, 34, 34))], ids=["middle", "large"])
def test_inputs_too_small_for_the_pooling(network, shape):
    with pytest.raises(ValueError, match="too small.*nothing is left at AP4"):
        BUILDERS[network](shape, width=1 / 64)


@pytest.mark.parametrize(
    "shape", [(2, 3, 8, 8), (2, 1, 8, 9), (5, 2, 3, 8, 8), (8, 8), (1, 8, 8), (1, 1, 2, 1, 8, 8)], ids=str
)
def test_wrong_inputs_are_refused(shape):
    match = r"expected images \[B, 1, 8, 8\] or event frames \[T, B, 1, 8, 8\], got \(.*\)"
    with pytest.raises(ValueError, match=match):
        narrow()(torch.rand(shape))


@pytest.mark.parametrize("value", ["Identity", "none", True, 1])
def test_unknown_warm_up(value):
    net = narrow()
    with pytest.raises(ValueError, match="warm_up must be one of None, 'identity', 'surrogate'"):
        networks.set_warm_up(net, value)
    assert {n.warm_up for n in neurons(net)} == {None}


# --- warm-up ------------------------------------------------------------------------------------------------


def without_neurons(net):
    """The artificial network it contains."""
    return nn.Sequential(*(layer for layer in flat(net) if not is_neuron_or_encoding(layer)))


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("readout", networks.READOUTS)
def test_identity_warm_up_is_the_network_without_neurons(readout, mode):
    net = narrow(readout).train(mode == "train")
    artificial = copy.deepcopy(without_neurons(net))
    networks.set_warm_up(net, "identity")
    image = picture(6, 1, 8, 8)
    out, expected = net(image), artificial(image)
    assert out.shape == (1, 6, 10), "one time step for images"
    assert torch.allclose(out[0], expected, atol=1e-6) and (out < 0).any()
    out.square().sum().backward()
    expected.square().sum().backward()
    for (name, ours), theirs in zip(net.named_parameters(), artificial.parameters(), strict=True):
        assert theirs.grad.count_nonzero() > 0, name
        assert_close(ours.grad, theirs.grad, F32, theirs.grad.abs().max() + 1e-3, name)


def test_identity_warm_up_keeps_the_steps_of_event_frames():
    net = networks.small((2, 8, 8), width=1 / 32, dropout=0).eval()
    artificial = without_neurons(net)
    networks.set_warm_up(net, "identity")
    frames = picture(5, 3, 2, 8, 8)
    with torch.no_grad():
        out = net(frames)
        assert out.shape == (5, 3, 10)
        for out_t, frame in zip(out, frames, strict=True):
            assert_close(out_t, artificial(frame), F32, 1.0)


def outputs_and_gradients(net, image):
    net.zero_grad()
    out = net(image)
    (out * picture(*out.shape, seed=5)).sum().backward()
    return out.detach().clone(), [parameter.grad.clone() for parameter in net.parameters()]


def test_surrogate_warm_up_keeps_the_spikes_and_changes_the_gradients():
    net = narrow().eval()
    image = picture(6, 1, 8, 8) * 3
    out, before = outputs_and_gradients(net, image)
    networks.set_warm_up(net, "surrogate")
    warm_out, warm = outputs_and_gradients(net, image)
    assert torch.equal(warm_out, out)
    assert warm[0].count_nonzero() > 0
    assert any((a - b).abs().max() > 1e-3 for a, b in zip(before, warm, strict=True))


@pytest.mark.parametrize("warm_up", ["identity", "surrogate"])
def test_none_restores(warm_up):
    net = narrow().eval()
    image = picture(6, 1, 8, 8) * 3
    out, before = outputs_and_gradients(net, image)
    networks.set_warm_up(net, warm_up)
    outputs_and_gradients(net, image)
    networks.set_warm_up(net, None)
    again, after = outputs_and_gradients(net, image)
    assert torch.equal(again, out)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_identity_warm_up_in_a_loop_of_a_tutorial():
    lif = snn.Leaky(beta=0.9)
    lif.warm_up = "identity"
    mem = lif.init_leaky()  # empty, as the host's
    for cur in torch.rand(3, 4, 5):
        spk, mem = lif(cur, mem)
        assert torch.equal(spk, cur) and torch.equal(mem, torch.zeros(4, 5))


def test_set_warm_up_reaches_every_neuron_and_leaves_the_rest_alone():
    net = nn.ModuleList([nn.Sequential(narrow()), snntorch.Leaky(beta=0.9), nn.Linear(2, 2)])
    networks.set_warm_up(net, "identity")
    touched = [module for module in net.modules() if hasattr(module, "warm_up")]
    assert len(touched) == 6 and {module.warm_up for module in touched} == {"identity"}


# --- copies -------------------------------------------------------------------------------------------------


def by_torch_save(net):
    buffer = io.BytesIO()
    torch.save(net, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


COPIES = {"pickle": lambda net: pickle.loads(pickle.dumps(net)), "deepcopy": copy.deepcopy, "torch.save": by_torch_save}


@pytest.mark.parametrize("warm_up", networks.WARM_UPS, ids=str)
@pytest.mark.parametrize("spike_grad", ["spatial", "rectangle"])
@pytest.mark.parametrize("way", COPIES)
def test_copies_do_the_same(way, spike_grad, warm_up):
    options = {} if spike_grad == "spatial" else dict(spatial_adj=False, spike_grad=snn.surrogate.rectangle())
    net, image = narrow(**options).eval(), picture(4, 1, 8, 8) * 3
    networks.set_warm_up(net, warm_up)
    outputs_and_gradients(net, image)  # a network that has run
    twin = COPIES[way](net)
    assert type(twin) is type(net) and twin.notation == net.notation and twin.input_shape == (1, 8, 8)
    (out, gradients), (other, others) = outputs_and_gradients(net, image), outputs_and_gradients(twin, image)
    assert torch.equal(out, other)
    assert all(torch.equal(a, b) for a, b in zip(gradients, others, strict=True))
    with torch.no_grad():
        twin[0][0].weight.zero_()
    assert net[0][0].weight.count_nonzero() > 0


@pytest.mark.parametrize("readout", networks.READOUTS)
def test_state_dict_round_trip(readout):
    net, other = narrow(readout, seed=1), narrow(readout, seed=2)
    image = picture(6, 1, 8, 8)
    net(image)  # moves the running statistics
    buffer = io.BytesIO()
    torch.save(net.state_dict(), buffer)
    buffer.seek(0)
    net.eval()
    other.eval()
    networks.set_warm_up(net, "identity")
    networks.set_warm_up(other, "identity")
    assert not torch.equal(other(image), net(image))
    other.load_state_dict(torch.load(buffer, weights_only=True), strict=True)
    assert torch.equal(other(image), net(image))
    assert not any("warm_up" in key or key.endswith(".mem") for key in net.state_dict())


def test_state_dict_loads_into_the_stock_neurons():
    net = narrow()
    stock = nn.Sequential(*net)
    for index, layer in enumerate(stock):
        if isinstance(layer, snn.Leaky):
            stock[index] = snntorch.Leaky(beta=0.1)
    stock.load_state_dict(net.state_dict(), strict=True)
    assert stock[-2].beta == pytest.approx(0.9) and stock[-2].threshold == 0.5


def test_a_slice_of_a_network_runs():
    net = narrow().eval()
    image = picture(3, 1, 8, 8)
    part = net[:2]
    assert type(part) is snn.MultiStep and part.fold
    with torch.no_grad():
        assert torch.equal(net[2:](part(image.unsqueeze(0))), net(image))


@pytest.mark.parametrize("neuron", FAMILY, ids=lambda neuron: neuron.__name__)
def test_set_warm_up_works_for_all_six(neuron):
    options = {"alpha": 0.8} if neuron.__name__ in ("Synaptic", "RSynaptic", "Alpha") else {}
    options |= {"all_to_all": False} if neuron.__name__.startswith("R") else {}
    net = nn.Sequential(neuron(beta=0.5, init_hidden=True, spatial_adj=True, **options))
    cur = torch.tensor([[0.1, -1.0]])  # too little to fire
    networks.set_warm_up(net, "identity")
    assert torch.equal(net(cur), cur), "no neuron"
    reached = {}
    for warm_up in ("surrogate", None):
        networks.set_warm_up(net, warm_up)
        snn.reset(net)
        cur.requires_grad_().grad = None
        (net(cur) + net(cur)).sum().backward()  # Alpha's membrane is 0 at the first step
        reached[warm_up] = (cur.grad != 0).tolist()
    assert reached == {"surrogate": [[True, True]], None: [[False, False]]}, "Eq. 9 is 0 without a spike"
