"""Crosscoders in graphs: linear ones are circuit-tracer's, polynomial ones have pairs."""

import pytest
import torch
from safetensors.torch import load_file

from sae_lens_poly import InputError
from sae_lens_poly.analysis.interactions import pair_terms
from sae_lens_poly.circuits.attribution import attribute
from sae_lens_poly.circuits.crosscoder_replacement import CrosscoderReplacement
from sae_lens_poly.circuits.frozen_run import FrozenRun
from sae_lens_poly.circuits.graph_files import graph_json
from sae_lens_poly.circuits.influence import prune
from sae_lens_poly.circuits.settings import AttributionSettings, PruningSettings
from tests.circuits.crosscoders import cross_layer, names_of
from tests.circuits.folders import DATA, FolderReplacement, load_model
from tests.circuits.test_attribution import CLOSE

TOKENS = torch.tensor([1, 5, 9, 33, 17])


@pytest.fixture(scope="module")
def model():
    return load_model(DATA / "clt_layernorm")


def as_crosscoder(folder, model):
    """A crosscoder with the weights of a circuit-tracer folder."""
    theirs = FolderReplacement(folder, model)
    n = len(theirs.read_hooks)
    sae = cross_layer(n_layers=n, d_sae=len(theirs.read_of), dtype="float32")
    sae.threshold.copy_(theirs.threshold)
    sae.b_enc.copy_(theirs.b_enc)
    sae.b_dec.zero_()
    sae.per_hook(sae.b_dec)[n:] = theirs.b_dec
    d_model, latents = theirs.W_enc.shape[-1], torch.arange(len(theirs.read_of))
    W_enc, W_dec = torch.zeros(2, len(latents), 2 * n, d_model)
    W_enc[latents, theirs.read_of] = theirs.W_enc
    W_dec[:, n:] = theirs.W_dec
    sae.encoder_weights.take_dense_(W_enc.flatten(1))
    sae.decoder_weights.take_dense_(W_dec.flatten(1))
    return sae


def test_a_crosscoder_with_circuit_tracers_weights(model):
    sae = as_crosscoder(DATA / "clt_layernorm" / "transcoder", model)
    settings = AttributionSettings(max_logits=4, logit_probability=1.0)
    graph = attribute(model, CrosscoderReplacement(sae), TOKENS, settings)
    reference = load_file(DATA / "clt_layernorm" / "reference.safetensors")
    assert torch.equal(graph.features, reference["active_features_layer_pos_feature"])
    torch.testing.assert_close(graph.adjacency, reference["adjacency_matrix"], **CLOSE)


def poly_graph(model, decoder="degree 3", max_pairs=500, **settings):
    replacement = CrosscoderReplacement(cross_layer(decoder, dtype="float32"))
    return attribute(
        model, replacement, TOKENS, AttributionSettings(max_pairs=max_pairs, **settings)
    )


@pytest.mark.parametrize("decoder", ["degree 2", "degree 3", "no self-terms", "powers"])
@pytest.mark.parametrize("max_pairs", [0, 5, 10_000])
def test_rows_add_up_whatever_the_number_of_pairs(model, decoder, max_pairs):
    """What pairs that are not shown write is with their latents."""
    whole = poly_graph(model, decoder, max_pairs=10_000)
    graph = poly_graph(model, decoder, max_pairs=max_pairs)
    assert len(graph.pairs) == min(max_pairs, len(whole.pairs))
    assert bool(len(whole.pairs)) == (decoder != "powers")
    for nodes in ("feature_nodes", "logit_nodes"):
        sums = [of.adjacency[getattr(of, nodes)].sum(dim=1) for of in (graph, whole)]
        assert (sums[0] - sums[1]).abs().max() < 1e-4 * whole.adjacency.abs().max()


def test_the_edges_of_a_pair_are_of_what_it_writes(model):
    """In degree 2 ``z_i z_j B_ij``, by the gradient of the target; both latents act on it alike."""
    sae = cross_layer("degree 2", dtype="float32", code_limit=None)
    replacement = CrosscoderReplacement(sae)
    graph = attribute(model, replacement, TOKENS, AttributionSettings(max_pairs=10_000))
    run = FrozenRun(model, replacement, TOKENS, 1)
    end, last = torch.tensor([len(replacement.read_hooks)]), torch.tensor([len(TOKENS) - 1])
    W_U = model.W_U
    direction = W_U[:, graph.logit_tokens[:1]] - W_U.mean(dim=-1, keepdim=True)
    on_outputs = run.gradients(end, last, direction.T)[1][0]
    for node in range(0, len(graph.pairs), 50):
        i, j = pair = graph.pairs[node]
        product, position = graph.activations[pair].prod(), graph.features[i, 1]
        assert position == graph.features[j, 1]
        together = product * sae.per_hook(pair_terms(sae, graph.latents[pair][None]))[0, 3:]
        expected = (on_outputs[position] * together).sum()
        column = graph.adjacency[:, graph.pair_nodes][:, node]
        torch.testing.assert_close(column[graph.logit_nodes][0], expected, rtol=1e-3, atol=1e-4)
        row = graph.adjacency[graph.pair_nodes][node]
        assert row.nonzero().flatten().tolist() == pair.tolist()
        torch.testing.assert_close(row[pair], (product / 2).expand(2))


def test_pairs_in_files_and_in_pruning(model):
    graph = poly_graph(model)
    kept = prune(graph)
    for pair, keep in zip(graph.pairs, kept.nodes[graph.pair_nodes], strict=True):
        if keep:
            assert kept.nodes[pair].any()
    content = graph_json(graph, "a", "tiny", pruning=PruningSettings(1, 1))
    pairs = [node for node in content["nodes"] if node["feature_type"] == "interaction"]
    assert len(pairs) > 100  # all but those that lead nowhere
    assert len({node["feature"] for node in pairs}) == len(pairs)
    ids = {node["node_id"] for node in content["nodes"]}
    for node in pairs:
        _, first, second, position = node["node_id"].split("_")
        for latent in (first, second):
            assert f"{latent.replace('-', '_')}_{position}" in ids


def test_pairs_whose_latents_are_not_among_the_features_go(model):
    graph = poly_graph(model, max_features=20)
    assert len(graph.features) == 20
    assert graph.pairs.max() < 20
    assert graph.adjacency.shape == (graph.logit_nodes.stop,) * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hook_names": names_of(3)[:5]}, "6 hook points and 5"),
        ({"hook_names": [f"blocks.{i}.hook_resid_post" for i in range(6)]}, "hook_mlp_out"),
        ({"hook_names": ["hook_embed", *names_of(3)[1:]]}, "no layer"),
        ({"structure": "acausal", "reads": None, "writes": None}, "reads several hook points"),
        ({"reads": "0;1;2", "writes": "3..5"}, "a layer before"),
        ({"reads": "0;1;3", "writes": "5"}, "reads behind an MLP"),
        ({"hook_names": names_of(3, "hook_resid_post")}, "reads behind an MLP"),
        ({"reads": "0;1;2", "writes": "2,5"}, "writes the input of an MLP"),
    ],
)
def test_what_is_no_replacement_of_mlps_is_refused(change, message):
    names = change.pop("hook_names", None)
    with pytest.raises(InputError, match=message):
        CrosscoderReplacement(cross_layer(**change), names)
