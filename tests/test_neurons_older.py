"""What older versions of snnTorch have saved: its keys, as their own code wrote them, loaded strictly."""

import warnings

import pytest
import torch
from _family import FAMILY, KINDS, build, each_kind
from torch import nn

import snntorch_bpsta as snn

# version -> (keys of today that it had not, whether it saved the hidden states). 0.4 had no recurrent neurons.
VERSIONS = {
    "0.4.11": ({"reset_mechanism_val", "graded_spikes_factor"}, False),
    "0.5.3": ({"graded_spikes_factor", "recurrent.V"}, False),
    "0.6.4": (set(), False),
    "0.8.1": (set(), True),
    "0.9.1": (set(), False),
}
CASES = [(v, kind) for v in VERSIONS for kind in KINDS if v != "0.4.11" or "recurrent" not in FAMILY[kind].learns]


def make(kind, value, **options):
    """All its numbers follow `value`, but a beta that alpha has to exceed."""
    numbers = {"threshold": value, **({} if kind in ("Alpha", "Lapicque") else {"beta": value})}
    numbers |= {"V": value} if "recurrent" in FAMILY[kind].learns else {}
    return build(snn, kind, "V", **numbers, **options)


def saved_by(version, kind, neuron, prefix=""):
    lacks, hidden = VERSIONS[version]
    saved = {key: value.clone() for key, value in neuron.state_dict().items() if key not in lacks}
    if hidden:
        saved |= {name: torch.rand(2, 3) for name in FAMILY[kind].states}
    return {prefix + key: value for key, value in saved.items()}


@pytest.mark.parametrize("deep", [False, True], ids=["neuron", "net"])
@pytest.mark.parametrize("init_hidden", [False, True])
@pytest.mark.parametrize("version, kind", CASES)
def test_it_loads_and_what_it_lacks_is_named(version, kind, init_hidden, deep):
    old, new = (
        make(kind, 0.75, reset_mechanism="zero"),
        make(kind, 0.5, reset_mechanism="zero", init_hidden=init_hidden),
    )
    saved = saved_by(version, kind, old, "0.0." if deep else "")
    keys = set(saved)
    lacks, hidden = VERSIONS[version]
    words = [key for key in lacks if key in old.state_dict()] + (list(FAMILY[kind].states) if hidden else [])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        (nn.Sequential(nn.Sequential(new)) if deep else new).load_state_dict(saved)
    assert len(caught) == bool(words)
    assert not words or all(word in str(caught[0].message) for word in (*words, kind, "older snnTorch"))
    assert set(saved) == keys, "the caller's dict is his"
    assert all(torch.equal(value, old.state_dict()[key]) for key, value in new.state_dict().items())
    assert new.reset_mechanism == "zero" and not any(getattr(new, name).count_nonzero() for name in FAMILY[kind].states)
    x = 2 * torch.rand(4, 3, 5)
    assert torch.equal(new.sequence(x)[0], old.sequence(x)[0])


@each_kind
@pytest.mark.parametrize("strict", [True, False])
def test_what_no_version_wrote_is_still_refused(kind, strict):
    """A key that is foreign, one that is missing, a neuron that is not there at all."""
    saved = saved_by("0.8.1", kind, make(kind, 0.75))
    for change in ({**saved, "foreign": torch.ones(1)}, {k: v for k, v in saved.items() if k != "beta"}, {}):
        new = make(kind, 0.5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if strict:
                with pytest.raises(RuntimeError, match="foreign" if "foreign" in change else "beta"):
                    new.load_state_dict(change)
            else:
                told = new.load_state_dict(change, strict=False)
                assert set(told.unexpected_keys) == ({"foreign"} & change.keys())
                assert ("beta" in told.missing_keys) == ("beta" not in change)


def test_a_factor_that_would_be_learnt_is_missed():
    saved = saved_by("0.5.3", "Leaky", make("Leaky", 0.75))
    with pytest.raises(RuntimeError, match="Missing.*graded_spikes_factor"):
        make("Leaky", 0.5, learn_graded_spikes_factor=True).load_state_dict(saved)


def test_parameters_that_are_assigned():
    """With assign=True nothing of the neuron is copied over, nor a learnt V split in two."""
    saved = saved_by("0.5.3", "RLeaky", make("RLeaky", 0.75))
    new = make("RLeaky", 0.5)
    with pytest.warns(UserWarning, match="recurrent.V not there, taken from V"):
        new.load_state_dict(saved, assign=True)
    assert new.V == 0.75 == new.recurrent.V and new.graded_spikes_factor == 1


def test_a_checkpoint_of_today_loads_without_a_word():
    net = nn.Sequential(*[make(kind, 0.75) for kind in KINDS])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nn.Sequential(*[make(kind, 0.5) for kind in KINDS]).load_state_dict(net.state_dict())
        nn.Sequential(net[0], nn.Linear(2, 2)).load_state_dict({}, strict=False)
