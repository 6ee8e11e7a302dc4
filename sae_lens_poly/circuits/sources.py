"""What can act on something in an attribution graph, and what it writes."""

from __future__ import annotations

import torch

from sae_lens_poly.circuits.frozen_run import CleanRun
from sae_lens_poly.circuits.replacement import (
    MLPReplacement,
    Parts,
    layers_and_numbers,
    write_layers,
)


class Sources:
    """Features, pairs of them, errors and tokens of a prompt, in the order of the graph's nodes.

    Args:
        replacement: Of the MLPs.
        clean: The prompt's run.
        max_pairs: How many pairs there are at most; see ``AttributionSettings``.
    """

    def __init__(self, replacement: MLPReplacement, clean: CleanRun, max_pairs: int) -> None:
        self.clean, self.written = clean, write_layers(replacement)
        sizes = clean.outputs[:, self.written].norm(dim=-1).clamp_min(1e-12)
        parts = [
            _strongest(replacement.parts(code), size, max_pairs)
            for code, size in zip(clean.codes, sizes, strict=True)
        ]
        strengths = [_strengths(of, size) for of, size in zip(parts, sizes, strict=True)]
        keep = _largest(torch.cat(strengths), max_pairs).split([len(of.pairs) for of in parts])
        parts = [_fold(of, keep_here) for of, keep_here in zip(parts, keep, strict=True)]

        counts = torch.tensor([len(of.latents) for of in parts])
        position = torch.arange(len(parts)).repeat_interleave(counts).to(clean.codes.device)
        latents = torch.cat([of.latents for of in parts])
        layers, numbers = (of[latents] for of in layers_and_numbers(replacement))
        order = _by_several(layers, position, numbers)
        place = order.argsort()  # where each latent, by position, is among the features
        self.latents, self.positions = latents[order], position[order]
        self.activations = clean.codes[self.positions, self.latents].float()
        starts = counts.cumsum(0) - counts
        self.pairs = place[
            torch.cat([of.pairs + start for of, start in zip(parts, starts, strict=True)])
        ]
        self._features_at = place.split(counts.tolist())
        self._parts = parts

    @property
    def n_features(self) -> int:
        """How many features there are."""
        return len(self.latents)

    def effects(self, on_embedded: torch.Tensor, on_outputs: torch.Tensor) -> torch.Tensor:
        """What every source does to n targets, (n, n_sources).

        Args:
            on_embedded: Gradients of the targets by the embedded tokens, (n, T, d_model).
            on_outputs: By the MLP outputs, (n, T, n_layers, d_model).
        """
        features = on_outputs.new_zeros(len(on_outputs), self.n_features)
        pairs = []
        for position, (parts, at) in enumerate(zip(self._parts, self._features_at, strict=True)):
            gradient = on_outputs[:, position, self.written].flatten(1)
            features[:, at] = gradient @ parts.alone.flatten(1).T
            pairs.append(gradient @ parts.together.flatten(1).T)
        errors = (on_outputs * self.clean.errors).sum(dim=-1).transpose(1, 2).flatten(1)
        tokens = (on_embedded * self.clean.embedded).sum(dim=-1)
        return torch.cat([features, *pairs, errors, tokens], dim=1)

    def on_pairs(self) -> torch.Tensor:
        """What every source does to each pair, (m, n_sources): both its features the same."""
        n_others = self.clean.errors[..., 0].numel() + len(self.clean.embedded)
        m, n = len(self.pairs), self.n_features
        rows = self.activations.new_zeros(m, n + m + n_others)
        halves = self.activations[self.pairs].prod(dim=1, keepdim=True) / 2
        return rows.scatter(1, self.pairs, halves.expand(m, 2))


def _strengths(parts: Parts, sizes: torch.Tensor) -> torch.Tensor:
    """How much of the MLP outputs, of norms (n_writes,), each pair writes, (m,)."""
    return (parts.together.norm(dim=-1) / sizes).square().sum(dim=-1)


def _largest(values: torch.Tensor, n: int) -> torch.Tensor:
    """True for the n largest."""
    chosen = torch.zeros_like(values, dtype=torch.bool)
    chosen[values.topk(min(n, len(values))).indices] = True
    return chosen


def _strongest(parts: Parts, sizes: torch.Tensor, n: int) -> Parts:
    return _fold(parts, _largest(_strengths(parts, sizes), n))


def _fold(parts: Parts, keep: torch.Tensor) -> Parts:
    """The same with what other pairs write given to their two latents by halves."""
    i, j = parts.pairs[~keep].T
    halves = parts.together[~keep] / 2
    alone = parts.alone.index_add(0, i, halves).index_add(0, j, halves)
    return Parts(parts.latents, alone.float(), parts.pairs[keep], parts.together[keep].float())


def _by_several(*keys: torch.Tensor) -> torch.Tensor:
    """The order by the first key, then by the second, and so on, (n,)."""
    order = torch.arange(len(keys[0]), device=keys[0].device)
    for key in reversed(keys):
        order = order[key[order].argsort(stable=True)]
    return order
