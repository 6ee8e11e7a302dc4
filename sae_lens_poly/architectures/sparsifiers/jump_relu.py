"""JumpReLU."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from sae_lens.saes import jumprelu_sae
from sae_lens.saes.sae import TrainCoefficientConfig, TrainStepInput
from torch import nn

from sae_lens_poly.architectures.sparsifiers.base import NORMS, PENALTY, Sparsifier, score
from sae_lens_poly.constraints import Choice, Flag, Number
from sae_lens_poly.errors import InputError


class JumpReLU(Sparsifier, name="jumprelu"):
    """A trained threshold per latent, on its score (Rajamanoharan et al. 2024).

    SAELens' function, its straight-through gradients and its losses (``step``, ``tanh``,
    ``quadratic``, and the one on pre-activations). Where they weight by the decoder norm, it is the
    sum over hook points (``sparsity_penalty="l1_of_norms"``) or the norm of all that the latent
    writes (``"l2_of_norms"``). SAELens' loss on pre-activations is that of dead latents;
    ``pre_act_loss_on="all"`` is that of all, as in the Circuits Updates of January 2025.

    Args:
        cfg: The fields ``jumprelu_*``, ``l0_*``, ``pre_act_loss_coefficient`` and ``target_l0``
            of SAELens' JumpReLUTrainingSAEConfig, ``sparsity_penalty`` and ``pre_act_loss_on``.
        d_sae: Number of latents.
    """

    CONSTRAINTS: ClassVar = {
        "jumprelu_init_threshold": Number(at_least=0),
        "jumprelu_bandwidth": Number(above=0),
        "jumprelu_sparsity_loss_mode": Choice("step", "tanh", "quadratic"),
        "jumprelu_tanh_scale": Number(above=0),
        "jumprelu_ste_to_input": Flag(),
        "l0_coefficient": Number(at_least=0),
        "l0_warm_up_steps": Number(at_least=0, whole=True),
        "pre_act_loss_coefficient": Number(at_least=0, optional=True),
        "pre_act_loss_on": Choice("dead", "all"),
        "sparsity_penalty": PENALTY,
        "target_l0": Number(above=0, optional=True),
    }

    of_latents = ("threshold",)
    penalises = True

    threshold: nn.Parameter
    """Threshold on the score of each latent, (d_sae,)."""

    def __init__(self, cfg: Any, d_sae: int, device: torch.device | str = "cpu") -> None:
        super().__init__(cfg, d_sae)
        self.cfg = cfg
        self.p = NORMS[cfg.sparsity_penalty]
        start = torch.full((d_sae,), cfg.jumprelu_init_threshold, device=device)
        self.threshold = nn.Parameter(start)

    @classmethod
    def check(cls, cfg: Any) -> None:
        if cfg.jumprelu_sparsity_loss_mode == "quadratic" and cfg.target_l0 is None:
            raise InputError(
                "target_l0=None must be set with jumprelu_sparsity_loss_mode='quadratic'"
            )
        if cfg.target_l0 is not None and cfg.target_l0 > cfg.d_sae:
            raise InputError(f"target_l0={cfg.target_l0} must be at most d_sae={cfg.d_sae}")

    def prepare_(self, step: int) -> None:
        self.retract_()

    @torch.no_grad()
    def retract_(self) -> None:
        self.threshold.clamp_(min=0.0)  # below zero the gate lets negative pre-activations pass

    def forward(
        self, hidden_pre: torch.Tensor, latent_norms: torch.Tensor | None = None
    ) -> torch.Tensor:
        gated = jumprelu_sae.JumpReLU.apply(
            score(hidden_pre, latent_norms),
            self.threshold.to(hidden_pre.dtype),
            self.cfg.jumprelu_bandwidth,
            self.cfg.jumprelu_ste_to_input,
        )
        return gated if latent_norms is None else gated / latent_norms.to(gated.dtype)

    def latent_thresholds(
        self, d_sae: int, latent_norms: torch.Tensor | None = None
    ) -> torch.Tensor:
        threshold = self.threshold.detach().clamp_min(0.0)
        if latent_norms is None:
            return threshold.clone()
        return threshold / latent_norms.to(threshold.dtype).clamp_min(1e-12)

    def coefficients(self) -> dict[str, float | TrainCoefficientConfig]:
        return {"l0": TrainCoefficientConfig(self.cfg.l0_coefficient, self.cfg.l0_warm_up_steps)}

    def losses(
        self,
        step_input: TrainStepInput,
        feature_acts: torch.Tensor,
        hidden_pre: torch.Tensor,
        latent_norms: torch.Tensor | None,
        decoder_norms: Callable[[], torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        # SAELens' method reads four attributes of its dictionary, and of W_dec the row norms alone.
        scores, cfg = score(hidden_pre, latent_norms), self.cfg
        if cfg.pre_act_loss_on == "all":
            of_all = torch.ones_like(self.threshold, dtype=torch.bool)
            step_input = dataclasses.replace(step_input, dead_neuron_mask=of_all)
        if latent_norms is not None:  # its loss on pre-activations would weight scores once more
            cfg = SimpleNamespace(**{**vars(cfg), "pre_act_loss_coefficient": None})
        dictionary: Any = SimpleNamespace(
            cfg=cfg,
            threshold=self.threshold,
            bandwidth=cfg.jumprelu_bandwidth,
            W_dec=decoder_norms().norm(p=self.p, dim=-1, keepdim=True),
        )
        losses = jumprelu_sae.JumpReLUTrainingSAE.calculate_aux_loss(
            dictionary, step_input, feature_acts, scores, feature_acts
        )
        coefficient = self.cfg.pre_act_loss_coefficient
        if latent_norms is not None and coefficient is not None:
            losses["pre_act_loss"] = jumprelu_sae.calculate_pre_act_loss(
                coefficient,
                self.threshold.to(scores.dtype),
                scores,
                step_input.dead_neuron_mask,
                scores.new_ones(()),
            )
        return losses
