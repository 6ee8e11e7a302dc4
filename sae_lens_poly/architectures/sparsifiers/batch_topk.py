"""BatchTopK."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch

from sae_lens_poly.architectures.sparsifiers.base import (
    K_CONSTRAINTS,
    Sparsifier,
    annealed,
    check_k,
)
from sae_lens_poly.architectures.world import World
from sae_lens_poly.constraints import Number

#: One over the part of the batches so far that the threshold of a short run is a mean of.
RECENT = 10

#: How many scores are looked at to guess the cut of a batch.
_SAMPLE = 2**16


class BatchTopK(Sparsifier, name="batchtopk"):
    """Keeps the ``k * n`` highest scores of a batch of n tokens (Bussmann et al. 2024).

    At inference a latent is active where its score exceeds a threshold; see
    :func:`follow_scores_`.
    """

    CONSTRAINTS: ClassVar = {**K_CONSTRAINTS, "topk_threshold_lr": Number(above=0, at_most=1)}
    of_latents = ()
    selects = True
    observes_codes = True

    threshold: torch.Tensor
    """Threshold on the score, shape ()."""
    n_batches: torch.Tensor
    """Number of batches that the threshold has seen, shape ()."""

    def __init__(self, cfg: Any, d_sae: int, device: torch.device | str = "cpu") -> None:
        super().__init__(cfg, d_sae)
        self.cfg, self.k = cfg, cfg.k
        self.register_buffer("threshold", torch.zeros((), device=device))
        self.register_buffer("n_batches", torch.zeros((), dtype=torch.long, device=device))

    @classmethod
    def check(cls, cfg: Any) -> None:
        check_k(cfg)

    def prepare_(self, step: int) -> None:
        if self.cfg.k_start is not None:
            self.k = annealed(self.cfg, step)

    def select(
        self, hidden_pre: torch.Tensor, latent_norms: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        scores = hidden_pre if latent_norms is None else hidden_pre * latent_norms
        if self.world is not None and self.training:
            return self.world.batch_top_k(scores, self.k)
        return batch_top_k(scores, int(self.k * len(scores)))

    @torch.no_grad()
    def update_(
        self,
        feature_acts: torch.Tensor,
        latent_norms: torch.Tensor | None = None,
        stands_for: int = 1,
    ) -> None:
        active, norms = feature_acts, latent_norms
        if active.is_sparse:
            active = active.coalesce()
            norms = None if norms is None else norms[active.indices()[-1]]
            active = active.values()
        scores = active.float() if norms is None else active.float() * norms
        lr = self.cfg.topk_threshold_lr
        follow_scores_(self.threshold, self.n_batches, scores, lr, stands_for, self.world)

    def latent_thresholds(
        self, d_sae: int, latent_norms: torch.Tensor | None = None
    ) -> torch.Tensor:
        """``tau / ||W_dec_j||``, or tau where scores are the pre-activations."""
        if latent_norms is None:
            return self.threshold.expand(d_sae).clone()
        return self.threshold / latent_norms.to(self.threshold.dtype).clamp_min(1e-12)


def follow_scores_(
    threshold: torch.Tensor,
    n_batches: torch.Tensor,
    scores: torch.Tensor,
    lr: float,
    stands_for: int = 1,
    world: World | None = None,
) -> None:
    """Move a threshold by the scores of a batch, in place.

    An exponential moving average of the smallest score that was kept. Before :data:`RECENT` / lr
    batches have been seen it is of about the last tenth of them: a longer one would still hold the
    zero that it starts at, or the first scores, of which the last are a multiple.

    Args:
        threshold: Shape ().
        n_batches: Number of batches that it has seen, shape ().
        scores: What was kept is positive; dense, or the values of a sparse tensor.
        lr: Weight of a new batch in the moving average.
        stands_for: Number of batches that this one is shown in place of.
        world: The other processes of the run, which have other parts of the batch.
    """
    kept = scores[scores > 0]
    if world is not None:
        kept = least_kept(kept, world)
    if kept.numel() == 0:
        return
    n_batches += stands_for
    weight = RECENT * stands_for / (n_batches + (RECENT - 1))
    weight = weight.clamp(min(1.0, stands_for * lr), 1.0)
    threshold.lerp_(kept.min().to(threshold.dtype), weight.to(threshold.dtype))


def least_kept(kept: torch.Tensor, world: World) -> torch.Tensor:
    """The smallest score that was kept of a batch, (1,), or (0,) where none was.

    Args:
        kept: Scores of this part of the batch, (n,).
        world: Those who have the others.
    """
    largest = kept.new_tensor([torch.finfo(kept.dtype).max])
    least = world.least(torch.cat([kept, largest]).min()[None])
    return least[least < largest]


@torch.no_grad()
def batch_top_k(scores: torch.Tensor, n_kept: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and columns of the ``n_kept`` highest positive entries of a batch, in order.

    What SAELens' BatchTopK keeps (a few scores that are equal may be chosen otherwise; fewer are
    returned where fewer are positive). A threshold a little below the cut, guessed from a sample,
    leaves a small part of the batch, and among that an exact selection is cheap. Where the guess
    was too high, the selection runs over all.

    Args:
        scores: Shape (n, d_sae).
        n_kept: How many to keep over the batch.
    """
    flat = scores.reshape(-1)
    guess = guess_below_the_cut(flat, n_kept, scores.shape[-1])
    passed = (flat >= guess).nonzero().squeeze(-1)
    if len(passed) < n_kept:
        passed = (flat > 0).nonzero().squeeze(-1)
    if len(passed) > n_kept:
        best = torch.topk(flat[passed], n_kept, sorted=False).indices
        passed = passed[best.sort().values]
    d_sae = scores.shape[-1]
    rows = passed // d_sae
    return rows, passed - rows * d_sae


def k_of_batch(scores: torch.Tensor, k: float, part: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and columns of the ``k`` highest positive scores a token of a batch, in order.

    Args:
        scores: Shape (n, d_sae).
        k: How many to keep, a token on average.
        part: The module that selects; for its ``world``, which matters in training.
    """
    if part.world is not None and part.training:
        return part.world.batch_top_k(scores, k)
    return batch_top_k(scores, int(k * len(scores)))


def guess_below_the_cut(flat: torch.Tensor, n_kept: int, d_sae: int) -> float:
    """A threshold that a little more than ``n_kept`` entries pass, most likely; positive."""
    tiny = torch.finfo(flat.dtype).tiny
    stride = max(1, len(flat) // _SAMPLE)
    while math.gcd(stride, d_sae) > 1:  # else the sample is of a few latents only
        stride += 1
    sample = flat[::stride]
    expected = n_kept / len(flat) * len(sample)
    # Four standard deviations of the number of sampled entries above the cut.
    rank = math.ceil(expected + 4 * expected**0.5 + 4)
    if rank >= len(sample):
        return tiny
    return max(float(torch.topk(sample, rank, sorted=False).values.min()), tiny)
