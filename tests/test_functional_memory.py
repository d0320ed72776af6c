"""Where the engine writes, what it keeps for backward, and when it is asked again."""

import pytest
import torch
from _engine import (
    BF16,
    DEVICE,
    F16,
    F32,
    F64,
    PAPER,
    currents,
    each_impl,
    kept,
    nbytes,
    parameters,
    weights,
)  # fmt: skip
from _tolerance import assert_close
from torch import nn
from torch.utils.checkpoint import checkpoint

from snntorch_bpsta.functional import lif_multistep
from snntorch_bpsta.functional import multistep as door
from snntorch_bpsta.functional.cells import CELLS
from snntorch_bpsta.functional.record import Call, Neuron

# --- the spikes over the current ----------------------------------------------------------------------


def produced(x, weight, how):
    """A current that some layer made of `x`, and what to look into for what becomes of it: (current, its memory)."""
    if how == "plain":
        cur = x * weight  # needs x and the weight for backward, and not its output
        return cur, cur
    if how == "folded":
        flat = x.flatten(0, 1) * weight
        return flat.unflatten(0, x.shape[:2]), flat
    if how == "channels-last":
        flat = (x.flatten(0, 1) * weight).contiguous(memory_format=torch.channels_last) + 0
        return flat.unflatten(0, x.shape[:2]), flat
    if how == "split":
        flat = x * weight
        return flat.flatten(2).view(x.shape), flat
    raise ValueError(how)


def in_place(impl, how, inplace, *, again=False, num_steps=4, device="cpu", dtype=F32, **options):
    """Outputs and gradients of a producer, the neuron and, with `again`, one more use of the current."""
    impl_device = DEVICE.get(impl, device)
    x = currents(num_steps, 2, 3, 4, 5).to(impl_device, dtype).requires_grad_()
    weight = torch.tensor(1.25, device=impl_device, dtype=dtype, requires_grad=True)
    mem = currents(2, 3, 4, 5, seed=1).to(impl_device, dtype).requires_grad_()
    cur, memory = produced(x, weight, how)
    before = memory.clone()
    out = lif_multistep(cur, mem, beta=0.9, inplace=inplace, impl="cpu", **PAPER | options)
    w_spk, w_mem, w_cur = (weights(*s, seed=i).to(out.spk) for i, s in enumerate((x.shape, out.mem.shape, x.shape)))
    loss = (out.spk * w_spk).sum() + (out.mem * w_mem).sum()
    if again:
        used = out.spk if impl == "reference" else cur  # what is written over is the spikes
        loss = loss + (used * w_cur).sum()
    loss.backward()
    result = {"spk": out.spk.detach(), "mem": out.mem.detach(), "dx": x.grad, "dweight": weight.grad, "dmem": mem.grad}
    return result, cur, memory, before, out


IN_PLACE = {
    "": {}, "relu": {"relu": True}, "bfloat16": {"save": "bfloat16"}, "compact": {"save": "compact", "relu": True},
    "record": {"record_mem": True}, "graded": {"graded_spikes_factor": 2.5},
}  # fmt: skip


@pytest.mark.parametrize("variant", IN_PLACE)
@pytest.mark.parametrize("again", [False, True], ids=["", "used-again"])
@pytest.mark.parametrize("how", ["plain", "folded", "channels-last", "split"])
@each_impl
def test_in_place(impl, how, again, variant):
    """The spikes lie where the current lay, and all who look there see them: as with nn.ReLU(inplace=True)."""
    options = IN_PLACE[variant]
    actual, cur, memory, _, out = in_place(impl, how, True, again=again, **options)
    assert out.spk.data_ptr() == memory.data_ptr() == cur.data_ptr()
    assert torch.equal(cur, out.spk) and torch.equal(memory.reshape(cur.shape), out.spk)
    reference = {k: v for k, v in options.items() if k != "save"}
    expected = in_place("reference", how, False, again=again, device=DEVICE[impl], **reference)[0]
    assert torch.equal(actual["spk"], expected["spk"]) and torch.equal(actual["mem"], expected["mem"])
    row = BF16 if "save" in options else F32
    for name in ("dx", "dweight", "dmem"):
        assert_close(actual[name], expected[name], row, expected[name].abs().max().item() * 10, name)


@pytest.mark.parametrize("dtype", [BF16, F16, F64], ids=str)
def test_in_place_in_any_dtype(dtype):
    actual, cur, _, _, out = in_place("cpu", "folded", True, dtype=dtype)
    expected = in_place("cpu", "folded", False, dtype=dtype)[0]
    assert out.spk.data_ptr() == cur.data_ptr()
    for name, value in expected.items():
        assert torch.equal(actual[name], value), name


@each_impl
def test_in_place_as_relu_in_place(impl):
    """The same memory, versions and errors as nn.ReLU(inplace=True) on the same producer."""
    for layer in (nn.ReLU(inplace=True), lambda x: lif_multistep(x, beta=0.9, inplace=True, impl=impl).spk):
        x = currents(4, 3, 5).float().to(DEVICE[impl]).requires_grad_()
        cur = x * 1
        version = cur._version
        out = layer(cur)
        assert out.data_ptr() == cur.data_ptr() and cur._version == version + 1
        for needs_output in (torch.sigmoid, torch.exp):
            bad = layer(needs_output(x))
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                bad.sum().backward()


@each_impl
def test_a_current_that_somebody_else_kept_is_missed(impl):
    x = currents(4, 3, 5).float().to(DEVICE[impl]).requires_grad_()
    cur = x * 2
    kept = cur * cur
    lif_multistep(cur, beta=0.9, inplace=True, impl=impl)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        kept.sum().backward()


def partial(name, x):
    """A view of `base` with a memory that is not all its own, or one that may not be written."""
    if name == "first half":
        base = torch.cat([x, x]) * 1
        return base, base[: len(x)]
    if name == "every other":
        base = x.repeat_interleave(2, -1) * 1
        return base, base[..., ::2]
    if name == "other order":
        base = x.transpose(0, 1) * 1
        return base.contiguous(), base.contiguous().transpose(0, 1)
    if name == "expanded":
        base = x[:1] * 1
        return base, base.expand_as(x)
    if name == "leaf":
        return x, x
    if name == "view of a leaf":
        return x, x.flatten(1).view(x.shape)
    if name == "half of the batch":
        base = torch.cat([x, x], 1) * 1
        return base, base[:, : x.shape[1]]
    raise ValueError(name)


@pytest.mark.parametrize(
    "name",
    ["first half", "every other", "other order", "expanded", "leaf", "view of a leaf", "half of the batch"],
)
@each_impl
def test_what_may_not_be_written_is_left_alone(impl, name):
    grads = []
    for how in (impl, "reference"):
        x = currents(4, 3, 2, 5).float().to(DEVICE[impl]).requires_grad_()
        base, cur = partial(name, x)
        before, version = base.detach().clone(), base._version
        out = lif_multistep(cur, beta=0.9, inplace=True, impl=how, **PAPER)
        assert torch.equal(base, before) and base._version == version
        grads.append(torch.autograd.grad((out.spk * weights(*x.shape).to(out.spk)).sum(), x)[0])
    assert_close(grads[0], grads[1], F32, grads[1].abs().max().item())


@each_impl
def test_in_place_without_a_gradient(impl):
    device = DEVICE[impl]
    expected = lif_multistep(currents(4, 3, 5).float().to(device), beta=0.9, impl="reference")
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode():
            cur = currents(4, 3, 5).float().to(device)
            out = lif_multistep(cur, beta=0.9, inplace=True, impl=impl)
        assert out.spk.data_ptr() == cur.data_ptr()
        assert torch.equal(out.spk, expected.spk) and torch.equal(out.mem, expected.mem)


def test_in_place_of_a_parameters_gradient_alone():
    """The current needs no gradient, the threshold does."""
    grads = []
    for inplace in (True, False):
        cur, threshold = currents(4, 3, 5).float(), torch.tensor(0.5, requires_grad=True)
        out = lif_multistep(
            cur, beta=0.9, threshold=threshold, reset_mechanism="zero", spatial_adj=True, inplace=inplace, impl="cpu"
        )
        assert (out.spk.data_ptr() == cur.data_ptr()) == inplace
        grads.append(torch.autograd.grad((out.spk * weights(4, 3, 5).float()).sum(), threshold)[0])
    assert torch.equal(*grads)


def test_in_place_where_it_cannot_be():
    """A constant current has one step, its spikes many; a ReLU that needs a copy has taken one."""
    x = currents(1, 3, 5).float().requires_grad_()
    cur = x * 1
    out = lif_multistep(cur, beta=0.9, num_steps=4, inplace=True, impl="cpu")
    assert cur._version == 0 and out.spk.shape == (4, 3, 5)
    beta = torch.tensor(0.9, requires_grad=True)
    x = currents(4, 3, 5).float().requires_grad_()
    cur = x * 1
    lif_multistep(cur, beta=beta, relu=True, inplace=True, impl="cpu").spk.sum().backward()
    assert torch.equal(cur, x)


# --- what is kept for backward ------------------------------------------------------------------------


T, B, N = 16, 4, 1000


LIMITS = {  # (options, dtype) -> bytes per neuron and step
    "float32": ({"save": "float32"}, F32, 4),
    "default": ({}, F32, 4),
    "relu": ({"relu": True}, F32, 4),
    "arc tangent": ({"spatial_adj": False, "relu": True}, F32, 4),
    "bfloat16": ({"save": "bfloat16", "relu": True}, F32, 2),
    "default of bfloat16": ({"relu": True}, BF16, 2),
    "default of float16": ({}, F16, 2),
    "float64": ({}, F64, 8),
    "compact": ({"save": "compact"}, F32, 0.8),
    "compact, relu": ({"save": "compact", "relu": True}, F32, 0.8),
    "compact, bfloat16": ({"save": "compact", "relu": True}, BF16, 0.8),
    "learnable beta": ({"beta": torch.tensor(0.9, requires_grad=True)}, F32, 4),
    "record is what is kept": ({"record_mem": True}, F32, 4),
    "num_steps": ({"num_steps": T}, F32, 4),
}


@pytest.mark.parametrize("case", LIMITS)
@each_impl
def test_bytes_kept_per_neuron_and_step(impl, case):
    options, dtype, limit = LIMITS[case]
    x = currents(1 if "num_steps" in options else T, B, N, scale=1.0, low=-0.4).to(DEVICE[impl], dtype).requires_grad_()
    options = {"beta": 0.9} | PAPER | options
    if isinstance(options["beta"], torch.Tensor):
        options["beta"] = options["beta"].detach().to(DEVICE[impl]).requires_grad_()
    with kept() as tensors:
        out = lif_multistep(x, impl=impl, **options)
    if "num_steps" not in options:
        assert 0.15 < out.spk.float().mean() < 0.25
    assert 0 < nbytes(tensors) <= limit * T * B * N
    assert all(each.numel() <= 6 for each in tensors if each.numel() < 64)  # beta, threshold and the like
    (grad,) = torch.autograd.grad(out.spk.sum(), x)
    assert grad.shape == x.shape and grad.untyped_storage().nbytes() <= max(limit, dtype.itemsize) * T * B * N


@pytest.mark.parametrize("cell", CELLS)
def test_bytes_kept_of_every_neuron(cell):
    """One number per neuron and step where no decay is learnt."""
    x = currents(T, B, N, scale=1.0, low=-0.4).float().requires_grad_()
    values = {name: value.float() for name, value in parameters(cell, ()).items()}
    neuron = Neuron(cell, reset_mechanism="zero", spatial_adj=True, **values)
    with kept() as tensors:
        door.multistep(neuron, Call(x, (None,) * len(CELLS[cell].states), impl="cpu"))
    assert nbytes(tensors) == 4 * T * B * N


@each_impl
def test_nothing_is_kept_where_no_gradient_is_needed(impl):
    cur = currents(4, 3, 50).float().to(DEVICE[impl])
    with kept() as tensors:
        expected = lif_multistep(cur, beta=0.9, impl=impl)
        learnable = cur.clone().requires_grad_()
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                out = lif_multistep(learnable, beta=0.9, impl=impl)
            assert torch.equal(out.spk, expected.spk) and torch.equal(out.mem, expected.mem)
            assert not out.spk.requires_grad and out.spk.grad_fn is None
        assert not tensors
        assert lif_multistep(learnable, beta=0.9, impl=impl).spk.requires_grad and tensors


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ({}, F32),
        ({"relu": True}, F32),
        ({}, F64),
        ({}, BF16),
        ({}, F16),
        ({"learn": True}, F32),
        ({"relu": True, "inplace": True}, F32),
    ],
    ids=str,
)
@each_impl
def test_the_gradient_takes_the_memory_of_what_was_kept(impl, options, dtype):
    """Where nobody can ask again; else it is right however often it is asked for."""
    options = dict(options)
    beta = torch.tensor(0.9, device=DEVICE[impl], requires_grad=options.pop("learn", False))
    x = currents(5, 3, 37).to(DEVICE[impl], dtype).requires_grad_()
    w = weights(5, 3, 37).to(x)
    with kept() as tensors:
        cur, seen = x * 1, []
        cur.register_hook(lambda grad: seen.append((grad.clone(), grad.data_ptr())))
        loss = (lif_multistep(cur, beta=beta, impl=impl, **PAPER | options).spk * w).sum()
    words = [each.data_ptr() for each in tensors if each.numel() == x.numel() and each.data_ptr() != w.data_ptr()]
    assert len(words) == 1
    for again in (True, True, False):
        torch.autograd.grad(loss, x, retain_graph=again)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, x)
    (first, where_first), (second, where_second), (last, where_last) = seen
    assert where_last in words and where_first not in words and where_second not in words
    assert torch.equal(first, second) and torch.equal(first, last) and first.abs().sum() > 0


@pytest.mark.parametrize("options", [{}, {"save": "bfloat16"}, {"num_steps": 5}, {"save": "compact"}], ids=str)
def test_nothing_is_overwritten_where_it_does_not_fit(options):
    x = currents(1 if "num_steps" in options else 5, 3, 37).double().float().requires_grad_()
    out = lif_multistep(x, beta=0.9, impl="cpu", **PAPER | options)
    first = torch.autograd.grad(out.spk.sum(), x, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(out.spk.sum(), x)[0])


@pytest.mark.parametrize("dtype", [F32, F64, BF16], ids=str)
@pytest.mark.parametrize("learn", [False, True], ids=["", "learnable-beta"])
@each_impl
def test_a_recorded_membrane_is_never_overwritten(impl, learn, dtype):
    x = currents(5, 3, 37).to(DEVICE[impl], dtype).requires_grad_()
    beta = torch.tensor(0.9, device=DEVICE[impl], requires_grad=learn)
    out = lif_multistep(x, beta=beta, impl=impl, record_mem=True, **PAPER)
    before = out.spk.detach().clone(), out.mem.detach().clone()
    (out.spk.sum() + out.mem.sum()).backward()
    assert torch.equal(out.spk, before[0]) and torch.equal(out.mem, before[1])


def test_writing_into_a_recorded_membrane_is_noticed():
    x = currents(5, 3, 7).float().requires_grad_()
    out = lif_multistep(x, beta=0.9, impl="cpu", record_mem=True, **PAPER)
    out.mem.detach().zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.spk.sum().backward()


@each_impl
def test_writing_into_spikes_and_last_membrane_does_no_harm(impl):
    """Neither is kept for backward."""
    x = currents(5, 3, 7).float().to(DEVICE[impl]).requires_grad_()
    out = lif_multistep(x, beta=0.9, impl=impl, **PAPER)
    (expected,) = torch.autograd.grad(out.spk.sum(), x, retain_graph=True)
    out.spk.detach().zero_()
    out.mem.detach().zero_()
    assert torch.equal(torch.autograd.grad(out.spk.sum(), x)[0], expected)


# --- autograd -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("inplace", [False, True], ids=["", "inplace"])
@each_impl
def test_second_derivative_is_refused_and_not_wrong(impl, inplace):
    device = DEVICE[impl]
    x = currents(4, 2, 3).float().to(device).requires_grad_()
    weight = torch.ones(4, 2, 3, device=device, requires_grad=True)
    threshold = torch.tensor(0.5, device=device, requires_grad=True)
    options = PAPER | {"threshold": threshold, "impl": impl, "inplace": inplace}
    plain = torch.autograd.grad((lif_multistep(x * 1, beta=0.9, **options).spk * weight).sum(), (x, threshold))
    assert plain[0].abs().sum() > 0
    spk = lif_multistep(x * 1, beta=0.9, **options).spk
    with pytest.raises(NotImplementedError, match="second derivative.*impl='reference'"):
        torch.autograd.grad((spk * weight).sum(), (x, threshold), create_graph=True)


@pytest.mark.parametrize("reentrant", [False, True], ids=["", "reentrant"])
@pytest.mark.parametrize("options", [{}, {"inplace": True, "relu": True}, {"save": "compact"}], ids=str)
@each_impl
def test_checkpoint(impl, options, reentrant):
    device = DEVICE[impl]
    x = currents(4, 3, 5).float().to(device).requires_grad_()
    weight = (weights(5, 7).float().to(device) * 0.5).requires_grad_()

    def block(x):
        out = lif_multistep(x @ weight, beta=0.9, impl=impl, **PAPER | options)
        return out.spk, out.mem

    seen = []
    for function in (block, lambda x: checkpoint(block, x, use_reentrant=reentrant)):
        spk, mem = function(x)
        grads = torch.autograd.backward((spk * weights(4, 3, 7).to(spk)).sum() + mem.sum())
        seen.append((spk.detach(), mem.detach(), x.grad, weight.grad))
        x.grad = weight.grad = grads
    for actual, expected in zip(*seen, strict=True):
        assert torch.equal(actual, expected)


@each_impl
def test_offloaded_to_the_cpu(impl):
    """What is kept may go through hooks that give another tensor back."""
    x = currents(4, 3, 5).float().to(DEVICE[impl]).requires_grad_()
    with torch.autograd.graph.save_on_cpu():
        offloaded = lif_multistep(x, beta=0.9, impl=impl, **PAPER).spk
    plain = lif_multistep(x, beta=0.9, impl=impl, **PAPER).spk
    assert torch.equal(torch.autograd.grad(offloaded.sum(), x)[0], torch.autograd.grad(plain.sum(), x)[0])
