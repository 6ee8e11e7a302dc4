"""Interaction analysis against plain loops and finite differences."""

import numpy as np
import pytest
import torch
from scipy.stats import rankdata

from sae_lens_poly import InputError
from sae_lens_poly.analysis.interactions import (
    CoOccurrence,
    degree_shares,
    gram_strengths,
    interaction_correlations,
    pair_contribution,
    pair_strengths,
    pair_terms,
    random_pairs,
    random_projection_strengths,
    strongest_pairs,
    typical_activations,
    without_degrees,
)
from sae_lens_poly.analysis.steering import add_to_residual, interaction_direction
from tests.architectures.poly_saes import D_IN, D_SAE, activations, poly_sae, randomise

FORMS = ["codes", "reconstruction", "shared_u", "official", "no self-terms", "no self-terms P"]


@pytest.fixture(params=FORMS)
def sae(request):
    made = poly_sae(form=request.param, dtype="float64", code_limit=None)
    made.scale_codes_from_(activations(dtype=torch.float64))
    return randomise(made)


def one_hot(*latents):
    z = torch.zeros(1, D_SAE, dtype=torch.float64)
    z[0, list(latents)] = 1.0
    return z


@torch.no_grad()
def test_b_is_the_mixed_difference_of_the_quadratic_term(sae):
    pairs = torch.tensor([[0, 1], [3, 17], [39, 5]])
    B = pair_terms(sae, pairs)
    for b, (i, j) in zip(B, pairs.tolist(), strict=True):
        y2 = [sae.degree_terms(one_hot(*on))[2][0] for on in ((i, j), (i,), (j,))]
        torch.testing.assert_close(b.double(), y2[0] - y2[1] - y2[2], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(pair_strengths(sae, pairs), B.norm(dim=-1))
    z = sae.encode(activations(dtype=torch.float64))
    contribution = pair_contribution(sae, z, 3, 17)
    torch.testing.assert_close(contribution, (z[:, 3] * z[:, 17])[:, None] * B[1].double())


@torch.no_grad()
def test_strongest_pairs_are_those_of_the_whole_matrix(sae, monkeypatch):
    scales = torch.rand(D_SAE)
    pairs = random_pairs(D_SAE, 10**6)
    assert len(pairs) == D_SAE * (D_SAE - 1) // 2
    for scale, working_set in ((None, 2**23), (scales, 1000)):
        monkeypatch.setattr("sae_lens_poly.analysis.interactions._WORKING_SET", working_set)
        strengths = pair_strengths(sae, pairs)
        if scale is not None:
            strengths = strengths * scale[pairs[:, 0]] * scale[pairs[:, 1]]
        wanted = strengths.topk(20)
        top = strongest_pairs(sae, 20, scale)
        torch.testing.assert_close(top.strengths, wanted.values, rtol=1e-4, atol=1e-6)
        found = {frozenset(pair) for pair in top.pairs.tolist()}
        assert found == {frozenset(pair) for pair in pairs[wanted.indices].tolist()}


@torch.no_grad()
def test_ablation_and_shares(sae):
    z = sae.encode(activations(dtype=torch.float64))
    terms = sae.degree_terms(z)
    with without_degrees(sae):
        torch.testing.assert_close(sae.decode(z), terms[1] + sae.b_dec)
    with without_degrees(sae, [2]):
        torch.testing.assert_close(sae.decode(z), terms[1] + terms[3] + sae.b_dec)
    torch.testing.assert_close(sae.decode(z), sum(terms.values()) + sae.b_dec)
    assert sum(degree_shares(sae, z).values()) == pytest.approx(1)


@torch.no_grad()
def test_co_occurrence_streams_and_correlations_have_their_controls(sae):
    z = sae.encode(activations(n=256, dtype=torch.float64))
    pairs = random_pairs(D_SAE, 300)
    assert len(pairs.unique(dim=0)) == 300
    assert (pairs[:, 0] < pairs[:, 1]).all()
    counter = CoOccurrence(pairs)
    for batch in z.split(100):
        counter.update(batch.to_sparse())
    i, j = pairs.T
    joint = ((z[:, i] > 0) & (z[:, j] > 0)).sum(dim=0)
    torch.testing.assert_close(counter.counts, joint.double())
    covariance = torch.cov(z.T, correction=0)[i, j]
    torch.testing.assert_close(counter.covariances(), covariance, rtol=1e-4, atol=1e-6)
    correlations = interaction_correlations(sae, counter)
    assert list(correlations) == ["B", "decoder Gram", "random projection", "covariance of codes"]
    directions = sae.latent_directions()
    gram = (directions[i] * directions[j]).sum(-1).abs()
    torch.testing.assert_close(gram_strengths(sae, pairs), gram.float())
    drawn = [random_projection_strengths(sae, pairs, seed) for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.allclose(drawn[0], drawn[2], rtol=0.1)
    strengths = {
        "B": pair_terms(sae, pairs).norm(dim=-1),
        "decoder Gram": gram,
        "random projection": drawn[0],
        "covariance of codes": covariance.abs(),
    }
    for name, values in strengths.items():
        for kind, ranked in (("pearson", lambda a: a), ("spearman", rankdata)):
            r = np.corrcoef(ranked(values.numpy()), ranked(joint.numpy()))[0, 1]
            assert correlations[name][kind] == pytest.approx(r, abs=1e-3)
    typical = typical_activations(z.split(100))
    torch.testing.assert_close(typical.double(), z.square().mean(dim=0).sqrt(), check_dtype=False)


@pytest.mark.parametrize(
    ("pairs", "words"),
    [([[0, 40]], "outside 0 to 39"), ([[3, 3]], "with itself"), ([0, 1], "shape")],
)
def test_wrong_pairs(pairs, words):
    with pytest.raises(InputError, match=words):
        pair_terms(poly_sae(), torch.tensor(pairs))


@pytest.mark.parametrize("form", ["order 1", "powers"])
def test_decoders_without_pairs(form):
    with pytest.raises(InputError, match="interact"):
        strongest_pairs(poly_sae(form=form), 3)


@torch.no_grad()
def test_steering_direction_is_what_both_latents_add(sae):
    direction = interaction_direction(sae, 4, 9)
    torch.testing.assert_close(direction.linear, sae.latent_directions()[[4, 9]].sum(dim=0).float())
    # Both at activation 2, less what each adds alone in degree 2: degree 3 aside.
    terms = [sae.degree_terms(2 * one_hot(*on)) for on in ((4, 9), (4,), (9,))]
    added = terms[0][1] + terms[0][2] - terms[1][2] - terms[2][2]
    torch.testing.assert_close(direction.at(2.0).double(), added[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(direction.at(2.0, pair_strength=0), 2 * direction.linear)
    x = torch.zeros(2, 3, D_IN)
    assert torch.equal(add_to_residual(direction.pair)(x, None)[1, 2], direction.pair)
    assert direction.pair.abs().max() > 0


def test_steering_needs_raw_units():
    sae = poly_sae(normalize_activations="layer_norm", aux_loss_coefficient=0.0)
    with pytest.raises(InputError, match="normalize_activations='layer_norm'"):
        interaction_direction(sae, 0, 1)
