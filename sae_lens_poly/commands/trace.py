"""``trace``: the attribution graph of a prompt."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any

from sae_lens_poly.circuits.settings import AttributionSettings, PruningSettings
from sae_lens_poly.commands.export import DICTIONARY_FILES
from sae_lens_poly.commands.parser import Parser, add_settings, given_settings
from sae_lens_poly.constraints import Number, Text, check_value
from sae_lens_poly.devices import check_device
from sae_lens_poly.paths import RUN_FOLDER, check_can_write, check_folder


def trace(flags: Sequence[str]) -> int:
    """Trace a prompt through a saved dictionary, print what matters, and write the graph.

    Returns:
        The exit status.

    Raises:
        InputError: If a flag is wrong, or the dictionary or its model cannot be loaded or traced.
    """
    parser = Parser(
        "trace",
        description="The graph opens in circuit-tracer's front end and in Neuronpedia.",
    )
    parser.add_argument("folder", help="where a transcoder or cross-layer transcoder was saved")
    parser.add_argument("--prompt", required=True, help="the text whose next token is explained")
    parser.add_argument("--output", default="graphs", help="folder of graphs; graphs by default")
    parser.add_argument("--slug", help="name of the graph's file; made of the prompt by default")
    parser.add_argument("--scan", help="what the graph names as its model; the model's by default")
    parser.add_argument("--features_url", help="where its feature files are, for Neuronpedia")
    parser.add_argument(
        "--feature_files",
        action="store_true",
        help="write examples and logits of each feature, from text that training left out, and "
        "make --scan point to them",
    )
    parser.add_argument("--n_ablations", type=int, default=100, help="features ablated as a check")
    parser.add_argument("--device", default="cpu")
    for kind in (AttributionSettings, PruningSettings):
        add_settings(parser, kind)
    options = parser.parse_args(flags)
    settings = given_settings(AttributionSettings, options)
    pruning = given_settings(PruningSettings, options)
    check_value("prompt", options.prompt, Text())
    check_value("n_ablations", options.n_ablations, Number(at_least=0, whole=True))
    check_folder("folder", options.folder, DICTIONARY_FILES, RUN_FOLDER)
    check_can_write("output", options.output)
    check_device("device", options.device)
    slug = options.slug or re.sub(r"\W+", "-", options.prompt).strip("-")[:50] or "prompt"
    print(f"loading {options.folder} ...", file=sys.stderr)

    import torch

    from sae_lens_poly.circuits.ablation import ablate_features
    from sae_lens_poly.circuits.attribution import attribute
    from sae_lens_poly.circuits.crosscoder_replacement import CrosscoderReplacement
    from sae_lens_poly.circuits.graph_features import local_scan, save_graph_features
    from sae_lens_poly.circuits.graph_files import check_slug, save_graph
    from sae_lens_poly.circuits.influence import prune
    from sae_lens_poly.circuits.report import print_ablations, print_graph
    from sae_lens_poly.dictionary_folder import load_dictionary
    from sae_lens_poly.evaluation.saved import load_evaluation_data, model_of
    from sae_lens_poly.evaluation.settings import EvaluationSettings
    from sae_lens_poly.registration import register

    register()
    check_slug(slug)
    sae = load_dictionary(options.folder, options.device).to(torch.float32)
    replacement = CrosscoderReplacement(sae)
    stack = model_of(sae, options.folder, options.device)
    model: Any = stack.model
    prepend_bos = sae.cfg.metadata.prepend_bos is not False
    tokens = model.to_tokens(options.prompt, prepend_bos, truncate=False)[0]
    graph = attribute(model, replacement, tokens, settings)
    kept = prune(graph, pruning)
    print_graph(graph, kept)
    if options.n_ablations:
        print_ablations(ablate_features(model, replacement, graph, options.n_ablations))
    scan, labels = options.scan or sae.cfg.metadata.model_name, None
    if options.feature_files:
        scan = options.scan or local_scan(slug)
        data = load_evaluation_data(sae, stack, EvaluationSettings())
        labels = save_graph_features(graph, kept, sae, data, options.output, slug)
        print(f"{len(labels)} feature files in {options.output}/features/{slug}")
    path = save_graph(graph, options.output, slug, scan, pruning, options.features_url, labels)
    print(f"written to {path}")
    return 0
