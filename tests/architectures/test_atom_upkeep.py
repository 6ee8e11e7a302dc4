"""Norms of atoms and dead latents, every so many steps."""

import pytest
import torch
from sae_lens import TrainingSAE
from sae_lens.saes.sae import TrainStepInput

from sae_lens_poly.errors import InputError

DEAD = [3, 11, 20]


def training(**options):
    torch.manual_seed(0)
    fields = {"architecture": "write_sae", "d_in": 30, "d_sae": 24, "d_k": 6, "k": 4, **options}
    return TrainingSAE.from_dict(fields)


def step(sae, x, number):
    dead = torch.zeros(24, dtype=torch.bool)
    dead[DEAD] = True
    sae.training_forward_pass(TrainStepInput(x, {}, dead, number, False))


def test_atoms_get_their_norm_back_when_it_is_due():
    sae, x = training(renormalise_every=5, rank=2), torch.randn(8, 30)
    step(sae, x, 0)
    with torch.no_grad():
        sae.decoder_weights.left.mul_(torch.rand(24, 1, 1, 1) + 1)
    directions = torch.nn.functional.normalize(sae.W_dec.detach(), dim=1)
    for number in (1, 4):
        step(sae, x, number)
        assert sae.decoder_weights.stack_norms().max() > 0.55
    step(sae, x, 5)
    torch.testing.assert_close(sae.decoder_weights.stack_norms(), torch.full((24,), 0.5))
    torch.testing.assert_close(sae.W_dec, directions * 0.5)
    left, right = (f.norm(dim=-1) for f in sae.decoder_weights.parameters())
    torch.testing.assert_close(left, right)


@pytest.mark.parametrize("encoder", ["bilinear", "dense"])
def test_dead_latents_get_the_leading_singular_vectors_of_a_state(encoder):
    sae = training(revive_every=5, encoder=encoder, normalize_hooks=False, b_dec_init="zeros")
    state = torch.randn(6, 5)
    x = state.flatten().expand(8, 30)
    step(sae, x, 0)
    with torch.no_grad():
        sae.b_enc.fill_(0.1)
    enc, dec = sae.W_enc.detach().clone(), sae.W_dec.detach().clone()
    step(sae, x, 5)
    U, _, Vh = torch.linalg.svd(state)
    atom = torch.outer(U[:, 0], Vh[0]).flatten()
    alive = [i for i in range(24) if i not in DEAD]
    norm = 0.2 * enc[:, alive].norm(dim=0).mean()
    for latent in DEAD:
        torch.testing.assert_close(sae.W_dec[latent], 0.5 * atom)
        torch.testing.assert_close(sae.W_enc[:, latent], norm * atom)
    torch.testing.assert_close(sae.b_enc[DEAD], torch.zeros(3))
    torch.testing.assert_close(sae.W_dec[alive], dec[alive])
    torch.testing.assert_close(sae.W_enc[:, alive], enc[:, alive])
    assert bool((sae.b_enc[alive] == 0.1).all())


def test_wrong_numbers_are_refused():
    with pytest.raises(InputError, match="revive_every=-1"):
        training(revive_every=-1)
