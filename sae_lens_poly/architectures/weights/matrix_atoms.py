"""Weights whose vector at each hook point is a matrix of low rank."""

from __future__ import annotations

import torch
from torch import nn

from sae_lens_poly.architectures.kernels.sparse_code import code_times
from sae_lens_poly.architectures.weights.base import ALL, Weights
from sae_lens_poly.errors import InputError


class MatrixAtoms(Weights, form="matrix"):
    """``W[i, l] = vec(sum_r v_ilr w_ilr^T)``: a latent is a matrix of rank r at each hook point.

    For activations that are matrices (d_k, d_v), row by row, like the recurrent state of linear
    attention (WriteSAE, arXiv 2605.12770, section 3). As an encoder it is the bilinear
    form ``sum_r v_ir^T S w_ir``. The products are those of the dense matrix, which is made on the
    spot: through the factors they would cost as much.

    Args:
        ranks: ``[d_k, r]``: number of rows of the matrices, which divides d_model, and their rank.
    """

    of_latents = ("left", "right")
    n_ranks = 2
    reads_input_itself = True

    left: nn.Parameter
    """The vectors v, (d_sae, n_hooks, r, d_k)."""
    right: nn.Parameter
    """The vectors w, (d_sae, n_hooks, r, d_v)."""

    def __init__(
        self,
        n_hooks: int,
        d_model: int,
        d_sae: int,
        ranks: list[int],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        same_init: bool = False,
    ) -> None:
        super().__init__(n_hooks, d_model, d_sae)
        self.d_k, self.rank = ranks
        for name, width in (("left", self.d_k), ("right", d_model // self.d_k)):
            shape = (d_sae, n_hooks, self.rank, width)
            setattr(self, name, nn.Parameter(torch.empty(shape, dtype=dtype, device=device)))
        if not self.left.is_meta:  # a dictionary that is being loaded gets its weights later
            with torch.no_grad():
                for factor in self.parameters():
                    nn.init.normal_(factor)
                    if same_init:
                        factor.copy_(factor[:, :1].expand_as(factor))

    @staticmethod
    def check_ranks(field: str, ranks: list[int], n_hooks: int, d_model: int, d_sae: int) -> None:
        """Refuse ranks that cannot work.

        Raises:
            InputError: Naming the field, its value and the remedy.
        """
        if len(ranks) != 2 or min(ranks) < 1:
            raise InputError(
                f"{field}={ranks}: 'matrix' takes [d_k, r], the number of rows and the rank, each "
                "at least 1"
            )
        d_k, rank = ranks
        if d_model % d_k:
            raise InputError(
                f"{field}={ranks}: d_k={d_k} rows do not divide d_model={d_model}: give the number "
                "of rows of the matrices that the hook point holds"
            )
        if rank > min(d_k, d_model // d_k):
            raise InputError(
                f"{field}={ranks}: no matrix ({d_k}, {d_model // d_k}) has the rank {rank}: lower "
                "it, or take 'dense'"
            )

    @property
    def rows(self) -> torch.Tensor:
        return self.vectors(ALL)

    def vectors(self, latents: slice | torch.Tensor) -> torch.Tensor:
        """The matrices of some latents, row by row, (n_latents, n_hooks * d_model)."""
        left, right = self.left[latents], self.right[latents]
        return (left.transpose(-2, -1) @ right).flatten(1)

    def into(self, x: torch.Tensor, hooks: tuple[int, ...] | None = None) -> torch.Tensor:
        return x

    def out_of(self, h: torch.Tensor, hooks: tuple[int, ...] | None = None) -> torch.Tensor:
        return h

    def read(self, x: torch.Tensor, latents: slice | torch.Tensor = ALL) -> torch.Tensor:
        return x @ self.vectors(latents).T

    def write(self, z: torch.Tensor, latents: slice | torch.Tensor = ALL) -> torch.Tensor:
        return code_times(z, self.vectors(latents))

    def norms(self) -> torch.Tensor:
        """Frobenius norm of each latent's matrix at each hook point, (d_sae, n_hooks)."""
        return self.rows.unflatten(1, (self.n_hooks, self.d_model)).norm(dim=-1)

    @torch.no_grad()
    def scale_latents_(self, factor: torch.Tensor) -> None:
        self.left.mul_(factor[:, None, None, None].to(self.left.dtype))

    @torch.no_grad()
    def scale_hooks_(self, factor: torch.Tensor) -> None:
        self.left.mul_(factor[:, None, None].to(self.left.dtype))

    @torch.no_grad()
    def balance_(self, stack_norm: float) -> None:
        """Give every latent this norm over the stack, and both vectors of a pair the same norm."""
        left, right = (factor.norm(dim=-1, keepdim=True) for factor in (self.left, self.right))
        even = (left * right).sqrt()
        self.left.mul_(even / left.clamp_min(1e-12))
        self.right.mul_(even / right.clamp_min(1e-12))
        root = (stack_norm / self.stack_norms().clamp_min(1e-12)).sqrt()[:, None, None, None]
        self.left.mul_(root)
        self.right.mul_(root)

    @torch.no_grad()
    def take_dense_(self, rows: torch.Tensor) -> None:
        """Take the best approximations of matrices (d_sae, n_hooks * d_model) of the form's rank.

        Both vectors of a pair get the root of the singular value.
        """
        self.take_rows_(ALL, rows)

    @torch.no_grad()
    def take_rows_(self, latents: slice | torch.Tensor, rows: torch.Tensor) -> None:
        """The same for some latents, (n_latents, n_hooks * d_model)."""
        matrices = rows.unflatten(1, (self.n_hooks, self.d_k, -1)).float()
        U, S, Vh = torch.linalg.svd(matrices, full_matrices=False)
        root = S[..., : self.rank, None].sqrt()
        left, right = (
            U.transpose(-2, -1)[..., : self.rank, :] * root,
            Vh[..., : self.rank, :] * root,
        )
        self.left[latents], self.right[latents] = left.to(self.left), right.to(self.right)

    @staticmethod
    def count(n_hooks: int, d_model: int, d_sae: int, ranks: list[int]) -> int:
        d_k, rank = ranks
        return d_sae * n_hooks * rank * (d_k + d_model // d_k)
