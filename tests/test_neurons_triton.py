"""Triton's kernels behind `sequence`, on a CUDA device where there is one, else in Triton's interpreter: small shapes."""

import pytest
import torch
from _family import (
    CONV,
    F32,
    F64,
    KINDS,
    OPTIONS,
    RECURRENT,
    RESETS,
    SURROGATES,
    B,
    N,
    begin,
    build,
    case,
    currents,
    expect,
    judge,
    learnable,
    refused,
    run,
    upstream,
)
from _pairwise import cases

import snntorch_bpsta as snn
from snntorch_bpsta.functional import which_impl

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0" if DEVICE == "cuda" else "1")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # of a recurrent convolution, on a GPU
    try:
        which_impl(torch.zeros(1, 1, 1, device=DEVICE), beta=0.9, impl="triton")
    except NotImplementedError as error:
        pytest.skip(str(error))


@cases(
    lambda row: not refused(row["kind"], **OPTIONS[row["option"]], reset_mechanism=row["reset"])
    and (row["name"] in ("spatial", "leaky")) == ("spatial_adj" in OPTIONS[row["option"]])
    and (row["kind"] in RECURRENT or row["recurrence"] == "V"),
    kind=KINDS, reset=RESETS, option=tuple(OPTIONS), name=("spatial", "leaky", "rectangle"),
    recurrence=("V", "linear", "conv"), learn=(False, True), num_steps=(1, 4), dtype=(F32, F64),
)  # fmt: skip
def test_gradients(kind, reset, option, name, recurrence, learn, num_steps, dtype):
    """Spikes to the bit, states and gradients within the table, as the oracle has them."""
    options, _, surrogate = SURROGATES[name]
    values = {"reset_mechanism": reset} | OPTIONS[option] | options | (learnable(kind) if learn else {})
    shape = (B, *CONV) if recurrence == "conv" else (B, N)
    neuron, cur = build(snn, kind, recurrence, dtype=dtype, **values), currents(num_steps, *shape, dtype=dtype)
    if DEVICE == "cpu":
        case(neuron, surrogate, cur, how="triton", dtype=dtype)
        return
    start, gradients = begin(kind, shape, dtype), upstream(kind, num_steps, shape, dtype=dtype)
    for name, gradient in gradients.items():
        if name != "spk":
            gradient[:-1] = 0
    expected = expect(neuron, surrogate, cur, start, gradients)
    there = ({name: x.to(DEVICE) for name, x in values.items()} for values in (start, gradients))
    result = run(neuron.to(DEVICE), cur.to(DEVICE), next(there), "triton", gradients=next(there))
    judge({name: None if x is None else x.cpu() for name, x in result.items()}, expected, dtype)
