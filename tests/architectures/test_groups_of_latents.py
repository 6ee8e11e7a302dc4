"""Groups of latents that read and write some hook points: the same as dense masked products."""

import pytest
import torch

from tests.architectures.dictionaries import (
    D_MODEL,
    D_SAE,
    N_HOOKS,
    activations,
    randomise,
    training_dictionary,
)

STRUCTURES = {
    "side by side": ("0;1;2", "0;1;2"),
    "with a gap": ("0,2;1", "1;0,2"),
    "overlapping": ("0..1;all;2", "1..2;0;all"),
    "not written": ("all;0", "1;1..2"),
}
DECODERS = ["linear", "interactions", "powers"]


@pytest.mark.parametrize("shape", [(60,), (12, 5)])
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("sets", STRUCTURES)
def test_is_the_masked_product(sets, decoder, shape):
    reads, writes = STRUCTURES[sets]
    sae = training_dictionary(
        decoder, structure="free", reads=reads, writes=writes, dtype="float64"
    )
    sae.initialise_from_batch_(activations(dtype=torch.float64))
    sae = randomise(sae).to_inference()
    x = activations(60, dtype=torch.float64).view(*shape, -1)
    read, write = (
        torch.zeros(D_SAE, N_HOOKS, dtype=torch.bool).repeat_interleave(D_MODEL, dim=1)
        for _ in range(2)
    )
    for group in sae.structure.groups:
        for mask, hooks in ((read, group.reads), (write, group.writes)):
            for hook in hooks:
                mask[group.latents, hook * D_MODEL : (hook + 1) * D_MODEL] = True
    W_enc, W_dec = sae.W_enc.detach(), sae.W_dec.detach()
    assert ((W_enc.T != 0) == read).all()
    assert ((W_dec != 0) == write).all()
    n_stored = sum(p.numel() for p in sae.encoder_weights.parameters())
    assert n_stored == read.sum(), "weights that no latent reads are not stored"
    pre = sae.pre_activations(x)
    centred = x - sae.b_dec
    torch.testing.assert_close(pre, centred @ W_enc + sae.b_enc)
    z = sae.encode(x)
    terms = sae.degree_terms(z)
    torch.testing.assert_close(terms[1], z @ W_dec)
    torch.testing.assert_close(sae.decode(z), sum(terms.values()) + sae.b_dec)
    norms = W_dec.view(D_SAE, N_HOOKS, D_MODEL).norm(dim=-1)
    torch.testing.assert_close(sae.decoder_norms(), norms)
    some = torch.tensor([D_SAE - 1, 0, 3])
    assert torch.equal(sae.encoder_weights.vectors(some), W_enc.T[some])
