"""Shared fixtures; nothing here reaches a network but the loopback interface."""

import os

from tests.hub.server import HubServer

HUB = HubServer()
# Read once, when huggingface_hub is imported. The server speaks LFS, not the hub's newer protocol.
os.environ.update(HF_ENDPOINT=HUB.url, HF_HUB_DISABLE_XET="1", HF_HUB_OFFLINE="1")
os.environ.setdefault("WANDB_MODE", "offline")

import pytest  # noqa: E402
import torch  # noqa: E402

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read once, when triton is imported

from matplotlib.figure import Figure  # noqa: E402

import sae_lens_poly  # noqa: E402, F401  (registers the architectures)
from sae_lens_poly.embedded.model import load_embedded_model  # noqa: E402


@pytest.fixture(scope="session")
def embedded_model():
    return load_embedded_model()


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved while a test runs, so that what is in them can be asserted."""
    figures = []
    save = Figure.savefig

    def savefig(figure, *args, **kwargs):
        figures.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return figures
