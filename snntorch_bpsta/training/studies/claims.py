"""The studies, a row each: what is claimed, and which runs try it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from ..._checks import check_choice, check_instance, check_int
from ..recipes import COMPARED, VARIANTS, Recipe
from .braille import LRS, measure_braille
from .braille import TASKS as OF_BRAILLE
from .credit import TASKS, measure_credit
from .gradients import OF_THE_PAPER, measure_gradients, train_on
from .loop import EPOCHS, FOLDED, OWN, measure_loop
from .simulator import measure_simulator
from .tutorials import PARTS, measure_tutorials
from .tutorials import TASKS as TUTORIALS
from .tutorials import VARIANTS as OF_TUTORIALS

if TYPE_CHECKING:
    from pathlib import Path

    from ..._typing import Result

    Setting = tuple[str, str]  # (setting, variant)

__all__ = ["STUDIES", "Study", "grid", "quick"]

_STRENGTHS = (0.3, 1.0, 3.0, 10.0)  # of a penalty
_OF_TRAINING = frozenset(("recipe", "seeds", "jobs", "quick", "data_root", "download", "accelerator"))


def measure_training(runs: Mapping[Setting, Recipe], seed: int, folder: Path, **options: Any) -> dict[Setting, Result]:
    """Train the recipe of `runs`, of which there is one, in `folder`: (setting, variant) -> the row of the run."""
    ((key, recipe),) = runs.items()
    return {key: train_on(recipe, seed, folder, **options)}


@dataclass(frozen=True)
class Study:
    """One row of :data:`STUDIES`.

    Attributes:
        claim: what is asked, and where the paper says it.
        settings: label -> fields of the recipe that it changes, or a function of the recipe that returns them.
        variants: rows of ``VARIANTS``, each run in every setting.
        against: what a difference is to: the first "variant" of the same setting, or the first "setting" of a variant.
        seeds: how many, unless it is said.
        measure: ``measure(runs, seed, folder, **options)`` gives (setting, variant) -> what goes into the row of a run;
            `runs` is (setting, variant) -> recipe. What it leaves in `folder`, a Path, is there when a measurement that was
            killed is begun again, and is removed when its rows are in the file.
        together: one call of `measure` gives all settings and variants of a seed; otherwise each has a call of its own.
        parts: how many parts a call without a recipe reports to be done.
        uses: the options that change something; without "recipe" the study trains nothing.
    """

    claim: str
    settings: dict[str, dict[str, Any] | Callable[[Recipe], dict[str, Any]]] = field(default_factory=lambda: {"": {}})
    variants: tuple[str, ...] = COMPARED
    against: str = "variant"
    seeds: int = 5
    measure: Callable[..., dict[Setting, Result]] = field(default_factory=lambda: measure_training)
    together: bool = False
    parts: int = 1
    uses: frozenset[str] = _OF_TRAINING | {"also_test"}


def _warm_up(kind):
    return lambda recipe: dict(warm_up=kind, warm_up_epochs=0 if kind == "none" else max(1, recipe.epochs // 5))


def _readout(readout, kind):
    return lambda recipe: {"readout": readout, **_warm_up(kind)(recipe)}


def _layers(number):
    network = "-".join([*["1024FC"] * number, "10Voting"])
    return {"network": network, "warm_up": "none", "warm_up_epochs": 0}


def _times(**changes):
    return lambda recipe: {name: change(getattr(recipe, name)) for name, change in changes.items()}


STUDIES = {
    "compare": Study("BPSA and BPSA+BPTA beside the baseline, STBP's rectangle (Table 8).", seeds=3),
    "ablation": Study(
        "BPSA alone is more accurate than the baseline, and BPTA adds to it (Table 8, Fig. 6). BPTA alone is ours.",
        variants=("baseline", "bpsa", "bpta", "bpsa+bpta"),
    ),
    "latency": Study(
        "With few time steps BPSA+BPTA loses little, the baseline much (Table 9, Fig. 5).",
        {f"T = {steps}": {"num_steps": steps} for steps in (4, 8, 16, 32)},
    ),
    "energy": Study(
        "The adjusted network fires half as often as the baseline and needs half its energy (Table 6), the artificial "
        "network of the same structure many times that. (The row 'artificial' trains it: no neuron spikes.)",
        {"": {}, "artificial": lambda recipe: dict(warm_up="identity", warm_up_epochs=recipe.epochs)},
    ),
    "warm_up": Study(
        "A warm-up helps (the paper follows TSSL-BP in one sentence; the released code skips the neurons at first).",
        {kind: _warm_up(kind) for kind in ("none", "identity", "surrogate")},
    ),
    "alpha": Study(
        "The residual of Eq. 10 has a best size (the paper takes 0.8, the released code 0.2), and a sign: that of the reset "
        "is the other one (ours).",
        {f"alpha = {alpha:g}": {"temporal_alpha": alpha} for alpha in (0.0, 0.2, 0.5, 0.8, 1.0, -0.2, -0.5)},
        ("bpsa", "bpta"),
        against="setting",
    ),
    "readout": Study(
        "A spiking output layer falls silent under Eq. 9; with an output that cannot, BPSA needs no warm-up (ours).",
        {
            f"{readout}, {kind}": _readout(readout, kind)
            for readout in ("spikes", "current")
            for kind in ("none", "identity")
        },
    ),
    "causes": Study(
        "What else decides between the variants: loss, ReLU, width, length of training (ours).",
        {
            "as it is": {},
            "cross entropy": {"loss": "cross_entropy"},
            "without ReLU": {"relu": False},
            "twice as wide": _times(width=lambda width: 2 * width),
            "three times as long": _times(epochs=lambda epochs: 3 * epochs),
        },
    ),
    "learning_rate": Study(
        "The gradients differ in size; has each variant the learning rate that it needs? (ours)",
        {
            "a third": _times(lr=lambda lr: lr / 3),
            "as it is": {},
            "three times": _times(lr=lambda lr: 3 * lr),
        },
        (*COMPARED, "atan", "bpsa+leak", "bpsa-hidden"),
    ),
    "pareto": Study(
        "Accuracy against spikes, each variant under several strengths of a penalty on the firing rate of its hidden "
        "neurons, or on the accumulates that they cost: does Eq. 9 save what a penalty on the baseline does not? (ours)",
        {
            **{
                f"penalty {weight:g}": {"rate_penalty": weight, "penalty_on": "neurons"}
                for weight in (0.0, *_STRENGTHS)
            },
            **{
                f"on accumulates {weight:g}": {"rate_penalty": weight, "penalty_on": "accumulates"}
                for weight in _STRENGTHS
            },
        },
        ("baseline", "atan", "bpsa", "bpsa+leak", "bpsa-hidden"),
        seeds=3,
    ),
    "silent": Study(
        "Without batch norm and without a warm-up, fully connected networks under Eq. 9 lose neurons for good, the more the "
        "deeper they are; a leak below the threshold, or another surrogate at the output, keeps them (ours).",
        {f"{n} hidden": _layers(n) for n in (1, 2, 3)},
        ("baseline", "bpsa", "bpsa+leak", "bpsa-hidden"),
        seeds=3,
    ),
    "gradients": Study(
        "How far the error comes: |dL/du| over the steps, of one neuron and, with the first and the last weights of a "
        "trained baseline, of every layer of a network (Fig. 1 to 4, measured).",
        {"one neuron": {}, "first weights": {}, "last weights": {}},
        OF_THE_PAPER,
        seeds=1,
        measure=measure_gradients,
        together=True,
        uses=_OF_TRAINING,
    ),
    "credit": Study(
        "Only the residual of Eq. 10 brings the error across a reset to zero: whether there was a pulse early in a sequence "
        "is read from spikes that lie many resets behind it. (A reset by subtraction lets the error through by itself.)",
        {setting: {} for setting in TASKS},
        ("baseline", "bpsa", "bpta", "bpsa+bpta"),
        measure=measure_credit,
        together=True,
        uses=frozenset(("seeds", "jobs")),
    ),
    "braille": Study(
        "The same on real recordings: letters that a fingertip feels, told from the spikes of all steps, of the last, or of "
        "some after a pause (ours).",
        {setting: {} for setting in OF_BRAILLE},
        ("baseline", "bpsa", "bpta", "bpsa+bpta"),
        measure=measure_braille,
        parts=len(LRS) + 1,
        uses=frozenset(("seeds", "jobs", "data_root")),
    ),
    "tutorials": Study(
        "The networks of snnTorch's tutorials at its defaults, without batch norm: which option lets them learn under "
        "Eq. 9 as they do without it, and at how many spikes? (ours; the accuracy of the regression is R^2)",
        {setting: {} for setting in TUTORIALS},
        OF_TUTORIALS,
        measure=measure_tutorials,
        parts=PARTS,
        uses=frozenset(("seeds", "jobs", "data_root")),
    ),
    "loop": Study(
        "A network with a loop over time, as snnTorch's tutorial 5 writes it, learns the same through snn.fold_time in a "
        "part of the time; and what Eq. 9 changes in it. (The baseline has snnTorch's own surrogate.)",
        {OWN: {}, FOLDED: {}},
        ("baseline", "bpsa"),
        seeds=3,
        measure=measure_loop,
        together=True,
        parts=EPOCHS,
        uses=frozenset(("seeds", "jobs", "data_root")),
    ),
    "simulator": Study(
        "Films of MNIST's images by the modelled camera are like the real N-MNIST recordings of the same images, also of "
        "images that the camera was not fitted to (ours).",
        {"fitted to": {}, "not fitted to": {}},
        ("simulated",),
        seeds=1,
        measure=measure_simulator,
        together=True,
        uses=frozenset(("seeds", "jobs", "data_root")),
    ),
}


def grid(
    name: str,
    recipe: Recipe | None,
    seeds: Sequence[int],
    variants: Sequence[str] | None = None,
    settings: Sequence[str] | None = None,
) -> dict[tuple[str, str, int], Recipe | None]:
    """The runs of a study: ``(setting, variant, seed)`` -> recipe.

    Args:
        name: a key of :data:`STUDIES`.
        recipe: what the settings and variants change; None for a study that trains nothing.
        seeds: list, tuple or range of int.
        variants, settings: those of the study's that are run; None for all.

    Raises:
        ValueError, TypeError: an argument out of range or of the wrong type.
    """
    check_choice("name", name, tuple(STUDIES))
    study = STUDIES[name]
    if "recipe" in study.uses:
        check_instance("recipe", recipe, Recipe, "a Recipe")
    elif recipe is not None:
        raise ValueError(f"recipe must be None for the study {name!r}, which trains nothing; got {recipe!r}")
    check_instance("seeds", seeds, (list, tuple, range), "a list, tuple or range of integers")
    for seed in seeds:
        check_int("seeds", seed, 0, 2**32)
    for option, chosen, known in (
        ("variants", variants, study.variants),
        ("settings", settings, tuple(study.settings)),
    ):
        if chosen is not None:
            check_instance(option, chosen, (list, tuple), f"names of {option}")
            for each in chosen:
                check_choice(option, each, known)
    runs: dict[tuple[str, str, int], Recipe | None] = {}
    for setting, changes in study.settings.items():
        for variant in study.variants:
            if variant not in (study.variants if variants is None else variants):
                continue
            if setting not in (study.settings if settings is None else settings):
                continue
            if setting == "artificial" and variant != study.variants[0]:
                continue  # without neurons all variants are one
            # what the setting is about goes before what the variant says
            changed = recipe and replace(recipe, **{**VARIANTS[variant], **_changes(changes, recipe)})
            for seed in seeds:
                runs[setting, variant, seed] = changed
    return runs


def _changes(changes, recipe):
    return changes(recipe) if callable(changes) else changes


class _Watched:
    """A recipe that notes which of its fields are read."""

    def __init__(self, recipe):
        self.recipe, self.read = recipe, set()

    def __getattr__(self, name):
        self.read.add(name)
        return getattr(self.recipe, name)


def used(name: str, recipe: Recipe | None) -> set[str]:
    """The options and the fields of `recipe` that change something in a study. A field that every setting, or the
    variants, put a value of their own in changes nothing."""
    study = STUDIES[name]
    if recipe is None or "recipe" not in study.uses:
        return set(study.uses)
    watched = _Watched(recipe)
    fixed = set.intersection(*(set(_changes(changes, watched)) for changes in study.settings.values()))
    own = {option.name for option in fields(Recipe)} - fixed - set(VARIANTS["baseline"])
    return set(study.uses) | own | watched.read


def quick(recipe: Recipe) -> Recipe:
    """`recipe` so small that it only shows that a study runs.

    Raises:
        TypeError: `recipe` is none.
    """
    check_instance("recipe", recipe, Recipe, "a Recipe")
    warm_up: dict[str, Any] = {} if recipe.warm_up == "none" else {"warm_up_epochs": 1}
    return replace(recipe, epochs=2, width=1 / 32, num_steps=2, limit=64, test_limit=32, batch_size=32, **warm_up)
