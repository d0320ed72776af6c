"""Whatever goes into lif_multistep, compress_spikes and surrogates: a right result, or an error that names the argument."""

import copy

import numpy as np
import pytest
import torch

pytest.importorskip("hypothesis", reason="hypothesis (extra: dev) is missing")
from _fuzz import (
    ANYTHING,
    FLAG,
    FLOATS,
    IMPL,
    LAYOUTS,
    NAN,
    REFUSED,
    SAFE_SURROGATES,
    SEQUENCES,
    STRANGE,
    SURROGATES,
    N,
    attempt,
    calls,
    copied,
    finite,
    fuzz,
    gradients,
    is_binary,
    moderate,
    mostly,
    optional,
    same,
    tensors,
    vectors,
)
from hypothesis import strategies as st  # noqa: E402

import snntorch_bpsta as snn  # noqa: E402
from snntorch_bpsta import surrogate  # noqa: E402
from snntorch_bpsta.functional import lif_multistep, which_impl  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


# --- functional -----------------------------------------------------------------------------------


LIF = {
    "beta": vectors(0.0, 0.3, 0.7, 1.0, 1.5),
    "threshold": st.one_of(st.just(...), vectors(1.0, 0.5, 1e-38, 1e30, 0.0, -0.5)),
    "reset_mechanism": optional("subtract", "zero", "none"),
    "spike_grad": st.one_of(st.just(...), st.sampled_from(list(SURROGATES.values()))),
    "spatial_adj": FLAG,
    "temporal_alpha": optional(0, 0.8, 1.0),
    "graded_spikes_factor": st.one_of(st.just(...), vectors(1.0, 2.0, -0.5)),
    "record_mem": FLAG,
    "relu": FLAG,
    "inplace": FLAG,
    "save": optional(None, "float32", "bfloat16", "compact"),
    "impl": IMPL,
}


@fuzz("lif_multistep", "which_impl", "LIFOutput", "Impl", examples=500, draws=st.data())
def test_the_door(draws):
    shape = draws.draw(SEQUENCES)
    mem = st.one_of(optional(None), tensors(shape[1:]))
    num_steps = optional(None, shape[0], *([4] if shape[0] == 1 else []))
    arguments = draws.draw(calls(input_=tensors(shape), mem=mem, num_steps=num_steps, **LIF), label="arguments")
    twins = {key: copied(value) for key, value in arguments.items()}
    chosen = attempt(which_impl, **arguments)
    out = attempt(lif_multistep, **arguments)
    if out is REFUSED:
        return
    assert chosen in ("reference", "cpu", "triton") and str(snn.functional.Impl(chosen)) == chosen
    assert type(out) is snn.functional.LIFOutput
    twins["impl"] = "reference"
    expected = lif_multistep(**twins)
    assert out.spk.shape == expected.spk.shape and out.mem.shape == expected.mem.shape
    if out.spk.is_meta or arguments["input_"].dtype not in (torch.float32, torch.float64):
        return
    if torch.as_tensor(arguments.get("threshold", 1)).isnan().any():  # never fires; only the loop takes 0 * NaN off
        return
    assert same(out.spk, expected.spk) and same(out.mem, expected.mem)
    names = ("input_", "mem", "beta", "threshold", "graded_spikes_factor")
    leaves = [arguments.get(name) for name in names]
    grads = gradients(tuple(out), *leaves)
    tame = float(torch.as_tensor(arguments.get("threshold", 1)).min()) > 0.05
    safe = any(arguments.get("spike_grad") == each for each in SAFE_SURROGATES)
    overwritten = arguments.get("inplace") is True and not leaves[0].is_leaf  # what it was is gone
    if overwritten or not (moderate(*out, *leaves) and tame):
        return
    assert finite(*grads) or not safe
    tolerance = 2e-2 if arguments.get("save") in ("bfloat16", "compact") else 1e-4
    for grad, of_reference in zip(grads, gradients(tuple(expected), *map(twins.get, names)), strict=True):
        if grad is not None and grad.numel() and finite(of_reference):
            off = (grad - of_reference).abs().max()
            assert off <= tolerance * (1e-3 + of_reference.abs().max())


BLOCKS = st.sampled_from([(1, 2048), (3, 2049), (2, 2047), (5, 4097), (1, 1), (9, 7)])


@fuzz("lif_multistep", examples=150, draws=st.data())
def test_the_kernels_stay_within_their_memory(draws):
    """Sizes around a block, every layout, parameters per neuron and per channel: values as the reference's, and what lies
    before and behind the input in memory as it was."""
    num_steps, size = draws.draw(BLOCKS)
    shape = draws.draw(st.sampled_from([(num_steps, 1, size), (num_steps, size, 1), (num_steps, 1, size, 1, 1)]))
    dtype = draws.draw(st.sampled_from(FLOATS))
    around = draws.draw(
        tensors(shape, [dtype], layouts=("contiguous", "offset", "expanded", "overlapping", "time-last"))
    )
    guarded = torch.cat([around.new_full((64,), 7), around.reshape(-1), around.new_full((64,), 7)])
    input_ = guarded[64:-64].view(shape) if draws.draw(st.booleans()) else around
    wide = st.sampled_from([(), (1,), shape[1:], (*shape[1:2], *(1,) * (len(shape) - 2)), shape[2:]])
    beta, threshold = (torch.full(draws.draw(wide), value) for value in (0.7, 0.5))
    options = draws.draw(
        calls(most=0, **{key: LIF[key] for key in ("relu", "inplace", "save", "record_mem", "spatial_adj")})
    )
    beta.requires_grad_(draws.draw(st.booleans()))
    threshold.requires_grad_(draws.draw(st.booleans()))
    expected = lif_multistep(input_.clone(), beta=beta, threshold=threshold, **options, impl="reference")
    out = attempt(lif_multistep, input_, beta=beta, threshold=threshold, **options)
    assert bool((guarded[:64] == 7).all() and (guarded[-64:] == 7).all())
    if out is not REFUSED:
        if dtype in (torch.float32, torch.float64):
            assert same(out.spk, expected.spk) and same(out.mem, expected.mem)
        assert is_binary(out.spk) or out.spk.isnan().any()
        gradients(tuple(out), beta, threshold)


# --- compress_spikes ------------------------------------------------------------------------------


SPIKES = {
    "spikes": lambda x: (x > 0.5).to(x.dtype),
    "silence": lambda x: torch.zeros_like(x),
    "minus-zero": lambda x: torch.where(x > 0.5, 1.0, -0.0).to(x.dtype),
    "one-nan": lambda x: torch.where(x == x.max(), NAN, (x > 0.5).to(x.dtype)).to(x.dtype) if x.numel() else x,
    "denormal": lambda x: torch.where(x == x.min(), 5e-324, (x > 0.5).double()).to(x.dtype) if x.numel() else x,
    "analog": lambda x: x,
}


@fuzz("last_step", "mean_over_steps", examples=200, arguments=calls(
    out_rec=tensors(st.sampled_from([(3, 2), (1, 2, 4), (5, 2, 1, 2), (3, 0), (0, 2)])),
    lengths=st.sampled_from([torch.tensor([1, 1]), torch.tensor([3, 2]), torch.tensor([0, 3]), torch.zeros(0).long()]),
))  # fmt: skip
def test_sequences_of_different_length(arguments):
    for function in (snn.functional.last_step, snn.functional.mean_over_steps):
        out = attempt(function, **arguments)
        if out is not REFUSED:
            out_rec, lengths = arguments["out_rec"], arguments["lengths"]
            assert out.shape == out_rec.shape[1:] and out.dtype == out_rec.dtype
            for b, length in enumerate(lengths.tolist()):
                if length == 1:
                    assert same(out[b], out_rec[0, b])


@fuzz("keep_memory", examples=20, on=ANYTHING)
def test_keep_memory(on):
    assert attempt(snn.keep_memory, on) in (None, REFUSED)
    snn.keep_memory(False)


@fuzz("skip_zeros", examples=20, on=ANYTHING)
def test_skip_zeros(on):
    assert attempt(snn.skip_zeros, on) in (None, REFUSED)
    snn.skip_zeros()


@fuzz("compress_spikes", examples=250, draws=st.data())
def test_compress_spikes(draws):
    shape = draws.draw(
        st.sampled_from([(4096,), (64, 65), (5, 31, 33), (3, 4, 20, 20), (0, 3), (2, 3), (), (4097, 1, 1)])
    )
    dtype, kind = draws.draw(st.sampled_from(FLOATS)), draws.draw(st.sampled_from(sorted(SPIKES)))
    layout = draws.draw(st.sampled_from(sorted(LAYOUTS | {"meta": 0, "conjugate": 0})))
    x = torch.rand(shape, generator=torch.Generator().manual_seed(draws.draw(st.integers(0, 9))))
    x = (LAYOUTS | STRANGE)[layout](SPIKES[kind](x.to(dtype)).detach())
    weight = torch.full(shape, 2.0, device=x.device, requires_grad=True)

    def calculate():
        y = x * weight
        return torch.autograd.grad((y.square().abs() * weight).sum(), weight)[0]

    expected = calculate()
    with snn.compress_spikes() as saved:
        grad = calculate()
    assert same(
        torch.view_as_real(grad) if grad.is_complex() else grad,
        torch.view_as_real(expected) if expected.is_complex() else expected,
    )
    assert saved.bytes_after <= saved.bytes_before or saved.bytes_before == 0


# --- surrogates -----------------------------------------------------------------------------------


POSITIVE = st.sampled_from([0.5, 1.0, 1, 1e-38, 1e30, np.float32(0.5)])


SURROGATE_ARGUMENTS = {
    "spatial_adjustment": {"threshold": st.one_of(POSITIVE, vectors(0.5, 1.0)), "leak": POSITIVE},
    "SpatialAdjustment": {"threshold": st.one_of(POSITIVE, vectors(0.5, 1.0)), "leak": POSITIVE},
    "rectangle": {"width": POSITIVE},
    "Rectangle": {"width": POSITIVE},
    "ArcTangent": {"alpha": POSITIVE},
    "Logistic": {"slope": POSITIVE},
    "Surrogate": {},
}


@pytest.mark.parametrize("name", SURROGATE_ARGUMENTS)
@fuzz(*SURROGATE_ARGUMENTS, "Surrogate.derivative", "Surrogate.primitive", "SpatialAdjustment.fits", examples=60,
      draws=st.data())  # fmt: skip
def test_surrogates(name, draws):
    sane = SURROGATE_ARGUMENTS[name]
    arguments = draws.draw(calls(most=1, **sane), label="arguments") if sane else {}
    spike_grad = attempt(getattr(surrogate, name), **arguments)
    if spike_grad is REFUSED:
        return
    if name != "Surrogate":
        assert spike_grad == copy.copy(spike_grad) and isinstance(hash(spike_grad), int)
    if name.lower().startswith("spatial"):
        assert spike_grad.fits(draws.draw(ANYTHING)) in (True, False)
    x = draws.draw(mostly(tensors((2, N))), label="x")
    if name == "Surrogate":  # is for others to derive from
        for method in (spike_grad.derivative, spike_grad.primitive):
            with pytest.raises(NotImplementedError, match="does not define"):
                method(x)
        return
    for method in (spike_grad, spike_grad.derivative, spike_grad.primitive):
        out = attempt(method, x, naming=[*arguments, "x"])
        if out is not REFUSED and x.is_floating_point() and not x.is_meta:
            assert out.shape == torch.broadcast_shapes(x.shape, getattr(arguments.get("threshold"), "shape", ()))
            if method == spike_grad:
                assert is_binary(out) and out.dtype == x.dtype and torch.equal(out.bool(), x > 0)
            elif method == spike_grad.derivative and finite(x) and x.dtype in (torch.float32, torch.float64):
                assert not (out < 0).any() and not out.isnan().any()
