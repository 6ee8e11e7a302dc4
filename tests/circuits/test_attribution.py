"""Graphs against those of circuit-tracer, and against the model itself."""

import pytest
import torch
from safetensors.torch import load_file

from sae_lens_poly import InputError
from sae_lens_poly.circuits.attribution import attribute
from sae_lens_poly.circuits.influence import prune, score
from sae_lens_poly.circuits.settings import AttributionSettings, PruningSettings
from tests.circuits.folders import DATA, FolderReplacement, load_model

CASES = ["clt_layernorm", "clt_rmsnorm", "transcoder_set_layernorm"]
CLOSE = {"rtol": 0, "atol": 1e-4}


def case(name):
    model = load_model(DATA / name)
    replacement = FolderReplacement(DATA / name / "transcoder", model)
    return model, replacement, load_file(DATA / name / "reference.safetensors")


def graph_of(name, **settings):
    model, replacement, reference = case(name)
    n_logits = len(reference["logit_token_ids"])
    fields = {"max_logits": n_logits, "logit_probability": 1.0, **settings}
    return attribute(model, replacement, reference["tokens"], AttributionSettings(**fields))


@pytest.mark.parametrize("name", CASES)
def test_circuit_tracers_graph(name):
    graph, reference = graph_of(name), case(name)[2]
    assert torch.equal(graph.features, reference["active_features_layer_pos_feature"])
    assert torch.equal(graph.logit_tokens, reference["logit_token_ids"])
    for ours, theirs in {
        "activations": "activation_values",
        "logit_probabilities": "logit_probabilities",
        "adjacency": "adjacency_matrix",
    }.items():
        torch.testing.assert_close(getattr(graph, ours), reference[theirs], **CLOSE)


@pytest.mark.parametrize("name", CASES)
def test_circuit_tracers_pruning_and_scores(name):
    graph, reference = graph_of(name), case(name)[2]
    pruned, scores = prune(graph), score(graph)
    assert torch.equal(pruned.nodes, reference["prune_node_mask"])
    assert torch.equal(pruned.edges, reference["prune_edge_mask"])
    expected = reference["prune_cumulative_scores"]
    torch.testing.assert_close(pruned.cumulative_influence, expected, **CLOSE)
    assert scores.replacement == pytest.approx(reference["replacement_score"].item(), abs=1e-4)
    assert scores.completeness == pytest.approx(reference["completeness_score"].item(), abs=1e-4)


@pytest.mark.parametrize("name", CASES[1:])
def test_circuit_tracers_choice_of_a_few_features(name):
    few = load_file(DATA / name / "few_features.safetensors")
    graph = graph_of(name, max_features=24, batch_size=1)
    assert torch.equal(graph.features, graph_of(name).features[few["selected_features"]])
    torch.testing.assert_close(graph.adjacency, few["adjacency_matrix"], **CLOSE)


def test_rows_add_up_to_pre_activations():
    """With biases and position embeddings at 0, sources are all that there is."""
    model, replacement, reference = case("transcoder_set_layernorm")
    for name, parameter in model.named_parameters():
        if ".b" in name or "W_pos" in name:
            parameter.zero_()
    replacement = FolderReplacement(DATA / "transcoder_set_layernorm" / "transcoder", model)
    replacement.b_dec.zero_()
    tokens = reference["tokens"]
    graph = attribute(model, replacement, tokens, AttributionSettings(n_left_out=0))
    sums = graph.adjacency.sum(dim=1)
    bias = replacement.b_enc[graph.latents]
    torch.testing.assert_close(sums[graph.feature_nodes] + bias, graph.activations, **CLOSE)
    logits = model(tokens[None])[0, -1]
    expected = (logits - logits.mean())[graph.logit_tokens]
    torch.testing.assert_close(sums[graph.logit_nodes], expected, **CLOSE)


def test_batches_of_another_size_change_nothing():
    expected = graph_of("clt_rmsnorm")
    for batch_size in (1, 7):
        adjacency = graph_of("clt_rmsnorm", batch_size=batch_size).adjacency
        torch.testing.assert_close(adjacency, expected.adjacency, **CLOSE)


def test_the_model_is_left_as_it_was():
    model, replacement, reference = case("clt_rmsnorm")
    before = model(reference["tokens"][None])
    with torch.no_grad():
        attribute(model, replacement, reference["tokens"])
    assert torch.equal(model(reference["tokens"][None]), before)
    assert not any(point.has_hooks() for point in model.hook_dict.values())


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"max_logits": 0}, "max_logits"),
        ({"logit_probability": 1.5}, "logit_probability"),
        ({"max_features": 2.5}, "max_features"),
        ({"batch_size": -1}, "batch_size"),
        ({"n_left_out": 5}, "n_left_out"),
    ],
)
def test_wrong_settings(fields, field):
    with pytest.raises(InputError, match=field):
        graph_of("clt_rmsnorm", **fields)


def test_wrong_thresholds():
    with pytest.raises(InputError, match=r"node_threshold=1\.2"):
        PruningSettings(node_threshold=1.2)


def test_another_model_is_refused():
    _, replacement, reference = case("clt_layernorm")
    model = load_model(DATA / "clt_rmsnorm")
    with pytest.raises(InputError, match="no hook point"):
        attribute(model, replacement, reference["tokens"])
    with pytest.raises(InputError, match="HookedTransformer"):
        attribute(torch.nn.Linear(1, 1), replacement, reference["tokens"])
