"""What a neuron says once, of its first training pass: gradients that are gone, and gradients that grow."""

from __future__ import annotations

import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from warnings import warn

import torch

from .._torch import is_capturing, is_transforming, is_watched
from ..functional.record import adjustment
from .build import Mixin

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor, nn

PAPERS_FACTOR = 0.9 * 0.8 / 0.5  # what an error is multiplied by across a spike in the paper's own setting
SILENT = (
    "under spatial_adj (Eq. 9) a neuron that does not fire gets no gradient and hands none on, so nothing in front of it "
    "learns. What helps, best first: batch norm in front of the neurons; an output that cannot fall silent (its averaged "
    "current, or a surrogate there, snn.convert(net, spatial_adj=True, output_spike_grad=...)); a warm-up, "
    'snn.networks.set_warm_up(net, "surrogate"), for the first third of the training; snn.wake(net, batch), which scales '
    "weights; a leak, spatial_adj=snn.surrogate.spatial_adjustment(leak=0.1); a lower threshold"
)
GROWS = (
    "from a step to the next the error may be multiplied by {factor:.3g} here, more than in the paper's own setting (1.44): "
    "over many steps it explodes{more}. What helps: temporal_alpha=0; or spatial_adj=True with reset_mechanism='zero' and a "
    "threshold of beta * temporal_alpha or more"
)

ADDS = "; with reset_mechanism='subtract' the error crosses a spike without a residual, which only adds to it"


class Noticing(Mixin):
    """Looks at a neuron's first training pass."""

    _name = ""  # in the net that it was made a part of, where that is known
    # None: no training pass yet; of single steps, how many so far, and whether it fired; True: done.
    _noticed: bool | list[Any] | None

    _parts: list[tuple[bool, int, Tensor]] | None = (
        None  # of a pass in parts: of each whether it fired, its steps, a step
    )

    def _is_first(self, spk: Tensor) -> bool:
        """Whether this is the training pass to look at, and its values may be."""
        if self.__dict__["_noticed"] is True or not spk.requires_grad or not self.training or self.warm_up:
            return False
        hidden = is_transforming() or is_watched() or spk.is_meta or is_capturing(spk) or torch.jit.is_tracing()
        return not hidden

    def _notice_sequence(self, spk_rec: Tensor) -> None:
        """Look at all steps of the first training pass."""
        if self._is_first(spk_rec):
            looked_at = bool(spk_rec.any()), len(spk_rec), spk_rec[0]
            if self._parts is None:
                self._notice(*looked_at)
            else:
                self._parts.append(looked_at)

    def _notice_step(self, spk: Tensor) -> None:
        """Look at one step of a loop over time, whose first backward pass tells that the training pass is over."""
        if not (self.spatial_adj or self.temporal_alpha) or not self._is_first(spk):
            return
        fired = self.__dict__["_noticed"]
        if fired is None:
            self.__dict__["_noticed"] = fired = self._begun()
            me, like = weakref.ref(self), spk.detach()

            def over(grad):
                neuron = me()
                if neuron is not None and neuron.__dict__.get("_noticed") is fired:
                    neuron._notice(bool(fired[1]), fired[0], like)

            for output in (spk, self.mem):
                if output.requires_grad:
                    output.register_hook(over)
        fired[0], fired[1] = fired[0] + 1, spk.detach().any() | fired[1]

    @staticmethod
    def _begun() -> list[Any]:
        """How many steps so far, and whether the neuron fired, which nobody looks at before the end."""
        return [0, False]

    def _notice(self, fired, steps, like):
        self.__dict__["_noticed"] = True
        size = like.shape[1:].numel() if like.dim() > 1 else like.numel()
        who = f"{type(self).__name__} of {size} neurons"
        who = f"layer {self._name!r} ({who})" if self._name else f"a {who}"
        starves = self.spatial_adj and not adjustment(self.spatial_adj).leak
        if starves and not fired and like.numel():
            warn(f"{who} fired nowhere in its first training pass, {steps} steps: {SILENT}", stacklevel=2)
        factor = self._growth()
        if steps > 1 and factor > PAPERS_FACTOR * 1.001:
            more = ADDS if self.reset_mechanism == "subtract" else ""
            warn(f"{who}: {GROWS.format(factor=factor, more=more)}", stacklevel=2)

    def _growth(self) -> float:
        """By what the residual of Eq. 10 lets an error grow from a step to the next at most, 0 without a residual."""
        if not self.temporal_alpha:
            return 0.0
        decay, threshold = self._decay().detach().max().item(), self.threshold.detach().min().item()
        if self.spatial_adj:
            crosses = 0 if self.reset_mechanism == "zero" else 1
            below = adjustment(self.spatial_adj).leak
            return decay * max(abs(crosses + self.temporal_alpha / threshold), abs(1 + self.temporal_alpha * below))
        with torch.enable_grad():
            x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
            spk = self.spike_grad(x)
            slope = torch.autograd.grad(spk.sum(), x)[0].item() if spk.requires_grad else 0.0
        return decay * abs(1 + self.temporal_alpha * slope)


@contextmanager
def one_pass(modules: Iterable[nn.Module]) -> Iterator[None]:
    """The sequences of a neuron inside are parts of one pass, and looked at as one."""
    neurons = [module for module in modules if isinstance(module, Noticing)]
    for neuron in neurons:
        neuron.__dict__["_parts"] = []
    try:
        yield
    finally:
        parts = [neuron.__dict__.pop("_parts") for neuron in neurons]
    for neuron, own in zip(neurons, parts, strict=True):
        if own:
            fired, steps, likes = zip(*own, strict=True)
            neuron._notice(any(fired), sum(steps), likes[0])


def name_neurons(net: nn.Module) -> None:
    """Tell the neurons in `net` what they are called there, for what they say."""
    for name, module in net.named_modules():
        if isinstance(module, Noticing) and module._name != name:
            module.__dict__["_name"] = name
