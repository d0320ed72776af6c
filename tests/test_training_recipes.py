"""What a recipe says arrives at every neuron of its network."""

import dataclasses

import pytest

import snntorch_bpsta as snn
from snntorch_bpsta.training import RECIPES, Recipe

DIGITS = dataclasses.replace(RECIPES["digits"], width=1 / 16)
VARIANTS = {"baseline": (False, 0.0), "bpsa": (True, 0.0), "bpsa+bpta": (True, 0.8)}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_is_that_of_every_neuron(name):
    spatial_adj, temporal_alpha = VARIANTS[name]
    recipe = DIGITS.variant(name)
    neurons = [module for module in recipe.build_network().modules() if isinstance(module, snn.Leaky)]
    assert len(neurons) > 2
    for neuron in neurons:
        assert (neuron.spatial_adj, neuron.temporal_alpha) == (spatial_adj, temporal_alpha)
        assert spatial_adj or neuron.spike_grad == snn.surrogate.rectangle()


def test_a_strength_of_its_own_arrives():
    net = Recipe(dataset="digits", width=1 / 16, spatial_adj=False, temporal_alpha=0.3).build_network()
    assert {module.temporal_alpha for module in net.modules() if isinstance(module, snn.Leaky)} == {0.3}
