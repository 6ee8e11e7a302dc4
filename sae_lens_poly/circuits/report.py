"""A graph as lines in the terminal."""

from __future__ import annotations

from sae_lens_poly.circuits.ablation import Ablations, effects_over_all_paths
from sae_lens_poly.circuits.graph import AttributionGraph
from sae_lens_poly.circuits.influence import Pruned, score

#: How many features and pairs are named.
_N_NAMED = 8


def print_graph(graph: AttributionGraph, kept: Pruned) -> None:
    """Print what the model predicts, how large the graph is, and what acts on the first logit."""
    print("prompt: " + " ".join(map(repr, graph.token_texts)))
    probabilities = zip(graph.logit_texts, graph.logit_probabilities.tolist(), strict=True)
    print("next: " + ", ".join(f"{text!r} {share:.1%}" for text, share in probabilities))
    for name, nodes in {
        "features": graph.feature_nodes,
        "pairs": graph.pair_nodes,
        "errors": graph.error_nodes,
    }.items():
        print(f"{name}: {nodes.stop - nodes.start}, {int(kept.nodes[nodes].sum())} after pruning")
    print(f"edges: {int(kept.edges.sum())} after pruning")
    scores = score(graph)
    print(f"replacement score {scores.replacement:.3f}, completeness {scores.completeness:.3f}")
    effects = effects_over_all_paths(graph)
    print(f"effects on {graph.logit_texts[0]!r}, less the mean logit, over all paths:")
    for node in effects[graph.feature_nodes].abs().argsort(descending=True)[:_N_NAMED].tolist():
        print(f"  {effects[node]:+8.3f}  {_name(graph, node)} at {_text(graph, node)}")
    pairs = effects[graph.pair_nodes]
    for number in pairs.abs().argsort(descending=True)[:_N_NAMED].tolist():
        i, j = graph.pairs[number].tolist()
        names = f"{_name(graph, i)} with {_name(graph, j)}"
        print(f"  {pairs[number]:+8.3f}  {names} at {_text(graph, i)}")


def print_ablations(ablations: Ablations) -> None:
    """Print how well the graph predicts what ablations do."""
    print(f"{len(ablations.nodes)} features ablated, predicted against measured effects:")
    for kind, correlation in ablations.correlations.items():
        print(f"  rank correlation {correlation:.3f} in the {kind}")


def _name(graph: AttributionGraph, feature: int) -> str:
    layer, _, number = graph.features[feature].tolist()
    return f"layer {layer} #{number}"


def _text(graph: AttributionGraph, feature: int) -> str:
    return repr(graph.token_texts[int(graph.features[feature, 1])])
