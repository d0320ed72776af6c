"""Whatever a neuron is built with and driven by: a right result, or an error that names the argument."""

import copy
import inspect

import pytest
import snntorch
import torch
from torch import nn

pytest.importorskip("hypothesis", reason="hypothesis (extra: dev) is missing")
from _family import FAMILY  # noqa: E402
from _fuzz import (
    FLAG,
    IMPL,
    NEURONS,
    OPTIONS,
    REFUSED,
    SAFE_SURROGATES,
    SEQUENCES,
    SURROGATES,
    N,
    Sub,
    attempt,
    calls,
    copied,
    finite,
    fuzz,
    gradients,
    is_binary,
    moderate,
    optional,
    same,
    tensors,
    vectors,
)
from hypothesis import strategies as st  # noqa: E402
from snntorch.functional import quant  # noqa: E402

import snntorch_bpsta as snn  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


# --- the neurons: built ---------------------------------------------------------------------------


PER_NEURON = st.sampled_from([0.0, 0.5, 0.9, 1.0, 1.5, 5e-324, 1e30])


THRESHOLDS = st.sampled_from([1.0, 0.5, 0.1, 1e-38, 1e30, 0.0, -0.5])


FUSED = {"inplace": FLAG, "save": optional(None, "float32", "bfloat16", "compact")}


SANE = {
    "alpha": vectors(0.8, 0.95, 0.5),
    "beta": vectors(0.0, 0.3, 0.7, 1.0, 1.5),
    "threshold": st.one_of(st.just(...), vectors(1.0, 0.5, 1e-38, 1e30, 0.0, -0.5)),
    "spike_grad": st.one_of(st.just(...), st.sampled_from(list(SURROGATES.values()))),
    "surrogate_disable": FLAG,
    "init_hidden": FLAG,
    "inhibition": FLAG,
    "learn_alpha": FLAG,
    "learn_beta": FLAG,
    "learn_threshold": FLAG,
    "learn_recurrent": FLAG,
    "learn_graded_spikes_factor": FLAG,
    "reset_mechanism": optional("subtract", "zero", "none"),
    "state_quant": optional(False, torch.round, quant.state_quant(num_bits=4)),
    "output": FLAG,
    "graded_spikes_factor": st.one_of(st.just(...), vectors(1.0, 2.0, -0.5)),
    "reset_delay": FLAG,
    "V": st.one_of(st.just(...), vectors(0.5, -1.0)),
    "all_to_all": st.just(False),
    "linear_features": optional(N),
    "conv2d_channels": optional(),
    "kernel_size": optional(),
    "R": optional(5.0, torch.tensor(2.0)),
    "C": optional(0.3, torch.tensor(0.5)),
    "time_step": optional(0.1, 1),
}


def neurons(name, most=0, **others):
    """Arguments of a neuron by its name."""
    sane = {key: SANE[key] for key in inspect.signature(getattr(snntorch, name)).parameters}
    if name == "Lapicque":
        sane["beta"] = optional(0.5, 0.9, torch.tensor([0.5]))
    return calls(most=most, **{**sane, **OPTIONS, **FUSED, **others})


OFF = {"spatial_adj": False, "temporal_alpha": 0.0, "warm_up": None, "inplace": False, "save": None}


@pytest.mark.parametrize("name", NEURONS)
@fuzz(*NEURONS, examples=80, draws=st.data())
def test_build_a_neuron(name, draws):
    arguments = draws.draw(neurons(name, most=2), label="arguments")
    options = {key: arguments.get(key, off) for key, off in OFF.items()}
    neuron = attempt(NEURONS[name], **arguments)
    if neuron is REFUSED:
        return
    if name != "Alpha" or not arguments.get("learn_alpha"):  # which the host cannot be built with
        host = getattr(snntorch, name)(**{key: value for key, value in arguments.items() if key not in options})
        assert list(neuron.state_dict()) == list(host.state_dict())
        for key, value in host.state_dict().items():
            assert "recurrent" in key or same(neuron.state_dict()[key].double(), value.double()), key
    assert {key: bool(getattr(neuron, key) == value) for key, value in options.items()} == dict.fromkeys(options, True)
    repr(neuron), neuron.reset_mem()
    if not any(isinstance(value, Sub) for value in arguments.values()):  # which PyTorch does not copy
        copy.deepcopy(neuron)


# --- the neurons: one step ------------------------------------------------------------------------


STEPS = st.sampled_from([(2, N), (1, N), (0, N), (2, 1), (3,), (), (2, N, 2), (2, 2, 2, N), (2, 0)])


def pair(name, arguments):
    """Ours and the host's neuron of these arguments, or (REFUSED, None)."""
    neuron = attempt(NEURONS[name], **arguments)
    if neuron is REFUSED:
        return REFUSED, None
    own = {key: value for key, value in arguments.items() if key not in OFF}
    learn_alpha = own.pop("learn_alpha", False) if name == "Alpha" else False  # which the host cannot be built with
    host = getattr(snntorch, name)(**own)
    if learn_alpha:
        host.alpha = nn.Parameter(host._buffers.pop("alpha"))
    return neuron, host


def twin(value):
    """The same memory and layout as a leaf of its own, for a second calculation."""
    return value.detach().requires_grad_(value.requires_grad) if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize("name", NEURONS)
@fuzz(examples=100, draws=st.data())
def test_one_step_after_another(name, draws):
    arguments = draws.draw(neurons(name), label="arguments")
    neuron, host = pair(name, arguments)
    if neuron is REFUSED:
        return
    shape = draws.draw(STEPS)
    wanted = {"input_": tensors(shape), **{state: optional(None) for state in FAMILY[name].states}}
    wanted |= {state: st.one_of(wanted[state], tensors(shape)) for state in FAMILY[name].states}
    given_ = draws.draw(calls(**wanted), label="inputs")
    twins = {key: twin(value) for key, value in given_.items()}
    on = neuron.spatial_adj or neuron.temporal_alpha
    for _ in range(2):
        theirs = error = None
        try:
            theirs = host(**twins)
        except Exception as raised:
            error = raised
        if on:
            out = attempt(neuron.forward, naming=inspect.signature(NEURONS[name]).parameters, **given_)
            if out is REFUSED:
                return
        else:
            try:
                out = neuron(**given_)
            except Exception as raised:
                no_state = not isinstance(given_["input_"], torch.Tensor) or any(
                    not isinstance(given_.get(state), (torch.Tensor, type(None))) for state in FAMILY[name].states
                )
                assert error is not None or (type(raised) is TypeError and no_state), f"the host returns {theirs}"
                return
        if error is not None or (name == "RSynaptic" and not neuron.reset_delay):  # which the host takes for another
            return
        assert isinstance(out, tuple) is isinstance(theirs, tuple)
        outs, expected = (x if isinstance(x, tuple) else (x,) for x in (out, theirs))
        assert len(outs) == len(expected)
        given_tensors = [value for value in given_.values() if isinstance(value, torch.Tensor)]
        if len({(value.dtype, value.shape, value.is_meta) for value in given_tensors}) > 1:
            return  # of a mixture it is enough that both take it, or none
        for a, b in zip(outs, expected, strict=True):  # (in half precision the host's reset takes it to float32)
            assert same(a, b) if given_["input_"].dtype in (torch.float32, torch.float64) else a.shape == b.shape
    if given_["input_"].dtype == torch.float32 and not given_["input_"].is_meta:
        factor = neuron.graded_spikes_factor.detach()
        assert is_binary(outs[0], factor) or neuron.inhibition or outs[0].isnan().any()
        grads = gradients(out, *given_.values(), *neuron.parameters())
        if not on:
            for a, b in zip(grads, gradients(theirs, *twins.values(), *host.parameters()), strict=True):
                assert (a is None and b is None) or same(a, b)
        elif moderate(*outs, *given_.values()) and _is_tame(neuron):
            assert finite(*grads)


def _is_tame(neuron):
    """Whether the thresholds are large enough for 1/u, and the surrogate cannot overflow."""
    safe = neuron.spatial_adj or any(neuron.spike_grad == each for each in SAFE_SURROGATES)
    return safe and bool((neuron.threshold > 0.05).all())


# --- the neurons: all steps -----------------------------------------------------------------------


@pytest.mark.parametrize("name", NEURONS)
@fuzz(*(f"{name}.sequence" for name in NEURONS), examples=100, draws=st.data())
def test_all_steps(name, draws):
    arguments = draws.draw(neurons(name), label="arguments")
    neuron = attempt(NEURONS[name], **arguments)
    if neuron is REFUSED:
        return
    shape = draws.draw(SEQUENCES)
    states = {state: optional(None) for state in FAMILY[name].states}
    states = {state: st.one_of(states[state], tensors(shape[1:])) for state in FAMILY[name].states}
    num_steps = optional(None, shape[0], *([4] if shape[0] == 1 else []))
    wanted = {"input_": tensors(shape), **states, "impl": IMPL, "relu": FLAG, "num_steps": num_steps}
    given_ = draws.draw(calls(**wanted), label="inputs")
    loop, steps = copy.deepcopy(neuron), copied(given_["input_"])
    out = attempt(neuron.sequence, naming=inspect.signature(NEURONS[name]).parameters, **given_)
    if out is REFUSED:
        return
    spk_rec, *after = out
    steps = steps.relu() if given_.get("relu") else steps
    steps = steps.expand(given_.get("num_steps") or len(steps), *steps.shape[1:])
    assert spk_rec.shape == steps.shape and all(state.shape == steps.shape[1:] for state in after)
    assert len(after) == len(FAMILY[name].states) - ("spk" in FAMILY[name].states)
    if spk_rec.is_meta:
        return
    assert is_binary(spk_rec, neuron.graded_spikes_factor.detach()) or neuron.inhibition or spk_rec.isnan().any()
    if steps.dtype not in (torch.float32, torch.float64) or any(copied(x).dtype != steps.dtype for x in after):
        return
    loop.output = loop.init_hidden
    states = {state: copied(given_.get(state)) for state in FAMILY[name].states}
    if not neuron.init_hidden:  # from zeros, whatever is in the neuron
        zeros = torch.zeros_like(steps[0])
        states = {name: zeros if x is None or x.shape == (0,) else x for name, x in states.items()}
    expected = []
    for step in steps.detach():
        spk, *now = loop(step, **states)
        expected.append(spk)
        if not neuron.init_hidden:
            states = dict(zip(FAMILY[name].states, [spk, *now] if "spk" in FAMILY[name].states else now, strict=True))
    assert all(same(a, b) for a, b in zip(after, now, strict=True))
    assert same(spk_rec, torch.stack(expected))
    grads = gradients(out, *given_.values(), *neuron.parameters())
    if moderate(*out, *given_.values()) and _is_tame(neuron):
        assert finite(*grads)


# --- a threshold that rises -----------------------------------------------------------------------


ADAPTIVE = {"AdaptiveLeaky": "Leaky", "AdaptiveRLeaky": "RLeaky"}


@pytest.mark.parametrize("name", ADAPTIVE)
@fuzz(*ADAPTIVE, examples=60, draws=st.data())  # fmt: skip
def test_adaptive(name, draws):
    steps = {"threshold_step": optional(0, 0.1, 2.0), "threshold_decay": optional(0, 0.9, 1)}
    neuron = attempt(getattr(snn, name), **draws.draw(neurons(ADAPTIVE[name], **steps), label="arguments"))
    if neuron is REFUSED:
        return
    wanted = {"input_": tensors(SEQUENCES), "impl": IMPL, "record": optional((), ("rise",), ("mem", "rise"))}
    given_ = draws.draw(calls(**wanted), label="inputs")
    out = attempt(neuron.sequence, naming=inspect.signature(getattr(snn, name)).parameters, **given_)
    if out is not REFUSED and given_["input_"].dtype == torch.float32 and not given_["input_"].is_meta:
        assert len(out) == 3 and out[0].shape == given_["input_"].shape
        assert is_binary(out[0], neuron.graded_spikes_factor.detach()) or out[0].isnan().any()
    repr(neuron), neuron.reset_mem()
