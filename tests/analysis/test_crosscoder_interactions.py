"""Interaction analysis of crosscoders: several hook points, factored weights, causal structures."""

import pytest
import torch
from scipy.stats import pearsonr

from sae_lens_poly.analysis.interactions import (
    CoOccurrence,
    gram_strengths,
    interaction_correlations,
    pair_strengths,
    pair_terms,
    random_pairs,
    random_projection_strengths,
    strongest_pairs,
    without_degrees,
)
from tests.architectures.dictionaries import (
    D_SAE,
    activations,
    randomise,
    training_dictionary,
)

CP = {"encoder_weights": "cp", "decoder_weights": "cp", "encoder_ranks": [6], "decoder_ranks": [6]}
RING = {
    "encoder_weights": "tensor_ring",
    "decoder_weights": "tensor_ring",
    "encoder_ranks": [2, 4, 2],
    "decoder_ranks": [2, 4, 2],
}
FORMS = {
    "dense": {},
    "cp": CP,
    "tensor ring": RING,
    "through the reconstruction": {"projection": "reconstruction"},
    "no self-terms": {"self_terms": False},
    "weakly causal": {"structure": "weakly_causal"},
    "weakly causal, cp": {"structure": "weakly_causal", **CP},
    "strictly causal": {"structure": "strictly_causal", "projection": "reconstruction"},
    "side by side": {"structure": "free", "reads": "0;1;2", "writes": "0;1;2"},
}


@pytest.fixture(params=FORMS)
def sae(request):
    made = training_dictionary(dtype="float64", code_limit=None, **FORMS[request.param])
    made.initialise_from_batch_(activations(dtype=torch.float64))
    return randomise(made).to_inference()


def one_hot(*latents):
    z = torch.zeros(1, D_SAE, dtype=torch.float64)
    z[0, list(latents)] = 1.0
    return z


def mixed_difference(sae, i, j):
    y2 = [sae.degree_terms(one_hot(*on))[2][0] for on in ((i, j), (i,), (j,))]
    return y2[0] - y2[1] - y2[2]


@torch.no_grad()
def test_b_is_the_mixed_difference_of_the_quadratic_term(sae):
    pairs = torch.tensor([[0, 1], [3, 40], [63, 5], [30, 62], [25, 26]])
    B = pair_terms(sae, pairs)
    expected = torch.stack([mixed_difference(sae, i, j) for i, j in pairs.tolist()])
    size = expected.abs().max().item()
    torch.testing.assert_close(B.double(), expected, rtol=1e-4, atol=1e-6 * size)
    torch.testing.assert_close(pair_strengths(sae, pairs), B.norm(dim=-1), rtol=1e-4, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("working_set", [2**23, 1000])
def test_strongest_pairs_are_those_of_the_whole_matrix(sae, monkeypatch, working_set):
    monkeypatch.setattr("sae_lens_poly.analysis.interactions._WORKING_SET", working_set)
    pairs = random_pairs(D_SAE, 10**6)
    strengths = pair_strengths(sae, pairs)
    wanted = strengths.topk(20)
    top = strongest_pairs(sae, 20)
    torch.testing.assert_close(top.strengths, wanted.values, rtol=1e-4, atol=0)
    found = {frozenset(pair) for pair in top.pairs.tolist()}
    assert found == {frozenset(pair) for pair in pairs[wanted.indices].tolist()}


@torch.no_grad()
def test_correlations_and_controls(sae):
    z = sae.encode(activations(dtype=torch.float64))
    pairs = random_pairs(D_SAE, 200)
    counter = CoOccurrence(pairs)
    for batch in z.split(200):
        counter.update(batch)
    i, j = pairs.T
    joint = ((z[:, i] > 0) & (z[:, j] > 0)).sum(dim=0).double()
    torch.testing.assert_close(counter.counts, joint)
    directions = sae.latent_directions()
    gram = (directions[i] * directions[j]).sum(-1).abs().float()
    torch.testing.assert_close(gram_strengths(sae, pairs), gram)
    expected = torch.stack([mixed_difference(sae, *pair) for pair in pairs.tolist()]).norm(dim=-1)
    correlations = interaction_correlations(sae, counter)
    assert correlations["B"]["pearson"] == pytest.approx(
        pearsonr(expected.numpy(), joint.numpy()).statistic, abs=1e-3
    )
    drawn = random_projection_strengths(sae, pairs)
    assert torch.equal(drawn == 0, pair_strengths(sae, pairs) == 0)
    with without_degrees(sae):
        torch.testing.assert_close(sae.decode(z), sae.degree_terms(z)[1] + sae.b_dec)


@torch.no_grad()
def test_latents_that_write_no_hook_point_together_do_not_interact():
    sae = randomise(training_dictionary(**FORMS["side by side"])).to_inference()
    first, second, _ = sae.structure.groups
    pairs = torch.tensor([[first.start, second.start], [first.start, first.start + 1]])
    apart, together = pair_strengths(sae, pairs)
    assert apart == 0 < together
    assert pair_terms(sae, pairs)[1, sae.d_model :].abs().max() == 0
