"""The judge is right: the loops of _oracle.py agree with snnTorch's autograd wherever snnTorch has a gradient, and among
themselves."""

import numpy as np
import pytest
import snntorch
import torch
from _family import (
    CIRCUITS,
    CONV,
    DELAYED_IN_HOST,
    F64,
    KINDS,
    ODD,
    RECURRENCES,
    RECURRENT,
    RESETS,
    SURROGATES,
    B,
    N,
    build,
    case,
    currents,
    each_kind,
    float_surrogate,
    learnable,
    per_neuron,
    upstream,
)
from _oracle import atan, integrator, lif, spatial
from _pairwise import cases
from _tolerance import assert_close


@cases(
    lambda row: row["reset_delay"] or row["kind"] in DELAYED_IN_HOST,
    kind=KINDS, reset=RESETS, reset_delay=(True, False), name=tuple(SURROGATES), parameters=("numbers", "per-neuron"),
)  # fmt: skip
def test_it_agrees_with_snntorch(kind, reset, reset_delay, name, parameters):
    _, spike_grad, surrogate = SURROGATES[name]
    flags = {} if reset_delay else {"reset_delay": False}
    values = per_neuron(kind, F64) if parameters == "per-neuron" else {}
    neuron = build(
        snntorch, kind, dtype=F64, spike_grad=spike_grad, reset_mechanism=reset, **flags, **values, **learnable(kind)
    )
    dtype = torch.float32 if name == "stock" else F64
    result, expected = case(neuron, surrogate, currents(9, B, N, dtype=F64), dtype=dtype)
    assert 0.05 < expected.spk.mean() < 0.99
    parameters = [n for n in result if n.startswith("d") and not n.startswith(("dinput", "d0"))]
    assert len(parameters) == len(learnable(kind)) + 2 * (kind in RECURRENT)
    assert all(np.abs(expected.dparameters[n[1:]]).max() > 1e-3 for n in parameters)


@pytest.mark.parametrize("recurrence", RECURRENCES)
@pytest.mark.parametrize("kind", RECURRENT)
def test_it_agrees_with_snntorch_in_every_recurrence(kind, recurrence):
    neuron = build(snntorch, kind, recurrence, dtype=F64, spike_grad=float_surrogate, **learnable(kind))
    case(neuron, atan(2.0), currents(7, B, *(CONV if "conv" in recurrence else (N,)), dtype=F64))


@pytest.mark.parametrize("circuit", CIRCUITS)
def test_it_agrees_with_snntorch_in_every_circuit(circuit):
    values = {"spike_grad": float_surrogate, "learn_threshold": True} | CIRCUITS[circuit]
    neuron = build(snntorch, "Lapicque", dtype=F64, **values)
    case(neuron, atan(2.0), currents(7, B, N, dtype=F64) * 3)


@pytest.mark.parametrize("option", ODD)
@each_kind
def test_it_agrees_with_snntorch_in_its_odd_options(kind, option):
    flags, changes = ODD[option]
    neuron = build(snntorch, kind, dtype=F64, spike_grad=SURROGATES["spatial"][1], **flags, **learnable(kind))
    case(neuron, spatial, currents(9, B, N, dtype=F64), **changes)


@pytest.mark.parametrize("temporal_alpha", [0.0, 0.8])
@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_its_two_loops_agree(reset, temporal_alpha):
    """Leaky is the integrator that does not wipe its input; RSynaptic without R is Synaptic, without alpha Lapicque."""
    cur, mem0 = currents(9, B, N, dtype=F64).numpy(), currents(B, N, seed=5, dtype=F64).numpy()
    gradients = upstream("Leaky", 9, (B, N), dtype=F64)
    dspk, dmem = gradients["spk"].numpy(), gradients["mem"].numpy()
    shared = {"beta": np.linspace(0.3, 1, N), "threshold": 0.5, "surrogate": spatial, "reset": reset}
    a = lif(cur, **shared, alpha=temporal_alpha, mem0=mem0, dspk=dspk, dmem=dmem)
    shared |= {"temporal_alpha": temporal_alpha, "start": {"mem": mem0}, "dspk": dspk, "dstates": {"mem": dmem}}
    b = integrator(cur, **shared, wipes_input=False)
    assert (a.spk == b.spk).all()
    pairs = {
        "mem": (a.mem, b.states["mem"]),
        "dinput": (a.dinput, b.dinput),
        "dmem0": (a.dmem0, b.dstart["mem"]),
        "dbeta": (a.dbeta, b.dparameters["beta"]),
        "dthreshold": (a.dthreshold, b.dparameters["threshold"]),
    }
    for name, (first, second) in pairs.items():
        assert_close(second, first, F64, b.size, name)
    plain, silent_paths = integrator(cur, **shared), integrator(cur, **shared, alpha=0.0, V=0.0)
    assert (plain.dinput == silent_paths.dinput).all() and (plain.spk == silent_paths.spk).all()
