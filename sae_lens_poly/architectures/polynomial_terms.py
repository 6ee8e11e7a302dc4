"""The terms of degree 2 and 3 of a polynomial decoder.

A decoder is ``x_hat = b_dec + z W_dec + sum_i y_i(z)``. The linear term belongs to the
dictionary, where every SAELens function finds it; the classes here are the rest of the sum.
They know nothing of encoders, sparsifiers or hook points: their output has the flat width
``d_in``, over which the hook points of a crosscoder are laid end to end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import nn

from sae_lens_poly.architectures.projection import OrthonormalProjection

PolynomialDecoder = Literal["interactions", "powers"]

#: Numbers that are raised to a power are held at this size, in units of their root mean square
#: on the first batch. Ordinary tokens stay below half of it. A token with a massive activation
#: (attention sinks are a hundred times the norm of others) would else end at its cube.
CODE_LIMIT = 10.0


class PolynomialTerms(nn.Module, ABC):
    """Maps codes ``z`` (..., d_sae) to one contribution (..., d_in) per degree.

    ``code_scale`` is a constant, set from the first training batch, that brings the numbers
    which are raised to a power to the order of 1. The polynomial stays in the same class of
    functions; without it a cube is far smaller or far larger than the linear term, depending
    on the units of the activations, and Adam cannot train it.
    """

    code_scale: torch.Tensor

    def __init__(self, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.register_buffer("code_scale", torch.ones((), device=device))

    @abstractmethod
    def terms(self, z: torch.Tensor) -> dict[int, torch.Tensor]:
        """The contribution of each degree above 1, by degree."""

    @abstractmethod
    def scale_codes_from_(self, z: torch.Tensor) -> None:
        """Set ``code_scale`` from a batch of codes."""

    @abstractmethod
    def rescale_latents_(self, factor: torch.Tensor) -> None:
        """Make the terms at ``z * factor`` what they were at ``z``; ``factor`` is (d_sae,)."""

    @abstractmethod
    def output_factors(self) -> dict[int, torch.Tensor]:
        """Degree to the matrix (rank, d_in) that writes its term; its columns follow d_in."""

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Sum of the terms above degree 1, (..., d_in)."""
        return torch.stack(list(self.terms(z).values())).sum(dim=0)

    @torch.no_grad()
    def rescale_outputs_(self, factor: torch.Tensor) -> None:
        """Multiply every term by ``factor`` (d_in,)."""
        for matrix in self.output_factors().values():
            matrix.mul_(factor.to(matrix.dtype))

    def retract_(self) -> None:
        """Return constrained weights to their constraint. Most terms have none."""


class InteractionTerms(PolynomialTerms):
    """Products of latents through a projection shared by all hook points.

    ``a = c z V``, ``V^T V = I``;  ``y_2 = (a[:, :R2])^2 C2^T``,  ``y_3 = (a[:, :R3])^3 C3^T``
    (PolySAE, Koromilas et al. 2026, arXiv 2602.01322, the terms of degree 2 and 3, with V free
    of the linear term; per-hook-point output factors: sparse polynomial crosscoder). ``c`` is
    ``code_scale``: the root mean square of ``a`` on the first batch is 1.

    The output factors start at zero: training starts exactly at the linear dictionary.

    Args:
        d_in: Width of the output.
        d_sae: Number of latents.
        ranks: Degree to rank, for example ``{2: 64, 3: 64}``; at most ``d_sae`` each.
    """

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        ranks: dict[int, int],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(device)
        self.ranks = ranks
        self.projection = OrthonormalProjection(d_sae, max(ranks.values()), device)
        self.C = nn.ParameterDict(
            {
                str(degree): nn.Parameter(torch.zeros(rank, d_in, dtype=dtype, device=device))
                for degree, rank in ranks.items()
            }
        )

    def project(self, z: torch.Tensor) -> torch.Tensor:
        """The projected code ``a``, (..., max rank), held within ``CODE_LIMIT``."""
        a = self.projection(z) * self.code_scale.to(z.dtype)
        return a.clamp(-CODE_LIMIT, CODE_LIMIT)

    def terms(self, z: torch.Tensor) -> dict[int, torch.Tensor]:
        a = self.project(z)
        return {
            degree: a[..., :rank].pow(degree) @ self.C[str(degree)]
            for degree, rank in self.ranks.items()
        }

    @torch.no_grad()
    def scale_codes_from_(self, z: torch.Tensor) -> None:
        rms = self.projection(z).float().pow(2).mean().sqrt()
        self.code_scale.copy_(1 / rms.clamp_min(1e-12))

    @torch.no_grad()
    def rescale_latents_(self, factor: torch.Tensor) -> None:
        self.projection.V.div_(factor[:, None].to(self.projection.V.dtype))

    def output_factors(self) -> dict[int, torch.Tensor]:
        return {degree: self.C[str(degree)] for degree in self.ranks}

    def retract_(self) -> None:
        self.projection.retract_()


class PowerTerms(PolynomialTerms):
    """Elementwise powers of the code: each latent draws a curve instead of a ray.

    ``y_i = (c z)^i A_i B_i`` with ``A_i`` (d_sae, R_i) shared by the hook points and ``B_i``
    (R_i, d_in): the factored weights ``W_i`` of the sparse polynomial crosscoder,
    ``x_hat^l = b^l + sum_i W_i^l z^i``. ``c`` is ``code_scale``: the root mean square of the
    active latents on the first batch is 1.

    ``B_i`` starts at zero: training starts exactly at the linear dictionary.

    Args:
        d_in: Width of the output.
        d_sae: Number of latents.
        ranks: Degree to rank; at most ``min(d_sae, d_in)`` each.
    """

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        ranks: dict[int, int],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(device)
        # One number a latent, so that a change of a latent's units leaves (c z) what it was.
        self.code_scale = torch.ones(d_sae, device=device)
        self.ranks = ranks
        self.A, self.B = nn.ParameterDict(), nn.ParameterDict()
        for degree, rank in ranks.items():
            per_latent = torch.empty(d_sae, rank, dtype=dtype, device=device)
            self.A[str(degree)] = nn.Parameter(nn.init.normal_(per_latent, std=rank**-0.5))
            self.B[str(degree)] = nn.Parameter(torch.zeros(rank, d_in, dtype=dtype, device=device))

    def terms(self, z: torch.Tensor) -> dict[int, torch.Tensor]:
        scaled = (z * self.code_scale.to(z.dtype)).clamp(-CODE_LIMIT, CODE_LIMIT)
        return {
            degree: scaled.pow(degree) @ self.A[str(degree)] @ self.B[str(degree)]
            for degree in self.ranks
        }

    @torch.no_grad()
    def scale_codes_from_(self, z: torch.Tensor) -> None:
        mean_square = z.float().pow(2).sum() / z.count_nonzero().clamp_min(1)
        self.code_scale.fill_(1 / mean_square.sqrt().clamp_min(1e-12))

    @torch.no_grad()
    def rescale_latents_(self, factor: torch.Tensor) -> None:
        self.code_scale.div_(factor.to(self.code_scale.dtype))

    def output_factors(self) -> dict[int, torch.Tensor]:
        return {degree: self.B[str(degree)] for degree in self.ranks}
