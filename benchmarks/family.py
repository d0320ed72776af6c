"""All six neurons over whole sequences: ours, snnTorch's in a loop, and another checkout's."""

from typing import NamedTuple

from .baseline import ROW
from .contest import add_all, check, noted, size, skipped
from .ours import Loop, Sequence, current, scaled, training_turn
from .timing import figures, measure, ratio

SIZES = [(100, 64, 512), (16, 64, 8192)]
OURS, OFF, LOOP = "bpsta", "bpsta, options off", "snntorch loop"
TOLERANCE = 1e-3  # of a gradient, over its largest entry; that of a shared V is a sum over all neurons and steps
_ONE_TO_ONE = {"V": 0.3, "all_to_all": False}


class Member(NamedTuple):
    """A neuron with the threshold and the reset that are its default, and the factor of the current at which 0.1 to 0.2 of
    the neurons fire at a step. The gradients stay far from overflow, where nothing can be compared."""

    neuron: str
    gain: float
    options: dict
    temporal_alpha: float = 0.8
    dense: bool = False  # every neuron to every neuron, N x N weights: at the first size only

    def of(self, shape):
        """The options at a size."""
        return {"beta": 0.8, **self.options, **({"linear_features": shape[-1]} if self.dense else {})}


FAMILY = {
    "Leaky": Member("Leaky", 1.6, {}),
    "Lapicque": Member("Lapicque", 7, {}),
    "Synaptic": Member("Synaptic", 0.9, {"alpha": 0.5}),
    "Alpha": Member("Alpha", 10, {"alpha": 0.9}, temporal_alpha=0),
    "RLeaky": Member("RLeaky", 1.2, _ONE_TO_ONE),
    "RSynaptic": Member("RSynaptic", 0.7, {"alpha": 0.4, **_ONE_TO_ONE}),
    "RLeaky, all to all": Member("RLeaky", 1.4, {}, dense=True),
    "RSynaptic, all to all": Member("RSynaptic", 0.8, {"alpha": 0.4}, dense=True),
}


def family(settings, report):
    sizes = [(8, 2, 16), (3, 2, 33)] if settings.quick else SIZES
    for shape in sizes:
        members = {name: member for name, member in FAMILY.items() if shape == sizes[0] or not member.dense}
        _race(settings, report, shape, members)


def _race(settings, report, shape, members):
    """All members in the same rounds, so that the time over Leaky's is a ratio within a round too."""
    x, grad = current(shape, settings.device, seed=settings.seed)
    if settings.baseline:
        settings.baseline.start(shape)
    turns, others, notes = {}, {name: {} for name in members}, {name: {} for name in members}
    for name, member in members.items():
        options, cur = member.of(shape), scaled(x, member.gain)
        on = {"spatial_adj": True, "temporal_alpha": member.temporal_alpha}
        competitors = {OURS: (Sequence, on), OFF: (Sequence, {}), LOOP: (Loop, {"host": True})}
        for competitor, (way, more) in competitors.items():
            if skipped(settings, f"{name}, {competitor}"):
                continue
            with noted(notes[name], competitor):
                run = way(settings.device, member.neuron, **options, **more)
                adjusted = on if competitor == OURS else {}
                reference = Sequence(settings.device, member.neuron, impl="reference", **options, **adjusted)
                inputs, wanted = (cur, *run.parameters), (cur, *reference.parameters)
                tolerance = None if competitor == LOOP else TOLERANCE
                others[name][competitor], wrong = check(run(cur), reference(cur), inputs, wanted, grad, tolerance)
                if wrong:
                    notes[name][competitor] = wrong
                    continue
                turns[name, competitor] = training_turn(run, cur, grad)
        if settings.baseline and not skipped(settings, f"{name}, {ROW}"):
            with noted(notes[name], ROW):
                added = settings.baseline.add(name, "sequence", gain=member.gain, neuron=member.neuron, **options, **on)
                turns[name, ROW], others[name][ROW] = added
    times = measure(turns, settings)
    for name in members:
        own = {competitor: time for (of, competitor), time in times.items() if of == name}
        results = figures(own, LOOP, baseline=ROW)
        if OURS in results and ("Leaky", OURS) in times:
            results[OURS]["of_leaky"] = ratio(own[OURS], times["Leaky", OURS])
        add_all(report, f"{name}, {size(shape)}", results, others[name], notes[name])
