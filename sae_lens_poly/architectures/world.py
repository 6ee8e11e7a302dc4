"""What a part asks of the other processes of a run, where a run has several.

A part whose result depends on the whole batch has an attribute ``world``, which is None in a run of
one process. ``sae_lens_poly.distributed`` puts in a :class:`World`.
"""

from __future__ import annotations

from typing import Protocol

import torch


class World(Protocol):
    """The processes of a run: each has a part of every batch, and perhaps of the latents.

    They form a rectangle. Those of one row have the same tokens and each a shard of the latents,
    those of a column the same latents and other tokens; parts are of equal size. Every process has
    to call the same methods in the same order.
    """

    n_shards: int
    """How many processes share the latents; 1: each has all."""

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

    def across(self, of_shard: torch.Tensor) -> torch.Tensor:
        """Sum over the shards of what is a sum over latents, with gradient.

        What comes after it is computed by every shard alike; see :meth:`share`.
        """

    def share(self, loss: torch.Tensor) -> torch.Tensor:
        """A loss that every shard has computed, of which each takes the gradient of its part.

        The gradients that all shards have of a weight then add up to the one of the loss, whether
        the weight was used in front of :meth:`across` or after it.
        """

    def top_k(self, scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows and columns of those of the k highest of each token that this shard holds.

        Args:
            scores: Of the shard, (n, n_latents).
            k: How many to keep of a token; at most the number of latents of all shards.
        """

    def batch_top_k(self, scores: torch.Tensor, k: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows and columns of those of the ``k`` highest scores a token that this part holds.

        The highest positive scores of the whole batch, ``k`` a token on average.

        Args:
            scores: Of the part, (n, d_sae).
            k: How many to keep, a token of the batch.
        """
