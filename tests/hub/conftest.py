"""The hub of these tests, empty in the beginning, and an empty cache."""

import pytest
from huggingface_hub import constants

from tests.conftest import HUB


@pytest.fixture(scope="session")
def started():
    HUB.start()
    return HUB


@pytest.fixture
def hub(started, tmp_path, monkeypatch):
    started.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return started


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    """Between what huggingface_hub tries again."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)


@pytest.fixture
def cache(hub, tmp_path):
    """Files that the cache holds, whole or not."""

    def files():
        found = (tmp_path / "cache").rglob("*")
        ignored = (".locks", ".no_exist", "refs")
        return sorted(
            str(path.relative_to(tmp_path / "cache"))
            for path in found
            if not path.is_dir() and not set(ignored) & set(path.parts) and path.suffix != ".TAG"
        )

    return files
