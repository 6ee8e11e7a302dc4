"""Crosscoders at inference: one sparse code that reads and reconstructs several hook points.

At its boundary a crosscoder is an SAE whose ``d_in`` is ``n_hooks * d_model``: activations of
the hook points laid end to end, two-dimensional ``W_enc`` and ``W_dec``. That is what lets
SAELens' runner, trainer, store, evals and loaders work on it unchanged.

One pair of classes, this and :class:`TrainingCrosscoder`, serves every sparsifier, decoder, form
of the weights and hook structure: they are separate modules that the config chooses.
"""

from __future__ import annotations

from typing import Any

import torch
from sae_lens.saes.jumprelu_sae import JumpReLUSAE
from torch import nn
from typing_extensions import override

from sae_lens_poly.architectures.crosscoder_config import CrosscoderConfig
from sae_lens_poly.architectures.sparsifiers.top_k import TopKSparsifier
from sae_lens_poly.architectures.stacked_dictionary import StackedDictionary
from sae_lens_poly.errors import InputError


class Crosscoder(StackedDictionary, JumpReLUSAE):
    """An inference crosscoder: raw activations in, raw reconstructions out.

    ``z = JumpReLU_theta(x W_enc + b_enc)``, ``x_hat = b_dec + z W_dec + sum_i y_i(z)``, where x
    holds the hook points end to end, (..., n_hooks * d_model). The scales of the hook points and
    the per-latent thresholds are folded into the weights. One that was trained with TopK keeps the
    ``select_k`` highest ``score_weight * (x W_enc + b_enc)`` instead.
    """

    cfg: CrosscoderConfig
    score_weight: nn.Parameter
    """What pre-activations are ranked by when multiplied with, (d_sae,); for TopK only."""

    @override
    def initialize_weights(self) -> None:
        super().initialize_weights()
        per_latent: dict[str, Any] = {"dtype": self.dtype, "device": self.device}
        if self.cfg.select_k is None:
            self.threshold = nn.Parameter(torch.zeros(self.cfg.d_sae, **per_latent))
        else:
            self.score_weight = nn.Parameter(torch.ones(self.cfg.d_sae, **per_latent))
            self.top_k = TopKSparsifier(self.cfg.select_k)

    @override
    def process_state_dict_for_loading(self, state_dict: dict[str, Any]) -> None:
        super().process_state_dict_for_loading(state_dict)
        if "hook_scales.estimated" in state_dict:
            raise InputError(
                "this is a training checkpoint, whose scales and thresholds are not folded: export "
                "it with 'python -m sae_lens_poly export CHECKPOINT FOLDER', and load that"
            )

    @override
    def encode(self, x: torch.Tensor, seen: torch.Tensor | None = None) -> torch.Tensor:
        """Codes (..., d_sae) of activations (..., d_in).

        Args:
            x: Hook points end to end.
            seen: 1 for hook points that are looked at, 0 for others, (..., n_hooks); None: all.
        """
        hidden_pre = self.hook_sae_acts_pre(self.pre_activations(self.centred(x, seen)))
        return self.hook_sae_acts_post(self.gate(hidden_pre))

    def gate(self, hidden_pre: torch.Tensor) -> torch.Tensor:
        """Codes from pre-activations, both (..., d_sae)."""
        if self.cfg.select_k is not None:
            return self.top_k(hidden_pre, self.score_weight)
        return hidden_pre.relu() * (hidden_pre > self.threshold)

    @override
    @torch.no_grad()
    def fold_W_dec_norm(self) -> None:
        if self.cfg.select_k is None:
            super().fold_W_dec_norm()
            return
        norms = self.fold_and_get_W_dec_norm()
        self.score_weight.div_(norms)
        if self.polynomial is not None:
            self.polynomial.rescale_latents_(norms)
