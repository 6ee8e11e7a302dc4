"""Products of latents, through a few numbers that each sum up the whole code."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import nn
from typing_extensions import Self

from sae_lens_poly.architectures.decoders.term import (
    ALL,
    CODE_LIMIT,
    Across,
    Directions,
    Term,
    alone,
    gain,
    size_of,
)
from sae_lens_poly.architectures.kernels.at_least_float32 import (
    AtLeastFloat32,
    at_least_float32,
)
from sae_lens_poly.architectures.kernels.sparse_code import code_times, power
from sae_lens_poly.architectures.world import World


class Interactions(Term):
    """``y_2 = (a[:, :R2])^2 C2``,  ``y_3 = (a[:, :R3])^3 C3``  for ``a = z Q``.

    PolySAE (Koromilas et al. 2026, arXiv 2602.01322), the terms of degree 2 and 3, with lambda_i
    inside C_i. Subclasses say what the projection Q (d_sae, R) is made of. ``C_i`` (R_i, d_in) is
    per hook point in a crosscoder, Q is shared.

    Without self-terms only products of different latents are left:
    ``(sum_i z_i Q_i)^2 - sum_i (z_i Q_i)^2`` and
    ``(sum_i z_i Q_i)^3 - 3 (sum_i z_i Q_i) sum_i (z_i Q_i)^2 + 2 sum_i (z_i Q_i)^3``.

    In the homogeneous form a term of degree i is divided by ``s^(i - 1)`` for the root mean square
    s of ``a`` on that token, so that a code c times as large has terms c times as large, however
    large c is. What a pair of latents adds then depends on all others.

    The output factors start at zero, which is exactly the linear dictionary.

    Powers are scaled down before C_i (``term.gain``). All of them are active on every token, where
    a latent is on few: else a step of Adam moves the reconstruction by several times more through
    C_i than through W_dec, and at learning rates that suit W_dec the code is trained against that
    noise.

    Args:
        d_in: Width of the output.
        ranks: Degree to rank, for example ``{2: 64, 3: 64}``.
        self_terms: Whether powers of a single latent are kept.
        code_limit: Bound on the norm of ``a`` where it is raised to a power, in units of
            ``sqrt(R)``; None: none.
        n_scales: Shape of ``code_scale``: one number, or one a latent.
        homogeneous: Whether terms are divided by powers of the size of ``a``; no bound then.
        terms_lr_scale: See ``term.gain``.
    """

    projection: OrthonormalProjection

    def __init__(
        self,
        d_in: int,
        ranks: dict[int, int],
        self_terms: bool = True,
        code_limit: float | None = CODE_LIMIT,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        n_scales: tuple[int, ...] = (),
        homogeneous: bool = False,
        terms_lr_scale: float = 1.0,
    ) -> None:
        super().__init__(ranks, None if homogeneous else code_limit, n_scales, dtype, device)
        self.self_terms, self.homogeneous = self_terms, homogeneous
        self.rank = max(ranks.values())  # width R of a
        self.gains = {degree: gain(degree, rank, terms_lr_scale) for degree, rank in ranks.items()}
        self.C = nn.ParameterDict()
        for degree, rank in ranks.items():
            self.C[str(degree)] = nn.Parameter(torch.zeros(rank, d_in, dtype=dtype, device=device))

    @classmethod
    def from_config(cls, cfg: Any, dtype: torch.dtype, device: torch.device) -> Self:
        make: Any = cls
        names = ("self_terms", "code_limit", "homogeneous", "terms_lr_scale")
        options = {name: getattr(cfg, name) for name in names}
        return make(cfg.d_in, cfg.d_sae, cfg.ranks(), dtype=dtype, device=device, **options)

    @abstractmethod
    def latent_projection(self, directions: Directions, latents: slice = ALL) -> torch.Tensor:
        """The rows of Q (d_sae, R) of ``latents``; ``a = z Q`` within the bound."""

    @abstractmethod
    def project(self, z: torch.Tensor, linear: torch.Tensor, latents: slice = ALL) -> torch.Tensor:
        """``a = z Q`` (..., R), by the cheapest way."""

    def pair_factors(
        self, directions: Directions
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        if 2 not in self.ranks or self.homogeneous:
            return super().pair_factors(directions)
        Q = self.latent_projection(directions)[:, : self.ranks[2]]
        return Q, Q, self.gains[2] * self.C["2"]

    def sums(
        self, z: torch.Tensor, linear: torch.Tensor, directions: Directions, latents: slice = ALL
    ) -> torch.Tensor:
        a = self.project(z, linear, latents)
        if self.self_terms:
            return a
        Q = self.latent_projection(directions, latents).to(z.dtype)
        squares = code_times(power(z, 2), Q.pow(2))
        cubes = code_times(power(z, 3), Q[:, : self.ranks.get(3, 0)].pow(3).contiguous())
        return torch.cat([a, squares, cubes], dim=-1)

    def products(self, sums: torch.Tensor) -> dict[int, torch.Tensor]:
        R, (a, held) = self.rank, self.hold_back(sums[..., : self.rank])
        products = {degree: a[..., :rank].pow(degree) for degree, rank in self.ranks.items()}
        if not self.self_terms:
            squares, cubes = sums[..., R : 2 * R] * held**2, sums[..., 2 * R :] * held**3
            for degree, rank in self.ranks.items():
                own = squares if degree == 2 else 3 * a * squares
                products[degree] = products[degree] - own[..., :rank]
            if 3 in self.ranks:
                products[3] = products[3] + 2 * cubes
        if self.homogeneous:
            size = size_of(at_least_float32(a).pow(2).mean(dim=-1, keepdim=True)).to(a)
            products = {degree: p / size ** (degree - 1) for degree, p in products.items()}
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
    def sum_of_squares(
        self, z: torch.Tensor, linear: torch.Tensor, directions: Directions, across: Across = alone
    ) -> tuple[torch.Tensor, torch.Tensor]:
        a = at_least_float32(across(self.project(z, linear)[..., : self.rank]))
        return a.pow(2).sum(), a.new_tensor(float(a.numel()))

    def output_factors(self) -> dict[int, torch.Tensor]:
        return {degree: self.C[str(degree)] for degree in self.ranks}

    def retract_(self) -> None:
        self.projection.retract_()


class CodeInteractions(Interactions, kind="interactions/codes"):
    """Interactions through the code: ``a = (c z) V`` with V (d_sae, R), ``V^T V = I``.

    V is free of the linear term: it can bind two latents whatever their directions are. Costs
    ``d_sae * R`` weights.
    """

    of_latents = ("code_scale", "projection.weight")

    def __init__(self, d_in: int, d_sae: int, ranks: dict[int, int], **options: Any) -> None:
        # One scale a latent, so that a change of a latent's units leaves V orthonormal.
        super().__init__(d_in, ranks, n_scales=(d_sae,), **options)
        self.projection = OrthonormalProjection(
            d_sae, self.rank, options.get("dtype", torch.float32), self.code_scale.device
        )

    @classmethod
    def most_rank(cls, d_in: int, d_sae: int) -> int:
        return d_sae

    def latent_projection(self, directions: Directions, latents: slice = ALL) -> torch.Tensor:
        return self.code_scale[latents, None] * self.projection.V[latents]

    def project(self, z: torch.Tensor, linear: torch.Tensor, latents: slice = ALL) -> torch.Tensor:
        # c V at once: a division by the size, for the property V, would pass over all rows again.
        scale = self.code_scale[latents, None] / self.projection.size
        return code_times(z, (scale * self.projection.weight[latents]).to(z.dtype))


class ReconstructionInteractions(Interactions, kind="interactions/reconstruction"):
    """Interactions through the linear reconstruction: ``a = c (z W_dec) P``, ``P^T P = I``.

    P is (d_in, R): the paper's shared-U form with R1 = d_in and an invertible C1 is this
    function class. What two latents add together follows from their directions. Costs
    ``d_in * R`` weights, a twentieth of :class:`CodeInteractions` at d_sae = 21 d_in.
    """

    of_latents = ()

    def __init__(self, d_in: int, d_sae: int, ranks: dict[int, int], **options: Any) -> None:
        super().__init__(d_in, ranks, **options)
        self.projection = OrthonormalProjection(
            d_in, self.rank, options.get("dtype", torch.float32), self.code_scale.device
        )

    @classmethod
    def most_rank(cls, d_in: int, d_sae: int) -> int:
        return d_in

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


def positive_qr(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``matrix = Q R`` with a positive diagonal of R, which makes Q and R unique."""
    q, r = torch.linalg.qr(matrix)
    signs = torch.where(r.diagonal() < 0, -1.0, 1.0).to(q.dtype)
    return q * signs, r * signs[:, None]


def trained_size(n_rows: int) -> float:
    """The norm of a trained column; see :class:`OrthonormalProjection`."""
    return n_rows**0.5 / 4


class OrthonormalProjection(AtLeastFloat32):
    """A matrix V with ``V^T V = I`` (PolySAE, Koromilas et al. 2026; its U).

    The optimiser steps in the ambient space; :meth:`retract_` then takes the Q factor of the
    moved matrix. What is trained is ``weight = size V``, ``size = sqrt(n_rows) / 4``. Adam moves
    every entry by up to the learning rate, with or without a gradient worth the name, so that a
    column of V itself would turn by ``lr sqrt(n_rows)`` a step, mostly at random: by 2 degrees at
    16,384 rows and a learning rate of 3e-4. What a column had found of an interaction would be lost
    within some tens of steps. With this size it turns by ``4 lr`` (benchmarks/polysae_toy.py).

    Args:
        n_rows: Number of rows: latents, or dimensions of the activation.
        rank: Number of columns; at most ``n_rows``.
        size: Instead of ``sqrt(n_rows) / 4``; 1 trains V itself, as PolySAE's code does.
    """

    constrained: torch.Tensor
    """Whether V is held orthonormal, shape (). A fold into V ends that: see :meth:`release_`."""
    other_rows: World | None = None
    """Who has the other rows; None: all of them are here."""

    def __init__(
        self,
        n_rows: int,
        rank: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        size: float | None = None,
    ) -> None:
        super().__init__()
        self.size = trained_size(n_rows) if size is None else size
        at_least_float32 = torch.promote_types(dtype, torch.float32)
        self.weight = nn.Parameter(torch.empty(n_rows, rank, dtype=at_least_float32, device=device))
        self.register_buffer("constrained", torch.tensor(True, device=device))
        if not self.weight.is_meta:  # a dictionary that is being loaded gets its weights later
            self.set_(positive_qr(torch.randn_like(self.weight))[0])

    @property
    def V(self) -> torch.Tensor:
        """Shape (n_rows, rank), in at least float32."""
        return self.weight / self.size

    @torch.no_grad()
    def set_(self, V: torch.Tensor) -> None:
        """Take another V."""
        self.weight.copy_(self.size * V)

    @torch.no_grad()
    def retract_(self) -> torch.Tensor | None:
        """Return V to the orthonormal matrices; does nothing where it is one already.

        Returns:
            The factor R of ``V_before = V_after R``, or None where V did not move.
        """
        if not self.constrained:
            return None
        with torch.autocast(self.weight.device.type, enabled=False):
            gram = self.weight.T @ self.weight / self.size**2
            if self.other_rows is not None:
                gram = self.other_rows.across(gram)
            error = (gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device)).abs().max()
            # A retraction ends an order of magnitude below this, so that a second changes nothing.
            if error <= 100 * torch.finfo(gram.dtype).eps:
                return None
            if self.other_rows is not None or error < 0.5:
                # The same Q and R from the Gram matrix, in half the time; and as exact, because
                # after a step it is near the identity.
                r = torch.linalg.cholesky(gram).mT.contiguous()
                self.weight.copy_(
                    torch.linalg.solve_triangular(r, self.weight, upper=True, left=False)
                )
                return r
            q, r = positive_qr(self.weight)
        self.weight.copy_(self.size * q)
        return r / self.size

    def release_(self) -> None:
        """Let V be any matrix from here on: training has ended, and a fold goes into V."""
        self.constrained.fill_(False)
