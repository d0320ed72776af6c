"""Surrogate gradients: the paper's spatial adjustment (Eq. 9), the STBP rectangle, and everything of
:mod:`snntorch.surrogate`.

A surrogate here is an object ``spike_grad(x)`` of ``x = mem - threshold``, as snnTorch calls it: it fires where
``x > 0`` (strictly) and its backward multiplies by :meth:`Surrogate.derivative`. Spikes keep the dtype of ``x``
(the host's own surrogates give float32), and the objects can be pickled, copied and printed.
"""

from __future__ import annotations

import inspect
import math
from numbers import Real
from types import FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from snntorch import surrogate as _host_surrogate

from ._checks import REAL, check_broadcast, check_device, check_number, check_tensor, check_threshold_positive
from ._snntorch import fall_back_to, host_closure, public_names
from ._torch import is_compiling, is_transforming

if TYPE_CHECKING:
    from torch import Tensor

    from ._typing import Number, SpikeGrad

__all__ = ["ArcTangent", "Logistic", "Rectangle", "SpatialAdjustment", "Surrogate", "rectangle", "spatial_adjustment"]
__all__ += [name for name in public_names(_host_surrogate) if name not in __all__]
__getattr__, __dir__ = fall_back_to(_host_surrogate, __name__)


# The derivatives that the kernels of functional/ know, in the order of their numbers, with the parameters that each takes:
# the host's by their names there (its functions hold them in a closure), ours by their class.
KERNELS = {
    "spatial_adjustment": ("leak",),
    "rectangle": ("width",),
    "atan": ("alpha",),
    "fast_sigmoid": ("slope",),
    "sigmoid": ("slope",),
    "heaviside": (),
    "straight_through_estimator": (),
    "triangular": ("threshold",),
    "spike_rate_escape": ("beta", "slope"),
    "SFS": ("slope", "B"),
}
_NUMBERS = {name: number for number, name in enumerate(KERNELS)}
# Those whose derivative has the sign of a parameter. The kernels keep its magnitude.
_SIGNED = {"atan": "alpha", "sigmoid": "slope", "spike_rate_escape": "slope"}
_LARGEST = torch.finfo(torch.float32).max
SPATIAL_ADJUSTMENT, TRIANGULAR = _NUMBERS["spatial_adjustment"], _NUMBERS["triangular"]


def kernel_surrogate(spike_grad: SpikeGrad, threshold: Number) -> tuple[int, float, float] | None:
    """(number, first parameter, second one) of a surrogate in ``KERNELS``, for a neuron of that `threshold`; else None."""
    if isinstance(spike_grad, Surrogate):
        name = spike_grad.kernel
        if name is None or (name == "spatial_adjustment" and not spike_grad.fits(threshold)):  # type: ignore[attr-defined]
            return None
        values = {parameter: getattr(spike_grad, parameter) for parameter in KERNELS[name]}
    else:
        name, values = host_closure(spike_grad) if isinstance(spike_grad, FunctionType) else (None, {})
        if name not in KERNELS:
            return None
    values = {parameter: values[parameter] for parameter in KERNELS[name]}
    if not all(isinstance(value, Real) for value in values.values()):
        return None
    if name in _SIGNED and not values[_SIGNED[name]] >= 0:
        return None
    first, second = [*(float(value) for value in values.values()), 0.0, 0.0][:2]
    return _NUMBERS[name], first, second


class _Portable(NamedTuple):
    """One of the host's surrogates by its name and arguments, which pickle can carry; a closure it cannot."""

    name: str
    arguments: dict


def as_portable(spike_grad: Any) -> Any:
    """`spike_grad`, or its name and arguments if it is a closure of the host's."""
    name, _, rest = getattr(spike_grad, "__qualname__", "").partition(".<locals>")
    if not rest or spike_grad.__module__ != _host_surrogate.__name__:
        return spike_grad
    return _Portable(name, dict(inspect.getclosurevars(spike_grad).nonlocals))


def from_portable(spike_grad: Any) -> Any:
    """What :func:`as_portable` was given."""
    if not isinstance(spike_grad, _Portable):
        return spike_grad
    factory = getattr(_host_surrogate, spike_grad.name)
    arguments = spike_grad.arguments
    # A single one goes by its place: custom_surrogate names its own differently inside.
    return factory(*arguments.values()) if len(arguments) == 1 else factory(**arguments)


class _Fire(torch.autograd.Function):
    """Heaviside step of `x`; the backward multiplies by the derivative that the surrogate declares."""

    @staticmethod
    def forward(ctx, x, surrogate, *parameters):
        ctx.surrogate = surrogate
        ctx.save_for_backward(x, *parameters)
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx, dspk):
        x, *parameters = ctx.saved_tensors
        return ctx.surrogate._times_derivative(dspk, x, *parameters), None, *(None for _ in parameters)


class _TransformableFire(_Fire):
    """The same in the form that torch.func can transform, which takes four times as long to call."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, surrogate, *parameters):
        return (x > 0).to(x.dtype)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, ctx.surrogate, *parameters = inputs
        ctx.save_for_backward(x, *parameters)


def _check_real(x):
    if not is_compiling():  # in a backward pass the tracer refuses to tell what is asked for here
        check_tensor("x", x, 0, "of the membrane", REAL)


def _fire(*arguments):
    _check_real(arguments[0])
    transformed = is_compiling() or is_transforming()
    return (_TransformableFire if transformed else _Fire).apply(*arguments)


class Surrogate:
    """Base of the surrogates: a Heaviside step whose backward uses :meth:`derivative`.

    A subclass defines ``derivative(x)``, and ``primitive(x)``, a function whose slope that derivative is. `kernel` names
    the row of ``KERNELS`` with the same derivative, if there is one.
    """

    kernel: str | None = None

    def __call__(self, x: Tensor) -> Tensor:
        return _fire(x, self)

    def derivative(self, x: Tensor) -> Tensor:
        """d spike / d mem at ``x = mem - threshold``; same shape and dtype as `x`."""
        raise NotImplementedError(f"{type(self).__name__} does not define derivative(x)")

    def primitive(self, x: Tensor) -> Tensor:
        """A function of ``x = mem - threshold`` whose slope is :meth:`derivative`."""
        raise NotImplementedError(f"{type(self).__name__} does not define primitive(x)")

    def _times_derivative(self, dspk, x):
        return (
            self.derivative(x) * dspk
        )  # in this order the result lies in memory as snnTorch's does, and sums up alike

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(type(self))  # torch.compile of PyTorch 2.6 asks for it before the parameters are there


class SpatialAdjustment(Surrogate):
    r"""BPSA: the gradient flows to neurons that fired, and to them only unless it leaks. See :func:`spatial_adjustment`."""

    kernel = "spatial_adjustment"

    def __init__(self, threshold: Number | None = None, leak: float = 0.0) -> None:
        if threshold is not None and not isinstance(threshold, torch.Tensor):
            threshold = check_number("threshold", threshold, "a finite number > 0, a tensor, or None")
        if threshold is not None:
            check_threshold_positive(threshold)
        self.threshold: Any = threshold
        self.leak = check_number("leak", leak, "a finite number >= 0 (in float32)", lowest=0, highest=_LARGEST)

    def _of(self, threshold: Number) -> SpatialAdjustment:
        """The same for a neuron of that `threshold`, which is checked already."""
        # torch.compile of PyTorch 2.6 does not know cls.__new__
        surrogate = SpatialAdjustment() if is_compiling() else SpatialAdjustment.__new__(SpatialAdjustment)
        surrogate.threshold, surrogate.leak = threshold, self.leak
        return surrogate

    def __call__(self, x: Tensor) -> Tensor:
        if isinstance(self.threshold, torch.Tensor):
            self._check(x)
            threshold = self.threshold.detach()
            # A copy, for the threshold may be moved in place before the backward pass.
            return _fire(x, self, threshold if is_compiling() else threshold.clone())
        return _fire(self._check(x), self)

    def _check(self, x):
        if self.threshold is None:
            raise ValueError(
                "spatial_adjustment() without a threshold takes that of the neuron whose spatial_adj it is; as a spike_grad "
                "it needs its own: spatial_adjustment(threshold)"
            )
        _check_real(x)
        if isinstance(self.threshold, torch.Tensor):
            check_device("threshold", self.threshold, x.device, "x")
            if self.threshold.dim():
                check_broadcast("threshold", self.threshold, x.shape)
        return x

    def fits(self, threshold: object) -> bool:
        """Whether this is the adjustment of a neuron of that `threshold`."""
        if isinstance(threshold, torch.Tensor) or isinstance(self.threshold, torch.Tensor):
            return self.threshold is threshold
        return isinstance(threshold, Real) and self.threshold == threshold

    def derivative(self, x: Tensor) -> Tensor:
        self._check(x)
        return self._times_derivative(torch.ones_like(x), x)

    def primitive(self, x: Tensor) -> Tensor:
        """log u where ``u = x + threshold`` fired, else u times the leak, or 0 where it is negative."""
        self._check(x)
        assert self.threshold is not None
        below = self.leak * (x + self.threshold).clamp(min=0)
        return torch.where(x > 0, torch.log(x.clamp(min=0) + self.threshold), below).to(x.dtype)

    def _times_derivative(self, dspk, x, threshold=None):
        threshold = self.threshold if threshold is None else threshold
        # Eq. 9: do/du = 1/u where the neuron fired, else 0. Dividing the gradient by u, in place of multiplying it by an
        # 1/u that may have overflowed, keeps half precision free of NaN.
        u = x.clamp(min=0) + threshold
        below = torch.where(x > -threshold, self.leak * dspk, 0.0) if self.leak else 0.0
        return torch.where(x > 0, dspk / u, below).to(x.dtype)

    def __repr__(self) -> str:
        threshold = self.threshold
        if isinstance(threshold, torch.Tensor) and not threshold.is_meta:
            threshold = threshold.tolist()
        values = {"threshold": threshold, "leak": self.leak or None}
        return f"spatial_adjustment({', '.join(f'{k}={v}' for k, v in values.items() if v is not None)})"


class Rectangle(Surrogate):
    """The rectangular window of STBP. See :func:`rectangle`."""

    kernel = "rectangle"

    def __init__(self, width: float = 1.0) -> None:
        self.width = check_number("width", width, "a finite number > 0 (in float32)", above=0, highest=_LARGEST)

    def derivative(self, x: Tensor) -> Tensor:
        _check_real(x)
        return self._times_derivative(torch.ones_like(x), x)

    def _times_derivative(self, dspk, x):
        return torch.where(x.abs() < self.width / 2, dspk / self.width, 0.0)

    def primitive(self, x: Tensor) -> Tensor:
        """The ramp that rises from 0 to 1 over the window."""
        _check_real(x)
        return (x / self.width + 0.5).clamp(0, 1)

    def __repr__(self) -> str:
        return f"rectangle(width={self.width})"


class ArcTangent(Surrogate):
    r"""snnTorch's default surrogate, :math:`\frac{\alpha}{2} / (1 + (\frac{\pi}{2}\alpha x)^2)`, bit-equal to the host's in
    float32; spikes and gradients keep the dtype of the membrane.

    Args:
        alpha: peak of the derivative times two, in units of 1/membrane.

    References:
        Fang et al., "Incorporating learnable membrane time constants to enhance learning of spiking neural networks",
        ICCV 2021.
    """

    kernel = "atan"

    def __init__(self, alpha: float = 2.0) -> None:
        self.alpha = check_number("alpha", alpha, "a finite number > 0 (in float32)", above=0, highest=_LARGEST)

    def derivative(self, x: Tensor) -> Tensor:
        _check_real(x)
        return self.alpha / 2 / (1 + (math.pi / 2 * self.alpha * x).pow(2))

    def primitive(self, x: Tensor) -> Tensor:
        """The arc tangent that rises from -1/2 to 1/2."""
        _check_real(x)
        return torch.atan(math.pi / 2 * self.alpha * x) / math.pi

    def __repr__(self) -> str:
        return f"ArcTangent(alpha={self.alpha})"


class Logistic(Surrogate):
    r"""Slope of the logistic function, :math:`k\,\sigma(kx)(1 - \sigma(kx))`: the surrogate of the "surrogate" warm-up.

    The host's ``surrogate.sigmoid`` has the same formula but overflows to NaN for ``slope * x < -88`` in float32.

    Args:
        slope: k > 0, in units of 1/membrane. The default 4 gives a peak of 1, as the STBP rectangle has.
    """

    kernel = "sigmoid"

    def __init__(self, slope: float = 4.0) -> None:
        self.slope = check_number("slope", slope, "a finite number > 0 (in float32)", above=0, highest=_LARGEST)

    def derivative(self, x: Tensor) -> Tensor:
        _check_real(x)
        sigma = torch.sigmoid(self.slope * x)
        return self.slope * sigma * (1 - sigma)

    def primitive(self, x: Tensor) -> Tensor:
        """The logistic function."""
        _check_real(x)
        return torch.sigmoid(self.slope * x)

    def __repr__(self) -> str:
        return f"Logistic(slope={self.slope})"


def spatial_adjustment(threshold: Number | None = None, leak: float = 0.0) -> SpatialAdjustment:
    r"""BPSA, the biologically plausible spatial adjustment of Shen, Zhao and Zeng (2022), Eq. 9, and a leak below it.

    .. math::

        \frac{\partial o}{\partial u} = \begin{cases} 1/u & u > u_{th} \\ \epsilon & 0 < u \le u_{th} \\
        0 & \text{otherwise} \end{cases}

    A strong spike moves the weights little, one near the threshold moves them most, silence moves nothing: in the paper
    :math:`\epsilon` is 0. Then a neuron that has fallen silent stays so, which a small one mends. snnTorch calls a
    surrogate with ``u - threshold`` and never with ``u``, hence the argument. Eq. 9 stands, commented out, in snnTorch's
    ``surrogate.py`` as ``InverseSpikeOperator``.

    Args:
        threshold: u_th > 0 of the neuron that uses it; a number, or a tensor that broadcasts to the membrane. None for the
            `spatial_adj` of a neuron of this package, which takes the neuron's.
        leak: :math:`\epsilon` >= 0, in units of 1/membrane. 0 is Eq. 9.

    Returns:
        SpatialAdjustment: a picklable ``spike_grad`` for any snnTorch neuron, or ``spatial_adj`` of ours. Spikes and
        gradients have the dtype of the membrane.

    Raises:
        ValueError: `threshold` is not > 0, `leak` not >= 0, or one not finite.
        TypeError: `threshold` is neither a number nor a tensor, or `leak` no number.

    Example:
        >>> import torch, snntorch, snntorch_bpsta as snn
        >>> from snntorch_bpsta import surrogate
        >>> lif = snntorch.Leaky(beta=0.9, threshold=0.5, spike_grad=surrogate.spatial_adjustment(0.5))
        >>> cur = torch.tensor([[0.4, 0.8]], requires_grad=True)
        >>> lif(cur, torch.zeros(1, 2))[0].sum().backward()
        >>> cur.grad
        tensor([[0.0000, 1.2500]])
        >>> leaks = snn.Leaky(beta=0.9, spatial_adj=surrogate.spatial_adjustment(leak=0.1))

    References:
        Shen, Zhao, Zeng, "Backpropagation with biologically plausible spatiotemporal adjustment for training deep
        spiking neural networks", Patterns 3(6), 2022.
    """
    return SpatialAdjustment(threshold, leak)


def rectangle(width: float = 1.0) -> Rectangle:
    r"""The rectangular surrogate of STBP, the baseline of the paper.

    .. math:: \frac{\partial o}{\partial u} = \frac{1}{a}\,\bigl[\,|u - u_{th}| < a/2\,\bigr]

    Args:
        width: a > 0, in units of the membrane. 1.0 is the value of the STBP code.

    Returns:
        Rectangle: a picklable ``spike_grad`` for any snnTorch neuron. Spikes and gradients have the dtype of the membrane.

    Raises:
        ValueError: `width` is not > 0, or not finite.
        TypeError: `width` is not a number.

    Example:
        >>> import torch
        >>> from snntorch_bpsta import surrogate
        >>> surrogate.rectangle(1.0).derivative(torch.tensor([-0.6, -0.4, 0.4, 0.6]))
        tensor([0., 1., 1., 0.])

    References:
        Wu, Deng, Li, Zhu, Shi, "Spatio-temporal backpropagation for training high-performance spiking neural
        networks", Frontiers in Neuroscience 12:331, 2018.
    """
    return Rectangle(width)
