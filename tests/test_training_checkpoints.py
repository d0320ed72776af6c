"""Checkpoints, results files and data from somewhere else: nothing in them is run, none fills the memory or deletes a file,
and what does not fit is refused by the name of the file."""

import copy
import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("lightning", reason="lightning (extra: train) is missing")
pytest.importorskip("sklearn", reason="scikit-learn (extra: data) is missing")
from snntorch_bpsta.data import load  # noqa: E402
from snntorch_bpsta.training import Recipe, checkpoints, module, run  # noqa: E402
from snntorch_bpsta.training.folder import Last  # noqa: E402
from snntorch_bpsta.training.studies import run_all, study  # noqa: E402

RECIPE = Recipe(
    dataset="digits", width=1 / 64, num_steps=2, epochs=2, batch_size=32, lr_warm_up_epochs=0, limit=32, test_limit=32
)
WEIGHT = "net.0.0.weight"


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def marker(tmp_path):
    """A folder that is there after the test if something was unpickled."""
    marker = tmp_path / "executed"
    yield marker
    assert not marker.exists(), "code out of a file was run"


class Stop(Exception):
    pass


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that stopped in the second of its two epochs: the bytes of its checkpoint."""
    folder, begin = tmp_path_factory.mktemp("trained"), module.Classifier.on_train_epoch_start

    def stop(self):
        if self.current_epoch == 1:
            raise Stop
        begin(self)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
        patch.setattr(module.Classifier, "on_train_epoch_start", stop)
        run.train(RECIPE, 0, folder, progress=False)
    return (folder / "last.ckpt").read_bytes()


@pytest.fixture
def path(tmp_path):
    (tmp_path / "run").mkdir()
    return tmp_path / "run" / "last.ckpt"


def content(trained):
    return torch.load(io.BytesIO(trained), weights_only=True)


DOORS = {
    "evaluate": run.evaluate,
    "resume": lambda path: run.train(RECIPE, 0, path.parent, resume=True, progress=False),
}


def assert_refused(door, path):
    before = path.read_bytes()
    with pytest.raises(ValueError) as caught:
        DOORS[door](path)
    assert str(path) in str(caught.value) and "is damaged or no checkpoint of `bpsta train`" in str(caught.value)
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("door", DOORS)
def test_what_was_not_tampered_with_is_taken(door, trained, path):
    path.write_bytes(trained)
    row = DOORS[door](path)
    assert 0 <= row["accuracy"] <= 1 and row["seed"] == 0


# --- code in a checkpoint -------------------------------------------------------------------------

PLACES = {
    "all": lambda saved, hostile: hostile,
    "a-list": lambda saved, hostile: [saved, hostile],
    "another-key": lambda saved, hostile: saved | {"hostile": hostile},
    "a-key": lambda saved, hostile: saved | {hostile: 1},
    "weights": lambda saved, hostile: saved | {"state_dict": hostile},
    "a-weight": lambda saved, hostile: saved | {"state_dict": saved["state_dict"] | {WEIGHT: hostile}},
    "ours": lambda saved, hostile: saved | {"bpsta": hostile},
    "recipe": lambda saved, hostile: saved | {"bpsta": saved["bpsta"] | {"recipe": hostile}},
    "history": lambda saved, hostile: saved | {"bpsta": saved["bpsta"] | {"history": [hostile]}},
    "optimizer": lambda saved, hostile: saved | {"optimizer_states": [hostile]},
    "loops": lambda saved, hostile: saved | {"loops": hostile},
    "callbacks": lambda saved, hostile: saved | {"callbacks": {"ModelCheckpoint": hostile}},
}
FORMATS = {
    "zip": torch.save,
    "legacy": lambda saved, path: torch.save(saved, path, _use_new_zipfile_serialization=False),
    "pickle": lambda saved, path: path.write_bytes(pickle.dumps(saved)),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("place", PLACES)
def test_code_in_a_checkpoint_is_not_run(place, form, door, trained, path, marker):
    FORMATS[form](PLACES[place](content(trained), Hostile(marker)), path)
    assert_refused(door, path)


@pytest.mark.parametrize("form", FORMATS)
def test_the_code_is_live(form, trained, path, tmp_path):
    """What the tests above would see if it were run."""
    for place, put in PLACES.items():
        marker = tmp_path / place
        FORMATS[form](put(content(trained), Hostile(marker)), path)
        load = pickle.load if form == "pickle" else lambda file: torch.load(file, weights_only=False)
        with open(path, "rb") as file:
            load(file)
        assert marker.is_dir()


# --- what does not fit ----------------------------------------------------------------------------


def own(saved, **values):
    return saved | {"bpsta": saved["bpsta"] | values}


def recipe(saved, **values):
    return own(saved, recipe=saved["bpsta"]["recipe"] | values)


def weight(saved, value, name=WEIGHT):
    return saved | {"state_dict": saved["state_dict"] | {name: value}}


def of_another_network(saved):
    net = replace(RECIPE, width=1 / 32).build_network()
    return saved | {"state_dict": {f"net.{name}": value for name, value in net.state_dict().items()}}


WRONG = {
    "number": lambda saved: 3,
    "nothing": lambda saved: {},
    "no-weights": lambda saved: {k: v for k, v in saved.items() if k != "state_dict"},
    "weights-none": lambda saved: saved | {"state_dict": None},
    "weights-list": lambda saved: saved | {"state_dict": list(saved["state_dict"])},
    "weight-missing": lambda saved: (
        saved | {"state_dict": {k: v for k, v in saved["state_dict"].items() if k != WEIGHT}}
    ),
    "weight-more": lambda saved: weight(saved, torch.zeros(3), "net.0.0.other"),
    "weight-number-as-key": lambda saved: weight(saved, torch.zeros(3), 7),
    "weight-text": lambda saved: weight(saved, "zeros"),
    "weight-shape": lambda saved: weight(saved, saved["state_dict"][WEIGHT][:1]),
    "weight-sparse": lambda saved: weight(saved, saved["state_dict"][WEIGHT].to_sparse()),
    "weight-without-memory": lambda saved: weight(saved, saved["state_dict"][WEIGHT].to("meta")),
    "weight-that-claims": lambda saved: weight(saved, torch.zeros(1).expand(1 << 20, 1 << 20, 3, 3)),
    "reset-mechanism": lambda saved: weight(saved, torch.tensor(7), "net.0.3.reset_mechanism_val"),
    "other-network": of_another_network,
    "nothing-of-ours": lambda saved: {k: v for k, v in saved.items() if k != "bpsta"},
    "ours-none": lambda saved: saved | {"bpsta": None},
    "no-recipe": lambda saved: saved | {"bpsta": {"seed": 0, "history": []}},
    "recipe-list": lambda saved: own(saved, recipe=[1]),
    "recipe-field": lambda saved: recipe(saved, colour="blue"),
    "recipe-value": lambda saved: recipe(saved, dataset="imagenet"),
    "recipe-type": lambda saved: recipe(saved, lr="fast"),
    "recipe-huge": lambda saved: recipe(saved, width=1e5),
    "recipe-larger-than-numbers": lambda saved: recipe(saved, width=1e300),
    "recipe-network": lambda saved: recipe(saved, network="middle"),
    "seed-text": lambda saved: own(saved, seed="0"),
    "seed-negative": lambda saved: own(saved, seed=-1),
    "seed-tensor": lambda saved: own(saved, seed=torch.zeros(3)),
    "history-none": lambda saved: own(saved, history=None),
    "history-numbers": lambda saved: own(saved, history=[1]),
    "history-rows": lambda saved: own(saved, history=[{"epoch": 0}]),
}
OF_RESUMING = {
    **{f"no-{key}": lambda saved, key=key: {k: v for k, v in saved.items() if k != key} for key in checkpoints.TO_RESUME},
    "epoch-ahead": lambda saved: saved | {"epoch": 7},
    "history-short": lambda saved: own(saved, history=[]),
    "loops-none": lambda saved: saved | {"loops": {}},
    "loops-numbers": lambda saved: saved | {"loops": {"fit_loop": 3}},
    "optimizer-none": lambda saved: saved | {"optimizer_states": []},
    "optimizer-text": lambda saved: saved | {"optimizer_states": ["adam"]},
    "optimizer-empty": lambda saved: saved | {"optimizer_states": [{}]},
    "optimizer-groups": lambda saved: optimizer(saved, lambda state: state["param_groups"][0].update(params=[0, 1])),
    "optimizer-lr-text": lambda saved: optimizer(saved, lambda state: state["param_groups"][0].update(lr="fast")),
    "optimizer-lr-nan": lambda saved: optimizer(saved, lambda state: state["param_groups"][0].update(lr=float("nan"))),
    "optimizer-betas": lambda saved: optimizer(saved, lambda state: state["param_groups"][0].update(betas=(9, 9))),
    "optimizer-mean-shape": lambda saved: optimizer(saved, lambda state: state["state"][0].update(exp_avg=torch.ones(3))),
    "optimizer-mean-none": lambda saved: optimizer(saved, lambda state: state["state"][0].pop("exp_avg")),
    "optimizer-mean-that-claims": lambda saved: optimizer(
        saved, lambda state: state["state"][0].update(exp_avg=torch.ones(1).expand(1 << 50))
    ),
    "schedulers-text": lambda saved: saved | {"lr_schedulers": ["cosine"]},
    "version": lambda saved: saved | {"pytorch-lightning_version": None},
}  # fmt: skip


def optimizer(saved, change):
    saved = copy.deepcopy(saved)
    change(saved["optimizer_states"][0])
    return saved


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_refused(name, door, trained, path):
    torch.save(WRONG[name](content(trained)), path)
    assert_refused(door, path)


@pytest.mark.parametrize("name", OF_RESUMING)
def test_what_cannot_be_resumed_is_refused(name, trained, path):
    torch.save(OF_RESUMING[name](content(trained)), path)
    with pytest.raises(ValueError, match="is damaged or no checkpoint of `bpsta train`") as caught:
        DOORS["resume"](path)
    assert str(path) in str(caught.value) and caught.value.__cause__ is not None


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("size", [0, 1, 30, 1000, -2000, -300, -20, -1])
def test_a_part_of_a_checkpoint_is_refused(size, door, trained, path):
    path.write_bytes(trained[:size])
    assert_refused(door, path)


@pytest.mark.parametrize("door", DOORS)
def test_what_unpacks_to_more_than_the_file_is_not_unpacked(door, trained, path):
    file = io.BytesIO()
    torch.save(weight(content(trained), torch.zeros(1 << 22), "net.bomb"), file)
    with zipfile.ZipFile(file) as whole, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in whole.namelist():
            packed.writestr(name, whole.read(name))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(ValueError, match=r"last\.ckpt is damaged.*unpacks to 1[0-9],[0-9]{3},[0-9]{3} bytes"):
        DOORS[door](path)


@pytest.mark.parametrize("name", ["record", "storage"])
@pytest.mark.parametrize("door", DOORS)
def test_a_weight_without_all_its_bytes_is_refused(name, door, trained, path):
    """The index says how much there is of each; the pickle does so too."""
    with zipfile.ZipFile(io.BytesIO(trained)) as whole, zipfile.ZipFile(path, "w") as cut:
        records = [record for record in whole.namelist() if "/data/" in record]
        for record in whole.namelist():
            if name == "record" and record == records[0]:
                continue
            part = whole.read(record)
            cut.writestr(record, part[:4] if name == "storage" and record in records else part)
    assert_refused(door, path)


@pytest.mark.parametrize("way", ["local://{victim}", "{out}/../victim", "{victim}"])
def test_a_checkpoint_cannot_have_files_deleted(way, trained, path, tmp_path):
    """Lightning deletes the file that the state of ModelCheckpoint calls the best one when it saves the next."""
    victim = tmp_path / "victim"
    victim.mkdir()
    saved = content(trained)
    assert "callbacks" not in saved, "ours names no files"
    names = "best_model_path", "kth_best_model_path", "last_model_path"
    state = dict.fromkeys(names, way.format(victim=victim, out=path.parent)) | {"dirpath": str(path.parent)}
    saved["callbacks"] = {Last(path.parent, False).state_key: state}
    torch.save(saved, path)
    row = DOORS["resume"](path)
    assert len(row["history"]) == 2 and victim.is_dir()


# --- results files --------------------------------------------------------------------------------

ROW = {
    "variant": "bpsa", "seed": 0, "recipe": {}, "accuracy": 0.5, "firing_rate": 0.1, "firing_rates": {"1": 0.1},
    "energy_ratio": 5.0, "energy_ratio_fp32_ac": 0.6, "train_seconds": 3.0,
    "history": [{"epoch": 0, "warm_up": None, "test_accuracy": 0.5}],
}  # fmt: skip


def test_a_results_file_is_read(tmp_path):
    path = tmp_path / "runs.json"
    path.write_text(json.dumps({"runs": [ROW]}))
    assert run_all.read_runs(path) == ([{"study": "compare", "setting": "", **ROW}], [])


RESULTS = {
    "deep": '{"runs": ' + "[" * 100_000,
    "deep-row": json.dumps({"runs": [ROW]})[:-2] + ', {"recipe": ' + '{"a": ' * 100_000,
    "a-seed-less": {"runs": [{k: v for k, v in ROW.items() if k != "seed"}]},
    "a-rate-less": {"runs": [{k: v for k, v in ROW.items() if k != "firing_rate"}]},
    "accuracy-text": {"runs": [ROW | {"accuracy": "0.5"}]},
    "accuracy-none": {"runs": [ROW | {"accuracy": None}]},
    "variant-list": {"runs": [ROW | {"variant": ["bpsa"]}]},
    "seconds-text": {"runs": [ROW | {"train_seconds": "3"}]},
    "rows-as-a-dict": {"runs": ROW},
}


@pytest.mark.parametrize("name", RESULTS)
def test_a_tampered_results_file_is_refused_and_stays(name, tmp_path):
    path, text = tmp_path / "runs.json", RESULTS[name]
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    before = path.read_text()
    with pytest.raises(ValueError, match=r"runs\.json is not a results file of `bpsta study`"):
        study("compare", RECIPE, [0], path)
    assert path.read_text() == before


# --- data -----------------------------------------------------------------------------------------

pytestmark = [
    pytest.mark.usefixtures("cache"),
    pytest.mark.filterwarnings("ignore:.* recordings in .*; accuracies on a part", "ignore:Lightning couldn't infer"),
]


@pytest.mark.parametrize("form", ["batches", "archive", "cache"])
def test_code_in_cifar10_is_not_run(form, tmp_path, cache, marker):
    """Its batches are pickles: only those of the known checksums are opened."""
    dataset = pytest.importorskip("torchvision", reason="torchvision (extra: data) is missing").datasets.CIFAR10
    hostile = pickle.dumps({"data": Hostile(marker), "labels": [], "label_names": []})
    names = [*(name for name, _ in dataset.train_list + dataset.test_list), dataset.meta["filename"]]
    folder = (cache if form == "cache" else tmp_path) / dataset.base_folder
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_bytes(hostile)
    if form != "batches":
        with tarfile.open(tmp_path / dataset.filename, "w:gz") as archive:
            archive.add(folder, arcname=dataset.base_folder)
    if form == "archive":
        folder.rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=rf"{tmp_path}.*(damaged or foreign file).*md5"):
        load("cifar10", root=tmp_path)


CLIP = "DVSGesture/ibmGestureTrain/user01_led/3.npy"


def clip(root, array=None, **header):
    """A clip of DVS-Gesture; with `header`, one whose file says something else about it."""
    path = root / CLIP
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        if header:
            np.lib.format.write_array_header_1_0(file, {"descr": "<i8", "fortran_order": False} | header)
            file.write(bytes(4 * 8 * 5))
        else:
            np.save(file, np.arange(20).reshape(5, 4) % 2 if array is None else array, allow_pickle=True)
    return path


def test_code_in_a_recording_or_in_the_cache_is_not_run(tmp_path, cache, marker):
    clip(tmp_path, np.array([Hostile(marker)], dtype=object))
    with pytest.raises(ValueError, match=f"expected .*{CLIP} to be intact"):
        load("dvs_gesture", root=tmp_path)
    clip(tmp_path)
    expected = load("dvs_gesture", root=tmp_path)[0][0]
    (frames,) = (cache / "frames").iterdir()
    np.save(frames, np.array([Hostile(marker)], dtype=object), allow_pickle=True)
    with pytest.warns(UserWarning, match="computed anew"):
        assert torch.equal(load("dvs_gesture", root=tmp_path)[0][0], expected)


CLAIMS = {
    "many-events": {"shape": (6, 4)},
    "more-than-memory": {"shape": (1 << 40, 4)},
    "more-than-numbers": {"shape": (1 << 62, 1 << 62)},
    "negative": {"shape": (-1, 4)},
    "one-column": {"shape": (20,)},
    "two-columns": {"shape": (10, 2)},
    "objects": {"descr": "|O", "shape": (5, 4)},
    "text": {"descr": "<U8", "shape": (5, 4)},
}


@pytest.mark.parametrize("name", CLAIMS)
def test_a_recording_that_claims_to_be_another_is_refused(name, tmp_path):
    clip(tmp_path, **CLAIMS[name])
    with pytest.raises(ValueError, match=f"{CLIP} (to be intact|gives no frames)"):
        load("dvs_gesture", root=tmp_path)


def test_a_recording_of_nothing_but_overflows_is_refused(tmp_path):
    """tonic goes through all later events for each of them: a file of 5 MB would take hours."""
    pytest.importorskip("tonic", reason="tonic (extra: data) is missing")
    path = tmp_path / "NMNIST" / "Train" / "3" / "00001.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\0\xf0\0\0\0" * (1 << 20))
    with pytest.raises(ValueError, match=r"Train/3/00001\.bin .*1048576 overflows"):
        load("nmnist", root=tmp_path)


def idx(array):
    """The form of MNIST's files."""
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def mnist(tmp_path):
    pytest.importorskip("torchvision", reason="torchvision (extra: data) is missing")
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx(np.zeros((3, 28, 28), np.uint8)))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.array([0, 9, 4], np.uint8)))
    return raw


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
IDX = {
    "more-images": (IMAGES, idx(np.zeros((3, 28, 28), np.uint8)).replace(b"\0\0\0\3", b"\0\0\0\4", 1)),
    "more-than-memory": (IMAGES, b"\0\0\x08\3" + b"\x7f\xff\xff\xff" * 3 + bytes(99)),
    "no-rows": (IMAGES, b"\0\0\x08\3" + bytes(12)),
    "four-dimensions": (IMAGES, idx(np.zeros((3, 1, 28, 28), np.uint8))),
    "other-numbers": (IMAGES, b"\0\0\x0d" + idx(np.zeros((3, 28, 28), np.uint8))[3:]),
    "unknown-numbers": (IMAGES, b"\0\0\x0a" + idx(np.zeros((3, 28, 28), np.uint8))[3:]),
    "other-size": (IMAGES, idx(np.zeros((3, 14, 56), np.uint8))),
    "header": (IMAGES, b"\0\0"),
    "empty": (IMAGES, b""),
    "packed": (IMAGES, gzip.compress(idx(np.zeros((3, 28, 28), np.uint8)))),
    "labels-of-two-dimensions": (LABELS, idx(np.zeros((3, 1), np.uint8))),
    "labels-beyond": (LABELS, idx(np.array([0, 10, 4], np.uint8))),
}


@pytest.mark.parametrize("name", IDX)
def test_idx_files_that_claim_something_else_are_refused(name, mnist):
    assert load("mnist", root=mnist.parents[1]).targets.tolist() == [0, 9, 4]
    file, damaged = IDX[name]
    (mnist / file).write_bytes(damaged)
    with pytest.raises(ValueError, match=rf"{mnist.parents[1]}.*damaged"):
        load("mnist", root=mnist.parents[1])
