"""Everything public has a test with arbitrary arguments."""

import test_conversion_fuzz  # noqa: F401 (these fill the sets)
import test_data_fuzz  # noqa: F401
import test_folding_fuzz  # noqa: F401
import test_functional_fuzz  # noqa: F401
import test_layers_fuzz  # noqa: F401
import test_neurons_fuzz  # noqa: F401
import test_nir_fuzz  # noqa: F401
import test_training_fuzz  # noqa: F401
from _fuzz import cases, public_names, targets


def test_every_public_name_is_a_target():
    names, absent = public_names()
    assert not names - targets, f"without a fuzz target: {sorted(names - targets)}"
    assert absent or not targets - names, f"no public names: {sorted(targets - names)}"


def test_there_are_enough_cases():
    assert sum(cases) >= 2000
