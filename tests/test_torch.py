"""Every private or version-bound thing of PyTorch that we use: it is there, and does what its name says."""

import gc
import inspect
import re
from pathlib import Path

import pytest
import torch

from snntorch_bpsta import _torch

PACKAGE = Path(_torch.__file__).parent


def test_compiling_is_seen():
    seen = []

    @torch.compile(backend="eager", fullgraph=True)
    def f(x):
        return x + 1 if _torch.is_compiling() else x

    assert not _torch.is_compiling()
    seen.append(f(torch.zeros(1)))
    assert seen[0].item() == 1


def test_a_transform_is_seen():
    seen = []

    def f(x):
        seen.append((_torch.is_transforming(), _torch.is_of_a_transform(x)))
        return x

    torch.func.vmap(f)(torch.zeros(2))
    assert seen == [(True, True)]
    assert not _torch.is_transforming()
    assert not _torch.is_of_a_transform(torch.zeros(2))


@pytest.mark.parametrize("keep", (True, False))
def test_a_backward_pass_is_seen_with_what_becomes_of_its_graph(keep):
    seen = []
    x = torch.zeros(2, requires_grad=True)
    x.register_hook(lambda grad: seen.append((_torch.keeps_graph(), _torch.backward_pass() != -1)))
    (x * 2).sum().backward(retain_graph=keep)
    assert seen == [(keep, True)]
    assert _torch.backward_pass() == -1


def test_forward_mode_is_seen():
    assert not _torch.is_forward_mode()
    with torch.autograd.forward_ad.dual_level():
        assert _torch.is_forward_mode()
    assert not _torch.is_forward_mode()


def test_hooks_on_all_modules_are_seen():
    assert not _torch.has_global_hooks()
    of = torch.nn.modules.module
    for register in (
        lambda hook: of.register_module_forward_hook(hook, always_call=True), of.register_module_forward_pre_hook,
        of.register_module_full_backward_hook, of.register_module_full_backward_pre_hook,
    ):  # fmt: skip
        handle = register(lambda *arguments: None)
        assert _torch.has_global_hooks()
        handle.remove()
        assert not _torch.has_global_hooks()


def test_containers_are_taken_apart_and_put_together():
    tree = {"a": [torch.zeros(1), 2], "b": (None, torch.ones(2))}
    leaves, spec = _torch.tree_flatten(tree)
    assert _torch.tree_leaves(tree)[1] == 2 and len(leaves) == 4
    again = _torch.tree_unflatten(leaves, spec)
    assert again["b"][1] is tree["b"][1] and type(again["a"]) is list
    assert _torch.tree_flatten({"a": [1, 2], "b": (None, 3)})[1] == spec != _torch.tree_flatten([1])[1]
    assert len({spec, spec}) == 1


def test_functions_of_autograd_are_watched():
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 5

    seen, original = [], torch.autograd.Function.__dict__["apply"]
    x = torch.ones(1, requires_grad=True)

    def watch(cls, call, args, kwargs):
        seen.append((cls, args))
        return call(*args, **kwargs)

    with _torch.functions_watched(watch):
        Double.apply(x).backward()
    assert seen == [(Double, (x,))] and x.grad == 5
    assert torch.autograd.Function.__dict__["apply"] is original
    Double.apply(x)
    assert len(seen) == 1


def test_an_export_is_seen():
    seen = []

    def f(x):
        seen.append(_torch.is_exporting())
        return x + 1

    torch.jit.trace(f, torch.zeros(1), check_trace=False)
    assert seen == [True]
    assert not _torch.is_exporting()


def test_a_mode_is_seen():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    assert not _torch.is_watched() and not _torch.is_dispatched()
    with Mode():
        assert _torch.is_watched() and _torch.is_dispatched()


def test_a_zero_of_forward_mode_is_seen():
    assert _torch.is_zero_tensor(torch._efficientzerotensor((2,)))
    assert not _torch.is_zero_tensor(torch.zeros(2))
    assert not _torch.is_capturing(torch.zeros(2))


def test_autocast_is_seen():
    x = torch.zeros(2)
    assert not _torch.is_autocast(x)
    with torch.autocast("cpu"):
        assert _torch.is_autocast(x) and not _torch.is_autocast(x.to("meta"))


def test_a_storage_is_known_by_its_address():
    x = torch.zeros(3)
    assert _torch.StorageWeakRef(x.untyped_storage()).cdata == _torch.StorageWeakRef(x[1:].untyped_storage()).cdata


def test_a_write_is_counted():
    x = torch.zeros(2)
    before = _torch.version(x)
    x.add_(1)
    assert _torch.version(x) == before + 1
    with torch.inference_mode():
        assert _torch.version(torch.zeros(2)) == 0


def test_a_constant_of_the_compiler_is_called_while_it_traces():
    calls = []

    @_torch.constant_for_compiler
    def secret():
        calls.append(torch.compiler.is_compiling())
        return 3

    f = torch.compile(lambda x: x * secret(), backend="eager", fullgraph=True)
    assert [f(torch.ones(1)).item() for _ in range(2)] == [3, 3]
    assert len(calls) == 1


def test_leaves_of_what_a_module_keeps():
    x = torch.zeros(2)
    assert _torch.tree_leaves({"v": x, "list": [1, (2.0, None)]}) == [x, 1, 2.0, None]


def test_every_name_has_its_test():
    public = [name for name, value in vars(_torch).items() if callable(value) and not name.startswith("_")]
    source = Path(__file__).read_text(encoding="utf-8")
    ours = [name for name in public if inspect.getmodule(getattr(_torch, name)) is not re]
    missing = [
        name
        for name in ours
        if name not in ("Any", "Callable", "Iterator", "TypeVar", "contextmanager") and f"_torch.{name}" not in source
    ]
    assert missing == []


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)).replace("/", ".")
)
def test_nothing_private_of_torch_is_used_elsewhere(path):
    if path.name == "_torch.py":
        return
    source = path.read_text(encoding="utf-8")
    private = r"torch\._[a-zA-Z]|from torch\.[\w.]*\._|torch\.compiler\.is_compiling|\._dynamo_|\._is_zerotensor"
    assert re.findall(private, source.replace("torch.__", "")) == []


def test_a_library_may_be_made_again():
    """As when its module is run again, with the last one still held by someone, and let go of later."""
    held = []
    for times in (2, 3):
        held.append(_torch.new_library("snntorch_bpsta_test"))
        held[-1].define("scale(Tensor x) -> Tensor")
        held[-1].impl("scale", lambda x, times=times: times * x, "CompositeExplicitAutograd")
        assert torch.ops.snntorch_bpsta_test.scale(torch.ones(())).item() == times
    del held
    gc.collect()
    assert torch.ops.snntorch_bpsta_test.scale(torch.ones(())).item() == 3
    vars(torch.ops.snntorch_bpsta_test)["_library"]._destroy()
