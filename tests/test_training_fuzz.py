"""Whatever is put into training and plots: a right result, or an error that names the argument."""

import contextlib
import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("hypothesis", reason="hypothesis (extra: dev) is missing")
from _fuzz import ANYTHING, REFUSED, WHERE, attempt, calls, finite, fuzz, mostly, optional, tensors
from hypothesis import strategies as st  # noqa: E402

import snntorch_bpsta as snn  # noqa: E402
from snntorch_bpsta.training import Recipe, rate_cross_entropy_loss, rate_mse_loss  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


# --- training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [rate_mse_loss, rate_cross_entropy_loss])
@fuzz("rate_mse_loss", "rate_cross_entropy_loss", examples=100, draws=st.data())
def test_losses_of_rates(function, draws):
    shape = draws.draw(st.sampled_from([(4, 2, 3), (4, 2, 3), (1, 1, 1), (0, 2, 3), (4, 0, 3), (4, 2, 0), (4, 2)]))
    targets = st.lists(st.integers(-1, 3), min_size=2, max_size=2).map(torch.tensor)
    fitting = st.just(torch.arange(shape[1]) % max(shape[-1], 1))
    arguments = draws.draw(calls(out_rec=tensors(shape), targets=mostly(fitting, targets)))
    loss = attempt(function, **arguments)
    if loss is not REFUSED:
        assert loss.shape == () and loss.dtype in (torch.float32, torch.float64)
        assert loss.is_meta or not finite(arguments["out_rec"]) or loss >= 0 or not loss.isfinite()


FIELDS = {field.name: field for field in dataclasses.fields(Recipe)}


RECIPE = calls(**{
    name: optional(*(field.metadata["choices"] or (field.default,))) for name, field in FIELDS.items()
})  # fmt: skip


TINY = dict(width=1 / 64, num_steps=2, epochs=1, limit=8, test_limit=8)


@fuzz("Recipe", "Recipe.variant", "Recipe.variant_name", "Recipe.as_dict", "Recipe.on", "Recipe.spec",
      "Recipe.build_network", "Recipe.loss_function",
      examples=150, arguments=RECIPE, variant=mostly(st.sampled_from(["baseline", "bpsa+bpta"])))  # fmt: skip
def test_recipe(arguments, variant):
    recipe = attempt(Recipe, **arguments)
    if recipe is REFUSED:
        return
    assert Recipe(**recipe.as_dict()) == recipe
    other = attempt(recipe.variant, variant, naming=["variant"])
    assert other is REFUSED or (other.as_dict().keys() == recipe.as_dict().keys() and other.variant_name() == variant)
    assert callable(recipe.loss_function())
    spec = attempt(recipe.spec, naming=FIELDS)
    assert spec is REFUSED or (spec.name == recipe.dataset and recipe.on("nmnist").spec().input_shape == (2, 34, 34))
    small = dataclasses.replace(recipe, width=1 / 64)
    assert attempt(small.build_network, naming=[*FIELDS, "input_shape"]) is not None


class Reached(Exception):
    """All checks are passed; a training would begin here."""


@pytest.fixture(scope="module")
def run():
    """``training.run`` and ``training.studies``, which get as far as the trainer and no further."""
    pytest.importorskip("lightning", reason="lightning (extra: train) is missing")
    from snntorch_bpsta.training import run
    from snntorch_bpsta.training.studies import run_all

    def reached(*args, **kwargs):
        raise Reached

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run.L, "Trainer", reached)
        patch.setattr(run_all, "Workers", reached)
        yield run


RUN = {
    "recipe": st.just(Recipe(**TINY)),
    "seed": optional(0, 3),
    "data_root": WHERE,
    "download": optional(False),
    "devices": optional(1),
    "accelerator": optional("cpu", "auto"),
    "precision": optional("32-true", "bf16-mixed"),
    "num_workers": optional(0, 2),
    "progress": optional(False),
    "also_test": optional((), ("nmnist",)),
}


@fuzz("train", examples=120, arguments=calls(out_dir=optional(None), resume=optional(False), **RUN))
def test_train(run, empty, arguments):
    with contextlib.suppress(Reached, FileNotFoundError):
        assert attempt(run.train, **arguments) is REFUSED


@fuzz("evaluate", examples=80, arguments=calls(
    checkpoint=st.sampled_from(["nowhere.ckpt", Path("nowhere.ckpt"), "."]), data_root=WHERE, download=optional(False),
    accelerator=optional("cpu"), test_limit=optional(0, 3), dataset=optional(None, "digits"),
))  # fmt: skip
def test_evaluate(run, empty, arguments):
    with contextlib.suppress(FileNotFoundError):
        assert attempt(run.evaluate, **arguments) is REFUSED


@fuzz("Classifier", "Frames", examples=80, draws=st.data())
def test_modules_of_lightning(run, draws):
    from snntorch_bpsta.training import datamodule, module

    own = {key: RUN[key] for key in ("recipe", "seed")}
    for kind, others in (
        (module.Classifier, {"net": st.just(nn.Identity())}),
        (datamodule.Frames, {key: RUN[key] for key in ("data_root", "download", "num_workers")}),
    ):
        attempt(kind, **draws.draw(calls(**own, **others), label=kind.__name__))


@fuzz("learning_rate_schedule", examples=60, draws=st.data())
def test_learning_rate_schedule(run, draws):
    from snntorch_bpsta.training.module import learning_rate_schedule

    recipes = st.builds(
        Recipe,
        epochs=st.integers(1, 9),
        lr_warm_up_epochs=st.integers(0, 9),
        schedule=st.sampled_from(["sgdr", "cosine"]),
    )
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    arguments = draws.draw(calls(optimizer=st.just(optimizer), recipe=recipes), label="arguments")
    scheduler = attempt(learning_rate_schedule, **arguments)
    if scheduler is not REFUSED:
        rates = []
        for _ in range(arguments["recipe"].epochs):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        assert all(0 <= rate <= 1 + 1e-9 for rate in rates) and max(rates) > 0.2


@fuzz("augment", examples=80, draws=st.data())
def test_augment(run, draws):
    from snntorch_bpsta.training.datamodule import augment

    shapes = st.sampled_from([(2, 1, 4, 4), (3, 2, 2, 4, 5), (0, 1, 4, 4), (1, 1, 1, 1)])
    arguments = draws.draw(calls(
        x=tensors(shapes, [torch.float32]), pad=st.sampled_from([0, 1, 4]), flip=st.booleans(),
        degrees=st.sampled_from([0, 10, 1.5]),
    ), label="arguments")  # fmt: skip
    moved = attempt(augment, **arguments)
    assert moved is REFUSED or (moved.shape == arguments["x"].shape and moved.dtype == arguments["x"].dtype)


ROW = {
    "study": "warm_up", "setting": "none", "variant": "bpsa", "seed": 0, "recipe": {}, "accuracy": 0.5,
    "firing_rate": 0.1, "firing_rates": {"1": 0.1, "2": 0.2},
    "energy_ratio": 5.0, "energy_ratio_fp32_ac": 0.6, "train_seconds": 3.0,
    "history": [{"epoch": 0, "warm_up": None, "test_accuracy": 0.4}, {"epoch": 1, "warm_up": None, "test_accuracy": 0.5}],
}  # fmt: skip


@st.composite
def rows(draw):
    """Rows of a results file; or not quite."""
    rows = [copy.deepcopy(ROW) | {"seed": seed} for seed in range(draw(st.integers(0, 3)))]
    settings = draw(st.sampled_from([["none"], ["none", "identity"]]))
    for row in rows:
        row["variant"] = draw(st.sampled_from(["baseline", "bpsa", "mine"]))
        row["setting"] = draw(st.sampled_from(settings))
    if rows and draw(st.booleans()):
        row = draw(st.sampled_from(rows))
        for key in draw(st.lists(st.sampled_from(sorted(ROW)), max_size=2, unique=True)):
            if draw(st.booleans()):
                row[key] = draw(ANYTHING)
            else:
                row.pop(key, None)
    return rows


@fuzz("study", "grid", "quick", "tabulate", "format_study", "Study", "RunsFailed", examples=160, draws=st.data())
def test_studies(run, empty, draws):
    from snntorch_bpsta.training import studies

    arguments = draws.draw(calls(
        name=st.sampled_from(sorted(studies.STUDIES)), recipe=RUN["recipe"], seeds=st.sampled_from([[0], range(2), (3, 7)]),
        out_file=st.just("study.json"), jobs=optional(1, 2), say=optional(lambda line: None),
        also_test=optional((), ("nmnist",)),
    ), label="arguments")  # fmt: skip
    with contextlib.suppress(Reached):
        assert attempt(studies.study, **arguments) is REFUSED
    attempt(studies.grid, **{key: arguments[key] for key in ("name", "recipe", "seeds")})
    attempt(studies.quick, arguments["recipe"])
    table = attempt(studies.tabulate, draws.draw(mostly(rows()), label="rows"))
    if table is not REFUSED:
        assert all(0 <= row["accuracy"] <= 100 for row in table)
    text = attempt(studies.format_study, draws.draw(ANYTHING) if table is REFUSED else table)
    assert text is REFUSED or text.startswith(("| setting", "| variant"))
    failed = attempt(
        studies.RunsFailed, draws.draw(mostly(st.just([]))), draws.draw(mostly(st.just([{"error": "E: why"}])))
    )
    assert failed is REFUSED or "failed" in str(failed)
    alpha = studies.STUDIES["alpha"]
    assert studies.Study(alpha.claim, alpha.settings, alpha.variants, "setting") == alpha


@fuzz("against_recordings", examples=30, arguments=calls(data_root=WHERE, seed=optional(0, 3)))
def test_against_recordings(run, empty, arguments):
    from snntorch_bpsta.training import studies

    with contextlib.suppress(FileNotFoundError):
        assert attempt(studies.against_recordings, **arguments) is REFUSED, "there is nothing to compare"


@fuzz("paper_rows", "full_size", "beside", "variant", "Row", examples=120, draws=st.data())
def test_papers_tables(draws):
    from snntorch_bpsta.training import paper

    attempt(paper.variant, draws.draw(mostly(RUN["recipe"])))
    preset = draws.draw(mostly(st.sampled_from(["paper", "official_code"])))
    found = attempt(paper.paper_rows, preset)
    attempt(paper.full_size, draws.draw(mostly(st.sampled_from(["mnist", "nmnist"]))), preset)
    if found is not REFUSED:
        attempt(paper.beside, draws.draw(mostly(st.just(found))), draws.draw(mostly(rows())))
        assert dataclasses.replace(found["table2"], seeds=5) == found["table2"]


@fuzz("multistep_model", "measure", examples=60, arguments=calls(
    net=st.builds(snn.MultiStep, st.just(nn.Identity())), loader=st.none(), device=optional(None, "cpu")
))  # fmt: skip
def test_neurobench(run, arguments):
    from snntorch_bpsta.training import neurobench

    with contextlib.suppress(ImportError):  # NeuroBench is another extra
        attempt(neurobench.multistep_model, arguments["net"])
        if not isinstance(arguments["net"], snn.MultiStep):
            attempt(neurobench.measure, **arguments)


# --- plots ----------------------------------------------------------------------------------------


@fuzz("samples", "animation", "raster", examples=60, draws=st.data())
def test_figures_of_data(draws):
    pytest.importorskip("matplotlib", reason="matplotlib (extra: plots) is missing")
    pictures = st.sampled_from(
        [[(torch.rand(1, 3, 3), 0)] * 2, [(torch.rand(2, 2, 3, 3), 1)], [(torch.rand(3, 2, 2), 5)], []]
    )
    attempt(snn.plots.samples, **draws.draw(calls(data=pictures, count=optional(1, 3))))
    attempt(
        snn.plots.animation, **draws.draw(calls(frames=tensors((3, 2, 4, 4), [torch.float32]), interval=optional(50)))
    )
    events = {name: np.arange(4) % 2 for name in "xytp"}
    attempt(snn.plots.raster, draws.draw(mostly(st.just(events))))


@st.composite
def other_rows(draw):
    """Rows of the studies of another kind; or not quite."""
    flow = {"setting": "last weights", "variant": "bpsa", "flow": {"0.4": [0.5, 0.25], "2": [1.0, 0.125]}}
    neuron = {"setting": "one neuron", "variant": "bpsa", "flow": {"neuron": [0.5]}, "u": [0.5], "o": [1]}
    film = {"setting": "", "variant": "simulated", "films": [{"events": [3, 4], "correlation": [0.5, 0.25]}]}
    rows = copy.deepcopy(draw(st.sampled_from([[flow], [neuron, flow], [film], [film, film]])))
    if draw(st.booleans()):
        row = draw(st.sampled_from(rows))
        key = draw(st.sampled_from(sorted(row)))
        if key in ("flow", "films") and draw(st.booleans()):
            row[key] = {"0.4": draw(ANYTHING)} if key == "flow" else [{"events": [1, 2], "correlation": draw(ANYTHING)}]
        else:
            row[key] = draw(ANYTHING)
    return rows


@fuzz("study", examples=160, arguments=calls(rows=st.one_of(rows(), other_rows()), title=optional("a title", "")))
def test_figure_of_a_study(arguments):
    pytest.importorskip("matplotlib", reason="matplotlib (extra: plots) is missing")
    figure = attempt(snn.plots.study, **arguments)
    assert figure is REFUSED or len(figure.axes) >= 2 or not arguments["rows"][0].get("flow")


@fuzz("WarmUp", examples=40, arguments=calls(share=optional(0, 0.5, 1.0), warm_up=optional("surrogate", "identity")))
def test_warm_up(arguments):
    callbacks = pytest.importorskip("snntorch_bpsta.training.callbacks", reason="lightning (extra: train) is missing")
    callback = attempt(callbacks.WarmUp, **arguments)
    assert callback is REFUSED or 0 <= callback.share <= 1
