"""Which nodes of a graph matter for its logits: influence, pruning, scores of the whole.

As in circuit-tracer (decoderesearch, MIT), whose figures these meet: influence follows absolute
effects, those on a node in shares that add up to 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sae_lens_poly.circuits.graph import AttributionGraph
from sae_lens_poly.circuits.settings import PruningSettings


@dataclass(frozen=True)
class Pruned:
    """What :func:`prune` keeps."""

    nodes: torch.Tensor
    """Whether each node is kept, (n_nodes,)."""
    edges: torch.Tensor
    """Whether each edge is, (n_nodes, n_nodes)."""
    cumulative_influence: torch.Tensor
    """Share of the influence that a node and those with more of it have together, (n_nodes,)."""


@dataclass(frozen=True)
class GraphScores:
    """How much of a graph its features explain, from 0 to 1."""

    replacement: float
    """Share of the influence on the logits that comes from tokens rather than from errors."""
    completeness: float
    """Share of what acts on a node that does not come from errors, by influence of the node."""


def shares(rows: torch.Tensor) -> torch.Tensor:
    """Absolute effects (n, n_nodes) as shares of what acts on each of the n nodes."""
    rows = rows.abs()
    return rows / rows.sum(dim=1, keepdim=True).clamp_min(1e-10)


def influence(rows: torch.Tensor, nodes: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Influence of every node on what is weighted, over all paths, (n_nodes,).

    Args:
        rows: Effects on some of the nodes, (n, n_nodes), of a graph without cycles.
        nodes: Which nodes these are, (n,).
        weights: Of each node, (n_nodes,).
    """
    by_share = shares(rows)
    step = weights[nodes] @ by_share
    total = step.clone()
    while step.any():
        step = step[nodes] @ by_share
        total += step
    return total


def _node_influence(graph: AttributionGraph, adjacency: torch.Tensor) -> torch.Tensor:
    everything = torch.arange(len(adjacency), device=adjacency.device)
    return influence(adjacency, everything, graph.logit_weights)


def prune(graph: AttributionGraph, settings: PruningSettings | None = None) -> Pruned:
    """Keep the nodes and edges with the most influence on the logits.

    All tokens and logits stay. A feature, a pair or an error without an edge that leads on, and a
    feature or a pair without one that leads to it, go.
    """
    settings = settings or PruningSettings()
    found = _node_influence(graph, graph.adjacency)
    nodes = found >= _threshold(found, settings.node_threshold)
    nodes[graph.token_nodes.start :] = True

    left = graph.adjacency * nodes * nodes[:, None]
    on_node = _node_influence(graph, left) + graph.logit_weights
    by_edge = shares(left) * on_node[:, None]
    edges = by_edge >= _threshold(by_edge.flatten(), settings.edge_threshold)

    sources, targets = slice(0, graph.error_nodes.stop), slice(0, graph.pair_nodes.stop)
    before = None
    while before is None or not torch.equal(nodes, before):
        before = nodes.clone()
        nodes[sources] &= edges[:, sources].any(dim=0)
        nodes[targets] &= edges[targets].any(dim=1)
        if not torch.equal(nodes, before):
            edges &= nodes & nodes[:, None]

    order = found.argsort(descending=True)
    cumulative = torch.zeros_like(found)
    cumulative[order] = found[order].cumsum(dim=0) / found.sum()
    return Pruned(nodes, edges, cumulative)


def _threshold(scores: torch.Tensor, share: float) -> torch.Tensor:
    """The least of the largest scores that have a share of the sum together."""
    ordered = scores.sort(descending=True).values
    cumulative = ordered.cumsum(dim=0) / ordered.sum()
    return ordered[min(int(torch.searchsorted(cumulative, share)), len(ordered) - 1)]


def score(graph: AttributionGraph) -> GraphScores:
    """How much of a graph its features explain."""
    found = _node_influence(graph, graph.adjacency)
    from_tokens, from_errors = found[graph.token_nodes].sum(), found[graph.error_nodes].sum()
    by_features = 1 - shares(graph.adjacency)[:, graph.error_nodes].sum(dim=-1)
    weights = found + graph.logit_weights
    return GraphScores(
        (from_tokens / (from_tokens + from_errors)).item(),
        ((by_features * weights).sum() / weights.sum()).item(),
    )
