"""Crosscoders in training."""

from __future__ import annotations

import copy
from typing import Any

import torch
from sae_lens.saes.sae import SAE, TrainCoefficientConfig, TrainStepInput, TrainStepOutput
from sae_lens.saes.topk_sae import SparseHookPoint
from torch import nn
from typing_extensions import override

from sae_lens_poly.architectures.aux_k import aux_k_loss
from sae_lens_poly.architectures.crosscoder import Crosscoder
from sae_lens_poly.architectures.crosscoder_config import TrainingCrosscoderConfig
from sae_lens_poly.architectures.geometric_median import geometric_median
from sae_lens_poly.architectures.hook_scales import HookScales
from sae_lens_poly.architectures.polynomial_dictionary import (
    PolynomialTrainingDictionary,
    check_batch,
)
from sae_lens_poly.architectures.shared_u_terms import SharedUTerms
from sae_lens_poly.architectures.sparse_code import (
    can_use_sparse_codes,
    encode_sparsely,
    map_active,
)
from sae_lens_poly.architectures.sparsifiers.base import score
from sae_lens_poly.architectures.sparsifiers.selecting import SelectingSparsifier
from sae_lens_poly.architectures.stacked_dictionary import StackedDictionary
from sae_lens_poly.errors import InputError
from sae_lens_poly.hook_names import expand_hook_names

#: With layer masking, every so many steps the threshold is taken from unmasked inputs.
CLEAN_EVERY = 10


class TrainingCrosscoder(StackedDictionary, PolynomialTrainingDictionary):
    """A crosscoder in training.

    ``encode`` and ``decode`` take and return raw activations. Weights and losses live in the
    normalised space of :class:`HookScales`, so that every hook point counts alike:
    ``loss = sum_l mean_t ||s_l x_t^l - x_hat_t^l||^2`` over the hook points that are written, plus
    the losses of the sparsifier, of inner Matryoshka widths, and AuxK.
    """

    cfg: TrainingCrosscoderConfig

    def __init__(self, cfg: TrainingCrosscoderConfig, use_error_term: bool = False) -> None:
        super().__init__(cfg, use_error_term)
        self.hook_sae_acts_post = SparseHookPoint(cfg.d_sae)
        self.setup()

    @override
    def initialize_weights(self) -> None:
        super().initialize_weights()
        cfg = self.cfg
        self.hook_scales = HookScales(cfg.n_hooks, self.d_model, self.device)
        self.sparsifier = cfg.make_sparsifier(self.device)
        self.masking = cfg.make_masking()

    @override
    def _setup_activation_normalization(self) -> None:
        self.run_time_activation_norm_fn_in = self.hook_scales.normalise
        self.run_time_activation_norm_fn_out = self.hook_scales.denormalise

    @override
    @torch.no_grad()
    def start_weights_(self) -> None:
        decoder, encoder = self.decoder_factors, self.encoder_factors
        wanted = self.cfg.decoder_init_norm
        # Without a norm, what Kaiming's uniform draws have on average.
        norm = 2**0.5 if wanted is None else wanted
        if wanted is not None and self.cfg.init_norm_over == "hook":
            norm *= self.n_hooks**0.5
        for factors in (decoder, encoder):
            if factors is not None:
                factors.balance_(norm)
        transposed = self.cfg.encoder_init == "transposed"
        if transposed and decoder is not None and encoder is not None:
            encoder.copy_from_(decoder)
            return
        rows = self._dense_start()
        if transposed and decoder is not None:
            rows = decoder.write(decoder.latent)
        elif transposed and encoder is not None:
            rows = encoder.write(encoder.latent)
        if decoder is None:
            self.W_dec.copy_(self._masked_start(rows, self.structure.write_mask(rows)))
        if encoder is None:
            rows = rows if transposed else self._dense_start()
            self.W_enc.copy_(self._masked_start(rows, self.structure.read_mask(rows)).T)

    def _dense_start(self) -> torch.Tensor:
        shape = (self.cfg.d_sae, 1 if self.cfg.same_hook_init else self.n_hooks, self.d_model)
        drawn = torch.empty(shape, dtype=self.dtype, device=self.device)
        nn.init.kaiming_uniform_(drawn.flatten(1))
        return drawn.expand(-1, self.n_hooks, -1).flatten(1)

    def _masked_start(self, rows: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Rows (d_sae, d_in) with zeros outside the mask, brought to the norm of the config."""
        rows = self.per_hook(rows) * mask[..., None]
        if self.cfg.decoder_init_norm is not None:
            over = -1 if self.cfg.init_norm_over == "hook" else (-2, -1)
            norms = torch.linalg.vector_norm(rows, dim=over, keepdim=True)
            rows = rows * (self.cfg.decoder_init_norm / norms.clamp_min(1e-12))
        return rows.flatten(1)

    @override
    @torch.no_grad()
    def retract_(self) -> None:
        super().retract_()
        self.sparsifier.retract_()

    @torch.no_grad()
    def latent_norms(self) -> torch.Tensor | None:
        """Sum over hook points of the decoder norm, (d_sae,), where the score uses it."""
        return self.decoder_norms().sum(dim=-1) if self.cfg.score_by_decoder_norm else None

    @override
    def encode_with_hidden_pre(
        self, x: torch.Tensor, seen: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes and pre-activations (..., d_sae); ``seen`` as :meth:`centred` has it."""
        return self._encode(x, seen, self.latent_norms())

    def _encode(
        self, x: torch.Tensor, seen: torch.Tensor | None, norms: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        hidden_pre = self.hook_sae_acts_pre(self.pre_activations(self.centred(x, seen)))
        return self.hook_sae_acts_post(self.sparsifier(hidden_pre, norms)), hidden_pre

    def _encode_sparsely(
        self, x: torch.Tensor, seen: torch.Tensor | None, norms: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert isinstance(self.sparsifier, SelectingSparsifier)
        factors, b_dec = self.encoder_factors, None
        if factors is None:
            with torch.no_grad():
                read = self.centred(x, seen)
            W = self.masked_W_enc()
            b_dec = self.b_dec if self.cfg.apply_b_dec_to_input else None
        else:  # the first half of the encoder is small and dense; its gradient is autograd's
            read, W, seen = factors.read(self.centred(x, seen)), factors.latent.T, None
        with torch.no_grad():
            hidden_pre = self.hook_sae_acts_pre(torch.addmm(self.b_enc, read, W))
            rows, cols = self.sparsifier.select(score(hidden_pre, norms))
        z = encode_sparsely(read, hidden_pre, rows, cols, W, self.b_enc, b_dec, seen)
        return self.hook_sae_acts_post(map_active(z, torch.relu)), hidden_pre

    def _can_step_sparsely(self, x: torch.Tensor) -> bool:
        return (
            self.cfg.use_sparse_activations
            and isinstance(self.sparsifier, SelectingSparsifier)
            and (self.encoder_factors is None or self.structure.is_full)
            and can_use_sparse_codes(self, x)
        )

    @torch.no_grad()
    def initialise_from_batch_(self, x: torch.Tensor) -> None:
        """Set scales, b_dec and the scale of the code from raw activations (n, d_in)."""
        if self.cfg.normalize_hooks:
            self.hook_scales.estimate_(x)
        else:
            self.hook_scales.estimated.fill_(True)
        if self.cfg.b_dec_init != "zeros":
            x_normal = self.hook_scales.normalise(x.float()).reshape(-1, self.cfg.d_in)
            if self.cfg.b_dec_init == "mean":
                self.b_dec.copy_(x_normal.mean(dim=0))
            else:
                medians = [geometric_median(at) for at in self.per_hook(x_normal).unbind(-2)]
                self.b_dec.copy_(torch.cat(medians))
        self.scale_codes_from_(x)

    @override
    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        # Stock SAETrainer has no hook before the first step nor after an optimiser step, so
        # both are done where the next step begins.
        x, step = step_input.sae_in, step_input.n_training_steps
        check_batch(x)
        self.sparsifier.prepare_(step)
        if step == 0 and not self.hook_scales.estimated:
            self.initialise_from_batch_(x)
        self.retract_()

        seen = self._draw_seen(step_input)
        norms = self.latent_norms()  # once a step: it reads the whole decoder
        encode = self._encode_sparsely if self._can_step_sparsely(x) else self._encode
        feature_acts, hidden_pre = encode(x, seen, norms)
        target = self._target(x)
        reconstruction = self.hook_sae_recons(self.reconstruct(feature_acts))
        reconstruction = self._written(reconstruction)
        if self.sparsifier.observes_codes:
            self._observe_codes(x, feature_acts, seen, norms, step)

        losses = {
            "mse_loss": (reconstruction - target).pow(2).sum(dim=-1).mean(),
            **self._aux_losses(
                step_input, feature_acts, hidden_pre, target - reconstruction, seen, norms
            ),
        }
        for width, inner in self.nested_reconstructions(feature_acts, self.cfg.inner_widths()):
            losses[f"inner_mse_loss_{width}"] = (inner - target).pow(2).sum(dim=-1).mean()
        return TrainStepOutput(
            sae_in=target,
            sae_out=reconstruction,
            feature_acts=feature_acts,
            hidden_pre=hidden_pre,
            loss=torch.stack(list(losses.values())).sum(),
            losses=losses,
            metrics=self._step_metrics(target, reconstruction, feature_acts)
            if step_input.is_logging_step
            else {},
        )

    @torch.no_grad()
    def _observe_codes(
        self,
        x: torch.Tensor,
        feature_acts: torch.Tensor,
        seen: torch.Tensor | None,
        norms: torch.Tensor | None,
        step: int,
    ) -> None:
        """Let the sparsifier see codes of a batch, for its inference threshold.

        At inference nothing is masked, and scores are higher: a threshold from masked batches would
        let more than k latents pass. So with masking it comes from codes of clean inputs, which
        take an encoder product of their own, now and then.
        """
        if seen is None:
            self.sparsifier.update_(feature_acts, norms)
        elif step % CLEAN_EVERY == 0:
            clean = self._encode(x, None, norms)[0]
            self.sparsifier.update_(clean, norms, stands_for=CLEAN_EVERY)

    def _draw_seen(self, step_input: TrainStepInput) -> torch.Tensor | None:
        n_tokens, step = len(step_input.sae_in), step_input.n_training_steps
        return self.masking.draw(n_tokens, step, like=self.b_dec)

    def _target(self, x: torch.Tensor) -> torch.Tensor:
        return self._written(self.hook_scales.normalise(x.to(self.dtype)))

    def _written(self, x: torch.Tensor) -> torch.Tensor:
        """Activations with zeros at hook points that no latent writes: they are no target."""
        if len(self.written_hooks) == self.n_hooks:
            return x
        return x * self._over_width(self.structure.indicator(self.written_hooks, x))

    @override
    def calculate_aux_loss(
        self,
        step_input: TrainStepInput,
        feature_acts: torch.Tensor,
        hidden_pre: torch.Tensor,
        sae_out: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """The losses of the sparsifier, and AuxK."""
        residual = self._target(step_input.sae_in) - sae_out
        seen = self._draw_seen(step_input)
        norms = self.latent_norms()
        return self._aux_losses(step_input, feature_acts, hidden_pre, residual, seen, norms)

    def _aux_losses(
        self,
        step_input: TrainStepInput,
        feature_acts: torch.Tensor,
        hidden_pre: torch.Tensor,
        residual: torch.Tensor,
        seen: torch.Tensor | None,
        norms: torch.Tensor | None,
    ) -> dict[str, torch.Tensor]:
        losses = self.sparsifier.losses(
            step_input, feature_acts, hidden_pre, norms, self.decoder_norms
        )
        if self.cfg.selects or self.cfg.aux_loss_coefficient:
            losses["auxiliary_reconstruction_loss"] = self._aux_k_loss(
                step_input, hidden_pre, residual, seen, norms
            )
        return losses

    def _aux_k_loss(
        self,
        step_input: TrainStepInput,
        hidden_pre: torch.Tensor,
        residual: torch.Tensor,
        seen: torch.Tensor | None,
        norms: torch.Tensor | None,
    ) -> torch.Tensor:
        """AuxK (Gao et al. 2024, appendix A.2) in the normalised space, by the linear term.

        As SAELens does it, but with ``k_aux`` from the width of one hook point: half of the
        stacked width would be more latents than a token's residual has directions.
        """
        dead = step_input.dead_neuron_mask
        if dead is None or not self.cfg.aux_loss_coefficient or not dead.any():
            return residual.new_zeros(())
        if hidden_pre.requires_grad:
            dead_pre = hidden_pre[..., dead]
        else:  # a sparse step keeps no gradient of what was not selected
            dead_pre = self._pre_activations_of(self.centred(step_input.sae_in, seen), dead)
        dead_norms = residual.new_ones(()) if norms is None else norms[dead]
        loss = aux_k_loss(
            residual,
            dead_pre * dead_norms,
            lambda kept: self._write_of(kept / dead_norms, dead),
            self.cfg.k_aux or max(1, self.d_model // 2),
        )
        return self.cfg.aux_loss_coefficient * loss

    def _pre_activations_of(self, centred: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        factors = self.encoder_factors
        if factors is None:
            return centred @ self.masked_W_enc()[:, latents] + self.b_enc[latents]
        return factors.read(centred) @ factors.latent[latents].T + self.b_enc[latents]

    def _write_of(self, code: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """The linear term of some latents alone; ``latents`` is a mask (d_sae,)."""
        factors = self.decoder_factors
        if factors is not None and self.structure.is_full:
            return factors.write(code @ factors.latent[latents])
        rows = self.W_dec[latents] if factors is None else factors.write(factors.latent[latents])
        if not self.structure.is_full:
            rows = rows * self._over_width(self.structure.write_mask(rows)[latents])
        return code @ rows

    @torch.no_grad()
    def _step_metrics(
        self, target: torch.Tensor, reconstruction: torch.Tensor, feature_acts: torch.Tensor
    ) -> dict[str, Any]:
        error = self.per_hook(target - reconstruction).pow(2).sum(dim=-1).mean(dim=0)
        variance = self.per_hook(target - target.mean(dim=0)).pow(2).sum(dim=-1).mean(dim=0)
        metrics: dict[str, Any] = self.polynomial_metrics(feature_acts)
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
    def get_coefficients(self) -> dict[str, float | TrainCoefficientConfig]:
        return self.sparsifier.coefficients()

    @override
    @torch.no_grad()
    def log_histograms(self) -> dict[str, Any]:
        norms = self.decoder_norms().float().cpu().numpy()
        return {
            f"weights/W_dec_norms/{name}": norms[:, i] for i, name in enumerate(self.hook_labels())
        }

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
        self.cfg.metadata.hook_scales = self.hook_scales.scale.tolist()

    @override
    def process_state_dict_for_saving_inference(self, state_dict: dict[str, Any]) -> None:
        self.process_state_dict_for_saving(state_dict)
        state_dict.clear()
        state_dict.update(self.to_inference().state_dict())

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
        for part, name in {"encoder_factors": "W_enc", "decoder_factors": "W_dec"}.items():
            factors = getattr(inference, part)
            if factors is None:
                getattr(inference, name).copy_(getattr(self, name))
            else:
                factors.copy_from_(getattr(self, part))
        inference.b_dec.copy_(self.b_dec)
        inference.b_enc.copy_(self.b_enc)
        norms = self.latent_norms()
        if inference.cfg.select_k is None:
            thresholds = self.sparsifier.latent_thresholds(self.cfg.d_sae, norms)
            inference.threshold.copy_(thresholds)
        elif norms is not None:
            inference.score_weight.copy_(norms)
        terms = self.polynomial
        if isinstance(terms, SharedUTerms):
            terms = terms.to_code_interactions()
        inference.polynomial = copy.deepcopy(terms)
        inference.scale_hooks_(self.hook_scales.scale)
        return inference
