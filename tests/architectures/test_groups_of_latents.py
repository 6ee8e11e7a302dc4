"""Groups of latents that read and write some hook points: the same as dense masked products."""

import pytest
import torch

from sae_lens_poly.architectures.crosscoders.hook_structure import runs_of
from tests.architectures.dictionaries import D_MODEL, activations, randomise, training_dictionary

STRUCTURES = {
    "side by side": ("0;1;2", "0;1;2"),
    "with a gap": ("0,2;1", "1;0,2"),
    "overlapping": ("0..1;all;2", "1..2;0;all"),
    "not written": ("all;0", "1;1..2"),
}
DECODERS = ["linear", "interactions", "powers"]


@pytest.mark.parametrize(
    ("hooks", "runs"),
    [((0,), [(0, 1)]), ((0, 1, 2), [(0, 3)]), ((0, 2, 3, 6), [(0, 1), (2, 4), (6, 7)]), ((), [])],
)
def test_runs(hooks, runs):
    assert [(run.start, run.stop) for run in runs_of(hooks)] == runs


@pytest.mark.parametrize("shape", [(60,), (12, 5)])
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("sets", STRUCTURES)
def test_is_the_masked_product(sets, decoder, shape):
    reads, writes = STRUCTURES[sets]
    sae = training_dictionary(
        decoder, structure="free", reads=reads, writes=writes, dtype="float64"
    )
    sae.initialise_from_batch_(activations(dtype=torch.float64))
    # Also where a latent does not read or write: those weights must not count.
    sae = randomise(sae).to_inference()
    randomly = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for W in (sae.W_enc, sae.W_dec):
            W.copy_(torch.randn(W.shape, generator=randomly).double())
    x = activations(60, dtype=torch.float64).view(*shape, -1)
    read = sae.structure.read_mask(sae.W_enc).repeat_interleave(D_MODEL, dim=1).T
    write = sae.structure.write_mask(sae.W_dec).repeat_interleave(D_MODEL, dim=1)
    centred = sae.centred(x)
    pre = sae.pre_activations(centred)
    torch.testing.assert_close(pre, centred @ (sae.W_enc * read) + sae.b_enc)
    z = sae.encode(x)
    terms = sae.degree_terms(z)
    torch.testing.assert_close(terms[1], z @ (sae.W_dec * write))
    torch.testing.assert_close(sae.decode(z), sum(terms.values()) + sae.b_dec)
    (pre.square().sum() + terms[1].square().sum()).backward()
    assert (sae.W_enc.grad[read == 0] == 0).all()
    assert (sae.W_dec.grad[write == 0] == 0).all()
    assert sae.W_enc.grad[read == 1].abs().min() > 0
