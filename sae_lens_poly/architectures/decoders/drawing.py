"""Random numbers for what a dictionary has beside its linear decoder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def drawing_aside(device: torch.device | str) -> Iterator[None]:
    """Draw from generators that torch's own decide, and leave torch's own where they are.

    So a dictionary with terms starts from the weights, and reads the batches, of the linear one of
    the same seed: a difference between the two is the terms'.
    """
    device = torch.device(device)
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        # Not torch.manual_seed: it would seed all GPUs, of which only this one's generator is kept.
        seed = int(torch.randint(2**62, ()))
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
