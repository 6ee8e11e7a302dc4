"""The ladder finds what was planted, and nothing where nothing was."""

import pytest
import torch

from sae_lens_poly.evaluation.headroom import Samples, frequent_pairs, measure_headroom

D_SAE, D, N_PAIRS = 48, 24, 12


def planted(strength, seed=0, n=9000):
    """Codes, targets, and the error of the best linear decoder and of the planted one."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=generator)

    active = torch.rand(n, D_SAE, generator=generator) < 0.12
    pairs = torch.arange(2 * N_PAIRS).view(-1, 2)
    together = torch.rand(n, N_PAIRS, generator=generator) < 0.5
    active[:, pairs[:, 1]] |= active[:, pairs[:, 0]] & together
    z = active * (1 + 0.5 * randn(n, D_SAE)).abs() * (1 + torch.arange(D_SAE) % 5)
    W, B = randn(D_SAE, D), strength * randn(N_PAIRS, D)
    u = z / (1 + torch.arange(D_SAE) % 5)
    products = u[:, pairs[:, 0]] * u[:, pairs[:, 1]]
    x = z @ W + products @ B + 0.3 * randn(n, D)
    started = z @ (W + 0.2 * randn(D_SAE, D))
    return z, x, started, products


def split(z, target, above=None):
    parts = []
    for at in (slice(0, 5000), slice(5000, 6000), slice(6000, None)):
        own = None if above is None else above[at]
        parts.append(Samples(z[at].to_sparse_csr(), target[at], own))
    return parts


def truth(features, x):
    """Explained variance of least squares with an intercept on the scored tokens, float64."""
    phi = torch.cat([features, torch.ones(len(features), 1)], dim=1)[6000:].double()
    x = x[6000:].double()
    left = x - phi @ torch.linalg.lstsq(phi, x).solution
    return 1 - (left.square().sum() / (x - x.mean(dim=0)).square().sum()).item()


def found_in(z, x, started, above=None):
    x_scored = x[6000:].double()
    variance = (x_scored - x_scored.mean(dim=0)).square().sum().item()
    return measure_headroom(*split(z, x - started, above), variance)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_planted_interactions_are_found(seed):
    z, x, started, products = planted(2.5, seed)
    linear, whole = truth(z, x), truth(torch.cat([z, products], dim=1), x)
    assert whole - linear > 0.02
    headroom = found_in(z, x, started)
    assert headroom.rungs["linear"] == pytest.approx(linear, abs=0.05 * (whole - linear))
    assert headroom.rungs["pairs"] - linear == pytest.approx(whole - linear, rel=0.1)
    assert headroom.gain == pytest.approx(whole - linear, rel=0.1)
    assert headroom.as_trained < headroom.rungs["linear"]
    assert headroom.rungs["curves"] - headroom.rungs["linear"] < 0.3 * (whole - linear)


@pytest.mark.slow
def test_planted_curves_are_found():
    z, x, started, _ = planted(0.0)
    u = z / (1 + torch.arange(D_SAE) % 5)
    x = x + u**2 @ (1.5 * torch.randn(D_SAE, D, generator=torch.Generator().manual_seed(5)))
    linear, whole = truth(z, x), truth(torch.cat([z, u**2], dim=1), x)
    headroom = found_in(z, x, started)
    curves = headroom.rungs["curves"] - headroom.rungs["linear"]
    assert curves == pytest.approx(whole - linear, rel=0.1)
    assert headroom.rungs["pairs"] - headroom.rungs["linear"] < 0.1 * curves


@pytest.mark.slow
def test_our_own_terms_are_measured_beside_a_refitted_linear_decoder():
    z, x, started, products = planted(2.5)
    B = torch.linalg.lstsq(torch.cat([z, products], dim=1), x).solution[D_SAE:]
    half = found_in(z, x, started, products @ B * 0.5)
    whole = found_in(z, x, started, products @ B)
    assert whole.gain_of_ours == pytest.approx(whole.gain, rel=0.1)
    # half of a term takes away three quarters of the squares that it explains
    assert half.gain_of_ours == pytest.approx(0.75 * whole.gain_of_ours, rel=0.1)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_nothing_is_found_where_nothing_interacts(seed):
    z, x, started, _ = planted(0.0, seed)
    before = torch.get_rng_state()
    headroom = found_in(z, x, started)
    assert torch.equal(torch.get_rng_state(), before)
    for name in ("curves", "pairs", "quadratic", "mlp"):
        assert abs(headroom.rungs[name] - headroom.rungs["linear"]) < 0.002
    assert headroom.gain < 0.002


def test_frequent_pairs_are_those_of_a_count():
    z = (torch.rand(200, 9) < 0.4).float()
    counts = {(i, j): int((z[:, i] * z[:, j]).sum()) for i in range(9) for j in range(i + 1, 9)}
    keys = frequent_pairs(z.to_sparse_csr(), 10)
    assert keys.tolist() == sorted(keys.tolist())
    found = sorted((counts[key // 9, key % 9] for key in keys.tolist()), reverse=True)
    assert found == sorted(counts.values(), reverse=True)[:10]


def test_samples_end_to_end():
    z = torch.rand(7, 5) * (torch.rand(7, 5) < 0.5)
    target = torch.rand(7, 3)
    whole = Samples.cat(
        Samples(z[at].to_sparse_csr(), target[at], 2 * target[at])
        for at in (slice(0, 4), slice(4, 7))
    )
    assert torch.equal(whole.z.to_dense(), z)
    assert torch.equal(whole.above, 2 * target)
