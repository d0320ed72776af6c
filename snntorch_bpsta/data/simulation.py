"""Images to event streams: a picture moves before a modelled event camera. What comes out is simulated, never recorded."""

from __future__ import annotations

import hashlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from .._checks import (
    FLOATING,
    check_choice,
    check_flags,
    check_instance,
    check_int,
    check_number,
    check_positive_int,
)
from . import images

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Future

    from .._typing import AnyPath, Leg
    from ._common import Samples

__all__ = ["CAMERAS", "Camera", "cifar10_dvs_simulated", "digits_simulated", "nmnist_simulated", "saccades"]


_MODEL = 3  # goes up when the same camera gives other events
_SAMPLES = 4  # of the scene per pixel of the camera, in each direction
_MARGIN = 1.0  # pixels beyond what the movement uncovers
_DTYPE = np.dtype([("x", int), ("y", int), ("t", int), ("p", int)])  # tonic's


@dataclass(frozen=True)
class Camera:
    """An event camera, and how the picture moves before it.

    Attributes:
        sensor_size: (H, W) in pixels.
        path: legs ``(begin, end, from, to, rise, fall)`` of the movement: times in us, positions (x, y) of the picture's
            middle from the sensor's in pixels, and the speed in between, which is proportional to
            :math:`\\tau^{rise} (1 - \\tau)^{fall}` for :math:`\\tau` from 0 to 1. In between legs the picture rests.
        scale: pixels of the sensor per pixel of the picture.
        blur: standard deviation of the optics' point spread, in pixels of the sensor.
        contrast: luminance of white over that of black, less 1.
        gamma: of the screen: luminance goes with value ** gamma.
        threshold: change of the natural logarithm of luminance that makes an event.
        refractory: dead time of a pixel after an event, us.
        noise: events without a cause, per pixel and second: (OFF, ON).
        spread: what a pixel memorises at the beginning differs by chance from what it sees, by up to this part of the
            threshold. Without it, pixels whose movement comes back to where it began fire at one instant.
        inverted: polarities change places.
        step: of the calculation, us; in between the logarithm of luminance is linear.
    """

    sensor_size: tuple[int, int]
    path: tuple[Leg, ...]
    scale: float = 1.0
    blur: float = 0.7
    contrast: float = 4.5
    gamma: float = 1.0
    threshold: float = 0.25
    refractory: float = 2000.0
    noise: tuple[float, float] = (0.0, 0.0)
    spread: float = 0.0
    inverted: bool = False
    step: float = 1000.0

    def __post_init__(self) -> None:
        check_instance("sensor_size", self.sensor_size, tuple, "(H, W)")
        if len(self.sensor_size) != 2:
            raise ValueError(f"sensor_size must be (H, W), got {self.sensor_size}")
        for size in self.sensor_size:
            check_positive_int("sensor_size", size)
        for name in ("scale", "contrast", "gamma", "threshold", "step"):
            check_number(name, getattr(self, name), "a finite number > 0", above=0)
        for name in ("blur", "refractory", "spread"):
            check_number(name, getattr(self, name), "a finite number >= 0", lowest=0)
        check_flags(inverted=self.inverted)
        check_instance("noise", self.noise, tuple, "two rates (OFF, ON)")
        if len(self.noise) != 2:
            raise ValueError(f"noise must be two rates (OFF, ON), got {self.noise}")
        for rate in self.noise:
            check_number("noise", rate, "a finite rate >= 0", lowest=0)
        check_instance("path", self.path, tuple, "a tuple of legs")
        last = 0.0
        for leg in self.path:
            if not isinstance(leg, tuple) or len(leg) != 6:
                raise ValueError(f"path: each leg must be (begin, end, from, to, rise, fall), got {leg!r}")
            begin, end, origin, target, rise, fall = leg
            for point in (origin, target):
                if not isinstance(point, tuple) or len(point) != 2:
                    raise ValueError(f"path: from and to must be (x, y), got {point!r}")
                for value in point:
                    check_number("path: a position", value, "a finite number")
            for value in (rise, fall):
                check_number("path: rise and fall", value, "a finite number >= 0", lowest=0)
            check_number("path: begin", begin, f"a time >= {last}, the end of the leg before", lowest=last)
            last = check_number("path: end", end, "a time after its begin", above=begin)
        if not self.path:
            raise ValueError("path must have at least one leg, got none")


def _loop(corners, leg, turns):
    """`turns` times round the `corners` at constant speed, `leg` us from each to the next."""
    corners = (*corners, corners[0])
    legs = [(corners[i], corners[i + 1]) for i in range(len(corners) - 1)] * turns
    return tuple((i * leg, (i + 1) * leg, origin, target, 0, 0) for i, (origin, target) in enumerate(legs))


# N-MNIST: an ATIS on a pan-tilt head makes three saccades round a triangle. Times, positions, speeds, gamma, noise and the
# polarity that an edge has are fitted to 60 of the real recordings (MNIST's training images 0 to 59); the rest is assumed.
# CIFAR10-DVS: the picture goes round a diamond on a screen before a DVS128, six times; all of it is assumed, but for the
# threshold, which gives about the 200,000 events that recordings have.
CAMERAS = {
    "nmnist": Camera(
        sensor_size=(34, 34),
        path=(
            (5_300, 82_900, (-3.35, -0.91), (-0.82, 3.73), 1.5, 1.1),
            (98_200, 191_000, (-0.82, 3.73), (3.80, -1.78), 1.5, 1.1),
            (224_000, 303_600, (3.80, -1.78), (-2.45, -1.43), 0.5, 1.0),
        ),
        gamma=1.5,
        threshold=0.26,
        noise=(0.14, 0.48),
        inverted=True,
    ),
    "cifar10_dvs": Camera(
        sensor_size=(128, 128),
        path=_loop(((0, -8), (8, 0), (0, 8), (-8, 0)), leg=50_000, turns=6),
        scale=3.5,
        contrast=10.0,
        threshold=0.6,
        spread=1.0,
        step=2000.0,
    ),
}


def saccades(
    image: torch.Tensor | np.ndarray, camera: str | Camera = "nmnist", *, seed: int | Sequence[int] = 0
) -> np.ndarray:
    """Film one picture with a modelled event camera.

    The picture moves before the sensor; where the logarithm of a pixel's luminance has changed by `threshold` since its
    last event, it fires, unless it is in its dead time, and memorises what it sees. Within a step of the calculation the
    logarithm goes linearly, so times are those of the crossings and not of the steps. Noise is added as a Poisson process.

    Args:
        image: ``[H, W]`` or ``[C, H, W]``, C = 1 or 3 (RGB, of which the luma counts); bytes, or floats in [0, 1].
        camera: a key of :data:`CAMERAS` ("nmnist", "cifar10_dvs") or a :class:`Camera`.
        seed: of the noise and the spread; an integer, or a sequence of them. Everything else is without chance.

    Returns:
        numpy.ndarray: events in the order of time, a structured array of tonic's dtype, with the fields x, y, t (us) and p
        (1 = ON).

    Raises:
        TypeError, ValueError: an argument of the wrong type, or out of range.

    Example:
        >>> from snntorch_bpsta.data import load, saccades
        >>> image, label = load("digits", limit=1)[0]
        >>> events = saccades(image)
        >>> events.dtype.names, bool((events["t"][1:] >= events["t"][:-1]).all())
        (('x', 'y', 't', 'p'), True)

    References:
        G. Orchard, A. Jayawant, G. Cohen, N. Thakor, "Converting static image datasets to spiking neuromorphic datasets
        using saccades", Frontiers in Neuroscience 9:437, 2015. H. Li, H. Liu, X. Ji, G. Li, L. Shi, "CIFAR10-DVS: An
        Event-Stream Dataset for Object Classification", Frontiers in Neuroscience 11:309, 2017.
    """
    if not isinstance(camera, Camera):
        check_instance("camera", camera, str, "a Camera or the name of one")
        check_choice("camera", camera, tuple(CAMERAS))
        camera = CAMERAS[camera]
    for part in seed if isinstance(seed, (tuple, list)) else (seed,):
        check_int("seed", part, 0)
    return _film(_luma(image), camera, seed)


def _luma(image):
    """One channel, float in [0, 1]."""
    if isinstance(image, torch.Tensor):
        if image.layout is not torch.strided or image.is_meta or image.dtype not in (torch.uint8, *FLOATING):
            raise TypeError(
                f"image must be a dense tensor of bytes or floats with values, got {image.dtype}, {image.layout}"
            )
        image = image.detach().cpu()
        image = (image.double() if image.is_floating_point() else image).resolve_neg().numpy()
    if not isinstance(image, np.ndarray) or (image.dtype != np.uint8 and image.dtype.kind != "f"):
        got = getattr(image, "dtype", type(image).__name__)
        raise TypeError(f"image must be a tensor or array of bytes or floats, got {got}")
    if image.ndim not in (2, 3) or 0 in image.shape or (image.ndim == 3 and image.shape[0] not in (1, 3)):
        raise ValueError(f"image must be [H, W], [1, H, W] or [3, H, W], got {image.shape}")
    if image.dtype == np.uint8:
        image = image / 255.0
    elif not (image.min() >= 0 and image.max() <= 1):
        raise ValueError(f"image must be in [0, 1], got {image.min()} to {image.max()}")
    if image.ndim == 3:
        image = image[0] if len(image) == 1 else np.tensordot([0.299, 0.587, 0.114], image, 1)
    return image.astype(np.float64)


def _film(image, camera, seed):
    from ._film import film, mix  # numba, which takes its time to import

    path = _path(camera)
    height, width = camera.sensor_size
    down, right = (_optics(camera, side) for side in image.shape)
    rows = mix(down, image**camera.gamma)
    scene = np.log1p(camera.contrast * mix(right, np.ascontiguousarray(rows.T)).T)
    scene = np.ascontiguousarray(scene)
    # where the sensor's first pixel is in the scene, with the picture in the middle
    top, left = ((len(s) / _SAMPLES - size) / 2 for s, size in ((down, height), (right, width)))
    random = np.random.default_rng(seed)
    offset = (
        camera.threshold
        * camera.spread
        * (random.uniform(-1, 1, (height, width)) if camera.spread else np.zeros((1, 1)))
    )
    seen = np.empty(20 * height * width, _DTYPE)
    while True:
        arguments = scene, _SAMPLES, top, left, path, height, width, camera.threshold, camera.refractory, offset
        count = film(*arguments, seen["x"], seen["y"], seen["t"], seen["p"])
        if count <= len(seen):
            break
        seen = np.empty(count, _DTYPE)
    seen = seen[:count]
    if camera.inverted:
        seen["p"] = 1 - seen["p"]
    if any(camera.noise):
        noise = []
        for polarity, rate in enumerate(camera.noise):
            events = np.empty(random.poisson(rate * height * width * path[-1, 0] * 1e-6), _DTYPE)
            events["x"], events["y"] = (random.integers(0, size, len(events)) for size in (width, height))
            events["t"] = random.integers(0, int(path[-1, 0]) + 1, len(events))
            events["p"] = polarity
            noise.append(events)
        seen = np.concatenate([seen, *noise])
    return seen[np.argsort(seen["t"], kind="stable")]


@cache
def _path(camera):
    """[steps + 1, 3]: t in us, x, y of the picture."""
    end = camera.path[-1][1]
    t = np.arange(0, end + camera.step, camera.step, dtype=np.float64)
    position = np.tile(np.array(camera.path[0][2], dtype=np.float64), (len(t), 1))
    tau = np.linspace(0, 1, 513)
    for begin, stop, origin, target, rise, fall in camera.path:
        speed = tau**rise * (1 - tau) ** fall
        way = np.concatenate([[0], np.cumsum(speed[1:] + speed[:-1])])
        done = np.interp(np.clip((t - begin) / (stop - begin), 0, 1), tau, way / way[-1])[:, None]
        moved = np.array(origin) + done * (np.array(target) - np.array(origin))
        position[t >= begin] = moved[t >= begin]
    return np.column_stack([t, position])


@cache
def _optics(camera, side):
    """[samples, side]: what a row of the scene, sampled _SAMPLES times a pixel of the sensor, sees of a row of the picture:
    linear interpolation, then the point spread. Black around the picture, as far as the movement goes."""
    reach = np.abs(_path(camera)[:, 1:]).max()
    sensor = max(camera.sensor_size)
    length = max(sensor, side * camera.scale) + 2 * (reach + _MARGIN)
    samples = int(np.ceil(length * _SAMPLES / 2)) * 2
    at = (
        ((np.arange(samples) + 0.5 - samples / 2) / (_SAMPLES * camera.scale)) + side / 2 - 0.5
    )  # in pixels of the picture
    linear = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(side)))
    outside = (at < 0) | (at > side - 1)  # half a pixel at the edges, which nothing lies beyond
    edge = outside & (at > -0.5) & (at < side - 0.5)
    linear[edge] = 0
    linear[edge, np.clip(np.round(at[edge]), 0, side - 1).astype(int)] = 1
    if camera.blur:
        distance = (np.arange(samples)[:, None] - np.arange(samples)) / (_SAMPLES * camera.blur)
        spread = np.where(np.abs(distance) <= 3, np.exp(-0.5 * distance**2), 0)
        linear = spread / spread.sum(1, keepdims=True) @ linear
    return linear


class Filmed:
    """Simulated recordings of a data set of images, filmed as they are read. Stands where recordings from files do.

    Iterating films them one by one, on as many threads as torch has; each is an array of :func:`saccades`, with the seed
    (0, position of the image in its data set).

    Attributes:
        name: the data set, which says that it is simulated.
        targets: integer labels [N].
        sensor_size: (H, W) in pixels.
    """

    def __init__(self, name: str, images: Samples, camera: Camera, index: np.ndarray | None = None) -> None:
        self.name, self.images, self.camera = name, images, camera
        self.index = np.arange(len(images)) if index is None else index
        self.targets = np.asarray(images.targets)[self.index]
        self.sensor_size = camera.sensor_size
        self.url = None

    def __len__(self) -> int:
        return len(self.index)

    def take(self, index: np.ndarray) -> Filmed:
        """These recordings at the positions `index` only, in that order."""
        return Filmed(self.name, self.images, self.camera, self.index[index])

    def identity(self) -> str:
        """What the events depend on, as text."""
        pictures = hashlib.sha256(np.ascontiguousarray(self.images.data[self.index]))  # type: ignore[arg-type]
        return repr((_MODEL, astuple(self.camera), pictures.hexdigest(), self.index.tolist()))

    def names(self) -> list[str]:
        """What to call each recording in a message."""
        return [f"the film of image {i} of {self.name}" for i in self.index]

    def __iter__(self) -> Iterator[np.ndarray]:
        def film(i):
            return _film(_luma(self.images.data[i] / self.images.scale), self.camera, (0, int(i)))

        threads = max(1, torch.get_num_threads())
        with ThreadPoolExecutor(threads) as pool:  # a few ahead, and no more: memory stays what it is
            ahead: deque[Future[np.ndarray]] = deque()
            for i in self.index:
                ahead.append(pool.submit(film, i))
                if len(ahead) > 4 * threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()


def digits_simulated(train: bool, root: AnyPath | None = None, download: bool = False) -> Filmed:
    """scikit-learn's digits filmed as N-MNIST was, by :func:`saccades`: 1,437 train and 360 test recordings, simulated. No
    download. A pixel of the picture is 3.5 of the camera's, which makes the digits as large as N-MNIST's.

    Args:
        train, root, download: those of the loader of "digits", whose images these are.

    Returns:
        Filmed, in the order of that loader.

    Raises:
        ImportError: as the loader of "digits".
    """
    return Filmed("digits_simulated", images.digits(train, root, download), replace(CAMERAS["nmnist"], scale=3.5))


def nmnist_simulated(train: bool, root: AnyPath, download: bool = False) -> Filmed:
    """MNIST filmed as N-MNIST was, by :func:`saccades`: 60,000 train and 10,000 test recordings, simulated.

    Args:
        train, root, download: those of the loader of "mnist", whose images these are.

    Returns:
        Filmed, in MNIST's order.

    Raises:
        FileNotFoundError, ValueError: as the loader of "mnist".
    """
    return Filmed("nmnist_simulated", images.mnist(train, root, download), CAMERAS["nmnist"])


def cifar10_dvs_simulated(train: bool, root: AnyPath, download: bool = False) -> Filmed:
    """CIFAR-10 filmed as CIFAR10-DVS was, by :func:`saccades`: 50,000 train and 10,000 test recordings, simulated.

    Args:
        train, root, download: those of the loader of "cifar10", whose images these are.

    Returns:
        Filmed, in CIFAR-10's order.

    Raises:
        FileNotFoundError, ValueError: as the loader of "cifar10".
    """
    return Filmed("cifar10_dvs_simulated", images.cifar10(train, root, download), CAMERAS["cifar10_dvs"])
