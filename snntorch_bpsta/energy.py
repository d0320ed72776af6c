"""Firing rates, operations, and the paper's analytic energy model (Eq. 11). A model, not a measurement of silicon."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import snntorch
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ._checks import check_flags, check_instance, check_module, check_number

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["E_AC_FP32_PJ", "E_AC_PJ", "E_MAC_PJ", "FiringRates", "Operations"]
__all__ += ["count_operations", "energy_ratio", "record_firing_rates"]

# Energy of one operation in 45 nm CMOS at 0.9 V, in picojoule. M. Horowitz, "Computing's energy problem (and what we can
# do about it)", ISSCC 2014: fp32 multiply 3.7 + fp32 add 0.9; int32 add 0.1.
E_MAC_PJ = 4.6
E_AC_PJ = 0.1  # int32 add: reproduces Table 6
E_AC_FP32_PJ = 0.9  # fp32 add: what most later papers use


def energy_ratio(firing_rate: float, num_steps: int, e_ac_pj: float = E_AC_PJ) -> float:
    r"""Eq. 11: how many times less energy the spiking network needs than the artificial one of the same structure.

    .. math::

        EE = \frac{E_{ANN}}{E_{SNN}} = \frac{E_{MAC}}{E_{AC} \cdot r \cdot T}

    Args:
        firing_rate: r, spikes per neuron and step, in (0, 1].
        num_steps: number of time steps T.
        e_ac_pj: energy of one accumulate, pJ.

    Returns:
        float: the ratio; infinite for a network that never fires.

    Raises:
        ValueError: `firing_rate` is negative or above 1, `num_steps` < 1, or `e_ac_pj` not > 0.
        TypeError: one of them is no number.
    """
    firing_rate = check_number("firing_rate", firing_rate, "in [0, 1]", lowest=0, highest=1)
    num_steps = check_number("num_steps", num_steps, ">= 1", lowest=1)
    energy = check_number("e_ac_pj", e_ac_pj, "a finite number > 0", above=0) * firing_rate * num_steps
    return E_MAC_PJ / energy if energy else float("inf")


class FiringRates(dict[str, tuple[torch.Tensor | int, int]]):
    """Spike counts by layer name, as ``(spikes, neuron-steps)``; :meth:`rates` and :meth:`mean` turn them into rates."""

    def rates(self) -> dict[str, float]:
        """Spikes per neuron and step of each layer, in the order of the network."""
        return {name: self.penalty([name]).item() for name in self}

    def mean(self) -> float:
        """Spikes per neuron and step over all neurons of the network."""
        return self.penalty().item() if self else 0.0

    def penalty(self, layers: Sequence[str] | None = None, weights: Mapping[str, float] | None = None) -> torch.Tensor:
        """The mean firing rate as a term of a loss: times a weight it makes a network fire less.

        It carries the gradient where the rates were recorded with ``differentiable=True``. In place of one layer's
        ``snntorch.functional.l1_rate_sparsity`` it is that of all `layers`, weighted by their neurons.

        Args:
            layers: names of the layers that count; None for all. The output neurons are best left out, for the loss asks
                them to fire.
            weights: name -> how much the mean rate of that layer counts, >= 0, for each of `layers`; None: as many as it has
                neurons. With what :func:`count_operations` calls ``dense`` of the layer behind, it is the accumulates that
                are made fewer, and not the spikes.

        Returns:
            Tensor: one number.

        Raises:
            ValueError: a layer that is not recorded, none at all, or one without a weight; a weight below 0, or all 0.
            TypeError: `layers` is no list of names, `weights` no dict of numbers.

        Example:
            >>> import torch, snntorch_bpsta as snn
            >>> net = snn.networks.small(width=1/16, num_steps=4)
            >>> with snn.energy.record_firing_rates(net, differentiable=True) as firing:
            ...     spk_rec = net(torch.rand(2, 1, 28, 28))
            >>> loss = snn.functional.ce_rate_loss()(spk_rec, torch.tensor([3, 8])) + 0.3 * firing.penalty([*firing][:-1])
            >>> loss.backward()
        """
        names = [*self] if layers is None else layers
        check_instance("layers", names, (list, tuple), "names of layers")
        unknown = [name for name in names if name not in self]
        if unknown or not names:
            raise ValueError(f"layers must be some of those that were recorded, {[*self]}, got {[*names]}")
        spikes, counts = zip(*(self[name] for name in names), strict=True)
        fired = torch.stack([torch.as_tensor(each, dtype=torch.float64) for each in spikes])
        if weights is None:
            return fired.sum() / max(sum(counts), 1)
        check_instance("weights", weights, Mapping, "a dict of numbers")
        missing = [name for name in names if name not in weights]
        if missing:
            raise ValueError(f"weights must have all of {[*names]}, got none for {missing}")
        own = [check_number(f"weights[{name!r}]", weights[name], "a finite number >= 0", lowest=0) for name in names]
        if not sum(own):
            raise ValueError("weights must have one above 0, got 0 for every layer")
        shares = fired.new_tensor([weight / max(count, 1) for weight, count in zip(own, counts, strict=True)])
        return (fired * shares).sum() / sum(own)


@contextmanager
def record_firing_rates(net: nn.Module, differentiable: bool = False) -> Iterator[FiringRates]:
    """Count the spikes of every ``snntorch.SpikingNeuron`` in `net` while the context lasts (single steps or sequences).

    Args:
        net: any module.
        differentiable: keep the graph of the counts, for :meth:`FiringRates.penalty`. A spike then counts as its
            value, which is 1 without ``graded_spikes_factor``.

    Yields:
        FiringRates: filled as the network runs.

    Example:
        >>> import torch, snntorch_bpsta as snn
        >>> net = snn.networks.small(width=1/16, num_steps=4)
        >>> with snn.energy.record_firing_rates(net) as firing:
        ...     _ = net(torch.rand(2, 1, 28, 28))
        >>> len(firing.rates())
        5
    """
    check_module("net", net)
    check_flags(differentiable=differentiable)
    counts = FiringRates()

    def count(name):
        def hook(module, args, output):
            spk = output[0] if isinstance(output, tuple) else output
            spikes, steps = counts.get(name, (0, 0))
            fired = spk.sum(dtype=torch.float32) if differentiable else (spk.detach() != 0).sum()
            counts[name] = (spikes + fired, steps + spk.numel())

        return hook

    neurons = [(name, module) for name, module in net.named_modules() if isinstance(module, snntorch.SpikingNeuron)]
    handles = [neuron.register_forward_hook(count(name)) for name, neuron in neurons]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


class Operations(dict[str, dict[str, float]]):
    """Operations by layer name, as :func:`count_operations` counts them: dicts with

    - ``dense``: multiply-accumulates of one pass over one sample, what the artificial network of the same structure does;
    - ``ac``: accumulates, one for each spike and each weight it meets, all samples and steps;
    - ``mac``: the same for numbers that are no spikes (pixels, event counts, what average pooling gives), zeros left out.
    """

    def energy_ratio(self, samples: int, e_ac_pj: float = E_AC_PJ, e_mac_pj: float = E_MAC_PJ) -> float:
        """How many times less energy the spiking network needed than the artificial one, by the counts and not by Eq. 11.

        Args:
            samples: how many went through the network.
            e_ac_pj, e_mac_pj: energy of one accumulate and of one multiply-accumulate, pJ.

        Returns:
            float: the ratio; infinite for a network in which nothing happened.
        """
        check_number("samples", samples, "> 0", above=0)
        e_ac_pj = check_number("e_ac_pj", e_ac_pj, "a finite number > 0", above=0)
        e_mac_pj = check_number("e_mac_pj", e_mac_pj, "a finite number > 0", above=0)
        dense = sum(layer["dense"] for layer in self.values())
        spent = sum(e_ac_pj * layer["ac"] + e_mac_pj * layer["mac"] for layer in self.values()) / samples
        return e_mac_pj * dense / spent if spent else float("inf")


@contextmanager
def count_operations(net: nn.Module) -> Iterator[Operations]:
    """Count what the weighted layers of `net` do while the context lasts, from the numbers that go into them.

    A number that is not zero costs one operation for each weight it meets: all outputs of a linear layer; of a convolution
    those whose window it lies in, fewer at the edge. **An accumulate**, if all that goes into the layer and is not zero is
    one and the same number (spikes, also graded by one factor, scaled by dropout, or pooled by their maximum), for the
    weights can hold that factor; else **a multiply-accumulate**. The tensors decide, in a loop over time and in ``sequence``
    alike. A spike of a recurrent neuron also costs one accumulate for each weight of its recurrence.

    Linear layers, convolutions and transposed convolutions of one to three dimensions, and recurrences are counted. Batch
    norm, pooling, voting, embeddings and the neurons themselves are not, in either network. A module that calculates any
    other product (attention, an LSTM, ``F.linear`` or ``@`` in a forward of your own) is named in a warning at the end: what
    it does is missing. ``dense`` takes a layer to be one, and to see a sample once at a step: a layer that is used twice, or
    on every token of a sample, does as much more.

    Yields:
        Operations: filled as the network runs.

    Raises:
        TypeError: `net` is no module.

    Example:
        >>> import torch, snntorch_bpsta as snn
        >>> net = snn.networks.small(width=1/16, num_steps=4)
        >>> with torch.no_grad(), snn.energy.count_operations(net) as operations:
        ...     _ = net(torch.rand(2, 1, 28, 28))
        >>> operations.energy_ratio(samples=2) > 0
        True
    """
    check_module("net", net)
    names = {module: name for name, module in net.named_modules()}
    operations, factors = Operations(), dict[str, set[float]]()

    def add(name, layer, x, spikes=False):
        met, fan_out, dense = _meetings(layer, x.detach())
        count = operations.setdefault(name, {"dense": dense, "ac": 0.0, "mac": 0.0})
        factors.setdefault(name, set())
        if not spikes and len(factors[name]) < 2:
            factors[name] |= _factors(x.detach())
        count["ac" if len(factors[name]) < 2 else "mac"] += float(met) * fan_out
        if len(factors[name]) > 1:  # then what came before were no spikes either
            count["mac"], count["ac"] = count["mac"] + count["ac"], 0.0

    def begin(module, args):
        if module in names:
            products.running.append(module)

    def end(module, args, *rest):  # PyTorch leaves the keywords out where the module has failed
        kwargs, output = rest if len(rest) == 2 else ({}, None)
        if module not in names:
            return
        counted_within = any(isinstance(outer, _COUNTED) or _recurs(outer) for outer in products.running[:-1])
        if output is None or counted_within:  # it failed; or its neuron is counted, in a loop as by the kernels
            pass
        elif _recurs(module):
            spk = output[0] if isinstance(output, tuple) else output
            if module.all_to_all and isinstance(module.recurrent, nn.Conv2d):
                spk = spk.reshape(-1, *spk.shape[-3:])
            add(names[module.recurrent], module.recurrent, spk, spikes=True)
        elif isinstance(module, _COUNTED):
            add(names[module], module, args[0] if args else kwargs["input"])
        products.running.pop()

    products = _Products()
    handles = [
        nn.modules.module.register_module_forward_pre_hook(begin),
        nn.modules.module.register_module_forward_hook(end, with_kwargs=True, always_call=True),
    ]
    try:
        with products:
            yield operations
    finally:
        for handle in handles:
            handle.remove()
    if products.missed:
        missed = [f"{names[module] or 'the net itself'} ({type(module).__name__})" for module in products.missed]
        warnings.warn(f"the products of these modules are not counted: {', '.join(missed)}", stacklevel=3)


class _Products(TorchFunctionMode):
    """Notes in which modules, of those `running`, a product is calculated that is not counted."""

    def __init__(self):
        super().__init__()
        self.running: list[nn.Module] = []
        self.missed: dict[nn.Module, None] = {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if self.running and _PRODUCT.fullmatch(getattr(func, "__name__", "")):
            if not any(isinstance(module, _COUNTED) or _recurs(module) for module in self.running):
                self.missed[self.running[-1]] = None
        return func(*args, **(kwargs or {}))


# What PyTorch's functions are called that multiply matrices, convolve, recur or attend.
_PRODUCT = re.compile(
    r"(bi)?linear|.*matmul.*|.*mm|(add)?mv|.*dot|inner|einsum|conv.*|(rnn|lstm|gru).*|.*attention.*|_transformer.*fwd"
)


def _recurs(module):
    return isinstance(module, snntorch.SpikingNeuron) and isinstance(getattr(module, "recurrent", None), nn.Module)


_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_COUNTED = (nn.Linear, *_CONVOLUTIONS)


def _factors(x):
    """The numbers in `x` that are not zero: the one or, of several, the ends of their range."""
    found = x[x != 0]
    return {found.amin().item(), found.amax().item()} if found.numel() else set()


def _meetings(layer, x):
    """How many numbers of `x` that are not zero meet a weight, on how many outputs each does, and the
    multiply-accumulates of one dense pass."""
    if isinstance(layer, nn.Linear):
        return (x != 0).sum(), layer.out_features, layer.in_features * layer.out_features
    if not isinstance(layer, _CONVOLUTIONS):  # a recurrence one to one
        return (x != 0).sum(), 1, x[0, 0].numel() if x.dim() > 2 else x[0].numel()
    if x.dim() == len(layer.kernel_size) + 1:  # without a batch
        x = x.unsqueeze(0)
    fan_out = layer.out_channels // layer.groups
    one = torch.full_like(x[:1, :1], layer.in_channels)
    return _windows(layer, (x != 0).sum(1, keepdim=True)), fan_out, int(_windows(layer, one)) * fan_out


def _windows(conv, counts):
    """How often the values of `counts` ``[B, 1, *]`` meet a tap of the kernel of `conv`, summed up."""
    ones = torch.ones(1, 1, *conv.kernel_size, dtype=torch.float32, device=counts.device)
    dims = len(conv.kernel_size)
    if isinstance(conv, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        transposed = (nn.functional.conv_transpose1d, nn.functional.conv_transpose2d, nn.functional.conv_transpose3d)
        options = {"stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation}
        return transposed[dims - 1](counts.float(), ones, output_padding=conv.output_padding, **options).double().sum()
    plain = (nn.functional.conv1d, nn.functional.conv2d, nn.functional.conv3d)[dims - 1]
    return plain(counts.float(), ones, None, conv.stride, conv.padding, conv.dilation).double().sum()
