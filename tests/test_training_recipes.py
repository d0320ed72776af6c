"""Recipes as data; what a recipe says arrives at every neuron of its network."""

import json
from dataclasses import FrozenInstanceError, fields, replace

import pytest
import torch

import snntorch_bpsta as snn
from snntorch_bpsta.training import RECIPES, VARIANTS, Recipe

RECIPE = Recipe(epochs=1, num_steps=2, width=1 / 32, limit=128, test_limit=64)


REFUSED = {
    "dataset": (dict(dataset="imagenet"), ValueError, "dataset must be one of 'digits'.*'imagenet'"),
    "network": (dict(network="huge"), ValueError, "network must be one of"),
    "network-token": (dict(network="128FC-3LSTM"), ValueError, "notation: unknown token '3LSTM'"),
    "network-number": (dict(network=3), TypeError, "network must be the name of a network, got int"),
    "spatial_leak": (dict(spatial_leak=-0.1), ValueError, "spatial_leak must be a finite number >= 0"),
    "spatial_leak-of-none": (dict(spatial_leak=0.1, spatial_adj=False), ValueError, "spatial_leak is that of Eq. 9"),
    "preset": (dict(preset="code"), ValueError, "preset must be one of"),
    "readout": (dict(readout="mem"), ValueError, "readout must be one of"),
    "warm_up": (dict(warm_up="ann"), ValueError, "warm_up must be one of"),
    "warm_up-None": (dict(warm_up=None), ValueError, "warm_up must be one of"),
    "schedule": (dict(schedule="step"), ValueError, "schedule must be one of"),
    "sensor_size": (
        dict(dataset="folder", sensor_size="34*34"),
        ValueError,
        "sensor_size must be HxW .*'34x34', got '34",
    ),
    "sensor_size-0": (dict(dataset="folder", sensor_size="0x34"), ValueError, "sensor_size must be HxW"),
    "sensor_size-pair": (dict(dataset="folder", sensor_size=(34, 34)), TypeError, "sensor_size must be HxW"),
    "sensor_size-of-others": (dict(sensor_size="34x34"), ValueError, "sensor_size is of your own recordings"),
    "frame_size-of-images": (
        dict(frame_size="34x34"),
        ValueError,
        "recordings, got '34x34' for the images of 'digits'",
    ),
    "num_classes-of-others": (dict(num_classes=3), ValueError, "num_classes is of your own recordings"),
    "num_steps-0": (dict(num_steps=0), ValueError, "num_steps must be an integer >= 1"),
    "num_steps-float": (dict(num_steps=4.0), TypeError, "num_steps must be an integer >= 1"),
    "num_steps-bool": (dict(num_steps=True), TypeError, "num_steps must be an integer >= 1"),
    "epochs": (dict(epochs=0), ValueError, "epochs must be an integer >= 1"),
    "batch_size": (dict(batch_size=-1), ValueError, "batch_size must be an integer >= 1"),
    "width": (dict(width=0), ValueError, "width must be a finite number > 0"),
    "width-nan": (dict(width=float("nan")), ValueError, "width"),
    "width-bool": (dict(width=True), TypeError, "width must be a finite number > 0"),
    "lr": (dict(lr=-1e-3), ValueError, "lr must be a finite number >= 0"),
    "lr-text": (dict(lr="fast"), (ValueError, TypeError), "lr"),
    "weight_decay": (dict(weight_decay=-1), ValueError, "weight_decay must be a finite number >= 0"),
    "warm_up_epochs": (dict(warm_up_epochs=-1), ValueError, "warm_up_epochs must be an integer >= 0"),
    "lr_warm_up_epochs": (dict(lr_warm_up_epochs=-1), ValueError, "lr_warm_up_epochs must be an integer >= 0"),
    "limit": (dict(limit=-1), ValueError, "limit must be an integer >= 0"),
    "limit-float": (dict(limit=2.5), (ValueError, TypeError), "limit"),
    "test_limit": (dict(test_limit=-1), ValueError, "test_limit must be an integer >= 0"),
    "temporal_alpha-high": (
        dict(temporal_alpha=1.01),
        ValueError,
        r"temporal_alpha must be a finite number in \[-1, 1\]",
    ),
    "temporal_alpha-low": (dict(temporal_alpha=-1.1), ValueError, "temporal_alpha"),
    "temporal_alpha-nan": (dict(temporal_alpha=float("nan")), ValueError, "temporal_alpha"),
    "dropout": (dict(dropout=1.5), ValueError, r"dropout must be in \[0, 1\], got 1.5"),
    "beta": (dict(beta=1.5), ValueError, r"beta must be in \[0, 1\], got 1.5"),
    "beta-low": (dict(beta=-0.5), ValueError, "beta must be a finite number >= 0"),
    "penalty_on-of-none": (
        dict(penalty_on="accumulates"),
        ValueError,
        "rate_penalty, got rate_penalty=0: set it above 0",
    ),
    "surrogate": (dict(surrogate="sigmoid"), ValueError, "surrogate must be one of 'rectangle', 'atan'"),
    "warm-up-without-epochs": (
        dict(warm_up="identity"),
        ValueError,
        "needs warm_up_epochs from 1 to epochs=300, got 0",
    ),
    "warm-up-too-long": (
        dict(warm_up="surrogate", warm_up_epochs=6, epochs=5),
        ValueError,
        "warm_up='surrogate' needs warm_up_epochs from 1 to epochs=5, got 6",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_recipes_refuse(name):
    options, error, match = REFUSED[name]
    with pytest.raises(error, match=match):
        Recipe(**options)


def test_a_recipe_of_ones_own_recordings_says_what_it_needs():
    recipe = Recipe(dataset="folder", width=1 / 32)
    for changed, message in {"sensor_size": "need sensor_size", "num_classes": "need num_classes >= 2, got 1"}.items():
        own = dict(sensor_size="" if changed == "sensor_size" else "9x12", num_classes=1)
        with pytest.raises(ValueError, match=message):
            replace(recipe, **own).build_network()
    net = replace(recipe, sensor_size="64x90", frame_size="9x12", num_classes=5).build_network()
    assert (net.input_shape, net.num_classes) == ((2, 9, 12), 5)
    other = replace(recipe, sensor_size="34x34", num_classes=10, test_limit=3, frame_size="").on("nmnist")
    assert other == Recipe(dataset="nmnist", width=1 / 32) and other.spec().num_classes == 10


def test_the_defaults_are_the_papers():
    recipe = Recipe()
    assert (recipe.lr, recipe.epochs, recipe.num_steps, recipe.temporal_alpha) == (1e-3, 300, 16, 0.8)
    assert (recipe.spatial_adj, recipe.width, recipe.preset, recipe.readout) == (True, 1.0, "paper", "spikes")
    assert recipe.weight_decay == 1e-4 and recipe.lr_warm_up_epochs == 5, "the released code's"


def test_the_limits_of_what_is_allowed():
    Recipe(temporal_alpha=0, dropout=0, lr=0, weight_decay=0, warm_up_epochs=0, limit=0)
    assert Recipe(temporal_alpha=-0.2, spatial_adj=True).variant_name() == "bpsa+bpta-0.2"
    Recipe(temporal_alpha=1, dropout=1, warm_up="identity", warm_up_epochs=300, num_steps=1, batch_size=1)


def test_a_recipe_is_plain_frozen_data():
    recipe = RECIPES["digits"]
    with pytest.raises(FrozenInstanceError):
        recipe.lr = 1.0
    plain = json.loads(json.dumps(recipe.as_dict()))
    assert Recipe(**plain) == recipe and list(plain) == [field.name for field in fields(Recipe)]
    assert all(field.metadata["help"] for field in fields(Recipe))


def test_the_variants():
    baseline = dict(
        spatial_adj=False, spatial_leak=0.0, temporal_alpha=0.0, output_spike_grad="same", surrogate="rectangle"
    )
    assert VARIANTS == {
        "baseline": baseline,
        "bpsa": baseline | dict(spatial_adj=True),
        "bpsa+bpta": baseline | dict(spatial_adj=True, temporal_alpha=0.8),
        "bpta": baseline | dict(temporal_alpha=0.8),
        "bpsa-hidden": baseline | dict(spatial_adj=True, output_spike_grad="rectangle"),
        "bpsa+leak": baseline | dict(spatial_adj=True, spatial_leak=0.1),
        "atan": baseline | dict(surrogate="atan"),
    }
    for name, options in VARIANTS.items():
        assert RECIPE.variant(name) == replace(RECIPE, **options)
    with pytest.raises(
        ValueError,
        match="variant must be one of 'baseline', 'bpsa', .*, 'bpsa\\+leak', 'atan'; got 'stbp'",
    ):
        RECIPE.variant("stbp")


def test_one_row_per_data_set_with_the_papers_network():
    networks = {name: recipe.network for name, recipe in RECIPES.items()}
    assert networks == {
        "digits": "small",
        "mnist": "small",
        "cifar10": "middle",
        "nmnist": "middle",
        "dvs_gesture": "large",
        "cifar10_dvs": "large",
        "digits_simulated": "middle",
        "nmnist_simulated": "middle",
        "cifar10_dvs_simulated": "large",
        "folder": "middle",
    }
    assert all(recipe.dataset == name for name, recipe in RECIPES.items())
    sizes = {name: recipe.batch_size for name, recipe in RECIPES.items()}
    simulated = dict(digits_simulated=64, nmnist_simulated=64, cifar10_dvs_simulated=64, folder=64)
    assert sizes == dict(digits=64, mnist=64, cifar10=128, nmnist=64, dvs_gesture=16, cifar10_dvs=64, **simulated)


def test_the_network_of_a_recipe_takes_its_options():
    recipe = replace(RECIPE, readout="current", preset="official_code", dropout=0.25, temporal_alpha=0.4, num_steps=3)
    net = recipe.build_network()
    assert (net.readout, net.fold, net.input_shape, net.num_classes) == ("current", False, (1, 8, 8), 10)
    assert net(torch.rand(2, 1, 8, 8)).shape == (3, 2, 10)
    modules = {type(module).__name__: module for module in net.modules()}
    assert modules["NeuronDropout"].p == 0.25 and modules["Leaky"].temporal_alpha == 0.4
    assert modules["Conv2d"].out_channels == 8


@pytest.mark.parametrize("preset", ["paper", "official_code"])
def test_a_network_in_the_papers_notation(preset):
    recipe = replace(RECIPE, network="64FC-32FC-2Voting", preset=preset, width=0.5, temporal_alpha=0.3)
    net = recipe.build_network()
    assert net.notation == recipe.network and net.fold == (preset == "paper")
    assert [layer.out_features for layer in net.modules() if isinstance(layer, torch.nn.Linear)] == [32, 16, 20]
    neurons = [module for module in net.modules() if isinstance(module, snn.Leaky)]
    assert len(neurons) == 3
    for lif in neurons:
        assert (lif.threshold, lif.reset_mechanism, lif.temporal_alpha) == (0.5, "zero", 0.3)


def _slope(surrogate):
    x = torch.tensor(0.3, requires_grad=True)
    surrogate(x).backward()
    return float(x.grad)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_is_that_of_every_neuron(name):
    spatial_adj, leak, temporal_alpha, output, surrogate = VARIANTS[name].values()
    spatial_adj = snn.surrogate.spatial_adjustment(leak=leak) if leak else spatial_adj
    recipe = RECIPE.variant(name)
    assert recipe.variant_name() == name
    *neurons, last = [module for module in recipe.build_network().modules() if isinstance(module, snn.Leaky)]
    assert len(neurons) > 2
    own = _slope(getattr(snn.surrogate, surrogate)())
    assert last.spatial_adj == (spatial_adj if output == "same" else False)
    assert last.spatial_adj or _slope(last.spike_grad) == own
    for neuron in neurons:
        assert (neuron.spatial_adj, neuron.temporal_alpha) == (spatial_adj, temporal_alpha)
        assert spatial_adj or _slope(neuron.spike_grad) == own


def test_a_leak_and_a_frame_size_of_its_own_arrive():
    net = Recipe(dataset="nmnist", network="32FC-10Voting", beta=0.5, frame_size="17x12").build_network()
    assert {float(module.beta) for module in net.modules() if isinstance(module, snn.Leaky)} == {0.5}
    assert net.input_shape == (2, 17, 12)
    assert Recipe(dataset="nmnist", frame_size="17x12").on("nmnist_simulated").spec().input_shape == (2, 17, 12)
    assert Recipe(dataset="nmnist", frame_size="17x12").on("mnist").frame_size == ""
    assert not Recipe(dataset="nmnist", augment=True).on("digits_simulated").augment


def test_a_strength_of_its_own_arrives():
    net = Recipe(dataset="digits", width=1 / 32, spatial_adj=False, temporal_alpha=0.3).build_network()
    assert {module.temporal_alpha for module in net.modules() if isinstance(module, snn.Leaky)} == {0.3}
