"""Wasserstein distances of latents between classes."""

import pytest
import torch
from scipy.stats import wasserstein_distance

from sae_lens_poly.evaluation.wasserstein import class_separation, wasserstein_distances


def samples(n_a=70, n_b=45, n_latents=9):
    torch.manual_seed(0)
    a = torch.randn(n_a, n_latents).relu()
    b = (torch.randn(n_b, n_latents) * 2 + 0.3).relu()
    a[:, 0] = b[:, 0] = 0
    return a, b


def test_is_scipys_of_every_latent():
    a, b = samples()
    expected = [wasserstein_distance(a[:, j].numpy(), b[:, j].numpy()) for j in range(9)]
    torch.testing.assert_close(wasserstein_distances(a, b), torch.tensor(expected).float())


def test_only_the_published_figure_moves_with_the_scale_of_latents():
    a, b = samples()
    norms = torch.rand(9) + 0.5
    factor = torch.logspace(-2, 2, 9)
    one = class_separation(a, b, norms)
    other = class_separation(a * factor, b * factor, norms / factor)
    assert one.n_live == other.n_live == 8
    assert one.by_decoder_norm == pytest.approx(other.by_decoder_norm, rel=1e-4)
    assert one.by_standard_deviation == pytest.approx(other.by_standard_deviation, rel=1e-4)
    assert one.as_published != pytest.approx(other.as_published, rel=0.1)


def test_equal_samples_are_not_apart():
    a, _ = samples()
    assert wasserstein_distances(a, a[torch.randperm(len(a))]).abs().max() < 1e-6
