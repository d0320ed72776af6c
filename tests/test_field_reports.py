"""What users of snnTorch and of its neighbours reported in public, done with ours. Each test names repository and number.

Of Lightning, test_training_stopped.py has 688 and 19970 (a checkpoint that a kill leaves half written), 11924 and 19916 (a
run that was stopped ends as one that is done), and test_training.py 17543 and 18098 (a resumed run has other weights)."""

import copy
import io
import warnings

import numpy as np
import pytest
import snntorch
import torch
from _family import FAMILY, KINDS, RECURRENT, B, N, T
from _nets import make_neuron
from torch import nn

import snntorch_bpsta as snn
from snntorch_bpsta.data import events_to_frames, load

on = pytest.mark.parametrize("options", [{}, {"spatial_adj": True}], ids=["off", "on"])


def step_net(kind, package=snn, **options):
    """Two weighted layers around a neuron that keeps its states; the same weights every time."""
    torch.manual_seed(0)
    neuron = make_neuron(package, kind, init_hidden=True, **options)
    return nn.Sequential(nn.Linear(4, N), neuron, nn.Linear(N, 3))


def multi_step_net(**options):
    torch.manual_seed(0)
    layers = [make_neuron(snn, "Leaky", spatial_adj=True, **options) for _ in range(2)]
    return snn.MultiStep(nn.Linear(4, N), layers[0], nn.Linear(N, 3), layers[1])


def inputs(batch=B, steps=T, seed=1):
    return torch.randn(steps, batch, 4, generator=torch.Generator().manual_seed(seed)) * 2


def run(net, x):
    return torch.stack([net(x_t) for x_t in x])


def states(net, kind):
    return [getattr(net[1], name) for name in FAMILY[kind].states]


# --- states ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_snntorch_438_a_reset_leaves_other_nets_alone(kind):
    one, other, x = step_net(kind), step_net(kind), inputs()
    run(one, x), run(other, x)
    before = [state.clone() for state in states(other, kind)]
    assert any(state.any() for state in before)
    snn.reset(one)
    assert not any(state.any() for state in states(one, kind))
    assert all(torch.equal(a, b) for a, b in zip(states(other, kind), before, strict=True))


@on
@pytest.mark.parametrize("kind", KINDS)
def test_snntorch_225_and_274_a_net_saved_in_the_middle_of_a_sequence_moves_whole(kind, options):
    """To another type, and to another device, here "meta": no state is left behind."""
    net, x = step_net(kind, **options), inputs()
    run(net, x).sum().backward()
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert torch.equal(loaded(x[0]), net(x[0]))
    loaded.double().requires_grad_(False)
    assert loaded(x[0].double()).dtype == torch.float64
    assert {state.dtype for state in states(loaded, kind)} == {torch.float64}
    loaded.to("meta")
    assert loaded(x[0].double().to("meta")).shape == (B, 3)
    assert {state.device.type for state in states(loaded, kind)} == {"meta"}


@pytest.mark.parametrize("kind", KINDS)
def test_snntorch_314_weights_of_a_net_that_has_run_load_into_one_of_another_batch_size(kind):
    used, x = step_net(kind), inputs()
    run(used, x)
    for other_has_run in (False, True):
        other = step_net(kind)
        with torch.no_grad():
            other[0].weight.zero_()
        if other_has_run:
            run(other, inputs(batch=B + 2))
        other.load_state_dict(used.state_dict(), strict=True)
        snn.reset(used), snn.reset(other)
        assert torch.equal(run(other, x), run(used, x))


@on
@pytest.mark.parametrize("kind", KINDS)
def test_sinabs_84_and_88_the_last_batch_is_smaller(kind, options):
    """Without a reset in between: a state of another shape starts anew at zero, as in snnTorch."""
    net, host, fresh = step_net(kind, **options), step_net(kind, snntorch), step_net(kind, **options)
    run(net, inputs()), run(host, inputs())
    x = inputs(batch=B - 1)
    out = run(net, x)
    assert torch.equal(out, run(host, x)) and torch.equal(out, run(fresh, x))


@on
@pytest.mark.parametrize("kind", KINDS)
def test_norse_130_a_state_that_is_used_after_backward(kind, options):
    """The error says what to do, and that works."""
    torch.manual_seed(0)
    layer, neuron, x = nn.Linear(4, N), make_neuron(snn, kind, **options), inputs()
    count = len(FAMILY[kind].states)

    def step(cur, *held):
        out = neuron(cur, *held)
        return out[0], out[-count:]

    spk, held = step(layer(x[0]) + 1)
    (spk.sum() + held[-1].sum()).backward()
    spk, _ = step(layer(x[1]), *held)
    with pytest.raises(RuntimeError, match="second time"):
        spk.sum().backward()
    layer.zero_grad()
    spk, held = step(layer(x[1]), *(state.detach() for state in held))
    (spk.sum() + held[0].sum()).backward()  # Alpha's membrane does not see the input of its own step, its currents do
    assert layer.weight.grad.isfinite().all() and layer.weight.grad.any()


# --- equations ------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", ["step", "sequence"])
@pytest.mark.parametrize("kind", RECURRENT)
def test_snntorch_159_a_neuron_reset_to_zero_does_not_fire_twice_in_a_row(kind, steps):
    """Whatever its recurrence brings: in the step after a spike the membrane is zero."""
    torch.manual_seed(0)
    neuron = make_neuron(snn, kind, reset_mechanism="zero", init_hidden=steps == "step")
    with torch.no_grad():
        neuron.recurrent.weight.fill_(2)
    cur = torch.full((8, B, N), 3.0)
    if steps == "step":
        spk = torch.stack([neuron(cur_t) for cur_t in cur])
    else:
        spk = neuron.sequence(cur)
        spk = spk[0] if isinstance(spk, tuple) else spk
    assert spk.sum() > B * N and not (spk[1:] * spk[:-1]).any()


@pytest.mark.parametrize("reset, expected", [("subtract", 0.9 * 2 + 0.5 - 1), ("zero", 0.5), ("none", 0.9 * 2 + 0.5)])
@on
def test_snntorch_341_each_reset_does_what_it_is_called(reset, expected, options):
    """Threshold 1: a membrane of 2 has fired, and 0.5 comes in, which snnTorch's Leaky keeps whatever the reset."""
    neuron = snn.Leaky(beta=0.9, threshold=1.0, reset_mechanism=reset, **options)
    assert neuron(torch.tensor([0.5]), torch.tensor([2.0]))[1].item() == pytest.approx(expected)
    mem = neuron.sequence(torch.tensor([[[0.5]]]), mem=torch.tensor([[2.0]]), record=("mem",))[1][-1]
    assert mem.item() == pytest.approx(expected)


@pytest.mark.parametrize("way", ["step", "sequence"])
@on
def test_spikingjelly_564_every_threshold_gets_a_gradient(way, options):
    neuron = snn.Leaky(
        beta=0.9, threshold=torch.full((N,), 0.5), learn_threshold=True, init_hidden=way == "step", **options
    )
    cur = torch.rand(T, B, N, generator=torch.Generator().manual_seed(0))
    if way == "step":
        torch.stack([neuron(cur_t) for cur_t in cur]).sum().backward()
    else:
        out = neuron.sequence(cur)
        (out[0] if isinstance(out, tuple) else out).sum().backward()
    assert neuron.threshold.grad.shape == (N,) and (neuron.threshold.grad < 0).all()


# --- training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_spikingjelly_328_learnt_decays_and_thresholds_under_autocast(dtype):
    net = multi_step_net(learn_beta=True, learn_threshold=True)
    with torch.autocast("cpu", dtype):
        out = net(inputs())
    assert out.dtype == dtype and out.any()
    out.float().sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None and p.grad.dtype == torch.float32 and p.grad.isfinite().all(), name


def test_spikingjelly_318_two_outputs_before_either_is_gone_back_through():
    """Each with its own loss, one net, no reset: the gradients are the sum of both."""
    x, y = inputs(), inputs(seed=2)
    net, alone = multi_step_net(), multi_step_net()
    first, second = net(x).sum(), net(y).sum()
    first.backward(), second.backward()
    for batch in (x, y):
        alone(batch).sum().backward()
    assert net[0].weight.grad.any()
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(net.parameters(), alone.parameters(), strict=True))


def test_neurobench_229_weights_quantised_after_training():
    """A Linear of integer weights in a MultiStep gives what it gives step by step."""
    net = multi_step_net().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch will move this door
        quantised = torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, dtype=torch.qint8)
        assert type(quantised[0]) is not nn.Linear
        out = quantised(inputs())
        step = nn.Sequential(*copy.deepcopy(list(quantised)))
        for neuron in step[1::2]:
            neuron.init_hidden = True
        assert out.any() and torch.equal(out, run(step, inputs()))


def test_lightning_21938_a_resumed_run_with_workers_goes_on_with_the_order_of_its_epoch(tmp_path, monkeypatch):
    pytest.importorskip("lightning", reason="lightning (extra: train) is missing")
    pytest.importorskip("sklearn", reason="scikit-learn (extra: data) is missing")
    from snntorch_bpsta.training import Recipe, module, run

    recipe = Recipe(
        dataset="digits", width=1 / 32, num_steps=2, epochs=3, batch_size=32, warm_up="none", limit=96, test_limit=32
    )
    with monkeypatch.context() as other:

        def stop(self):
            if self.current_epoch == 1:
                raise RuntimeError("stopped")

        other.setattr(module.Classifier, "on_train_epoch_start", stop)
        with pytest.raises(RuntimeError, match="stopped"):
            run.train(recipe, 3, tmp_path / "run", num_workers=1, progress=False)
    seen, step = [], module.Classifier.training_step

    def watched(self, batch, batch_idx):
        seen.append((self.current_epoch, batch[1].tolist()))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(module.Classifier, "training_step", watched)
    row = run.train(recipe, 3, tmp_path / "run", resume=True, num_workers=1, progress=False)
    resumed = [*seen]
    seen.clear()
    whole = run.train(recipe, 3, tmp_path / "whole", progress=False)
    assert resumed == [each for each in seen if each[0]] and len({str(labels) for _, labels in seen}) == 9
    assert row["history"] == whole["history"]


# --- data -----------------------------------------------------------------------------------------


def test_tonic_160_another_number_of_steps_is_not_served_from_the_cache(tmp_path, monkeypatch):
    """And the first number afterwards again from it."""
    pytest.importorskip("tonic", reason="tonic (extra: data) is missing")
    monkeypatch.setenv("SNNTORCH_BPSTA_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "NMNIST" / "Train" / "3"
    folder.mkdir(parents=True)
    (folder / "00001.bin").write_bytes(bytes([1, 2, 0x80, 0, 9]) * 12)  # x, y, polarity and time of 12 events
    for steps in (3, 4, 3):
        with pytest.warns(UserWarning):  # a part of the set
            (sample,) = load("nmnist", root=tmp_path, num_steps=steps)
        assert sample[0].shape == (steps, 2, 34, 34) and sample[0].sum() == 12 and sample[1] == 3


def test_tonic_181_and_313_one_event_is_seen():
    """tonic's frames of a fixed duration lose it, and a recording shorter than one frame altogether."""
    events = {name: np.array([value]) for name, value in {"t": 5, "x": 1, "y": 2, "p": 1}.items()}
    for steps in (1, 4):
        frames = events_to_frames(events, steps, (4, 4))
        assert frames.sum() == 1 and frames[-1, 1, 2, 1] == 1


# --- NIR ------------------------------------------------------------------------------------------


def there_and_back(net, sample, path):
    nir = pytest.importorskip("nir", reason="nir is missing")
    nir.write(str(path / "net.nir"), snn.nir.export(net, sample))
    return snn.nir.load(nir.read(str(path / "net.nir")))


def test_nir_155_and_snntorch_384_and_410_one_number_for_a_layer(tmp_path):
    """What a user writes: one beta for all neurons, `Leaky` and `Synaptic`; written, read, equal."""
    torch.manual_seed(0)
    first, last = snn.Leaky(beta=0.9, reset_mechanism="zero"), {"reset_mechanism": "zero", "reset_delay": False}
    net = snn.MultiStep(
        nn.Flatten(),
        nn.Linear(784, 20),
        first,
        nn.Linear(20, 10),
        snn.Synaptic(alpha=0.5, beta=0.9, threshold=0.2, **last),
    )
    x = torch.rand(20, 2, 1, 28, 28) * 6
    out = net(x)
    assert out.any() and torch.equal(there_and_back(net, x[0, 0], tmp_path)(x), out)


def test_snntorch_304_and_367_convolutions_without_bias_and_pooling_by_one_number(tmp_path):
    torch.manual_seed(0)
    leaky = {"beta": 0.5, "threshold": 0.2, "reset_mechanism": "zero"}
    net = snn.MultiStep(
        nn.Conv2d(2, 8, 3, padding=1, bias=False), snn.Leaky(**leaky), nn.AvgPool2d(2, 2),
        nn.Conv2d(8, 4, 3, padding=1, stride=2, bias=False), snn.Leaky(**leaky),
        nn.Flatten(), nn.Linear(4 * 3 * 3, 10, bias=False), snn.Leaky(**leaky),
    )  # fmt: skip
    x = torch.rand(10, 2, 2, 12, 12) * 3
    out = net(x)
    assert out.any() and torch.equal(there_and_back(net, x[0, 0], tmp_path)(x), out)


@pytest.mark.parametrize("kind", RECURRENT)
def test_snntorch_290_and_nirtorch_16_recurrent_neurons_are_read_and_written_again(kind, tmp_path):
    torch.manual_seed(0)
    net = snn.MultiStep(
        nn.Linear(4, N), make_neuron(snn, kind, reset_mechanism="zero", reset_delay=False, linear_features=N)
    )
    x, out = inputs(), net(inputs())
    once = there_and_back(net, x[0, 0], tmp_path)
    assert out.any() and torch.equal(there_and_back(once, x[0, 0], tmp_path)(x), out)
