"""Crosscoders in training."""

from __future__ import annotations

from typing import Any

import torch
from sae_lens.saes.sae import (
    SAE,
    TrainCoefficientConfig,
    TrainingSAE,
    TrainStepInput,
    TrainStepOutput,
)
from typing_extensions import override

from sae_lens_poly.architectures.checks import check_batch, explain_loss
from sae_lens_poly.architectures.crosscoders.config import TrainingCrosscoderConfig
from sae_lens_poly.architectures.crosscoders.crosscoder import Crosscoder
from sae_lens_poly.architectures.crosscoders.hook_scales import HookScales
from sae_lens_poly.architectures.crosscoders.layer_masking import LayerMasking
from sae_lens_poly.architectures.crosscoders.stacked_dictionary import StackedDictionary
from sae_lens_poly.architectures.crosscoders.start import start_weights_
from sae_lens_poly.architectures.encoders import Encoder, hide
from sae_lens_poly.architectures.encoders.aux_k import aux_k_loss, aux_k_of_write_sae
from sae_lens_poly.architectures.kernels.at_least_float32 import at_least_float32
from sae_lens_poly.architectures.kernels.geometric_median import geometric_median
from sae_lens_poly.architectures.kernels.sparse_code import can_use_sparse_codes
from sae_lens_poly.architectures.official.shared_u import convert_shared_u
from sae_lens_poly.architectures.polynomial_dictionary import sizes_of_degrees
from sae_lens_poly.architectures.sparsifiers import SPARSIFIERS
from sae_lens_poly.errors import InputError
from sae_lens_poly.hook_names import expand_hook_names

#: With layer masking, every so many steps the threshold is taken from unmasked inputs.
CLEAN_EVERY = 10

#: Dead latents that AuxK of WriteSAE's code may use for a state.
PUBLISHED_K_AUX = 256


class TrainingCrosscoder(StackedDictionary, TrainingSAE[Any]):
    """A crosscoder in training.

    ``encode`` and ``decode`` take and return raw activations. Weights and losses live in the
    normalised space of :class:`HookScales`, so that every hook point counts alike:
    ``loss = sum_l mean_t ||s_l x_t^l - x_hat_t^l||^2`` over the hook points that are written, plus
    the losses of the sparsifier, of inner Matryoshka widths, and AuxK.
    """

    cfg: TrainingCrosscoderConfig

    first_latent: int = 0
    """Number of the first latent that is here, where processes share them."""

    @override
    def initialize_weights(self) -> None:
        super().initialize_weights()
        cfg = self.cfg
        if cfg.ties_encoder:
            self.encoder_weights = self.decoder_weights
            self.encoder = Encoder(self.encoder_weights, self.encoder_score)
        if not self.b_enc.is_meta:  # a dictionary that is being loaded gets its weights later
            start_weights_(cfg, self.encoder_weights, self.decoder_weights, self.structure)
        self.hook_scales = HookScales(cfg.n_hooks, self.d_model, self.device)
        self.sparsifier = SPARSIFIERS[cfg.sparsifier](cfg, cfg.d_sae, self.device)
        self.masking = LayerMasking(cfg.mask_mode, cfg.mask_p, cfg.mask_seed, cfg.n_hooks)
        self.upkeep = cfg.make_upkeep()
        self.steps_sparsely = cfg.use_sparse_activations and self.sparsifier.selects
        self.has_unwritten = len(self.structure.written) < cfg.n_hooks
        self.inner_widths = [width for width in cfg.matryoshka_widths if width < cfg.d_sae]

    @override
    def _setup_activation_normalization(self) -> None:
        self.run_time_activation_norm_fn_in = self.hook_scales.normalise
        self.run_time_activation_norm_fn_out = self.hook_scales.denormalise

    # A step

    @override
    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        x, step = step_input.sae_in, step_input.n_training_steps
        # Stock SAETrainer has no hook before the first step nor after an optimiser step, so what
        # belongs there is done where the next step begins.
        if step == 0 and not self.hook_scales.estimated:
            self.initialise_from_batch_(x)
        elif step == 0:  # trained before, but perhaps with a linear decoder
            self.scale_codes_from_(x)
        if self.upkeep is not None:
            self.upkeep.before_step_(self, x, step, step_input.dead_neuron_mask)
        self.sparsifier.prepare_(step)
        if self.polynomial is not None:
            self.polynomial.retract_()

        x = self.hook_scales.normalise(x.to(self.dtype))
        seen = self.masking.draw(len(x), step, like=self.b_dec) if self.cfg.mask_p else None
        norms = self.latent_norms()  # once a step: it reads the whole decoder
        if self.steps_sparsely and can_use_sparse_codes(self, x):
            z, hidden_pre = self._sparse_codes(x, seen, norms)
        else:
            z, hidden_pre = self._dense_codes(step_input.sae_in, seen, norms)
        terms = self.degree_terms(z) if step_input.is_logging_step else {}
        if terms:
            x_hat = sum(terms.values(), start=self.b_dec)
        else:
            x_hat = self.decoder(z, self.decoder_weights, self.b_dec)
        x_hat = self.hook_sae_recons(x_hat)
        if self.has_unwritten:
            x, x_hat = self._written(x), self._written(x_hat)

        losses = {"mse_loss": (x_hat - x).pow(2).sum(dim=-1).mean()}
        losses |= self._aux_losses(step_input, z, hidden_pre, x - x_hat, seen, norms)
        if self.inner_widths:
            losses |= self._inner_losses(z, x)
        loss = torch.stack(list(losses.values())).sum()
        if self.world is not None:
            loss = self.world.share(loss)
        if not torch.isfinite(loss):
            explain_loss(step_input.sae_in, step)
        if self.sparsifier.observes_codes and seen is None:
            self.sparsifier.update_(z, norms)
        elif self.sparsifier.observes_codes and step % CLEAN_EVERY == 0:
            self._observe_clean(step_input.sae_in, norms)
        return TrainStepOutput(
            sae_in=x,
            sae_out=x_hat,
            feature_acts=z,
            hidden_pre=hidden_pre,
            loss=loss,
            losses=losses,
            metrics=self._metrics(x, x_hat, terms) if step_input.is_logging_step else {},
        )

    def _sparse_codes(
        self, x: torch.Tensor, seen: torch.Tensor | None, norms: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        b_dec = self.b_dec if self.cfg.apply_b_dec_to_input else None
        return self.encoder.sparse_codes(x, self.b_enc, b_dec, seen, self.sparsifier, norms)

    def _dense_codes(
        self, raw: torch.Tensor, seen: torch.Tensor | None, norms: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.hook_scales.normalise(self.hook_sae_input(raw.to(self.dtype)))
        hidden_pre = self.hook_sae_acts_pre(self.encoder(self._centre(x, seen), self.b_enc))
        return self.hook_sae_acts_post(self.sparsifier(hidden_pre, norms)), hidden_pre

    def _centre(self, x: torch.Tensor, seen: torch.Tensor | None) -> torch.Tensor:
        if self.cfg.apply_b_dec_to_input:
            x = x - self.b_dec
        return x if seen is None else hide(x, seen)

    def _written(self, x: torch.Tensor) -> torch.Tensor:
        """Activations with zeros at hook points that no latent writes: they are no target."""
        written = torch.zeros(self.cfg.n_hooks, dtype=x.dtype, device=x.device)
        written[list(self.structure.written)] = 1
        return hide(x, written)

    # What a step learns beside its gradients

    @torch.no_grad()
    def initialise_from_batch_(self, x: torch.Tensor) -> None:
        """Set scales, b_dec and the scale of the code from raw activations (n, d_in)."""
        check_batch(x)
        if self.cfg.normalize_hooks:
            self.hook_scales.estimate_(x)
        else:
            self.hook_scales.estimated.fill_(True)
        x_normal = self.hook_scales.normalise(at_least_float32(x)).reshape(-1, self.cfg.d_in)
        if self.cfg.b_dec_init == "mean":
            mean = x_normal.mean(dim=0)
            self.b_dec.copy_(mean if self.world is None else self.world.mean(mean))
        elif self.cfg.b_dec_init == "geometric_median":
            per_hook = self.per_hook(x_normal).unbind(-2)
            medians = [geometric_median(at, self.world) for at in per_hook]
            self.b_dec.copy_(torch.cat(medians))
        self.encoder_score.start_(self._centre(x_normal.to(self.dtype), None), self.encoder_weights)
        self.scale_codes_from_(x)

    @override
    @torch.no_grad()
    def retract_(self) -> None:
        super().retract_()
        self.sparsifier.retract_()

    @torch.no_grad()
    def latent_norms(self) -> torch.Tensor | None:
        """Sum over hook points of the decoder norm, (d_sae,), where the score uses it."""
        if not self.cfg.score_by_decoder_norm:
            return None
        return self.decoder_weights.norms().sum(dim=-1)

    @torch.no_grad()
    def _observe_clean(self, x: torch.Tensor, norms: torch.Tensor | None) -> None:
        """Let the sparsifier see codes of a batch that is not masked, for its inference threshold.

        At inference nothing is masked, and scores are higher: a threshold from masked batches would
        let more than k latents pass. So with masking it comes from codes of clean inputs, which
        take an encoder product of their own, now and then.
        """
        clean = self._dense_codes(x, None, norms)[0]
        self.sparsifier.update_(clean, norms, stands_for=CLEAN_EVERY)

    # Losses

    @override
    def calculate_aux_loss(
        self,
        step_input: TrainStepInput,
        feature_acts: torch.Tensor,
        hidden_pre: torch.Tensor,
        sae_out: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """The losses of the sparsifier, and AuxK."""
        x = self.hook_scales.normalise(step_input.sae_in.to(self.dtype))
        seen = self.masking.draw(len(x), step_input.n_training_steps, like=self.b_dec)
        residual = (self._written(x) if self.has_unwritten else x) - sae_out
        return self._aux_losses(
            step_input, feature_acts, hidden_pre, residual, seen, self.latent_norms()
        )

    def _aux_losses(
        self,
        step_input: TrainStepInput,
        feature_acts: torch.Tensor,
        hidden_pre: torch.Tensor,
        residual: torch.Tensor,
        seen: torch.Tensor | None,
        norms: torch.Tensor | None,
    ) -> dict[str, torch.Tensor]:
        losses: dict[str, torch.Tensor] = {}
        if self.sparsifier.penalises:
            of_latents = self.sparsifier.losses(
                step_input, feature_acts, hidden_pre, norms, self.decoder_norms
            )
            if self.world is not None:
                of_latents = {name: self.world.across(each) for name, each in of_latents.items()}
            losses |= of_latents
        if self.sparsifier.selects or self.cfg.aux_loss_coefficient:
            aux_k, dead = residual.new_zeros(()), step_input.dead_neuron_mask
            has_dead = False
            if dead is not None and self.cfg.aux_loss_coefficient:
                has_dead = bool(dead.any() if self.world is None else self.world.across(dead.sum()))
            if has_dead:
                aux_k = self._aux_k_loss(step_input.sae_in, hidden_pre, residual, dead, seen, norms)
            losses["auxiliary_reconstruction_loss"] = aux_k
        return losses

    def _aux_k_loss(
        self,
        x: torch.Tensor,
        hidden_pre: torch.Tensor,
        residual: torch.Tensor,
        dead: torch.Tensor,
        seen: torch.Tensor | None,
        norms: torch.Tensor | None,
    ) -> torch.Tensor:
        """AuxK (Gao et al. 2024, appendix A.2) in the normalised space, by the linear term.

        As SAELens does it, but with ``k_aux`` from the width of one hook point: half of the
        stacked width would be more latents than a token's residual has directions.
        """
        if hidden_pre.requires_grad:
            dead_pre = hidden_pre[..., dead]
        else:  # a sparse step has no gradient for latents that were not selected
            centred = self._centre(self.hook_scales.normalise(x.to(self.dtype)), seen)
            dead_pre = self.encoder.of_latents(centred, self.b_enc, dead)
        dead_norms = residual.new_ones(()) if norms is None else norms[dead]
        assert self.cfg.aux_loss_coefficient is not None
        if self.cfg.aux_k_is_published:
            loss = aux_k_of_write_sae(
                residual,
                dead_pre * dead_norms,
                lambda kept: self.decoder_weights.write(kept / dead_norms, dead) + self.b_dec,
                self.cfg.k_aux or PUBLISHED_K_AUX,
            )
            return self.cfg.aux_loss_coefficient * loss
        loss = aux_k_loss(
            residual,
            dead_pre * dead_norms,
            lambda kept: self.decoder_weights.write(kept / dead_norms, dead),
            self.cfg.k_aux or max(1, self.d_model // 2),
            self.world,
        )
        return self.cfg.aux_loss_coefficient * loss

    def _inner_losses(self, z: torch.Tensor, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Squared errors of the first latents alone, Matryoshka's (Bussmann et al. 2025)."""
        # Of the first latents, those that are here; there may be none.
        here = [min(max(width - self.first_latent, 0), z.shape[-1]) for width in self.inner_widths]
        nested = self.nested_reconstructions(z, here)
        return {
            f"inner_mse_loss_{width}": (inner - x).pow(2).sum(dim=-1).mean()
            for width, (_, inner) in zip(self.inner_widths, nested, strict=True)
        }

    # What the log sees

    @torch.no_grad()
    def _metrics(
        self, x: torch.Tensor, x_hat: torch.Tensor, terms: dict[int, torch.Tensor]
    ) -> dict[str, Any]:
        """Per hook point, in normalised units; of the terms, their size against the linear one."""
        error = self.per_hook(x - x_hat).pow(2).sum(dim=-1).mean(dim=0)
        variance = self.per_hook(x - x.mean(dim=0)).pow(2).sum(dim=-1).mean(dim=0)
        metrics: dict[str, Any] = sizes_of_degrees(terms)
        if "threshold" in dict(self.sparsifier.named_buffers()):
            metrics["score_threshold"] = self.sparsifier.threshold
        labels = self.hook_labels()
        for hook in self.written_hooks:
            metrics[f"mse/{labels[hook]}"] = error[hook]
            metrics[f"explained_variance/{labels[hook]}"] = 1 - error[hook] / variance[hook]
        return metrics

    def hook_labels(self) -> list[str]:
        """Names of the hook points where they are known, else their numbers."""
        names = self.cfg.metadata.hook_names
        if not names and self.cfg.metadata.hook_name:
            names = expand_hook_names(self.cfg.metadata.hook_name)
        if names and len(names) == self.n_hooks:
            return names
        return [f"hook_{i}" for i in range(self.n_hooks)]

    @override
    @torch.no_grad()
    def log_histograms(self) -> dict[str, Any]:
        norms = self.decoder_norms().float().cpu().numpy()
        return {
            f"weights/W_dec_norms/{name}": norms[:, i] for i, name in enumerate(self.hook_labels())
        }

    # SAELens' interface

    @override
    def encode_with_hidden_pre(
        self, x: torch.Tensor, seen: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes and pre-activations (..., d_sae) of raw activations (..., d_in).

        Args:
            x: Hook points end to end.
            seen: 1 for hook points that are looked at, 0 for others, (..., n_hooks); None: all.
        """
        return self._dense_codes(x, seen, self.latent_norms())

    @override
    def decode(self, feature_acts: torch.Tensor) -> torch.Tensor:
        """Raw activations (..., d_in) from codes (..., d_sae), dense or sparse."""
        return self.hook_scales.denormalise(self.hook_sae_recons(self.reconstruct(feature_acts)))

    @override
    def get_coefficients(self) -> dict[str, float | TrainCoefficientConfig]:
        return self.sparsifier.coefficients()

    @override
    def fold_W_dec_norm(self) -> None:
        """Refused: scores and thresholds in training are in units of the present norms.

        Raises:
            InputError: Always.
        """
        raise InputError(
            "fold_W_dec_norm() is for inference crosscoders: fold what to_inference() gives"
        )

    @override
    def process_state_dict_for_saving(self, state_dict: dict[str, Any]) -> None:
        super().process_state_dict_for_saving(state_dict)
        if self.cfg.ties_encoder:  # safetensors has no tensors that share memory
            for name in [name for name in state_dict if name.startswith("encoder_factors.")]:
                state_dict[name] = state_dict[name].clone()
        self.cfg.metadata.hook_scales = self.hook_scales.scale.tolist()

    @override
    def process_state_dict_for_loading(self, state_dict: dict[str, Any]) -> None:
        convert_shared_u(state_dict)
        super().process_state_dict_for_loading(state_dict)
        for name, tensor in state_dict.items():
            state_dict[name] = tensor.contiguous()

    @override
    def process_state_dict_for_saving_inference(self, state_dict: dict[str, Any]) -> None:
        self.retract_()
        self.cfg.metadata.hook_scales = self.hook_scales.scale.tolist()
        inference = self.to_inference()
        state_dict.clear()
        state_dict.update(inference.state_dict())
        inference.process_state_dict_for_saving(state_dict)

    @torch.no_grad()
    def to_inference(self) -> Crosscoder:
        """The dictionary on raw activations, with the same codes and reconstructions.

        BatchTopK becomes a threshold. The threshold on the score becomes one for each latent
        *before* the scales of the hook points are folded, since these change each latent's norm by
        a factor of its own. Factored weights stay factored, but for ``export_dense``.
        """
        self.retract_()
        inference = SAE.from_dict(self.cfg.get_inference_sae_cfg_dict())
        assert isinstance(inference, Crosscoder)
        inference = inference.to(self.device)
        inference.encoder_weights.copy_from_(self.encoder_weights)
        inference.decoder_weights.copy_from_(self.decoder_weights)
        self.encoder_score.export_to_(inference.encoder_score, inference.encoder_weights)
        inference.b_dec.copy_(self.b_dec)
        inference.b_enc.copy_(self.b_enc)
        norms = self.latent_norms()
        if not inference.selects:
            thresholds = self.sparsifier.latent_thresholds(self.cfg.d_sae, norms)
            inference.threshold.copy_(thresholds)
        elif norms is not None:
            inference.score_weight.copy_(norms)
        if inference.polynomial is not None and self.polynomial is not None:
            inference.polynomial.load_state_dict(self.polynomial.state_dict())
        inference.scale_hooks_(self.hook_scales.scale)
        return inference
