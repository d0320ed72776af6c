"""Recipes as data. A recipe is everything that decides a result, apart from the seed and the machine."""

import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from numbers import Real
from typing import Any

import torch

from .. import networks
from .._checks import check_choice, check_instance, check_temporal_alpha
from ..data import DATASETS, DatasetSpec, folders
from ..surrogate import atan, rectangle, spatial_adjustment
from .losses import rate_cross_entropy_loss, rate_mse_loss

__all__ = ["RECIPES", "VARIANTS", "Recipe"]

# The rows of every comparison. "baseline" is STBP: the rectangular surrogate, plain backpropagation through time. "bpta" is
# the temporal adjustment alone, which the paper does not show; "bpsa-hidden" is Eq. 9 in the hidden layers under an output
# that cannot die, "bpsa+leak" Eq. 9 that lets a little through below the threshold, "atan" snnTorch's own surrogate.
VARIANTS: dict[str, dict[str, Any]] = {
    name: {
        "spatial_adj": spatial_adj, "spatial_leak": leak, "temporal_alpha": alpha, "output_spike_grad": output,
        "surrogate": surrogate,
    }
    for name, spatial_adj, leak, alpha, output, surrogate in (
        ("baseline", False, 0.0, 0.0, "same", "rectangle"),
        ("bpsa", True, 0.0, 0.0, "same", "rectangle"),
        ("bpsa+bpta", True, 0.0, 0.8, "same", "rectangle"),
        ("bpta", False, 0.0, 0.8, "same", "rectangle"),
        ("bpsa-hidden", True, 0.0, 0.0, "rectangle", "rectangle"),
        ("bpsa+leak", True, 0.1, 0.0, "same", "rectangle"),
        ("atan", False, 0.0, 0.0, "same", "atan"),
    )
}  # fmt: skip
COMPARED = ("baseline", "bpsa", "bpsa+bpta")  # those of Table 8

# (padding of the random crop, horizontal flip, rotation in degrees) of the released code, at our frame sizes.
AUGMENTATIONS = {
    "mnist": (2, False, 0),  # ours: the released code has none there
    "cifar10": (4, True, 0),
    "nmnist": (4, False, 10),
    "dvs_gesture": (8, False, 5),
    "cifar10_dvs": (8, True, 15),
}
_POSITIVE = ("width", "num_steps", "epochs", "batch_size")
_OF_FOLDER = ("sensor_size", "num_classes")


def _option(default, help, choices=None):
    return field(default=default, metadata={"help": help, "choices": choices})


@dataclass(frozen=True)
class Recipe:
    """One training recipe. The defaults are the paper's, or where it is silent the released code's.

    Raises:
        ValueError, TypeError: a field out of range; the message names it.
    """

    dataset: str = _option("digits", "data set", (*DATASETS, folders.NAME))
    network: str = _option("small", "network of Table 1 (small, middle, large), or a notation (128FC-10Voting)")
    preset: str = _option("paper", "the paper's network or its released code's", tuple(networks.NETWORKS))
    width: float = _option(1.0, "factor on the number of channels and features")
    readout: str = _option("spikes", "output neurons vote (paper), or their current is averaged", networks.READOUTS)
    num_steps: int = _option(16, "time steps T")
    beta: float = _option(0.9, "leak lambda of the neurons, from 0 to 1")
    spatial_adj: bool = _option(True, "BPSA (Eq. 9); without it the surrogate")
    surrogate: str = _option(
        "rectangle", "surrogate of the neurons without BPSA: STBP's, or snnTorch's own", ("rectangle", "atan")
    )
    spatial_leak: float = _option(0.0, "Eq. 9's leak below the threshold, 0 (the paper) is none")
    temporal_alpha: float = _option(0.8, "BPTA's alpha (Eq. 10), 0 is off, below 0 is ours")
    output_spike_grad: str = _option(
        "same", "surrogate of the output neurons: the hidden ones', or STBP's rectangle", ("same", "rectangle")
    )
    rate_penalty: float = _option(0.0, "weight in the loss of the hidden neurons' mean firing rate, after the warm-up")
    penalty_on: str = _option(
        "neurons",
        "what that mean counts: each neuron, or each by the accumulates that its spike costs",
        ("neurons", "accumulates"),
    )
    warm_up: str = _option(
        "none", "first epochs without neurons, or with a logistic surrogate", ("none", "identity", "surrogate")
    )
    warm_up_epochs: int = _option(0, "how many epochs that lasts")
    epochs: int = _option(300, "training epochs")
    batch_size: int = _option(64, "samples per process and step")
    lr: float = _option(1e-3, "AdamW's peak learning rate")
    weight_decay: float = _option(1e-4, "AdamW's weight decay")
    schedule: str = _option("cosine", "learning rate after its warm-up: one cosine, or SGDR", ("cosine", "sgdr"))
    lr_warm_up_epochs: int = _option(5, "epochs of linear learning-rate warm-up")
    loss: str = _option("mse", "squared error of the firing rates (Eq. 5), or cross entropy", ("mse", "cross_entropy"))
    relu: bool = _option(True, "rectify the currents of hidden neurons (the paper)")
    dropout: float = _option(0.5, "probability of neuron dropout")
    augment: bool = _option(False, "the released code's augmentation of the data set")
    limit: int = _option(0, "train on this many samples, a fixed stratified subset; 0 for all")
    test_limit: int = _option(0, "the same for the test samples")
    sensor_size: str = _option("", "of the camera of your own recordings (data set folder), HxW in pixels: 34x34")
    frame_size: str = _option("", "of the frames of recordings, HxW; default: the data set's, of your own the sensor's")
    num_classes: int = _option(0, "of your own recordings; default: the folders are counted")

    def __post_init__(self) -> None:
        for option in fields(self):
            name, value = option.name, getattr(self, option.name)
            if option.metadata["choices"]:
                check_choice(name, value, option.metadata["choices"])
            elif name == "network":
                check_instance(name, value, str, "the name of a network")
                if value[:1].isdigit():
                    for token in value.split("-"):
                        networks._parse(token, value)
                else:
                    check_choice(name, value, tuple(networks.NETWORKS["paper"]))
            elif option.type is bool:
                if not isinstance(value, bool):
                    raise TypeError(f"{name} must be True or False, got {value!r}")
            elif option.type is str:
                check_instance(name, value, str, "HxW, such as '34x34'")
                if value and not re.fullmatch(r"[1-9]\d{0,3}x[1-9]\d{0,3}", value):
                    raise ValueError(f"{name} must be HxW in pixels, such as '34x34', got {value!r}")
            else:
                if name == "temporal_alpha":  # either sign
                    check_temporal_alpha(value)
                    continue
                whole, positive = option.type is int, name in _POSITIVE
                expected = (
                    f"an integer >= {int(positive)}" if whole else f"a finite number {'>' if positive else '>='} 0"
                )
                if isinstance(value, bool) or not isinstance(value, int if whole else Real):
                    raise TypeError(f"{name} must be {expected}, got {value!r}")
                if not math.isfinite(value) or value < 0 or (positive and value == 0):
                    raise ValueError(f"{name} must be {expected}, got {value!r}")
        if self.spatial_leak and not self.spatial_adj:
            raise ValueError(
                f"spatial_leak is that of Eq. 9, got {self.spatial_leak} with spatial_adj=False: set it to 0"
            )
        for name in _OF_FOLDER if self.dataset != folders.NAME else ():
            if getattr(self, name):
                raise ValueError(
                    f"{name} is of your own recordings, data set {folders.NAME!r}: leave it out for {self.dataset!r}, got "
                    f"{getattr(self, name)!r}"
                )
        if self.frame_size and self.dataset != folders.NAME and DATASETS[self.dataset].kind != "event":
            raise ValueError(
                f"frame_size is that of recordings, got {self.frame_size!r} for the images of {self.dataset!r}"
            )
        if self.penalty_on != "neurons" and not self.rate_penalty:
            raise ValueError(
                f"penalty_on={self.penalty_on!r} is that of a rate_penalty, got rate_penalty=0: set it above 0"
            )
        for name in ("dropout", "beta"):
            if not getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if self.warm_up != "none" and not 1 <= self.warm_up_epochs <= self.epochs:
            raise ValueError(
                f"warm_up={self.warm_up!r} needs warm_up_epochs from 1 to epochs={self.epochs}, got {self.warm_up_epochs}"
            )

    def spec(self) -> DatasetSpec:
        """The row of ``DATASETS`` of its data set; for your own recordings one of that kind.

        Raises:
            ValueError: of your own recordings `sensor_size` or `num_classes` is not given.
        """
        if self.dataset != folders.NAME:
            spec = DATASETS[self.dataset]
            return replace(spec, input_shape=(2, *pixels(self.frame_size))) if self.frame_size else spec
        if not self.sensor_size:
            raise ValueError(
                "your own recordings (data set 'folder') need sensor_size (--sensor-size HxW), the camera's"
            )
        if self.num_classes < 2:
            raise ValueError(f"your own recordings (data set 'folder') need num_classes >= 2, got {self.num_classes}")
        shape = (2, *pixels(self.frame_size or self.sensor_size))
        load = folders.loader(pixels(self.sensor_size))
        return DatasetSpec(folders.NAME, "event", shape, self.num_classes, load, "", folders.WHAT)

    def on(self, dataset: str) -> "Recipe":
        """This recipe on all test samples of another data set of `DATASETS`, in frames of the same size, as they are."""
        check_choice("dataset", dataset, tuple(DATASETS))
        size = self.frame_size if DATASETS[dataset].kind == "event" else ""
        return replace(
            self, dataset=dataset, test_limit=0, sensor_size="", frame_size=size, num_classes=0, augment=False
        )

    def variant(self, name: str) -> "Recipe":
        """This recipe as a row of ``VARIANTS``."""
        check_choice("variant", name, tuple(VARIANTS))
        return replace(self, **VARIANTS[name])

    def variant_name(self) -> str:
        """The row of ``VARIANTS`` that this recipe is; its alpha where it is none of them."""
        own = {name: getattr(self, name) for name in VARIANTS["baseline"]}
        named = (name for name, values in VARIANTS.items() if values == own)
        parts = ["bpsa"] if self.spatial_adj else []
        parts += [f"leak{self.spatial_leak:g}"] if self.spatial_leak else []
        hidden = "-hidden" if self.output_spike_grad != "same" else ""
        return next(named, "+".join([*parts, f"bpta{self.temporal_alpha:g}{hidden}"]))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and checkpoints."""
        return asdict(self)

    def loss_function(self) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """The loss of this recipe, a function of (out_rec, targets)."""
        return {"mse": rate_mse_loss, "cross_entropy": rate_cross_entropy_loss}[self.loss]

    def build_network(self) -> networks.SpikingNetwork:
        """The network of this recipe, with PyTorch's default initialisation; channels last, in which convolutions and
        pooling are faster."""
        dataset = self.spec()
        leaks = spatial_adjustment(leak=self.spatial_leak) if self.spatial_leak else self.spatial_adj
        neuron: dict[str, Any] = {"beta": self.beta, "spatial_adj": leaks, "temporal_alpha": self.temporal_alpha}
        if not self.spatial_adj:
            neuron["spike_grad"] = {"rectangle": rectangle, "atan": atan}[self.surrogate]()
        options: dict[str, Any] = dict(
            width=self.width, readout=self.readout, num_steps=self.num_steps, dropout=self.dropout, relu=self.relu,
            output_spike_grad=None if self.output_spike_grad == "same" else rectangle(),
        )  # fmt: skip
        if self.network in networks.NETWORKS["paper"]:
            build = partial(getattr(networks, self.network), preset=self.preset)
        else:
            build = partial(networks.build, self.network, fold=self.preset == "paper")
            neuron = {**networks.NEURONS[self.preset], **neuron}
        net = build(dataset.input_shape, dataset.num_classes, **options, **neuron)
        return net.to(memory_format=torch.channels_last)


def pixels(text: str) -> tuple[int, int]:
    """``34x34`` as (H, W)."""
    height, width = map(int, text.split("x"))
    return height, width


# One row per data set, at the paper's size, but for the digits that stand in for a download.
RECIPES = {
    "digits": Recipe(dataset="digits", width=1 / 8, num_steps=4, epochs=30, warm_up="identity", warm_up_epochs=6),
    "mnist": Recipe(dataset="mnist", network="small"),
    "cifar10": Recipe(dataset="cifar10", network="middle", batch_size=128, augment=True),
    "nmnist": Recipe(dataset="nmnist", network="middle"),
    "dvs_gesture": Recipe(dataset="dvs_gesture", network="large", batch_size=16, augment=True),
    "cifar10_dvs": Recipe(dataset="cifar10_dvs", network="large", augment=True),
    "digits_simulated": Recipe(
        dataset="digits_simulated",
        network="middle",
        width=1 / 8,
        num_steps=4,
        epochs=20,
        warm_up="identity",
        warm_up_epochs=4,
    ),
    "nmnist_simulated": Recipe(dataset="nmnist_simulated", network="middle"),
    "cifar10_dvs_simulated": Recipe(dataset="cifar10_dvs_simulated", network="large", augment=True),
    folders.NAME: Recipe(dataset=folders.NAME, network="middle"),
}
