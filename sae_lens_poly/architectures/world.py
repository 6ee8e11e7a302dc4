"""What a part asks of the other processes of a run, where a run has several.

A part whose result depends on the whole batch has an attribute ``world``, which is None in a run of
one process. ``sae_lens_poly.distributed`` puts in a :class:`World`.
"""

from __future__ import annotations

from typing import Protocol

import torch


class World(Protocol):
    """The processes of a run, each with its own part, of equal size, of every batch.

    Every process has to call the same methods in the same order.
    """

    def mean(self, of_part: torch.Tensor) -> torch.Tensor:
        """Mean over the batch of what is the mean over a part, without gradient."""

    def sum(self, of_part: torch.Tensor) -> torch.Tensor:
        """Sum over the batch of what is the sum over a part, without gradient."""

    def least(self, of_part: torch.Tensor) -> torch.Tensor:
        """The smallest of all processes, entry by entry, without gradient."""

    def n_tokens(self, of_part: int) -> int:
        """Number of tokens of the batch, for that of a part."""

    def own_rows(self, of_batch: torch.Tensor) -> torch.Tensor:
        """The rows of the part, of a tensor with a row for every token of the batch."""

    def batch_top_k(self, scores: torch.Tensor, k: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows and columns of those of the ``k`` highest scores a token that this part holds.

        The highest positive scores of the whole batch, ``k`` a token on average.

        Args:
            scores: Of the part, (n, d_sae).
            k: How many to keep, a token of the batch.
        """
