"""Checks at the door. Every message says what was expected and what came, and what to do."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from numbers import Real
from types import FunctionType
from typing import Any
from warnings import warn

import numpy as np
import torch

from ._torch import is_capturing, is_compiling, is_transforming

FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
REAL = (*FLOATING, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
NUMBER = (int, float)  # of a row, for check_rows
_FLOAT32_MAX = torch.finfo(torch.float32).max
_FLAGS = ("surrogate_disable", "init_hidden", "inhibition", "output", "reset_delay", "all_to_all", "state_quant")
_TAKES = dict.fromkeys(("spatial_adjustment", "SpatialAdjustment"), "threshold") | {"custom_surrogate": "function"}
_SURROGATES = ("snntorch.surrogate", f"{__package__}.surrogate")


def _described(tensor):
    """What sets a tensor apart from the usual one, for a message."""
    return f"{tensor.dtype}" if tensor.layout is torch.strided else f"{tensor.dtype}, {tensor.layout}"


def _check_dense(name, value):
    """Refuse nested and sparse tensors, with what makes dense ones of them."""
    if value.is_nested:
        raise TypeError(
            f"{name} must be a dense tensor, got a nested one: use torch.nested.to_padded_tensor({name}, 0.0)"
        )
    if value.layout is not torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got {_described(value)}: use {name}.to_dense()")


def check_temporal_alpha(alpha: Any, reset_mechanism: str = "zero", reset_delay: bool = True) -> float:
    """Return `alpha` as a float in [-1, 1]; refuse it where the reset path it mends does not exist."""
    if isinstance(alpha, bool) or not isinstance(alpha, Real):
        raise TypeError(f"temporal_alpha must be a number in [-1, 1], got {type(alpha).__name__}")
    if not -1 <= alpha <= 1:  # type: ignore[operator]  # typeshed does not compare a Real
        raise ValueError(f"temporal_alpha must be a finite number in [-1, 1], got {alpha}")
    if alpha and reset_mechanism == "none":
        raise ValueError(
            "temporal_alpha carries the error across the reset, and reset_mechanism='none' has no reset: "
            "use reset_mechanism='zero' (the paper) or 'subtract', or temporal_alpha=0"
        )
    if alpha and not reset_delay:
        raise ValueError(
            "temporal_alpha needs reset_delay=True: with reset_delay=False the host resets within the step and its "
            "gradients are not those of the paper; drop reset_delay=False or set temporal_alpha=0"
        )
    return float(alpha)


def check_flags(**flags: Any) -> None:
    """Refuse what is neither True nor False."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, got {type(value).__name__}")


def check_number(
    name: str, value: Any, expected: str, lowest: float = -math.inf, highest: float = math.inf, above: float = -math.inf
) -> float:
    """Return `value` as a float; refuse what is no finite number, or one out of range."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be {expected}, got {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not (math.isfinite(number) and lowest <= number <= highest and number > above):
        raise ValueError(f"{name} must be {expected}, got {value}")
    return number


def as_parameter(name: str, value: Any, device: torch.device | None = None) -> torch.Tensor:
    """`value`, a parameter of a neuron (beta, threshold, ...), as a tensor; refuse what is no real number or numbers."""
    if not isinstance(value, torch.Tensor):
        try:
            # A number is filled in on the device, which a copy would wait for, unless float32 rounds it to infinity.
            if type(value) in (bool, int, float) and not _FLOAT32_MAX < abs(value) < math.inf:
                tensor = torch.full((), value, device=device)
            else:
                tensor = torch.as_tensor(value, device=device)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise TypeError(f"{name} must be a number or a tensor, got {type(value).__name__}") from error
    else:
        tensor = value
    if tensor.dtype not in REAL or tensor.layout is not torch.strided:
        raise TypeError(f"{name} must be a real number or a dense tensor of them, got {_described(tensor)}")
    return tensor


def warn_not_finite(neuron: str, name: str, value: Any) -> None:
    """Tell that a parameter of a `neuron` is, or holds, NaN or an infinity, which the host takes without a word."""
    value = as_parameter(name, value)
    if is_compiling() or is_transforming() or value.is_meta or not value.is_floating_point() or value.isfinite().all():
        return
    what = "NaN" if value.isnan().any() else "infinite"
    todo = "; for one that never fires take threshold=1e9" if name == "threshold" and what != "NaN" else ""
    warn(
        f"{name} of {neuron} is {what}, expected finite numbers: such a neuron computes NaN, or never fires. Look where the "
        f"value comes from{todo}",
        stacklevel=4,
    )


def check_surrogate(name: str, spike_grad: Any) -> None:
    """Refuse a surrogate that is neither None nor a function, and what makes surrogates in place of one."""
    if spike_grad is not None and not callable(spike_grad):
        raise TypeError(f"{name} must be a function of mem - threshold or None, got {type(spike_grad).__name__}")
    maker = spike_grad.func if isinstance(spike_grad, partial) else spike_grad
    if isinstance(maker, type) and issubclass(maker, torch.autograd.Function):
        raise TypeError(f"{name} must be a function of mem - threshold, got the class {maker.__name__}: use its .apply")
    if isinstance(maker, type) or (isinstance(maker, FunctionType) and _makes_surrogates(maker)):
        given = _TAKES.get(maker.__name__, "") if maker is spike_grad else "..."
        raise TypeError(
            f"{name} must be a function of mem - threshold, got {maker.__name__}, which makes one: call it, "
            f"{name}={maker.__name__}({given})"
        )


def _makes_surrogates(function):
    """Whether it is one of the functions of a module `surrogate`, the host's or ours, that return a surrogate."""
    return function.__module__ in _SURROGATES and "." not in function.__qualname__


def check_fired(spk: Any) -> None:
    """Refuse what a surrogate returned, if that is no tensor of spikes."""
    if not isinstance(spk, torch.Tensor):
        made = ": if that makes the surrogate, call it first, spike_grad=NAME()" if callable(spk) else ""
        raise TypeError(f"spike_grad must return spikes, a tensor, for mem - threshold, got {type(spk).__name__}{made}")


def check_host_options(given: Mapping[str, Any]) -> None:
    """Refuse, of the host's arguments of a neuron (numbers aside), what it fails on in words of Python's or too late."""
    check_surrogate("spike_grad", given["spike_grad"])
    check_choice("reset_mechanism", given["reset_mechanism"], ("subtract", "zero", "none"))
    for name in ("linear_features", "conv2d_channels"):
        if given.get(name) is not None:
            check_positive_int(name, given[name])
    kernel_size = given.get("kernel_size")
    for size in kernel_size if isinstance(kernel_size, (tuple, list)) and len(kernel_size) == 2 else [kernel_size]:
        if size is not None:
            check_positive_int("kernel_size", size)
    for name, value in given.items():
        if name == "state_quant" and callable(value):
            continue
        if name in _FLAGS or name.startswith("learn_"):
            if not isinstance(value, (bool, int, np.bool_, type(None))):
                expected = "a function or False" if name == "state_quant" else "True or False"
                raise TypeError(f"{name} must be {expected}, got {type(value).__name__}")


def check_threshold_positive(threshold: Any, name: str = "threshold") -> None:
    """Refuse a threshold (number or tensor) that is not > 0 everywhere: 1/u needs u > threshold > 0. No look at values
    while a CUDA graph is captured, or traced, or on the device "meta": there are none yet."""
    lowest = threshold
    if isinstance(threshold, bool) or not isinstance(threshold, Real):
        threshold = as_parameter(name, threshold)
        if (
            is_compiling()
            or is_transforming()
            or threshold.is_meta
            or threshold.numel() == 0
            or is_capturing(threshold)
        ):
            return
        lowest = (threshold.detach().min() if threshold.dim() else threshold).item()
    if not lowest > 0:
        raise ValueError(
            f"spatial_adj needs {name} > 0, since its gradient is 1/u for a membrane u above {name}; got {lowest:g}. "
            f"Use a positive {name}; if a learnable one drifted here, clamp it after optimizer.step() or lower its "
            "learning rate"
        )


def check_learnable(name: str, value: Any, learn: Any, flag: str | None = None) -> None:
    """Refuse to learn an integer or boolean `value`, which cannot carry a gradient."""
    if learn and (isinstance(value, bool) or not as_parameter(name, value).is_floating_point()):
        if isinstance(value, torch.Tensor):
            got, instead = value.dtype, f"{name}.float()"
        else:
            got, instead = repr(value), f"{float(value)}" if isinstance(value, Real) else "floats"
        raise ValueError(f"{flag or f'learn_{name}'}=True needs a floating-point {name}, got {got}: use {instead}")


def check_tensor(
    name: str, value: Any, num_dims: int, expected: str, dtypes: tuple[torch.dtype, ...] | None = None
) -> None:
    """Refuse what is no tensor of at least `num_dims` dimensions (`expected` names them), or not one of these dtypes."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} must be a tensor of shape {expected}, got {type(value).__name__}")
    # torch.compile of some versions (2.13) does not let a backward pass look at the layout
    dense = is_compiling() or value.layout is torch.strided
    if not dense or (dtypes is not None and value.dtype not in dtypes):
        kind = "floating-point " if dtypes == FLOATING else "real " if dtypes == REAL else ""
        raise TypeError(f"{name} must be a dense {kind}tensor, got {_described(value)}")
    if value.dim() < num_dims:
        raise ValueError(f"{name} must have shape {expected}, got {tuple(value.shape)}")


def check_current(input_: Any, num_dims: int, expected: str) -> None:
    """Refuse an input current that is no floating-point tensor of at least `num_dims` dimensions (`expected` names them);
    with autograd's anomaly detection on, also one that holds NaN."""
    if not isinstance(input_, torch.Tensor):
        raise TypeError(f"input_ must be a tensor of shape {expected}, got {type(input_).__name__}")
    if input_.dtype not in FLOATING or input_.layout is not torch.strided or input_.is_nested:
        _check_dense("input_", input_)
        raise TypeError(
            f"input_ must be a dense floating-point tensor (a current), got {_described(input_)}; use input_.float()"
        )
    if input_.dim() < num_dims:
        raise ValueError(f"input_ must have shape {expected}, got {tuple(input_.shape)}")
    if not is_compiling() and torch.is_anomaly_enabled() and input_.isnan().any():
        raise ValueError(
            f"input_ holds {int(input_.isnan().sum())} NaN (checked because torch.autograd.set_detect_anomaly is on): "
            "look for a diverged weight or a division by zero in the layer before the neuron"
        )


def check_sample(input_: torch.Tensor, shape: tuple[int, ...] | None, order: str) -> None:
    """Refuse an input whose samples at a step are not of this `shape`."""
    if shape is None or input_.shape[2:] == shape:
        return
    advice = ""
    if input_.shape[1:] == shape:
        advice = ": there is no dimension of time; stack the steps, or input_.unsqueeze(0) for one step"
    raise ValueError(f"input_ must be {order} with * = {shape}, got shape {tuple(input_.shape)}{advice}")


def check_some_steps(input_: torch.Tensor, time: int = 0, name: str = "input_") -> None:
    """Refuse an input without a step in its dimension `time`."""
    if input_.shape[time] == 0:
        raise ValueError(f"{name} must hold at least one time step, got shape {tuple(input_.shape)}")


def check_broadcast(name: str, value: torch.Tensor, shape: Sequence[int]) -> None:
    """Refuse a `value` (beta, threshold, ...) that does not broadcast to the shape of one step, ``[B, *]``."""
    own = value.shape
    if len(own) > len(shape) or any(a not in (1, b) for a, b in zip(own, shape[len(shape) - len(own) :], strict=True)):
        message = f"{name} of shape {tuple(value.shape)} does not broadcast to one step of the input, {tuple(shape)}"
        if value.dim() == 1 and len(shape) > 2 and value.shape[0] == shape[1]:
            per_channel = (value.shape[0],) + (1,) * (len(shape) - 2)
            message += f"; for one {name} per channel give it the shape {per_channel}"
        raise ValueError(message)


def check_state(name: str, state: Any, shape: Sequence[int]) -> None:
    """Refuse an initial state that is no real tensor of the shape of one step."""
    if not isinstance(state, torch.Tensor):
        raise TypeError(f"{name} must be a tensor of shape {tuple(shape)} or None, got {type(state).__name__}")
    if state.dtype not in REAL or state.layout is not torch.strided:
        raise TypeError(f"{name} must be a dense tensor of real numbers, got {_described(state)}")
    if state.shape != torch.Size(shape):
        raise ValueError(
            f"{name} must have the shape of one step of the input, {tuple(shape)}, got {tuple(state.shape)}"
        )


def check_device(name: str, value: torch.Tensor, device: torch.device, of: str = "input_") -> None:
    """Refuse a `value` on another device than the input's, unless it is one number."""
    if value.device != device and (value.dim() or value.is_meta):
        raise ValueError(f"{name} must be on the device of {of}, {device}, got {value.device}")


def check_instance(name: str, value: Any, kind: Any, expected: str) -> None:
    """Refuse a `value` that is not of this kind."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {expected}, got {type(value).__name__}")


def check_module(name: str, module: Any) -> None:
    """Refuse what is no module of PyTorch."""
    check_instance(name, module, torch.nn.Module, "a torch.nn.Module")


def check_path(name: str, value: Any) -> None:
    """Refuse what is no path."""
    check_instance(name, value, (str, os.PathLike), "a path")
    if "\0" in str(value):
        raise ValueError(f"{name} must be a path, got {value!r}")


def check_rows(name: str, rows: Any, columns: Mapping[str, tuple[type, ...]]) -> None:
    """Refuse what is no list of dicts that have these columns, with values of these types (bool is no int)."""
    check_instance(name, rows, (list, tuple), "a list of rows (dicts)")
    for i, row in enumerate(rows):
        check_instance(f"{name}[{i}]", row, dict, "a row (dict)")
        for column, types in columns.items():
            if column not in row:
                raise ValueError(f"{name}[{i}] must have {column!r}, got {', '.join(map(repr, row)) or 'nothing'}")
            value = row[column]
            if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
                expected = " or ".join(kind.__name__ for kind in types)
                raise TypeError(f"{column!r} of {name}[{i}] must be of type {expected}, got {type(value).__name__}")
            if isinstance(value, int) and abs(value) >= 2**63:
                raise ValueError(f"{column!r} of {name}[{i}] must be below 2**63, got {value}")


def as_array(name: str, value: Any) -> np.ndarray:
    """`value` as a numpy array; refuse what numpy makes none of."""
    if isinstance(value, torch.Tensor):
        if value.layout is not torch.strided or value.is_meta or value.dtype not in (*REAL, torch.bool):
            raise TypeError(f"{name} must be an array or a dense tensor of real numbers, got {_described(value)}")
        value = value.detach().cpu().resolve_neg()
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TypeError(f"{name} must be an array, got {type(value).__name__} ({error})") from error


def as_events(events: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """x, y, p and t of `events`, a structured array or a dict of arrays, of one length."""
    names = (
        events.dtype.names or () if isinstance(events, np.ndarray) else events if isinstance(events, Mapping) else ()
    )
    if not all(field in names for field in "xypt"):
        got = ", ".join(map(str, names)) or type(events).__name__
        raise ValueError(
            f"events must be a structured array or a dict of arrays with the fields x, y, p and t, got {got}"
        )
    x, y, p, t = (as_array(f"{field} of events", events[field]) for field in "xypt")
    if not x.ndim == y.ndim == p.ndim == t.ndim == 1 or not len(x) == len(y) == len(p) == len(t):
        shapes = ", ".join(f"{field} {a.shape}" for field, a in zip("xypt", (x, y, p, t), strict=True))
        raise ValueError(f"expected x, y, p and t of one length [N], got {shapes} in events")
    return x, y, p, t


def check_choice(name: str, value: Any, choices: Collection[Any]) -> None:
    """Refuse a `value` outside `choices`."""
    # Tensors and arrays are compared element by element.
    if not (value is None or isinstance(value, (str, int))) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}")


def check_int(name: str, value: Any, lowest: int, beyond: int = 2**63) -> None:
    """Refuse a `value` that is no integer in this range."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer >= {lowest}, got {type(value).__name__}")
    if not lowest <= value < beyond:
        upper = "" if value < lowest else f" and < {beyond}"
        raise ValueError(f"{name} must be an integer >= {lowest}{upper}, got {value}")


def check_positive_int(name: str, value: Any) -> None:
    """Refuse a `value` that is no integer >= 1."""
    check_int(name, value, 1)
