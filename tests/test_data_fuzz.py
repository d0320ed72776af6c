"""Whatever is put into the readers and cameras of data: a right result, or an error that names the argument."""

import contextlib
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("hypothesis", reason="hypothesis (extra: dev) is missing")
from _fuzz import ANYTHING, FLAG, NAN, REFUSED, WHERE, attempt, calls, fuzz, mostly, optional, tensors
from hypothesis import strategies as st  # noqa: E402

from snntorch_bpsta import data  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


# --- data -----------------------------------------------------------------------------------------


EVENTS = st.builds(
    lambda count, seed, dtype: {
        field: np.random.default_rng(seed).integers(0, 2, count).astype(dtype) for field in ("x", "y", "p", "t")
    },
    st.sampled_from([0, 1, 7, 40]), st.integers(0, 9), st.sampled_from(["int64", "uint8", "int16", "bool", "uint64"]),
)  # fmt: skip


@st.composite
def odd_events(draw):
    """A field of another length, type or range; or a field too few."""
    events = dict(draw(EVENTS))
    field = draw(st.sampled_from("xypt"))
    if draw(st.booleans()):
        del events[field]
    else:
        events[field] = draw(
            st.one_of(ANYTHING, st.sampled_from([np.array([-1]), np.array([NAN]), np.array(["a", None])]))
        )
    return events


CUT = st.sampled_from([(1, ...), (3, ...), (16, None), (None, 1), (None, 20)])  # num_steps, time_window
POLARITIES = optional(1, 2)


@fuzz("events_to_frames", examples=250, cut=CUT, arguments=calls(
    events=mostly(EVENTS, odd_events()),
    sensor_size=st.sampled_from([(2, 2), [3, 5], 2]), size=optional(None, 1, (4, 3)), polarities=POLARITIES,
))  # fmt: skip
def test_events_to_frames(cut, arguments):
    arguments |= dict(zip(("num_steps", "time_window"), cut, strict=True))
    if arguments["time_window"] is ...:
        del arguments["time_window"]
    frames = attempt(data.events_to_frames, **arguments)
    if frames is REFUSED:
        return
    height_width = arguments.get("size")
    height_width = arguments["sensor_size"] if height_width in (None, ...) else height_width
    height_width = tuple(height_width) if isinstance(height_width, (tuple, list)) else (height_width,) * 2
    steps = arguments["num_steps"] or len(frames)
    assert frames.dtype == np.int16 and frames.shape == (steps, arguments.get("polarities", 2), *height_width)
    assert arguments["num_steps"] or len(frames) <= 2, "times are 0 and 1"
    if arguments.get("size") is None:
        assert frames.sum() == len(arguments["events"]["x"])


AEDAT = st.one_of(
    st.binary(max_size=40),
    st.binary(max_size=40).map(lambda raw: b"#!AER-DAT2.0\r\n" + raw),
    st.builds(
        lambda n, raw: b"#!AER-DAT2.0\r\n# a header\n" + (raw * 8 * n)[: 8 * n],
        st.integers(0, 4),
        st.binary(min_size=1),
    ),
    st.sampled_from([b"#", b"#!AER-DAT2.0", b"#!AER-DAT2.0\n#", b"#!AER-DAT2.0\n" + b"#" * 100]),
)


@fuzz("read_aedat2", examples=150, source=mostly(AEDAT))
def test_read_aedat2(source):
    try:
        events = attempt(data.read_aedat2, source)
    except OSError as error:
        assert str(Path(source)) in str(error)
        return
    if events is not REFUSED:
        assert len(events) <= len(source) // 8
        assert not len(events) or (0 <= events["x"].min() and events["x"].max() < 128)


@fuzz("load", "cache_dir", "data_dir", examples=150, draws=st.data())
def test_load(empty, draws):
    pytest.importorskip("sklearn", reason="scikit-learn (extra: data) is missing")
    arguments = draws.draw(calls(
        name=mostly(st.just("digits"), st.sampled_from(sorted(set(data.DATASETS) - {"digits_simulated"}))), train=FLAG,
        root=WHERE, num_steps=optional(1, 4), size=optional(None, 8, (8, 8)), limit=optional(None, 1, 20, 10**6),
        download=optional(False),
        odd=ANYTHING.filter(lambda value: value is not True),
    ), label="arguments")  # fmt: skip
    assert data.cache_dir() == empty / "cache"
    assert attempt(data.data_dir, **{key: value for key, value in arguments.items() if key == "root"}) is not None
    try:
        samples = attempt(data.load, **arguments)
    except (FileNotFoundError, ImportError) as error:
        images = {"nmnist_simulated": "mnist", "cifar10_dvs_simulated": "cifar10"}  # which those are filmed of
        assert images.get(arguments["name"], arguments["name"]) in str(error) or isinstance(error, ImportError)
        return
    if samples is not REFUSED:
        image, label = samples[0]
        assert arguments["name"] == "digits" and image.shape == (1, 8, 8) and type(label) is int
        assert len(samples) == len(samples.targets) <= (arguments.get("limit") or 1797)


@fuzz("from_folder", examples=100, cut=CUT, arguments=calls(
    root=mostly(st.sampled_from(["own", Path("own")]), WHERE.filter(lambda root: root is not ...)),
    sensor_size=st.sampled_from([4, (5, 4), [4, 4]]), size=optional(None, 2, (4, 3)), polarities=POLARITIES,
    train=optional(None, True, False), limit=optional(None, 1, 10**6),
))  # fmt: skip
def test_from_folder(empty, cut, arguments):
    for name in ("a/1", "a/2", "b/1", "b/2"):
        (empty / "own" / name).parent.mkdir(parents=True, exist_ok=True)
        np.savez(empty / "own" / name, x=[0, 3], y=[1, 2], p=[0, 1], t=[0, 30])
    num_steps, window = cut
    arguments |= {"num_steps": num_steps} | ({} if window is ... else {"time_window": window})
    try:
        samples = attempt(data.from_folder, **arguments)
    except FileNotFoundError as error:
        assert str(arguments["root"]) in str(error)
        return
    if samples is not REFUSED:
        assert samples.classes == ("a", "b") and len(samples) <= 4
        assert {len(frames) for frames, _ in samples} == {num_steps or 30 // window + 1}
        assert all(0 < frames.sum() <= 2 or arguments.get("size") for frames, _ in samples)


@fuzz("pad_sequences", examples=150, samples=mostly(st.lists(
    mostly(st.tuples(mostly(tensors(st.sampled_from([(1, 2), (3, 2), (2, 2), (0, 2), (2, 3)]))), st.integers(0, 9))),
    max_size=3,
)))  # fmt: skip
def test_pad_sequences(samples):
    out = attempt(data.pad_sequences, samples)
    if out is not REFUSED:
        x, lengths, targets = out
        assert x.shape[:2] == (int(lengths.max()), len(samples)) and targets.tolist() == [label for _, label in samples]


@pytest.mark.parametrize("name", [name for name in data.DATASETS if not name.startswith("digits")])
@fuzz("digits", "mnist", "cifar10", "nmnist", "dvs_gesture", "cifar10_dvs", "digits_simulated", "nmnist_simulated",
      "cifar10_dvs_simulated", examples=15, arguments=calls(
    train=st.booleans(), root=WHERE.filter(lambda root: root is not ...), download=optional(False),
    odd=ANYTHING.filter(lambda value: value is not True),
))  # fmt: skip
def test_loaders(empty, name, arguments):
    with contextlib.suppress(FileNotFoundError, ImportError):
        found = attempt(data.DATASETS[name].loader, **arguments)
        assert found is REFUSED, "there is nothing to find"


@fuzz("saccades", examples=100, arguments=calls(
    image=tensors(st.sampled_from([(6, 6), (1, 5, 7), (3, 4, 4), (1, 1), (0, 4)]), [torch.float32, torch.uint8]),
    camera=optional("nmnist", data.Camera((3, 4), ((0, 3000, (0, 0), (3, 0), 1, 1),), noise=(5.0, 5.0))),
    seed=optional(0, (1, 2)),
))  # fmt: skip
def test_saccades(arguments):
    events = attempt(data.saccades, **arguments)
    if events is not REFUSED:
        assert (
            np.all(np.diff(events["t"]) >= 0) and np.isin(events["p"], (0, 1)).all() and events["x"].min(initial=0) >= 0
        )


NUMBER = optional(0.5, 1.0, 20, 1e-3)


@fuzz("Camera", examples=150, arguments=calls(
    sensor_size=st.sampled_from([(3, 4), (1, 1)]), path=st.just(((0, 3000, (0, 0), (3, 0), 1, 1),)), scale=NUMBER,
    blur=NUMBER, contrast=NUMBER, gamma=NUMBER, threshold=NUMBER, refractory=NUMBER, noise=optional((0.0, 2.0)),
    inverted=FLAG, step=NUMBER,
))  # fmt: skip
def test_camera(arguments):
    attempt(data.Camera, **arguments)


@fuzz("Samples", "Samples.take", "DatasetSpec", examples=150, draws=st.data())
def test_samples(draws):
    count = draws.draw(st.integers(0, 3))
    lengths = draws.draw(st.lists(st.integers(1, 3), min_size=count, max_size=count))
    total = draws.draw(st.sampled_from([count, sum(lengths)]))
    values = np.arange(2 * total, dtype=np.uint8).reshape(total, 2)
    arguments = draws.draw(calls(
        data=st.just(values), targets=st.sampled_from([list(range(count)), np.arange(count), torch.arange(count)]),
        scale=optional(1, 255, 0.5), lengths=optional(None, lengths, np.array(lengths)),
    ), label="arguments")  # fmt: skip
    samples = attempt(data.Samples, **arguments)
    if samples is REFUSED:
        return
    for sample, label in [samples[i] for i in range(len(samples))]:
        assert sample.dtype == torch.float32 and type(label) is int
    index = draws.draw(mostly(st.sampled_from([[0], [], np.array([0, 0]), [-1], [99], slice(2), [True]])))
    part = attempt(samples.take, index)
    if part is not REFUSED:
        assert len(part) == len(part.targets) and all(type(part[i][1]) is int for i in range(len(part)))
    assert dataclasses.replace(data.DATASETS["digits"], num_classes=3).num_classes == 3
