"""The parts of a crosscoder, and the views on them that other code knows."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from typing_extensions import override

from sae_lens_poly.architectures.crosscoders.file_format import from_file, to_file
from sae_lens_poly.architectures.crosscoders.stack import make_weights, structure_of
from sae_lens_poly.architectures.decoders.decoder import Writers
from sae_lens_poly.architectures.encoders import SCORES, Encoder
from sae_lens_poly.architectures.polynomial_dictionary import PolynomialDictionary
from sae_lens_poly.architectures.weights import Weights


class StackedDictionary(PolynomialDictionary):
    """A dictionary over hook points that are laid end to end.

    At its boundary an SAE whose ``d_in`` is ``n_hooks * d_model``; inside, the width is viewed as
    ``(n_hooks, d_model)``. Its weights are modules, of one of the forms in ``weights``; ``W_enc``
    and ``W_dec`` are views of dense ones, and made on the spot of others.
    """

    b_enc: nn.Parameter
    encoder_weights: Weights
    decoder_weights: Weights

    @override
    def initialize_weights(self) -> None:
        # Not SAELens', which makes both dense tensors whatever the form.
        cfg = self.cfg
        options: dict[str, Any] = {"dtype": self.dtype, "device": self.device}
        self.structure = structure_of(cfg)
        self.b_enc = nn.Parameter(torch.zeros(cfg.d_sae, **options))
        self.b_dec = nn.Parameter(torch.zeros(cfg.d_in, **options))
        self.encoder_weights = make_weights(cfg, "encoder", self.structure, **options)
        self.decoder_weights = make_weights(cfg, "decoder", self.structure, **options)
        self.encoder_score = SCORES[cfg.encoder_score].from_config(cfg, **options)
        self.encoder = Encoder(self.encoder_weights, self.encoder_score)
        self.set_decoder_(cfg.make_term(self.dtype, self.device), self._writers())

    def _writers(self) -> tuple[Writers, ...]:
        """Which latents write which columns; none where all write all."""
        if self.structure.is_full:
            return ()
        d = self.d_model
        return tuple(
            Writers(group.latents, tuple(slice(h * d, (h + 1) * d) for h in group.writes))
            for group in self.structure.groups
        )

    @property
    def W_enc(self) -> torch.Tensor:
        """Shape (d_in, d_sae). A view of dense weights, of others a copy, where writes are lost."""
        return self.encoder_weights.dense().T

    @property
    def W_dec(self) -> torch.Tensor:
        """Of the linear term, (d_sae, d_in). A view or a copy, as ``W_enc`` is."""
        return self.decoder_weights.dense()

    @property
    @override
    def linear_decoder(self) -> Weights:
        return self.decoder_weights

    @property
    def n_hooks(self) -> int:
        """Number of hook points."""
        return self.cfg.n_hooks

    @property
    def d_model(self) -> int:
        """Width of one hook point."""
        return self.cfg.d_in // self.cfg.n_hooks

    @property
    def written_hooks(self) -> tuple[int, ...]:
        """Numbers of the hook points that are reconstructed."""
        return self.structure.written

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
        return self.decoder_weights.norms()

    @override
    def process_state_dict_for_saving(self, state_dict: dict[str, Any]) -> None:
        super().process_state_dict_for_saving(state_dict)
        to_file(state_dict)

    @override
    def process_state_dict_for_loading(self, state_dict: dict[str, Any]) -> None:
        from_file(state_dict, self.encoder_weights, self.decoder_weights)
