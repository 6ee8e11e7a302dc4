"""Shared fixtures; nothing here reaches a network."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("WANDB_MODE", "offline")

import pytest

import sae_lens_poly  # noqa: F401  (registers the architectures)
from sae_lens_poly.embedded.model import load_embedded_model


@pytest.fixture(scope="session")
def embedded_model():
    return load_embedded_model()
