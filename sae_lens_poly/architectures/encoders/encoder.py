"""An encoder: ``pre = score(x, W_enc) + b_enc``, and its sparse path."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import torch
from torch import nn
from typing_extensions import Self

from sae_lens_poly.architectures.kernels.sparse_code import ActivePattern
from sae_lens_poly.architectures.sparsifiers.base import Sparsifier
from sae_lens_poly.architectures.weights.base import Weights

#: Tokens and latents of some entries of an (n, d_sae) matrix, (nnz,) each.
Places: TypeAlias = tuple[torch.Tensor, torch.Tensor]

#: Score to its class, by the name that ``encoder_score`` of a config gives it.
SCORES: dict[str, type[EncoderScore]] = {}


class EncoderScore(nn.Module, ABC):
    """Makes pre-activations of products with the encoder's vectors, entry by entry.

    Args:
        d_sae: Number of latents.
    """

    #: Its tensors that have a row for each latent; None: they cannot be shared among processes.
    of_latents: ClassVar[tuple[str, ...] | None] = None

    #: Whether scores stay what they were when scales of the input are folded into the weights.
    folds_scales: ClassVar[bool] = True

    #: Whether :meth:`forward` computes with ``x``, which then has a gradient to ``b_dec``.
    uses_input: ClassVar[bool] = True

    #: Name of the score that the inference dictionary has; None: the same.
    exports_as: ClassVar[str | None] = None

    def __init_subclass__(cls, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if name is not None:
            SCORES[name] = cls

    def __init__(
        self,
        d_sae: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()

    @classmethod
    def from_config(cls, cfg: Any, dtype: torch.dtype, device: torch.device) -> Self:
        """One for the dictionary of a config."""
        return cls(cfg.d_sae, dtype=dtype, device=device)

    @abstractmethod
    def forward(
        self, products: torch.Tensor, x: torch.Tensor, weights: Weights, at: Places | None = None
    ) -> torch.Tensor:
        """Pre-activations, before ``b_enc`` is added, in the shape of ``products``.

        Args:
            products: ``x W_enc``, (..., d_sae); or its entries (nnz,) at the places ``at``.
            x: The centred input, (..., d_in).
            weights: The encoder's.
            at: Tokens and latents of the entries; None: all.
        """

    def start_(self, x: torch.Tensor, weights: Weights) -> None:
        """Set what depends on the data, from the first centred batch (n, d_in)."""

    def export_to_(self, score: EncoderScore, weights: Weights) -> None:
        """Make an inference dictionary's score, and its weights, compute what this one does.

        Args:
            score: Of the class that :attr:`exports_as` names; changed in place.
            weights: A copy of the encoder's; changed in place.
        """
        score.load_state_dict(self.state_dict())

    def scale_hooks_(self, factor: torch.Tensor) -> None:
        """Take inputs that are ``factor`` (n_hooks,) times smaller; the weights are scaled too."""


class InnerProduct(EncoderScore, name="inner_product"):
    """The product itself."""

    uses_input = False
    of_latents = ()

    def forward(
        self, products: torch.Tensor, x: torch.Tensor, weights: Weights, at: Places | None = None
    ) -> torch.Tensor:
        return products


@dataclass(frozen=True)
class Encoder:
    """Assembled of a crosscoder's parts. What it takes is centred: ``b_dec`` is off."""

    weights: Weights
    score: EncoderScore

    def __call__(self, x: torch.Tensor, b_enc: torch.Tensor) -> torch.Tensor:
        """Pre-activations (..., d_sae) of centred activations (..., d_in)."""
        return self.score(self.weights.read(x), x, self.weights) + b_enc

    def of_latents(
        self, x: torch.Tensor, b_enc: torch.Tensor, latents: torch.Tensor
    ) -> torch.Tensor:
        """The same for a mask of latents (d_sae,) alone, (n, n_latents)."""
        products, which = self.weights.read(x, latents), latents.nonzero().squeeze(-1)
        tokens = torch.arange(len(x), device=x.device).repeat_interleave(len(which))
        scores = self.score(products.flatten(), x, self.weights, (tokens, which.repeat(len(x))))
        return scores.view_as(products) + b_enc[latents]

    def sparse_codes(
        self,
        x: torch.Tensor,
        b_enc: torch.Tensor,
        b_dec: torch.Tensor | None,
        seen: torch.Tensor | None,
        sparsifier: Sparsifier,
        latent_norms: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes as a sparse tensor (n, d_sae), and pre-activations, which have no gradient.

        The product and the selection are the dense ones; everything after them touches selected
        entries only. Numbers and gradients are those of the dense step.

        Args:
            x: Activations (n, d_in) in the units of the weights, not centred.
            b_enc: Shape (d_sae,).
            b_dec: What is taken off the input, (d_in,); None: nothing.
            seen: 1 for hook points that the encoder sees, 0 for others, (n, n_hooks); None: all.
            sparsifier: Selects the entries.
            latent_norms: What scores are multiplied by, if anything, (d_sae,).
        """
        weights = self.weights
        # Where the weights read the input itself, their kernel has b_dec's gradient at less cost.
        direct = weights.reads_input_itself
        with torch.set_grad_enabled(self.score.uses_input or not direct):
            x = x if b_dec is None else x - b_dec
            x = x if seen is None else hide(x, seen)
        h, products = weights.products(x.detach() if direct else x)
        with torch.no_grad():
            scores = self.score(products, x, weights)
            # In place if nothing is lost: another matrix of this size takes 5% of some steps.
            in_place = scores is products and products.dtype == b_enc.dtype
            hidden_pre = scores.add_(b_enc) if in_place else scores + b_enc
            tokens, latents = at = sparsifier.select(hidden_pre, latent_norms)
        pattern = ActivePattern(tokens, latents, (len(hidden_pre), hidden_pre.shape[1]))
        bias = b_enc.index_select(0, latents)
        if in_place:  # it is in the entries; not its gradient
            bias = bias - bias.detach()
        values = products[at].to(b_enc.dtype)  # narrower under autocast
        entries = weights.entries_of(
            h, values, pattern, b_dec if direct else None, seen if direct else None
        )
        active = self.score(entries, x, weights, at) + bias
        return pattern.code(sparsifier.values(active)), hidden_pre


def hide(x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """Centred activations (..., d_in) with zeros at hook points that are not ``seen``.

    Args:
        x: Hook points end to end.
        seen: 1 for hook points that the encoder sees, 0 for others, (..., n_hooks). An unseen one
            is zero, which is ``b_dec`` where that is taken off the input.
    """
    return (x.unflatten(-1, (seen.shape[-1], -1)) * seen[..., None].to(x.dtype)).flatten(-2)


def at_places(values: torch.Tensor, at: Places | None) -> torch.Tensor:
    """Values that broadcast to (n, d_sae), or their entries (nnz,) where products are entries.

    Args:
        values: Numbers of tokens (n, 1), of latents (d_sae,), of both (n, d_sae), or one, ().
        at: Tokens and latents of the entries; None: all.
    """
    if at is None or values.ndim == 0:
        return values
    tokens, latents = at
    if values.ndim == 1:
        return values.index_select(0, latents)
    if values.shape[-1] == 1:
        return values.squeeze(-1).index_select(0, tokens)
    return values[tokens, latents]
