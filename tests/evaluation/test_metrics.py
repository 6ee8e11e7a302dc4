"""Streaming metrics equal the same figure from all data at once, however it is cut."""

import numpy as np
import pytest
import torch

from sae_lens_poly.evaluation.metrics import (
    ActivityFigures,
    CosineSimilarity,
    DegreeShares,
    ExplainedVariance,
    LatentActivity,
    MeanSquaredError,
)
from tests.architectures.dictionaries import training_dictionary

X = torch.randn(90, 3, 5) * torch.tensor([1.0, 10.0, 100.0])[:, None] + 2
X_HAT = X + torch.randn(90, 3, 5) * torch.tensor([0.3, 5.0, 20.0])[:, None]
SCALES = torch.tensor([1.0, 0.1, 0.02])
CUTS = [[90], [1, 30, 59]]


@pytest.mark.parametrize("cuts", CUTS)
def test_explained_variance(cuts):
    metric = ExplainedVariance(SCALES)
    for x, x_hat in zip(X.split(cuts), X_HAT.split(cuts), strict=True):
        metric.update(x, x_hat)
    per_hook, pooled = metric.compute()
    error = (X - X_HAT).double().pow(2).sum((0, 2))
    total = (X - X.mean(0)).double().pow(2).sum((0, 2))
    assert per_hook == pytest.approx((1 - error / total).tolist(), abs=1e-5)
    squared = SCALES.double() ** 2
    expected = 1 - (error * squared).sum() / (total * squared).sum()
    assert pooled == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("cuts", CUTS)
def test_latent_activity(cuts):
    codes = torch.zeros(90, 4)
    codes[::2, 0] = 1.0
    codes[5, 2] = 0.1
    metric = LatentActivity(4)
    for part in codes.split(cuts):
        metric.update(part)
    assert metric.compute() == (46 / 90, 2)


@pytest.mark.parametrize("cuts", CUTS)
def test_degree_shares(cuts):
    terms = {1: X, 2: 0.1 * X_HAT, 3: -0.2 * X}
    metric = DegreeShares()
    for start, n in zip([0, cuts[0], sum(cuts[:2])], cuts, strict=False):
        metric.update({d: t[start : start + n] for d, t in terms.items()})
    shares = metric.compute()
    whole = sum(terms.values())
    for degree, term in terms.items():
        expected = (term * whole).double().sum((0, 2)) / whole.double().pow(2).sum((0, 2))
        assert shares[degree] == pytest.approx(expected.tolist())
    assert [sum(s) for s in zip(*shares.values(), strict=True)] == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("cuts", CUTS)
def test_mean_squared_error(cuts):
    metric = MeanSquaredError(SCALES)
    for x, x_hat in zip(X.split(cuts), X_HAT.split(cuts), strict=True):
        metric.update(x, x_hat)
    error = ((X.double() - X_HAT.double()).numpy() ** 2).sum(-1).mean(0)
    for units, scale in (("raw", 1.0), ("normalised", SCALES.double().numpy() ** 2)):
        got = metric.compute()[units]
        assert got.per_hook == pytest.approx((error * scale).tolist(), rel=1e-5)
        assert got.pooled == pytest.approx((error * scale).sum(), rel=1e-5)


@pytest.mark.parametrize("cuts", CUTS)
def test_cosine_similarity(cuts):
    metric = CosineSimilarity(SCALES)
    for x, x_hat in zip(X.split(cuts), X_HAT.split(cuts), strict=True):
        metric.update(x, x_hat)
    x, x_hat = (at.double().numpy() for at in (X, X_HAT))

    def cosines(a, b):
        return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)

    got = metric.compute()
    assert got.per_hook == pytest.approx(cosines(x, x_hat).mean(0).tolist(), rel=1e-5)
    scale = SCALES.double().numpy()[:, None]
    flat = [(at * scale).reshape(90, -1) for at in (x, x_hat)]
    assert got.pooled == pytest.approx(cosines(*flat).mean(), rel=1e-5)


def test_explained_variance_is_centred_and_streams_with_large_means():
    """A mean 1,000 times the deviation, in many batches, against float64 all at once."""
    x = torch.randn(4000, 2, 5, dtype=torch.float64) + 1000 * torch.rand(2, 5).double()
    x_hat = x + 0.5 * torch.randn(4000, 2, 5).double()
    metric = ExplainedVariance(torch.ones(2))
    for a, b in zip(x.float().split(37), x_hat.float().split(37), strict=True):
        metric.update(a, b)
    total = ((x - x.mean(0)) ** 2).sum((0, 2))
    expected = 1 - ((x - x_hat) ** 2).sum((0, 2)) / total
    assert metric.compute()[0] == pytest.approx(expected.tolist(), abs=5e-3)


def test_dense_latents_and_figures_per_hook_point():
    codes = torch.zeros(100, 5)
    codes[:10, 0] = 1.0  # exactly a tenth: not dense
    codes[:11, 1] = 1.0
    codes[:, 2] = -1.0
    codes[3, 3] = 0.5
    metric = LatentActivity(5)
    for part in codes.split(30):
        metric.update(part)
    assert metric.figures() == ActivityFigures(l0=1.22, n_dead=1, n_dense=2, n_latents=5)
    assert metric.density.tolist() == pytest.approx([0.1, 0.11, 1.0, 0.01, 0.0])
    sae = training_dictionary("linear", d_sae=5, structure="weakly_causal")
    writes = sae.structure.write_mask(sae.W_dec)  # latent 0; 1 and 2; 3 and 4 start at 0, 1, 2
    assert metric.per_hook(writes) == [
        ActivityFigures(l0=0.1, n_dead=0, n_dense=0, n_latents=1),
        ActivityFigures(l0=1.21, n_dead=0, n_dense=2, n_latents=3),
        ActivityFigures(l0=1.22, n_dead=1, n_dense=2, n_latents=5),
    ]
