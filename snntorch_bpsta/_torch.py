"""What of PyTorch is private, or differs between its versions: one named function each. tests/test_torch.py calls each and
fails when PyTorch drops or changes it. It also tries what cannot be a function: the tables of a module (`_parameters`,
`_buffers`, `_modules`) and the methods of a module that ours extend; nothing else that is private is used elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.utils.checkpoint
from torch.multiprocessing.reductions import StorageWeakRef as StorageWeakRef
from torch.utils import _pytree
from torch.utils._python_dispatch import _get_current_dispatch_mode

_Function = TypeVar("_Function", bound=Callable[..., Any])

is_compiling = torch.compiler.is_compiling
# Whether vmap, grad or another transform of torch.func is at work.
is_transforming: Callable[[], bool] = torch._C._are_functorch_transforms_active
# Whether the backward pass under way keeps its graph (retain_graph=True); True where PyTorch does not say.
keeps_graph: Callable[[], bool] = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True)
# How many modes (a tracer, say) see every operation on tensors.
is_watched: Callable[[], int] = torch._C._len_torch_dispatch_stack
# A number for the backward pass under way in this thread, -1 outside of one.
backward_pass: Callable[[], int] = torch._C._current_graph_task_id

# Containers of tensors, those of torch and of users that are registered: their leaves and what puts them together again.
tree_flatten: Callable[[Any], tuple[list[Any], Any]] = _pytree.tree_flatten
tree_unflatten: Callable[[Any, Any], Any] = _pytree.tree_unflatten
tree_leaves: Callable[[Any], list[Any]] = _pytree.tree_leaves

# What the convolutions, and the batch norms, of any number of dimensions are.
CONVOLUTION: type[torch.nn.Module] = torch.nn.modules.conv._ConvNd
BATCH_NORM: type[torch.nn.Module] = torch.nn.modules.batchnorm._NormBase


def is_forward_mode() -> bool:
    """Whether forward-mode differentiation is at work."""
    return torch.autograd.forward_ad._current_level >= 0


def has_global_hooks() -> bool:
    """Whether hooks on all modules that there are look at what goes through them. (PyTorch's own function goes on to say
    so when one with always_call=True was removed.)"""
    of = torch.nn.modules.module
    return bool(
        of._global_forward_hooks
        or of._global_forward_pre_hooks
        or of._global_backward_hooks
        or of._global_backward_pre_hooks
    )


def has_hooks(module: torch.nn.Module) -> bool:
    """Whether somebody looks at what goes into a module, or comes out."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def is_compiled(module: torch.nn.Module) -> bool:
    """Whether a call of a module is one of what torch.compile made of it."""
    return type(module).__name__ == "OptimizedModule" or getattr(module, "_compiled_call_impl", None) is not None


def is_taken_apart() -> bool:
    """Whether the method that asks is called by ``torch.utils.checkpoint.checkpoint_sequential``, which calls the layers
    of an nn.Sequential by itself."""
    return sys._getframe(2).f_code is torch.utils.checkpoint.checkpoint_sequential.__code__


def is_of_a_transform(x: torch.Tensor) -> bool:
    """Whether `x` is a tensor of a torch.func transform, with which nothing can be done outside of it."""
    return not is_compiling() and torch._C._functorch.is_functorch_wrapped_tensor(x)


def is_exporting() -> bool:
    """Whether a graph for ONNX or TorchScript is made, which knows no operator of ours."""
    return torch.jit.is_tracing() or (is_compiling() and torch.onnx.is_in_onnx_export())


def is_dispatched() -> bool:
    """The same, for modes in Python alone."""
    return _get_current_dispatch_mode() is not None


def is_autocast(x: torch.Tensor) -> bool:
    """Whether autocast is on for the device of `x`; PyTorch fails on a device that does not have it."""
    return not x.is_meta and torch.is_autocast_enabled(x.device.type)


def is_capturing(x: torch.Tensor) -> bool:
    """Whether operations on `x` go into a CUDA graph, so that its values cannot be looked at."""
    return x.is_cuda and torch.cuda.is_current_stream_capturing()


def is_zero_tensor(x: torch.Tensor) -> bool:
    """Whether `x` is a zero of forward-mode differentiation, without memory behind it."""
    return x._is_zerotensor()


def constant_for_compiler(function: _Function) -> _Function:
    """Tell torch.compile to call `function` while it traces and to take the result for a constant, as
    ``torch.compiler.assume_constant_result`` does, which would import all of the compiler."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@contextmanager
def functions_watched(watch: Callable[..., Any]) -> Iterator[None]:
    """Inside, ``Function.apply(*args)`` of any function of autograd is ``watch(Function, apply, args, kwargs)``. (Function
    modes of PyTorch see what its forward does, and not that its gradient is another.)"""
    base = torch.autograd.Function
    original = base.__dict__["apply"]

    def apply(cls, *args, **kwargs):
        return watch(cls, original.__get__(None, cls), args, kwargs)

    base.apply = classmethod(apply)
    try:
        yield
    finally:
        base.apply = original


def version(x: torch.Tensor) -> int:
    """How often `x` was written to; 0 for an inference tensor, which does not count."""
    return 0 if x.is_inference() else x._version


def is_view(x: torch.Tensor) -> bool:
    """Whether autograd takes `x` for a part of another tensor."""
    return x._is_view()


def viewed(x: torch.Tensor) -> torch.Tensor:
    """The tensor that `x` is a view of; `x` itself where it is none."""
    return x if x._base is None else x._base


def is_freed(node: Any) -> bool:
    """Whether a backward pass has freed what `node` of autograd keeps to be gone through again."""
    for name in dir(node):
        if name.startswith("_saved_") or name == "saved_tensors":
            try:
                getattr(node, name)
            except RuntimeError as error:
                if "second time" in str(error):
                    return True
    return False


def new_library(name: str) -> torch.library.Library:
    """A library of operators `name`. One that an earlier run of the calling module has made, before importlib.reload or
    %autoreload, goes first: PyTorch defines no operator twice. It is held where no reload looks, in torch.ops."""
    held = vars(getattr(torch.ops, name))
    previous = held.get("_library")
    if previous is not None:
        previous._destroy()
    held["_library"] = torch.library.Library(name, "FRAGMENT")
    return held["_library"]
