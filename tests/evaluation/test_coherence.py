"""Functional coherence where the truth is known."""

import pytest
import torch

from sae_lens_poly.evaluation.coherence import FunctionalCoherence, decoder_coherence
from tests.architectures.dictionaries import training_dictionary

L, D, F = 3, 8, 6


@pytest.mark.parametrize("subtract", [True, False])
@torch.no_grad()
def test_one_hook_point_scores_1_and_all_alike_score_l(subtract):
    """Latents 0 to 2 read one hook point each, 3 to 5 all alike; the last is never active."""
    sae = training_dictionary("linear", d_sae=F, k=2, apply_b_dec_to_input=subtract).to_inference()
    directions = torch.linalg.qr(torch.randn(D, D))[0][:F]
    sae.W_enc.zero_()
    for j in range(F):
        reads = [j] if j < 3 else range(L)
        for hook in reads:
            sae.W_enc.view(L, D, F)[hook, :, j] = directions[j] / len(reads)
    sae.b_enc[5] = -100.0
    sae.threshold.fill_(0.01)
    z = torch.rand(400, F) + 0.1
    x = (z @ directions)[:, None].expand(-1, L, -1).flatten(1)
    coherence = FunctionalCoherence(sae)
    for batch in x.split(150):
        coherence.update(batch)
    measured = coherence.compute()
    expected = torch.tensor([1.0] * 3 + [L] * 2)
    for values in (measured.selected, measured.pre_activation):
        torch.testing.assert_close(values[:5].float(), expected, rtol=0.05, atol=0)
        assert values[5].isnan()
    selected, before = measured.mean()
    assert selected == pytest.approx(before, rel=0.01) == pytest.approx(1.8, rel=0.01)


@torch.no_grad()
def test_a_latent_below_its_threshold_has_changed_by_all_of_it():
    sae = training_dictionary("linear", d_sae=2, k=1).to_inference()
    sae.b_dec.zero_()
    sae.W_enc.zero_()
    shares = torch.tensor([0.6, 0.3, 0.1])
    sae.W_enc.view(L, D, 2)[:, 0, 0] = shares
    sae.threshold.fill_(0.5)
    x = torch.zeros(10, L, D)
    x[..., 0] = 1.0
    coherence = FunctionalCoherence(sae)
    coherence.update(x.flatten(1))
    measured = coherence.compute()
    assert measured.pre_activation[0] == pytest.approx(1 / 0.6)
    assert measured.selected[0] == pytest.approx((1 + 0.3 + 0.1) / 1)


def test_decoder_side():
    norms = torch.tensor([[2.0, 0.0, 0.0], [1.0, 1.0, 1.0], [2.0, 1.0, 0.0]])
    torch.testing.assert_close(decoder_coherence(norms), torch.tensor([1.0, 3.0, 1.5]))


@torch.no_grad()
def test_a_raw_zero_is_not_the_zero_of_the_encoder():
    """One hook point of two has a large mean; the latent reads the variation of both alike."""
    sae = training_dictionary("linear", d_sae=2, k=1, apply_b_dec_to_input=True).to_inference()
    sae.W_enc.zero_()
    sae.W_enc.view(L, D, 2)[:2, 0, 0] = 1.0
    sae.threshold.fill_(0.01)
    sae.b_dec.zero_()
    sae.b_dec.view(L, D)[1, 0] = 3.0
    x = torch.zeros(10, L, D)
    x[:, 0, 0], x[:, 1, 0] = 1.0, 3.0 + 1.0
    centred, raw = FunctionalCoherence(sae), FunctionalCoherence(sae, raw=True)
    centred.update(x.flatten(1))
    raw.update(x.flatten(1))
    assert centred.compute().pre_activation[0] == pytest.approx((0.5 + 0.5) / 0.5)
    # 1 + (4 - 3) = 2 without the second hook point is 1 - 3 = -2: a change of 4 / 2.
    assert raw.compute().pre_activation[0] == pytest.approx((0.5 + 2.0) / 2.0)
