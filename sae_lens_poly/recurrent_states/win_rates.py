"""How often one change of a write disturbs a model less than another."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class WinRate:
    """A share of wins, with an interval that holds it in 95 of 100 draws of the texts."""

    rate: float
    low: float
    high: float
    n: int
    """Number of texts."""

    def __str__(self) -> str:
        return f"{self.rate:.3f} [{self.low:.3f}, {self.high:.3f}]"


def win_rate(wins: torch.Tensor, n_draws: int = 2000, seed: int = 0) -> WinRate:
    """The share of wins, and the percentile bootstrap over texts.

    A text counts as a whole: what several dictionaries did on it is not independent.

    Args:
        wins: 1 for a win, 0.5 for a tie, else 0: (n_texts,), or (n_dictionaries, n_texts).
        n_draws: Of the bootstrap.
        seed: Of its draws.
    """
    of_text = wins.double().reshape(-1, wins.shape[-1]).mean(dim=0)
    n = len(of_text)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(n, (n_draws, n), generator=generator)
    low, high = of_text[drawn].mean(dim=1).quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    return WinRate(of_text.mean().item(), low, high, n)


def wins_of(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """1 where ours is smaller, 0.5 where both are equal, else 0."""
    return (ours < theirs).double() + 0.5 * (ours == theirs).double()


def random_rank_one(
    n: int, shape: tuple[int, int], generator: torch.Generator | None = None
) -> torch.Tensor:
    """Matrices (n, d_k, d_v) of rank 1 and Frobenius norm 1, of normal draws.

    Args:
        n: How many.
        shape: d_k and d_v.
        generator: Of the draws.
    """
    v, w = (torch.randn(n, width, generator=generator) for width in shape)
    outer = v[:, :, None] * w[:, None, :]
    return outer / torch.linalg.matrix_norm(outer, keepdim=True)
