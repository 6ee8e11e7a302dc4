"""Attribution graphs of a prompt (Ameisen et al. 2025, "Circuit Tracing")."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from transformer_lens import HookedTransformer

from sae_lens_poly.circuits.frozen_run import FrozenRun, check_fit, clean_run
from sae_lens_poly.circuits.graph import AttributionGraph
from sae_lens_poly.circuits.influence import influence
from sae_lens_poly.circuits.replacement import (
    MLPReplacement,
    layers_and_numbers,
)
from sae_lens_poly.circuits.settings import AttributionSettings
from sae_lens_poly.circuits.sources import Sources
from sae_lens_poly.errors import InputError


def attribute(
    model: HookedTransformer,
    replacement: MLPReplacement,
    tokens: torch.Tensor,
    settings: AttributionSettings | None = None,
) -> AttributionGraph:
    """What features, errors and tokens do directly to features and to the next token's logits.

    Args:
        model: A TransformerLens model.
        replacement: Of its MLPs.
        tokens: Ids of the prompt, (T,).
        settings: How large the graph may become.

    Raises:
        InputError: If the replacement does not fit the model, or the prompt is too short or long.
    """
    settings = settings or AttributionSettings()
    check_fit(model, replacement)
    if not settings.n_left_out < len(tokens) <= model.cfg.n_ctx:
        raise InputError(
            f"prompt: {len(tokens)} tokens must be more than n_left_out={settings.n_left_out} and "
            f"at most the model's context of {model.cfg.n_ctx}"
        )
    clean = clean_run(model, replacement, tokens, settings.n_left_out)
    sources = Sources(replacement, clean, settings.max_pairs)
    probabilities, logit_tokens = clean.logits.softmax(dim=-1).topk(
        min(settings.max_logits, len(clean.logits))
    )
    enough = int(torch.searchsorted(probabilities.cumsum(0), settings.logit_probability)) + 1
    probabilities, logit_tokens = probabilities[:enough], logit_tokens[:enough]

    rows = _Rows(model, replacement, tokens, sources, settings.batch_size)
    W_U = model.W_U.detach().float()
    directions = (W_U[:, logit_tokens] - W_U.mean(dim=-1, keepdim=True)).T
    rows.add_logits(directions, probabilities)
    rows.add_features(settings.max_features)
    features, pairs, adjacency = rows.matrix()

    layers, numbers = layers_and_numbers(replacement)
    latents = sources.latents[features]
    where = [layers[latents], sources.positions[features], numbers[latents]]
    return AttributionGraph(
        tokens=tokens.cpu(),
        token_texts=_texts(model, tokens),
        n_layers=model.cfg.n_layers,
        latents=latents.cpu(),
        features=torch.stack(where, dim=1).cpu(),
        activations=sources.activations[features].cpu(),
        pairs=torch.searchsorted(features, sources.pairs[pairs]).cpu(),
        logit_tokens=logit_tokens.cpu(),
        logit_texts=_texts(model, logit_tokens),
        logit_probabilities=probabilities.cpu(),
        adjacency=adjacency.cpu(),
        settings=settings,
    )


class _Rows:
    """Rows of the adjacency matrix, as far as they are known."""

    def __init__(
        self,
        model: HookedTransformer,
        replacement: MLPReplacement,
        tokens: torch.Tensor,
        sources: Sources,
        batch_size: int,
    ) -> None:
        self.replacement, self.sources, self.batch_size = replacement, sources, batch_size
        self.run = FrozenRun(model, replacement, tokens, batch_size)
        self.rows = sources.on_pairs()
        n, m = sources.n_features, len(sources.pairs)
        self.nodes = torch.arange(n, n + m, device=tokens.device)
        self.last_position = len(tokens) - 1

    def add_logits(self, directions: torch.Tensor, probabilities: torch.Tensor) -> None:
        """Rows of the logits, which read ``directions`` (n_logits, d_model) at the end."""
        at_end = torch.tensor([len(self.replacement.read_hooks), self.last_position])
        reads, positions = at_end.to(directions.device)[:, None].expand(2, len(directions))
        first = self.rows.shape[1]
        nodes = torch.arange(first, first + len(directions), device=directions.device)
        self.n_logits = len(directions)
        self.rows = F.pad(self.rows, (0, self.n_logits))
        self.weights = F.pad(probabilities, (first, 0))
        self._add(nodes, reads, positions, directions)

    def add_features(self, at_most: int) -> None:
        """Rows of features, those with the most influence on the logits first."""
        sources = self.sources
        left = torch.ones(sources.n_features, dtype=torch.bool, device=self.rows.device)
        at_most = min(at_most, len(left))
        while (n_left := at_most - int((~left).sum())) > 0:
            if at_most == len(left):
                chosen = left.nonzero().flatten()
            else:
                found = influence(self.rows, self.nodes, self.weights)[: len(left)]
                by_influence = found.where(left, -1.0).argsort(descending=True)
                chosen = by_influence[: min(n_left, 4 * self.batch_size)]
            left[chosen] = False
            latents = sources.latents[chosen]
            vectors = self.replacement.encoder_vectors(latents).float()
            reads = self.replacement.read_of[latents]
            self._add(chosen, reads, sources.positions[chosen], vectors)

    def _add(
        self,
        nodes: torch.Tensor,
        reads: torch.Tensor,
        positions: torch.Tensor,
        vectors: torch.Tensor,
    ) -> None:
        new = []
        for some in torch.arange(len(nodes), device=nodes.device).split(self.batch_size):
            gradients = self.run.gradients(reads[some], positions[some], vectors[some])
            new.append(self.sources.effects(*gradients))
        self.rows = torch.cat([self.rows, F.pad(torch.cat(new), (0, self.n_logits))])
        self.nodes = torch.cat([self.nodes, nodes])

    def matrix(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Which features and pairs have rows, ascending, and the square matrix of these nodes.

        A pair has if both its features do.
        """
        n, m = self.sources.n_features, len(self.sources.pairs)
        kept = torch.ones(len(self.weights), dtype=torch.bool, device=self.rows.device)
        kept[:n] = False
        kept[self.nodes[self.nodes < n]] = True
        kept[n : n + m] = kept[self.sources.pairs].all(dim=1)
        place = kept.cumsum(dim=0) - 1
        rows = kept[self.nodes]
        whole = self.rows.new_zeros(int(kept.sum()), int(kept.sum()))
        whole[place[self.nodes[rows]]] = self.rows[rows][:, kept]
        return kept[:n].nonzero().flatten(), kept[n : n + m].nonzero().flatten(), whole


def _texts(model: HookedTransformer, tokens: torch.Tensor) -> list[str]:
    if model.tokenizer is None:
        return [str(token) for token in tokens.tolist()]
    return list(model.tokenizer.batch_decode(tokens[:, None].tolist()))
