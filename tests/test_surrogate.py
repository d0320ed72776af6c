"""The two surrogates: values, slopes, dtypes, and no NaN in any corner of half precision."""

import copy
import functools
import inspect
import pickle

import pytest
import snntorch
import torch
from _tolerance import assert_close

import snntorch_bpsta as snn
from snntorch_bpsta import surrogate

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
PER_NEURON = torch.tensor([0.3, 0.5, 1.7], dtype=torch.float64)

SURROGATES = {
    "spatial": lambda: surrogate.spatial_adjustment(0.5),
    "spatial-large": lambda: surrogate.spatial_adjustment(3.0),
    "spatial-per-neuron": lambda: surrogate.spatial_adjustment(PER_NEURON.clone()),
    "leaky": lambda: surrogate.spatial_adjustment(0.5, leak=0.2),
    "rectangle": lambda: surrogate.rectangle(),
    "rectangle-narrow": lambda: surrogate.rectangle(0.25),
}


@pytest.fixture(params=SURROGATES)
def spike_grad(request):
    return SURROGATES[request.param]()


def gradient(spike_grad, x, dspk=None):
    x = x.detach().clone().requires_grad_()
    spk = spike_grad(x)
    spk.backward(torch.ones_like(spk) if dspk is None else dspk)
    return x.grad


def points(*shape, dtype=torch.float64, seed=0):
    gen = torch.Generator().manual_seed(seed)
    return (torch.randn(*shape, generator=gen, dtype=torch.float64) * 0.6).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_fires_strictly_above_and_keeps_the_dtype(spike_grad, dtype):
    x = torch.tensor([-1.0, -0.0, 0.0, 1e-4, 0.2, 7.0], dtype=dtype).unsqueeze(-1).expand(6, 3)
    spk = spike_grad(x)
    assert spk.dtype == dtype and gradient(spike_grad, x).dtype == dtype
    assert spk[:, 0].tolist() == spk[:, 2].tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("x", [0.001, 0.1, 1.0, 25.0])
def test_spatial_adjustment_is_one_over_the_membrane(x):
    spike_grad = surrogate.spatial_adjustment(0.5)
    x = torch.tensor([x, -x, 0.0], dtype=torch.float64)
    expected = torch.tensor([1 / (x[0] + 0.5), 0.0, 0.0], dtype=torch.float64)
    assert torch.equal(spike_grad.derivative(x), expected)
    assert torch.equal(gradient(spike_grad, x), expected)


def test_the_leak_is_a_constant_where_the_membrane_is_positive_and_no_spike():
    spike_grad = surrogate.spatial_adjustment(0.5, leak=0.2)
    x = torch.tensor([0.3, 0.0, -0.2, -0.499, -0.5, -0.7], dtype=torch.float64)
    expected = torch.tensor([1 / (x[0] + 0.5), 0.2, 0.2, 0.2, 0.0, 0.0], dtype=torch.float64)
    assert torch.equal(spike_grad.derivative(x), expected)
    assert torch.equal(gradient(spike_grad, x), expected)
    x = torch.tensor([[0.1, -0.2, -1.7], [-0.3, -0.5, -1.69]], dtype=torch.float64)
    slope = gradient(surrogate.spatial_adjustment(PER_NEURON, leak=0.2), x)
    expected = torch.tensor([[1 / 0.4, 0.2, 0.0], [0.0, 0.0, 0.2]], dtype=torch.float64)
    assert_close(slope, expected, torch.float64)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_without_a_leak_it_is_equation_9_to_the_bit(dtype):
    x, dspk = points(300, 3, dtype=dtype), points(300, 3, dtype=dtype, seed=1)
    u = x.clamp(min=0) + 0.5
    expected = torch.where(x > 0, dspk / u, torch.zeros_like(x))
    for spike_grad in (surrogate.spatial_adjustment(0.5), surrogate.spatial_adjustment(0.5, leak=0.0)):
        assert torch.equal(gradient(spike_grad, x, dspk), expected)


def test_spatial_adjustment_per_neuron_threshold():
    x = torch.tensor([[0.1, -0.1, 0.1], [1.0, 2.0, 0.0]], dtype=torch.float64)
    slope = gradient(surrogate.spatial_adjustment(PER_NEURON), x)
    expected = torch.tensor([[1 / 0.4, 0.0, 1 / 1.8], [1 / 1.3, 1 / 2.5, 0.0]], dtype=torch.float64)
    assert_close(slope, expected, torch.float64)


@pytest.mark.parametrize("width", [0.25, 1.0, 3.0])
def test_rectangle_is_a_window_around_the_threshold(width):
    x = width * torch.tensor([-0.6, -0.5, -0.49, 0.0, 0.49, 0.5, 0.6], dtype=torch.float64)
    expected = torch.tensor([0, 0, 1, 1, 1, 0, 0], dtype=torch.float64) / width
    assert torch.equal(surrogate.rectangle(width).derivative(x), expected)
    assert torch.equal(gradient(surrogate.rectangle(width), x), expected)


def test_derivative_is_the_slope_of_the_primitive(spike_grad):
    x, h = points(400, 3), 1e-6
    # Away from the kinks: the threshold itself and the two ends of the window.
    kinks = [0.0] + [e for e in (getattr(spike_grad, "width", 0) / 2, 0.5 * (getattr(spike_grad, "leak", 0) > 0)) if e]
    away = torch.stack([(x.abs() - kink).abs() > 1e-3 for kink in kinks]).all(dim=0)
    slope = (spike_grad.primitive(x + h) - spike_grad.primitive(x - h)) / (2 * h)
    error = (spike_grad.derivative(x) - slope)[away].abs().max()
    assert away.sum() > 900 and slope[away].count_nonzero() > 100
    assert error < 1e-8


def test_primitives_are_the_ones_of_the_papers():
    x = torch.tensor([-0.2, 0.1, 0.7], dtype=torch.float64)
    log_u = surrogate.spatial_adjustment(0.5).primitive(x)
    assert_close(log_u[1:], torch.log(x[1:] + 0.5), torch.float64)
    ramp = surrogate.rectangle(2.0).primitive(torch.tensor([-9.0, -1.0, 0.5, 1.0, 9.0], dtype=torch.float64))
    assert ramp.tolist() == [0.0, 0.0, 0.75, 1.0, 1.0]


def test_backward_multiplies_by_the_derivative(spike_grad):
    x, dspk = points(50, 3), points(50, 3, seed=1)
    expected = dspk * spike_grad.derivative(x)
    assert expected.count_nonzero() > 20
    assert_close(gradient(spike_grad, x, dspk), expected, torch.float64)


# --- no NaN ---------------------------------------------------------------------------------------

INF = float("inf")
TINY = {"1e-6": 1e-6, "1e-30": 1e-30, "tensor": torch.tensor(1e-6), "0.5": 0.5, "6e4": 6e4}


@pytest.mark.parametrize("dspk", [0.0, 1.0, -3.0], ids=["zero", "one", "negative"])
@pytest.mark.parametrize("threshold", TINY)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_spatial_adjustment_makes_no_nan(dtype, threshold, dspk):
    spike_grad = surrogate.spatial_adjustment(TINY[threshold])
    info = torch.finfo(dtype)
    values = [
        -INF,
        info.min,
        -1.0,
        -info.tiny,
        0.0,
        info.smallest_normal,
        info.tiny,
        1.0,
        info.max,
        INF,
    ]
    x = torch.tensor(values, dtype=dtype)
    # The smallest number above zero there is.
    x = torch.cat([x, torch.nextafter(torch.zeros(1, dtype=dtype), torch.ones(1, dtype=dtype))])
    slope = gradient(spike_grad, x, torch.full_like(x, dspk))
    assert not slope.isnan().any(), slope
    assert (slope[x <= 0] == 0).all() and slope[-2] == 0  # 1/inf
    if dspk == 0:
        assert (slope == 0).all()
    assert not spike_grad(x).isnan().any()
    assert not spike_grad.derivative(x).isnan().any()
    assert not spike_grad.primitive(x).isnan().any()


@pytest.mark.parametrize("dspk", [0.0, 1.0], ids=["zero", "one"])
@pytest.mark.parametrize("width", [1e-6, 1.0, 1e30])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rectangle_makes_no_nan(dtype, width, dspk):
    spike_grad = surrogate.rectangle(width)
    info = torch.finfo(dtype)
    x = torch.tensor([-INF, info.min, -1.0, 0.0, info.tiny, 1.0, info.max, INF], dtype=dtype)
    slope = gradient(spike_grad, x, torch.full_like(x, dspk))
    assert not slope.isnan().any(), slope
    assert slope[0] == slope[-1] == 0
    if dspk == 0:
        assert (slope == 0).all()


# --- objects, not closures ------------------------------------------------------------------------

COPIES = {
    "pickle": lambda f: pickle.loads(pickle.dumps(f)),
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("how", COPIES)
def test_copies_are_equal(spike_grad, how):
    twin = COPIES[how](spike_grad)
    assert twin is not spike_grad
    assert repr(twin) == repr(spike_grad)
    x = points(20, 3)
    assert torch.equal(twin(x), spike_grad(x))
    assert torch.equal(gradient(twin, x), gradient(spike_grad, x))


def test_repr_tells_them_apart():
    reprs = {repr(make()) for make in SURROGATES.values()}
    assert len(reprs) == len(SURROGATES)
    assert "0.5" in repr(surrogate.spatial_adjustment(0.5)) and "0.25" in repr(surrogate.rectangle(0.25))
    assert " at 0x" not in "".join(reprs)


def test_rectangle_is_one_wide_by_default():
    assert repr(surrogate.rectangle()) == repr(surrogate.rectangle(1.0)) == repr(surrogate.rectangle(width=1.0))


@pytest.mark.parametrize("neuron", ["Leaky", "Synaptic", "RLeaky", "Alpha", "Lapicque"])
def test_usable_in_every_stock_neuron(neuron):
    torch.manual_seed(0)
    arguments = {
        "Leaky": dict(beta=0.9),
        "Synaptic": dict(alpha=0.8, beta=0.7),
        "RLeaky": dict(beta=0.9, linear_features=3),
        "Alpha": dict(alpha=0.8, beta=0.7),
        "Lapicque": dict(beta=0.9),
    }[neuron]
    for spike_grad in (surrogate.spatial_adjustment(0.5), surrogate.rectangle(1.0)):
        lif = getattr(snntorch, neuron)(**arguments, threshold=0.5, spike_grad=spike_grad, init_hidden=True)
        # Lapicque multiplies its input by (1 - beta): it needs ten times the current.
        cur = (torch.rand(4, 2, 3) * (20 if neuron == "Lapicque" else 2)).requires_grad_()
        spk_rec = torch.stack([lif(c) for c in cur])
        spk_rec.sum().backward()
        assert 0 < spk_rec.count_nonzero() < spk_rec.numel()
        assert cur.grad.isfinite().all() and cur.grad.count_nonzero() > 0


# --- torch.func -----------------------------------------------------------------------------------


def test_works_under_vmap_and_grad(spike_grad):
    x = points(11, 3)
    assert torch.equal(torch.func.vmap(spike_grad)(x), spike_grad(x))
    expected = gradient(spike_grad, x)
    assert torch.equal(torch.func.grad(lambda v: spike_grad(v).sum())(x), expected)
    per_sample = torch.func.vmap(torch.func.grad(lambda v: spike_grad(v).sum()))(x)
    assert torch.equal(per_sample, expected)


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.0, -0.5, float("nan"), INF, torch.tensor([0.5, 0.0]), torch.tensor(-1.0)])
def test_spatial_adjustment_needs_a_positive_threshold(threshold):
    with pytest.raises(ValueError, match="threshold"):
        surrogate.spatial_adjustment(threshold)


@pytest.mark.parametrize("leak", [-0.1, float("nan"), INF])
def test_a_leak_is_not_negative(leak):
    with pytest.raises(ValueError, match="leak must be a finite number >= 0"):
        surrogate.spatial_adjustment(0.5, leak)


def test_whoever_has_no_threshold_says_whose_it_takes():
    spike_grad = surrogate.spatial_adjustment(leak=0.1)
    for call in (spike_grad, spike_grad.derivative, spike_grad.primitive, snn.Leaky(0.9, spike_grad=spike_grad)):
        with pytest.raises(ValueError, match=r"without a threshold takes that of the neuron whose spatial_adj it is"):
            call(torch.rand(1, 3))


@pytest.mark.parametrize("width", [0.0, -1.0, float("nan")])
def test_rectangle_needs_a_positive_width(width):
    with pytest.raises(ValueError, match="width"):
        surrogate.rectangle(width)


@pytest.mark.parametrize("value", [None, "0.5", [0.5]], ids=repr)
def test_arguments_are_numbers(value):
    if value is not None:
        with pytest.raises(TypeError, match="threshold"):
            surrogate.spatial_adjustment(value)
    with pytest.raises(TypeError, match="leak"):
        surrogate.spatial_adjustment(0.5, value)
    with pytest.raises(TypeError, match="width"):
        surrogate.rectangle(value)


# --- what makes surrogates, in place of one -------------------------------------------------------

MAKERS = [name for name in surrogate.__all__ if inspect.isfunction(getattr(surrogate, name))]
MAKERS += ["Rectangle", "SpatialAdjustment"]
TAKE_ONE = {
    "neuron": lambda spike_grad: snn.Synaptic(0.9, 0.8, spike_grad=spike_grad),
    "attribute": lambda spike_grad: setattr(snn.Leaky(0.9), "spike_grad", spike_grad),
    "engine": lambda spike_grad: snn.functional.lif_multistep(torch.rand(2, 1, 3), beta=0.9, spike_grad=spike_grad),
}


@pytest.mark.parametrize("door", TAKE_ONE)
@pytest.mark.parametrize("name", MAKERS)
def test_a_maker_of_surrogates_is_to_be_called(name, door):
    for maker in (getattr(surrogate, name), functools.partial(getattr(surrogate, name))):
        with pytest.raises(TypeError, match=rf"call it, spike_grad={name}\("):
            TAKE_ONE[door](maker)


def test_makers_are_those_that_we_know():
    assert {"fast_sigmoid", "atan", "SFS", "spatial_adjustment", "rectangle"} <= set(MAKERS)


@pytest.mark.parametrize("door", TAKE_ONE)
def test_a_class_of_autograd_is_to_be_applied(door):
    with pytest.raises(TypeError, match=r"the class ATan: use its \.apply"):
        TAKE_ONE[door](snntorch.surrogate.ATan)


def test_convert_leaves_a_neuron_with_a_maker():
    lif = snntorch.Leaky(0.9, spike_grad=surrogate.fast_sigmoid)
    with pytest.warns(UserWarning, match=r"call it, spike_grad=fast_sigmoid\(\)"):
        snn.convert(torch.nn.Sequential(lif))
    assert type(lif) is snntorch.Leaky and lif.spike_grad is surrogate.fast_sigmoid


@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_a_maker_of_ones_own_is_told_where_it_is_called(impl):
    def mine(slope=10):
        return surrogate.fast_sigmoid(slope)

    with pytest.raises(TypeError, match=r"got function: if that makes the surrogate, call it"):
        snn.functional.lif_multistep(torch.rand(2, 1, 3), beta=0.9, spike_grad=mine, impl=impl)
    for options in ({}, {"temporal_alpha": 0.5}):
        with pytest.raises(TypeError, match="call it"):
            snn.Leaky(0.9, spike_grad=mine, **options)(torch.rand(1, 3))
    with pytest.raises(TypeError, match="tensor, for mem - threshold, got float$"):
        snn.functional.lif_multistep(torch.rand(2, 1, 3), beta=0.9, spike_grad=lambda x: 1.0, impl=impl)
