"""What TopK, BatchTopK and Matryoshka SAEs share: sparse steps, AuxK and the threshold.

Functions with the arguments of a method of SAELens are that method in several classes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import torch
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAEConfig
from sae_lens.saes.matryoshka_batchtopk_sae import MatryoshkaBatchTopKTrainingSAEConfig
from sae_lens.saes.sae import TrainStepInput, TrainStepOutput
from typing_extensions import override

from sae_lens_poly.architectures.checks import check_matryoshka_widths
from sae_lens_poly.architectures.encoders.aux_k import aux_k_loss
from sae_lens_poly.architectures.kernels.sparse_code import (
    ActiveEntries,
    ActivePattern,
    can_use_sparse_codes,
)
from sae_lens_poly.architectures.polynomial_dictionary import PolynomialDictionary, polynomial_step
from sae_lens_poly.architectures.sparsifiers.batch_topk import follow_scores_
from sae_lens_poly.constraints import Constraint, Number, check_fields
from sae_lens_poly.errors import InputError

#: Rows and columns of the scores (n, d_sae) that are kept, in order.
Select = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]

#: What a BatchTopK's fields may be.
BATCH_TOP_K: dict[str, Constraint] = {
    "k": Number(above=0),
    "topk_threshold_lr": Number(above=0, at_most=1),
    "aux_loss_coefficient": Number(at_least=0),
}

#: What has seen so many batches that its threshold is a moving average.
MANY_BATCHES = 1_000_000


def check_top_k(cfg: Any) -> None:
    """Refuse what a config of SAELens' TopK, BatchTopK or Matryoshka class cannot train with.

    AuxK's and Matryoshka's limits on ``normalize_activations`` are SAELens', which would raise at
    the first dead latent or reconstruction, in the middle of training.

    Raises:
        InputError: Naming the field, its value and the remedy.
    """
    if isinstance(cfg, BatchTopKTrainingSAEConfig):
        check_fields(cfg, BATCH_TOP_K)
    else:
        check_fields(cfg, {"k": Number(at_least=1, at_most=cfg.d_sae, whole=True)})
    undone_later = cfg.normalize_activations in ("constant_norm_rescale", "layer_norm")
    if undone_later and cfg.aux_loss_coefficient != 0:
        raise InputError(
            f"normalize_activations={cfg.normalize_activations!r} does not go with AuxK, whose "
            "target is in units that have not been normalised: set aux_loss_coefficient=0, or "
            "normalize_activations='expected_average_only_in'"
        )
    if not isinstance(cfg, MatryoshkaBatchTopKTrainingSAEConfig):
        return
    widths = cfg.matryoshka_widths  # SAELens adds the whole width where it is not there
    if widths[-2:] == [cfg.d_sae, cfg.d_sae]:
        widths = widths[:-1]
    check_matryoshka_widths(widths, cfg.d_sae)
    if undone_later:
        raise InputError(
            f"normalize_activations={cfg.normalize_activations!r} can undo itself for one "
            "reconstruction a token, and Matryoshka makes several: set it to 'none', "
            "'expected_average_only_in' or 'covariance_whitening'"
        )


def sparse_codes(sae: Any, x: torch.Tensor, select: Select) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes as a sparse tensor, and scores, for a training step that touches active latents only.

    The encoder's product and the selection are the dense ones, and everything after them is
    sparse, the backward pass of both products included. Numbers are those of the dense step.
    """
    norms = sae.W_dec.norm(dim=-1) if sae.norms_the_code else None
    with torch.no_grad():
        sae_in = sae.process_sae_in(x)
        # In place: another matrix of this size would cost more than everything after the selection.
        hidden_pre = (sae_in @ sae.W_enc).to(sae.dtype).add_(sae.b_enc)  # narrower under autocast
        scores = hidden_pre if norms is None else hidden_pre * norms
        rows, cols = at = select(scores)
    pattern = ActivePattern(rows, cols, (scores.shape[0], scores.shape[1]))
    b_dec = sae.b_dec if sae.cfg.apply_b_dec_to_input else None
    entries = ActiveEntries.apply(hidden_pre[at], sae_in, sae.W_enc.T, b_dec, None, pattern)
    b_enc = sae.b_enc.index_select(0, cols)
    active = (entries + (b_enc - b_enc.detach())).relu()  # it is in the entries; not its gradient
    if norms is not None:
        active = active * norms.index_select(0, cols)
    return sae.hook_sae_acts_post(pattern.code(active)), scores


def aux_k_of_dead(
    sae: Any,
    sae_in: torch.Tensor,
    sae_out: torch.Tensor,
    hidden_pre: torch.Tensor,
    dead_neuron_mask: torch.Tensor | None,
) -> torch.Tensor:
    """SAELens' AuxK: by the linear term, without a bias, ``k_aux = d_in / 2``; on dead latents."""
    dead = dead_neuron_mask
    if dead is None or sae.cfg.aux_loss_coefficient == 0 or not dead.any():
        return sae_out.new_zeros(())
    directions = sae.W_dec[dead]
    if hidden_pre.requires_grad:
        dead_pre = hidden_pre[:, dead]
    else:  # a sparse step has no gradient for latents that were not selected
        dead_pre = sae.process_sae_in(sae_in) @ sae.W_enc[:, dead] + sae.b_enc[dead]
        if sae.norms_the_code:
            dead_pre = dead_pre * directions.norm(dim=-1)
    if sae.norms_the_code:
        directions = directions / directions.norm(dim=-1, keepdim=True)
    k_aux = max(1, sae_in.shape[-1] // 2)
    loss = aux_k_loss(sae_in - sae_out, dead_pre, lambda kept: kept @ directions, k_aux)
    return sae.cfg.aux_loss_coefficient * loss


def matryoshka_levels(
    sae: Any, feature_acts: torch.Tensor, include_outer_loss: bool = False
) -> Generator[tuple[int, torch.Tensor], None, None]:
    """What SAELens' Matryoshka class decodes at each width: the polynomial of the first latents."""
    widths = sae.cfg.matryoshka_widths
    nested = sae.nested_reconstructions(feature_acts, widths if include_outer_loss else widths[:-1])
    for width, decoded in nested:
        yield width, sae.run_time_activation_norm_fn_out(decoded)


def aux_k_of_levels(
    sae: Any,
    sae_in: torch.Tensor,
    sae_out: torch.Tensor,
    feature_acts: torch.Tensor,
    hidden_pre: torch.Tensor,
    dead_neuron_mask: torch.Tensor | None,
) -> torch.Tensor:
    """SAELens' AuxK per level: dead latents learn the residual of the level they are in."""
    dead = dead_neuron_mask
    if dead is None or not dead.any():
        return sae_out.new_zeros(())
    losses, start = [], 0
    for width, partial_out in matryoshka_levels(sae, feature_acts, include_outer_loss=True):
        dead_here = torch.zeros_like(dead)
        dead_here[start:width] = dead[start:width]
        losses.append(aux_k_of_dead(sae, sae_in, partial_out, hidden_pre, dead_here))
        start = width
    return torch.stack(losses).sum()


class PolynomialTopK(PolynomialDictionary):
    """Goes in front of SAELens' TopK, BatchTopK or Matryoshka BatchTopK class, in training.

    The threshold of the last two is as a crosscoder's, by :func:`follow_scores_`: SAELens' average
    starts at 0, so that what is exported after a short run has many times k active latents.
    """

    def __init__(self, cfg: Any, use_error_term: bool = False) -> None:
        super().__init__(cfg, use_error_term)
        if hasattr(self, "topk_threshold"):
            counter = torch.zeros((), dtype=torch.long, device=self.b_dec.device)
            self.register_buffer("topk_threshold_batches", counter)

    def select(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows and columns of the latents to keep, in order, from scores (n, d_sae)."""
        raise NotImplementedError

    @override
    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        return polynomial_step(self, step_input, super().training_forward_pass)

    def encode_with_hidden_pre(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes and scores (..., d_sae); by SAELens' dense encoder where it has to be.

        That is with hooks on the encoder, under ``torch.compile`` (which takes no sparse
        tensors), in float16, and where no gradient is taken.
        """
        if self.cfg.use_sparse_activations and can_use_sparse_codes(self, x):
            return sparse_codes(self, x, self.select)
        return super().encode_with_hidden_pre(x)

    calculate_topk_aux_loss = aux_k_of_dead

    @torch.no_grad()
    def update_topk_threshold(self, acts_topk: torch.Tensor) -> None:
        """Move the threshold by the codes of a batch."""
        active = acts_topk.coalesce().values() if acts_topk.is_sparse else acts_topk
        lr, n_batches = self.cfg.topk_threshold_lr, self.topk_threshold_batches
        follow_scores_(self.topk_threshold, n_batches, active, lr, world=self.world)

    @override
    def process_state_dict_for_loading(self, state_dict: dict[str, Any]) -> None:
        super().process_state_dict_for_loading(state_dict)
        if "topk_threshold" in state_dict and "topk_threshold_batches" not in state_dict:
            # From before there was a counter: SAELens' moving average, which continues.
            state_dict["topk_threshold_batches"] = torch.tensor(MANY_BATCHES)

    def process_state_dict_for_saving_inference(self, state_dict: dict[str, Any]) -> None:
        """The threshold becomes JumpReLU's; the counter stays behind."""
        super().process_state_dict_for_saving_inference(state_dict)
        state_dict.pop("topk_threshold_batches", None)
