"""The versions at hand, for tests of what some of them cannot do."""

import pytest
import snntorch
import torch

TORCH = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
SNNTORCH = tuple(int(part) for part in snntorch.__version__.split(".")[:2])


def torch_since(version, reason):
    """A mark for tests of what PyTorch can do since `version`, such as (2, 7)."""
    return pytest.mark.skipif(TORCH < version, reason=f"torch {TORCH[0]}.{TORCH[1]}: {reason}")


SINCE_1 = pytest.mark.skipif(
    SNNTORCH < (1, 0), reason="snnTorch 0.9 has no DeltaLeaky, and imports LIF of NIR in double"
)
