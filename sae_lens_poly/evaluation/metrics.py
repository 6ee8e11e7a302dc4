"""Streaming metrics of a dictionary over one or several hook points: one small class each.

Each takes batches of tokens, flattened to (n, ...), and gives its figures at the end.
"""

from __future__ import annotations

import torch
from sae_lens.evals import ExplainedVarianceCalculator


class ExplainedVariance:
    """Explained variance per hook point, and pooled.

    Per hook point ``1 - sum_t ||x_t - x_hat_t||^2 / sum_t ||x_t - mean x||^2`` (SAELens'
    calculator). Pooled: numerator and denominator summed over hook points after each was
    multiplied by its scale squared, so that the loudest does not decide.

    Args:
        hook_scales: Shape (n_hooks,), the scales that the dictionary was trained with.
    """

    def __init__(self, hook_scales: torch.Tensor) -> None:
        self.hook_scales = hook_scales
        self.per_hook = [ExplainedVarianceCalculator() for _ in hook_scales]
        self.pooled = ExplainedVarianceCalculator()

    def update(self, x: torch.Tensor, x_hat: torch.Tensor) -> None:
        """Add activations and reconstructions, each (n, n_hooks, d_model)."""
        scale = self.hook_scales.to(x)[:, None]
        self.pooled.add_batch((x_hat * scale).flatten(1), (x * scale).flatten(1))
        for i, calculator in enumerate(self.per_hook):
            calculator.add_batch(x_hat[:, i], x[:, i])

    def compute(self) -> tuple[list[float], float]:
        """Explained variance of each hook point, and pooled."""
        return [calculator.compute() for calculator in self.per_hook], self.pooled.compute()


class LatentActivity:
    """L0 and dead latents of a stream of codes."""

    def __init__(self, d_sae: int) -> None:
        self.n_active = torch.zeros(d_sae, dtype=torch.long)
        self.n_tokens = 0

    def update(self, feature_acts: torch.Tensor) -> None:
        """Add codes (n, d_sae)."""
        self.n_active += feature_acts.count_nonzero(dim=0).cpu()
        self.n_tokens += len(feature_acts)

    def compute(self) -> tuple[float, int]:
        """Mean number of active latents per token, and the number that were never active."""
        return self.n_active.sum().item() / self.n_tokens, int((self.n_active == 0).sum())


class DegreeShares:
    """How much of the reconstruction each degree of the decoder carries, per hook point.

    With ``r = sum_i y_i`` the reconstruction less its bias, the share of degree i is
    ``E<y_i, r> / E||r||^2``. Shares add up to 1; one is negative where a degree works against
    the sum of all.
    """

    def __init__(self) -> None:
        self.products: dict[int, torch.Tensor] = {}
        self.total: torch.Tensor | None = None

    def update(self, terms: dict[int, torch.Tensor]) -> None:
        """Add the terms of a batch by degree, each (n, n_hooks, d_model)."""
        whole = torch.stack(list(terms.values())).sum(dim=0)
        for degree, term in terms.items():
            product = (term * whole).double().sum(dim=(0, 2)).cpu()
            self.products[degree] = self.products.get(degree, 0) + product
        norm = whole.double().pow(2).sum(dim=(0, 2)).cpu()
        self.total = norm if self.total is None else self.total + norm

    def compute(self) -> dict[int, list[float]]:
        """Degree to the share at each hook point."""
        assert self.total is not None, "compute() before any update()"
        return {d: (p / self.total).tolist() for d, p in self.products.items()}


class SpliceLoss:
    """Cross-entropy of the language model with reconstructions in place of activations.

    The recovered share is SAELens' ``ce_loss_score``: 1 when the splice costs nothing, 0 when it
    is as bad as zeroing the hook points.
    """

    def __init__(self) -> None:
        self.sums = torch.zeros(3, dtype=torch.float64)
        self.n_tokens = 0

    def update(self, clean: torch.Tensor, spliced: torch.Tensor, zeroed: torch.Tensor) -> None:
        """Add losses per token, each (n,), in nats."""
        losses = torch.stack([clean, spliced, zeroed])
        self.sums += losses.double().sum(dim=1).cpu()
        self.n_tokens += len(clean)

    def compute(self) -> tuple[float, float]:
        """The recovered share, and the loss with the splice, in nats per token."""
        clean, spliced, zeroed = (self.sums / self.n_tokens).tolist()
        return (zeroed - spliced) / (zeroed - clean), spliced
