"""Functional coherence: whether one hook point drives a latent, or all of them do."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sae_lens_poly.architectures.crosscoders.crosscoder import Crosscoder

#: Added to what changes are divided by (fmxcoder's figure).
EPSILON = 1e-8


@dataclass(frozen=True)
class Coherence:
    """Functional coherence of each latent: from 1, one hook point drives it, to n_hooks, all do."""

    selected: torch.Tensor
    """Of the codes, (d_sae,); NaN for latents that were active on no token."""
    pre_activation: torch.Tensor
    """Of the pre-activations, before the selection, on the same tokens, (d_sae,)."""

    def mean(self) -> tuple[float, float]:
        """Means over live latents: of the codes, and before the selection."""
        return self.selected.nanmean().item(), self.pre_activation.nanmean().item()


class FunctionalCoherence:
    """Streams the functional coherence of an inference crosscoder (fmxcoder, Demou et al. 2026).

    The encoder's input at one hook point is zeroed at a time. With Delta_il the relative change of
    latent i, averaged over the tokens where it is active, it is
    ``C_i = sum_l Delta_il / max_l Delta_il``. A code that falls below its threshold counts as a
    change of 100%, so the figure is given before the selection too.

    Relative changes do not depend on the units of a hook point: raw and normalised inputs give one
    and the same figure, as long as *zero* means one thing. It can mean two. Where the decoder bias
    is taken off the input, the encoder's input is zero when the activation is at ``b_dec`` (as with
    stochastic layer masking); when the raw activation itself is zeroed, the encoder sees
    ``-b_dec``, and a hook point with a large mean looks more important than it is.

    Args:
        sae: An inference crosscoder.
        raw: Whether the raw activation is zeroed, instead of the encoder's input.
    """

    def __init__(self, sae: Crosscoder, raw: bool = False) -> None:
        self.sae, self.raw = sae, raw
        shape = (sae.cfg.d_sae, sae.n_hooks)
        self.changes = torch.zeros(2, *shape, dtype=torch.float64)
        self.n_active = torch.zeros(shape[0], dtype=torch.float64)

    @torch.no_grad()
    def update(self, x: torch.Tensor) -> None:
        """Add activations (n, d_in), as the dictionary takes them."""
        pre, z = self._both(x, None)
        active = z != 0
        self.n_active += active.sum(dim=0).cpu()
        for hook in range(self.sae.n_hooks):
            seen = torch.ones(self.sae.n_hooks, dtype=x.dtype, device=x.device)
            seen[hook] = 0
            without = self._both(x, seen)
            for kind, (whole, part) in enumerate(
                zip((z, pre), (without[1], without[0]), strict=True)
            ):
                change = (whole - part).abs() / (whole.abs() + EPSILON)
                self.changes[kind, :, hook] += (change * active).sum(dim=0).cpu()

    def _both(
        self, x: torch.Tensor, seen: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self.raw and seen is not None:
            x, seen = (self.sae.per_hook(x) * seen[:, None]).flatten(-2), None
        pre = self.sae.pre_activations(x, seen)
        return pre, self.sae.gate(pre)

    def compute(self) -> Coherence:
        """The coherence of every latent."""
        mean = self.changes / self.n_active[:, None]
        total, largest = mean.sum(dim=-1), mean.amax(dim=-1)
        selected, pre_activation = total / largest
        return Coherence(selected, pre_activation)


def decoder_coherence(norms: torch.Tensor) -> torch.Tensor:
    """The decoder-side analogue: ``sum_l ||d_i^l|| / max_l ||d_i^l||``, (d_sae,).

    Args:
        norms: Decoder norms (d_sae, n_hooks), in units in which hook points are comparable.
    """
    return norms.sum(dim=-1) / norms.amax(dim=-1).clamp_min(1e-12)
