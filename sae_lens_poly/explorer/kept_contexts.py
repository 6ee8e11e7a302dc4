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
            priority: Of each context for each latent, (batch, d_sae); only what is above 0 counts.
            first: Number of the batch's first context.
        """
        floor = self.priority.amin(dim=1)
        latents = (priority > floor).any(dim=0).nonzero()[:, 0]
        # A slice at a time: early in a text every latent keeps every context.
        for part in latents.split(1024):
            self._keep(z.index_select(2, part), peaks[:, part].T, priority[:, part].T, part, first)

    def _keep(
        self,
        z: torch.Tensor,
        peaks: torch.Tensor,
        priority: torch.Tensor,
        latents: torch.Tensor,
        first: int,
    ) -> None:
        n_contexts, n_positions, _ = z.shape
        position = z.argmax(dim=1).T
        offsets = torch.arange(-self.before, self.after + 1, device=z.device)
        where = position[..., None] + offsets
        inside = (where >= 0) & (where < n_positions)
        by_latent = z.permute(2, 0, 1)
        window = by_latent.gather(2, where.clamp(0, n_positions - 1)).relu_() * inside
        context = torch.arange(first, first + n_contexts, device=z.device)
        new = {
            "peak": peaks,
            "context": context.expand(len(latents), -1),
            "position": position,
            "activations": window,
        }
        together = torch.cat([self.priority[latents], priority.to(self.priority)], dim=1)
        self.priority[latents], chosen = together.topk(self.n, dim=1)
        for name, values in new.items():
            kept = getattr(self, name)
            both = torch.cat([kept[latents], values.to(kept.dtype)], dim=1)
            at = chosen if both.ndim == 2 else chosen[..., None].expand(-1, -1, both.shape[-1])
            kept[latents] = both.gather(1, at)

    def sort_(self) -> None:
        """Put the largest activation first."""
        order = self.peak.where(self.priority > 0, -1.0).argsort(dim=1, descending=True)
        for name in ("priority", "peak", "context", "position"):
            getattr(self, name).copy_(getattr(self, name).gather(1, order))
        wide = order[..., None].expand_as(self.activations)
        self.activations.copy_(self.activations.gather(1, wide))
