"""Every private or version-bound thing of PyTorch that we use: it is there, and does what its name says."""

import ast
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


def test_views_and_what_they_are_of():
    base = torch.zeros(2, 3)
    assert _torch.viewed(base) is base and not _torch.is_view(base)
    part = base[1][:2]
    assert _torch.viewed(part) is base and _torch.is_view(part) and not _torch.is_view(part.clone())


def test_what_a_backward_pass_has_freed():
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, grad):
            return 2 * ctx.saved_tensors[0] * grad

    for function in (torch.sigmoid, Square.apply):
        y = function(torch.ones(2, requires_grad=True))
        y.sum().backward(retain_graph=True)
        assert not _torch.is_freed(y.grad_fn)
        y.sum().backward()
        assert _torch.is_freed(y.grad_fn)


def test_hooks_on_a_module_are_seen():
    module = torch.nn.Linear(2, 2)
    assert not _torch.has_hooks(module)
    for register in (
        module.register_forward_hook, module.register_forward_pre_hook, module.register_full_backward_hook,
        module.register_full_backward_pre_hook,
    ):  # fmt: skip
        handle = register(lambda *arguments: None)
        assert _torch.has_hooks(module)
        handle.remove()
        assert not _torch.has_hooks(module)


def test_a_compiled_module_is_seen():
    module = torch.nn.Linear(2, 2)
    assert not _torch.is_compiled(module) and _torch.is_compiled(torch.compile(module, backend="eager"))
    module.compile(backend="eager")
    assert _torch.is_compiled(module)


def test_a_sequential_that_is_taken_apart_knows():
    seen = []

    class Whole(torch.nn.Sequential):
        def children(self):
            seen.append(_torch.is_taken_apart())
            return super().children()

    net, x = Whole(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)), torch.ones(1, 2, requires_grad=True)
    list(net.children()), net.eval(), net(x)
    assert not any(seen)
    seen.clear()
    torch.utils.checkpoint.checkpoint_sequential(net, 2, x, use_reentrant=False)
    assert seen == [True]


def test_the_bases_of_layers():
    nn = torch.nn
    convolutions = [nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d]
    assert all(issubclass(each, _torch.CONVOLUTION) for each in convolutions)
    norms = [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm2d, nn.SyncBatchNorm]
    assert all(issubclass(each, _torch.BATCH_NORM) for each in norms)
    assert not issubclass(nn.Linear, (_torch.CONVOLUTION, _torch.BATCH_NORM))


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


# --- and elsewhere ------------------------------------------------------------------------------------

# What can be no function of _torch.py, each with its test here: the tables of a module, and what ours extend of it.
TABLES = {"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"}
EXTENDED = {"_apply", "_load_from_state_dict", "_replicate_for_data_parallel", "_is_full_backward_hook"}
# Names that are ours in these files, and happen to be PyTorch's elsewhere.
OWN = {("data/_common.py", "_version"), ("folding/replay.py", "_grad"), ("training/module.py", "_trainer")}


def things():
    """Objects of PyTorch whose private names somebody may be tempted to use."""
    seen, x = [], torch.ones(2, requires_grad=True)

    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            seen.append(ctx)
            return x * 2

    Double.apply(x)
    return torch.nn.Module(), torch.nn.Sequential(), x, (x * x).grad_fn, *seen, x.untyped_storage(), torch.Generator()


def private_of_torch(source):
    """The private names of PyTorch's objects and modules that a source uses."""
    theirs = {name for thing in things() for name in dir(thing) if re.match("_[a-zA-Z]", name)}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and re.match("_[a-zA-Z]", node.attr):
            of_a_module = re.match(r"(torch|nn)\b[\w.]*$", ast.unparse(node.value))
            if of_a_module or node.attr in theirs or node.attr.startswith(("_dynamo_", "_saved_")):
                yield node.attr
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "torch":
            parts = [*node.module.split("."), *(alias.name for alias in node.names)]
            yield from (part for part in parts if part.startswith("_"))


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)).replace("/", ".")
)
def test_nothing_private_of_torch_is_used_elsewhere(path):
    source, file = path.read_text(encoding="utf-8"), path.relative_to(PACKAGE).as_posix()
    if file in ("_torch.py", "_snntorch.py"):
        return
    found = set(private_of_torch(source)) - TABLES - EXTENDED
    assert not {name for name in found if (file, name) not in OWN}
    assert not re.search(r"torch\.compiler\.is_compiling", source)


@pytest.mark.parametrize("line", [
    "x._version", "module._forward_hooks", "torch._C", "from torch._C import x", "from torch.nn.modules.conv import _ConvNd",
    "nn.modules.batchnorm._NormBase", "node._saved_self", "import torch\ny = x._base", "x.untyped_storage()._cdata",
])  # fmt: skip
def test_a_private_use_is_seen(line):
    assert list(private_of_torch(line))


def test_the_tables_of_a_module():
    module = torch.nn.Sequential(torch.nn.Linear(2, 2))
    module.weight = torch.nn.Parameter(torch.ones(1))
    module.register_buffer("kept", torch.zeros(1))
    module.register_buffer("lost", torch.zeros(1), persistent=False)
    assert all(type(getattr(module, name)) in (dict, set) and name in module.__dict__ for name in TABLES)
    assert module._parameters == {"weight": module.weight} and module._modules == {"0": module[0]}
    assert [*module._buffers] == ["kept", "lost"] and module._non_persistent_buffers_set == {"lost"}
    module._non_persistent_buffers_set.discard("lost")
    module.__dict__["lost"] = module._buffers.pop("lost")
    assert [*module.state_dict()] == ["weight", "kept", "0.weight", "0.bias"] and module.lost is vars(module)["lost"]


def test_what_is_extended_of_a_module_is_called():
    called = []

    class Module(torch.nn.Linear):
        def _apply(self, fn, recurse=True):
            called.append("_apply")
            return super()._apply(fn, recurse)

        def _load_from_state_dict(self, *arguments):
            called.append("_load_from_state_dict")
            super()._load_from_state_dict(*arguments)

    module = torch.nn.Sequential(Module(2, 2))
    module.double()
    module.load_state_dict(module.state_dict())
    assert called == ["_apply", "_load_from_state_dict"]
    assert "module._replicate_for_data_parallel()" in inspect.getsource(torch.nn.parallel.replicate)
    assert module._replicate_for_data_parallel()._modules is not module._modules
    assert module._is_full_backward_hook is None
    module.register_full_backward_hook(lambda *arguments: None)
    assert module._is_full_backward_hook is True


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
