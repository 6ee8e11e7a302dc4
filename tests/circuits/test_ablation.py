"""Predicted effects of ablations against measured ones."""

import pytest
import torch

from sae_lens_poly.circuits.ablation import ablate_features, effects_over_all_paths
from sae_lens_poly.circuits.attribution import attribute
from sae_lens_poly.circuits.crosscoder_replacement import CrosscoderReplacement
from sae_lens_poly.circuits.settings import AttributionSettings
from tests.circuits.crosscoders import cross_layer
from tests.circuits.folders import DATA, load_model
from tests.circuits.test_attribution import CASES, case


@pytest.mark.parametrize("name", CASES)
def test_the_graph_says_what_ablations_do(name):
    """With thresholds of 0 or less no code jumps, and the local replacement model is linear."""
    model, replacement, reference = case(name)
    replacement.threshold.fill_(-1e9)
    graph = attribute(model, replacement, reference["tokens"])
    ablations = ablate_features(model, replacement, graph, n=30)
    torch.testing.assert_close(
        ablations.in_local_replacement, ablations.predicted, rtol=1e-3, atol=1e-4
    )
    assert ablations.correlations["local replacement model"] > 0.99
    assert abs(ablations.correlations["model"]) <= 1


def test_jumps_of_codes_change_little():
    model, replacement, reference = case("clt_rmsnorm")
    graph = attribute(model, replacement, reference["tokens"])
    ablations = ablate_features(model, replacement, graph, n=15)
    assert len(ablations.nodes) == 15
    assert ablations.correlations["local replacement model"] > 0.8


def test_a_latent_takes_its_pairs_along():
    """In the last layer nothing follows, so that pairs are predicted exactly."""
    model = load_model(DATA / "clt_layernorm")
    sae = cross_layer("degree 2", dtype="float32", code_limit=None, reads="2", writes="5", d_sae=20)
    replacement = CrosscoderReplacement(sae)
    tokens = torch.tensor([1, 5, 9, 33, 17])
    graph = attribute(model, replacement, tokens, AttributionSettings(max_pairs=1000))
    assert len(graph.pairs) > 5
    ablations = ablate_features(model, replacement, graph, n=10)
    torch.testing.assert_close(
        ablations.in_local_replacement, ablations.predicted, rtol=1e-3, atol=1e-3
    )


def test_effects_of_a_graph_by_hand():
    model, replacement, reference = case("clt_rmsnorm")
    graph = attribute(model, replacement, reference["tokens"])
    n = len(graph.features)
    A, z = graph.adjacency.double(), graph.activations.double()
    passed_on = A[:n, :n] / z[:, None]
    logit = A[graph.logit_nodes][1]
    inverse = torch.linalg.inv(torch.eye(n).double() - passed_on)
    expected = logit[:n] @ inverse
    got = effects_over_all_paths(graph, 1)[:n]
    torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-5)
