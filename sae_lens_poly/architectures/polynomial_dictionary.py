"""SAELens' SAE with another decoder: what polynomial SAEs and crosscoders share."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import Any

import torch
from sae_lens.saes.sae import SAE, TrainingSAE, TrainStepInput, TrainStepOutput
from transformer_lens.hook_points import HookPoint
from typing_extensions import Self, override

from sae_lens_poly.architectures.checks import check_batch, explain_loss
from sae_lens_poly.architectures.decoders.decoder import (
    Decoder,
    DenseRows,
    LinearDecoder,
    PairBlock,
    Writers,
)
from sae_lens_poly.architectures.decoders.term import Term
from sae_lens_poly.architectures.official.reader import refuse_official
from sae_lens_poly.architectures.official.shared_u import convert_shared_u
from sae_lens_poly.architectures.world import World
from sae_lens_poly.artifact_names import artifact_name
from sae_lens_poly.errors import InputError


class PolynomialDictionary(SAE[Any]):
    """A dictionary with ``x_hat = b_dec + y_1 + y_2 + y_3``, ``y_1 = z W_dec``.

    Goes in front of one of SAELens' classes, in training or at inference. Encoder, sparsifier and
    losses stay SAELens', and so do ``W_dec`` and ``b_dec``; crosscoders have parts for them.

    Hook points beside SAELens' own: ``hook_sae_a`` on what is raised to a power, and
    ``hook_sae_y1``, ``hook_sae_y2``, ``hook_sae_y3`` on the terms.
    """

    cfg: Any
    polynomial: Term | None
    """The terms above degree 1."""
    decoder: Decoder
    world: World | None = None

    @override
    def initialize_weights(self) -> None:
        super().initialize_weights()
        self.set_decoder_(self.cfg.make_term(self.dtype, self.device))

    def set_decoder_(self, term: Term | None, writers: tuple[Writers, ...] = ()) -> None:
        """Make the decoder of these terms above degree 1."""
        self.polynomial = term
        self.hook_sae_a = HookPoint()
        self.hook_sae_y1, self.hook_sae_y2, self.hook_sae_y3 = (HookPoint() for _ in range(3))
        hooks = (self.hook_sae_a, self.hook_sae_y1, self.hook_sae_y2, self.hook_sae_y3)
        self.decoder = Decoder(term, hooks, writers)

    def set_term_(self, term: Term | None) -> None:
        """Take other terms above degree 1."""
        self.polynomial = term
        self.decoder = replace(self.decoder, term=term)

    @property
    def linear_decoder(self) -> LinearDecoder:
        """What writes the linear term."""
        return DenseRows(self.W_dec, self.norms_the_code)

    @property
    def norms_the_code(self) -> bool:
        """Whether feature activations are in units of latents with a decoder of norm 1."""
        return getattr(self.cfg, "rescale_acts_by_decoder_norm", False)

    def get_name(self) -> str:
        """SAELens' name for the dictionary, as wandb takes it: :func:`artifact_name`."""
        return artifact_name(super().get_name())

    @override
    def decode(self, feature_acts: torch.Tensor) -> torch.Tensor:
        """Reconstruct activations (..., d_in) from codes (..., d_sae), dense or sparse."""
        reconstruction = self.hook_sae_recons(self.reconstruct(feature_acts))
        return self.reshape_fn_out(
            self.run_time_activation_norm_fn_out(reconstruction), self.d_head
        )

    def reconstruct(self, feature_acts: torch.Tensor) -> torch.Tensor:
        """Decode (..., d_sae) to (..., d_in) in the units of the weights."""
        return self.decoder(feature_acts, self.linear_decoder, self.b_dec)

    def degree_terms(self, feature_acts: torch.Tensor) -> dict[int, torch.Tensor]:
        """The contribution of each degree to the reconstruction, by degree.

        In the units of the weights: raw activations for an inference dictionary, possibly
        normalised ones for a dictionary in training. With ``b_dec`` they add up to it.
        """
        return self.decoder.by_degree(feature_acts, self.linear_decoder)

    def nested_reconstructions(
        self, feature_acts: torch.Tensor, widths: Sequence[int]
    ) -> Generator[tuple[int, torch.Tensor], None, None]:
        """What the first latents alone reconstruct, for each width: Matryoshka's levels."""
        return self.decoder.nested(feature_acts, self.linear_decoder, self.b_dec, widths)

    def latent_directions(self) -> torch.Tensor:
        """The linear decoder per unit of each feature activation, (d_sae, d_in)."""
        return self.linear_decoder.dense()

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
        return self.polynomial.pair_factors(self.latent_directions)

    def pair_blocks(self) -> list[PairBlock]:
        """Which columns of the output the pairs of latents write together; others have none."""
        writers = self.decoder.writers
        if not writers:
            every = slice(0, self.cfg.d_sae)
            return [PairBlock(every, every, slice(None))]
        blocks = []
        for number, first in enumerate(writers):
            for second in writers[number:]:
                both = [columns for columns in first.columns if columns in second.columns]
                if both:
                    columns = torch.cat(
                        [torch.arange(c.start, c.stop, device=self.b_dec.device) for c in both]
                    )
                    blocks.append(PairBlock(first.latents, second.latents, columns))
        return blocks

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
        linear = self.linear_decoder.write(z)
        whole = linear if self.world is None else self.world.across(linear)
        target = self.run_time_activation_norm_fn_in(x.to(linear)) - self.b_dec
        inner, square = (whole * target).sum(), whole.pow(2).sum()
        if self.world is not None:
            inner, square = self.world.sum(torch.stack([inner, square]))
        growth = (inner / square.clamp_min(1e-12)).abs().clamp_min(1e-3)
        self.polynomial.scale_codes_from_(
            self.code_of_terms(z) * growth, linear * growth, self.latent_directions, self.world
        )

    def code_of_terms(self, feature_acts: torch.Tensor) -> torch.Tensor:
        """What the terms above degree 1 are applied to, (..., d_sae)."""
        return feature_acts

    @torch.no_grad()
    def retract_(self) -> None:
        """Return constrained weights to their constraint, in place.

        Stock ``SAETrainer`` has no hook after an optimiser step, so this is done where the next
        step begins; and before evaluation and saving.
        """
        if self.polynomial is not None:
            self.polynomial.retract_()

    @override
    def train(self, mode: bool = True) -> Self:
        if not mode:  # the last optimiser step has not been followed by a forward pass
            self.retract_()
        return super().train(mode)

    @override
    def process_state_dict_for_saving(self, state_dict: dict[str, Any]) -> None:
        # In place on the live weights, which the state dict shares: a resumed run and one that
        # continues after saving step from the same numbers.
        self.retract_()
        super().process_state_dict_for_saving(state_dict)

    @override
    def process_state_dict_for_loading(self, state_dict: dict[str, Any]) -> None:
        super().process_state_dict_for_loading(state_dict)
        if isinstance(self, TrainingSAE):
            refuse_official(state_dict)
        convert_shared_u(state_dict, self.norms_the_code)

    @override
    @torch.no_grad()
    def fold_W_dec_norm(self) -> None:
        """Give every latent a linear decoder of norm 1; reconstructions stay what they were."""
        norms, code_stays = self.get_W_dec_norm(), self.norms_the_code
        super().fold_W_dec_norm()
        if self.polynomial is not None and not code_stays:
            self.polynomial.rescale_latents_(norms)

    @override
    @torch.no_grad()
    def fold_activation_norm_scaling_factor(self, scaling_factor: float) -> None:
        """Take activations in raw units instead of ``scaling_factor`` times raw."""
        super().fold_activation_norm_scaling_factor(scaling_factor)
        if self.polynomial is not None:
            factor = torch.full_like(self.b_dec, 1 / scaling_factor)
            self.polynomial.rescale_outputs_(factor)
            if self.norms_the_code:  # decoder norms, and the code with them, have shrunk
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
        super().fold_activation_whitening(mean, whitening_matrix, unwhitening_matrix)
        if self.polynomial is not None:
            self.polynomial.map_outputs_(
                unwhitening_matrix.to(self.device), whitening_matrix.to(self.device)
            )


def polynomial_step(
    sae: Any,
    step_input: TrainStepInput,
    step: Callable[[TrainStepInput], TrainStepOutput],
) -> TrainStepOutput:
    """A training step of SAELens' class, with what a polynomial decoder needs before and after it.

    Args:
        sae: The dictionary.
        step_input: Of the batch.
        step: The step of SAELens' class.
    """
    x = step_input.sae_in
    if step_input.n_training_steps == 0:
        check_batch(x)
        sae.scale_codes_from_(x)
    sae.retract_()
    output = step(step_input)
    if not torch.isfinite(output.loss):
        explain_loss(x, step_input.n_training_steps)
    if step_input.is_logging_step:
        with torch.no_grad():
            output.metrics |= sizes_of_degrees(sae.degree_terms(output.feature_acts))
    return output


def sizes_of_degrees(terms: dict[int, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Size of each degree's contribution against the linear one, for the log."""
    size = {degree: term.detach().float().pow(2).mean().sqrt() for degree, term in terms.items()}
    return {f"rms_of_degree_{d}_over_linear": s / size[1] for d, s in size.items() if d > 1}
