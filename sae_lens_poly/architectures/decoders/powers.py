"""Elementwise powers of the code."""

from __future__ import annotations

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
from sae_lens_poly.architectures.kernels.at_least_float32 import at_least_float32
from sae_lens_poly.architectures.kernels.sparse_code import (
    code_times,
    map_active,
    power,
    scale_latents,
)


class Powers(Term, kind="powers"):
    """Elementwise powers of the code: each latent draws a curve instead of a ray.

    ``y_i = g_i (c z)^i A_i B_i`` with ``A_i`` (d_sae, R_i) shared by the hook points and ``B_i``
    (R_i, d_in): the factored weights ``W_i`` of the sparse polynomial crosscoder,
    ``x_hat^l = b^l + sum_i W_i^l z^i``. ``c`` is ``code_scale``: the root mean square of the
    active latents on the first batch is 1.

    ``B_i`` starts at zero: training starts exactly at the linear dictionary. Powers are scaled
    down before it by ``g_i``, as those of interactions are (``term.gain``): without that a
    token of a massive activation, on which powers are hundreds of times those of others, moves
    ``B_i`` so far in one step that the next tokens are lost (benchmarks/heavy_tail.py). Files
    written before that hold no ``scaled_down``, and are read without ``g_i``.

    In the homogeneous form ``y_i`` is divided by ``s^(i - 1)`` for the root mean square s of the
    active latents' ``c z`` on that token: a code c times as large has terms c times as large.

    Args:
        d_in: Width of the output.
        d_sae: Number of latents.
        ranks: Degree to rank; at most ``min(d_sae, d_in)`` each.
        code_limit: Bound on the size of ``c z``; None: none.
        homogeneous: Whether terms are divided by powers of the size of the code; no bound then.
        terms_lr_scale: See ``term.gain``.
    """

    of_latents = ("code_scale", "A.2", "A.3")

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        ranks: dict[int, int],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        code_limit: float | None = CODE_LIMIT,
        homogeneous: bool = False,
        terms_lr_scale: float = 1.0,
    ) -> None:
        # One number a latent, so that a change of a latent's units leaves (c z) what it was.
        super().__init__(ranks, None if homogeneous else code_limit, (d_sae,), dtype, device)
        self.homogeneous = homogeneous
        self.gains = {degree: gain(degree, rank, terms_lr_scale) for degree, rank in ranks.items()}
        self.register_buffer("scaled_down", torch.tensor(True, device=device))
        self.A, self.B = nn.ParameterDict(), nn.ParameterDict()
        for degree, rank in ranks.items():
            per_latent = torch.empty(d_sae, rank, dtype=dtype, device=device)
            self.A[str(degree)] = nn.Parameter(nn.init.normal_(per_latent, std=rank**-0.5))
            self.B[str(degree)] = nn.Parameter(torch.zeros(rank, d_in, dtype=dtype, device=device))

    scaled_down: torch.Tensor
    """Whether powers are multiplied by ``g_i``, shape (); those of older files are not."""

    @classmethod
    def from_config(cls, cfg: Any, dtype: torch.dtype, device: torch.device) -> Self:
        names = ("code_limit", "homogeneous", "terms_lr_scale")
        options = {name: getattr(cfg, name) for name in names}
        return cls(cfg.d_in, cfg.d_sae, cfg.ranks(), dtype, device, **options)

    def sums(
        self, z: torch.Tensor, linear: torch.Tensor, directions: Directions, latents: slice = ALL
    ) -> torch.Tensor:
        scaled = map_active(scale_latents(z, self.code_scale[latents].to(z.dtype)), self.limit)
        of_degree = [
            code_times(power(scaled, degree), self.A[str(degree)][latents]) for degree in self.ranks
        ]
        if self.homogeneous:  # what the size is made of, sums over latents as well
            ones = self.code_scale.new_ones(scaled.shape[-1], 1).to(z.dtype)
            is_active = map_active(scaled, lambda u: (u != 0).to(u))
            of_degree += [code_times(each, ones) for each in (power(scaled, 2), is_active)]
        return torch.cat(of_degree, dim=-1)

    def products(self, sums: torch.Tensor) -> dict[int, torch.Tensor]:
        ranks = list(self.ranks.values())
        powers = dict(zip(self.ranks, sums[..., : sum(ranks)].split(ranks, dim=-1), strict=True))
        if self.homogeneous:
            squares, number = at_least_float32(sums[..., -2:]).split(1, dim=-1)
            size = size_of(squares / number.clamp_min(1)).to(sums)
            powers = {degree: p / size ** (degree - 1) for degree, p in powers.items()}
        return {
            degree: torch.where(self.scaled_down != 0, self.gains[degree] * p, p)
            for degree, p in powers.items()
        }

    def limit(self, scaled: torch.Tensor) -> torch.Tensor:
        """The scaled code within the bound."""
        if self.code_limit is None:
            return scaled
        return scaled.clamp(-self.code_limit, self.code_limit)

    @torch.no_grad()
    def sum_of_squares(
        self, z: torch.Tensor, linear: torch.Tensor, directions: Directions, across: Across = alone
    ) -> tuple[torch.Tensor, torch.Tensor]:
        active = at_least_float32(z.coalesce().values() if z.is_sparse else z)
        number = across(active.count_nonzero().to(active))
        return across(active.pow(2).sum()), number.clamp_min(1)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **options: Any
    ) -> None:
        state_dict.setdefault(f"{prefix}scaled_down", torch.tensor(False))
        super()._load_from_state_dict(state_dict, prefix, *args, **options)

    def output_factors(self) -> dict[int, torch.Tensor]:
        return {degree: self.B[str(degree)] for degree in self.ranks}
