"""An orthonormal projection of the code, kept so by a retraction."""

from __future__ import annotations

import torch
from torch import nn

from sae_lens_poly.architectures.at_least_float32 import AtLeastFloat32

#: A projection closer to orthonormal than this is left as it is. QR in float32 ends an order
#: of magnitude below it, so a second retraction changes nothing, to the bit.
ORTHONORMALITY_TOLERANCE = 1e-5


def positive_qr(matrix: torch.Tensor) -> torch.Tensor:
    """The Q of ``matrix = Q R`` with a positive diagonal of R, which makes it unique."""
    q, r = torch.linalg.qr(matrix)
    return q * torch.where(r.diagonal() < 0, -1.0, 1.0).to(q.dtype)


class OrthonormalProjection(AtLeastFloat32):
    """``a = z V`` with ``V^T V = I`` (PolySAE, Koromilas et al. 2026; its U).

    The optimiser steps in the ambient space; :meth:`retract_` then takes the Q factor of the
    moved matrix. No linear term depends on V in this package, so a retraction cannot move one
    (in the published code it does).

    Args:
        d_sae: Number of latents.
        rank: Number of columns of V; at most ``d_sae``.
    """

    def __init__(self, d_sae: int, rank: int, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.V = nn.Parameter(torch.empty(d_sae, rank, device=device))
        if not self.V.is_meta:  # a dictionary that is being loaded gets its weights later
            with torch.no_grad():
                self.V.copy_(positive_qr(nn.init.normal_(self.V)))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Project codes (..., d_sae) to (..., rank)."""
        return z @ self.V.to(z.dtype)

    def orthonormality_error(self) -> torch.Tensor:
        """Largest entry of ``|V^T V - I|``."""
        gram = self.V.T @ self.V
        return (gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device)).abs().max()

    @torch.no_grad()
    def retract_(self) -> None:
        """Return V to the orthonormal matrices; does nothing where it is one already."""
        if self.orthonormality_error() > ORTHONORMALITY_TOLERANCE:
            self.V.copy_(positive_qr(self.V))
