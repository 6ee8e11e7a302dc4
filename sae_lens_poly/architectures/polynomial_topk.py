"""What TopK, BatchTopK and Matryoshka share beside the decoder: sparse steps and AuxK."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from sae_lens.saes.topk_sae import TopKTrainingSAE
from typing_extensions import override

from sae_lens_poly.architectures.aux_k import aux_k_loss
from sae_lens_poly.architectures.polynomial_dictionary import PolynomialTrainingDictionary
from sae_lens_poly.architectures.sparse_code import (
    can_use_sparse_codes,
    encode_sparsely,
    map_active,
    scale_latents,
)
from sae_lens_poly.errors import InputError


def check_aux_k(cfg: Any) -> None:
    """Refuse what SAELens would raise for at the first dead latent, in the middle of training.

    Raises:
        InputError: Naming the field, its value and the remedy.
    """
    if cfg.normalize_activations in ("constant_norm_rescale", "layer_norm") and (
        cfg.aux_loss_coefficient != 0
    ):
        raise InputError(
            f"normalize_activations={cfg.normalize_activations!r} does not go with AuxK, whose "
            "target is in units that have not been normalised: set aux_loss_coefficient=0, or "
            "normalize_activations='expected_average_only_in'"
        )


class PolynomialTopKDictionary(PolynomialTrainingDictionary, TopKTrainingSAE):
    """Training steps that touch active latents only, and AuxK on columns of dead latents only.

    With ``use_sparse_activations``, in float32 or float64 and without autocast, the encoder's
    product and the selection are the dense ones, and everything after them is sparse, the
    backward pass of both products included. Numbers are those of the dense step. Otherwise, with
    hooks on the encoder, under ``torch.compile`` (which takes no sparse tensors), and where no
    gradient is taken, the stock dense encoder runs.
    """

    @abstractmethod
    def select(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows and columns of the latents to keep, in order, from scores (n, d_sae)."""

    @override
    def encode_with_hidden_pre(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if not self._can_step_sparsely(x):
            return super().encode_with_hidden_pre(x)
        norms = self.W_dec.norm(dim=-1) if self._norms_the_code else None
        with torch.no_grad():
            sae_in = self.process_sae_in(x)
            hidden_pre = self.hook_sae_acts_pre(torch.addmm(self.b_enc, sae_in, self.W_enc))
            scores = hidden_pre if norms is None else hidden_pre * norms
            rows, cols = self.select(scores)
        b_dec = self.b_dec if self.cfg.apply_b_dec_to_input else None
        z = encode_sparsely(sae_in, hidden_pre, rows, cols, self.W_enc, self.b_enc, b_dec)
        if norms is not None:
            z = scale_latents(z, norms)
        return self.hook_sae_acts_post(map_active(z, torch.relu)), scores

    def _can_step_sparsely(self, x: torch.Tensor) -> bool:
        return self.cfg.use_sparse_activations and can_use_sparse_codes(self, x)

    @override
    def calculate_topk_aux_loss(
        self,
        sae_in: torch.Tensor,
        sae_out: torch.Tensor,
        hidden_pre: torch.Tensor,
        dead_neuron_mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """SAELens' AuxK: by the linear term, without a bias, ``k_aux = d_in / 2``."""
        dead = dead_neuron_mask
        if dead is None or self.cfg.aux_loss_coefficient == 0 or not dead.any():
            return sae_out.new_zeros(())
        directions = self.W_dec[dead]
        if hidden_pre.requires_grad:
            dead_pre = hidden_pre[:, dead]
        else:  # a sparse step keeps no gradient of what was not selected
            dead_pre = self.process_sae_in(sae_in) @ self.W_enc[:, dead] + self.b_enc[dead]
            if self._norms_the_code:
                dead_pre = dead_pre * directions.norm(dim=-1)
        if self._norms_the_code:
            directions = directions / directions.norm(dim=-1, keepdim=True)
        loss = aux_k_loss(
            sae_in - sae_out,
            dead_pre,
            lambda kept: kept @ directions,
            max(1, sae_in.shape[-1] // 2),
        )
        return self.cfg.aux_loss_coefficient * loss
