"""PolySAE's own form, in which the linear term goes through the projection as well."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sae_lens_poly.architectures.decoders.interactions import (
    CodeInteractions,
    Interactions,
    OrthonormalProjection,
    positive_qr,
    trained_size,
)
from sae_lens_poly.architectures.decoders.term import ALL, Across, Directions, alone, gain
from sae_lens_poly.architectures.kernels.sparse_code import code_times

#: The published start of the factors lambda_2 and lambda_3 (PolySAE's code).
LAMBDA = {2: -0.5, 3: 0.5}


class SharedU(Interactions):
    """``a = z U``, ``y_1 = a C1``, ``y_2 = lambda_2 a^2 C2``, ``y_3 = lambda_3 a^3 C3``.

    The shared-U form of PolySAE (Koromilas et al. 2026): U (d_sae, R1) orthonormal, C1 (R1, d_in),
    lambda_i numbers that are trained. The linear term is part of it, ``W_dec = U C1``; exports and
    folds turn it into :class:`CodeInteractions` beside a plain ``W_dec``.

    Args:
        d_in: Width of the output.
        d_sae: Number of latents.
        ranks: Degree to rank.
        rank_1: R1; at most ``min(d_in, d_sae)``.
        W_dec: What the linear term starts at, if R1 allows it; ``official_init`` ignores it.
        compensated: Whether the retraction ``U = U' R`` multiplies C1 by R, which leaves the
            linear term where the optimiser put it. PolySAE's code does not.
        official_init: Whether to start as PolySAE's code does: factors Kaiming-uniform, lambdas
            -0.5 and 0.5, and nothing scaled.
        options: As :class:`Interactions` takes them.
    """

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        ranks: dict[int, int],
        rank_1: int,
        W_dec: torch.Tensor,
        compensated: bool = True,
        official_init: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(d_in, ranks or {2: 1}, **options)
        if not ranks:  # of degree 1
            self.ranks, self.rank, self.gains, self.C = {}, 0, {}, nn.ParameterDict()
        self.compensated, self.official_init = compensated, official_init
        dtype, device = W_dec.dtype, W_dec.device
        self.projection = OrthonormalProjection(d_sae, rank_1, dtype, device, size=1.0)
        self.C1 = nn.Parameter(torch.empty(rank_1, d_in, dtype=dtype, device=device))
        self.lambdas = nn.ParameterDict()
        for degree in ranks:
            start = LAMBDA[degree] if official_init else 1.0
            self.lambdas[str(degree)] = nn.Parameter(
                torch.tensor(start, dtype=dtype, device=device)
            )
        if official_init:
            self.gains = dict.fromkeys(ranks, 1.0)
        if W_dec.is_meta:
            return
        with torch.no_grad():
            if official_init:
                # transposed against PolySAE's code, where the rank is fan_in
                for C in [*self.C.values(), self.C1]:
                    nn.init.kaiming_uniform_(C, mode="fan_out")
            else:
                q, _ = positive_qr(W_dec[:, :rank_1].to(self.projection.weight.dtype))
                self.projection.set_(q)
                self.C1.copy_(q.T @ W_dec.to(q.dtype))

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
        """All R1 numbers ``c z U``: the linear term is made of them as well."""
        return code_times(z, (self.code_scale * self.projection.V[latents]).to(z.dtype))

    def terms(self, sums: torch.Tensor, outputs: slice = ALL) -> dict[int, torch.Tensor]:
        """The contribution of every degree, the first included."""
        a, others = sums[..., : len(self.C1)], sums[..., len(self.C1) :]
        terms = {1: a @ self.C1[:, outputs] / self.code_scale.to(self.C1.dtype)}
        if self.ranks:
            above = super().terms(torch.cat([a[..., : self.rank], others], dim=-1), outputs)
            terms |= {degree: self.lambdas[str(degree)] * y for degree, y in above.items()}
        return terms

    @torch.no_grad()
    def sum_of_squares(
        self, z: torch.Tensor, linear: torch.Tensor, directions: Directions, across: Across = alone
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self.official_init or not self.ranks:
            return linear.new_ones(()), linear.new_ones(())
        return super().sum_of_squares(z, linear, directions, across)

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


@torch.no_grad()
def convert_shared_u(state_dict: dict[str, Any], norms_the_code: bool = False) -> None:
    """Turn a training file in this form into the code form, in place; others stay as they are.

    Older versions trained every architecture in this form. What they started as published is known
    by a ``code_scale`` of exactly 1.

    Args:
        state_dict: What a file holds.
        norms_the_code: Whether feature activations are in units of latents with a decoder of
            norm 1.
    """
    if "polynomial.C1" not in state_dict:
        return
    C1 = state_dict.pop("polynomial.C1")
    U = state_dict.pop("polynomial.projection.weight")
    W_dec = U.double() @ C1.double()
    code_scale = state_dict["polynomial.code_scale"].expand(len(U)).clone()
    published = bool((code_scale == 1).all())
    ranks = {d: len(C) for d in (2, 3) if (C := state_dict.get(f"polynomial.C.{d}")) is not None}
    for degree, rank in ranks.items():
        scale = state_dict.pop(f"polynomial.lambdas.{degree}")
        if published:
            scale = scale / gain(degree, rank)
        state_dict[f"polynomial.C.{degree}"] = scale * state_dict[f"polynomial.C.{degree}"]
    if norms_the_code:  # U was applied to the linear code, and V is to the code
        code_scale /= W_dec.norm(dim=-1).to(code_scale.dtype)
    state_dict["W_dec"] = W_dec.to(C1.dtype)
    if ranks:
        V = U[:, : max(ranks.values())]
        state_dict["polynomial.projection.weight"] = trained_size(len(U)) * V
        state_dict["polynomial.code_scale"] = code_scale
    else:
        for name in [name for name in state_dict if name.startswith("polynomial.")]:
            del state_dict[name]
