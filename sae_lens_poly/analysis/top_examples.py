"""Contexts in which a latent is most active."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import nlargest
from typing import Any

import torch
from sae_lens.saes.sae import SAE

from sae_lens_poly.errors import InputError
from sae_lens_poly.models.stacked_hooks import StackedHooks
from sae_lens_poly.training.text_reading import counted


@dataclass(frozen=True)
class Example:
    """One context of a latent."""

    tokens: list[str]
    """The tokens around the one where the latent is most active."""
    activations: list[float]
    """Of the latent at each of them."""
    peak: int
    """Which of them it is most active at."""

    @property
    def activation(self) -> float:
        """The largest of the context."""
        return self.activations[self.peak]

    def __str__(self) -> str:
        """The text on one line, its peak between guillemets."""
        marked = [*self.tokens]
        marked[self.peak] = f"«{marked[self.peak]}»"
        return "".join(marked).replace("\n", "\\n")


@torch.no_grad()
def top_examples(
    sae: SAE[Any],
    model: StackedHooks,
    batches: Iterable[torch.Tensor],
    latents: Sequence[int],
    n: int = 5,
    window: int = 8,
    special_tokens: Sequence[int] = (),
    positions: slice = slice(None),
) -> dict[int, list[Example]]:
    """The contexts in which latents are most active, the most active first.

    Each context (row of a batch) counts once per latent, at its largest activation; those in which
    the latent is not active are left out, so there may be fewer than ``n``.

    Args:
        sae: A dictionary that takes the raw activations of the model's virtual hook point.
        model: The model with its hook points stacked.
        batches: Tokens (batch, pos) each.
        latents: Their numbers.
        n: How many examples of each.
        window: How many tokens before and after the peak are shown.
        special_tokens: Ids at which an activation does not count, such as BOS.
        positions: Of a context, those at which it counts.

    Raises:
        InputError: If there is no such latent, or ``n`` or ``window`` is negative or 0.
    """
    for name, value in (("n", n), ("window", window)):
        if value < 1:
            raise InputError(f"{name}={value} must be 1 or more")
    for latent in latents:
        if not 0 <= latent < sae.cfg.d_sae:
            raise InputError(f"latents: {latent} must be from 0 to {sae.cfg.d_sae - 1}")
    wanted = list(dict.fromkeys(latents))
    # Activation first, a number that decides ties second, so that nothing else is compared.
    best: dict[int, list[tuple[float, int, Example]]] = {latent: [] for latent in wanted}
    n_rows = 0
    for tokens in batches:
        z = sae.encode(model.gather(tokens).to(sae.device, sae.dtype))[..., wanted].float().cpu()
        z[~counted(tokens.cpu(), special_tokens, positions)] = 0.0
        peaks = z.max(dim=1)
        for k, latent in enumerate(wanted):
            for row in peaks.values[:, k].argsort(descending=True, stable=True)[:n].tolist():
                value, at = peaks.values[row, k].item(), int(peaks.indices[row, k])
                if value <= 0:
                    break
                shown = slice(max(0, at - window), at + window + 1)
                example = Example(
                    model.tokenizer.batch_decode(tokens[row, shown, None].tolist()),
                    z[row, shown, k].tolist(),
                    at - shown.start,
                )
                best[latent].append((value, -(n_rows + row), example))
            best[latent] = nlargest(n, best[latent], key=lambda entry: entry[:2])
        n_rows += len(tokens)
    return {latent: [example for *_, example in found] for latent, found in best.items()}
