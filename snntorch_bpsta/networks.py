"""The networks of Table 1: their rows in the paper's own notation, and one builder."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from torch import nn

from ._checks import (
    FLOATING,
    check_choice,
    check_flags,
    check_instance,
    check_module,
    check_number,
    check_positive_int,
    check_surrogate,
    check_tensor,
)
from .layers import ConvBlock, DirectEncoding, MultiStep, NeuronDropout, Voting
from .neurons import WARM_UPS, Adjusted, Leaky

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import Unpack

    from ._typing import LeakyArguments, NetworkArguments, SpikeGrad, StepOutput, WarmUp

__all__ = ["NETWORKS", "NEURONS", "READOUTS", "SpikingNetwork", "build", "large", "middle", "set_warm_up", "small"]

# 128C3 = Conv 3x3 -> BatchNorm -> ReLU -> LIF; 4096FC = Linear -> ReLU -> LIF; MP/AP = max/average pooling;
# DP = neuron dropout; 10Voting = Linear to 10 output neurons per class -> LIF -> mean over the ten.
NETWORKS = {
    "paper": {
        "small": "128C3-MP2-128C3-256C3-MP2-4096FC-DP-10Voting",
        "middle": "128C3-MP2-128C3-MP2-256C3-MP2-512C3-AP4-512FC-10Voting",
        "large": "128C3-128C3-AP2-128C3-AP2-256C3-AP2-512C3-AP2-1024C3-AP4-DP-1024FC-10Voting",
    },
    # The released code, https://github.com/Brain-Cog-Lab/BP-STA (networks.py). Its small network does not run as it
    # lies there (a 2,048-wide layer feeds a 4,096-wide one); 4,096 is Table 1's. It has two middle networks.
    "official_code": {
        "small": "128C3-MP2-128C3-256C3-AP2-4096FC-DP-10Voting",
        "middle": "128C3-128C3-MP2-128C3-MP2-256C3-MP2-512C3-AP4-10Voting",
        "middle_events": "128C3-MP2-128C3-MP2-256C3-AP2-512C3-AP4-DP-10Voting",
        "large": "128C3-128C3-MP2-128C3-MP2-256C3-MP2-512C3-AP2-1024C3-AP4-DP-10Voting",
    },
}
# The neuron of each preset. The released code also fires at u >= threshold and takes batch statistics per step.
NEURONS = {
    "paper": {"beta": 0.9, "threshold": 0.5, "reset_mechanism": "zero", "spatial_adj": True, "temporal_alpha": 0.8},
    "official_code": {
        "beta": 0.9, "threshold": 0.5, "reset_mechanism": "zero", "spatial_adj": True, "temporal_alpha": 0.2,
    },
}  # fmt: skip
READOUTS = ("spikes", "current")


class SpikingNetwork(MultiStep):
    """A network of Table 1: images or event frames to class scores at every step.

    Shape:
        - images ``[B, C, H, W]``: direct encoding, the image is the current at every step.
        - event frames ``[T, B, C, H, W]``.
        - output ``[T, B, num_classes]``: with ``readout="spikes"`` the mean of each class's ten output spikes, with
          ``"current"`` the mean of their currents (no output neuron). The mean over T is the paper's y (Eq. 5) and the
          score to classify by. ``T = 1`` for images while the "identity" warm-up is on.
    """

    def __init__(
        self,
        layers: list[nn.Module] | tuple[nn.Module, ...],
        *,
        notation: str,
        input_shape: tuple[int, int, int],
        num_classes: int,
        readout: str,
        fold: bool,
    ) -> None:
        check_instance("layers", layers, (list, tuple), "a list of modules")
        check_instance("notation", notation, str, "a string")
        _check_input_shape(input_shape)
        check_positive_int("num_classes", num_classes)
        check_choice("readout", readout, READOUTS)
        super().__init__(*layers, fold=fold)
        self.notation = notation
        self.input_shape = tuple(input_shape)
        self.num_classes = num_classes
        self.readout = readout

    def forward(self, input_: Tensor) -> StepOutput:
        check_tensor("input_", input_, 0, "[B, C, H, W] or [T, B, C, H, W]", FLOATING)
        frames = input_.dim() == 5
        if input_.dim() == 4:
            input_ = input_.unsqueeze(0)
        if input_.dim() != 5 or input_.shape[2:] != self.input_shape:
            expected = ", ".join(map(str, self.input_shape))
            raise ValueError(
                f"input_: expected images [B, {expected}] or event frames [T, B, {expected}], got {tuple(input_.shape)}"
            )
        if input_.shape[0] == 0:
            raise ValueError(f"input_ must hold at least one time step, got shape {tuple(input_.shape)}")
        if frames:  # they bring their own T, also where that is 1
            return self._run(input_, without=DirectEncoding)
        return super().forward(input_)


def set_warm_up(net: nn.Module, warm_up: WarmUp | None) -> None:
    """Set ``warm_up`` on our neurons in `net`, of all six classes, and on direct encoding, which need not repeat while there
    are none.

    Args:
        net: any module.
        warm_up: None, "identity" or "surrogate"; see :class:`~snntorch_bpsta.Leaky`.

    Raises:
        ValueError: another value.
        TypeError: `net` is no module.
    """
    check_module("net", net)
    check_choice("warm_up", warm_up, WARM_UPS)
    for module in net.modules():
        if isinstance(module, (Adjusted, DirectEncoding)):
            module.warm_up = warm_up


def build(
    notation: str,
    input_shape: tuple[int, int, int],
    num_classes: int = 10,
    *,
    num_steps: int = 16,
    width: float = 1.0,
    readout: str = "spikes",
    dropout: float = 0.5,
    relu: bool = True,
    fold: bool = True,
    output_spike_grad: SpikeGrad | None = None,
    **neuron: Unpack[LeakyArguments],
) -> SpikingNetwork:
    """Build a network from the paper's notation.

    Args:
        notation: for example ``"128C3-MP2-4096FC-DP-10Voting"``; see ``NETWORKS``.
        input_shape: (C, H, W) of an image or of one event frame.
        num_classes: number of classes.
        num_steps: T for static images; event frames bring their own.
        width: factor on the number of channels and features.
        readout: "spikes" (the paper: output neurons vote) or "current" (the output layer has no neuron; its current is
            averaged over T and voters, so that the output cannot fall silent).
        dropout: probability of ``DP``.
        relu: rectify the currents of hidden neurons, as the paper does.
        fold: batch statistics over T*B (True) or per step (False); see :class:`~snntorch_bpsta.MultiStep`.
        output_spike_grad: the surrogate of the output neurons, in place of Eq. 9 or of the hidden neurons' one. Under Eq. 9
            an output neuron that has fallen silent gets no gradient any more, and its class is lost; under a surrogate
            it does.
        **neuron: arguments of :class:`~snntorch_bpsta.Leaky`.

    Returns:
        SpikingNetwork

    Raises:
        ValueError: an unknown token, an input that is too small for the pooling, a `width` that leaves no channel.
        TypeError: an argument of the wrong type.
    """
    check_instance("notation", notation, str, "a string")
    _check_input_shape(input_shape)
    check_choice("readout", readout, READOUTS)
    check_positive_int("num_classes", num_classes)
    check_positive_int("num_steps", num_steps)
    check_number("width", width, "> 0", above=0)
    check_number("dropout", dropout, "a number in [0, 1]", lowest=0, highest=1)
    check_flags(fold=fold, relu=relu)
    check_surrogate("output_spike_grad", output_spike_grad)
    channels, *size = input_shape
    layers, features = [], None  # features: size of the flattened input once a dense layer has come
    encoding = num_steps  # for the first neuron only

    def flatten():
        if features is None:
            layers.append(nn.Flatten())
            return channels * size[0] * size[1]
        return features

    for token in notation.split("-"):
        number, kind = _parse(token, notation)
        if features is not None and kind in ("C3", "MP", "AP"):
            raise ValueError(f"notation: {token} cannot follow a dense layer in {notation!r}")
        if kind == "C3":
            out_channels = _scaled(number, width)
            layers.append(ConvBlock(channels, out_channels, Leaky(**neuron), num_steps=encoding, relu=relu))
            channels, encoding = out_channels, None
        elif kind in ("MP", "AP"):
            layers.append((nn.MaxPool2d if kind == "MP" else nn.AvgPool2d)(number))
            size = [side // number for side in size]
            if min(size) < 1:
                raise ValueError(
                    f"input_shape {tuple(input_shape)} is too small for {notation}: nothing is left at {token}"
                )
        elif kind == "DP":
            layers.append(NeuronDropout(dropout))
        elif kind == "FC":
            in_features, features = flatten(), _scaled(number, width)
            layers += [
                nn.Linear(in_features, features),
                *([nn.ReLU()] if relu else []),
                *_encode(encoding),
                Leaky(**neuron),
            ]
            encoding = None
        else:  # Voting
            layers.append(nn.Linear(flatten(), number * num_classes))
            features = number * num_classes
            if readout == "spikes":
                if output_spike_grad is not None:
                    neuron = {**neuron, "spatial_adj": False, "spike_grad": output_spike_grad}
                layers += [*_encode(encoding), Leaky(**neuron)]
            layers.append(Voting(number))
    return SpikingNetwork(
        layers, notation=notation, input_shape=input_shape, num_classes=num_classes, readout=readout, fold=fold
    )


def _parse(token, notation):
    match = re.fullmatch(r"([0-9]{1,9})(C3|FC|Voting)|(MP|AP)([0-9]{1,9})|(DP)", token)
    if match is None:
        raise ValueError(
            f"notation: unknown token {token!r} in {notation!r}: expected e.g. 128C3, MP2, AP2, 4096FC, DP or 10Voting"
        )
    number, kind, pool, side, dropout = match.groups()
    if not dropout and int(number or side) < 1:
        raise ValueError(f"notation: the number in {token!r} of {notation!r} must be >= 1")
    return int(number or side or 0), kind or pool or dropout


def _check_input_shape(input_shape):
    check_instance("input_shape", input_shape, (tuple, list), "(C, H, W)")
    if len(input_shape) != 3:
        raise ValueError(f"input_shape must be (C, H, W), got {tuple(input_shape)}")
    for size in input_shape:
        check_positive_int("input_shape", size)


def _scaled(number, width):
    if not 0.5 < number * width < 2**31:
        raise ValueError(f"width={width} leaves {'too many channels' if width > 1 else 'no channel'} of {number}")
    return round(number * width)


def _encode(num_steps):
    return [] if num_steps is None else [DirectEncoding(num_steps)]


def _build_row(name, input_shape, num_classes, preset, options):
    check_choice("preset", preset, tuple(NETWORKS))
    _check_input_shape(input_shape)
    rows = NETWORKS[preset]
    if input_shape[0] == 2:
        name = f"{name}_events" if f"{name}_events" in rows else name
    options.setdefault("fold", preset == "paper")
    return build(rows[name], input_shape, num_classes, **{**NEURONS[preset], **options})


def small(
    input_shape: tuple[int, int, int] = (1, 28, 28),
    num_classes: int = 10,
    *,
    preset: str = "paper",
    **options: Unpack[NetworkArguments],
) -> SpikingNetwork:
    """Table 1's small network (MNIST). Options are those of :func:`build`, and of the neuron.

    The preset "paper" has the paper's network, lambda = 0.9, threshold 0.5 and alpha = 0.8; "official_code" the released
    code's network, alpha = 0.2 and batch statistics per step.

    Example:
        >>> import torch, snntorch_bpsta as snn
        >>> net = snn.networks.small(width=1/8, num_steps=4)
        >>> net(torch.rand(2, 1, 28, 28)).shape
        torch.Size([4, 2, 10])
    """
    return _build_row("small", input_shape, num_classes, preset, options)


def middle(
    input_shape: tuple[int, int, int] = (3, 32, 32),
    num_classes: int = 10,
    *,
    preset: str = "paper",
    **options: Unpack[NetworkArguments],
) -> SpikingNetwork:
    """Table 1's middle network (CIFAR10, N-MNIST); see :func:`small`. The released code has one of its own for each of
    the two data sets; two input channels (events) choose N-MNIST's."""
    return _build_row("middle", input_shape, num_classes, preset, options)


def large(
    input_shape: tuple[int, int, int] = (2, 64, 64),
    num_classes: int = 11,
    *,
    preset: str = "paper",
    **options: Unpack[NetworkArguments],
) -> SpikingNetwork:
    """Table 1's large network (DVS-Gesture, DVS-CIFAR10); see :func:`small`."""
    return _build_row("large", input_shape, num_classes, preset, options)
