"""Feature files of the latents in a graph, where circuit-tracer's front end looks for them."""

from __future__ import annotations

from pathlib import Path

import torch

from sae_lens_poly.analysis.feature_files import LatentRecords, directions_at, unembedding
from sae_lens_poly.architectures.crosscoders.crosscoder import Crosscoder
from sae_lens_poly.circuits.graph import AttributionGraph
from sae_lens_poly.circuits.graph_files import cantor_pair
from sae_lens_poly.circuits.influence import Pruned
from sae_lens_poly.evaluation.evaluate import EvaluationData
from sae_lens_poly.whole_files import write_json

#: Tokens that a label of a latent names.
N_NAMED = 3


def local_scan(slug: str) -> str:
    """``scan`` of a graph with feature files: circuit-tracer serves the graphs' folder as data."""
    return f"./data/features/{slug}"


@torch.no_grad()
def save_graph_features(
    graph: AttributionGraph,
    kept: Pruned,
    sae: Crosscoder,
    data: EvaluationData,
    folder: str | Path,
    slug: str,
) -> dict[int, str]:
    """Write ``folder/features/SLUG/NUMBER.json`` for the latents that are left after pruning.

    Logits are by the sum of what a latent writes, over all MLPs.

    Args:
        graph: Of :func:`attribute`.
        kept: Of :func:`prune`.
        sae: The dictionary.
        data: The text that examples are taken from, and the model.
        folder: Of the graphs.
        slug: Name of the graph.

    Returns:
        Latent to a label for graphs: its number in its layer, and what it makes more probable.
    """
    chosen = kept.nodes[graph.feature_nodes]
    latents, features = graph.latents[chosen].tolist(), graph.features[chosen].tolist()
    records = LatentRecords(sae, data.model, data.batches, latents, data.special_tokens)
    W_U, directions = unembedding(data.model), directions_at(sae, data.model).sum(dim=1)
    folder = Path(folder) / "features" / slug
    folder.mkdir(parents=True, exist_ok=True)
    numbers = {latent: (layer, n) for latent, (layer, _, n) in zip(latents, features, strict=True)}
    labels = {}
    for latent, (layer, number) in numbers.items():
        content = records.feature_file(latent, directions[latent] @ W_U, f"layer_{layer}")
        path = folder / f"{cantor_pair(layer, number)}.json"
        write_json(path, content | {"index": number})
        labels[latent] = f"#{number} \u2192 " + " ".join(content["top_logits"][:N_NAMED])
    return labels
