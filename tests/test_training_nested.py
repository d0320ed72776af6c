"""Checkpoints of lists that hold others twice, and these again: 121 kB in a file, more than a lifetime to look at."""

import io
import time

import pytest
import torch

pytest.importorskip("lightning", reason="lightning (extra: train) is missing")
pytest.importorskip("sklearn", reason="scikit-learn (extra: data) is missing")
from snntorch_bpsta.training import Recipe, run  # noqa: E402
from snntorch_bpsta.training.checkpoints import _storages  # noqa: E402


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    recipe = Recipe(
        dataset="digits",
        width=1 / 64,
        num_steps=2,
        epochs=1,
        batch_size=32,
        lr_warm_up_epochs=0,
        limit=32,
        test_limit=32,
    )
    run.train(recipe, 0, folder, progress=False)
    return (folder / "last.ckpt").read_bytes()


def nested(times, of=list):
    part = of([1])
    for _ in range(times):
        part = of([part, part])
    return part


def circle():
    part = []
    part.append(part)
    return part


def dicts(times):
    part = {"a": 1}
    for _ in range(times):
        part = {"a": part, "b": part}
    return part


NESTED = {
    "lists": lambda: nested(40),
    "tuples": lambda: nested(40, tuple),
    "dicts": lambda: dicts(40),
    "circle": circle,
    "many": lambda: [0] * 2_000_000,
}
PLACES = {
    "another-key": lambda saved, part: saved | {"other": part},
    "epoch": lambda saved, part: saved | {"epoch": part},  # which a message would print
    "recipe": lambda saved, part: saved | {"bpsta": saved["bpsta"] | {"recipe": {"dataset": part}}},
    "optimizer": lambda saved, part: saved | {"optimizer_states": part},
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", NESTED)
def test_it_is_refused_at_once(name, place, trained, tmp_path):
    path = tmp_path / "last.ckpt"
    torch.save(PLACES[place](torch.load(io.BytesIO(trained), weights_only=True), NESTED[name]()), path)
    begun = time.monotonic()
    with pytest.raises(ValueError, match="is damaged or no checkpoint of `bpsta train`"):
        run.evaluate(path)
    assert time.monotonic() - begun < 20


def test_what_is_shared_in_reason_is_taken(trained):
    """And every tensor is found, however deep."""
    a, b = torch.zeros(3), torch.ones(2)
    found = list(_storages({"x": [a, (b, [a])], "y": [{"z": nested(10)}] * 3, "w": torch.zeros(2, device="meta")}))
    assert sorted(each.nbytes() for each in found) == [8, 12, 12]
