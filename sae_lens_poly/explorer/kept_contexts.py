"""The contexts of highest priority of every latent, over a stream."""

from __future__ import annotations

import torch
from torch import nn


class KeptContexts(nn.Module):
    """For each latent, the ``n`` contexts of highest priority, around where it is most active.

    With the activation as priority these are its top examples. With random priorities they are
    drawn evenly among all contexts in which it is active. Memory does not grow with the text.

    Args:
        d_sae: Number of latents.
        n: Contexts of each.
        before: Tokens kept before the most active one.
        after: Tokens kept after it.
    """

    priority: torch.Tensor
    """Shape (d_sae, n), highest first once :meth:`sort_` was called; 0 where there is none."""
    peak: torch.Tensor
    """Largest activation in the context, (d_sae, n)."""
    context: torch.Tensor
    """Number of the context in the text, (d_sae, n)."""
    position: torch.Tensor
    """Where in it the latent is most active, (d_sae, n)."""
    activations: torch.Tensor
    """Around that position, zero beyond the context, (d_sae, n, before + 1 + after)."""

    def __init__(self, d_sae: int, n: int, before: int, after: int) -> None:
        super().__init__()
        self.n, self.before, self.after = n, before, after
        self.register_buffer("priority", torch.zeros(d_sae, n))
        self.register_buffer("peak", torch.zeros(d_sae, n))
        self.register_buffer("context", torch.zeros(d_sae, n, dtype=torch.int32))
        self.register_buffer("position", torch.zeros(d_sae, n, dtype=torch.int32))
        # Shades on a page need no more digits than bfloat16 has, and its range is float32's.
        window = torch.zeros(d_sae, n, before + 1 + after, dtype=torch.bfloat16)
        self.register_buffer("activations", window)

    @torch.no_grad()
    def update(
        self, z: torch.Tensor, peaks: torch.Tensor, priority: torch.Tensor, first: int
    ) -> None:
        """See the codes of a batch.

        Args:
            z: Codes (batch, pos, d_sae); what is below 0 is kept as 0.
            peaks: Their maximum over positions, (batch, d_sae).
            priority: Of each context for each latent, (batch, d_sae); only what is above 0 counts,
                and of equal ones the first that came.
            first: Number of the batch's first context.
        """
        floor = self.priority.amin(dim=1)
        for row, codes in enumerate(z):
            latents = (priority[row] > floor).nonzero()[:, 0]
            # A slice at a time: early in a text every latent keeps every context.
            for part in latents.split(1024):
                self._keep(codes, peaks[row, part], priority[row, part], part, first + row)
            floor[latents] = self.priority[latents].amin(dim=1)

    def _keep(
        self,
        codes: torch.Tensor,
        peaks: torch.Tensor,
        priority: torch.Tensor,
        latents: torch.Tensor,
        context: int,
    ) -> None:
        """Put one context, (pos, d_sae), in the place of the one of lowest priority."""
        place = latents, self.priority[latents].argmin(dim=1)
        own = codes.index_select(1, latents)
        position = own.argmax(dim=0)
        offsets = torch.arange(-self.before, self.after + 1, device=codes.device)
        where = position + offsets[:, None]
        inside = (where >= 0) & (where < len(own))
        window = own.gather(0, where.clamp_(0, len(own) - 1)).relu_() * inside
        self.priority[place] = priority.to(self.priority)
        self.peak[place] = peaks.to(self.peak)
        self.context[place] = context
        self.position[place] = position.to(self.position)
        self.activations[place] = window.T.to(self.activations)

    def sort_(self) -> None:
        """Put the largest activation first."""
        order = self.peak.where(self.priority > 0, -1.0).argsort(dim=1, descending=True)
        for name in ("priority", "peak", "context", "position"):
            getattr(self, name).copy_(getattr(self, name).gather(1, order))
        wide = order[..., None].expand_as(self.activations)
        self.activations.copy_(self.activations.gather(1, wide))
