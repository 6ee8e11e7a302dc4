"""What several files here read."""

import pytest
import torch


@pytest.fixture(scope="module")
def tokens():
    """Three texts for :func:`tests.recurrent_states.tiny_hybrid.tiny_hybrid`, (3, 16)."""
    return torch.randint(0, 60, (3, 16), generator=torch.Generator().manual_seed(0))
