"""The JSON of a graph that circuit-tracer's front end and Neuronpedia read."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sae_lens_poly.circuits.graph import AttributionGraph
from sae_lens_poly.circuits.influence import prune
from sae_lens_poly.circuits.settings import PruningSettings
from sae_lens_poly.errors import InputError
from sae_lens_poly.read_files import read_json
from sae_lens_poly.whole_files import write_json

#: What the front ends list graphs from.
METADATA_FILENAME = "graph-metadata.json"


#: What stands in labels for letters that front ends do not show, or end a token's text at.
_SHOWN = str.maketrans({"\n": "\u23ce", "\t": "\u2192", "\r": "\u21b5", '"': "\u201d"})


def cantor_pair(layer: int, number: int) -> int:
    """The one number by which front ends and feature files know a latent of a layer."""
    return (layer + number) * (layer + number + 1) // 2 + number


def save_graph(
    graph: AttributionGraph,
    folder: str | Path,
    slug: str,
    scan: str,
    pruning: PruningSettings | None = None,
    features_url: str | None = None,
    labels: Mapping[int, str] | None = None,
) -> Path:
    """Write the pruned graph, and list it among those of the folder.

    Args:
        graph: Of :func:`attribute`.
        folder: Made if it is missing; graphs that it lists stay listed.
        slug: Name of the file, and of the graph in front ends.
        scan: Which model and dictionary; Neuronpedia takes it for the model's name.
        pruning: How much of it is kept.
        features_url: Where feature files are, for Neuronpedia.
        labels: Of latents, by their number in the dictionary; without one, front ends show what
            they know of a feature.

    Returns:
        The file.

    Raises:
        InputError: If ``slug`` is no such name.
    """
    check_slug(slug)
    content = graph_json(graph, slug, scan, pruning, features_url, labels)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{slug}.json"
    write_json(path, content)
    listed = folder / METADATA_FILENAME
    listing = read_json(listed, dict[str, list[dict[str, Any]]]) if listed.exists() else {}
    others = [other for other in listing.get("graphs", []) if other.get("slug") != slug]
    write_json(listed, {"graphs": [*others, content["metadata"]]})
    return path


def check_slug(slug: str) -> None:
    """Refuse a name that no graph can have.

    Raises:
        InputError: If it is not a file name of letters, digits, ``-``, ``_`` and ``.``.
    """
    if not re.fullmatch(r"[\w.-]{1,100}", slug) or slug.startswith("."):
        raise InputError(
            f"slug={slug[:200]!r} must be a file name of at most 100 letters, digits, '-', '_' and "
            "'.' that does not start with '.'"
        )


def graph_json(
    graph: AttributionGraph,
    slug: str,
    scan: str,
    pruning: PruningSettings | None = None,
    features_url: str | None = None,
    labels: Mapping[int, str] | None = None,
) -> dict[str, Any]:
    """The pruned graph as the front ends read it; see :func:`save_graph`.

    An error's id is ``error_{layer}_{position}``: circuit-tracer's, ``0_{layer}_{position}``, is
    also that of a feature of layer 0. A pair's is
    ``pair_{layer}-{number}_{layer}-{number}_{position}``, and its feature type ``interaction``.
    """
    pruning = pruning or PruningSettings()
    kept = prune(graph, pruning)
    nodes = _nodes(graph, labels or {})
    targets, sources = kept.edges.nonzero().T.tolist()
    links = [
        {
            "source": nodes[source]["node_id"],
            "target": nodes[target]["node_id"],
            "weight": graph.adjacency[target, source].item(),
        }
        for target, source in zip(targets, sources, strict=True)
        if kept.nodes[target] and kept.nodes[source]
    ]
    linked = {link[end] for link in links for end in ("source", "target")}
    for node, influence in zip(nodes, kept.cumulative_influence.tolist(), strict=True):
        node["influence"] = None if node["feature_type"] == "logit" else influence
    metadata: dict[str, Any] = {
        "slug": slug,
        "scan": scan,
        "transcoder_list": [],
        "prompt_tokens": graph.token_texts,
        "prompt": "".join(graph.token_texts),
        "node_threshold": pruning.node_threshold,
        "schema_version": 1,
        "info": {
            "generator": {"name": "sae_lens_poly", "version": version("sae-lens-poly")},
            "create_time_ms": int(time.time() * 1000),
        },
        "generation_settings": {
            "max_n_logits": graph.settings.max_logits,
            "desired_logit_prob": graph.settings.logit_probability,
            "max_feature_nodes": graph.settings.max_features,
            "max_pair_nodes": graph.settings.max_pairs,
            "batch_size": graph.settings.batch_size,
        },
        "pruning_settings": asdict(pruning),
    }
    if features_url is not None:
        metadata["feature_details"] = {"feature_json_base_url": features_url}
    return {
        "metadata": metadata,
        "qParams": {
            "pinnedIds": [],
            "supernodes": [],
            "linkType": "both",
            "clickedId": "",
            "sg_pos": "",
        },
        "nodes": [
            node
            for node, keep in zip(nodes, kept.nodes.tolist(), strict=True)
            if keep
            and (node["node_id"] in linked or node["feature_type"] in ("embedding", "logit"))
        ],
        "links": links,
    }


def _nodes(graph: AttributionGraph, labels: Mapping[int, str]) -> list[dict[str, Any]]:
    """All nodes, in the order of the graph."""
    last = graph.n_tokens - 1
    features = graph.features.tolist()
    nodes = [
        _node(
            f"{layer}_{number}_{position}",
            f"{layer}_{number}-0",
            cantor_pair(layer, number),
            layer,
            position,
            "cross layer transcoder",
            clerp=labels.get(latent, "").translate(_SHOWN),
            activation=activation,
        )
        for (layer, position, number), latent, activation in zip(
            features, graph.latents.tolist(), graph.activations.tolist(), strict=True
        )
    ]
    for count, (i, j) in enumerate(graph.pairs.tolist()):
        (layer_i, position, number_i), (layer_j, _, number_j) = features[i], features[j]
        of_pair = f"pair_{layer_i}-{number_i}_{layer_j}-{number_j}"
        nodes.append(
            _node(
                f"{of_pair}_{position}",
                f"{of_pair}-0",
                -2 - count,  # front ends take nodes of one number for one feature; errors have -1
                max(layer_i, layer_j),
                position,
                "interaction",
                clerp=f"L{layer_i} #{number_i} \u00d7 L{layer_j} #{number_j}",
                activation=(graph.activations[i] * graph.activations[j]).item(),
            )
        )
    nodes += [
        _node(
            f"error_{layer}_{position}",
            f"error_{layer}_{position}-0",
            -1,
            layer,
            position,
            "mlp reconstruction error",
        )
        for layer in range(graph.n_layers)
        for position in range(graph.n_tokens)
    ]
    nodes += [
        _node(
            f"E_{token}_{position}", f"E_{token}-{position}", position, "E", position, "embedding"
        )
        for position, token in enumerate(graph.tokens.tolist())
    ]
    layer = graph.n_layers + 1
    for token, text, probability in zip(
        graph.logit_tokens.tolist(),
        graph.logit_texts,
        graph.logit_probabilities.tolist(),
        strict=True,
    ):
        node = _node(
            f"{layer}_{token}_{last}",
            f"L_{token}-{last}",
            token,
            layer,
            last,
            "logit",
            clerp=f'Output "{text.translate(_SHOWN)}" (p={probability:.3f})',
        )
        first = token == graph.logit_tokens[0]
        nodes.append(node | {"token_prob": probability, "is_target_logit": bool(first)})
    return nodes


def _node(
    node_id: str,
    js_node_id: str,
    feature: int,
    layer: int | str,
    position: int,
    feature_type: str,
    clerp: str = "",
    activation: float | None = None,
) -> dict[str, Any]:
    return {
        "node_id": node_id,
        "feature": feature,
        "layer": str(layer),
        "ctx_idx": position,
        "feature_type": feature_type,
        "token_prob": 0.0,
        "is_target_logit": False,
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "jsNodeId": js_node_id,
        "clerp": clerp,
        "influence": None,
        "activation": activation,
    }
