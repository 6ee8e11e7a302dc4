"""Which latents a TopK or a BatchTopK keeps, found without a sort."""

from __future__ import annotations

import math

import torch

#: How many scores are looked at to guess the cut of a batch.
_SAMPLE = 2**16


@torch.no_grad()
def top_k(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and columns of the k highest of each row of ``scores`` (n, d_sae), in order."""
    kept = torch.topk(scores, k, dim=-1, sorted=False).indices.sort(dim=-1).values
    rows = torch.arange(len(scores), device=scores.device).repeat_interleave(k)
    return rows, kept.flatten()


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
    passed = _at_least(flat, _guess_below_the_cut(flat, n_kept, scores.shape[-1]))
    if len(passed) < n_kept:
        passed = _at_least(flat, torch.finfo(flat.dtype).tiny)
    if len(passed) > n_kept:
        best = torch.topk(flat[passed], n_kept, sorted=False).indices
        passed = passed[best.sort().values]
    d_sae = scores.shape[-1]
    rows = passed // d_sae
    return rows, passed - rows * d_sae


def _at_least(flat: torch.Tensor, threshold: float) -> torch.Tensor:
    return (flat >= threshold).nonzero().squeeze(-1)


def _guess_below_the_cut(flat: torch.Tensor, n_kept: int, d_sae: int) -> float:
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
