"""What the tests share."""

import pytest
import torch


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An own cache folder, no data folder in the environment, and no network."""

    def no_network(*args, **kwargs):
        raise AssertionError("a download was started without download=True")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    monkeypatch.delenv("SNNTORCH_BPSTA_DATA", raising=False)
    monkeypatch.setenv("SNNTORCH_BPSTA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def same_random_numbers():
    """Weights and inputs that a test draws are the same in every run."""
    torch.manual_seed(0)
