"""How much a feature file holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sae_lens_poly.constraints import COUNT, COUNT_OR_0, Constraint, check_fields


@dataclass(frozen=True)
class FeatureFileSettings:
    """What a feature file holds.

    Args:
        n_top: Contexts in which the latent is most active.
        n_intervals: Groups into which the other contexts fall by their largest activation.
        n_per_interval: Contexts shown of each.
        window: Tokens shown before and after the largest activation.
        n_logits: Tokens that the latent makes most and least probable.
        n_bins: Bars of the histogram of activations.
    """

    CONSTRAINTS: ClassVar[dict[str, Constraint]] = {
        "n_top": COUNT,
        "n_intervals": COUNT_OR_0,
        "n_per_interval": COUNT,
        "window": COUNT_OR_0,
        "n_logits": COUNT,
        "n_bins": COUNT,
    }

    n_top: int = 10
    n_intervals: int = 5
    n_per_interval: int = 5
    window: int = 16
    n_logits: int = 10
    n_bins: int = 50

    def __post_init__(self) -> None:
        check_fields(self, self.CONSTRAINTS)
