"""Products of latents, through a few numbers that each sum up the whole code."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import nn

from sae_lens_poly.architectures.polynomial_terms import (
    ALL,
    CODE_LIMIT,
    Directions,
    PolynomialTerms,
)
from sae_lens_poly.architectures.projection import OrthonormalProjection
from sae_lens_poly.architectures.sparse_code import code_times, power

#: The published start of the factors lambda_2 and lambda_3 (PolySAE's code).
OFFICIAL_LAMBDA = {2: -0.5, 3: 0.5}


class InteractionTerms(PolynomialTerms):
    """``y_2 = (a[:, :R2])^2 C2``,  ``y_3 = (a[:, :R3])^3 C3``  for ``a = z Q``.

    PolySAE (Koromilas et al. 2026, arXiv 2602.01322), the terms of degree 2 and 3, with lambda_i
    inside C_i. Subclasses say what the projection Q (d_sae, R) is made of. ``C_i`` (R_i, d_in) is
    per hook point in a crosscoder, Q is shared.

    Without self-terms only products of different latents are left:
    ``(sum_i z_i Q_i)^2 - sum_i (z_i Q_i)^2`` and
    ``(sum_i z_i Q_i)^3 - 3 (sum_i z_i Q_i) sum_i (z_i Q_i)^2 + 2 sum_i (z_i Q_i)^3``.

    The output factors start at zero, which is exactly the linear dictionary; or, with
    ``official_init``, as in PolySAE's code: Kaiming-uniform times -0.5 and 0.5.

    Powers are scaled down before C_i (:func:`gain`). All of them are active on every token, where
    a latent is on few: else a step of Adam moves the reconstruction by several times more through
    C_i than through W_dec, and at learning rates that suit W_dec the code is trained against that
    noise. With ``official_init`` nothing is scaled, as in PolySAE's code.

    Args:
        d_in: Width of the output.
        ranks: Degree to rank, for example ``{2: 64, 3: 64}``.
        self_terms: Whether powers of a single latent are kept.
        code_limit: Bound on the norm of ``a`` where it is raised to a power, in units of
            ``sqrt(R)``; None: none.
        official_init: Whether to start as PolySAE's code does, without ``code_scale``.
        n_scales: Shape of ``code_scale``: one number, or one a latent.
    """

    projection: OrthonormalProjection

    def __init__(
        self,
        d_in: int,
        ranks: dict[int, int],
        self_terms: bool = True,
        code_limit: float | None = CODE_LIMIT,
        official_init: bool = False,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        n_scales: tuple[int, ...] = (),
    ) -> None:
        super().__init__(ranks, code_limit, n_scales, dtype, device)
        self.self_terms = self_terms
        self.official_init = official_init
        self.rank = max(ranks.values(), default=0)  # width R of a
        self.gains = {
            degree: 1.0 if official_init else gain(degree, rank) for degree, rank in ranks.items()
        }
        self.C = nn.ParameterDict()
        for degree, rank in ranks.items():
            C = torch.zeros(rank, d_in, dtype=dtype, device=device)
            if official_init and not C.is_meta:
                # transposed against PolySAE's code, where the rank is fan_in
                nn.init.kaiming_uniform_(C, mode="fan_out").mul_(self._start(degree))
            self.C[str(degree)] = nn.Parameter(C)

    def _start(self, degree: int) -> float:
        return OFFICIAL_LAMBDA[degree]

    @abstractmethod
    def latent_projection(self, directions: Directions, latents: slice = ALL) -> torch.Tensor:
        """The rows of Q (d_sae, R) of ``latents``; ``a = z Q`` within the bound."""

    @abstractmethod
    def project(self, z: torch.Tensor, linear: torch.Tensor, latents: slice = ALL) -> torch.Tensor:
        """``a = z Q`` (..., R), by the cheapest way."""

    def pair_factors(
        self, directions: Directions
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        if 2 not in self.ranks:
            return super().pair_factors(directions)
        Q = self.latent_projection(directions)[:, : self.ranks[2]]
        return Q, Q, self.gains[2] * self.C["2"]

    def sums(
        self,
        z: torch.Tensor,
        linear: torch.Tensor,
        directions: Directions,
        latents: slice = ALL,
    ) -> dict[int, torch.Tensor]:
        sums = {1: self.project(z, linear, latents)}
        if not self.self_terms:
            Q = self.latent_projection(directions, latents).to(z.dtype)
            for degree, rank in {2: self.rank, 3: self.ranks.get(3, 0)}.items():
                sums[degree] = code_times(power(z, degree), Q[:, :rank].pow(degree).contiguous())
        return sums

    def products(self, sums: dict[int, torch.Tensor]) -> dict[int, torch.Tensor]:
        a, held = self.hold_back(sums[1])
        products = {degree: a[..., :rank].pow(degree) for degree, rank in self.ranks.items()}
        if not self.self_terms:
            p2 = sums[2] * held**2
            for degree, rank in self.ranks.items():
                at = slice(rank)
                if degree == 2:
                    products[2] = products[2] - p2[..., at]
                else:
                    products[3] = products[3] - 3 * (a * p2)[..., at] + 2 * sums[3] * held**3
        return {degree: self.gains[degree] * product for degree, product in products.items()}

    def hold_back(self, a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``a`` (..., R) within the bound on its norm, and what it was multiplied by (..., 1).

        The norm, not every number of its own: an interaction of two rare latents is one number
        that is large on few tokens.
        """
        if self.code_limit is None:
            return a, a.new_ones(())
        bound = self.code_limit * self.rank**0.5
        norm = torch.linalg.vector_norm(a, dim=-1, keepdim=True).clamp_min(1e-12)
        held = (bound / norm).clamp_max(1.0)
        return a * held, held

    @torch.no_grad()
    def wanted_scale(
        self, z: torch.Tensor, linear: torch.Tensor, directions: Directions
    ) -> torch.Tensor:
        if self.official_init or not self.ranks:
            return torch.ones(())
        a = self.project(z, linear)[..., : self.rank]
        return 1 / a.float().pow(2).mean().sqrt().clamp_min(1e-12)

    def output_factors(self) -> dict[int, torch.Tensor]:
        return {degree: self.C[str(degree)] for degree in self.ranks}

    def retract_(self) -> None:
        self.projection.retract_()


class CodeInteractions(InteractionTerms):
    """Interactions through the code: ``a = (c z) V`` with V (d_sae, R), ``V^T V = I``.

    V is free of the linear term: it can bind two latents whatever their directions are. Costs
    ``d_sae * R`` weights.
    """

    def __init__(self, d_in: int, d_sae: int, ranks: dict[int, int], **options: Any) -> None:
        # One scale a latent, so that a change of a latent's units leaves V orthonormal.
        super().__init__(d_in, ranks, n_scales=(d_sae,), **options)
        self.projection = OrthonormalProjection(
            d_sae, self.rank, options.get("dtype", torch.float32), self.code_scale.device
        )

    def scaled_projection(self, latents: slice = ALL) -> torch.Tensor:
        """The rows of ``c V`` of ``latents``."""
        return self.code_scale[latents, None] * self.projection.V[latents]

    def latent_projection(self, directions: Directions, latents: slice = ALL) -> torch.Tensor:
        return self.scaled_projection(latents)

    def project(self, z: torch.Tensor, linear: torch.Tensor, latents: slice = ALL) -> torch.Tensor:
        return code_times(z, self.scaled_projection(latents).to(z.dtype))


class ReconstructionInteractions(InteractionTerms):
    """Interactions through the linear reconstruction: ``a = c (z W_dec) P``, ``P^T P = I``.

    P is (d_in, R): the paper's shared-U form with R1 = d_in and an invertible C1 is this
    function class. What two latents add together follows from their directions. Costs
    ``d_in * R`` weights, a twentieth of :class:`CodeInteractions` at d_sae = 21 d_in.
    """

    def __init__(self, d_in: int, d_sae: int, ranks: dict[int, int], **options: Any) -> None:
        super().__init__(d_in, ranks, **options)
        self.projection = OrthonormalProjection(
            d_in, self.rank, options.get("dtype", torch.float32), self.code_scale.device
        )

    def latent_projection(self, directions: Directions, latents: slice = ALL) -> torch.Tensor:
        W = directions()[latents]
        return W @ (self.code_scale * self.projection.V).to(W.dtype)

    def project(self, z: torch.Tensor, linear: torch.Tensor, latents: slice = ALL) -> torch.Tensor:
        return linear @ (self.code_scale * self.projection.V).to(linear.dtype)

    def rescale_latents_(self, factor: torch.Tensor) -> None:
        """Nothing to do: the linear term, which stays, is all that the terms see."""

    @torch.no_grad()
    def rescale_outputs_(self, factor: torch.Tensor) -> None:
        super().rescale_outputs_(factor)
        self.projection.set_(self.projection.V / factor[:, None])
        self.projection.release_()

    @torch.no_grad()
    def map_outputs_(self, to_new: torch.Tensor, to_old: torch.Tensor) -> None:
        super().map_outputs_(to_new, to_old)
        self.projection.set_(to_old @ self.projection.V.to(to_old.dtype))
        self.projection.release_()


def gain(degree: int, rank: int) -> float:
    """What powers are multiplied by before C.

    One over the root mean square norm of the powers of ``rank`` standard normal numbers, times
    ``4^-degree``, which was measured: the smaller, the longer C needs to grow, and the less of
    Adam's noise reaches the reconstruction through it (benchmarks/polysae_toy.py).
    """
    return 4.0**-degree * (rank * {2: 3, 3: 15}[degree]) ** -0.5
