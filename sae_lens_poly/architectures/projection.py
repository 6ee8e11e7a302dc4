"""Orthonormal matrices, kept so by a retraction."""

from __future__ import annotations

import torch
from torch import nn

from sae_lens_poly.architectures.at_least_float32 import AtLeastFloat32


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
    def orthonormality_error(self) -> torch.Tensor:
        """Largest entry of ``|V^T V - I|``."""
        gram = self.weight.T @ self.weight / self.size**2
        return (gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device)).abs().max()

    @torch.no_grad()
    def retract_(self) -> torch.Tensor | None:
        """Return V to the orthonormal matrices; does nothing where it is one already.

        Returns:
            The factor R of ``V_before = V_after R``, or None where V did not move.
        """
        # QR ends an order of magnitude below this, so a second retraction changes nothing.
        tolerance = 100 * torch.finfo(self.weight.dtype).eps
        if not self.constrained or self.orthonormality_error() <= tolerance:
            return None
        q, r = positive_qr(self.weight)
        self.set_(q)
        return r / self.size

    def release_(self) -> None:
        """Let V be any matrix from here on: training has ended, and a fold goes into V."""
        self.constrained.fill_(False)
