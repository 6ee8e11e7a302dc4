"""Which latents belong to one model, or to one layer, and which to several.

For a crosscoder over two models, or over layers: relative decoder norms, latent scaling and a
table of the two (Minder et al. 2025, "Overcoming Sparsity Artifacts in Crosscoders", arXiv
2504.02922; Lindsey et al. 2024). A *source* is what latents are compared between: a model, which
may have several hook points, or a hook point.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import normalize

from sae_lens_poly.architectures.crosscoders.crosscoder import Crosscoder
from sae_lens_poly.architectures.crosscoders.hook_scales import saved_scales
from sae_lens_poly.architectures.crosscoders.skips import decode_from
from sae_lens_poly.errors import InputError

#: Upper ends of the ranges of the relative decoder norm, and what latents in them are called.
EXCLUSIVE_BELOW, SHARED_FROM, SHARED_TO = 0.1, 0.4, 0.6


def relative_decoder_norm(norm_a: torch.Tensor, norm_b: torch.Tensor) -> torch.Tensor:
    """``1/2 (1 + (||d^B|| - ||d^A||) / max(||d^A||, ||d^B||))``: 0 for A alone, 1 for B alone.

    Args:
        norm_a: Decoder norms at source A, (d_sae,).
        norm_b: Decoder norms at source B, (d_sae,).
    """
    larger = torch.maximum(norm_a, norm_b).clamp_min(1e-12)
    return 0.5 * (1 + (norm_b - norm_a) / larger)


class LatentScaling:
    """Streams how well each latent's direction explains each source, for all latents at once.

    For latent j and source s, ``beta_js`` is the factor by which ``f_j r_j`` fits y best, in least
    squares over tokens: ``sum_t f_j <r_j, y_t> / (||r_j||^2 sum_t f_j^2)``. In ``error``, y is what
    all other latents leave of s (the residual with this latent's linear contribution put back);
    in ``reconstruction``, it is the reconstruction of s without its bias. ``r_j`` is the latent's
    linear decoder at its reference source, for all sources alike: by default, where it is longest.

    One pass over activations suffices; it keeps sums of d_sae x d_in numbers.

    Args:
        sae: An inference crosscoder.
        sources: The hook points of each source, the same number for each; None: each hook point is
            a source.
        reference: Number of the source whose directions are used; None: each latent's longest.

    Raises:
        InputError: If the sources do not fit the crosscoder or each other.
    """

    def __init__(
        self,
        sae: Crosscoder,
        sources: Sequence[Sequence[int]] | None = None,
        reference: int | None = None,
    ) -> None:
        self.sae = sae
        self.sources = _checked_sources(sae, sources)
        if reference is not None and not 0 <= reference < len(self.sources):
            raise InputError(
                f"reference={reference} is not the number of one of the {len(self.sources)} sources"
            )
        self.reference = reference
        self.scales = saved_scales(sae, sae.n_hooks)
        d_sae, width = sae.cfg.d_sae, sae.cfg.d_in
        # Sums over a stream stop growing in a narrower dtype.
        self.dtype = torch.promote_types(sae.dtype, torch.float32)
        self.squares = torch.zeros(d_sae, dtype=torch.float64)
        self.error = torch.zeros(d_sae, width, dtype=self.dtype, device=sae.device)
        self.reconstruction = torch.zeros_like(self.error)

    @torch.no_grad()
    def update(self, x: torch.Tensor) -> None:
        """Add activations (n, d_in), as the crosscoder takes them."""
        x = x.to(self.sae.device, self.sae.dtype)
        z = self.sae.encode(x)
        x_hat = decode_from(self.sae, z, x).to(self.dtype)
        z = z.to(self.dtype)
        self.squares += z.cpu().double().square().sum(dim=0)
        self.error += z.T @ (x - x_hat)
        self.reconstruction += z.T @ (x_hat - self.sae.b_dec)

    @torch.no_grad()
    def compute(self) -> dict[str, torch.Tensor]:
        """``error`` and ``reconstruction``: beta of each latent at each source, (d_sae, n_sources).

        NaN for latents that were active on no token.
        """
        own = self._by_source(self.sae.latent_directions())
        if self.reference is None:
            chosen = own.norm(dim=-1).argmax(dim=-1)
        else:
            chosen = torch.full((len(own),), self.reference)
        r = own[torch.arange(len(own)), chosen][:, None]
        weight = r.square().sum(dim=-1) * self.squares[:, None]
        put_back = (r * own).sum(dim=-1) * self.squares[:, None]
        error = (r * self._by_source(self.error)).sum(dim=-1) + put_back
        reconstruction = (r * self._by_source(self.reconstruction)).sum(dim=-1)
        return {"error": error / weight, "reconstruction": reconstruction / weight}

    def _by_source(self, x: torch.Tensor) -> torch.Tensor:
        """(d_sae, d_in) to (d_sae, n_sources, width of one), with hook points alike in scale."""
        per_hook = self.sae.per_hook(x.cpu().double()) * self.scales[:, None]
        return torch.stack([per_hook[:, hooks].flatten(1) for hooks in self.sources], dim=1)


@torch.no_grad()
def latent_table(
    sae: Crosscoder,
    a: int = 0,
    b: int = 1,
    sources: Sequence[Sequence[int]] | None = None,
    scaling: LatentScaling | None = None,
) -> pd.DataFrame:
    """A row for each latent: its norms at sources A and B, and the kind that follows from them.

    Columns: ``norm_a`` and ``norm_b``, of the linear decoder, in units in which all hook points
    have the same mean norm; ``relative_norm``, :func:`relative_decoder_norm`; ``kind``: ``a only``
    below 0.1, ``shared`` from 0.4 to 0.6, ``b only`` above 0.9, ``between``, or ``unused`` for
    latents whose decoder is zero at both; ``cosine`` of the two decoders. With ``scaling``:
    ``beta_error_a`` and so on, ``nu_error`` and ``nu_reconstruction``, the ratio A to B, and
    ``active``, whether the latent was.

    Args:
        sae: An inference crosscoder.
        a: Number of source A.
        b: Number of source B.
        sources: As in :class:`LatentScaling`; ignored if ``scaling`` is given, which has sources.
        scaling: After its pass over activations.
    """
    sources = scaling.sources if scaling is not None else _checked_sources(sae, sources)
    directions = (
        sae.per_hook(sae.latent_directions()).cpu() * saved_scales(sae, sae.n_hooks)[:, None]
    )
    of_a, of_b = (directions[:, list(sources[s])].flatten(1) for s in (a, b))
    norm_a, norm_b = of_a.norm(dim=-1), of_b.norm(dim=-1)
    relative = relative_decoder_norm(norm_a, norm_b)
    table = pd.DataFrame(
        {
            "norm_a": norm_a.numpy(),
            "norm_b": norm_b.numpy(),
            "relative_norm": relative.numpy(),
            "cosine": (normalize(of_a, dim=-1) * normalize(of_b, dim=-1)).sum(-1).numpy(),
        }
    )
    position = table["relative_norm"]
    table["kind"] = np.select(
        [
            table[["norm_a", "norm_b"]].max(axis=1) < 1e-8,
            position < EXCLUSIVE_BELOW,
            position > 1 - EXCLUSIVE_BELOW,
            position.between(SHARED_FROM, SHARED_TO),
        ],
        ["unused", "a only", "b only", "shared"],
        "between",
    )
    if scaling is not None:
        for name, beta in scaling.compute().items():
            of_source = beta.numpy()
            table[f"beta_{name}_a"], table[f"beta_{name}_b"] = of_source[:, a], of_source[:, b]
            table[f"nu_{name}"] = table[f"beta_{name}_a"] / table[f"beta_{name}_b"]
        table["active"] = (scaling.squares > 0).numpy()
    table.index.name = "latent"
    return table


def _checked_sources(sae: Crosscoder, sources: Sequence[Sequence[int]] | None) -> list[list[int]]:
    checked = (
        [[hook] for hook in range(sae.n_hooks)] if sources is None else list(map(list, sources))
    )
    sizes = {len(hooks) for hooks in checked}
    numbers = [hook for hooks in checked for hook in hooks]
    if len(checked) < 2 or len(sizes) != 1 or not set(numbers) <= set(range(sae.n_hooks)):
        raise InputError(
            f"sources={sources} must be two or more lists of hook points, equally long, with "
            f"numbers from 0 to {sae.n_hooks - 1}"
        )
    return checked
