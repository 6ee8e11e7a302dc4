"""The form of PolySAE with a projection of its own for each factor; inference only."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from typing_extensions import Self

from sae_lens_poly.architectures.decoders.term import ALL, Across, Directions, Term, alone
from sae_lens_poly.architectures.kernels.sparse_code import code_times


class SeparateU(Term, kind="interactions/separate_u"):
    """``y_2 = (a1 * a2) C2``, ``y_3 = (a1 * a2 * a3) C3`` with ``a_k = (c z) U_k``.

    Read from files of PolySAE's code and kept as it is: products of different projections are
    not powers of one. ``a`` is a1, a2 and a3 side by side.

    Args:
        d_in: Width of the output.
        d_sae: Number of latents.
        ranks: Degree to rank.
    """

    trains = False

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        ranks: dict[int, int],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(ranks, None, (d_sae,), dtype, device)
        self.rank = max(ranks.values(), default=0)
        self.U = nn.Parameter(torch.zeros(3, d_sae, self.rank, dtype=dtype, device=device))
        self.C = nn.ParameterDict()
        for degree, rank in ranks.items():
            self.C[str(degree)] = nn.Parameter(torch.zeros(rank, d_in, dtype=dtype, device=device))

    @classmethod
    def from_config(cls, cfg: Any, dtype: torch.dtype, device: torch.device) -> Self:
        return cls(cfg.d_in, cfg.d_sae, cfg.ranks(), dtype, device)

    def sums(
        self, z: torch.Tensor, linear: torch.Tensor, directions: Directions, latents: slice = ALL
    ) -> torch.Tensor:
        scaled = self.code_scale[latents, None].to(self.U.dtype) * self.U[:, latents]
        return torch.cat([code_times(z, scaled[k].to(z.dtype)) for k in range(3)], dim=-1)

    def products(self, sums: torch.Tensor) -> dict[int, torch.Tensor]:
        a1, a2, a3 = sums.unflatten(-1, (3, self.rank)).unbind(-2)
        products = {2: a1 * a2, 3: a1 * a2 * a3}
        return {degree: products[degree][..., :rank] for degree, rank in self.ranks.items()}

    def pair_factors(
        self, directions: Directions
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        scaled = self.code_scale[:, None].to(self.U.dtype) * self.U[:2, :, : self.ranks[2]]
        return scaled[0], scaled[1], self.C["2"]

    def sum_of_squares(
        self, z: torch.Tensor, linear: torch.Tensor, directions: Directions, across: Across = alone
    ) -> tuple[torch.Tensor, torch.Tensor]:
        raise NotImplementedError("the separate-U form is for inference")

    def output_factors(self) -> dict[int, torch.Tensor]:
        return {degree: self.C[str(degree)] for degree in self.ranks}
