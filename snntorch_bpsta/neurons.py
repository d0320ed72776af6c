"""The host's neurons with gradients that cross spikes."""

import inspect

import snntorch
import torch

from ._host import fall_back_to
from ._validation import (
    check_broadcast,
    check_choice,
    check_current,
    check_learnable,
    check_mem,
    check_positive_int,
    check_spatial_adj,
    check_temporal_alpha,
    check_threshold_positive,
)
from .functional import lif_multistep
from .functional._reference import temporal_residual
from .functional.lif import DEFAULT_SPIKE_GRAD, SAVES
from .surrogate import Logistic, SpatialAdjustment

__getattr__, __dir__ = fall_back_to(snntorch.neurons, __name__)

_OPTIONS = {"spatial_adj": False, "temporal_alpha": 0.0, "inplace": False, "save": None}
WARM_UPS = (None, "identity", "surrogate")
_WARM_UP_SURROGATE = Logistic()
_host_default = snntorch.surrogate.atan()


def host_spike_grad(x):
    """The host's default surrogate, as a function that can be pickled."""
    return _host_default(x)


def _signature_with_options(host):
    """The host's constructor signature with our keyword-only options behind it."""
    parameters = list(inspect.signature(host).parameters.values())
    for name, default in _OPTIONS.items():
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default))
    return inspect.Signature(parameters)


class Leaky(snntorch.Leaky):
    r"""``snntorch.Leaky`` with BPSA (`spatial_adj`) and BPTA (`temporal_alpha`) gradients, and all steps in one call.

    With both options off it is the host's neuron, outputs and gradients to the bit. With an option on, spikes and
    membranes are still the host's; only the gradients change, to those of Shen, Zhao and Zeng (2022):

    .. math::

        \frac{\partial o[t]}{\partial u[t]} = \frac{o[t]}{u[t]} \quad (9), \qquad
        \delta u[t] = s[t] G[t] + M[t] + \lambda \bigl((1 - o[t]) + \alpha s[t]\bigr)\,\delta u[t+1] \quad (10)

    where s is the derivative of Eq. 9 or of any other surrogate, G and M are the gradients that reach the spike and the
    membrane, and :math:`\alpha` is `temporal_alpha`. The paper's neuron (Eq. 2) has ``reset_mechanism="zero"``; with
    "subtract" the host passes :math:`\lambda` across a spike already and the residual :math:`\lambda \alpha s` adds to it.

    Args:
        *args: those of ``snntorch.Leaky``, in its order.
        **kwargs: the same by name.
        spatial_adj: 1/u where the neuron fired, 0 elsewhere, as the surrogate gradient (needs threshold > 0 and no
            `spike_grad`).
        temporal_alpha: alpha in [0, 1]; 0 is off, the paper uses 0.8. Works with any surrogate.
        inplace: of :meth:`sequence`: the spikes may take the memory of the input, as in ``nn.ReLU(inplace=True)``.
        save: of :meth:`sequence`: what is kept for backward, see :func:`functional.lif_multistep`.

    Attributes:
        spatial_adj, temporal_alpha, inplace, save: the arguments, as plain attributes: not part of the state_dict, which
            loads strictly into ``snntorch.Leaky`` and back.
        warm_up: None; "identity" hands the input on as the output, so that the network trains as the artificial network
            it contains (the paper's released code); "surrogate" replaces the surrogate by a logistic one (TSSL-BP).

    Shape:
        - ``forward(input_, mem=None)``: one step, as the host's. ``[B, *]`` -> spk and mem ``[B, *]``.
        - ``sequence(input_, mem=None)``: all steps. ``[T, B, *]`` -> spk ``[T, B, *]``, final mem ``[B, *]``.

    Raises:
        ValueError: an option that cannot be honoured (see ``_validation.py``); the message says what to do.
        TypeError: an option of the wrong type.

    Example:
        >>> import torch, snntorch_bpsta as snn
        >>> lif = snn.Leaky(beta=0.9, threshold=0.5, reset_mechanism="zero", spatial_adj=True, temporal_alpha=0.8)
        >>> spk, mem = lif(torch.rand(8, 100), lif.init_leaky())
        >>> spk_rec, mem = lif.sequence(torch.rand(16, 8, 100))

    References:
        Shen, Zhao, Zeng, Patterns 3(6), 2022, doi 10.1016/j.patter.2022.100522.
    """

    __signature__ = _signature_with_options(snntorch.Leaky)

    def __init__(self, *args, spatial_adj=False, temporal_alpha=0.0, inplace=False, save=None, **kwargs):
        given = inspect.signature(snntorch.Leaky).bind(*args, **kwargs)
        given.apply_defaults()
        given = given.arguments
        check_spatial_adj(spatial_adj, given["spike_grad"])
        if spatial_adj:
            check_threshold_positive(given["threshold"])
        temporal_alpha = check_temporal_alpha(temporal_alpha, given["reset_mechanism"], given["reset_delay"])
        if given["surrogate_disable"] and (spatial_adj or temporal_alpha):
            raise ValueError(
                "surrogate_disable=True switches every surrogate gradient off, spatial_adj and temporal_alpha with it: "
                "drop it, or the two options"
            )
        check_choice("inplace", inplace, (False, True))
        check_choice("save", save, SAVES)
        check_learnable("beta", given["beta"], given["learn_beta"])
        check_learnable("threshold", given["threshold"], given["learn_threshold"])
        super().__init__(*args, **kwargs)
        self.spatial_adj = spatial_adj
        self.temporal_alpha = temporal_alpha
        self.inplace = inplace
        self.save = save
        self.warm_up = None
        if given["spike_grad"] is None and not self.surrogate_disable:
            self._spike_grad = host_spike_grad
        self._checked_threshold = None

    @property
    def spike_grad(self):
        """The surrogate in force, that is the warm-up's, the spatial adjustment's, or the one the neuron was built with."""
        if not self.surrogate_disable:
            if self.warm_up == "surrogate":
                return _WARM_UP_SURROGATE
            if self.spatial_adj:
                return SpatialAdjustment._unchecked(self.threshold)
        spike_grad = self._spike_grad
        # The same function, but its spikes keep the membrane's dtype; with the options off we keep to the host's float32.
        return DEFAULT_SPIKE_GRAD if self.temporal_alpha and spike_grad is host_spike_grad else spike_grad

    @spike_grad.setter
    def spike_grad(self, spike_grad):
        self._spike_grad = spike_grad

    def forward(self, input_, mem=None, *, multistep=False, **options):
        """One step as ``snntorch.Leaky.forward``; with ``multistep=True`` all steps, see :meth:`sequence`."""
        if self.warm_up is not None:
            check_choice("warm_up", self.warm_up, WARM_UPS)
            if self.warm_up == "identity":
                return self._identity(input_, mem, multistep, **options)
        if multistep:
            return self._all_steps(input_, mem, **options)
        if options:
            raise TypeError(f"{', '.join(options)}: options of all steps in one call, which multistep=True asks for")
        if not torch.compiler.is_compiling() and torch.is_anomaly_enabled():
            check_current(input_, 0, "[B, *]")
        if not (self.spatial_adj or self.temporal_alpha):
            return super().forward(input_, mem)
        check_current(input_, 0, "[B, *]")
        self._check_threshold()
        if not self._steps_alone and not self.surrogate_disable and input_.dim():
            return self._one_step(input_, mem)
        check_broadcast("beta", self.beta, input_.shape)
        check_broadcast("threshold", self.threshold, input_.shape)
        if self.temporal_alpha:
            check_temporal_alpha(self.temporal_alpha, self.reset_mechanism, self.reset_delay)
            last = self.mem if mem is None else mem
            if last.shape != input_.shape:
                last = torch.zeros_like(input_)  # as the host does
            input_ = input_ + temporal_residual(last, self.beta, self.threshold, self.spike_grad, self.temporal_alpha)
        return super().forward(input_, mem)

    def _one_step(self, input_, mem):
        """A step by the kernels: a third of the host's operations on tensors, for an engine that is there anyway."""
        if mem is None:
            mem = self.mem
        elif self.init_hidden:
            raise TypeError("`mem` should not be passed as an argument while `init_hidden=True`")
        mem = mem if mem.shape == input_.shape else None  # as the host does
        # Half precision in the host's rounding; a compiler fuses operations, and torch.func transforms them.
        kernels = input_.dtype in (torch.float32, torch.float64) and not torch.compiler.is_compiling()
        kernels = kernels and not torch._C._are_functorch_transforms_active()
        spk, mem = self._run(input_.unsqueeze(0), mem, impl="auto" if kernels else "reference")
        self._buffers["mem"] = mem  # what an assignment does, in a tenth of the time
        spk = spk.squeeze(0)
        return spk if self.init_hidden and not self.output else (spk, mem)

    def sequence(self, input_, mem=None, impl="auto", *, relu=False, num_steps=None):
        """All time steps in one call, equal to the loop over single steps; see :func:`functional.lif_multistep`.

        Runs the module's hooks like any call. With ``init_hidden=True`` it starts from the hidden membrane and leaves the
        last one there, as the loop does; otherwise it starts from `mem`, or from zeros, and keeps nothing.

        Args:
            input_: current ``[T, B, *]``.
            mem: membrane before the first step, ``[B, *]``; None, or the empty one that ``init_leaky()`` gives before the
                first call, for zeros.
            impl: "auto", or an implementation by name. `inhibition`, `state_quant` and ``reset_delay=False`` of the host
                work on single steps, and are looped over.
            relu: rectify the current, as ``nn.ReLU`` in front would, without its memory.
            num_steps: T for a constant current, `input_` of one step ``[1, B, *]``.

        Returns:
            tuple: spikes ``[T, B, *]`` and the last membrane ``[B, *]``.
        """
        return self(input_, mem, multistep=True, impl=impl, relu=relu, num_steps=num_steps)

    def _all_steps(self, input_, mem, impl="auto", relu=False, num_steps=None, inplace=False):
        check_current(input_, 2, "[T, B, *]")
        if self.init_hidden:
            if mem is not None:
                raise TypeError("`mem` should not be passed as an argument while `init_hidden=True`")
            mem = self.mem if self.mem.shape == input_.shape[1:] else None
        elif isinstance(mem, torch.Tensor) and mem.shape == (0,):
            mem = None
        if self._steps_alone:
            if impl not in ("auto", "reference"):
                raise NotImplementedError(
                    f"impl={impl!r} does not cover inhibition, state_quant or reset_delay=False; use 'auto' or 'reference'"
                )
            if relu:
                input_ = input_.relu()
            if num_steps is not None:
                input_ = input_.expand(num_steps, *input_.shape[1:])
            spk_rec, mem = self._loop(input_, mem)
        else:
            self._check_threshold()
            options = {"num_steps": num_steps, "relu": relu, "inplace": self.inplace or inplace, "save": self.save}
            spk_rec, mem = self._run(input_, mem, impl=impl, **options)
        if self.init_hidden:
            self.mem = mem
        return spk_rec, mem

    @property
    def _steps_alone(self):
        """Whether options of the host are on that work on one step only."""
        return self.inhibition or self.state_quant or not self.reset_delay

    def _run(self, input_, mem, **options):
        spike_grad = self.spike_grad
        if spike_grad is host_spike_grad:
            spike_grad = DEFAULT_SPIKE_GRAD  # the same function, known to the kernels
        return lif_multistep(
            input_,
            mem,
            beta=self.beta,
            threshold=self.threshold,
            reset_mechanism=self.reset_mechanism,
            spike_grad=spike_grad,
            temporal_alpha=self.temporal_alpha,
            graded_spikes_factor=self.graded_spikes_factor,
            **options,
        )

    def _loop(self, input_, mem):
        """The loop over single steps, for the host's options that work on one step only."""
        check_positive_int("the number of time steps", input_.shape[0])
        if mem is None:
            mem = torch.zeros_like(input_[0])
        check_mem(mem, input_.shape[1:])
        self.mem = mem
        spk_rec = []
        for cur in input_.unbind(0):
            out = self.forward(cur)
            spk_rec.append(out[0] if isinstance(out, tuple) else out)
        mem = self.mem
        if not self.init_hidden:
            self.mem = torch.zeros(0, device=mem.device)
        return torch.stack(spk_rec), mem

    def _identity(self, input_, mem, multistep, impl="auto", relu=False, num_steps=None, inplace=False):
        """The "identity" warm-up: the current is the output, and the membrane stays as it is."""
        if relu:
            input_ = input_.relu()
        if num_steps is not None:
            input_ = input_.expand(num_steps, *input_.shape[1:])
        if mem is None:
            mem = torch.zeros_like(input_[0] if multistep else input_)
        if multistep or self.output or not self.init_hidden:
            return input_, mem
        return input_

    def _check_threshold(self):
        """A learnable threshold may drift to where 1/u has no meaning, long after the constructor looked at it."""
        threshold = self.threshold
        if not self.spatial_adj or torch.compiler.is_compiling():
            return
        # Looking at a value on the device waits for it, so a buffer there is looked at again only after something wrote to
        # it, which its version counter tells. A fused optimiser writes without a trace: a learnable one is always looked at.
        watch = not (threshold.requires_grad or threshold.device.type == "cpu" or threshold.is_inference())
        state = (id(threshold), threshold._version) if watch else None
        if state is None or state != self._checked_threshold:
            check_threshold_positive(threshold)
            if state is not None:
                self._checked_threshold = state

    def extra_repr(self):
        options = _OPTIONS | {"warm_up": None}
        shown = (f"{name}={getattr(self, name)!r}" for name, off in options.items() if getattr(self, name) != off)
        return ", ".join(shown)
