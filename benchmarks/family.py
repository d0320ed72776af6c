"""All six neurons over whole sequences: ours, snnTorch's in a loop, and another checkout's."""

from dataclasses import dataclass, field

from .baseline import ROW
from .contest import add_all, check, noted, size, skipped
from .ours import Loop, Sequence, current, training_turn
from .timing import figures, measure, ratio

SIZES = [(100, 64, 512), (16, 64, 8192)]
OURS, OFF, LOOP = "bpsta", "bpsta, options off", "snntorch loop"
_ONE_TO_ONE = {"V": 0.3, "all_to_all": False}


@dataclass
class Member:
    """A neuron: its host's options, with a threshold at which 0.1 to 0.25 of the neurons fire at a step."""

    neuron: str
    options: dict
    temporal_alpha: float = 0.8
    dense: bool = False  # every neuron to every neuron, N x N weights: at the first size only
    tolerance: float = field(init=False)

    def __post_init__(self):
        self.options = {"beta": 0.9, **self.options}
        self.tolerance = 1e-3 if self.dense else 1e-4  # of the gradient, over its largest entry

    def of(self, shape):
        """The options at a size."""
        return self.options | ({"linear_features": shape[-1]} if self.dense else {})


FAMILY = {
    "Leaky": Member("Leaky", {"threshold": 0.5}),
    "Lapicque": Member("Lapicque", {"threshold": 0.06}),
    "Synaptic": Member("Synaptic", {"alpha": 0.8, "threshold": 2.5}),
    "Alpha": Member("Alpha", {"alpha": 0.8, "beta": 0.7, "threshold": 0.05}, temporal_alpha=0),
    "RLeaky": Member("RLeaky", {"threshold": 0.9, **_ONE_TO_ONE}),
    "RSynaptic": Member("RSynaptic", {"alpha": 0.8, "threshold": 3.5, **_ONE_TO_ONE}),
    "RLeaky, all to all": Member("RLeaky", {"threshold": 0.7}, dense=True),
    "RSynaptic, all to all": Member("RSynaptic", {"alpha": 0.8, "threshold": 3.0}, dense=True),
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
        on = {"spatial_adj": True, "temporal_alpha": member.temporal_alpha}
        for competitor in (OURS, OFF, LOOP, ROW):
            absent = competitor == ROW and not settings.baseline
            if absent or skipped(settings, f"{name}, {competitor}"):
                continue
            with noted(notes[name], competitor):
                options = member.of(shape) | (on if competitor in (OURS, ROW) else {})
                if competitor == ROW:
                    added = settings.baseline.add(name, "sequence", neuron=member.neuron, **options)
                    turns[name, ROW], others[name][ROW] = added
                    continue
                host = competitor == LOOP
                run = (Loop if host else Sequence)(
                    settings.device, member.neuron, **options, **({"host": True} if host else {})
                )
                reference = Sequence(settings.device, member.neuron, impl="reference", **options)
                others[name][competitor], wrong = check(
                    run(x), reference(x), (x, *run.parameters), (x, *reference.parameters), grad,
                    None if host else member.tolerance,
                )  # fmt: skip
                if wrong:
                    notes[name][competitor] = wrong
                    continue
                turns[name, competitor] = training_turn(run, x, grad)
    times = measure(turns, settings)
    for name in members:
        own = {competitor: time for (of, competitor), time in times.items() if of == name}
        results = figures(own, LOOP, baseline=ROW)
        if OURS in results and ("Leaky", OURS) in times:
            results[OURS]["of_leaky"] = ratio(own[OURS], times["Leaky", OURS])
        add_all(report, f"{name}, {size(shape)}", results, others[name], notes[name])
