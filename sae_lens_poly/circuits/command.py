"""``python -m sae_lens_poly trace``: the attribution graph of a prompt."""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sae_lens_poly.architectures.crosscoder import Crosscoder
from sae_lens_poly.circuits.ablation import ablate_features, effects_over_all_paths
from sae_lens_poly.circuits.attribution import attribute
from sae_lens_poly.circuits.crosscoder_replacement import CrosscoderReplacement
from sae_lens_poly.circuits.frozen_run import check_fit
from sae_lens_poly.circuits.graph import AttributionGraph
from sae_lens_poly.circuits.graph_features import LOCAL_SCAN, save_graph_features
from sae_lens_poly.circuits.graph_files import save_graph
from sae_lens_poly.circuits.influence import Pruned, prune, score
from sae_lens_poly.circuits.settings import AttributionSettings, PruningSettings
from sae_lens_poly.dictionary_folder import load_dictionary
from sae_lens_poly.errors import InputError
from sae_lens_poly.evaluation.saved import load_evaluation_data, model_of
from sae_lens_poly.evaluation.settings import EvaluationSettings

#: How many features and pairs are printed.
_N_PRINTED = 8


def trace(flags: Sequence[str]) -> None:
    """Trace a prompt through a saved dictionary, print what matters, and write the graph."""
    parser = argparse.ArgumentParser(
        prog="python -m sae_lens_poly trace",
        description="The graph opens in circuit-tracer's front end and in Neuronpedia.",
    )
    parser.add_argument("folder", help="where a transcoder or cross-layer transcoder was saved")
    parser.add_argument("--prompt", required=True, help="the text whose next token is explained")
    parser.add_argument(
        "--output", default="graphs", help="folder of the graphs; graphs by default"
    )
    parser.add_argument("--slug", help="name of the graph's file; made of the prompt by default")
    parser.add_argument("--scan", help="what the graph names as its model; the model's by default")
    parser.add_argument("--features_url", help="where its feature files are, for Neuronpedia")
    parser.add_argument(
        "--feature_files",
        action="store_true",
        help="write examples and logits of each feature, from text that training left out, and "
        "make --scan point to them",
    )
    parser.add_argument("--n_ablations", type=int, default=20, help="features ablated as a check")
    parser.add_argument("--device", default="cpu")
    for kind in (AttributionSettings, PruningSettings):
        for field in dataclasses.fields(kind):
            parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    options = parser.parse_args(flags)
    settings, pruning = (
        _settings(kind, options) for kind in (AttributionSettings, PruningSettings)
    )
    sae = load_dictionary(options.folder, options.device).to(torch.float32)
    if not isinstance(sae, Crosscoder):
        raise InputError(
            f"{options.folder!r} holds architecture={sae.cfg.architecture()!r}, and graphs need a "
            "crosscoder from inputs of MLPs to their outputs"
        )
    replacement = CrosscoderReplacement(sae)
    stack = model_of(sae, options.folder, options.device)
    model: Any = stack.model
    check_fit(model, replacement)
    prepend_bos = sae.cfg.metadata.prepend_bos
    tokens = model.to_tokens(options.prompt, prepend_bos=prepend_bos is not False)[0]
    graph = attribute(model, replacement, tokens, settings)
    kept = prune(graph, pruning)
    _print_graph(graph, kept)
    if options.n_ablations > 0:
        ablations = ablate_features(model, replacement, graph, options.n_ablations)
        for kind, correlation in ablations.correlations.items():
            print(
                f"ablating {len(ablations.nodes)} features, predicted against measured in the "
                f"{kind}: rank correlation {correlation:.3f}"
            )
    slug = options.slug or re.sub(r"\W+", "-", options.prompt).strip("-")[:50] or "prompt"
    scan = options.scan or (LOCAL_SCAN if options.feature_files else sae.cfg.metadata.model_name)
    if options.feature_files:
        data = load_evaluation_data(sae, stack, EvaluationSettings())
        n = save_graph_features(graph, kept, sae, data, options.output, Path(options.folder).name)
        print(f"{n} feature files in {Path(options.output) / 'features'}")
    path = save_graph(graph, options.output, slug, scan, pruning, options.features_url)
    print(f"written to {path}")


def _settings(kind: Any, options: argparse.Namespace) -> Any:
    return kind(**{field.name: getattr(options, field.name) for field in dataclasses.fields(kind)})


def _print_graph(graph: AttributionGraph, kept: Pruned) -> None:
    print("prompt: " + " ".join(map(repr, graph.token_texts)))
    probabilities = zip(graph.logit_texts, graph.logit_probabilities.tolist(), strict=True)
    print("next: " + ", ".join(f"{text!r} {share:.1%}" for text, share in probabilities))
    scores = score(graph)
    for name, nodes in {
        "features": graph.feature_nodes,
        "pairs": graph.pair_nodes,
        "errors": graph.error_nodes,
    }.items():
        print(f"{name}: {nodes.stop - nodes.start}, {int(kept.nodes[nodes].sum())} after pruning")
    print(f"edges: {int(kept.edges.sum())} after pruning")
    print(f"replacement score {scores.replacement:.3f}, completeness {scores.completeness:.3f}")
    effects = effects_over_all_paths(graph)
    print(f"effects on {graph.logit_texts[0]!r}, less the mean logit, over all paths:")
    for node in effects[graph.feature_nodes].abs().argsort(descending=True)[:_N_PRINTED].tolist():
        print(f"  {effects[node]:+8.3f}  {_name(graph, node)} at {_text(graph, node)}")
    pairs = effects[graph.pair_nodes]
    for number in pairs.abs().argsort(descending=True)[:_N_PRINTED].tolist():
        i, j = graph.pairs[number].tolist()
        names = f"{_name(graph, i)} with {_name(graph, j)}"
        print(f"  {pairs[number]:+8.3f}  {names} at {_text(graph, i)}")


def _name(graph: AttributionGraph, feature: int) -> str:
    layer, _, number = graph.features[feature].tolist()
    return f"layer {layer} #{number}"


def _text(graph: AttributionGraph, feature: int) -> str:
    return repr(graph.token_texts[int(graph.features[feature, 1])])
