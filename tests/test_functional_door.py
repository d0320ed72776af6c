"""lif_multistep: the step loop in one call, and the properties that need no reference."""

import inspect
import itertools
import warnings

import pytest
import torch
from _oracle import lif, rectangle, spatial
from _tolerance import assert_close
from snntorch import surrogate as host_surrogate

import snntorch_bpsta as snn
from snntorch_bpsta.functional import LIFOutput, lif_multistep, multistep, which_impl

B, N = 3, 5
F64 = torch.float64

OPTIONS = {
    "off": dict(),
    "fast-sigmoid": dict(spike_grad=host_surrogate.fast_sigmoid(5)),
    "spatial": dict(spatial_adj=True),
    "temporal": dict(temporal_alpha=0.8),
    "both": dict(spatial_adj=True, temporal_alpha=0.8),
    "rectangle": dict(temporal_alpha=0.3, spike_grad=snn.surrogate.rectangle(1.5)),
}
OWN = {k: v for k, v in OPTIONS.items() if k in ("spatial", "both", "rectangle")}


def allowed(option, reset):
    return reset != "none" or not OPTIONS[option].get("temporal_alpha")


CASES = [
    pytest.param(option, reset, id=f"{option}-{reset}")
    for option, reset in itertools.product(OPTIONS, ("zero", "subtract", "none"))
    if allowed(option, reset)
]


def currents(*shape, seed=0, dtype=torch.float32):
    gen = torch.Generator().manual_seed(seed)
    return (torch.rand(*shape, generator=gen, dtype=F64) * 1.8 - 0.4).to(dtype)


def weights(*shape, seed=1, dtype=torch.float32):
    gen = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=gen, dtype=F64).to(dtype)


def leaf(x):
    return x.detach().clone().requires_grad_()


def call(cur, mem, beta, threshold, w_spk, w_mem, **options):
    """Outputs and gradients of lif_multistep by name. `w_mem` weighs the membranes."""
    inputs = {
        "dinput": leaf(cur),
        "dmem0": leaf(mem),
        "dbeta": leaf(beta),
        "dthreshold": leaf(threshold),
    }
    out = lif_multistep(
        inputs["dinput"],
        inputs["dmem0"],
        beta=inputs["dbeta"],
        threshold=inputs["dthreshold"],
        **{"impl": "reference", **options},
    )
    ((out.spk * w_spk).sum() + (out.mem * w_mem).sum()).backward()
    return {"spk": out.spk.detach(), "mem": out.mem.detach()} | {k: v.grad for k, v in inputs.items()}


def loop(cur, mem, beta, threshold, w_spk, w_mem, record_mem=False, **options):
    """The same by a loop over one step of `snn.Leaky`."""
    neuron = snn.Leaky(beta.clone(), threshold.clone(), learn_beta=True, learn_threshold=True, **options)
    cur, mem0 = leaf(cur), leaf(mem)
    spks, mems, mem = [], [], mem0
    for c in cur:
        spk, mem = neuron(c, mem)
        spks.append(spk)
        mems.append(mem)
    spk, mem = torch.stack(spks), torch.stack(mems) if record_mem else mems[-1]
    ((spk * w_spk).sum() + (mem * w_mem).sum()).backward()
    gradients = {"dinput": cur.grad, "dmem0": mem0.grad}
    gradients |= {"dbeta": neuron.beta.grad, "dthreshold": neuron.threshold.grad}
    return {"spk": spk.detach(), "mem": mem.detach()} | gradients


def assert_equal(actual, expected, names=None, exact=True):
    """To the bit; gradients to rounding where not `exact` (a single step with options on is the kernels')."""
    if names is None:
        assert actual.keys() == expected.keys()
    for name in names or expected:
        a, b = actual[name], expected[name]
        assert a.dtype == b.dtype and a.shape == b.shape, name
        if exact or name in ("spk", "mem"):
            assert torch.equal(a, b), f"{name} differs by up to {(a - b).abs().max().item():.3e}"
        else:
            assert_close(a, b, a.dtype, b.abs().max(), name)


PARAMETERS = {
    "scalar": (torch.tensor(0.9), torch.tensor(0.5)),
    "per-neuron": (torch.linspace(-0.1, 1.1, N), torch.linspace(0.3, 0.9, N)),
    "per-channel": (torch.linspace(0.2, 0.9, B).unsqueeze(-1), torch.tensor([0.4])),
}


@pytest.mark.parametrize("record_mem", [False, True], ids=["last", "record"])
@pytest.mark.parametrize("parameters", PARAMETERS)
@pytest.mark.parametrize(("option", "reset"), CASES)
def test_is_the_step_loop_to_the_bit(option, reset, parameters, record_mem):
    beta, threshold = PARAMETERS[parameters]
    # The host's surrogates give float32 spikes whatever goes in; ours keep the dtype, and so does the door.
    hosts = option in ("off", "fast-sigmoid")
    dtypes = (torch.float32, torch.float32) if hosts else (torch.float32, torch.float32, F64)
    for num_steps, dtype in zip((1, 7, 5), dtypes, strict=False):
        cur, mem = currents(num_steps, B, N, dtype=dtype), currents(B, N, seed=2, dtype=dtype)
        w_spk = weights(num_steps, B, N, dtype=dtype)
        w_mem = weights(*((num_steps, B, N) if record_mem else (B, N)), seed=3, dtype=dtype)
        args = (cur, mem, beta, threshold, w_spk, w_mem)
        options = OPTIONS[option] | dict(reset_mechanism=reset, record_mem=record_mem)
        assert_equal(call(*args, **options), loop(*args, **options), exact=hosts)


ORACLE = {
    "spatial": (dict(spatial_adj=True), spatial),
    "rectangle": (dict(spike_grad=snn.surrogate.rectangle(1.5)), rectangle(1.5)),
}


@pytest.mark.parametrize("alpha", [0.0, 0.8])
@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("name", ORACLE)
@pytest.mark.parametrize("num_steps", [1, 2, 7, 63])
def test_recorded_membranes_against_the_oracle(num_steps, name, reset, alpha):
    options, surrogate = ORACLE[name]
    beta, threshold = torch.linspace(0.3, 0.95, N, dtype=F64), torch.tensor(0.5, dtype=F64)
    cur, mem = currents(num_steps, B, N, dtype=F64), currents(B, N, seed=2, dtype=F64)
    w_spk, w_mem = (weights(num_steps, B, N, seed=s, dtype=F64) for s in (3, 4))
    settings = dict(reset_mechanism=reset, temporal_alpha=alpha, record_mem=True)
    actual = call(cur, mem, beta, threshold, w_spk, w_mem, **options, **settings)
    expected = lif(
        cur.numpy(),
        beta=beta.numpy(),
        threshold=threshold.numpy(),
        surrogate=surrogate,
        alpha=alpha,
        reset=reset,
        mem0=mem.numpy(),
        dspk=w_spk.numpy(),
        dmem=w_mem.numpy(),
    )
    assert torch.equal(actual["spk"], torch.as_tensor(expected.spk))
    assert_close(actual["mem"], expected.mem, F64, 1 + abs(expected.mem).max(), "mem")
    assert_close(actual["dinput"], expected.dinput, F64, expected.du_scale, "dinput")
    assert_close(actual["dmem0"], expected.dmem0, F64, expected.du_scale, "dmem0")
    assert_close(actual["dbeta"], expected.dbeta, F64, expected.dbeta_scale, "dbeta")
    assert_close(actual["dthreshold"], expected.dthreshold, F64, expected.dthreshold_scale, "dthreshold")


@pytest.mark.parametrize("record_mem", [False, True], ids=["last", "record"])
@pytest.mark.parametrize("factor", [0.5, torch.tensor(2.0), torch.linspace(0.1, 2.0, N)], ids=["number", "0d", "1d"])
@pytest.mark.parametrize("option", OPTIONS)
def test_graded_spikes(option, factor, record_mem):
    cur = currents(6, B, N)
    options = dict(beta=0.9, threshold=0.5, reset_mechanism="zero", record_mem=record_mem) | OPTIONS[option]
    plain = lif_multistep(cur, **options)
    graded = lif_multistep(cur, **options, graded_spikes_factor=factor)
    assert torch.equal(graded.spk, plain.spk * factor) and plain.spk.count_nonzero() > 0
    assert torch.equal(graded.mem, plain.mem)


# --- properties -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 4, 8])
@pytest.mark.parametrize(("option", "reset"), CASES)
def test_splitting_time_equals_the_whole(option, reset, cut):
    options = dict(beta=0.9, threshold=0.5, reset_mechanism=reset) | OPTIONS[option]
    whole_cur, split_cur, w = leaf(currents(9, B, N)), leaf(currents(9, B, N)), weights(9, B, N)
    whole = lif_multistep(whole_cur, **options)
    first = lif_multistep(split_cur[:cut], **options)
    second = lif_multistep(split_cur[cut:], first.mem, **options)
    spk = torch.cat([first.spk, second.spk])
    assert torch.equal(spk, whole.spk) and torch.equal(second.mem, whole.mem)
    ((whole.spk * w).sum() + whole.mem.sum()).backward()
    ((spk * w).sum() + second.mem.sum()).backward()
    assert torch.equal(split_cur.grad, whole_cur.grad)


@pytest.mark.parametrize("dim", [1, 2], ids=["batch", "neuron"])
@pytest.mark.parametrize(("option", "reset"), CASES)
def test_permutation_goes_through(option, reset, dim):
    options = OPTIONS[option] | dict(reset_mechanism=reset)
    beta, threshold = torch.linspace(0.2, 1.0, N), torch.linspace(0.3, 0.9, N)
    cur, mem, w_spk, w_mem = (
        currents(7, B, N),
        currents(B, N, seed=2),
        weights(7, B, N),
        weights(B, N, seed=3),
    )
    order = torch.tensor([2, 0, 1] if dim == 1 else [3, 1, 4, 0, 2])
    neurons = order if dim == 2 else torch.arange(N)
    plain = call(cur, mem, beta, threshold, w_spk, w_mem, **options)
    shuffled = call(
        cur.index_select(dim, order),
        mem.index_select(dim - 1, order),
        beta[neurons],
        threshold[neurons],
        w_spk.index_select(dim, order),
        w_mem.index_select(dim - 1, order),
        **options,
    )
    for name, axis in {"spk": dim, "mem": dim - 1, "dinput": dim, "dmem0": dim - 1}.items():
        assert torch.equal(shuffled[name], plain[name].index_select(axis, order)), name
    for name in ("dbeta", "dthreshold"):  # a permuted batch is summed in another order
        assert_close(shuffled[name], plain[name][neurons], torch.float32, plain[name].abs().max(), name)


@pytest.mark.parametrize(("option", "reset"), CASES)
def test_samples_do_not_see_each_other(option, reset):
    options = dict(beta=0.9, threshold=0.5, reset_mechanism=reset) | OPTIONS[option]
    cur = leaf(currents(6, B, N))
    out = lif_multistep(cur, **options)
    (out.spk[:, 1].sum() + out.mem[1].sum()).backward()
    assert cur.grad[:, 1].count_nonzero() > 0
    assert cur.grad[:, 0].count_nonzero() == cur.grad[:, 2].count_nonzero() == 0
    alone = lif_multistep(cur[:, 1:2], **options)
    assert torch.equal(alone.spk, out.spk[:, 1:2]) and torch.equal(alone.mem, out.mem[1:2])


@pytest.mark.parametrize(("option", "reset"), CASES)
def test_time_does_not_run_backwards(option, reset):
    options = dict(beta=0.9, threshold=0.5, reset_mechanism=reset, record_mem=True) | OPTIONS[option]
    cur = leaf(currents(6, B, N))
    out = lif_multistep(cur, **options)
    later = torch.cat([cur[:4], cur[4:] + 1.0])
    changed = lif_multistep(later, **options)
    assert torch.equal(changed.spk[:4], out.spk[:4]) and torch.equal(changed.mem[:4], out.mem[:4])
    assert not torch.equal(changed.mem[4:], out.mem[4:])
    out.mem[:4].sum().backward()
    assert cur.grad[4:].count_nonzero() == 0 and cur.grad[:4].count_nonzero() > 0


@pytest.mark.parametrize("num_steps", [1, 7])
@pytest.mark.parametrize(("option", "reset"), CASES)
def test_silence_stays_silent(option, reset, num_steps):
    options = dict(beta=0.9, threshold=0.5, reset_mechanism=reset) | OPTIONS[option]
    out = lif_multistep(torch.zeros(num_steps, B, N), **options)
    assert out.spk.shape == (num_steps, B, N) and out.spk.count_nonzero() == 0
    assert out.mem.shape == (B, N) and out.mem.count_nonzero() == 0


@pytest.mark.parametrize(("option", "reset"), CASES)
def test_no_membrane_means_zeros(option, reset):
    options = dict(beta=0.9, threshold=0.5, reset_mechanism=reset) | OPTIONS[option]
    cur = currents(5, B, N)
    nothing, zeros = lif_multistep(cur, **options), lif_multistep(cur, torch.zeros(B, N), **options)
    assert torch.equal(nothing.spk, zeros.spk) and torch.equal(nothing.mem, zeros.mem)


@pytest.mark.parametrize(("option", "reset"), CASES)
def test_the_record_ends_with_the_last_membrane(option, reset):
    options = dict(beta=0.9, threshold=0.5, reset_mechanism=reset) | OPTIONS[option]
    cur = currents(5, B, N)
    last, record = lif_multistep(cur, **options), lif_multistep(cur, **options, record_mem=True)
    assert torch.equal(last.spk, record.spk)
    assert last.mem.shape == (B, N) and record.mem.shape == (5, B, N)
    assert torch.equal(record.mem[-1], last.mem)
    # With no reset delay and no grading, a spike is the membrane above the threshold.
    assert torch.equal(record.spk, (record.mem > 0.5).to(record.spk.dtype))


def test_nothing_is_written_to_the_arguments():
    cur, mem = currents(5, B, N), currents(B, N, seed=2)
    beta, threshold = torch.linspace(0.2, 1.0, N), torch.linspace(0.3, 0.9, N)
    before = [x.clone() for x in (cur, mem, beta, threshold)]
    for option in OPTIONS:
        lif_multistep(cur, mem, beta=beta, threshold=threshold, reset_mechanism="zero", **OPTIONS[option])
    for x, y in zip((cur, mem, beta, threshold), before, strict=True):
        assert torch.equal(x, y)


# --- shapes, strides and dtypes -------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1), (7, 3, 2, 5, 3), (63, 1, 3), (3, 1, 17, 1)], ids=str)
@pytest.mark.parametrize("option", OPTIONS)
def test_shapes(option, shape):
    cur, mem = currents(*shape), currents(*shape[1:], seed=2)
    w_spk, w_mem = weights(*shape), weights(*shape[1:], seed=3)
    options = OPTIONS[option] | dict(reset_mechanism="zero")
    args = (cur, mem, torch.tensor(0.9), torch.tensor(0.5), w_spk, w_mem)
    exact = option in ("off", "fast-sigmoid")
    assert_equal(call(*args, **options), loop(*args, **options), exact=exact)


@pytest.mark.parametrize("record_mem", [False, True], ids=["last", "record"])
@pytest.mark.parametrize("shape", [(4, 0, 5), (4, 3, 0), (1, 0, 2, 3)], ids=str)
@pytest.mark.parametrize("option", OPTIONS)
def test_nothing_in_the_batch(option, shape, record_mem):
    cur = leaf(torch.zeros(shape))
    options = dict(beta=0.9, threshold=0.5, reset_mechanism="zero") | OPTIONS[option]
    out = lif_multistep(cur, record_mem=record_mem, **options)
    assert out.spk.shape == shape
    assert out.mem.shape == (shape if record_mem else shape[1:])
    (out.spk.sum() + out.mem.sum()).backward()
    assert cur.grad.shape == shape


@pytest.mark.parametrize("option", OPTIONS)
def test_no_time_steps_are_refused(option):
    options = dict(beta=0.9, threshold=0.5, reset_mechanism="zero") | OPTIONS[option]
    with pytest.raises(ValueError, match="time step"):
        lif_multistep(torch.zeros(0, B, N), **options)
    with pytest.raises(ValueError, match="time step"):
        snn.Leaky(**options).sequence(torch.zeros(0, B, N))
    with pytest.raises(ValueError, match="time step"):
        snn.Leaky(**options, inhibition=False, state_quant=lambda mem: mem).sequence(torch.zeros(0, B, N))


STRIDES = {
    "batch-first": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "every-other": lambda x: x.repeat_interleave(2, dim=-1)[..., ::2],
    "reversed-layout": lambda x: x.permute(2, 1, 0).contiguous().permute(2, 1, 0),
    "expanded": lambda x: x[:, :1].expand_as(x),
}


@pytest.mark.parametrize("layout", STRIDES)
@pytest.mark.parametrize("option", OPTIONS)
def test_strides_do_not_matter(option, layout):
    cur, mem, w_spk, w_mem = (
        currents(6, B, N),
        currents(B, N, seed=2),
        weights(6, B, N),
        weights(B, N, seed=3),
    )
    strided = STRIDES[layout](cur)
    assert not strided.is_contiguous()
    options = OPTIONS[option] | dict(reset_mechanism="zero")
    rest = (
        mem.T.contiguous().T,
        torch.tensor(0.9),
        torch.tensor(0.5),
        STRIDES[layout](w_spk),
        w_mem,
    )
    dense = (mem, torch.tensor(0.9), torch.tensor(0.5), STRIDES[layout](w_spk).contiguous(), w_mem)
    x = strided.detach().requires_grad_()  # not a clone, which could be dense
    out = lif_multistep(x, rest[0], beta=rest[1], threshold=rest[2], **options, impl="reference")
    ((out.spk * rest[3]).sum() + (out.mem * w_mem).sum()).backward()
    expected = call(strided.contiguous(), *dense, **options)
    actual = {"spk": out.spk.detach(), "mem": out.mem.detach(), "dinput": x.grad}
    assert_equal(actual, expected, ("spk", "mem", "dinput"))


@pytest.mark.parametrize("dtype", [F64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("option", OWN)
def test_every_dtype_is_kept_and_right(option, reset, dtype):
    """Against the float64 oracle on the same numbers, multiples of 1/64: equal spikes."""
    cur = (currents(3, B, N, seed=3, dtype=F64) * 64).round() / 64
    mem = (currents(B, N, seed=4, dtype=F64) * 64).round() / 64
    w_spk, w_mem = ((weights(*s, seed=5, dtype=F64) * 4).round() / 4 for s in ((3, B, N), (3, B, N)))
    beta, threshold = torch.tensor(0.5, dtype=dtype), torch.tensor(0.53125, dtype=dtype)
    options = OWN[option] | dict(reset_mechanism=reset, record_mem=True)
    actual = call(
        *(x.to(dtype) for x in (cur, mem)),
        beta,
        threshold,
        w_spk.to(dtype),
        w_mem.to(dtype),
        **options,
    )
    assert {v.dtype for v in actual.values()} == {dtype}
    expected = lif(
        cur.numpy(),
        beta=0.5,
        threshold=0.53125,
        surrogate=spatial if "spatial_adj" in options else rectangle(1.5),
        alpha=options.get("temporal_alpha", 0.0),
        reset=reset,
        mem0=mem.numpy(),
        dspk=w_spk.numpy(),
        dmem=w_mem.numpy(),
    )
    assert torch.equal(actual["spk"].to(F64), torch.as_tensor(expected.spk))
    assert_close(actual["mem"], expected.mem, dtype, 1.0, "mem")
    assert_close(actual["dinput"], expected.dinput, dtype, 1 + expected.du_scale, "dinput")
    assert_close(actual["dmem0"], expected.dmem0, dtype, 1 + expected.du_scale, "dmem0")
    assert_close(actual["dbeta"], expected.dbeta, dtype, 1 + expected.dbeta_scale, "dbeta")
    assert_close(
        actual["dthreshold"],
        expected.dthreshold,
        dtype,
        1 + expected.dthreshold_scale,
        "dthreshold",
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("option", OWN)
def test_half_precision_with_plain_numbers(option, dtype):
    """beta=0.9 is a float32 tensor inside; it must not lift a half-precision layer to float32."""
    cur = leaf(currents(6, B, N, dtype=dtype))
    out = lif_multistep(cur, beta=0.9, threshold=0.5, reset_mechanism="zero", **OWN[option])
    (out.spk.sum() + out.mem.sum()).backward()
    assert out.spk.dtype == out.mem.dtype == cur.grad.dtype == dtype
    assert cur.grad.isfinite().all() and 0 < out.spk.count_nonzero() < out.spk.numel()


@pytest.mark.parametrize("impl", ["auto", "reference"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, F64], ids=str)
def test_the_hosts_surrogates_which_give_float32_change_no_type(dtype, impl):
    both = {"reset_mechanism": "zero", "temporal_alpha": 0.5, "record_mem": True}
    hosts = host_surrogate.atan(), host_surrogate.fast_sigmoid(), host_surrogate.SFS(), host_surrogate.sigmoid(5)
    for spike_grad in hosts:  # the sigmoid of a larger slope overflows in half precision
        for option in ({}, {"temporal_alpha": 0.5}, both):
            cur = leaf(currents(4, B, N, dtype=dtype))
            out = lif_multistep(cur, beta=0.9, threshold=0.5, spike_grad=spike_grad, impl=impl, **option)
            (out.spk.sum() + out.mem.sum()).backward()
            assert out.spk.dtype == out.mem.dtype == cur.grad.dtype == dtype and cur.grad.isfinite().all()


@pytest.mark.parametrize("option", OWN)
@pytest.mark.parametrize("value", [float("inf"), -float("inf"), 6e4, -6e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_a_huge_current_makes_no_nan_of_the_spikes_gradient(dtype, value, option):
    cur = currents(1, B, N, dtype=dtype)
    cur[0, 1, 2] = value
    cur.requires_grad_()
    out = lif_multistep(cur, beta=0.9, threshold=0.5, reset_mechanism="zero", **OWN[option])
    out.spk.sum().backward()
    assert not out.spk.isnan().any() and not cur.grad.isnan().any()
    assert cur.grad[0, 1, 2].abs() < 1e-4


# --- the door -------------------------------------------------------------------------------------


def test_output_is_a_named_tuple():
    out = lif_multistep(currents(4, B, N), beta=0.9)
    assert isinstance(out, tuple) and isinstance(out, LIFOutput)
    assert out._fields == ("spk", "mem")
    spk, mem = out
    assert spk is out.spk and mem is out.mem


def test_signature():
    parameters = inspect.signature(lif_multistep).parameters
    assert {n: p.default for n, p in parameters.items()} == {
        "input_": inspect.Parameter.empty,
        "mem": None,
        "beta": inspect.Parameter.empty,
        "threshold": 1.0,
        "reset_mechanism": "subtract",
        "spike_grad": None,
        "spatial_adj": False,
        "temporal_alpha": 0.0,
        "graded_spikes_factor": 1.0,
        "record_mem": False,
        "num_steps": None,
        "relu": False,
        "inplace": False,
        "save": None,
        "impl": "auto",
    }
    assert inspect.signature(which_impl).parameters.keys() == parameters.keys()
    keyword_only = [n for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY]
    assert keyword_only == list(parameters)[2:]


@pytest.mark.parametrize("option", OPTIONS)
def test_what_auto_picks(option):
    cur, options = (
        currents(4, B, N),
        dict(beta=0.9, threshold=0.5, reset_mechanism="zero") | OPTIONS[option],
    )
    assert which_impl(cur, **options) == "cpu"
    assert which_impl(cur, **options, impl="reference") == "reference"
    auto, reference = (lif_multistep(cur, impl=i, **options) for i in ("auto", "reference"))
    assert torch.equal(auto.spk, reference.spk) and torch.equal(auto.mem, reference.mem)


UNCOVERED = {
    "triton": (dict(impl="triton"), "device cpu|no Triton"),
    "surrogate in half precision": (dict(spike_grad=snn.surrogate.SSO(), dtype=torch.bfloat16), "surrogate"),
    "membrane of another dtype": (dict(mem=torch.zeros(B, N, dtype=F64)), "mem of torch.float64"),
    "beta of another dtype": (dict(beta=torch.full((N,), 0.9, dtype=F64)), "beta of torch.float64"),
    "threshold of another dtype": (dict(threshold=torch.ones(N), dtype=torch.float16), "threshold of torch.float32"),
    "compact": (dict(save="compact"), "compact"),
    "double in few bits": (dict(save="bfloat16", dtype=F64), "float64"),
    "few bits for a learnable beta": (
        dict(save="bfloat16", beta=torch.full((N,), 0.9, requires_grad=True)),
        "learnable beta",
    ),
    "few bits for the triangular surrogate": (
        dict(save="bfloat16", spike_grad=snn.surrogate.triangular()),
        "needs the membrane",
    ),
}


@pytest.mark.parametrize("case", UNCOVERED)
def test_an_implementation_that_does_not_cover_it_is_refused(case):
    options, match = UNCOVERED[case]
    options = {"beta": 0.9, "impl": "cpu"} | options
    cur = currents(4, B, N).to(options.pop("dtype", torch.float32))
    with pytest.raises(NotImplementedError, match=match):
        lif_multistep(cur, **options)
    with pytest.raises(NotImplementedError, match=match):
        which_impl(cur, **options)
    assert which_impl(cur, **options | {"impl": "auto"}) == ("cpu" if case == "triton" else "reference")


@pytest.mark.parametrize("impl", ["cuda", "Auto", "", None, 0], ids=repr)
def test_a_wrong_implementation_is_answered_with_the_right_ones(impl):
    with pytest.raises(ValueError, match="auto.*reference.*cpu.*triton"):
        lif_multistep(currents(4, B, N), beta=0.9, impl=impl)
    with pytest.raises(ValueError, match="auto.*reference.*cpu.*triton"):
        which_impl(currents(4, B, N), beta=0.9, impl=impl)


@pytest.mark.parametrize("name", ["beta", "threshold"])
@pytest.mark.parametrize("value", ["0.9", None, {}], ids=repr)
def test_beta_and_threshold_are_numbers_or_tensors(value, name):
    with pytest.raises(TypeError, match=name):
        lif_multistep(currents(4, B, N), **({"beta": 0.9} | {name: value}))


@pytest.mark.parametrize("mem", [0.0, [[0.0]]], ids=repr)
def test_mem_is_a_tensor(mem):
    with pytest.raises(TypeError, match="mem"):
        lif_multistep(currents(4, B, N), mem, beta=0.9)


def test_graded_spikes_factor_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="graded_spikes_factor"):
        lif_multistep(currents(4, B, 1), beta=0.9, graded_spikes_factor=torch.ones(7))


def test_a_spatial_adjustment_of_another_threshold():
    """Not the neuron's: 1 / (x + 0.25). It is a surrogate like one of a user's own."""
    cur, threshold = currents(4, B, N).requires_grad_(), 0.5
    same = dict(beta=0.9, threshold=threshold, spike_grad=snn.surrogate.spatial_adjustment(threshold))
    other = same | dict(spike_grad=snn.surrogate.spatial_adjustment(0.25))
    assert which_impl(cur, **same) == which_impl(cur, **other) == "cpu"
    grads = [
        torch.autograd.grad(lif_multistep(cur, **options, impl=impl).spk.sum(), cur)[0]
        for options, impl in ((same, "cpu"), (other, "cpu"), (other, "reference"))
    ]
    torch.testing.assert_close(grads[1], grads[2])
    assert not torch.allclose(grads[0], grads[1])


@pytest.mark.parametrize("kind", ["random", "over the batch"])
def test_a_surrogate_that_the_kernels_cannot_take_once_is_looped_over(kind):
    """Named, it is refused; "auto" says so once, by name."""

    class Odd(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return (x > 0).to(x.dtype)

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return grad * (torch.rand_like(x) if kind == "random" else x.abs() / x.abs().mean())

    cur = currents(4, B, N).requires_grad_()
    with pytest.raises(NotImplementedError, match="mixes neurons or steps, draws at random"):
        lif_multistep(cur, beta=0.9, spike_grad=Odd.apply, impl="cpu")
    multistep._said.clear()
    with pytest.warns(UserWarning, match="Leaky runs as a loop over time"):
        auto = lif_multistep(cur, beta=0.9, spike_grad=Odd.apply)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lif_multistep(cur, beta=0.9, spike_grad=Odd.apply)
    assert torch.equal(auto.spk, lif_multistep(cur, beta=0.9, impl="reference").spk)
