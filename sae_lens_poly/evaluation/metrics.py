"""Streaming metrics of a dictionary over one or several hook points: one small class each.

Each takes batches of tokens, flattened to (n, ...), and gives its figures at the end.
"""

from __future__ import annotations

from dataclasses import dataclass

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


#: A latent that is active on a larger share of the tokens is called dense.
DENSE_ABOVE = 0.1


@dataclass(frozen=True)
class ReconstructionFigures:
    """Figures at each hook point, and of all together."""

    per_hook: list[float]
    pooled: float


class MeanSquaredError:
    """Squared error per hook point and pooled, summed over d_model, mean over tokens.

    ``raw``, in the units of activations, where the loudest hook point decides the pooled figure;
    ``normalised``, after each hook point was multiplied by its scale, so that they compare. Pooled:
    the sum over hook points, which is the loss of a crosscoder in training.

    Args:
        hook_scales: Shape (n_hooks,), the scales that the dictionary was trained with.
    """

    def __init__(self, hook_scales: torch.Tensor) -> None:
        self.hook_scales = hook_scales.detach().cpu().double()
        self.squares = torch.zeros(len(hook_scales), dtype=torch.float64)
        self.n_tokens = 0

    def update(self, x: torch.Tensor, x_hat: torch.Tensor) -> None:
        """Add activations and reconstructions, each (n, n_hooks, d_model)."""
        error = (_at_least_float32(x) - x_hat).pow(2).sum(dim=-1)
        self.squares += error.sum(dim=0, dtype=torch.float64).cpu()
        self.n_tokens += len(x)

    def compute(self) -> dict[str, ReconstructionFigures]:
        """``raw`` and ``normalised``."""
        raw = self.squares / self.n_tokens
        by_units = {"raw": raw, "normalised": raw * self.hook_scales**2}
        return {
            units: ReconstructionFigures(mse.tolist(), mse.sum().item())
            for units, mse in by_units.items()
        }


class CosineSimilarity:
    """Cosine of activations and reconstructions, mean over tokens, per hook point and pooled.

    Pooled: of the hook points end to end, after each was multiplied by its scale.

    Args:
        hook_scales: Shape (n_hooks,), the scales that the dictionary was trained with.
    """

    def __init__(self, hook_scales: torch.Tensor) -> None:
        self.hook_scales = hook_scales
        self.sums = torch.zeros(len(hook_scales) + 1, dtype=torch.float64)
        self.n_tokens = 0

    def update(self, x: torch.Tensor, x_hat: torch.Tensor) -> None:
        """Add activations and reconstructions, each (n, n_hooks, d_model)."""
        x, x_hat = _at_least_float32(x), _at_least_float32(x_hat)
        scale = self.hook_scales.to(x)[:, None]
        per_hook = torch.cosine_similarity(x, x_hat, dim=-1)
        pooled = torch.cosine_similarity((x * scale).flatten(1), (x_hat * scale).flatten(1), dim=-1)
        both = torch.cat([per_hook, pooled[:, None]], dim=1)
        self.sums += both.sum(dim=0, dtype=torch.float64).cpu()
        self.n_tokens += len(x)

    def compute(self) -> ReconstructionFigures:
        """Mean cosine at each hook point, and pooled."""
        *per_hook, pooled = (self.sums / self.n_tokens).tolist()
        return ReconstructionFigures(per_hook, pooled)


@dataclass(frozen=True)
class ActivityFigures:
    """How often some of the latents are active."""

    l0: float
    """Active ones per token."""
    n_dead: int
    """Those that were active on no token."""
    n_dense: int
    """Those that were active on more than :data:`DENSE_ABOVE` of the tokens."""
    n_latents: int
    """How many are counted here."""


class LatentActivity:
    """L0, dead and dense latents of a stream of codes."""

    def __init__(self, d_sae: int) -> None:
        self.n_active = torch.zeros(d_sae, dtype=torch.long)
        self.n_tokens = 0

    def update(self, feature_acts: torch.Tensor) -> None:
        """Add codes (n, d_sae)."""
        self.n_active += feature_acts.count_nonzero(dim=0).cpu()
        self.n_tokens += len(feature_acts)

    def compute(self) -> tuple[float, int]:
        """Mean number of active latents per token, and the number that were never active."""
        figures = self.figures()
        return figures.l0, figures.n_dead

    @property
    def density(self) -> torch.Tensor:
        """The share of tokens on which each latent is active, (d_sae,)."""
        return self.n_active / self.n_tokens

    def figures(self, latents: torch.Tensor | None = None) -> ActivityFigures:
        """Figures of the latents where ``latents`` (d_sae,) is True; None: of all."""
        n_active = self.n_active if latents is None else self.n_active[latents.cpu()]
        return ActivityFigures(
            l0=n_active.sum().item() / self.n_tokens,
            n_dead=int((n_active == 0).sum()),
            n_dense=int((n_active > DENSE_ABOVE * self.n_tokens).sum()),
            n_latents=len(n_active),
        )

    def per_hook(self, writes: torch.Tensor) -> list[ActivityFigures]:
        """Figures of the latents that write each hook point.

        Args:
            writes: Nonzero where a latent writes a hook point, (d_sae, n_hooks), as
                ``sae.structure.write_mask`` gives it: a latent counts where it writes, also where
                what it writes is short.
        """
        return [self.figures(at) for at in (writes != 0).T]


def _at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """Squares and products overflow in float16, and lose what is small in bfloat16."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


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
