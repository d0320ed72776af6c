"""The six neurons: a docstring, a row, and what is their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import snntorch
import torch

from .._snntorch import LearnsAlpha
from .core import Adjusted
from .engine import Circuit, Filtered, Recurrent

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import Unpack

    from .. import _typing
    from .._typing import SequenceOptions, State, StepOutput


class Leaky(Adjusted, snntorch.Leaky):
    r"""``snntorch.Leaky`` with BPSA (`spatial_adj`) and BPTA (`temporal_alpha`) gradients, and all steps in one call.

    With both options off it is snnTorch's neuron, outputs and gradients to the bit. With an option on, spikes and
    membranes are still snnTorch's; only the gradients change, to those of Shen, Zhao and Zeng (2022):

    .. math::

        \frac{\partial o[t]}{\partial u[t]} = \frac{o[t]}{u[t]} \quad (9), \qquad
        \delta u[t] = s[t] G[t] + M[t] + \lambda \bigl((1 - o[t]) + \alpha s[t]\bigr)\,\delta u[t+1] \quad (10)

    where s is the derivative of Eq. 9 or of any other surrogate, G and M are the gradients that reach the spike and the
    membrane, and :math:`\alpha` is `temporal_alpha`. The paper's neuron (Eq. 2) has ``reset_mechanism="zero"``; with
    "subtract" snnTorch passes :math:`\lambda` across a spike already and the residual :math:`\lambda \alpha s` adds to it.

    Args:
        *args: those of ``snntorch.Leaky``, in its order.
        **kwargs: the same by name.
        spatial_adj: 1/u where the neuron fired, 0 elsewhere, as the surrogate gradient (needs threshold > 0 and no
            `spike_grad`). ``snn.surrogate.spatial_adjustment(leak=0.1)`` in place of True lets 0.1 through below the
            threshold, so that a silent neuron learns; outside the paper.
        temporal_alpha: alpha in [-1, 1]; 0 is off, the paper uses 0.8, below 0 is outside it. Works with any surrogate.
        warm_up: a stage to begin the training with. "identity" hands the input on as the output, so that the network trains
            as the artificial network it contains (the paper's released code); "surrogate" replaces the surrogate by a
            logistic one (TSSL-BP). None ends it, by the attribute or ``snn.networks.set_warm_up(net, None)``.
        inplace: of :meth:`sequence`: the spikes may take the memory of the input, as in ``nn.ReLU(inplace=True)``.
        save: of :meth:`sequence`: what is kept for backward, see :func:`functional.lif_multistep`.

    Attributes:
        spatial_adj: the argument; like those below a plain attribute and not part of the state_dict, which loads strictly
            into ``snntorch.Leaky`` and back.
        temporal_alpha: the argument.
        warm_up: the argument.
        inplace: the argument.
        save: the argument.
        mem: the membrane after the last single step ``[B, *]``; no buffer, unlike snnTorch's, so that DDP leaves it alone.

    Shape:
        - ``forward(input_, mem=None)``: one step, as snnTorch's. ``[B, *]`` -> spk and mem ``[B, *]``.
        - ``sequence(input_, mem=None)``: all steps. ``[T, B, *]`` -> spk ``[T, B, *]``, final mem ``[B, *]``.

    Raises:
        ValueError: an option that cannot be honoured (see ``_checks.py``); the message says what to do.
        TypeError: an option of the wrong type.

    Example:
        >>> import torch, snntorch_bpsta as snn
        >>> lif = snn.Leaky(beta=0.9, threshold=0.5, reset_mechanism="zero", spatial_adj=True, temporal_alpha=0.8)
        >>> spk, mem = lif(torch.rand(8, 100), lif.init_leaky())
        >>> spk_rec, mem = lif.sequence(torch.rand(16, 8, 100))

    References:
        Shen, Zhao, Zeng, Patterns 3(6), 2022, doi 10.1016/j.patter.2022.100522.
    """

    _host = snntorch.Leaky

    if TYPE_CHECKING:

        def __init__(self, *args: Any, **kwargs: Unpack[_typing.LeakyArguments]) -> None: ...

    def forward(self, input_: Tensor, mem: State = None, *, multistep: bool = False, **options: Any) -> StepOutput:
        """One step as ``snntorch.Leaky.forward``; with ``multistep=True`` all steps, see :meth:`sequence`."""
        return self._call(input_, (mem,), multistep, options)

    def sequence(self, input_: Tensor, mem: State = None, **options: Unpack[SequenceOptions]) -> tuple[Tensor, Tensor]:
        """All time steps in one call of a kernel, equal to the loop over single steps.

        Runs the module's hooks like any call. With ``init_hidden=True`` it starts from the hidden membrane and leaves the
        last one there, as the loop does; otherwise it starts from `mem`, or from zeros, and keeps nothing.

        Args:
            input_: current ``[T, B, *]``.
            mem: membrane before the first step, ``[B, *]``; None, or the empty one that ``init_leaky()`` gives before the
                first call, for zeros.
            impl: "auto", or an implementation by name: "cpu", "triton" or "reference". `inhibition` and `state_quant` work
                on single steps, and are looped over; so is a class derived from ours that overrides a part of the step.
                "auto" then warns, once.
            relu: rectify the current, as ``nn.ReLU`` in front would, without its memory.
            num_steps: T for a constant current, `input_` of one step ``[1, B, *]``.
            inplace: the spikes may take the memory of `input_`, as the neuron's own `inplace`.
            record: names of states that are wanted at every step, ``("mem",)``.
            pool: ``nn.MaxPool2d`` or ``nn.AvgPool2d``: return the pooled spikes, ``[T, B, C, h, w]``, as that layer behind
                the neuron does. In the kernels (on the CPU in float32 and float64), for windows side by side without
                padding, spikes of full size are then at no time in memory; `inplace` gives what is kept for backward the
                memory of the input.

        Returns:
            tuple: spikes ``[T, B, *]`` and the last membrane ``[B, *]``, or with ``record=("mem",)`` all, ``[T, B, *]``.
        """
        return self._sequence(input_, (mem,), options)


class Lapicque(Circuit, Adjusted, snntorch.Lapicque):
    r"""``snntorch.Lapicque``, the RC circuit, with BPSA and BPTA gradients; see :class:`Leaky` for the options.

    The decay of its membrane is :math:`\lambda = 1 - \Delta t / (RC)`, which Eq. 10 takes. The reset to zero is
    snnTorch's: it wipes the new potential and with it the input of that step,
    :math:`u[t+1] = (1 - o[t])\,(\lambda u[t] + I[t+1] \Delta t / C)`. The residual is added behind the reset.

    Args:
        *args: those of ``snntorch.Lapicque``, in its order.
        **kwargs: the same by name.
        spatial_adj, temporal_alpha, warm_up, inplace, save: as in :class:`Leaky`.

    Shape:
        as :class:`Leaky`.

    Raises:
        ValueError, TypeError: as :class:`Leaky`.

    Example:
        >>> import torch, snntorch_bpsta as snn
        >>> lif = snn.Lapicque(R=5, C=1e-3, time_step=1e-3, threshold=0.5, spatial_adj=True, temporal_alpha=0.8)
        >>> spk_rec, mem = lif.sequence(torch.rand(16, 8, 100))
    """

    _host = snntorch.Lapicque

    if TYPE_CHECKING:

        def __init__(self, *args: Any, **kwargs: Unpack[_typing.LapicqueArguments]) -> None: ...

    @classmethod
    def _check_host_arguments(cls, given):
        for name in ("beta", "R", "C"):  # which snnTorch asks for by `if`
            value = given[name]
            if value is None or (isinstance(value, torch.Tensor) and (value.numel() != 1 or value.is_meta)):
                got = None if value is None else f"{tuple(value.shape)} on {value.device}"
                raise ValueError(f"{name} of Lapicque must be a number or a tensor of one element, got {got}")
        super()._check_host_arguments(given)
        if all(isinstance(given[name], torch.Tensor) or given[name] for name in ("beta", "R", "C")):
            raise ValueError("beta follows from R and C: give at most two of beta, R and C, got all three")
        if given["learn_beta"] and (given["R"] or given["C"]):
            raise ValueError("learn_beta=True needs beta alone: R and C do not follow what it learns; drop R and C")

    def forward(self, input_: Tensor, mem: State = None, *, multistep: bool = False, **options: Any) -> StepOutput:
        """One step as ``snntorch.Lapicque.forward``; with ``multistep=True`` all steps, see :meth:`sequence`."""
        return self._call(input_, (mem,), multistep, options)

    def sequence(self, input_: Tensor, mem: State = None, **options: Unpack[SequenceOptions]) -> tuple[Tensor, Tensor]:
        """All time steps in one call; arguments and results are those of :meth:`Leaky.sequence`."""
        return self._sequence(input_, (mem,), options)


class RLeaky(Recurrent, Adjusted, snntorch.RLeaky):
    r"""``snntorch.RLeaky``, recurrent, with BPSA and BPTA gradients; see :class:`Leaky` for the options.

    The membrane is :math:`u[t+1] = \lambda u[t] + I[t+1] + W o[t]`, less the reset: with "subtract" (the default) the
    threshold, with "zero" the whole new potential, input and recurrence included (Leaky's keeps the input). The residual of
    Eq. 10 is added behind the reset, so that it crosses it. The recurrence :math:`W o[t]` passes the gradient of the
    spike as it does in snnTorch, under the surrogate chosen, Eq. 9 with `spatial_adj`; the paper has no recurrent neuron.
    In :meth:`sequence` a one-to-one recurrence is part of the kernel, an all-to-all one a fused step between two products.

    Args:
        *args: those of ``snntorch.RLeaky``, in its order.
        **kwargs: the same by name.
        spatial_adj, temporal_alpha, warm_up, inplace, save: as in :class:`Leaky`.

    Shape:
        - ``forward(input_, spk=None, mem=None)``: one step. ``[B, *]`` -> spk and mem ``[B, *]``.
        - ``sequence(input_, spk=None, mem=None)``: all steps. ``[T, B, *]`` -> spk ``[T, B, *]``, final mem.

    Raises:
        ValueError, TypeError: as :class:`Leaky`.

    Example:
        >>> import torch, snntorch_bpsta as snn
        >>> lif = snn.RLeaky(beta=0.9, linear_features=100, spatial_adj=True, temporal_alpha=0.8)
        >>> spk_rec, mem = lif.sequence(torch.rand(16, 8, 100))
    """

    _host = snntorch.RLeaky
    _states = ("spk", "mem")

    if TYPE_CHECKING:

        def __init__(self, *args: Any, **kwargs: Unpack[_typing.RLeakyArguments]) -> None: ...

    def forward(
        self, input_: Tensor, spk: State = None, mem: State = None, *, multistep: bool = False, **options: Any
    ) -> StepOutput:
        """One step as ``snntorch.RLeaky.forward``; with ``multistep=True`` all steps, see :meth:`sequence`."""
        return self._call(input_, (spk, mem), multistep, options)

    def sequence(
        self, input_: Tensor, spk: State = None, mem: State = None, **options: Unpack[SequenceOptions]
    ) -> tuple[Tensor, Tensor]:
        """All time steps in one call: spikes ``[T, B, *]`` and the last mem. See :meth:`Leaky.sequence`."""
        return self._sequence(input_, (spk, mem), options)


class Synaptic(Filtered, Adjusted, snntorch.Synaptic):
    r"""``snntorch.Synaptic``, with a synaptic current, and BPSA and BPTA gradients; see :class:`Leaky` for the options.

    The current is :math:`i[t+1] = a\, i[t] + I[t+1]` with :math:`a` the `alpha` of snnTorch (another one than
    `temporal_alpha`), the membrane :math:`u[t+1] = \lambda u[t] + i[t+1]`, less the reset: with "subtract" (the default) the
    threshold, with "zero" the whole new potential; the current is not reset. The residual of Eq. 10 is added to the membrane
    behind the reset; the path through the current crosses a spike anyway and stays snnTorch's.

    Args:
        *args: those of ``snntorch.Synaptic``, in its order.
        **kwargs: the same by name.
        spatial_adj, temporal_alpha, warm_up, inplace, save: as in :class:`Leaky`.

    Shape:
        - ``forward(input_, syn=None, mem=None)``: one step. ``[B, *]`` -> spk, syn and mem ``[B, *]``.
        - ``sequence(input_, syn=None, mem=None)``: all steps. ``[T, B, *]`` -> spk ``[T, B, *]``, syn, mem.

    Raises:
        ValueError, TypeError: as :class:`Leaky`.

    Example:
        >>> import torch, snntorch_bpsta as snn
        >>> lif = snn.Synaptic(alpha=0.8, beta=0.9, spatial_adj=True, temporal_alpha=0.8)
        >>> spk_rec, syn, mem = lif.sequence(torch.rand(16, 8, 100))
    """

    _host = snntorch.Synaptic
    _states = ("syn", "mem")
    _per_neuron = ("alpha", "beta", "threshold")

    if TYPE_CHECKING:

        def __init__(self, *args: Any, **kwargs: Unpack[_typing.SynapticArguments]) -> None: ...

    def forward(
        self, input_: Tensor, syn: State = None, mem: State = None, *, multistep: bool = False, **options: Any
    ) -> StepOutput:
        """One step as ``snntorch.Synaptic.forward``; with ``multistep=True`` all steps, see :meth:`sequence`."""
        return self._call(input_, (syn, mem), multistep, options)

    def sequence(
        self, input_: Tensor, syn: State = None, mem: State = None, **options: Unpack[SequenceOptions]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """All time steps in one call: spikes ``[T, B, *]``, last syn and mem. See :meth:`Leaky.sequence`."""
        return self._sequence(input_, (syn, mem), options)


class RSynaptic(Recurrent, Filtered, Adjusted, snntorch.RSynaptic):
    r"""``snntorch.RSynaptic``, recurrent and with a synaptic current, and BPSA and BPTA gradients.

    :class:`Synaptic` with :math:`i[t+1] = a\, i[t] + I[t+1] + W o[t]`; resets, residual and recurrence are those of
    :class:`Synaptic` and :class:`RLeaky`. ``reset_delay=False``, which fails in snnTorch, works as in :class:`RLeaky`.

    Args:
        *args: those of ``snntorch.RSynaptic``, in its order.
        **kwargs: the same by name.
        spatial_adj, temporal_alpha, warm_up, inplace, save: as in :class:`Leaky`.

    Shape:
        - ``forward(input_, spk=None, syn=None, mem=None)``: one step. ``[B, *]`` -> spk, syn and mem ``[B, *]``.
        - ``sequence(input_, spk=None, syn=None, mem=None)``: all steps.

    Raises:
        ValueError, TypeError: as :class:`Leaky`.

    Example:
        >>> import torch, snntorch_bpsta as snn
        >>> lif = snn.RSynaptic(alpha=0.8, beta=0.9, linear_features=100, spatial_adj=True, temporal_alpha=0.8)
        >>> spk_rec, syn, mem = lif.sequence(torch.rand(16, 8, 100))
    """

    _host = snntorch.RSynaptic
    _states = ("spk", "syn", "mem")
    _per_neuron = ("alpha", "beta", "threshold")

    if TYPE_CHECKING:

        def __init__(self, *args: Any, **kwargs: Unpack[_typing.RSynapticArguments]) -> None: ...

    def forward(
        self,
        input_: Tensor,
        spk: State = None,
        syn: State = None,
        mem: State = None,
        *,
        multistep: bool = False,
        **options: Any,
    ) -> StepOutput:
        """One step as ``snntorch.RSynaptic.forward``; with ``multistep=True`` all steps, see :meth:`sequence`."""
        return self._call(input_, (spk, syn, mem), multistep, options)

    def sequence(
        self,
        input_: Tensor,
        spk: State = None,
        syn: State = None,
        mem: State = None,
        **options: Unpack[SequenceOptions],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """All time steps in one call: spikes ``[T, B, *]``, last syn and mem. See :meth:`Leaky.sequence`."""
        return self._sequence(input_, (spk, syn, mem), options)


class Alpha(Filtered, Adjusted, LearnsAlpha, snntorch.Alpha):
    r"""``snntorch.Alpha``, the alpha-function membrane, with BPSA gradients; see :class:`Leaky` for `spatial_adj`.

    Its membrane is :math:`\tau_\alpha` times the sum of an excitatory and an inhibitory current, which are its states.
    :math:`u[t+1]` does not depend on :math:`u[t]`: there is no decay :math:`\lambda` for Eq. 10, the paper defines nothing
    here, and `temporal_alpha` is refused.

    Args:
        *args: those of ``snntorch.Alpha``, in its order.
        **kwargs: the same by name.
        spatial_adj, warm_up, inplace, save: as in :class:`Leaky`.
        temporal_alpha: 0.

    Shape:
        - ``forward(input_, syn_exc=None, syn_inh=None, mem=None)``: one step. ``[B, *]`` -> spk and the three states.
        - ``sequence(input_, syn_exc=None, syn_inh=None, mem=None)``: all steps.

    Raises:
        ValueError: a `temporal_alpha` other than 0; else as :class:`Leaky`.
        TypeError: as :class:`Leaky`.

    Example:
        >>> import torch, snntorch_bpsta as snn
        >>> lif = snn.Alpha(alpha=0.9, beta=0.8, threshold=0.2, spatial_adj=True)
        >>> spk_rec, syn_exc, syn_inh, mem = lif.sequence(torch.rand(16, 8, 100))
    """

    _host = snntorch.Alpha
    _states = ("syn_exc", "syn_inh", "mem")
    _per_neuron = ("alpha", "beta", "threshold")

    if TYPE_CHECKING:

        def __init__(self, *args: Any, **kwargs: Unpack[_typing.AlphaArguments]) -> None: ...

    @classmethod
    def _check_residual(cls, temporal_alpha, reset_mechanism, reset_delay):
        temporal_alpha = super()._check_residual(temporal_alpha, reset_mechanism, reset_delay)
        if temporal_alpha:
            raise ValueError(
                "temporal_alpha has no meaning for Alpha, whose membrane does not depend on that of the step before: use "
                "temporal_alpha=0, or a Leaky, Lapicque or Synaptic neuron"
            )
        return temporal_alpha

    def forward(
        self,
        input_: Tensor,
        syn_exc: State = None,
        syn_inh: State = None,
        mem: State = None,
        *,
        multistep: bool = False,
        **options: Any,
    ) -> StepOutput:
        """One step as ``snntorch.Alpha.forward``; with ``multistep=True`` all steps, see :meth:`sequence`."""
        return self._call(input_, (syn_exc, syn_inh, mem), multistep, options)

    def sequence(
        self,
        input_: Tensor,
        syn_exc: State = None,
        syn_inh: State = None,
        mem: State = None,
        **options: Unpack[SequenceOptions],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All time steps in one call: spikes ``[T, B, *]`` and the last states. See :meth:`Leaky.sequence`."""
        return self._sequence(input_, (syn_exc, syn_inh, mem), options)


FAMILY = (Leaky, RLeaky, Lapicque, Synaptic, RSynaptic, Alpha)
