"""What the benchmarks with planted features share."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from sae_lens.synthetic import FeatureDictionary

#: Share of the samples in which the first of a pair fires where the second does too.
TOGETHER = 0.2


class PairedFeatures(FeatureDictionary):
    """A feature dictionary in which pairs of features add a direction of their own.

    Subclasses set ``pairs`` (n_pairs, 2), numbers of features, and ``pair_directions``
    (n_pairs, d_in).
    """

    pairs: torch.Tensor
    pair_directions: torch.Tensor

    def interactions(self, features: torch.Tensor) -> torch.Tensor:
        """What the pairs add, (n, d_in)."""
        products = features[:, self.pairs[:, 0]] * features[:, self.pairs[:, 1]]
        return products @ self.pair_directions

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features (n, n_features) to activations (n, d_in)."""
        return super().forward(features) + self.interactions(features)

    def fire_together(self, features: torch.Tensor) -> torch.Tensor:
        """Let the second of a pair fire in a part of the samples in which the first does."""
        first, second = self.pairs.T
        joint = (features[:, first] > 0) & (torch.rand(len(features), len(first)) < TOGETHER)
        drawn = (1 + 0.3 * torch.randn(joint.shape)).relu()
        features = features.clone()
        features[:, second] = torch.where(joint, drawn, features[:, second])
        return features


def run_two_at_a_time(jobs: Sequence[Sequence[Any]]) -> list[Any]:
    """What this script prints last, as JSON, with ``--one`` and the words of each job.

    One process a job and one thread a process, on 2 cores.
    """

    def run(job: Sequence[Any]) -> Any:
        command = [sys.executable, *sys.argv, "--one", *map(str, job)]
        finished = subprocess.run(command, capture_output=True, text=True)
        if finished.returncode:
            raise RuntimeError(finished.stderr)
        return json.loads(finished.stdout.splitlines()[-1])

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(run, jobs))
