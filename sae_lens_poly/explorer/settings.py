"""How much is collected, and how it is shown."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from sae_lens_poly.constraints import Constraint, Number, check_fields


@dataclass(frozen=True)
class CollectionSettings:
    """Settings of :func:`~sae_lens_poly.explorer.collect.collect`.

    Args:
        n_tokens: Tokens of the text that are read, or all that it has, if these are fewer.
        batch_size_prompts: Contexts in a batch.
        n_top: Contexts kept of each latent in which it is most active.
        n_drawn: Contexts kept of each latent that are drawn evenly among all in which it is active.
        before: Tokens shown before the one where a latent is most active.
        after: Tokens shown after it.
        n_sampled_codes: Codes kept, of contexts that are drawn evenly: latents that are active
            together, and examples of them, come from these.
        n_coherence_tokens: Tokens that functional coherence and latent scaling are measured on.
        dataset_path: Other text than that of training; None: what training left out.
        skip_rows: Rows of the text left out at its front; None: those that training read.
        seed: Of all draws.

    Raises:
        InputError: If a number is out of its range.
    """

    n_tokens: int = 200_000
    batch_size_prompts: int = 8
    n_top: int = 16
    n_drawn: int = 20
    before: int = 24
    after: int = 12
    n_sampled_codes: int = 2**22
    n_coherence_tokens: int = 4096
    dataset_path: str | None = None
    skip_rows: int | None = None
    seed: int = 0

    CONSTRAINTS: ClassVar[dict[str, Constraint]] = {
        "n_tokens": Number(at_least=1, whole=True),
        "batch_size_prompts": Number(at_least=1, whole=True),
        "n_top": Number(at_least=1, whole=True),
        "n_drawn": Number(at_least=1, whole=True),
        "before": Number(at_least=0, whole=True),
        "after": Number(at_least=0, whole=True),
        "n_sampled_codes": Number(at_least=1, whole=True),
        "n_coherence_tokens": Number(at_least=1, whole=True),
        "skip_rows": Number(at_least=0, whole=True, optional=True),
        "seed": Number(at_least=0, whole=True),
    }

    def __post_init__(self) -> None:
        check_fields(self, self.CONSTRAINTS)

    @property
    def window(self) -> int:
        """Tokens in an example."""
        return self.before + 1 + self.after

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)
