"""What pairs of latents do together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from sae_lens_poly.analysis.interactions import pair_strengths, pair_terms
from sae_lens_poly.errors import InputError
from sae_lens_poly.explorer.collect import Collected
from sae_lens_poly.explorer.data_files import plain
from sae_lens_poly.explorer.examples import ExampleWriter
from sae_lens_poly.explorer.latent_views import LatentViews

#: Partners of a latent that are kept: dense ones apart, for they are everybody's partners.
N_PARTNERS, N_DENSE_PARTNERS = 6, 2
N_EXAMPLES, N_LOGITS = 4, 8
#: Sampled tokens on which two latents must both be active to be called partners.
LEAST_TOGETHER = 3

Pair = tuple[int, int]


class Together(NamedTuple):
    """Of some latents with every latent, (n latents, d_sae) each."""

    phi: np.ndarray
    """Correlation of being active; -inf with those that are active with it on fewer than
    :data:`LEAST_TOGETHER` sampled tokens, and with itself."""
    share: np.ndarray
    """Share of the latent's tokens on which the other is active too."""


class PairRecords:
    """Partners of latents, and records of pairs.

    Args:
        collected: A finished pass.
        views: Of the same dictionary.
    """

    def __init__(self, collected: Collected, views: LatentViews) -> None:
        self.collected, self.views = collected, views
        self.typical = collected.counts.typical
        self.dense = collected.dense.numpy()
        self.interact = views.is_curved and _interact(views.sae)

    def together(self, latents: slice) -> Together:
        """How often latents are active with every latent."""
        sample = self.collected.sample
        n, both = max(sample.codes.shape[0], 1), sample.together(latents)
        p = sample.counts / n
        spread = np.sqrt(np.outer((p * (1 - p))[latents], p * (1 - p))).clip(min=1e-12)
        phi = (both / n - np.outer(p[latents], p)) / spread
        phi[both < LEAST_TOGETHER] = -np.inf
        phi[np.arange(len(phi)), np.arange(len(p))[latents]] = -np.inf
        return Together(phi, both / sample.counts[latents, None].clip(min=1))

    @torch.no_grad()
    def partners(self, latents: slice, phi: np.ndarray) -> list[list[int]]:
        """Each latent's strongest partners among those that it is active with, strongest first.

        By the norm of what the pair term adds with both at their mean activations; of decoders
        without pair terms, by the correlation of being active.
        """
        numbers = np.arange(self.collected.sample.d_sae)[latents]
        rows, others = np.nonzero(np.isfinite(phi))
        strengths = phi[rows, others]
        if self.interact:
            pairs = np.stack([numbers[rows], others], axis=1)
            typical = self.typical.numpy()
            B = pair_strengths(self.views.sae, torch.tensor(pairs, device=self.views.sae.device))
            strengths = B.cpu().numpy() * typical[pairs].prod(axis=1)
        found = []
        for row in range(len(numbers)):
            own = np.flatnonzero(rows == row)
            own = own[np.argsort(-strengths[own], kind="stable")]
            dense = self.dense[others[own]]
            kept = np.concatenate([own[~dense][:N_PARTNERS], own[dense][:N_DENSE_PARTNERS]])
            kept = kept[np.argsort(-strengths[kept], kind="stable")]
            found.append(others[kept].tolist())
        return found

    def _added(self, pairs: Sequence[Pair]) -> dict[str, torch.Tensor]:
        """What i, j and the pair term add, with both at their mean activations, raw, (n, d_in)."""
        numbers = torch.tensor(pairs)
        typical = self.typical[numbers]
        on_device = numbers.to(self.views.sae.device)
        added = {
            name: self.views.alone(on_device[:, column], typical[:, column, None])[:, 0]
            for column, name in enumerate(("i", "j"))
        }
        if self.interact:
            B = pair_terms(self.views.sae, on_device)
            added["pair"] = typical.prod(dim=1, keepdim=True).to(B) * B
        return added

    @torch.no_grad()
    def records(self, pairs: Sequence[Pair], writer: ExampleWriter) -> list[dict[str, Any]]:
        """All that the pages of pairs show.

        Raises:
            InputError: If a latent does not exist, or is in a pair with itself.
        """
        d_sae = self.collected.sample.d_sae
        for i, j in pairs:
            if i == j or not (0 <= i < d_sae and 0 <= j < d_sae):
                raise InputError(
                    f"pair ({i}, {j}): give two different latents from 0 to {d_sae - 1}"
                )
        if not pairs:
            return []
        added = self._added(pairs)
        norms, shares = self._sizes(added)
        records = [self._counts(i, j) for i, j in pairs]
        for k, (record, (i, j)) in enumerate(zip(records, pairs, strict=True)):
            record["norms"] = {name: plain(values[k], 3) for name, values in norms.items()}
            record["share"] = shares[k]
            record["examples"] = writer.both(i, j, N_EXAMPLES)
        for record, rows in zip(records, self._logits(added), strict=False):
            record["logits"] = [
                [writer.strings.number(writer.texts[token]), *plain(values, 3)]
                for token, *values in rows
            ]
        return records

    @torch.no_grad()
    def shares(self, pairs: Sequence[Pair]) -> list[float | None]:
        """Norm of what each pair term adds against that of what both latents add one by one."""
        return self._sizes(self._added(pairs))[1] if pairs else []

    def _sizes(
        self, added: dict[str, torch.Tensor]
    ) -> tuple[dict[str, torch.Tensor], list[float | None]]:
        """Norms at the written hook points, (n, L) each, and shares."""
        normalised = {name: self.views.normalised(x) for name, x in added.items()}
        norms = {name: x.norm(dim=-1) for name, x in normalised.items()}
        if not self.interact:
            return norms, [None] * len(added["i"])
        linear = (normalised["i"] + normalised["j"]).flatten(1).norm(dim=-1)
        share: list[float | None] = plain(norms["pair"].norm(dim=-1) / linear.clamp_min(1e-12))
        return norms, share

    def _counts(self, i: int, j: int) -> dict[str, Any]:
        sample = self.collected.sample
        rows, values_i, values_j = sample.both(i, j)
        n, n_i, n_j = sample.codes.shape[0], int(sample.counts[i]), int(sample.counts[j])
        means = [values_i.mean().item(), values_j.mean().item()] if len(rows) else [None, None]
        return {
            "i": i,
            "j": j,
            "typical": plain(self.typical[[i, j]]),
            "typical_together": plain(means),
            "cosine": plain(self.views.cosine(i, j)),
            "n_sampled": n,
            "n_i": n_i,
            "n_j": n_j,
            "n_both": len(rows),
            "n_expected": plain(n_i * n_j / max(n, 1)),
        }

    def _logits(self, added: dict[str, torch.Tensor]) -> list[list[list[Any]]]:
        """For each pair, tokens that its term moves most at the last hook point, with what i, j and
        the term add to each; nothing where there is no term, or no unembedding."""
        last = self.views.written[-1]
        unembedding = self.views.unembeddings[last]
        if unembedding is None or "pair" not in added:
            return []
        d_model = len(unembedding.gain)
        at_last = {k: x[:, last * d_model : (last + 1) * d_model] for k, x in added.items()}
        logits = {name: unembedding.logits(x) for name, x in at_last.items()}
        high = logits["pair"].topk(N_LOGITS).indices
        low = logits["pair"].topk(N_LOGITS, largest=False).indices.flip(1)
        tokens = torch.cat([high, low], dim=1)
        columns = [logits[name].gather(1, tokens) for name in ("i", "j", "pair")]
        rows: list[list[list[Any]]] = torch.stack([tokens.to(columns[0]), *columns], -1).tolist()
        return [[[int(token), *values] for token, *values in row] for row in rows]


def _interact(sae: Any) -> bool:
    try:
        sae.pair_factors()
    except InputError:
        return False
    return True
