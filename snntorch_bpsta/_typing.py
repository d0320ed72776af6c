"""The types that signatures share. For type checkers: nothing here is imported at run time."""

import os
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, TypeAlias, TypedDict

import numpy as np
from torch import Tensor
from torch.nn import AvgPool2d, MaxPool2d

AnyPath: TypeAlias = str | os.PathLike[str]
Batch: TypeAlias = tuple[Tensor, Tensor]
Events: TypeAlias = np.ndarray | Mapping[str, np.ndarray]
ImplName: TypeAlias = Literal["auto", "reference", "cpu", "triton"]
Leg: TypeAlias = tuple[float, float, tuple[float, float], tuple[float, float], float, float]
Number: TypeAlias = float | Tensor
Reset: TypeAlias = Literal["subtract", "zero", "none"]
Result: TypeAlias = dict[str, Any]
Save: TypeAlias = Literal["float32", "bfloat16", "compact"]
State: TypeAlias = Tensor | None
StepOutput: TypeAlias = Tensor | tuple[Tensor, ...]
SpikeGrad: TypeAlias = Callable[[Tensor], Tensor]
WarmUp: TypeAlias = Literal["identity", "surrogate"]


class Adjustment(Protocol):
    """What ``surrogate.spatial_adjustment`` returns."""

    threshold: Any
    leak: float

    def __call__(self, x: Tensor) -> Tensor: ...


SpatialAdj: TypeAlias = bool | Adjustment


class HostArguments(TypedDict, total=False):
    """What every neuron of snnTorch takes, and our options."""

    beta: Number
    threshold: Number
    spike_grad: SpikeGrad | None
    surrogate_disable: bool
    init_hidden: bool
    inhibition: bool
    learn_beta: bool
    learn_threshold: bool
    reset_mechanism: Reset
    state_quant: Callable[[Tensor], Tensor] | Literal[False]
    output: bool
    spatial_adj: SpatialAdj
    temporal_alpha: float
    warm_up: WarmUp | None
    inplace: bool
    save: Save | None


class SequenceOptions(TypedDict, total=False):
    """What ``sequence`` of every neuron takes by name."""

    impl: ImplName
    relu: bool
    num_steps: int | None
    inplace: bool
    record: tuple[str, ...]
    pool: MaxPool2d | AvgPool2d | None


class LeakyArguments(HostArguments, total=False):
    graded_spikes_factor: Number
    learn_graded_spikes_factor: bool
    reset_delay: bool


class LapicqueArguments(HostArguments, total=False):
    R: Number | Literal[False]
    C: Number | Literal[False]
    time_step: Number


class SynapticArguments(HostArguments, total=False):
    alpha: Number
    learn_alpha: bool
    reset_delay: bool


class RLeakyArguments(HostArguments, total=False):
    V: Number
    all_to_all: bool
    linear_features: int | None
    conv2d_channels: int | None
    kernel_size: int | tuple[int, int] | None
    learn_recurrent: bool
    reset_delay: bool


class RSynapticArguments(RLeakyArguments, total=False):
    alpha: Number
    learn_alpha: bool


class AlphaArguments(HostArguments, total=False):
    alpha: Number
    learn_alpha: bool


class NetworkArguments(LeakyArguments, total=False):
    """What ``networks.build`` takes by name, the arguments of its neurons among it."""

    num_steps: int
    width: float
    readout: Literal["spikes", "current"]
    dropout: float
    relu: bool
    fold: bool
    output_spike_grad: SpikeGrad | None
