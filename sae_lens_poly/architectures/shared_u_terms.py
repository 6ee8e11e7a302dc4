"""PolySAE's own form, in which the linear term goes through the projection too."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sae_lens_poly.architectures.interaction_terms import (
    OFFICIAL_LAMBDA,
    CodeInteractions,
    InteractionTerms,
)
from sae_lens_poly.architectures.polynomial_terms import ALL, Directions
from sae_lens_poly.architectures.projection import OrthonormalProjection, positive_qr
from sae_lens_poly.architectures.sparse_code import code_times


class SharedUTerms(InteractionTerms):
    """``a = z U``, ``y_1 = a C1``, ``y_2 = lambda_2 a^2 C2``, ``y_3 = lambda_3 a^3 C3``.

    The shared-U form of PolySAE (Koromilas et al. 2026): U (d_sae, R1) orthonormal, C1 (R1, d_in),
    lambda_i numbers that are trained. It owns the linear term, ``W_dec = U C1``, for as long as it
    trains; exports and folds turn it into :class:`CodeInteractions` beside a plain ``W_dec``.

    Args:
        d_sae: Number of latents.
        rank_1: R1; at most ``min(d_in, d_sae)``.
        W_dec: What the linear term starts at, if R1 allows it; ``official_init`` ignores it.
        compensated: Whether the retraction ``U = U' R`` multiplies C1 by R, which leaves the
            linear term where the optimiser put it. PolySAE's code does not.
    """

    owns_linear = True

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        ranks: dict[int, int],
        rank_1: int,
        W_dec: torch.Tensor,
        compensated: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(d_in, ranks, **options)
        self.compensated = compensated
        dtype, device = W_dec.dtype, W_dec.device
        self.projection = OrthonormalProjection(d_sae, rank_1, dtype, device, size=1.0)
        C1 = torch.empty(rank_1, d_in, dtype=dtype, device=device)
        self.C1 = nn.Parameter(C1)
        self.lambdas = nn.ParameterDict()
        for degree in ranks:
            start = OFFICIAL_LAMBDA[degree] if self.official_init else 1.0
            self.lambdas[str(degree)] = nn.Parameter(
                torch.tensor(start, dtype=dtype, device=device)
            )
        if W_dec.is_meta:
            return
        with torch.no_grad():
            if self.official_init:
                nn.init.kaiming_uniform_(self.C1, mode="fan_out")
            else:
                q, _ = positive_qr(W_dec[:, :rank_1].to(self.projection.weight.dtype))
                self.projection.set_(q)
                self.C1.copy_(q.T @ W_dec.to(q.dtype))

    def _start(self, degree: int) -> float:
        return 1.0  # lambda is a weight of its own here

    def W_dec(self) -> torch.Tensor:
        """The linear decoder ``U C1``, (d_sae, d_in)."""
        return self.projection.V.to(self.C1.dtype) @ self.C1

    def latent_projection(self, directions: Directions, latents: slice = ALL) -> torch.Tensor:
        return self.code_scale * self.projection.V[latents, : self.rank]

    def pair_factors(
        self, directions: Directions
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        left, right, C = super().pair_factors(directions)
        return left, right, self.lambdas["2"] * C

    def project(self, z: torch.Tensor, linear: torch.Tensor, latents: slice = ALL) -> torch.Tensor:
        """All R1 numbers ``c z U``: the linear term is made of them too."""
        return code_times(z, (self.code_scale * self.projection.V[latents]).to(z.dtype))

    def terms(self, sums: dict[int, torch.Tensor], outputs: slice = ALL) -> dict[int, torch.Tensor]:
        terms = {1: sums[1] @ self.C1[:, outputs] / self.code_scale.to(self.C1.dtype)}
        if self.ranks:
            above = super().terms({**sums, 1: sums[1][..., : self.rank]}, outputs)
            terms |= {degree: self.lambdas[str(degree)] * y for degree, y in above.items()}
        return terms

    @torch.no_grad()
    def rescale_latents_(self, factor: torch.Tensor) -> None:
        raise NotImplementedError("folds turn the shared-U form into the code form first")

    @torch.no_grad()
    def retract_(self) -> None:
        r = self.projection.retract_()
        if r is not None and self.compensated:
            self.C1.copy_(r @ self.C1.to(r.dtype))

    @torch.no_grad()
    def to_code_interactions(self) -> CodeInteractions:
        """The same terms of degree 2 and 3 beside a linear term of their own."""
        terms = CodeInteractions(
            self.C1.shape[1],
            len(self.projection.weight),
            self.ranks,
            self_terms=self.self_terms,
            code_limit=self.code_limit,
            dtype=self.C1.dtype,
            device=self.C1.device,
        )
        terms.code_scale.fill_(self.code_scale)
        terms.scaled.fill_(True)
        terms.projection.set_(self.projection.V[:, : self.rank])
        for degree in self.ranks:
            scale = self.lambdas[str(degree)] * (self.gains[degree] / terms.gains[degree])
            terms.C[str(degree)].copy_(scale * self.C[str(degree)])
        return terms
