"""What is explained, and how it is scored."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from sae_lens_poly.constraints import Constraint, Number, check_fields


@dataclass(frozen=True)
class ExplanationSettings:
    """Settings of :func:`~sae_lens_poly.explanations.explain.explain`.

    Args:
        n_latents: Latents drawn evenly among the live ones.
        n_shown: Examples that an explanation is made from, half of them the most active ones.
        n_test: Held-out examples of either kind, active and not, that an explanation is scored on,
            at most.
        n_per_request: Examples that the judge answers for at a time.
        mark_above: Tokens are marked from this share of the example's largest activation on.
        coherent_from: Balanced accuracy, in detection and in fuzzing, from which a latent counts as
            semantically coherent.
        temperature: Of the judge.
        max_tokens: Of an answer.
        attempts: How often a request whose answer cannot be read is made.
        seed: Of all draws.

    Raises:
        InputError: If a number is out of its range.
    """

    n_latents: int = 100
    n_shown: int = 16
    n_test: int = 10
    n_per_request: int = 5
    mark_above: float = 0.3
    coherent_from: float = 0.7
    temperature: float = 0.0
    max_tokens: int = 400
    attempts: int = 3
    seed: int = 0

    CONSTRAINTS: ClassVar[dict[str, Constraint]] = {
        "n_latents": Number(at_least=1, whole=True),
        "n_shown": Number(at_least=1, whole=True),
        "n_test": Number(at_least=2, whole=True),
        "n_per_request": Number(at_least=1, whole=True),
        "mark_above": Number(at_least=0, below=1),
        "coherent_from": Number(above=0.5, at_most=1),
        "temperature": Number(at_least=0),
        "max_tokens": Number(at_least=1, whole=True),
        "attempts": Number(at_least=1, whole=True),
        "seed": Number(at_least=0, whole=True),
    }

    def __post_init__(self) -> None:
        check_fields(self, self.CONSTRAINTS)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)
