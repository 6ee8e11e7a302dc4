"""Crosscoders: one sparse code that reads and reconstructs several hook points.

At its boundary a crosscoder is an SAE whose ``d_in`` is ``n_hooks * d_model``: activations of
the hook points laid end to end, two-dimensional ``W_enc`` and ``W_dec``. That is what lets
SAELens' runner, trainer, store, evals and loaders work on it unchanged. Inside, the width is
viewed as ``(n_hooks, d_model)``.

One pair of classes serves every decoder: the sparsifier, the polynomial terms and the scales
are separate modules that the config chooses.
"""

import copy
import re
from dataclasses import dataclass
from typing import Any

import torch
from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig
from sae_lens.saes.sae import (
    SAE,
    TrainCoefficientConfig,
    TrainingSAEConfig,
    TrainStepInput,
    TrainStepOutput,
)
from torch import nn
from typing_extensions import override

from sae_lens_poly.architectures.aux_k import aux_k_loss
from sae_lens_poly.architectures.hook_scales import HookScales
from sae_lens_poly.architectures.polynomial_dictionary import (
    PolynomialDictionary,
    PolynomialTrainingDictionary,
    check_batch,
)
from sae_lens_poly.architectures.polynomial_terms import PolynomialTerms
from sae_lens_poly.architectures.shared_u_terms import SharedUTerms
from sae_lens_poly.architectures.sparsifiers import BatchTopKSparsifier
from sae_lens_poly.errors import InputError
from sae_lens_poly.hook_names import expand_hook_names


def check_hook_structure(cfg: "CrosscoderConfig | TrainingCrosscoderConfig") -> None:
    """Refuse configs whose fields cannot belong to a stack of hook points.

    Raises:
        InputError: Naming the field, its value and the remedy.
    """
    if cfg.n_hooks < 1 or cfg.d_in % cfg.n_hooks:
        raise InputError(
            f"n_hooks={cfg.n_hooks} does not divide d_in={cfg.d_in}: d_in is n_hooks times the "
            "width of one hook point"
        )
    if cfg.normalize_activations != "none":
        raise InputError(
            f"normalize_activations={cfg.normalize_activations!r} scales all hook points by one "
            "number, and a crosscoder has one for each: set normalize_activations='none' and "
            "choose with normalize_hooks"
        )
    if cfg.reshape_activations != "none":
        raise InputError(
            f"reshape_activations={cfg.reshape_activations!r} is for hook points with a head "
            "dimension: set it to 'none' and use a hook point of width d_model"
        )


@dataclass
class CrosscoderConfig(JumpReLUSAEConfig):
    """Configuration of an inference crosscoder with a linear decoder.

    Args:
        n_hooks (int): Number of hook points; ``d_in`` is ``n_hooks`` times their width.
    """

    n_hooks: int = 1

    @override
    @classmethod
    def architecture(cls) -> str:
        return "crosscoder"

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        check_hook_structure(self)

    def make_polynomial_terms(self, W_dec: torch.Tensor) -> PolynomialTerms | None:
        """The terms above degree 1; a linear decoder has none."""
        return None


@dataclass(kw_only=True)
class TrainingCrosscoderConfig(TrainingSAEConfig):
    """Configuration for training a crosscoder with a linear decoder.

    Args:
        n_hooks (int): Number of hook points. The command line fills it in.
        d_in (int): ``n_hooks`` times the width of one hook point. The command line fills it in.
        d_sae (int): Number of latents.
        k (float): Mean number of active latents per token (BatchTopK).
        score_by_decoder_norm (bool): Whether BatchTopK ranks latents by pre-activation times
            the sum over hook points of the decoder norm (Minder et al. 2025), or by the
            pre-activation alone. The code that is decoded is the unscaled one in either case.
        threshold_lr (float): Weight of a batch in the moving average that becomes the
            inference threshold.
        normalize_hooks (bool): Whether every hook point gets a scale of its own, estimated from
            the first training batch, or all keep the scale they have.
        mean_b_dec (bool): Whether b_dec starts at the mean of the first training batch.
        aux_loss_coefficient (float): Weight of the loss by which dead latents learn to
            reconstruct the residual (AuxK).
        k_aux (int | None): How many dead latents it may use per token; None: half the width of
            one hook point.
        decoder_init_norm (float | None): Norm of a latent's decoder vector over the stack.
    """

    n_hooks: int = 1
    k: float = 32
    score_by_decoder_norm: bool = True
    threshold_lr: float = 0.05
    normalize_hooks: bool = True
    mean_b_dec: bool = True
    aux_loss_coefficient: float = 1.0
    k_aux: int | None = None
    decoder_init_norm: float | None = 1.0

    @override
    @classmethod
    def architecture(cls) -> str:
        return "crosscoder"

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        check_hook_structure(self)
        if not 0 < self.k <= self.d_sae:
            raise InputError(
                f"k={self.k} must be above 0 and at most d_sae={self.d_sae}: lower k or raise d_sae"
            )

    def make_polynomial_terms(self, W_dec: torch.Tensor) -> PolynomialTerms | None:
        """The terms above degree 1; a linear decoder has none."""
        return None

    @override
    def to_dict(self) -> dict[str, Any]:
        return _with_hook_names(super().to_dict())

    @override
    def get_inference_sae_cfg_dict(self) -> dict[str, Any]:
        return _with_hook_names(super().get_inference_sae_cfg_dict())


def _with_hook_names(cfg_dict: dict[str, Any]) -> dict[str, Any]:
    """Spell out in the metadata which hook points ``hook_name`` stands for."""
    metadata = cfg_dict["metadata"]
    if metadata.get("hook_name") and not metadata.get("hook_names"):
        metadata["hook_names"] = expand_hook_names(metadata["hook_name"])
    return cfg_dict


class StackedDictionary(PolynomialDictionary):
    """What training and inference crosscoders share: the views per hook point."""

    @property
    def n_hooks(self) -> int:
        """Number of hook points."""
        return self.cfg.n_hooks

    @property
    def d_model(self) -> int:
        """Width of one hook point."""
        return self.cfg.d_in // self.cfg.n_hooks

    def per_hook(self, x: torch.Tensor) -> torch.Tensor:
        """View activations (..., d_in) as (..., n_hooks, d_model)."""
        return x.unflatten(-1, (self.n_hooks, self.d_model))

    @property
    def W_enc_per_hook(self) -> torch.Tensor:
        """``W_enc`` as (n_hooks, d_model, d_sae)."""
        return self.W_enc.unflatten(0, (self.n_hooks, self.d_model))

    @property
    def W_dec_per_hook(self) -> torch.Tensor:
        """``W_dec``, the linear term, as (d_sae, n_hooks, d_model)."""
        return self.per_hook(self.W_dec)

    def decoder_norms(self) -> torch.Tensor:
        """Norm of the linear decoder of each latent at each hook point, (d_sae, n_hooks)."""
        return self.W_dec_per_hook.norm(dim=-1)

    def get_name(self) -> str:
        """SAELens' name for the dictionary, with the signs that wandb refuses replaced."""
        return re.sub(r"[^\w./-]+", "-", super().get_name())

    def fold_activation_whitening(self, *args: Any, **kwargs: Any) -> None:
        """A whitening mixes hook points; it is refused.

        Raises:
            InputError: Always.
        """
        raise InputError(
            "covariance_whitening mixes the hook points of a crosscoder: use "
            "normalize_activations='none' with normalize_hooks=True"
        )


class Crosscoder(StackedDictionary, JumpReLUSAE):
    """An inference crosscoder: raw activations in, raw reconstructions out.

    ``z = JumpReLU_theta(x W_enc + b_enc)``, ``x_hat = b_dec + z W_dec + sum_i y_i(z)``, where x
    holds the hook points end to end, (..., n_hooks * d_model). The scales of the hook points and
    the per-latent thresholds are folded into the weights.
    """

    cfg: CrosscoderConfig


class TrainingCrosscoder(StackedDictionary, PolynomialTrainingDictionary):
    """A crosscoder in training.

    ``encode`` and ``decode`` take and return raw activations. Weights and losses live in the
    normalised space of :class:`HookScales`, so that every hook point counts alike:
    ``loss = sum_l mean_t ||s_l x_t^l - x_hat_t^l||^2``, plus AuxK.
    """

    b_enc: nn.Parameter
    cfg: TrainingCrosscoderConfig

    @override
    def initialize_weights(self) -> None:
        super().initialize_weights()
        cfg = self.cfg
        self.b_enc = nn.Parameter(torch.zeros(cfg.d_sae, dtype=self.dtype, device=self.device))
        self.hook_scales = HookScales(cfg.n_hooks, self.d_model, self.device)
        self.sparsifier = BatchTopKSparsifier(cfg.k, cfg.threshold_lr, self.device)

    @override
    def _setup_activation_normalization(self) -> None:
        self.run_time_activation_norm_fn_in = self.hook_scales.normalise
        self.run_time_activation_norm_fn_out = self.hook_scales.denormalise

    def latent_norms(self) -> torch.Tensor | None:
        """Sum over hook points of the decoder norm, (d_sae,), where the score uses it."""
        return self.decoder_norms().sum(dim=-1) if self.cfg.score_by_decoder_norm else None

    @override
    def encode_with_hidden_pre(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden_pre = self.hook_sae_acts_pre(self.process_sae_in(x) @ self.W_enc + self.b_enc)
        feature_acts = self.sparsifier(hidden_pre, self.latent_norms())
        return self.hook_sae_acts_post(feature_acts), hidden_pre

    @torch.no_grad()
    def initialise_from_batch_(self, x: torch.Tensor) -> None:
        """Set scales, b_dec and the scale of the code from raw activations (n, d_in)."""
        if self.cfg.normalize_hooks:
            self.hook_scales.estimate_(x)
        else:
            self.hook_scales.estimated.fill_(True)
        if self.cfg.mean_b_dec:
            mean = self.hook_scales.normalise(x.float()).reshape(-1, self.cfg.d_in).mean(dim=0)
            self.b_dec.copy_(mean)
        self.scale_codes_from_(x)

    @override
    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        # Stock SAETrainer has no hook before the first step nor after an optimiser step, so
        # both are done where the next step begins.
        check_batch(step_input.sae_in)
        if step_input.n_training_steps == 0 and not self.hook_scales.estimated:
            self.initialise_from_batch_(step_input.sae_in)
        self.retract_()

        feature_acts, hidden_pre = self.encode_with_hidden_pre(step_input.sae_in)
        target = self.hook_scales.normalise(step_input.sae_in.to(self.dtype))
        reconstruction = self.hook_sae_recons(self.reconstruct(feature_acts))
        self.sparsifier.update_threshold_(feature_acts, self.latent_norms())

        losses = {
            "mse_loss": (reconstruction - target).pow(2).sum(dim=-1).mean(),
            **self.calculate_aux_loss(step_input, feature_acts, hidden_pre, reconstruction),
        }
        return TrainStepOutput(
            sae_in=target,
            sae_out=reconstruction,
            feature_acts=feature_acts,
            hidden_pre=hidden_pre,
            loss=torch.stack(list(losses.values())).sum(),
            losses=losses,
            metrics=self._step_metrics(target, reconstruction)
            if step_input.is_logging_step
            else {},
        )

    @override
    def calculate_aux_loss(
        self,
        step_input: TrainStepInput,
        feature_acts: torch.Tensor,
        hidden_pre: torch.Tensor,
        sae_out: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """AuxK (Gao et al. 2024, appendix A.2) in the normalised space, by the linear term.

        As SAELens does it, but with ``k_aux`` from the width of one hook point: half of the
        stacked width would be more latents than a token's residual has directions.
        """
        dead = step_input.dead_neuron_mask
        if dead is None or self.cfg.aux_loss_coefficient == 0 or not dead.any():
            return {"auxiliary_reconstruction_loss": sae_out.new_zeros(())}
        target = self.hook_scales.normalise(step_input.sae_in.to(self.dtype))
        loss = aux_k_loss(
            target - sae_out,
            hidden_pre[..., dead],
            self.W_dec[dead],
            self.cfg.k_aux or max(1, self.d_model // 2),
        )
        return {"auxiliary_reconstruction_loss": self.cfg.aux_loss_coefficient * loss}

    @torch.no_grad()
    def _step_metrics(self, target: torch.Tensor, reconstruction: torch.Tensor) -> dict[str, Any]:
        error = self.per_hook(target - reconstruction).pow(2).sum(dim=-1).mean(dim=0)
        variance = self.per_hook(target - target.mean(dim=0)).pow(2).sum(dim=-1).mean(dim=0)
        metrics: dict[str, Any] = {"score_threshold": self.sparsifier.threshold}
        for name, mse, ev in zip(self.hook_labels(), error, 1 - error / variance, strict=True):
            metrics[f"mse/{name}"] = mse
            metrics[f"explained_variance/{name}"] = ev
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
        return {}

    @override
    @torch.no_grad()
    def log_histograms(self) -> dict[str, Any]:
        norms = self.decoder_norms().float().cpu().numpy()
        return {
            f"weights/W_dec_norms/{name}": norms[:, i] for i, name in enumerate(self.hook_labels())
        }

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
        """The thresholded dictionary on raw activations, with the same codes and reconstructions.

        Per hook point: ``W_enc^l s_l``, ``W_dec^l / s_l``, ``b_dec^l / s_l``, and every polynomial
        term ``/ s_l``. The score threshold becomes one threshold per latent *before* the decoder
        norms are folded, since each latent's norm changes by a factor of its own.
        """
        self.retract_()
        inference = SAE.from_dict(self.cfg.get_inference_sae_cfg_dict())
        assert isinstance(inference, Crosscoder)
        inference = inference.to(self.device)
        scale = self.hook_scales.per_dimension().to(self.dtype)
        inference.W_enc.copy_(self.W_enc * scale[:, None])
        inference.W_dec.copy_(self.W_dec / scale)
        inference.b_dec.copy_(self.b_dec / scale)
        inference.b_enc.copy_(self.b_enc)
        inference.threshold.copy_(
            self.sparsifier.latent_thresholds(self.cfg.d_sae, self.latent_norms())
        )
        terms = self.polynomial
        if isinstance(terms, SharedUTerms):
            terms = terms.to_code_interactions()
        if terms is not None:
            inference.polynomial = copy.deepcopy(terms)
            inference.polynomial.rescale_outputs_(1 / scale)
        return inference
