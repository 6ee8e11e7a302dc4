"""Whether a graph tells the truth: what ablating its features does to a logit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from scipy.stats import spearmanr
from transformer_lens import HookedTransformer

from sae_lens_poly.circuits.frozen_run import Hooks, clean_run, frozen_names, mlp_outputs
from sae_lens_poly.circuits.graph import AttributionGraph
from sae_lens_poly.circuits.replaced_run import ReplacedRun
from sae_lens_poly.circuits.replacement import MLPReplacement, write_layers


@dataclass(frozen=True)
class Ablations:
    """What happens to the most probable token's logit, less the mean of all, without a feature."""

    nodes: torch.Tensor
    """Numbers of the features, the one with the largest predicted effect first, (n,)."""
    predicted: torch.Tensor
    """By the graph, over all paths, (n,)."""
    in_local_replacement: torch.Tensor
    """In the local replacement model: attention patterns, normalisation scales and errors are held,
    and codes are computed from what is left, (n,)."""
    in_model: torch.Tensor
    """In the model itself, when what the feature writes is taken off its MLP outputs, (n,)."""

    @property
    def correlations(self) -> dict[str, float]:
        """Rank correlation of the predicted effects with those of each kind of ablation."""
        measured = {
            "local replacement model": self.in_local_replacement,
            "model": self.in_model,
        }
        return {
            kind: float(spearmanr(self.predicted, effects).statistic)
            for kind, effects in measured.items()
        }


def effects_over_all_paths(graph: AttributionGraph, logit: int = 0) -> torch.Tensor:
    """What each node does to a logit directly and through others, (n_nodes,).

    A share by which a feature grows is one by which everything that it writes does, and a pair
    grows by the shares of both its features together.
    """
    passed_on = torch.zeros_like(graph.adjacency)
    features, pairs = graph.feature_nodes, graph.pair_nodes
    passed_on[features] = graph.adjacency[features] / graph.activations[:, None]
    passed_on[pairs] = passed_on[pairs].scatter(1, graph.pairs, 1.0)
    step = graph.adjacency[graph.logit_nodes][logit]
    total = step.clone()
    while step.any():
        step = step @ passed_on
        total += step
    return total


@torch.no_grad()
def ablate_features(
    model: HookedTransformer, replacement: MLPReplacement, graph: AttributionGraph, n: int = 100
) -> Ablations:
    """Ablate the n features of a graph with the largest predicted effects, one at a time.

    Args:
        model: The model of the graph.
        replacement: Of its MLPs.
        graph: Of :func:`attribute`, all of it.
        n: How many features; fewer if there are not as many.
    """
    predicted = -effects_over_all_paths(graph)[graph.feature_nodes]
    nodes = predicted.abs().argsort(descending=True)[:n]
    run = _AblatedRun(model, replacement, graph)
    measured = [run.effects(some) for some in nodes.split(graph.settings.batch_size)]
    local, in_model = (torch.cat(parts) for parts in zip(*measured, strict=True))
    return Ablations(nodes, predicted[nodes], local, in_model)


class _AblatedRun:
    """Runs the prompt of a graph without some of its features, each in a row of a batch."""

    def __init__(
        self, model: HookedTransformer, replacement: MLPReplacement, graph: AttributionGraph
    ) -> None:
        self.model, self.replacement, self.graph = model, replacement, graph
        self.tokens = graph.tokens.to(model.cfg.device)
        self.clean = clean_run(model, replacement, self.tokens, graph.settings.n_left_out)
        held = [name for name in mlp_outputs(model) if name not in replacement.write_hooks]
        held += frozen_names(model)
        cache = model.run_with_cache(self.tokens[None], names_filter=held)[1]
        self.frozen: Hooks = [(name, partial(_replace_by, cache[name])) for name in held]

    def effects(self, nodes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the logit changes by in the local replacement model and in the model, (n,) both."""
        device, n_left_out = self.tokens.device, self.graph.settings.n_left_out
        rows = torch.arange(len(nodes), device=device)
        positions = self.graph.features[nodes, 1].to(device)
        latents = self.graph.latents[nodes].to(device)

        def ablate(codes: torch.Tensor) -> torch.Tensor:
            codes = codes.clone()
            codes[rows, positions, latents] = 0
            return codes

        replaced = torch.ones(len(nodes), len(self.tokens), dtype=torch.bool, device=device)
        replaced[:, :n_left_out] = False
        errors = self.clean.errors[:, write_layers(self.replacement)]
        local = ReplacedRun(self.replacement, errors, replaced, ablate).hooks()
        codes = self.clean.codes.expand(len(nodes), -1, -1)
        lost = self.replacement.decode(ablate(codes)) - self.replacement.decode(self.clean.codes)
        in_model: Hooks = [
            (name, partial(_add, lost[..., number, :]))
            for number, name in enumerate(self.replacement.write_hooks)
        ]
        return self._change([*self.frozen, *local], len(nodes)), self._change(in_model, len(nodes))

    def _change(self, hooks: Hooks, n: int) -> torch.Tensor:
        logits = self.model.run_with_hooks(self.tokens.expand(n, -1), fwd_hooks=hooks)[:, -1]
        changed = logits.float() - self.clean.logits
        return (changed[:, self.graph.logit_tokens[0]] - changed.mean(dim=-1)).cpu()


def _replace_by(value: torch.Tensor, activation: torch.Tensor, hook: Any) -> torch.Tensor:
    return value.expand_as(activation)


def _add(value: torch.Tensor, activation: torch.Tensor, hook: Any) -> torch.Tensor:
    return activation + value.to(activation)
