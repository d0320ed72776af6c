"""The simulated event camera: against events worked out by hand, and against the real recordings of the same images."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from snntorch_bpsta.data import CAMERAS, DATASETS, Camera, load, saccades
from snntorch_bpsta.data.simulation import Filmed

# A picture wider than the sensor moves to the right at 1 pixel per ms; sharp, and no dead time.
STILL = Camera(
    sensor_size=(3, 6), path=((0, 4_000, (0.0, 0.0), (4.0, 0.0), 0, 0),), blur=0.0, contrast=1.0, threshold=0.1,
    refractory=0.0, step=125.0,
)  # fmt: skip
EDGE = np.zeros((5, 20))
EDGE[:, :10] = 1  # bright on the left: it comes in as the picture moves to the right


def digit():
    image = np.zeros((28, 28), np.uint8)
    image[6:22, 12:16] = 255
    return image


def test_events_of_an_edge_by_hand():
    """ln(2) / 0.1: six steps of the logarithm for every pixel that the edge crosses, all ON, in the order it comes by."""
    events = saccades(EDGE, STILL)
    assert events.dtype.names == ("x", "y", "t", "p") and np.all(events["p"] == 1)
    assert np.all(np.diff(events["t"]) >= 0)
    # The edge starts in the middle of the six pixels; the middles of 4 and 5 are 1.5 and 2.5 pixels further on. Luminance
    # goes linearly between the middles of the picture's last bright pixel and its first dark one, so its logarithm is
    # ln(1 + c) = k / 10 at c = exp(k / 10) - 1, and c rises from 0 to 1 in a millisecond.
    crossing = np.expm1(0.1 * np.arange(1, 7)) * 1_000
    for x, start in ((4, 1_000), (5, 2_000)):
        for y in range(3):
            t = events["t"][(events["x"] == x) & (events["y"] == y)]
            assert len(t) == 6 and np.abs(t - start - crossing).max() < 25, (x, y, t)


def test_the_other_way_round():
    events = saccades(1 - EDGE, STILL)
    assert len(events) and np.all(events["p"] == 0)
    assert np.all(saccades(1 - EDGE, replace(STILL, inverted=True))["p"] == 1)


def test_nothing_happens_without_movement_or_contrast():
    assert len(saccades(EDGE, replace(STILL, path=((0, 4_000, (1.0, 1.0), (1.0, 1.0), 0, 0),)))) == 0
    assert len(saccades(np.ones((5, 200)), replace(STILL, sensor_size=(1, 4)))) == 0
    assert len(saccades(EDGE, replace(STILL, threshold=0.7))) == 0, "ln 2 is below it"


def test_the_dead_time():
    events = saccades(EDGE, replace(STILL, refractory=300.0))
    for x in (4, 5):
        t = np.sort(events["t"][(events["x"] == x) & (events["y"] == 1)])
        assert len(t) in (2, 3, 4) and np.diff(t).min() >= 299


def test_noise():
    camera = replace(STILL, sensor_size=(50, 50), noise=(100.0, 300.0), threshold=5.0)
    events = saccades(EDGE, camera, seed=3)
    off, on = np.bincount(events["p"])
    assert off == pytest.approx(1_000, abs=5 * 1_000**0.5) and on == pytest.approx(3_000, abs=5 * 3_000**0.5)
    assert {*events["x"]} == {*events["y"]} == set(range(50)) and 0 <= events["t"].min() <= events["t"].max() <= 4_000
    assert np.array_equal(events, saccades(EDGE, camera, seed=3))
    assert not np.array_equal(events, saccades(EDGE, camera, seed=4))


def test_the_spread_of_what_pixels_memorise():
    """With a spread of one threshold the first event of a pixel comes anywhere up to the second one of a pixel without."""
    camera = replace(STILL, sensor_size=(400, 6))
    tall = np.tile(EDGE[:1], (400, 1))
    first = [np.array([e["t"][(e["x"] == 4) & (e["y"] == y)][0] for y in range(50, 350)]) for e in (
        saccades(tall, camera), saccades(tall, replace(camera, spread=1.0), seed=1)
    )]  # fmt: skip
    assert len({*first[0]}) == 1 and len({*first[1]}) > 50
    second = 1_000 + np.expm1(0.2) * 1_000
    assert 1_000 - 125 <= first[1].min() and first[1].max() <= second + 25  # a step of the calculation early
    assert np.median(first[1]) == pytest.approx(np.median(first[0]), abs=25)
    assert np.array_equal(*(saccades(tall, replace(camera, spread=1.0), seed=2) for _ in range(2)))


@pytest.mark.parametrize("name", CAMERAS)
def test_cameras(name):
    camera, image = CAMERAS[name], digit()
    events = saccades(image, name)
    height, width = camera.sensor_size
    assert 0 <= events["x"].min() <= events["x"].max() < width and 0 <= events["y"].min() <= events["y"].max() < height
    assert 0 < events["t"].min() <= events["t"].max() <= camera.path[-1][1] + camera.step
    for other in (image / 255, (image / 255).astype(np.float32)[None], torch.tensor(image), np.stack([image] * 3)):
        again = saccades(other, camera)
        assert abs(len(again) - len(events)) <= 0.01 * len(events)
    assert np.array_equal(saccades(image, camera), events)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(image=[[0.0]]), TypeError, "image must be a tensor or array"),
        (dict(image=np.zeros((2, 2), int)), TypeError, "bytes or floats, got int64"),
        (dict(image=np.zeros((2, 4, 4))), ValueError, r"image must be .* got \(2, 4, 4\)"),
        (dict(image=np.full((4, 4), 1.5)), ValueError, r"image must be in \[0, 1\], got 1.5 to 1.5"),
        (dict(image=np.full((4, 4), np.nan)), ValueError, r"image must be in \[0, 1\]"),
        (dict(camera="atis"), ValueError, "camera must be one of 'nmnist', 'cifar10_dvs'; got 'atis'"),
        (dict(camera=3), TypeError, "camera must be a Camera or the name of one, got int"),
        (dict(seed=-1), ValueError, "seed must be an integer >= 0"),
    ],
)
def test_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        saccades(**{"image": digit(), **arguments})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(sensor_size=(3,)), r"sensor_size must be \(H, W\)"),
        (dict(threshold=0.0), "threshold must be a finite number > 0"),
        (dict(refractory=-1.0), "refractory must be a finite number >= 0"),
        (dict(noise=(1.0,)), "noise must be two rates"),
        (dict(path=()), "path must have at least one leg"),
        (dict(path=((0, 1),)), "path: each leg must be"),
        (dict(path=((5, 5, (0, 0), (1, 1), 1, 1),)), "path: end must be a time after its begin"),
        (dict(path=((0, 5, (0, 0), (1, 1), 1, 1), (4, 9, (1, 1), (0, 0), 1, 1))), "path: begin must be a time >= 5"),
        (dict(path=((0, 5, (0, 0), (1, float("inf")), 1, 1),)), "path: a position must be a finite number"),
    ],
)
def test_refused_cameras(options, message):
    with pytest.raises(ValueError, match=message):
        replace(STILL, **options)


# --- as a data set --------------------------------------------------------------------------------


class Images:
    data = np.stack([np.roll(digit(), k, 1)[None] for k in range(6)])
    targets = torch.arange(6) % 3
    scale = 255

    def __len__(self):
        return len(self.data)


def test_films_do_not_depend_on_threads_or_neighbours():
    films = Filmed("test", Images(), CAMERAS["nmnist"])
    alone = [saccades(image / 255, "nmnist", seed=(0, k)) for k, image in enumerate(Images.data)]
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            assert all(np.array_equal(a, b) for a, b in zip(films, alone, strict=True))
    finally:
        torch.set_num_threads(threads)
    part = films.take(np.array([4, 1]))
    assert part.targets.tolist() == [1, 1] and len(part) == 2
    assert all(np.array_equal(a, alone[k]) for a, k in zip(part, (4, 1), strict=True))
    identities = [films, part, films.take(np.array([1, 4])), Filmed("test", Images(), replace(STILL, step=7.0))]
    assert len({each.identity() for each in identities}) == 4, "each has frames of its own in the cache"


def test_load_films_mnist(tmp_path, cache):
    pytest.importorskip("torchvision", reason="torchvision (extra: data) is missing")
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 6), ("t10k", 2)):
        images = Images.data[:count, 0]
        (raw / f"{part}-images-idx3-ubyte").write_bytes(
            b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in images.shape) + images.tobytes()
        )
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(
            b"\0\0\x08\x01" + count.to_bytes(4, "big") + bytes(range(count))
        )
    train, test = (load("nmnist_simulated", train=part, root=tmp_path, num_steps=3) for part in (True, False))
    assert (len(train), len(test)) == (6, 2) and train.targets.tolist() == list(range(6))
    frames, label = train[1]
    assert frames.shape == (3, *DATASETS["nmnist_simulated"].input_shape) and label == 1
    assert frames.sum() == len(saccades(Images.data[1] / 255, "nmnist", seed=(0, 1)))
    assert "simulat" in DATASETS["nmnist_simulated"].description
    assert all("simulated" in file.name for file in (cache / "frames").iterdir())


def test_digits_are_filmed_without_a_download(cache):
    pytest.importorskip("sklearn", reason="scikit-learn (extra: data) is missing")
    films = load("digits_simulated", limit=3, num_steps=4)
    pictures = load("digits", limit=3)
    assert films.targets.tolist() == pictures.targets.tolist() and films[0][0].shape == (4, 2, 34, 34)
    for (frames, _), (image, _) in zip(films, pictures, strict=True):
        assert 1_000 < frames.sum() < 10_000
        seen = frames.sum((0, 1))[3:31, 3:31]  # about where the picture is
        assert np.corrcoef(seen.flatten(), np.kron(image[0], np.ones((4, 4)))[2:30, 2:30].flatten())[0, 1] > 0.4


# --- beside the real recordings -------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:nmnist. 1")
def test_it_looks_like_the_real_recordings(real):
    """Also those of images that nothing was fitted to."""
    pytest.importorskip("lightning", reason="lightning (extra: train) is missing")
    from snntorch_bpsta.training.studies import simulator

    films = simulator.against_recordings(real("NMNIST", "MNIST"))
    assert len(films) == 1100 and sum(film["fitted"] for film in films) == 60
    found = simulator.summary([film for film in films if not film["fitted"]])
    correlations = [found[f"correlation_{saccade}_{polarity}"] for saccade in (1, 2, 3) for polarity in ("OFF", "ON")]
    assert min(correlations) > 0.7 and np.mean(correlations) > 0.8
    assert 0.9 < found["events_ratio"] < 1.1 and found["events_correlation"] > 0.9
    assert max(abs(found["on_simulated"] - 0.5), abs(found["on_real"] - 0.5)) < 0.02
    assert found["correlation_control"] < 0.6  # another image, mostly of the same class, is not as like
