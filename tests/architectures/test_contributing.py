"""The examples of CONTRIBUTING.md: each is one new class, and the rest of the package takes it."""

import re
from pathlib import Path

import pytest
import torch
from sae_lens import SAE, TrainingSAE

from sae_lens_poly.architectures.decoders import TERMS
from sae_lens_poly.architectures.encoders import SCORES
from sae_lens_poly.architectures.sparsifiers import SPARSIFIERS
from sae_lens_poly.errors import InputError
from tests.architectures.dictionaries import (
    D_SAE,
    activations,
    step_input,
    train,
    training_dictionary,
)
from tests.architectures.poly_saes import poly_sae

K = 8
PAGE = Path(__file__).parents[2] / "CONTRIBUTING.md"
EXAMPLES = {
    "groupmax": {"sparsifier": "groupmax", "k": K},
    "sinusoid": {"variant": "degree 2", "decoder": "sinusoid"},
    "tempered": {"encoder_score": "tempered", "normalize_hooks": False},
}


@pytest.fixture(autouse=True)
def registered():
    """What the page enters is taken out again."""
    before = [dict(registry) for registry in (SPARSIFIERS, TERMS, SCORES)]
    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(code, {"__name__": "example"})
    yield
    for registry, entries in zip((SPARSIFIERS, TERMS, SCORES), before, strict=True):
        registry.clear()
        registry.update(entries)


def make(name, **changes):
    return training_dictionary(**{"variant": "linear", **EXAMPLES[name], **changes})


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_trains_is_saved_and_exported(name, tmp_path):
    sae = make(name)
    x = activations()
    sae.initialise_from_batch_(x)
    before = sae.training_forward_pass(step_input(x, 0)).losses["mse_loss"].item()
    train(sae, steps=30, x=x)
    assert sae.training_forward_pass(step_input(x, 1)).losses["mse_loss"].item() < before
    sae.eval()
    with torch.no_grad():
        sae.save_model(tmp_path / "training")
        again = TrainingSAE.load_from_disk(tmp_path / "training")
        torch.testing.assert_close(again(x), sae(x))
        sae.save_inference_model(tmp_path / "inference")
        loaded = SAE.load_from_disk(tmp_path / "inference")
        pre, exported = sae.encode_with_hidden_pre(x)[1], loaded.pre_activations(x)
        torch.testing.assert_close(exported, pre, rtol=1e-4, atol=1e-3)
        z = sae.encode(x)
        torch.testing.assert_close(loaded.decode(z), sae.decode(z), rtol=1e-4, atol=1e-2)
        if name == "groupmax":
            torch.testing.assert_close(loaded.encode(x), z, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", EXAMPLES)
def test_sparse_and_dense_steps_agree(name):
    outputs = []
    for sparse in (True, False):
        torch.manual_seed(0)
        sae = make(name, use_sparse_activations=sparse, dtype="float64")
        x = activations(64, dtype=torch.float64)
        sae.initialise_from_batch_(x)
        output = sae.training_forward_pass(step_input(x, 1))
        output.loss.backward()
        codes = output.feature_acts
        assert codes.is_sparse == sparse
        codes = codes.to_dense() if sparse else codes
        outputs.append([output.loss, codes, *(p.grad for p in sae.parameters())])
    for a, b in zip(*outputs, strict=True):
        torch.testing.assert_close(a, b)


def test_scales_that_cannot_be_folded_are_refused():
    with pytest.raises(InputError, match="normalize_hooks=False"):
        make("tempered", normalize_hooks=True)


def test_groups_have_one_active_latent_at_most():
    sae = make("groupmax")
    codes = sae.encode(activations())
    assert (codes.unflatten(-1, (K, D_SAE // K)) > 0).sum(dim=-1).max() == 1


def test_a_term_serves_saes_and_causal_structures_as_well():
    sae = poly_sae("poly_matryoshka_batchtopk", decoder="sinusoid", degree=2)
    z = sae.encode(torch.randn(8, 12))
    assert sae.degree_terms(z).keys() == {1, 2}
    causal = make("sinusoid", structure="weakly_causal")
    train(causal, steps=3)
