"""compress_spikes: what is replaced is 1/32, what comes back is the same to the bit, and nothing else changes."""

import subprocess
import sys
import threading
import tracemalloc
import weakref
from contextlib import ExitStack, nullcontext

import pytest
import torch
from torch import nn
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.checkpoint import checkpoint

import snntorch_bpsta as snn
from snntorch_bpsta import memory
from snntorch_bpsta.memory import MIN_ELEMENTS, compress_spikes, pack_bits, unpack_bits

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
CHUNK = memory._CHUNK["cpu"]
N = 64
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


def spikes(*shape, seed=0, rate=0.2, dtype=torch.float32):
    return (torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < rate).to(dtype)


def weights(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def same_bits(a, b):
    integers, _ = memory._WORDS[a.dtype]
    return a.dtype == b.dtype and torch.equal(a.contiguous().view(integers), b.contiguous().view(integers))


# --- bits ------------------------------------------------------------------------------------------

LAYOUTS = {
    "1d": lambda x: x.flatten(),
    "contiguous": lambda x: x,
    "channels-last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(0, 3),
    "permuted": lambda x: x.permute(2, 0, 3, 1),
    "offset": lambda x: x[1:],
    "ones-in-shape": lambda x: x[:, None].expand(-1, 1, -1, -1, -1),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("device", DEVICES)
def test_restored_exactly(device, dtype, layout):
    x = LAYOUTS[layout](spikes(3, 5, 24, 32, dtype=dtype).to(device))
    bits = pack_bits(x)
    y = unpack_bits(bits, x.shape, x.stride(), x.dtype)
    assert 0 < x.count_nonzero() < x.numel()
    assert bits.dtype == torch.uint8 and bits.numel() == -(-x.numel() // 8) and bits.device == x.device
    assert same_bits(x, y) and y.shape == x.shape and y.stride() == x.stride() and y.device == x.device


@pytest.mark.parametrize("size", [1, 7, 8, 9, 4097, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 13])
@pytest.mark.parametrize("rate", [-1, 0.3, 2], ids=["silent", "some", "all"])
def test_any_number_of_elements(rate, size):
    x = spikes(size, rate=rate)
    assert same_bits(unpack_bits(pack_bits(x), x.shape, x.stride(), x.dtype), x)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_both_ways_give_the_same(dtype, monkeypatch):
    """The operations for CUDA, run here: same bits, over several pieces."""
    monkeypatch.setitem(memory._CHUNK, "cuda", 1 << 10)
    x = spikes(5003, dtype=dtype)
    integers, one = memory._WORDS[dtype]
    bits = memory._pack_torch(x.view(integers), one)
    y = torch.empty_like(x)
    memory._unpack_torch(bits, y.view(integers), one)
    assert torch.equal(bits, pack_bits(x)) and same_bits(y, x)
    for where in (3, 2000, -1):
        x[where] = 2
        assert memory._pack_torch(x.view(integers), one) is None
        x[where] = 0


def others(dtype):
    info = torch.finfo(dtype)
    return [-0.0, -1.0, 2.0, 0.5, float("nan"), float("inf"), info.tiny, info.smallest_normal / 2, 1 + info.eps]


@pytest.mark.parametrize("value", range(9))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_other_value_is_seen(dtype, value):
    x = spikes(2 * CHUNK + 5, dtype=dtype)
    for where in (0, 1, 1234, 2 * CHUNK - 1, 2 * CHUNK, -1):
        former = x[where].clone()
        assert pack_bits(x) is not None
        x[where] = others(dtype)[value]
        assert not same_bits(x, x.ne(0).to(dtype))
        assert pack_bits(x) is None
        x[where] = former


def test_a_few_elements_tell_most_others(monkeypatch):
    monkeypatch.setattr(memory, "_pack_numpy", None)
    assert pack_bits(torch.rand(1 << 16)) is None
    assert pack_bits(torch.randn(1 << 16).relu()) is None


def test_no_temporary_of_the_tensors_size():
    x = spikes(1 << 22)
    tracemalloc.start()
    bits = pack_bits(x)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    start = tracemalloc.get_traced_memory()[0]
    unpack_bits(bits, x.shape, x.stride(), x.dtype)
    _, peak_back = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert bits.numel() <= peak < bits.numel() + 8 * CHUNK < x.nbytes / 8
    assert CHUNK <= peak_back - start < 8 * CHUNK


# --- what is replaced, and what is not ---------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_counted_bytes(dtype):
    x, w = spikes(100, N, dtype=dtype), weights(N, 3).detach().to(dtype).requires_grad_()
    with compress_spikes() as saved:
        assert (saved.bytes_before, saved.bytes_after) == (0, 0)
        y = x @ w
        assert saved.bytes_before == 100 * N * x.element_size() and saved.bytes_after == 100 * N // 8
    y.sum().backward()
    assert torch.equal(w.grad, x.t() @ torch.ones_like(y))


@pytest.mark.parametrize("layout", ["contiguous", "channels-last"])
def test_backward_gets_the_same_strides(layout):
    x = LAYOUTS[layout](spikes(2, 8, 16, 17))
    with compress_spikes() as saved:
        y = nn.functional.conv2d(x, weights(4, 8, 3, 3))
    back = y.grad_fn._saved_input
    assert saved.bytes_before == x.nbytes
    assert same_bits(back, x) and back.stride() == x.stride() and back.data_ptr() != x.data_ptr()


class Marked(torch.Tensor):
    pass


B = 100
ALONE = {
    "small": lambda: spikes(MIN_ELEMENTS - 1),
    "floats": lambda: torch.rand(B, N),
    "minus-zero": lambda: -spikes(B, N, rate=-1),
    "late": lambda: torch.cat([spikes(2 * CHUNK), torch.tensor([0.5])]),
    "leaf-parameter": lambda: torch.ones(B, N, requires_grad=True),
    "nn-parameter": lambda: nn.Parameter(torch.ones(B, N)),
    "frozen-parameter": lambda: nn.Parameter(torch.ones(B, N), requires_grad=False),
    "slice": lambda: spikes(B, 2, N)[:, 0],
    "step": lambda: spikes(2 * B, N)[::2],
    "expanded": lambda: spikes(1, N).expand(B, N),
    "overlapping": lambda: spikes(B + N).as_strided((B, N), (1, 1)),
    "integers": lambda: spikes(B, N).long(),
    "bool": lambda: spikes(B, N).bool(),
    "complex": lambda: spikes(B, N).to(torch.complex64),
    "negative-view": lambda: torch._neg_view(spikes(B, N)),  # its memory holds the opposite of its values
    "subclass": lambda: spikes(B, N).as_subclass(Marked),
    "sparse": lambda: spikes(B, N).to_sparse(),
}


@pytest.mark.parametrize("name", ALONE)
def test_left_alone(name):
    x = ALONE[name]()
    saved = compress_spikes()
    back = memory._unpack(saved._pack(x))
    assert saved.bytes_before == saved.bytes_after == 0
    if name != "sparse":
        assert back.data_ptr() == x.data_ptr() and back.stride() == x.stride()
    assert type(back) is type(x) and back.dtype == x.dtype and back._version == x._version
    assert (back is x) == x.is_leaf


def test_floats_are_not_copied():
    w = weights(B, N)
    x = w + 1
    with compress_spikes():
        leaf, result = w.square(), x.square()
    assert leaf.grad_fn._saved_self.data_ptr() == w.data_ptr()
    assert result.grad_fn._saved_self.data_ptr() == x.data_ptr() and result.grad_fn._saved_self.grad_fn is x.grad_fn


def recording(into):
    """Notes the memory of what passes, without keeping it alive. (A layer of one's own would be given a copy.)"""
    layer = nn.Identity()
    layer.register_forward_pre_hook(
        lambda module, args: into.append(
            (StorageWeakRef(args[0].untyped_storage()), args[0].untyped_storage().nbytes())
        )
    )
    return layer


def conv_net(record=None, **options):
    lif = dict(beta=0.9, threshold=0.3, reset_mechanism="zero") | options
    torch.manual_seed(0)
    record = [] if record is None else record
    return snn.MultiStep(
        nn.Conv2d(2, 8, 3, padding=1), snn.Leaky(**lif), recording(record),
        nn.Conv2d(8, 8, 3, padding=1), snn.Leaky(**lif), recording(record), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(8 * 64, 200), snn.Leaky(**lif), recording(record), nn.Linear(200, 5),
    )  # fmt: skip


OPTIONS = {"off": {}, "both": dict(spatial_adj=True, temporal_alpha=0.8)}
T, BATCH = 6, 4


def frames():
    return spikes(T, BATCH, 2, 16, 16, seed=5, rate=0.4)


def gradients(net, x, context=None, step=None):
    net.zero_grad()
    with nullcontext() if context is None else context:
        out = (step or net)(x)
        loss = out.square().sum()
    loss.backward()
    return [out.detach()] + [p.grad.clone() for p in net.parameters()]


def assert_same(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert x.count_nonzero() > 0 and same_bits(x, y)


@pytest.mark.parametrize("name", OPTIONS)
def test_gradients_of_a_net_are_the_same_to_the_bit(name):
    net, x = conv_net(**OPTIONS[name]), frames()
    expected = gradients(net, x)
    with compress_spikes() as saved:
        inside = gradients(net, x)
    assert_same(inside, expected)
    spike_bytes = 4 * T * BATCH * (2 * 256 + 2 * 8 * 256 + 200)
    assert saved.bytes_before >= spike_bytes and saved.bytes_before == 32 * saved.bytes_after
    assert_same(gradients(net, x, compress_spikes()), expected)


@pytest.mark.parametrize("name", OPTIONS)
def test_the_spikes_are_gone_after_the_forward_pass(name):
    record = []
    # channels last from the start: else what a layer of one's own is given is a copy
    x = frames().flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, (T, BATCH))
    net = conv_net(record, **OPTIONS[name])
    loss = net(x).sum()
    assert [ref.expired() for ref, _ in record] == [False] * 3
    assert sum(size for _, size in record) == 4 * T * BATCH * (2 * 8 * 256 + 200)
    del loss
    assert all(ref.expired() for ref, _ in record)
    record.clear()
    with compress_spikes() as saved:
        loss = net(x).sum()
    assert [ref.expired() for ref, _ in record] == [True] * 3
    assert sum(size for _, size in record) + x.nbytes <= saved.bytes_before == 32 * saved.bytes_after
    loss.backward()


def test_nothing_is_kept_after_backward():
    saved, w = compress_spikes(), weights(N, 3)
    with saved:
        y = (spikes(B, N) * torch.ones(1).requires_grad_()).relu() @ w
    assert len(saved._known) > 0
    y.sum().backward()
    assert len(saved._known) == 0


def test_no_cycle_holds_a_result():
    """exp keeps its own result: an identity as pack hook would leak it."""
    with compress_spikes():
        y = weights(B, N).exp()
    dead = weakref.ref(y)
    del y
    assert dead() is None


# --- one tensor saved twice --------------------------------------------------------------------------


def test_two_layers_share_the_bits():
    x, w, v = weights(1), weights(N, 3), weights(2 * N, 3)

    def step():
        s = spikes(B, N) * x  # x is 1: a result, binary
        return (s @ w).sum() + (s.view(B // 2, 2 * N) @ v).sum()

    x.data.fill_(1)
    expected = torch.autograd.grad(step(), (x, w, v))
    with compress_spikes() as saved:
        loss = step()
    # Twice the input (a leaf, saved for the gradient of x), once the result, though two layers keep it.
    assert saved.bytes_before == 2 * 4 * B * N == 32 * saved.bytes_after
    assert_same(torch.autograd.grad(loss, (x, w, v)), expected)


def test_reused_memory_is_not_taken_for_the_former():
    """Results at one address, of the same size and version, one after the other."""
    saved, kept, addresses = compress_spikes(), [], set()
    shared = spikes(B * N).numpy()
    values = [spikes(B * N, seed=seed) for seed in range(50)]
    for value in values:
        shared[:] = value.numpy()
        s = torch.from_numpy(shared).requires_grad_().view(B, N)
        assert not s.is_leaf and s._version == 0
        addresses.add(s.data_ptr())
        kept.append(saved._pack(s))
        del s
    assert len(addresses) == 1
    assert all(same_bits(memory._unpack(p).view(-1), v) for p, v in zip(kept, values, strict=True))
    assert saved.bytes_before == 50 * 4 * B * N


def test_a_new_version_is_packed_anew():
    saved = compress_spikes()
    s = spikes(B, N) * torch.ones((), requires_grad=True)
    first = saved._pack(s)
    again = saved._pack(s.view(-1))
    s.detach().mul_(0)
    second = saved._pack(s)
    assert first.bits is again.bits and first.bits is not second.bits
    assert memory._unpack(second).count_nonzero() == 0
    assert unpack_bits(first.bits.data, first.shape, first.stride, first.dtype).count_nonzero() > 0


def test_a_buffer_written_behind_autograd_is_packed_anew():
    saved, buffer = compress_spikes(), torch.zeros(B, N)
    first = saved._pack(buffer)
    buffer.numpy()[:] = 1
    assert buffer._version == first.version
    assert memory._unpack(saved._pack(buffer)).all() and not memory._unpack(first).any()


# --- in-place changes are noticed, as without ----------------------------------------------------------

CHANGES = {
    "add": lambda s: s.add_(1),
    "view": lambda s: s.view(-1)[3:5].zero_(),
    "detached": lambda s: s.detach().zero_(),
}
VALUES = {"packed": 0.2, "kept": None}


@pytest.mark.parametrize("context", [nullcontext, compress_spikes], ids=["without", "with"])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("leaf", [True, False], ids=["leaf", "result"])
def test_a_change_in_place_raises(leaf, values, change, context):
    s, w = torch.rand(B, N) if VALUES[values] is None else spikes(B, N), weights(N, 3)
    if not leaf:
        s = s * torch.ones((), requires_grad=True)
    with context() as saved:
        y = s @ w
    if saved is not None:
        assert (saved.bytes_before > 0) == (values == "packed")
    CHANGES[change](s)
    with pytest.raises(RuntimeError, match=r"modified by an inplace operation(.|\n)*expected version 0"):
        y.sum().backward()


@pytest.mark.parametrize("context", [nullcontext, compress_spikes], ids=["without", "with"])
def test_a_step_of_the_optimizer_in_between_raises(context):
    w = weights(N, N)
    with context():
        y = (spikes(B, N) @ w).relu() @ w
    with torch.no_grad():
        w.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_the_change_is_seen_through_a_view_when_the_tensor_is_gone():
    s, w = spikes(B, N), weights(N, 3)
    with compress_spikes():
        y = s @ w
    view = s.view(-1)
    del s
    view.zero_()
    with pytest.raises(RuntimeError, match="inplace"):
        y.sum().backward()


def test_operations_in_place_before_saving_are_fine():
    w = weights(N, N)

    def step():
        return (spikes(B, N) @ w).sub_(0.5).sigmoid_().sum()

    expected = torch.autograd.grad(step(), w)
    with compress_spikes():
        loss = step()
    assert_same(torch.autograd.grad(loss, w), expected)


# --- together with the rest of PyTorch -----------------------------------------------------------------


@pytest.mark.parametrize("use_reentrant", [True, False], ids=["reentrant", "not-reentrant"])
@pytest.mark.parametrize("where", ["outside", "inside"])
def test_checkpoint(where, use_reentrant):
    net, x = conv_net(**OPTIONS["both"]), frames()
    expected = gradients(net, x)
    head, tail, saved = net[:3], net[3:], compress_spikes()

    def inside(s):
        with saved:
            return tail(s)

    def step(x):
        return checkpoint(inside if where == "inside" else tail, head(x), use_reentrant=use_reentrant)

    assert_same(gradients(net, x, saved if where == "outside" else None, step), expected)
    assert saved.bytes_before == 32 * saved.bytes_after > 0


def test_around_a_checkpoint_its_inputs_are_replaced():
    record = []
    net, x = conv_net(record), frames()
    head, tail = net[:3], net[3:]
    with compress_spikes():
        loss = checkpoint(tail, head(x), use_reentrant=False).sum()
    assert [ref.expired() for ref, _ in record] == [True] * 3
    loss.backward()
    assert len(record) > 3, "the checkpoint computed nothing again"


def test_autocast():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(4 * 14 * 14, 5))
    x = spikes(20, 2, 16, 16)

    def step(x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return net(x)

    expected = gradients(net, x, None, step)
    with compress_spikes() as saved:
        inside = gradients(net, x, None, step)
    assert_same(inside, expected)
    assert saved.bytes_before == 2 * x.numel() == 16 * saved.bytes_after  # the bfloat16 copy


@pytest.mark.parametrize("backward", ["inside", "outside"])
def test_double_backward(backward):
    w, v = weights(N, N), torch.ones(B, N, requires_grad=True)

    def second(context, later):
        with context:
            loss = ((spikes(B, N) * v * v) @ w).tanh().sum()
        with later:
            (g,) = torch.autograd.grad(loss, w, create_graph=True)
        return torch.autograd.grad(g.square().sum(), (w, v))

    expected = second(nullcontext(), nullcontext())
    saved = compress_spikes()
    assert_same(second(saved, saved if backward == "inside" else nullcontext()), expected)
    assert saved.bytes_before > 0


def test_gradient_of_what_was_packed():
    """A packed result of an operation still leads to its own graph."""
    v = torch.ones(B, N, requires_grad=True)
    with compress_spikes() as saved:
        s = spikes(B, N) * v
        loss = (s * s * s).sum()
    assert saved.bytes_before > 0
    (g,) = torch.autograd.grad(loss, v, create_graph=True)
    (h,) = torch.autograd.grad(g.sum(), v)
    assert torch.equal(g, 3 * spikes(B, N)) and torch.equal(h, 6 * spikes(B, N))


def test_retain_graph():
    w = weights(N, 3)
    with compress_spikes():
        loss = (spikes(B, N) @ w).sum()
    first = torch.autograd.grad(loss, w, retain_graph=True)
    assert_same(torch.autograd.grad(loss, w), first)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_forward_mode():
    """Some tangents have no memory behind them."""
    x, w = spikes(B, N), weights(N, N)

    def step(context):
        with context, torch.autograd.forward_ad.dual_level():
            out = (torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)) @ w).relu() @ w
            return torch.autograd.grad(torch.autograd.forward_ad.unpack_dual(out.sum()).tangent, w)

    assert_same(step(compress_spikes()), step(nullcontext()))


def test_nested_and_used_again():
    x, w = spikes(B, N), weights(N, 3)
    outer, inner = compress_spikes(), compress_spikes()
    with outer:
        _ = x @ w
        with inner:
            loss = (x @ w).sum()
        with outer:
            _ = x @ w
    assert outer.bytes_before == 2 * inner.bytes_before == 2 * x.nbytes
    with inner:
        _ = x @ w
    assert inner.bytes_before == 2 * x.nbytes
    _ = x @ w
    assert inner.bytes_before == 2 * x.nbytes and outer.bytes_before == 2 * x.nbytes
    loss.backward()


@pytest.mark.parametrize("order", ["inner", "outer"])
def test_with_save_on_cpu(order):
    net, x = conv_net(), frames()
    expected, saved = gradients(net, x), compress_spikes()
    contexts = [save_on_cpu(), saved] if order == "inner" else [saved, save_on_cpu()]
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context)
        got = gradients(net, x)
    assert_same(got, expected)
    assert (saved.bytes_before > 0) == (order == "inner")


def test_an_exception_leaves_the_context():
    seen, saved = [], compress_spikes()
    with saved_tensors_hooks(lambda x: seen.append(1) or x.detach(), lambda x: x):
        with pytest.raises(KeyError), saved:
            raise KeyError
        _ = spikes(B, N) @ weights(N, 3)
    assert seen and saved.bytes_before == 0


def test_a_context_is_of_its_thread():
    net, x = conv_net(), frames()
    expected, results = gradients(net, x), {}

    def work(name, context):
        with context:
            results[name] = torch.autograd.grad(net(x).square().sum(), list(net.parameters()))

    inside = [compress_spikes() for _ in range(4)]
    with compress_spikes() as here:
        threads = [threading.Thread(target=work, args=(i, c)) for i, c in enumerate([*inside, nullcontext()])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert here.bytes_before == 0
    assert len({c.bytes_before for c in inside}) == 1 and inside[0].bytes_before == 32 * inside[0].bytes_after > 0
    assert len(results) == 5
    for result in results.values():
        assert_same(result, expected[1:])


def test_backward_in_another_thread():
    net, x = conv_net(), frames()
    expected = gradients(net, x)
    net.zero_grad()
    with compress_spikes():
        loss = net(x).square().sum()
    thread = threading.Thread(target=loss.backward)
    thread.start()
    thread.join()
    assert_same([p.grad for p in net.parameters()], expected[1:])


def test_default_device_does_not_matter():
    x, w = spikes(B, N), weights(N, 3)
    with torch.device("meta"), compress_spikes() as saved:
        loss = (x @ w).sum()
    loss.backward()
    assert saved.bytes_before == x.nbytes and torch.equal(w.grad, x.sum(0)[:, None].expand(-1, 3))


def test_compiled_functions_inside_the_context():
    x, w = spikes(B, N), weights(N, N)

    def step(x):
        return ((x @ w).relu() @ w).sum()

    expected = torch.autograd.grad(step(x), w)
    compiled = torch.compile(step, backend="aot_eager")
    for _ in range(3):
        with compress_spikes() as saved:
            loss = compiled(x)
        assert_same(torch.autograd.grad(loss, w), expected)
    assert saved.bytes_before == x.nbytes == 32 * saved.bytes_after


def test_the_context_inside_a_compiled_function():
    w = weights(N, N)

    @torch.compile(backend="aot_eager")
    def step(x):
        with compress_spikes():
            return (x @ w).relu().sum()

    x = spikes(B, N)
    assert_same(torch.autograd.grad(step(x), w), torch.autograd.grad((x @ w).relu().sum(), w))


def test_a_tracer_sees_no_constant():
    make_fx = pytest.importorskip("torch.fx.experimental.proxy_tensor").make_fx
    w = weights(N, 3)

    def gradient(x):
        return torch.autograd.grad((x @ w).square().sum(), w)[0]

    with compress_spikes():
        traced = make_fx(gradient)(spikes(B, N))
    x = spikes(B, N, seed=7)
    torch.testing.assert_close(traced(x), gradient(x))


def test_fake_and_meta_tensors_pass():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with compress_spikes() as saved:
        x = torch.zeros(B, N, device="meta")
        (x @ torch.rand(N, 3, device="meta", requires_grad=True)).sum().backward()
        with FakeTensorMode():
            (torch.zeros(B, N) @ torch.rand(N, 3, requires_grad=True)).sum().backward()
    assert saved.bytes_before == 0


def test_vmap():
    x, w = spikes(B, 8, 8), weights(8, 3)
    expected = torch.autograd.grad(torch.vmap(lambda x: x @ w)(x).square().sum(), w)
    with compress_spikes() as saved:
        loss = torch.vmap(lambda x: x @ w)(x).square().sum()
    assert_same(torch.autograd.grad(loss, w), expected)
    assert saved.bytes_before == x.nbytes


def test_func_refuses_it_by_name():
    with compress_spikes(), pytest.raises(RuntimeError, match="saved tensor hooks"):
        torch.func.grad(lambda x: x.square().sum())(torch.rand(3))


# --- memory that stays ----------------------------------------------------------------------------

KEPT = """
import ctypes, resource, torch, snntorch_bpsta as snn
torch.set_num_threads(1)
libc = ctypes.CDLL(None)
class Info(ctypes.Structure):  # of mallinfo2(3), and of mallinfo(3), which older ones have
    _fields_ = [(name, ctypes.c_size_t if hasattr(libc, "mallinfo2") else ctypes.c_int)
                for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]
info = getattr(libc, "mallinfo2", None) or libc.mallinfo
info.restype = Info
def used():
    "Mappings of their own for two tensors of 40 MiB, what is free once they are gone in MiB, and page faults of five pairs."
    before = info().hblks
    pair = torch.ones(10 * 2**20), torch.ones(10 * 2**20)  # above what glibc raises its threshold to
    mapped = info().hblks - before
    del pair
    start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(10 * 2**20).add(1)
    return mapped, info().fordblks >> 20, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() >> 20
used()
print(*used())
snn.keep_memory()
used()
print(*used())
before = resident()
snn.keep_memory(False)
print(before - resident())
"""


@pytest.mark.skipif(memory._glibc() is None, reason="needs glibc")
def test_memory_that_is_kept_is_glibcs_own_and_stays():
    done = subprocess.run([sys.executable, "-c", KEPT], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    fresh, kept, (back,) = (tuple(map(int, line.split())) for line in done.stdout.splitlines())
    assert (fresh[0], kept[0]) == (2, 0), "mappings of their own"
    assert kept[1] >= 80 > 40 > fresh[1] and back > 40, "what is free stays, and goes back in the end"
    if fresh[2]:  # some systems count no page faults, or map huge pages in advance
        assert kept[2] * 10 < fresh[2], (fresh, kept)


def test_memory_is_kept_by_glibc_alone(monkeypatch):
    for library in (OSError("none"), object()):

        def load(name, library=library):
            if isinstance(library, OSError):
                raise library
            return library

        monkeypatch.setattr(memory.ctypes, "CDLL", load)
        with pytest.raises(NotImplementedError, match="needs glibc"):
            snn.keep_memory()
    with pytest.raises(TypeError, match="on must be"):
        snn.keep_memory(1)
