"""Crosscoders at inference: one sparse code that reads and reconstructs several hook points.

At its boundary a crosscoder is an SAE whose ``d_in`` is ``n_hooks * d_model``: activations of
the hook points laid end to end, two-dimensional ``W_enc`` and ``W_dec``. That is what lets
SAELens' runner, trainer, store, evals and loaders work on it unchanged.

This class and :class:`TrainingCrosscoder` serve every sparsifier, decoder, form of the weights and
hook structure: these are parts that the config chooses, and that the two classes share.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from typing_extensions import override

from sae_lens_poly.architectures.crosscoders.config import CrosscoderConfig
from sae_lens_poly.architectures.crosscoders.skips import parse_skips, refuse_skips
from sae_lens_poly.architectures.crosscoders.stacked_dictionary import StackedDictionary
from sae_lens_poly.architectures.encoders import hide
from sae_lens_poly.architectures.sparsifiers import SPARSIFIERS
from sae_lens_poly.errors import InputError


class Crosscoder(StackedDictionary):
    """An inference crosscoder: raw activations in, raw reconstructions out.

    ``z = JumpReLU_theta(x W_enc + b_enc)``, ``x_hat = b_dec + z W_dec + sum_i y_i(z)``, where x
    holds the hook points end to end, (..., n_hooks * d_model). The scales of the hook points and
    the per-latent thresholds are folded into the weights. One that was trained with TopK keeps the
    ``select_k`` highest ``score_weight * (x W_enc + b_enc)`` instead. Transcoders of other packages
    may have affine skips; those need x to be decoded: :meth:`decode_with_skips`.
    """

    cfg: CrosscoderConfig
    threshold: nn.Parameter
    """What pre-activations must exceed, (d_sae,); not where latents are selected."""
    score_weight: nn.Parameter
    """What pre-activations are multiplied with to be ranked, (d_sae,); where they are selected."""

    @override
    def initialize_weights(self) -> None:
        super().initialize_weights()
        per_latent: dict[str, Any] = {"dtype": self.dtype, "device": self.device}
        self.selects = self.cfg.select_k is not None
        if self.selects:
            self.score_weight = nn.Parameter(torch.ones(self.cfg.d_sae, **per_latent))
            self.sparsifier = SPARSIFIERS[self.cfg.select_by](self.cfg, self.cfg.d_sae)
        else:
            self.threshold = nn.Parameter(torch.zeros(self.cfg.d_sae, **per_latent))
        self.skip_pairs = parse_skips(self.cfg.skips, self.n_hooks)
        square = (self.d_model, self.d_model)
        self.skips = nn.ParameterList(torch.zeros(square, **per_latent) for _ in self.skip_pairs)

    @override
    def encode(self, x: torch.Tensor, seen: torch.Tensor | None = None) -> torch.Tensor:
        """Codes (..., d_sae) of activations (..., d_in).

        Args:
            x: Hook points end to end.
            seen: 1 for hook points that are looked at, 0 for others, (..., n_hooks); None: all.
        """
        x = self.hook_sae_input(x.to(self.dtype)) - self.b_dec * self.cfg.apply_b_dec_to_input
        if seen is not None:
            x = hide(x, seen)
        hidden_pre = self.hook_sae_acts_pre(self.encoder(x, self.b_enc))
        return self.hook_sae_acts_post(self.gate(hidden_pre))

    def gate(self, hidden_pre: torch.Tensor) -> torch.Tensor:
        """Codes from pre-activations, both (..., d_sae)."""
        if self.selects:
            return self.sparsifier(hidden_pre, self.score_weight)
        # One pass; what is not a number stays so.
        return torch.where(hidden_pre <= self.threshold.clamp_min(0), 0.0, hidden_pre)

    @override
    def decode(self, feature_acts: torch.Tensor) -> torch.Tensor:
        """Reconstruct activations (..., d_in) from codes (..., d_sae), dense or sparse."""
        return self.hook_sae_recons(self.decoder(feature_acts, self.decoder_weights, self.b_dec))

    def decode_with_skips(self, feature_acts: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """``decode`` with the affine skips, ``x_hat^w + x^r M_rw``; codes of ``x`` (..., d_in)."""
        # Not in place: a hook of the user may hold what was decoded.
        added = torch.zeros_like(x, dtype=self.dtype)
        x, per_hook = self.per_hook(x.to(self.dtype)), self.per_hook(added)
        for (read, write), matrix in zip(self.skip_pairs, self.skips, strict=True):
            per_hook[..., write, :] += x[..., read, :] @ matrix
        return self.decode(feature_acts) + added

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Reconstructions (..., d_in) of activations (..., d_in), with the skips if it has any.

        Raises:
            InputError: If SAELens' error term is on and there are skips.
        """
        if not self.skip_pairs:
            return super().forward(x)
        if self.use_error_term:
            refuse_skips(self, "use_error_term decodes")
        return self.hook_sae_output(self.decode_with_skips(self.encode(x), x))

    def pre_activations(self, x: torch.Tensor, seen: torch.Tensor | None = None) -> torch.Tensor:
        """``x W_enc + b_enc`` of raw activations, (..., d_sae); the arguments are ``encode``'s."""
        x = x.to(self.dtype) - self.b_dec * self.cfg.apply_b_dec_to_input
        return self.encoder(x if seen is None else hide(x, seen), self.b_enc)

    @override
    def process_state_dict_for_loading(self, state_dict: dict[str, Any]) -> None:
        if "hook_scales.estimated" in state_dict:
            raise InputError(
                "this is a training checkpoint, whose scales and thresholds are not folded: export "
                "it with 'python -m sae_lens_poly export CHECKPOINT FOLDER', and load that"
            )
        super().process_state_dict_for_loading(state_dict)

    # Folds

    @override
    @torch.no_grad()
    def get_W_dec_norm(self) -> torch.Tensor:
        """Norm of each latent's decoder over the stack, (d_sae,)."""
        return self.decoder_norms().norm(dim=-1).clamp(min=1e-8)

    @override
    @torch.no_grad()
    def fold_and_get_W_dec_norm(self) -> torch.Tensor:
        norms = self.get_W_dec_norm()
        self.decoder_weights.scale_latents_(1 / norms)
        self.encoder_weights.scale_latents_(norms)
        self.b_enc.mul_(norms)
        return norms

    @override
    @torch.no_grad()
    def fold_W_dec_norm(self) -> None:
        """Give every latent a linear decoder of norm 1; reconstructions stay what they were."""
        norms = self.fold_and_get_W_dec_norm()
        if self.selects:
            self.score_weight.div_(norms)
        else:
            self.threshold.mul_(norms)
        if self.polynomial is not None:
            self.polynomial.rescale_latents_(norms)

    @torch.no_grad()
    def scale_hooks_(self, factor: torch.Tensor) -> None:
        """Take activations in units where they are ``factor`` (n_hooks,) times smaller.

        ``W_enc^l f_l``, ``W_dec^l / f_l``, ``b_dec^l / f_l``, and every polynomial term ``/ f_l``.
        """
        factor = factor.cpu().double()  # its reciprocal is taken; not every device has float64
        at_least_float32 = torch.promote_types(self.dtype, torch.float32)
        inverse = (1 / factor).to(self.device, at_least_float32)
        self.encoder_weights.scale_hooks_(factor.to(self.device, at_least_float32))
        self.encoder_score.scale_hooks_(factor.to(self.device, at_least_float32))
        self.decoder_weights.scale_hooks_(inverse)
        over_width = inverse.repeat_interleave(self.d_model)
        self.b_dec.mul_(over_width.to(self.dtype))
        if self.polynomial is not None:
            self.polynomial.rescale_outputs_(over_width)
        for (read, write), matrix in zip(self.skip_pairs, self.skips, strict=True):
            matrix.mul_((factor[read] / factor[write]).item())

    @override
    @torch.no_grad()
    def fold_activation_norm_scaling_factor(self, scaling_factor: float) -> None:
        self.scale_hooks_(torch.full((self.n_hooks,), scaling_factor))
        self.cfg.normalize_activations = "none"

    @override
    def fold_activation_whitening(self, *args: Any, **kwargs: Any) -> None:
        """A whitening mixes hook points; it is refused.

        Raises:
            InputError: Always.
        """
        raise InputError(
            "covariance_whitening mixes the hook points of a crosscoder: use "
            "normalize_activations='none' with normalize_hooks=True"
        )
