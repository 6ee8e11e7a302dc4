"""Whether attribution graphs say what ablating their features does, over several prompts.

    python benchmarks/graph_ablation.py FOLDER

Prompts are the beginnings of contexts that training has not read. For each the features with the
largest predicted effect on the most probable token's logit (less the mean logit) are ablated one at
a time, and predictions are compared with what is measured, by rank: in the local replacement model,
in which attention patterns, normalisation scales and errors are held, and in the model itself.
*direct* is the same with the edge to the logit alone for a prediction, *activation* with the
feature's activation: what a graph has to be better than. --help lists the options.
"""

from __future__ import annotations

import argparse
from statistics import mean, stdev
from typing import Any

import torch
from scipy.stats import spearmanr

from sae_lens_poly.circuits.ablation import ablate_features
from sae_lens_poly.circuits.attribution import attribute
from sae_lens_poly.circuits.crosscoder_replacement import CrosscoderReplacement
from sae_lens_poly.circuits.influence import score
from sae_lens_poly.dictionary_folder import load_dictionary
from sae_lens_poly.evaluation.saved import load_evaluation_data, model_of
from sae_lens_poly.evaluation.settings import EvaluationSettings
from sae_lens_poly.registration import register

COLUMNS = {
    "features": "{:.0f}",
    "replacement": "{:.3f}",
    "completeness": "{:.3f}",
    "local": "{:+.3f}",
    "model": "{:+.3f}",
    "direct, local": "{:+.3f}",
    "direct, model": "{:+.3f}",
    "activation, model": "{:+.3f}",
}


@torch.no_grad()
def figures(model: Any, replacement: Any, tokens: torch.Tensor, n: int) -> dict[str, float]:
    """Size and scores of the graph of one prompt, and rank correlations."""
    graph = attribute(model, replacement, tokens)
    ablations, scores = ablate_features(model, replacement, graph, n), score(graph)
    direct = -graph.adjacency[graph.logit_nodes][0, graph.feature_nodes][ablations.nodes]
    activations = graph.activations[ablations.nodes]

    def ranks(predicted: torch.Tensor, measured: torch.Tensor) -> float:
        return float(spearmanr(predicted, measured).statistic)

    return {
        "features": len(graph.features),
        "replacement": scores.replacement,
        "completeness": scores.completeness,
        "local": ablations.correlations["local replacement model"],
        "model": ablations.correlations["model"],
        "direct, local": ranks(direct, ablations.in_local_replacement),
        "direct, model": ranks(direct, ablations.in_model),
        "activation, model": ranks(-activations, ablations.in_model),
    }


def main() -> None:
    """Print a row for each prompt, and their mean."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="a transcoder or cross-layer transcoder")
    parser.add_argument("--n_prompts", type=int, default=16)
    parser.add_argument("--n_tokens", type=int, default=24, help="of a prompt, BOS among them")
    parser.add_argument("--n_ablations", type=int, default=100)
    options = parser.parse_args()
    register()
    sae = load_dictionary(options.folder, "cpu").to(torch.float32)
    stack = model_of(sae, options.folder, "cpu")
    model: Any = stack.model
    replacement = CrosscoderReplacement(sae)
    settings = EvaluationSettings(n_batches=1, batch_size_prompts=options.n_prompts)
    data = load_evaluation_data(sae, stack, settings)
    rows = []
    print("rank correlations of predicted with measured effects of ablations")
    print(f"{'prompt ends in':32} " + " ".join(COLUMNS))
    for tokens in data.batches[0][:, : options.n_tokens]:
        rows.append(figures(model, replacement, tokens, options.n_ablations))
        end = repr(model.tokenizer.decode(tokens.tolist()[-10:]))
        shown = (form.format(rows[-1][name]).rjust(len(name)) for name, form in COLUMNS.items())
        print(f"{end[-32:]:32} " + " ".join(shown), flush=True)
    for kind, of in (("mean", mean), ("standard error", lambda v: stdev(v) / len(v) ** 0.5)):
        shown = (
            form.format(of([row[name] for row in rows])).rjust(len(name))
            for name, form in COLUMNS.items()
        )
        print(f"{kind:32} " + " ".join(shown))


if __name__ == "__main__":
    main()
