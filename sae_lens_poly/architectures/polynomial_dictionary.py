"""What every dictionary with a polynomial decoder shares: mixins over SAELens' classes.

:class:`PolynomialDictionary` goes in front of an inference class, and
:class:`PolynomialTrainingDictionary` in front of a training class; encoder, sparsifier and losses
stay SAELens'.
"""

from __future__ import annotations

import copy
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch
from sae_lens.saes.sae import SAE, TrainingSAE, TrainStepInput, TrainStepOutput
from torch import nn
from transformer_lens.hook_points import HookPoint
from typing_extensions import Self, override

from sae_lens_poly.architectures.official_polysae import is_official
from sae_lens_poly.architectures.polynomial_terms import PolynomialTerms
from sae_lens_poly.architectures.shared_u_terms import SharedUTerms
from sae_lens_poly.architectures.sparse_code import (
    code_times,
    latent_range,
    scale_latents,
)
from sae_lens_poly.errors import InputError


@dataclass(frozen=True)
class PairBlock:
    """Pairs of latents, one of each range, and the columns of d_in that both of them write."""

    first: slice
    second: slice
    """The same range as ``first``, or one that starts where it stops or later."""
    columns: torch.Tensor | slice

    def holds(self, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        """Which of the pairs (i, j) it has, in either order, (n,)."""
        i, j = torch.minimum(i, j), torch.maximum(i, j)
        return (
            (self.first.start <= i)
            & (i < self.first.stop)
            & (self.second.start <= j)
            & (j < self.second.stop)
        )


class PolynomialDictionary(SAE[Any]):
    """A dictionary with ``x_hat = b_dec + y_1 + y_2 + y_3``, ``y_1 = z W_dec``.

    Hook points beside SAELens' own: ``hook_sae_a`` on what is raised to a power (where the
    decoder has one such tensor), ``hook_sae_y1``, ``hook_sae_y2``, ``hook_sae_y3`` on the terms.
    """

    cfg: Any
    W_dec: nn.Parameter
    polynomial: PolynomialTerms | None

    @override
    def initialize_weights(self) -> None:
        super().initialize_weights()
        self._initialize_polynomial()

    def _initialize_polynomial(self) -> None:
        """The hook points of the terms, and the terms above degree 1."""
        self.hook_sae_a = HookPoint()
        self.hook_sae_y1, self.hook_sae_y2, self.hook_sae_y3 = (HookPoint() for _ in range(3))
        W_dec = self._parameters.get("W_dec")
        if W_dec is None:  # a factored one is not made for its shape
            W_dec = self.b_dec.expand(self.cfg.d_sae, -1)
        self.polynomial = self.cfg.make_polynomial_terms(W_dec)
        if self.polynomial is not None and self.polynomial.owns_linear:
            del self._parameters["W_dec"]
            if not self.polynomial.official_init and not self.W_enc.is_meta:
                self.W_enc.data = self.W_dec.data.T.contiguous()

    def __getattr__(self, name: str) -> Any:
        # PolySAE's own form has no W_dec of its own; whoever reads it gets U C1.
        if name == "W_dec":
            terms = self._modules.get("polynomial")
            if isinstance(terms, SharedUTerms):
                return terms.W_dec()
        return super().__getattr__(name)

    @property
    def _norms_the_code(self) -> bool:
        """Whether feature activations are in units of latents with a decoder of norm 1."""
        return getattr(self.cfg, "rescale_acts_by_decoder_norm", False)

    def linear_code(self, feature_acts: torch.Tensor, latents: slice = slice(None)) -> torch.Tensor:
        """What ``W_dec`` is applied to, (..., d_sae), or that of ``latents`` alone."""
        if self._norms_the_code:
            return scale_latents(feature_acts, 1 / self.W_dec.norm(dim=-1)[latents])
        return feature_acts

    def latent_directions(self) -> torch.Tensor:
        """The linear decoder per unit of each feature activation, (d_sae, d_in)."""
        if self._norms_the_code:
            return self.W_dec / self.W_dec.norm(dim=-1, keepdim=True)
        return self.W_dec

    @torch.no_grad()
    def pair_factors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """L, R (d_sae, R2) and C (R2, d_in): latents i != j add ``z_i z_j B_ij`` in degree 2.

        ``B_ij = sum_r (L_ir R_jr + L_jr R_ir) C_r``, per unit of both feature activations; in
        the columns that both latents write (:meth:`pair_blocks`), and zero in others.

        Raises:
            InputError: If no two latents interact in this decoder.
        """
        if self.polynomial is None:
            raise InputError(
                f"architecture={self.cfg.architecture()!r} has a linear decoder here, in which no "
                "latents interact: train one with degree 2 or 3"
            )
        left, right, C = self.polynomial.pair_factors(self.latent_directions)
        if self.polynomial.owns_linear and self._norms_the_code:
            norms = self.W_dec.norm(dim=-1, keepdim=True)
            left, right = left / norms, right / norms
        return left, right, C

    def pair_blocks(self) -> list[PairBlock]:
        """Which columns of the output the pairs of latents write together; others have none."""
        every = slice(0, self.cfg.d_sae)
        return [PairBlock(every, every, slice(None))]

    def degree_terms(self, feature_acts: torch.Tensor) -> dict[int, torch.Tensor]:
        """The contribution of each degree to the reconstruction, by degree.

        In the units of the weights: raw activations for an inference dictionary, possibly
        normalised ones for a dictionary in training. With ``b_dec`` they add up to it.
        """
        terms = self._terms(feature_acts)
        hooks = {1: self.hook_sae_y1, 2: self.hook_sae_y2, 3: self.hook_sae_y3}
        return {degree: hooks[degree](term) for degree, term in sorted(terms.items())}

    def _terms(self, feature_acts: torch.Tensor) -> dict[int, torch.Tensor]:
        terms, sums = self._linear_and_sums(feature_acts)
        if self.polynomial is not None:
            if 1 in sums:
                sums[1] = self.hook_sae_a(sums[1])
            terms |= self.polynomial.terms(sums)
        return terms

    def linear_term(self, code: torch.Tensor, latents: slice = slice(None)) -> torch.Tensor:
        """``code @ W_dec`` for the codes (..., n) of ``latents``."""
        return code_times(code, self.W_dec[latents])

    def _linear_and_sums(
        self, feature_acts: torch.Tensor, latents: slice = slice(None)
    ) -> tuple[dict[int, torch.Tensor], dict[int, torch.Tensor]]:
        """The linear term, by degree, and what the other terms are made of.

        Both add up over sets of latents that do not overlap.

        Args:
            feature_acts: Codes of ``latents``, (..., n).
            latents: Which ones they are.
        """
        if self.polynomial is not None and self.polynomial.owns_linear:
            code = self.linear_code(feature_acts, latents)
            return {}, self.polynomial.sums(code, code, self.latent_directions, latents)
        linear = self.linear_term(self.linear_code(feature_acts, latents), latents)
        if self.polynomial is None:
            return {1: linear}, {}
        sums = self.polynomial.sums(feature_acts, linear, self.latent_directions, latents)
        return {1: linear}, sums

    def nested_reconstructions(
        self, feature_acts: torch.Tensor, widths: list[int]
    ) -> Generator[tuple[int, torch.Tensor], None, None]:
        """What the first latents alone reconstruct, for each width: Matryoshka's levels.

        What the terms are made of is additive over latents, so that a level costs its own
        latents and no more.
        """
        linear: dict[int, torch.Tensor] = {}
        sums: dict[int, torch.Tensor] = {}
        start = 0
        for width in widths:
            level = latent_range(feature_acts, start, width)
            own_linear, own_sums = self._linear_and_sums(level, slice(start, width))
            linear = {degree: linear.get(degree, 0) + own for degree, own in own_linear.items()}
            sums = {degree: sums.get(degree, 0) + own for degree, own in own_sums.items()}
            above = {} if self.polynomial is None else self.polynomial.terms(sums)
            yield width, sum([*linear.values(), *above.values()], start=self.b_dec)
            start = width

    def reconstruct(self, feature_acts: torch.Tensor) -> torch.Tensor:
        """Decode (..., d_sae) to (..., d_in) in the units of the weights."""
        if self._can_add_at_once(feature_acts):
            linear, sums = self._linear_and_sums(feature_acts)
            assert self.polynomial is not None
            return self.polynomial.add_to(linear[1] + self.b_dec, sums)
        return sum(self.degree_terms(feature_acts).values(), start=self.b_dec)

    def _can_add_at_once(self, feature_acts: torch.Tensor) -> bool:
        """Whether nobody looks at the terms, which then need not be written one by one."""
        hooks = (self.hook_sae_a, self.hook_sae_y1, self.hook_sae_y2, self.hook_sae_y3)
        return (
            self.polynomial is not None
            and not self.polynomial.owns_linear
            and bool(self.polynomial.ranks)
            and feature_acts.ndim == 2
            and not torch.compiler.is_compiling()
            and not torch.is_autocast_enabled(feature_acts.device.type)
            and not any(isinstance(hook, HookPoint) and hook.has_hooks() for hook in hooks)
        )

    def decode(self, feature_acts: torch.Tensor) -> torch.Tensor:
        """Reconstruct activations (..., d_in) from codes (..., d_sae), dense or sparse."""
        reconstruction = self.hook_sae_recons(self.reconstruct(feature_acts))
        return self.reshape_fn_out(
            self.run_time_activation_norm_fn_out(reconstruction), self.d_head
        )

    def use_code_form_(self) -> None:
        """Turn PolySAE's own form into the same function with a ``W_dec`` of its own, in place."""
        if not isinstance(self.polynomial, SharedUTerms):
            return
        shared, norms = self.polynomial, self.W_dec.norm(dim=-1)
        W_dec = shared.projection.V.double() @ shared.C1.double()
        self.polynomial = None
        self.W_dec = nn.Parameter(W_dec.to(shared.C1.dtype))
        if shared.ranks:
            self.polynomial = shared.to_code_interactions()
            if self._norms_the_code:  # U is applied to the linear code, V to the code
                self.polynomial.rescale_latents_(norms)
        self.cfg.projection = "codes"
        for field, value in {"rank_1": None, "retraction": "compensated"}.items():
            if hasattr(self.cfg, field):
                setattr(self.cfg, field, value)

    @override
    @torch.no_grad()
    def fold_W_dec_norm(self) -> None:
        """Give every latent a linear decoder of norm 1; reconstructions stay what they were."""
        self.use_code_form_()
        norms, code_stays = self.get_W_dec_norm(), self._norms_the_code
        super().fold_W_dec_norm()
        if self.polynomial is not None and not code_stays:
            self.polynomial.rescale_latents_(norms)

    @override
    @torch.no_grad()
    def fold_activation_norm_scaling_factor(self, scaling_factor: float) -> None:
        """Take activations in raw units instead of ``scaling_factor`` times raw."""
        self.use_code_form_()
        super().fold_activation_norm_scaling_factor(scaling_factor)
        if self.polynomial is not None:
            factor = torch.full_like(self.b_dec, 1 / scaling_factor)
            self.polynomial.rescale_outputs_(factor)
            if self._norms_the_code:  # decoder norms, and the code with them, have shrunk
                self.polynomial.rescale_latents_(factor[:1].expand(len(self.W_dec)))

    @override
    @torch.no_grad()
    def fold_activation_whitening(
        self,
        mean: torch.Tensor,
        whitening_matrix: torch.Tensor,
        unwhitening_matrix: torch.Tensor,
    ) -> None:
        """Take raw activations instead of whitened ones."""
        self.use_code_form_()
        super().fold_activation_whitening(mean, whitening_matrix, unwhitening_matrix)
        if self.polynomial is not None:
            self.polynomial.map_outputs_(
                unwhitening_matrix.to(self.device), whitening_matrix.to(self.device)
            )


class PolynomialTrainingDictionary(PolynomialDictionary, TrainingSAE[Any]):
    """A dictionary in training.

    Stock ``SAETrainer`` has no hook before the first step nor after an optimiser step, so the
    scale of the code is set, and weights return to their constraint, where the next step begins;
    and before evaluation and saving.
    """

    @override
    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        check_batch(step_input.sae_in)
        if step_input.n_training_steps == 0:
            self.scale_codes_from_(step_input.sae_in)
        self.retract_()
        output = super().training_forward_pass(step_input)
        if step_input.is_logging_step:
            output.metrics |= self.polynomial_metrics(output.feature_acts)
        return output

    @torch.no_grad()
    def scale_codes_from_(self, x: torch.Tensor) -> None:
        """Set the scale of what is raised to a power from activations, if it is not set yet.

        It should be of the order of 1 in training, not at its start, where reconstructions may be
        far too small (SAELens starts decoders at a norm of 0.1) or too large. So it is taken of
        codes times the number that brings the first linear reconstruction closest to its target.
        """
        if self.polynomial is None or self.polynomial.scaled:
            return
        z = self.encode(x)
        linear_code = self.linear_code(z)
        code = linear_code if self.polynomial.owns_linear else z
        linear = self.linear_term(linear_code)
        target = self.run_time_activation_norm_fn_in(x.to(linear)) - self.b_dec
        growth = (linear * target).sum() / linear.pow(2).sum().clamp_min(1e-12)
        growth = growth.abs().clamp_min(1e-3)
        self.polynomial.scale_codes_from_(code * growth, linear * growth, self.latent_directions)

    @torch.no_grad()
    def polynomial_metrics(self, feature_acts: torch.Tensor) -> dict[str, Any]:
        """Size of each degree's contribution against the linear one, for the log."""
        terms = self.degree_terms(feature_acts)
        size = {degree: term.float().pow(2).mean().sqrt() for degree, term in terms.items()}
        return {f"rms_of_degree_{d}_over_linear": s / size[1] for d, s in size.items() if d > 1}

    @torch.no_grad()
    def retract_(self) -> None:
        """Return constrained weights to their constraint, in place."""
        if self.polynomial is not None:
            with torch.autocast(self.device.type, enabled=False):
                self.polynomial.retract_()

    @override
    def train(self, mode: bool = True) -> Self:
        if not mode:  # the last optimiser step has not been followed by a forward pass
            self.retract_()
        super().train(mode)
        return self

    @override
    def process_state_dict_for_loading(self, state_dict: dict[str, Any]) -> None:
        super().process_state_dict_for_loading(state_dict)
        if is_official(state_dict):
            raise InputError(
                "this file was written by PolySAE's code, which this class does not go on "
                "training: load it for use with SAE.load_from_disk"
            )

    @override
    def process_state_dict_for_saving(self, state_dict: dict[str, Any]) -> None:
        # In place on the live weights, which the state dict shares: a resumed run and one that
        # goes on after saving step from the same numbers.
        self.retract_()
        super().process_state_dict_for_saving(state_dict)

    @override
    def process_state_dict_for_saving_inference(self, state_dict: dict[str, Any]) -> None:
        self.retract_()
        if self.polynomial is not None and self.polynomial.owns_linear:
            plain = copy.deepcopy(self)
            plain.use_code_form_()
            state_dict.clear()
            state_dict.update(plain.state_dict())
            plain.process_state_dict_for_saving_inference(state_dict)
        else:
            super().process_state_dict_for_saving_inference(state_dict)


def check_batch(x: torch.Tensor) -> None:
    """Refuse a training batch that no step can be made from.

    Raises:
        InputError: If there are no tokens, or values that are not finite.
    """
    if x.numel() == 0:
        raise InputError(
            f"a training batch of shape {tuple(x.shape)} has no tokens: check the data set and "
            "train_batch_size_tokens"
        )
    finite = torch.isfinite(x)
    if not finite.all():
        n_bad = int((~finite).reshape(-1, x.shape[-1]).any(dim=-1).sum())
        raise InputError(
            f"{n_bad} of {x[..., 0].numel()} tokens in a training batch have NaN or infinite "
            "activations: load the model in a wider dtype, or filter the data set"
        )
