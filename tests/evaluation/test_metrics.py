"""Streaming metrics equal the same figure from all data at once, however it is cut."""

import pytest
import torch

from sae_lens_poly.evaluation.metrics import (
    DegreeShares,
    ExplainedVariance,
    LatentActivity,
    SpliceLoss,
)

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


def test_splice_loss():
    metric = SpliceLoss()
    metric.update(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 2.0]), torch.tensor([5.0, 5.0]))
    metric.update(torch.tensor([3.0]), torch.tensor([5.0]), torch.tensor([8.0]))
    recovered, loss = metric.compute()
    assert loss == pytest.approx(3.0)
    assert recovered == pytest.approx((6 - 3) / (6 - 2))
