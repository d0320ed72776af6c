"""What cannot be honoured is refused: the right type, the argument's name and what to do."""

import contextlib

import pytest
import torch

import snntorch_bpsta as snn

T, B, N = 4, 3, 5
NAN, INF = float("nan"), float("inf")

ENTRANCES = ["neuron", "lif_multistep"]


def build_or_call(entrance, **kwargs):
    """The same arguments at both doors."""
    if entrance == "neuron":
        return snn.Leaky(**kwargs)
    kwargs.pop("reset_delay", None)
    return snn.functional.lif_multistep(torch.rand(T, B, N), **kwargs)


@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize("alpha", [-1.0001, 1.0001, 2, NAN, INF, -INF])
def test_temporal_alpha_is_within_its_range(alpha, entrance):
    with pytest.raises(ValueError, match=r"temporal_alpha.*\[-1, 1\]"):
        build_or_call(entrance, beta=0.9, temporal_alpha=alpha)


@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize("alpha", [True, False, None, "0.8", [0.8], 0.8j], ids=repr)
def test_temporal_alpha_is_a_number(alpha, entrance):
    with pytest.raises(TypeError, match="temporal_alpha"):
        build_or_call(entrance, beta=0.9, temporal_alpha=alpha)


@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize("alpha", [0, 1, 0.0, 1.0, 0.8, -1, -0.2])
def test_temporal_alpha_may_be_either_end(alpha, entrance):
    build_or_call(entrance, beta=0.9, reset_mechanism="zero", temporal_alpha=alpha)


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_temporal_alpha_needs_a_reset(entrance):
    with pytest.raises(ValueError, match="temporal_alpha.*reset_mechanism"):
        build_or_call(entrance, beta=0.9, temporal_alpha=0.8, reset_mechanism="none")
    build_or_call(entrance, beta=0.9, temporal_alpha=0.0, reset_mechanism="none", spatial_adj=True)


@pytest.mark.parametrize("options", [{"spatial_adj": True}, {"temporal_alpha": 0.8}], ids=str)
def test_nothing_is_left_to_adjust_without_a_surrogate(options):
    with pytest.raises(ValueError, match="surrogate_disable=True switches every surrogate gradient off.*drop it"):
        snn.Leaky(beta=0.9, surrogate_disable=True, **options)
    assert snn.Leaky(beta=0.9, surrogate_disable=True).surrogate_disable


def test_temporal_alpha_needs_the_reset_delay():
    with pytest.raises(ValueError, match="temporal_alpha.*reset_delay"):
        snn.Leaky(beta=0.9, temporal_alpha=0.8, reset_delay=False)
    snn.Leaky(beta=0.9, temporal_alpha=0.0, reset_delay=False, spatial_adj=True)


def test_temporal_alpha_needs_the_reset_delay_given_by_position_too():
    args = (
        0.9,
        1.0,
        None,
        False,
        False,
        False,
        False,
        False,
        "zero",
        False,
        False,
        1.0,
        False,
        False,
    )
    with pytest.raises(ValueError, match="temporal_alpha.*reset_delay"):
        snn.Leaky(*args, temporal_alpha=0.8)


@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize("value", [1, 0, None, "yes", 1.0, torch.tensor(True)], ids=repr)
def test_spatial_adj_is_a_bool(value, entrance):
    with pytest.raises(TypeError, match="spatial_adj"):
        build_or_call(entrance, beta=0.9, spatial_adj=value)


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_spatial_adj_with_a_leak_takes_the_threshold_of_its_neuron(entrance):
    with pytest.raises(ValueError, match=r"leave the threshold out, spatial_adj=spatial_adjustment\(leak=0.1\)"):
        build_or_call(entrance, beta=0.9, spatial_adj=snn.surrogate.spatial_adjustment(0.5, leak=0.1))
    with pytest.raises(ValueError, match="spatial_adj.*spike_grad"):
        leaks = snn.surrogate.spatial_adjustment(leak=0.1)
        build_or_call(entrance, beta=0.9, spatial_adj=leaks, spike_grad=snn.surrogate.rectangle())


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_spatial_adj_is_a_surrogate_itself(entrance):
    with pytest.raises(ValueError, match="spatial_adj.*spike_grad"):
        build_or_call(entrance, beta=0.9, spatial_adj=True, spike_grad=snn.surrogate.rectangle())


def test_spatial_adj_is_a_surrogate_itself_by_position_too():
    with pytest.raises(ValueError, match="spatial_adj.*spike_grad"):
        snn.Leaky(0.9, 1.0, snn.surrogate.atan(), spatial_adj=True)


THRESHOLDS = {
    "zero": 0.0,
    "int-zero": 0,
    "negative": -0.5,
    "nan": NAN,
    "tensor": torch.tensor(-1.0),
    "one-of-many": torch.tensor([0.5, 0.5, 0.0, 0.5, 0.5]),
    "nan-of-many": torch.tensor([0.5, 0.5, NAN, 0.5, 0.5]),
}


@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_spatial_adj_needs_a_positive_threshold(threshold, entrance):
    with pytest.raises(ValueError, match="threshold.*> 0"):
        build_or_call(entrance, beta=0.9, threshold=THRESHOLDS[threshold], spatial_adj=True)
    if threshold not in ("nan", "nan-of-many"):  # without 1/u the host's thresholds are all good
        build_or_call(entrance, beta=0.9, threshold=THRESHOLDS[threshold], temporal_alpha=0.8)


def no_grad_fill(lif, value):
    with torch.no_grad():
        lif.threshold.fill_(value)


def data_fill(lif, value):
    lif.threshold.data.fill_(value)


def optimizer_step(lif, value):
    lif.threshold.grad = lif.threshold.detach() - value
    torch.optim.SGD([lif.threshold], lr=1.0).step()


def adam_step(lif, value):
    lif.threshold.grad = torch.ones_like(lif.threshold)
    torch.optim.AdamW([lif.threshold], lr=0.5 - value, weight_decay=0.0, fused=True).step()


def load(lif, value):
    lif.load_state_dict(lif.state_dict() | {"threshold": torch.full_like(lif.threshold, value)})


def replace(lif, value):
    lif.threshold = torch.nn.Parameter(torch.full_like(lif.threshold, value))


DRIFTS = [no_grad_fill, data_fill, optimizer_step, adam_step, load, replace]


@pytest.mark.parametrize("how", ["step", "sequence"])
@pytest.mark.parametrize("drift", DRIFTS, ids=lambda f: f.__name__)
def test_a_threshold_that_drifts_is_caught_at_the_next_forward(drift, how):
    lif = snn.Leaky(beta=0.9, threshold=0.5, learn_threshold=True, spatial_adj=True)
    cur = torch.rand(T, B, N)

    def forward():
        return lif.sequence(cur) if how == "sequence" else lif(cur[0], torch.zeros(B, N))

    forward()
    drift(lif, -0.25)
    for _ in range(2):  # and again: a failed check is not remembered as done
        with pytest.raises(ValueError, match="threshold.*> 0"):
            forward()
    drift(lif, 0.25) if drift is not adam_step else no_grad_fill(lif, 0.25)
    forward()


# --- shapes ---------------------------------------------------------------------------------------

SHAPE = (2, 3, 4, 5)  # B, C, H, W
ON = {
    "spatial": dict(spatial_adj=True),
    "temporal": dict(temporal_alpha=0.8),
    "both": dict(spatial_adj=True, temporal_alpha=0.8),
}


def drive(entrance, cur, **kwargs):
    """A step, a sequence or the function on current `cur` [B, *]."""
    if entrance == "function":
        return snn.functional.lif_multistep(cur.expand(T, *cur.shape), **kwargs)
    lif = snn.Leaky(reset_mechanism="zero", **kwargs)
    return lif.sequence(cur.expand(T, *cur.shape)) if entrance == "sequence" else lif(cur)


WAYS = [("step", on) for on in ON] + [(e, on) for e in ("sequence", "function") for on in ("off", *ON)]


@pytest.mark.parametrize("name", ["beta", "threshold"])
@pytest.mark.parametrize(("entrance", "on"), WAYS)
@pytest.mark.parametrize(
    ("shape", "per_channel"),
    [(SHAPE, r"\(3, 1, 1\)"), ((2, 3, 4, 1), r"\(3, 1, 1\)"), ((2, 3, 4), r"\(3, 1\)")],
    ids=["2d", "2d-width1", "1d"],
)
def test_a_value_per_channel_has_to_say_so(shape, per_channel, entrance, on, name):
    values = {"beta": 0.9} | {name: torch.full((3,), 0.5)}
    with pytest.raises(ValueError, match=f"{name}.*{per_channel}"):
        drive(entrance, torch.rand(shape), **values, **ON.get(on, {}))


@pytest.mark.parametrize("name", ["beta", "threshold"])
@pytest.mark.parametrize(("entrance", "on"), WAYS)
@pytest.mark.parametrize(
    ("value", "shape"),
    [((5,), (B, 1)), ((4,), (B, 5)), ((2, 3, 4, 5), (3, 4, 5)), ((7,), SHAPE)],
    ids=["grows-the-neurons", "other-number", "too-many-dimensions", "no-dimension"],
)
def test_a_value_that_does_not_broadcast_is_refused(value, shape, entrance, on, name):
    values = {"beta": 0.9} | {name: torch.full(value, 0.5)}
    with pytest.raises(ValueError, match=name):
        drive(entrance, torch.rand(shape), **values, **ON.get(on, {}))


@pytest.mark.parametrize("name", ["beta", "threshold"])
@pytest.mark.parametrize(("entrance", "on"), WAYS)
@pytest.mark.parametrize("value", [(), (1,), (5,), (3, 1, 1), (3, 4, 5), (1, 3, 1, 1)], ids=str)
def test_a_value_that_broadcasts_is_welcome(value, entrance, on, name):
    values = {"beta": 0.9} | {name: torch.full(value, 0.5)}
    spk = drive(entrance, torch.rand(SHAPE), **values, **ON.get(on, {}))[0]
    assert spk.shape[-4:] == SHAPE


@pytest.mark.parametrize(("entrance", "on"), WAYS)
def test_channels_as_many_as_columns_means_columns_as_in_the_host(entrance, on):
    beta = torch.tensor([0.0, 0.5, 1.0])
    cur = torch.full((2, 3, 3, 3), 0.2)
    options = dict(beta=beta, threshold=10.0) | ON.get(on, {})
    if entrance == "step":
        mem = snn.Leaky(**options)(cur, torch.ones_like(cur))[1]
    elif entrance == "sequence":
        mem = snn.Leaky(**options).sequence(cur[None], torch.ones_like(cur))[1]
    else:
        mem = snn.functional.lif_multistep(cur[None], torch.ones_like(cur), **options).mem
    assert torch.equal(mem, (beta + 0.2).expand_as(mem))


@pytest.mark.parametrize("on", ["off", *ON])
@pytest.mark.parametrize("shape", [(B,), (N,), (1, N), (B, N + 1), (T, B, N), (0,)], ids=str)
def test_mem_has_the_shape_of_one_step(shape, on):
    cur, mem = torch.rand(T, B, N), torch.zeros(shape)
    options = ON.get(on, {})
    with pytest.raises(ValueError, match=rf"mem.*\({B}, {N}\)"):
        snn.functional.lif_multistep(cur, mem, beta=0.9, **options)
    if shape != (0,):  # what init_leaky() gives out before the first step
        with pytest.raises(ValueError, match=rf"mem.*\({B}, {N}\)"):
            snn.Leaky(beta=0.9, **options).sequence(cur, mem)


@pytest.mark.parametrize("on", ["off", *ON])
def test_sequence_takes_what_init_leaky_gives(on):
    """`mem = lif.init_leaky()` stands in every tutorial of the host; at first it has size 0."""
    lif = snn.Leaky(beta=0.9, threshold=0.5, **ON.get(on, {}))
    cur = torch.rand(T, B, N)
    spk_rec, mem = lif.sequence(cur, lif.init_leaky())
    expected = lif.sequence(cur)
    assert torch.equal(spk_rec, expected[0]) and torch.equal(mem, expected[1])


# --- input_ ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("on", ["off", *ON])
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.uint8, torch.complex64], ids=str)
def test_input_is_floating(dtype, on):
    cur = torch.ones(T, B, N, dtype=dtype)
    with pytest.raises(TypeError, match="input_"):
        snn.Leaky(beta=0.9, **ON.get(on, {})).sequence(cur)
    with pytest.raises(TypeError, match="input_"):
        snn.functional.lif_multistep(cur, beta=0.9, **ON.get(on, {}))


@pytest.mark.parametrize("on", ["off", *ON])
@pytest.mark.parametrize("shape", [(), (T,)], ids=str)
def test_input_has_a_time_and_a_batch_dimension(shape, on):
    with pytest.raises(ValueError, match=r"input_.*\[T, B"):
        snn.Leaky(beta=0.9, **ON.get(on, {})).sequence(torch.rand(shape))
    with pytest.raises(ValueError, match=r"input_.*\[T, B"):
        snn.functional.lif_multistep(torch.rand(shape), beta=0.9, **ON.get(on, {}))


@pytest.mark.parametrize("value", [None, [[1.0]], 1.0], ids=repr)
def test_input_is_a_tensor(value):
    with pytest.raises(TypeError, match="input_"):
        snn.functional.lif_multistep(value, beta=0.9)


@contextlib.contextmanager
def anomaly(how):
    if how == "detect_anomaly":
        with pytest.warns(UserWarning, match="Anomaly Detection"), torch.autograd.detect_anomaly():
            yield
    else:
        torch.autograd.set_detect_anomaly(True)
        try:
            yield
        finally:
            torch.autograd.set_detect_anomaly(False)


@pytest.mark.parametrize("how", ["detect_anomaly", "set_detect_anomaly"])
@pytest.mark.parametrize("on", ["off", *ON])
@pytest.mark.parametrize("entrance", ["step", "sequence", "function"])
def test_nan_is_looked_for_under_anomaly_detection_only(entrance, on, how):
    cur = torch.rand(B, N)
    cur[1, 2] = NAN
    options = dict(beta=0.9) | ON.get(on, {})
    with anomaly(how), pytest.raises(ValueError, match="NaN"):
        drive(entrance, cur, **options)
    with anomaly(how):
        drive(entrance, torch.rand(B, N), **options)
    drive(entrance, cur, **options)  # off by default


# --- what the host lets through to an obscure error -----------------------------------------------


@pytest.mark.parametrize("on", ["off", *ON])
@pytest.mark.parametrize("name", ["beta", "threshold"])
@pytest.mark.parametrize("value", [1, torch.tensor(1), torch.tensor([1, 1]), True], ids=repr)
def test_an_integer_cannot_be_learnt(value, name, on):
    values = {"beta": 0.9} | {name: value, f"learn_{name}": True}
    with pytest.raises(ValueError, match=name):
        snn.Leaky(**values, **ON.get(on, {}))


@pytest.mark.parametrize("on", ["off", *ON])
def test_an_integer_that_is_not_learnt_is_welcome(on):
    lif = snn.Leaky(beta=1, threshold=1, **ON.get(on, {}))
    assert lif(torch.ones(B, N), torch.ones(B, N))[1].shape == (B, N)
    assert lif.sequence(torch.ones(T, B, N))[0].shape == (T, B, N)


@pytest.mark.parametrize("reset", ["Zero", "hard", None], ids=repr)
def test_reset_mechanism_is_one_of_three(reset):
    with pytest.raises(ValueError, match="reset_mechanism"):
        snn.functional.lif_multistep(torch.rand(T, B, N), beta=0.9, reset_mechanism=reset)
    with pytest.raises(ValueError, match="reset_mechanism"):
        snn.Leaky(beta=0.9, reset_mechanism=reset)
