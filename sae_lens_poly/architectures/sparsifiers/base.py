"""What every sparsifier of a crosscoder does."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from sae_lens.saes.sae import TrainCoefficientConfig, TrainStepInput

from sae_lens_poly.architectures.kernels.at_least_float32 import AtLeastFloat32
from sae_lens_poly.architectures.kernels.sparse_code import scale_latents
from sae_lens_poly.architectures.world import World
from sae_lens_poly.constraints import Choice, Constraint, Number
from sae_lens_poly.errors import InputError

#: Sparsifier to its class, by the name that ``sparsifier`` of a config gives it.
SPARSIFIERS: dict[str, type[Sparsifier]] = {}


class Sparsifier(AtLeastFloat32, ABC):
    """Makes codes of pre-activations, in training and, if it says so, at inference.

    The score of a latent is its pre-activation, times the latent's decoder norm where the caller
    passes one (Minder et al. 2025, arXiv 2504.02922). What is decoded is the unscaled
    pre-activation in either case.

    A subclass overrides :meth:`forward`; or :meth:`select`, if it keeps the highest scores, which
    gives it sparse training steps as well.

    Args:
        cfg: The config of the crosscoder, in training or at inference.
        d_sae: Number of latents.
    """

    world: World | None = None

    #: Its tensors that have a row for each latent; None: they cannot be shared among processes.
    of_latents: ClassVar[tuple[str, ...] | None] = None

    #: What the fields that it reads may be.
    CONSTRAINTS: ClassVar[dict[str, Constraint]] = {}

    #: What the code of an active latent is of its pre-activation.
    values: ClassVar[Any] = staticmethod(torch.relu)

    #: Whether it keeps the highest scores, by :meth:`select`.
    selects: ClassVar[bool] = False

    #: Whether inference applies the sparsifier itself, token by token. If not, a latent is active
    #: where its pre-activation exceeds its threshold, :meth:`latent_thresholds`.
    at_inference: ClassVar[bool] = False

    #: Whether :meth:`losses` has some.
    penalises: ClassVar[bool] = False

    #: Whether :meth:`update_` learns something.
    observes_codes: ClassVar[bool] = False

    def __init_subclass__(cls, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if name is not None:
            SPARSIFIERS[name] = cls

    def __init__(self, cfg: Any, d_sae: int, device: torch.device | str = "cpu") -> None:
        super().__init__()

    @classmethod
    def check(cls, cfg: Any) -> None:
        """Refuse fields that do not go together.

        Raises:
            InputError: Naming the field, its value and the remedy.
        """

    def prepare_(self, step: int) -> None:
        """Get ready for the training step of this number."""

    def retract_(self) -> None:
        """Return weights to what they may be, after the last step of the optimiser."""

    def select(
        self, hidden_pre: torch.Tensor, latent_norms: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows and columns of the entries of ``hidden_pre`` (n, d_sae) to keep, in order."""
        raise NotImplementedError

    def forward(
        self, hidden_pre: torch.Tensor, latent_norms: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Codes (..., d_sae) from pre-activations of that shape and norms (d_sae,) if any."""
        with torch.no_grad():
            active = torch.zeros_like(hidden_pre, dtype=torch.bool)
            rows = hidden_pre.reshape(-1, hidden_pre.shape[-1])
            active.view_as(rows)[self.select(rows, latent_norms)] = True
        return self.values(hidden_pre) * active

    def update_(
        self,
        feature_acts: torch.Tensor,
        latent_norms: torch.Tensor | None = None,
        stands_for: int = 1,
    ) -> None:
        """See the codes of a training batch, as :meth:`forward` returned them; dense or sparse.

        Args:
            feature_acts: Codes (..., d_sae).
            latent_norms: What scores are multiplied by, if anything, (d_sae,).
            stands_for: Number of batches that this one is shown in place of.
        """

    def latent_thresholds(
        self, d_sae: int, latent_norms: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Thresholds (d_sae,) on the unscaled pre-activations, for an inference dictionary."""
        raise NotImplementedError

    def coefficients(self) -> dict[str, float | TrainCoefficientConfig]:
        """Coefficients of its losses, for SAELens' schedule."""
        return {}

    def losses(
        self,
        step_input: TrainStepInput,
        feature_acts: torch.Tensor,
        hidden_pre: torch.Tensor,
        latent_norms: torch.Tensor | None,
        decoder_norms: Callable[[], torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """Its losses on a training batch.

        Args:
            step_input: Of the batch; for the coefficients and the dead latents.
            feature_acts: Codes (n, d_sae).
            hidden_pre: Pre-activations (n, d_sae).
            latent_norms: What scores are multiplied by, if anything, (d_sae,).
            decoder_norms: Computes the norm of each latent's decoder at each hook point,
                (d_sae, n_hooks), with gradients.
        """
        return {}


def score(hidden_pre: torch.Tensor, latent_norms: torch.Tensor | None) -> torch.Tensor:
    """What latents are ranked by, in the shape of ``hidden_pre``; sparse codes stay sparse."""
    if latent_norms is None:
        return hidden_pre
    return scale_latents(hidden_pre, latent_norms.to(hidden_pre.dtype))


#: How penalties make one number of a latent's decoder norms at its hook points: the norm of these.
NORMS = {"l1_of_norms": 1, "l2_of_norms": 2}
PENALTY = Choice(*NORMS)

#: What the fields of sparsifiers with a number k of active latents may be.
K_CONSTRAINTS: dict[str, Constraint] = {
    "k": Number(above=0),
    "k_start": Number(above=0, optional=True),
    "k_anneal_steps": Number(at_least=0, whole=True),
}


def check_k(cfg: Any) -> None:
    """Refuse a k that is more than there are latents, and half an annealing.

    Raises:
        InputError: Naming the field, its value and the remedy.
    """
    for name, k in {"k": cfg.k, "k_start": cfg.k_start}.items():
        if k is not None and k > cfg.d_sae:
            raise InputError(
                f"{name}={k} must be at most d_sae={cfg.d_sae}: lower it or raise d_sae"
            )
    if (cfg.k_start is None) != (cfg.k_anneal_steps == 0):
        raise InputError(
            f"k_start={cfg.k_start} and k_anneal_steps={cfg.k_anneal_steps} go together: give "
            "both, or neither"
        )


def annealed(cfg: Any, step: int) -> float:
    """k at a training step: from ``k_start`` to ``k`` along a line, if it is annealed."""
    k_start, n_steps = getattr(cfg, "k_start", None), getattr(cfg, "k_anneal_steps", 0)
    if k_start is None or step >= n_steps:
        return cfg.k
    return k_start + (cfg.k - k_start) * step / n_steps
