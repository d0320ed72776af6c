"""Compiled kernels where their cache cannot be written or was cut: they run, and a warning says once what that costs."""

import importlib.util
import os
import subprocess
import sys
import textwrap
import warnings

import pytest
import torch
from numba.core import config

from snntorch_bpsta import _numba

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a limit of the size of files")
# A module whose kernels are quick to compile: one at once, which calls one that is compiled when it is called.
KERNELS = """
    from numba.core import types
    from snntorch_bpsta._numba import njit

    @njit()
    def once(x):
        return x + 1

    @njit(types.int64(types.int64))
    def twice(x):
        return once(once(x))
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """What a new process finds: (warnings, cache hits of `once` and of `twice`)."""
    (tmp_path / "kernels.py").write_text(textwrap.dedent(KERNELS))
    monkeypatch.setattr(
        config, "CACHE_LOCATOR_CLASSES", "UserProvidedCacheLocator"
    )  # root can write beside every module

    def run(cache):
        monkeypatch.setattr(config, "CACHE_DIR", str(cache))
        monkeypatch.setattr(_numba, "_said", [])
        spec = importlib.util.spec_from_file_location("kernels", tmp_path / "kernels.py")
        kernels = importlib.util.module_from_spec(spec)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            spec.loader.exec_module(kernels)
            assert kernels.once(1) == 2 and kernels.twice(1) == 3
        assert all("NUMBA_CACHE_DIR" in str(warning.message) for warning in said)
        return len(said), *(sum(kernel.stats.cache_hits.values()) for kernel in (kernels.once, kernels.twice))

    return run


def test_the_cache_is_used(run, tmp_path):
    assert run(tmp_path / "cache") == (0, 0, 0)
    assert run(tmp_path / "cache") == (0, 1, 1)


def test_no_folder_at_all(run, tmp_path):
    (tmp_path / "file").write_text("")
    assert run(tmp_path / "file" / "cache") == (1, 0, 0)  # none can be made below a file


@linux
def test_a_full_disk(run, tmp_path):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))  # every write to a file fails
    try:
        found = run(tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert found == (1, 0, 0)
    assert run(tmp_path / "cache") == (0, 0, 0) and run(tmp_path / "cache") == (0, 1, 1)


@pytest.mark.parametrize("kept", [0, 20, -1], ids=["empty", "head", "all-but-a-byte"])
@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
def test_a_file_that_was_cut_is_written_anew(run, tmp_path, suffix, kept):
    cache = tmp_path / "cache"
    run(cache)
    files = [*cache.rglob(f"*{suffix}")]
    assert len(files) == 2
    for file in files:
        file.write_bytes(file.read_bytes()[:kept])
    assert run(cache) == (0, 0, 0)
    assert run(cache) == (0, 1, 1)


def test_a_file_that_is_a_folder(run, tmp_path):
    cache = tmp_path / "cache"
    run(cache)
    for file in cache.rglob("*.nbi"):
        file.unlink()
        file.mkdir()
    assert run(cache) == (1, 0, 0)


def test_every_kernel_of_ours_is_cached_so():
    from snntorch_bpsta.data import _film
    from snntorch_bpsta.functional.kernels import cpu, rows

    kernels = [
        *vars(rows).values(),
        *vars(_film).values(),
        cpu._forward_kernel("Leaky", "zero", False, None, torch.float32),
    ]
    caches = [type(kernel._cache) for kernel in kernels if hasattr(kernel, "enable_caching")]
    assert caches.count(_numba._Cache) >= 12
    assert {cache.__name__ for cache in caches} == {"_Cache", "NullCache"}  # those that are always inlined have none


def test_a_neuron_trains_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    nowhere = str(tmp_path / "file" / "below")
    env = {**os.environ, "NUMBA_CACHE_DIR": nowhere, "NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator"}
    code = """
        import warnings, torch, snntorch_bpsta as snn
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            cur = torch.full((3, 2, 4), 0.6, requires_grad=True)
            snn.Leaky(0.9, spatial_adj=True).sequence(cur)[0].sum().backward()
        assert cur.grad.count_nonzero()
        assert len([w for w in said if "NUMBA_CACHE_DIR" in str(w.message)]) == 1
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=env, check=True, timeout=300)
