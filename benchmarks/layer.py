"""One layer against all peers: at five sizes, fused with ReLU, and over time and size."""

from . import peers
from .contest import contest

SIZES = [(16, 64, 8192), (100, 64, 512), (4, 64, 16384), (16, 16, 131072), (500, 16, 512)]


def layer(settings, report):
    for shape in [(4, 2, 33)] if settings.quick else SIZES:
        contest(settings, report, peers.LAYER, shape)


def fused(settings, report):
    for shape in [(4, 2, 33)] if settings.quick else [SIZES[0], SIZES[3], *SIZES[1:3], SIZES[4]]:
        contest(settings, report, peers.FUSED, shape, relu=True, fresh=True)


def time_steps(settings, report):
    """T grows, the work stays: as long as there are neurons enough to be busy with."""
    work = 2**10 if settings.quick else 2**22 if settings.device.type == "cpu" else 2**26
    for t in (4, 16) if settings.quick else (4, 16, 64, 256, 1024, 4096):
        contest(settings, report, [peers.OURS, peers.SNNTORCH], (t, 4, work // t // 4))


def neurons(settings, report):
    for n in (10**3,) if settings.quick else [10**power for power in range(4, 9)]:
        contest(settings, report, [peers.OURS, peers.SNNTORCH], (16, 1, n // 16))
