"""What the selections keep is what SAELens keeps."""

import pytest
import torch
from sae_lens.saes.batchtopk_sae import BatchTopK
from sae_lens.saes.topk_sae import TopK

from sae_lens_poly.architectures.sparsifiers.batch_topk import batch_top_k
from sae_lens_poly.architectures.sparsifiers.top_k import top_k


def scattered(scores, rows, cols):
    out = torch.zeros_like(scores)
    out[rows, cols] = scores[rows, cols].relu()
    return out


CASES = {
    "normal": lambda n, f: torch.randn(n, f),
    "mostly negative": lambda n, f: torch.randn(n, f) - 2.5,
    "nothing positive": lambda n, f: -torch.rand(n, f),
    "latents of very different size": lambda n, f: torch.randn(n, f) * torch.logspace(-3, 3, f),
    "tokens of very different size": lambda n, f: (
        torch.randn(n, f) * torch.logspace(-3, 3, n)[torch.randperm(n), None]
    ),
    "one loud latent": lambda n, f: torch.randn(n, f) + 100 * (torch.arange(f) == 3),
    "first tokens loud": lambda n, f: torch.randn(n, f) + 50 * (torch.arange(n) < 5)[:, None],
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("n", "f", "k"), [(64, 100, 5), (512, 512, 8), (7, 33, 33), (300, 2048, 0.5)]
)
def test_batch_top_k_is_saelens(case, n, f, k):
    torch.manual_seed(0)
    scores = CASES[case](n, f)
    rows, cols = batch_top_k(scores, int(k * n))
    torch.testing.assert_close(scattered(scores, rows, cols), BatchTopK(k)(scores), rtol=0, atol=0)
    positions = rows * f + cols
    assert torch.equal(positions, positions.sort().values)


def test_top_k_is_saelens():
    scores = torch.randn(50, 200)
    rows, cols = top_k(scores, 7)
    expected = TopK(7, use_sparse_activations=False)(scores)
    torch.testing.assert_close(scattered(scores, rows, cols), expected, rtol=0, atol=0)


def test_ties_keep_the_number():
    rows, _ = batch_top_k(torch.ones(20, 30), 77)
    assert len(rows) == 77
