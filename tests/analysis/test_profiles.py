"""Profiles of latents where the truth is planted."""

import numpy as np
import pytest
import torch

from sae_lens_poly import InputError
from sae_lens_poly.analysis.profiles import decoder_profile, direction_cosines
from tests.architectures.dictionaries import D_MODEL, N_HOOKS, training_dictionary

SCALES = [1.0, 0.1, 0.01]


def planted():
    """Latent 0 at the first hook point, 1 at all alike, 2 at the last two, 3 nowhere."""
    sae = training_dictionary("linear", d_sae=4, k=2).to_inference()
    sae.cfg.metadata.hook_scales = SCALES
    norms = torch.tensor([[3.0, 0, 0], [1, 1, 1], [0, 1, 2], [0, 0, 0]]) / torch.tensor(SCALES)
    directions = torch.zeros(4, N_HOOKS, D_MODEL)
    directions[..., 0] = 1
    # Latent 1 turns by 60 degrees from one hook point to the next.
    for hook in range(N_HOOKS):
        angle = hook * np.pi / 3
        directions[1, hook, :2] = torch.tensor([np.cos(angle), np.sin(angle)])
    with torch.no_grad():
        sae.W_dec.copy_((directions * norms[..., None]).flatten(1))
    return sae


def test_profile():
    found = decoder_profile(planted())
    expected = torch.tensor([[1.0, 0, 0], [1, 1, 1], [0, 0.5, 1]])
    torch.testing.assert_close(found.profile[:3], expected)
    torch.testing.assert_close(found.centre[:3], torch.tensor([0.0, 1.0, 2.5 / 1.5]))
    torch.testing.assert_close(found.n_effective[:3], torch.tensor([1.0, 3.0, 1.5]))
    for values in (found.profile[3], found.centre[3], found.n_effective[3]):
        assert values.isnan().all()


def test_cosines():
    found = direction_cosines(planted())
    torch.testing.assert_close(found.mean.diag(), torch.ones(3))
    assert found.mean[0, 1] == pytest.approx(0.5)
    assert found.mean[0, 2] == pytest.approx(-0.5)
    assert found.mean[1, 2] == pytest.approx((0.5 + 1) / 2)
    nan = torch.nan
    expected = torch.tensor([[nan, nan], [0.5, 0.5], [nan, 1.0], [nan, nan]])
    torch.testing.assert_close(found.neighbours, expected, equal_nan=True)
    live = torch.tensor([True, True, False, False])
    assert direction_cosines(planted(), live).mean[1, 2] == pytest.approx(0.5)
    assert direction_cosines(planted(), live).neighbours[2].isnan().all()


@pytest.mark.parametrize("weights", ["dense", "cp"])
def test_what_is_not_written_is_left_out(weights):
    ranks = {} if weights == "dense" else {"decoder_weights": "cp", "decoder_ranks": [6]}
    sae = training_dictionary("linear", structure="strictly_causal", **ranks)
    profile, cosines = decoder_profile(sae), direction_cosines(sae)
    assert profile.profile.shape == (sae.cfg.d_sae, 2)
    second = sae.structure.groups[1]
    assert (profile.profile[second.latents] == torch.tensor([0.0, 1.0])).all()
    assert cosines.neighbours[second.latents].isnan().all()
    W = sae.W_dec_per_hook.detach().double().numpy()[sae.structure.groups[0].latents]
    dots = (W[:, 1] * W[:, 2]).sum(-1)
    expected = dots / np.linalg.norm(W[:, 1], axis=-1) / np.linalg.norm(W[:, 2], axis=-1)
    assert cosines.mean[0, 1].item() == pytest.approx(expected.mean(), abs=1e-5)


@pytest.mark.parametrize("live", [torch.ones(4), torch.ones(3).bool()])
def test_wrong_live(live):
    with pytest.raises(InputError, match="live"):
        direction_cosines(planted(), live)
